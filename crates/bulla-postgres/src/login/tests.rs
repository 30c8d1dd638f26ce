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

fn row(tag: &str, value: &str) -> BytesMut {
    let mut body = BytesMut::from(&b"\0\x02\0\0\0\x01"[..]);
    body.extend_from_slice(tag.as_bytes());
    body.put_u32(value.len() as u32);
    body.extend_from_slice(value.as_bytes());
    message(b'D', &body)
}

/// What it answers to where names lead.
fn names(rows: &[(&str, &str)]) -> BytesMut {
    let mut out = message(b'T', b"");
    rows.iter().for_each(|(tag, value)| out.unsplit(row(tag, value)));
    out.unsplit(join(&[message(b'C', b"SELECT 2\0"), message(b'Z', b"I")]));
    out
}

const USUAL: [(&str, &str); 2] = [("p", crate::SEARCH_PATH), ("u", "u")];

/// Derives keys where that is asked for, in the same thread.
fn step(
    login: &mut Entering,
    input: &mut BytesMut,
    with: &LoginContext,
) -> Result<LoginStep, LoginError> {
    loop {
        match login.input(input, with) {
            Ok(LoginStep::Work(work)) => work.run(),
            other => return other,
        }
    }
}

/// The end of a login that was let in: it asks, and is answered.
fn ends(login: &mut Entering, input: &mut BytesMut, with: &LoginContext) -> Box<TargetHello> {
    assert_eq!(sent(step(login, input, with))[..], *ask::AT_LOGIN);
    let Ok(LoginStep::Done(hello)) = step(login, &mut names(&USUAL), with) else { panic!() };
    hello
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
    sent(login.input(&mut input, &PLAIN));
    let mut input = names(&[("p", "a"), ("u", "boss"), ("t", "x"), ("t", "y")]);
    input.extend_from_slice(b"rest");
    let Ok(LoginStep::Done(hello)) = login.input(&mut input, &PLAIN) else { panic!() };
    assert_eq!(&input[..], b"rest");
    assert_eq!(
        (hello.account.as_str(), &hello.cancel_key[..]),
        ("u", &[0, 0, 0, 1, 0, 0, 0, 2][..])
    );
    let find = |name| hello.parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    assert_eq!(find("server_version"), Some("15.18"));
    assert_eq!(find(ASKED_PATH), Some(crate::SEARCH_PATH));
    assert_eq!((find(PATH), find(USER)), (Some("a"), Some("boss")));
    assert_eq!(hello.parameters.iter().filter(|(n, _)| n == TEMPORARY).count(), 2);
    assert!(login.input(&mut input, &PLAIN).is_err());
}

#[test]
fn where_names_lead_is_what_the_target_answers() {
    let check = |reported: &[(&str, &str)], rows: &[(&str, &str)]| {
        let mut login = begun(spec(false));
        let mut input = auth(0, b"");
        for (name, value) in reported {
            input.unsplit(status(name, value));
        }
        input.unsplit(settings());
        sent(login.input(&mut input, &PLAIN));
        login.input(&mut names(rows), &PLAIN).map(|step| {
            let LoginStep::Done(hello) = step else { panic!("{step:?}") };
            let own = hello.parameters.into_iter().filter(|(n, _)| [PATH, USER].contains(&&**n));
            own.map(|(_, value)| value).collect::<Vec<_>>().join(" ")
        })
    };
    assert_eq!(check(&[], &[("p", "evil"), ("u", "boss")]), Ok("evil boss".into()));
    // What it reports under our own names is not ours.
    let lies = [("bulla.search_path", "evil"), ("bulla.user", "boss")];
    assert_eq!(check(&lies, &USUAL), Ok(format!("{} u", crate::SEARCH_PATH)));
    for rows in [&[][..], &[("p", "a")], &[("u", "a")], &[("p", "a"), ("u", "b"), ("z", "")]] {
        assert!(check(&[], rows).unwrap_err().to_string().contains("no whole answer"));
    }
    for (default, refused) in [
        ("standard_conforming_strings=off", true),
        ("Standard_Conforming_Strings=0", true),
        ("standard_conforming_strings=true", false),
        ("standard_conforming_strings=on", false),
        ("client_encoding=SJIS", true),
        ("client_encoding=sql_ascii", true),
        ("client_encoding=utf-8", false),
        ("client_encoding=UNICODE", false),
        ("search_path=evil", false),
        ("role=boss", false),
    ] {
        let end = check(&[], &[USUAL[0], USUAL[1], ("d", default)]);
        assert_eq!(end.is_err(), refused, "{default}: {end:?}");
    }
    for bad in [message(b'E', b"C42501\0Mno\0\0"), message(b'Z', b"T"), message(b'G', b"")] {
        let mut login = begun(spec(false));
        sent(login.input(&mut join(&[auth(0, b""), settings()]), &PLAIN));
        assert!(login.input(&mut bad.clone(), &PLAIN).is_err());
    }
}

#[test]
fn replication_is_asked_for_as_the_greeting_let_it_through() {
    let asked = |value: &str| {
        let bytes = started(&[("replication", value)]).unwrap();
        String::from_utf8_lossy(&bytes).contains(&format!("replication\0{value}\0"))
    };
    assert!(asked("database") && asked("true"));
    assert!(!asked("on") && !asked("1") && !asked("x"));
    let settings_of = |kind: &str| vec![("replication".to_string(), kind.to_string())];
    for (kind, asks) in [("database", true), ("true", false)] {
        let mut login = begun(LoginSpec { settings: settings_of(kind), ..spec(false) });
        let mut input = join(&[auth(0, b""), settings()]);
        match login.input(&mut input, &PLAIN) {
            Ok(LoginStep::Send(_)) => assert!(asks, "{kind}"),
            Ok(LoginStep::Done(_)) => assert!(!asks, "{kind}"),
            other => panic!("{other:?}"),
        }
    }
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
    ends(&mut login, &mut join(&[auth(0, b""), settings()]), &inside());
}

/// Computed apart from this code, with Python's `hashlib`.
#[test]
fn md5_answers() {
    let mut login = begun(spec(false));
    let answer = sent(login.input(&mut auth(5, &[1, 2, 3, 4]), &PLAIN));
    assert_eq!(&answer[5..], b"md50803a98a0618b75c8f9a50f280cad373\0");
    ends(&mut login, &mut join(&[auth(0, b""), settings()]), &PLAIN);
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
        let proof = sent(step(&mut login, &mut server.challenge(), &with));
        let mut input = server.finish(&proof, bound_to);
        input.unsplit(join(&[auth(0, b""), settings()]));
        ends(&mut login, &mut input, &with);
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
        sent(step(&mut login, &mut server.challenge(), &inside()));
        let bad = if bad.is_empty() { server.challenge() } else { bad.clone() };
        let error = login.input(&mut bad.clone(), &inside()).unwrap_err();
        assert!(matches!(error, LoginError::BadProof(_) | LoginError::Protocol(_)), "{error}");
    }
    // Nor does a target that was proven, or that took one proof, get another.
    for bad in &again {
        let mut login = begun(spec(true));
        let first = sent(login.input(&mut offer.clone(), &inside()));
        let server = Server::new(&first, "SCRAM-SHA-256", "n,,");
        let proof = sent(step(&mut login, &mut server.challenge(), &inside()));
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
                LoginStep::StartTls | LoginStep::Work(_) => panic!(),
            }
        }
        None
    };
    assert_eq!(feed(&auth(3, b"")), None);
    assert_eq!(feed(&join(&[auth(0, b""), settings()])), None);
    let hello = feed(&names(&USUAL)).unwrap();
    assert_eq!(sends, [&b"p\0\0\0\x07pw\0"[..], ask::AT_LOGIN]);
    let mut whole = begun(spec(true));
    assert_eq!(ends(&mut whole, &mut join(&[auth(0, b""), settings()]), &with), hello);
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
