//! What people are told: clients that are refused, those who look it up, those who describe an API.

#![allow(clippy::unwrap_used, clippy::panic)]

use bulla_e2e::ca::Wish;
use bulla_e2e::expect::{has, has_not};
use bulla_e2e::http::{ApiSpec, Recorder, World, meshed};
use bulla_e2e::place::TempDir;
use serde_json::Value;

const DOCUMENT: &str = r#"{
  "openapi": "3.0.3",
  "paths": {
    "/orders": {
      "get": {"operationId": "List orders"},
      "post": {"operationId": "newOrder"},
      "put": {"operationId": "注文", "x-bulla-action": "replaceOrders"}
    }
  }
}
"#;

const POLICY: &str = r#"
@id("connect") permit (principal, action == Bulla::Action::"connect", resource);
@id("lists") permit (principal, action == Bulla::Action::"http:List_orders", resource);
@id("cheap") permit (principal, action == Bulla::Action::"http:newOrder", resource)
    when { context has amount && context.amount < 10 };
"#;

const FACTS: &str = r#"facts = { amount = { json = "/amount", kind = "number" } }"#;

fn json(answer: &str) -> Value {
    let body = answer.split_once("\r\n\r\n").map_or(answer, |(_, body)| body);
    serde_json::from_str(body).unwrap_or_else(|why| panic!("{why}: {answer}"))
}

fn described() -> (World, Recorder, TempDir) {
    let (target, dir) = (Recorder::start().unwrap(), TempDir::new("words").unwrap());
    let path = dir.write("shop.json", DOCUMENT).unwrap();
    let api = ApiSpec::new("api", target.port()).http(&format!("openapi = {path:?}\n{FACTS}"));
    (World::start(POLICY, &[api]).unwrap(), target, dir)
}

#[test]
fn operations_are_shown_as_they_are_written() {
    let (world, target, dir) = described();
    let cli = |args: &[&str]| {
        let done = world.gateway.cli(args).unwrap();
        (done.code(), format!("{}{}", done.out(), done.err()))
    };
    has(&world.curl("/orders", &[]).unwrap().out(), &["HTTP/2 200"]);
    has(&target.got(), &["GET /orders HTTP/1.1"]);
    target.forget();
    let body = ["-H", "content-type: application/json", "-d", r#"{"amount":50}"#];
    let denied = json(&world.curl("/orders?a=b", &body).unwrap().out());
    let words = "refused: `newOrder` on `api./orders` is not allowed for `billing/api` (no policy \
                 permits it)";
    assert_eq!(denied["detail"], words);
    let put = json(&world.curl("/orders", &["-X", "PUT"]).unwrap().out());
    has(put["detail"].as_str().unwrap(), &["refused: `replaceOrders` on `api./orders`"]);
    let unknown = json(&world.curl("/carts?a=b", &[]).unwrap().out());
    let words = "refused: `GET /carts`: the API's description has no such operation";
    assert_eq!(unknown["detail"], words);
    assert_eq!(target.got(), "", "nothing of them reached the target");
    let id = unknown["event"].as_str().unwrap().split('-').next().unwrap();
    let (code, told) = cli(&["sessions", "show", id]);
    assert_eq!(code, 0, "{told}");
    has(&told, &["  GET /carts?a=b (not read)", "`GET /carts`: the API's description has no such"]);

    // The event that a refusal names is decided again as it was sent, headers and body.
    let event = denied["event"].as_str().unwrap();
    let (code, told) = cli(&["policy", "explain", "--event", event]);
    assert_eq!(code, 4, "{told}");
    has(&told, &["http:newOrder"]);
    has_not(&told, &["cannot be read", "unknown"]);
    let (code, told) = cli(&["policy", "schema"]);
    assert_eq!(code, 0, "{told}");
    for lines in [
        "// GET /orders of api\naction \"http:List_orders\"",
        "// PUT /orders of api\naction \"http:replaceOrders\"",
    ] {
        has(&told, &[lines]);
    }
    let checked = |from: &str, to: &str| {
        dir.write("shop.json", DOCUMENT.replacen(from, to, 1)).unwrap();
        let (code, told) = cli(&["check"]);
        assert_eq!(code, 3, "{told}");
        told
    };
    has(
        &checked("\"newOrder\"", "\"List_orders\""),
        &["shop.json`: line 6: ", "would be the action `http:List_orders`", "`x-bulla-action`"],
    );
    has(&checked("\"put\"", "\"trace\""), &["shop.json`: line 7: `/orders` has `trace`"]);
    world.verified().unwrap();
}

#[test]
fn what_is_wrong_with_a_body_is_told() {
    let (world, target, _dir) = described();
    for (body, why) in [
        (r#"{"amount":5,"Amount":6}"#, "names a member twice, whatever its case"),
        (r#"{"amount":5"#, "is not JSON, which its `content-type` says it is"),
    ] {
        let args = ["-H", "content-type: application/json", "-d", body];
        let answer = json(&world.curl("/orders", &args).unwrap().out());
        has(answer["detail"].as_str().unwrap(), &[why]);
        has(answer["next"].as_str().unwrap(), &["has one meaning"]);
        assert!(answer["event"].is_string(), "{answer}");
    }
    assert_eq!(target.got(), "");
}

/// Clients are told the same words, whatever was wrong with what they showed; the record tells more.
#[test]
fn who_is_turned_away_is_looked_up_by_its_id() {
    let (world, target, mesh) = meshed().unwrap();
    let mint = world.issuer.mint().unwrap().subject("billing");
    let token = mint.claim("aud", "elsewhere").token().unwrap();
    let auth = format!("authorization: Bearer {token}");
    has(&world.bare_curl("/a", &["-H", &auth]).unwrap().out(), &["HTTP/2 401"]);
    // Their handshake fails, so nothing at all is answered.
    for (name, wish) in [
        ("plain", Wish::client("plain")),
        ("stranger", Wish::spiffe("spiffe://example.org/a").unwrap()),
        ("expired", Wish::spiffe("spiffe://example.com/a").unwrap().expired()),
    ] {
        let (cert, key) = mesh.authority.issue(&wish).unwrap().write(&mesh.dir, name).unwrap();
        let (cert, key) = (cert.display().to_string(), key.display().to_string());
        let answer = world.bare_curl("/a", &["--cert", &cert, "--key", &key]).unwrap();
        has_not(&answer.out(), &["HTTP/"]);
    }
    world.verified().unwrap();
    let listed = world.gateway.cli(&["log", "show", "--json", "--limit", "100"]).unwrap();
    let listed: Vec<Value> = serde_json::from_str(&listed.out()).unwrap();
    let refusals: Vec<&Value> = listed.iter().filter(|entry| entry["kind"] == "refusal").collect();
    let told: Vec<String> = refusals
        .iter()
        .map(|entry| {
            let id = entry["session"].as_str().unwrap();
            let shown = world.gateway.cli(&["sessions", "show", id, "--offline"]).unwrap();
            has(&shown.out(), &[&format!("turned away {id}"), "from        127.0.0.1:"]);
            let args = ["policy", "explain", "--event", &format!("{id}-0"), "--offline"];
            let explained = world.gateway.cli(&args).unwrap();
            has(&explained.err(), &[&format!("opened no session; see: bulla sessions show {id}")]);
            shown.out()
        })
        .collect();
    assert_eq!(told.len(), 4, "{told:?}");
    for (told, why) in told.iter().zip([
        "why         wrong_audience: ",
        "why         bad_certificate: ",
        "why         bad_certificate: it is of no trust domain that is configured",
        "why         bad_certificate: ",
    ]) {
        has(told, &[why]);
    }
    has(&told[0], &["asked for   api"]);
    assert_eq!(target.got(), "");
}
