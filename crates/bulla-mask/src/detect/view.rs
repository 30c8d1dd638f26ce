//! A text, and what stands around a place in it.

use super::{Finding, Kind, What};

/// Text before a candidate that may decide about it.
pub const BEFORE_BYTES: usize = 64;
/// The same behind it, on the same line.
pub const AFTER_BYTES: usize = 32;

pub struct View<'a> {
    pub bytes: &'a [u8],
}

impl<'a> View<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The byte at a place; 0 beyond either end.
    #[inline]
    pub fn at(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    /// The byte before a place.
    #[inline]
    pub fn before(&self, at: usize) -> u8 {
        at.checked_sub(1).map_or(0, |at| self.at(at))
    }

    pub fn slice(&self, start: usize, end: usize) -> &'a [u8] {
        self.bytes.get(start..end.min(self.bytes.len())).unwrap_or_default()
    }

    /// How many bytes from a place on satisfy a test, at most `max`.
    pub fn run(&self, at: usize, max: usize, test: impl Fn(u8) -> bool) -> usize {
        let rest = self.slice(at, at.saturating_add(max));
        rest.iter().position(|b| !test(*b)).unwrap_or(rest.len())
    }

    /// The same backwards: how many bytes right before a place.
    pub fn run_back(&self, at: usize, max: usize, test: impl Fn(u8) -> bool) -> usize {
        let head = self.slice(at.saturating_sub(max), at);
        head.iter().rev().position(|b| !test(*b)).unwrap_or(head.len())
    }

    /// Whether one of the words stands near `start..end`. Words are in lower case and are matched
    /// where a word begins. Names such as `card_number` count as words with a space.
    pub fn near(&self, start: usize, end: usize, words: &[&str]) -> bool {
        self.within(start.saturating_sub(BEFORE_BYTES), start, words)
            || self.within(end, end + self.run(end, AFTER_BYTES, |b| b != b'\n'), words)
    }

    /// Whether one of the words stands before `start`, within so many bytes.
    pub fn said_before(&self, start: usize, bytes: usize, words: &[&str]) -> bool {
        self.within(start.saturating_sub(bytes.min(BEFORE_BYTES)), start, words)
    }

    fn within(&self, start: usize, end: usize, words: &[&str]) -> bool {
        let mut window = [0_u8; BEFORE_BYTES];
        let text = self.slice(start, end);
        let mut before = self.before(start);
        for (to, from) in window.iter_mut().zip(text) {
            // `customerPhone` has two words.
            let camel = from.is_ascii_uppercase() && before.is_ascii_lowercase();
            let plain = if matches!(from, b'_' | b'-' | b'.' | b'/' | b'\n' | b'\t') {
                b' '
            } else {
                *from
            };
            let plain = if plain.is_ascii() { plain.to_ascii_lowercase() } else { b'#' };
            *to = if camel { plain | 0x80 } else { plain };
            before = *from;
        }
        let window = window.get(..text.len().min(BEFORE_BYTES)).unwrap_or_default();
        let first = self.before(start);
        words.iter().any(|word| has_word(window, first, word.as_bytes()))
    }
}

/// The high bit of a byte says that a word begins there.
fn has_word(window: &[u8], first: u8, word: &[u8]) -> bool {
    if word.is_empty() || window.len() < word.len() {
        return false;
    }
    window.windows(word.len()).enumerate().any(|(at, here)| {
        let same = here.iter().zip(word).all(|(a, b)| a & 0x7f == *b);
        same && {
            let begins = here.first().is_some_and(|b| b & 0x80 != 0);
            let before = at.checked_sub(1).map_or(first, |at| window.get(at).copied().unwrap_or(0));
            begins || !(before & 0x7f).is_ascii_alphabetic()
        }
    })
}

pub fn found(out: &mut Vec<Finding>, start: usize, end: usize, kind: Kind) {
    out.push(Finding { start, end, what: What::Known(kind) });
}
