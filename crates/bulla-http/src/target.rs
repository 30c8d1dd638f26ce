//! Connections to one target, of one session: nothing of one principal is ever met by another.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use base64::Engine as _;
use bulla_core::{Secret, Timestamp};
use bulla_gate::ToTarget;
use bulla_host::{Connector, DialError, Dialled};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, Version, header};
use http_body_util::{Either, Full};
use hyper::{
    body::{Body as _, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;

use crate::{
    api::{Api, LoginKind, Version as Wanted},
    flow::{Flow, Needles},
    guard::{Guard, Watch},
    head::Head,
    sigv4,
    wire::{Asked, Limits, Side},
};

/// Idle connections of HTTP/1.1 that one session keeps.
const IDLE_MAX: usize = 8;
/// How long such a connection is kept.
const IDLE_AGE_MAX: Duration = Duration::from_secs(20);
/// How long a connection may take to be done with the request before.
const FREE_TIME_MAX: Duration = Duration::from_millis(100);
/// A secret is read again after this.
const SECRET_AGE_MAX: Duration = Duration::from_secs(5);

/// What goes out as a body.
pub type OutBody = Either<Full<Bytes>, Flow<ToTarget>>;

/// Why a target did not answer.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the connection failed: {0}")]
    Lost(#[from] hyper::Error),
    #[error("the answer is no HTTP that has one meaning: {0}")]
    Fault(&'static str),
    #[error("the target speaks no HTTP/2, which this needs")]
    Version,
    #[error("the target's secret cannot be used in a header")]
    Secret,
}

struct Http1 {
    sender: http1::SendRequest<OutBody>,
    watch: Arc<Watch>,
    since: Instant,
}

impl Http1 {
    /// Whether it can take a request, at once or as good as.
    async fn is_free(&mut self) -> bool {
        self.sender.is_ready()
            || matches!(tokio::time::timeout(FREE_TIME_MAX, self.sender.ready()).await, Ok(Ok(())))
    }
}

/// A connection that is used by one request, and kept for the next one if all goes well.
pub struct Used {
    pool: Arc<Pool>,
    conn: Option<Http1>,
}

impl Used {
    /// The answer is complete: the connection may serve again.
    pub fn complete(mut self) {
        let Some(mut conn) = self.conn.take() else { return };
        conn.since = Instant::now();
        let mut idle = self.pool.idle.lock();
        if idle.len() < IDLE_MAX && conn.watch.fault().is_none() {
            idle.push(conn);
            drop(idle);
            self.pool.tidy_later();
        }
    }
}

/// All connections of one session.
pub struct Pool {
    api: Arc<Api>,
    connector: Arc<dyn Connector>,
    idle: Mutex<Vec<Http1>>,
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

enum Ready {
    One(Http1),
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

    fn pop(&self) -> Option<Http1> {
        let mut idle = self.idle.lock();
        idle.retain(|conn| {
            !conn.sender.is_closed()
                && conn.watch.fault().is_none()
                && conn.since.elapsed() < IDLE_AGE_MAX
        });
        // One whose target answered early may be sending a body still.
        let ready = idle.iter().rposition(|conn| conn.sender.is_ready());
        match ready {
            Some(at) => Some(idle.swap_remove(at)),
            None => idle.pop(),
        }
    }

    fn pop_unless(&self, fresh: bool) -> Option<Http1> {
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
                    return plain(dialled).await.map(Ready::One);
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
            let (sender, conn) = builder.handshake(TokioIo::new(dialled.stream)).await?;
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
        plain(dialled).await.map(Ready::One)
    }

    /// Sends a request whose leave was spent. It is sent once: only what was never written may be
    /// tried again, on a fresh connection.
    pub async fn send(
        self: &Arc<Self>,
        mut request: Request<OutBody>,
        asked: Asked,
        needs_h2: bool,
    ) -> Result<(Response<Incoming>, Option<Used>), TargetError> {
        let path = request.uri().clone();
        let one = if needs_h2 { Some(false) } else { (asked == Asked::Upgrade).then_some(true) };
        let mut fresh = false;
        loop {
            match self.ready(fresh, one).await? {
                Ready::One(_) if needs_h2 => return Err(TargetError::Version),
                Ready::One(mut conn) => {
                    address(&mut request, &self.api, &path, false)?;
                    if !conn.is_free().await && !fresh {
                        fresh = true;
                        if !conn.sender.is_closed() {
                            self.idle.lock().push(conn);
                        }
                        continue;
                    }
                    conn.watch.ask(asked);
                    match conn.sender.try_send_request(request).await {
                        Ok(response) => {
                            let used = Used { pool: self.clone(), conn: Some(conn) };
                            return Ok((response, Some(used)));
                        }
                        Err(mut error) => match error.take_message() {
                            Some(unsent) if !fresh => (request, fresh) = (unsent, true),
                            _ => return Err(broken(error.into_error(), &conn.watch)),
                        },
                    }
                }
                Ready::Two(mut sender) => {
                    address(&mut request, &self.api, &path, true)?;
                    match sender.try_send_request(request).await {
                        Ok(response) => return Ok((response, None)),
                        Err(mut error) => match error.take_message() {
                            Some(unsent) if !fresh => (request, fresh) = (unsent, true),
                            _ => return Err(error.into_error().into()),
                        },
                    }
                }
            }
        }
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

/// Begins HTTP/1.1 on a stream.
async fn plain(dialled: Dialled) -> Result<Http1, TargetError> {
    let watch = Watch::new(Side::Responses, Limits::default());
    let guard = Guard::new(dialled.stream, watch.clone(), None);
    let (sender, conn) = http1::Builder::new().handshake(TokioIo::new(guard)).await?;
    tokio::spawn(async move {
        if let Err(error) = conn.with_upgrades().await {
            tracing::debug!(%error, "a connection to a target ended");
        }
    });
    Ok(Http1 { sender, watch, since: Instant::now() })
}

/// A secret as an answer could hold it; escapes are undone before it is looked for.
fn spellings(secret: &str) -> Vec<Vec<u8>> {
    let coded = base64::engine::general_purpose::STANDARD.encode(secret);
    vec![secret.as_bytes().to_vec(), coded.into_bytes()]
}

fn broken(error: hyper::Error, watch: &Watch) -> TargetError {
    match watch.fault() {
        Some(fault) => TargetError::Fault(fault.why),
        None => error.into(),
    }
}

/// Addresses a request as the version wants it.
fn address(
    request: &mut Request<OutBody>,
    api: &Api,
    path: &Uri,
    two: bool,
) -> Result<(), TargetError> {
    let bad = |_| TargetError::Fault("the address cannot be sent");
    let target = path.path_and_query().map_or("/", |target| target.as_str());
    if two {
        let uri = format!("https://{}{target}", api.authority);
        *request.uri_mut() = uri.parse().map_err(bad)?;
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().remove(header::HOST);
        request.headers_mut().remove(header::CONNECTION);
    } else {
        *request.uri_mut() = target.parse().map_err(bad)?;
        *request.version_mut() = Version::HTTP_11;
        let host = HeaderValue::from_str(&api.authority)
            .map_err(|_| TargetError::Fault("the address cannot be sent"))?;
        request.headers_mut().insert(header::HOST, host);
        // A server that does not look for such a body must not take it for the next request.
        let unusual = matches!(*request.method(), Method::DELETE | Method::OPTIONS);
        if unusual && !request.body().is_end_stream() {
            request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        request.headers_mut().remove(header::TE);
    }
    Ok(())
}

/// The request that was judged, with the target's own credential, which no record holds.
pub fn build(
    head: &Head,
    body: OutBody,
    credential: Option<Own>,
) -> Result<Request<OutBody>, TargetError> {
    let bad = || TargetError::Fault("the request cannot be sent");
    let mut request = Request::new(body);
    *request.method_mut() = Method::clone(&head.method);
    *request.uri_mut() = head.target().parse().map_err(|_| bad())?;
    let headers = request.headers_mut();
    let signed = credential.as_ref().is_some_and(|own| own.headers.len() > 1);
    for (name, value) in &head.headers {
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
    for (name, value) in credential.into_iter().flat_map(|own| own.headers) {
        headers.insert(name, value);
    }
    Ok(request)
}
