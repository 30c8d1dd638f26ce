//! The way to a target: the `Connector` port, and the connector that dials it directly.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use bulla_core::{Boxed, Resource, Secret};
use bulla_wire::{
    Login, LoginContext, LoginError, LoginSpec, LoginStep, Place, Protocol, TargetHello, Work,
};
use bytes::BytesMut;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
};

use crate::wide::Wide;

/// Most bytes that a target may send during a login.
const LOGIN_BYTES_MAX: usize = 1 << 20;

/// A byte stream to a target.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A target that has let us in.
pub struct Connected {
    pub stream: Box<dyn Stream>,
    pub hello: TargetHello,
    /// Bytes that arrived behind the login.
    pub rest: BytesMut,
}

/// Why a target is not reached. For operators; the client learns only that it is not.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no target is configured for `{0}`")]
    NoTarget(String),
    #[error("dial {0}: {1}")]
    Dial(String, std::io::Error),
    #[error("TLS with {0}: {1}")]
    Tls(String, std::io::Error),
    #[error("login at {0}: {1}")]
    Login(String, LoginError),
    #[error("read the secret of `{0}`: {1}")]
    Secret(String, std::io::Error),
    #[error("{0} did not answer in time")]
    TimedOut(String),
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
    /// The way through an agent. `public`: what a client may know of it.
    #[error("{detail}")]
    Agent { detail: String, public: Option<String> },
}

impl ConnectError {
    /// What a client may know of it, beyond that the target is not reached.
    pub fn public(&self) -> Option<&str> {
        match self {
            Self::Agent { public, .. } => public.as_deref(),
            Self::NoTarget(_)
            | Self::Dial(..)
            | Self::Tls(..)
            | Self::Login(..)
            | Self::Secret(..)
            | Self::TimedOut(_)
            | Self::Io(..) => None,
        }
    }
}

/// A place of secrets outside this process: a command, a vault.
pub trait Secrets: Send + Sync {
    fn read(&self) -> Boxed<'_, std::io::Result<Secret>>;
    /// The target did not take what was read last.
    fn spoiled(&self) {}
}

/// Reaches targets. No protocol knows whether directly or through an agent.
pub trait Connector: Send + Sync {
    /// The place that a client's wish for a part of a resource means.
    fn place(&self, resource: &Resource, part: Option<&str>) -> Option<Place>;
    fn protocol(&self, resource: &str) -> Option<Arc<dyn Protocol>>;
    fn connect<'a>(
        &'a self,
        place: &'a Place,
        wishes: Vec<(String, String)>,
    ) -> Boxed<'a, Result<Connected, ConnectError>>;
    /// Tells the target to stop what the session behind `target` is doing.
    fn cancel<'a>(
        &'a self,
        place: &'a Place,
        target: &'a TargetHello,
    ) -> Boxed<'a, Result<(), ConnectError>>;
}

/// Where the target's secret is. Read at each login, so that it can be rotated in place.
#[derive(Clone)]
pub enum SecretSource {
    None,
    File(PathBuf),
    Env(String),
    Elsewhere(Arc<dyn Secrets>),
}

impl SecretSource {
    /// The target did not take what was read last.
    pub fn spoiled(&self) {
        if let Self::Elsewhere(place) = self {
            place.spoiled();
        }
    }
    pub async fn read(&self) -> std::io::Result<Option<Arc<Secret>>> {
        let mut bytes = match self {
            Self::None => return Ok(None),
            Self::File(path) => tokio::fs::read(path).await?,
            Self::Elsewhere(place) => return Ok(Some(Arc::new(place.read().await?))),
            Self::Env(name) => match std::env::var_os(name) {
                Some(value) => value.into_encoded_bytes(),
                None => {
                    let why = format!("the environment variable `{name}` is not set");
                    return Err(std::io::Error::new(std::io::ErrorKind::NotFound, why));
                }
            },
        };
        while bytes.last().is_some_and(|b| *b == b'\n' || *b == b'\r') {
            bytes.pop();
        }
        Ok(Some(Arc::new(Secret::new(bytes))))
    }
}

#[derive(Clone)]
pub enum TargetTls {
    Off,
    /// The configuration says how the target's certificate is verified, and holds ours, if any.
    On(Arc<rustls::ClientConfig>),
}

/// One target: the address and credential behind a resource.
#[derive(Clone)]
pub struct Target {
    pub protocol: Arc<dyn Protocol>,
    pub host: String,
    pub port: u16,
    pub part: Option<String>,
    /// Whether a client may ask for another part than `part`.
    pub other_parts: bool,
    pub tls: TargetTls,
    pub user: String,
    pub secret: SecretSource,
}

/// Dials targets from the gateway itself.
pub struct DirectConnector {
    targets: HashMap<Arc<str>, (Target, Workshop)>,
    timeout: Duration,
}

/// Where the work of one target's logins is done, one after the other: a target that asks for much
/// keeps one core busy at most, and no other target waiting.
struct Workshop(Semaphore);

impl Default for Workshop {
    fn default() -> Self {
        Self(Semaphore::new(1))
    }
}

impl Workshop {
    /// Cancel safety: work that has begun ends by itself.
    async fn run(&self, work: Work) -> std::io::Result<()> {
        let turn = self.0.acquire().await.map_err(std::io::Error::other)?;
        tokio::task::spawn_blocking(move || work.run()).await.map_err(std::io::Error::other)?;
        drop(turn);
        Ok(())
    }
}

impl DirectConnector {
    pub fn new(targets: Vec<(String, Target)>, timeout: Duration) -> Self {
        let with_workshop =
            |(name, target): (String, Target)| (Arc::from(name), (target, Workshop::default()));
        Self { targets: targets.into_iter().map(with_workshop).collect(), timeout }
    }
    fn target(&self, resource: &str) -> Result<&(Target, Workshop), ConnectError> {
        self.targets.get(resource).ok_or_else(|| ConnectError::NoTarget(resource.into()))
    }
    async fn run(
        &self,
        (target, workshop): &(Target, Workshop),
        mut login: Box<dyn Login>,
    ) -> Result<Connected, ConnectError> {
        let at = format!("{}:{}", target.host, target.port);
        let dial = async {
            let tcp = TcpStream::connect((target.host.as_str(), target.port)).await;
            let tcp = tcp.map_err(|e| ConnectError::Dial(at.clone(), e))?;
            tcp.set_nodelay(true).map_err(|e| ConnectError::Io(at.clone(), e))?;
            drive(&at, target, workshop, tcp, login.as_mut()).await
        };
        match tokio::time::timeout(self.timeout, dial).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::TimedOut(at)),
        }
    }
}

/// Runs a login to its end over a fresh connection.
async fn drive(
    at: &str,
    target: &Target,
    workshop: &Workshop,
    tcp: TcpStream,
    login: &mut dyn Login,
) -> Result<Connected, ConnectError> {
    let io = |e| ConnectError::Io(at.into(), e);
    let broke =
        |why: &'static str| ConnectError::Login(at.into(), LoginError::Protocol(why.into()));
    let (mut plain, mut stream): (Option<TcpStream>, Option<Box<dyn Stream>>) = (Some(tcp), None);
    let (mut input, mut context, mut total) = (BytesMut::new(), LoginContext::default(), 0);
    loop {
        let step =
            login.input(&mut input, &context).map_err(|e| ConnectError::Login(at.into(), e))?;
        match step {
            LoginStep::Done(hello) => {
                let stream = match (stream, plain) {
                    (Some(stream), _) => stream,
                    (None, Some(tcp)) => Box::new(tcp),
                    (None, None) => return Err(broke("no stream")),
                };
                return Ok(Connected { stream, hello: *hello, rest: input });
            }
            LoginStep::StartTls => {
                let (TargetTls::On(config), Some(tcp)) = (&target.tls, plain.take()) else {
                    return Err(broke("TLS started twice or unasked"));
                };
                if !input.is_empty() {
                    return Err(broke("bytes before TLS"));
                }
                let tls_error = |e| ConnectError::Tls(at.into(), e);
                let name = ServerName::try_from(target.host.clone())
                    .map_err(|e| tls_error(std::io::Error::other(e)))?;
                let tls = tokio_rustls::TlsConnector::from(config.clone())
                    .connect(name, Wide::new(tcp, BytesMut::new()))
                    .await
                    .map_err(tls_error)?;
                let certificate = tls.get_ref().1.peer_certificates().and_then(|c| c.first());
                context.tls = true;
                context.server_end_point = certificate.and_then(|c| server_end_point(c));
                stream = Some(Box::new(tls));
            }
            LoginStep::Send(bytes) => match (&mut stream, &mut plain) {
                (Some(stream), _) => {
                    stream.write_all(&bytes).await.map_err(io)?;
                    stream.flush().await.map_err(io)?;
                }
                (None, Some(tcp)) => tcp.write_all(&bytes).await.map_err(io)?,
                (None, None) => return Err(broke("no stream")),
            },
            LoginStep::Work(work) => workshop.run(work).await.map_err(io)?,
            LoginStep::More => {
                let n = match (&mut stream, &mut plain) {
                    (Some(stream), _) => stream.read_buf(&mut input).await.map_err(io)?,
                    (None, Some(tcp)) => tcp.read_buf(&mut input).await.map_err(io)?,
                    (None, None) => 0,
                };
                total += n;
                if n == 0 {
                    return Err(io(std::io::ErrorKind::UnexpectedEof.into()));
                }
                if total > LOGIN_BYTES_MAX {
                    return Err(broke("a login of more than 1 MiB"));
                }
            }
        }
    }
}

/// RFC 5929, section 4.1: the hash of the certificate's signature, SHA-256 for weaker ones.
fn server_end_point(der: &[u8]) -> Option<Vec<u8>> {
    use aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let algorithm = match certificate.signature_algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => &SHA384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => &SHA512,
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => &SHA256,
        // RSA-PSS and EdDSA name no single hash: the binding is undefined, so none is offered.
        _ => return None,
    };
    Some(digest(algorithm, der).as_ref().to_vec())
}

impl Connector for DirectConnector {
    fn place(&self, resource: &Resource, part: Option<&str>) -> Option<Place> {
        let (target, _) = self.targets.get(resource.name.as_str())?;
        let own = target.part.as_deref().unwrap_or_else(|| resource.name.as_str());
        let wanted = part.unwrap_or(own);
        let default_part = wanted == own;
        if !default_part && !target.other_parts {
            return None;
        }
        Some(Place { resource: resource.name.as_str().into(), part: wanted.into(), default_part })
    }
    fn protocol(&self, resource: &str) -> Option<Arc<dyn Protocol>> {
        self.targets.get(resource).map(|(target, _)| target.protocol.clone())
    }
    fn connect<'a>(
        &'a self,
        place: &'a Place,
        wishes: Vec<(String, String)>,
    ) -> Boxed<'a, Result<Connected, ConnectError>> {
        Box::pin(async move {
            let found = self.target(&place.resource)?;
            let (target, _) = found;
            let secret = target.secret.read().await;
            let secret = secret.map_err(|e| ConnectError::Secret(place.resource.to_string(), e))?;
            let mut nonce = [0u8; 24];
            SystemRandom::new().fill(&mut nonce).map_err(|_| {
                ConnectError::Io(place.resource.to_string(), std::io::Error::other("no randomness"))
            })?;
            let login = target.protocol.login(LoginSpec {
                user: target.user.clone(),
                secret,
                part: Some(place.part.to_string()),
                settings: wishes,
                tls: matches!(target.tls, TargetTls::On(_)),
                nonce,
            });
            self.run(found, login).await
        })
    }
    fn cancel<'a>(
        &'a self,
        place: &'a Place,
        hello: &'a TargetHello,
    ) -> Boxed<'a, Result<(), ConnectError>> {
        Box::pin(async move {
            let found = self.target(&place.resource)?;
            let (target, _) = found;
            let tls = matches!(target.tls, TargetTls::On(_));
            let mut connected = self.run(found, target.protocol.cancel(hello, tls)).await?;
            // The target answers by closing; wait for that, so that the cancel has been taken.
            let mut byte = [0u8; 1];
            let wait = connected.stream.read(&mut byte);
            let _ = tokio::time::timeout(self.timeout, wait).await;
            Ok(())
        })
    }
}
