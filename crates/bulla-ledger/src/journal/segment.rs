//! Segments are made ahead of need by a thread of their own: blocks set aside, zeros written,
//! header written, all synced. Writing a frame then changes nothing but the bytes of one file.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use bulla_tlog::Hash;
use parking_lot::{Condvar, Mutex};

use super::frame::{Salt, SegmentHeader};
use crate::{
    aligned::{AlignedBuf, PAGE},
    vfs::{Access, Privacy, Vfs, VfsFile, is_full},
};

/// Segments kept ready beside the one being written.
pub(crate) const SPARES: usize = 2;
/// How long the thread waits after a full disk before it tries again.
const RETRY: Duration = Duration::from_millis(500);
const ZEROS_BYTES: usize = 1 << 20;

/// `<number>.seg`, in 16 digits so that names sort as numbers.
pub(crate) fn segment_name(number: u64) -> String {
    format!("{number:016}.seg")
}

/// The number of a segment's file name; none if it is no such name.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 16)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Room on disk that is set aside already, and who has asked for how much of it. What an append
/// takes here it is sure to find later; what it cannot take it must not start.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// Bytes that frames may still use in segments that have their blocks.
    capacity: AtomicU64,
    /// Upper bound of the frames of everything accepted and not yet written.
    taken: AtomicU64,
    /// The last attempt to set a segment aside found the disk full.
    full: AtomicBool,
}

impl Room {
    /// Takes `bytes` if at least `floor` remain after it.
    pub(crate) fn take(&self, bytes: u64, floor: u64) -> bool {
        let fits = |taken: u64| {
            let taken = taken.checked_add(bytes)?;
            let needed = taken.checked_add(floor)?;
            (needed <= self.capacity.load(Ordering::Acquire)).then_some(taken)
        };
        self.taken.try_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok()
    }
    pub(crate) fn give_back(&self, bytes: u64) {
        self.taken.fetch_sub(bytes, Ordering::AcqRel);
    }
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }
    pub(super) fn add(&self, bytes: u64) {
        self.capacity.fetch_add(bytes, Ordering::AcqRel);
    }
    pub(super) fn used(&self, bytes: u64) {
        let less = |capacity: u64| Some(capacity.saturating_sub(bytes));
        let _ = self.capacity.try_update(Ordering::AcqRel, Ordering::Acquire, less);
    }
}

/// A segment ready to be written.
pub(crate) struct Ready {
    pub header: SegmentHeader,
    pub file: Box<dyn VfsFile>,
}

/// How segments are made.
#[derive(Clone)]
pub(crate) struct Making {
    pub vfs: Arc<dyn Vfs>,
    pub dir: PathBuf,
    pub bytes: u64,
    pub origin: Hash,
    /// Bytes at the end of a segment that may stay unused because the next frame does not fit.
    pub waste_max: u64,
    pub salt: fn() -> io::Result<Salt>,
}

impl Making {
    /// Room that a fresh segment adds.
    pub(crate) fn usable(&self) -> u64 {
        self.bytes.saturating_sub(PAGE as u64).saturating_sub(self.waste_max)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(segment_name(number))
    }

    /// Creates a segment whole under a temporary name, then gives it its own. `set_aside` is told
    /// as soon as its blocks are sure.
    pub(crate) fn make(&self, number: u64, set_aside: impl FnOnce()) -> io::Result<Ready> {
        let temporary = self.dir.join("making.tmp");
        if self.vfs.exists(&temporary)? {
            self.vfs.remove(&temporary)?;
        }
        let file = self.vfs.create(&temporary, Privacy::Private)?;
        if let Err(error) = file.allocate(self.bytes) {
            self.vfs.remove(&temporary)?;
            return Err(error);
        }
        set_aside();
        let zeros = AlignedBuf::zeroed(ZEROS_BYTES);
        let mut at = 0;
        while at < self.bytes {
            let n = (self.bytes - at).min(ZEROS_BYTES as u64);
            file.pwrite(zeros.as_slice().get(..n as usize).unwrap_or_default(), at)?;
            at += n;
        }
        let (bytes, origin, salt) = (self.bytes, self.origin, (self.salt)()?);
        let header = SegmentHeader { number, bytes, origin, salt };
        file.pwrite(header.encode().as_slice(), 0)?;
        file.fdatasync()?;
        drop(file);
        self.vfs.rename(&temporary, &self.path(number))?;
        self.vfs.sync_dir(&self.dir)?;
        let file = self.vfs.open(&self.path(number), Access::Durable)?;
        Ok(Ready { header, file })
    }
}

#[derive(Default)]
struct Shelf {
    ready: VecDeque<Ready>,
    stop: bool,
    /// One is being made, and will be ready unless the disk is full or fails.
    making: bool,
    /// Whether there is room is known: enough is ready, or making more was tried.
    settled: bool,
    failed: Option<Arc<str>>,
}

/// The thread that keeps spare segments ready.
pub(crate) struct Supply {
    shared: Arc<(Mutex<Shelf>, Condvar)>,
    room: Arc<Room>,
    thread: Option<JoinHandle<()>>,
}

impl Supply {
    /// `spares` are segments found ready at start; the next new one gets the number `next`.
    pub(crate) fn start(
        making: Making,
        room: Arc<Room>,
        spares: Vec<Ready>,
        next: u64,
    ) -> io::Result<Self> {
        for _ in &spares {
            room.add(making.usable());
        }
        let shelf = Shelf { ready: spares.into(), ..Shelf::default() };
        let shared = Arc::new((Mutex::new(shelf), Condvar::new()));
        let thread = std::thread::Builder::new().name("bulla-segments".into()).spawn({
            let (shared, room) = (shared.clone(), room.clone());
            move || supply(&making, &room, &shared, next)
        })?;
        Ok(Self { shared, room, thread: Some(thread) })
    }

    /// The next segment; waits for it while the disk is full. None once the supply has stopped; the
    /// text says why it failed.
    pub(crate) fn next(&self) -> Result<Ready, Arc<str>> {
        let (shelf, changed) = &*self.shared;
        let mut shelf = shelf.lock();
        loop {
            if let Some(ready) = shelf.ready.pop_front() {
                changed.notify_all();
                return Ok(ready);
            }
            if let Some(error) = &shelf.failed {
                return Err(error.clone());
            }
            if shelf.stop && !shelf.making {
                return Err("the ledger is closed".into());
            }
            changed.wait(&mut shelf);
        }
    }

    /// Waits until it is known whether there is room. Before that, what finds none would take a disk
    /// that was not asked yet for a busy one.
    pub(crate) fn wait_settled(&self) {
        let (shelf, changed) = &*self.shared;
        let mut shelf = shelf.lock();
        while !shelf.settled {
            changed.wait(&mut shelf);
        }
    }

    /// Why no further segment will ever come.
    pub(crate) fn failure(&self) -> Option<Arc<str>> {
        self.shared.0.lock().failed.clone()
    }

    /// Ends the wait of [`Supply::next`]; segments that are ready are still handed out.
    pub(crate) fn stop(&self) {
        let (shelf, changed) = &*self.shared;
        shelf.lock().stop = true;
        changed.notify_all();
    }

    pub(crate) fn room(&self) -> &Arc<Room> {
        &self.room
    }
}

impl Drop for Supply {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Nobody waits for a segment of a thread that is no more.
struct Fallen<'a>(&'a (Mutex<Shelf>, Condvar));

impl Drop for Fallen<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (shelf, changed) = self.0;
            let mut shelf = shelf.lock();
            shelf.failed = Some("the thread that makes segments of the journal panicked".into());
            (shelf.making, shelf.settled) = (false, true);
            changed.notify_all();
        }
    }
}

fn supply(making: &Making, room: &Room, shared: &(Mutex<Shelf>, Condvar), mut next: u64) {
    let _fallen = Fallen(shared);
    let (shelf, changed) = shared;
    loop {
        {
            let mut shelf = shelf.lock();
            while !shelf.stop && shelf.ready.len() >= SPARES {
                shelf.settled = true;
                changed.notify_all();
                changed.wait(&mut shelf);
            }
            if shelf.stop {
                shelf.settled = true;
                changed.notify_all();
                return;
            }
            shelf.making = true;
        }
        let mut set_aside = false;
        let made = making.make(next, || {
            set_aside = true;
            room.full.store(false, Ordering::Release);
            room.add(making.usable());
        });
        let mut shelf = shelf.lock();
        shelf.making = false;
        match made {
            Ok(ready) => {
                shelf.ready.push_back(ready);
                next += 1;
                shelf.settled = true;
                changed.notify_all();
            }
            Err(error) if is_full(&error) && !set_aside => {
                if !room.full.swap(true, Ordering::AcqRel) {
                    tracing::error!(dir = %making.dir.display(), "the disk of the record is full");
                }
                shelf.settled = true;
                changed.notify_all();
                if !shelf.stop {
                    changed.wait_for(&mut shelf, RETRY);
                }
            }
            Err(error) => {
                if set_aside {
                    room.used(making.usable());
                }
                tracing::error!(%error, "cannot make a segment of the journal");
                shelf.failed = Some(format!("make a segment: {error}").into());
                shelf.settled = true;
                changed.notify_all();
                return;
            }
        }
    }
}

/// Names of segments in `dir`, by number.
pub(crate) fn list(vfs: &dyn Vfs, dir: &Path) -> io::Result<Vec<u64>> {
    Ok(vfs.list(dir)?.iter().filter_map(|name| segment_number(name)).collect())
}
