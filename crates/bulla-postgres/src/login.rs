//! The login toward a target, and the request to cancel, as machines without sockets.
//!
//! What a target may ask for, and what it gets (manual: "Message Flow", "SASL Authentication"):
//!
//! | asked | answered |
//! |---|---|
//! | nothing (`trust`, a client certificate) | nothing |
//! | SCRAM-SHA-256-PLUS | when the TLS connection below can be bound to |
//! | SCRAM-SHA-256 | always; the target has to prove itself in return |
//! | the password in the clear | inside TLS only |
//! | MD5 | also without TLS, where whoever listens may guess the password at leisure |
//! | GSSAPI, SSPI, OAUTHBEARER, anything else | refused |
//!
//! A target may ask for one proof only. Without TLS nothing but SCRAM tells a target from somebody
//! between; with TLS it is the certificate that does, whatever is asked for inside.
//!
//! The startup message is made here and never copied. It names `search_path`, `client_encoding` and
//! `standard_conforming_strings` always, so that no default of a role or of a database decides how
//! a statement is read; the target has to report the latter two back, and a role or database whose
//! defaults say otherwise is not used. Then the target is asked where names lead ([`crate::ask`]).

use bulla_sql::catalog::Temporary;
use bulla_wire::{Login, LoginContext, LoginError, LoginSpec, LoginStep, Reader, TargetHello};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use md5::{Digest as _, Md5};

use crate::{
    ask::{self, Told},
    frame,
    scram::{Asked, Binding, First, Last},
};

/// Longest message of a login, and how many there may be.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
const MESSAGES_MAX: u32 = 1000;
/// Longest startup message that PostgreSQL takes.
const STARTUP_BYTES_MAX: usize = 10_000;
/// Longest name of a role or database. Older servers cut longer ones, and mean something else.
const NAME_BYTES_MAX: usize = 63;
/// Settings that a target may report.
const PARAMETERS_MAX: usize = 100;
/// Mechanisms that a target may offer.
const MECHANISMS_MAX: usize = 16;
/// Process id and secret: 4 + 4 bytes before protocol 3.2, up to 4 + 256 since.
const CANCEL_KEY_BYTES: std::ops::RangeInclusive<usize> = 8..=260;
/// Characters of a target's words that are passed on.
const WORDS_MAX: usize = 300;

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const CANCEL_REQUEST: u32 = 80_877_102;
const PROTOCOL_3_0: u32 = 3 << 16;

/// Authentication requests, by number.
mod request {
    pub const OK: u32 = 0;
    pub const CLEARTEXT: u32 = 3;
    pub const MD5: u32 = 5;
    pub const GSS: u32 = 7;
    pub const GSS_CONTINUE: u32 = 8;
    pub const SSPI: u32 = 9;
    pub const SASL: u32 = 10;
    pub const SASL_CONTINUE: u32 = 11;
    pub const SASL_FINAL: u32 = 12;
}

/// Keys of a startup message that only this file decides.
const OWN_KEYS: [&str; 6] = [
    "user",
    "database",
    "replication",
    "options",
    "client_encoding",
    "standard_conforming_strings",
];

/// What a target has to report, and how it names it.
const REPORTED: [(&str, &str); 2] =
    [("client_encoding", "UTF8"), ("standard_conforming_strings", "on")];

/// What the machine starts from, among [`TargetHello::parameters`]: the path that was asked for,
/// the path and the role that are in effect, each temporary relation, the kind of replication.
pub const ASKED_PATH: &str = "bulla.asked_path";
pub const PATH: &str = "bulla.search_path";
pub const USER: &str = "bulla.user";
pub const TEMPORARY: &str = "bulla.temporary";
pub const TEMPORARY_VIEW: &str = "bulla.temporary_view";
pub const REPLICATION: &str = "bulla.replication";

/// One login, or one cancel.
pub struct Entering {
    purpose: Purpose,
    tls: bool,
    state: State,
    messages: u32,
}

enum Purpose {
    LogIn(Box<LoginSpec>),
    Cancel { key: Vec<u8> },
}

enum State {
    Start,
    /// SSLRequest is sent.
    Ssl,
    /// The connection is as it has to be; the first message is next.
    Begin,
    /// The cancel is sent.
    Cancelled,
    Auth(Auth),
    /// A key has to be derived for the answer.
    Deriving(Box<Asked>),
    /// We are in; the target says what it is.
    Settings(Box<TargetHello>),
    /// It was asked where names lead.
    Asked {
        hello: Box<TargetHello>,
        told: Box<Told>,
    },
    /// Done or failed.
    Over,
}

enum Auth {
    /// Nothing was asked yet.
    Open,
    First(First),
    Last(Last),
    /// A proof was given: the target may only take it now.
    Proven,
}

fn protocol(why: &'static str) -> LoginError {
    LoginError::Protocol(why.into())
}

impl Entering {
    pub fn login(spec: LoginSpec) -> Self {
        let tls = spec.tls;
        Self { tls, purpose: Purpose::LogIn(Box::new(spec)), state: State::Start, messages: 0 }
    }

    pub fn cancel(key: Vec<u8>, tls: bool) -> Self {
        Self { tls, purpose: Purpose::Cancel { key }, state: State::Start, messages: 0 }
    }

    /// Whether TLS may start: `None` while nothing has come.
    fn ssl_answer(input: &mut BytesMut) -> Result<Option<()>, LoginError> {
        match (input.first(), input.len()) {
            (None, _) => Ok(None),
            (Some(b'S'), 1) => {
                input.clear();
                Ok(Some(()))
            }
            // Somebody between put bytes before TLS, to be read as if from inside (CVE-2021-23222).
            (Some(b'S'), _) => Err(protocol("bytes before TLS")),
            (Some(_), _) => Err(LoginError::NoTls),
        }
    }

    fn begin(&mut self) -> Result<Bytes, LoginError> {
        let (body, next) = match &self.purpose {
            Purpose::Cancel { key } => {
                if !CANCEL_KEY_BYTES.contains(&key.len()) {
                    return Err(protocol("it gave no key to cancel with"));
                }
                let mut body = BytesMut::new();
                body.put_u32(CANCEL_REQUEST);
                body.extend_from_slice(key);
                (body, State::Cancelled)
            }
            Purpose::LogIn(spec) => (startup(spec)?, State::Auth(Auth::Open)),
        };
        self.state = next;
        let mut out = BytesMut::new();
        out.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
        out.extend_from_slice(&body);
        Ok(out.freeze())
    }

    /// The next message, if it is whole.
    fn message(&mut self, input: &mut BytesMut) -> Result<Option<(u8, Bytes)>, LoginError> {
        let head = frame::head(input).map_err(|_| protocol("a message of impossible length"))?;
        let Some(head) = head else { return Ok(None) };
        if head.total() > MESSAGE_BYTES_MAX {
            return Err(protocol("a message of more than 64 KiB during login"));
        }
        if input.len() < head.total() {
            return Ok(None);
        }
        self.messages += 1;
        if self.messages > MESSAGES_MAX {
            return Err(protocol("more than 1000 messages during login"));
        }
        let mut message = input.split_to(head.total());
        message.advance(frame::HEADER_BYTES);
        Ok(Some((head.kind, message.freeze())))
    }

    /// Takes one message of the authentication, and says what to answer.
    fn auth(
        &mut self,
        auth: Auth,
        kind: u8,
        body: &[u8],
        with: &LoginContext,
    ) -> Result<Option<Bytes>, LoginError> {
        match kind {
            b'E' => Err(LoginError::Refused(error_words(body))),
            b'N' => {
                self.state = State::Auth(auth);
                Ok(None)
            }
            b'R' => {
                let (state, answer) = self.asked(auth, Reader::new(body), with)?;
                self.state = state;
                Ok(answer.map(|answer| proof(&answer)))
            }
            _ => Err(protocol("an unknown message during login")),
        }
    }

    /// Answers one authentication request.
    fn asked(
        &self,
        auth: Auth,
        mut body: Reader<'_>,
        with: &LoginContext,
    ) -> Result<(State, Option<Vec<u8>>), LoginError> {
        let Purpose::LogIn(spec) = &self.purpose else {
            return Err(protocol("an answer to a cancel"));
        };
        let code = body.u32().map_err(|_| protocol("a short authentication request"))?;
        let whole = |body: Reader<'_>| {
            body.finish().map_err(|_| protocol("an authentication request with more behind it"))
        };
        match (code, auth) {
            (request::OK, Auth::Open | Auth::Proven) => {
                whole(body)?;
                Ok((State::Settings(Box::new(hello(spec))), None))
            }
            (request::OK, Auth::First(_) | Auth::Last(_)) => {
                Err(LoginError::BadProof("it skipped its own SCRAM proof"))
            }
            (request::CLEARTEXT, Auth::Open) => {
                whole(body)?;
                if !with.tls {
                    let why = "it asks for the password in the clear, without TLS";
                    return Err(LoginError::BadProof(why));
                }
                let mut answer = password(spec)?.to_vec();
                answer.push(0);
                Ok((State::Auth(Auth::Proven), Some(answer)))
            }
            (request::MD5, Auth::Open) => {
                let salt = body.bytes(4).map_err(|_| protocol("a short MD5 salt"))?;
                whole(body)?;
                let answer = md5_answer(spec.user.as_bytes(), password(spec)?, salt);
                Ok((State::Auth(Auth::Proven), Some(answer)))
            }
            (request::SASL, Auth::Open) => {
                password(spec)?;
                let first = First::new(&spec.nonce, binding(body, with)?);
                let message = first.message();
                let mut answer = BytesMut::new();
                frame::put_text(&mut answer, first.mechanism());
                answer.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
                answer.extend_from_slice(message.as_bytes());
                Ok((State::Auth(Auth::First(first)), Some(answer.to_vec())))
            }
            (request::SASL_CONTINUE, Auth::First(first)) => {
                let challenge = std::str::from_utf8(body.rest())
                    .map_err(|_| LoginError::BadProof("a SCRAM challenge not in UTF-8"))?;
                let asked = first
                    .asked(challenge, &spec.user, password(spec)?)
                    .map_err(LoginError::BadProof)?;
                Ok((State::Deriving(Box::new(asked)), None))
            }
            (request::SASL_FINAL, Auth::Last(last)) => {
                let end = std::str::from_utf8(body.rest())
                    .map_err(|_| LoginError::BadProof("a SCRAM end not in UTF-8"))?;
                last.verify(end).map_err(LoginError::BadProof)?;
                Ok((State::Auth(Auth::Proven), None))
            }
            (request::GSS | request::GSS_CONTINUE | request::SSPI, Auth::Open) => {
                Err(LoginError::Unsupported("GSSAPI or SSPI".into()))
            }
            (code, Auth::Open) => Err(LoginError::Unsupported(format!("authentication {code}"))),
            (_, Auth::First(_) | Auth::Last(_) | Auth::Proven) => {
                Err(protocol("an authentication request out of turn"))
            }
        }
    }

    /// Takes one message between authentication and readiness. True: the target is ready.
    fn told(hello: &mut TargetHello, kind: u8, body: &[u8]) -> Result<bool, LoginError> {
        match kind {
            b'S' => {
                let bad = |_| protocol("a malformed ParameterStatus");
                let mut body = Reader::new(body);
                let name = body.text().map_err(bad)?;
                let value = body.text().map_err(bad)?;
                body.finish().map_err(bad)?;
                // Names of ours are not the target's to give.
                if name.starts_with("bulla.") {
                    return Ok(false);
                }
                hello.parameters.retain(|(known, _)| known != name);
                if hello.parameters.len() >= PARAMETERS_MAX {
                    return Err(protocol("too many settings reported"));
                }
                hello.parameters.push((name.into(), value.into()));
                Ok(false)
            }
            b'K' if !hello.cancel_key.is_empty() => Err(protocol("two cancel keys")),
            b'K' if CANCEL_KEY_BYTES.contains(&body.len()) => {
                hello.cancel_key = body.to_vec();
                Ok(false)
            }
            b'K' => Err(protocol("a cancel key of impossible length")),
            b'N' => Ok(false),
            b'E' => Err(LoginError::Refused(error_words(body))),
            b'Z' if body == b"I" => Ok(true),
            b'Z' => Err(protocol("a transaction right after the login")),
            _ => Err(protocol("an unknown message after the login")),
        }
    }
}

impl Login for Entering {
    fn input(
        &mut self,
        input: &mut BytesMut,
        with: &LoginContext,
    ) -> Result<LoginStep, LoginError> {
        loop {
            match std::mem::replace(&mut self.state, State::Over) {
                State::Start if self.tls => {
                    self.state = State::Ssl;
                    return Ok(LoginStep::Send(Bytes::from_static(&SSL_REQUEST)));
                }
                State::Start => self.state = State::Begin,
                State::Ssl => {
                    let started = Self::ssl_answer(input)?.is_some();
                    self.state = if started { State::Begin } else { State::Ssl };
                    return Ok(if started { LoginStep::StartTls } else { LoginStep::More });
                }
                State::Begin if self.tls && !with.tls => {
                    return Err(protocol("TLS did not start"));
                }
                State::Begin if !input.is_empty() => {
                    return Err(protocol("it speaks before it is spoken to"));
                }
                State::Begin => return self.begin().map(LoginStep::Send),
                State::Cancelled => return Ok(LoginStep::Done(Box::default())),
                State::Auth(auth) => {
                    let Some((kind, body)) = self.message(input)? else {
                        self.state = State::Auth(auth);
                        return Ok(LoginStep::More);
                    };
                    if let Some(answer) = self.auth(auth, kind, &body, with)? {
                        return Ok(LoginStep::Send(answer));
                    }
                }
                State::Deriving(asked) => {
                    if let Some(work) = asked.work() {
                        self.state = State::Deriving(asked);
                        return Ok(LoginStep::Work(work));
                    }
                    let (answer, last) = asked.answer().map_err(LoginError::BadProof)?;
                    self.state = State::Auth(Auth::Last(last));
                    return Ok(LoginStep::Send(proof(answer.as_bytes())));
                }
                State::Settings(mut hello) => {
                    let Some((kind, body)) = self.message(input)? else {
                        self.state = State::Settings(hello);
                        return Ok(LoginStep::More);
                    };
                    if Self::told(&mut hello, kind, &body)? {
                        settled(&hello)?;
                        // It answers no such question, and reads no names.
                        if is_physical(&hello) {
                            return Ok(LoginStep::Done(hello));
                        }
                        self.state = State::Asked { hello, told: Box::default() };
                        return Ok(LoginStep::Send(Bytes::from_static(ask::AT_LOGIN)));
                    }
                    self.state = State::Settings(hello);
                }
                State::Asked { hello, mut told } => {
                    let Some((kind, body)) = self.message(input)? else {
                        self.state = State::Asked { hello, told };
                        return Ok(LoginStep::More);
                    };
                    match kind {
                        b'T' | b'C' | b'N' => {}
                        b'D' => told.row(&body),
                        b'Z' if body == b"I"[..] => {
                            return known(hello, &told).map(LoginStep::Done);
                        }
                        b'E' => return Err(LoginError::Refused(error_words(&body))),
                        _ => return Err(protocol("another answer than to where names lead")),
                    }
                    self.state = State::Asked { hello, told };
                }
                State::Over => return Err(protocol("more input after the login")),
            }
        }
    }
}

/// The body of the startup message.
fn startup(spec: &LoginSpec) -> Result<BytesMut, LoginError> {
    let unfit = |what: &str| LoginError::Unsupported(format!("a startup message {what}"));
    let mut pairs: Vec<(&str, &str)> = vec![("user", &spec.user)];
    pairs.extend(spec.part.as_deref().map(|part| ("database", part)));
    if pairs.iter().any(|(_, name)| name.is_empty() || name.len() > NAME_BYTES_MAX) {
        return Err(unfit("whose names of role and database have 1 to 63 bytes"));
    }
    for (key, value) in &spec.settings {
        // A client may say what is said anyway; what is said is ours.
        let own = OWN_KEYS.iter().any(|own| own.eq_ignore_ascii_case(key));
        if !own && !key.starts_with("_pq_.") {
            pairs.push((key, value));
        }
    }
    if !spec.settings.iter().any(|(key, _)| key.eq_ignore_ascii_case("search_path")) {
        pairs.push(("search_path", crate::SEARCH_PATH));
    }
    pairs.extend(REPORTED);
    pairs.extend(replication(spec).map(|kind| ("replication", kind)));

    let mut body = BytesMut::new();
    body.put_u32(PROTOCOL_3_0);
    for (at, (key, value)) in pairs.iter().enumerate() {
        if key.is_empty() || key.contains('\0') || value.contains('\0') {
            return Err(unfit("without empty names and zero bytes"));
        }
        // The target would take the last one, and what is read here might be the first.
        if pairs.iter().take(at).any(|(earlier, _)| earlier.eq_ignore_ascii_case(key)) {
            return Err(unfit("with every setting once"));
        }
        frame::put_text(&mut body, key);
        frame::put_text(&mut body, value);
    }
    body.put_u8(0);
    if body.len() + 4 > STARTUP_BYTES_MAX {
        return Err(unfit("of at most 10000 bytes"));
    }
    Ok(body)
}

fn proof(answer: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    frame::put(&mut out, b'p', |out| out.extend_from_slice(answer));
    out.freeze()
}

/// The kind of replication that is asked for. The greeting lets no other value through.
fn replication(spec: &LoginSpec) -> Option<&'static str> {
    let wish = spec.settings.iter().find(|(key, _)| key == "replication")?;
    ["database", "true"].into_iter().find(|kind| *kind == wish.1)
}

fn is_physical(hello: &TargetHello) -> bool {
    hello.parameters.iter().any(|(name, value)| name == REPLICATION && value == "true")
}

/// What we know of a target that has just let us in.
fn hello(spec: &LoginSpec) -> TargetHello {
    let path = spec.settings.iter().find(|(key, _)| key.eq_ignore_ascii_case("search_path"));
    let path = path.map_or(crate::SEARCH_PATH, |(_, value)| value);
    let mut parameters = vec![(ASKED_PATH.into(), path.into())];
    let replication = replication(spec).map(|kind| (REPLICATION.into(), kind.into()));
    parameters.extend(replication);
    TargetHello { account: spec.user.clone(), parameters, ..Default::default() }
}

/// Checks what the target reported.
fn settled(hello: &TargetHello) -> Result<(), LoginError> {
    for (name, want) in REPORTED {
        let found = hello.parameters.iter().find(|(known, _)| known == name);
        if found.is_none_or(|(_, value)| value != want) {
            return Err(LoginError::Unsupported(format!("another `{name}` than `{want}`")));
        }
    }
    Ok(())
}

/// Adds what the target answered, unless it would have sessions read text in another way.
fn known(mut hello: Box<TargetHello>, told: &Told) -> Result<Box<TargetHello>, LoginError> {
    let (user, path) =
        told.whole().ok_or_else(|| protocol("no whole answer to where names lead"))?;
    for pair in &told.defaults {
        let Some((name, value)) = pair.split_once('=') else { continue };
        let pinned = REPORTED.iter().find(|(own, _)| own.eq_ignore_ascii_case(name));
        if let Some((name, want)) = pinned
            && !is_same(name, value, want)
        {
            return Err(LoginError::Unsupported(format!(
                "the default `{name}` = `{}` of its role or database, which must be `{want}`",
                printable(value)
            )));
        }
    }
    hello.parameters.push((PATH.into(), path.into()));
    hello.parameters.push((USER.into(), user.into()));
    let temporary = told.temporary.iter().map(|(name, what)| match what {
        Temporary::Own => (TEMPORARY.into(), name.clone()),
        Temporary::View(shows) => {
            let shows: Vec<String> = shows.iter().map(u32::to_string).collect();
            (TEMPORARY_VIEW.into(), format!("{} {name}", shows.join(",")))
        }
    });
    hello.parameters.extend(temporary);
    Ok(hello)
}

/// Whether a default is another way to write what is wanted.
fn is_same(name: &str, value: &str, want: &str) -> bool {
    if name == "client_encoding" {
        let plain = value.replace(['-', '_'], "");
        return ["utf8", "unicode"].iter().any(|known| plain.eq_ignore_ascii_case(known));
    }
    value.eq_ignore_ascii_case(want)
        || ["true", "yes", "1"].iter().any(|known| value.eq_ignore_ascii_case(known))
}

fn password(spec: &LoginSpec) -> Result<&[u8], LoginError> {
    let secret = spec.secret.as_ref().ok_or(LoginError::NoSecret("a password"))?.reveal();
    if secret.is_empty() || secret.contains(&0) {
        return Err(LoginError::NoSecret("a password that is not empty and has no zero byte"));
    }
    Ok(secret)
}

/// `md5` and the digest of salt and inner digest, ended by a zero byte.
fn md5_answer(user: &[u8], password: &[u8], salt: &[u8]) -> Vec<u8> {
    let inner = hex(&Md5::new().chain_update(password).chain_update(user).finalize());
    let outer = hex(&Md5::new().chain_update(inner).chain_update(salt).finalize());
    format!("md5{outer}\0").into_bytes()
}

/// Chooses among the mechanisms that are offered.
fn binding(mut body: Reader<'_>, with: &LoginContext) -> Result<Binding, LoginError> {
    let bad = |_| protocol("a malformed list of mechanisms");
    let mut names = Vec::new();
    loop {
        match body.text().map_err(bad)? {
            "" => break,
            _ if names.len() >= MECHANISMS_MAX => return Err(protocol("too many mechanisms")),
            name => names.push(name),
        }
    }
    body.finish().map_err(bad)?;
    let plus = names.contains(&"SCRAM-SHA-256-PLUS");
    match &with.server_end_point {
        Some(data) if plus => Ok(Binding::EndPoint(data.clone())),
        _ if !names.contains(&"SCRAM-SHA-256") => {
            Err(LoginError::Unsupported(printable(&names.join(", "))))
        }
        Some(_) => Ok(Binding::NotOffered),
        None => Ok(Binding::Impossible),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Bounded, and without what a terminal would act on or a reader be misled by.
fn printable(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(WORDS_MAX) {
        let directs = matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if c.is_control() || directs {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// SQLSTATE and message of an ErrorResponse: `28P01 password authentication failed for user "x"`.
pub fn error_words(body: &[u8]) -> String {
    let mut reader = Reader::new(body);
    let (mut code, mut message) = (String::new(), String::new());
    while let Ok(field) = reader.u8() {
        if field == 0 {
            break;
        }
        let Ok(text) = reader.until_nul() else { break };
        let text = || printable(&String::from_utf8_lossy(text));
        match field {
            b'C' => code = text(),
            b'M' => message = text(),
            _ => {}
        }
    }
    format!("{code} {message}")
}

#[cfg(test)]
mod tests;
