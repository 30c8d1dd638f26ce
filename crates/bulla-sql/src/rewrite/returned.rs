//! What the output columns of a `RETURNING` are, in the text that is sent.
//!
//! Every reference to a hidden column there was replaced on its own: by its mask, or, where it is a
//! whole entry of the statement's own list, by itself, so that the gateway masks the cell. What was
//! put in says which columns it gives; a reference that it did not put in gives no hidden column.

use std::collections::BTreeMap;
use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::Node;

use super::outputs::Stray;
use super::shape::{returning, target};
use super::{Cell, Hidden, Put};
use crate::catalog::Catalog;
use crate::reading::marks::{Marks, Region};

/// The output columns of a write; empty where they are not known. `put`: what was put in, by its
/// place in what is sent. `Err`: values of these come out, and it is not known where.
pub(super) fn returned(
    node: &Node,
    marks: &Marks,
    (catalog, hidden): (&Catalog, &Hidden),
    put: &BTreeMap<usize, Put>,
    granted: &Stray,
) -> Result<Vec<Option<Cell>>, Stray> {
    let unknown = || if granted.is_empty() { Ok(Vec::new()) } else { Err(granted.clone()) };
    let Some(clause) = returning(node) else { return unknown() };
    let mut columns: Vec<Option<(u32, Arc<str>, bool)>> = Vec::new();
    for node in &clause.exprs {
        let Some(target) = target(node) else { return unknown() };
        let Some(value) = target.val.as_deref().and_then(|val| val.node.as_ref()) else {
            return unknown();
        };
        let star = |node: &Node| matches!(node.node, Some(NodeEnum::AStar(_)));
        match value {
            NodeEnum::ColumnRef(column) if column.fields.iter().any(star) => return unknown(),
            NodeEnum::AIndirection(of) if of.indirection.iter().any(star) => return unknown(),
            NodeEnum::ColumnRef(column) => {
                let place = usize::try_from(column.location).unwrap_or(usize::MAX);
                columns.push(plain(marks, place, hidden));
            }
            _ => {
                let place = usize::try_from(target.location).unwrap_or(usize::MAX);
                let put = put.get(&place);
                columns.push(put.map(|put| (put.oid, put.column.clone(), false)));
            }
        }
    }
    // Each value that comes out does so where it was seen to.
    let seen: Stray = columns
        .iter()
        .flatten()
        .filter(|(_, _, late)| *late)
        .map(|(oid, column, _)| (*oid, column.clone()))
        .collect();
    if seen != *granted {
        return Err(granted.clone());
    }
    Ok(columns.iter().map(|column| cell(column.as_ref(), &columns, catalog, hidden)).collect())
}

type Column = (u32, Arc<str>, bool);

/// The column that a reference is; `true`: a hidden one, so that its value comes out.
fn plain(marks: &Marks, place: usize, hidden: &Hidden) -> Option<Column> {
    let mut found = None;
    for read in marks.reads.iter().filter(|read| read.region == Region::Returning) {
        if read.spot.as_ref().is_none_or(|spot| spot.location != place) {
            continue;
        }
        let (Some(oid), Some(column)) = (marks.relation(read), &read.column) else { continue };
        let late = hidden.relations.get(&oid).is_some_and(|c| c.contains_key(column));
        // The hidden one counts, whatever else the name could mean.
        if found.is_none() || late {
            found = Some((oid, column.clone(), late));
        }
    }
    found
}

fn cell(
    column: Option<&Column>,
    all: &[Option<Column>],
    catalog: &Catalog,
    hidden: &Hidden,
) -> Option<Cell> {
    let (oid, name, late) = column?;
    let cover = hidden.relations.get(oid)?.get(name)?;
    let relation = catalog.relation(*oid)?;
    let subject = cover.late.as_ref().filter(|_| *late).and_then(|of| of.subject.as_ref());
    let subject = subject.and_then(|subject| {
        let kind = relation.column(subject)?.type_oid;
        let clear = |c: &Column| c.0 == *oid && c.1 == *subject && !c.2;
        let masked = hidden.relations.get(oid).is_some_and(|c| c.contains_key(subject));
        let at = all.iter().position(|column| column.as_ref().is_some_and(clear))?;
        (!masked).then_some((at, kind))
    });
    let type_oid = relation.column(name)?.type_oid;
    Some(Cell { class: cover.class.clone(), late: *late, type_oid, subject })
}
