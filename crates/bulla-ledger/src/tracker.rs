//! Which sessions are open at a size of the log, so that those which a crash cut off can be closed
//! with the right counts. Kept beside the archive, in a file for each size; rebuilt by reading the
//! archive where that file is missing or broken.

use std::collections::BTreeMap;

use bulla_tlog::{
    Hash,
    entry::{Counts, Entry, Kind, Mode, ObjectRef, Transcript},
};

/// A session whose close has not been seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenSession {
    pub seq: u64,
    pub leaf: Hash,
    pub mode: Mode,
    pub counts: Counts,
    /// None where the session's first entries were not read again after a restart.
    pub transcript: Option<Transcript>,
}

/// State of the sessions after some entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Tracker {
    pub sessions: BTreeMap<[u8; 16], OpenSession>,
    /// The last entry closed the run.
    pub run_closed: bool,
}

impl Tracker {
    pub(crate) fn observe(&mut self, leaf: Hash, entry: &Entry) {
        self.run_closed = entry.kind == Kind::Close && entry.session.is_none();
        let Some(link) = entry.session else { return };
        if entry.kind == Kind::Close {
            self.sessions.remove(&link.sid);
            return;
        }
        // Refused before it was opened: a chain of one.
        if entry.kind == Kind::Refusal && link.seq == 0 {
            return;
        }
        let session = self.sessions.entry(link.sid).or_insert_with(|| OpenSession {
            seq: link.seq,
            leaf,
            mode: entry.mode,
            counts: Counts::default(),
            transcript: Some(Transcript::new(&link.sid)),
        });
        (session.seq, session.leaf) = (link.seq, leaf);
        session.counts.observe(entry);
        if let Some(transcript) = &mut session.transcript {
            entry.objs.iter().for_each(|object: &ObjectRef| transcript.push(object));
        }
    }
}

/// What the archive keeps beside a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct State {
    /// Size of the log that this belongs to.
    pub size: u64,
    /// The pack that is being filled: index of its first entry, and its length.
    pub pack: Option<(u64, u64)>,
    pub tracker: Tracker,
}

const MAGIC: &[u8; 8] = b"bullast1";
const SESSION_BYTES: usize = 16 + 8 + 32 + 1 + 5 * 8;

impl State {
    pub(crate) fn file_name(size: u64) -> String {
        format!("{size:020}.state")
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.tracker.sessions.len() * SESSION_BYTES);
        out.extend_from_slice(MAGIC);
        let (pack, pack_len) = self.pack.unwrap_or((u64::MAX, 0));
        for number in [self.size, pack, pack_len, u64::from(self.tracker.run_closed)] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        for (sid, session) in &self.tracker.sessions {
            out.extend_from_slice(sid);
            out.extend_from_slice(&session.seq.to_be_bytes());
            out.extend_from_slice(&session.leaf.0);
            out.push(session.mode.code() as u8);
            let c = &session.counts;
            for count in [c.commands, c.denied, c.held, c.rows, c.bytes] {
                out.extend_from_slice(&count.to_be_bytes());
            }
        }
        let check = Hash::of(&out);
        out.extend_from_slice(&check.0);
        out
    }

    /// None unless it is what [`State::encode`] writes.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, check) = bytes.split_last_chunk::<32>()?;
        if Hash::of(body).0 != *check {
            return None;
        }
        let mut at = body.strip_prefix(MAGIC)?;
        let size = number(&mut at)?;
        let pack = (number(&mut at)?, number(&mut at)?);
        let mut tracker = Tracker { run_closed: number(&mut at)? == 1, ..Tracker::default() };
        while !at.is_empty() {
            let sid = take(&mut at)?;
            let seq = number(&mut at)?;
            let leaf = Hash(take(&mut at)?);
            let [mode] = take(&mut at)?;
            let mode = Mode::from_code(u64::from(mode))?;
            let counts = Counts {
                commands: number(&mut at)?,
                denied: number(&mut at)?,
                held: number(&mut at)?,
                rows: number(&mut at)?,
                bytes: number(&mut at)?,
            };
            let session = OpenSession { seq, leaf, mode, counts, transcript: None };
            tracker.sessions.insert(sid, session);
        }
        Some(Self { size, pack: (pack.0 != u64::MAX).then_some(pack), tracker })
    }
}

fn take<const N: usize>(at: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = at.split_first_chunk::<N>()?;
    *at = rest;
    Some(*head)
}

fn number(at: &mut &[u8]) -> Option<u64> {
    take(at).map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_reads_back_and_no_byte_may_change() {
        let mut state = State { size: 9, pack: Some((3, 400)), ..State::default() };
        let mut entry = Entry::new(Kind::Open, 1, 2, [3; 16]);
        entry.session = Some(bulla_tlog::entry::Link { sid: [5; 16], seq: 0, prev: None });
        state.tracker.observe(Hash::of(b"leaf"), &entry);
        let bytes = state.encode();
        let mut back = State::decode(&bytes).unwrap();
        back.tracker.sessions.get_mut(&[5; 16]).unwrap().transcript =
            Some(Transcript::new(&[5; 16]));
        assert_eq!(back, state);
        for i in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[i] ^= 1;
            assert_eq!(State::decode(&changed), None, "byte {i}");
        }
    }
}
