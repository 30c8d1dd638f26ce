//! Bounded decoding: every length is checked, and a decoder proves that it consumed all.

/// Why bytes could not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("it ends too early")]
    Short,
    #[error("it has bytes after its end")]
    Trailing,
    #[error("a text is not terminated")]
    Unterminated,
    #[error("a text is not valid UTF-8")]
    Utf8,
    #[error("a count or length is negative or too large")]
    Length,
}

/// Reads from a slice, big-endian, never past its end.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
    pub fn remaining(&self) -> usize {
        self.0.len()
    }
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], ReadError> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(ReadError::Short)?;
        self.0 = tail;
        Ok(head)
    }
    pub fn u8(&mut self) -> Result<u8, ReadError> {
        self.bytes(1)?.first().copied().ok_or(ReadError::Short)
    }
    pub fn u16(&mut self) -> Result<u16, ReadError> {
        let bytes = self.bytes(2)?.try_into().map_err(|_| ReadError::Short)?;
        Ok(u16::from_be_bytes(bytes))
    }
    pub fn u32(&mut self) -> Result<u32, ReadError> {
        let bytes = self.bytes(4)?.try_into().map_err(|_| ReadError::Short)?;
        Ok(u32::from_be_bytes(bytes))
    }
    /// A count of 16 bits that is not negative as a signed number.
    pub fn count16(&mut self) -> Result<usize, ReadError> {
        let n = self.u16()?;
        if n > i16::MAX as u16 { Err(ReadError::Length) } else { Ok(usize::from(n)) }
    }
    /// A length of 32 bits where −1 means "null".
    pub fn length32(&mut self) -> Result<Option<usize>, ReadError> {
        match self.u32()? {
            u32::MAX => Ok(None),
            n if n > i32::MAX as u32 => Err(ReadError::Length),
            n => Ok(Some(n as usize)),
        }
    }
    /// Bytes up to a zero byte, which is consumed.
    pub fn until_nul(&mut self) -> Result<&'a [u8], ReadError> {
        let end = self.0.iter().position(|b| *b == 0).ok_or(ReadError::Unterminated)?;
        let text = self.bytes(end)?;
        self.bytes(1)?;
        Ok(text)
    }
    /// UTF-8 text up to a zero byte.
    pub fn text(&mut self) -> Result<&'a str, ReadError> {
        std::str::from_utf8(self.until_nul()?).map_err(|_| ReadError::Utf8)
    }
    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
    /// Proves that everything was consumed.
    pub fn finish(self) -> Result<(), ReadError> {
        if self.0.is_empty() { Ok(()) } else { Err(ReadError::Trailing) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_within_bounds() {
        let mut reader = Reader::new(b"\x01\x00\x02abc\0\xff\xff\xff\xffrest");
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.count16(), Ok(2));
        assert_eq!(reader.text(), Ok("abc"));
        assert_eq!(reader.length32(), Ok(None));
        assert_eq!(reader.finish(), Err(ReadError::Trailing));
        assert_eq!(reader.rest(), b"rest");
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn refuses_what_does_not_fit() {
        assert_eq!(Reader::new(b"\x00").u16(), Err(ReadError::Short));
        assert_eq!(Reader::new(b"\xff\xff").count16(), Err(ReadError::Length));
        assert_eq!(Reader::new(b"\x80\0\0\0").length32(), Err(ReadError::Length));
        assert_eq!(Reader::new(b"abc").until_nul(), Err(ReadError::Unterminated));
        assert_eq!(Reader::new(b"\xc3\x28\0").text(), Err(ReadError::Utf8));
    }
}
