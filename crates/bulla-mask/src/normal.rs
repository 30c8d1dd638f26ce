//! One form for many spellings, with a way back.
//!
//! Detectors look at text in which escapes are resolved (JSON and source `\u0041`, URL `%41`, HTML
//! `&#65;`, twice where they are nested), compatibility forms are folded (NFKC, digits of other
//! scripts), dashes and spaces of every kind are `-` and space, and what has no width is gone, colours
//! of a terminal too.
//! Each byte of the normal form knows which bytes of the original it stands for.

use unicode_normalization::UnicodeNormalization as _;

use crate::detect::bits;

/// Escapes within escapes that are followed.
const ROUNDS_MAX: usize = 3;

/// A normal form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Normal {
    bytes: Vec<u8>,
    /// Of each byte, where in the original it begins and ends.
    spans: Vec<(u32, u32)>,
}

impl Normal {
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes of the original that `start..end` stands for.
    #[must_use]
    pub fn origin(&self, start: usize, end: usize) -> Option<(usize, usize)> {
        let from = self.spans.get(start)?.0;
        let to = self.spans.get(end.checked_sub(1)?)?.1;
        Some((from as usize, to as usize))
    }

    fn push(&mut self, bytes: &[u8], from: u32, to: u32) {
        self.bytes.extend_from_slice(bytes);
        self.spans.extend(std::iter::repeat_n((from, to), bytes.len()));
    }
}

/// The normal form of a text, or `None` where it is its own. Texts of 4 GiB and more have none;
/// callers feed less.
#[must_use]
pub fn normalise(text: &[u8]) -> Option<Normal> {
    let decoded = utf16(text);
    let mut normal = match decoded {
        Some(normal) => normal,
        None if own_form(text, 0) == text.len() => return None,
        None => pass(text, |at, len| (at as u32, (at + len) as u32))?,
    };
    for _ in 1..ROUNDS_MAX {
        if own_form(&normal.bytes, 0) == normal.bytes.len() {
            break;
        }
        let spans = &normal.spans;
        let back = |at: usize, len: usize| {
            let from = spans.get(at).map_or(0, |span| span.0);
            let to = spans.get(at + len - 1).map_or(from, |span| span.1);
            (from, to)
        };
        match pass(&normal.bytes, back) {
            Some(next) => normal = next,
            None => break,
        }
    }
    Some(normal)
}

/// As far as from a place on nothing is another spelling of something.
fn own_form(text: &[u8], from: usize) -> usize {
    let mut at = from;
    loop {
        at = bits::special(text, at).unwrap_or(text.len());
        let start = at;
        while let Some(len) = text.get(at..).and_then(common) {
            at += len;
        }
        if at == start {
            return at;
        }
    }
}

/// The length of a letter at the front that is its own normal form.
#[inline]
fn common(rest: &[u8]) -> Option<usize> {
    match rest {
        // Most of Cyrillic.
        [0xd0 | 0xd1, 0x80..=0xbf, ..] => Some(2),
        [0xc3..=0xdf | 0xe3..=0xe9, ..] => {
            first_char(rest).filter(|c| is_common(*c)).map(char::len_utf8)
        }
        _ => None,
    }
}

const ESC: u8 = 0x1b;

/// A control sequence of a terminal (ECMA-48, 5.4): it shows nothing. How long it is.
fn control(rest: &[u8]) -> Option<usize> {
    let tail = rest.get(2..).filter(|_| rest.starts_with(b"\x1b["))?;
    let parameters = tail.iter().take(32).take_while(|b| (0x20..0x40).contains(*b)).count();
    let last = tail.get(parameters)?;
    (0x40..0x7f).contains(last).then_some(parameters + 3)
}

/// One pass; `None` when it changes nothing.
fn pass(text: &[u8], back: impl Fn(usize, usize) -> (u32, u32)) -> Option<Normal> {
    let mut out = Normal { bytes: Vec::with_capacity(text.len()), spans: Vec::new() };
    out.spans.reserve(text.len());
    let (mut at, mut changed, mut form) = (0, false, Vec::new());
    loop {
        let end = own_form(text, at);
        if let Some(own) = text.get(at..end) {
            out.bytes.extend_from_slice(own);
            out.spans.extend((at..end).map(|at| back(at, 1)));
        }
        at = end;
        let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) else { break };
        form.clear();
        let len = unit(rest, &mut form);
        let (from, to) = back(at, len);
        changed |= rest.get(..len) != Some(&*form);
        out.push(&form, from, to);
        at += len;
    }
    changed.then_some(out)
}

/// The unit at the front: its length, and in `form` what it stands for.
fn unit(rest: &[u8], form: &mut Vec<u8>) -> usize {
    let escaped = match rest.first() {
        Some(b'\\') => backslash(rest),
        Some(b'%') => percent(rest),
        Some(b'&') => entity(rest),
        Some(&ESC) => control(rest).map(|len| (len, None)),
        Some(0x80..) => first_char(rest).map(|c| (c.len_utf8(), Some(c))),
        _ => None,
    };
    match escaped {
        Some((len, Some(c))) => {
            fold(c, form);
            len
        }
        Some((len, None)) => len,
        None => {
            form.extend(rest.first());
            1
        }
    }
}

fn first_char(bytes: &[u8]) -> Option<char> {
    let head = bytes.get(..bytes.len().min(4))?;
    match std::str::from_utf8(head) {
        Ok(text) => text.chars().next(),
        Err(error) => std::str::from_utf8(head.get(..error.valid_up_to())?).ok()?.chars().next(),
    }
}

fn hex(bytes: Option<&[u8]>) -> Option<u32> {
    let text = std::str::from_utf8(bytes?).ok()?;
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u32::from_str_radix(text, 16).ok()
}

type Escaped = Option<(usize, Option<char>)>;

fn backslash(rest: &[u8]) -> Escaped {
    match rest.get(1)? {
        b'u' if rest.get(2) == Some(&b'{') => {
            let end = rest.iter().take(10).position(|b| *b == b'}')?;
            let c = char::from_u32(hex(rest.get(3..end))?)?;
            Some((end + 1, Some(c)))
        }
        b'u' => {
            let unit = hex(rest.get(2..6))?;
            if (0xd800..0xdc00).contains(&unit) && rest.get(6..8) == Some(b"\\u") {
                let low = hex(rest.get(8..12))?;
                let low = low.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
                return Some((12, Some(char::from_u32(0x10000 + ((unit - 0xd800) << 10) + low)?)));
            }
            Some((6, Some(char::from_u32(unit)?)))
        }
        b'x' => Some((4, Some(char::from_u32(hex(rest.get(2..4))?)?))),
        b'n' => Some((2, Some('\n'))),
        b't' => Some((2, Some('\t'))),
        b'r' => Some((2, Some('\r'))),
        b'"' => Some((2, Some('"'))),
        b'/' => Some((2, Some('/'))),
        b'\\' => Some((2, Some('\\'))),
        _ => None,
    }
}

fn percent(rest: &[u8]) -> Escaped {
    let byte = |at: usize| (rest.get(at) == Some(&b'%')).then(|| hex(rest.get(at + 1..at + 3)))?;
    let first = byte(0)? as u8;
    let len = match first {
        0..=0x7f => return Some((3, Some(char::from(first)))),
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return None,
    };
    let mut bytes = Vec::with_capacity(len);
    for i in 0..len {
        bytes.push(byte(3 * i)? as u8);
    }
    Some((3 * len, std::str::from_utf8(&bytes).ok()?.chars().next()))
}

/// Named references that can stand within what detectors look for.
const NAMED: &[(&str, char)] = &[
    ("amp", '&'),
    ("lt", '<'),
    ("gt", '>'),
    ("quot", '"'),
    ("apos", '\''),
    ("nbsp", ' '),
    ("ensp", ' '),
    ("emsp", ' '),
    ("thinsp", ' '),
    ("commat", '@'),
    ("period", '.'),
    ("plus", '+'),
    ("hyphen", '-'),
    ("dash", '-'),
    ("ndash", '-'),
    ("mdash", '-'),
    ("minus", '-'),
    ("lowbar", '_'),
    ("colon", ':'),
    ("sol", '/'),
    ("equals", '='),
];

fn entity(rest: &[u8]) -> Escaped {
    let end = rest.iter().take(12).position(|b| *b == b';')?;
    let name = std::str::from_utf8(rest.get(1..end)?).ok()?;
    if let Some(number) = name.strip_prefix('#') {
        let n = match number.strip_prefix(['x', 'X']) {
            Some(digits) => hex(Some(digits.as_bytes()))?,
            None if number.bytes().all(|b| b.is_ascii_digit()) => number.parse().ok()?,
            None => return None,
        };
        return Some((end + 1, Some(char::from_u32(n)?)));
    }
    if matches!(name, "shy" | "zwj" | "zwnj") {
        return Some((end + 1, None));
    }
    NAMED.iter().find(|(known, _)| *known == name).map(|(_, c)| (end + 1, Some(*c)))
}

/// Zero digits of other scripts (Unicode category Nd), which NFKC leaves as they are.
const ZEROS: [u32; 20] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xe50,
    0xed0, 0xf20, 0x1040, 0x17e0, 0x1810, 0xa620, 0xff10,
];

/// Letters of the alphabets that most texts are in, which are their own normal form.
fn is_common(c: char) -> bool {
    matches!(c,
        'À'..='ı' | 'ĵ'..='ľ' | 'Ł'..='ň' | 'Ŋ'..='ž' | 'Α'..='Ρ' | 'Σ'..='ω'
        | '\u{400}'..='\u{481}' | '\u{4e00}'..='\u{9fff}' | 'ぁ'..='ゔ' | 'ァ'..='ヺ')
}

/// Appends what a character is folded to.
fn fold(c: char, form: &mut Vec<u8>) {
    match c {
        // No width, or only how to show it.
        '\u{ad}'
        | '\u{34f}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}'
        | '\u{e0000}'..='\u{e01ef}' => {}
        '\u{2010}'..='\u{2015}'
        | '\u{2043}'
        | '\u{207b}'
        | '\u{208b}'
        | '\u{2212}'
        | '\u{fe58}'
        | '\u{fe63}'
        | '\u{ff0d}'
        | '\u{58a}'
        | '\u{1806}'
        | '\u{30fb}' => form.push(b'-'),
        '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => {
            form.push(b' ')
        }
        '\u{2028}' | '\u{2029}' | '\u{85}' => form.push(b'\n'),
        '\u{3002}' | '\u{ff61}' | '\u{2024}' => form.push(b'.'),
        c if c.is_ascii() => form.push(c as u8),
        c => {
            let code = c as u32;
            if let Some(zero) = ZEROS.iter().find(|zero| (**zero..**zero + 10).contains(&code)) {
                return form.push(b'0' + (code - zero) as u8);
            }
            for c in std::iter::once(c).nfkc() {
                form.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }
}

/// A text in UTF-16, by its byte order mark or because every second byte of it is zero.
fn utf16(text: &[u8]) -> Option<Normal> {
    let sample = text.get(..text.len().min(64))?;
    if !matches!(text, [0xfe, 0xff, ..] | [0xff, 0xfe, ..]) && memchr::memchr(0, sample).is_none() {
        return None;
    }
    let zeros = |parity: usize| {
        let of = sample.iter().skip(parity).step_by(2);
        (of.clone().filter(|b| **b == 0).count(), of.count())
    };
    let ((even, evens), (odd, odds)) = (zeros(0), zeros(1));
    let big = match text {
        [0xfe, 0xff, ..] => true,
        [0xff, 0xfe, ..] => false,
        _ if sample.len() < 8 => return None,
        // Mostly ASCII: three of four units have a zero half, and the other half has none.
        _ if even * 4 >= evens * 3 && odd == 0 => true,
        _ if odd * 4 >= odds * 3 && even == 0 => false,
        _ => return None,
    };
    let mut out = Normal::default();
    let unit = |at: usize| {
        let [a, b] = text.get(at..at + 2)?.try_into().ok()?;
        Some(if big { u16::from_be_bytes([a, b]) } else { u16::from_le_bytes([a, b]) })
    };
    let (mut at, mut form) = (0, Vec::new());
    while let Some(first) = unit(at) {
        let pair = [Some(first), unit(at + 2)];
        let (c, len) = match char::decode_utf16(pair.into_iter().flatten()).next() {
            Some(Ok(c)) => (c, 2 * c.len_utf16()),
            _ => ('\u{fffd}', 2),
        };
        form.clear();
        fold(c, &mut form);
        out.push(&form, at as u32, (at + len) as u32);
        at += len;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &str) {
        let normal = normalise(text.as_bytes());
        let bytes = normal.as_ref().map_or(text.as_bytes(), Normal::bytes);
        assert_eq!(String::from_utf8_lossy(bytes), expect, "{text}");
    }

    #[test]
    fn spellings_become_one() {
        check("plain text, 5-5", "plain text, 5-5");
        check("grün 50% & mehr \\ q", "grün 50% & mehr \\ q");
        check(r"\u0034\u0031", "41");
        check(r"a\u2013b\n", "a-b\n");
        check(r"\u{34}1", "41");
        check("%34%31%e2%80%93", "41-");
        check("&#52;&#x31;&nbsp;&commat;", "41 @");
        check("4\u{200b}1\u{feff}\u{ad}", "41");
        check("４１－１", "41-1");
        check("٤١", "41");
        check("a\u{2007}b\u{202f}c", "a b c");
        check("ﬁ ＠", "fi @");
        // Nested.
        check(r"\\u0034", "4");
        check("%2534", "4");
        check("&amp;#52;", "4");
        check(r"\ud83d\ude00", "😀");
        check("\u{1b}[1;32m41\u{1b}[0m \u{1b}[K.", "41 .");
        check("\u{1b}[", "\u{1b}[");
    }

    #[test]
    fn common_letters_are_their_own_form() {
        for c in ('\0'..='\u{ffff}').filter(|c| is_common(*c)) {
            assert_eq!(std::iter::once(c).nfkc().collect::<String>(), c.to_string());
        }
    }

    #[test]
    fn the_way_back() {
        let text = "x 4\u{200b}1%31 y".as_bytes();
        let normal = normalise(text).unwrap();
        let at = memchr::memmem::find(normal.bytes(), b"411").unwrap();
        let (from, to) = normal.origin(at, at + 3).unwrap();
        assert_eq!(&text[from..to], "4\u{200b}1%31".as_bytes());
        let text = br"\\u0034!";
        let normal = normalise(text).unwrap();
        assert_eq!(normal.origin(0, 1), Some((0, 7)));
    }

    #[test]
    fn utf16_is_text() {
        let text = "key 4111";
        let le: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let be: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        for bytes in [le, be] {
            let normal = normalise(&bytes).unwrap();
            assert_eq!(normal.bytes(), text.as_bytes());
            assert_eq!(normal.origin(4, 8), Some((8, 16)));
        }
    }

    #[test]
    fn any_bytes_have_a_normal_form() {
        for n in 0..=255_u8 {
            for m in [0, b'%', b'&', b'\\', 0x80, 0xe2, 0xff] {
                let text = [n, m, n, b'u', m, n, 0xe2, 0x80];
                if let Some(normal) = normalise(&text) {
                    assert_eq!(normal.bytes.len(), normal.spans.len());
                    assert!(normal.spans.iter().all(|(a, b)| a < b && *b as usize <= text.len()));
                }
            }
        }
    }
}
