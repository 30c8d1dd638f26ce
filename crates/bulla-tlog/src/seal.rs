//! Sealing: the private part of an entry and the bulk bytes of a session, under the session's data
//! key. Specification: `docs/formats/keys.md`.
//!
//! AES-256-GCM with counted nonces: an entry's is its number in the session, an object's is its own
//! number, and a first byte keeps the two apart. One key schedule serves a whole session, and no
//! nonce can meet another plaintext, because [`Sealer`] is the only one who seals, cannot be cloned
//! and never takes a number twice. GCM does not commit to its key, so `dek_commit` does, in the
//! session's first entry; nor does a ciphertext commit to a plaintext once the key may be chosen
//! afterwards, so each object carries a salted commitment of its own.
//!
//! Whoever holds the data key can read and forge the private part, not the log: the hashes of entry
//! and ciphertext are in the tree.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    constant_time, hkdf, hmac,
};

use crate::{
    cbor::{BYTES, push_head},
    entry::{Direction, Encoding, Entry, EntryError, ObjectRef, check_len},
    hash::Hash,
};

/// Length of a data key, in bytes.
pub const DEK_BYTES: usize = 32;
/// What sealing adds, in bytes.
pub const TAG_BYTES: usize = 16;
/// Longest plaintext of one object, in bytes, before compression.
pub const OBJECT_BYTES_MAX: usize = 1 << 24;

const DOMAIN_ENTRY: u8 = 1;
const DOMAIN_OBJECT: u8 = 2;

/// A session's data key: 32 random bytes, from whoever has randomness. Overwritten when dropped.
pub struct Dek([u8; DEK_BYTES]);

impl Dek {
    pub fn new(bytes: [u8; DEK_BYTES]) -> Self {
        Self(bytes)
    }
    /// **The secret itself**, for wrapping it to its readers.
    pub fn secret(&self) -> &[u8; DEK_BYTES] {
        &self.0
    }
    /// `SHA-256("bulla/dek" || key)`: the `dek_commit` of the session's first entry.
    pub fn commit(&self) -> [u8; 32] {
        Hash::of_parts(&[b"bulla/dek", &self.0]).0
    }
}

impl Drop for Dek {
    fn drop(&mut self) {
        self.0.fill(0);
        // Keeps the store from being optimised away.
        std::hint::black_box(&self.0);
    }
}

impl fmt::Debug for Dek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dek(..)")
    }
}

/// Why something was not sealed or not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("entry: {0}")]
    Entry(#[from] EntryError),
    #[error("entry is of another session, or of none")]
    Session,
    #[error("a number in the session was used before")]
    Reused,
    #[error("entry has nothing sealed")]
    NotSealed,
    #[error("entry is sealed already")]
    Sealed,
    #[error("object is longer than {OBJECT_BYTES_MAX} bytes")]
    TooLong,
    #[error("key is not the one that the session committed to")]
    Key,
    #[error("object's ciphertext is not the one that the entry names")]
    Ciphertext,
    #[error("object's plaintext is not the one that the entry commits to")]
    Plaintext,
    #[error("does not open under this key")]
    Open,
    #[error("cryptographic library failed")]
    Crypto,
}

/// What sealing and opening share: two keys out of the one, so that none serves two purposes.
struct Keys {
    sid: [u8; 16],
    aead: LessSafeKey,
    salt: hmac::Key,
}

impl Keys {
    fn new(dek: &Dek, sid: [u8; 16]) -> Result<Self, SealError> {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"bulla/dek").extract(&dek.0);
        let derive = |label: &[u8]| {
            let mut key = [0; 32];
            let info = [label, &sid[..]];
            let okm = prk.expand(&info, hkdf::HKDF_SHA256).map_err(|_| SealError::Crypto)?;
            okm.fill(&mut key).map_err(|_| SealError::Crypto)?;
            Ok::<_, SealError>(key)
        };
        let aead =
            UnboundKey::new(&AES_256_GCM, &derive(b"enc")?).map_err(|_| SealError::Crypto)?;
        let salt = hmac::Key::new(hmac::HMAC_SHA256, &derive(b"salt")?);
        Ok(Self { sid, aead: LessSafeKey::new(aead), salt })
    }

    fn object_salt(&self, n: u64) -> [u8; 32] {
        to_array(hmac::sign(&self.salt, &n.to_be_bytes()))
    }

    fn commit(&self, n: u64, plaintext: &[u8]) -> Hash {
        commit_object(&self.object_salt(n), plaintext)
    }

    fn object_aad(&self, object: &ObjectRef) -> [u8; 16 + 8 + 8 + 2] {
        let mut aad = [0; 34];
        aad[..16].copy_from_slice(&self.sid);
        aad[16..24].copy_from_slice(&object.n.to_be_bytes());
        aad[24..32].copy_from_slice(&object.pt_len.to_be_bytes());
        aad[32] = object.dir.code() as u8;
        aad[33] = object.enc.code() as u8;
        aad
    }
}

fn to_array(tag: hmac::Tag) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(tag.as_ref());
    out
}

fn nonce(domain: u8, n: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[0] = domain;
    bytes[4..].copy_from_slice(&n.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// `HMAC-SHA256(salt, plaintext)`: what `ObjectRef::commit` holds. With the salt, one object can be
/// shown to be the recorded one without giving away the session's key.
pub fn commit_object(salt: &[u8; 32], plaintext: &[u8]) -> Hash {
    let key = hmac::Key::new(hmac::HMAC_SHA256, salt);
    Hash(to_array(hmac::sign(&key, plaintext)))
}

/// Seals one session. There is one for each session, and it lives as long.
pub struct Sealer {
    keys: Keys,
    commit: [u8; 32],
    next_seq: u64,
    next_object: u64,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(..)")
    }
}

impl Sealer {
    /// `dek` MUST be fresh: a second sealer under the same key would use its nonces again.
    pub fn new(dek: &Dek, sid: [u8; 16]) -> Result<Self, SealError> {
        let keys = Keys::new(dek, sid)?;
        Ok(Self { keys, commit: dek.commit(), next_seq: 0, next_object: 0 })
    }

    /// The `dek_commit` for the session's first entry.
    pub fn dek_commit(&self) -> [u8; 32] {
        self.commit
    }

    /// Appends the stored bytes of `entry` with `detail` sealed in it. The hot path: one pass, no
    /// allocation but what `out` needs. `entry.sealed` is none, its session is this one, and its
    /// number is above every number sealed before; a number is spent even if writing the entry
    /// fails afterwards. On an error `out` is as it was.
    pub fn seal_entry_into(
        &mut self,
        entry: &Entry,
        detail: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let start = out.len();
        self.seal_into(entry, detail, out).inspect_err(|_| out.truncate(start))
    }

    fn seal_into(
        &mut self,
        entry: &Entry,
        detail: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let link = entry.session.filter(|link| link.sid == self.keys.sid);
        let seq = link.ok_or(SealError::Session)?.seq;
        if entry.sealed.is_some() {
            return Err(SealError::Sealed);
        }
        if seq < self.next_seq {
            return Err(SealError::Reused);
        }
        let next_seq = seq.checked_add(1).ok_or(SealError::Reused)?;
        let start = out.len();
        entry.encode_clear(out, true)?;
        let clear_end = out.len();
        let sealed_len = detail.len().saturating_add(TAG_BYTES);
        push_head(out, BYTES, sealed_len as u64);
        let sealed_start = out.len();
        check_len((sealed_start - start).saturating_add(sealed_len))?;
        out.extend_from_slice(detail);
        self.next_seq = next_seq;
        let (head, body) = out.split_at_mut(sealed_start);
        let clear = head.get(start + 1..clear_end).ok_or(SealError::Crypto)?;
        let tag = self
            .keys
            .aead
            .seal_in_place_separate_tag(nonce(DOMAIN_ENTRY, seq), Aad::from(clear), body)
            .map_err(|_| SealError::Crypto)?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// As [`Sealer::seal_entry_into`], but fills `entry.sealed`.
    pub fn seal_entry(&mut self, entry: &mut Entry, detail: &[u8]) -> Result<(), SealError> {
        let mut out = vec![];
        self.seal_entry_into(entry, detail, &mut out)?;
        let sealed = out.len().checked_sub(detail.len() + TAG_BYTES).ok_or(SealError::Crypto)?;
        entry.sealed = Some(out.split_off(sealed));
        Ok(())
    }

    /// Seals one object. `body` holds what is to be stored: `plaintext` itself, or its compression
    /// as `enc` says; it becomes the ciphertext.
    pub fn seal_object(
        &mut self,
        dir: Direction,
        enc: Encoding,
        plaintext: &[u8],
        body: &mut Vec<u8>,
    ) -> Result<ObjectRef, SealError> {
        if plaintext.len() > OBJECT_BYTES_MAX || body.len() > OBJECT_BYTES_MAX {
            return Err(SealError::TooLong);
        }
        let n = self.next_object;
        self.next_object = n.checked_add(1).ok_or(SealError::Reused)?;
        let mut object = ObjectRef {
            ct_hash: Hash::EMPTY_ROOT,
            ct_len: 0,
            pt_len: plaintext.len() as u64,
            commit: self.keys.commit(n, plaintext),
            n,
            dir,
            enc,
        };
        let aad = Aad::from(self.keys.object_aad(&object));
        self.keys
            .aead
            .seal_in_place_append_tag(nonce(DOMAIN_OBJECT, n), aad, body)
            .map_err(|_| SealError::Crypto)?;
        object.ct_hash = Hash::of(body);
        object.ct_len = body.len() as u64;
        Ok(object)
    }
}

/// Opens what a [`Sealer`] sealed.
pub struct Opener {
    keys: Keys,
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener(..)")
    }
}

impl Opener {
    /// `dek_commit` is what the session's first entry says; another key is refused.
    pub fn new(dek: &Dek, sid: [u8; 16], dek_commit: &[u8; 32]) -> Result<Self, SealError> {
        constant_time::verify_slices_are_equal(&dek.commit(), dek_commit)
            .map_err(|_| SealError::Key)?;
        Ok(Self { keys: Keys::new(dek, sid)? })
    }

    /// The private part of an entry.
    pub fn open_entry(&self, entry: &Entry) -> Result<Vec<u8>, SealError> {
        let link = entry.session.filter(|link| link.sid == self.keys.sid);
        let seq = link.ok_or(SealError::Session)?.seq;
        let mut bytes = entry.sealed.clone().ok_or(SealError::NotSealed)?;
        let aad = Aad::from(entry.clear_bytes()?);
        let len = self.open(nonce(DOMAIN_ENTRY, seq), aad, &mut bytes)?;
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Turns an object's ciphertext into its body: the plaintext, compressed as `object.enc` says.
    /// After expanding it, bounded by `object.pt_len`, call [`Opener::check_plaintext`].
    pub fn open_object(&self, object: &ObjectRef, body: &mut Vec<u8>) -> Result<(), SealError> {
        check_object(object, body)?;
        let aad = Aad::from(self.keys.object_aad(object));
        let len = self.open(nonce(DOMAIN_OBJECT, object.n), aad, body)?;
        body.truncate(len);
        Ok(())
    }

    fn open<A: AsRef<[u8]>>(
        &self,
        nonce: Nonce,
        aad: Aad<A>,
        bytes: &mut [u8],
    ) -> Result<usize, SealError> {
        let plain = self.keys.aead.open_in_place(nonce, aad, bytes);
        plain.map(|plain| plain.len()).map_err(|_| SealError::Open)
    }

    /// That `plaintext` is what was recorded, to the byte.
    pub fn check_plaintext(&self, object: &ObjectRef, plaintext: &[u8]) -> Result<(), SealError> {
        let same = plaintext.len() as u64 == object.pt_len
            && self.keys.commit(object.n, plaintext) == object.commit;
        if same { Ok(()) } else { Err(SealError::Plaintext) }
    }

    /// The salt of one object's commitment: opens that object to a third party and no other.
    pub fn object_salt(&self, object: &ObjectRef) -> [u8; 32] {
        self.keys.object_salt(object.n)
    }
}

/// That `ciphertext` is the one that the entry names. Needs no key.
pub fn check_object(object: &ObjectRef, ciphertext: &[u8]) -> Result<(), SealError> {
    let same = ciphertext.len() as u64 == object.ct_len && Hash::of(ciphertext) == object.ct_hash;
    if same { Ok(()) } else { Err(SealError::Ciphertext) }
}
