//! Values that leave a target only to be masked here: the cells of rows whose column is an output
//! column of the statement and nothing else (`bulla_sql::Cell`).
//!
//! A value is read in the format that it comes in, masked, and written in the same; what cannot be
//! read or written so is NULL. What a row has to be is known before it comes: any other shape ends
//! the session.

use bulla_mask::{Class, Mask, Masked, Value, With, date};
use bulla_sql::{Catalog, Cell, CopyForm, Shape};
use bulla_wire::{Reader, Violation};
use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    arrays,
    content::{Content, Counts, Holds},
    copied,
    forms::{self, Family, family},
    frame,
    mask::Veil,
    refusal::broke,
};

/// Days from 1970-01-01 to 2000-01-01, where PostgreSQL counts from.
const EPOCH_DAYS: i64 = 10_957;
/// What stands for NULL where that it is NULL is hidden too; no text of PostgreSQL can be it.
const NULL_TEXT: &str = "\0";

/// The formats of a result as the client asked for them (Bind): none is text, one is for all.
fn is_binary(formats: &[i16], at: usize) -> bool {
    let code = match formats {
        [] => None,
        [one] => Some(one),
        many => many.get(at),
    };
    code == Some(&1)
}

/// The cells of a DataRow; `None` is NULL.
fn cells(body: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let mut reader = Reader::new(body);
    let count = usize::from(reader.u16().ok()?);
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        let len = i32::from_be_bytes(reader.u32().ok()?.to_be_bytes());
        out.push(match usize::try_from(len) {
            Ok(len) => Some(reader.bytes(len).ok()?),
            Err(_) if len == -1 => None,
            Err(_) => return None,
        });
    }
    reader.finish().ok()?;
    Some(out)
}

/// How a row comes.
#[derive(Clone, Copy)]
pub struct Row<'r> {
    /// Which statement of the text it answers.
    pub statement: usize,
    /// As in the Bind.
    pub formats: &'r [i16],
    /// As far as they are known.
    pub types: Option<&'r [u32]>,
    /// What its other cells are searched for.
    pub content: Option<&'r Content>,
}

impl Veil {
    /// A DataRow with its values masked, as a whole message. What was found by content is counted.
    pub fn row(&self, body: &[u8], of: Row<'_>, counts: &mut Counts) -> Result<Bytes, Violation> {
        let row = cells(body).ok_or_else(|| broke("a row that is none"))?;
        let shape = self.cells(of.statement);
        let late = shape.iter().flatten().any(|cell| cell.late);
        if late && row.len() != shape.len() {
            return Err(broke("a row of another shape than the one that was to be masked"));
        }
        let mut out = BytesMut::with_capacity(body.len() + 64);
        let mut fits = true;
        frame::put(&mut out, b'D', |out| {
            out.put_u16(u16::try_from(row.len()).unwrap_or(u16::MAX));
            let mut put = |cell: Option<&[u8]>| match cell {
                None => out.put_i32(-1),
                Some(bytes) => {
                    fits &= i32::try_from(bytes.len()).is_ok();
                    out.put_i32(i32::try_from(bytes.len()).unwrap_or(-1));
                    out.put_slice(bytes);
                }
            };
            for (at, bytes) in row.iter().enumerate() {
                let binary = is_binary(of.formats, at);
                if let Some(cell) = shape.get(at).and_then(Option::as_ref).filter(|c| c.late) {
                    let subject = |place: usize| {
                        let bytes = row.get(place).copied().flatten()?;
                        Some((is_binary(of.formats, place), bytes))
                    };
                    put(self.masked(cell, binary, *bytes, subject).as_deref());
                    continue;
                }
                let (Some(content), Some(value)) = (of.content, bytes) else {
                    put(*bytes);
                    continue;
                };
                let kind = of.types.and_then(|types| types.get(at)).copied();
                match content.cell(value, Holds::of(kind, binary), counts) {
                    Ok(masked) => put(masked.as_deref()),
                    Err(()) => put(Some(value)),
                }
            }
        });
        if fits { Ok(out.freeze()) } else { Err(broke("a masked value of more than 2 GiB")) }
    }

    /// A message of `COPY … TO STDOUT`, as a whole message. `first`: nothing came before it.
    pub fn copied(
        &self,
        body: &[u8],
        (of, first, binary): (Row<'_>, bool, bool),
        counts: &mut Counts,
    ) -> Result<Bytes, Violation> {
        let shape = self.shape(of.statement).filter(|shape| shape.is_late());
        let mut out = BytesMut::with_capacity(body.len() + 64);
        if let Some(Shape { cells, copy: Some(form) }) = shape {
            let bytes = self.copied_row(body, (form, cells), first, of.content, counts)?;
            frame::put(&mut out, b'd', |out| out.put_slice(&bytes));
            return Ok(out.freeze());
        }
        if shape.is_some() {
            return Err(broke("copy data where rows were to be masked"));
        }
        let masked = match of.content {
            None => None,
            Some(content) if binary => {
                refuse_binary(content, body)?;
                None
            }
            Some(content) => content.line(body, counts).ok(),
        };
        let bytes = masked.as_deref().unwrap_or(body);
        frame::put(&mut out, b'd', |out| out.put_slice(bytes));
        Ok(out.freeze())
    }

    fn copied_row(
        &self,
        body: &[u8],
        (form, shape): (&CopyForm, &[Option<Cell>]),
        first: bool,
        content: Option<&Content>,
        counts: &mut Counts,
    ) -> Result<Bytes, Violation> {
        let binary = *form == CopyForm::Binary;
        let mut values: Vec<Option<Vec<u8>>> = Vec::with_capacity(shape.len());
        if shape.iter().flatten().any(|cell| cell.subject.is_some()) {
            let mut keep = |_: usize, value: Option<&[u8]>| {
                values.push(value.map(<[u8]>::to_vec));
                Err(())
            };
            copied::piece(form, body, shape.len(), first, &mut keep)?;
        }
        let mut found = Ok(());
        let mut each = |at: usize, value: Option<&[u8]>| {
            let Some(cell) = shape.get(at).and_then(Option::as_ref).filter(|cell| cell.late) else {
                return match (content, value) {
                    (Some(content), Some(value)) if binary => {
                        found = std::mem::replace(&mut found, Ok(()))
                            .and_then(|()| refuse_binary(content, value));
                        Err(())
                    }
                    (Some(content), Some(value)) => {
                        content.line(value, counts).map(|line| Some(line.into()))
                    }
                    _ => Err(()),
                };
            };
            let subject = |at: usize| Some((binary, values.get(at)?.as_deref()?));
            Ok(self.masked(cell, binary, value, subject))
        };
        let out = copied::piece(form, body, shape.len(), first, &mut each)?;
        found.map(|()| out)
    }

    /// A value of a cell, masked. `subject` gives the value of another cell of the row, and whether
    /// it is in binary.
    fn masked<'r>(
        &self,
        cell: &Cell,
        binary: bool,
        bytes: Option<&[u8]>,
        subject: impl Fn(usize) -> Option<(bool, &'r [u8])>,
    ) -> Option<Bytes> {
        let classes = self.classes.as_ref()?;
        let class = classes.class(&cell.class)?;
        let subject = cell.subject.and_then(|(at, kind)| {
            let (binary, bytes) = subject(at)?;
            self::subject(&self.catalog, kind, binary, bytes)
        });
        let with = With { class: &cell.class, key: classes.key(), subject: subject.as_deref() };
        let catalog = &self.catalog;
        if let (Some(element), Some(bytes)) = (forms::element(catalog, cell.type_oid), bytes) {
            let family = family(catalog, element);
            let mut each = |value: Option<&[u8]>| mask(class, family, binary, value, &with);
            return arrays::map(binary, bytes, &mut each);
        }
        mask(class, family(catalog, cell.type_oid), binary, bytes, &with)
    }
}

fn refuse_binary(content: &Content, bytes: &[u8]) -> Result<(), Violation> {
    if content.finds(bytes) {
        return Err(broke("a COPY in binary holds what may not be seen; copy it as text"));
    }
    Ok(())
}

/// Whose value it is, in one form for every format. None: it has none, and nothing is shifted.
fn subject(catalog: &Catalog, kind: u32, binary: bool, bytes: &[u8]) -> Option<Vec<u8>> {
    match family(catalog, kind) {
        Family::Int(..) => int(binary, bytes).map(|n| n.to_string().into_bytes()),
        Family::Text => Some(bytes.to_vec()),
        Family::Uuid => uuid(binary, bytes).map(|id| id.to_vec()),
        _ => None,
    }
}

fn mask(
    class: &Class,
    family: Family,
    binary: bool,
    bytes: Option<&[u8]>,
    with: &With<'_>,
) -> Option<Bytes> {
    let Some(bytes) = bytes else {
        // A token of a text hides even that there is none.
        let hides = !class.keeps_null && family == Family::Text && class.mask == Mask::Token;
        return match hides.then(|| class.mask.apply(Value::Text(NULL_TEXT), with)) {
            Some(Masked::Text(text)) => Some(text.into()),
            _ => None,
        };
    };
    match family {
        Family::Text => {
            let masked = class.mask.apply(Value::Text(std::str::from_utf8(bytes).ok()?), with);
            if let Masked::Text(text) = masked { Some(text.into()) } else { None }
        }
        Family::Int(min, max) => {
            let masked = class.mask.apply(Value::Int(int(binary, bytes)?), with);
            let Masked::Int(n) = masked else { return None };
            if !(min..=max).contains(&n) {
                return None;
            }
            if !binary {
                return Some(n.to_string().into());
            }
            let whole = n.to_be_bytes();
            whole.get(whole.len().checked_sub(bytes.len())?..).map(Bytes::copy_from_slice)
        }
        Family::Date => moved_date(class, binary, bytes, with),
        Family::Timestamp | Family::TimestampTz => moved_time(class, binary, bytes, with),
        Family::Uuid => {
            let masked = class.mask.apply(Value::Uuid(uuid(binary, bytes)?), with);
            let Masked::Uuid(id) = masked else { return None };
            Some(if binary { Bytes::copy_from_slice(&id) } else { uuid_text(&id).into() })
        }
        Family::Bytea => {
            let value = if binary { bytes.to_vec() } else { unhex(bytes.strip_prefix(b"\\x")?)? };
            let Masked::Bytes(masked) = class.mask.apply(Value::Bytes(&value), with) else {
                return None;
            };
            Some(if binary { masked.into() } else { format!("\\x{}", hex(&masked)).into() })
        }
        Family::Json | Family::Jsonb => {
            // The binary format of jsonb has a version before it.
            let versioned = binary && family == Family::Jsonb;
            let text = if versioned { bytes.strip_prefix(&[1])? } else { bytes };
            let text = std::str::from_utf8(text).ok()?;
            let Masked::Json(masked) = class.mask.apply(Value::Json(text), with) else {
                return None;
            };
            let mut out = BytesMut::with_capacity(masked.len() + 1);
            if versioned {
                out.put_u8(1);
            }
            out.put_slice(masked.as_bytes());
            Some(out.freeze())
        }
        Family::Numeric | Family::Float | Family::Other => None,
    }
}

fn int(binary: bool, bytes: &[u8]) -> Option<i64> {
    if !binary {
        return std::str::from_utf8(bytes).ok()?.parse().ok();
    }
    Some(match *bytes {
        [a, b] => i16::from_be_bytes([a, b]).into(),
        [a, b, c, d] => i32::from_be_bytes([a, b, c, d]).into(),
        [a, b, c, d, e, f, g, h] => i64::from_be_bytes([a, b, c, d, e, f, g, h]),
        _ => return None,
    })
}

fn moved_date(class: &Class, binary: bool, bytes: &[u8], with: &With<'_>) -> Option<Bytes> {
    let days = if binary {
        let days = i32::from_be_bytes(bytes.try_into().ok()?);
        // Infinity stays hidden.
        if matches!(days, i32::MIN | i32::MAX) {
            return None;
        }
        i64::from(days) + EPOCH_DAYS
    } else {
        iso_days(std::str::from_utf8(bytes).ok()?)?
    };
    let Masked::Date(days) = class.mask.apply(Value::Date(days), with) else { return None };
    if binary {
        let days = i32::try_from(days - EPOCH_DAYS).ok()?;
        return Some(Bytes::copy_from_slice(&days.to_be_bytes()));
    }
    date::iso(days).map(Bytes::from)
}

fn moved_time(class: &Class, binary: bool, bytes: &[u8], with: &With<'_>) -> Option<Bytes> {
    let epoch = EPOCH_DAYS * date::DAY_MICROS;
    if binary {
        let micros = i64::from_be_bytes(bytes.try_into().ok()?);
        if matches!(micros, i64::MIN | i64::MAX) {
            return None;
        }
        let value = Value::Timestamp(micros.checked_add(epoch)?);
        let Masked::Timestamp(micros) = class.mask.apply(value, with) else { return None };
        return Some(Bytes::copy_from_slice(&micros.checked_sub(epoch)?.to_be_bytes()));
    }
    // Whole days: the time of the day, and the offset that it is given in, stay.
    let text = std::str::from_utf8(bytes).ok()?;
    let (day, rest) = text.split_once(' ')?;
    if rest.ends_with("BC") {
        return None;
    }
    let midnight = iso_days(day)?.checked_mul(date::DAY_MICROS)?;
    let Masked::Timestamp(micros) = class.mask.apply(Value::Timestamp(midnight), with) else {
        return None;
    };
    let day = date::iso(micros.div_euclid(date::DAY_MICROS))?;
    Some(format!("{day} {rest}").into())
}

/// `2024-01-31`, as `DateStyle = ISO` writes it. Whatever another style writes is not understood.
fn iso_days(text: &str) -> Option<i64> {
    let [y, m, d] = text.split('-').collect::<Vec<_>>().try_into().ok()?;
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if y.len() < 4 || m.len() != 2 || d.len() != 2 || !(digits(y) && digits(m) && digits(d)) {
        return None;
    }
    date::days(y.parse().ok()?, m.parse().ok()?, d.parse().ok()?)
}

pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

pub fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    text.chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

fn uuid(binary: bool, bytes: &[u8]) -> Option<[u8; 16]> {
    if binary {
        return bytes.try_into().ok();
    }
    let digits: Vec<u8> = bytes.iter().copied().filter(|b| *b != b'-').collect();
    unhex(&digits)?.try_into().ok()
}

fn uuid_text(id: &[u8; 16]) -> String {
    let mut out = hex(id);
    for at in [20, 16, 12, 8] {
        out.insert(at, '-');
    }
    out
}

#[cfg(test)]
mod tests {
    use bulla_mask::{Inference, Key};

    use super::*;

    fn class(mask: &str) -> Class {
        let mask = Mask::parse(mask).unwrap();
        Class { mask, inference: Inference::Deny, keeps_null: false, subject: None }
    }

    fn key() -> Key {
        Key::new("k1", &[7; 32]).unwrap()
    }

    /// The same value in either format has the same mask.
    #[track_caller]
    fn same(written: &str, family: Family, text: &str, binary: &[u8], back: fn(&[u8]) -> String) {
        let (class, key) = (class(written), key());
        let with = With { class: "pii", key: Some(&key), subject: Some(b"7") };
        let of = |binary, bytes| mask(&class, family, binary, Some(bytes), &with).unwrap();
        let (one, two) = (of(false, text.as_bytes()), of(true, binary));
        assert_eq!(String::from_utf8(one.to_vec()).unwrap(), back(&two), "{written} {text}");
        assert_ne!(one, text.as_bytes(), "{written} {text}");
    }

    #[test]
    fn text_and_binary_agree() {
        let utf8 = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        same("token", Family::Text, "ada", b"ada", utf8);
        same("fpe", Family::Text, "536-90-4399", b"536-90-4399", utf8);
        let int4 = Family::Int(i32::MIN.into(), i32::MAX.into());
        same("fpe", int4, "1234567", &1_234_567_i32.to_be_bytes(), |b| {
            i32::from_be_bytes(b.try_into().unwrap()).to_string()
        });
        same("date-shift(30)", Family::Date, "2000-01-31", &30_i32.to_be_bytes(), |b| {
            date::iso(i64::from(i32::from_be_bytes(b.try_into().unwrap())) + EPOCH_DAYS).unwrap()
        });
        same(
            "date-shift(30)",
            Family::Timestamp,
            "2000-01-02 00:00:01",
            &(date::DAY_MICROS + 1_000_000).to_be_bytes(),
            |b| {
                let micros = i64::from_be_bytes(b.try_into().unwrap());
                let day = micros.div_euclid(date::DAY_MICROS) + EPOCH_DAYS;
                assert_eq!(micros.rem_euclid(date::DAY_MICROS), 1_000_000);
                format!("{} 00:00:01", date::iso(day).unwrap())
            },
        );
        same("token", Family::Bytea, "\\x00ff", &[0, 255], |b| format!("\\x{}", hex(b)));
        same("token", Family::Jsonb, "{}", b"\x01{}", |b| {
            assert_eq!(b[0], 1);
            String::from_utf8(b[1..].to_vec()).unwrap()
        });
        same(
            "token",
            Family::Uuid,
            "00000000-0000-4000-8000-000000000001",
            &[0, 0, 0, 0, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 1],
            |b| uuid_text(b.try_into().unwrap()),
        );
    }

    /// What cannot be read or written is NULL, never the value.
    #[test]
    fn in_doubt_it_is_null() {
        let key = key();
        let with = With { class: "pii", key: Some(&key), subject: Some(b"7") };
        let int2 = Family::Int(i16::MIN.into(), i16::MAX.into());
        for (written, family, binary, bytes) in [
            ("token", Family::Numeric, false, &b"5"[..]),
            ("token", Family::Other, false, b"{a}"),
            ("token", Family::Date, false, b"2000-01-01"),
            ("token", Family::Text, false, b"\xff"),
            ("token", Family::Bytea, false, b"plain"),
            ("token", Family::Jsonb, true, b"\x02{}"),
            ("fpe", Family::Text, false, b"123"),
            ("fpe", int2, false, b"123456"),
            ("date-shift(30)", Family::Date, false, b"31.01.2000"),
            ("date-shift(30)", Family::Date, false, b"infinity"),
            ("date-shift(30)", Family::Date, false, b"0044-03-15 BC"),
            ("date-shift(30)", Family::Date, true, &i32::MAX.to_be_bytes()),
            ("date-shift(30)", Family::Timestamp, false, b"2000-01-01 00:00:00 BC"),
        ] {
            let out = mask(&class(written), family, binary, Some(bytes), &with);
            assert_eq!(out, None, "{written} {family:?} {bytes:?}");
        }
        let nobody = With { subject: None, ..with };
        let shift = class("date-shift(30)");
        assert_eq!(mask(&shift, Family::Date, false, Some(b"2000-01-01"), &nobody), None);
        // That there is none is hidden by a token, and not by a date.
        assert!(mask(&class("token"), Family::Text, false, None, &with).is_some());
        assert_eq!(mask(&shift, Family::Date, false, None, &with), None);
    }

    #[test]
    fn rows_are_read_whole() {
        assert_eq!(cells(&[0, 1, 0, 0, 0, 1, b'x']), Some(vec![Some(&b"x"[..])]));
        assert_eq!(cells(&[0, 1, 255, 255, 255, 255]), Some(vec![None]));
        for bad in [&[0_u8, 1][..], &[0, 1, 255, 255, 255, 254], &[0, 0, 0], &[0, 1, 0, 0, 0, 2, 1]]
        {
            assert_eq!(cells(bad), None, "{bad:?}");
        }
    }
}
