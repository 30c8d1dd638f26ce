//! What was recorded, what came out at both ends, and what must hold between the two. Knows
//! nothing of gate, road or wire: bytes, entries and their order are enough.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bulla_core::{Digest, Receipt, SessionId};
use bytes::Bytes;

use crate::target::CELL;

/// Rows that the policy on `audit` lets through.
pub const LIMITED_ROWS_MAX: u64 = 3;
/// Most bytes that a machine may hold of a unit that has not ended, and that may wait for a side.
pub const HELD_BYTES_MAX: usize = 17 << 20;
/// Clearances that may be outstanding.
pub const TICKETS_MAX: usize = 10_000;

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub what: String,
}

fn broken(invariant: &'static str, what: String) -> Result<(), Violation> {
    Err(Violation { invariant, what })
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Intent {
        pure: bool,
        grant: Option<(Arc<str>, Digest)>,
        /// A policy lets only so many of its rows through.
        limited: bool,
    },
    /// Further input for the target.
    More,
    /// Bytes for the client.
    Response,
    Refusal,
    Hold {
        ask: Arc<str>,
        digest: Digest,
    },
    Other,
}

/// One append.
#[derive(Debug, Clone)]
pub struct Rec {
    pub kind: Kind,
    pub number: u64,
    pub bytes: Bytes,
    /// The id that a refusal shows.
    pub event: String,
    pub durable: bool,
    pub failed: bool,
}

/// Where in the recorded stream a target may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Walk {
    /// The first entry that has not been sent.
    next: usize,
    within: Option<(Source, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Rec(usize),
    Constant(usize),
}

pub struct SessionModel {
    pub id: SessionId,
    strict: bool,
    pub recs: Vec<Rec>,
    /// The record failed under it, so that its last words stand nowhere.
    pub record_failed: bool,
    walks: Vec<Walk>,
    to_target: usize,
    /// Where the client is: entry, and bytes of it.
    client: (usize, usize),
    pub to_client: Vec<u8>,
    last_words: Vec<u8>,
    heard: usize,
    claims: String,
}

#[derive(Default)]
pub struct Model {
    pub sessions: Vec<SessionModel>,
    /// What an approver meant, by ask.
    approved: HashMap<Arc<str>, Digest>,
    spent: HashMap<Arc<str>, (usize, u64)>,
    pub receipts: Vec<Receipt>,
    /// Constants that the wire may say to a target. Their type proves that no client wrote them.
    pub constants: Vec<&'static [u8]>,
    /// Bytes that may appear nowhere.
    pub secrets: Vec<Vec<u8>>,
    first: Option<Violation>,
    pub grants_spent: u64,
    /// Appends that a full disk turned away.
    pub turned_away: u64,
}

impl Model {
    pub fn open(&mut self, id: SessionId, strict: bool, open: Receipt, claims: String) -> usize {
        self.receipts.push(open);
        self.sessions.push(SessionModel {
            id,
            strict,
            recs: Vec::new(),
            record_failed: false,
            walks: vec![Walk { next: 0, within: None }],
            to_target: 0,
            client: (0, 0),
            to_client: Vec::new(),
            last_words: Vec::new(),
            heard: 0,
            claims,
        });
        self.sessions.len() - 1
    }

    pub fn record_failed(&mut self, session: usize) {
        self.sessions[session].record_failed = true;
    }

    pub fn approved(&mut self, ask: &Arc<str>, digest: Digest) {
        self.approved.insert(ask.clone(), digest);
    }

    pub fn append(&mut self, session: usize, rec: Rec) -> usize {
        let at = self.sessions[session].recs.len();
        if !rec.failed {
            let checked = self.grant(session, &rec).and_then(|()| self.limits(session, &rec));
            self.keep(checked);
        }
        self.sessions[session].recs.push(rec);
        at
    }

    pub fn durable(&mut self, session: usize, rec: usize, receipt: Receipt) {
        self.receipts.push(receipt);
        self.sessions[session].recs[rec].durable = true;
    }

    /// The first violation stands.
    fn keep(&mut self, checked: Result<(), Violation>) {
        if let Err(violation) = checked {
            self.first.get_or_insert(violation);
        }
    }

    pub fn violation(&self) -> Option<&Violation> {
        self.first.as_ref()
    }

    /// I4, when an intent spends a grant.
    fn grant(&mut self, session: usize, rec: &Rec) -> Result<(), Violation> {
        let Kind::Intent { grant: Some((ask, digest)), .. } = &rec.kind else { return Ok(()) };
        let who = (session, rec.number);
        if let Some(before) = self.spent.insert(ask.clone(), who) {
            return broken("I4", format!("grant {ask} of {before:?} spent again on {who:?}"));
        }
        if self.approved.get(ask) != Some(digest) {
            return broken("I4", format!("{who:?} was sent on {ask}, approved for another digest"));
        }
        let held = self.sessions[session].recs.iter().any(|held| {
            held.number == rec.number
                && held.kind == Kind::Hold { ask: ask.clone(), digest: *digest }
        });
        if !held {
            return broken("I4", format!("{who:?} was sent on {ask}, which it never asked for"));
        }
        self.grants_spent += 1;
        Ok(())
    }

    /// I6, for rows that a policy limits.
    fn limits(&self, session: usize, rec: &Rec) -> Result<(), Violation> {
        if rec.kind != Kind::Response || rec.number == 0 {
            return Ok(());
        }
        let recs = &self.sessions[session].recs;
        let limited = recs.iter().any(|r| {
            r.number == rec.number && matches!(r.kind, Kind::Intent { limited: true, .. })
        });
        if !limited {
            return Ok(());
        }
        let of = recs.iter().filter(|r| r.number == rec.number && r.kind == Kind::Response);
        let bytes: Vec<u8> = of.chain([rec]).flat_map(|r| r.bytes.to_vec()).collect();
        let rows = rows(&bytes);
        if rows > LIMITED_ROWS_MAX {
            return broken("I6", format!("{rows} rows of command {} passed", rec.number));
        }
        Ok(())
    }

    /// I6, for what grows.
    pub fn sizes(&mut self, session: usize, held: usize, window: usize, tickets: usize) {
        let big = held > HELD_BYTES_MAX || window > HELD_BYTES_MAX || tickets > TICKETS_MAX;
        if big {
            let what = format!("session {session}: {held} held, {window} waiting, {tickets}");
            self.keep(broken("I6", what));
        }
    }

    /// A target received bytes: I1, I3 (nothing that was refused), I7.
    pub fn target_got(&mut self, session: usize, bytes: &[u8]) {
        let checked = self.walk(session, bytes).and_then(|()| self.secret("a target", bytes));
        self.keep(checked);
    }

    fn walk(&mut self, at: usize, bytes: &[u8]) -> Result<(), Violation> {
        let constants = self.constants.clone();
        let session = &mut self.sessions[at];
        for byte in bytes {
            let mut walks = Vec::new();
            let mut waits = None;
            for walk in &session.walks {
                for (walk, of) in session.starts(*walk, &constants) {
                    let Some((source, offset)) = walk.within else { continue };
                    if of.get(offset) != Some(byte) {
                        continue;
                    }
                    if let Source::Rec(rec) = source
                        && offset == 0
                        && !session.may_be_sent(rec)
                    {
                        waits = Some(rec);
                        continue;
                    }
                    let next = match (offset + 1 == of.len(), source) {
                        (false, _) => Walk { within: Some((source, offset + 1)), ..walk },
                        (true, Source::Rec(rec)) => Walk { next: rec + 1, within: None },
                        (true, Source::Constant(_)) => Walk { within: None, ..walk },
                    };
                    if !walks.contains(&next) {
                        walks.push(next);
                    }
                }
            }
            if walks.is_empty() {
                let n = session.to_target;
                let why = match waits {
                    Some(rec) => format!("entry {rec} was not durable"),
                    None => "no intent says so".into(),
                };
                return broken("I1", format!("session {at}: byte {n} to the target: {why}"));
            }
            session.walks = walks;
            session.to_target += 1;
        }
        Ok(())
    }

    /// A client received bytes: I2, the second half of I1, I7.
    pub fn client_got(&mut self, session: usize, bytes: &[u8]) {
        let checked = self.deliver(session, bytes).and_then(|()| self.secret("a client", bytes));
        self.keep(checked);
    }

    fn deliver(&mut self, at: usize, bytes: &[u8]) -> Result<(), Violation> {
        let session = &mut self.sessions[at];
        for (i, byte) in bytes.iter().enumerate() {
            let n = session.to_client.len();
            let Some((rec, offset)) = session.next_to_client() else {
                if session.record_failed {
                    session.last_words.extend_from_slice(&bytes[i..]);
                    return session.words_are_own(at);
                }
                return broken("I2", format!("session {at}: byte {n} to the client: no evidence"));
            };
            let found = &session.recs[rec];
            if found.bytes[offset] != *byte {
                if session.record_failed {
                    session.last_words.extend_from_slice(&bytes[i..]);
                    return session.words_are_own(at);
                }
                let what = format!("session {at}: byte {n} to the client is not entry {rec}'s");
                return broken("I2", what);
            }
            if session.strict && !found.durable {
                if session.record_failed {
                    session.last_words.extend_from_slice(&bytes[i..]);
                    return session.words_are_own(at);
                }
                let what = format!("session {at}: byte {n} to the client: entry {rec} not durable");
                return broken("I2", what);
            }
            let number = found.number;
            let intent = session.recs[..rec].iter().find(|r| {
                r.number == number && number > 0 && matches!(r.kind, Kind::Intent { .. })
            });
            if offset == 0 && session.strict && intent.is_some_and(|r| !r.durable) {
                let what = format!("session {at}: an answer to {number} before its intent was");
                return broken("I1", what);
            }
            session.client = (rec, offset + 1);
            session.to_client.push(*byte);
        }
        Ok(())
    }

    /// I3: a client heard of refusals.
    pub fn refused(&mut self, at: usize, refusals: &[(String, bool)]) {
        let session = &mut self.sessions[at];
        let mut checked = Ok(());
        for (detail, fatal) in refusals.iter().skip(session.heard) {
            let event = detail.split("\"event\":\"").nth(1).and_then(|rest| rest.split('"').next());
            let known = event.is_some_and(|event| {
                let entry = session.recs.iter().find(|rec| rec.event == event);
                entry.is_some_and(|rec| rec.kind == Kind::Refusal && !rec.failed)
            });
            if !known && !fatal && !session.record_failed {
                checked = broken("I3", format!("session {at}: {detail} has no entry"));
            }
        }
        session.heard = refusals.len();
        self.keep(checked);
    }

    /// I3: what was refused has no intent.
    pub fn refusals_sent_nothing(&mut self) {
        let mut checked = Ok(());
        for (at, session) in self.sessions.iter().enumerate() {
            let mut refused = BTreeMap::new();
            for rec in session.recs.iter().filter(|rec| !rec.failed) {
                match rec.kind {
                    Kind::Refusal => {
                        refused.insert(rec.number, ());
                    }
                    Kind::Intent { .. } if refused.contains_key(&rec.number) => {
                        let what = format!("session {at}: {} was refused and sent", rec.number);
                        checked = broken("I3", what);
                    }
                    _ => {}
                }
            }
        }
        self.keep(checked);
    }

    /// I7, for one place.
    pub fn secret(&self, place: &str, bytes: &[u8]) -> Result<(), Violation> {
        for secret in &self.secrets {
            if bytes.windows(secret.len()).any(|window| window == &secret[..]) {
                return broken("I7", format!("a secret stands in {place}"));
            }
        }
        Ok(())
    }

    /// I7, for everything that was handed to the record.
    pub fn secrets_in_the_record(&mut self) {
        let mut checked = Ok(());
        for session in &self.sessions {
            let claims = self.secret("the claims of a session", session.claims.as_bytes());
            checked = checked.and(claims);
            for rec in &session.recs {
                checked = checked.and(self.secret("an entry", &rec.bytes));
            }
        }
        self.keep(checked);
    }

    /// I5, for one session: what its client received is what the record replays.
    pub fn replayed(&mut self, at: usize, replay: &[u8], to_target: &[u8]) {
        let session = &self.sessions[at];
        let mut checked = Ok(());
        if session.strict && !replay.starts_with(&session.to_client) {
            let what = format!("session {at}: what was delivered is not what the log replays");
            checked = broken("I5", what);
        }
        // Every intent that was durable is there, byte for byte.
        let mut durable = Vec::new();
        for rec in &session.recs {
            if matches!(rec.kind, Kind::Intent { .. } | Kind::More) && rec.durable {
                durable.extend_from_slice(&rec.bytes);
            }
        }
        if !to_target.starts_with(&durable) {
            checked = broken("I5", format!("session {at}: a durable intent is lost"));
        }
        self.keep(checked);
    }

    pub fn lost(&mut self, what: String) {
        self.keep(broken("I5", what));
    }
}

impl SessionModel {
    /// Every way to go on from here, with the bytes that it goes through.
    fn starts<'a>(&'a self, walk: Walk, constants: &'a [&'static [u8]]) -> Vec<(Walk, &'a [u8])> {
        let bytes = |source| match source {
            Source::Rec(rec) => &self.recs[rec].bytes[..],
            Source::Constant(constant) => constants[constant],
        };
        if let Some((source, _)) = walk.within {
            return vec![(walk, bytes(source))];
        }
        let mut sources: Vec<Source> = (0..constants.len()).map(Source::Constant).collect();
        for at in walk.next..self.recs.len() {
            let rec = &self.recs[at];
            let goes_up = matches!(rec.kind, Kind::Intent { .. } | Kind::More);
            // Withdrawn between approval and sending: an intent, then a refusal, and nothing went.
            let withdrawn = self.recs.iter().skip(at).any(|later| {
                later.kind == Kind::Refusal && later.number == rec.number && !later.failed
            });
            if !goes_up || rec.bytes.is_empty() || withdrawn {
                continue;
            }
            // A read may be on its way when its intent turns out to have failed.
            if !rec.failed || self.may_be_sent(at) {
                sources.push(Source::Rec(at));
            }
            if !rec.failed {
                break;
            }
        }
        let start = |source| (Walk { within: Some((source, 0)), ..walk }, bytes(source));
        sources.into_iter().map(start).collect()
    }

    fn may_be_sent(&self, rec: usize) -> bool {
        let rec = &self.recs[rec];
        let pure = matches!(rec.kind, Kind::Intent { pure: true, .. });
        rec.durable || pure || (!self.strict && rec.kind != Kind::More)
    }

    /// The entry and byte that the client gets next.
    fn next_to_client(&self) -> Option<(usize, usize)> {
        let (mut rec, mut offset) = self.client;
        loop {
            let found = self.recs.get(rec)?;
            if found.kind == Kind::Response && !found.failed && offset < found.bytes.len() {
                return Some((rec, offset));
            }
            (rec, offset) = (rec + 1, 0);
        }
    }

    /// Words that stand in no record may hold no data.
    fn words_are_own(&self, at: usize) -> Result<(), Violation> {
        let cell = CELL.as_bytes();
        if self.last_words.windows(cell.len()).any(|window| window == cell) {
            return broken("I2", format!("session {at}: data in its last words"));
        }
        Ok(())
    }
}

/// DataRow messages.
fn rows(mut bytes: &[u8]) -> u64 {
    let mut rows = 0;
    while let (Some(kind), Some(length)) = (bytes.first(), bytes.get(1..5)) {
        let length: [u8; 4] = length.try_into().unwrap_or_default();
        rows += u64::from(*kind == b'D');
        let total = 1 + usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX - 1);
        bytes = bytes.get(total..).unwrap_or_default();
    }
    rows
}
