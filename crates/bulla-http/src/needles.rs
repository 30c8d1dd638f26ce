//! Texts that no answer may hold: the target's own secret, in every spelling. Pure.

use std::sync::Arc;

use bulla_mask::normal;

/// Longest escape of a character.
const ESCAPE_BYTES_MAX: usize = 8;

/// Texts that must not pass.
#[derive(Clone, Default)]
pub struct Needles(Arc<[Vec<u8>]>);

impl Needles {
    /// Shorter ones would be found by chance.
    const BYTES_MIN: usize = 8;

    pub fn new(needles: Vec<Vec<u8>>) -> Self {
        let long = |needle: &Vec<u8>| needle.len() >= Self::BYTES_MIN;
        Self(needles.into_iter().filter(long).collect())
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Whether one of them is told, plainly or with the escapes of JSON, addresses or HTML.
    pub fn are_in(&self, bytes: &[u8]) -> bool {
        let found = |bytes: &[u8]| {
            self.0.iter().any(|needle| memchr::memmem::find(bytes, needle).is_some())
        };
        !self.is_empty()
            && (found(bytes) || normal::normalise(bytes).is_some_and(|n| found(n.bytes())))
    }
    /// Length of the end of `bytes` with which one of them may begin, or an escape.
    pub fn begun(&self, bytes: &[u8]) -> usize {
        if self.is_empty() {
            return 0;
        }
        let near = bytes.len().saturating_sub(ESCAPE_BYTES_MAX);
        let escape = bytes.get(near..).unwrap_or_default();
        let escape = escape.iter().position(|byte| b"\\%&".contains(byte));
        let cut = escape.map_or(bytes.len(), |at| near + at);
        let whole = bytes.get(..cut).unwrap_or_default();
        let mut from = cut - self.begun_plain(whole);
        if let Some(normal) = normal::normalise(whole) {
            let length = normal.bytes().len();
            let begun = self.begun_plain(normal.bytes());
            // What cannot be traced back is held whole.
            let origin = normal.origin(length - begun, length).map_or(0, |(start, _)| start);
            from = from.min(if begun == 0 { cut } else { origin });
        }
        bytes.len() - from
    }
    fn begun_plain(&self, bytes: &[u8]) -> usize {
        let begins = |needle: &Vec<u8>| {
            let most = bytes.len().min(needle.len() - 1);
            (1..=most).rev().find(|n| bytes.ends_with(needle.get(..*n).unwrap_or_default()))
        };
        self.0.iter().filter_map(begins).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_needle_is_found_and_its_beginning_waits() {
        let needles = Needles::new(vec![b"secret-123".to_vec(), b"abc".to_vec()]);
        assert!(needles.are_in(b"x secret-123 y") && !needles.are_in(b"secret-12 abc"));
        for told in
            ["secret\\u002d123", "\\u0073ecret-12\\u0033", "s%65cret%2D123", "secret&#45;123"]
        {
            assert!(needles.are_in(told.as_bytes()), "{told}");
        }
        for (bytes, begun) in [
            (&b"x"[..], 0),
            (b"xs", 1),
            (b"x secret-", 7),
            (b"secret-12", 9),
            (b"secret-12x", 0),
            (b"x secret\\u002", 11),
            (b"x \\u0073ecret", 11),
            (b"x%7", 2),
            (b"x s%65cret%2D1", 12),
        ] {
            assert_eq!(needles.begun(bytes), begun, "{}", String::from_utf8_lossy(bytes));
        }
    }
}
