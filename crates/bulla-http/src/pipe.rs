//! The bytes of a connection of HTTP/1.1: read in through the strict filter, written out in order.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bulla_core::Runs;
use bulla_host::Stream;
use bytes::{BufMut as _, BytesMut};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, ReadBuf};

use crate::wire::{Filter, RequestHead, ResponseHead, Sink};

/// Read at most this much of a head at once. On the stack, so that ten thousand idle connections
/// hold no buffers.
const HEAD_BYTES: usize = 16 << 10;
/// A body goes on in pieces of about this length, if that much is there.
pub const PIECE_BYTES: usize = 64 << 10;

/// What was read of a message and not taken yet.
#[derive(Default)]
pub struct Came {
    pub request: Option<RequestHead>,
    pub response: Option<ResponseHead>,
    pub body: BytesMut,
    pub over: bool,
}

impl Sink for Came {
    fn request(&mut self, head: RequestHead) {
        self.request = Some(head);
    }
    fn response(&mut self, head: ResponseHead) {
        self.response = Some(head);
    }
    fn body(&mut self, bytes: &[u8], _: bool) {
        self.body.extend_from_slice(bytes);
    }
    fn end(&mut self, _: bool) {
        self.over = true;
    }
}

/// Both directions of a connection.
pub struct Pipe {
    io: Box<dyn Stream>,
    pub filter: Filter,
    pub came: Came,
    pub out: Runs,
    flush: bool,
    /// The other side sends nothing more.
    pub eof: bool,
}

impl Pipe {
    pub fn new(io: Box<dyn Stream>, filter: Filter) -> Self {
        let (came, out) = (Came::default(), Runs::default());
        Self { io, filter, came, out, flush: false, eof: false }
    }

    /// Whether everything was written.
    pub fn is_flushed(&self) -> bool {
        self.out.is_empty() && !self.flush
    }
    /// What was not written is not written any more.
    pub fn give_up(&mut self) {
        (self.out, self.flush) = (Runs::default(), false);
    }
    /// The bare connection, for what is not HTTP.
    pub fn take_io(&mut self) -> Box<dyn Stream> {
        std::mem::replace(&mut self.io, Box::new(tokio::io::empty()))
    }

    /// Writes what waits, and flushes it.
    pub fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); 8];
            let filled = slices.iter_mut().zip(self.out.iter());
            let count = filled.map(|(slice, run)| *slice = IoSlice::new(run)).count();
            let slices = slices.get(..count).unwrap_or_default();
            let n = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(n);
            self.flush = true;
        }
        if self.flush {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.flush = false;
        }
        Poll::Ready(Ok(()))
    }

    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Reads past the filter, to whoever throws it away. How much; 0 is the end.
    pub fn poll_waste(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); HEAD_BYTES];
        let mut read = ReadBuf::uninit(&mut buffer);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Reads once, and takes note of it. `into`: where a body with a length goes on from, if it is
    /// not what came.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: Option<&mut BytesMut>,
    ) -> Poll<io::Result<()>> {
        let left = self.filter.passes();
        if left > 0 {
            // Within a body nothing is to be read.
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let body = into.unwrap_or(&mut self.came.body);
            if body.capacity() - body.len() < most.min(HEAD_BYTES) {
                body.reserve(most);
            }
            let mut room = body.limit(most);
            let n = ready!(pin!(self.io.read_buf(&mut room)).poll(cx))?;
            if n == 0 {
                self.close();
            } else {
                self.filter.passed(n as u64);
                self.came.over |= n as u64 == left;
            }
        } else {
            let mut buffer = [MaybeUninit::<u8>::uninit(); HEAD_BYTES];
            let mut read = ReadBuf::uninit(&mut buffer);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                self.close();
            } else {
                self.filter.push(read.filled(), false, &mut self.came);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The other side has ended what it sends: that is the end of a body without a length.
    fn close(&mut self) {
        let open = self.filter.is_free();
        self.eof = true;
        self.filter.push(&[], true, &mut self.came);
        self.came.over |= open && self.filter.fault().is_none();
    }
}
