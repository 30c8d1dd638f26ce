//! `SELECT *` of a join, spelled out.
//!
//! Which columns `*` has is decided when the statement runs. A sub-select that stands for a relation
//! has those that it names; a relation beside it has those that it has by then, and the places of
//! values to be masked would move with them. So where values come out beside such a relation, `*`
//! becomes the columns that the snapshot knows, in their order.

use std::collections::HashSet;

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, RangeVar, SelectStmt};

use super::shape::target;
use super::text::Text;
use super::{Edit, Hidden, quoted};
use crate::catalog::{Catalog, Relation};
use crate::reading::marks::Marks;

/// Queries inside each other that are looked into.
const DEPTH_MAX: usize = 64;

pub(super) struct Stars<'a> {
    pub catalog: &'a Catalog,
    pub hidden: &'a Hidden,
    pub marks: &'a Marks,
    pub at: &'a Text<'a>,
}

/// An entry of a `FROM` that is a relation.
struct Entry<'a> {
    name: &'a str,
    relation: &'a Relation,
}

impl Stars<'_> {
    /// Edits of the stars in a query and in those that it is made of.
    pub fn edits(&self, node: &Node) -> Vec<Edit> {
        let mut out = Vec::new();
        if let Some(NodeEnum::SelectStmt(select)) = node.node.as_ref() {
            self.query(select, 0, &mut out);
        }
        out
    }

    fn query(&self, select: &SelectStmt, depth: usize, out: &mut Vec<Edit>) {
        if depth >= DEPTH_MAX {
            return;
        }
        for node in select.with_clause.iter().flat_map(|with| &with.ctes) {
            if let Some(NodeEnum::CommonTableExpr(cte)) = node.node.as_ref()
                && let Some(NodeEnum::SelectStmt(query)) =
                    cte.ctequery.as_deref().and_then(|q| q.node.as_ref())
            {
                self.query(query, depth + 1, out);
            }
        }
        for side in [&select.larg, &select.rarg].into_iter().flatten() {
            self.query(side, depth + 1, out);
        }
        let mut from = From::default();
        select.from_clause.iter().for_each(|node| from.add(node, 0));
        for query in &from.queries {
            self.query(query, depth + 1, out);
        }
        if from.is_plain() {
            self.stars(select, &from.relations, out);
        }
    }

    fn stars(&self, select: &SelectStmt, relations: &[&RangeVar], out: &mut Vec<Edit>) {
        let entries: Option<Vec<Entry<'_>>> = relations.iter().map(|var| self.entry(var)).collect();
        let Some(entries) = entries else { return };
        let names: HashSet<&str> = entries.iter().map(|entry| entry.name).collect();
        let late = |entry: &Entry<'_>| {
            let covers = self.hidden.relations.get(&entry.relation.oid);
            covers.is_some_and(|covers| covers.values().any(|cover| cover.late.is_some()))
        };
        if names.len() < entries.len() || !entries.iter().any(late) {
            return;
        }
        for node in &select.target_list {
            let Some(NodeEnum::ColumnRef(column)) =
                target(node).and_then(|t| t.val.as_deref()).and_then(|val| val.node.as_ref())
            else {
                continue;
            };
            let field = |node: &Node| match node.node.as_ref() {
                Some(NodeEnum::String(s)) => Some(s.sval.clone()),
                _ => None,
            };
            let of: Vec<&Entry<'_>> = match column.fields.as_slice() {
                [star] if field(star).is_none() => entries.iter().collect(),
                [name, star] if field(star).is_none() => {
                    let name = field(name);
                    entries.iter().filter(|e| Some(e.name) == name.as_deref()).collect()
                }
                _ => continue,
            };
            let place = usize::try_from(column.location).unwrap_or(usize::MAX);
            let Some(span) = self.at.names(place, column.fields.len()) else { continue };
            let columns: Vec<String> = of.iter().flat_map(|entry| columns(entry)).collect();
            // Nothing would be no entry of the list.
            if !columns.is_empty() {
                out.push(Edit::new(span, columns.join(", ")));
            }
        }
    }

    fn entry<'s>(&'s self, var: &'s RangeVar) -> Option<Entry<'s>> {
        let place = usize::try_from(var.location).ok()?;
        let scan = self.marks.scans.iter().find(|scan| scan.location == place)?;
        let relation = self.catalog.relation(scan.oid)?;
        let name = var.alias.as_ref().map_or(&var.relname, |alias| &alias.aliasname);
        (!scan.renamed && !relation.columns.is_empty()).then_some(Entry { name, relation })
    }
}

fn columns(entry: &Entry<'_>) -> Vec<String> {
    let live = entry.relation.columns.iter().filter(|column| !column.dropped);
    live.map(|column| format!("{}.{}", quoted(entry.name), quoted(&column.name))).collect()
}

/// The entries of a `FROM`.
#[derive(Default)]
struct From<'n> {
    relations: Vec<&'n RangeVar>,
    queries: Vec<&'n SelectStmt>,
    /// Something else is among them, or columns of two sides become one.
    other: bool,
}

impl<'n> From<'n> {
    fn is_plain(&self) -> bool {
        !self.other && self.queries.is_empty() && self.relations.len() > 1
    }

    fn add(&mut self, node: &'n Node, depth: usize) {
        match node.node.as_ref() {
            Some(NodeEnum::RangeVar(var)) => self.relations.push(var),
            Some(NodeEnum::RangeSubselect(sub)) => {
                match sub.subquery.as_deref().and_then(|query| query.node.as_ref()) {
                    Some(NodeEnum::SelectStmt(query)) => self.queries.push(query),
                    _ => self.other = true,
                }
            }
            Some(NodeEnum::JoinExpr(join)) if depth < DEPTH_MAX => {
                self.other |= join.is_natural
                    || !join.using_clause.is_empty()
                    || join.alias.is_some()
                    || join.join_using_alias.is_some();
                for side in [join.larg.as_deref(), join.rarg.as_deref()].into_iter().flatten() {
                    self.add(side, depth + 1);
                }
            }
            _ => self.other = true,
        }
    }
}
