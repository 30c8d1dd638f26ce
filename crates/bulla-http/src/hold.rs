//! Requests that wait for an approval after their client was answered. The identical request,
//! repeated, spends the approval; what is sent is what was approved.

use std::{collections::HashMap, pin::Pin, sync::Arc, time::Duration};

use aws_lc_rs::digest::{Context, SHA256};
use bulla_core::{Digest, HoldTerms, PrincipalId, Refusal, SessionId};
use bulla_gate::{Cleared, Holding};
use bulla_host::{Live, Passage, Standing};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::exchange::Outbound;

/// Requests that may wait at once.
const WAITING_MAX: usize = 10_000;
/// How long an approved request, or the reason why it was not approved, waits to be fetched.
const KEPT: Duration = Duration::from_secs(600);

pub type Verdict = Result<(Cleared<Outbound>, Passage), Box<Refusal>>;
pub type Judging = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// What binds a repetition to what was approved: who, where, method, address and body.
pub fn key(principal: &PrincipalId, resource: &str, parts: &[&[u8]]) -> Digest {
    let mut hash = Context::new(&SHA256);
    let own = [principal.as_str().as_bytes(), resource.as_bytes()];
    for part in own.iter().chain(parts) {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(hash.finish().as_ref());
    Digest(out)
}

enum State {
    Waiting,
    Ready(Box<Verdict>, Option<Digest>),
    Spent,
}

/// One request that waits.
pub struct Hold {
    pub ask: Arc<str>,
    pub terms: HoldTerms,
    /// What waits, and the rules that say so.
    pub what: String,
    pub policies: Vec<Arc<str>>,
    /// Of the session that asked, which goes on with it.
    pub session: SessionId,
    principal: PrincipalId,
    state: Mutex<State>,
}

impl Hold {
    /// A word for whoever asks how it stands.
    pub fn word(&self) -> &'static str {
        match &*self.state.lock() {
            State::Waiting => "waiting",
            State::Ready(verdict, _) if verdict.is_ok() => "approved",
            State::Ready(..) => "refused",
            State::Spent => "spent",
        }
    }
}

/// Resolves when the gateway stops or an operator ends the session. That the identity of the session
/// expires ends no wait: whoever repeats the request brings a fresh one.
async fn over(mut standing: watch::Receiver<Standing>) {
    loop {
        match &*standing.borrow_and_update() {
            Standing::Open | Standing::Ended("expired", _) => {}
            Standing::Draining | Standing::Ended(..) => return,
        }
        if standing.changed().await.is_err() {
            return;
        }
    }
}

/// All that wait.
#[derive(Default)]
pub struct Holds(Mutex<HashMap<Digest, Arc<Hold>>>);

/// What a repetition finds.
pub enum Found {
    Nothing,
    Waiting(Arc<Hold>),
    Verdict(Box<Verdict>),
}

impl Holds {
    /// Whether nothing waits, and nothing is to be fetched.
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
    /// `bundle`: the policies in force. What was approved under others is judged anew.
    pub fn find(&self, key: &Digest, bundle: Option<Digest>) -> Found {
        let mut holds = self.0.lock();
        let Some(hold) = holds.get(key).cloned() else { return Found::Nothing };
        let mut state = hold.state.lock();
        if matches!(*state, State::Waiting) {
            drop(state);
            return Found::Waiting(hold);
        }
        holds.remove(key);
        match std::mem::replace(&mut *state, State::Spent) {
            State::Ready(verdict, under) if under == bundle && bundle.is_some() => {
                Found::Verdict(verdict)
            }
            _ => Found::Nothing,
        }
    }

    /// How the ask of a principal stands. Another's is not there.
    pub fn status(&self, ask: &str, principal: &PrincipalId) -> Option<Arc<Hold>> {
        let holds = self.0.lock();
        let own = |hold: &&Arc<Hold>| *hold.ask == *ask && hold.principal == *principal;
        holds.values().find(own).cloned()
    }

    /// Keeps a request waiting without its client. None: too many wait already.
    pub fn park(
        self: &Arc<Self>,
        key: Digest,
        principal: PrincipalId,
        holding: Holding,
        judging: Judging,
        live: &Live,
        bundle: impl Fn() -> Option<Digest> + Send + 'static,
    ) -> Option<Arc<Hold>> {
        let hold = Arc::new(Hold {
            ask: holding.ask,
            terms: holding.terms,
            what: holding.what,
            policies: holding.policies,
            session: live.session().id(),
            principal,
            state: Mutex::new(State::Waiting),
        });
        {
            let mut holds = self.0.lock();
            if holds.len() >= WAITING_MAX {
                return None;
            }
            holds.insert(key, hold.clone());
        }
        let (holds, own, standing) = (self.clone(), hold.clone(), live.standing());
        tokio::spawn(async move {
            let over = over(standing);
            tokio::pin!(over);
            // Dropping the judgement withdraws the ask.
            let verdict = tokio::select! {
                verdict = judging => Some(verdict),
                () = &mut over => None,
            };
            if let Some(verdict) = verdict {
                *own.state.lock() = State::Ready(Box::new(verdict), bundle());
                tokio::select! {
                    () = tokio::time::sleep(KEPT) => {}
                    () = &mut over => {}
                }
            }
            let mut holds = holds.0.lock();
            if holds.get(&key).is_some_and(|found| Arc::ptr_eq(found, &own)) {
                holds.remove(&key);
            }
            // A leave that nobody came for is recorded as abandoned when it goes.
            *own.state.lock() = State::Spent;
        });
        Some(hold)
    }
}
