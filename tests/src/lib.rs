//! The test bed: everything around the gateway, real and throw-away.
//!
//! It starts real servers and real clients for the end-to-end tests, the demo and the benchmark.
//! It is not part of the product and imitates none of it: the gateway is always the built binary,
//! started as an operator would start it.
//!
//! **Invariants.** Whatever a guard starts is gone when it is dropped, and is killed by the kernel
//! if this process dies first. Every wait is bounded and ends early when the thing waited for has
//! died. Nothing listens or dials outside loopback and the
//! namespaces of [`netns`]. A failing test shows the tail of each log.
//!
//! | File | Holds |
//! |---|---|
//! | [`proc`] | a child process with its output, and bounded waits |
//! | [`place`] | temporary folders and ports |
//! | [`ca`] | a certificate authority |
//! | [`postgres`] | PostgreSQL servers, seeded with `seed.sql` |
//! | [`issuer`] | an OIDC issuer that can be made to misbehave |
//! | [`mint`] | tokens, good and hostile |
//! | [`gateway`] | the gateway under test and its configuration |
//! | [`agent`] | agents of it |
//! | [`netns`] | hosts of their own, as network namespaces |
//! | [`client`] | `psql`, `pgbench`, Python and Node as clients |
//! | [`disk`] | disks that fail |
//! | [`expect`] | what a text must hold, and must not |
//! | [`http`] | HTTP targets, nginx, and a client that sends any bytes |
//! | [`parsers`] | HTTP servers of other hands, which tell how they read each request |
//! | [`frames`] | frames and fields of HTTP/2, written out |
//! | [`fake`] | a target that holds thousands of sessions, and can hang |
//! | [`load`] | what the gateway holds, measured |
//! | [`masked`] | a shop with masked columns |
//! | [`tap`] | a client that keeps every byte, and thousands of it |
//! | [`raw`] | a client of bare bytes |
//! | [`ssh`] | OpenSSH as target and as client |
//! | [`arena`] | where attacks are tried, with the gateway and past it |
//! | [`vault`] | a server of Vault's HTTP API |
//! | [`neighbours`] | what the gateway is measured beside: PgBouncer and a bare TLS relay |

pub mod agent;
pub mod arena;
pub mod ca;
pub mod client;
pub mod dice;
pub mod disk;
pub mod expect;
pub mod fake;
pub mod frames;
pub mod gateway;
pub mod http;
pub mod issuer;
pub mod liar;
pub mod load;
pub mod masked;
pub mod mint;
pub mod neighbours;
pub mod netns;
pub mod parsers;
pub mod place;
pub mod postgres;
pub mod proc;
pub mod raw;
pub mod ssh;
pub mod tap;
pub mod vault;

/// Chooses the cryptography for this process, once, as the gateway does for its own.
pub fn crypto() {
    // Both fail only when a provider was chosen before, which is this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
}
