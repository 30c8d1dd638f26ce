//! What a write sets off beside itself: code of triggers, defaults and checks, and rows of other
//! relations that follow through foreign keys.

use std::collections::BTreeSet;

use super::Catalog;
use crate::facts::{Access, Columns};

/// What writes to a relation set off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acts {
    /// Functions that somebody made, and that belong to no extension: of triggers, defaults,
    /// checks, generated columns, indexes, or checks of a column's domain.
    pub runs: bool,
    /// Relations whose rows fall or change with a row of this one that is deleted.
    pub deletes: Vec<u32>,
    /// The same where one of `keys` changes.
    pub updates: Vec<u32>,
    pub keys: Vec<i16>,
}

impl Catalog {
    /// The relations whose code may run, or whose rows may change, because of such an access to one
    /// of them: itself, if rows are written at all, and who follows through foreign keys.
    pub(crate) fn set_off(&self, oid: u32, access: Access, columns: &Columns) -> BTreeSet<u32> {
        let (deletes, updates) = match access {
            Access::Insert | Access::CopyFrom | Access::Alter | Access::Maintain => (false, false),
            Access::Update => (false, self.is_keyed(oid, columns)),
            Access::Delete => (true, false),
            Access::Merge | Access::Truncate => (true, true),
            Access::Select
            | Access::CopyTo
            | Access::Lock
            | Access::Create
            | Access::Drop
            | Access::Grant => return BTreeSet::new(),
        };
        let mut found = BTreeSet::from([oid]);
        let mut next = Vec::new();
        if let Some(relation) = self.relation(oid) {
            next.extend(relation.acts.deletes.iter().filter(|_| deletes));
            next.extend(relation.acts.updates.iter().filter(|_| updates));
        }
        // Whether a row further on falls or changes is not told apart.
        while let Some(oid) = next.pop() {
            if found.insert(oid)
                && let Some(relation) = self.relation(oid)
            {
                let acts = &relation.acts;
                next.extend(acts.deletes.iter().chain(&acts.updates).chain(&relation.children));
            }
        }
        found
    }

    /// Whether a change of these columns may change a key that others refer to.
    fn is_keyed(&self, oid: u32, columns: &Columns) -> bool {
        let Some(relation) = self.relation(oid) else { return true };
        match columns {
            Columns::Known(names) => relation
                .columns
                .iter()
                .any(|c| relation.acts.keys.contains(&c.attnum) && names.contains(&c.name)),
            Columns::All | Columns::Unknown => !relation.acts.keys.is_empty(),
        }
    }
}
