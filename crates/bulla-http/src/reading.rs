//! What a request does: from its one form to the command that policy judges. Pure.
//!
//! What cannot be told is said to be unknown, and needs a permit of its own. `classes` adds what of
//! the answer may not be seen.

mod classes;

use std::{collections::BTreeMap, sync::Arc};

use bulla_core::{
    ActionName, ActionSpec, CLASS_KIND, Columns, Command, Effects, Fact, FactKind, Parameter,
    ParameterValue, Purity, Spelling, Touch, Touches,
};
use http::Method;
use serde_json::Value;

use crate::{
    api::{Api, DESCRIPTOR, FactFrom, verb},
    graphql,
    head::{Head, check_form, leniently},
    json,
    multipart::is_multipart,
    overrides,
    route::{Found, Params},
    wire::{Fault, bad},
};

pub use classes::complete;

/// Longest body that is shown with the command, for whoever approves it.
const SHOWN_BYTES_MAX: usize = 16 << 10;
/// Longest message that policy sees as text.
pub const MESSAGE_TEXT_BYTES_MAX: usize = 4 << 10;

/// What of the body the reading needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Nothing,
    /// All of it, before anything is decided.
    Whole,
}

/// The name of an action of this protocol.
pub fn action(verb: &str) -> Result<ActionName, Fault> {
    let bug = Fault { status: 500, why: "an action has no name" };
    ActionName::new(&format!("http:{verb}")).map_err(|_| bug)
}

/// The gateway's own verbs are words of HTTP; an operation has the name that its owner gave it.
fn spelling(action: &ActionName) -> Spelling {
    let own = |spec: &ActionSpec| action.as_str().strip_prefix("http:") == Some(spec.verb);
    if DESCRIPTOR.actions.iter().any(own) { Spelling::Capitals } else { Spelling::AsWritten }
}

fn is_json(media: &str) -> bool {
    media == "application/json" || media.ends_with("+json")
}

fn is_grpc(media: &str) -> bool {
    media == "application/grpc" || media.starts_with("application/grpc+")
}

fn is_form(media: &str) -> bool {
    media == "application/x-www-form-urlencoded"
}

/// Whether the body is compressed, or in another coding.
pub fn is_coded(head: &Head) -> bool {
    head.headers.all("content-encoding").any(|coding| coding != "identity")
}

/// Whether policy sees parts of the body.
fn looks_into(api: &Api, head: &Head) -> bool {
    api.reads_json() || is_graphql(api, head)
}

fn has_body(head: &Head) -> bool {
    head.length != Some(0)
        && (head.length.is_some() || !matches!(head.method, Method::GET | Method::HEAD))
}

fn is_graphql(api: &Api, head: &Head) -> bool {
    // Some servers take a path in any case, and with a slash at its end.
    let own = head.path.trim_end_matches('/');
    let same = |path: &String| path.trim_end_matches('/').eq_ignore_ascii_case(own);
    api.graphql.as_ref().is_some_and(same)
}

/// What the reading of this request needs of its body. `body`: whether there is one.
pub fn need(api: &Api, head: &Head, body: bool) -> Need {
    let media = head.media_type().unwrap_or_default();
    let form = is_form(&media);
    let whole = body
        && (form || (is_graphql(api, head) && head.method == Method::POST) || api.reads_json());
    if whole && !is_grpc(&media) { Need::Whole } else { Need::Nothing }
}

/// A reading under way.
struct Reading<'a> {
    api: &'a Api,
    head: &'a Head,
    facts: BTreeMap<&'static str, Fact>,
    params: Params,
    template: Option<Arc<str>>,
    /// Why the request could not be read with certainty.
    doubt: Option<&'static str>,
}

/// Where the names in a form are looked at, they are what they look like: in UTF-16 `_method` is other
/// bytes, and some servers go by that.
fn check_charset(head: &Head) -> Result<(), Fault> {
    const LIKE_ASCII: &[&str] =
        &["utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin1", "windows-1252"];
    let media = head.media_type().unwrap_or_default();
    let charset =
        head.media_parameter("charset").filter(|_| is_multipart(&media) || is_form(&media));
    if charset.is_some_and(|charset| !LIKE_ASCII.contains(&charset.as_str())) {
        return Err(Fault { status: 415, why: "a form is looked into, so it is UTF-8" });
    }
    Ok(())
}

/// Reads a request. `body`: all of it, where [`need`] asked for it. `facts`: the names that the
/// descriptor declares, for those that the configuration adds.
pub fn request(
    api: &Api,
    head: &Head,
    body: Option<&[u8]>,
    facts: &[bulla_core::FactSpec],
) -> Result<Command, Fault> {
    if is_coded(head) && is_multipart(&head.media_type().unwrap_or_default()) {
        let why = "a form of several parts is looked into, so it may not be compressed";
        return Err(Fault { status: 415, why });
    }
    check_charset(head)?;
    if let Some(mut watch) = overrides::of(head)?
        && let Some(body) = body
    {
        watch.push(body)?;
        watch.finish()?;
    }
    let slash = head.path.ends_with('/');
    let (template, own, params) = match api.routes.find(&head.method, &head.segments, slash) {
        Found::Undescribed => (None, None, Params::new()),
        Found::Route { template, action, params } => {
            (Some(template.clone()), action.cloned(), params)
        }
        Found::Unknown => {
            return Err(Fault { status: 403, why: "the API's description has no such operation" });
        }
        Found::Doubt(why) => return Err(Fault { status: 403, why }),
    };
    let mut reading = Reading { api, head, facts: BTreeMap::new(), params, template, doubt: None };
    reading.own_facts(body);
    let document = reading.document(body)?;
    reading.declared(document.as_ref(), facts);
    if is_graphql(api, head) && !head.upgrade {
        return reading.graphql(document.as_ref(), body);
    }
    let media = head.media_type().unwrap_or_default();
    let (own, effects) = match own {
        _ if head.upgrade => (action("websocket")?, Effects::READ.with(Effects::WRITE)),
        _ if is_grpc(&media) => (reading.grpc()?, reading.opaque()),
        Some(operation) => (operation, reading.effects()),
        None => (action(verb(&head.method))?, reading.effects()),
    };
    let path = reading.template.clone().unwrap_or_else(|| head.path.as_str().into());
    let touch = Touch { action: own.clone(), kind: "route", path, columns: Columns::NotApplicable };
    Ok(reading.command(own, effects, vec![touch], body))
}

impl Reading<'_> {
    fn put(&mut self, name: &'static str, text: &str) {
        self.facts.insert(name, Fact::Text(text.into()));
    }

    fn own_facts(&mut self, body: Option<&[u8]>) {
        let head = self.head;
        self.put("method", head.method.as_str());
        self.put("host", &head.host);
        self.put("path", &head.path);
        if let Some(template) = self.template.clone() {
            self.put("route", &template);
        }
        let pair = |(name, value): &(String, String)| format!("{name}={value}").into();
        self.facts.insert("query", Fact::Set(head.pairs.iter().map(pair).collect()));
        let params = self.params.iter().map(|(name, value)| format!("{name}={value}").into());
        let params = Fact::Set(params.collect());
        self.facts.insert("params", params);
        if let Some(media) = head.media_type() {
            self.put("media_type", &media);
        }
        let length = head.length.or(body.map(|body| body.len() as u64));
        if let Some(length) = length.and_then(|length| i64::try_from(length).ok()) {
            self.facts.insert("body_bytes", Fact::Number(length));
        }
        let name = self.api.on_behalf_of.as_deref().unwrap_or_default();
        let mut said = head.headers.iter().filter(|(own, _)| *own == name);
        let (said, again) = (said.next().map(|(_, who)| who), said.next().is_some());
        if again {
            self.doubt = Some("for whom it is, is said twice");
        }
        let proven = head.on_behalf_of.as_ref();
        if let Some((who, tier)) = proven.map(|id| (id.as_str(), 3)).or(said.map(|who| (who, 1))) {
            self.put("on_behalf_of", who);
            self.facts.insert("on_behalf_of_tier", Fact::Number(tier));
        }
    }

    /// The body as JSON, where policy looks into it. A form is read in any case: a field of it could
    /// replace the method.
    fn document(&mut self, body: Option<&[u8]>) -> Result<Option<Value>, Fault> {
        let Some(body) = body.filter(|body| !body.is_empty()) else { return Ok(None) };
        let media = self.head.media_type().unwrap_or_default();
        let (form, looked) = (is_form(&media), looks_into(self.api, self.head));
        if !form && !looked {
            return Ok(None);
        }
        if is_coded(self.head) {
            let why = "the gateway looks into this body, so it may not be compressed";
            return Err(Fault { status: 415, why });
        }
        if form {
            check_form(body)?;
        }
        if !looked {
            return Ok(None);
        }
        if !is_json(&media) {
            self.doubt = Some("its body is not JSON, and policy looks into it");
            return Ok(None);
        }
        let charset = self.head.media_parameter("charset");
        if charset.is_some_and(|charset| charset != "utf-8" && charset != "utf8") {
            return Err(Fault { status: 415, why: "JSON is UTF-8" });
        }
        json::read(body).map(Some)
    }

    /// Facts that the configuration declares.
    fn declared(&mut self, document: Option<&Value>, specs: &[bulla_core::FactSpec]) {
        for rule in &self.api.facts {
            let Some(spec) = specs.iter().find(|spec| spec.name == rule.name) else {
                self.doubt = Some("a fact is not declared");
                continue;
            };
            let found = match &rule.from {
                FactFrom::Json(pointer) => {
                    let found = document.map(|json| json::find(json, pointer));
                    if found.as_ref().is_some_and(Result::is_err) {
                        self.doubt = Some("a member that policy uses is there in another case");
                    }
                    found.and_then(Result::ok).flatten().cloned()
                }
                FactFrom::Header(name) => {
                    let mut all = self.head.headers.all(name);
                    let first = all.next().map(|value| Value::String(value.to_owned()));
                    if all.next().is_some() {
                        self.doubt = Some("a header that policy uses stands twice");
                    }
                    first
                }
                FactFrom::Query(name) => {
                    let own = leniently(name);
                    let mut all = self.head.pairs.iter().filter(|(n, _)| leniently(n) == own);
                    let first = all.next();
                    if all.next().is_some() {
                        self.doubt = Some("a part of the query that policy uses stands twice");
                    }
                    if first.is_some_and(|(own, _)| own != name) {
                        self.doubt = Some("a part of the query that policy uses is spelled oddly");
                    }
                    first.map(|(_, value)| Value::String(value.clone()))
                }
                FactFrom::Param(name) => {
                    let found = self.params.iter().find(|(own, _)| **own == **name);
                    found.map(|(_, value)| Value::String(value.clone()))
                }
            };
            let json = matches!(rule.from, FactFrom::Json(_));
            match found {
                None | Some(Value::Null) => {}
                Some(value) => match convert(&value, rule.kind, json) {
                    Some(fact) => {
                        self.facts.insert(spec.name, fact);
                    }
                    None => self.doubt = Some("a value that policy uses has another type"),
                },
            }
        }
    }

    fn effects(&self) -> Effects {
        match self.head.method {
            Method::GET | Method::HEAD | Method::OPTIONS => Effects::READ,
            _ => Effects::READ.with(Effects::WRITE),
        }
    }

    fn opaque(&self) -> Effects {
        Effects::READ.with(Effects::WRITE).with(Effects::OPAQUE)
    }

    /// `/package.Service/Method`.
    fn grpc(&mut self) -> Result<ActionName, Fault> {
        let [service, method] = &self.head.segments[..] else {
            return Err(bad("a call of gRPC whose path is not `/service/method`"));
        };
        if self.head.method != Method::POST {
            return Err(bad("a call of gRPC that is no `POST`"));
        }
        let (service, method) = (service.clone(), method.clone());
        self.put("grpc_service", &service);
        self.put("grpc_method", &method);
        action("call")
    }

    /// A document that is named instead of shown, or told in two places, would be another than the one
    /// that is judged.
    fn graphql_told_once(&self, document: Option<&Value>) -> Result<(), Fault> {
        const PARTS: &[&str] = &["query", "operationname", "variables", "extensions"];
        const NAMES: &[&str] = &["id", "documentid", "document_id", "docid", "doc_id", "queryid"];
        let names: Vec<String> = self.head.pairs.iter().map(|(own, _)| leniently(own)).collect();
        let members = document.and_then(Value::as_object).into_iter().flatten();
        let mut members = members.map(|(own, _)| leniently(own));
        let named = |own: &String| NAMES.contains(&own.as_str());
        if names.iter().any(named) || members.any(|own| named(&own)) {
            return Err(bad("a GraphQL document is named, and only one that is shown is judged"));
        }
        if self.head.method != Method::GET && names.iter().any(|own| PARTS.contains(&own.as_str()))
        {
            return Err(bad("a GraphQL request stands in the address, and another in the body"));
        }
        Ok(())
    }

    fn graphql(mut self, document: Option<&Value>, body: Option<&[u8]>) -> Result<Command, Fault> {
        self.graphql_told_once(document)?;
        let read = match self.head.method {
            Method::GET => {
                let pair = |name: &str| {
                    let like = |own: &str| leniently(own) == name.to_ascii_lowercase();
                    let mut all = self.head.pairs.iter().filter(|(own, _)| like(own));
                    let first = all.next();
                    if all.next().is_some() || first.is_some_and(|(own, _)| own != name) {
                        Err(bad("a part of the query stands twice, or is spelled oddly"))
                    } else {
                        Ok(first.map(|(_, value)| value.as_str()))
                    }
                };
                let text = pair("query")?.ok_or(bad("there is no GraphQL document"))?;
                graphql::read(text, pair("operationName")?)?
            }
            Method::POST => {
                let json = document.ok_or(bad("the body is no GraphQL request in JSON"))?;
                let member = |name: &str| match json.get(name) {
                    None | Some(Value::Null) => Ok(None),
                    Some(Value::String(text)) => Ok(Some(text.as_str())),
                    Some(_) => Err(bad("a member of the GraphQL request is no text")),
                };
                let text = member("query")?.ok_or(bad("there is no GraphQL document"))?;
                graphql::read(text, member("operationName")?)?
            }
            _ => return Err(bad("GraphQL is asked by `GET` or `POST`")),
        };
        if self.head.method == Method::GET && read.kind != graphql::Kind::Query {
            return Err(bad("a GraphQL operation with effects is no `GET`"));
        }
        let (own, effects) = match read.kind {
            graphql::Kind::Query => (action("query")?, Effects::READ),
            graphql::Kind::Mutation => (action("mutation")?, Effects::READ.with(Effects::WRITE)),
            graphql::Kind::Subscription => {
                return Err(bad("a GraphQL subscription needs a connection of its own"));
            }
        };
        if let Some(name) = &read.name {
            self.put("graphql_operation", name);
        }
        let touches = read.fields.into_iter().map(|(path, below)| Touch {
            action: own.clone(),
            kind: "field",
            path: path.into(),
            columns: Columns::Known(below.into_iter().map(Into::into).collect()),
        });
        let touches = touches.collect();
        Ok(self.command(own, effects, touches, body))
    }

    fn command(
        self,
        action: ActionName,
        effects: Effects,
        touches: Vec<Touch>,
        body: Option<&[u8]>,
    ) -> Command {
        let plain = matches!(self.head.method, Method::GET | Method::HEAD) && !self.head.upgrade;
        let path = touches.first().map(|touch| touch.path.clone());
        let safe = plain && path.is_some_and(|path| self.api.is_safe(&path));
        let touches = match self.doubt {
            None => Touches::Known(touches),
            Some(why) => Touches::Unknown { why: why.into(), seen: touches },
        };
        let parameter = |(name, value): &(Arc<str>, String)| Parameter {
            name: name.clone(),
            kind: "".into(),
            value: ParameterValue::Text(value.as_str().into()),
        };
        Command {
            spelling: spelling(&action),
            action,
            effects,
            touches,
            also: Vec::new(),
            beneath: Vec::new(),
            purity: if safe { Purity::Read } else { Purity::Effect },
            shown: shown(self.head, body).into(),
            parameters: self.params.iter().map(parameter).collect(),
            facts: self.facts,
            settings: "".into(),
        }
    }
}

/// The request as a person reads it, with its body where that was read.
fn shown(head: &Head, body: Option<&[u8]>) -> String {
    let mut out = format!("{} {}", head.method, head.target());
    match body.map(std::str::from_utf8) {
        Some(Ok(text)) if !text.is_empty() && text.len() <= SHOWN_BYTES_MAX => {
            out.push('\n');
            out.push_str(text);
        }
        Some(_) if body.is_some_and(|body| !body.is_empty()) => {
            let length = body.map_or(0, <[u8]>::len);
            out.push_str(&format!("\n({length} bytes, in the evidence)"));
        }
        _ if has_body(head) => {
            if let Some(length) = head.length {
                out.push_str(&format!(" ({length} bytes, in the evidence)"));
            }
        }
        _ => {}
    }
    out
}

/// A value as the fact that was declared. Text from outside JSON may stand for a number.
fn convert(value: &Value, kind: FactKind, json: bool) -> Option<Fact> {
    let text = |value: &Value| value.as_str().map(Arc::from);
    match (kind, value) {
        (FactKind::Text, Value::String(text)) => Some(Fact::Text(text.as_str().into())),
        (FactKind::Flag, Value::Bool(flag)) => Some(Fact::Flag(*flag)),
        (FactKind::Number, Value::Number(number)) => number.as_i64().map(Fact::Number),
        (FactKind::Set, Value::Array(items)) => {
            items.iter().map(text).collect::<Option<Vec<_>>>().map(Fact::Set)
        }
        (FactKind::Number, Value::String(text)) if !json => text.parse().ok().map(Fact::Number),
        (FactKind::Flag, Value::String(text)) if !json => text.parse().ok().map(Fact::Flag),
        _ => None,
    }
}

/// A message that a client sends on a WebSocket.
pub fn message(
    head: &Head,
    opened: &Command,
    text: Option<&str>,
    bytes: usize,
) -> Result<Command, Fault> {
    let own = action("message")?;
    let touch = |touch: &Touch| match touch.kind {
        CLASS_KIND => touch.clone(),
        _ => Touch { action: own.clone(), ..touch.clone() },
    };
    let mut facts = opened.facts.clone();
    facts.remove("body_bytes");
    facts.insert("body_bytes", Fact::Number(i64::try_from(bytes).unwrap_or(i64::MAX)));
    if let Some(text) = text.filter(|text| text.len() <= MESSAGE_TEXT_BYTES_MAX) {
        facts.insert("text", Fact::Text(text.into()));
    }
    let shown = match text {
        Some(text) if text.len() <= SHOWN_BYTES_MAX => format!("message to {}\n{text}", head.path),
        _ => format!("message to {} ({bytes} bytes, in the evidence)", head.path),
    };
    Ok(Command {
        action: own.clone(),
        spelling: Spelling::Capitals,
        effects: Effects::READ.with(Effects::WRITE),
        touches: Touches::Known(opened.touches.seen().iter().map(touch).collect()),
        also: Vec::new(),
        beneath: Vec::new(),
        purity: Purity::Effect,
        shown: shown.into(),
        parameters: opened.parameters.clone(),
        facts,
        settings: "".into(),
    })
}

#[cfg(test)]
mod tests;
