//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS as a client (RFC 5802, RFC 7677, RFC 5929 section 4).
//!
//! Each step consumes the one before, so that a target cannot ask for two proofs, or for a proof
//! after its own: [`First`] answers one challenge and becomes [`Last`], which verifies one answer.
//!
//! Passwords are prepared by SASLprep (RFC 4013) as PostgreSQL does it (`pg_saslprep`): what it
//! prohibits, and what is not UTF-8, is used as the bytes it is.
//!
//! Deriving a key from a password is most of what a login costs, and a target chooses how much. So
//! it is work for another thread ([`Asked::work`]), bounded, and done once: proven keys are kept.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    num::NonZeroU32,
    ops::RangeInclusive,
    sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError},
};

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest, hmac, pbkdf2};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bulla_core::Secret;
use bulla_wire::Work;

/// Iterations that a target may ask for. Fewer would sell the password cheaply to whoever listens
/// (RFC 7677 names 4096 as the least); more would let a target keep a core busy.
const ITERATIONS: RangeInclusive<u32> = 4096..=1_000_000;
/// Longest salt and longest nonce.
const SALT_BYTES_MAX: usize = 1024;
const NONCE_BYTES_MAX: usize = 1024;
/// Derived keys that are kept, over all accounts; and of those that no target has proven yet.
const KEYS_MAX: usize = 1024;
const FRESH_MAX: usize = 16;

const KEY_BYTES: usize = 32;
type Digest = [u8; KEY_BYTES];

/// Derived keys, since deriving one is most of what a login costs. The oldest leaves first.
///
/// Trusted with what a password is worth at one target: whoever reads this memory can log in there.
/// Only keys that a target proved to know get in, so that nobody fills it with salts of his own.
#[derive(Default)]
struct Keys {
    known: HashMap<Digest, Arc<Secret>>,
    order: VecDeque<Digest>,
    /// The latest that were derived: of many logins that begin at once one derives.
    fresh: VecDeque<(Digest, Arc<Secret>)>,
}

impl Keys {
    fn find(&self, id: &Digest) -> Option<Arc<Secret>> {
        let fresh = || self.fresh.iter().find(|(other, _)| other == id).map(|(_, key)| key);
        self.known.get(id).or_else(fresh).cloned()
    }

    fn derived(&mut self, id: Digest, key: Arc<Secret>) {
        self.fresh.push_back((id, key));
        if self.fresh.len() > FRESH_MAX {
            self.fresh.pop_front();
        }
    }

    fn keep(&mut self, id: Digest, key: Arc<Secret>) {
        self.fresh.retain(|(other, _)| *other != id);
        if self.known.insert(id, key).is_some() {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > KEYS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

static KEYS: LazyLock<Mutex<Keys>> = LazyLock::new(Mutex::default);

/// SHA-256 over the parts, each behind its length.
fn sha256(parts: &[&[u8]]) -> Digest {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in parts {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut out = [0; KEY_BYTES];
    out.copy_from_slice(hash.finish().as_ref());
    out
}

fn mac(key: &[u8], data: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data)
}

fn known(id: &Digest) -> Option<Arc<Secret>> {
    KEYS.lock().unwrap_or_else(PoisonError::into_inner).find(id)
}

/// RFC 4013, as `pg_saslprep` applies it.
fn prepared(password: &[u8]) -> Cow<'_, [u8]> {
    match std::str::from_utf8(password) {
        // The profile keeps ASCII; PostgreSQL keeps even what it prohibits there.
        Ok(text) if !text.is_ascii() => match stringprep::saslprep(text) {
            Ok(Cow::Owned(text)) => Cow::Owned(text.into_bytes()),
            Ok(Cow::Borrowed(_)) | Err(_) => Cow::Borrowed(password),
        },
        _ => Cow::Borrowed(password),
    }
}

/// How the exchange is tied to the TLS connection below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// RFC 5929 `tls-server-end-point` data: SCRAM-SHA-256-PLUS.
    EndPoint(Vec<u8>),
    /// We could, but the target did not offer to. The target learns that we could, so that it
    /// notices when somebody between us took its offer away.
    NotOffered,
    /// We cannot.
    Impossible,
}

impl Binding {
    fn header(&self) -> &'static str {
        match self {
            Self::EndPoint(_) => "p=tls-server-end-point,,",
            Self::NotOffered => "y,,",
            Self::Impossible => "n,,",
        }
    }

    fn mechanism(&self) -> &'static str {
        match self {
            Self::EndPoint(_) => "SCRAM-SHA-256-PLUS",
            Self::NotOffered | Self::Impossible => "SCRAM-SHA-256",
        }
    }
}

/// Our first message is made; the target's challenge is awaited.
pub struct First {
    binding: Binding,
    nonce: String,
    bare: String,
}

/// The target has challenged us; its answer needs the key.
pub struct Asked {
    header: &'static str,
    bound: Vec<u8>,
    bare: String,
    challenge: String,
    nonce: String,
    id: Digest,
    password: Secret,
    salt: Vec<u8>,
    iterations: NonZeroU32,
    key: Arc<OnceLock<Arc<Secret>>>,
}

/// Our proof is made; the target's own is awaited.
pub struct Last {
    signature: hmac::Tag,
    id: Digest,
    key: Arc<Secret>,
}

impl First {
    /// `nonce` MUST be fresh randomness.
    pub fn new(nonce: &[u8], binding: Binding) -> Self {
        // The name is empty: PostgreSQL takes it from the startup message and ignores this one.
        Self::named("", STANDARD.encode(nonce), binding)
    }

    fn named(name: &str, nonce: String, binding: Binding) -> Self {
        let bare = format!("n={name},r={nonce}");
        Self { binding, nonce, bare }
    }

    pub fn mechanism(&self) -> &'static str {
        self.binding.mechanism()
    }

    pub fn message(&self) -> String {
        format!("{}{}", self.binding.header(), self.bare)
    }

    /// Reads the target's challenge. `user` only keeps the accounts' cached keys apart.
    pub fn asked(
        self,
        challenge: &str,
        user: &str,
        password: &[u8],
    ) -> Result<Asked, &'static str> {
        let (nonce, salt, iterations) = self.challenge(challenge)?;
        let password = prepared(password);
        let id = sha256(&[user.as_bytes(), &password, &salt, &iterations.get().to_be_bytes()]);
        let key = known(&id).map_or_else(OnceLock::new, OnceLock::from);
        let header = self.binding.header();
        let nonce = nonce.to_owned();
        let bound = match self.binding {
            Binding::EndPoint(data) => data,
            Binding::NotOffered | Binding::Impossible => Vec::new(),
        };
        Ok(Asked {
            header,
            bound,
            bare: self.bare,
            challenge: challenge.to_owned(),
            nonce,
            id,
            password: Secret::new(password.into_owned()),
            salt,
            iterations,
            key: Arc::new(key),
        })
    }

    /// Nonce, salt and iteration count of `r=…,s=…,i=…`, and of nothing else.
    fn challenge<'a>(&self, text: &'a str) -> Result<(&'a str, Vec<u8>, NonZeroU32), &'static str> {
        let mut parts = text.split(',');
        let mut field = |name: &str| parts.next().and_then(|part| part.strip_prefix(name));
        let nonce = field("r=").ok_or("a SCRAM challenge without a nonce")?;
        let salt = field("s=").ok_or("a SCRAM challenge without a salt")?;
        let count = field("i=").ok_or("a SCRAM challenge without a count")?;
        if parts.next().is_some() {
            return Err("a SCRAM challenge with more behind it");
        }
        if nonce.len() > NONCE_BYTES_MAX || !nonce.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("a SCRAM nonce that is too long or not printable");
        }
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("a SCRAM nonce that is not built on ours");
        }
        let salt = STANDARD.decode(salt).map_err(|_| "a SCRAM salt that is not base64")?;
        if salt.is_empty() || salt.len() > SALT_BYTES_MAX {
            return Err("a SCRAM salt of impossible length");
        }
        // `parse` would take a sign, which the grammar does not have.
        if !count.bytes().all(|b| b.is_ascii_digit()) {
            return Err("a SCRAM count that is no number");
        }
        let count: u32 = count.parse().map_err(|_| "a SCRAM count that is no number")?;
        if !ITERATIONS.contains(&count) {
            return Err("a SCRAM count out of range");
        }
        let count = NonZeroU32::new(count).ok_or("a SCRAM count out of range")?;
        Ok((nonce, salt, count))
    }
}

impl Asked {
    /// What is to be done, on a thread that may be busy for up to a second, before there is an
    /// answer. `None`: nothing.
    pub fn work(&self) -> Option<Work> {
        if self.key.get().is_some() {
            return None;
        }
        let (id, salt, iterations) = (self.id, self.salt.clone(), self.iterations);
        let password = Secret::new(self.password.reveal().to_vec());
        let slot = self.key.clone();
        Some(Work::new(move || {
            // Whoever was before us in the queue may have derived it.
            let key = known(&id).unwrap_or_else(|| {
                let mut key = vec![0; KEY_BYTES];
                let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
                pbkdf2::derive(algorithm, iterations, &salt, password.reveal(), &mut key);
                let key = Arc::new(Secret::new(key));
                let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
                keys.derived(id, key.clone());
                key
            });
            let _ = slot.set(key);
        }))
    }

    /// The answer, once the work is done.
    pub fn answer(self) -> Result<(String, Last), &'static str> {
        let key = self.key.get().ok_or("a key that was not derived")?.clone();
        let mut bound = self.header.as_bytes().to_vec();
        bound.extend_from_slice(&self.bound);
        let without_proof = format!("c={},r={}", STANDARD.encode(bound), self.nonce);
        let message = format!("{},{},{without_proof}", self.bare, self.challenge);

        let client_key = mac(key.reveal(), b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
        let signature = mac(stored_key.as_ref(), message.as_bytes());
        let pairs = client_key.as_ref().iter().zip(signature.as_ref());
        let proof: Vec<u8> = pairs.map(|(a, b)| a ^ b).collect();

        let server_key = mac(key.reveal(), b"Server Key");
        let signature = mac(server_key.as_ref(), message.as_bytes());
        let answer = format!("{without_proof},p={}", STANDARD.encode(proof));
        Ok((answer, Last { signature, id: self.id, key }))
    }
}

impl Last {
    /// Verifies that the target knows the password too.
    pub fn verify(self, text: &str) -> Result<(), &'static str> {
        if text.starts_with("e=") {
            return Err("a SCRAM error instead of a signature");
        }
        let signature = text.strip_prefix("v=").ok_or("a SCRAM end without a signature")?;
        let signature =
            STANDARD.decode(signature).map_err(|_| "a SCRAM signature that is not base64")?;
        verify_slices_are_equal(self.signature.as_ref(), &signature)
            .map_err(|_| "a SCRAM signature that does not verify")?;
        KEYS.lock().unwrap_or_else(PoisonError::into_inner).keep(self.id, self.key);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHALLENGE: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                             s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    impl First {
        /// All at once.
        fn answer(
            self,
            challenge: &str,
            user: &str,
            password: &[u8],
        ) -> Result<(String, Last), &'static str> {
            let asked = self.asked(challenge, user, password)?;
            asked.work().into_iter().for_each(Work::run);
            asked.answer()
        }
    }

    fn first(binding: Binding) -> First {
        First::named("user", "rOprNGfwEbeRWgbNEkqO".into(), binding)
    }

    /// RFC 7677, section 3.
    #[test]
    fn rfc_7677_example() {
        let first = first(Binding::Impossible);
        assert_eq!(first.message(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (answer, last) = first.answer(CHALLENGE, "rfc", b"pencil").unwrap();
        assert_eq!(
            answer,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(last.verify("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
    }

    /// Computed apart from this code, with Python's `hmac` and `hashlib`.
    #[test]
    fn bound_and_unbound_proofs() {
        let check = |binding, challenge: &str, password: &str, proof: &str, signature: &str| {
            let (answer, last) =
                first(binding).answer(challenge, "check", password.as_bytes()).unwrap();
            assert!(answer.ends_with(&format!(",p={proof}")), "{answer}");
            assert_eq!(last.verify(&format!("v={signature}")), Ok(()));
        };
        check(
            Binding::EndPoint((0..32).collect()),
            CHALLENGE,
            "pencil",
            "nY1Wus9a+gM2DrbQ1msXFgyhW6KM5ktOxWiU+/P/EGY=",
            "RwppMGddhz/J0lFYaRReBjXcQeNUFP5Qc76Lo5Exrig=",
        );
        check(
            Binding::NotOffered,
            CHALLENGE,
            "pencil",
            "FoqiHTtQEDE8lz1CdaEe3tK4mS+iMDTl77SPyDS53DY=",
            "dI4KpiQJwBr1+V+K6U1dA6l6I4I9DUNXWND4pcpRU3U=",
        );
        check(
            Binding::NotOffered,
            &CHALLENGE.replace("4096", "10000"),
            "pässwörd ☃",
            "3cumZPfoMukLNOFDbrvagw49eBxGOjNFqJocBdYCdmg=",
            "D670FCgdQ72OXBBlvmZw2yE3524JxUAbLZxOHqJBvm0=",
        );
    }

    #[test]
    fn bindings_choose_mechanism_and_header() {
        for (binding, mechanism, message) in [
            (Binding::EndPoint(vec![1]), "SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,n=,r=YWJj"),
            (Binding::NotOffered, "SCRAM-SHA-256", "y,,n=,r=YWJj"),
            (Binding::Impossible, "SCRAM-SHA-256", "n,,n=,r=YWJj"),
        ] {
            assert_eq!(binding.mechanism(), mechanism);
            assert_eq!(First::new(b"abc", binding).message(), message);
        }
    }

    #[test]
    fn weak_foreign_and_malformed_challenges_are_refused() {
        let salt = "W22ZaJ0SNY7soEsUEjb6gQ==";
        let long = "x".repeat(NONCE_BYTES_MAX);
        let big = STANDARD.encode([1; SALT_BYTES_MAX + 1]);
        let answer =
            |text: &str| First::new(b"abc", Binding::Impossible).answer(text, "bad", b"p").err();
        assert_eq!(answer(&format!("r=YWJjx,s={salt},i=4096")), None);
        for bad in [
            String::new(),
            ",,".into(),
            format!("r=other,s={salt},i=4096"),
            format!("r=YWJj,s={salt},i=4096"),
            format!("r=,s={salt},i=4096"),
            format!("r=YWJj x,s={salt},i=4096"),
            format!("r=YWJj\u{e4},s={salt},i=4096"),
            format!("r=YWJj{long},s={salt},i=4096"),
            format!("r=YWJjx,s={salt},i=4095"),
            format!("r=YWJjx,s={salt},i=0"),
            format!("r=YWJjx,s={salt},i=-4096"),
            format!("r=YWJjx,s={salt},i=+4096"),
            format!("r=YWJjx,s={salt},i=1000001"),
            format!("r=YWJjx,s={salt},i=99999999999"),
            format!("r=YWJjx,s={salt},i="),
            format!("r=YWJjx,s={salt}"),
            format!("r=YWJjx,s={salt},i=4096,x=y"),
            format!("m=must,r=YWJjx,s={salt},i=4096"),
            format!("s={salt},r=YWJjx,i=4096"),
            "r=YWJjx,s=!,i=4096".into(),
            "r=YWJjx,s=,i=4096".into(),
            format!("r=YWJjx,s={big},i=4096"),
        ] {
            assert!(answer(&bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_target_that_does_not_know_the_password_is_refused() {
        for bad in [
            "",
            "v=",
            "v=!",
            "e=other-error",
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
            "v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=,x=y",
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95A==",
        ] {
            let (_, last) = first(Binding::Impossible).answer(CHALLENGE, "v", b"pencil").unwrap();
            assert!(last.verify(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_proven_keys_are_kept() {
        let known = |user: &str, password: &[u8]| {
            let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
            let id = sha256(&[user.as_bytes(), password, &salt, &4096u32.to_be_bytes()]);
            KEYS.lock().unwrap().known.contains_key(&id)
        };
        let (_, last) = first(Binding::Impossible).answer(CHALLENGE, "kept", b"pencil").unwrap();
        assert!(!known("kept", b"pencil"));
        last.verify("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap();
        assert!(known("kept", b"pencil"));
        assert!(!known("kept", b"pencil2") && !known("kept2", b"pencil"));
        // From the cache, the same proof.
        let (answer, _) = first(Binding::Impossible).answer(CHALLENGE, "kept", b"pencil").unwrap();
        assert!(answer.ends_with(",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="));
        let (_, last) = first(Binding::Impossible).answer(CHALLENGE, "wrong", b"pencil").unwrap();
        assert!(last.verify("v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").is_err());
        assert!(!known("wrong", b"pencil"));
    }

    #[test]
    fn a_key_is_derived_elsewhere_and_once() {
        let asked = || first(Binding::Impossible).asked(CHALLENGE, "once", b"pencil").unwrap();
        assert!(asked().answer().is_err(), "there is no answer before the work is done");
        let (one, other) = (asked(), asked());
        let (work, again) = (one.work().unwrap(), other.work().unwrap());
        work.run();
        again.run();
        let (one, other) = (one.key.get().unwrap().clone(), other.key.get().unwrap().clone());
        assert!(Arc::ptr_eq(&one, &other), "the second login waits and derives nothing");
        // What no target has proven makes room for what comes.
        for n in 0..FRESH_MAX {
            let key = Arc::new(Secret::new(vec![0; KEY_BYTES]));
            KEYS.lock().unwrap().derived(sha256(&[b"other", &n.to_be_bytes()]), key);
        }
        assert!(asked().work().is_some());
    }

    /// The examples of RFC 4013, section 3, and what PostgreSQL makes of the rest.
    #[test]
    fn passwords_are_prepared_as_postgresql_does() {
        for (password, expect) in [
            ("user", "user"),
            ("USER", "USER"),
            ("I\u{ad}X", "IX"),
            ("\u{aa}", "a"),
            ("\u{2168}", "IX"),
            ("a\u{a0}b", "a b"),
            ("e\u{301}", "\u{e9}"),
            ("\u{fb01}n", "fin"),
            ("\u{7}", "\u{7}"),
            // Prohibited: as it is.
            ("\u{e9}\u{7}", "\u{e9}\u{7}"),
            ("\u{627}1", "\u{627}1"),
        ] {
            assert_eq!(prepared(password.as_bytes()), expect.as_bytes(), "{password:?}");
        }
        assert_eq!(*prepared(b"\xff\xfe"), b"\xff\xfe"[..]);
    }

    #[test]
    fn the_oldest_key_leaves() {
        let mut keys = Keys::default();
        for n in 0..=KEYS_MAX {
            for _ in 0..2 {
                keys.keep(sha256(&[&n.to_be_bytes()]), Arc::new(Secret::new(vec![0; KEY_BYTES])));
            }
        }
        assert_eq!((keys.known.len(), keys.order.len()), (KEYS_MAX, KEYS_MAX));
        assert!(!keys.known.contains_key(&sha256(&[&0usize.to_be_bytes()])));
        assert!(keys.known.contains_key(&sha256(&[&KEYS_MAX.to_be_bytes()])));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(challenge in "(r=YWJj)?[ -~]{0,40}", end in ".{0,60}") {
            // No such challenge asks for enough rounds and is well formed: nothing is derived.
            let answer = First::new(b"abc", Binding::Impossible).answer(&challenge, "any", b"p");
            prop_assert!(answer.is_err());
            let last = first(Binding::Impossible).answer(CHALLENGE, "kept", b"pencil");
            prop_assert!(last.unwrap().1.verify(&end).is_err());
        }
    }
}
