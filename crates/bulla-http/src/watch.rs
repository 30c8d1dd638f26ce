//! What is known of a client's connection, and how long its client may take.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bulla_host::Standing;
use parking_lot::Mutex;
use tokio::{sync::watch::Receiver, time::Instant};

use crate::wire::Fault;

/// How long an answer that nobody reads may outlive its session.
const ENDED_MAX: Duration = Duration::from_secs(3);

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

/// How a body is taken by whom it goes to: when a piece was handed over behind which nothing more
/// was asked for yet.
#[derive(Default)]
pub struct Pace(Mutex<Option<Instant>>);

impl Pace {
    pub fn set(&self, given: Option<Instant>) {
        *self.0.lock() = given;
    }
    pub fn is_stuck(&self, limit: Duration) -> bool {
        self.0.lock().is_some_and(|given| given.elapsed() >= limit)
    }
    /// Resolves when nothing was asked for during `limit`, though there may be more.
    pub async fn stuck(&self, limit: Duration) {
        loop {
            let given = *self.0.lock();
            let due = given.unwrap_or_else(Instant::now) + limit;
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

/// By number: of which session, and how it is taken.
type Streams = HashMap<u64, (Receiver<Standing>, Arc<Pace>)>;

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
    streams: Mutex<Streams>,
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
    /// The same for an answer, which ends with its session.
    pub fn stream(self: &Arc<Self>, standing: Receiver<Standing>) -> Streaming {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let pace = Arc::new(Pace::default());
        // Nothing of it is asked for before there is room for it.
        pace.set(Some(Instant::now()));
        self.streams.lock().insert(number, (standing, pace.clone()));
        Streaming { busy: self.busy(), number, pace }
    }
    /// Whether the client holds what it does not read: an answer whose session was ended, and which
    /// cannot hear of that, or all there is, for `limit`.
    pub fn is_held(&self, limit: Duration) -> bool {
        let streams = self.streams.lock();
        let ended = streams.values().any(|(standing, pace)| {
            matches!(&*standing.borrow(), Standing::Ended(..)) && pace.is_stuck(ENDED_MAX)
        });
        let all = !streams.is_empty() && streams.len() >= self.active();
        ended || (all && streams.values().all(|(_, pace)| pace.is_stuck(limit)))
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
    /// To be told how it is taken.
    pub pace: Arc<Pace>,
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.busy.0.streams.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_holds_what_it_does_not_read() {
        const LONG: Duration = Duration::from_secs(600);
        let held = |watch: &Watch| (watch.is_held(Duration::ZERO), watch.is_held(LONG));
        let watch = Arc::new(Watch::default());
        let (tell, standing) = tokio::sync::watch::channel(Standing::Open);
        assert_eq!(held(&watch), (false, false), "there is nothing");
        let (one, two) = (watch.stream(standing.clone()), watch.stream(standing.clone()));
        assert_eq!(held(&watch), (true, false), "nothing of both was ever asked for");
        // One of them waits for its target.
        one.pace.set(None);
        assert_eq!(held(&watch), (false, false));
        one.pace.set(Some(Instant::now()));
        assert_eq!(held(&watch), (true, false));
        // A request is under way besides.
        let busy = watch.busy();
        assert_eq!(held(&watch), (false, false));
        drop((busy, two));
        assert_eq!(held(&watch), (true, false));
        // Who is asked for more hears of the end itself.
        tell.send_replace(Standing::Ended("killed", None));
        one.pace.set(None);
        assert_eq!(held(&watch), (false, false));
        one.pace.set(Some(Instant::now() - ENDED_MAX));
        assert_eq!(held(&watch), (true, true));
        drop(one);
        assert_eq!(held(&watch), (false, false));
        assert_eq!(watch.active(), 0);
    }
}
