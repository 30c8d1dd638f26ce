//! A stream that hands on nothing but strictly read, canonical HTTP/1.1.
//!
//! Where a connection to a target may become something else, a library reads its answer, and reads
//! it from a guard instead of the socket: what it reads was read before by [`crate::wire`], so that
//! no leniency of its own parser can differ from a neighbour's.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bulla_host::Stream;
use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::wire::Filter;

/// Read at most this much at once.
const READ_BYTES: usize = 16 << 10;

/// The stream.
pub struct Guard {
    io: Box<dyn Stream>,
    filter: Arc<Mutex<Filter>>,
    out: BytesMut,
    eof: bool,
}

impl Guard {
    pub fn new(io: Box<dyn Stream>, filter: Arc<Mutex<Filter>>) -> Self {
        Self { io, filter, out: BytesMut::new(), eof: false }
    }
}

impl AsyncRead for Guard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.out.is_empty() {
                let n = this.out.len().min(buf.remaining());
                buf.put_slice(&this.out.split_to(n));
                return Poll::Ready(Ok(()));
            }
            // An error, so that no part of an answer passes for a whole one.
            if let Some(fault) = this.filter.lock().fault() {
                return Poll::Ready(Err(io::Error::other(fault.why)));
            }
            if this.eof || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = [MaybeUninit::<u8>::uninit(); READ_BYTES];
            let mut read = ReadBuf::uninit(&mut buffer);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut read))?;
            this.eof = read.filled().is_empty();
            this.filter.lock().push(read.filled(), this.eof, &mut this.out);
        }
    }
}

impl AsyncWrite for Guard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
