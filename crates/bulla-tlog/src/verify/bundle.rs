//! One bundle, verified by itself: the part that can run in parallel.

use super::Archive;
use crate::{
    entry::{Entry, EntryError, ObjectRef},
    hash::Hash,
    tile::{BundleError, BundleId, TILE_WIDTH, TileId, bundle_entries, decode_tile},
    tree::root_of,
};

/// What is known of an object's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ObjectState {
    /// Its bytes are there and have the hash and length that the entry names.
    Good,
    Missing,
    /// Its bytes are there, and are others.
    Altered,
    Unreadable,
}

/// Looks for the bytes behind an entry. Called from as many threads as bundles are verified on.
pub trait ObjectCheck {
    fn check(&self, object: &ObjectRef) -> ObjectState;
}

impl<F: Fn(&ObjectRef) -> ObjectState> ObjectCheck for F {
    fn check(&self, object: &ObjectRef) -> ObjectState {
        self(object)
    }
}

/// A bundle and its level-0 tile as the archive has them. A partial one may have been replaced by a
/// wider one; the id says how wide the file is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BundleInput {
    /// What the checkpoint demands.
    pub id: BundleId,
    pub bundle: Option<(BundleId, Vec<u8>)>,
    pub tile: Option<(TileId, Vec<u8>)>,
}

impl BundleInput {
    pub fn read<A: Archive + ?Sized>(archive: &A, id: BundleId) -> Result<Self, A::Error> {
        let at = |width| BundleId::new(id.index(), width);
        let bundle = read_widening(archive, id.width(), at, BundleId::path)?;
        let at = |width| TileId::new(0, id.index(), width);
        let tile = read_widening(archive, id.width(), at, TileId::path)?;
        Ok(Self { id, bundle, tile })
    }
}

/// The file of exactly `width`, else the full one, else the narrowest that is wider.
pub(super) fn read_widening<A: Archive + ?Sized, I>(
    archive: &A,
    width: u16,
    at: impl Fn(u16) -> Option<I>,
    path: impl Fn(&I) -> String,
) -> Result<Option<(I, Vec<u8>)>, A::Error> {
    let wider = std::iter::once(TILE_WIDTH).chain(width + 1..TILE_WIDTH);
    let widths = std::iter::once(width).chain(wider.filter(|_| width < TILE_WIDTH));
    for id in widths.filter_map(at) {
        if let Some(bytes) = archive.read(&path(&id))? {
            return Ok(Some((id, bytes)));
        }
    }
    Ok(None)
}

/// One entry of a bundle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckedEntry {
    /// Of its first byte in the bundle's file.
    pub offset: usize,
    pub leaf: Hash,
    /// False if the tile holds another hash for it.
    pub as_in_tile: bool,
    pub entry: Result<Entry, EntryError>,
    /// The objects that are not good, and what they are.
    pub bad_objects: Vec<(ObjectRef, ObjectState)>,
}

/// What one bundle says by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BundleResult {
    pub(super) id: BundleId,
    /// The file, if there is one.
    pub(super) path: Option<String>,
    /// The entries up to the first that cannot be found.
    pub(super) entries: Vec<CheckedEntry>,
    pub(super) broken: Option<BundleError>,
    /// The tile, cut to the bundle's width, with its path. None if it is missing.
    pub(super) tile: Option<(String, Option<Vec<Hash>>)>,
    /// The leaves: of the entries, and where those are missing of the tile.
    pub(super) leaves: Option<Vec<Hash>>,
    /// Root over the leaves, of a full bundle.
    pub(super) root: Option<Hash>,
    /// Root over the tile's hashes, of a full bundle whose entries do not agree with it.
    pub(super) tile_root: Option<Hash>,
    pub(super) objects: u64,
}

impl BundleResult {
    pub fn id(&self) -> BundleId {
        self.id
    }
    pub fn entries(&self) -> &[CheckedEntry] {
        &self.entries
    }
}

/// Verifies one bundle as far as that goes without its neighbours. Pure: the same input gives the
/// same result, on any thread, if `objects` does.
pub fn verify_bundle(input: &BundleInput, objects: &impl ObjectCheck) -> BundleResult {
    let id = input.id;
    let width = usize::from(id.width());
    let tile = input.tile.as_ref().map(|(tile, bytes)| {
        let mut hashes = decode_tile(tile.width(), bytes);
        if let Some(hashes) = &mut hashes {
            hashes.truncate(width);
        }
        (tile.path(), hashes)
    });
    let stored = tile.as_ref().and_then(|(_, hashes)| hashes.as_deref());
    let mut out = BundleResult {
        id,
        path: None,
        entries: vec![],
        broken: None,
        tile: None,
        leaves: None,
        root: None,
        tile_root: None,
        objects: 0,
    };
    if let Some((found, bytes)) = &input.bundle {
        out.path = Some(found.path());
        for item in bundle_entries(found.width(), bytes) {
            match item {
                // What is beyond the checkpoint is not covered by it.
                Ok(_) if out.entries.len() == width => break,
                Ok(item) => {
                    let leaf = Hash::leaf(item.bytes);
                    let in_tile = stored.and_then(|hashes| hashes.get(out.entries.len()));
                    let entry = Entry::decode(item.bytes);
                    let bad_objects = check_objects(&entry, objects, &mut out.objects);
                    out.entries.push(CheckedEntry {
                        offset: item.offset,
                        leaf,
                        as_in_tile: in_tile.is_none_or(|hash| *hash == leaf),
                        entry,
                        bad_objects,
                    });
                }
                Err(_) if out.entries.len() == width && found.width() != id.width() => break,
                Err(broken) => out.broken = Some(broken),
            }
        }
    }
    let mut leaves: Vec<Hash> = out.entries.iter().map(|entry| entry.leaf).collect();
    leaves.extend(stored.into_iter().flatten().skip(leaves.len()));
    if leaves.len() == width {
        out.root = id.is_full().then(|| root_of(&leaves));
        out.leaves = Some(leaves);
    }
    let differs = out.entries.iter().any(|entry| !entry.as_in_tile);
    out.tile_root = stored.filter(|_| differs && id.is_full()).map(root_of);
    out.tile = tile;
    out
}

fn check_objects(
    entry: &Result<Entry, EntryError>,
    objects: &impl ObjectCheck,
    count: &mut u64,
) -> Vec<(ObjectRef, ObjectState)> {
    let Ok(entry) = entry else { return vec![] };
    *count += entry.objs.len() as u64;
    let states = entry.objs.iter().map(|object| (*object, objects.check(object)));
    states.filter(|(_, state)| *state != ObjectState::Good).collect()
}
