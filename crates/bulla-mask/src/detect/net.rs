//! Addresses of the network, and URLs and connection strings that hold a password.

use std::sync::LazyLock;

use memchr::memmem;

use super::{
    Finding, Kind,
    kind::Set,
    numbers::{Group, Seg},
    view::{View, found},
};

const VERSION_WORDS: &[&str] = &[
    "version",
    "ver ",
    "ver.",
    "v.",
    "release",
    "build",
    "firmware",
    "section",
    "chapter",
    "clause",
    "upgrade to",
    "update to",
    "upgraded to",
    "driver",
    "revision",
    "patch",
    "sdk",
    "kernel",
    "asn.1",
    "oid",
    "§",
];
const ADDRESS_WORDS: &[&str] =
    &["ip", "address", "addr", "host", "server", "client", "peer", "from"];

/// `10.1.2.3`, and not a version of something.
pub fn ipv4(view: &View<'_>, group: &Group<'_>, seg: &Seg) -> Option<usize> {
    let segs = group.segs.get(..4)?;
    let dotted = segs.iter().take(3).all(|seg| seg.sep == b'.');
    let last = segs.last()?;
    if !dotted || last.sep == b'.' || group.led == b'.' || group.led == b'-' {
        return None;
    }
    for part in segs {
        let text = view.slice(part.start, part.end());
        let value = text.iter().fold(0_u32, |n, d| n.saturating_mul(10) + u32::from(d - b'0'));
        if part.len > 3 || value > 255 || (part.len > 1 && text.starts_with(b"0")) {
            return None;
        }
    }
    let (start, end) = (seg.start, last.end());
    let (before, after) = (view.before(start), view.at(end));
    if after.is_ascii_alphabetic() || after == b'_' || before == b'.' {
        return None;
    }
    // `1.2.3.4-beta`, `pkg-1.2.3.4`, `Chrome/1.2.3.4`, `pkg@1.2.3.4`, `pkg==1.2.3.4`, `~>1.2.3.4`
    let suffix = matches!(after, b'-' | b'+') && view.at(end + 1).is_ascii_alphabetic();
    let word = view.before(start.saturating_sub(1));
    let product = matches!(before, b'/' | b'-' | b'_') && word.is_ascii_alphanumeric();
    let pinned = matches!(before, b'~' | b'^' | b'=') && matches!(word, b'=' | b'>' | b'<' | b'~');
    let at_sign = before == b'@' && word.is_ascii_alphanumeric();
    // `tcp/10.0.0.1` and `ssh ann@10.0.0.1` are addresses all the same.
    let said = view.said_before(start, 24, ADDRESS_WORDS);
    if suffix
        || ((product || pinned) && !said)
        || (at_sign && view.said_before(start, 24, &["npm"]))
    {
        return None;
    }
    let version = view.said_before(start, 24, VERSION_WORDS)
        || matches!(before, b'v' | b'V')
        || view.near(end, end, &["version", "release"]);
    (!version || view.said_before(start, 12, ADDRESS_WORDS)).then_some(end)
}

pub fn scan(view: &View<'_>, kinds: &Set, out: &mut Vec<Finding>) {
    if kinds.has(Kind::Ip) {
        ipv6(view, out);
    }
    if kinds.has(Kind::ConnectionString) {
        static MARK: LazyLock<memmem::Finder<'static>> =
            LazyLock::new(|| memmem::Finder::new("://"));
        for at in MARK.find_iter(view.bytes) {
            if let Some((start, end)) = with_password(view, at) {
                found(out, start, end, Kind::ConnectionString);
            }
        }
    }
}

/// Longest text of an IPv6 address, with an embedded IPv4 one.
const IPV6_MAX: usize = 45;

/// Bytes that are looked at at once.
const BLOCK: usize = 32;

/// A colon within an address: another one behind it, or hex on both sides.
#[inline]
fn joins(before: u8, at: u8, next: u8) -> bool {
    let hex = |b: u8| (b.wrapping_sub(b'0') < 10) | ((b | 0x20).wrapping_sub(b'a') < 6);
    (at == b':') & ((next == b':') | (hex(next) & hex(before)))
}

/// The next of such colons at or behind `from`. Blocks without one cost a few vector instructions:
/// most colons of JSON are none.
fn next_colon(view: &View<'_>, from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let one = |at: usize| joins(view.before(at), view.at(at), view.at(at + 1));
        let rest = at.checked_sub(1).and_then(|before| view.bytes.get(before..));
        let Some(block) = rest.and_then(|rest| rest.first_chunk::<{ BLOCK + 2 }>()) else {
            let end = view.bytes.len().min(at + BLOCK);
            match (at..end).find(|at| one(*at)) {
                None if end < view.bytes.len() => at = end,
                found => return found,
            }
            continue;
        };
        let [_, middle @ ..] = block;
        let [_, last @ ..] = middle;
        let triples = block.iter().zip(middle).zip(last);
        let any = triples.fold(0_u8, |any, ((a, b), c)| any | u8::from(joins(*a, *b, *c)));
        if any != 0
            && let Some(found) = (at..at + BLOCK).find(|at| one(*at))
        {
            return Some(found);
        }
        at += BLOCK;
    }
}

fn ipv6(view: &View<'_>, out: &mut Vec<Finding>) {
    let part = |b: u8| b.is_ascii_hexdigit() || b == b':';
    let mut from = 0;
    while let Some(at) = next_colon(view, from) {
        let start = at - view.run_back(at, IPV6_MAX, part);
        let mut end = at + view.run(at, IPV6_MAX, part);
        from = end;
        if view.at(end) == b'.' {
            end += view.run(end, 16, |b| b.is_ascii_digit() || b == b'.');
        }
        while matches!(view.before(end), b':' | b'.') && !view.slice(start, end).ends_with(b"::") {
            end -= 1;
        }
        let (before, after) = (view.before(start), view.at(end));
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b':';
        if word(before) || word(after) || end - start < 6 && view.slice(start, end) != b"::1" {
            continue;
        }
        let text = std::str::from_utf8(view.slice(start, end)).unwrap_or_default();
        // `::` alone, and paths such as `a::b` of programming languages, have too few groups.
        let groups = text.split(':').filter(|group| !group.is_empty()).count();
        let digits = text.bytes().any(|b| b.is_ascii_digit());
        if text.parse::<std::net::Ipv6Addr>().is_ok() && (groups >= 3 || digits) && text != "::" {
            found(out, start, end, Kind::Ip);
        }
    }
}

/// `scheme://user:password@host`: from the scheme to the end of the host and path.
fn with_password(view: &View<'_>, at: usize) -> Option<(usize, usize)> {
    let scheme = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    let start = at - view.run_back(at, 32, scheme);
    if start == at {
        return None;
    }
    let body = at + 3;
    let user = |b: u8| !b.is_ascii_whitespace() && b > 0x20 && !b"\"'<>`/?#".contains(&b);
    // Everything up to the last `@` of the authority.
    let authority = view.run(body, 512, user);
    let text = view.slice(body, body + authority);
    let host = body + text.iter().rposition(|b| *b == b'@')? + 1;
    let login = view.slice(body, host - 1);
    let colon = login.iter().position(|b| *b == b':')?;
    let password = login.get(colon + 1..)?;
    // What stands for a password is none.
    let stand_in = password.is_empty()
        || matches!(password.first(), Some(b'$' | b'{' | b'<' | b'%'))
        || password.iter().all(|b| *b == b'*')
        || password.iter().all(|b| b.is_ascii_digit()) && password.len() < 3;
    if stand_in || !view.at(host).is_ascii_alphanumeric() && !matches!(view.at(host), b'[' | b'/') {
        return None;
    }
    let tail = |b: u8| b > 0x20 && b < 0x7f && !b"\"'<>`\\,;)]}".contains(&b);
    let mut end = host + view.run(host, 512, tail);
    while matches!(view.before(end), b'.' | b'!') {
        end -= 1;
    }
    Some((start, end))
}
