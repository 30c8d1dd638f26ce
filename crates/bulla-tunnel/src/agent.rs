//! The agent: a tunnel to each of its gateways, and targets for whoever asks through one.
//!
//! It is a server that dials. Each gateway has its own identity, its own tunnels and its own
//! failures; targets are shared. A gateway asks for a target by name, and gets a stream that is
//! logged in, or a reason.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bulla_core::{Boxed, Clock, Secret, Timestamp};
use bulla_wire::TargetHello;
use bytes::{Buf, Bytes, BytesMut};
use h2::{Ping, PingPong, RecvStream, server::SendResponse};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::watch,
    time::Instant,
};

use crate::{
    FRAME_BYTES_MAX, HANDSHAKE_MAX, HEADERS_BYTES_MAX, SEND_BUFFER_BYTES, STREAM_WINDOW_BYTES,
    STREAMS_MAX, TUNNEL_WINDOW_BYTES,
    dial::{self, Proxy},
    gather::Turn,
    keeper::{Enrolment, Identity, Keeper},
    message::{
        self, Answer, AskSecret, AskSign, CANCEL_PATH, CAPABILITIES, Cancel, Event, HELLO_PATH,
        Hello, OPEN_PATH, Offer, Open, SECRET_PATH, SIGN_PATH, Signed, Told, VERSION, Welcome, Why,
    },
    private,
    stream::TunnelStream,
    token::random,
};

/// Between two attempts: doubled from the first to the last, and anything below that by chance.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_LAST: Duration = Duration::from_secs(30);
/// A tunnel that lived this long was a good one: the next attempt comes soon.
const GOOD_LIFE: Duration = Duration::from_secs(10);
/// What is read from a target at once.
const CHUNK_BYTES: usize = 32 * 1024;

#[derive(Debug, Clone)]
pub struct AgentConfig {
    pub name: String,
    /// Identities are kept here.
    pub data: PathBuf,
    pub gateways: Vec<GatewayConfig>,
    /// Tunnels to each gateway: more than one spreads what a lost packet holds up.
    pub connections: usize,
    pub keepalive: Duration,
    /// How long streams may go on once it is to stop.
    pub drain: Duration,
    /// What the gateway shows of this build.
    pub build: String,
}

#[derive(Debug, Clone)]
pub struct GatewayConfig {
    pub alias: String,
    /// `host:port`.
    pub address: String,
    pub proxy: Option<Proxy>,
    pub enrolment: Enrolment,
    /// Needed where no join token brings it.
    pub pin: Option<dial::Pin>,
}

/// What a target is called, and what it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetInfo {
    pub name: String,
    pub protocol: String,
}

/// A byte stream to a target.
pub trait Wired: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wired for T {}

/// A target that has let the agent in.
pub struct Reached {
    pub stream: Box<dyn Wired>,
    pub hello: TargetHello,
    /// Bytes that came behind the login.
    pub rest: BytesMut,
}

/// Why a target is not reached. The gateway's operators see it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("{0}")]
    Unknown(String),
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Login(String),
}

/// The targets that the agent's own configuration names. It dials nothing else.
pub trait Targets: Send + Sync {
    fn list(&self) -> Vec<TargetInfo>;
    /// Dials and logs in.
    fn open<'a>(
        &'a self,
        target: &'a str,
        protocol: &'a str,
        part: &'a str,
        settings: Vec<(String, String)>,
    ) -> Boxed<'a, Result<Reached, TargetError>>;
    /// Tells a target to cancel.
    fn cancel<'a>(
        &'a self,
        target: &'a str,
        protocol: &'a str,
        hello: TargetHello,
    ) -> Boxed<'a, Result<(), TargetError>>;
    /// The secret of a target whose protocol logs in with each request, which the gateway sends.
    /// `spoiled`: the target did not take the one before. No other secret leaves the agent.
    fn secret<'a>(
        &'a self,
        target: &'a str,
        protocol: &'a str,
        spoiled: bool,
    ) -> Boxed<'a, Result<Option<Arc<Secret>>, TargetError>> {
        let _ = (protocol, spoiled);
        let words = format!("the secret of `{}` stays here", message::clip(target));
        Box::pin(async move { Err(TargetError::Unknown(words)) })
    }
    /// Signs what logs in on the stream that was handed over with this key.
    fn sign<'a>(
        &'a self,
        target: &'a str,
        protocol: &'a str,
        key: Vec<u8>,
        data: Vec<u8>,
    ) -> Boxed<'a, Result<Vec<u8>, TargetError>> {
        let _ = (protocol, key, data);
        let words = format!("nothing is signed for `{}`", message::clip(target));
        Box::pin(async move { Err(TargetError::Unknown(words)) })
    }
}

/// How the agent stands with one gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkStatus {
    pub tunnels: usize,
    /// The last failure, until something succeeds.
    pub error: Option<String>,
    pub instance: Option<String>,
    pub certificate_until: Option<Timestamp>,
}

/// How the agent is: for its health page.
#[derive(Debug, Default)]
pub struct AgentStatus {
    links: Mutex<BTreeMap<String, LinkStatus>>,
    streams: AtomicUsize,
}

impl AgentStatus {
    pub fn links(&self) -> BTreeMap<String, LinkStatus> {
        self.links.lock().clone()
    }
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }
    /// At least one gateway can use it.
    pub fn connected(&self) -> bool {
        self.links.lock().values().any(|link| link.tunnels > 0)
    }
    fn link(&self, alias: &str, change: impl FnOnce(&mut LinkStatus)) {
        change(self.links.lock().entry(alias.to_owned()).or_default());
    }
    pub(crate) fn failed(&self, alias: &str, error: String) {
        self.link(alias, |link| link.error = Some(error));
    }
    pub(crate) fn certificate(&self, alias: &str, identity: &Identity) {
        self.link(alias, |link| {
            link.instance = Some(identity.instance.clone());
            link.certificate_until = Some(identity.expires);
        });
    }
}

/// The pause before the attempt after so many failures: exponential, with full jitter.
pub(crate) fn pause(failures: u32) -> Duration {
    let longest = PAUSE_FIRST.saturating_mul(1 << failures.min(10)).min(PAUSE_LAST);
    let chance = random::<4>().map_or(u32::MAX, u32::from_be_bytes);
    longest.mul_f64(f64::from(chance) / f64::from(u32::MAX)).max(PAUSE_FIRST / 5)
}

/// Runs until `stop`, then drains. Returns once no stream is left, or at the deadline.
pub async fn run(
    config: AgentConfig,
    targets: Arc<dyn Targets>,
    clock: Arc<dyn Clock>,
    status: Arc<AgentStatus>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let data = config.data.clone();
    tokio::task::spawn_blocking(move || private::folder(&data)).await??;
    let (config, mut tasks) = (Arc::new(config), tokio::task::JoinSet::new());
    let mut keepers = tokio::task::JoinSet::new();
    for gateway in &config.gateways {
        status.link(&gateway.alias, |_| {});
        let (identity, fresh) = watch::channel(None);
        keepers.spawn(
            Keeper {
                agent: config.name.clone(),
                gateway: gateway.clone(),
                path: config.data.join(format!("{}.pem", gateway.alias)),
                clock: clock.clone(),
                status: status.clone(),
                identity,
            }
            .run(),
        );
        for _ in 0..config.connections.max(1) {
            let link = Link {
                config: config.clone(),
                gateway: gateway.clone(),
                targets: targets.clone(),
                status: status.clone(),
                stop: stop.clone(),
            };
            tasks.spawn(link.run(fresh.clone()));
        }
    }
    // A sender that is gone means stop, too.
    let _ = stop.wait_for(|stop| *stop).await;
    keepers.abort_all();
    let deadline = Instant::now() + config.drain;
    while let Ok(Some(_)) = tokio::time::timeout_at(deadline, tasks.join_next()).await {}
    Ok(())
}

/// One tunnel to one gateway, over and over.
struct Link {
    config: Arc<AgentConfig>,
    gateway: GatewayConfig,
    targets: Arc<dyn Targets>,
    status: Arc<AgentStatus>,
    stop: watch::Receiver<bool>,
}

impl Link {
    async fn run(mut self, mut identity: watch::Receiver<Option<Arc<Identity>>>) {
        let (alias, mut failures) = (self.gateway.alias.clone(), 0);
        while !*self.stop.borrow() {
            let current = identity.borrow_and_update().clone();
            let Some(current) = current else {
                tokio::select! {
                    changed = identity.changed() => if changed.is_err() { return },
                    _ = self.stop.changed() => {}
                }
                continue;
            };
            let began = Instant::now();
            let error = match self.tunnel(&current).await {
                Ok(()) => "the gateway closed the tunnel".to_owned(),
                Err(error) => error.to_string(),
            };
            if *self.stop.borrow() {
                return;
            }
            self.status.failed(&alias, error.clone());
            tracing::warn!(gateway = alias, error, "tunnel");
            failures = if began.elapsed() > GOOD_LIFE { 1 } else { failures + 1 };
            tokio::select! {
                () = tokio::time::sleep(pause(failures)) => {}
                _ = self.stop.changed() => {}
            }
        }
    }

    /// Dials, then serves until the tunnel ends or everything is drained.
    async fn tunnel(&mut self, identity: &Identity) -> io::Result<()> {
        let gateway = &self.gateway;
        let tls = dial::connect(&gateway.address, gateway.proxy.as_ref(), identity.tunnel.clone())
            .await?;
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(TUNNEL_WINDOW_BYTES)
            .max_concurrent_streams(STREAMS_MAX)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .max_send_buffer_size(SEND_BUFFER_BYTES);
        let shaken = tokio::time::timeout(HANDSHAKE_MAX, builder.handshake(tls)).await;
        let mut connection = shaken.map_err(io::Error::other)?.map_err(io::Error::other)?;
        let ping = connection.ping_pong();
        let alive = alive(ping, self.config.keepalive);
        tokio::pin!(alive);
        let streams = Arc::new(AtomicUsize::new(0));
        let (alias, up) = (gateway.alias.clone(), Up::new(self));
        let mut stop = self.stop.clone();
        let mut draining = false;
        let mut closing = false;
        let (last, ending) = watch::channel(false);
        let mut turn = Turn::default();
        loop {
            let look =
                if draining { Duration::from_millis(50) } else { Duration::from_secs(3_600) };
            let accept = std::future::poll_fn(|cx| {
                ready!(turn.poll(cx));
                connection.poll_accept(cx)
            });
            tokio::select! {
                accepted = accept => match accepted {
                    Some(Ok((request, respond))) => {
                        let serve = Serve {
                            config: self.config.clone(),
                            alias: alias.clone(),
                            targets: self.targets.clone(),
                            stop: self.stop.clone(),
                            last: ending.clone(),
                            _count: Count::new(&streams, &self.status),
                        };
                        up.connected();
                        tokio::spawn(serve.run(request, respond));
                    }
                    Some(Err(error)) => return Err(io::Error::other(error)),
                    None => return Ok(()),
                },
                error = &mut alive => return Err(error),
                // Once it said stop it does not change any more.
                _ = stop.wait_for(|stop| *stop), if !draining => draining = true,
                () = tokio::time::sleep(look) => {}
            }
            // Only the stream of the first words is left: it ends, and the tunnel with it, once
            // everything that was sent is on its way.
            if draining && !closing && streams.load(Ordering::Relaxed) <= 1 {
                connection.graceful_shutdown();
                last.send_replace(true);
                closing = true;
            }
        }
    }
}

/// Counts a tunnel as connected while it lives.
struct Up {
    status: Arc<AgentStatus>,
    alias: String,
    counted: std::cell::Cell<bool>,
}

impl Up {
    fn new(link: &Link) -> Self {
        let (status, alias) = (link.status.clone(), link.gateway.alias.clone());
        Self { status, alias, counted: std::cell::Cell::new(false) }
    }
    fn connected(&self) {
        if !self.counted.replace(true) {
            tracing::info!(gateway = self.alias, "connected");
            self.status.link(&self.alias, |link| {
                link.tunnels += 1;
                link.error = None;
            });
        }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if self.counted.get() {
            self.status.link(&self.alias, |link| link.tunnels = link.tunnels.saturating_sub(1));
        }
    }
}

/// Counts a stream while it lives, on its tunnel and for all.
struct Count {
    tunnel: Arc<AtomicUsize>,
    status: Arc<AgentStatus>,
}

impl Count {
    fn new(tunnel: &Arc<AtomicUsize>, status: &Arc<AgentStatus>) -> Self {
        tunnel.fetch_add(1, Ordering::Relaxed);
        status.streams.fetch_add(1, Ordering::Relaxed);
        Self { tunnel: tunnel.clone(), status: status.clone() }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.tunnel.fetch_sub(1, Ordering::Relaxed);
        self.status.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns once the gateway does not answer any more.
async fn alive(ping: Option<PingPong>, every: Duration) -> io::Error {
    let Some(mut ping) = ping else { return std::future::pending().await };
    loop {
        tokio::time::sleep(every).await;
        match tokio::time::timeout(every, ping.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return io::Error::other(error),
            Err(_) => return io::Error::new(io::ErrorKind::TimedOut, "no answer to PING"),
        }
    }
}

/// One stream that a gateway opened.
struct Serve {
    config: Arc<AgentConfig>,
    alias: String,
    targets: Arc<dyn Targets>,
    stop: watch::Receiver<bool>,
    /// True once the tunnel has nothing else to do.
    last: watch::Receiver<bool>,
    _count: Count,
}

impl Serve {
    async fn run(self, request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let path = request.uri().path().to_owned();
        let known = [HELLO_PATH, OPEN_PATH, CANCEL_PATH, SECRET_PATH, SIGN_PATH];
        let known = known.contains(&path.as_str());
        let mut response = http::Response::new(());
        if !known {
            *response.status_mut() = http::StatusCode::NOT_FOUND;
        }
        let Ok(send) = respond.send_response(response, !known) else { return };
        if !known {
            return;
        }
        let mut stream = TunnelStream::new(send, request.into_body());
        let served = match path.as_str() {
            HELLO_PATH => self.hello(&mut stream).await,
            OPEN_PATH => self.open(stream).await,
            SECRET_PATH => self.secret(&mut stream).await,
            SIGN_PATH => self.sign(&mut stream).await,
            _ => self.cancel(&mut stream).await,
        };
        if let Err(error) = served {
            tracing::debug!(gateway = self.alias, path, %error, "stream");
        }
    }

    /// First words; then the stream says when the agent drains, and ends with the tunnel.
    async fn hello(&self, stream: &mut TunnelStream) -> io::Result<()> {
        let mut input = BytesMut::new();
        let hello: Hello = message::read(stream, &mut input).await?;
        let offer = |target: TargetInfo| Offer { name: target.name, protocol: target.protocol };
        let welcome = Welcome {
            version: VERSION,
            build: self.config.build.clone(),
            capabilities: CAPABILITIES.iter().map(|one| (*one).to_owned()).collect(),
            targets: self.targets.list().into_iter().map(offer).collect(),
        };
        message::write(stream, &welcome).await?;
        let mut stop = self.stop.clone();
        let tells = hello.capabilities.iter().any(|one| one == message::DRAIN);
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            _ = stream.data() => return Ok(()),
        }
        if tells {
            message::write(stream, &Event { drain: true }).await?;
        }
        let mut last = self.last.clone();
        tokio::select! {
            _ = last.wait_for(|last| *last) => stream.finish(),
            _ = stream.data() => Ok(()),
        }
    }

    async fn open(&self, mut stream: TunnelStream) -> io::Result<()> {
        let mut input = BytesMut::new();
        let request = match message::read::<Open>(&mut stream, &mut input).await {
            Ok(request) => request,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return self.fail(&mut stream, Why::Malformed, &error.to_string()).await;
            }
            Err(error) => return Err(error),
        };
        stream.put_back(input.freeze());
        if *self.stop.borrow() {
            return self.fail(&mut stream, Why::Draining, "it is to stop").await;
        }
        let Open { target, protocol, part, settings } = &request;
        let open = self.targets.open(target, protocol, part, settings.clone());
        let reached = tokio::select! {
            reached = open => reached,
            // The gateway has given up; so do we.
            () = std::future::poll_fn(|cx| stream.poll_reset(cx)) => return Ok(()),
        };
        let Reached { stream: wired, hello, rest } = match reached {
            Ok(reached) => reached,
            Err(error) => return self.refuse(&mut stream, target, error).await,
        };
        message::write(&mut stream, &Answer::ok(&hello)).await?;
        let mut pump = Pump {
            tunnel: stream,
            target: wired,
            up: Bytes::new(),
            up_ended: false,
            flush: false,
            down: rest.freeze(),
            chunk: BytesMut::new(),
        };
        std::future::poll_fn(|cx| pump.poll(cx)).await
    }

    async fn cancel(&self, stream: &mut TunnelStream) -> io::Result<()> {
        let request: Cancel = message::read(stream, &mut BytesMut::new()).await?;
        let hello = TargetHello { cancel_key: message::key(&request.key)?, ..Default::default() };
        match self.targets.cancel(&request.target, &request.protocol, hello).await {
            Ok(()) => {
                message::write(stream, &Answer::ok(&TargetHello::default())).await?;
                stream.finish()
            }
            Err(error) => self.refuse(stream, &request.target, error).await,
        }
    }

    async fn secret(&self, stream: &mut TunnelStream) -> io::Result<()> {
        let request: AskSecret = message::read(stream, &mut BytesMut::new()).await?;
        let AskSecret { target, protocol, spoiled } = &request;
        let told = match self.targets.secret(target, protocol, *spoiled).await {
            Ok(secret) => Told::Ok { secret: secret.map(|secret| message::secret_text(&secret)) },
            Err(error) => {
                let (why, detail) = self.refused(target, &error);
                Told::Failed { why, detail }
            }
        };
        message::write(stream, &told).await?;
        stream.finish()
    }

    async fn sign(&self, stream: &mut TunnelStream) -> io::Result<()> {
        let request: AskSign = message::read(stream, &mut BytesMut::new()).await?;
        let (key, data) = (message::key(&request.key)?, message::signed(&request.data)?);
        let AskSign { target, protocol, .. } = &request;
        let signed = match self.targets.sign(target, protocol, key, data).await {
            Ok(signature) => Signed::Ok { signature: message::key_text(&signature) },
            Err(error) => {
                let (why, detail) = self.refused(target, &error);
                Signed::Failed { why, detail }
            }
        };
        message::write(stream, &signed).await?;
        stream.finish()
    }

    async fn refuse(
        &self,
        stream: &mut TunnelStream,
        target: &str,
        error: TargetError,
    ) -> io::Result<()> {
        let (why, detail) = self.refused(target, &error);
        self.fail(stream, why, &detail).await
    }

    /// What the gateway hears of it, and the agent's own log.
    fn refused(&self, target: &str, error: &TargetError) -> (Why, String) {
        let target = message::clip(target);
        tracing::warn!(gateway = self.alias, target, %error, "refused");
        (why(error), message::clip(&error.to_string()))
    }

    async fn fail(&self, stream: &mut TunnelStream, why: Why, detail: &str) -> io::Result<()> {
        message::write(stream, &Answer::failed(why, detail)).await?;
        stream.finish()
    }
}

fn why(error: &TargetError) -> Why {
    match error {
        TargetError::Unknown(_) => Why::Unknown,
        TargetError::Unreachable(_) => Why::Unreachable,
        TargetError::Login(_) => Why::Login,
    }
}

/// Both directions of one stream, in one task.
struct Pump {
    tunnel: TunnelStream,
    target: Box<dyn Wired>,
    /// Toward the target.
    up: Bytes,
    up_ended: bool,
    flush: bool,
    /// Toward the gateway.
    down: Bytes,
    chunk: BytesMut,
}

impl Pump {
    /// Ready when the target has ended and everything of it is sent, or either side is lost.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let up = self.poll_up(cx)?;
            let down = match self.poll_down(cx)? {
                Some(moved) => moved,
                None => return Poll::Ready(self.tunnel.finish()),
            };
            if !up && !down {
                return Poll::Pending;
            }
        }
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut moved = false;
        if self.up.is_empty() && !self.up_ended {
            match self.tunnel.poll_data(cx) {
                Poll::Pending => {}
                Poll::Ready(None) => {
                    self.up_ended = true;
                    moved = true;
                }
                Poll::Ready(Some(data)) => {
                    self.up = data?;
                    moved = true;
                }
            }
        }
        if !self.up.is_empty()
            && let Poll::Ready(wrote) = Pin::new(&mut self.target).poll_write(cx, &self.up)
        {
            let wrote = wrote?;
            if wrote == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.up.advance(wrote);
            self.tunnel.release(wrote);
            self.flush = true;
            moved = true;
        }
        if self.up.is_empty() && self.flush {
            match Pin::new(&mut self.target).poll_flush(cx) {
                Poll::Pending => {}
                Poll::Ready(flushed) => {
                    flushed?;
                    self.flush = false;
                }
            }
        }
        if self.up_ended && self.up.is_empty() && !self.flush {
            // The client is gone, and so is what it wanted to hear.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(moved)
    }

    /// None at the target's end.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> io::Result<Option<bool>> {
        let mut moved = false;
        if self.down.is_empty() {
            self.chunk.reserve(CHUNK_BYTES);
            // It holds nothing between two polls.
            let read = std::pin::pin!(self.target.read_buf(&mut self.chunk)).poll(cx);
            let Poll::Ready(read) = read else { return Ok(Some(false)) };
            if read? == 0 {
                return Ok(None);
            }
            self.down = self.chunk.split().freeze();
            moved = true;
        }
        if let Poll::Ready(sent) = self.tunnel.poll_send(cx, &mut self.down) {
            sent?;
            moved = true;
        }
        Ok(Some(moved))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_differ() {
        for (failures, longest) in [(0, 250), (1, 500), (3, 2_000), (9, 30_000), (u32::MAX, 30_000)]
        {
            let drawn: Vec<_> = (0..64).map(|_| pause(failures)).collect();
            let (least, most) = (drawn.iter().min().unwrap(), drawn.iter().max().unwrap());
            assert!(*least >= PAUSE_FIRST / 5 && *most <= Duration::from_millis(longest));
            // By chance: a thousand agents of a gateway that restarts do not come at once.
            assert!(*most > Duration::from_millis(longest / 2) && most > least, "{failures}");
        }
    }
}
