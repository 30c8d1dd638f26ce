//! The gateway's internal authority. It vouches for this gateway toward its agents, and for its
//! agents toward this gateway, and for nobody else.
//!
//! Key and certificate stand in one file of the data folder, mode 0600. Whoever reads it can become
//! any agent that the roster knows, so it is kept where the log's own key is kept.
//!
//! The key can be replaced in place. The old one is forgotten at once, but signs the new one before:
//! until the last certificate of the old authority has ended, agents that know only the old one
//! believe the new one by that signature, and the gateway takes certificates of both.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bulla_core::{Digest, Secret, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject,
};

use crate::{
    CERTIFICATE_TTL_MAX, GATEWAY_NAME, alpn, private,
    roster::{InstanceId, Member},
    token::{random, sha256},
};

/// Longest file.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// The authority itself; its key can be replaced before.
const LIFE: Duration = Duration::from_secs(3_650 * 86_400);
/// Authorities that were replaced and are still believed.
const RETIRED_MAX: usize = 4;
/// Clocks differ.
const BACKDATE: Duration = Duration::from_secs(300);
/// URI of an agent's certificate: `bulla:agent:<name>:<instance>`.
const AGENT_URI: &str = "bulla:agent:";

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("the agents' authority in `{0}`: {1}")]
    File(String, io::Error),
    #[error("`{0}` does not hold the agents' authority: {1}")]
    Malformed(String, &'static str),
    #[error("make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("the system has no randomness")]
    NoRandomness,
    #[error("TLS: {0}")]
    Tls(String),
    #[error("the request for a certificate is not signed by its own key, or cannot be read")]
    Request,
    #[error("make an authority: {0}")]
    Made(&'static str),
    #[error("{RETIRED_MAX} authorities were replaced within a day; wait, or replace it at once")]
    Often,
}

/// What becomes of an authority that is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Old {
    /// It is believed until the last certificate of its agents has ended.
    Runs,
    /// It is believed no more: whoever has stolen its key is out, and every agent enrols anew.
    Ends,
}

pub struct Authority {
    path: PathBuf,
    /// Its private key, in PEM, to be written.
    key: Secret,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    pin: Digest,
    retired: Vec<Retired>,
}

/// An authority that was replaced.
#[derive(Debug, Clone)]
struct Retired {
    certificate: CertificateDer<'static>,
    /// Its successor, as it signed it: good for as long as it is believed.
    cross: CertificateDer<'static>,
    until: Timestamp,
}

impl Retired {
    fn read(
        certificate: &CertificateDer<'static>,
        cross: &CertificateDer<'static>,
    ) -> Result<Self, &'static str> {
        let (_, parsed) = x509_parser::parse_x509_certificate(cross)
            .map_err(|_| "a malformed certificate of its predecessor")?;
        let until = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
        let (certificate, cross) = (certificate.clone(), cross.clone());
        Ok(Self { certificate, cross, until: Timestamp::from_secs(until) })
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A certificate's life, from a little before `now`.
fn life(params: &mut CertificateParams, now: Timestamp, ttl: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now.secs()).saturating_sub(BACKDATE);
    params.not_after = epoch + Duration::from_secs(now.secs()).saturating_add(ttl);
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Authority {
    /// Loads the authority from `path`, or makes it. Blocks on files.
    pub fn open(path: &Path, gateway: &str, now: Timestamp) -> Result<Self, AuthorityError> {
        let shown = || path.display().to_string();
        let found = private::read(path, FILE_BYTES_MAX);
        match found.map_err(|error| AuthorityError::File(shown(), error))? {
            Some(pem) => {
                Self::parse(path, &pem).map_err(|why| AuthorityError::Malformed(shown(), why))
            }
            None => {
                let made = Self::make(path, gateway, now)?;
                made.keep()?;
                Ok(made)
            }
        }
    }

    fn params(gateway: &str, now: Timestamp) -> Result<CertificateParams, AuthorityError> {
        let tag = random::<4>().ok_or(AuthorityError::NoRandomness)?;
        let tag: String = tag.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut params = named(&format!("bulla agents of {gateway} {tag}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        life(&mut params, now, LIFE);
        Ok(params)
    }

    fn make(path: &Path, gateway: &str, now: Timestamp) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let made = Self::params(gateway, now)?.self_signed(&key)?;
        Self::new(path, key, made.der().clone(), Vec::new()).map_err(AuthorityError::Made)
    }

    fn new(
        path: &Path,
        key: KeyPair,
        certificate: CertificateDer<'static>,
        retired: Vec<Retired>,
    ) -> Result<Self, &'static str> {
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|_| "no certificate")?;
        let spki = parsed.public_key();
        if spki.subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err("key and certificate do not belong together");
        }
        let pin = sha256(spki.raw);
        let private = Secret::new(key.serialize_pem().into_bytes());
        let issuer = Issuer::from_ca_cert_der(&certificate, key);
        let issuer = issuer.map_err(|_| "a certificate of an unknown kind")?;
        let (path, pem) = (path.to_owned(), pem_of(&certificate));
        Ok(Self { path, key: private, issuer, certificate, pem, pin, retired })
    }

    fn parse(path: &Path, pem: &[u8]) -> Result<Self, &'static str> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| "no key")?;
        let key = KeyPair::try_from(&key).map_err(|_| "a key of an unknown kind")?;
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let all = all.map_err(|_| "no certificate")?;
        let (own, before) = all.split_first().ok_or("no certificate")?;
        let (pairs, odd) = before.as_chunks::<2>();
        if !odd.is_empty() {
            return Err("half of its predecessor");
        }
        let retired: Result<Vec<_>, _> =
            pairs.iter().map(|[certificate, cross]| Retired::read(certificate, cross)).collect();
        Self::new(path, key, own.clone(), retired?)
    }

    /// Writes it to its file: key, certificate, and two certificates for each predecessor. Blocks.
    pub fn keep(&self) -> Result<(), AuthorityError> {
        let mut pem = self.key.reveal().to_vec();
        pem.extend_from_slice(self.pem.as_bytes());
        for one in &self.retired {
            pem.extend_from_slice(pem_of(&one.certificate).as_bytes());
            pem.extend_from_slice(pem_of(&one.cross).as_bytes());
        }
        let pem = Secret::new(pem);
        let written = private::write(&self.path, pem.reveal());
        written.map_err(|error| AuthorityError::File(self.path.display().to_string(), error))
    }

    /// A new authority in place of this one. It is in force once it was kept; this one's key is
    /// gone then.
    pub fn successor(
        &self,
        gateway: &str,
        old: Old,
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        if old == Old::Ends {
            return Self::make(&self.path, gateway, now);
        }
        let mut retired: Vec<_> = self.believed(now).cloned().collect();
        if retired.len() >= RETIRED_MAX {
            return Err(AuthorityError::Often);
        }
        let (key, params) = (KeyPair::generate()?, Self::params(gateway, now)?);
        let made = params.self_signed(&key)?;
        let mut cross = params;
        cross.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        cross.use_authority_key_identifier_extension = true;
        life(&mut cross, now, CERTIFICATE_TTL_MAX);
        let cross = cross.signed_by(&key, &self.issuer)?.der().clone();
        let until = Timestamp::from_secs(now.secs() + CERTIFICATE_TTL_MAX.as_secs());
        retired.push(Retired { certificate: self.certificate.clone(), cross, until });
        Self::new(&self.path, key, made.der().clone(), retired).map_err(AuthorityError::Made)
    }

    /// Predecessors that are still believed.
    fn believed(&self, now: Timestamp) -> impl Iterator<Item = &Retired> {
        self.retired.iter().filter(move |one| one.until > now)
    }

    /// When the next of its predecessors is believed no more.
    pub fn changes(&self, now: Timestamp) -> Option<Timestamp> {
        self.believed(now).map(|one| one.until).min()
    }

    /// SHA-256 of the authority's public key: what an agent pins.
    pub fn pin(&self) -> Digest {
        self.pin
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    fn roots(&self, now: Timestamp) -> Result<Arc<RootCertStore>, AuthorityError> {
        let mut roots = RootCertStore::empty();
        let before = self.believed(now).map(|one| &one.certificate);
        for certificate in before.chain([&self.certificate]) {
            let added = roots.add(certificate.clone());
            added.map_err(|error| AuthorityError::Tls(error.to_string()))?;
        }
        Ok(Arc::new(roots))
    }

    /// Whether a request can be read and is signed by its own key.
    pub fn verify_request(csr: &[u8]) -> Result<(), AuthorityError> {
        let csr = CertificateSigningRequestDer::from(csr);
        let read = CertificateSigningRequestParams::from_der(&csr);
        read.map(drop).map_err(|_| AuthorityError::Request)
    }

    /// Signs the key of a request for `member`. Whatever else the request asks for is left out.
    pub fn certify(
        &self,
        csr: &[u8],
        member: &Member,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<String, AuthorityError> {
        let csr = CertificateSigningRequestDer::from(csr);
        let request = CertificateSigningRequestParams::from_der(&csr);
        let mut request = request.map_err(|_| AuthorityError::Request)?;
        let mut params = named(&member.name);
        let uri = format!("{AGENT_URI}{}:{}", member.name, member.instance);
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        life(&mut params, now, ttl.min(CERTIFICATE_TTL_MAX));
        request.params = params;
        Ok(request.signed_by(&self.issuer)?.pem())
    }

    /// TLS for one kind of connection, by its ALPN name. `clients` checks a client's certificate
    /// where one may be shown for enrolment.
    pub fn server(
        &self,
        kind: &'static [u8],
        clients: Option<&Arc<dyn ClientCertVerifier>>,
        now: Timestamp,
    ) -> Result<ServerConfig, AuthorityError> {
        let tls = |error: rustls::Error| AuthorityError::Tls(error.to_string());
        let key = KeyPair::generate()?;
        let mut params = named(GATEWAY_NAME);
        params.subject_alt_names = vec![SanType::DnsName(GATEWAY_NAME.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        life(&mut params, now, CERTIFICATE_TTL_MAX);
        let leaf = params.signed_by(&key, &self.issuer)?;
        // With the authority, so that an agent that holds its pin only can check the chain; and with
        // what leads to it from each predecessor.
        let mut chain = vec![leaf.der().clone(), self.certificate.clone()];
        chain.extend(self.believed(now).flat_map(|one| [&one.cross, &one.certificate]).cloned());
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?;
        let builder = match (kind == alpn::ENROL, clients) {
            (true, None) => builder.with_no_client_auth(),
            (true, Some(clients)) => builder.with_client_cert_verifier(clients.clone()),
            (false, _) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(self.roots(now)?, provider());
                let verifier = verifier.build();
                let verifier = verifier.map_err(|error| AuthorityError::Tls(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut server = builder.with_single_cert(chain, key).map_err(tls)?;
        server.alpn_protocols = vec![kind.to_vec()];
        // A resumed session would not be checked against today's roster and bundles.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(server)
    }
}

/// Who a certificate is of. Only for one that chains to our authority.
pub fn member(certificate: &CertificateDer<'_>) -> Option<Member> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    let [x509_parser::extensions::GeneralName::URI(uri)] = names.value.general_names[..] else {
        return None;
    };
    let (name, instance) = uri.strip_prefix(AGENT_URI)?.split_once(':')?;
    Some(Member { name: name.into(), instance: InstanceId::parse(instance)? })
}

pub fn pem_of(certificate: &CertificateDer<'_>) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(certificate);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while let Some((line, more)) = rest.split_at_checked(64) {
        out.push_str(line);
        out.push('\n');
        rest = more;
    }
    if !rest.is_empty() {
        out.push_str(rest);
        out.push('\n');
    }
    out + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn open(name: &str) -> Authority {
        let dir = std::env::temp_dir().join(format!("bulla-ca-{name}-{}", std::process::id()));
        private::folder(&dir).unwrap();
        let path = dir.join("authority.pem");
        let made = Authority::open(&path, "gw", NOW).unwrap();
        let again = Authority::open(&path, "gw", NOW).unwrap();
        assert_eq!((made.pin(), made.pem()), (again.pin(), again.pem()));
        std::fs::write(&path, "-----BEGIN X-----").unwrap();
        assert!(Authority::open(&path, "gw", NOW).is_err());
        std::fs::remove_dir_all(dir).unwrap();
        made
    }

    fn certified(
        test: &str,
        csr: &[u8],
        ttl: Duration,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let member = Member {
            name: "eu-1".into(),
            instance: InstanceId::parse("00ff00ff00ff00ff").unwrap(),
        };
        let pem = open(test).certify(csr, &member, NOW, ttl)?;
        Ok(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
    }

    #[test]
    fn a_request_gives_its_key_and_nothing_else() {
        let key = KeyPair::generate().unwrap();
        // It would like to be another agent, an authority, a server, and to live for years.
        let mut wish = named("payments");
        wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        wish.subject_alt_names = vec![
            SanType::URI("bulla:agent:payments:ffffffffffffffff".try_into().unwrap()),
            SanType::DnsName(GATEWAY_NAME.try_into().unwrap()),
        ];
        wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let csr = wish.serialize_request(&key).unwrap();
        let made = certified("key", csr.der(), Duration::from_secs(86_400 * 365)).unwrap();
        let member = member(&made).unwrap();
        assert_eq!((&*member.name, member.instance.as_str()), ("eu-1", "00ff00ff00ff00ff"));
        let (_, parsed) = x509_parser::parse_x509_certificate(&made).unwrap();
        assert!(!parsed.is_ca());
        let usage = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any);
        let ends = parsed.validity().not_after.timestamp();
        assert_eq!(ends, 1_800_000_000 + 86_400);
        assert_eq!(parsed.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
    }

    #[test]
    fn a_predecessor_is_believed_for_a_day_and_survives_a_restart() {
        let dir = std::env::temp_dir().join(format!("bulla-ca-next-{}", std::process::id()));
        private::folder(&dir).unwrap();
        let path = dir.join("authority.pem");
        let first = Authority::open(&path, "gw", NOW).unwrap();
        let second = first.successor("gw", Old::Runs, NOW).unwrap();
        assert_ne!(second.pin(), first.pin());
        second.keep().unwrap();
        let again = Authority::open(&path, "gw", NOW).unwrap();
        assert_eq!((again.pin(), again.retired.len()), (second.pin(), 1));
        let key = first.key.reveal();
        assert!(!std::fs::read(&path).unwrap().windows(key.len()).any(|part| part == key));
        let day = Timestamp::from_secs(NOW.secs() + 86_400);
        let roots = |now| again.roots(now).unwrap().len();
        assert_eq!((roots(NOW), roots(day)), (2, 1));
        assert_eq!((again.changes(NOW), again.changes(day)), (Some(day), None));
        // What is over is forgotten at the next change; what comes too often is refused.
        let mut last = again.successor("gw", Old::Runs, day).unwrap();
        assert_eq!(last.retired.len(), 1);
        for _ in 1..RETIRED_MAX {
            last = last.successor("gw", Old::Runs, day).unwrap();
        }
        assert!(matches!(last.successor("gw", Old::Runs, day), Err(AuthorityError::Often)));
        assert_eq!(last.successor("gw", Old::Ends, day).unwrap().retired.len(), 0);
        let mut half = std::fs::read_to_string(&path).unwrap();
        half.truncate(half.rfind("-----BEGIN").unwrap());
        std::fs::write(&path, half).unwrap();
        assert!(Authority::open(&path, "gw", NOW).is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_request_must_be_signed_by_its_own_key() {
        let key = KeyPair::generate().unwrap();
        let mut csr = named("x").serialize_request(&key).unwrap().der().to_vec();
        if let Some(last) = csr.last_mut() {
            *last ^= 1;
        }
        assert!(certified("signed", &csr, Duration::from_secs(60)).is_err());
        assert!(certified("empty", b"", Duration::from_secs(60)).is_err());
    }
}
