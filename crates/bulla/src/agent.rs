//! `bulla agent`: beside targets, with their secrets, dialling out to gateways.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use bulla_core::{Boxed, Clock, Secret};
use bulla_engine::{ConnectError, Connector, DirectConnector, DirectDialer, SystemClock};
use bulla_host::{Connector as _, DialError};
use bulla_tunnel::{
    AgentStatus, Enrolment, GatewayConfig, Pin, Proxy, Reached, TargetError, TargetInfo, Targets,
    run_agent,
};
use bulla_wire::{Place, TargetHello};
use hyper::{Method, Request, StatusCode, body::Incoming};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    config::agent::{AgentConfig, AgentGateway},
    fail::Invalid,
    health, notify, print,
    registry::{self, Wires},
    roads, say,
};

/// Longest file of a proxy's credentials.
const CREDENTIALS_BYTES_MAX: u64 = 4 * 1024;

fn load(path: &Path) -> Result<AgentConfig> {
    let environment: Vec<_> = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let loaded = AgentConfig::load(path, &environment, registry::REACHED_BY_AGENTS);
    Ok(loaded.map_err(Invalid::config)?)
}

/// `bulla agent check`.
pub fn check(path: &Path, json: bool) -> Result<()> {
    let config = load(path)?;
    let (gateways, targets) = (config.gateways.len(), config.targets.len());
    if json {
        let value = json!({ "valid": true, "gateways": gateways, "targets": targets });
        return Ok(print(&value.to_string())?);
    }
    let tick = say::Paint::new().tick(true);
    let path = path.display();
    Ok(print(&format!("{tick} {path}: {gateways} gateways, {targets} targets"))?)
}

/// The names of RFC 7301 that a gateway may ask for.
const KNOWN_ALPN: &[&str] = &["h2", "http/1.1"];

/// What the agent's configuration names, and nothing else.
struct Beside {
    direct: DirectConnector,
    hosted: DirectDialer,
    known: HashMap<String, Known>,
}

struct Known {
    protocol: &'static str,
    part: String,
    other_parts: bool,
    /// A library owns its wire: the stream is handed over before anybody logs in.
    hosted: bool,
}

impl Beside {
    fn new(config: &AgentConfig, protocols: &Wires) -> Result<Self> {
        let (mut targets, mut hosted, mut known) = (Vec::new(), Vec::new(), HashMap::new());
        for (name, from) in &config.targets {
            if let Some(protocol) = registry::hosted_name(&from.protocol) {
                let target = roads::hosted_target(&config.base, &from.target, &from.login);
                hosted.push((name.clone(), target.with_context(|| format!("targets.{name}"))?));
                let (part, other_parts) = (name.clone(), false);
                known.insert(name.clone(), Known { protocol, part, other_parts, hosted: true });
                continue;
            }
            let protocol = protocols.get(from.protocol.as_str());
            let protocol = protocol.with_context(|| format!("unknown protocol of `{name}`"))?;
            let target = roads::target(&config.base, protocol.clone(), &from.target, &from.login);
            targets.push((name.clone(), target.with_context(|| format!("targets.{name}"))?));
            let one = Known {
                protocol: protocol.descriptor().protocol,
                part: from.target.database.clone().unwrap_or_else(|| name.clone()),
                other_parts: from.target.other_databases,
                hosted: false,
            };
            known.insert(name.clone(), one);
        }
        let timeout = Duration::from_millis(config.agent.connect_max.ms);
        let hosted = DirectDialer::new(hosted, timeout);
        Ok(Self { direct: DirectConnector::new(targets, timeout), hosted, known })
    }

    /// The place that is asked for, if the configuration has it.
    fn place(
        &self,
        target: &str,
        protocol: &str,
        part: Option<&str>,
    ) -> Result<Place, TargetError> {
        let shown = target.escape_debug();
        let unknown = |words: String| Err(TargetError::Unknown(words));
        let Some(known) = self.known.get(target) else {
            return unknown(format!("the agent has no [targets.{shown}]"));
        };
        if known.protocol != protocol {
            let protocol = protocol.escape_debug();
            return unknown(format!("the agent's target `{shown}` does not speak `{protocol}`"));
        }
        let part = part.unwrap_or(&known.part);
        let default_part = part == known.part;
        if !default_part && !known.other_parts {
            let part = part.escape_debug();
            return unknown(format!("the agent's target `{shown}` has no `{part}`"));
        }
        Ok(Place { resource: target.into(), part: part.into(), default_part })
    }
}

fn failed(error: ConnectError) -> TargetError {
    let words = error.to_string();
    match error {
        ConnectError::NoTarget(_) => TargetError::Unknown(words),
        ConnectError::Login(..) | ConnectError::Secret(..) => TargetError::Login(words),
        ConnectError::Dial(..)
        | ConnectError::Tls(..)
        | ConnectError::TimedOut(_)
        | ConnectError::Io(..)
        | ConnectError::Agent { .. } => TargetError::Unreachable(words),
    }
}

impl Beside {
    /// Dials a target whose wire a library owns, with TLS but without a login.
    async fn dial(
        &self,
        target: &str,
        settings: &[(String, String)],
    ) -> Result<Reached, TargetError> {
        let asked = settings.iter().find(|(name, _)| name == roads::ALPN);
        let asked = asked.map_or("", |(_, names)| names.as_str());
        let alpn: Vec<&'static str> = asked
            .split(',')
            .filter_map(|name| KNOWN_ALPN.iter().copied().find(|own| *own == name))
            .collect();
        let dialled = self.hosted.dial(target, &alpn).await.map_err(undialled)?;
        let mut parameters = vec![(roads::TLS.to_owned(), dialled.tls.to_string())];
        if let Some(alpn) = &dialled.alpn {
            parameters.push((roads::ALPN.to_owned(), alpn.to_string()));
        }
        let hello = TargetHello { parameters, ..Default::default() };
        Ok(Reached { stream: Box::new(dialled.stream), hello, rest: Default::default() })
    }
}

fn undialled(error: DialError) -> TargetError {
    let words = error.to_string();
    match error {
        DialError::NoTarget(_) => TargetError::Unknown(words),
        DialError::Secret(..) => TargetError::Login(words),
        DialError::Dial(..)
        | DialError::Tls(..)
        | DialError::TimedOut(_)
        | DialError::Agent { .. } => TargetError::Unreachable(words),
    }
}

impl Targets for Beside {
    fn list(&self) -> Vec<TargetInfo> {
        let info = |(name, known): (&String, &Known)| TargetInfo {
            name: name.clone(),
            protocol: known.protocol.into(),
        };
        self.known.iter().map(info).collect()
    }

    fn open<'a>(
        &'a self,
        target: &'a str,
        protocol: &'a str,
        part: &'a str,
        settings: Vec<(String, String)>,
    ) -> Boxed<'a, Result<Reached, TargetError>> {
        Box::pin(async move {
            let place = self.place(target, protocol, Some(part))?;
            if self.known.get(target).is_some_and(|known| known.hosted) {
                return self.dial(target, &settings).await;
            }
            let connected = self.direct.connect(&place, settings).await.map_err(failed)?;
            let stream = Box::new(connected.stream);
            Ok(Reached { stream, hello: connected.hello, rest: connected.rest })
        })
    }

    fn cancel<'a>(
        &'a self,
        target: &'a str,
        protocol: &'a str,
        hello: TargetHello,
    ) -> Boxed<'a, Result<(), TargetError>> {
        Box::pin(async move {
            let place = self.place(target, protocol, None)?;
            self.direct.cancel(&place, &hello).await.map_err(failed)
        })
    }

    fn secret<'a>(
        &'a self,
        target: &'a str,
        protocol: &'a str,
        spoiled: bool,
    ) -> Boxed<'a, Result<Option<Arc<Secret>>, TargetError>> {
        Box::pin(async move {
            self.place(target, protocol, None)?;
            // Where the agent logs in by itself the secret goes nowhere.
            if !self.known.get(target).is_some_and(|known| known.hosted) {
                let target = target.escape_debug();
                return Err(TargetError::Unknown(format!("the secret of `{target}` stays here")));
            }
            if spoiled {
                self.hosted.spoiled(target);
            }
            self.hosted.secret(target).await.map_err(undialled)
        })
    }
}

fn gateway(config: &AgentConfig, alias: &str, from: &AgentGateway) -> Result<GatewayConfig> {
    let path = |path: &Path| config.base.join(path);
    let enrolment = match from {
        AgentGateway { join_token_file: Some(file), .. } => Enrolment::JoinFile(path(file)),
        AgentGateway { join_token_env: Some(name), .. } => Enrolment::JoinEnv(name.clone()),
        AgentGateway { identity_token_file: Some(file), .. } => Enrolment::Jwt(path(file)),
        AgentGateway { svid: Some(svid), .. } => {
            Enrolment::Svid { cert: path(&svid.cert), key: path(&svid.key) }
        }
        _ => anyhow::bail!("gateways.{alias}: there is no way to enrol"),
    };
    let credentials = match &from.proxy_credentials_file {
        Some(file) => {
            let file = path(file);
            let named = || format!("read `{}`", file.display());
            let size = std::fs::metadata(&file).with_context(named)?.len();
            anyhow::ensure!(size <= CREDENTIALS_BYTES_MAX, "`{}` is too long", file.display());
            let text = std::fs::read_to_string(&file).with_context(named)?;
            Some(Arc::new(Secret::new(text.trim().as_bytes().to_vec())))
        }
        None => None,
    };
    let proxy = from.proxy.clone().map(|address| Proxy { address, credentials });
    Ok(GatewayConfig {
        alias: alias.to_owned(),
        address: from.address.clone(),
        proxy,
        enrolment,
        pin: from.pin.as_deref().and_then(Pin::parse),
    })
}

/// Runs until a signal says stop, then drains.
pub fn run(path: &Path) -> Result<()> {
    let config = load(path)?;
    crate::runtime()?.block_on(serve(config))
}

async fn serve(config: AgentConfig) -> Result<()> {
    let protocols = registry::wires(Default::default())?;
    let targets = Arc::new(Beside::new(&config, &protocols)?);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let status = Arc::new(AgentStatus::default());
    let draining = Arc::new(AtomicBool::new(false));
    let mut gateways = Vec::new();
    for (alias, from) in &config.gateways {
        gateways.push(gateway(&config, alias, from)?);
    }
    let own = bulla_tunnel::AgentConfig {
        name: config.agent.name.clone(),
        data: config.base.join(&config.agent.data),
        gateways,
        connections: config.agent.connections,
        keepalive: Duration::from_millis(config.agent.keepalive.ms),
        drain: Duration::from_millis(config.agent.drain.ms),
        build: format!("bulla {}", env!("CARGO_PKG_VERSION")),
    };
    let metrics = PrometheusBuilder::new().install_recorder()?;
    let page =
        Page { status: status.clone(), draining: draining.clone(), clock: clock.clone(), metrics };
    let listening = health::serve(config.agent.http, move |request| page.answer(request)).await;
    listening.context("listen on agent.http")?;
    let (stop, stopped) = watch::channel(false);
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let agent = run_agent(own, targets, clock, status, stopped);
    tokio::pin!(agent);
    tracing::info!(agent = config.agent.name, "serving");
    notify::ready("serving");
    tokio::select! {
        done = &mut agent => return done.context("run the agent"),
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    draining.store(true, Ordering::Release);
    notify::stopping();
    tracing::info!("draining");
    stop.send_replace(true);
    agent.await.context("drain")
}

/// The agent's own health.
struct Page {
    status: Arc<AgentStatus>,
    draining: Arc<AtomicBool>,
    clock: Arc<dyn Clock>,
    metrics: PrometheusHandle,
}

impl Page {
    fn answer(&self, request: &Request<Incoming>) -> (StatusCode, String) {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            return (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
        }
        match request.uri().path() {
            "/livez" => (StatusCode::OK, "ok\n".into()),
            "/readyz" => match self.not_ready() {
                None => (StatusCode::OK, "ready\n".into()),
                Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
            },
            "/metrics" => {
                self.gauges();
                self.metrics.run_upkeep();
                (StatusCode::OK, self.metrics.render())
            }
            _ => (StatusCode::NOT_FOUND, "try /livez, /readyz or /metrics\n".into()),
        }
    }

    fn not_ready(&self) -> Option<String> {
        if self.draining.load(Ordering::Acquire) {
            return Some("stopping".into());
        }
        if self.status.connected() {
            return None;
        }
        let links = self.status.links();
        let why = |(alias, link): (&String, &bulla_tunnel::LinkStatus)| {
            let error = link.error.as_deref().unwrap_or("not connected yet");
            format!("{alias}: {error}")
        };
        let all: Vec<_> = links.iter().map(why).collect();
        Some(format!("no gateway is connected: {}", all.join("; ")))
    }

    fn gauges(&self) {
        metrics::gauge!("bulla_agent_streams").set(self.status.streams() as f64);
        let now = self.clock.now();
        for (alias, link) in self.status.links() {
            let set = |name: &'static str, value: f64| {
                metrics::gauge!(name, "gateway" => alias.clone()).set(value);
            };
            set("bulla_agent_tunnels", link.tunnels as f64);
            if let Some(until) = link.certificate_until {
                set("bulla_agent_certificate_seconds", until.ms_since(now) as f64 / 1e3);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"
[agent]
name = "eu-1"
data = "data"
[gateways.main]
address = "gw:7443"
join_token_env = "JOIN"
[targets.orders]
protocol = "postgres"
target = { host = "127.0.0.1", port = 5432, tls = "off" }
login = { user = "u", password_file = "password" }
[targets.shop]
protocol = "http"
target = { host = "127.0.0.1", port = 80, tls = "off" }
login = { password_file = "password" }
"#;

    #[tokio::test]
    async fn only_what_an_api_needs_leaves_the_agent() {
        let dir = std::env::temp_dir().join(format!("bulla-agent-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("password"), "secret\n").unwrap();
        std::fs::write(dir.join("agent.toml"), CONFIG).unwrap();
        let environment = [("JOIN".to_owned(), "x".to_owned())];
        let known = registry::REACHED_BY_AGENTS;
        let config = AgentConfig::load(&dir.join("agent.toml"), &environment, known).unwrap();
        let beside = Beside::new(&config, &registry::wires(Default::default()).unwrap()).unwrap();
        let told = beside.secret("shop", "http", false).await.unwrap().unwrap();
        assert_eq!(told.reveal(), b"secret");
        for (target, protocol) in
            [("orders", "postgres"), ("orders", "http"), ("shop", "postgres"), ("other", "http")]
        {
            let told = beside.secret(target, protocol, false).await;
            assert!(matches!(told, Err(TargetError::Unknown(_))), "{target} {protocol}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
