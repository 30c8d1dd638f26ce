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
//! a statement is read; the target has to report the latter two back.

use bulla_wire::{Login, LoginContext, LoginError, LoginSpec, LoginStep, Reader, TargetHello};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use md5::{Digest as _, Md5};

use crate::{
    frame,
    scram::{Binding, First, Last},
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

/// The path that reading starts from, among [`TargetHello::parameters`].
const PATH: &str = "bulla.search_path";

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
    /// We are in; the target says what it is.
    Settings(Box<TargetHello>),
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
                Ok(answer.map(|answer| {
                    let mut out = BytesMut::new();
                    frame::put(&mut out, b'p', |out| out.extend_from_slice(&answer));
                    out.freeze()
                }))
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
                let (answer, last) = first
                    .answer(challenge, &spec.user, password(spec)?)
                    .map_err(LoginError::BadProof)?;
                Ok((State::Auth(Auth::Last(last)), Some(answer.into_bytes())))
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
                State::Settings(mut hello) => {
                    let Some((kind, body)) = self.message(input)? else {
                        self.state = State::Settings(hello);
                        return Ok(LoginStep::More);
                    };
                    if Self::told(&mut hello, kind, &body)? {
                        return settled(hello).map(LoginStep::Done);
                    }
                    self.state = State::Settings(hello);
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

/// What we know of a target that has just let us in.
fn hello(spec: &LoginSpec) -> TargetHello {
    let path = spec.settings.iter().find(|(key, _)| key.eq_ignore_ascii_case("search_path"));
    let path = path.map_or(crate::SEARCH_PATH, |(_, value)| value);
    TargetHello {
        account: spec.user.clone(),
        parameters: vec![(PATH.into(), path.into())],
        ..Default::default()
    }
}

/// Checks what the target reported.
fn settled(mut hello: Box<TargetHello>) -> Result<Box<TargetHello>, LoginError> {
    let find = |name: &str| {
        let found = hello.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone())
    };
    for (name, want) in REPORTED {
        if find(name).as_deref() != Some(want) {
            return Err(LoginError::Unsupported(format!("another `{name}` than `{want}`")));
        }
    }
    // Since PostgreSQL 18. A login trigger may have changed what we asked for.
    if let Some(path) = find("search_path")
        && let Some(own) = hello.parameters.iter_mut().find(|(name, _)| name == PATH)
    {
        own.1 = path;
    }
    Ok(hello)
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
mod tests {
    use super::*;
    use aws_lc_rs::{digest, hmac, pbkdf2};
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use bulla_core::Secret;
    use proptest::prelude::*;
    use std::sync::Arc;

    const PLAIN: LoginContext = LoginContext { tls: false, server_end_point: None };

    fn inside() -> LoginContext {
        LoginContext { tls: true, server_end_point: None }
    }

    fn bound() -> LoginContext {
        LoginContext { tls: true, server_end_point: Some(vec![9; 32]) }
    }

    fn spec(tls: bool) -> LoginSpec {
        LoginSpec {
            user: "u".into(),
            secret: Some(Arc::new(Secret::new(b"pw".to_vec()))),
            part: Some("d".into()),
            settings: vec![("application_name".into(), "a".into())],
            tls,
            nonce: [7; 24],
        }
    }

    fn message(kind: u8, body: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        frame::put(&mut out, kind, |out| out.extend_from_slice(body));
        out
    }

    fn auth(code: u32, rest: &[u8]) -> BytesMut {
        message(b'R', &[&code.to_be_bytes(), rest].concat())
    }

    fn join(parts: &[BytesMut]) -> BytesMut {
        parts.iter().flatten().copied().collect()
    }

    fn status(name: &str, value: &str) -> BytesMut {
        message(b'S', format!("{name}\0{value}\0").as_bytes())
    }

    /// What a server says once it has let us in.
    fn settings() -> BytesMut {
        join(&[
            status("client_encoding", "UTF8"),
            status("server_version", "15.18"),
            status("standard_conforming_strings", "on"),
            message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]),
            message(b'Z', b"I"),
        ])
    }

    fn sent(step: Result<LoginStep, LoginError>) -> Bytes {
        match step {
            Ok(LoginStep::Send(bytes)) => bytes,
            other => panic!("{other:?}"),
        }
    }

    fn failed(step: Result<LoginStep, LoginError>) -> String {
        step.unwrap_err().to_string()
    }

    /// A login whose startup message is sent.
    fn begun(spec: LoginSpec) -> Entering {
        let tls = spec.tls;
        let mut login = Entering::login(spec);
        if tls {
            let request = sent(login.input(&mut BytesMut::new(), &PLAIN));
            assert_eq!(request[..], [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]);
            let step = login.input(&mut BytesMut::from("S"), &PLAIN);
            assert!(matches!(step, Ok(LoginStep::StartTls)));
        }
        sent(login.input(&mut BytesMut::new(), &inside()));
        login
    }

    fn started(settings: &[(&str, &str)]) -> Result<Bytes, LoginError> {
        let settings = settings.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let mut login = Entering::login(LoginSpec { settings, ..spec(false) });
        login.input(&mut BytesMut::new(), &PLAIN).map(|step| sent(Ok(step)))
    }

    /// The other side of SCRAM-SHA-256, from RFC 5802 and not from `scram`.
    struct Server {
        key: [u8; 32],
        first_bare: String,
        challenge: String,
    }

    const SALT: &[u8] = b"sixteen bytes ok";

    fn mac(key: &[u8], data: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref().to_vec()
    }

    impl Server {
        /// Reads the client's first message and challenges it.
        fn new(sent: &[u8], mechanism: &str, header: &str) -> Self {
            let mut reader = Reader::new(&sent[5..]);
            assert_eq!(reader.text(), Ok(mechanism));
            assert_eq!(reader.u32().unwrap() as usize, reader.remaining());
            let first = std::str::from_utf8(reader.rest()).unwrap();
            let first_bare = first.strip_prefix(header).unwrap().to_string();
            let nonce = first_bare.split_once("r=").unwrap().1;
            let salt = STANDARD.encode(SALT);
            let challenge = format!("r={nonce}server,s={salt},i=4096");
            let mut key = [0; 32];
            let rounds = std::num::NonZeroU32::new(4096).unwrap();
            pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, SALT, b"pw", &mut key);
            Self { key, first_bare, challenge }
        }

        fn challenge(&self) -> BytesMut {
            auth(request::SASL_CONTINUE, self.challenge.as_bytes())
        }

        /// Verifies the client's proof over what it was bound to, and gives the server's.
        fn finish(&self, sent: &[u8], bound_to: &[u8]) -> BytesMut {
            let last = std::str::from_utf8(&sent[5..]).unwrap();
            let (without_proof, proof) = last.split_once(",p=").unwrap();
            let binding = without_proof.strip_prefix("c=").unwrap().split_once(',').unwrap().0;
            assert_eq!(STANDARD.decode(binding).unwrap(), bound_to);
            let signed = format!("{},{},{without_proof}", self.first_bare, self.challenge);
            let stored = digest::digest(&digest::SHA256, &mac(&self.key, b"Client Key"));
            let signature = mac(stored.as_ref(), signed.as_bytes());
            let proof = STANDARD.decode(proof).unwrap();
            let client: Vec<u8> = proof.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
            assert_eq!(digest::digest(&digest::SHA256, &client).as_ref(), stored.as_ref());
            let own = mac(&mac(&self.key, b"Server Key"), signed.as_bytes());
            auth(request::SASL_FINAL, format!("v={}", STANDARD.encode(own)).as_bytes())
        }
    }

    #[test]
    fn startup_says_what_it_must_and_no_more() {
        let bytes = started(&[
            ("application_name", "a"),
            ("options", "-c role=boss"),
            ("USER", "boss"),
            ("Client_Encoding", "SJIS"),
            ("replication", "on"),
            ("_pq_.x", "y"),
        ]);
        let expect = "\0\x03\0\0user\0u\0database\0d\0application_name\0a\0\
                      search_path\0\"$user\", public\0client_encoding\0UTF8\0\
                      standard_conforming_strings\0on\0\0";
        let bytes = bytes.unwrap();
        assert_eq!(&bytes[4..], expect.as_bytes());
        assert_eq!(bytes[..4], (bytes.len() as u32).to_be_bytes());

        let bytes = started(&[("Search_Path", "x")]).unwrap();
        assert!(bytes.windows(14).any(|w| w == b"Search_Path\0x\0"));
        assert!(!bytes.windows(11).any(|w| w == b"search_path"));
    }

    #[test]
    fn unfit_startups_are_not_sent() {
        let long = "x".repeat(10_000);
        for settings in [
            &[("search_path", "a"), ("Search_path", "b")][..],
            &[("application_name", "a"), ("application_name", "a")],
            &[("", "a")],
            &[("a\0b", "a")],
            &[("a", "a\0b")],
            &[("application_name", &long)],
        ] {
            let error = started(settings).unwrap_err();
            assert!(matches!(error, LoginError::Unsupported(_)), "{error}");
        }
        let long = || "n".repeat(64);
        for bad in [
            LoginSpec { user: "a\0b".into(), ..spec(false) },
            LoginSpec { user: String::new(), ..spec(false) },
            LoginSpec { user: long(), ..spec(false) },
            LoginSpec { part: Some(String::new()), ..spec(false) },
            LoginSpec { part: Some(long()), ..spec(false) },
        ] {
            let step = Entering::login(bad).input(&mut BytesMut::new(), &PLAIN);
            assert!(matches!(step, Err(LoginError::Unsupported(_))), "{step:?}");
        }
    }

    #[test]
    fn stuffed_and_missing_tls_is_refused() {
        for (answer, stuffed) in [("N", false), ("E", false), ("x", false), ("SE", true)] {
            let mut login = Entering::login(spec(true));
            sent(login.input(&mut BytesMut::new(), &PLAIN));
            let step = login.input(&mut BytesMut::new(), &PLAIN);
            assert!(matches!(step, Ok(LoginStep::More)));
            let step = login.input(&mut BytesMut::from(answer), &PLAIN);
            let error = step.unwrap_err();
            assert_eq!(matches!(error, LoginError::Protocol(_)), stuffed, "{answer}: {error}");
            assert_eq!(error == LoginError::NoTls, !stuffed, "{answer}: {error}");
            assert!(login.input(&mut BytesMut::new(), &inside()).is_err());
        }
        let mut login = Entering::login(spec(true));
        sent(login.input(&mut BytesMut::new(), &PLAIN));
        login.input(&mut BytesMut::from("S"), &PLAIN).unwrap();
        assert!(failed(login.input(&mut BytesMut::new(), &PLAIN)).contains("TLS did not start"));
        let mut early = Entering::login(spec(false));
        assert!(failed(early.input(&mut BytesMut::from("x"), &PLAIN)).contains("spoken to"));
    }

    #[test]
    fn trust_lets_in_and_settings_are_kept() {
        let mut login = begun(spec(false));
        let mut input = join(&[message(b'N', b""), auth(0, b""), settings()]);
        input.extend_from_slice(b"rest");
        let Ok(LoginStep::Done(hello)) = login.input(&mut input, &PLAIN) else { panic!() };
        assert_eq!(&input[..], b"rest");
        assert_eq!(
            (hello.account.as_str(), &hello.cancel_key[..]),
            ("u", &[0, 0, 0, 1, 0, 0, 0, 2][..])
        );
        let find = |name| hello.parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(find("server_version"), Some("15.18"));
        assert_eq!(find(PATH), Some(crate::SEARCH_PATH));
        assert!(login.input(&mut input, &PLAIN).is_err());
    }

    #[test]
    fn the_path_is_what_the_target_says_it_is() {
        let check = |reported: &[(&str, &str)], expect: &str| {
            let mut input = auth(0, b"");
            for (name, value) in reported {
                input.unsplit(status(name, value));
            }
            input.unsplit(settings());
            let step = begun(spec(false)).input(&mut input, &PLAIN);
            let Ok(LoginStep::Done(hello)) = step else { panic!("{step:?}") };
            let paths: Vec<_> = hello.parameters.iter().filter(|(name, _)| name == PATH).collect();
            assert_eq!(paths, [&(PATH.to_string(), expect.to_string())]);
        };
        check(&[], crate::SEARCH_PATH);
        check(&[("search_path", "evil")], "evil");
        check(&[("bulla.search_path", "evil")], crate::SEARCH_PATH);
    }

    #[test]
    fn what_a_target_reports_is_checked() {
        let check = |parts: &[BytesMut], words: &str| {
            let mut input = auth(0, b"");
            parts.iter().for_each(|part| input.extend_from_slice(part));
            let error = failed(begun(spec(false)).input(&mut input, &PLAIN));
            assert!(error.contains(words), "{error}");
        };
        let ready = message(b'Z', b"I");
        let (utf8, scs) = (status("client_encoding", "UTF8"), ("standard_conforming_strings"));
        check(&[status("client_encoding", "SJIS"), status(scs, "on"), ready.clone()], "encoding");
        check(&[utf8.clone(), status(scs, "off"), ready.clone()], "conforming");
        check(&[utf8.clone(), ready.clone()], "conforming");
        check(&[ready], "encoding");
        check(&[message(b'Z', b"T")], "transaction");
        check(&[message(b'Z', b"")], "transaction");
        check(&[message(b'S', b"a\0b")], "ParameterStatus");
        check(&[message(b'S', b"a\0b\0c")], "ParameterStatus");
        check(&[message(b'S', b"a\0\xff\0")], "ParameterStatus");
        check(&[message(b'K', &[0; 7])], "impossible length");
        check(&[message(b'K', &[0; 261])], "impossible length");
        check(&[message(b'K', &[0; 8]), message(b'K', &[0; 8])], "two cancel keys");
        check(&[message(b'D', b"")], "unknown message");
        check(&[message(b'v', &[0; 8])], "unknown message");
        check(&[message(b'E', b"C57P03\0Mstarting\0\0")], "refused the login: 57P03 starting");
        let many: Vec<_> = (0..101).map(|n| status(&format!("s{n}"), "")).collect();
        check(&many, "too many settings");
        check(&vec![message(b'N', b""); 100_000], "more than 1000 messages");
        check(&[BytesMut::from(&b"S\0\x02\0\0"[..])], "more than 64 KiB");
        check(&[BytesMut::from(&b"S\0\0\0\0"[..])], "impossible length");
    }

    #[test]
    fn a_password_never_leaves_in_the_clear() {
        let step = begun(spec(false)).input(&mut auth(3, b""), &PLAIN);
        assert!(matches!(step, Err(LoginError::BadProof(_))));
        let mut login = begun(spec(true));
        assert_eq!(sent(login.input(&mut auth(3, b""), &inside()))[..], *b"p\0\0\0\x07pw\0");
        let mut input = join(&[auth(0, b""), settings()]);
        assert!(matches!(login.input(&mut input, &inside()), Ok(LoginStep::Done(_))));
    }

    /// Computed apart from this code, with Python's `hashlib`.
    #[test]
    fn md5_answers() {
        let mut login = begun(spec(false));
        let answer = sent(login.input(&mut auth(5, &[1, 2, 3, 4]), &PLAIN));
        assert_eq!(&answer[5..], b"md50803a98a0618b75c8f9a50f280cad373\0");
        let mut input = join(&[auth(0, b""), settings()]);
        assert!(matches!(login.input(&mut input, &PLAIN), Ok(LoginStep::Done(_))));
    }

    #[test]
    fn scram_ends_well_where_both_sides_prove_themselves() {
        let both = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
        let plus = [&b"p=tls-server-end-point,,"[..], &[9; 32]].concat();
        for (with, offer, mechanism, header, bound_to) in [
            (PLAIN, &b"SCRAM-SHA-256\0\0"[..], "SCRAM-SHA-256", "n,,", &b"n,,"[..]),
            (inside(), both, "SCRAM-SHA-256", "n,,", b"n,,"),
            (bound(), b"SCRAM-SHA-256\0\0", "SCRAM-SHA-256", "y,,", b"y,,"),
            (bound(), both, "SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,", &plus),
        ] {
            let mut login = begun(spec(with.tls));
            let first = sent(login.input(&mut auth(request::SASL, offer), &with));
            let server = Server::new(&first, mechanism, header);
            let proof = sent(login.input(&mut server.challenge(), &with));
            let mut input = server.finish(&proof, bound_to);
            input.unsplit(join(&[auth(0, b""), settings()]));
            let step = login.input(&mut input, &with);
            assert!(matches!(step, Ok(LoginStep::Done(_))), "{step:?}");
        }
    }

    #[test]
    fn a_target_asks_once_and_proves_itself() {
        let offer = auth(request::SASL, b"SCRAM-SHA-256\0\0");
        let again = [
            auth(request::SASL, b"SCRAM-SHA-256\0\0"),
            auth(request::CLEARTEXT, b""),
            auth(request::MD5, &[1; 4]),
        ];
        let mut others = again.to_vec();
        others.extend([auth(0, b""), auth(request::SASL_FINAL, b"v=AA==")]);
        for bad in &others {
            let mut login = begun(spec(true));
            sent(login.input(&mut offer.clone(), &inside()));
            let error = login.input(&mut bad.clone(), &inside()).unwrap_err();
            assert!(matches!(error, LoginError::BadProof(_) | LoginError::Protocol(_)), "{error}");
        }
        others.push(BytesMut::new());
        for bad in &others {
            let mut login = begun(spec(true));
            let first = sent(login.input(&mut offer.clone(), &inside()));
            let server = Server::new(&first, "SCRAM-SHA-256", "n,,");
            sent(login.input(&mut server.challenge(), &inside()));
            let bad = if bad.is_empty() { server.challenge() } else { bad.clone() };
            let error = login.input(&mut bad.clone(), &inside()).unwrap_err();
            assert!(matches!(error, LoginError::BadProof(_) | LoginError::Protocol(_)), "{error}");
        }
        // Nor does a target that was proven, or that took one proof, get another.
        for bad in &again {
            let mut login = begun(spec(true));
            let first = sent(login.input(&mut offer.clone(), &inside()));
            let server = Server::new(&first, "SCRAM-SHA-256", "n,,");
            let proof = sent(login.input(&mut server.challenge(), &inside()));
            let mut input = server.finish(&proof, b"n,,");
            input.extend_from_slice(bad);
            assert!(failed(login.input(&mut input, &inside())).contains("out of turn"));
            let mut login = begun(spec(true));
            sent(login.input(&mut auth(request::MD5, &[1; 4]), &inside()));
            assert!(failed(login.input(&mut bad.clone(), &inside())).contains("out of turn"));
        }
    }

    #[test]
    fn what_cannot_be_answered_is_refused() {
        let check = |asked: &BytesMut, secret: Option<&[u8]>, words: &str| {
            let secret = secret.map(|s| Arc::new(Secret::new(s.to_vec())));
            let mut login = begun(LoginSpec { secret, ..spec(true) });
            let error = failed(login.input(&mut asked.clone(), &bound()));
            assert!(error.contains(words), "{error}");
        };
        let scram = auth(request::SASL, b"SCRAM-SHA-256\0\0");
        for asked in [&auth(3, b""), &auth(5, &[0; 4]), &scram] {
            check(asked, None, "asks for a password");
            check(asked, Some(b""), "not empty");
            check(asked, Some(b"a\0b"), "no zero byte");
        }
        let pw = Some(&b"pw"[..]);
        check(&auth(2, b""), pw, "authentication 2,");
        check(&auth(7, b""), pw, "GSSAPI");
        check(&auth(9, b""), pw, "GSSAPI");
        check(&auth(request::SASL, b"OAUTHBEARER\0\0"), pw, "asks for OAUTHBEARER");
        check(&auth(request::SASL, b"A\x1b[2J\0\0"), pw, "A\\u{1b}[2J");
        check(&auth(request::SASL, b"SCRAM-SHA-256\0"), pw, "list of mechanisms");
        check(&auth(request::SASL, b"SCRAM-SHA-256\0\0x"), pw, "list of mechanisms");
        check(&auth(request::SASL, b"\xff\0\0"), pw, "list of mechanisms");
        check(&auth(request::SASL, &[b"x\0".repeat(17), vec![0]].concat()), pw, "too many");
        check(&auth(0, b"x"), pw, "more behind it");
        check(&auth(3, b"x"), pw, "more behind it");
        check(&auth(5, b"123"), pw, "short MD5");
        check(&auth(5, b"12345"), pw, "more behind it");
        check(&message(b'R', b"\0\0"), pw, "short authentication");
        check(&message(b'Z', b"I"), pw, "unknown message");
        check(&message(b'v', &[0; 8]), pw, "unknown message");
        let error = message(b'E', b"SFATAL\0C28P01\0Mpassword \"x\"\n\xe2\x80\xae\xff\0\0");
        check(&error, pw, "refused the login: 28P01 password \"x\"\\n\\u{202e}\u{fffd}");
        // Only with binding, where nothing can be bound to.
        let mut login = begun(spec(true));
        let mut only = auth(request::SASL, b"SCRAM-SHA-256-PLUS\0\0");
        let error = failed(login.input(&mut only, &inside()));
        assert!(error.contains("SCRAM-SHA-256-PLUS, which is not supported"), "{error}");
    }

    #[test]
    fn a_cancel_is_sixteen_bytes_and_over() {
        for tls in [false, true] {
            let mut cancel = Entering::cancel((1..=8).collect(), tls);
            if tls {
                sent(cancel.input(&mut BytesMut::new(), &PLAIN));
                let step = cancel.input(&mut BytesMut::from("S"), &PLAIN);
                assert!(matches!(step, Ok(LoginStep::StartTls)));
            }
            let bytes = sent(cancel.input(&mut BytesMut::new(), &inside()));
            assert_eq!(bytes[..], [0, 0, 0, 16, 4, 210, 22, 46, 1, 2, 3, 4, 5, 6, 7, 8]);
            let step = cancel.input(&mut BytesMut::new(), &inside());
            assert!(matches!(step, Ok(LoginStep::Done(_))));
        }
        for key in [vec![], vec![1; 7], vec![1; 261]] {
            let step = Entering::cancel(key, false).input(&mut BytesMut::new(), &PLAIN);
            assert!(matches!(step, Err(LoginError::Protocol(_))));
        }
    }

    #[test]
    fn pieces_change_nothing() {
        let with = inside();
        let mut login = begun(spec(true));
        let mut sends = Vec::new();
        let mut feed = |bytes: &[u8]| {
            let mut input = BytesMut::new();
            for byte in bytes {
                input.put_u8(*byte);
                match login.input(&mut input, &with).unwrap() {
                    LoginStep::More => {}
                    LoginStep::Send(bytes) => sends.push(bytes),
                    LoginStep::Done(hello) => return Some(hello),
                    LoginStep::StartTls => panic!(),
                }
            }
            None
        };
        assert_eq!(feed(&auth(3, b"")), None);
        let hello = feed(&join(&[auth(0, b""), settings()])).unwrap();
        assert_eq!(sends, [&b"p\0\0\0\x07pw\0"[..]]);
        let mut whole = join(&[auth(0, b""), settings()]);
        let step = begun(spec(true)).input(&mut whole, &with);
        assert!(matches!(step, Ok(LoginStep::Done(other)) if other == hello));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            chunks in prop::collection::vec(
                (prop::sample::select(b"RSKZENv".to_vec()), 0u32..14, any::<Vec<u8>>()), 0..8),
            tls in any::<bool>(),
        ) {
            let mut login = begun(spec(tls));
            let mut input = BytesMut::new();
            for (kind, code, bytes) in chunks {
                let code = if kind == b'R' { code.to_be_bytes().to_vec() } else { Vec::new() };
                let body = [code, bytes].concat();
                input.unsplit(message(kind, &body));
                if login.input(&mut input, &bound()).is_err() {
                    prop_assert!(login.input(&mut input, &bound()).is_err());
                }
            }
        }
    }
}
