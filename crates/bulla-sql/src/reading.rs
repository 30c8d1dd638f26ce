//! From parse tree to facts.

use crate::analyzer::{Limits, ReadError};
use crate::catalog::{Catalog, SearchPath};
use crate::facts::{Effects, Facts, Kind, Statement};
use crate::parse::Tree;

pub(crate) fn read(
    text: &str,
    tree: &Tree,
    _catalog: &Catalog,
    _path: &SearchPath,
    limits: &Limits,
) -> Result<Facts, ReadError> {
    let mut facts = Facts::default();
    if tree.parsed.stmts.len() > limits.statements_max {
        return Err(ReadError::TooComplex { what: "statements", max: limits.statements_max });
    }
    for raw in &tree.parsed.stmts {
        let start = usize::try_from(raw.stmt_location).unwrap_or(0);
        let len = usize::try_from(raw.stmt_len).unwrap_or(0);
        let end = if len == 0 { text.len() } else { start.saturating_add(len).min(text.len()) };
        let mut statement = Statement::new(Kind::Unknown, "", start..end);
        statement.effects |= Effects::UNKNOWN;
        statement.unknown.push("not read yet".to_owned());
        facts.statements.push(statement);
    }
    Ok(facts)
}
