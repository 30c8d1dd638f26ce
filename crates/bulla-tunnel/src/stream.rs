//! One stream of a tunnel as `AsyncRead + AsyncWrite`.
//!
//! Each direction has its own window: a reader that does not read stops its writer and nobody else.
//! Dropping a stream that has not ended resets it, which the other side sees as an error.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::FRAME_BYTES_MAX;

pub struct TunnelStream {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// Received and not read yet.
    ready: Bytes,
    /// Bytes at the front of `ready` that were released when they were read the first time.
    released: usize,
    /// Kept while the stream lives: how many streams a tunnel has open.
    guard: Option<Box<dyn Send + Sync>>,
}

/// Why a connection is gone, without a library's advice.
pub(crate) fn lost(error: &h2::Error) -> String {
    let cut = |io: &io::Error| io.kind() == io::ErrorKind::UnexpectedEof;
    if error.get_io().is_some_and(cut) {
        "the connection was cut".to_owned()
    } else {
        format!("the tunnel was lost: {error}")
    }
}

fn broken(error: h2::Error) -> io::Error {
    let words = match error.reason() {
        Some(reason) if error.is_reset() => format!("the stream was reset: {reason:?}"),
        _ => lost(&error),
    };
    io::Error::new(io::ErrorKind::ConnectionReset, words)
}

impl TunnelStream {
    pub(crate) fn new(send: SendStream<Bytes>, recv: RecvStream) -> Self {
        Self { send, recv, ready: Bytes::new(), released: 0, guard: None }
    }

    pub(crate) fn guard(&mut self, guard: Box<dyn Send + Sync>) {
        self.guard = Some(guard);
    }

    /// Puts bytes back that `AsyncRead` read too far.
    pub(crate) fn put_back(&mut self, bytes: Bytes) {
        self.released += bytes.len();
        if self.ready.is_empty() {
            self.ready = bytes;
        } else if !bytes.is_empty() {
            let mut joined = BytesMut::from(&bytes[..]);
            joined.extend_from_slice(&self.ready);
            self.ready = joined.freeze();
        }
    }

    /// The next run of bytes as it came; None at the end. Not to be mixed with `AsyncRead`.
    pub(crate) async fn data(&mut self) -> Option<io::Result<Bytes>> {
        std::future::poll_fn(|cx| self.poll_data(cx)).await
    }

    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if !self.ready.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.ready))));
        }
        let Some(data) = ready!(self.recv.poll_data(cx)) else { return Poll::Ready(None) };
        Poll::Ready(Some(data.map_err(broken)))
    }

    /// Says that so many bytes of [`Self::data`] are done with: the other side may send as many.
    pub(crate) fn release(&mut self, bytes: usize) {
        let before = bytes.min(self.released);
        self.released -= before;
        // Fails only where the stream has ended, and then no window matters any more.
        let _ = self.recv.flow_control().release_capacity(bytes - before);
    }

    /// How many bytes may be sent now, of the `want` that are there.
    fn poll_room(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<io::Result<usize>> {
        let want = want.min(FRAME_BYTES_MAX as usize);
        self.send.reserve_capacity(want);
        loop {
            let room = self.send.capacity().min(want);
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }

    /// Sends some of `data` from its front, without a copy.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
    ) -> Poll<io::Result<usize>> {
        let room = ready!(self.poll_room(cx, data.len()))?;
        let sent = self.send.send_data(data.split_to(room), false);
        Poll::Ready(sent.map(|()| room).map_err(broken))
    }

    /// Nothing more will be sent.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.send.send_data(Bytes::new(), true).map_err(broken)
    }

    /// Resolves when the other side resets the stream or the tunnel is lost.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.send.poll_reset(cx).map(drop)
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.ready.is_empty() {
            match ready!(this.recv.poll_data(cx)) {
                Some(data) => this.ready = data.map_err(broken)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = this.ready.len().min(buf.remaining());
        buf.put_slice(&this.ready.split_to(n));
        this.release(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let want: usize = bufs.iter().map(|buf| buf.len()).sum();
        if want == 0 {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(this.poll_room(cx, want))?;
        let mut data = BytesMut::with_capacity(room);
        for buf in bufs {
            let fits = buf.len().min(room - data.len());
            data.extend_from_slice(buf.get(..fits).unwrap_or_default());
        }
        let sent = this.send.send_data(data.freeze(), false);
        Poll::Ready(sent.map(|()| room).map_err(broken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was written is on its way: the tunnel's own task flushes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = self.get_mut().finish();
        Poll::Ready(Ok(()))
    }
}
