//! Where in a text things stand, for whoever rewrites it. Kept beside the facts, on request only.

use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{
    AExprKind, BoolExprType, ColumnRef, CopyStmt, JoinType, Node, RangeVar, SelectStmt,
};

use super::{FoundRelation, R, Reader, inner};
use crate::facts::{Access, Resolved};

/// Everything of one statement that a rewriting needs to know.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    pub scans: Vec<Scan>,
    pub targets: Vec<Target>,
    pub copies: Vec<Copy>,
    pub reads: Vec<Read>,
    /// The relations of the uses that reads speak of, and how those are used.
    pub uses: Vec<(Option<u32>, Access)>,
    pub equals: Vec<Equal>,
    pub groups: Vec<Group>,
    /// Every column reference there is, whatever it means.
    pub refs: Vec<Ref>,
    /// Names of all entries of all `FROM`s.
    pub aliases: Vec<Arc<str>>,
    /// A `NATURAL` join: which columns there are decides.
    pub natural: bool,
}

impl Marks {
    /// The relation that a read is of; none for what is only written.
    pub fn relation(&self, read: &Read) -> Option<u32> {
        self.uses.get(read.at).filter(|(_, access)| *access == Access::Select)?.0
    }
}

/// A relation in a `FROM`.
#[derive(Debug)]
pub(crate) struct Scan {
    pub oid: u32,
    /// Its alias, or its name.
    pub name: Arc<str>,
    /// Where its name begins, in bytes.
    pub location: usize,
    /// Not `ONLY`.
    pub children: bool,
    pub alias: bool,
    /// `AS alias (a, b)`
    pub renamed: bool,
    pub sampled: bool,
    /// The query whose `FROM` it is in, and whether an outer join may leave it empty there.
    pub level: usize,
    pub nullable: bool,
}

/// A plain `GROUP BY`.
#[derive(Debug)]
pub(crate) struct Group {
    pub level: usize,
    /// Where its first expression stands, somewhere in it.
    pub first: usize,
    /// Columns that it names, and those that stand in the select list for themselves.
    pub columns: Vec<usize>,
    pub targets: Vec<usize>,
}

/// `column = value` among what a query's `WHERE` demands.
#[derive(Debug)]
pub(crate) struct Equal {
    pub level: usize,
    /// Where the column and the value begin.
    pub column: usize,
    pub value: usize,
}

/// Whether the left and the right side of a join may be empty.
pub(super) fn may_be_empty(jointype: i32) -> (bool, bool) {
    match JoinType::try_from(jointype) {
        Ok(JoinType::JoinInner) => (false, false),
        Ok(JoinType::JoinLeft) => (false, true),
        Ok(JoinType::JoinRight) => (true, false),
        _ => (true, true),
    }
}

/// Where a constant or a parameter begins, cast or not.
fn value_at(node: &Node) -> Option<usize> {
    match inner(node)? {
        NodeEnum::ParamRef(param) => Some(place(param.location)),
        NodeEnum::AConst(constant) if !constant.isnull => Some(place(constant.location)),
        NodeEnum::TypeCast(cast) => value_at(cast.arg.as_deref()?),
        _ => None,
    }
}

/// What a write writes to.
#[derive(Debug)]
pub(crate) struct Target {
    pub oid: u32,
    /// Its alias, or its name.
    pub alias: Arc<str>,
    /// Other relations stand beside it, so that `*` is more than it.
    pub beside: bool,
    /// The query that it is written in.
    pub level: usize,
}

/// `COPY table`
#[derive(Debug)]
pub(crate) struct Copy {
    pub oid: u32,
    pub location: usize,
    /// Empty: all.
    pub columns: Vec<Arc<str>>,
    pub from: bool,
}

/// A read of a column, or of all (`None`).
#[derive(Debug)]
pub(crate) struct Read {
    pub at: usize,
    pub column: Option<Arc<str>>,
    /// `None`: no column reference says so (`USING`, whole rows of joins).
    pub spot: Option<Spot>,
    pub region: Region,
    /// The query that it stands in.
    pub level: usize,
}

/// A column reference as it is written.
#[derive(Debug)]
pub(crate) struct Ref {
    /// `usize::MAX`: it is not written (`TABLE x`).
    pub location: usize,
    /// Without the star.
    pub names: Vec<Arc<str>>,
    pub star: bool,
}

/// A column reference.
#[derive(Debug, Clone)]
pub(crate) struct Spot {
    pub location: usize,
    /// Names of it, a star included.
    pub parts: usize,
    pub star: bool,
    /// A schema stands in it.
    pub schema: bool,
    pub qualifier: Option<Arc<str>>,
}

/// In which part of a statement something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Region {
    #[default]
    Query,
    /// The columns of `ON CONFLICT (…)`.
    Infer,
    /// `ON CONFLICT … DO UPDATE`
    Conflict,
    Returning,
}

fn oid(resolved: &Resolved) -> Option<u32> {
    match resolved {
        Resolved::Known(known) => Some(known.oid),
        Resolved::Temp | Resolved::Made(_) | Resolved::Unresolved => None,
    }
}

fn place(location: i32) -> usize {
    usize::try_from(location).unwrap_or(usize::MAX)
}

impl<'a> Reader<'a> {
    pub(super) fn take_marks(&mut self) -> Marks {
        let mut marks = self.marks.take().unwrap_or_default();
        marks.uses = self.out.relations.iter().map(|r| (oid(&r.resolved), r.access)).collect();
        marks
    }

    /// A column reference, with its place.
    pub(super) fn column(&mut self, column: &ColumnRef) -> R {
        let star =
            column.fields.last().and_then(inner).is_some_and(|f| matches!(f, NodeEnum::AStar(_)));
        let spot = Spot {
            location: place(column.location),
            parts: column.fields.len(),
            star,
            schema: column.fields.len() > 2,
            qualifier: column.fields.iter().rev().nth(1).and_then(super::string).map(Arc::from),
        };
        if let Some(marks) = &mut self.marks {
            let names = column.fields.iter().filter_map(super::string).map(Arc::from).collect();
            marks.refs.push(Ref { location: spot.location, names, star });
        }
        let before = self.spot.replace(spot);
        let result = self.column_ref(&column.fields);
        self.spot = before;
        result
    }

    /// A query begins; what was read before is given back.
    pub(super) fn enter_level(&mut self) -> (usize, bool) {
        self.levels += 1;
        let level = std::mem::replace(&mut self.level, self.levels);
        (level, std::mem::replace(&mut self.nullable, false))
    }

    pub(super) fn leave_level(&mut self, (level, nullable): (usize, bool)) {
        (self.level, self.nullable) = (level, nullable);
    }

    /// Reads a side of a join.
    pub(super) fn beside<T>(&mut self, may: bool, step: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.nullable;
        self.nullable |= may;
        let result = step(self);
        self.nullable = before;
        result
    }

    pub(super) fn mark_group(&mut self, select: &SelectStmt) {
        let level = self.level;
        let Some(marks) = &mut self.marks else { return };
        let column = |node: &Node| match inner(node) {
            Some(NodeEnum::ColumnRef(column)) => Some(place(column.location)),
            _ => None,
        };
        let first = match select.group_clause.first().and_then(inner) {
            Some(NodeEnum::ColumnRef(column)) => place(column.location),
            Some(NodeEnum::AConst(constant)) => place(constant.location),
            Some(NodeEnum::FuncCall(call)) => place(call.location),
            _ => return,
        };
        let columns = select.group_clause.iter().filter_map(column).collect();
        let targets = select.target_list.iter().filter_map(|node| match inner(node) {
            Some(NodeEnum::ResTarget(target)) => target.val.as_deref().and_then(column),
            _ => None,
        });
        marks.groups.push(Group { level, first, columns, targets: targets.collect() });
    }

    pub(super) fn mark_equals(&mut self, node: Option<&Node>) {
        let level = self.level;
        let Some(marks) = &mut self.marks else { return };
        let mut next: Vec<&Node> = node.into_iter().collect();
        while let Some(node) = next.pop() {
            match inner(node) {
                Some(NodeEnum::BoolExpr(all)) if all.boolop == BoolExprType::AndExpr as i32 => {
                    next.extend(&all.args);
                }
                Some(NodeEnum::AExpr(e)) if e.kind == AExprKind::AexprOp as i32 => {
                    let equals = matches!(super::strings(&e.name).as_slice(), ["="]);
                    let column = match e.lexpr.as_deref().and_then(inner) {
                        Some(NodeEnum::ColumnRef(column)) => Some(place(column.location)),
                        _ => None,
                    };
                    let value = e.rexpr.as_deref().and_then(value_at);
                    if let (true, Some(column), Some(value)) = (equals, column, value) {
                        marks.equals.push(Equal { level, column, value });
                    }
                }
                _ => {}
            }
        }
    }

    pub(super) fn mark_scan(&mut self, var: &RangeVar, found: &FoundRelation<'a>) {
        let (sampled, level, nullable) = (self.sampling, self.level, self.nullable);
        if let (Some(marks), Some(oid)) = (&mut self.marks, oid(&found.resolved)) {
            let alias = var.alias.as_ref();
            let name = alias.map_or(&var.relname, |a| &a.aliasname).as_str().into();
            marks.scans.push(Scan {
                oid,
                name,
                location: place(var.location),
                children: var.inh,
                alias: alias.is_some(),
                renamed: alias.is_some_and(|a| !a.colnames.is_empty()),
                sampled,
                level,
                nullable,
            });
        }
    }

    pub(super) fn mark_target(&mut self, var: &RangeVar, found: &FoundRelation<'a>, beside: bool) {
        let level = self.level;
        if let (Some(marks), Some(oid)) = (&mut self.marks, oid(&found.resolved)) {
            let alias = var.alias.as_ref().map_or(&var.relname, |a| &a.aliasname);
            let alias = alias.as_str().into();
            marks.targets.push(Target { oid, alias, beside, level });
        }
    }

    pub(super) fn mark_copy(&mut self, copy: &CopyStmt, var: &RangeVar, found: &FoundRelation<'a>) {
        if let (Some(marks), Some(oid)) = (&mut self.marks, oid(&found.resolved)) {
            let columns = copy.attlist.iter().filter_map(super::string).map(Arc::from).collect();
            let location = place(var.location);
            marks.copies.push(Copy { oid, location, columns, from: copy.is_from });
        }
    }

    /// Runs `step` in a part of the statement.
    pub(super) fn within<T>(&mut self, region: Region, step: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.region, region);
        let result = step(self);
        self.region = before;
        result
    }
}
