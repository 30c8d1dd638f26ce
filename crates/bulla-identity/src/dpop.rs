//! Proofs of possession (RFC 9449): a JWT, signed with the client's own key, for one request and
//! one token.

use std::collections::HashMap;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bulla_core::{Digest, Secret, Timestamp};
use parking_lot::Mutex;

use crate::{
    error::{Refused, Word},
    json::{Json, Object},
    jwk::verify_with,
    jwt::{Algorithm, base64url, numeric_date},
};

/// Longest proof, in bytes.
const PROOF_BYTES_MAX: usize = 8 * 1024;
/// How old, or how far ahead, a proof may be.
const AGE_MS_MAX: u64 = 60_000;
/// Proofs that are remembered. More in so short a time are refused, not forgotten.
const SEEN_MAX: usize = 200_000;

/// What a proof is for.
pub(crate) struct Use<'a> {
    pub method: &'a str,
    pub url: &'a str,
    pub token: &'a Secret,
}

/// Proofs that were used, so that none is used twice.
#[derive(Default)]
pub(crate) struct Seen(Mutex<HashMap<Digest, Timestamp>>);

impl Seen {
    fn first(&self, proof: Digest, now: Timestamp) -> bool {
        let mut seen = self.0.lock();
        if seen.len() >= SEEN_MAX {
            seen.retain(|_, until| now < *until);
        }
        seen.len() < SEEN_MAX && seen.insert(proof, now.plus_ms(2 * AGE_MS_MAX + 1_000)).is_none()
    }
}

fn refuse(why: &'static str) -> Refused {
    Refused::new(Word::NotBound, why)
}

/// Checks a proof (RFC 9449 4.3). Returns the thumbprint (RFC 7638) of the key that signed it.
pub(crate) fn check(
    proof: &Secret,
    what: &Use<'_>,
    seen: &Seen,
    now: Timestamp,
) -> Result<String, Refused> {
    let proof = proof.reveal();
    if proof.len() > PROOF_BYTES_MAX {
        return Err(refuse("the proof is too long"));
    }
    let segments: Vec<&[u8]> = proof.split(|byte| *byte == b'.').collect();
    let [header, payload, signature] = segments[..] else {
        return Err(refuse("a proof has three segments"));
    };
    let signed = proof.get(..header.len() + 1 + payload.len()).unwrap_or_default();
    let read = |segment: &[u8]| {
        let bytes = base64url(segment).ok_or(refuse("the proof is not strict base64url"))?;
        Json::object(&bytes).map_err(|_| refuse("the proof holds no object"))
    };
    let (header, claims) = (read(header)?, read(payload)?);
    let signature = base64url(signature).ok_or(refuse("the proof is not strict base64url"))?;
    let text = |object: &Object, name: &str| {
        object.get(name).and_then(Json::text).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    if text(&header, "typ").as_deref() != Some("dpop+jwt") || header.contains_key("crit") {
        return Err(refuse("the proof is of another type"));
    }
    let algorithm = text(&header, "alg").and_then(|name| Algorithm::parse(&name));
    let algorithm = algorithm.ok_or(refuse("the proof's algorithm is not allowed"))?;
    let Some(Json::Object(jwk)) = header.get("jwk") else {
        return Err(refuse("the proof brings no key"));
    };
    let thumbprint = thumbprint(jwk).ok_or(refuse("the proof's key is of no kind that we know"))?;
    verify_with(jwk, algorithm, signed, &signature)?;
    if text(&claims, "htm").as_deref() != Some(what.method) {
        return Err(refuse("the proof is for another method"));
    }
    if text(&claims, "htu").as_deref().map(normal) != Some(normal(what.url)) {
        return Err(refuse("the proof is for another address"));
    }
    let hash = URL_SAFE_NO_PAD.encode(digest(&SHA256, what.token.reveal()));
    if text(&claims, "ath") != Some(hash) {
        return Err(refuse("the proof is for another token"));
    }
    let issued = claims.get("iat").and_then(numeric_date);
    let issued = issued.ok_or(refuse("the proof does not say when it was made"))?;
    if now > issued.plus_ms(AGE_MS_MAX) || issued > now.plus_ms(AGE_MS_MAX) {
        return Err(refuse("the proof is too old, or from the future"));
    }
    let jti = text(&claims, "jti").ok_or(refuse("the proof has no id"))?;
    let mut own = [0; 32];
    own.copy_from_slice(digest(&SHA256, format!("{thumbprint}.{jti}").as_bytes()).as_ref());
    // Last, so that what is not good anyway takes no room.
    if seen.first(Digest(own), now) {
        Ok(thumbprint)
    } else {
        Err(refuse("the proof was used before"))
    }
}

/// Without query and fragment (RFC 9449 4.2), the scheme's own port left out, host in lower case.
fn normal(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let url = url.get(..end).unwrap_or(url);
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix(":443").unwrap_or(&host);
    let path = if path.is_empty() { "/" } else { path };
    format!("{}://{host}{path}", scheme.to_ascii_lowercase())
}

/// RFC 7638: the required members, in their order, without blanks.
fn thumbprint(jwk: &Object) -> Option<String> {
    let member = |name: &str| {
        let value = jwk.get(name).and_then(Json::text)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        value.bytes().all(plain).then(|| format!("\"{name}\":\"{value}\""))
    };
    let names: &[&str] = match jwk.get("kty").and_then(Json::text)? {
        "EC" => &["crv", "kty", "x", "y"],
        "OKP" => &["crv", "kty", "x"],
        "RSA" => &["e", "kty", "n"],
        _ => return None,
    };
    let members: Option<Vec<String>> = names.iter().map(|name| member(name)).collect();
    let text = format!("{{{}}}", members?.join(","));
    Some(URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thumbprint_is_that_of_rfc_7638() {
        let jwk = br#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}"#;
        let jwk = Json::object(jwk).unwrap();
        assert_eq!(
            thumbprint(&jwk).as_deref(),
            Some("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs")
        );
    }

    #[test]
    fn addresses_compare_without_query_and_default_port() {
        for (a, b, same) in [
            ("https://api.example/a?x=1", "https://API.example:443/a#f", true),
            ("https://api.example", "https://api.example/", true),
            ("https://api.example/a", "https://api.example/b", false),
            ("https://api.example/a", "http://api.example/a", false),
            ("https://api.example:8443/a", "https://api.example/a", false),
        ] {
            assert_eq!(normal(a) == normal(b), same, "{a} {b}");
        }
    }

    #[test]
    fn a_proof_is_used_once() {
        let seen = Seen::default();
        let now = Timestamp::from_secs(1_000);
        assert!(seen.first(Digest([1; 32]), now) && seen.first(Digest([2; 32]), now));
        assert!(!seen.first(Digest([1; 32]), now));
    }
}
