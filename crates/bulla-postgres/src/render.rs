//! A recorded answer as a person reads it. Bounded by what it is given; never fails.

use bulla_core::ParameterValue;
use bulla_wire::Reader;
use bytes::Bytes;

use crate::{frame, value};

/// Widest column that others are aligned with, in characters.
const COLUMN_CHARS_MAX: usize = 60;
/// Rows that are aligned together: what is kept in memory before it is put out.
const ROWS_ALIGNED_MAX: usize = 1_000;

/// One column of a RowDescription.
struct Column {
    name: String,
    oid: u32,
    binary: bool,
}

/// One line per row, error and summary; rows in columns under their names. The caller escapes for
/// its terminal.
pub fn render(mut bytes: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut columns: Vec<Column> = Vec::new();
    let mut rows: Vec<Vec<String>> = Vec::new();
    while let Ok(Some(head)) = frame::head(bytes) {
        let Some((message, rest)) = bytes.split_at_checked(head.total()) else { break };
        let body = message.get(frame::HEADER_BYTES..).unwrap_or_default();
        if head.kind != b'D' || rows.len() > ROWS_ALIGNED_MAX {
            align(&mut rows, &mut lines);
        }
        match head.kind {
            b'T' => {
                columns = described(body).unwrap_or_default();
                rows.push(columns.iter().map(|column| column.name.clone()).collect());
            }
            b'D' => rows.push(row(body, &columns)),
            b'C' => lines.push(text(body.split(|b| *b == 0).next().unwrap_or_default())),
            b'E' | b'N' => lines.push(crate::login::error_words(body)),
            b'd' => lines.push(text(body).trim_end_matches('\n').to_string()),
            _ => {}
        }
        bytes = rest;
    }
    align(&mut rows, &mut lines);
    lines
}

/// Puts rows out, each cell as wide as the widest of its column.
fn align(rows: &mut Vec<Vec<String>>, lines: &mut Vec<String>) {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows.iter() {
        for (i, cell) in row.iter().enumerate() {
            let width = cell.chars().count().min(COLUMN_CHARS_MAX);
            match widths.get_mut(i) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    for row in rows.drain(..) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        lines.push(cells.collect::<Vec<_>>().join(" | ").trim_end().to_string());
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("\\x".to_string(), |out, b| out + &format!("{b:02x}"))
}

fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => text.to_string(),
        _ => hex(bytes),
    }
}

/// PostgreSQL manual, "Message Formats", RowDescription.
fn described(body: &[u8]) -> Option<Vec<Column>> {
    let mut reader = Reader::new(body);
    let count = reader.count16().ok()?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let name = text(reader.until_nul().ok()?);
        // Table (4) and column (2), type (4), size (2) and modifier (4), format (2).
        let fixed = reader.bytes(18).ok()?;
        let oid = fixed.get(6..10)?.try_into().ok().map(u32::from_be_bytes)?;
        let binary = fixed.get(16..18)? == [0, 1];
        columns.push(Column { name, oid, binary });
    }
    Some(columns)
}

fn row(body: &[u8], columns: &[Column]) -> Vec<String> {
    let mut reader = Reader::new(body);
    let mut cells = Vec::new();
    for i in 0..reader.count16().unwrap_or(0) {
        let cell = match reader.length32() {
            Ok(None) => "∅".to_string(),
            Ok(Some(n)) => cell(reader.bytes(n).unwrap_or_default(), columns.get(i)),
            Err(_) => break,
        };
        cells.push(cell);
    }
    cells
}

/// A description made before the client chose its formats says text whatever comes; what is no text
/// is then read as binary.
fn cell(bytes: &[u8], column: Option<&Column>) -> String {
    let Some(column) = column else { return text(bytes) };
    let no_text = || std::str::from_utf8(bytes).map_or(true, |t| t.chars().any(is_odd));
    if !column.binary && !no_text() {
        return text(bytes);
    }
    match value::decode(column.oid, true, &Bytes::copy_from_slice(bytes)) {
        ParameterValue::Text(text) => text.to_string(),
        ParameterValue::Null | ParameterValue::Bytes(_) | ParameterValue::Large { .. } => {
            if column.binary { hex(bytes) } else { text(bytes) }
        }
    }
}

fn is_odd(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t' | '\r')
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use bytes::BufMut;

    fn description(columns: &[(&str, u32, u16)]) -> BytesMut {
        let mut out = BytesMut::new();
        frame::put(&mut out, b'T', |out| {
            out.put_u16(columns.len() as u16);
            for (name, oid, format) in columns {
                frame::put_text(out, name);
                out.put_bytes(0, 6);
                out.put_u32(*oid);
                out.put_bytes(0, 6);
                out.put_u16(*format);
            }
        });
        out
    }

    fn data(out: &mut BytesMut, cells: &[Option<&[u8]>]) {
        frame::put(out, b'D', |out| {
            out.put_u16(cells.len() as u16);
            for cell in cells {
                out.put_i32(cell.map_or(-1, |cell| cell.len() as i32));
                out.extend_from_slice(cell.unwrap_or_default());
            }
        });
    }

    #[test]
    fn rows_stand_under_their_names() {
        let mut answer = description(&[("id", 23, 0), ("name", 25, 0)]);
        data(&mut answer, &[Some(b"7"), Some(b"Ada")]);
        data(&mut answer, &[Some(b"1234"), None]);
        frame::put(&mut answer, b'C', |out| frame::put_text(out, "SELECT 2"));
        assert_eq!(render(&answer), ["id   | name", "7    | Ada", "1234 | ∅", "SELECT 2"]);
        for n in 0..answer.len() {
            render(&answer[..n]);
        }
    }

    #[test]
    fn binary_cells_are_read_by_their_type() {
        for (format, oid, cell, expect) in [
            (1u16, 23u32, &[0u8, 0, 0, 42][..], "42"),
            (1, 25, b"Ada", "Ada"),
            (1, 600, b"\x01", "\\x01"),
            // The description was made before the client asked for binary.
            (0, 23, &[0, 0, 0, 42], "42"),
            (0, 23, b"42", "42"),
            (0, 600, b"\xff", "\\xff"),
        ] {
            let mut answer = description(&[("v", oid, format)]);
            data(&mut answer, &[Some(cell)]);
            let lines = render(&answer);
            assert_eq!(lines.last().map(String::as_str), Some(expect), "{oid} {cell:?}");
        }
    }
}
