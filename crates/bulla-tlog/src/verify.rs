//! The verifier: is what an archive holds what was signed, and is it all?
//!
//! It works on any [`Archive`] of the files of tlog-tiles, needs the log's public key and nothing
//! else, and trusts no file: the root is computed from the entries. Tiles only help to name what
//! was changed. [`verify`] does everything in one thread; to use several, read and check bundles
//! wherever ([`BundleInput::read`], [`verify_bundle`]) and feed the results to one [`Verifier`] in
//! order.
//!
//! Two questions, two answers: *tampered* means that something is not what was signed; a *gap*
//! means that what was signed does not tell the whole story (a session without an end, a silence,
//! an object that is missing). Both fail; they blame different people.

mod bundle;
mod finding;
mod session;

use std::{collections::BTreeSet, fmt};

pub use bundle::{
    BundleInput, BundleResult, CheckedEntry, ObjectCheck, ObjectState, verify_bundle,
};
pub use finding::{Class, Finding, What};
pub use session::{SESSIONS_OPEN_MAX, SessionTotals};

use self::{bundle::read_widening, finding::Findings, session::Completeness};
use crate::{
    checkpoint::{CheckpointError, SignedCheckpoint},
    hash::{HASH_BYTES, Hash},
    note::Vkey,
    tile::{BundleError, BundleId, TILE_HEIGHT, TILE_WIDTH, TileId, decode_tile, hashes_at},
    tree::{Frontier, root_of},
};

/// Path of the signed checkpoint.
pub const CHECKPOINT_PATH: &str = "checkpoint";
/// Findings that a report lists unless told otherwise.
pub const FINDINGS_MAX: usize = 1_000;
/// Longest silence that is no finding unless told otherwise: three heartbeats of a minute.
pub const SILENCE_NS_MAX: u64 = 3 * 60 * 1_000_000_000;

/// Files by the paths of tlog-tiles. None means that there is no such file; an error, that it could
/// not be told, and ends the verification.
pub trait Archive {
    type Error: fmt::Display;
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Self::Error>;
    fn exists(&self, path: &str) -> Result<bool, Self::Error> {
        Ok(self.read(path)?.is_some())
    }
}

/// What to hold a log to.
#[derive(Clone, Debug)]
pub struct Options {
    /// Longest time within a run in which nothing may have been recorded.
    pub silence_ns_max: u64,
    /// Findings that the report lists; the rest is counted.
    pub findings_max: usize,
    /// Checkpoints of the same log known from elsewhere. The log must contain each.
    pub earlier: Vec<SignedCheckpoint>,
}

impl Default for Options {
    fn default() -> Self {
        Self { silence_ns_max: SILENCE_NS_MAX, findings_max: FINDINGS_MAX, earlier: vec![] }
    }
}

/// How far a verification is, in entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
}

/// The answer. `first` is the finding with the lowest entry index of its class.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Complete,
    /// Something is not what was signed. There may be gaps besides.
    Tampered {
        first: Finding,
    },
    /// All that was signed is there, and it is not all.
    Gap {
        first: Finding,
    },
}

/// What a verification found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    pub verdict: Verdict,
    pub checkpoint: SignedCheckpoint,
    /// By entry index; those without one last.
    pub findings: Vec<Finding>,
    pub findings_left_off: u64,
    /// Entries that were read and are what was signed, if the verdict does not say otherwise.
    pub entries: u64,
    /// Entries in the archive beyond the checkpoint: not yet covered by any signature.
    pub uncovered: u64,
    pub objects: u64,
    pub sessions: SessionTotals,
    pub runs: u64,
    /// Wall clock of the first and the last entry, in nanoseconds since the Unix epoch.
    pub time_ns: Option<(u64, u64)>,
}

/// Why there is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError<E> {
    #[error("read archive: {0}")]
    Read(E),
    #[error("archive has no checkpoint")]
    NoCheckpoint,
    /// Not signed by the log, or not a checkpoint: an integrity failure.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("bug: bundle {0} was fed out of order")]
    OutOfOrder(u64),
}

impl<E> VerifyError<E> {
    /// True if the archive is to blame, not the reading of it.
    pub fn is_integrity(&self) -> bool {
        matches!(self, Self::NoCheckpoint | Self::Checkpoint(_))
    }
}

/// Verifies a whole archive. `progress` is told after every bundle.
pub fn verify<A: Archive>(
    archive: &A,
    log: &[Vkey],
    cosigners: &[Vkey],
    options: Options,
    objects: &impl ObjectCheck,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, VerifyError<A::Error>> {
    let signed = open_checkpoint(archive, log, cosigners)?;
    let mut verifier = Verifier::new(signed, options);
    for id in verifier.bundles() {
        let input = BundleInput::read(archive, id).map_err(VerifyError::Read)?;
        verifier.feed(archive, verify_bundle(&input, objects))?;
        progress(verifier.progress());
    }
    verifier.finish(archive)
}

/// Reads and verifies the archive's checkpoint; keys as for [`SignedCheckpoint::open`].
pub fn open_checkpoint<A: Archive>(
    archive: &A,
    log: &[Vkey],
    cosigners: &[Vkey],
) -> Result<SignedCheckpoint, VerifyError<A::Error>> {
    let bytes = archive.read(CHECKPOINT_PATH).map_err(VerifyError::Read)?;
    let bytes = bytes.ok_or(VerifyError::NoCheckpoint)?;
    Ok(SignedCheckpoint::open(&bytes, log, cosigners)?)
}

/// Whose fault it is that a hash in a level-0 tile is not that of its entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Guilt {
    /// The level above agrees with the tile.
    Entry,
    /// The level above agrees with the entries.
    Tile,
    /// It agrees with neither, or is not there.
    Unknown,
}

/// A mismatch between an entry and its tile. Who is to blame is final only with the root.
struct Fault {
    /// Place of its finding.
    at: usize,
    guilt: Guilt,
    tile_path: String,
    tile_offset: usize,
}

/// A hash in a tile above level 0 that is not that of what lies under it, while all there agrees.
struct UpperFault {
    from: u64,
    to: u64,
    path: String,
    offset: usize,
}

/// One tile level above 0, as computed from what lies under it.
#[derive(Default)]
struct Level {
    /// Index of the tile that is being filled, and its hashes so far. None where it is not known.
    index: u64,
    hashes: Vec<Option<Hash>>,
    /// That tile as stored, once it was needed.
    stored: Option<Option<StoredTile>>,
}

struct StoredTile {
    path: String,
    /// None if the file has a wrong length.
    hashes: Option<Vec<Hash>>,
}

/// Puts the results of bundles together, in order.
pub struct Verifier {
    signed: SignedCheckpoint,
    /// Sizes and roots that must appear on the way, smallest first.
    earlier: Vec<(u64, Hash)>,
    next: u64,
    /// None once a part of the tree is lost.
    frontier: Option<Frontier>,
    /// Levels 1 and up.
    levels: Vec<Level>,
    faults: Vec<Fault>,
    upper_faults: Vec<UpperFault>,
    /// Bundles that are known not to be as signed.
    bad_bundles: BTreeSet<u64>,
    /// Entries of whole bundles that are missing, since the last one that was not.
    missing: Option<(u64, u64)>,
    findings: Findings,
    completeness: Completeness,
    entries: u64,
    objects: u64,
}

impl Verifier {
    pub fn new(signed: SignedCheckpoint, options: Options) -> Self {
        let mut findings = Findings { max: options.findings_max, ..Findings::default() };
        let mut earlier = vec![];
        for other in &options.earlier {
            let (size, root) = (other.size(), other.root());
            if other.origin() != signed.origin() {
                findings.push(Finding::new(What::OtherLog(other.origin().into())));
            } else if size > signed.size() {
                findings.push(Finding::new(What::RolledBack { earlier: size }));
            } else if size > 0 {
                earlier.push((size, root));
            }
        }
        earlier.sort();
        Self {
            signed,
            earlier,
            next: 0,
            frontier: Some(Frontier::new()),
            levels: vec![],
            faults: vec![],
            upper_faults: vec![],
            bad_bundles: BTreeSet::new(),
            missing: None,
            findings,
            completeness: Completeness::new(options.silence_ns_max),
            entries: 0,
            objects: 0,
        }
    }

    /// What is to be fed, in order.
    pub fn bundles(&self) -> impl Iterator<Item = BundleId> + use<> {
        let size = self.signed.size();
        let count = size.div_ceil(u64::from(TILE_WIDTH));
        (0..count).filter_map(move |index| BundleId::at(size, index))
    }

    pub fn progress(&self) -> Progress {
        let total = self.signed.size();
        Progress { done: total.min(self.next.saturating_mul(u64::from(TILE_WIDTH))), total }
    }

    /// Takes the next bundle. Reads the tiles above it, which are few.
    pub fn feed<A: Archive + ?Sized>(
        &mut self,
        archive: &A,
        result: BundleResult,
    ) -> Result<(), VerifyError<A::Error>> {
        let id = result.id;
        if BundleId::at(self.signed.size(), self.next) != Some(id) {
            return Err(VerifyError::OutOfOrder(id.index()));
        }
        self.next += 1;
        let parent = self.parent(archive, id).map_err(VerifyError::Read)?;
        self.check_tree(&result, parent);
        self.note_missing(&result);
        let guilt = self.guilt(&result, parent);
        self.check_entries(&result, guilt);
        self.note_broken(&result);
        self.objects += result.objects;
        if id.is_full() {
            let root = result.root.or(parent);
            self.push_level(archive, 1, id.index(), root).map_err(VerifyError::Read)?;
        }
        Ok(())
    }

    /// The hash of a full bundle as the stored tile above has it.
    fn parent<A: Archive + ?Sized>(
        &mut self,
        archive: &A,
        id: BundleId,
    ) -> Result<Option<Hash>, A::Error> {
        if !id.is_full() {
            return Ok(None);
        }
        let size = self.signed.size();
        let width = u64::from(TILE_WIDTH);
        let level = self.level(1);
        level.load(archive, size, 1, id.index() / width)?;
        let hashes = level.stored.iter().flatten().find_map(|tile| tile.hashes.as_ref());
        Ok(hashes.and_then(|hashes| hashes.get((id.index() % width) as usize)).copied())
    }

    /// Adds the bundle's leaves to the tree, and looks at earlier checkpoints on the way.
    fn check_tree(&mut self, result: &BundleResult, parent: Option<Hash>) {
        let end = result.id.first_entry() + u64::from(result.id.width());
        let Some(before) = &self.frontier else { return };
        let mut after = before.clone();
        let whole = match (&result.leaves, result.root.or(parent)) {
            (_, Some(root)) if result.id.is_full() => after.append_subtree(TILE_HEIGHT, root),
            (Some(leaves), _) => leaves.iter().all(|leaf| after.append(*leaf)),
            _ => false,
        };
        let passed = self.earlier.iter().take_while(|(size, _)| *size <= end).count();
        for (size, root) in self.earlier.drain(..passed) {
            let mut at = before.clone();
            let leaves = result.leaves.iter().flatten().take((size - before.size()) as usize);
            // A part that is lost has a finding of its own.
            let known = leaves.copied().all(|leaf| at.append(leaf)) && at.size() == size;
            if known && at.root() != root {
                let finding = Finding::new(What::Forked { earlier: size });
                self.findings.push(finding.at(result.id.first_entry()));
            }
        }
        self.frontier = Some(after).filter(|_| whole);
    }

    fn note_missing(&mut self, result: &BundleResult) {
        let (id, first) = (result.id, result.id.first_entry());
        let end = first + u64::from(id.width());
        let bad = result.entries.len() < usize::from(id.width())
            || result.entries.iter().any(|entry| !entry.as_in_tile);
        if bad {
            self.bad_bundles.insert(id.index());
        }
        match &result.path {
            None => {
                let from = self.missing.map_or(first, |(from, _)| from);
                self.missing = Some((from, end));
            }
            Some(_) => self.flush_missing(),
        }
        let tile = TileId::new(0, id.index(), id.width());
        match (&result.tile, tile) {
            (None, Some(tile)) => {
                let finding = Finding::new(What::TileMissing).at(first);
                self.findings.push(finding.in_file(tile.path(), 0));
            }
            (Some((path, None)), _) => {
                let finding = Finding::new(What::TileLength).at(first);
                self.findings.push(finding.in_file(path.clone(), 0));
            }
            _ => {}
        }
    }

    /// After the entries before it: the first of those that differ is what was changed.
    fn note_broken(&mut self, result: &BundleResult) {
        let (Some(broken), Some(path)) = (&result.broken, &result.path) else { return };
        let offset = match broken {
            BundleError::Truncated { offset, .. } | BundleError::Surplus { offset } => *offset,
            BundleError::EntryTooLong { .. } => 0,
        };
        let last = u64::from(result.id.width()) - 1;
        let index = result.id.first_entry() + last.min(result.entries.len() as u64);
        let finding = Finding::new(What::BundleBroken(broken.clone())).at(index);
        self.findings.push(finding.in_file(path.clone(), offset));
    }

    fn flush_missing(&mut self) {
        if let Some((from, to)) = self.missing.take() {
            let finding = Finding::new(What::EntriesMissing { from, to }).at(from);
            let file = BundleId::at(self.signed.size(), from / u64::from(TILE_WIDTH));
            self.findings.push(match file {
                Some(file) => finding.in_file(file.path(), 0),
                None => finding,
            });
        }
    }

    fn guilt(&self, result: &BundleResult, parent: Option<Hash>) -> Guilt {
        if result.id.is_full() {
            return match parent {
                Some(parent) if result.root == Some(parent) => Guilt::Tile,
                Some(parent) if result.tile_root == Some(parent) => Guilt::Entry,
                _ => Guilt::Unknown,
            };
        }
        // The last bundle: what is above it is the root itself.
        match self.computed_root() {
            Some(root) if root == self.signed.root() => Guilt::Tile,
            _ => Guilt::Unknown,
        }
    }

    fn computed_root(&self) -> Option<Hash> {
        let frontier = self.frontier.as_ref()?;
        (frontier.size() == self.signed.size()).then(|| frontier.root())
    }

    fn check_entries(&mut self, result: &BundleResult, guilt: Guilt) {
        let first = result.id.first_entry();
        for (position, checked) in result.entries.iter().enumerate() {
            let index = first + position as u64;
            let here = |what| {
                let finding = Finding::new(what).at(index);
                match &result.path {
                    Some(path) => finding.in_file(path.clone(), checked.offset),
                    None => finding,
                }
            };
            if !checked.as_in_tile {
                let at = self.findings.push(here(What::EntryAltered));
                if let (Some(at), Some((tile_path, _))) = (at, &result.tile) {
                    let tile_offset = position * HASH_BYTES;
                    let tile_path = tile_path.clone();
                    self.faults.push(Fault { at, guilt, tile_path, tile_offset });
                }
                if guilt != Guilt::Tile {
                    self.completeness.hole(index);
                    continue;
                }
            }
            self.entries += 1;
            let entry = match &checked.entry {
                Ok(entry) => entry,
                Err(cause) => {
                    self.findings.push(here(What::EntryMalformed(*cause)));
                    self.completeness.hole(index);
                    continue;
                }
            };
            for (object, state) in &checked.bad_objects {
                let what = match state {
                    ObjectState::Good => continue,
                    ObjectState::Missing => What::ObjectMissing(object.ct_hash),
                    ObjectState::Altered => What::ObjectAltered(object.ct_hash),
                    ObjectState::Unreadable => What::ObjectUnreadable(object.ct_hash),
                };
                self.findings.push(here(what));
            }
            self.completeness.entry(index, checked.leaf, entry, &mut self.findings);
        }
        let width = usize::from(result.id.width());
        for position in result.entries.len()..width {
            self.completeness.hole(first + position as u64);
        }
    }

    fn level(&mut self, level: u8) -> &mut Level {
        let at = usize::from(level).saturating_sub(1);
        if self.levels.len() <= at {
            self.levels.resize_with(at + 1, Level::default);
        }
        &mut self.levels[at]
    }

    /// Takes the hash of a complete subtree: item `index` of a tile level.
    fn push_level<A: Archive + ?Sized>(
        &mut self,
        archive: &A,
        level: u8,
        index: u64,
        hash: Option<Hash>,
    ) -> Result<(), A::Error> {
        let width = u64::from(TILE_WIDTH);
        let this = self.level(level);
        this.hashes.push(hash);
        if this.hashes.len() < usize::from(TILE_WIDTH) {
            return Ok(());
        }
        let hashes = std::mem::take(&mut this.hashes);
        self.compare_level(archive, level, index / width, &hashes)?;
        let root = hashes.into_iter().collect::<Option<Vec<_>>>().map(|hashes| root_of(&hashes));
        self.push_level(archive, level + 1, index / width, root)
    }

    fn compare_level<A: Archive + ?Sized>(
        &mut self,
        archive: &A,
        level: u8,
        tile: u64,
        hashes: &[Option<Hash>],
    ) -> Result<(), A::Error> {
        let (size, width) = (self.signed.size(), u64::from(TILE_WIDTH));
        let span = 1u64.checked_shl(u32::from(level * TILE_HEIGHT)).unwrap_or(u64::MAX);
        let first = tile.saturating_mul(width);
        let this = self.level(level);
        this.load(archive, size, level, tile)?;
        let stored = this.stored.take().flatten();
        let Some(stored) = stored else {
            let path = TileId::at(size, level, tile).map(|tile| tile.path()).unwrap_or_default();
            let finding = Finding::new(What::TileMissing).at(first.saturating_mul(span));
            self.findings.push(finding.in_file(path, 0));
            return Ok(());
        };
        let Some(found) = stored.hashes else {
            let finding = Finding::new(What::TileLength).at(first.saturating_mul(span));
            self.findings.push(finding.in_file(stored.path, 0));
            return Ok(());
        };
        for (position, (computed, found)) in hashes.iter().zip(found).enumerate() {
            if computed.is_none_or(|hash| hash == found) {
                continue;
            }
            let from = (first + position as u64).saturating_mul(span);
            let to = from.saturating_add(span);
            // Explained by what was found beneath.
            if self.bad_bundles.range(from / width..to / width).next().is_some() {
                continue;
            }
            self.bad_bundles.insert(from / width);
            if self.upper_faults.len() < self.findings.max.max(1) {
                let (path, offset) = (stored.path.clone(), position * HASH_BYTES);
                self.upper_faults.push(UpperFault { from, to, path, offset });
            } else {
                self.findings.left_off += 1;
            }
        }
        Ok(())
    }

    /// Compares the root, settles who is to blame, looks beyond the checkpoint.
    pub fn finish<A: Archive + ?Sized>(
        mut self,
        archive: &A,
    ) -> Result<Report, VerifyError<A::Error>> {
        if self.bundles().nth(self.next as usize).is_some() {
            return Err(VerifyError::OutOfOrder(self.next));
        }
        self.flush_missing();
        let size = self.signed.size();
        for level in 1..=self.levels.len() as u8 {
            let hashes = std::mem::take(&mut self.level(level).hashes);
            let tile = hashes_at(size, level) / u64::from(TILE_WIDTH);
            if !hashes.is_empty() {
                self.compare_level(archive, level, tile, &hashes).map_err(VerifyError::Read)?;
            }
        }
        self.completeness.finish(&mut self.findings);
        self.settle();
        let uncovered = uncovered(archive, size).map_err(VerifyError::Read)?;
        let mut findings = self.findings.list;
        findings.sort_by_key(|finding| {
            (finding.index.unwrap_or(u64::MAX), finding.what.is_of_a_tile())
        });
        let first = |class| findings.iter().find(|finding| finding.class() == class).cloned();
        let verdict = match (first(Class::Tampered), first(Class::Gap)) {
            (Some(first), _) => Verdict::Tampered { first },
            (None, Some(first)) => Verdict::Gap { first },
            (None, None) => Verdict::Complete,
        };
        Ok(Report {
            verdict,
            checkpoint: self.signed,
            findings,
            findings_left_off: self.findings.left_off,
            entries: self.entries,
            uncovered,
            objects: self.objects,
            sessions: self.completeness.totals,
            runs: self.completeness.runs,
            time_ns: self.completeness.time_ns,
        })
    }

    /// The signed root decides: if the entries lead to it, every disagreement is the tiles' fault.
    fn settle(&mut self) {
        let computed = self.computed_root();
        let good = computed == Some(self.signed.root());
        let blames_entries = |finding: &Finding| {
            matches!(finding.what, What::EntriesMissing { .. } | What::BundleBroken(_))
        };
        let others = self.faults.iter().any(|fault| fault.guilt != Guilt::Tile)
            || self.findings.list.iter().any(blames_entries);
        for fault in &self.faults {
            if !(good || fault.guilt == Guilt::Tile && others) {
                continue;
            }
            if let Some(finding) = self.findings.list.get_mut(fault.at) {
                finding.what = What::TileAltered;
                finding.path = Some(fault.tile_path.clone());
                finding.offset = Some(fault.tile_offset as u64);
            }
        }
        for UpperFault { from, to, path, offset } in std::mem::take(&mut self.upper_faults) {
            let what = if good { What::TileAltered } else { What::EntriesRewritten { from, to } };
            self.findings.push(Finding::new(what).at(from).in_file(path, offset));
        }
        if !good {
            let finding = Finding::new(What::Root { computed });
            self.findings.push(finding.in_file(CHECKPOINT_PATH.into(), 0));
        }
    }
}

impl Level {
    /// Reads the stored tile unless it is there already.
    fn load<A: Archive + ?Sized>(
        &mut self,
        archive: &A,
        size: u64,
        level: u8,
        index: u64,
    ) -> Result<(), A::Error> {
        if self.stored.is_some() && self.index == index {
            return Ok(());
        }
        self.index = index;
        let Some(id) = TileId::at(size, level, index) else {
            self.stored = Some(None);
            return Ok(());
        };
        let at = |width| TileId::new(level, index, width);
        let found = read_widening(archive, id.width(), at, TileId::path)?;
        self.stored = Some(found.map(|(found, bytes)| {
            let mut hashes = decode_tile(found.width(), &bytes);
            if let Some(hashes) = &mut hashes {
                hashes.truncate(usize::from(id.width()));
            }
            StoredTile { path: found.path(), hashes }
        }));
        Ok(())
    }
}

/// Entries that the archive holds beyond `size`, as far as they are contiguous.
fn uncovered<A: Archive + ?Sized>(archive: &A, size: u64) -> Result<u64, A::Error> {
    let width = u64::from(TILE_WIDTH);
    let (mut index, mut have) = (size / width, (size % width) as u16);
    let mut count = 0u64;
    loop {
        let mut found = None;
        for wide in (have + 1..=TILE_WIDTH).rev() {
            let Some(id) = BundleId::new(index, wide) else { continue };
            if archive.exists(&id.path())? {
                found = Some(wide);
                break;
            }
        }
        let Some(wide) = found else { return Ok(count) };
        count += u64::from(wide - have);
        if wide < TILE_WIDTH {
            return Ok(count);
        }
        (index, have) = (index + 1, 0);
    }
}
