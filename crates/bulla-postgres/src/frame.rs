//! Messages on the wire: slicing without copying, and building the gateway's own.
//!
//! A message is a type byte and a length that counts itself (PostgreSQL manual, "Message Formats").

use bulla_wire::ReadError;
use bytes::{BufMut, Bytes, BytesMut};

/// Longest message that PostgreSQL itself accepts.
pub const MESSAGE_BYTES_MAX: usize = 0x3fff_ffff;
/// Type and length.
pub const HEADER_BYTES: usize = 5;

/// The head of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub kind: u8,
    /// Bytes after the head.
    pub body: usize,
}

impl Head {
    pub fn total(self) -> usize {
        HEADER_BYTES + self.body
    }
}

/// The head at the front of `bytes`: `None` when it is not whole yet.
pub fn head(bytes: &[u8]) -> Result<Option<Head>, ReadError> {
    let Some(&[kind, a, b, c, d]) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(ReadError::Length);
    }
    Ok(Some(Head { kind, body: length - 4 }))
}

/// Appends one message.
pub fn put(out: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(kind);
    let at = out.len();
    out.put_u32(0);
    body(out);
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    if let Some(slot) = out.get_mut(at..at + 4) {
        slot.copy_from_slice(&length.to_be_bytes());
    }
}

pub fn put_text(out: &mut BytesMut, text: &str) {
    // A zero byte would end the text early: it cannot be said, so it is left out.
    out.extend(text.bytes().filter(|b| *b != 0));
    out.put_u8(0);
}

/// An ErrorResponse or NoticeResponse of the gateway.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    pub severity: &'a str,
    pub code: &'a str,
    pub message: &'a str,
    pub detail: Option<&'a str>,
    pub hint: Option<&'a str>,
    pub position: Option<u32>,
}

impl Said<'_> {
    pub fn put(&self, out: &mut BytesMut, kind: u8) {
        put(out, kind, |out| {
            let mut field = |name: u8, text: &str| {
                out.put_u8(name);
                put_text(out, text);
            };
            field(b'S', self.severity);
            field(b'V', self.severity);
            field(b'C', self.code);
            field(b'M', self.message);
            if let Some(detail) = self.detail {
                field(b'D', detail);
            }
            if let Some(hint) = self.hint {
                field(b'H', hint);
            }
            if let Some(position) = self.position {
                field(b'P', &position.to_string());
            }
            out.put_u8(0);
        });
    }
}

/// FATAL with no more than a code and words.
pub fn fatal(code: &str, message: &str, hint: Option<&str>) -> Bytes {
    let mut out = BytesMut::new();
    let said = Said { severity: "FATAL", code, message, detail: None, hint, position: None };
    said.put(&mut out, b'E');
    out.freeze()
}

/// ReadyForQuery with the given transaction status.
pub fn ready(out: &mut BytesMut, status: u8) {
    put(out, b'Z', |out| out.put_u8(status));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_checked() {
        assert_eq!(head(b"Q\0\0\0"), Ok(None));
        assert_eq!(head(b"Q\0\0\0\x04"), Ok(Some(Head { kind: b'Q', body: 0 })));
        for bad in
            [b"Q\0\0\0\x03", b"Q\0\0\0\0", b"Q\x80\0\0\0", b"Q\xff\xff\xff\xff", b"Q\x40\0\0\0"]
        {
            assert_eq!(head(bad), Err(ReadError::Length), "{bad:?}");
        }
    }

    #[test]
    fn own_messages_are_whole() {
        let bytes = fatal("28000", "no\0thing", Some("hint"));
        let head = head(&bytes).unwrap().unwrap();
        assert_eq!((head.kind, head.total()), (b'E', bytes.len()));
        assert!(!bytes.windows(3).any(|w| w == b"no\0"));
    }
}
