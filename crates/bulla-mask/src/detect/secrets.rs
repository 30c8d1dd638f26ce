//! Secrets that show themselves by a prefix, and those behind their name.

use std::{collections::BTreeMap, sync::Arc};

use aho_corasick::packed;

use super::{
    FINDING_BYTES_MAX, Finding, Kind,
    bits::{self, Bits},
    kind::Set,
    view::{View, found},
};

/// What may follow a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tail {
    /// Letters and digits, `_` and `-`: so many, from and to.
    Word(usize, usize),
    /// Upper case letters and digits.
    Upper(usize, usize),
    Hex(usize, usize),
    /// Letters and digits, of which one at least is a digit or upper case.
    Alnum(usize, usize),
    /// A word, and `=` with a checksum behind it.
    Summed(usize, usize),
    /// An older key of OpenAI: it has the same letters in its midst.
    OpenAi,
    /// A JSON web token.
    Jwt,
    /// A private key in PEM.
    Pem,
    /// `AccountKey=` and such: base64 up to the end.
    Base64(usize),
    /// A name with a secret behind it.
    Named,
    /// The same, of 40 letters of base64.
    AwsSecret,
    /// `hooks.slack.com/services/…`
    Path(usize),
    /// A letter, a dash and a word: `xoxb-…`
    Slack,
}

type Entry = (&'static str, Tail, Kind);

/// Prefixes, what follows, and what it is. Each begins where a word begins, and is followed by
/// letters, digits, `_`, `-` and `.`: together twenty at least.
const KNOWN: &[Entry] = &[
    ("AKIA", Tail::Upper(16, 16), Kind::CloudKey),
    ("ASIA", Tail::Upper(16, 16), Kind::CloudKey),
    ("AIza", Tail::Word(35, 35), Kind::CloudKey),
    ("ya29.", Tail::Word(20, 400), Kind::CloudKey),
    ("GOCSPX-", Tail::Word(28, 28), Kind::CloudKey),
    ("sk_live_", Tail::Word(16, 247), Kind::CloudKey),
    ("sk_test_", Tail::Word(16, 247), Kind::CloudKey),
    ("rk_live_", Tail::Word(16, 247), Kind::CloudKey),
    ("rk_test_", Tail::Word(16, 247), Kind::CloudKey),
    ("whsec_", Tail::Word(24, 64), Kind::CloudKey),
    ("sk-ant-", Tail::Word(20, 200), Kind::CloudKey),
    ("sk-proj-", Tail::Word(20, 200), Kind::CloudKey),
    ("SG.", Tail::Word(20, 80), Kind::CloudKey),
    ("hf_", Tail::Alnum(30, 40), Kind::CloudKey),
    ("hvs.", Tail::Word(24, 200), Kind::CloudKey),
    ("dop_v1_", Tail::Hex(64, 64), Kind::CloudKey),
    ("doo_v1_", Tail::Hex(64, 64), Kind::CloudKey),
    ("dapi", Tail::Hex(32, 34), Kind::CloudKey),
    ("shpat_", Tail::Hex(32, 32), Kind::CloudKey),
    ("shpss_", Tail::Hex(32, 32), Kind::CloudKey),
    ("xox", Tail::Slack, Kind::CloudKey),
    ("xapp-", Tail::Word(20, 250), Kind::CloudKey),
    ("ABIA", Tail::Upper(16, 16), Kind::CloudKey),
    ("hvb.", Tail::Word(24, 250), Kind::CloudKey),
    ("sk-svcacct-", Tail::Word(20, 250), Kind::CloudKey),
    ("sk-admin-", Tail::Word(20, 250), Kind::CloudKey),
    ("key-", Tail::Hex(32, 32), Kind::CloudKey),
    ("sq0atp-", Tail::Word(22, 22), Kind::CloudKey),
    ("sq0csp-", Tail::Word(43, 43), Kind::CloudKey),
    ("EAACEdEose0cBA", Tail::Alnum(20, 300), Kind::CloudKey),
    ("NRAK-", Tail::Upper(27, 27), Kind::CloudKey),
    ("PMAK-", Tail::Word(59, 59), Kind::CloudKey),
    ("lin_api_", Tail::Alnum(40, 40), Kind::CloudKey),
    ("dp.pt.", Tail::Alnum(40, 44), Kind::CloudKey),
    ("glsa_", Tail::Word(41, 41), Kind::CloudKey),
    ("sntrys_", Tail::Word(40, 400), Kind::CloudKey),
    ("gsk_", Tail::Alnum(40, 60), Kind::CloudKey),
    ("r8_", Tail::Alnum(37, 37), Kind::CloudKey),
    ("pplx-", Tail::Alnum(40, 64), Kind::CloudKey),
    ("xai-", Tail::Alnum(60, 100), Kind::CloudKey),
    ("tfp_", Tail::Alnum(40, 64), Kind::CloudKey),
    ("ntn_", Tail::Alnum(40, 50), Kind::CloudKey),
    ("secret_", Tail::Alnum(43, 43), Kind::CloudKey),
    ("fo1_", Tail::Word(43, 43), Kind::CloudKey),
    ("AGE-SECRET-KEY-1", Tail::Upper(58, 58), Kind::PrivateKey),
    ("ghp_", Tail::Word(36, 255), Kind::VcsToken),
    ("gho_", Tail::Word(36, 255), Kind::VcsToken),
    ("ghu_", Tail::Word(36, 255), Kind::VcsToken),
    ("ghs_", Tail::Word(36, 255), Kind::VcsToken),
    ("ghr_", Tail::Word(36, 255), Kind::VcsToken),
    ("github_pat_", Tail::Word(60, 255), Kind::VcsToken),
    ("glpat-", Tail::Word(20, 64), Kind::VcsToken),
    ("gldt-", Tail::Word(20, 64), Kind::VcsToken),
    ("glrt-", Tail::Word(20, 64), Kind::VcsToken),
    ("glptt-", Tail::Hex(40, 40), Kind::VcsToken),
    ("glcbt-", Tail::Word(20, 64), Kind::VcsToken),
    ("glsoat-", Tail::Word(20, 64), Kind::VcsToken),
    ("glimt-", Tail::Word(20, 64), Kind::VcsToken),
    ("glft-", Tail::Word(20, 64), Kind::VcsToken),
    ("gloas-", Tail::Hex(64, 64), Kind::VcsToken),
    ("npm_", Tail::Alnum(36, 36), Kind::VcsToken),
    ("pypi-AgE", Tail::Word(50, 400), Kind::VcsToken),
    ("rubygems_", Tail::Hex(48, 48), Kind::VcsToken),
    ("dckr_pat_", Tail::Word(27, 27), Kind::VcsToken),
    ("cio", Tail::Alnum(32, 32), Kind::VcsToken),
    ("ATBB", Tail::Word(28, 40), Kind::VcsToken),
    ("ATATT3x", Tail::Summed(60, 400), Kind::VcsToken),
    ("ATCTT3x", Tail::Summed(60, 400), Kind::VcsToken),
    ("eyJ", Tail::Jwt, Kind::Jwt),
    ("sk-", Tail::OpenAi, Kind::CloudKey),
];

/// What stands before other secrets, anywhere.
const MARKS: &[Entry] = &[
    ("hooks.slack.com/services/", Tail::Path(20), Kind::CloudKey),
    ("AccountKey=", Tail::Base64(40), Kind::ConnectionString),
    ("SharedAccessKey=", Tail::Base64(40), Kind::ConnectionString),
    ("-----BEGIN ", Tail::Pem, Kind::PrivateKey),
    ("ecret_access_key", Tail::AwsSecret, Kind::CloudKey),
    ("ecretAccessKey", Tail::AwsSecret, Kind::CloudKey),
    ("SECRET_ACCESS_KEY", Tail::AwsSecret, Kind::CloudKey),
    ("_SECRET_ACCESS_KEY", Tail::AwsSecret, Kind::CloudKey),
];

/// Names that secrets stand behind, as they end.
const NAMES: &[&str] = &[
    "assword",
    "asswd",
    "ecret",
    "api_key",
    "apikey",
    "api-key",
    "_TOKEN",
    "_SECRET",
    "SECRET_",
    "PASSWORD",
    "_KEY",
    "AccessKey",
    "apiKey",
    "ApiKey",
    "API-Key",
    "Api-Key",
    "access_token",
    "auth_token",
    "refresh_token",
    "token=",
    "token\"",
    "assphrase",
    "SECRET=",
    "_PWD",
    "dentified by",
    "DENTIFIED BY",
    "Pwd=",
    "pwd=",
    "Bearer ",
    "PGPASS",
];

/// What secrets are found by.
#[derive(Debug, Clone)]
pub struct Prefixes {
    known: Arc<Known>,
    /// The marks and names by their first bytes, the longest first.
    marks: Arc<BTreeMap<&'static [u8], Vec<Entry>>>,
    /// What finds those bytes, in the order of the map. There is none where the processor lacks
    /// vector instructions.
    searcher: Option<Arc<packed::Searcher>>,
}

/// Prefixes at the beginnings of long words.
#[derive(Debug)]
struct Known {
    /// Of their first two bytes, by a hash.
    pairs: [u64; 16],
    /// By their first byte.
    entries: BTreeMap<u8, Vec<Entry>>,
}

/// First bytes that marks and names are found by.
const MARK_BYTES: usize = 4;

impl Prefixes {
    pub fn new(kinds: &Set) -> Self {
        let wanted = |(_, _, kind): &Entry| kinds.has(*kind);
        let named = NAMES.iter().map(|name| (*name, Tail::Named, Kind::Password));
        let mut marks: BTreeMap<&[u8], Vec<Entry>> = BTreeMap::new();
        for entry in MARKS.iter().copied().chain(named).filter(wanted) {
            let head = entry.0.as_bytes().get(..MARK_BYTES).unwrap_or_default();
            marks.entry(head).or_default().push(entry);
        }
        for family in marks.values_mut() {
            family.sort_by_key(|(prefix, ..)| std::cmp::Reverse(prefix.len()));
        }
        let mut builder = packed::Config::new().builder();
        builder.extend(marks.keys());
        let mut known = Known { pairs: [0; 16], entries: BTreeMap::new() };
        KNOWN.iter().copied().filter(wanted).for_each(|entry| known.add(entry));
        Self { known: known.into(), marks: marks.into(), searcher: builder.build().map(Arc::new) }
    }

    /// Secrets behind marks and names.
    pub fn scan(&self, view: &View<'_>, out: &mut Vec<Finding>) {
        if self.marks.is_empty() {
            return;
        }
        match &self.searcher {
            Some(searcher) => {
                for hit in searcher.find_iter(view.bytes) {
                    self.marked(view, hit.start(), out);
                }
            }
            None => (0..view.bytes.len()).for_each(|at| self.marked(view, at, out)),
        }
    }

    /// The secret behind a mark or a name that stands at a place.
    fn marked(&self, view: &View<'_>, at: usize, out: &mut Vec<Finding>) {
        let mut family = self.marks.get(view.slice(at, at + MARK_BYTES)).into_iter().flatten();
        if let Some((start, end, kind)) = family.find_map(|e| entry(view, at, e)) {
            found(out, start, end, kind);
        }
    }

    /// Secrets that begin in a block with a prefix, where words are long enough.
    pub fn scan_block(
        &self,
        view: &View<'_>,
        base: usize,
        pair: [&Bits; 2],
        out: &mut Vec<Finding>,
    ) {
        let [here, ahead] = pair;
        let long = bits::twenty(here.token, ahead.token);
        if long == 0 {
            return;
        }
        let mut starts = long & !bits::up(here.alnum, view.before(base).is_ascii_alphanumeric());
        while starts != 0 {
            let start = base + starts.trailing_zeros() as usize;
            starts &= starts - 1;
            let secret = self.known.entries(view, start).iter().find_map(|e| entry(view, start, e));
            if let Some((start, end, kind)) = secret {
                found(out, start, end, kind);
            }
        }
    }
}

/// The secret that a prefix announces, if it stands at a place.
fn entry(view: &View<'_>, at: usize, entry: &Entry) -> Option<(usize, usize, Kind)> {
    let (prefix, tail, kind) = entry;
    let from = at + prefix.len();
    if view.slice(at, from) != prefix.as_bytes() {
        return None;
    }
    verify(view, at, from, *tail).map(|(start, end)| (start, end, *kind))
}

impl Known {
    fn add(&mut self, entry: Entry) {
        let [first, second, ..] = entry.0.as_bytes() else { return };
        let (slot, bit) = Self::place(*first, *second);
        if let Some(slot) = self.pairs.get_mut(slot) {
            *slot |= bit;
        }
        self.entries.entry(*first).or_default().push(entry);
    }

    /// Where the bit of a pair is.
    fn place(first: u8, second: u8) -> (usize, u64) {
        let hash = (usize::from(first) * 37 + usize::from(second)) % 1024;
        (hash / 64, 1 << (hash % 64))
    }

    fn entries(&self, view: &View<'_>, start: usize) -> &[Entry] {
        let first = view.at(start);
        let (slot, bit) = Self::place(first, view.at(start + 1));
        match self.pairs.get(slot) {
            Some(pairs) if pairs & bit != 0 => self.entries.get(&first).map_or(&[], Vec::as_slice),
            _ => &[],
        }
    }
}

fn word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'-'
}

/// Where the secret begins and ends that a prefix at `start..from` announces.
fn verify(view: &View<'_>, start: usize, from: usize, tail: Tail) -> Option<(usize, usize)> {
    let before = view.before(start);
    let counted = |test: &dyn Fn(u8) -> bool, min: usize, max: usize| {
        let n = view.run(from, max + 1, test);
        let led = before.is_ascii_alphanumeric();
        (!led && (min..=max).contains(&n)).then_some((start, from + n))
    };
    match tail {
        Tail::Word(min, max) => {
            let dotted = view.slice(start, from) == b"SG.";
            counted(&|b| word(b) || dotted && b == b'.', min, max)
                .filter(|(_, end)| is_mixed(view.slice(from, *end)))
        }
        Tail::Upper(min, max) => {
            counted(&|b| b.is_ascii_uppercase() || b.is_ascii_digit(), min, max)
                .filter(|(_, end)| !word(view.at(*end)))
        }
        Tail::Alnum(min, max) => {
            let telling = |b: &u8| b.is_ascii_digit() || b.is_ascii_uppercase();
            counted(&|b| b.is_ascii_alphanumeric(), min, max).filter(|(_, end)| {
                let tail = view.slice(from, *end);
                !word(view.at(*end)) && tail.iter().any(telling) && is_mixed(tail)
            })
        }
        Tail::Summed(min, max) => {
            let (start, end) = counted(&word, min, max)?;
            let sum = view.run(end + 1, 9, |b| b.is_ascii_hexdigit());
            let end = if view.at(end) == b'=' && sum == 8 { end + 9 } else { end };
            is_mixed(view.slice(from, end)).then_some((start, end))
        }
        Tail::OpenAi => {
            let body = view.run(from, 64, |b| b.is_ascii_alphanumeric());
            let mark = view.slice(from + 20, from + 28) == b"T3BlbkFJ";
            (!before.is_ascii_alphanumeric() && mark && body >= 48).then_some((start, from + body))
        }
        Tail::Hex(min, max) => counted(&|b| b.is_ascii_hexdigit() || b == b'-', min, max)
            .filter(|(_, end)| !word(view.at(*end))),
        Tail::Base64(min) => {
            let n = view.run(from, 512, |b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
            (n >= min).then_some((from, from + n))
        }
        Tail::Path(min) => {
            let n = view.run(from, 200, |b| word(b) || b == b'/');
            (n >= min).then_some((start, from + n))
        }
        Tail::Slack => {
            let kind = matches!(view.at(from), b'a' | b'b' | b'p' | b'r' | b's');
            let from = from + 2;
            let n = view.run(from, 251, word);
            let fits = kind && view.before(from) == b'-' && !before.is_ascii_alphanumeric();
            (fits && (20..=250).contains(&n)).then_some((start, from + n))
        }
        .filter(|(_, end)| is_mixed(view.slice(from + 2, *end))),
        Tail::Jwt => jwt(view, start),
        Tail::Pem => pem(view, start, from),
        Tail::Named => {
            let (at, end, quoted) = named(view, start, from)?;
            is_secret(view.slice(at, end), quoted).then_some((at, end))
        }
        Tail::AwsSecret => {
            let (at, end, _) = named(view, start, from)?;
            let base64 = |b: &u8| b.is_ascii_alphanumeric() || b"+/=".contains(b);
            let value = view.slice(at, end);
            (value.len() == 40 && value.iter().all(base64) && is_mixed(value)).then_some((at, end))
        }
    }
}

/// No placeholder: more than one letter, and not a sentence of words.
fn is_mixed(text: &[u8]) -> bool {
    let mut seen = [false; 256];
    for byte in text {
        if let Some(slot) = seen.get_mut(usize::from(*byte)) {
            *slot = true;
        }
    }
    seen.iter().filter(|seen| **seen).count() >= 6.min(text.len() / 2)
}

/// A token that is cut off is told from a word by its length.
const CUT_BYTES_MIN: usize = 1 << 10;

/// Three parts of base64url, of which the first is a JSON object (RFC 7519); encrypted ones have
/// five.
fn jwt(view: &View<'_>, start: usize) -> Option<(usize, usize)> {
    if word(view.before(start)) {
        return None;
    }
    let part = |at: usize| view.run(at, usize::MAX, word);
    let head = part(start);
    let mut end = start + head;
    let mut parts = 1;
    while parts < 5 && view.at(end) == b'.' {
        let n = part(end + 1);
        if n == 0 && parts != 2 && parts != 1 {
            break;
        }
        end += 1 + n;
        parts += 1;
    }
    if matches!(view.before(end), b'.') {
        end -= 1;
    }
    let header = view.slice(start, start + head);
    // `{"` and a small letter, with which all names of the header begin: alg, typ, kid, jku, …
    let named = header.get(3).is_some_and(|b| matches!(b, b'h'..=b'z' | b'0'..=b'6'));
    // One that is cut off by the end of the text is one all the same, if it is long.
    let cut = end == view.bytes.len() && end - start >= CUT_BYTES_MIN;
    (head >= 12 && named && (parts >= 3 || cut)).then_some((start, end))
}

/// From the first line to the last one (RFC 7468), or as far as there is base64.
fn pem(view: &View<'_>, start: usize, from: usize) -> Option<(usize, usize)> {
    let line = view.slice(from, from + 48);
    let label = line.get(..memchr::memmem::find(line, b"-----")?)?;
    if !label.ends_with(b"PRIVATE KEY") && label != b"PGP PRIVATE KEY BLOCK" {
        return None;
    }
    let body = from + label.len() + 5;
    let rest = view.slice(body, body + 4 * FINDING_BYTES_MAX);
    let end = match memchr::memmem::find(rest, b"-----END ") {
        Some(at) => {
            let tail = view.slice(body + at + 9, body + at + 64);
            let close = memchr::memmem::find(tail, b"-----").map_or(tail.len(), |n| n + 5);
            body + at + 9 + close
        }
        // Cut off: everything that can belong to it.
        None => {
            body + view.run(body, 4 * FINDING_BYTES_MAX, |b| {
                b.is_ascii_alphanumeric() || b"+/=-_:, \r\n\t\\\"".contains(&b)
            })
        }
    };
    Some((start, end))
}

/// `password = "…"`, `"secret": "…"`, `API_TOKEN=…`, `Bearer …`, `<password>…<`, `PASSWORD '…'`
fn named(view: &View<'_>, start: usize, from: usize) -> Option<(usize, usize, bool)> {
    let name = view.slice(start, from);
    let bearer = name == b"Bearer ";
    let (mut at, mut told) = (from, false);
    if !bearer && !name.ends_with(b"=") {
        let tail = view.run(at, 24, word);
        if !names_value(view, start, name, view.slice(at, at + tail)) {
            return None;
        }
        at += tail;
        let element = view.at(at) == b'>';
        at += view.run(at, 1, |b| matches!(b, b'"' | b'\'' | b'`'));
        let blank = view.run(at, 4, |b| b == b' ');
        at += blank;
        let sign = view.run(at, 2, |b| matches!(b, b'=' | b':'));
        // `==` compares, `::` qualifies.
        told = view.slice(at, at + 3) == b"is ";
        // SQL: `PASSWORD 'x'`, `IDENTIFIED BY 'x'`.
        let sql = blank > 0 && tail == 0 && name.last().is_some_and(|b| b"DYdy".contains(b));
        let sql = sql && view.at(at) == b'\'';
        if sign != 1 && view.slice(at, at + 2) != b":=" && !told && !element && !sql {
            return None;
        }
        at += if told { 3 } else { sign };
        at += view.run(at, 1, |b| b == b'>');
        at += view.run(at, 4, |b| b == b' ');
    }
    let quote = view.at(at);
    let quoted = matches!(quote, b'"' | b'\'' | b'`');
    at += usize::from(quoted);
    let inside = |b: u8| {
        if quoted {
            b != quote && b >= 0x20
        } else {
            b > 0x20 && b < 0x7f && !b"\"'`,;&<>(){}[]".contains(&b)
        }
    };
    let n = view.run(at, 256, inside);
    let mut end = at + n;
    // What ends a sentence is none of it; behind `=` there is no sentence.
    let ends = |b: u8| matches!(b, b'.' | b':') || told && b == b'!';
    while !quoted && ends(view.before(end)) && end > at {
        end -= 1;
    }
    Some((at, end, quoted))
}

/// The whole name is one of a secret, and not of what belongs to one: `secretName`, `CACHE_KEY`.
fn names_value(view: &View<'_>, start: usize, name: &[u8], tail: &[u8]) -> bool {
    const TAILS: &[&[u8]] = &[
        b"name", b"ref", b"id", b"arn", b"path", b"file", b"url", b"uri", b"ttl", b"at", b"type",
        b"length", b"field", b"policy", b"hint", b"prefix", b"version", b"count", b"header",
    ];
    const HEADS: &[&[u8]] = &[
        b"CACHE",
        b"SORT",
        b"PARTITION",
        b"PRIMARY",
        b"FOREIGN",
        b"PUBLIC",
        b"ROUTING",
        b"OBJECT",
        b"IDEMPOTENCY",
        b"LOOKUP",
        b"INDEX",
        b"RANGE",
        b"GROUP",
        b"HASH",
    ];
    let tail = tail.to_ascii_lowercase();
    let last = tail.rsplit(|b| matches!(b, b'_' | b'-')).next().unwrap_or_default();
    let head = view.slice(start.saturating_sub(16), start);
    let of_other = name == b"_KEY" && HEADS.iter().any(|other| head.ends_with(other));
    !of_other && (tail.is_empty() || !TAILS.contains(&last))
}

/// Something that a person would not write by accident.
fn is_secret(value: &[u8], quoted: bool) -> bool {
    if value.len() < 8 || value.len() > 255 || value.contains(&b' ') {
        return false;
    }
    // References, calls, placeholders, paths, URLs.
    if matches!(
        value.first(),
        Some(b'$' | b'{' | b'<' | b'%' | b'*' | b'/' | b'.' | b'[' | b'(' | b'@')
    ) || memchr::memmem::find(value, b"://").is_some()
        || value.contains(&b'(')
        || value.windows(3).any(|w| w == b"***" || w == b"xxx" || w == b"XXX" || w == b"...")
    {
        return false;
    }
    // A date or a time.
    if let Some([a, b, c, d, b'-', e, f, b'-', ..]) = value.first_chunk::<9>()
        && [a, b, c, d, e, f].iter().all(|b| b.is_ascii_digit())
    {
        return false;
    }
    let lower = value.to_ascii_lowercase();
    let placeholder = [
        "example",
        "placeholder",
        "changeme",
        "change_me",
        "your",
        "redacted",
        "required",
        "undefined",
        "password",
        "secret",
        "string",
        "hidden",
        "process.env",
        "os.environ",
    ];
    let short = value.len() < 24;
    if short
        && placeholder.iter().any(|p| memchr::memmem::find(&lower, p.as_bytes()).is_some())
        && !quoted
    {
        return false;
    }
    let digits = value.iter().filter(|b| b.is_ascii_digit()).count();
    let letters = value.iter().filter(|b| b.is_ascii_alphabetic()).count();
    let both = value.iter().any(u8::is_ascii_lowercase) && value.iter().any(u8::is_ascii_uppercase);
    let other = value.len() - digits - letters;
    // Two kinds of characters at least, and not many of one.
    letters >= 2 && (digits >= 2 || (digits >= 1 && (both || other >= 1))) && is_mixed(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::ALL;

    #[test]
    fn what_is_known_is_long_enough_to_be_looked_at() {
        for (prefix, tail, _) in KNOWN {
            let least = match tail {
                Tail::Word(min, _)
                | Tail::Upper(min, _)
                | Tail::Hex(min, _)
                | Tail::Alnum(min, _)
                | Tail::Summed(min, _) => *min,
                // A kind and a dash; a header, two dots; twenty on either side of the mark.
                Tail::Slack => 22,
                Tail::Jwt => 17,
                Tail::OpenAi => 48,
                Tail::Pem | Tail::Base64(_) | Tail::Path(_) | Tail::Named | Tail::AwsSecret => 0,
            };
            assert!(prefix.len() + least >= 20, "{prefix}");
        }
        assert!(MARKS.iter().all(|(mark, ..)| mark.len() >= MARK_BYTES));
        assert!(NAMES.iter().all(|name| name.len() >= MARK_BYTES));
    }

    #[test]
    fn without_vector_instructions_the_same_is_found() {
        let kinds = Set::of(ALL);
        let quick = Prefixes::new(&kinds);
        let slow = Prefixes { searcher: None, ..quick.clone() };
        assert!(quick.searcher.is_some());
        for text in include_str!("../../tests/stranger.txt").lines() {
            let (mut one, mut other) = (Vec::new(), Vec::new());
            quick.scan(&View::new(text.as_bytes()), &mut one);
            slow.scan(&View::new(text.as_bytes()), &mut other);
            crate::detect::settle(&mut one);
            crate::detect::settle(&mut other);
            assert_eq!(one, other, "{text}");
        }
    }
}
