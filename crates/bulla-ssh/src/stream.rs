//! A byte stream that can be cut, and that takes only so much from strangers.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bulla_host::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
};

/// What may still be read. [`Allowance::lift`] makes it unlimited.
#[derive(Clone)]
pub struct Allowance(Arc<AtomicU64>);

impl Allowance {
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }
    pub fn lift(&self) {
        self.0.store(u64::MAX, Ordering::Relaxed);
    }
    /// False once more was read than is allowed.
    fn take(&self, bytes: usize) -> bool {
        let left = self.0.load(Ordering::Relaxed);
        if left == u64::MAX {
            return true;
        }
        // Only the reader takes; a lift in between must not be undone.
        let rest = left.saturating_sub(bytes as u64);
        let _ = self.0.compare_exchange(left, rest, Ordering::Relaxed, Ordering::Relaxed);
        left >= bytes as u64
    }
}

/// Ends its streams when it is dropped.
pub struct Knife(watch::Sender<bool>);

impl Knife {
    pub fn cut(&self) {
        self.0.send_replace(true);
    }
}

/// A stream with its knife.
pub struct Guarded {
    inner: Box<dyn Stream>,
    allowance: Allowance,
    stop: Pin<Box<dyn Future<Output = ()> + Send>>,
    stopped: bool,
}

impl Guarded {
    pub fn new(inner: Box<dyn Stream>, allowance: Allowance) -> (Self, Knife) {
        let (knife, mut told) = watch::channel(false);
        let stop = Box::pin(async move {
            // A knife that is dropped cuts too.
            let _ = told.wait_for(|cut| *cut).await;
        });
        (Self { inner, allowance, stop, stopped: false }, Knife(knife))
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.stopped && self.stop.as_mut().poll(cx).is_ready() {
            self.stopped = true;
        }
        match self.stopped {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        let bytes = buf.filled().len().saturating_sub(before);
        if !self.allowance.take(bytes) {
            let words = "too many bytes before anybody was identified";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, words)));
        }
        read
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.stopped {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_stranger_is_cut_off_after_its_allowance() {
        let (mut peer, inner) = tokio::io::duplex(64);
        let allowance = Allowance::new(10);
        let (mut stream, _knife) = Guarded::new(Box::new(inner), allowance.clone());
        let mut buffer = [0; 64];
        peer.write_all(b"0123456789").await.unwrap();
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 10);
        peer.write_all(b"x").await.unwrap();
        assert!(stream.read(&mut buffer).await.is_err());
        allowance.lift();
        peer.write_all(b"0123456789abc").await.unwrap();
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 13);
    }

    #[tokio::test]
    async fn a_cut_wakes_whoever_reads() {
        for drops in [false, true] {
            let (_peer, inner) = tokio::io::duplex(64);
            let (mut stream, knife) = Guarded::new(Box::new(inner), Allowance::new(10));
            let reading = tokio::spawn(async move { stream.read_u8().await });
            tokio::task::yield_now().await;
            if drops {
                drop(knife);
                assert!(reading.await.unwrap().is_err());
            } else {
                knife.cut();
                assert!(reading.await.unwrap().is_err());
            }
        }
    }
}
