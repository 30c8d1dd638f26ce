//! The ledger: where Bulla's record becomes durable. Implements the ports [`bulla_core::Recorder`]
//! and [`bulla_core::Journal`] over files.
//!
//! An append is encoded, sealed and chained in its caller's thread, made durable by one committer
//! that writes whatever waits in one frame of the journal, and later copied, off the hot path, into
//! an archive in the C2SP tlog-tiles format that any verifier reads.
//!
//! This crate is *not* the format of the log (`bulla-tlog`), knows no protocol, and decides nothing
//! about traffic: it says whether something is durable, and never that it is when it is not.
//!
//! Invariants:
//! - **No completion before the sync.** A [`bulla_core::Pending`] resolves to a receipt only after
//!   the frame that holds the entry and its objects is on stable storage.
//! - **No retry after a failed write or sync.** The ledger stops for good; every later append
//!   fails.
//! - **An append happens whole or not at all**; its room on disk is taken before it is numbered.
//! - **Nothing that a client or target wrote becomes an entry**: frames carry a tag under a salt
//!   that only this host knows.
//! - **A torn tail is cut off and kept; damage that no crash explains stops the start.**
//! - **The recovered log is never smaller than the published checkpoint.**
//! - **No personal data in the clear part of an entry**, no key in the archive.
//!
//! The directory is trusted to keep secrets: who can read `keys` reads all evidence, who can write
//! `journal` can add entries until a checkpoint covers them. Who can only write `archive` can
//! destroy it, not change it unseen.
//!
//! | file | holds |
//! |---|---|
//! | `config` | set-up and limits |
//! | `ledger` | opening, closing, health; the [`bulla_core::Recorder`] |
//! | `record` | sessions: from records to sealed entries |
//! | `detail` | the private part of an entry |
//! | `committer`, `company` | the thread that makes appends durable; whether it waits for more |
//! | `journal` | frames, segments, recovery |
//! | `archive` | tiles, bundles, objects, checkpoints, made from the journal |
//! | `pack`, `index`, `tracker` | formats beside the log: evidence, sessions, what is open |
//! | `keys` | signing, wrapping and index keys |
//! | `read`, `objects` | sessions, entries, exact bytes and proofs, read back |
//! | `verify` | a directory against the log's key, on several threads |
//! | `vfs`, `aligned` | the file system, real and simulated; memory for it |

mod aligned;
mod archive;
mod committer;
mod company;
mod config;
mod detail;
mod index;
mod journal;
mod keys;
mod ledger;
mod objects;
mod pack;
mod read;
mod record;
mod tracker;
#[cfg(test)]
mod vectors;
mod verify;
pub mod vfs;

pub use archive::ArchiveError;
pub use committer::{gather_wake_ups, wake_committer};
pub use config::*;
pub use detail::*;
pub use journal::recover::RecoverError;
pub use keys::{KeyError, KeyReader, log_vkey};
pub use ledger::{GATEWAY_PROTOCOL, GATEWAY_RESOURCE, Ledger, LedgerError, Recovery, wait_durable};
pub use read::{Event, ReadError, Reader, ReaderConfig, Session, SessionPlace, StoredEntry};
pub use verify::{ArchiveDir, ReadFileError, verify_dir};
