//! What a client sent and its target has not taken: bounded, and told apart by channel.
//!
//! RFC 4254 section 5.2 has a window for each channel, and whoever does not take its input lets it
//! run dry. russh gives the window back as soon as data *arrives*, within one call that no handler
//! can put off, for all channels of a connection alike, and it has no way to grant some later
//! (`Encrypted::adjust_window_size`; issues 730 and 770 there). So a client never learns from its
//! window that a target is slow, and what it sends must wait here or in its socket, where the data
//! of all its channels stands in one line. Therefore:
//!
//! - [`CALM_BYTES`] of a channel wait without anybody noticing, and [`ROOM_BYTES`] of a connection:
//!   a channel that stands still slows no other until then;
//! - beyond that, the connection is read slowly, and not at all at [`ROOM_BYTES_MAX`]: slowed, and
//!   not cut;
//! - while answers of the connection are on their way it is read on, in ever longer steps, since the
//!   window for them stands in the same line. Whoever has taken no answer by [`ROOM_BYTES_MAX`],
//!   minutes later, is cut: nothing else would ever move.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use russh::Sig;
use tokio::sync::{Notify, mpsc, watch};

use crate::line::Size;

/// Bytes that are recorded as one piece, where so many are there.
pub const PIECE_BYTES: usize = 256 << 10;
/// Input of one channel that waits for its target without consequence.
const CALM_BYTES: usize = 2 << 20;
/// Input of one connection that waits before it is read more slowly.
const ROOM_BYTES: usize = 32 << 20;
/// Input of one connection that waits, at most.
const ROOM_BYTES_MAX: usize = 96 << 20;
/// Input of all connections that waits; beyond it a connection has no more than a channel.
const HOUSE_BYTES: usize = 256 << 20;
/// Between two packets of a connection that is full, while nothing else needs its turn.
const PAUSE_IDLE: Duration = Duration::from_millis(100);
/// The same while an answer is on its way: doubled with every [`STEP_BYTES`] more.
const PAUSE: Duration = Duration::from_millis(10);
const STEP_BYTES: usize = 8 << 20;
const STEPS_MAX: u32 = 5;

/// What a client's channel brought.
#[derive(Debug)]
pub enum FromClient {
    Data(Bytes, Held),
    Eof,
    Signal(Sig),
    Resize(Size),
}

/// What waits for targets, in all connections together.
#[derive(Debug, Default)]
pub struct House(AtomicUsize);

/// What waits in one connection.
#[derive(Debug)]
pub struct Room {
    house: Arc<House>,
    bytes: AtomicUsize,
    /// Channels whose answer is being sent.
    sending: AtomicUsize,
    /// Something of the above became less, or an answer began.
    changed: Notify,
}

impl Room {
    pub fn new(house: Arc<House>) -> Arc<Self> {
        let (bytes, sending) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { house, bytes, sending, changed: Notify::new() })
    }
    fn share(&self) -> usize {
        match self.house.0.load(Ordering::Acquire) {
            ..=HOUSE_BYTES => ROOM_BYTES,
            _ => CALM_BYTES,
        }
    }
}

/// What waits in one channel.
#[derive(Debug)]
pub struct Gauge {
    room: Arc<Room>,
    bytes: AtomicUsize,
    sending: AtomicBool,
    /// Nobody reads any more.
    unread: AtomicBool,
    /// Told once too much came from who takes nothing.
    flooded: Notify,
}

/// Bytes that wait. Dropped, they do not any more.
#[derive(Debug)]
pub struct Held {
    gauge: Arc<Gauge>,
    bytes: usize,
}

impl Held {
    fn new(gauge: &Arc<Gauge>, bytes: usize) -> Self {
        for counter in [&gauge.bytes, &gauge.room.bytes, &gauge.room.house.0] {
            counter.fetch_add(bytes, Ordering::AcqRel);
        }
        Self { gauge: gauge.clone(), bytes }
    }
    /// Takes over another of the same channel.
    pub fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
    /// Takes some of them off.
    pub fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { gauge: self.gauge.clone(), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let gauge = &self.gauge;
        for counter in [&gauge.bytes, &gauge.room.bytes, &gauge.room.house.0] {
            counter.fetch_sub(self.bytes, Ordering::AcqRel);
        }
        gauge.room.changed.notify_one();
    }
}

/// An answer that is being sent, until it is dropped.
pub struct Sending(Arc<Gauge>);

impl Gauge {
    /// Resolves once the client has sent too much and taken too little. For one to wait on.
    pub async fn flooded(&self) {
        self.flooded.notified().await;
    }

    pub fn sending(self: &Arc<Self>) -> Sending {
        self.sending.store(true, Ordering::Release);
        self.room.sending.fetch_add(1, Ordering::AcqRel);
        self.room.changed.notify_one();
        Sending(self.clone())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.sending.store(false, Ordering::Release);
        self.0.room.sending.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a connection does before it reads on.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    /// Looks again once something has changed, and reads on after this time at the latest.
    Pause(Duration),
    Wait,
    Cut,
}

impl Gauge {
    fn next(&self) -> Next {
        let share = self.room.share();
        let (own, all) = (&self.bytes, &self.room.bytes);
        let (own, all) = (own.load(Ordering::Acquire), all.load(Ordering::Acquire));
        if own <= CALM_BYTES || all <= share || self.unread.load(Ordering::Acquire) {
            return Next::GoOn;
        }
        if all > ROOM_BYTES_MAX {
            return match self.sending.load(Ordering::Acquire) {
                true => Next::Cut,
                false => Next::Wait,
            };
        }
        if self.room.sending.load(Ordering::Acquire) == 0 {
            return Next::Pause(PAUSE_IDLE);
        }
        let steps = u32::try_from(all.saturating_sub(share) / STEP_BYTES).unwrap_or(STEPS_MAX);
        Next::Pause(PAUSE * (1 << steps.min(STEPS_MAX)))
    }
}

/// The end of a channel's input that the connection fills.
pub struct Input {
    events: mpsc::UnboundedSender<FromClient>,
    taken: Mutex<Option<mpsc::UnboundedReceiver<FromClient>>>,
    gauge: Arc<Gauge>,
    /// Dropped when the client closes the channel.
    open: watch::Sender<()>,
}

impl Input {
    pub fn new(room: &Arc<Room>) -> Self {
        let (events, taken) = mpsc::unbounded_channel();
        let gauge = Arc::new(Gauge {
            room: room.clone(),
            bytes: AtomicUsize::new(0),
            sending: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            flooded: Notify::new(),
        });
        Self { events, taken: Mutex::new(Some(taken)), gauge, open: watch::channel(()).0 }
    }

    /// The other end. A second one is empty.
    pub fn reader(&self) -> Reader {
        let events = self.taken.lock().take();
        let events = events.unwrap_or_else(|| mpsc::unbounded_channel().1);
        Reader { events, gauge: self.gauge.clone(), open: self.open.subscribe() }
    }

    /// Whether the channel's task has ended.
    pub fn is_over(&self) -> bool {
        self.events.is_closed()
    }

    pub fn event(&self, event: FromClient) {
        let _ = self.events.send(event);
    }

    /// Adds data; returns once the connection may be read on.
    pub async fn data(&self, data: Bytes) {
        if self.gauge.unread.load(Ordering::Acquire) {
            return;
        }
        let held = Held::new(&self.gauge, data.len());
        let _ = self.events.send(FromClient::Data(data, held));
        loop {
            // Before the look, so that nothing is missed in between.
            let changed = self.gauge.room.changed.notified();
            match self.gauge.next() {
                Next::GoOn => return,
                Next::Cut => {
                    self.gauge.unread.store(true, Ordering::Release);
                    return self.gauge.flooded.notify_one();
                }
                Next::Wait => changed.await,
                Next::Pause(time) => {
                    if tokio::time::timeout(time, changed).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// The end of a channel's input that its task reads.
pub struct Reader {
    events: mpsc::UnboundedReceiver<FromClient>,
    pub gauge: Arc<Gauge>,
    open: watch::Receiver<()>,
}

impl Reader {
    /// None: the client closed the channel. Cancel safe.
    pub async fn next(&mut self) -> Option<FromClient> {
        self.events.recv().await
    }
    /// Resolves when the client closed the channel, whatever waits to be read.
    pub async fn closed(&self) {
        let mut open = self.open.clone();
        while open.changed().await.is_ok() {}
    }
    /// Takes what follows of the same input, up to a piece.
    pub fn gather(
        &mut self,
        first: Bytes,
        held: &mut Held,
        after: &mut Option<FromClient>,
    ) -> Bytes {
        let mut all = BytesMut::new();
        while all.len() + first.len() < PIECE_BYTES {
            match self.events.try_recv() {
                Ok(FromClient::Data(data, more)) => {
                    if all.is_empty() {
                        all.extend_from_slice(&first);
                    }
                    all.extend_from_slice(&data);
                    held.join(more);
                }
                Ok(other) => {
                    *after = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        if all.is_empty() { first } else { all.freeze() }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.gauge.unread.store(true, Ordering::Release);
        self.gauge.room.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, task::Poll};

    use super::*;

    const MIB: usize = 1 << 20;

    fn channel(room: &Arc<Room>) -> (Input, Reader) {
        let input = Input::new(room);
        let reader = input.reader();
        (input, reader)
    }

    #[test]
    fn a_connection_is_slowed_by_what_waits_and_cut_by_who_takes_nothing() {
        let idle = Next::Pause(PAUSE_IDLE);
        let answers = |steps: u32| Next::Pause(PAUSE * (1u32 << steps));
        for (own, others, in_other_rooms, own_answer, other_answer, expect) in [
            (2, 0, 0, false, false, Next::GoOn),
            (32, 0, 0, false, false, Next::GoOn),
            (33, 0, 0, false, false, idle),
            // A channel that is in order is not held up by another one's backlog.
            (2, 90, 0, false, false, Next::GoOn),
            (3, 30, 0, false, false, Next::Pause(PAUSE_IDLE)),
            (33, 0, 0, false, true, answers(0)),
            (33, 0, 0, true, false, answers(0)),
            (41, 0, 0, false, true, answers(1)),
            (90, 0, 0, false, true, answers(5)),
            (97, 0, 0, false, true, Next::Wait),
            (97, 0, 0, true, false, Next::Cut),
            // Where others took all the room there is, it is little.
            (3, 0, 254, false, false, Next::Pause(PAUSE_IDLE)),
            (2, 0, 400, false, false, Next::GoOn),
        ] {
            let house = Arc::new(House::default());
            let (room, away) = (Room::new(house.clone()), Room::new(house));
            let (input, other, far) = (channel(&room), channel(&room), channel(&away));
            let held = [
                Held::new(&input.0.gauge, own * MIB),
                Held::new(&other.0.gauge, others * MIB),
                Held::new(&far.0.gauge, in_other_rooms * MIB),
            ];
            let _own = own_answer.then(|| input.0.gauge.sending());
            let _other = other_answer.then(|| other.0.gauge.sending());
            let case = (own, others, in_other_rooms, own_answer, other_answer);
            assert_eq!(input.0.gauge.next(), expect, "{case:?}");
            drop(held);
            assert_eq!(input.0.gauge.next(), Next::GoOn, "{case:?}");
            assert_eq!(room.bytes.load(Ordering::Acquire), 0);
            assert_eq!(room.house.0.load(Ordering::Acquire), 0);
        }
    }

    /// Whether it is done without waiting for anything.
    async fn at_once(future: std::pin::Pin<&mut impl Future<Output = ()>>) -> bool {
        let mut future = future;
        std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await
    }

    #[tokio::test]
    async fn what_is_taken_lets_a_connection_read_on() {
        let room = Room::new(Arc::default());
        let (input, mut reader) = channel(&room);
        let piece = Bytes::from(vec![7; 16 * MIB]);
        for _ in 0..2 {
            assert!(at_once(pin!(input.data(piece.clone()))).await);
        }
        // Full: what came is kept, and the next one waits.
        let mut third = pin!(input.data(piece.clone()));
        assert!(!at_once(third.as_mut()).await);
        let next = reader.next().await;
        assert!(matches!(&next, Some(FromClient::Data(data, _)) if *data == piece));
        assert!(!at_once(third.as_mut()).await, "it is taken once it went on");
        drop(next);
        assert!(at_once(third.as_mut()).await);
        let mut fourth = pin!(input.data(piece.clone()));
        assert!(!at_once(fourth.as_mut()).await);
        // Whoever does not read any more holds nobody up, and nothing is kept for it.
        drop(reader);
        assert!(at_once(fourth.as_mut()).await);
        assert!(at_once(pin!(input.data(piece.clone()))).await);
        assert_eq!(room.bytes.load(Ordering::Acquire), 0);
    }

    #[tokio::test]
    async fn pieces_are_put_together_with_what_they_hold() {
        let room = Room::new(Arc::default());
        let (input, mut reader) = channel(&room);
        for part in ["ab", "cd"] {
            input.data(Bytes::from_static(part.as_bytes())).await;
        }
        input.event(FromClient::Eof);
        let Some(FromClient::Data(data, mut held)) = reader.next().await else { panic!() };
        let mut after = None;
        assert_eq!(&reader.gather(data, &mut held, &mut after)[..], b"abcd");
        assert!(matches!(after, Some(FromClient::Eof)));
        drop(held.split(3));
        assert_eq!(room.bytes.load(Ordering::Acquire), 1);
        drop(held);
        assert_eq!(room.bytes.load(Ordering::Acquire), 0);
    }
}
