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
    #[error("`{0}` has approved this already; another person must")]
    Again(String),
    #[error("`{by}` is in none of the groups that may answer: {groups}")]
    Outsider { by: String, groups: String },
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approver {
    pub id: Arc<str>,
    /// `None`: the configuration leaves it open, and the approver stands for every group.
    pub groups: Option<Vec<Arc<str>>>,
}

impl Approver {
    fn is_in(&self, group: &Arc<str>) -> bool {
        self.groups.as_ref().is_none_or(|groups| groups.contains(group))
    }
}

/// Where an ask stands after an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Distinct approvers so far, and how many it takes.
    pub have: usize,
    pub need: usize,
    /// Groups of which nobody has approved yet.
    pub missing: Vec<Arc<str>>,
}

impl Progress {
    /// Nothing is missing: the command goes on.
    pub fn is_done(&self) -> bool {
        self.have >= self.need && self.missing.is_empty()
    }
}

/// A waiting ask.
#[derive(Debug, Clone)]
pub struct AskView {
    pub id: Arc<str>,
    pub ask: Ask,
    /// Who has approved so far.
    pub approved: Vec<Arc<str>>,
}

impl AskView {
    fn new(id: &Arc<str>, waiting: &Waiting) -> Self {
        let approved = waiting.approvers.iter().map(|by| by.id.clone()).collect();
        Self { id: id.clone(), ask: waiting.ask.clone(), approved }
    }
}

struct Waiting {
    ask: Ask,
    /// Distinct people, each in one of the groups.
    approvers: Vec<Approver>,
    answer: oneshot::Sender<Answer>,
}

impl Waiting {
    /// Whether this person may answer at all.
    fn admits(&self, by: &Approver) -> Result<(), DeskError> {
        if self.ask.principal.id.as_str() == &*by.id {
            return Err(DeskError::Requester(by.id.to_string()));
        }
        let groups = &self.ask.terms.groups;
        if !groups.iter().any(|group| by.is_in(group)) {
            let groups = groups.join(", ");
            return Err(DeskError::Outsider { by: by.id.to_string(), groups });
        }
        Ok(())
    }
    fn progress(&self) -> Progress {
        let terms = &self.ask.terms;
        let open = |group: &&Arc<str>| !self.approvers.iter().any(|by| by.is_in(group));
        Progress {
            have: self.approvers.len(),
            need: usize::try_from(terms.quorum.max(1)).unwrap_or(usize::MAX),
            missing: terms.groups.iter().filter(open).cloned().collect(),
        }
    }
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
        let mut list: Vec<_> = waiting.iter().map(|(id, ask)| AskView::new(id, ask)).collect();
        list.sort_by_key(|view| view.ask.at);
        list
    }
    pub fn show(&self, id: &str) -> Option<AskView> {
        let waiting = self.waiting.lock();
        let (id, found) = waiting.get_key_value(id.to_ascii_uppercase().as_str())?;
        Some(AskView::new(id, found))
    }
    /// Counts an approval. The command goes on once every group has approved and the approvers are
    /// as many as the quorum; each person counts once.
    ///
    /// # Errors
    /// As [`DeskError`] says; the ask then stands as before.
    pub fn approve(
        &self,
        id: &str,
        by: &Approver,
        reason: Option<&str>,
    ) -> Result<Progress, DeskError> {
        let mut waiting = self.waiting.lock();
        let id = id.to_ascii_uppercase();
        let found = waiting.get_mut(id.as_str()).ok_or_else(|| unknown(&id))?;
        found.admits(by)?;
        if found.approvers.iter().any(|earlier| earlier.id == by.id) {
            return Err(DeskError::Again(by.id.to_string()));
        }
        found.approvers.push(by.clone());
        let progress = found.progress();
        if progress.is_done() {
            let found = waiting.remove(id.as_str()).ok_or_else(|| unknown(&id))?;
            let names: Vec<&str> = found.approvers.iter().map(|by| &*by.id).collect();
            let answer = Answer::Approved {
                by: names.join(", ").into(),
                reason: reason.map(Into::into),
                digest: found.ask.digest,
            };
            found.answer.send(answer).map_err(|_| unknown(&id))?;
        }
        Ok(progress)
    }
    /// One rejection is enough.
    ///
    /// # Errors
    /// As [`DeskError`] says; the ask then stands as before.
    pub fn reject(&self, id: &str, by: &Approver, reason: Option<&str>) -> Result<(), DeskError> {
        let mut waiting = self.waiting.lock();
        let id = id.to_ascii_uppercase();
        waiting.get(id.as_str()).ok_or_else(|| unknown(&id))?.admits(by)?;
        let found = waiting.remove(id.as_str()).ok_or_else(|| unknown(&id))?;
        let answer = Answer::Rejected { by: by.id.clone(), reason: reason.map(Into::into) };
        found.answer.send(answer).map_err(|_| unknown(&id))
    }
}

fn unknown(id: &str) -> DeskError {
    DeskError::Unknown(id.escape_debug().to_string())
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
            let entry = Waiting { ask, approvers: Vec::new(), answer: send };
            waiting.insert(id.clone(), entry);
            return Ok(Box::new(Slot { waiting: self.waiting.clone(), id, answer, expires }));
        }
        Err(ApprovalError::Full)
    }
}

#[cfg(test)]
mod tests {
    use bulla_core::{
        CredentialKind, Digest, HoldTerms, Principal, PrincipalId, PrincipalKind, Proof,
        ResourceName, SessionId, Timestamp,
    };

    use super::*;

    fn ask(groups: &[&str], quorum: u32) -> Ask {
        let groups = groups.iter().map(|group| Arc::from(*group)).collect();
        let proof = Proof {
            kind: CredentialKind::Jwt,
            hash: Digest([0; 32]),
            jti: None,
            kid_tail: None,
            issued_at: Timestamp(0),
            expires_at: Timestamp(1),
            verified_at: Timestamp(0),
            bound: false,
            jwks_stale: false,
        };
        let principal = Principal {
            id: PrincipalId::new("k8s", "billing/api").unwrap(),
            kind: PrincipalKind::Workload,
            issuer: "https://issuer.example".into(),
            groups: Vec::new(),
            attributes: Default::default(),
            proof,
        };
        Ask {
            session: SessionId([7; 16]),
            number: 1,
            at: Timestamp(0),
            principal: Arc::new(principal),
            resource: ResourceName::new("orders").unwrap(),
            action: "postgres:delete".into(),
            shown: "DELETE FROM t".into(),
            parameters: Arc::new([]),
            touches: Vec::new(),
            effects: Vec::new(),
            policies: Vec::new(),
            digest: Digest([9; 32]),
            terms: HoldTerms { groups, quorum, expires_ms: 60_000 },
        }
    }

    fn person(id: &str, groups: &[&str]) -> Approver {
        let groups = groups.iter().map(|group| Arc::from(*group)).collect();
        Approver { id: id.into(), groups: Some(groups) }
    }

    /// Each step is who approves and how it goes: "done", "1/2 missing owners", or an error's words.
    fn check(groups: &[&str], quorum: u32, steps: &[(&Approver, &str)]) {
        let desk = Desk::new(8);
        let asked = desk.ask(ask(groups, quorum)).unwrap();
        for (by, expected) in steps {
            let said = match desk.approve(&asked.id(), by, None) {
                Ok(progress) if progress.is_done() => "done".to_owned(),
                Ok(Progress { have, need, missing }) => {
                    format!("{have}/{need} missing {}", missing.join(" "))
                }
                Err(error) => error.to_string(),
            };
            assert!(said.contains(expected), "`{said}` for {by:?}, expected `{expected}`");
        }
    }

    #[test]
    fn groups_and_numbers_are_kept() {
        let (ann, bob) = (person("h|ann", &["dba"]), person("h|bob", &["dba", "owners"]));
        let (eve, own) = (person("h|eve", &["dev"]), person("k8s|billing/api", &["dba"]));
        let local = Approver { id: "local:root".into(), groups: None };
        check(&["dba"], 1, &[(&ann, "done"), (&ann, "no command waits")]);
        check(&["dba"], 1, &[(&eve, "in none of the groups that may answer: dba")]);
        check(&["dba"], 1, &[(&own, "asked for this itself"), (&local, "done")]);
        check(&["dba"], 2, &[(&ann, "1/2"), (&ann, "another person must"), (&bob, "done")]);
        check(
            &["dba"],
            2,
            &[(&local, "1/2"), (&local, "another"), (&eve, "none of"), (&bob, "done")],
        );
        check(&["dba", "owners"], 1, &[(&ann, "1/1 missing owners"), (&bob, "done")]);
        check(&["dba", "owners"], 1, &[(&bob, "done")]);
        check(&["dba", "owners"], 3, &[(&bob, "1/3 missing "), (&ann, "2/3"), (&local, "done")]);
    }

    #[test]
    fn one_rejection_ends_it_but_not_by_anybody() {
        let desk = Desk::new(8);
        let asked = desk.ask(ask(&["dba"], 2)).unwrap();
        desk.approve(&asked.id(), &person("h|ann", &["dba"]), None).unwrap();
        let eve = desk.reject(&asked.id(), &person("h|eve", &[]), None);
        assert!(matches!(eve, Err(DeskError::Outsider { .. })), "{eve:?}");
        assert_eq!(desk.list()[0].approved.len(), 1);
        desk.reject(&asked.id(), &person("h|bob", &["dba"]), None).unwrap();
        assert!(desk.list().is_empty());
    }

    #[test]
    fn the_desk_has_an_end() {
        let desk = Desk::new(1);
        let first = desk.ask(ask(&["dba"], 1)).unwrap();
        assert!(matches!(desk.ask(ask(&["dba"], 1)), Err(ApprovalError::Full)));
        drop(first);
        desk.ask(ask(&["dba"], 1)).unwrap();
    }
}
