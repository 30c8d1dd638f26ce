//! Answers: the target's, made fit to go on, and the gateway's own.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bulla_core::{Outcome, Refusal, RefusalKind, Status, Timestamp};
use bulla_gate::ToClient;
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use serde_json::json;

use crate::{
    coding,
    fields::Headers,
    flow::{Broken, Flow, Framing},
    needles::Needles,
    veil::{self, Lens, Plan, Tap, Veil, VeilError},
    wire::{Fault, content_length, header_value},
};

/// Headers of a response that go no further: those of one connection, and those by which a target
/// could lead a client around the gateway.
const DROPPED: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "proxy-authenticate",
    "proxy-authentication-info",
    "alt-svc",
    "http2-settings",
];

/// Headers without which an answer means something else, by how they begin: `connection` may not take
/// them away.
const END_TO_END: &[&str] =
    &["content-", "set-cookie", "cache-control", "vary", "www-authenticate", "grpc-", "location"];

/// What `connection` says is of one connection (RFC 9110 7.6.1).
fn named(headers: &Headers) -> Vec<String> {
    let names = headers.all("connection").flat_map(|value| value.split(','));
    names.map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty()).collect()
}

/// Trailers as they may go on: what only a head may say is dropped (RFC 9110 6.5.1), and so is what is
/// of one connection.
pub fn trailers(mut trailers: HeaderMap) -> Result<HeaderMap, Broken> {
    for (_, value) in &trailers {
        header_value(value.as_bytes()).map_err(|_| Broken("a trailer of the answer is odd"))?;
    }
    let heads: Vec<_> = trailers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            DROPPED.contains(&name) || OF_HEADS.contains(&name)
        })
        .cloned()
        .collect();
    for name in heads {
        trailers.remove(name);
    }
    Ok(trailers)
}

/// Fields that frame, route or change what a head said.
const OF_HEADS: &[&str] = &[
    "content-length",
    "content-type",
    "content-encoding",
    "content-range",
    "content-location",
    "set-cookie",
    "cache-control",
    "host",
    "authorization",
    "location",
    "www-authenticate",
    "age",
    "expires",
    "date",
    "vary",
    "retry-after",
];

/// What goes to a client.
pub enum Outgoing {
    /// Words of the gateway, or a body that came with its head.
    Whole(Option<Bytes>),
    Stream {
        first: Option<Bytes>,
        flow: Box<Flow<ToClient>>,
    },
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Broken;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream { first, flow } => match first.take().filter(|bytes| !bytes.is_empty()) {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => Pin::new(flow).poll_frame(cx),
            },
        }
    }
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream { first, flow } => {
                first.as_ref().is_none_or(Bytes::is_empty) && flow.is_end_stream()
            }
        }
    }
    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Stream { .. } => SizeHint::default(),
        }
    }
}

/// An answer on its way to a client.
pub struct Reply {
    pub status: StatusCode,
    pub headers: Headers,
    /// Length of the head that the body begins with: it is a message of HTTP/1.1, as the record has
    /// it. None: the body is the body.
    pub message: Option<usize>,
    pub body: Outgoing,
}

impl Reply {
    /// Head and body as HTTP/1.1 writes them: what is there, and what follows.
    /// `no_body`: there is none, whatever the answer is.
    pub fn pieces(self, no_body: bool) -> (Bytes, Bytes, Option<Box<Flow<ToClient>>>) {
        let (first, flow) = match self.body {
            Outgoing::Whole(bytes) => (bytes, None),
            Outgoing::Stream { first, flow } => (first, Some(flow)),
        };
        let mut first = first.unwrap_or_default();
        match self.message {
            Some(head) => {
                let rest = first.split_off(head.min(first.len()));
                (first, rest, flow)
            }
            // A body without a length ends with the connection.
            None => {
                let mut headers = self.headers;
                let bare = no_body || matches!(self.status.as_u16(), 101 | 204 | 304);
                if flow.is_none() && !bare && headers.get("content-length").is_none() {
                    headers.set("content-length", &first.len().to_string());
                }
                (record(self.status, &headers, false).into(), first, flow)
            }
        }
    }

    /// For a library that writes it.
    pub fn response(self) -> Response<Outgoing> {
        let (status, headers, body) = match self.headers.into_map() {
            Ok(headers) => (self.status, headers, self.body),
            // Nothing goes on without what was said of it.
            Err(fault) => {
                tracing::error!(why = fault.why, "an answer cannot be written");
                (StatusCode::BAD_GATEWAY, HeaderMap::new(), Outgoing::Whole(None))
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// A target's answer, ready to be recorded and to go on.
pub struct Answer {
    pub status: StatusCode,
    pub headers: Headers,
    pub framing: Framing,
    /// As it is recorded.
    pub head: Bytes,
    /// The length that the target promised.
    pub promised: Option<u64>,
    /// Values in the headers that were masked, unless the body's lens counts them.
    pub masked: bulla_mask::Counts,
}

impl Answer {
    /// `no_body`: the answer to `HEAD`. `now`: for a target that has no clock.
    pub fn read(
        status: StatusCode,
        mut headers: Headers,
        no_body: bool,
        now: Timestamp,
    ) -> Result<Self, Fault> {
        let fault = |why| Fault { status: 502, why };
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            return Err(fault("the answer is none yet"));
        }
        let named = named(&headers);
        if named.iter().any(|name| END_TO_END.iter().any(|own| name.starts_with(own))) {
            return Err(fault("the answer takes away what it may not"));
        }
        headers.retain(|name, _| !DROPPED.contains(&name) && !named.iter().any(|own| own == name));
        if headers.all("content-length").nth(1).is_some() {
            return Err(fault("the answer has two lengths"));
        }
        let length = headers.get("content-length").map(content_length).transpose();
        let length = length.map_err(|_| fault("the answer's length is odd"))?;
        // RFC 9110 6.6.1: who has a clock says when it came.
        if headers.get("date").is_none() && status != StatusCode::SWITCHING_PROTOCOLS {
            headers.push("date", &date(now));
        }
        let bare =
            no_body || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        let (framing, promised) = match length {
            _ if bare => (Framing::Length(0), Some(0)),
            Some(length) => (Framing::Length(length), Some(length)),
            None => (Framing::Chunked, None),
        };
        let head = record(status, &headers, framing == Framing::Chunked).into();
        Ok(Self { status, headers, framing, head, promised, masked: Default::default() })
    }

    /// What has to be done to the body, with headers that are true of what it becomes.
    /// `bare`: there is no body. `never`: what may not be in it.
    pub fn lens(
        &mut self,
        plan: Option<&Plan>,
        bare: bool,
        never: &Needles,
    ) -> Result<Lens, VeilError> {
        let own: Vec<&str> = self.headers.all("content-encoding").collect();
        let codings = coding::codings(&own.join(","));
        let empty = !bare && self.framing == Framing::Length(0);
        let bare = bare || empty;
        let Some(plan) = plan.filter(|plan| plan.hides()) else {
            if bare || never.is_empty() || codings.as_ref().is_some_and(Vec::is_empty) {
                return Ok(Lens::Nothing);
            }
            let codings = codings.ok_or(VeilError::Coding)?;
            return Ok(Lens::Tap(Box::new(Tap::new(&codings, never.clone())?)));
        };
        if self.status == StatusCode::PARTIAL_CONTENT {
            return Err(VeilError::Part);
        }
        let mut lens = if bare {
            Lens::Nothing
        } else {
            let codings = codings.ok_or(VeilError::Coding)?;
            self.framing = Framing::Chunked;
            Lens::Veil(Box::new(Veil::new(&plan.hidden, &self.headers, &codings)?))
        };
        veil::headers(&plan.hidden, &mut self.headers, &mut self.masked);
        if let Lens::Veil(veil) = &mut lens {
            veil.count(&std::mem::take(&mut self.masked));
        }
        if empty {
            self.headers.set("content-length", "0");
        }
        self.head = record(self.status, &self.headers, self.framing == Framing::Chunked).into();
        Ok(lens)
    }

    /// Hides of a head that no body follows what may not be seen. `kept`: a field that stays.
    pub fn hide(&mut self, plan: &Plan, kept: (&str, &str)) {
        veil::headers(&plan.hidden, &mut self.headers, &mut self.masked);
        self.headers.set(kept.0, kept.1);
        self.head = record(self.status, &self.headers, false).into();
    }

    /// Whether there is no body, whatever the length says.
    pub fn is_bare(&self, asked_head: bool) -> bool {
        asked_head || matches!(self.status.as_u16(), 204 | 304)
    }

    /// How the command ends if the body ends well.
    pub fn outcome(&self) -> Outcome {
        let code = self.status.as_u16();
        // A call of gRPC that ends at once says so in its head.
        let grpc = self.headers.get("grpc-status");
        let status = match (code, grpc) {
            (400.., _) => Status::Error(code.to_string().into()),
            (_, Some(grpc)) if grpc != "0" => Status::Error(format!("grpc:{grpc}").into()),
            _ => Status::Ok,
        };
        Outcome { status, tag: Some(self.status.as_str().into()), rows: 0 }
    }

    /// `message`: the body begins with the head.
    pub fn reply(self, message: bool, body: Outgoing) -> Reply {
        let message = message.then_some(self.head.len());
        Reply { status: self.status, headers: self.headers, message, body }
    }
}

/// As HTTP writes the time (RFC 9110 5.6.7).
fn date(now: Timestamp) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (year, month, day, hour, minute, second, _) = now.civil();
    // The first day of 1970 was a Thursday.
    let days = usize::try_from(now.0 / 86_400_000_000_000).unwrap_or_default();
    let weekday = DAYS.get(days % 7).unwrap_or(&"Thu");
    let month = MONTHS.get(usize::from(month).wrapping_sub(1)).unwrap_or(&"Jan");
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// A response's head as HTTP/1.1.
fn record(status: StatusCode, headers: &Headers, chunked: bool) -> Vec<u8> {
    let (reason, fields) = (status.canonical_reason().unwrap_or(""), headers.as_text());
    let mut out = Vec::with_capacity(fields.len() + reason.len() + 64);
    for part in ["HTTP/1.1 ", status.as_str(), " ", reason, "\r\n", fields] {
        out.extend_from_slice(part.as_bytes());
    }
    if chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Words of the gateway itself.
#[derive(Debug)]
pub struct Own {
    status: StatusCode,
    headers: Headers,
    body: Bytes,
}

impl Own {
    pub fn json(status: u16, value: &serde_json::Value) -> Self {
        let mut headers = Headers::default();
        headers.push("content-type", "application/json");
        headers.push("cache-control", "no-store");
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut body = value.to_string();
        body.push('\n');
        Self { status, headers, body: body.into() }
    }

    /// RFC 9457.
    pub fn problem(status: u16, word: &str, message: &str, hint: &str) -> Self {
        Self::details(status, word, json!({ "detail": message, "next": hint }))
    }

    fn details(status: u16, word: &str, mut members: serde_json::Value) -> Self {
        let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        members["type"] = format!("urn:bulla:{word}").into();
        members["title"] = code.canonical_reason().unwrap_or("refused").into();
        members["status"] = status.into();
        let mut own = Self::json(status, &members);
        own.headers.set("content-type", "application/problem+json");
        own
    }

    /// A command that is not sent: what, which rule, what next, and the entry to ask about.
    /// `status`: instead of the kind's own.
    pub fn refusal(refusal: &Refusal, status: Option<u16>) -> Self {
        let status = status.unwrap_or(match refusal.kind {
            RefusalKind::Denied
            | RefusalKind::Rejected
            | RefusalKind::HoldExpired
            | RefusalKind::Withdrawn
            | RefusalKind::HoldUnavailable => 403,
            RefusalKind::Unreadable | RefusalKind::NotSupported => 400,
            RefusalKind::TooLarge => 413,
            RefusalKind::Expired => 401,
            RefusalKind::Recorder | RefusalKind::Ended => 503,
            RefusalKind::Bug => 500,
        });
        let mut members = json!({ "detail": &*refusal.message, "next": &*refusal.hint });
        if let Some(event) = refusal.event {
            members["event"] = event.to_string().into();
        }
        if !refusal.policies.is_empty() {
            members["policies"] = refusal.policies.iter().map(|id| &**id).collect();
        }
        if let Some(bundle) = refusal.bundle {
            members["bundle"] = bundle.short(12).into();
        }
        if let Some(approval) = &refusal.approval {
            members["approval"] = (&**approval).into();
        }
        Self::details(status, refusal.kind.as_str(), members)
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if let Ok(value) = header_value(value.as_bytes()) {
            self.headers.push(name, value);
        }
        self
    }
    /// The connection ends with this answer.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.headers.set("connection", "close");
        self
    }
    /// The head alone, as `HEAD` is answered (RFC 9110 9.3.2).
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.headers.set("content-length", &self.body.len().to_string());
        self.body = Bytes::new();
        self
    }
    #[must_use]
    pub fn member(mut self, name: &str, value: serde_json::Value) -> Self {
        if let Ok(mut members) = serde_json::from_slice::<serde_json::Value>(&self.body) {
            members[name] = value;
            self.body = (members.to_string() + "\n").into();
        }
        self
    }

    /// The same words as gRPC has them: a call that ends at once (`Trailers-Only`).
    #[must_use]
    pub fn for_grpc(self) -> Self {
        let (code, word) = match self.status.as_u16() {
            200..=299 | 403 if self.is("approval-required") => (9, "approval-required"),
            401 => (16, "unauthenticated"),
            403 => (7, "denied"),
            404 => (5, "unknown_resource"),
            413 => (8, "too_large"),
            408 | 504 => (4, "late"),
            502 | 503 => (14, "unavailable"),
            400..=499 => (3, "unreadable"),
            _ => (13, "internal"),
        };
        let members: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let mut message = String::new();
        for name in ["detail", "next", "event", "approval"] {
            if let Some(text) = members.get(name).and_then(serde_json::Value::as_str) {
                let label = if name == "detail" { "" } else { name };
                message.push_str(&format!(
                    "{}{label}{}{text}",
                    if message.is_empty() { "" } else { "; " },
                    if label.is_empty() { "" } else { ": " }
                ));
            }
        }
        let mut escaped = String::with_capacity(message.len());
        for byte in message.bytes() {
            match byte {
                b' '..=b'~' if byte != b'%' => escaped.push(char::from(byte)),
                _ => escaped.push_str(&format!("%{byte:02X}")),
            }
        }
        let mut own =
            Self { status: StatusCode::OK, headers: Headers::default(), body: Bytes::new() };
        own = own.with("content-type", "application/grpc");
        own = own.with("grpc-status", &code.to_string());
        own = own.with("grpc-message", &escaped);
        own.with("bulla-refusal", word)
    }
    fn is(&self, word: &str) -> bool {
        let members: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        members.get("type").and_then(serde_json::Value::as_str)
            == Some(&format!("urn:bulla:{word}"))
    }

    /// As it is recorded. `now`: it is said when.
    pub fn canonical(&mut self, now: Timestamp) -> Bytes {
        self.headers.set("date", &date(now));
        let mut headers = self.headers.clone();
        if headers.get("content-length").is_none() {
            headers.set("content-length", &self.body.len().to_string());
        }
        let mut out = record(self.status, &headers, false);
        out.extend_from_slice(&self.body);
        out.into()
    }

    pub fn reply(mut self, now: Timestamp) -> Reply {
        if self.headers.get("date").is_none() {
            self.headers.push("date", &date(now));
        }
        let body = Outgoing::Whole(Some(self.body).filter(|body| !body.is_empty()));
        Reply { status: self.status, headers: self.headers, message: None, body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last Thursday of November in 2026, 12:00:01.
    const NOW: Timestamp = Timestamp(1_795_694_401_000_000_000);

    fn read(status: u16, all: &[(&str, &str)], no_body: bool) -> Result<Answer, Fault> {
        let mut headers = Headers::default();
        all.iter().for_each(|(name, value)| headers.push(name, value));
        Answer::read(StatusCode::from_u16(status).unwrap(), headers, no_body, NOW)
    }

    #[test]
    fn h14_what_could_lead_around_the_gateway_is_dropped() {
        let headers = [
            ("alt-svc", "h3=\":443\""),
            ("connection", "x"),
            ("content-length", "3"),
            ("date", "Thu, 26 Nov 2026 11:59:59 GMT"),
            ("x-a", "b"),
        ];
        let answer = read(200, &headers, false).unwrap();
        let date = "date: Thu, 26 Nov 2026 11:59:59 GMT\r\n";
        let expect = format!("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n{date}x-a: b\r\n\r\n");
        assert_eq!(answer.head, expect);
        assert_eq!(answer.framing, Framing::Length(3));
        let chunked = read(404, &[], false).unwrap();
        assert_eq!(chunked.framing, Framing::Chunked);
        assert_eq!(chunked.outcome().status, Status::Error("404".into()));
        let head = read(200, &[("content-length", "3")], true).unwrap();
        assert_eq!(head.framing, Framing::Length(0));
        assert!(read(200, &[("content-length", "x")], false).is_err());
        let two = [("content-length", "3"), ("content-length", "3")];
        assert!(read(200, &two, false).is_err());
    }

    #[test]
    fn what_is_of_one_connection_goes_no_further() {
        let headers = [("connection", "close, X-Own"), ("x-own", "1"), ("x-a", "b")];
        let answer = read(204, &headers, false).unwrap();
        let date = "date: Thu, 26 Nov 2026 12:00:01 GMT\r\n";
        assert_eq!(answer.head, format!("HTTP/1.1 204 No Content\r\nx-a: b\r\n{date}\r\n"));
        for name in ["content-length", "Content-Type", "set-cookie", "cache-control"] {
            let headers = [("connection", name), ("x-a", "b")];
            assert!(read(200, &headers, false).is_err(), "{name}");
        }
        assert!(read(103, &[], false).is_err());
        let mut all = HeaderMap::new();
        for (name, value) in [
            ("grpc-status", "0"),
            ("content-length", "9"),
            ("transfer-encoding", "chunked"),
            ("set-cookie", "a=b"),
            ("connection", "x"),
        ] {
            all.append(http::HeaderName::from_static(name), http::HeaderValue::from_static(value));
        }
        let left = trailers(all).unwrap();
        assert_eq!(left.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(), ["grpc-status"]);
    }

    #[test]
    fn a_refusal_says_what_which_rule_what_next() {
        let mut refusal = Refusal::plain(RefusalKind::Denied, "refused: `GET`", "ask the owner");
        refusal.policies = vec!["no-deletes".into()];
        let mut own = Own::refusal(&refusal, None);
        let text = String::from_utf8(own.canonical(NOW).to_vec()).unwrap();
        for part in [
            "HTTP/1.1 403 Forbidden",
            "application/problem+json",
            "urn:bulla:denied",
            "refused: `GET`",
            "no-deletes",
            "ask the owner",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
