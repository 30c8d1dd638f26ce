//! The index of sessions: which entries a session has, without reading the log. One file for each
//! 16,384 entries, `index/<n>.idx`, of 32 bytes an entry that belongs to a session: session id,
//! index of the entry (8 bytes, big-endian), kind, 7 zeros; sorted by session and entry.
//!
//! It is derived and proves nothing: a reader checks what it finds, and makes the index anew where it
//! is missing or malformed.

use bulla_tlog::entry::{Entry, Kind};

/// Entries that one file covers: 64 bundles.
pub(crate) const CHUNK_ENTRIES: u64 = 16_384;
pub(crate) const RECORD_BYTES: usize = 32;

pub(crate) fn index_path(chunk: u64) -> String {
    format!("index/{chunk:016}.idx")
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Record {
    pub sid: [u8; 16],
    pub index: u64,
    pub kind: u8,
}

impl Record {
    pub(crate) fn of(index: u64, entry: &Entry) -> Option<Self> {
        let link = entry.session?;
        Some(Self { sid: link.sid, index, kind: entry.kind.code() as u8 })
    }

    pub(crate) fn kind(&self) -> Option<Kind> {
        Kind::from_code(u64::from(self.kind))
    }

    fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        out[..16].copy_from_slice(&self.sid);
        out[16..24].copy_from_slice(&self.index.to_be_bytes());
        out[24] = self.kind;
        out
    }

    fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        let sid = bytes.get(..16)?.try_into().ok()?;
        let index = u64::from_be_bytes(bytes.get(16..24)?.try_into().ok()?);
        let zeros = bytes.get(25..)?.iter().all(|byte| *byte == 0);
        zeros.then_some(Self { sid, index, kind: bytes[24] })
    }
}

pub(crate) fn encode(records: &mut [Record]) -> Vec<u8> {
    records.sort_unstable();
    records.iter().flat_map(Record::encode).collect()
}

/// None unless it is an index of this chunk.
pub(crate) fn decode(chunk: u64, bytes: &[u8]) -> Option<Vec<Record>> {
    let (records, rest) = bytes.as_chunks::<RECORD_BYTES>();
    let records: Vec<Record> = records.iter().map(Record::decode).collect::<Option<_>>()?;
    let first = chunk.checked_mul(CHUNK_ENTRIES)?;
    let range = first..first.checked_add(CHUNK_ENTRIES)?;
    let good = rest.is_empty()
        && records.is_sorted_by(|a, b| a < b)
        && records.iter().all(|record| range.contains(&record.index) && record.kind().is_some());
    good.then_some(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_reads_back() {
        let record = |sid: u8, index| Record { sid: [sid; 16], index, kind: 5 };
        let bytes = encode(&mut [record(2, 16_385), record(1, 16_390), record(1, 16_384)]);
        let back = decode(1, &bytes).unwrap();
        assert_eq!(back, [record(1, 16_384), record(1, 16_390), record(2, 16_385)]);
        assert_eq!(decode(0, &bytes), None);
        assert_eq!(decode(1, &bytes[1..]), None);
        assert_eq!(decode(1, &bytes[..31]), None);
        assert_eq!(decode(1, b""), Some(vec![]));
    }
}
