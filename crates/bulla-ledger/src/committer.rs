//! The one thread that makes appends durable: it takes all that is waiting, writes it in one frame,
//! and completes all of it at once.
//!
//! Who waits alone is served at once. Who waits for a plain read while other sessions are at work
//! waits for a part of them, for about as long as a command takes, if they are likely to come
//! ([`Company`]): a flush costs as much as the rest of a small command, and one serves all who
//! wait. Everything else is urgent: a transaction waits many times, one after the other. What
//! nobody waits for (the intent of a plain read, which its response follows; anything in `bounded`
//! mode) stays for up to [`UNHURRIED_MAX`], so that it costs neither a wake-up nor a flush of its
//! own.
//!
//! An append decides whether it may start before anything of it exists ([`Gauge::admit`]): once
//! admitted it has its place on disk, and only a failing disk can keep it from becoming durable.
//! After such a failure nothing is ever written again.

use std::{
    cell::RefCell,
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bulla_core::{Completer, Digest, Hurry, Receipt, RecordError};
use parking_lot::{Condvar, Mutex};

use crate::{
    archive::Feed,
    company::Company,
    config::RealTime,
    journal::{frame::Payload, segment::Room, writer::Writer},
};

/// Real-time priority of the committer: above ordinary work, below the kernel's own threads.
const PRIORITY: i32 = 10;
/// Longest time that a busy thread keeps a wake-up to itself.
const OWED_MAX: Duration = Duration::from_micros(150);
/// As much as this does not wait for somebody to wait for it.
const UNHURRIED_BYTES_MAX: usize = 256 << 10;
/// Longest time that an append stays unwritten because nobody waits for it.
pub(crate) const UNHURRIED_MAX: Duration = Duration::from_millis(2);

/// One append on its way to the disk.
pub(crate) struct Item {
    pub payload: Payload,
    /// None for a part of an append that a later item completes.
    pub done: Option<Completer>,
    /// What it has taken of the room.
    pub room: u64,
    /// Who waits for it does not wait for others.
    pub urgent: bool,
}

/// How much of the reserve an append may use when the disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// None of it.
    Ordinary,
    /// All but the last quarter: refusals, which a client can cause at will.
    Refusal,
    /// All: ends of what has begun, and the gateway's own.
    Closing,
}

/// Distribution of the time from the first write of a frame to its completion. Buckets grow by an
/// eighth of a power of two, so a quantile is off by at most 12 %.
pub(crate) struct Histogram([AtomicU32; Self::BUCKETS]);

impl Histogram {
    const BUCKETS: usize = 256;

    fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU32::new(0)))
    }
    fn bucket(us: u64) -> usize {
        let us = us.max(1);
        let power = us.ilog2();
        let eighth = if power >= 3 { us >> (power - 3) & 7 } else { us << (3 - power) & 7 };
        ((power as usize) * 8 + eighth as usize).min(Self::BUCKETS - 1)
    }
    fn lower_bound(bucket: usize) -> u64 {
        let (power, eighth) = (bucket / 8, (bucket % 8) as u64);
        ((8 + eighth) << power) >> 3
    }
    pub(crate) fn add(&self, us: u64) {
        if let Some(count) = self.0.get(Self::bucket(us)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
    /// Lets what is older weigh less.
    pub(crate) fn fade(&self) {
        for count in &self.0 {
            count.store(count.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
        }
    }
    pub(crate) fn quantile_us(&self, quantile: f64) -> u64 {
        let counts: Vec<u64> =
            self.0.iter().map(|count| u64::from(count.load(Ordering::Relaxed))).collect();
        let total: u64 = counts.iter().sum();
        let wanted = (total as f64 * quantile).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in counts.iter().enumerate() {
            seen += count;
            if total > 0 && seen >= wanted.max(1) {
                return Self::lower_bound(bucket);
            }
        }
        0
    }
}

/// What admits appends and what they and the committer know of each other.
pub(crate) struct Gauge {
    pub room: Arc<Room>,
    reserve_bytes: u64,
    backlog_bytes_max: u64,
    waiting_bytes: AtomicU64,
    pub entries: AtomicU64,
    pub company: Company,
    pub latency: Histogram,
    pub real_time: AtomicBool,
    /// Set once, never unset.
    is_stopped: AtomicBool,
    stopped: Mutex<Option<Arc<str>>>,
}

impl Gauge {
    pub(crate) fn new(
        room: Arc<Room>,
        reserve_bytes: u64,
        backlog_bytes_max: u64,
        entries: u64,
    ) -> Self {
        Self {
            room,
            reserve_bytes,
            backlog_bytes_max,
            waiting_bytes: AtomicU64::new(0),
            entries: AtomicU64::new(entries),
            company: Company::new(),
            latency: Histogram::new(),
            real_time: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            stopped: Mutex::new(None),
        }
    }

    /// Takes room for `bytes`, or says why not. What was taken goes back when it was written.
    pub(crate) fn admit(&self, bytes: u64, claim: Claim) -> Result<(), RecordError> {
        self.check()?;
        let (floor, backlog) = match claim {
            Claim::Ordinary => (self.reserve_bytes, self.backlog_bytes_max),
            Claim::Refusal => (self.reserve_bytes / 4, u64::MAX),
            Claim::Closing => (0, u64::MAX),
        };
        if self.waiting_bytes.load(Ordering::Relaxed) > backlog {
            return Err(RecordError::Backlog);
        }
        if self.room.take(bytes, floor) {
            self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
            Ok(())
        } else if self.room.is_full() {
            Err(RecordError::Full)
        } else {
            Err(RecordError::Backlog)
        }
    }

    /// Gives back what was taken for something that was not queued.
    pub(crate) fn give_up(&self, bytes: u64) {
        self.release(bytes);
    }

    fn release(&self, bytes: u64) {
        self.room.give_back(bytes);
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes.load(Ordering::Relaxed)
    }

    /// Ends the ledger for good. The first reason stands. Whoever has seen it finds the ledger
    /// stopped.
    pub(crate) fn stop(&self, why: Arc<str>) {
        let mut stopped = self.stopped.lock();
        stopped.get_or_insert(why);
        self.is_stopped.store(true, Ordering::Release);
    }

    pub(crate) fn error(&self) -> Option<Arc<str>> {
        self.stopped.lock().clone()
    }

    pub(crate) fn check(&self) -> Result<(), RecordError> {
        if !self.is_stopped.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(RecordError::Stopped(self.error().unwrap_or_else(|| "the ledger is closed".into())))
    }
}

/// What the committer does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Writes, and looks again before it rests.
    Works,
    /// Waits for company: whoever comes next wakes it when it is complete, or too late for more.
    /// Looks again by itself within [`UNHURRIED_MAX`].
    Gathers,
    /// Rests, and looks again by itself within [`UNHURRIED_MAX`].
    Dozes,
    /// Rests until it is woken.
    Sleeps,
    /// Is no more: nothing can be appended.
    Ended,
}

/// What waits to be written.
struct Waiting {
    items: VecDeque<Item>,
    bytes: usize,
    /// How many wait for some of it, and since when the first of them does.
    waiters: usize,
    since_us: u64,
    /// It is so much that it does not wait for anybody.
    much: bool,
    /// Some of it is urgent.
    urgent: bool,
    stop: bool,
    state: State,
}

impl Waiting {
    /// It is much, or somebody waits for what is urgent, or enough wait for what is not, or one of
    /// them has waited for the others for long enough.
    fn is_due(&self, company: &Company) -> bool {
        let urgent = self.urgent && self.waiters > 0;
        self.much || urgent || company.is_enough(self.waiters) || self.is_late(company)
    }

    fn is_late(&self, company: &Company) -> bool {
        self.waiters > 0 && company.is_late(self.since_us)
    }

    /// Whether who has appended or waits must wake the committer.
    fn must_wake(&self, company: &Company) -> bool {
        match self.state {
            State::Works | State::Ended => false,
            State::Gathers => self.is_due(company),
            State::Dozes => self.much || self.waiters > 0,
            State::Sleeps => true,
        }
    }
}

struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    gauge: Arc<Gauge>,
}

/// Where appends go.
#[derive(Clone)]
pub(crate) struct Queue(Arc<Shared>);

impl Queue {
    fn new(gauge: Arc<Gauge>) -> Self {
        let (items, state) = (VecDeque::new(), State::Works);
        let (much, urgent, stop) = (false, false, false);
        let (bytes, waiters, since_us) = (0, 0, 0);
        let waiting = Waiting { items, bytes, waiters, since_us, much, urgent, stop, state };
        Self(Arc::new(Shared { waiting: Mutex::new(waiting), changed: Condvar::new(), gauge }))
    }

    /// What an append is completed through: who waits for it hurries the committer.
    pub(crate) fn pending(&self) -> (Completer, bulla_core::Pending) {
        bulla_core::pending_unhurried(self.0.clone())
    }

    /// Hands one admitted item over. Items of one caller keep their order.
    pub(crate) fn push(&self, item: Item) -> Result<(), RecordError> {
        self.push_and(item, false)
    }

    /// The same, and nothing is taken behind it.
    pub(crate) fn push_last(&self, item: Item) -> Result<(), RecordError> {
        self.push_and(item, true)
    }

    fn push_and(&self, item: Item, stop: bool) -> Result<(), RecordError> {
        let (bytes, urgent) = (item.payload.body_bytes(), item.urgent);
        let mut waiting = self.0.waiting.lock();
        if waiting.state == State::Ended || waiting.stop {
            drop(waiting);
            self.0.gauge.release(item.room);
            let why = self.0.gauge.error().unwrap_or_else(|| "the ledger is closed".into());
            return Err(RecordError::Stopped(why));
        }
        waiting.items.push_back(item);
        waiting.bytes += bytes;
        waiting.stop = stop;
        waiting.urgent |= urgent;
        waiting.much |= stop || waiting.bytes >= UNHURRIED_BYTES_MAX;
        // Who waits wakes it when that is known; here others may find that they are late.
        let wake = match waiting.state {
            State::Sleeps => true,
            State::Gathers => waiting.much || waiting.is_late(&self.0.gauge.company),
            State::Dozes => waiting.much,
            State::Works | State::Ended => false,
        };
        if wake {
            waiting.state = State::Works;
        }
        drop(waiting);
        // Without the lock: the committer would be awake before it could have it.
        if wake {
            self.0.changed.notify_one();
        }
        Ok(())
    }

    /// What was pushed before is still written, nothing behind it.
    pub(crate) fn stop(&self) {
        self.0.waiting.lock().stop = true;
        self.0.changed.notify_one();
    }
}

impl Hurry for Shared {
    fn hurry(self: Arc<Self>) {
        {
            let mut waiting = self.waiting.lock();
            if waiting.waiters == 0 {
                waiting.since_us = self.gauge.company.now_us();
            }
            waiting.waiters += 1;
            if !waiting.must_wake(&self.gauge.company) {
                return;
            }
        }
        if let Some(shared) = defer(self) {
            shared.wake();
        }
    }
}

impl Shared {
    /// Wakes the committer if it rests and there is something to be done.
    fn wake(&self) {
        let wake = {
            let mut waiting = self.waiting.lock();
            let wake = waiting.must_wake(&self.gauge.company);
            if wake {
                waiting.state = State::Works;
            }
            wake
        };
        // Without the lock: the committer would be awake before it could have it.
        if wake {
            self.changed.notify_one();
        }
    }
}

/// A wake-up that a thread still owes.
struct Owed {
    to: Arc<Shared>,
    since: Instant,
}

/// Whether this thread owes wake-ups, or makes them at once.
enum Manner {
    AtOnce,
    Owing(Option<Owed>),
}

thread_local! {
    static MANNER: RefCell<Manner> = const { RefCell::new(Manner::AtOnce) };
}

/// From now on this thread, which drives many sessions, wakes the committer once for all that it
/// has found to do: at [`wake_committer`], which it MUST call before it rests, or when an append
/// has waited for [`OWED_MAX`]. If it does not come to either, the committer looks by itself within
/// [`UNHURRIED_MAX`].
pub fn gather_wake_ups() {
    MANNER.with_borrow_mut(|manner| *manner = Manner::Owing(None));
}

/// Makes the wake-up that this thread owes.
pub fn wake_committer() {
    let owed = MANNER.with_borrow_mut(|manner| match manner {
        Manner::Owing(owed) => owed.take(),
        Manner::AtOnce => None,
    });
    if let Some(owed) = owed {
        owed.to.wake();
    }
}

/// Keeps a wake-up for later, or gives back whom to wake now.
fn defer(shared: Arc<Shared>) -> Option<Arc<Shared>> {
    MANNER.with_borrow_mut(|manner| match manner {
        Manner::AtOnce => Some(shared),
        Manner::Owing(Some(owed)) if Arc::ptr_eq(&owed.to, &shared) => {
            let due = owed.since.elapsed() > OWED_MAX;
            due.then(|| std::mem::replace(manner, Manner::Owing(None))).map(|_| shared)
        }
        // Another ledger's is not lost.
        Manner::Owing(owed) => {
            owed.replace(Owed { to: shared, since: Instant::now() }).map(|o| o.to)
        }
    })
}

/// The committer's thread.
pub(crate) struct Committer {
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    pub(crate) fn start(
        writer: Writer,
        gauge: Arc<Gauge>,
        feed: Arc<Feed>,
        real_time: RealTime,
    ) -> std::io::Result<(Self, Queue)> {
        let queue = Queue::new(gauge);
        let shared = queue.0.clone();
        let thread =
            std::thread::Builder::new().name("bulla-committer".into()).spawn(move || {
                if real_time == RealTime::Try {
                    shared.gauge.real_time.store(ask_for_real_time(), Ordering::Relaxed);
                }
                Loop { writer, feed, shared }.run();
            })?;
        Ok((Self { thread: Some(thread) }, queue))
    }

    /// Waits for the end of the thread, after [`Queue::stop`].
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Loop {
    writer: Writer,
    feed: Arc<Feed>,
    shared: Arc<Shared>,
}

/// Whatever ends the thread, what waits is told so, and nothing more is taken.
impl Drop for Loop {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.gauge.stop("the committer panicked".into());
        }
        let items = {
            let mut waiting = self.shared.waiting.lock();
            waiting.state = State::Ended;
            std::mem::take(&mut waiting.items)
        };
        let error = self.shared.gauge.error();
        let why = error.unwrap_or_else(|| "the committer has ended".into());
        for item in items {
            if let Some(completer) = item.done {
                completer.complete(Err(RecordError::Stopped(why.clone())));
            }
        }
    }
}

impl Loop {
    fn run(mut self) {
        let mut batch: VecDeque<Item> = VecDeque::new();
        loop {
            let stop = self.wait(&mut batch);
            while !batch.is_empty() {
                if let Err(why) = self.commit(&mut batch) {
                    return self.fail(batch, why);
                }
                if !stop && batch.len() == self.writer.fitting(payloads(&batch)) {
                    // What is left over fits the next frame; more may join it.
                    break;
                }
            }
            if stop {
                return self.shared.gauge.stop("the ledger is closed".into());
            }
        }
    }

    /// Takes all that waits, once there is something that must be written. True to stop after it.
    fn wait(&self, batch: &mut VecDeque<Item>) -> bool {
        let company = &self.shared.gauge.company;
        let mut waiting = self.shared.waiting.lock();
        let mut rested = false;
        loop {
            let due = rested || !batch.is_empty() || waiting.is_due(company);
            let some = !(waiting.items.is_empty() && batch.is_empty());
            if waiting.stop || (due && some) {
                break;
            }
            if rested {
                waiting.state = State::Sleeps;
                self.shared.changed.wait(&mut waiting);
                // What woke it may stay for a while like everything else.
                rested = false;
            } else {
                // A timer of its own for the first who waits would cost more than it saves: others
                // are on their way, and whoever of them comes sees how late it is.
                let gathers = waiting.waiters > 0 || company.is_some();
                waiting.state = if gathers { State::Gathers } else { State::Dozes };
                rested = self.shared.changed.wait_for(&mut waiting, UNHURRIED_MAX).timed_out();
            }
        }
        waiting.state = State::Works;
        if waiting.waiters > 0 {
            company.serves(waiting.waiters);
        }
        (waiting.waiters, waiting.bytes) = (0, 0);
        (waiting.much, waiting.urgent) = (false, false);
        if batch.is_empty() {
            std::mem::swap(batch, &mut waiting.items);
        } else {
            batch.append(&mut waiting.items);
        }
        waiting.stop
    }

    /// Writes what fits into one frame and completes it.
    fn commit(&mut self, batch: &mut VecDeque<Item>) -> Result<(), Arc<str>> {
        let count = self.writer.fitting(payloads(batch));
        let start = Instant::now();
        let written = self.writer.write(payloads(batch).take(count))?;
        self.shared.gauge.latency.add(start.elapsed().as_micros() as u64);
        self.shared.gauge.entries.store(written.index + count as u64, Ordering::Release);
        let mut done = Vec::with_capacity(count);
        for (item, index) in batch.drain(..count).zip(written.index..) {
            let Item { payload, done: completer, room, urgent: _ } = item;
            self.shared.gauge.release(room);
            if let Some(completer) = completer {
                completer.complete(Ok(Receipt { index, leaf: Digest(payload.leaf.0) }));
            }
            done.push(payload);
        }
        self.feed.push(written, done);
        Ok(())
    }

    /// The disk has failed. Nothing that waits is told that it is durable.
    fn fail(self, batch: VecDeque<Item>, why: Arc<str>) {
        tracing::error!(%why, "the record has stopped: nothing passes until a restart");
        self.shared.gauge.stop(why.clone());
        let refuse = |item: Item| {
            if let Some(completer) = item.done {
                completer.complete(Err(RecordError::Stopped(why.clone())));
            }
        };
        batch.into_iter().for_each(refuse);
        // What is still in the queue is refused when this is dropped.
    }
}

fn payloads(batch: &VecDeque<Item>) -> impl Iterator<Item = &Payload> + Clone {
    batch.iter().map(|item| &item.payload)
}

/// Without it the thread may wait a scheduler's tick of 2 to 4 ms where the disk takes 0.1 ms.
fn ask_for_real_time() -> bool {
    let parameters = libc::sched_param { sched_priority: PRIORITY };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: `parameters` is a valid `sched_param` that outlives the call; 0 names this thread.
    let granted = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } == 0;
    if !granted {
        let error = std::io::Error::last_os_error();
        tracing::warn!(
            %error,
            "NO REAL-TIME PRIORITY for the committer: every durable write may wait for the \
             scheduler (allow SCHED_FIFO, for example with CAP_SYS_NICE or LimitRTPRIO=10)"
        );
    }
    granted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_close() {
        let histogram = Histogram::new();
        for us in 1..=1000 {
            histogram.add(us);
        }
        for (quantile, expect) in [(0.5, 500.0), (0.99, 990.0), (0.01, 10.0)] {
            let found = histogram.quantile_us(quantile) as f64;
            assert!((found - expect).abs() / expect < 0.13, "{quantile}: {found}");
        }
        histogram.fade();
        assert!(histogram.quantile_us(1.0) >= 896);
        assert_eq!(Histogram::new().quantile_us(0.5), 0);
        histogram.add(u64::MAX);
    }
}
