//! Which sessions are open at a size of the log, so that those which a crash cut off can be closed
//! with the right counts. Kept beside the archive, in two files that are written in turn; rebuilt by
//! reading the archive where neither is of its size and whole.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bulla_tlog::{
    Hash,
    entry::{Counts, Entry, Kind, Mode, ObjectRef, Transcript},
};

use crate::vfs::{Access, Privacy, Vfs, VfsFile};

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

/// The bytes of a [`State`].
fn encode(size: u64, pack: Option<(u64, u64)>, tracker: &Tracker) -> Vec<u8> {
    let mut out = Vec::with_capacity(72 + tracker.sessions.len() * SESSION_BYTES);
    out.extend_from_slice(MAGIC);
    let (pack, pack_len) = pack.unwrap_or((u64::MAX, 0));
    for number in [size, pack, pack_len, u64::from(tracker.run_closed)] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    for (sid, session) in &tracker.sessions {
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

impl State {
    /// None unless it is what [`encode`] writes.
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

const FILE_NAMES: [&str; 2] = ["0.state", "1.state"];
const STATE_BYTES_MAX: u64 = 1 << 30;

/// The two files that hold a state. One belongs to the checkpoint on disk; the other is written
/// over, in place, for the next: a write that a crash cuts off spoils nothing that counts.
pub(crate) struct StateFiles {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    files: [Option<Box<dyn VfsFile>>; 2],
    /// Which is of the checkpoint on disk.
    standing: usize,
}

impl StateFiles {
    pub(crate) fn new(vfs: Arc<dyn Vfs>, dir: &Path) -> Self {
        Self { vfs, dir: dir.to_path_buf(), files: [None, None], standing: 0 }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The state of this size, if there is one. Earlier versions named a file after its size.
    pub(crate) fn read(&mut self, size: u64) -> io::Result<Option<State>> {
        for name in self.names()? {
            let bytes = self.vfs.read(&self.dir.join(&name), STATE_BYTES_MAX)?;
            let state = State::decode(&bytes).filter(|state| state.size == size);
            if let Some(state) = state {
                self.standing = FILE_NAMES.iter().position(|own| *own == name).unwrap_or(0);
                return Ok(Some(state));
            }
        }
        Ok(None)
    }

    fn names(&self) -> io::Result<impl Iterator<Item = String> + use<>> {
        let names = self.vfs.list(&self.dir)?.into_iter();
        Ok(names.filter(|name| name.ends_with(".state")))
    }

    /// Writes the state that the next checkpoint needs, durably.
    pub(crate) fn write(
        &mut self,
        size: u64,
        pack: Option<(u64, u64)>,
        tracker: &Tracker,
    ) -> io::Result<()> {
        let bytes = encode(size, pack, tracker);
        let file = self.next()?;
        file.pwrite(&bytes, 0)?;
        if file.size()? > bytes.len() as u64 {
            file.truncate(bytes.len() as u64)?;
        }
        file.fdatasync()
    }

    /// The file that may be written over.
    fn next(&mut self) -> io::Result<&dyn VfsFile> {
        let next = 1 - self.standing;
        let (Some(file), Some(name)) = (self.files.get_mut(next), FILE_NAMES.get(next)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if file.is_none() {
            let path = self.dir.join(name);
            let opened = match self.vfs.open(&path, Access::Write) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let made = self.vfs.create(&path, Privacy::Private)?;
                    self.vfs.sync_dir(&self.dir)?;
                    made
                }
                other => other?,
            };
            *file = Some(opened);
        }
        file.as_deref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The checkpoint of the state that was written last is on disk.
    pub(crate) fn stands(&mut self) {
        self.standing = 1 - self.standing;
    }

    /// Removes what earlier versions left. What cannot be removed is left.
    pub(crate) fn tidy(&self) {
        let Ok(names) = self.names() else { return };
        for name in names.filter(|name| !FILE_NAMES.contains(&name.as_str())) {
            let _ = self.vfs.remove(&self.dir.join(name));
        }
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
    use crate::vfs::sim::{Fault, Plan, SimVfs, Survive, Torn};

    #[test]
    fn a_state_reads_back_and_no_byte_may_change() {
        let mut state = State { size: 9, pack: Some((3, 400)), ..State::default() };
        let mut entry = Entry::new(Kind::Open, 1, 2, [3; 16]);
        entry.session = Some(bulla_tlog::entry::Link { sid: [5; 16], seq: 0, prev: None });
        state.tracker.observe(Hash::of(b"leaf"), &entry);
        let bytes = encode(state.size, state.pack, &state.tracker);
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

    fn tracker(sessions: u8) -> Tracker {
        let mut tracker = Tracker::default();
        for sid in 0..sessions {
            let mut entry = Entry::new(Kind::Open, 1, 2, [3; 16]);
            entry.session = Some(bulla_tlog::entry::Link { sid: [sid; 16], seq: 0, prev: None });
            tracker.observe(Hash::of(&[sid]), &entry);
        }
        tracker
    }

    #[test]
    fn the_state_of_the_checkpoint_outlives_a_crash_while_the_next_is_written() {
        let dir = Path::new("/state");
        let new = |vfs: &SimVfs| StateFiles::new(Arc::new(vfs.clone()), dir);
        let vfs = SimVfs::new();
        vfs.create_dir(dir, Privacy::Private).unwrap();
        vfs.sync_dir(Path::new("/")).unwrap();
        // Shorter after longer: nothing of the longer may stay behind it.
        for (size, sessions) in [(1, 9), (2, 60), (3, 2), (4, 60), (5, 0), (6, 2)] {
            let mut files = new(&vfs);
            assert_eq!(files.read(size - 1).unwrap().is_some(), size > 1, "{size}");
            for at in 0..4 {
                for (torn, survive) in [
                    (Torn::Prefix(20), Survive::Nothing),
                    (Torn::Sectors(0b101), Survive::Some(at)),
                    (Torn::Prefix(usize::MAX), Survive::All),
                ] {
                    let cut = vfs.after_crash(Survive::Nothing);
                    let mut files = new(&cut);
                    files.read(size - 1).unwrap();
                    cut.plan(Some(Plan { path: "/state".into(), at, fault: Fault::Crash(torn) }));
                    let _ = files.write(size, None, &tracker(sessions));
                    let found = new(&cut.after_crash(survive)).read(size - 1).unwrap();
                    assert_eq!(found.is_some(), size > 1, "{size}, operation {at}");
                }
            }
            files.write(size, Some((1, size)), &tracker(sessions)).unwrap();
            files.stands();
            let found = new(&vfs.after_crash(Survive::Nothing)).read(size).unwrap().unwrap();
            assert_eq!(found.tracker.sessions.len(), usize::from(sessions));
            assert_eq!(vfs.list(dir).unwrap().len(), (size as usize).min(2));
        }
    }

    #[test]
    fn a_state_of_an_earlier_version_is_read_and_tidied_away() {
        let vfs = SimVfs::new();
        let old = Path::new("/00000000000000000007.state");
        let file = vfs.create(old, Privacy::Private).unwrap();
        file.pwrite(&encode(7, None, &tracker(3)), 0).unwrap();
        let mut files = StateFiles::new(Arc::new(vfs.clone()), Path::new("/"));
        assert_eq!(files.read(8).unwrap(), None);
        assert_eq!(files.read(7).unwrap().unwrap().tracker.sessions.len(), 3);
        files.write(8, None, &tracker(1)).unwrap();
        assert!(vfs.exists(old).unwrap(), "until there is a checkpoint of the next");
        files.stands();
        files.tidy();
        assert_eq!(vfs.list(Path::new("/")).unwrap(), ["1.state"]);
    }
}
