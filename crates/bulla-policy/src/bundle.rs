//! The loaded bundle and its decisions.

use std::{collections::BTreeMap, sync::Arc};

use bulla_core::{
    ActionName, Because, CLASS_KIND, Columns, Command, Decision, DenyReason, Digest, Effects,
    HoldTerms, Obligations, Origin, Policies, Principal, Purity, REVEAL, Request, Resource,
    RevealRequest, Spelling, Timestamp, Touch, Touches,
};
use cedar_policy::{Authorizer, Effect};

use crate::{
    ask::{Ask, Asks, Malformed, Needs},
    cache::Cache,
    load::{Loaded, bundle_digest, load},
    problem::PolicyProblem,
    schema::{Model, SchemaInput},
    scope::{Keys, Slices},
};

/// Most policies that one decision names.
pub const BECAUSE_MAX: usize = 64;

/// One loaded, validated bundle of policies. Immutable but for its cache of decisions, which lives
/// and dies with it: a reload starts from nothing.
///
/// What a command is asked, each a question of its own to Cedar:
/// - every touch: its action, on its entity (`Bulla::Table::"orders.public.payments"`);
/// - the command's own action on the resource, when it touches nothing and `also` says nothing;
/// - `<protocol>:unknown` on the resource, when its reading is in doubt (its touches are unknown or
///   its effects say so). What was seen of it is asked all the same;
/// - every action of [`bulla_core::Command::also`], on the resource;
/// - the command's own action on the resource, when no touch names that action, and everything that
///   lies beneath its touches ([`bulla_core::Command::beneath`]). These need no permit, but a
///   forbid, a failing policy or a hold counts.
///
/// - `reveal` on every class whose values it shows in the clear.
///
/// Every question must be answered with a permit, and none with a forbid. A policy that cannot be
/// evaluated denies, whether it permits or forbids. If **any** permit that applies carries `@hold`,
/// the command is held, even if another permit without one applies too; obligations of all permits
/// that apply are joined, the stricter of each. [`Request::approved`] turns a Hold into an Allow.
#[derive(Debug)]
pub struct Bundle {
    pub(crate) model: Model,
    pub(crate) keys: Keys,
    pub(crate) policies: Vec<Loaded>,
    pub(crate) slices: Slices,
    digest: Digest,
    authorizer: Authorizer,
    cache: Cache,
}

/// The answer to one question, policy by policy. Indices are into [`Bundle::policies`].
#[derive(Debug, Default)]
pub(crate) struct Judged {
    pub errors: Vec<(usize, String)>,
    pub forbids: Vec<usize>,
    pub permits: Vec<usize>,
    /// Their scope holds, their conditions do not.
    pub missed: Vec<usize>,
    /// No policy whose scope holds reads the time.
    pub timeless: bool,
}

/// What a command is told, before it is a [`Decision`].
#[derive(Debug)]
pub(crate) struct Verdict {
    pub decision: Decision,
    pub timeless: bool,
}

impl Bundle {
    /// Loads (file name, text) pairs. Every problem of every file is reported at once, sorted by
    /// file and place; a bundle with any is refused whole.
    pub fn load(
        files: &[(String, String)],
        input: &SchemaInput<'_>,
    ) -> Result<Self, Vec<PolicyProblem>> {
        let model = Model::new(input)?;
        let mut keys = Keys::default();
        let policies = load(files, &model, &mut keys)?;
        let slices = Slices::new(model.actions.len(), policies.iter().map(|policy| &policy.scope));
        Ok(Self {
            model,
            keys,
            policies,
            slices,
            digest: bundle_digest(files),
            authorizer: Authorizer::new(),
            cache: Cache::new(),
        })
    }

    /// The schema that the bundle was validated against, in Cedar's syntax.
    pub fn schema_text(&self) -> &str {
        &self.model.text
    }

    /// How many policies there are.
    pub fn policy_count(&self) -> usize {
        self.policies.len()
    }

    /// As [`Policies::decide`], without the cache.
    pub fn decide_uncached(&self, request: &Request<'_>) -> Decision {
        self.verdict(request).decision
    }

    fn verdict(&self, request: &Request<'_>) -> Verdict {
        match Asks::of_command(&self.model, &self.keys, request) {
            Ok(asks) => {
                let judged = self.judge_all(&asks);
                let timeless = judged.iter().all(|judged| judged.timeless);
                Verdict { decision: self.combine(&asks, &judged, request.approved), timeless }
            }
            Err(malformed) => {
                Verdict { decision: self.deny_malformed(&malformed), timeless: false }
            }
        }
    }

    pub(crate) fn deny_malformed(&self, _: &Malformed) -> Decision {
        self.deny(DenyReason::Error, Vec::new())
    }

    fn no_permit(&self, ask: &Ask) -> DenyReason {
        let action = self.model.actions.get(ask.action);
        let action = action.map_or("", |action| action.uid.id().unescaped());
        DenyReason::NoPermit { what: ask.what.clone(), action: action.into() }
    }

    fn deny(&self, reason: DenyReason, policies: Vec<Arc<str>>) -> Decision {
        Decision::Deny { because: Because { policies, bundle: self.digest }, reason }
    }

    pub(crate) fn judge_all(&self, asks: &Asks) -> Vec<Judged> {
        asks.list.iter().map(|ask| self.judge(asks, ask)).collect()
    }

    fn judge(&self, asks: &Asks, ask: &Ask) -> Judged {
        let mut judged = Judged { timeless: true, ..Judged::default() };
        let mut candidates =
            self.slices.candidates(ask.action, &asks.member, &ask.member).peekable();
        if candidates.peek().is_none() {
            return judged;
        }
        let request = match self.cedar_request(asks, ask) {
            Ok(request) => request,
            // Nothing can be evaluated, so that every candidate fails.
            Err(error) => {
                judged.errors.extend(candidates.map(|at| (at, error.clone())));
                return judged;
            }
        };
        for at in candidates {
            let Some(policy) = self.policies.get(at) else { continue };
            judged.timeless &= policy.timeless;
            let response = self.authorizer.is_authorized(&request, &policy.set, &asks.entities);
            if let Some(error) = response.diagnostics().errors().next() {
                judged.errors.push((at, error.to_string()));
            } else if response.diagnostics().reason().next().is_none() {
                judged.missed.push(at);
            } else {
                match policy.effect {
                    Effect::Permit => judged.permits.push(at),
                    Effect::Forbid => judged.forbids.push(at),
                }
            }
        }
        judged
    }

    /// Checked against the schema: a context or an entity of another shape is an error here.
    fn cedar_request(&self, asks: &Asks, ask: &Ask) -> Result<cedar_policy::Request, String> {
        let action = self.model.actions.get(ask.action).ok_or("no such action")?;
        cedar_policy::Request::new(
            asks.principal.clone(),
            action.uid.clone(),
            ask.resource.clone(),
            ask.context.clone(),
            Some(&self.model.schema),
        )
        .map_err(|error| error.to_string())
    }

    pub(crate) fn id(&self, at: usize) -> Option<Arc<str>> {
        self.policies.get(at).map(|policy| policy.id.clone())
    }

    /// Ids in the order of `indices`, each once, at most [`BECAUSE_MAX`].
    fn ids(&self, indices: impl Iterator<Item = usize>) -> Vec<Arc<str>> {
        let mut seen = Vec::new();
        for at in indices {
            if seen.len() < BECAUSE_MAX && !seen.contains(&at) {
                seen.push(at);
            }
        }
        seen.into_iter().filter_map(|at| self.id(at)).collect()
    }

    pub(crate) fn combine(&self, asks: &Asks, judged: &[Judged], approved: bool) -> Decision {
        let pairs = || asks.list.iter().zip(judged);
        if asks.list.is_empty() || asks.list.len() != judged.len() {
            return self.deny(DenyReason::Error, Vec::new());
        }
        let errors = || judged.iter().flat_map(|judged| judged.errors.iter().map(|(at, _)| *at));
        if errors().next().is_some() {
            return self.deny(DenyReason::Error, self.ids(errors()));
        }
        if let Some((ask, _)) = pairs().find(|(_, judged)| !judged.forbids.is_empty()) {
            let ids = self.ids(judged.iter().flat_map(|judged| judged.forbids.iter().copied()));
            return self.deny(DenyReason::Forbidden { what: ask.what.clone() }, ids);
        }
        let unmet = |(ask, judged): &(&Ask, &Judged)| {
            ask.needs == Needs::Permit && judged.permits.is_empty()
        };
        if let Some((ask, _)) = pairs().find(unmet) {
            return self.deny(self.no_permit(ask), Vec::new());
        }
        let permits = || judged.iter().flat_map(|judged| judged.permits.iter().copied());
        let mut owe = Obligations::default();
        let mut terms: Option<HoldTerms> = None;
        for policy in permits().filter_map(|at| self.policies.get(at)) {
            owe = owe.join(&policy.duties.owe);
            if let Some(hold) = &policy.duties.hold {
                terms = Some(match terms {
                    Some(terms) => terms.join(hold),
                    None => hold.clone(),
                });
            }
        }
        if let Some(obligation) = self.cannot_honour(asks.protocol, &owe) {
            let reason = DenyReason::CannotHonour { obligation: obligation.into() };
            return self.deny(reason, self.ids(permits()));
        }
        let holds = |at: &usize| self.policies.get(*at).is_some_and(|p| p.duties.hold.is_some());
        match terms {
            Some(terms) if !approved => {
                // Those that hold it come first: they are what an approver has to know.
                let ids = self.ids(permits().filter(holds).chain(permits()));
                let because = Because { policies: ids, bundle: self.digest };
                Decision::Hold { because, owe, terms }
            }
            _ => {
                let because = Because { policies: self.ids(permits()), bundle: self.digest };
                Decision::Allow { because, owe }
            }
        }
    }

    fn cannot_honour(&self, protocol: usize, owe: &Obligations) -> Option<&'static str> {
        let honours = self.model.protocols.get(protocol).map_or(&[][..], |p| p.descriptor.honours);
        [("rows_max", owe.rows_max.is_some()), ("bytes_max", owe.bytes_max.is_some())]
            .into_iter()
            .find(|(name, owed)| *owed && !honours.contains(name))
            .map(|(name, _)| name)
    }

    /// The decision on opening a session, with the question and answer that it came from.
    pub(crate) fn open_from(&self, asks: &Asks, judged: &[Judged]) -> Decision {
        let (Some(ask), Some(answer)) = (asks.list.first(), judged.first()) else {
            return self.deny(DenyReason::Error, Vec::new());
        };
        if !answer.errors.is_empty() {
            let ids = self.ids(answer.errors.iter().map(|(at, _)| *at));
            return self.deny(DenyReason::Error, ids);
        }
        if !answer.forbids.is_empty() {
            let ids = self.ids(answer.forbids.iter().copied());
            return self.deny(DenyReason::Forbidden { what: ask.what.clone() }, ids);
        }
        // Rows and bytes are owed by commands; a session only tells whom it should.
        let allow = |because: Vec<usize>| {
            let mut owe = Obligations::default();
            for policy in because.iter().filter_map(|at| self.policies.get(*at)) {
                if policy.scope.names_actions && policy.scope.covers(self.model.connect) {
                    let notify = policy.duties.owe.notify.clone();
                    owe = owe.join(&Obligations { notify, ..Obligations::default() });
                }
            }
            let ids = self.ids(because.into_iter());
            Decision::Allow { because: Because { policies: ids, bundle: self.digest }, owe }
        };
        if !answer.permits.is_empty() {
            return allow(answer.permits.clone());
        }
        let reaching: Vec<usize> = (0..self.policies.len())
            .filter(|at| self.policies.get(*at).is_some_and(|p| self.reaches(p, asks, ask)))
            .collect();
        if reaching.is_empty() {
            return self.deny(self.no_permit(ask), Vec::new());
        }
        allow(reaching)
    }

    /// Whether some command of this principal on this resource could meet the policy's scope.
    /// Conditions are not looked at.
    fn reaches(&self, policy: &Loaded, asks: &Asks, ask: &Ask) -> bool {
        let scope = &policy.scope;
        let of_protocol = |at: &u32| {
            let action = self.model.actions.get(*at as usize);
            action.is_some_and(|action| action.protocol == Some(asks.protocol))
        };
        if policy.effect != Effect::Permit
            || !scope.principal.holds(&asks.member)
            || !scope.actions.iter().any(of_protocol)
        {
            return false;
        }
        if scope.resource.holds(&ask.member) {
            return true;
        }
        let types = &self.model.types;
        let touches = self.model.protocols.get(asks.protocol).map(|p| &p.touches);
        let touch_kind = |kind| touches.is_some_and(|touches| touches.values().any(|t| t == kind));
        // A thing within the resource, or a part of it, is named by an id that starts with its own.
        let inside = |id: &str| {
            id.strip_prefix(ask.resource.id().unescaped())
                .is_some_and(|rest| rest.starts_with('.') || rest.starts_with('/'))
        };
        let entity = scope.resource_uid.as_ref().is_none_or(|uid| {
            let kind = uid.type_name();
            ask.member_within(&self.keys, uid)
                || ((*kind == types.resource || touch_kind(kind)) && inside(uid.id().unescaped()))
        });
        let kind = scope
            .resource_kind
            .as_ref()
            .is_none_or(|kind| *kind == types.resource || touch_kind(kind));
        entity && kind
    }
}

impl Policies for Bundle {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn decide(&self, request: &Request<'_>) -> Decision {
        if let Some(decision) = self.cache.find(request) {
            return decision;
        }
        let verdict = self.verdict(request);
        if verdict.timeless {
            self.cache.keep(request, &verdict.decision);
        }
        verdict.decision
    }

    /// Only a permit that applies now and holds nothing shows values; whatever cannot be decided
    /// hides them. Kept as any decision is: the request is the one that a command of nothing else
    /// would be.
    fn reveals(&self, request: &RevealRequest<'_>) -> bool {
        let Ok(action) = ActionName::new(REVEAL) else { return false };
        let touch = Touch {
            action: action.clone(),
            kind: CLASS_KIND,
            path: request.class.into(),
            columns: Columns::NotApplicable,
        };
        let command = Command {
            action,
            spelling: Spelling::Capitals,
            effects: Effects::NONE,
            touches: Touches::Known(vec![touch]),
            purity: Purity::Read,
            shown: "".into(),
            parameters: Arc::default(),
            facts: BTreeMap::new(),
            also: Vec::new(),
            beneath: Vec::new(),
            settings: "".into(),
        };
        let RevealRequest { principal, resource, part, origin, now, class: _ } = *request;
        let asked =
            Request { principal, resource, part, origin, command: &command, now, approved: false };
        let decision = match self.cache.find(&asked) {
            Some(decision) => decision,
            None => match Asks::of_reveal(&self.model, &self.keys, request) {
                Ok(asks) => {
                    let judged = self.judge_all(&asks);
                    let decision = self.combine(&asks, &judged, false);
                    if judged.iter().all(|judged| judged.timeless) {
                        self.cache.keep(&asked, &decision);
                    }
                    decision
                }
                Err(malformed) => self.deny_malformed(&malformed),
            },
        };
        matches!(decision, Decision::Allow { .. })
    }

    /// A session may open when a permit for `connect` applies, or when some permit could reach this
    /// principal and this resource at all: its scope is looked at, its conditions are not, for they
    /// may depend on the command. A forbid on `connect` always wins.
    fn decide_open(
        &self,
        principal: &Principal,
        resource: &Resource,
        origin: &Origin,
        now: Timestamp,
    ) -> Decision {
        match Asks::of_open(&self.model, &self.keys, principal, resource, origin, now) {
            Ok(asks) => {
                let judged = self.judge_all(&asks);
                self.open_from(&asks, &judged)
            }
            Err(malformed) => self.deny_malformed(&malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bulla_core::{Attribute, Fact, PrincipalKind, Touches};
    use cedar_policy::{Authorizer, Decision as Cedar, PolicySet};

    use super::*;
    use crate::support::{Case, action_name, load, resource, touch};

    /// Every combination of scopes and conditions that validates, permits and forbids.
    fn everything() -> String {
        let principals = [
            "principal",
            "principal in Bulla::Group::\"g1\"",
            "principal in Bulla::Group::\"g2\"",
            "principal == Bulla::Workload::\"k8s|a\"",
            "principal in Bulla::Workload::\"k8s|a\"",
            "principal is Bulla::Human",
            "principal is Bulla::Workload in Bulla::Group::\"g1\"",
        ];
        let actions = [
            "action",
            "action == Bulla::Action::\"postgres:select\"",
            "action in Bulla::Action::\"postgres:read\"",
            "action in [Bulla::Action::\"postgres:write\", Bulla::Action::\"postgres:unknown\"]",
            "action in [Bulla::Action::\"postgres:known\", Bulla::Action::\"connect\"]",
        ];
        let resources = [
            "resource",
            "resource in Bulla::Resource::\"orders\"",
            "resource == Bulla::Resource::\"orders\"",
            "resource in Bulla::Resource::\"orders/reports\"",
            "resource in Bulla::ResourceGroup::\"env:prod\"",
            "resource == Bulla::Table::\"orders.s.a\"",
            "resource in Bulla::Table::\"orders.s.a\"",
            "resource == Bulla::Table::\"orders/reports.s.a\"",
            "resource is Bulla::Table",
            "resource is Bulla::Table in Bulla::Resource::\"orders\"",
            "resource is Bulla::Resource in Bulla::ResourceGroup::\"env:prod\"",
        ];
        let conditions = [
            "",
            "when { principal has env && principal.env == \"prod\" }",
            "when { principal has level && principal.level + 9223372036854775807 > 0 }",
        ];
        let mut out = String::new();
        let mut number = 0;
        for principal in principals {
            for action in actions {
                for resource in resources {
                    if action.contains("connect") && resource.contains("orders/") {
                        continue;
                    }
                    for condition in conditions {
                        // Not all forbids: some requests should be let through.
                        let effect = if number % 7 == 3 { "forbid" } else { "permit" };
                        out.push_str(&format!(
                            "@id(\"p{number}\") {effect} ({principal}, {action}, {resource}) \
                             {condition};\n"
                        ));
                        number += 1;
                    }
                }
            }
        }
        out
    }

    fn cases() -> Vec<Case> {
        let mut cases = Vec::new();
        for kind in [PrincipalKind::Workload, PrincipalKind::Human] {
            for (id, groups) in [("a", vec![]), ("b", vec!["g1"]), ("b", vec!["g2", "g1"])] {
                for attribute in [
                    None,
                    Some(("env", Attribute::Text("prod".into()))),
                    Some(("level", Attribute::Number(5))),
                ] {
                    for (on, part) in [("orders", None), ("orders", Some("reports")), ("crm", None)]
                    {
                        cases.push(Case::changed(|case| {
                            case.principal.id = bulla_core::PrincipalId::new("k8s", id).unwrap();
                            case.principal.kind = kind;
                            case.principal.groups = groups.iter().map(|g| (*g).into()).collect();
                            if let Some((name, value)) = &attribute {
                                case.principal.attributes.insert((*name).into(), value.clone());
                            }
                            case.resource = resource(on);
                            case.part = part.map(str::to_owned);
                            case.command.touches = Touches::Unknown {
                                why: "so that all is asked".into(),
                                seen: vec![
                                    touch("postgres:select s.a(x)"),
                                    touch("postgres:update s.b(x)"),
                                    touch("postgres:call s.a"),
                                ],
                            };
                            case.command.action = action_name("postgres:delete");
                            case.command.facts.insert("in_transaction", Fact::Flag(true));
                        }));
                    }
                }
            }
        }
        cases
    }

    /// What Cedar says of all policies at once is what is put together from those of the slice.
    #[test]
    fn a_slice_answers_as_the_whole_would() {
        let bundle = load(&everything());
        let mut all = PolicySet::new();
        for policy in bundle.policies.iter().flat_map(|policy| policy.set.policies()) {
            all.add(policy.clone()).unwrap();
        }
        let mut outcomes = [0; 3];
        let mut check = |asks: &Asks| {
            for ask in &asks.list {
                let judged = bundle.judge(asks, ask);
                let request = bundle.cedar_request(asks, ask).unwrap();
                let response = Authorizer::new().is_authorized(&request, &all, &asks.entities);
                let ids = |list: &[usize]| -> BTreeSet<String> {
                    list.iter().filter_map(|at| bundle.id(*at)).map(|id| id.to_string()).collect()
                };
                let reasons: BTreeSet<String> =
                    response.diagnostics().reason().map(ToString::to_string).collect();
                let failed: Vec<usize> = judged.errors.iter().map(|(at, _)| *at).collect();
                let errors: BTreeSet<String> = response
                    .diagnostics()
                    .errors()
                    .map(|cedar_policy::AuthorizationError::PolicyEvaluationError(error)| {
                        error.policy_id().to_string()
                    })
                    .collect();
                assert_eq!(ids(&failed), errors, "{:?}", ask.resource);
                let (applying, outcome) = match response.decision() {
                    Cedar::Allow => (&judged.permits, 0),
                    Cedar::Deny if judged.forbids.is_empty() => (&judged.forbids, 1),
                    Cedar::Deny => (&judged.forbids, 2),
                };
                assert_eq!(ids(applying), reasons, "{:?}", ask.resource);
                if outcome != 0 {
                    assert!(outcome == 2 || judged.permits.is_empty());
                }
                *outcomes.get_mut(outcome).unwrap() += 1;
            }
        };
        for case in cases() {
            check(&Asks::of_command(&bundle.model, &bundle.keys, &case.request()).unwrap());
            let open = Asks::of_open(
                &bundle.model,
                &bundle.keys,
                &case.principal,
                &case.resource,
                &case.origin,
                case.now,
            );
            check(&open.unwrap());
        }
        assert!(outcomes.iter().sum::<i32>() > 300, "{outcomes:?}");
        assert!(outcomes.first() > Some(&0) && outcomes.last() > Some(&0), "{outcomes:?}");
    }
}
