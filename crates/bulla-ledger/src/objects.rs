//! Finds and reads the ciphertexts of evidence in an archive's packs.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bulla_tlog::{
    Hash,
    entry::ObjectRef,
    verify::{ObjectCheck, ObjectState},
};
use parking_lot::Mutex;

use crate::{
    archive::{read_file, scan_pack},
    pack::{
        INDEX_RECORD_BYTES, OBJECT_HEAD_BYTES, Place, index_path, pack_path, parse_index_record,
        parse_pack_name,
    },
    vfs::{Access, Vfs, VfsFile},
};

/// Packs whose indices are kept in memory.
const CATALOGUES_MAX: usize = 16;
const INDEX_BYTES_MAX: u64 = 1 << 30;

/// Where the objects of one pack are, sorted by hash.
struct Catalogue {
    first: u64,
    file: Box<dyn VfsFile>,
    places: Vec<Place>,
    /// Length of the pack's file when this was made.
    len: u64,
    /// Made from the pack itself, not from its index.
    scanned: bool,
}

impl Catalogue {
    fn find(&self, hash: &Hash) -> Option<Place> {
        let at = self.places.binary_search_by(|place| place.hash.cmp(hash)).ok()?;
        self.places.get(at).copied()
    }

    fn read(&self, place: Place) -> io::Result<Option<Vec<u8>>> {
        // The length is a foreign number, so it is held against the file before it is believed.
        if place.offset.saturating_add(u64::from(place.len)) > self.file.size()? {
            return Ok(None);
        }
        let mut out = vec![0; place.len as usize];
        let got = self.file.pread(&mut out, place.offset)?;
        Ok((got == out.len()).then_some(out))
    }
}

/// What is stored under an object's name.
pub(crate) enum Found {
    /// What the entry names.
    Good(Vec<u8>),
    /// Something else.
    Altered(Vec<u8>),
    Nothing,
}

/// The objects of an archive.
pub(crate) struct Objects {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    /// First entries of the packs, in order, as last seen.
    packs: Mutex<Arc<Vec<u64>>>,
    loaded: Mutex<BTreeMap<u64, Arc<Catalogue>>>,
    /// The pack in which the last object was found: the next is likely there as well.
    hint: AtomicU64,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Objects({})", self.dir.display())
    }
}

impl Objects {
    pub(crate) fn new(vfs: Arc<dyn Vfs>, dir: &Path) -> Self {
        Self {
            vfs,
            dir: dir.to_path_buf(),
            packs: Mutex::default(),
            loaded: Mutex::default(),
            hint: AtomicU64::new(u64::MAX),
        }
    }

    fn list(&self) -> io::Result<Arc<Vec<u64>>> {
        let packs = match self.vfs.list(&self.dir.join("objects")) {
            Ok(names) => names.iter().filter_map(|name| parse_pack_name(name)).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
            Err(error) => return Err(error),
        };
        let packs = Arc::new(packs);
        *self.packs.lock() = packs.clone();
        Ok(packs)
    }

    fn catalogue(&self, first: u64) -> io::Result<Arc<Catalogue>> {
        if let Some(known) = self.loaded.lock().get(&first) {
            return Ok(known.clone());
        }
        let index = read_file(&*self.vfs, &self.dir.join(index_path(first)), INDEX_BYTES_MAX)?;
        let records = index.as_ref().map(|bytes| bytes.as_chunks::<INDEX_RECORD_BYTES>());
        let places: Option<Vec<Place>> = records
            .filter(|(_, rest)| rest.is_empty())
            .map(|(records, _)| records.iter().map(parse_index_record).collect());
        let made = match places.filter(|places| places.is_sorted_by_key(|place| place.hash)) {
            Some(places) => {
                let file = self.vfs.open(&self.dir.join(pack_path(first)), Access::Read)?;
                let len = file.size()?;
                Catalogue { first, file, places, len, scanned: false }
            }
            None => self.scan(first)?,
        };
        Ok(self.keep(made))
    }

    fn keep(&self, made: Catalogue) -> Arc<Catalogue> {
        let made = Arc::new(made);
        let mut loaded = self.loaded.lock();
        if loaded.len() >= CATALOGUES_MAX {
            loaded.clear();
        }
        loaded.insert(made.first, made.clone());
        made
    }

    /// Reads the heads of a pack's objects, up to the first that is not whole.
    fn scan(&self, first: u64) -> io::Result<Catalogue> {
        let file = self.vfs.open(&self.dir.join(pack_path(first)), Access::Read)?;
        let len = file.size()?;
        let (mut places, _) = scan_pack(&*file, len)?;
        places.sort_unstable();
        Ok(Catalogue { first, file, places, len, scanned: true })
    }

    fn find_in(&self, first: u64, hash: &Hash) -> io::Result<Option<(Arc<Catalogue>, Place)>> {
        let mut catalogue = match self.catalogue(first) {
            // What a run that was cut off left behind goes when the next one begins.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut place = catalogue.find(hash);
        // The pack may have grown, or its index may be wrong.
        if place.is_none() && (!catalogue.scanned || catalogue.file.size()? != catalogue.len) {
            let fresh = self.scan(first)?;
            place = fresh.find(hash);
            if place.is_some() {
                catalogue = self.keep(fresh);
            }
        }
        Ok(place.map(|place| (catalogue, place)))
    }

    fn find(&self, hash: &Hash) -> io::Result<Option<(Arc<Catalogue>, Place)>> {
        let known = self.packs.lock().clone();
        if let Some(found) = self.find_among(&known, hash)? {
            return Ok(Some(found));
        }
        let fresh = self.list()?;
        if fresh == known { Ok(None) } else { self.find_among(&fresh, hash) }
    }

    fn find_among(
        &self,
        packs: &[u64],
        hash: &Hash,
    ) -> io::Result<Option<(Arc<Catalogue>, Place)>> {
        let hint = self.hint.load(Ordering::Relaxed);
        let near = packs.partition_point(|first| *first < hint);
        // From the hint outwards to later ones, then the earlier ones, newest first.
        let (before, after) = packs.split_at(near);
        for first in after.iter().chain(before.iter().rev()) {
            if let Some(found) = self.find_in(*first, hash)? {
                self.hint.store(*first, Ordering::Relaxed);
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The ciphertext of an object.
    pub(crate) fn read(&self, object: &ObjectRef) -> io::Result<Found> {
        let Some((catalogue, place)) = self.find(&object.ct_hash)? else {
            return Ok(Found::Nothing);
        };
        let found = judge(object, catalogue.read(place)?);
        if catalogue.scanned || matches!(found, Found::Good(_)) {
            return Ok(found);
        }
        // An index that is wrong must not condemn a pack that is right.
        let scanned = self.keep(self.scan(catalogue.first)?);
        match scanned.find(&object.ct_hash) {
            Some(place) => Ok(judge(object, scanned.read(place)?)),
            None => Ok(Found::Nothing),
        }
    }
}

/// What a pack really holds.
pub(crate) struct PackScan {
    /// Hash of each object's bytes, the hash that its head claims, and where its head begins.
    found: Vec<(Hash, Hash, u64)>,
    /// Where it stops making sense: at its end, if all of it does.
    end: u64,
}

impl PackScan {
    /// The byte from which the object `hash` is not as it was, or where it should have been.
    pub(crate) fn culprit(&self, hash: &Hash) -> u64 {
        let differs = |(bytes, head, _): &&(Hash, Hash, u64)| bytes != head;
        let own = |found: &&(Hash, Hash, u64)| found.0 == *hash || found.1 == *hash;
        let altered = self.found.iter().filter(differs);
        let place = altered.clone().find(own).or_else(|| altered.clone().next());
        place.map_or(self.end, |(.., at)| *at)
    }
}

impl Objects {
    /// The pack that holds the objects of an entry, if it is there.
    pub(crate) fn pack_of(&self, index: u64) -> Option<u64> {
        let packs = self.list().ok()?;
        packs.iter().rev().find(|first| **first <= index).copied()
    }

    /// Reads a whole pack.
    pub(crate) fn examine(&self, first: u64) -> io::Result<PackScan> {
        let file = self.vfs.open(&self.dir.join(pack_path(first)), Access::Read)?;
        let len = file.size()?;
        let (places, end) = scan_pack(&*file, len)?;
        let mut found = Vec::with_capacity(places.len());
        for place in places {
            let mut bytes = vec![0; place.len as usize];
            file.pread(&mut bytes, place.offset)?;
            let at = place.offset.saturating_sub(OBJECT_HEAD_BYTES as u64);
            found.push((Hash::of(&bytes), place.hash, at));
        }
        Ok(PackScan { found, end })
    }
}

fn judge(object: &ObjectRef, bytes: Option<Vec<u8>>) -> Found {
    match bytes {
        None => Found::Nothing,
        Some(bytes) if bulla_tlog::seal::check_object(object, &bytes).is_ok() => Found::Good(bytes),
        Some(bytes) => Found::Altered(bytes),
    }
}

impl ObjectCheck for Objects {
    fn check(&self, object: &ObjectRef) -> ObjectState {
        match self.read(object) {
            Ok(Found::Nothing) => ObjectState::Missing,
            Ok(Found::Good(_)) => ObjectState::Good,
            Ok(Found::Altered(_)) => ObjectState::Altered,
            Err(_) => ObjectState::Unreadable,
        }
    }
}
