//! The bytes of the journal: segment headers and frames.
//!
//! All numbers are little-endian. A segment is a header page and then frames, each of whole pages:
//!
//! | bytes of a frame header | hold |
//! |---|---|
//! | 0..8 | `bullafr1` |
//! | 8..12, 12..16, 16..20, 20..24 | length of the body; entries, objects and sides in it |
//! | 24..32, 32..40, 40..48 | index of the first entry, number of the frame, its offset |
//! | 48..80 | chain value of the frame before |
//! | 80..96 | tag: HMAC-SHA-256 under the segment's salt over 0..80, cut to 16 bytes |
//! | 96..128 | chain: SHA-256 over `bulla1`, salt, 0..96, hashes of leaves, objects, sides |
//!
//! The body is entries, objects and sides, each with its length in 4 bytes before it, and zeros to
//! the end of the page. The salt is random and secret to the host: what a target or a client puts
//! into a payload cannot pass for a frame, because its author cannot know the tag.

use aws_lc_rs::{digest, hmac};
use bulla_tlog::Hash;

use crate::aligned::{AlignedBuf, PAGE, page_up};

const FRAME_MAGIC: &[u8; 8] = b"bullafr1";
const SEGMENT_MAGIC: &[u8; 8] = b"bullasg1";
const CHAIN_DOMAIN: &[u8] = b"bulla1";
const TAGGED_BYTES: usize = 80;
const CHAINED_BYTES: usize = 96;
pub(crate) const FRAME_HEADER_BYTES: usize = 128;
/// Before each part of a body: its length.
const PART_PREFIX_BYTES: usize = 4;
/// Bytes of a frame at which the committer stops adding to it.
pub(crate) const FRAME_BYTES_FULL: usize = 1 << 20;

pub(crate) type Salt = [u8; 32];

/// What opens a segment.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub number: u64,
    pub bytes: u64,
    /// SHA-256 of the log's origin.
    pub origin: Hash,
    pub salt: Salt,
}

impl std::fmt::Debug for SegmentHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SegmentHeader({}, {} bytes)", self.number, self.bytes)
    }
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> AlignedBuf {
        let mut out = AlignedBuf::new();
        out.extend(SEGMENT_MAGIC);
        out.extend(&self.number.to_le_bytes());
        out.extend(&self.bytes.to_le_bytes());
        out.extend(&self.origin.0);
        out.extend(&self.salt);
        let check = Hash::of(out.as_slice());
        out.extend(&check.0);
        out.pad();
        out
    }

    /// None unless it is what [`SegmentHeader::encode`] writes.
    pub(crate) fn decode(page: &[u8]) -> Option<Self> {
        let mut at = Cursor(page);
        if at.take(8)? != SEGMENT_MAGIC {
            return None;
        }
        let (number, bytes) = (at.u64()?, at.u64()?);
        let (origin, salt) = (at.hash()?, at.hash()?);
        let check = at.hash()?;
        let good = Hash::of(page.get(..88)?) == check && at.0.iter().all(|byte| *byte == 0);
        (good && page.len() == PAGE).then_some(Self { number, bytes, origin, salt: salt.0 })
    }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    fn hash(&mut self) -> Option<Hash> {
        self.array().map(Hash)
    }
    fn part(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(len as usize)
    }
}

/// The salt as a key, ready for use.
pub(crate) struct Keyed {
    salt: Salt,
    tag: hmac::Key,
}

impl Keyed {
    pub(crate) fn new(salt: Salt) -> Self {
        Self { salt, tag: hmac::Key::new(hmac::HMAC_SHA256, &salt) }
    }

    fn tag(&self, head: &[u8]) -> [u8; 16] {
        let tag = hmac::sign(&self.tag, head);
        let mut out = [0; 16];
        out.copy_from_slice(tag.as_ref().get(..16).unwrap_or(&[0; 16]));
        out
    }

    fn chain<'a>(&self, head: &[u8], parts: impl Iterator<Item = &'a Hash>) -> Hash {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(CHAIN_DOMAIN);
        context.update(&self.salt);
        context.update(head);
        parts.for_each(|hash| context.update(&hash.0));
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        Hash(out)
    }
}

/// Where the next frame goes and what it follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Position {
    pub index: u64,
    pub batch: u64,
    pub chain: Hash,
}

impl Position {
    pub(crate) const START: Self = Self { index: 0, batch: 0, chain: Hash([0; 32]) };
}

/// One entry with what must become durable together with it.
#[derive(Debug)]
pub(crate) struct Payload {
    pub entry: Vec<u8>,
    /// RFC 6962 leaf hash of `entry`.
    pub leaf: Hash,
    /// SHA-256 of each object, and the object.
    pub objects: Vec<(Hash, Vec<u8>)>,
    /// Records of the ledger's own that are no part of the log, such as wrapped keys.
    pub sides: Vec<Vec<u8>>,
}

impl Payload {
    pub(crate) fn new(entry: Vec<u8>) -> Self {
        let leaf = Hash::leaf(&entry);
        Self { entry, leaf, objects: vec![], sides: vec![] }
    }

    /// Bytes in a frame's body.
    pub(crate) fn body_bytes(&self) -> usize {
        let parts = std::iter::once(self.entry.len())
            .chain(self.objects.iter().map(|(_, object)| object.len()))
            .chain(self.sides.iter().map(Vec::len));
        parts.map(|len| len + PART_PREFIX_BYTES).sum()
    }

    /// Bytes on disk of a frame that holds this alone. Frames that hold several are never longer
    /// than the sum of these.
    pub(crate) fn frame_bytes(&self) -> usize {
        frame_bytes(self.body_bytes())
    }
}

/// Bytes on disk of a frame with such a body.
pub(crate) fn frame_bytes(body: usize) -> usize {
    page_up(FRAME_HEADER_BYTES + body)
}

/// Writes one frame into `out`, replacing what is there, and returns its chain value. None if a
/// length does not fit its field.
pub(crate) fn encode<'a>(
    out: &mut AlignedBuf,
    keyed: &Keyed,
    at: Position,
    offset: u64,
    payloads: impl Iterator<Item = &'a Payload> + Clone,
) -> Option<Hash> {
    let objects = || payloads.clone().flat_map(|payload| &payload.objects);
    let sides = || payloads.clone().flat_map(|payload| &payload.sides);
    let body: usize = payloads.clone().map(Payload::body_bytes).sum();
    out.clear();
    out.extend(FRAME_MAGIC);
    for count in [body, payloads.clone().count(), objects().count(), sides().count()] {
        out.extend(&u32::try_from(count).ok()?.to_le_bytes());
    }
    for number in [at.index, at.batch, offset] {
        out.extend(&number.to_le_bytes());
    }
    out.extend(&at.chain.0);
    let tag = keyed.tag(out.as_slice());
    out.extend(&tag);
    let side_hashes: Vec<Hash> = sides().map(|side| Hash::of(side)).collect();
    let leaves = payloads.clone().map(|payload| &payload.leaf);
    let hashes = leaves.chain(objects().map(|(hash, _)| hash)).chain(&side_hashes);
    let chain = keyed.chain(out.as_slice(), hashes);
    out.extend(&chain.0);
    let entries = payloads.clone().map(|payload| &payload.entry);
    for part in entries.chain(objects().map(|(_, object)| object)).chain(sides()) {
        out.extend(&u32::try_from(part.len()).ok()?.to_le_bytes());
        out.extend(part);
    }
    out.pad();
    Some(chain)
}

/// A frame header whose tag is good: this host wrote it, here.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub body: usize,
    pub entries: u32,
    objects: u32,
    sides: u32,
    pub index: u64,
    pub batch: u64,
    pub prev: Hash,
    chain: Hash,
}

impl Head {
    /// None unless `page` starts with a header that this segment's salt vouches for, at this
    /// offset.
    pub(crate) fn decode(page: &[u8], keyed: &Keyed, offset: u64) -> Option<Self> {
        let mut at = Cursor(page);
        if at.take(8)? != FRAME_MAGIC {
            return None;
        }
        let (body, entries, objects, sides) = (at.u32()?, at.u32()?, at.u32()?, at.u32()?);
        let (index, batch, place) = (at.u64()?, at.u64()?, at.u64()?);
        let prev = at.hash()?;
        let tag: [u8; 16] = at.array()?;
        let chain = at.hash()?;
        let good = place == offset && keyed.tag(page.get(..TAGGED_BYTES)?) == tag;
        let body = body as usize;
        good.then_some(Self { body, entries, objects, sides, index, batch, prev, chain })
    }

    pub(crate) fn position(&self) -> Position {
        Position { index: self.index, batch: self.batch, chain: self.prev }
    }

    /// Bytes on disk.
    pub(crate) fn frame_bytes(&self) -> usize {
        frame_bytes(self.body)
    }

    /// Where the next frame stands in the chain. None if a number would overflow.
    pub(crate) fn next(&self) -> Option<Position> {
        let index = self.index.checked_add(u64::from(self.entries))?;
        Some(Position { index, batch: self.batch.checked_add(1)?, chain: self.chain })
    }
}

/// A frame read back and found whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub index: u64,
    pub entries: Vec<(Hash, Vec<u8>)>,
    pub objects: Vec<(Hash, Vec<u8>)>,
    pub sides: Vec<Vec<u8>>,
}

/// The whole frame, checked to its last byte of padding. None if anything differs from what was
/// written.
pub(crate) fn decode(bytes: &[u8], keyed: &Keyed, head: &Head) -> Option<Frame> {
    if bytes.len() != head.frame_bytes() {
        return None;
    }
    let body_end = FRAME_HEADER_BYTES.checked_add(head.body)?;
    let mut at = Cursor(bytes.get(FRAME_HEADER_BYTES..body_end)?);
    let mut parts = |count: u32, hash: fn(&[u8]) -> Hash| -> Option<Vec<(Hash, Vec<u8>)>> {
        (0..count).map(|_| at.part().map(|part| (hash(part), part.to_vec()))).collect()
    };
    let entries = parts(head.entries, Hash::leaf)?;
    let objects = parts(head.objects, Hash::of)?;
    let sides = parts(head.sides, Hash::of)?;
    let padding = bytes.get(body_end..)?;
    if !at.0.is_empty() || padding.iter().any(|byte| *byte != 0) {
        return None;
    }
    let hashes = entries.iter().chain(&objects).chain(&sides).map(|(hash, _)| hash);
    if keyed.chain(bytes.get(..CHAINED_BYTES)?, hashes) != head.chain {
        return None;
    }
    let sides = sides.into_iter().map(|(_, side)| side).collect();
    Some(Frame { index: head.index, entries, objects, sides })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(entry: &[u8]) -> Payload {
        let mut payload = Payload::new(entry.to_vec());
        payload.objects = vec![(Hash::of(b"object"), b"object".to_vec())];
        payload.sides = vec![b"side".to_vec()];
        payload
    }

    fn encoded(keyed: &Keyed) -> (AlignedBuf, Hash) {
        let at = Position { index: 5, batch: 2, chain: Hash([3; 32]) };
        let mut out = AlignedBuf::new();
        let payloads = [payload(b"one"), payload(&[1; 5000])];
        let chain = encode(&mut out, keyed, at, 8192, payloads.iter()).unwrap();
        assert_eq!(out.len() % PAGE, 0);
        (out, chain)
    }

    #[test]
    fn a_frame_reads_back() {
        let keyed = Keyed::new([9; 32]);
        let (out, chain) = encoded(&keyed);
        let head = Head::decode(out.as_slice(), &keyed, 8192).unwrap();
        assert_eq!(head.next().unwrap(), Position { index: 7, batch: 3, chain });
        let frame = decode(out.as_slice(), &keyed, &head).unwrap();
        assert_eq!((frame.entries.len(), frame.objects.len(), frame.sides.len()), (2, 2, 2));
        assert_eq!(frame.entries[0].1, b"one");
    }

    #[test]
    fn no_byte_of_a_frame_may_change() {
        let keyed = Keyed::new([9; 32]);
        let (out, _) = encoded(&keyed);
        for i in 0..out.len() {
            let mut bytes = out.as_slice().to_vec();
            bytes[i] ^= 1;
            let frame = Head::decode(&bytes, &keyed, 8192)
                .filter(|head| head.frame_bytes() == bytes.len())
                .and_then(|head| decode(&bytes, &keyed, &head));
            assert_eq!(frame, None, "byte {i}");
        }
        assert!(Head::decode(out.as_slice(), &keyed, 4096).is_none());
        assert!(Head::decode(out.as_slice(), &Keyed::new([8; 32]), 8192).is_none());
    }

    #[test]
    fn no_byte_of_a_segment_header_may_change() {
        let header =
            SegmentHeader { number: 7, bytes: 1 << 20, origin: Hash::of(b"x"), salt: [4; 32] };
        let page = header.encode();
        assert_eq!(SegmentHeader::decode(page.as_slice()), Some(header));
        for i in 0..PAGE {
            let mut bytes = page.as_slice().to_vec();
            bytes[i] ^= 1;
            assert_eq!(SegmentHeader::decode(&bytes), None, "byte {i}");
        }
    }
}
