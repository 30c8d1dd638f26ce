//! The tree against a naive one that is written straight from RFC 6962 section 2.1.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, HashMap};

use bulla_tlog::{
    Hash,
    tile::{TileId, edge_tiles, encode_tile, tiles_changed},
    tree::*,
};

/// MTH, PATH and PROOF by their definitions, remembering what was computed.
struct Naive {
    leaves: Vec<Hash>,
    known: HashMap<(usize, usize), Hash>,
}

fn leaf(index: usize) -> Hash {
    Hash::leaf(format!("leaf {index}").as_bytes())
}

impl Naive {
    fn new(size: usize) -> Self {
        Self { leaves: (0..size).map(leaf).collect(), known: HashMap::new() }
    }

    fn mth(&mut self, start: usize, end: usize) -> Hash {
        match end - start {
            0 => return Hash::of(b""),
            1 => return self.leaves[start],
            _ => {}
        }
        if let Some(hash) = self.known.get(&(start, end)) {
            return *hash;
        }
        let k = split(end - start);
        let hash = Hash::node(&self.mth(start, start + k), &self.mth(start + k, end));
        self.known.insert((start, end), hash);
        hash
    }

    fn path(&mut self, m: usize, start: usize, end: usize) -> Vec<Hash> {
        let n = end - start;
        if n == 1 {
            return vec![];
        }
        let k = split(n);
        if m < k {
            let mut path = self.path(m, start, start + k);
            path.push(self.mth(start + k, end));
            path
        } else {
            let mut path = self.path(m - k, start + k, end);
            path.push(self.mth(start, start + k));
            path
        }
    }

    fn subproof(&mut self, m: usize, start: usize, end: usize, b: bool) -> Vec<Hash> {
        let n = end - start;
        if m == n {
            return if b { vec![] } else { vec![self.mth(start, end)] };
        }
        let k = split(n);
        if m <= k {
            let mut proof = self.subproof(m, start, start + k, b);
            proof.push(self.mth(start + k, end));
            proof
        } else {
            let mut proof = self.subproof(m - k, start + k, end, false);
            proof.push(self.mth(start, start + k));
            proof
        }
    }
}

fn split(n: usize) -> usize {
    let mut k = 1;
    while k * 2 < n {
        k *= 2;
    }
    k
}

impl HashRead for Naive {
    type Error = std::convert::Infallible;
    fn hash(&mut self, height: u8, index: u64) -> Result<Hash, Self::Error> {
        let (start, end) = ((index << height) as usize, ((index + 1) << height) as usize);
        Ok(self.mth(start, end))
    }
}

const SMALL: usize = 1_025;

#[test]
fn roots_and_frontiers_of_all_sizes_to_1025() {
    let mut naive = Naive::new(SMALL);
    let (mut frontier, mut edge) = (Frontier::new(), Edge::new());
    for size in 0..=SMALL {
        let root = naive.mth(0, size);
        assert_eq!(frontier.root(), root, "size {size}");
        assert_eq!(edge.root(), root, "size {size}");
        assert_eq!(tree_root(&mut naive, size as u64), Ok(root));
        assert_eq!(root_of(&naive.leaves[..size]), root);
        let restored = Frontier::restore(size as u64, frontier.peaks().to_vec()).unwrap();
        assert_eq!(restored, frontier);
        if size < SMALL {
            assert!(frontier.append(leaf(size)));
            assert!(edge.append(leaf(size), |_, _| {}));
        }
    }
    assert_eq!(Frontier::restore(3, vec![leaf(0)]), None);
}

#[test]
fn inclusion_of_every_leaf_in_all_sizes_to_1025() {
    let (mut naive, other) = (Naive::new(SMALL), leaf(SMALL + 1));
    for size in 1..=SMALL {
        let root = naive.mth(0, size);
        for index in 0..size {
            let proof = prove_inclusion(&mut naive, index as u64, size as u64).unwrap();
            assert_eq!(proof, naive.path(index, 0, size), "{index} of {size}");
            let check = |leaf, index: usize, size: usize, proof: &[Hash]| {
                verify_inclusion(leaf, index as u64, size as u64, proof, &root)
            };
            let good = naive.leaves[index];
            assert_eq!(check(&good, index, size, &proof), Ok(()));
            // Everything else that is near is refused; a sample keeps the test short.
            if (index * 7 + size) % 97 == 0 {
                assert!(check(&other, index, size, &proof).is_err());
                assert!(check(&good, size, size, &proof).is_err());
                if size > 1 {
                    assert!(check(&good, (index + 1) % size, size, &proof).is_err());
                    assert!(check(&good, index, size, &proof[1..]).is_err());
                    assert!(check(&good, index, size, &proof[..proof.len() - 1]).is_err());
                }
                for position in 0..=proof.len() {
                    let mut more = proof.clone();
                    more.insert(position, leaf(0));
                    assert!(check(&good, index, size, &more).is_err());
                }
                for position in 0..proof.len() {
                    let mut other = proof.clone();
                    other[position].0[31] ^= 1;
                    assert_eq!(check(&good, index, size, &other), Err(ProofError::Root));
                }
            }
        }
    }
    assert!(matches!(prove_inclusion(&mut naive, 5, 5), Err(ProveError::Index { .. })));
}

#[test]
fn consistency_of_all_pairs_of_sizes_to_1025() {
    let (mut naive, other) = (Naive::new(SMALL), leaf(SMALL + 1));
    let roots: Vec<Hash> = (0..=SMALL).map(|size| naive.mth(0, size)).collect();
    for new in 0..=SMALL {
        for old in 0..=new {
            let proof = prove_consistency(&mut naive, old as u64, new as u64).unwrap();
            let expect = if old == 0 { vec![] } else { naive.subproof(old, 0, new, true) };
            assert_eq!(proof, expect, "{old} of {new}");
            assert!(proof.len() <= CONSISTENCY_HASHES_MAX);
            let check = |old: usize, old_root, new: usize, new_root, proof: &[Hash]| {
                verify_consistency(old as u64, old_root, new as u64, new_root, proof)
            };
            let (a, b) = (&roots[old], &roots[new]);
            assert_eq!(check(old, a, new, b, &proof), Ok(()), "{old} of {new}");
            if (old * 7 + new) % 97 == 0 && old > 0 && old < new {
                assert!(check(old, &other, new, b, &proof).is_err());
                assert!(check(old, a, new, &other, &proof).is_err());
                assert!(check(old, a, new, b, &proof[1..]).is_err());
                assert!(check(old, a, new, b, &proof[..proof.len() - 1]).is_err());
                assert!(check(old, a, new, b, &[&proof[..], &[leaf(0)]].concat()).is_err());
                assert!(check(old - 1, a, new, b, &proof).is_err());
                for position in 0..proof.len() {
                    let mut other = proof.clone();
                    other[position].0[0] ^= 0x80;
                    assert!(check(old, a, new, b, &other).is_err());
                }
            }
        }
    }
    let (a, b) = (&roots[3], &roots[5]);
    assert_eq!(verify_consistency(5, b, 3, a, &[]), Err(ProofError::Sizes));
    assert_eq!(verify_consistency(3, a, 3, b, &[]), Err(ProofError::Root));
    assert_eq!(verify_consistency(3, a, 3, a, &[*a]), Err(ProofError::Length));
    assert_eq!(verify_consistency(0, a, 3, a, &[]), Err(ProofError::Root));
    assert!(prove_consistency(&mut naive, 6, 5).is_err());
}

/// Tiles as an archive keeps them, partial ones of every size that was asked for.
#[derive(Default)]
struct Tiles(BTreeMap<TileId, Vec<u8>>);

impl TileRead for Tiles {
    type Error = std::convert::Infallible;
    fn read_tile(&mut self, tile: TileId) -> Result<Option<Vec<u8>>, Self::Error> {
        Ok(self.0.get(&tile).cloned())
    }
}

impl Tiles {
    fn put(&mut self, tile: TileId, hashes: &[Hash]) {
        assert_eq!(hashes.len(), usize::from(tile.width()), "{tile:?}");
        self.0.insert(tile, encode_tile(hashes));
    }

    fn put_partial(&mut self, edge: &Edge) {
        edge.partial_tiles().for_each(|(tile, hashes)| self.put(tile, hashes));
    }
}

#[test]
fn the_edge_writes_the_tiles_of_all_sizes_to_1025() {
    let mut naive = Naive::new(SMALL);
    let (mut edge, mut tiles) = (Edge::new(), Tiles::default());
    for size in 0..=SMALL {
        tiles.put_partial(&edge);
        for tile in tiles_changed(0, size as u64) {
            let first = tile.index() << 8;
            let height = tile.level() * 8;
            let expect: Vec<Hash> = (first..first + u64::from(tile.width()))
                .map(|item| naive.hash(height, item).unwrap())
                .collect();
            assert_eq!(tiles.0.get(&tile), Some(&encode_tile(&expect)), "{tile:?} of {size}");
        }
        assert_eq!(Edge::restore(size as u64, &mut tiles).unwrap(), edge, "size {size}");
        if size < SMALL {
            assert!(edge.append(leaf(size), |tile, hashes| tiles.put(tile, hashes)));
        }
    }
}

#[test]
fn tiles_prove_as_the_tree_does_where_levels_begin() {
    const SIZES: [usize; 6] = [65_535, 65_536, 65_537, 65_793, 70_000, 131_073];
    let mut naive = Naive::new(SIZES[5]);
    let (mut edge, mut tiles) = (Edge::new(), Tiles::default());
    for size in 0..=SIZES[5] {
        if SIZES.contains(&size) {
            tiles.put_partial(&edge);
        }
        if size < SIZES[5] {
            assert!(edge.append(leaf(size), |tile, hashes| tiles.put(tile, hashes)));
        }
    }
    for size in SIZES {
        let root = naive.mth(0, size);
        for tile in tiles_changed(0, size as u64) {
            assert!(tiles.0.contains_key(&tile), "{tile:?} of {size}");
        }
        let restored = Edge::restore(size as u64, &mut tiles).unwrap();
        assert_eq!(restored.root(), root, "size {size}");
        let mut hashes = TileHashes::new(&mut tiles, size as u64);
        assert_eq!(tree_root(&mut hashes, size as u64), Ok(root));
        let near = [0, 1, 255, 256, 257, 65_279, 65_280, 65_534, 65_535, size - 2, size - 1];
        for index in near.into_iter().filter(|index| *index < size) {
            let proof = prove_inclusion(&mut hashes, index as u64, size as u64).unwrap();
            assert_eq!(proof, naive.path(index, 0, size), "{index} of {size}");
            let leaf = naive.leaves[index];
            verify_inclusion(&leaf, index as u64, size as u64, &proof, &root).unwrap();
        }
        for old in near.into_iter().filter(|old| *old < size) {
            let proof = prove_consistency(&mut hashes, old as u64, size as u64).unwrap();
            let old_root = naive.mth(0, old);
            verify_consistency(old as u64, &old_root, size as u64, &root, &proof).unwrap();
        }
    }
}

#[test]
fn a_partial_tile_may_be_gone_once_the_full_one_is_there() {
    let (mut edge, mut tiles) = (Edge::new(), Tiles::default());
    let mut root = Hash::EMPTY_ROOT;
    for index in 0..512 {
        assert!(edge.append(leaf(index), |tile, hashes| tiles.put(tile, hashes)));
        if index + 1 == 300 {
            root = edge.root();
            tiles.put_partial(&edge);
        }
    }
    let partial = TileId::new(0, 1, 44).unwrap();
    assert!(tiles.0.remove(&partial).is_some());
    assert_eq!(tree_root(&mut TileHashes::new(&mut tiles, 300), 300), Ok(root));
    assert_eq!(Edge::restore(300, &mut tiles).unwrap().root(), root);
    assert!(tiles.0.remove(&partial.full()).is_some());
    let missing = Err(TileHashError::Missing(partial));
    assert_eq!(tree_root(&mut TileHashes::new(&mut tiles, 300), 300), missing);
    tiles.0.insert(partial, vec![0; 44 * 32 - 1]);
    let malformed = Err(TileHashError::Malformed(partial));
    assert_eq!(tree_root(&mut TileHashes::new(&mut tiles, 300), 300), malformed);
}

#[test]
fn hashes_outside_the_tree_are_refused() {
    let mut tiles = Tiles::default();
    let mut edge = Edge::new();
    for index in 0..300 {
        assert!(edge.append(leaf(index), |tile, hashes| tiles.put(tile, hashes)));
    }
    tiles.put_partial(&edge);
    let mut hashes = TileHashes::new(&mut tiles, 300);
    for (height, index) in [(0, 300), (1, 150), (8, 1), (9, 0), (7, u64::MAX), (255, 0), (63, 9)] {
        let found = hashes.hash(height, index);
        assert_eq!(found, Err(TileHashError::OutOfRange), "{height} {index}");
    }
    assert!(hashes.hash(2, 74).is_ok());
}

#[test]
fn subtrees_append_as_their_leaves_do() {
    let mut naive = Naive::new(1_024);
    for full in 0..4 {
        let mut frontier = Frontier::new();
        for tile in 0..full {
            assert!(frontier.append_subtree(8, naive.mth(tile * 256, (tile + 1) * 256)));
        }
        for index in full * 256..full * 256 + 100 {
            assert!(frontier.append(naive.leaves[index]));
        }
        assert_eq!(frontier.root(), naive.mth(0, full * 256 + 100));
        assert!(!frontier.append_subtree(8, leaf(0)), "not aligned");
        assert!(!frontier.append_subtree(64, leaf(0)), "too high");
    }
    let mut last = Frontier::restore(u64::MAX, vec![leaf(0); 64]).unwrap();
    assert!(!last.append(leaf(1)), "full");
    assert_eq!(last.size(), u64::MAX);
    assert_eq!(edge_tiles(u64::MAX).count(), 8);
}
