//! The recorded session and the in-flight half of its commands.

use std::{mem::take, sync::Arc};

use bulla_core::{
    Ahead, Clock, CloseRecord, EventId, EvidenceRecord, Flow, Journal, MaskedCells, Mode,
    Obligations, Origin, Outcome, Pending, Principal, RecordError, RefusalRecord, Resource,
    SessionId, Status, Timestamp,
};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::flow::{Release, ToClient, ToTarget};

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
        let journal = Mutex::new(journal);
        let ahead = Mutex::default();
        Self(Arc::new(Inner { id, principal, resource, part, origin, honours, journal, ahead }))
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
    pub fn aside(&self, flow: Flow, bytes: Bytes, now: Timestamp) -> Going<ToClient> {
        let (outcome, masked, copy) = (None, MaskedCells::default(), bytes.clone());
        let record = EvidenceRecord { at: now, number: 0, flow, bytes: copy, outcome, masked };
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

/// Bytes on their way, or why the record does not take them.
type Going<D> = Result<Release<D>, RecordError>;
/// An append, and when it was made.
type Appended = Result<(Pending, Timestamp), RecordError>;

/// The in-flight half of a command: every response comes back through it. Dropped unfinished it
/// records *abandoned*.
pub struct Ticket {
    session: Session,
    number: u64,
    owe: Obligations,
    clock: Arc<dyn Clock>,
    /// Cells of the response that are masked, by class: told with the outcome.
    pub masked: MaskedCells,
    finished: bool,
}

impl Ticket {
    pub(crate) fn new(of: Session, number: u64, owe: Obligations, clock: Arc<dyn Clock>) -> Self {
        Self { session: of, number, owe, clock, masked: MaskedCells::default(), finished: false }
    }
    pub fn number(&self) -> u64 {
        self.number
    }
    pub fn owe(&self) -> &Obligations {
        &self.owe
    }
    fn append(&mut self, flow: Flow, bytes: Bytes, outcome: Option<Outcome>) -> Appended {
        let (at, ends) = (self.clock.now(), outcome.is_some());
        let masked = if ends { take(&mut self.masked) } else { MaskedCells::default() };
        let record = EvidenceRecord { at, number: self.number, flow, bytes, outcome, masked };
        let pending = self.session.with(|journal| journal.evidence(record))?;
        self.finished |= ends;
        Ok((pending, at))
    }
    /// Further input of a streaming command: durable before it goes on, whatever the mode.
    pub fn more(&mut self, bytes: Bytes) -> Going<ToTarget> {
        self.onward(Flow::ToTarget, bytes)
    }
    /// What the client tells the target beside that input, such as a signal.
    pub fn more_beside(&mut self, bytes: Bytes) -> Going<ToTarget> {
        self.onward(Flow::ToTargetBeside, bytes)
    }
    fn onward(&mut self, flow: Flow, bytes: Bytes) -> Going<ToTarget> {
        let (pending, _) = self.append(flow, bytes.clone(), None)?;
        Ok(Release::new(bytes, Some(pending)))
    }
    /// A piece of the response; with the last, how the command ended.
    pub fn reply(&mut self, bytes: Bytes, done: Option<Outcome>) -> Going<ToClient> {
        let (pending, now) = self.append(Flow::ToClient, bytes.clone(), done)?;
        Ok(self.session.release(bytes, pending, now))
    }
    /// A piece of a second stream beside the response, such as standard error.
    pub fn reply_beside(&mut self, bytes: Bytes) -> Going<ToClient> {
        let (pending, now) = self.append(Flow::ToClientBeside, bytes.clone(), None)?;
        Ok(self.session.release(bytes, pending, now))
    }
    /// The command ended without further bytes.
    pub fn finish(mut self, outcome: Outcome) -> Result<Pending, RecordError> {
        self.append(Flow::ToClient, Bytes::new(), Some(outcome)).map(|(pending, _)| pending)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.finished {
            let outcome = Outcome { status: Status::Abandoned, tag: None, rows: 0 };
            // If even this cannot be written, the missing outcome says the same.
            let _ = self.append(Flow::ToClient, Bytes::new(), Some(outcome));
        }
    }
}
