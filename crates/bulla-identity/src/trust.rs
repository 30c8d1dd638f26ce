//! The authorities of each trust domain, and the check of a client's chain during the handshake.
//!
//! Trusted for whatever the domains are: who can write a bundle file can become any of its
//! workloads.
//!
//! **A certificate that names trust domain A must chain to an authority of A.** The roots are not
//! thrown together: the leaf's own SPIFFE id chooses the only roots that its chain is checked
//! against, so that an authority of B cannot vouch for anybody in A. An authority that stands in
//! two bundles would undo that, and is refused when the bundles are loaded.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    },
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::{
    config::{Bundle, Problem, TrustDomainConfig},
    fetch::{PEM_BYTES_MAX, pem_roots},
    spiffe::Leaf,
};

/// Most authorities of one trust domain.
pub const AUTHORITIES_MAX: usize = 64;
/// Most intermediate certificates that a client may send.
pub const INTERMEDIATES_MAX: usize = 8;

type Domains = HashMap<String, Arc<dyn ClientCertVerifier>>;

/// Checks clients' certificates for a TLS server; client authentication is offered, never demanded.
pub struct Trust {
    configured: Vec<TrustDomainConfig>,
    domains: ArcSwap<Domains>,
    /// The bundles that `domains` was made from, to tell whether they changed.
    loaded: Mutex<Vec<Vec<u8>>>,
    provider: Arc<CryptoProvider>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    /// Loads all bundles. Blocks on files.
    pub(crate) fn load(configured: &[TrustDomainConfig]) -> Result<Self, Vec<Problem>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let bundles = read_bundles(configured)?;
        let domains = build(configured, &bundles, &provider)?;
        Ok(Self {
            configured: configured.to_vec(),
            domains: ArcSwap::from_pointee(domains),
            loaded: Mutex::new(fingerprint(&bundles)),
            algorithms: provider.signature_verification_algorithms,
            provider,
        })
    }

    /// Reads the bundles again: true if they changed. If any is not good, all stay as they were.
    /// Blocks on files.
    pub fn reload(&self) -> Result<bool, Vec<Problem>> {
        let bundles = read_bundles(&self.configured)?;
        let fresh = fingerprint(&bundles);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if *loaded == fresh {
            return Ok(false);
        }
        let domains = build(&self.configured, &bundles, &self.provider)?;
        self.domains.store(Arc::new(domains));
        *loaded = fresh;
        Ok(true)
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.configured.iter().map(|c| &c.trust_domain)).finish()
    }
}

fn problem(config: &TrustDomainConfig, what: &str) -> Problem {
    Problem { path: format!("trust_domains.{}.bundle", config.alias), what: what.to_owned() }
}

fn read_bundles(configured: &[TrustDomainConfig]) -> Result<Vec<RootCertStore>, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut bundles = Vec::new();
    for config in configured {
        match read_bundle(&config.bundle) {
            Ok(bundle) => bundles.push(bundle),
            Err(what) => problems.push(problem(config, what)),
        }
    }
    if problems.is_empty() { Ok(bundles) } else { Err(problems) }
}

fn read_bundle(bundle: &Bundle) -> Result<RootCertStore, &'static str> {
    let roots = match bundle {
        Bundle::File(path) => {
            let size = std::fs::metadata(path).map_err(|_| "the file cannot be read")?.len();
            if size > PEM_BYTES_MAX as u64 {
                return Err("the file is too large");
            }
            let pem = std::fs::read(path).map_err(|_| "the file cannot be read")?;
            pem_roots(&pem).ok_or("the file does not hold certificates in PEM")?
        }
        Bundle::Der(certificates) => {
            let mut roots = RootCertStore::empty();
            for der in certificates {
                roots
                    .add(CertificateDer::from(der.to_vec()))
                    .map_err(|_| "a certificate cannot be read")?;
            }
            roots
        }
    };
    match roots.len() {
        0 => Err("there is no certificate in it"),
        n if n > AUTHORITIES_MAX => Err("there are too many certificates in it"),
        _ => Ok(roots),
    }
}

fn build(
    configured: &[TrustDomainConfig],
    bundles: &[RootCertStore],
    provider: &Arc<CryptoProvider>,
) -> Result<Domains, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut domains = Domains::new();
    let mut owners: HashMap<Vec<u8>, &str> = HashMap::new();
    for (config, bundle) in configured.iter().zip(bundles) {
        for root in &bundle.roots {
            let key = root.subject_public_key_info.as_ref().to_vec();
            let owner = owners.entry(key).or_insert(&config.trust_domain);
            if *owner != config.trust_domain {
                let what = format!("an authority of it also stands in the bundle of `{owner}`");
                problems.push(problem(config, &what));
            }
        }
        let roots = Arc::new(bundle.clone());
        match WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build() {
            Ok(verifier) => {
                domains.insert(config.trust_domain.clone(), verifier);
            }
            Err(_) => problems.push(problem(config, "no verifier can be made of it")),
        }
    }
    if problems.is_empty() { Ok(domains) } else { Err(problems) }
}

/// Subject and key of every authority, in order.
fn fingerprint(bundles: &[RootCertStore]) -> Vec<Vec<u8>> {
    let one = |bundle: &RootCertStore| {
        let mut out = Vec::new();
        for root in &bundle.roots {
            let constraints = root.name_constraints.as_ref().map_or(&[][..], |c| c.as_ref());
            for part in [root.subject.as_ref(), root.subject_public_key_info.as_ref(), constraints]
            {
                out.extend_from_slice(&(part.len() as u64).to_be_bytes());
                out.extend_from_slice(part);
            }
        }
        out
    };
    bundles.iter().map(one).collect()
}

/// Why a client's certificate is none, in words of ours alone.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unfit(&'static str);

impl ClientCertVerifier for Trust {
    fn offer_client_auth(&self) -> bool {
        !self.configured.is_empty()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// No hints: the bundles may change while the server runs, and a list of authorities tells a
    /// stranger who may come in.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let refuse = |why| {
            let why = OtherError(Arc::new(Unfit(why)));
            Error::InvalidCertificate(CertificateError::Other(why))
        };
        if intermediates.len() > INTERMEDIATES_MAX {
            return Err(refuse("too many certificates come with it"));
        }
        let leaf = Leaf::parse(end_entity).map_err(|refused| refuse(refused.why))?;
        let domains = self.domains.load();
        let domain = domains.get(&leaf.id.trust_domain);
        let domain = domain.ok_or_else(|| refuse("it is of no trust domain that is configured"))?;
        domain.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
