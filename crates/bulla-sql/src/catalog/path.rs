//! Where names are looked for, and what they are found to be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Catalog, Relation};

/// Where unqualified names are looked for, and which temporary relations stand in front.
///
/// Part of the cache's key: two paths that are equal give the same facts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SearchPath {
    schemas: Option<Vec<String>>,
    temp: Option<BTreeMap<String, Temporary>>,
    /// Tables by schema and name that the text at hand made before this place of it.
    made: BTreeSet<(Arc<str>, Arc<str>)>,
}

/// A temporary relation of the session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Temporary {
    /// It holds rows of its own.
    Own,
    /// It shows rows of these relations (by OID); of its own temporary tables nothing is said.
    View(Vec<u32>),
}

impl SearchPath {
    /// An exact path, `$user` already replaced; no temporary relations exist in the session.
    #[must_use]
    pub fn new<S: Into<String>>(schemas: impl IntoIterator<Item = S>) -> Self {
        Self {
            schemas: Some(schemas.into_iter().map(Into::into).collect()),
            temp: Some(BTreeMap::new()),
            made: BTreeSet::new(),
        }
    }

    /// Nothing is known: every unqualified name is unresolved.
    #[must_use]
    pub fn unknown() -> Self {
        Self { schemas: None, temp: None, made: BTreeSet::new() }
    }

    /// Reads a value of the `search_path` setting (`"$user", public`) as the server does: items
    /// divided by commas, unquoted ones folded, `$user` replaced. A value that the server would not
    /// accept gives an unknown path.
    #[must_use]
    pub fn parse(value: &str, user: &str) -> Self {
        let schemas = split_identifiers(value).map(|items| {
            items.into_iter().map(|i| if i == "$user" { user.to_owned() } else { i }).collect()
        });
        Self { schemas, temp: Some(BTreeMap::new()), made: BTreeSet::new() }
    }

    /// The same path with these temporary tables in front.
    #[must_use]
    pub fn with_temp<S: Into<String>>(self, names: impl IntoIterator<Item = S>) -> Self {
        self.with_temporary(names.into_iter().map(|name| (name.into(), Temporary::Own)).collect())
    }

    /// The same path with these temporary relations in front.
    #[must_use]
    pub fn with_temporary(mut self, names: BTreeMap<String, Temporary>) -> Self {
        self.temp = Some(names);
        self
    }

    /// The same path behind statements that made these tables, by schema and name: they are found
    /// whatever the snapshot says.
    #[must_use]
    pub fn with_made(mut self, made: BTreeSet<(Arc<str>, Arc<str>)>) -> Self {
        self.made = made;
        self
    }

    /// The same path in a session that may hold temporary relations nobody followed (it ran a `DO`
    /// or an unreviewed function): every unqualified relation name is unresolved.
    #[must_use]
    pub fn with_temp_unknown(mut self) -> Self {
        self.temp = None;
        self
    }

    /// The schemas, or `None` when unknown.
    #[must_use]
    pub fn schemas(&self) -> Option<&[String]> {
        self.schemas.as_deref()
    }

    /// The temporary relations by name, or `None` when unknown.
    #[must_use]
    pub fn temp(&self) -> Option<&BTreeMap<String, Temporary>> {
        self.temp.as_ref()
    }

    /// The schemas in the order of the search, `pg_catalog` first unless it is listed.
    pub(crate) fn order(&self) -> Option<impl Iterator<Item = &str>> {
        let listed = self.schemas.as_ref()?;
        let implicit = !listed.iter().any(|s| s == "pg_catalog");
        Some(
            implicit
                .then_some("pg_catalog")
                .into_iter()
                .chain(listed.iter().map(String::as_str).filter(|s| *s != "pg_temp")),
        )
    }
}

/// What a relation name resolved to.
#[derive(Debug, Clone)]
pub enum Found<'a> {
    Relation(&'a Relation),
    Temp,
    /// The text itself made it before, in this schema.
    Made(Arc<str>),
    Nothing,
}

impl Catalog {
    /// Finds a relation as the server would: a schema if one is given, else temporary relations,
    /// then the path.
    #[must_use]
    pub fn find_relation<'a>(
        &'a self,
        path: &SearchPath,
        schema: Option<&str>,
        name: &str,
    ) -> Found<'a> {
        if let Some(schema) = schema {
            // `pg_temp_3` may be another session's.
            if schema == "pg_temp" {
                return if path.temp().is_some() { Found::Temp } else { Found::Nothing };
            }
            return self.in_schema(path, schema, name).unwrap_or(Found::Nothing);
        }
        let (Some(temp), Some(order)) = (path.temp(), path.order()) else { return Found::Nothing };
        let listed_temp = path.schemas().is_some_and(|s| s.iter().any(|s| s == "pg_temp"));
        if temp.contains_key(name) {
            // `pg_temp` may be listed behind other schemas; then its place decides.
            if !listed_temp {
                return Found::Temp;
            }
            for schema in self.path_with_temp(path) {
                if schema == "pg_temp" {
                    return Found::Temp;
                }
                if let Some(found) = self.visible(path, schema, name) {
                    return found;
                }
            }
        }
        for schema in order {
            if let Some(found) = self.visible(path, schema, name) {
                return found;
            }
        }
        Found::Nothing
    }

    fn path_with_temp<'p>(&self, path: &'p SearchPath) -> impl Iterator<Item = &'p str> {
        let listed = path.schemas().unwrap_or(&[]);
        let implicit = !listed.iter().any(|s| s == "pg_catalog");
        implicit.then_some("pg_catalog").into_iter().chain(listed.iter().map(String::as_str))
    }

    fn visible(&self, path: &SearchPath, schema: &str, name: &str) -> Option<Found<'_>> {
        self.usable(schema).then(|| self.in_schema(path, schema, name))?
    }

    fn in_schema(&self, path: &SearchPath, schema: &str, name: &str) -> Option<Found<'_>> {
        let made = path.made.iter().find(|(s, n)| **s == *schema && **n == *name);
        if let Some((schema, _)) = made {
            return Some(Found::Made(Arc::clone(schema)));
        }
        self.relation_named(schema, name).map(Found::Relation)
    }

    /// Whether the path search looks into a schema.
    pub(crate) fn usable(&self, schema: &str) -> bool {
        self.schemas.get(schema).is_some_and(|s| s.usable)
    }
}

/// `SplitIdentifierString`: `None` when the server would refuse the list.
fn split_identifiers(value: &str) -> Option<Vec<String>> {
    let mut items = Vec::new();
    let mut rest = value.trim_matches(is_space);
    if rest.is_empty() {
        return Some(items);
    }
    loop {
        let item;
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut name = String::new();
            let mut tail = quoted;
            loop {
                let (part, after) = tail.split_once('"')?;
                name.push_str(part);
                match after.strip_prefix('"') {
                    Some(more) => {
                        name.push('"');
                        tail = more;
                    }
                    None => {
                        tail = after;
                        break;
                    }
                }
            }
            item = name;
            rest = tail;
        } else {
            let end = rest.find(|c: char| c == ',' || is_space(c)).unwrap_or(rest.len());
            let (name, tail) = rest.split_at(end);
            if name.is_empty() {
                return None;
            }
            item = fold(name);
            rest = tail;
        }
        items.push(truncate(&item).to_owned());
        rest = rest.trim_start_matches(is_space);
        match rest.strip_prefix(',') {
            Some(tail) => rest = tail.trim_start_matches(is_space),
            None if rest.is_empty() => return Some(items),
            None => return None,
        }
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// Folds an unquoted identifier as a UTF-8 server does: ASCII letters only.
pub(crate) fn fold(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// Cuts a name to 63 bytes without cutting a character, as the server does.
pub(crate) fn truncate(name: &str) -> &str {
    const NAME_MAX: usize = 63;
    if name.len() <= NAME_MAX {
        return name;
    }
    let mut end = NAME_MAX;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.get(..end).unwrap_or(name)
}
