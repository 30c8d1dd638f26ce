//! What the output columns of a query are: which of them is a column of a table and nothing else.
//!
//! Some masks cannot be made where the table is scanned, since their key must not reach the target.
//! Such a value leaves the target only where it is proven to be an output column of the whole
//! statement, unchanged, and to influence nothing else; then the gateway masks the cell. The proof
//! is made on the text that is sent, where every mask and every view is spelled out:
//!
//! - Queries that are *clear glass* (no `DISTINCT`, no grouping, no set operation but `UNION ALL`, not
//!   recursive) are followed from the outermost inwards, through sub-queries in `FROM`, CTEs and
//!   joins. A reference that is a whole output column of one of them is *plain*.
//! - Every other reference of the statement that could mean such a column, by any name that it has
//!   on the way or as part of a row, makes it no output column: it *strays*. So do `USING`,
//!   `NATURAL`, `ORDER BY 1` and new names by an alias.
//!
//! What strays keeps its mask at the scan. In doubt a column strays.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{
    AExpr, Alias, ColumnRef, CommonTableExpr, JoinExpr, Node, RangeSubselect, RangeVar, ResTarget,
    SelectStmt, SetOperation, a_const::Val,
};

use super::{Cell, Hidden};
use crate::catalog::Catalog;
use crate::facts::RelationKind;
use crate::reading::marks::{Marks, Ref};

/// Queries inside each other that are followed.
const DEPTH_MAX: usize = 64;
/// Output columns that are followed.
const COLUMNS_MAX: usize = 4_096;

/// Columns that stray: relation and name.
pub(super) type Stray = BTreeSet<(u32, Arc<str>)>;

/// A column of one scan.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Base {
    scan: usize,
    oid: u32,
    column: Arc<str>,
    /// The value itself, which only the gateway masks.
    late: bool,
}

#[derive(Debug, Clone)]
struct Col {
    name: Arc<str>,
    base: Option<Base>,
}

impl Col {
    fn other(name: &str) -> Self {
        Self { name: name.into(), base: None }
    }
    fn late(&self) -> Option<&Base> {
        self.base.as_ref().filter(|base| base.late)
    }
}

/// An entry of a `FROM`. Without columns: which ones it has is not certain.
struct Item {
    alias: Arc<str>,
    cols: Option<Vec<Col>>,
    /// A function, or a relation without masks: no value is in it.
    foreign: bool,
    /// A relation as it stands, which may have other columns when the statement runs.
    open: bool,
}

impl Item {
    fn foreign(alias: &str) -> Self {
        Self { alias: alias.into(), cols: None, foreign: true, open: false }
    }
}

struct Cte {
    name: Arc<str>,
    cols: Option<Vec<Col>>,
}

struct Walk<'a> {
    marks: &'a Marks,
    catalog: &'a Catalog,
    hidden: &'a Hidden,
    ctes: Vec<Cte>,
    /// Places of references that are whole output columns, or that masks themselves hold.
    plain: HashSet<usize>,
    /// Names that a value has on its way out.
    names: HashMap<Arc<str>, Stray>,
    /// Names of rows that hold such values, and the columns of each.
    rows: HashMap<Arc<str>, HashSet<Arc<str>>>,
    /// Names of rows that certainly hold none, and how many entries have the name.
    clean: HashMap<Arc<str>, usize>,
    /// Scans that were followed.
    walked: HashSet<usize>,
    /// Columns whose values the text lets out.
    granted: &'a Stray,
    stray: Stray,
    /// Columns compared by name for joins.
    compared: Vec<Arc<str>>,
    depth: usize,
}

/// The output columns of a statement: of each the masked column that it is, if it is one; empty
/// where they are not known. `granted`: columns whose values the text lets out. `Err`: these of
/// them are not output columns alone.
pub(super) fn outputs(
    node: &Node,
    marks: &Marks,
    (catalog, hidden): (&Catalog, &Hidden),
    granted: &Stray,
) -> Result<Vec<Option<Cell>>, Stray> {
    let mut walk = Walk {
        marks,
        catalog,
        hidden,
        ctes: Vec::new(),
        plain: HashSet::new(),
        names: HashMap::new(),
        rows: HashMap::new(),
        clean: HashMap::new(),
        walked: HashSet::new(),
        granted,
        stray: Stray::new(),
        compared: Vec::new(),
        depth: 0,
    };
    let cols = match node.node.as_ref() {
        Some(NodeEnum::SelectStmt(select)) => walk.select(select),
        _ => None,
    };
    walk.settle();
    // What no output column shows need not come out.
    let shown: Stray = cols
        .iter()
        .flatten()
        .filter_map(Col::late)
        .map(|base| (base.oid, base.column.clone()))
        .collect();
    walk.stray.extend(granted.difference(&shown).cloned());
    let stray: Stray = walk.stray.intersection(granted).cloned().collect();
    match cols {
        _ if !stray.is_empty() => Err(stray),
        Some(cols) => Ok(cells(&cols, catalog, hidden)),
        None if granted.is_empty() => Ok(Vec::new()),
        None => Err(granted.clone()),
    }
}

fn cells(cols: &[Col], catalog: &Catalog, hidden: &Hidden) -> Vec<Option<Cell>> {
    let place = |of: &Base, name: &str| {
        cols.iter().position(|col| {
            col.base.as_ref().is_some_and(|b| b.scan == of.scan && *b.column == *name && !b.late)
        })
    };
    let cell = |base: &Base| {
        let cover = hidden.relations.get(&base.oid)?.get(&base.column)?;
        let column = catalog.relation(base.oid)?.column(&base.column)?;
        let subject = match (base.late, &cover.late) {
            (true, Some(late)) => late.subject.as_ref().and_then(|name| {
                let masked = hidden.relations.get(&base.oid).is_some_and(|c| c.contains_key(name));
                let kind = catalog.relation(base.oid)?.column(name)?.type_oid;
                if masked { None } else { place(base, name).map(|at| (at, kind)) }
            }),
            _ => None,
        };
        let class = cover.class.clone();
        Some(Cell { class, late: base.late, type_oid: column.type_oid, subject })
    };
    cols.iter().map(|col| col.base.as_ref().and_then(cell)).collect()
}

fn inner(node: &Node) -> Option<&NodeEnum> {
    node.node.as_ref()
}

fn text(node: &Node) -> Option<&str> {
    match inner(node)? {
        NodeEnum::String(s) => Some(&s.sval),
        _ => None,
    }
}

fn place(location: i32) -> usize {
    usize::try_from(location).unwrap_or(usize::MAX)
}

fn renames(alias: Option<&Alias>) -> bool {
    alias.is_some_and(|alias| !alias.colnames.is_empty())
}

impl Walk<'_> {
    // ---- queries ----

    /// The output columns of a query that is clear glass.
    fn select(&mut self, select: &SelectStmt) -> Option<Vec<Col>> {
        if self.depth >= DEPTH_MAX {
            return None;
        }
        self.depth += 1;
        let before = self.ctes.len();
        if let Some(with) = &select.with_clause {
            for node in &with.ctes {
                if let Some(NodeEnum::CommonTableExpr(cte)) = inner(node) {
                    let cols = if with.recursive { None } else { self.cte(cte) };
                    self.ctes.push(Cte { name: cte.ctename.as_str().into(), cols });
                }
            }
        }
        let plain = select.op == SetOperation::SetopNone as i32
            || select.op == SetOperation::Undefined as i32;
        let cols = if !plain {
            self.set_operation(select)
        } else if !select.values_lists.is_empty() {
            values(select)
        } else {
            self.plain_select(select)
        };
        self.ctes.truncate(before);
        self.depth -= 1;
        let cols = cols?;
        self.sorted_by_place(select, &cols)?;
        (cols.len() <= COLUMNS_MAX).then_some(cols)
    }

    fn cte(&mut self, cte: &CommonTableExpr) -> Option<Vec<Col>> {
        let other = !cte.aliascolnames.is_empty()
            || cte.search_clause.is_some()
            || cte.cycle_clause.is_some();
        let cols = match cte.ctequery.as_deref().and_then(inner) {
            Some(NodeEnum::SelectStmt(select)) => self.select(select)?,
            _ => return None,
        };
        if other {
            self.strays(&cols);
            return None;
        }
        Some(cols)
    }

    /// `UNION ALL`: of each column the same on either side, or it strays.
    fn set_operation(&mut self, select: &SelectStmt) -> Option<Vec<Col>> {
        if select.op != SetOperation::SetopUnion as i32 || !select.all {
            return None;
        }
        let left = select.larg.as_deref().and_then(|side| self.select(side));
        let right = select.rarg.as_deref().and_then(|side| self.select(side));
        let (Some(mut left), Some(right)) = (left.clone(), right.clone()) else {
            left.iter().chain(&right).for_each(|cols| self.strays(cols));
            return None;
        };
        if left.len() != right.len() {
            self.strays(&left);
            self.strays(&right);
            return None;
        }
        for (one, two) in left.iter_mut().zip(right) {
            let same = match (&one.base, &two.base) {
                (Some(a), Some(b)) => a.oid == b.oid && a.column == b.column && a.late == b.late,
                _ => false,
            };
            if !same {
                self.strays(std::slice::from_ref(one));
                self.strays(&[two]);
                one.base = None;
            } else if let Some(base) = &mut one.base {
                // Rows of two scans: whose they are is not one scan's to say.
                base.scan = usize::MAX;
            }
        }
        Some(left)
    }

    fn plain_select(&mut self, select: &SelectStmt) -> Option<Vec<Col>> {
        let glass = select.distinct_clause.is_empty()
            && select.group_clause.is_empty()
            && select.having_clause.is_none()
            && select.into_clause.is_none();
        let mut items = Vec::new();
        let mut merged = false;
        for node in &select.from_clause {
            merged |= self.item(node, &mut items);
        }
        for item in &items {
            self.know(item);
        }
        if let [node] = select.from_clause.as_slice()
            && let Some(NodeEnum::RangeVar(var)) = inner(node)
            && let Some(oid) = self.scanned(var)
        {
            // A relation with hidden columns stands only in what masks put in.
            self.walked.insert(place(var.location));
            self.asked(oid, select.where_clause.as_deref());
            return Some(self.mask(oid, var, select, &items));
        }
        if !glass {
            return None;
        }
        let mut cols = Vec::new();
        for node in &select.target_list {
            let Some(NodeEnum::ResTarget(target)) = inner(node) else { return None };
            self.target(target, &items, merged, &mut cols)?;
        }
        Some(cols)
    }

    /// The columns of the sub-select that stands for a relation.
    fn mask(&mut self, oid: u32, var: &RangeVar, select: &SelectStmt, items: &[Item]) -> Vec<Col> {
        let mut cols = Vec::new();
        let scan = place(var.location);
        for node in &select.target_list {
            let Some(NodeEnum::ResTarget(target)) = inner(node) else { continue };
            match target.val.as_deref().and_then(inner) {
                Some(NodeEnum::ColumnRef(_)) => {
                    // Nothing is merged: it is one relation.
                    if self.target(target, items, false, &mut cols).is_none() {
                        cols.push(Col::other(&target.name));
                    }
                }
                _ => {
                    let name: Arc<str> = target.name.as_str().into();
                    let base = Base { scan, oid, column: name.clone(), late: false };
                    cols.push(Col { name, base: Some(base) });
                }
            }
        }
        cols
    }

    /// `column OPERATOR(pg_catalog.=) value` that a mask asks of the values themselves, because
    /// the class lets it.
    fn asked(&mut self, oid: u32, condition: Option<&Node>) {
        let mut next: Vec<&Node> = condition.into_iter().collect();
        while let Some(node) = next.pop() {
            match inner(node) {
                Some(NodeEnum::BoolExpr(all)) => next.extend(&all.args),
                Some(NodeEnum::AExpr(e)) => {
                    if let Some(column) = asked_of(e)
                        && let Some(name) = column.fields.last().and_then(text)
                        && let Some(cover) =
                            self.hidden.relations.get(&oid).and_then(|c| c.get(name))
                        && cover.equality
                    {
                        self.plain.insert(place(column.location));
                    }
                }
                _ => {}
            }
        }
    }

    /// `ORDER BY 1` sorts by a value.
    fn sorted_by_place(&mut self, select: &SelectStmt, cols: &[Col]) -> Option<()> {
        for node in &select.sort_clause {
            let Some(NodeEnum::SortBy(sort)) = inner(node) else { continue };
            let Some(NodeEnum::AConst(constant)) = sort.node.as_deref().and_then(inner) else {
                continue;
            };
            match &constant.val {
                Some(Val::Ival(n)) => {
                    let at = usize::try_from(n.ival).ok().and_then(|n| n.checked_sub(1));
                    match at.and_then(|at| cols.get(at)) {
                        Some(col) => self.strays(std::slice::from_ref(col)),
                        None => self.strays(cols),
                    }
                }
                _ => self.strays(cols),
            }
        }
        Some(())
    }

    // ---- what stands in a FROM ----

    /// Adds the entries of a node. True: columns of its sides become one.
    fn item(&mut self, node: &Node, items: &mut Vec<Item>) -> bool {
        match inner(node) {
            Some(NodeEnum::RangeVar(var)) => {
                items.push(self.relation(var));
                false
            }
            Some(NodeEnum::RangeSubselect(sub)) => {
                items.push(self.sub_select(sub));
                false
            }
            Some(NodeEnum::JoinExpr(join)) => self.join(join, items),
            Some(NodeEnum::RangeFunction(of)) => {
                items.push(Item::foreign(of.alias.as_ref().map_or("", |alias| &alias.aliasname)));
                false
            }
            _ => {
                items.push(Item::foreign(""));
                false
            }
        }
    }

    fn relation(&mut self, var: &RangeVar) -> Item {
        let alias = var.alias.as_ref();
        let name: Arc<str> = alias.map_or(&var.relname, |a| &a.aliasname).as_str().into();
        let cte = self.ctes.iter().rev().find(|cte| *cte.name == *var.relname);
        let (cols, open) = match cte.filter(|_| var.schemaname.is_empty()) {
            Some(cte) => (cte.cols.clone(), false),
            None => match self.columns(var) {
                Some(cols) => (Some(cols), self.scanned(var).is_none()),
                None => return Item::foreign(&name),
            },
        };
        Item { alias: name, cols: self.unless_renamed(cols, alias), foreign: false, open }
    }

    fn sub_select(&mut self, sub: &RangeSubselect) -> Item {
        let alias = sub.alias.as_ref();
        let name = alias.map_or("", |alias| &alias.aliasname).into();
        let cols = match sub.subquery.as_deref().and_then(inner) {
            Some(NodeEnum::SelectStmt(select)) => self.select(select),
            _ => None,
        };
        let cols = self.unless_renamed(cols, alias);
        Item { alias: name, cols, foreign: false, open: false }
    }

    fn unless_renamed(
        &mut self,
        cols: Option<Vec<Col>>,
        alias: Option<&Alias>,
    ) -> Option<Vec<Col>> {
        let cols = cols?;
        if !renames(alias) {
            return Some(cols);
        }
        self.strays(&cols);
        None
    }

    fn join(&mut self, join: &JoinExpr, items: &mut Vec<Item>) -> bool {
        let start = items.len();
        let mut merged = false;
        for side in [join.larg.as_deref(), join.rarg.as_deref()].into_iter().flatten() {
            merged |= self.item(side, items);
        }
        self.compared.extend(join.using_clause.iter().filter_map(text).map(Arc::from));
        if join.is_natural || join.alias.is_some() || join.join_using_alias.is_some() {
            for item in items.iter_mut().skip(start) {
                if let Some(cols) = item.cols.take() {
                    self.strays(&cols);
                }
            }
        }
        merged || join.is_natural || !join.using_clause.is_empty()
    }

    /// The relation with hidden columns that a scan is of.
    fn scanned(&self, var: &RangeVar) -> Option<u32> {
        let at = place(var.location);
        let scan = self.marks.scans.iter().find(|scan| scan.location == at)?;
        self.hidden.relations.contains_key(&scan.oid).then_some(scan.oid)
    }

    fn columns(&self, var: &RangeVar) -> Option<Vec<Col>> {
        let at = place(var.location);
        let scan = self.marks.scans.iter().find(|scan| scan.location == at)?;
        let relation = self.catalog.relation(scan.oid)?;
        if relation.kind == RelationKind::View && self.hidden.relations.contains_key(&scan.oid) {
            return None;
        }
        let covers = self.hidden.relations.get(&scan.oid);
        let cols = relation.columns.iter().filter(|column| !column.dropped).map(|column| {
            let covered = covers.is_some_and(|covers| covers.contains_key(&column.name));
            let column = column.name.clone();
            let base = Base { scan: at, oid: scan.oid, column: column.clone(), late: covered };
            Col { name: column, base: Some(base) }
        });
        Some(cols.collect())
    }

    /// Remembers what an entry's name may stand for.
    fn know(&mut self, item: &Item) {
        let late: Vec<&Base> = item.cols.iter().flatten().filter_map(Col::late).collect();
        if item.foreign || (late.is_empty() && item.cols.is_some()) {
            *self.clean.entry(item.alias.clone()).or_default() += 1;
            return;
        }
        let names = item.cols.iter().flatten().map(|col| col.name.clone());
        self.rows.entry(item.alias.clone()).or_default().extend(names);
        for col in item.cols.iter().flatten() {
            self.follow(col);
        }
    }

    fn follow(&mut self, col: &Col) {
        if let Some(base) = col.late() {
            let of = (base.oid, base.column.clone());
            self.names.entry(col.name.clone()).or_default().insert(of);
        }
    }

    // ---- output columns ----

    fn target(
        &mut self,
        target: &ResTarget,
        items: &[Item],
        merged: bool,
        cols: &mut Vec<Col>,
    ) -> Option<()> {
        let value = target.val.as_deref().and_then(inner)?;
        let NodeEnum::ColumnRef(column) = value else {
            if let NodeEnum::AIndirection(e) = value
                && e.indirection.iter().any(|s| matches!(inner(s), Some(NodeEnum::AStar(_))))
            {
                // As many columns as its type has.
                return None;
            }
            cols.push(Col::other(if target.name.is_empty() { "?" } else { &target.name }));
            return Some(());
        };
        let names: Vec<&str> = column.fields.iter().filter_map(text).collect();
        let star = matches!(column.fields.last().and_then(inner), Some(NodeEnum::AStar(_)));
        if star {
            return self.star(column, &names, items, merged, cols);
        }
        let (name, qualifier) = match names.as_slice() {
            [name] => (*name, None),
            [.., qualifier, name] => (*name, Some(*qualifier)),
            [] => return None,
        };
        let mut of = items
            .iter()
            .filter(|item| qualifier.is_none_or(|q| *item.alias == *q))
            .flat_map(|item| item.cols.iter().flatten())
            .filter(|col| *col.name == *name);
        let out: Arc<str> = if target.name.is_empty() { name } else { &target.name }.into();
        let col = match (of.next(), of.next()) {
            (Some(col), None) => {
                self.plain.insert(place(column.location));
                Col { name: out, base: col.base.clone() }
            }
            _ => Col { name: out, base: None },
        };
        self.follow(&col);
        cols.push(col);
        Some(())
    }

    fn star(
        &mut self,
        column: &ColumnRef,
        names: &[&str],
        items: &[Item],
        merged: bool,
        cols: &mut Vec<Col>,
    ) -> Option<()> {
        let of: Vec<&Item> = match names.last() {
            None if merged => return None,
            None => items.iter().collect(),
            Some(name) => items.iter().filter(|item| *item.alias == **name).collect(),
        };
        if names.last().is_some() && of.len() != 1 {
            return None;
        }
        // What a relation has now it may not have when the statement runs, and places would move.
        // A query has what it names, or its own star was not fixed either.
        if of.iter().any(|item| item.open) {
            return None;
        }
        for item in of {
            cols.extend(item.cols.as_ref()?.iter().cloned());
        }
        self.plain.insert(place(column.location));
        Some(())
    }

    // ---- what strays ----

    fn strays(&mut self, cols: &[Col]) {
        let late = cols.iter().filter_map(Col::late);
        self.stray.extend(late.map(|base| (base.oid, base.column.clone())));
    }

    /// Every reference that is no output column, and may mean a value.
    fn settle(&mut self) {
        if self.granted.is_empty() {
            return;
        }
        // What nobody followed could go anywhere.
        for scan in self.marks.scans.iter().filter(|scan| !self.walked.contains(&scan.location)) {
            let of = self.granted.iter().filter(|(oid, _)| *oid == scan.oid);
            self.stray.extend(of.cloned());
        }
        for name in std::mem::take(&mut self.compared) {
            if let Some(of) = self.names.get(&name) {
                self.stray.extend(of.iter().cloned());
            }
        }
        for found in &self.marks.refs {
            if found.location != usize::MAX && self.plain.contains(&found.location) {
                continue;
            }
            match self.means(found) {
                Means::Nothing => {}
                Means::All => self.stray.extend(self.granted.iter().cloned()),
                Means::Named(of) => self.stray.extend(of),
            }
        }
    }

    fn means(&self, found: &Ref) -> Means {
        let (qualifier, last) = match (found.names.as_slice(), found.star) {
            ([], _) => return Means::All,
            ([.., q], true) => (Some(q), None),
            ([name], false) => (None, Some(name)),
            ([.., q, name], false) => (Some(q), Some(name)),
        };
        // Every entry of that name, wherever it stands, was followed and holds no value.
        let clean = |name: &Arc<str>| {
            let there = self.marks.aliases.iter().filter(|alias| *alias == name).count();
            self.clean.get(name) == Some(&there)
        };
        if qualifier.is_some_and(clean) {
            return Means::Nothing;
        }
        let Some(name) = last else { return Means::All };
        if let Some(of) = self.names.get(name) {
            return Means::Named(of.clone());
        }
        match qualifier {
            // The whole row, or a function of it that is written like a column.
            None if self.rows.contains_key(name) => Means::All,
            Some(q) if self.rows.get(q).is_some_and(|known| !known.contains(name)) => Means::All,
            _ => Means::Nothing,
        }
    }
}

enum Means {
    Nothing,
    All,
    Named(Stray),
}

fn asked_of(e: &AExpr) -> Option<&ColumnRef> {
    let own: Vec<&str> = e.name.iter().filter_map(text).collect();
    if own != ["pg_catalog", "="] {
        return None;
    }
    match e.lexpr.as_deref().and_then(inner) {
        Some(NodeEnum::ColumnRef(column)) => Some(column),
        _ => None,
    }
}

fn values(select: &SelectStmt) -> Option<Vec<Col>> {
    let Some(NodeEnum::List(first)) = select.values_lists.first().and_then(inner) else {
        return None;
    };
    Some((1..=first.items.len()).map(|n| Col::other(&format!("column{n}"))).collect())
}
