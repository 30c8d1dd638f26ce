//! What the answer to a statement is made of: which query's rows come, in which form, and which of
//! its parts may hold values that only the gateway masks.

use std::collections::HashSet;

use pg_query::NodeEnum;
use pg_query::protobuf::{CopyStmt, DefElem, Node, ResTarget, ReturningClause};

use super::Cell;

/// `CURSOR_OPT_BINARY` of `nodes/parsenodes.h`: rows of such a cursor are in binary for everybody.
const CURSOR_BINARY: i32 = 1;

/// What the rows of one statement's answer are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    /// The masked column that an output column is, if it is one: one for each output column, or
    /// none at all where they are not known.
    pub cells: Vec<Option<Cell>>,
    /// Rows come as copy data in this form.
    pub copy: Option<CopyForm>,
}

impl Shape {
    /// Values come out, which MUST be masked before anybody sees them.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.cells.iter().flatten().any(|cell| cell.late)
    }
}

/// How `COPY … TO STDOUT` writes rows (the manual's page on COPY, "File Formats").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyForm {
    Text { delimiter: u8, null: String, header: bool },
    Csv { delimiter: u8, quote: u8, escape: u8, null: String, header: bool },
    Binary,
}

/// Whose rows a statement gives, as far as values may come out of it.
pub(super) struct Core<'n> {
    /// The query, or the write with a `RETURNING`.
    pub node: &'n Node,
    pub copy: Option<CopyForm>,
}

/// The core of a statement; none where none of its answers may hold values.
pub(super) fn core(node: &Node) -> Option<Core<'_>> {
    let plain = |node| Some(Core { node, copy: None });
    match node.node.as_ref()? {
        NodeEnum::SelectStmt(_)
        | NodeEnum::InsertStmt(_)
        | NodeEnum::UpdateStmt(_)
        | NodeEnum::DeleteStmt(_) => plain(node),
        NodeEnum::PrepareStmt(prepare) => match core(prepare.query.as_deref()?)? {
            Core { node, copy: None } => plain(node),
            Core { .. } => None,
        },
        NodeEnum::DeclareCursorStmt(declare) if declare.options & CURSOR_BINARY == 0 => {
            plain(declare.query.as_deref()?)
        }
        NodeEnum::CopyStmt(copy) if to_client(copy) => {
            let copied = form(copy)?;
            let node = match copy.query.as_deref() {
                Some(query) => core(query)?.node,
                None => node,
            };
            Some(Core { node, copy: Some(copied) })
        }
        _ => None,
    }
}

fn to_client(copy: &CopyStmt) -> bool {
    !copy.is_from && !copy.is_program && copy.filename.is_empty()
}

/// The form that the options ask for; none where one of them is not known.
fn form(copy: &CopyStmt) -> Option<CopyForm> {
    let mut format = "text".to_owned();
    let (mut delimiter, mut quote, mut escape) = (None, None, None);
    let (mut null, mut header) = (None, false);
    for node in &copy.options {
        let NodeEnum::DefElem(option) = node.node.as_ref()? else { return None };
        match option.defname.as_str() {
            "format" => format = word(option)?,
            "delimiter" => delimiter = Some(byte(option)?),
            "quote" => quote = Some(byte(option)?),
            "escape" => escape = Some(byte(option)?),
            "null" => null = Some(word(option)?),
            "header" => header = truth(option)?,
            "force_quote" => {}
            _ => return None,
        }
    }
    match format.as_str() {
        "text" => Some(CopyForm::Text {
            delimiter: delimiter.unwrap_or(b'\t'),
            null: null.unwrap_or_else(|| "\\N".to_owned()),
            header,
        }),
        "csv" => {
            let quote = quote.unwrap_or(b'"');
            Some(CopyForm::Csv {
                delimiter: delimiter.unwrap_or(b','),
                quote,
                escape: escape.unwrap_or(quote),
                null: null.unwrap_or_default(),
                header,
            })
        }
        "binary" => Some(CopyForm::Binary),
        _ => None,
    }
}

fn word(option: &DefElem) -> Option<String> {
    match option.arg.as_deref()?.node.as_ref()? {
        NodeEnum::String(s) => Some(s.sval.clone()),
        NodeEnum::TypeName(name) => match name.names.last()?.node.as_ref()? {
            NodeEnum::String(s) => Some(s.sval.clone()),
            _ => None,
        },
        _ => None,
    }
}

fn byte(option: &DefElem) -> Option<u8> {
    match word(option)?.as_bytes() {
        [one] if one.is_ascii() => Some(*one),
        _ => None,
    }
}

fn truth(option: &DefElem) -> Option<bool> {
    let Some(arg) = option.arg.as_deref() else { return Some(true) };
    match arg.node.as_ref()? {
        NodeEnum::Boolean(b) => Some(b.boolval),
        NodeEnum::Integer(n) => match n.ival {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        },
        _ => match word(option)?.to_ascii_lowercase().as_str() {
            "true" | "on" => Some(true),
            "false" | "off" => Some(false),
            _ => None,
        },
    }
}

/// A query, or the copy of a table, which becomes one; and no write.
pub(super) fn is_query(node: &Node) -> bool {
    matches!(node.node, Some(NodeEnum::SelectStmt(_) | NodeEnum::CopyStmt(_)))
}

/// The `RETURNING` of a write.
pub(super) fn returning(node: &Node) -> Option<&ReturningClause> {
    match node.node.as_ref()? {
        NodeEnum::InsertStmt(insert) => insert.returning_clause.as_ref(),
        NodeEnum::UpdateStmt(update) => update.returning_clause.as_ref(),
        NodeEnum::DeleteStmt(delete) => delete.returning_clause.as_ref(),
        _ => None,
    }
}

/// Places of references that are whole entries of a write's own `RETURNING`.
pub(super) fn returned(node: &Node) -> HashSet<usize> {
    let Some(clause) = returning(node) else { return HashSet::new() };
    let plain = |node: &Node| match target(node)?.val.as_deref()?.node.as_ref()? {
        NodeEnum::ColumnRef(column) => usize::try_from(column.location).ok(),
        _ => None,
    };
    clause.exprs.iter().filter_map(plain).collect()
}

pub(super) fn target(node: &Node) -> Option<&ResTarget> {
    match node.node.as_ref()? {
        NodeEnum::ResTarget(target) => Some(target),
        _ => None,
    }
}
