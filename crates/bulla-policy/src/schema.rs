//! The schema that policies are validated against, made from what the protocols and the
//! configuration declare. Nothing else can be named by a policy.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    str::FromStr,
    sync::Arc,
};

use bulla_core::{ActionSpec, COMMON_ACTIONS, Descriptor, FactKind, REVEAL, ResourceName};
use cedar_policy::{EntityId, EntityTypeName, EntityUid, Schema};

use crate::problem::PolicyProblem;

/// The verb whose permit an uncertain reading needs, of every protocol.
pub const UNKNOWN_VERB: &str = "unknown";
/// The group of all verbs of a protocol but [`UNKNOWN_VERB`].
pub const KNOWN_VERB: &str = "known";

/// Of what kind a mapped attribute is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributeKind {
    Text,
    Flag,
    Number,
    Set,
}

impl AttributeKind {
    fn cedar(self) -> &'static str {
        match self {
            Self::Text => "String",
            Self::Flag => "Bool",
            Self::Number => "Long",
            Self::Set => "Set<String>",
        }
    }
}

/// A resource, as far as policy knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceInput {
    pub name: ResourceName,
    /// [`Descriptor::protocol`] of its protocol.
    pub protocol: Arc<str>,
    /// `env:prod`.
    pub groups: Vec<Arc<str>>,
}

/// What the schema is made from.
#[derive(Debug, Clone, Default)]
pub struct SchemaInput<'a> {
    /// Every protocol that is built in.
    pub protocols: &'a [&'a Descriptor],
    pub resources: Vec<ResourceInput>,
    /// Per issuer's alias: the attributes that its record maps. No other claim reaches policy.
    pub issuers: BTreeMap<String, BTreeMap<String, AttributeKind>>,
}

/// One action, ready to ask about.
#[derive(Debug)]
pub(crate) struct Action {
    pub uid: EntityUid,
    /// Its groups.
    pub parents: Vec<EntityUid>,
    /// Index into [`Model::protocols`]; none for the gateway's own actions.
    pub protocol: Option<usize>,
}

/// One protocol, ready to ask about.
#[derive(Debug)]
pub(crate) struct Protocol {
    pub descriptor: Descriptor,
    /// Index of `<protocol>:unknown` in [`Model::actions`].
    pub unknown: usize,
    /// Entity type per kind of touch.
    pub touches: BTreeMap<&'static str, EntityTypeName>,
}

/// Entity types by name, parsed once.
#[derive(Debug)]
pub(crate) struct Types {
    pub action: EntityTypeName,
    pub group: EntityTypeName,
    pub resource: EntityTypeName,
    pub resource_group: EntityTypeName,
    pub class: EntityTypeName,
    pub workload: EntityTypeName,
    pub human: EntityTypeName,
}

/// The schema and what was read off it.
#[derive(Debug)]
pub(crate) struct Model {
    pub text: String,
    pub schema: Schema,
    pub types: Types,
    pub actions: Vec<Action>,
    /// `postgres:select` to its index in `actions`.
    pub action_index: HashMap<Box<str>, usize>,
    /// Index of `connect`, and of `reveal`.
    pub connect: usize,
    pub reveal: usize,
    pub protocols: Vec<Protocol>,
    pub resources: Vec<ResourceInput>,
    pub issuers: BTreeMap<String, BTreeMap<String, AttributeKind>>,
}

/// Entity types that every schema has; a protocol may not declare one of them.
const OWN_TYPES: [&str; 7] =
    ["Group", "ResourceGroup", "Resource", "Class", "Workload", "Human", "Action"];
/// Attributes that every principal has; an issuer may not map another of the same name.
const OWN_ATTRIBUTES: [&str; 4] = ["issuer", "sub", "bound", "cred"];
/// Context that every command has; a protocol may not declare a fact of the same name.
const OWN_CONTEXT: [&str; 12] = [
    "now",
    "hour",
    "weekday",
    "source",
    "jwks_stale",
    "why",
    "approved",
    "part",
    "effects",
    "columns",
    "columns_known",
    "unknown",
];
/// Context whose value changes with time alone. Decisions that could depend on it are not kept.
pub(crate) const TIME_CONTEXT: [&str; 3] = ["now", "hour", "weekday"];

pub(crate) fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn type_name(name: &str) -> Result<EntityTypeName, PolicyProblem> {
    EntityTypeName::from_str(&format!("Bulla::{name}")).map_err(|_| {
        PolicyProblem::configuration(format!("`{name}` cannot be the name of an entity type"))
    })
}

impl Model {
    pub(crate) fn new(input: &SchemaInput<'_>) -> Result<Self, Vec<PolicyProblem>> {
        let mut problems = Vec::new();
        check_protocols(input.protocols, &mut problems);
        check_resources(input, &mut problems);
        let attributes = merge_attributes(input, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let text = schema_text(input.protocols, &attributes);
        let (schema, _) = Schema::from_cedarschema_str(&text).map_err(|error| {
            vec![PolicyProblem::configuration(format!("the schema cannot be made: {error}"))]
        })?;
        Self::index(input, text, schema).map_err(|problem| vec![problem])
    }

    fn index(input: &SchemaInput<'_>, text: String, schema: Schema) -> Result<Self, PolicyProblem> {
        let types = Types {
            action: type_name("Action")?,
            group: type_name("Group")?,
            resource: type_name("Resource")?,
            resource_group: type_name("ResourceGroup")?,
            class: type_name("Class")?,
            workload: type_name("Workload")?,
            human: type_name("Human")?,
        };
        let mut actions = Vec::new();
        let mut action_index = HashMap::new();
        let mut add = |name: String, parents: Vec<String>, protocol| {
            let at = actions.len();
            let parents = parents.iter().map(|parent| uid(&types.action, parent)).collect();
            actions.push(Action { uid: uid(&types.action, &name), parents, protocol });
            action_index.insert(name.into_boxed_str(), at);
            at
        };
        let (mut connect, mut reveal) = (0, 0);
        for spec in COMMON_ACTIONS {
            let at = add(spec.verb.to_owned(), Vec::new(), None);
            if spec.verb == "connect" {
                connect = at;
            } else if spec.verb == REVEAL {
                reveal = at;
            }
        }
        let mut protocols = Vec::new();
        for (number, descriptor) in input.protocols.iter().enumerate() {
            let name = |verb: &str| format!("{}:{verb}", descriptor.protocol);
            let mut unknown = 0;
            for action in protocol_actions(descriptor) {
                let parents = action.groups.iter().map(|group| name(group)).collect();
                let at = add(name(action.verb), parents, Some(number));
                if action.verb == UNKNOWN_VERB {
                    unknown = at;
                }
            }
            let mut touches = BTreeMap::new();
            for touch in descriptor.touches {
                touches.insert(touch.kind, type_name(touch.entity)?);
            }
            protocols.push(Protocol { descriptor: **descriptor, unknown, touches });
        }
        Ok(Self {
            text,
            schema,
            types,
            actions,
            action_index,
            connect,
            reveal,
            protocols,
            resources: input.resources.clone(),
            issuers: input.issuers.clone(),
        })
    }

    pub(crate) fn protocol(&self, name: &str) -> Option<(usize, &Protocol)> {
        self.protocols.iter().enumerate().find(|(_, p)| p.descriptor.protocol == name)
    }
}

/// An action with all its groups, the gateway's own group included.
struct FullAction {
    verb: &'static str,
    groups: Vec<&'static str>,
}

/// The protocol's actions, each with its groups (transitively); `unknown` added when it does not
/// declare it.
fn protocol_actions(descriptor: &Descriptor) -> Vec<FullAction> {
    let full = |spec: &ActionSpec| {
        let mut groups: Vec<&'static str> =
            spec.groups.iter().copied().filter(|group| *group != spec.verb).collect();
        if spec.verb != UNKNOWN_VERB {
            groups.push(KNOWN_VERB);
        }
        FullAction { verb: spec.verb, groups }
    };
    let mut all: Vec<FullAction> = descriptor.actions.iter().map(full).collect();
    // A group may be a verb with groups of its own: what is in it is in those too.
    let direct: BTreeMap<&str, Vec<&'static str>> =
        all.iter().map(|action| (action.verb, action.groups.clone())).collect();
    for action in &mut all {
        let mut at = 0;
        while let Some(group) = action.groups.get(at).copied() {
            at += 1;
            for outer in direct.get(group).into_iter().flatten() {
                if *outer != action.verb && !action.groups.contains(outer) {
                    action.groups.push(outer);
                }
            }
        }
    }
    if !all.iter().any(|action| action.verb == UNKNOWN_VERB) {
        all.push(FullAction { verb: UNKNOWN_VERB, groups: Vec::new() });
    }
    all
}

fn check_protocols(protocols: &[&Descriptor], problems: &mut Vec<PolicyProblem>) {
    let mut say = |text: String| problems.push(PolicyProblem::configuration(text));
    let mut names = BTreeSet::new();
    for descriptor in protocols {
        let protocol = descriptor.protocol;
        if !names.insert(protocol) {
            say(format!("protocol `{protocol}` is registered twice"));
        }
        let mut verbs = BTreeSet::new();
        for action in descriptor.actions {
            if !verbs.insert(action.verb) {
                say(format!("action `{protocol}:{}` is declared twice", action.verb));
            }
            if action.verb == KNOWN_VERB || action.groups.contains(&KNOWN_VERB) {
                say(format!("`{protocol}:{KNOWN_VERB}` is the gateway's own group of actions"));
            }
            if action.groups.contains(&UNKNOWN_VERB) {
                say(format!("`{protocol}:{UNKNOWN_VERB}` is an action, not a group"));
            }
        }
        let mut kinds = BTreeSet::new();
        for touch in descriptor.touches {
            if !kinds.insert(touch.kind) {
                say(format!("kind `{}` of `{protocol}` is declared twice", touch.kind));
            }
            if OWN_TYPES.contains(&touch.entity) {
                say(format!("entity `{}` of `{protocol}` is the gateway's own", touch.entity));
            }
        }
        let mut facts = BTreeSet::new();
        for fact in descriptor.facts {
            if !facts.insert(fact.name) {
                say(format!("fact `{}` of `{protocol}` is declared twice", fact.name));
            }
            if OWN_CONTEXT.contains(&fact.name) {
                say(format!("fact `{}` of `{protocol}` is the gateway's own", fact.name));
            }
        }
    }
}

fn check_resources(input: &SchemaInput<'_>, problems: &mut Vec<PolicyProblem>) {
    let mut names: Vec<&str> = input.resources.iter().map(|r| r.name.as_str()).collect();
    names.sort_unstable();
    let mut say = |text: String| problems.push(PolicyProblem::configuration(text));
    for resource in &input.resources {
        let name = resource.name.as_str();
        if !input.protocols.iter().any(|p| p.protocol == &*resource.protocol) {
            say(format!("resource `{name}` has the unknown protocol `{}`", resource.protocol));
        }
        // `a.b` beside `a` would make `a.b.c` name a thing of either.
        for (at, _) in name.match_indices('.') {
            let stem = name.get(..at).unwrap_or_default();
            if names.binary_search(&stem).is_ok() {
                say(format!(
                    "resource `{name}` reads like a part of resource `{stem}`: rename one"
                ));
            }
        }
    }
    for pair in names.windows(2) {
        if let [a, b] = pair
            && a == b
        {
            say(format!("resource `{a}` is declared twice"));
        }
    }
}

/// The union of all issuers' attributes: one name, one kind.
fn merge_attributes<'a>(
    input: &'a SchemaInput<'_>,
    problems: &mut Vec<PolicyProblem>,
) -> BTreeMap<&'a str, AttributeKind> {
    let mut all: BTreeMap<&str, (AttributeKind, &str)> = BTreeMap::new();
    let mut say = |text: String| problems.push(PolicyProblem::configuration(text));
    for (issuer, attributes) in &input.issuers {
        for (name, kind) in attributes {
            let odd = |c: char| c.is_control() || matches!(c, '"' | '\\' | '`');
            if name.is_empty() || name.len() > bulla_core::NAME_BYTES_MAX || name.contains(odd) {
                let shown = name.escape_debug();
                say(format!("issuer `{issuer}` maps an attribute with the odd name `{shown}`"));
            } else if OWN_ATTRIBUTES.contains(&name.as_str()) {
                say(format!("issuer `{issuer}` maps `{name}`, which every principal already has"));
            } else if let Some((other, first)) = all.get(name.as_str()) {
                if other != kind {
                    say(format!(
                        "attribute `{name}` is {} for issuer `{first}` but {} for `{issuer}`",
                        other.cedar(),
                        kind.cedar()
                    ));
                }
            } else {
                all.insert(name, (*kind, issuer));
            }
        }
    }
    all.into_iter().map(|(name, (kind, _))| (name, kind)).collect()
}

/// Context that every action has, `connect` and `reveal` included.
const BASE_CONTEXT: &str = "\
    now: datetime, hour: Long, weekday: Long,\n    \
    source: ipaddr, jwks_stale: Bool, why: Why, approved: Bool";

fn schema_text(protocols: &[&Descriptor], attributes: &BTreeMap<&str, AttributeKind>) -> String {
    let mut out = String::from(
        "// Made by bulla from its protocols and its configuration.\n\
         //\n\
         // Ids: a principal is `issuer alias|subject`, a thing is `resource.path`, a part of a\n\
         // resource is `resource/part`; `issuer` is the alias too.\n\
         // now, hour (0 to 23) and weekday (1 Monday to 7 Sunday) are UTC.\n\
         // columns: those named; columns_known: there are no others. All of a table is `*`,\n\
         // not known. unknown: the reading is in doubt; it needs a permit for
         // `<protocol>:unknown`\n\
         // on the resource. `<protocol>:known` is every action but that one.\n\
         namespace Bulla {\n\
         // Why a command is sent. Tier 0: nothing was said.\n\
         type Why = { tier: Long, ticket?: String, reason?: String };\n\
         entity Group;\n\
         entity ResourceGroup;\n\
         entity Resource in [ResourceGroup, Resource] = { protocol: String };\n\
         entity Class in [Class];\n",
    );
    let mut principal = String::from("issuer: String, sub: String, bound: Bool, cred: String");
    for (name, kind) in attributes {
        let _ = write!(principal, ", \"{name}\"?: {}", kind.cedar());
    }
    let _ = writeln!(out, "entity Workload in [Group] = {{ {principal} }};");
    let _ = writeln!(out, "entity Human in [Group] = {{ {principal} }};");
    let entities: BTreeSet<&str> =
        protocols.iter().flat_map(|p| p.touches.iter().map(|touch| touch.entity)).collect();
    for entity in entities {
        let _ = writeln!(
            out,
            "entity {entity} in [Resource] = {{ schema: String, name: String, path: String }};"
        );
    }
    for spec in COMMON_ACTIONS {
        let resource = if spec.verb == REVEAL { "Class" } else { "Resource" };
        let _ = writeln!(
            out,
            "// {}\naction \"{}\" appliesTo {{\n  principal: [Workload, Human],\n  \
             resource: [{resource}],\n  context: {{\n    {BASE_CONTEXT}\n  }}\n}};",
            spec.about, spec.verb
        );
    }
    for descriptor in protocols {
        protocol_text(&mut out, descriptor);
    }
    out.push_str("}\n");
    out
}

fn protocol_text(out: &mut String, descriptor: &Descriptor) {
    let protocol = descriptor.protocol;
    let actions = protocol_actions(descriptor);
    let groups: BTreeSet<&str> =
        actions.iter().flat_map(|action| action.groups.iter().copied()).collect();
    for group in groups {
        if !actions.iter().any(|action| action.verb == group) {
            let _ = writeln!(out, "action \"{protocol}:{group}\";");
        }
    }
    let entities: BTreeSet<&str> = descriptor.touches.iter().map(|touch| touch.entity).collect();
    let resources: String = entities.iter().map(|entity| format!(", {entity}")).collect();
    let mut facts = String::new();
    for fact in descriptor.facts {
        let kind = match fact.kind {
            FactKind::Text => "String",
            FactKind::Flag => "Bool",
            FactKind::Number => "Long",
            FactKind::Set => "Set<String>",
        };
        let optional = if fact.required { "" } else { "?" };
        let about = fact.about.replace(['\n', '\r'], " ");
        let _ = write!(facts, ",\n    // {about}\n    \"{}\"{optional}: {kind}", fact.name);
    }
    let context = format!(
        "{BASE_CONTEXT},\n    part?: String,\n    effects: Set<String>, columns: Set<String>, \
         columns_known: Bool, unknown: Bool{facts}"
    );
    for action in actions {
        let about = descriptor
            .actions
            .iter()
            .find(|spec| spec.verb == action.verb)
            .map_or("the reading is in doubt", |spec| spec.about);
        let about = about.replace(['\n', '\r'], " ");
        let groups: Vec<String> =
            action.groups.iter().map(|group| format!("\"{protocol}:{group}\"")).collect();
        let within =
            if groups.is_empty() { String::new() } else { format!(" in [{}]", groups.join(", ")) };
        let _ = writeln!(
            out,
            "// {about}\naction \"{protocol}:{}\"{within} appliesTo {{\n  \
             principal: [Workload, Human],\n  resource: [Resource{resources}],\n  \
             context: {{\n    {context}\n  }}\n}};",
            action.verb
        );
    }
}
