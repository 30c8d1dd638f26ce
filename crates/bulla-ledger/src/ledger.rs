//! Opening and closing a ledger, and the [`Recorder`] port.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Instant,
};

use bulla_core::{
    AdminRecord, Because, BootId, CloseRecord, CredentialKind, Digest, Journal, Mode, OpenRecord,
    Origin, Pending, Principal, PrincipalId, PrincipalKind, Proof, Receipt, RecordError,
    RecordHealth, Recorder, ResourceName, SessionId, Timestamp, TurnedAwayRecord,
};
use bulla_tlog::{
    Hash,
    entry::{Kind, Link, Refers},
    note::Vkey,
};
use parking_lot::Mutex;

use crate::{
    archive::{Archive, ArchiveError, ArchiveThread, Feed},
    committer::{Claim, Committer, Gauge, wake_committer},
    config::LedgerConfig,
    journal::{
        recover::{RecoverError, Recovered, Torn, recover},
        segment::{Making, Room, Supply},
        writer::{Current, Writer},
    },
    keys::{KeyError, KeyStore, Keys, Missing, random},
    record::{SessionJournal, Shared, now, open_session, turned_away},
    tracker::Tracker,
    vfs::{Privacy, RealVfs, Vfs},
};

/// Resource and protocol of the session in which the gateway records its own administration.
pub const GATEWAY_RESOURCE: &str = "bulla";
pub const GATEWAY_PROTOCOL: &str = "gateway";
/// Torn tails in the quarantine that one recover entry names; the rest is counted.
const TORN_NAMED_MAX: usize = 8;

/// Why a ledger cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("ledger configuration: {0}")]
    Config(String),
    #[error("ledger directory `{}`: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("ledger directory `{}` is in use by another process", path.display())]
    InUse { path: PathBuf },
    #[error(transparent)]
    Recover(#[from] RecoverError),
    #[error("archive of the ledger: {0}")]
    Archive(#[from] ArchiveError),
    #[error("keys of the ledger: {0}")]
    Keys(#[from] KeyError),
    #[error("start the ledger: {0}")]
    Record(#[from] RecordError),
    /// Published entries are gone. Serving on would fork the log.
    #[error(
        "the journal holds {recovered} entries and a checkpoint over {published} was published: \
         entries were lost or an old copy was restored; nothing is served"
    )]
    RolledBack { recovered: u64, published: u64 },
    /// Entries between the archive and the journal are gone.
    #[error(
        "the archive ends at entry {archived} and the journal begins at {first}: entries between \
         them were lost; nothing is served"
    )]
    Gap { archived: u64, first: u64 },
}

/// Waits, without a runtime, until an append is durable.
pub fn wait_durable(mut pending: Pending) -> Result<Receipt, RecordError> {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match Future::poll(std::pin::Pin::new(&mut pending), &mut context) {
            Poll::Ready(result) => return result,
            Poll::Pending => {
                wake_committer();
                std::thread::park();
            }
        }
    }
}

/// The session of the gateway's own administration.
enum Gateway {
    Unopened,
    Open(Box<SessionJournal>),
    /// The run is over.
    Ended,
}

/// The durable record of one gateway. One per directory and origin.
pub struct Ledger {
    shared: Arc<Shared>,
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    recovery: Recovery,
    /// Opened with its first record.
    gateway: Mutex<Gateway>,
    running: Mutex<Option<Running>>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ledger({})", self.dir.display())
    }
}

struct Running {
    committer: Committer,
    supply: Arc<Supply>,
    feed: Arc<Feed>,
    archive: ArchiveThread,
    /// Held for its lock.
    _lock: Option<std::fs::File>,
}

/// What opening a ledger found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Entries found durable.
    pub entries: u64,
    /// The run before ended without a close.
    pub was_cut_off: bool,
    /// Bytes of a torn write that were set aside.
    pub torn_bytes: Option<u64>,
    /// Sessions that were open and are closed now.
    pub sessions_closed: u64,
}

impl Ledger {
    /// Opens or creates the ledger in `config.dir`: recovers what a crash left, and returns once
    /// the entries that say so are durable. Blocks on the disk.
    pub fn open(config: LedgerConfig) -> Result<Arc<Self>, LedgerError> {
        let io = |error| LedgerError::Io { path: config.dir.clone(), error };
        make_dir(&RealVfs, &config.dir).map_err(io)?;
        let lock = lock(&config.dir)?;
        Self::open_with(config, Arc::new(RealVfs), Some(lock))
    }

    /// Opens a ledger on a simulated disk.
    #[cfg(any(test, feature = "sim"))]
    pub fn open_on(config: LedgerConfig, vfs: Arc<dyn Vfs>) -> Result<Arc<Self>, LedgerError> {
        Self::open_with(config, vfs, None)
    }

    fn open_with(
        config: LedgerConfig,
        vfs: Arc<dyn Vfs>,
        lock: Option<std::fs::File>,
    ) -> Result<Arc<Self>, LedgerError> {
        config.check().map_err(LedgerError::Config)?;
        let paths = Paths::new(&config.dir);
        let is_new = paths.prepare(&*vfs)?;
        let missing = if is_new { Missing::Make } else { Missing::Refuse };
        let keys = Keys::open(&*vfs, &paths.keys, &config.origin, missing)?;
        let key_store = KeyStore::new(vfs.clone(), &paths.keys);
        let mut archive =
            Archive::open(vfs.clone(), &paths.archive, &paths.state, &keys.signer, key_store)?;
        let published = archive.size();

        let origin = Hash::of(config.origin.as_bytes());
        let mut failed = None;
        let found =
            recover(&vfs, &paths.journal, &paths.quarantine, origin, &mut |segment, frame| {
                if failed.is_none() {
                    failed = archive.replay(segment, frame).err();
                }
                Ok(())
            })?;
        if let Some(error) = failed {
            return Err(match error {
                ArchiveError::Gap { archived, first } => LedgerError::Gap { archived, first },
                other => other.into(),
            });
        }
        if found.at.index < published {
            return Err(LedgerError::RolledBack { recovered: found.at.index, published });
        }
        let tracker = archive.tracker().clone();
        let boot = BootId(random().map_err(|error| paths.io(error))?);
        let Recovered { current, spares, next_number, at, torn, .. } = found;

        let making = Making {
            vfs: vfs.clone(),
            dir: paths.journal.clone(),
            bytes: config.segment_bytes,
            origin,
            waste_max: config.waste_max(),
            salt: random::<32>,
        };
        let mut next_number = next_number;
        let current = match current {
            Some(current) => current,
            None => {
                let ready = making.make(next_number, || {}).map_err(|error| paths.io(error))?;
                next_number += 1;
                Current::new(ready, crate::aligned::PAGE as u64)
            }
        };
        let waste_max = making.waste_max;
        let supply = Supply::start(making, Arc::new(Room::default()), spares, next_number);
        let supply = Arc::new(supply.map_err(|error| paths.io(error))?);
        // Before anything is appended: the first entries of a run may not fail for want of a segment
        // that is being made.
        supply.wait_settled();
        let writer = Writer::new(supply.clone(), current, at, waste_max);
        let gauge = Arc::new(Gauge::new(
            supply.room().clone(),
            config.reserve_bytes,
            config.backlog_bytes_max,
            at.index,
        ));
        let feed = Arc::new(Feed::new(config.archive_bytes_max));
        let (committer, queue) =
            Committer::start(writer, gauge.clone(), feed.clone(), config.real_time)
                .map_err(|error| paths.io(error))?;
        let shared = Arc::new(Shared {
            gauge,
            queue,
            keys,
            boot,
            started: Instant::now(),
            compression: config.compression,
            inline_bytes_max: config.inline_bytes_max,
            entry_object_bytes_max: config.entry_object_bytes_max(),
            open_sessions: AtomicU64::new(0),
            has_begun: AtomicBool::new(false),
        });
        let archive =
            ArchiveThread::start(archive, feed.clone(), shared.clone(), &config, &paths.journal)
                .map_err(|error| paths.io(error))?;
        let running = Running { committer, supply, feed, archive, _lock: lock };
        let mut ledger = Self {
            shared,
            vfs,
            dir: config.dir.clone(),
            recovery: Recovery::default(),
            gateway: Mutex::new(Gateway::Unopened),
            running: Mutex::new(Some(running)),
        };
        ledger.recovery = ledger.begin_run(at.index, &tracker, torn.as_ref(), &paths)?;
        Ok(Arc::new(ledger))
    }

    /// The first entries of a run: who writes, what was found, and the ends of what was cut off.
    fn begin_run(
        &self,
        entries: u64,
        tracker: &Tracker,
        torn: Option<&Torn>,
        paths: &Paths,
    ) -> Result<Recovery, LedgerError> {
        let shared = &self.shared;
        if entries == 0 {
            let mut genesis = shared.entry(Kind::Genesis, now());
            genesis.note = Some(shared.keys.signer.vkey().to_string());
            shared.append_plain(&genesis)?;
        }
        let mut boot = shared.entry(Kind::Boot, now());
        boot.note = Some(concat!("bulla ", env!("CARGO_PKG_VERSION")).into());
        boot.refers = Some(Refers::Index(entries));
        let mut last = shared.append_plain(&boot)?;
        shared.has_begun.store(true, Ordering::Release);
        let mut recovery = Recovery { entries, ..Recovery::default() };
        recovery.was_cut_off = entries > 0 && !tracker.run_closed;
        recovery.torn_bytes = torn.map(|torn| torn.bytes);
        let quarantined = paths.quarantined(&*self.vfs)?;
        if recovery.was_cut_off || !quarantined.is_empty() {
            let mut note = format!("{} sessions were open", tracker.sessions.len());
            for torn in quarantined.iter().take(TORN_NAMED_MAX) {
                note.push_str(&format!(
                    "; torn: {} bytes, sha256 {}, segment {} at {}",
                    torn.bytes, torn.hash, torn.segment, torn.offset
                ));
            }
            if quarantined.len() > TORN_NAMED_MAX {
                note.push_str(&format!("; {} torn in all", quarantined.len()));
            }
            let mut recover = shared.entry(Kind::Recover, now());
            recover.note = Some(note);
            recover.refers = Some(Refers::Index(entries));
            last = shared.append_plain(&recover)?;
        }
        for (sid, session) in &tracker.sessions {
            // Not sealed: the number may have been used for a write that was torn.
            let mut close = shared.entry(Kind::Close, now());
            let Some(seq) = session.seq.checked_add(1) else { continue };
            close.session = Some(Link { sid: *sid, seq, prev: Some(session.leaf) });
            close.mode = session.mode;
            close.status = Some("crash".into());
            close.counts = Some(session.counts);
            close.transcript = session.transcript.map(|transcript| transcript.hash());
            last = shared.append_plain(&close)?;
            recovery.sessions_closed += 1;
        }
        wait_durable(last)?;
        paths.release_quarantined(&*self.vfs, &quarantined)?;
        Ok(recovery)
    }

    /// What opening found.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// Where verifiers and readers find the log.
    pub fn archive_dir(&self) -> PathBuf {
        self.dir.join("archive")
    }
    pub fn keys_dir(&self) -> PathBuf {
        self.dir.join("keys")
    }
    /// The public key of the log.
    pub fn vkey(&self) -> &Vkey {
        self.shared.keys.signer.vkey()
    }
    /// Size of the log that the last published checkpoint covers.
    pub fn published(&self) -> u64 {
        self.running.lock().as_ref().map_or(0, |running| running.archive.published())
    }

    /// Ends the run: closes the gateway's own session, writes everything that was appended, and
    /// publishes a last checkpoint. Sessions that are still open cannot append any more. Blocks.
    /// Fails where any of it could not be done; what was acknowledged is in the journal all the same.
    pub fn shutdown(&self) -> Result<(), RecordError> {
        let Some(mut running) = self.running.lock().take() else { return Ok(()) };
        let closed = self.end_run();
        self.shared.queue.stop();
        running.supply.stop();
        running.committer.join();
        running.feed.stop();
        let archived = running.archive.join();
        closed.and_then(|pending| pending.map_or(Ok(()), |p| wait_durable(p).map(|_| ())))?;
        archived.map_err(|e| RecordError::Write(format!("no last checkpoint: {e}").into()))
    }

    fn end_run(&self) -> Result<Option<Pending>, RecordError> {
        self.shared.gauge.check()?;
        self.end_own_session()?;
        // A run that is over may have no session that is not; the next run closes what it finds
        // open.
        let open = self.shared.open_sessions.load(Ordering::Acquire);
        if open > 0 {
            tracing::warn!(
                open,
                "the ledger closes under open sessions: their end is not recorded"
            );
            return Ok(None);
        }
        let mut close = self.shared.entry(Kind::Close, now());
        close.status = Some("drained".into());
        self.shared.append_last(&close).map(Some)
    }

    /// Whatever is noted from here on would open another session, which nothing closes.
    fn end_own_session(&self) -> Result<(), RecordError> {
        let own = std::mem::replace(&mut *self.gateway.lock(), Gateway::Ended);
        if let Gateway::Open(mut gateway) = own {
            gateway.close(&CloseRecord { at: now(), why: "drained".into(), detail: None })?;
        }
        Ok(())
    }

    fn open_gateway_session(&self, at: Timestamp) -> Result<SessionJournal, RecordError> {
        let bug = |_| RecordError::Bug("the gateway's own session");
        let random = random().map_err(|_| RecordError::Bug("no randomness"))?;
        let principal = Principal {
            id: PrincipalId::new("bulla", "gateway").map_err(bug)?,
            kind: PrincipalKind::Workload,
            issuer: "bulla".into(),
            groups: vec![],
            attributes: Default::default(),
            proof: Proof {
                kind: CredentialKind::ClientCertificate,
                hash: Digest::ZERO,
                jti: None,
                kid_tail: None,
                issued_at: at,
                expires_at: at,
                verified_at: at,
                bound: true,
                jwks_stale: false,
            },
        };
        let record = OpenRecord {
            session: SessionId::new(at, random),
            at,
            principal: Arc::new(principal),
            resource: ResourceName::new(GATEWAY_RESOURCE).map_err(bug)?,
            part: None,
            protocol: GATEWAY_PROTOCOL,
            origin: Origin {
                address: IpAddr::V4(Ipv4Addr::LOCALHOST),
                port: 0,
                tls: "".into(),
                certificate: None,
            },
            mode: Mode::Strict,
            because: Because { policies: vec![], bundle: Digest::ZERO },
            claims: vec![],
        };
        open_session(&self.shared, &record, Claim::Closing).map(|(journal, _)| journal)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if let Err(error) = self.shutdown() {
            tracing::error!(%error, "the ledger did not end cleanly");
        }
    }
}

impl Recorder for Ledger {
    fn boot(&self) -> BootId {
        self.shared.boot
    }

    fn open(&self, record: &OpenRecord) -> Result<(Box<dyn Journal>, Pending), RecordError> {
        let (journal, pending) = open_session(&self.shared, record, Claim::Ordinary)?;
        Ok((Box::new(journal), pending))
    }

    fn turned_away(&self, record: &TurnedAwayRecord) -> Result<Pending, RecordError> {
        turned_away(&self.shared, record)
    }

    fn admin(&self, record: &AdminRecord) -> Result<Pending, RecordError> {
        let mut gateway = self.gateway.lock();
        match &mut *gateway {
            Gateway::Open(journal) => journal.admin(record),
            Gateway::Ended => Err(RecordError::Stopped("the ledger is closed".into())),
            Gateway::Unopened => {
                let mut journal = self.open_gateway_session(record.at)?;
                let pending = journal.admin(record);
                *gateway = Gateway::Open(Box::new(journal));
                pending
            }
        }
    }

    fn health(&self) -> RecordHealth {
        let gauge = &self.shared.gauge;
        let archive_error =
            self.running.lock().as_ref().and_then(|running| running.archive.error());
        let full = gauge.room.is_full().then(|| "the disk of the record is full".into());
        RecordHealth {
            error: gauge.error().or(full).or(archive_error),
            entries: gauge.entries.load(Ordering::Acquire),
            free_bytes: self.vfs.free_bytes(&self.dir).unwrap_or(0),
            flush_p50_us: gauge.latency.quantile_us(0.5),
            flush_p99_us: gauge.latency.quantile_us(0.99),
            waiting_bytes: gauge.waiting_bytes(),
            real_time: gauge.real_time.load(Ordering::Relaxed),
        }
    }
}

/// Creates a directory and those above it, durably: a name that a power cut takes would take the
/// whole log with it.
fn make_dir(vfs: &dyn Vfs, dir: &Path) -> io::Result<()> {
    let parent = match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    if !vfs.exists(dir)? {
        make_dir(vfs, parent)?;
        vfs.create_dir(dir, Privacy::Private)?;
    }
    match vfs.sync_dir(parent) {
        // A parent that we may not read was not made by us.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

/// One process per directory, for as long as the file is held.
fn lock(dir: &Path) -> Result<std::fs::File, LedgerError> {
    let path = dir.join("lock");
    let io = |error| LedgerError::Io { path: path.clone(), error };
    let mut options = std::fs::OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(LedgerError::InUse { path: dir.to_path_buf() })
        }
        Err(std::fs::TryLockError::Error(error)) => Err(io(error)),
    }
}

/// The directories of a ledger.
struct Paths {
    dir: PathBuf,
    journal: PathBuf,
    archive: PathBuf,
    keys: PathBuf,
    quarantine: PathBuf,
    state: PathBuf,
}

impl Paths {
    fn new(dir: &Path) -> Self {
        let sub = |name| dir.join(name);
        Self {
            dir: dir.to_path_buf(),
            journal: sub("journal"),
            archive: sub("archive"),
            keys: sub("keys"),
            quarantine: sub("quarantine"),
            state: sub("state"),
        }
    }

    fn io(&self, error: io::Error) -> LedgerError {
        LedgerError::Io { path: self.dir.clone(), error }
    }

    /// Creates what is missing. Whether there is no log here yet.
    fn prepare(&self, vfs: &dyn Vfs) -> Result<bool, LedgerError> {
        let io = |error| self.io(error);
        make_dir(vfs, &self.dir).map_err(io)?;
        for dir in [&self.journal, &self.keys, &self.quarantine, &self.state] {
            vfs.create_dir(dir, Privacy::Private).map_err(io)?;
        }
        vfs.create_dir(&self.archive, Privacy::Shared).map_err(io)?;
        vfs.sync_dir(&self.dir).map_err(io)?;
        let segments = crate::journal::segment::list(vfs, &self.journal).map_err(io)?;
        let published = vfs.exists(&self.archive.join("checkpoint")).map_err(io)?;
        Ok(segments.is_empty() && !published)
    }

    /// Torn tails that no recover entry has named yet.
    fn quarantined(&self, vfs: &dyn Vfs) -> Result<Vec<Torn>, LedgerError> {
        let names = vfs.list(&self.quarantine).map_err(|error| self.io(error))?;
        Ok(names.iter().filter_map(|name| Torn::parse(name)).collect())
    }

    /// They stand in the log now.
    fn release_quarantined(&self, vfs: &dyn Vfs, torn: &[Torn]) -> Result<(), LedgerError> {
        for torn in torn {
            let from = self.quarantine.join(torn.file_name());
            let to = from.with_extension("recorded");
            vfs.rename(&from, &to).map_err(|error| self.io(error))?;
        }
        if !torn.is_empty() {
            vfs.sync_dir(&self.quarantine).map_err(|error| self.io(error))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
