//! One row of the corpus: bytes of a client, and all that may come of them.

/// What may come of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// It is refused, with one answer, and no whole request reaches the target.
    Refused,
    /// Each is answered 200, and the target reads just these: method, target, body.
    Goes(Vec<(&'static str, String, Vec<u8>)>),
    /// The first ones go, and what follows is refused.
    GoesThenRefused(Vec<(&'static str, String, Vec<u8>)>),
    /// The client goes away in the middle: no whole request reaches the target.
    Cut,
}

/// A row.
#[derive(Clone, Debug)]
pub struct Case {
    pub family: &'static str,
    pub name: String,
    pub bytes: Vec<u8>,
    pub expect: Expect,
}

/// What would come to light if a refused message were read as two. It is good in itself.
pub const TAIL: &str = "GET /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n";

/// Characters up to U+00FF are bytes; there are no others.
pub fn bytes(text: &str) -> Vec<u8> {
    let byte = |c: char| u8::try_from(u32::from(c)).unwrap_or_else(|_| panic!("{c:?} is no byte"));
    text.chars().map(byte).collect()
}

fn named(text: &str) -> String {
    text.escape_debug().take(60).collect()
}

/// Refused, with the tail behind it.
pub fn refused(family: &'static str, name: &str, text: &str) -> Case {
    let bytes = bytes(&format!("{text}{TAIL}"));
    Case { family, name: named(name), bytes, expect: Expect::Refused }
}

/// A head with a host and a credential, and one more line.
pub fn head(line: &str, more: &str) -> String {
    let more = if more.is_empty() { String::new() } else { format!("{more}\r\n") };
    format!("{line}\r\nhost: localhost\r\nAUTH\r\n{more}\r\n")
}

/// One request that passes, and ends its connection.
pub fn goes(
    family: &'static str,
    text: &str,
    method: &'static str,
    target: &str,
    body: &str,
) -> Case {
    let seen = vec![(method, target.to_owned(), bytes(body))];
    Case { family, name: named(text), bytes: bytes(text), expect: Expect::Goes(seen) }
}
