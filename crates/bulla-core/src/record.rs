//! The ports to the record: what is written, and the proof that it is durable.
//!
//! A [`Recorder`] opens one [`Journal`] per session. Appending never blocks: it returns a
//! [`Pending`], which resolves once the bytes are on stable storage, or to an error that ends the
//! traffic. Within one journal, durability follows the order of the calls: when a later append is
//! durable, so is every earlier one. An append that nobody waits for may stay behind for as long as
//! its recorder says; the first to wait hurries it on, and everything before it.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use crate::{
    Because, BootId, Command, DenyReason, Digest, HoldTerms, Mode, Origin, Principal, ResourceName,
    SessionId, Timestamp,
};

/// Why the record cannot be written. Whatever it is, nothing may pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the disk of the record is full")]
    Full,
    #[error("the record cannot be written: {0}")]
    Write(Arc<str>),
    #[error("the record has stopped: {0}")]
    Stopped(Arc<str>),
    #[error("too much is waiting to be recorded")]
    Backlog,
    #[error("an entry exceeds its limit: {0}")]
    TooLarge(&'static str),
    #[error("internal error of the recorder: {0}")]
    Bug(&'static str),
}

impl RecordError {
    /// What a client may know of it.
    pub fn public(&self) -> &'static str {
        match self {
            Self::Full => "the disk of the record is full",
            Self::Backlog => "too much is waiting to be recorded",
            Self::TooLarge(_) => "its entry would exceed the limit",
            Self::Write(_) | Self::Stopped(_) | Self::Bug(_) => "the record cannot be written",
        }
    }
}

/// Proof that an entry is durable in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Position in the log, counted from 0.
    pub index: u64,
    /// RFC 6962 leaf hash of the entry.
    pub leaf: Digest,
}

/// Hurries on what was appended: somebody waits for it now.
pub trait Hurry: Send + Sync {
    fn hurry(self: Arc<Self>);
}

enum PendingState {
    Waiting {
        waker: Option<Waker>,
        /// Taken by the first who waits.
        hurry: Option<Arc<dyn Hurry>>,
    },
    Done(Result<Receipt, RecordError>),
}

impl std::fmt::Debug for PendingState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Waiting { .. } => f.write_str("Waiting"),
            Self::Done(result) => f.debug_tuple("Done").field(result).finish(),
        }
    }
}

fn lock(state: &Mutex<PendingState>) -> MutexGuard<'_, PendingState> {
    // The state is replaced whole under the lock, so a poisoned one is still consistent.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Resolves when an append is durable. Cancel safe; may be polled again after it resolved.
#[derive(Debug)]
pub struct Pending(Arc<Mutex<PendingState>>);

/// The recorder's half of a [`Pending`]. Dropped unused it resolves to an error, never to silence.
#[derive(Debug)]
pub struct Completer(Option<Arc<Mutex<PendingState>>>);

/// A connected pair.
pub fn pending() -> (Completer, Pending) {
    connected(None)
}

/// A connected pair; the first who has to wait calls `hurry`.
pub fn pending_unhurried(hurry: Arc<dyn Hurry>) -> (Completer, Pending) {
    connected(Some(hurry))
}

fn connected(hurry: Option<Arc<dyn Hurry>>) -> (Completer, Pending) {
    let state = Arc::new(Mutex::new(PendingState::Waiting { waker: None, hurry }));
    (Completer(Some(state.clone())), Pending(state))
}

impl Pending {
    /// One that has already resolved.
    pub fn done(result: Result<Receipt, RecordError>) -> Self {
        Self(Arc::new(Mutex::new(PendingState::Done(result))))
    }
    /// The result, if it is there. Does not register for a wake-up, and hurries nothing.
    pub fn peek(&self) -> Option<Result<Receipt, RecordError>> {
        match &*lock(&self.0) {
            PendingState::Waiting { .. } => None,
            PendingState::Done(result) => Some(result.clone()),
        }
    }
    pub fn poll_durable(&self, cx: &mut Context<'_>) -> Poll<Result<Receipt, RecordError>> {
        let hurry = match &mut *lock(&self.0) {
            PendingState::Done(result) => return Poll::Ready(result.clone()),
            PendingState::Waiting { waker, hurry } => {
                if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                hurry.take()
            }
        };
        // Without the lock, which the recorder's own thread takes to complete it.
        if let Some(hurry) = hurry {
            hurry.hurry();
        }
        Poll::Pending
    }
}

impl Future for Pending {
    type Output = Result<Receipt, RecordError>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_durable(cx)
    }
}

impl Completer {
    pub fn complete(mut self, result: Result<Receipt, RecordError>) {
        self.finish(result);
    }
    fn finish(&mut self, result: Result<Receipt, RecordError>) {
        let Some(state) = self.0.take() else { return };
        let old = std::mem::replace(&mut *lock(&state), PendingState::Done(result));
        if let PendingState::Waiting { waker: Some(waker), .. } = old {
            waker.wake();
        }
    }
}

impl Drop for Completer {
    fn drop(&mut self) {
        self.finish(Err(RecordError::Stopped("the recorder dropped an append".into())));
    }
}

/// Which way a run of bytes flowed. The numbers are part of the entry format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flow {
    /// From the client to the target: the payload of a command.
    ToTarget = 0,
    /// From the target to the client: a response.
    ToClient = 1,
    /// Made by the gateway for the client: refusals, notices, handshakes.
    Gateway = 2,
    /// From the target to the client, beside a response: a second stream such as standard error.
    ToClientBeside = 3,
    /// From the client to the target, beside a payload: signals, sizes of a terminal. One line of
    /// text each.
    ToTargetBeside = 4,
}

/// A session opens.
#[derive(Debug, Clone)]
pub struct OpenRecord {
    pub session: SessionId,
    pub at: Timestamp,
    pub principal: Arc<Principal>,
    pub resource: ResourceName,
    /// Part of the resource chosen by the client, such as a database of a cluster.
    pub part: Option<Arc<str>>,
    pub protocol: &'static str,
    pub origin: Origin,
    pub mode: Mode,
    pub because: Because,
    /// What the client claimed or asked for at login (application name, claimed user, protocol
    /// version), for the record only.
    pub claims: Vec<(Arc<str>, Arc<str>)>,
}

/// Somebody was turned away before a session existed.
#[derive(Debug, Clone)]
pub struct TurnedAwayRecord {
    pub at: Timestamp,
    pub protocol: &'static str,
    pub origin: Origin,
    /// The principal, if it was verified before the refusal.
    pub principal: Option<Arc<Principal>>,
    pub resource: Option<Arc<str>>,
    /// A stable word: `bad_token`, `unknown_resource`, `not_permitted`, `target_unreachable`.
    pub why: &'static str,
    /// For operators; never shown to the client, never holds a token.
    pub detail: Arc<str>,
    pub because: Option<Because>,
}

/// The intent to send a command.
#[derive(Debug, Clone)]
pub struct IntentRecord<'a> {
    pub at: Timestamp,
    /// The command's number in the session, from 1.
    pub number: u64,
    pub command: &'a Command,
    /// The exact bytes that will be sent.
    pub payload: Bytes,
    pub decision: &'static str,
    pub because: &'a Because,
    /// The approval that was spent on it, if one was needed.
    pub grant: Option<&'a GrantRecord>,
}

/// A command that was not sent.
#[derive(Debug, Clone)]
pub struct RefusalRecord<'a> {
    pub at: Timestamp,
    pub number: u64,
    /// None when the command could not be read.
    pub command: Option<&'a Command>,
    pub payload: Bytes,
    /// `RefusalKind::as_str`.
    pub kind: &'static str,
    /// The public message.
    pub message: &'a str,
    pub reason: Option<&'a DenyReason>,
    pub because: Option<&'a Because>,
}

/// A command waits for an approval.
#[derive(Debug, Clone)]
pub struct HoldRecord<'a> {
    pub at: Timestamp,
    pub number: u64,
    pub command: &'a Command,
    pub ask: Arc<str>,
    /// What an approval of it is bound to.
    pub digest: Digest,
    pub terms: &'a HoldTerms,
    pub because: &'a Because,
}

/// What became of an ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantRecord {
    pub at: Timestamp,
    pub number: u64,
    pub ask: Arc<str>,
    pub digest: Digest,
    /// `approved`, `rejected`, `expired`, `withdrawn`.
    pub answer: &'static str,
    /// Who answered, if a person did.
    pub by: Option<Arc<str>>,
    /// The approver's words.
    pub reason: Option<Arc<str>>,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub status: Status,
    /// The protocol's own summary: a command tag, an exit status.
    pub tag: Option<Arc<str>>,
    pub rows: u64,
}

/// One meaning each; the words are part of the entry format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    Ok,
    /// The target answered with an error: its code.
    Error(Arc<str>),
    /// The target skipped it because an earlier command of the same batch failed.
    Skipped,
    /// It ran, and its transaction, which ends with its batch, was taken back: a later command of
    /// the batch failed.
    RolledBack,
    /// It ran, and whether its transaction was committed was not known yet when this was written.
    Uncommitted,
    /// The client stopped it.
    Cancelled,
    /// The target was lost; whether it took effect is not known.
    TargetLost,
    /// The client left before the end.
    ClientLost,
    /// The gateway stopped the response: a limit, a failure of the record, an operator.
    Cut(Arc<str>),
    /// Dropped unfinished.
    Abandoned,
}

impl Status {
    /// The word in the entry: `ok`, `error:42P01`, `cut:rows_max`.
    pub fn word(&self) -> String {
        match self {
            Self::Ok => "ok".into(),
            Self::Error(code) => format!("error:{code}"),
            Self::Skipped => "skipped".into(),
            Self::RolledBack => "rolled_back".into(),
            Self::Uncommitted => "uncommitted".into(),
            Self::Cancelled => "cancelled".into(),
            Self::TargetLost => "target_lost".into(),
            Self::ClientLost => "client_lost".into(),
            Self::Cut(why) => format!("cut:{why}"),
            Self::Abandoned => "abandoned".into(),
        }
    }
}

/// Cells of an answer that are masked, by class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MaskedCells(BTreeMap<Arc<str>, u64>);

impl MaskedCells {
    pub fn add(&mut self, cells: &[(Arc<str>, u64)]) {
        for (class, count) in cells {
            let of = self.0.entry(class.clone()).or_default();
            *of = of.saturating_add(*count);
        }
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, u64)> {
        self.0.iter().map(|(class, count)| (class, *count))
    }
}

/// Bytes of a command's flow, and with the last of them, how the command ended.
#[derive(Debug, Clone)]
pub struct EvidenceRecord {
    pub at: Timestamp,
    pub number: u64,
    pub flow: Flow,
    pub bytes: Bytes,
    /// With the last piece. One append then holds both.
    pub outcome: Option<Outcome>,
    /// With the outcome: cells of the answer that are masked, by class.
    pub masked: MaskedCells,
}

/// A session ends.
#[derive(Debug, Clone)]
pub struct CloseRecord {
    pub at: Timestamp,
    /// A stable word: `client`, `target_lost`, `killed`, `expired`, `drained`, `violation`,
    /// `recorder`, `abandoned`.
    pub why: Arc<str>,
    pub detail: Option<Arc<str>>,
}

/// Something about the gateway itself: a change of configuration or policy, an administrator's act.
#[derive(Debug, Clone)]
pub struct AdminRecord {
    pub at: Timestamp,
    /// `config`, `policy`, `admin`, `evidence_read`, `approval`, `alarm`, `drain`.
    pub kind: &'static str,
    /// Who did it: `local:root`, a principal's id, `gateway`.
    pub by: Arc<str>,
    pub detail: Arc<str>,
    pub digest: Option<Digest>,
}

/// The state of the record, for readiness and `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordHealth {
    pub error: Option<Arc<str>>,
    pub entries: u64,
    pub free_bytes: u64,
    pub flush_p50_us: u64,
    pub flush_p99_us: u64,
    /// Bytes appended and not yet durable.
    pub waiting_bytes: u64,
    pub real_time: bool,
}

/// Writes the record. Trusted; an attacker who owns it can stop traffic, and can lie about what is
/// still to come, but cannot change what a checkpoint already covers.
pub trait Recorder: Send + Sync {
    fn boot(&self) -> BootId;
    /// Opens a session. Everything else of the session goes through its journal.
    fn open(&self, record: &OpenRecord) -> Result<(Box<dyn Journal>, Pending), RecordError>;
    fn turned_away(&self, record: &TurnedAwayRecord) -> Result<Pending, RecordError>;
    fn admin(&self, record: &AdminRecord) -> Result<Pending, RecordError>;
    fn health(&self) -> RecordHealth;
}

/// The record of one session, in order. Each append gets the next number of the session's chain.
pub trait Journal: Send {
    /// The number in the chain that the next append gets.
    fn next_seq(&self) -> u64;
    fn intent(&mut self, record: &IntentRecord<'_>) -> Result<Pending, RecordError>;
    fn refusal(&mut self, record: &RefusalRecord<'_>) -> Result<Pending, RecordError>;
    fn hold(&mut self, record: &HoldRecord<'_>) -> Result<Pending, RecordError>;
    fn grant(&mut self, record: &GrantRecord) -> Result<Pending, RecordError>;
    fn evidence(&mut self, record: EvidenceRecord) -> Result<Pending, RecordError>;
    /// Appends that go on after it are an error.
    fn close(&mut self, record: &CloseRecord) -> Result<Pending, RecordError>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn pending_wakes_once_and_keeps_its_result() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let (completer, pending) = pending();
        assert!(pending.poll_durable(&mut cx).is_pending() && pending.peek().is_none());
        let receipt = Receipt { index: 3, leaf: Digest::ZERO };
        completer.complete(Ok(receipt));
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(pending.poll_durable(&mut cx), Poll::Ready(Ok(receipt)));
        assert_eq!(pending.peek(), Some(Ok(receipt)));
    }

    impl Hurry for Count {
        fn hurry(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn only_who_waits_hurries_and_only_once() {
        let hurried = Arc::new(Count(AtomicUsize::new(0)));
        let mut cx = Context::from_waker(Waker::noop());
        let (completer, pending) = pending_unhurried(hurried.clone());
        assert!(pending.peek().is_none());
        assert_eq!(hurried.0.load(Ordering::SeqCst), 0);
        assert!(pending.poll_durable(&mut cx).is_pending());
        assert!(pending.poll_durable(&mut cx).is_pending());
        assert_eq!(hurried.0.load(Ordering::SeqCst), 1);
        completer.complete(Err(RecordError::Full));
        let (completer, pending) = pending_unhurried(hurried.clone());
        completer.complete(Err(RecordError::Full));
        assert!(pending.poll_durable(&mut cx).is_ready());
        assert_eq!(hurried.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_dropped_completer_is_an_error_not_silence() {
        let (completer, pending) = pending();
        drop(completer);
        assert!(matches!(pending.peek(), Some(Err(RecordError::Stopped(_)))));
    }
}
