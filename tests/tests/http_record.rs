//! What a client of HTTP/1.1 is given is what the record holds, byte for byte; requests that are sent
//! at once have their turns.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use bulla_e2e::expect::{has, has_not};
use bulla_e2e::http::{ApiSpec, Recorder, World, recorded};

fn newest(world: &World) -> String {
    let listed = world.gateway.cli(&["sessions", "ls", "--json"]).unwrap().success().unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    listed[0]["session"].as_str().unwrap().to_owned()
}

#[test]
fn a_client_gets_what_the_record_holds() {
    let (world, target) = recorded().unwrap();
    let token = world.token().unwrap();
    let ask = |path: &str, version: &str, more: &str| {
        format!(
            "GET {path} HTTP/{version}\r\nhost: localhost\r\n\
             authorization: Bearer {token}\r\n{more}\r\n"
        )
    };
    let long = format!("content-length: 100000\r\n\r\n{}", "x".repeat(100_000));
    let chunked = "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    for (what, answer, body) in [
        (
            "a length",
            "200 OK\r\nDate: Thu, 26 Nov 2026 12:00:01 GMT\r\ncontent-length: 2\r\n\r\nhi",
            "hi",
        ),
        ("no date", "404 Nothing\r\nX-Own: 1\r\ncontent-length: 2\r\n\r\nno", "no"),
        ("chunks", &format!("200 OK\r\nx-own: a  b\r\n{chunked}"), "abcde"),
        ("no body", "204 No Content\r\n\r\n", ""),
        ("much", &format!("200 OK\r\n{long}"), "xxxxxxxxxx"),
    ] {
        target.answer(Some(format!("HTTP/1.1 {answer}").as_bytes()));
        let mut raw = world.raw(&[]).unwrap();
        let all = ["/one", "/two"].map(|path| ask(path, "1.1", "")).concat();
        raw.send(all + &ask("/three", "1.1", "connection: close\r\n")).unwrap();
        let got = String::from_utf8(raw.rest()).unwrap();
        let id = newest(&world);
        let held = world.gateway.cli(&["sessions", "replay", &id, "--raw"]).unwrap();
        let held = held.success().unwrap();
        assert_eq!(held.matches("HTTP/1.1 ").count(), 3, "{what}: {held}");
        assert_eq!(held.matches("date: ").count(), 3, "{what}: {held}");
        has(&held, &[body]);
        // The last one says that the connection ends, which is not a word of the answer.
        let close = "connection: close\r\n";
        assert_eq!(got.matches(close).count(), 1, "{what}: {got}");
        assert!(got.find(close) > got.rfind("HTTP/1.1 "), "{what}: {got}");
        assert_eq!(got.replace(close, ""), held, "{what}");
        // Who speaks HTTP/1.0 knows no chunks.
        let mut raw = world.raw(&[]).unwrap();
        raw.send(ask("/four", "1.0", "connection: keep-alive\r\n")).unwrap();
        let got = String::from_utf8(raw.rest()).unwrap();
        has(&got, &[close]);
        has_not(&got, &["chunked"]);
        let (_, plain) = got.split_once("\r\n\r\n").unwrap();
        assert!(plain.starts_with(body) && plain.len() >= body.len(), "{what}: {got}");
        assert!(body != "abcde" || plain == body, "{what}: {got}");
    }
    let asked: Vec<_> = target.got().lines().map(str::to_owned).collect();
    let turns: Vec<_> = asked.iter().filter_map(|line| line.strip_prefix("GET /")).collect();
    let turn = ["one", "two", "three", "four"].map(|path| format!("{path} HTTP/1.1"));
    assert!(turns.chunks(4).all(|own| own == turn.each_ref().map(String::as_str)), "{turns:?}");
    assert_eq!(turns.len(), 20);
    world.verified().unwrap();
}

/// What the gateway itself says to `HEAD` is a head, and so is what the record holds of it.
#[test]
fn a_refused_head_is_on_record_as_it_was_told() {
    const POLICY: &str = r#"
@id("everything") permit (principal, action, resource);
@id("no-heads") forbid (principal, action == Bulla::Action::"http:head", resource);
"#;
    let target = Recorder::start().unwrap();
    let world = World::start(POLICY, &[ApiSpec::new("api", target.port())]).unwrap();
    let auth = format!("authorization: Bearer {}\r\n", world.token().unwrap());
    let head = format!("HEAD /a HTTP/1.1\r\nhost: localhost\r\n{auth}");
    let mut raw = world.raw(&[]).unwrap();
    raw.send(format!("{head}\r\n{head}connection: close\r\n\r\n")).unwrap();
    let got = String::from_utf8(raw.rest()).unwrap();
    let held = world.gateway.cli(&["sessions", "replay", &newest(&world), "--raw"]).unwrap();
    assert_eq!(got.matches("HTTP/1.1 403 Forbidden\r\n").count(), 2, "{got}");
    has_not(&got, &["detail", "content-length: 0"]);
    assert_eq!(got.replace("connection: close\r\n", ""), held.success().unwrap());
    let two = world.curl("/a", &["--http2", "--head"]).unwrap();
    assert_eq!(two.code(), 0, "{}", two.err());
    has(&two.out(), &["HTTP/2 403"]);
    world.verified().unwrap();
}

#[test]
fn who_leaves_before_the_answer_is_noted_and_its_next_request_is_not_sent() {
    let (world, target) = recorded().unwrap();
    target.slowly();
    let token = world.token().unwrap();
    let head = format!("host: localhost\r\nauthorization: Bearer {token}\r\n\r\n");
    let mut raw = world.raw(&[]).unwrap();
    raw.send(format!("GET /left HTTP/1.1\r\n{head}GET /never HTTP/1.1\r\n{head}")).unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while !target.got().contains("GET /left") {
        assert!(Instant::now() < until, "the first one is not sent");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(raw);
    loop {
        let id = newest(&world);
        let shown = world.gateway.cli(&["sessions", "show", &id]).unwrap().success().unwrap();
        if shown.contains("client_lost") {
            break;
        }
        assert!(Instant::now() < until, "{shown}");
        std::thread::sleep(Duration::from_millis(50));
    }
    has_not(&target.got(), &["/never"]);
    world.verified().unwrap();
}
