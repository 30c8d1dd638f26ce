//! A recorded answer as a person reads it. Bounded by what it is given; never fails.

use bulla_wire::Reader;

use crate::frame;

/// One line per row, error and summary. Binary cells are shown as hexadecimal digits. The caller
/// escapes for its terminal.
pub fn render(mut bytes: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    while let Ok(Some(head)) = frame::head(bytes) {
        let Some((message, rest)) = bytes.split_at_checked(head.total()) else { break };
        let body = message.get(frame::HEADER_BYTES..).unwrap_or_default();
        match head.kind {
            b'T' => lines.extend(names(body).map(|names| names.join(" | "))),
            b'D' => lines.push(row(body).join(" | ")),
            b'C' => lines.push(text(body.split(|b| *b == 0).next().unwrap_or_default())),
            b'E' | b'N' => lines.push(crate::login::error_words(body)),
            b'd' => lines.push(text(body).trim_end_matches('\n').to_string()),
            _ => {}
        }
        bytes = rest;
    }
    lines
}

fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => text.to_string(),
        _ => bytes.iter().fold("\\x".to_string(), |out, b| out + &format!("{b:02x}")),
    }
}

fn names(body: &[u8]) -> Option<Vec<String>> {
    let mut reader = Reader::new(body);
    let count = reader.count16().ok()?;
    let mut names = Vec::with_capacity(count);
    for _ in 0..count {
        names.push(text(reader.until_nul().ok()?));
        reader.bytes(18).ok()?;
    }
    Some(names)
}

fn row(body: &[u8]) -> Vec<String> {
    let mut reader = Reader::new(body);
    let mut cells = Vec::new();
    for _ in 0..reader.count16().unwrap_or(0) {
        let cell = match reader.length32() {
            Ok(None) => "∅".to_string(),
            Ok(Some(n)) => text(reader.bytes(n).unwrap_or_default()),
            Err(_) => break,
        };
        cells.push(cell);
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_summaries_are_lines() {
        let mut answer = Vec::new();
        answer.extend_from_slice(b"D\0\0\0\x11\0\x02\0\0\0\x03Ada\xff\xff\xff\xff");
        answer.extend_from_slice(b"C\0\0\0\x0dSELECT 1\0");
        assert_eq!(render(&answer), ["Ada | ∅", "SELECT 1"]);
        for n in 0..answer.len() {
            render(&answer[..n]);
        }
    }
}
