//! Which operation of an API a request is. Pure.
//!
//! An API is described by an OpenAPI document, by a list of route templates, or not at all. Where
//! it is described, what is not in the description is refused.

use std::{collections::BTreeMap, sync::Arc};

use bulla_core::ActionName;
use http::Method;
use serde_json::Value;

/// Most routes of one API.
pub const ROUTES_MAX: usize = 10_000;

/// A segment of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Exact(String),
    /// `{id}`: one segment.
    Named(Arc<str>),
    /// `**`, at the end: everything below.
    Rest,
}

/// Whether `/Orders` is `/orders`: to some servers it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    Exact,
    Any,
}

/// One operation.
#[derive(Debug, Clone)]
pub struct Route {
    /// None: every method.
    pub method: Option<Method>,
    /// `/orders/{id}`.
    pub template: Arc<str>,
    parts: Vec<Part>,
    /// `http:getOrder`; none: the action is the method's.
    pub action: Option<ActionName>,
}

impl Route {
    /// `GET /orders/{id}` or `/orders/{id}`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (method, template) = match text.trim().split_once(' ') {
            Some((method, template)) => {
                let method = Method::from_bytes(method.as_bytes());
                (Some(method.map_err(|_| format!("`{text}` begins with no method"))?), template)
            }
            None => (None, text.trim()),
        };
        let rest = template.strip_prefix('/');
        let rest = rest.ok_or_else(|| format!("the path of `{text}` does not begin with `/`"))?;
        let raw: Vec<&str> = rest.split('/').collect();
        let last = raw.len() - 1;
        let mut parts = Vec::new();
        for (at, part) in raw.into_iter().enumerate() {
            let named = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
            parts.push(match (part, named) {
                ("**", _) if at == last => Part::Rest,
                ("", _) if at == last => continue,
                (_, Some(name)) if !name.is_empty() && !name.contains(['{', '}']) => {
                    Part::Named(name.into())
                }
                _ if part.is_empty() || part.contains(['{', '}', '*']) => {
                    return Err(format!("`{text}` has a segment that is no template"));
                }
                _ => Part::Exact(part.to_owned()),
            });
        }
        Ok(Self { method, template: template.into(), parts, action: None })
    }

    /// Whether a request is on it, whatever else might fit better.
    pub fn fits(&self, method: &Method, segments: &[String], case: Case) -> bool {
        let get = *method == Method::HEAD && self.method.as_ref() == Some(&Method::GET);
        let own = self.method.as_ref().is_none_or(|own| own == method);
        (own || get) && self.takes(segments, case).is_some()
    }

    fn takes(&self, segments: &[String], case: Case) -> Option<Vec<(Arc<str>, String)>> {
        let same = |own: &str, segment: &str| match case {
            Case::Exact => own == segment,
            Case::Any => own.to_lowercase() == segment.to_lowercase(),
        };
        let mut params = Vec::new();
        let mut segments = segments.iter();
        for part in &self.parts {
            match (part, segments.next()) {
                (Part::Rest, _) => return Some(params),
                (_, None) => return None,
                (Part::Exact(exact), Some(segment)) if same(exact, segment) => {}
                (Part::Exact(_), Some(_)) => return None,
                (Part::Named(name), Some(segment)) => params.push((name.clone(), segment.clone())),
            }
        }
        segments.next().is_none().then_some(params)
    }

    /// Fewer names and no rest come first.
    fn rank(&self) -> (usize, usize) {
        let rest = usize::from(self.parts.last() == Some(&Part::Rest));
        let named = self.parts.iter().filter(|part| matches!(part, Part::Named(_))).count();
        (rest, named)
    }
}

/// All operations of an API.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    routes: Vec<Route>,
}

/// What a request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<'a> {
    Route {
        template: &'a Arc<str>,
        action: Option<&'a ActionName>,
        params: Params,
    },
    /// The API is described and this is not in it.
    Unknown,
    /// The API is not described.
    Undescribed,
}

pub type Params = Vec<(Arc<str>, String)>;

impl Routes {
    pub fn new(mut routes: Vec<Route>) -> Self {
        routes.sort_by_key(Route::rank);
        Self { routes }
    }
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
    pub fn actions(&self) -> impl Iterator<Item = (&ActionName, Option<&Method>)> {
        let named = |route: &'_ Route| route.action.is_some();
        let all = self.routes.iter().filter(move |route| named(route));
        all.filter_map(|route| Some((route.action.as_ref()?, route.method.as_ref())))
    }
    pub fn templates(&self) -> impl Iterator<Item = &Arc<str>> {
        self.routes.iter().map(|route| &route.template)
    }

    pub fn find(&self, method: &Method, segments: &[String], slash: bool) -> Found<'_> {
        if self.routes.is_empty() {
            return Found::Undescribed;
        }
        // A described HEAD comes before the GET that it is otherwise.
        let as_get = *method == Method::HEAD;
        for wanted in [Some(method), as_get.then_some(&Method::GET)].into_iter().flatten() {
            for route in &self.routes {
                if route.method.as_ref().is_some_and(|own| own != wanted) {
                    continue;
                }
                let own_slash = route.template.ends_with('/') && route.template.len() > 1;
                let rest = route.parts.last() == Some(&Part::Rest);
                if !rest && own_slash != (slash && !segments.is_empty()) {
                    continue;
                }
                if let Some(params) = route.takes(segments, Case::Exact) {
                    let action = route.action.as_ref();
                    return Found::Route { template: &route.template, action, params };
                }
            }
        }
        Found::Unknown
    }
}

/// What to do with a document in YAML.
const CONVERT: &str = "convert YAML: `yq -o=json . api.yaml > api.json`, or `python3 -c 'import json, \
                       sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)' < api.yaml`";

/// The operations of an OpenAPI document (3.x, or Swagger 2), in JSON. `prefix` comes before every
/// path of the document.
pub fn openapi(document: &str, prefix: &str) -> Result<Vec<Route>, String> {
    let document: Value = serde_json::from_str(document)
        .map_err(|error| format!("it is not JSON ({error}); {CONVERT}"))?;
    let version = document.get("openapi").or_else(|| document.get("swagger"));
    if version.and_then(Value::as_str).is_none() {
        return Err("it has neither `openapi` nor `swagger`".into());
    }
    let paths = document.get("paths").and_then(Value::as_object).ok_or("it has no `paths`")?;
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let mut routes = Vec::new();
    for (path, item) in paths {
        let item = item.as_object().ok_or_else(|| format!("`{path}` is no object"))?;
        for word in ["get", "head", "post", "put", "patch", "delete", "options"] {
            let Some(operation) = item.get(word) else { continue };
            let method = word.to_uppercase();
            let mut route = Route::parse(&format!("{method} {prefix}{path}"))?;
            let id = operation.get("operationId").and_then(Value::as_str);
            let id = id.ok_or_else(|| format!("`{method} {path}` has no operationId"))?;
            let named = ActionName::new(&format!("http:{id}"));
            route.action = Some(named.map_err(|error| format!("operationId {error}"))?);
            if let Some(other) = seen.insert(id.to_owned(), format!("{method} {path}")) {
                return Err(format!("operationId `{id}` names `{other}` and `{method} {path}`"));
            }
            routes.push(route);
        }
    }
    match routes.len() {
        0 => Err("it has no operation".into()),
        n if n > ROUTES_MAX => Err(format!("it has more than {ROUTES_MAX} operations")),
        _ => Ok(routes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(routes: &Routes, method: Method, path: &str, expect: Option<(&str, &[&str])>) {
        let segments: Vec<String> =
            path.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect();
        let found = routes.find(&method, &segments, path.ends_with('/'));
        let got = match &found {
            Found::Route { template, params, .. } => Some((
                template.to_string(),
                params.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>(),
            )),
            Found::Unknown | Found::Undescribed => None,
        };
        let expect = expect
            .map(|(t, p)| (t.to_owned(), p.iter().map(ToString::to_string).collect::<Vec<_>>()));
        assert_eq!(got, expect, "{method} {path}");
    }

    #[test]
    fn the_most_exact_route_is_taken() {
        let texts = ["GET /orders/{id}", "GET /orders/new", "POST /orders", "/files/**", "GET /"];
        let routes = Routes::new(texts.iter().map(|text| Route::parse(text).unwrap()).collect());
        check(&routes, Method::GET, "/orders/7", Some(("/orders/{id}", &["id=7"])));
        check(&routes, Method::HEAD, "/orders/7", Some(("/orders/{id}", &["id=7"])));
        check(&routes, Method::GET, "/orders/new", Some(("/orders/new", &[])));
        check(&routes, Method::DELETE, "/orders/7", None);
        check(&routes, Method::GET, "/orders", None);
        check(&routes, Method::GET, "/orders/7/", None);
        check(&routes, Method::POST, "/orders", Some(("/orders", &[])));
        check(&routes, Method::PUT, "/files/a/b", Some(("/files/**", &[])));
        check(&routes, Method::GET, "/", Some(("/", &[])));
        for bad in ["orders", "GET orders", "/a//b", "/{}", "/a{b}", "/**/a", "G@T /"] {
            assert!(Route::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_openapi_document_names_its_operations() {
        let document = r#"{"openapi":"3.0.3","paths":{
            "/orders/{id}":{"parameters":[],"get":{"operationId":"getOrder"},
                            "delete":{"operationId":"cancelOrder"}}}}"#;
        let routes = openapi(document, "/v1").unwrap();
        let names: Vec<_> = routes.iter().filter_map(|r| r.action.as_ref()).collect();
        assert_eq!(
            names.iter().map(|n| n.as_str()).collect::<Vec<_>>(),
            ["http:getOrder", "http:cancelOrder"]
        );
        check(
            &Routes::new(routes),
            Method::GET,
            "/v1/orders/7",
            Some(("/v1/orders/{id}", &["id=7"])),
        );
        for (bad, why) in [
            ("openapi: 3.0.0", "JSON"),
            ("{}", "openapi"),
            (r#"{"openapi":"3.0.0"}"#, "paths"),
            (r#"{"openapi":"3.0.0","paths":{}}"#, "no operation"),
            (r#"{"openapi":"3.0.0","paths":{"/a":{"get":{}}}}"#, "no operationId"),
            (r#"{"openapi":"3.0.0","paths":{"/a":{"get":{"operationId":"x y"}}}}"#, "character"),
            (
                r#"{"openapi":"3.0.0","paths":{"/a":{"get":{"operationId":"x"},"put":{"operationId":"x"}}}}"#,
                "names",
            ),
        ] {
            let error = openapi(bad, "").expect_err(bad);
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
