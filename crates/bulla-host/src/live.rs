//! A live session of a hosted protocol. Its commands may run side by side.

use std::{
    ops::{Deref, DerefMut},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bulla_core::{
    Canonical, Clock, CloseRecord, Digest, Draft, Expiry, Flow, PolicySource, RecordError, Refusal,
    RefusalKind, RevealRequest, Timestamp,
};
use bulla_gate::{Cleared, Gate, Holding, Release, Session, Ticket, ToClient};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::{Parts, Presence, Tell, roll::Counters};

/// Whether a session goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Open,
    /// Nothing new; what is under way may finish.
    Draining,
    /// Everything stops. A word for the close entry, and who wanted it.
    Ended(&'static str, Option<Arc<str>>),
}

/// One principal on one resource. Closed, and recorded as closed, when the last holder is gone.
pub struct Live {
    session: Session,
    gate: Arc<Gate>,
    policies: Arc<dyn PolicySource>,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    numbers: AtomicU64,
    standing: watch::Receiver<Standing>,
    ending: Mutex<Option<&'static str>>,
    _entered: Box<dyn Send + Sync>,
}

/// How long a session's identity carries it.
struct Lease {
    expiry: Expiry,
    until: Timestamp,
    cap: Timestamp,
    grace_ms: u64,
}

impl Lease {
    fn of(session: &Session, now: Timestamp, grace_ms: u64) -> Self {
        let resource = session.resource();
        let cap = now.plus_ms(resource.session_ms_max);
        let until = match resource.expiry {
            Expiry::LoginOnly => cap,
            Expiry::Rebind | Expiry::Strict => session.principal().proof.expires_at.min(cap),
        };
        Self { expiry: resource.expiry, until, cap, grace_ms }
    }
    fn extend(&mut self, until: Timestamp) {
        if self.expiry == Expiry::Rebind {
            self.until = self.until.max(until.min(self.cap));
        }
    }
    /// When what is under way is cut.
    fn end(&self) -> Timestamp {
        match self.expiry {
            Expiry::Strict => self.until,
            Expiry::Rebind | Expiry::LoginOnly => self.until.plus_ms(self.grace_ms),
        }
    }
}

/// Keeps a session's standing. Ends when the session leaves the list: the other half of the inbox
/// goes then.
async fn follow(
    mut inbox: mpsc::UnboundedReceiver<Tell>,
    tell: watch::Sender<Standing>,
    clock: Arc<dyn Clock>,
    mut lease: Lease,
    identified_until: Box<dyn Fn() -> Timestamp + Send + Sync>,
) {
    loop {
        // Looked at anew at least once an hour, since clocks are set.
        let left = lease.end().ms_since(clock.now()).clamp(1, 3_600_000);
        let told = tokio::select! {
            told = inbox.recv() => told,
            () = tokio::time::sleep(Duration::from_millis(left)) => {
                lease.extend(identified_until());
                if clock.now() >= lease.end() {
                    tell.send_if_modified(|now| {
                        let goes_on = !matches!(now, Standing::Ended(..));
                        if goes_on {
                            *now = Standing::Ended("expired", None);
                        }
                        goes_on
                    });
                    // Nothing more to wait for but the end of the inbox.
                    while inbox.recv().await.is_some() {}
                    return;
                }
                continue;
            }
        };
        match told {
            None => return,
            Some(Tell::Kill { by }) if &*by == "drain" => {
                tell.send_replace(Standing::Ended("drained", None));
            }
            Some(Tell::Kill { by }) => {
                tell.send_replace(Standing::Ended("killed", Some(by)));
            }
            Some(Tell::Drain) => {
                tell.send_if_modified(|now| {
                    let open = *now == Standing::Open;
                    if open {
                        *now = Standing::Draining;
                    }
                    open
                });
            }
            // Every command of a hosted protocol has a stream of its own to stop.
            Some(Tell::Cancel) => {}
        }
    }
}

impl Live {
    pub(crate) fn start(session: Session, parts: &Parts, presence: Presence) -> Arc<Self> {
        let clock = parts.clock.clone();
        let (tell, standing) = watch::channel(Standing::Open);
        let Presence { counters, inbox, identified_until, entered } = presence;
        let lease = Lease::of(&session, clock.now(), parts.expiry_grace_ms);
        tokio::spawn(follow(inbox, tell, clock.clone(), lease, identified_until));
        Arc::new(Self {
            session,
            gate: parts.gate.clone(),
            policies: parts.policies.clone(),
            clock,
            counters,
            numbers: AtomicU64::new(0),
            standing,
            ending: Mutex::new(None),
            _entered: entered,
        })
    }

    pub fn session(&self) -> &Session {
        &self.session
    }
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
    /// Follows whether the session goes on.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }
    /// The number of the next command, from 1.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }
    /// The word for the close entry, unless an earlier one stands.
    pub fn end(&self, why: &'static str) {
        self.ending.lock().get_or_insert(why);
    }

    /// The gate, for this session: see [`Gate::clear`]. `holding` is told once if it must wait.
    ///
    /// Cancel safety: dropping the future withdraws the ask; nothing was sent.
    pub async fn clear<T: Canonical>(
        self: &Arc<Self>,
        number: u64,
        draft: Draft<T>,
        holding: &mut (dyn FnMut(Holding) + Send),
    ) -> Result<(Cleared<T>, Passage), Box<Refusal>> {
        let stopped = match &*self.standing.borrow() {
            Standing::Open => None,
            Standing::Draining => Some("the gateway is stopping"),
            Standing::Ended("drained", _) => Some("the gateway is stopping"),
            Standing::Ended("expired", _) => Some("the identity of this session has expired"),
            Standing::Ended(..) => Some("this session was ended by an operator"),
        };
        if let Some(words) = stopped {
            let (payload, _) = draft.into_parts();
            let refusal = Refusal::plain(RefusalKind::Ended, words, "connect again");
            return Err(self.refuse(number, &payload.canonical(), refusal));
        }
        self.counters.commands.fetch_add(1, Ordering::Relaxed);
        let mut told = |what: Holding| {
            self.counters.held.fetch_add(1, Ordering::Relaxed);
            holding(what);
        };
        match self.gate.clear(&self.session, number, draft, &mut told).await {
            Ok((cleared, ticket)) => Ok((cleared, Passage { ticket, live: self.clone() })),
            Err(refusal) => {
                self.counted(&refusal);
                Err(refusal)
            }
        }
    }

    /// Records a command that could not be read, or is refused on principle.
    pub fn refuse(&self, number: u64, bytes: &Bytes, refusal: Refusal) -> Box<Refusal> {
        let refusal = self.gate.refuse(&self.session, number, bytes, refusal);
        self.counted(&refusal);
        refusal
    }

    fn counted(&self, refusal: &Refusal) {
        self.counters.denied.fetch_add(1, Ordering::Relaxed);
        let kind = refusal.kind.as_str();
        metrics::counter!("bulla_refusals_total", "kind" => kind).increment(1);
    }

    /// The gateway's own words to the client, as evidence like every other byte.
    pub fn aside(&self, bytes: Bytes) -> Result<Release<ToClient>, RecordError> {
        self.session.aside(Flow::Gateway, bytes, self.clock.now())
    }

    /// Whether the principal may see values of a class in the clear, by the policies of the moment.
    pub fn reveals(&self, class: &str) -> bool {
        let Some(policies) = self.policies.current() else { return false };
        policies.reveals(&RevealRequest {
            principal: self.session.principal(),
            resource: self.session.resource(),
            part: self.session.part(),
            origin: self.session.origin(),
            now: self.clock.now(),
            class,
        })
    }

    /// Names the policies in force, so that what was cleared under others is not used any more.
    pub fn bundle(&self) -> Option<Digest> {
        self.policies.current().map(|policies| policies.digest())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let told = self.standing.borrow().clone();
        let (why, detail) = match (*self.ending.lock(), told) {
            (_, Standing::Ended(why, by)) => (why, by),
            (Some(why), _) => (why, None),
            (None, Standing::Draining) => ("drained", None),
            (None, Standing::Open) => ("client", None),
        };
        let record = CloseRecord { at: self.clock.now(), why: why.into(), detail };
        if let Err(error) = self.session.close(&record) {
            tracing::error!(%error, session = %self.session.id(), "record the end of a session");
        }
    }
}

/// A ticket that keeps its session open.
pub struct Passage {
    /// First, so that an unfinished ticket is recorded before the session can close.
    ticket: Ticket,
    live: Arc<Live>,
}

impl Passage {
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }
    /// The command ended without further bytes.
    pub fn finish(self, outcome: bulla_core::Outcome) -> Result<bulla_core::Pending, RecordError> {
        let Self { ticket, live } = self;
        let finished = ticket.finish(outcome);
        drop(live);
        finished
    }
}

impl Deref for Passage {
    type Target = Ticket;
    fn deref(&self) -> &Ticket {
        &self.ticket
    }
}

impl DerefMut for Passage {
    fn deref_mut(&mut self) -> &mut Ticket {
        &mut self.ticket
    }
}
