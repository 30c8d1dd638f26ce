//! The crate through its public API only: real signatures, real HTTP and TLS, a clock of our own.
//!
//! Every hostile case is right in all but the one thing that it is about, and stands beside a case
//! that is right in that too: whoever removes the defence turns the hostile case green.

// `clippy.toml` allows these in tests, but does not see that helpers of tests are such.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod claims;
mod jwks;
mod jws;
mod mapping;
mod spiffe;
mod support;
