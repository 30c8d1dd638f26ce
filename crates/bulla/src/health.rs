//! `/livez`, `/readyz`, `/metrics`.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Result;
use bulla_core::{PolicySource, Recorder};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::TcpListener;

use crate::gateway::Running;

static READY: AtomicBool = AtomicBool::new(false);

pub fn ready() {
    READY.store(true, Ordering::Release);
}
pub fn stopping() {
    READY.store(false, Ordering::Release);
}

/// Why the gateway should get no new traffic.
fn not_ready(running: &Running) -> Option<String> {
    if !READY.load(Ordering::Acquire) {
        return Some("starting or stopping".into());
    }
    if let Some(error) = running.ledger.health().error {
        return Some(format!("the record cannot be written: {error}"));
    }
    running.policies.current().is_none().then(|| "no current policies".into())
}

fn gauges(running: &Running) {
    let health = running.ledger.health();
    metrics::gauge!("bulla_log_entries").set(health.entries as f64);
    metrics::gauge!("bulla_log_free_bytes").set(health.free_bytes as f64);
    metrics::gauge!("bulla_log_waiting_bytes").set(health.waiting_bytes as f64);
    metrics::gauge!("bulla_log_flush_p99_microseconds").set(health.flush_p99_us as f64);
    metrics::gauge!("bulla_sessions").set(running.engine.sessions().len() as f64);
    metrics::gauge!("bulla_asks").set(running.desk.list().len() as f64);
}

pub async fn listen(running: Arc<Running>, address: SocketAddr) -> Result<()> {
    let metrics = PrometheusBuilder::new().install_recorder()?;
    let listener = TcpListener::bind(address).await?;
    tokio::spawn(async move {
        loop {
            let Ok((tcp, _)) = listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            };
            let (running, metrics) = (running.clone(), metrics.clone());
            tokio::spawn(async move {
                let serve = service_fn(move |request: Request<Incoming>| {
                    let (status, text) = match request.uri().path() {
                        "/livez" => (StatusCode::OK, "ok\n".to_string()),
                        "/readyz" => match not_ready(&running) {
                            None => (StatusCode::OK, "ready\n".into()),
                            Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
                        },
                        "/metrics" => {
                            gauges(&running);
                            (StatusCode::OK, metrics.render())
                        }
                        _ => (StatusCode::NOT_FOUND, "try /livez, /readyz or /metrics\n".into()),
                    };
                    let mut response = Response::new(Full::new(Bytes::from(text)));
                    *response.status_mut() = status;
                    std::future::ready(Ok::<_, std::convert::Infallible>(response))
                });
                let http = hyper::server::conn::http1::Builder::new();
                // A client that goes away is no error of ours.
                let _ = http.serve_connection(TokioIo::new(tcp), serve).await;
            });
        }
    });
    Ok(())
}
