//! A stream that hands on nothing but strictly read, canonical HTTP/1.1.
//!
//! hyper reads from a guard instead of the socket, on both sides. What it reads was read before by
//! [`crate::wire`], so that no leniency of its own parser can differ from a neighbour's.

use std::{
    future::Future,
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bulla_host::Stream;
use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use crate::wire::{Asked, Fault, Filter, Limits, Side};

/// Read at most this much at once.
const READ_BYTES: usize = 16 << 10;

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// Between two requests.
    pub idle: Duration,
    /// For the whole of a head, from its first byte.
    pub head: Duration,
    /// Between two pieces of a body.
    pub body: Duration,
}

/// What the stream and its users share.
pub struct Watch {
    filter: Mutex<Filter>,
    waker: Mutex<Option<Waker>>,
    /// Requests that are not answered yet.
    active: AtomicUsize,
    /// Nobody was identified on this connection yet.
    stranger: AtomicBool,
    /// The connection takes no further request.
    closing: AtomicBool,
    /// A request was answered since somebody looked.
    answered: AtomicBool,
}

impl Watch {
    pub fn new(side: Side, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            filter: Mutex::new(Filter::new(side, limits)),
            waker: Mutex::new(None),
            active: AtomicUsize::new(0),
            stranger: AtomicBool::new(true),
            closing: AtomicBool::new(false),
            answered: AtomicBool::new(false),
        })
    }
    /// Why the connection's input ended, if it was a fault.
    pub fn fault(&self) -> Option<Fault> {
        self.filter.lock().fault()
    }
    /// Answers the upgrade that is pending. Without one nothing happens.
    pub fn upgraded(&self, granted: bool) {
        self.filter.lock().upgraded(granted);
        self.wake();
    }
    pub fn ask(&self, asked: Asked) {
        self.filter.lock().ask(asked);
    }
    /// Somebody is known.
    pub fn known(&self) {
        self.stranger.store(false, Ordering::Relaxed);
    }
    pub fn is_stranger(&self) -> bool {
        self.stranger.load(Ordering::Relaxed)
    }
    /// Idle connections close at once from now on.
    pub fn close_when_idle(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.wake();
    }
    /// Counts a request as under way until the guard drops.
    pub fn busy(self: &Arc<Self>) -> Busy {
        self.active.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }
    fn wake(&self) {
        if let Some(waker) = self.waker.lock().take() {
            waker.wake();
        }
    }
}

/// A request under way.
pub struct Busy(Arc<Watch>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
        self.0.answered.store(true, Ordering::Relaxed);
        self.0.wake();
    }
}

/// What a client is being waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Head,
    Body,
    Free,
}

/// The stream.
pub struct Guard {
    io: Box<dyn Stream>,
    watch: Arc<Watch>,
    out: BytesMut,
    eof: bool,
    /// Something came since the timer was set. Kept over calls: a reader that was busy elsewhere
    /// is not the client's delay.
    moved: bool,
    deadlines: Option<Deadlines>,
    phase: Phase,
    /// When the client's patience is at its end; the timer may go off before, and is set anew then.
    due: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Guard {
    /// `deadlines`: none where the reader keeps its own.
    pub fn new(io: Box<dyn Stream>, watch: Arc<Watch>, deadlines: Option<Deadlines>) -> Self {
        let first = deadlines.map_or(Duration::from_secs(3600), |deadlines| deadlines.head);
        Self {
            io,
            watch,
            out: BytesMut::new(),
            eof: false,
            moved: false,
            deadlines,
            phase: Phase::Idle,
            due: Instant::now() + first,
            timer: Box::pin(tokio::time::sleep(first)),
        }
    }

    fn phase(&self) -> Phase {
        let filter = self.watch.filter.lock();
        if filter.is_free() {
            Phase::Free
        } else if filter.is_idle() {
            Phase::Idle
        } else if filter.is_in_head() {
            Phase::Head
        } else {
            Phase::Body
        }
    }

    fn time(&self, phase: Phase) -> Duration {
        let Some(deadlines) = &self.deadlines else { return Duration::from_secs(3600) };
        match phase {
            // Who has not said who it is gets the time for one request.
            Phase::Idle if self.watch.is_stranger() => deadlines.head,
            Phase::Idle => deadlines.idle,
            Phase::Head => deadlines.head,
            Phase::Body => deadlines.body,
            Phase::Free => Duration::from_secs(3600),
        }
    }

    /// The client sends nothing: how long may that go on? Ready when it is over.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.deadlines.is_none() {
            return Poll::Pending;
        }
        let phase = self.phase();
        let idle = phase == Phase::Idle;
        if idle && self.watch.closing.load(Ordering::Relaxed) && self.watch.active() == 0 {
            return Poll::Ready(());
        }
        // A request that came, and one that was answered, begin the wait for the next one. Bytes of a
        // head do not buy more time for it.
        self.moved |= self.watch.answered.swap(false, Ordering::Relaxed);
        if phase != self.phase || (self.moved && phase != Phase::Head) {
            self.moved = false;
            self.phase = phase;
            self.due = Instant::now() + self.time(phase);
            if self.timer.deadline() > self.due {
                self.timer.as_mut().reset(self.due);
            }
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if now >= self.due {
                // A client that waits for its answer is not idle.
                if phase != Phase::Free && !(idle && self.watch.active() > 0) {
                    return Poll::Ready(());
                }
                self.due = now + self.time(phase);
            }
            self.timer.as_mut().reset(self.due);
        }
        Poll::Pending
    }

    fn fill(&mut self, input: &[u8]) {
        let mut filter = self.watch.filter.lock();
        filter.push(input, self.eof, &mut self.out);
    }
}

impl AsyncRead for Guard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        {
            let mut waker = this.watch.waker.lock();
            if waker.as_ref().is_none_or(|own| !own.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
        }
        // On the stack, so that ten thousand idle connections hold no buffers.
        let mut buffer = [MaybeUninit::<u8>::uninit(); READ_BYTES];
        loop {
            let mut read = ReadBuf::uninit(&mut buffer);
            if !this.out.is_empty() {
                let n = this.out.len().min(buf.remaining());
                buf.put_slice(&this.out.split_to(n));
                return Poll::Ready(Ok(()));
            }
            if let Some(fault) = this.watch.fault() {
                // Toward a client the fault was put in words before; toward hyper's client it is
                // an error, so that no part of an answer passes for a whole one.
                if this.deadlines.is_none() {
                    return Poll::Ready(Err(io::Error::other(fault.why)));
                }
                if !this.watch.filter.lock().stood_in() {
                    return Poll::Ready(Ok(()));
                }
                // The answer to the stand-in ends the connection. What still comes is thrown away,
                // so that the answer is not lost with it.
                match Pin::new(&mut this.io).poll_read(cx, &mut read) {
                    Poll::Ready(Ok(())) if !read.filled().is_empty() => continue,
                    _ => return Poll::Pending,
                }
            }
            if this.eof {
                return Poll::Ready(Ok(()));
            }
            // An upgrade was answered: what waited may go on.
            this.fill(&[]);
            if !this.out.is_empty() || this.watch.fault().is_some() {
                continue;
            }
            if this.watch.filter.lock().is_paused() {
                return Poll::Pending;
            }
            let passes = this.watch.filter.lock().passes();
            let polled = match passes {
                _ if buf.remaining() == 0 => return Poll::Ready(Ok(())),
                0 => Pin::new(&mut this.io).poll_read(cx, &mut read),
                // Within a body nothing is to be read: it goes on without being copied.
                left => {
                    let before = buf.filled().len();
                    let mut within = (&mut this.io).take(left);
                    let polled = Pin::new(&mut within).poll_read(cx, buf);
                    let n = buf.filled().len() - before;
                    if n > 0 {
                        this.watch.filter.lock().passed(n as u64);
                        this.moved = true;
                        return Poll::Ready(Ok(()));
                    }
                    polled
                }
            };
            match polled {
                Poll::Ready(Ok(())) => {
                    this.eof = read.filled().is_empty();
                    this.fill(read.filled());
                    this.moved = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => match this.poll_patience(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) if this.phase == Phase::Idle => this.eof = true,
                    Poll::Ready(()) => {
                        let why = "the request took too long to arrive";
                        let mut filter = this.watch.filter.lock();
                        filter.fail(Fault { status: 408, why }, &mut this.out);
                    }
                },
            }
        }
    }
}

impl AsyncWrite for Guard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
