//! Masks at the scan: every relation with columns that may not be seen is replaced, in the text
//! that is sent, by a sub-select that gives masks instead. Whatever the statement then computes,
//! compares, sorts or counts, it computes of masks.
//!
//! The text is spliced, not printed anew: everything that is not replaced goes as it came. The
//! result is parsed and read again, and refused unless every such relation in it stands inside what
//! was put in. What cannot be replaced (the target of a write, a sample, a function whose body
//! nobody reads) is refused as soon as it could carry a value.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pg_query::protobuf::Node;

use crate::analyzer::{Limits, ReadError};
use crate::catalog::{Catalog, SearchPath};
use crate::facts::{Facts, RelationKind, RelationUse, Resolved, Statement, Via};
use crate::parse;
use crate::reading::marks::{Marks, Region};
use crate::reading::{self, Context};
use outputs::Stray;
pub use shape::{CopyForm, Shape};
use splice::Splice;
pub(crate) use survey::survey;

mod outputs;
mod returned;
mod shape;
mod splice;
mod stars;
mod survey;
mod text;

/// Bytes of a rewritten text.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// What stands for a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cover {
    pub class: Arc<str>,
    /// An expression of the column's own type, of functions in `pg_catalog` named with their
    /// schema; `{}` stands for the column.
    pub form: Arc<str>,
    /// `column = value` may be asked of the values themselves.
    pub equality: bool,
    /// Where the column is an output column and nothing else, its values come out, and whoever
    /// reads the answer masks each; elsewhere the form stands.
    pub late: Option<Late>,
}

/// What masks a value that came out needs to know beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Late {
    /// The column of the same relation that says whose value it is.
    pub subject: Option<Arc<str>>,
}

/// An output column that is a masked column and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    pub class: Arc<str>,
    /// It holds values, which MUST be masked before anybody sees them; else it holds masks.
    pub late: bool,
    pub type_oid: u32,
    /// The output column that says whose value it is, in the clear, and its type.
    pub subject: Option<(usize, u32)>,
}

impl Cover {
    fn of(&self, column: &str) -> String {
        self.form.replace("{}", column)
    }
}

/// What one principal may not see, under one snapshot.
#[derive(Debug)]
pub struct Hidden {
    id: u64,
    relations: HashMap<u32, BTreeMap<Arc<str>, Cover>>,
    settled: HashSet<u32>,
    trusted: HashSet<(Arc<str>, Arc<str>)>,
    /// Partitioned tables that are divided by a hidden column, and all their partitions: in which
    /// of them a row is tells of its value.
    divided: HashSet<u32>,
    /// The server keeps a value of some hidden column in `pg_attribute`.
    kept_aside: bool,
}

static IDS: AtomicU64 = AtomicU64::new(1);

impl Hidden {
    /// `relations`: covers of columns by relation. They are carried over to parents, children and
    /// partitions by the column's name. `settled`: materialized views whose own classes are meant,
    /// whatever they were made of. `trusted`: functions that read nothing of it.
    #[must_use]
    pub fn new(
        catalog: &Catalog,
        mut relations: HashMap<u32, BTreeMap<Arc<str>, Cover>>,
        settled: HashSet<u32>,
        trusted: HashSet<(Arc<str>, Arc<str>)>,
    ) -> Self {
        relations.retain(|_, columns| !columns.is_empty());
        for (oid, columns) in &mut relations {
            cover_computed(catalog, *oid, columns);
        }
        let mut next: Vec<u32> = relations.keys().copied().collect();
        while let Some(oid) = next.pop() {
            let Some(relation) = catalog.relation(oid) else { continue };
            let Some(columns) = relations.get(&oid).cloned() else { continue };
            for near in relation.parents.iter().chain(&relation.children) {
                let Some(other) = catalog.relation(*near) else { continue };
                if other.kind == RelationKind::Index {
                    continue;
                }
                let known = relations.entry(*near).or_default();
                let before = known.len();
                for (name, cover) in &columns {
                    if other.column(name).is_some() && !known.contains_key(name) {
                        known.insert(name.clone(), cover.clone());
                    }
                }
                if known.len() > before {
                    next.push(*near);
                }
            }
        }
        for (oid, columns) in &mut relations {
            cover_computed(catalog, *oid, columns);
        }
        let divided = divided(catalog, &relations);
        let kept_aside = relations.iter().any(|(oid, covers)| {
            let columns = catalog.relation(*oid).map(|relation| &relation.columns);
            let mut kept = columns.into_iter().flatten().filter(|c| c.kept_aside);
            kept.any(|column| covers.contains_key(&column.name))
        });
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        Self { id, relations, settled, trusted, divided, kept_aside }
    }

    /// A number that nothing else hidden in this process has.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.relations.is_empty()
    }

    /// Whether a column of a base relation may not come out as it is.
    #[must_use]
    pub fn has_column(&self, catalog: &Catalog, oid: u32, attnum: i16) -> bool {
        let Some(columns) = self.relations.get(&oid) else { return false };
        catalog.relation(oid).is_some_and(|relation| {
            relation.columns.iter().any(|c| c.attnum == attnum && columns.contains_key(&c.name))
        })
    }
}

fn divided(catalog: &Catalog, relations: &HashMap<u32, BTreeMap<Arc<str>, Cover>>) -> HashSet<u32> {
    let by_hidden = |oid: &u32| {
        let (Some(relation), Some(covers)) = (catalog.relation(*oid), relations.get(oid)) else {
            return false;
        };
        let hides = |number: &i16| {
            let of = relation.columns.iter().find(|column| column.attnum == *number);
            // An expression: of which columns is not told.
            of.is_none_or(|column| covers.contains_key(&column.name))
        };
        relation.divided_by.iter().any(hides)
    };
    let mut next: Vec<u32> = relations.keys().copied().filter(by_hidden).collect();
    let mut found = HashSet::new();
    while let Some(oid) = next.pop() {
        if found.insert(oid) {
            next.extend(catalog.relation(oid).into_iter().flat_map(|r| &r.children));
        }
    }
    found
}

/// A generated column shows what it is made of: it is hidden with it, whole.
fn cover_computed(catalog: &Catalog, oid: u32, columns: &mut BTreeMap<Arc<str>, Cover>) {
    let Some(relation) = catalog.relation(oid) else { return };
    for column in relation.columns.iter().filter(|column| !column.dropped) {
        // The server lets none be made of another that is generated.
        let of = column.made_of.iter().find_map(|number| {
            let source = relation.columns.iter().find(|c| c.attnum == *number)?;
            columns.get(&source.name).map(|cover| cover.class.clone())
        });
        if let Some(class) = of
            && !columns.contains_key(&column.name)
        {
            let form = null_of(catalog, column.type_oid).into();
            columns.insert(column.name.clone(), Cover { class, form, equality: false, late: None });
        }
    }
}

/// Why a statement cannot be masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// ``reads `ssn` of `public.customers` to change rows``
    pub why: String,
    /// The nearest that would pass.
    pub hint: String,
}

fn refused<T>(why: impl Into<String>, hint: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Refused(Refused { why: why.into(), hint: hint.into() }))
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    Read(ReadError),
    Refused(Refused),
}

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// How a text is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The rewriting and its facts; none where the text goes as it is.
    pub sent: Option<(Arc<str>, Arc<Facts>)>,
    /// It touches a relation with columns that may not be seen: what the server says about it may
    /// hold values.
    pub touches: bool,
    /// Classes whose masks the rewriting holds.
    pub classes: BTreeSet<Arc<str>>,
    /// What the rows of each statement are, as far as that is known: one for each, or none at all.
    /// Of what is prepared or declared it is told what it will give.
    pub shapes: Vec<Shape>,
    edits: Vec<Edit>,
}

impl Plan {
    /// The plan of the statement within one that prepares or declares it: only what it gives is
    /// known.
    #[must_use]
    pub fn within(&self, statement: usize) -> Self {
        let shapes = self.shapes.get(statement).cloned().into_iter().collect();
        Self { shapes, ..Self::default() }
    }

    /// Values come out of some statement, which MUST be masked before anybody sees them.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.shapes.iter().any(Shape::is_late)
    }

    /// The place in the client's text, in characters from 1, that a place in the sent one means.
    #[must_use]
    pub fn origin(&self, original: &str, position: usize) -> Option<usize> {
        let Some((sent, _)) = &self.sent else { return Some(position) };
        let byte = sent.char_indices().nth(position.checked_sub(1)?).map_or(sent.len(), |(b, _)| b);
        let mut shift: isize = 0;
        let mut at = None;
        for edit in &self.edits {
            let start = edit.span.start.checked_add_signed(shift)?;
            let end = start + edit.text.len();
            if byte < start {
                break;
            }
            if byte < end {
                at = Some(edit.span.start);
                break;
            }
            let (new, old) =
                (isize::try_from(edit.text.len()).ok()?, isize::try_from(edit.span.len()).ok()?);
            shift += new - old;
        }
        let at = match at {
            Some(at) => at,
            None => byte.checked_add_signed(-shift)?,
        };
        Some(original.get(..at)?.chars().count() + 1)
    }
}

/// A stretch of the text and what stands there instead.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Edit {
    span: Range<usize>,
    text: String,
    /// Entries of a `RETURNING` that it holds, by their place in it.
    puts: Vec<(usize, Put)>,
}

/// A hidden column that was put in place of a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Put {
    oid: u32,
    column: Arc<str>,
}

impl Edit {
    fn new(span: Range<usize>, text: impl Into<String>) -> Self {
        Self { span, text: text.into(), puts: Vec::new() }
    }
}

/// What a text is read under.
#[derive(Clone, Copy)]
pub(crate) struct Under<'a> {
    pub catalog: &'a Catalog,
    pub path: &'a SearchPath,
    pub limits: &'a Limits,
}

/// Rewrites a text that [`survey`] says has to be. On a thread with a big stack.
pub(crate) fn rewrite(
    text: &str,
    own: &Facts,
    at: Under<'_>,
    hidden: &Hidden,
) -> Result<Plan, Fault> {
    let Under { catalog, path, limits } = at;
    let mut kept: Vec<Kept> = own.statements.iter().map(|_| Kept::But(Stray::new())).collect();
    for _ in 0..LATE_TRIES_MAX {
        let mut splice = Splice::new(catalog, limits, hidden, &kept);
        let edits = splice.edits(text, path)?;
        let (classes, granted) = (splice.classes, splice.granted);
        let mut plan = Plan { touches: true, classes, ..Plan::default() };
        if edits.is_empty() {
            return Ok(plan);
        }
        let sent = apply(text, &edits)?;
        let (mut facts, outputs) = check(text, &sent, &edits, at, (hidden, &granted))?;
        let mut strays = false;
        for (kept, output) in kept.iter_mut().zip(&outputs) {
            if let Err(stray) = output {
                kept.add(stray);
                strays = true;
            }
        }
        if strays {
            continue;
        }
        for (now, before) in facts.statements.iter_mut().zip(&own.statements) {
            through_views(now, before);
        }
        plan.sent = Some((sent.into(), Arc::new(facts)));
        plan.edits = edits;
        plan.shapes = outputs.into_iter().map(Result::unwrap_or_default).collect();
        return Ok(plan);
    }
    torn()
}

/// Tries to let values out as output columns; the last is to let none out.
const LATE_TRIES_MAX: usize = 6;

/// Columns that keep their masks at the scan, of those whose values may come out.
pub(super) enum Kept {
    All,
    But(Stray),
}

impl Kept {
    fn add(&mut self, stray: &Stray) {
        match self {
            Self::All => {}
            // It converges, or there is no end to it.
            Self::But(known) if known.len() >= LATE_TRIES_MAX - 2 => *self = Self::All,
            Self::But(known) => known.extend(stray.iter().cloned()),
        }
    }

    pub fn is_late(&self, oid: u32, column: &Arc<str>) -> bool {
        match self {
            Self::All => false,
            Self::But(stray) => !stray.contains(&(oid, column.clone())),
        }
    }
}

/// What stands behind a view is reached through it, unfolded or not: the view is what the client
/// named, and what is permitted.
fn through_views(now: &mut Statement, before: &Statement) {
    let same = |a: &RelationUse, b: &RelationUse| a.resolved == b.resolved && a.access == b.access;
    for relation in now.relations.iter_mut().filter(|r| r.via.is_none()) {
        if before.relations.iter().any(|r| r.via.is_none() && same(r, relation)) {
            continue;
        }
        let behind = before
            .relations
            .iter()
            .find(|r| matches!(r.via, Some(Via::View(_))) && r.resolved == relation.resolved);
        if let Some(behind) = behind {
            relation.via.clone_from(&behind.via);
        }
    }
    for named in before.relations.iter().filter(|r| r.via.is_none()) {
        if !now.relations.iter().any(|r| r.via.is_none() && same(r, named)) {
            now.relations.push(named.clone());
        }
    }
}

fn apply(text: &str, edits: &[Edit]) -> Result<String, Fault> {
    let mut out = String::with_capacity(text.len() * 2);
    let mut at = 0;
    for edit in edits {
        let Some(kept) = text.get(at..edit.span.start) else { return torn() };
        out.push_str(kept);
        out.push_str(&edit.text);
        at = edit.span.end;
        if out.len() > TEXT_BYTES_MAX {
            return Err(ReadError::TooLarge { bytes: out.len(), max: TEXT_BYTES_MAX }.into());
        }
    }
    let Some(rest) = text.get(at..) else { return torn() };
    out.push_str(rest);
    Ok(out)
}

fn torn<T>() -> Result<T, Fault> {
    refused(
        "cannot be rewritten so that masked columns stay masked",
        "write it in another way, for example with every table named once",
    )
}

/// The rows of what is sent, or which values stray.
type Outputs = Result<Shape, Stray>;

/// Reads what will be sent: every relation with hidden columns stands within what was put in.
fn check(
    text: &str,
    sent: &str,
    edits: &[Edit],
    at: Under<'_>,
    (hidden, granted): (&Hidden, &[Stray]),
) -> Result<(Facts, Vec<Outputs>), Fault> {
    let Under { catalog, path, limits } = at;
    let own = parse::parse(text, limits)?;
    let Ok(tree) = parse::parse(sent, limits) else { return torn() };
    if own.parsed.stmts.len() != tree.parsed.stmts.len() {
        return torn();
    }
    let facts = reading::read(sent, &tree, catalog, path, limits)?;
    survey(&facts, catalog, path, hidden)?;
    let (spans, put) = places(edits);
    let inside = |at: usize| spans.iter().any(|span| span.contains(&at));
    let context = Context { tokens: &tree.tokens, catalog, path, limits };
    let mut all = Vec::new();
    let nothing = Stray::new();
    for raw in &tree.parsed.stmts {
        let Some(node) = raw.stmt.as_deref() else { continue };
        let (statement, marks) = reading::marked(context, node, 0..sent.len())?;
        let scans = marks.scans.iter().map(|s| (s.oid, s.location));
        let copies = marks.copies.iter().filter(|c| !c.from).map(|c| (c.oid, c.location));
        for (oid, location) in scans.chain(copies) {
            if reaches(catalog, hidden, &statement, oid) && !inside(location) {
                return torn();
            }
        }
        for read in marks.reads.iter().filter(|r| r.region == Region::Returning) {
            let target = marks.targets.iter().any(|t| marks.relation(read) == Some(t.oid));
            let covers = marks.relation(read).and_then(|oid| hidden.relations.get(&oid));
            let hit =
                covers.is_some_and(|c| read.column.as_ref().is_none_or(|n| c.contains_key(n)));
            if target && hit && !read.spot.as_ref().is_some_and(|spot| inside(spot.location)) {
                return torn();
            }
        }
        let granted = granted.get(all.len()).unwrap_or(&nothing);
        all.push(shape_of(node, &marks, (catalog, hidden), &put, granted));
    }
    Ok((facts, all))
}

/// Where in what is sent edits stand, and what they put there.
fn places(edits: &[Edit]) -> (Vec<Range<usize>>, BTreeMap<usize, Put>) {
    let (mut spans, mut put) = (Vec::new(), BTreeMap::new());
    let (mut shift, mut gone) = (0_usize, 0_usize);
    for edit in edits {
        let start = edit.span.start + shift - gone;
        spans.push(start..start + edit.text.len());
        put.extend(edit.puts.iter().map(|(at, put)| (start + at, put.clone())));
        shift += edit.text.len();
        gone += edit.span.len();
    }
    (spans, put)
}

/// What the rows of a statement are.
fn shape_of(
    node: &Node,
    marks: &Marks,
    at: (&Catalog, &Hidden),
    put: &BTreeMap<usize, Put>,
    granted: &Stray,
) -> Outputs {
    let Some(core) = shape::core(node) else {
        return if granted.is_empty() { Ok(Shape::default()) } else { Err(granted.clone()) };
    };
    let cells = match shape::returning(core.node) {
        Some(_) => returned::returned(core.node, marks, at, put, granted)?,
        None => outputs::outputs(core.node, marks, at, granted)?,
    };
    Ok(Shape { cells, copy: core.copy })
}

/// Whether values of hidden columns are in a relation, or may be in it.
fn reaches(catalog: &Catalog, hidden: &Hidden, statement: &Statement, oid: u32) -> bool {
    if hidden.relations.contains_key(&oid) {
        return true;
    }
    let Some(relation) = catalog.relation(oid) else { return true };
    match relation.kind {
        RelationKind::View | RelationKind::MatView if !relation.is_system() => {
            if relation.kind == RelationKind::MatView && hidden.settled.contains(&oid) {
                return false;
            }
            match relation.body.get() {
                Some(body) => body.relations.iter().any(|r| match &r.resolved {
                    Resolved::Known(known) => hidden.relations.contains_key(&known.oid),
                    Resolved::Temp | Resolved::Made(_) | Resolved::Unresolved => true,
                }),
                // Not read: only if the statement reaches nothing hidden at all is that certain.
                None => statement.relations.iter().any(|r| match &r.resolved {
                    Resolved::Known(known) => hidden.relations.contains_key(&known.oid),
                    Resolved::Temp | Resolved::Made(_) | Resolved::Unresolved => true,
                }),
            }
        }
        _ => false,
    }
}

/// NULL of a type; of a domain, of the type below it, since a domain may refuse NULL.
#[must_use]
pub fn null_of(catalog: &Catalog, type_oid: u32) -> String {
    format!("NULL::{}", type_name(catalog, type_oid))
}

/// The name of a type as a cast takes it; of a domain, of the type below it.
#[must_use]
pub fn type_name(catalog: &Catalog, type_oid: u32) -> String {
    let mut found = catalog.type_of(type_oid);
    for _ in 0..32 {
        match found {
            Some(of) if of.base != 0 => found = catalog.type_of(of.base),
            _ => break,
        }
    }
    match found {
        Some(of) => format!("{}.{}", quoted(&of.schema), quoted(&of.name)),
        None => "pg_catalog.text".to_owned(),
    }
}

/// A name in quotation marks.
#[must_use]
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
