//! The recorded session and the in-flight half of its commands.

use std::sync::Arc;

use bulla_core::{
    CloseRecord, EventId, EvidenceRecord, Flow, Journal, Mode, Obligations, Origin, Outcome,
    Pending, Principal, RecordError, RefusalRecord, Resource, SessionId, Status, Timestamp,
};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::flow::{Release, ToClient, ToTarget};

/// Bytes that a `bounded` session releases ahead of the record: at most twice this, since what
/// came right before a mark may be on its way to the disk as well.
pub const AHEAD_BYTES_MAX: usize = 512 << 10;
/// Milliseconds for which it does so; the same applies.
pub const AHEAD_MS_MAX: u64 = 5;

/// How far a `bounded` session is ahead of its record.
#[derive(Default)]
struct Ahead {
    /// An append that was not durable when last looked at, and when it was made.
    mark: Option<(Pending, Timestamp)>,
    /// Released since, itself included.
    bytes: usize,
}

impl Ahead {
    /// What a release of `bytes` must wait for. A later append is durable only after an earlier one.
    fn wait(&mut self, bytes: usize, pending: Pending, now: Timestamp) -> Option<Pending> {
        let (since, before) = match &self.mark {
            Some((mark, since)) => match mark.peek() {
                None => (Some(*since), self.bytes),
                Some(Ok(_)) => (None, 0),
                // Nothing behind it will ever be durable.
                Some(Err(_)) => return Some(pending),
            },
            None => (None, 0),
        };
        let late = since.is_some_and(|since| now.ms_since(since) > AHEAD_MS_MAX);
        if late || before + bytes > AHEAD_BYTES_MAX {
            return Some(pending);
        }
        self.bytes = before + bytes;
        if since.is_none() {
            self.mark = Some((pending, now));
        }
        None
    }
}

struct Inner {
    id: SessionId,
    principal: Arc<Principal>,
    resource: Arc<Resource>,
    part: Option<Arc<str>>,
    origin: Origin,
    honours: &'static [&'static str],
    journal: Mutex<Box<dyn Journal>>,
    ahead: Mutex<Ahead>,
}

/// One principal on one resource, opened by a decision and recorded. Cheap to clone.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

impl Session {
    /// `journal` comes from `Recorder::open`: a session that is not recorded cannot exist.
    pub fn new(
        id: SessionId,
        principal: Arc<Principal>,
        resource: Arc<Resource>,
        part: Option<Arc<str>>,
        origin: Origin,
        honours: &'static [&'static str],
        journal: Box<dyn Journal>,
    ) -> Self {
        let (journal, ahead) = (Mutex::new(journal), Mutex::default());
        let inner = Inner { id, principal, resource, part, origin, honours, journal, ahead };
        Self(Arc::new(inner))
    }
    pub fn id(&self) -> SessionId {
        self.0.id
    }
    pub fn principal(&self) -> &Principal {
        &self.0.principal
    }
    pub fn principal_shared(&self) -> Arc<Principal> {
        self.0.principal.clone()
    }
    pub fn resource(&self) -> &Resource {
        &self.0.resource
    }
    pub fn part(&self) -> Option<&str> {
        self.0.part.as_deref()
    }
    pub fn origin(&self) -> &Origin {
        &self.0.origin
    }
    pub fn mode(&self) -> Mode {
        self.0.resource.mode
    }
    pub(crate) fn honours(&self) -> &'static [&'static str] {
        self.0.honours
    }
    /// Records a refusal. None if even that cannot be written: it stands all the same.
    pub(crate) fn refuse(&self, record: &RefusalRecord<'_>) -> Option<EventId> {
        self.with(|journal| {
            let event = EventId { session: self.0.id, seq: journal.next_seq() };
            journal.refusal(record).ok().map(|_| event)
        })
    }
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut dyn Journal) -> R) -> R {
        f(self.0.journal.lock().as_mut())
    }
    /// Bytes that belong to no command (the gateway's own words, a target's notifications).
    pub fn aside(
        &self,
        flow: Flow,
        bytes: Bytes,
        now: Timestamp,
    ) -> Result<Release<ToClient>, RecordError> {
        let record =
            EvidenceRecord { at: now, number: 0, flow, bytes: bytes.clone(), outcome: None };
        let pending = self.with(|journal| journal.evidence(record))?;
        Ok(self.release(bytes, pending, now))
    }
    pub fn close(&self, record: &CloseRecord) -> Result<Pending, RecordError> {
        self.with(|journal| journal.close(record))
    }
    fn release<D>(&self, bytes: Bytes, pending: Pending, now: Timestamp) -> Release<D> {
        let wait = match self.0.resource.mode {
            Mode::Strict => Some(pending),
            Mode::Bounded => self.0.ahead.lock().wait(bytes.len(), pending, now),
        };
        Release::new(bytes, wait)
    }
}

/// The in-flight half of a command: every response comes back through it. Dropped unfinished it
/// records *abandoned*.
pub struct Ticket {
    session: Session,
    number: u64,
    owe: Obligations,
    clock: Arc<dyn bulla_core::Clock>,
    finished: bool,
}

impl Ticket {
    pub(crate) fn new(
        session: Session,
        number: u64,
        owe: Obligations,
        clock: Arc<dyn bulla_core::Clock>,
    ) -> Self {
        Self { session, number, owe, clock, finished: false }
    }
    pub fn number(&self) -> u64 {
        self.number
    }
    pub fn owe(&self) -> &Obligations {
        &self.owe
    }
    fn append(
        &mut self,
        at: Timestamp,
        flow: Flow,
        bytes: Bytes,
        outcome: Option<Outcome>,
    ) -> Result<Pending, RecordError> {
        let ends = outcome.is_some();
        let record = EvidenceRecord { at, number: self.number, flow, bytes, outcome };
        let pending = self.session.with(|journal| journal.evidence(record))?;
        self.finished |= ends;
        Ok(pending)
    }
    /// Further input of a streaming command: durable before it goes on, whatever the mode.
    pub fn more(&mut self, bytes: Bytes) -> Result<Release<ToTarget>, RecordError> {
        let now = self.clock.now();
        let pending = self.append(now, Flow::ToTarget, bytes.clone(), None)?;
        Ok(Release::new(bytes, Some(pending)))
    }
    /// A piece of the response; with the last, how the command ended.
    pub fn reply(
        &mut self,
        bytes: Bytes,
        done: Option<Outcome>,
    ) -> Result<Release<ToClient>, RecordError> {
        let now = self.clock.now();
        let pending = self.append(now, Flow::ToClient, bytes.clone(), done)?;
        Ok(self.session.release(bytes, pending, now))
    }
    /// The command ended without further bytes.
    pub fn finish(mut self, outcome: Outcome) -> Result<Pending, RecordError> {
        self.append(self.clock.now(), Flow::ToClient, Bytes::new(), Some(outcome))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.finished {
            let outcome = Outcome { status: Status::Abandoned, tag: None, rows: 0 };
            // If even this cannot be written, the missing outcome says the same.
            let _ = self.append(self.clock.now(), Flow::ToClient, Bytes::new(), Some(outcome));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_core::{Digest, Receipt, pending};

    /// Whether a release of so many bytes must wait, at so many milliseconds.
    fn check(ahead: &mut Ahead, bytes: usize, ms: u64, waits: bool) -> bulla_core::Completer {
        let (completer, pending) = pending();
        let now = Timestamp::from_secs(1).plus_ms(ms);
        assert_eq!(ahead.wait(bytes, pending, now).is_some(), waits, "{bytes} bytes at {ms} ms");
        completer
    }

    #[test]
    fn a_bounded_session_is_ahead_of_its_record_by_so_much_and_no_more() {
        let durable = || Ok(Receipt { index: 0, leaf: Digest::ZERO });
        let mut ahead = Ahead::default();
        let first = check(&mut ahead, 1, 0, false);
        let _second = check(&mut ahead, AHEAD_BYTES_MAX - 1, AHEAD_MS_MAX, false);
        let _full = check(&mut ahead, 1, AHEAD_MS_MAX, true);
        let _late = check(&mut ahead, 0, AHEAD_MS_MAX + 1, true);
        first.complete(durable());
        let next = check(&mut ahead, AHEAD_BYTES_MAX, 100, false);
        let _full = check(&mut ahead, 1, 100, true);
        next.complete(durable());
        let last = check(&mut ahead, 1, 200, false);
        last.complete(Err(RecordError::Full));
        let _failed = check(&mut ahead, 1, 200, true);
        let _huge = check(&mut Ahead::default(), AHEAD_BYTES_MAX + 1, 0, true);
    }
}
