//! Signed notes (C2SP signed-note v1.0.0) and timestamped cosignatures (C2SP tlog-cosignature
//! v1.0.1), with Ed25519 keys.
//!
//! A note is read in one spelling only: canonical base64, no control characters, nothing after the
//! last signature. Signatures of unknown keys are ignored; a known key whose signature fails spoils
//! the whole note.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::hash::{Hash, decode_base64, encode_base64};

/// Longest note, in bytes.
pub const NOTE_BYTES_MAX: usize = 1 << 20;
/// Most signatures on one note. The specification demands at least 16.
pub const SIGNATURES_MAX: usize = 100;
/// Longest key name, in bytes.
pub const KEY_NAME_BYTES_MAX: usize = 512;

const SIGNATURE_PREFIX: &str = "\u{2014} ";
const ED25519_BYTES: usize = 64;
const SECRET_PREFIX: &str = "PRIVATE+KEY+";

/// What a key signs, and how.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KeyKind {
    /// 0x01: Ed25519 over the note's text. A log's key.
    Ed25519,
    /// 0x04: Ed25519 over a time and the note's text. A witness's or mirror's key.
    CosignatureV1,
}

impl KeyKind {
    pub fn byte(self) -> u8 {
        match self {
            Self::Ed25519 => 0x01,
            Self::CosignatureV1 => 0x04,
        }
    }
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0x01 => Some(Self::Ed25519),
            0x04 => Some(Self::CosignatureV1),
            _ => None,
        }
    }
}

/// Why a text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("key is not of the form `name+id+base64`")]
    Form,
    #[error("key name is empty, too long, or holds a space, a control character or `+`")]
    Name,
    #[error("key id does not belong to the name and key")]
    Id,
    #[error("key is not canonical base64 of a type and 32 bytes")]
    Base64,
    #[error("key type 0x{0:02x} is not supported, only 0x01 and 0x04")]
    Kind(u8),
}

fn check_key_name(name: &str) -> Result<(), KeyError> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    if name.is_empty() || name.len() > KEY_NAME_BYTES_MAX || name.chars().any(bad) {
        return Err(KeyError::Name);
    }
    Ok(())
}

/// A public key with its name: who may have signed a note.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Vkey {
    name: String,
    id: [u8; 4],
    kind: KeyKind,
    public: [u8; 32],
}

impl Vkey {
    pub fn new(name: &str, kind: KeyKind, public: [u8; 32]) -> Result<Self, KeyError> {
        check_key_name(name)?;
        let hash = Hash::of_parts(&[name.as_bytes(), b"\n", &[kind.byte()], &public]);
        let [a, b, c, d, ..] = hash.0;
        Ok(Self { name: name.into(), id: [a, b, c, d], kind, public })
    }

    /// Reads `<name>+<8 hex digits>+<base64(type || key)>`; the id must be the one of the key.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let (name, id, kind, public) = parse_key(text)?;
        let key = Self::new(name, kind, public)?;
        if key.id_hex() == id { Ok(key) } else { Err(KeyError::Id) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }
    pub fn id(&self) -> [u8; 4] {
        self.id
    }
    pub fn kind(&self) -> KeyKind {
        self.kind
    }
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    fn id_hex(&self) -> String {
        format!("{:08x}", u32::from_be_bytes(self.id))
    }

    /// Seconds since the Unix epoch for a cosignature, nothing for a plain signature.
    fn verify(&self, text: &str, signature: &[u8]) -> Option<Option<u64>> {
        let key = UnparsedPublicKey::new(&ED25519, &self.public);
        match self.kind {
            KeyKind::Ed25519 => {
                let signature: &[u8; ED25519_BYTES] = signature.try_into().ok()?;
                key.verify(text.as_bytes(), signature).ok().map(|()| None)
            }
            KeyKind::CosignatureV1 => {
                let (time, signature) = signature.split_first_chunk::<8>()?;
                let signature: &[u8; ED25519_BYTES] = signature.try_into().ok()?;
                let time = u64::from_be_bytes(*time);
                if time > i64::MAX as u64 {
                    return None;
                }
                let message = cosigned_message(time, text);
                key.verify(message.as_bytes(), signature).ok().map(|()| Some(time))
            }
        }
    }
}

/// The text that [`Vkey::parse`] reads.
impl fmt::Display for Vkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}+{}", self.name, self.id_hex(), key_base64(self.kind, &self.public))
    }
}

fn key_base64(kind: KeyKind, key: &[u8; 32]) -> String {
    let mut bytes = vec![kind.byte()];
    bytes.extend_from_slice(key);
    encode_base64(&bytes)
}

/// Name, id as written, kind and key. The base64 may hold `+`, the name may not.
fn parse_key(text: &str) -> Result<(&str, &str, KeyKind, [u8; 32]), KeyError> {
    let (name, rest) = text.split_once('+').ok_or(KeyError::Form)?;
    let (id, key) = rest.split_once('+').ok_or(KeyError::Form)?;
    let bytes = decode_base64(key).ok_or(KeyError::Base64)?;
    let (kind, key) = bytes.split_first().ok_or(KeyError::Base64)?;
    let kind = KeyKind::from_byte(*kind).ok_or(KeyError::Kind(*kind))?;
    Ok((name, id, kind, key.try_into().map_err(|_| KeyError::Base64)?))
}

fn cosigned_message(time_s: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {time_s}\n{text}")
}

/// A private key. No `Display`, and `Debug` shows the public half only.
pub struct Signer {
    vkey: Vkey,
    pair: Ed25519KeyPair,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.vkey)
    }
}

/// Why something cannot be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    #[error("text does not end in a newline, or holds a control character")]
    Text,
    #[error("key is of another type than this signature")]
    Kind,
    #[error("cosignature time is not below 2^63 seconds")]
    Time,
    #[error("too many signatures")]
    TooMany,
    #[error("key is not named as the log's origin")]
    Origin,
    #[error("cryptographic library failed")]
    Crypto,
}

impl Signer {
    /// The same seed and name always give the same key.
    pub fn from_seed(name: &str, kind: KeyKind, seed: &[u8; 32]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Base64)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| KeyError::Base64)?;
        Ok(Self { vkey: Vkey::new(name, kind, public)?, pair })
    }

    /// Reads `PRIVATE+KEY+<name>+<8 hex digits>+<base64(type || seed)>`.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.strip_prefix(SECRET_PREFIX).ok_or(KeyError::Form)?;
        let (name, id, kind, seed) = parse_key(text)?;
        let signer = Self::from_seed(name, kind, &seed)?;
        if signer.vkey.id_hex() == id { Ok(signer) } else { Err(KeyError::Id) }
    }

    /// The text that [`Signer::parse`] reads. **It is the secret itself.**
    pub fn secret_text(name: &str, kind: KeyKind, seed: &[u8; 32]) -> Result<String, KeyError> {
        let signer = Self::from_seed(name, kind, seed)?;
        let id = signer.vkey.id_hex();
        Ok(format!("{SECRET_PREFIX}{name}+{id}+{}", key_base64(kind, seed)))
    }

    pub fn vkey(&self) -> &Vkey {
        &self.vkey
    }

    /// A plain signature (0x01) over `text`, which ends in a newline.
    pub fn sign(&self, text: &str) -> Result<NoteSignature, SignError> {
        check_text(text).map_err(|_| SignError::Text)?;
        if self.vkey.kind != KeyKind::Ed25519 {
            return Err(SignError::Kind);
        }
        let bytes = self.pair.try_sign(text.as_bytes()).map_err(|_| SignError::Crypto)?;
        Ok(self.signature(bytes.as_ref().to_vec()))
    }

    /// A cosignature (0x04): at `time_s`, seconds since the Unix epoch, `text` is the largest
    /// consistent tree head that the cosigner has seen of its origin.
    pub fn cosign(&self, text: &str, time_s: u64) -> Result<NoteSignature, SignError> {
        check_text(text).map_err(|_| SignError::Text)?;
        if self.vkey.kind != KeyKind::CosignatureV1 {
            return Err(SignError::Kind);
        }
        if time_s > i64::MAX as u64 {
            return Err(SignError::Time);
        }
        let message = cosigned_message(time_s, text);
        let signed = self.pair.try_sign(message.as_bytes()).map_err(|_| SignError::Crypto)?;
        let mut bytes = time_s.to_be_bytes().to_vec();
        bytes.extend_from_slice(signed.as_ref());
        Ok(self.signature(bytes))
    }

    fn signature(&self, bytes: Vec<u8>) -> NoteSignature {
        NoteSignature { name: self.vkey.name.clone(), id: self.vkey.id, bytes }
    }
}

/// One signature line, not yet verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoteSignature {
    name: String,
    id: [u8; 4],
    bytes: Vec<u8>,
}

impl NoteSignature {
    pub fn name(&self) -> &str {
        &self.name
    }
    pub fn id(&self) -> [u8; 4] {
        self.id
    }
    /// Without the key id.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn parse(line: &str) -> Option<Self> {
        let (name, text) = line.strip_prefix(SIGNATURE_PREFIX)?.split_once(' ')?;
        check_key_name(name).ok()?;
        let bytes = decode_base64(text)?;
        let (id, bytes) = bytes.split_first_chunk::<4>()?;
        let bytes = (!bytes.is_empty()).then(|| bytes.to_vec())?;
        Some(Self { name: name.into(), id: *id, bytes })
    }
}

/// The line, without its newline.
impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.id[..], &self.bytes].concat();
        write!(f, "{SIGNATURE_PREFIX}{} {}", self.name, encode_base64(&bytes))
    }
}

/// Why bytes are not a note, or one that nobody trusted has signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    #[error("note is longer than {NOTE_BYTES_MAX} bytes")]
    TooLong,
    #[error("note is not UTF-8 or holds a control character")]
    Characters,
    #[error("note has no text, no blank line or no final newline")]
    Form,
    #[error("signature line {0} is malformed")]
    Signature(usize),
    #[error("note has more than {SIGNATURES_MAX} signatures")]
    TooMany,
    #[error("signature by `{0}` is wrong")]
    Wrong(String),
    #[error("no known key has signed the note")]
    Unsigned,
}

/// A text and the signatures under it, none of them verified yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

/// A known key that has signed, and when, for a cosignature (seconds since the Unix epoch).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    pub key: Vkey,
    pub time_s: Option<u64>,
}

fn check_text(text: &str) -> Result<(), NoteError> {
    if text.bytes().any(|byte| byte < 0x20 && byte != b'\n') {
        return Err(NoteError::Characters);
    }
    if text.len() < 2 || !text.ends_with('\n') {
        return Err(NoteError::Form);
    }
    Ok(())
}

impl Note {
    /// `text` ends in a newline.
    pub fn new(text: String, signatures: Vec<NoteSignature>) -> Result<Self, SignError> {
        check_text(&text).map_err(|_| SignError::Text)?;
        if signatures.len() > SIGNATURES_MAX {
            return Err(SignError::TooMany);
        }
        Ok(Self { text, signatures })
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(NoteError::TooLong);
        }
        let note = std::str::from_utf8(bytes).map_err(|_| NoteError::Characters)?;
        check_text(note)?;
        // The last blank line separates; signature lines are never empty.
        let blank = note.rfind("\n\n").ok_or(NoteError::Form)?;
        let (text, rest) = note.split_at_checked(blank + 1).ok_or(NoteError::Form)?;
        check_text(text)?;
        let lines = rest.strip_prefix('\n').and_then(|rest| rest.strip_suffix('\n'));
        let lines = lines.filter(|lines| !lines.is_empty()).ok_or(NoteError::Form)?;
        let mut signatures = vec![];
        for (number, line) in lines.split('\n').enumerate() {
            if number == SIGNATURES_MAX {
                return Err(NoteError::TooMany);
            }
            signatures.push(NoteSignature::parse(line).ok_or(NoteError::Signature(number + 1))?);
        }
        Ok(Self { text: text.into(), signatures })
    }

    /// **Worth nothing before [`Note::verify`].**
    pub fn text(&self) -> &str {
        &self.text
    }
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// Adds a signature, such as a witness's.
    pub fn add(&mut self, signature: NoteSignature) -> Result<(), SignError> {
        if self.signatures.len() >= SIGNATURES_MAX {
            return Err(SignError::TooMany);
        }
        self.signatures.push(signature);
        Ok(())
    }

    /// Which of `keys` have signed; each once, by its first signature, in the order of the note.
    /// A wrong signature of any of them, or none at all, is an error.
    pub fn verify(&self, keys: &[Vkey]) -> Result<Vec<Verified>, NoteError> {
        let mut verified: Vec<Verified> = vec![];
        for signature in &self.signatures {
            let of = |key: &&Vkey| key.name == signature.name && key.id == signature.id;
            let known: Vec<&Vkey> = keys.iter().filter(of).collect();
            if known.is_empty() {
                continue;
            }
            // Two known keys may collide in name and id: one of them must have signed.
            let hit = known.iter().find_map(|key| {
                key.verify(&self.text, &signature.bytes).map(|time_s| (*key, time_s))
            });
            let (key, time_s) = hit.ok_or_else(|| NoteError::Wrong(signature.name.clone()))?;
            if !verified.iter().any(|earlier| earlier.key == *key) {
                verified.push(Verified { key: key.clone(), time_s });
            }
        }
        if verified.is_empty() { Err(NoteError::Unsigned) } else { Ok(verified) }
    }
}

/// The whole note, as [`Note::parse`] reads it.
impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}
