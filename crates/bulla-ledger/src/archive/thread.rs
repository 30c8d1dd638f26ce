//! The archive's thread: when what is taken in, written and published.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bulla_tlog::entry::Kind;
use parking_lot::Mutex;

use super::{Archive, ArchiveError, Extent, Feed, feed::Batch};
use crate::{
    config::LedgerConfig,
    record::{Shared, now},
    vfs::is_full,
};

/// Bytes taken in and not yet written, at which they are written before more is taken in.
const PENDING_BYTES_MAX: usize = 4 << 20;
/// Bytes taken in since the last checkpoint, at which the next does not wait for its time.
const UNPUBLISHED_BYTES_MAX: usize = 16 << 20;
/// How often old latencies are made to weigh less.
const FADE: Duration = Duration::from_secs(30);

/// The archive's thread, which is also the one that lets the log's heart beat.
pub(crate) struct ArchiveThread {
    thread: Option<JoinHandle<Result<(), ArchiveError>>>,
    published: Arc<AtomicU64>,
    error: Arc<Mutex<Option<Arc<str>>>>,
}

impl ArchiveThread {
    pub(crate) fn start(
        archive: Archive,
        feed: Arc<Feed>,
        shared: Arc<Shared>,
        config: &LedgerConfig,
        journal: &Path,
    ) -> io::Result<Self> {
        let published = Arc::new(AtomicU64::new(archive.published));
        let error = Arc::new(Mutex::new(None));
        let work = Work {
            archive,
            feed,
            taken: VecDeque::new(),
            shared,
            journal: journal.to_path_buf(),
            origin: config.origin.clone(),
            checkpoint: Duration::from_millis(config.checkpoint_ms),
            heartbeat: Duration::from_millis(config.heartbeat_ms),
            heartbeat_idle: Duration::from_millis(config.heartbeat_idle_ms),
            published: published.clone(),
            error: error.clone(),
        };
        let thread =
            std::thread::Builder::new().name("bulla-archive".into()).spawn(|| work.run())?;
        Ok(Self { thread: Some(thread), published, error })
    }

    pub(crate) fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// Why checkpoints do not come, if they do not.
    pub(crate) fn error(&self) -> Option<Arc<str>> {
        self.error.lock().clone()
    }

    /// Waits for the last checkpoint, after [`Feed::stop`].
    pub(crate) fn join(&mut self) -> Result<(), ArchiveError> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(ArchiveError::Sign("the archive's thread panicked".into())),
            None => Ok(()),
        }
    }
}

struct Work {
    archive: Archive,
    feed: Arc<Feed>,
    /// Out of the feed, and not in the archive yet.
    taken: VecDeque<Batch>,
    shared: Arc<Shared>,
    journal: PathBuf,
    origin: String,
    checkpoint: Duration,
    heartbeat: Duration,
    heartbeat_idle: Duration,
    published: Arc<AtomicU64>,
    error: Arc<Mutex<Option<Arc<str>>>>,
}

/// Nothing is recorded without an archive, however its thread ends.
struct Fallen(Arc<Shared>);

impl Drop for Fallen {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.gauge.stop("archive: its thread panicked".into());
        }
    }
}

impl Work {
    fn run(mut self) -> Result<(), ArchiveError> {
        let _fallen = Fallen(self.shared.clone());
        let result = self.work();
        if let Err(error) = &result {
            tracing::error!(%error, "the archive has stopped, and the record with it");
            let why: Arc<str> = format!("archive: {error}").into();
            // First: whoever is told why finds the ledger stopped.
            self.shared.gauge.stop(why.clone());
            *self.error.lock() = Some(why);
        }
        result
    }

    fn work(&mut self) -> Result<(), ArchiveError> {
        let mut tick = Instant::now() + self.checkpoint;
        let (mut beat, mut fade) = (Instant::now(), Instant::now());
        let mut beaten = 0;
        loop {
            let stop = self.feed.wait(tick);
            self.take_in()?;
            if stop {
                return self.end();
            }
            if Instant::now() >= tick {
                self.publish(Extent::Bundles)?;
                tick = Instant::now() + self.checkpoint;
            }
            let entries = self.shared.gauge.entries.load(Ordering::Relaxed);
            let wait = if entries == beaten { self.heartbeat_idle } else { self.heartbeat };
            // A run begins with its boot entry, however long that takes to come.
            if beat.elapsed() >= wait && self.shared.has_begun.load(Ordering::Acquire) {
                beat = Instant::now();
                // The beat itself is no activity.
                beaten = entries + 1;
                let _ = self.shared.append_plain(&self.shared.entry(Kind::Heartbeat, now()));
            }
            if fade.elapsed() >= FADE {
                fade = Instant::now();
                self.shared.gauge.latency.fade();
            }
        }
    }

    /// The last checkpoint, over everything. Fails where the disk is full: the journal keeps what it
    /// does not cover, and the next run begins with it.
    fn end(&mut self) -> Result<(), ArchiveError> {
        loop {
            self.archive.publish(&self.shared.keys.signer, &self.origin, Extent::Everything)?;
            self.published.store(self.archive.published, Ordering::Release);
            // The disk was full when it was taken out of the feed, and no longer is.
            if self.taken.is_empty() {
                break;
            }
            self.take_in()?;
        }
        self.archive.prune(&self.journal)
    }

    /// Takes in what waits, a bounded part at a time: frames that did not fit into memory are read
    /// from the journal, and there may be gigabytes of them. While the disk is full the rest waits.
    fn take_in(&mut self) -> Result<(), ArchiveError> {
        loop {
            if self.taken.is_empty() {
                self.taken = self.feed.take().into();
            }
            let Some(batch) = self.taken.pop_front() else { return Ok(()) };
            self.archive.batch(&self.journal, batch)?;
            if self.archive.pending_bytes >= PENDING_BYTES_MAX {
                if self.archive.unpublished_bytes >= UNPUBLISHED_BYTES_MAX {
                    self.publish(Extent::Bundles)?;
                } else {
                    let spilt = self.archive.spill();
                    self.unless_full(spilt)?;
                }
                if self.archive.pending_bytes > 0 {
                    return Ok(());
                }
            }
        }
    }

    fn publish(&mut self, extent: Extent) -> Result<(), ArchiveError> {
        let result = self.archive.publish(&self.shared.keys.signer, &self.origin, extent);
        if !self.unless_full(result)? {
            return Ok(());
        }
        self.published.store(self.archive.published, Ordering::Release);
        *self.error.lock() = None;
        self.archive.prune(&self.journal)
    }

    /// False if it failed for want of space, which is said and tried again.
    fn unless_full(&self, result: Result<(), ArchiveError>) -> Result<bool, ArchiveError> {
        match result {
            Ok(()) => Ok(true),
            Err(ArchiveError::Io { path, error }) if is_full(&error) => {
                let why: Arc<str> = format!("`{}`: {error}", path.display()).into();
                if self.error.lock().replace(why).is_none() {
                    tracing::error!("no checkpoint can be published: the disk is full");
                }
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
