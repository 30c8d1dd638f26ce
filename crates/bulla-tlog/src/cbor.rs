//! The part of CBOR (RFC 8949) that entries use, in its core deterministic encoding (section
//! 4.2.1): unsigned integers in their shortest form, definite byte and text strings, arrays, maps.

use crate::entry::EntryError;

pub(crate) const UINT: u8 = 0;
pub(crate) const BYTES: u8 = 2;
pub(crate) const TEXT: u8 = 3;
pub(crate) const ARRAY: u8 = 4;
pub(crate) const MAP: u8 = 5;

/// Head of an item: major type and its argument, in the shortest form.
pub(crate) fn push_head(out: &mut Vec<u8>, major: u8, value: u64) {
    let major = major << 5;
    if value < 24 {
        out.push(major | value as u8);
    } else if let Ok(value) = u8::try_from(value) {
        out.extend_from_slice(&[major | 24, value]);
    } else if let Ok(value) = u16::try_from(value) {
        out.push(major | 25);
        out.extend_from_slice(&value.to_be_bytes());
    } else if let Ok(value) = u32::try_from(value) {
        out.push(major | 26);
        out.extend_from_slice(&value.to_be_bytes());
    } else {
        out.push(major | 27);
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub(crate) fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    push_head(out, BYTES, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn push_text(out: &mut Vec<u8>, text: &str) {
    push_head(out, TEXT, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Reads items from the front of `bytes`; refuses every encoding that is not the shortest.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.offset == self.bytes.len()
    }

    /// Major type of the next item.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.offset).map(|byte| byte >> 5)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], EntryError> {
        let at = self.offset;
        let end = at.checked_add(len).ok_or(EntryError::Truncated { at })?;
        let taken = self.bytes.get(at..end).ok_or(EntryError::Truncated { at })?;
        self.offset = end;
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], EntryError> {
        let at = self.offset;
        self.take(N)?.try_into().map_err(|_| EntryError::Truncated { at })
    }

    /// The argument of an item of type `major`.
    pub(crate) fn head(&mut self, major: u8) -> Result<u64, EntryError> {
        let at = self.offset;
        let [first] = self.take_array()?;
        if first >> 5 != major {
            return Err(EntryError::Type { at });
        }
        let (value, least) = match first & 31 {
            short @ 0..24 => (u64::from(short), 0),
            24 => (u64::from(u8::from_be_bytes(self.take_array()?)), 24),
            25 => (u64::from(u16::from_be_bytes(self.take_array()?)), 1 << 8),
            26 => (u64::from(u32::from_be_bytes(self.take_array()?)), 1 << 16),
            27 => (u64::from_be_bytes(self.take_array()?), 1 << 32),
            // Reserved, or of indefinite length.
            _ => return Err(EntryError::NotCanonical { at }),
        };
        if value < least { Err(EntryError::NotCanonical { at }) } else { Ok(value) }
    }

    pub(crate) fn uint(&mut self) -> Result<u64, EntryError> {
        self.head(UINT)
    }

    fn string(&mut self, major: u8) -> Result<&'a [u8], EntryError> {
        let at = self.offset;
        let len = usize::try_from(self.head(major)?).map_err(|_| EntryError::Truncated { at })?;
        self.take(len)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], EntryError> {
        self.string(BYTES)
    }

    pub(crate) fn bytes_n<const N: usize>(&mut self) -> Result<[u8; N], EntryError> {
        let at = self.offset;
        self.bytes()?.try_into().map_err(|_| EntryError::Length { at })
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, EntryError> {
        let at = self.offset;
        std::str::from_utf8(self.string(TEXT)?).map_err(|_| EntryError::Text { at })
    }

    /// Head of an array or map of at most `max` items.
    pub(crate) fn count(&mut self, major: u8, max: usize) -> Result<usize, EntryError> {
        let at = self.offset;
        let count = usize::try_from(self.head(major)?).ok().filter(|count| *count <= max);
        count.ok_or(EntryError::Length { at })
    }
}
