//! Secrets that show themselves by a prefix, and those behind their name.

use std::sync::Arc;

use aho_corasick::packed;

use super::{
    FINDING_BYTES_MAX, Finding, Kind,
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
    /// What stands in the midst of an older key of OpenAI.
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

/// Prefixes, what follows, and what it is.
const KNOWN: &[(&str, Tail, Kind)] = &[
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
    ("SG.", Tail::Word(16, 80), Kind::CloudKey),
    ("hf_", Tail::Alnum(30, 40), Kind::CloudKey),
    ("hvs.", Tail::Word(24, 200), Kind::CloudKey),
    ("dop_v1_", Tail::Hex(64, 64), Kind::CloudKey),
    ("doo_v1_", Tail::Hex(64, 64), Kind::CloudKey),
    ("dapi", Tail::Hex(32, 34), Kind::CloudKey),
    ("shpat_", Tail::Hex(32, 32), Kind::CloudKey),
    ("shpss_", Tail::Hex(32, 32), Kind::CloudKey),
    ("xox", Tail::Slack, Kind::CloudKey),
    ("xapp-", Tail::Word(20, 250), Kind::CloudKey),
    ("hooks.slack.com/services/", Tail::Path(20), Kind::CloudKey),
    ("ABIA", Tail::Upper(16, 16), Kind::CloudKey),
    ("hvb.", Tail::Word(24, 250), Kind::CloudKey),
    ("sk-svcacct-", Tail::Word(20, 250), Kind::CloudKey),
    ("sk-admin-", Tail::Word(20, 250), Kind::CloudKey),
    ("T3BlbkFJ", Tail::OpenAi, Kind::CloudKey),
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
    ("AccountKey=", Tail::Base64(40), Kind::ConnectionString),
    ("SharedAccessKey=", Tail::Base64(40), Kind::ConnectionString),
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
    ("-----BEGIN ", Tail::Pem, Kind::PrivateKey),
    ("ecret_access_key", Tail::AwsSecret, Kind::CloudKey),
    ("SECRET_ACCESS_KEY", Tail::AwsSecret, Kind::CloudKey),
    ("ecretAccessKey", Tail::AwsSecret, Kind::CloudKey),
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
    "API_KEY",
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

#[derive(Debug, Clone)]
pub struct Prefixes {
    /// In several, where there are more than a vectorised search takes at once.
    searchers: Arc<[(packed::Searcher, Vec<Entry>)]>,
}

type Entry = (&'static str, Tail, Kind);

impl Prefixes {
    pub fn new(kinds: &Set) -> Self {
        let named = NAMES.iter().map(|name| (*name, Tail::Named, Kind::Password));
        let all: Vec<Entry> =
            KNOWN.iter().copied().chain(named).filter(|(_, _, kind)| kinds.has(*kind)).collect();
        let mut searchers = Vec::new();
        for part in all.chunks(64) {
            let mut builder =
                packed::Config::new().match_kind(packed::MatchKind::LeftmostLongest).builder();
            builder.extend(part.iter().map(|(prefix, ..)| prefix.as_bytes()));
            if let Some(searcher) = builder.build() {
                searchers.push((searcher, part.to_vec()));
            }
        }
        Self { searchers: searchers.into() }
    }

    pub fn scan(&self, view: &View<'_>, _: &Set, out: &mut Vec<Finding>) {
        for (searcher, entries) in &*self.searchers {
            for hit in searcher.find_iter(view.bytes) {
                let Some((_, tail, kind)) = entries.get(hit.pattern().as_usize()) else { continue };
                if let Some((start, end)) = verify(view, hit.start(), hit.end(), *tail) {
                    found(out, start, end, *kind);
                }
            }
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
            let start =
                start - view.run_back(start, 24, |b| b.is_ascii_alphanumeric() || b == b'-');
            let end = from + view.run(from, 64, |b| b.is_ascii_alphanumeric());
            let fits = view.slice(start, start + 3) == b"sk-" && end - from >= 20;
            (fits && !word(view.before(start))).then_some((start, end))
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
