//! The road of a connection: accept, TLS, deadlines, login on both sides, the relay loop, the
//! registry of live sessions, draining. It knows no protocol by name.
//!
//! It is *not* where anything is decided: that is the gate. The relay cannot write a client's byte
//! to a target, or a target's byte to a client, but through the gate's two writers.
//!
//! Invariants:
//! - **One task per session, and it dies alone.** A panic or a hung target ends that session only.
//! - **No login work in an accept loop**; every wait before the session is open has a deadline.
//! - **Buffers are bounded**: a side that does not read stops the other side from being read.
//!
//! | file | holds |
//! |---|---|
//! | `accept` | listeners, budgets, greeting, identity, opening |
//! | `relay` | the loop of one live session |
//! | `side`, `wide` | reading and writing one side of it; sockets below TLS |
//! | `connect` | the `Connector` port and the direct connector |
//! | `scouts` | keeping what readings need to know fresh |
//! | `hosted`, `lanes` | listeners and targets of protocols whose wire a library owns; threads for them |
//! | `desk` | asks that wait for a person |
//! | `registry` | live sessions: list, kill, cancel, extend |

mod accept;
mod connect;
mod desk;
mod hosted;
mod lanes;
mod registry;
mod relay;
mod scouts;
mod side;
#[cfg(test)]
mod tests;
mod wide;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bulla_core::{
    Clock, Descriptor, Directory, Identity, PolicySource, Recorder, SessionId, Timestamp,
};
use bulla_gate::Gate;
use bulla_wire::Protocol;
use tokio::sync::{Semaphore, watch};

pub use connect::{
    ConnectError, Connected, Connector, DirectConnector, SecretSource, Secrets, Stream, Target,
    TargetTls,
};
pub use desk::{Approver, AskView, Desk, DeskError, Progress};
pub use hosted::{DirectDialer, HostedListener, HostedTarget};
pub use lanes::Lanes;
pub use registry::LiveSession;

/// The system's clock, which never goes back: a step backwards is clamped.
#[derive(Debug, Default)]
pub struct SystemClock(std::sync::atomic::AtomicU64);

impl SystemClock {
    /// The given time, or the latest that was told before, whichever is later.
    fn at_least(&self, now: Timestamp) -> Timestamp {
        let last = self.0.fetch_max(now.0, std::sync::atomic::Ordering::Relaxed);
        Timestamp(now.0.max(last))
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
        self.at_least(Timestamp(now))
    }
}

/// Raises the alarm when the task that holds it panics. The task dies alone; its tickets record
/// *abandoned* as they drop.
struct Alarm;

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            metrics::counter!("bulla_session_panics_total").increment(1);
            tracing::error!("a session panicked and is over; please report what was logged above");
        }
    }
}

/// A session's task, from accept to close.
async fn watched<T>(task: impl Future<Output = T>) -> T {
    let _alarm = Alarm;
    task.await
}

/// Everything the engine stands on.
pub struct Parts {
    pub gate: Arc<Gate>,
    pub recorder: Arc<dyn Recorder>,
    pub identity: Arc<dyn Identity>,
    pub directory: Arc<dyn Directory>,
    pub policies: Arc<dyn PolicySource>,
    pub connector: Arc<dyn Connector>,
    pub clock: Arc<dyn Clock>,
}

/// One address to listen on.
pub struct Listener {
    pub name: String,
    pub address: SocketAddr,
    pub protocol: Arc<dyn Protocol>,
    pub tls: Arc<ArcSwap<rustls::ServerConfig>>,
    /// Every session of this listener is on this resource, whatever the client asks for.
    pub resource: Option<String>,
}

/// What may grow, and how far.
#[derive(Debug, Clone)]
pub struct Limits {
    pub sessions_max: usize,
    /// Connections that have not finished their login, over all sources.
    pub handshakes_max: usize,
    /// The same for one source address.
    pub per_source_max: usize,
    pub handshake_ms_max: u64,
    pub connect_ms_max: u64,
    /// How often a waiting client is told that it still waits.
    pub hold_notice_ms: u64,
    pub drain_ms: u64,
    /// How often the knowledge of a target is checked while sessions use it.
    pub catalogue_ms: u64,
    /// After its identity expired, a session may finish what it is in for this long.
    pub expiry_grace_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions_max: 20_000,
            handshakes_max: 20_000,
            per_source_max: 20_000,
            handshake_ms_max: 10_000,
            connect_ms_max: 10_000,
            hold_notice_ms: 10_000,
            drain_ms: 20_000,
            catalogue_ms: 5_000,
            expiry_grace_ms: 60_000,
        }
    }
}

/// The running gateway, without its faces.
pub struct Engine {
    parts: Parts,
    limits: Limits,
    registry: Arc<registry::Registry>,
    scouts: scouts::Scouts,
    handshakes: Arc<Semaphore>,
    draining: watch::Sender<bool>,
}

impl Engine {
    pub fn new(parts: Parts, limits: Limits) -> Arc<Self> {
        let scouts = scouts::Scouts::new(
            parts.connector.clone(),
            Duration::from_millis(limits.catalogue_ms.max(100)),
            Duration::from_millis(limits.connect_ms_max),
        );
        let handshakes = Arc::new(Semaphore::new(limits.handshakes_max));
        let registry = Arc::new(registry::Registry::default());
        let (draining, _) = watch::channel(false);
        Arc::new(Self { parts, limits, registry, scouts, handshakes, draining })
    }

    /// Binds and serves until the engine drains. Returns the bound address.
    pub async fn listen(self: &Arc<Self>, listener: Listener) -> std::io::Result<SocketAddr> {
        accept::listen(self.clone(), listener).await
    }

    /// What a hosted protocol's connections go through. `connector` is the way to its targets.
    pub fn door(
        &self,
        protocol: &'static Descriptor,
        connector: Arc<dyn bulla_host::Connector>,
    ) -> bulla_host::Door {
        let parts = &self.parts;
        let roll = hosted::EngineRoll {
            registry: self.registry.clone(),
            sessions_max: self.limits.sessions_max,
            draining: self.draining.clone(),
        };
        let parts = bulla_host::Parts {
            gate: parts.gate.clone(),
            recorder: parts.recorder.clone(),
            identity: parts.identity.clone(),
            directory: parts.directory.clone(),
            policies: parts.policies.clone(),
            clock: parts.clock.clone(),
            connector,
            roll: Arc::new(roll),
            identify_ms_max: self.limits.handshake_ms_max,
            connect_ms_max: self.limits.connect_ms_max,
            expiry_grace_ms: self.limits.expiry_grace_ms,
        };
        bulla_host::Door::new(Arc::new(parts), protocol)
    }

    /// Binds and serves a hosted protocol until the engine drains. Returns the bound address.
    pub async fn listen_hosted(
        self: &Arc<Self>,
        listener: HostedListener,
        door: bulla_host::Door,
    ) -> std::io::Result<SocketAddr> {
        hosted::listen(self.clone(), listener, door).await
    }

    /// Stops accepting, ends sessions at their safe points, and at the deadline ends the rest.
    pub async fn drain(&self) {
        self.draining.send_replace(true);
        self.registry.each(|handle| handle.tell(registry::Tell::Drain));
        let deadline = tokio::time::Instant::now() + Duration::from_millis(self.limits.drain_ms);
        while self.registry.len() > 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.registry.each(|handle| handle.tell(registry::Tell::Kill { by: "drain".into() }));
        let last = tokio::time::Instant::now() + Duration::from_secs(3);
        while self.registry.len() > 0 && tokio::time::Instant::now() < last {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn sessions(&self) -> Vec<LiveSession> {
        self.registry.list()
    }

    /// Ends a session. False if it is not live.
    pub fn kill(&self, id: SessionId, by: &str) -> bool {
        self.registry.tell(id, registry::Tell::Kill { by: by.into() })
    }

    pub fn handshakes_waiting(&self) -> usize {
        self.limits.handshakes_max.saturating_sub(self.handshakes.available_permits())
    }
}
