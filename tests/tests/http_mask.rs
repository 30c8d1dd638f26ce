//! What of an API's answers may not be seen: masked in what the client gets and in the evidence, in
//! every form and coding, or withheld.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::Command;
use std::time::Duration;

use bulla_e2e::ca::Authority;
use bulla_e2e::expect::{has, has_not};
use bulla_e2e::http::{ApiSpec, Nginx, Recorder, World, curl, piped, python};
use bulla_e2e::place::Port;
use bulla_e2e::proc::{Proc, Signal, capture};

fn gzip(text: &[u8]) -> Vec<u8> {
    bulla_e2e::http::gzip(text).unwrap()
}

const SOON: Duration = Duration::from_secs(60);

const POLICY: &str = r#"
@id("everybody")
permit (principal, action, resource) unless { resource is Bulla::Class };
@id("audit-sees")
permit (principal in Bulla::Group::"team:audit", action == Bulla::Action::"reveal",
        resource in Bulla::Class::"pii");
"#;

const CLASSES: &str = r#"
[classes."pii.ssn"]
mask = "partial(0,4)"
[classes."pii.contact"]
mask = "null"
"#;

const MASKED: &str = r#"
[resources.api.classes.json]
"$..ssn" = "pii.ssn"
"/clear/** $" = "clear"
[resources.api.classes.content]
email = "pii.contact"
"#;

fn world(api: ApiSpec) -> World {
    World::start_with(POLICY, &[api], &format!("{MASKED}{CLASSES}")).unwrap()
}

fn audit(world: &World) -> String {
    let token = world.issuer.mint().unwrap().subject("audit/x").claim("team", "audit").token();
    format!("authorization: Bearer {}", token.unwrap())
}

const PERSON: &str = r#"{"name":"Ann","ssn":"536-90-4399","note":"ask ann@example.com"}"#;

/// As servers compress, not as this project decodes.
fn brotli(text: &[u8]) -> Vec<u8> {
    let node = xtask::places::which("node");
    assert!(node.is_some(), "no node; install it: apt-get install nodejs");
    let script = "const { brotliCompressSync: c, constants: k } = require('zlib');\
        process.stdout.write(c(require('fs').readFileSync(0), \
        { params: { [k.BROTLI_PARAM_QUALITY]: 5 } }));";
    piped(Command::new(node.unwrap()).args(["-e", script]), text).unwrap()
}

/// nginx with the same person in several forms.
fn nginx(authority: &Authority) -> Nginx {
    let body = "location /br/ { root ROOT; types { } default_type application/json; \
                add_header Content-Encoding br; }\n\
                location /packed/ { root ROOT; types { } default_type application/json; \
                add_header Content-Encoding gzip; }\n\
                location /bomb/ { root ROOT; types { } default_type application/json; \
                add_header Content-Encoding gzip; }\n\
                location /odd/ { root ROOT; types { } default_type application/json; \
                add_header Content-Encoding compress; }\n\
                location / { root ROOT; types { application/json json; text/csv csv; \
                image/png png; } gzip on; gzip_types *; gzip_min_length 1; \
                add_header X-Owner ann@example.com; }\n";
    let nginx = Nginx::with(authority, body).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = nginx.root().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    write("people/1.json", PERSON.as_bytes());
    write("clear/1.json", PERSON.as_bytes());
    write("people/1.csv", b"name,ssn\nAnn,536-90-4399\n");
    write("people/1.png", b"\x89PNG 536-90-4399");
    write("packed/1", &gzip(PERSON.as_bytes()));
    write("packed/cut", &gzip(PERSON.as_bytes())[..20]);
    write("odd/1", PERSON.as_bytes());
    // Texts that repeat, so that the dictionary and distances of real use are in it.
    let people = format!("[{}]", vec![PERSON; 200].join(","));
    write("br/people", &brotli(people.as_bytes()));
    write("br/cut", &brotli(people.as_bytes())[..40]);
    write("br/bomb", &brotli(&[b"[1", &b" ".repeat(64 << 20)[..], b"]"].concat()));
    write("bomb/1", &gzip(&[b"[1", &b" ".repeat(64 << 20)[..], b"]"].concat()));
    let many: Vec<String> = (0..40_000).map(|_| PERSON.to_owned()).collect();
    write("people/many.json", format!("[{}]", many.join(",")).as_bytes());
    nginx
}

#[test]
fn one_answer_is_two_by_who_asks_and_the_evidence_holds_what_each_got() {
    let authority = Authority::new("targets").unwrap();
    let nginx = nginx(&authority);
    let world = world(ApiSpec::new("api", nginx.port()).tls(&authority));
    let sees = audit(&world);
    for version in ["--http1.1", "--http2"] {
        let got = world.curl("/people/1.json", &[version, "--compressed"]).unwrap().out();
        has(&got, &["200", r#"{"name":"Ann","ssn":"***4399","note":"ask [email]"}"#]);
        has(&got.to_lowercase(), &["x-owner: [email]", "cache-control: no-store", "nosniff"]);
        has_not(&got.to_lowercase(), &["etag:", "content-encoding", "accept-ranges", "ann@"]);
        let own = world.bare_curl("/people/1.json", &[version, "-H", &sees]).unwrap().out();
        has(&own, &[PERSON, "ann@example.com"]);
        has(&own.to_lowercase(), &["etag:"]);
    }
    // What it holds is true of it: a client that counts gets all of it.
    let many = world.curl("/people/many.json", &["-o", "/dev/null", "-w", "%{size_download}"]);
    let masked = r#"{"name":"Ann","ssn":"***4399","note":"ask [email]"}"#;
    has(&many.unwrap().out(), &[&(40_000 * (masked.len() + 1) + 1 + 200).to_string()[..2]]);
    // Compressed at the target all the same, or compressed to kill.
    has(&world.curl("/packed/1", &[]).unwrap().out(), &["200", masked]);
    has_not(&world.curl("/packed/cut", &[]).unwrap().out(), &["536-90"]);
    let brotli = world.curl("/br/people", &[]).unwrap().out();
    assert_eq!(brotli.matches(masked).count(), 200, "{brotli}");
    has_not(&brotli, &["536-90", "content-encoding"]);
    has_not(&world.curl("/br/cut", &[]).unwrap().out(), &["536-90"]);
    let bomb = world.curl("/br/bomb", &["-o", "/dev/null", "-w", "%{size_download}"]).unwrap();
    let size: usize = bomb.out().trim().parse().unwrap();
    assert!(size < 32 << 20, "{size} bytes of a bomb of 64 MiB");
    has_not(&world.curl("/bomb/1", &["-o", "/dev/null"]).unwrap().out(), &["\n200 "]);
    let odd = world.curl("/odd/1", &[]).unwrap().out();
    has(&odd, &["403", "urn:bulla:unmaskable", "was carried out"]);
    // No part of it, and no word that it has not changed.
    let part = ["-H", "range: bytes=20-40"];
    let got = world.curl("/people/1.json", &part).unwrap().out();
    has(&got, &["200", masked]);
    let own = [&["-H", sees.as_str()][..], &part].concat();
    has(&world.bare_curl("/people/1.json", &own).unwrap().out(), &["206"]);
    let now = ["-H", "if-modified-since: Fri, 01 Jan 2100 00:00:00 GMT"];
    has(&world.curl("/people/1.json", &now).unwrap().out(), &["200", masked]);
    // In other forms the place says nothing.
    for path in ["/people/1.csv", "/people/1.png"] {
        let got = world.curl(path, &[]).unwrap().out();
        has(&got, &["403", "unmaskable", "its form is none that can be masked"]);
        has_not(&got, &["536-90"]);
    }
    has(&world.curl("/clear/1.json", &[]).unwrap().out(), &[PERSON, "ann@example.com"]);
    has(&world.curl("/people/1.json", &["-I"]).unwrap().out(), &["200"]);
    let metrics = world.gateway.http("/metrics").unwrap().1;
    has(&metrics, &["bulla_masked_cells_total{class=\"pii.ssn\"}"]);
    let listed = world.gateway.cli(&["sessions", "ls", "--json"]).unwrap().success().unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let (mut hidden, mut seen) = (String::new(), String::new());
    for session in listed.as_array().unwrap() {
        let id = session["session"].as_str().unwrap();
        let shown = world.gateway.cli(&["sessions", "replay", id]).unwrap().success().unwrap();
        let audit = session["principal"].as_str().unwrap().contains("audit");
        let clear = shown.contains("GET /clear/");
        if audit || clear { seen.push_str(&shown) } else { hidden.push_str(&shown) }
    }
    has(&hidden, &["***4399", "masked cells: 2 pii.contact, 1 pii.ssn", "cut:unmaskable"]);
    has(&seen, &["536-90-4399"]);
    has_not(&hidden, &["536-90-4399", "ann@example.com"]);
    world.verified().unwrap();
}

#[test]
fn explain_says_what_an_answer_would_get() {
    let target = Recorder::start().unwrap();
    let api = ApiSpec::new("api", target.port()).http("graphql = \"/graphql\"");
    let world = world(api);
    let explain = |group: &str, request: &str, json: bool| {
        let who = ["--principal", "bed|x", "--group", group, "--resource", "api"];
        let text = ["--statement", request];
        let args = [&["policy", "explain"][..], &who, &text, if json { &["--json"] } else { &[] }];
        world.gateway.cli(&args.concat()).unwrap()
    };
    let billing = explain("team:billing", "GET /people/1", false);
    assert_eq!(billing.code(), 0, "{}{}", billing.out(), billing.err());
    has(
        &billing.out(),
        &[
            "masked in the answer: pii.ssn at $..ssn",
            "masked in the answer: pii.contact where it looks like email",
        ],
    );
    let told: serde_json::Value =
        serde_json::from_str(&explain("team:billing", "GET /people/1", true).out()).unwrap();
    let what = ["pii.ssn at $..ssn", "pii.contact where it looks like email"];
    assert_eq!(told["answer_masked"], serde_json::json!(what));
    // Who may see it, and what has no class, get no mask; what cannot be masked is refused.
    for (group, request) in [("team:audit", "GET /people/1"), ("team:billing", "GET /clear/1")] {
        let said = explain(group, request, false);
        assert_eq!(said.code(), 0, "{}{}", said.out(), said.err());
        has_not(&said.out(), &["masked"]);
    }
    let alias = "POST /graphql\ncontent-type: application/json\n\n{\"query\":\"{ p { x: ssn } }\"}";
    let said = explain("team:billing", alias, false);
    assert_eq!(said.code(), 4, "{}{}", said.out(), said.err());
    has(&said.out(), &["refused because of masks: an alias would hide"]);
}

#[test]
fn h15_what_cannot_be_masked_is_not_even_asked_for() {
    let target = Recorder::start().unwrap();
    let api = ApiSpec::new("api", target.port()).http("graphql = \"/graphql\"");
    let world = world(api);
    let query = |text: &str| serde_json::json!({ "query": text }).to_string();
    let json = ["-H", "content-type: application/json", "-d"];
    for (body, allowed) in [
        (query("{ person { ssn } }"), true),
        (query("query($a: Int = 1) { person(id: $a) { ssn } }"), true),
        (query("{ person { x: ssn } }"), false),
        (query("{ p: person { name } }"), false),
        (query("fragment f on Person { x: ssn } { person { ...f } }"), false),
    ] {
        target.forget();
        let got = world.curl("/graphql", &[&json[..], &[&body]].concat()).unwrap().out();
        has(&got, &[if allowed { "200" } else { "403" }]);
        assert_eq!(target.got().contains("person"), allowed, "{body}");
    }
    target.forget();
    let grpc = ["-H", "content-type: application/grpc", "-H", "te: trailers", "-d", "x"];
    let got = world.curl("/a.B/C", &grpc).unwrap().out();
    has(&got, &["grpc-status: 7"]);
    has_not(&target.got(), &["a.B"]);
    // The target sends a part although nobody asked for one.
    target.answer(Some(
        b"HTTP/1.1 206 Partial Content\r\ncontent-type: application/json\r\n\
          content-range: bytes 0-2/9\r\ncontent-length: 3\r\n\r\n536",
    ));
    let got = world.curl("/x", &[]).unwrap().out();
    has(&got, &["403", "a part of an answer"]);
    has_not(&got, &["536"]);
    world.verified().unwrap();
}

const SERVER: &str = r#"
import os, json, threading
from websockets.sync.server import serve
person = json.dumps({"ssn": "536-90-4399", "note": "ann@example.com"})
def handler(ws):
    ws.send(person)
    for message in ws:
        if message == "text": ws.send("no document of 536-90-4399")
        elif message == "binary": ws.send(person.encode())
        else: ws.send(json.dumps({"echo": json.dumps({"ssn": message})}))
with serve(handler, "127.0.0.1", int(os.environ["PORT"])) as server:
    print("ready", flush=True)
    server.serve_forever()
"#;

const CLIENT: &str = r#"
import os, ssl
from websockets.sync.client import connect
from websockets.exceptions import ConnectionClosed
context = ssl.create_default_context(cafile=os.environ["ROOT"])
headers = {"authorization": "Bearer " + os.environ["TOKEN"]}
for word in ["text", "binary"]:
    with connect("wss://localhost:" + os.environ["PORT"] + "/ws", ssl=context, additional_headers=headers) as ws:
        print(ws.recv())
        ws.send("123-45-6789"); print(ws.recv())
        ws.send(word)
        try:
            print(ws.recv())
        except ConnectionClosed as e:
            print("closed", e.rcvd.code, e.rcvd.reason)
"#;

#[test]
fn messages_of_a_websocket_are_masked() {
    let port = Port::new().unwrap();
    let server = python(SERVER, &[("PORT", port.number().to_string())]).unwrap();
    let server = Proc::spawn_with("websocket", server, Signal::Kill, None).unwrap();
    server.wait_line("ready", SOON).unwrap();
    let world = world(ApiSpec::new("api", port.number()).http("websocket = [\"/ws\"]"));
    let env = [
        ("PORT", world.port.number().to_string()),
        ("ROOT", world.gateway.root_pem().display().to_string()),
        ("TOKEN", world.token().unwrap()),
    ];
    let seen = capture(python(CLIENT, &env).unwrap(), None, SOON).unwrap().success().unwrap();
    has(
        &seen,
        &[
            r#"{"ssn": "***4399", "note": "[email]"}"#,
            r#"{\"ssn\": \"***6789\"}"#,
            "closed 1008 a message cannot be masked",
        ],
    );
    assert_eq!(seen.matches("closed 1008").count(), 2, "{seen}");
    has_not(&seen, &["536-90"]);
    let replay = world.replayed().unwrap();
    has(&replay, &["***4399", "cut:unmaskable", "masked cells: "]);
    has_not(&replay, &["536-90", "ann@"]);
    world.verified().unwrap();
}

const EVENTS: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n\
    event: person\ndata: {\"ssn\":\"536-90-4399\"}\n\ndata: [DONE]\n\n";

#[test]
fn events_are_masked_and_a_secret_of_the_target_is_told_in_no_spelling() {
    let target = Recorder::start().unwrap();
    target.answer(Some(&[EVENTS, b""].concat()));
    let secret = "s3cr3t/of+the=target";
    let api = ApiSpec::new("api", target.port()).secret(secret).http("login = \"bearer\"");
    let world = world(api);
    // The body has no length, so the target's close is its end.
    let mut raw = world.raw(&[]).unwrap();
    let auth = format!("authorization: Bearer {}", world.token().unwrap());
    raw.send(format!("GET /events HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n\r\n")).unwrap();
    let got = raw.until("[DONE]").unwrap();
    has(&got, &["event: person\ndata: {\"ssn\":\"***4399\"}\n\n"]);
    has_not(&got, &["536-90"]);
    let sees = audit(&world);
    // Decoded, or what is compressed would hide it from the test too.
    let asked = ["-H", &sees, "--compressed", "-H", "accept-encoding: gzip, dcb, br"];
    for (coding, body) in [
        ("identity", secret.as_bytes().to_vec()),
        ("identity", secret.replace('/', "\\/").into_bytes()),
        ("identity", b"s3cr3t%2Fof%2Bthe%3Dtarget".to_vec()),
        ("identity", b"s3cr3t/of\\u002Bthe\\u003Dtarget".to_vec()),
        ("gzip", gzip(format!("[\"{secret}\"]").as_bytes())),
        ("gzip, gzip", gzip(&gzip(secret.as_bytes()))),
        ("dcb", secret.as_bytes().to_vec()),
    ] {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-encoding: {coding}\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        target.answer(Some(&[head.as_bytes(), &body].concat()));
        target.forget();
        let got = curl(&world.gateway.root_pem(), &world.url("/echo"), &asked).unwrap();
        let got = got.out();
        has_not(&got, &["s3cr3t"]);
        has(&target.got(), &["accept-encoding: gzip, br\r\n"]);
    }
    // What holds nothing of the kind goes on as it came.
    let body = gzip(b"nothing of the kind");
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-encoding: gzip\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    target.answer(Some(&[head.as_bytes(), &body].concat()));
    let plain = curl(&world.gateway.root_pem(), &world.url("/x"), &asked[..3]);
    has(&plain.unwrap().out(), &["content-encoding: gzip", "nothing of the kind"]);
    has_not(&world.replayed().unwrap(), &["s3cr3t", "536-90"]);
    world.verified().unwrap();
}

/// A short answer is refused as a whole, with a status of its own, whenever its parts come.
/// What a target says when it opens a WebSocket is an answer like every other.
#[test]
fn h14_a_handshake_tells_nothing_that_may_not_be_seen() {
    const ASKED: &str = "connection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    // RFC 6455 1.3.
    const OPEN: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
        upgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    let target = Recorder::start().unwrap();
    let api = ApiSpec::new("api", target.port()).secret("s3cr3t/of+the=target");
    let world = world(api.http("login = \"bearer\"\nwebsocket = [\"/ws\"]"));
    let own = format!("authorization: Bearer {}", world.token().unwrap());
    for (who, field, shown) in [
        (&own, "x-own: a", "x-own: a\r\n"),
        (&own, "x-owner: ann@example.com", "x-owner: [email]\r\n"),
        (&audit(&world), "x-owner: ann@example.com", "x-owner: ann@example.com\r\n"),
        (&own, "x-echo: Bearer s3cr3t/of+the=target", ""),
        (&own, "set-cookie: t=s3cr3t%2Fof%2Bthe%3Dtarget", ""),
    ] {
        target.answer(Some(format!("{OPEN}{field}\r\n\r\n").as_bytes()));
        let mut raw = world.raw(&[]).unwrap();
        raw.send(format!("GET /ws HTTP/1.1\r\nhost: localhost\r\n{who}\r\n{ASKED}\r\n")).unwrap();
        let got = raw.until("\r\n\r\n").unwrap();
        let status = if shown.is_empty() { "HTTP/1.1 502 " } else { "HTTP/1.1 101 " };
        assert!(got.starts_with(status) && got.contains(shown), "{field}: {got}");
        has_not(&got, &["s3cr3t"]);
        let accept = got.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n");
        assert_eq!(accept, !shown.is_empty(), "{field}: {got}");
    }
    let replay = world.replayed().unwrap();
    has(&replay, &["x-owner: [email]"]);
    has_not(&replay, &["s3cr3t"]);
    world.verified().unwrap();
}

#[test]
fn a_secret_in_a_short_answer_is_refused_before_its_head_went_on() {
    let target = Recorder::start().unwrap();
    let secret = "target-secret-1234";
    let api = ApiSpec::new("api", target.port()).secret(secret).http("login = \"bearer\"");
    let world = World::start(POLICY, &[api]).unwrap();
    target.slowly();
    let answer = |text: &str| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length:";
        let whole = format!("{head} {}\r\n\r\n{text}", text.len());
        target.answer(Some(whole.as_bytes()));
    };
    for client in ["--http1.1", "--http2"] {
        answer(&format!("it is {secret}, as you know"));
        let told = world.curl("/a", &[client]).unwrap().out();
        has(&told, &[" 502", "told its own secret"]);
        has_not(&told, &[secret, "it is"]);
        answer("it is target-secret-5678");
        let told = world.curl("/a", &[client]).unwrap().out();
        has(&told, &[" 200", "it is target-secret-5678"]);
    }
    world.verified().unwrap();
}
