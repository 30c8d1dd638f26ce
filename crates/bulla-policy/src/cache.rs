//! Decisions kept, by everything that policy sees of a request but the time.
//!
//! A fixed number of small sets, each under its own lock. A hash only finds the set and the entry;
//! whether an entry answers a request is a comparison of values, so that two requests that differ
//! in anything that policy sees never share one. Full sets give up their oldest entry.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bulla_core::{
    ActionName, Attribute, Command, CredentialKind, Decision, Effects, Fact, Origin, Principal,
    PrincipalId, PrincipalKind, Proof, Request, Resource, ResourceName, Touch, Touches,
};

/// Sets of the cache; with [`WAYS`] this many times as many decisions.
const SETS: usize = 1_024;
/// Entries of one set.
const WAYS: usize = 4;
/// A request that holds more bytes than this, roughly, is not kept: 4,096 entries of 8 KiB at most.
const ENTRY_BYTES_MAX: usize = 8 << 10;

/// What of a request an entry was decided on. Owned, so that an entry outlives its request.
#[derive(Debug)]
struct Key {
    id: PrincipalId,
    kind: PrincipalKind,
    groups: Vec<Arc<str>>,
    attributes: BTreeMap<Arc<str>, Attribute>,
    credential: CredentialKind,
    bound: bool,
    jwks_stale: bool,
    resource: ResourceName,
    protocol: Arc<str>,
    resource_groups: Vec<Arc<str>>,
    part: Option<Box<str>>,
    address: IpAddr,
    action: ActionName,
    effects: Effects,
    unknown: bool,
    touches: Vec<Touch>,
    also: Vec<ActionName>,
    beneath: Vec<Touch>,
    facts: BTreeMap<&'static str, Fact>,
    approved: bool,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    decision: Decision,
}

type Set = [Option<(u64, Arc<Entry>)>; WAYS];

#[derive(Debug)]
pub(crate) struct Cache {
    sets: Box<[Mutex<Set>]>,
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self { sets: (0..SETS).map(|_| Mutex::default()).collect() }
    }

    fn set(&self, hash: u64) -> Option<&Mutex<Set>> {
        self.sets.get(hash as usize % SETS)
    }

    pub(crate) fn find(&self, request: &Request<'_>) -> Option<Decision> {
        let hash = hash(request);
        let entry = {
            // A set is changed entry by entry, so one left by a panic is still consistent.
            let set = self.set(hash)?.lock().unwrap_or_else(PoisonError::into_inner);
            let found = set.iter().flatten().find(|(other, _)| *other == hash);
            found.map(|(_, entry)| entry.clone())?
        };
        entry.key.answers(request).then(|| entry.decision.clone())
    }

    pub(crate) fn keep(&self, request: &Request<'_>, decision: &Decision) {
        if weight(request) > ENTRY_BYTES_MAX {
            return;
        }
        let hash = hash(request);
        let entry = Arc::new(Entry { key: Key::of(request), decision: decision.clone() });
        let Some(set) = self.set(hash) else { return };
        let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
        // The newest comes first; one of the same hash is replaced, or else the oldest falls out.
        let end = set
            .iter()
            .position(|slot| slot.as_ref().is_none_or(|(other, _)| *other == hash))
            .unwrap_or(WAYS - 1);
        if let Some(used) = set.get_mut(..=end) {
            used.rotate_right(1);
        }
        if let Some(first) = set.first_mut() {
            *first = Some((hash, entry));
        }
    }
}

/// Over what tells most requests apart; the comparison does the rest.
fn hash(request: &Request<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    request.principal.id.hash(&mut hasher);
    request.resource.name.hash(&mut hasher);
    request.part.hash(&mut hasher);
    request.origin.address.hash(&mut hasher);
    request.approved.hash(&mut hasher);
    let command = request.command;
    command.action.hash(&mut hasher);
    command.effects.hash(&mut hasher);
    command.touches.seen().hash(&mut hasher);
    command.also.hash(&mut hasher);
    command.beneath.hash(&mut hasher);
    command.facts.hash(&mut hasher);
    hasher.finish()
}

/// Bytes that an entry of this request would hold, roughly.
fn weight(request: &Request<'_>) -> usize {
    let texts = |list: &[Arc<str>]| list.iter().map(|text| text.len() + 16).sum::<usize>();
    let attributes = request.principal.attributes.iter().map(|(name, value)| {
        name.len()
            + match value {
                Attribute::Text(text) => text.len(),
                Attribute::Set(list) => texts(list),
                Attribute::Flag(_) | Attribute::Number(_) => 0,
            }
            + 64
    });
    let touches = request.command.touches.seen().iter().chain(&request.command.beneath);
    let touches = touches.map(|touch| {
        touch.path.len()
            + touch.action.as_str().len()
            + match &touch.columns {
                bulla_core::Columns::Known(list) => texts(list),
                bulla_core::Columns::NotApplicable
                | bulla_core::Columns::All
                | bulla_core::Columns::Unknown => 0,
            }
            + 96
    });
    let facts = request.command.facts.values().map(|fact| {
        64 + match fact {
            Fact::Text(text) => text.len(),
            Fact::Set(list) => texts(list),
            Fact::Flag(_) | Fact::Number(_) => 0,
        }
    });
    texts(&request.principal.groups)
        + texts(&request.resource.groups)
        + request.part.map_or(0, str::len)
        + attributes.chain(touches).chain(facts).sum::<usize>()
}

impl Key {
    fn of(request: &Request<'_>) -> Self {
        let Request { principal, resource, part, origin, command, now: _, approved } = *request;
        Self {
            id: principal.id.clone(),
            kind: principal.kind,
            groups: principal.groups.clone(),
            attributes: principal.attributes.clone(),
            credential: principal.proof.kind,
            bound: principal.proof.bound,
            jwks_stale: principal.proof.jwks_stale,
            resource: resource.name.clone(),
            protocol: resource.protocol.clone(),
            resource_groups: resource.groups.clone(),
            part: part.map(Box::from),
            address: origin.address,
            action: command.action.clone(),
            effects: command.effects,
            unknown: matches!(command.touches, Touches::Unknown { .. }),
            touches: command.touches.seen().to_vec(),
            also: command.also.clone(),
            beneath: command.beneath.clone(),
            facts: command.facts.clone(),
            approved,
        }
    }

    /// Whether the request is, for policy, the one that was decided. Every field of a request is
    /// named here: one that is added to the core later does not compile until it is placed.
    fn answers(&self, request: &Request<'_>) -> bool {
        let Request { principal, resource, part, origin, command, now: _, approved } = request;
        let Principal { id, kind, issuer: _, groups, attributes, proof } = principal;
        let Proof {
            kind: credential,
            hash: _,
            jti: _,
            kid_tail: _,
            issued_at: _,
            expires_at: _,
            verified_at: _,
            bound,
            jwks_stale,
        } = proof;
        let Resource {
            name,
            protocol,
            groups: resource_groups,
            mode: _,
            expiry: _,
            session_ms_max: _,
            hold_in_transaction_ms: _,
        } = resource;
        let Origin { address, port: _, tls: _, certificate: _ } = origin;
        let Command {
            action,
            spelling: _,
            effects,
            touches,
            also,
            beneath,
            purity: _,
            shown: _,
            parameters: _,
            facts,
            settings: _,
        } = command;
        let (unknown, seen) = match touches {
            Touches::Known(seen) => (false, seen),
            Touches::Unknown { why: _, seen } => (true, seen),
        };
        self.approved == *approved
            && self.effects == *effects
            && self.unknown == unknown
            && self.kind == *kind
            && self.credential == *credential
            && self.bound == *bound
            && self.jwks_stale == *jwks_stale
            && self.address == *address
            && self.part.as_deref() == *part
            && self.id == *id
            && self.action == *action
            && self.resource == *name
            && self.protocol == *protocol
            && self.touches == *seen
            && self.also == *also
            && self.beneath == *beneath
            && self.facts == *facts
            && self.groups == *groups
            && self.resource_groups == *resource_groups
            && self.attributes == *attributes
    }
}

#[cfg(test)]
mod tests {
    use bulla_core::Columns;

    use super::*;
    use crate::support::{Case, action_name, touch};

    /// Without the hash, which alone would tell most of these apart.
    #[test]
    fn a_key_answers_for_equal_values_only() {
        let base = Case::new();
        let key = Key::of(&base.request());
        assert!(key.answers(&base.request()));
        type Change = fn(&mut Case);
        let changes: [Change; 21] = [
            |case| case.principal.id = PrincipalId::new("corp", "billing/api").unwrap(),
            |case| case.principal.kind = PrincipalKind::Human,
            |case| case.principal.groups.push("x".into()),
            |case| {
                case.principal.attributes.insert("mfa".into(), Attribute::Flag(false));
            },
            |case| case.principal.proof.kind = CredentialKind::ClientCertificate,
            |case| case.principal.proof.bound = true,
            |case| case.principal.proof.jwks_stale = true,
            |case| case.resource.name = ResourceName::new("crm").unwrap(),
            |case| case.resource.protocol = "plain".into(),
            |case| case.resource.groups.clear(),
            |case| case.part = Some(String::new()),
            |case| case.origin.address = IpAddr::from([10, 1, 2, 4]),
            |case| case.command.action = action_name("postgres:update"),
            |case| case.command.effects = Effects::NONE,
            |case| {
                let seen = case.command.touches.seen().to_vec();
                case.command.touches = Touches::Unknown { why: "x".into(), seen };
            },
            |case| {
                let mut touch = touch("postgres:select public.payments(id,state)");
                touch.columns = Columns::Unknown;
                case.command.touches = Touches::Known(vec![touch]);
            },
            |case| case.command.touches = Touches::Known(vec![]),
            |case| case.command.also.push(action_name("postgres:update")),
            |case| case.command.beneath.push(touch("postgres:select public.payments(id)")),
            |case| {
                case.command.facts.insert("in_transaction", Fact::Flag(true));
            },
            |case| case.approved = true,
        ];
        for (number, change) in changes.iter().enumerate() {
            let case = Case::changed(change);
            assert!(!key.answers(&case.request()), "{number}");
            assert!(Key::of(&case.request()).answers(&case.request()), "{number}");
        }
    }
}
