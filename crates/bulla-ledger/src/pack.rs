//! Packs: the ciphertexts of evidence, many to a file. `objects/<first>.pack`, where `<first>` is
//! the index, in 20 digits, of the first entry whose objects it holds; all objects of one entry
//! stand in one pack. A pack is 16 bytes (`bullapk1` and zeros) and then objects: SHA-256 of the
//! ciphertext, its length in 4 bytes, big-endian, and the ciphertext.
//!
//! A pack that is complete has an index `<first>.idx`: its objects' hashes, sorted, each with the
//! offset of the ciphertext in 8 bytes and its length in 4. It can always be made again.

use bulla_tlog::Hash;

pub(crate) const PACK_MAGIC: &[u8; 16] = b"bullapk1\0\0\0\0\0\0\0\0";
/// A pack is complete once it is this long; in this crate's own tests, once it holds anything.
pub(crate) const PACK_BYTES_FULL: u64 = if cfg!(test) { 64 } else { 256 << 20 };
/// Before each ciphertext.
pub(crate) const OBJECT_HEAD_BYTES: usize = 32 + 4;
pub(crate) const INDEX_RECORD_BYTES: usize = 32 + 8 + 4;

pub(crate) fn pack_path(first: u64) -> String {
    format!("objects/{first:020}.pack")
}

pub(crate) fn index_path(first: u64) -> String {
    format!("objects/{first:020}.idx")
}

/// The first entry of a pack's file name.
pub(crate) fn parse_pack_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".pack").filter(|digits| digits.len() == 20)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

pub(crate) fn object_head(hash: &Hash, len: usize) -> Option<[u8; OBJECT_HEAD_BYTES]> {
    let mut out = [0; OBJECT_HEAD_BYTES];
    out[..32].copy_from_slice(&hash.0);
    out[32..].copy_from_slice(&u32::try_from(len).ok()?.to_be_bytes());
    Some(out)
}

pub(crate) fn parse_object_head(head: &[u8; OBJECT_HEAD_BYTES]) -> (Hash, u32) {
    let (hash, len) = head.split_at(32);
    let mut out = Hash([0; 32]);
    out.0.copy_from_slice(hash);
    (out, u32::from_be_bytes(len.try_into().unwrap_or_default()))
}

/// Where an object's ciphertext stands in its pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub(crate) struct Place {
    pub hash: Hash,
    pub offset: u64,
    pub len: u32,
}

/// The bytes of a pack's index.
pub(crate) fn encode_index(places: &mut [Place]) -> Vec<u8> {
    places.sort_unstable();
    let mut out = Vec::with_capacity(places.len() * INDEX_RECORD_BYTES);
    for place in places {
        out.extend_from_slice(&place.hash.0);
        out.extend_from_slice(&place.offset.to_be_bytes());
        out.extend_from_slice(&place.len.to_be_bytes());
    }
    out
}

pub(crate) fn parse_index_record(record: &[u8; INDEX_RECORD_BYTES]) -> Place {
    let mut place = Place { hash: Hash([0; 32]), offset: 0, len: 0 };
    let (hash, rest) = record.split_at(32);
    let (offset, len) = rest.split_at(8);
    place.hash.0.copy_from_slice(hash);
    place.offset = u64::from_be_bytes(offset.try_into().unwrap_or_default());
    place.len = u32::from_be_bytes(len.try_into().unwrap_or_default());
    place
}
