//! A tunnel's own task takes its turn behind the streams that are ready.
//!
//! Whatever they send is then one write, one record of TLS, and wakes the other side once. Without
//! it the runtime runs the tunnel right behind the first of them, and again behind the next.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

/// Whether the turn was given to others since the last time.
#[derive(Debug, Default)]
pub(crate) struct Turn(bool);

impl Turn {
    /// Pending once for each time that it is ready.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0 = !self.0;
        if self.0 {
            // A task that wakes itself is queued last.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

/// A connection that gathers what its streams send.
pub(crate) struct Gathered<C> {
    connection: C,
    turn: Turn,
}

impl<C> Gathered<C> {
    pub fn new(connection: C) -> Self {
        Self { connection, turn: Turn::default() }
    }
}

impl<C: Future + Unpin> Future for Gathered<C> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let this = self.get_mut();
        std::task::ready!(this.turn.poll(cx));
        Pin::new(&mut this.connection).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Waker,
    };

    use parking_lot::Mutex;
    use tokio::sync::mpsc;

    use super::*;

    /// With the one worker of a small machine, as its runtime orders tasks.
    #[test]
    fn streams_that_are_ready_share_a_turn() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (sent, tunnel) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None::<Waker>)));
        let (written, mut writes) = mpsc::unbounded_channel();
        let connection = {
            let (sent, tunnel) = (sent.clone(), tunnel.clone());
            poll_fn(move |cx| {
                *tunnel.lock() = Some(cx.waker().clone());
                written.send(sent.load(Ordering::Relaxed)).unwrap();
                Poll::<()>::Pending
            })
        };
        runtime.spawn(Gathered::new(connection));
        let seen = runtime.block_on(async {
            assert_eq!(writes.recv().await, Some(0));
            // From a task, so that all five are there before the first of them runs.
            let streams = tokio::spawn(async move {
                for _ in 0..5 {
                    let (sent, tunnel) = (sent.clone(), tunnel.clone());
                    tokio::spawn(async move {
                        sent.fetch_add(1, Ordering::Relaxed);
                        tunnel.lock().as_ref().unwrap().wake_by_ref();
                    });
                }
            });
            streams.await.unwrap();
            writes.recv().await
        });
        assert_eq!(seen, Some(5));
    }
}
