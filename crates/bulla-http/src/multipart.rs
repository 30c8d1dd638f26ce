//! Fields of a multipart body that would replace the method, found as it streams by. Pure.
//!
//! Readers differ about boundaries, so none are looked for: whatever stands at the beginning of a
//! line and could be read as `content-disposition` by somebody is, wherever it stands. A file that
//! holds such a line with such a name is refused too.

use crate::{
    head::replaces_method_in_body,
    wire::{Fault, bad},
};

/// What begins a field (RFC 7578 4.2).
const HEADER: &[u8] = b"content-disposition";
/// Longest headers of one part.
const PART_HEAD_BYTES_MAX: usize = 8 << 10;

const OVERRIDE: Fault = bad("a field of the form would replace the method");
const LONG: Fault = bad("the headers of a part of the form are too long");

/// Why such a body is refused.
pub const FAULTS: &[Fault] = &[OVERRIDE, LONG];

/// Whether a media type is one of parts.
pub fn is_multipart(media: &str) -> bool {
    media.starts_with("multipart/")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Bytes of the header's name that were seen at the beginning of a line.
    Name(usize),
    /// In a line that does not begin with it.
    Line,
    /// Behind the name, up to an empty line. Whether the line that is being read is empty so far.
    Value { empty: bool },
}

/// Looks through a body in pieces, with bounded memory.
#[derive(Debug)]
pub struct Watch {
    at: At,
    /// The headers behind `content-disposition` so far.
    value: Vec<u8>,
}

impl Default for Watch {
    fn default() -> Self {
        Self { at: At::Name(0), value: Vec::new() }
    }
}

impl Watch {
    /// Takes the next piece. After an error nothing of it, and nothing more, may go on.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Fault> {
        let mut rest = piece;
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            let end = *byte == b'\n' || *byte == b'\r';
            match self.at {
                At::Line => {
                    if !end {
                        // To the end of the line at once.
                        let next = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                        rest = rest.get(next..).unwrap_or_default();
                    } else {
                        self.at = At::Name(0);
                    }
                }
                At::Name(_) if end => self.at = At::Name(0),
                // Blanks before a name are taken away by some.
                At::Name(0) if *byte == b' ' || *byte == b'\t' => {}
                At::Name(seen) => {
                    let fits = HEADER.get(seen).is_some_and(|own| byte.eq_ignore_ascii_case(own));
                    self.at = match seen + 1 {
                        next if fits && next == HEADER.len() => At::Value { empty: false },
                        next if fits => At::Name(next),
                        _ => At::Line,
                    };
                }
                At::Value { empty } => {
                    self.value.push(*byte);
                    if self.value.len() > PART_HEAD_BYTES_MAX {
                        return Err(LONG);
                    }
                    if *byte == b'\n' && empty {
                        self.finish()?;
                        *self = Self::default();
                    } else if *byte != b'\r' {
                        self.at = At::Value { empty: *byte == b'\n' };
                    }
                }
            }
        }
        Ok(())
    }

    /// The headers of a part have ended, or the body has.
    pub fn finish(&self) -> Result<(), Fault> {
        if replaces(&String::from_utf8_lossy(&self.value)) { Err(OVERRIDE) } else { Ok(()) }
    }
}

/// Whether one of the names in a part's headers would replace the method. Every `name` counts, that
/// of a file too: some look for no more.
fn replaces(headers: &str) -> bool {
    let lower = headers.to_ascii_lowercase();
    lower.match_indices("name").any(|(at, word)| {
        let rest = lower.get(at + word.len()..).unwrap_or_default();
        let (extended, rest) = match rest.strip_prefix('*') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        // A name in pieces (RFC 2231) is put together by some, and by nobody who means well.
        if extended && rest.starts_with(|c: char| c.is_ascii_digit()) {
            return true;
        }
        let Some(value) = rest.trim_start().strip_prefix('=') else { return false };
        let value = value.trim_start();
        let mut chars = value.chars();
        let name = match chars.next() {
            Some(quote @ ('"' | '\'')) => quoted(chars, quote),
            _ => value.split([';', '\r', '\n']).next().unwrap_or_default().to_owned(),
        };
        let name = if extended { name.rsplit('\'').next().unwrap_or_default() } else { &name };
        replaces_method_in_body(name)
    })
}

/// Up to the quote that ends it, without the backslashes before others.
fn quoted(text: std::str::Chars<'_>, quote: char) -> String {
    let (mut out, mut escaped) = (String::new(), false);
    for c in text {
        match c {
            '\\' if !escaped => escaped = true,
            _ if c == quote && !escaped => break,
            _ => {
                escaped = false;
                out.push(c);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, refused: bool) {
        for size in [1, 2, 7, body.len().max(1)] {
            let mut watch = Watch::default();
            let seen = body.as_bytes().chunks(size).try_for_each(|piece| watch.push(piece));
            let seen = seen.and_then(|()| watch.finish());
            assert_eq!(seen.is_err(), refused, "{body:?} in pieces of {size}");
        }
    }

    #[test]
    fn h6_a_field_that_replaces_the_method_is_found_in_every_form() {
        for field in [
            "name=\"_method\"",
            "name=_method",
            "name = '_method'",
            "name=\"_Method\"; filename=\"x\"",
            "filename=\"x\"; name=\"_method\"",
            "name=\"a\"; name=\"_method\"",
            "name=\"\\_method\"",
            "name=\"_method[]\"",
            "name=\"%5Fmethod\"",
            "name*=utf-8''%5Fmethod",
            "name*=utf-8''_method",
            "name*0=\"_met\"; name*1=\"hod\"",
            "\r\n name=\"_method\"",
            "name=\"x_http_method_override\"",
            "name=\"X-HTTP-Method-Override\"",
        ] {
            for line in [
                "Content-Disposition: form-data; ",
                "content-disposition:x;",
                "\tCONTENT-DISPOSITION : ",
            ] {
                check(&format!("--b\r\n{line}{field}\r\n\r\nDELETE\r\n--b--\r\n"), true);
                check(&format!("--b\n{line}{field}\n\nDELETE\n--b--\n"), true);
            }
            let first =
                "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--b\r\nX: y\r\n";
            check(&format!("{first}Content-Disposition: form-data; {field}\r\n\r\nDELETE"), true);
            // Nothing comes behind it.
            check(&format!("--b\r\nContent-Disposition: form-data; {field}"), true);
        }
        check(&format!("Content-Disposition: {}", "x".repeat(PART_HEAD_BYTES_MAX)), true);
    }

    #[test]
    fn other_fields_and_files_pass() {
        for body in [
            "",
            "--b\r\nContent-Disposition: form-data; name=\"method\"\r\n\r\n_method\r\n--b--\r\n",
            "--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\n\
             Content-Type: text/plain\r\n\r\nname=\"_method\"\r\n--b--\r\n",
            "--b\r\nX: Content-Disposition: form-data; name=\"_method\"\r\n\r\n\r\n--b--\r\n",
            "--b\r\nContent-Disposition: form-data; name=\"user[_method]\"\r\n\r\n1\r\n--b--\r\n",
        ] {
            check(body, false);
        }
    }
}
