//! HTTP/1.1 messages read strictly (RFC 9112), without I/O. Pure.
//!
//! Where RFC 9112 lets a recipient be lenient, this is not: two readers that are lenient in
//! different ways are what request smuggling lives on. What is read is written again in one
//! canonical form, and only that form goes on. A [`Filter`] does both for one direction of a
//! connection; once it has found a fault it takes nothing more.

use std::fmt::Write as _;

use bytes::{Buf, BytesMut};

use crate::{fields::Headers, names};

pub use crate::fault::Fault;
pub(crate) use crate::fault::bad;

/// Longest chunk-size: 16 hexadecimal digits fill 64 bits.
const CHUNK_DIGITS_MAX: usize = 16;
/// Longest trailer section, in bytes.
const TRAILER_BYTES_MAX: usize = 8 << 10;
/// Digits of the longest content length.
const LENGTH_DIGITS_MAX: usize = 18;

/// What may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub head_bytes_max: usize,
    pub headers_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head_bytes_max: 64 << 10, headers_max: 100 }
    }
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    /// Of a response only: the connection ends it.
    Close,
}

/// `tchar` of RFC 9110 5.6.2, without `_`: many servers read `_` and `-` as the same.
pub(crate) fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// A header's name in lower case, if it is one.
pub fn header_name(name: &[u8]) -> Result<String, Fault> {
    check_name(name, Side::Requests)?;
    Ok(String::from_utf8_lossy(name).to_ascii_lowercase())
}

/// Why a header's name is none.
pub(crate) fn odd_name(name: &[u8]) -> &'static str {
    if !name.is_empty() && name.iter().all(|byte| is_name(*byte) || *byte == b'_') {
        "a header's name holds `_`, which some servers take for `-`"
    } else {
        "a header's name holds a character that is not allowed"
    }
}

fn check_name(name: &[u8], side: Side) -> Result<(), Fault> {
    // Nobody takes the names in an answer for others.
    let lenient = side == Side::Responses;
    if name.is_empty() || !name.iter().all(|byte| is_name(*byte) || (lenient && *byte == b'_')) {
        return Err(bad(odd_name(name)));
    }
    Ok(())
}

/// A header's value without the blanks around it: printable, and UTF-8 where it is not ASCII.
pub fn header_value(value: &[u8]) -> Result<&str, Fault> {
    // OWS of RFC 9110 5.6.3, and no other blank.
    let blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let from = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let to = value.iter().rposition(|byte| !blank(byte)).map_or(from, |at| at + 1);
    let value = value.get(from..to).unwrap_or_default();
    // All of them, so that many are looked at in one step: tokens are long.
    let control = |byte: u8| ((byte < 0x20) & (byte != b'\t')) | (byte == 0x7f);
    if value.iter().fold(false, |found, byte| found | control(*byte)) {
        return Err(bad("a header's value holds a control character"));
    }
    std::str::from_utf8(value).map_err(|_| bad("a header's value is not UTF-8"))
}

/// A content length: digits and nothing else (RFC 9110 8.6).
pub fn content_length(value: &str) -> Result<u64, Fault> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || value.len() > LENGTH_DIGITS_MAX {
        return Err(bad("`content-length` is not one number"));
    }
    value.parse().map_err(|_| bad("`content-length` is not one number"))
}

/// Many servers do not look for it, and take it for the next request.
pub const BODY_OF_GET: Fault = bad("a `GET` or `HEAD` has a body");

/// The lines of a head, without the empty one: no bare CR or LF, no folding.
fn lines(head: &[u8]) -> Result<Vec<&[u8]>, Fault> {
    let mut out = Vec::with_capacity(16);
    let mut rest = head;
    while let Some(at) = memchr::memchr2(b'\r', b'\n', rest) {
        let (line, end) = rest.split_at(at);
        let Some(after) = end.strip_prefix(b"\r\n") else {
            return Err(bad("a line does not end in CR LF"));
        };
        if !line.is_empty() {
            out.push(line);
        }
        rest = after;
    }
    if rest.is_empty() { Ok(out) } else { Err(bad("a line does not end in CR LF")) }
}

/// A header's name as it came, and its value.
fn header(line: &[u8], side: Side) -> Result<(&str, &str), Fault> {
    if line.first().is_some_and(|byte| *byte == b' ' || *byte == b'\t') {
        return Err(bad("a header is folded over two lines"));
    }
    let at = memchr::memchr(b':', line).ok_or(bad("a header has no colon"))?;
    let (name, value) = line.split_at(at);
    let value = header_value(value.get(1..).unwrap_or_default())?;
    check_name(name, side)?;
    // A name that was checked is ASCII.
    let name = std::str::from_utf8(name).map_err(|_| bad("a header's name is not ASCII"))?;
    Ok((name, value))
}

fn headers(lines: &[&[u8]], limits: &Limits, side: Side) -> Result<Headers, Fault> {
    if lines.len() > limits.headers_max {
        return Err(Fault { status: 431, why: "there are too many headers" });
    }
    let bytes = lines.iter().map(|line| line.len()).sum();
    let mut headers = Headers::with_capacity(bytes, lines.len());
    for line in lines {
        let (name, value) = header(line, side)?;
        headers.push(name, value);
    }
    Ok(headers)
}

/// The one value of a header that may stand once.
fn single<'a>(headers: &'a Headers, name: &'a str) -> Result<Option<&'a str>, Fault> {
    let mut found = headers.all(name);
    let first = found.next();
    if found.next().is_some() {
        return Err(bad(names::twice(name)));
    }
    Ok(first)
}

/// RFC 9112 6.3, with every doubt refused.
fn framing(headers: &Headers, http_10: bool) -> Result<Option<Framing>, Fault> {
    let length = single(headers, "content-length")?;
    let encoding = single(headers, "transfer-encoding")?;
    match (length, encoding) {
        (Some(_), Some(_)) => {
            Err(bad("`content-length` and `transfer-encoding` exclude each other"))
        }
        (_, Some(_)) if http_10 => Err(bad("`transfer-encoding` needs HTTP/1.1")),
        (None, Some(encoding)) if encoding.eq_ignore_ascii_case("chunked") => {
            Ok(Some(Framing::Chunked))
        }
        (None, Some(_)) => Err(bad("`transfer-encoding` may only be `chunked`")),
        (Some(length), None) => content_length(length).map(|n| Some(Framing::Length(n))),
        (None, None) => Ok(None),
    }
}

fn tokens<'a>(headers: &'a Headers, name: &'a str) -> impl Iterator<Item = &'a str> {
    let parts = headers.all(name).flat_map(|value| value.split(','));
    parts.map(str::trim).filter(|part| !part.is_empty())
}

pub fn lists(headers: &Headers, name: &str, token: &str) -> bool {
    tokens(headers, name).any(|own| own.eq_ignore_ascii_case(token))
}

/// A request's head, read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    pub method: String,
    pub target: String,
    pub http_10: bool,
    pub headers: Headers,
    pub framing: Framing,
    /// It asks to go on as something else: what follows is not HTTP until that is answered.
    pub upgrade: bool,
}

/// Reads a whole head, its empty line included.
pub fn request_head(head: &[u8], limits: &Limits) -> Result<RequestHead, Fault> {
    let lines = lines(head)?;
    let (line, rest) = lines.split_first().ok_or(bad("the request is empty"))?;
    let malformed = bad("the request line is malformed");
    let line = std::str::from_utf8(line).map_err(|_| malformed)?;
    let parts: Vec<&str> = line.split(' ').collect();
    let [method, target, version] = parts[..] else { return Err(malformed) };
    let http_10 = match version {
        "HTTP/1.1" => false,
        "HTTP/1.0" => true,
        _ => {
            return Err(Fault {
                status: 505,
                why: "only HTTP/1.1, HTTP/1.0 and HTTP/2 are spoken",
            });
        }
    };
    let letters = method.bytes().all(|byte| byte.is_ascii_uppercase());
    if method.is_empty() || method.len() > 20 || !letters {
        return Err(bad("the method is not a word in capital letters"));
    }
    if method == "CONNECT" {
        return Err(Fault { status: 405, why: "`CONNECT` is not allowed" });
    }
    if !target.starts_with('/') {
        return Err(bad("the request target is not a path that begins with `/`"));
    }
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(bad("the request target holds a character that is not allowed"));
    }
    let headers = headers(rest, limits, Side::Requests)?;
    if single(&headers, "host")?.is_none() {
        return Err(bad("there is no `host`"));
    }
    let framing = framing(&headers, http_10)?.unwrap_or(Framing::None);
    let mut upgrades = tokens(&headers, "upgrade");
    let upgrade = match (upgrades.next(), upgrades.next()) {
        (None, _) => false,
        (Some(one), None)
            if one.eq_ignore_ascii_case("websocket")
                && lists(&headers, "connection", "upgrade") =>
        {
            true
        }
        _ => return Err(bad("`upgrade` is for `websocket` only")),
    };
    drop(upgrades);
    let bodied = !matches!(framing, Framing::None | Framing::Length(0));
    if bodied && (method == "GET" || method == "HEAD") {
        return Err(BODY_OF_GET);
    }
    if upgrade && framing != Framing::None && framing != Framing::Length(0) {
        return Err(bad("a request to upgrade has a body"));
    }
    if upgrade && (method != "GET" || http_10) {
        return Err(bad("a request to upgrade is no `GET` of HTTP/1.1"));
    }
    let (method, target) = (method.to_owned(), target.to_owned());
    Ok(RequestHead { method, target, http_10, headers, framing, upgrade })
}

/// A response's head, read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    pub status: u16,
    pub headers: Headers,
    pub framing: Framing,
    /// The connection may serve another request when this one is over.
    pub stays: bool,
}

/// What a response answers: it decides how the response ends (RFC 9112 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Nothing: whatever comes is too much.
    Nothing,
    Head,
    Upgrade,
    Other,
}

/// Reads a whole head of a response, its empty line included.
pub fn response_head(head: &[u8], asked: Asked, limits: &Limits) -> Result<ResponseHead, Fault> {
    let lines = lines(head)?;
    let (line, rest) = lines.split_first().ok_or(bad("the response is empty"))?;
    let malformed = bad("the status line is malformed");
    let (version, line) = line.split_at_checked(9).ok_or(malformed)?;
    let http_10 = match version {
        b"HTTP/1.1 " => false,
        b"HTTP/1.0 " => true,
        _ => return Err(malformed),
    };
    let (digits, reason) = line.split_at_checked(3).ok_or(malformed)?;
    let three = digits.iter().all(u8::is_ascii_digit);
    if !three || !(reason.is_empty() || reason.starts_with(b" ")) {
        return Err(malformed);
    }
    header_value(reason).map_err(|_| malformed)?;
    let digits = std::str::from_utf8(digits).map_err(|_| malformed)?;
    let status: u16 = digits.parse().map_err(|_| malformed)?;
    if !(100..=599).contains(&status) {
        return Err(malformed);
    }
    let headers = headers(rest, limits, Side::Responses)?;
    let said = framing(&headers, http_10)?;
    let framing = match (status, asked) {
        (101, Asked::Upgrade) if said.is_none() => Framing::Close,
        (101, Asked::Upgrade) => return Err(bad("a change of protocol with a body")),
        (101, _) => return Err(bad("a change of protocol that nobody asked for")),
        (100..=199 | 204, _) => match said {
            None | Some(Framing::Length(0)) => Framing::None,
            _ => return Err(bad("a body where none can be")),
        },
        (304, _) | (_, Asked::Head) => Framing::None,
        _ => said.unwrap_or(Framing::Close),
    };
    let closes = lists(&headers, "connection", "close");
    let stays = !(http_10 || closes || framing == Framing::Close);
    Ok(ResponseHead { status, headers, framing, stays })
}

/// Where what was read goes.
pub trait Sink {
    fn request(&mut self, head: RequestHead);
    fn response(&mut self, head: ResponseHead);
    /// Bytes of a body; `chunked`: they are a chunk.
    fn body(&mut self, bytes: &[u8], chunked: bool);
    /// A message is over whose head said how it ends.
    fn end(&mut self, chunked: bool);
}

/// The canonical form.
impl Sink for BytesMut {
    fn request(&mut self, head: RequestHead) {
        let version = if head.http_10 { "HTTP/1.0" } else { "HTTP/1.1" };
        let _ = write!(Text(self), "{} {} {version}\r\n", head.method, head.target);
        write_headers(&head.headers, self);
    }
    fn response(&mut self, head: ResponseHead) {
        let reason = if head.status == 101 { " Switching Protocols" } else { " " };
        let _ = write!(Text(self), "HTTP/1.1 {}{reason}\r\n", head.status);
        write_headers(&head.headers, self);
    }
    fn body(&mut self, bytes: &[u8], chunked: bool) {
        // What is there of a chunk becomes a chunk of its own.
        if chunked {
            let _ = write!(Text(self), "{:x}\r\n", bytes.len());
        }
        self.extend_from_slice(bytes);
        if chunked {
            self.extend_from_slice(b"\r\n");
        }
    }
    fn end(&mut self, chunked: bool) {
        if chunked {
            self.extend_from_slice(b"0\r\n\r\n");
        }
    }
}

/// Where a filter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Head,
    /// Bytes of a body with a length that are still to come.
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    /// Everything until the end, untouched: a body without a length, or another protocol.
    Open,
    /// An upgrade was asked for and is not answered.
    Paused,
    Ended,
}

/// Which direction a filter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Requests,
    Responses,
}

/// One direction of an HTTP/1.1 connection: what comes in, strictly read; what goes on, canonical.
#[derive(Debug)]
pub struct Filter {
    side: Side,
    limits: Limits,
    at: At,
    /// Unread input.
    input: BytesMut,
    /// How far the head was already searched for its end.
    searched: usize,
    asked: Asked,
    /// Of answers before the answer.
    interim_bytes: usize,
    trailer_bytes: usize,
    fault: Option<Fault>,
    /// What is behind a message waits until it is asked for.
    one_by_one: bool,
    /// A message is over, and the next one was not asked for.
    held: bool,
}

impl Filter {
    pub fn new(side: Side, limits: Limits) -> Self {
        Self {
            side,
            limits,
            at: At::Head,
            input: BytesMut::new(),
            searched: 0,
            asked: Asked::Nothing,
            interim_bytes: 0,
            trailer_bytes: 0,
            fault: None,
            one_by_one: false,
            held: false,
        }
    }

    /// For a reader that takes one message at a time: see [`Filter::next`].
    #[must_use]
    pub fn one_by_one(mut self) -> Self {
        self.one_by_one = true;
        self
    }
    /// A message is over; what is behind it is not read yet.
    pub fn is_held(&self) -> bool {
        self.held
    }
    /// Bytes that came and were not read yet.
    pub fn unread(&self) -> usize {
        self.input.len()
    }
    /// Goes on with the next message, as far as it is there.
    pub fn next(&mut self, out: &mut impl Sink) {
        self.held = false;
        self.push(&[], false, out);
    }
    /// What came behind a request whose upgrade was granted.
    pub fn take_rest(&mut self) -> BytesMut {
        self.at = At::Ended;
        std::mem::take(&mut self.input)
    }

    /// Between two messages, with nothing of the next one there.
    pub fn is_idle(&self) -> bool {
        self.at == At::Head && self.input.is_empty()
    }
    pub fn is_paused(&self) -> bool {
        self.at == At::Paused
    }
    /// What comes now, if anything, is no message of HTTP.
    pub fn is_free(&self) -> bool {
        matches!(self.at, At::Open | At::Paused | At::Ended)
    }
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Says what the next response answers. A response that nobody asked for is a fault.
    pub fn ask(&mut self, asked: Asked) {
        (self.asked, self.interim_bytes) = (asked, 0);
    }

    /// The upgrade that was asked for was granted, or not.
    pub fn upgraded(&mut self, granted: bool) {
        if self.at == At::Paused {
            self.at = if granted { At::Open } else { At::Head };
        }
    }

    /// Ends the direction with a fault, such as a deadline that passed.
    pub fn fail(&mut self, fault: Fault) {
        self.at = At::Ended;
        self.fault = Some(fault);
        self.input.clear();
    }

    /// Takes input, hands `out` what may go on. With `eof` nothing more will come.
    pub fn push(&mut self, input: &[u8], eof: bool, out: &mut impl Sink) {
        if self.at == At::Ended {
            return;
        }
        self.input.extend_from_slice(input);
        if let Err(fault) = self.run(out) {
            return self.fail(fault);
        }
        if eof && !self.held {
            match self.at {
                At::Open => self.at = At::Ended,
                At::Head if self.input.is_empty() => self.at = At::Ended,
                At::Paused => self.at = At::Ended,
                _ => self.fail(bad("the message was cut short")),
            }
        }
    }

    fn run(&mut self, out: &mut impl Sink) -> Result<(), Fault> {
        loop {
            match self.at {
                At::Head if self.held => return Ok(()),
                At::Head => {
                    if !self.head(out)? {
                        return Ok(());
                    }
                }
                At::Body(left) => {
                    let n = self.take(left, false, out);
                    self.at = if n == left { At::Head } else { At::Body(left - n) };
                    if self.at != At::Head {
                        return Ok(());
                    }
                    self.over(false, out);
                }
                At::ChunkSize => match self.chunk_size()? {
                    None => return Ok(()),
                    Some(0) => {
                        self.trailer_bytes = 0;
                        self.at = At::Trailers;
                    }
                    Some(size) => self.at = At::ChunkData(size),
                },
                At::ChunkData(left) => {
                    let n = left.min(self.input.len() as u64);
                    if n == 0 {
                        return Ok(());
                    }
                    self.take(n, true, out);
                    self.at = if n == left { At::ChunkEnd } else { At::ChunkData(left - n) };
                }
                At::ChunkEnd => {
                    if self.input.len() < 2 {
                        let end = self.input.first().is_none_or(|byte| *byte == b'\r');
                        return if end {
                            Ok(())
                        } else {
                            Err(bad("a chunk is longer than its size"))
                        };
                    }
                    if !self.input.starts_with(b"\r\n") {
                        return Err(bad("a chunk is longer than its size"));
                    }
                    self.input.advance(2);
                    self.at = At::ChunkSize;
                }
                At::Trailers => {
                    if !self.trailers()? {
                        return Ok(());
                    }
                    self.over(true, out);
                    self.at = At::Head;
                }
                At::Open => {
                    out.body(&self.input, false);
                    self.input.clear();
                    return Ok(());
                }
                At::Paused | At::Ended => return Ok(()),
            }
        }
    }

    fn over(&mut self, chunked: bool, out: &mut impl Sink) {
        self.held = self.one_by_one;
        out.end(chunked);
    }

    /// How many of the bytes that come next are a body's, and go on as they are; 0 where they are
    /// to be read.
    pub fn passes(&self) -> u64 {
        match self.at {
            At::Body(left) if self.input.is_empty() => left,
            _ => 0,
        }
    }
    /// So many of them came, and went on.
    pub fn passed(&mut self, n: u64) {
        if let At::Body(left) = self.at {
            let left = left.saturating_sub(n);
            self.held = self.one_by_one && left == 0;
            self.at = if left == 0 { At::Head } else { At::Body(left) };
        }
    }

    /// Moves up to `left` bytes on.
    fn take(&mut self, left: u64, chunked: bool, out: &mut impl Sink) -> u64 {
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(self.input.len());
        out.body(self.input.get(..n).unwrap_or_default(), chunked);
        self.input.advance(n);
        n as u64
    }

    /// Position behind the next CR LF within `max` bytes. A bare CR or LF is a fault.
    fn line_end(&self, max: usize, long: Fault) -> Result<Option<usize>, Fault> {
        let found = self.input.iter().position(|byte| *byte == b'\r' || *byte == b'\n');
        match found {
            Some(at) if at > max => Err(long),
            None if self.input.len() > max => Err(long),
            None => Ok(None),
            Some(at) => match self.input.get(at..at + 2) {
                Some(b"\r\n") => Ok(Some(at + 2)),
                Some(_) => Err(bad("a line does not end in CR LF")),
                None if self.input.get(at) == Some(&b'\r') => Ok(None),
                None => Err(bad("a line does not end in CR LF")),
            },
        }
    }

    /// RFC 9112 7.1, without extensions: nobody needs them, and readers differ about their end.
    fn chunk_size(&mut self) -> Result<Option<u64>, Fault> {
        let long = bad("a chunk's size is not a hexadecimal number");
        let Some(end) = self.line_end(CHUNK_DIGITS_MAX, long)? else {
            let digits = self.input.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'\r');
            return if digits { Ok(None) } else { Err(long) };
        };
        let line = self.input.split_to(end);
        let digits = line.get(..end - 2).unwrap_or_default();
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(long);
        }
        let text = std::str::from_utf8(digits).map_err(|_| long)?;
        let size = u64::from_str_radix(text, 16).map_err(|_| long)?;
        if size > u64::MAX >> 1 { Err(long) } else { Ok(Some(size)) }
    }

    /// Reads trailers and drops them. True at their end.
    fn trailers(&mut self) -> Result<bool, Fault> {
        let long = Fault { status: 431, why: "the trailers are too long" };
        loop {
            let left = TRAILER_BYTES_MAX.saturating_sub(self.trailer_bytes);
            let Some(end) = self.line_end(left, long)? else { return Ok(false) };
            let line = self.input.split_to(end);
            self.trailer_bytes += end;
            let line = line.get(..end - 2).unwrap_or_default();
            if line.is_empty() {
                return Ok(true);
            }
            let (name, _) = header(line, self.side)?;
            let framing = ["content-length", "transfer-encoding", "host"];
            if framing.iter().any(|own| own.eq_ignore_ascii_case(name)) {
                return Err(bad("a trailer that only a head may have"));
            }
        }
    }

    /// Reads one head, if all of it is there. True if it was.
    fn head(&mut self, out: &mut impl Sink) -> Result<bool, Fault> {
        if self.input.is_empty() {
            return Ok(false);
        }
        if self.side == Side::Responses && self.asked == Asked::Nothing {
            return Err(bad("a response that nobody asked for"));
        }
        let from = self.searched.saturating_sub(3);
        let rest = self.input.get(from..).unwrap_or_default();
        let found = memchr::memmem::find(rest, b"\r\n\r\n");
        let Some(at) = found else {
            // A bare LF is refused as soon as it is seen, before anybody waits for more.
            let unread = self.input.get(self.searched.saturating_sub(1)..).unwrap_or_default();
            self.searched = self.input.len();
            if unread.windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r') {
                return Err(bad("a line does not end in CR LF"));
            }
            if self.input.starts_with(b"\r\n") || self.input.first() == Some(&b'\n') {
                return Err(bad("an empty line where a request should begin"));
            }
            if self.input.len() > self.limits.head_bytes_max {
                return Err(Fault { status: 431, why: "the headers are too long" });
            }
            return Ok(false);
        };
        let end = from + at + 4;
        if end > self.limits.head_bytes_max {
            return Err(Fault { status: 431, why: "the headers are too long" });
        }
        self.searched = 0;
        if self.input.starts_with(b"\r\n") {
            return Err(bad("an empty line where a request should begin"));
        }
        let head = self.input.split_to(end);
        let framing = match self.side {
            Side::Requests => self.request(&head, out)?,
            Side::Responses => self.response(&head, out)?,
        };
        if let Some(framing) = framing {
            self.at = match framing {
                Framing::None | Framing::Length(0) => At::Head,
                Framing::Length(n) => At::Body(n),
                Framing::Chunked => At::ChunkSize,
                Framing::Close => At::Open,
            };
        }
        Ok(true)
    }

    /// None: paused for an upgrade.
    fn request(&mut self, head: &[u8], out: &mut impl Sink) -> Result<Option<Framing>, Fault> {
        let head = request_head(head, &self.limits)?;
        let (framing, upgrade) = (head.framing, head.upgrade);
        out.request(head);
        if upgrade {
            self.at = At::Paused;
            return Ok(None);
        }
        if matches!(framing, Framing::None | Framing::Length(0)) {
            self.over(false, out);
        }
        Ok(Some(framing))
    }

    fn response(&mut self, text: &[u8], out: &mut impl Sink) -> Result<Option<Framing>, Fault> {
        let head = response_head(text, self.asked, &self.limits)?;
        // Interim answers are not passed on: we make our own where they are needed.
        if (100..=199).contains(&head.status) && head.status != 101 {
            self.interim_bytes += text.len();
            if self.interim_bytes > self.limits.head_bytes_max {
                return Err(bad("there are too many answers before the answer"));
            }
            return Ok(Some(Framing::None));
        }
        self.asked = Asked::Nothing;
        let framing = head.framing;
        out.response(head);
        if matches!(framing, Framing::None | Framing::Length(0)) {
            self.over(false, out);
        }
        Ok(Some(framing))
    }
}

fn write_headers(headers: &Headers, out: &mut BytesMut) {
    out.extend_from_slice(headers.as_text().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Formats into bytes without a buffer between.
struct Text<'a>(&'a mut BytesMut);

impl std::fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
