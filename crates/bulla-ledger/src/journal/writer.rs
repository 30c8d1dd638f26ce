//! Writes frames, one at a time, and never again after an error.

use std::sync::Arc;

use super::{
    frame::{self, Keyed, Payload, Position},
    segment::{Ready, Room, Supply},
};
use crate::aligned::AlignedBuf;

/// Where a frame was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub segment: u64,
    pub offset: u64,
    pub bytes: u64,
    /// Index of its first entry.
    pub index: u64,
}

/// The segment being written.
pub(crate) struct Current {
    ready: Ready,
    keyed: Keyed,
    offset: u64,
}

impl Current {
    /// Takes a segment up at `offset`, behind its last frame.
    pub(crate) fn new(ready: Ready, offset: u64) -> Self {
        let keyed = Keyed::new(ready.header.salt);
        Self { ready, keyed, offset }
    }
    fn left(&self) -> u64 {
        self.ready.header.bytes.saturating_sub(self.offset)
    }
}

/// The journal, open for appending. After an error it only repeats the error: a failed write or
/// sync is not tried again.
pub(crate) struct Writer {
    supply: Arc<Supply>,
    room: Arc<Room>,
    current: Current,
    at: Position,
    waste_max: u64,
    buf: AlignedBuf,
    failed: Option<Arc<str>>,
}

impl Writer {
    pub(crate) fn new(supply: Arc<Supply>, current: Current, at: Position, waste_max: u64) -> Self {
        let room = supply.room().clone();
        room.add(current.left());
        Self { supply, room, current, at, waste_max, buf: AlignedBuf::new(), failed: None }
    }

    #[cfg(test)]
    pub(crate) fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// How many of these payloads, from the first, go into the next frame: at least one.
    pub(crate) fn fitting<'a>(&self, payloads: impl Iterator<Item = &'a Payload>) -> usize {
        let mut body = 0;
        let mut count = 0;
        for payload in payloads {
            body += payload.body_bytes();
            let bytes = frame::frame_bytes(body) as u64;
            if count > 0 && (bytes > self.current.left() || body > frame::FRAME_BYTES_FULL) {
                break;
            }
            count += 1;
        }
        count
    }

    /// Makes these payloads durable in one frame; they come from [`Writer::fitting`].
    pub(crate) fn write<'a>(
        &mut self,
        payloads: impl Iterator<Item = &'a Payload> + Clone,
    ) -> Result<Written, Arc<str>> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.try_write(payloads);
        if let Err(error) = &result {
            self.failed = Some(error.clone());
        }
        result
    }

    fn try_write<'a>(
        &mut self,
        payloads: impl Iterator<Item = &'a Payload> + Clone,
    ) -> Result<Written, Arc<str>> {
        if let Some(error) = self.supply.failure() {
            return Err(error);
        }
        let body: usize = payloads.clone().map(Payload::body_bytes).sum();
        let bytes = frame::frame_bytes(body) as u64;
        if bytes > self.current.left() {
            self.next_segment(bytes)?;
        }
        let (keyed, offset) = (&self.current.keyed, self.current.offset);
        let entries = payloads.clone().count() as u64;
        let chain = frame::encode(&mut self.buf, keyed, self.at, offset, payloads)
            .ok_or("a part of a frame is too long")?;
        self.current
            .ready
            .file
            .write_durable(self.buf.as_slice(), offset)
            .map_err(|error| format!("write the journal: {error}"))?;
        let segment = self.current.ready.header.number;
        let written = Written { segment, offset, bytes, index: self.at.index };
        self.current.offset += bytes;
        self.room.used(bytes);
        self.at = Position { index: self.at.index + entries, batch: self.at.batch + 1, chain };
        Ok(written)
    }

    fn next_segment(&mut self, bytes: u64) -> Result<(), Arc<str>> {
        let left = self.current.left();
        self.current = Current::new(self.supply.next()?, crate::aligned::PAGE as u64);
        // The new segment was counted without the waste that the old one may now have made.
        self.room.add(self.waste_max);
        self.room.used(left);
        if bytes > self.current.left() {
            return Err("a frame is longer than a segment".into());
        }
        Ok(())
    }
}
