//! Frames of WebSocket (RFC 6455), strictly read. Pure.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Longest message, its fragments together.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Longest payload of a control frame.
const CONTROL_BYTES_MAX: usize = 125;
/// Close codes (RFC 6455 7.4.1).
pub const CLOSE_AWAY: u16 = 1001;
pub const CLOSE_PROTOCOL: u16 = 1002;
pub const CLOSE_POLICY: u16 = 1008;
pub const CLOSE_TOO_BIG: u16 = 1009;
pub const CLOSE_INTERNAL: u16 = 1011;

/// Whose frames are read: a client's are masked, a server's are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Client,
    Server,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Text(Bytes),
    Binary(Bytes),
    Ping(Bytes),
    Pong,
    /// Code and reason; none where there is none.
    Close(Option<(u16, String)>),
}

/// Why a peer is not understood, as a close code with its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{1}")]
pub struct Violation(pub u16, pub &'static str);

const fn broken(why: &'static str) -> Violation {
    Violation(CLOSE_PROTOCOL, why)
}

/// Reads one direction.
#[derive(Debug)]
pub struct Reader {
    from: From,
    input: BytesMut,
    message: BytesMut,
    /// Opcode of the message whose fragments are gathered.
    opcode: Option<u8>,
}

impl Reader {
    pub fn new(from: From) -> Self {
        Self { from, input: BytesMut::new(), message: BytesMut::new(), opcode: None }
    }
    /// Where the socket's bytes go.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// The next whole message or control frame, if it is there.
    pub fn next(&mut self) -> Result<Option<Event>, Violation> {
        loop {
            let Some((fin, opcode, payload)) = self.frame()? else { return Ok(None) };
            match opcode {
                8..=10 => return control(opcode, payload).map(Some),
                0 if self.opcode.is_none() => return Err(broken("a fragment without a beginning")),
                1 | 2 if self.opcode.is_some() => {
                    return Err(broken("a message within another"));
                }
                1 | 2 => self.opcode = Some(opcode),
                _ => {}
            }
            if self.message.len() + payload.len() > MESSAGE_BYTES_MAX {
                return Err(Violation(CLOSE_TOO_BIG, "a message is too long"));
            }
            self.message.extend_from_slice(&payload);
            if !fin {
                continue;
            }
            let message = self.message.split().freeze();
            return match self.opcode.take() {
                Some(1) if std::str::from_utf8(&message).is_err() => {
                    Err(Violation(1007, "a text is not UTF-8"))
                }
                Some(1) => Ok(Some(Event::Text(message))),
                _ => Ok(Some(Event::Binary(message))),
            };
        }
    }

    fn frame(&mut self) -> Result<Option<(bool, u8, Bytes)>, Violation> {
        let [first, second, ..] = self.input[..] else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(broken("a frame of an extension that was not agreed on"));
        }
        let (fin, opcode, masked) = (first & 0x80 != 0, first & 0x0f, second & 0x80 != 0);
        if !matches!(opcode, 0..=2 | 8..=10) {
            return Err(broken("a frame of a kind that is reserved"));
        }
        if masked != (self.from == From::Client) {
            return Err(broken("a frame is masked where it may not be, or is not"));
        }
        let short = usize::from(second & 0x7f);
        let (size, length) = match short {
            126 => {
                (2, self.input.get(2..4).map(|b| b.iter().fold(0, |n, b| n << 8 | u64::from(*b))))
            }
            127 => {
                (8, self.input.get(2..10).map(|b| b.iter().fold(0, |n, b| n << 8 | u64::from(*b))))
            }
            _ => (0, Some(short as u64)),
        };
        let Some(length) = length else { return Ok(None) };
        if (size == 2 && length < 126) || (size == 8 && length < 1 << 16) {
            return Err(broken("a length in more bytes than it needs"));
        }
        if opcode >= 8 && (!fin || length > CONTROL_BYTES_MAX as u64) {
            return Err(broken("a control frame is too long or in fragments"));
        }
        if length > MESSAGE_BYTES_MAX as u64 {
            return Err(Violation(CLOSE_TOO_BIG, "a message is too long"));
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let head = 2 + size + if masked { 4 } else { 0 };
        if self.input.len() < head + length {
            return Ok(None);
        }
        let key: [u8; 4] = match self.input.get(head.saturating_sub(4)..head) {
            Some(&[a, b, c, d]) if masked => [a, b, c, d],
            _ => [0; 4],
        };
        self.input.advance(head);
        let mut payload = self.input.split_to(length);
        for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
            *byte ^= key;
        }
        Ok(Some((fin, opcode, payload.freeze())))
    }
}

fn control(opcode: u8, payload: Bytes) -> Result<Event, Violation> {
    match opcode {
        9 => Ok(Event::Ping(payload)),
        10 => Ok(Event::Pong),
        _ => match &payload[..] {
            [] => Ok(Event::Close(None)),
            [high, low, reason @ ..] => {
                let code = u16::from_be_bytes([*high, *low]);
                let known = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
                let reason =
                    std::str::from_utf8(reason).map_err(|_| broken("a close is not UTF-8"))?;
                if !known {
                    return Err(broken("a close with a code that may not be sent"));
                }
                Ok(Event::Close(Some((code, reason.to_owned()))))
            }
            [_] => Err(broken("a close of one byte")),
        },
    }
}

/// A whole frame; masked with `key` where a client sends it.
pub fn frame(opcode: u8, payload: &[u8], key: Option<[u8; 4]>) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + 14);
    let mask = if key.is_some() { 0x80 } else { 0 };
    out.put_u8(0x80 | opcode);
    match payload.len() {
        length @ ..126 => out.put_u8(mask | length as u8),
        length @ ..65_536 => {
            out.put_u8(mask | 126);
            out.put_u16(length as u16);
        }
        length => {
            out.put_u8(mask | 127);
            out.put_u64(length as u64);
        }
    }
    match key {
        None => out.put_slice(payload),
        Some(key) => {
            out.put_slice(&key);
            out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        }
    }
    out.freeze()
}

/// A close frame's payload; the reason is cut to what fits.
pub fn close(code: u16, reason: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(2 + reason.len());
    out.put_u16(code);
    let mut end = reason.len().min(CONTROL_BYTES_MAX - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    out.put_slice(reason.get(..end).unwrap_or_default().as_bytes());
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(from: From, input: &[u8]) -> Result<Vec<Event>, Violation> {
        let mut reader = Reader::new(from);
        let mut events = Vec::new();
        for byte in input {
            reader.buffer().put_u8(*byte);
            while let Some(event) = reader.next()? {
                events.push(event);
            }
        }
        Ok(events)
    }

    #[test]
    fn frames_read_back() {
        for length in [0, 5, 125, 126, 65_535, 65_536, 70_000] {
            let payload = vec![b'x'; length];
            let masked = frame(1, &payload, Some([1, 2, 3, 4]));
            assert_eq!(read(From::Client, &masked).unwrap(), [Event::Text(payload.clone().into())]);
            let plain = frame(2, &payload, None);
            assert_eq!(read(From::Server, &plain).unwrap(), [Event::Binary(payload.into())]);
        }
        let parts = [&[0x01, 2, b'a', b'b'][..], &[0x89, 1, b'p'], &[0x80, 1, b'c']].concat();
        let events = read(From::Server, &parts).unwrap();
        assert_eq!(events, [Event::Ping("p".into()), Event::Text("abc".into())]);
        let closed = frame(8, &close(1008, &"ä".repeat(100)), None);
        assert!(matches!(
            &read(From::Server, &closed).unwrap()[..],
            [Event::Close(Some((1008, _)))]
        ));
    }

    #[test]
    fn what_is_odd_is_a_violation() {
        for (from, input) in [
            (From::Client, &[0x81, 0x01, b'a'][..]),
            (From::Server, &[0x81, 0x81, 0, 0, 0, 0, b'a']),
            (From::Server, &[0xc1, 0x01, b'a']),
            (From::Server, &[0x83, 0x00]),
            (From::Server, &[0x80, 0x00]),
            (From::Server, &[0x01, 0x01, b'a', 0x01, 0x01, b'b']),
            (From::Server, &[0x09, 0x00]),
            (From::Server, &[0x89, 126, 0, 126]),
            (From::Server, &[0x81, 126, 0, 5]),
            (From::Server, &[0x81, 127, 0, 0, 0, 0, 0, 0, 0, 5]),
            (From::Server, &[0x81, 127, 0xff, 0, 0, 0, 0, 0, 0, 5]),
            (From::Server, &[0x81, 0x02, 0xc0, 0xaf]),
            (From::Server, &[0x88, 0x01, 0x03]),
            (From::Server, &[0x88, 0x02, 0x03, 0xed]),
        ] {
            assert!(read(from, input).is_err(), "{input:x?}");
        }
    }
}
