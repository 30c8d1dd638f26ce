//! A house to try policies in: one protocol, two resources, and short ways to say who and what.
#![allow(dead_code, reason = "each test uses what it needs")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "only tests and the bench use it")]

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use bulla_core::{
    ActionName, ActionSpec, Attribute, Columns, Command, CredentialKind, Decision, DenyReason,
    Descriptor, Digest, Effects, Expiry, Fact, FactKind, FactSpec, Mode, Origin, Policies,
    Principal, PrincipalId, PrincipalKind, Proof, Purity, Request, Resource, ResourceName,
    Spelling, Timestamp, Touch, TouchSpec, Touches,
};
use bulla_policy::{AttributeKind, Bundle, ResourceInput, SchemaInput};

const READ: &[&str] = &["read"];
const WRITE: &[&str] = &["write"];

const fn action(verb: &'static str, groups: &'static [&'static str]) -> ActionSpec {
    ActionSpec { verb, groups, about: "a verb of the tests" }
}

pub const PROTOCOL: Descriptor = Descriptor {
    protocol: "postgres",
    default_port: 5432,
    actions: &[
        action("select", READ),
        action("insert", WRITE),
        action("update", WRITE),
        action("delete", WRITE),
        action("call", &[]),
        action("set", &[]),
        action("begin", &[]),
        action("explain", &[]),
    ],
    touches: &[
        TouchSpec { kind: "table", entity: "Table" },
        TouchSpec { kind: "function", entity: "Function" },
        TouchSpec { kind: "setting", entity: "Setting" },
    ],
    facts: &[
        FactSpec {
            name: "statement",
            kind: FactKind::Text,
            required: true,
            about: "as the manual names it",
        },
        FactSpec { name: "in_transaction", kind: FactKind::Flag, required: true, about: "open" },
        FactSpec { name: "statements", kind: FactKind::Number, required: false, about: "count" },
        FactSpec { name: "roles", kind: FactKind::Set, required: false, about: "named roles" },
    ],
    honours: &["rows_max", "bytes_max"],
};

/// A second protocol that can honour nothing, with an entity of the same name.
pub const PLAIN: Descriptor = Descriptor {
    protocol: "plain",
    default_port: 1,
    actions: &[action("get", READ)],
    touches: &[TouchSpec { kind: "key", entity: "Key" }],
    facts: &[],
    honours: &[],
};

pub fn input() -> SchemaInput<'static> {
    let resource = |name: &str, protocol: &str, groups: &[&str]| ResourceInput {
        name: ResourceName::new(name).unwrap(),
        protocol: protocol.into(),
        groups: groups.iter().map(|group| (*group).into()).collect(),
    };
    let attributes = [
        ("env", AttributeKind::Text),
        ("mfa", AttributeKind::Flag),
        ("level", AttributeKind::Number),
        ("teams", AttributeKind::Set),
    ];
    let attributes = attributes.map(|(name, kind)| (name.to_owned(), kind));
    SchemaInput {
        protocols: &[&PROTOCOL, &PLAIN],
        resources: vec![
            resource("orders", "postgres", &["env:prod"]),
            resource("crm", "postgres", &[]),
            resource("store", "plain", &["env:prod"]),
        ],
        issuers: BTreeMap::from([
            ("k8s".to_owned(), BTreeMap::from(attributes)),
            ("corp".to_owned(), BTreeMap::new()),
        ]),
    }
}

pub fn load(text: &str) -> Bundle {
    match Bundle::load(&[("test.cedar".to_owned(), text.to_owned())], &input()) {
        Ok(bundle) => bundle,
        Err(problems) => {
            let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
            panic!("{}", all.join("\n"));
        }
    }
}

/// Every problem, one line each.
pub fn problems(files: &[(&str, &str)]) -> Vec<String> {
    let files: Vec<(String, String)> =
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    match Bundle::load(&files, &input()) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

pub fn who(id: &str, groups: &[&str]) -> Principal {
    let (issuer, subject) = id.split_once('|').unwrap();
    Principal {
        id: PrincipalId::new(issuer, subject).unwrap(),
        kind: PrincipalKind::Workload,
        issuer: "https://issuer.test".into(),
        groups: groups.iter().map(|group| (*group).into()).collect(),
        attributes: BTreeMap::new(),
        proof: Proof {
            kind: CredentialKind::Jwt,
            hash: Digest([1; 32]),
            jti: None,
            kid_tail: None,
            issued_at: Timestamp::from_secs(1_000),
            expires_at: Timestamp::from_secs(2_000),
            verified_at: Timestamp::from_secs(1_000),
            bound: false,
            jwks_stale: false,
        },
    }
}

pub fn with(mut principal: Principal, name: &str, value: Attribute) -> Principal {
    principal.attributes.insert(name.into(), value);
    principal
}

pub fn resource(name: &str) -> Resource {
    let input = input();
    let found = input.resources.iter().find(|resource| resource.name.as_str() == name).unwrap();
    Resource {
        name: found.name.clone(),
        protocol: found.protocol.clone(),
        groups: found.groups.clone(),
        mode: Mode::Strict,
        expiry: Expiry::Rebind,
        session_ms_max: 1_000,
        hold_in_transaction_ms: 0,
    }
}

pub fn origin(address: &str) -> Origin {
    let address: IpAddr = address.parse().unwrap();
    Origin { address, port: 4_000, tls: "TLSv1.3".into(), certificate: None }
}

pub fn action_name(verb: &str) -> ActionName {
    ActionName::new(verb).unwrap()
}

/// `postgres:select public.payments(id,state)`; `(*)` all columns, `(?)` unknown, nothing: none.
/// The kind follows the verb: `call` a function, `set` a setting, `get` a key, else a table.
pub fn touch(text: &str) -> Touch {
    let (action, rest) = text.split_once(' ').unwrap();
    let (path, columns) = match rest.split_once('(') {
        None => (rest, Columns::NotApplicable),
        Some((path, "*)")) => (path, Columns::All),
        Some((path, "?)")) => (path, Columns::Unknown),
        Some((path, list)) => {
            let names = list.trim_end_matches(')').split(',').map(Arc::from).collect();
            (path, Columns::Known(names))
        }
    };
    let kind = match action {
        "postgres:call" => "function",
        "postgres:set" => "setting",
        "plain:get" => "key",
        _ => "table",
    };
    Touch { action: action_name(action), kind, path: path.into(), columns }
}

pub fn command(action: &str, touches: &[&str]) -> Command {
    let facts = if action.starts_with("plain:") {
        BTreeMap::new()
    } else {
        BTreeMap::from([
            ("statement", Fact::Text("SELECT".into())),
            ("in_transaction", Fact::Flag(false)),
        ])
    };
    Command {
        action: action_name(action),
        spelling: Spelling::Capitals,
        effects: Effects::READ,
        touches: Touches::Known(touches.iter().map(|text| touch(text)).collect()),
        also: vec![],
        beneath: vec![],
        purity: Purity::Effect,
        shown: "SELECT 1".into(),
        parameters: Arc::from([]),
        facts,
        settings: "".into(),
    }
}

/// The same command, its touches in doubt.
pub fn unknown(mut command: Command) -> Command {
    let seen = command.touches.seen().to_vec();
    command.touches = Touches::Unknown { why: "a reason".into(), seen };
    command
}

pub fn request<'a>(
    principal: &'a Principal,
    resource: &'a Resource,
    origin: &'a Origin,
    command: &'a Command,
) -> Request<'a> {
    // Wednesday, 2026-11-25T14:00:00Z.
    let now = Timestamp::from_secs(1_795_615_200);
    Request { principal, resource, part: None, origin, command, now, approved: false }
}

/// `allow a,b`, `hold a [dba 1/900000]`, `deny forbidden orders a`, with obligations after ` owes `.
pub fn shown(decision: &Decision) -> String {
    let ids = decision.because().policies.join(",");
    let mut out = match decision {
        Decision::Allow { .. } => format!("allow {ids}"),
        Decision::Hold { terms, .. } => {
            let groups = terms.groups.join(",");
            format!("hold {ids} [{groups} {}/{}]", terms.quorum, terms.expires_ms)
        }
        Decision::Deny { reason, .. } => match reason {
            DenyReason::NoPermit { what, .. } => format!("deny nopermit {what}"),
            DenyReason::Forbidden { what } => format!("deny forbidden {what} {ids}"),
            DenyReason::Error => format!("deny error {ids}"),
            DenyReason::CannotHonour { obligation } => {
                format!("deny cannothonour {obligation} {ids}")
            }
        },
    };
    let owe = match decision {
        Decision::Allow { owe, .. } | Decision::Hold { owe, .. } => owe,
        Decision::Deny { .. } => return out.trim_end().to_owned(),
    };
    for (name, limit) in [("rows", owe.rows_max), ("bytes", owe.bytes_max)] {
        if let Some(limit) = limit {
            out.push_str(&format!(" {name}<={limit}"));
        }
    }
    if !owe.notify.is_empty() {
        out.push_str(&format!(" tell:{}", owe.notify.join(",")));
    }
    out
}

/// Decides twice, so that a kept decision is compared with a fresh one.
pub fn decide(bundle: &Bundle, request: &Request<'_>) -> String {
    let fresh = bundle.decide_uncached(request);
    assert_eq!(bundle.decide(request), fresh, "first");
    assert_eq!(bundle.decide(request), fresh, "second");
    shown(&fresh)
}

/// One command of one principal on one resource.
pub fn check(bundle: &Bundle, principal: &Principal, on: &str, command: &Command, expect: &str) {
    let (resource, origin) = (resource(on), origin("10.1.2.3"));
    let found = decide(bundle, &request(principal, &resource, &origin, command));
    assert_eq!(found, expect, "{} {:?} on {on}", command.action, command.touches);
}

/// A request that owns what it is about, so that a test can change one thing of it.
#[derive(Clone)]
pub struct Case {
    pub principal: Principal,
    pub resource: Resource,
    pub part: Option<String>,
    pub origin: Origin,
    pub command: Command,
    pub now: Timestamp,
    pub approved: bool,
}

impl Case {
    pub fn new() -> Self {
        Self {
            principal: who("k8s|billing/api", &["team:billing"]),
            resource: resource("orders"),
            part: None,
            origin: origin("10.1.2.3"),
            command: command("postgres:select", &["postgres:select public.payments(id,state)"]),
            // Wednesday, 2026-11-25T14:00:00Z.
            now: Timestamp::from_secs(1_795_615_200),
            approved: false,
        }
    }

    pub fn changed(change: impl FnOnce(&mut Self)) -> Self {
        let mut case = Self::new();
        change(&mut case);
        case
    }

    pub fn request(&self) -> Request<'_> {
        Request {
            principal: &self.principal,
            resource: &self.resource,
            part: self.part.as_deref(),
            origin: &self.origin,
            command: &self.command,
            now: self.now,
            approved: self.approved,
        }
    }
}
