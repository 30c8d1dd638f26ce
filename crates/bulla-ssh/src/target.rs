//! Connections to one target, of one session. Each carries one channel at a time, so that a client
//! that does not read one answer holds up no other.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bulla_core::{Secret, Timestamp};
use bulla_host::{Connector, DialError, Door, Stream};
use parking_lot::Mutex;
use russh::{
    Channel,
    client::{self, AuthResult, ChannelOpenHandle},
    keys::{
        Algorithm, EcdsaCurve, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate,
        ssh_key::{Certificate, certificate::CertType},
    },
};

use crate::{
    authority::Authority,
    host::{Host, HostKeys, TargetLogin},
    stream::{Allowance, Guarded, Knife},
};

/// Idle connections that one session keeps.
const IDLE_MAX: usize = 4;

/// Why a target cannot be used. For operators; the client learns only that it cannot.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("its host key is none that is pinned: {0}")]
    HostKey(String),
    #[error("neither the configuration nor the agent says who the host is: give `ssh.host_keys`")]
    Unknown,
    #[error("its agent sends {0}")]
    Agent(&'static str),
    #[error("the connection failed: {0}")]
    Lost(#[from] russh::Error),
    #[error("it does not let the gateway in as `{0}`")]
    Login(String),
    #[error("there is no secret for it")]
    NoSecret,
    #[error("the secret is no private key in OpenSSH's form")]
    BadKey,
    #[error("sign its certificate: {0}")]
    Authority(#[from] crate::authority::AuthorityError),
    #[error("it refuses what is asked of it")]
    Refused,
    #[error("it did not answer in time")]
    TimedOut,
}

impl TargetError {
    /// What a client may know of it, beyond that the target is not reached.
    pub fn public(&self) -> Option<&str> {
        match self {
            Self::Dial(error) => error.public(),
            _ => None,
        }
    }
}

impl From<russh::SendError> for TargetError {
    fn from(_: russh::SendError) -> Self {
        Self::Lost(russh::Error::SendError)
    }
}

/// Algorithms toward either side: authenticated encryption only, no SHA-1, nothing below 128 bits.
pub fn preferred() -> russh::Preferred {
    use russh::{cipher, kex, mac};
    russh::Preferred {
        kex: Cow::Borrowed(&[
            kex::MLKEM768X25519_SHA256,
            kex::CURVE25519,
            kex::CURVE25519_PRE_RFC_8731,
            kex::ECDH_SHA2_NISTP256,
            kex::ECDH_SHA2_NISTP384,
            kex::EXTENSION_SUPPORT_AS_CLIENT,
            kex::EXTENSION_SUPPORT_AS_SERVER,
            kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
            kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
        ]),
        key: Cow::Borrowed(&[
            Algorithm::Ed25519,
            Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
            Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
        ]),
        host_key_certificates: Cow::Borrowed(&[]),
        // GCM only: the prefix truncation of CVE-2023-48795 does not work on it, whatever the peer.
        cipher: Cow::Borrowed(&[cipher::AES_128_GCM, cipher::AES_256_GCM]),
        mac: Cow::Borrowed(&[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM]),
        compression: Cow::Borrowed(&[russh::compression::NONE]),
    }
}

/// Knows who the target may be.
pub struct Checker {
    keys: HostKeys,
    now: Timestamp,
    /// What it said that it is, where that was refused.
    refused: Arc<Mutex<Option<String>>>,
}

impl Checker {
    pub fn new(keys: HostKeys, now: Timestamp, refused: Arc<Mutex<Option<String>>>) -> Self {
        Self { keys, now, refused }
    }
}

impl HostKeys {
    /// Whether a target may be who it says, at a time.
    pub fn knows(&self, shown: &PublicKeyOrCertificate, now: Timestamp) -> bool {
        match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => {
                self.pinned.iter().any(|own| own.key_data() == key.key_data())
            }
            PublicKeyOrCertificate::Certificate(certificate) => {
                self.certified(certificate, now)
                    || self.pinned.iter().any(|own| own.key_data() == certificate.public_key())
            }
        }
    }

    fn certified(&self, certificate: &Certificate, now: Timestamp) -> bool {
        let prints: Vec<_> =
            self.authorities.iter().map(|key| key.fingerprint(HashAlg::Sha256)).collect();
        let names = certificate.valid_principals();
        certificate.cert_type() == CertType::Host
            && certificate.validate_at(now.0 / 1_000_000_000, &prints).is_ok()
            && certificate.critical_options().iter().next().is_none()
            // A certificate for every host is one for no host.
            && names.contains(&self.name)
    }
}

impl client::Handler for Checker {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        let known = self.keys.knows(shown, self.now);
        if !known {
            let print = shown.public_key().fingerprint(HashAlg::Sha256);
            *self.refused.lock() = Some(print.to_string());
        }
        Ok(known)
    }

    // A target opens nothing: a handle that is dropped refuses.
    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _channel: Channel<client::Msg>,
        _connected_address: &str,
        _connected_port: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Self::Error> {
        drop(reply);
        Ok(())
    }
    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _channel: Channel<client::Msg>,
        _socket_path: &str,
        reply: ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Self::Error> {
        drop(reply);
        Ok(())
    }
    async fn server_channel_open_agent_forward(
        &mut self,
        _channel: Channel<client::Msg>,
        reply: ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Self::Error> {
        drop(reply);
        Ok(())
    }
    async fn server_channel_open_session(
        &mut self,
        _channel: Channel<client::Msg>,
        reply: ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Self::Error> {
        drop(reply);
        Ok(())
    }
    async fn server_channel_open_direct_tcpip(
        &mut self,
        _channel: Channel<client::Msg>,
        _host_to_connect: &str,
        _port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Self::Error> {
        drop(reply);
        Ok(())
    }
    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _channel: Channel<client::Msg>,
        _socket_path: &str,
        reply: ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Self::Error> {
        drop(reply);
        Ok(())
    }
    async fn server_channel_open_x11(
        &mut self,
        _channel: Channel<client::Msg>,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), Self::Error> {
        drop(reply);
        Ok(())
    }
}

/// A connection on which the gateway is logged in.
pub struct Conn {
    handle: client::Handle<Checker>,
    /// Dropped with the connection, which ends then.
    _knife: Knife,
}

impl Conn {
    pub fn new(handle: client::Handle<Checker>, knife: Knife) -> Self {
        Self { handle, _knife: knife }
    }
    pub async fn session(&self) -> Result<Channel<client::Msg>, TargetError> {
        Ok(self.handle.channel_open_session().await?)
    }
    pub async fn forward(
        &self,
        host: &str,
        port: u32,
    ) -> Result<Channel<client::Msg>, TargetError> {
        Ok(self.handle.channel_open_direct_tcpip(host, port, "127.0.0.1", 0).await?)
    }
}

/// All connections of one session.
pub struct Pool {
    pub host: Arc<Host>,
    pub account: String,
    /// Names the session in the target's own log.
    pub id: String,
    pub door: Door,
    authority: Arc<Authority>,
    idle: Mutex<Vec<Conn>>,
    /// The first one is on its way before anybody asks for it.
    early: Mutex<Option<Early>>,
}

/// Ends with its task when it is dropped.
struct Early(tokio::task::JoinHandle<Result<Conn, TargetError>>);

impl Drop for Early {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Pool {
    pub fn new(
        host: Arc<Host>,
        account: &str,
        id: String,
        door: Door,
        authority: Arc<Authority>,
    ) -> Arc<Self> {
        let pool = Arc::new(Self {
            host,
            account: account.to_owned(),
            id,
            door,
            authority,
            idle: Mutex::default(),
            early: Mutex::default(),
        });
        let early = pool.clone();
        let early = Early(tokio::spawn(async move { early.connect().await }));
        *pool.early.lock() = Some(early);
        pool
    }

    /// A connection that nobody else uses.
    pub async fn take(&self) -> Result<Conn, TargetError> {
        while let Some(conn) = self.pop() {
            if !conn.handle.is_closed() {
                return Ok(conn);
            }
        }
        let early = self.early.lock().take();
        if let Some(mut early) = early
            && let Ok(Ok(conn)) = (&mut early.0).await
            && !conn.handle.is_closed()
        {
            return Ok(conn);
        }
        self.connect().await
    }

    /// Ends what nobody uses.
    pub fn close(&self) {
        self.idle.lock().clear();
        self.early.lock().take();
    }

    fn pop(&self) -> Option<Conn> {
        self.idle.lock().pop()
    }

    /// Takes one back whose channel is closed on both sides.
    pub fn put(&self, conn: Conn) {
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX && !conn.handle.is_closed() {
            idle.push(conn);
        }
    }

    async fn connect(&self) -> Result<Conn, TargetError> {
        let time = self.door.connect_max();
        tokio::time::timeout(time, self.log_in()).await.map_err(|_| TargetError::TimedOut)?
    }

    /// Meets a target at the other end of `stream`, which must be one of those that `keys` name.
    pub async fn greet(
        &self,
        stream: Box<dyn Stream>,
        keys: HostKeys,
    ) -> Result<(client::Handle<Checker>, Knife), TargetError> {
        let (stream, knife) = Guarded::new(stream, Allowance::new(u64::MAX));
        let mut preferred = preferred();
        if !keys.authorities.is_empty() {
            preferred.host_key_certificates = preferred.key.clone();
        }
        let config = client::Config {
            client_id: russh::SshId::Standard("SSH-2.0-Bulla".into()),
            preferred,
            keepalive_interval: Some(Duration::from_secs(15)),
            keepalive_max: 4,
            ..client::Config::default()
        };
        let refused: Arc<Mutex<Option<String>>> = Arc::default();
        let checker = Checker::new(keys, self.door.now(), refused.clone());
        let connected = client::connect_stream(Arc::new(config), stream, checker).await;
        match (connected, refused.lock().take()) {
            (Ok(handle), _) => Ok((handle, knife)),
            (Err(_), Some(print)) => Err(TargetError::HostKey(print)),
            (Err(error), None) => Err(error.into()),
        }
    }

    async fn log_in(&self) -> Result<Conn, TargetError> {
        if self.host.login == TargetLogin::Agent {
            return self.vouched().await;
        }
        let connector: &Arc<dyn Connector> = self.door.connector();
        let dialled = connector.dial(&self.host.resource, &[]).await?;
        let (mut handle, knife) = self.greet(dialled.stream, self.host.keys.clone()).await?;
        let account = self.account.as_str();
        let answer = match self.host.login {
            TargetLogin::Certificate | TargetLogin::Agent => {
                let now = self.door.now();
                let (key, certificate) = self.authority.target(account, &self.id, now)?;
                handle.authenticate_openssh_cert(account, Arc::new(key), certificate).await?
            }
            TargetLogin::Key => {
                let key = PrivateKey::from_openssh(self.secret().await?.reveal())
                    .map_err(|_| TargetError::BadKey)?;
                let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
                handle.authenticate_publickey(account, key).await?
            }
            TargetLogin::Password => self.say_password(&mut handle).await?,
        };
        match answer {
            AuthResult::Success => Ok(Conn::new(handle, knife)),
            AuthResult::Failure { .. } => Err(TargetError::Login(account.to_owned())),
        }
    }

    pub async fn say_password(
        &self,
        handle: &mut client::Handle<Checker>,
    ) -> Result<AuthResult, TargetError> {
        let secret = self.secret().await?;
        let text = std::str::from_utf8(secret.reveal()).map_err(|_| TargetError::BadKey)?;
        Ok(handle.authenticate_password(self.account.as_str(), text).await?)
    }

    async fn secret(&self) -> Result<Arc<Secret>, TargetError> {
        let secret = self.door.connector().secret(&self.host.resource).await?;
        secret.ok_or(TargetError::NoSecret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use russh::keys::ssh_key::{certificate::Builder, private::Ed25519Keypair};

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::new(Ed25519Keypair::from_seed(&[seed; 32]).into(), "x").unwrap()
    }

    #[test]
    fn a_host_is_pinned_or_certified_by_name() {
        let now = Timestamp(1_000 * 1_000_000_000);
        let make = |signer: u8, kind, name: &str, from, to| {
            let public = key(1).public_key().key_data().clone();
            let mut builder = Builder::new([0; 32], public, from, to).unwrap();
            builder.cert_type(kind).unwrap().key_id("h").unwrap();
            if name.is_empty() {
                builder.all_principals_valid().unwrap();
            } else {
                builder.valid_principal(name).unwrap();
            }
            PublicKeyOrCertificate::from(builder.sign(&key(signer)).unwrap())
        };
        // A condition that nobody here knows.
        let public = key(1).public_key().key_data().clone();
        let mut builder = Builder::new([0; 32], public, 0, 2_000).unwrap();
        builder.cert_type(CertType::Host).unwrap().key_id("h").unwrap();
        builder.valid_principal("web.internal").unwrap();
        builder.critical_option("unknown", "x").unwrap();
        let conditional = PublicKeyOrCertificate::from(builder.sign(&key(9)).unwrap());
        let keys = HostKeys {
            pinned: vec![key(7).public_key().clone()],
            authorities: vec![key(9).public_key().clone()],
            name: "web.internal".into(),
        };
        let plain = |seed| PublicKeyOrCertificate::from(key(seed).public_key().clone());
        for (shown, known) in [
            (plain(7), true),
            (plain(1), false),
            (plain(9), false),
            (make(9, CertType::Host, "web.internal", 0, 2_000), true),
            (make(8, CertType::Host, "web.internal", 0, 2_000), false),
            (make(9, CertType::User, "web.internal", 0, 2_000), false),
            (make(9, CertType::Host, "other", 0, 2_000), false),
            (make(9, CertType::Host, "", 0, 2_000), false),
            (make(9, CertType::Host, "web.internal", 0, 1_000), false),
            (make(9, CertType::Host, "web.internal", 1_001, 2_000), false),
            (conditional, false),
        ] {
            assert_eq!(keys.knows(&shown, now), known, "{shown:?}");
        }
    }
}
