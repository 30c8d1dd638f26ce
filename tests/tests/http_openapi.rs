//! An API that an OpenAPI document in YAML describes, before nginx.

#![allow(clippy::unwrap_used, clippy::panic)]

use bulla_e2e::ca::Authority;
use bulla_e2e::expect::has;
use bulla_e2e::http::{ApiSpec, Nginx, World};
use bulla_e2e::place::TempDir;

const DOCUMENT: &str = r##"# What people write by hand.
openapi: 3.1.0
info: {title: shop, version: 1.10}
servers:
  - url: https://{host}/v1
    variables: {host: {default: shop.example.com}}
x-errors: &errors
  default: {description: "not: this"}
paths:
  /orders/{id}:
    parameters:
      - {name: id, in: path, required: true, schema: {type: string}}
    get:
      operationId: getOrder
      responses: *errors
    delete: {operationId: no, responses: *errors}
  /orders/new:
    get: {operationId: newOrder}
  /reports/{name}.{format}:
    get: {operationId: reports/get}
  /customers/{id}:
    $ref: "#/components/pathItems/customer"
  /{kind}/latest:
    get: {operationId: latest}
  /internal:
    servers: [{url: /ops}]
    get: {operationId: internal}
components:
  pathItems:
    customer:
      get: {description: without an id}
"##;

const POLICY: &str = r#"
@id("connect") permit (principal, action == Bulla::Action::"connect", resource);
@id("some") permit (principal, action in [Bulla::Action::"http:getOrder",
    Bulla::Action::"http:no", Bulla::Action::"http:latest", Bulla::Action::"http:internal"], resource);
@id("reports") permit (principal, action == Bulla::Action::"http:reports/get",
    resource == Bulla::Route::"api./v1/reports/{name}.{format}")
    when { context.params.contains("name=sales") && context.params.contains("format=csv") };
@id("customers") permit (principal, action == Bulla::Action::"http:get",
    resource == Bulla::Route::"api./v1/customers/{id}");
"#;

const NGINX: &str =
    "location / { default_type text/plain; return 200 'nginx saw $request_uri'; }\n";

fn world(nginx: &Nginx, authority: &Authority, document: &str) -> (World, TempDir) {
    let dir = TempDir::new("openapi").unwrap();
    let path = dir.write("shop.openapi", document).unwrap();
    let http = format!("openapi = {path:?}\nsafe = [\"/v1/orders/{{id}}\"]");
    let api = ApiSpec::new("api", nginx.port()).tls(authority).http(&http);
    (World::start(POLICY, &[api]).unwrap(), dir)
}

#[test]
fn a_document_in_yaml_is_what_clients_may_ask_for() {
    let authority = Authority::new("openapi").unwrap();
    let nginx = Nginx::with(&authority, NGINX).unwrap();
    let (world, _dir) = world(&nginx, &authority, DOCUMENT);
    for (method, path) in [
        ("GET", "/v1/orders/7"),
        ("HEAD", "/v1/orders/8"),
        ("DELETE", "/v1/orders/9"),
        ("GET", "/v1/reports/sales.csv"),
        ("GET", "/v1/customers/7"),
        ("GET", "/v1/things/latest"),
        ("GET", "/ops/internal"),
    ] {
        let args = if method == "HEAD" { vec!["-I"] } else { vec!["-X", method] };
        let answer = world.curl(path, &args).unwrap().out();
        has(&answer, &["HTTP/2 200"]);
        nginx.wait_logged(&format!("{method} {path} ")).unwrap();
    }
    let reached = nginx.access_log();
    let (unknown, denied) = ("has no such operation", "no policy permits it");
    for (method, path, why) in [
        // Without what comes before it, an operation is none.
        ("GET", "/orders/7", unknown),
        ("GET", "/v1/internal", unknown),
        ("GET", "/ops/orders/7", unknown),
        ("PUT", "/v1/orders/7", unknown),
        ("GET", "/v1/orders/7/lines", unknown),
        ("GET", "/v1/orders/7/", unknown),
        ("GET", "/v1/reports/sales", unknown),
        ("POST", "/v1/customers/7", unknown),
        // Described, but nobody's.
        ("GET", "/v1/orders/new", denied),
        ("GET", "/v1/reports/wages.csv", denied),
        ("GET", "/v1/reports/sales.xml", denied),
        // What nginx could take for another than we.
        ("GET", "/v1/reports/a.sales.csv", "fits its template in more than one way"),
        ("GET", "/v1/orders/latest", "two operations"),
        ("GET", "/v1/customers/latest", "two operations"),
    ] {
        let answer = world.curl(path, &["-X", method]).unwrap().out();
        assert!(answer.starts_with("HTTP/2 403"), "{method} {path}: {answer}");
        assert!(answer.contains(why), "{method} {path}: {answer}");
    }
    assert_eq!(nginx.access_log(), reached, "nothing more reached the target");
    let ask = |statement: &str| {
        let who = ["policy", "explain", "--principal", "bed|billing/api", "--resource", "api"];
        let done = world.gateway.cli(&[&who[..], &["--statement", statement]].concat()).unwrap();
        format!("{}{}", done.out(), done.err())
    };
    has(&ask("GET /v1/reports/sales.csv"), &["http:reports/get", "reports"]);
    has(&ask("DELETE /v1/orders/7"), &["http:no"]);
    world.verified().unwrap();
}

#[test]
fn a_document_that_does_not_hold_is_told_with_its_line() {
    let authority = Authority::new("openapi").unwrap();
    let nginx = Nginx::with(&authority, NGINX).unwrap();
    let (world, dir) = world(&nginx, &authority, DOCUMENT);
    let check = |document: &[u8]| {
        dir.write("shop.openapi", document).unwrap();
        let done = world.gateway.cli(&["check"]).unwrap();
        (done.code(), format!("{}{}", done.out(), done.err()))
    };
    let changed = |from: &str, to: &str| DOCUMENT.replacen(from, to, 1).into_bytes();
    let (code, told) = check(DOCUMENT.as_bytes());
    assert_eq!(code, 0, "{told}");
    for (document, why) in [
        (
            changed("      operationId: getOrder", "      get: 1\n      get: 2"),
            "shop.openapi`: line 15: the key `get`",
        ),
        (changed("operationId: newOrder", "operationId: getOrder"), "`getOrder` names"),
        (changed("*errors", "!!map {}"), "shop.openapi`: line 15: a tag"),
        (
            changed("    delete:", "    <<: *errors\n    delete:"),
            "shop.openapi`: line 16: a merge key",
        ),
        (changed("# What", "---\na: 1\n---\n# What"), "shop.openapi`: line 3: a second document"),
        (
            changed("\"#/components", "\"shop.yaml#/components"),
            "shop.openapi`: line 22: `/customers/{id}` refers to",
        ),
        (changed("https://{host}/v1", "v1"), "set `openapi_base`"),
        (changed("/orders/new", "/orders/{x}"), "are one path"),
        (changed("/orders/{id}", "/orders/{key}"), "`/v1/orders/{id}` is no route of this API"),
        (b"openapi: 3.1.0\ninfo: \xe9\n".to_vec(), "it is not UTF-8"),
    ] {
        let (code, told) = check(&document);
        assert_eq!(code, 3, "{told}");
        has(&told, &[why]);
    }
}
