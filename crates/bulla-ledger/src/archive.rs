//! The archive: the log as others read it. One directory in the C2SP tlog-tiles layout
//! (`checkpoint`, `tile/...`), with `objects/` and `index/` beside it, derived from the journal by
//! a thread of its own and made again from it after a crash.
//!
//! Taking frames in changes memory only. Publishing writes what is new under temporary names, syncs
//! it, gives it its names, and then replaces the checkpoint, so that whatever a checkpoint covers
//! is there, whole. A disk that is full is tried again; any other error stops the ledger. Segments
//! of the journal are removed once a published checkpoint covers all of them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bulla_tlog::{
    Hash,
    checkpoint::{Checkpoint, CheckpointError, SignedCheckpoint},
    entry::{Entry, EntryError, Kind},
    note::Signer,
    tile::{BundleId, TILE_WIDTH, TileId, encode_tile, push_bundle_entry},
    tree::{Edge, HashRead, TileHashes, TileRead},
};
use parking_lot::{Condvar, Mutex};

use crate::{
    config::LedgerConfig,
    index::{self, CHUNK_ENTRIES, Record},
    journal::{
        frame::{Frame, Payload},
        recover::{RecoverError, Tail},
        segment::segment_name,
        writer::Written,
    },
    keys::KeyStore,
    pack::{self, OBJECT_HEAD_BYTES, PACK_BYTES_FULL, PACK_MAGIC, Place},
    record::{Shared, now},
    tracker::{State, Tracker},
    vfs::{Access, Privacy, Vfs, VfsFile, is_full},
};

/// Bytes of frames at which the archive is woken before its time.
const FEED_BYTES_WAKE: usize = 4 << 20;
/// Bytes taken in and not yet written, at which they are written before more is taken in.
const PENDING_BYTES_MAX: usize = 4 << 20;
/// New files above which the whole file system is synced at once instead of each of them.
const SYNC_EACH_MAX: usize = 16;
pub(crate) const CHECKPOINT_BYTES_MAX: u64 = 1 << 20;
/// Longest tile or bundle.
pub(crate) const TILE_FILE_BYTES_MAX: u64 = 256 * (2 + 65_535);
const STATE_BYTES_MAX: u64 = 1 << 30;
/// How often old latencies are made to weigh less.
const FADE: Duration = Duration::from_secs(30);

/// Why the archive cannot be opened or continued.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("`{}`: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    /// Not tried again: what was to be kept may be lost, and the next sync would not say so.
    #[error("sync `{}`: {error}", path.display())]
    Sync { path: PathBuf, error: io::Error },
    #[error("`{}`: {error}", path.display())]
    Checkpoint { path: PathBuf, error: CheckpointError },
    #[error("`{}`: {why}", path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("`{}` exists with other bytes: two gateways may share the directory", path.display())]
    OtherBytes { path: PathBuf },
    #[error("entry {index} of the journal is not the one in the archive")]
    Forked { index: u64 },
    #[error("the archive ends at entry {archived} and the journal begins at {first}")]
    Gap { archived: u64, first: u64 },
    #[error("entry {index}: {error}")]
    Entry { index: u64, error: EntryError },
    #[error("entry {index} and its objects do not belong together")]
    Objects { index: u64 },
    #[error(transparent)]
    Journal(#[from] RecoverError),
    #[error("sign a checkpoint: {0}")]
    Sign(String),
}

/// What the committer has written and the archive has not seen.
pub(crate) struct Feed {
    bytes_max: usize,
    state: Mutex<FeedState>,
    changed: Condvar,
}

#[derive(Default)]
struct FeedState {
    batches: Vec<Batch>,
    bytes: usize,
    stop: bool,
}

/// One frame; without payloads it must be read from the journal.
pub(crate) struct Batch {
    written: Written,
    payloads: Option<Vec<Payload>>,
}

impl Feed {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Called by the committer: wakes the archive only when much is waiting.
    pub(crate) fn push(&self, written: Written, payloads: Vec<Payload>) {
        let mut state = self.state.lock();
        let before = state.bytes;
        let bytes = before + written.bytes as usize;
        if bytes > self.bytes_max {
            state.batches.push(Batch { written, payloads: None });
            return;
        }
        state.bytes = bytes;
        state.batches.push(Batch { written, payloads: Some(payloads) });
        if before < FEED_BYTES_WAKE && bytes >= FEED_BYTES_WAKE {
            drop(state);
            self.changed.notify_one();
        }
    }

    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }

    /// Waits until `until`, much is waiting, or the end. Whether it is the end.
    fn wait(&self, until: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.stop && state.bytes < FEED_BYTES_WAKE {
            if self.changed.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.stop
    }

    fn take(&self) -> Vec<Batch> {
        let mut state = self.state.lock();
        state.bytes = 0;
        std::mem::take(&mut state.batches)
    }
}

/// Reads tiles from files.
pub(crate) struct TileFiles<'a> {
    pub vfs: &'a dyn Vfs,
    pub dir: &'a Path,
}

impl TileRead for TileFiles<'_> {
    type Error = io::Error;
    fn read_tile(&mut self, tile: TileId) -> io::Result<Option<Vec<u8>>> {
        read_file(self.vfs, &self.dir.join(tile.path()), TILE_FILE_BYTES_MAX)
    }
}

pub(crate) fn read_file(vfs: &dyn Vfs, path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    match vfs.read(path, bytes_max) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A bundle's entries as a log of `size` has them, from the partial or the full file.
pub(crate) fn read_bundle(
    vfs: &dyn Vfs,
    dir: &Path,
    bundle: BundleId,
) -> Result<Vec<Vec<u8>>, ArchiveError> {
    let width = bundle.width();
    for candidate in [bundle, bundle.full()] {
        let path = dir.join(candidate.path());
        let read = read_file(vfs, &path, TILE_FILE_BYTES_MAX);
        let Some(bytes) = read.map_err(|error| ArchiveError::Io { path: path.clone(), error })?
        else {
            continue;
        };
        let entries = bulla_tlog::tile::decode_bundle(candidate.width(), &bytes)
            .map_err(|error| ArchiveError::Damaged { path, why: error.to_string() })?;
        return Ok(entries.into_iter().take(usize::from(width)).map(<[u8]>::to_vec).collect());
    }
    let why = "the bundle is missing".to_owned();
    Err(ArchiveError::Damaged { path: dir.join(bundle.path()), why })
}

/// A file that is to be written.
struct NewFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// The pack that is being filled.
struct Pack {
    first: u64,
    /// Bytes that are in the file.
    len: u64,
    file: Box<dyn VfsFile>,
    places: Vec<Place>,
    dirty: bool,
}

pub(crate) struct Archive {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    state_dir: PathBuf,
    edge: Edge,
    /// Size that the checkpoint on disk covers.
    published: u64,
    /// Bytes of the entry bundle that is not full yet.
    bundle: Vec<u8>,
    tracker: Tracker,
    key_store: KeyStore,
    /// Wrapped keys that are not in their files yet.
    wrapped: Vec<Vec<u8>>,
    records: Vec<Record>,
    pack: Option<Pack>,
    /// Objects that are not in the pack's file yet, with the index of their entry.
    objects: Vec<(u64, Hash, Vec<u8>)>,
    files: Vec<NewFile>,
    pending_bytes: usize,
    known_dirs: BTreeSet<PathBuf>,
    /// Directories that hold new names.
    dirty_dirs: BTreeSet<PathBuf>,
    /// Segments of the journal and the index after their last entry seen.
    segments: BTreeMap<u64, u64>,
}

impl Archive {
    /// Takes the archive up at its checkpoint.
    pub(crate) fn open(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        state_dir: &Path,
        signer: &Signer,
        key_store: KeyStore,
    ) -> Result<Self, ArchiveError> {
        let path = dir.join("checkpoint");
        let io = |error| ArchiveError::Io { path: path.clone(), error };
        let (size, root) = match read_file(&*vfs, &path, CHECKPOINT_BYTES_MAX).map_err(io)? {
            None => (0, Hash::EMPTY_ROOT),
            Some(bytes) => {
                let keys = [signer.vkey().clone()];
                let signed = SignedCheckpoint::open(&bytes, &keys, &[])
                    .map_err(|error| ArchiveError::Checkpoint { path: path.clone(), error })?;
                (signed.size(), signed.root())
            }
        };
        let damaged = |why: String| ArchiveError::Damaged { path: dir.to_path_buf(), why };
        let mut tiles = TileFiles { vfs: &*vfs, dir };
        let edge = Edge::restore(size, &mut tiles).map_err(|error| damaged(error.to_string()))?;
        if edge.root() != root {
            return Err(damaged("the tiles do not have the root of the checkpoint".into()));
        }
        let mut archive = Self {
            vfs,
            dir: dir.to_path_buf(),
            state_dir: state_dir.to_path_buf(),
            edge,
            published: size,
            bundle: vec![],
            tracker: Tracker::default(),
            key_store,
            wrapped: vec![],
            records: vec![],
            pack: None,
            objects: vec![],
            files: vec![],
            pending_bytes: 0,
            known_dirs: BTreeSet::new(),
            dirty_dirs: BTreeSet::new(),
            segments: BTreeMap::new(),
        };
        archive.restore(size)?;
        Ok(archive)
    }

    fn restore(&mut self, size: u64) -> Result<(), ArchiveError> {
        let width = u64::from(TILE_WIDTH);
        // The bundle and the index chunk that are not full yet.
        let first_bundle = size / CHUNK_ENTRIES * CHUNK_ENTRIES / width;
        for number in first_bundle..size.div_ceil(width) {
            let Some(bundle) = BundleId::at(size, number) else { break };
            for (bytes, index) in self.bundle_of(bundle)?.into_iter().zip(bundle.first_entry()..) {
                let entry = decode_entry(index, &bytes)?;
                self.records.extend(Record::of(index, &entry));
                if !bundle.is_full() {
                    push_bundle_entry(&mut self.bundle, &bytes)
                        .map_err(|_| ArchiveError::Objects { index })?;
                }
            }
        }
        let path = self.state_dir.join(State::file_name(size));
        let bytes = read_file(&*self.vfs, &path, STATE_BYTES_MAX)
            .map_err(|error| ArchiveError::Io { path, error })?;
        let state = bytes.and_then(|bytes| State::decode(&bytes)).filter(|s| s.size == size);
        let state = match state {
            Some(state) => state,
            None => self.rebuild_state(size)?,
        };
        self.tracker = state.tracker;
        if let Some((first, len)) = state.pack {
            self.pack = Some(self.reopen_pack(first, len)?);
        }
        Ok(())
    }

    fn bundle_of(&self, bundle: BundleId) -> Result<Vec<Vec<u8>>, ArchiveError> {
        read_bundle(&*self.vfs, &self.dir, bundle)
    }

    /// Reads the whole archive for what the state file would have said.
    fn rebuild_state(&self, size: u64) -> Result<State, ArchiveError> {
        if size > 0 {
            tracing::warn!(entries = size, "the archive's state is missing and is rebuilt");
        }
        let objects = self.dir.join("objects");
        let exists = self.vfs.exists(&objects);
        let io = |error| ArchiveError::Io { path: objects.clone(), error };
        let names = match exists.map_err(io)? {
            true => self.vfs.list(&objects).map_err(io)?,
            false => vec![],
        };
        let packs = names.iter().filter_map(|name| pack::parse_pack_name(name));
        let last = packs.filter(|first| *first < size).max();
        // A pack with an index is complete.
        let complete = |first: &u64| self.vfs.exists(&self.dir.join(pack::index_path(*first)));
        let mut state = State { size, ..State::default() };
        if let Some(first) = last
            && !complete(&first).map_err(io)?
        {
            state.pack = Some((first, PACK_MAGIC.len() as u64));
        }
        for number in 0..size.div_ceil(u64::from(TILE_WIDTH)) {
            let Some(bundle) = BundleId::at(size, number) else { break };
            for (bytes, index) in self.bundle_of(bundle)?.into_iter().zip(bundle.first_entry()..) {
                let entry = decode_entry(index, &bytes)?;
                state.tracker.observe(Hash::leaf(&bytes), &entry);
                if let Some((_, len)) = state.pack.as_mut().filter(|(first, _)| index >= *first) {
                    let bytes = entry.objs.iter().map(|o| o.ct_len + OBJECT_HEAD_BYTES as u64);
                    *len += bytes.sum::<u64>();
                }
            }
        }
        Ok(state)
    }

    /// The pack as the checkpoint covers it: what was written after is written again.
    fn reopen_pack(&self, first: u64, len: u64) -> Result<Pack, ArchiveError> {
        let path = self.dir.join(pack::pack_path(first));
        let io = |error| ArchiveError::Io { path: path.clone(), error };
        let file = self.vfs.open(&path, Access::Write).map_err(io)?;
        let found = file.size().map_err(io)?;
        if found < len {
            let why = format!("the pack has {found} bytes, its entries have {len}");
            return Err(ArchiveError::Damaged { path, why });
        }
        file.truncate(len).map_err(io)?;
        let (places, end) = scan_pack(&*file, len).map_err(io)?;
        if end != len {
            let why = "the pack's objects do not end where its entries say".into();
            return Err(ArchiveError::Damaged { path, why });
        }
        Ok(Pack { first, len, file, places, dirty: true })
    }

    pub(crate) fn size(&self) -> u64 {
        self.edge.size()
    }
    pub(crate) fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// Takes in a frame that recovery found. What the archive has already must be the same.
    pub(crate) fn replay(&mut self, segment: u64, frame: Frame) -> Result<(), ArchiveError> {
        let (archived, first) = (self.size(), frame.index);
        if first > archived {
            return Err(ArchiveError::Gap { archived, first });
        }
        if first < self.published {
            let mut tiles =
                TileHashes::new(TileFiles { vfs: &*self.vfs, dir: &self.dir }, self.published);
            for ((leaf, _), index) in frame.entries.iter().zip(first..self.published) {
                let known = tiles.hash(0, index);
                let damaged = |why| ArchiveError::Damaged { path: self.dir.clone(), why };
                if known.map_err(|error| damaged(error.to_string()))? != *leaf {
                    return Err(ArchiveError::Forked { index });
                }
            }
        }
        self.frame(segment, frame)
    }

    fn frame(&mut self, segment: u64, frame: Frame) -> Result<(), ArchiveError> {
        let mut objects = frame.objects.into_iter();
        let mut sides = frame.sides;
        for ((leaf, bytes), index) in frame.entries.into_iter().zip(frame.index..) {
            let entry = decode_entry(index, &bytes)?;
            let own = objects.by_ref().take(entry.objs.len()).collect();
            // Which entry a side record came with does not matter.
            let payload =
                Payload { entry: bytes, leaf, objects: own, sides: std::mem::take(&mut sides) };
            self.take_in(segment, index, payload, &entry)?;
        }
        Ok(())
    }

    fn batch(&mut self, journal: &Path, batch: Batch) -> Result<(), ArchiveError> {
        let Batch { written, payloads } = batch;
        let Some(payloads) = payloads else {
            let tail = Tail::open(&*self.vfs, journal, written.segment, written.offset)?;
            let frame = tail.map(|mut tail| tail.next(written.index)).transpose()?.flatten();
            let frame = frame.filter(|frame| frame.index == written.index);
            let gap = ArchiveError::Gap { archived: self.size(), first: written.index };
            return self.frame(written.segment, frame.ok_or(gap)?);
        };
        for (payload, index) in payloads.into_iter().zip(written.index..) {
            let entry = decode_entry(index, &payload.entry)?;
            self.take_in(written.segment, index, payload, &entry)?;
        }
        Ok(())
    }

    /// Memory only.
    fn take_in(
        &mut self,
        segment: u64,
        index: u64,
        mut payload: Payload,
        entry: &Entry,
    ) -> Result<(), ArchiveError> {
        self.segments.insert(segment, index + 1);
        self.wrapped.append(&mut payload.sides);
        if index < self.size() {
            return Ok(());
        }
        if index > self.size() {
            return Err(ArchiveError::Gap { archived: self.size(), first: index });
        }
        let named = entry.objs.iter().map(|object| &object.ct_hash);
        if !named.eq(payload.objects.iter().map(|(hash, _)| hash)) {
            return Err(ArchiveError::Objects { index });
        }
        self.pending_bytes += payload.body_bytes();
        self.tracker.observe(payload.leaf, entry);
        self.records.extend(Record::of(index, entry));
        self.objects.extend(payload.objects.into_iter().map(|(hash, body)| (index, hash, body)));
        push_bundle_entry(&mut self.bundle, &payload.entry)
            .map_err(|_| ArchiveError::Objects { index })?;
        let (dir, files) = (&self.dir, &mut self.files);
        let full = |tile: TileId, hashes: &[Hash]| {
            files.push(NewFile { path: dir.join(tile.path()), bytes: encode_tile(hashes) });
        };
        if !self.edge.append(payload.leaf, full) {
            return Err(ArchiveError::Objects { index });
        }
        let size = index + 1;
        if size.is_multiple_of(u64::from(TILE_WIDTH))
            && let Some(bundle) = BundleId::new(index / u64::from(TILE_WIDTH), TILE_WIDTH)
        {
            let bytes = std::mem::take(&mut self.bundle);
            self.files.push(NewFile { path: self.dir.join(bundle.path()), bytes });
        }
        if size.is_multiple_of(CHUNK_ENTRIES) {
            let bytes = index::encode(&mut std::mem::take(&mut self.records));
            let path = self.dir.join(index::index_path(index / CHUNK_ENTRIES));
            self.files.push(NewFile { path, bytes });
        }
        Ok(())
    }

    fn io<'p>(path: &'p Path) -> impl FnOnce(io::Error) -> ArchiveError + 'p {
        |error| ArchiveError::Io { path: path.to_path_buf(), error }
    }

    fn sync_error<'p>(path: &'p Path) -> impl FnOnce(io::Error) -> ArchiveError + 'p {
        |error| ArchiveError::Sync { path: path.to_path_buf(), error }
    }

    /// Creates a directory within the archive, with those above it.
    fn make_dir(&mut self, dir: &Path) -> Result<(), ArchiveError> {
        if dir == self.dir || self.known_dirs.contains(dir) {
            return Ok(());
        }
        let Some(parent) = dir.parent().map(Path::to_path_buf) else { return Ok(()) };
        self.make_dir(&parent)?;
        self.vfs.create_dir(dir, Privacy::Shared).map_err(Self::io(dir))?;
        self.dirty_dirs.insert(parent);
        self.known_dirs.insert(dir.to_path_buf());
        Ok(())
    }

    /// Writes waiting objects into the pack. What was written is not written again.
    fn flush_objects(&mut self) -> Result<(), ArchiveError> {
        let Some((first, _, _)) = self.objects.first() else { return Ok(()) };
        let mut pack = match self.pack.take() {
            Some(pack) => pack,
            None => self.new_pack(*first)?,
        };
        let path = self.dir.join(pack::pack_path(pack.first));
        let result = append_objects(&mut pack, &self.objects);
        self.pack = Some(pack);
        result.map_err(Self::io(&path))?;
        self.objects.clear();
        Ok(())
    }

    /// Written twice a key is still one key.
    fn flush_keys(&mut self) -> Result<(), ArchiveError> {
        for wrapped in &self.wrapped {
            self.key_store.append(wrapped).map_err(Self::io(&self.dir))?;
        }
        self.wrapped.clear();
        Ok(())
    }

    fn new_pack(&mut self, first: u64) -> Result<Pack, ArchiveError> {
        let path = self.dir.join(pack::pack_path(first));
        let dir = self.dir.join("objects");
        self.make_dir(&dir)?;
        // Residue of a run that was cut off before it published it.
        if self.vfs.exists(&path).map_err(Self::io(&path))? {
            self.vfs.remove(&path).map_err(Self::io(&path))?;
        }
        let file = self.vfs.create(&path, Privacy::Shared).map_err(Self::io(&path))?;
        file.pwrite(PACK_MAGIC, 0).map_err(Self::io(&path))?;
        self.dirty_dirs.insert(dir);
        let len = PACK_MAGIC.len() as u64;
        Ok(Pack { first, len, file, places: vec![], dirty: true })
    }

    /// Writes what is new, then a checkpoint over it. Nothing if nothing is new. May be called
    /// again after it failed for want of space.
    pub(crate) fn publish(&mut self, signer: &Signer, origin: &str) -> Result<(), ArchiveError> {
        let size = self.size();
        if size == self.published && self.vfs.exists(&self.dir.join("checkpoint")).unwrap_or(false)
        {
            return Ok(());
        }
        self.flush_keys()?;
        self.flush_objects()?;
        let mut written = vec![];
        let full = std::mem::take(&mut self.files);
        let result = self.write_files(&full, &mut written);
        self.files = full;
        result?;
        let partial = self.partial_files();
        self.write_files(&partial, &mut written)?;
        let state = self.write_state(size)?;
        self.sync(written)?;
        self.files.clear();
        self.pending_bytes = 0;
        self.put_checkpoint(signer, origin, size)?;
        self.tidy(self.published, size, &state);
        self.published = size;
        self.complete_pack()
    }

    fn partial_files(&self) -> Vec<NewFile> {
        let size = self.size();
        let mut out: Vec<NewFile> = self
            .edge
            .partial_tiles()
            .map(|(tile, hashes)| NewFile {
                path: self.dir.join(tile.path()),
                bytes: encode_tile(hashes),
            })
            .collect();
        let bundle = BundleId::at(size, size / u64::from(TILE_WIDTH));
        if let Some(bundle) = bundle.filter(|_| !self.bundle.is_empty()) {
            out.push(NewFile { path: self.dir.join(bundle.path()), bytes: self.bundle.clone() });
        }
        out
    }

    /// Writes files under temporary names. One that is there already must be the same.
    fn write_files(
        &mut self,
        files: &[NewFile],
        written: &mut Vec<(PathBuf, PathBuf, Box<dyn VfsFile>)>,
    ) -> Result<(), ArchiveError> {
        for NewFile { path, bytes } in files {
            let old = read_file(&*self.vfs, path, TILE_FILE_BYTES_MAX).map_err(Self::io(path))?;
            if let Some(old) = old {
                if old != *bytes {
                    return Err(ArchiveError::OtherBytes { path: path.clone() });
                }
                continue;
            }
            let Some(dir) = path.parent().map(Path::to_path_buf) else { continue };
            self.make_dir(&dir)?;
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(".tmp");
            let temporary = path.with_file_name(name);
            if self.vfs.exists(&temporary).map_err(Self::io(&temporary))? {
                self.vfs.remove(&temporary).map_err(Self::io(&temporary))?;
            }
            let file =
                self.vfs.create(&temporary, Privacy::Shared).map_err(Self::io(&temporary))?;
            file.pwrite(bytes, 0).map_err(Self::io(&temporary))?;
            self.dirty_dirs.insert(dir);
            written.push((temporary, path.clone(), file));
        }
        Ok(())
    }

    fn write_state(&mut self, size: u64) -> Result<PathBuf, ArchiveError> {
        let pack = self.pack.as_ref().map(|pack| (pack.first, pack.len));
        let state = State { size, pack, tracker: self.tracker.clone() };
        let path = self.state_dir.join(State::file_name(size));
        self.vfs.replace(&path, &state.encode(), Privacy::Private).map_err(Self::io(&path))?;
        Ok(path)
    }

    /// Makes what was written durable, then gives it its names, durably.
    fn sync(
        &mut self,
        written: Vec<(PathBuf, PathBuf, Box<dyn VfsFile>)>,
    ) -> Result<(), ArchiveError> {
        if let Some(pack) = self.pack.as_mut().filter(|pack| pack.dirty) {
            let path = self.dir.join(pack::pack_path(pack.first));
            pack.file.fdatasync().map_err(Self::sync_error(&path))?;
            pack.dirty = false;
        }
        self.key_store.sync().map_err(Self::sync_error(&self.dir))?;
        if written.len() > SYNC_EACH_MAX {
            self.vfs.sync_all(&self.dir).map_err(Self::sync_error(&self.dir))?;
        } else {
            for (temporary, _, file) in &written {
                file.fdatasync().map_err(Self::sync_error(temporary))?;
            }
        }
        for (temporary, path, _) in &written {
            self.vfs.rename(temporary, path).map_err(Self::io(path))?;
        }
        // Deepest last does not matter: all are durable before the checkpoint.
        while let Some(dir) = self.dirty_dirs.pop_first() {
            self.vfs.sync_dir(&dir).map_err(Self::sync_error(&dir))?;
        }
        Ok(())
    }

    fn put_checkpoint(&self, signer: &Signer, origin: &str, size: u64) -> Result<(), ArchiveError> {
        let sign = |error: &dyn std::error::Error| ArchiveError::Sign(error.to_string());
        let checkpoint =
            Checkpoint::new(origin, size, self.edge.root()).map_err(|error| sign(&error))?;
        let signed = checkpoint.sign(signer).map_err(|error| sign(&error))?;
        let path = self.dir.join("checkpoint");
        self.vfs
            .replace(&path, signed.to_string().as_bytes(), Privacy::Shared)
            .map_err(Self::io(&path))
    }

    /// Removes partial tiles and bundles whose full one exists, and states of earlier sizes. What
    /// cannot be removed is left.
    fn tidy(&self, old: u64, new: u64, state: &Path) {
        let mut dirs = vec![];
        for tile in bulla_tlog::tile::tiles_changed(old, new).filter(TileId::is_full) {
            dirs.push(self.dir.join(tile.path()));
        }
        for bundle in bulla_tlog::tile::bundles_changed(old, new).filter(BundleId::is_full) {
            dirs.push(self.dir.join(bundle.path()));
        }
        for full in dirs {
            let mut name = full.file_name().unwrap_or_default().to_owned();
            name.push(".p");
            let partial = full.with_file_name(name);
            for name in self.vfs.list(&partial).unwrap_or_default() {
                let _ = self.vfs.remove(&partial.join(name));
            }
            let _ = self.vfs.remove_dir(&partial);
        }
        for name in self.vfs.list(&self.state_dir).unwrap_or_default() {
            let path = self.state_dir.join(&name);
            if name.ends_with(".state") && path != *state {
                let _ = self.vfs.remove(&path);
            }
        }
    }

    /// Ends a pack that is long enough. Its index is a convenience, so it may come late.
    fn complete_pack(&mut self) -> Result<(), ArchiveError> {
        let Some(mut pack) = self.pack.take_if(|pack| pack.len >= PACK_BYTES_FULL) else {
            return Ok(());
        };
        let path = self.dir.join(pack::index_path(pack.first));
        let bytes = pack::encode_index(&mut pack.places);
        let result = self.vfs.replace(&path, &bytes, Privacy::Shared);
        match result {
            Err(error) if is_full(&error) => {
                self.pack = Some(pack);
                Ok(())
            }
            other => other.map_err(Self::io(&path)),
        }
    }

    /// Removes segments of the journal that the published checkpoint covers. Never the newest, and
    /// one after the other, so that no crash can leave a hole.
    fn prune(&mut self, journal: &Path) -> Result<(), ArchiveError> {
        while let Some((segment, end)) = self.segments.first_key_value()
            && self.segments.len() > 1
            && *end <= self.published
        {
            let path = journal.join(segment_name(*segment));
            self.vfs.remove(&path).map_err(Self::io(&path))?;
            self.vfs.sync_dir(journal).map_err(Self::io(journal))?;
            self.segments.pop_first();
        }
        Ok(())
    }
}

fn decode_entry(index: u64, bytes: &[u8]) -> Result<Entry, ArchiveError> {
    Entry::decode(bytes).map_err(|error| ArchiveError::Entry { index, error })
}

/// Writes in pieces that a full disk can cut off between: the length grows when all is written.
fn append_objects(pack: &mut Pack, objects: &[(u64, Hash, Vec<u8>)]) -> io::Result<()> {
    let (mut at, mut places) = (pack.len, vec![]);
    let mut out = Vec::with_capacity(1 << 20);
    pack.dirty = true;
    for (_, hash, body) in objects {
        let head = pack::object_head(hash, body.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        let offset = at + (out.len() + OBJECT_HEAD_BYTES) as u64;
        places.push(Place { hash: *hash, offset, len: body.len() as u32 });
        out.extend_from_slice(&head);
        out.extend_from_slice(body);
        if out.len() >= 1 << 20 {
            pack.file.pwrite(&out, at)?;
            at += out.len() as u64;
            out.clear();
        }
    }
    pack.file.pwrite(&out, at)?;
    pack.len = at + out.len() as u64;
    pack.places.append(&mut places);
    Ok(())
}

/// The objects of a pack by their heads, up to the first that is not whole, and where that is.
pub(crate) fn scan_pack(file: &dyn VfsFile, len: u64) -> io::Result<(Vec<Place>, u64)> {
    let mut magic = [0; 16];
    let got = file.pread(&mut magic, 0)?;
    if got != magic.len() || magic != *PACK_MAGIC {
        return Ok((vec![], 0));
    }
    let mut at = magic.len() as u64;
    let mut places = vec![];
    while at < len {
        let mut head = [0; OBJECT_HEAD_BYTES];
        if file.pread(&mut head, at)? != head.len() {
            break;
        }
        let (hash, body) = pack::parse_object_head(&head);
        let offset = at + head.len() as u64;
        let end = offset + u64::from(body);
        if end > len {
            break;
        }
        places.push(Place { hash, offset, len: body });
        at = end;
    }
    Ok((places, at))
}

/// The archive's thread, which is also the one that lets the log's heart beat.
pub(crate) struct ArchiveThread {
    thread: Option<JoinHandle<Result<(), ArchiveError>>>,
    published: Arc<AtomicU64>,
    error: Arc<Mutex<Option<Arc<str>>>>,
}

impl ArchiveThread {
    pub(crate) fn start(
        archive: Archive,
        feed: Arc<Feed>,
        shared: Arc<Shared>,
        config: &LedgerConfig,
        journal: &Path,
    ) -> io::Result<Self> {
        let published = Arc::new(AtomicU64::new(archive.published));
        let error = Arc::new(Mutex::new(None));
        let work = Work {
            archive,
            feed,
            taken: VecDeque::new(),
            shared,
            journal: journal.to_path_buf(),
            origin: config.origin.clone(),
            checkpoint: Duration::from_millis(config.checkpoint_ms),
            heartbeat: Duration::from_millis(config.heartbeat_ms),
            heartbeat_idle: Duration::from_millis(config.heartbeat_idle_ms),
            published: published.clone(),
            error: error.clone(),
        };
        let thread =
            std::thread::Builder::new().name("bulla-archive".into()).spawn(|| work.run())?;
        Ok(Self { thread: Some(thread), published, error })
    }

    pub(crate) fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// Why checkpoints do not come, if they do not.
    pub(crate) fn error(&self) -> Option<Arc<str>> {
        self.error.lock().clone()
    }

    /// Waits for the last checkpoint, after [`Feed::stop`].
    pub(crate) fn join(&mut self) -> Result<(), ArchiveError> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(ArchiveError::Sign("the archive's thread panicked".into())),
            None => Ok(()),
        }
    }
}

struct Work {
    archive: Archive,
    feed: Arc<Feed>,
    /// Out of the feed, and not in the archive yet.
    taken: VecDeque<Batch>,
    shared: Arc<Shared>,
    journal: PathBuf,
    origin: String,
    checkpoint: Duration,
    heartbeat: Duration,
    heartbeat_idle: Duration,
    published: Arc<AtomicU64>,
    error: Arc<Mutex<Option<Arc<str>>>>,
}

impl Work {
    fn run(mut self) -> Result<(), ArchiveError> {
        let result = self.work();
        if let Err(error) = &result {
            tracing::error!(%error, "the archive has stopped, and the record with it");
            let why: Arc<str> = format!("archive: {error}").into();
            *self.error.lock() = Some(why.clone());
            self.shared.gauge.stop(why);
        }
        result
    }

    fn work(&mut self) -> Result<(), ArchiveError> {
        let mut tick = Instant::now() + self.checkpoint;
        let (mut beat, mut fade) = (Instant::now(), Instant::now());
        let mut beaten = 0;
        loop {
            let stop = self.feed.wait(tick);
            self.take_in()?;
            let late = Instant::now() >= tick;
            if late || stop {
                self.publish()?;
            }
            if stop {
                return Ok(());
            }
            if late {
                tick = Instant::now() + self.checkpoint;
            }
            let entries = self.shared.gauge.entries.load(Ordering::Relaxed);
            let wait = if entries == beaten { self.heartbeat_idle } else { self.heartbeat };
            // A run begins with its boot entry, however long that takes to come.
            if beat.elapsed() >= wait && self.shared.has_begun.load(Ordering::Acquire) {
                beat = Instant::now();
                // The beat itself is no activity.
                beaten = entries + 1;
                let _ = self.shared.append_plain(&self.shared.entry(Kind::Heartbeat, now()));
            }
            if fade.elapsed() >= FADE {
                fade = Instant::now();
                self.shared.gauge.latency.fade();
            }
        }
    }

    /// Takes in what waits, a bounded part at a time: frames that did not fit into memory are read
    /// from the journal, and there may be gigabytes of them. While the disk is full the rest waits.
    fn take_in(&mut self) -> Result<(), ArchiveError> {
        loop {
            if self.taken.is_empty() {
                self.taken = self.feed.take().into();
            }
            let Some(batch) = self.taken.pop_front() else { return Ok(()) };
            self.archive.batch(&self.journal, batch)?;
            if self.archive.pending_bytes >= PENDING_BYTES_MAX {
                self.publish()?;
                if self.archive.pending_bytes > 0 {
                    return Ok(());
                }
            }
        }
    }

    fn publish(&mut self) -> Result<(), ArchiveError> {
        match self.archive.publish(&self.shared.keys.signer, &self.origin) {
            Ok(()) => {
                self.published.store(self.archive.published, Ordering::Release);
                *self.error.lock() = None;
                self.archive.prune(&self.journal)
            }
            Err(ArchiveError::Io { path, error }) if is_full(&error) => {
                let why: Arc<str> = format!("`{}`: {error}", path.display()).into();
                if self.error.lock().replace(why).is_none() {
                    tracing::error!("no checkpoint can be published: the disk is full");
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
