//! A decision with its reasons, for people: every question, who answered it, and who nearly did.
//!
//! It is for operators, never for the client that was refused: it names policies and their scopes.

use std::fmt;

use bulla_core::{
    Decision, DenyReason, Obligations, Origin, Policies, Principal, Request, Resource, Timestamp,
};
use cedar_policy::{ActionConstraint, Effect, PrincipalConstraint, ResourceConstraint};
use serde::Serialize;

use crate::{
    ask::{Ask, Asks, Malformed, Needs},
    bundle::{Bundle, Judged},
    load::Loaded,
    problem::one_line,
};

/// Most near policies that one question lists.
pub const NEAREST_MAX: usize = 5;

/// A decision, explained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub principal: String,
    /// `workload` or `human`.
    pub kind: &'static str,
    pub groups: Vec<String>,
    pub resource: String,
    /// `connect` for the opening of a session.
    pub action: String,
    pub effects: Vec<&'static str>,
    /// `allow`, `hold` or `deny`.
    pub decision: &'static str,
    /// One sentence.
    pub reason: String,
    /// The policies that the record will name.
    pub policies: Vec<String>,
    /// The bundle's digest, in hexadecimal digits.
    pub bundle: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<String>,
    pub questions: Vec<Question>,
    /// For an opening that no permit for `connect` allows: the permits that could reach it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reached_by: Vec<PolicyNote>,
}

/// Who must approve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hold {
    pub groups: Vec<String>,
    pub quorum: u32,
    pub expires_ms: u64,
}

/// One question to Cedar and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Question {
    pub action: String,
    /// The entity: `Bulla::Table::"orders.public.payments"`.
    pub resource: String,
    /// False for one that only must not be forbidden.
    pub needs_permit: bool,
    /// `permit`, `hold`, `forbid`, `error` or `none`.
    pub answer: &'static str,
    /// The policies that apply.
    pub policies: Vec<PolicyNote>,
    /// The policies that could not be evaluated; each note is the error.
    pub errors: Vec<PolicyNote>,
    /// The policies whose scope holds but whose conditions do not.
    pub missed: Vec<PolicyNote>,
    /// For a question without a permit: permits whose scope is nearest to it.
    pub nearest: Vec<PolicyNote>,
}

/// A policy, where it stands, and what there is to say about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyNote {
    pub id: String,
    /// `permit` or `forbid`.
    pub effect: &'static str,
    pub file: String,
    pub line: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Bundle {
    /// Why a command is decided as it is. Always evaluated anew, never from the cache.
    pub fn explain(&self, request: &Request<'_>) -> Explanation {
        let asks = Asks::of_command(&self.model, &self.keys, request);
        let command = request.command;
        let mut explanation = match &asks {
            Ok(asks) => {
                let judged = self.judge_all(asks);
                let decision = self.combine(asks, &judged, request.approved);
                let mut explanation = self.frame(request.principal, request.resource, &decision);
                explanation.questions = self.questions(asks, &judged);
                explanation
            }
            Err(malformed) => self.malformed(request.principal, request.resource, malformed),
        };
        if request.part.is_some() {
            let name = request.resource.name.as_str();
            explanation.resource = one_line(&crate::ask::resource_id(name, request.part));
        }
        explanation.action = command.action.to_string();
        explanation.effects = command.effects.names();
        explanation
    }

    /// Why a session may open, or not.
    pub fn explain_open(
        &self,
        principal: &Principal,
        resource: &Resource,
        origin: &Origin,
        now: Timestamp,
    ) -> Explanation {
        match Asks::of_open(&self.model, &self.keys, principal, resource, origin, now) {
            Ok(asks) => {
                let judged = self.judge_all(&asks);
                let decision = self.open_from(&asks, &judged);
                let mut explanation = self.frame(principal, resource, &decision);
                let permitted = judged.iter().any(|judged| !judged.permits.is_empty());
                if !permitted && let Decision::Allow { because, .. } = &decision {
                    explanation.reached_by = because
                        .policies
                        .iter()
                        .filter_map(|id| self.policies.iter().find(|policy| policy.id == *id))
                        .map(|policy| note(policy, None))
                        .collect();
                    explanation.reason = "permits for commands could reach it".to_owned();
                }
                explanation.questions = self.questions(&asks, &judged);
                explanation
            }
            Err(malformed) => self.malformed(principal, resource, &malformed),
        }
    }

    fn malformed(
        &self,
        principal: &Principal,
        resource: &Resource,
        malformed: &Malformed,
    ) -> Explanation {
        let decision = self.deny_malformed(malformed);
        let mut explanation = self.frame(principal, resource, &decision);
        explanation.reason =
            format!("policy cannot be asked: {}", one_line(&malformed.to_string()));
        explanation
    }

    fn frame(
        &self,
        principal: &Principal,
        resource: &Resource,
        decision: &Decision,
    ) -> Explanation {
        let owned = |list: &[std::sync::Arc<str>]| {
            list.iter().map(|text| one_line(text)).collect::<Vec<_>>()
        };
        let none = Obligations::default();
        let (owe, hold) = match decision {
            Decision::Allow { owe, .. } => (owe, None),
            Decision::Hold { owe, terms, .. } => (
                owe,
                Some(Hold {
                    groups: owned(&terms.groups),
                    quorum: terms.quorum,
                    expires_ms: terms.expires_ms,
                }),
            ),
            Decision::Deny { .. } => (&none, None),
        };
        Explanation {
            principal: one_line(principal.id.as_str()),
            kind: principal.kind.as_str(),
            groups: owned(&principal.groups),
            resource: resource.name.to_string(),
            action: "connect".to_owned(),
            effects: Vec::new(),
            decision: decision.as_str(),
            reason: reason(decision),
            policies: owned(&decision.because().policies),
            bundle: self.digest().to_string(),
            hold,
            rows_max: owe.rows_max,
            bytes_max: owe.bytes_max,
            notify: owned(&owe.notify),
            questions: Vec::new(),
            reached_by: Vec::new(),
        }
    }

    fn questions(&self, asks: &Asks, judged: &[Judged]) -> Vec<Question> {
        asks.list.iter().zip(judged).map(|(ask, judged)| self.question(asks, ask, judged)).collect()
    }

    fn question(&self, asks: &Asks, ask: &Ask, judged: &Judged) -> Question {
        let policy = |at: &usize| self.policies.get(*at);
        let notes = |list: &[usize]| {
            list.iter().filter_map(policy).map(|policy| note(policy, None)).collect::<Vec<_>>()
        };
        let holds = |at: &usize| policy(at).is_some_and(|policy| policy.duties.hold.is_some());
        let (answer, policies) = if !judged.errors.is_empty() {
            ("error", notes(&judged.forbids))
        } else if !judged.forbids.is_empty() {
            ("forbid", notes(&judged.forbids))
        } else if judged.permits.iter().any(holds) {
            ("hold", notes(&judged.permits))
        } else if judged.permits.is_empty() {
            ("none", Vec::new())
        } else {
            ("permit", notes(&judged.permits))
        };
        let errors = judged
            .errors
            .iter()
            .filter_map(|(at, error)| policy(at).map(|policy| note(policy, Some(one_line(error)))))
            .collect();
        let action = self.model.actions.get(ask.action).map(|action| action.uid.id().unescaped());
        Question {
            action: action.unwrap_or_default().to_owned(),
            resource: one_line(&ask.resource.to_string()),
            needs_permit: ask.needs == Needs::Permit,
            answer,
            policies,
            errors,
            missed: notes(&judged.missed),
            nearest: if judged.permits.is_empty() && ask.needs == Needs::Permit {
                self.nearest(asks, ask)
            } else {
                Vec::new()
            },
        }
    }

    /// Permits that miss by one side of their scope; then those of this principal that miss by two.
    fn nearest(&self, asks: &Asks, ask: &Ask) -> Vec<PolicyNote> {
        let mut found: Vec<(usize, usize, &Loaded, Misses)> = Vec::new();
        for (at, policy) in self.policies.iter().enumerate() {
            let misses = Misses {
                principal: !policy.scope.principal.holds(&asks.member),
                action: !policy.scope.covers(ask.action),
                resource: !policy.scope.resource.holds(&ask.member),
            };
            let count = misses.count();
            let near = count == 1 || (count == 2 && !misses.principal);
            if policy.effect == Effect::Permit && near {
                found.push((count, at, policy, misses));
            }
        }
        found.sort_by_key(|(count, at, ..)| (*count, *at));
        found
            .into_iter()
            .take(NEAREST_MAX)
            .map(|(_, _, policy, misses)| note(policy, Some(misses.describe(policy))))
            .collect()
    }
}

struct Misses {
    principal: bool,
    action: bool,
    resource: bool,
}

impl Misses {
    fn count(&self) -> usize {
        usize::from(self.principal) + usize::from(self.action) + usize::from(self.resource)
    }

    /// `only action in [Bulla::Action::"postgres:select"]`
    fn describe(&self, policy: &Loaded) -> String {
        let Some(policy) = policy.set.policies().next() else { return String::new() };
        let mut sides = Vec::new();
        if self.principal {
            sides.push(match policy.principal_constraint() {
                PrincipalConstraint::Any => "any principal".to_owned(),
                PrincipalConstraint::In(uid) => format!("principal in {uid}"),
                PrincipalConstraint::Eq(uid) => format!("principal == {uid}"),
                PrincipalConstraint::Is(kind) => format!("principal is {kind}"),
                PrincipalConstraint::IsIn(kind, uid) => format!("principal is {kind} in {uid}"),
            });
        }
        if self.action {
            sides.push(match policy.action_constraint() {
                ActionConstraint::Any => "any action".to_owned(),
                ActionConstraint::Eq(uid) => format!("action == {uid}"),
                ActionConstraint::In(uids) => {
                    let uids: Vec<String> = uids.iter().map(ToString::to_string).collect();
                    format!("action in [{}]", uids.join(", "))
                }
            });
        }
        if self.resource {
            sides.push(match policy.resource_constraint() {
                ResourceConstraint::Any => "any resource".to_owned(),
                ResourceConstraint::In(uid) => format!("resource in {uid}"),
                ResourceConstraint::Eq(uid) => format!("resource == {uid}"),
                ResourceConstraint::Is(kind) => format!("resource is {kind}"),
                ResourceConstraint::IsIn(kind, uid) => format!("resource is {kind} in {uid}"),
            });
        }
        one_line(&format!("only {}", sides.join(" and ")))
    }
}

fn note(policy: &Loaded, note: Option<String>) -> PolicyNote {
    PolicyNote {
        id: policy.id.to_string(),
        effect: match policy.effect {
            Effect::Permit => "permit",
            Effect::Forbid => "forbid",
        },
        file: policy.file.to_string(),
        line: policy.place.0,
        note,
    }
}

fn reason(decision: &Decision) -> String {
    match decision {
        Decision::Allow { .. } => "every question is permitted and none is forbidden".to_owned(),
        Decision::Hold { terms, .. } => format!("it waits for {}", terms.groups.join(" and ")),
        Decision::Deny { reason, .. } => match reason {
            DenyReason::NoPermit { what, action } => {
                format!("no policy permits `{action}` on `{what}`")
            }
            DenyReason::Forbidden { what } => format!("a policy forbids it on `{what}`"),
            DenyReason::Error => "a policy could not be evaluated".to_owned(),
            DenyReason::CannotHonour { obligation } => {
                format!("`{obligation}` is owed, which this protocol cannot honour")
            }
        },
    }
}

impl fmt::Display for PolicyNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({}:{})", self.effect, self.id, self.file, self.line)?;
        match &self.note {
            Some(note) => write!(f, ": {note}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.decision, self.reason)?;
        writeln!(f, "principal  {} ({})", self.principal, self.kind)?;
        writeln!(f, "groups     {}", self.groups.join(", "))?;
        writeln!(f, "resource   {}", self.resource)?;
        writeln!(f, "action     {}", self.action)?;
        if !self.effects.is_empty() {
            writeln!(f, "effects    {}", self.effects.join(", "))?;
        }
        if let Some(hold) = &self.hold {
            let (groups, quorum) = (hold.groups.join(", "), hold.quorum);
            let seconds = hold.expires_ms.div_ceil(1_000);
            writeln!(f, "hold       {groups}; {quorum} to approve within {seconds} s")?;
        }
        for (name, limit) in [("rows_max ", self.rows_max), ("bytes_max", self.bytes_max)] {
            if let Some(limit) = limit {
                writeln!(f, "{name}  {limit}")?;
            }
        }
        if !self.notify.is_empty() {
            writeln!(f, "notify     {}", self.notify.join(", "))?;
        }
        let digest = self.bundle.get(..12).unwrap_or(&self.bundle);
        writeln!(f, "policies   {} @{digest}", self.policies.join(", "))?;
        for question in &self.questions {
            let needs = if question.needs_permit { "" } else { " (needs no permit)" };
            writeln!(f, "{} on {}{needs}", question.action, question.resource)?;
            writeln!(f, "  answer   {}", question.answer)?;
            for (word, list) in [
                ("applies", &question.policies),
                ("error  ", &question.errors),
                ("missed ", &question.missed),
                ("near   ", &question.nearest),
            ] {
                for policy in list {
                    writeln!(f, "  {word}  {policy}")?;
                }
            }
        }
        for policy in &self.reached_by {
            writeln!(f, "reached by {policy}")?;
        }
        Ok(())
    }
}
