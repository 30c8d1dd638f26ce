//! The list of live sessions, as a port: whoever keeps it can end them.

use std::sync::{Arc, atomic::AtomicU64};

use bulla_core::{PrincipalId, SessionId, Timestamp};
use tokio::sync::{mpsc, watch};

/// What a session can be told from outside its tasks.
#[derive(Debug, Clone)]
pub enum Tell {
    Kill { by: Arc<str> },
    Drain,
    Cancel,
}

/// What an operator sees of a live session.
#[derive(Debug, Default)]
pub struct Counters {
    pub commands: AtomicU64,
    pub denied: AtomicU64,
    pub held: AtomicU64,
    pub rows: AtomicU64,
}

/// Who enters the list.
#[derive(Debug, Clone)]
pub struct Entrant {
    pub id: SessionId,
    pub principal: PrincipalId,
    pub resource: Arc<str>,
    pub opened: Timestamp,
    pub source: Arc<str>,
}

/// Being on the list, until dropped.
pub struct Presence {
    pub counters: Arc<Counters>,
    pub inbox: mpsc::UnboundedReceiver<Tell>,
    /// How long the credentials last that the principal presented since.
    pub identified_until: Box<dyn Fn() -> Timestamp + Send + Sync>,
    /// Takes the session off the list when it is dropped.
    pub entered: Box<dyn Send + Sync>,
}

/// Where live sessions are listed.
pub trait Roll: Send + Sync {
    /// Puts a session on the list. None: there are too many, or the gateway is stopping.
    fn enter(&self, entrant: Entrant) -> Option<Presence>;
    /// A fresh credential of `principal` was seen.
    fn extend(&self, principal: &PrincipalId, until: Timestamp);
    /// True once the gateway is stopping.
    fn draining(&self) -> watch::Receiver<bool>;
}
