//! Runs of bytes that wait for a socket.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

/// A queue of byte runs, for vectored writes. Holds what it is given without copying.
#[derive(Debug, Default)]
pub struct Runs {
    runs: VecDeque<Bytes>,
    bytes: usize,
}

impl Runs {
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.bytes += bytes.len();
            self.runs.push_back(bytes);
        }
    }
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
    pub fn bytes(&self) -> usize {
        self.bytes
    }
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.runs.iter().map(|run| &run[..])
    }
    /// The first `n` bytes are gone.
    pub fn advance(&mut self, mut n: usize) {
        self.bytes = self.bytes.saturating_sub(n);
        while let Some(front) = self.runs.front_mut() {
            if n < front.len() {
                return front.advance(n);
            }
            n -= front.len();
            self.runs.pop_front();
        }
    }
    /// Drops all but the first run.
    pub fn keep_first(&mut self) {
        self.runs.truncate(1);
        self.bytes = self.runs.iter().map(Bytes::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advances_across_runs() {
        let mut runs = Runs::default();
        for part in ["ab", "", "cde", "f"] {
            runs.push(Bytes::from_static(part.as_bytes()));
        }
        assert_eq!((runs.bytes(), runs.iter().count()), (6, 3));
        runs.advance(3);
        assert_eq!(runs.iter().collect::<Vec<_>>(), [&b"de"[..], b"f"]);
        runs.keep_first();
        assert_eq!(runs.bytes(), 2);
        runs.advance(2);
        assert!(runs.is_empty());
    }
}
