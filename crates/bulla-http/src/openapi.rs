//! The operations of an OpenAPI document: 3.0 to 3.2, or 2.0 (Swagger). Pure.
//!
//! A document describes everything about an API; read here is what is called and how: paths, methods,
//! operation ids, and the path that `servers` or `basePath` puts before them. What is not understood
//! there is refused, never skipped: an operation that is missing here would be refused to every
//! client, and one that is misplaced would be judged for another.
//!
//! Not looked at: schemas and parameters (no request is checked against them), hosts and security
//! schemes (the gateway has its own), `webhooks` and `callbacks` (requests that others receive).

use std::collections::{BTreeMap, BTreeSet};

use bulla_core::{ActionName, NAME_BYTES_MAX};

use crate::{
    api::is_reserved,
    document::{self, Node, Table},
    route::Route,
};

/// Most routes of one API.
const ROUTES_MAX: usize = 10_000;
/// Most references that lead to one path item.
const REFS_MAX: usize = 8;
/// Most ways to fill in the variables of one server's address.
const ADDRESSES_MAX: usize = 1_000;

const METHODS: [&str; 7] = ["get", "head", "post", "put", "patch", "delete", "options"];
/// The member of an operation that names its action, instead of `operationId`.
const ACTION: &str = "x-bulla-action";
/// How such members begin.
const OURS: &str = "x-bulla-";
/// Operations that no gateway passes on, or that say less than one method of HTTP.
const OTHERS: [&str; 4] = ["trace", "connect", "query", "additionaloperations"];

/// What to do with a document of several files.
const BUNDLE: &str = "which is not in this document: bundle its files into one (`redocly bundle`)";
const SET_BASE: &str = "set `openapi_base` to the path that comes before those of the document";

/// The operations of a document. `base`: the path before each of its paths, instead of what the
/// document says of it.
///
/// # Errors
/// Each says where in the document, and what to do.
pub fn openapi(text: &str, base: Option<&str>) -> Result<Vec<Route>, String> {
    let document = document::read(text)?;
    let root = document.table().ok_or("it is no object with `openapi` or `swagger`")?;
    ours(root, None)?;
    let edition = edition(root)?;
    let bases = match base {
        Some(base) => {
            BTreeSet::from([checked(base).map_err(|why| format!("`openapi_base`: {why}"))?])
        }
        None => bases(edition, root)?,
    };
    let paths = root.get("paths").filter(|paths| !paths.is_nothing()).ok_or("it has no `paths`")?;
    let paths = paths.table().ok_or_else(|| paths.wrong("`paths` is no object"))?;
    ours(paths, None)?;
    let mut reader = Reader {
        document: &document,
        edition,
        fixed: base.is_some(),
        routes: Vec::new(),
        actions: BTreeMap::new(),
        shapes: BTreeMap::new(),
    };
    for (path, item) in paths.iter().filter(|(path, _)| !path.starts_with("x-")) {
        reader.path(path, item, &bases)?;
    }
    if reader.routes.is_empty() {
        return Err("it has no operation".into());
    }
    Ok(reader.routes)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edition {
    Swagger2,
    OpenApi3,
}

fn edition(root: &Table) -> Result<Edition, String> {
    match (root.get("openapi"), root.get("swagger")) {
        (Some(version), None) => {
            let minor = version.text().and_then(|text| text.strip_prefix("3."));
            let minor = minor.map(|rest| rest.split('.').next().unwrap_or_default());
            match minor {
                Some("0" | "1" | "2") => Ok(Edition::OpenApi3),
                _ => Err(version.wrong("`openapi` is not \"3.0\", \"3.1\" or \"3.2\" (in quotes)")),
            }
        }
        (None, Some(version)) => match version.text() {
            Some("2.0") => Ok(Edition::Swagger2),
            _ => {
                Err(version.wrong("`swagger` is not \"2.0\" (in quotes); convert it to OpenAPI 3"))
            }
        },
        (Some(_), Some(two)) => Err(two.wrong("it has both `openapi` and `swagger`; keep one")),
        (None, None) => Err("it has neither `openapi` nor `swagger`".into()),
    }
}

/// The paths that the document says come before its own.
fn bases(edition: Edition, root: &Table) -> Result<BTreeSet<String>, String> {
    let none = || BTreeSet::from([String::new()]);
    match (edition, root.get("basePath"), root.get("servers")) {
        (Edition::Swagger2, _, Some(servers)) => {
            Err(servers.wrong("`servers` is no part of Swagger 2.0, which has `basePath`"))
        }
        (Edition::OpenApi3, Some(base), _) => {
            Err(base.wrong("`basePath` is no part of OpenAPI 3: say it in the `url` of `servers`"))
        }
        (Edition::Swagger2, None, None) => Ok(none()),
        (Edition::Swagger2, Some(base), None) => {
            let text = base.text().ok_or_else(|| base.wrong("`basePath` is no text"))?;
            let checked = checked(text).map_err(|why| base.wrong(format!("`basePath`: {why}")))?;
            Ok(BTreeSet::from([checked]))
        }
        (Edition::OpenApi3, None, None) => Ok(none()),
        (Edition::OpenApi3, None, Some(list)) => match list.list() {
            _ if list.is_nothing() => Ok(none()),
            Some([]) => Ok(none()),
            _ => servers(list),
        },
    }
}

/// A path that comes before others: it begins with `/`, if it is not empty.
fn checked(base: &str) -> Result<String, String> {
    let base = base.trim_end_matches('/');
    if !base.is_empty() && !base.starts_with('/') {
        return Err(format!("`{base}` does not begin with `/`"));
    }
    if base.contains(['{', '}', '*', '?', '#']) {
        return Err(format!("`{base}` is no plain path"));
    }
    Ok(base.to_owned())
}

fn servers(list: &Node) -> Result<BTreeSet<String>, String> {
    let servers = list.list().filter(|servers| !servers.is_empty());
    let servers = servers.ok_or_else(|| list.wrong("`servers` is no list of servers"))?;
    let mut bases = BTreeSet::new();
    for server in servers {
        let table = server.table().ok_or_else(|| server.wrong("a server is no object"))?;
        let url = table.get("url").and_then(Node::text);
        let url = url.ok_or_else(|| server.wrong("a server has no `url`"))?;
        for address in addresses(url, table).map_err(|why| server.wrong(why))? {
            let base = path_of(&address).and_then(checked);
            let words = |why| server.wrong(format!("the server `{url}`: {why}; {SET_BASE}"));
            bases.insert(base.map_err(words)?);
        }
    }
    Ok(bases)
}

/// A server's address with its variables filled in: each with its default and all that it may be.
fn addresses(url: &str, server: &Table) -> Result<BTreeSet<String>, String> {
    let variables = server.get("variables").and_then(Node::table);
    let mut addresses = BTreeSet::from([url.to_owned()]);
    for named in url.split('{').skip(1) {
        let name = named.split('}').next().unwrap_or_default();
        let variable = variables.and_then(|all| all.get(name)).and_then(Node::table);
        let default = variable.and_then(|own| own.get("default")).and_then(Node::text);
        let default = default.ok_or_else(|| {
            format!("the server `{url}` leaves open what `{{{name}}}` is; {SET_BASE}")
        })?;
        let listed = variable.and_then(|own| own.get("enum")).and_then(Node::list);
        let listed = listed.unwrap_or_default().iter().filter_map(Node::text);
        let values: BTreeSet<&str> = listed.chain([default]).collect();
        if values.len() * addresses.len() > ADDRESSES_MAX {
            return Err(format!("the server `{url}` can be too many addresses; {SET_BASE}"));
        }
        let filled = |value: &&str| {
            let each = addresses.iter().map(|own| own.replace(&format!("{{{name}}}"), value));
            each.collect::<Vec<_>>()
        };
        addresses = values.iter().flat_map(filled).collect();
    }
    Ok(addresses)
}

/// The path of a server's address.
fn path_of(address: &str) -> Result<&str, String> {
    let behind = match address.split_once("//") {
        Some(("", rest)) => Some(rest),
        Some((scheme, rest)) if scheme.ends_with(':') && !scheme.contains('/') => Some(rest),
        _ => None,
    };
    match behind {
        Some(rest) => Ok(rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default()),
        None if address.starts_with('/') => Ok(address),
        None => Err("it is relative to where the document is".into()),
    }
}

/// The operations read so far.
struct Reader<'a> {
    document: &'a Node,
    edition: Edition,
    /// The configuration says what comes before the paths.
    fixed: bool,
    routes: Vec<Route>,
    /// Which operation is an action, and what it calls itself; and which has a path.
    actions: BTreeMap<String, (String, String)>,
    shapes: BTreeMap<String, String>,
}

impl<'a> Reader<'a> {
    fn path(&mut self, path: &str, node: &'a Node, bases: &BTreeSet<String>) -> Result<(), String> {
        if !path.starts_with('/') {
            return Err(node.wrong(format!("the path `{path}` does not begin with `/`")));
        }
        if path.contains('*') {
            let words =
                "OpenAPI knows no `*`; with `routes` instead of a document there is `/a/**`";
            return Err(node.wrong(format!("the path `{path}`: {words}")));
        }
        let item = self.item(path, node)?;
        for (key, value) in item {
            let word = key.to_ascii_lowercase();
            if OTHERS.contains(&&word[..]) {
                let words = format!("`{path}` has `{key}`, which is not passed on: take it out");
                return Err(value.wrong(words));
            }
            if METHODS.contains(&&word[..]) && word != **key {
                let words = format!("`{path}` has `{key}`: OpenAPI writes it `{word}`");
                return Err(value.wrong(words));
            }
        }
        let own = self.overridden(item, bases)?;
        for word in METHODS {
            if let Some(operation) = item.get(word) {
                self.operation(&format!("{} {path}", word.to_uppercase()), operation, &own)?;
            }
        }
        Ok(())
    }

    /// A path item, or the one that it refers to.
    fn item(&self, path: &str, mut node: &'a Node) -> Result<&'a Table, String> {
        for _ in 0..=REFS_MAX {
            let item = node.table().ok_or_else(|| node.wrong(format!("`{path}` is no object")))?;
            ours(item, None)?;
            let Some(to) = item.get("$ref") else { return Ok(item) };
            let is_own =
                |key: &str| METHODS.contains(&key) || OTHERS.contains(&key) || key == "servers";
            if item.keys().any(|key| is_own(&key.to_ascii_lowercase())) {
                let words = "has a `$ref` beside operations or servers of its own; keep one";
                return Err(node.wrong(format!("`{path}` {words}")));
            }
            let text = to.text().ok_or_else(|| to.wrong("a `$ref` is no text"))?;
            let Some(pointer) = text.strip_prefix('#') else {
                return Err(to.wrong(format!("`{path}` refers to `{text}`, {BUNDLE}")));
            };
            let found = pointed(self.document, pointer);
            node = found.ok_or_else(|| {
                to.wrong(format!("`{path}` refers to `{text}`, which is not there"))
            })?;
        }
        Err(node.wrong(format!("`{path}` refers to what refers to more than {REFS_MAX} others")))
    }

    /// What comes before a path where its item or its operation has servers of its own.
    fn overridden(
        &self,
        own: &Table,
        bases: &BTreeSet<String>,
    ) -> Result<BTreeSet<String>, String> {
        match own.get("servers") {
            Some(list) if self.edition == Edition::Swagger2 => {
                Err(list.wrong("`servers` is no part of Swagger 2.0"))
            }
            Some(list) if !self.fixed => servers(list),
            _ => Ok(bases.clone()),
        }
    }

    /// `name`: `GET /orders/{id}`.
    fn operation(
        &mut self,
        name: &str,
        node: &Node,
        bases: &BTreeSet<String>,
    ) -> Result<(), String> {
        let operation = node.table();
        let operation = operation.ok_or_else(|| node.wrong(format!("`{name}` is no operation")))?;
        if let Some(to) = operation.get("$ref") {
            let text = to.text().unwrap_or_default();
            let why =
                if text.starts_with('#') { "which OpenAPI does not know: copy it" } else { BUNDLE };
            return Err(to.wrong(format!("`{name}` refers to `{text}`, {why}")));
        }
        ours(operation, Some(ACTION))?;
        let action = self.action(name, operation)?;
        let (method, path) = name.split_once(' ').unwrap_or_default();
        for base in self.overridden(operation, bases)? {
            let route = Route::parse(&format!("{method} {base}{path}"));
            let mut route = route.map_err(|why| node.wrong(why))?;
            let shape = format!("{method} {}", route.shape());
            if let Some(other) = self.shapes.insert(shape, name.to_owned()) {
                return Err(node.wrong(format!("`{other}` and `{name}` are one path; keep one")));
            }
            route.action = action.clone();
            self.routes.push(route);
            if self.routes.len() > ROUTES_MAX {
                return Err(format!("it has more than {ROUTES_MAX} operations"));
            }
        }
        Ok(())
    }

    /// The action of an operation, if it has one of its own.
    fn action(&mut self, name: &str, operation: &Table) -> Result<Option<ActionName>, String> {
        let given = operation.get(ACTION).map(|node| (ACTION, node));
        let id = operation.get("operationId").map(|node| ("operationId", node));
        let Some((key, node)) = given.or(id) else { return Ok(None) };
        let text = node.text().filter(|text| !text.is_empty()).ok_or_else(|| {
            node.wrong(format!("the {key} of `{name}` is no text; name it or take it out"))
        })?;
        let shown = text.escape_debug();
        let verb = if key == ACTION { text.to_owned() } else { plain(text) };
        let problem = match &*verb {
            own if is_reserved(own) => Some("is an action of the gateway itself"),
            own if own.len() > NAME_BYTES_MAX - "http:".len() => Some("is too long"),
            own if own != plain(own) => Some("holds more than letters, digits and `_-.:/`"),
            own if !own.contains(|c: char| c.is_ascii_alphanumeric()) => {
                Some("has no letter or digit (of ASCII) to name an action by")
            }
            _ => None,
        };
        if let Some(problem) = problem {
            let words = format!("the {key} `{shown}` of `{name}` {problem}");
            return Err(node.wrong(format!("{words}: name the action with `{ACTION}`")));
        }
        let action = ActionName::new(&format!("http:{verb}"));
        let action = action.map_err(|error| node.wrong(error))?;
        let own = (name.to_owned(), format!("{key} `{shown}`"));
        if let Some((other, called)) = self.actions.insert(verb.clone(), own) {
            let words = if called == format!("{key} `{shown}`") {
                format!("{called} names `{other}` and `{name}`")
            } else {
                format!(
                    "`{name}` ({key} `{shown}`) would be the action `http:{verb}`, as `{other}` \
                     ({called}) is"
                )
            };
            return Err(node.wrong(format!("{words}: name one of them with `{ACTION}`")));
        }
        Ok(Some(action))
    }
}

/// Members that are meant for this gateway are known, and stand where they mean something.
fn ours(table: &Table, known: Option<&str>) -> Result<(), String> {
    let own = |key: &str| key.to_ascii_lowercase().starts_with(OURS) && Some(key) != known;
    match table.iter().find(|(key, _)| own(key)) {
        None => Ok(()),
        Some((key, node)) => Err(node.wrong(format!(
            "`{key}` means nothing here: what this gateway knows is `{ACTION}` in an operation"
        ))),
    }
}

/// An operation's id as an action's name may be: what a name cannot hold, however much of it in a
/// row, is `_`, and nothing at either end.
fn plain(id: &str) -> String {
    let good = |c: char| c.is_ascii_alphanumeric() || "_-.:/".contains(c);
    let parts = id.split(|c| !good(c)).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("_")
}

/// Where a JSON pointer (RFC 6901) in a URI's fragment leads.
fn pointed<'a>(document: &'a Node, pointer: &str) -> Option<&'a Node> {
    let pointer = unescaped(pointer)?;
    let Some(steps) = pointer.strip_prefix('/') else {
        return pointer.is_empty().then_some(document);
    };
    let step = |node: &'a Node, step: &str| {
        node.table()?.get(&*step.replace("~1", "/").replace("~0", "~"))
    };
    steps.split('/').try_fold(document, step)
}

/// Without the escapes of a URI.
fn unescaped(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut out = parts.next()?.as_bytes().to_vec();
    for part in parts {
        out.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        out.extend_from_slice(part.get(2..)?.as_bytes());
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests;
