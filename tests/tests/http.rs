//! HTTP through the real gateway: real clients, real targets, and a corpus of requests that two
//! servers could read differently.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::Command;
use std::time::{Duration, Instant};

use bulla_e2e::ca::Authority;
use bulla_e2e::expect::{has, has_not};
use bulla_e2e::http::{ApiSpec, Nginx, Recorder, World};
use bulla_e2e::proc::capture;

const EVERYTHING: &str = r#"
@id("everything")
permit (principal, action, resource);
"#;

/// Reads of everything below `/api/`, writes of nothing.
const READS: &str = r#"
@id("connect")
permit (principal, action == Bulla::Action::"connect", resource);
@id("reads")
permit (principal in Bulla::Group::"team:billing", action in Bulla::Action::"http:read",
        resource in Bulla::Resource::"api") when { context.path like "/api/*" };
@id("no-secrets")
forbid (principal, action, resource) when { context has path && context.path like "/api/secret*" };
"#;

/// A gateway before one target that keeps every byte.
fn recorded(policy: &str, http: &str) -> (World, Recorder) {
    let target = Recorder::start().unwrap();
    let api = ApiSpec::new("api", target.port()).http(http);
    (World::start(policy, &[api]).unwrap(), target)
}

#[test]
fn both_versions_on_both_sides_with_the_targets_own_credential() {
    let authority = Authority::new("nginx").unwrap();
    let nginx = Nginx::start(&authority).unwrap();
    for version in ["1.1", "2"] {
        let api = ApiSpec::new("api", nginx.port())
            .tls(&authority)
            .secret("target-secret-1234")
            .http(&format!("login = \"bearer\"\nversion = \"{version}\""));
        let world = World::start(EVERYTHING, &[api]).unwrap();
        let spoken = if version == "2" { "HTTP/2.0" } else { "HTTP/1.1" };
        for client in ["--http1.1", "--http2"] {
            let args = [client, "-H", "x-forwarded-for: 6.6.6.6"];
            let answer = world.curl("/api/orders?x=1", &args).unwrap();
            let own = if client == "--http2" { "HTTP/2 200" } else { "HTTP/1.1 200" };
            let proto = format!("\"proto\":\"{spoken}\"");
            has(&answer.out(), &[own, "/api/orders?x=1", &proto, "application/json"]);
        }
        nginx.wait_logged(&format!("{spoken} 200 Bearer target-secret-1234")).unwrap();
        // A target that tells its own secret is not listened to.
        let echo = world.curl("/echo", &[]).unwrap().out();
        has(&echo, &[" 502"]);
        has_not(&echo, &["target-secret"]);
        let token = world.token().unwrap();
        let replay = world.replayed().unwrap();
        has(&replay, &["GET /api/orders?x=1", "HTTP/1.1 200 OK"]);
        let start = token.get(..40).unwrap();
        has_not(&replay, &[start, "6.6.6.6", "target-secret"]);
        world.verified().unwrap();
    }
}

#[test]
fn who_is_not_known_is_told_where_to_get_a_token() {
    let (world, target) = recorded(EVERYTHING, "");
    let none = world.bare_curl("/api", &[]).unwrap().out();
    has(
        &none,
        &[
            "401",
            "www-authenticate: Bearer resource_metadata=\"https://localhost/.well-known/oauth-protected-resource\"",
            "application/problem+json",
            "urn:bulla:unauthenticated",
        ],
    );
    let bad = world.bare_curl("/api", &["-H", "authorization: Bearer a.b.c"]).unwrap().out();
    has(&bad, &["401", "error=\"invalid_token\""]);
    let old = world.issuer.mint().unwrap().issued(-1200).expires(-600).token().unwrap();
    let old =
        world.bare_curl("/api", &["-H", &format!("authorization: Bearer {old}")]).unwrap().out();
    let without = |text: &str| {
        text.lines().filter(|line| !line.starts_with("date:")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(without(&bad), without(&old), "unknown and expired look the same");
    let metadata = world.bare_curl("/.well-known/oauth-protected-resource", &[]).unwrap().out();
    has(&metadata, &["200", "authorization_servers", world.issuer.url()]);
    assert_eq!(target.got(), "", "nothing reached the target");
    let good = world.curl("/api", &[]).unwrap().out();
    has(&good, &[" 200", "{\"ok\":true}"]);
    has_not(&target.got().to_lowercase(), &["authorization"]);
    world.verified().unwrap();
}

#[test]
fn a_refusal_says_what_which_rule_what_next_and_is_on_record() {
    let (world, target) = recorded(READS, "");
    has(&world.curl("/api/a", &[]).unwrap().out(), &[" 200"]);
    target.forget();
    let denied = world.curl("/api/a", &["-X", "DELETE"]).unwrap().out();
    has(
        &denied,
        &[
            "403",
            "application/problem+json",
            "urn:bulla:denied",
            "\"event\":\"",
            "no policy permits it",
            "\"next\":",
        ],
    );
    let forbidden = world.curl("/api/secret", &[]).unwrap().out();
    has(&forbidden, &["403", "no-secrets", "is forbidden"]);
    let outside = world.curl("/other", &["--http2"]).unwrap().out();
    has(&outside, &["403", "no policy permits it"]);
    // Whoever sends a body along hears the answer all the same, on either version, however it is
    // framed and whatever the refusal is for.
    let body = world.dir.write("body", vec![b'x'; 200_000]).unwrap().display().to_string();
    let data = format!("@{body}");
    for version in ["--http1.1", "--http2"] {
        for _ in 0..15 {
            let args = [version, "--data-binary", &data, "-H", "expect:", "-H", "x-a: b"];
            has(&world.curl("/api/a", &args).unwrap().out(), &[" 403"]);
            has(&world.bare_curl("/api/a", &args).unwrap().out(), &[" 401"]);
            let twice = [&args[..], &["-H", "content-type: b", "-H", "content-type: c"]].concat();
            has(&world.curl("/api/a", &twice).unwrap().out(), &[" 400"]);
        }
    }
    assert_eq!(target.got(), "", "what is refused sends nothing");
    // The event leads to the entry.
    let event = denied.split("\"event\":\"").nth(1).unwrap().split('"').next().unwrap();
    let session = event.split('-').next().unwrap();
    let shown = world.gateway.cli(&["sessions", "show", session]).unwrap().out();
    has(&shown, &["DELETE /api/a", "refused", "principal   bed|billing/api"]);
    world.verified().unwrap();
}

#[test]
fn an_absent_and_a_forbidden_resource_look_the_same() {
    let target = Recorder::start().unwrap();
    let apis = [
        ApiSpec::new("api", target.port()).http("hosts = [\"localhost\"]\npath = \"/api\""),
        ApiSpec::new("other", target.port()).http("hosts = [\"localhost\"]\npath = \"/other\""),
    ];
    let world = World::start(READS, &apis).unwrap();
    has(&world.curl("/api/a", &[]).unwrap().out(), &[" 200"]);
    target.forget();
    let only_api = READS.replace(
        "resource);\n@id(\"reads\")",
        "resource == Bulla::Resource::\"api\");\n@id(\"reads\")",
    );
    let world = World::start(&only_api, &apis).unwrap();
    let absent = world.curl("/nowhere", &[]).unwrap().out();
    let forbidden = world.curl("/other/a", &[]).unwrap().out();
    let without = |text: &str| {
        text.lines().filter(|line| !line.starts_with("date:")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(without(&absent), without(&forbidden));
    has(&absent, &["404"]);
    assert_eq!(target.got(), "");
}

/// Requests whose end or meaning two servers could see differently. `AUTH` stands for a good
/// credential, so that nothing but the form can be the reason of a refusal.
const ATTACKS: &[(&str, &str)] = &[
    (
        "CL.TE",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ncontent-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nG",
    ),
    (
        "TE.CL",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n2e\r\nGET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n\r\n0\r\n\r\n",
    ),
    (
        "TE.TE x",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: chunked\r\ntransfer-encoding: x\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ),
    (
        "TE xchunked",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ),
    (
        "TE space before colon",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ),
    (
        "TE vertical tab",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ),
    (
        "TE folded",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nx: y\r\n transfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ),
    (
        "TE underscore",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer_encoding: chunked\r\ncontent-length: 0\r\n\r\n",
    ),
    (
        "TE list",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: identity, chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ),
    (
        "HTTP/1.0 with TE",
        "POST /a HTTP/1.0\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "two CL",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ncontent-length: 0\r\ncontent-length: 44\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ),
    (
        "CL list",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ncontent-length: 0, 44\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ),
    (
        "CL plus",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ncontent-length: +0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ),
    (
        "CL hex",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ncontent-length: 0x0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "CL NUL",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ncontent-length: 0\x00\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "0.CL with Expect",
        "GET /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nexpect: y 100-continue\r\ncontent-length: 44\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ),
    (
        "chunk wrap",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff0\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "chunk 0x",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: chunked\r\n\r\n0x0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "chunk extension with LF",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: chunked\r\n\r\n0;a\nb\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "chunk ends in LF",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: chunked\r\n\r\n1\nZ\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "chunk spills",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: chunked\r\n\r\n1\r\nZZZ0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "trailer with CL",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: chunked\r\n\r\n0\r\ncontent-length: 44\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "bare LF head",
        "GET /a HTTP/1.1\nhost: localhost\nAUTH\n\nGET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ),
    (
        "bare CR in value",
        "GET /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nx: y\rGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    ("obs-fold", "GET /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nx: y\r\n\tz\r\n\r\n"),
    ("name with blank", "GET /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nx y: z\r\n\r\n"),
    ("two hosts", "GET /a HTTP/1.1\r\nhost: localhost\r\nhost: other\r\nAUTH\r\n\r\n"),
    ("no host", "GET /a HTTP/1.1\r\nAUTH\r\n\r\n"),
    ("absolute form", "GET http://other/smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    (
        "absolute form, own host",
        "GET https://localhost/smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n",
    ),
    ("another host than TLS", "GET /smuggled HTTP/1.1\r\nhost: other\r\nAUTH\r\n\r\n"),
    ("dot segments", "GET /a/../smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("escaped dot segments", "GET /a/%2e%2e/smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("escaped slash", "GET /a%2fsmuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("escaped backslash", "GET /a%5csmuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("escaped twice", "GET /a/%252e%252e/smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("path parameter", "GET /a;x=1/smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("empty segment", "GET //smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("NUL in path", "GET /a%00smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("CR LF in path", "GET /a%0d%0asmuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    (
        "method override",
        "GET /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nx-http-method-override: DELETE\r\n\r\n",
    ),
    (
        "method override in query",
        "POST /smuggled?_method=DELETE HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ncontent-length: 0\r\n\r\n",
    ),
    (
        "method override in form",
        "POST /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nconnection: close\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: 14\r\n\r\n_method=DELETE",
    ),
    (
        "method override in a form of parts",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nconnection: close\r\ncontent-type: multipart/form-data; boundary=b\r\ncontent-length: 72\r\n\r\n--b\r\nContent-Disposition: form-data; name=\"_method\"\r\n\r\nsmuggled\r\n--b--\r\n",
    ),
    (
        "method override in a form of parts that streams",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nconnection: close\r\ncontent-type: multipart/form-data; boundary=b\r\ntransfer-encoding: chunked\r\n\r\n48\r\n--b\r\nContent-Disposition: form-data; name=\"_method\"\r\n\r\nsmuggled\r\n--b--\r\n\r\n0\r\n\r\n",
    ),
    (
        "address override",
        "GET /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nx-original-url: /admin\r\n\r\n",
    ),
    (
        "connection takes away",
        "GET /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nconnection: close, x-own\r\nx-own: 1\r\n\r\n",
    ),
    (
        "h2c upgrade",
        "GET /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n",
    ),
    (
        "websocket where none is",
        "GET /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    ),
    ("CONNECT", "CONNECT smuggled:443 HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("TRACE", "TRACE /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    (
        "GET with a body",
        "GET /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ncontent-length: 44\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ),
    (
        "GET with chunks",
        "GET /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: chunked\r\n\r\n8\r\nsmuggled\r\n0\r\n\r\n",
    ),
    (
        "TE form feed",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: \x0cchunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "CL form feed",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ncontent-length: \x0c44\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "TE quoted",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: \"chunked\"\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "TE with a parameter",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: chunked;q=1\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "TE empty beside CL",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding:\r\ncontent-length: 44\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "CL minus",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ncontent-length: -1\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "CL beyond 64 bits",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ncontent-length: 18446744073709551660\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "CL empty",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ncontent-length:\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "CL within connection",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nconnection: content-length\r\ncontent-length: 44\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ),
    (
        "chunk size with a blank",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: chunked\r\n\r\n2 \r\nhi\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "chunk size with an extension",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: chunked\r\n\r\n2;x=\"\r\nhi\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "chunk size negative",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: chunked\r\n\r\n-2\r\nhi\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "chunk size with a bar",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: chunked\r\n\r\n0_2\r\nhi\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "chunk ends in CR alone",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\rX0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "trailer that folds",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: y\r\n GET /smuggled HTTP/1.1\r\n\r\n",
    ),
    (
        "trailer with TE",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: chunked\r\n\r\n0\r\ntransfer-encoding: x\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    ),
    ("empty line in front", "\r\nGET /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("blank in front", " GET /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("two blanks", "GET  /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("tab as a blank", "GET\t/smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("blank behind", "GET /smuggled HTTP/1.1 \r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("HTTP/1.2", "GET /smuggled HTTP/1.2\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("HTTP/2 in a line", "GET /smuggled HTTP/2.0\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("no name", "GET /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n: x\r\n\r\n"),
    ("no colon", "GET /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nxy\r\n\r\n"),
    ("name with NUL", "GET /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nx\x00y: z\r\n\r\n"),
    ("value with NUL", "GET /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nx: \x00\r\n\r\n"),
    ("host with a path", "GET /smuggled HTTP/1.1\r\nhost: localhost/x\r\nAUTH\r\n\r\n"),
    ("host with a user", "GET /smuggled HTTP/1.1\r\nhost: x@localhost\r\nAUTH\r\n\r\n"),
    ("host list", "GET /smuggled HTTP/1.1\r\nhost: localhost, other\r\nAUTH\r\n\r\n"),
    ("empty host", "GET /smuggled HTTP/1.1\r\nhost:\r\nAUTH\r\n\r\n"),
    ("fragment", "GET /a#/smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("backslash", "GET /a\\smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("overlong slash", "GET /a%c0%afsmuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("wide slash", "GET /a%ef%bc%8fsmuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("wide dots", "GET /a/%ef%bc%8e%ef%bc%8e/smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("dots with a blank", "GET /a/..%20/smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("asterisk", "OPTIONS * HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nx: smuggled\r\n\r\n"),
    (
        "method override, as PHP reads it",
        "POST /smuggled?.method=DELETE HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ncontent-length: 0\r\n\r\n",
    ),
    (
        "method override in a list",
        "POST /smuggled?%5fmethod%5b%5d=DELETE HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ncontent-length: 0\r\n\r\n",
    ),
    (
        "upgrade with a body",
        "GET /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 2\r\n\r\nhi",
    ),
    (
        "two upgrades",
        "GET /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nconnection: upgrade\r\nupgrade: websocket, h2c\r\n\r\n",
    ),
    ("HTTP/0.9", "GET /smuggled\r\n\r\n"),
    ("lower case method", "get /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("the stand-in", "BULLA-FAULT /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("credential twice", "GET /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nAUTH\r\n\r\n"),
    ("token in query", "GET /smuggled?access_token=x HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("long head", "GET /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nx: LONG\r\n\r\n"),
];

/// The same in their plain form, which must pass.
const BENIGN: &[(&str, &str)] = &[
    ("GET", "GET /a?x=1 HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("HTTP/1.0", "GET /a HTTP/1.0\r\nhost: localhost\r\nAUTH\r\n\r\n"),
    ("host with port and case", "GET /a HTTP/1.1\r\nHOST: LocalHost:8443\r\nAUTH\r\n\r\n"),
    ("length", "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ncontent-length: 2\r\n\r\nhi"),
    (
        "chunks",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    ),
    (
        "chunks with trailer",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx: y\r\n\r\n",
    ),
    (
        "form",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: 3\r\n\r\na=1",
    ),
    (
        "expect",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nhi",
    ),
    ("escapes", "GET /a%20b/%e4%b8%ad HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n"),
];

#[test]
fn no_request_smuggles_another() {
    let (world, target) = recorded(EVERYTHING, "");
    let auth = format!("authorization: Bearer {}", world.token().unwrap());
    let fill = |text: &str| text.replace("AUTH", &auth).replace("LONG", &"x".repeat(80_000));
    for (name, request) in BENIGN {
        target.forget();
        let mut raw = world.raw(&[]).unwrap();
        raw.send(fill(request)).unwrap();
        let answer = raw.until("{\"ok\":true}").unwrap_or_else(|e| panic!("{name}: {e:#}"));
        assert!(answer.contains(" 200 "), "{name}: {answer}");
        assert!(target.got().contains("/a"), "{name}: {}", target.got());
    }
    for (name, request) in ATTACKS {
        target.forget();
        let mut raw = world.raw(&[]).unwrap();
        // The gateway may close before all of it is written.
        let _ = raw.send(fill(request));
        let answer = String::from_utf8_lossy(&raw.rest()).into_owned();
        let code = answer.split(' ').nth(1).unwrap_or_default().to_owned();
        let refused = code.starts_with('4') || code.starts_with('5');
        assert!(refused, "{name}: {answer}");
        let heads = answer.lines().filter(|line| line.starts_with("HTTP/1.")).count();
        assert_eq!(heads, 1, "{name}: one answer: {answer}");
        let got = target.got();
        let alone =
            got.is_empty() || (got.matches("HTTP/1.1").count() == 1 && got.starts_with("POST /a "));
        assert!(alone && !got.contains("smuggled"), "{name} reached the target: {got}");
    }
    // Behind a good request a bad one is still bad, and the good one is answered.
    target.forget();
    let mut raw = world.raw(&[]).unwrap();
    let good = "GET /good HTTP/1.1\r\nhost: localhost\r\nAUTH\r\n\r\n";
    raw.send(fill(&format!("{good}GET /smuggled HTTP/1.1\nhost: localhost\r\n\r\n{good}")))
        .unwrap();
    let answer = String::from_utf8_lossy(&raw.rest()).into_owned();
    has(&answer, &["HTTP/1.1 200 OK", "HTTP/1.1 400 Bad Request"]);
    assert_eq!(target.got().matches("GET /good").count(), 1);
    has_not(&target.got(), &["smuggled"]);
    world.verified().unwrap();
}

#[test]
fn h15_an_answer_of_two_meanings_is_no_answer() {
    let (world, target) = recorded(EVERYTHING, "");
    for (name, answer) in [
        ("CL and TE", &b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"[..]),
        ("two CL", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nevil!"),
        ("bare LF", b"HTTP/1.1 200 OK\ncontent-length: 5\n\nevil!"),
        ("folded", b"HTTP/1.1 200 OK\r\nx: y\r\n evil: 1\r\ncontent-length: 5\r\n\r\nevil!"),
        ("HTTP/0.9", b"evil!\r\n\r\n"),
        ("unasked 101", b"HTTP/1.1 101 Switching Protocols\r\nupgrade: evil\r\nconnection: upgrade\r\n\r\nevil!"),
        ("no answer", b""),
    ] {
        target.answer(Some(answer));
        let seen = world.curl("/a", &["-X", "POST", "-d", "x"]).unwrap().out();
        assert!(seen.contains("502"), "{name}: {seen}");
        has_not(&seen, &["evil"]);
    }
    // A second answer behind the first reaches nobody, and its connection serves no more.
    let two = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngoodHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    target.answer(Some(two));
    let auth = format!("authorization: Bearer {}", world.token().unwrap());
    let mut raw = world.raw(&[]).unwrap();
    for _ in 0..3 {
        raw.send(format!("GET /a HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n\r\n")).unwrap();
        has_not(&raw.until("good").unwrap(), &["evil"]);
    }
    target.answer(None);
    has(&world.curl("/a", &[]).unwrap().out(), &["{\"ok\":true}"]);
    world.verified().unwrap();
}

#[test]
fn principals_share_no_connection_to_the_target() {
    let (world, target) = recorded(EVERYTHING, "");
    let mut raw = world.raw(&[]).unwrap();
    let mint = |who: &str| world.issuer.mint().unwrap().subject(who).token().unwrap();
    let (one, two) = (mint("one"), mint("two"));
    for token in [&one, &one, &one] {
        raw.send(format!(
            "GET /a HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n"
        ))
        .unwrap();
        raw.until("true}").unwrap();
    }
    assert_eq!(target.connections(), 1, "one principal's connection is kept");
    for token in [&two, &one, &two] {
        raw.send(format!(
            "GET /a HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n"
        ))
        .unwrap();
        raw.until("true}").unwrap();
    }
    assert_eq!(target.connections(), 2, "another principal gets its own");
    world.verified().unwrap();
}

#[test]
fn bodies_of_any_size_stream_both_ways_and_are_on_record() {
    let authority = Authority::new("nginx").unwrap();
    let nginx = Nginx::start(&authority).unwrap();
    let api = ApiSpec::new("api", nginx.port()).tls(&authority);
    let world = World::start(EVERYTHING, &[api]).unwrap();
    let bytes: Vec<u8> =
        (0..40u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let file = world.dir.write("big", &bytes).unwrap().display().to_string();
    for (client, path) in [("--http1.1", "/upload/one"), ("--http2", "/upload/two")] {
        for chunked in [false, true] {
            let mut args = vec![client, "-T", &file];
            if chunked {
                args.extend(["-H", "transfer-encoding: chunked"]);
            }
            let put = world.curl(path, &args).unwrap().out();
            assert!(put.contains("201") || put.contains("204"), "{put}");
            let stored = std::fs::read(nginx.root().join(path.trim_start_matches('/'))).unwrap();
            assert!(stored == bytes, "{client} {chunked}: what was stored differs");
        }
    }
    std::fs::write(nginx.root().join("files/big"), &bytes).unwrap();
    let out = world.dir.join("out").display().to_string();
    for client in ["--http1.1", "--http2"] {
        let get =
            world.curl("/files/big", &[client, "-o", &out, "-D", "-", "--no-include"]).unwrap();
        has(&get.out(), &["200"]);
        assert!(std::fs::read(&out).unwrap() == bytes, "{client}: what was fetched differs");
    }
    world.verified().unwrap();
}

#[test]
fn slow_clients_are_ended_and_hurt_nobody() {
    let (world, _target) = recorded(EVERYTHING, "");
    let started = Instant::now();
    let mut slow: Vec<_> = (0..200)
        .map(|_| {
            let mut raw = world.raw(&[]).unwrap();
            raw.send("GET / HTTP/1.1\r\nhost: local").unwrap();
            raw
        })
        .collect();
    let idle: Vec<_> = (0..100).map(|_| world.raw(&["h2", "http/1.1"]).unwrap()).collect();
    // While they hold their connections, others are served at once.
    let asked = Instant::now();
    has(&world.curl("/a", &[]).unwrap().out(), &[" 200"]);
    assert!(asked.elapsed() < Duration::from_secs(5));
    let last = slow.pop().unwrap();
    let answer = String::from_utf8_lossy(&last.rest()).into_owned();
    has(&answer, &["408", "took too long"]);
    let took = started.elapsed();
    assert!(took > Duration::from_secs(8) && took < Duration::from_secs(30), "{took:?}");
    for raw in slow.into_iter().take(20) {
        assert!(raw.closes_within(Duration::from_secs(15)));
    }
    for raw in idle.into_iter().take(10) {
        assert!(raw.closes_within(Duration::from_secs(25)), "who says nothing may not stay");
    }
}

/// How many connections this process and the gateway may have; the gateway raises its own limit.
fn raise_file_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid `rlimit` that outlives both calls; the first fills it, the second
    // only reads it.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    assert!(raised, "raise the limit of open files");
    usize::try_from(limit.rlim_cur).unwrap()
}

fn resident_kib(pid: libc::pid_t) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

const IDLE: usize = 10_000;

#[test]
fn ten_thousand_idle_connections_hurt_nobody() {
    let limit = raise_file_limit();
    assert!(
        limit > IDLE + 500,
        "{limit} open files are too few: raise the hard limit (ulimit -Hn)"
    );
    let (world, _target) = recorded(EVERYTHING, "");
    let pid = world.gateway.proc().pid();
    let before = resident_kib(pid);
    let auth = format!("authorization: Bearer {}", world.token().unwrap());
    let get = format!("GET /a HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n\r\n");
    // Each has said who it is, was answered, and says nothing more.
    let share = IDLE / 8;
    let mut idle: Vec<_> = std::thread::scope(|scope| {
        let open = || {
            let one = |_| {
                let mut raw = world.raw(&[]).unwrap();
                raw.send(&get).unwrap();
                raw.until("{\"ok\":true}").unwrap();
                raw
            };
            (0..share).map(one).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(idle.len(), IDLE);
    let grown = resident_kib(pid).saturating_sub(before);
    eprintln!("{IDLE} idle connections: {grown} KiB, {} each", grown / IDLE as u64);
    // Some or all have their connection to the target still: it is kept for 20 s.
    assert!(grown < 100 * IDLE as u64, "each idle connection costs {} KiB", grown / IDLE as u64);
    for _ in 0..20 {
        let asked = Instant::now();
        has(&world.curl("/a", &["--http2"]).unwrap().out(), &["200"]);
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    }
    // They are still good; the first ones may have been idle for too long by now.
    for raw in idle.iter_mut().rev().take(20) {
        raw.send(&get).unwrap();
        raw.until("{\"ok\":true}").unwrap();
    }
}

/// What every client finds in its environment.
fn environment(world: &World) -> Vec<(&'static str, String)> {
    vec![
        ("URL", world.url("/a?lib=1")),
        ("ROOT", world.gateway.root_pem().display().to_string()),
        ("TOKEN", world.token().unwrap()),
    ]
}

fn run(mut command: Command, world: &World) -> String {
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").env("no_proxy", "*");
    command.env("HOME", world.dir.path()).envs(environment(world)).current_dir(world.dir.path());
    capture(command, None, Duration::from_secs(180)).unwrap().success().unwrap()
}

#[test]
fn python_clients() {
    let (world, target) = recorded(EVERYTHING, "");
    let script = r#"
import os, ssl, requests, httpx
url, root = os.environ["URL"], os.environ["ROOT"]
headers = {"authorization": "Bearer " + os.environ["TOKEN"]}
for i in range(3):
    r = requests.post(url, json={"i": i}, headers=headers, verify=root)
    assert r.status_code == 200 and r.json()["ok"], r.text
context = ssl.create_default_context(cafile=root)
for version in (False, True):
    with httpx.Client(http2=version, http1=not version, verify=context, headers=headers) as c:
        for i in range(3):
            r = c.get(url)
            assert r.status_code == 200 and r.json()["ok"], r.text
        print(r.http_version)
"#;
    let done = run(bulla_e2e::http::python(script, &[]).unwrap(), &world);
    has(&done, &["HTTP/1.1", "HTTP/2"]);
    assert_eq!(target.got().matches("/a?lib=1").count(), 9);
    world.verified().unwrap();
}

#[test]
fn node_undici() {
    let (world, target) = recorded(EVERYTHING, "");
    let script = r#"
const { Agent, request } = require('undici');
const { readFileSync } = require('fs');
(async () => {
  for (const allowH2 of [false, true]) {
    const dispatcher = new Agent({ allowH2, connect: { ca: readFileSync(process.env.ROOT) } });
    const headers = { authorization: 'Bearer ' + process.env.TOKEN, 'content-type': 'application/json' };
    const all = await Promise.all([1, 2, 3].map(i =>
      request(process.env.URL, { method: 'POST', dispatcher, headers, body: JSON.stringify({ i }) })));
    for (const one of all) console.log(allowH2, one.statusCode, (await one.body.json()).ok);
    await dispatcher.close();
  }
})();
"#;
    let node = xtask::places::which("node").expect("no node; install it: apt-get install nodejs");
    let modules = xtask::places::http_node_modules();
    assert!(modules.is_dir(), "no undici; install it: cargo xtask setup");
    let file = world.dir.write(
        "client.cjs",
        script.replace("'undici'", &format!("'{}/undici'", modules.display())),
    );
    let mut command = Command::new(node);
    command.arg(file.unwrap());
    let done = run(command, &world);
    assert_eq!(
        done.matches("true 200 true").count() + done.matches("false 200 true").count(),
        6,
        "{done}"
    );
    assert_eq!(target.got().matches("POST /a?lib=1").count(), 6);
}

#[test]
fn java_net_http() {
    let (world, target) = recorded(EVERYTHING, "");
    let program = r#"
import java.io.FileInputStream; import java.net.URI; import java.net.http.*;
import java.security.KeyStore; import java.security.cert.CertificateFactory; import javax.net.ssl.*;
public class Client {
  public static void main(String[] args) throws Exception {
    KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType()); store.load(null, null);
    store.setCertificateEntry("root", CertificateFactory.getInstance("X.509")
        .generateCertificate(new FileInputStream(System.getenv("ROOT"))));
    TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
    trust.init(store);
    SSLContext context = SSLContext.getInstance("TLS"); context.init(null, trust.getTrustManagers(), null);
    for (HttpClient.Version version : HttpClient.Version.values()) {
      HttpClient client = HttpClient.newBuilder().sslContext(context).version(version).build();
      for (int i = 0; i < 3; i++) {
        HttpRequest request = HttpRequest.newBuilder(URI.create(System.getenv("URL")))
            .header("authorization", "Bearer " + System.getenv("TOKEN"))
            .POST(HttpRequest.BodyPublishers.ofString("{\"i\":" + i + "}")).build();
        HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
        System.out.println(answer.version() + " " + answer.statusCode() + " " + answer.body());
      }
    }
  }
}
"#;
    let java = xtask::places::which("java");
    let java = java.expect("no java; install it: apt-get install default-jdk-headless");
    let file = world.dir.write("Client.java", program).unwrap();
    let mut command = Command::new(java);
    command.arg(file);
    let done = run(command, &world);
    assert_eq!(done.matches("HTTP_1_1 200 {\"ok\":true}").count(), 3, "{done}");
    assert_eq!(done.matches("HTTP_2 200 {\"ok\":true}").count(), 3, "{done}");
    assert_eq!(target.got().matches("POST /a?lib=1").count(), 6);
}

#[test]
fn go_net_http() {
    let (world, target) = recorded(EVERYTHING, "");
    let program = r#"package main
import ("bytes"; "crypto/tls"; "crypto/x509"; "fmt"; "io"; "net/http"; "os")
func main() {
	pem, _ := os.ReadFile(os.Getenv("ROOT"))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	for _, two := range []bool{false, true} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: two}}
		for i := 0; i < 3; i++ {
			request, _ := http.NewRequest("POST", os.Getenv("URL"), bytes.NewReader([]byte("{}")))
			request.Header.Set("authorization", "Bearer "+os.Getenv("TOKEN"))
			answer, err := client.Do(request)
			if err != nil { panic(err) }
			body, _ := io.ReadAll(answer.Body)
			fmt.Println(answer.Proto, answer.StatusCode, string(body))
		}
	}
}
"#;
    let go = xtask::places::which("go").expect("no go; install it: apt-get install golang-go");
    let file = world.dir.write("client.go", program).unwrap();
    let mut command = Command::new(go);
    command.arg("run").arg(file);
    let done = run(command, &world);
    assert_eq!(done.matches("HTTP/1.1 200 {\"ok\":true}").count(), 3, "{done}");
    assert_eq!(done.matches("HTTP/2.0 200 {\"ok\":true}").count(), 3, "{done}");
    assert_eq!(target.got().matches("POST /a?lib=1").count(), 6);
}

#[test]
fn h2load_side_by_side() {
    let h2load = xtask::places::which("h2load");
    let h2load = h2load.expect("no h2load; install it: apt-get install nghttp2-client");
    // In `bounded` mode connections are served by threads beside each other.
    for durability in ["strict", "bounded"] {
        let target = Recorder::start().unwrap();
        let mut api = ApiSpec::new("api", target.port()).http("safe = [\"*\"]");
        api.more = format!("durability = \"{durability}\"\n");
        let world = World::start(EVERYTHING, &[api]).unwrap();
        for version in ["h2", "http/1.1"] {
            let mut command = Command::new(&h2load);
            command.args(["-n", "600", "-c", "6", "-m", "20", "--npn-list", version]);
            command.arg("-H").arg(format!("authorization: Bearer {}", world.token().unwrap()));
            command.arg(world.url("/a"));
            let done = run(command, &world);
            has(&done, &["600 succeeded, 0 failed", "status codes: 600 2xx"]);
        }
        assert_eq!(target.got().matches("GET /a HTTP/1.1").count(), 1200, "{durability}");
        world.verified().unwrap();
    }
}
