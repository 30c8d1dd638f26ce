//! The loop of one live session: one task over both sides, no hand-over per message.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bulla_core::{
    CloseRecord, Expiry, Fact, Flow, Obligations, Outcome, RecordError, Refusal, RefusalKind,
    Status, Timestamp,
};
use bulla_gate::{
    Cleared, Downstream, Holding, Release, Session, Ticket, ToClient, ToTarget, Upstream,
};
use bulla_wire::{HoldNotice, Output, Outputs, Place, Protocol, TargetHello, Wire};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, Sleep},
};

use crate::{
    Engine, Stream,
    registry::{Entered, Tell},
    scouts::Lease,
    side::{poll_read, poll_write},
};

/// Unprocessed client bytes beyond which the client is not read.
const CLIENT_BUFFER_MAX: usize = 256 * 1024;
/// Bytes on their way to a side (waiting for the record, or for its socket) beyond which the other
/// side is not read.
const WINDOW_BYTES: usize = 1024 * 1024;
/// How long last words may take.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Longest wait for fresh knowledge of the target.
const RELEARN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the record is left alone that cannot take more for now.
const RETRY: Duration = Duration::from_millis(2);
/// Turns of the loop before other tasks get theirs.
const TURNS_MAX: usize = 64;

type Judged = Result<(Cleared<Bytes>, Ticket), Box<Refusal>>;

/// What a session starts from.
pub struct Start {
    pub session: Session,
    pub wire: Box<dyn Wire>,
    pub protocol: Arc<dyn Protocol>,
    pub place: Place,
    pub hello: Arc<TargetHello>,
    pub target: Box<dyn Stream>,
    pub from_client: BytesMut,
    pub from_target: BytesMut,
    pub welcome: Release<ToClient>,
    pub inbox: mpsc::UnboundedReceiver<Tell>,
    pub entered: Entered,
    pub expires: Timestamp,
    pub cap: Timestamp,
    pub expiry: Expiry,
    /// Keeps what readings need fresh, by being there.
    #[expect(dead_code, reason = "held, not read")]
    pub lease: Option<Lease>,
}

/// A command that waited and is cleared, and what it means is looked at once more.
struct Confirming {
    number: u64,
    payload: Bytes,
    cleared: Cleared<Bytes>,
    ticket: Ticket,
    fresh: oneshot::Receiver<bool>,
    until: Instant,
}

/// A command at the gate.
struct Judging {
    number: u64,
    payload: Bytes,
    verdict: Pin<Box<dyn Future<Output = Judged> + Send>>,
    /// Set by the gate when the command must wait.
    told: Arc<Mutex<Option<Holding>>>,
    holding: Option<Holding>,
    since: Instant,
}

/// What goes to the target, in order.
enum Up {
    Cleared(Cleared<Bytes>),
    More(Release<ToTarget>),
    Control(&'static [u8]),
}

/// Why the session is over, for the close entry.
struct Ending {
    why: Arc<str>,
    detail: Option<Arc<str>>,
    by: Instant,
}

pub struct Relay {
    engine: Arc<Engine>,
    client: Box<dyn Stream>,
    s: Start,
    judging: Option<Judging>,
    confirming: Option<Box<Confirming>>,
    tickets: VecDeque<Ticket>,
    ups: VecDeque<Up>,
    /// Of continued input, which waits for its record.
    ups_bytes: usize,
    up: Upstream,
    downs: VecDeque<Release<ToClient>>,
    downs_bytes: usize,
    down: Downstream,
    relearning: Option<(oneshot::Receiver<bool>, Instant)>,
    /// What the machine wants, as far as it is not carried out yet.
    wanted: VecDeque<Output>,
    /// Set while the record cannot take more: then nothing is read and nothing is carried out.
    retry: Option<Pin<Box<Sleep>>>,
    timer: Pin<Box<Sleep>>,
    /// The machine may make progress on the client bytes that are there.
    client_ready: bool,
    client_open: bool,
    target_open: bool,
    flush_up: bool,
    flush_down: bool,
    draining: bool,
    /// The target may still work on what the gateway ended.
    working: bool,
    /// A cancel is on its way: more of them at the same time say nothing new.
    cancelling: Arc<AtomicBool>,
    ending: Option<Ending>,
    failed: Option<RecordError>,
}

/// What is wanted again when the record could not take it: bytes on their way, which are shared.
fn again(output: &Output) -> Option<Output> {
    match output {
        Output::Reply { number, bytes, done } => {
            Some(Output::Reply { number: *number, bytes: bytes.clone(), done: done.clone() })
        }
        Output::More { number, bytes } => {
            Some(Output::More { number: *number, bytes: bytes.clone() })
        }
        Output::ToClient(bytes) => Some(Output::ToClient(bytes.clone())),
        _ => None,
    }
}

impl Relay {
    pub fn new<S: Stream + 'static>(engine: Arc<Engine>, client: S, start: Start) -> Self {
        let timer = Box::pin(tokio::time::sleep(Duration::from_secs(1)));
        let mut relay = Self {
            engine,
            client: Box::new(client),
            s: start,
            judging: None,
            confirming: None,
            tickets: VecDeque::new(),
            ups: VecDeque::new(),
            ups_bytes: 0,
            up: Upstream::default(),
            downs: VecDeque::new(),
            downs_bytes: 0,
            down: Downstream::default(),
            relearning: None,
            wanted: VecDeque::new(),
            retry: None,
            timer,
            client_ready: true,
            client_open: true,
            target_open: true,
            flush_up: false,
            flush_down: false,
            draining: false,
            working: false,
            cancelling: Arc::default(),
            ending: None,
            failed: None,
        };
        if let Some(welcome) = relay.take_welcome() {
            relay.push_down(welcome);
        }
        relay
    }

    fn take_welcome(&mut self) -> Option<Release<ToClient>> {
        let nothing = self.s.session.aside(Flow::Gateway, Bytes::new(), self.now());
        match nothing {
            Ok(nothing) => Some(std::mem::replace(&mut self.s.welcome, nothing)),
            Err(error) => {
                self.fail(&error);
                None
            }
        }
    }

    #[cfg(test)]
    pub fn identified_until(&self) -> Timestamp {
        self.s.entered.identified_until()
    }

    fn now(&self) -> Timestamp {
        self.engine.parts.clock.now()
    }

    pub async fn run(mut self) {
        metrics::counter!("bulla_sessions_opened_total").increment(1);
        std::future::poll_fn(|cx| self.poll(cx)).await;
        self.close().await;
    }

    async fn close(mut self) {
        // A target that still works on a command is told to stop: closing a socket does not.
        if (self.working || !self.tickets.is_empty()) && self.target_open {
            let cancel = self.engine.parts.connector.cancel(&self.s.place, &self.s.hello);
            let _ = tokio::time::timeout(LAST_WORDS, cancel).await;
        }
        let status = if !self.target_open {
            Status::TargetLost
        } else if !self.client_open {
            Status::ClientLost
        } else {
            Status::Abandoned
        };
        for ticket in self.tickets.drain(..) {
            let outcome = Outcome { status: status.clone(), tag: None, rows: 0 };
            let _ = ticket.finish(outcome);
        }
        // Dropping a command that waits at the gate withdraws its ask, before the close entry.
        self.judging = None;
        // One that waits to be confirmed was never sent: its ticket says that it was abandoned.
        self.confirming = None;
        let ending = self.ending.take();
        let (why, detail) = ending.map_or(("abandoned".into(), None), |e| (e.why, e.detail));
        let record = CloseRecord { at: self.now(), why, detail };
        match self.s.session.close(&record) {
            Ok(pending) => {
                let _ = tokio::time::timeout(LAST_WORDS, pending).await;
            }
            Err(error) => tracing::error!(%error, "record the close of a session"),
        }
        use tokio::io::AsyncWriteExt;
        let _ = tokio::time::timeout(Duration::from_secs(1), self.client.shutdown()).await;
    }

    fn end(&mut self, why: &str, detail: Option<&str>) {
        if self.ending.is_none() {
            self.ending = Some(Ending {
                why: why.into(),
                detail: detail.map(Into::into),
                by: Instant::now() + LAST_WORDS,
            });
            self.timer.as_mut().reset(Instant::now());
        }
    }

    fn farewell(&mut self, kind: RefusalKind, message: &str, hint: &str, why: &str) {
        if self.ending.is_some() {
            return;
        }
        let refusal = Refusal::plain(kind, message, hint);
        let mut out = Outputs::new();
        self.working |= !self.tickets.is_empty();
        self.s.wire.farewell(&refusal, &mut out);
        // First, since the machine has a word of its own for it.
        self.end(why, None);
        self.take(out);
    }

    /// The record failed: nothing that waits for it may pass; the client is told without it.
    fn fail(&mut self, error: &RecordError) {
        if self.failed.is_some() {
            return;
        }
        tracing::error!(session = %self.s.session.id(), %error, "the record failed");
        metrics::counter!("bulla_record_failures_total").increment(1);
        self.failed = Some(error.clone());
        self.downs.clear();
        self.downs_bytes = 0;
        self.ups.clear();
        self.ups_bytes = 0;
        self.wanted.clear();
        self.retry = None;
        let refusal = Refusal::plain(
            RefusalKind::Recorder,
            "the response could not be recorded, so it was stopped",
            "nothing passes unrecorded; tell the operators of the gateway",
        );
        let mut out = Outputs::new();
        self.s.wire.farewell(&refusal, &mut out);
        let mut words = BytesMut::new();
        for output in &out {
            if let Output::ToClient(bytes) = output {
                words.extend_from_slice(bytes);
            }
        }
        self.down.last_words(error, words.freeze());
        self.end("recorder", Some(&error.to_string()));
    }

    fn push_down(&mut self, release: Release<ToClient>) {
        if !release.is_empty() {
            self.downs_bytes += release.len();
            self.downs.push_back(release);
        }
    }

    fn window(&self) -> usize {
        self.downs_bytes + self.down.waiting_bytes()
    }

    /// Carries out what the machine wants.
    fn take(&mut self, outputs: Outputs) {
        self.wanted.extend(outputs);
        if self.retry.is_none() {
            self.carry_out();
        }
    }

    /// Goes on in order, until the record cannot take more for now: then everything waits, and the
    /// disk's pace becomes that of the session.
    fn carry_out(&mut self) {
        while let Some(output) = self.wanted.pop_front() {
            if self.failed.is_some() {
                self.wanted.clear();
                return;
            }
            let again = again(&output);
            match (self.take_one(output), again) {
                (Ok(()), _) => {}
                (Err(RecordError::Backlog), Some(output)) => {
                    metrics::counter!("bulla_record_waits_total").increment(1);
                    self.wanted.push_front(output);
                    self.retry = Some(Box::pin(tokio::time::sleep(RETRY)));
                    return;
                }
                (Err(error), _) => self.fail(&error),
            }
        }
    }

    fn poll_retry(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(retry) = &mut self.retry else { return false };
        if retry.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.retry = None;
        self.carry_out();
        true
    }

    fn take_one(&mut self, output: Output) -> Result<(), RecordError> {
        match output {
            Output::Judge { number, draft } => {
                let payload = draft.payload().clone();
                if let Some(Fact::Set(classes)) = draft.command().facts.get("masked") {
                    for class in classes {
                        metrics::counter!("bulla_masked_commands_total", "class" => class.to_string())
                            .increment(1);
                    }
                }
                let told = Arc::new(Mutex::new(None));
                let (gate, session) = (self.engine.parts.gate.clone(), self.s.session.clone());
                let slot = told.clone();
                let verdict = Box::pin(async move {
                    let mut tell = |holding| *slot.lock() = Some(holding);
                    gate.clear(&session, number, draft, &mut tell).await
                });
                self.s.entered.handle.counters.commands.fetch_add(1, Ordering::Relaxed);
                let since = Instant::now();
                self.judging =
                    Some(Judging { number, payload, verdict, told, holding: None, since });
            }
            Output::Refuse { number, bytes, refusal } => {
                let refusal =
                    self.engine.parts.gate.refuse(&self.s.session, number, &bytes, *refusal);
                self.s.entered.handle.counters.denied.fetch_add(1, Ordering::Relaxed);
                let mut out = Outputs::new();
                self.s.wire.refused(number, &refusal, &mut out);
                // Before whatever else was wanted.
                out.into_iter().rev().for_each(|output| self.wanted.push_front(output));
            }
            Output::More { number, bytes } => {
                if let Some(ticket) = self.ticket(number) {
                    let release = ticket.more(bytes)?;
                    self.ups_bytes += release.len();
                    self.ups.push_back(Up::More(release));
                }
            }
            Output::Reply { number: 0, bytes, .. } => {
                let release = self.s.session.aside(Flow::ToClient, bytes, self.now())?;
                self.push_down(release);
            }
            Output::Reply { number, bytes, done } => {
                let ended = done.is_some();
                if let Some(outcome) = &done {
                    let rows = &self.s.entered.handle.counters.rows;
                    rows.fetch_add(outcome.rows, Ordering::Relaxed);
                }
                let now = self.now();
                let release = match self.ticket(number) {
                    Some(ticket) => ticket.reply(bytes, done)?,
                    // Behind its outcome, such as the end of a batch: still of this session.
                    None => self.s.session.aside(Flow::ToClient, bytes, now)?,
                };
                if ended {
                    self.tickets.retain(|ticket| ticket.number() != number);
                }
                self.push_down(release);
            }
            Output::Done { number, outcome } => {
                if let Some(at) = self.tickets.iter().position(|t| t.number() == number)
                    && let Some(ticket) = self.tickets.remove(at)
                {
                    drop(ticket.finish(outcome)?);
                }
            }
            Output::ToClient(bytes) => {
                let release = self.s.session.aside(Flow::Gateway, bytes, self.now())?;
                self.push_down(release);
            }
            Output::Control(control) => self.ups.push_back(Up::Control(control.0)),
            Output::Masked { number, cells } => {
                for (class, count) in &cells {
                    metrics::counter!("bulla_masked_cells_total", "class" => class.to_string())
                        .increment(*count);
                }
                if let Some(ticket) = self.ticket(number) {
                    ticket.masked.add(&cells);
                }
            }
            Output::Relearn => {
                let fresh = self.engine.scouts.refresh(&self.s.place, &self.s.protocol);
                self.relearning = Some((fresh, Instant::now() + RELEARN_TIMEOUT));
            }
            Output::End { why } => {
                self.working |= why == "cut";
                self.end(why, None);
            }
        }
        Ok(())
    }

    fn ticket(&mut self, number: u64) -> Option<&mut Ticket> {
        self.tickets.iter_mut().find(|ticket| ticket.number() == number)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..TURNS_MAX {
            let mut moved = self.poll_inbox(cx);
            moved |= self.poll_verdict(cx);
            moved |= self.poll_confirming(cx);
            moved |= self.poll_relearning(cx);
            moved |= self.poll_client(cx);
            moved |= self.poll_target(cx);
            moved |= self.poll_up(cx);
            moved |= self.poll_down(cx);
            moved |= self.poll_timer(cx);
            // Last, so that what was set in this turn is waited for.
            moved |= self.poll_retry(cx);
            if let Some(ending) = &self.ending {
                let flushed = self.wanted.is_empty()
                    && self.downs.is_empty()
                    && self.down.is_empty()
                    && !self.flush_down;
                // What a lost target did not take will never go.
                if (flushed && (self.up.is_empty() || !self.target_open))
                    || Instant::now() >= ending.by
                    || !self.client_open
                {
                    return Poll::Ready(());
                }
            }
            if !moved {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_inbox(&mut self, cx: &mut Context<'_>) -> bool {
        let Poll::Ready(Some(tell)) = self.s.inbox.poll_recv(cx) else { return false };
        match tell {
            Tell::Kill { by } => {
                tracing::info!(session = %self.s.session.id(), by = %by, "ended by an operator");
                let hint = "ask the operators of the gateway why";
                self.farewell(RefusalKind::Ended, "the session was ended", hint, "killed");
            }
            Tell::Drain => {
                self.draining = true;
                self.timer.as_mut().reset(Instant::now());
            }
            Tell::Cancel => self.cancel(),
        }
        true
    }

    /// A cancel withdraws a command that waits; otherwise it is a command of its own.
    fn cancel(&mut self) {
        if let Some(judging) = self.judging.take_if(|judging| judging.holding.is_some()) {
            let Judging { number, payload, verdict, .. } = judging;
            // Withdraws the ask and writes its last entry.
            drop(verdict);
            let refusal = Refusal::plain(
                RefusalKind::Withdrawn,
                "refused: the command was cancelled while it waited for approval",
                "run it again to ask again",
            );
            let refusal = self.engine.parts.gate.refuse(&self.s.session, number, &payload, refusal);
            let mut out = Outputs::new();
            self.s.wire.refused(number, &refusal, &mut out);
            self.client_ready = true;
            self.take(out);
            return;
        }
        if self.cancelling.load(Ordering::Relaxed) {
            return;
        }
        let Some((number, draft)) = self.s.wire.cancel() else { return };
        let cancelling = self.cancelling.clone();
        cancelling.store(true, Ordering::Relaxed);
        let (engine, session) = (self.engine.clone(), self.s.session.clone());
        let (place, hello) = (self.s.place.clone(), self.s.hello.clone());
        tokio::spawn(async move {
            let mut ignore = |_| {};
            let cleared = engine.parts.gate.clear(&session, number, draft, &mut ignore).await;
            if let Ok((_, ticket)) = cleared {
                let sent = engine.parts.connector.cancel(&place, &hello).await;
                let status = if sent.is_ok() { Status::Ok } else { Status::TargetLost };
                let _ = ticket.finish(Outcome { status, tag: None, rows: 0 });
            }
            cancelling.store(false, Ordering::Relaxed);
        });
    }

    fn poll_verdict(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(judging) = &mut self.judging else { return false };
        let number = judging.number;
        let verdict = judging.verdict.as_mut().poll(cx);
        let told = if judging.holding.is_none() { judging.told.lock().take() } else { None };
        if told.is_some() {
            judging.holding = told;
            judging.since = Instant::now();
            self.s.entered.handle.counters.held.fetch_add(1, Ordering::Relaxed);
            self.notice();
        }
        let Poll::Ready(judged) = verdict else { return false };
        let Some(judging) = self.judging.take() else { return false };
        self.client_ready = true;
        let mut out = Outputs::new();
        match judged {
            Ok((cleared, ticket)) if judging.holding.is_some() => {
                let fresh = self.engine.scouts.refresh(&self.s.place, &self.s.protocol);
                let until = Instant::now() + RELEARN_TIMEOUT;
                let payload = judging.payload;
                let waited = Confirming { number, payload, cleared, ticket, fresh, until };
                self.confirming = Some(Box::new(waited));
                self.timer.as_mut().reset(until);
            }
            Ok((cleared, ticket)) => self.send(number, cleared, ticket, &mut out),
            Err(refusal) => {
                self.s.entered.handle.counters.denied.fetch_add(1, Ordering::Relaxed);
                metrics::counter!("bulla_refusals_total", "kind" => refusal.kind.as_str())
                    .increment(1);
                self.s.wire.refused(number, &refusal, &mut out);
            }
        }
        self.take(out);
        true
    }

    fn send(&mut self, number: u64, cleared: Cleared<Bytes>, ticket: Ticket, out: &mut Outputs) {
        let owe: Obligations = ticket.owe().clone();
        self.tickets.push_back(ticket);
        self.ups.push_back(Up::Cleared(cleared));
        self.s.wire.cleared(number, &owe, out);
    }

    /// Sends a command that waited, if it still means what was approved.
    fn poll_confirming(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(confirming) = &mut self.confirming else { return false };
        let known = match Pin::new(&mut confirming.fresh).poll(cx) {
            Poll::Ready(known) => known == Ok(true),
            Poll::Pending if Instant::now() >= confirming.until => false,
            Poll::Pending => return false,
        };
        let Some(confirming) = self.confirming.take() else { return false };
        let Confirming { number, payload, cleared, ticket, .. } = *confirming;
        self.client_ready = true;
        let mut out = Outputs::new();
        if known && self.s.wire.still(number) {
            self.send(number, cleared, ticket, &mut out);
        } else {
            let status = Status::Cut("changed".into());
            if let Err(error) = ticket.finish(Outcome { status, tag: None, rows: 0 }) {
                self.fail(&error);
                return true;
            }
            let words = if known {
                "refused: what the command means changed while it waited for approval"
            } else {
                "refused: what the command means could not be looked at again after it waited"
            };
            let refusal = Refusal::plain(RefusalKind::Denied, words, "run it again to ask again");
            let refusal = self.engine.parts.gate.refuse(&self.s.session, number, &payload, refusal);
            self.s.wire.refused(number, &refusal, &mut out);
        }
        self.take(out);
        true
    }

    /// Tells the client that its command waits.
    fn notice(&mut self) {
        let Some(judging) = &self.judging else { return };
        let Some(holding) = &judging.holding else { return };
        let notice = HoldNotice {
            id: holding.ask.clone(),
            groups: holding.terms.groups.clone(),
            quorum: holding.terms.quorum,
            waited_s: judging.since.elapsed().as_secs(),
            expires_s: holding.terms.expires_ms / 1000,
        };
        let mut out = Outputs::new();
        self.s.wire.held(judging.number, &notice, &mut out);
        self.take(out);
        let next = Instant::now() + self.notice_every();
        self.timer.as_mut().reset(next);
    }

    fn notice_every(&self) -> Duration {
        Duration::from_millis(self.engine.limits.hold_notice_ms.max(50))
    }

    fn poll_relearning(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((fresh, until)) = &mut self.relearning else { return false };
        let over = Instant::now() >= *until;
        if Pin::new(fresh).poll(cx).is_pending() && !over {
            return false;
        }
        self.relearning = None;
        self.client_ready = true;
        true
    }

    fn poll_client(&mut self, cx: &mut Context<'_>) -> bool {
        if self.ending.is_some() {
            return false;
        }
        let mut moved = false;
        let full = self.retry.is_some()
            || self.s.from_client.len() >= CLIENT_BUFFER_MAX
            || self.window() >= WINDOW_BYTES
            || self.ups_bytes + self.up.waiting_bytes() >= WINDOW_BYTES
            || self.ups.len() >= 256;
        // Even while a command waits the client is watched, so that its leaving withdraws it.
        if !full {
            let read = poll_read(&mut *self.client, cx, &mut self.s.from_client);
            match read {
                Poll::Pending => {}
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => {
                    self.client_open = false;
                    self.end("client", None);
                    return true;
                }
                Poll::Ready(Ok(_)) => {
                    self.client_ready = true;
                    moved = true;
                }
            }
        }
        let may = self.client_ready
            && self.retry.is_none()
            && self.judging.is_none()
            && self.confirming.is_none()
            && self.relearning.is_none()
            && self.s.wire.takes_client();
        if may {
            let mut out = Outputs::new();
            let before = self.s.from_client.len();
            let result = self.s.wire.client(&mut self.s.from_client, &mut out);
            // Nothing taken and nothing said: wait for more bytes or for another turn of events.
            self.client_ready = before != self.s.from_client.len() || !out.is_empty();
            moved |= self.client_ready;
            self.take(out);
            if let Err(violation) = result {
                self.say(violation.answer);
                self.end("violation", Some(&violation.why));
            }
        }
        moved
    }

    fn say(&mut self, bytes: Bytes) {
        let output = Output::ToClient(bytes);
        self.take(vec![output]);
    }

    fn poll_target(&mut self, cx: &mut Context<'_>) -> bool {
        let full = self.retry.is_some() || self.window() >= WINDOW_BYTES;
        if !self.target_open || self.ending.is_some() || full {
            return false;
        }
        let n = match poll_read(&mut *self.s.target, cx, &mut self.s.from_target) {
            Poll::Pending => return false,
            Poll::Ready(Ok(n)) => n,
            Poll::Ready(Err(_)) => 0,
        };
        let mut out = Outputs::new();
        if n == 0 {
            self.lose_target("the connection was closed");
            return true;
        }
        let result = self.s.wire.target(&mut self.s.from_target, &mut out);
        self.take(out);
        self.client_ready = true;
        if let Err(violation) = result {
            self.say(violation.answer);
            self.end("target_violation", Some(&violation.why));
        }
        true
    }

    fn lose_target(&mut self, why: &str) {
        self.target_open = false;
        let words = format!("lost `{}`: {why}", self.s.place.resource);
        let mut out = Outputs::new();
        self.s.wire.target_lost(&words, &mut out);
        self.take(out);
        self.end("target_lost", Some(why));
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Some(next) = self.ups.front_mut() {
            if let Up::More(release) = next {
                let size = release.len();
                match release.poll_released(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Err(error)) => {
                        self.fail(&error);
                        return true;
                    }
                    Poll::Ready(Ok(released)) => self.up.more(released),
                }
                self.ups_bytes = self.ups_bytes.saturating_sub(size);
                self.ups.pop_front();
            } else {
                match self.ups.pop_front() {
                    Some(Up::Cleared(cleared)) => self.up.send(cleared),
                    Some(Up::Control(bytes)) => self.up.control(bytes),
                    Some(Up::More(_)) | None => break,
                }
            }
            moved = true;
        }
        if self.target_open && (!self.up.is_empty() || self.flush_up) {
            match poll_write(&mut *self.s.target, cx, &mut self.up, &mut self.flush_up) {
                Ok(wrote) => moved |= wrote,
                Err(_) => {
                    self.lose_target("the connection was closed");
                    moved = true;
                }
            }
        }
        moved
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Some(release) = self.downs.front_mut() {
            let size = release.len();
            match release.poll_released(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => {
                    self.fail(&error);
                    return true;
                }
                Poll::Ready(Ok(released)) => {
                    self.down.send(released);
                    self.downs_bytes = self.downs_bytes.saturating_sub(size);
                    self.downs.pop_front();
                    moved = true;
                }
            }
        }
        if self.client_open && (!self.down.is_empty() || self.flush_down) {
            match poll_write(&mut *self.client, cx, &mut self.down, &mut self.flush_down) {
                Ok(wrote) => moved |= wrote,
                Err(_) => {
                    self.client_open = false;
                    self.end("client", None);
                    moved = true;
                }
            }
        }
        moved
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        if self.timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        let now = self.now();
        if self.s.expiry == Expiry::Rebind {
            let until = self.s.entered.identified_until();
            self.s.expires = self.s.expires.max(until).min(self.s.cap);
        }
        // Asleep until the identity expires, unless something is to be watched until then.
        let left = Duration::from_millis(self.s.expires.ms_since(now).clamp(1_000, 3_600_000));
        let mut next = if self.draining { Duration::from_millis(100) } else { left };
        if self.ending.is_none() {
            let rest = self.s.wire.at_rest() && self.judging.is_none() && self.confirming.is_none();
            if self.draining && rest {
                let hint = "connect again; another gateway takes new sessions";
                self.farewell(RefusalKind::Ended, "the gateway is stopping", hint, "drained");
            } else if now >= self.s.expires {
                let grace = self.s.expires.plus_ms(self.engine.limits.expiry_grace_ms);
                if rest || self.s.expiry == Expiry::Strict || now >= grace {
                    let hint = "connect again with a fresh credential";
                    let words = "the identity of this session has expired";
                    self.farewell(RefusalKind::Expired, words, hint, "expired");
                }
            }
            if let Some(judging) = &self.judging
                && judging.holding.is_some()
            {
                if judging.since.elapsed() >= self.notice_every() {
                    self.notice();
                }
                next = next.min(self.notice_every());
            }
        } else {
            next = Duration::from_millis(50);
        }
        self.timer.as_mut().reset(Instant::now() + next);
        // Registers the new deadline; it is in the future.
        let _ = self.timer.as_mut().poll(cx);
        true
    }
}
