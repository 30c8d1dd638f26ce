//! Tokens, good and hostile.
//!
//! A [`Mint`] begins as a good access token of RFC 9068 and is then made worse, one call for each
//! defect. Signing is done here and not by a JWT library, because a library refuses to make most
//! of what an attacker would send.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING,
    ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256, RsaKeyPair,
};
use aws_lc_rs::{hmac, rsa};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

/// How a key signs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alg {
    Es256,
    Es384,
    Rs256,
    Ps256,
    EdDsa,
}

impl Alg {
    /// As in a JOSE header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// A signing key.
#[derive(Debug)]
pub struct Key {
    pub kid: String,
    pub alg: Alg,
    secret: Secret,
}

#[derive(Debug)]
enum Secret {
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    /// # Errors
    /// The cryptography library refuses.
    pub fn generate(alg: Alg, kid: &str) -> Result<Self> {
        let ecdsa = |curve| EcdsaKeyPair::generate(curve).map(Secret::Ecdsa);
        let secret = match alg {
            Alg::Es256 => ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING),
            Alg::Es384 => ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING),
            Alg::Rs256 | Alg::Ps256 => RsaKeyPair::generate(rsa::KeySize::Rsa2048).map(Secret::Rsa),
            Alg::EdDsa => Ed25519KeyPair::generate().map(Secret::Ed25519),
        };
        let secret = secret.map_err(|_| anyhow!("generate a key for {}", alg.name()))?;
        Ok(Self { kid: kid.to_owned(), alg, secret })
    }

    /// Its public half, as an issuer publishes it (RFC 7517).
    ///
    /// # Errors
    /// Never, short of a bug in the cryptography library.
    pub fn jwk(&self) -> Result<Value> {
        let mut jwk = json!({ "kid": self.kid, "alg": self.alg.name(), "use": "sig" });
        let parts = match &self.secret {
            Secret::Ecdsa(key) => {
                // An uncompressed point: 4, x, y.
                let point = key.public_key().as_ref().get(1..).context("a point")?;
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if self.alg == Alg::Es256 { "P-256" } else { "P-384" };
                json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) })
            }
            Secret::Rsa(key) => {
                let (n, e) = rsa_parts(key.public_key().as_ref())?;
                json!({ "kty": "RSA", "n": encode(n), "e": encode(e) })
            }
            Secret::Ed25519(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(key.public_key()) })
            }
        };
        let (Value::Object(jwk_map), Value::Object(parts)) = (&mut jwk, parts) else {
            bail!("a key is an object")
        };
        jwk_map.extend(parts);
        Ok(jwk)
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let random = SystemRandom::new();
        let failed = || anyhow!("sign with {}", self.kid);
        match &self.secret {
            Secret::Ecdsa(key) => {
                let signature = key.sign(&random, message).map_err(|_| failed())?;
                Ok(signature.as_ref().to_vec())
            }
            Secret::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                let done = if self.alg == Alg::Ps256 {
                    key.sign(&RSA_PSS_SHA256, &random, message, &mut signature)
                } else {
                    key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                };
                done.map_err(|_| failed())?;
                Ok(signature)
            }
            Secret::Ed25519(key) => Ok(key.sign(message).as_ref().to_vec()),
        }
    }

    /// The same key's signature in the encoding that JWS does not allow (RFC 7518 section 3.4).
    fn sign_der(&self, message: &[u8]) -> Result<Vec<u8>> {
        let Secret::Ecdsa(key) = &self.secret else { bail!("only ECDSA has two encodings") };
        ensure!(self.alg == Alg::Es256, "this defect is made for ES256");
        let pkcs8 = key.to_pkcs8v1().map_err(|_| anyhow!("export a key"))?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref());
        let key = key.map_err(|_| anyhow!("import a key"))?;
        let signature = key.sign(&SystemRandom::new(), message).map_err(|_| anyhow!("sign"))?;
        Ok(signature.as_ref().to_vec())
    }
}

/// One thing wrong with a token, other than its header or its claims.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Defect {
    /// `alg: none` and an empty signature.
    AlgNone,
    /// `alg: HS256`, keyed with the public key that anybody can fetch.
    PublicKeyAsSecret,
    /// The payload was changed after it was signed.
    Tampered,
    /// A bit of the signature is wrong.
    WrongSignature,
    /// All bytes of the signature are zero.
    ZeroSignature,
    NoSignature,
    /// The signature lacks its last byte.
    ShortSignature,
    /// A good ECDSA signature in the encoding that JWS does not allow.
    DerSignature,
    /// A character outside the alphabet.
    NotBase64,
    /// Base64 with padding, which JWS does not allow.
    Padded,
    /// The alphabet with `+` and `/`, which JWS does not allow, when the token has either.
    StandardAlphabet,
    TwoParts,
    FourParts,
    /// The five parts of an encrypted token.
    FiveParts,
}

/// All defects, for tests that try each.
pub const DEFECTS: &[Defect] = &[
    Defect::AlgNone,
    Defect::PublicKeyAsSecret,
    Defect::Tampered,
    Defect::WrongSignature,
    Defect::ZeroSignature,
    Defect::NoSignature,
    Defect::ShortSignature,
    Defect::DerSignature,
    Defect::NotBase64,
    Defect::Padded,
    Defect::TwoParts,
    Defect::FourParts,
    Defect::FiveParts,
];

/// A token to be.
#[derive(Clone, Debug)]
pub struct Mint {
    key: Arc<Key>,
    header: Map<String, Value>,
    claims: Map<String, Value>,
    /// Exact payload or header, in place of the maps.
    payload: Option<String>,
    raw_header: Option<String>,
    defect: Option<Defect>,
}

impl Mint {
    /// A good token of `issuer` for the audience `bulla`, valid for ten minutes.
    pub fn new(issuer: &str, key: &Arc<Key>) -> Self {
        let mut mint = Self {
            key: Arc::clone(key),
            header: Map::new(),
            claims: Map::new(),
            payload: None,
            raw_header: None,
            defect: None,
        };
        mint = mint.header("typ", "at+jwt");
        mint = mint.claim("iss", issuer).claim("aud", "bulla");
        mint.subject("billing-api").claim("jti", unique()).issued(0).expires(600)
    }

    /// Sets `sub` and `client_id`.
    #[must_use]
    pub fn subject(self, subject: &str) -> Self {
        self.claim("sub", subject).claim("client_id", subject)
    }

    #[must_use]
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims.insert(name.to_owned(), value.into());
        self
    }

    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    /// Sets `iat`, in seconds from now.
    #[must_use]
    pub fn issued(self, offset: i64) -> Self {
        self.claim("iat", now() + offset)
    }

    /// Sets `exp`, in seconds from now.
    #[must_use]
    pub fn expires(self, offset: i64) -> Self {
        self.claim("exp", now() + offset)
    }

    /// Sets `nbf`, in seconds from now.
    #[must_use]
    pub fn not_before(self, offset: i64) -> Self {
        self.claim("nbf", now() + offset)
    }

    /// Sets a header field. `alg` and `kid` follow the key unless set here.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header.insert(name.to_owned(), value.into());
        self
    }

    /// Leaves a header field out; `null` marks it so until the token is made.
    #[must_use]
    pub fn without_header(self, name: &str) -> Self {
        self.header(name, Value::Null)
    }

    /// Replaces the payload by these very bytes, such as JSON with a duplicate key.
    #[must_use]
    pub fn raw_payload(mut self, payload: &str) -> Self {
        self.payload = Some(payload.to_owned());
        self
    }

    /// Replaces the header by these very bytes.
    #[must_use]
    pub fn raw_header(mut self, header: &str) -> Self {
        self.raw_header = Some(header.to_owned());
        self
    }

    /// Signs with another key while the header still names the first: a forgery.
    #[must_use]
    pub fn signed_by(mut self, key: &Arc<Key>) -> Self {
        let named = self.header.get("kid").cloned();
        let named = named.unwrap_or_else(|| Value::from(self.key.kid.clone()));
        self.header.insert("kid".to_owned(), named);
        self.key = Arc::clone(key);
        self
    }

    #[must_use]
    pub fn with(mut self, defect: Defect) -> Self {
        self.defect = Some(defect);
        self
    }

    /// The claims as they are now.
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// The token in its compact form.
    ///
    /// # Errors
    /// The key cannot do what the defect asks for.
    pub fn token(&self) -> Result<String> {
        let alg = match self.defect {
            Some(Defect::AlgNone) => "none",
            Some(Defect::PublicKeyAsSecret) => "HS256",
            _ => self.key.alg.name(),
        };
        let mut header = Map::new();
        header.insert("alg".to_owned(), Value::from(alg));
        header.insert("kid".to_owned(), Value::from(self.key.kid.clone()));
        header.extend(self.header.clone());
        header.retain(|_, value| !value.is_null());
        let header = self.raw_header.clone().unwrap_or_else(|| Value::Object(header).to_string());
        let payload = self.payload.clone();
        let payload = payload.unwrap_or_else(|| Value::Object(self.claims.clone()).to_string());

        let header = encode(header);
        let signed = format!("{header}.{}", encode(&payload));
        let signature = self.signature(signed.as_bytes())?;
        let signed = match self.defect {
            Some(Defect::Tampered) => {
                let payload = payload.replacen('{', r#"{"admin":true,"#, 1);
                format!("{header}.{}", encode(payload))
            }
            _ => signed,
        };
        let token = format!("{signed}.{}", encode(&signature));
        Ok(match self.defect {
            Some(Defect::NotBase64) => format!("{token}!"),
            Some(Defect::Padded) => format!("{signed}.{}", STANDARD.encode(&signature)),
            Some(Defect::StandardAlphabet) => token.replace('-', "+").replace('_', "/"),
            Some(Defect::TwoParts) => signed,
            Some(Defect::FourParts) => format!("{token}.{}", encode("more")),
            Some(Defect::FiveParts) => format!("{token}.{}.{}", encode("more"), encode("tag")),
            _ => token,
        })
    }

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>> {
        let mut signature = match self.defect {
            Some(Defect::AlgNone | Defect::NoSignature) => return Ok(Vec::new()),
            Some(Defect::DerSignature) => return self.key.sign_der(message),
            Some(Defect::PublicKeyAsSecret) => {
                let public = self.key.jwk()?.to_string();
                let key = hmac::Key::new(hmac::HMAC_SHA256, public.as_bytes());
                return Ok(hmac::sign(&key, message).as_ref().to_vec());
            }
            _ => self.key.sign(message)?,
        };
        match self.defect {
            Some(Defect::ZeroSignature) => signature.fill(0),
            Some(Defect::ShortSignature) => {
                signature.pop();
            }
            Some(Defect::WrongSignature) => {
                if let Some(byte) = signature.first_mut() {
                    *byte ^= 1;
                }
            }
            _ => {}
        }
        Ok(signature)
    }
}

/// `RSAPublicKey` of RFC 8017: a sequence of two integers.
fn rsa_parts(der: &[u8]) -> Result<(&[u8], &[u8])> {
    let (sequence, _) = element(der, 0x30)?;
    let (n, rest) = element(sequence, 0x02)?;
    let (e, _) = element(rest, 0x02)?;
    Ok((n.strip_prefix(&[0]).unwrap_or(n), e.strip_prefix(&[0]).unwrap_or(e)))
}

/// The first DER element, which must have this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Result<(&[u8], &[u8])> {
    let (head, rest) = der.split_at_checked(2).context("a DER element")?;
    ensure!(head.first() == Some(&tag), "a DER element with tag {tag}");
    let first = head.get(1).copied().unwrap_or_default();
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f)).context("a length")?;
        (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
    };
    rest.split_at_checked(length).context("a DER element in full")
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn unique() -> String {
    let word = || RandomState::new().hash_one(now());
    format!("{:016x}{:016x}", word(), word())
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::Jwk;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};

    use super::*;

    /// Judged by a library that shares no code with the mint.
    fn verifies(mint: &Mint, key: &Key) -> bool {
        crate::crypto();
        let jwk: Jwk = serde_json::from_value(key.jwk().unwrap()).unwrap();
        let algorithm: Algorithm = key.alg.name().parse().unwrap();
        let mut validation = Validation::new(algorithm);
        validation.set_audience(&["bulla"]);
        validation.set_issuer(&["https://issuer"]);
        let token = mint.token().unwrap();
        decode::<Value>(&token, &DecodingKey::from_jwk(&jwk).unwrap(), &validation).is_ok()
    }

    fn key(alg: Alg) -> Arc<Key> {
        Arc::new(Key::generate(alg, "k1").unwrap())
    }

    #[test]
    fn good_tokens_verify_with_every_algorithm() {
        for alg in [Alg::Es256, Alg::Es384, Alg::Rs256, Alg::Ps256, Alg::EdDsa] {
            let (key, other) = (key(alg), key(alg));
            let mint = Mint::new("https://issuer", &key);
            assert!(verifies(&mint, &key), "{alg:?}");
            assert!(!verifies(&mint, &other), "{alg:?} by another key");
            assert!(!verifies(&mint.signed_by(&other), &key), "{alg:?} forged");
        }
    }

    #[test]
    fn every_defect_shows() {
        let key = key(Alg::Es256);
        for defect in DEFECTS {
            let mint = Mint::new("https://issuer", &key).with(*defect);
            assert!(!verifies(&mint, &key), "{defect:?} in {}", mint.token().unwrap());
        }
    }

    #[test]
    fn claims_and_headers_are_what_was_asked_for() {
        let key = key(Alg::EdDsa);
        let mint = Mint::new("https://issuer", &key);
        assert!(!verifies(&mint.clone().expires(-3600), &key));
        assert!(!verifies(&mint.clone().claim("aud", "other"), &key));
        assert!(!verifies(&mint.clone().claim("iss", "https://other"), &key));
        let token = mint.without("sub").without_header("typ").header("x", 1).token().unwrap();
        let parts: Vec<String> = token
            .split('.')
            .map(|part| {
                String::from_utf8_lossy(&URL_SAFE_NO_PAD.decode(part).unwrap()).into_owned()
            })
            .collect();
        assert_eq!(parts[0], r#"{"alg":"EdDSA","kid":"k1","x":1}"#);
        assert!(parts[1].contains(r#""client_id":"billing-api""#) && !parts[1].contains("\"sub\""));
        let raw = Mint::new("https://issuer", &key).raw_payload(r#"{"a":1,"a":2}"#);
        let middle = raw.token().unwrap().split('.').nth(1).unwrap().to_owned();
        assert_eq!(URL_SAFE_NO_PAD.decode(middle).unwrap(), br#"{"a":1,"a":2}"#);
    }
}
