//! A login by way of an agent: what the gateway asks for, and what the agent answers.
//!
//! The gateway speaks SSH with the target, through the agent's stream; the agent has the secret. It
//! certifies a key that the gateway made for this connection, or signs with its own, or, where the
//! target takes nothing else, hands over a password.

use std::sync::Arc;

use bulla_host::Connector;
use russh::{
    client::AuthResult,
    keys::{
        HashAlg, PublicKey, agent::AgentIdentity, ssh_key::Certificate,
        ssh_key::certificate::CertType,
    },
};

use crate::{
    authority,
    host::HostKeys,
    seen::put,
    target::{Conn, Pool, TargetError},
};

/// Longest signature of an agent's.
const SIGNATURE_BYTES_MAX: usize = 1_024;

/// The words of a wish.
pub const ACCOUNT: &str = "account";
/// The public key of this connection, as a line.
pub const KEY: &str = "key";
/// Names principal and session in the target's own log.
pub const SESSION: &str = "session";

/// The words of an answer: how one logs in.
pub const LOGIN: &str = "login";
pub const BY_CERTIFICATE: &str = "certificate";
pub const BY_KEY: &str = "key";
pub const BY_PASSWORD: &str = "password";
/// The gateway's key, certified; a line.
pub const CERTIFICATE: &str = "certificate";
/// The public half of the agent's key; a line.
pub const PUBLIC_KEY: &str = "public_key";
/// Who the target is; each may come several times.
pub const HOST_KEY: &str = "host_key";
pub const HOST_AUTHORITY: &str = "host_authority";
pub const HOST_NAME: &str = "host_name";

/// How one logs in.
enum Login {
    Certificate(Box<Certificate>),
    Key(PublicKey),
    Password,
}

/// What an agent said, read.
struct Told {
    login: Login,
    keys: HostKeys,
}

/// Why an agent's words are no good.
type Why = &'static str;

impl Told {
    /// `own`: the key that was to be certified.
    fn read(told: &[(String, String)], own: &PublicKey) -> Result<Self, Why> {
        let all = |name: &'static str| told.iter().filter(move |(key, _)| key == name);
        let one = |name: &'static str, why: Why| {
            let mut found = all(name).map(|(_, value)| value.as_str());
            match (found.next(), found.next()) {
                (Some(value), None) => Ok(value),
                _ => Err(why),
            }
        };
        let lines = |name: &'static str| -> Result<Vec<PublicKey>, Why> {
            let read = |(_, line): &(String, String)| PublicKey::from_openssh(line);
            let keys: Result<Vec<_>, _> = all(name).map(read).collect();
            keys.map_err(|_| "a host key that cannot be read")
        };
        let keys = HostKeys {
            pinned: lines(HOST_KEY)?,
            authorities: lines(HOST_AUTHORITY)?,
            name: all(HOST_NAME).next().map(|(_, name)| name.clone()).unwrap_or_default(),
        };
        let login = match one(LOGIN, "not one way to log in")? {
            BY_CERTIFICATE => {
                let line = one(CERTIFICATE, "not one certificate")?;
                let read = Certificate::from_openssh(line);
                let read = read.map_err(|_| "a certificate that cannot be read")?;
                if read.cert_type() != CertType::User || read.public_key() != own.key_data() {
                    return Err("a certificate of another key");
                }
                Login::Certificate(Box::new(read))
            }
            BY_KEY => {
                let line = one(PUBLIC_KEY, "not one public key")?;
                let read = PublicKey::from_openssh(line);
                Login::Key(read.map_err(|_| "a public key that cannot be read")?)
            }
            BY_PASSWORD => Login::Password,
            _ => return Err("a way to log in that is not known"),
        };
        Ok(Self { login, keys })
    }
}

/// Signs by way of the agent whose stream it is.
struct ByAgent<'a> {
    connector: &'a dyn Connector,
    resource: &'a str,
    handle: &'a [u8],
}

impl russh::Signer for ByAgent<'_> {
    type Error = TargetError;

    /// Returns what was to be signed, with the signature behind it.
    async fn auth_sign(
        &mut self,
        _: &AgentIdentity,
        _: Option<HashAlg>,
        mut data: Vec<u8>,
    ) -> Result<Vec<u8>, TargetError> {
        let signature = self.connector.sign(self.resource, self.handle, &data).await?;
        if signature.is_empty() || signature.len() > SIGNATURE_BYTES_MAX {
            return Err(TargetError::Agent("a signature that is none"));
        }
        put(&mut data, &signature);
        Ok(data)
    }
}

impl Pool {
    /// A connection through an agent, logged in.
    pub(crate) async fn vouched(&self) -> Result<Conn, TargetError> {
        let (resource, account) = (&*self.host.resource, self.account.as_str());
        let connector = self.door.connector();
        let key = Arc::new(authority::fresh("bulla")?);
        let line = key.public_key().to_openssh().map_err(authority::AuthorityError::from)?;
        let wish = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let wishes = vec![wish(ACCOUNT, account), wish(KEY, &line), wish(SESSION, &self.id)];
        let reached = connector.vouched(resource, wishes).await?;
        let told = Told::read(&reached.told, key.public_key()).map_err(TargetError::Agent)?;
        // What is configured here stands above what an agent says.
        let keys = if self.host.keys.is_empty() { told.keys } else { self.host.keys.clone() };
        if keys.is_empty() {
            return Err(TargetError::Unknown);
        }
        let (mut handle, knife) = self.greet(reached.stream, keys).await?;
        let answer = match told.login {
            Login::Certificate(certificate) => {
                handle.authenticate_openssh_cert(account, key, *certificate).await?
            }
            Login::Key(public) => {
                let connector = connector.as_ref();
                let mut signer = ByAgent { connector, resource, handle: &reached.handle };
                handle.authenticate_publickey_with(account, public, None, &mut signer).await?
            }
            Login::Password => self.say_password(&mut handle).await?,
        };
        match answer {
            AuthResult::Success => Ok(Conn::new(handle, knife)),
            AuthResult::Failure { .. } => Err(TargetError::Login(account.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use russh::keys::{
        PrivateKey,
        ssh_key::{certificate::Builder, private::Ed25519Keypair},
    };

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::new(Ed25519Keypair::from_seed(&[seed; 32]).into(), "x").unwrap()
    }

    fn certificate(of: u8, kind: CertType) -> String {
        let public = key(of).public_key().key_data().clone();
        let mut builder = Builder::new([0; 32], public, 0, 100).unwrap();
        builder.cert_type(kind).unwrap().key_id("x").unwrap().valid_principal("root").unwrap();
        builder.sign(&key(9)).unwrap().to_openssh().unwrap()
    }

    #[test]
    fn an_agent_is_read_strictly() {
        let own = key(1);
        let check = |told: &[(&str, &str)]| {
            let told: Vec<_> =
                told.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            Told::read(&told, own.public_key()).map(drop).err()
        };
        let good = certificate(1, CertType::User);
        let host = key(7).public_key().to_openssh().unwrap();
        let by = (LOGIN, BY_CERTIFICATE);
        assert_eq!(check(&[by, (CERTIFICATE, &good), (HOST_KEY, &host), ("new", "1")]), None);
        assert_eq!(check(&[(LOGIN, BY_KEY), (PUBLIC_KEY, &host)]), None);
        assert_eq!(check(&[(LOGIN, BY_PASSWORD)]), None);
        let (other, server) = (certificate(2, CertType::User), certificate(1, CertType::Host));
        for (told, why) in [
            (&[][..], "not one way to log in"),
            (&[by, by], "not one way to log in"),
            (&[(LOGIN, "trust me")], "a way to log in that is not known"),
            (&[by], "not one certificate"),
            (&[by, (CERTIFICATE, &good), (CERTIFICATE, &good)], "not one certificate"),
            (&[by, (CERTIFICATE, "x")], "a certificate that cannot be read"),
            (&[by, (CERTIFICATE, &other)], "a certificate of another key"),
            (&[by, (CERTIFICATE, &server)], "a certificate of another key"),
            (&[(LOGIN, BY_KEY)], "not one public key"),
            (&[(LOGIN, BY_KEY), (PUBLIC_KEY, "x")], "a public key that cannot be read"),
            (&[(LOGIN, BY_PASSWORD), (HOST_KEY, "x")], "a host key that cannot be read"),
        ] {
            assert_eq!(check(told), Some(why), "{told:?}");
        }
    }
}
