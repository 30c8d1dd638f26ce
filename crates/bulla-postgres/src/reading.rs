//! Facts about a statement → the command that policy judges.

use std::{collections::BTreeMap, sync::Arc};

use bulla_core::{
    ActionName, Columns, Command, Effects, Fact, Parameter, Purity, Refusal, RefusalKind, Spelling,
    Touch, Touches,
};
use bulla_sql::{
    Effects as SqlEffects, Facts, Kind, ReadError, Statement,
    facts::{Access, Columns as SqlColumns, FunctionClass, RelationUse, Resolved, Tx, Via},
    settings::{SettingAction, SettingRule},
};

/// Where a command stands in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Simple,
    Parse,
    Bind,
    Execute,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Parse => "parse",
            Self::Bind => "bind",
            Self::Execute => "execute",
        }
    }
}

/// The transaction that a command will find, as far as that is known before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transaction {
    Idle,
    Open,
    Failed,
}

impl Transaction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Open => "open",
            Self::Failed => "failed",
        }
    }
}

/// What a command is read from.
pub struct Seen<'a> {
    pub phase: Phase,
    pub shown: Arc<str>,
    /// The statement's own facts, and those of everything it runs by name.
    pub facts: &'a Facts,
    pub deferred: &'a [Arc<Facts>],
    /// Why something that it runs by name is not known.
    pub missing: Option<String>,
    pub parameters: Arc<[Parameter]>,
    pub parameters_known: bool,
    pub transaction: Transaction,
    pub settings: Arc<str>,
}

/// An action of this protocol. The words are ours, so that they are always valid names.
pub fn action(verb: &str) -> Option<ActionName> {
    ActionName::new(&format!("postgres:{verb}")).ok()
}

pub fn access(access: Access) -> &'static str {
    match access {
        Access::Select => "select",
        Access::Insert => "insert",
        Access::Update => "update",
        Access::Delete => "delete",
        Access::Merge => "merge",
        Access::Truncate => "truncate",
        Access::Lock => "lock",
        Access::CopyFrom => "copy_in",
        Access::CopyTo => "copy_out",
        Access::Maintain => "maintenance",
        Access::Create | Access::Alter | Access::Drop => "ddl",
        Access::Grant => "grant",
    }
}

fn columns(columns: &SqlColumns) -> Columns {
    match columns {
        SqlColumns::Known(names) => Columns::Known(names.iter().cloned().collect()),
        SqlColumns::All => Columns::All,
        SqlColumns::Unknown => Columns::Unknown,
    }
}

/// A name as part of a path: quoted where a dot or a quote could make two paths one.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    if !name.is_empty() && name.chars().all(plain) {
        name.to_string()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// Policy puts the resource, and the part where it is not the configured one, in front.
pub fn path(schema: &str, name: &str) -> Arc<str> {
    format!("{}.{}", quoted(schema), quoted(name)).into()
}

fn effects(of: SqlEffects) -> Effects {
    const SAME: [(SqlEffects, Effects); 11] = [
        (SqlEffects::READ, Effects::READ),
        (SqlEffects::WRITE, Effects::WRITE),
        (SqlEffects::SCHEMA, Effects::SCHEMA),
        (SqlEffects::LOCK, Effects::LOCK),
        (SqlEffects::SEQUENCE, Effects::SEQUENCE),
        (SqlEffects::SETTINGS, Effects::SETTINGS),
        (SqlEffects::TRANSACTION, Effects::TRANSACTION),
        (SqlEffects::NOTIFY, Effects::NOTIFY),
        (SqlEffects::SERVER, Effects::SERVER),
        (SqlEffects::OPAQUE, Effects::OPAQUE),
        (SqlEffects::UNKNOWN, Effects::UNKNOWN),
    ];
    SAME.iter().filter(|(sql, _)| of.contains(*sql)).fold(Effects::NONE, |e, (_, own)| e.with(*own))
}

/// Transaction control that by itself changes nothing that anybody else could see.
fn harmless_control(facts: &Facts) -> bool {
    !facts.statements.is_empty()
        && facts.statements.iter().all(|s| {
            matches!(
                &s.transaction,
                Some(
                    Tx::Begin { .. }
                        | Tx::Rollback { .. }
                        | Tx::Savepoint(_)
                        | Tx::Release(_)
                        | Tx::RollbackTo(_)
                )
            )
        })
}

/// Kinds that do nothing but what their touches say. Any other kind needs a permit of its own,
/// whatever else stands in the same text.
fn is_told_by_touches(kind: Kind) -> bool {
    match kind {
        Kind::Select
        | Kind::Insert
        | Kind::Update
        | Kind::Delete
        | Kind::Merge
        | Kind::Truncate
        | Kind::CopyIn
        | Kind::CopyOut
        | Kind::Explain { .. }
        | Kind::Set
        | Kind::Show
        | Kind::Prepare
        | Kind::Execute
        | Kind::Deallocate
        | Kind::Declare
        | Kind::Fetch
        | Kind::Close
        | Kind::Lock => true,
        Kind::Ddl
        | Kind::Grant
        | Kind::Discard
        | Kind::Transaction
        | Kind::TwoPhase
        | Kind::Listen
        | Kind::Notify
        | Kind::Do
        | Kind::Call
        | Kind::Maintenance
        | Kind::Server
        | Kind::Role
        | Kind::Replication
        | Kind::Unknown => false,
    }
}

struct Collect {
    touches: Vec<Touch>,
    /// What a view reads, and the rows of children.
    beneath: Vec<Touch>,
    also: Vec<ActionName>,
    unknown: Option<String>,
    /// Verbs that the statement at hand touches by.
    verbs: Vec<&'static str>,
}

impl Collect {
    fn doubt(&mut self, why: impl Into<String>) {
        self.unknown.get_or_insert_with(|| why.into());
    }
    fn touch(&mut self, verb: &'static str, kind: &'static str, path: Arc<str>, columns: Columns) {
        let Some(action) = action(verb) else { return self.doubt("an action without a name") };
        self.verbs.push(verb);
        let touch = Touch { action, kind, path, columns };
        if !self.touches.contains(&touch) {
            self.touches.push(touch);
        }
    }
    /// The text names the view or the parent, and that is what is permitted.
    fn below(&mut self, relation: &RelationUse) {
        let Resolved::Known(known) = &relation.resolved else { return };
        let Some(action) = action(access(relation.access)) else { return };
        let (path, columns) = (path(&known.schema, &known.name), columns(&relation.columns));
        let touch = Touch { action, kind: "table", path, columns };
        if !self.beneath.contains(&touch) {
            self.beneath.push(touch);
        }
    }
    fn also(&mut self, verb: &str) {
        let Some(action) = action(verb) else { return self.doubt("an action without a name") };
        if !self.also.contains(&action) {
            self.also.push(action);
        }
    }
    /// What the statement at hand does that none of its touches says.
    fn untold(&mut self, statement: &Statement, runs_by_name: bool) {
        let verbs = std::mem::take(&mut self.verbs);
        let own = statement.kind.as_str();
        let told = match verbs.as_slice() {
            [] => runs_by_name && matches!(statement.kind, Kind::Execute | Kind::Fetch),
            _ => is_told_by_touches(statement.kind),
        };
        if !told && !verbs.contains(&own) {
            self.also(own);
        }
        let says = |any: &[&str]| any.iter().any(|verb| *verb == own || verbs.contains(verb));
        let server = statement.effects.contains(SqlEffects::SERVER);
        if server && !says(&["server", "call_dangerous", "role", "replication"]) {
            self.also("server");
        }
        let opaque = statement.effects.contains(SqlEffects::OPAQUE);
        if opaque && !says(&["call", "call_dangerous", "do"]) {
            self.also("call");
        }
    }
    fn add(&mut self, facts: &Facts, runs_by_name: bool) {
        for statement in &facts.statements {
            if let Some(why) = statement.unknown.first() {
                self.doubt(why.clone());
            }
            for relation in &statement.relations {
                if matches!(relation.via, Some(Via::View(_) | Via::Parent(_))) {
                    self.below(relation);
                    continue;
                }
                let at = match &relation.resolved {
                    Resolved::Known(known) => path(&known.schema, &known.name),
                    Resolved::Temp => path("pg_temp", &relation.name),
                    Resolved::Made(schema) => path(schema, &relation.name),
                    Resolved::Unresolved => {
                        // `IF EXISTS`: what is not there is not touched.
                        let may_be_missing =
                            matches!(relation.access, Access::Drop | Access::Alter)
                                && !statement.effects.contains(SqlEffects::UNKNOWN);
                        if relation.access != Access::Create && !may_be_missing {
                            self.doubt(format!("`{}` is not a known relation", relation.name));
                        }
                        // What is made is in no catalogue yet; the statement says where it goes.
                        let made = statement.creates.iter().find(|c| *c.name == *relation.name);
                        let made = made.and_then(|c| c.schema.as_deref());
                        let schema = relation.schema.as_deref().or(made).unwrap_or("?");
                        path(schema, &relation.name)
                    }
                };
                self.touch(access(relation.access), "table", at, columns(&relation.columns));
            }
            for function in &statement.functions {
                let schema = function.schema.as_deref().unwrap_or("?");
                let verb = match function.class {
                    FunctionClass::Reviewed | FunctionClass::Harmless => continue,
                    FunctionClass::Dangerous(_) => "call_dangerous",
                    FunctionClass::Volatile | FunctionClass::User => "call",
                    FunctionClass::Unresolved => {
                        self.doubt(format!("`{}` is not a known function", function.name));
                        "call"
                    }
                };
                let at = path(schema, &function.name);
                self.touch(verb, "function", at, Columns::NotApplicable);
            }
            for setting in &statement.settings {
                if setting.is_show() {
                    continue;
                }
                let name = setting.name.as_deref().unwrap_or("all");
                let verb = if setting.is_allowed() { "set" } else { "set_privileged" };
                self.touch(verb, "setting", quoted(name).into(), Columns::NotApplicable);
            }
            self.untold(statement, runs_by_name);
        }
    }
}

/// The command that `seen` amounts to.
pub fn command(seen: Seen<'_>) -> Option<Command> {
    let kinds: Vec<&str> = seen.facts.statements.iter().map(|s| s.kind.as_str()).collect();
    let verb = match kinds.split_first() {
        None => "empty",
        Some((first, rest)) if rest.iter().all(|kind| kind == first) => first,
        Some(_) => "batch",
    };
    let mut collect = Collect {
        touches: Vec::new(),
        beneath: Vec::new(),
        also: Vec::new(),
        unknown: seen.missing,
        verbs: Vec::new(),
    };
    let mut all = SqlEffects::NONE;
    collect.add(seen.facts, !seen.deferred.is_empty());
    all |= seen.facts.effects();
    for facts in seen.deferred {
        collect.add(facts, false);
        all |= facts.effects();
    }
    let unknown = all.contains(SqlEffects::UNKNOWN);
    if unknown {
        collect.doubt("the statement could not be read with certainty");
    }
    let mut effects = effects(all);
    let runs_by_name = !seen.deferred.is_empty() || all.contains(SqlEffects::DEFERRED);
    let pure = collect.unknown.is_none()
        && (seen.facts.is_pure_read()
            || harmless_control(seen.facts)
            || kinds.is_empty()
            || (runs_by_name
                && seen.facts.statements.iter().all(|s| {
                    matches!(s.kind, Kind::Execute | Kind::Fetch) && s.functions.is_empty()
                })
                && seen.deferred.iter().all(|facts| facts.is_pure_read())));
    // Parsing alone runs nothing of the statement; where it is in doubt, better wait.
    let parsing = seen.phase == Phase::Parse && collect.unknown.is_none();
    let purity = if pure || parsing { Purity::Read } else { Purity::Effect };
    if collect.unknown.is_some() {
        effects = effects.with(Effects::UNKNOWN);
    }
    let touches = match collect.unknown {
        None => Touches::Known(collect.touches),
        Some(why) => Touches::Unknown { why: why.into(), seen: collect.touches },
    };
    let tag = seen.facts.statements.first().map_or("", |s| s.tag);
    let words =
        kinds.iter().map(|kind| Arc::from(*kind)).collect::<std::collections::BTreeSet<_>>();
    let facts = BTreeMap::from([
        ("phase", Fact::Text(seen.phase.as_str().into())),
        ("tag", Fact::Text(tag.into())),
        ("in_transaction", Fact::Flag(seen.transaction != Transaction::Idle)),
        ("transaction", Fact::Text(seen.transaction.as_str().into())),
        ("params_known", Fact::Flag(seen.parameters_known)),
        ("statements", Fact::Number(i64::try_from(kinds.len()).unwrap_or(i64::MAX))),
        ("statement_kinds", Fact::Set(words.into_iter().collect())),
    ]);
    Some(Command {
        action: action(verb)?,
        spelling: Spelling::Capitals,
        effects,
        touches,
        also: collect.also,
        beneath: collect.beneath,
        purity,
        shown: seen.shown,
        parameters: seen.parameters,
        facts,
        settings: seen.settings,
    })
}

/// A refusal that needs no policy.
pub fn principle(kind: RefusalKind, message: String, hint: &str) -> Box<Refusal> {
    Box::new(Refusal::plain(kind, message, hint))
}

/// Settings that would change how the very next text must be read, whatever policy says.
pub fn breaks_reading(facts: &Facts) -> Option<Box<Refusal>> {
    let bad = facts.statements.iter().flat_map(|s| &s.settings).find(|setting| {
        !setting.is_allowed()
            && setting.action == SettingAction::Set
            && matches!(setting.rule, SettingRule::Pinned(_))
    })?;
    let name = bad.name.as_deref().unwrap_or("?").escape_debug().to_string();
    Some(principle(
        RefusalKind::NotSupported,
        format!("refused: `{name}` may not be set to that through this gateway"),
        "the gateway could no longer read what follows with certainty; leave the setting as it is",
    ))
}

/// A text that could not be read.
pub fn unreadable(error: &ReadError) -> Box<Refusal> {
    let (kind, position) = match error {
        ReadError::Syntax { position, .. } => (
            RefusalKind::Unreadable,
            position.and_then(|p| u32::try_from(p).ok()).filter(|p| *p > 0),
        ),
        ReadError::TooLarge { .. } | ReadError::TooComplex { .. } => (RefusalKind::TooLarge, None),
        _ => (RefusalKind::Unreadable, None),
    };
    let mut refusal = principle(kind, format!("refused: {error}"), error.hint());
    refusal.position = position;
    refusal
}
