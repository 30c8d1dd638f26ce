//! A request's head: checked, normalised once, judged in that form and sent in that form. Pure.
//!
//! Whatever two servers could understand differently is refused rather than repaired: an escape
//! that hides a slash or a dot, a second method, a second address, a name in two spellings.

use std::fmt::Write as _;

use base64::Engine as _;
use bulla_core::{PrincipalId, Secret};
use bulla_mask::normal;
use http::{Method, request::Parts};

use crate::{
    fields::Headers,
    names::{self, Kind},
    wire::{
        Fault, Limits, RequestHead, bad, content_length, header_name, header_value, is_name,
        odd_name,
    },
};

/// Longest path and query together, in bytes.
pub const TARGET_BYTES_MAX: usize = 16 << 10;
/// Most segments of a path, and most pairs of a query.
pub const PARTS_MAX: usize = 256;

/// How a client says who it is.
#[derive(Debug)]
pub enum Presented {
    /// Nothing; a certificate may have been shown during TLS.
    Nothing,
    /// `Bearer` (RFC 6750) or `DPoP` (RFC 9449) with its token.
    Token { scheme: Scheme, token: Secret },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Bearer,
    Dpop,
}

/// A request's head in its one form.
#[derive(Debug)]
pub struct Head {
    pub method: Method,
    /// Lower case, without a port.
    pub host: String,
    /// Percent-encoded in one way, without dot segments, beginning with `/`.
    pub path: String,
    /// The path's segments, decoded.
    pub segments: Vec<String>,
    /// As it came, once it was found to have one meaning.
    pub query: Option<String>,
    /// Decoded, in order.
    pub pairs: Vec<(String, String)>,
    /// What goes on to the target, in lower case and in order.
    pub headers: Headers,
    pub presented: Presented,
    /// For whom the sender acts, as that person's own token says.
    pub on_behalf_of: Option<PrincipalId>,
    /// A proof of possession (RFC 9449), which goes no further.
    pub proof: Option<Secret>,
    /// The host as the client named it, with its port.
    pub authority: String,
    /// The length that the client promised.
    pub length: Option<u64>,
    /// The client waits for leave to send its body.
    pub expects_continue: bool,
    /// `Prefer: respond-async` (RFC 7240).
    pub respond_async: bool,
    pub upgrade: bool,
    /// `te: trailers`, which gRPC needs.
    pub trailers: bool,
}

/// Names in a query or a form that would replace the method.
pub const OVERRIDE_NAMES: &[&str] = &[
    "_method",
    "_httpmethod",
    "http_method",
    "http_method_override",
    "x_http_method_override",
    "x_http_method",
    "x_method_override",
];

/// Whether a name in a query or a form would replace the method, as the servers read names that are
/// the most lenient: without blanks, in any case, up to a bracket, with `_` for what is no letter.
pub fn replaces_method(name: &str) -> bool {
    OVERRIDE_NAMES.contains(&leniently(name).as_str())
}

/// The same of a name in a body, however it is spelled: escaped, or in other letters that look alike.
pub fn replaces_method_in_body(name: &str) -> bool {
    let plain = normal::normalise(name.as_bytes());
    let plain = plain.map(|plain| String::from_utf8_lossy(plain.bytes()).into_owned());
    replaces_method(name) || plain.is_some_and(|plain| replaces_method(&plain))
}

/// A name of a query or a form as the most lenient servers read it.
pub fn leniently(name: &str) -> String {
    let name = name.split(['[', '\0']).next().unwrap_or_default().trim().to_ascii_lowercase();
    name.replace([' ', '.', '-', '+'], "_")
}

/// What the `connection` header may name.
const CONNECTION_TOKENS: &[&str] = &["close", "keep-alive", "upgrade", "te"];

const METHODS: &[Method] = &[
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];

impl Head {
    /// Reads a head that a library handed over. `server_name`: what TLS was asked for.
    pub fn read(parts: &Parts, server_name: Option<&str>) -> Result<Self, Fault> {
        let mut fields = Vec::with_capacity(parts.headers.len());
        for (name, value) in &parts.headers {
            fields.push((name.as_str(), header_value(value.as_bytes())?));
        }
        let uri = &parts.uri;
        Self::of(Said {
            method: parts.method.as_str(),
            scheme: uri.scheme_str(),
            authority: uri.authority().map(|own| own.as_str()),
            target: uri.path_and_query().map_or("/", |target| target.as_str()),
            fields: &fields,
            server_name,
        })
    }

    /// The same for one of HTTP/1.1, which was read strictly.
    pub fn of_one(head: &RequestHead, server_name: Option<&str>) -> Result<Self, Fault> {
        let fields: Vec<_> = head.headers.iter().collect();
        let (method, target) = (head.method.as_str(), head.target.as_str());
        let (scheme, authority, fields) = (None, None, &fields[..]);
        Self::of(Said { method, scheme, authority, target, fields, server_name })
    }

    fn of(said: Said<'_>) -> Result<Self, Fault> {
        let method = METHODS.iter().find(|own| own.as_str() == said.method);
        let Some(method) = method else {
            let status = if said.method == "CONNECT" { 405 } else { 501 };
            return Err(Fault { status, why: "the method is not one that is let through" });
        };
        if said.scheme.is_some_and(|scheme| scheme != "https") {
            return Err(bad("`:scheme` is not `https`, and what came was"));
        }
        let host = host(&said)?;
        if said.target.len() > TARGET_BYTES_MAX {
            return Err(Fault { status: 414, why: "the address is too long" });
        }
        let (path, query) = match said.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (said.target, None),
        };
        let (path, segments) = read_path(path)?;
        let pairs = query.map(read_query).transpose()?.unwrap_or_default();
        let fields = said.fields;
        if fields.len() > Limits::default().headers_max {
            return Err(Fault { status: 431, why: "there are too many headers" });
        }
        check_headers(fields)?;
        text(fields, "content-type")?.map(media_parameters).transpose()?;
        let upgrade = text(fields, "upgrade")?.is_some();
        if upgrade {
            check_handshake(fields)?;
        }
        let bytes = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        let mut head = Self {
            method: method.clone(),
            host,
            path,
            segments,
            query: query.map(str::to_owned),
            pairs,
            headers: Headers::with_capacity(bytes, fields.len()),
            presented: presented(fields)?,
            on_behalf_of: None,
            proof: text(fields, "dpop")?.map(|proof| Secret::new(proof.as_bytes().to_vec())),
            authority: authority(&said)?,
            length: text(fields, "content-length")?.map(content_length).transpose()?,
            expects_continue: false,
            respond_async: false,
            upgrade,
            trailers: false,
        };
        head.take(fields)?;
        Ok(head)
    }

    fn take(&mut self, fields: &[(&str, &str)]) -> Result<(), Fault> {
        match text(fields, "expect")? {
            None => {}
            Some(value) if value.eq_ignore_ascii_case("100-continue") => {
                self.expects_continue = true;
            }
            Some(_) => {
                return Err(Fault { status: 417, why: "`expect` is for `100-continue` only" });
            }
        }
        let mut cookies = String::new();
        for &(name, value) in fields {
            let lists = |word: &str| {
                let first =
                    |part: &str| part.split(';').next().unwrap_or_default().trim().to_owned();
                value.split(',').any(|part| first(part).eq_ignore_ascii_case(word))
            };
            match name {
                "te" => self.trailers |= lists("trailers"),
                // Within quotes it asks for nothing.
                "prefer" if !value.contains('"') && lists("respond-async") => {
                    self.respond_async = true
                }
                // HTTP/2 may split it (RFC 9113 8.2.3).
                "cookie" => {
                    if !cookies.is_empty() {
                        cookies.push_str("; ");
                    }
                    cookies.push_str(value);
                    continue;
                }
                "authorization" | "dpop" => continue,
                _ => {}
            }
            if names::kind(name).0 == Kind::Plain {
                self.headers.push(name, value);
            }
        }
        if !cookies.is_empty() {
            self.headers.push("cookie", &cookies);
        }
        Ok(())
    }

    /// Takes a header out, so that it is neither recorded nor sent. An error: it stands twice.
    pub fn take_header(&mut self, name: &str) -> Result<Option<String>, Fault> {
        let mut all = self.headers.all(name);
        let first = all.next().map(str::to_owned);
        if all.next().is_some() {
            return Err(bad(names::twice(name)));
        }
        drop(all);
        if first.is_some() {
            self.headers.retain(|own, _| own != name);
        }
        Ok(first)
    }
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }
    /// The media type in lower case, without parameters.
    pub fn media_type(&self) -> Option<String> {
        let value = self.header("content-type")?;
        Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
    }
    /// The value of a parameter of the media type, in lower case.
    pub fn media_parameter(&self, name: &str) -> Option<String> {
        let all = media_parameters(self.header("content-type")?).ok()?;
        all.into_iter().find(|(own, _)| own == name).map(|(_, value)| value.to_ascii_lowercase())
    }
    /// Path and query.
    pub fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }
    /// The head as it is recorded and judged: a request of HTTP/1.1, whatever either side speaks.
    pub fn canonical(&self) -> String {
        let (method, query, fields) = (self.method.as_str(), &self.query, self.headers.as_text());
        let query = query.as_deref();
        let length = method.len() + self.path.len() + query.map_or(0, str::len);
        let mut out = String::with_capacity(length + self.host.len() + fields.len() + 96);
        let mark = if query.is_some() { "?" } else { "" };
        let target = [method, " ", &self.path, mark, query.unwrap_or_default()];
        target.iter().for_each(|part| out.push_str(part));
        let rest = [" HTTP/1.1\r\nhost: ", &self.host, "\r\n", fields];
        rest.iter().for_each(|part| out.push_str(part));
        if let Some(length) = self.length {
            let _ = write!(out, "content-length: {length}\r\n");
        }
        out.push_str("\r\n");
        out
    }
}

/// What a client says, whoever has read it.
struct Said<'a> {
    method: &'a str,
    scheme: Option<&'a str>,
    authority: Option<&'a str>,
    /// Path and query.
    target: &'a str,
    fields: &'a [(&'a str, &'a str)],
    server_name: Option<&'a str>,
}

/// A header that may stand once, as text.
fn text<'a>(fields: &[(&'a str, &'a str)], name: &str) -> Result<Option<&'a str>, Fault> {
    let mut all = fields.iter().filter(|(own, _)| *own == name);
    let first = all.next().map(|(_, value)| *value);
    if all.next().is_some() {
        return Err(bad(names::twice(name)));
    }
    Ok(first)
}

fn check_headers(fields: &[(&str, &str)]) -> Result<(), Fault> {
    for (at, &(name, value)) in fields.iter().enumerate() {
        // Those of HTTP/2 were not read by `wire`.
        if !name.bytes().all(is_name) {
            return Err(bad(odd_name(name.as_bytes())));
        }
        let (kind, single) = names::kind(name);
        if kind == Kind::Override {
            return Err(bad(names::replaces(name)));
        }
        let before = fields.get(..at).unwrap_or_default();
        if single && before.iter().any(|(own, _)| *own == name) {
            return Err(bad(names::twice(name)));
        }
        if name == "connection" {
            let allowed = |token: &str| {
                CONNECTION_TOKENS.iter().any(|own| own.eq_ignore_ascii_case(token.trim()))
            };
            if !value.split(',').all(allowed) {
                return Err(bad("`connection` names a header that it may not take away"));
            }
        }
    }
    Ok(())
}

/// OWS of RFC 9110 5.6.3.
const BLANKS: [char; 2] = [' ', '\t'];

/// What a client says to open a WebSocket (RFC 6455 4.1).
fn check_handshake(headers: &[(&str, &str)]) -> Result<(), Fault> {
    if text(headers, "sec-websocket-version")? != Some("13") {
        return Err(bad("`sec-websocket-version` is not `13`"));
    }
    let key = text(headers, "sec-websocket-key")?.unwrap_or_default();
    let nonce = base64::engine::general_purpose::STANDARD.decode(key);
    if nonce.is_ok_and(|nonce| nonce.len() == 16) {
        Ok(())
    } else {
        Err(bad("`sec-websocket-key` is not sixteen bytes in base64"))
    }
}

/// The parameters of `content-type`, if it is one media type with parameters that stand once (RFC
/// 9110 8.3.1): readers differ about where another would end, and so about what the body is.
fn media_parameters(value: &str) -> Result<Vec<(String, String)>, Fault> {
    let malformed = bad("`content-type` is not one media type");
    let (media, mut rest) = value.split_once(';').unwrap_or((value, ""));
    let token = |text: &str| header_name(text.as_bytes()).is_ok();
    let kind = media.trim_end_matches(BLANKS).split_once('/');
    if !value.is_empty() && !kind.is_some_and(|(own, sub)| token(own) && token(sub)) {
        return Err(malformed);
    }
    let mut all: Vec<(String, String)> = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        if rest.is_empty() {
            return Ok(all);
        }
        let (name, value) = rest.split_once('=').ok_or(malformed)?;
        let name = header_name(name.as_bytes()).map_err(|_| malformed)?;
        let (value, after) = parameter(value).ok_or(malformed)?;
        rest = after.trim_start_matches(BLANKS);
        let again = all.iter().any(|(own, _)| *own == name);
        if again || !(rest.is_empty() || rest.starts_with(';')) {
            return Err(malformed);
        }
        all.push((name, value));
    }
}

/// A parameter's value and what follows it: a quoted string, or what has no blank and no comma.
fn parameter(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ';', ',', '"']).unwrap_or(text.len());
        let (value, after) = text.split_at_checked(end)?;
        return Some((value.to_owned(), after));
    };
    let (mut value, mut chars) = (String::new(), quoted.chars());
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            '\\' => value.push(chars.next()?),
            c => value.push(c),
        }
    }
}

fn presented(headers: &[(&str, &str)]) -> Result<Presented, Fault> {
    let Some(value) = text(headers, "authorization")? else { return Ok(Presented::Nothing) };
    let malformed = bad("`authorization` is not `Bearer` or `DPoP` with one token");
    let (scheme, token) = value.split_once(' ').ok_or(malformed)?;
    let scheme = if scheme.eq_ignore_ascii_case("bearer") {
        Scheme::Bearer
    } else if scheme.eq_ignore_ascii_case("dpop") {
        Scheme::Dpop
    } else {
        return Err(malformed);
    };
    let token = token.trim();
    let plain = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=')
    };
    if token.is_empty() || !token.bytes().all(plain) {
        return Err(malformed);
    }
    Ok(Presented::Token { scheme, token: Secret::new(token.as_bytes().to_vec()) })
}

/// One host: `host` and `:authority` agree with each other and with the name that TLS was asked for.
fn host(said: &Said<'_>) -> Result<String, Fault> {
    let named = text(said.fields, "host")?.map(read_host).transpose()?;
    let authority = said.authority.map(read_host).transpose()?;
    let host = match (named, authority) {
        (Some(host), Some(authority)) if host != authority => {
            return Err(bad("`host` and `:authority` differ"));
        }
        (_, Some(host)) | (Some(host), None) => host,
        (None, None) => return Err(bad("there is no `host`")),
    };
    match said.server_name {
        // RFC 9110 15.5.20: another connection could be the right one.
        Some(name) if name.trim_end_matches('.') != host => {
            Err(Fault { status: 421, why: "the host is not the one that TLS was asked for" })
        }
        _ => Ok(host),
    }
}

/// What the client says that it talks to, port and all.
fn authority(said: &Said<'_>) -> Result<String, Fault> {
    let named = text(said.fields, "host")?;
    Ok(said.authority.or(named).unwrap_or_default().to_ascii_lowercase())
}

/// A host in lower case without its port: a name, an IPv4 address, or an IPv6 address in brackets.
fn read_host(value: &str) -> Result<String, Fault> {
    let malformed = bad("the host is malformed");
    let (host, port) = match value.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| malformed)?;
            (format!("[{address}]"), port)
        }
        None => {
            let at = value.find(':').unwrap_or(value.len());
            let (host, port) = value.split_at(at);
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
            if host.is_empty() || host.len() > 253 || !host.bytes().all(plain) {
                return Err(malformed);
            }
            (host.trim_end_matches('.').to_owned(), port)
        }
    };
    let digits = port.strip_prefix(':').is_none_or(|port| port.parse::<u16>().is_ok());
    if host.is_empty() || !digits || !(port.is_empty() || port.starts_with(':')) {
        return Err(malformed);
    }
    Ok(host.to_ascii_lowercase())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Decodes percent escapes once. What would still be an escape afterwards is refused.
fn decode(text: &str, allowed: fn(u8) -> bool) -> Result<String, Fault> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            if !allowed(byte) {
                return Err(bad("the address holds a character that is not allowed"));
            }
            out.push(byte);
            continue;
        }
        let pair = (bytes.next().and_then(hex), bytes.next().and_then(hex));
        let (Some(high), Some(low)) = pair else {
            return Err(bad("the address holds a broken escape"));
        };
        out.push(high << 4 | low);
    }
    let text = String::from_utf8(out).map_err(|_| bad("the address is not UTF-8"))?;
    if text.chars().any(char::is_control) {
        return Err(bad("the address holds a control character"));
    }
    let twice = text.as_bytes().windows(3).any(|three| match three {
        [b'%', high, low] => hex(*high).is_some() && hex(*low).is_some(),
        _ => false,
    });
    if twice { Err(bad("the address is escaped twice")) } else { Ok(text) }
}

/// Characters of a segment that stand for themselves (RFC 3986 3.3, without `;`).
fn is_segment(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte)
}

fn is_query(byte: u8) -> bool {
    is_segment(byte) || b"/?[]{}|\"^`<>\\".contains(&byte)
}

/// Characters whose compatibility form (NFKC) is one of `.`, `/`, `\`, `;`, `%`.
const LOOKALIKES: &[char] = &[
    '\u{37e}', '\u{2024}', '\u{2025}', '\u{2026}', '\u{fe14}', '\u{fe19}', '\u{fe30}', '\u{fe52}',
    '\u{fe54}', '\u{fe68}', '\u{fe6a}', '\u{ff05}', '\u{ff0e}', '\u{ff0f}', '\u{ff1b}', '\u{ff3c}',
];

/// Characters of no width, which some servers take away from the ends of a name.
const INVISIBLE: &[char] = &[
    '\u{ad}', '\u{180e}', '\u{200b}', '\u{200c}', '\u{200d}', '\u{200e}', '\u{200f}', '\u{2060}',
    '\u{feff}',
];

fn read_path(path: &str) -> Result<(String, Vec<String>), Fault> {
    let rest = path.strip_prefix('/').ok_or(bad("the path does not begin with `/`"))?;
    let (mut canonical, mut segments) = (String::with_capacity(path.len()), Vec::new());
    let raw: Vec<&str> = rest.split('/').collect();
    if raw.len() > PARTS_MAX {
        return Err(Fault { status: 414, why: "the path has too many segments" });
    }
    let last = raw.len() - 1;
    for (at, segment) in raw.into_iter().enumerate() {
        let decoded = decode(segment, is_segment)?;
        if decoded.is_empty() && at < last {
            return Err(bad("the path holds an empty segment"));
        }
        if decoded.contains(['/', '\\', ';']) {
            return Err(bad("a segment of the path hides a separator"));
        }
        if decoded.contains(LOOKALIKES) {
            return Err(bad("a segment of the path holds what some servers take for a separator"));
        }
        if decoded == "." || decoded == ".." {
            return Err(bad("the path holds a dot segment"));
        }
        let odd = |c: char| c.is_whitespace() || INVISIBLE.contains(&c);
        if decoded.ends_with(|c| c == '.' || odd(c)) || decoded.starts_with(odd) {
            return Err(bad("a segment of the path ends in a dot or a blank"));
        }
        canonical.push('/');
        for byte in decoded.bytes() {
            if is_segment(byte) {
                canonical.push(char::from(byte));
            } else {
                let _ = write!(canonical, "%{byte:02X}");
            }
        }
        if at < last || !decoded.is_empty() {
            segments.push(decoded);
        }
    }
    Ok((canonical, segments))
}

/// `name=value` pairs, decoded, `+` as a blank.
fn read_query(query: &str) -> Result<Vec<(String, String)>, Fault> {
    let mut pairs = Vec::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let name = decode(&name.replace('+', "%20"), is_query)?;
        let value = decode(&value.replace('+', "%20"), is_query)?;
        if replaces_method(&name) {
            return Err(bad("the query would replace the method"));
        }
        if name == "access_token" {
            return Err(bad("a token in the address is on everybody's record"));
        }
        pairs.push((name, value));
        if pairs.len() > PARTS_MAX {
            return Err(Fault { status: 414, why: "the query has too many parts" });
        }
    }
    Ok(pairs)
}

/// The names in a form (`application/x-www-form-urlencoded`): none may replace the method.
pub fn check_form(form: &[u8]) -> Result<(), Fault> {
    let form = std::str::from_utf8(form).map_err(|_| bad("the form is not UTF-8"))?;
    for part in form.split(['&', ';']) {
        let name = part.split('=').next().unwrap_or_default().replace('+', "%20");
        let any = |byte: u8| byte != 0;
        let name = decode(&name, any)?;
        if replaces_method(&name) {
            return Err(bad("the form would replace the method"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
