//! The nouns of Bulla, their invariants and limits, and the ports through which the pure middle
//! reaches the outside.
//!
//! This crate is *not* a place for I/O, clocks, randomness or a protocol's details: it has no
//! runtime, and nothing in it is serialised. The crate at each border owns its own format.
//!
//! Invariants:
//! - **An id is validated once**, in its constructor; holding one is the proof.
//! - **"Touches nothing" and "could not tell" are different values** ([`Touches`]).
//! - **Effects are never guessed downwards**: a reading that is in doubt says [`Effects::UNKNOWN`].
//! - **Bytes and their reading travel together** ([`Draft`]): one constructor, so that they cannot
//!   drift apart.
//!
//! | file | holds |
//! |---|---|
//! | `ids` | names, digests, session and event ids, timestamps |
//! | `principal` | the verified *who* |
//! | `command` | effects, touches, commands, drafts |
//! | `decision` | the answer of policy and what it obliges |
//! | `refusal` | a command that will not be sent |
//! | `runs` | bytes that wait for a socket |
//! | `descriptor` | what a protocol tells policy about itself |
//! | `record` | the [`Recorder`] and [`Journal`] ports, [`Pending`] durability |
//! | `ahead` | how far a `bounded` session may be ahead of its record |
//! | `ports` | identity, directory, approvals, policies, clock |

mod ahead;
mod command;
mod decision;
mod descriptor;
mod ids;
mod ports;
mod principal;
mod record;
mod refusal;
mod runs;

pub use ahead::*;
pub use command::*;
pub use decision::*;
pub use descriptor::*;
pub use ids::*;
pub use ports::*;
pub use principal::*;
pub use record::*;
pub use refusal::*;
pub use runs::*;
