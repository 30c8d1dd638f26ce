//! The ports that gate and road stand on, for a simulation.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
};

use bulla_core::{
    Answer, ApprovalError, Approvals, Ask, Asked, Boxed, Clock, CloseRecord, Completer, Digest,
    EventId, EvidenceRecord, Flow, GrantRecord, HoldRecord, IntentRecord, Journal, OpenRecord,
    Pending, Policies, PolicySource, Purity, Receipt, RecordError, RefusalRecord, SessionId,
    Timestamp,
};
use bulla_ledger::{Ledger, wait_durable};
use bulla_policy::Bundle;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    Break,
    model::{Kind, Model, Rec},
};

pub struct SimClock(pub AtomicU64);

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

/// Which bundle is in force; none past its age.
pub struct SimPolicies(pub Mutex<Option<Arc<Bundle>>>);

impl PolicySource for SimPolicies {
    fn current(&self) -> Option<Arc<dyn Policies>> {
        self.0.lock().clone().map(|bundle| bundle as Arc<dyn Policies>)
    }
}

/// One ask that waits, or was answered.
struct Waiting {
    id: Arc<str>,
    digest: Digest,
    answer: Option<Answer>,
}

/// Where the approvers look.
#[derive(Default)]
pub struct Board {
    waiting: Vec<Waiting>,
    next: u64,
    pub down: bool,
    /// An id that was spent, for [`Break::GrantReused`].
    spent: Option<Arc<str>>,
    lie: Option<Break>,
}

pub struct SimApprovals {
    pub board: Arc<Mutex<Board>>,
    pub model: Arc<Mutex<Model>>,
}

impl SimApprovals {
    pub fn new(model: Arc<Mutex<Model>>, lie: Option<Break>) -> Self {
        Self { board: Arc::new(Mutex::new(Board { lie, ..Board::default() })), model }
    }

    /// An approver looks at what waits and answers one of it. `which` and `how` choose.
    pub fn decide(&self, which: u64, how: u64) -> bool {
        let mut board = self.board.lock();
        let lie = board.lie;
        let open: Vec<usize> =
            (0..board.waiting.len()).filter(|i| board.waiting[*i].answer.is_none()).collect();
        if open.is_empty() {
            return false;
        }
        let at = open[usize::try_from(which).unwrap_or(0) % open.len()];
        let waiting = &mut board.waiting[at];
        waiting.answer = Some(match how % 8 {
            0..=4 => {
                // What the approver saw and meant.
                let mut seen = waiting.digest;
                if lie == Some(Break::GrantForAnother) {
                    seen.0[0] ^= 1;
                }
                self.model.lock().approved(&waiting.id, seen);
                let id = waiting.id.clone();
                let answer = Answer::Approved {
                    by: "corp|alice".into(),
                    reason: None,
                    digest: waiting.digest,
                };
                board.spent = Some(id);
                board.waiting[at].answer = Some(answer);
                return true;
            }
            5 => Answer::Rejected { by: "corp|alice".into(), reason: Some("no".into()) },
            6 => Answer::Approved {
                by: "corp|alice".into(),
                reason: None,
                // An approval of something else must not be taken for this.
                digest: Digest([9; 32]),
            },
            _ => Answer::Expired,
        });
        true
    }
}

struct SimAsked {
    board: Arc<Mutex<Board>>,
    id: Arc<str>,
}

impl Asked for SimAsked {
    fn id(&self) -> Arc<str> {
        self.id.clone()
    }
    fn answer(&mut self) -> Boxed<'_, Answer> {
        Box::pin(poll_fn(|_| {
            let board = self.board.lock();
            let found = board.waiting.iter().rev().find(|waiting| waiting.id == self.id);
            match found.and_then(|waiting| waiting.answer.clone()) {
                Some(answer) => Poll::Ready(answer),
                None => Poll::Pending,
            }
        }))
    }
}

impl Drop for SimAsked {
    fn drop(&mut self) {
        self.board.lock().waiting.retain(|waiting| waiting.id != self.id);
    }
}

impl Approvals for SimApprovals {
    fn ask(&self, ask: Ask) -> Result<Box<dyn Asked>, ApprovalError> {
        let mut board = self.board.lock();
        if board.down {
            return Err(ApprovalError::Down("the simulation says so".into()));
        }
        board.next += 1;
        let mut id: Arc<str> = format!("A{:05}", board.next).into();
        let mut answer = None;
        if board.lie == Some(Break::GrantReused)
            && let Some(spent) = board.spent.clone()
        {
            id = spent;
            let by = "corp|alice".into();
            answer = Some(Answer::Approved { by, reason: None, digest: ask.digest });
        }
        board.waiting.push(Waiting { id: id.clone(), digest: ask.digest, answer });
        Ok(Box::new(SimAsked { board: self.board.clone(), id }))
    }
}

/// An append that the disk has and nobody was told of.
struct Untold {
    /// None where the recorder lied.
    completer: Option<Completer>,
    result: Result<Receipt, RecordError>,
    session: usize,
    rec: usize,
}

/// Between gate and ledger: hands every append on, remembers it, and tells its outcome only when
/// the scheduler says so.
pub struct SimRecorder {
    ledger: Arc<Ledger>,
    shared: Arc<Shared>,
}

struct Shared {
    model: Arc<Mutex<Model>>,
    untold: Mutex<VecDeque<Untold>>,
    lie: Option<Break>,
}

impl SimRecorder {
    pub fn new(ledger: Arc<Ledger>, model: Arc<Mutex<Model>>, lie: Option<Break>) -> Self {
        let shared = Shared { model, untold: Mutex::default(), lie };
        Self { ledger, shared: Arc::new(shared) }
    }

    pub fn untold(&self) -> usize {
        self.shared.untold.lock().len()
    }

    /// The disk reports the oldest `n` appends.
    pub fn tell(&self, n: usize) {
        for _ in 0..n {
            let Some(untold) = self.shared.untold.lock().pop_front() else { return };
            if let Ok(receipt) = &untold.result {
                self.shared.model.lock().durable(untold.session, untold.rec, *receipt);
            }
            if let Some(completer) = untold.completer {
                completer.complete(untold.result);
            }
        }
    }

    /// Opens a session, which exists once that is durable.
    pub fn open(
        &self,
        record: &OpenRecord,
        strict: bool,
    ) -> Result<(usize, Box<dyn Journal>), RecordError> {
        use bulla_core::Recorder as _;
        let (inner, pending) = self.ledger.open(record)?;
        let receipt = wait_durable(pending)?;
        let mut model = self.shared.model.lock();
        let at = model.open(record.session, strict, receipt, format!("{:?}", record.claims));
        drop(model);
        let shared = self.shared.clone();
        Ok((at, Box::new(SimJournal { inner, id: record.session, at, shared, evidence: 0 })))
    }
}

struct SimJournal {
    inner: Box<dyn Journal>,
    id: SessionId,
    at: usize,
    shared: Arc<Shared>,
    /// Pieces of evidence so far.
    evidence: u64,
}

impl SimJournal {
    fn append(
        &mut self,
        mut rec: Rec,
        write: impl FnOnce(&mut dyn Journal) -> Result<Pending, RecordError>,
    ) -> Result<Pending, RecordError> {
        rec.event = EventId { session: self.id, seq: self.inner.next_seq() }.to_string();
        let pending = match write(&mut *self.inner) {
            Ok(pending) => pending,
            Err(error) => {
                let mut model = self.shared.model.lock();
                model.record_failed(self.at);
                model.turned_away += u64::from(error == RecordError::Full);
                return Err(error);
            }
        };
        // In step with the committer, so that a seed is a run.
        let result = wait_durable(pending);
        let intent = matches!(rec.kind, Kind::Intent { .. });
        rec.failed = result.is_err();
        let mut model = self.shared.model.lock();
        if rec.failed {
            model.record_failed(self.at);
        }
        let rec = model.append(self.at, rec);
        drop(model);
        if self.shared.lie == Some(Break::IntentLast) && intent {
            // The gate is told, and the record never knows.
            return Ok(Pending::done(result));
        }
        let (completer, pending) = match self.shared.lie {
            Some(Break::LyingRecorder) => (None, Pending::done(result.clone())),
            _ => {
                let (completer, pending) = bulla_core::pending();
                (Some(completer), pending)
            }
        };
        let untold = Untold { completer, result, session: self.at, rec };
        self.shared.untold.lock().push_back(untold);
        Ok(pending)
    }
}

fn rec(kind: Kind, number: u64, bytes: Bytes) -> Rec {
    Rec { kind, number, bytes, event: String::new(), durable: false, failed: false }
}

impl Journal for SimJournal {
    fn next_seq(&self) -> u64 {
        self.inner.next_seq()
    }
    fn intent(&mut self, record: &IntentRecord<'_>) -> Result<Pending, RecordError> {
        let pure = record.command.purity == Purity::Read;
        let grant = record.grant.map(|grant| (grant.ask.clone(), grant.digest));
        let limited = record.command.shown.contains("audit");
        let kind = Kind::Intent { pure, grant, limited };
        self.append(rec(kind, record.number, record.payload.clone()), |inner| inner.intent(record))
    }
    fn refusal(&mut self, record: &RefusalRecord<'_>) -> Result<Pending, RecordError> {
        if self.shared.lie == Some(Break::SwallowedRefusal) {
            let leaf = Digest::ZERO;
            return Ok(Pending::done(Ok(Receipt { index: 0, leaf })));
        }
        let rec = rec(Kind::Refusal, record.number, record.payload.clone());
        self.append(rec, |inner| inner.refusal(record))
    }
    fn hold(&mut self, record: &HoldRecord<'_>) -> Result<Pending, RecordError> {
        let kind = Kind::Hold { ask: record.ask.clone(), digest: record.digest };
        self.append(rec(kind, record.number, Bytes::new()), |inner| inner.hold(record))
    }
    fn grant(&mut self, record: &GrantRecord) -> Result<Pending, RecordError> {
        self.append(rec(Kind::Other, record.number, Bytes::new()), |inner| inner.grant(record))
    }
    fn evidence(&mut self, record: EvidenceRecord) -> Result<Pending, RecordError> {
        self.evidence += 1;
        if self.shared.lie == Some(Break::LostEvidence) && self.evidence.is_multiple_of(4) {
            let leaf = Digest::ZERO;
            return Ok(Pending::done(Ok(Receipt { index: 0, leaf })));
        }
        let kind = match record.flow {
            Flow::ToTarget | Flow::ToTargetBeside => Kind::More,
            Flow::ToClient | Flow::ToClientBeside | Flow::Gateway => Kind::Response,
        };
        let rec = rec(kind, record.number, record.bytes.clone());
        self.append(rec, |inner| inner.evidence(record))
    }
    fn close(&mut self, record: &CloseRecord) -> Result<Pending, RecordError> {
        self.append(rec(Kind::Other, 0, Bytes::new()), |inner| inner.close(record))
    }
}
