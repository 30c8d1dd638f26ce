//! Connections to one target, of one session: nothing of one principal is ever met by another.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::Engine as _;
use bulla_core::{Secret, Timestamp};
use bulla_host::{Connector, DialError};
use bytes::BytesMut;
use http::{HeaderName, HeaderValue, Method, Request, Version, header};
use http_body_util::Either;
use hyper::{
    body::Body as _,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    api::{Api, LoginKind, Version as Wanted},
    guard::Guard,
    head::Head,
    line::{Got, Line, LineError, OutBody, Sent},
    needles::Needles,
    sigv4,
    watch::Pace,
    wire::{Asked, Fault, Filter, Limits, Side},
};

/// Idle connections of HTTP/1.1 that one session keeps.
const IDLE_MAX: usize = 8;
/// How long such a connection is kept.
const IDLE_AGE_MAX: Duration = Duration::from_secs(20);
/// A secret is read again after this.
const SECRET_AGE_MAX: Duration = Duration::from_secs(5);

/// Why a target did not answer.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the connection failed: {0}")]
    Lost(LineError),
    #[error("the answer is no HTTP that has one meaning: {0}")]
    Fault(&'static str),
    #[error("the target speaks no HTTP/2, which this needs")]
    Version,
    #[error("the target's secret cannot be used in a header")]
    Secret,
    #[error("it did not answer in time")]
    Late,
}

impl From<LineError> for TargetError {
    fn from(error: LineError) -> Self {
        match error {
            LineError::Fault(fault) => Self::Fault(fault.why),
            LineError::Late => Self::Late,
            error => Self::Lost(error),
        }
    }
}

/// All connections of one session.
pub struct Pool {
    api: Arc<Api>,
    connector: Arc<dyn Connector>,
    #[expect(clippy::vec_box, reason = "each request takes one out and puts it back")]
    idle: Mutex<Vec<Box<Line>>>,
    /// Somebody looks after them.
    tidying: AtomicBool,
    shared: tokio::sync::Mutex<Option<http2::SendRequest<OutBody>>>,
    secret: Mutex<Option<(Instant, Option<Arc<Secret>>)>>,
    /// The client speaks HTTP/1.1: one request at a time, for which HTTP/2 costs half as much again.
    plain: bool,
    /// The target did not say that it speaks HTTP/1.1.
    unsaid: AtomicBool,
}

/// The target's own credential as it is sent, and what must not come back.
pub struct Own {
    headers: Vec<(HeaderName, HeaderValue)>,
    pub never: Needles,
}

/// How long an answer may take to begin. The target's time begins when it has the whole request.
pub struct Patience {
    pub limit: Duration,
    /// Told then, with how it takes the request until then; none: it has it at once.
    pub finished: Option<(tokio::sync::oneshot::Receiver<()>, Arc<Pace>)>,
}

impl Patience {
    async fn over(self) -> TargetError {
        if let Some((finished, pace)) = self.finished {
            tokio::select! {
                _ = finished => {}
                () = pace.stuck(self.limit) => return TargetError::Late,
            }
        }
        tokio::time::sleep(self.limit).await;
        TargetError::Late
    }
}

enum Ready {
    One(Box<Line>),
    Two(http2::SendRequest<OutBody>),
}

impl Pool {
    /// `two`: the client speaks HTTP/2. A target that speaks both is spoken to as the client speaks.
    pub fn new(api: Arc<Api>, connector: Arc<dyn Connector>, two: bool) -> Arc<Self> {
        Arc::new(Self {
            api,
            connector,
            idle: Mutex::default(),
            tidying: AtomicBool::new(false),
            shared: tokio::sync::Mutex::default(),
            secret: Mutex::default(),
            plain: !two,
            unsaid: AtomicBool::new(false),
        })
    }

    /// Closes connections that were kept for too long, whether or not anybody asks for one: clients
    /// that say nothing more hold none at the target.
    fn tidy_later(self: &Arc<Self>) {
        if self.tidying.swap(true, Ordering::AcqRel) {
            return;
        }
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(IDLE_AGE_MAX).await;
                let Some(pool) = pool.upgrade() else { return };
                let mut idle = pool.idle.lock();
                idle.retain(|conn| conn.since.elapsed() < IDLE_AGE_MAX);
                if idle.is_empty() {
                    pool.tidying.store(false, Ordering::Release);
                    return;
                }
            }
        });
    }

    /// Keeps a connection whose exchange is over for the next one.
    pub fn give_back(self: &Arc<Self>, mut line: Box<Line>) {
        line.since = Instant::now();
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(line);
            drop(idle);
            self.tidy_later();
        }
    }

    fn pop(&self) -> Option<Box<Line>> {
        loop {
            let mut line = self.idle.lock().pop()?;
            if line.since.elapsed() < IDLE_AGE_MAX && line.is_open() {
                return Some(line);
            }
        }
    }

    fn pop_unless(&self, fresh: bool) -> Option<Box<Line>> {
        if fresh { None } else { self.pop() }
    }

    /// A connection; `fresh`: one that was never used. `one`: of HTTP/1.1; none: of either.
    async fn ready(&self, fresh: bool, one: Option<bool>) -> Result<Ready, TargetError> {
        let likes_one = self.plain && self.api.version == Wanted::Auto;
        if likes_one && one.is_none() && !self.unsaid.load(Ordering::Relaxed) {
            if let Some(conn) = self.pop_unless(fresh) {
                return Ok(Ready::One(conn));
            }
            match self.connector.dial(&self.api.resource, &["http/1.1"]).await {
                Ok(dialled) if !dialled.tls || dialled.alpn.is_some() => {
                    return Ok(Ready::One(Line::new(dialled.stream)));
                }
                // It may speak nothing but HTTP/2, and says so in one of these ways.
                Ok(_) | Err(DialError::Tls(..) | DialError::Agent { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            self.unsaid.store(true, Ordering::Relaxed);
        }
        self.either(fresh, one == Some(true)).await
    }

    async fn either(&self, fresh: bool, one: bool) -> Result<Ready, TargetError> {
        if self.api.version != Wanted::Http1 && !one {
            let mut shared = self.shared.lock().await;
            match &*shared {
                Some(sender) if !sender.is_closed() && !fresh => {
                    return Ok(Ready::Two(sender.clone()));
                }
                _ => *shared = None,
            }
            if let Some(conn) = self.pop_unless(fresh) {
                return Ok(Ready::One(conn));
            }
            // Others wait here while the first one finds out what the target speaks.
            return match self.dial(one).await? {
                Ready::Two(sender) => {
                    *shared = Some(sender.clone());
                    Ok(Ready::Two(sender))
                }
                Ready::One(conn) => Ok(Ready::One(conn)),
            };
        }
        match self.pop_unless(fresh) {
            Some(conn) => Ok(Ready::One(conn)),
            None => self.dial(one).await,
        }
    }

    async fn dial(&self, one: bool) -> Result<Ready, TargetError> {
        let alpn: &[&'static str] = match self.api.version {
            _ if one => &["http/1.1"],
            Wanted::Auto => &["h2", "http/1.1"],
            Wanted::Http1 => &["http/1.1"],
            Wanted::Http2 => &["h2"],
        };
        let dialled = self.connector.dial(&self.api.resource, alpn).await?;
        let two = match &dialled.alpn {
            Some(alpn) => &**alpn == "h2",
            // Without TLS both must know beforehand.
            None => self.api.version == Wanted::Http2 && !one && !dialled.tls,
        };
        if two {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).max_header_list_size(64 << 10);
            builder.initial_stream_window_size(1 << 20).initial_connection_window_size(4 << 20);
            let io = TokioIo::new(dialled.stream);
            let (sender, conn) = builder.handshake(io).await.map_err(LineError::from)?;
            tokio::spawn(async move {
                if let Err(error) = conn.await {
                    tracing::debug!(%error, "a connection to a target ended");
                }
            });
            return Ok(Ready::Two(sender));
        }
        if self.api.version == Wanted::Http2 && !one {
            return Err(TargetError::Version);
        }
        Ok(Ready::One(Line::new(dialled.stream)))
    }

    /// Sends a request whose leave was spent. It is sent once: only what was never written may be
    /// tried again, on a fresh connection.
    pub async fn send(
        self: &Arc<Self>,
        head: &Head,
        credential: Option<&Own>,
        body: OutBody,
        asked: Asked,
        patience: Patience,
        needs_h2: bool,
    ) -> Result<Got, TargetError> {
        if asked == Asked::Upgrade {
            let upgrading = self.upgrade(build(head, body, credential)?);
            return tokio::select! {
                got = upgrading => got,
                late = patience.over() => Err(late),
            };
        }
        let odd = |fault: Fault| TargetError::Fault(fault.why);
        let (one, limit) = (needs_h2.then_some(false), patience.limit);
        let mut late = std::pin::pin!(patience.over());
        let (mut body, mut fresh) = (body, false);
        loop {
            let ready = tokio::select! {
                biased;
                ready = self.ready(fresh, one) => ready?,
                late = &mut late => return Err(late),
            };
            let mut sender = match ready {
                Ready::One(_) if needs_h2 => return Err(TargetError::Version),
                Ready::One(mut line) => {
                    let sent = sent(head, &self.api.authority, credential, body, asked);
                    let read = line.ask(sent, limit).await?;
                    return Got::of_line(line, read, self).map_err(odd);
                }
                Ready::Two(sender) => sender,
            };
            let mut request = build(head, body, credential)?;
            address_two(&mut request, &self.api)?;
            let sent = tokio::select! {
                sent = sender.try_send_request(request) => sent,
                late = &mut late => return Err(late),
            };
            match sent {
                Ok(response) => return Got::read(response).map_err(odd),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !fresh => (body, fresh) = (unsent.into_body(), true),
                    _ => return Err(LineError::from(error.into_error()).into()),
                },
            }
        }
    }

    /// Asks for an upgrade, on a connection of HTTP/1.1 that serves nothing else: a library reads
    /// its answer, since it goes on as something else.
    async fn upgrade(self: &Arc<Self>, mut request: Request<OutBody>) -> Result<Got, TargetError> {
        address_one(&mut request, &self.api)?;
        let dialled = self.connector.dial(&self.api.resource, &["http/1.1"]).await?;
        let filter = Arc::new(Mutex::new(Filter::new(Side::Responses, Limits::default())));
        let guard = Guard::new(dialled.stream, filter.clone());
        let lost = |error: hyper::Error| match filter.lock().fault() {
            Some(fault) => TargetError::Fault(fault.why),
            None => LineError::from(error).into(),
        };
        let begun = http1::Builder::new().handshake(TokioIo::new(guard)).await;
        let (mut sender, conn) = begun.map_err(lost)?;
        tokio::spawn(async move {
            if let Err(error) = conn.with_upgrades().await {
                tracing::debug!(%error, "a connection to a target ended");
            }
        });
        filter.lock().ask(Asked::Upgrade);
        let response = sender.send_request(request).await.map_err(lost)?;
        Got::read(response).map_err(|fault| TargetError::Fault(fault.why))
    }

    /// The target did not take the credential.
    pub fn spoiled(&self) {
        *self.secret.lock() = None;
        self.connector.spoiled(&self.api.resource);
    }

    /// The target's own credential as a header, read afresh from time to time.
    pub async fn credential(
        &self,
        head: &Head,
        body: Option<&[u8]>,
        now: Timestamp,
    ) -> Result<Option<Own>, TargetError> {
        if self.api.login == LoginKind::None {
            return Ok(None);
        }
        let kept =
            self.secret.lock().as_ref().and_then(|(read, secret)| {
                (read.elapsed() < SECRET_AGE_MAX).then(|| secret.clone())
            });
        let secret = match kept {
            Some(secret) => secret,
            None => {
                let secret = self.connector.secret(&self.api.resource).await?;
                *self.secret.lock() = Some((Instant::now(), secret.clone()));
                secret
            }
        };
        let secret = secret.ok_or(TargetError::Secret)?;
        let text = std::str::from_utf8(secret.reveal()).map_err(|_| TargetError::Secret)?;
        let (name, value) = match &self.api.login {
            LoginKind::None => return Ok(None),
            LoginKind::Sigv4(scope) => {
                let signed = sigv4::sign(head, &self.api.authority, body, scope, &secret, now);
                let never = Needles::new(spellings(text));
                let mut headers = Vec::new();
                for (name, value) in signed {
                    let value = HeaderValue::from_str(&value).map_err(|_| TargetError::Secret)?;
                    headers.push((HeaderName::from_static(name), value));
                }
                return Ok(Some(Own { headers, never }));
            }
            LoginKind::Bearer => (header::AUTHORIZATION, format!("Bearer {text}")),
            LoginKind::Basic { user } => {
                let pair =
                    base64::engine::general_purpose::STANDARD.encode(format!("{user}:{text}"));
                (header::AUTHORIZATION, format!("Basic {pair}"))
            }
            LoginKind::Header(name) => {
                let name =
                    HeaderName::from_bytes(name.as_bytes()).map_err(|_| TargetError::Secret)?;
                (name, text.to_owned())
            }
        };
        let sent = value.split(' ').next_back().unwrap_or_default();
        let never = Needles::new([text, sent].into_iter().flat_map(spellings).collect());
        let mut value = HeaderValue::from_str(&value).map_err(|_| TargetError::Secret)?;
        value.set_sensitive(true);
        Ok(Some(Own { headers: vec![(name, value)], never }))
    }
}

/// A secret as an answer could hold it; escapes are undone before it is looked for.
fn spellings(secret: &str) -> Vec<Vec<u8>> {
    let coded = base64::engine::general_purpose::STANDARD.encode(secret);
    vec![secret.as_bytes().to_vec(), coded.into_bytes()]
}

fn target_of(request: &Request<OutBody>) -> &str {
    request.uri().path_and_query().map_or("/", |target| target.as_str())
}

const UNADDRESSED: TargetError = TargetError::Fault("the address cannot be sent");

/// Addresses a request as HTTP/2 wants it.
fn address_two(request: &mut Request<OutBody>, api: &Api) -> Result<(), TargetError> {
    let uri = format!("https://{}{}", api.authority, target_of(request));
    *request.uri_mut() = uri.parse().map_err(|_| UNADDRESSED)?;
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(header::CONNECTION);
    Ok(())
}

/// Addresses a request as HTTP/1.1 wants it.
fn address_one(request: &mut Request<OutBody>, api: &Api) -> Result<(), TargetError> {
    *request.version_mut() = Version::HTTP_11;
    let host = HeaderValue::from_str(&api.authority).map_err(|_| UNADDRESSED)?;
    request.headers_mut().insert(header::HOST, host);
    request.headers_mut().remove(header::TE);
    Ok(())
}

/// A server that does not look for such a body must not take it for the next request.
fn is_unusual(head: &Head, body: &OutBody) -> bool {
    matches!(head.method, Method::DELETE | Method::OPTIONS) && !body.is_end_stream()
}

/// The request that was judged, with the target's own credential, as HTTP/1.1 has it.
fn sent(
    head: &Head,
    authority: &str,
    credential: Option<&Own>,
    body: OutBody,
    asked: Asked,
) -> Sent {
    let own = credential.map(|own| &own.headers[..]).unwrap_or_default();
    let signed = own.len() > 1;
    let mut out = BytesMut::with_capacity(512);
    let target = [head.method.as_str(), " ", &head.path];
    target.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    if let Some(query) = &head.query {
        out.extend_from_slice(b"?");
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut line = |name: &str, value: &[u8]| {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    };
    line("host", authority.as_bytes());
    for (name, value) in head.headers.iter() {
        let replaced =
            (signed && sigv4::replaces(name)) || own.iter().any(|(own, _)| own.as_str() == name);
        if !replaced {
            line(name, value.as_bytes());
        }
    }
    for (name, value) in own {
        line(name.as_str(), value.as_bytes());
    }
    let chunked = head.length.is_none() && matches!(body, Either::Right(_));
    if let Some(length) = head.length {
        line("content-length", length.to_string().as_bytes());
    } else if chunked {
        line("transfer-encoding", b"chunked");
    } else if matches!(head.method, Method::POST | Method::PUT | Method::PATCH) {
        // Nothing is said as such: some answer 411 to who says nothing (RFC 9110 8.6).
        line("content-length", b"0");
    }
    let last = is_unusual(head, &body);
    if last {
        line("connection", b"close");
    }
    out.extend_from_slice(b"\r\n");
    Sent { head: out.freeze(), body, chunked, asked, last }
}

/// The same for a library that sends it.
fn build(
    head: &Head,
    body: OutBody,
    credential: Option<&Own>,
) -> Result<Request<OutBody>, TargetError> {
    let bad = || TargetError::Fault("the request cannot be sent");
    let mut request = Request::new(body);
    *request.method_mut() = Method::clone(&head.method);
    *request.uri_mut() = head.target().parse().map_err(|_| bad())?;
    let headers = request.headers_mut();
    let signed = credential.is_some_and(|own| own.headers.len() > 1);
    for (name, value) in head.headers.iter() {
        if signed && sigv4::replaces(name) {
            continue;
        }
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).map_err(|_| bad())?);
    }
    if head.trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(length) = head.length {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if head.upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    for (name, value) in credential.iter().flat_map(|own| &own.headers) {
        headers.insert(name, value.clone());
    }
    Ok(request)
}
