//! The format of Bulla's log, over bytes: entries, the Merkle tree over them, its tiles,
//! checkpoints, proofs, and the verifier.
//!
//! The files of a log are those of the C2SP specifications (tlog-tiles, tlog-checkpoint,
//! signed-note, tlog-cosignature, tlog-proof), unchanged, so that any independent verifier can read
//! them; what an entry holds is ours (`docs/formats/`).
//!
//! This crate is *not* a log: it has no files, no clock, no randomness and no runtime. Keys, times
//! and bytes come in as arguments, and the same arguments always give the same bytes.
//!
//! Invariants:
//! - **One spelling**: for every format, what is accepted is exactly what would be written.
//! - **Nothing from outside panics, or grows without a named limit.**
//! - **A signed checkpoint is a value** ([`checkpoint::SignedCheckpoint`]): without a verified
//!   signature there is none.
//! - **A nonce is never used twice** ([`seal::Sealer`]).
//!
//! | file | holds |
//! |---|---|
//! | `hash` | SHA-256, leaf and node hashes |
//! | `tree` | frontier, right edge, inclusion and consistency proofs |
//! | `tile` | paths and bytes of tiles and entry bundles |
//! | `note` | signed notes, keys, cosignatures |
//! | `checkpoint` | signed tree heads |
//! | `proof` | offline proofs of one entry |
//! | `entry` | what a leaf holds, as deterministic CBOR (`cbor`) |
//! | `seal` | encryption and commitments under a session's data key |
//! | `verify` | the verifier: tree (`bundle`), completeness (`session`), what it says (`finding`) |

mod cbor;
pub mod checkpoint;
pub mod entry;
pub mod hash;
pub mod note;
pub mod proof;
pub mod seal;
pub mod tile;
pub mod tree;
pub mod verify;

pub use hash::Hash;
