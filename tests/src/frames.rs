//! Frames and fields of HTTP/2, written out: nothing is checked (RFC 9113, RFC 7541).

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

/// A frame of any kind.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut out = vec![a, b, c, kind, flags];
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// A length with a prefix of seven bits (RFC 7541 5.1).
fn length(mut n: usize) -> Vec<u8> {
    let low = |n: usize| u8::try_from(n & 0x7f).unwrap_or_default();
    if n < 127 {
        return vec![low(n)];
    }
    let mut out = vec![127];
    n -= 127;
    while n >= 128 {
        out.push(low(n) | 0x80);
        n >>= 7;
    }
    out.push(low(n));
    out
}

/// A field that is not indexed (RFC 7541 6.2.2), without Huffman's code.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    field_of(name.as_bytes(), value.as_bytes())
}

/// The same of any bytes.
pub fn field_of(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0], &length(name.len())[..], name, &length(value.len()), value].concat()
}

/// A block of fields.
pub fn fields(all: &[(&str, &str)]) -> Vec<u8> {
    all.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// The status in an answer's first field, as the gateway's library writes it: indexed, or a literal
/// of three digits in Huffman's code or plain (RFC 7541 A and B).
pub fn status(block: &[u8]) -> Option<u16> {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    match block {
        [first @ 0x88..=0x8e, ..] => INDEXED.get(usize::from(first - 0x88)).copied(),
        [0x08 | 0x48 | 0x18, length, rest @ ..] => {
            let text = rest.get(..usize::from(length & 0x7f))?;
            let digits = if length & 0x80 == 0 { text.to_vec() } else { digits(text) };
            std::str::from_utf8(digits.get(..3)?).ok()?.parse().ok()
        }
        _ => None,
    }
}

/// Digits out of Huffman's code: `0` to `2` are 00000 to 00010, `3` to `9` are 011001 to 011111.
fn digits(text: &[u8]) -> Vec<u8> {
    let bits: Vec<u8> = text.iter().flat_map(|b| (0..8).rev().map(move |at| b >> at & 1)).collect();
    let number = |bits: &[u8]| bits.iter().fold(0u8, |n, bit| n << 1 | bit);
    let (mut out, mut rest) = (Vec::new(), &bits[..]);
    loop {
        let (five, six) = (rest.get(..5).map(number), rest.get(..6).map(number));
        match (five, six) {
            (Some(n @ 0..=2), _) => {
                out.push(b'0' + n);
                rest = rest.get(5..).unwrap_or_default();
            }
            (_, Some(n @ 0b01_1001..=0b01_1111)) => {
                out.push(b'3' + n - 0b01_1001);
                rest = rest.get(6..).unwrap_or_default();
            }
            _ => return out,
        }
    }
}

/// A target of HTTP/2 without TLS that answers the first request of each connection with the frames
/// of the next row, on stream 1, and goes on reading.
///
/// # Errors
/// There is no port to be had.
pub fn answering(rows: Vec<Vec<u8>>) -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for (answer, stream) in rows.into_iter().zip(listener.incoming().flatten()) {
            thread::spawn(move || answer_with(&answer, stream));
        }
    });
    Ok(port)
}

/// Its end, whichever, is no matter of the test's.
fn answer_with(answer: &[u8], mut stream: TcpStream) -> Option<()> {
    stream.read_exact(&mut [0; 24]).ok()?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).ok()?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).ok()?;
        let [a, b, c, kind, flags, ..] = head;
        let mut payload = vec![0; usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)];
        stream.read_exact(&mut payload).ok()?;
        match kind {
            SETTINGS if flags == 0 => stream.write_all(&frame(SETTINGS, 1, 0, &[])).ok()?,
            HEADERS => stream.write_all(answer).ok()?,
            PING if flags == 0 => stream.write_all(&frame(PING, 1, 0, &payload)).ok()?,
            GOAWAY => return None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read() {
        // As RFC 7541 C.4 and C.6 write 302 and 307.
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
        assert_eq!(status(&[0x48, 0x83, 0x64, 0x0e, 0xff]), Some(307));
        assert_eq!(status(&[0x48, 3, b'4', b'2', b'1']), Some(421));
        assert_eq!(status(&[0x88, 0x48]), Some(200));
        assert_eq!(status(&[0x00]), None);
        assert_eq!(length(1337), [127, 186, 9]);
    }
}
