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
    pack::{INDEX_RECORD_BYTES, Place, index_path, pack_path, parse_index_record, parse_pack_name},
    vfs::{Access, Vfs},
};

/// Packs whose indices are kept in memory.
const CATALOGUES_MAX: usize = 16;
const INDEX_BYTES_MAX: u64 = 1 << 30;

/// Where the objects of one pack are, sorted by hash.
struct Catalogue {
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
}

/// The objects of an archive.
pub(crate) struct Objects {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
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
        let loaded = Mutex::new(BTreeMap::new());
        Self { vfs, dir: dir.to_path_buf(), loaded, hint: AtomicU64::new(u64::MAX) }
    }

    /// First entries of the packs there are, in order.
    fn packs(&self) -> io::Result<Vec<u64>> {
        match self.vfs.list(&self.dir.join("objects")) {
            Ok(names) => Ok(names.iter().filter_map(|name| parse_pack_name(name)).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
            Err(error) => Err(error),
        }
    }

    fn pack_len(&self, first: u64) -> io::Result<u64> {
        self.vfs.open(&self.dir.join(pack_path(first)), Access::Read)?.len()
    }

    fn catalogue(&self, first: u64) -> io::Result<Arc<Catalogue>> {
        if let Some(known) = self.loaded.lock().get(&first) {
            return Ok(known.clone());
        }
        let len = self.pack_len(first)?;
        let index = read_file(&*self.vfs, &self.dir.join(index_path(first)), INDEX_BYTES_MAX)?;
        let made = match index {
            Some(bytes) if bytes.len().is_multiple_of(INDEX_RECORD_BYTES) => {
                let (records, _) = bytes.as_chunks::<INDEX_RECORD_BYTES>();
                let places: Vec<Place> = records.iter().map(parse_index_record).collect();
                let sorted = places.is_sorted_by_key(|place| place.hash);
                if sorted { Catalogue { places, len, scanned: false } } else { self.scan(first)? }
            }
            _ => self.scan(first)?,
        };
        Ok(self.keep(first, made))
    }

    fn keep(&self, first: u64, made: Catalogue) -> Arc<Catalogue> {
        let made = Arc::new(made);
        let mut loaded = self.loaded.lock();
        if loaded.len() >= CATALOGUES_MAX {
            loaded.clear();
        }
        loaded.insert(first, made.clone());
        made
    }

    /// Reads the heads of a pack's objects, up to the first that is not whole.
    fn scan(&self, first: u64) -> io::Result<Catalogue> {
        let file = self.vfs.open(&self.dir.join(pack_path(first)), Access::Read)?;
        let len = file.len()?;
        let (mut places, _) = scan_pack(&*file, len)?;
        places.sort_unstable();
        Ok(Catalogue { places, len, scanned: true })
    }

    fn find_in(&self, first: u64, hash: &Hash) -> io::Result<Option<Place>> {
        let catalogue = self.catalogue(first)?;
        if let Some(place) = catalogue.find(hash) {
            return Ok(Some(place));
        }
        // The pack may have grown, or its index may be wrong.
        if !catalogue.scanned || self.pack_len(first)? != catalogue.len {
            let fresh = self.scan(first)?;
            let place = fresh.find(hash);
            if place.is_some() {
                self.keep(first, fresh);
            }
            return Ok(place);
        }
        Ok(None)
    }

    /// Where an object is, and in which pack.
    fn find(&self, hash: &Hash) -> io::Result<Option<(u64, Place)>> {
        let packs = self.packs()?;
        let hint = self.hint.load(Ordering::Relaxed);
        let near = packs.partition_point(|first| *first < hint);
        // From the hint outwards to later ones, then the earlier ones, newest first.
        let (before, after) = packs.split_at(near);
        for first in after.iter().chain(before.iter().rev()) {
            if let Some(place) = self.find_in(*first, hash)? {
                self.hint.store(*first, Ordering::Relaxed);
                return Ok(Some((*first, place)));
            }
        }
        Ok(None)
    }

    fn read_at(&self, first: u64, place: Place) -> io::Result<Option<Vec<u8>>> {
        let file = self.vfs.open(&self.dir.join(pack_path(first)), Access::Read)?;
        // The length is a foreign number, so it is held against the file before it is believed.
        if place.offset.saturating_add(u64::from(place.len)) > file.len()? {
            return Ok(None);
        }
        let mut out = vec![0; place.len as usize];
        let got = file.pread(&mut out, place.offset)?;
        Ok((got == out.len()).then_some(out))
    }

    /// The ciphertext of an object, whatever it is; none if there is none of this name.
    pub(crate) fn read(&self, object: &ObjectRef) -> io::Result<Option<Vec<u8>>> {
        let Some((first, place)) = self.find(&object.ct_hash)? else { return Ok(None) };
        let bytes = self.read_at(first, place)?;
        let good = |bytes: &Vec<u8>| bulla_tlog::seal::check_object(object, bytes).is_ok();
        if bytes.as_ref().is_some_and(good) || self.catalogue(first)?.scanned {
            return Ok(bytes);
        }
        // An index that is wrong must not condemn a pack that is right.
        let scanned = self.keep(first, self.scan(first)?);
        match scanned.find(&object.ct_hash) {
            Some(place) => self.read_at(first, place),
            None => Ok(None),
        }
    }
}

impl ObjectCheck for Objects {
    fn check(&self, object: &ObjectRef) -> ObjectState {
        match self.read(object) {
            Ok(None) => ObjectState::Missing,
            Ok(Some(bytes)) if bulla_tlog::seal::check_object(object, &bytes).is_ok() => {
                ObjectState::Good
            }
            Ok(Some(_)) => ObjectState::Altered,
            Err(_) => ObjectState::Unreadable,
        }
    }
}
