//! The login toward a target, and the request to cancel, as machines without sockets.

use bulla_wire::{Login, LoginContext, LoginError, LoginSpec, LoginStep, Reader, TargetHello};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use md5::{Digest as _, Md5};

use crate::{frame, scram::Scram};

/// Longest message of a login.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

enum State {
    Start,
    Ssl,
    Begin,
    Auth(Option<Scram>),
    Settings(Box<TargetHello>),
    Done,
}

enum Purpose {
    LogIn(Box<LoginSpec>),
    Cancel { key: Vec<u8> },
}

/// One login, or one cancel.
pub struct Entering {
    purpose: Purpose,
    tls: bool,
    state: State,
}

fn protocol(why: &'static str) -> LoginError {
    LoginError::Protocol(why.into())
}

impl Entering {
    pub fn login(spec: LoginSpec) -> Self {
        Self { tls: spec.tls, purpose: Purpose::LogIn(Box::new(spec)), state: State::Start }
    }
    pub fn cancel(key: Vec<u8>, tls: bool) -> Self {
        Self { tls, purpose: Purpose::Cancel { key }, state: State::Start }
    }

    fn begin(&mut self) -> Bytes {
        let mut body = BytesMut::new();
        match &self.purpose {
            Purpose::Cancel { key } => {
                body.put_u32(80_877_102);
                body.extend_from_slice(key);
            }
            Purpose::LogIn(spec) => {
                body.put_u32(3 << 16);
                let mut pair = |key: &str, value: &str| {
                    frame::put_text(&mut body, key);
                    frame::put_text(&mut body, value);
                };
                pair("user", &spec.user);
                if let Some(part) = &spec.part {
                    pair("database", part);
                }
                for (key, value) in &spec.settings {
                    let fixed = [
                        "user",
                        "database",
                        "replication",
                        "options",
                        "client_encoding",
                        "standard_conforming_strings",
                    ];
                    if !fixed.iter().any(|f| f.eq_ignore_ascii_case(key)) {
                        pair(key, value);
                    }
                }
                // Said always, so that no default of a role or database decides how names are read.
                if !spec.settings.iter().any(|(k, _)| k.eq_ignore_ascii_case("search_path")) {
                    pair("search_path", crate::SEARCH_PATH);
                }
                pair("client_encoding", "UTF8");
                pair("standard_conforming_strings", "on");
                body.put_u8(0);
            }
        }
        let mut out = BytesMut::new();
        out.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
        out.extend_from_slice(&body);
        out.freeze()
    }

    fn message(input: &mut BytesMut) -> Result<Option<(u8, Bytes)>, LoginError> {
        let head = frame::head(input).map_err(|_| protocol("a message of impossible length"))?;
        let Some(head) = head else { return Ok(None) };
        if head.total() > MESSAGE_BYTES_MAX {
            return Err(protocol("a message of more than 64 KiB during login"));
        }
        if input.len() < head.total() {
            return Ok(None);
        }
        let mut message = input.split_to(head.total());
        message.advance(frame::HEADER_BYTES);
        Ok(Some((head.kind, message.freeze())))
    }

    fn auth(
        &mut self,
        scram: Option<Scram>,
        input: &mut BytesMut,
        with: &LoginContext,
    ) -> Result<LoginStep, LoginError> {
        let Some((kind, body)) = Self::message(input)? else {
            self.state = State::Auth(scram);
            return Ok(LoginStep::More);
        };
        match kind {
            b'E' => Err(LoginError::Refused(error_words(&body))),
            b'N' | b'v' => self.auth(scram, input, with),
            b'R' => self.asked(scram, &body, with),
            _ => Err(protocol("an unknown message during login")),
        }
    }

    fn asked(
        &mut self,
        scram: Option<Scram>,
        body: &[u8],
        with: &LoginContext,
    ) -> Result<LoginStep, LoginError> {
        let Purpose::LogIn(spec) = &self.purpose else {
            return Err(protocol("an answer to a cancel"));
        };
        let mut reader = Reader::new(body);
        let code = reader.u32().map_err(|_| protocol("a short authentication request"))?;
        let secret = spec.secret.clone();
        let secret = |what| secret.as_ref().map(|s| s.reveal()).ok_or(LoginError::NoSecret(what));
        let mut next = None;
        let answer = match (code, scram) {
            (0, None) => {
                let path =
                    spec.settings.iter().find(|(k, _)| k.eq_ignore_ascii_case("search_path"));
                let path = path.map_or(crate::SEARCH_PATH, |(_, value)| value).to_string();
                let hello = TargetHello {
                    account: spec.user.clone(),
                    parameters: vec![("bulla.search_path".into(), path)],
                    ..Default::default()
                };
                self.state = State::Settings(Box::new(hello));
                return Ok(LoginStep::Send(Bytes::new()));
            }
            (0, Some(_)) => return Err(LoginError::BadProof("it skipped its own SCRAM proof")),
            (3, None) if !with.tls => {
                return Err(LoginError::BadProof(
                    "it asks for the password in the clear, without TLS",
                ));
            }
            (3, None) => {
                let mut text = secret("a password")?.to_vec();
                text.push(0);
                text
            }
            (5, None) => {
                let salt = reader.bytes(4).map_err(|_| protocol("a short MD5 salt"))?;
                let inner = hex(&Md5::new()
                    .chain_update(secret("a password")?)
                    .chain_update(spec.user.as_bytes())
                    .finalize());
                let outer = hex(&Md5::new().chain_update(inner).chain_update(salt).finalize());
                format!("md5{outer}\0").into_bytes()
            }
            (10, None) => {
                secret("a password")?;
                let mut names = Vec::new();
                loop {
                    match reader.text().map_err(|_| protocol("a bad list of mechanisms"))? {
                        "" => break,
                        name => names.push(name.to_string()),
                    }
                }
                let plus = names.iter().any(|n| n == "SCRAM-SHA-256-PLUS");
                if !names.iter().any(|n| n == "SCRAM-SHA-256") && !plus {
                    return Err(LoginError::Unsupported(printable(&names.join(", "))));
                }
                let end_point = with.server_end_point.as_deref().filter(|_| plus);
                let scram =
                    Scram::new(&spec.nonce, end_point, with.server_end_point.is_some() && !plus);
                let name = if end_point.is_some() { "SCRAM-SHA-256-PLUS" } else { "SCRAM-SHA-256" };
                let first = scram.first();
                let mut text = format!("{name}\0").into_bytes();
                text.extend_from_slice(&u32::try_from(first.len()).unwrap_or(0).to_be_bytes());
                text.extend_from_slice(first.as_bytes());
                next = Some(scram);
                text
            }
            (11, Some(mut scram)) => {
                let text = std::str::from_utf8(reader.rest());
                let text =
                    text.map_err(|_| LoginError::BadProof("a SCRAM challenge not in UTF-8"))?;
                let answer = scram.answer(text, secret("a password")?);
                let answer = answer.map_err(LoginError::BadProof)?;
                next = Some(scram);
                answer.into_bytes()
            }
            (12, Some(scram)) => {
                let text = std::str::from_utf8(reader.rest());
                let text = text.map_err(|_| LoginError::BadProof("a SCRAM end not in UTF-8"))?;
                scram.verify(text).map_err(LoginError::BadProof)?;
                self.state = State::Auth(None);
                return Ok(LoginStep::Send(Bytes::new()));
            }
            (7..=9, _) => return Err(LoginError::Unsupported("GSSAPI or SSPI".into())),
            _ => return Err(LoginError::Unsupported(format!("authentication {code}"))),
        };
        self.state = State::Auth(next);
        let mut out = BytesMut::new();
        frame::put(&mut out, b'p', |out| out.extend_from_slice(&answer));
        Ok(LoginStep::Send(out.freeze()))
    }

    fn settings(
        &mut self,
        mut hello: Box<TargetHello>,
        input: &mut BytesMut,
    ) -> Result<LoginStep, LoginError> {
        while let Some((kind, body)) = Self::message(input)? {
            let mut reader = Reader::new(&body);
            match kind {
                b'S' => {
                    let bad = |_| protocol("a bad ParameterStatus");
                    let name = reader.text().map_err(bad)?.to_string();
                    let value = reader.text().map_err(bad)?.to_string();
                    if hello.parameters.len() >= 100 {
                        return Err(protocol("too many settings reported"));
                    }
                    hello.parameters.retain(|(n, _)| *n != name);
                    hello.parameters.push((name, value));
                }
                b'K' if (8..=260).contains(&body.len()) => hello.cancel_key = body.to_vec(),
                b'K' => return Err(protocol("a cancel key of impossible length")),
                b'N' | b'v' => {}
                b'E' => return Err(LoginError::Refused(error_words(&body))),
                b'Z' => {
                    for (name, want) in
                        [("client_encoding", "UTF8"), ("standard_conforming_strings", "on")]
                    {
                        let is = hello.parameters.iter().find(|(n, _)| n == name);
                        if is.is_none_or(|(_, value)| value != want) {
                            return Err(LoginError::Unsupported(format!(
                                "another `{name}` than {want}"
                            )));
                        }
                    }
                    self.state = State::Done;
                    return Ok(LoginStep::Done(hello));
                }
                _ => return Err(protocol("an unknown message after login")),
            }
        }
        self.state = State::Settings(hello);
        Ok(LoginStep::More)
    }
}

impl Login for Entering {
    fn input(
        &mut self,
        input: &mut BytesMut,
        with: &LoginContext,
    ) -> Result<LoginStep, LoginError> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Start if self.tls => {
                self.state = State::Ssl;
                Ok(LoginStep::Send(Bytes::from_static(&[0, 0, 0, 8, 4, 210, 22, 47])))
            }
            State::Start => {
                self.state = State::Begin;
                self.input(input, with)
            }
            State::Ssl => match (input.first(), input.len()) {
                (None, _) => {
                    self.state = State::Ssl;
                    Ok(LoginStep::More)
                }
                (Some(b'S'), 1) => {
                    input.clear();
                    self.state = State::Begin;
                    Ok(LoginStep::StartTls)
                }
                // More than the one byte was sent before TLS: somebody stuffed it (CVE-2021-23222).
                (Some(b'S'), _) => Err(protocol("bytes before TLS")),
                _ => Err(LoginError::NoTls),
            },
            State::Begin if self.tls && !with.tls => Err(protocol("TLS did not start")),
            State::Begin => {
                self.state = match self.purpose {
                    Purpose::LogIn(_) => State::Auth(None),
                    Purpose::Cancel { .. } => State::Settings(Box::default()),
                };
                Ok(LoginStep::Send(self.begin()))
            }
            State::Auth(scram) => self.auth(scram, input, with),
            State::Settings(hello) => match self.purpose {
                Purpose::LogIn(_) => self.settings(hello, input),
                Purpose::Cancel { .. } => Ok(LoginStep::Done(hello)),
            },
            State::Done => Err(protocol("more input after the login")),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn printable(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}

/// `28P01 password authentication failed for user "x"`, escaped.
pub fn error_words(body: &[u8]) -> String {
    let mut reader = Reader::new(body);
    let (mut code, mut message) = (String::new(), String::new());
    while let Ok(field) = reader.u8() {
        if field == 0 {
            break;
        }
        let Ok(text) = reader.until_nul() else { break };
        let text = printable(&String::from_utf8_lossy(text));
        match field {
            b'C' => code = text,
            b'M' => message = text,
            _ => {}
        }
    }
    format!("{code} {message}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_core::Secret;
    use std::sync::Arc;

    fn spec(tls: bool) -> LoginSpec {
        LoginSpec {
            user: "u".into(),
            secret: Some(Arc::new(Secret::new(b"pw".to_vec()))),
            part: Some("d".into()),
            settings: vec![("application_name".into(), "a".into()), ("options".into(), "x".into())],
            tls,
            nonce: [7; 24],
        }
    }

    fn auth(code: u32, rest: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        frame::put(&mut out, b'R', |out| {
            out.put_u32(code);
            out.extend_from_slice(rest);
        });
        out
    }

    fn begun(tls: bool) -> (Entering, LoginContext) {
        let mut login = Entering::login(spec(tls));
        let mut with = LoginContext::default();
        let mut none = BytesMut::new();
        if tls {
            assert!(matches!(login.input(&mut none, &with), Ok(LoginStep::Send(_))));
            let mut yes = BytesMut::from("S");
            assert!(matches!(login.input(&mut yes, &with), Ok(LoginStep::StartTls)));
            with.tls = true;
        }
        let step = login.input(&mut none, &with).unwrap();
        let LoginStep::Send(bytes) = step else { panic!("{step:?}") };
        assert!(!bytes.windows(7).any(|w| w == b"options"));
        (login, with)
    }

    #[test]
    fn stuffed_and_missing_tls_is_refused() {
        for answer in ["N", "SE", "E", "x"] {
            let mut login = Entering::login(spec(true));
            let with = LoginContext::default();
            login.input(&mut BytesMut::new(), &with).unwrap();
            assert!(login.input(&mut BytesMut::from(answer), &with).is_err(), "{answer}");
        }
    }

    #[test]
    fn a_password_never_leaves_in_the_clear() {
        let (mut login, with) = begun(false);
        assert!(matches!(login.input(&mut auth(3, b""), &with), Err(LoginError::BadProof(_))));
        let (mut login, with) = begun(true);
        let step = login.input(&mut auth(3, b""), &with).unwrap();
        assert!(matches!(step, LoginStep::Send(b) if &b[..] == b"p\0\0\0\x07pw\0"));
    }

    #[test]
    fn skipping_the_proof_is_refused() {
        let (mut login, with) = begun(true);
        login.input(&mut auth(10, b"SCRAM-SHA-256\0\0"), &with).unwrap();
        assert!(matches!(login.input(&mut auth(0, b""), &with), Err(LoginError::BadProof(_))));
    }

    #[test]
    fn wrong_encodings_are_refused() {
        for (name, value, good) in
            [("client_encoding", "SJIS", false), ("client_encoding", "UTF8", true)]
        {
            let (mut login, with) = begun(false);
            let mut input = auth(0, b"");
            for (n, v) in [(name, value), ("standard_conforming_strings", "on")] {
                frame::put(&mut input, b'S', |out| {
                    frame::put_text(out, n);
                    frame::put_text(out, v);
                });
            }
            frame::put(&mut input, b'K', |out| out.put_u64(1));
            frame::ready(&mut input, b'I');
            login.input(&mut input, &with).unwrap();
            assert_eq!(login.input(&mut input, &with).is_ok(), good, "{value}");
        }
    }
}
