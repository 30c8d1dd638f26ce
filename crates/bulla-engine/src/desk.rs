//! Asks that wait for a person, in memory: an ask lives as long as the command that waits.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use bulla_core::{Answer, ApprovalError, Approvals, Ask, Asked, Boxed};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Why an answer cannot be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeskError {
    #[error("no command waits under `{0}`: it was answered, withdrawn or timed out")]
    Unknown(String),
    #[error("`{0}` asked for this itself; somebody else must answer")]
    Requester(String),
}

/// A waiting ask.
#[derive(Debug, Clone)]
pub struct AskView {
    pub id: Arc<str>,
    pub ask: Ask,
}

struct Waiting {
    ask: Ask,
    answer: oneshot::Sender<Answer>,
}

/// Where approvals are asked for and given.
pub struct Desk {
    waiting_max: usize,
    /// Shared with every slot, so that a slot can take itself off the desk.
    waiting: Arc<Mutex<HashMap<Arc<str>, Waiting>>>,
}

const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl Desk {
    pub fn new(waiting_max: usize) -> Arc<Self> {
        Arc::new(Self { waiting_max, waiting: Arc::default() })
    }
    pub fn list(&self) -> Vec<AskView> {
        let waiting = self.waiting.lock();
        let view = |(id, w): (&Arc<str>, &Waiting)| AskView { id: id.clone(), ask: w.ask.clone() };
        let mut list: Vec<_> = waiting.iter().map(view).collect();
        list.sort_by_key(|view| view.ask.at);
        list
    }
    pub fn show(&self, id: &str) -> Option<AskView> {
        let waiting = self.waiting.lock();
        let (id, found) = waiting.get_key_value(id.to_ascii_uppercase().as_str())?;
        Some(AskView { id: id.clone(), ask: found.ask.clone() })
    }
    pub fn approve(&self, id: &str, by: &str, reason: Option<&str>) -> Result<(), DeskError> {
        self.answer(id, by, |ask| Answer::Approved {
            by: by.into(),
            reason: reason.map(Into::into),
            digest: ask.digest,
        })
    }
    pub fn reject(&self, id: &str, by: &str, reason: Option<&str>) -> Result<(), DeskError> {
        let reason = reason.map(Into::into);
        self.answer(id, by, |_| Answer::Rejected { by: by.into(), reason })
    }
    fn answer(
        &self,
        id: &str,
        by: &str,
        make: impl FnOnce(&Ask) -> Answer,
    ) -> Result<(), DeskError> {
        let mut waiting = self.waiting.lock();
        let id = id.to_ascii_uppercase();
        let unknown = || DeskError::Unknown(id.escape_debug().to_string());
        let found = waiting.get(id.as_str()).ok_or_else(unknown)?;
        if found.ask.principal.id.as_str() == by {
            return Err(DeskError::Requester(by.into()));
        }
        let found = waiting.remove(id.as_str()).ok_or_else(unknown)?;
        let answer = make(&found.ask);
        found.answer.send(answer).map_err(|_| unknown())
    }
}

/// Removes the ask when its command goes away.
struct Slot {
    waiting: Arc<Mutex<HashMap<Arc<str>, Waiting>>>,
    id: Arc<str>,
    answer: oneshot::Receiver<Answer>,
    expires: Duration,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.id);
    }
}

impl Asked for Slot {
    fn id(&self) -> Arc<str> {
        self.id.clone()
    }
    fn answer(&mut self) -> Boxed<'_, Answer> {
        Box::pin(async {
            match tokio::time::timeout(self.expires, &mut self.answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Answer::Withdrawn,
                // An answer that raced the clock was accepted: it counts.
                Err(_) => self.answer.try_recv().unwrap_or(Answer::Expired),
            }
        })
    }
}

impl Approvals for Desk {
    fn ask(&self, ask: Ask) -> Result<Box<dyn Asked>, ApprovalError> {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= self.waiting_max {
            return Err(ApprovalError::Full);
        }
        let expires = Duration::from_millis(ask.terms.expires_ms);
        for _ in 0..16 {
            let mut random = [0u8; 6];
            SystemRandom::new()
                .fill(&mut random)
                .map_err(|_| ApprovalError::Down("no randomness".into()))?;
            let mut id: String =
                random.iter().map(|b| char::from(DIGITS[usize::from(b & 31)])).collect();
            id.insert(4, '-');
            let id: Arc<str> = id.into();
            if waiting.contains_key(&id) {
                continue;
            }
            let (send, answer) = oneshot::channel();
            waiting.insert(id.clone(), Waiting { ask, answer: send });
            return Ok(Box::new(Slot { waiting: self.waiting.clone(), id, answer, expires }));
        }
        Err(ApprovalError::Full)
    }
}
