//! Who speaks: JWTs of OpenID Connect issuers and X.509-SVIDs of SPIFFE trust domains become
//! principals.
//!
//! This crate is *not* an issuer: it mints nothing, and it never sends a credential anywhere. It
//! decides nothing but who somebody is.
//!
//! Invariants:
//! - **A header cannot choose how it is verified.** Algorithms, keys and URLs come from our
//!   configuration; a token may only name one of them, exactly.
//! - **No claim reaches policy unless the issuer's record maps it**, and only after the signature.
//! - **Doubt is a refusal**: duplicate members, odd encodings, unknown critical things, no keys.
//! - **A certificate chains to the authorities of the trust domain that it names**, to no other.
//! - **A bound token is good with its key only.**
//! - **No token, or part of one, is in an error, a log or a principal**: only digests.
//!
//! | file | holds |
//! |---|---|
//! | `config` | what an operator says, as plain structs |
//! | `compile` | the check of it, every mistake at once |
//! | `json` | strict JSON |
//! | `jwt` | strict compact JWS; the rules of time, issuer and audience; pure |
//! | `jwk` | public keys and signatures; pure |
//! | `fetch` | one refresh of an issuer's keys, over HTTPS or from a file |
//! | `keys` | the cache of one issuer's keys and its background task |
//! | `dpop` | proofs of possession; pure but for the memory of those that were used |
//! | `mapping` | claims to subject, groups and attributes; pure |
//! | `spiffe` | SPIFFE ids, their certificates, path patterns; pure |
//! | `trust` | trust bundles and the check of a client's chain |
//! | `verifier` | the `Identity` port over all of it |

mod compile;
mod config;
mod dpop;
mod error;
mod fetch;
mod json;
mod jwk;
mod jwt;
mod keys;
mod mapping;
mod spiffe;
mod trust;
mod verifier;

pub use compile::{PATHS_MAX, RECORDS_MAX};
pub use config::*;
pub use error::Word;
pub use fetch::{BODY_BYTES_MAX, FetchError, FetchLimits};
pub use json::JSON_DEPTH_MAX;
pub use jwk::{KEYS_MAX, RSA_BITS_MAX, RSA_BITS_MIN};
pub use jwt::{AUDIENCES_MAX, Algorithm, KID_BYTES_MAX, TOKEN_BYTES_MAX};
pub use keys::{
    AGE_MS_MAX, IssuerStatus, REFRESH_AGE_MS, REFRESH_GAP_MS, RETRY_GAP_MS, STALE_AGE_MS,
};
pub use mapping::{GROUPS_MAX, NAME_BYTES_MAX, RULES_MAX, SET_ITEMS_MAX, TEXT_BYTES_MAX};
pub use spiffe::{LEAF_BYTES_MAX, SPIFFE_ID_BYTES_MAX, TRUST_DOMAIN_BYTES_MAX};
pub use trust::{AUTHORITIES_MAX, INTERMEDIATES_MAX, Trust};
pub use verifier::Verifier;
