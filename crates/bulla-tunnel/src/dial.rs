//! From the agent to a gateway: TCP, a proxy if there is one, TLS 1.3, the pin of the authority.

use std::{fmt, io, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bulla_core::{Digest, Secret};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{GATEWAY_NAME, HANDSHAKE_MAX, token::sha256};

/// Longest answer of a proxy.
const PROXY_BYTES_MAX: usize = 8 * 1024;

/// SHA-256 of an authority's public key: `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin(pub Digest);

impl Pin {
    pub fn parse(text: &str) -> Option<Self> {
        Digest::from_hex(text.trim().strip_prefix("sha256:")?).map(Self)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

/// An HTTP proxy that takes CONNECT (RFC 9110, section 9.3.6).
#[derive(Clone)]
pub struct Proxy {
    /// `host:port`.
    pub address: String,
    /// `user:password`, for Basic authentication.
    pub credentials: Option<Arc<Secret>>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// TLS that accepts a gateway whose authority has the pin, before its certificate is known.
pub fn pinned(
    pin: Digest,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    kind: &[u8],
) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinVerifier { pin, provider: provider() }));
    let mut config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![kind.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// A chain is good if an authority in it has the pin and leads to the rest of it, for
/// [`GATEWAY_NAME`].
#[derive(Debug)]
struct PinVerifier {
    pin: Digest,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let pinned = intermediates.iter().find(|der| {
            let parsed = x509_parser::parse_x509_certificate(der);
            parsed.is_ok_and(|(_, parsed)| sha256(parsed.public_key().raw) == self.pin)
        });
        let mut roots = RootCertStore::empty();
        roots.add(pinned.ok_or(unknown.clone())?.clone().into_owned())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
                .build()
                .map_err(|_| unknown)?;
        // The pinned one may have been replaced: then it has signed its successor.
        verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now)
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

async fn tcp(address: &str, proxy: Option<&Proxy>) -> io::Result<TcpStream> {
    let named = |to: &str, error: io::Error| io::Error::new(error.kind(), format!("{to}: {error}"));
    let Some(proxy) = proxy else {
        return TcpStream::connect(address).await.map_err(|error| named(address, error));
    };
    let dialled = TcpStream::connect(&proxy.address).await;
    let mut tcp = dialled.map_err(|error| named(&proxy.address, error))?;
    let mut request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n");
    if let Some(credentials) = &proxy.credentials {
        let credentials = BASE64.encode(credentials.reveal());
        request.push_str(&format!("Proxy-Authorization: Basic {credentials}\r\n"));
    }
    request.push_str("\r\n");
    tcp.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // Byte by byte, so that nothing behind the head is taken; it is short and comes once.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= PROXY_BYTES_MAX {
            return Err(io::Error::other("the proxy's answer is too long"));
        }
        answer.push(tcp.read_u8().await?);
    }
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (version, status) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !version.starts_with("HTTP/1.") || status.len() != 3 || !status.starts_with('2') {
        return Err(io::Error::other(format!("the proxy answers `{}`", line.escape_debug())));
    }
    Ok(tcp)
}

/// A TLS connection to a gateway, within [`HANDSHAKE_MAX`].
pub async fn connect(
    address: &str,
    proxy: Option<&Proxy>,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let dial = async {
        let tcp = tcp(address, proxy).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(GATEWAY_NAME).map_err(io::Error::other)?;
        TlsConnector::from(config).connect(name, tcp).await
    };
    match tokio::time::timeout(HANDSHAKE_MAX, dial).await {
        Ok(dialled) => dialled,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn through_proxy(answer: &'static [u8]) -> (io::Result<Vec<u8>>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let proxy = tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(tcp.read_u8().await.unwrap());
            }
            tcp.write_all(answer).await.unwrap();
            String::from_utf8(head).unwrap()
        });
        let credentials = Some(Arc::new(Secret::new(b"agent:pass".to_vec())));
        let through = Proxy { address, credentials };
        let dialled = tcp("gw.example:7443", Some(&through)).await;
        let rest = match dialled {
            Ok(mut tcp) => {
                let mut rest = Vec::new();
                tcp.read_to_end(&mut rest).await.map(|_| rest)
            }
            Err(error) => Err(error),
        };
        (rest, proxy.await.unwrap())
    }

    #[tokio::test]
    async fn a_proxy_is_asked_to_connect() {
        let (rest, head) = through_proxy(b"HTTP/1.1 200 ok\r\nVia: x\r\n\r\nnext").await;
        assert_eq!(rest.unwrap(), b"next");
        let expected = "CONNECT gw.example:7443 HTTP/1.1\r\nHost: gw.example:7443\r\n\
                        Proxy-Authorization: Basic YWdlbnQ6cGFzcw==\r\n\r\n";
        assert_eq!(head, expected);
        for bad in [
            &b"HTTP/1.1 407 who are you\r\n\r\n"[..],
            b"HTTP/1.1 2000 x\r\n\r\n",
            b"HTTP/2 200 x\r\n\r\n",
            b"200\r\n\r\n",
            b"HTTP/1.1 200 ok\r\n",
            &[b'x'; PROXY_BYTES_MAX + 1],
        ] {
            let (rest, _) = through_proxy(bad).await;
            assert!(rest.is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn pins_read_back() {
        let pin = Pin(Digest([0xab; 32]));
        assert_eq!(Pin::parse(&pin.to_string()), Some(pin));
        assert_eq!(Pin::parse("sha256:ab"), None);
        assert_eq!(Pin::parse(&pin.0.to_string()), None);
    }
}
