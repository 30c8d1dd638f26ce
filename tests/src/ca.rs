//! A certificate authority that lives as long as a test.
//!
//! Keys are ECDSA P-256; certificates are valid from an hour ago for a day, unless a test wants
//! them otherwise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::place::TempDir;

/// A root that signs. Cheap to clone; clones are the same authority.
#[derive(Clone, Debug)]
pub struct Authority {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    params: CertificateParams,
    key: KeyPair,
    certificate: rcgen::Certificate,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The certificate alone.
    pub cert_pem: String,
    pub key_pem: String,
    pub cert_der: CertificateDer<'static>,
    key_der: Vec<u8>,
}

/// What a leaf is for, and what is wrong with it.
#[derive(Clone, Debug)]
pub struct Wish {
    common_name: String,
    names: Vec<SanType>,
    usage: ExtendedKeyUsagePurpose,
    /// Seconds from now; negative is the past.
    valid: (i64, i64),
}

impl Wish {
    /// A server under `localhost`, `127.0.0.1` and `::1`.
    ///
    /// # Errors
    /// Never: the names are constants.
    pub fn server() -> Result<Self> {
        Self::server_named(&["localhost"])
    }

    /// A server under the given DNS names and the loopback addresses.
    ///
    /// # Errors
    /// A name is not ASCII.
    pub fn server_named(dns: &[&str]) -> Result<Self> {
        let mut names = vec![
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        ];
        for name in dns {
            names.push(SanType::DnsName((*name).try_into().context("a DNS name")?));
        }
        let common_name = dns.first().copied().unwrap_or("localhost").to_owned();
        Ok(Self::new(common_name, names, ExtendedKeyUsagePurpose::ServerAuth))
    }

    /// A client known by its common name, as PostgreSQL's `cert` method wants.
    pub fn client(common_name: &str) -> Self {
        Self::new(common_name.to_owned(), vec![], ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A workload with a SPIFFE id (`spiffe://trust-domain/path`).
    ///
    /// # Errors
    /// The id is not ASCII.
    pub fn spiffe(id: &str) -> Result<Self> {
        let mut wish = Self::client("workload");
        wish.names.push(SanType::URI(id.try_into().context("a SPIFFE id")?));
        Ok(wish)
    }

    /// A further URI name: two of them make no valid SPIFFE certificate.
    ///
    /// # Errors
    /// The URI is not ASCII.
    pub fn and_uri(mut self, uri: &str) -> Result<Self> {
        self.names.push(SanType::URI(uri.try_into().context("a URI")?));
        Ok(self)
    }

    /// Valid between two moments, in seconds from now.
    #[must_use]
    pub fn valid(mut self, from: i64, until: i64) -> Self {
        self.valid = (from, until);
        self
    }

    /// Expired an hour ago.
    #[must_use]
    pub fn expired(self) -> Self {
        self.valid(-7200, -3600)
    }

    fn new(common_name: String, names: Vec<SanType>, usage: ExtendedKeyUsagePurpose) -> Self {
        Self { common_name, names, usage, valid: (-3600, 24 * 3600) }
    }
}

impl Authority {
    /// # Errors
    /// The cryptography library refuses.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, (-3600, 48 * 3600))?;
        let key = KeyPair::generate().context("generate a key")?;
        let certificate = params.self_signed(&key).context("sign a root")?;
        Ok(Self { inner: Arc::new(Inner { params, key, certificate }) })
    }

    /// The root that clients must trust.
    pub fn pem(&self) -> String {
        self.inner.certificate.pem()
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.inner.certificate.der().clone()
    }

    /// Makes a key and signs a certificate for it.
    ///
    /// # Errors
    /// The cryptography library refuses.
    pub fn issue(&self, wish: &Wish) -> Result<Leaf> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, wish.common_name.as_str());
        params.subject_alt_names.clone_from(&wish.names);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![wish.usage.clone()];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, wish.valid)?;
        let key = KeyPair::generate().context("generate a key")?;
        let issuer = Issuer::from_params(&self.inner.params, &self.inner.key);
        let certificate = params.signed_by(&key, &issuer).context("sign a certificate")?;
        Ok(Leaf {
            cert_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            cert_der: certificate.der().clone(),
            key_der: key.serialize_der(),
        })
    }

    /// Trusts this authority alone.
    ///
    /// # Errors
    /// The root is not a certificate.
    pub fn roots(&self) -> Result<rustls::RootCertStore> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.der()).context("trust the root")?;
        Ok(roots)
    }
}

impl Leaf {
    pub fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key_der.clone()))
    }

    /// Writes `NAME.pem` and `NAME.key`, and returns both paths.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, dir: &TempDir, name: &str) -> Result<(PathBuf, PathBuf)> {
        let cert = dir.write(&format!("{name}.pem"), &self.cert_pem)?;
        let key = dir.write(&format!("{name}.key"), &self.key_pem)?;
        Ok((cert, key))
    }
}

/// Sets both ends, in seconds from now.
fn set_validity(params: &mut CertificateParams, (from, until): (i64, i64)) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock after 1970")?;
    let at = |offset: i64| {
        let by = Duration::from_secs(offset.unsigned_abs());
        let since = if offset < 0 { now.saturating_sub(by) } else { now + by };
        rcgen::date_time_ymd(1970, 1, 1) + since
    };
    params.not_before = at(from);
    params.not_after = at(until);
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    fn verify(authority: &Authority, leaf: &Leaf, name: &str) -> bool {
        crate::crypto();
        let roots = Arc::new(authority.roots().unwrap());
        let verifier = WebPkiServerVerifier::builder(roots).build().unwrap();
        let name = ServerName::try_from(name).unwrap();
        verifier.verify_server_cert(&leaf.cert_der, &[], &name, &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn certificates_verify_or_not_as_wished() {
        let (ours, other) = (Authority::new("ours").unwrap(), Authority::new("other").unwrap());
        let good = ours.issue(&Wish::server().unwrap()).unwrap();
        assert!(verify(&ours, &good, "localhost"));
        assert!(verify(&ours, &good, "127.0.0.1"));
        assert!(!verify(&ours, &good, "example.com"));
        assert!(!verify(&other, &good, "localhost"));
        let old = ours.issue(&Wish::server().unwrap().expired()).unwrap();
        assert!(!verify(&ours, &old, "localhost"));
        let early = ours.issue(&Wish::server().unwrap().valid(3600, 7200)).unwrap();
        assert!(!verify(&ours, &early, "localhost"));
    }

    #[test]
    fn a_spiffe_certificate_carries_its_id() {
        let ours = Authority::new("ours").unwrap();
        let id = "spiffe://example.com/billing";
        let wish = Wish::spiffe(id).unwrap().and_uri("spiffe://example.com/2").unwrap();
        let leaf = ours.issue(&wish).unwrap();
        let der = leaf.cert_der.as_ref();
        let has = |uri: &str| der.windows(uri.len()).any(|window| window == uri.as_bytes());
        assert!(has(id) && has("spiffe://example.com/2"));
    }
}
