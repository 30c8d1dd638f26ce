//! `bulla gateway`: everything put together and kept running.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwap;
use bulla_core::{
    AdminRecord, Boxed, Clock, Credential, Directory, Identity, IdentityError, Mode, Origin,
    Policies, PolicySource, Principal, Recorder, Resource, ResourceName, Timestamp,
};
use bulla_engine::{
    Approver, Desk, Engine, HostedListener, Lanes, Limits, Listener, Parts, SystemClock,
};
use bulla_gate::Gate;
use bulla_identity::Verifier;
use bulla_ledger::{Compression, Ledger, LedgerConfig};
use bulla_tunnel::Door;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    admin, agents,
    config::{Config, file},
    fail::Invalid,
    health, notify,
    policies::{self, Current},
    registry::{self, Protocols},
    roads::{self, Roads},
    tls,
};

/// How long start-up waits for the issuers' keys. Later they are fetched when they can be.
const KEYS_WAIT: Duration = Duration::from_secs(10);
/// How long start-up waits for the first checkpoint.
const CHECKPOINT_WAIT: Duration = Duration::from_secs(5);
/// Longest description of a reload in the record.
const WORDS_CHARS_MAX: usize = 2_000;

/// The verifier in force; a reload swaps it and keeps the keys that it has.
pub struct Who {
    verifier: ArcSwap<Verifier>,
    minted: Arc<dyn Identity>,
}

impl Who {
    pub fn verifier(&self) -> Arc<Verifier> {
        self.verifier.load_full()
    }
}

impl Identity for Who {
    fn verify<'a>(
        &'a self,
        credential: Credential,
        origin: &'a Origin,
        now: Timestamp,
    ) -> Boxed<'a, Result<Principal, IdentityError>> {
        let verifier = self.verifier();
        Box::pin(async move {
            if !matches!(credential, Credential::Minted(_)) {
                return verifier.verify(credential, origin, now).await;
            }
            let principal = self.minted.verify(credential, origin, now).await?;
            match verifier.vouches(&principal) {
                true => Ok(principal),
                false => Err(IdentityError {
                    word: "unknown_issuer",
                    detail: "who vouched for this certificate is not configured any more".into(),
                }),
            }
        })
    }
}

struct Resources(HashMap<String, Arc<Resource>>);

impl Directory for Resources {
    fn find(&self, name: &str) -> Option<Arc<Resource>> {
        self.0.get(name).cloned()
    }
}

/// A resource as policy and engine know it.
pub fn resource(config: &Config, name: &str, from: &file::Resource) -> Result<Resource> {
    Ok(Resource {
        name: ResourceName::new(name)?,
        protocol: from.protocol.as_str().into(),
        groups: from.groups.iter().map(|group| group.as_str().into()).collect(),
        mode: config.mode(from),
        expiry: from.expiry.into(),
        session_ms_max: from.session_max.ms,
        hold_in_transaction_ms: from.hold_in_transaction.ms,
    })
}

fn limits(config: &Config) -> Limits {
    let limits = &config.limits;
    Limits {
        sessions_max: limits.sessions_max,
        handshakes_max: limits.handshakes_max,
        per_source_max: limits.handshakes_per_source_max,
        handshake_ms_max: limits.handshake_max.ms,
        connect_ms_max: limits.connect_max.ms,
        hold_notice_ms: limits.hold_notice.ms,
        drain_ms: config.gateway.drain.ms,
        catalogue_ms: limits.catalogue.ms,
        expiry_grace_ms: limits.expiry_grace.ms,
    }
}

fn ledger(config: &Config) -> LedgerConfig {
    let from = &config.ledger;
    LedgerConfig {
        dir: config.data(),
        origin: config.origin(),
        segment_bytes: from.segment.bytes,
        compression: match from.compression {
            file::Compression::Zstd => Compression::Zstd,
            file::Compression::None => Compression::None,
        },
        reserve_bytes: from.reserve.bytes,
        checkpoint_ms: from.checkpoint.ms,
        heartbeat_ms: from.heartbeat.ms.min(LedgerConfig::default().heartbeat_ms),
        heartbeat_idle_ms: from.heartbeat.ms,
        ..LedgerConfig::default()
    }
}

/// What the faces of the gateway share.
pub struct Running {
    pub engine: Arc<Engine>,
    pub ledger: Arc<Ledger>,
    pub desk: Arc<Desk>,
    pub policies: Arc<Current>,
    pub clock: Arc<SystemClock>,
    pub who: Arc<Who>,
    pub protocols: Protocols,
    /// Where agents come in, if any may.
    pub door: Option<Arc<Door>>,
    /// Each listener's protocol and the TLS set-up that new connections get.
    listeners: Vec<(String, Tls)>,
    /// As started: what a reload cannot change is compared with it.
    config: Config,
}

impl Running {
    /// Every agent that a resource names.
    pub fn agent_names(&self) -> BTreeSet<String> {
        self.config.resources.values().flat_map(|from| from.agent.iter().cloned()).collect()
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// An act of an operator or of the gateway itself, as an entry. Returns once it is durable;
    /// blocks on the disk.
    pub fn note(&self, kind: &'static str, by: &str, detail: &str) -> Result<(), String> {
        let record = AdminRecord {
            at: self.clock.now(),
            kind,
            by: by.into(),
            detail: detail.into(),
            digest: self.policies.current().map(|bundle| bundle.digest()),
        };
        let pending = self.ledger.admin(&record).map_err(|error| error.to_string())?;
        bulla_ledger::wait_durable(pending).map(drop).map_err(|error| error.to_string())
    }
}

impl Running {
    /// A user of the admin socket, `local:alice`, with the groups that the configuration gives.
    pub fn local_approver(&self, user: &str) -> Approver {
        let name = user.strip_prefix("local:").unwrap_or(user);
        let groups = self.config.approvals.local.as_ref().map(|users| {
            let groups = users.get(name).map(Vec::as_slice).unwrap_or_default();
            groups.iter().map(|group| group.as_str().into()).collect()
        });
        Approver { id: user.into(), groups }
    }
}

/// Every session takes two files. What a shell gives by default (1024) is far too few, and the
/// system's own limit is there to be used.
fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid `rlimit` that outlives both calls; the first fills it, the second
    // only reads it.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if !raised {
        let error = std::io::Error::last_os_error();
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Runs until a signal says stop.
pub async fn run(path: PathBuf) -> Result<()> {
    raise_file_limit();
    let signals = Signals::take().context("listen for signals")?;
    let config = load(&path)?;
    let protocols = config.protocols()?;
    let bundle = policies::load(&config, &protocols).map_err(Invalid::policies)?;
    let opening = ledger(&config);
    let ledger = tokio::task::spawn_blocking(move || Ledger::open(opening)).await?;
    let ledger = ledger.context("open the ledger")?;
    say_what_was_found(&ledger);
    let vkey = config.data().join("log.vkey");
    std::fs::write(&vkey, format!("{}\n", ledger.vkey()))
        .with_context(|| format!("write `{}`", vkey.display()))?;
    let clock = Arc::new(SystemClock::default());
    let verifier = Verifier::new(&config.identity(), clock.clone()).map_err(Invalid::identity)?;
    let (verifier, minted) = (ArcSwap::from_pointee(verifier), protocols.minted.clone());
    let who = Arc::new(Who { verifier, minted });
    let age_max = config.policy.max_age.map(|age| Duration::from_millis(age.ms));
    let current = Arc::new(Current::new(bundle, age_max));
    let mut resources = HashMap::new();
    for (name, from) in &config.resources {
        resources.insert(name.clone(), Arc::new(resource(&config, name, from)?));
    }
    let notes = Arc::new(agents::Record::new(ledger.clone(), clock.clone(), current.clone()));
    let door = agents::door(&config, &who, clock.clone(), notes).await?;
    let fleet = door.as_ref().map(|door| door.fleet.clone());
    let desk = Desk::new(config.limits.approvals_max);
    let engine = Engine::new(
        Parts {
            gate: Arc::new(Gate::new(current.clone(), desk.clone(), clock.clone())),
            recorder: ledger.clone(),
            identity: who.clone(),
            directory: Arc::new(Resources(resources)),
            policies: current.clone(),
            connector: Arc::new(Roads::new(&config, &protocols, fleet.clone())?),
            clock: clock.clone(),
        },
        limits(&config),
    );
    let planned = listeners(&config, &who, &protocols)?;
    // Kept to the end: what runs in them ends with them.
    let lanes = Arc::new(lanes(&config)?);
    let hosted = hosted_listeners(&config, &who, &protocols, &lanes)?;
    let dialer = Arc::new(roads::hosted_roads(&config, fleet)?);
    let own = |protocol: &str, tls: &Tls| (protocol.to_owned(), tls.clone());
    let wires = planned.iter().map(|l| own(l.protocol.descriptor().protocol, &l.tls));
    let tls = hosted.iter().map(|l| own(l.protocol.descriptor().protocol, &l.tls));
    let tls = wires.chain(tls);
    let running = Arc::new(Running {
        engine: engine.clone(),
        ledger: ledger.clone(),
        desk,
        policies: current,
        clock,
        who: who.clone(),
        protocols,
        door,
        listeners: tls.collect(),
        config,
    });
    let config = &running.config;
    note_start(&running).await?;
    admin::listen(running.clone(), &config.socket()).context("listen on the admin socket")?;
    health::listen(running.clone(), config.gateway.http).await.context("listen on gateway.http")?;
    // Keys are fetched before the first client comes, or the reason why not is known.
    let _ = tokio::time::timeout(KEYS_WAIT, who.verifier().attempted()).await;
    for listener in planned {
        let (name, wanted) = (listener.name.clone(), listener.address);
        let address = engine.listen(listener).await;
        let address = address.with_context(|| format!("listen on {wanted} for {name}"))?;
        tracing::info!(resources = name, %address, "listening");
    }
    for listener in hosted {
        let (name, wanted) = (listener.name.clone(), listener.address);
        let door = engine.door(listener.protocol.descriptor(), dialer.clone());
        let address = engine.listen_hosted(listener, door).await;
        let address = address.with_context(|| format!("listen on {wanted} for {name}"))?;
        tracing::info!(resources = name, %address, "listening");
    }
    if let Some(door) = &running.door {
        let address = door.listen().await.context("listen on agents.listen")?;
        tracing::info!(%address, pin = %bulla_tunnel::Pin(door.authority().pin()), "agents");
    }
    // Ready means that the archive can be read and verified from the first session on.
    let deadline = tokio::time::Instant::now() + CHECKPOINT_WAIT;
    while ledger.published() == 0 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    health::ready();
    notify::ready("serving");
    tracing::info!(log = %ledger.vkey(), "ready");
    until_stopped(&running, &path, signals).await?;
    stop(&running).await
}

fn say_what_was_found(ledger: &Ledger) {
    let found = ledger.recovery();
    if found.was_cut_off {
        let (entries, sessions) = (found.entries, found.sessions_closed);
        tracing::warn!(entries, sessions, torn_bytes = found.torn_bytes, "recovered the record");
    }
}

/// The configuration, or every mistake of it.
pub fn load(path: &Path) -> Result<Config> {
    let environment: Vec<_> = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let loaded = Config::load(path, &environment, registry::KNOWN);
    Ok(loaded.map_err(Invalid::config)?)
}

async fn note_start(running: &Arc<Running>) -> Result<()> {
    let noted = running.clone();
    let words = match running.policies.bundle() {
        Some(bundle) => format!(
            "the gateway starts: {} resources, {} policies, bundle {}",
            running.config.resources.len(),
            bundle.policy_count(),
            bundle.digest().short(12)
        ),
        None => "the gateway starts without current policies".to_owned(),
    };
    let noted =
        tokio::task::spawn_blocking(move || noted.note("config", "gateway", &words)).await?;
    noted.map_err(|error| anyhow!("record the start: {error}"))
}

/// The TLS set-up that a listener's new connections get.
type Tls = Arc<ArcSwap<rustls::ServerConfig>>;

/// Each address with its protocol and the resources that share it.
fn addresses(config: &Config) -> BTreeMap<(SocketAddr, &str), Vec<&str>> {
    let mut addresses: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for (name, resource) in &config.resources {
        let key = (resource.listen, resource.protocol.as_str());
        addresses.entry(key).or_default().push(name);
    }
    addresses
}

/// Whether the connections to a resource are served by threads beside each other. Those whose answers
/// wait for the disk are better found together by one thread: one flush then serves more of them.
fn takes_lanes(config: &Config, resource: &file::Resource) -> bool {
    config.mode(resource) == Mode::Bounded && registry::takes_lanes(&resource.protocol)
}

/// Threads for those resources that want them, if there is any.
fn lanes(config: &Config) -> Result<Lanes> {
    let wanted = config.resources.values().any(|own| takes_lanes(config, own));
    if wanted { crate::lanes() } else { Ok(Lanes::default()) }
}

fn hosted_listeners(
    config: &Config,
    who: &Who,
    protocols: &Protocols,
    lanes: &Arc<Lanes>,
) -> Result<Vec<HostedListener>> {
    let mut out = Vec::new();
    for ((address, word), names) in addresses(config) {
        let Some(protocol) = protocols.hosted.get(word) else { continue };
        protocol.prepare().map_err(|why| anyhow!("prepare `{word}`: {why}"))?;
        let tls = tls::server(config, &who.verifier(), registry::alpn(protocols, word))?;
        let mut own = names.iter().filter_map(|name| config.resources.get(*name));
        let beside = own.all(|own| takes_lanes(config, own));
        out.push(HostedListener {
            name: names.join(", "),
            address,
            protocol: protocol.clone(),
            tls: Arc::new(ArcSwap::from_pointee(tls)),
            resources: names.into_iter().map(str::to_owned).collect(),
            lanes: beside.then(|| lanes.clone()),
        });
    }
    Ok(out)
}

/// One listener for each address, whatever resources share it.
fn listeners(config: &Config, who: &Who, protocols: &Protocols) -> Result<Vec<Listener>> {
    let mut out = Vec::new();
    for ((address, word), names) in addresses(config) {
        if registry::is_hosted(word) {
            continue;
        }
        let protocol =
            protocols.wires.get(word).with_context(|| format!("unknown protocol `{word}`"))?;
        let tls = tls::server(config, &who.verifier(), registry::alpn(protocols, word))?;
        out.push(Listener {
            name: names.join(", "),
            address,
            protocol: protocol.clone(),
            tls: Arc::new(ArcSwap::from_pointee(tls)),
            // The client names it; absent and forbidden look the same.
            resource: None,
        });
    }
    Ok(out)
}

async fn stop(running: &Arc<Running>) -> Result<()> {
    health::stopping();
    notify::stopping();
    tracing::info!("draining");
    let noting = running.clone();
    let noted = tokio::task::spawn_blocking(move || noting.note("drain", "gateway", "it stops"));
    if let Err(error) = noted.await? {
        tracing::error!(error, "record the stop");
    }
    running.engine.drain().await;
    if let Some(door) = &running.door {
        door.stop().await;
    }
    let _ = std::fs::remove_file(running.config.socket());
    let ledger = running.ledger.clone();
    tokio::task::spawn_blocking(move || ledger.shutdown()).await?.context("close the ledger")
}

/// What an operator tells a running gateway. Taken before anything else, so that a signal during
/// the start waits for its turn instead of ending the process as it stands.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn take() -> Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }
}

/// Serves signals until one says stop.
async fn until_stopped(running: &Arc<Running>, path: &Path, mut signals: Signals) -> Result<()> {
    loop {
        tokio::select! {
            _ = signals.term.recv() => return Ok(()),
            _ = signals.int.recv() => return Ok(()),
            _ = signals.hup.recv() => {
                let (running, path) = (running.clone(), path.to_path_buf());
                // The handle is needed inside: new issuers start tasks of their own.
                let handle = tokio::runtime::Handle::current();
                let done = tokio::task::spawn_blocking(move || {
                    let _inside = handle.enter();
                    reload(&running, &path);
                });
                done.await?;
            }
        }
    }
}

/// What a reload brings in, all of it or nothing.
struct Fresh {
    bundle: bulla_policy::Bundle,
    verifier: Arc<Verifier>,
    tls: Vec<rustls::ServerConfig>,
    identities: Option<bulla_tunnel::Identities>,
    /// Tables that changed and wait for the next start.
    waiting: Vec<&'static str>,
}

/// Takes new policies, issuers, trust bundles and certificates if all of them are good; otherwise
/// says what is wrong and keeps what it has. Blocks on files and on the record.
fn reload(running: &Running, path: &Path) {
    let (kind, words) = match prepare(running, path) {
        Ok(fresh) => {
            let mut words = format!("reloaded: bundle {}", fresh.bundle.digest().short(12));
            if !fresh.waiting.is_empty() {
                let tables = fresh.waiting.join(", ");
                words.push_str(&format!("; restart to change {tables}"));
            }
            running.policies.put(fresh.bundle);
            running.who.verifier.store(fresh.verifier);
            if let (Some(door), Some(identities)) = (&running.door, fresh.identities)
                && let Err(error) = door.reload(identities)
            {
                tracing::error!(%error, "agents keep to what they had");
            }
            for ((_, slot), tls) in running.listeners.iter().zip(fresh.tls) {
                slot.store(Arc::new(tls));
            }
            tracing::info!("{words}");
            ("policy", words)
        }
        Err(error) => {
            let words = format!("reload refused, nothing changed: {error:#}");
            tracing::error!("{words}");
            ("alarm", words)
        }
    };
    let short: String = words.chars().take(WORDS_CHARS_MAX).collect();
    if let Err(error) = running.note(kind, "gateway", &short) {
        tracing::error!(error, "record the reload");
    }
}

fn prepare(running: &Running, path: &Path) -> Result<Fresh> {
    let config = load(path)?;
    let bundle = policies::load(&config, &running.protocols).map_err(Invalid::policies)?;
    let verifier = running.who.verifier().reload(&config.identity()).map_err(Invalid::identity)?;
    let mut tls = Vec::new();
    for (protocol, _) in &running.listeners {
        tls.push(tls::server(&config, &verifier, registry::alpn(&running.protocols, protocol))?);
    }
    let old = &running.config;
    let differs =
        |a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| format!("{a:?}") != format!("{b:?}");
    let mut waiting = Vec::new();
    for (table, changed) in [
        ("resources", differs(&old.resources, &config.resources)),
        ("agents", {
            let strip = |config: &Config| {
                config.agents.as_ref().map(|a| (a.listen, a.certificate, a.keepalive))
            };
            strip(old) != strip(&config)
        }),
        ("ledger", differs(&old.ledger, &config.ledger)),
        ("limits", differs(&old.limits, &config.limits)),
        ("policy", differs(&old.policy, &config.policy)),
        ("gateway", {
            let strip = |config: &Config| {
                let gateway = config.gateway.clone();
                (gateway.name, gateway.origin, gateway.data, gateway.http, gateway.admin)
            };
            strip(old) != strip(&config)
        }),
    ] {
        if changed {
            waiting.push(table);
        }
    }
    let verifier = Arc::new(verifier);
    let identities = config
        .agents
        .as_ref()
        .map(|from| agents::identities(from, running.who.clone(), &config, &verifier));
    Ok(Fresh { bundle, verifier, tls, identities, waiting })
}
