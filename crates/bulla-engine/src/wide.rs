//! A socket below TLS, read in large pieces. The TLS library asks for 4 KiB at a time, which would
//! be 16 system calls for what a target sends at once.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// As much is read at once, if it is there.
const PIECE_BYTES: usize = 64 * 1024;

thread_local! {
    /// Where pieces arrive, so that a socket without traffic holds no memory for them.
    static PIECE: RefCell<Vec<u8>> = RefCell::new(vec![0; PIECE_BYTES]);
}

/// A socket, and bytes that were read from it already.
pub(crate) struct Wide {
    ahead: BytesMut,
    tcp: TcpStream,
}

impl Wide {
    /// `ahead` was read from `tcp` before.
    pub(crate) fn new(tcp: TcpStream, ahead: BytesMut) -> Self {
        Self { ahead, tcp }
    }

    fn serve(&mut self, buf: &mut ReadBuf<'_>) {
        let n = self.ahead.len().min(buf.remaining());
        buf.put_slice(self.ahead.get(..n).unwrap_or_default());
        self.ahead.advance(n);
        if self.ahead.is_empty() {
            // Gives the memory back.
            self.ahead = BytesMut::new();
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
            this.serve(buf);
            return Poll::Ready(Ok(()));
        }
        if buf.remaining() >= PIECE_BYTES || buf.remaining() == 0 {
            return Pin::new(&mut this.tcp).poll_read(cx, buf);
        }
        PIECE.with_borrow_mut(|piece| {
            let mut piece = ReadBuf::new(piece);
            std::task::ready!(Pin::new(&mut this.tcp).poll_read(cx, &mut piece))?;
            let (now, later) = piece.filled().split_at(piece.filled().len().min(buf.remaining()));
            buf.put_slice(now);
            if !later.is_empty() {
                this.ahead.extend_from_slice(later);
            }
            Poll::Ready(Ok(()))
        })
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
    }
}
