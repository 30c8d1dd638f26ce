//! Signers, tokens, a clock, and an issuer that speaks HTTP.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING,
        ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
        RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaEncoding,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bulla_core::{
    Clock, Credential, Identity, IdentityError, Origin, Principal, Secret, Timestamp,
};
use bulla_identity::{Config, FetchLimits, IssuerConfig, KeySource, Verifier};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// 2027-01-15T08:00:00Z.
pub const NOW: u64 = 1_800_000_000;
pub const ISSUER: &str = "https://idp.example.com";
pub const AUDIENCE: &str = "bulla";

pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub struct TestClock(AtomicU64);

impl TestClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(Timestamp::from_secs(NOW).0)))
    }
    pub fn advance_secs(&self, secs: u64) {
        self.0.fetch_add(Timestamp::from_secs(secs).0, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

pub enum Signer {
    Rsa(RsaKeyPair),
    P256 { fixed: EcdsaKeyPair, asn1: EcdsaKeyPair },
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    pub fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }
    pub fn p256() -> Self {
        let random = SystemRandom::new();
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let key = |how| EcdsaKeyPair::from_pkcs8(how, document.as_ref()).unwrap();
        Self::P256 {
            fixed: key(&ECDSA_P256_SHA256_FIXED_SIGNING),
            asn1: key(&ECDSA_P256_SHA256_ASN1_SIGNING),
        }
    }
    pub fn p384() -> Self {
        Self::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    }
    pub fn ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    pub fn alg(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::P256 { .. } => "ES256",
            Self::P384(_) => "ES384",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    pub fn sign(&self, signed: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(_) => self.sign_rsa(&RSA_PKCS1_SHA256, signed),
            Self::P256 { fixed: key, .. } | Self::P384(key) => {
                key.sign(&random, signed).unwrap().as_ref().to_vec()
            }
            Self::Ed25519(key) => key.sign(signed).as_ref().to_vec(),
        }
    }

    fn sign_rsa(&self, how: &'static dyn RsaEncoding, signed: &[u8]) -> Vec<u8> {
        let Self::Rsa(key) = self else { panic!("not an RSA key") };
        let mut out = vec![0; key.public_modulus_len()];
        key.sign(how, &SystemRandom::new(), signed, &mut out).unwrap();
        out
    }

    pub fn sign_pss(&self, signed: &[u8]) -> Vec<u8> {
        self.sign_rsa(&RSA_PSS_SHA256, signed)
    }
    pub fn sign_rs512(&self, signed: &[u8]) -> Vec<u8> {
        self.sign_rsa(&RSA_PKCS1_SHA512, signed)
    }
    pub fn sign_der(&self, signed: &[u8]) -> Vec<u8> {
        let Self::P256 { asn1, .. } = self else { panic!("not a P-256 key") };
        asn1.sign(&SystemRandom::new(), signed).unwrap().as_ref().to_vec()
    }

    /// Members of the JWK that hold the key.
    pub fn material(&self) -> String {
        let point = |key: &EcdsaKeyPair, crv: &str| {
            let point = &key.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            format!(r#""kty":"EC","crv":"{crv}","x":"{}","y":"{}""#, b64(x), b64(y))
        };
        match self {
            Self::Rsa(key) => {
                let (n, e) = rsa_numbers(key.public_key().as_ref());
                format!(r#""kty":"RSA","n":"{}","e":"{}""#, b64(n), b64(e))
            }
            Self::P256 { fixed, .. } => point(fixed, "P-256"),
            Self::P384(key) => point(key, "P-384"),
            Self::Ed25519(key) => {
                let x = b64(key.public_key().as_ref());
                format!(r#""kty":"OKP","crv":"Ed25519","x":"{x}""#)
            }
        }
    }

    pub fn jwk(&self, kid: &str) -> String {
        format!(r#"{{"kid":"{kid}","use":"sig",{}}}"#, self.material())
    }

    pub fn pkcs1_der(&self) -> Vec<u8> {
        let Self::Rsa(key) = self else { panic!("not an RSA key") };
        key.public_key().as_ref().to_vec()
    }
    pub fn spki_der(&self) -> Vec<u8> {
        let Self::Rsa(key) = self else { panic!("not an RSA key") };
        key.public_key().as_der().unwrap().as_ref().to_vec()
    }
}

/// Modulus and exponent of an RSAPublicKey in DER, without leading zeros.
pub fn rsa_numbers(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    fn element(input: &[u8]) -> (&[u8], &[u8]) {
        let (len, start) = match input[1] {
            short @ 0..=127 => (usize::from(short), 2),
            long => {
                let count = usize::from(long & 127);
                let len = input[2..2 + count].iter().fold(0, |n, b| n << 8 | usize::from(*b));
                (len, 2 + count)
            }
        };
        (&input[start..start + len], &input[start + len..])
    }
    let (sequence, _) = element(der);
    let (n, rest) = element(sequence);
    let (e, _) = element(rest);
    let strip = |n: &[u8]| n.iter().copied().skip_while(|b| *b == 0).collect();
    (strip(n), strip(e))
}

pub fn jwks(keys: &[String]) -> String {
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}

/// An object as written: names may occur twice, values may be anything.
#[derive(Clone)]
pub struct Members(Vec<(String, String)>);

impl Members {
    pub fn header(alg: &str) -> Self {
        Self(vec![
            ("alg".into(), format!("{alg:?}")),
            ("typ".into(), r#""at+jwt""#.into()),
            ("kid".into(), r#""k1""#.into()),
        ])
    }
    /// What a token of RFC 9068 says, issued now for five minutes.
    pub fn claims() -> Self {
        let text = |text: &str| format!("{text:?}");
        Self(vec![
            ("iss".into(), text(ISSUER)),
            ("aud".into(), text(AUDIENCE)),
            ("sub".into(), text("svc-7")),
            ("client_id".into(), text("svc-7")),
            ("jti".into(), text("j-1")),
            ("iat".into(), NOW.to_string()),
            ("exp".into(), (NOW + 300).to_string()),
        ])
    }
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        match self.0.iter_mut().find(|(have, _)| have == name) {
            Some(member) => member.1 = value.to_string(),
            None => self.0.push((name.into(), value.to_string())),
        }
        self
    }
    /// Adds it even where it is there already.
    pub fn add(mut self, name: &str, value: impl ToString) -> Self {
        self.0.push((name.into(), value.to_string()));
        self
    }
    pub fn without(mut self, name: &str) -> Self {
        self.0.retain(|(have, _)| have != name);
        self
    }
    pub fn json(&self) -> String {
        let all: Vec<_> = self.0.iter().map(|(n, v)| format!("\"{n}\":{v}")).collect();
        format!("{{{}}}", all.join(","))
    }
}

/// A signed token of any header and claims text.
pub fn mint(signer: &Signer, header: &str, claims: &str) -> String {
    mint_with(header, claims, |signed| signer.sign(signed))
}

pub fn mint_with(header: &str, claims: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    mint_raw(&b64(header), &b64(claims), sign)
}

pub fn mint_raw(header: &str, claims: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let signed = format!("{header}.{claims}");
    let signature = b64(sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// The token that every check lets through.
pub fn good(signer: &Signer, kid: &str) -> String {
    let header = Members::header(signer.alg()).set("kid", format!("{kid:?}"));
    mint(signer, &header.json(), &Members::claims().json())
}

static FILES: AtomicUsize = AtomicUsize::new(0);

/// A new file of this test run.
pub fn file(content: impl AsRef<[u8]>) -> PathBuf {
    let name = format!("{}-{}", std::process::id(), FILES.fetch_add(1, Ordering::SeqCst));
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("identity-{name}"));
    std::fs::write(&path, content).unwrap();
    path
}

pub fn issuer() -> IssuerConfig {
    IssuerConfig::new("idp", ISSUER, AUDIENCE)
}

/// An issuer whose keys are in a file.
pub fn with_keys(mut record: IssuerConfig, keys: &[String]) -> IssuerConfig {
    record.keys = KeySource::File { path: file(jwks(keys)) };
    record
}

pub fn quick() -> FetchLimits {
    FetchLimits {
        connect: Duration::from_millis(500),
        fetch: Duration::from_millis(500),
        tries: 2,
        pause: Duration::from_millis(5),
        wait: Duration::from_secs(3),
        tick: Duration::from_millis(20),
    }
}

pub fn verifier(record: IssuerConfig, clock: &Arc<TestClock>) -> Verifier {
    let config = Config { issuers: vec![record], trust_domains: Vec::new() };
    Verifier::with_limits(&config, clock.clone(), quick()).unwrap()
}

pub fn origin(certificate: Option<&[u8]>) -> Origin {
    Origin {
        address: [127, 0, 0, 1].into(),
        port: 50_000,
        tls: "TLSv1.3".into(),
        certificate: certificate.map(Into::into),
    }
}

pub async fn verify_at(
    verifier: &Verifier,
    token: &str,
    now: Timestamp,
) -> Result<Principal, IdentityError> {
    let credential = Credential::Token(Secret::new(token.as_bytes().to_vec()));
    let result = verifier.verify(credential, &origin(None), now).await;
    if let Err(error) = &result {
        check_silent(error, token);
    }
    result
}

/// No error shows the token or what is in it.
pub fn check_silent(error: &IdentityError, token: &str) {
    let shown = format!("{error} {error:?}");
    for secret in token.split('.').filter(|segment| segment.len() > 8) {
        assert!(!shown.contains(secret), "{shown}");
    }
    for secret in ["svc-7", "j-1", "evil"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

/// What came of a token: `ok`, or the word of the refusal.
pub async fn word(verifier: &Verifier, clock: &TestClock, token: &str) -> &'static str {
    match verify_at(verifier, token, clock.now()).await {
        Ok(_) => "ok",
        Err(error) => error.word,
    }
}

/// Waits until something comes true that a background task does.
pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !check().await {
        assert!(std::time::Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What an issuer answers to one path.
#[derive(Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
    pub delay: Duration,
}

impl Reply {
    pub fn json(body: impl Into<String>) -> Self {
        Self { status: 200, headers: Vec::new(), body: body.into(), delay: Duration::ZERO }
    }
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::json("") }
    }
}

/// An issuer on loopback. Answers 404 to what it does not know.
pub struct Idp {
    pub address: SocketAddr,
    replies: Arc<Mutex<HashMap<String, Vec<Reply>>>>,
    hits: Arc<Mutex<HashMap<String, usize>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Idp {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve(listener, None)
    }

    pub async fn start_tls(config: Arc<rustls::ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve(listener, Some(config.into()))
    }

    fn serve(listener: TcpListener, tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let address = listener.local_addr().unwrap();
        let replies: Arc<Mutex<HashMap<String, Vec<Reply>>>> = Arc::default();
        let hits: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let (answers, counts) = (replies.clone(), hits.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, counts, tls) = (answers.clone(), counts.clone(), tls.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let path = request.uri().path().to_owned();
                    *counts.lock().unwrap().entry(path.clone()).or_default() += 1;
                    let mut answers = answers.lock().unwrap();
                    let reply = match answers.get_mut(&path) {
                        Some(queue) if queue.len() > 1 => queue.remove(0),
                        Some(queue) => queue[0].clone(),
                        None => Reply::status(404),
                    };
                    async move {
                        tokio::time::sleep(reply.delay).await;
                        let mut response = Response::builder().status(reply.status);
                        for (name, value) in reply.headers {
                            response = response.header(name, value);
                        }
                        Ok::<_, Infallible>(
                            response.body(Full::new(Bytes::from(reply.body))).unwrap(),
                        )
                    }
                });
                tokio::spawn(async move {
                    let builder = hyper::server::conn::http1::Builder::new();
                    match tls {
                        None => drop(builder.serve_connection(TokioIo::new(stream), service).await),
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                drop(builder.serve_connection(TokioIo::new(stream), service).await);
                            }
                        }
                    }
                });
            }
        });
        Self { address, replies, hits, task }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// From now on.
    pub fn reply(&self, path: &str, reply: Reply) {
        self.replies.lock().unwrap().insert(path.into(), vec![reply]);
    }

    /// One after the other; the last one stays.
    pub fn replies(&self, path: &str, replies: Vec<Reply>) {
        self.replies.lock().unwrap().insert(path.into(), replies);
    }

    pub fn hits(&self, path: &str) -> usize {
        self.hits.lock().unwrap().get(path).copied().unwrap_or_default()
    }

    /// An issuer record that finds its keys here by discovery.
    pub fn discovery(&self) -> IssuerConfig {
        let document =
            format!(r#"{{"issuer":"{ISSUER}","jwks_uri":"{}","x":[1,{{}}]}}"#, self.url("/keys"));
        self.reply("/discovery", Reply::json(document));
        let mut record = issuer();
        record.keys = KeySource::Discovery { url: Some(self.url("/discovery")) };
        record
    }

    /// An issuer record that finds its keys here at `/keys`.
    pub fn record(&self) -> IssuerConfig {
        let mut record = issuer();
        record.keys = KeySource::Jwks { url: self.url("/keys") };
        record
    }
}

impl Drop for Idp {
    fn drop(&mut self) {
        self.task.abort();
    }
}
