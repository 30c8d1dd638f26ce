//! Addresses of the network, and URLs and connection strings that hold a password.

use std::sync::LazyLock;

use memchr::memmem;

use super::{
    Finding, Kind,
    kind::Set,
    numbers::{Group, Seg},
    view::{View, Words, found},
};

const VERSION_WORDS: Words<'_> = Words::new(&[
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
    "gem",
]);
const ADDRESS_WORDS: Words<'_> = Words::new(&[
    "ip",
    "address",
    "addr",
    "host",
    "server",
    "client",
    "peer",
    "from",
    "src",
    "dst",
    "source",
    "destination",
    "inet",
    "netmask",
    "gateway",
    "listen",
    "bind",
    "connect",
    "ping",
    "route",
]);

const NPM: Words<'_> = Words::new(&["npm"]);
const RELEASE: Words<'_> = Words::new(&["version", "release"]);

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
        if part.len > 3 || part.len > 1 && text.starts_with(b"0") {
            return None;
        }
        if text.iter().fold(0, |n, d| n * 10 + u32::from(d - b'0')) > 255 {
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
    let said = view.said_before(start, 24, &ADDRESS_WORDS);
    if suffix || ((product || pinned) && !said) || (at_sign && view.said_before(start, 24, &NPM)) {
        return None;
    }
    let paragraph = view.slice(start.saturating_sub(3), start).starts_with("§".as_bytes())
        || view.slice(start.saturating_sub(2), start) == "§".as_bytes();
    let version = paragraph
        || view.said_before(start, 24, &VERSION_WORDS)
        || matches!(before, b'v' | b'V')
        || view.near(end, end, &RELEASE);
    (!version || view.said_before(start, 12, &ADDRESS_WORDS)).then_some(end)
}

pub fn scan(view: &View<'_>, kinds: &Set, out: &mut Vec<Finding>) {
    if !kinds.has(Kind::ConnectionString) {
        return;
    }
    static MARK: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new("://"));
    for at in MARK.find_iter(view.bytes) {
        if let Some((start, end)) = with_password(view, at) {
            found(out, start, end, Kind::ConnectionString);
        }
    }
}

/// Longest text of an IPv6 address, with an embedded IPv4 one.
const IPV6_MAX: usize = 45;

/// IPv6 addresses that have a colon in a block: two together, or one with hexadecimal digits on both
/// sides. What has one before `from` was looked at already. Where to go on.
pub fn ipv6(
    view: &View<'_>,
    base: usize,
    colons: u64,
    from: usize,
    out: &mut Vec<Finding>,
) -> usize {
    let (mut from, mut todo) = (from, colons);
    while todo != 0 {
        let at = base + todo.trailing_zeros() as usize;
        todo &= todo - 1;
        let (before, after) = (view.before(at), view.at(at + 1));
        // Most colons of JSON are none.
        let joins = after == b':' || after.is_ascii_hexdigit() && before.is_ascii_hexdigit();
        if joins && at >= from {
            from = ipv6_at(view, at, out);
        }
    }
    from
}

/// An address that has a colon at `at`. Where to go on.
fn ipv6_at(view: &View<'_>, at: usize, out: &mut Vec<Finding>) -> usize {
    let part = |b: u8| b.is_ascii_hexdigit() || b == b':';
    let mut end = at + view.run(at, IPV6_MAX, part);
    let next = end;
    // An address has seven colons, six before an IPv4 one, or two together; all of them are here or
    // behind. A time has none of it.
    let text = view.slice(at, end);
    let pair = |pair: &[u8]| pair == b"::";
    if text.iter().filter(|b| **b == b':').count() < 6 && !text.windows(2).any(pair) {
        return next;
    }
    let start = at - view.run_back(at, IPV6_MAX, part);
    if view.at(end) == b'.' {
        end += view.run(end, 16, |b| b.is_ascii_digit() || b == b'.');
    }
    while matches!(view.before(end), b':' | b'.') && !view.slice(start, end).ends_with(b"::") {
        end -= 1;
    }
    let (before, after) = (view.before(start), view.at(end));
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b':';
    if word(before) || word(after) || end - start < 6 && view.slice(start, end) != b"::1" {
        return next;
    }
    let text = std::str::from_utf8(view.slice(start, end)).unwrap_or_default();
    // `::` alone, and paths such as `a::b` of programming languages, have too few groups.
    let groups = text.split(':').filter(|group| !group.is_empty()).count();
    let digits = text.bytes().any(|b| b.is_ascii_digit());
    if text.parse::<std::net::Ipv6Addr>().is_ok() && (groups >= 3 || digits) && text != "::" {
        found(out, start, end, Kind::Ip);
    }
    next
}

/// `scheme://user:password@host`: from the scheme to the end of the host and path.
fn with_password(view: &View<'_>, at: usize) -> Option<(usize, usize)> {
    let scheme = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    let mut start = at - view.run_back(at, 32, scheme);
    if start == at {
        return None;
    }
    if view.slice(start.saturating_sub(5), start) == b"jdbc:" {
        start -= 5;
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
    // `[2001:db8::1]`
    let literal = view.run(host + 1, IPV6_MAX, |b| b.is_ascii_hexdigit() || b":.%".contains(&b));
    let closed = view.at(host) == b'[' && view.at(host + 1 + literal) == b']';
    let host_end = if closed { host + literal + 2 } else { host };
    let mut end = host_end + view.run(host_end, 512, tail);
    while matches!(view.before(end), b'.' | b'!') {
        end -= 1;
    }
    Some((start, end))
}
