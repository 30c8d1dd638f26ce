//! One connection of a client: who speaks on each request, and on which session.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{SHA256, digest};
use bulla_core::{Credential, Digest, Origin, Principal, Secret};
use bulla_host::{Arrival, Door, Live, Rejection, Stream, TlsFacts};
use http::{Method, Request, header};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use serde_json::json;

use crate::{
    Http,
    answer::{Own, Reply},
    api::Api,
    exchange::Exchange,
    flow::drain,
    head::{Head, Presented, Scheme},
    line::Source,
    near::{self, Upgraded},
    target::Pool,
    watch::{Deadlines, Watch},
    wire::{Fault, Limits, RequestHead},
};

/// A credential that was verified is believed for so long, on its own connection.
const VERIFIED_AGE_MAX: Duration = Duration::from_secs(30);
/// Principals and sessions that one connection may have.
const SEATS_MAX: usize = 32;
/// Requests that one connection of HTTP/2 may have under way.
const STREAMS_MAX: u32 = 128;
/// A session of a connection on which nothing was asked for so long is closed; the next request opens
/// another.
const SEAT_IDLE_MAX: Duration = Duration::from_secs(60);
/// Between two looks whether a connection of HTTP/2 is idle.
const LOOK: Duration = Duration::from_secs(1);

/// One principal's session on one API, with its own connections to the target.
pub struct Seat {
    pub live: Arc<Live>,
    pub api: Arc<Api>,
    pub pool: Arc<Pool>,
    used: Mutex<Instant>,
}

/// By credential and resource.
type Seats = HashMap<(Digest, Arc<str>), Arc<Seat>>;
type Known = HashMap<Digest, (Arc<Principal>, Instant)>;

/// One connection.
pub struct Conn {
    pub http: Arc<Http>,
    pub watch: Arc<Watch>,
    door: Door,
    origin: Origin,
    tls: TlsFacts,
    apis: Vec<Arc<Api>>,
    /// It speaks HTTP/2.
    pub two: bool,
    known: Mutex<Known>,
    seats: tokio::sync::Mutex<Seats>,
    stranger: Mutex<Option<Box<dyn Send>>>,
}

/// Serves a connection to its end.
pub async fn serve(http: Arc<Http>, arrival: Arrival, door: Door) {
    let Arrival { stream, origin, tls, resources, stranger } = arrival;
    let own = |api: &&Arc<Api>| resources.contains(&api.resource);
    let apis = http.apis.iter().filter(own).cloned().collect();
    let two = tls.alpn.as_deref() == Some("h2");
    let draining = door.draining();
    let conn = Arc::new(Conn {
        http,
        watch: Arc::default(),
        door,
        origin,
        tls,
        apis,
        two,
        known: Mutex::default(),
        seats: tokio::sync::Mutex::default(),
        stranger: Mutex::new(Some(stranger)),
    });
    if two {
        serve_two(conn, stream, draining).await;
    } else {
        near::serve(conn, stream, draining).await;
    }
}

/// A connection of HTTP/2, which a library reads.
async fn serve_two(conn: Arc<Conn>, stream: Box<dyn Stream>, draining: Draining) {
    let (watch, deadlines) = (conn.watch.clone(), conn.deadlines());
    let service = service_fn(move |request| {
        let conn = conn.clone();
        async move { Ok::<_, Infallible>(conn.answer_two(request).await.response()) }
    });
    let head_bytes_max = Limits::default().head_bytes_max;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(head_bytes_max).unwrap_or(u32::MAX))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .keep_alive_interval(Some(Duration::from_secs(60)))
        .keep_alive_timeout(Duration::from_secs(20));
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let stop = stopping(draining);
    tokio::pin!(stop);
    let (mut quiet, mut closing) = (Instant::now(), false);
    loop {
        tokio::select! {
            ended = &mut serving => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                }
                return;
            }
            () = &mut stop, if !closing => {
                closing = true;
                serving.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep(LOOK) => {
                if watch.active() > 0 {
                    quiet = Instant::now();
                }
                if watch.is_held(deadlines.idle) {
                    return;
                }
                let stranger = watch.is_stranger();
                let patience = if stranger { deadlines.head } else { deadlines.idle };
                if quiet.elapsed() > patience + LOOK * 5 && closing {
                    return;
                }
                if quiet.elapsed() > patience && !closing {
                    closing = true;
                    serving.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

type Draining = tokio::sync::watch::Receiver<bool>;

/// Resolves once the gateway is stopping.
pub async fn stopping(mut draining: Draining) {
    let _ = draining.wait_for(|on| *on).await;
}

impl Conn {
    pub fn fault(&self) -> Option<Fault> {
        self.watch.fault()
    }
    pub fn deadlines(&self) -> Deadlines {
        self.http.deadlines
    }

    /// A fault that ends the connection: nobody knows where its next request would begin.
    pub fn broken(&self, fault: Fault) -> Reply {
        self.door.turn_away(&self.origin, "violation", fault.why, None, None, None);
        let message = format!("refused: {}", fault.why);
        let own = Own::problem(fault.status, "unreadable", &message, fault.next());
        let own = if self.two { own } else { own.closing() };
        own.reply(self.door.now())
    }

    /// A request of HTTP/2.
    async fn answer_two(self: Arc<Self>, request: Request<Incoming>) -> Reply {
        let _busy = self.watch.busy();
        let (parts, body) = request.into_parts();
        let head = Head::read(&parts, self.tls.server_name.as_deref());
        let reluctant = parts.headers.contains_key(header::EXPECT);
        self.answer(head, reluctant, Some(Source::Library(body)), false, None).await
    }

    /// A request of HTTP/1.1. `upgrade`: what the connection becomes, where that is asked for.
    pub async fn answer_one(
        self: Arc<Self>,
        head: RequestHead,
        body: Option<Source>,
        upgrade: Option<Upgraded>,
    ) -> Reply {
        let reluctant = head.headers.get("expect").is_some();
        let message = !head.http_10;
        let head = Head::of_one(&head, self.tls.server_name.as_deref());
        self.answer(head, reluctant, body, message, upgrade).await
    }

    /// `reluctant`: the client waits for leave to send its body. `message`: it is answered with a
    /// message of HTTP/1.1.
    async fn answer(
        self: Arc<Self>,
        head: Result<Head, Fault>,
        reluctant: bool,
        body: Option<Source>,
        message: bool,
        upgrade: Option<Upgraded>,
    ) -> Reply {
        let mut head = match head {
            Ok(head) => Box::new(head),
            Err(fault) => {
                if let Some(body) = body.filter(|_| !reluctant) {
                    drain(body).await;
                }
                return self.broken(fault);
            }
        };
        let media = head.media_type().unwrap_or_default();
        let grpc = media == "application/grpc" || media.starts_with("application/grpc+");
        let bare = head.method == Method::HEAD;
        match self.admit(&mut head).await {
            Ok(seat) => {
                let exchange = Exchange { conn: self.clone(), seat, grpc, bare, message };
                exchange.run(head, body, upgrade).await
            }
            Err(own) => {
                if let Some(body) = body.filter(|_| !head.expects_continue) {
                    drain(body).await;
                }
                let own = if grpc { own.for_grpc() } else { own };
                own.reply(self.door.now())
            }
        }
    }

    /// Who asks, and on which session; or what is answered without one.
    async fn admit(self: &Arc<Self>, head: &mut Head) -> Result<Arc<Seat>, Own> {
        if let Some(own) = self.metadata(head) {
            return Err(own);
        }
        let api = self.find(head);
        let principal = self.identify(head, api.as_ref()).await?;
        if let Some(own) = self.approval(head, &principal) {
            return Err(own);
        }
        if let Some(api) = &api {
            self.end_user(head, api).await?;
        }
        let seat = match &api {
            Some(api) => self.seat(&principal, api, head).await,
            None => {
                let (why, asked) = ("unknown_resource", head.host.as_str());
                self.door.turn_away(&self.origin, why, "", Some(&principal), Some(asked), None);
                Err(Rejection::Resource)
            }
        };
        seat.map_err(|rejection| match rejection {
            Rejection::Resource | Rejection::Credential => {
                let message = "there is no such resource, or you may not use it";
                let hint = "check the address, or ask its owner for a permit";
                Own::problem(404, "unknown_resource", message, hint)
            }
            Rejection::Unavailable(why) => {
                Own::problem(503, "unavailable", why, "try again later").closing()
            }
        })
    }

    /// The API of a request: the longest prefix of the path among those of its host.
    fn find(&self, head: &Head) -> Option<Arc<Api>> {
        let fits = |api| Api::fits(api, &head.host, &head.path);
        let all = self.apis.iter().filter_map(|api| Some((fits(api)?, api)));
        all.max_by_key(|(well, _)| *well).map(|(_, api)| api.clone())
    }

    /// RFC 9728: where a client gets a token for this resource. Anybody may ask.
    fn metadata(&self, head: &Head) -> Option<Own> {
        let rest = head.path.strip_prefix("/.well-known/oauth-protected-resource")?;
        if head.method != Method::GET || !(rest.is_empty() || rest.starts_with('/')) {
            return None;
        }
        Some(Own::json(
            200,
            &json!({
                "resource": format!("https://{}{rest}", head.host),
                "authorization_servers": self.http.issuers,
                "bearer_methods_supported": ["header"],
                "tls_client_certificate_bound_access_tokens": true,
            "dpop_signing_alg_values_supported": ["ES256", "ES384", "EdDSA", "PS256", "RS256"],
            }),
        ))
    }

    /// How an approval stands, for whoever asked for it.
    fn approval(&self, head: &Head, principal: &Principal) -> Option<Own> {
        let ask = head.path.strip_prefix("/.well-known/bulla/approvals/")?;
        let known =
            self.http.holds.status(ask, &principal.id).filter(|_| head.method == Method::GET);
        Some(match known {
            Some(hold) => Own::json(
                200,
                &json!({
                    "approval": &*hold.ask, "state": hold.word(),
                    "next": "repeat the very same request once it is approved",
                }),
            ),
            None => Own::problem(404, "unknown_approval", "there is no such approval", "ask again"),
        })
    }

    /// Who sends this request. The credential goes no further.
    async fn identify(
        &self,
        head: &mut Head,
        api: Option<&Arc<Api>>,
    ) -> Result<Arc<Principal>, Own> {
        let asked = api.map_or(head.host.as_str(), |api| &api.resource);
        let presented = std::mem::replace(&mut head.presented, Presented::Nothing);
        let (credential, hash, error) = match presented {
            Presented::Token { scheme: Scheme::Dpop, token } => {
                let Some(proof) = head.proof.take() else {
                    return Err(self.unauthorized(head, Some("invalid_dpop_proof")));
                };
                return self.proven(head, token, proof, asked).await;
            }
            Presented::Token { scheme: Scheme::Bearer, token } => {
                let hash = sha256(token.reveal());
                (Credential::Token(token), hash, Some("invalid_token"))
            }
            Presented::Nothing => match &self.origin.certificate {
                Some(der) => (Credential::Certificate, sha256(der), None),
                None => return Err(self.unauthorized(head, None)),
            },
        };
        match self.verified(credential, hash, Some(asked)).await {
            Ok(principal) => {
                self.watch.known();
                self.stranger.lock().take();
                Ok(principal)
            }
            Err(_) => Err(self.unauthorized(head, error)),
        }
    }

    /// Whose a credential is; one that was verified is believed for a while.
    async fn verified(
        &self,
        credential: Credential,
        hash: Digest,
        asked: Option<&str>,
    ) -> Result<Arc<Principal>, Rejection> {
        let kept = self.known.lock().get(&hash).cloned();
        if let Some((principal, since)) = kept
            && since.elapsed() < VERIFIED_AGE_MAX
            && self.door.now() < principal.proof.expires_at
        {
            return Ok(principal);
        }
        let verified = self.door.identify(credential, &self.origin, asked).await;
        let mut known = self.known.lock();
        match &verified {
            Ok(principal) => {
                if known.len() >= SEATS_MAX {
                    known.clear();
                }
                known.insert(hash, (principal.clone(), Instant::now()));
            }
            Err(_) => {
                known.remove(&hash);
            }
        }
        verified
    }

    /// For whom the sender acts, where a token says it. The token goes no further.
    async fn end_user(&self, head: &mut Head, api: &Arc<Api>) -> Result<(), Own> {
        let Some(name) = &api.on_behalf_of_token else { return Ok(()) };
        let refused = |why: &str| {
            let message = format!("refused: {why}");
            Own::problem(400, "unreadable", &message, "say once for whom you act")
        };
        let token = head.take_header(name).map_err(|fault| refused(fault.why))?;
        let Some(token) = token else { return Ok(()) };
        if api.on_behalf_of.as_ref().is_some_and(|said| head.header(said).is_some()) {
            return Err(refused("for whom it is, is said twice"));
        }
        let token = token.strip_prefix("Bearer ").unwrap_or(&token).trim();
        let token = Secret::new(token.as_bytes().to_vec());
        let hash = sha256(token.reveal());
        let known = self.verified(Credential::Token(token), hash, Some(&api.resource)).await;
        let user = known.map_err(|_| self.unauthorized(head, Some("invalid_token")))?;
        head.on_behalf_of = Some(user.id.clone());
        Ok(())
    }

    /// A token with a proof: the proof is for one request, so nothing of it is kept.
    async fn proven(
        &self,
        head: &Head,
        token: Secret,
        proof: Secret,
        asked: &str,
    ) -> Result<Arc<Principal>, Own> {
        let (method, url) =
            (head.method.to_string(), format!("https://{}{}", head.authority, head.path));
        let credential = Credential::Proven { token, proof, method, url };
        match self.door.identify(credential, &self.origin, Some(asked)).await {
            Ok(principal) => {
                self.watch.known();
                self.stranger.lock().take();
                Ok(principal)
            }
            Err(_) => Err(self.unauthorized(head, Some("invalid_token"))),
        }
    }

    /// RFC 6750 3, RFC 9728 5.1. Unknown and wrong look the same.
    fn unauthorized(&self, head: &Head, error: Option<&str>) -> Own {
        let place = format!("https://{}/.well-known/oauth-protected-resource", head.host);
        let mut challenge = format!("Bearer resource_metadata=\"{place}\"");
        if let Some(error) = error {
            challenge.push_str(&format!(", error=\"{error}\""));
        }
        let message = "a valid token or client certificate is needed";
        let hint = "get a token from the issuer that the metadata names, for this gateway";
        Own::problem(401, "unauthenticated", message, hint)
            .with("www-authenticate", &challenge)
            .with("www-authenticate", "DPoP algs=\"ES256 ES384 EdDSA PS256 RS256\"")
    }

    async fn seat(
        self: &Arc<Self>,
        principal: &Arc<Principal>,
        api: &Arc<Api>,
        head: &Head,
    ) -> Result<Arc<Seat>, Rejection> {
        let key = (principal.proof.hash, api.resource.clone());
        // One at a time opens, so that requests side by side share a session.
        let mut seats = self.seats.lock().await;
        if let Some(seat) = seats.get(&key) {
            let over = *seat.live.standing().borrow() != bulla_host::Standing::Open;
            if !over {
                *seat.used.lock() = Instant::now();
                return Ok(seat.clone());
            }
            seats.remove(&key);
        }
        if seats.len() >= SEATS_MAX {
            seats.retain(|_, seat| Arc::strong_count(seat) > 1);
            if seats.len() >= SEATS_MAX {
                return Err(Rejection::Unavailable("too many identities on one connection"));
            }
        }
        let mut claims: Vec<(Arc<str>, Arc<str>)> = vec![
            ("version".into(), if self.two { "HTTP/2" } else { "HTTP/1.1" }.into()),
            ("host".into(), head.host.as_str().into()),
        ];
        if let Some(agent) = head.header("user-agent") {
            claims.push(("user-agent".into(), agent.into()));
        }
        let resource = &api.resource;
        let live = self.door.open(principal, resource, None, &self.origin, claims).await?;
        let pool = Pool::new(api.clone(), self.door.connector().clone(), self.two);
        let used = Mutex::new(Instant::now());
        let seat = Arc::new(Seat { live, api: api.clone(), pool, used });
        seats.insert(key.clone(), seat.clone());
        tokio::spawn(vacate(Arc::downgrade(self), key));
        Ok(seat)
    }
}

/// Closes a session once nobody used it for a while, so that idle connections hold none.
async fn vacate(conn: Weak<Conn>, key: (Digest, Arc<str>)) {
    loop {
        tokio::time::sleep(SEAT_IDLE_MAX / 4).await;
        let Some(conn) = conn.upgrade() else { return };
        let mut seats = conn.seats.lock().await;
        let Some(seat) = seats.get(&key) else { return };
        if Arc::strong_count(seat) == 1 && seat.used.lock().elapsed() >= SEAT_IDLE_MAX {
            seats.remove(&key);
            return;
        }
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    Digest(out)
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(120),
            head: Duration::from_secs(10),
            body: Duration::from_secs(30),
        }
    }
}
