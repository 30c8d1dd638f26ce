//! Who may be meant by a column name: the levels of a query and what stands in their `FROM`.

use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{Alias, Node};

use super::{R, Reader, inner, string};
use crate::catalog::Relation;

/// The system columns of every table.
const SYSTEM_COLUMNS: [&str; 6] = ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];

/// One query level.
#[derive(Default)]
pub(super) struct Scope<'a> {
    pub(super) items: Vec<Item<'a>>,
    /// Its `FROM` is still being read: names see it only from behind `LATERAL`.
    pub(super) building: bool,
}

impl<'a> Scope<'a> {
    pub(super) fn of(item: Item<'a>) -> Self {
        Self { items: vec![item], building: false }
    }
}

/// One entry of a `FROM` list.
pub(super) struct Item<'a> {
    pub(super) alias: Arc<str>,
    /// The name was the relation's own, so that `schema.relation.column` may mean it.
    pub(super) unaliased: bool,
    /// Behind the alias of a join: no name reaches it.
    pub(super) hidden: bool,
    pub(super) source: Source<'a>,
}

pub(super) enum Source<'a> {
    Relation {
        /// Its place among the uses.
        at: usize,
        relation: Option<&'a Relation>,
        schema: Option<Arc<str>>,
        name: Arc<str>,
        /// `AS alias (a, b, …)`: new names of the first columns.
        renamed: Vec<Arc<str>>,
    },
    Derived(Shape),
}

/// The output columns of a query.
#[derive(Clone, Default)]
pub(super) struct Shape {
    /// `None`: there is a column, its name is not certain.
    pub(super) names: Vec<Option<Arc<str>>>,
    /// There may be more.
    pub(super) open: bool,
}

impl Shape {
    pub(super) fn open() -> Self {
        Self { names: Vec::new(), open: true }
    }

    /// With the column names of an alias in place of the first ones.
    pub(super) fn renamed(mut self, names: &[Arc<str>]) -> Self {
        for (at, name) in names.iter().enumerate() {
            match self.names.get_mut(at) {
                Some(old) => *old = Some(Arc::clone(name)),
                None => self.names.push(Some(Arc::clone(name))),
            }
        }
        self
    }

    fn has(&self, name: &str) -> Has {
        if self.names.iter().flatten().any(|n| &**n == name) {
            Has::Yes(None)
        } else if self.open || self.names.iter().any(Option::is_none) {
            Has::Maybe
        } else {
            Has::No
        }
    }
}

pub(super) struct Cte {
    pub(super) name: Arc<str>,
    pub(super) shape: Shape,
}

pub(super) enum Has {
    /// The real name of the column of a relation.
    Yes(Option<Arc<str>>),
    Maybe,
    No,
}

impl Item<'_> {
    pub(super) fn has(&self, name: &str) -> Has {
        match &self.source {
            Source::Derived(shape) => shape.has(name),
            Source::Relation { relation: Some(relation), renamed, .. }
                if relation.knows_columns() =>
            {
                let live = relation.columns.iter().filter(|c| !c.dropped);
                for (at, column) in live.enumerate() {
                    let visible = renamed.get(at).unwrap_or(&column.name);
                    if &**visible == name {
                        return Has::Yes(Some(Arc::clone(&column.name)));
                    }
                }
                if SYSTEM_COLUMNS.contains(&name) {
                    return Has::Yes(Some(name.into()));
                }
                Has::No
            }
            // Temporary or unresolved.
            Source::Relation { .. } => Has::Maybe,
        }
    }

    /// The names that `*` stands for.
    fn names(&self, shape: &mut Shape) {
        match &self.source {
            Source::Derived(inner) => {
                shape.names.extend(inner.names.iter().cloned());
                shape.open |= inner.open;
            }
            Source::Relation { relation: Some(relation), renamed, .. }
                if relation.knows_columns() =>
            {
                let live = relation.columns.iter().filter(|c| !c.dropped);
                for (at, column) in live.enumerate() {
                    shape.names.push(Some(Arc::clone(renamed.get(at).unwrap_or(&column.name))));
                }
            }
            Source::Relation { .. } => shape.open = true,
        }
    }

    /// Names that `has` compares.
    fn width(&self) -> usize {
        1 + match &self.source {
            Source::Derived(shape) => shape.names.len(),
            Source::Relation { relation, .. } => relation.map_or(0, |r| r.columns.len()),
        }
    }

    fn place(&self) -> Option<usize> {
        match &self.source {
            Source::Relation { at, .. } => Some(*at),
            Source::Derived(_) => None,
        }
    }
}

/// The column names of an alias.
pub(super) fn alias_names(alias: Option<&Alias>) -> Vec<Arc<str>> {
    alias.map_or_else(Vec::new, |a| a.colnames.iter().filter_map(string).map(Arc::from).collect())
}

impl<'a> Reader<'a> {
    /// Runs `step` with one more level.
    pub(super) fn with_scope<T>(
        &mut self,
        scope: Scope<'a>,
        step: impl FnOnce(&mut Self) -> R<T>,
    ) -> R<(T, Scope<'a>)> {
        self.scopes.push(scope);
        let result = step(self);
        let scope = self.scopes.pop().unwrap_or_default();
        Ok((result?, scope))
    }

    pub(super) fn column_ref(&mut self, fields: &[Node]) -> R {
        let visible = self.visible().map(|s| s.items.iter().map(Item::width).sum::<usize>()).sum();
        self.spend(visible)?;
        let mut names = Vec::with_capacity(fields.len());
        let mut star = false;
        for field in fields {
            match inner(field) {
                Some(NodeEnum::String(s)) => names.push(s.sval.as_str()),
                Some(NodeEnum::AStar(_)) => star = true,
                _ => self.unknown("a column reference of an unknown form"),
            }
        }
        match (names.as_slice(), star) {
            ([], true) => self.star(),
            ([name], false) => self.plain_column(name),
            ([table], true) => self.whole_row(None, table),
            ([table, column], false) => self.qualified_column(None, table, column),
            ([schema, table] | [_, schema, table], true) => self.whole_row(Some(schema), table),
            ([schema, table, column] | [_, schema, table, column], false) => {
                self.qualified_column(Some(schema), table, column);
            }
            _ => self.unknown("a column reference of an unknown form"),
        }
        Ok(())
    }

    /// The levels that a name sees, innermost first.
    fn visible(&self) -> impl Iterator<Item = &Scope<'a>> {
        self.scopes.iter().rev().filter(|s| !s.building)
    }

    fn star(&mut self) {
        let places: Vec<_> = self.scopes.last().map_or_else(Vec::new, |scope| {
            scope.items.iter().filter(|i| !i.hidden).filter_map(Item::place).collect()
        });
        for at in places {
            self.touch_all(at);
        }
    }

    fn plain_column(&mut self, name: &str) {
        if self.find_column(name) | self.find_row(name) {
            return;
        }
        if !self.lenient {
            self.unknown(format!("no column `{name}` in the catalogue snapshot"));
        }
    }

    /// Finds a column in all levels, innermost first, and writes it down.
    fn find_column(&mut self, name: &str) -> bool {
        let mut touched: Vec<(usize, Arc<str>)> = Vec::new();
        let mut found = false;
        for scope in self.visible() {
            let mut certain = false;
            for item in scope.items.iter().filter(|i| !i.hidden) {
                match item.has(name) {
                    Has::Yes(real) => {
                        certain = true;
                        if let (Some(at), Some(real)) = (item.place(), real) {
                            touched.push((at, real));
                        }
                    }
                    Has::Maybe => {
                        found = true;
                        if let Some(at) = item.place() {
                            touched.push((at, name.into()));
                        }
                    }
                    Has::No => {}
                }
            }
            if certain {
                found = true;
                break;
            }
        }
        for (at, name) in touched {
            self.touch(at, name);
        }
        found
    }

    /// A name that is no certain column may be an alias, and then means the whole row.
    fn find_row(&mut self, name: &str) -> bool {
        let certain = self.visible().any(|scope| {
            scope.items.iter().any(|i| !i.hidden && matches!(i.has(name), Has::Yes(_)))
        });
        if certain {
            return true;
        }
        match self.item(None, name) {
            Some((level, at)) => {
                if let Some(place) = self.at(level, at).and_then(Item::place) {
                    self.touch_all(place);
                }
                true
            }
            None => false,
        }
    }

    /// The innermost entry of that name: level and place.
    fn item(&self, schema: Option<&str>, table: &str) -> Option<(usize, usize)> {
        for (level, scope) in self.scopes.iter().enumerate().rev() {
            if scope.building {
                continue;
            }
            let found = scope.items.iter().position(|item| {
                if item.hidden {
                    return false;
                }
                match (schema, &item.source) {
                    (None, _) => &*item.alias == table,
                    (Some(schema), Source::Relation { relation, schema: written, name, .. }) => {
                        let schema_is = match relation {
                            Some(relation) => &*relation.schema == schema,
                            None => written.as_deref() == Some(schema),
                        };
                        item.unaliased && schema_is && &**name == table
                    }
                    (Some(_), Source::Derived(_)) => false,
                }
            });
            if let Some(at) = found {
                return Some((level, at));
            }
        }
        None
    }

    fn at(&self, level: usize, at: usize) -> Option<&Item<'a>> {
        self.scopes.get(level)?.items.get(at)
    }

    fn whole_row(&mut self, schema: Option<&str>, table: &str) {
        match self.item(schema, table) {
            Some((level, at)) => {
                if let Some(place) = self.at(level, at).and_then(Item::place) {
                    self.touch_all(place);
                }
            }
            None if self.lenient => {}
            None => self.unknown(format!("no `{table}` in this part of the statement")),
        }
    }

    fn qualified_column(&mut self, schema: Option<&str>, table: &str, column: &str) {
        let Some((level, at)) = self.item(schema, table) else {
            if !self.lenient {
                self.unknown(format!("no `{table}` in this part of the statement"));
            }
            return;
        };
        let Some(item) = self.at(level, at) else { return };
        let (has, place) = (item.has(column), item.place());
        match has {
            Has::Yes(real) => {
                if let (Some(at), Some(real)) = (place, real) {
                    self.touch(at, real);
                }
            }
            Has::Maybe => {
                if let Some(at) = place {
                    self.touch(at, column.into());
                }
                self.attribute(column);
            }
            // `t.f` is `f(t)` when `f` is no column.
            Has::No => {
                if let Some(at) = place {
                    self.touch_all(at);
                }
                if !self.attribute_call(column) && !self.lenient {
                    self.unknown(format!("no column `{column}` in the catalogue snapshot"));
                }
            }
        }
    }

    /// The output names of `*` or `table.*`.
    pub(super) fn star_shape(&self, fields: &[Node], shape: &mut Shape) {
        let names: Vec<_> = fields.iter().filter_map(string).collect();
        match names.as_slice() {
            [] => {
                if let Some(scope) = self.scopes.last() {
                    for item in scope.items.iter().filter(|i| !i.hidden) {
                        item.names(shape);
                    }
                }
            }
            [table] | [_, table] | [_, _, table] => {
                let schema = if let [schema, _] | [_, schema, _] = names.as_slice() {
                    Some(*schema)
                } else {
                    None
                };
                match self.item(schema, table).and_then(|(l, at)| self.at(l, at)) {
                    Some(item) => item.names(shape),
                    None => shape.open = true,
                }
            }
            _ => shape.open = true,
        }
    }
}
