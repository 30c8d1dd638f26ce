//! What messages mean: bounded decoding that consumes each one whole, or fails.
//!
//! Source: PostgreSQL manual, "Message Formats". Counts of parameters, formats and types are read
//! as the server reads them, as unsigned 16 bits.

use std::sync::Arc;

use bulla_wire::{ReadError, Reader};

/// A message of a client. Texts are slices of the message.
#[derive(Debug, PartialEq, Eq)]
pub enum Client<'a> {
    Query { text: &'a str },
    Parse { name: &'a str, text: &'a str, types: Vec<u32> },
    Bind(Bind<'a>),
    Describe { of: Of, name: &'a str },
    Close { of: Of, name: &'a str },
    Execute { portal: &'a str },
    FunctionCall { oid: u32 },
    Sync,
    Flush,
    Terminate,
}

/// What Describe and Close are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    Statement,
    Portal,
}

/// How a bound value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Binary,
}

/// Its format, and the value; `None` is NULL.
pub type Value<'a> = (Format, Option<&'a [u8]>);

#[derive(Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    pub portal: &'a str,
    pub statement: &'a str,
    pub values: Vec<Value<'a>>,
    /// Formats of the result: none is text, one is for all.
    pub results: Vec<i16>,
}

/// Why a message is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("{0}: {1}")]
    Read(&'static str, ReadError),
    #[error("{0}")]
    Content(&'static str),
    #[error("unknown message type {0:#04x}")]
    Type(u8),
}

pub type Result<T> = std::result::Result<T, Malformed>;

/// The message of type `kind` with this body.
pub fn client(kind: u8, body: &[u8]) -> Result<Client<'_>> {
    let name = name(kind)?;
    let bad = |error| Malformed::Read(name, error);
    let mut reader = Reader::new(body);
    let message = match kind {
        b'Q' => Client::Query { text: reader.text().map_err(bad)? },
        b'P' => {
            let (name, text) = (reader.text().map_err(bad)?, reader.text().map_err(bad)?);
            let count = usize::from(reader.u16().map_err(bad)?);
            let types = (0..count).map(|_| reader.u32()).collect::<std::result::Result<_, _>>();
            Client::Parse { name, text, types: types.map_err(bad)? }
        }
        b'B' => Client::Bind(bind(&mut reader)?),
        b'D' | b'C' => {
            let of = match reader.u8().map_err(bad)? {
                b'S' => Of::Statement,
                b'P' => Of::Portal,
                _ => return Err(Malformed::Content("neither a statement nor a portal")),
            };
            let name = reader.text().map_err(bad)?;
            if kind == b'D' { Client::Describe { of, name } } else { Client::Close { of, name } }
        }
        b'E' => {
            let portal = reader.text().map_err(bad)?;
            // The most rows; 0 and negative numbers mean all.
            reader.u32().map_err(bad)?;
            Client::Execute { portal }
        }
        b'F' => {
            let oid = reader.u32().map_err(bad)?;
            let formats = formats(&mut reader).map_err(bad)?;
            values(&mut reader, &formats)?;
            format(reader.u16().map_err(bad)?)?;
            Client::FunctionCall { oid }
        }
        b'S' => Client::Sync,
        b'H' => Client::Flush,
        _ => Client::Terminate,
    };
    reader.finish().map_err(bad)?;
    Ok(message)
}

/// Whether there is such a message of a client, so that it is worth waiting for the rest of it.
pub fn is_known(kind: u8) -> bool {
    !matches!(name(kind), Err(Malformed::Type(_)))
}

/// The name of a client message that a session may hold; copy data is read elsewhere.
fn name(kind: u8) -> Result<&'static str> {
    Ok(match kind {
        b'Q' => "Query",
        b'P' => "Parse",
        b'B' => "Bind",
        b'D' => "Describe",
        b'C' => "Close",
        b'E' => "Execute",
        b'F' => "FunctionCall",
        b'S' => "Sync",
        b'H' => "Flush",
        b'X' => "Terminate",
        b'p' => return Err(Malformed::Content("a password that nobody asked for")),
        b'd' | b'c' | b'f' => return Err(Malformed::Content("copy data outside of a COPY")),
        kind => return Err(Malformed::Type(kind)),
    })
}

fn format(code: u16) -> Result<Format> {
    match code {
        0 => Ok(Format::Text),
        1 => Ok(Format::Binary),
        _ => Err(Malformed::Content("an unknown format code")),
    }
}

fn formats(reader: &mut Reader<'_>) -> std::result::Result<Vec<u16>, ReadError> {
    let count = usize::from(reader.u16()?);
    (0..count).map(|_| reader.u16()).collect()
}

fn values<'a>(reader: &mut Reader<'a>, formats: &[u16]) -> Result<Vec<Value<'a>>> {
    let bad = |error| Malformed::Read("a parameter", error);
    let count = usize::from(reader.u16().map_err(bad)?);
    if formats.len() > 1 && formats.len() != count {
        return Err(Malformed::Content(
            "as many formats as parameters are needed, or one, or none",
        ));
    }
    // A count alone must not reserve more than the message could hold.
    let mut values = Vec::with_capacity(count.min(reader.remaining() / 4));
    for i in 0..count {
        let code = formats.get(i).or(formats.first()).copied().unwrap_or(0);
        let value = match reader.length32().map_err(bad)? {
            None => None,
            Some(n) => Some(reader.bytes(n).map_err(bad)?),
        };
        values.push((format(code)?, value));
    }
    Ok(values)
}

fn bind<'a>(reader: &mut Reader<'a>) -> Result<Bind<'a>> {
    let bad = |error| Malformed::Read("Bind", error);
    let (portal, statement) = (reader.text().map_err(bad)?, reader.text().map_err(bad)?);
    let codes = formats(reader).map_err(bad)?;
    let values = values(reader, &codes)?;
    let mut results = Vec::new();
    for code in formats(reader).map_err(bad)? {
        results.push(match format(code)? {
            Format::Text => 0,
            Format::Binary => 1,
        });
    }
    Ok(Bind { portal, statement, values, results })
}

/// The names at the front of a Bind that is too long to be kept, and how many bytes they take.
/// `None`: they are not whole yet.
pub fn bind_names(body: &[u8]) -> Result<Option<(&str, &str, usize)>> {
    let mut reader = Reader::new(body);
    let mut next = || match reader.text() {
        Ok(text) => Ok(Some(text)),
        Err(ReadError::Unterminated) => Ok(None),
        Err(error) => Err(Malformed::Read("Bind", error)),
    };
    let (Some(portal), Some(statement)) = (next()?, next()?) else { return Ok(None) };
    Ok(Some((portal, statement, portal.len() + statement.len() + 2)))
}

/// What the gateway needs of an ErrorResponse or NoticeResponse.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// FATAL or PANIC: the server closes the connection.
    pub fatal: bool,
    /// SQLSTATE, or `XX000` where the server gives none that is well formed.
    pub code: Arc<str>,
}

pub fn problem(body: &[u8]) -> Result<Problem> {
    let bad = |error| Malformed::Read("ErrorResponse", error);
    let (mut reader, mut fatal, mut code) = (Reader::new(body), false, None);
    loop {
        let field = reader.u8().map_err(bad)?;
        if field == 0 {
            reader.finish().map_err(bad)?;
            return Ok(Problem { fatal, code: code.unwrap_or_else(|| "XX000".into()) });
        }
        let text = reader.until_nul().map_err(bad)?;
        match field {
            b'V' => fatal = matches!(text, b"FATAL" | b"PANIC"),
            b'C' if text.len() == 5 && text.iter().all(u8::is_ascii_alphanumeric) => {
                code = std::str::from_utf8(text).ok().map(Arc::from);
            }
            _ => {}
        }
    }
}

/// The tag of a CommandComplete.
pub fn tag(body: &[u8]) -> Result<&str> {
    let bad = |error| Malformed::Read("CommandComplete", error);
    let mut reader = Reader::new(body);
    let tag = reader.text().map_err(bad)?;
    reader.finish().map_err(bad)?;
    Ok(tag)
}

/// Rows that a tag tells of: `INSERT 0 3`, `SELECT 5`.
pub fn tag_rows(tag: &str) -> Option<u64> {
    tag.rsplit_once(' ').and_then(|(_, count)| count.parse().ok())
}

/// The transaction status of a ReadyForQuery.
pub fn status(body: &[u8]) -> Result<u8> {
    match body {
        [status @ (b'I' | b'T' | b'E')] => Ok(*status),
        _ => Err(Malformed::Content("ReadyForQuery without a transaction status")),
    }
}

/// Name and value of a ParameterStatus.
pub fn parameter(body: &[u8]) -> Result<(&str, &str)> {
    let bad = |error| Malformed::Read("ParameterStatus", error);
    let mut reader = Reader::new(body);
    let pair = (reader.text().map_err(bad)?, reader.text().map_err(bad)?);
    reader.finish().map_err(bad)?;
    Ok(pair)
}

/// The types of a ParameterDescription.
pub fn described(body: &[u8]) -> Result<Vec<u32>> {
    let bad = |error| Malformed::Read("ParameterDescription", error);
    let mut reader = Reader::new(body);
    let count = usize::from(reader.u16().map_err(bad)?);
    let types = (0..count).map(|_| reader.u32()).collect::<std::result::Result<_, _>>();
    reader.finish().map_err(bad)?;
    types.map_err(bad)
}

/// The cells of a DataRow, as text; for the gateway's own question alone.
pub fn row(body: &[u8]) -> Result<Vec<Option<&str>>> {
    let bad = |error| Malformed::Read("DataRow", error);
    let mut reader = Reader::new(body);
    let count = reader.count16().map_err(bad)?;
    let mut cells = Vec::new();
    for _ in 0..count {
        cells.push(match reader.length32().map_err(bad)? {
            None => None,
            Some(n) => {
                let cell = std::str::from_utf8(reader.bytes(n).map_err(bad)?);
                Some(cell.map_err(|_| bad(ReadError::Utf8))?)
            }
        });
    }
    reader.finish().map_err(bad)?;
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: u8, body: &[u8], expect: Client<'_>) {
        assert_eq!(client(kind, body), Ok(expect));
        // One byte less and one byte more are not the message.
        if let Some((_, shorter)) = body.split_last() {
            assert!(client(kind, shorter).is_err(), "{kind}: short");
        }
        let longer = [body, b"\0"].concat();
        assert!(client(kind, &longer).is_err(), "{kind}: long");
    }

    #[test]
    fn each_message_is_consumed_whole() {
        check(b'Q', b"select 1\0", Client::Query { text: "select 1" });
        check(
            b'P',
            b"s\0select $1\0\0\x01\0\0\0\x17",
            Client::Parse { name: "s", text: "select $1", types: vec![23] },
        );
        check(b'D', b"Ss\0", Client::Describe { of: Of::Statement, name: "s" });
        check(b'C', b"P\0", Client::Close { of: Of::Portal, name: "" });
        check(b'E', b"p\0\0\0\0\x05", Client::Execute { portal: "p" });
        check(b'F', b"\0\0\x04\xd2\0\0\0\0\0\0", Client::FunctionCall { oid: 1234 });
        check(b'S', b"", Client::Sync);
        check(b'H', b"", Client::Flush);
        check(b'X', b"", Client::Terminate);
        let one = b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x02ab\xff\xff\xff\xff\0\x01\0\x01";
        let values = vec![(Format::Binary, Some(&b"ab"[..])), (Format::Binary, None)];
        let bind = Bind { portal: "p", statement: "s", values, results: vec![1] };
        check(b'B', one, Client::Bind(bind));
    }

    #[test]
    fn hostile_messages_are_not_messages() {
        for (kind, body) in [
            (b'Q', &b"select 1"[..]),
            (b'Q', b"a\0b\0"),
            (b'Q', b"\xc3\x28\0"),
            (b'P', b"s\0t\0\xff\xff\0\0\0\x17"),
            (b'B', b"\0\0\xff\xff"),
            (b'B', b"\0\0\0\0\xff\xff"),
            (b'B', b"\0\0\0\0\0\x01\x80\0\0\0\0\0"),
            (b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"),
            (b'B', b"\0\0\0\0\0\x01\0\0\0\x05abc\0\0"),
            (b'B', b"\0\0\0\x02\0\0\0\0\0\x01\0\0\0\x01a\0\0"),
            (b'B', b"\0\0\0\x01\0\x02\0\x01\0\0\0\x01a\0\0"),
            (b'B', b"\0\0\0\0\0\0\0\x01\0\x07"),
            (b'D', b"Xs\0"),
            (b'C', b"ss\0"),
            (b'E', b"p\0\0\0\0"),
            (b'F', b"\0\0\x04\xd2\0\0\0\x01\0\0\0\x09"),
            (b'S', b"x"),
            (b'p', b"secret\0"),
            (b'd', b"data"),
            (b'c', b""),
            (b'f', b"why\0"),
            (b'z', b""),
            (0, b""),
        ] {
            assert!(client(kind, body).is_err(), "{:?} {body:?}", char::from(kind));
        }
    }

    #[test]
    fn the_names_of_a_long_bind_are_read_early() {
        assert_eq!(bind_names(b"p\0s\0rest"), Ok(Some(("p", "s", 4))));
        assert_eq!(bind_names(b"p\0s"), Ok(None));
        assert!(bind_names(b"\xff\0s\0").is_err());
    }

    #[test]
    fn the_servers_messages() {
        let error = b"SERROR\0VERROR\0C42P01\0Mgone\0\0";
        assert_eq!(problem(error), Ok(Problem { fatal: false, code: "42P01".into() }));
        let fatal = b"SFATAL\0VFATAL\0C57P01\0Mbye\0\0";
        assert_eq!(problem(fatal), Ok(Problem { fatal: true, code: "57P01".into() }));
        assert_eq!(problem(b"C\x1b[2J\0\0").map(|p| p.code), Ok("XX000".into()));
        assert!(problem(b"SERROR").is_err());
        assert_eq!((tag(b"SELECT 5\0"), tag_rows("SELECT 5")), (Ok("SELECT 5"), Some(5)));
        assert_eq!((tag_rows("INSERT 0 3"), tag_rows("COMMIT")), (Some(3), None));
        assert_eq!(status(b"T"), Ok(b'T'));
        assert!(status(b"X").is_err() && status(b"").is_err() && status(b"II").is_err());
        assert_eq!(parameter(b"a\0b\0"), Ok(("a", "b")));
        assert_eq!(described(b"\0\x01\0\0\0\x17"), Ok(vec![23]));
        let cells = b"\0\x02\0\0\0\x01a\xff\xff\xff\xff";
        assert_eq!(row(cells), Ok(vec![Some("a"), None]));
    }
}
