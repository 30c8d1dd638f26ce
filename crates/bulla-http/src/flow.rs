//! Bodies on their way: evidence first, then release, in bounded memory.
//!
//! What is recorded is a message of HTTP/1.1 in either direction, whatever is spoken: a head, and
//! a body with a length or in chunks. So the evidence says by itself where each message ends. What
//! is released is the body within those very bytes.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bulla_core::{Outcome, RecordError, Status};
use bulla_gate::{Release, ToClient, ToTarget};
use bulla_host::{Live, Passage, Standing};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    alarm::Alarm,
    answer,
    line::{LineError, Source},
    needles::Needles,
    overrides,
    veil::{Lens, VeilError},
    watch::{Pace, Streaming},
};

/// Bytes gathered into one piece of evidence while an earlier piece waits for the disk.
const PIECE_BYTES: usize = 128 << 10;
/// Longest answer that goes on as a whole, where a secret may stand in it.
const WHOLE_BYTES_MAX: u64 = 16 << 10;
/// Bytes that may wait for the disk before the source is not read any more.
const WINDOW_BYTES: usize = 1 << 20;

/// Why an answer breaks off that tells the target's own secret.
pub const SECRET: &str = "the answer holds what it may not";

/// Most that is read of a body that nobody wants, and for how long.
const DRAIN_BYTES_MAX: usize = 1 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Why a body stops early. Whoever reads it sees a broken message, never a short one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub &'static str);

/// A command in flight, shared by its two directions. The last one out ends it.
pub struct Passing {
    passage: Mutex<Option<Passage>>,
    live: Arc<Live>,
    /// Why it was ended early, in public words.
    why: Mutex<Option<&'static str>>,
}

impl Passing {
    pub fn new(passage: Passage) -> Arc<Self> {
        let live = passage.live().clone();
        Arc::new(Self { passage: Mutex::new(Some(passage)), live, why: Mutex::new(None) })
    }
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }
    pub fn bytes_max(&self) -> Option<u64> {
        self.passage.lock().as_ref().and_then(|passage| passage.owe().bytes_max)
    }
    /// Why it was ended early, if a body of it broke.
    pub fn why(&self) -> Option<&'static str> {
        *self.why.lock()
    }

    pub fn more(&self, bytes: Bytes) -> Result<Release<ToTarget>, RecordError> {
        match self.passage.lock().as_mut() {
            Some(passage) => passage.more(bytes),
            None => Err(RecordError::Bug("a command took more after its end")),
        }
    }
    pub fn reply(
        &self,
        bytes: Bytes,
        done: Option<Outcome>,
    ) -> Result<Release<ToClient>, RecordError> {
        let mut slot = self.passage.lock();
        let Some(passage) = slot.as_mut() else {
            return Err(RecordError::Bug("a command answered after its end"));
        };
        let ends = done.is_some();
        let release = passage.reply(bytes, done);
        if ends && release.is_ok() {
            *slot = None;
        }
        release
    }
    /// Values of the answer that are masked, by class: told with the outcome, and to operators.
    pub fn masked(&self, counts: &bulla_mask::Counts) {
        if counts.is_empty() {
            return;
        }
        let cells: Vec<(Arc<str>, u64)> = counts.iter().map(|(c, n)| (c.clone(), *n)).collect();
        for (class, count) in &cells {
            metrics::counter!("bulla_masked_cells_total", "class" => class.to_string())
                .increment(*count);
        }
        if let Some(passage) = self.passage.lock().as_mut() {
            passage.masked.add(&cells);
        }
    }
    /// Ends the command, unless it has ended.
    pub fn finish(&self, status: Status) {
        self.end(Outcome { status, tag: None, rows: 0 });
    }
    /// The same, with all that is to be said of it.
    pub fn end(&self, outcome: Outcome) {
        let passage = self.passage.lock().take();
        if let Some(passage) = passage
            && let Err(error) = passage.finish(outcome)
        {
            tracing::error!(%error, "record the end of a command");
        }
    }
}

/// Resolves when the session must stop at once.
pub async fn ended(live: &Live) -> &'static str {
    let mut standing = live.standing();
    loop {
        if let Standing::Ended(why, _) = &*standing.borrow_and_update() {
            return why;
        }
        if standing.changed().await.is_err() {
            // Off the list means over; nobody can end it twice.
            std::future::pending::<()>().await;
        }
    }
}

/// How a recorded body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// After this many bytes.
    Length(u64),
    Chunked,
}

/// A direction of bodies.
pub trait Direction: Sized + Send + Unpin + 'static {
    fn append(
        passing: &Passing,
        bytes: Bytes,
        done: Option<Outcome>,
    ) -> Result<Release<Self>, RecordError>;
    /// What becomes of the command when the source breaks off.
    const LOST: Status;
    /// What becomes of it when the reader goes away.
    const LEFT: Status;
    /// The last bytes of a body with a length wait for its end: who has them all may answer, though
    /// more may come, and the end is still to be heard.
    const HOLDS_LAST: bool;
}

impl Direction for ToTarget {
    fn append(
        passing: &Passing,
        bytes: Bytes,
        _: Option<Outcome>,
    ) -> Result<Release<Self>, RecordError> {
        passing.more(bytes)
    }
    const LOST: Status = Status::ClientLost;
    const LEFT: Status = Status::TargetLost;
    const HOLDS_LAST: bool = true;
}

impl Direction for ToClient {
    fn append(
        passing: &Passing,
        bytes: Bytes,
        done: Option<Outcome>,
    ) -> Result<Release<Self>, RecordError> {
        passing.reply(bytes, done)
    }
    const LOST: Status = Status::TargetLost;
    const LEFT: Status = Status::ClientLost;
    const HOLDS_LAST: bool = false;
}

/// A piece that waits for the disk, and where the body is within it.
struct Piece<D> {
    release: Release<D>,
    body: std::ops::Range<usize>,
}

/// What a flow keeps to.
pub struct Terms {
    pub framing: Framing,
    /// Recorded before the first byte of the body.
    pub head: Bytes,
    pub bytes_max: Option<u64>,
    pub idle: Duration,
    /// How the command ends when the body ends well; none where the other direction says so.
    pub outcome: Option<Outcome>,
    /// Trailers go on, and are recorded.
    pub trailers: bool,
    /// What may not be in it: the target's own secret, as it was sent.
    pub never: Needles,
    /// The length that the source promised, where it is not that of what goes on.
    pub promised: Option<u64>,
    pub lens: Lens,
    /// Looks for what would replace a request's method.
    pub watch: Option<overrides::Watch>,
    /// What goes on is the message as it is recorded, head and framing and all.
    pub message: bool,
}

/// A body in one direction.
pub struct Flow<D: Direction> {
    source: Option<Source>,
    passing: Arc<Passing>,
    terms: Terms,
    /// The head, and what came of the body.
    gathered: BytesMut,
    /// How much of that is the head.
    lead: usize,
    /// Something came since the source had nothing, so more may be about to come.
    fresh: bool,
    /// What was gathered waits for that, until whoever feeds the source has had its turn.
    patient: bool,
    /// Something of it was recorded.
    begun: bool,
    waiting: VecDeque<Piece<D>>,
    waiting_bytes: usize,
    total: u64,
    trailers: Option<HeaderMap>,
    broken: Option<Broken>,
    ended: bool,
    complete: bool,
    /// When something last moved.
    moved: Instant,
    alarm: Alarm,
    /// Made when there is something to wait for.
    stop: Option<Pin<Box<dyn Future<Output = &'static str> + Send>>>,
    /// Told when the source has ended, whichever way.
    done: Option<tokio::sync::oneshot::Sender<()>>,
    pace: Option<Arc<Pace>>,
    /// Kept until the flow is over.
    _keep: Option<Streaming>,
}

impl<D: Direction> Flow<D> {
    pub fn new(source: Source, passing: Arc<Passing>, terms: Terms) -> Self {
        Self {
            source: Some(source),
            passing,
            terms,
            gathered: BytesMut::new(),
            lead: 0,
            fresh: true,
            patient: false,
            begun: false,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            total: 0,
            trailers: None,
            broken: None,
            ended: false,
            complete: false,
            moved: Instant::now(),
            alarm: Alarm::default(),
            stop: None,
            done: None,
            pace: None,
            _keep: None,
        }
    }
    /// Is told when the source has ended, and how the body is taken until then.
    #[must_use]
    pub fn tell(mut self, done: tokio::sync::oneshot::Sender<()>, pace: Arc<Pace>) -> Self {
        (self.done, self.pace) = (Some(done), Some(pace));
        self
    }
    /// The same of an answer, where somebody looks after it.
    #[must_use]
    pub fn watched(mut self, streaming: Streaming) -> Self {
        self.pace = Some(streaming.pace.clone());
        self._keep = Some(streaming);
        self
    }

    /// A piece was handed over, or is asked for.
    fn given(&self, at: Option<Instant>) {
        if let Some(pace) = &self.pace {
            pace.set(at);
        }
    }

    fn fail(&mut self, why: &'static str, status: Status) {
        self.source = None;
        self.done = None;
        self.broken.get_or_insert(Broken(why));
        if !std::mem::replace(&mut self.ended, true) {
            // What went on before was masked all the same.
            self.count_masked();
        }
        // What was gathered and not recorded is not released either.
        self.gathered.clear();
        self.passing.why.lock().get_or_insert(why);
        self.passing.finish(status);
    }

    /// Whether all bytes are there, and only the end is awaited.
    fn is_held(&self) -> bool {
        let whole = |length| length == self.total;
        D::HOLDS_LAST && matches!(self.terms.framing, Framing::Length(length) if whole(length))
    }

    /// Records what was gathered; with `last`, that it was all.
    fn record(&mut self, last: bool) {
        if !last && self.is_held() {
            return;
        }
        self.begun = true;
        let mut data = std::mem::take(&mut self.gathered);
        let lead = std::mem::take(&mut self.lead);
        let body = data.get(lead..).unwrap_or_default();
        if self.terms.never.are_in(body) {
            return self.fail(SECRET, Status::Cut("secret".into()));
        }
        if !last {
            // What may be the beginning of it waits for the rest.
            let begun = self.terms.never.begun(body);
            self.gathered = data.split_off(data.len() - begun);
        }
        let chunked = self.terms.framing == Framing::Chunked;
        let plain = self.terms.head.is_empty() && !chunked;
        let (bytes, body) = if plain {
            let bytes = data.freeze();
            let length = bytes.len();
            (bytes, lead..length)
        } else {
            let mut out = BytesMut::with_capacity(self.terms.head.len() + data.len() + 32);
            out.extend_from_slice(&std::mem::take(&mut self.terms.head));
            if chunked && !data.is_empty() {
                out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
            }
            let from = out.len();
            out.extend_from_slice(&data);
            let to = out.len();
            if chunked && !data.is_empty() {
                out.extend_from_slice(b"\r\n");
            }
            if chunked && last {
                out.extend_from_slice(b"0\r\n");
                for (name, value) in self.trailers.iter().flatten() {
                    out.extend_from_slice(name.as_str().as_bytes());
                    out.extend_from_slice(b": ");
                    out.extend_from_slice(value.as_bytes());
                    out.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(b"\r\n");
            }
            (out.freeze(), from..to)
        };
        let done = if last { self.terms.outcome.take() } else { None };
        if bytes.is_empty() && done.is_none() {
            return;
        }
        if done.is_some() {
            self.count_masked();
        }
        let done = done.map(|outcome| self.judged(outcome));
        match D::append(&self.passing, bytes, done) {
            Ok(release) => {
                self.waiting_bytes += release.len();
                self.waiting.push_back(Piece { release, body });
            }
            // The other direction has ended the command: nothing is wrong with the record.
            Err(error) => match self.passing.why() {
                Some(why) => self.fail(why, Status::Cut("ended".into())),
                None => self.fail(unrecorded(&error), Status::Cut("recorder".into())),
            },
        }
    }

    fn count_masked(&self) {
        if let Some(counts) = self.terms.lens.counts() {
            self.passing.masked(&counts);
        }
    }

    /// gRPC says how a call ended in its trailers.
    fn judged(&self, mut outcome: Outcome) -> Outcome {
        let trailers = self.trailers.as_ref();
        let status = trailers.and_then(|trailers| trailers.get("grpc-status"));
        if let Some(status) = status.and_then(|status| status.to_str().ok()) {
            outcome.tag = Some(format!("grpc-status {status}").into());
            if status != "0" {
                outcome.status = Status::Error(format!("grpc:{status}").into());
            }
        }
        outcome
    }

    fn end(&mut self) {
        let framed = match self.terms.framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        };
        if self.terms.promised.or(framed).is_some_and(|length| self.total != length) {
            return self.fail("the body was cut short", D::LOST);
        }
        if let Some(Err(fault)) = self.terms.watch.as_mut().map(overrides::Watch::finish) {
            return self.fail(fault.why, Status::Cut("violation".into()));
        }
        if let Err(error) = self.terms.lens.finish(&mut self.gathered) {
            return self.withhold(error);
        }
        self.source = None;
        self.ended = true;
        self.record(true);
        self.complete = self.broken.is_none();
        if let Some(done) = self.done.take() {
            let _ = done.send(());
        }
    }

    /// Whether so much more may pass.
    fn count(&mut self, bytes: usize) -> bool {
        self.fresh = true;
        self.total += bytes as u64;
        let much = self.terms.bytes_max.is_some_and(|max| self.total > max);
        if much {
            self.fail("the body exceeds its limit", Status::Cut("bytes_max".into()));
        }
        // What is behind the end would be another message in HTTP/1.1.
        let long = matches!(self.terms.framing, Framing::Length(length) if self.total > length);
        if long {
            self.fail("the body is longer than its length", D::LOST);
        }
        !(much || long)
    }

    /// Trailers go on where they are recorded, and hold no secret either.
    fn take_trailers(&mut self, trailers: HeaderMap) {
        if !self.terms.trailers || self.terms.framing != Framing::Chunked {
            return;
        }
        match answer::trailers(trailers) {
            Ok(trailers) => {
                let told = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                    let never = &self.terms.never;
                    never.are_in(name.as_str().as_bytes()) || never.are_in(value.as_bytes())
                };
                if trailers.iter().any(told) {
                    return self.fail(SECRET, Status::Cut("secret".into()));
                }
                self.trailers = Some(trailers);
            }
            Err(Broken(why)) => self.fail(why, Status::Cut("target_violation".into())),
        }
    }

    fn take(&mut self, data: &Bytes) {
        if !self.count(data.len()) {
            return;
        }
        if let Some(watch) = &mut self.terms.watch
            && let Err(fault) = watch.push(data)
        {
            return self.fail(fault.why, Status::Cut("violation".into()));
        }
        if let Framing::Length(length) = self.terms.framing
            && self.gathered.is_empty()
        {
            let left = length.saturating_sub(self.total.saturating_sub(data.len() as u64));
            // Whose first bytes are few may send no more for long.
            self.lead(if data.len() < 1 << 10 { data.len() as u64 } else { left });
        }
        if let Err(error) = self.terms.lens.push(data, &mut self.gathered) {
            return self.withhold(error);
        }
        if self.gathered.len() >= PIECE_BYTES {
            self.record(false);
        }
    }

    /// Begins a piece of a body with a length: the head, and room for what comes.
    fn lead(&mut self, left: u64) {
        let head = std::mem::take(&mut self.terms.head);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        self.gathered.reserve(head.len() + left.min(PIECE_BYTES + (16 << 10)));
        self.gathered.extend_from_slice(&head);
        self.lead = head.len();
    }

    /// What cannot be read cannot be shown.
    fn withhold(&mut self, error: VeilError) {
        let word = if error == VeilError::Secret { "secret" } else { "unmaskable" };
        self.fail(error.words(), Status::Cut(word.into()));
    }

    /// Reads what the source has.
    fn fill(&mut self, cx: &mut Context<'_>) {
        self.patient = false;
        while self.waiting_bytes < WINDOW_BYTES && self.source.is_some() {
            match self.poll_source(cx) {
                Poll::Ready(()) => self.moved = Instant::now(),
                Poll::Pending => return self.rest(cx),
            }
        }
    }

    /// Takes one piece of what the source has, or its end.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(source) = &mut self.source else { return Poll::Ready(()) };
        let whole = matches!(self.terms.framing, Framing::Length(_)) && self.terms.watch.is_none();
        if let Source::Line(body) = source
            && whole
            && matches!(self.terms.lens, Lens::Nothing)
        {
            // It comes to where it is recorded from.
            let left = body.left();
            if self.gathered.is_empty() {
                self.lead(left);
            }
            return self.poll_straight(cx);
        }
        let came = ready!(Pin::new(&mut *source).poll_frame(cx));
        match came {
            Some(Ok(frame)) => {
                let rest = source.is_end_stream();
                match frame.into_data() {
                    Ok(data) => self.take(&data),
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.take_trailers(trailers);
                        }
                    }
                }
                if rest && self.source.is_some() {
                    self.end();
                }
            }
            Some(Err(error)) => self.broke(&error),
            None => self.end(),
        }
        Poll::Ready(())
    }

    fn poll_straight(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(Source::Line(body)) = &mut self.source else { return Poll::Ready(()) };
        let read = ready!(body.poll_into(cx, &mut self.gathered, PIECE_BYTES));
        let over = body.is_over();
        match read {
            Ok(n) => {
                if !self.count(n) {
                    return Poll::Ready(());
                }
                if over {
                    self.end();
                } else if self.gathered.len() >= PIECE_BYTES {
                    self.record(false);
                }
            }
            Err(error) => self.broke(&error),
        }
        Poll::Ready(())
    }

    fn broke(&mut self, error: &LineError) {
        tracing::debug!(%error, "a body broke off");
        self.fail("the body was cut short", D::LOST);
    }

    /// The source has nothing for now: records what came, once it may be all.
    fn rest(&mut self, cx: &mut Context<'_>) {
        let some = !(self.gathered.is_empty() && self.terms.head.is_empty());
        if some && self.waiting.is_empty() {
            let (fresh, awaited) = (std::mem::take(&mut self.fresh), self.is_awaited());
            self.patient = fresh || awaited;
            if fresh && !awaited {
                cx.waker().wake_by_ref();
            } else if !self.patient && !self.gathered.is_empty() {
                self.record(false);
            }
        }
    }

    /// Whether it goes on as a whole: a short answer in which a secret may stand is refused with a
    /// status of its own, whenever its parts came.
    fn is_awaited(&self) -> bool {
        let short = |length| length <= WHOLE_BYTES_MAX;
        !self.begun
            && !self.terms.never.is_empty()
            && matches!(self.terms.framing, Framing::Length(length) if short(length))
    }

    /// Records the head and what is there of the body; ready once that may go on. What came with
    /// the head is kept for the first frame.
    pub async fn begin(&mut self) -> Result<Option<Bytes>, Broken> {
        std::future::poll_fn(|cx| {
            self.fill(cx);
            if !self.terms.head.is_empty() && self.broken.is_none() && !self.patient {
                self.record(false);
            }
            let polled = self.poll_piece(cx);
            let polled = match polled {
                Poll::Pending if self.is_awaited() && self.poll_stop(cx) => self.poll_piece(cx),
                polled => polled,
            };
            polled.map(Option::transpose)
        })
        .await
    }

    /// The next piece that is durable. None: the body is over.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        if self.waiting.is_empty() && !self.gathered.is_empty() && !self.patient {
            self.record(false);
        }
        if let Some(front) = self.waiting.front_mut() {
            let length = front.release.len();
            let released = ready!(front.release.poll_released(cx));
            let body = front.body.clone();
            self.waiting.pop_front();
            self.waiting_bytes = self.waiting_bytes.saturating_sub(length);
            return match released {
                Ok(released) if self.terms.message => Poll::Ready(Some(Ok(released.spend()))),
                Ok(released) => {
                    let bytes = released.spend();
                    let end = body.end.min(bytes.len());
                    Poll::Ready(Some(Ok(bytes.slice(body.start.min(end)..end))))
                }
                Err(error) => {
                    self.waiting.clear();
                    self.fail(unrecorded(&error), Status::Cut("recorder".into()));
                    Poll::Ready(Some(Err(Broken(unrecorded(&error)))))
                }
            };
        }
        if let Some(broken) = self.broken {
            return Poll::Ready(Some(Err(broken)));
        }
        if self.ended { Poll::Ready(None) } else { Poll::Pending }
    }

    /// Whether its session was ended: nothing more of it goes on.
    pub fn poll_ended(&mut self, cx: &mut Context<'_>) -> bool {
        if self.ended {
            return false;
        }
        let live = self.passing.live();
        let stop = self.stop.get_or_insert_with(|| {
            let live = live.clone();
            Box::pin(async move { ended(&live).await })
        });
        if let Poll::Ready(why) = stop.as_mut().poll(cx) {
            self.fail("the session was ended", Status::Cut(why.into()));
            return true;
        }
        false
    }

    /// What stops a body that is under way.
    fn poll_stop(&mut self, cx: &mut Context<'_>) -> bool {
        if self.poll_ended(cx) {
            return true;
        }
        if self.ended
            || !self.waiting.is_empty()
            || !(self.gathered.is_empty() || self.is_awaited() || self.is_held())
        {
            return false;
        }
        let due = self.moved + self.terms.idle;
        let late = self.alarm.poll(cx, due).is_ready();
        if late {
            self.fail("nothing came for too long", Status::Cut("idle".into()));
        }
        late
    }
}

fn unrecorded(error: &RecordError) -> &'static str {
    tracing::error!(%error, "record a body");
    "the record cannot be written"
}

impl<D: Direction> Body for Flow<D> {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        this.given(None);
        loop {
            this.fill(cx);
            match this.poll_piece(cx) {
                Poll::Ready(Some(Ok(bytes))) if bytes.is_empty() => {}
                Poll::Ready(Some(Ok(bytes))) => {
                    this.given(Some(Instant::now()));
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Poll::Ready(Some(Err(broken))) => return Poll::Ready(Some(Err(broken))),
                Poll::Ready(None) => {
                    let trailers = this.trailers.take().filter(|_| !this.terms.message);
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                Poll::Pending if this.poll_stop(cx) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let trailers = self.trailers.is_some() && !self.terms.message;
        self.ended && self.waiting.is_empty() && !trailers && self.broken.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.terms.framing {
            Framing::Length(length) if self.total == 0 => SizeHint::with_exact(length),
            _ => SizeHint::default(),
        }
    }
}

impl<D: Direction> Drop for Flow<D> {
    fn drop(&mut self) {
        if !self.complete && self.terms.outcome.is_some() {
            // Nobody may have read on to hear of an end.
            let ended = match &*self.passing.live().standing().borrow() {
                Standing::Ended(why, _) => Some(Status::Cut((*why).into())),
                _ => None,
            };
            self.passing.finish(ended.unwrap_or(D::LEFT));
        }
    }
}

/// All of a body, if it is not longer than `max`.
pub async fn collect(mut body: Source, max: usize, idle: Duration) -> Result<Bytes, Collected> {
    let mut out = BytesMut::new();
    loop {
        let frame = match tokio::time::timeout(idle, body.frame()).await {
            Err(_) => return Err(Collected::Slow),
            Ok(None) => return Ok(out.freeze()),
            Ok(Some(Err(_))) => return Err(Collected::Broken),
            Ok(Some(Ok(frame))) => frame,
        };
        if let Ok(data) = frame.into_data() {
            if out.len() + data.len() > max {
                return Err(Collected::TooLong);
            }
            out.extend_from_slice(&data);
        }
    }
}

/// Reads on over a body that nobody wants, so that its sender hears the answer: many take a stream
/// that is reset under their hands, or a connection, for a failure (RFC 9113 8.1).
pub async fn drain(mut body: Source) {
    let reading = async {
        let mut left = DRAIN_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // Who sends more, or slower, may miss the answer.
    let _ = tokio::time::timeout(DRAIN_TIME, reading).await;
}

/// Why a body was not collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collected {
    TooLong,
    /// There should have been none.
    Needless,
    Broken,
    Slow,
}
