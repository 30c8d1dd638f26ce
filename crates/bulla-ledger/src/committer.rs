//! The one thread that makes appends durable: it takes all that is waiting, writes it in one frame,
//! and completes all of it at once. It never waits for more to come.
//!
//! An append decides whether it may start before anything of it exists ([`Gauge::admit`]): once
//! admitted it has its place on disk, and only a failing disk can keep it from becoming durable.
//! After such a failure nothing is ever written again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    thread::JoinHandle,
    time::Instant,
};

use bulla_core::{Completer, Digest, Receipt, RecordError};
use parking_lot::Mutex;

use crate::{
    archive::Feed,
    config::RealTime,
    journal::{
        frame::{FRAME_BYTES_FULL, Payload},
        segment::Room,
        writer::Writer,
    },
};

/// Real-time priority of the committer: above ordinary work, below the kernel's own threads.
const PRIORITY: i32 = 10;

/// One append on its way to the disk.
pub(crate) struct Item {
    pub payload: Payload,
    /// None for a part of an append that a later item completes.
    pub done: Option<Completer>,
    /// What it has taken of the room.
    pub room: u64,
}

enum Message {
    Append(Box<Item>),
    Stop,
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

    /// Ends the ledger for good. The first reason stands.
    pub(crate) fn stop(&self, why: Arc<str>) {
        self.stopped.lock().get_or_insert(why);
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

/// Where appends go.
#[derive(Clone)]
pub(crate) struct Queue {
    sender: Sender<Message>,
    gauge: Arc<Gauge>,
}

impl Queue {
    /// Hands one admitted item over. Items of one caller keep their order.
    pub(crate) fn push(&self, item: Item) -> Result<(), RecordError> {
        let room = item.room;
        self.sender.send(Message::Append(Box::new(item))).map_err(|_| {
            self.gauge.release(room);
            RecordError::Stopped(
                self.gauge.error().unwrap_or_else(|| "the ledger is closed".into()),
            )
        })
    }

    /// What was pushed before is still written.
    pub(crate) fn stop(&self) {
        let _ = self.sender.send(Message::Stop);
    }
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
        let (sender, receiver) = channel();
        let queue = Queue { sender, gauge: gauge.clone() };
        let thread =
            std::thread::Builder::new().name("bulla-committer".into()).spawn(move || {
                if real_time == RealTime::Try {
                    gauge.real_time.store(ask_for_real_time(), Ordering::Relaxed);
                }
                Loop { writer, gauge, feed, receiver }.run();
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
    gauge: Arc<Gauge>,
    feed: Arc<Feed>,
    receiver: Receiver<Message>,
}

impl Loop {
    fn run(mut self) {
        let mut batch: Vec<Item> = vec![];
        loop {
            let mut stop = !self.wait(&mut batch);
            let mut body: usize = batch.iter().map(|item| item.payload.body_bytes()).sum();
            while !stop && body < FRAME_BYTES_FULL {
                match self.receiver.try_recv() {
                    Ok(Message::Append(item)) => {
                        body += item.payload.body_bytes();
                        batch.push(*item);
                    }
                    Ok(Message::Stop) | Err(TryRecvError::Disconnected) => stop = true,
                    Err(TryRecvError::Empty) => break,
                }
            }
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
                return self.gauge.stop("the ledger is closed".into());
            }
        }
    }

    /// Sleeps until there is something to write. False to stop.
    fn wait(&self, batch: &mut Vec<Item>) -> bool {
        if !batch.is_empty() {
            return true;
        }
        match self.receiver.recv() {
            Ok(Message::Append(item)) => {
                batch.push(*item);
                true
            }
            Ok(Message::Stop) | Err(_) => false,
        }
    }

    /// Writes what fits into one frame and completes it.
    fn commit(&mut self, batch: &mut Vec<Item>) -> Result<(), Arc<str>> {
        let count = self.writer.fitting(payloads(batch));
        let start = Instant::now();
        let written = self.writer.write(payloads(batch).take(count))?;
        self.gauge.latency.add(start.elapsed().as_micros() as u64);
        self.gauge.entries.store(written.index + count as u64, Ordering::Release);
        let mut done = Vec::with_capacity(count);
        for (item, index) in batch.drain(..count).zip(written.index..) {
            let Item { payload, done: completer, room } = item;
            self.gauge.release(room);
            if let Some(completer) = completer {
                completer.complete(Ok(Receipt { index, leaf: Digest(payload.leaf.0) }));
            }
            done.push(payload);
        }
        self.feed.push(written, done);
        Ok(())
    }

    /// The disk has failed. Nothing that waits is told that it is durable.
    fn fail(self, batch: Vec<Item>, why: Arc<str>) {
        tracing::error!(%why, "the record has stopped: nothing passes until a restart");
        self.gauge.stop(why.clone());
        let refuse = |item: Item| {
            if let Some(completer) = item.done {
                completer.complete(Err(RecordError::Stopped(why.clone())));
            }
        };
        batch.into_iter().for_each(refuse);
        while let Ok(message) = self.receiver.try_recv() {
            if let Message::Append(item) = message {
                refuse(*item);
            }
        }
    }
}

fn payloads(batch: &[Item]) -> impl Iterator<Item = &Payload> + Clone {
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
