//! Join tokens: good once, for minutes, for one agent.
//!
//! `bulla-join-1.<pin>.<secret>`, both in base64url without padding. The pin is the SHA-256 of the
//! authority's public key (DER, SubjectPublicKeyInfo), so that the agent knows its gateway before
//! it says anything; the secret is 32 random bytes, of which the gateway keeps the SHA-256 only.

use std::{fmt, time::Duration};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use bulla_core::{Digest, Secret};

/// Longest life of a join token.
pub const TOKEN_TTL_MAX: Duration = Duration::from_secs(3_600);

const PREFIX: &str = "bulla-join-1";
/// Longer texts are no token.
const TEXT_BYTES_MAX: usize = 200;

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    let mut out = [0u8; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    Digest(out)
}

/// Random bytes, or None where the system has none.
pub(crate) fn random<const N: usize>() -> Option<[u8; N]> {
    let mut out = [0u8; N];
    SystemRandom::new().fill(&mut out).ok().map(|()| out)
}

/// A join token. Has no `Display`: it is a secret.
pub struct JoinToken {
    pub pin: Digest,
    secret: Secret,
}

impl JoinToken {
    /// A new one, or None where the system has no randomness.
    pub fn new(pin: Digest) -> Option<Self> {
        Some(Self { pin, secret: Secret::new(random::<32>()?.to_vec()) })
    }

    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let mut parts = text.split('.');
        let (prefix, pin, secret) = (parts.next()?, parts.next()?, parts.next()?);
        if prefix != PREFIX || parts.next().is_some() {
            return None;
        }
        let pin: [u8; 32] = BASE64URL.decode(pin).ok()?.try_into().ok()?;
        let secret = BASE64URL.decode(secret).ok().filter(|secret| secret.len() == 32)?;
        Some(Self { pin: Digest(pin), secret: Secret::new(secret) })
    }

    /// The text that is handed to the agent's operator.
    pub fn reveal(&self) -> String {
        let (pin, secret) = (BASE64URL.encode(self.pin.0), self.secret_text());
        format!("{PREFIX}.{pin}.{secret}")
    }

    /// What the agent sends: the secret alone, in base64url.
    pub(crate) fn secret_text(&self) -> String {
        BASE64URL.encode(self.secret.reveal())
    }

    /// What the gateway keeps.
    pub fn hash(&self) -> Digest {
        sha256(self.secret.reveal())
    }

    /// The hash of a secret as an agent sent it.
    pub(crate) fn hash_of(secret_text: &str) -> Option<Digest> {
        if secret_text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let secret = BASE64URL.decode(secret_text).ok().filter(|secret| secret.len() == 32)?;
        Some(sha256(&secret))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_does_not_print() {
        let token = JoinToken::new(Digest([7; 32])).unwrap();
        let text = token.reveal();
        let read = JoinToken::parse(&format!(" {text}\n")).unwrap();
        assert_eq!((read.pin, read.hash()), (token.pin, token.hash()));
        assert_eq!(JoinToken::hash_of(&read.secret_text()), Some(token.hash()));
        assert_eq!(format!("{token:?}"), "JoinToken(..)");
        let (prefix, rest) = text.split_once('.').unwrap();
        for bad in [
            "",
            "bulla-join-1",
            prefix,
            &format!("{prefix}.{rest}.x"),
            &format!("bulla-join-2.{rest}"),
            text.get(..text.len() - 1).unwrap(),
            &"a".repeat(1_000),
        ] {
            assert!(JoinToken::parse(bad).is_none(), "{bad}");
        }
        for bad in ["", "AAAA", "=", &"A".repeat(1_000)] {
            assert_eq!(JoinToken::hash_of(bad), None, "{bad}");
        }
    }
}
