//! What each statement of a text will have changed in the session once the server confirms it:
//! names, search path, temporary relations, the transaction.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use bulla_core::Parameter;
use bulla_sql::{
    Catalog, Effects, Facts, Kind, SearchPath, Statement,
    catalog::Volatility,
    facts::{
        Access, CopyDirection, CopyTarget, Created, CreatedKind, FunctionClass, FunctionUse,
        NameUse, RelationUse, Resolved, Tx,
    },
    settings::{SettingAction, SettingScope, SettingValue},
};

use crate::{
    names::{Change, Portal, Prepared},
    world::Turn,
};

/// Of one statement.
#[derive(Debug, Default)]
pub struct Step {
    pub turns: Vec<Turn>,
    pub statements: Vec<Change<Prepared>>,
    pub portals: Vec<Change<Portal>>,
}

impl Step {
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty() && self.statements.is_empty() && self.portals.is_empty()
    }
}

/// Code whose body nobody read, and that could change the session.
fn is_opaque(function: &FunctionUse, catalog: &Catalog) -> bool {
    match function.class {
        FunctionClass::Reviewed | FunctionClass::Harmless | FunctionClass::Volatile => false,
        FunctionClass::Dangerous(_) | FunctionClass::Unresolved => true,
        // The server keeps stable and immutable functions from changing anything; compiled ones of
        // an extension are not SQL.
        FunctionClass::User => catalog
            .functions_named(&function.name)
            .iter()
            .filter(|known| function.schema.as_ref().is_none_or(|s| *s == known.schema))
            .any(|known| {
                let compiled = matches!(&*known.language, "c" | "internal");
                known.volatility == Volatility::Volatile
                    && !(compiled && function.extension.is_some())
            }),
    }
}

/// Settings that are roles in effect.
const ROLES: [&str; 2] = ["role", "session_authorization"];

/// What a statement does to the world, in order. `initial` is the path that `RESET` goes back to.
pub fn turns(statement: &Statement, catalog: &Catalog, initial: Option<&Arc<str>>) -> Vec<Turn> {
    let mut turns = Vec::new();
    let opaque = matches!(statement.kind, Kind::Do | Kind::Call | Kind::Unknown)
        || statement.functions.iter().any(|f| is_opaque(f, catalog));
    if opaque {
        turns.push(Turn::Opaque);
    }
    for setting in &statement.settings {
        let here = match setting.scope {
            SettingScope::Session | SettingScope::Local => true,
            SettingScope::Transaction
            | SettingScope::Role
            | SettingScope::Database
            | SettingScope::System => false,
        };
        let sets = setting.action != SettingAction::Show;
        let role = setting.name.as_ref().is_none_or(|name| ROLES.contains(&&**name));
        if here && sets && role {
            turns.push(Turn::Role);
        }
        let ours = match (&setting.name, setting.action) {
            (_, SettingAction::Show) => false,
            (_, SettingAction::ResetAll) => true,
            // Which one could not be told, so it may be ours.
            (None, _) => true,
            (Some(name), _) => name == "search_path",
        };
        if !here || !ours {
            continue;
        }
        let to = match (setting.action, &setting.value) {
            (SettingAction::Reset | SettingAction::ResetAll, _)
            | (SettingAction::Set, SettingValue::Default)
                if setting.name.is_some() || setting.action == SettingAction::ResetAll =>
            {
                initial.cloned()
            }
            (SettingAction::Set, SettingValue::Literal(value)) if setting.name.is_some() => {
                // Which role it is under is not asked: a list is a list for each.
                let sound = SearchPath::parse(value, "").schemas().is_some();
                sound.then(|| value.as_str().into())
            }
            _ => None,
        };
        turns.push(Turn::Path { to, local: setting.scope == SettingScope::Local });
    }
    let temporary = statement.kind == Kind::Discard
        || statement.creates.iter().any(|made| made.temporary)
        || statement.relations.iter().any(|relation| {
            matches!(relation.access, Access::Drop | Access::Alter)
                && relation.resolved == Resolved::Temp
        });
    if temporary {
        turns.push(Turn::Temporary);
    }
    if changes_objects(statement) {
        turns.push(Turn::Schema);
    }
    turns.extend(match &statement.transaction {
        Some(Tx::Commit { .. } | Tx::Prepare(_)) => Some(Turn::Commit),
        Some(Tx::Rollback { .. }) => Some(Turn::Rollback),
        Some(Tx::RollbackTo(_)) => Some(Turn::Back),
        Some(
            Tx::Begin { .. }
            | Tx::Savepoint(_)
            | Tx::Release(_)
            | Tx::CommitPrepared(_)
            | Tx::RollbackPrepared(_),
        )
        | None => None,
    });
    turns
}

/// Others will have to learn of what it makes, changes or drops.
pub fn changes_objects(statement: &Statement) -> bool {
    statement.effects.contains(Effects::SCHEMA) && !only_temporary(statement)
}

/// Everything that it makes, changes or drops is the session's own: nobody else has to learn of it.
fn only_temporary(statement: &Statement) -> bool {
    let changed = statement.relations.iter().filter(|relation| {
        matches!(relation.access, Access::Create | Access::Alter | Access::Drop | Access::Grant)
    });
    let mut some = !statement.creates.is_empty();
    for relation in changed {
        some = true;
        let made = statement.creates.iter().any(|c| c.temporary && *c.name == *relation.name);
        if relation.resolved != Resolved::Temp && !made {
            return false;
        }
    }
    some && statement.creates.iter().all(|made| made.temporary)
}

/// Whether what follows in the same text may be looked up elsewhere than what came before.
pub fn moves_names(turns: &[Turn]) -> bool {
    turns.iter().any(|turn| match turn {
        Turn::Path { .. } | Turn::Role | Turn::Temporary | Turn::Opaque => true,
        Turn::Schema | Turn::Commit | Turn::Rollback | Turn::Back => false,
    })
}

/// What earlier statements of the same text made, changed or dropped. The catalogue cannot be looked
/// at between them: tables that they made anew are followed, and what else they touched is in doubt
/// behind that.
#[derive(Default)]
pub struct Moved {
    names: BTreeSet<Arc<str>>,
    /// Any name may lead elsewhere.
    schemas: bool,
    /// Schemas that are made, and that no path has found yet.
    new: BTreeSet<Arc<str>>,
    /// Tables, by schema and name, and temporary ones.
    made: BTreeSet<(Arc<str>, Arc<str>)>,
    temporary: BTreeSet<Arc<str>>,
}

impl Moved {
    /// The path with what was made on it.
    pub fn on(&self, path: &Arc<SearchPath>) -> Arc<SearchPath> {
        if self.made.is_empty() {
            return path.clone();
        }
        Arc::new((**path).clone().with_made(self.made.clone()))
    }

    fn is_doubtful(&self, relation: &RelationUse, lost: bool) -> bool {
        if relation.via.is_some() || relation.access == Access::Create {
            return false;
        }
        match &relation.resolved {
            _ if lost => true,
            Resolved::Made(_) => false,
            Resolved::Temp if self.temporary.contains(&relation.name) => false,
            _ => self.names.contains(&relation.name) || self.is_implied(&relation.name),
        }
    }

    /// The sequence of a column of something that was made.
    fn is_implied(&self, name: &str) -> bool {
        name.ends_with("_seq")
            && self.names.iter().any(|made| {
                let kept = made.char_indices().take_while(|(at, _)| *at < IMPLIED_BYTES).count();
                let start: String = made.chars().take(kept).collect();
                name.starts_with(&start)
            })
    }

    pub fn doubt(&self, statement: &mut Statement, path: &SearchPath) {
        let lost = self.schemas
            || path.schemas().is_none_or(|path| path.iter().any(|s| self.new.contains(&**s)));
        let moved = statement.relations.iter().find(|r| self.is_doubtful(r, lost && self.any()));
        if let Some(relation) = moved {
            let why = format!("`{}`: changed earlier in the same text", relation.name);
            if !statement.unknown.contains(&why) {
                statement.unknown.push(why);
            }
            statement.effects |= Effects::UNKNOWN;
        }
    }

    fn any(&self) -> bool {
        self.schemas || !self.new.is_empty()
    }

    /// A transaction was rolled back, or code ran that nobody read.
    pub fn forget(&mut self) {
        self.made.clear();
        self.temporary.clear();
    }

    /// Follows a statement. Some: of temporary relations, a table of that name now stands in front,
    /// and nothing else has changed.
    pub fn follow(&mut self, statement: &Statement) -> Option<String> {
        if !statement.effects.contains(Effects::SCHEMA) {
            return None;
        }
        if let Some(table) = table_made(statement) {
            return self.make(statement, table);
        }
        let made = statement.creates.iter().map(|made| Arc::<str>::from(&*made.name));
        if statement.tag == "CREATE SCHEMA" && statement.relations.is_empty() {
            self.new.extend(made);
            return None;
        }
        if statement.tag == "CREATE INDEX" {
            // To index a table moves no name but the index's own.
            self.names.extend(made);
            return self.own_temporary(statement);
        }
        let changed = statement.relations.iter().filter(|relation| {
            matches!(relation.access, Access::Create | Access::Alter | Access::Drop)
        });
        let changed: BTreeSet<_> = changed.map(|relation| relation.name.clone()).collect();
        // To add a column moves no name.
        let alters_one = statement.creates.is_empty()
            && changed.len() == 1
            && statement.relations.iter().all(|relation| relation.access != Access::Drop);
        if !alters_one {
            self.names.extend(made);
        }
        let harmless = matches!(statement.tag, "ALTER TABLE" | "COMMENT" | "CREATE STATISTICS");
        if !(alters_one && harmless) {
            self.made.retain(|(_, name)| !changed.contains(name));
            self.temporary.retain(|name| !changed.contains(name));
        }
        if !alters_one {
            self.names.extend(changed);
        }
        // Of functions, operators and their kin which one it was is not followed.
        let code = ["FUNCTION", "PROCEDURE", "ROUTINE", "AGGREGATE", "OPERATOR", "CONVERSION"];
        let schema = statement.tag.ends_with(" SCHEMA")
            || statement.tag == "ALTER … RENAME"
            || statement
                .tag
                .strip_prefix("ALTER ")
                .is_some_and(|of| code.iter().any(|word| of.starts_with(word)));
        if (schema && statement.relations.is_empty())
            || statement.creates.iter().any(|made| made.what == CreatedKind::Schema)
        {
            self.schemas = true;
            self.forget();
        }
        (alters_one && harmless).then(|| self.own_temporary(statement))?
    }

    /// The temporary table of this text that a statement altered: it stands where it stood.
    fn own_temporary(&self, statement: &Statement) -> Option<String> {
        let altered = statement.relations.iter().find(|r| r.access == Access::Alter)?;
        let own = altered.resolved == Resolved::Temp && self.temporary.contains(&altered.name);
        own.then(|| altered.name.to_string())
    }

    fn make(&mut self, statement: &Statement, table: &Created) -> Option<String> {
        let name: Arc<str> = table.name.as_str().into();
        if table.temporary {
            self.names.insert(name.clone());
            self.temporary.insert(name);
            return Some(table.name.clone());
        }
        let there = statement.relations.iter().any(|relation| {
            relation.access == Access::Create && matches!(relation.resolved, Resolved::Known(_))
        });
        // It is there already: the statement does nothing, or it fails and nothing follows.
        if there && !self.names.contains(&name) {
            return None;
        }
        if let Some(schema) = &table.schema {
            self.made.insert((schema.as_str().into(), name.clone()));
        }
        self.names.insert(name);
        None
    }
}

/// As much of a table's name as stays in the names of what comes with it (`makeObjectName`).
const IMPLIED_BYTES: usize = 29;

/// The table that a statement makes, where its text says all of what it is: no child of another, so
/// that its rows are nobody else's. Whatever it takes to fill it (defaults, checks, types) was
/// touched by the statement that made it, in the same text.
fn table_made(statement: &Statement) -> Option<&Created> {
    let [table] = statement.creates.as_slice() else { return None };
    let plain = matches!(statement.tag, "CREATE TABLE" | "CREATE TABLE AS" | "SELECT INTO")
        && table.what == CreatedKind::Table
        && !statement.effects.contains(Effects::UNKNOWN)
        && statement.relations.iter().all(|relation| match relation.access {
            Access::Create => *relation.name == *table.name,
            Access::Select => true,
            _ => false,
        });
    plain.then_some(table)
}

/// How often a text takes `CopyData` from the client.
pub fn copies_in(facts: &Facts) -> usize {
    let copies = facts.statements.iter().filter_map(|s| s.copy.as_ref());
    copies
        .filter(|c| c.direction == CopyDirection::In && c.target == CopyTarget::Connection)
        .count()
}

/// Names as a text's own statements change them, in front of what the session has.
#[derive(Default)]
pub struct Overlay {
    statements: HashMap<String, Option<Arc<Prepared>>>,
    portals: HashMap<String, Option<Arc<Portal>>>,
    cleared: (bool, bool),
}

/// Of an overlay: a name that it does not speak of is to be looked up in the session.
pub enum Over<T> {
    Known(Arc<T>),
    Nothing,
    Elsewhere,
}

fn over<T>(of: Option<&Option<Arc<T>>>, cleared: bool) -> Over<T> {
    match of {
        Some(Some(known)) => Over::Known(known.clone()),
        Some(None) => Over::Nothing,
        None if cleared => Over::Nothing,
        None => Over::Elsewhere,
    }
}

impl Overlay {
    pub fn statement(&self, name: &str) -> Over<Prepared> {
        over(self.statements.get(name), self.cleared.0)
    }
    pub fn portal(&self, name: &str) -> Over<Portal> {
        over(self.portals.get(name), self.cleared.1)
    }

    /// Follows a use of a name and says what it will change. `inner` is the statement that is
    /// prepared or declared, if it could be read.
    pub fn follow(&mut self, name_use: &NameUse, inner: Option<Arc<Prepared>>, step: &mut Step) {
        match name_use {
            NameUse::Prepare { name, .. } => {
                step.statements.push(match &inner {
                    Some(inner) => Change::Set(name.as_str().into(), inner.clone()),
                    None => Change::Drop(name.as_str().into()),
                });
                self.statements.insert(name.clone(), inner);
            }
            NameUse::Deallocate { name: Some(name) } => {
                step.statements.push(Change::Drop(name.as_str().into()));
                self.statements.insert(name.clone(), None);
            }
            NameUse::Deallocate { name: None } => {
                step.statements.push(Change::Clear);
                self.statements.clear();
                self.cleared.0 = true;
            }
            NameUse::Declare { name, hold, .. } => {
                let parameters: Arc<[Parameter]> = Arc::default();
                let portal = inner.map(|statement| {
                    // In text: a cursor in binary lets no value out (`bulla_sql::Shape`).
                    let (known, formats, hold) = (true, Some(Arc::default()), *hold);
                    Arc::new(Portal { statement, parameters, known, formats, hold })
                });
                step.portals.push(match &portal {
                    Some(portal) => Change::Set(name.as_str().into(), portal.clone()),
                    None => Change::Drop(name.as_str().into()),
                });
                self.portals.insert(name.clone(), portal);
            }
            NameUse::Close { name: Some(name) } => {
                step.portals.push(Change::Drop(name.as_str().into()));
                self.portals.insert(name.clone(), None);
            }
            NameUse::Close { name: None } => {
                step.portals.push(Change::Clear);
                self.portals.clear();
                self.cleared.1 = true;
            }
            NameUse::Execute { .. } | NameUse::Fetch { .. } | NameUse::CurrentOf { .. } => {}
        }
    }
}
