//! A socket below TLS, read in large pieces. The TLS library asks for 4 KiB at a time, which would
//! be 16 system calls for what a target sends at once.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// As much is read at once, if it is there.
const PIECE_BYTES: usize = 64 * 1024;

/// Spare buffers that a thread keeps.
const SPARE_MAX: usize = 4;

thread_local! {
    /// Where pieces arrive, so that a socket without traffic holds no memory for them.
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that were read and not taken yet.
struct Piece {
    bytes: Box<[u8]>,
    from: usize,
    to: usize,
}

impl Piece {
    fn empty() -> Self {
        let spare = SPARE.with_borrow_mut(Vec::pop);
        let bytes = spare.unwrap_or_else(|| vec![0; PIECE_BYTES].into_boxed_slice());
        Self { bytes, from: 0, to: 0 }
    }

    fn give_back(self) {
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARE_MAX {
                spare.push(self.bytes);
            }
        });
    }
}

/// A socket, and bytes that were read from it already.
pub(crate) struct Wide {
    ahead: BytesMut,
    piece: Option<Piece>,
    tcp: TcpStream,
}

impl Wide {
    /// `ahead` was read from `tcp` before.
    pub(crate) fn new(tcp: TcpStream, ahead: BytesMut) -> Self {
        Self { ahead, piece: None, tcp }
    }

    /// Moves what there is of a piece on, and gives the memory back with its last byte.
    fn serve(&mut self, mut piece: Piece, buf: &mut ReadBuf<'_>) {
        let left = piece.bytes.get(piece.from..piece.to).unwrap_or_default();
        let n = left.len().min(buf.remaining());
        buf.put_slice(left.get(..n).unwrap_or_default());
        piece.from += n;
        if piece.from < piece.to {
            self.piece = Some(piece);
        } else {
            piece.give_back();
        }
    }
}

impl AsyncRead for Wide {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            let n = this.ahead.len().min(buf.remaining());
            buf.put_slice(&this.ahead.split_to(n));
            if this.ahead.is_empty() {
                // Gives the memory back.
                this.ahead = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        if let Some(piece) = this.piece.take() {
            this.serve(piece, buf);
            return Poll::Ready(Ok(()));
        }
        if buf.remaining() >= PIECE_BYTES || buf.remaining() == 0 {
            return Pin::new(&mut this.tcp).poll_read(cx, buf);
        }
        let mut piece = Piece::empty();
        let mut read = ReadBuf::new(&mut piece.bytes);
        let polled = Pin::new(&mut this.tcp).poll_read(cx, &mut read);
        piece.to = read.filled().len();
        match polled {
            Poll::Ready(Ok(())) => this.serve(piece, buf),
            _ => piece.give_back(),
        }
        polled
    }
}

impl AsyncWrite for Wide {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn what_was_read_ahead_comes_first_and_nothing_is_lost() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        let sent: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
        let (ahead, rest) = sent.split_at(1_000);
        let rest = rest.to_vec();
        let sending = tokio::spawn(async move {
            sender.write_all(&rest).await.unwrap();
        });
        let mut wide = Wide::new(tcp, BytesMut::from(ahead));
        let (mut got, mut n) = (Vec::new(), 0usize);
        // Of all sizes, beyond that of a piece too.
        let sizes = [1usize, 7, 4096, 70_000, 300];
        loop {
            let mut buf = vec![0; *sizes.get(n % sizes.len()).unwrap()];
            n += 1;
            match wide.read(&mut buf).await.unwrap() {
                0 => break,
                read => got.extend_from_slice(&buf[..read]),
            }
        }
        sending.await.unwrap();
        assert!(got == sent);
        assert_eq!(wide.ahead.capacity(), 0);
        assert!(wide.piece.is_none());
    }
}
