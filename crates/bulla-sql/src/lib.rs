//! PostgreSQL statement text → facts: what each statement does, to which relations and columns,
//! through which functions, with which settings — and where that could not be told.
//!
//! It is *not* a policy and not a connection: it reads text against a snapshot of
//! the catalogue that the caller loaded, and answers with plain data. It knows nothing of Bulla's
//! other crates.
//!
//! Invariants:
//! - **Doubt is data.** What cannot be told is `UNKNOWN` with a reason, never left out.
//! - **The real grammar.** Text is read by PostgreSQL's own scanner and grammar (18); a text that
//!   they refuse has no facts at all. They read as `standard_conforming_strings = on` and UTF-8:
//!   the
//!   caller keeps the session so.
//! - **Names are resolved** as the server resolves them, against snapshot and search path; the text
//!   of a name decides nothing.
//! - **A statement is the union of its tree**: sub-queries, CTEs, views, explained and prepared
//!   statements count.
//! - **Bounded.** Bytes, tokens, depth, comparisons, threads, waiting and cache have named limits,
//!   and what costs more than its length is priced before it is done.
//! - **Pure.** No clock, files, network or random numbers; threads only in [`ParserPool`].
//!
//! What it does not see, because no text says it: what triggers, column defaults, foreign keys that
//! cascade, and the checks of domains do on a *write*; what happened in the session before (the
//! caller follows search path, temporary relations, prepared statements and cursors, and passes
//! them in or adds their facts); what changed since the snapshot.
//!
//! Map: [`facts`] the answer; [`catalog`] the snapshot and the name search; `analyzer` the door;
//! `rewrite` masks at the scan; `cache`; `pool` big-stack threads; `parse` caps and the parser;
//! `reading` the walk (`utility` tells statements apart; `query` and `write` for rows, `objects` and
//! `define` for definitions, `roles`, `server` and `session` for what they say; `expr`, `names` and
//! `scope` within all of them; `finish` for what lies behind the text); `view` what views reach;
//! [`functions`] and [`settings`] the reviewed lists. `tests/cases/*.txt` show readings, one line a
//! statement.

mod analyzer;
mod cache;
pub mod catalog;
pub mod facts;
pub mod functions;
mod parse;
mod pool;
mod reading;
mod rewrite;
pub mod settings;
mod view;

pub use analyzer::{Analyzer, Limits, Normal, ReadError};
pub use catalog::{Catalog, SearchPath};
pub use facts::{Effects, Facts, Kind, Statement};
pub use pool::{ParserPool, PoolError};
pub use rewrite::{
    Cell, CopyForm, Cover, Fault, Hidden, Late, Plan, Refused, Shape, null_of, quoted, type_name,
};
