//! A connection of HTTP/1.1 to a target, driven by the task of the request that uses it.
//!
//! A library's client has a task of its own for each connection, and a parser of its own behind
//! ours. Here a request is written and its answer read where they are waited for, and what
//! [`crate::wire`] has read strictly is what goes on. Dropped within a message, the connection is
//! closed: nothing of one exchange can be met by the next one.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bulla_gate::ToTarget;
use bulla_host::Stream;
use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use crate::{
    alarm::Alarm,
    fields::Headers,
    flow::{Broken, Flow},
    near::NearBody,
    pipe::{PIECE_BYTES, Pipe},
    target::Pool,
    wire::{Asked, Fault, Filter, Limits, ResponseHead, Side},
};

/// What goes out as a body.
pub type OutBody = Either<Full<Bytes>, Flow<ToTarget>>;

/// Why a connection ended before its exchange.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Fault(Fault),
    #[error("the request's body: {0}")]
    Body(Broken),
    #[error("HTTP: {0}")]
    Library(#[from] hyper::Error),
    #[error("no answer in time")]
    Late,
}

/// A request as it is sent.
pub struct Sent {
    /// With its empty line.
    pub head: Bytes,
    pub body: OutBody,
    /// The body goes in chunks.
    pub chunked: bool,
    pub asked: Asked,
    /// The request says that the connection ends with it.
    pub last: bool,
}

/// One connection.
pub struct Line {
    pipe: Pipe,
    body: Option<Box<Flow<ToTarget>>>,
    chunked: bool,
    /// Serves no other request.
    last: bool,
    /// When it was last used.
    pub since: Instant,
    /// How long an answer may take to begin, and until when this one may.
    limit: Duration,
    due: Option<Instant>,
    alarm: Alarm,
}

impl Line {
    pub fn new(io: Box<dyn Stream>) -> Box<Self> {
        Box::new(Self {
            pipe: Pipe::new(io, Filter::new(Side::Responses, Limits::default())),
            body: None,
            chunked: false,
            last: false,
            since: Instant::now(),
            limit: Duration::ZERO,
            due: None,
            alarm: Alarm::default(),
        })
    }

    /// Whether an idle connection may serve: the target has neither closed it nor said anything.
    pub fn is_open(&mut self) -> bool {
        // Looked for whatever the task has done since it last yielded: nothing is not "not now".
        let looks = std::future::poll_fn(|cx| self.pipe.poll_waste(cx));
        let looks = std::pin::pin!(tokio::task::unconstrained(looks));
        looks.poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Sends a request and waits for the head of its answer, for so long once the request is sent.
    /// Call it once for each answer.
    ///
    /// Cancel safety: dropped with its line, the request may have been sent, wholly or in part.
    pub async fn ask(&mut self, sent: Sent, limit: Duration) -> Result<ResponseHead, LineError> {
        let Sent { head, body, chunked, asked, last } = sent;
        self.pipe.out.push(head);
        match body {
            Either::Left(mut whole) => {
                let mut cx = Context::from_waker(Waker::noop());
                if let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut whole).poll_frame(&mut cx)
                    && let Ok(bytes) = frame.into_data()
                {
                    self.pipe.out.push(bytes);
                }
            }
            Either::Right(flow) => self.body = Some(Box::new(flow)),
        }
        (self.chunked, self.last) = (chunked, last);
        (self.limit, self.due) = (limit, None);
        self.pipe.filter.ask(asked);
        std::future::poll_fn(|cx| self.poll_head(cx)).await
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, LineError>> {
        loop {
            // A body that breaks off ends the request, and the connection with it.
            if let Poll::Ready(Err(error)) = self.poll_write(cx) {
                return Poll::Ready(Err(error));
            }
            if let Some(head) = self.pipe.came.response.take() {
                self.last |= !head.stays;
                return Poll::Ready(Ok(head));
            }
            if let Poll::Ready(read) = self.poll_read(cx, None) {
                read?;
                continue;
            }
            // Its time begins when it has the whole request, and whenever it takes no more of it.
            return if self.is_sent() || !self.pipe.is_flushed() {
                self.poll_late(cx).map(|()| Err(LineError::Late))
            } else {
                Poll::Pending
            };
        }
    }

    /// Ready once the answer is too late to begin.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = *self.due.get_or_insert_with(|| Instant::now() + self.limit);
        self.alarm.poll(cx, due)
    }

    /// Writes what is to be written of the request. Ready once that is all of it, or no more of it
    /// is taken: then the answer says why. Of a body that is broken already not even the head goes.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LineError>> {
        loop {
            let more = self.poll_more(cx)?;
            let before = self.pipe.out.bytes();
            let written = self.pipe.poll_out(cx);
            if self.pipe.out.bytes() < before {
                self.due = None;
            }
            match written {
                Poll::Ready(Ok(())) if more.is_pending() => return Poll::Pending,
                Poll::Ready(Ok(())) if self.body.is_none() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => {}
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "a target takes no more of a request");
                    self.pipe.give_up();
                    (self.body, self.last) = (None, true);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// Takes what there is of the request's body, as far as there is room for it.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, LineError> {
        while self.pipe.out.bytes() < PIECE_BYTES {
            let Some(body) = &mut self.body else { break };
            let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
                return Ok(Poll::Pending);
            };
            match frame {
                Some(frame) => {
                    let data = frame.map_err(LineError::Body)?.into_data();
                    let Some(data) = data.ok().filter(|data| !data.is_empty()) else { continue };
                    if self.chunked {
                        self.pipe.out.push(format!("{:x}\r\n", data.len()).into());
                    }
                    self.pipe.out.push(data);
                    if self.chunked {
                        self.pipe.out.push(Bytes::from_static(b"\r\n"));
                    }
                }
                None => {
                    self.body = None;
                    if self.chunked {
                        self.pipe.out.push(Bytes::from_static(b"0\r\n\r\n"));
                    }
                }
            }
        }
        Ok(Poll::Ready(()))
    }

    /// Reads once, and takes note of it. `into`: where the body goes on from.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: Option<&mut BytesMut>,
    ) -> Poll<Result<(), LineError>> {
        ready!(self.pipe.poll_read(cx, into))?;
        self.last |= self.pipe.eof;
        let over = self.pipe.came.over;
        match self.pipe.filter.fault() {
            // What comes behind a whole answer ends the connection, not the answer.
            Some(_) if over => self.last = true,
            Some(fault) => return Poll::Ready(Err(LineError::Fault(fault))),
            None if self.pipe.eof && !over => {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
            }
            None => {}
        }
        Poll::Ready(Ok(()))
    }

    /// Ready for another request: the answer is over, and so is the request.
    fn rest(&mut self) -> bool {
        let over = std::mem::take(&mut self.pipe.came.over);
        let Pipe { filter, came, .. } = &self.pipe;
        over && !self.last && filter.is_idle() && came.body.is_empty()
    }

    fn is_sent(&self) -> bool {
        self.body.is_none() && self.pipe.is_flushed()
    }
}

/// The body of an answer, with the line that it comes from.
pub struct LineBody {
    line: Option<Box<Line>>,
    pool: Weak<Pool>,
    failed: Option<LineError>,
}

impl LineBody {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, LineError>>> {
        if let Some(error) = self.failed.take() {
            self.line = None;
            return Poll::Ready(Some(Err(error)));
        }
        let Some(line) = &mut self.line else { return Poll::Ready(None) };
        // A request whose answer came early goes on beside it.
        if let Poll::Ready(Err(error)) = line.poll_write(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        while !line.pipe.came.over && line.pipe.came.body.len() < PIECE_BYTES {
            match line.poll_read(cx, None) {
                Poll::Ready(Ok(())) => {}
                Poll::Pending if line.pipe.came.body.is_empty() => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(Err(error)) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
        if line.pipe.came.body.is_empty() {
            return Poll::Ready(self.failed.take().map(Err));
        }
        Poll::Ready(Some(Ok(line.pipe.came.body.split().freeze())))
    }

    /// As a body, but straight into a buffer, up to about `most` bytes in it. How many came.
    pub fn poll_into(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut BytesMut,
        most: usize,
    ) -> Poll<Result<usize, LineError>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let Some(line) = &mut self.line else { return Poll::Ready(Ok(0)) };
        if let Poll::Ready(Err(error)) = line.poll_write(cx) {
            return Poll::Ready(Err(error));
        }
        let before = into.len();
        into.extend_from_slice(&line.pipe.came.body);
        line.pipe.came.body.clear();
        while !line.pipe.came.over && into.len() < most {
            match line.poll_read(cx, Some(into)) {
                Poll::Ready(Ok(())) => {
                    into.extend_from_slice(&line.pipe.came.body);
                    line.pipe.came.body.clear();
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if into.len() == before => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(into.len() - before))
    }

    /// Bytes of a body with a length that are still to come.
    pub fn left(&self) -> u64 {
        let left = |line: &Line| line.pipe.filter.passes() + line.pipe.came.body.len() as u64;
        self.line.as_deref().map_or(0, left)
    }

    pub fn is_over(&self) -> bool {
        let over = |line: &Line| line.pipe.came.over && line.pipe.came.body.is_empty();
        self.failed.is_none() && self.line.as_deref().is_none_or(over)
    }
}

/// What was read to its end serves again; everything else is closed.
impl Drop for LineBody {
    fn drop(&mut self) {
        let Some((mut line, pool)) = self.line.take().zip(self.pool.upgrade()) else { return };
        if self.failed.is_some() || !line.pipe.came.over || !line.pipe.came.body.is_empty() {
            return;
        }
        // A request whose answer came early has no record that it could go on in.
        if line.is_sent() && line.rest() {
            pool.give_back(line);
        }
    }
}

/// A body as it comes in: of a client, or of a target.
pub enum Source {
    Library(Incoming),
    Line(LineBody),
    Near(NearBody),
}

impl From<Incoming> for Source {
    fn from(body: Incoming) -> Self {
        Self::Library(body)
    }
}

impl Body for Source {
    type Data = Bytes;
    type Error = LineError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, LineError>>> {
        match &mut *self {
            Self::Library(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|f| f.map_err(Into::into)))
            }
            Self::Line(body) => {
                body.poll_bytes(cx).map(|bytes| bytes.map(|bytes| bytes.map(Frame::data)))
            }
            Self::Near(body) => {
                body.poll_bytes(cx).map(|bytes| bytes.map(|bytes| bytes.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Library(body) => body.is_end_stream(),
            Self::Line(body) => body.is_over(),
            Self::Near(body) => body.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Library(body) => body.size_hint(),
            Self::Line(_) | Self::Near(_) => SizeHint::default(),
        }
    }
}

/// An answer whose head was read, with what the rest of it comes from.
pub struct Got {
    pub status: StatusCode,
    pub headers: Headers,
    pub source: Source,
    /// What the connection becomes, where that was asked for.
    pub upgrade: Option<hyper::upgrade::OnUpgrade>,
}

impl Got {
    /// By a library.
    pub fn read(mut response: Response<Incoming>) -> Result<Self, Fault> {
        let upgrade = (response.status() == StatusCode::SWITCHING_PROTOCOLS)
            .then(|| hyper::upgrade::on(&mut response));
        let (parts, body) = response.into_parts();
        let odd = Fault { status: 502, why: "a header of the answer is odd" };
        let headers = Headers::from_map(&parts.headers).map_err(|_| odd)?;
        Ok(Self { status: parts.status, headers, source: Source::Library(body), upgrade })
    }

    /// In the task of its request.
    pub fn of_line(line: Box<Line>, head: ResponseHead, pool: &Arc<Pool>) -> Result<Self, Fault> {
        let odd = Fault { status: 502, why: "the answer's status is odd" };
        let pool = Arc::downgrade(pool);
        let source = Source::Line(LineBody { line: Some(line), pool, failed: None });
        let status = StatusCode::from_u16(head.status).map_err(|_| odd)?;
        Ok(Self { status, headers: head.headers, source, upgrade: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, pin::pin};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn get(asked: Asked) -> Sent {
        let head = Bytes::from_static(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n");
        Sent { head, body: Either::Left(Full::default()), chunked: false, asked, last: false }
    }

    /// What the target does once its answer is written.
    #[derive(Clone, Copy, PartialEq)]
    enum Then {
        Stays,
        Closes,
    }

    /// How the body is taken.
    #[derive(Clone, Copy, PartialEq)]
    enum Way {
        Pieces,
        Straight,
    }

    /// Status, body, and whether the connection may serve again.
    async fn exchange(
        asked: Asked,
        answer: &[u8],
        (size, then, way): (usize, Then, Way),
    ) -> Result<(u16, Vec<u8>, bool), LineError> {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let answer = answer.to_vec();
        let target = tokio::spawn(async move {
            let mut request = BytesMut::new();
            while !request.ends_with(b"\r\n\r\n") {
                far.read_buf(&mut request).await.unwrap();
            }
            for piece in answer.chunks(size) {
                far.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            (then == Then::Stays).then_some(far)
        });
        let mut line = Line::new(Box::new(near));
        let head = line.ask(get(asked), Duration::from_secs(60)).await?;
        let mut body = LineBody { line: Some(line), pool: Weak::new(), failed: None };
        let mut got = BytesMut::new();
        while !body.is_over() {
            match way {
                Way::Straight => drop(poll_fn(|cx| body.poll_into(cx, &mut got, 1 << 20)).await?),
                Way::Pieces => match poll_fn(|cx| body.poll_bytes(cx)).await {
                    Some(bytes) => got.extend_from_slice(&bytes?),
                    None => break,
                },
            }
        }
        let mut line = body.line.take().unwrap();
        let far = target.await.unwrap();
        let again = line.rest() && line.is_open();
        drop(far);
        Ok((head.status, got.to_vec(), again))
    }

    /// The same however it comes, and however it is taken.
    async fn check(asked: Asked, answer: &str, then: Then, expect: Option<(u16, &str, bool)>) {
        for size in [1, 3, 1 << 16] {
            for way in [Way::Pieces, Way::Straight] {
                let got = exchange(asked, answer.as_bytes(), (size, then, way)).await;
                let got = got.ok();
                let expect = expect.map(|(status, body, again)| (status, body.into(), again));
                assert_eq!(got, expect, "{answer:?} in pieces of {size}");
            }
        }
    }

    #[tokio::test]
    async fn an_answer_ends_where_its_head_says() {
        use Asked::{Head, Other};
        use Then::{Closes, Stays};
        let ok = "HTTP/1.1 200 OK\r\n";
        let long = "content-length: 3\r\n\r\n";
        let chunked = "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx: y\r\n\r\n";
        for (asked, answer, then, expect) in [
            (Other, format!("{ok}{long}abc"), Stays, Some((200, "abc", true))),
            (Other, format!("{ok}content-length: 0\r\n\r\n"), Stays, Some((200, "", true))),
            (Other, format!("{ok}{chunked}"), Stays, Some((200, "abcde", true))),
            (Head, format!("{ok}{long}"), Stays, Some((200, "", true))),
            (Other, "HTTP/1.1 204 None\r\n\r\n".into(), Stays, Some((204, "", true))),
            (
                Other,
                format!("HTTP/1.1 100 Go\r\n\r\n{ok}{long}abc"),
                Stays,
                Some((200, "abc", true)),
            ),
            // These serve no other request.
            (
                Other,
                format!("{ok}connection: close\r\n{long}abc"),
                Stays,
                Some((200, "abc", false)),
            ),
            (
                Other,
                format!("{ok}connection: x, Close\r\n{long}abc"),
                Stays,
                Some((200, "abc", false)),
            ),
            (Other, format!("HTTP/1.0 200 OK\r\n{long}abc"), Stays, Some((200, "abc", false))),
            (
                Other,
                format!("{ok}\r\nall until the end"),
                Closes,
                Some((200, "all until the end", false)),
            ),
            (Other, format!("{ok}{long}abc"), Closes, Some((200, "abc", false))),
            (Other, format!("{ok}{long}abcHTTP/1.1 200 OK\r\n"), Stays, Some((200, "abc", false))),
            // These are no answers.
            (Other, format!("{ok}{long}ab"), Closes, None),
            (Other, format!("{ok}transfer-encoding: chunked\r\n\r\n3\r\nab"), Closes, None),
            (Other, format!("{ok}transfer-encoding: chunked\r\n\r\n2\r\nabc\r\n"), Stays, None),
            (Other, format!("{ok}content-length: 3\r\n{long}abc"), Stays, None),
            (Other, format!("{ok}content-length: 3\r\n{chunked}"), Stays, None),
            (Other, "HTTP/1.1 101 Now\r\n\r\n".into(), Stays, None),
            (Other, "HTTP/1.1 204 None\r\ncontent-length: 3\r\n\r\nabc".into(), Stays, None),
            (Other, "ab".into(), Closes, None),
            (Other, String::new(), Closes, None),
        ] {
            check(asked, &answer, then, expect).await;
        }
    }

    #[tokio::test]
    async fn what_is_idle_and_says_something_serves_no_more() {
        let (near, mut far) = tokio::io::duplex(1 << 10);
        let mut line = Line::new(Box::new(near));
        assert!(line.is_open());
        far.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        assert!(!line.is_open(), "an answer that nobody asked for");
        let (near, far) = tokio::io::duplex(1 << 10);
        let mut line = Line::new(Box::new(near));
        drop(far);
        assert!(!line.is_open(), "closed");
        // However much its task has done in this turn.
        let (near, mut far) = tokio::io::duplex(1 << 10);
        let mut line = Line::new(Box::new(near));
        far.write_all(b"HTTP/1.1 408 Late\r\n").await.unwrap();
        poll_fn(|cx| {
            while pin!(tokio::task::consume_budget()).poll(cx).is_ready() {}
            Poll::Ready(())
        })
        .await;
        assert!(!line.is_open(), "an answer that nobody asked for, unheard");
    }
}
