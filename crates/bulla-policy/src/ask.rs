//! One request into the questions that Cedar is asked: entities, contexts, and who is in what.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bulla_core::{
    Attribute, CLASS_KIND, Columns, Command, Effects, Fact, FactKind, Origin, Principal,
    PrincipalKind, Request, Resource, RevealRequest, Timestamp, Touch, Touches,
};
use cedar_policy::{Context, Entities, Entity, EntityUid, RestrictedExpression};

use crate::{
    problem::one_line,
    schema::{AttributeKind, Model, Protocol, uid},
    scope::{Keys, Member},
};

/// Longest name of a thing that a decision shows, in characters.
const WHAT_CHARS_MAX: usize = 300;

/// Most touches of one command that policy looks at; more deny it.
pub const TOUCHES_MAX: usize = 10_000;

/// A request that no policy can be asked about. Always a Deny.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("resource `{0}` has the unknown protocol `{1}`")]
    Protocol(String, String),
    #[error("action `{0}` is not declared by the resource's protocol")]
    Action(String),
    #[error("kind `{0}` is not declared by the resource's protocol")]
    Kind(String),
    #[error("fact `{0}` is not declared by the resource's protocol")]
    UndeclaredFact(String),
    #[error("fact `{0}` is declared with another kind")]
    FactKind(String),
    #[error("fact `{0}` is missing")]
    MissingFact(String),
    #[error("attribute `{0}` is declared with another kind")]
    AttributeKind(String),
    #[error("more than {TOUCHES_MAX} things are touched")]
    Touches,
    #[error("cedar does not take the request: {0}")]
    Cedar(String),
}

/// Whether a question needs a permit, or only must not be forbidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    Permit,
    NoForbid,
}

/// One question.
#[derive(Debug)]
pub(crate) struct Ask {
    /// Index into [`Model::actions`].
    pub action: usize,
    pub resource: EntityUid,
    pub member: Member,
    pub needs: Needs,
    /// The thing, safe to show.
    pub what: Arc<str>,
    pub context: Context,
}

impl Ask {
    /// Whether the asked resource is `uid` or in it.
    pub(crate) fn member_within(&self, keys: &Keys, uid: &EntityUid) -> bool {
        keys.find(uid).is_some_and(|key| self.member.within(key))
    }
}

/// All questions of one request.
#[derive(Debug)]
pub(crate) struct Asks {
    pub principal: EntityUid,
    pub member: Member,
    pub entities: Entities,
    pub list: Vec<Ask>,
    /// Index into [`Model::protocols`].
    pub protocol: usize,
}

type Pairs = Vec<(String, RestrictedExpression)>;

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn set<'a>(values: impl IntoIterator<Item = &'a str>) -> RestrictedExpression {
    RestrictedExpression::new_set(values.into_iter().map(text))
}

/// `orders.public.payments`, made safe to show.
fn shown(id: &str) -> Arc<str> {
    let mut out = one_line(id);
    if let Some((at, _)) = out.char_indices().nth(WHAT_CHARS_MAX) {
        out.truncate(at);
        out.push('…');
    }
    out.into()
}

/// Id of the resource or, with a part, of the part: `orders`, `orders/reports`, `orders/"a.b"`. A
/// part is quoted when it holds more than letters, digits, `_` and `-`, so that no two parts read
/// alike.
pub(crate) fn resource_id<'a>(resource: &'a str, part: Option<&str>) -> Cow<'a, str> {
    let Some(part) = part else { return Cow::Borrowed(resource) };
    let plain = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    if !part.is_empty() && part.chars().all(plain) {
        Cow::Owned(format!("{resource}/{part}"))
    } else {
        Cow::Owned(format!("{resource}/\"{}\"", part.replace('"', "\"\"")))
    }
}

/// `public.payments` into schema and name, at the last dot outside double quotes.
fn split_path(path: &str) -> (&str, &str) {
    let mut quoted = false;
    let mut cut = None;
    for (at, byte) in path.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'.' if !quoted => cut = Some(at),
            _ => {}
        }
    }
    match cut {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => ("", path),
    }
}

struct Builder<'a> {
    model: &'a Model,
    keys: &'a Keys,
    entities: Vec<Entity>,
    /// Touched things and actions that are among the entities already.
    there: HashSet<EntityUid>,
}

impl Builder<'_> {
    fn entity(
        &mut self,
        uid: &EntityUid,
        attributes: HashMap<String, RestrictedExpression>,
        parents: HashSet<EntityUid>,
    ) -> Result<Member, Malformed> {
        let member = self.keys.member(uid, parents.iter());
        let entity = Entity::new(uid.clone(), attributes, parents)
            .map_err(|error| Malformed::Cedar(error.to_string()))?;
        self.entities.push(entity);
        Ok(member)
    }

    fn principal(&mut self, principal: &Principal) -> Result<(EntityUid, Member), Malformed> {
        let types = &self.model.types;
        let kind = match principal.kind {
            PrincipalKind::Workload => &types.workload,
            PrincipalKind::Human => &types.human,
        };
        let mut attributes = HashMap::from([
            ("issuer".to_owned(), text(principal.id.issuer())),
            ("sub".to_owned(), text(principal.id.subject())),
            ("bound".to_owned(), RestrictedExpression::new_bool(principal.proof.bound)),
            ("cred".to_owned(), text(principal.proof.kind.as_str())),
        ]);
        let mapped = self.model.issuers.get(principal.id.issuer());
        for (name, value) in &principal.attributes {
            // What the issuer's record does not map (any more) is not there for policy.
            let Some(kind) = mapped.and_then(|mapped| mapped.get(&**name)) else { continue };
            let value = match (kind, value) {
                (AttributeKind::Text, Attribute::Text(value)) => text(value),
                (AttributeKind::Flag, Attribute::Flag(value)) => {
                    RestrictedExpression::new_bool(*value)
                }
                (AttributeKind::Number, Attribute::Number(value)) => {
                    RestrictedExpression::new_long(*value)
                }
                (AttributeKind::Set, Attribute::Set(values)) => {
                    set(values.iter().map(|value| &**value))
                }
                (
                    AttributeKind::Text
                    | AttributeKind::Flag
                    | AttributeKind::Number
                    | AttributeKind::Set,
                    _,
                ) => return Err(Malformed::AttributeKind(name.to_string())),
            };
            attributes.insert(name.to_string(), value);
        }
        let uid_ = uid(kind, principal.id.as_str());
        let groups = principal.groups.iter().map(|group| uid(&types.group, group)).collect();
        let member = self.entity(&uid_, attributes, groups)?;
        Ok((uid_, member))
    }

    /// The resource, its part and its groups; what touches are in.
    fn resource(&mut self, resource: &Resource, part: Option<&str>) -> Result<Within, Malformed> {
        let types = &self.model.types;
        let protocol = || HashMap::from([("protocol".to_owned(), text(&resource.protocol))]);
        let mut parents: HashSet<EntityUid> =
            resource.groups.iter().map(|group| uid(&types.resource_group, group)).collect();
        let mut own = uid(&types.resource, resource.name.as_str());
        self.entity(&own, protocol(), parents.clone())?;
        if part.is_some() {
            let id = resource_id(resource.name.as_str(), part);
            let part = uid(&types.resource, &id);
            parents.insert(std::mem::replace(&mut own, part));
            self.entity(&own, protocol(), parents.clone())?;
        }
        let id: Arc<str> = own.id().unescaped().into();
        Ok(Within { own, parents, id })
    }

    fn touch(
        &mut self,
        within: &Within,
        protocol: &Protocol,
        touch: &Touch,
    ) -> Result<(EntityUid, Member), Malformed> {
        let kind = protocol
            .touches
            .get(touch.kind)
            .ok_or_else(|| Malformed::Kind(touch.kind.to_owned()))?;
        let uid_ = uid(kind, &format!("{}.{}", within.id, touch.path));
        let mut parents = within.parents.clone();
        parents.insert(within.own.clone());
        let (schema, name) = split_path(&touch.path);
        // One thing touched twice (read and written) is one entity.
        if !self.there.insert(uid_.clone()) {
            let member = self.keys.member(&uid_, parents.iter());
            return Ok((uid_, member));
        }
        let attributes = HashMap::from([
            ("schema".to_owned(), text(schema)),
            ("name".to_owned(), text(name)),
            ("path".to_owned(), text(&touch.path)),
        ]);
        let member = self.entity(&uid_, attributes, parents)?;
        Ok((uid_, member))
    }

    /// A class, in every class that its name begins with: `pii.ssn` is in `pii`.
    fn class(&mut self, name: &str) -> Result<(EntityUid, Member), Malformed> {
        let kind = &self.model.types.class;
        let own = uid(kind, name);
        let outer = name.match_indices('.').filter_map(|(at, _)| name.get(..at));
        let parents: HashSet<EntityUid> = outer.map(|outer| uid(kind, outer)).collect();
        if !self.there.insert(own.clone()) {
            let member = self.keys.member(&own, parents.iter());
            return Ok((own, member));
        }
        let member = self.entity(&own, HashMap::new(), parents)?;
        Ok((own, member))
    }

    fn action(&mut self, action: usize) {
        if let Some(action) = self.model.actions.get(action)
            && self.there.insert(action.uid.clone())
        {
            let parents = action.parents.iter().cloned().collect();
            self.entities.push(Entity::new_no_attrs(action.uid.clone(), parents));
        }
    }

    fn finish(self) -> Result<Entities, Malformed> {
        Entities::from_entities(self.entities, None)
            .map_err(|error| Malformed::Cedar(error.to_string()))
    }
}

struct Within {
    own: EntityUid,
    parents: HashSet<EntityUid>,
    id: Arc<str>,
}

fn base_context(principal: &Principal, origin: &Origin, now: Timestamp, approved: bool) -> Pairs {
    let secs = now.secs();
    let long = |n: u64| RestrictedExpression::new_long(i64::try_from(n).unwrap_or(i64::MAX));
    // An IPv4 client of a dual-stack listener is an IPv4 client.
    let address = origin.address.to_canonical().to_string();
    let why = [("tier".to_owned(), RestrictedExpression::new_long(0))];
    let mut pairs = vec![
        ("now".to_owned(), RestrictedExpression::new_datetime(now.to_string())),
        ("hour".to_owned(), long(secs % 86_400 / 3_600)),
        // 1970-01-01 was a Thursday: 4 of 1 (Monday) to 7 (Sunday), as ISO 8601 counts.
        ("weekday".to_owned(), long((secs / 86_400 + 3) % 7 + 1)),
        ("source".to_owned(), RestrictedExpression::new_ip(address)),
        ("jwks_stale".to_owned(), RestrictedExpression::new_bool(principal.proof.jwks_stale)),
        ("approved".to_owned(), RestrictedExpression::new_bool(approved)),
    ];
    if let Ok(why) = RestrictedExpression::new_record(why) {
        pairs.push(("why".to_owned(), why));
    }
    pairs
}

fn command_context(
    pairs: &mut Pairs,
    command: &Command,
    protocol: &Protocol,
    part: Option<&str>,
    unknown: bool,
) -> Result<(), Malformed> {
    if let Some(part) = part {
        pairs.push(("part".to_owned(), text(part)));
    }
    pairs.push(("effects".to_owned(), set(command.effects.names())));
    pairs.push(("unknown".to_owned(), RestrictedExpression::new_bool(unknown)));
    let specs = protocol.descriptor.facts;
    for (name, fact) in &command.facts {
        let spec = specs
            .iter()
            .find(|spec| spec.name == *name)
            .ok_or_else(|| Malformed::UndeclaredFact((*name).to_owned()))?;
        let value = match (spec.kind, fact) {
            (FactKind::Text, Fact::Text(value)) => text(value),
            (FactKind::Flag, Fact::Flag(value)) => RestrictedExpression::new_bool(*value),
            (FactKind::Number, Fact::Number(value)) => RestrictedExpression::new_long(*value),
            (FactKind::Set, Fact::Set(values)) => set(values.iter().map(|value| &**value)),
            (FactKind::Text | FactKind::Flag | FactKind::Number | FactKind::Set, _) => {
                return Err(Malformed::FactKind((*name).to_owned()));
            }
        };
        pairs.push(((*name).to_owned(), value));
    }
    for spec in specs {
        if spec.required && !command.facts.contains_key(spec.name) {
            return Err(Malformed::MissingFact(spec.name.to_owned()));
        }
    }
    Ok(())
}

fn context(pairs: Pairs) -> Result<Context, Malformed> {
    Context::from_pairs(pairs).map_err(|error| Malformed::Cedar(error.to_string()))
}

/// `columns` and `columns_known`: the named columns, and whether there are no others.
fn with_columns(base: &Pairs, columns: Option<&Columns>) -> Result<Context, Malformed> {
    let (names, known) = match columns {
        Some(Columns::NotApplicable) => (set([]), true),
        Some(Columns::Known(names)) => (set(names.iter().map(|name| &**name)), true),
        Some(Columns::All) => (set(["*"]), false),
        Some(Columns::Unknown) | None => (set([]), false),
    };
    let mut pairs = base.clone();
    pairs.push(("columns".to_owned(), names));
    pairs.push(("columns_known".to_owned(), RestrictedExpression::new_bool(known)));
    context(pairs)
}

/// Whether the reading is in doubt: what it touches, or what it does.
pub(crate) fn is_unknown(command: &Command) -> bool {
    matches!(command.touches, Touches::Unknown { .. }) || command.effects.has(Effects::UNKNOWN)
}

impl Asks {
    /// The questions of a command: see [`crate::Bundle`] for which they are.
    pub(crate) fn of_command(
        model: &Model,
        keys: &Keys,
        request: &Request<'_>,
    ) -> Result<Self, Malformed> {
        let Request { principal, resource, part, origin, command, now, approved } = *request;
        let (number, protocol) = find_protocol(model, resource)?;
        let action_of = |name: &str| {
            model
                .action_index
                .get(name)
                .copied()
                .filter(|at| {
                    model.actions.get(*at).is_some_and(|action| action.protocol == Some(number))
                })
                .ok_or_else(|| Malformed::Action(name.to_owned()))
        };
        let mut build = Builder { model, keys, entities: Vec::new(), there: HashSet::new() };
        let (principal_uid, member) = build.principal(principal)?;
        let within = build.resource(resource, part)?;
        let unknown = is_unknown(command);
        let mut base = base_context(principal, origin, now, approved);
        command_context(&mut base, command, protocol, part, unknown)?;
        let mut list = Vec::new();
        let own = action_of(command.action.as_str())?;
        let seen = command.touches.seen();
        if seen.len() + command.beneath.len() > TOUCHES_MAX {
            return Err(Malformed::Touches);
        }
        // A class says what may be seen, never what a command does.
        let others = || seen.iter().filter(|touch| touch.kind != CLASS_KIND);
        // Touches side by side often have the same columns, or none.
        let mut last: Option<(&Columns, Context)> = None;
        for touch in seen.iter().filter(|touch| touch.kind == CLASS_KIND) {
            list.push(reveal(
                &mut build,
                &touch.path,
                base_context(principal, origin, now, approved),
            )?);
        }
        let touched = others().map(|touch| (touch, Needs::Permit));
        let beneath = command.beneath.iter().map(|touch| (touch, Needs::NoForbid));
        for (touch, needs) in touched.chain(beneath) {
            let action = action_of(touch.action.as_str())?;
            let (resource, member) = build.touch(&within, protocol, touch)?;
            let what = shown(resource.id().unescaped());
            let context = match &last {
                Some((columns, context)) if **columns == touch.columns => context.clone(),
                _ => with_columns(&base, Some(&touch.columns))?,
            };
            last = Some((&touch.columns, context.clone()));
            build.action(action);
            list.push(Ask { action, resource, member, needs, what, context });
        }
        let mut itself = |action: usize, needs: Needs| {
            let columns = if unknown { None } else { Some(&Columns::NotApplicable) };
            let context = with_columns(&base, columns)?;
            build.action(action);
            list.push(Ask {
                action,
                resource: within.own.clone(),
                member: keys.member(&within.own, within.parents.iter()),
                needs,
                what: shown(&within.id),
                context,
            });
            Ok(())
        };
        if unknown {
            itself(protocol.unknown, Needs::Permit)?;
        }
        // What its touches do not say about it: a command whose own action none of them names.
        let named = others().any(|touch| touch.action == command.action);
        let asked = unknown && own == protocol.unknown;
        let also = command.also.iter().map(|name| action_of(name.as_str()));
        let also = also.collect::<Result<Vec<_>, _>>()?;
        for action in also.iter().filter(|action| !(unknown && **action == protocol.unknown)) {
            itself(*action, Needs::Permit)?;
        }
        if also.contains(&own) {
            // Asked already, and more strictly.
        } else if others().next().is_none() && also.is_empty() && !unknown {
            itself(own, Needs::Permit)?;
        } else if !named && !asked {
            itself(own, Needs::NoForbid)?;
        }
        let entities = build.finish()?;
        Ok(Self { principal: principal_uid, member, entities, list, protocol: number })
    }

    /// The one question about a class.
    pub(crate) fn of_reveal(
        model: &Model,
        keys: &Keys,
        request: &RevealRequest<'_>,
    ) -> Result<Self, Malformed> {
        let RevealRequest { principal, resource, part: _, origin, now, class } = *request;
        let (number, _) = find_protocol(model, resource)?;
        let mut build = Builder { model, keys, entities: Vec::new(), there: HashSet::new() };
        let (principal_uid, member) = build.principal(principal)?;
        let ask = reveal(&mut build, class, base_context(principal, origin, now, false))?;
        let entities = build.finish()?;
        Ok(Self { principal: principal_uid, member, entities, list: vec![ask], protocol: number })
    }

    /// The one question of opening a session.
    pub(crate) fn of_open(
        model: &Model,
        keys: &Keys,
        principal: &Principal,
        resource: &Resource,
        origin: &Origin,
        now: Timestamp,
    ) -> Result<Self, Malformed> {
        let (number, _) = find_protocol(model, resource)?;
        let mut build = Builder { model, keys, entities: Vec::new(), there: HashSet::new() };
        let (principal_uid, member) = build.principal(principal)?;
        let within = build.resource(resource, None)?;
        build.action(model.connect);
        let ask = Ask {
            action: model.connect,
            member: keys.member(&within.own, within.parents.iter()),
            what: shown(&within.id),
            resource: within.own,
            needs: Needs::Permit,
            context: context(base_context(principal, origin, now, false))?,
        };
        let entities = build.finish()?;
        Ok(Self { principal: principal_uid, member, entities, list: vec![ask], protocol: number })
    }
}

/// Whether values of a class may be seen. The resource is not part of the question: classes are the
/// same everywhere.
fn reveal(build: &mut Builder<'_>, class: &str, pairs: Pairs) -> Result<Ask, Malformed> {
    let action = build.model.reveal;
    let (resource, member) = build.class(class)?;
    build.action(action);
    Ok(Ask {
        action,
        what: shown(resource.id().unescaped()),
        resource,
        member,
        needs: Needs::Permit,
        context: context(pairs)?,
    })
}

fn find_protocol<'a>(
    model: &'a Model,
    resource: &Resource,
) -> Result<(usize, &'a Protocol), Malformed> {
    model.protocol(&resource.protocol).ok_or_else(|| {
        Malformed::Protocol(resource.name.to_string(), resource.protocol.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cannot_read_alike() {
        let check = |part: Option<&str>, expect: &str| {
            assert_eq!(resource_id("orders", part), expect);
        };
        check(None, "orders");
        check(Some("reports"), "orders/reports");
        check(Some("reports-2_x"), "orders/reports-2_x");
        check(Some("a.b"), "orders/\"a.b\"");
        check(Some("a/b"), "orders/\"a/b\"");
        check(Some("a\"b"), "orders/\"a\"\"b\"");
        check(Some(""), "orders/\"\"");
    }

    #[test]
    fn paths_split_outside_quotes() {
        let check = |path: &str, schema: &str, name: &str| {
            assert_eq!(split_path(path), (schema, name));
        };
        check("public.payments", "public", "payments");
        check("search_path", "", "search_path");
        check("public.\"a.b\"", "public", "\"a.b\"");
        check("\"x.y\".\"a\"\".b\"", "\"x.y\"", "\"a\"\".b\"");
        check("", "", "");
        check("a.b.c", "a.b", "c");
    }

    #[test]
    fn what_is_shown_is_one_short_line() {
        assert_eq!(&*shown("a\nb"), "a\\nb");
        assert_eq!(shown(&"ä".repeat(1_000)).chars().count(), WHAT_CHARS_MAX + 1);
    }
}
