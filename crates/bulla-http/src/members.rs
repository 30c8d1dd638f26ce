//! Members of a JSON body that would replace the method, found as it streams by. Pure.
//!
//! Some frameworks take `{"_method": "DELETE"}` for a form's field. Only where strings begin and end
//! is looked at: a byte outside of strings that could make another reader see other strings
//! (comments, other quotes, names without quotes) is a doubt, and refused. The rest of the grammar is
//! the target's to check.

use crate::{
    coding::{CodingError, Decoder, codings},
    head::{Head, replaces_method_in_body},
    wire::{Fault, bad},
};

/// So much of a member's name is looked at: no name in question is longer, with every character
/// escaped.
const NAME_BYTES_MAX: usize = 256;
/// What a record of a JSON text sequence (RFC 7464) begins with.
const RECORD: u8 = 0x1e;

const OVERRIDE: Fault = bad("a member of the JSON would replace the method");
const DOUBT: Fault =
    bad("the body is called JSON and is not, so whether it would replace the method is unknown");
const CODED: Fault =
    Fault { status: 415, why: "JSON is looked into, so its coding is gzip, deflate, br or zstd" };
const MALFORMED: Fault = bad("the body is not compressed as it says");
const BOMB: Fault = Fault { status: 413, why: "the body grows more than any honest one" };
const CHARSET: Fault = Fault { status: 415, why: "JSON is UTF-8" };

/// Why such a body is refused.
pub const FAULTS: &[Fault] = &[OVERRIDE, DOUBT, CODED, MALFORMED, BOMB, CHARSET];

impl From<CodingError> for Fault {
    fn from(error: CodingError) -> Self {
        match error {
            CodingError::Malformed => MALFORMED,
            CodingError::Bomb => BOMB,
        }
    }
}

/// What a byte outside of strings says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// Nothing.
    Blank,
    /// Whether a string behind it is a name.
    Comma,
    Colon,
    /// Numbers and words, and also `NaN`, which many write. No name is behind a colon and these.
    Word,
    Quote,
    Open,
    Close,
    Doubt,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Doubt; 256];
    let mut at = 0;
    while at < 256 {
        classes[at] = match at as u8 {
            b' ' | b'\t' | b'\r' | b'\n' | RECORD => Class::Blank,
            b',' => Class::Comma,
            b':' => Class::Colon,
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'+' | b'-' | b'.' => Class::Word,
            b'"' => Class::Quote,
            b'{' | b'[' => Class::Open,
            b'}' | b']' => Class::Close,
            _ => Class::Doubt,
        };
        at += 1;
    }
    classes
};

impl Class {
    fn of(byte: u8) -> Self {
        CLASSES.get(usize::from(byte)).copied().unwrap_or(Self::Doubt)
    }
}

/// Strings are short, mostly.
const SHORT: usize = 24;

/// Where a string ends, or something in it is escaped.
fn string_end(text: &[u8]) -> usize {
    let end = |byte: &u8| *byte == b'"' || *byte == b'\\';
    let first = text.get(..SHORT).unwrap_or(text);
    first.iter().position(end).unwrap_or_else(|| {
        let rest = text.get(first.len()..).unwrap_or_default();
        first.len() + memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len())
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The mark of UTF-8 that some begin with: so many of its bytes were seen.
    Mark(usize),
    Between,
    String {
        /// It names a member of an outermost object.
        name: bool,
        escaped: bool,
    },
}

/// Looks through JSON in pieces, with bounded memory.
#[derive(Debug)]
struct Scan {
    at: At,
    depth: u64,
    /// What is outermost is an object.
    object: bool,
    /// A string here is a value: a colon is before it.
    value: bool,
    /// What was seen of the name that is being read.
    name: Vec<u8>,
}

impl Scan {
    fn new() -> Self {
        Self { at: At::Mark(0), depth: 0, object: false, value: false, name: Vec::new() }
    }

    fn push(&mut self, piece: &[u8]) -> Result<(), Fault> {
        let mut rest = piece;
        while let Some((&byte, after)) = rest.split_first() {
            match self.at {
                At::Mark(seen) => {
                    const MARK: &[u8] = b"\xef\xbb\xbf";
                    if MARK.get(seen) == Some(&byte) {
                        rest = after;
                        self.at = At::Mark(seen + 1);
                    } else if seen == 0 || seen == MARK.len() {
                        self.at = At::Between;
                    } else {
                        return Err(DOUBT);
                    }
                }
                At::Between => {
                    // Only in an outermost object it matters what is before a string.
                    let deep = self.depth != 1 || !self.object;
                    let skipped = if deep { Class::Word } else { Class::Blank };
                    let some = |byte: &u8| Class::of(*byte) > skipped;
                    let Some(at) = rest.iter().position(some) else { break };
                    let Some((&byte, after)) = rest.get(at..).and_then(<[u8]>::split_first) else {
                        break;
                    };
                    rest = after;
                    self.between(byte)?;
                }
                At::String { name, escaped: true } => {
                    rest = after;
                    self.keep(name, &[byte]);
                    self.at = At::String { name, escaped: false };
                }
                At::String { name, escaped: false } => {
                    let (text, behind) = rest.split_at(string_end(rest));
                    self.keep(name, text);
                    let Some((&byte, after)) = behind.split_first() else { break };
                    rest = after;
                    if byte == b'"' {
                        self.at = At::Between;
                        self.named(name)?;
                    } else {
                        self.keep(name, b"\\");
                        self.at = At::String { name, escaped: true };
                    }
                }
            }
        }
        Ok(())
    }

    fn between(&mut self, byte: u8) -> Result<(), Fault> {
        match Class::of(byte) {
            Class::Quote => {
                let name = self.depth == 1 && self.object && !self.value;
                self.at = At::String { name, escaped: false };
            }
            Class::Open => {
                if self.depth == 0 {
                    self.object = byte == b'{';
                }
                self.depth += 1;
                self.value = false;
            }
            Class::Close => {
                self.depth = self.depth.checked_sub(1).ok_or(DOUBT)?;
                self.value = false;
            }
            Class::Colon => self.value = true,
            Class::Comma | Class::Word => self.value = false,
            Class::Blank => {}
            Class::Doubt => return Err(DOUBT),
        }
        Ok(())
    }

    fn keep(&mut self, name: bool, text: &[u8]) {
        let room = NAME_BYTES_MAX.saturating_sub(self.name.len());
        if name && room > 0 {
            self.name.extend_from_slice(text.get(..room).unwrap_or(text));
        }
    }

    /// A string has ended.
    fn named(&mut self, name: bool) -> Result<(), Fault> {
        self.value = false;
        if !name {
            return Ok(());
        }
        let name = unescaped(&self.name);
        self.name.clear();
        if replaces_method_in_body(&name) { Err(OVERRIDE) } else { Ok(()) }
    }
}

/// A string of JSON (RFC 8259 7) as lenient readers take it.
fn unescaped(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let (mut out, mut rest) = (String::new(), &*text);
    while let Some(at) = rest.find('\\') {
        out.push_str(rest.get(..at).unwrap_or_default());
        rest = rest.get(at + 1..).unwrap_or_default();
        let mut chars = rest.chars();
        let Some(c) = chars.next() else { break };
        rest = chars.as_str();
        if c != 'u' {
            out.push(c);
            continue;
        }
        let code = rest.get(..4).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        if let Some(code) = code {
            out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            rest = rest.get(4..).unwrap_or_default();
        }
    }
    out + rest
}

/// Looks through a body as it goes on, compressed or not.
#[derive(Debug)]
pub struct Watch {
    decoder: Option<Decoder>,
    scan: Scan,
}

impl Watch {
    /// For a body of this head. An error: nobody here could look into it.
    pub fn new(head: &Head) -> Result<Self, Fault> {
        let charset = head.media_parameter("charset");
        if charset.is_some_and(|own| !matches!(own.as_str(), "utf-8" | "utf8" | "us-ascii")) {
            return Err(CHARSET);
        }
        let all: Vec<&str> = head.headers.all("content-encoding").collect();
        let codings = codings(&all.join(", ")).ok_or(CODED)?;
        let coded = !codings.is_empty();
        let decoder = coded.then(|| Decoder::new(&codings)).transpose()?;
        Ok(Self { decoder, scan: Scan::new() })
    }

    /// Takes the next piece. After an error nothing of it, and nothing more, may go on.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Fault> {
        let Self { decoder, scan } = self;
        match decoder {
            Some(decoder) => decoder.push(piece, &mut |plain| scan.push(plain)),
            None => scan.push(piece),
        }
    }

    /// The body has ended. After an error its end may not go on.
    pub fn finish(&mut self) -> Result<(), Fault> {
        let Self { decoder, scan } = self;
        match decoder {
            Some(decoder) => decoder.finish(&mut |plain| scan.push(plain)),
            None => Ok(()),
        }
    }
}

/// Whether a media type is JSON for somebody: also by lines, in sequences, and by old names.
pub fn is_like_json(media: &str) -> bool {
    media.contains("json") && !media.starts_with("application/grpc")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn scan(body: &[u8], size: usize) -> Result<(), Fault> {
        let mut scan = Scan::new();
        body.chunks(size).try_for_each(|piece| scan.push(piece))
    }

    fn check(body: &str, expect: Result<(), Fault>) {
        for size in [1, 2, 3, 7, body.len().max(1)] {
            assert_eq!(scan(body.as_bytes(), size), expect, "{body:?} in pieces of {size}");
        }
    }

    #[test]
    fn h6_a_member_that_replaces_the_method_is_found_in_every_form() {
        for name in [
            "_method",
            "_Method",
            "\\u005fmethod",
            "_m\\u0065thod",
            "\\u005F\\u006D\\u0045\\u0074\\u0068\\u006F\\u0064",
            "\\_method",
            "%5Fmethod",
            " _method ",
            "_method[]",
            "_method\\u0000x",
            "X-HTTP-Method-Override",
            "x_http_method_override",
        ] {
            for body in [
                format!("{{\"{name}\":\"DELETE\"}}"),
                format!("{{\"a\":1,\"{name}\" : \"DELETE\"}}"),
                format!("\u{feff} \r\n{{ \"a\\\"{{\":[{{}},\"]\"],\"b\":null,\t\"{name}\":0}}"),
                format!("{{\"a\":\"b\" \"{name}\":0}}"),
                format!("{{\"a\":1 \"{name}\":0}}"),
                format!("{{\"a\":{{}} \"{name}\":0}}"),
                // The next of several documents.
                format!("{{\"a\":1}}\n{{\"{name}\":0}}"),
                format!("\u{1e}{{\"a\":1}}\n\u{1e}{{\"{name}\":0}}"),
                format!("[1]{{\"{name}\":0}}"),
                // Nothing comes behind it.
                format!("{{\"{name}\""),
            ] {
                check(&body, Err(OVERRIDE));
            }
        }
    }

    #[test]
    fn what_another_reader_could_take_for_other_strings_is_a_doubt() {
        for body in [
            "{'_method':'DELETE'}",
            "{_method:\"DELETE\"}",
            "{/* \" */\"_method\":\"DELETE\"}",
            "{// \"\n\"_method\":\"DELETE\"}",
            "{# \"\n\"_method\":\"DELETE\"}",
            "{`_method`:1}",
            "{\"a\":\\\"_method\"}",
            "_method=DELETE",
            "}{\"a\":1}",
            "{\u{a0}\"a\":1}",
            "{\0\"a\":1}",
            "\u{feff}\u{feff}{}",
        ] {
            check(body, Err(DOUBT));
        }
        assert_eq!(scan(b"\xff\xfe{\0\"\0", 9), Err(DOUBT));
        assert_eq!(scan(b"\xef\xbb{}", 9), Err(DOUBT));
    }

    #[test]
    fn other_members_and_values_pass() {
        let long = format!("{{\"{}_method\":1}}", "x".repeat(NAME_BYTES_MAX));
        let deep = "[".repeat(100_000);
        for body in [
            "",
            "null",
            "\"_method\"",
            "[\"_method\",{\"_method\":1}]",
            "{\"a\":\"_method\",\"b\":{\"_method\":1},\"c\":[{\"_method\":1}]}",
            "{\"method\":\"DELETE\",\"a\\\\\":\"\\\"_method\\\":\"}",
            "{\"a\":[-1.5E+3,true,NaN,-Infinity]}",
            "{\"n\u{e9}\":\"\u{1f600}\\ud83d\",\"\\ud83d\\uZZZZ\\u00\":1}",
            long.as_str(),
            deep.as_str(),
        ] {
            check(body, Ok(()));
        }
    }

    #[test]
    fn compressed_bodies_are_looked_into() {
        let gzip = |text: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        };
        let watch = |codings: &[crate::coding::Coding], body: &[u8]| {
            let decoder = Some(Decoder::new(codings).unwrap());
            let mut watch = Watch { decoder, scan: Scan::new() };
            let seen = body.chunks(5).try_for_each(|piece| watch.push(piece));
            seen.and_then(|()| watch.finish())
        };
        let own = &[crate::coding::Coding::Gzip];
        assert_eq!(watch(own, &gzip(b"{\"a\":1}")), Ok(()));
        assert_eq!(watch(own, &gzip(b"{\"_method\":\"DELETE\"}")), Err(OVERRIDE));
        assert_eq!(watch(own, b"{\"_method\":\"DELETE\"}"), Err(MALFORMED));
        assert_eq!(watch(own, &gzip(b"{\"a\":1}")[..20]), Err(MALFORMED));
        let bomb = gzip(&vec![b' '; 64 << 20]);
        assert_eq!(watch(own, &bomb), Err(BOMB));
    }
}
