//! Names of a session: prepared statements and portals, by whatever road they were made.
//!
//! A name means what the *server* says it means. What is asked for and not yet confirmed is kept
//! beside what is confirmed: within one segment (all that stands or falls together, up to the next
//! Sync) the latest wish counts, since the server skips what follows when it fails; a wish of an
//! earlier segment may have failed without that, so whoever asks must wait for the answer.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use bulla_core::{Parameter, ParameterValue};
use bulla_sql::{Facts, SearchPath};

use crate::{made::Made, mask::Veil};

/// Prepared statements, and portals, of one session.
pub const NAMES_MAX: usize = 10_000;
/// Bytes of text that the prepared statements of one session may hold in all.
pub const NAMES_BYTES_MAX: usize = 64 << 20;

/// Everything up to a Sync or a simple query stands or falls together.
pub type Segment = u64;

/// A prepared statement, and what it was read to be when it was prepared.
#[derive(Debug)]
pub struct Prepared {
    pub text: Arc<str>,
    pub facts: Arc<Facts>,
    /// What `facts` were read against.
    pub epoch: u64,
    pub path: SearchPath,
    /// How masks made `text` of what the client wrote; none where nothing was hidden.
    pub veil: Option<Arc<Veil>>,
    /// Types of parameters as the client gave them; 0 where it gave none.
    pub types: Vec<u32>,
    /// Types of its output columns as the server described them.
    pub columns: OnceLock<Arc<[u32]>>,
    /// Types of parameters as the server described them.
    pub described: OnceLock<Vec<u32>>,
    /// The command of its last execution.
    pub made: Made,
}

impl Prepared {
    /// The type of the parameter `i`, counted from 0; 0 when it is not known.
    pub fn kind(&self, i: usize) -> u32 {
        let told = self.types.get(i).copied().filter(|kind| *kind != 0);
        let learned = || self.described.get().and_then(|kinds| kinds.get(i)).copied();
        told.or_else(learned).unwrap_or(0)
    }
}

/// A bound portal, or a cursor.
#[derive(Debug)]
pub struct Portal {
    pub statement: Arc<Prepared>,
    pub parameters: Arc<[Parameter]>,
    /// Every value was read.
    pub known: bool,
    /// Formats of the result, as the Bind has them; none where it was too long to be kept.
    pub formats: Option<Arc<[i16]>>,
    /// Survives the transaction.
    pub hold: bool,
}

/// Roughly the bytes that a value holds.
pub trait Weigh {
    fn weight(&self) -> usize;
}

impl Weigh for Prepared {
    fn weight(&self) -> usize {
        self.text.len() + 4 * self.types.len() + 256
    }
}

impl Weigh for Portal {
    fn weight(&self) -> usize {
        let value = |p: &Parameter| match &p.value {
            ParameterValue::Text(text) => text.len(),
            ParameterValue::Bytes(bytes) => bytes.len(),
            ParameterValue::Null | ParameterValue::Large { .. } => 0,
        };
        self.parameters.iter().map(|p| value(p) + 96).sum::<usize>() + 256
    }
}

/// A change of what names mean, once the server confirms it.
#[derive(Debug, Clone)]
pub enum Change<T> {
    Set(Arc<str>, Arc<T>),
    Drop(Arc<str>),
    /// Nothing is known of the name any more.
    Clear,
}

/// What a name means now.
#[derive(Debug)]
pub enum Meaning<T> {
    Known(Arc<T>),
    Nothing,
    /// It depends on an answer that is still to come.
    Wait,
}

#[derive(Debug)]
struct Wish<T> {
    in_flight: usize,
    segment: Segment,
    value: Option<Arc<T>>,
}

/// Names of one kind.
#[derive(Debug)]
pub struct Names<T> {
    settled: HashMap<Arc<str>, Arc<T>>,
    wishes: HashMap<Arc<str>, Wish<T>>,
    /// Changes of all names that are in flight, and the segment of the latest.
    clears: (usize, Segment),
    bytes: usize,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { settled: HashMap::new(), wishes: HashMap::new(), clears: (0, 0), bytes: 0 }
    }
}

impl<T: Weigh> Names<T> {
    pub fn is_empty(&self) -> bool {
        self.settled.is_empty() && self.wishes.is_empty()
    }

    /// Whether there is no room for one more.
    pub fn is_full(&self) -> bool {
        !self.has_room(1)
    }

    pub fn has_room(&self, more: usize) -> bool {
        self.settled.len() + self.wishes.len() + more <= NAMES_MAX && self.bytes < NAMES_BYTES_MAX
    }

    pub fn find(&self, name: &str, now: Segment) -> Meaning<T> {
        if let Some(wish) = self.wishes.get(name) {
            return match (&wish.value, wish.segment == now) {
                (_, false) => Meaning::Wait,
                (Some(value), true) => Meaning::Known(value.clone()),
                (None, true) => Meaning::Nothing,
            };
        }
        match self.clears {
            (0, _) => {
                self.settled.get(name).map_or(Meaning::Nothing, |v| Meaning::Known(v.clone()))
            }
            (_, segment) if segment == now => Meaning::Nothing,
            _ => Meaning::Wait,
        }
    }

    /// The change is on its way.
    pub fn wish(&mut self, change: &Change<T>, now: Segment) {
        let (name, value) = match change {
            Change::Set(name, value) => {
                self.bytes += value.weight();
                (name, Some(value.clone()))
            }
            Change::Drop(name) => (name, None),
            Change::Clear => {
                self.clears = (self.clears.0 + 1, now);
                for wish in self.wishes.values_mut() {
                    (wish.segment, wish.value) = (now, None);
                }
                return;
            }
        };
        let first = Wish { in_flight: 0, segment: now, value: None };
        let wish = self.wishes.entry(name.clone()).or_insert(first);
        wish.in_flight += 1;
        (wish.segment, wish.value) = (now, value);
    }

    /// The change will not happen: it was skipped, failed or refused.
    pub fn forget(&mut self, change: &Change<T>) {
        let name = match change {
            Change::Set(name, value) => {
                self.bytes = self.bytes.saturating_sub(value.weight());
                name
            }
            Change::Drop(name) => name,
            Change::Clear => {
                self.clears.0 = self.clears.0.saturating_sub(1);
                return;
            }
        };
        if let Some(wish) = self.wishes.get_mut(name) {
            wish.in_flight = wish.in_flight.saturating_sub(1);
            if wish.in_flight == 0 {
                self.wishes.remove(name);
            }
        }
    }

    /// The server confirmed it.
    pub fn settle(&mut self, change: Change<T>) {
        self.forget(&change);
        match change {
            Change::Set(name, value) => {
                self.lose(&name);
                self.bytes += value.weight();
                self.settled.insert(name, value);
            }
            Change::Drop(name) => self.lose(&name),
            Change::Clear => self.retain(|_| false),
        }
    }

    /// The server dropped it, whatever else is in flight.
    pub fn lose(&mut self, name: &str) {
        if let Some(value) = self.settled.remove(name) {
            self.bytes = self.bytes.saturating_sub(value.weight());
        }
    }

    /// The server dropped those that `keep` does not hold for.
    pub fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        let mut gone = 0;
        self.settled.retain(|_, value| {
            let stays = keep(value);
            gone += if stays { 0 } else { value.weight() };
            stays
        });
        self.bytes = self.bytes.saturating_sub(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weigh for u32 {
        fn weight(&self) -> usize {
            100
        }
    }

    fn set(name: &str, value: u32) -> Change<u32> {
        Change::Set(name.into(), Arc::new(value))
    }

    fn check(names: &Names<u32>, now: Segment, expect: &str) {
        let found = match names.find("s", now) {
            Meaning::Known(n) => n.to_string(),
            Meaning::Nothing => "nothing".into(),
            Meaning::Wait => "wait".into(),
        };
        assert_eq!(found, expect);
    }

    #[test]
    fn within_a_segment_the_latest_wish_counts() {
        let mut names = Names::default();
        names.wish(&set("s", 1), 1);
        check(&names, 1, "1");
        names.wish(&Change::Drop("s".into()), 1);
        check(&names, 1, "nothing");
        names.wish(&set("s", 2), 1);
        check(&names, 1, "2");
        names.wish(&Change::Clear, 1);
        check(&names, 1, "nothing");
    }

    #[test]
    fn across_segments_only_the_server_knows() {
        let mut names = Names::default();
        names.settle(set("s", 1));
        check(&names, 1, "1");
        names.wish(&set("s", 2), 1);
        check(&names, 2, "wait");
        // It failed: the name still means what it meant.
        names.forget(&set("s", 2));
        check(&names, 2, "1");
        names.wish(&set("s", 3), 2);
        names.settle(set("s", 3));
        check(&names, 3, "3");
        names.wish(&Change::Clear, 3);
        check(&names, 4, "wait");
        names.settle(Change::Clear);
        check(&names, 4, "nothing");
    }

    #[test]
    fn a_session_holds_so_many_names() {
        let mut names = Names::default();
        for n in 0..NAMES_MAX {
            assert!(!names.is_full(), "{n}");
            names.settle(set(&n.to_string(), 1));
        }
        assert!(names.is_full());
        names.settle(Change::Clear);
        assert!(names.is_empty());
    }

    #[test]
    fn a_stale_wish_is_never_an_answer() {
        let mut names = Names::default();
        names.wish(&set("s", 1), 1);
        names.wish(&set("s", 2), 2);
        names.forget(&set("s", 1));
        check(&names, 2, "2");
        check(&names, 3, "wait");
        names.settle(set("s", 2));
        check(&names, 3, "2");
        assert_eq!(names.bytes, 100);
        names.retain(|n| *n != 2);
        check(&names, 3, "nothing");
        assert_eq!(names.bytes, 0);
    }
}
