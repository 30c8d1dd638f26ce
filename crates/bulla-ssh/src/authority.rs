//! The gateway's own keys, and what it signs with them.
//!
//! Three authorities, because they are believed by different people: clients believe the *host*
//! authority, the gateway itself the *client* authority, targets the *target* authority. One key for
//! two of them would let a client's certificate open a target past the gateway.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use bulla_core::{
    Attribute, Boxed, Credential, CredentialKind, Digest, Identity, IdentityError, Origin,
    Principal, PrincipalId, PrincipalKind, Proof, Timestamp,
};
use russh::keys::ssh_key::{
    Certificate, HashAlg, LineEnding, PrivateKey, PublicKey,
    certificate::{Builder, CertType},
    private::Ed25519Keypair,
};
use serde::{Deserialize, Serialize};

/// Longest life of a certificate that opens the gateway.
pub const CLIENT_TTL_SECS_MAX: u64 = 15 * 60;
/// Life of a certificate that opens a target: used at once, and never again.
const TARGET_TTL_SECS: u64 = 120;
/// Life of the gateway's own host certificate; it is signed anew at half of it.
const HOST_TTL_SECS: u64 = 24 * 3_600;
/// What a certificate may be older than a clock that is slow.
const SLACK_SECS: u64 = 60;
/// The extension that carries a principal.
const PRINCIPAL: &str = "principal@bulla";
/// Largest extension that is read.
const PRINCIPAL_BYTES_MAX: usize = 64 << 10;

/// Why a key or a certificate cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("{path}: {error}")]
    File { path: PathBuf, error: io::Error },
    #[error("{path}: no OpenSSH key: {error}")]
    Key { path: PathBuf, error: russh::keys::ssh_key::Error },
    #[error("sign a certificate: {0}")]
    Sign(#[from] russh::keys::ssh_key::Error),
    #[error("encode a principal: {0}")]
    Principal(#[from] serde_json::Error),
    #[error("there is no randomness")]
    Random,
}

/// The gateway's keys. Kept in files that only its user can read.
pub struct Authority {
    pub host_key: PrivateKey,
    host: PrivateKey,
    client: PrivateKey,
    target: PrivateKey,
}

/// A principal as it stands in a certificate.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Carried {
    id: String,
    kind: String,
    issuer: String,
    groups: Vec<String>,
    attributes: BTreeMap<String, Value>,
    stale: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Value {
    Flag(bool),
    Number(i64),
    Text(String),
    Set(Vec<String>),
}

fn random<const N: usize>() -> Result<[u8; N], AuthorityError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| AuthorityError::Random)?;
    Ok(bytes)
}

fn seconds(now: Timestamp) -> u64 {
    now.0 / 1_000_000_000
}

/// Reads a key, or makes it.
fn key(dir: &Path, name: &str) -> Result<PrivateKey, AuthorityError> {
    let path = dir.join(name);
    let failed = |error| AuthorityError::File { path: path.clone(), error };
    match fs::read(&path) {
        Ok(text) => PrivateKey::from_openssh(&text)
            .map_err(|error| AuthorityError::Key { path: path.clone(), error }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let pair = Ed25519Keypair::from_seed(&random::<32>()?);
            let made = PrivateKey::new(pair.into(), format!("bulla {name}"))?;
            let text = made.to_openssh(LineEnding::LF)?;
            // Whole or not at all, and whoever comes second takes what the first one made.
            let draft = dir.join(format!(".{name}.{}", std::process::id()));
            let mut options = fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&draft).map_err(failed)?;
            file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
            let linked = fs::hard_link(&draft, &path);
            fs::remove_file(&draft).map_err(failed)?;
            match linked {
                Ok(()) => Ok(made),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => key(dir, name),
                Err(error) => Err(failed(error)),
            }
        }
        Err(error) => Err(failed(error)),
    }
}

pub fn line(key: &PrivateKey) -> Result<String, AuthorityError> {
    Ok(key.public_key().to_openssh()?)
}

/// Reads one key of a folder, or makes it.
pub fn own(dir: &Path, name: &str) -> Result<PrivateKey, AuthorityError> {
    let failed = |error| AuthorityError::File { path: dir.to_owned(), error };
    fs::create_dir_all(dir).map_err(failed)?;
    key(dir, name)
}

/// A key that is kept nowhere.
pub fn fresh(comment: &str) -> Result<PrivateKey, AuthorityError> {
    let pair = Ed25519Keypair::from_seed(&random::<32>()?);
    Ok(PrivateKey::new(pair.into(), comment)?)
}

fn build(
    public: &PublicKey,
    kind: CertType,
    now: Timestamp,
    ttl_secs: u64,
    id: &str,
) -> Result<Builder, AuthorityError> {
    let now = seconds(now);
    let (from, to) = (now.saturating_sub(SLACK_SECS), now.saturating_add(ttl_secs));
    let mut builder = Builder::new(random::<32>()?, public.key_data().clone(), from, to)?;
    builder.serial(u64::from_be_bytes(random::<8>()?))?;
    builder.cert_type(kind)?.key_id(id)?;
    Ok(builder)
}

/// A certificate with which whoever has the key opens one account of a target, soon.
pub fn certify(
    authority: &PrivateKey,
    public: &PublicKey,
    account: &str,
    id: &str,
    now: Timestamp,
) -> Result<Certificate, AuthorityError> {
    let mut builder = build(public, CertType::User, now, TARGET_TTL_SECS, id)?;
    builder.valid_principal(account)?;
    for right in ["permit-pty", "permit-port-forwarding"] {
        builder.extension(right, "")?;
    }
    Ok(builder.sign(authority)?)
}

impl Authority {
    /// Reads the keys in a folder; those that are not there are made.
    pub fn open(dir: &Path) -> Result<Self, AuthorityError> {
        fs::create_dir_all(dir)
            .map_err(|error| AuthorityError::File { path: dir.to_owned(), error })?;
        Ok(Self {
            host_key: key(dir, "host_key")?,
            host: key(dir, "host_ca")?,
            client: key(dir, "client_ca")?,
            target: key(dir, "target_ca")?,
        })
    }

    /// What clients believe: a line of `known_hosts` behind `@cert-authority PATTERN`.
    pub fn host_line(&self) -> Result<String, AuthorityError> {
        line(&self.host)
    }
    /// What targets believe: a line of `TrustedUserCAKeys`.
    pub fn target_line(&self) -> Result<String, AuthorityError> {
        line(&self.target)
    }

    /// The gateway's own certificate, good for names by which clients reach it.
    pub fn host(&self, names: &[String], now: Timestamp) -> Result<Certificate, AuthorityError> {
        let public = self.host_key.public_key();
        let mut builder = build(public, CertType::Host, now, HOST_TTL_SECS, "bulla gateway")?;
        for name in names {
            builder.valid_principal(name.as_str())?;
        }
        if names.is_empty() {
            builder.all_principals_valid()?;
        }
        Ok(builder.sign(&self.host)?)
    }

    /// A certificate with which a principal opens the gateway, for as long as what proved it is
    /// good and never longer than [`CLIENT_TTL_SECS_MAX`].
    pub fn client(
        &self,
        public: &PublicKey,
        principal: &Principal,
        now: Timestamp,
    ) -> Result<Certificate, AuthorityError> {
        let left = principal.proof.expires_at.ms_since(now) / 1_000;
        let ttl = left.min(CLIENT_TTL_SECS_MAX);
        let id = principal.id.as_str();
        let mut builder = build(public, CertType::User, now, ttl, id)?;
        builder.valid_principal(id)?;
        builder.extension(PRINCIPAL, serde_json::to_string(&carried(principal))?)?;
        for right in ["permit-pty", "permit-port-forwarding"] {
            builder.extension(right, "")?;
        }
        Ok(builder.sign(&self.client)?)
    }

    /// A key and a certificate with which the gateway opens one account of a target, for one
    /// session.
    pub fn target(
        &self,
        account: &str,
        id: &str,
        now: Timestamp,
    ) -> Result<(PrivateKey, Certificate), AuthorityError> {
        let key = fresh("bulla")?;
        let certificate = certify(&self.target, key.public_key(), account, id, now)?;
        Ok((key, certificate))
    }

    /// Whom a certificate of [`Authority::client`] names. Its holder's proof of the key was checked
    /// by whoever took the certificate.
    fn read(&self, bytes: &[u8], now: Timestamp) -> Result<Principal, IdentityError> {
        let refused = |word: &'static str, detail: &str| IdentityError {
            word,
            detail: detail.to_owned().into(),
        };
        let malformed = |what: &str| refused("malformed", what);
        let certificate =
            Certificate::from_bytes(bytes).map_err(|_| malformed("no certificate can be read"))?;
        if certificate.cert_type() != CertType::User {
            return Err(malformed("it is no certificate of a user"));
        }
        let own = self.client.public_key().key_data();
        if certificate.signature_key() != own || certificate.verify_signature().is_err() {
            return Err(refused("bad_signature", "another authority signed the certificate"));
        }
        let (from, to) = (certificate.valid_after(), certificate.valid_before());
        let at = seconds(now);
        if at < from || at >= to || to.saturating_sub(from) > CLIENT_TTL_SECS_MAX + SLACK_SECS {
            return Err(refused("expired", "the certificate is not good now"));
        }
        if certificate.critical_options().iter().next().is_some() {
            return Err(malformed("the certificate has conditions, and none is known"));
        }
        let carried = certificate.extensions().get(PRINCIPAL);
        let carried = carried.filter(|text| text.len() <= PRINCIPAL_BYTES_MAX);
        let carried = carried.and_then(|text| serde_json::from_str::<Carried>(text).ok());
        let carried = carried.ok_or_else(|| malformed("the certificate names no principal"))?;
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
        let print = certificate.public_key().fingerprint(HashAlg::Sha256).to_string();
        let tail = print.get(print.len().saturating_sub(4)..).unwrap_or_default();
        let proof = Proof {
            kind: CredentialKind::Minted,
            hash: Digest(hash),
            jti: None,
            kid_tail: Some(tail.into()),
            issued_at: Timestamp(from.saturating_mul(1_000_000_000)),
            expires_at: Timestamp(to.saturating_mul(1_000_000_000)),
            verified_at: now,
            bound: true,
            jwks_stale: carried.stale,
        };
        let known = principal(carried, proof);
        known
            .filter(|known| known.id.as_str() == certificate.key_id())
            .ok_or_else(|| malformed("the certificate names no principal"))
    }
}

fn carried(principal: &Principal) -> Carried {
    let value = |attribute: &Attribute| match attribute {
        Attribute::Text(text) => Value::Text(text.to_string()),
        Attribute::Flag(flag) => Value::Flag(*flag),
        Attribute::Number(number) => Value::Number(*number),
        Attribute::Set(set) => Value::Set(set.iter().map(|text| text.to_string()).collect()),
    };
    let attributes = principal.attributes.iter().map(|(name, a)| (name.to_string(), value(a)));
    Carried {
        id: principal.id.as_str().to_owned(),
        kind: principal.kind.as_str().to_owned(),
        issuer: principal.issuer.to_string(),
        groups: principal.groups.iter().map(|group| group.to_string()).collect(),
        attributes: attributes.collect(),
        stale: principal.proof.jwks_stale,
    }
}

fn principal(from: Carried, proof: Proof) -> Option<Principal> {
    let (issuer, subject) = from.id.split_once('|')?;
    let attribute = |value: Value| match value {
        Value::Text(text) => Attribute::Text(text.into()),
        Value::Flag(flag) => Attribute::Flag(flag),
        Value::Number(number) => Attribute::Number(number),
        Value::Set(set) => Attribute::Set(set.into_iter().map(Into::into).collect()),
    };
    Some(Principal {
        id: PrincipalId::new(issuer, subject).ok()?,
        kind: match from.kind.as_str() {
            "human" => PrincipalKind::Human,
            "workload" => PrincipalKind::Workload,
            _ => return None,
        },
        issuer: from.issuer.into(),
        groups: from.groups.into_iter().map(Into::into).collect(),
        attributes: from.attributes.into_iter().map(|(n, v)| (n.into(), attribute(v))).collect(),
        proof,
    })
}

impl Identity for Authority {
    fn verify<'a>(
        &'a self,
        credential: Credential,
        _origin: &'a Origin,
        now: Timestamp,
    ) -> Boxed<'a, Result<Principal, IdentityError>> {
        Box::pin(async move {
            match credential {
                Credential::Minted(bytes) => self.read(&bytes, now),
                _ => Err(IdentityError {
                    word: "malformed",
                    detail: "it is no certificate that this gateway minted".into(),
                }),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);

    fn somebody(expires: u64) -> Principal {
        Principal {
            id: PrincipalId::new("bed", "billing/api").unwrap(),
            kind: PrincipalKind::Workload,
            issuer: "https://issuer".into(),
            groups: vec!["team:billing".into()],
            attributes: BTreeMap::from([
                ("level".into(), Attribute::Number(3)),
                ("tags".into(), Attribute::Set(vec!["a".into()])),
            ]),
            proof: Proof {
                kind: CredentialKind::Jwt,
                hash: Digest::ZERO,
                jti: None,
                kid_tail: None,
                issued_at: NOW,
                expires_at: NOW.plus_ms(expires * 1_000),
                verified_at: NOW,
                bound: false,
                jwks_stale: true,
            },
        }
    }

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("bulla-ssh-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn keys_are_made_once_and_kept_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = folder("keys");
        let (one, two) = (Authority::open(&dir).unwrap(), Authority::open(&dir).unwrap());
        assert_eq!(one.host_line().unwrap(), two.host_line().unwrap());
        let lines = [one.host_line(), one.target_line(), line(&one.client), line(&one.host_key)];
        let lines: Vec<_> = lines.into_iter().map(Result::unwrap).collect();
        let distinct: std::collections::BTreeSet<_> = lines.iter().collect();
        assert_eq!(distinct.len(), 4, "no key serves two ends");
        for file in fs::read_dir(&dir).unwrap() {
            let mode = file.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_client_is_who_the_certificate_says_for_as_long_as_it_is_good() {
        let dir = folder("client");
        let authority = Authority::open(&dir).unwrap();
        let own = PrivateKey::new(Ed25519Keypair::from_seed(&[7; 32]).into(), "x").unwrap();
        let before = somebody(3_600);
        let made = authority.client(own.public_key(), &before, NOW).unwrap();
        let bytes = made.to_bytes().unwrap();
        let read = authority.read(&bytes, NOW).unwrap();
        assert_eq!((&read.id, &read.groups), (&before.id, &before.groups));
        assert_eq!(read.attributes, before.attributes);
        assert_eq!(read.proof.kind, CredentialKind::Minted);
        assert!(read.proof.jwks_stale && read.proof.bound);
        let word = |bytes: &[u8], now| authority.read(bytes, now).unwrap_err().word;
        let end = NOW.plus_ms(CLIENT_TTL_SECS_MAX * 1_000);
        assert!(authority.read(&bytes, NOW.plus_ms(CLIENT_TTL_SECS_MAX * 1_000 - 1_000)).is_ok());
        assert_eq!(word(&bytes, end), "expired");
        let before_begin = Timestamp(NOW.0 - (SLACK_SECS + 1) * 1_000_000_000);
        assert_eq!(word(&bytes, before_begin), "expired");
        let mut forged = bytes.clone();
        let at = forged.windows(7).position(|w| w == b"billing").unwrap();
        forged[at] = b'B';
        assert_eq!(word(&forged, NOW), "bad_signature");
        // A token that ends sooner takes its certificate with it.
        let short = authority.client(own.public_key(), &somebody(60), NOW).unwrap();
        assert_eq!(word(&short.to_bytes().unwrap(), NOW.plus_ms(61_000)), "expired");
        // Certificates for targets and of hosts open nothing here.
        let (_, target) = authority.target("root", "x", NOW).unwrap();
        assert_eq!(word(&target.to_bytes().unwrap(), NOW), "bad_signature");
        let host = authority.host(&[], NOW).unwrap();
        assert_eq!(word(&host.to_bytes().unwrap(), NOW), "malformed");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_the_client_authority_signs_otherwise_opens_nothing() {
        let dir = folder("odd");
        let authority = Authority::open(&dir).unwrap();
        let own = PrivateKey::new(Ed25519Keypair::from_seed(&[7; 32]).into(), "x").unwrap();
        let principal = serde_json::to_string(&carried(&somebody(60))).unwrap();
        let make = |ttl, change: &dyn Fn(&mut Builder)| {
            let public = own.public_key();
            let id = "bed|billing/api";
            let mut builder = build(public, CertType::User, NOW, ttl, id).unwrap();
            builder.all_principals_valid().unwrap();
            change(&mut builder);
            builder.sign(&authority.client).unwrap().to_bytes().unwrap()
        };
        let good = |builder: &mut Builder| {
            builder.extension(PRINCIPAL, principal.as_str()).unwrap();
        };
        assert!(authority.read(&make(60, &good), NOW).is_ok());
        for bytes in [
            make(3_600, &good),
            make(60, &|_| {}),
            make(60, &|b| {
                good(b);
                b.critical_option("force-command", "true").unwrap();
            }),
            make(60, &|b| {
                let other = principal.replace("billing/api", "other");
                b.extension(PRINCIPAL, other).unwrap();
            }),
            b"".to_vec(),
            vec![0xff; 100],
        ] {
            assert!(authority.read(&bytes, NOW).is_err());
        }
        fs::remove_dir_all(dir).unwrap();
    }
}
