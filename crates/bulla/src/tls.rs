//! TLS on both sides, out of the configuration's files.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result, bail};
use bulla_engine::TargetTls;
use bulla_identity::Verifier;
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};

use crate::config::{Config, file};

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .with_context(|| format!("read `{}`", path.display()))?;
    if found.is_empty() {
        bail!("`{}` holds no certificate in PEM", path.display());
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).with_context(|| format!("read `{}`", path.display()))
}

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The gateway's certificate and key; an error if they do not belong together.
pub fn server_pair(config: &Config) -> Result<CertifiedKey> {
    let tls = &config.gateway.tls;
    let certificates = certificates(&config.path(&tls.cert))?;
    let key = private_key(&config.path(&tls.key))?;
    let pair = CertifiedKey::from_der(certificates, key, &provider());
    pair.context("the certificate and its key do not hold")
}

/// Toward clients. A client certificate is asked for where there are trust domains, and checked
/// against the authorities of its own.
pub fn server(
    config: &Config,
    verifier: &Verifier,
    alpn: Vec<Vec<u8>>,
) -> Result<rustls::ServerConfig> {
    let tls = &config.gateway.tls;
    let certificates = certificates(&config.path(&tls.cert))?;
    let key = private_key(&config.path(&tls.key))?;
    let builder = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .context("choose the versions of TLS")?;
    let mut server = if config.trust_domains.is_empty() {
        builder.with_no_client_auth().with_single_cert(certificates, key)?
    } else {
        let verify = verifier.client_verifier();
        builder.with_client_cert_verifier(verify).with_single_cert(certificates, key)?
    };
    // A resumed session would not be checked against today's trust bundles.
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    server.alpn_protocols = alpn;
    Ok(server)
}

/// Toward a target. Relative paths start at `base`.
pub fn target(base: &Path, target: &file::Target, login: &file::Login) -> Result<TargetTls> {
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .context("choose the versions of TLS")?;
    let builder = match target.tls {
        file::TargetTls::Off => return Ok(TargetTls::Off),
        file::TargetTls::Require => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider()))),
        file::TargetTls::VerifyFull => {
            builder.with_root_certificates(roots(base, target.ca.as_deref())?)
        }
    };
    let client = match (&login.cert, &login.key) {
        (Some(cert), Some(key)) => {
            let certificates = certificates(&base.join(cert))?;
            let key = private_key(&base.join(key))?;
            let client = builder.with_client_auth_cert(certificates, key);
            client.context("`login.cert` and `login.key` do not belong together")?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(TargetTls::On(Arc::new(client)))
}

/// The only authorities that are accepted: those in `ca`, or the system's.
pub fn roots(base: &Path, ca: Option<&Path>) -> Result<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    match ca {
        Some(path) => {
            let path = base.join(path);
            for certificate in certificates(&path)? {
                let added = roots.add(certificate);
                added.with_context(|| format!("`{}` holds no authority", path.display()))?;
            }
        }
        None => {
            let native = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(native.certs);
        }
    }
    if roots.is_empty() {
        bail!("there is no authority to verify the other side with: set `ca`");
    }
    Ok(roots)
}

/// `tls = "require"`: encrypted, and whoever answers is believed. Signatures are still checked, so
/// that the session's keys are those of the certificate that was shown.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
