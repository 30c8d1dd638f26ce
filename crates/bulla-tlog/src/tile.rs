//! Tiles and entry bundles: their paths and their bytes (C2SP tlog-tiles v0.1.0), and which of
//! them a growing tree touches.
//!
//! Every decoder takes one spelling only: a path that [`TileId::path`] would not write, a tile of
//! the wrong length or a bundle with a byte too many is refused.

use crate::hash::{HASH_BYTES, Hash};

/// Hashes in a full tile, and entries in a full bundle.
pub const TILE_WIDTH: u16 = 256;
/// Levels of the Merkle tree that one tile spans.
pub const TILE_HEIGHT: u8 = 8;
/// Highest tile level that a path may name.
pub const TILE_LEVEL_MAX: u8 = 63;
/// Longest entry, in bytes: its length is written in 16 bits.
pub const ENTRY_BYTES_MAX: usize = 65_535;
/// Longest path of a tile or bundle, in bytes: `tile/entries/`, seven groups, `.p/255`.
pub const PATH_BYTES_MAX: usize = 64;

/// Names one tile: level, index within the level, and width. Full if 256 wide.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TileId {
    level: u8,
    index: u64,
    width: u16,
}

/// Names one entry bundle: the entries `index * 256 ..` of the log, `width` of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BundleId {
    index: u64,
    width: u16,
}

/// What a tree of one size stores under one index of one level.
fn width_at(count: u64, index: u64) -> Option<u16> {
    let left = count.checked_sub(index.checked_mul(u64::from(TILE_WIDTH))?)?;
    match left.min(u64::from(TILE_WIDTH)) as u16 {
        0 => None,
        width => Some(width),
    }
}

impl TileId {
    /// None if the level is above [`TILE_LEVEL_MAX`] or the width is not in `1..=256`.
    pub fn new(level: u8, index: u64, width: u16) -> Option<Self> {
        let fits = level <= TILE_LEVEL_MAX && (1..=TILE_WIDTH).contains(&width);
        fits.then_some(Self { level, index, width })
    }

    /// The tile at `level` and `index` as a tree of `size` leaves has it; none where it has none.
    pub fn at(size: u64, level: u8, index: u64) -> Option<Self> {
        let width = width_at(hashes_at(size, level), index)?;
        Self::new(level, index, width)
    }

    pub fn level(&self) -> u8 {
        self.level
    }
    pub fn index(&self) -> u64 {
        self.index
    }
    /// Hashes in it, `1..=256`.
    pub fn width(&self) -> u16 {
        self.width
    }
    pub fn is_full(&self) -> bool {
        self.width == TILE_WIDTH
    }
    /// The full tile of the same place.
    #[must_use]
    pub fn full(&self) -> Self {
        Self { width: TILE_WIDTH, ..*self }
    }

    /// `tile/<L>/<N>[.p/<W>]`.
    pub fn path(&self) -> String {
        format!("tile/{}/{}", self.level, place(self.index, self.width))
    }

    /// Reads what [`TileId::path`] writes, and nothing else.
    pub fn parse(path: &str) -> Option<Self> {
        if path.len() > PATH_BYTES_MAX {
            return None;
        }
        let (level, place) = path.strip_prefix("tile/")?.split_once('/')?;
        let level = decimal(level)?.try_into().ok()?;
        let (index, width) = parse_place(place)?;
        Self::new(level, index, width)
    }
}

impl BundleId {
    /// None if the width is not in `1..=256`.
    pub fn new(index: u64, width: u16) -> Option<Self> {
        (1..=TILE_WIDTH).contains(&width).then_some(Self { index, width })
    }

    /// The bundle at `index` as a log of `size` entries has it; none where it has none.
    pub fn at(size: u64, index: u64) -> Option<Self> {
        Self::new(index, width_at(size, index)?)
    }

    pub fn index(&self) -> u64 {
        self.index
    }
    /// Entries in it, `1..=256`.
    pub fn width(&self) -> u16 {
        self.width
    }
    pub fn is_full(&self) -> bool {
        self.width == TILE_WIDTH
    }
    /// The full bundle of the same place.
    #[must_use]
    pub fn full(&self) -> Self {
        Self { width: TILE_WIDTH, ..*self }
    }
    /// Index of its first entry. Saturates where no log reaches.
    pub fn first_entry(&self) -> u64 {
        self.index.saturating_mul(u64::from(TILE_WIDTH))
    }

    /// `tile/entries/<N>[.p/<W>]`.
    pub fn path(&self) -> String {
        format!("tile/entries/{}", place(self.index, self.width))
    }

    /// Reads what [`BundleId::path`] writes, and nothing else.
    pub fn parse(path: &str) -> Option<Self> {
        if path.len() > PATH_BYTES_MAX {
            return None;
        }
        let (index, width) = parse_place(path.strip_prefix("tile/entries/")?)?;
        Self::new(index, width)
    }
}

/// Hashes that a tree of `size` leaves stores at a tile level: its complete subtrees of that
/// height.
pub fn hashes_at(size: u64, level: u8) -> u64 {
    size.checked_shr(u32::from(level) * u32::from(TILE_HEIGHT)).unwrap_or(0)
}

/// The tiles to write when a tree grows from `old` to `new` leaves: those that became full on the
/// way, and the partial ones of `new` that `old` did not have. Lower levels first.
///
/// Nothing if `new` is not larger.
pub fn tiles_changed(old: u64, new: u64) -> impl Iterator<Item = TileId> {
    (0..TILE_HEIGHT).flat_map(move |level| {
        let (old, new) = (hashes_at(old, level), hashes_at(new, level));
        let width = u64::from(TILE_WIDTH);
        let range = if old < new { old / width..new.div_ceil(width) } else { 0..0 };
        range.filter_map(move |index| TileId::new(level, index, width_at(new, index)?))
    })
}

/// The bundles to write when a log grows from `old` to `new` entries, as [`tiles_changed`].
pub fn bundles_changed(old: u64, new: u64) -> impl Iterator<Item = BundleId> {
    let width = u64::from(TILE_WIDTH);
    let range = if old < new { old / width..new.div_ceil(width) } else { 0..0 };
    range.filter_map(move |index| BundleId::at(new, index))
}

/// The partial tiles of a tree: its right edge, from which it can grow. Lower levels first.
pub fn edge_tiles(size: u64) -> impl Iterator<Item = TileId> {
    (0..TILE_HEIGHT).filter_map(move |level| {
        let count = hashes_at(size, level);
        let index = count / u64::from(TILE_WIDTH);
        TileId::new(level, index, width_at(count, index)?)
    })
}

/// The bytes of a tile.
pub fn encode_tile(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// None unless `bytes` hold exactly `width` hashes.
pub fn decode_tile(width: u16, bytes: &[u8]) -> Option<Vec<Hash>> {
    if bytes.len() != usize::from(width) * HASH_BYTES {
        return None;
    }
    bytes.chunks_exact(HASH_BYTES).map(|chunk| chunk.try_into().ok().map(Hash)).collect()
}

/// Why bytes are not an entry bundle. `offset` is where in the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    #[error("entry of {len} bytes is longer than {ENTRY_BYTES_MAX}")]
    EntryTooLong { len: usize },
    #[error("bundle ends within entry {position} at byte {offset}")]
    Truncated { position: u16, offset: usize },
    #[error("bundle has bytes after its last entry, from byte {offset}")]
    Surplus { offset: usize },
}

/// Appends one entry to a bundle's bytes: its length in 16 bits, big-endian, then the entry.
pub fn push_bundle_entry(out: &mut Vec<u8>, entry: &[u8]) -> Result<(), BundleError> {
    let len =
        u16::try_from(entry.len()).map_err(|_| BundleError::EntryTooLong { len: entry.len() })?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(entry);
    Ok(())
}

/// One entry where it stands in a bundle: `offset` is that of its first byte, after the length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BundleEntry<'a> {
    pub offset: usize,
    pub bytes: &'a [u8],
}

/// Walks a bundle of `width` entries. The first error ends the walk; the entries before it hold.
pub fn bundle_entries(
    width: u16,
    bytes: &[u8],
) -> impl Iterator<Item = Result<BundleEntry<'_>, BundleError>> {
    let mut offset = 0;
    let mut position = 0;
    let mut over = false;
    std::iter::from_fn(move || {
        if over {
            return None;
        }
        if position == width {
            over = true;
            return (offset != bytes.len()).then_some(Err(BundleError::Surplus { offset }));
        }
        let item = bundle_entry_at(bytes, offset);
        match item {
            Some(entry) => {
                offset = entry.offset + entry.bytes.len();
                position += 1;
            }
            None => over = true,
        }
        Some(item.ok_or(BundleError::Truncated { position, offset }))
    })
}

fn bundle_entry_at(bytes: &[u8], offset: usize) -> Option<BundleEntry<'_>> {
    let (len, rest) = bytes.get(offset..)?.split_first_chunk::<2>()?;
    let bytes = rest.get(..usize::from(u16::from_be_bytes(*len)))?;
    Some(BundleEntry { offset: offset + 2, bytes })
}

/// All entries of a bundle, or why it is none.
pub fn decode_bundle(width: u16, bytes: &[u8]) -> Result<Vec<&[u8]>, BundleError> {
    bundle_entries(width, bytes).map(|entry| entry.map(|entry| entry.bytes)).collect()
}

fn place(index: u64, width: u16) -> String {
    let mut groups = format!("{:03}", index % 1_000);
    let mut rest = index / 1_000;
    while rest > 0 {
        groups.insert_str(0, &format!("x{:03}/", rest % 1_000));
        rest /= 1_000;
    }
    if width < TILE_WIDTH {
        groups.push_str(&format!(".p/{width}"));
    }
    groups
}

fn parse_place(text: &str) -> Option<(u64, u16)> {
    let (groups, width) = match text.split_once(".p/") {
        None => (text, TILE_WIDTH),
        Some((groups, width)) => {
            let width = decimal(width)?.try_into().ok().filter(|w| (1..TILE_WIDTH).contains(w))?;
            (groups, width)
        }
    };
    let mut index: u64 = 0;
    let mut groups = groups.split('/').peekable();
    let mut first = true;
    while let Some(group) = groups.next() {
        let last = groups.peek().is_none();
        let digits = if last { group } else { group.strip_prefix('x')? };
        if digits.len() != 3 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let value: u64 = digits.parse().ok()?;
        // A leading group of zeros would be a second spelling of the same index.
        if first && !last && value == 0 {
            return None;
        }
        first = false;
        index = index.checked_mul(1_000)?.checked_add(value)?;
    }
    Some((index, width))
}

/// A decimal number in its one spelling: digits only, no leading zero.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain || (text.len() > 1 && text.starts_with('0')) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_back() {
        let check = |level, index, width, path: &str| {
            let tile = TileId::new(level, index, width).unwrap();
            assert_eq!(tile.path(), path);
            assert_eq!(TileId::parse(path), Some(tile));
            assert!(path.len() <= PATH_BYTES_MAX);
        };
        check(0, 0, 256, "tile/0/000");
        check(0, 999, 1, "tile/0/999.p/1");
        check(2, 1_234_067, 256, "tile/2/x001/x234/067");
        check(63, 1_000, 255, "tile/63/x001/000.p/255");
        check(1, u64::MAX, 255, "tile/1/x018/x446/x744/x073/x709/x551/615.p/255");
        let bundle = BundleId::new(273, 112).unwrap();
        assert_eq!(bundle.path(), "tile/entries/273.p/112");
        assert_eq!(BundleId::parse("tile/entries/273.p/112"), Some(bundle));
        assert_eq!(BundleId::parse("tile/entries/x001/000"), BundleId::new(1_000, 256));
    }

    #[test]
    fn other_spellings_of_a_path_are_refused() {
        for bad in [
            "",
            "tile",
            "tile/0",
            "tile/0/",
            "tile/0/0",
            "tile/0/00",
            "tile/0/0000",
            "tile/00/000",
            "tile/64/000",
            "tile/-1/000",
            "tile/0/x000/000",
            "tile/0/x001/x000",
            "tile/0/001/000",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000.p/",
            "tile/0/+00",
            "tile/0/000.p/1/",
            "/tile/0/000",
            "tile/0/000 ",
            "tile/0/x01/000",
            "tile/entries/000",
            "tile/0/x018/x446/x744/x073/x709/x551/616",
            "tile/0/x001/../000",
            "tile/0/٠٠٠",
        ] {
            assert_eq!(TileId::parse(bad), None, "{bad:?}");
        }
        for bad in ["tile/0/000", "tile/entries/0", "tile/entries/000.p/256", "entries/000"] {
            assert_eq!(BundleId::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_specification_s_example_of_70_000_entries() {
        let tiles: Vec<_> = tiles_changed(0, 70_000).collect();
        let count = |level, full: bool| {
            tiles.iter().filter(|t| t.level() == level && t.is_full() == full).count()
        };
        assert_eq!((count(0, true), count(0, false)), (273, 1));
        assert_eq!((count(1, true), count(1, false)), (1, 1));
        assert_eq!((count(2, true), count(2, false)), (0, 1));
        let edge: Vec<_> = edge_tiles(70_000).map(|tile| tile.path()).collect();
        assert_eq!(edge, ["tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"]);
        let edge: Vec<_> = edge_tiles(256).map(|tile| tile.path()).collect();
        assert_eq!(edge, ["tile/1/000.p/1"]);
    }

    #[test]
    fn growing_in_steps_writes_what_growing_at_once_writes() {
        for (steps, size) in [(7, 1_030), (255, 70_000), (65_536, 200_000)] {
            let mut have = std::collections::BTreeSet::new();
            let mut at = 0;
            while at < size {
                let next = (at + steps).min(size);
                have.extend(tiles_changed(at, next));
                at = next;
            }
            for tile in tiles_changed(0, size) {
                assert!(have.contains(&tile), "{tile:?}");
            }
        }
        assert_eq!(tiles_changed(5, 5).count() + tiles_changed(6, 5).count(), 0);
        assert_eq!(bundles_changed(5, 5).count(), 0);
        let bundles: Vec<_> = bundles_changed(200, 513).map(|b| b.path()).collect();
        assert_eq!(bundles, ["tile/entries/000", "tile/entries/001", "tile/entries/002.p/1"]);
    }

    #[test]
    fn the_largest_tree_has_an_edge() {
        assert_eq!(edge_tiles(u64::MAX).count(), 8);
        assert!(edge_tiles(u64::MAX).all(|tile| tile.width() == 255));
        assert_eq!(edge_tiles(0).count(), 0);
        assert_eq!(TileId::at(u64::MAX, 8, 0), None);
        assert_eq!(TileId::at(300, 0, 1).unwrap().width(), 44);
        assert_eq!(TileId::at(300, 0, u64::MAX), None);
        assert_eq!(BundleId::at(512, 2), None);
    }

    #[test]
    fn bundles_are_read_strictly() {
        let mut bytes = vec![];
        for entry in [&b"abc"[..], b"", &[7; ENTRY_BYTES_MAX]] {
            push_bundle_entry(&mut bytes, entry).unwrap();
        }
        assert_eq!(decode_bundle(3, &bytes).unwrap().len(), 3);
        let offsets: Vec<_> =
            bundle_entries(3, &bytes).map(|entry| entry.unwrap().offset).collect();
        assert_eq!(offsets, [2, 7, 9]);
        assert_eq!(decode_bundle(2, &bytes), Err(BundleError::Surplus { offset: 7 }));
        let end = bytes.len();
        assert_eq!(
            decode_bundle(4, &bytes),
            Err(BundleError::Truncated { position: 3, offset: end })
        );
        assert_eq!(
            decode_bundle(3, &bytes[..end - 1]),
            Err(BundleError::Truncated { position: 2, offset: 7 })
        );
        assert_eq!(decode_bundle(1, &[0]), Err(BundleError::Truncated { position: 0, offset: 0 }));
        assert_eq!(
            push_bundle_entry(&mut bytes, &[0; ENTRY_BYTES_MAX + 1]),
            Err(BundleError::EntryTooLong { len: ENTRY_BYTES_MAX + 1 })
        );
    }

    #[test]
    fn tiles_are_read_strictly() {
        let hashes = [Hash::leaf(b"a"), Hash::leaf(b"b")];
        let bytes = encode_tile(&hashes);
        assert_eq!(decode_tile(2, &bytes).unwrap(), hashes);
        assert_eq!(decode_tile(1, &bytes), None);
        assert_eq!(decode_tile(3, &bytes), None);
        assert_eq!(decode_tile(2, &bytes[..63]), None);
    }
}
