//! Listeners: budgets, the greeting, TLS, identity, the opening of a session.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use bulla_core::{
    Because, CloseRecord, Decision, Expiry, Flow, OpenRecord, Origin, Principal, RecordError,
    Request, Resource, RevealRequest, SessionId, TurnedAwayRecord,
};
use bulla_gate::Session;
use bulla_wire::{
    Block, CANCEL_KEY_BYTES, Greeting, Hello, Opened, Rejection, Reveals, Step, Tls, Violation,
};
use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use rustls::CertificateError;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::server::TlsStream;

use crate::{
    Engine, Listener,
    registry::{Counters, Handle},
    relay::{Relay, Start},
    wide::Wide,
};

/// Most bytes that a client may send before its session is open.
const GREETING_BYTES_MAX: usize = 64 * 1024;

/// Counts what one source has open before login.
#[derive(Clone, Default)]
struct Sources(Arc<Mutex<HashMap<IpAddr, usize>>>);

pub(crate) struct SourceSlot(Sources, IpAddr);

impl Sources {
    fn take(&self, source: IpAddr, max: usize) -> Option<SourceSlot> {
        let mut counts = self.0.lock();
        let count = counts.entry(source).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(SourceSlot(self.clone(), source))
    }
}

impl Drop for SourceSlot {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock();
        if let Some(count) = counts.get_mut(&self.1) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

pub async fn listen(engine: Arc<Engine>, listener: Listener) -> io::Result<SocketAddr> {
    let listener = Arc::new(listener);
    let (name, address) = (listener.name.clone(), listener.address);
    let deadline = Duration::from_millis(engine.limits.handshake_ms_max);
    accept_each(&engine.clone(), name, address, move |tcp, peer, stranger| {
        let (engine, listener) = (engine.clone(), listener.clone());
        async move {
            let relay = open(&engine, &listener, tcp, peer, deadline).await;
            drop(stranger);
            if let Some(relay) = relay {
                relay.run().await;
            }
        }
    })
    .await
}

/// Binds, and serves each connection in a task of its own until the engine drains. Returns the
/// bound address. What `serve` is given last is the connection's share of what strangers may hold
/// open, to be dropped once somebody was identified.
pub(crate) async fn accept_each<F: Future<Output = ()> + Send + 'static>(
    engine: &Arc<Engine>,
    name: String,
    address: SocketAddr,
    serve: impl Fn(TcpStream, SocketAddr, Box<dyn Send>) -> F + Send + 'static,
) -> io::Result<SocketAddr> {
    let socket = TcpListener::bind(address).await?;
    let address = socket.local_addr()?;
    let sources = Sources::default();
    let engine = engine.clone();
    let mut draining = engine.draining.subscribe();
    tokio::spawn(async move {
        let refuse = |why| {
            metrics::counter!("bulla_connections_refused_total", "why" => why).increment(1);
        };
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                _ = draining.wait_for(|on| *on) => return,
            };
            let (tcp, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors: wait for some to come back rather than spin.
                    tracing::warn!(listener = name, %error, "accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Ok(permit) = engine.handshakes.clone().try_acquire_owned() else {
                refuse("handshakes");
                continue;
            };
            let Some(slot) = sources.take(peer.ip(), engine.limits.per_source_max) else {
                refuse("source");
                continue;
            };
            tokio::spawn(crate::watched(serve(tcp, peer, Box::new((permit, slot)))));
        }
    });
    Ok(address)
}

/// A greeting's stream, in the clear until TLS.
enum Conn {
    Plain(TcpStream),
    Tls(Box<TlsStream<Wide>>),
}

struct Door<'a> {
    engine: &'a Arc<Engine>,
    listener: &'a Listener,
    origin: Origin,
    input: BytesMut,
}

fn other(why: &str) -> io::Error {
    io::Error::other(why.to_string())
}

async fn write(conn: &mut Conn, bytes: &[u8]) -> io::Result<()> {
    match conn {
        Conn::Plain(tcp) => tcp.write_all(bytes).await,
        Conn::Tls(tls) => {
            tls.write_all(bytes).await?;
            tls.flush().await
        }
    }
}

async fn goodbye(mut conn: Conn, bytes: &[u8]) {
    // The client may be gone already; there is nobody else to tell.
    let _ = write(&mut conn, bytes).await;
    let _ = match &mut conn {
        Conn::Plain(tcp) => tcp.shutdown().await,
        Conn::Tls(tls) => tls.shutdown().await,
    };
}

/// The word of a client whose certificate ends the handshake.
pub(crate) const UNFIT: &str = "bad_certificate";

/// Why a client's certificate ended a handshake, if it did: else nobody would know.
pub(crate) fn unfit(error: &io::Error) -> Option<String> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    match inner {
        rustls::Error::InvalidCertificate(CertificateError::Other(why)) => Some(why.0.to_string()),
        rustls::Error::InvalidCertificate(why) => Some(why.to_string()),
        _ => None,
    }
}

/// From an accepted socket to a session, or to an answer and a close.
async fn open(
    engine: &Arc<Engine>,
    listener: &Listener,
    tcp: TcpStream,
    peer: SocketAddr,
    deadline: Duration,
) -> Option<Relay> {
    let _ = tcp.set_nodelay(true);
    let origin =
        Origin { address: peer.ip(), port: peer.port(), tls: "".into(), certificate: None };
    let mut door = Door { engine, listener, origin, input: BytesMut::new() };
    let mut greeting = listener.protocol.greet();
    let greeted = tokio::time::timeout(deadline, door.greet(tcp, greeting.as_mut())).await;
    let (conn, hello) = match greeted {
        Ok(Ok(Some(greeted))) => greeted,
        Ok(Ok(None)) => return None,
        Ok(Err(error)) => {
            tracing::debug!(listener = listener.name, source = %peer.ip(), %error, "greeting");
            return None;
        }
        Err(_) => {
            metrics::counter!("bulla_connections_refused_total", "why" => "slow").increment(1);
            return None;
        }
    };
    match door.admit(*hello, greeting).await {
        Ok(admitted) => match door.start(admitted).await {
            Ok(start) => {
                let Conn::Tls(tls) = conn else { return None };
                Some(Relay::new(engine.clone(), tls, start))
            }
            Err(answer) => {
                goodbye(conn, &answer).await;
                None
            }
        },
        Err(answer) => {
            goodbye(conn, &answer).await;
            None
        }
    }
}

struct Admitted {
    greeting: Box<dyn Greeting>,
    principal: Arc<Principal>,
    resource: Arc<Resource>,
    place: bulla_wire::Place,
    because: Because,
    claims: Vec<(Arc<str>, Arc<str>)>,
    connected: crate::Connected,
}

impl Door<'_> {
    async fn greet(
        &mut self,
        tcp: TcpStream,
        greeting: &mut dyn Greeting,
    ) -> io::Result<Option<(Conn, Box<Hello>)>> {
        let (mut conn, mut tls, mut total) = (Conn::Plain(tcp), Tls::Plain, 0usize);
        loop {
            let step = match greeting.input(&mut self.input, tls) {
                Ok(step) => step,
                Err(Violation { why, answer }) => {
                    self.turned_away("violation", &why, None, None, None);
                    goodbye(conn, &answer).await;
                    return Ok(None);
                }
            };
            match step {
                Step::More => {
                    self.input.reserve(4096);
                    let n = match &mut conn {
                        Conn::Plain(tcp) => tcp.read_buf(&mut self.input).await?,
                        Conn::Tls(tls) => tls.read_buf(&mut self.input).await?,
                    };
                    total += n;
                    if n == 0 || total > GREETING_BYTES_MAX {
                        return Ok(None);
                    }
                }
                Step::Send(bytes) => write(&mut conn, &bytes).await?,
                Step::StartTls(bytes) => {
                    let Conn::Plain(mut tcp) = conn else { return Err(other("TLS within TLS")) };
                    if !self.input.is_empty() {
                        self.turned_away("violation", "bytes before TLS", None, None, None);
                        return Ok(None);
                    }
                    tcp.write_all(&bytes).await?;
                    conn = self.tls(tcp, &mut tls).await?;
                }
                Step::DirectTls => {
                    let Conn::Plain(tcp) = conn else { return Err(other("TLS within TLS")) };
                    conn = self.tls(tcp, &mut tls).await?;
                    // Without ALPN another protocol's client could be made to speak to us.
                    let Conn::Tls(stream) = &conn else { return Ok(None) };
                    if stream.get_ref().1.alpn_protocol().is_none() {
                        self.turned_away("violation", "direct TLS without ALPN", None, None, None);
                        return Ok(None);
                    }
                }
                Step::Ready(hello) => {
                    if matches!(conn, Conn::Plain(_)) {
                        return Err(other("a credential before TLS"));
                    }
                    return Ok(Some((conn, hello)));
                }
                Step::Cancel(key) => {
                    if !self.engine.registry.cancel(&key) {
                        self.turned_away("cancel", "an unknown key", None, None, None);
                    }
                    // libpq waits for the end, and calls one without TLS's own goodbye a failure.
                    goodbye(conn, b"").await;
                    return Ok(None);
                }
                Step::Bye { answer, why } => {
                    self.turned_away("refused", why, None, None, None);
                    goodbye(conn, &answer).await;
                    return Ok(None);
                }
            }
        }
    }

    async fn tls(&mut self, tcp: TcpStream, state: &mut Tls) -> io::Result<Conn> {
        let config = self.listener.tls.load_full();
        let head = std::mem::take(&mut self.input);
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        let accepted = acceptor.accept(Wide::new(tcp, head)).await;
        let stream = accepted.inspect_err(|error| {
            if let Some(why) = unfit(error) {
                self.turned_away(UNFIT, &why, None, None, None);
            }
        })?;
        let session = stream.get_ref().1;
        let certificate = session.peer_certificates().and_then(|c| c.first());
        *state = Tls::On { certificate: certificate.is_some() };
        self.origin.certificate = certificate.map(|c| c.as_ref().into());
        let version = session.protocol_version().and_then(|v| v.as_str()).unwrap_or("TLS");
        self.origin.tls = version.into();
        Ok(Conn::Tls(Box::new(stream)))
    }

    /// Records somebody who is turned away. A record that fails stops nothing here: nobody gets in.
    fn turned_away(
        &self,
        why: &'static str,
        detail: &str,
        principal: Option<&Arc<Principal>>,
        resource: Option<&str>,
        because: Option<&Because>,
    ) {
        metrics::counter!("bulla_turned_away_total", "why" => why).increment(1);
        let written = self.engine.parts.recorder.turned_away(&TurnedAwayRecord {
            at: self.engine.parts.clock.now(),
            protocol: self.listener.protocol.descriptor().protocol,
            origin: self.origin.clone(),
            principal: principal.cloned(),
            resource: resource.map(Into::into),
            why,
            detail: detail.into(),
            because: because.cloned(),
        });
        if let Err(error) = written {
            tracing::error!(%error, "record a refusal at the door");
        }
    }

    async fn admit(
        &self,
        hello: Hello,
        mut greeting: Box<dyn Greeting>,
    ) -> Result<Admitted, Bytes> {
        let parts = &self.engine.parts;
        let now = parts.clock.now();
        let Hello { credential, resource: asked, part, wishes, claims, needs } = hello;
        let asked = self.listener.resource.clone().unwrap_or(asked);
        let wait = Duration::from_millis(self.engine.limits.handshake_ms_max);
        let verify = parts.identity.verify(credential, &self.origin, now);
        let verified = tokio::time::timeout(wait, verify).await;
        let principal = match verified {
            Ok(Ok(principal)) => Arc::new(principal),
            Ok(Err(error)) => {
                self.turned_away(error.word, &error.detail, None, Some(&asked), None);
                return Err(greeting.reject(&Rejection::Credential));
            }
            Err(_) => {
                self.turned_away("identity_timeout", "", None, Some(&asked), None);
                return Err(greeting.reject(&Rejection::Credential));
            }
        };
        self.engine.registry.extend(&principal.id, principal.proof.expires_at);
        let absent = Rejection::Resource(asked.clone());
        let who = Some(&principal);
        let found = parts
            .directory
            .find(&asked)
            .filter(|resource| *resource.protocol == *self.listener.protocol.descriptor().protocol);
        let place = found.as_ref().and_then(|r| parts.connector.place(r, part.as_deref()));
        let (Some(resource), Some(place)) = (found, place) else {
            self.turned_away("unknown_resource", "", who, Some(&asked), None);
            return Err(greeting.reject(&absent));
        };
        let Some(policies) = parts.policies.current() else {
            self.turned_away("no_policy", "no current policies", who, Some(&asked), None);
            return Err(greeting.reject(&Rejection::Unavailable("no current policies".into())));
        };
        let needed = needs.iter().map(|command| {
            policies.decide(&Request {
                principal: &principal,
                resource: &resource,
                part: (!place.default_part).then_some(&*place.part),
                origin: &self.origin,
                command,
                now,
                approved: false,
            })
        });
        let open = policies.decide_open(&principal, &resource, &self.origin, now);
        let mut because: Option<Because> = None;
        for decision in std::iter::once(open).chain(needed) {
            match (decision, &mut because) {
                (Decision::Allow { because: one, .. }, None) => because = Some(one),
                (Decision::Allow { because: one, .. }, Some(all)) => {
                    all.policies.extend(one.policies);
                }
                // Nobody can be asked before there is a session.
                (Decision::Deny { because, .. } | Decision::Hold { because, .. }, _) => {
                    self.turned_away("not_permitted", "", who, Some(&asked), Some(&because));
                    return Err(greeting.reject(&absent));
                }
            }
        }
        let Some(because) = because else { return Err(greeting.reject(&absent)) };
        if self.engine.registry.len() >= self.engine.limits.sessions_max
            || *self.engine.draining.borrow()
        {
            self.turned_away("full", "too many sessions, or stopping", who, Some(&asked), None);
            return Err(greeting.reject(&Rejection::Unavailable("the gateway is full".into())));
        }
        let wait = Duration::from_millis(self.engine.limits.connect_ms_max);
        let dial = tokio::time::timeout(wait, parts.connector.connect(&place, wishes)).await;
        let (failed, known) = match dial {
            Ok(Ok(connected)) => {
                let protocol = &self.listener.protocol;
                let known = (protocol.knows(&place) && self.engine.scouts.is_watched(&place))
                    || matches!(
                        tokio::time::timeout(wait, self.engine.scouts.refresh(&place, protocol))
                            .await,
                        Ok(Ok(true))
                    );
                if known {
                    let claims = claims.clone();
                    return Ok(Admitted {
                        greeting,
                        principal,
                        resource,
                        place,
                        because,
                        claims,
                        connected,
                    });
                }
                ("its catalogue could not be read".to_string(), None)
            }
            Ok(Err(error)) => (error.to_string(), error.public().map(|why| format!(" ({why})"))),
            Err(_) => ("it did not answer in time".into(), None),
        };
        tracing::warn!(resource = %resource.name, why = failed, "target");
        self.turned_away("target_unreachable", &failed, who, Some(&asked), Some(&because));
        let known = known.unwrap_or_default();
        let public = format!("could not reach `{}`{known}", resource.name);
        Err(greeting.reject(&Rejection::Target(public)))
    }

    /// Asks the policies of the moment, so that a reload counts for sessions that are open.
    fn reveals(
        &self,
        principal: &Arc<Principal>,
        resource: &Arc<Resource>,
        part: Option<Arc<str>>,
    ) -> Reveals {
        let (principal, resource) = (principal.clone(), resource.clone());
        let (origin, engine) = (self.origin.clone(), self.engine.clone());
        Arc::new(move |class: &str| {
            let Some(policies) = engine.parts.policies.current() else { return false };
            policies.reveals(&RevealRequest {
                principal: &principal,
                resource: &resource,
                part: part.as_deref(),
                origin: &origin,
                now: engine.parts.clock.now(),
                class,
            })
        })
    }

    /// Records the opening, waits until it is durable, and builds the session.
    async fn start(&self, admitted: Admitted) -> Result<Start, Bytes> {
        let Admitted { mut greeting, principal, resource, place, because, claims, connected } =
            admitted;
        let parts = &self.engine.parts;
        let now = parts.clock.now();
        let (mut random, mut cancel_key) = ([0u8; 10], [0u8; CANCEL_KEY_BYTES]);
        let random_ok = SystemRandom::new().fill(&mut random).is_ok()
            && SystemRandom::new().fill(&mut cancel_key).is_ok();
        if !random_ok {
            return Err(greeting.reject(&Rejection::Unavailable("no randomness".into())));
        }
        let id = SessionId::new(now, random);
        let protocol = self.listener.protocol.clone();
        // The configured part is the resource itself; policy names only another one.
        let part: Option<Arc<str>> = (!place.default_part).then(|| place.part.clone());
        let opened = parts.recorder.open(&OpenRecord {
            session: id,
            at: now,
            principal: principal.clone(),
            resource: resource.name.clone(),
            part: part.clone(),
            protocol: protocol.descriptor().protocol,
            origin: self.origin.clone(),
            mode: resource.mode,
            because,
            claims,
        });
        let unrecorded = Rejection::Unavailable("the record cannot be written".into());
        let unrecorded = greeting.reject(&unrecorded);
        let failed = |error: RecordError| {
            tracing::error!(%error, "record the opening of a session");
            unrecorded.clone()
        };
        let (journal, durable) = opened.map_err(failed)?;
        let honours = protocol.descriptor().honours;
        let session = Session::new(
            id,
            principal.clone(),
            resource.clone(),
            part.clone(),
            self.origin.clone(),
            honours,
            journal,
        );
        let hello = Arc::new(connected.hello);
        let block: Block = Arc::new(|wait: &mut dyn FnMut()| tokio::task::block_in_place(wait));
        let reveals = self.reveals(&principal, &resource, part.clone());
        let welcome = greeting.welcome(Opened {
            cancel_key,
            target: hello.clone(),
            place: place.clone(),
            block,
            reveals,
        });
        let (words, wire) = match welcome {
            Ok(welcome) => welcome,
            Err(violation) => {
                let why = Some(violation.why.as_ref().into());
                let _ =
                    session.close(&CloseRecord { at: now, why: "violation".into(), detail: why });
                durable.await.map_err(failed)?;
                return Err(violation.answer);
            }
        };
        // The welcome is evidence like every other byte, and shares the flush of the opening,
        // without which nobody is let in, whatever the mode.
        let welcome = session.aside(Flow::Gateway, words, now).map_err(failed)?;
        durable.await.map_err(failed)?;
        let (tell, inbox) = mpsc::unbounded_channel();
        let counters = Arc::new(Counters::default());
        let entered = self.engine.registry.enter(Handle {
            id,
            principal: principal.id.clone(),
            resource: resource.name.as_str().into(),
            opened: now,
            source: self.origin.address.to_string().into(),
            counters: counters.clone(),
            cancel_key: Some(cancel_key),
            tell,
        });
        let cap = now.plus_ms(resource.session_ms_max);
        let expires = match resource.expiry {
            Expiry::LoginOnly => cap,
            Expiry::Rebind | Expiry::Strict => principal.proof.expires_at.min(cap),
        };
        let mut input = BytesMut::new();
        input.extend_from_slice(self.input.chunk());
        Ok(Start {
            session,
            wire,
            protocol,
            place: place.clone(),
            hello,
            target: connected.stream,
            from_client: input,
            from_target: connected.rest,
            welcome,
            inbox,
            entered,
            expires,
            cap,
            expiry: resource.expiry,
            lease: self.engine.scouts.lease(&place),
        })
    }
}
