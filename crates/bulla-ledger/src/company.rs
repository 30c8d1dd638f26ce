//! Whether others are likely to join who waits for the disk: how many sessions are at work, how
//! long their commands take, and how often somebody comes to wait. It decides when something is
//! written, never what.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// A session is at work if it sent a command in this span of time or the one before.
const SPAN: Duration = Duration::from_millis(10);
/// Nobody waits longer for others than this.
const PATIENCE_MAX: Duration = Duration::from_millis(1);
/// Below this a wait costs more than it saves.
const PATIENCE_MIN: Duration = Duration::from_micros(50);

#[derive(Debug)]
pub(crate) struct Company {
    start: Instant,
    /// One for even spans and one for odd ones: in the upper half which span, in the lower half how
    /// many sessions sent something in it.
    spans: [AtomicU64; 2],
    /// Microseconds that a command takes, of the faster ones.
    usual_us: AtomicU64,
    /// Microseconds between one who comes to wait and the next.
    gap_us: AtomicU64,
    /// When the last of them were served.
    served_us: AtomicU64,
}

/// When a command was sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent(u64);

/// The span in which a session was counted last.
#[derive(Debug, Default)]
pub(crate) struct Counted(Option<u32>);

impl Company {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            spans: [AtomicU64::new(0), AtomicU64::new(0)],
            usual_us: AtomicU64::new(micros(PATIENCE_MIN)),
            gap_us: AtomicU64::new(u64::from(u32::MAX)),
            served_us: AtomicU64::new(0),
        }
    }

    pub(crate) fn now_us(&self) -> u64 {
        micros(self.start.elapsed())
    }

    /// A session sends a command to whose response somebody will wait.
    pub(crate) fn sends(&self, session: &mut Counted) -> Sent {
        let now = self.now_us();
        self.count_in(span(now), session);
        Sent(now)
    }

    fn count_in(&self, span: u32, session: &mut Counted) {
        if session.0.replace(span) == Some(span) {
            return;
        }
        let add = |old| Some(if of(old) == span { old + 1 } else { tagged(span, 1) });
        let [even, odd] = &self.spans;
        let slot = if span.is_multiple_of(2) { even } else { odd };
        let _ = slot.try_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// It is answered.
    pub(crate) fn answered(&self, sent: Sent) {
        self.took(self.now_us().saturating_sub(sent.0));
    }

    /// Follows the faster commands quickly and the slower ones slowly.
    fn took(&self, us: u64) {
        let usual = self.usual_us.load(Ordering::Relaxed);
        let next = match us.checked_sub(usual) {
            None => usual - (usual - us).div_ceil(8),
            Some(more) => usual + more.min(usual).div_ceil(32),
        };
        // One of several at the same time may get lost.
        self.usual_us.store(next.clamp(1, micros(PATIENCE_MAX)), Ordering::Relaxed);
    }

    /// So many who waited are being served.
    pub(crate) fn serves(&self, waiters: usize) {
        let now = self.now_us();
        let since = now.saturating_sub(self.served_us.swap(now, Ordering::Relaxed));
        self.came(since, waiters);
    }

    fn came(&self, within_us: u64, waiters: usize) {
        let new = (within_us / (waiters as u64).max(1)).min(u64::from(u32::MAX));
        let old = self.gap_us.load(Ordering::Relaxed);
        // A pause says nothing about what comes after it; a first company is noticed soon.
        let next = if new < old { (old * 3 + new) / 4 } else { (old * 7 + new.min(old * 4)) / 8 };
        self.gap_us.store(next.max(1), Ordering::Relaxed);
    }

    /// Whether so many are enough: a third of the sessions at work, so that while one third is
    /// written and one is answered the last one comes; or nobody is likely to come in time.
    pub(crate) fn is_enough(&self, waiters: usize) -> bool {
        let comes = self.gap_us.load(Ordering::Relaxed) <= micros(self.patience());
        waiters > 0 && (!comes || waiters * 3 >= self.sessions_in(span(self.now_us())))
    }

    fn sessions_in(&self, span: u32) -> usize {
        let recent = |slot: &AtomicU64| {
            let found = slot.load(Ordering::Relaxed);
            if span.wrapping_sub(of(found)) <= 1 { found as u32 as usize } else { 0 }
        };
        // Who is in both is not counted twice; the span that just began has few.
        self.spans.iter().map(recent).max().unwrap_or(0)
    }

    /// Whether there is anybody.
    pub(crate) fn is_some(&self) -> bool {
        self.sessions_in(span(self.now_us())) > 1
    }

    /// Whether who waits since then has waited for others for long enough.
    pub(crate) fn is_late(&self, since_us: u64) -> bool {
        self.now_us().saturating_sub(since_us) >= micros(self.patience())
    }

    /// How long others may be waited for: twice what a command takes.
    fn patience(&self) -> Duration {
        let twice = Duration::from_micros(self.usual_us.load(Ordering::Relaxed) * 2);
        twice.clamp(PATIENCE_MIN, PATIENCE_MAX)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
fn span(us: u64) -> u32 {
    (us / micros(SPAN)) as u32
}
fn tagged(span: u32, count: u32) -> u64 {
    u64::from(span) << 32 | u64::from(count)
}
fn of(slot: u64) -> u32 {
    (slot >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_count_once_while_they_are_at_work() {
        let company = Company::new();
        let mut sessions: Vec<Counted> = (0..8).map(|_| Counted::default()).collect();
        for _ in 0..3 {
            sessions.iter_mut().for_each(|session| company.count_in(4, session));
        }
        company.count_in(5, &mut sessions[0]);
        for (now, expect) in [(4, 8), (5, 8), (6, 1), (7, 0), (9, 0)] {
            assert_eq!(company.sessions_in(now), expect, "{now}");
        }
        company.count_in(6, &mut sessions[1]);
        assert_eq!((company.sessions_in(6), company.sessions_in(7)), (1, 1));
    }

    #[test]
    fn nobody_waits_longer_than_twice_what_the_faster_commands_take() {
        let company = Company::new();
        let after = |times: &[u64]| {
            (0..1_000).for_each(|n| company.took(times[n % times.len()]));
            micros(company.patience())
        };
        assert!((390..=440).contains(&after(&[200])));
        // One in two is slow, and one that hangs.
        assert!(after(&[200, 5_000]) < 600);
        assert!(after(&[200, 200, u64::MAX]) < 600);
        assert_eq!(after(&[10]), micros(PATIENCE_MIN));
        assert_eq!(after(&[9_000]), micros(PATIENCE_MAX));
    }

    #[test]
    fn who_comes_alone_is_served_at_once() {
        let company = Company::new();
        let mut sessions: Vec<Counted> = (0..8).map(|_| Counted::default()).collect();
        (0..1_000).for_each(|_| company.took(100));
        // Nobody was seen yet.
        assert!(company.is_enough(1));
        for session in &mut sessions {
            company.sends(session);
        }
        // Eight at work, and one comes each 60 µs: it is worth it.
        (0..100).for_each(|_| company.came(120, 2));
        assert_eq!([1, 2, 3].map(|n| company.is_enough(n)), [false, false, true]);
        // One comes each millisecond, at most: it is not.
        (0..100).for_each(|_| company.came(1_000, 1));
        assert!(company.is_enough(1));
        assert!(!company.is_enough(0));
    }
}
