//! The agent's identity toward one gateway: enrol once, renew at half of a certificate's life, and
//! keep it on disk, so that a restart needs no new token.
//!
//! Key, certificate and authority stand in one file, mode 0600, replaced whole. The key never
//! leaves the agent; each certificate gets a new one.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bulla_core::{Clock, Timestamp};
use bytes::BytesMut;
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::sync::watch;

use crate::{
    agent::{AgentStatus, GatewayConfig, pause},
    alpn, authority, dial,
    message::{self, Issued, Request, VERSION},
    private,
    token::JoinToken,
};

/// Longest file of an identity or of a credential.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// How an agent proves at enrolment who it is. Read at each attempt, so that it can be replaced.
#[derive(Debug, Clone)]
pub enum Enrolment {
    /// A join token in a file.
    JoinFile(PathBuf),
    /// A join token in an environment variable.
    JoinEnv(String),
    /// A JWT of the workload's own, in a file that the platform keeps fresh.
    Jwt(PathBuf),
    /// An X.509-SVID and its key, in files that the platform keeps fresh.
    Svid { cert: PathBuf, key: PathBuf },
}

/// What tunnels are dialled with.
pub struct Identity {
    pub tunnel: Arc<ClientConfig>,
    renew: Arc<ClientConfig>,
    pub instance: String,
    pub expires: Timestamp,
    /// Renew from here on.
    due: Timestamp,
}

fn other(words: impl Into<String>) -> io::Error {
    io::Error::other(words.into())
}

/// Reads key, certificate and authority, and what the certificate says.
fn parse(pem: &[u8], name: &str) -> io::Result<Identity> {
    let key = || PrivateKeyDer::from_pem_slice(pem).map_err(|_| other("no key in it"));
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| other("no certificate in it"))?;
    let [leaf, root] = &chain[..] else { return Err(other("not one certificate and authority")) };
    let member = authority::member(leaf).ok_or_else(|| other("a certificate of no agent"))?;
    if *member.name != *name {
        return Err(other(format!("it is of agent `{}`, not `{name}`", member.name)));
    }
    let (_, parsed) =
        x509_parser::parse_x509_certificate(leaf).map_err(|_| other("a malformed certificate"))?;
    let secs = |at: i64| u64::try_from(at).unwrap_or_default();
    let validity = parsed.validity();
    // Made this long before it was signed; see `authority`.
    let begins = secs(validity.not_before.timestamp()).saturating_add(300);
    let expires = secs(validity.not_after.timestamp());
    let config = |kind: &[u8]| -> io::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(root.clone()).map_err(io::Error::other)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![leaf.clone()], key()?)
            .map_err(io::Error::other)?;
        config.alpn_protocols = vec![kind.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    };
    Ok(Identity {
        tunnel: config(alpn::TUNNEL)?,
        renew: config(alpn::RENEW)?,
        instance: member.instance.to_string(),
        expires: Timestamp::from_secs(expires),
        due: Timestamp::from_secs(begins + expires.saturating_sub(begins) / 2),
    })
}

/// Keeps one identity fresh, for ever. What it has is in `identity`.
pub struct Keeper {
    pub agent: String,
    pub gateway: GatewayConfig,
    pub path: PathBuf,
    pub clock: Arc<dyn Clock>,
    pub status: Arc<AgentStatus>,
    pub identity: watch::Sender<Option<Arc<Identity>>>,
}

impl Keeper {
    pub async fn run(self) {
        let alias = self.gateway.alias.clone();
        let mut current = match self.load().await {
            Ok(found) => found,
            Err(error) => {
                let path = self.path.display();
                tracing::warn!(gateway = alias, %error, "`{path}` is left aside; enrolling anew");
                None
            }
        };
        let mut failures = 0;
        loop {
            let now = self.clock.now();
            current = current.filter(|identity: &Arc<Identity>| identity.expires > now);
            self.identity.send_replace(current.clone());
            let next = match &current {
                Some(identity) => {
                    self.status.certificate(&alias, identity);
                    if identity.due > now {
                        // In steps, since a machine may sleep and its clock may jump.
                        let wait = identity.due.ms_since(now).clamp(50, 60_000);
                        tokio::time::sleep(Duration::from_millis(wait)).await;
                        continue;
                    }
                    self.renew(identity).await
                }
                None => self.enrol().await,
            };
            match next {
                Ok(identity) => {
                    let (instance, until) = (&identity.instance, identity.expires);
                    tracing::info!(gateway = alias, instance, %until, "certificate");
                    current = Some(Arc::new(identity));
                    failures = 0;
                }
                Err(error) => {
                    self.status.failed(&alias, format!("certificate: {error}"));
                    tracing::warn!(gateway = alias, %error, "certificate");
                    failures += 1;
                    tokio::time::sleep(pause(failures)).await;
                }
            }
        }
    }

    async fn load(&self) -> io::Result<Option<Arc<Identity>>> {
        let (path, agent) = (self.path.clone(), self.agent.clone());
        let read = tokio::task::spawn_blocking(move || {
            let Some(pem) = private::read(&path, FILE_BYTES_MAX)? else { return Ok(None) };
            parse(&pem, &agent).map(Some)
        });
        Ok(read.await.map_err(io::Error::other)??.map(Arc::new))
    }

    async fn renew(&self, identity: &Identity) -> io::Result<Identity> {
        let request =
            Request { version: VERSION, csr: String::new(), join: None, jwt: None, name: None };
        self.ask(identity.renew.clone(), request).await
    }

    async fn enrol(&self) -> io::Result<Identity> {
        let mut request = Request {
            version: VERSION,
            csr: String::new(),
            join: None,
            jwt: None,
            name: Some(self.agent.clone()),
        };
        let mut shown = None;
        let pin = match &self.gateway.enrolment {
            Enrolment::JoinFile(_) | Enrolment::JoinEnv(_) => {
                let text = match &self.gateway.enrolment {
                    Enrolment::JoinFile(path) => text(path).await?,
                    Enrolment::JoinEnv(name) => std::env::var(name)
                        .map_err(|_| other(format!("the variable `{name}` is not set")))?,
                    Enrolment::Jwt(_) | Enrolment::Svid { .. } => String::new(),
                };
                let token = JoinToken::parse(&text).ok_or_else(|| other("no join token in it"))?;
                request.join = Some(token.secret_text());
                token.pin
            }
            Enrolment::Jwt(path) => {
                request.jwt = Some(text(path).await?.trim().to_owned());
                self.pin()?
            }
            Enrolment::Svid { cert, key } => {
                shown = Some(svid(cert, key).await?);
                self.pin()?
            }
        };
        let config = dial::pinned(pin, shown, alpn::ENROL).map_err(io::Error::other)?;
        self.ask(Arc::new(config), request).await
    }

    fn pin(&self) -> io::Result<bulla_core::Digest> {
        let pin = self.gateway.pin.ok_or_else(|| other("the gateway's `pin` is not set"))?;
        Ok(pin.0)
    }

    /// One request for a certificate, and what comes of it on disk.
    async fn ask(&self, config: Arc<ClientConfig>, mut request: Request) -> io::Result<Identity> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let csr = CertificateParams::default().serialize_request(&key).map_err(io::Error::other)?;
        request.csr = BASE64.encode(csr.der());
        let gateway = &self.gateway;
        let exchange = async {
            let mut tls = dial::connect(&gateway.address, gateway.proxy.as_ref(), config).await?;
            message::write(&mut tls, &request).await?;
            message::read::<Issued>(&mut tls, &mut BytesMut::new()).await
        };
        let answered = tokio::time::timeout(crate::HANDSHAKE_MAX * 2, exchange).await;
        let answered = answered.map_err(|_| other("the gateway did not answer in time"))??;
        let (certificate, authority) = match answered {
            Issued::Ok { certificate, authority, .. } => (certificate, authority),
            Issued::Refused { reason } => return Err(other(reason)),
        };
        let pem = format!("{}{certificate}{authority}", key.serialize_pem());
        let identity = parse(pem.as_bytes(), &self.agent)?;
        let path = self.path.clone();
        let kept = tokio::task::spawn_blocking(move || private::write(&path, pem.as_bytes()));
        kept.await.map_err(io::Error::other)??;
        Ok(identity)
    }
}

async fn text(path: &Path) -> io::Result<String> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("read `{}`: {error}", path.display()))
    };
    if tokio::fs::metadata(path).await.map_err(named)?.len() > FILE_BYTES_MAX {
        return Err(other(format!("`{}` is too long", path.display())));
    }
    tokio::fs::read_to_string(path).await.map_err(named)
}

type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

async fn svid(cert: &Path, key: &Path) -> io::Result<Shown> {
    let (cert, key) = (text(cert).await?, text(key).await?);
    let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| other("the SVID is no certificate in PEM"))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
    Ok((chain, key.map_err(|_| other("the SVID's key is no key in PEM"))?))
}
