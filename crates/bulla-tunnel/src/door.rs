//! The gateway's listener for agents: enrol, renew, tunnel, told apart by ALPN.
//!
//! Everything that is read before somebody is known is bounded in size and time. A refusal says
//! publicly only that there is none; the record and the gateway's log have the reason.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bulla_core::{Boxed, Clock, Credential, Identity, Origin, Secret, Timestamp};
use bytes::{Bytes, BytesMut};
use h2::{Ping, PingPong};
use parking_lot::Mutex;
use rustls::{ServerConfig, server::danger::ClientCertVerifier};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use crate::{
    FRAME_BYTES_MAX, HANDSHAKE_MAX, HEADERS_BYTES_MAX, SEND_BUFFER_BYTES, STREAM_WINDOW_BYTES,
    TUNNEL_WINDOW_BYTES, alpn,
    authority::{self, Authority, AuthorityError, Old},
    fleet::{Fleet, Tunnel, call},
    gather::Gathered,
    message::{self, CAPABILITIES, Event, HELLO_PATH, Hello, Issued, Request, VERSION, Welcome},
    roster::{Enrolled, InstanceId, Member, Roster},
    stream::lost,
    token::JoinToken,
};

/// Connections that are not known yet.
const STRANGERS_MAX: usize = 256;
/// The gateway's certificate toward agents is made anew after half of its life.
const TLS_AGE_MAX: Duration = Duration::from_secs(12 * 3_600);
/// Refusals on record; the rest is counted.
const REFUSAL_EVERY: Duration = Duration::from_secs(1);
/// What one instance may do within a minute that is an entry each time: tunnels and renewals. One
/// that comes more often would fill the record.
const ENTRIES_PER_MINUTE_MAX: u32 = 60;
const MINUTE: Duration = Duration::from_secs(60);
/// How long a gateway that stops waits for the ends of its tunnels.
const ENDING_MAX: Duration = Duration::from_secs(10);

/// Where what happens to agents is recorded.
pub trait Notes: Send + Sync {
    /// Resolves when the entry is durable. Nothing may happen before it.
    fn note<'a>(&'a self, by: &'a str, detail: &'a str) -> Boxed<'a, Result<(), String>>;
}

/// An agent that may enrol by its own identity instead of a join token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub agent: Arc<str>,
    /// The principal's id, whole: `k8s|infra/bulla-agent`.
    pub principal: Arc<str>,
    pub resources: Vec<Arc<str>>,
}

/// Who may vouch for an agent that has no join token.
#[derive(Clone)]
pub struct Identities {
    pub identity: Arc<dyn Identity>,
    /// Checks a client certificate that is shown at enrolment.
    pub clients: Option<Arc<dyn ClientCertVerifier>>,
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
pub struct DoorConfig {
    pub address: SocketAddr,
    pub gateway: String,
    /// Life of an agent's certificate.
    pub certificate_ttl: Duration,
    /// How often a tunnel is asked whether it is alive, and how long it may take to say so.
    pub keepalive: Duration,
}

/// TLS for each kind of connection.
struct Kinds {
    tunnel: Arc<ServerConfig>,
    enrol: Arc<ServerConfig>,
    renew: Arc<ServerConfig>,
    made: Instant,
    /// An authority that was replaced is believed no more from then on.
    changes: Option<Timestamp>,
}

/// See the module's documentation.
pub struct Door {
    config: DoorConfig,
    authority: ArcSwap<Authority>,
    pub roster: Arc<Roster>,
    pub fleet: Arc<Fleet>,
    notes: Arc<dyn Notes>,
    clock: Arc<dyn Clock>,
    identities: Mutex<Identities>,
    kinds: Mutex<Kinds>,
    refused: Mutex<(Option<Instant>, u64)>,
    paces: Mutex<HashMap<InstanceId, (Instant, u32)>>,
    stop: watch::Sender<bool>,
}

impl Door {
    pub fn new(
        config: DoorConfig,
        authority: Authority,
        roster: Arc<Roster>,
        notes: Arc<dyn Notes>,
        clock: Arc<dyn Clock>,
        identities: Identities,
    ) -> Result<Arc<Self>, AuthorityError> {
        let kinds = kinds(&authority, &identities, clock.now())?;
        Ok(Arc::new(Self {
            config,
            authority: ArcSwap::from_pointee(authority),
            roster,
            fleet: Arc::default(),
            notes,
            clock,
            identities: Mutex::new(identities),
            kinds: Mutex::new(kinds),
            refused: Mutex::default(),
            paces: Mutex::default(),
            stop: watch::channel(false).0,
        }))
    }

    /// What agents pin.
    pub fn authority(&self) -> Arc<Authority> {
        self.authority.load_full()
    }

    /// Puts an authority in place of the present one: on disk first, then for connections from now
    /// on. Where the old one is believed no more, every tunnel ends. Blocks on the file.
    pub fn replace(&self, next: Authority, old: Old) -> Result<(), AuthorityError> {
        let identities = self.identities.lock().clone();
        let fresh = kinds(&next, &identities, self.clock.now())?;
        next.keep()?;
        self.authority.store(Arc::new(next));
        *self.kinds.lock() = fresh;
        if old == Old::Ends {
            self.fleet.end_all("its authority was replaced");
        }
        Ok(())
    }

    /// Takes other identities, for connections from now on.
    pub fn reload(&self, identities: Identities) -> Result<(), AuthorityError> {
        *self.kinds.lock() = kinds(&self.authority(), &identities, self.clock.now())?;
        *self.identities.lock() = identities;
        Ok(())
    }

    /// Takes no more connections and ends the tunnels; waits until their ends are on record.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        // A record that takes nothing more does not hold the gateway up.
        if tokio::time::timeout(ENDING_MAX, self.stop.closed()).await.is_err() {
            tracing::error!("tunnels do not end");
        }
    }

    /// Binds and serves until [`Self::stop`]. Returns the bound address.
    pub async fn listen(self: &Arc<Self>) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(self.config.address).await?;
        let address = listener.local_addr()?;
        let door = self.clone();
        tokio::spawn(async move {
            let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
            let mut stop = door.stop.subscribe();
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    _ = stop.wait_for(|stop| *stop) => return,
                };
                let Ok((tcp, peer)) = accepted else {
                    // Out of descriptors: wait for some to come back rather than spin.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let Ok(permit) = strangers.clone().try_acquire_owned() else {
                    metrics::counter!("bulla_agents_refused_total", "why" => "full").increment(1);
                    continue;
                };
                let door = door.clone();
                tokio::spawn(async move {
                    let known = tokio::time::timeout(HANDSHAKE_MAX, door.meet(tcp, peer)).await;
                    drop(permit);
                    if let Ok(Ok(Some((tls, member)))) = known {
                        door.tunnel(tls, peer, member).await;
                    }
                });
            }
        });
        Ok(address)
    }

    fn tls(&self, kind: &[u8]) -> io::Result<Option<Arc<ServerConfig>>> {
        let mut current = self.kinds.lock();
        let now = self.clock.now();
        let changed = current.changes.is_some_and(|at| at <= now);
        if changed || current.made.elapsed() > TLS_AGE_MAX {
            let identities = self.identities.lock().clone();
            *current = kinds(&self.authority(), &identities, now).map_err(io::Error::other)?;
        }
        Ok(match kind {
            alpn::TUNNEL => Some(current.tunnel.clone()),
            alpn::ENROL => Some(current.enrol.clone()),
            alpn::RENEW => Some(current.renew.clone()),
            _ => None,
        })
    }

    /// TLS, and everything but a tunnel.
    async fn meet(
        &self,
        tcp: TcpStream,
        peer: SocketAddr,
    ) -> io::Result<Option<(TlsStream<TcpStream>, Member)>> {
        tcp.set_nodelay(true)?;
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp).await?;
        let asked = start.client_hello().alpn().and_then(|mut names| names.next());
        let Some(kind) = asked.map(<[u8]>::to_vec) else { return Ok(None) };
        let Some(config) = self.tls(&kind)? else { return Ok(None) };
        let mut tls = match start.into_stream(config).await {
            Ok(tls) => tls,
            Err(error) => {
                self.refuse(peer, &format!("TLS: {error}")).await;
                return Err(error);
            }
        };
        let shown = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let shown = shown.map(|leaf| leaf.clone().into_owned());
        if kind == alpn::ENROL {
            let certificate = shown.as_ref().map(|leaf| Arc::<[u8]>::from(leaf.as_ref()));
            let issued = self.enrol(&mut tls, peer, certificate).await?;
            self.say(&mut tls, peer, issued).await?;
            return Ok(None);
        }
        let member = shown.as_ref().and_then(authority::member);
        let now = self.clock.now();
        let known = member.filter(|member| self.roster.check(member, now).is_some());
        let Some(member) = known else {
            self.refuse(peer, "its certificate is not on the roster, revoked or expired").await;
            return Ok(None);
        };
        if !self.paces(&member) {
            self.refuse(peer, "it comes too often").await;
            return Ok(None);
        }
        if kind == alpn::RENEW {
            let issued = self.renew(&mut tls, &member).await?;
            self.say(&mut tls, peer, issued).await?;
            return Ok(None);
        }
        Ok(Some((tls, member)))
    }

    /// Whether an instance does not come more often than it may.
    fn paces(&self, member: &Member) -> bool {
        let mut paces = self.paces.lock();
        // As many as came within a minute, and no more than are enrolled.
        paces.retain(|_, (since, _)| since.elapsed() < MINUTE);
        let fresh = (Instant::now(), 0);
        let (_, count) = paces.entry(member.instance.clone()).or_insert(fresh);
        *count += 1;
        *count <= ENTRIES_PER_MINUTE_MAX
    }

    async fn say(
        &self,
        tls: &mut TlsStream<TcpStream>,
        peer: SocketAddr,
        issued: Result<Issued, String>,
    ) -> io::Result<()> {
        let issued = match issued {
            Ok(issued) => issued,
            Err(detail) => {
                self.refuse(peer, &detail).await;
                // The same words whatever was wrong.
                let reason = "the gateway refuses; its log says why".into();
                Issued::Refused { reason }
            }
        };
        message::write(tls, &issued).await?;
        tls.shutdown().await
    }

    /// Records somebody who is turned away, at most once a second. A record that fails stops
    /// nothing here: nobody gets in.
    async fn refuse(&self, peer: SocketAddr, why: &str) {
        metrics::counter!("bulla_agents_refused_total", "why" => "refused").increment(1);
        let why = message::clip(why);
        tracing::warn!(source = %peer, why, "agent refused");
        let more = {
            let mut refused = self.refused.lock();
            if refused.0.is_some_and(|last| last.elapsed() < REFUSAL_EVERY) {
                refused.1 += 1;
                return;
            }
            refused.0 = Some(Instant::now());
            std::mem::take(&mut refused.1)
        };
        let more = if more > 0 { format!("; {more} more since the last") } else { String::new() };
        let detail = format!("agent refused from {}: {why}{more}", peer.ip());
        if let Err(error) = self.notes.note("gateway", &detail).await {
            tracing::error!(error, "record a refusal at the agents' door");
        }
    }

    /// A certificate for whoever shows a join token or an identity that may be an agent.
    async fn enrol(
        &self,
        tls: &mut TlsStream<TcpStream>,
        peer: SocketAddr,
        certificate: Option<Arc<[u8]>>,
    ) -> io::Result<Result<Issued, String>> {
        let request: Request = message::read(tls, &mut BytesMut::new()).await?;
        let csr = match self.request(&request) {
            Ok(csr) => csr,
            Err(error) => return Ok(Err(error)),
        };
        let enrolled = match (&request.join, &request.jwt, certificate) {
            (Some(secret), None, _) => self.join(secret).await,
            (None, Some(jwt), _) => {
                let token = Credential::Token(Secret::new(jwt.as_bytes().to_vec()));
                self.admit(&request, peer, None, token).await
            }
            (None, None, shown @ Some(_)) => {
                self.admit(&request, peer, shown, Credential::Certificate).await
            }
            (Some(_), Some(_), _) | (None, None, None) => {
                Err("it shows neither a join token nor an identity, or both".into())
            }
        };
        Ok(match enrolled {
            Ok(enrolled) => self.issue(&csr, &enrolled, "enrols", &peer.ip().to_string()).await,
            Err(error) => Err(error),
        })
    }

    fn request(&self, request: &Request) -> Result<Vec<u8>, String> {
        if request.version != VERSION {
            return Err(format!("version {} of the request is not known", request.version));
        }
        let csr = BASE64.decode(&request.csr).map_err(|_| "its request is not in base64")?;
        // Before a token is spent on it.
        Authority::verify_request(&csr).map_err(|error| error.to_string())?;
        Ok(csr)
    }

    async fn join(&self, secret: &str) -> Result<Enrolled, String> {
        let hash = JoinToken::hash_of(secret).ok_or("its join token is malformed")?;
        let (now, ttl) = (self.clock.now(), self.config.certificate_ttl);
        self.blocking(move |roster| roster.join(hash, now, ttl)).await
    }

    async fn admit(
        &self,
        request: &Request,
        peer: SocketAddr,
        certificate: Option<Arc<[u8]>>,
        credential: Credential,
    ) -> Result<Enrolled, String> {
        let identities = self.identities.lock().clone();
        let origin =
            Origin { address: peer.ip(), port: peer.port(), tls: "TLSv1_3".into(), certificate };
        let now = self.clock.now();
        let verified = identities.identity.verify(credential, &origin, now).await;
        let principal = verified.map_err(|error| error.to_string())?;
        let name = request.name.as_deref().ok_or("it does not say which agent it is")?;
        let rule = identities
            .rules
            .iter()
            .find(|rule| *rule.agent == *name && *rule.principal == *principal.id.as_str());
        let rule = rule.cloned().ok_or_else(|| {
            let name = name.escape_debug();
            format!("no [agents.enrol] lets `{}` be agent `{name}`", principal.id)
        })?;
        let (ttl, how) = (self.config.certificate_ttl, principal.id.to_string());
        self.blocking(move |roster| roster.admit(&rule.agent, &rule.resources, &how, now, ttl))
            .await
    }

    async fn renew(
        &self,
        tls: &mut TlsStream<TcpStream>,
        member: &Member,
    ) -> io::Result<Result<Issued, String>> {
        let request: Request = message::read(tls, &mut BytesMut::new()).await?;
        let csr = match self.request(&request) {
            Ok(csr) => csr,
            Err(error) => return Ok(Err(error)),
        };
        let (now, ttl, own) = (self.clock.now(), self.config.certificate_ttl, member.clone());
        let renewed = self.blocking(move |roster| roster.renew(&own, now, ttl)).await;
        Ok(match renewed {
            Ok(enrolled) => self.issue(&csr, &enrolled, "renews", &member.to_string()).await,
            Err(error) => Err(error),
        })
    }

    async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Roster) -> Result<R, crate::RosterError> + Send + 'static,
    ) -> Result<R, String> {
        let roster = self.roster.clone();
        let done = tokio::task::spawn_blocking(move || work(&roster)).await;
        done.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// The entry first, then the certificate.
    async fn issue(
        &self,
        csr: &[u8],
        enrolled: &Enrolled,
        verb: &str,
        from: &str,
    ) -> Result<Issued, String> {
        let Enrolled { member, resources, how } = enrolled;
        let (now, ttl) = (self.clock.now(), self.config.certificate_ttl);
        let until = Timestamp::from_secs(now.secs() + ttl.as_secs());
        let list = resources.join(", ");
        let detail =
            format!("agent {member} {verb} from {from}, for {list}; certificate until {until}");
        self.notes.note(how, &detail).await?;
        let authority = self.authority();
        let certificate = authority.certify(csr, member, now, ttl);
        tracing::info!(agent = %member, verb, "agent");
        Ok(Issued::Ok {
            certificate: certificate.map_err(|error| error.to_string())?,
            authority: authority.pem().into(),
            name: member.name.to_string(),
            resources: resources.iter().map(ToString::to_string).collect(),
        })
    }

    /// One tunnel, from its first words to its end.
    async fn tunnel(&self, tls: TlsStream<TcpStream>, peer: SocketAddr, member: Member) {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(TUNNEL_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .enable_push(false);
        let shaken = tokio::time::timeout(HANDSHAKE_MAX, builder.handshake(tls)).await;
        let Ok(Ok((send, mut connection))) = shaken else {
            return self.refuse(peer, "its tunnel does not speak HTTP/2").await;
        };
        let ping = connection.ping_pong();
        // Dropped, the connection is closed, and every stream of it is lost.
        let driver = AbortOnDrop(tokio::spawn(Gathered::new(connection)));
        let (mut events, welcome) = match self.greet(&send).await {
            Ok(greeted) => greeted,
            Err(why) => return self.refuse(peer, &why).await,
        };
        let Some(resources) = self.roster.check(&member, self.clock.now()) else {
            return self.refuse(peer, "it was revoked").await;
        };
        let tunnel = Arc::new(Tunnel {
            id: self.fleet.number(),
            member: member.clone(),
            peer,
            since: self.clock.now(),
            build: message::clip(&welcome.build),
            capabilities: welcome.capabilities,
            offers: welcome.targets,
            resources,
            send,
            streams: Arc::default(),
            turn: Default::default(),
            draining: Default::default(),
            round_trip_us: Default::default(),
            end: watch::channel(None).0,
        });
        // Whoever stops the door waits for it, or it does not begin.
        let here = self.stop.subscribe();
        if *here.borrow() {
            return;
        }
        let words = format!("agent {member} connects from {peer}, {}", tunnel.build);
        if let Err(error) = self.notes.note("gateway", &words).await {
            tracing::error!(error, "record an agent's tunnel; it is closed");
            return;
        }
        tracing::info!("{words}");
        if !self.fleet.enter(tunnel.clone()) {
            return self.refuse(peer, "it has too many tunnels").await;
        }
        let why = self.live(&tunnel, driver, ping, &mut events).await;
        self.fleet.leave(tunnel.id);
        let streams = tunnel.streams.load(Ordering::Relaxed);
        let why = message::clip(&why);
        let words = format!("agent {member} disconnects: {why}; {streams} streams were open");
        tracing::warn!("{words}");
        if let Err(error) = self.notes.note("gateway", &words).await {
            tracing::error!(error, "record the end of an agent's tunnel");
        }
    }

    /// The first words. The stream stays open for what the agent says later.
    async fn greet(
        &self,
        send: &h2::client::SendRequest<Bytes>,
    ) -> Result<(crate::TunnelStream, Welcome), String> {
        let hello = message::encode(&Hello {
            version: VERSION,
            gateway: self.config.gateway.clone(),
            capabilities: CAPABILITIES.iter().map(|one| (*one).to_owned()).collect(),
        });
        let hello = hello.map_err(|error| error.to_string())?;
        let greeting = call::<Welcome>(send.clone(), HELLO_PATH, hello);
        let greeted = tokio::time::timeout(HANDSHAKE_MAX, greeting).await;
        let greeted = greeted.map_err(|_| "it does not answer on its tunnel".to_owned())?;
        let (events, welcome) = greeted?;
        if welcome.version != VERSION {
            return Err(format!("its version {} is not known", welcome.version));
        }
        Ok((events, welcome))
    }

    /// Returns why, once the tunnel has ended. With the driver the connection is closed.
    async fn live(
        &self,
        tunnel: &Tunnel,
        mut driver: AbortOnDrop<Result<(), h2::Error>>,
        ping: Option<PingPong>,
        events: &mut crate::TunnelStream,
    ) -> String {
        let (mut stop, mut ended) = (self.stop.subscribe(), tunnel.end.subscribe());
        tokio::select! {
            done = &mut driver.0 => match done {
                Ok(Ok(())) => "it closed the tunnel".to_owned(),
                Ok(Err(error)) => lost(&error),
                Err(_) => "the tunnel failed".to_owned(),
            },
            why = ended.wait_for(Option::is_some) => {
                why.ok().and_then(|why| *why).unwrap_or("ended").to_owned()
            }
            why = self.watch(tunnel, ping) => why,
            why = listen(tunnel, events) => why,
            _ = stop.wait_for(|stop| *stop) => "the gateway stops".to_owned(),
        }
    }

    /// Returns why, once the tunnel is dead or the agent may no longer serve.
    async fn watch(&self, tunnel: &Tunnel, mut ping: Option<PingPong>) -> String {
        loop {
            tokio::time::sleep(self.config.keepalive).await;
            if self.roster.check(&tunnel.member, self.clock.now()).is_none() {
                return "its certificate was revoked or has expired".into();
            }
            let Some(ping) = &mut ping else { continue };
            let asked = Instant::now();
            match tokio::time::timeout(self.config.keepalive, ping.ping(Ping::opaque())).await {
                Ok(Ok(_)) => {
                    let us = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
                    tunnel.round_trip_us.store(us, Ordering::Relaxed);
                }
                Ok(Err(error)) => return lost(&error),
                Err(_) => return "it does not answer".into(),
            }
        }
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the agent says of itself later. Returns why, once the tunnel has to end.
async fn listen(tunnel: &Tunnel, events: &mut crate::TunnelStream) -> String {
    let mut input = BytesMut::new();
    loop {
        match message::read::<Event>(events, &mut input).await {
            Ok(event) => {
                if event.drain && !tunnel.draining.swap(true, Ordering::Relaxed) {
                    tracing::info!(agent = %tunnel.member, "the agent drains");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return format!("it breaks the protocol: {error}");
            }
            // The tunnel's own end says why.
            Err(_) => return std::future::pending().await,
        }
    }
}

fn kinds(
    authority: &Authority,
    identities: &Identities,
    now: Timestamp,
) -> Result<Kinds, AuthorityError> {
    let clients = identities.clients.as_ref();
    Ok(Kinds {
        tunnel: Arc::new(authority.server(alpn::TUNNEL, None, now)?),
        enrol: Arc::new(authority.server(alpn::ENROL, clients, now)?),
        renew: Arc::new(authority.server(alpn::RENEW, None, now)?),
        made: Instant::now(),
        changes: authority.changes(now),
    })
}
