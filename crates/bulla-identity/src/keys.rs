//! The keys of one issuer, kept fresh by one task.
//!
//! Trusted for whatever the issuer is: who can answer for the issuer's URL can become any of its
//! principals. Nothing is written to disk.
//!
//! | age of the set | what happens |
//! |---|---|
//! | up to 300 s | used |
//! | up to 1 h | used, while the task refreshes |
//! | up to 4 h | used if a refresh fails, and marked stale: policy may forbid that |
//! | beyond, or never fetched | refusal: `keys_unavailable` |
//!
//! Only the task fetches, so that there is never more than one fetch for an issuer. A login that
//! needs a refresh asks for it and waits a bounded time; a flood of unknown key ids costs one
//! refresh in 30 seconds. Ages count by the wall clock and by the monotonic one, whichever says
//! more: neither a clock set back nor a suspended machine makes old keys young.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use bulla_core::{Clock, Timestamp};
use tokio::{
    sync::{Mutex, Notify, watch},
    task::JoinHandle,
};

use crate::{
    error::{Refused, Word},
    fetch::{FetchError, Fetched, Source},
    jwk::KeySet,
};

/// A set this old is refreshed.
pub const REFRESH_AGE_MS: u64 = 300_000;
/// A set this old is stale.
pub const STALE_AGE_MS: u64 = 3_600_000;
/// A set this old is not used any more.
pub const AGE_MS_MAX: u64 = 4 * 3_600_000;
/// Shortest time between two refreshes, whatever asks for them, while there are good keys.
pub const REFRESH_GAP_MS: u64 = 30_000;
/// Shortest time between two refreshes while there are none, or stale ones only.
pub const RETRY_GAP_MS: u64 = 5_000;

/// How an issuer's keys are, for `doctor` and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerStatus {
    pub alias: Arc<str>,
    pub issuer: Arc<str>,
    /// When the set in use was fetched.
    pub fetched_at: Option<Timestamp>,
    pub age_ms: Option<u64>,
    /// Keys in use.
    pub keys: usize,
    /// Keys that were left out: weak, for encryption, or of an unknown kind.
    pub keys_ignored: usize,
    /// Tokens can be verified.
    pub ready: bool,
    pub stale: bool,
    /// Why the last refresh failed, if it did.
    pub last_error: Option<FetchError>,
    pub last_attempt_at: Option<Timestamp>,
    /// Refreshes that failed since the last good one.
    pub failures: u32,
    /// The issuer's clock minus ours; zero where the difference is within the header's grain.
    pub clock_offset_ms: Option<i64>,
}

#[derive(Clone, Copy)]
struct Stamp {
    wall: Timestamp,
    monotonic: Instant,
}

impl Stamp {
    fn now(clock: &dyn Clock) -> Self {
        Self { wall: clock.now(), monotonic: Instant::now() }
    }

    fn age_ms(&self, clock: &dyn Clock) -> u64 {
        let monotonic = u64::try_from(self.monotonic.elapsed().as_millis()).unwrap_or(u64::MAX);
        clock.now().ms_since(self.wall).max(monotonic)
    }
}

#[derive(Clone, Default)]
struct State {
    set: Option<(Arc<KeySet>, Stamp)>,
    attempted: Option<Stamp>,
    last_error: Option<FetchError>,
    failures: u32,
    clock_offset_ms: Option<i64>,
}

impl State {
    fn age_ms(&self, clock: &dyn Clock) -> Option<u64> {
        self.set.as_ref().map(|(_, at)| at.age_ms(clock))
    }

    fn may_refresh(&self, clock: &dyn Clock) -> bool {
        let gap = match self.age_ms(clock) {
            Some(age) if age <= STALE_AGE_MS => REFRESH_GAP_MS,
            _ => RETRY_GAP_MS,
        };
        self.attempted.is_none_or(|at| at.age_ms(clock) >= gap)
    }

    fn is_old(&self, clock: &dyn Clock) -> bool {
        self.age_ms(clock).is_none_or(|age| age > REFRESH_AGE_MS)
    }
}

struct Shared {
    alias: Arc<str>,
    source: Source,
    clock: Arc<dyn Clock>,
    state: ArcSwap<State>,
    /// Wakes the task.
    poke: Notify,
    /// Somebody holds a token with a key id that we do not know.
    unknown_kid: AtomicBool,
    /// Counts the task's answers to pokes.
    answered: watch::Sender<u64>,
    stop: watch::Sender<bool>,
}

/// The key cache of one issuer. Dropping it ends its task.
pub(crate) struct Keys {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
    abort: tokio::task::AbortHandle,
}

/// Keys to verify with, now.
pub(crate) struct Found {
    pub set: Arc<KeySet>,
    pub stale: bool,
}

impl Keys {
    /// Starts the task, which fetches at once.
    pub(crate) fn start(
        alias: &str,
        source: Source,
        clock: Arc<dyn Clock>,
        runtime: &tokio::runtime::Handle,
    ) -> Self {
        let shared = Arc::new(Shared {
            alias: alias.into(),
            source,
            clock,
            state: ArcSwap::default(),
            poke: Notify::new(),
            unknown_kid: AtomicBool::new(false),
            answered: watch::Sender::new(0),
            stop: watch::Sender::new(false),
        });
        let task = runtime.spawn(shared.clone().run());
        let abort = task.abort_handle();
        Self { shared, task: Mutex::new(Some(task)), abort }
    }

    /// Whether this cache can serve an issuer whose keys come from `source`.
    pub(crate) fn serves(&self, alias: &str, source: &Source) -> bool {
        *self.shared.alias == *alias && self.shared.source.same(source)
    }

    /// The keys, after a refresh where one is needed and may be. Cancel safe.
    pub(crate) async fn find(&self, kid: &str) -> Result<Found, Refused> {
        let shared = &*self.shared;
        let clock = &*shared.clock;
        let mut answers = shared.answered.subscribe();
        let state = shared.state.load_full();
        let unknown = match &state.set {
            Some((set, _)) => !set.contains(kid),
            None => false,
        };
        let age = state.age_ms(clock);
        let expired = age.is_none_or(|age| age > STALE_AGE_MS && state.failures == 0);
        if unknown || expired {
            if unknown {
                shared.unknown_kid.store(true, Ordering::Release);
            }
            // Still true while a fetch is under way: its end is what counts.
            if state.may_refresh(clock) {
                shared.poke.notify_one();
                // Whatever comes of it, the state then says.
                let _ = tokio::time::timeout(shared.source.limits.wait, answers.changed()).await;
            }
        } else if state.is_old(clock) {
            shared.poke.notify_one();
        }
        let state = shared.state.load();
        match &state.set {
            Some((set, at)) if at.age_ms(clock) <= AGE_MS_MAX => {
                Ok(Found { set: set.clone(), stale: at.age_ms(clock) > STALE_AGE_MS })
            }
            Some(_) => {
                Err(Refused::new(Word::KeysUnavailable, "the issuer's keys are too old to use"))
            }
            None => {
                Err(Refused::new(Word::KeysUnavailable, "the issuer's keys were never fetched"))
            }
        }
    }

    pub(crate) fn status(&self) -> IssuerStatus {
        let shared = &*self.shared;
        let state = shared.state.load();
        let age_ms = state.age_ms(&*shared.clock);
        IssuerStatus {
            alias: shared.alias.clone(),
            issuer: shared.source.issuer.as_str().into(),
            fetched_at: state.set.as_ref().map(|(_, at)| at.wall),
            age_ms,
            keys: state.set.as_ref().map_or(0, |(set, _)| set.usable),
            keys_ignored: state.set.as_ref().map_or(0, |(set, _)| set.ignored),
            ready: age_ms.is_some_and(|age| age <= AGE_MS_MAX),
            stale: age_ms.is_some_and(|age| age > STALE_AGE_MS),
            last_error: state.last_error,
            last_attempt_at: state.attempted.map(|at| at.wall),
            failures: state.failures,
            clock_offset_ms: state.clock_offset_ms,
        }
    }

    /// Waits until the first refresh has ended, well or not.
    pub(crate) async fn attempted(&self) {
        let mut answers = self.shared.answered.subscribe();
        while self.shared.state.load().attempted.is_none() {
            if answers.changed().await.is_err() {
                return;
            }
        }
    }

    /// Ends the task and waits for it.
    pub(crate) async fn shutdown(&self) {
        self.shared.stop.send_replace(true);
        if let Some(task) = self.task.lock().await.take() {
            let _ = task.await;
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.shared.stop.send_replace(true);
        self.abort.abort();
    }
}

impl Shared {
    async fn run(self: Arc<Self>) {
        let mut stop = self.stop.subscribe();
        let mut tick = tokio::time::interval(self.source.limits.tick);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let poked = tokio::select! {
                _ = stop.wait_for(|stopped| *stopped) => return,
                _ = self.poke.notified() => true,
                _ = tick.tick() => false,
            };
            let clock = &*self.clock;
            let state = self.state.load_full();
            let unknown = self.unknown_kid.swap(false, Ordering::AcqRel);
            let mut answer = poked;
            if (unknown || state.is_old(clock)) && state.may_refresh(clock) {
                let fetched = tokio::select! {
                    _ = stop.wait_for(|stopped| *stopped) => return,
                    fetched = self.source.refresh(clock) => fetched,
                };
                self.take(&state, fetched);
                answer = true;
            }
            if answer {
                self.answered.send_modify(|count| *count = count.wrapping_add(1));
            }
        }
    }

    fn take(&self, before: &State, fetched: Result<Fetched, FetchError>) {
        let now = Stamp::now(&*self.clock);
        let after = match fetched {
            Ok(Fetched { set, clock_offset_ms }) => {
                if before.failures > 0 || before.set.is_none() {
                    tracing::info!(issuer = %self.alias, keys = set.usable, "issuer keys fetched");
                }
                State {
                    set: Some((Arc::new(set), now)),
                    attempted: Some(now),
                    last_error: None,
                    failures: 0,
                    clock_offset_ms,
                }
            }
            Err(error) => {
                tracing::warn!(issuer = %self.alias, %error, "issuer keys not fetched");
                State {
                    attempted: Some(now),
                    last_error: Some(error),
                    failures: before.failures.saturating_add(1),
                    ..before.clone()
                }
            }
        };
        self.state.store(Arc::new(after));
    }
}
