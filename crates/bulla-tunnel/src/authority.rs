//! The gateway's internal authority. It vouches for this gateway toward its agents, and for its
//! agents toward this gateway, and for nobody else.
//!
//! Key and certificate stand in one file of the data folder, mode 0600. Whoever reads it can become
//! any agent that the roster knows, so it is kept where the log's own key is kept.

use std::{io, path::Path, sync::Arc, time::Duration};

use bulla_core::{Digest, Timestamp};
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
/// The authority itself; its key can be replaced by enrolling every agent anew.
const LIFE: Duration = Duration::from_secs(3_650 * 86_400);
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
}

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    pin: Digest,
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
        let pem = match found.map_err(|error| AuthorityError::File(shown(), error))? {
            Some(pem) => pem,
            None => {
                let pem = Self::make(gateway, now)?;
                let written = private::write(path, pem.as_bytes());
                written.map_err(|error| AuthorityError::File(shown(), error))?;
                pem.into_bytes()
            }
        };
        Self::parse(&pem).map_err(|why| AuthorityError::Malformed(shown(), why))
    }

    fn make(gateway: &str, now: Timestamp) -> Result<String, AuthorityError> {
        let key = KeyPair::generate()?;
        let tag = random::<4>().ok_or(AuthorityError::NoRandomness)?;
        let tag: String = tag.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut params = named(&format!("bulla agents of {gateway} {tag}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        life(&mut params, now, LIFE);
        let certificate = params.self_signed(&key)?;
        Ok(key.serialize_pem() + &certificate.pem())
    }

    fn parse(pem: &[u8]) -> Result<Self, &'static str> {
        let certificate = CertificateDer::from_pem_slice(pem).map_err(|_| "no certificate")?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| "no key")?;
        let key = KeyPair::try_from(&key).map_err(|_| "a key of an unknown kind")?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|_| "no certificate")?;
        let spki = parsed.public_key();
        if spki.subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err("key and certificate do not belong together");
        }
        let pin = sha256(spki.raw);
        let issuer = Issuer::from_ca_cert_der(&certificate, key);
        let issuer = issuer.map_err(|_| "a certificate of an unknown kind")?;
        let pem = pem_of(&certificate);
        Ok(Self { issuer, certificate, pem, pin })
    }

    /// SHA-256 of the authority's public key: what an agent pins.
    pub fn pin(&self) -> Digest {
        self.pin
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, AuthorityError> {
        let mut roots = RootCertStore::empty();
        let added = roots.add(self.certificate.clone());
        added.map_err(|error| AuthorityError::Tls(error.to_string()))?;
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
        // With the authority, so that an agent that holds its pin only can check the chain.
        let chain = vec![leaf.der().clone(), self.certificate.clone()];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?;
        let builder = match (kind == alpn::ENROL, clients) {
            (true, None) => builder.with_no_client_auth(),
            (true, Some(clients)) => builder.with_client_cert_verifier(clients.clone()),
            (false, _) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(self.roots()?, provider());
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
