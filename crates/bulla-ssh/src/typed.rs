//! What is typed at a terminal: what of it is kept, and the lines that it seems to be. Pure.
//!
//! A terminal that asks for a password does not echo what is typed. So a typed line is kept only
//! once its characters came back, within the output that follows it; until then, and for good where
//! they do not, only how many bytes it was. While the last line of output asks for a secret in words
//! that are known, it is not kept even if it is echoed. Typed lines are an aid to search. They are
//! *not* what ran: a shell completes, recalls and edits.

use std::collections::VecDeque;

use bytes::Bytes;

/// What of the last line of output is looked at.
const LINE_BYTES_MAX: usize = 512;
/// Longest line that is put together.
const TYPED_CHARS_MAX: usize = 4_096;
/// Output in which a line's echo is looked for, and the ends of lines in it behind the line's own.
const ECHO_BYTES_MAX: usize = 8 << 10;
const ECHO_LINES_MAX: usize = 2;
/// Lines that wait for their echo, and bytes of one. What is longer is not kept.
const WAITING_LINES_MAX: usize = 256;
const WAITING_BYTES_MAX: usize = 8 << 10;

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

/// A line that was typed, as far as it was.
#[derive(Debug, Default)]
struct Line {
    /// Where it stands in the visible output: its echo comes behind.
    begins: usize,
    typed: Vec<u8>,
    ended: bool,
}

/// Follows a terminal.
#[derive(Debug, Default)]
pub struct Echo {
    line: Vec<u8>,
    hides: bool,
    /// What was typed and not seen again yet, oldest first.
    waiting: VecDeque<Line>,
    /// What is visible of the output since the first of them began, and where that is in all.
    seen: Visible,
    begins: usize,
}

/// Output without what moves and colours (ECMA-48), and without other control characters but the
/// ends of lines.
#[derive(Debug, Default)]
struct Visible {
    text: Vec<u8>,
    within: Within,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Within {
    #[default]
    Text,
    Escape,
    Sequence,
    Command,
}

impl Visible {
    fn push(&mut self, byte: u8) {
        self.within = match (self.within, byte) {
            (Within::Escape, b'[') => Within::Sequence,
            (Within::Escape, b']') => Within::Command,
            (Within::Sequence, b'@'..=b'~') | (Within::Command, 7) | (Within::Escape, _) => {
                Within::Text
            }
            (Within::Sequence, _) => Within::Sequence,
            (_, 0x1b) => Within::Escape,
            (Within::Command, _) => Within::Command,
            (Within::Text, b'\n' | b' '..=b'~' | 0x80..) => {
                self.text.push(byte);
                Within::Text
            }
            (Within::Text, _) => Within::Text,
        };
    }
    fn of(bytes: &[u8]) -> Vec<u8> {
        let mut visible = Self::default();
        for byte in bytes {
            visible.push(*byte);
        }
        visible.text.retain(|byte| *byte != b'\n');
        visible.text
    }
}

impl Echo {
    /// Takes output in. Returns typed lines that it shows again.
    pub fn output(&mut self, bytes: &[u8]) -> Vec<Bytes> {
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
        let mut shown = Vec::new();
        for byte in bytes {
            if self.waiting.is_empty() {
                break;
            }
            self.seen.push(*byte);
            if *byte == b'\n' || self.seen.text.len() > ECHO_BYTES_MAX {
                self.look(&mut shown);
            }
        }
        self.look(&mut shown);
        shown
    }

    /// Looks whether the first lines that wait were shown again, or will not be any more.
    fn look(&mut self, shown: &mut Vec<Bytes>) {
        while let Some(line) = self.waiting.front().filter(|line| line.ended) {
            let text = Visible::of(&line.typed);
            let found = memchr::memmem::find(&self.seen.text, &text);
            let ends = memchr::memchr_iter(b'\n', &self.seen.text).count();
            let over = ends >= ECHO_LINES_MAX || self.seen.text.len() > ECHO_BYTES_MAX;
            if found.is_none() && !over {
                return;
            }
            let line = self.waiting.pop_front().unwrap_or_default();
            if found.is_some() && line.typed.len() <= WAITING_BYTES_MAX {
                shown.push(line.typed.into());
            }
            self.forget(found.map_or(0, |at| at + text.len()));
        }
    }

    /// Forgets so much of the output, and what stands before the next line.
    fn forget(&mut self, bytes: usize) {
        let all = self.seen.text.len();
        let next = self.waiting.front().map_or(all, |line| line.begins.saturating_sub(self.begins));
        let bytes = bytes.max(next).min(all);
        self.seen.text.drain(..bytes);
        self.begins += bytes;
    }

    /// Remembers what was typed until it is seen again.
    fn wait(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| matches!(byte, b'\r' | b'\n')) {
            if self.waiting.back().is_none_or(|line| line.ended) {
                if self.waiting.len() >= WAITING_LINES_MAX {
                    self.waiting.pop_front();
                    self.forget(0);
                }
                let begins = self.begins + self.seen.text.len();
                self.waiting.push_back(Line { begins, ..Line::default() });
            }
            let Some(line) = self.waiting.back_mut() else { return };
            // One byte too long says that it was longer.
            let room = (WAITING_BYTES_MAX + 1).saturating_sub(line.typed.len());
            line.typed.extend_from_slice(piece.get(..room).unwrap_or(piece));
            line.ended = piece.ends_with(b"\r") || piece.ends_with(b"\n");
        }
    }

    /// Splits input at the ends of what is hidden. What holds characters is, until they are seen.
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
        if bytes.is_empty() {
            return parts;
        }
        // A line goes in one piece, with the keys that edit it.
        let begun = self.waiting.back().is_some_and(|line| !line.ended);
        if begun || !Visible::of(&bytes).is_empty() {
            self.wait(&bytes);
            parts.push(Part::Hidden(bytes));
        } else {
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
        for (output, input, echo, expect) in [
            ("$ ", "ls\r", "ls\r\n", &["ls\r"][..]),
            ("[sudo] password for alice: ", "hunter2\rls\r", "hunter2\r\nls\r\n", &["\r", "ls\r"]),
            ("$ sudo id\r\nPassword:", "x\r", "x\r\n", &[]),
            ("Enter passphrase for key '/x': ", "y\n", "y\r\n", &[]),
            ("\u{1b}[1mPassword\u{1b}[0m: ", "z\r", "z\r\n", &[]),
            ("Password: \u{3}", "a\u{3}b\r", "ab\r\n", &["\u{3}b\r"]),
            // An output that only speaks of one.
            ("password changed\r\n$ ", "ls\r", "ls\r\n", &["ls\r"]),
            ("typing: ", "ls\r", "ls\r\n", &["ls\r"]),
        ] {
            let mut terminal = Echo::default();
            assert_eq!(terminal.output(output.as_bytes()), &[] as &[Bytes]);
            let parts = terminal.input(Bytes::from_static(input.as_bytes()));
            let kept = parts.iter().any(|part| matches!(part, Part::Shown(text) if text.len() > 1));
            assert!(!kept, "{output:?}: {parts:?}");
            assert_eq!(terminal.output(echo.as_bytes()), expect, "{output:?}");
        }
    }

    #[test]
    fn a_line_is_kept_once_it_is_seen_again() {
        for (steps, expect) in [
            // Key by key, by a shell that draws the line itself.
            (&[("l", "l"), ("s", "\u{1b}[Ks"), ("\r", "\r\na b c\r\n$ ")][..], &["ls\r"][..]),
            (&[("ls\n", "\r\nPIN of the day\r\n$ ")], &[]),
            // Not echoed at all, in whatever words it was asked for; the next line is.
            (&[("hunter2\r", ""), ("", "\r\nyes\r\n$ "), ("id\r", "id\r\nuid=0\r\n")], &["id\r"]),
            // What was not echoed takes no later line along.
            (
                &[("7\r", "\r\nno\r\n"), ("ls\r", "ls\r\n"), ("id\r", "id\r\nx\r\n")],
                &["ls\r", "id\r"],
            ),
            (&[("7\r", "\r\n$ "), ("stty size\r", "stty size\r\n24 80\r\n")], &["stty size\r"]),
            // Typed ahead: each in its turn, unless other output comes between.
            (&[("a1\nb2\n", ""), ("", "a1\r\nb2\r\n")], &["a1\n", "b2\n"]),
            (&[("a1\nb2\n", "$ a1\r\nout\r\n$ b2\r\nout\r\n")], &["a1\n"]),
            // What comes late is no echo any more.
            (&[("7\r", "\r\nwrong\r\n"), ("", "try 7 times\r\n")], &[]),
            // Keys that edit, complete and colour.
            (&[("lss", "lss"), ("\u{7f}\r", "\u{8} \u{8}\r\n")], &["lss\u{7f}\r"]),
            (&[("cat fo", "cat fo"), ("\t\r", "obar.txt \r\n")], &["cat fo\t\r"]),
            (&[("p", "\u{1b}]0;p\u{7}")], &[]),
            (&[("p\r", "\u{1b}]0;p\u{7}\r\n\r\n")], &[]),
        ] {
            let (mut terminal, mut kept) = (Echo::default(), Vec::new());
            for (input, output) in steps {
                if !input.is_empty() {
                    let parts = terminal.input(Bytes::from_static(input.as_bytes()));
                    assert_eq!(parts, [Part::Hidden(Bytes::from_static(input.as_bytes()))]);
                }
                kept.extend(terminal.output(output.as_bytes()));
            }
            assert_eq!(kept, expect, "{steps:?}");
        }
        // Keys alone hold no secret; a line that is too long is not kept.
        let mut terminal = Echo::default();
        let arrow = Bytes::from_static(b"\x1b[A\r");
        assert_eq!(terminal.input(arrow.clone()), [Part::Shown(arrow)]);
        let long = "x".repeat(WAITING_BYTES_MAX + 1) + "\r";
        terminal.input(long.clone().into());
        assert_eq!(terminal.output(long.as_bytes()), &[] as &[Bytes]);
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
        assert_eq!(echo.input(Bytes::from_static(b"id\r")), [hidden("id\r")]);
        assert_eq!(echo.output(b"id\r\n"), ["id\r"]);
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
