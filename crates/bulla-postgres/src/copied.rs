//! Rows of `COPY … TO STDOUT` whose values are masked here, in each of its forms (the manual's page
//! on COPY, "File Formats"). The server sends one row with each message; what is anything else ends
//! the session.

use std::borrow::Cow;

use bulla_sql::CopyForm;
use bulla_wire::{Reader, Violation};
use bytes::{BufMut, Bytes, BytesMut};

use crate::refusal::broke;

/// What the binary form begins with.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// What becomes of the field at a place: `None` is NULL. `Err`: it stays as it is.
pub type Each<'e> = dyn FnMut(usize, Option<&[u8]>) -> Result<Option<Bytes>, ()> + 'e;

/// A message of copy data with its fields replaced, `columns` of them. `first`: nothing of this
/// answer came before. The names of the columns, and the end of the binary form, have none.
pub fn piece(
    form: &CopyForm,
    body: &[u8],
    columns: usize,
    first: bool,
    each: &mut Each<'_>,
) -> Result<Bytes, Violation> {
    let torn = || broke("copy data of another form than the one that was to be masked");
    let same = || Bytes::copy_from_slice(body);
    let out = match form {
        CopyForm::Text { header: true, .. } | CopyForm::Csv { header: true, .. } if first => {
            return Ok(same());
        }
        CopyForm::Text { delimiter, null, .. } => {
            let line = body.strip_suffix(b"\n").ok_or_else(torn)?;
            // One that belongs to a value is escaped.
            if line.contains(&b'\n') {
                return Err(torn());
            }
            text(line, *delimiter, null.as_bytes(), columns, each)
        }
        CopyForm::Csv { delimiter, quote, escape, null, .. } => {
            let line = body.strip_suffix(b"\n").ok_or_else(torn)?;
            let form = Csv { delimiter: *delimiter, quote: *quote, escape: *escape };
            form.line(line, null.as_bytes(), columns, each)
        }
        CopyForm::Binary => {
            let (head, tuple) =
                if first { header(body).ok_or_else(torn)? } else { (&[][..], body) };
            if tuple == (-1_i16).to_be_bytes() {
                return Ok(same());
            }
            binary(head, tuple, columns, each)
        }
    };
    out.ok_or_else(torn)
}

// ---- text ----

fn text(
    line: &[u8],
    delimiter: u8,
    null: &[u8],
    columns: usize,
    each: &mut Each<'_>,
) -> Option<Bytes> {
    let mut out = BytesMut::with_capacity(line.len() + 64);
    let (mut at, mut field) = (0, 0);
    loop {
        let rest = line.get(at..)?;
        let len = text_field(rest, delimiter);
        let raw = rest.get(..len)?;
        let value = if raw == null { None } else { Some(unescaped(raw)) };
        match each(field, value.as_deref()) {
            Err(()) => out.put_slice(raw),
            Ok(None) => out.put_slice(null),
            Ok(Some(masked)) => escape_text(&masked, delimiter, &mut out),
        }
        field += 1;
        at += len;
        if at == line.len() {
            break;
        }
        out.put_u8(delimiter);
        at += 1;
    }
    out.put_u8(b'\n');
    // A row without columns is an empty line.
    let empty = columns == 0 && line.is_empty();
    (field == columns || empty).then(|| out.freeze())
}

fn text_field(rest: &[u8], delimiter: u8) -> usize {
    let mut at = 0;
    while let Some(byte) = rest.get(at) {
        if *byte == b'\\' {
            at += 2;
        } else if *byte == delimiter {
            return at;
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn unescaped(raw: &[u8]) -> Cow<'_, [u8]> {
    if !raw.contains(&b'\\') {
        return Cow::Borrowed(raw);
    }
    let (mut out, mut bytes) = (Vec::with_capacity(raw.len()), raw.iter());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 11,
                Some(other) => *other,
                None => b'\\',
            },
            byte => *byte,
        });
    }
    Cow::Owned(out)
}

fn escape_text(value: &[u8], delimiter: u8, out: &mut BytesMut) {
    for byte in value {
        let letter = match byte {
            8 => b'b',
            12 => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            11 => b'v',
            b'\\' => b'\\',
            byte if *byte == delimiter => *byte,
            byte => {
                out.put_u8(*byte);
                continue;
            }
        };
        out.put_u8(b'\\');
        out.put_u8(letter);
    }
}

// ---- CSV ----

#[derive(Clone, Copy)]
struct Csv {
    delimiter: u8,
    quote: u8,
    escape: u8,
}

impl Csv {
    fn line(self, line: &[u8], null: &[u8], columns: usize, each: &mut Each<'_>) -> Option<Bytes> {
        let mut out = BytesMut::with_capacity(line.len() + 64);
        let (mut at, mut field) = (0, 0);
        loop {
            let (value, quoted, end) = self.field(line, at)?;
            let raw = line.get(at..end)?;
            let value = if !quoted && raw == null { None } else { Some(value) };
            match each(field, value.as_deref()) {
                Err(()) => out.put_slice(raw),
                Ok(None) => out.put_slice(null),
                Ok(Some(masked)) => self.write(&masked, null, quoted, &mut out),
            }
            field += 1;
            at = end;
            match line.get(at) {
                None => break,
                Some(byte) if *byte == self.delimiter => at += 1,
                Some(_) => return None,
            }
            out.put_u8(self.delimiter);
        }
        out.put_u8(b'\n');
        let empty = columns == 0 && line.is_empty();
        (field == columns || empty).then(|| out.freeze())
    }

    /// A field's value, whether it stood in quotes, and where it ends.
    fn field(self, line: &[u8], start: usize) -> Option<(Cow<'_, [u8]>, bool, usize)> {
        let rest = line.get(start..)?;
        if rest.first() != Some(&self.quote) {
            let len = rest.iter().position(|b| *b == self.delimiter).unwrap_or(rest.len());
            return Some((Cow::Borrowed(rest.get(..len)?), false, start + len));
        }
        let (mut value, mut at) = (Vec::new(), 1);
        loop {
            let byte = *rest.get(at)?;
            let next = rest.get(at + 1).copied();
            let escapes = next.filter(|next| *next == self.quote || *next == self.escape);
            if byte == self.escape
                && let Some(next) = escapes
            {
                value.push(next);
                at += 2;
            } else if byte == self.quote {
                return Some((Cow::Owned(value), true, start + at + 1));
            } else {
                value.push(byte);
                at += 1;
            }
        }
    }

    fn write(self, value: &[u8], null: &[u8], quoted: bool, out: &mut BytesMut) {
        let special = |b: &u8| [self.delimiter, self.quote, b'\n', b'\r'].contains(b);
        if !quoted && value != null && value != b"\\." && !value.iter().any(special) {
            return out.put_slice(value);
        }
        out.put_u8(self.quote);
        for byte in value {
            if *byte == self.quote || *byte == self.escape {
                out.put_u8(self.escape);
            }
            out.put_u8(*byte);
        }
        out.put_u8(self.quote);
    }
}

// ---- binary ----

/// The header, and what comes behind it in the same message.
fn header(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = body.strip_prefix(SIGNATURE)?;
    let mut reader = Reader::new(rest);
    let _flags = reader.u32().ok()?;
    let more = usize::try_from(reader.u32().ok()?).ok()?;
    let len = SIGNATURE.len().checked_add(8)?.checked_add(more)?;
    Some((body.get(..len)?, body.get(len..)?))
}

fn binary(head: &[u8], tuple: &[u8], columns: usize, each: &mut Each<'_>) -> Option<Bytes> {
    let mut reader = Reader::new(tuple);
    let count = reader.u16().ok()?;
    if usize::from(count) != columns {
        return None;
    }
    let mut out = BytesMut::with_capacity(head.len() + tuple.len() + 64);
    out.put_slice(head);
    out.put_u16(count);
    for field in 0..columns {
        let len = i32::from_be_bytes(reader.u32().ok()?.to_be_bytes());
        let value = match usize::try_from(len) {
            Ok(len) => Some(reader.bytes(len).ok()?),
            Err(_) if len == -1 => None,
            Err(_) => return None,
        };
        let masked = each(field, value);
        let shown = match &masked {
            Err(()) => value,
            Ok(masked) => masked.as_deref(),
        };
        match shown {
            Some(bytes) => {
                out.put_i32(i32::try_from(bytes.len()).ok()?);
                out.put_slice(bytes);
            }
            None => out.put_i32(-1),
        }
    }
    reader.finish().ok()?;
    Some(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csv(header: bool) -> CopyForm {
        let null = String::new();
        CopyForm::Csv { delimiter: b',', quote: b'"', escape: b'"', null, header }
    }

    fn tab() -> CopyForm {
        CopyForm::Text { delimiter: b'\t', null: "\\N".into(), header: false }
    }

    /// The second of two fields is masked: what was there, and what becomes of it.
    fn mask(form: &CopyForm, body: &[u8]) -> Result<(Vec<u8>, Option<String>), Violation> {
        let mut seen = None;
        let mut each = |at: usize, value: Option<&[u8]>| {
            if at == 0 {
                return Err(());
            }
            seen = value.map(|v| String::from_utf8_lossy(v).into_owned());
            Ok(value.map(|_| Bytes::from_static(b"a\t,\"\\b")))
        };
        let out = piece(form, body, 2, false, &mut each)?;
        Ok((out.to_vec(), seen))
    }

    #[test]
    fn fields_are_found_and_written_as_the_form_has_them() {
        for (form, row, out, seen) in [
            (tab(), "1\tx\n", "1\ta\\t,\"\\\\b\n", Some("x")),
            (tab(), "1\t\\N\n", "1\t\\N\n", None),
            (tab(), "a\\tb\tq\\\\\\n\\v\n", "a\\tb\ta\\t,\"\\\\b\n", Some("q\\\n\u{b}")),
            (csv(false), "1,x\n", "1,\"a\t,\"\"\\b\"\n", Some("x")),
            (csv(false), "1,\n", "1,\n", None),
            (csv(false), "\"a,b\",\"\"\n", "\"a,b\",\"a\t,\"\"\\b\"\n", Some("")),
            (csv(false), "1,\"p\"\"q\nr\"\n", "1,\"a\t,\"\"\\b\"\n", Some("p\"q\nr")),
        ] {
            let (bytes, value) = mask(&form, row.as_bytes()).unwrap();
            assert_eq!(String::from_utf8_lossy(&bytes), out, "{row:?}");
            assert_eq!(value.as_deref(), seen, "{row:?}");
        }
        let tuple = b"\0\x02\0\0\0\x01x\0\0\0\x03abc";
        let (bytes, seen) = mask(&CopyForm::Binary, tuple).unwrap();
        assert_eq!(bytes, b"\0\x02\0\0\0\x01x\0\0\0\x06a\t,\"\\b");
        assert_eq!(seen.as_deref(), Some("abc"));
        let (bytes, _) = mask(&CopyForm::Binary, b"\0\x02\0\0\0\0\xff\xff\xff\xff").unwrap();
        assert_eq!(bytes, b"\0\x02\0\0\0\0\xff\xff\xff\xff");
    }

    /// Anything but one whole row is no row: a value could stand where nobody looked.
    #[test]
    fn other_shapes_end_the_session() {
        for (form, row) in [
            (tab(), &b"1\tx"[..]),
            (tab(), b"1\n"),
            (tab(), b"1\t2\t3\n"),
            (tab(), b"1\t2\n3\t4\n"),
            (tab(), b"1\t2\n3\n"),
            (csv(false), b"1,\"x\n"),
            (csv(false), b"1,\"x\"y\n"),
            (csv(false), b"1\n"),
            (csv(false), b"1,2,3\n"),
            (CopyForm::Binary, b"\0\x02\0\0\0\x01x"),
            (CopyForm::Binary, b"\0\x01\0\0\0\x01x"),
            (CopyForm::Binary, b"\0\x02\0\0\0\x01x\0\0\0\x01yz"),
            (CopyForm::Binary, b"\0\x02\xff\xff\xff\xfe\0\0\0\0"),
        ] {
            assert!(mask(&form, row).is_err(), "{form:?} {row:?}");
        }
    }

    #[test]
    fn heads_and_ends_are_no_rows() {
        let mut never = |_: usize, _: Option<&[u8]>| -> Result<Option<Bytes>, ()> { panic!() };
        let names = piece(&csv(true), b"id,ssn\n", 2, true, &mut never).unwrap();
        assert_eq!(names, Bytes::from_static(b"id,ssn\n"));
        let end = piece(&CopyForm::Binary, b"\xff\xff", 2, false, &mut never).unwrap();
        assert_eq!(&*end, b"\xff\xff");
        let head = [SIGNATURE, &[0; 8]].concat();
        let only = [&head[..], b"\xff\xff"].concat();
        assert_eq!(piece(&CopyForm::Binary, &only, 2, true, &mut never).unwrap(), only);
        let row = [&head[..], b"\0\x01\0\0\0\x01x"].concat();
        let mut all = |_: usize, _: Option<&[u8]>| Ok(Some(Bytes::from_static(b"yy")));
        let out = piece(&CopyForm::Binary, &row, 1, true, &mut all).unwrap();
        assert_eq!(out, [&head[..], b"\0\x01\0\0\0\x02yy"].concat());
        assert!(piece(&CopyForm::Binary, b"PGCOPY", 1, true, &mut all).is_err());
    }
}
