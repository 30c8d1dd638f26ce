//! A text, and what stands around a place in it.

use super::{
    Finding, Kind, What,
    bits::{self, BLOCK},
};

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

    /// Whether one of the words stands near `start..end`.
    pub fn near(&self, start: usize, end: usize, words: &Words<'_>) -> bool {
        self.within(start.saturating_sub(BEFORE_BYTES), start, words)
            || self.within(end, end + self.run(end, AFTER_BYTES, |b| b != b'\n'), words)
    }

    /// Whether one of the words stands before `start`, within so many bytes.
    pub fn said_before(&self, start: usize, bytes: usize, words: &Words<'_>) -> bool {
        self.within(start.saturating_sub(bytes.min(BEFORE_BYTES)), start, words)
    }

    /// In a stretch of [`BLOCK`] bytes at most.
    fn within(&self, start: usize, end: usize, words: &Words<'_>) -> bool {
        let letters = bits::letters(&bits::block(self.bytes, start));
        let before = self.before(start);
        let any = bits::up(letters.lower | letters.upper, before.is_ascii_alphabetic());
        // `customerPhone` has two words.
        let camel = letters.upper & bits::up(letters.lower, before.is_ascii_lowercase());
        let mut begins = !any | camel;
        if words.lettered {
            begins &= letters.lower | letters.upper;
        }
        let len = end.saturating_sub(start);
        if len < BLOCK {
            begins &= (1 << len) - 1;
        }
        let text = self.slice(start, end);
        while begins != 0 {
            let here = text.get(begins.trailing_zeros() as usize..).unwrap_or_default();
            begins &= begins - 1;
            let first = here.first().copied().map_or(0, fold);
            if words.firsts & (1 << (first & 31)) != 0
                && words.list.iter().any(|word| begins_with(here, word.as_bytes()))
            {
                return true;
            }
        }
        false
    }
}

/// Words that are looked for nearby: in lower case, matched where a word begins. Names such as
/// `card_number` count as words with a space.
#[derive(Debug, Clone, Copy)]
pub struct Words<'w> {
    list: &'w [&'w str],
    /// Of the first bytes, their low five bits.
    firsts: u32,
    /// All of them begin with a letter.
    lettered: bool,
}

impl<'w> Words<'w> {
    #[must_use]
    pub const fn new(list: &'w [&'w str]) -> Self {
        let (mut firsts, mut lettered, mut rest) = (0, true, list);
        while let [word, tail @ ..] = rest {
            if let [first, ..] = word.as_bytes() {
                firsts |= 1 << (*first & 31);
                lettered &= first.is_ascii_lowercase();
            }
            rest = tail;
        }
        Self { list, firsts, lettered }
    }
}

#[inline]
fn begins_with(text: &[u8], word: &[u8]) -> bool {
    text.len() >= word.len() && text.iter().zip(word).all(|(byte, of)| fold(*byte) == *of)
}

#[inline]
fn fold(byte: u8) -> u8 {
    match byte {
        b'_' | b'-' | b'.' | b'/' | b'\n' | b'\t' => b' ',
        byte if byte.is_ascii() => byte.to_ascii_lowercase(),
        _ => b'#',
    }
}

pub fn found(out: &mut Vec<Finding>, start: usize, end: usize, kind: Kind) {
    out.push(Finding { start, end, what: What::Known(kind) });
}
