//! Reads the record back: entries, sessions, exact bytes, proofs. Works on an archive directory, on
//! a copy of one far from its gateway, and beside a running gateway, whose newest entries are then
//! read from the journal.
//!
//! What is read is checked as it is used: the checkpoint's signature, the chain of a session, the
//! seals and commitments. That nothing was left out of the log is for [`crate::verify_dir`] to say.
//!
//! Everything in a private part was chosen by clients and targets: whoever prints it to a terminal
//! MUST escape it.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bulla_core::{Flow, SessionId};
use bulla_tlog::{
    Hash,
    checkpoint::SignedCheckpoint,
    entry::{Encoding, Entry, Kind, ObjectRef},
    note::Vkey,
    proof::LogProof,
    seal::{OBJECT_BYTES_MAX, Opener, SealError},
    tile::{BundleId, TILE_WIDTH},
    tree::TileHashes,
};
use parking_lot::Mutex;

use crate::{
    aligned::PAGE,
    archive::{ArchiveError, CHECKPOINT_BYTES_MAX, TileFiles, read_bundle, read_file},
    detail::{Detail, DetailError},
    index::{self, CHUNK_ENTRIES, RECORD_BYTES, Record},
    journal::{
        recover::{RecoverError, Tail},
        segment,
    },
    keys::{KeyError, KeyReader, Wrapped, log_vkey, wrapped_session},
    objects::{Found, Objects},
    vfs::{Access, RealVfs, Vfs},
};

/// Times that a reader starts anew when the archive moves on under it.
const ATTEMPTS: usize = 5;
/// Bundles kept in memory.
const BUNDLES_CACHED_MAX: usize = 64;
/// Longest private part that is read out of objects.
const DETAIL_BYTES_MAX: usize = 256 << 20;

/// Why something cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("`{}`: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("there is no checkpoint in `{}`", .0.display())]
    NoCheckpoint(PathBuf),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Journal(#[from] RecoverError),
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error("no keys were given, so the private part of session {0} cannot be read")]
    NoKeys(SessionId),
    #[error("entry {0} is beyond the end of the log")]
    BeyondEnd(u64),
    #[error("entry {0} is not covered by a checkpoint yet")]
    NotPublished(u64),
    #[error("there is no session {0} in the log")]
    NoSession(SessionId),
    #[error("session {session}: entry {index} does not continue the session's chain")]
    Chain { session: SessionId, index: u64 },
    #[error("entry {index}: {error}")]
    Seal { index: u64, error: SealError },
    #[error("entry {index}: {error}")]
    Detail { index: u64, error: DetailError },
    #[error("entry {index}: object {name} is missing")]
    ObjectMissing { index: u64, name: Hash },
    #[error("entry {index}: object {name} cannot be decompressed")]
    ObjectEncoding { index: u64, name: Hash },
    #[error("entry {index}: its private part goes on in objects that are not there")]
    Overflow { index: u64 },
    #[error("prove entry {index}: {why}")]
    Prove { index: u64, why: String },
    #[error("the archive moved on while it was read; try again")]
    Moving,
    /// The caller's sink failed.
    #[error("write: {0}")]
    Sink(io::Error),
}

/// Where to read.
#[derive(Debug, Clone, Default)]
pub struct ReaderConfig {
    /// The archive directory, or a copy.
    pub archive: PathBuf,
    /// The keys directory, or a copy. Without it clear parts alone can be read.
    pub keys: Option<PathBuf>,
    /// The journal of a gateway that may be running, for what is not archived yet.
    pub journal: Option<PathBuf>,
    /// Public keys of the log. Where there are none, the one in `keys` serves.
    pub log: Vec<Vkey>,
}

impl ReaderConfig {
    /// All there is under a ledger's directory.
    pub fn of_ledger(dir: &Path) -> Self {
        Self {
            archive: dir.join("archive"),
            keys: Some(dir.join("keys")),
            journal: Some(dir.join("journal")),
            log: vec![],
        }
    }
}

/// One entry with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntry {
    pub index: u64,
    /// The stored bytes, which are what is hashed.
    pub bytes: Vec<u8>,
    pub leaf: Hash,
    pub entry: Entry,
}

/// A session's place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPlace {
    pub session: SessionId,
    /// Index of its entries, in order.
    pub entries: Vec<u64>,
    /// Its last entry ends it.
    pub closed: bool,
}

/// One entry of a session, opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub index: u64,
    pub leaf: Hash,
    pub entry: Entry,
    pub detail: Detail,
    /// The objects that hold payload.
    objects: Vec<ObjectRef>,
}

impl Event {
    pub fn kind(&self) -> Kind {
        self.entry.kind
    }
    /// Number of the command that the entry belongs to.
    pub fn command(&self) -> Option<u64> {
        self.entry.cmd
    }
    /// Which way its bytes went, if it may have any.
    pub fn flow(&self) -> Option<Flow> {
        self.detail.flow
    }
    /// Payload bytes of this entry.
    pub fn payload_len(&self) -> u64 {
        let objects = self.objects.iter().fold(0u64, |sum, o| sum.saturating_add(o.pt_len));
        objects.saturating_add(self.detail.bytes.len() as u64)
    }
}

/// What the journal holds beyond the archive.
#[derive(Default)]
struct Newest {
    entries: Vec<(Hash, Vec<u8>)>,
    objects: HashMap<Hash, Vec<u8>>,
    keys: HashMap<SessionId, Wrapped>,
}

type Cached<T> = Mutex<BTreeMap<u64, Arc<T>>>;

/// Reads one log. Shows it as it was when opened; [`Reader::refresh`] moves it on.
pub struct Reader {
    vfs: Arc<dyn Vfs>,
    config: ReaderConfig,
    keys: Option<KeyReader>,
    signed: SignedCheckpoint,
    newest: Newest,
    objects: Objects,
    bundles: Cached<Vec<Vec<u8>>>,
    records: Cached<Vec<Record>>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reader({})", self.config.archive.display())
    }
}

impl Reader {
    pub fn open(mut config: ReaderConfig) -> Result<Self, ReadError> {
        let vfs: Arc<dyn Vfs> = Arc::new(RealVfs);
        if let Some(keys) = config.keys.as_ref().filter(|_| config.log.is_empty()) {
            config.log.push(log_vkey(keys)?);
        }
        let keys = config.keys.as_deref().map(KeyReader::open).transpose()?;
        let (signed, newest) = load(&*vfs, &config)?;
        let objects = Objects::new(vfs.clone(), &config.archive);
        let (bundles, records) = Default::default();
        Ok(Self { vfs, config, keys, signed, newest, objects, bundles, records })
    }

    /// Sees what was written since.
    pub fn refresh(&mut self) -> Result<(), ReadError> {
        (self.signed, self.newest) = load(&*self.vfs, &self.config)?;
        // A bundle or chunk that was not full then may be now.
        self.bundles.lock().clear();
        self.records.lock().clear();
        Ok(())
    }

    pub fn checkpoint(&self) -> &SignedCheckpoint {
        &self.signed
    }
    /// Entries that a checkpoint covers.
    pub fn published(&self) -> u64 {
        self.signed.size()
    }
    /// Entries there are, those in the journal included.
    pub fn len(&self) -> u64 {
        self.published() + self.newest.entries.len() as u64
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn keys(&self) -> Option<&KeyReader> {
        self.keys.as_ref()
    }

    fn bytes(&self, index: u64) -> Result<Vec<u8>, ReadError> {
        let published = self.published();
        if let Some(beyond) = index.checked_sub(published) {
            let entry = usize::try_from(beyond).ok().and_then(|i| self.newest.entries.get(i));
            return entry.map(|(_, bytes)| bytes.clone()).ok_or(ReadError::BeyondEnd(index));
        }
        let number = index / u64::from(TILE_WIDTH);
        let bundle = self.bundles.lock().get(&number).cloned();
        let bundle = match bundle {
            Some(bundle) => bundle,
            None => {
                let id = BundleId::at(published, number).ok_or(ReadError::BeyondEnd(index))?;
                let made = Arc::new(read_bundle(&*self.vfs, &self.config.archive, id)?);
                keep(&self.bundles, number, made.clone());
                made
            }
        };
        let entry = bundle.get((index % u64::from(TILE_WIDTH)) as usize);
        entry.cloned().ok_or(ReadError::BeyondEnd(index))
    }

    pub fn entry(&self, index: u64) -> Result<StoredEntry, ReadError> {
        let bytes = self.bytes(index)?;
        let entry = Entry::decode(&bytes).map_err(|error| ArchiveError::Entry { index, error })?;
        Ok(StoredEntry { index, leaf: Hash::leaf(&bytes), bytes, entry })
    }

    /// Entries in order. An error does not end the walk: the next entry may be good.
    pub fn entries(
        &self,
        range: Range<u64>,
    ) -> impl DoubleEndedIterator<Item = Result<StoredEntry, ReadError>> + '_ {
        (range.start..range.end.min(self.len())).map(|index| self.entry(index))
    }

    /// A proof, good offline and for ever, that an entry is in the log.
    pub fn prove(&self, index: u64) -> Result<LogProof, ReadError> {
        if index >= self.published() {
            return Err(if index < self.len() {
                ReadError::NotPublished(index)
            } else {
                ReadError::BeyondEnd(index)
            });
        }
        let leaf = Hash::leaf(&self.bytes(index)?);
        let tiles = TileFiles { vfs: &*self.vfs, dir: &self.config.archive };
        let mut hashes = TileHashes::new(tiles, self.published());
        LogProof::build(&mut hashes, &self.signed, index, &leaf)
            .map_err(|error| ReadError::Prove { index, why: error.to_string() })
    }

    fn chunks(&self) -> u64 {
        self.len().div_ceil(CHUNK_ENTRIES)
    }

    /// The index of one chunk: from its file, or from its entries.
    fn records(&self, chunk: u64) -> Result<Arc<Vec<Record>>, ReadError> {
        if let Some(known) = self.records.lock().get(&chunk) {
            return Ok(known.clone());
        }
        let path = self.config.archive.join(index::index_path(chunk));
        let bytes_max = CHUNK_ENTRIES * RECORD_BYTES as u64;
        let first = chunk * CHUNK_ENTRIES;
        let file = if first + CHUNK_ENTRIES <= self.published() {
            read_file(&*self.vfs, &path, bytes_max).unwrap_or_default()
        } else {
            None
        };
        let records = match file.and_then(|bytes| index::decode(chunk, &bytes)) {
            Some(records) => records,
            None => {
                let mut records = vec![];
                for entry in self.entries(first..first + CHUNK_ENTRIES) {
                    let entry = entry?;
                    records.extend(Record::of(entry.index, &entry.entry));
                }
                records.sort_unstable();
                records
            }
        };
        let records = Arc::new(records);
        keep(&self.records, chunk, records.clone());
        Ok(records)
    }

    /// A session's part of one chunk of the index: found in its file by bisection.
    fn records_of(&self, chunk: u64, sid: &[u8; 16]) -> Result<Vec<Record>, ReadError> {
        if (chunk + 1) * CHUNK_ENTRIES <= self.published() {
            let path = self.config.archive.join(index::index_path(chunk));
            let found = match self.vfs.open(&path, Access::Read) {
                Ok(file) => index::search(chunk, &*file, sid).unwrap_or_default(),
                Err(_) => None,
            };
            if let Some(found) = found {
                return Ok(found);
            }
        }
        let records = self.records(chunk)?;
        let from = records.partition_point(|record| record.sid < *sid);
        let own = records.get(from..).unwrap_or_default();
        Ok(own.iter().take_while(|record| record.sid == *sid).copied().collect())
    }

    /// Every session that was opened, newest first: index of its open and its id. Reads the index
    /// as far as it is asked.
    pub fn sessions(&self) -> impl Iterator<Item = Result<(u64, SessionId), ReadError>> + '_ {
        let of_chunk = |chunk| match self.records(chunk) {
            Ok(records) => {
                let opens = records.iter().filter(|record| record.kind() == Some(Kind::Open));
                let mut opens: Vec<_> =
                    opens.map(|record| Ok((record.index, SessionId(record.sid)))).collect();
                opens.sort_by_key(|open| std::cmp::Reverse(open.as_ref().map_or(0, |o| o.0)));
                opens
            }
            Err(error) => vec![Err(error)],
        };
        (0..self.chunks()).rev().flat_map(of_chunk)
    }

    /// Where a session's entries are. Searches the index, not the log.
    pub fn find(&self, session: SessionId) -> Result<SessionPlace, ReadError> {
        let mut place = SessionPlace { session, entries: vec![], closed: false };
        for chunk in 0..self.chunks() {
            if !place.entries.is_empty() && place.closed {
                break;
            }
            for record in self.records_of(chunk, &session.0)? {
                place.entries.push(record.index);
                place.closed = record.kind() == Some(Kind::Close);
            }
        }
        if place.entries.is_empty() { Err(ReadError::NoSession(session)) } else { Ok(place) }
    }

    /// What opens a session's private parts.
    fn opener(&self, session: SessionId, first: &Entry) -> Result<Opener, ReadError> {
        let keys = self.keys.as_ref().ok_or(ReadError::NoKeys(session))?;
        let dek = match self.newest.keys.get(&session) {
            Some(wrapped) => keys.unwrap(session, wrapped)?,
            None => keys.dek(session)?,
        };
        let commit = first.dek_commit.unwrap_or_default();
        Opener::new(&dek, session.0, &commit).map_err(|error| ReadError::Seal { index: 0, error })
    }

    /// A session, ready to be walked. Needs keys.
    pub fn session(&self, session: SessionId) -> Result<Session<'_>, ReadError> {
        let place = self.find(session)?;
        let first = place.entries.first().copied().unwrap_or_default();
        let opener = self.opener(session, &self.entry(first)?.entry)?;
        Ok(Session { reader: self, place, opener })
    }

    fn ciphertext(&self, index: u64, object: &ObjectRef) -> Result<Vec<u8>, ReadError> {
        let name = object.ct_hash;
        if let Some(bytes) = self.newest.objects.get(&name) {
            return Ok(bytes.clone());
        }
        let read = self.objects.read(object).map_err(|error| {
            let path = self.config.archive.join("objects");
            ReadError::Io { path, error }
        })?;
        match read {
            // What was altered does not open, and that says so.
            Found::Good(bytes) | Found::Altered(bytes) => Ok(bytes),
            Found::Nothing => Err(ReadError::ObjectMissing { index, name }),
        }
    }
}

fn keep<T>(cache: &Cached<T>, number: u64, value: Arc<T>) {
    let mut cache = cache.lock();
    if cache.len() >= BUNDLES_CACHED_MAX {
        cache.clear();
    }
    cache.insert(number, value);
}

/// The checkpoint and, where there is a journal, what lies beyond it.
fn load(vfs: &dyn Vfs, config: &ReaderConfig) -> Result<(SignedCheckpoint, Newest), ReadError> {
    for _ in 0..ATTEMPTS {
        let path = config.archive.join("checkpoint");
        let io = |error| ReadError::Io { path: path.clone(), error };
        let bytes = read_file(vfs, &path, CHECKPOINT_BYTES_MAX).map_err(io)?;
        let bytes = bytes.ok_or_else(|| ReadError::NoCheckpoint(config.archive.clone()))?;
        let signed = SignedCheckpoint::open(&bytes, &config.log, &[])
            .map_err(|error| ArchiveError::Checkpoint { path: path.clone(), error })?;
        let Some(journal) = &config.journal else { return Ok((signed, Newest::default())) };
        // The archive may have gone on and the journal been shortened in between.
        if let Some(newest) = load_newest(vfs, journal, signed.size())? {
            return Ok((signed, newest));
        }
    }
    Err(ReadError::Moving)
}

/// None if the journal begins behind `from`.
fn load_newest(vfs: &dyn Vfs, journal: &Path, from: u64) -> Result<Option<Newest>, ReadError> {
    let io = |error| ReadError::Io { path: journal.to_path_buf(), error };
    let mut newest = Newest::default();
    let mut next = from;
    for number in segment::list(vfs, journal).map_err(io)? {
        let Some(mut tail) = Tail::open(vfs, journal, number, PAGE as u64)? else { continue };
        while let Some(frame) = tail.next(next)? {
            let Some(skip) = next.checked_sub(frame.index) else { return Ok(None) };
            let skip = usize::try_from(skip).unwrap_or(usize::MAX);
            newest.entries.extend(frame.entries.into_iter().skip(skip));
            newest.objects.extend(frame.objects);
            for side in frame.sides {
                if let (Some(session), Ok(wrapped)) = (wrapped_session(&side), side.try_into()) {
                    newest.keys.insert(session, wrapped);
                }
            }
            next = from + newest.entries.len() as u64;
        }
    }
    Ok(Some(newest))
}

/// One session, opened for reading.
pub struct Session<'a> {
    reader: &'a Reader,
    place: SessionPlace,
    opener: Opener,
}

impl Session<'_> {
    pub fn place(&self) -> &SessionPlace {
        &self.place
    }

    /// Its entries in order, opened. The chain is checked on the way; entries that merely continue
    /// a long private part are folded into the one that they continue.
    pub fn events(&self) -> impl Iterator<Item = Result<Event, ReadError>> + '_ {
        let mut expected: Option<(u64, Hash)> = None;
        let mut at = 0;
        std::iter::from_fn(move || {
            let index = *self.place.entries.get(at)?;
            at += 1;
            let mut event = match self.event(index, &mut expected) {
                Ok(event) => event,
                Err(error) => return Some(Err(error)),
            };
            if event.detail.overflow == 0 || event.kind() == Kind::Chunk {
                return Some(Ok(event));
            }
            let result = self.unfold(&mut event, &mut at, &mut expected);
            Some(result.map(|()| event))
        })
    }

    fn event(&self, index: u64, expected: &mut Option<(u64, Hash)>) -> Result<Event, ReadError> {
        let session = self.place.session;
        let stored = self.reader.entry(index)?;
        let link = stored.entry.session.filter(|link| link.sid == session.0);
        let link = link.ok_or(ReadError::Chain { session, index })?;
        let good = match *expected {
            Some((seq, prev)) => link.seq == seq && link.prev == Some(prev),
            None => link.seq == 0,
        };
        *expected = link.seq.checked_add(1).map(|next| (next, stored.leaf));
        if !good {
            return Err(ReadError::Chain { session, index });
        }
        // A crash is noted without the key.
        let detail = match stored.entry.sealed {
            None => Detail::default(),
            Some(_) => {
                let bytes = self.opener.open_entry(&stored.entry);
                let bytes = bytes.map_err(|error| ReadError::Seal { index, error })?;
                Detail::decode(&bytes).map_err(|error| ReadError::Detail { index, error })?
            }
        };
        let StoredEntry { leaf, entry, .. } = stored;
        let mut objects = entry.objs.clone();
        if entry.kind == Kind::Chunk && detail.overflow > 0 {
            split_overflow(&mut objects, detail.overflow);
        }
        Ok(Event { index, leaf, entry, detail, objects })
    }

    /// Puts a private part together that did not fit into its entry.
    fn unfold(
        &self,
        event: &mut Event,
        at: &mut usize,
        expected: &mut Option<(u64, Hash)>,
    ) -> Result<(), ReadError> {
        let index = event.index;
        let total = usize::try_from(event.detail.overflow).ok();
        let total = total.filter(|total| *total <= DETAIL_BYTES_MAX);
        let total = total.ok_or(ReadError::Overflow { index })?;
        let mut bytes = vec![];
        let mut from = index;
        let mut objects = std::mem::take(&mut event.objects);
        loop {
            let part = split_overflow(&mut objects, (total - bytes.len()) as u64);
            for object in &part {
                bytes.extend(self.plaintext(from, object)?);
            }
            event.objects.append(&mut objects);
            if bytes.len() >= total {
                break;
            }
            from = *self.place.entries.get(*at).ok_or(ReadError::Overflow { index })?;
            *at += 1;
            let next = self.event(from, expected)?;
            if next.kind() != Kind::Chunk || next.command() != event.command() || part.is_empty() {
                return Err(ReadError::Overflow { index });
            }
            objects = next.entry.objs;
        }
        let flow = event.detail.flow;
        event.detail =
            Detail::decode(&bytes).map_err(|error| ReadError::Detail { index, error })?;
        event.detail.flow = event.detail.flow.or(flow);
        Ok(())
    }

    fn plaintext(&self, index: u64, object: &ObjectRef) -> Result<Vec<u8>, ReadError> {
        let seal = |error| ReadError::Seal { index, error };
        let name = object.ct_hash;
        let mut body = self.reader.ciphertext(index, object)?;
        self.opener.open_object(object, &mut body).map_err(seal)?;
        let len = usize::try_from(object.pt_len).ok().filter(|len| *len <= OBJECT_BYTES_MAX);
        let len = len.ok_or(ReadError::ObjectEncoding { index, name })?;
        let plaintext = match object.enc {
            Encoding::Stored => body,
            // Bounded: what expands beyond what the entry says is refused.
            Encoding::Zstd => zstd::bulk::decompress(&body, len)
                .map_err(|_| ReadError::ObjectEncoding { index, name })?,
        };
        self.opener.check_plaintext(object, &plaintext).map_err(seal)?;
        Ok(plaintext)
    }

    /// Hands the exact payload of an entry to `sink`, piece by piece, each at most as long as one
    /// object.
    pub fn payload(
        &self,
        event: &Event,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ReadError> {
        if !event.detail.bytes.is_empty() {
            sink(&event.detail.bytes).map_err(ReadError::Sink)?;
        }
        for object in &event.objects {
            let plaintext = self.plaintext(event.index, object)?;
            sink(&plaintext).map_err(ReadError::Sink)?;
        }
        Ok(())
    }

    /// The whole payload of an entry, in memory.
    pub fn payload_bytes(&self, event: &Event) -> Result<Vec<u8>, ReadError> {
        let mut out = vec![];
        self.payload(event, &mut |piece| {
            out.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(out)
    }

    /// The exact bytes that went one way, in order: what [`Flow::ToTarget`] the intents and their
    /// pieces carried (not the refused), what [`Flow::ToClient`] the target answered, or what
    /// [`Flow::Gateway`] the gateway made. `command` picks one command.
    pub fn stream(
        &self,
        flow: Flow,
        command: Option<u64>,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ReadError> {
        let mut refused = None;
        for event in self.events() {
            let event = event?;
            if event.kind() == Kind::Refusal {
                refused = event.command();
            } else if event.kind() != Kind::Chunk {
                refused = None;
            }
            let wanted = event.flow() == Some(flow)
                && (command.is_none() || event.command() == command)
                && (flow != Flow::ToTarget || refused.is_none() || refused != event.command());
            if wanted {
                self.payload(&event, sink)?;
            }
        }
        Ok(())
    }
}

/// Takes from the front the objects that hold the next `bytes` of a private part.
fn split_overflow(objects: &mut Vec<ObjectRef>, bytes: u64) -> Vec<ObjectRef> {
    let mut sum = 0u64;
    let count = objects.iter().take_while(|object| {
        let take = sum < bytes;
        sum = sum.saturating_add(object.pt_len);
        take
    });
    let count = count.count();
    objects.drain(..count).collect()
}
