//! The PostgreSQL wire, protocol 3.0 and 3.2: one machine for each side and for both together.
//!
//! It is *not* a driver or a server: it reads frames, says what they mean, and passes on the very
//! bytes that were judged. It opens no socket and reads no clock.
//!
//! Invariants:
//! - **No client byte is re-encoded**: payloads are slices of what came in, but for a text that
//!   masks
//!   demand to be rewritten: then the rewriting is what is judged, and both are shown.
//! - **No name is followed on the client's word**: statements, portals, search path and temporary
//!   relations are what the server confirmed, or what stands or falls with the message at hand.
//! - **A refusal leaves no half transaction**: an open one is poisoned with a constant statement
//!   that can never parse, so that the server's own failed state holds.
//! - **One error to a segment**: after an error everything up to the Sync is dropped, whoever said
//!   the error.
//! - **Values stream**: of rows, copy data and long Binds no more is kept than what is at hand.
//!
//! | file | holds |
//! |---|---|
//! | `frame` | slicing, and building the gateway's own messages |
//! | `message` | what messages mean, each consumed whole |
//! | `greet` | TLS, startup, credential |
//! | `machine` | the session: what both halves share |
//! | `client` | the client half: messages in their turn |
//! | `judge`, `made` | what they mean: texts, names, drafts; commands kept |
//! | `reply` | the server half: answers → replies and outcomes |
//! | `replication` | the replication protocol |
//! | `mask` | what may not be seen, and what is sent and said because of it |
//! | `heard` | whose notifications are heard |
//! | `cells`, `content` | values that are masked on their way out, by column and by content |
//! | `names`, `world` | what names mean, and where they lead |
//! | `steps` | what each statement changes of that |
//! | `reading` | facts → command |
//! | `refusal` | refusals in the protocol's words, and the constants for the target |
//! | `login`, `scram` | the way in at a target |
//! | `ask` | our own questions to a server |
//! | `scout` | the catalogue |
//! | `survey` | what looks as if it should be classified |
//! | `render` | recorded answers for people |
//! | `value` | bound values for the record |

mod arrays;
mod ask;
mod cells;
mod client;
mod content;
mod copied;
#[cfg(test)]
mod doubts;
mod forms;
mod frame;
mod greet;
mod heard;
#[cfg(test)]
mod hostile;
mod judge;
mod login;
mod machine;
mod made;
mod mask;
mod message;
#[cfg(test)]
mod model;
mod named;
mod names;
mod reading;
mod refusal;
mod render;
mod replication;
mod reply;
mod rows;
mod scout;
mod scram;
mod steps;
mod survey;
#[cfg(test)]
mod transcript;
mod value;
mod world;

use std::{collections::HashMap, sync::Arc};

use bulla_core::{ActionSpec, Command, Descriptor, FactKind, FactSpec, TouchSpec};
use bulla_mask::Classes;
use bulla_sql::{Analyzer, Fault, Limits, SearchPath};
use bulla_wire::{Block, Greeting, Login, LoginSpec, Place, Protocol, Scout, Survey, TargetHello};

pub use render::render;
pub use scout::Knowledge;

/// What the gateway sends as `search_path` when the client does not choose one.
pub(crate) const SEARCH_PATH: &str = "\"$user\", public";

const fn spec(
    verb: &'static str,
    groups: &'static [&'static str],
    about: &'static str,
) -> ActionSpec {
    ActionSpec { verb, groups, about }
}

/// What the protocol tells policy about itself.
pub const DESCRIPTOR: Descriptor = Descriptor {
    protocol: "postgres",
    default_port: 6432,
    actions: &[
        spec("select", &["read"], "read rows"),
        spec("copy_out", &["read"], "COPY … TO"),
        spec("show", &["read", "session"], "SHOW"),
        spec("explain", &["read"], "EXPLAIN"),
        spec("insert", &["write"], "INSERT"),
        spec("update", &["write"], "UPDATE"),
        spec("delete", &["write"], "DELETE"),
        spec("merge", &["write"], "MERGE"),
        spec("truncate", &["write"], "TRUNCATE"),
        spec("copy_in", &["write"], "COPY … FROM"),
        spec("lock", &["write"], "LOCK and row locks"),
        spec("transaction", &["session"], "BEGIN, COMMIT, savepoints"),
        spec("set", &["session"], "settings of the session that are known to be harmless"),
        spec("prepare", &["session"], "PREPARE"),
        spec("execute", &["session"], "EXECUTE"),
        spec("deallocate", &["session"], "DEALLOCATE and protocol Close"),
        spec("declare", &["session"], "DECLARE CURSOR"),
        spec("fetch", &["session"], "FETCH and MOVE"),
        spec("close", &["session"], "CLOSE"),
        spec("discard", &["session"], "DISCARD"),
        spec("empty", &["session"], "an empty query"),
        spec("cancel", &["session"], "cancel the own running command"),
        spec("listen", &["notify"], "LISTEN and UNLISTEN"),
        spec("notify", &["notify"], "NOTIFY"),
        spec("batch", &[], "several statements of different kinds in one string"),
        spec("call", &[], "a function or procedure that nobody reviewed"),
        spec("do", &[], "DO"),
        spec("ddl", &["admin"], "create, alter or drop objects"),
        spec("grant", &["admin"], "GRANT and REVOKE"),
        spec("maintenance", &["admin"], "VACUUM, ANALYZE, REINDEX, CLUSTER, REFRESH"),
        spec(
            "two_phase",
            &["admin"],
            "PREPARE TRANSACTION, which outlives its session with its locks, and the end of one",
        ),
        spec("role", &["admin"], "roles"),
        spec("server", &["admin"], "what reaches beyond the database"),
        spec("replication", &["admin"], "publications and subscriptions"),
        spec("set_privileged", &["admin"], "settings that change who acts or what is checked"),
        spec("call_dangerous", &["admin"], "functions that reach files, programs, other servers"),
        spec("function_call", &["admin"], "the protocol's function call"),
        spec(
            "replicate",
            &["admin"],
            "open a replication connection, and each of its commands: the whole database, unread",
        ),
        spec("unknown", &[], "a statement of a kind that nobody reviewed"),
    ],
    touches: &[
        TouchSpec { kind: "table", entity: "Table" },
        TouchSpec { kind: "function", entity: "Function" },
        TouchSpec { kind: "setting", entity: "Setting" },
    ],
    facts: &[
        FactSpec {
            name: "phase",
            kind: FactKind::Text,
            required: true,
            about: "simple, parse, bind or execute",
        },
        FactSpec {
            name: "tag",
            kind: FactKind::Text,
            required: true,
            about: "CREATE TABLE; of replication its command, and REPLICATION for the opening",
        },
        FactSpec {
            name: "in_transaction",
            kind: FactKind::Flag,
            required: true,
            about: "a transaction is open",
        },
        FactSpec {
            name: "transaction",
            kind: FactKind::Text,
            required: true,
            about: "idle, open or failed",
        },
        FactSpec {
            name: "params_known",
            kind: FactKind::Flag,
            required: true,
            about: "bound values were read",
        },
        FactSpec {
            name: "statements",
            kind: FactKind::Number,
            required: true,
            about: "statements in the string",
        },
        FactSpec {
            name: "statement_kinds",
            kind: FactKind::Set,
            required: true,
            about: "their kinds",
        },
        FactSpec {
            name: "masked",
            kind: FactKind::Set,
            required: false,
            about: "classes whose masks are sent instead of values",
        },
    ],
    honours: &["rows_max", "bytes_max"],
};

/// What all sessions share.
pub(crate) struct Shared {
    pub masking: mask::Masking,
    pub analyzer: Analyzer,
    pub knowledge: Arc<Knowledge>,
}

impl Shared {
    pub fn new(limits: Limits) -> std::io::Result<Self> {
        Self::masking(limits, mask::Masking::default())
    }
    fn masking(limits: Limits, masking: mask::Masking) -> std::io::Result<Self> {
        Ok(Self { masking, analyzer: Analyzer::new(limits)?, knowledge: Arc::default() })
    }
}

/// The protocol, for the registry.
pub struct Postgres(Arc<Shared>);

impl Postgres {
    /// # Errors
    /// When the system gives no parser thread.
    pub fn new(limits: Limits) -> std::io::Result<Self> {
        Ok(Self(Arc::new(Shared::new(limits)?)))
    }
    /// The same, with the classes of columns by resource.
    ///
    /// # Errors
    /// When the system gives no parser thread.
    pub fn masking(
        limits: Limits,
        classes: HashMap<Arc<str>, Arc<Classes>>,
    ) -> std::io::Result<Self> {
        Ok(Self(Arc::new(Shared::masking(limits, mask::Masking::new(classes))?)))
    }
    #[cfg(test)]
    pub(crate) fn over(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

impl Protocol for Postgres {
    fn descriptor(&self) -> &'static Descriptor {
        &DESCRIPTOR
    }
    fn greet(&self) -> Box<dyn Greeting> {
        Box::new(greet::Greeter::new(self.0.clone()))
    }
    fn login(&self, spec: LoginSpec) -> Box<dyn Login> {
        Box::new(login::Entering::login(spec))
    }
    fn cancel(&self, target: &TargetHello, tls: bool) -> Box<dyn Login> {
        Box::new(login::Entering::cancel(target.cancel_key.clone(), tls))
    }
    fn scout(&self, place: &Place) -> Option<Box<dyn Scout>> {
        Some(Box::new(scout::Look::new(self.0.knowledge.clone(), place.clone())))
    }
    fn knows(&self, place: &Place) -> bool {
        self.0.knowledge.get(place).is_some()
    }
    fn read(&self, place: &Place, text: &str, block: &Block) -> Result<Command, String> {
        let catalog = self.0.knowledge.get(place);
        let catalog = catalog.ok_or("the catalogue of this resource is not known")?;
        let path = SearchPath::parse(SEARCH_PATH, catalog.user());
        let facts = self.0.analyzer.read(text, &catalog, &path, &**block);
        let facts = facts.map_err(|e| e.to_string())?;
        reading::command(reading::Seen {
            phase: reading::Phase::Simple,
            shown: text.into(),
            facts: &facts,
            deferred: &[],
            missing: None,
            parameters: Arc::default(),
            parameters_known: true,
            transaction: reading::Transaction::Idle,
            settings: "".into(),
        })
        .ok_or_else(|| "the statement has no action".into())
    }
    fn survey(&self, place: &Place) -> Option<Box<dyn Survey>> {
        let catalog = self.0.knowledge.get(place)?;
        Some(Box::new(survey::Sampler::new(&catalog)))
    }
    fn mask(
        &self,
        place: &Place,
        text: &str,
        reveals: &dyn Fn(&str) -> bool,
        block: &Block,
    ) -> Result<Option<String>, String> {
        let catalog = self.0.knowledge.get(place);
        let catalog = catalog.ok_or("the catalogue of this resource is not known")?;
        let Some(hidden) = self.0.masking.hidden(place, &catalog, reveals, &**block) else {
            return Ok(None);
        };
        let path = SearchPath::parse(SEARCH_PATH, catalog.user());
        let facts = self.0.analyzer.read(text, &catalog, &path, &**block);
        let facts = facts.map_err(|e| e.to_string())?;
        let plan = self.0.analyzer.mask(text, &facts, &catalog, &path, &hidden, &**block);
        let plan = plan.map_err(|fault| match fault {
            Fault::Read(error) => format!("{error}; {}", error.hint()),
            Fault::Refused(why) => format!("the statement {}; {}", why.why, why.hint),
        })?;
        Ok(plan.sent.as_ref().map(|(text, _)| text.to_string()))
    }
}
