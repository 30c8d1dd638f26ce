//! `[resources.NAME.http]`: an API as its operator writes it down.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use bulla_core::FactKind;
use bulla_http::{Api, FactFrom, FactRule, LoginKind, Masks, Route, Routes, Version};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{
    Config,
    file::Resource,
    value::{Size, Time},
};

/// What only an HTTP API has.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpSettings {
    /// Host names by which clients reach it. None: every name that comes to its address.
    pub hosts: Vec<String>,
    /// Only what is below this path: `/orders`. The target sees the whole path.
    pub path: Option<String>,
    /// What the target is addressed as; by default its host, and its port if that is not 443 or 80.
    pub authority: Option<String>,
    /// The version of HTTP toward the target.
    pub version: HttpVersion,
    /// How the secret of `login` is used.
    pub login: HttpLogin,
    /// The header that holds the secret, where `login` is `header`.
    pub header: Option<String>,
    /// The account of `basic` and `sigv4`, where the secret is an agent's.
    pub user: Option<String>,
    /// The region to sign for, where `login` is `sigv4`.
    pub region: Option<String>,
    /// The service to sign for, where `login` is `sigv4`: `s3`, `execute-api`.
    pub service: Option<String>,
    /// An OpenAPI document, in YAML or JSON: its operations are actions, and there are no others.
    pub openapi: Option<PathBuf>,
    /// The path before those of the document, instead of what its `servers` or `basePath` say:
    /// `/v2`; empty: none.
    pub openapi_base: Option<String>,
    /// Routes, instead of a document: `GET /orders/{id}`, `/files/**`. There are no others.
    pub routes: Vec<String>,
    /// Routes whose GET and HEAD have no effect, so that they may be sent while their intent is
    /// still on its way to the disk; `*` is all.
    pub safe: Vec<String>,
    /// Facts for policy, by name.
    pub facts: BTreeMap<String, HttpFact>,
    /// Routes where WebSocket is spoken; `*` is all.
    pub websocket: Vec<String>,
    /// The path of a GraphQL endpoint.
    pub graphql: Option<String>,
    /// A header with which a service says for whom it acts.
    pub on_behalf_of: Option<String>,
    /// A header with the own token of whom it acts for; it is verified and goes no further.
    pub on_behalf_of_token: Option<String>,
    /// The longest body that policy looks into.
    pub judged_body: Size,
    /// The longest request body; none: any length.
    pub body_max: Option<Size>,
    /// How long the target may take until its answer begins.
    pub first_byte: Time,
    /// How long a body may pause.
    pub idle: Time,
}

/// The version of HTTP toward a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
pub enum HttpVersion {
    /// What TLS agrees on; HTTP/1.1 without TLS.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    #[serde(rename = "1.1")]
    One,
    #[serde(rename = "2")]
    Two,
}

/// How the gateway logs in at an API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HttpLogin {
    /// With nothing, or with the client certificate of `login.cert`.
    #[default]
    None,
    /// `Authorization: Bearer`.
    Bearer,
    /// `Authorization: Basic`, with `login.user`.
    Basic,
    /// The header that `header` names.
    Header,
    /// AWS Signature Version 4: `login.user` is the access key's id, the secret is its secret.
    Sigv4,
}

/// Where a fact is found; exactly one place.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpFact {
    /// A JSON pointer into the request's body: `/payment/amount`.
    pub json: Option<String>,
    /// A header.
    pub header: Option<String>,
    /// A name in the query.
    pub query: Option<String>,
    /// A name in the route.
    pub param: Option<String>,
    #[serde(default)]
    pub kind: HttpFactKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HttpFactKind {
    #[default]
    Text,
    Flag,
    Number,
    Set,
}

impl Default for HttpSettings {
    fn default() -> Self {
        let empty = Api::new("", "");
        let ms = |time: Duration| Time { ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX) };
        Self {
            hosts: Vec::new(),
            path: None,
            authority: None,
            version: HttpVersion::Auto,
            login: HttpLogin::None,
            header: None,
            user: None,
            region: None,
            service: None,
            openapi: None,
            openapi_base: None,
            routes: Vec::new(),
            safe: Vec::new(),
            facts: BTreeMap::new(),
            websocket: Vec::new(),
            graphql: None,
            on_behalf_of: None,
            on_behalf_of_token: None,
            judged_body: Size { bytes: empty.judged_bytes_max as u64 },
            body_max: None,
            first_byte: ms(empty.first_byte),
            idle: ms(empty.idle),
        }
    }
}

/// A mistake: the key below the resource, and the words.
type Mistake = (&'static str, String);

/// Builds the API of a resource, or says everything that does not hold.
pub fn api(config: &Config, name: &str, resource: &Resource) -> Result<Api, Vec<Mistake>> {
    let settings = resource.http.clone().unwrap_or_default();
    let mut mistakes = Vec::new();
    let target = &resource.target;
    // That they are missing is said elsewhere.
    let host = target.host.clone().unwrap_or_default();
    let authority = settings.authority.clone().unwrap_or_else(|| match target.port {
        None | Some(80 | 443) => host,
        Some(port) => format!("{host}:{port}"),
    });
    let mut api = Api::new(name, &authority);
    for host in &settings.hosts {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.[]:".contains(c);
        if host.is_empty() || !host.chars().all(plain) {
            mistakes.push(("http.hosts", format!("`{host}` is no host name in lower case")));
        }
    }
    api.hosts.clone_from(&settings.hosts);
    if let Some(path) = &settings.path {
        if !path.starts_with('/') || path.ends_with('/') || path.contains("//") {
            let words = "must begin with `/` and not end in one: `/orders`".to_owned();
            mistakes.push(("http.path", words));
        }
        api.prefix.clone_from(path);
    }
    api.version = match settings.version {
        HttpVersion::Auto => Version::Auto,
        HttpVersion::One => Version::Http1,
        HttpVersion::Two => Version::Http2,
    };
    let login = resource.login.clone().unwrap_or_default();
    let user = settings.user.clone().unwrap_or_else(|| login.user.clone());
    let secret = login.has_secret();
    let through = !resource.agent.is_empty();
    if through && settings.authority.is_none() {
        let words = "is missing: what the target is addressed as, which the agent does not say";
        mistakes.push(("http.authority", words.to_owned()));
    }
    api.login = match (settings.login, &settings.header) {
        (HttpLogin::None, None) => LoginKind::None,
        (HttpLogin::Bearer, None) => LoginKind::Bearer,
        (HttpLogin::Basic, None) => LoginKind::Basic { user },
        (HttpLogin::Header, Some(header)) => LoginKind::Header(header.to_ascii_lowercase()),
        (HttpLogin::Sigv4, None) => match (&settings.region, &settings.service) {
            (Some(region), Some(service)) => LoginKind::Sigv4(bulla_http::Scope {
                key_id: user,
                region: region.clone(),
                service: service.clone(),
            }),
            _ => {
                mistakes.push(("http.login", "needs `region` and `service`".to_owned()));
                LoginKind::None
            }
        },
        (HttpLogin::Header, None) => {
            mistakes.push(("http.login", "needs `header`, which is not set".to_owned()));
            LoginKind::None
        }
        (_, Some(_)) => {
            mistakes.push(("http.header", "needs `login = \"header\"`".to_owned()));
            LoginKind::None
        }
    };
    if login.oauth.is_some() && settings.login != HttpLogin::Bearer {
        mistakes.push(("http.login", "must be `bearer`, since `oauth` gives a token".to_owned()));
    }
    if secret != (settings.login != HttpLogin::None) && !through {
        let words = "a secret in `login` and `http.login` go together".to_owned();
        mistakes.push(("http.login", words));
    }
    routes(config, &settings, &mut api, &mut mistakes);
    facts(&settings, &mut api, &mut mistakes);
    masks(config, name, resource, &mut api, &mut mistakes);
    api.safe.clone_from(&settings.safe);
    api.websocket.clone_from(&settings.websocket);
    api.graphql.clone_from(&settings.graphql);
    api.on_behalf_of = settings.on_behalf_of.as_ref().map(|name| name.to_ascii_lowercase());
    api.on_behalf_of_token = settings.on_behalf_of_token.as_ref().map(|n| n.to_ascii_lowercase());
    api.judged_bytes_max = usize::try_from(settings.judged_body.bytes).unwrap_or(usize::MAX);
    if settings.judged_body.bytes > 16 << 20 {
        mistakes.push(("http.judged_body", "must be at most `16MiB`".to_owned()));
    }
    api.body_bytes_max = settings.body_max.map(|size| size.bytes);
    api.first_byte = Duration::from_millis(settings.first_byte.ms);
    api.idle = Duration::from_millis(settings.idle.ms);
    if mistakes.is_empty() { Ok(api) } else { Err(mistakes) }
}

fn routes(config: &Config, from: &HttpSettings, api: &mut Api, mistakes: &mut Vec<Mistake>) {
    let mut all = Vec::new();
    if let Some(path) = &from.openapi {
        let path = config.path(path);
        let base = from.openapi_base.as_deref();
        match document(&path).and_then(|text| bulla_http::openapi(&text, base)) {
            Ok(routes) => all = routes,
            Err(why) => {
                mistakes.push(("http.openapi", format!("`{}`: {why}", path.display())));
            }
        }
        if !from.routes.is_empty() {
            mistakes.push(("http.routes", "a document is there too; keep one".to_owned()));
        }
    } else if from.openapi_base.is_some() {
        mistakes.push(("http.openapi_base", "needs `openapi`, which is not set".to_owned()));
    }
    for text in &from.routes {
        match Route::parse(text) {
            Ok(route) => all.push(route),
            Err(why) => mistakes.push(("http.routes", why)),
        }
    }
    api.routes = Routes::new(all);
    if let Some(path) = &from.path
        && !api.routes.is_empty()
        && !api.routes.reach(path)
    {
        let words = format!("is `{path}`, and no described operation is below it");
        mistakes.push(("http.path", words));
    }
    for (key, named) in [("http.safe", &from.safe), ("http.websocket", &from.websocket)] {
        for template in named.iter().filter(|template| *template != "*") {
            let described = api.routes.templates().any(|own| **own == **template);
            if !api.routes.is_empty() && !described {
                mistakes.push((key, format!("`{template}` is no route of this API")));
            }
        }
    }
}

/// The text of a document, read no further than what one may be long.
fn document(path: &Path) -> Result<String, String> {
    let most = bulla_http::DOCUMENT_BYTES_MAX;
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    let read = file.take(most as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| error.to_string())?;
    if bytes.len() > most {
        return Err(format!("it is longer than {} MiB", most >> 20));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8; save it as that".to_owned())
}

fn masks(
    config: &Config,
    name: &str,
    resource: &Resource,
    api: &mut Api,
    mistakes: &mut Vec<Mistake>,
) {
    if resource.classes.is_empty() {
        return;
    }
    // Classes that do not hold are told where they stand.
    let Ok(all) = config.masks() else { return };
    let Some(own) = all.get(name) else { return };
    let mask = |class: &str| own.class(class).map(|class| class.mask.clone());
    let from = &resource.classes;
    match Masks::new(&from.json, &from.content, &mask, own.key().cloned()) {
        Ok(masks) => api.masks = masks.into(),
        Err(wrong) => mistakes.extend(wrong.into_iter().map(|why| ("classes", why))),
    }
}

fn facts(from: &HttpSettings, api: &mut Api, mistakes: &mut Vec<Mistake>) {
    for (name, fact) in &from.facts {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(plain) {
            mistakes.push(("http.facts", format!("`{name}` holds more than a-z, 0-9 and `_`")));
        }
        let places: Vec<FactFrom> = [
            fact.json.clone().map(FactFrom::Json),
            fact.header.as_ref().map(|name| FactFrom::Header(name.to_ascii_lowercase())),
            fact.query.clone().map(FactFrom::Query),
            fact.param.clone().map(FactFrom::Param),
        ]
        .into_iter()
        .flatten()
        .collect();
        let [place] = &places[..] else {
            let words = format!("`{name}` needs one of `json`, `header`, `query`, `param`");
            mistakes.push(("http.facts", words));
            continue;
        };
        if let FactFrom::Json(pointer) = place
            && !pointer.starts_with('/')
        {
            mistakes.push(("http.facts", format!("`{name}`: a JSON pointer begins with `/`")));
        }
        api.facts.push(FactRule {
            name: name.clone(),
            kind: match fact.kind {
                HttpFactKind::Text => FactKind::Text,
                HttpFactKind::Flag => FactKind::Flag,
                HttpFactKind::Number => FactKind::Number,
                HttpFactKind::Set => FactKind::Set,
            },
            from: place.clone(),
        });
    }
}
