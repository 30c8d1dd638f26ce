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
        let (mut window, mut begins) = ([0_u8; BEFORE_BYTES], [0_u8; BEFORE_BYTES]);
        let text = self.slice(start, end);
        let (mut before, mut count, mut letters) = (self.before(start), 0, 0_u32);
        for (at, (to, from)) in window.iter_mut().zip(text).enumerate() {
            *to = match from {
                b'_' | b'-' | b'.' | b'/' | b'\n' | b'\t' => b' ',
                from if from.is_ascii() => from.to_ascii_lowercase(),
                _ => b'#',
            };
            // `customerPhone` has two words.
            let camel = from.is_ascii_uppercase() && before.is_ascii_lowercase();
            if camel || !before.is_ascii_alphabetic() {
                if let Some(begin) = begins.get_mut(count) {
                    *begin = at as u8;
                }
                count += 1;
                letters |= 1 << (*to & 31);
            }
            before = *from;
        }
        let window = window.get(..text.len().min(BEFORE_BYTES)).unwrap_or_default();
        let begins = begins.get(..count).unwrap_or_default();
        words.iter().any(|word| {
            let word = word.as_bytes();
            let Some(first) = word.first().filter(|f| letters & (1 << (**f & 31)) != 0) else {
                return false;
            };
            begins.iter().any(|at| {
                let here = window.get(usize::from(*at)..).unwrap_or_default();
                here.first() == Some(first) && here.starts_with(word)
            })
        })
    }
}

pub fn found(out: &mut Vec<Finding>, start: usize, end: usize, kind: Kind) {
    out.push(Finding { start, end, what: What::Known(kind) });
}
