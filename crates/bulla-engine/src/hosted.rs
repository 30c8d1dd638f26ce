//! Listeners of hosted protocols: budgets and TLS are ours, the wire is a library's.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bulla_core::{Boxed, Origin, PrincipalId, Secret, Timestamp};
use bulla_host::{
    Arrival, Connector, Counters, DialError, Dialled, Door, Entrant, Hosted, Presence, Roll,
    TlsFacts, Transport,
};
use bytes::BytesMut;
use rustls_pki_types::ServerName;
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
};

use crate::{
    Engine, Lanes, SecretSource, TargetTls,
    accept::{UNFIT, accept_each, unfit},
    registry::{Entered, Handle, Registry},
    wide::Wide,
};

/// One address of a hosted protocol.
pub struct HostedListener {
    pub name: String,
    pub address: SocketAddr,
    pub protocol: Arc<dyn Hosted>,
    /// Used where the protocol's transport is TLS; offers the names of that transport.
    pub tls: Arc<ArcSwap<rustls::ServerConfig>>,
    /// The resources that share it, in the order of their names.
    pub resources: Vec<String>,
    /// Where its connections are served; none: where they are accepted.
    pub lanes: Option<Arc<Lanes>>,
}

/// The engine's registry, as hosted protocols see it.
pub(crate) struct EngineRoll {
    pub registry: Arc<Registry>,
    pub sessions_max: usize,
    pub draining: watch::Sender<bool>,
}

/// A session on the list; it has no cancel key that a client could know.
struct Entry {
    _entered: Entered,
}

impl Roll for EngineRoll {
    fn enter(&self, entrant: Entrant) -> Option<Presence> {
        if self.registry.len() >= self.sessions_max || *self.draining.borrow() {
            return None;
        }
        let (tell, inbox) = mpsc::unbounded_channel();
        let counters = Arc::new(Counters::default());
        let entered = self.registry.enter(Handle {
            id: entrant.id,
            principal: entrant.principal,
            resource: entrant.resource,
            opened: entrant.opened,
            source: entrant.source,
            counters: counters.clone(),
            cancel_key: None,
            tell,
        });
        let (logins, since) = (entered.logins.clone(), entered.since);
        let identified_until = Box::new(move || logins.until(since));
        let entered = Box::new(Entry { _entered: entered });
        Some(Presence { counters, inbox, identified_until, entered })
    }
    fn extend(&self, principal: &PrincipalId, until: Timestamp) {
        self.registry.extend(principal, until);
    }
    fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }
}

/// Binds and serves until the engine drains. Returns the bound address.
pub(crate) async fn listen(
    engine: Arc<Engine>,
    listener: HostedListener,
    door: Door,
) -> io::Result<SocketAddr> {
    let listener = Arc::new(listener);
    let (name, address) = (listener.name.clone(), listener.address);
    let resources: Arc<[Arc<str>]> = listener.resources.iter().map(|r| r.as_str().into()).collect();
    let deadline = Duration::from_millis(engine.limits.handshake_ms_max);
    accept_each(&engine, name, address, move |tcp, peer, stranger| {
        let (listener, door, resources) = (listener.clone(), door.clone(), resources.clone());
        async move {
            let Some(lanes) = listener.lanes.clone() else {
                return serve(listener, door, resources, tcp, peer, deadline, stranger).await;
            };
            let Ok(tcp) = tcp.into_std() else { return };
            // What waits for a socket is woken by the lane that it belongs to.
            lanes.spawn(crate::watched(async move {
                if let Ok(tcp) = TcpStream::from_std(tcp) {
                    serve(listener, door, resources, tcp, peer, deadline, stranger).await;
                }
            }));
        }
    })
    .await
}

/// One connection, to its end.
async fn serve(
    listener: Arc<HostedListener>,
    door: Door,
    resources: Arc<[Arc<str>]>,
    tcp: TcpStream,
    peer: SocketAddr,
    deadline: Duration,
    stranger: Box<dyn Send>,
) {
    let arrival = arrive(&listener, &door, tcp, peer, deadline, resources, stranger).await;
    if let Some(arrival) = arrival {
        listener.protocol.clone().serve(arrival, door).await;
    }
}

fn wide(tcp: TcpStream) -> Wide {
    Wide::new(tcp, BytesMut::new())
}

/// From an accepted socket to what the protocol takes.
async fn arrive(
    listener: &HostedListener,
    door: &Door,
    tcp: TcpStream,
    peer: SocketAddr,
    deadline: Duration,
    resources: Arc<[Arc<str>]>,
    stranger: Box<dyn Send>,
) -> Option<Arrival> {
    let _ = tcp.set_nodelay(true);
    let mut origin =
        Origin { address: peer.ip(), port: peer.port(), tls: "".into(), certificate: None };
    if listener.protocol.transport() == Transport::Bare {
        let (stream, tls) = (Box::new(tcp), TlsFacts::default());
        return Some(Arrival { stream, origin, tls, resources, stranger });
    }
    let acceptor = tokio_rustls::TlsAcceptor::from(listener.tls.load_full());
    let stream = match tokio::time::timeout(deadline, acceptor.accept(wide(tcp))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(listener = listener.name, source = %peer.ip(), %error, "TLS");
            if let Some(why) = unfit(&error) {
                door.turn_away(&origin, UNFIT, &why, None, None, None);
            }
            return None;
        }
        Err(_) => {
            metrics::counter!("bulla_connections_refused_total", "why" => "slow").increment(1);
            return None;
        }
    };
    let session = stream.get_ref().1;
    let certificate = session.peer_certificates().and_then(|c| c.first());
    origin.certificate = certificate.map(|c| c.as_ref().into());
    let version = session.protocol_version().and_then(|v| v.as_str()).unwrap_or("TLS");
    origin.tls = version.into();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).as_ref().into();
    let tls = TlsFacts {
        server_name: session.server_name().map(|name| name.to_ascii_lowercase().into()),
        alpn: session.alpn_protocol().map(text),
    };
    Some(Arrival { stream: Box::new(stream), origin, tls, resources, stranger })
}

/// Where a hosted protocol's target is, and how it is reached.
#[derive(Clone)]
pub struct HostedTarget {
    pub host: String,
    pub port: u16,
    pub tls: TargetTls,
    pub secret: SecretSource,
}

/// Dials hosted protocols' targets from the gateway itself.
pub struct DirectDialer {
    targets: HashMap<String, HostedTarget>,
    timeout: Duration,
}

impl DirectDialer {
    pub fn new(targets: Vec<(String, HostedTarget)>, timeout: Duration) -> Self {
        Self { targets: targets.into_iter().collect(), timeout }
    }
    fn target(&self, resource: &str) -> Result<&HostedTarget, DialError> {
        self.targets.get(resource).ok_or_else(|| DialError::NoTarget(resource.into()))
    }
}

async fn dial(
    target: &HostedTarget,
    at: &str,
    alpn: &[&'static str],
) -> Result<Dialled, DialError> {
    let failed = |error| DialError::Dial(at.into(), error);
    let tcp = TcpStream::connect((target.host.as_str(), target.port)).await.map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    let TargetTls::On(config) = &target.tls else {
        return Ok(Dialled { stream: Box::new(tcp), alpn: None, tls: false });
    };
    let tls_failed = |error| DialError::Tls(at.into(), error);
    let name = ServerName::try_from(target.host.clone())
        .map_err(|error| tls_failed(io::Error::other(error)))?;
    let mut config = config.as_ref().clone();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let tls = connector.connect(name, wide(tcp)).await.map_err(tls_failed)?;
    let chosen = tls.get_ref().1.alpn_protocol();
    let alpn = chosen.map(|name| String::from_utf8_lossy(name).as_ref().into());
    Ok(Dialled { stream: Box::new(tls), alpn, tls: true })
}

impl Connector for DirectDialer {
    fn dial<'a>(
        &'a self,
        resource: &'a str,
        alpn: &'a [&'static str],
    ) -> Boxed<'a, Result<Dialled, DialError>> {
        Box::pin(async move {
            let target = self.target(resource)?;
            let at = format!("{}:{}", target.host, target.port);
            match tokio::time::timeout(self.timeout, dial(target, &at, alpn)).await {
                Ok(dialled) => dialled,
                Err(_) => Err(DialError::TimedOut(at)),
            }
        })
    }
    fn spoiled(&self, resource: &str) {
        if let Ok(target) = self.target(resource) {
            target.secret.spoiled();
        }
    }
    fn secret<'a>(
        &'a self,
        resource: &'a str,
    ) -> Boxed<'a, Result<Option<Arc<Secret>>, DialError>> {
        Box::pin(async move {
            let secret = self.target(resource)?.secret.read().await;
            secret.map_err(|error| DialError::Secret(resource.into(), error))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_core::SessionId;
    use bulla_host::Tell;
    use std::sync::atomic::Ordering;

    #[test]
    fn the_roll_is_bounded_and_forgets() {
        let registry = Arc::new(Registry::default());
        let (draining, _) = watch::channel(false);
        let roll = EngineRoll { registry: registry.clone(), sessions_max: 1, draining };
        let entrant = || Entrant {
            id: SessionId([1; 16]),
            principal: PrincipalId::new("bed", "x").unwrap(),
            resource: "api".into(),
            opened: Timestamp(1),
            source: "127.0.0.1".into(),
        };
        let mut first = roll.enter(entrant()).unwrap();
        first.counters.commands.fetch_add(2, Ordering::Relaxed);
        assert_eq!(registry.list().first().map(|session| session.commands), Some(2));
        assert!(roll.enter(entrant()).is_none(), "one too many");
        assert!(registry.tell(SessionId([1; 16]), Tell::Kill { by: "x".into() }));
        assert!(matches!(first.inbox.try_recv(), Ok(Tell::Kill { .. })));
        drop(first);
        assert_eq!(registry.len(), 0);
        roll.draining.send_replace(true);
        assert!(roll.enter(entrant()).is_none(), "stopping");
    }
}
