//! An OIDC issuer on loopback that can be made to misbehave.
//!
//! It speaks plain HTTP, serves `/.well-known/openid-configuration` and `/jwks`, and answers
//! client credentials at `/token`. Its keys are its own; tokens come from `/token` as a service
//! would fetch them, or straight from [`Issuer::mint`].

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::mint::{Alg, Key, Mint};
use crate::place::Port;

/// What a client may send.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// How the issuer answers, until told otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Behaviour {
    #[default]
    Well,
    /// Accepts and closes without an answer.
    HangUp,
    /// Answers with a page that is not JSON.
    Garbage,
    /// Answers well, after a while.
    Slow(Duration),
    Status(u16),
    /// Answers with valid JSON of at least so many bytes.
    Large(usize),
    /// Discovery names another issuer than the one asked.
    OtherIssuer,
    /// Sends the client elsewhere.
    Redirect(String),
    /// Publishes no key at all.
    NoKeys,
}

/// How often each endpoint was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    pub discovery: u32,
    pub keys: u32,
    pub tokens: u32,
}

/// A running issuer. Dropped, it is gone.
#[derive(Debug)]
pub struct Issuer {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    _port: Port,
}

#[derive(Debug)]
struct Shared {
    url: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last one signs; all are published.
    keys: Vec<Arc<Key>>,
    made: u32,
    behaviour: Behaviour,
    counts: Counts,
    clients: HashMap<String, Client>,
}

#[derive(Clone, Debug)]
struct Client {
    secret: String,
    claims: Map<String, Value>,
}

impl Issuer {
    /// With one ES256 key.
    ///
    /// # Errors
    /// There is no port or no thread to be had.
    pub fn start() -> Result<Self> {
        Self::with(&[Alg::Es256])
    }

    /// With one key for each algorithm; the last one signs.
    ///
    /// # Errors
    /// There is no port or no thread to be had.
    pub fn with(algorithms: &[Alg]) -> Result<Self> {
        crate::crypto();
        let port = Port::new()?;
        let url = format!("http://127.0.0.1:{}", port.number());
        let shared = Arc::new(Shared { url, state: Mutex::default() });
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let (number, served) = (port.number(), Arc::clone(&shared));
        let thread = thread::Builder::new().name("issuer".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async move {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).await;
                let bound = listener.as_ref().map(|_| ()).map_err(ToString::to_string);
                let _ = ready.send(bound);
                if let Ok(listener) = listener {
                    tokio::select! {
                        () = accept(listener, served) => {}
                        _ = stopped => {}
                    }
                }
            });
        });
        let thread = thread.context("start the issuer's thread")?;
        if let Err(e) = is_ready.recv().context("wait for the issuer")? {
            bail!("listen as an issuer on port {number}: {e}");
        }
        let issuer = Self { shared, stop: Some(stop), thread: Some(thread), _port: port };
        for alg in algorithms {
            issuer.rotate(*alg)?;
        }
        Ok(issuer)
    }

    /// What tokens say in `iss`, and where discovery starts.
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// A good token by the newest key, to be changed as a test likes.
    ///
    /// # Errors
    /// All keys were withdrawn.
    pub fn mint(&self) -> Result<Mint> {
        let state = self.shared.lock();
        let key = state.keys.last().context("the issuer has no key")?;
        Ok(Mint::new(self.url(), key))
    }

    /// A good token by the newest key of an algorithm.
    ///
    /// # Errors
    /// There is no such key.
    pub fn mint_by(&self, alg: Alg) -> Result<Mint> {
        let state = self.shared.lock();
        let key = state.keys.iter().rev().find(|key| key.alg == alg);
        Ok(Mint::new(self.url(), key.with_context(|| format!("no key for {}", alg.name()))?))
    }

    /// Makes a key, publishes it beside the others and signs with it from now on.
    ///
    /// # Errors
    /// The cryptography library refuses.
    pub fn rotate(&self, alg: Alg) -> Result<Arc<Key>> {
        let mut state = self.shared.lock();
        state.made += 1;
        let kid = format!("{}-{}", alg.name().to_lowercase(), state.made);
        let key = Arc::new(Key::generate(alg, &kid)?);
        state.keys.push(Arc::clone(&key));
        Ok(key)
    }

    /// Publishes only the newest key from now on.
    pub fn withdraw_old_keys(&self) {
        let mut state = self.shared.lock();
        let keep = state.keys.pop();
        state.keys = keep.into_iter().collect();
    }

    /// Answers so from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.shared.lock().behaviour = behaviour;
    }

    pub fn counts(&self) -> Counts {
        self.shared.lock().counts
    }

    /// Lets a client fetch tokens with these claims beside the usual ones.
    pub fn register(&self, client_id: &str, secret: &str, claims: Value) {
        let claims = if let Value::Object(claims) = claims { claims } else { Map::new() };
        let client = Client { secret: secret.to_owned(), claims };
        self.shared.lock().clients.insert(client_id.to_owned(), client);
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, Arc::clone(&shared)));
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
    // A client that leaves early is no failure of ours.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

type Answer = Response<Full<Bytes>>;

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Answer> {
    let behaviour = shared.lock().behaviour.clone();
    let path = request.uri().path().to_owned();
    {
        let counts = &mut shared.lock().counts;
        match path.as_str() {
            "/.well-known/openid-configuration" => counts.discovery += 1,
            "/jwks" => counts.keys += 1,
            "/token" => counts.tokens += 1,
            _ => {}
        }
    }
    match behaviour {
        Behaviour::HangUp => bail!("hang up"),
        Behaviour::Garbage => return text(StatusCode::OK, "text/html", "<html>down</html>"),
        Behaviour::Slow(delay) => tokio::time::sleep(delay).await,
        Behaviour::Status(code) => return text(StatusCode::from_u16(code)?, "text/plain", "no"),
        Behaviour::Redirect(to) => {
            let moved = Response::builder().status(StatusCode::FOUND).header("location", to);
            return Ok(moved.body(Full::default())?);
        }
        Behaviour::Large(bytes) => {
            let padding = "x".repeat(bytes);
            return json(StatusCode::OK, &json!({ "keys": [], "padding": padding }));
        }
        Behaviour::Well | Behaviour::OtherIssuer | Behaviour::NoKeys => {}
    }
    match (request.method(), path.as_str()) {
        (&Method::GET, "/.well-known/openid-configuration") => {
            let url = &shared.url;
            let other = shared.lock().behaviour == Behaviour::OtherIssuer;
            let issuer = if other { "http://127.0.0.1:9/other" } else { url };
            json(
                StatusCode::OK,
                &json!({
                    "issuer": issuer,
                    "jwks_uri": format!("{url}/jwks"),
                    "token_endpoint": format!("{url}/token"),
                    "response_types_supported": ["code"],
                    "grant_types_supported": ["client_credentials"],
                    "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["ES256", "RS256", "EdDSA"],
                }),
            )
        }
        (&Method::GET, "/jwks") => {
            let state = shared.lock();
            let keys = if state.behaviour == Behaviour::NoKeys { &[][..] } else { &state.keys };
            let keys = keys.iter().map(|key| key.jwk()).collect::<Result<Vec<_>>>()?;
            json(StatusCode::OK, &json!({ "keys": keys }))
        }
        (&Method::POST, "/token") => grant(request, &shared).await,
        _ => text(StatusCode::NOT_FOUND, "text/plain", "not found"),
    }
}

/// Client credentials (RFC 6749 section 4.4), with the secret in the body. `expires_in`, which no
/// real issuer lets a client choose, gives tests tokens that expire while they look.
async fn grant(request: Request<Incoming>, shared: &Shared) -> Result<Answer> {
    let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect().await;
    let Ok(body) = body else { return text(StatusCode::BAD_REQUEST, "text/plain", "too long") };
    let form = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    let field = |name: &str| {
        let mut fields = form.split('&').filter_map(|field| field.split_once('='));
        fields.find(|(found, _)| *found == name).map(|(_, value)| value.to_owned())
    };
    if field("grant_type").as_deref() != Some("client_credentials") {
        return json(StatusCode::BAD_REQUEST, &json!({ "error": "unsupported_grant_type" }));
    }
    let id = field("client_id").unwrap_or_default();
    let state = shared.lock();
    let known = state
        .clients
        .get(&id)
        .filter(|client| field("client_secret").as_ref() == Some(&client.secret));
    let (Some(client), Some(key)) = (known, state.keys.last()) else {
        return json(StatusCode::UNAUTHORIZED, &json!({ "error": "invalid_client" }));
    };
    let mut mint = Mint::new(&shared.url, key).subject(&id);
    for (name, value) in &client.claims {
        mint = mint.claim(name, value.clone());
    }
    let seconds = field("expires_in").and_then(|seconds| seconds.parse().ok()).unwrap_or(600);
    let token = mint.expires(seconds).token()?;
    json(
        StatusCode::OK,
        &json!({ "access_token": token, "token_type": "Bearer", "expires_in": seconds }),
    )
}

fn json(status: StatusCode, value: &Value) -> Result<Answer> {
    text(status, "application/json", &value.to_string())
}

fn text(status: StatusCode, kind: &str, text: &str) -> Result<Answer> {
    let response = Response::builder().status(status).header("content-type", kind);
    Ok(response.body(Full::new(Bytes::from(text.to_owned())))?)
}
