//! `bulla gateway`: everything put together and kept running.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use arc_swap::{ArcSwap, ArcSwapOption};
use bulla_core::{
    AdminRecord, Directory, Policies, PolicySource, Recorder, Resource, ResourceName,
};
use bulla_engine::{
    Desk, DirectConnector, Engine, Limits, Listener, Parts, SecretSource, SystemClock, Target,
    TargetTls,
};
use bulla_gate::Gate;
use bulla_identity::Verifier;
use bulla_ledger::{Ledger, LedgerConfig};
use bulla_policy::{Bundle, ResourceInput, SchemaInput};
use bulla_wire::Protocol;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::{admin, config::Config, health, registry};

/// A session ends after this long, whatever its identity.
const SESSION_MS_MAX: u64 = 8 * 3_600_000;
/// Commands that may wait for a person.
const ASKS_MAX: usize = 10_000;

type Protocols = std::collections::BTreeMap<&'static str, Arc<dyn Protocol>>;

/// The current bundle; a reload swaps it whole, and a bad one is not taken.
#[derive(Default)]
pub struct Current(ArcSwapOption<Bundle>);

impl PolicySource for Current {
    fn current(&self) -> Option<Arc<dyn Policies>> {
        self.0.load_full().map(|bundle| bundle as Arc<dyn Policies>)
    }
}

struct Resources(HashMap<String, Arc<Resource>>);

impl Directory for Resources {
    fn find(&self, name: &str) -> Option<Arc<Resource>> {
        self.0.get(name).cloned()
    }
}

/// Reads every `*.cedar` file of the folder.
pub fn policies(config: &Config, protocols: &Protocols) -> Result<Bundle, Vec<String>> {
    let dir = config.path(&config.policy.dir);
    let mut files = Vec::new();
    let listed =
        std::fs::read_dir(&dir).map_err(|e| vec![format!("read {}: {e}", dir.display())])?;
    for entry in listed.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "cedar") {
            let text = std::fs::read_to_string(&path);
            let text = text.map_err(|e| vec![format!("read {}: {e}", path.display())])?;
            files.push((entry.file_name().to_string_lossy().into_owned(), text));
        }
    }
    files.sort();
    let descriptors: Vec<_> = protocols.values().map(|p| p.descriptor()).collect();
    let mut resources = Vec::new();
    for (name, resource) in &config.resources {
        resources.push(ResourceInput {
            name: ResourceName::new(name).map_err(|e| vec![e.to_string()])?,
            protocol: resource.protocol.as_str().into(),
            groups: resource.groups.iter().map(|g| g.as_str().into()).collect(),
        });
    }
    let aliases = config.issuers.keys().chain(config.trust_domains.keys());
    let input = SchemaInput {
        protocols: &descriptors,
        resources,
        issuers: aliases.map(|alias| (alias.clone(), Default::default())).collect(),
    };
    Bundle::load(&files, &input).map_err(|all| all.iter().map(ToString::to_string).collect())
}

fn pem_certs(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let certs = CertificateDer::pem_file_iter(path).with_context(|| path.display().to_string())?;
    certs.collect::<Result<Vec<_>, _>>().with_context(|| path.display().to_string())
}

fn pem_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).with_context(|| path.display().to_string())
}

fn server_tls(
    config: &Config,
    verifier: &Verifier,
    protocol: &str,
) -> Result<Arc<rustls::ServerConfig>> {
    let tls = &config.gateway.tls;
    let certs = pem_certs(&config.path(&tls.cert))?;
    let key = pem_key(&config.path(&tls.key))?;
    let builder = rustls::ServerConfig::builder();
    let mut server = if config.trust_domains.is_empty() {
        builder.with_no_client_auth().with_single_cert(certs, key)?
    } else {
        let verify = verifier.client_verifier();
        let mut server = builder.with_client_cert_verifier(verify).with_single_cert(certs, key)?;
        // A resumed session would not be checked against today's trust bundles.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        server
    };
    server.alpn_protocols = registry::alpn(protocol);
    Ok(Arc::new(server))
}

fn target_tls(config: &Config, resource: &crate::config::Resource) -> Result<TargetTls> {
    if resource.target.tls.as_deref() == Some("off") {
        return Ok(TargetTls::Off);
    }
    let mut roots = rustls::RootCertStore::empty();
    match &resource.target.ca {
        Some(path) => {
            for cert in pem_certs(&config.path(path))? {
                roots.add(cert)?;
            }
        }
        None => {
            let native = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(native.certs);
        }
    }
    if roots.is_empty() {
        bail!("no certificate authority to verify the target with; set `target.ca`");
    }
    let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
    let client = match (&resource.login.cert, &resource.login.key) {
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(pem_certs(&config.path(cert))?, pem_key(&config.path(key))?)?,
        _ => builder.with_no_client_auth(),
    };
    Ok(TargetTls::On(Arc::new(client)))
}

/// What the faces of the gateway share.
pub struct Running {
    pub engine: Arc<Engine>,
    pub ledger: Arc<Ledger>,
    pub desk: Arc<Desk>,
    pub policies: Arc<Current>,
    pub clock: Arc<SystemClock>,
}

impl Running {
    /// An act of an operator or of the gateway itself, as an entry.
    pub fn note(&self, kind: &'static str, by: &str, detail: &str) -> Result<(), String> {
        use bulla_core::Clock;
        let record = AdminRecord {
            at: self.clock.now(),
            kind,
            by: by.into(),
            detail: detail.into(),
            digest: self.policies.current().map(|bundle| bundle.digest()),
        };
        let pending = self.ledger.admin(&record).map_err(|e| e.to_string())?;
        bulla_ledger::wait_durable(pending).map(drop).map_err(|e| e.to_string())
    }
}

pub async fn run(path: PathBuf) -> Result<()> {
    let environment: Vec<_> = std::env::vars().collect();
    let config = Config::load(&path, &environment).map_err(|all| Invalid(all.join("\n")))?;
    let protocols = registry::protocols().context("start the parser threads")?;
    let bundle = policies(&config, &protocols).map_err(|all| Invalid(all.join("\n")))?;
    let data = config.data();
    let ledger = Ledger::open(LedgerConfig {
        dir: data.clone(),
        origin: format!("{}/{}", config.gateway.origin, config.gateway.name),
        ..LedgerConfig::default()
    })
    .context("open the ledger")?;
    std::fs::write(data.join("log.vkey"), format!("{}\n", ledger.vkey()))?;
    let clock = Arc::new(SystemClock::default());
    let identity = config.identity().map_err(|e| anyhow!(e))?;
    let verifier = Verifier::new(&identity, clock.clone());
    let verifier = verifier.map_err(|all| {
        Invalid(all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })?;
    let verifier = Arc::new(verifier);
    let current = Arc::new(Current::default());
    current.0.store(Some(Arc::new(bundle)));
    let (mut resources, mut targets) = (HashMap::new(), Vec::new());
    for (name, resource) in &config.resources {
        let protocol = protocols.get(resource.protocol.as_str());
        let protocol = protocol.with_context(|| format!("resources.{name}.protocol: unknown"))?;
        let hold = resource.hold_in_transaction.as_deref().unwrap_or("0s");
        let entry = Resource {
            name: ResourceName::new(name)?,
            protocol: resource.protocol.as_str().into(),
            groups: resource.groups.iter().map(|g| g.as_str().into()).collect(),
            mode: resource.mode().unwrap_or_default(),
            expiry: resource.expiry().unwrap_or_default(),
            session_ms_max: SESSION_MS_MAX,
            hold_in_transaction_ms: crate::config::duration_ms(hold).unwrap_or(0),
        };
        resources.insert(name.clone(), Arc::new(entry));
        let login = &resource.login;
        let secret = match (&login.password_file, &login.password_env) {
            (Some(file), _) => SecretSource::File(config.path(file)),
            (None, Some(name)) => SecretSource::Env(name.clone()),
            (None, None) => SecretSource::None,
        };
        let target = Target {
            protocol: protocol.clone(),
            host: resource.target.host.clone(),
            port: resource.target.port,
            part: resource.target.database.clone(),
            other_parts: resource.target.other_databases,
            tls: target_tls(&config, resource).with_context(|| format!("resources.{name}"))?,
            user: login.user.clone(),
            secret,
        };
        targets.push((name.clone(), target));
    }
    let limits = Limits {
        drain_ms: crate::config::duration_ms(&config.gateway.drain).unwrap_or(20_000),
        ..Limits::default()
    };
    let connect = Duration::from_millis(limits.connect_ms_max);
    let desk = Desk::new(ASKS_MAX);
    let gate = Gate::new(current.clone(), desk.clone(), clock.clone());
    let engine = Engine::new(
        Parts {
            gate: Arc::new(gate),
            recorder: ledger.clone(),
            identity: verifier.clone(),
            directory: Arc::new(Resources(resources)),
            policies: current.clone(),
            connector: Arc::new(DirectConnector::new(targets, connect)),
            clock: clock.clone(),
        },
        limits,
    );
    let running = Arc::new(Running {
        engine: engine.clone(),
        ledger: ledger.clone(),
        desk,
        policies: current.clone(),
        clock,
    });
    let loaded = "the gateway starts with this configuration and these policies";
    running.note("config", "gateway", loaded).map_err(|e| anyhow!("record the start: {e}"))?;
    admin::listen(running.clone(), &config.socket()).context("listen on the admin socket")?;
    health::listen(running.clone(), config.gateway.http).await.context("listen on gateway.http")?;
    // Keys are fetched before the first client comes, or the reason why not is known.
    let _ = tokio::time::timeout(Duration::from_secs(10), verifier.attempted()).await;
    for (name, resource) in &config.resources {
        let Some(protocol) = protocols.get(resource.protocol.as_str()) else { continue };
        let tls = server_tls(&config, &verifier, &resource.protocol)?;
        let address = engine
            .listen(Listener {
                name: name.clone(),
                address: resource.listen,
                protocol: protocol.clone(),
                tls: Arc::new(ArcSwap::new(tls)),
                resource: None,
            })
            .await
            .with_context(|| format!("listen on {} for `{name}`", resource.listen))?;
        tracing::info!(resource = %name, %address, "listening");
    }
    // Ready means that the archive can be read and verified from the first session on.
    for _ in 0..100 {
        if ledger.published() > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    health::ready();
    tracing::info!("ready");
    until_stopped(&running, &path, &protocols).await?;
    health::stopping();
    let _ = tokio::task::spawn_blocking({
        let running = running.clone();
        move || running.note("drain", "gateway", "the gateway stops")
    })
    .await;
    engine.drain().await;
    let _ = std::fs::remove_file(config.socket());
    tokio::task::spawn_blocking(move || ledger.shutdown()).await?.context("close the ledger")?;
    Ok(())
}

/// Serves signals until one says stop.
async fn until_stopped(running: &Arc<Running>, path: &Path, protocols: &Protocols) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
            _ = hup.recv() => reload(running, path, protocols),
        }
    }
}

/// Takes new policies if they are good; otherwise says what is wrong and keeps the last good ones.
fn reload(running: &Arc<Running>, path: &Path, protocols: &Protocols) {
    let environment: Vec<_> = std::env::vars().collect();
    let loaded = Config::load(path, &environment).and_then(|config| policies(&config, protocols));
    let (kind, words) = match loaded {
        Ok(bundle) => {
            let words = format!("policies {} in force", bundle.digest().short(12));
            running.policies.0.store(Some(Arc::new(bundle)));
            tracing::info!("{words}");
            ("policy", words)
        }
        Err(problems) => {
            let words = format!("reload refused: {}", problems.join("; "));
            tracing::error!("{words}");
            ("alarm", words)
        }
    };
    let running = running.clone();
    let short: String = words.chars().take(1000).collect();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = running.note(kind, "gateway", &short) {
            tracing::error!(error, "record the reload");
        }
    });
}

/// A configuration or policy that does not hold: exit 3.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);
