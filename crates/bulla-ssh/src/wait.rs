//! Bytes of one direction that wait for the record, in order.

use std::{
    collections::VecDeque,
    future::poll_fn,
    task::{Context, Poll, ready},
};

use bulla_core::RecordError;
use bulla_gate::Release;
use bytes::Bytes;

/// Bytes of one direction that may be on their way to the disk at once.
pub const WINDOW_BYTES: usize = 4 << 20;

/// A piece, and what it is for; or something that happens between two pieces.
struct Piece<D, K> {
    release: Option<Release<D>>,
    kind: K,
}

/// A queue whose front leaves when it is durable.
pub struct Waiting<D, K> {
    queue: VecDeque<Piece<D, K>>,
    bytes: usize,
}

impl<D, K> Default for Waiting<D, K> {
    fn default() -> Self {
        Self { queue: VecDeque::new(), bytes: 0 }
    }
}

impl<D, K> Waiting<D, K> {
    pub fn push(&mut self, release: Release<D>, kind: K) {
        self.bytes += release.len();
        self.queue.push_back(Piece { release: Some(release), kind });
    }
    /// What needs no record, and only its turn.
    pub fn mark(&mut self, kind: K) {
        self.queue.push_back(Piece { release: None, kind });
    }
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
    pub fn has_room(&self) -> bool {
        self.bytes < WINDOW_BYTES && self.queue.len() < 1_024
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Bytes, K), RecordError>> {
        let Some(front) = self.queue.front_mut() else { return Poll::Pending };
        let bytes = match &mut front.release {
            None => Bytes::new(),
            Some(release) => {
                let length = release.len();
                let released = ready!(release.poll_released(cx));
                self.bytes = self.bytes.saturating_sub(length);
                released?.spend()
            }
        };
        match self.queue.pop_front() {
            Some(piece) => Poll::Ready(Ok((bytes, piece.kind))),
            None => Poll::Pending,
        }
    }

    /// The next piece, once it is durable. Waits for ever while there is none. Cancel safe.
    pub async fn next(&mut self) -> Result<(Bytes, K), RecordError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }
}
