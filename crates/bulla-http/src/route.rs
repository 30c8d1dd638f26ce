//! Which operation of an API a request is. Pure.
//!
//! An API is described by an OpenAPI document, by a list of route templates, or not at all. Where
//! it is described, what is not in the description is refused.

use std::{collections::HashMap, sync::Arc};

use bulla_core::ActionName;
use http::Method;

/// A segment of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Exact(String),
    /// `{id}.json`, `{from}...{to}`: one segment that is names with text beside and between them.
    Mixed(Vec<Piece>),
    /// `{id}`: one segment.
    Named(Arc<str>),
    /// `**`, at the end: everything below.
    Rest,
}

/// What a segment holds; no two names are neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Name(Arc<str>),
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
            match part {
                "**" if at == last => parts.push(Part::Rest),
                "" if at == last => {}
                _ => parts.push(segment(part).map_err(|why| format!("`{text}`: {why}"))?),
            }
        }
        Ok(Self { method, template: template.into(), parts, action: None })
    }

    /// Whether a request is on it, whatever else might fit better.
    pub fn fits(&self, method: &Method, segments: &[String], case: Case) -> bool {
        let get = *method == Method::HEAD && self.method.as_ref() == Some(&Method::GET);
        let own = self.method.as_ref().is_none_or(|own| own == method);
        (own || get) && self.takes(segments, case) != Fit::No
    }

    /// Whether something below these segments may be on it.
    pub fn reaches(&self, below: &[&str]) -> bool {
        below.iter().enumerate().all(|(at, segment)| match self.parts.get(at) {
            Some(Part::Rest | Part::Named(_) | Part::Mixed(_)) => true,
            Some(Part::Exact(exact)) => exact == segment,
            None => self.parts.last() == Some(&Part::Rest),
        })
    }

    /// Its template without what its names are called: two operations may not have the same one.
    pub fn shape(&self) -> String {
        let mut shape = String::new();
        let mut named = false;
        for c in self.template.chars() {
            match c {
                '{' => named = true,
                '}' => named = false,
                _ if named => continue,
                _ => {}
            }
            shape.push(c);
        }
        shape
    }

    /// Whether a path that ends in `/` is meant, where it matters.
    fn ends_as(&self, slash: bool) -> bool {
        let own = self.template.ends_with('/') && self.template.len() > 1;
        self.parts.last() == Some(&Part::Rest) || own == slash
    }

    fn takes(&self, segments: &[String], case: Case) -> Fit {
        let mut params = Vec::new();
        let mut fit_in_many = false;
        let mut segments = segments.iter();
        for part in &self.parts {
            let segment = match (part, segments.next()) {
                (Part::Rest, _) => return Fit::of(params, fit_in_many),
                (_, None) => return Fit::No,
                (_, Some(segment)) => segment,
            };
            match part {
                Part::Exact(exact) if same(exact, segment, case) => {}
                Part::Exact(_) | Part::Rest => return Fit::No,
                Part::Named(name) => params.push((name.clone(), segment.clone())),
                Part::Mixed(pieces) => match mixed(pieces, segment, case) {
                    Fit::No => return Fit::No,
                    Fit::Many => fit_in_many = true,
                    Fit::One(own) => params.extend(own),
                },
            }
        }
        if segments.next().is_some() { Fit::No } else { Fit::of(params, fit_in_many) }
    }

    /// Whether it is at least as exact as another in every segment: whatever fits it fits the other
    /// one only because that says less.
    fn is_within(&self, other: &Self) -> bool {
        for (at, own) in self.parts.iter().enumerate() {
            let within = match (own, other.parts.get(at)) {
                (_, Some(Part::Rest)) => return true,
                (Part::Rest, _) | (_, None) => false,
                (Part::Exact(_), Some(_)) | (_, Some(Part::Named(_))) => true,
                (Part::Mixed(own), Some(Part::Mixed(other))) => alike(own, other),
                (Part::Named(_) | Part::Mixed(_), Some(_)) => false,
            };
            if !within {
                return false;
            }
        }
        true
    }
}

/// How a path fits a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fit {
    No,
    One(Params),
    /// Its names could stand for this or for that.
    Many,
}

impl Fit {
    fn of(params: Params, many: bool) -> Self {
        if many { Self::Many } else { Self::One(params) }
    }
}

fn same(own: &str, segment: &str, case: Case) -> bool {
    match case {
        Case::Exact => own == segment,
        Case::Any => own.to_lowercase() == segment.to_lowercase(),
    }
}

/// Reads a segment of a template. What no request can have is refused: a request's path is decoded
/// before it is compared, and holds none of it.
fn segment(part: &str) -> Result<Part, String> {
    let (mut pieces, mut rest) = (Vec::new(), part);
    while !rest.is_empty() {
        let Some(named) = rest.strip_prefix('{') else {
            let (text, more) = rest.split_at(rest.find('{').unwrap_or(rest.len()));
            pieces.push(Piece::Text(literal(text)?));
            rest = more;
            continue;
        };
        let (name, more) = named.split_once('}').ok_or("a `{` without its `}`")?;
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || "{*+:?#,;=".contains(c))
        {
            return Err(format!(
                "`{{{name}}}` is no name: one stands for one segment or part of it"
            ));
        }
        if matches!(pieces.last(), Some(Piece::Name(_))) {
            return Err(format!("nothing between `{{{name}}}` and the name before it"));
        }
        pieces.push(Piece::Name(name.into()));
        rest = more;
    }
    match &pieces[..] {
        [] => Err("an empty segment".into()),
        [Piece::Name(name)] => Ok(Part::Named(name.clone())),
        [Piece::Text(text)] => match &text[..] {
            "." | ".." => Err(format!("`{text}` is no segment")),
            _ => Ok(Part::Exact(text.clone())),
        },
        _ => Ok(Part::Mixed(pieces)),
    }
}

fn literal(text: &str) -> Result<String, String> {
    match text.chars().find(|c| c.is_control() || "}*%?#\\;".contains(*c)) {
        None => Ok(text.to_owned()),
        Some('%') => Err("`%`: write the character that is meant".into()),
        Some('?' | '#') => Err("a path has no query and no fragment: take that out".into()),
        Some(c) => Err(format!("`{}` in a segment", c.escape_debug())),
    }
}

/// Whether two segments are the same but for what their names are called.
fn alike(one: &[Piece], other: &[Piece]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|pair| match pair {
            (Piece::Text(one), Piece::Text(other)) => one == other,
            (Piece::Name(_), Piece::Name(_)) => true,
            _ => false,
        })
}

/// How a segment fits names with texts beside and between them; a name stands for one character or
/// more. Each text is looked for as early and as late as it can stand: where these are one place,
/// there is one way to read it.
fn mixed(pieces: &[Piece], segment: &str, case: Case) -> Fit {
    let fold = |text: &str| match case {
        Case::Exact => text.to_owned(),
        Case::Any => text.to_lowercase(),
    };
    let whole = fold(segment);
    let (mut rest, mut names, mut texts) = (&whole[..], Vec::new(), Vec::new());
    for (at, piece) in pieces.iter().enumerate() {
        let text = match piece {
            Piece::Name(name) => {
                names.push(name);
                continue;
            }
            Piece::Text(text) => fold(text),
        };
        let end = match (at, at + 1 == pieces.len()) {
            (0, _) => rest.strip_prefix(&text[..]),
            (_, true) => rest.strip_suffix(&text[..]),
            _ => {
                texts.push(text);
                continue;
            }
        };
        let Some(end) = end else { return Fit::No };
        rest = end;
    }
    let Some(early) = early(&texts, rest) else { return Fit::No };
    if late(&texts, rest).as_ref() != Some(&early) {
        return Fit::Many;
    }
    let mut params = Params::new();
    let mut from = 0;
    for (at, name) in names.into_iter().enumerate() {
        let to = early.get(at).copied().unwrap_or(rest.len());
        let value = rest.get(from..to).unwrap_or_default();
        params.push((name.clone(), value.to_owned()));
        from = to + texts.get(at).map_or(0, String::len);
    }
    Fit::One(params)
}

/// Where each text begins if it stands as early as it can, with at least a character before each
/// and behind the last.
fn early(texts: &[String], rest: &str) -> Option<Vec<usize>> {
    let (mut places, mut from) = (Vec::new(), 0);
    for text in texts {
        let behind = from + rest.get(from..)?.chars().next()?.len_utf8();
        let at = behind + rest.get(behind..)?.find(&text[..])?;
        places.push(at);
        from = at + text.len();
    }
    (from < rest.len()).then_some(places)
}

/// As [`early`], as late as it can.
fn late(texts: &[String], rest: &str) -> Option<Vec<usize>> {
    let (mut places, mut to) = (Vec::new(), rest.len());
    for text in texts.iter().rev() {
        let before = to - rest.get(..to)?.chars().next_back()?.len_utf8();
        let at = rest.get(..before)?.rfind(&text[..])?;
        places.push(at);
        to = at;
    }
    places.reverse();
    (to > 0).then_some(places)
}

/// All operations of an API.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    routes: Vec<Route>,
    /// Where their segments lead; the first is where each begins.
    steps: Vec<Step>,
}

/// What routes go on with behind the same segments.
#[derive(Debug, Clone, Default)]
struct Step {
    exact: HashMap<String, usize>,
    /// Behind whatever a name stands for.
    named: Option<usize>,
    /// Routes that end here, and those that take all below.
    ends: Vec<usize>,
    rests: Vec<usize>,
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
    /// It is described, and in more than one way: the target may take another than we.
    Doubt(&'static str),
    /// The API is not described.
    Undescribed,
}

pub type Params = Vec<(Arc<str>, String)>;

impl Routes {
    pub fn new(routes: Vec<Route>) -> Self {
        let mut steps = vec![Step::default()];
        for (which, route) in routes.iter().enumerate() {
            let mut at = 0;
            for part in &route.parts {
                let new = steps.len();
                let Some(step) = steps.get_mut(at) else { break };
                at = match part {
                    Part::Exact(exact) => *step.exact.entry(exact.clone()).or_insert(new),
                    Part::Mixed(_) | Part::Named(_) => *step.named.get_or_insert(new),
                    Part::Rest => break,
                };
                if at == new {
                    steps.push(Step::default());
                }
            }
            let Some(step) = steps.get_mut(at) else { continue };
            let rest = route.parts.last() == Some(&Part::Rest);
            if rest { step.rests.push(which) } else { step.ends.push(which) }
        }
        Self { routes, steps }
    }

    /// The routes that these segments may be on, in their order.
    fn led_to(&self, segments: &[String]) -> Vec<&Route> {
        let mut found: Vec<usize> = Vec::new();
        let mut at: Vec<&Step> = self.steps.first().into_iter().collect();
        for segment in segments {
            found.extend(at.iter().flat_map(|step| &step.rests));
            let next = |step: &&Step| [step.exact.get(segment).copied(), step.named];
            let next = at.iter().flat_map(next).flatten();
            at = next.filter_map(|next| self.steps.get(next)).collect();
        }
        found.extend(at.iter().flat_map(|step| step.rests.iter().chain(&step.ends)));
        found.sort_unstable();
        found.into_iter().filter_map(|which| self.routes.get(which)).collect()
    }
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
    pub fn actions(&self) -> impl Iterator<Item = (&ActionName, Option<&Method>, &Arc<str>)> {
        let named = |route: &'_ Route| route.action.is_some();
        let all = self.routes.iter().filter(move |route| named(route));
        all.filter_map(|route| {
            Some((route.action.as_ref()?, route.method.as_ref(), &route.template))
        })
    }
    pub fn templates(&self) -> impl Iterator<Item = &Arc<str>> {
        self.routes.iter().map(|route| &route.template)
    }
    /// Whether any of them may be below a path.
    pub fn reach(&self, path: &str) -> bool {
        let below: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        self.routes.iter().any(|route| route.reaches(&below))
    }

    /// The most exact operation that a request fits. Where two fit of which neither is the more
    /// exact one (`/{a}/x` and `/b/{c}` with `/b/x`), servers choose by rules of their own.
    pub fn find(&self, method: &Method, segments: &[String], slash: bool) -> Found<'_> {
        if self.routes.is_empty() {
            return Found::Undescribed;
        }
        // A described HEAD comes before the GET that it is otherwise.
        let as_get = *method == Method::HEAD;
        let led_to = self.led_to(segments);
        for wanted in [Some(method), as_get.then_some(&Method::GET)].into_iter().flatten() {
            let fits = |route: &&&Route| {
                route.method.as_ref().is_none_or(|own| own == wanted)
                    && route.ends_as(slash && !segments.is_empty())
                    && route.takes(segments, Case::Exact) != Fit::No
            };
            let fitting: Vec<&Route> = led_to.iter().filter(fits).copied().collect();
            if !fitting.is_empty() {
                return chosen(&fitting, segments);
            }
        }
        Found::Unknown
    }
}

/// The one of these that is within all others; of two that are the same, what names a method.
fn chosen<'a>(fitting: &[&'a Route], segments: &[String]) -> Found<'a> {
    let within_all = |route: &&&Route| fitting.iter().all(|other| route.is_within(other));
    let Some(route) =
        fitting.iter().filter(within_all).min_by_key(|route| usize::from(route.method.is_none()))
    else {
        return Found::Doubt("two operations of the API's description fit this address");
    };
    match route.takes(segments, Case::Exact) {
        Fit::One(params) => {
            Found::Route { template: &route.template, action: route.action.as_ref(), params }
        }
        _ => Found::Doubt("the address fits its template in more than one way"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn routes(texts: &[&str]) -> Routes {
        Routes::new(texts.iter().map(|text| Route::parse(text).unwrap()).collect())
    }

    /// What a request is: `TEMPLATE name=value …`, or why it is none.
    fn found(routes: &Routes, method: &Method, path: &str) -> String {
        let segments: Vec<String> =
            path.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect();
        match routes.find(method, &segments, path.ends_with('/')) {
            Found::Route { template, params, .. } => {
                let params = params.iter().map(|(name, value)| format!(" {name}={value}"));
                format!("{template}{}", params.collect::<String>())
            }
            Found::Unknown => "unknown".to_owned(),
            Found::Doubt(why) => why.to_owned(),
            Found::Undescribed => "undescribed".to_owned(),
        }
    }

    const TWO: &str = "two operations of the API's description fit this address";
    const MANY: &str = "the address fits its template in more than one way";

    #[test]
    fn the_most_exact_route_is_taken() {
        let orders = routes(&[
            "GET /orders/{id}",
            "GET /orders/new",
            "POST /orders",
            "/files/**",
            "/files/secret/**",
            "/files/secret/{name}/**",
            "PUT /files/{name}",
            "GET /",
        ]);
        let (get, put) = (Method::GET, Method::PUT);
        for (method, path, expect) in [
            (&get, "/orders/7", "/orders/{id} id=7"),
            (&Method::HEAD, "/orders/7", "/orders/{id} id=7"),
            (&get, "/orders/new", "/orders/new"),
            (&Method::DELETE, "/orders/7", "unknown"),
            (&get, "/orders", "unknown"),
            (&get, "/orders/7/", "unknown"),
            (&Method::POST, "/orders", "/orders"),
            (&put, "/files/a/b", "/files/**"),
            (&put, "/files/a", "/files/{name} name=a"),
            (&get, "/files/a", "/files/**"),
            (&get, "/files", "/files/**"),
            (&get, "/files/secret/a", "/files/secret/{name}/** name=a"),
            (&get, "/files/secret", "/files/secret/**"),
            // Neither of `/files/secret/**` and `/files/{name}` says more than the other.
            (&put, "/files/secret", TWO),
            (&get, "/", "/"),
        ] {
            assert_eq!(found(&orders, method, path), expect, "{method} {path}");
        }
    }

    #[test]
    fn where_servers_could_take_another_nothing_is_taken() {
        for (texts, path, expect) in [
            (&["/{a}/x", "/b/{c}"][..], "/b/x", TWO),
            (&["/{a}/x", "/b/{c}"], "/b/y", "/b/{c} c=y"),
            (&["/{a}/x", "/b/{c}"], "/c/x", "/{a}/x a=c"),
            (&["/{a}/x", "/b/{c}", "/b/x"], "/b/x", "/b/x"),
            (&["/{a}/{b}", "/{a}/x", "/y/{b}"], "/z/z", "/{a}/{b} a=z b=z"),
            (&["/b/**", "/{a}/x"], "/b/x", TWO),
            (&["/{id}.json", "/{id}"], "/7.json", "/{id}.json id=7"),
            (&["/{id}.json", "/{id}"], "/7.xml", "/{id} id=7.xml"),
            (&["/{id}.json", "/all.json", "/{id}"], "/all.json", "/all.json"),
            (&["/{id}.json", "/{name}.{form}"], "/7.json", TWO),
            (&["/{id}.json", "/{name}.{form}"], "/7.xml", "/{name}.{form} name=7 form=xml"),
            (&["/a/{x}", "GET /a/{y}"], "/a/1", "/a/{y} y=1"),
        ] {
            assert_eq!(found(&routes(texts), &Method::GET, path), expect, "{texts:?} {path}");
        }
    }

    #[test]
    fn a_segment_may_hold_several_names() {
        for (template, path, expect) in [
            ("/a/{x}.{y}", "/a/b.c", "/a/{x}.{y} x=b y=c"),
            ("/a/{x}.{y}", "/a/b.c.d", MANY),
            ("/a/{x}.{y}", "/a/.c", "unknown"),
            ("/a/{x}.{y}", "/a/c.", "unknown"),
            ("/a/{x}.{y}", "/a/..c", "/a/{x}.{y} x=. y=c"),
            ("/a/{x}.{y}", "/a/b", "unknown"),
            ("/a/{x}...{y}", "/a/main...dev", "/a/{x}...{y} x=main y=dev"),
            ("/a/{x}...{y}", "/a/main....dev", MANY),
            ("/a/{x}.json", "/a/b.c.json", "/a/{x}.json x=b.c"),
            ("/a/{x}.json", "/a/.json", "unknown"),
            ("/a/{x}.json", "/a/b.JSON", "unknown"),
            ("/a/v{x}", "/a/v1", "/a/v{x} x=1"),
            ("/a/v{x}", "/a/v", "unknown"),
            ("/a/{x}:stop", "/a/7:stop", "/a/{x}:stop x=7"),
            ("/a/r({x},{y})", "/a/r(1,2)", "/a/r({x},{y}) x=1 y=2"),
            ("/a/r({x},{y})", "/a/r(1,2,3)", MANY),
            ("/a/{x}-{y}-{z}", "/a/1-2-3", "/a/{x}-{y}-{z} x=1 y=2 z=3"),
            ("/a/{x}-{y}-{z}", "/a/1-2-3-4", MANY),
            ("/a/{x}ä{y}", "/a/öäü", "/a/{x}ä{y} x=ö y=ü"),
            ("/a/{x}aa{y}", "/a/1aaa2", MANY),
        ] {
            assert_eq!(
                found(&routes(&[template]), &Method::GET, path),
                expect,
                "{template} {path}"
            );
        }
        let named = Route::parse("/a/{x}.JSON").unwrap();
        let segments = ["A".to_owned(), "b.json".to_owned()];
        assert!(named.fits(&Method::GET, &segments, Case::Any));
        assert!(!named.fits(&Method::GET, &segments, Case::Exact));
    }

    #[test]
    fn what_no_request_can_fit_is_no_template() {
        for (bad, why) in [
            ("orders", "does not begin"),
            ("GET orders", "does not begin"),
            ("/a//b", "an empty segment"),
            ("/{}", "is no name"),
            ("/a{b", "without its `}`"),
            ("/a}", "`}` in a segment"),
            ("/**/a", "`*` in a segment"),
            ("/a*", "`*` in a segment"),
            ("G@T /", "no method"),
            ("/{a}{b}", "nothing between"),
            ("/{path*}", "is no name"),
            ("/{+path}", "is no name"),
            ("/{id:[0-9]+}", "is no name"),
            ("/a?b=c", "no query"),
            ("/a#b", "no query"),
            ("/a%20b", "write the character"),
            ("/a/../b", "`..` is no segment"),
            ("/a;b", "`;` in a segment"),
            ("/a\\b", "in a segment"),
        ] {
            let error = Route::parse(bad).expect_err(bad);
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn a_route_tells_what_it_may_be_below() {
        for (template, path, expect) in [
            ("/v1/a", "/v1", true),
            ("/v1/a", "/v2", false),
            ("/v1", "/v1/a", false),
            ("/{version}/a", "/v1", true),
            ("/**", "/v1", true),
            ("/v2/**", "/v1", false),
        ] {
            assert_eq!(routes(&[template]).reach(path), expect, "{template} {path}");
        }
    }

    const TEMPLATE: &str = "(/(a|b|\\{x\\}|\\{x\\}b|a\\{x\\})){0,3}/(\\*\\*|a|\\{x\\})?";

    proptest! {
        /// The steps lead to every route that takes a path.
        #[test]
        fn no_route_is_missed(
            templates in prop::collection::vec(TEMPLATE, 1..8),
            segments in prop::collection::vec("[abc]{1,2}", 0..5),
        ) {
            let all: Vec<&str> = templates.iter().map(String::as_str).collect();
            let all = routes(&all);
            let takes = |route: &&Route| route.takes(&segments, Case::Exact) != Fit::No;
            let told = |routes: Vec<&Route>| -> Vec<String> {
                routes.iter().map(|route| route.template.to_string()).collect()
            };
            let led_to = all.led_to(&segments).into_iter().filter(takes).collect();
            prop_assert_eq!(told(led_to), told(all.routes.iter().filter(takes).collect()));
        }
    }
}
