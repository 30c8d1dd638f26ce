//! The record of a terminal as asciicast version 2, and of a command as text. Pure.

use bulla_core::Flow;
use serde_json::json;

/// A recorded piece of one command.
#[derive(Debug, Clone)]
pub struct Piece {
    pub at_ns: u64,
    pub flow: Flow,
    pub bytes: Vec<u8>,
}

/// Text out of bytes that come in pieces: a character may be split between two of them.
#[derive(Default)]
struct Text(Vec<u8>);

impl Text {
    fn take(&mut self, bytes: &[u8]) -> String {
        self.0.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.0) {
            Ok(_) => self.0.len(),
            // What may be the beginning of a character waits for its end.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => self.0.len(),
        };
        let rest = self.0.split_off(whole);
        let text = String::from_utf8_lossy(&self.0).into_owned();
        self.0 = rest;
        text
    }
}

/// `80x24`, out of a line `size 80x24`.
fn size(line: &str) -> Option<(u32, u32)> {
    let (columns, rows) = line.strip_prefix("size ")?.trim().split_once('x')?;
    Some((columns.parse().ok()?, rows.parse().ok()?))
}

/// A recording that `asciinema play` understands. Input is not in it.
pub fn cast(title: &str, pieces: &[Piece]) -> String {
    let begun = pieces.first().map_or(0, |piece| piece.at_ns);
    let lines = |piece: &Piece| String::from_utf8_lossy(&piece.bytes).into_owned();
    let beside = |piece: &&Piece| piece.flow == Flow::ToTargetBeside;
    let first = pieces.iter().filter(beside).find_map(|piece| size(lines(piece).trim()));
    let (width, height) = first.unwrap_or((80, 24));
    let head = json!({
        "version": 2, "width": width, "height": height,
        "timestamp": begun / 1_000_000_000, "title": title,
    });
    let mut out = format!("{head}\n");
    let (mut text, mut sized) = (Text::default(), false);
    for piece in pieces {
        let micros = piece.at_ns.saturating_sub(begun) / 1_000;
        let at = micros as f64 / 1e6;
        match piece.flow {
            Flow::ToClient | Flow::ToClientBeside | Flow::Gateway => {
                let shown = text.take(&piece.bytes);
                if !shown.is_empty() {
                    out.push_str(&format!("{}\n", json!([at, "o", shown])));
                }
            }
            Flow::ToTargetBeside => {
                if let Some((columns, rows)) = size(lines(piece).trim()) {
                    if sized {
                        out.push_str(&format!(
                            "{}\n",
                            json!([at, "r", format!("{columns}x{rows}")])
                        ));
                    }
                    sized = true;
                }
            }
            Flow::ToTarget => {}
        }
    }
    out
}

/// What went to a client, as a person reads it, line by line.
pub fn render(to_client: &[u8]) -> Vec<String> {
    match std::str::from_utf8(to_client) {
        Ok(text) => text.lines().map(Into::into).collect(),
        Err(_) if to_client.len() > 64 << 10 => {
            vec![format!("{} bytes that are no text", to_client.len())]
        }
        Err(_) => String::from_utf8_lossy(to_client).lines().map(Into::into).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_becomes_a_cast() {
        let piece = |at_ms: u64, flow, bytes: &[u8]| Piece {
            at_ns: 1_800_000_000_000_000_000 + at_ms * 1_000_000,
            flow,
            bytes: bytes.to_vec(),
        };
        let made = cast(
            "web",
            &[
                piece(0, Flow::ToTargetBeside, b"size 100x30\n"),
                piece(10, Flow::ToClient, b"$ \xc3"),
                piece(20, Flow::ToTarget, b"secret"),
                piece(30, Flow::ToClient, b"\xa9\x1b[0m"),
                piece(1_500, Flow::ToTargetBeside, b"size 80x24\n"),
                piece(1_600, Flow::ToClient, b"\xff"),
            ],
        );
        let lines: Vec<_> = made.lines().collect();
        let head: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
        assert_eq!((head["width"].as_u64(), head["height"].as_u64()), (Some(100), Some(30)));
        assert_eq!(head["version"], 2);
        assert_eq!(
            &lines[1..],
            [
                r#"[0.01,"o","$ "]"#,
                "[0.03,\"o\",\"é\\u001b[0m\"]",
                r#"[1.5,"r","80x24"]"#,
                "[1.6,\"o\",\"\u{fffd}\"]",
            ]
        );
        assert!(!made.contains("secret"));
    }
}
