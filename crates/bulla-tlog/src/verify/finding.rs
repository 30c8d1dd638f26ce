//! What a verification found, in words that name the place.

use std::fmt;

use crate::{
    entry::{EntryError, Kind},
    hash::Hash,
    tile::BundleError,
};

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Class {
    /// Something that should be in the record is not.
    Gap,
    /// What is there is not what was signed.
    Tampered,
}

/// One thing wrong with a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    // Tampered.
    /// The entry's hash is not the one that the tree holds.
    EntryAltered,
    /// The tree vouches for it, and still it is no entry of this format.
    EntryMalformed(EntryError),
    /// Entries `from..to` are signed for and not there.
    EntriesMissing {
        from: u64,
        to: u64,
    },
    /// A bundle's framing is broken.
    BundleBroken(BundleError),
    /// A tile's hash is not that of what lies under it.
    TileAltered,
    TileMissing,
    TileLength,
    /// Entries `from..to` agree with their own tiles and with nothing above them.
    EntriesRewritten {
        from: u64,
        to: u64,
    },
    /// The root of the entries is not the signed one. None if it could not be computed.
    Root {
        computed: Option<Hash>,
    },
    /// The log does not begin with the tree that an earlier checkpoint signed.
    Forked {
        earlier: u64,
    },
    /// The checkpoint is of a smaller tree than an earlier one.
    RolledBack {
        earlier: u64,
    },
    /// An earlier checkpoint to compare with is of another log, so that it proves nothing.
    OtherLog(String),
    /// An object's bytes are not those that the entry names.
    ObjectAltered(Hash),

    // Gap.
    ObjectMissing(Hash),
    ObjectUnreadable(Hash),
    /// The log does not begin with a genesis, or has another one.
    Genesis,
    /// An entry of a run of the gateway that no boot or recover announced.
    RunNotAnnounced,
    /// The run before ended without a close, and this one has no recover before its first session.
    RunNotRecovered,
    /// An entry of a run after that run's close.
    RunClosed,
    /// Nothing was recorded for this many milliseconds, not even a heartbeat.
    Silence {
        ms: u64,
    },
    /// A session's entry without the session's open before it.
    SessionNotOpened,
    /// A session's entry has another number than the one that comes next.
    SessionSeq {
        expected: u64,
        found: u64,
    },
    /// A session's entry names another entry before it.
    SessionPrev,
    /// A session goes on in another run of the gateway.
    SessionAcrossRuns(Kind),
    /// A session whose run is over and that neither a close nor a recover ended.
    SessionNotClosed,
    /// A close without counts, or whose counts are not those of the session's entries.
    SessionCounts,
    /// A close whose transcript is not that of the session's objects.
    SessionTranscript,
    /// More sessions are open at once than the verifier follows.
    TooManySessions,
}

impl What {
    pub fn class(&self) -> Class {
        match self {
            Self::EntryAltered
            | Self::EntryMalformed(_)
            | Self::EntriesMissing { .. }
            | Self::BundleBroken(_)
            | Self::TileAltered
            | Self::TileMissing
            | Self::TileLength
            | Self::EntriesRewritten { .. }
            | Self::Root { .. }
            | Self::Forked { .. }
            | Self::RolledBack { .. }
            | Self::OtherLog(_)
            | Self::ObjectAltered(_) => Class::Tampered,
            Self::ObjectMissing(_)
            | Self::ObjectUnreadable(_)
            | Self::Genesis
            | Self::RunNotAnnounced
            | Self::RunNotRecovered
            | Self::RunClosed
            | Self::Silence { .. }
            | Self::SessionNotOpened
            | Self::SessionSeq { .. }
            | Self::SessionPrev
            | Self::SessionAcrossRuns(_)
            | Self::SessionNotClosed
            | Self::SessionCounts
            | Self::SessionTranscript
            | Self::TooManySessions => Class::Gap,
        }
    }
}

impl What {
    /// Tiles can be made again from the entries, so they come second.
    pub(super) fn is_of_a_tile(&self) -> bool {
        matches!(self, Self::TileAltered | Self::TileMissing | Self::TileLength)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EntryAltered => f.write_str("is not the entry that was signed"),
            Self::EntryMalformed(cause) => write!(f, "is signed and malformed: {cause}"),
            Self::EntriesMissing { from, to } => {
                write!(f, "entries {from} to {} are signed and missing", to.saturating_sub(1))
            }
            Self::BundleBroken(cause) => write!(f, "{cause}"),
            Self::TileAltered => f.write_str("hash is not that of what lies under it"),
            Self::TileMissing => f.write_str("tile is missing"),
            Self::TileLength => f.write_str("tile has a wrong length"),
            Self::EntriesRewritten { from, to } => {
                let last = to.saturating_sub(1);
                write!(f, "entries {from} to {last} were rewritten together with their tiles")
            }
            Self::Root { computed: Some(root) } => {
                write!(f, "the entries' root {root} is not the signed one")
            }
            Self::Root { computed: None } => f.write_str("the root cannot be computed"),
            Self::Forked { earlier } => {
                write!(f, "the log does not begin with the {earlier} entries signed earlier")
            }
            Self::RolledBack { earlier } => {
                write!(f, "the checkpoint is smaller than an earlier one of {earlier} entries")
            }
            Self::OtherLog(origin) => {
                write!(f, "an earlier checkpoint is of another log, `{origin}`")
            }
            Self::ObjectAltered(name) => write!(f, "object {name} is not what was recorded"),
            Self::ObjectMissing(name) => write!(f, "object {name} is missing"),
            Self::ObjectUnreadable(name) => write!(f, "object {name} cannot be read"),
            Self::Genesis => f.write_str("a log begins with a genesis, and has one only"),
            Self::RunNotAnnounced => f.write_str("no boot or recover announced this run"),
            Self::RunNotRecovered => {
                f.write_str("the run before has no close, and this one no recover")
            }
            Self::RunClosed => f.write_str("the run was closed before"),
            Self::Silence { ms } => write!(f, "nothing was recorded for {ms} ms before"),
            Self::SessionNotOpened => f.write_str("the session was not opened"),
            Self::SessionSeq { expected, found } => {
                write!(f, "the session's entry {found} follows where {expected} should")
            }
            Self::SessionPrev => f.write_str("names another entry of the session before it"),
            Self::SessionAcrossRuns(kind) => {
                write!(f, "the session goes on with `{kind}` in another run of the gateway")
            }
            Self::SessionNotClosed => f.write_str("the session has no close"),
            Self::SessionCounts => f.write_str("the close has wrong counts, or none"),
            Self::SessionTranscript => f.write_str("the close has a wrong transcript"),
            Self::TooManySessions => f.write_str("more sessions are open than can be followed"),
        }
    }
}

/// One thing wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub what: What,
    /// The entry it is about, or the first of them.
    pub index: Option<u64>,
    pub session: Option<[u8; 16]>,
    /// The file, as the archive names it.
    pub path: Option<String>,
    /// Byte in that file.
    pub offset: Option<u64>,
    /// For an object: the file where it stands or should stand, and the byte in it. Filled in by
    /// whoever knows how objects are kept.
    pub object: Option<(String, Option<u64>)>,
}

impl Finding {
    pub(crate) fn new(what: What) -> Self {
        Self { what, index: None, session: None, path: None, offset: None, object: None }
    }
    pub(crate) fn at(mut self, index: u64) -> Self {
        self.index = Some(index);
        self
    }
    pub(crate) fn of_session(mut self, sid: [u8; 16]) -> Self {
        self.session = Some(sid);
        self
    }
    pub(crate) fn in_file(mut self, path: String, offset: usize) -> Self {
        self.path = Some(path);
        self.offset = Some(offset as u64);
        self
    }

    pub fn class(&self) -> Class {
        self.what.class()
    }
}

/// One line: `` entry 17 (`tile/entries/000.p/40`, byte 4711): is not the entry that was signed ``.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = vec![];
        if let Some(index) = self.index {
            parts.push(format!("entry {index}"));
        }
        if let Some(sid) = self.session {
            parts.push(sid.iter().fold("session ".to_owned(), |text, b| format!("{text}{b:02x}")));
        }
        if let Some(path) = &self.path {
            parts.push(format!("`{path}`"));
        }
        if let Some(offset) = self.offset {
            parts.push(format!("byte {offset}"));
        }
        if !parts.is_empty() {
            write!(f, "{}: ", parts.join(", "))?;
        }
        self.what.fmt(f)?;
        match &self.object {
            None => Ok(()),
            Some((path, None)) => write!(f, ", in `{path}`"),
            Some((path, Some(offset))) => write!(f, ", in `{path}`, byte {offset}"),
        }
    }
}

/// Findings, up to a limit; the rest is counted. The first of each class is kept in any case.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub list: Vec<Finding>,
    pub left_off: u64,
    pub max: usize,
}

impl Findings {
    /// Where in the list it is; none if it was only counted.
    pub fn push(&mut self, finding: Finding) -> Option<usize> {
        let class = finding.class();
        if self.list.len() >= self.max && self.list.iter().any(|one| one.class() == class) {
            self.left_off = self.left_off.saturating_add(1);
            return None;
        }
        self.list.push(finding);
        Some(self.list.len() - 1)
    }
}
