//! What a target says in clear before a connection is encrypted (RFC 4253): who it is, and its
//! signature over the exchange hash, which is the session's id.
//!
//! Whoever passes the bytes on can read so much of them, and can tell from it that a session belongs
//! to this very target. Nothing here is believed before the signature was verified.

use bytes::{Buf, BytesMut};
use memchr::memchr;

/// How much may come before the target has said who it is: a few lines, algorithms, keys.
const BYTES_MAX: usize = 128 << 10;
/// SSH_MSG_NEWKEYS.
const NEWKEYS: u8 = 21;
/// SSH_MSG_KEX_ECDH_REPLY (RFC 5656), which hybrid exchanges use too.
const KEX_REPLY: u8 = 31;

/// The target's part of a key exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Its host key or certificate, encoded.
    pub host_key: Vec<u8>,
    /// Over the exchange hash.
    pub signature: Vec<u8>,
}

/// Reads a target's bytes from the first one on.
#[derive(Debug)]
pub enum Seen {
    Reading { held: BytesMut, total: usize, versioned: bool },
    Said(Reply),
    Lost(&'static str),
}

impl Default for Seen {
    fn default() -> Self {
        Self::Reading { held: BytesMut::new(), total: 0, versioned: false }
    }
}

impl Seen {
    /// False once nothing more needs to be seen.
    pub fn feed(&mut self, bytes: &[u8]) -> bool {
        let Self::Reading { held, total, versioned } = self else { return false };
        *total = total.saturating_add(bytes.len());
        held.extend_from_slice(bytes);
        let next = match read(held, versioned) {
            Ok(Some(reply)) => Self::Said(reply),
            Err(why) => Self::Lost(why),
            Ok(None) if *total > BYTES_MAX => Self::Lost("it says too much"),
            Ok(None) => return true,
        };
        *self = next;
        false
    }

    /// What the target has said, or why that is not known.
    pub fn reply(&self) -> Result<&Reply, &'static str> {
        match self {
            Self::Said(reply) => Ok(reply),
            Self::Reading { .. } => Err("it has not said who it is"),
            Self::Lost(why) => Err(why),
        }
    }
}

fn read(held: &mut BytesMut, versioned: &mut bool) -> Result<Option<Reply>, &'static str> {
    while !*versioned {
        let Some(end) = memchr(b'\n', held) else { return Ok(None) };
        // Other lines may come before (RFC 4253, section 4.2).
        *versioned = held.split_to(end + 1).starts_with(b"SSH-");
    }
    loop {
        let Some(head) = held.first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
        if length > BYTES_MAX {
            return Err("it sends a packet that is too long");
        }
        let Some(packet) = held.get(4..4 + length) else { return Ok(None) };
        let short = "it sends a packet that is too short";
        let (padding, rest) = packet.split_first().ok_or(short)?;
        let end = rest.len().checked_sub(usize::from(*padding)).ok_or(short)?;
        let (kind, body) = rest.get(..end).and_then(<[u8]>::split_first).ok_or(short)?;
        match *kind {
            KEX_REPLY => return reply(body).map(Some).ok_or("its key exchange is none of ours"),
            NEWKEYS => return Err("it encrypts before it has said who it is"),
            _ => held.advance(4 + length),
        }
    }
}

fn reply(mut body: &[u8]) -> Option<Reply> {
    let host_key = string(&mut body)?.to_vec();
    let _ephemeral = string(&mut body)?;
    let signature = string(&mut body)?.to_vec();
    body.is_empty().then_some(Reply { host_key, signature })
}

/// Takes a string off the front (RFC 4251, section 5).
pub fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (head, after) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*head)).ok()?;
    let (text, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(text)
}

/// Puts a string at the end.
pub fn put(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(text);
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A packet without encryption, as a server sends it.
    pub fn packet(payload: &[u8]) -> Vec<u8> {
        let padding = 8 - (payload.len() + 5) % 8 + 4;
        let mut out = u32::try_from(payload.len() + padding + 1).unwrap().to_be_bytes().to_vec();
        out.push(u8::try_from(padding).unwrap());
        out.extend_from_slice(payload);
        out.resize(out.len() + padding, 0);
        out
    }

    pub fn exchange(host_key: &[u8], signature: &[u8]) -> Vec<u8> {
        let mut body = vec![KEX_REPLY];
        for part in [host_key, b"ephemeral", signature] {
            put(&mut body, part);
        }
        [&b"banner\r\nSSH-2.0-x\r\n"[..], &packet(b"\x14algorithms"), &packet(&body)].concat()
    }

    fn check(bytes: &[u8]) -> Result<Reply, &'static str> {
        let mut seen = Seen::default();
        seen.feed(bytes);
        seen.reply().cloned()
    }

    #[test]
    fn a_target_says_who_it_is() {
        let good = exchange(b"key", b"signature");
        let reply = Reply { host_key: b"key".to_vec(), signature: b"signature".to_vec() };
        assert_eq!(check(&good), Ok(reply.clone()));
        // However it is cut, and whatever comes behind.
        let mut seen = Seen::default();
        let whole = [&good[..], b"\xff\xff\xff\xff"].concat();
        let fed = whole.iter().take_while(|byte| seen.feed(&[**byte])).count();
        assert_eq!((fed, seen.reply()), (good.len() - 1, Ok(&reply)));
        let mut long = good.clone();
        long.truncate(good.len() - 1);
        assert_eq!(check(&long), Err("it has not said who it is"));
        let version = b"SSH-2.0-x\r\n";
        for (packets, why) in [
            (packet(&[NEWKEYS]), "it encrypts before it has said who it is"),
            (packet(&[KEX_REPLY]), "its key exchange is none of ours"),
            (packet(b"\x1f\0\0\0\x09short"), "its key exchange is none of ours"),
            (b"\0\0\0\0".to_vec(), "it sends a packet that is too short"),
            (b"\0\0\0\x02\x09x".to_vec(), "it sends a packet that is too short"),
            (b"\xff\xff\xff\xff".to_vec(), "it sends a packet that is too long"),
        ] {
            assert_eq!(check(&[&version[..], &packets].concat()), Err(why));
        }
        assert_eq!(check(&vec![b'x'; BYTES_MAX + 1]), Err("it says too much"));
    }
}
