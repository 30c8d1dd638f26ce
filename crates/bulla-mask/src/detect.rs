//! Finding values by what they look like, in text that has no columns.
//!
//! A [`Scanner`] looks for candidates with vector instructions (an `@`, a `://`, a name, a run of
//! digits, a long word) and only then verifies: checksums where there are some, ranges, lengths and
//! neighbours where there are none, and words nearby where even those are not enough. Text is
//! looked at in its normal form (see [`crate::normal`]); findings are places in the original.
//!
//! Every verdict depends on at most [`BEFORE_BYTES`] of text before a candidate and
//! [`FINDING_BYTES_MAX`] + [`AFTER_BYTES`] behind its start: that is what lets a stream be cut.

pub(crate) mod bits;
mod cards;
mod ids;
mod kind;
mod mail;
mod net;
mod numbers;
mod own;
mod phone;
mod secrets;
mod shapes;
mod view;

use std::sync::Arc;

pub use kind::{ALL, Kind};
pub use own::{Own, OwnError};
pub use view::{AFTER_BYTES, BEFORE_BYTES};

use crate::normal::{self, Normal};
use view::View;

/// Longest finding that is looked for as a whole, in bytes of the normal form. A private key is
/// longer: it is found from its first line on.
pub const FINDING_BYTES_MAX: usize = 8 << 10;

/// A place that holds something.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Finding {
    /// Bytes of the text as it was given.
    pub start: usize,
    pub end: usize,
    pub what: What,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum What {
    Known(Kind),
    /// One of the operator's own patterns, by its name.
    Own(Arc<str>),
}

impl What {
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(kind) => kind.as_str(),
            Self::Own(name) => name,
        }
    }
}

/// What is looked for. Cheap to share, expensive to make.
#[derive(Debug, Clone)]
pub struct Scanner {
    kinds: kind::Set,
    prefixes: secrets::Prefixes,
    own: Arc<[Own]>,
}

impl Scanner {
    /// Looks for these kinds and these patterns.
    #[must_use]
    pub fn new(kinds: &[Kind], own: Vec<Own>) -> Self {
        let kinds = kind::Set::of(kinds);
        Self { prefixes: secrets::Prefixes::new(&kinds), kinds, own: own.into() }
    }

    /// Looks for everything that it knows.
    #[must_use]
    pub fn all() -> Self {
        Self::new(ALL, Vec::new())
    }

    /// Findings in the order of their places; none overlaps another.
    #[must_use]
    pub fn scan(&self, text: &[u8]) -> Vec<Finding> {
        let mut found = Vec::new();
        match normal::normalise(text) {
            None => self.scan_plain(text, &mut found),
            Some(normal) => {
                self.scan_plain(normal.bytes(), &mut found);
                found.retain_mut(|finding| place(finding, &normal));
            }
        }
        settle(&mut found);
        found
    }

    fn scan_plain(&self, text: &[u8], out: &mut Vec<Finding>) {
        let view = View::new(text);
        self.scan_mapped(&view, out);
        mail::scan(&view, &self.kinds, out);
        net::scan(&view, &self.kinds, out);
        self.prefixes.scan(&view, out);
        for own in &*self.own {
            own.scan(&view, out);
        }
    }

    /// What is found by where digits, colons and long words are.
    fn scan_mapped(&self, view: &View<'_>, out: &mut Vec<Finding>) {
        let kinds = &self.kinds;
        let mut map = bits::Map::new();
        let (mut base, mut number, mut address) = (0, 0, 0);
        while base < view.bytes.len() {
            let (pairs, next) = map.fill(view.bytes, base);
            for pair in pairs {
                number = numbers::scan(view, kinds, base, pair, number, out);
                let colons = pair[0].colon;
                if colons != 0 && kinds.has(Kind::Ip) {
                    address = net::ipv6(view, base, colons, address, out);
                }
                self.prefixes.scan_block(view, base, pair, out);
                base += bits::BLOCK;
            }
            base = next;
        }
    }
}

/// Moves a finding from the normal form to the original.
fn place(finding: &mut Finding, normal: &Normal) -> bool {
    let Some((start, end)) = normal.origin(finding.start, finding.end) else { return false };
    (finding.start, finding.end) = (start, end);
    true
}

/// Sorts, and joins what overlaps: the longest of a heap names it.
pub(crate) fn settle(found: &mut Vec<Finding>) {
    found.sort_by(|a, b| (a.start, b.end, &a.what).cmp(&(b.start, a.end, &b.what)));
    let mut out: Vec<Finding> = Vec::with_capacity(found.len());
    let mut longest = 0;
    for finding in found.drain(..) {
        match out.last_mut() {
            Some(last) if finding.start < last.end => {
                if finding.end - finding.start > longest {
                    longest = finding.end - finding.start;
                    last.what = finding.what;
                }
                last.end = last.end.max(finding.end);
            }
            _ => {
                longest = finding.end - finding.start;
                out.push(finding);
            }
        }
    }
    *found = out;
}
