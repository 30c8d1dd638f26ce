//! From parse tree to facts.
//!
//! One [`Reader`] walks one statement. It recurses, with a cap on its depth, on the big stack of a
//! pool thread. Every kind of node that it does not know becomes a reason in `unknown`.
//!
//! Rules that keep the walk on the safe side:
//! - A column name that several relations of one level could mean counts for all of them.
//! - A relation or derived table whose columns are not known may have any column: the name is
//!   written down for it, and the search goes on outwards.
//! - A function name counts as every function of that name that the path could reach with that
//!   number of arguments, the server's own included.

mod define;
mod expr;
mod finish;
pub(crate) mod marks;
mod names;
mod objects;
mod query;
mod roles;
mod scope;
mod server;
mod session;
mod tags;
mod utility;
mod write;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, ScanToken};

use crate::analyzer::{Limits, ReadError};
use crate::catalog::{Catalog, Relation, SearchPath};
use crate::facts::{
    Access, Columns, Effects, Facts, FunctionUse, Kind, NameUse, RelationUse, Resolved, Statement,
    Via,
};
use crate::parse::Tree;
use marks::{Marks, Read, Region, Spot};
use scope::{Cte, Scope};

/// Relations of one statement, those reached through views and parents included.
pub const RELATIONS_MAX: usize = 4_096;
/// Functions of one statement.
const FUNCTIONS_MAX: usize = 4_096;
/// Reasons kept; the effect `UNKNOWN` says that there was one.
const REASONS_MAX: usize = 16;
/// Column names that may be compared to find what the columns of one statement belong to.
const WORK_MAX: usize = 20_000_000;
/// Why it is not known what `CASCADE` drops.
pub(crate) const CASCADE: &str = "CASCADE reaches what the text does not name";
/// Views inside each other.
const VIEWS_MAX: usize = 32;

type R<T = ()> = Result<T, ReadError>;

pub(crate) fn read(
    text: &str,
    tree: &Tree,
    catalog: &Catalog,
    path: &SearchPath,
    limits: &Limits,
) -> R<Facts> {
    if tree.parsed.stmts.len() > limits.statements_max {
        return Err(ReadError::TooComplex { what: "statements", max: limits.statements_max });
    }
    let context = Context { tokens: &tree.tokens, catalog, path, limits };
    let mut facts = Facts::default();
    for raw in &tree.parsed.stmts {
        let Some(node) = raw.stmt.as_deref() else { continue };
        let start = usize::try_from(raw.stmt_location).unwrap_or(0).min(text.len());
        let len = usize::try_from(raw.stmt_len).unwrap_or(0);
        let end = if len == 0 { text.len() } else { start.saturating_add(len).min(text.len()) };
        facts.statements.push(statement(context, node, start..end, &[])?);
    }
    Ok(facts)
}

/// Reads one statement; `views` are the views whose bodies are being read around it.
pub(crate) fn statement(
    context: Context<'_>,
    node: &Node,
    range: std::ops::Range<usize>,
    views: &[u32],
) -> R<Statement> {
    let mut reader = Reader::new(context, range, views);
    let (kind, tag) = reader.any_statement(node)?;
    reader.out.kind = kind;
    reader.out.tag = tag;
    reader.finish()
}

/// Reads a statement again and keeps where in its text what stands.
pub(crate) fn marked(
    context: Context<'_>,
    node: &Node,
    range: std::ops::Range<usize>,
) -> R<(Statement, Marks)> {
    let mut reader = Reader::new(context, range, &[]);
    reader.marks = Some(Marks::default());
    let (kind, tag) = reader.any_statement(node)?;
    reader.out.kind = kind;
    reader.out.tag = tag;
    let marks = reader.take_marks();
    Ok((reader.finish()?, marks))
}

/// What every statement of a text shares.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) tokens: &'a [ScanToken],
    pub(crate) catalog: &'a Catalog,
    pub(crate) path: &'a SearchPath,
    pub(crate) limits: &'a Limits,
}

struct Reader<'a> {
    cx: Context<'a>,
    out: Statement,
    /// One for each of `out.relations`.
    notes: Vec<Note<'a>>,
    functions: BTreeSet<FunctionUse>,
    scopes: Vec<Scope<'a>>,
    ctes: Vec<Cte>,
    depth: usize,
    views: Vec<u32>,
    /// User-made types that values of the statement can have.
    types: BTreeSet<u32>,
    /// Operators that apply only to a user-made type: name and place in the catalogue.
    operators: BTreeSet<(Arc<str>, usize)>,
    /// Built-in types that something is cast to.
    cast_targets: BTreeSet<u32>,
    /// In definitions, where columns of what is being made are in no catalogue yet.
    lenient: bool,
    /// The row that a query of `pg_settings` is limited to.
    settings_row: Option<String>,
    /// Where in `out.relations` a use is.
    index: HashMap<UseKey, usize>,
    /// Where in `out.relations` a relation is that the text does not name.
    reached: HashMap<(Access, u32, Via), usize>,
    /// Column names compared so far.
    work: usize,
    /// Kept for rewriting only.
    marks: Option<Marks>,
    region: Region,
    spot: Option<Spot>,
    /// In a `TABLESAMPLE`.
    sampling: bool,
    /// On the side of an outer join that may be empty.
    nullable: bool,
    /// The query that is being read, among all of the statement; and how many there were.
    level: usize,
    levels: usize,
}

/// Schema and name as written, and the access.
type UseKey = (Option<Arc<str>>, Arc<str>, Access);

/// What is remembered beside a relation use while the statement is read.
#[derive(Clone, Copy)]
struct Note<'a> {
    relation: Option<&'a Relation>,
    /// Not `ONLY`.
    children: bool,
    /// Stands for reads of a write's target: left out when nothing was read.
    implied: bool,
}

impl<'a> Reader<'a> {
    fn new(cx: Context<'a>, range: std::ops::Range<usize>, views: &[u32]) -> Self {
        Self {
            cx,
            out: Statement::new(Kind::Unknown, "", range),
            notes: Vec::new(),
            functions: BTreeSet::new(),
            scopes: Vec::new(),
            ctes: Vec::new(),
            depth: 0,
            views: views.to_vec(),
            types: BTreeSet::new(),
            operators: BTreeSet::new(),
            cast_targets: BTreeSet::new(),
            lenient: false,
            settings_row: None,
            index: HashMap::new(),
            reached: HashMap::new(),
            work: 0,
            marks: None,
            region: Region::Query,
            spot: None,
            sampling: false,
            nullable: false,
            level: 0,
            levels: 0,
        }
    }

    /// Runs `step` one level deeper.
    fn deeper<T>(&mut self, step: impl FnOnce(&mut Self) -> R<T>) -> R<T> {
        if self.depth >= self.cx.limits.depth_max {
            let max = self.cx.limits.depth_max;
            return Err(ReadError::TooComplex { what: "levels of nesting", max });
        }
        self.depth += 1;
        let result = step(self);
        self.depth -= 1;
        result
    }

    /// Counts work that a short text can cause in plenty.
    fn spend(&mut self, work: usize) -> R {
        self.work = self.work.saturating_add(work);
        if self.work > WORK_MAX {
            return Err(ReadError::TooComplex { what: "column comparisons", max: WORK_MAX });
        }
        Ok(())
    }

    fn effect(&mut self, effects: Effects) {
        self.out.effects |= effects;
    }

    /// Writes down why something could not be told.
    fn unknown(&mut self, reason: impl Into<String>) {
        self.out.effects |= Effects::UNKNOWN;
        let reason = reason.into();
        if self.out.unknown.len() < REASONS_MAX && !self.out.unknown.contains(&reason) {
            self.out.unknown.push(reason);
        }
    }

    /// The place of the use of this relation with this access; made on first need.
    fn use_of(&mut self, found: &FoundRelation<'a>, access: Access, implied: bool) -> usize {
        let key = (found.schema.clone(), Arc::clone(&found.name), access);
        let same = self.index.get(&key).copied();
        if let Some(at) = same {
            if let Some(note) = self.notes.get_mut(at) {
                note.implied &= implied;
                note.children |= found.children;
            }
            return at;
        }
        if self.out.relations.len() >= RELATIONS_MAX {
            self.unknown("more relations than can be listed");
            return usize::MAX;
        }
        self.out.relations.push(RelationUse {
            schema: found.schema.clone(),
            name: Arc::clone(&found.name),
            resolved: found.resolved.clone(),
            access,
            columns: Columns::Known(BTreeSet::new()),
            via: None,
        });
        let note = Note { relation: found.relation, children: found.children, implied };
        self.notes.push(note);
        let at = self.out.relations.len() - 1;
        self.index.insert(key, at);
        at
    }

    fn mark_read(&mut self, at: usize, column: Option<&Arc<str>>) {
        let (spot, region, level) = (&self.spot, self.region, self.level);
        if let Some(marks) = &mut self.marks {
            let (column, spot) = (column.cloned(), spot.clone());
            marks.reads.push(Read { at, column, spot, region, level });
        }
    }

    fn touch(&mut self, at: usize, column: Arc<str>) {
        self.mark_read(at, Some(&column));
        if let Some(RelationUse { columns: Columns::Known(set), .. }) =
            self.out.relations.get_mut(at)
        {
            set.insert(column);
        }
    }

    fn touch_all(&mut self, at: usize) {
        self.mark_read(at, None);
        if let Some(relation) = self.out.relations.get_mut(at) {
            relation.columns = Columns::All;
        }
    }

    fn function(&mut self, function: FunctionUse, effects: Effects) {
        self.effect(effects);
        if self.functions.len() >= FUNCTIONS_MAX {
            self.unknown("more functions than can be listed");
            return;
        }
        self.functions.insert(function);
    }

    fn name_use(&mut self, name: NameUse) {
        if !self.out.names.contains(&name) {
            self.out.names.push(name);
        }
    }
}

/// A relation that the text names, found.
#[derive(Clone)]
struct FoundRelation<'a> {
    schema: Option<Arc<str>>,
    name: Arc<str>,
    resolved: Resolved,
    relation: Option<&'a Relation>,
    children: bool,
}

/// The node inside a node.
fn inner(node: &Node) -> Option<&NodeEnum> {
    node.node.as_ref()
}

/// The text of a `String` node.
fn string(node: &Node) -> Option<&str> {
    match inner(node)? {
        NodeEnum::String(s) => Some(&s.sval),
        _ => None,
    }
}

/// A dotted name's parts.
fn strings(nodes: &[Node]) -> Vec<&str> {
    nodes.iter().filter_map(string).collect()
}
