//! Masking a text that comes in pieces.
//!
//! What is given out is never taken back, so a piece is held until nothing that is still to come
//! can change what is found in it: until its line ends, or until more than [`HELD_BYTES_MAX`] are
//! held. A private key or a token that is longer still is swallowed as it comes.

use std::collections::BTreeMap;

use crate::detect::{FINDING_BYTES_MAX, Finding, Kind, Scanner, What};

/// Bytes that are held back at most, between two calls.
pub const HELD_BYTES_MAX: usize = 64 << 10;
/// What stays for context of what was given out already.
const CONTEXT_BYTES: usize = 1 << 10;
/// Of a line that is longer than may be held, so much behind a place decides about it.
const AHEAD_BYTES: usize = 2 * FINDING_BYTES_MAX;

/// What of something long is still to be swallowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    Pem,
    Word,
}

/// One text under way.
#[derive(Debug)]
pub struct Stream {
    scanner: Scanner,
    /// `context` bytes that were given out, and what is held.
    buffer: Vec<u8>,
    context: usize,
    inside: Option<Inside>,
    counts: BTreeMap<String, u64>,
}

impl Stream {
    #[must_use]
    pub fn new(scanner: Scanner) -> Self {
        Self { scanner, buffer: Vec::new(), context: 0, inside: None, counts: BTreeMap::new() }
    }

    /// Bytes that are held back.
    #[must_use]
    pub fn held(&self) -> usize {
        self.buffer.len() - self.context
    }

    /// How often what was masked so far.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<String, u64> {
        &self.counts
    }

    /// Takes a piece, and appends to `out` what may go on.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        for part in piece.chunks(HELD_BYTES_MAX / 2) {
            self.buffer.extend_from_slice(part);
            self.step(out);
        }
    }

    /// The text has ended: appends the rest.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.swallow(true);
        let end = self.buffer.len();
        self.give(end, true, out);
    }

    fn step(&mut self, out: &mut Vec<u8>) {
        self.swallow(false);
        if self.inside.is_some() {
            return;
        }
        let held = self.buffer.get(self.context..).unwrap_or_default();
        let line = memchr::memrchr(b'\n', held).map(|at| self.context + at + 1);
        // A unit of UTF-16 is not cut in two.
        let line = line.map(|at| at + at % 2 * usize::from(self.is_wide(at)));
        let full = held.len() > HELD_BYTES_MAX / 2;
        let end = match line {
            Some(end) => end.min(self.buffer.len()),
            None if full => self.buffer.len().saturating_sub(AHEAD_BYTES),
            None => return,
        };
        if end > self.context {
            self.give(end, false, out);
        }
    }

    fn is_wide(&self, at: usize) -> bool {
        self.buffer.get(at) == Some(&0) || at >= 2 && self.buffer.get(at - 2) == Some(&0)
    }

    /// Gives out everything before `end` that no finding reaches across.
    fn give(&mut self, end: usize, last: bool, out: &mut Vec<u8>) {
        let findings = self.scanner.scan(&self.buffer);
        let mut at = self.context;
        let mut stop = end;
        for finding in findings {
            if finding.end <= at {
                continue;
            }
            if finding.start >= end {
                break;
            }
            if !last && finding.end == self.buffer.len() && self.may_grow(&finding) {
                if finding.end - finding.start <= FINDING_BYTES_MAX {
                    stop = finding.start.max(at);
                    break;
                }
                let key = finding.what == What::Known(Kind::PrivateKey);
                self.inside = Some(if key { Inside::Pem } else { Inside::Word });
            }
            // What is found is whole, even where it reaches beyond what was to be given out.
            stop = stop.max(finding.end);
            out.extend_from_slice(self.slice(at, finding.start.max(at)));
            out.push(b'[');
            out.extend_from_slice(finding.what.as_str().as_bytes());
            out.push(b']');
            *self.counts.entry(finding.what.as_str().to_owned()).or_default() += 1;
            at = finding.end;
        }
        out.extend_from_slice(self.slice(at, stop));
        let done = stop.max(at);
        if self.inside.is_some() {
            // What is swallowed must not be found again.
            self.buffer.clear();
            self.context = 0;
            return;
        }
        // An even number, so that units of UTF-16 stay whole.
        let drop = done.saturating_sub(CONTEXT_BYTES) & !1;
        self.buffer.drain(..drop);
        self.context = done - drop;
    }

    /// What is found at the very end of what is here may go on in what is still to come. A key ends
    /// with its last line, anything else with its own.
    fn may_grow(&self, finding: &Finding) -> bool {
        let text = self.slice(finding.start, finding.end);
        let ended = memchr::memmem::find(text, b"-----END ").is_some() && text.ends_with(b"-----");
        let key = finding.what == What::Known(Kind::PrivateKey);
        !ended && (key || !text.ends_with(b"\n"))
    }

    fn slice(&self, from: usize, to: usize) -> &[u8] {
        self.buffer.get(from..to).unwrap_or_default()
    }

    fn swallow(&mut self, last: bool) {
        let Some(inside) = self.inside else { return };
        let end = match inside {
            Inside::Word => {
                let word = |b: &u8| b.is_ascii_alphanumeric() || b"_-.+/=".contains(b);
                self.buffer.iter().position(|b| !word(b))
            }
            Inside::Pem => match memchr::memmem::find(&self.buffer, b"-----END ") {
                Some(at) => memchr::memmem::find(self.slice(at + 9, self.buffer.len()), b"-----")
                    .map(|close| at + 9 + close + 5),
                None => {
                    let body =
                        |b: &u8| b.is_ascii_alphanumeric() || b"+/=-_:, \r\n\t\\\"".contains(b);
                    self.buffer.iter().position(|b| !body(b))
                }
            },
        };
        match end {
            Some(end) => {
                self.buffer.drain(..end);
                self.inside = None;
            }
            None if last => self.buffer.clear(),
            // The last line may come in two pieces.
            None => {
                let keep = self.buffer.len().min(64);
                self.buffer.drain(..self.buffer.len() - keep);
            }
        }
    }
}

/// Masks a whole text. How often what was masked is counted in `counts`.
#[must_use]
pub fn mask(scanner: &Scanner, text: &[u8], counts: &mut BTreeMap<String, u64>) -> Option<Vec<u8>> {
    let findings = scanner.scan(text);
    if findings.is_empty() {
        return None;
    }
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    for finding in findings {
        out.extend_from_slice(text.get(at..finding.start).unwrap_or_default());
        out.push(b'[');
        out.extend_from_slice(finding.what.as_str().as_bytes());
        out.push(b']');
        *counts.entry(finding.what.as_str().to_owned()).or_default() += 1;
        at = finding.end;
    }
    out.extend_from_slice(text.get(at..).unwrap_or_default());
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(text: &[u8]) -> Vec<u8> {
        mask(&Scanner::all(), text, &mut BTreeMap::new()).unwrap_or_else(|| text.to_vec())
    }

    fn pieces(text: &[u8], sizes: &[usize]) -> Vec<u8> {
        let (mut stream, mut out) = (Stream::new(Scanner::all()), Vec::new());
        let (mut rest, mut sizes) = (text, sizes.iter().cycle());
        while !rest.is_empty() {
            let n = sizes.next().copied().unwrap_or(1).clamp(1, rest.len());
            let (piece, tail) = rest.split_at(n);
            stream.push(piece, &mut out);
            assert!(stream.held() <= HELD_BYTES_MAX, "{}", stream.held());
            rest = tail;
        }
        stream.finish(&mut out);
        out
    }

    const LINES: &[&str] = &[
        "ordinary text of a log, 12 of 17 done",
        "card 4111 1111 1111 1111 was charged",
        "call +1 (212) 555-0187 or mail ann@example.com",
        "{\"token\":\"ghp_aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789\"}",
        "iban DE89 3704 0044 0532 0130 00, ssn\\u003a 536-90-4399",
        "host 10.12.0.7 version 1.2.3.4",
        "grüße ４１１１１１１１１１１１１１１１ %34111111111111111",
        "amqp://app:s3cr3tPa55@mq.example.com/orders",
        "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIrYSSNQFaA2Hwf1duRSxKtLYX5CB04fSeQ6tF1aY/PuoAoGCCqGSM49\n-----END EC PRIVATE KEY-----",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn pieces_change_nothing(
            lines in prop::collection::vec(0..LINES.len(), 1..12),
            sizes in prop::collection::vec(1..200_usize, 1..8),
        ) {
            let text = lines.iter().map(|i| LINES[*i]).collect::<Vec<_>>().join("\n");
            let whole = whole(text.as_bytes());
            let pieces = pieces(text.as_bytes(), &sizes);
            prop_assert_eq!(String::from_utf8_lossy(&pieces), String::from_utf8_lossy(&whole));
        }

        #[test]
        fn any_bytes_pass(
            text in prop::collection::vec(any::<u8>(), 0..2_000),
            sizes in prop::collection::vec(1..300_usize, 1..4),
        ) {
            pieces(&text, &sizes);
        }
    }

    #[test]
    fn long_lines_are_bounded() {
        let line = "card 4111 1111 1111 1111, mail ann@example.com; plain words ".repeat(8_000);
        for sizes in [&[7_usize, 4_096][..], &[64 << 10], &[1 << 20]] {
            let out = pieces(line.as_bytes(), sizes);
            let text = String::from_utf8_lossy(&out);
            assert!(!text.contains("1111") && !text.contains("ann@"));
            assert_eq!(text.matches("[card]").count(), 8_000);
        }
    }

    #[test]
    fn what_is_longer_than_may_be_held_is_swallowed() {
        let key = format!(
            "a\n-----BEGIN PRIVATE KEY-----\n{}-----END PRIVATE KEY-----\nb\n",
            "MHcCAQEEIIrYSSNQFaA2Hwf1duRSxKtLYX5CB04fSeQ6tF1aY/PuoAoGCCqGSM49\n".repeat(5_000)
        );
        let token = format!("x eyJhbGciOiJIUzI1NiJ9.{}.sig y", "QUJD".repeat(60_000));
        for (text, expect) in [(key, "a\n[private_key]\nb\n"), (token, "x [jwt] y")] {
            for sizes in [&[1_000_usize][..], &[40_000, 3], &[1 << 20]] {
                let out = pieces(text.as_bytes(), sizes);
                assert!(out == expect.as_bytes(), "{sizes:?}: {} bytes for {expect}", out.len());
            }
        }
    }

    #[test]
    fn the_memory_of_a_long_stream_is_flat() {
        let (mut stream, mut out) = (Stream::new(Scanner::all()), Vec::new());
        let piece = "ordinary words and numbers 17, mail ann@example.com\n".repeat(100);
        for _ in 0..2_000 {
            stream.push(piece.as_bytes(), &mut out);
            assert!(stream.buffer.capacity() <= 4 * HELD_BYTES_MAX);
            out.clear();
        }
        assert_eq!(stream.counts().get("email"), Some(&200_000));
    }
}
