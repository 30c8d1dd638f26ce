//! Scopes as small numbers: which policies can apply to a request at all.
//!
//! Cedar looks at every policy for every request. Here the scope of each (who, which action, which
//! resource) is compiled at load; a request is first held against the scopes, and Cedar evaluates
//! only what is left. Holding a scope is exact: it means what Cedar means, so nothing is dropped
//! that could have mattered (`tests/golden.rs` and `tests/slicing.rs` hold the two together).

use std::collections::HashMap;

use cedar_policy::{
    ActionConstraint, EntityTypeName, EntityUid, Policy, PrincipalConstraint, ResourceConstraint,
};

use crate::schema::Model;

/// Numbers for the entities and entity types that scopes name.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    entities: HashMap<EntityUid, u32>,
    types: HashMap<EntityTypeName, u32>,
}

impl Keys {
    fn entity(&mut self, uid: &EntityUid) -> u32 {
        let next = u32::try_from(self.entities.len()).unwrap_or(u32::MAX);
        *self.entities.entry(uid.clone()).or_insert(next)
    }
    fn kind(&mut self, kind: &EntityTypeName) -> u32 {
        let next = u32::try_from(self.types.len()).unwrap_or(u32::MAX);
        *self.types.entry(kind.clone()).or_insert(next)
    }

    pub(crate) fn find(&self, uid: &EntityUid) -> Option<u32> {
        self.entities.get(uid).copied()
    }

    /// What `uid` with these ancestors is, in numbers.
    pub(crate) fn member<'a>(
        &self,
        uid: &EntityUid,
        ancestors: impl Iterator<Item = &'a EntityUid>,
    ) -> Member {
        let own = self.entities.get(uid).copied();
        let mut within: Vec<u32> =
            ancestors.filter_map(|uid| self.entities.get(uid).copied()).chain(own).collect();
        within.sort_unstable();
        within.dedup();
        Member { kind: self.types.get(uid.type_name()).copied(), own, within }
    }
}

/// An entity of a request, in numbers. What no scope names has none.
#[derive(Debug)]
pub(crate) struct Member {
    kind: Option<u32>,
    own: Option<u32>,
    /// Sorted.
    within: Vec<u32>,
}

impl Member {
    /// Whether it is `key` or in it.
    pub(crate) fn within(&self, key: u32) -> bool {
        self.within.binary_search(&key).is_ok()
    }
}

/// One side of a scope.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Side {
    kind: Option<u32>,
    entity: Option<Relation>,
}

#[derive(Debug, Clone, Copy)]
enum Relation {
    Is(u32),
    Within(u32),
}

impl Side {
    pub(crate) fn holds(&self, member: &Member) -> bool {
        self.kind.is_none_or(|kind| member.kind == Some(kind))
            && match self.entity {
                None => true,
                Some(Relation::Is(key)) => member.own == Some(key),
                Some(Relation::Within(key)) => member.within(key),
            }
    }
}

/// The scope of one policy.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub principal: Side,
    pub resource: Side,
    /// Sorted indices into [`Model::actions`].
    pub actions: Vec<u32>,
    /// The policy names its actions, rather than taking all of them.
    pub names_actions: bool,
    /// The entity that the resource side names.
    pub resource_uid: Option<EntityUid>,
    /// The entity type that the resource side demands.
    pub resource_kind: Option<EntityTypeName>,
}

impl Scope {
    pub(crate) fn of(policy: &Policy, model: &Model, keys: &mut Keys) -> Self {
        let principal = match policy.principal_constraint() {
            PrincipalConstraint::Any => Side { kind: None, entity: None },
            PrincipalConstraint::In(uid) => within(None, &uid, keys),
            PrincipalConstraint::Eq(uid) => exactly(&uid, keys),
            PrincipalConstraint::Is(kind) => of_kind(&kind, keys),
            PrincipalConstraint::IsIn(kind, uid) => within(Some(&kind), &uid, keys),
        };
        let (resource, resource_uid, resource_kind) = match policy.resource_constraint() {
            ResourceConstraint::Any => (Side { kind: None, entity: None }, None, None),
            ResourceConstraint::In(uid) => (within(None, &uid, keys), Some(uid), None),
            ResourceConstraint::Eq(uid) => {
                let kind = uid.type_name().clone();
                (exactly(&uid, keys), Some(uid), Some(kind))
            }
            ResourceConstraint::Is(kind) => (of_kind(&kind, keys), None, Some(kind)),
            ResourceConstraint::IsIn(kind, uid) => {
                (within(Some(&kind), &uid, keys), Some(uid), Some(kind))
            }
        };
        let (names_actions, wanted) = match policy.action_constraint() {
            ActionConstraint::Any => (false, Vec::new()),
            ActionConstraint::Eq(uid) => (true, vec![(uid, Membership::Exact)]),
            ActionConstraint::In(uids) => {
                (true, uids.into_iter().map(|uid| (uid, Membership::Within)).collect())
            }
        };
        let mut actions = Vec::new();
        for (at, action) in model.actions.iter().enumerate() {
            let meets = |(uid, membership): &(EntityUid, Membership)| {
                action.uid == *uid
                    || (*membership == Membership::Within && action.parents.contains(uid))
            };
            if (!names_actions || wanted.iter().any(meets))
                && let Ok(at) = u32::try_from(at)
            {
                actions.push(at);
            }
        }
        Self { principal, resource, actions, names_actions, resource_uid, resource_kind }
    }

    pub(crate) fn covers(&self, action: usize) -> bool {
        u32::try_from(action).is_ok_and(|action| self.actions.binary_search(&action).is_ok())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Membership {
    Exact,
    Within,
}

fn within(kind: Option<&EntityTypeName>, uid: &EntityUid, keys: &mut Keys) -> Side {
    let kind = kind.map(|kind| keys.kind(kind));
    Side { kind, entity: Some(Relation::Within(keys.entity(uid))) }
}

fn exactly(uid: &EntityUid, keys: &mut Keys) -> Side {
    Side { kind: None, entity: Some(Relation::Is(keys.entity(uid))) }
}

fn of_kind(kind: &EntityTypeName, keys: &mut Keys) -> Side {
    Side { kind: Some(keys.kind(kind)), entity: None }
}

/// Policies by action: what a request of one action has to be held against.
#[derive(Debug, Default)]
pub(crate) struct Slices {
    by_action: Vec<Vec<Slot>>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    principal: Side,
    resource: Side,
    policy: u32,
}

impl Slices {
    pub(crate) fn new<'a>(actions: usize, scopes: impl Iterator<Item = &'a Scope>) -> Self {
        let mut by_action = vec![Vec::new(); actions];
        for (policy, scope) in scopes.enumerate() {
            let Ok(policy) = u32::try_from(policy) else { continue };
            for action in &scope.actions {
                if let Some(slots) = by_action.get_mut(*action as usize) {
                    slots.push(Slot {
                        principal: scope.principal,
                        resource: scope.resource,
                        policy,
                    });
                }
            }
        }
        Self { by_action }
    }

    /// The policies whose whole scope holds, in the order of the bundle.
    pub(crate) fn candidates(
        &self,
        action: usize,
        principal: &Member,
        resource: &Member,
    ) -> impl Iterator<Item = usize> {
        self.by_action
            .get(action)
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .filter(|slot| slot.principal.holds(principal) && slot.resource.holds(resource))
            .map(|slot| slot.policy as usize)
    }
}
