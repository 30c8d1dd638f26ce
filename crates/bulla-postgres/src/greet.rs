//! The first words with a client: TLS, startup, credential.

use bulla_core::{Command, Credential, Secret};
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
    refusal::broke,
    replication,
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
/// A process id, and a secret of 4 to 256 bytes.
const CANCEL_KEYS: std::ops::RangeInclusive<usize> = 8..=260;
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
    needs: Vec<Command>,
}

pub struct Greeter {
    shared: Arc<Shared>,
    state: State,
    /// The minor version of protocol 3 in use.
    minor: u16,
    /// What must be said before the welcome.
    before: BytesMut,
}

fn within(what: &'static str) -> impl Fn(ReadError) -> Violation {
    move |error| broke(format!("{what}: {error}"))
}

/// Why a startup message leads no further.
enum Away {
    Broke(Violation),
    /// It is sound, and asks for what is refused on principle.
    Refused {
        answer: Bytes,
        why: &'static str,
    },
}

impl From<Violation> for Away {
    fn from(violation: Violation) -> Self {
        Self::Broke(violation)
    }
}

fn refused(why: &'static str, words: &str) -> Away {
    Away::Refused { answer: fatal("0A000", words, None), why }
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
                let key = reader.rest();
                if !CANCEL_KEYS.contains(&key.len()) {
                    // Whoever asks to cancel is never answered.
                    let why = "a cancel key of impossible length".into();
                    return Err(Violation { why, answer: Bytes::new() });
                }
                Ok(Step::Cancel(key.to_vec()))
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
        let Wanted { wish, options, token } = match wanted(pairs) {
            Ok(wanted) => wanted,
            Err(Away::Broke(violation)) => return Err(violation),
            Err(Away::Refused { answer, why }) => {
                self.state = State::Done;
                return Ok(Step::Bye { answer, why });
            }
        };
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

/// What a startup message asks for, checked key by key.
fn wanted(pairs: Vec<(String, String)>) -> Result<Wanted, Away> {
    let (mut user, mut database) = (None, None);
    let (mut wishes, mut claims, mut options) = (Vec::new(), Vec::new(), Vec::new());
    let (mut token, mut replicates) = (false, None);
    let mut settings = Vec::new();
    for (key, value) in pairs {
        match key.as_str() {
            "user" => user = Some(value),
            "database" => database = Some(value),
            "replication" => match replication::kind(&value) {
                Ok(kind) => replicates = kind,
                Err(()) => {
                    let words = "`replication` is `database`, `true` or `false`";
                    return Err(refused("replication", words));
                }
            },
            "options" => settings.extend(command_line(&value)?),
            _ if key.starts_with("_pq_.") => options.push(key),
            _ => settings.push((key, value)),
        }
    }
    for (key, value) in settings {
        if key == "bulla.credential" {
            token = value == "token";
        } else if key == "bulla.resource" && replicates == Some("true") {
            // Without a database to connect to, libpq's own tools name one that there is not.
            database = Some(value);
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
                let words =
                    format!("the setting `{key}` may not be chosen by a client of this gateway");
                return Err(refused("setting", &words));
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
    let mut needs = Vec::new();
    if let Some(kind) = replicates {
        let command = replication::opening().ok_or_else(|| broke("a wish without an action"))?;
        needs.push(command);
        wishes.push(("replication".into(), kind.into()));
        claims.push(("replication".into(), kind.into()));
    }
    let user = user.ok_or_else(|| broke("a startup message without `user`"))?;
    claims.push(("user".into(), user.as_str().into()));
    let database = database.filter(|d| !d.is_empty()).unwrap_or(user);
    let (resource, part) = match database.split_once('/') {
        Some((resource, part)) => (resource.to_string(), Some(part.to_string())),
        None => (database, None),
    };
    Ok(Wanted { wish: Wish { resource, part, wishes, claims, needs }, options, token })
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
        let Self { resource, part, wishes, claims, needs } = self;
        Hello { credential, resource, part, wishes, claims, needs }
    }
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

const ONLY: &str = "`options` may hold only `-c name=value` and `--name=value`";

/// `-c name=value` and `--name=value`, with the server's backslash escapes (`pg_split_opts`).
fn command_line(text: &str) -> Result<Vec<(String, String)>, Away> {
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
            words.next().ok_or_else(|| refused("options", "`options` ends after `-c`"))?
        } else if let Some(rest) = word.strip_prefix("-c").or_else(|| word.strip_prefix("--")) {
            rest.to_string()
        } else {
            return Err(refused("options", ONLY));
        };
        let Some((name, value)) = setting.split_once('=') else {
            return Err(refused("options", ONLY));
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
        let machine = Machine::new(self.shared, &opened);
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

    fn turned_away(code: u32, pairs: &[(&str, &str)], sqlstate: &str) {
        let mut input = startup(code, pairs);
        let answer = match greeter().input(&mut input, ON) {
            Ok(Step::Bye { answer, .. }) => answer,
            Err(violation) => violation.answer,
            other => panic!("{pairs:?}: {other:?}"),
        };
        let said = String::from_utf8_lossy(&answer).into_owned();
        assert!(said.contains("FATAL") && said.contains(sqlstate), "{pairs:?}: {said}");
    }

    #[test]
    fn hostile_startups_are_turned_away() {
        let user = ("user", "u");
        for pairs in [
            &[user, ("replication", "ON")][..],
            &[user, ("replication", "logical")],
            &[user, ("Replication", "database")],
            &[user, ("options", "-c replication=database")],
            &[user, ("client_encoding", "SJIS")],
            &[user, ("standard_conforming_strings", "off")],
            &[user, ("session_replication_role", "replica")],
            &[user, ("role", "postgres")],
            &[user, ("app.tenant", "5")],
            &[user, ("options", "-c standard_conforming_strings=off")],
            &[user, ("options", "-c statement_timeout=5s -c client_encoding=GBK")],
            &[user, ("options", "--role=postgres")],
            &[user, ("options", "--session-replication-role=replica")],
            &[user, ("options", "-crole=postgres")],
            &[user, ("options", "-c")],
            &[user, ("options", "-c role")],
            &[user, ("options", "-f /etc/passwd")],
            &[user, ("options", "orders")],
        ] {
            turned_away(3 << 16, pairs, "0A000");
        }
        turned_away(3 << 16, &[user, user], "08P01");
        turned_away(3 << 16, &[user, ("USER", "v")], "08P01");
        turned_away(3 << 16, &[("database", "orders")], "08P01");
        turned_away(2 << 16, &[user], "08P01");
        turned_away(4 << 16, &[user], "08P01");
        for raw in
            [&b"\0\0\0\x07\0\x03\0"[..], b"\xff\xff\xff\xff\0\x03\0\0", b"\0\0\x27\x11\0\x03\0\0"]
        {
            assert!(greeter().input(&mut BytesMut::from(raw), ON).is_err(), "{raw:?}");
        }
        for raw in [
            &b"\0\0\0\x0a\0\x03\0\0us"[..],
            b"\0\0\0\x0d\0\x03\0\0user\0",
            b"\0\0\0\x0c\0\x03\0\0\0\0\0\0",
            b"\0\0\0\x0d\0\x03\0\0\xc3\x28\0a\0",
        ] {
            assert!(greeter().input(&mut BytesMut::from(raw), ON).is_err(), "{raw:?}");
        }
    }

    #[test]
    fn harmless_settings_are_wishes() {
        let pairs = [
            ("user", "u"),
            ("replication", "false"),
            ("client_encoding", "'utf8'"),
            ("DateStyle", "ISO, MDY"),
            ("options", r"-c statement_timeout=5s --search-path=a\ b -cwork_mem=1MB"),
            ("options2", ""),
        ];
        let Away::Refused { why: "setting", .. } =
            wanted(pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
                .err()
                .unwrap()
        else {
            panic!("`options2` is no setting")
        };
        let pairs = pairs.iter().take(5).map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let Ok(wanted) = wanted(pairs) else { panic!("turned away") };
        let wishes: Vec<_> = wanted.wish.wishes.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            wishes,
            ["DateStyle=ISO, MDY", "statement_timeout=5s", "search_path=a b", "work_mem=1MB"]
        );
        assert_eq!((wanted.wish.resource.as_str(), wanted.wish.part), ("u", None));
    }

    #[test]
    fn replication_needs_a_permit_of_its_own() {
        for (value, expect) in [("database", "database"), ("true", "true"), ("1", "true")] {
            let pairs = [("user", "u"), ("replication", value)];
            let pairs = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            let Ok(Wanted { wish, .. }) = wanted(pairs) else { panic!("{value}: turned away") };
            let [command] = wish.needs.as_slice() else { panic!("{value}: no need") };
            assert_eq!(command.action.as_str(), "postgres:replicate");
            assert_eq!(wish.wishes, [("replication".to_string(), expect.to_string())]);
        }
        let named = |replication: &str| {
            let pairs = [
                ("user", "u"),
                ("database", "replication"),
                ("replication", replication),
                ("options", "-c bulla.resource=orders"),
            ];
            let pairs = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            wanted(pairs).ok().unwrap().wish.resource
        };
        assert_eq!((named("true"), named("false")), ("orders".into(), "replication".into()));
        let pairs = vec![("user".to_string(), "u".to_string())];
        assert!(wanted(pairs).is_ok_and(|wanted| wanted.wish.needs.is_empty()));
    }

    #[test]
    fn newer_protocols_and_options_are_negotiated() {
        for (code, pairs, expect) in [
            (3 << 16 | 2, &[("user", "u")][..], &b""[..]),
            (3 << 16 | 9999, &[("user", "u")], b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0"),
            (
                3 << 16,
                &[("user", "u"), ("_pq_.x", "1")],
                b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0",
            ),
        ] {
            let mut input = startup(code, pairs);
            let Ok(Step::Send(said)) = greeter().input(&mut input, ON) else { panic!("{code}") };
            let asks = b"R\0\0\0\x08\0\0\0\x03";
            assert_eq!(said, [expect, asks].concat(), "{code}");
        }
    }

    #[test]
    fn a_certificate_is_enough_unless_a_token_is_announced() {
        let on = Tls::On { certificate: true };
        let mut input = startup(3 << 16 | 7, &[("user", "u")]);
        let mut greeter = greeter();
        let Ok(Step::Ready(hello)) = greeter.input(&mut input, on) else { panic!("not ready") };
        assert!(matches!(hello.credential, Credential::Certificate));
        let (said, _) = Box::new(greeter).welcome(crate::transcript::opened(&[])).unwrap();
        assert!(said.starts_with(b"v\0\0\0\x0c"), "what was negotiated goes in front");
        let token = ("options", "-c bulla.credential=token -c bulla.why=TICKET-1");
        let mut input = startup(3 << 16, &[("user", "u"), token]);
        let mut greeter = self::greeter();
        assert!(matches!(greeter.input(&mut input, on), Ok(Step::Send(_))));
        let mut password = BytesMut::new();
        frame::put(&mut password, b'p', |out| frame::put_text(out, "token"));
        let Ok(Step::Ready(hello)) = greeter.input(&mut password, on) else { panic!("not ready") };
        assert!(matches!(hello.credential, Credential::Token(_)));
        assert!(hello.claims.contains(&("bulla.why".into(), "TICKET-1".into())));
    }

    #[test]
    fn where_a_credential_is_asked_for_nothing_else_is_taken() {
        for message in [
            &b"Q\0\0\0\x0dselect 1\0"[..],
            b"p\0\0\xff\xff",
            b"p\0\0\0\x06ab",
            b"p\0\0\0\x07a\0b",
            b"X\0\0\0\x04",
        ] {
            let mut greeter = greeter();
            let mut input = startup(3 << 16, &[("user", "u")]);
            assert!(matches!(greeter.input(&mut input, ON), Ok(Step::Send(_))));
            assert!(greeter.input(&mut BytesMut::from(message), ON).is_err(), "{message:?}");
        }
    }

    #[test]
    fn the_welcome_tells_what_a_client_may_know() {
        for (minor, key) in [(0, 8), (2, CANCEL_KEY_BYTES)] {
            let mut greeter = greeter();
            let mut input = startup(3 << 16 | minor, &[("user", "u")]);
            assert!(matches!(greeter.input(&mut input, ON), Ok(Step::Send(_))));
            let told = [("server_version", "18.1"), ("session_authorization", "secret_account")];
            let (said, wire) = Box::new(greeter).welcome(crate::transcript::opened(&told)).unwrap();
            assert!(wire.at_rest() && wire.takes_client());
            let text = String::from_utf8_lossy(&said).into_owned();
            assert!(text.contains("18.1") && !text.contains("secret_account"));
            let at = said.windows(5).position(|w| w[0] == b'K' && w[1..4] == [0, 0, 0]).unwrap();
            let head = frame::head(&said[at..]).unwrap().unwrap();
            assert_eq!((head.body, &said[at + 5..at + head.total()]), (key, &[7; 32][..key]));
            assert!(said.ends_with(b"Z\0\0\0\x05I"));
        }
    }

    #[test]
    fn rejections_say_the_same_words_for_the_same_thing() {
        for (why, expect) in [
            (Rejection::Credential, "28P01"),
            (Rejection::Resource("or\"ders\0".into()), "3D000"),
            (Rejection::Target("could not reach `orders`".into()), "08006"),
            (Rejection::Unavailable("the gateway is stopping".into()), "57P03"),
        ] {
            let said = greeter().reject(&why);
            let head = frame::head(&said).unwrap().unwrap();
            assert_eq!((head.kind, head.total()), (b'E', said.len()));
            let text = String::from_utf8_lossy(&said).into_owned();
            assert!(text.contains(expect) && text.contains("FATAL"), "{text}");
        }
    }

    #[test]
    fn a_cancel_carries_its_key() {
        for (length, ok) in
            [(0, false), (7, false), (8, true), (32, true), (260, true), (261, false)]
        {
            for tls in [Tls::Plain, ON] {
                let mut input = BytesMut::new();
                input.put_u32(8 + length as u32);
                input.put_u32(CANCEL_REQUEST);
                input.put_bytes(7, length);
                match greeter().input(&mut input, tls) {
                    Ok(Step::Cancel(key)) => assert!(ok && key == vec![7; length], "{length}"),
                    Err(violation) => assert!(!ok && violation.answer.is_empty(), "{length}"),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}
