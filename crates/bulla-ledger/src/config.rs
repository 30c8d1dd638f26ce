//! How a ledger is set up.

use std::path::PathBuf;

use crate::{aligned::PAGE, journal::recover::SEGMENT_BYTES_MAX};

/// Smallest segment of the journal.
pub const SEGMENT_BYTES_MIN: u64 = 512 << 10;
/// Most plaintext bytes of one object.
pub const OBJECT_BYTES_MAX: usize = 64 << 10;
/// Most plaintext bytes that the objects of one entry hold.
pub const ENTRY_OBJECT_BYTES_MAX: usize = 1 << 20;
/// Most payload bytes that are kept inside an entry.
pub const INLINE_BYTES_MAX: usize = 16 << 10;

/// How evidence is compressed before it is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    None,
    /// zstd, level 1, where it makes an object smaller by an eighth or more.
    #[default]
    Zstd,
}

/// Who can read the evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum EvidenceKeys {
    /// The gateway's own key: search, replay and console work.
    #[default]
    Gateway,
}

/// Whether the committer asks for real-time priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RealTime {
    Off,
    /// Goes on with a warning where the system refuses it.
    #[default]
    Try,
}

/// Set-up of a ledger. `Default` gives every limit; `dir` and `origin` must be set.
#[derive(Debug, Clone)]
pub struct LedgerConfig {
    /// Created if it is not there. Holds `journal`, `archive`, `keys`, `quarantine`.
    pub dir: PathBuf,
    /// The log's name: the first line of its checkpoints and the name of its key.
    pub origin: String,
    /// Whole pages of 4 KiB.
    pub segment_bytes: u64,
    pub compression: Compression,
    pub evidence_keys: EvidenceKeys,
    /// Room in the journal that is kept for refusals, outcomes and closes when the disk is full.
    pub reserve_bytes: u64,
    /// Bytes appended and not yet durable, above which appends are refused.
    pub backlog_bytes_max: u64,
    /// Bytes of frames that wait in memory for the archive; what exceeds it is read from the
    /// journal.
    pub archive_bytes_max: usize,
    /// A checkpoint is made this often while there are new entries.
    pub checkpoint_ms: u64,
    /// A heartbeat is appended this often while there are new entries.
    pub heartbeat_ms: u64,
    /// The same, while there are none.
    pub heartbeat_idle_ms: u64,
    /// Payloads up to this length stand in their entry; longer ones become objects.
    pub inline_bytes_max: usize,
    pub real_time: RealTime,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::new(),
            origin: String::new(),
            segment_bytes: 64 << 20,
            compression: Compression::default(),
            evidence_keys: EvidenceKeys::default(),
            reserve_bytes: 4 << 20,
            backlog_bytes_max: 64 << 20,
            archive_bytes_max: 8 << 20,
            checkpoint_ms: 1_000,
            heartbeat_ms: 1_000,
            heartbeat_idle_ms: 10_000,
            inline_bytes_max: 2 << 10,
            real_time: RealTime::default(),
        }
    }
}

impl LedgerConfig {
    /// Why the set-up cannot work, if it cannot.
    pub(crate) fn check(&self) -> Result<(), String> {
        let bytes = self.segment_bytes;
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes)
            || !bytes.is_multiple_of(PAGE as u64)
        {
            return Err(format!(
                "segment_bytes must be whole pages of {PAGE} bytes, from {SEGMENT_BYTES_MIN} to \
                 {SEGMENT_BYTES_MAX}"
            ));
        }
        if self.reserve_bytes > bytes / 2 {
            return Err("reserve_bytes may not exceed half of segment_bytes".into());
        }
        if self.inline_bytes_max > INLINE_BYTES_MAX {
            return Err(format!("inline_bytes_max may not exceed {INLINE_BYTES_MAX}"));
        }
        let times = [self.checkpoint_ms, self.heartbeat_ms, self.heartbeat_idle_ms];
        if times.contains(&0) {
            return Err("checkpoint_ms, heartbeat_ms and heartbeat_idle_ms may not be 0".into());
        }
        Ok(())
    }

    /// Most plaintext bytes of the objects of one entry: small segments take smaller pieces.
    pub(crate) fn entry_object_bytes_max(&self) -> usize {
        let quarter = usize::try_from(self.segment_bytes / 4).unwrap_or(usize::MAX);
        let whole = quarter / OBJECT_BYTES_MAX * OBJECT_BYTES_MAX;
        whole.clamp(OBJECT_BYTES_MAX, ENTRY_OBJECT_BYTES_MAX)
    }

    /// Longest frame of one append, which is what a segment's end may stay short of.
    pub(crate) fn waste_max(&self) -> u64 {
        use crate::journal::frame::frame_bytes;
        let objects = self.entry_object_bytes_max();
        let per_object = 32;
        let body = bulla_tlog::tile::ENTRY_BYTES_MAX
            + objects
            + (objects / OBJECT_BYTES_MAX + 2) * per_object
            + crate::keys::WRAPPED_BYTES
            + 64;
        frame_bytes(body) as u64
    }
}
