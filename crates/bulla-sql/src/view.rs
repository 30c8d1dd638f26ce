//! What a view reaches, read from its definition once per snapshot.

use crate::facts::{Effects, FunctionUse, RelationUse};

/// The facts of a view's own query.
#[derive(Debug, Default)]
pub struct Body {
    pub(crate) effects: Effects,
    pub(crate) relations: Vec<RelationUse>,
    pub(crate) functions: Vec<FunctionUse>,
    pub(crate) unknown: Vec<String>,
}
