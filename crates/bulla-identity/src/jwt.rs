//! Strict compact JWS (RFC 7515) and the time, issuer and audience rules of JWTs (RFC 7519, 8725,
//! 9068). Pure: bytes, keys and `now` come in, claims or a refusal go out.
//!
//! A header decides nothing here. It may only name what our configuration already allows: an
//! algorithm of the issuer's list, and a key of the issuer's set by its exact id. Keys and URLs
//! that a header brings along (`jwk`, `jku`, `x5u`, `x5c`) are never looked at.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bulla_core::Timestamp;

use crate::{
    error::{Refused, Word},
    json::{Json, Object},
};

/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Longest key id, in bytes.
pub const KID_BYTES_MAX: usize = 512;
/// Most audiences of one token.
pub const AUDIENCES_MAX: usize = 64;
/// The last second that a numeric date may name: the end of year 9999.
const DATE_SECS_MAX: u64 = 253_402_300_799;

/// A signature algorithm that we accept. There is no `none` and no HMAC, so that neither can be
/// configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    Rs256,
    Ps256,
    Es256,
    Es384,
    /// Ed25519 (RFC 8037); Ed448 is not implemented.
    EdDsa,
}

impl Algorithm {
    pub const ALL: [Self; 5] = [Self::Rs256, Self::Ps256, Self::Es256, Self::Es384, Self::EdDsa];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// Exact and case-sensitive, as RFC 7515 4.1.1 says.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Decodes base64url without padding, in its canonical form only (RFC 7515 2): no `=`, no white
/// space, no other alphabet, no stray bits in the last character.
pub(crate) fn base64url(text: &[u8]) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// A token taken apart. Nothing in it is verified.
pub(crate) struct Unverified<'a> {
    pub algorithm: Algorithm,
    pub kid: String,
    pub typ: Option<String>,
    /// What is signed: header and payload with the dot between them.
    pub signed: &'a [u8],
    pub signature: Vec<u8>,
    claims: Object,
}

impl<'a> Unverified<'a> {
    /// Takes a token apart, strictly.
    pub(crate) fn parse(token: &'a [u8]) -> Result<Self, Refused> {
        let malformed = |why| Refused::new(Word::Malformed, why);
        if token.len() > TOKEN_BYTES_MAX {
            return Err(malformed("the token is too long"));
        }
        let mut segments = token.split(|byte| *byte == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (segments.next(), segments.next(), segments.next(), segments.next())
        else {
            return Err(malformed("a token has three segments"));
        };
        let decode = |segment: &[u8]| match base64url(segment) {
            Some(bytes) if !bytes.is_empty() => Ok(bytes),
            _ => Err(malformed("a segment is empty or not strict base64url")),
        };
        let signed = token
            .get(..header.len() + 1 + payload.len())
            .ok_or(Refused::new(Word::Bug, "the segments are longer than the token"))?;
        let header = decode(header)?;
        let payload = decode(payload)?;
        let signature = decode(signature)?;
        let header = Json::object(&header).map_err(|_| malformed("the header is no object"))?;
        let claims = Json::object(&payload).map_err(|_| malformed("the payload is no object"))?;
        let Header { algorithm, kid, typ } = Header::read(&header)?;
        Ok(Self { algorithm, kid, typ, signed, signature, claims })
    }

    /// The claim `iss`, to look the issuer up by.
    pub(crate) fn issuer(&self) -> Result<&str, Refused> {
        self.claims.get("iss").and_then(Json::text).ok_or(Refused::claim(
            Word::MissingClaim,
            "missing or not a text",
            "iss",
        ))
    }

    /// The claims. MUST be called only after `signature` was verified over `signed`.
    pub(crate) fn into_claims(self) -> Object {
        self.claims
    }
}

struct Header {
    algorithm: Algorithm,
    kid: String,
    typ: Option<String>,
}

impl Header {
    fn read(header: &Object) -> Result<Self, Refused> {
        let malformed = |why| Refused::new(Word::Malformed, why);
        // Extensions that would change what the signature or the payload means. Encryption, or a
        // token within the token, would hide what is judged.
        for name in ["crit", "b64", "zip", "enc", "cty", "epk", "apu", "apv", "p2s", "p2c"] {
            if header.contains_key(name) {
                return Err(Refused::claim(
                    Word::Malformed,
                    "the header has an extension that is not accepted:",
                    name,
                ));
            }
        }
        let algorithm = match header.get("alg") {
            Some(Json::Text(name)) => Algorithm::parse(name).ok_or(Refused::new(
                Word::AlgorithmNotAllowed,
                "not an algorithm that is implemented",
            ))?,
            Some(_) => return Err(malformed("the algorithm is not a text")),
            None => return Err(malformed("the header names no algorithm")),
        };
        let kid = match header.get("kid") {
            Some(Json::Text(kid)) if !kid.is_empty() && kid.len() <= KID_BYTES_MAX => kid.clone(),
            Some(_) => return Err(malformed("the key id is empty, too long or not a text")),
            None => return Err(malformed("the header names no key id")),
        };
        let typ = match header.get("typ") {
            Some(Json::Text(typ)) if !typ.is_empty() => Some(typ.clone()),
            Some(_) => return Err(malformed("the typ is empty or not a text")),
            None => None,
        };
        Ok(Self { algorithm, kid, typ })
    }
}

/// Whether a `typ` is one of `accepted`, where an empty text stands for none. Media types compare
/// without case, and `application/` may be left out (RFC 7515 4.1.9).
pub(crate) fn typ_matches(accepted: &[String], typ: Option<&str>) -> bool {
    let Some(typ) = typ else { return accepted.iter().any(String::is_empty) };
    let short = |text: &'_ str| -> String {
        let lower = text.to_ascii_lowercase();
        match lower.strip_prefix("application/") {
            Some(rest) if !rest.contains('/') => rest.to_owned(),
            _ => lower,
        }
    };
    let typ = short(typ);
    !typ.is_empty() && accepted.iter().any(|accept| short(accept) == typ)
}

/// What an issuer's tokens must say.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub issuer: String,
    pub audience: String,
    pub max_ttl_secs: u64,
    pub leeway_secs: u64,
    /// Claims that the profile makes mandatory, with the type that they must have.
    pub mandatory: &'static [(&'static str, ClaimType)],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClaimType {
    Text,
    Object,
}

/// When a token was issued and when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lifetime {
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
}

impl Rules {
    /// Checks the claims of a token whose signature is good.
    pub(crate) fn check(&self, claims: &Object, now: Timestamp) -> Result<Lifetime, Refused> {
        let missing = |name| Refused::claim(Word::MissingClaim, "missing", name);
        let malformed = |name| Refused::claim(Word::Malformed, "not well formed:", name);
        match claims.get("iss") {
            Some(Json::Text(iss)) if *iss == self.issuer => {}
            Some(Json::Text(_)) => {
                return Err(Refused::new(Word::UnknownIssuer, "signed for another issuer"));
            }
            Some(_) => return Err(malformed("iss")),
            None => return Err(missing("iss")),
        }
        self.check_audience(claims)?;
        // `azp` and `client_id` are not compared here (an issuer's `required` does that), but
        // whoever reads them later must find a text.
        for name in ["sub", "azp", "client_id", "jti"] {
            match claims.get(name) {
                Some(Json::Text(text)) if !text.is_empty() => {}
                Some(_) => return Err(malformed(name)),
                None if name == "sub" => return Err(missing(name)),
                None => {}
            }
        }
        for (name, kind) in self.mandatory {
            match (claims.get(*name), kind) {
                (Some(Json::Text(_)), ClaimType::Text) => {}
                (Some(Json::Object(_)), ClaimType::Object) => {}
                (Some(_), _) => return Err(malformed(name)),
                (None, _) => return Err(missing(name)),
            }
        }
        self.check_time(claims, now)
    }

    fn check_audience(&self, claims: &Object) -> Result<(), Refused> {
        let malformed = || Refused::claim(Word::Malformed, "not well formed:", "aud");
        let ours = match claims.get("aud") {
            Some(Json::Text(aud)) => *aud == self.audience,
            Some(Json::Array(list)) if list.len() <= AUDIENCES_MAX => {
                let mut ours = false;
                for item in list {
                    ours |= item.text().ok_or_else(malformed)? == self.audience;
                }
                ours
            }
            Some(_) => return Err(malformed()),
            None => return Err(Refused::claim(Word::MissingClaim, "missing", "aud")),
        };
        if ours { Ok(()) } else { Err(Refused::new(Word::WrongAudience, "meant for another")) }
    }

    fn check_time(&self, claims: &Object, now: Timestamp) -> Result<Lifetime, Refused> {
        let date = |name: &'static str| -> Result<Option<Timestamp>, Refused> {
            match claims.get(name) {
                None => Ok(None),
                Some(value) => numeric_date(value).map(Some).ok_or(Refused::claim(
                    Word::Malformed,
                    "not a numeric date:",
                    name,
                )),
            }
        };
        let missing = |name| Refused::claim(Word::MissingClaim, "missing", name);
        let expires_at = date("exp")?.ok_or_else(|| missing("exp"))?;
        let issued_at = date("iat")?.ok_or_else(|| missing("iat"))?;
        let not_before = date("nbf")?;
        let leeway_ms = self.leeway_secs.saturating_mul(1_000);
        if now >= expires_at.plus_ms(leeway_ms) {
            return Err(Refused::new(Word::Expired, "the token has expired"));
        }
        if not_before.is_some_and(|start| now.plus_ms(leeway_ms) < start) {
            return Err(Refused::new(Word::NotYetValid, "the token is not valid yet"));
        }
        if now.plus_ms(leeway_ms) < issued_at {
            return Err(Refused::new(Word::BadLifetime, "the token was issued in the future"));
        }
        if expires_at <= issued_at {
            return Err(Refused::new(Word::BadLifetime, "the token ends before it begins"));
        }
        if expires_at > issued_at.plus_ms(self.max_ttl_secs.saturating_mul(1_000)) {
            return Err(Refused::new(Word::BadLifetime, "the token lives longer than allowed"));
        }
        Ok(Lifetime { issued_at, expires_at })
    }
}

/// RFC 7519 2, NumericDate: seconds since the epoch, perhaps with a fraction; from 1970 to 9999.
pub(crate) fn numeric_date(value: &Json) -> Option<Timestamp> {
    match value {
        Json::Integer(secs) => {
            let secs = u64::try_from(*secs).ok().filter(|secs| *secs <= DATE_SECS_MAX)?;
            Some(Timestamp::from_secs(secs))
        }
        Json::Float(secs) if *secs >= 0.0 && *secs <= DATE_SECS_MAX as f64 => {
            // In milliseconds the value fits in 53 bits, so that the conversion is exact enough.
            Some(Timestamp::default().plus_ms((*secs * 1_000.0).floor() as u64))
        }
        _ => None,
    }
}
