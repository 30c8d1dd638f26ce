//! PostgreSQL statement text → facts: what each statement does, to which relations and columns,
//! through which functions, with which settings — and where that could not be told.
//!
//! It is *not* a policy, not a rewriter and not a connection: it reads text against a snapshot of
//! the catalogue that the caller loaded, and answers with plain data. It knows nothing of Bulla's
//! other crates.
//!
//! Invariants:
//! - **Doubt is data.** What cannot be told is `UNKNOWN` with a reason, never left out.
//! - **The real grammar.** Text is read by PostgreSQL's own scanner and grammar; a text that they
//!   refuse has no facts at all.
//! - **Names are resolved** as the server resolves them, against snapshot and search path; the text
//!   of a name decides nothing.
//! - **A statement is the union of its tree**: sub-queries, CTEs, views, explained and prepared
//!   statements count.
//! - **Bounded.** Bytes, tokens, depth, threads, waiting and cache have named limits.
//! - **Pure.** No clock, files, network or randomness; threads only in [`ParserPool`].
//!
//! Map: [`facts`] the answer; [`catalog`] the snapshot and the name search; `parse` caps and the
//! parser; `reading` the walk; `functions` and [`settings`] the reviewed lists; `view` what views
//! reach; `pool` big-stack threads; `cache`; `analyzer` the door.

mod analyzer;
mod cache;
pub mod catalog;
pub mod facts;
pub mod functions;
mod parse;
mod pool;
mod reading;
pub mod settings;
mod view;

pub use analyzer::{Analyzer, Limits, Normal, ReadError};
pub use catalog::{Catalog, SearchPath};
pub use facts::{Effects, Facts, Kind, Statement};
pub use pool::{ParserPool, PoolError};
