//! Completeness: runs of the gateway, silences, and the chain of every session.

use std::collections::HashMap;

use super::finding::{Finding, Findings, What};
use crate::{
    entry::{Counts, Entry, Kind, Link, Transcript},
    hash::Hash,
};

/// Sessions that may be open at once before the verifier gives up following them.
pub const SESSIONS_OPEN_MAX: usize = 1 << 20;

/// How the sessions ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SessionTotals {
    pub closed: u64,
    /// Refused before they were opened.
    pub refused: u64,
    /// Open, in the run that is still going on.
    pub live: u64,
    /// Cut off by the end of their run, which a recover has noted.
    pub interrupted: u64,
}

struct Session {
    boot: [u8; 16],
    /// Number and predecessor of the next entry; none after a hole in the log.
    next: Option<(u64, Hash)>,
    /// None if a part of the session was not seen.
    totals: Option<(Counts, Transcript)>,
    last: u64,
}

#[derive(Default)]
pub(super) struct Completeness {
    silence_ns_max: u64,
    boot: Option<[u8; 16]>,
    mono_ns_max: u64,
    run_closed: bool,
    /// The entry that began a run after one that was not closed, until a recover is seen.
    unrecovered: Option<u64>,
    recovered: Option<u64>,
    last_hole: Option<u64>,
    sessions: HashMap<[u8; 16], Session>,
    too_many: bool,
    pub totals: SessionTotals,
    pub runs: u64,
    /// Wall clock of the first and the last entry.
    pub time_ns: Option<(u64, u64)>,
}

impl Completeness {
    pub fn new(silence_ns_max: u64) -> Self {
        Self { silence_ns_max, ..Self::default() }
    }

    /// An entry that is not there or cannot be trusted: what follows is not held against the log.
    pub fn hole(&mut self, index: u64) {
        if self.last_hole.is_none_or(|last| index != last + 1) {
            self.sessions.values_mut().for_each(|session| {
                session.next = None;
                session.totals = None;
            });
            self.boot = None;
            self.unrecovered = None;
        }
        self.last_hole = Some(index);
    }

    pub fn entry(&mut self, index: u64, leaf: Hash, entry: &Entry, out: &mut Findings) {
        let first = self.time_ns.map_or(entry.t_wall_ns, |(first, _)| first);
        self.time_ns = Some((first, entry.t_wall_ns));
        if (index == 0) != (entry.kind == Kind::Genesis) {
            out.push(Finding::new(What::Genesis).at(index));
        }
        self.run(index, entry, out);
        if let Some(link) = entry.session {
            self.session(index, leaf, link, entry, out);
        }
    }

    fn run(&mut self, index: u64, entry: &Entry, out: &mut Findings) {
        if self.boot == Some(entry.boot) {
            let silence = entry.t_mono_ns.saturating_sub(self.mono_ns_max);
            if silence > self.silence_ns_max {
                let ms = silence / 1_000_000;
                out.push(Finding::new(What::Silence { ms }).at(index));
            }
            self.mono_ns_max = self.mono_ns_max.max(entry.t_mono_ns);
            if self.run_closed {
                out.push(Finding::new(What::RunClosed).at(index));
            }
        } else {
            let after_hole = self.boot.is_none() && index != 0;
            let announces = matches!(entry.kind, Kind::Genesis | Kind::Boot | Kind::Recover);
            if !announces && !after_hole && index != 0 {
                out.push(Finding::new(What::RunNotAnnounced).at(index));
            }
            self.report_unrecovered(out);
            if self.boot.is_some() && !self.run_closed {
                self.unrecovered = Some(index);
            }
            self.boot = Some(entry.boot);
            self.mono_ns_max = entry.t_mono_ns;
            self.run_closed = false;
            self.runs += 1;
        }
        match entry.kind {
            Kind::Recover => {
                self.unrecovered = None;
                self.recovered = Some(index);
            }
            Kind::Open => self.report_unrecovered(out),
            Kind::Close if entry.session.is_none() => self.run_closed = true,
            _ => {}
        }
    }

    fn report_unrecovered(&mut self, out: &mut Findings) {
        if let Some(index) = self.unrecovered.take() {
            out.push(Finding::new(What::RunNotRecovered).at(index));
        }
    }

    fn session(&mut self, index: u64, leaf: Hash, link: Link, entry: &Entry, out: &mut Findings) {
        let finding = |what| Finding::new(what).at(index).of_session(link.sid);
        let Some(session) = self.sessions.get_mut(&link.sid) else {
            return self.unknown_session(index, leaf, link, entry, out);
        };
        if let Some((seq, prev)) = session.next {
            let expected = (link.seq, link.prev) == (seq, Some(prev));
            if link.seq != seq {
                out.push(finding(What::SessionSeq { expected: seq, found: link.seq }));
            } else if !expected {
                out.push(finding(What::SessionPrev));
            }
            if !expected {
                session.totals = None;
            }
        }
        if session.boot != entry.boot && entry.kind != Kind::Close {
            out.push(finding(What::SessionAcrossRuns(entry.kind)));
        }
        session.next = link.seq.checked_add(1).map(|next| (next, leaf));
        session.last = index;
        if let Some((counts, transcript)) = &mut session.totals {
            counts.observe(entry);
            entry.objs.iter().for_each(|object| transcript.push(object));
        }
        if entry.kind != Kind::Close {
            return;
        }
        self.totals.closed += 1;
        let Some(session) = self.sessions.remove(&link.sid) else { return };
        match session.totals {
            // The chain has been found broken, and said so; its sums mean nothing.
            None => {}
            Some((counts, transcript)) => {
                if entry.counts != Some(counts) {
                    out.push(finding(What::SessionCounts));
                }
                if entry.transcript.is_some_and(|hash| hash != transcript.hash()) {
                    out.push(finding(What::SessionTranscript));
                }
            }
        }
    }

    /// The first entry that is seen of a session.
    fn unknown_session(
        &mut self,
        index: u64,
        leaf: Hash,
        link: Link,
        entry: &Entry,
        out: &mut Findings,
    ) {
        let finding = |what| Finding::new(what).at(index).of_session(link.sid);
        let opens = entry.kind == Kind::Open;
        if entry.kind == Kind::Refusal && link.seq == 0 {
            self.totals.refused += 1;
            return;
        }
        if !opens && self.last_hole.is_none() {
            out.push(finding(What::SessionNotOpened));
        }
        if entry.kind == Kind::Close {
            self.totals.closed += 1;
            return;
        }
        if self.sessions.len() >= SESSIONS_OPEN_MAX {
            if !std::mem::replace(&mut self.too_many, true) {
                out.push(finding(What::TooManySessions));
            }
            return;
        }
        let totals = opens.then(|| {
            let (mut counts, mut transcript) = (Counts::default(), Transcript::new(&link.sid));
            counts.observe(entry);
            entry.objs.iter().for_each(|object| transcript.push(object));
            (counts, transcript)
        });
        let next = link.seq.checked_add(1).map(|next| (next, leaf));
        self.sessions.insert(link.sid, Session { boot: entry.boot, next, totals, last: index });
    }

    pub fn finish(&mut self, out: &mut Findings) {
        self.report_unrecovered(out);
        let mut open: Vec<_> = std::mem::take(&mut self.sessions).into_iter().collect();
        open.sort_by_key(|(_, session)| session.last);
        for (sid, session) in open {
            if Some(session.boot) == self.boot && !self.run_closed {
                self.totals.live += 1;
            } else if self.recovered.is_some_and(|at| at > session.last) {
                self.totals.interrupted += 1;
            } else if self.last_hole.is_none_or(|at| at < session.last) {
                let finding = Finding::new(What::SessionNotClosed).at(session.last);
                out.push(finding.of_session(sid));
            }
        }
    }
}
