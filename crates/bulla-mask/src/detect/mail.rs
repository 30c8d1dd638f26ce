//! E-mail addresses: RFC 5321 as far as anybody uses it.

use super::{
    Finding, Kind,
    kind::Set,
    view::{View, found},
};

/// Longest local part and domain (RFC 5321, 4.5.3.1).
const LOCAL_MAX: usize = 64;
const DOMAIN_MAX: usize = 253;

pub fn scan(view: &View<'_>, kinds: &Set, out: &mut Vec<Finding>) {
    if !kinds.has(Kind::Email) {
        return;
    }
    for at in memchr::memchr_iter(b'@', view.bytes) {
        if let Some((start, end)) = address(view, at) {
            found(out, start, end, Kind::Email);
        }
    }
}

fn address(view: &View<'_>, at: usize) -> Option<(usize, usize)> {
    let local =
        |b: u8| b.is_ascii_alphanumeric() || b >= 0x80 || b"!#$%&*+-/=?^_`{|}~.'".contains(&b);
    if view.before(at) == b'"' {
        return Some((quoted(view, at)?, domain(view, at)?));
    }
    let mut start = at - view.run_back(at, LOCAL_MAX + 1, local);
    // What stands around an address is not part of it: `mailto:`, `<`, `'`, a path, a query.
    let trim = |b: u8| b"!#$%&*/=?^`{|}~.'".contains(&b);
    let head = view.slice(start, at);
    // An apostrophe within a name is part of it.
    let cuts = |(at, b): &(usize, &u8)| {
        let within = at.checked_sub(1).and_then(|at| head.get(at)).is_some_and(is_name);
        b"/=?&{}|".contains(b) || **b == b'\'' && !within
    };
    if let Some((cut, _)) = head.iter().enumerate().rfind(cuts) {
        start += cut + 1;
    }
    start += view.run(start, LOCAL_MAX, trim);
    let local = view.slice(start, at);
    if local.is_empty() || local.len() > LOCAL_MAX || local.ends_with(b".") || has(local, b"..") {
        return None;
    }
    // A login within a URL, and `git@host:path`, are no addresses.
    let url = view.slice(start.saturating_sub(3), start) == b"://";
    if url || local == b"git" {
        return None;
    }
    // A password within a URL: `://user:pass@host` is a connection string.
    if view.before(start) == b':' && has(view.slice(start.saturating_sub(80), start), b"://") {
        return None;
    }
    Some((start, domain(view, at)?))
}

/// Where a local part in quotes begins, if it has an opening one.
fn quoted(view: &View<'_>, at: usize) -> Option<usize> {
    let close = at.checked_sub(1)?;
    let text = view.run_back(close, LOCAL_MAX, |b| b >= 0x20 && b != b'"' && b != 0x7f);
    let open = close.checked_sub(text + 1)?;
    let outer = view.before(open);
    let fits = text > 0 && view.at(open) == b'"' && !outer.is_ascii_alphanumeric();
    (fits && !matches!(outer, b'=' | b':')).then_some(open)
}

/// Where the domain behind an `@` ends.
fn domain(view: &View<'_>, at: usize) -> Option<usize> {
    let domain = |b: u8| b.is_ascii_alphanumeric() || b >= 0x80 || b == b'-' || b == b'.';
    let mut end = at + 1 + view.run(at + 1, DOMAIN_MAX + 1, domain);
    while matches!(view.before(end), b'.' | b'-') && end > at + 1 {
        end -= 1;
    }
    let name = view.slice(at + 1, end);
    if name.len() > DOMAIN_MAX || has(name, b"..") {
        return None;
    }
    let mut labels = name.rsplit(|b| *b == b'.');
    let top = labels.next()?;
    let second = labels.next()?;
    let fits = |label: &[u8]| !label.is_empty() && label.len() <= 63 && !label.starts_with(b"-");
    let top_fits = top.len() >= 2
        && top.len() <= 24
        && (top.iter().all(u8::is_ascii_alphabetic) || top.starts_with(b"xn--") || !top.is_ascii());
    // `image@2x.png` is a file, `getty@tty1.service` a unit.
    const FILES: &[&[u8]] = &[
        b"png", b"jpg", b"jpeg", b"gif", b"svg", b"webp", b"css", b"js", b"service", b"socket",
        b"timer", b"mount", b"target", b"slice", b"scope",
    ];
    let file = FILES.contains(&top);
    (top_fits && !file && fits(second) && labels.all(fits)).then_some(end)
}

fn is_name(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || *byte >= 0x80
}

fn has(text: &[u8], what: &[u8]) -> bool {
    memchr::memmem::find(text, what).is_some()
}
