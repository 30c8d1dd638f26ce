//! Which bytes of a text are digits, letters and so on: one bit a byte, the first the lowest.

/// Bytes of a block: as many as a word has bits.
pub const BLOCK: usize = 64;
/// Blocks that are mapped at once: few, since most texts are short.
const BLOCKS: usize = 8;

pub type Block = [u8; BLOCK];

/// The block that begins at a place; beyond the end of the text there are zeros.
#[inline]
pub fn block(text: &[u8], at: usize) -> Block {
    let rest = text.get(at..).unwrap_or_default();
    match rest.first_chunk::<BLOCK>() {
        Some(block) => *block,
        None => padded(rest),
    }
}

#[cold]
fn padded(rest: &[u8]) -> Block {
    let mut block = [0; BLOCK];
    for (to, from) in block.iter_mut().zip(rest) {
        *to = *from;
    }
    block
}

/// What numbers and addresses are found by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bits {
    pub digit: u64,
    /// Colons that may be of an address: a hexadecimal digit on either side, or another one behind
    /// it. What is outside the block may be anything.
    pub colon: u64,
    /// ASCII letters and digits.
    pub alnum: u64,
    /// What long names and tokens are made of: letters, digits, `_`, `-`, `.`.
    pub token: u64,
    /// Single characters that groups of digits have between them: space, `-`, `.`, `/`, `+`.
    pub sep: u64,
    /// `-` and `.`.
    pub join: u64,
    /// ASCII letters, digits, `_`.
    pub word: u64,
    /// `(`
    pub open: u64,
}

impl Bits {
    /// Digits, and single separators between two of them.
    #[inline]
    pub fn chain(&self, before: bool, after: bool) -> u64 {
        let (left, right) = (up(self.digit, before), down(self.digit, after));
        self.digit | self.sep & left & right
    }
}

/// The bits of a stretch of text. What only numbers are judged by is not known of blocks without
/// digits, unless there are some in the one before.
pub struct Map {
    bits: [Bits; BLOCKS + 1],
}

impl Map {
    pub fn new() -> Self {
        Self { bits: [Bits::default(); BLOCKS + 1] }
    }

    /// Maps the text from a place on. Each block and the one behind it, and where the next map
    /// begins.
    pub fn fill(&mut self, text: &[u8], from: usize) -> (impl Iterator<Item = [&Bits; 2]>, usize) {
        let rest = text.get(from..).unwrap_or_default();
        let count = rest.len().div_ceil(BLOCK).min(BLOCKS);
        let bits = self.bits.get_mut(..=count).unwrap_or_default();
        map(rest, bits);
        let pairs = self.bits.iter().zip(self.bits.iter().skip(1));
        (pairs.take(count).map(|(here, ahead)| [here, ahead]), from + count * BLOCK)
    }
}

fn map(text: &[u8], bits: &mut [Bits]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what the function needs.
        return unsafe { avx2::map(text, bits) };
    }
    plain::map(text, bits);
}

/// Where letters are in a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Letters {
    pub lower: u64,
    pub upper: u64,
}

pub fn letters(block: &Block) -> Letters {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what the function needs.
        return unsafe { avx2::letters(block) };
    }
    plain::letters(block)
}

/// Of colons those that may be of an address.
#[inline]
fn joint(colon: u64, hex: u64) -> u64 {
    colon & (down(colon, true) | up(hex, true) & down(hex, true))
}

/// The first byte at or behind a place that may be a part of another spelling of something (see
/// [`crate::normal`]): `\\`, `%`, `&`, the escape character, and all that is not ASCII.
#[inline]
pub fn special(text: &[u8], from: usize) -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what the function needs.
        return unsafe { avx2::special(text, from) };
    }
    plain::special(text, from)
}

/// Each bit tells of the byte before its own; `carry` of the byte before the block.
#[inline]
pub fn up(mask: u64, carry: bool) -> u64 {
    mask << 1 | u64::from(carry)
}

/// Each bit tells of the byte behind its own; `carry` of the byte behind the block.
#[inline]
pub fn down(mask: u64, carry: bool) -> u64 {
    mask >> 1 | u64::from(carry) << 63
}

/// Where at least six set bits follow one another; those behind the block count as set.
#[inline]
pub fn six(mask: u64) -> u64 {
    let two = mask & (mask >> 1 | 1 << 63);
    let four = two & (two >> 2 | 3 << 62);
    four & (two >> 4 | 15 << 60)
}

/// The same of seven.
#[inline]
pub fn seven(mask: u64) -> u64 {
    six(mask) & (mask >> 6 | 63 << 58)
}

/// Where at least twenty set bits follow one another, in two blocks.
#[inline]
pub fn twenty(here: u64, ahead: u64) -> u64 {
    let all = u128::from(here) | u128::from(ahead) << 64;
    let two = all & all >> 1;
    let four = two & two >> 2;
    let eight = four & four >> 4;
    (eight & eight >> 8 & four >> 16) as u64
}

/// 64 bits from a place in the first of two blocks on.
#[inline]
pub fn window(here: u64, ahead: u64, from: u32) -> u64 {
    match from {
        0 => here,
        _ => here >> from | ahead << (64 - from),
    }
}

/// 32 bytes at a time.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_min_epu8, _mm256_movemask_epi8,
        _mm256_or_si256, _mm256_set1_epi8, _mm256_sub_epi8,
    };

    use super::{BLOCK, Bits, Block, Letters, block, joint};

    type Lanes = [__m256i; 2];

    #[target_feature(enable = "avx2")]
    fn load(block: &Block) -> Lanes {
        let (halves, _) = block.as_chunks::<32>();
        let [first, second] = halves else { return [_mm256_set1_epi8(0); 2] };
        // SAFETY: 32 bytes are read from an array of 32, and need no alignment.
        unsafe {
            [_mm256_loadu_si256(first.as_ptr().cast()), _mm256_loadu_si256(second.as_ptr().cast())]
        }
    }

    #[target_feature(enable = "avx2")]
    fn all(byte: u8) -> __m256i {
        _mm256_set1_epi8(byte.cast_signed())
    }

    #[target_feature(enable = "avx2")]
    fn between(lanes: Lanes, low: u8, high: u8) -> Lanes {
        lanes.map(|lane| {
            let from_low = _mm256_sub_epi8(lane, all(low));
            _mm256_cmpeq_epi8(from_low, _mm256_min_epu8(from_low, all(high - low)))
        })
    }

    #[target_feature(enable = "avx2")]
    fn is(lanes: Lanes, byte: u8) -> Lanes {
        lanes.map(|lane| _mm256_cmpeq_epi8(lane, all(byte)))
    }

    #[target_feature(enable = "avx2")]
    fn or([a, b]: Lanes, [c, d]: Lanes) -> Lanes {
        [_mm256_or_si256(a, c), _mm256_or_si256(b, d)]
    }

    #[target_feature(enable = "avx2")]
    fn bits([first, second]: Lanes) -> u64 {
        let low = _mm256_movemask_epi8(first).cast_unsigned();
        let high = _mm256_movemask_epi8(second).cast_unsigned();
        u64::from(low) | u64::from(high) << 32
    }

    #[target_feature(enable = "avx2")]
    pub fn special(text: &[u8], from: usize) -> Option<usize> {
        let mut at = from;
        while at < text.len() {
            let lanes = load(&block(text, at));
            let escapes = or(is(lanes, b'\\'), is(lanes, 0x1b));
            // Bytes beyond ASCII have the bit that is looked at.
            let found = bits(or(or(lanes, escapes), or(is(lanes, b'%'), is(lanes, b'&'))));
            if found != 0 {
                return Some(at + found.trailing_zeros() as usize);
            }
            at += BLOCK;
        }
        None
    }

    #[target_feature(enable = "avx2")]
    pub fn letters(block: &Block) -> Letters {
        let lanes = load(block);
        let (lower, upper) = (between(lanes, b'a', b'z'), between(lanes, b'A', b'Z'));
        Letters { lower: bits(lower), upper: bits(upper) }
    }

    #[target_feature(enable = "avx2")]
    pub fn map(text: &[u8], out: &mut [Bits]) {
        let mut before = 0;
        for (i, out) in out.iter_mut().enumerate() {
            let block = block(text, i * BLOCK);
            let lanes = load(&block);
            let digits = between(lanes, b'0', b'9');
            let folded = or(lanes, [all(0x20); 2]);
            let alnum = or(between(folded, b'a', b'z'), digits);
            let joins = between(lanes, b'-', b'.');
            let word = or(alnum, is(lanes, b'_'));
            *out = Bits {
                digit: bits(digits),
                colon: bits(is(lanes, b':')),
                alnum: bits(alnum),
                token: bits(or(word, joins)),
                ..Bits::default()
            };
            if out.colon != 0 {
                out.colon = joint(out.colon, bits(or(digits, between(folded, b'a', b'f'))));
            }
            if out.digit | before != 0 {
                let others = or(is(lanes, b' '), or(is(lanes, b'+'), is(lanes, b'/')));
                out.sep = bits(or(joins, others));
                out.join = bits(joins);
                out.word = bits(word);
                out.open = bits(is(lanes, b'('));
            }
            before = out.digit;
        }
    }
}

/// Byte by byte, for the compiler to do better.
mod plain {
    use super::{BLOCK, Bits, Block, Letters, block, joint};

    #[inline]
    pub fn between(byte: u8, low: u8, high: u8) -> bool {
        byte.wrapping_sub(low) <= high - low
    }

    #[inline]
    pub fn mask(block: &Block, test: impl Fn(u8) -> bool) -> u64 {
        let mut fits = [0; BLOCK];
        for (to, byte) in fits.iter_mut().zip(block) {
            *to = u8::from(test(*byte));
        }
        let (words, _) = fits.as_chunks::<8>();
        words.iter().rev().fold(0, |mask, word| {
            // The lowest bits of eight bytes, side by side.
            let bits = u64::from_le_bytes(*word).wrapping_mul(0x0102_0408_1020_4080) >> 56;
            mask << 8 | bits
        })
    }

    pub fn special(text: &[u8], from: usize) -> Option<usize> {
        let is_special = |b: &u8| !b.is_ascii() || matches!(b, b'\\' | b'%' | b'&' | 0x1b);
        text.get(from..)?.iter().position(is_special).map(|at| from + at)
    }

    pub fn letters(block: &Block) -> Letters {
        Letters {
            lower: mask(block, |b| between(b, b'a', b'z')),
            upper: mask(block, |b| between(b, b'A', b'Z')),
        }
    }

    pub fn map(text: &[u8], out: &mut [Bits]) {
        let mut before = 0;
        for (i, out) in out.iter_mut().enumerate() {
            let block = block(text, i * BLOCK);
            *out = of(&block, before);
            before = out.digit;
        }
    }

    pub fn of(block: &Block, before: u64) -> Bits {
        let digit = mask(block, |b| between(b, b'0', b'9'));
        let mut colon = mask(block, |b| b == b':');
        if colon != 0 {
            let hex = mask(block, |b| between(b, b'0', b'9') | between(b | 0x20, b'a', b'f'));
            colon = joint(colon, hex);
        }
        let alnum = mask(block, |b| between(b | 0x20, b'a', b'z') | between(b, b'0', b'9'));
        let join = mask(block, |b| between(b, b'-', b'.'));
        let word = alnum | mask(block, |b| b == b'_');
        let token = word | join;
        if digit | before == 0 {
            return Bits { colon, alnum, token, ..Bits::default() };
        }
        Bits {
            digit,
            colon,
            alnum,
            token,
            sep: mask(block, |b| between(b, b'-', b'/') | (b == b' ') | (b == b'+')),
            join,
            word,
            open: mask(block, |b| b == b'('),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_tells_of_its_byte() {
        for byte in 0..=255_u8 {
            for at in [0, 7, 15, 31, 32, 40, 63] {
                let mut block = [b'~'; BLOCK];
                block[at] = byte;
                let check = |mask: u64, is: bool| {
                    assert_eq!(mask, u64::from(is) << at, "{byte} at {at}");
                };
                let bits = plain::of(&block, 1);
                check(bits.digit, byte.is_ascii_digit());
                check(bits.colon, byte == b':' && at == 63);
                check(bits.alnum, byte.is_ascii_alphanumeric());
                check(bits.token, byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
                check(bits.sep, b" -./+".contains(&byte));
                check(bits.join, b"-.".contains(&byte));
                check(bits.word, byte.is_ascii_alphanumeric() || byte == b'_');
                check(bits.open, byte == b'(');
                for letters in [letters(&block), plain::letters(&block)] {
                    check(letters.lower, byte.is_ascii_lowercase());
                    check(letters.upper, byte.is_ascii_uppercase());
                }
            }
        }
    }

    /// What this processor does is what the plain code does, for every byte at every place.
    #[test]
    fn one_map_is_like_the_other() {
        let bytes = (0..40_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8);
        let texts = b"0123456789 -./+:(_azAZ@[`{\x80\xb0\xff~";
        let some = (0..40_000_usize).map(|n| texts[n * n * 31 % 977 % texts.len()]);
        for text in [bytes.collect::<Vec<_>>(), some.collect()] {
            let (mut one, mut other) = ([Bits::default(); 700], [Bits::default(); 700]);
            map(&text, &mut one);
            plain::map(&text, &mut other);
            assert!(one == other);
            for from in 0..text.len().min(3_000) {
                assert_eq!(special(&text, from), plain::special(&text, from));
            }
            let mut map = Map::new();
            let (mut from, mut all) = (0, Vec::new());
            while from < text.len() {
                let (pairs, next) = map.fill(&text, from);
                all.extend(pairs.map(|[here, _]| here.digit));
                from = next;
            }
            let expect: Vec<u64> = one.iter().map(|bits| bits.digit).collect();
            assert_eq!(all, expect[..text.len().div_ceil(BLOCK)]);
        }
    }

    #[test]
    fn runs_and_windows() {
        assert_eq!(six(0b0111_1110), 0b10);
        assert_eq!(six(0b0101_1110), 0);
        assert_eq!(six(0b11 << 62), 0b11 << 62);
        assert_eq!(seven(0b0111_1110), 0);
        assert_eq!(seven(0b0111_1111), 1);
        assert_eq!(seven(1 << 63), 1 << 63);
        assert_eq!(twenty(u64::MAX >> 44 << 3, 0), 1 << 3);
        assert_eq!(twenty(u64::MAX >> 45 << 3, 0), 0);
        assert_eq!(twenty(1 << 63, (1 << 19) - 1), 1 << 63);
        assert_eq!(window(1 << 63, 0b101, 63), 0b1011);
        assert_eq!(window(5, u64::MAX, 0), 5);
        let colons = |text: &[u8]| plain::of(&block(text, 0), 0).colon;
        assert_eq!(colons(b"a:b \"k\":1 ::x g:1"), 1 << 1 | 1 << 10);
        let text = b"1-23.x 4";
        assert_eq!(plain::of(&block(text, 0), 0).chain(false, false), 0b1000_1111);
        assert_eq!(block(text, 7)[..2], [b'4', 0]);
    }
}
