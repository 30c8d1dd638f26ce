//! What an agent does beside a target whose wire a library owns: it vouches for the gateway, so that
//! the target's secret need not leave it.
//!
//! Both sides of a protocol write and read what is told; the agent and the tunnel between them pass
//! it on and know nothing of it.

use std::sync::Arc;

use bulla_core::{Secret, Timestamp};

/// What becomes of a target's secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// There is none; the agent has its own means.
    Needless,
    /// It is used beside the target and stays there.
    Kept,
    /// The gateway gets it, since it must say it itself.
    Given,
}

/// What a gateway is told with a stream.
pub struct Vouch {
    /// The protocol's own words, at most some hundreds, none longer than 8 KiB.
    pub told: Vec<(String, String)>,
    /// Signs for the gateway on this stream, where that is how one logs in.
    pub seal: Option<Arc<dyn Seal>>,
}

/// Signs for a gateway that logs in over one stream.
pub trait Seal: Send + Sync {
    /// What the target has sent, in order and from the first byte. False once no more needs to be
    /// seen.
    fn see(&self, bytes: &[u8]) -> bool;
    /// Signs what logs in on this stream, and nothing else.
    ///
    /// # Errors
    /// Why not, for operators.
    fn sign(&self, data: &[u8]) -> Result<Vec<u8>, String>;
}

/// One target, as the agent beside it sees it.
pub trait Beside: Send + Sync {
    fn keeping(&self) -> Keeping;
    /// Vouches for a gateway with these wishes. `secret`: the target's, where it is kept.
    ///
    /// # Errors
    /// Why not, for operators.
    fn vouch(
        &self,
        wishes: &[(String, String)],
        secret: Option<&Secret>,
        now: Timestamp,
    ) -> Result<Vouch, String>;
}
