//! Candidates that have digits: runs of digits, alone or in groups with single characters between.

use super::{
    Finding, Kind,
    bits::{self, Bits},
    cards, ids,
    kind::Set,
    net, phone,
    shapes::{self, Next},
    view::{View, found},
};

/// A run of digits.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seg {
    pub start: usize,
    pub len: usize,
    /// What stands between it and the next one; 0 behind the last.
    pub sep: u8,
}

impl Seg {
    pub fn end(&self) -> usize {
        self.start + self.len
    }
}

/// Runs from one on, as far as single separators lead.
#[derive(Debug, Clone, Copy)]
pub struct Group<'g> {
    pub segs: &'g [Seg],
    /// A separator stands before the first of them, and digits before that.
    pub led: u8,
}

impl Group<'_> {
    /// The runs have these lengths, with one separator of `seps` between all of them, or with
    /// exactly `seps` where it is as long as there are gaps. Where they end.
    #[inline]
    pub fn shape(&self, lens: &[usize], seps: Seps<'_>) -> Option<usize> {
        // Most fail here, and cost nothing.
        if self.segs.first().map(|seg| seg.len) != lens.first().copied() {
            return None;
        }
        self.shape_of_all(lens, seps)
    }

    fn shape_of_all(&self, lens: &[usize], seps: Seps<'_>) -> Option<usize> {
        let segs = self.segs.get(..lens.len())?;
        if segs.iter().zip(lens).any(|(seg, len)| seg.len != *len) {
            return None;
        }
        let (last, inner) = segs.split_last()?;
        let fits = match seps {
            Seps::One(of) => {
                let first = inner.first()?.sep;
                of.contains(&first) && inner.iter().all(|seg| seg.sep == first)
            }
            Seps::Exactly(of) => inner.iter().map(|seg| seg.sep).eq(of.iter().copied()),
        };
        // More digits right behind it, with the same separator, make it part of something longer.
        let more = last.sep != 0
            && inner.last().is_some_and(|seg| seg.sep == last.sep && last.sep != b' ');
        (fits && !more).then(|| last.end())
    }
}

#[derive(Debug, Clone, Copy)]
pub enum Seps<'s> {
    One(&'s [u8]),
    Exactly(&'s [u8]),
}

/// Digits of a stretch of text, in order; `None` when there are more than fit.
pub struct Digits {
    digits: [u8; 32],
    len: usize,
}

impl Digits {
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let mut out = Self { digits: [0; 32], len: 0 };
        for byte in bytes.iter().filter(|b| b.is_ascii_digit()) {
            *out.digits.get_mut(out.len)? = byte - b'0';
            out.len += 1;
        }
        Some(out)
    }
    /// One digit over and over is a placeholder.
    pub fn is_one_digit(&self) -> bool {
        self.as_slice().windows(2).all(|pair| pair.first() == pair.get(1))
    }
    pub fn as_slice(&self) -> &[u8] {
        self.digits.get(..self.len).unwrap_or_default()
    }
    /// Some digits as a number.
    pub fn number(&self, from: usize, to: usize) -> u64 {
        let part = self.as_slice().get(from..to).unwrap_or_default();
        part.iter().fold(0, |n, d| n * 10 + u64::from(*d))
    }
}

/// Digits of a group below which nothing of it can be one of the number kinds, but those.
const GROUP_DIGITS_MIN: u32 = 6;
const FEW: Set = Set::NONE.with(Kind::Ip).with(Kind::Phone);
/// The same of a telephone number, unless some in parentheses go on, and of a card.
const PHONE_DIGITS_MIN: u32 = 8;
const CARD_DIGITS_MIN: u32 = 13;
/// Runs of a group that are looked at: no kind has more.
const SEGS_MAX: usize = 24;

/// What begins with digits in a block, of which `pair` are the bits and those of the next one.
/// What begins before `from` was found already. Where to go on.
pub fn scan(
    view: &View<'_>,
    kinds: &Set,
    base: usize,
    [here, ahead]: [&Bits; 2],
    from: usize,
    out: &mut Vec<Finding>,
) -> usize {
    // Most blocks of most texts have none.
    if here.digit == 0 {
        return from;
    }
    Pair { base, here, ahead }.scan(view, kinds, from, out)
}

/// Two blocks, of which the first is looked at.
struct Pair<'m> {
    base: usize,
    here: &'m Bits,
    ahead: &'m Bits,
}

/// Where something may begin.
struct Places {
    /// A number by itself, with its separators of six bytes and more.
    numbers: u64,
    /// Two digits and more behind one, two or six letters.
    lettered: u64,
    /// Digits behind an opening parenthesis.
    opened: u64,
}

impl Pair<'_> {
    fn scan(&self, view: &View<'_>, kinds: &Set, from: usize, out: &mut Vec<Finding>) -> usize {
        let mut from = from;
        let chain = self.here.chain(false, self.ahead.digit & 1 != 0);
        let places = self.places(view, chain);
        let mut todo = places.numbers | places.lettered | places.opened;
        if todo == 0 {
            return from;
        }
        let chain_ahead = self.ahead.chain(self.here.digit >> 63 != 0, false);
        while todo != 0 {
            let bit = todo.trailing_zeros();
            let this = todo & todo.wrapping_neg();
            todo &= todo - 1;
            let start = self.base + bit as usize;
            if start < from {
                continue;
            }
            let run = Run {
                start,
                digits: bits::window(self.here.digit, self.ahead.digit, bit),
                chain: bits::window(chain, chain_ahead, bit),
            };
            // `(212) 555-0123`
            if places.opened & this != 0
                && kinds.has(Kind::Phone)
                && view.at(run.seg().end()) == b')'
                && let Some(end) = phone::in_parens(view, start, run.seg().end(), out)
            {
                from = end;
                continue;
            }
            if places.lettered & this != 0 {
                ids::lettered(view, kinds, &run.seg(), out);
            }
            if places.numbers & this != 0
                && let Some(end) = run.judge(view, kinds, out)
            {
                from = end;
            }
        }
        from
    }

    #[inline]
    fn places(&self, view: &View<'_>, chain: u64) -> Places {
        let here = self.here;
        let (before, second) = (view.before(self.base), view.before(self.base.saturating_sub(1)));
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let digit_before = bits::up(here.digit, before.is_ascii_digit());
        let word_before = bits::up(here.word, is_word(before));
        let starts = here.digit & !digit_before;
        // What begins behind digits and a dash or a dot is part of something longer.
        let joined = bits::up(
            here.join & digit_before,
            matches!(before, b'-' | b'.') && second.is_ascii_digit(),
        );
        // With separators, six digits or the four numbers of an address are seven bytes.
        let long = bits::six(here.digit) | bits::seven(chain);
        let numbers = starts & !word_before & !joined & long;

        let words = here.word & !word_before;
        let one = words << 1;
        let two = (one & here.word) << 1;
        let four = (((two & here.word) << 1) & here.word) << 1;
        let six = (((four & here.word) << 1) & here.word) << 1;
        // Of a word that began before the block it is seen later how long it is.
        let cut = bits::up(here.word, is_word(before)) & 0x7f;
        let more = bits::down(here.digit, self.ahead.digit & 1 != 0);
        let lettered = starts & word_before & more & (one | two | six | cut);
        let opened = starts & bits::up(here.open, before == b'(');
        Places { numbers, lettered, opened }
    }
}

/// A run of digits and what follows it: of 64 bytes from its start on, which are digits, and which
/// belong to groups of digits with separators between.
struct Run {
    start: usize,
    digits: u64,
    chain: u64,
}

impl Run {
    fn seg(&self) -> Seg {
        Seg { start: self.start, len: self.digits.trailing_ones() as usize, sep: 0 }
    }

    /// Where what begins here ends.
    fn judge(&self, view: &View<'_>, kinds: &Set, out: &mut Vec<Finding>) -> Option<usize> {
        let before = view.before(self.start);
        let led = match before {
            b' ' | b'/' | b'+' if view.before(self.start - 1).is_ascii_digit() => before,
            _ => 0,
        };
        if led == 0 && before == b' ' && self.count() == 6 {
            ids::led_by_letters(view, kinds, &self.seg(), out);
        }
        let kinds = kinds.and(self.kinds(view));
        if kinds.is_empty() {
            return None;
        }
        let mut segs = [Seg::default(); SEGS_MAX];
        let segs = self.segs(view, &mut segs);
        let group = Group { segs, led };
        one(view, &kinds, &group, segs.first()?, out)
    }

    /// What can begin so: by its first two runs, what stands between them, its first digit, and
    /// how many digits there are in all.
    fn kinds(&self, view: &View<'_>) -> Set {
        let first = self.digits.trailing_ones();
        let after = self.start + first as usize;
        let second = self.digits.checked_shr(first + 1).unwrap_or(0).trailing_ones();
        let next = Next::of(view.at(after), view.at(after + 1));
        let lead = view.at(self.start);
        let mut kinds = shapes::begin(first, next, second).and(shapes::lead(lead));
        let len = self.chain.trailing_ones();
        let end = self.start + len as usize;
        let opens = |at| view.at(at) == b'(';
        let goes_on = opens(end) || is_sep(view.at(end)) && opens(end + 1);
        let called = goes_on || view.before(self.start) == b'+';
        if kinds.is_empty() && !called {
            return kinds;
        }
        let count = self.count();
        if count < CARD_DIGITS_MIN {
            kinds = kinds.without(Kind::Card);
        }
        // `52.520008` is no telephone number.
        let decimal = next == Next::Dot && first <= 3 && lead != b'0' && len == first + 1 + second;
        // Only with a country behind `00` are there more than twelve digits.
        let long = first > 12 && lead != b'0';
        if called {
            kinds = kinds.with(Kind::Phone);
        } else if decimal || long || count < PHONE_DIGITS_MIN || self.is_date(view) {
            kinds = kinds.without(Kind::Phone);
        }
        if count < GROUP_DIGITS_MIN { kinds.and(FEW) } else { kinds }
    }

    /// Digits of the group.
    fn count(&self) -> u32 {
        let len = self.chain.trailing_ones();
        let within = if len >= 64 { u64::MAX } else { (1 << len) - 1 };
        (self.digits & within).count_ones()
    }

    /// `2026-11-26`
    fn is_date(&self, view: &View<'_>) -> bool {
        const SHAPE: u64 = 0b11_0110_1111;
        self.digits & 0x3ff == SHAPE
            && self.chain & 0x3ff == 0x3ff
            && phone::date_like(view, self.start)
    }

    fn segs<'s>(&self, view: &View<'_>, segs: &'s mut [Seg; SEGS_MAX]) -> &'s [Seg] {
        let (mut digits, mut chain, mut at) = (self.digits, self.chain, self.start);
        let mut count = 0;
        for seg in segs.iter_mut() {
            let len = digits.trailing_ones();
            let goes_on = chain.checked_shr(len).is_some_and(|rest| rest & 1 != 0);
            let end = at + len as usize;
            *seg =
                Seg { start: at, len: len as usize, sep: if goes_on { view.at(end) } else { 0 } };
            count += 1;
            if !goes_on {
                break;
            }
            digits = digits.checked_shr(len + 1).unwrap_or(0);
            chain = chain.checked_shr(len + 1).unwrap_or(0);
            at = end + 1;
        }
        segs.get(..count).unwrap_or_default()
    }
}

fn is_sep(byte: u8) -> bool {
    matches!(byte, b' ' | b'-' | b'.' | b'/' | b'+')
}

/// What begins at one run of digits: the most certain kind first. Where it ends.
fn one(
    view: &View<'_>,
    kinds: &Set,
    group: &Group<'_>,
    seg: &Seg,
    out: &mut Vec<Finding>,
) -> Option<usize> {
    let mut tell = |end: usize, kind: Kind| {
        found(out, seg.start, end, kind);
        Some(end)
    };
    if kinds.has(Kind::Card)
        && let Some(end) = cards::card(view, group, seg)
    {
        return tell(end, Kind::Card);
    }
    if let Some((start, end, kind)) = ids::numeric(view, kinds, group, seg) {
        found(out, start, end, kind);
        return Some(end);
    }
    if kinds.has(Kind::Ip)
        && let Some(end) = net::ipv4(view, group, seg)
    {
        return tell(end, Kind::Ip);
    }
    if kinds.has(Kind::Phone)
        && let Some((start, end)) = phone::number(view, group, seg)
    {
        found(out, start, end, Kind::Phone);
        return Some(end);
    }
    None
}

/// Whether `start..end` stands for itself and is no part of a longer number, word or identifier.
pub fn alone(view: &View<'_>, start: usize, end: usize) -> bool {
    let (before, after) = (view.before(start), view.at(end));
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if word(before) || word(after) {
        return false;
    }
    let joins = |b: u8| matches!(b, b'-' | b'.');
    // `a-123`, `1.123` before; `123-a`, `123.4` behind. A full stop ends a sentence.
    let led = joins(before) && word(view.before(start.saturating_sub(1)));
    let goes_on = joins(after) && word(view.at(end + 1));
    !(led || goes_on)
}

/// Luhn's check (ISO/IEC 7812-1).
pub fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, d)| {
            let d = u32::from(*d);
            if i % 2 == 0 { d } else { d * 2 - if d > 4 { 9 } else { 0 } }
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests;
