//! One API as its operator describes it, and the descriptor that all APIs share.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bulla_core::{ActionSpec, Descriptor, FactKind, FactSpec, TouchSpec};
use http::Method;

use crate::{route::Routes, sigv4::Scope, veil::Masks};

/// Where a fact of a request is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FactFrom {
    /// A JSON pointer (RFC 6901) into the request's body: `/amount`.
    Json(String),
    /// A header, in lower case.
    Header(String),
    /// A name in the query.
    Query(String),
    /// A name in the route's template.
    Param(String),
}

/// A fact that policy may use by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactRule {
    pub name: String,
    pub kind: FactKind,
    pub from: FactFrom,
}

/// The HTTP version toward the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// What TLS agrees on; HTTP/1.1 without TLS.
    #[default]
    Auto,
    Http1,
    Http2,
}

/// How the gateway logs in at the target. The secret itself comes from the connector.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LoginKind {
    /// Nothing beside what TLS may prove.
    #[default]
    None,
    Bearer,
    Basic {
        user: String,
    },
    /// A header of this name.
    Header(String),
    /// A signature of each request (AWS Signature Version 4).
    Sigv4(Scope),
}

/// One API.
#[derive(Debug, Clone)]
pub struct Api {
    /// The resource's name.
    pub resource: Arc<str>,
    /// Host names by which clients reach it, in lower case; none: every name.
    pub hosts: Vec<String>,
    /// `/orders`: only what is below it; empty: everything.
    pub prefix: String,
    /// What the target is addressed as: `host` or `host:port`.
    pub authority: String,
    pub version: Version,
    pub login: LoginKind,
    pub routes: Routes,
    /// Templates whose `GET` and `HEAD` have no effect; `*` is all.
    pub safe: Vec<String>,
    pub facts: Vec<FactRule>,
    /// What of its answers belongs to which class.
    pub masks: Arc<Masks>,
    /// Templates where WebSocket is spoken.
    pub websocket: Vec<String>,
    /// Path of a GraphQL endpoint.
    pub graphql: Option<String>,
    /// Header with which a service says for whom it acts.
    pub on_behalf_of: Option<String>,
    /// Header with that person's own token, which is verified and goes no further.
    pub on_behalf_of_token: Option<String>,
    /// Longest body that policy looks into.
    pub judged_bytes_max: usize,
    /// Longest request body; none: any.
    pub body_bytes_max: Option<u64>,
    /// Until the first byte of the response.
    pub first_byte: Duration,
    /// Between two pieces of a response.
    pub idle: Duration,
}

impl Api {
    pub fn new(resource: &str, authority: &str) -> Self {
        Self {
            resource: resource.into(),
            hosts: Vec::new(),
            prefix: String::new(),
            authority: authority.into(),
            version: Version::Auto,
            login: LoginKind::None,
            routes: Routes::default(),
            safe: Vec::new(),
            facts: Vec::new(),
            masks: Arc::default(),
            websocket: Vec::new(),
            graphql: None,
            on_behalf_of: None,
            on_behalf_of_token: None,
            judged_bytes_max: 256 << 10,
            body_bytes_max: None,
            first_byte: Duration::from_secs(60),
            idle: Duration::from_secs(300),
        }
    }
    pub fn reads_json(&self) -> bool {
        self.facts.iter().any(|fact| matches!(fact.from, FactFrom::Json(_)))
    }
    /// Whether the host and path of a request are this API's; how well they fit.
    pub fn fits(&self, host: &str, path: &str) -> Option<usize> {
        let host_fits = self.hosts.is_empty() || self.hosts.iter().any(|own| own == host);
        let below = path.strip_prefix(self.prefix.as_str());
        let path_fits = below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let named = usize::from(!self.hosts.is_empty());
        (host_fits && (self.prefix.is_empty() || path_fits))
            .then_some(self.prefix.len() * 2 + named)
    }
    pub fn is_safe(&self, template: &str) -> bool {
        self.safe.iter().any(|own| own == "*" || own == template)
    }
    pub fn speaks_websocket(&self, template: &str) -> bool {
        self.websocket.iter().any(|own| own == "*" || own == template)
    }
}

const ACTIONS: &[ActionSpec] = &[
    ActionSpec { verb: "get", groups: &["read"], about: "GET" },
    ActionSpec { verb: "head", groups: &["read"], about: "HEAD" },
    ActionSpec { verb: "options", groups: &["read"], about: "OPTIONS" },
    ActionSpec { verb: "post", groups: &["write"], about: "POST" },
    ActionSpec { verb: "put", groups: &["write"], about: "PUT" },
    ActionSpec { verb: "patch", groups: &["write"], about: "PATCH" },
    ActionSpec { verb: "delete", groups: &["write"], about: "DELETE" },
    ActionSpec { verb: "call", groups: &["write"], about: "a call of gRPC" },
    ActionSpec { verb: "query", groups: &["read"], about: "a query of GraphQL" },
    ActionSpec { verb: "mutation", groups: &["write"], about: "a mutation of GraphQL" },
    ActionSpec { verb: "websocket", groups: &["write"], about: "open a WebSocket" },
    ActionSpec { verb: "message", groups: &["write"], about: "send a message on a WebSocket" },
];

/// Whether an action of this name, or a group, is the gateway's own: no operation may be called so.
pub fn is_reserved(name: &str) -> bool {
    // What policy says of every protocol.
    const ALWAYS: &[&str] = &["known", "unknown"];
    let own = |spec: &ActionSpec| spec.verb == name || spec.groups.contains(&name);
    ACTIONS.iter().any(own) || ALWAYS.contains(&name)
}

const FACTS: &[FactSpec] = &[
    fact("method", FactKind::Text, true, "the method, in capital letters"),
    fact("host", FactKind::Text, true, "the host that the client asked for"),
    fact("path", FactKind::Text, true, "the path in its one form"),
    fact("route", FactKind::Text, false, "the template of the route, where the API is described"),
    fact("params", FactKind::Set, true, "what the template's names stand for: `id=42`"),
    fact("query", FactKind::Set, true, "the query, decoded: `limit=10`"),
    fact("media_type", FactKind::Text, false, "of the request's body, without parameters"),
    fact("body_bytes", FactKind::Number, false, "of the request's body, where the client said so"),
    fact("grpc_service", FactKind::Text, false, "`package.Service`"),
    fact("grpc_method", FactKind::Text, false, "the method of that service"),
    fact("graphql_operation", FactKind::Text, false, "the name of a GraphQL operation"),
    fact(
        "on_behalf_of",
        FactKind::Text,
        false,
        "for whom the service acts: what it says, or whose token it shows",
    ),
    fact(
        "on_behalf_of_tier",
        FactKind::Number,
        false,
        "how far that is proven: 1 said by the service, 3 by a token of its own",
    ),
    fact("masked", FactKind::Set, false, "classes of the answer of which only masks are shown"),
    fact("text", FactKind::Text, false, "a WebSocket message, where it is text of up to 4 KiB"),
];

const fn fact(name: &'static str, kind: FactKind, required: bool, about: &'static str) -> FactSpec {
    FactSpec { name, kind, required, about }
}

const TOUCHES: &[TouchSpec] =
    &[TouchSpec { kind: "route", entity: "Route" }, TouchSpec { kind: "field", entity: "Field" }];

/// The protocol as it is without any API.
pub const DESCRIPTOR: Descriptor = Descriptor {
    protocol: "http",
    default_port: 8443,
    actions: ACTIONS,
    touches: TOUCHES,
    facts: FACTS,
    honours: &["bytes_max"],
};

/// The verb of a method.
pub fn verb(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "HEAD" => "head",
        "OPTIONS" => "options",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        _ => "delete",
    }
}

/// The protocol with every operation and fact that the APIs declare. Made once, when the gateway
/// starts: what it holds lives as long as the process.
pub fn descriptor(apis: &[Api]) -> Result<&'static Descriptor, String> {
    let mut actions = ACTIONS.to_vec();
    let mut facts = FACTS.to_vec();
    let mut operations: BTreeMap<&str, &'static str> = BTreeMap::new();
    for api in apis {
        for (action, method, template) in api.routes.actions() {
            let name = action.as_str().strip_prefix("http:").unwrap_or(action.as_str());
            let own = verb(method.unwrap_or(&Method::POST));
            if is_reserved(name) {
                return Err(format!(
                    "operation `{name}` of `{}` has the name of an action of the gateway",
                    api.resource
                ));
            }
            match operations.get(name) {
                None => {
                    let name: &'static str = name.to_owned().leak();
                    operations.insert(name, own);
                    let groups: &'static [&'static str] = vec![own].leak();
                    // A line of the schema that is printed.
                    let place =
                        format!("{} {template}", own.to_uppercase()).escape_debug().to_string();
                    let about = format!("{place} of {}", api.resource).leak();
                    actions.push(ActionSpec { verb: name, groups, about });
                }
                Some(other) if *other == own => {}
                Some(other) => {
                    return Err(format!(
                        "operation `{name}` of `{}` is a {own}, and a {other} of another API: name \
                         one of them with `x-bulla-action`",
                        api.resource
                    ));
                }
            }
        }
        for rule in &api.facts {
            match facts.iter().find(|spec| spec.name == rule.name) {
                None => facts.push(fact(
                    rule.name.clone().leak(),
                    rule.kind,
                    false,
                    "declared by the configuration",
                )),
                Some(spec) if spec.about == "declared by the configuration" => {
                    if spec.kind != rule.kind {
                        return Err(format!(
                            "fact `{}` of `{}` has another kind elsewhere",
                            rule.name, api.resource
                        ));
                    }
                }
                Some(_) => {
                    return Err(format!(
                        "fact `{}` of `{}` has the name of a fact of the gateway",
                        rule.name, api.resource
                    ));
                }
            }
        }
    }
    Ok(Box::leak(Box::new(Descriptor {
        actions: actions.leak(),
        facts: facts.leak(),
        ..DESCRIPTOR
    })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openapi::openapi;

    #[test]
    fn hosts_and_prefixes_choose() {
        let mut api = Api::new("api", "t");
        assert!(api.fits("x", "/y").is_some());
        api.hosts = vec!["api.example".into()];
        api.prefix = "/v1".into();
        for (host, path, fits) in [
            ("api.example", "/v1", true),
            ("api.example", "/v1/a", true),
            ("api.example", "/v10", false),
            ("api.example", "/", false),
            ("other", "/v1/a", false),
        ] {
            assert_eq!(api.fits(host, path).is_some(), fits, "{host}{path}");
        }
    }

    #[test]
    fn operations_become_actions_of_their_methods() {
        let mut api = Api::new("api", "t");
        let document = r#"{"openapi":"3.1.0","paths":{"/a":{"get":{"operationId":"listA"}}}}"#;
        api.routes = Routes::new(openapi(document, None).unwrap());
        let rule = |name: &str, kind| FactRule {
            name: name.into(),
            kind,
            from: FactFrom::Json("/amount".into()),
        };
        api.facts = vec![rule("amount", FactKind::Number)];
        let made = descriptor(std::slice::from_ref(&api)).unwrap();
        let action = made.actions.iter().find(|spec| spec.verb == "listA").unwrap();
        assert_eq!(action.groups, ["get"]);
        assert!(made.facts.iter().any(|spec| spec.name == "amount" && !spec.required));
        let mut other = api.clone();
        other.facts = vec![rule("amount", FactKind::Text)];
        assert!(descriptor(&[api.clone(), other]).unwrap_err().contains("another kind"));
        let mut other = api.clone();
        other.facts = vec![rule("path", FactKind::Text)];
        assert!(descriptor(&[other]).unwrap_err().contains("of the gateway"));
    }
}
