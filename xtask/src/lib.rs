//! Automation for the repository: what a build, a test or the demo needs, and the rules of the
//! house.
//!
//! It is not part of the product and it is not a build system: each command is a short list of
//! ordinary programs (`apt-get`, `npm`, `cargo`) that it prints before it runs them.
//!
//! **Invariants.** It builds in seconds and without anything that it installs (`std` and `anyhow`
//! only). It never installs silently. It never asks for a password. Its exit code is the truth.
//!
//! | File | Holds |
//! |---|---|
//! | [`places`] | where things live outside the clone; the test bed asks here too |
//! | [`setup`] | finds or installs compilers, servers and client drivers |
//! | `regress` | PostgreSQL's own regression scripts, out of a source package |
//! | [`tidy`] | the arrows between crates, and other rules that a compiler cannot hold |
//! | [`source`] | just enough of Rust's lexis to tell code from comments, strings and tests |
//! | [`run`] | `test`, `demo`, `bench`, `load`, `sim`, `kill`, `fuzz` |

pub mod places;
pub(crate) mod regress;
pub mod run;
pub mod setup;
pub mod source;
pub mod tidy;
