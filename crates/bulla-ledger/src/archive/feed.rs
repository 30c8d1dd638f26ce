//! What goes from the committer to the archive.

use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::journal::{frame::Payload, writer::Written};

/// Bytes of frames at which the archive is woken before its time.
const FEED_BYTES_WAKE: usize = 4 << 20;

/// What the committer has written and the archive has not seen.
pub(crate) struct Feed {
    bytes_max: usize,
    state: Mutex<FeedState>,
    changed: Condvar,
}

#[derive(Default)]
struct FeedState {
    batches: Vec<Batch>,
    bytes: usize,
    stop: bool,
}

/// One frame; without payloads it must be read from the journal.
pub(crate) struct Batch {
    pub written: Written,
    pub payloads: Option<Vec<Payload>>,
}

impl Feed {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Called by the committer: wakes the archive only when much is waiting.
    pub(crate) fn push(&self, written: Written, payloads: Vec<Payload>) {
        let mut state = self.state.lock();
        let before = state.bytes;
        let bytes = before + written.bytes as usize;
        if bytes > self.bytes_max {
            state.batches.push(Batch { written, payloads: None });
            return;
        }
        state.bytes = bytes;
        state.batches.push(Batch { written, payloads: Some(payloads) });
        if before < FEED_BYTES_WAKE && bytes >= FEED_BYTES_WAKE {
            drop(state);
            self.changed.notify_one();
        }
    }

    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }

    /// Waits until `until`, much is waiting, or the end. Whether it is the end.
    pub(super) fn wait(&self, until: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.stop && state.bytes < FEED_BYTES_WAKE {
            if self.changed.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.stop
    }

    pub(super) fn take(&self) -> Vec<Batch> {
        let mut state = self.state.lock();
        state.bytes = 0;
        std::mem::take(&mut state.batches)
    }
}
