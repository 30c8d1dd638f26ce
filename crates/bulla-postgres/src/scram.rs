//! SCRAM-SHA-256 as a client (RFC 5802, RFC 7677), with the derived keys cached: deriving them is
//! most of what a login costs.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{LazyLock, Mutex, PoisonError},
};

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest, hmac, pbkdf2};
use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Fewest iterations that a target may ask for, and most.
const ITERATIONS: std::ops::RangeInclusive<u32> = 4096..=1_000_000;
/// Derived keys that are kept.
const CACHE_MAX: usize = 1024;

type Key = [u8; 32];

static CACHE: LazyLock<Mutex<HashMap<Key, Key>>> = LazyLock::new(Mutex::default);

fn sha256(parts: &[&[u8]]) -> Key {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in parts {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(hash.finish().as_ref());
    out
}

fn mac(key: &[u8], data: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data)
}

fn salted(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Key {
    let id = sha256(&[password, salt, &iterations.get().to_be_bytes()]);
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(key) = cache.get(&id) {
        return *key;
    }
    let mut key = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password, &mut key);
    if cache.len() >= CACHE_MAX {
        cache.clear();
    }
    cache.insert(id, key);
    key
}

/// One exchange.
pub struct Scram {
    header: &'static str,
    binding: Vec<u8>,
    nonce: String,
    first_bare: String,
    server: Option<hmac::Tag>,
}

impl Scram {
    /// `end_point`: RFC 5929 data when SCRAM-SHA-256-PLUS is used. `could_bind`: we have such data,
    /// but the target did not offer to bind.
    pub fn new(nonce: &[u8], end_point: Option<&[u8]>, could_bind: bool) -> Self {
        let header = match (end_point, could_bind) {
            (Some(_), _) => "p=tls-server-end-point,,",
            (None, true) => "y,,",
            (None, false) => "n,,",
        };
        let nonce = STANDARD.encode(nonce);
        let first_bare = format!("n=,r={nonce}");
        let binding = end_point.unwrap_or_default().to_vec();
        Self { header, binding, nonce, first_bare, server: None }
    }

    pub fn first(&self) -> String {
        format!("{}{}", self.header, self.first_bare)
    }

    /// Answers the target's first message.
    pub fn answer(&mut self, server_first: &str, password: &[u8]) -> Result<String, &'static str> {
        let mut parts = server_first.split(',');
        let mut field = |name: &str| parts.next().and_then(|p| p.strip_prefix(name));
        let nonce = field("r=").ok_or("a SCRAM challenge without a nonce")?;
        let salt = field("s=").ok_or("a SCRAM challenge without a salt")?;
        let iterations = field("i=").ok_or("a SCRAM challenge without a count")?;
        if !nonce.starts_with(&self.nonce) || nonce.len() <= self.nonce.len() {
            return Err("a SCRAM nonce that is not built on ours");
        }
        let salt = STANDARD.decode(salt).map_err(|_| "a SCRAM salt that is not base64")?;
        let count: u32 = iterations.parse().map_err(|_| "a SCRAM count that is no number")?;
        if !ITERATIONS.contains(&count) {
            return Err("a SCRAM count out of range");
        }
        let count = NonZeroU32::new(count).ok_or("a SCRAM count of zero")?;
        let salted = salted(password, &salt, count);
        let client_key = mac(&salted, b"Client Key");
        let stored = digest::digest(&digest::SHA256, client_key.as_ref());
        let mut bound = self.header.as_bytes().to_vec();
        bound.extend_from_slice(&self.binding);
        let without_proof = format!("c={},r={nonce}", STANDARD.encode(bound));
        let message = format!("{},{server_first},{without_proof}", self.first_bare);
        let signature = mac(stored.as_ref(), message.as_bytes());
        let pairs = client_key.as_ref().iter().zip(signature.as_ref());
        let proof: Vec<u8> = pairs.map(|(a, b)| a ^ b).collect();
        let server_key = mac(&salted, b"Server Key");
        self.server = Some(mac(server_key.as_ref(), message.as_bytes()));
        Ok(format!("{without_proof},p={}", STANDARD.encode(proof)))
    }

    /// Verifies that the target knows the password too.
    pub fn verify(&self, server_final: &str) -> Result<(), &'static str> {
        let signature = server_final.strip_prefix("v=").ok_or("a SCRAM end without a signature")?;
        let signature =
            STANDARD.decode(signature).map_err(|_| "a SCRAM signature in bad base64")?;
        let expected = self.server.as_ref().ok_or("a SCRAM end before its challenge")?;
        verify_slices_are_equal(expected.as_ref(), &signature)
            .map_err(|_| "a SCRAM signature that does not verify")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677, section 3. PostgreSQL ignores the name, which RFC's example has: it is put in.
    #[test]
    fn rfc_7677_example() {
        let mut scram = Scram::new(b"", None, false);
        scram.nonce = "rOprNGfwEbeRWgbNEkqO".into();
        scram.first_bare = "n=user,r=rOprNGfwEbeRWgbNEkqO".into();
        let challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let answer = scram.answer(challenge, b"pencil").unwrap();
        assert!(answer.ends_with("p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="), "{answer}");
        assert_eq!(scram.verify("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
        assert!(scram.verify("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=").is_err());
    }

    #[test]
    fn weak_and_foreign_challenges_are_refused() {
        for bad in [
            "r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=YWJj,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=YWJjx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1",
            "r=YWJjx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=99999999",
            "r=YWJjx,s=!,i=4096",
            "",
        ] {
            assert!(Scram::new(b"abc", None, false).answer(bad, b"p").is_err(), "{bad}");
        }
        assert!(
            Scram::new(b"abc", Some(b"cert"), true).first().starts_with("p=tls-server-end-point")
        );
        assert!(Scram::new(b"abc", None, true).first().starts_with("y,,"));
    }
}
