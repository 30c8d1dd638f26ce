//! `bulla agent`: beside targets, with their secrets, dialling out to gateways.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use bulla_core::{Clock, Secret};
use bulla_engine::SystemClock;
use bulla_tunnel::{AgentStatus, Enrolment, GatewayConfig, Pin, Proxy, run_agent};
use hyper::{Method, Request, StatusCode, body::Incoming};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    beside::Beside,
    config::agent::{AgentConfig, AgentGateway},
    fail::Invalid,
    health, notify, print, registry, say,
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

/// `bulla agent target-ca`: the line that a target has to believe.
pub fn target_ca(path: &Path, target: &str) -> Result<()> {
    let config = load(path)?;
    let shown = target.escape_debug();
    let found = config.targets.get(target);
    let found = found.with_context(|| format!("there is no [targets.{shown}]"))?;
    bulla_tunnel::private_folder(&config.data())
        .with_context(|| format!("make `{}`", config.data().display()))?;
    let line = registry::target_ca(&config, target, found)?;
    Ok(print(&line)?)
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
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let data = config.data();
    let folder = tokio::task::spawn_blocking(move || bulla_tunnel::private_folder(&data)).await?;
    folder.with_context(|| format!("make `{}`", config.data().display()))?;
    let targets = Arc::new(Beside::new(&config, &protocols, clock.clone())?);
    let status = Arc::new(AgentStatus::default());
    let draining = Arc::new(AtomicBool::new(false));
    let mut gateways = Vec::new();
    for (alias, from) in &config.gateways {
        gateways.push(gateway(&config, alias, from)?);
    }
    let own = bulla_tunnel::AgentConfig {
        name: config.agent.name.clone(),
        data: config.data(),
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
