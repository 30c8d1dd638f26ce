//! What is left of the journal after a crash at any byte: a whole prefix of frames, and a torn tail
//! that is kept aside and then zeroed. What cannot be a torn tail is corruption, and stops the
//! ledger.
//!
//! One write is in flight at a time, so nothing can follow a torn frame. A header behind it whose
//! tag is good therefore proves that the frame was whole once. Recovery is deterministic and may
//! itself be cut off at any byte and run again.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bulla_tlog::Hash;

use super::{
    frame::{self, Frame, Head, Keyed, Position, SegmentHeader},
    segment::{self, Ready, segment_name},
    writer::Current,
};
use crate::{
    aligned::{AlignedBuf, PAGE},
    vfs::{Access, Privacy, Vfs, VfsFile},
};

/// Longest segment that is read.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 1 << 30;
const SCAN_BYTES: usize = 256 * PAGE;

/// Why the journal is not opened.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("read the journal: `{}`: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error(
        "the journal is damaged: `{}` at byte {offset}: {why}; \
         this is no torn tail of a crash, so nothing was changed; keep the directory and compare \
         it with the archive",
        path.display()
    )]
    Corrupt { path: PathBuf, offset: u64, why: &'static str },
    #[error("the journal in `{}` belongs to another log", path.display())]
    Foreign { path: PathBuf },
}

/// What was cut off the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Torn {
    pub segment: u64,
    pub offset: u64,
    /// Up to and including the last byte that is not zero.
    pub bytes: u64,
    pub hash: Hash,
}

/// The journal, found and made whole.
pub(crate) struct Recovered {
    /// The segment to go on with; none if there is none yet.
    pub current: Option<Current>,
    pub spares: Vec<Ready>,
    pub next_number: u64,
    pub at: Position,
    pub torn: Option<Torn>,
}

/// What recovery hands out on its way.
pub(crate) trait Visit {
    /// Each whole frame in order, and the segment that it is in.
    fn frame(&mut self, segment: u64, frame: Frame) -> Result<(), RecoverError>;
}

impl<F: FnMut(u64, Frame) -> Result<(), RecoverError>> Visit for F {
    fn frame(&mut self, segment: u64, frame: Frame) -> Result<(), RecoverError> {
        self(segment, frame)
    }
}

struct Segment {
    path: PathBuf,
    file: Box<dyn VfsFile>,
    header: SegmentHeader,
    keyed: Keyed,
}

impl Segment {
    fn io(&self) -> impl FnOnce(io::Error) -> RecoverError + '_ {
        |error| RecoverError::Io { path: self.path.clone(), error }
    }
    fn corrupt(&self, offset: u64, why: &'static str) -> RecoverError {
        RecoverError::Corrupt { path: self.path.clone(), offset, why }
    }

    fn page(&self, offset: u64, buf: &mut AlignedBuf) -> Result<(), RecoverError> {
        buf.resize(PAGE);
        let got = self.file.pread(buf.as_mut_slice(), offset).map_err(self.io())?;
        if got == PAGE { Ok(()) } else { Err(self.corrupt(offset, "the segment is cut short")) }
    }

    /// Header and frame at `offset`, if both are good.
    fn frame_at(
        &self,
        offset: u64,
        buf: &mut AlignedBuf,
    ) -> Result<Option<(Head, Option<Frame>)>, RecoverError> {
        if offset + PAGE as u64 > self.header.bytes {
            return Ok(None);
        }
        self.page(offset, buf)?;
        let Some(head) = Head::decode(buf.as_slice(), &self.keyed, offset) else { return Ok(None) };
        let bytes = head.frame_bytes();
        if offset + bytes as u64 > self.header.bytes {
            return Ok(Some((head, None)));
        }
        buf.resize(bytes);
        let got = self.file.pread(buf.as_mut_slice(), offset).map_err(self.io())?;
        let frame = buf.as_slice().get(..got).and_then(|b| frame::decode(b, &self.keyed, &head));
        Ok(Some((head, frame)))
    }

    /// Calls `f` with each run of pages from `offset` to the end.
    fn scan(
        &self,
        offset: u64,
        mut f: impl FnMut(u64, &[u8]) -> Result<(), RecoverError>,
    ) -> Result<(), RecoverError> {
        let mut buf = AlignedBuf::new();
        let mut at = offset;
        while at < self.header.bytes {
            let n = (self.header.bytes - at).min(SCAN_BYTES as u64) as usize;
            buf.resize(n);
            let got = self.file.pread(buf.as_mut_slice(), at).map_err(self.io())?;
            if got != n {
                return Err(self.corrupt(at + got as u64, "the segment is cut short"));
            }
            f(at, buf.as_slice())?;
            at += n as u64;
        }
        Ok(())
    }

    /// End of the last byte from `offset` on that is not zero; `offset` if there is none. Fails if
    /// a good header stands behind `offset`.
    fn dirty_end(&self, offset: u64) -> Result<u64, RecoverError> {
        let mut end = offset;
        self.scan(offset, |at, bytes| {
            if bytes.iter().all(|byte| *byte == 0) {
                return Ok(());
            }
            for (page, place) in bytes.chunks(PAGE).zip((at..).step_by(PAGE)) {
                if let Some(last) = page.iter().rposition(|byte| *byte != 0) {
                    end = place + last as u64 + 1;
                }
                if place > offset && Head::decode(page, &self.keyed, place).is_some() {
                    return Err(self.corrupt(offset, "a later frame follows a broken one"));
                }
            }
            Ok(())
        })?;
        Ok(end)
    }
}

/// Opens one segment; none if its header is no header.
fn open_segment(
    vfs: &dyn Vfs,
    dir: &Path,
    number: u64,
    access: Access,
) -> Result<Option<Segment>, RecoverError> {
    let path = dir.join(segment_name(number));
    let io = |error| RecoverError::Io { path: path.clone(), error };
    let file = vfs.open(&path, access).map_err(io)?;
    let mut page = AlignedBuf::zeroed(PAGE);
    let got = file.pread(page.as_mut_slice(), 0).map_err(io)?;
    let header = SegmentHeader::decode(page.as_slice().get(..got).unwrap_or_default());
    let Some(header) = header.filter(|h| h.number == number) else { return Ok(None) };
    let len = file.size().map_err(io)?;
    let whole_pages = header.bytes.is_multiple_of(PAGE as u64);
    if header.bytes != len || !whole_pages || len > SEGMENT_BYTES_MAX {
        let why = "the segment has a wrong length";
        return Err(RecoverError::Corrupt { path, offset: len.min(header.bytes), why });
    }
    let keyed = Keyed::new(header.salt);
    Ok(Some(Segment { path, file, header, keyed }))
}

/// Whether a file is zeros but for its first page.
fn is_blank(vfs: &dyn Vfs, path: &Path) -> io::Result<bool> {
    let file = vfs.open(path, Access::ReadDirect)?;
    let mut buf = AlignedBuf::zeroed(SCAN_BYTES);
    let mut at = PAGE as u64;
    loop {
        let got = file.pread(buf.as_mut_slice(), at)?;
        if buf.as_slice().get(..got).unwrap_or_default().iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        if got < SCAN_BYTES {
            return Ok(true);
        }
        at += got as u64;
    }
}

/// Finds the frames of a segment from its start. Returns where the next would go.
fn walk(
    segment: &Segment,
    at: &mut Option<Position>,
    visit: &mut dyn Visit,
) -> Result<u64, RecoverError> {
    let mut buf = AlignedBuf::new();
    let mut offset = PAGE as u64;
    let number = segment.header.number;
    while let Some((head, frame)) = segment.frame_at(offset, &mut buf)? {
        // A good tag means that this host wrote the header, so it must follow what came before.
        if at.is_some_and(|at| at != head.position()) {
            return Err(segment.corrupt(offset, "a frame does not follow the one before it"));
        }
        let Some(frame) = frame else { break };
        let Some(next) = head.next() else {
            return Err(segment.corrupt(offset, "a number of a frame is too large"));
        };
        *at = Some(next);
        visit.frame(number, frame)?;
        offset += head.frame_bytes() as u64;
    }
    Ok(offset)
}

/// Makes the journal in `dir` whole. Files are changed only where a crash explains what is found.
pub(crate) fn recover(
    vfs: &Arc<dyn Vfs>,
    dir: &Path,
    quarantine: &Path,
    origin: Hash,
    visit: &mut dyn Visit,
) -> Result<Recovered, RecoverError> {
    let dir_io = |error| RecoverError::Io { path: dir.to_path_buf(), error };
    let numbers = segment::list(&**vfs, dir).map_err(dir_io)?;
    for pair in numbers.windows(2) {
        if let [a, b] = pair
            && a + 1 != *b
        {
            let path = dir.join(segment_name(a + 1));
            return Err(RecoverError::Corrupt { path, offset: 0, why: "a segment is missing" });
        }
    }
    let mut segments = vec![];
    for (i, number) in numbers.iter().enumerate() {
        let path = dir.join(segment_name(*number));
        match open_segment(&**vfs, dir, *number, Access::ReadDirect)? {
            Some(segment) if segment.header.origin == origin => segments.push(segment),
            Some(_) => return Err(RecoverError::Foreign { path }),
            None => {
                // Only the making of the newest segment can be cut off, and then it holds nothing.
                let blank = is_blank(&**vfs, &path).map_err(dir_io)?;
                if i + 1 != numbers.len() || !blank {
                    let why = "the segment has no valid header";
                    return Err(RecoverError::Corrupt { path, offset: 0, why });
                }
                vfs.remove(&path).and_then(|()| vfs.sync_dir(dir)).map_err(dir_io)?;
            }
        }
    }
    // A first segment that is not the very first may start anywhere; its tag vouches for where.
    let mut at = numbers.first().is_none_or(|number| *number == 0).then_some(Position::START);
    let mut end: Option<(usize, u64)> = None;
    let mut torn_at: Option<(usize, u64, u64)> = None;
    for (i, segment) in segments.iter().enumerate() {
        let offset = walk(segment, &mut at, visit)?;
        let dirty_end = segment.dirty_end(offset)?;
        let has_frames = offset > PAGE as u64;
        if (has_frames || dirty_end > offset)
            && let Some((torn, offset, _)) = torn_at
            && let Some(torn) = segments.get(torn)
        {
            return Err(torn.corrupt(offset, "a later segment follows a broken frame"));
        }
        // Frames go on in the next segment only; an empty one in between was never skipped.
        if (has_frames || dirty_end > offset) && end.is_some_and(|(last, _)| last + 1 != i) {
            return Err(segment.corrupt(offset, "a segment before it is empty"));
        }
        if has_frames || dirty_end > offset || end.is_none() {
            end = Some((i, offset));
        }
        if dirty_end > offset {
            torn_at = Some((i, offset, dirty_end));
        }
    }
    let torn = match torn_at {
        Some((i, offset, dirty_end)) => match segments.get(i) {
            Some(segment) => Some(cut_off(vfs, segment, quarantine, offset, dirty_end)?),
            None => None,
        },
        None => None,
    };
    let next_number = segments.last().map_or(0, |segment| segment.header.number + 1);
    let mut current = None;
    let mut spares = vec![];
    for (i, segment) in segments.into_iter().enumerate() {
        let Some((last, offset)) = end.filter(|(last, _)| i >= *last) else { continue };
        let io = |error| RecoverError::Io { path: segment.path.clone(), error };
        let file = vfs.open(&segment.path, Access::Durable).map_err(io)?;
        let ready = Ready { header: segment.header, file };
        if i == last {
            current = Some(Current::new(ready, offset));
        } else {
            spares.push(ready);
        }
    }
    // Without any frame the chain starts at its start; a gap shows against the archive.
    let at = at.unwrap_or(Position::START);
    Ok(Recovered { current, spares, next_number, at, torn })
}

/// Copies the torn tail to the quarantine, then zeroes it.
fn cut_off(
    vfs: &Arc<dyn Vfs>,
    segment: &Segment,
    quarantine: &Path,
    offset: u64,
    end: u64,
) -> Result<Torn, RecoverError> {
    let len = usize::try_from(end - offset).unwrap_or(usize::MAX);
    let mut buf = AlignedBuf::zeroed(crate::aligned::page_up(len));
    segment.file.pread(buf.as_mut_slice(), offset).map_err(segment.io())?;
    let tail = buf.as_slice().get(..len).unwrap_or_default();
    let number = segment.header.number;
    let torn = Torn { segment: number, offset, bytes: len as u64, hash: Hash::of(tail) };
    let path = quarantine.join(torn.file_name());
    let io = |error| RecoverError::Io { path: path.clone(), error };
    vfs.replace(&path, tail, Privacy::Private).map_err(io)?;
    let file = vfs.open(&segment.path, Access::Durable).map_err(segment.io())?;
    let zeros = AlignedBuf::zeroed(SCAN_BYTES);
    let mut at = offset;
    while at < segment.header.bytes {
        let n = (segment.header.bytes - at).min(SCAN_BYTES as u64);
        let piece = zeros.as_slice().get(..n as usize).unwrap_or_default();
        file.write_durable(piece, at).map_err(segment.io())?;
        at += n;
    }
    file.fdatasync().map_err(segment.io())?;
    Ok(torn)
}

impl Torn {
    pub(crate) fn file_name(&self) -> String {
        format!("{:016}-{}-{}-{}.torn", self.segment, self.offset, self.bytes, self.hash)
    }

    /// Reads what [`Torn::file_name`] writes.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(".torn")?.split('-');
        let torn = Self {
            segment: parts.next()?.parse().ok()?,
            offset: parts.next()?.parse().ok()?,
            bytes: parts.next()?.parse().ok()?,
            hash: Hash::from_hex(parts.next()?)?,
        };
        (parts.next().is_none() && torn.file_name() == name).then_some(torn)
    }
}

/// Reads the journal beside a running writer, or one frame of it again. Changes nothing; what is
/// not whole yet is taken as the end.
pub(crate) struct Tail {
    segment: Segment,
    offset: u64,
}

impl Tail {
    /// From the start of the segment `number`; none if it is not there or not ready.
    pub(crate) fn open(
        vfs: &dyn Vfs,
        dir: &Path,
        number: u64,
        offset: u64,
    ) -> Result<Option<Self>, RecoverError> {
        match open_segment(vfs, dir, number, Access::ReadDirect) {
            Ok(segment) => Ok(segment.map(|segment| Self { segment, offset })),
            Err(RecoverError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The next whole frame that holds an entry at or after `from`; earlier ones are skipped by
    /// their headers alone.
    pub(crate) fn next(&mut self, from: u64) -> Result<Option<Frame>, RecoverError> {
        let mut buf = AlignedBuf::new();
        while self.offset + PAGE as u64 <= self.segment.header.bytes {
            self.segment.page(self.offset, &mut buf)?;
            let head = Head::decode(buf.as_slice(), &self.segment.keyed, self.offset);
            let Some(head) = head else { return Ok(None) };
            if head.next().is_some_and(|next| next.index <= from) {
                self.offset += head.frame_bytes() as u64;
                continue;
            }
            let Some((head, Some(frame))) = self.segment.frame_at(self.offset, &mut buf)? else {
                return Ok(None);
            };
            self.offset += head.frame_bytes() as u64;
            return Ok(Some(frame));
        }
        Ok(None)
    }
}
