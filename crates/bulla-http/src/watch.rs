//! What is known of a client's connection, and how long its client may take.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bulla_host::{Live, Standing};
use parking_lot::Mutex;

use crate::wire::Fault;

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// Between two requests.
    pub idle: Duration,
    /// For the whole of a head, from its first byte.
    pub head: Duration,
    /// Between two pieces of a body.
    pub body: Duration,
}

/// What is known of a client's connection.
#[derive(Default)]
pub struct Watch {
    fault: Mutex<Option<Fault>>,
    /// Requests that are not answered yet.
    active: AtomicUsize,
    /// Somebody was identified on this connection.
    known: AtomicBool,
    /// Sessions whose answers are on their way in streams that a library reads when their client
    /// takes something.
    streams: Mutex<HashMap<u64, Arc<Live>>>,
    opened: AtomicU64,
}

impl Watch {
    /// Why the connection's input ended, if it was a fault.
    pub fn fault(&self) -> Option<Fault> {
        *self.fault.lock()
    }
    pub fn broke(&self, fault: Fault) {
        self.fault.lock().get_or_insert(fault);
    }
    /// Somebody is known.
    pub fn known(&self) {
        self.known.store(true, Ordering::Relaxed);
    }
    pub fn is_stranger(&self) -> bool {
        !self.known.load(Ordering::Relaxed)
    }
    /// Counts a request as under way until the guard drops.
    pub fn busy(self: &Arc<Self>) -> Busy {
        self.active.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }
    /// The same for an answer of a session.
    pub fn stream(self: &Arc<Self>, live: &Arc<Live>) -> Streaming {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        self.streams.lock().insert(number, live.clone());
        Streaming { busy: self.busy(), number }
    }
    /// Whether an answer is on its way whose session was ended.
    pub fn is_ended(&self) -> bool {
        let ended = |live: &Arc<Live>| matches!(&*live.standing().borrow(), Standing::Ended(..));
        self.streams.lock().values().any(ended)
    }
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }
}

/// A request under way.
pub struct Busy(Arc<Watch>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer on its way.
pub struct Streaming {
    busy: Busy,
    number: u64,
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.busy.0.streams.lock().remove(&self.number);
    }
}
