//! The first words with a client: TLS, startup, credential.

use bulla_core::{Credential, Secret};
use bulla_sql::settings::{SettingRule, rule};
use bulla_wire::{
    CANCEL_KEY_BYTES, Greeting, Hello, Opened, ReadError, Reader, Rejection, Step, Tls, Violation,
    Wire,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::sync::Arc;

use crate::{
    Shared,
    frame::{self, fatal},
    machine::Machine,
};

const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// Longest startup message, as the server's own limit.
const STARTUP_BYTES_MAX: usize = 10_000;
/// Longest password message: a token of 16 KiB and its frame.
const PASSWORD_BYTES_MAX: usize = 17 * 1024;
/// A client that asks for encryption this often is not a client.
const REQUESTS_MAX: u32 = 4;
/// Settings that a target reports and a client may know.
const REPORTED: [&str; 14] = [
    "application_name",
    "client_encoding",
    "DateStyle",
    "default_transaction_read_only",
    "in_hot_standby",
    "integer_datetimes",
    "IntervalStyle",
    "is_superuser",
    "scram_iterations",
    "search_path",
    "server_encoding",
    "server_version",
    "standard_conforming_strings",
    "TimeZone",
];

enum State {
    First { requests: u32 },
    Password(Box<Wish>),
    Done,
}

struct Wish {
    resource: String,
    part: Option<String>,
    wishes: Vec<(String, String)>,
    claims: Vec<(Arc<str>, Arc<str>)>,
}

pub struct Greeter {
    shared: Arc<Shared>,
    state: State,
    /// The minor version of protocol 3 in use.
    minor: u16,
    /// What must be said before the welcome.
    before: BytesMut,
}

fn broke(why: impl Into<std::borrow::Cow<'static, str>>) -> Violation {
    let why = why.into();
    let answer = fatal("08P01", &format!("protocol violation: {why}"), None);
    Violation { why, answer }
}

impl From<ReadErrorIn> for Violation {
    fn from(ReadErrorIn(what, error): ReadErrorIn) -> Self {
        broke(format!("{what}: {error}"))
    }
}

struct ReadErrorIn(&'static str, ReadError);

fn within(what: &'static str) -> impl Fn(ReadError) -> ReadErrorIn {
    move |error| ReadErrorIn(what, error)
}

impl Greeter {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, state: State::First { requests: 0 }, minor: 0, before: BytesMut::new() }
    }

    fn first(&mut self, input: &mut BytesMut, tls: Tls, requests: u32) -> Result<Step, Violation> {
        if tls == Tls::Plain && requests == 0 && input.first() == Some(&0x16) {
            return Ok(Step::DirectTls);
        }
        let Some(&length) = input.first_chunk::<4>() else { return Ok(Step::More) };
        let length = u32::from_be_bytes(length) as usize;
        if !(8..=STARTUP_BYTES_MAX).contains(&length) {
            return Err(broke("a startup message of impossible length"));
        }
        if input.len() < length {
            return Ok(Step::More);
        }
        let message = input.split_to(length).freeze();
        let mut reader = Reader::new(message.get(4..).unwrap_or_default());
        let code = reader.u32().map_err(within("startup"))?;
        match code {
            SSL_REQUEST | GSSENC_REQUEST if length == 8 => {
                self.state = State::First { requests: requests + 1 };
                if requests >= REQUESTS_MAX {
                    return Err(broke("too many requests for encryption"));
                }
                match (code, tls) {
                    (SSL_REQUEST, Tls::Plain) => Ok(Step::StartTls(Bytes::from_static(b"S"))),
                    _ => Ok(Step::Send(Bytes::from_static(b"N"))),
                }
            }
            CANCEL_REQUEST => {
                self.state = State::Done;
                Ok(Step::Cancel(reader.rest().to_vec()))
            }
            _ => self.startup(code, reader, tls),
        }
    }

    fn startup(&mut self, code: u32, reader: Reader<'_>, tls: Tls) -> Result<Step, Violation> {
        let Tls::On { certificate } = tls else {
            self.state = State::Done;
            let words = "this gateway speaks TLS only; set sslmode=verify-full";
            return Ok(Step::Bye { answer: fatal("28000", words, None), why: "plaintext" });
        };
        if code >> 16 != 3 {
            return Err(broke(format!("protocol {}.{} is not spoken", code >> 16, code & 0xffff)));
        }
        let asked = (code & 0xffff) as u16;
        let pairs = pairs(reader)?;
        let Wanted { wish, options, token } = self.wanted(pairs)?;
        self.minor = asked.min(2);
        let negotiate = asked > 2 || !options.is_empty();
        let mut out = BytesMut::new();
        if negotiate {
            frame::put(&mut out, b'v', |out| {
                out.put_u32(3 << 16 | u32::from(self.minor));
                out.put_u32(u32::try_from(options.len()).unwrap_or(0));
                options.iter().for_each(|name| frame::put_text(out, name));
            });
        }
        if certificate && !token {
            self.state = State::Done;
            // Nothing is asked for, so the negotiation goes in front of the welcome.
            self.before = out;
            return Ok(Step::Ready(Box::new(wish.hello(Credential::Certificate))));
        }
        frame::put(&mut out, b'R', |out| out.put_u32(3));
        self.state = State::Password(Box::new(wish));
        Ok(Step::Send(out.freeze()))
    }

    /// What a startup message asks for, checked key by key.
    fn wanted(&self, pairs: Vec<(String, String)>) -> Result<Wanted, Violation> {
        let (mut user, mut database) = (None, None);
        let (mut wishes, mut claims, mut options) = (Vec::new(), Vec::new(), Vec::new());
        let mut token = false;
        let mut settings = Vec::new();
        for (key, value) in pairs {
            match key.as_str() {
                "user" => user = Some(value),
                "database" => database = Some(value),
                "replication" if ["false", "off", "no", "0"].contains(&value.as_str()) => {}
                "replication" => {
                    return Err(refused("replication is not allowed through this gateway"));
                }
                "options" => settings.extend(command_line(&value)?),
                _ if key.starts_with("_pq_.") => options.push(key),
                _ => settings.push((key, value)),
            }
        }
        for (key, value) in settings {
            if key == "bulla.credential" {
                token = value == "token";
            } else if let Some(name) = key.strip_prefix("bulla.") {
                claims.push((format!("bulla.{name}").into(), value.into()));
            } else {
                let allowed = match rule(&key) {
                    SettingRule::Harmless | SettingRule::Tracked => true,
                    SettingRule::Pinned(values) => {
                        values.iter().any(|v| v.eq_ignore_ascii_case(value.trim_matches('\'')))
                    }
                    SettingRule::Forbidden(_) | SettingRule::Unlisted => false,
                };
                if !allowed {
                    let key = key.escape_debug();
                    return Err(refused(&format!(
                        "the setting `{key}` may not be chosen by a client of this gateway"
                    )));
                }
                let pinned = matches!(rule(&key), SettingRule::Pinned(_));
                if key.eq_ignore_ascii_case("application_name") {
                    claims.push(("application_name".into(), value.as_str().into()));
                }
                if !pinned {
                    wishes.retain(|(k, _): &(String, String)| !k.eq_ignore_ascii_case(&key));
                    wishes.push((key, value));
                }
            }
        }
        let user = user.ok_or_else(|| broke("a startup message without `user`"))?;
        claims.push(("user".into(), user.as_str().into()));
        let database = database.filter(|d| !d.is_empty()).unwrap_or(user);
        let (resource, part) = match database.split_once('/') {
            Some((resource, part)) => (resource.to_string(), Some(part.to_string())),
            None => (database, None),
        };
        Ok(Wanted { wish: Wish { resource, part, wishes, claims }, options, token })
    }

    fn password(&mut self, input: &mut BytesMut) -> Result<Step, Violation> {
        let Some(head) = frame::head(input).map_err(within("password"))? else {
            return Ok(Step::More);
        };
        if head.kind != b'p' {
            return Err(broke("something else where a credential was asked for"));
        }
        if head.total() > PASSWORD_BYTES_MAX {
            return Err(broke("a credential of more than 16 KiB"));
        }
        if input.len() < head.total() {
            return Ok(Step::More);
        }
        let mut message = input.split_to(head.total());
        message.advance(frame::HEADER_BYTES);
        let mut reader = Reader::new(&message);
        let token = reader.until_nul().map_err(within("password"))?.to_vec();
        reader.finish().map_err(within("password"))?;
        message.fill(0);
        match std::mem::replace(&mut self.state, State::Done) {
            State::Password(wish) => {
                Ok(Step::Ready(Box::new(wish.hello(Credential::Token(Secret::new(token))))))
            }
            State::First { .. } | State::Done => Err(broke("a credential that nobody asked for")),
        }
    }
}

struct Wanted {
    wish: Wish,
    /// Protocol options that are not known here.
    options: Vec<String>,
    /// A token is presented although there is a certificate.
    token: bool,
}

impl Wish {
    fn hello(self, credential: Credential) -> Hello {
        let Self { resource, part, wishes, claims } = self;
        Hello { credential, resource, part, wishes, claims }
    }
}

fn refused(why: &str) -> Violation {
    Violation { why: why.to_string().into(), answer: fatal("0A000", why, None) }
}

fn pairs(mut reader: Reader<'_>) -> Result<Vec<(String, String)>, Violation> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    loop {
        let key = reader.text().map_err(within("startup"))?;
        if key.is_empty() {
            reader.finish().map_err(within("startup"))?;
            return Ok(pairs);
        }
        let value = reader.text().map_err(within("startup"))?;
        if pairs.iter().any(|(k, _)| k.eq_ignore_ascii_case(key)) {
            return Err(broke("a startup key that comes twice"));
        }
        pairs.push((key.into(), value.into()));
    }
}

/// `-c name=value` and `--name=value`, with the server's backslash escapes (`pg_split_opts`).
fn command_line(text: &str) -> Result<Vec<(String, String)>, Violation> {
    let (mut words, mut word, mut open, mut escaped) = (Vec::new(), String::new(), false, false);
    for c in text.chars() {
        if escaped {
            word.push(c);
            escaped = false;
        } else if c == '\\' {
            (escaped, open) = (true, true);
        } else if c.is_ascii_whitespace() {
            if open {
                words.push(std::mem::take(&mut word));
            }
            open = false;
        } else {
            word.push(c);
            open = true;
        }
    }
    if open {
        words.push(word);
    }
    let mut settings = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let setting = if word == "-c" {
            words.next().ok_or_else(|| refused("`options` ends after `-c`"))?
        } else if let Some(rest) = word.strip_prefix("-c").or_else(|| word.strip_prefix("--")) {
            rest.to_string()
        } else {
            return Err(refused("`options` may hold only `-c name=value` and `--name=value`"));
        };
        let Some((name, value)) = setting.split_once('=') else {
            return Err(refused("`options` may hold only `-c name=value` and `--name=value`"));
        };
        settings.push((name.replace('-', "_"), value.to_string()));
    }
    Ok(settings)
}

impl Greeting for Greeter {
    fn input(&mut self, input: &mut BytesMut, tls: Tls) -> Result<Step, Violation> {
        match &self.state {
            State::First { requests } => {
                let requests = *requests;
                self.first(input, tls, requests)
            }
            State::Password(_) => self.password(input),
            State::Done => Err(broke("more input after the greeting")),
        }
    }

    fn reject(&mut self, why: &Rejection) -> Bytes {
        match why {
            Rejection::Credential => {
                let hint = "present a fresh token of a configured issuer as the password";
                fatal("28P01", "the credential is not accepted", Some(hint))
            }
            Rejection::Resource(name) => {
                let name = name.escape_debug();
                fatal("3D000", &format!("`{name}` does not exist or you may not use it"), None)
            }
            Rejection::Target(words) => fatal("08006", words, None),
            Rejection::Unavailable(words) => fatal("57P03", words, Some("try again later")),
        }
    }

    fn welcome(self: Box<Self>, opened: Opened) -> Result<(Bytes, Box<dyn Wire>), Violation> {
        let mut out = self.before;
        frame::put(&mut out, b'R', |out| out.put_u32(0));
        for (name, value) in &opened.target.parameters {
            if REPORTED.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                frame::put(&mut out, b'S', |out| {
                    frame::put_text(out, name);
                    frame::put_text(out, value);
                });
            }
        }
        // Before 3.2 a key has exactly 4 + 4 bytes.
        let key = if self.minor >= 2 { CANCEL_KEY_BYTES } else { 8 };
        let key = opened.cancel_key.get(..key).unwrap_or_default();
        frame::put(&mut out, b'K', |out| out.extend_from_slice(key));
        frame::ready(&mut out, b'I');
        let machine = Machine::new(self.shared, &opened)?;
        Ok((out.freeze(), Box::new(machine)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup(code: u32, pairs: &[(&str, &str)]) -> BytesMut {
        let mut body = BytesMut::new();
        body.put_u32(code);
        for (key, value) in pairs {
            frame::put_text(&mut body, key);
            frame::put_text(&mut body, value);
        }
        body.put_u8(0);
        let mut out = BytesMut::new();
        out.put_u32(body.len() as u32 + 4);
        out.extend_from_slice(&body);
        out
    }

    const ON: Tls = Tls::On { certificate: false };

    fn greeter() -> Greeter {
        Greeter::new(Arc::new(Shared::new(Default::default()).unwrap()))
    }

    #[test]
    fn plaintext_is_refused_before_a_credential_is_asked_for() {
        let mut input = startup(3 << 16, &[("user", "u")]);
        let step = greeter().input(&mut input, Tls::Plain).unwrap();
        let Step::Bye { answer, .. } = step else { panic!("{step:?}") };
        assert!(answer.windows(5).any(|w| w == b"28000"));
    }

    #[test]
    fn encryption_is_negotiated_and_gss_is_not() {
        let mut input = BytesMut::new();
        input.put_u32(8);
        input.put_u32(GSSENC_REQUEST);
        input.put_u32(8);
        input.put_u32(SSL_REQUEST);
        let mut greeter = greeter();
        assert!(
            matches!(greeter.input(&mut input, Tls::Plain), Ok(Step::Send(b)) if &b[..] == b"N")
        );
        assert!(
            matches!(greeter.input(&mut input, Tls::Plain), Ok(Step::StartTls(b)) if &b[..] == b"S")
        );
        assert!(matches!(greeter.input(&mut input, ON), Ok(Step::More)));
        let mut direct = BytesMut::from(&[0x16, 3, 1][..]);
        assert!(matches!(self::greeter().input(&mut direct, Tls::Plain), Ok(Step::DirectTls)));
    }

    #[test]
    fn a_token_is_a_password_and_the_database_a_resource() {
        let mut greeter = greeter();
        let pairs =
            [("user", "billing"), ("database", "orders/reports"), ("application_name", "a")];
        let mut input = startup(3 << 16, &pairs);
        assert!(matches!(greeter.input(&mut input, ON), Ok(Step::Send(_))));
        let mut password = BytesMut::new();
        frame::put(&mut password, b'p', |out| frame::put_text(out, "token"));
        let Ok(Step::Ready(hello)) = greeter.input(&mut password, ON) else { panic!("not ready") };
        assert_eq!((hello.resource.as_str(), hello.part.as_deref()), ("orders", Some("reports")));
        assert_eq!(hello.wishes, [("application_name".to_string(), "a".to_string())]);
        assert!(matches!(hello.credential, Credential::Token(s) if s.reveal() == b"token"));
    }

    #[test]
    fn hostile_startups_are_refused() {
        let user = ("user", "u");
        for pairs in [
            &[user, ("replication", "database")][..],
            &[user, user],
            &[user, ("USER", "v")],
            &[user, ("client_encoding", "SJIS")],
            &[user, ("standard_conforming_strings", "off")],
            &[user, ("session_replication_role", "replica")],
            &[user, ("options", "-c standard_conforming_strings=off")],
            &[user, ("options", "--role=postgres")],
            &[user, ("options", "-c")],
            &[user, ("options", "-f /etc/passwd")],
            &[("database", "orders")],
        ] {
            let mut input = startup(3 << 16, pairs);
            assert!(greeter().input(&mut input, ON).is_err(), "{pairs:?}");
        }
        for pairs in [&[user][..], &[user, ("options", "-c statement_timeout=5s")]] {
            let mut input = startup(3 << 16 | 2, pairs);
            assert!(greeter().input(&mut input, ON).is_ok(), "{pairs:?}");
        }
        let mut input = startup(2 << 16, &[user]);
        assert!(greeter().input(&mut input, ON).is_err());
    }

    #[test]
    fn a_cancel_carries_its_key() {
        let mut input = BytesMut::new();
        input.put_u32(16);
        input.put_u32(CANCEL_REQUEST);
        input.put_u64(7);
        let step = greeter().input(&mut input, Tls::Plain).unwrap();
        assert!(matches!(step, Step::Cancel(key) if key == 7u64.to_be_bytes()));
    }
}
