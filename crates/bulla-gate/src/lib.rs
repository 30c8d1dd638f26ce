//! The trusted kernel: policy, approval, durable intent, and only then leave to send.
//!
//! Read this crate by hand. Everything that can reach a target comes out of [`Gate::clear`], and
//! everything that reaches a client comes out of a [`Release`].
//!
//! It is *not* a policy engine, a recorder, a network: those are ports. It has no runtime.
//!
//! Invariants, as absences:
//! - **No way to an [`Upstream`] without a [`Cleared`]** or a constant that no client wrote.
//! - **No way to a [`Downstream`] without durable evidence**: the bytes are private to a
//!   [`Release`] until the record says that they are safe.
//! - **No grant spends twice**: an approval is consumed by the one call that asked for it.
//! - **No ticket ends silently**: dropped unfinished it records *abandoned*.
//!
//! `session` is the recorded session and its tickets, `flow` the two writers.

mod flow;
mod session;

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use bulla_core::{
    Answer, ApprovalError, Approvals, Ask, Because, Canonical, Clock, Command, Decision,
    DenyReason, Digest, Draft, Fact, GrantRecord, HoldRecord, HoldTerms, IntentRecord, Mode,
    Obligations, PolicySource, Purity, RecordError, Refusal, RefusalKind, RefusalRecord, Request,
};
use bytes::Bytes;

pub use flow::{Downstream, Release, Released, ToClient, ToTarget, Upstream};
pub use session::{Session, Ticket};

/// Leave to send `T` to this session's target, once. No `Clone`, no public constructor.
#[derive(Debug)]
pub struct Cleared<T> {
    payload: T,
}

impl<T> Cleared<T> {
    /// Spends the leave where a library writes to the target, so that no [`Upstream`] can.
    pub fn spend(self) -> T {
        self.payload
    }
}

/// What a caller may tell the client while a command waits for an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    pub ask: Arc<str>,
    pub terms: HoldTerms,
    /// What waits, for people, and the rules that say so.
    pub what: String,
    pub policies: Vec<Arc<str>>,
}

/// Decides, asks, records and only then clears. One for all sessions.
pub struct Gate {
    policies: Arc<dyn PolicySource>,
    approvals: Arc<dyn Approvals>,
    clock: Arc<dyn Clock>,
}

/// A command on its way through the gate.
struct Case<'a> {
    session: &'a Session,
    number: u64,
    command: &'a Command,
    bytes: &'a Bytes,
}

impl Gate {
    pub fn new(
        policies: Arc<dyn PolicySource>,
        approvals: Arc<dyn Approvals>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { policies, approvals, clock }
    }

    /// decide → (hold: an approval bound to the digest, then decide again) → durable intent → clear.
    ///
    /// A command proven to be a pure read is cleared while its intent is still on its way to the
    /// disk: its response cannot be released before the intent is durable, because a journal keeps
    /// its order. Everything else waits here. `holding` is told once if the command must wait.
    ///
    /// Cancel safety: dropping the future withdraws the ask; nothing was sent.
    pub async fn clear<T: Canonical>(
        &self,
        session: &Session,
        number: u64,
        draft: Draft<T>,
        holding: &mut (dyn FnMut(Holding) + Send),
    ) -> Result<(Cleared<T>, Ticket), Box<Refusal>> {
        let (payload, command) = draft.into_parts();
        let bytes = payload.canonical();
        let case = Case { session, number, command: &command, bytes: &bytes };
        let (because, owe, grant) = match self.decide(&case, false)? {
            Decision::Allow { because, owe } => (because, owe, None),
            Decision::Deny { because, reason } => return Err(case.denied(self, &because, &reason)),
            Decision::Hold { because, terms, .. } => {
                let grant = self.ask(&case, &because, &terms, holding).await?;
                // The world may have moved while it waited: decide again, on today's policies.
                match self.decide(&case, true)? {
                    Decision::Allow { because: again, owe } if again.bundle == because.bundle => {
                        (again, owe, Some(grant))
                    }
                    Decision::Deny { because, reason } => {
                        return Err(case.denied(self, &because, &reason));
                    }
                    _ => return Err(case.changed(self, &because)),
                }
            }
        };
        case.honour(self, &because, &owe)?;
        let decision = if grant.is_some() { "hold" } else { "allow" };
        let intent = session.with(|journal| {
            journal.intent(&IntentRecord {
                at: self.clock.now(),
                number,
                command: &command,
                payload: bytes.clone(),
                decision,
                because: &because,
                grant: grant.as_ref(),
            })
        });
        let pending = intent.map_err(|error| case.unrecorded(self, &error))?;
        let overlap = command.purity == Purity::Read || session.mode() == Mode::Bounded;
        if !overlap {
            pending.await.map_err(|error| case.unrecorded(self, &error))?;
        }
        let ticket = Ticket::new(session.clone(), number, owe, self.clock.clone());
        Ok((Cleared { payload }, ticket))
    }

    /// Records a command that could not be read, and refuses it.
    pub fn refuse(
        &self,
        session: &Session,
        number: u64,
        bytes: &Bytes,
        mut refusal: Refusal,
    ) -> Box<Refusal> {
        refusal.event = session.refuse(&RefusalRecord {
            at: self.clock.now(),
            number,
            command: None,
            payload: bytes.clone(),
            kind: refusal.kind.as_str(),
            message: &refusal.message,
            reason: None,
            because: None,
        });
        Box::new(refusal)
    }

    fn decide(&self, case: &Case<'_>, approved: bool) -> Result<Decision, Box<Refusal>> {
        let Some(policies) = self.policies.current() else {
            let because = Because { policies: Vec::new(), bundle: Digest::ZERO };
            return Err(case.denied(self, &because, &DenyReason::Error));
        };
        Ok(policies.decide(&Request {
            principal: case.session.principal(),
            resource: case.session.resource(),
            part: case.session.part(),
            origin: case.session.origin(),
            command: case.command,
            now: self.clock.now(),
            // Nobody is asked to approve what is not run yet; where it runs it is judged again.
            approved: approved || case.command.prepares(),
        }))
    }

    async fn ask(
        &self,
        case: &Case<'_>,
        because: &Because,
        terms: &HoldTerms,
        holding: &mut (dyn FnMut(Holding) + Send),
    ) -> Result<GrantRecord, Box<Refusal>> {
        let session = case.session;
        let mut terms = terms.clone();
        if case.command.facts.get("in_transaction") == Some(&Fact::Flag(true)) {
            terms.expires_ms = terms.expires_ms.min(session.resource().hold_in_transaction_ms);
            if terms.expires_ms == 0 {
                return Err(case.refused(
                    self,
                    RefusalKind::HoldUnavailable,
                    because,
                    None,
                    &|c| format!("refused: {c} needs approval, and a transaction is open"),
                ));
            }
        }
        let digest = case.digest(because);
        let ask = Ask {
            session: session.id(),
            number: case.number,
            at: self.clock.now(),
            principal: session.principal_shared(),
            resource: session.resource().name.clone(),
            action: case.command.action.as_str().into(),
            shown: case.command.shown.clone(),
            parameters: case.command.parameters.clone(),
            touches: case.command.touches.seen().iter().map(|t| t.to_string().into()).collect(),
            effects: case.command.effects.names(),
            policies: because.policies.clone(),
            digest,
            terms: terms.clone(),
        };
        let mut asked = self.approvals.ask(ask).map_err(|error| {
            let why = match error {
                ApprovalError::Full => "too many commands already wait",
                ApprovalError::Down(_) => "approvals cannot be asked for now",
            };
            case.refused(self, RefusalKind::HoldUnavailable, because, None, &|c| {
                format!("refused: {c} needs approval, and {why}")
            })
        })?;
        let id = asked.id();
        let held = session.with(|journal| {
            journal.hold(&HoldRecord {
                at: self.clock.now(),
                number: case.number,
                command: case.command,
                ask: id.clone(),
                digest,
                terms: &terms,
                because,
            })
        });
        let pending = held.map_err(|error| case.unrecorded(self, &error))?;
        pending.await.map_err(|error| case.unrecorded(self, &error))?;
        let policies = because.policies.clone();
        holding(Holding { ask: id.clone(), terms, what: case.what(), policies });
        // If this future is dropped, the ask must still get its last entry.
        let mut withdrawn = Withdrawn { gate: self, case, id: id.clone(), digest, armed: true };
        let answer = asked.answer().await;
        withdrawn.armed = false;
        self.answered(case, because, &id, digest, answer)
    }

    fn answered(
        &self,
        case: &Case<'_>,
        because: &Because,
        id: &Arc<str>,
        digest: Digest,
        answer: Answer,
    ) -> Result<GrantRecord, Box<Refusal>> {
        let (word, by, reason, kind) = match answer {
            Answer::Approved { by, reason, digest: bound } if bound == digest => {
                ("approved", Some(by), reason, None)
            }
            Answer::Approved { by, reason, .. } | Answer::Rejected { by, reason } => {
                ("rejected", Some(by), reason, Some(RefusalKind::Rejected))
            }
            Answer::Expired => ("expired", None, None, Some(RefusalKind::HoldExpired)),
            Answer::Withdrawn => ("withdrawn", None, None, Some(RefusalKind::Withdrawn)),
        };
        let grant = GrantRecord { by, reason, ..case.grant(self, id, digest, word) };
        let written = case.session.with(|journal| journal.grant(&grant));
        written.map_err(|error| case.unrecorded(self, &error))?;
        match kind {
            None => Ok(grant),
            Some(kind) => Err(case.refused(self, kind, because, Some(id), &|c| match kind {
                RefusalKind::HoldExpired => format!("refused: nobody approved {c} in time"),
                RefusalKind::Withdrawn => format!("refused: {c} was cancelled while it waited"),
                _ => format!("refused: an approver rejected {c}"),
            })),
        }
    }
}

/// Writes the last entry of an ask whose waiter went away.
struct Withdrawn<'a> {
    gate: &'a Gate,
    case: &'a Case<'a>,
    id: Arc<str>,
    digest: Digest,
    armed: bool,
}

impl Drop for Withdrawn<'_> {
    fn drop(&mut self) {
        if self.armed {
            let grant = self.case.grant(self.gate, &self.id, self.digest, "withdrawn");
            // Nothing was sent and nobody waits; a failing record stops the session elsewhere.
            let _ = self.case.session.with(|journal| journal.grant(&grant));
        }
    }
}

impl Case<'_> {
    /// `` `UPDATE` on `orders.public.payments` `` as far as it is known.
    fn what(&self) -> String {
        let verb = self.command.verb();
        match self.command.touches.seen().first() {
            None => format!("`{verb}`"),
            Some(touch) => {
                format!("`{verb}` on `{}.{}`", self.session.resource().name, touch.path)
            }
        }
    }

    fn grant(
        &self,
        gate: &Gate,
        ask: &Arc<str>,
        digest: Digest,
        answer: &'static str,
    ) -> GrantRecord {
        let (at, number, ask) = (gate.clock.now(), self.number, ask.clone());
        GrantRecord { at, number, ask, digest, answer, by: None, reason: None }
    }

    /// What an approval is bound to: length-prefixed, so that no two cases share an encoding.
    fn digest(&self, because: &Because) -> Digest {
        let mut hash = Context::new(&SHA256);
        let mut part = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(b"bulla-ask-v1");
        part(self.session.principal().id.as_str().as_bytes());
        part(&self.session.id().0);
        part(self.session.resource().name.as_str().as_bytes());
        part(self.session.part().unwrap_or("").as_bytes());
        part(self.command.action.as_str().as_bytes());
        part(self.command.shown.as_bytes());
        part(self.bytes);
        part(format!("{:?}", self.command.parameters).as_bytes());
        part(format!("{:?}", self.command.touches).as_bytes());
        part(self.command.settings.as_bytes());
        part(&because.bundle.0);
        let mut out = [0u8; 32];
        out.copy_from_slice(hash.finish().as_ref());
        Digest(out)
    }

    fn honour(&self, gate: &Gate, why: &Because, owe: &Obligations) -> Result<(), Box<Refusal>> {
        let honours = self.session.honours();
        let lacks = |owed: bool, name: &str| -> Option<Arc<str>> {
            (owed && !honours.contains(&name)).then(|| name.into())
        };
        let missing = lacks(owe.rows_max.is_some(), "rows_max")
            .or_else(|| lacks(owe.bytes_max.is_some(), "bytes_max"))
            .or_else(|| owe.unknown.first().cloned());
        match missing {
            None => Ok(()),
            Some(obligation) => {
                Err(self.denied(gate, why, &DenyReason::CannotHonour { obligation }))
            }
        }
    }

    fn changed(&self, gate: &Gate, because: &Because) -> Box<Refusal> {
        let words =
            |c: &str| format!("refused: the policies changed while {c} waited; run it again");
        self.refused(gate, RefusalKind::Denied, because, None, &words)
    }

    fn denied(&self, gate: &Gate, because: &Because, reason: &DenyReason) -> Box<Refusal> {
        let who = self.session.principal().id.subject();
        let message = reason.public(&self.command.verb(), &self.what(), who, because);
        self.record(gate, RefusalKind::Denied, Some(because), None, Some(reason), message)
    }

    fn refused(
        &self,
        gate: &Gate,
        kind: RefusalKind,
        because: &Because,
        ask: Option<&Arc<str>>,
        message: &dyn Fn(&str) -> String,
    ) -> Box<Refusal> {
        let message = message(&self.what());
        self.record(gate, kind, Some(because), ask, None, message)
    }

    /// Every refusal has an entry. If even that cannot be written, the refusal stands all the same.
    fn record(
        &self,
        gate: &Gate,
        kind: RefusalKind,
        because: Option<&Because>,
        ask: Option<&Arc<str>>,
        reason: Option<&DenyReason>,
        message: String,
    ) -> Box<Refusal> {
        let event = self.session.refuse(&RefusalRecord {
            at: gate.clock.now(),
            number: self.number,
            command: Some(self.command),
            payload: self.bytes.clone(),
            kind: kind.as_str(),
            message: &message,
            reason,
            because,
        });
        let hint = match kind {
            RefusalKind::HoldUnavailable => "get it approved before the transaction begins".into(),
            RefusalKind::HoldExpired | RefusalKind::Withdrawn => "run it again to ask again".into(),
            RefusalKind::Recorder => "nothing was sent; tell the operators of the gateway".into(),
            _ => format!(
                "ask the owner of `{0}` for a permit; see: bulla sessions show {1}",
                self.session.resource().name,
                self.session.id()
            ),
        };
        Box::new(Refusal {
            event,
            policies: because.map_or_else(Vec::new, |because| because.policies.clone()),
            bundle: because.map(|because| because.bundle),
            approval: ask.cloned(),
            ..Refusal::plain(kind, message, hint)
        })
    }

    /// The record failed, or is full. Of a full one a reserve is kept for this very entry.
    fn unrecorded(&self, gate: &Gate, error: &RecordError) -> Box<Refusal> {
        let message = format!("refused: {}, and nothing passes unrecorded", error.public());
        self.record(gate, RefusalKind::Recorder, None, None, None, message)
    }
}
