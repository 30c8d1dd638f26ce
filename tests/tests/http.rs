//! HTTP through the real gateway: who asks, what they are told, what reaches the target.

#![allow(clippy::unwrap_used, clippy::panic)]

use bulla_e2e::ca::Authority;
use bulla_e2e::expect::{has, has_not};
use bulla_e2e::http::{ApiSpec, Nginx, Recorder, World};

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
