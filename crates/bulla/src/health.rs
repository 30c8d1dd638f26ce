//! `/livez`, `/readyz`, `/metrics`: plain HTTP, for orchestrators and Prometheus.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use bulla_core::{PolicySource, Recorder};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::{net::TcpListener, sync::Semaphore};

use crate::gateway::Running;

/// Connections served at once.
const CONNECTIONS_MAX: usize = 256;
/// Time for a request's head.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);

static READY: AtomicBool = AtomicBool::new(false);

pub fn ready() {
    READY.store(true, Ordering::Release);
}
pub fn stopping() {
    READY.store(false, Ordering::Release);
}

/// Why the gateway should get no new traffic.
pub fn not_ready(running: &Running) -> Option<String> {
    if !READY.load(Ordering::Acquire) {
        return Some("starting or stopping".into());
    }
    if let Some(error) = running.ledger.health().error {
        return Some(format!("the record cannot be written: {error}"));
    }
    running.policies.current().is_none().then(|| "there are no current policies".into())
}

fn gauges(running: &Running) {
    let record = running.ledger.health();
    let set = |name: &'static str, value: f64| metrics::gauge!(name).set(value);
    set("bulla_ready", f64::from(u8::from(not_ready(running).is_none())));
    set("bulla_log_entries", record.entries as f64);
    set("bulla_log_published_entries", running.ledger.published() as f64);
    set("bulla_log_free_bytes", record.free_bytes as f64);
    set("bulla_log_waiting_bytes", record.waiting_bytes as f64);
    set("bulla_log_flush_p50_seconds", record.flush_p50_us as f64 / 1e6);
    set("bulla_log_flush_p99_seconds", record.flush_p99_us as f64 / 1e6);
    set("bulla_log_failed", f64::from(u8::from(record.error.is_some())));
    set("bulla_sessions", running.engine.sessions().len() as f64);
    set("bulla_handshakes_waiting", running.engine.handshakes_waiting() as f64);
    set("bulla_approvals_waiting", running.desk.list().len() as f64);
    agents(running);
    for issuer in running.who.verifier().status() {
        let alias = issuer.alias.to_string();
        let ready = f64::from(u8::from(issuer.ready));
        metrics::gauge!("bulla_issuer_ready", "issuer" => alias.clone()).set(ready);
        if let Some(age) = issuer.age_ms {
            let age = age as f64 / 1e3;
            metrics::gauge!("bulla_issuer_keys_age_seconds", "issuer" => alias).set(age);
        }
    }
}

/// Tunnels and streams of each agent that a resource names, those that are away included.
fn agents(running: &Running) {
    let Some(door) = &running.door else { return };
    let mut found: BTreeMap<String, (usize, usize, u64)> =
        running.agent_names().into_iter().map(|name| (name, Default::default())).collect();
    for tunnel in door.fleet.list() {
        let (tunnels, streams, slowest) = found.entry(tunnel.name.to_string()).or_default();
        *tunnels += usize::from(!tunnel.draining);
        *streams += tunnel.streams;
        *slowest = tunnel.round_trip_us.max(*slowest);
    }
    for (agent, (tunnels, streams, slowest)) in found {
        let set = |name: &'static str, value: f64| {
            metrics::gauge!(name, "agent" => agent.clone()).set(value);
        };
        set("bulla_agent_tunnels", tunnels as f64);
        set("bulla_agent_streams", streams as f64);
        set("bulla_agent_round_trip_seconds", slowest as f64 / 1e6);
    }
}

fn answer(
    running: &Running,
    metrics: &PrometheusHandle,
    request: &Request<Incoming>,
) -> (StatusCode, String) {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
    }
    match request.uri().path() {
        "/livez" => (StatusCode::OK, "ok\n".into()),
        "/readyz" => match not_ready(running) {
            None => (StatusCode::OK, "ready\n".into()),
            Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
        },
        "/metrics" => {
            gauges(running);
            metrics.run_upkeep();
            (StatusCode::OK, metrics.render())
        }
        _ => (StatusCode::NOT_FOUND, "try /livez, /readyz or /metrics\n".into()),
    }
}

/// Serves the gateway's pages.
pub async fn listen(running: Arc<Running>, address: SocketAddr) -> Result<()> {
    let metrics = PrometheusBuilder::new().install_recorder()?;
    serve(address, move |request| answer(&running, &metrics, request)).await
}

/// Serves pages of text, one answer for each request.
pub async fn serve<F>(address: SocketAddr, answer: F) -> Result<()>
where
    F: Fn(&Request<Incoming>) -> (StatusCode, String) + Send + Sync + 'static,
{
    let answer = Arc::new(answer);
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("listen on {address}"))?;
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tokio::spawn(async move {
        loop {
            let Ok(permit) = connections.clone().acquire_owned().await else { return };
            let Ok((tcp, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let answer = answer.clone();
            tokio::spawn(async move {
                let serve = service_fn(move |request: Request<Incoming>| {
                    let (status, text) = answer(&request);
                    let mut response = Response::new(Full::new(Bytes::from(text)));
                    *response.status_mut() = status;
                    let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4");
                    response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
                    std::future::ready(Ok::<_, std::convert::Infallible>(response))
                });
                let mut http = hyper::server::conn::http1::Builder::new();
                http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX);
                // A client that goes away is no error of ours.
                let _ = http.serve_connection(TokioIo::new(tcp), serve).await;
                drop(permit);
            });
        }
    });
    Ok(())
}
