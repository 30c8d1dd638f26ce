//! The archive: the log as others read it. One directory in the C2SP tlog-tiles layout
//! (`checkpoint`, `tile/...`), with `objects/` and `index/` beside it, derived from the journal by
//! a thread of its own and made again from it after a crash.
//!
//! Taking frames in changes memory only. Publishing writes what is new under temporary names, syncs
//! it, gives it its names, and then replaces the checkpoint, so that whatever a checkpoint covers
//! is there, whole. A disk that is full is tried again; any other error stops the ledger. Segments
//! of the journal are removed once a published checkpoint covers all of them.

mod feed;
mod files;
mod thread;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use self::{feed::Batch, files::Files};
pub(crate) use self::{feed::Feed, thread::ArchiveThread};
use crate::{
    index::{self, CHUNK_ENTRIES, Record},
    journal::{
        frame::{Frame, Payload},
        recover::{RecoverError, Tail},
        segment::segment_name,
    },
    keys::KeyStore,
    pack::{self, OBJECT_HEAD_BYTES, PACK_BYTES_FULL, PACK_MAGIC, Place},
    tracker::{State, StateFiles, Tracker},
    vfs::{Access, Privacy, Vfs, VfsFile, is_full},
};
use bulla_tlog::{
    Hash,
    checkpoint::{Checkpoint, CheckpointError, SignedCheckpoint},
    entry::{Entry, EntryError},
    note::Signer,
    tile::{BundleId, TILE_WIDTH, TileId, encode_tile, push_bundle_entry},
    tree::{Edge, HashRead, TileHashes, TileRead},
};

/// Entries since the last checkpoint, above which the next ends with a bundle that is full.
const BUSY_ENTRIES_MIN: u64 = 16 * TILE_WIDTH as u64;
/// Bytes of entries that wait for their bundle to be full.
const HELD_BYTES_MAX: usize = 1 << 20;
pub(crate) const CHECKPOINT_BYTES_MAX: u64 = 1 << 20;
/// Longest tile or bundle.
pub(crate) const TILE_FILE_BYTES_MAX: u64 = 256 * (2 + 65_535);

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

/// One entry that waits for others of its bundle.
struct Held {
    segment: u64,
    index: u64,
    payload: Payload,
}

/// What a checkpoint covers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// While there is much, what fills whole bundles: the rest comes with the next checkpoint, and
    /// no partial tile is written that the next makes useless.
    Bundles,
    Everything,
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
    /// Packs from this entry on are of runs that were cut off, and no checkpoint covers them. None
    /// once they are gone.
    residue: Option<u64>,
    files: Files,
    /// Taken in and not written.
    pending_bytes: usize,
    /// Taken in since the last checkpoint.
    unpublished_bytes: usize,
    held: Vec<Held>,
    held_bytes: usize,
    /// Partial tiles may stand where this run has put none, and states of earlier sizes.
    is_untidy: bool,
    states: StateFiles,
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
        let files = Files::new(vfs.clone(), dir).map_err(at(dir))?;
        let states = StateFiles::new(vfs.clone(), state_dir);
        let mut archive = Self {
            vfs,
            dir: dir.to_path_buf(),
            edge,
            published: size,
            bundle: vec![],
            tracker: Tracker::default(),
            key_store,
            wrapped: vec![],
            records: vec![],
            pack: None,
            objects: vec![],
            residue: Some(size),
            files,
            pending_bytes: 0,
            unpublished_bytes: 0,
            held: vec![],
            held_bytes: 0,
            is_untidy: true,
            states,
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
        let state = match self.states.read(size).map_err(at(self.states.dir()))? {
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
            self.release()?;
            let tail = Tail::open(&*self.vfs, journal, written.segment, written.offset)?;
            let frame = tail.map(|mut tail| tail.next(written.index)).transpose()?.flatten();
            let frame = frame.filter(|frame| frame.index == written.index);
            let gap = ArchiveError::Gap { archived: self.size(), first: written.index };
            return self.frame(written.segment, frame.ok_or(gap)?);
        };
        for (payload, index) in payloads.into_iter().zip(written.index..) {
            self.held_bytes += payload.body_bytes();
            self.held.push(Held { segment: written.segment, index, payload });
            let is_last = (index + 1).is_multiple_of(u64::from(TILE_WIDTH));
            if is_last || self.held_bytes >= HELD_BYTES_MAX {
                self.release()?;
            }
        }
        Ok(())
    }

    /// Takes in what was held.
    fn release(&mut self) -> Result<(), ArchiveError> {
        self.held_bytes = 0;
        let mut held = std::mem::take(&mut self.held);
        for Held { segment, index, payload } in held.drain(..) {
            let entry = decode_entry(index, &payload.entry)?;
            self.take_in(segment, index, payload, &entry)?;
        }
        // Its memory serves the next bundle.
        self.held = held;
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
        let bytes = payload.body_bytes();
        self.pending_bytes += bytes;
        self.unpublished_bytes += bytes;
        self.tracker.observe(payload.leaf, entry);
        self.records.extend(Record::of(index, entry));
        self.objects.extend(payload.objects.into_iter().map(|(hash, body)| (index, hash, body)));
        push_bundle_entry(&mut self.bundle, &payload.entry)
            .map_err(|_| ArchiveError::Objects { index })?;
        let files = &mut self.files;
        let full = |tile: TileId, hashes: &[Hash]| files.add(&tile.path(), encode_tile(hashes));
        if !self.edge.append(payload.leaf, full) {
            return Err(ArchiveError::Objects { index });
        }
        let size = index + 1;
        if size.is_multiple_of(u64::from(TILE_WIDTH))
            && let Some(bundle) = BundleId::new(index / u64::from(TILE_WIDTH), TILE_WIDTH)
        {
            let next = Vec::with_capacity(self.bundle.len() + self.bundle.len() / 8);
            self.files.add(&bundle.path(), std::mem::replace(&mut self.bundle, next));
        }
        if size.is_multiple_of(CHUNK_ENTRIES) {
            let bytes = index::encode(&mut self.records);
            self.records.clear();
            self.files.add(&index::index_path(index / CHUNK_ENTRIES), bytes);
        }
        Ok(())
    }

    /// Writes waiting objects into the pack. What was written is not written again.
    fn flush_objects(&mut self) -> Result<(), ArchiveError> {
        let Some(first) = self.objects.first().map(|(first, ..)| *first) else { return Ok(()) };
        self.remove_residue()?;
        let mut pack = match self.pack.take() {
            Some(pack) => pack,
            None => self.new_pack(first)?,
        };
        let path = self.dir.join(pack::pack_path(pack.first));
        let result = append_objects(&mut pack, &self.objects);
        self.pack = Some(pack);
        result.map_err(at(&path))?;
        self.objects.clear();
        Ok(())
    }

    /// A pack that was begun behind the last checkpoint, and may be torn. Its objects are written
    /// again, perhaps into the pack before it; nobody may find them in two places. Its names are gone
    /// for good before there is a checkpoint over them.
    fn remove_residue(&mut self) -> Result<(), ArchiveError> {
        let Some(from) = self.residue else { return Ok(()) };
        let dir = self.dir.join("objects");
        let names = match self.vfs.list(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
            other => other.map_err(at(&dir))?,
        };
        let is_residue = |name: &&String| pack::parse_pack_name(name).is_some_and(|n| n >= from);
        for name in names.iter().filter(is_residue) {
            let path = dir.join(name);
            self.vfs.remove(&path).map_err(at(&path))?;
            self.files.has_new_name(&dir);
        }
        self.residue = None;
        Ok(())
    }

    /// Written twice a key is still one key.
    fn flush_keys(&mut self) -> Result<(), ArchiveError> {
        for wrapped in &self.wrapped {
            self.key_store.append(wrapped).map_err(at(&self.dir))?;
        }
        self.wrapped.clear();
        Ok(())
    }

    fn new_pack(&mut self, first: u64) -> Result<Pack, ArchiveError> {
        let path = self.dir.join(pack::pack_path(first));
        let dir = self.dir.join("objects");
        self.files.make_dir(&dir)?;
        // Residue of a run that was cut off before it published it.
        let file = self.vfs.create_anew(&path, Privacy::Shared).map_err(at(&path))?;
        file.pwrite(PACK_MAGIC, 0).map_err(at(&path))?;
        self.files.has_new_name(&dir);
        let len = PACK_MAGIC.len() as u64;
        Ok(Pack { first, len, file, places: vec![], dirty: true })
    }

    /// Writes what is new, so that it needs no memory. It has no name yet and need not be durable.
    fn spill(&mut self) -> Result<(), ArchiveError> {
        self.flush_keys()?;
        self.flush_objects()?;
        self.files.stage()?;
        self.pending_bytes = 0;
        Ok(())
    }

    /// Writes what is new, then a checkpoint over it. Nothing if nothing is new. May be called
    /// again after it failed for want of space.
    pub(crate) fn publish(
        &mut self,
        signer: &Signer,
        origin: &str,
        extent: Extent,
    ) -> Result<(), ArchiveError> {
        let is_busy = self.size().saturating_sub(self.published) >= BUSY_ENTRIES_MIN;
        if extent == Extent::Everything || !is_busy {
            self.release()?;
        }
        let size = self.size();
        if size == self.published && self.vfs.exists(&self.dir.join("checkpoint")).unwrap_or(false)
        {
            return Ok(());
        }
        // Until all has gone well, partial tiles of a size without a checkpoint may be left.
        let was_untidy = std::mem::replace(&mut self.is_untidy, true);
        self.add_partials();
        self.spill()?;
        let pack = self.pack.as_ref().map(|pack| (pack.first, pack.len));
        self.states.write(size, pack, &self.tracker).map_err(at(self.states.dir()))?;
        self.sync()?;
        self.put_checkpoint(signer, origin, size)?;
        self.states.stands();
        self.tidy(self.published, size, was_untidy);
        self.is_untidy = false;
        self.files.stand();
        self.published = size;
        self.unpublished_bytes = 0;
        self.complete_pack()
    }

    /// The partial tiles and the bundle at the right edge, but for those that the last checkpoint
    /// has as well.
    fn add_partials(&mut self) {
        let size = self.size();
        self.files.forget_partials();
        for (tile, hashes) in self.edge.partial_tiles() {
            if TileId::at(self.published, tile.level(), tile.index()) != Some(tile) {
                self.files.add_partial(&tile.path(), encode_tile(hashes));
            }
        }
        let bundle = BundleId::at(size, size / u64::from(TILE_WIDTH));
        if let Some(bundle) = bundle.filter(|_| !self.bundle.is_empty()) {
            self.files.add_partial(&bundle.path(), self.bundle.clone());
        }
    }

    /// Makes what was written durable, then gives it its names, durably.
    fn sync(&mut self) -> Result<(), ArchiveError> {
        if let Some(pack) = self.pack.as_mut().filter(|pack| pack.dirty) {
            let path = self.dir.join(pack::pack_path(pack.first));
            pack.file.fdatasync().map_err(sync_at(&path))?;
            pack.dirty = false;
        }
        self.key_store.sync().map_err(sync_at(&self.dir))?;
        self.files.settle()
    }

    fn put_checkpoint(&self, signer: &Signer, origin: &str, size: u64) -> Result<(), ArchiveError> {
        let sign = |error: &dyn std::error::Error| ArchiveError::Sign(error.to_string());
        let checkpoint =
            Checkpoint::new(origin, size, self.edge.root()).map_err(|error| sign(&error))?;
        let signed = checkpoint.sign(signer).map_err(|error| sign(&error))?;
        let path = self.dir.join("checkpoint");
        self.vfs.replace(&path, signed.to_string().as_bytes(), Privacy::Shared).map_err(at(&path))
    }

    /// Removes partial tiles and bundles whose full one exists now: those that the last checkpoint
    /// had, or with `all` whatever stands there.
    fn tidy(&mut self, old: u64, new: u64, all: bool) {
        for tile in bulla_tlog::tile::tiles_changed(old, new).filter(TileId::is_full) {
            if all || TileId::at(old, tile.level(), tile.index()).is_some() {
                self.files.remove_partials(&tile.path());
            }
        }
        for bundle in bulla_tlog::tile::bundles_changed(old, new).filter(BundleId::is_full) {
            if all || BundleId::at(old, bundle.index()).is_some() {
                self.files.remove_partials(&bundle.path());
            }
        }
        if all {
            self.states.tidy();
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
            other => other.map_err(at(&path)),
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
            self.vfs.remove(&path).map_err(at(&path))?;
            self.vfs.sync_dir(journal).map_err(at(journal))?;
            self.segments.pop_first();
        }
        Ok(())
    }
}

fn at<'p>(path: &'p Path) -> impl FnOnce(io::Error) -> ArchiveError + 'p {
    |error| ArchiveError::Io { path: path.to_path_buf(), error }
}

fn sync_at<'p>(path: &'p Path) -> impl FnOnce(io::Error) -> ArchiveError + 'p {
    |error| ArchiveError::Sync { path: path.to_path_buf(), error }
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

#[cfg(test)]
mod tests;
