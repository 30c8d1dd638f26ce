//! What a statement text says, as plain data: no parse tree, no reference into the text.
//!
//! Everything here is a *claim about the text under one catalogue snapshot and one search path*.
//! Doubt is data as well: [`Effects::UNKNOWN`], [`Statement::unknown`], [`Resolved::Unresolved`],
//! [`Columns::Unknown`]. A caller that meets doubt refuses.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::{BitOr, BitOrAssign, Range};
use std::sync::Arc;

use crate::settings::SettingUse;

/// The facts of one statement text: a simple query may hold several statements, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// In the order of the text. Empty for an empty query.
    pub statements: Vec<Statement>,
}

impl Facts {
    /// The union of the effects of all statements: what a batch can do.
    #[must_use]
    pub fn effects(&self) -> Effects {
        self.statements.iter().fold(Effects::NONE, |all, s| all | s.effects)
    }

    /// True when there is at least one statement and every one is a pure read.
    #[must_use]
    pub fn is_pure_read(&self) -> bool {
        !self.statements.is_empty() && self.statements.iter().all(Statement::is_pure_read)
    }

    /// The highest `$n` of all statements.
    #[must_use]
    pub fn params(&self) -> u32 {
        self.statements.iter().map(|s| s.params).max().unwrap_or(0)
    }

    /// Bytes of memory that this value holds, roughly: what the cache charges for it.
    #[must_use]
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.statements.iter().map(Statement::weight).sum::<usize>()
    }
}

/// One statement: the union over its whole tree, sub-statements and views included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// What the outermost statement is. What it *does* is in `effects`, which counts nested parts.
    pub kind: Kind,
    /// The exact statement, as the manual names it: `CREATE TABLE`, `ALTER SYSTEM`, `SELECT`.
    pub tag: &'static str,
    pub effects: Effects,
    /// One per relation, access and road (`via`); a relation that is both read and written is two.
    pub relations: Vec<RelationUse>,
    pub functions: Vec<FunctionUse>,
    pub settings: Vec<SettingUse>,
    /// Roles that role management, grants and ownership changes name, folded as the server folds.
    pub roles: Vec<String>,
    pub copy: Option<CopyUse>,
    pub transaction: Option<Tx>,
    /// Prepared statements and cursors that the statement makes, runs or drops.
    pub names: Vec<NameUse>,
    /// Objects that the statement makes.
    pub creates: Vec<Created>,
    /// Channels of `LISTEN`, `UNLISTEN` and `NOTIFY`; `*` for `UNLISTEN *`. `pg_notify` is a
    /// function and not here.
    pub channels: Vec<String>,
    /// The highest `$n`; 0 when there is none.
    pub params: u32,
    /// The statement's bytes in the text, without the separating semicolon.
    pub text: Range<usize>,
    /// Why the reading could not tell, one short sentence each; never holds literal values.
    pub unknown: Vec<String>,
}

impl Statement {
    pub(crate) fn new(kind: Kind, tag: &'static str, text: Range<usize>) -> Self {
        Self {
            kind,
            tag,
            effects: Effects::NONE,
            relations: Vec::new(),
            functions: Vec::new(),
            settings: Vec::new(),
            roles: Vec::new(),
            copy: None,
            transaction: None,
            names: Vec::new(),
            creates: Vec::new(),
            channels: Vec::new(),
            params: 0,
            text,
            unknown: Vec::new(),
        }
    }

    /// Proves "no effect" as the design's *Overlap* asks: a `SELECT`, `VALUES`, `TABLE`, `SHOW` or
    /// an `EXPLAIN` that does not run; only relations that the catalogue knows; only functions of
    /// the reviewed lists; no lock, no sequence, no setting changed, nothing that could not be told.
    ///
    /// `BEGIN`, `COMMIT`, `FETCH` and `EXECUTE` are not pure reads here: the caller, who knows the
    /// session, may decide otherwise.
    #[must_use]
    pub fn is_pure_read(&self) -> bool {
        matches!(self.kind, Kind::Select | Kind::Show | Kind::Explain { analyze: false })
            && Effects::READ.contains(self.effects)
            && self.unknown.is_empty()
            && self.copy.is_none()
            && self.transaction.is_none()
            && self.names.is_empty()
            && self.creates.is_empty()
            && self.relations.iter().all(|r| {
                r.access == Access::Select
                    && match &r.resolved {
                        Resolved::Known(known) => known.kind.holds_rows_here(),
                        Resolved::Temp | Resolved::Made(_) | Resolved::Unresolved => false,
                    }
            })
            && self.functions.iter().all(|f| f.class.keeps_purity())
            && self.settings.iter().all(SettingUse::is_show)
    }

    fn weight(&self) -> usize {
        size_of::<Self>()
            + self.relations.iter().map(RelationUse::weight).sum::<usize>()
            + self.functions.iter().map(FunctionUse::weight).sum::<usize>()
            + self.settings.iter().map(SettingUse::weight).sum::<usize>()
            + self.roles.iter().map(|r| r.len() + 24).sum::<usize>()
            + self.unknown.iter().map(|u| u.len() + 24).sum::<usize>()
            + (self.names.len() + self.creates.len()) * 160
            + self.copy.as_ref().map_or(0, |c| c.options.len() * 96 + 64)
    }
}

/// The outermost statement's family. [`Kind::as_str`] is the stable word that policy sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `SELECT`, `VALUES`, `TABLE`, without `INTO` (that is `Ddl`).
    Select,
    Insert,
    Update,
    Delete,
    Merge,
    Truncate,
    /// `COPY … FROM`
    CopyIn,
    /// `COPY … TO`, of a table or a query.
    CopyOut,
    /// `analyze`: the explained statement runs.
    Explain {
        analyze: bool,
    },
    /// `CREATE`, `ALTER`, `DROP`, `COMMENT`, `SECURITY LABEL`, `SELECT INTO`, `CREATE TABLE AS`.
    Ddl,
    /// `GRANT`, `REVOKE`, `ALTER DEFAULT PRIVILEGES`, `REASSIGN OWNED`, of privileges or roles.
    Grant,
    /// `SET`, `RESET`, `SET CONSTRAINTS`.
    Set,
    Show,
    Discard,
    /// `BEGIN`, `COMMIT`, `ROLLBACK`, savepoints; `SET TRANSACTION` is `Set`.
    Transaction,
    /// `PREPARE TRANSACTION`, `COMMIT PREPARED`, `ROLLBACK PREPARED`: a transaction that outlives
    /// its session, with its locks, and is ended by whoever knows its name.
    TwoPhase,
    Prepare,
    Execute,
    Deallocate,
    Declare,
    /// `FETCH` and `MOVE`.
    Fetch,
    Close,
    /// `LISTEN` and `UNLISTEN`.
    Listen,
    Notify,
    Lock,
    Do,
    Call,
    /// `VACUUM`, `ANALYZE`, `REINDEX`, `CLUSTER`, `REFRESH MATERIALIZED VIEW`, `CHECKPOINT`.
    Maintenance,
    /// What reaches beyond the database: `ALTER SYSTEM`, `LOAD`, foreign servers and wrappers,
    /// user mappings, extensions, languages, databases, tablespaces.
    Server,
    /// `CREATE|ALTER|DROP ROLE|USER|GROUP`, `ALTER ROLE … SET`, `DROP OWNED`.
    Role,
    /// Publications and subscriptions.
    Replication,
    /// A statement that this version does not know.
    Unknown,
}

impl Kind {
    /// A stable word for policy and records. New kinds may be added, words never change.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Select => "select",
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Merge => "merge",
            Self::Truncate => "truncate",
            Self::CopyIn => "copy_in",
            Self::CopyOut => "copy_out",
            Self::Explain { .. } => "explain",
            Self::Ddl => "ddl",
            Self::Grant => "grant",
            Self::Set => "set",
            Self::Show => "show",
            Self::Discard => "discard",
            Self::Transaction => "transaction",
            Self::TwoPhase => "two_phase",
            Self::Prepare => "prepare",
            Self::Execute => "execute",
            Self::Deallocate => "deallocate",
            Self::Declare => "declare",
            Self::Fetch => "fetch",
            Self::Close => "close",
            Self::Listen => "listen",
            Self::Notify => "notify",
            Self::Lock => "lock",
            Self::Do => "do",
            Self::Call => "call",
            Self::Maintenance => "maintenance",
            Self::Server => "server",
            Self::Role => "role",
            Self::Replication => "replication",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a statement can do, as a set.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Effects(u16);

impl Effects {
    pub const NONE: Self = Self(0);
    /// Reads rows or server state. Every `SELECT`, and every write that reads a relation.
    pub const READ: Self = Self(1);
    /// Changes rows.
    pub const WRITE: Self = Self(1 << 1);
    /// Changes objects or privileges.
    pub const SCHEMA: Self = Self(1 << 2);
    /// Takes a lock that outlives the statement: `LOCK`, `FOR UPDATE`, advisory locks.
    pub const LOCK: Self = Self(1 << 3);
    /// Reads or moves a sequence through its functions.
    pub const SEQUENCE: Self = Self(1 << 4);
    /// Changes a setting of the session, a role, a database or the server.
    pub const SETTINGS: Self = Self(1 << 5);
    /// Opens, ends or divides a transaction.
    pub const TRANSACTION: Self = Self(1 << 6);
    /// Sends, or subscribes to, notifications.
    pub const NOTIFY: Self = Self(1 << 7);
    /// Reaches beyond the database: files, programs, other servers, other sessions, the server.
    pub const SERVER: Self = Self(1 << 8);
    /// Runs code whose body is not in the text: `DO`, `CALL`, functions nobody reviewed.
    pub const OPAQUE: Self = Self(1 << 9);
    /// Could not tell; the reasons are in [`Statement::unknown`].
    pub const UNKNOWN: Self = Self(1 << 10);
    /// Runs what an earlier command defined (`EXECUTE`, `FETCH`): the caller MUST add the facts of
    /// the remembered statement (see [`NameUse`]); a name that it does not remember is unknown.
    pub const DEFERRED: Self = Self(1 << 11);

    const NAMES: [(Self, &'static str); 12] = [
        (Self::READ, "read"),
        (Self::WRITE, "write"),
        (Self::SCHEMA, "schema"),
        (Self::LOCK, "lock"),
        (Self::SEQUENCE, "sequence"),
        (Self::SETTINGS, "settings"),
        (Self::TRANSACTION, "transaction"),
        (Self::NOTIFY, "notify"),
        (Self::SERVER, "server"),
        (Self::OPAQUE, "opaque"),
        (Self::UNKNOWN, "unknown"),
        (Self::DEFERRED, "deferred"),
    ];

    /// True when every effect of `other` is in `self`.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// True when `self` and `other` share an effect.
    #[must_use]
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// `self` without the effects of `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The stable words of the effects, in a fixed order.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(e, _)| self.contains(*e)).map(|(_, w)| w)
    }
}

impl BitOr for Effects {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Effects {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Effects({})", self.words().collect::<Vec<_>>().join("|"))
    }
}

/// What is done to a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Access {
    Select,
    Insert,
    Update,
    Delete,
    Merge,
    Truncate,
    Lock,
    CopyFrom,
    CopyTo,
    /// `VACUUM`, `ANALYZE`, `REINDEX`, `CLUSTER`, `REFRESH`.
    Maintain,
    /// The statement makes this relation.
    Create,
    Alter,
    Drop,
    /// Privileges on it change hands.
    Grant,
}

impl Access {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Select => "select",
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Merge => "merge",
            Self::Truncate => "truncate",
            Self::Lock => "lock",
            Self::CopyFrom => "copy_from",
            Self::CopyTo => "copy_to",
            Self::Maintain => "maintain",
            Self::Create => "create",
            Self::Alter => "alter",
            Self::Drop => "drop",
            Self::Grant => "grant",
        }
    }

    /// True when rows leave or decide something: the relation's content flows.
    #[must_use]
    pub fn reads(self) -> bool {
        matches!(self, Self::Select | Self::CopyTo)
    }
}

/// A relation that a statement touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationUse {
    /// The schema as written, folded; `None` when the name was not qualified.
    pub schema: Option<Arc<str>>,
    /// The name as written, folded and cut to 63 bytes as the server does.
    pub name: Arc<str>,
    pub resolved: Resolved,
    pub access: Access,
    pub columns: Columns,
    /// `None`: the text names it. Otherwise the road that leads there.
    pub via: Option<Via>,
}

impl RelationUse {
    fn weight(&self) -> usize {
        let columns = match &self.columns {
            Columns::Known(set) => set.len() * 32,
            Columns::All | Columns::Unknown => 0,
        };
        size_of::<Self>() + self.name.len() + columns
    }
}

/// Why a relation is touched that the text does not name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Via {
    /// Reached through a view: the outermost one, as `schema.name`.
    View(Arc<str>),
    /// A child or partition, reached through the relation `schema.name` that the text names.
    Parent(Arc<str>),
    /// The parent whose rows are touched when the text names its child or partition `schema.name`.
    Child(Arc<str>),
}

/// What a name is under the catalogue and the search path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    Known(Known),
    /// A temporary relation of this session.
    Temp,
    /// A table that an earlier statement of the same text made, in this schema: what it is to hold
    /// was read there.
    Made(Arc<str>),
    /// No such relation in the snapshot, or the search path is not known. Always with
    /// [`Effects::UNKNOWN`], except for a relation that the statement itself makes.
    Unresolved,
}

/// A relation of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub schema: Arc<str>,
    pub name: Arc<str>,
    pub oid: u32,
    pub kind: RelationKind,
}

/// `pg_class.relkind`, with a partition told from a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RelationKind {
    Table,
    PartitionedTable,
    /// A table that is a partition.
    Partition,
    View,
    MatView,
    Foreign,
    Sequence,
    Index,
    Toast,
    Composite,
    /// A `relkind` that this version does not know.
    Other,
}

impl RelationKind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::PartitionedTable => "partitioned_table",
            Self::Partition => "partition",
            Self::View => "view",
            Self::MatView => "matview",
            Self::Foreign => "foreign",
            Self::Sequence => "sequence",
            Self::Index => "index",
            Self::Toast => "toast",
            Self::Composite => "composite",
            Self::Other => "other",
        }
    }

    /// Reading it stays inside this server and runs no foreign code by itself.
    fn holds_rows_here(self) -> bool {
        match self {
            Self::Table
            | Self::PartitionedTable
            | Self::Partition
            | Self::View
            | Self::MatView
            | Self::Sequence
            | Self::Toast => true,
            Self::Foreign | Self::Index | Self::Composite | Self::Other => false,
        }
    }
}

/// The columns of a relation that a statement touches. "None" is `Known` and empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Columns {
    /// Exactly these (system columns such as `ctid` included).
    Known(BTreeSet<Arc<str>>),
    /// All: `*`, a whole-row reference, `INSERT` without a list, `COPY` without a list.
    All,
    /// Could not tell; treat as all.
    Unknown,
}

impl Columns {
    /// Nothing of the relation is touched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Known(set) if set.is_empty())
    }

    /// Adds the columns of another use of the same relation.
    pub(crate) fn join(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Known(mine), Self::Known(more)) => mine.extend(more),
            (Self::All, _) | (_, Self::All) => *self = Self::All,
            (Self::Unknown, _) | (_, Self::Unknown) => *self = Self::Unknown,
        }
    }
}

/// A function, aggregate, window function or procedure that a statement calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionUse {
    /// Where it lives; `None` when it could not be resolved.
    pub schema: Option<Arc<str>>,
    pub name: Arc<str>,
    pub class: FunctionClass,
    /// The extension that owns it, if one does.
    pub extension: Option<Arc<str>>,
}

impl FunctionUse {
    fn weight(&self) -> usize {
        size_of::<Self>() + self.name.len()
    }
}

/// What is known about a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FunctionClass {
    /// An immutable or stable built-in of the reviewed list.
    Reviewed,
    /// A volatile built-in that changes nothing (`random`, `clock_timestamp`).
    Harmless,
    /// A built-in with an effect, which is in [`Statement::effects`] (`nextval`, `pg_notify`), or
    /// one that nobody reviewed.
    Volatile,
    /// Files, programs, other servers or sessions, SQL inside strings; the reason is for people.
    Dangerous(&'static str),
    /// Made by somebody in this database; its body is not read.
    User,
    /// No such function in the snapshot, or the search path is not known.
    Unresolved,
}

impl FunctionClass {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reviewed => "reviewed",
            Self::Harmless => "harmless",
            Self::Volatile => "volatile",
            Self::Dangerous(_) => "dangerous",
            Self::User => "user",
            Self::Unresolved => "unresolved",
        }
    }

    /// Calling it does not spoil a pure read.
    #[must_use]
    pub fn keeps_purity(self) -> bool {
        matches!(self, Self::Reviewed | Self::Harmless)
    }
}

/// A `COPY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyUse {
    pub direction: CopyDirection,
    pub target: CopyTarget,
    pub format: CopyFormat,
    /// `COPY (query) TO`
    pub query: bool,
    /// Every option as written: name, and value when it is a literal.
    pub options: Vec<(String, Option<String>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyDirection {
    In,
    Out,
}

/// The other end of a `COPY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyTarget {
    /// `STDIN` or `STDOUT`: over this connection.
    Connection,
    /// A file on the server. Always with [`Effects::SERVER`].
    File(String),
    /// A program on the server. Always with [`Effects::SERVER`].
    Program(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFormat {
    Text,
    Csv,
    Binary,
    /// Not one of the three; the server will refuse it.
    Unknown,
}

/// A transaction command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tx {
    /// `BEGIN`, `START TRANSACTION`; `read_only` when the command says so.
    Begin {
        read_only: Option<bool>,
    },
    Commit {
        chain: bool,
    },
    Rollback {
        chain: bool,
    },
    Savepoint(String),
    Release(String),
    RollbackTo(String),
    /// `PREPARE TRANSACTION 'gid'`
    Prepare(String),
    CommitPrepared(String),
    RollbackPrepared(String),
}

/// A prepared statement or a cursor, by its SQL name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameUse {
    /// `PREPARE name AS …`; `inner` is the range of the inner statement in the whole text. The
    /// inner statement's relations, functions and effects are in the statement already.
    Prepare { name: String, inner: Option<Range<usize>> },
    /// Runs a prepared statement (`EXECUTE`, `EXPLAIN EXECUTE`, `CREATE TABLE AS EXECUTE`).
    Execute { name: String },
    /// `None` is `DEALLOCATE ALL` (and `DISCARD ALL`).
    Deallocate { name: Option<String> },
    /// `inner` as for `Prepare`. `hold`: survives the transaction.
    Declare { name: String, hold: bool, inner: Option<Range<usize>> },
    Fetch {
        name: String,
        /// `MOVE`: no rows come back.
        moves: bool,
    },
    /// `None` is `CLOSE ALL` (and `DISCARD ALL`).
    Close { name: Option<String> },
    /// `UPDATE|DELETE … WHERE CURRENT OF name`
    CurrentOf { name: String },
}

/// An object that a statement makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    pub what: CreatedKind,
    /// As written, else the first usable schema of the path; `None` when it cannot be told.
    pub schema: Option<String>,
    pub name: String,
    /// In the session's temporary schema: from now on it shadows every unqualified name.
    pub temporary: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CreatedKind {
    Table,
    View,
    MatView,
    Sequence,
    Index,
    ForeignTable,
    Type,
    Function,
    Schema,
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_are_a_set() {
        let all = Effects::READ | Effects::LOCK;
        assert!(all.contains(Effects::LOCK) && !all.contains(Effects::WRITE));
        assert!(all.intersects(Effects::LOCK | Effects::WRITE));
        assert_eq!(all.words().collect::<Vec<_>>(), ["read", "lock"]);
        assert_eq!(all.without(Effects::READ), Effects::LOCK);
        assert_eq!(format!("{all:?}"), "Effects(read|lock)");
    }
}
