//! Candidates that have digits: runs of digits, alone or in groups with single characters between.

use super::{
    Finding, Kind, ids,
    kind::Set,
    net, phone,
    view::{View, found},
};

/// A run of digits.
#[derive(Debug, Clone, Copy)]
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
    /// Digits of all of them.
    pub digits: usize,
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
    pub fn as_slice(&self) -> &[u8] {
        self.digits.get(..self.len).unwrap_or_default()
    }
    /// Some digits as a number.
    pub fn number(&self, from: usize, to: usize) -> u64 {
        let part = self.as_slice().get(from..to).unwrap_or_default();
        part.iter().fold(0, |n, d| n * 10 + u64::from(*d))
    }
}

/// Bytes that are looked at at once.
const BLOCK: usize = 32;

/// The high bit of each of eight bytes that is a digit.
#[inline]
fn digits_in(word: [u8; 8]) -> u64 {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let word = u64::from_le_bytes(word) ^ 0x3030_3030_3030_3030;
    // A digit is 0 to 9 now; anything else has its high bit, or gets it by adding 118.
    let other = ((word & !HIGH) + 0x7676_7676_7676_7676) | word;
    !other & HIGH
}

/// The next digit at or behind `from`. Blocks without one cost a few vector instructions.
fn next_digit(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    let mut at = from;
    // The next one is near, mostly.
    if let Some(word) = rest.first_chunk::<8>() {
        let digits = digits_in(*word);
        if digits != 0 {
            return Some(at + digits.trailing_zeros() as usize / 8);
        }
    }
    let mut blocks = rest.chunks_exact(BLOCK);
    for block in &mut blocks {
        let any = block.iter().fold(0_u8, |any, b| any | u8::from(b.wrapping_sub(b'0') < 10));
        if any != 0 {
            for (i, word) in block.as_chunks::<8>().0.iter().enumerate() {
                let digits = digits_in(*word);
                if digits != 0 {
                    return Some(at + 8 * i + digits.trailing_zeros() as usize / 8);
                }
            }
        }
        at += BLOCK;
    }
    blocks.remainder().iter().position(u8::is_ascii_digit).map(|i| at + i)
}

fn is_sep(byte: u8) -> bool {
    matches!(byte, b' ' | b'-' | b'.' | b'/' | b'+')
}

/// Digits of a group below which nothing of it can be one of the number kinds.
const GROUP_DIGITS_MIN: usize = 6;

pub fn scan(view: &View<'_>, kinds: &Set, out: &mut Vec<Finding>) {
    let mut segs: Vec<Seg> = Vec::new();
    let mut at = 0;
    while let Some(start) = next_digit(view.bytes, at) {
        let mut from = start;
        let mut digits = 0;
        let first = view.run(start, usize::MAX, |b| b.is_ascii_digit());
        let next = view.at(start + first);
        // A short number, standing alone, is nothing that is looked for.
        if first < GROUP_DIGITS_MIN
            && next != b')'
            && !(is_sep(next) && view.at(start + first + 1).is_ascii_digit())
            && !(first > 1 && view.before(start).is_ascii_alphabetic())
        {
            at = start + first;
            continue;
        }
        segs.clear();
        loop {
            let len = view.run(from, usize::MAX, |b| b.is_ascii_digit());
            let end = from + len;
            digits += len;
            let next = view.at(end);
            let goes_on = is_sep(next) && view.at(end + 1).is_ascii_digit();
            segs.push(Seg { start: from, len, sep: if goes_on { next } else { 0 } });
            at = end;
            if !goes_on {
                break;
            }
            from = end + 1;
        }
        // `(212) 555-0123`
        let parens = segs.len() == 1 && view.at(at) == b')';
        if parens && let Some(end) = phone::in_parens(view, kinds, start, at, out) {
            at = end;
            continue;
        }
        group(view, kinds, &segs, digits, out);
    }
}

fn group(view: &View<'_>, kinds: &Set, segs: &[Seg], digits: usize, out: &mut Vec<Finding>) {
    let letter_before =
        segs.first().is_some_and(|seg| view.before(seg.start).is_ascii_alphabetic());
    if letter_before && let Some(first) = segs.first() {
        ids::lettered(view, kinds, first, out);
    } else if digits == 6
        && let Some(first) = segs.first()
    {
        ids::led_by_letters(view, kinds, first, out);
    }
    if digits < GROUP_DIGITS_MIN && !(segs.len() >= 4 && digits >= 4) {
        // `AB 12 34 56 C` has six.
        return;
    }
    let (mut led, mut left) = (0, digits);
    let mut skip_to = 0;
    for (i, seg) in segs.iter().enumerate() {
        let group = Group { segs: segs.get(i..).unwrap_or_default(), led, digits: left };
        led = seg.sep;
        left -= seg.len;
        // What begins behind digits and a dash or a dot is part of something longer.
        if seg.start < skip_to || matches!(group.led, b'-' | b'.') {
            continue;
        }
        if let Some(end) = one(view, kinds, &group, seg, out) {
            skip_to = end;
        }
    }
}

/// What begins at one run of digits: the most certain kind first. Where it ends.
fn one(
    view: &View<'_>,
    kinds: &Set,
    group: &Group<'_>,
    seg: &Seg,
    out: &mut Vec<Finding>,
) -> Option<usize> {
    let before = view.before(seg.start);
    // Part of a word, or of a number that began earlier.
    if group.led == 0 && (before.is_ascii_alphanumeric() || before == b'_') {
        return None;
    }
    let mut tell = |end: usize, kind: Kind| {
        found(out, seg.start, end, kind);
        Some(end)
    };
    if group.digits >= CARD_DIGITS_MIN
        && kinds.has(Kind::Card)
        && let Some(end) = card(view, group, seg)
    {
        return tell(end, Kind::Card);
    }
    if let Some((end, kind)) = ids::numeric(view, kinds, group, seg) {
        return tell(end, kind);
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

/// Issuer ranges: the first six digits from and to, and the lengths.
const ISSUERS: &[(u64, u64, &[usize])] = &[
    (400_000, 499_999, &[13, 16, 19]),
    (510_000, 559_999, &[16]),
    (222_100, 272_099, &[16]),
    (340_000, 349_999, &[15]),
    (370_000, 379_999, &[15]),
    (300_000, 305_999, &[14, 16]),
    (309_500, 309_599, &[14, 16]),
    (360_000, 369_999, &[14]),
    (380_000, 399_999, &[14, 16]),
    (352_800, 358_999, &[16, 17, 18, 19]),
    (601_100, 601_199, &[16, 19]),
    (622_126, 622_925, &[16, 17, 18, 19]),
    (620_000, 629_999, &[16, 17, 18, 19]),
    (644_000, 659_999, &[16, 19]),
    (810_000, 817_199, &[16, 17, 18, 19]),
    (500_000, 509_999, &[13, 14, 15, 16, 17, 18, 19]),
    (560_000, 589_999, &[13, 14, 15, 16, 17, 18, 19]),
    (630_400, 630_499, &[13, 14, 15, 16, 17, 18, 19]),
    (670_000, 679_999, &[13, 14, 15, 16, 17, 18, 19]),
    (220_000, 220_499, &[16, 17, 18, 19]),
    (979_200, 979_299, &[16]),
    (600_000, 609_999, &[16]),
    (817_200, 829_999, &[16]),
];

/// Fewest digits of a card.
const CARD_DIGITS_MIN: usize = 13;

/// How cards are printed.
const CARD_SHAPES: &[&[usize]] = &[
    &[4, 4, 4, 4],
    &[4, 4, 4, 4, 3],
    &[4, 6, 5],
    &[4, 6, 4],
    &[4, 4, 4, 1],
    &[4, 4, 4, 4, 2],
    &[4, 4, 5],
    &[6, 13],
    &[8, 8],
    &[6, 10],
    &[4, 4, 4, 2],
];

const CARD_WORDS: &[&str] = &[
    "card",
    "credit",
    "debit",
    "visa",
    "mastercard",
    "amex",
    "pan",
    "karte",
    "carte",
    "tarjeta",
    "maestro",
    "discover",
    "cc ",
];
/// Numbers as long as cards that are none.
const NO_CARD_WORDS: &[&str] = &[
    "imei",
    "iccid",
    "tracking",
    "order",
    "invoice",
    "serial",
    "batch",
    "isbn",
    "ean",
    "gtin",
    "account no",
    "ticket",
    "reference",
    "txn",
    "transaction id",
    "trace",
    "timestamp",
    "snowflake",
    "parcel",
    "shipment",
    "barcode",
    "meter",
    "build",
    "uuid",
    "id=",
];

fn card(view: &View<'_>, group: &Group<'_>, seg: &Seg) -> Option<usize> {
    let (start, end, plain) = if (13..=19).contains(&seg.len) {
        (seg.start, seg.end(), true)
    } else {
        let shape =
            CARD_SHAPES.iter().filter_map(|lens| group.shape(lens, Seps::One(b" -."))).max();
        match shape {
            Some(end) => (seg.start, end, false),
            None => return spaced_card(view, group, seg),
        }
    };
    let before = view.before(start);
    if plain && group.led != 0 && group.led != b' ' && group.led != b'/' {
        return None;
    }
    let fits = if plain {
        alone(view, start, end)
    } else {
        let after = view.at(end);
        !(after.is_ascii_alphanumeric() || before == b'.' || before == b'-' && group.led == b'-')
    };
    if !fits || !is_card(view.slice(start, end)) {
        return None;
    }
    // As long as a bar code, and cards of that length are gone.
    if end - start == 13 && !view.near(start, end, CARD_WORDS) {
        return None;
    }
    let no = view.said_before(start, 32, NO_CARD_WORDS) && !view.said_before(start, 32, CARD_WORDS);
    (!no).then_some(end)
}

/// Split up in any other way, with a word that says that it is a card.
fn spaced_card(view: &View<'_>, group: &Group<'_>, seg: &Seg) -> Option<usize> {
    let sep = seg.sep;
    if !matches!(sep, b' ' | b'-' | b'.') || group.led == sep {
        return None;
    }
    let mut digits = 0;
    let mut end = None;
    for part in group.segs {
        digits += part.len;
        if digits > 19 {
            break;
        }
        if digits >= 13 && is_card(view.slice(seg.start, part.end())) {
            end = Some(part.end());
        }
        if part.sep != sep {
            break;
        }
    }
    let end = end?;
    (!view.at(end).is_ascii_alphanumeric() && view.near(seg.start, end, CARD_WORDS)).then_some(end)
}

fn is_card(text: &[u8]) -> bool {
    let Some(digits) = Digits::of(text) else { return false };
    let all = digits.as_slice();
    if !(13..=19).contains(&all.len()) || !luhn(all) {
        return false;
    }
    // One digit over and over is a placeholder.
    if all.windows(2).all(|pair| pair.first() == pair.get(1)) {
        return false;
    }
    let head = digits.number(0, 6);
    ISSUERS
        .iter()
        .any(|(from, to, lens)| (*from..=*to).contains(&head) && lens.contains(&all.len()))
}
