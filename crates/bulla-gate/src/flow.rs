//! The two writers, and the bytes that wait for the record.

use std::{
    marker::PhantomData,
    task::{Context, Poll},
};

use bulla_core::{Pending, RecordError, Runs};
use bytes::Bytes;

use crate::Cleared;

/// Marks bytes on their way to the client.
#[derive(Debug)]
pub struct ToClient;
/// Marks bytes on their way to the target.
#[derive(Debug)]
pub struct ToTarget;

/// Bytes that may go on once their evidence is durable. Until then nobody can see them.
#[derive(Debug)]
pub struct Release<D> {
    bytes: Bytes,
    /// None in `bounded` mode, while the session is not too far ahead of its record.
    pending: Option<Pending>,
    direction: PhantomData<D>,
}

/// Bytes whose evidence is durable.
#[derive(Debug)]
pub struct Released<D> {
    bytes: Bytes,
    direction: PhantomData<D>,
}

impl<D> Release<D> {
    pub(crate) fn new(bytes: Bytes, pending: Option<Pending>) -> Self {
        Self { bytes, pending, direction: PhantomData }
    }
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
    /// Takes the bytes once they are durable; an error means that they never may go on.
    pub fn poll_released(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Released<D>, RecordError>> {
        if let Some(pending) = &self.pending {
            match pending.poll_durable(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(_)) => {}
            }
        }
        let bytes = std::mem::take(&mut self.bytes);
        Poll::Ready(Ok(Released { bytes, direction: PhantomData }))
    }
}

macro_rules! writer {
    ($name:ident) => {
        impl $name {
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
            pub fn waiting_bytes(&self) -> usize {
                self.0.bytes()
            }
            /// The runs to write next, in order, for a vectored write.
            pub fn runs(&self) -> impl Iterator<Item = &[u8]> {
                self.0.iter()
            }
            /// `n` bytes were written.
            pub fn advance(&mut self, n: usize) {
                self.0.advance(n);
            }
        }
    };
}

/// The only writer that a target has.
#[derive(Debug, Default)]
pub struct Upstream(Runs);

impl Upstream {
    pub fn send(&mut self, cleared: Cleared<Bytes>) {
        self.0.push(cleared.payload);
    }
    pub fn more(&mut self, released: Released<ToTarget>) {
        self.0.push(released.bytes);
    }
    /// Constant bytes: no client can have written them, since nothing of a client is `'static`.
    pub fn control(&mut self, bytes: &'static [u8]) {
        self.0.push(Bytes::from_static(bytes));
    }
}
writer!(Upstream);

/// The only writer that a client has once its session is open.
#[derive(Debug, Default)]
pub struct Downstream(Runs);

impl Downstream {
    pub fn send(&mut self, released: Released<ToClient>) {
        self.0.push(released.bytes);
    }
    /// The gateway's own goodbye when the record has failed, which therefore cannot hold it. Takes
    /// the failure as its proof; whatever else waited is dropped.
    pub fn last_words(&mut self, _failed: &RecordError, own_words: Bytes) {
        // A message that is partly written is finished first, or the client would misread ours.
        self.0.keep_first();
        self.0.push(own_words);
    }
}
writer!(Downstream);

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_core::{Digest, Receipt, pending};
    use std::task::Waker;

    #[test]
    fn bytes_wait_for_the_record() {
        let mut cx = Context::from_waker(Waker::noop());
        let (completer, wait) = pending();
        let mut release = Release::<ToClient>::new(Bytes::from_static(b"row"), Some(wait));
        assert!(release.poll_released(&mut cx).is_pending());
        completer.complete(Ok(Receipt { index: 0, leaf: Digest::ZERO }));
        let Poll::Ready(Ok(released)) = release.poll_released(&mut cx) else { panic!("waits") };
        let mut down = Downstream::default();
        down.send(released);
        assert_eq!(down.runs().collect::<Vec<_>>(), [b"row"]);
        down.advance(2);
        assert_eq!((down.runs().next(), down.waiting_bytes()), (Some(&b"w"[..]), 1));
    }

    #[test]
    fn a_failed_record_releases_nothing() {
        let mut cx = Context::from_waker(Waker::noop());
        let wait = Pending::done(Err(RecordError::Full));
        let mut release = Release::<ToClient>::new(Bytes::from_static(b"row"), Some(wait));
        assert!(matches!(release.poll_released(&mut cx), Poll::Ready(Err(RecordError::Full))));
    }
}
