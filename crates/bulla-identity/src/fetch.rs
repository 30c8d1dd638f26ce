//! Fetching an issuer's keys: one request after another, each within its limits.
//!
//! No redirect is followed, no proxy is used, no connection is kept. What is fetched is public; no
//! credential is ever sent.

use std::{path::Path, sync::Arc, time::Duration};

use bulla_core::{Clock, Timestamp};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{Request, Uri, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::{io::AsyncReadExt as _, sync::OnceCell};

use crate::{config::KeySource, json::Json, jwk::KeySet};

/// Largest discovery document, key set or file of authorities, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Largest head of a response, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Largest file of certificate authorities, in bytes.
pub(crate) const PEM_BYTES_MAX: usize = 1024 * 1024;

/// How long fetching may take. The defaults are the product's; tests shorten them.
#[derive(Debug, Clone)]
pub struct FetchLimits {
    /// For a TCP connection.
    pub connect: Duration,
    /// For one try: connection, discovery document and key set.
    pub fetch: Duration,
    /// Tries of one refresh.
    pub tries: u32,
    /// Pause before the second try; it doubles each time.
    pub pause: Duration,
    /// How long one login may wait for a refresh.
    pub wait: Duration,
    /// How often the background task looks whether a refresh is due.
    pub tick: Duration,
}

impl Default for FetchLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            fetch: Duration::from_secs(5),
            tries: 3,
            pause: Duration::from_millis(200),
            wait: Duration::from_secs(6),
            tick: Duration::from_secs(1),
        }
    }
}

/// Why keys could not be fetched. Holds nothing that the other side wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("the configured URL cannot be used")]
    Url,
    #[error("the file of authorities cannot be read")]
    Authorities,
    #[error("no connection, or not over the TLS that is trusted")]
    Connect,
    #[error("no answer in time")]
    Timeout,
    #[error("the connection broke off")]
    Broken,
    #[error("a redirect, which is not followed")]
    Redirect,
    #[error("HTTP status {0}")]
    Status(u16),
    #[error("the answer is larger than {BODY_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the discovery document is not strict JSON with `issuer` and `jwks_uri`")]
    Discovery,
    #[error("the discovery document names another issuer")]
    OtherIssuer,
    #[error("the discovery document's `jwks_uri` is not an allowed URL")]
    KeysUrl,
    #[error("the key set is not strict JSON")]
    KeySet,
    #[error("the key set has no key that can be used")]
    NoKeys,
    #[error("the file of keys cannot be read")]
    File,
}

/// What a refresh brought.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub set: KeySet,
    /// The issuer's clock minus ours, by its `Date` header; exact to about a second.
    pub clock_offset_ms: Option<i64>,
}

type HttpClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Where the keys of one issuer come from.
pub(crate) struct Source {
    pub issuer: String,
    pub keys: KeySource,
    pub ca_file: Option<std::path::PathBuf>,
    pub allow_http: bool,
    pub limits: FetchLimits,
    system: OnceCell<HttpClient>,
}

struct Answer {
    body: Bytes,
    clock_offset_ms: Option<i64>,
}

impl Source {
    pub(crate) fn new(
        issuer: &str,
        keys: &KeySource,
        ca_file: Option<&Path>,
        allow_http: bool,
        limits: FetchLimits,
    ) -> Self {
        Self {
            issuer: issuer.to_owned(),
            keys: keys.clone(),
            ca_file: ca_file.map(Path::to_owned),
            allow_http,
            limits,
            system: OnceCell::new(),
        }
    }

    /// Whether the other source would fetch the same keys in the same way.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.issuer == other.issuer
            && self.keys == other.keys
            && self.ca_file == other.ca_file
            && self.allow_http == other.allow_http
    }

    /// One refresh: some tries, with pauses. Cancel safe.
    pub(crate) async fn refresh(&self, clock: &dyn Clock) -> Result<Fetched, FetchError> {
        let mut pause = self.limits.pause;
        let mut left = self.limits.tries.max(1);
        loop {
            let tried = tokio::time::timeout(self.limits.fetch, self.once(clock)).await;
            let error = match tried.unwrap_or(Err(FetchError::Timeout)) {
                Ok(fetched) => return Ok(fetched),
                Err(error) => error,
            };
            left -= 1;
            if left == 0 || !error.may_pass() {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2);
        }
    }

    async fn once(&self, clock: &dyn Clock) -> Result<Fetched, FetchError> {
        let (body, clock_offset_ms) = match &self.keys {
            KeySource::File { path } => {
                (read_file(path, BODY_BYTES_MAX).await.map_err(|()| FetchError::File)?, None)
            }
            KeySource::Jwks { url } => {
                let url = allowed_url(url, self.allow_http).ok_or(FetchError::Url)?;
                let answer = self.get(url, clock).await?;
                (answer.body.to_vec(), answer.clock_offset_ms)
            }
            KeySource::Discovery { url } => {
                let url = url.clone().unwrap_or_else(|| discovery_url(&self.issuer));
                let url = allowed_url(&url, self.allow_http).ok_or(FetchError::Url)?;
                let document = self.get(url, clock).await?;
                let keys_url = self.read_discovery(&document.body)?;
                let answer = self.get(keys_url, clock).await?;
                (answer.body.to_vec(), answer.clock_offset_ms)
            }
        };
        let set = KeySet::parse(&body).ok_or(FetchError::KeySet)?;
        // An issuer without a single key is out of order; the last good set is better than a
        // lock-out, and ends by its age all the same.
        if set.usable == 0 {
            return Err(FetchError::NoKeys);
        }
        Ok(Fetched { set, clock_offset_ms })
    }

    /// OpenID Connect Discovery 4.3: the document's issuer MUST be exactly ours.
    fn read_discovery(&self, body: &[u8]) -> Result<Uri, FetchError> {
        let document = Json::object(body).map_err(|_| FetchError::Discovery)?;
        let text = |name| document.get(name).and_then(Json::text).ok_or(FetchError::Discovery);
        if text("issuer")? != self.issuer {
            return Err(FetchError::OtherIssuer);
        }
        allowed_url(text("jwks_uri")?, self.allow_http).ok_or(FetchError::KeysUrl)
    }

    async fn get(&self, url: Uri, clock: &dyn Clock) -> Result<Answer, FetchError> {
        let client = self.client(&url).await?;
        let request = Request::get(url)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "bulla")
            .body(Empty::new())
            .map_err(|_| FetchError::Url)?;
        let before = clock.now();
        let response = client.request(request).await.map_err(|error| {
            if error.is_connect() { FetchError::Connect } else { FetchError::Broken }
        })?;
        let after = clock.now();
        let status = response.status();
        if status.is_redirection() {
            return Err(FetchError::Redirect);
        }
        if status.as_u16() != 200 {
            return Err(FetchError::Status(status.as_u16()));
        }
        let clock_offset_ms = response
            .headers()
            .get(header::DATE)
            .and_then(|value| http_date(value.as_bytes()))
            .map(|date| offset_ms(date, before, after));
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() { FetchError::TooLarge } else { FetchError::Broken }
        })?;
        Ok(Answer { body: body.to_bytes(), clock_offset_ms })
    }

    async fn client(&self, url: &Uri) -> Result<HttpClient, FetchError> {
        if url.scheme_str() == Some("http") {
            return self.build(RootCertStore::empty());
        }
        match &self.ca_file {
            // Read each time: it is small, and it may have been replaced.
            Some(path) => {
                let pem =
                    read_file(path, PEM_BYTES_MAX).await.map_err(|()| FetchError::Authorities)?;
                let roots = pem_roots(&pem).ok_or(FetchError::Authorities)?;
                self.build(roots)
            }
            None => {
                let client = self.system.get_or_try_init(|| async {
                    let connector = tokio::task::spawn_blocking(|| {
                        let provider = rustls::crypto::aws_lc_rs::default_provider();
                        HttpsConnectorBuilder::new().with_provider_and_native_roots(provider)
                    });
                    let builder = connector
                        .await
                        .map_err(|_| FetchError::Authorities)?
                        .map_err(|_| FetchError::Authorities)?;
                    let https = builder.https_only().enable_http1().wrap_connector(self.tcp());
                    Ok(http_client(https))
                });
                client.await.cloned()
            }
        }
    }

    fn build(&self, roots: RootCertStore) -> Result<HttpClient, FetchError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| FetchError::Authorities)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let builder = HttpsConnectorBuilder::new().with_tls_config(config);
        Ok(http_client(builder.https_or_http().enable_http1().wrap_connector(self.tcp())))
    }

    fn tcp(&self) -> HttpConnector {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(self.limits.connect));
        connector
    }
}

fn http_client(connector: HttpsConnector<HttpConnector>) -> HttpClient {
    Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .http1_max_buf_size(HEAD_BYTES_MAX)
        .build(connector)
}

impl FetchError {
    /// Whether another try a moment later could end differently.
    fn may_pass(self) -> bool {
        match self {
            Self::Connect | Self::Timeout | Self::Broken | Self::File => true,
            Self::Status(status) => status == 429 || status >= 500,
            Self::Url
            | Self::Authorities
            | Self::Redirect
            | Self::TooLarge
            | Self::Discovery
            | Self::OtherIssuer
            | Self::KeysUrl
            | Self::KeySet
            | Self::NoKeys => false,
        }
    }
}

/// OpenID Connect Discovery 4: the path is appended to the issuer, without a doubled slash.
pub(crate) fn discovery_url(issuer: &str) -> String {
    format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer))
}

/// A URL that keys may be fetched from: `https`, or `http` on loopback, or any `http` where the
/// issuer's record allows that; without user information.
pub(crate) fn allowed_url(text: &str, allow_http: bool) -> Option<Uri> {
    if text.len() > 2_048 || text.contains('#') {
        return None;
    }
    let url: Uri = text.parse().ok()?;
    let authority = url.authority()?;
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return None;
    }
    match url.scheme_str()? {
        "https" => Some(url),
        "http" if allow_http || is_loopback(authority.host()) => Some(url),
        _ => None,
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Reads a file of at most `bytes_max`.
pub(crate) async fn read_file(path: &Path, bytes_max: usize) -> Result<Vec<u8>, ()> {
    let file = tokio::fs::File::open(path).await.map_err(|_| ())?;
    let mut out = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut out).await.map_err(|_| ())?;
    if out.len() > bytes_max { Err(()) } else { Ok(out) }
}

/// The certificates of a PEM file as trust anchors. None: not one, or one that is none.
pub(crate) fn pem_roots(pem: &[u8]) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.ok()?).ok()?;
    }
    if roots.is_empty() { None } else { Some(roots) }
}

/// Theirs minus ours, taking the middle of the second that they name and of our waiting.
fn offset_ms(date_secs: u64, before: Timestamp, after: Timestamp) -> i64 {
    let theirs = (date_secs as i64).saturating_mul(1_000).saturating_add(500);
    let ours = (before.millis() / 2 + after.millis() / 2) as i64;
    let offset = theirs.saturating_sub(ours);
    // Within the header's own grain there is nothing to report.
    if offset.abs() <= 500 { 0 } else { offset }
}

/// IMF-fixdate of RFC 9110 5.6.7, as seconds since the epoch.
fn http_date(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    let (_, rest) = text.split_once(", ")?;
    let mut fields = rest.split(' ');
    let day: u64 = fields.next()?.parse().ok()?;
    let months =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month_name = fields.next()?;
    let month = months.iter().position(|name| *name == month_name)? as u64 + 1;
    let year: u64 = fields.next()?.parse().ok()?;
    let mut clock = fields.next()?.split(':');
    let mut part = || clock.next().and_then(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (part()?, part()?, part()?);
    if fields.next()? != "GMT" || !(1970..=9999).contains(&year) || !(1..=31).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Civil date to days: H. Hinnant, "chrono-compatible low-level date algorithms".
    let y = if month <= 2 { year - 1 } else { year };
    let era = y / 400;
    let yoe = y % 400;
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    let days = (era * 146_097 + doe).checked_sub(719_468)?;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_http() {
        let check = |text: &str, expect: Option<u64>| {
            assert_eq!(http_date(text.as_bytes()), expect, "{text}");
        };
        check("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777));
        check("Thu, 01 Jan 1970 00:00:00 GMT", Some(0));
        check("Tue, 29 Feb 2000 00:00:00 GMT", Some(951_782_400));
        check("Wed, 25 Nov 2026 14:13:05 GMT", Some(1_795_615_985));
        check("Sunday, 06-Nov-94 08:49:37 GMT", None);
        check("Sun, 06 Nov 1994 08:49:37 PST", None);
        check("Sun, 06 Nov 1994 25:49:37 GMT", None);
        check("", None);
    }

    #[test]
    fn urls_that_keys_may_come_from() {
        let check = |text: &str, allow_http: bool, good: bool| {
            assert_eq!(allowed_url(text, allow_http).is_some(), good, "{text}");
        };
        check("https://idp.example.com/keys", false, true);
        check("http://idp.example.com/keys", false, false);
        check("http://idp.example.com/keys", true, true);
        check("http://127.0.0.1:80/keys", false, true);
        check("http://[::1]:80/keys", false, true);
        check("http://localhost/keys", false, true);
        check("http://localhost.example.com/keys", false, false);
        check("http://127.0.0.1.example.com/keys", false, false);
        check("http://127.0.0.1@example.com/keys", true, false);
        check("https://user:secret@example.com/keys", false, false);
        check("file:///etc/passwd", true, false);
        check("ftp://127.0.0.1/keys", true, false);
        check("/keys", true, false);
        check("https:///keys", true, false);
        check("https://example.com/keys#x", false, false);
        check("", true, false);
    }

    #[test]
    fn discovery_is_below_the_issuer() {
        let expect = "https://a/x/.well-known/openid-configuration";
        assert_eq!(discovery_url("https://a/x"), expect);
        assert_eq!(discovery_url("https://a/x/"), expect);
    }
}
