//! Two sides that lose step with each other: bodies that nobody read, answers that go on beyond
//! their end, and sides that neither take nor give.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bulla_e2e::ca::{Authority, Wish};
use bulla_e2e::expect::{has, has_not};
use bulla_e2e::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, SETTINGS, answering, fields, frame,
};
use bulla_e2e::http::{ApiSpec, EVERYTHING, Recorder, World};
use rustls::ServerConfig;

/// Longer than anything here may take; a loaded machine included.
const LONG: Duration = Duration::from_secs(25);

/// A target without TLS whose connections a test drives, each in a thread of its own.
fn scripted(each: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let each = each.clone();
            thread::spawn(move || each(stream));
        }
    });
    port
}

fn world(port: u16, http: &str) -> World {
    World::start(EVERYTHING, &[ApiSpec::new("api", port).http(http)]).unwrap()
}

fn bearer(world: &World) -> String {
    format!("authorization: Bearer {}\r\n", world.token().unwrap())
}

/// Who expects leave to send a body may send it all the same. If that request is refused, the body
/// is of no other request on its connection.
#[test]
fn h2_what_nobody_read_of_a_body_is_in_no_other() {
    const POLICY: &str = r#"
@id("everything") permit (principal, action, resource);
@id("no-deletes") forbid (principal, action == Bulla::Action::"http:delete", resource);
"#;
    let target = Recorder::start().unwrap();
    let world = World::start(POLICY, &[ApiSpec::new("api", target.port())]).unwrap();
    let auth = bearer(&world);
    let body = "evil ".repeat(20);
    let length = format!("content-length: 100\r\n\r\n{body}");
    let chunks = format!("transfer-encoding: chunked\r\n\r\n64\r\n{body}\r\n0\r\n\r\n");
    let unknown = "POST /.well-known/bulla/approvals/none";
    let mut wrong = Vec::new();
    for (status, line, who) in
        [(401, "POST /a", ""), (404, unknown, &auth), (403, "DELETE /a", &auth)]
    {
        for (framed, next, own) in [
            (&length, "POST /own", "content-length: 3\r\n\r\nown"),
            (&chunks, "POST /own", "content-length: 3\r\n\r\nown"),
            (&length, "POST /own", "transfer-encoding: chunked\r\n\r\n3\r\nown\r\n0\r\n\r\n"),
            (&length, "GET /own", "\r\n"),
        ] {
            target.forget();
            let mut raw = world.raw(&[]).unwrap();
            let head = format!("{line} HTTP/1.1\r\nhost: localhost\r\n{who}");
            raw.send(format!("{head}expect: 100-continue\r\n{framed}")).unwrap();
            has(&raw.until("}\n").unwrap(), &[&format!("HTTP/1.1 {status} ")]);
            let head = format!("{next} HTTP/1.1\r\nhost: localhost\r\n{auth}");
            raw.send(format!("{head}connection: close\r\n{own}")).unwrap();
            let got = String::from_utf8_lossy(&raw.rest()).into_owned();
            let read = target.got();
            // The end of what nobody read is known, so that the connection goes on.
            if !got.starts_with("HTTP/1.1 200 ") || read.contains("evil") {
                wrong.push(format!("{status}, {framed:.20}, {next}: {got}; {read}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    world.verified().unwrap();
}

/// What a stream holds beyond the end of an answer would be the next answer in HTTP/1.1.
#[test]
fn h15_nothing_behind_the_end_of_an_answer_is_another_one() {
    let evil = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let all: Vec<(&str, &str, Vec<u8>)> = [
        ("POST", "204", None, ""),
        ("GET", "304", None, ""),
        ("GET", "304", Some("42"), ""),
        ("POST", "205", Some("0"), ""),
        ("POST", "200", Some("1"), "x"),
        ("HEAD", "200", Some("42"), ""),
    ]
    .into_iter()
    .map(|(method, status, length, body)| {
        let length = length.map(|length| ("content-length", length));
        let head: Vec<_> = [(":status", status)].into_iter().chain(length).collect();
        let head = frame(HEADERS, END_HEADERS, 1, &fields(&head));
        let data = [body.as_bytes(), evil].map(|data| frame(DATA, 0, 1, data)).concat();
        (method, status, [head, data].concat())
    })
    .collect();
    let target = answering(all.iter().map(|row| row.2.clone()).collect()).unwrap();
    let world = world(target, "version = \"2\"");
    let auth = bearer(&world);
    let mut wrong = Vec::new();
    for (method, status, _) in &all {
        let asked = |method: &str| format!("{method} /a HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n");
        let mut raw = world.raw(&[]).unwrap();
        raw.send(asked(method) + &asked("GET")).unwrap();
        let got = String::from_utf8_lossy(&raw.rest()).into_owned();
        if got.contains("evil") {
            wrong.push(format!("{method} {status}: {got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    has_not(&world.replayed().unwrap(), &["evil"]);
    world.verified().unwrap();
}

/// What comes before an answer may not go on for ever, and no deadline is dodged by it.
#[test]
fn h16_answers_before_the_answer_have_an_end() {
    let (told, ended) = mpsc::channel();
    let target = scripted(move |mut stream| {
        let _ = stream.read(&mut [0; 16 << 10]);
        let flood = "HTTP/1.1 100 C\r\n\r\n".repeat(10_000);
        while stream.write_all(flood.as_bytes()).is_ok() {}
        let _ = told.send(());
    });
    let world = world(target, "first_byte = \"20s\"");
    for client in ["--http1.1", "--http2"] {
        let got = world.curl("/a", &[client]).unwrap().out();
        has(&got, &[" 502", "no HTTP of one meaning"]);
        ended.recv_timeout(LONG).expect("the target is hung up on");
    }
    world.verified().unwrap();
}

/// The target's time does not stand still because it takes nothing.
#[test]
fn h16_a_target_that_takes_nothing_is_late() {
    let target = scripted(|stream| {
        thread::sleep(LONG * 2);
        drop(stream);
    });
    // HTTP/1.1, and HTTP/2 without a window for more.
    let two = answering(vec![Vec::new(); 2]).unwrap();
    let own = [("one", target, "1.1"), ("two", two, "2")].map(|(name, port, version)| {
        let settings = format!("path = \"/{name}\"\nversion = \"{version}\"");
        ApiSpec::new(name, port).http(&settings).http("first_byte = \"1s\"")
    });
    let world = World::start(EVERYTHING, &own).unwrap();
    let body = world.dir.write("body", vec![b'x'; 48 << 20]).unwrap();
    let body = format!("@{}", body.display());
    let form = "content-type: application/octet-stream";
    for path in ["/one/a", "/two/a"] {
        for client in ["--http1.1", "--http2"] {
            let asked = Instant::now();
            let args = [client, "-X", "POST", "-H", form, "--data-binary", &body];
            let done = world.curl(path, &args).unwrap();
            // The answer may be missed by who still writes.
            assert!(asked.elapsed() < LONG, "{path}, {client}: {}{}", done.out(), done.err());
        }
    }
    // Whoever was cut off may look before the end of it is on disk.
    let (until, late) = (Instant::now() + LONG, "cut:first_byte");
    while world.replayed().unwrap().matches(late).count() != 4 {
        assert!(Instant::now() < until, "not all are late");
    }
    world.verified().unwrap();
}

/// A session that was ended gives nothing more, though its client takes nothing.
#[test]
fn a_kill_is_heard_by_who_does_not_listen() {
    let (told, ended) = mpsc::channel();
    let target = scripted(move |mut stream| {
        let _ = stream.read(&mut [0; 16 << 10]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n");
        while stream.write_all(&[b'x'; 64 << 10]).is_ok() {}
        let _ = told.send(());
    });
    let world = world(target, "");
    let auth = bearer(&world);
    let mut one = world.raw(&[]).unwrap();
    one.send(format!("GET /a HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n")).unwrap();
    one.until("\r\n\r\n").unwrap();
    let mut two = world.raw(&["h2"]).unwrap();
    let auth = format!("Bearer {}", world.token().unwrap());
    let head = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/a"),
        (":authority", "localhost"),
        ("authorization", &auth),
    ];
    let settings = [frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, 1, 0, &[])].concat();
    let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&head));
    let begin = &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..];
    two.send([begin, &settings, &head].concat()).unwrap();
    while !matches!(two.frame(LONG).unwrap(), (HEADERS, ..)) {}
    assert!(ended.recv_timeout(Duration::from_secs(3)).is_err(), "both are under way");
    let listed = world.gateway.cli(&["sessions", "ls", "--json"]).unwrap().success().unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    for session in listed.as_array().unwrap() {
        let id = session["session"].as_str().unwrap();
        world.gateway.cli(&["sessions", "kill", id]).unwrap().success().unwrap();
        ended.recv_timeout(LONG).expect("the target is hung up on");
        let until = Instant::now() + LONG;
        let shown = || world.gateway.cli(&["sessions", "show", id]).unwrap().success().unwrap();
        while !shown().contains("cut:killed") {
            assert!(Instant::now() < until, "{}", shown());
        }
    }
    drop((one, two));
    world.verified().unwrap();
}

/// A side of a WebSocket that takes nothing holds the other one no longer than it may say nothing.
#[test]
fn a_websocket_whose_client_takes_nothing_ends() {
    let (told, ended) = mpsc::channel();
    let target = scripted(move |mut stream| {
        let _ = stream.read(&mut [0; 16 << 10]);
        // RFC 6455 1.3, and frames of 32 KiB.
        let _ = stream.write_all(
            b"HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
              sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        );
        let message = [&[0x82, 126, 0x80, 0][..], &[b'x'; 32 << 10]].concat();
        while stream.write_all(&message).is_ok() {}
        let _ = told.send(());
    });
    let world = world(target, "websocket = [\"*\"]\nidle = \"2s\"");
    let mut raw = world.raw(&[]).unwrap();
    let asked = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                 sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let auth = bearer(&world);
    raw.send(format!("GET /ws HTTP/1.1\r\nhost: localhost\r\n{auth}{asked}\r\n")).unwrap();
    has(&raw.until("\r\n\r\n").unwrap(), &["HTTP/1.1 101 "]);
    ended.recv_timeout(LONG).expect("the target is hung up on");
    drop(raw);
    world.verified().unwrap();
}

/// What has no length ends with its connection, and TLS says whether that was its sender's end.
#[test]
fn h15_a_body_without_a_length_is_not_cut_unseen() {
    let authority = Authority::new("cut").unwrap();
    let leaf = authority.issue(&Wish::server().unwrap()).unwrap();
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![leaf.cert_der.clone()], leaf.key_der()).unwrap();
    let config = Arc::new(config);
    let target = scripted(move |tcp| {
        let own = rustls::ServerConnection::new(config.clone()).unwrap();
        let mut tls = rustls::StreamOwned::new(own, tcp);
        let mut asked = vec![0; 16 << 10];
        let length = tls.read(&mut asked).unwrap();
        tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nall of it").unwrap();
        if asked[..length].starts_with(b"GET /whole") {
            tls.conn.send_close_notify();
        }
        tls.flush().unwrap();
    });
    let api = ApiSpec::new("api", target).tls(&authority).http("version = \"1.1\"");
    let world = World::start(EVERYTHING, &[api]).unwrap();
    let auth = bearer(&world);
    for (path, whole) in [("/whole", true), ("/cut", false)] {
        let mut raw = world.raw(&[]).unwrap();
        let last = "connection: close\r\n";
        raw.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{auth}{last}\r\n")).unwrap();
        let got = String::from_utf8_lossy(&raw.rest()).into_owned();
        assert_eq!(got.ends_with("0\r\n\r\n") && got.contains(" 200 "), whole, "{path}: {got}");
    }
    let until = Instant::now() + LONG;
    while world.replayed().unwrap().matches("target_lost").count() != 1 {
        assert!(Instant::now() < until, "the one that was cut is lost");
    }
    world.verified().unwrap();
}
