//! Reading and writing one side of a session: as much at once as there is.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bulla_gate::{Downstream, Upstream};
use bytes::BytesMut;
use tokio::io::ReadBuf;

use crate::Stream;

/// Read about this much before it is looked at, if it is there: what is read together is recorded,
/// released and written together.
const READ_BYTES: usize = 64 * 1024;
/// Runs of bytes that one write takes.
const RUNS_MAX: usize = 32;

thread_local! {
    /// Where bytes arrive, so that a session that waits holds no memory for them.
    static ARRIVALS: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Reads what is there. `Ready(0)` is the end of the stream.
pub fn poll_read(
    side: &mut dyn Stream,
    cx: &mut Context<'_>,
    into: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    ARRIVALS.with_borrow_mut(|arrivals| {
        let mut total = 0;
        while total < READ_BYTES {
            let mut buf = ReadBuf::new(arrivals);
            match Pin::new(&mut *side).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    if total > 0 {
                        // There is more: room once for all of it, not twice as much each time.
                        into.reserve((READ_BYTES - total).max(buf.filled().len()));
                    }
                    into.extend_from_slice(buf.filled());
                    total += buf.filled().len();
                }
                // What came before is looked at first; the end and the error come again.
                _ if total > 0 => break,
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => return Poll::Ready(result.map(|()| 0)),
            }
        }
        Poll::Ready(Ok(total))
    })
}

/// What a side is still to get: one of the gate's two writers.
pub trait Queue {
    /// The first runs, as many as there are slices; how many those were.
    fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize;
    fn advance(&mut self, n: usize);
}

macro_rules! queue {
    ($name:ident) => {
        impl Queue for $name {
            fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
                let filled = slices.iter_mut().zip(self.runs());
                filled.map(|(slice, run)| *slice = IoSlice::new(run)).count()
            }
            fn advance(&mut self, n: usize) {
                $name::advance(self, n);
            }
        }
    };
}
queue!(Upstream);
queue!(Downstream);

/// Writes what is there and then flushes it, as far as the side takes it. True if some was written.
pub fn poll_write(
    side: &mut dyn Stream,
    cx: &mut Context<'_>,
    queue: &mut impl Queue,
    flush: &mut bool,
) -> io::Result<bool> {
    let mut moved = false;
    loop {
        let mut slices = [IoSlice::new(&[]); RUNS_MAX];
        let count = queue.fill(&mut slices);
        if count == 0 {
            break;
        }
        let slices = slices.get(..count).unwrap_or_default();
        match Pin::new(&mut *side).poll_write_vectored(cx, slices) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(n)) => {
                queue.advance(n);
                *flush = true;
                moved = true;
            }
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => break,
        }
    }
    if *flush {
        match Pin::new(&mut *side).poll_flush(cx) {
            Poll::Ready(Ok(())) => *flush = false,
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => {}
        }
    }
    Ok(moved)
}
