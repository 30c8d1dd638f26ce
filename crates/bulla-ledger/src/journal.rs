//! The journal: what makes an append durable. Segments of pre-written zeros, filled by frames with
//! one write in flight, so that a torn tail can have no successor.
//!
//! | file | holds |
//! |---|---|
//! | `frame` | the bytes |
//! | `segment` | segments set aside ahead of need, and the account of their room |
//! | `writer` | one frame after the other |
//! | `recover` | what is left after a crash |

pub(crate) mod frame;
pub(crate) mod recover;
pub(crate) mod segment;
pub(crate) mod writer;

#[cfg(test)]
mod tests;
