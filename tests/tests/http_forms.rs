//! Requests and answers that two servers could read differently, each alone on its connection.

#![allow(clippy::unwrap_used, clippy::panic)]

use bulla_e2e::expect::{has, has_not};
use bulla_e2e::http::{gzip, recorded};

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
        "method override in JSON",
        "POST /smuggled HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n{\"_method\":\"DELETE\"}",
    ),
    (
        "method override in JSON that streams",
        "POST /a HTTP/1.1\r\nhost: localhost\r\nAUTH\r\nconnection: close\r\ncontent-type: application/vnd.api+json\r\ntransfer-encoding: chunked\r\n\r\n1c\r\n{\"a\":1,\"_method\":\"smuggled\"}\r\n0\r\n\r\n",
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
    let (world, target) = recorded().unwrap();
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
    let (world, target) = recorded().unwrap();
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

/// A body that is looked into goes on as it came, and one that cannot be looked into does not.
#[test]
fn h6_json_is_looked_into_as_it_streams() {
    let (world, target) = recorded().unwrap();
    let auth = format!("authorization: Bearer {}", world.token().unwrap());
    let row = |n: u64| format!("{{\"_method\":{}}},", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let long = format!("{{\"rows\":[{}0]", (0..20_000).map(row).collect::<String>());
    let bad = ",\"\\u005fmethod\":\"DELETE\"}";
    let odd = ",'b':1}";
    let own = "the body is called JSON and is not";
    let packed = |text: &str| gzip(text.as_bytes()).unwrap();
    let gz = "content-encoding: gzip\r\n";
    for (name, headers, body, expect) in [
        ("short", "", b"{\"a\":1}".to_vec(), None),
        ("long", "", format!("{long}}}").into(), None),
        ("short, gzip", gz, packed("{\"a\":1}"), None),
        ("long, gzip", gz, packed(&format!("{long}}}")), None),
        ("long, bad at its end", "", format!("{long}{bad}").into(), Some("replace the method")),
        ("short, gzip, bad", gz, packed(&format!("{{\"a\":1{bad}")), Some("replace the method")),
        ("long, gzip, bad", gz, packed(&format!("{long}{bad}")), Some("replace the method")),
        ("long, gzip, cut", gz, packed(&long)[..900].to_vec(), Some("not compressed as it says")),
        ("not gzip", gz, b"{\"a\":1}".to_vec(), Some("not compressed as it says")),
        ("short, no JSON", "", format!("{{\"a\":1{odd}").into(), Some(own)),
        ("long, no JSON", "", format!("{long}{odd}").into(), Some(own)),
        ("coded", "content-encoding: dcz\r\n", b"{}".to_vec(), Some("its coding is gzip")),
    ] {
        for chunked in [false, true] {
            target.forget();
            let (length, chunk) = (body.len(), format!("{:x}\r\n", body.len()));
            let (framing, body) = if chunked {
                let body = [chunk.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
                ("transfer-encoding: chunked".to_owned(), body)
            } else {
                (format!("content-length: {length}"), body.clone())
            };
            let mut raw = world.raw(&[]).unwrap();
            raw.send(format!(
                "POST /a HTTP/1.1\r\nhost: localhost\r\n{auth}\r\nconnection: close\r\n\
                 content-type: application/json\r\n{headers}{framing}\r\n\r\n"
            ))
            .unwrap();
            // The gateway may close before all of it is written.
            let _ = raw.send(&body);
            let answer = String::from_utf8_lossy(&raw.rest()).into_owned();
            match expect {
                None => has(&answer, &["HTTP/1.1 200 OK", "{\"ok\":true}"]),
                Some(why) => {
                    let code = if why.contains("coding") { " 415 " } else { " 400 " };
                    assert!(answer.contains(code), "{name}, chunked {chunked}: {answer}");
                    has(&answer, &[why]);
                    has_not(&target.got(), &["DELETE"]);
                    let ended = target.got().ends_with("0\r\n\r\n");
                    assert!(!ended, "{name}: a whole message reached the target");
                }
            }
        }
    }
    world.verified().unwrap();
}
