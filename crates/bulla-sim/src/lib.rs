//! A seeded simulation of the whole middle: real gate, policies, wire machines and ledger, between
//! fake clients, targets, approvers and a fake disk, one step at a time, with faults.
//!
//! A run is a seed. The scheduler picks every step from it: who may write how many bytes, when the
//! disk says *durable*, when an approver answers, what breaks. After every step a [`Model`] that
//! knows nothing of the gate checks what came out at both ends against what was recorded:
//!
//! | | holds after every step |
//! |---|---|
//! | I1 | a byte that a target received has an earlier durable intent, or is of a proven read |
//! | I2 | a byte that a client received was durable evidence first |
//! | I3 | a refusal that a client heard of has an entry, and its bytes went nowhere |
//! | I4 | a grant is spent once, on the very command that was approved |
//! | I5 | after any crash the log verifies, holds every receipt, and holds what was delivered |
//! | I6 | no session exceeds its limits |
//! | I7 | a secret appears nowhere but where it belongs |
//!
//! This crate is *not* product code, and imitates none of it: the only part of the road that is
//! written anew here is the loop that carries bytes ([`mod@road`]), because the engine's needs
//! sockets. A defence that is broken on purpose ([`Break`]) must be caught, and by the invariant
//! that names it: that is what shows that the checks can fail.
//!
//! | file | holds |
//! |---|---|
//! | `chance` | all choices of a run |
//! | `client`, `target` | the two ends |
//! | `ports` | clock, policies, approvals, and the recorder between gate and ledger |
//! | `road` | one session's loop, in steps |
//! | `model` | what was recorded and what was seen, and the invariants |
//! | `fixture` | catalogue, policies, the way in |
//! | `disk` | a full disk, and one that forgets |
//! | `world` | the scheduler, faults, crash and recovery |
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a simulation that cannot go on is a failed test"
)]

mod chance;
mod client;
mod disk;
mod fixture;
mod model;
mod ports;
mod road;
mod target;
mod world;

pub use model::{Model, Violation};
pub use world::{Failure, Options, Stats, run};

/// A defence that is missing, to see that its absence is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Break {
    /// The recorder says *durable* at once.
    LyingRecorder,
    /// Evidence is durable although the intent before it never became so.
    IntentLast,
    /// The recorder forgets some evidence and says nothing.
    LostEvidence,
    /// Refusals are not written.
    SwallowedRefusal,
    /// What was refused is sent all the same.
    RefusedIsSent,
    /// Other bytes are sent than those that were judged.
    AlteredPayload,
    /// A response goes to the client as it comes.
    EarlyRelease,
    /// An approval that was spent is handed out again.
    GrantReused,
    /// An approval of one command is handed out for another.
    GrantForAnother,
    /// The disk loses the end of what it called durable.
    ForgetfulDisk,
    /// Obligations are not handed to the machine.
    NoObligations,
    /// The credential is written down.
    SecretRecorded,
}

impl Break {
    /// Each, with the invariant that must name it.
    pub const ALL: [(Self, &'static str); 12] = [
        (Self::LyingRecorder, "I1"),
        (Self::IntentLast, "I1"),
        (Self::LostEvidence, "I2"),
        (Self::SwallowedRefusal, "I3"),
        (Self::RefusedIsSent, "I1"),
        (Self::AlteredPayload, "I1"),
        (Self::EarlyRelease, "I2"),
        (Self::GrantReused, "I4"),
        (Self::GrantForAnother, "I4"),
        (Self::ForgetfulDisk, "I5"),
        (Self::NoObligations, "I6"),
        (Self::SecretRecorded, "I7"),
    ];
}
