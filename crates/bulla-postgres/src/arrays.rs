//! Arrays as the server writes them, element by element: in text (the manual's "Array Input and
//! Output Syntax") and in binary (`array_send`). The form stays: dimensions, bounds, order.

use bulla_wire::Reader;
use bytes::{BufMut, Bytes, BytesMut};

/// Most dimensions of an array (`MAXDIM`).
const DIMENSIONS_MAX: u32 = 6;

/// The array with every element replaced by what `each` gives for it; `None` is NULL. None where it
/// cannot be read.
pub fn map(
    binary: bool,
    bytes: &[u8],
    each: &mut dyn FnMut(Option<&[u8]>) -> Option<Bytes>,
) -> Option<Bytes> {
    if binary { map_binary(bytes, each) } else { map_text(bytes, each) }
}

fn map_binary(bytes: &[u8], each: &mut dyn FnMut(Option<&[u8]>) -> Option<Bytes>) -> Option<Bytes> {
    let mut reader = Reader::new(bytes);
    let dimensions = reader.u32().ok()?;
    let _has_null = reader.u32().ok()?;
    let kind = reader.u32().ok()?;
    if dimensions > DIMENSIONS_MAX {
        return None;
    }
    let mut bounds = BytesMut::new();
    let mut count = u64::from(dimensions > 0);
    for _ in 0..dimensions {
        let (len, lower) = (reader.u32().ok()?, reader.u32().ok()?);
        count = count.checked_mul(u64::from(len)).filter(|n| *n <= bytes.len() as u64)?;
        bounds.put_u32(len);
        bounds.put_u32(lower);
    }
    let mut elements = BytesMut::with_capacity(bytes.len());
    let mut nulls = 0;
    for _ in 0..count {
        let len = i32::from_be_bytes(reader.u32().ok()?.to_be_bytes());
        let value = match usize::try_from(len) {
            Ok(len) => Some(reader.bytes(len).ok()?),
            Err(_) if len == -1 => None,
            Err(_) => return None,
        };
        match each(value) {
            Some(masked) => {
                elements.put_i32(i32::try_from(masked.len()).ok()?);
                elements.put_slice(&masked);
            }
            None => {
                nulls = 1;
                elements.put_i32(-1);
            }
        }
    }
    reader.finish().ok()?;
    let mut out = BytesMut::with_capacity(12 + bounds.len() + elements.len());
    out.put_u32(dimensions);
    out.put_u32(nulls);
    out.put_u32(kind);
    out.put_slice(&bounds);
    out.put_slice(&elements);
    Some(out.freeze())
}

fn map_text(bytes: &[u8], each: &mut dyn FnMut(Option<&[u8]>) -> Option<Bytes>) -> Option<Bytes> {
    let mut out = BytesMut::with_capacity(bytes.len() + 16);
    let (mut at, mut depth) = (0, 0_u32);
    // Bounds other than from 1 stand before: `[0:1]={…}`.
    if bytes.first() == Some(&b'[') {
        at = bytes.iter().position(|b| *b == b'=')? + 1;
        let bounds = bytes.get(..at)?;
        if !bounds.iter().all(|b| b.is_ascii_digit() || b"[]:=-".contains(b)) {
            return None;
        }
        out.put_slice(bounds);
    }
    loop {
        let byte = *bytes.get(at)?;
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.checked_sub(1)?,
            b',' => {}
            _ => {
                let (value, end) = element(bytes, at)?;
                at = end;
                match each(value.as_deref()) {
                    Some(masked) => quote(&masked, &mut out),
                    None => out.put_slice(b"NULL"),
                }
                continue;
            }
        }
        if depth > DIMENSIONS_MAX {
            return None;
        }
        out.put_u8(byte);
        at += 1;
        if depth == 0 {
            return (at == bytes.len()).then(|| out.freeze());
        }
    }
}

/// The element at a place, and where it ends.
fn element(bytes: &[u8], start: usize) -> Option<(Option<Vec<u8>>, usize)> {
    let quoted = bytes.get(start) == Some(&b'"');
    let mut at = start + usize::from(quoted);
    let mut value = Vec::new();
    loop {
        match *bytes.get(at)? {
            b'\\' => {
                value.push(*bytes.get(at + 1)?);
                at += 2;
            }
            b'"' if quoted => return Some((Some(value), at + 1)),
            b',' | b'}' if !quoted => {
                let null = value.eq_ignore_ascii_case(b"NULL");
                return Some(((!null).then_some(value), at));
            }
            b'"' | b'{' if !quoted => return None,
            byte => {
                value.push(byte);
                at += 1;
            }
        }
    }
}

fn quote(value: &[u8], out: &mut BytesMut) {
    out.put_u8(b'"');
    for byte in value {
        if matches!(byte, b'"' | b'\\') {
            out.put_u8(b'\\');
        }
        out.put_u8(*byte);
    }
    out.put_u8(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(array: &str) -> Option<String> {
        let mut each = |value: Option<&[u8]>| value.map(|v| Bytes::from([b"<", v, b">"].concat()));
        let out = map(false, array.as_bytes(), &mut each)?;
        Some(String::from_utf8(out.to_vec()).unwrap())
    }

    #[test]
    fn each_element_of_a_text_is_replaced() {
        for (array, expect) in [
            ("{}", Some("{}")),
            ("{a}", Some("{\"<a>\"}")),
            ("{a,NULL,\"NULL\"}", Some("{\"<a>\",NULL,\"<NULL>\"}")),
            ("{\"a,b\",\"}\",\"q\\\"\\\\\"}", Some("{\"<a,b>\",\"<}>\",\"<q\\\"\\\\>\"}")),
            ("{{1,2},{3,4}}", Some("{{\"<1>\",\"<2>\"},{\"<3>\",\"<4>\"}}")),
            ("[0:1]={1,2}", Some("[0:1]={\"<1>\",\"<2>\"}")),
            ("", None),
            ("a", None),
            ("{a", None),
            ("{a}}", None),
            ("{a}x", None),
            ("{\"a}", None),
            ("{a\"b}", None),
            ("[secret]={a}", None),
        ] {
            assert_eq!(text(array).as_deref(), expect, "{array}");
        }
    }

    #[test]
    fn each_element_in_binary_is_replaced() {
        let array = |parts: &[u32], rest: &[u8]| {
            let mut out = Vec::new();
            parts.iter().for_each(|n| out.extend(n.to_be_bytes()));
            out.extend(rest);
            out
        };
        let two = array(&[1, 0, 25, 2, 1], b"\0\0\0\x01a\0\0\0\x02bc");
        let out = map(true, &two, &mut |v| (v == Some(b"a")).then(|| Bytes::from_static(b"xyz")));
        assert_eq!(out.unwrap(), array(&[1, 1, 25, 2, 1], b"\0\0\0\x03xyz\xff\xff\xff\xff"));
        let empty = array(&[0, 0, 25], b"");
        assert_eq!(map(true, &empty, &mut |_| panic!()).unwrap(), empty);
        for bad in [
            array(&[7, 0, 25], b""),
            array(&[1, 0, 25, 2, 1], b"\0\0\0\x01a"),
            array(&[1, 0, 25, u32::MAX, 1], b""),
            array(&[1, 0, 25, 1, 1], b"\0\0\0\x01ab"),
            array(&[1, 0, 25, 1, 1], b"\xff\xff\xff\xfe"),
            b"\0".to_vec(),
        ] {
            assert_eq!(map(true, &bad, &mut |_| None), None, "{bad:?}");
        }
    }
}
