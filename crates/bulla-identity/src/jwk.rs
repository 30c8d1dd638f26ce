//! Public keys of issuers (RFC 7517, 7518, 8037) and the verification of signatures with them.
//!
//! A key fits exactly one family of algorithms, fixed by its own type and curve; the token's header
//! has no say in how its bytes are read. What is weak, private, symmetric, for encryption or of a
//! kind that we do not know is left out of the set, and counted.

use std::collections::HashMap;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, RsaPublicKeyComponents,
};

use crate::{
    error::{Refused, Word},
    json::{Json, Object},
    jwt::{Algorithm, KID_BYTES_MAX, base64url},
};

/// Most keys in one set.
pub const KEYS_MAX: usize = 128;
/// Smallest and largest RSA modulus, in bits.
pub const RSA_BITS_MIN: usize = 2_048;
pub const RSA_BITS_MAX: usize = 8_192;
/// Largest RSA exponent, in bytes.
const RSA_EXPONENT_BYTES_MAX: usize = 8;

/// The keys of one issuer that can verify something, by id.
#[derive(Debug, Default)]
pub(crate) struct KeySet {
    keys: HashMap<String, Vec<Key>>,
    /// How many keys can verify something.
    pub usable: usize,
    /// How many were left out.
    pub ignored: usize,
}

#[derive(Debug)]
struct Key {
    /// The key's own `alg`: it verifies nothing else.
    only: Option<Algorithm>,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Rsa { pkcs1: ParsedPublicKey, pss: ParsedPublicKey },
    P256(ParsedPublicKey),
    P384(ParsedPublicKey),
    Ed25519(ParsedPublicKey),
}

impl KeySet {
    /// Reads a JWK set. None: not a strict key set. A set may come out empty.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let document = Json::object(bytes).ok()?;
        let Some(Json::Array(items)) = document.get("keys") else { return None };
        if items.len() > KEYS_MAX {
            return None;
        }
        let mut set = Self::default();
        for item in items {
            let Json::Object(jwk) = item else { return None };
            match read_key(jwk) {
                Some((kid, key)) => {
                    set.keys.entry(kid).or_default().push(key);
                    set.usable += 1;
                }
                None => set.ignored += 1,
            }
        }
        Some(set)
    }

    pub(crate) fn contains(&self, kid: &str) -> bool {
        self.keys.contains_key(kid)
    }

    /// Verifies `signature` over `signed` with the one key that has this id and fits the algorithm.
    pub(crate) fn verify(
        &self,
        kid: &str,
        algorithm: Algorithm,
        signed: &[u8],
        signature: &[u8],
    ) -> Result<(), Refused> {
        let named = self
            .keys
            .get(kid)
            .ok_or(Refused::new(Word::UnknownKey, "the issuer has no key of this id"))?;
        let mut fitting = named.iter().filter_map(|key| key.fitting(algorithm));
        let (key, more) = (fitting.next(), fitting.next());
        let key = match (key, more) {
            (Some(key), None) => key,
            (None, _) => {
                let why = "the key of this id is for another algorithm";
                return Err(Refused::new(Word::AlgorithmNotAllowed, why));
            }
            (Some(_), Some(_)) => {
                let why = "the issuer has two keys of this id";
                return Err(Refused::new(Word::UnknownKey, why));
            }
        };
        if key.verify_sig(signed, signature).is_ok() {
            Ok(())
        } else {
            Err(Refused::new(Word::BadSignature, "the signature does not verify"))
        }
    }
}

impl Key {
    fn fitting(&self, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        if self.only.is_some_and(|only| only != algorithm) {
            return None;
        }
        match (&self.material, algorithm) {
            (Material::Rsa { pkcs1, .. }, Algorithm::Rs256) => Some(pkcs1),
            (Material::Rsa { pss, .. }, Algorithm::Ps256) => Some(pss),
            (Material::P256(key), Algorithm::Es256) => Some(key),
            (Material::P384(key), Algorithm::Es384) => Some(key),
            (Material::Ed25519(key), Algorithm::EdDsa) => Some(key),
            (Material::Rsa { .. }, Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa)
            | (Material::P256(_) | Material::P384(_), Algorithm::Rs256 | Algorithm::Ps256)
            | (Material::P256(_), Algorithm::Es384 | Algorithm::EdDsa)
            | (Material::P384(_), Algorithm::Es256 | Algorithm::EdDsa)
            | (
                Material::Ed25519(_),
                Algorithm::Rs256 | Algorithm::Ps256 | Algorithm::Es256 | Algorithm::Es384,
            ) => None,
        }
    }
}

/// Verifies a signature with a key that a proof brings along: good for that proof and for nothing
/// else.
pub(crate) fn verify_with(
    jwk: &Object,
    algorithm: Algorithm,
    signed: &[u8],
    signature: &[u8],
) -> Result<(), Refused> {
    let why = "the proof's key is not good for its algorithm";
    let unfit = Refused::new(Word::AlgorithmNotAllowed, why);
    let key = read_material(jwk).ok_or(unfit.clone())?;
    let fitting = key.fitting(algorithm).ok_or(unfit)?;
    let bad = Refused::new(Word::BadSignature, "the proof's signature does not verify");
    fitting.verify_sig(signed, signature).map_err(|_| bad)
}

/// One key with its id. None: not for verifying, or not good enough.
fn read_key(jwk: &Object) -> Option<(String, Key)> {
    let kid = jwk.get("kid").and_then(Json::text);
    let kid = kid.filter(|kid| !kid.is_empty() && kid.len() <= KID_BYTES_MAX)?;
    Some((kid.to_owned(), read_material(jwk)?))
}

fn read_material(jwk: &Object) -> Option<Key> {
    let text = |name: &str| jwk.get(name).and_then(Json::text);
    // A private or symmetric key in public is nobody's key any more.
    if ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].iter().any(|name| jwk.contains_key(*name)) {
        return None;
    }
    match jwk.get("use") {
        None => {}
        Some(Json::Text(usage)) if usage == "sig" => {}
        Some(_) => return None,
    }
    match jwk.get("key_ops") {
        None => {}
        Some(Json::Array(ops)) if ops.iter().any(|op| op.text() == Some("verify")) => {}
        Some(_) => return None,
    }
    let only = match jwk.get("alg") {
        None => None,
        Some(Json::Text(name)) => Some(Algorithm::parse(name)?),
        Some(_) => return None,
    };
    let bytes = |name: &str| text(name).and_then(|value| base64url(value.as_bytes()));
    let material = match (text("kty")?, text("crv")) {
        ("RSA", None) => read_rsa(&bytes("n")?, &bytes("e")?)?,
        ("EC", Some("P-256")) => {
            let point = point(&bytes("x")?, &bytes("y")?, 32)?;
            Material::P256(ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok()?)
        }
        ("EC", Some("P-384")) => {
            let point = point(&bytes("x")?, &bytes("y")?, 48)?;
            Material::P384(ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).ok()?)
        }
        ("OKP", Some("Ed25519")) => {
            let point = bytes("x").filter(|x| x.len() == 32)?;
            Material::Ed25519(ParsedPublicKey::new(&ED25519, point).ok()?)
        }
        _ => return None,
    };
    let key = Key { only, material };
    // A key whose `alg` belongs to another type verifies nothing.
    Algorithm::ALL.into_iter().any(|algorithm| key.fitting(algorithm).is_some()).then_some(key)
}

fn read_rsa(n: &[u8], e: &[u8]) -> Option<Material> {
    let strip =
        |bytes: &[u8]| -> Vec<u8> { bytes.iter().copied().skip_while(|byte| *byte == 0).collect() };
    let (n, e) = (strip(n), strip(e));
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) || n.last().is_some_and(|b| b & 1 == 0) {
        return None;
    }
    // 1 would make every message its own signature; an even exponent has no inverse.
    let odd = e.last().is_some_and(|byte| byte & 1 == 1);
    if !odd || e == [1] || e.len() > RSA_EXPONENT_BYTES_MAX {
        return None;
    }
    let components = RsaPublicKeyComponents { n, e };
    Some(Material::Rsa {
        pkcs1: components.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).ok()?,
        pss: components.to_parsed_public_key(&RSA_PSS_2048_8192_SHA256).ok()?,
    })
}

/// An uncompressed point (SEC 1, 2.3.3). Coordinates have the full length of the field.
fn point(x: &[u8], y: &[u8], len: usize) -> Option<Vec<u8>> {
    if x.len() != len || y.len() != len {
        return None;
    }
    let mut out = Vec::with_capacity(1 + 2 * len);
    out.push(4);
    out.extend_from_slice(x);
    out.extend_from_slice(y);
    Some(out)
}
