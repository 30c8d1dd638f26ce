//! Targets that lie: answers with two meanings, too many of them, too early, or too large.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use bulla_e2e::ca::Authority;
use bulla_e2e::expect::{has, has_not};
use bulla_e2e::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, PUSH_PROMISE, RST_STREAM, SETTINGS, answering, field,
    fields, frame, status,
};
use bulla_e2e::http::{ApiSpec, Raw, Recorder, World};
use bulla_e2e::place::Port;

const EVERYTHING: &str = r#"
@id("everything")
permit (principal, action, resource);
"#;

/// What a client may get of a row.
#[derive(Clone, Copy, Debug)]
enum Gets {
    /// A 502, and nothing of the target's.
    Nothing,
    /// This status and body, whole.
    Whole(&'static str, &'static str),
    /// The beginning of a body, which breaks off.
    Broken,
}
use Gets::{Broken, Nothing, Whole};

impl Gets {
    /// Whether this is what curl printed and how it ended; `same`: a body against the whole one.
    fn fit(&self, out: &str, code: i32, same: impl Fn(&str, &str) -> bool) -> bool {
        let (head, body) = out.split_once("\r\n\r\n").unwrap_or((out, ""));
        let status = head.split(' ').nth(1).unwrap_or_default();
        match self {
            Nothing => status == "502" && code == 0,
            Whole(wants, whole) => status == *wants && same(body, whole) && code == 0,
            // It may break off before it has begun.
            Broken => status == "502" || code != 0,
        }
    }
}

/// What a target answers before it closes, and what comes of it. `evil` is what nobody may see.
const ANSWERS: &[(&str, Gets)] = &[
    // Two lengths.
    ("200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nevil", Nothing),
    (
        "200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        Nothing,
    ),
    ("200 OK\r\ncontent-length: 4\r\ncontent-length: 4\r\n\r\nevil", Nothing),
    ("200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nevil", Nothing),
    ("200 OK\r\ncontent-length: 4, 4\r\n\r\nevil", Nothing),
    ("200 OK\r\ncontent-length: +4\r\n\r\nevil", Nothing),
    ("200 OK\r\ncontent-length: -4\r\n\r\nevil", Nothing),
    ("200 OK\r\ncontent-length: 0x4\r\n\r\nevil", Nothing),
    ("200 OK\r\ncontent-length: 4 4\r\n\r\nevil", Nothing),
    ("200 OK\r\ncontent-length:\r\n\r\nevil", Nothing),
    ("200 OK\r\ncontent-length: 18446744073709551620\r\n\r\nevil", Nothing),
    ("200 OK\r\ncontent-length : 4\r\n\r\nevil", Nothing),
    ("200 OK\r\n content-length: 4\r\n\r\nevil", Nothing),
    ("200 OK\r\ntransfer-encoding: x\r\n\r\nevil", Nothing),
    ("200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n", Nothing),
    ("200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n", Nothing),
    (
        "200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        Nothing,
    ),
    ("200 OK\r\ntransfer-encoding: \u{b}chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n", Nothing),
    // Heads that are none.
    ("200 OK\ncontent-length: 4\n\nevil", Nothing),
    ("200 OK\r\ncontent-length: 4\r\n\nevil", Nothing),
    ("200 OK\r\nx: y\rcontent-length: 4\r\n\r\nevil", Nothing),
    ("200 OK\r\nx: y\nset-cookie: evil=1\r\ncontent-length: 4\r\n\r\nevil", Nothing),
    ("200 OK\r\nset-cookie: a=1\r\n evil=1\r\ncontent-length: 4\r\n\r\nevil", Nothing),
    ("200 OK\r\nx: \u{1}\r\ncontent-length: 4\r\n\r\nevil", Nothing),
    ("200 OK\r\nx y: z\r\ncontent-length: 4\r\n\r\nevil", Nothing),
    ("200 OK\r\n: z\r\ncontent-length: 4\r\n\r\nevil", Nothing),
    ("200 OK\r\nx\r\ncontent-length: 4\r\n\r\nevil", Nothing),
    ("20 OK\r\ncontent-length: 4\r\n\r\nevil", Nothing),
    ("2000 OK\r\ncontent-length: 4\r\n\r\nevil", Nothing),
    ("200OK\r\ncontent-length: 4\r\n\r\nevil", Nothing),
    ("099 OK\r\ncontent-length: 4\r\n\r\nevil", Nothing),
    ("600 OK\r\ncontent-length: 4\r\n\r\nevil", Nothing),
    ("abc OK\r\ncontent-length: 4\r\n\r\nevil", Nothing),
    ("+20 OK\r\ncontent-length: 4\r\n\r\nevil", Nothing),
    ("200 \u{1b}[2J\r\ncontent-length: 4\r\n\r\nevil", Nothing),
    ("\r\n", Nothing),
    // Changes of protocol, and answers before the answer.
    ("101 Switching Protocols\r\nupgrade: evil\r\nconnection: upgrade\r\n\r\nevil", Nothing),
    (
        "100 Continue\r\ncontent-length: 4\r\n\r\nevilHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        Nothing,
    ),
    ("100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\nevil", Nothing),
    (
        "103 Early Hints\r\nlink: </evil>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood",
        Whole("200", "good"),
    ),
    (
        "100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood",
        Whole("200", "good"),
    ),
    // Bodies where none can be.
    ("204 No Content\r\ncontent-length: 4\r\n\r\nevil", Nothing),
    ("204 No Content\r\ntransfer-encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n", Nothing),
    ("204 No Content\r\n\r\n", Whole("204", "")),
    ("304 Not Modified\r\ncontent-length: 4\r\n\r\n", Whole("304", "")),
    ("204 No Content\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", Whole("204", "")),
    // Bodies that are cut short, or are no chunks.
    ("200 OK\r\ncontent-length: 9\r\n\r\ngood", Broken),
    ("200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\n", Broken),
    ("200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n", Broken),
    ("200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\n0x4\r\nevil\r\n0\r\n\r\n", Broken),
    ("200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\n4;x\r\nevil\r\n0\r\n\r\n", Broken),
    ("200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\n4\nevil\r\n0\r\n\r\n", Broken),
    ("200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngoodXX4\r\nevil\r\n0\r\n\r\n", Broken),
    (
        "200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\nffffffffffffffff\r\nevil\r\n0\r\n\r\n",
        Broken,
    ),
    ("200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\n-4\r\nevil\r\n0\r\n\r\n", Broken),
    (
        "200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\ncontent-length: 4\r\n\r\nevil",
        Broken,
    ),
    // A second answer behind the first.
    (
        "200 OK\r\ncontent-length: 4\r\n\r\ngoodHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        Whole("200", "good"),
    ),
    ("200 OK\r\ncontent-length: 4\r\n\r\ngoodevil", Whole("200", "good")),
    (
        "200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\nevil",
        Whole("200", "good"),
    ),
    ("200 OK\r\ncontent-length: 0\r\n\r\nevil", Whole("200", "")),
    // One connection's, and ways around the gateway.
    (
        "200 OK\r\nconnection: x-evil\r\nx-evil: 1\r\ncontent-length: 4\r\n\r\ngood",
        Whole("200", "good"),
    ),
    (
        "200 OK\r\nconnection: close, X-Evil\r\nX-Evil: 1\r\ncontent-length: 4\r\n\r\ngood",
        Whole("200", "good"),
    ),
    (
        "200 OK\r\nalt-svc: h3=\"evil:443\"\r\nkeep-alive: evil\r\nproxy-connection: evil\r\nproxy-authenticate: evil\r\ncontent-length: 4\r\n\r\ngood",
        Whole("200", "good"),
    ),
    (
        "200 OK\r\nupgrade: evil\r\ntrailer: evil\r\nte: evil\r\nhttp2-settings: evil\r\ncontent-length: 4\r\n\r\ngood",
        Whole("200", "good"),
    ),
    ("200 OK\r\nconnection: content-length\r\ncontent-length: 4\r\n\r\nevil", Nothing),
    (
        "200 OK\r\nconnection: content-type\r\ncontent-type: x/evil\r\ncontent-length: 4\r\n\r\nevil",
        Nothing,
    ),
    (
        "200 OK\r\nconnection: set-cookie\r\nset-cookie: evil=1\r\ncontent-length: 4\r\n\r\nevil",
        Nothing,
    ),
    // Odd, and with one meaning.
    ("200\r\ncontent-length: 4\r\n\r\ngood", Whole("200", "good")),
    ("200 evil\r\ncontent-length: 4\r\n\r\ngood", Whole("200", "good")),
    ("200 OK\r\nx_y: z\r\ncontent-length: 4\r\n\r\ngood", Whole("200", "good")),
    ("200 OK\r\n\r\ngood", Whole("200", "good")),
    ("599 x\r\ncontent-length: 4\r\n\r\ngood", Whole("599", "good")),
    (
        "200 OK\r\ntransfer-encoding: Chunked\r\n\r\n4\r\ngood\r\n0\r\nx-evil: 1\r\n\r\n",
        Whole("200", "good"),
    ),
];

fn recorded(http: &str) -> (World, Recorder) {
    let target = Recorder::start().unwrap();
    let api = ApiSpec::new("api", target.port()).http(http);
    (World::start(EVERYTHING, &[api]).unwrap(), target)
}

#[test]
fn h15_no_answer_has_two_meanings() {
    let (world, target) = recorded("");
    target.closes(true);
    let latin = |text: &str| text.chars().map(|c| u8::try_from(c).unwrap()).collect::<Vec<u8>>();
    for version in ["HTTP/1.0", "HTTP/2", "HTTP/0.9", "http/1.1", "ICY", "HTTP/1.1 ", "HTTP/1.10"] {
        let answer = format!("{version} 200 OK\r\ncontent-length: 4\r\n\r\ngood");
        target.answer(Some(answer.as_bytes()));
        let got = world.curl("/a", &["--http1.1", "-X", "POST"]).unwrap().out();
        let good = version == "HTTP/1.0";
        assert_eq!(got.contains("HTTP/1.1 200 OK"), good, "{version}: {got}");
        assert_eq!(got.contains(" 502"), !good, "{version}: {got}");
    }
    for (text, gets) in ANSWERS {
        target.answer(Some(&latin(&format!("HTTP/1.1 {text}"))));
        for client in ["--http1.1", "--http2"] {
            let got = world.curl("/a", &[client, "-X", "POST", "-d", "x"]).unwrap();
            let (out, code) = (got.out(), got.code());
            let fits = gets.fit(&out, code, |body, whole| body == whole);
            assert!(fits && !out.contains("evil"), "{text:?}, {client}: {code} {out}");
        }
    }
    world.verified().unwrap();
}

#[test]
fn a_flood_of_answers_before_the_answer_ends() {
    let (world, target) = recorded("first_byte = \"3s\"");
    target.closes(true);
    let flood = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(20_000);
    target.answer(Some(flood.as_bytes()));
    let got = world.curl("/a", &["-X", "POST"]).unwrap().out();
    has(&got, &["HTTP/2 502"]);
    let long =
        format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 4\r\n\r\nevil", "x".repeat(70_000));
    target.answer(Some(long.as_bytes()));
    let got = world.curl("/a", &["-X", "POST"]).unwrap().out();
    has(&got, &["HTTP/2 502"]);
    has_not(&got, &["evil"]);
    let many =
        format!("HTTP/1.1 200 OK\r\n{}content-length: 4\r\n\r\nevil", "x: y\r\n".repeat(120));
    target.answer(Some(many.as_bytes()));
    has(&world.curl("/a", &["-X", "POST"]).unwrap().out(), &["HTTP/2 502"]);
    target.answer(None);
    has(&world.curl("/a", &[]).unwrap().out(), &["{\"ok\":true}"]);
    world.verified().unwrap();
}

#[test]
fn a_target_that_never_shakes_hands_is_late() {
    let (port, authority) = (Port::new().unwrap(), Authority::new("silent").unwrap());
    // It is connected to by the kernel, and says nothing.
    let _silent = TcpListener::bind(("127.0.0.1", port.number())).unwrap();
    let api = ApiSpec::new("api", port.number()).tls(&authority).http("first_byte = \"1s\"");
    let world = World::start(EVERYTHING, &[api]).unwrap();
    for client in ["--http1.1", "--http2"] {
        let got = world.curl("/a", &[client]).unwrap().out();
        has(&got, &[" 504", "did not answer in time"]);
    }
    has(&world.replayed().unwrap(), &["cut:first_byte"]);
    world.verified().unwrap();
}

const WS: &str = "GET /ws HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                  sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// What answers that key (RFC 6455 1.3).
const ACCEPT: &str = "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

#[test]
fn h3_a_handshake_that_is_a_lie_opens_nothing() {
    let (world, target) = recorded("websocket = [\"*\"]");
    let auth = format!("authorization: Bearer {}", world.token().unwrap());
    let open = "101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket";
    for (name, answer, opens) in [
        ("good", format!("{open}\r\n{ACCEPT}\r\n\r\n"), true),
        ("no accept", format!("{open}\r\n\r\n"), false),
        (
            "another accept",
            format!("{open}\r\nsec-websocket-accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n"),
            false,
        ),
        (
            "two",
            format!(
                "{open}\r\nsec-websocket-accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n{ACCEPT}\r\n\r\n"
            ),
            false,
        ),
        (
            "one, and another",
            format!("{open}\r\n{ACCEPT}\r\nsec-websocket-accept: x\r\n\r\n"),
            false,
        ),
        (
            "an extension",
            format!("{open}\r\n{ACCEPT}\r\nsec-websocket-extensions: permessage-deflate\r\n\r\n"),
            false,
        ),
        ("a length", format!("{open}\r\n{ACCEPT}\r\ncontent-length: 4\r\n\r\nevil"), false),
        (
            "chunks",
            format!(
                "{open}\r\n{ACCEPT}\r\ntransfer-encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n"
            ),
            false,
        ),
        ("a refusal", "403 Forbidden\r\ncontent-length: 0\r\n\r\n".to_owned(), false),
        ("no change", "200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(), false),
        (
            "another protocol",
            "101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n".to_owned(),
            false,
        ),
    ] {
        target.forget();
        target.answer(Some(format!("HTTP/1.1 {answer}").as_bytes()));
        let mut raw = world.raw(&[]).unwrap();
        // What follows is a message of WebSocket if it opens, and a request if it does not.
        let next = "GET /next HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nconnection: close\r\n\r\n";
        raw.send(WS.replace("AUTH", &auth)).unwrap();
        let got = raw.until("\r\n\r\n").unwrap();
        assert_eq!(got.contains(" 101 "), opens, "{name}: {got}");
        let _ = raw.send(next.replace("AUTH", &auth));
        raw.finish();
        let _ = raw.rest();
        has_not(&got, &["evil"]);
        assert!(!(opens && target.got().contains("/next")), "{name}: {}", target.got());
    }
    world.verified().unwrap();
}

const SOON: Duration = Duration::from_secs(20);

fn open(world: &World) -> Raw {
    let mut raw = world.raw(&["h2"]).unwrap();
    raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    raw.send(frame(SETTINGS, 0, 0, &[])).unwrap();
    raw.send(frame(SETTINGS, 1, 0, &[])).unwrap();
    raw
}

fn answered(raw: &mut Raw, on: u32) -> Option<u16> {
    loop {
        match raw.frame(SOON)? {
            (HEADERS, _, stream, block) if stream == on && status(&block) == Some(100) => {}
            (HEADERS, _, stream, block) if stream == on => return status(&block),
            (RST_STREAM, _, stream, _) if stream == on => return None,
            _ => {}
        }
    }
}

/// Some servers do not look for a body of these methods, and take it for the next request: there is
/// none on that connection.
#[test]
fn h1_a_body_that_is_seldom_looked_for_ends_its_connection() {
    let (world, target) = recorded("");
    for (method, data, ends) in [
        ("DELETE", true, true),
        ("OPTIONS", true, true),
        ("DELETE", false, false),
        ("POST", true, false),
        ("POST", false, false),
        ("PUT", false, false),
        ("PATCH", true, false),
    ] {
        target.forget();
        let mut args = vec!["-X", method];
        if data {
            args.extend(["-d", "GET /smuggled HTTP/1.1"]);
        }
        has(&world.curl("/a", &args).unwrap().out(), &["HTTP/2 200"]);
        let got = target.got();
        assert_eq!(got.contains("connection: close\r\n"), ends, "{method} {data}: {got}");
        // That there is no body is said where there could be one.
        let none = !data && method != "DELETE";
        assert_eq!(got.contains("content-length: 0\r\n"), none, "{method} {data}: {got}");
    }
    world.verified().unwrap();
}

/// A target that has every byte of a body with a length may answer. It gets the last ones when the
/// client has ended the request, so that nobody is cut off while saying so, and nothing comes behind.
#[test]
fn h4_a_body_is_whole_when_its_sender_says_so() {
    let (world, target) = recorded("");
    let auth = format!("Bearer {}", world.token().unwrap());
    let own =
        [(":method", "POST"), (":scheme", "https"), (":path", "/a"), (":authority", "localhost")];
    // Whoever expects leave is not collected first, however short its body is.
    let more =
        [("authorization", auth.as_str()), ("content-length", "7000"), ("expect", "100-continue")];
    let head = frame(HEADERS, END_HEADERS, 1, &fields(&[&own[..], &more].concat()));
    let get = [&[(":method", "GET")], &own[1..], &more[..1]].concat();
    let get = frame(HEADERS, END_HEADERS | END_STREAM, 3, &fields(&get));
    let body = |bytes: usize| frame(DATA, 0, 1, &vec![b'z'; bytes]);
    let send = |end: Vec<u8>| {
        target.forget();
        let mut raw = open(&world);
        raw.send([head.clone(), body(6_000)].concat()).unwrap();
        let until = Instant::now() + SOON;
        while target.got().matches('z').count() < 6_000 {
            assert!(Instant::now() < until, "the beginning goes on");
            thread::sleep(Duration::from_millis(5));
        }
        // Another request goes all the way while the end is awaited.
        raw.send([body(1_000), get.clone()].concat()).unwrap();
        assert_eq!(answered(&mut raw, 3), Some(200));
        raw.send(end).unwrap();
        let got = answered(&mut raw, 1);
        (got, target.got().matches('z').count())
    };
    assert_eq!(send(frame(DATA, END_STREAM, 1, b"")), (Some(200), 7_000));
    let (got, bytes) = send(frame(DATA, END_STREAM, 1, b"GET /smuggled HTTP/1.1"));
    assert!(got.is_none_or(|status| status >= 400), "{got:?}");
    assert!(bytes < 7_000, "the target had a whole request");
    has_not(&target.got(), &["smuggled"]);
    world.verified().unwrap();
}

/// A target that answers before it has the body keeps nobody else waiting.
#[test]
fn an_early_answer_holds_nobody_up() {
    let (world, target) = recorded("");
    target.answers_early();
    let auth = format!("Bearer {}", world.token().unwrap());
    let mut raw = open(&world);
    let ask = |method: &str, stream: u32, end: u8| {
        let own = [
            (":method", method),
            (":scheme", "https"),
            (":path", "/a"),
            (":authority", "localhost"),
        ];
        let block = fields(&[&own[..], &[("authorization", auth.as_str())]].concat());
        frame(HEADERS, END_HEADERS | end, stream, &block)
    };
    raw.send(ask("POST", 1, 0)).unwrap();
    raw.send(frame(DATA, 0, 1, b"the beginning")).unwrap();
    assert_eq!(answered(&mut raw, 1), Some(200), "it is answered early");
    for stream in [3, 5, 7] {
        raw.send(ask("GET", stream, END_STREAM)).unwrap();
        assert_eq!(answered(&mut raw, stream), Some(200), "another one waits for that body");
    }
    assert_eq!(target.got().matches("GET /a HTTP/1.1").count(), 3);
    raw.send(frame(DATA, END_STREAM, 1, b", and the end")).unwrap();
    raw.send(ask("GET", 9, END_STREAM)).unwrap();
    assert_eq!(answered(&mut raw, 9), Some(200));
    has_not(&target.got(), &["the beginningGET", "and the endGET"]);
    // The gateway would wait for it while it stops.
    drop(raw);
    world.verified().unwrap();
}

const SECRET: &str = "the-secret-of-the-target";

/// Answers in HTTP/2, by their frames on stream 1.
fn answers_in_frames() -> Vec<(&'static str, Vec<Vec<u8>>, Gets)> {
    let head = |end: u8, all: &[(&str, &str)]| frame(HEADERS, END_HEADERS | end, 1, &fields(all));
    let ok = |more: &[(&str, &str)]| head(0, &[&[(":status", "200")], more].concat());
    let data = |text: &str| frame(DATA, 0, 1, text.as_bytes());
    let last = |text: &str| frame(DATA, END_STREAM, 1, text.as_bytes());
    let trailers = |all: &[(&str, &str)]| head(END_STREAM, all);
    let good = || Whole("200", "good");
    vec![
        ("plain", vec![ok(&[]), last("good")], good()),
        ("a length", vec![ok(&[("content-length", "4")]), last("good")], good()),
        ("trailers", vec![ok(&[]), data("good"), trailers(&[("x-sum", "1")])], good()),
        (
            "trailers behind a length",
            vec![ok(&[("content-length", "4")]), data("good"), trailers(&[("x-evil", "1")])],
            good(),
        ),
        (
            "trailers that are of a head",
            vec![
                ok(&[]),
                data("good"),
                trailers(&[
                    ("set-cookie", "evil"),
                    ("content-type", "x/evil"),
                    ("location", "/evil"),
                ]),
            ],
            good(),
        ),
        (
            "a secret in trailers",
            vec![ok(&[]), data("good"), trailers(&[("grpc-message", SECRET)])],
            Broken,
        ),
        ("a secret in a head", vec![ok(&[("x-a", SECRET)]), last("evil")], Nothing),
        (
            "a secret in a body",
            vec![ok(&[]), data("evil the-secret-of"), last("-the-target")],
            Nothing,
        ),
        ("shorter than said", vec![ok(&[("content-length", "9")]), last("good")], Broken),
        ("longer than said", vec![ok(&[("content-length", "2")]), last("good")], Broken),
        (
            "two lengths",
            vec![ok(&[("content-length", "4"), ("content-length", "5")]), last("evil")],
            Nothing,
        ),
        ("an odd length", vec![ok(&[("content-length", "+4")]), last("evil")], Nothing),
        ("a change of protocol", vec![head(0, &[(":status", "101")]), last("evil")], Nothing),
        (
            "answers before the answer",
            vec![head(0, &[(":status", "103"), ("link", "evil")]), ok(&[]), last("good")],
            good(),
        ),
        ("only one before", vec![head(END_STREAM, &[(":status", "103")])], Nothing),
        ("no status", vec![head(0, &[("x-a", "b")]), last("evil")], Nothing),
        ("an odd status", vec![head(0, &[(":status", "99")]), last("evil")], Nothing),
        (
            "two statuses",
            vec![head(0, &[(":status", "200"), (":status", "201")]), last("evil")],
            Nothing,
        ),
        // The library takes it away.
        ("a path", vec![head(0, &[(":status", "200"), (":path", "/evil")]), last("good")], good()),
        ("capitals", vec![ok(&[("X-A", "evil")]), last("evil")], Nothing),
        ("CR LF", vec![ok(&[("x", "a\r\nset-cookie: evil")]), last("evil")], Nothing),
        ("chunks", vec![ok(&[("transfer-encoding", "chunked")]), last("evil")], Nothing),
        ("a connection", vec![ok(&[("connection", "close")]), last("evil")], Nothing),
        ("a body of 204", vec![head(0, &[(":status", "204")]), last("evil")], Nothing),
        ("no body of 204", vec![head(END_STREAM, &[(":status", "204")])], Whole("204", "")),
        (
            "a push",
            vec![
                frame(
                    PUSH_PROMISE,
                    END_HEADERS,
                    1,
                    &[&[0, 0, 0, 2][..], &field(":method", "GET")].concat(),
                ),
                ok(&[]),
                last("evil"),
            ],
            Nothing,
        ),
        ("a reset", vec![ok(&[]), data("good"), frame(RST_STREAM, 0, 1, &[0, 0, 0, 2])], Broken),
        ("a reset at once", vec![frame(RST_STREAM, 0, 1, &[0, 0, 0, 2])], Nothing),
        ("a frame that is none", vec![frame(DATA, 0, 0, b"evil")], Nothing),
    ]
}

#[test]
fn h15_no_stream_has_two_meanings() {
    let all = answers_in_frames();
    let clients = ["--http1.1", "--http2"];
    let each = all.iter().flat_map(|row| clients.iter().map(|_| row.1.concat()));
    let api = ApiSpec::new("api", answering(each.collect()).unwrap()).secret(SECRET);
    let api = api.http("login = \"bearer\"\nversion = \"2\"");
    let world = World::start(EVERYTHING, &[api]).unwrap();
    let mut wrong = Vec::new();
    for (name, _, gets) in &all {
        for client in clients {
            let got = world.curl("/a", &[client, "-X", "POST", "-d", "x"]).unwrap();
            let (out, code) = (got.out(), got.code());
            // Behind the body curl prints the trailers.
            let fits = gets.fit(&out, code, |body, whole| body.starts_with(whole));
            if !fits || out.contains("evil") || out.contains(SECRET) {
                wrong.push(format!("{name}, {client}: {code} {out}"));
            }
            if *name == "trailers" && client == "--http2" {
                has(&out, &["x-sum: 1"]);
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {}", wrong.len(), all.len(), wrong.join("\n"));
    let replay = world.replayed().unwrap();
    has(&replay, &["good", "x-sum: 1"]);
    has_not(&replay, &["evil", SECRET]);
    world.verified().unwrap();
}
