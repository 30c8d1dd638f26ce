//! The Merkle tree of RFC 6962 section 2.1: growing it, and proving and checking inclusion and
//! consistency.
//!
//! [`Frontier`] is the least that lets a tree grow and know its root. [`Edge`] also hands out the
//! tiles to store. Proofs are built from stored hashes behind [`HashRead`]; [`TileHashes`] serves
//! them from tiles.

use std::collections::HashMap;

use crate::{
    hash::Hash,
    tile::{TILE_HEIGHT, TILE_WIDTH, TileId, decode_tile, edge_tiles},
};

/// Longest inclusion proof: one hash for each level of the largest tree.
pub const INCLUSION_HASHES_MAX: usize = 64;
/// Longest consistency proof.
pub const CONSISTENCY_HASHES_MAX: usize = 65;
/// Tiles that [`TileHashes`] keeps, 8 KiB each.
pub const TILES_CACHED_MAX: usize = 256;

/// The roots of a tree's complete subtrees, largest first: one for each bit set in its size.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    pub fn new() -> Self {
        Self::default()
    }

    /// None unless there is one hash for each bit set in `size`. That they are the right ones shows
    /// only in the root.
    pub fn restore(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (size.count_ones() as usize == peaks.len()).then_some(Self { size, peaks })
    }

    pub fn size(&self) -> u64 {
        self.size
    }
    /// Largest subtree first.
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// Adds one leaf. False, and nothing changed, if the tree has 2^64-1 leaves.
    #[must_use]
    pub fn append(&mut self, leaf: Hash) -> bool {
        self.grow(0, leaf, |_, _| {})
    }

    /// Adds a complete subtree of `2^height` leaves. False, and nothing changed, if the tree's size
    /// is not a multiple of that, or would overflow.
    #[must_use]
    pub fn append_subtree(&mut self, height: u8, root: Hash) -> bool {
        self.grow(height, root, |_, _| {})
    }

    /// `complete` is told height and root of every larger subtree that this one completes.
    fn grow(&mut self, height: u8, root: Hash, mut complete: impl FnMut(u8, Hash)) -> bool {
        let Some(leaves) = 1u64.checked_shl(u32::from(height)) else { return false };
        let aligned = self.size & (leaves - 1) == 0;
        let Some(size) = self.size.checked_add(leaves).filter(|_| aligned) else { return false };
        let (mut height, mut root) = (height, root);
        while self.size & (1u64 << height) != 0 {
            let Some(left) = self.peaks.pop() else { return false };
            self.size &= !(1u64 << height);
            root = Hash::node(&left, &root);
            height += 1;
            complete(height, root);
        }
        self.peaks.push(root);
        self.size = size;
        true
    }

    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else { return Hash::EMPTY_ROOT };
        peaks.fold(*last, |right, left| Hash::node(left, &right))
    }
}

/// A growing tree that knows its partial tiles and hands out each tile as it becomes full. At most
/// 8 × 255 hashes in memory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Edge {
    frontier: Frontier,
    levels: [Vec<Hash>; TILE_HEIGHT as usize],
}

impl Edge {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a tree up again from its stored partial tiles, those of [`edge_tiles`]. The caller
    /// compares [`Edge::root`] with what was signed.
    pub fn restore<R: TileRead>(size: u64, tiles: &mut R) -> Result<Self, TileHashError<R::Error>> {
        let mut edge = Self::default();
        for tile in edge_tiles(size) {
            let hashes = read_tile(tiles, tile)?;
            if let Some(level) = edge.levels.get_mut(usize::from(tile.level())) {
                *level = hashes;
            }
        }
        // Largest subtrees first: the highest level's hashes, then those below.
        for (level, hashes) in edge.levels.iter().enumerate().rev() {
            for hash in hashes {
                let height = (level as u8) * TILE_HEIGHT;
                if !edge.frontier.append_subtree(height, *hash) {
                    return Err(TileHashError::OutOfRange);
                }
            }
        }
        Ok(edge)
    }

    pub fn size(&self) -> u64 {
        self.frontier.size()
    }
    pub fn root(&self) -> Hash {
        self.frontier.root()
    }
    pub fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// Adds one leaf; `full` is told each tile that this completes, lowest level first. False, and
    /// nothing changed, if the tree has 2^64-1 leaves.
    #[must_use]
    pub fn append(&mut self, leaf: Hash, mut full: impl FnMut(TileId, &[Hash])) -> bool {
        let index = self.frontier.size();
        let levels = &mut self.levels;
        // A tile is full when the subtree over it is complete; its root goes one level up.
        let mut push = |level: usize, hash: Hash| {
            let Some(hashes) = levels.get_mut(level) else { return };
            hashes.push(hash);
            if hashes.len() == usize::from(TILE_WIDTH) {
                let tile = index >> ((level + 1) * usize::from(TILE_HEIGHT)).min(63);
                if let Some(id) = TileId::new(level as u8, tile, TILE_WIDTH) {
                    full(id, hashes);
                }
                hashes.clear();
            }
        };
        if index == u64::MAX {
            return false;
        }
        push(0, leaf);
        self.frontier.grow(0, leaf, |height, root| {
            if height % TILE_HEIGHT == 0 {
                push(usize::from(height / TILE_HEIGHT), root);
            }
        })
    }

    /// The partial tiles as they stand, lowest level first.
    pub fn partial_tiles(&self) -> impl Iterator<Item = (TileId, &[Hash])> {
        edge_tiles(self.size()).filter_map(|tile| {
            self.levels.get(usize::from(tile.level())).map(|hashes| (tile, hashes.as_slice()))
        })
    }
}

/// Stored hashes: the root of the complete subtree of `2^height` leaves at `index` (so its first
/// leaf is `index << height`).
pub trait HashRead {
    type Error;
    fn hash(&mut self, height: u8, index: u64) -> Result<Hash, Self::Error>;
}

/// Stored tiles. None means that there is no such tile.
pub trait TileRead {
    type Error;
    fn read_tile(&mut self, tile: TileId) -> Result<Option<Vec<u8>>, Self::Error>;
}

impl<R: TileRead + ?Sized> TileRead for &mut R {
    type Error = R::Error;
    fn read_tile(&mut self, tile: TileId) -> Result<Option<Vec<u8>>, Self::Error> {
        (**self).read_tile(tile)
    }
}

/// Why a hash could not be had from tiles.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TileHashError<E> {
    #[error("read tile: {0}")]
    Read(E),
    #[error("tile `{}` is missing", .0.path())]
    Missing(TileId),
    #[error("tile `{}` has a wrong length", .0.path())]
    Malformed(TileId),
    #[error("hash lies outside the tree")]
    OutOfRange,
}

/// The tile, or the head of the full one where a partial tile has been tidied away.
fn read_tile<R: TileRead>(
    tiles: &mut R,
    tile: TileId,
) -> Result<Vec<Hash>, TileHashError<R::Error>> {
    if let Some(bytes) = tiles.read_tile(tile).map_err(TileHashError::Read)? {
        return decode_tile(tile.width(), &bytes).ok_or(TileHashError::Malformed(tile));
    }
    if tile.is_full() {
        return Err(TileHashError::Missing(tile));
    }
    let full = tile.full();
    let bytes = tiles.read_tile(full).map_err(TileHashError::Read)?;
    let bytes = bytes.ok_or(TileHashError::Missing(tile))?;
    let mut hashes = decode_tile(full.width(), &bytes).ok_or(TileHashError::Malformed(full))?;
    hashes.truncate(usize::from(tile.width()));
    Ok(hashes)
}

/// The hashes of a tree of a given size, out of its tiles.
pub struct TileHashes<R> {
    tiles: R,
    size: u64,
    cached: HashMap<TileId, Vec<Hash>>,
}

impl<R: TileRead> TileHashes<R> {
    pub fn new(tiles: R, size: u64) -> Self {
        Self { tiles, size, cached: HashMap::new() }
    }
}

impl<R: TileRead> HashRead for TileHashes<R> {
    type Error = TileHashError<R::Error>;

    fn hash(&mut self, height: u8, index: u64) -> Result<Hash, Self::Error> {
        let (level, within) = (height / TILE_HEIGHT, height % TILE_HEIGHT);
        let first = index.checked_shl(u32::from(within)).ok_or(TileHashError::OutOfRange)?;
        if first >> within != index {
            return Err(TileHashError::OutOfRange);
        }
        let tile = TileId::at(self.size, level, first / u64::from(TILE_WIDTH))
            .ok_or(TileHashError::OutOfRange)?;
        if self.cached.len() >= TILES_CACHED_MAX {
            self.cached.clear();
        }
        let hashes = match self.cached.entry(tile) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(read_tile(&mut self.tiles, tile)?)
            }
        };
        let start = (first % u64::from(TILE_WIDTH)) as usize;
        let hashes = hashes.get(start..start + (1 << within)).ok_or(TileHashError::OutOfRange)?;
        Ok(root_of(hashes))
    }
}

/// Merkle tree hash over leaf hashes (or over the roots of equal, complete subtrees).
pub fn root_of(hashes: &[Hash]) -> Hash {
    let mut frontier = Frontier::new();
    for hash in hashes {
        let _ = frontier.append(*hash);
    }
    frontier.root()
}

/// The largest power of two below `n`, which is at least 2.
fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

/// Root over the leaves `start..end`, where `start` is a multiple of a power of two not below
/// `end - start`, as every range in a proof is.
fn range_root<R: HashRead>(read: &mut R, start: u64, end: u64) -> Result<Hash, R::Error> {
    let n = end - start;
    if n.is_power_of_two() {
        let height = n.trailing_zeros();
        return read.hash(height as u8, start >> height);
    }
    let middle = start + split(n);
    let left = range_root(read, start, middle)?;
    let right = range_root(read, middle, end)?;
    Ok(Hash::node(&left, &right))
}

/// Why a proof cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProveError<E> {
    #[error("index {index} is not below the tree size {size}")]
    Index { index: u64, size: u64 },
    #[error("old size {old} is above the new size {new}")]
    Sizes { old: u64, new: u64 },
    #[error("read hashes: {0}")]
    Read(E),
}

/// Root of a tree of `size` leaves, out of stored hashes.
pub fn tree_root<R: HashRead>(read: &mut R, size: u64) -> Result<Hash, R::Error> {
    if size == 0 { Ok(Hash::EMPTY_ROOT) } else { range_root(read, 0, size) }
}

/// Inclusion proof (RFC 6962 section 2.1.1), from the leaf's sibling up.
pub fn prove_inclusion<R: HashRead>(
    read: &mut R,
    index: u64,
    size: u64,
) -> Result<Vec<Hash>, ProveError<R::Error>> {
    if index >= size {
        return Err(ProveError::Index { index, size });
    }
    let (mut start, mut end) = (0, size);
    let mut proof = vec![];
    while end - start > 1 {
        let middle = start + split(end - start);
        let beside = if index < middle { (middle, end) } else { (start, middle) };
        proof.push(range_root(read, beside.0, beside.1).map_err(ProveError::Read)?);
        (start, end) = if index < middle { (start, middle) } else { (middle, end) };
    }
    proof.reverse();
    Ok(proof)
}

/// Consistency proof (RFC 6962 section 2.1.2). Empty if `old` is 0 or equal to `new`.
pub fn prove_consistency<R: HashRead>(
    read: &mut R,
    old: u64,
    new: u64,
) -> Result<Vec<Hash>, ProveError<R::Error>> {
    if old > new {
        return Err(ProveError::Sizes { old, new });
    }
    let mut proof = vec![];
    if old == 0 || old == new {
        return Ok(proof);
    }
    let (mut start, mut end) = (0, new);
    while old != end {
        let middle = start + split(end - start);
        let beside = if old <= middle { (middle, end) } else { (start, middle) };
        proof.push(range_root(read, beside.0, beside.1).map_err(ProveError::Read)?);
        (start, end) = if old <= middle { (start, middle) } else { (middle, end) };
    }
    if start != 0 {
        proof.push(range_root(read, start, end).map_err(ProveError::Read)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    #[error("index is not below the tree size")]
    Index,
    #[error("old size is above the new size")]
    Sizes,
    #[error("proof has a wrong number of hashes")]
    Length,
    #[error("proof does not lead to the root")]
    Root,
}

/// Checks that `leaf` is at `index` in the tree of `size` leaves under `root`
/// (RFC 9162 section 2.1.3.2).
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::Index);
    }
    let (mut node, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for beside in proof {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if node & 1 == 1 || node == last {
            hash = Hash::node(beside, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = Hash::node(&hash, beside);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(ProofError::Length);
    }
    if hash == *root { Ok(()) } else { Err(ProofError::Root) }
}

/// Checks that the tree of `new` leaves under `new_root` begins with the tree of `old` leaves under
/// `old_root` (RFC 9162 section 2.1.4.2). Size 0 is the beginning of every tree.
pub fn verify_consistency(
    old: u64,
    old_root: &Hash,
    new: u64,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if old > new {
        return Err(ProofError::Sizes);
    }
    if old == 0 || old == new {
        let expect = if old == 0 { &Hash::EMPTY_ROOT } else { new_root };
        return match (proof.is_empty(), old_root == expect) {
            (false, _) => Err(ProofError::Length),
            (true, false) => Err(ProofError::Root),
            (true, true) => Ok(()),
        };
    }
    let (mut node, mut last) = (old - 1, new - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    // If the old tree is complete its root is the first hash, and is left out of the proof.
    let mut hashes = proof.iter();
    let first = if old.is_power_of_two() { Some(old_root) } else { hashes.next() };
    let Some(first) = first else { return Err(ProofError::Length) };
    let (mut old_hash, mut new_hash) = (*first, *first);
    for beside in hashes {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if node & 1 == 1 || node == last {
            old_hash = Hash::node(beside, &old_hash);
            new_hash = Hash::node(beside, &new_hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = Hash::node(&new_hash, beside);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(ProofError::Length);
    }
    if old_hash == *old_root && new_hash == *new_root { Ok(()) } else { Err(ProofError::Root) }
}
