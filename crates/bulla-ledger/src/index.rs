//! The index of sessions: which entries a session has, without reading the log. One file for each
//! 16,384 entries, `index/<n>.idx`, of 32 bytes an entry that belongs to a session: session id,
//! index of the entry (8 bytes, big-endian), kind, 7 zeros; sorted by session and entry.
//!
//! It is derived and proves nothing: a reader checks what it finds, and makes the index anew where
//! it is missing or malformed.

use std::io;

use bulla_tlog::entry::{Entry, Kind};

use crate::vfs::VfsFile;

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

/// A session's records in the file of a chunk; none if it is no such file.
pub(crate) fn search(
    chunk: u64,
    file: &dyn VfsFile,
    sid: &[u8; 16],
) -> io::Result<Option<Vec<Record>>> {
    let size = file.size()?;
    let count = size / RECORD_BYTES as u64;
    if !size.is_multiple_of(RECORD_BYTES as u64) || count > CHUNK_ENTRIES {
        return Ok(None);
    }
    let read = |at: u64| -> io::Result<Option<Record>> {
        let mut bytes = [0; RECORD_BYTES];
        let got = file.pread(&mut bytes, at * RECORD_BYTES as u64)?;
        let record = Record::decode(&bytes).filter(|_| got == RECORD_BYTES);
        Ok(record.filter(|r| r.index / CHUNK_ENTRIES == chunk && r.kind().is_some()))
    };
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        let Some(record) = read(middle)? else { return Ok(None) };
        if record.sid < *sid {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let mut out = vec![];
    while low < count {
        let Some(record) = read(low)? else { return Ok(None) };
        if record.sid != *sid {
            break;
        }
        out.push(record);
        low += 1;
    }
    Ok(Some(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_found_by_bisection() {
        use crate::vfs::{Privacy, Vfs, sim::SimVfs};
        let mut records = vec![];
        for sid in (1..200u8).step_by(2) {
            for n in 0..u64::from(sid % 7) {
                records.push(Record { sid: [sid; 16], index: u64::from(sid) + n * 256, kind: 5 });
            }
        }
        let bytes = encode(&mut records);
        let vfs = SimVfs::new();
        let file = vfs.create(std::path::Path::new("/i"), Privacy::Shared).unwrap();
        file.pwrite(&bytes, 0).unwrap();
        for sid in 0..=255u8 {
            let found = search(0, &*file, &[sid; 16]).unwrap().unwrap();
            let expect: Vec<Record> =
                records.iter().filter(|record| record.sid == [sid; 16]).copied().collect();
            assert_eq!(found, expect, "{sid}");
        }
        assert_eq!(search(1, &*file, &[9; 16]).unwrap(), None);
        file.pwrite(&[0; 3], bytes.len() as u64).unwrap();
        assert_eq!(search(0, &*file, &[9; 16]).unwrap(), None);
    }

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
