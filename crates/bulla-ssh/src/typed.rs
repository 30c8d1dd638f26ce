//! What is typed at a terminal: what of it is kept, and the lines that it seems to be. Pure.
//!
//! A terminal that asks for a password does not echo what is typed. That cannot be seen before it is
//! typed, so the question is looked at: while the last line of output asks for a secret, input is
//! not kept, only how much of it there was. Typed lines are an aid to search. They are *not* what
//! ran: a shell completes, recalls and edits.

use bytes::Bytes;

/// What of the last line of output is looked at.
const LINE_BYTES_MAX: usize = 512;
/// Longest line that is put together.
const TYPED_CHARS_MAX: usize = 4_096;

/// Words by which programs ask for what they do not echo.
const ASKS: &[&str] = &[
    "password",
    "passphrase",
    "passcode",
    "passwort",
    "mot de passe",
    "contraseña",
    "kennwort",
    "pin",
    "secret",
    "token",
    "otp",
    "verification code",
];

/// A piece of input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Shown(Bytes),
    Hidden(Bytes),
}

/// Follows a terminal.
#[derive(Debug, Default)]
pub struct Echo {
    line: Vec<u8>,
    hides: bool,
}

impl Echo {
    pub fn output(&mut self, bytes: &[u8]) {
        let last = match memchr::memrchr(b'\n', bytes) {
            Some(at) => {
                self.line.clear();
                bytes.get(at + 1..).unwrap_or_default()
            }
            None => bytes,
        };
        self.line.extend_from_slice(last);
        let surplus = self.line.len().saturating_sub(LINE_BYTES_MAX);
        self.line.drain(..surplus);
        self.hides = asks(&self.line);
    }

    /// Splits input at the ends of what is hidden.
    pub fn input(&mut self, mut bytes: Bytes) -> Vec<Part> {
        let mut parts = Vec::new();
        if self.hides {
            let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n' | 3 | 4));
            let hidden = bytes.split_to(end.unwrap_or(bytes.len()));
            if end.is_some() {
                self.hides = false;
                self.line.clear();
            }
            if !hidden.is_empty() {
                parts.push(Part::Hidden(hidden));
            }
        }
        if !bytes.is_empty() {
            parts.push(Part::Shown(bytes));
        }
        parts
    }
}

/// Whether a line asks for a secret: it names one, and ends as a question does.
fn asks(line: &[u8]) -> bool {
    let text = visible(&String::from_utf8_lossy(line)).to_lowercase();
    let text = text.trim_end();
    text.ends_with([':', '?', '>'])
        && ASKS.iter().any(|word| {
            text.match_indices(word).any(|(at, _)| {
                let before = text.get(..at).and_then(|before| before.chars().next_back());
                !before.is_some_and(char::is_alphanumeric)
            })
        })
}

/// Text without the sequences that move and colour (ECMA-48).
fn visible(text: &str) -> String {
    let (mut out, mut chars) = (String::new(), text.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => match chars.next() {
                Some('[') => while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
                Some(']') => while chars.next().is_some_and(|c| c != '\u{7}' && c != '\u{1b}') {},
                _ => {}
            },
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// The lines that were typed, as far as they can be told from the keys.
pub fn lines(input: &[u8]) -> Vec<String> {
    let (mut lines, mut line) = (Vec::new(), String::new());
    let text = String::from_utf8_lossy(input);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' | '\n' => {
                if !line.trim().is_empty() {
                    lines.push(std::mem::take(&mut line));
                }
                line.clear();
            }
            '\u{7f}' | '\u{8}' => {
                line.pop();
            }
            // Erase the line, or leave it.
            '\u{15}' | '\u{3}' => line.clear(),
            '\u{1b}' => {
                if let Some('[' | 'O') = chars.next() {
                    while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
                }
            }
            c if c.is_control() => {}
            c if line.chars().count() < TYPED_CHARS_MAX => line.push(c),
            _ => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &'static str) -> Part {
        Part::Shown(Bytes::from_static(text.as_bytes()))
    }
    fn hidden(text: &'static str) -> Part {
        Part::Hidden(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn what_is_asked_for_in_secret_is_hidden_until_the_line_ends() {
        for (output, input, expect) in [
            ("$ ", "ls\r", vec![shown("ls\r")]),
            (
                "[sudo] password for alice: ",
                "hunter2\rls\r",
                vec![hidden("hunter2"), shown("\rls\r")],
            ),
            ("$ sudo id\r\nPassword:", "x", vec![hidden("x")]),
            ("Enter passphrase for key '/x': ", "y\n", vec![hidden("y"), shown("\n")]),
            ("\u{1b}[1mPassword\u{1b}[0m: ", "z\r", vec![hidden("z"), shown("\r")]),
            ("Password: \u{3}", "a\u{3}b", vec![hidden("a"), shown("\u{3}b")]),
            // An output that only speaks of one.
            ("password changed\r\n$ ", "ls\r", vec![shown("ls\r")]),
            ("typing: ", "ls\r", vec![shown("ls\r")]),
        ] {
            let mut echo = Echo::default();
            echo.output(output.as_bytes());
            assert_eq!(echo.input(Bytes::from_static(input.as_bytes())), expect, "{output:?}");
        }
    }

    #[test]
    fn a_question_may_come_in_pieces_and_be_asked_again() {
        let mut echo = Echo::default();
        for piece in ["[sudo] pass", "word for al", "ice: "] {
            echo.output(piece.as_bytes());
        }
        assert_eq!(echo.input(Bytes::from_static(b"wr")), [hidden("wr")]);
        assert_eq!(echo.input(Bytes::from_static(b"ong\r")), [hidden("ong"), shown("\r")]);
        echo.output(b"\r\nSorry, try again.\r\n[sudo] password for alice: ");
        assert_eq!(echo.input(Bytes::from_static(b"right\r")), [hidden("right"), shown("\r")]);
        echo.output(b"\r\n# ");
        assert_eq!(echo.input(Bytes::from_static(b"id\r")), [shown("id\r")]);
    }

    #[test]
    fn lines_are_put_together_from_keys() {
        for (keys, expect) in [
            ("ls -l\r", &["ls -l"][..]),
            ("lss\u{7f}\rpwd\r", &["ls", "pwd"]),
            ("wrong\u{15}right\r", &["right"]),
            ("\u{1b}[A\r", &[]),
            ("a\u{1b}[Db\r", &["ab"]),
            ("half", &[]),
        ] {
            assert_eq!(lines(keys.as_bytes()), expect, "{keys:?}");
        }
    }
}
