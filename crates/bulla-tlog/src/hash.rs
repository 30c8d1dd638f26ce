//! SHA-256 as RFC 6962 section 2.1 uses it: leaves and nodes hash under different prefixes, so that
//! neither can pass for the other.

use std::fmt;

use aws_lc_rs::digest::{Context, Digest, SHA256, digest};
use base64::{Engine, engine::general_purpose::STANDARD};

/// Length of a hash, in bytes.
pub const HASH_BYTES: usize = 32;

const LEAF_PREFIX: u8 = 0x00;
const NODE_PREFIX: u8 = 0x01;

/// A SHA-256 value: of a leaf, of a node, or of plain bytes ([`Hash::of`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; HASH_BYTES]);

impl Hash {
    /// Root of the tree without leaves: SHA-256 of nothing.
    pub const EMPTY_ROOT: Self = Self([
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9,
        0x24, 0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52,
        0xb8, 0x55,
    ]);

    /// `SHA-256(0x00 || entry)`.
    pub fn leaf(entry: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&[LEAF_PREFIX]);
        context.update(entry);
        Self::from_digest(&context.finish())
    }

    /// `SHA-256(0x01 || left || right)`.
    pub fn node(left: &Self, right: &Self) -> Self {
        let mut bytes = [NODE_PREFIX; 1 + 2 * HASH_BYTES];
        bytes[1..33].copy_from_slice(&left.0);
        bytes[33..].copy_from_slice(&right.0);
        Self::from_digest(&digest(&SHA256, &bytes))
    }

    /// `SHA-256(bytes)`, without a prefix.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_digest(&digest(&SHA256, bytes))
    }

    /// `SHA-256(parts[0] || parts[1] || ...)`, without a prefix.
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut context = Context::new(&SHA256);
        parts.iter().for_each(|part| context.update(part));
        Self::from_digest(&context.finish())
    }

    /// Padded standard base64 (RFC 4648 section 4): 44 characters.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// Reads the one spelling that [`Hash::to_base64`] writes.
    pub fn from_base64(text: &str) -> Option<Self> {
        decode_base64(text)?.try_into().ok().map(Self)
    }

    /// Reads 64 hexadecimal digits in lower case.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        if text.len() != 2 * HASH_BYTES {
            return None;
        }
        let mut out = [0; HASH_BYTES];
        for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let [high, low] = pair else { return None };
            *byte = (digit(*high)? << 4) | digit(*low)?;
        }
        Some(Self(out))
    }

    fn from_digest(digest: &Digest) -> Self {
        let mut out = [0; HASH_BYTES];
        out.copy_from_slice(digest.as_ref());
        Self(out)
    }
}

/// Lower-case hexadecimal.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl AsRef<[u8]> for Hash {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Strict: canonical padding, no unused bits set, no white space. A decoder that is lenient here
/// accepts a changed checkpoint.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

pub(crate) fn encode_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_root_is_the_hash_of_nothing() {
        assert_eq!(Hash::of(b""), Hash::EMPTY_ROOT);
    }

    #[test]
    fn parts_hash_as_their_concatenation() {
        assert_eq!(Hash::of_parts(&[b"ab", b"", b"c"]), Hash::of(b"abc"));
    }

    #[test]
    fn texts_read_back_and_only_in_one_spelling() {
        let hash = Hash::leaf(b"x");
        assert_eq!(Hash::from_hex(&hash.to_string()), Some(hash));
        assert_eq!(Hash::from_hex(&hash.to_string().to_uppercase()), None);
        let text = hash.to_base64();
        assert_eq!(Hash::from_base64(&text), Some(hash));
        for bad in [&text[..43], &text[1..], &format!("{text}\n"), &text.replace('=', "")] {
            assert_eq!(Hash::from_base64(bad), None, "{bad:?}");
        }
        // The last character before the padding carries two unused bits.
        let zero = Hash([0; 32]).to_base64();
        assert!(zero.ends_with("AAA="));
        for last in ["B", "C", "D"] {
            let loose = format!("{}{last}=", &zero[..42]);
            assert_eq!(Hash::from_base64(&loose), None, "{loose}");
        }
    }
}
