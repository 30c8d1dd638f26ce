//! The agent's side: beside a host, it vouches for gateways that want to log in there.
//!
//! A gateway is trusted with what this host's configuration allows, and with nothing else: it gets
//! into the accounts that are named, at this host and no other. So each host has an authority of its
//! own, and a key signs only for a session with the host that the agent itself has dialled.

use std::path::Path;

use bulla_core::{Secret, Timestamp};
use bulla_host::{Keeping, Seal, Vouch};
use parking_lot::Mutex;
use russh::keys::{
    Certificate, PrivateKey, PublicKey, PublicKeyOrCertificate,
    signature::{Signer as _, Verifier as _},
    ssh_key::Signature,
};

use crate::{
    authority::{self, AuthorityError},
    host::{HostKeys, TargetLogin},
    seen::{Seen, string},
    vouch,
};

/// Longest name of a session that goes into a certificate.
const SESSION_CHARS_MAX: usize = 300;
/// SSH_MSG_USERAUTH_REQUEST.
const USERAUTH_REQUEST: u8 = 50;

/// One host beside which an agent stands.
pub struct Beside {
    /// Accounts that gateways may ask for.
    accounts: Vec<String>,
    keys: HostKeys,
    means: Means,
}

/// With what one logs in.
enum Means {
    /// The authority of this one host.
    Authority(Box<PrivateKey>),
    /// The key that the secret is.
    Key,
    /// The password that the secret is.
    Password,
}

/// The authority of one host, which the host has to believe (`TrustedUserCAKeys`): its line.
pub fn authority_line(dir: &Path) -> Result<String, AuthorityError> {
    authority::line(&authority::own(dir, AUTHORITY)?)
}

/// Its file.
const AUTHORITY: &str = "target_ca";

impl Beside {
    /// `dir`: where the host's authority is, or is made.
    pub fn open(
        dir: &Path,
        accounts: Vec<String>,
        keys: HostKeys,
        login: TargetLogin,
    ) -> Result<Self, AuthorityError> {
        let means = match login {
            TargetLogin::Certificate | TargetLogin::Agent => {
                Means::Authority(Box::new(authority::own(dir, AUTHORITY)?))
            }
            TargetLogin::Key => Means::Key,
            TargetLogin::Password => Means::Password,
        };
        Ok(Self { accounts, keys, means })
    }

    fn known(&self) -> Result<Vec<(String, String)>, AuthorityError> {
        let mut told = vec![(vouch::HOST_NAME.to_owned(), self.keys.name.clone())];
        for (word, keys) in
            [(vouch::HOST_KEY, &self.keys.pinned), (vouch::HOST_AUTHORITY, &self.keys.authorities)]
        {
            for key in keys {
                told.push((word.to_owned(), key.to_openssh()?));
            }
        }
        Ok(told)
    }

    fn certificate(
        &self,
        authority: &PrivateKey,
        wishes: &[(String, String)],
        account: &str,
        now: Timestamp,
    ) -> Result<String, String> {
        let public = PublicKey::from_openssh(wish(wishes, vouch::KEY)?);
        let public = public.map_err(|_| "the gateway's key cannot be read")?;
        let session = wish(wishes, vouch::SESSION)?.chars().filter(|c| !c.is_control());
        let session: String = session.take(SESSION_CHARS_MAX).collect();
        let made = authority::certify(authority, &public, account, &session, now);
        let made = made.map_err(|error| error.to_string())?;
        made.to_openssh().map_err(|error| error.to_string())
    }
}

/// The one wish of a name.
fn wish<'a>(wishes: &'a [(String, String)], name: &str) -> Result<&'a str, String> {
    let mut found = wishes.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
    match (found.next(), found.next()) {
        (Some(value), None) => Ok(value),
        _ => Err(format!("the gateway does not say one `{name}`")),
    }
}

fn private(secret: Option<&Secret>) -> Result<PrivateKey, String> {
    let secret = secret.ok_or("there is no secret for it")?;
    let key = PrivateKey::from_openssh(secret.reveal());
    let key = key.map_err(|_| "the secret is no private key in OpenSSH's form")?;
    if key.is_encrypted() {
        return Err("the private key has a passphrase; take it off".into());
    }
    if !(key.algorithm().is_ed25519() || key.algorithm().is_ecdsa()) {
        let kind = key.algorithm().to_string();
        return Err(format!("`{kind}` is not used; give it an Ed25519 or ECDSA key"));
    }
    Ok(key)
}

impl bulla_host::Beside for Beside {
    fn keeping(&self) -> Keeping {
        match self.means {
            Means::Authority(_) => Keeping::Needless,
            Means::Key => Keeping::Kept,
            Means::Password => Keeping::Given,
        }
    }

    fn vouch(
        &self,
        wishes: &[(String, String)],
        secret: Option<&Secret>,
        now: Timestamp,
    ) -> Result<Vouch, String> {
        let account = wish(wishes, vouch::ACCOUNT)?;
        if !self.accounts.iter().any(|own| own == account) {
            let account = account.escape_debug();
            return Err(format!("the agent's configuration has no account `{account}` there"));
        }
        let mut told = self.known().map_err(|error| error.to_string())?;
        let mut say = |word: &str, value: String| told.push((word.to_owned(), value));
        let mut seal: Option<std::sync::Arc<dyn Seal>> = None;
        match &self.means {
            Means::Authority(authority) => {
                say(vouch::LOGIN, vouch::BY_CERTIFICATE.into());
                say(vouch::CERTIFICATE, self.certificate(authority, wishes, account, now)?);
            }
            Means::Key => {
                let key = private(secret)?;
                let line = key.public_key().to_openssh().map_err(|error| error.to_string())?;
                say(vouch::LOGIN, vouch::BY_KEY.into());
                say(vouch::PUBLIC_KEY, line);
                let (account, keys) = (account.to_owned(), self.keys.clone());
                let seen = Mutex::default();
                seal = Some(std::sync::Arc::new(Own { key, account, keys, now, seen }));
            }
            Means::Password => say(vouch::LOGIN, vouch::BY_PASSWORD.into()),
        }
        Ok(Vouch { told, seal })
    }
}

/// Signs with the agent's own key, for one account of one host, on one stream.
struct Own {
    key: PrivateKey,
    account: String,
    keys: HostKeys,
    now: Timestamp,
    seen: Mutex<Seen>,
}

impl Seal for Own {
    fn see(&self, bytes: &[u8]) -> bool {
        self.seen.lock().feed(bytes)
    }

    fn sign(&self, data: &[u8]) -> Result<Vec<u8>, String> {
        let session = self.asked(data).ok_or("it is no login with this key and account")?;
        self.proven(session)?;
        let signature = self.key.try_sign(data).map_err(|error| error.to_string())?;
        Vec::<u8>::try_from(signature).map_err(|error| error.to_string())
    }
}

impl Own {
    /// The session that `data` logs in on with our key (RFC 4252, section 7), if it is nothing else.
    fn asked<'a>(&self, mut data: &'a [u8]) -> Option<&'a [u8]> {
        let session = string(&mut data)?;
        let (kind, mut rest) = data.split_first()?;
        let (user, service) = (string(&mut rest)?, string(&mut rest)?);
        let method = string(&mut rest)?;
        let (signs, mut rest) = rest.split_first()?;
        let (algorithm, blob) = (string(&mut rest)?, string(&mut rest)?);
        let own = self.key.public_key().to_bytes().ok()?;
        let good = *kind == USERAUTH_REQUEST
            && user == self.account.as_bytes()
            && service == b"ssh-connection"
            && method == b"publickey"
            && *signs == 1
            && algorithm == self.key.algorithm().as_str().as_bytes()
            && blob == own
            && rest.is_empty();
        good.then_some(session)
    }

    /// The session is one with the host that was dialled, and that is the host that is known: it has
    /// signed the session's id itself, in clear, as we saw.
    fn proven(&self, session: &[u8]) -> Result<(), String> {
        let seen = self.seen.lock();
        let reply = seen.reply().map_err(|why| format!("the host is not known: {why}"))?;
        let shown = PublicKey::from_bytes(&reply.host_key).map(PublicKeyOrCertificate::from);
        let shown = shown.or_else(|_| {
            Certificate::from_bytes(&reply.host_key).map(PublicKeyOrCertificate::from)
        });
        let shown = shown.map_err(|_| "the host's key cannot be read")?;
        if !self.keys.knows(&shown, self.now) {
            return Err("the host's key is none that is pinned".into());
        }
        let signature = Signature::try_from(&reply.signature[..]);
        let signature = signature.map_err(|_| "the host's signature cannot be read")?;
        let verified = shown.public_key().key_data().verify(session, &signature);
        verified.map_err(|_| "the session is with another host".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seen::{put, tests::exchange};
    use bulla_host::Beside as _;
    use russh::keys::ssh_key::{LineEnding, certificate::CertType, private::Ed25519Keypair};

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::new(Ed25519Keypair::from_seed(&[seed; 32]).into(), "x").unwrap()
    }

    fn beside(login: TargetLogin) -> Beside {
        let name = format!("bulla-beside-{login:?}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let keys = HostKeys {
            pinned: vec![key(7).public_key().clone()],
            authorities: Vec::new(),
            name: "web".into(),
        };
        let made = Beside::open(&dir, vec!["deploy".into(), "root".into()], keys, login).unwrap();
        let _ = std::fs::remove_dir_all(dir);
        made
    }

    fn wishes(account: &str) -> Vec<(String, String)> {
        let own = key(1).public_key().to_openssh().unwrap();
        [(vouch::ACCOUNT, account), (vouch::KEY, &own), (vouch::SESSION, "bed|x\u{1b} session 1")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }

    fn said<'a>(vouch: &'a Vouch, word: &str) -> &'a str {
        vouch.told.iter().find(|(own, _)| own == word).map_or("", |(_, value)| value)
    }

    #[test]
    fn an_authority_certifies_the_gateways_key_for_an_account_that_is_named() {
        let host = beside(TargetLogin::Certificate);
        assert_eq!(host.keeping(), Keeping::Needless);
        let vouch = host.vouch(&wishes("root"), None, NOW).unwrap();
        let made = Certificate::from_openssh(said(&vouch, vouch::CERTIFICATE)).unwrap();
        assert_eq!(made.cert_type(), CertType::User);
        assert_eq!(made.public_key(), key(1).public_key().key_data());
        assert_eq!(made.valid_principals(), ["root"]);
        assert_eq!(made.key_id(), "bed|x session 1");
        let now = NOW.0 / 1_000_000_000;
        assert!(made.valid_before() <= now + 120 && made.valid_after() <= now);
        assert!(vouch.seal.is_none() && !said(&vouch, vouch::HOST_KEY).is_empty());
        for bad in [wishes("admin"), wishes(""), Vec::new(), [wishes("root"), wishes("x")].concat()]
        {
            assert!(host.vouch(&bad, None, NOW).is_err(), "{bad:?}");
        }
        let mut odd = wishes("root");
        odd[1].1 = "no key".into();
        assert!(host.vouch(&odd, None, NOW).is_err());
    }

    fn login(session: &[u8], user: &str, own: &PrivateKey) -> Vec<u8> {
        let mut data = Vec::new();
        put(&mut data, session);
        data.push(USERAUTH_REQUEST);
        for part in [user, "ssh-connection", "publickey"] {
            put(&mut data, part.as_bytes());
        }
        data.push(1);
        put(&mut data, b"ssh-ed25519");
        put(&mut data, &own.public_key().to_bytes().unwrap());
        data
    }

    /// What a host with the key of this seed says in clear, in a session with this id.
    fn clear(seed: u8, session: &[u8]) -> Vec<u8> {
        let signature = Vec::<u8>::try_from(key(seed).try_sign(session).unwrap()).unwrap();
        exchange(&key(seed).public_key().to_bytes().unwrap(), &signature)
    }

    #[test]
    fn a_key_signs_for_the_host_that_was_dialled_and_for_nothing_else() {
        let host = beside(TargetLogin::Key);
        assert_eq!(host.keeping(), Keeping::Kept);
        let own = key(3);
        let text = own.to_openssh(LineEnding::LF).unwrap();
        let secret = Secret::new(text.as_bytes().to_vec());
        let check = |seen: &[u8], data: &[u8]| {
            let vouch = host.vouch(&wishes("root"), Some(&secret), NOW).unwrap();
            assert!(vouch.told.iter().all(|(_, value)| !value.contains("PRIVATE")));
            let seal = vouch.seal.unwrap();
            seal.see(seen);
            seal.sign(data).map(|signature| {
                let signature = Signature::try_from(&signature[..]).unwrap();
                own.public_key().key_data().verify(data, &signature).unwrap();
            })
        };
        let (id, other) = ([5; 32], [6; 32]);
        let good = login(&id, "root", &own);
        assert_eq!(check(&clear(7, &id), &good), Ok(()));
        let no = |why: &str| Err(why.to_owned());
        let none = no("it is no login with this key and account");
        // A session with another host, another session with this one, and none at all.
        assert_eq!(check(&clear(8, &id), &good), no("the host's key is none that is pinned"));
        assert_eq!(check(&clear(7, &other), &good), no("the session is with another host"));
        assert_eq!(check(b"", &good), no("the host is not known: it has not said who it is"));
        // Another account, another key, more than a login, and something else altogether.
        assert_eq!(check(&clear(7, &id), &login(&id, "deploy", &own)), none);
        assert_eq!(check(&clear(7, &id), &login(&id, "root", &key(4))), none);
        assert_eq!(check(&clear(7, &id), &[&good[..], b"x"].concat()), none);
        assert_eq!(check(&clear(7, &id), b"a file to be signed"), none);
        let mut probe = good.clone();
        let at = good.len() - 4 - own.public_key().to_bytes().unwrap().len() - 16;
        assert_eq!(std::mem::replace(&mut probe[at], 0), 1);
        assert_eq!(check(&clear(7, &id), &probe), none);
        assert!(host.vouch(&wishes("root"), None, NOW).is_err());
        assert!(host.vouch(&wishes("root"), Some(&Secret::new(b"x".to_vec())), NOW).is_err());
    }

    #[test]
    fn a_password_is_handed_over_and_not_told() {
        let host = beside(TargetLogin::Password);
        assert_eq!(host.keeping(), Keeping::Given);
        let vouch = host.vouch(&wishes("deploy"), None, NOW).unwrap();
        assert_eq!(said(&vouch, vouch::LOGIN), vouch::BY_PASSWORD);
        assert!(vouch.seal.is_none());
    }
}
