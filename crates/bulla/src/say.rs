//! Words for people: escaping, tables, colours.

use std::{fmt, io::IsTerminal};

use serde_json::Value;

/// Longest cell of a table.
const CELL_CHARS_MAX: usize = 60;

/// Text of others, made safe for a terminal: no controls, no marks that reorder or hide text.
/// Newlines and tabs stay.
pub fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' || hides(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// JSON of the same value, safe for a terminal as well: what would reorder or hide text, and
/// controls beyond ASCII, stand as `\u` escapes, which is all the same to a parser.
pub fn json(value: &serde_json::Value) -> String {
    let text = value.to_string();
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || hides(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// As [`safe`], on one line.
pub fn line(text: &str) -> String {
    safe(text).replace('\n', "\\n").replace('\t', "\\t")
}

fn hides(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

/// Whether to colour what goes to stdout.
#[derive(Clone, Copy)]
pub struct Paint(bool);

impl Paint {
    pub fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self(wanted && std::io::stdout().is_terminal())
    }
    fn with(self, code: &str, text: impl fmt::Display) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
    pub fn good(self, text: impl fmt::Display) -> String {
        self.with("32", text)
    }
    pub fn bad(self, text: impl fmt::Display) -> String {
        self.with("31", text)
    }
    pub fn warn(self, text: impl fmt::Display) -> String {
        self.with("33", text)
    }
    pub fn dim(self, text: impl fmt::Display) -> String {
        self.with("2", text)
    }
    pub fn tick(self, good: bool) -> String {
        if good { self.good("✓") } else { self.bad("✗") }
    }
}

/// `1,204,882`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `212 GB`.
pub fn size(bytes: u64) -> String {
    let units = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
    match units.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} bytes"),
    }
}

fn cell(row: &Value, column: &str) -> String {
    let text = match row.get(column) {
        Some(Value::String(text)) => line(text),
        Some(Value::Number(number)) => number.as_u64().map_or(number.to_string(), count),
        Some(Value::Null) | None => String::new(),
        Some(value) => line(&value.to_string()),
    };
    if text.chars().count() > CELL_CHARS_MAX {
        text.chars().take(CELL_CHARS_MAX - 1).chain(['…']).collect()
    } else {
        text
    }
}

/// Rows of JSON objects as a table with a head. Each column is a key and its title.
pub fn table(rows: &[Value], columns: &[(&str, &str)]) -> String {
    let head: Vec<String> = columns.iter().map(|(_, title)| (*title).to_owned()).collect();
    let body = rows.iter().map(|row| columns.iter().map(|(key, _)| cell(row, key)).collect());
    grid(std::iter::once(head).chain(body).collect())
}

/// Cells in columns, each as wide as its widest.
pub fn grid(lines: Vec<Vec<String>>) -> String {
    let mut widths: Vec<usize> = vec![];
    for line in &lines {
        for (i, cell) in line.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(i) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let mut out = String::new();
    for line in lines {
        let padded = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        out.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hostile_text_is_shown_not_obeyed() {
        for (text, shown) in [
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("x\u{202e}y\u{200b}z", "x\\u{202e}y\\u{200b}z"),
            ("c1 \u{9b}31m", "c1 \\u{9b}31m"),
            ("\r\u{7}\u{8}", "\\u{d}\\u{7}\\u{8}"),
            ("tag\u{e0041}", "tag\\u{e0041}"),
            ("Ada ∅ ü 日本\n", "Ada ∅ ü 日本\n"),
        ] {
            assert_eq!(safe(text), shown);
        }
        assert_eq!(line("a\nb\tc"), "a\\nb\\tc");
    }

    #[test]
    fn tables_hold_their_columns() {
        let rows = [json!({ "a": "x\ny", "n": 1204882 }), json!({ "a": null })];
        let text = table(&rows, &[("a", "A"), ("n", "COUNT")]);
        assert_eq!(text, "A     COUNT\nx\\ny  1,204,882\n\n");
    }

    #[test]
    fn numbers_and_sizes_read_easily() {
        assert_eq!((count(0), count(999), count(1000)), ("0".into(), "999".into(), "1,000".into()));
        assert_eq!(size(118), "118 bytes");
        assert_eq!(size(1_900_000_000), "1.9 GB");
    }
}
