//! Policy: what a verified principal may do, on Cedar.
//!
//! This crate is *not* a place for I/O or clocks: it reads no file (the binary hands it names and
//! texts), and times come in. It sends nothing and gives no leave to send: only the gate does.
//!
//! Invariants:
//! - **Denied by default**: what no policy permits is denied, and so is every request that policy
//!   cannot be asked about.
//! - **No policy is skipped because it failed.** Cedar skips a forbid that cannot be evaluated;
//!   here any policy that cannot be evaluated denies, with its id in the record.
//! - **No policy can name what does not exist**: actions, attributes, facts and annotations are
//!   validated at load, names of resources, groups of resources and issuers too. A bundle with one
//!   mistake is refused whole, with every mistake in the report.
//! - **A kept decision is a decision on equal values.** Decisions that the time could change are
//!   not kept; a reload keeps none.
//!
//! | file | holds |
//! |---|---|
//! | `schema` | the Cedar schema, made from protocols and configuration |
//! | `load` | files into policies, all mistakes at once |
//! | `split` | one file into the texts of its policies |
//! | `duty` | the grammar of annotations |
//! | `problem` | a mistake and its place |
//! | `scope` | which policies can apply at all |
//! | `ask` | a request as entities, contexts and questions |
//! | `bundle` | the decision |
//! | `cache` | decisions kept |
//! | `explain` | a decision with its reasons, for people |
//! | `table` | tables of expected decisions, and their run |

mod ask;
mod bundle;
mod cache;
mod duty;
mod explain;
mod load;
mod problem;
mod schema;
mod scope;
mod split;
mod table;

pub use ask::TOUCHES_MAX;
pub use bundle::{BECAUSE_MAX, Bundle};
pub use duty::{ANNOTATIONS, HOLD_EXPIRES_MS_DEFAULT, HOLD_EXPIRES_MS_MAX, QUORUM_MAX};
pub use explain::{Explanation, Hold, NEAREST_MAX, PolicyNote, Question};
pub use load::{FILE_BYTES_MAX, FILES_MAX, POLICIES_MAX, PROBLEMS_MAX};
pub use problem::PolicyProblem;
pub use schema::{AttributeKind, KNOWN_VERB, ResourceInput, SchemaInput, UNKNOWN_VERB};
pub use table::{AT_DEFAULT, CASES_MAX, CaseResult, Read, TestReport};

// The support of the tests names this crate as they do.
#[cfg(test)]
extern crate self as bulla_policy;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;
