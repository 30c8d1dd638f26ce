//! A connection of HTTP/1.1 of a client, driven by one task: a request is read where its answer is
//! made, and what the record holds of an answer is, byte for byte, what is written.
//!
//! A library's server has a parser of its own behind ours, and writes an answer in a form of its
//! own. Here [`crate::wire`] is the only reader, one request at a time: what comes behind it waits.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bulla_gate::ToClient;
use bulla_host::Stream;
use bytes::{Bytes, BytesMut};
use hyper::body::Body as _;
use parking_lot::Mutex;
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use crate::{
    alarm::Alarm,
    answer::Reply,
    flow::Flow,
    line::{LineError, Source},
    pipe::{PIECE_BYTES, Pipe},
    serve::{Conn, stopping},
    watch::{Deadlines, Watch},
    wire::{Fault, Filter, Limits, RequestHead, Side, lists},
};

/// Read ahead while an answer is awaited; who sends more is not heard leaving.
const AHEAD_BYTES_MAX: usize = 16 << 10;
/// Of an answer, waiting to be written.
const OUT_BYTES_MAX: usize = 256 << 10;
/// Most that is thrown away of what a client still sends when its last answer is written.
const WASTE_BYTES_MAX: usize = 1 << 20;
const PARTING: Duration = Duration::from_secs(2);
/// RFC 9110 15.2.1: the client may send its body.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What a client is being waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Head,
    Body,
    Answer,
}

/// The connection, as its driver and the body of its request share it.
pub struct Near {
    pipe: Pipe,
    watch: Arc<Watch>,
    deadlines: Deadlines,
    phase: Phase,
    /// Something came, or went, since the time was set. Kept over calls: a reader that was busy
    /// elsewhere is not the client's delay.
    moved: bool,
    /// When our patience is at its end.
    due: Instant,
    alarm: Alarm,
    /// The client waits for leave to send the body.
    reluctant: bool,
    /// Such leave is being written.
    leave: bool,
    /// Nobody reads the rest of the body.
    unwanted: bool,
    /// Who looks whether the client is gone, once the body is over.
    looks: Option<Waker>,
}

type Shared = Arc<Mutex<Near>>;

impl Near {
    fn new(io: Box<dyn Stream>, watch: Arc<Watch>, deadlines: Deadlines) -> Shared {
        let filter = Filter::new(Side::Requests, Limits::default()).one_by_one();
        Arc::new(Mutex::new(Self {
            pipe: Pipe::new(io, filter),
            watch,
            deadlines,
            phase: Phase::Idle,
            moved: true,
            due: Instant::now() + deadlines.head,
            alarm: Alarm::default(),
            reluctant: false,
            leave: false,
            unwanted: false,
            looks: None,
        }))
    }

    fn time(&self, phase: Phase) -> Duration {
        match phase {
            // Who has not said who it is gets the time for one request.
            Phase::Idle if self.watch.is_stranger() => self.deadlines.head,
            Phase::Idle | Phase::Answer => self.deadlines.idle,
            Phase::Head => self.deadlines.head,
            Phase::Body => self.deadlines.body,
        }
    }

    /// The client does nothing: how long may that go on? Ready when it is over.
    fn poll_patience(&mut self, cx: &mut Context<'_>, phase: Phase) -> Poll<()> {
        // Bytes of a head do not buy more time for it.
        if phase != self.phase || (self.moved && phase != Phase::Head) {
            self.moved = false;
            self.phase = phase;
            self.due = Instant::now() + self.time(phase);
        }
        self.alarm.poll(cx, self.due)
    }

    /// The request took too long: a fault like every other.
    fn late(&mut self) {
        let why = "the request took too long to arrive";
        self.pipe.filter.fail(Fault { status: 408, why });
    }

    /// Whether nothing of the request's body is left.
    fn is_over(&self) -> bool {
        self.pipe.came.over && self.pipe.came.body.is_empty()
    }

    /// Goes on behind the last request.
    fn next(&mut self) {
        (self.reluctant, self.unwanted, self.moved) = (false, false, true);
        self.looks = None;
        self.phase = Phase::Idle;
        // What nobody took of the last body is of no other request.
        self.pipe.came.body.clear();
        self.pipe.came.over = false;
        self.pipe.filter.next(&mut self.pipe.came);
    }

    /// The next request's head. None: there is none, and nothing is to be said about it.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        closing: bool,
    ) -> Poll<Option<Result<RequestHead, Fault>>> {
        loop {
            if let Some(head) = self.pipe.came.request.take() {
                self.reluctant = head.headers.get("expect").is_some() && !head.http_10;
                // What follows it is no body.
                self.pipe.came.over |= head.upgrade;
                return Poll::Ready(Some(Ok(head)));
            }
            if let Some(fault) = self.pipe.filter.fault() {
                self.watch.broke(fault);
                return Poll::Ready(Some(Err(fault)));
            }
            let idle = self.pipe.filter.is_idle();
            if self.pipe.eof || (closing && idle) {
                return Poll::Ready(None);
            }
            match self.pipe.poll_read(cx, None) {
                Poll::Ready(Ok(())) => self.moved = true,
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Pending => {
                    let phase = if idle { Phase::Idle } else { Phase::Head };
                    ready!(self.poll_patience(cx, phase));
                    if idle {
                        return Poll::Ready(None);
                    }
                    self.late();
                }
            }
        }
    }

    /// What there is of the body of the request.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, LineError>>> {
        let none_yet = !self.pipe.came.over && self.pipe.came.body.is_empty();
        if std::mem::take(&mut self.reluctant) && none_yet {
            self.pipe.out.push(Bytes::from_static(CONTINUE));
            self.leave = true;
        }
        if self.leave
            && let Poll::Ready(written) = self.pipe.poll_out(cx)
        {
            self.leave = false;
            written?;
        }
        while !self.pipe.came.over && self.pipe.came.body.len() < PIECE_BYTES {
            if let Some(fault) = self.pipe.filter.fault() {
                self.watch.broke(fault);
                return Poll::Ready(Some(Err(LineError::Fault(fault))));
            }
            match self.pipe.poll_read(cx, None) {
                Poll::Ready(Ok(())) => self.moved = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Pending if !self.pipe.came.body.is_empty() => break,
                Poll::Pending => {
                    ready!(self.poll_patience(cx, Phase::Body));
                    self.late();
                }
            }
        }
        if self.pipe.came.over
            && let Some(looks) = self.looks.take()
        {
            looks.wake();
        }
        if self.pipe.came.body.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(self.pipe.came.body.split().freeze())))
    }

    /// The client leaves while its answer is awaited.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let filter = &self.pipe.filter;
            if self.pipe.eof {
                return Poll::Ready(());
            }
            // Of a body that goes on, whoever reads it hears that.
            let waits = filter.is_held() || filter.is_paused();
            if !waits {
                self.looks = Some(cx.waker().clone());
                return Poll::Pending;
            }
            if filter.unread() > AHEAD_BYTES_MAX {
                return Poll::Pending;
            }
            if ready!(self.pipe.poll_read(cx, None)).is_err() {
                return Poll::Ready(());
            }
        }
    }

    /// Writes what waits. An error: the client is gone, or takes nothing.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let before = self.pipe.out.bytes();
        let polled = self.pipe.poll_out(cx);
        self.leave &= polled.is_pending();
        self.moved |= self.pipe.out.bytes() < before;
        if polled.is_pending() {
            ready!(self.poll_patience(cx, Phase::Answer));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

/// The body of a client's request.
pub struct NearBody(Shared);

impl NearBody {
    pub fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, LineError>>> {
        self.0.lock().poll_body(cx)
    }
    pub fn is_over(&self) -> bool {
        self.0.lock().is_over()
    }
}

impl Drop for NearBody {
    fn drop(&mut self) {
        self.0.lock().unwanted = true;
    }
}

/// What follows a request that asked for an upgrade, once that was granted.
pub struct Rest {
    /// Came with it.
    pub ahead: BytesMut,
    pub io: Box<dyn Stream>,
}

/// Where it comes from.
pub type Upgraded = oneshot::Receiver<Rest>;

/// How a connection goes on after a request.
enum Then {
    Next,
    /// It ends, and the client is told.
    Ends,
    /// The client is gone, or its answer was cut short: it must not look whole.
    Cut,
    /// It is no HTTP any more.
    Upgraded,
}

/// Serves a connection to its end.
pub async fn serve(conn: Arc<Conn>, io: Box<dyn Stream>, draining: watch::Receiver<bool>) {
    let near = Near::new(io, conn.watch.clone(), conn.deadlines());
    let mut stop = pin!(stopping(draining.clone()));
    // Who is told once the gateway stops, so that it need not be asked again.
    let mut told: Option<Waker> = None;
    loop {
        let head = poll_fn(|cx| {
            let closing = *draining.borrow();
            let polled = near.lock().poll_head(cx, closing);
            let is_told = told.as_ref().is_some_and(|told| told.will_wake(cx.waker()));
            if polled.is_ready() || closing || is_told {
                return polled;
            }
            told = Some(cx.waker().clone());
            match stop.as_mut().poll(cx) {
                Poll::Pending => polled,
                Poll::Ready(()) => near.lock().poll_head(cx, true),
            }
        });
        let then = match head.await {
            None => Then::Ends,
            Some(head) => one(&conn, &near, head, &draining).await,
        };
        match then {
            Then::Next => near.lock().next(),
            Then::Ends => return part(&near).await,
            Then::Cut | Then::Upgraded => return,
        }
    }
}

/// One request: its answer is made and written.
async fn one(
    conn: &Arc<Conn>,
    near: &Shared,
    head: Result<RequestHead, Fault>,
    draining: &watch::Receiver<bool>,
) -> Then {
    let mut asked = Asked { last: true, no_body: false, upgrade: None };
    let reply = match head {
        Err(fault) => conn.broken(fault),
        Ok(head) => {
            asked.last = head.http_10 || lists(&head.headers, "connection", "close");
            asked.no_body = head.method == "HEAD";
            let (tell, upgraded) = oneshot::channel();
            let upgraded = head.upgrade.then_some(upgraded);
            asked.upgrade = head.upgrade.then_some(tell);
            let bodied = !near.lock().is_over();
            let body = bodied.then(|| Source::Near(NearBody(near.clone())));
            let mut answering = pin!(conn.clone().answer_one(head, body, upgraded));
            let reply = poll_fn(|cx| match answering.as_mut().poll(cx) {
                Poll::Ready(reply) => Poll::Ready(Some(reply)),
                Poll::Pending => near.lock().poll_gone(cx).map(|()| None),
            });
            let Some(reply) = reply.await else { return Then::Cut };
            reply
        }
    };
    asked.last |= *draining.borrow();
    write(near, reply, asked).await
}

/// What a request says about the answer to it.
struct Asked {
    /// No other request follows it.
    last: bool,
    no_body: bool,
    upgrade: Option<oneshot::Sender<Rest>>,
}

async fn write(near: &Shared, reply: Reply, asked: Asked) -> Then {
    let Asked { mut last, no_body, upgrade } = asked;
    let upgraded = reply.status == 101;
    {
        let mut near = near.lock();
        // Nobody knows where the next request would begin.
        last |= near.pipe.filter.fault().is_some() || (!near.pipe.came.over && near.unwanted);
        if !upgraded {
            // Whoever asked for an upgrade and did not get it goes on with HTTP.
            near.pipe.filter.upgraded(false);
        }
        near.reluctant = false;
    }
    let says_last = reply.headers.get("connection") == Some("close");
    let close = last && !says_last && !upgraded;
    last |= says_last;
    let mut flow = start(&mut near.lock(), reply, no_body, close);
    let has_room = || near.lock().pipe.out.bytes() < OUT_BYTES_MAX;
    let mut whole = true;
    let written = poll_fn(|cx| {
        loop {
            let mut waits = false;
            while let Some(body) = flow.as_mut()
                && has_room()
            {
                match Pin::new(body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        let data = frame.into_data().unwrap_or_default();
                        if !no_body {
                            near.lock().pipe.out.push(data);
                        }
                    }
                    Poll::Ready(ended) => {
                        whole &= ended.is_none();
                        flow = None;
                    }
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                }
            }
            match near.lock().poll_out(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(false),
                // Nobody else looks, while nothing more is taken.
                Poll::Pending => {
                    let ended = flow.as_mut().is_some_and(|body| body.poll_ended(cx));
                    return if ended { Poll::Ready(false) } else { Poll::Pending };
                }
            }
            if flow.is_none() {
                return Poll::Ready(whole);
            }
            if waits {
                return near.lock().poll_gone(cx).map(|()| false);
            }
        }
    });
    if !written.await {
        return Then::Cut;
    }
    drop(flow);
    let mut near = near.lock();
    if let Some(tell) = upgrade.filter(|_| upgraded) {
        let ahead = near.pipe.filter.take_rest();
        // If nobody waits for it, it is closed.
        let _ = tell.send(Rest { ahead, io: near.pipe.take_io() });
        return Then::Upgraded;
    }
    if last || !near.pipe.came.over || near.pipe.eof { Then::Ends } else { Then::Next }
}

/// Queues the head of an answer, and as much of its body as came with it.
fn start(near: &mut Near, reply: Reply, no_body: bool, close: bool) -> Option<Box<Flow<ToClient>>> {
    let (head, first, flow) = reply.pieces(no_body);
    let out = &mut near.pipe.out;
    if close {
        // Before the empty line.
        let end = head.len().saturating_sub(2);
        out.push(head.slice(..end));
        out.push(Bytes::from_static(b"connection: close\r\n\r\n"));
    } else {
        out.push(head);
    }
    if !no_body {
        out.push(first);
    }
    flow
}

/// Ends a connection so that its last answer arrives: what the client still sends is thrown away,
/// or it would be told that the connection is broken before it has read the answer.
async fn part(near: &Shared) {
    let parting = poll_fn(|cx| {
        let mut near = near.lock();
        ready!(near.pipe.poll_out(cx))?;
        near.pipe.poll_shutdown(cx)
    });
    let wasting = async {
        if parting.await.is_err() {
            return;
        }
        let over = {
            let near = near.lock();
            near.pipe.eof || (near.pipe.filter.fault().is_none() && near.pipe.filter.is_idle())
        };
        let mut left = if over { 0 } else { WASTE_BYTES_MAX };
        while left > 0 {
            match poll_fn(|cx| near.lock().pipe.poll_waste(cx)).await {
                Ok(n @ 1..) => left = left.saturating_sub(n),
                _ => return,
            }
        }
    };
    let _ = tokio::time::timeout(PARTING, wasting).await;
}

#[cfg(test)]
mod tests;
