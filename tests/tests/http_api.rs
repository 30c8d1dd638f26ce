//! What policy sees of an API, and everything that is not one request and one answer: gRPC,
//! WebSocket, server-sent events, approvals.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::Command;
use std::time::Duration;

use bulla_e2e::ca::{Authority, Wish};
use bulla_e2e::expect::{has, has_not};
use bulla_e2e::http::{ApiSpec, Recorder, World, gzip, meshed, python};
use bulla_e2e::place::{Port, TempDir};
use bulla_e2e::proc::{Proc, Signal, capture};

const EVERYTHING: &str = r#"
@id("everything")
permit (principal, action, resource);
"#;

const SOON: Duration = Duration::from_secs(60);

fn recorded(policy: &str, http: &str) -> (World, Recorder) {
    let target = Recorder::start().unwrap();
    let api = ApiSpec::new("api", target.port()).http(http);
    (World::start(policy, &[api]).unwrap(), target)
}

const OPENAPI: &str = r#"{"openapi":"3.0.3","info":{"title":"t","version":"1"},"paths":{
  "/orders/{id}":{"get":{"operationId":"getOrder","responses":{}},
                  "delete":{"operationId":"cancelOrder","responses":{}}},
  "/payments":{"post":{"operationId":"createPayment","responses":{}}}}}"#;

const SHOP: &str = r#"
@id("connect") permit (principal, action == Bulla::Action::"connect", resource);
@id("reads") permit (principal, action in Bulla::Action::"http:read", resource in Bulla::Resource::"api");
@id("small-payments") permit (principal, action == Bulla::Action::"http:createPayment",
    resource == Bulla::Route::"api./payments")
    when { context has amount && context.amount <= 100 && context has region && context.region == "eu" };
"#;

#[test]
fn operations_are_actions_and_facts_come_from_bodies() {
    let dir = TempDir::new("openapi").unwrap();
    let document = dir.write("shop.json", OPENAPI).unwrap();
    let http = format!(
        "openapi = {document:?}\nsafe = [\"/orders/{{id}}\"]\n\
         facts = {{ amount = {{ json = \"/payment/amount\", kind = \"number\" }}, region = {{ header = \"x-region\" }} }}"
    );
    let (world, target) = recorded(SHOP, &http);
    has(&world.curl("/orders/7", &[]).unwrap().out(), &[" 200"]);
    let pay = |body: &str, more: &[&str]| {
        target.forget();
        let mut args = vec!["-H", "content-type: application/json", "-d", body];
        args.extend(more);
        let answer = world.curl("/payments", &args).unwrap().out();
        (answer, target.got())
    };
    let eu = ["-H", "x-region: eu"];
    let (answer, got) = pay(r#"{"payment":{"amount":100}}"#, &eu);
    has(&answer, &[" 200"]);
    has(&got, &["POST /payments HTTP/1.1", r#"{"payment":{"amount":100}}"#]);
    for (body, more) in [
        (r#"{"payment":{"amount":101}}"#, &eu[..]),
        (r#"{"payment":{"amount":100}}"#, &["-H", "x-region: us"]),
        (r#"{"payment":{"amount":100}}"#, &[]),
        (r#"{"payment":{"amount":"100"}}"#, &eu),
        (r#"{"payment":{"amount":1,"amount":1000}}"#, &eu),
        (r#"{"payment":{"amount":1,"\u0061mount":1000}}"#, &eu),
        (r#"{"payment":{"amount":1,"Amount":1000}}"#, &eu),
        (r#"{"payment":{"amount":1}} x"#, &eu),
        (r#"{"payment":{"amount":1}}"#, &["-H", "x-region: eu", "-H", "content-encoding: gzip"]),
        (
            r#"{"payment":{"amount":1}}"#,
            &["-H", "x-region: eu", "-H", "content-type: application/xml"],
        ),
    ] {
        let (answer, got) = pay(body, more);
        assert!(answer.starts_with("HTTP/2 4"), "{body} {more:?}: {answer}");
        assert_eq!(got, "", "{body} {more:?}");
    }
    for (method, path) in
        [("GET", "/nowhere"), ("PUT", "/orders/7"), ("GET", "/orders/7/x"), ("DELETE", "/orders/7")]
    {
        target.forget();
        has(&world.curl(path, &["-X", method]).unwrap().out(), &[" 403"]);
        assert_eq!(target.got(), "", "{method} {path}");
    }
    let schema = world.gateway.cli(&["policy", "schema"]).unwrap().out();
    has(
        &schema,
        &["\"http:createPayment\" in [\"http:post\"", "\"amount\"?: Long", "entity Route"],
    );
    let explained = world
        .gateway
        .cli(&[
            "policy",
            "explain",
            "--principal",
            "bed|billing/api",
            "--resource",
            "api",
            "--statement",
            "DELETE /orders/7",
        ])
        .unwrap();
    has(&format!("{}{}", explained.out(), explained.err()), &["cancelOrder"]);
    world.verified().unwrap();
}

#[test]
fn graphql_fields_are_judged_by_what_they_are() {
    let policy = r#"
@id("connect") permit (principal, action == Bulla::Action::"connect", resource);
@id("orders") permit (principal, action == Bulla::Action::"http:query",
    resource == Bulla::Field::"api.Query.orders") unless { context.columns.contains("customer.ssn") };
"#;
    let (world, target) = recorded(policy, "graphql = \"/graphql\"");
    let ask = |query: &str| {
        target.forget();
        let body = serde_json::json!({ "query": query }).to_string();
        let args = ["-H", "content-type: application/json", "-d", &body];
        let answer = world.curl("/graphql", &args).unwrap().out();
        (answer.starts_with("HTTP/2 200"), target.got())
    };
    assert!(ask("{ orders { id } }").0);
    for query in [
        "{ salaries { amount } }",
        "{ orders: salaries { amount } }",
        "{ orders { id } salaries { amount } }",
        "{ orders { customer { ssn } } }",
        "{ orders { customer { x: ssn } } }",
        "{ ...F } fragment F on Query { salaries { amount } }",
        "mutation { orders { id } }",
        "{ orders { id }",
    ] {
        assert_eq!(ask(query), (false, String::new()), "{query}");
    }
}

const HOLDS: &str = r#"
@id("everything") permit (principal, action, resource) unless { context has path && context.path == "/pay" };
@id("payments-need-a-human") @hold("finance") @expires("10m")
permit (principal, action == Bulla::Action::"http:post", resource in Bulla::Resource::"api");
"#;

#[test]
fn an_approval_is_spent_by_the_identical_request_once() {
    let (world, target) = recorded(HOLDS, "");
    let pay = |body: &str, more: &[&str]| {
        let mut args = vec!["-H", "content-type: application/json", "-d", body];
        args.extend(more);
        world.curl("/pay", &args).unwrap().out()
    };
    let approval = |answer: &str| {
        let rest = answer.split("\"approval\":\"").nth(1).unwrap_or_else(|| panic!("{answer}"));
        rest.split('"').next().unwrap().to_owned()
    };
    let held = pay("{\"a\":1}", &[]);
    has(
        &held,
        &[
            "HTTP/2 403",
            "approval-required",
            "retry-after: 10",
            "`POST` on `api./pay` waits for approval ",
            " by `finance`",
            "\"policies\":[\"",
            "repeat the very same request",
        ],
    );
    let id = approval(&held);
    assert_eq!(approval(&pay("{\"a\":1}", &[])), id, "a repetition waits for the same approval");
    assert_ne!(approval(&pay("{\"a\":2}", &[])), id, "another body is another request");
    let answer = pay("{\"a\":1}", &["-H", "prefer: respond-async"]);
    has(&answer, &["HTTP/2 202", "preference-applied: respond-async"]);
    let place = format!("/.well-known/bulla/approvals/{id}");
    has(&answer.to_lowercase(), &[&format!("location: {place}").to_lowercase()]);
    has(&world.curl(&place, &[]).unwrap().out(), &["\"state\":\"waiting\""]);
    assert_eq!(target.got(), "", "nothing is sent while it waits");
    let seen = world.gateway.cli(&["approvals", "show", &id]).unwrap().out();
    has(&seen, &["POST /pay", "{\"a\":1}"]);
    let done = world.gateway.cli(&["approvals", "approve", &id]).unwrap();
    assert_eq!(done.code(), 0, "{}{}", done.out(), done.err());
    // The waiting half hears of it in its own time.
    let until = std::time::Instant::now() + SOON;
    while !world.curl(&place, &[]).unwrap().out().contains("\"state\":\"approved\"") {
        assert!(std::time::Instant::now() < until, "never approved");
    }
    let stranger = world.issuer.mint().unwrap().subject("other").token().unwrap();
    let stranger = format!("authorization: Bearer {stranger}");
    has(&world.bare_curl(&place, &["-H", &stranger]).unwrap().out(), &["HTTP/2 404"]);
    has(&pay("{\"a\":1}", &[]), &["HTTP/2 200", "{\"ok\":true}"]);
    assert_eq!(target.got().matches("POST /pay").count(), 1);
    has(&pay("{\"a\":1}", &[]), &["HTTP/2 403", "approval-required"]);
    assert_eq!(target.got().matches("POST /pay").count(), 1, "an approval is spent once");
    // What streams cannot wait, since nobody has seen it.
    has(
        &pay("{\"a\":1}", &["-H", "transfer-encoding: chunked", "--http1.1"]),
        &["403", "cannot wait"],
    );
    // Nor can what an approver could not read.
    has(&pay("{\"a\":3}", &["-H", "content-encoding: gzip"]), &["HTTP/2 400", "not compressed"]);
    let packed = world.dir.write("packed", gzip(b"{\"a\":4}").unwrap()).unwrap();
    let packed = format!("@{}", packed.display());
    for media in ["application/json", "application/octet-stream"] {
        let media = format!("content-type: {media}");
        let own = ["-H", &media, "-H", "content-encoding: gzip", "--data-binary", &packed];
        has(&world.curl("/pay", &own).unwrap().out(), &["HTTP/2 403", "cannot wait"]);
    }
    // One that still waits when the gateway stops is withdrawn, and its session closed.
    let started = std::time::Instant::now();
    world.verified().unwrap();
    assert!(started.elapsed() < Duration::from_secs(15), "what waits does not hold up the stop");
    has(&world.replayed().unwrap(), &["withdrawn", "closed: drained"]);
}

/// A gRPC server with all four kinds of calls, on bytes.
const GRPC_SERVER: &str = r#"
import os, grpc, sys
from concurrent import futures
def get(request, context):
    if request == b"fail":
        context.abort(grpc.StatusCode.NOT_FOUND, "no such order")
    context.set_trailing_metadata((("x-trailer", "kept"),))
    seen = dict(context.invocation_metadata()).get("authorization", "none")
    return b"got " + request + b" auth " + str(len(seen)).encode()
def listing(request, context):
    for i in range(200):
        yield b"%d " % i + request
def put(requests, context):
    return b"%d" % sum(len(r) for r in requests)
def chat(requests, context):
    for r in requests:
        yield b"echo " + r
handlers = {
    "Get": grpc.unary_unary_rpc_method_handler(get),
    "List": grpc.unary_stream_rpc_method_handler(listing),
    "Put": grpc.stream_unary_rpc_method_handler(put),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
}
server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Orders", handlers),))
read = lambda name: open(os.path.join(os.environ["DIR"], name), "rb").read()
creds = grpc.ssl_server_credentials([(read("server.key"), read("server.pem"))])
server.add_secure_port("127.0.0.1:" + os.environ["PORT"], creds)
server.start()
print("ready", flush=True)
server.wait_for_termination()
"#;

const GRPC_CLIENT: &str = r#"
import os, grpc, queue
read = lambda name: open(name, "rb").read()
channel = grpc.secure_channel("localhost:" + os.environ["PORT"], grpc.ssl_channel_credentials(read(os.environ["ROOT"])))
meta = (("authorization", "Bearer " + os.environ["TOKEN"]),)
path = "/shop.Orders/"
answer, call = channel.unary_unary(path + "Get").with_call(b"7", metadata=meta, timeout=30)
print(answer, dict(call.trailing_metadata()).get("x-trailer"))
print(sum(1 for _ in channel.unary_stream(path + "List")(b"x", metadata=meta, timeout=30)), "listed")
big = (b"z" * 100_000 for _ in range(50))
print(channel.stream_unary(path + "Put")(big, metadata=meta, timeout=60), "put")
# Both directions at once: each message is answered before the next one is sent.
asks = queue.Queue()
answers = channel.stream_stream(path + "Chat")(iter(asks.get, None), metadata=meta, timeout=30)
for i in range(5):
    asks.put(b"%d" % i)
    print(next(answers))
asks.put(None)
assert list(answers) == []
def code(name, request, metadata=meta):
    try:
        channel.unary_unary(path + name)(request, metadata=metadata, timeout=30)
    except grpc.RpcError as e:
        return e.code().name, e.details()
print(code("Get", b"fail"))
print(code("Secret", b"x"))
print(code("Get", b"x", ()))
"#;

#[test]
fn grpc_of_all_four_kinds_with_trailers() {
    let authority = Authority::new("grpc").unwrap();
    let (dir, port) = (TempDir::new("grpc").unwrap(), Port::new().unwrap());
    authority.issue(&Wish::server().unwrap()).unwrap().write(&dir, "server").unwrap();
    let env = [("DIR", dir.path().display().to_string()), ("PORT", port.number().to_string())];
    let server = python(GRPC_SERVER, &env).unwrap();
    let server = Proc::spawn_with("grpc", server, Signal::Kill, None).unwrap();
    server.wait_line("ready", SOON).unwrap();
    let policy = r#"
@id("connect") permit (principal, action == Bulla::Action::"connect", resource);
@id("calls") permit (principal, action == Bulla::Action::"http:call", resource in Bulla::Resource::"api")
    when { context has grpc_service && context has grpc_method && context.grpc_service == "shop.Orders" && context.grpc_method != "Secret" };
"#;
    let api = ApiSpec::new("api", port.number())
        .tls(&authority)
        .secret("grpc-secret-1")
        .http("login = \"bearer\"");
    let world = World::start(policy, &[api]).unwrap();
    let env = [
        ("PORT", world.port.number().to_string()),
        ("ROOT", world.gateway.root_pem().display().to_string()),
        ("TOKEN", world.token().unwrap()),
    ];
    let client = python(GRPC_CLIENT, &env).unwrap();
    let seen = capture(client, None, SOON).unwrap().success().unwrap();
    has(
        &seen,
        &[
            "b'got 7 auth 20' kept",
            "200 listed",
            "b'5000000' put",
            "b'echo 4'",
            "('NOT_FOUND', 'no such order')",
            "('PERMISSION_DENIED', 'refused: ",
            "('UNAUTHENTICATED', ",
        ],
    );
    let replay = world.replayed().unwrap();
    has(
        &replay,
        &["POST /shop.Orders/Get", "POST /shop.Orders/Chat", "grpc-status: 0", "error:grpc:5"],
    );
    world.verified().unwrap();
}

const WS_SERVER: &str = r#"
import os
from websockets.sync.server import serve
def handler(ws):
    ws.send("hello " + ws.request.headers.get("authorization", "none"))
    for message in ws:
        ws.send(message if isinstance(message, bytes) else "echo " + message)
with serve(handler, "127.0.0.1", int(os.environ["PORT"])) as server:
    print("ready", flush=True)
    server.serve_forever()
"#;

const WS_CLIENT: &str = r#"
import os, ssl
from websockets.sync.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
context = ssl.create_default_context(cafile=os.environ["ROOT"])
headers = {"authorization": "Bearer " + os.environ["TOKEN"]}
url = "wss://localhost:" + os.environ["PORT"]
with connect(url + "/ws", ssl=context, additional_headers=headers) as ws:
    print(ws.recv())
    for i in range(3):
        ws.send("message %d" % i); print(ws.recv())
    ws.send(b"\x00\xff" * 40_000); print(len(ws.recv()))
    ws.ping().wait(10)
    ws.send("the forbidden word")
    try:
        print(ws.recv())
    except ConnectionClosed as e:
        print("closed", e.rcvd.code, e.rcvd.reason)
try:
    connect(url + "/other", ssl=context, additional_headers=headers)
except InvalidStatus as e:
    print("status", e.response.status_code)
"#;

#[test]
fn each_websocket_message_is_judged_and_recorded() {
    let port = Port::new().unwrap();
    let server = python(WS_SERVER, &[("PORT", port.number().to_string())]).unwrap();
    let server = Proc::spawn_with("websocket", server, Signal::Kill, None).unwrap();
    server.wait_line("ready", SOON).unwrap();
    let policy = r#"
@id("everything") permit (principal, action, resource);
@id("no-such-words") forbid (principal, action == Bulla::Action::"http:message", resource)
    when { context has text && context.text like "*forbidden*" };
"#;
    let api = ApiSpec::new("api", port.number()).http("websocket = [\"/ws\"]");
    let world = World::start(policy, &[api]).unwrap();
    let env = [
        ("PORT", world.port.number().to_string()),
        ("ROOT", world.gateway.root_pem().display().to_string()),
        ("TOKEN", world.token().unwrap()),
    ];
    let seen = capture(python(WS_CLIENT, &env).unwrap(), None, SOON).unwrap().success().unwrap();
    has(&seen, &["hello none", "echo message 2", "80000", "closed 1008 refused: ", "status 400"]);
    let replay = world.replayed().unwrap();
    has(
        &replay,
        &["message to /ws", "message 2", "< echo message 2", "the forbidden word", "no-such-words"],
    );
    world.verified().unwrap();
}

const SSE_SERVER: &str = r#"
import os, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
go = threading.Event()
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def do_GET(self):
        self.send_response(200)
        if self.path == "/go":
            go.set()
            self.send_header("content-length", "0"); self.end_headers(); return
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked"); self.end_headers()
        def event(text):
            data = ("data: %s\n\n" % text).encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data)); self.wfile.flush()
        event("one"); go.wait(60); event("two")
        if self.path == "/events":
            self.wfile.write(b"0\r\n\r\n")
        else:
            threading.Event().wait(600)
server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
print("ready", flush=True)
server.serve_forever()
"#;

#[test]
fn events_come_as_they_are_sent_and_a_kill_ends_them() {
    let port = Port::new().unwrap();
    let server = python(SSE_SERVER, &[("PORT", port.number().to_string())]).unwrap();
    let server = Proc::spawn_with("events", server, Signal::Kill, None).unwrap();
    server.wait_line("ready", SOON).unwrap();
    let world = World::start(EVERYTHING, &[ApiSpec::new("api", port.number())]).unwrap();
    let auth = format!("authorization: Bearer {}", world.token().unwrap());
    let mut raw = world.raw(&[]).unwrap();
    raw.send(format!("GET /events HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n\r\n")).unwrap();
    raw.until("data: one").unwrap();
    has(&world.curl("/go", &[]).unwrap().out(), &["200"]);
    raw.until("data: two").unwrap();
    let mut endless = world.raw(&[]).unwrap();
    endless.send(format!("GET /endless HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n\r\n")).unwrap();
    endless.until("data: two").unwrap();
    let listed = world.gateway.cli(&["sessions", "ls", "--json"]).unwrap().success().unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    for session in listed.as_array().unwrap() {
        if session["state"] == "live" {
            world.gateway.cli(&["sessions", "kill", session["session"].as_str().unwrap()]).unwrap();
        }
    }
    assert!(endless.closes_within(Duration::from_secs(10)), "an operator's kill cuts a stream");
    has(&world.replayed().unwrap(), &["data: one", "data: two", "cut:killed"]);
    world.verified().unwrap();
}

#[test]
fn for_whom_a_service_acts_is_said_or_proven() {
    let policy = r#"
@id("connect") permit (principal, action == Bulla::Action::"connect", resource);
@id("reads") permit (principal, action in Bulla::Action::"http:read", resource);
@id("writes-for-a-proven-person")
permit (principal, action in Bulla::Action::"http:write", resource)
    when { context has on_behalf_of && context has on_behalf_of_tier
           && context.on_behalf_of_tier >= 3 && context.on_behalf_of == "bed|ann" };
"#;
    let http = "on_behalf_of = \"x-end-user\"\non_behalf_of_token = \"x-user-token\"";
    let (world, target) = recorded(policy, http);
    let ann = world.issuer.mint().unwrap().subject("ann").token().unwrap();
    let bob = world.issuer.mint().unwrap().subject("bob").token().unwrap();
    let (ann, bob) = (format!("x-user-token: {ann}"), format!("x-user-token: Bearer {bob}"));
    let post = |headers: &[&str]| {
        let mut args = vec!["-X", "POST", "-d", "x"];
        args.extend(headers.iter().flat_map(|header| ["-H", *header]));
        world.curl("/a", &args).unwrap().out()
    };
    has(&post(&[&ann]), &["200"]);
    has(&post(&[&bob]), &["403"]);
    has(&post(&[]), &["403"]);
    has(&post(&["x-end-user: bed|ann"]), &["403"]);
    has(&post(&["x-user-token: eyJ.no.token"]), &["401"]);
    has(&post(&[&ann, &bob]), &["400", "stands twice"]);
    has(&post(&[&ann, "x-end-user: bed|ann"]), &["400", "said twice"]);
    has(&world.curl("/a", &["-H", "x-end-user: bob"]).unwrap().out(), &["200"]);
    has_not(&target.got(), &["x-user-token", ann.split('.').nth(2).unwrap()]);
    has(&target.got(), &["x-end-user: bob"]);
    let replay = world.replayed().unwrap();
    has_not(&replay, &[ann.split('.').nth(2).unwrap()]);
    world.verified().unwrap();
}

/// Frames of HTTP/2 with fields that its rules or ours forbid, by a library told not to check.
const H2_ATTACKS: &str = r#"
import os, socket, ssl, h2.connection, h2.config, h2.events
context = ssl.create_default_context(cafile=os.environ["ROOT"])
context.set_alpn_protocols(["h2"])
auth = ("authorization", "Bearer " + os.environ["TOKEN"])
base = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/a"), auth]
def replaced(name, value):
    return [(n, value if n == name else v) for n, v in base]
cases = {
    "control": base,
    "CR LF in value": base + [("x", "a\r\ntransfer-encoding: chunked\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n")],
    "LF in value": base + [("x", "a\nsmuggled: 1")],
    "CR LF in name": base + [("x\r\nsmuggled", "1")],
    "colon in name": base + [("x: smuggled", "1")],
    "upper case name": base + [("X-Smuggled", "1")],
    "underscore": base + [("x_smuggled", "1")],
    "CR LF in path": replaced(":path", "/a HTTP/1.1\r\nhost: x\r\n\r\nGET /smuggled"),
    "blank in path": replaced(":path", "/a smuggled"),
    "CR LF in method": replaced(":method", "GET /smuggled HTTP/1.1\r\nx: "),
    "blank in method": replaced(":method", "GET /smuggled"),
    "CONNECT": [(":method", "CONNECT"), (":authority", "localhost"), auth],
    "absolute path": replaced(":path", "http://other/smuggled"),
    "star": replaced(":path", "*"),
    "dot segments": replaced(":path", "/a/../smuggled"),
    "authority with CR LF": replaced(":authority", "localhost\r\nsmuggled: 1"),
    "another authority": replaced(":authority", "other"),
    "host differs": base + [("host", "other")],
    "two paths": base[:3] + [(":path", "/a"), (":path", "/smuggled"), auth],
    "pseudo behind": base + [(":path", "/smuggled")],
    "transfer-encoding": base + [("transfer-encoding", "chunked")],
    "connection": base + [("connection", "x-own"), ("x-own", "smuggled")],
    "upgrade": base + [("upgrade", "h2c")],
    "te": base + [("te", "chunked")],
    "override": base + [("x-http-method-override", "DELETE")],
    "length without body": base + [("content-length", "5")],
    "two lengths": base + [("content-length", "0"), ("content-length", "5")],
}
for name, headers in cases.items():
    tls = context.wrap_socket(socket.create_connection(("localhost", int(os.environ["PORT"]))), server_hostname="localhost")
    tls.settimeout(20)
    config = h2.config.H2Configuration(client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False)
    conn = h2.connection.H2Connection(config)
    conn.initiate_connection()
    conn.send_headers(1, headers, end_stream=True)
    tls.sendall(conn.data_to_send())
    result = None
    while result is None:
        try:
            data = tls.recv(65536)
        except OSError:
            data = b""
        if not data:
            result = "closed"; break
        try:
            events = conn.receive_data(data)
        except Exception as e:
            result = "closed"; break
        for event in events:
            if isinstance(event, h2.events.ResponseReceived):
                status = dict(event.headers).get(b":status") or dict(event.headers).get(":status")
                result = status.decode() if isinstance(status, bytes) else status
            elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                result = "reset"
        tls.sendall(conn.data_to_send())
    print(name + ": " + result)
    tls.close()
"#;

#[test]
fn h4_nothing_of_http_2_becomes_something_else_in_http_1() {
    let (world, target) = recorded(EVERYTHING, "");
    let env = [
        ("PORT", world.port.number().to_string()),
        ("ROOT", world.gateway.root_pem().display().to_string()),
        ("TOKEN", world.token().unwrap()),
    ];
    let seen = capture(python(H2_ATTACKS, &env).unwrap(), None, SOON).unwrap().success().unwrap();
    for line in seen.lines() {
        let (name, result) = line.split_once(": ").unwrap();
        let refused = result == "reset"
            || result == "closed"
            || result.starts_with('4')
            || result.starts_with('5');
        assert_eq!(refused, name != "control", "{line}\n{seen}");
    }
    assert_eq!(seen.lines().count(), 27, "{seen}");
    let got = target.got();
    assert_eq!(got.matches("HTTP/1.1").count(), 1, "only the control: {got}");
    has_not(&got, &["smuggled", "Smuggled"]);
    world.verified().unwrap();
}

fn base64url(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec()
}

#[test]
fn a_token_bound_to_a_certificate_needs_it() {
    let (world, _target, mesh) = meshed().unwrap();
    let issue = |name: &str| {
        let leaf = mesh
            .authority
            .issue(&Wish::spiffe(&format!("spiffe://example.com/{name}")).unwrap())
            .unwrap();
        let (cert, key) = leaf.write(&mesh.dir, name).unwrap();
        (cert.display().to_string(), key.display().to_string(), leaf.cert_der.as_ref().to_vec())
    };
    let (cert, key, der) = issue("billing");
    let (other_cert, other_key, _) = issue("other");
    let ask = |certificate: Option<(&str, &str)>, token: Option<&str>| {
        let auth = token.map(|token| format!("authorization: Bearer {token}"));
        let mut args = Vec::new();
        if let Some((cert, key)) = certificate {
            args.extend(["--cert", cert, "--key", key]);
        }
        if let Some(auth) = &auth {
            args.extend(["-H", auth]);
        }
        let answer = world.bare_curl("/a", &args).unwrap().out();
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let own = Some((cert.as_str(), key.as_str()));
    let other = Some((other_cert.as_str(), other_key.as_str()));
    assert_eq!(ask(own, None), "200", "a SPIFFE certificate is an identity of its own");
    let bound = serde_json::json!({ "x5t#S256": base64url(&sha256(&der)) });
    let bound =
        world.issuer.mint().unwrap().subject("billing").claim("cnf", bound).token().unwrap();
    assert_eq!(ask(own, Some(&bound)), "200");
    assert_eq!(ask(None, Some(&bound)), "401", "without its certificate");
    assert_eq!(ask(other, Some(&bound)), "401", "with another's");
    world.verified().unwrap();
}

#[test]
fn a_token_bound_to_a_key_needs_a_proof_each_time() {
    use bulla_e2e::mint::{Alg, Key, Mint};
    let (world, target) = recorded(EVERYTHING, "");
    let key = std::sync::Arc::new(Key::generate(Alg::Es256, "client").unwrap());
    let mut jwk = key.jwk().unwrap();
    let member = |name: &str| jwk[name].as_str().unwrap().to_owned();
    let text = format!(
        "{{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"{}\",\"y\":\"{}\"}}",
        member("x"),
        member("y")
    );
    let thumbprint = base64url(&sha256(text.as_bytes()));
    jwk.as_object_mut()
        .unwrap()
        .retain(|name, _| ["crv", "kty", "x", "y"].contains(&name.as_str()));
    let bound = serde_json::json!({ "jkt": thumbprint });
    let token =
        world.issuer.mint().unwrap().subject("billing").claim("cnf", bound).token().unwrap();
    let plain = world.token().unwrap();
    let proof = |jti: &str| {
        Mint::new("unused", &key)
            .header("typ", "dpop+jwt")
            .header("jwk", jwk.clone())
            .without_header("kid")
            .claim("jti", jti)
            .claim("htm", "GET")
            .claim("htu", world.url("/a"))
            .claim("ath", base64url(&sha256(token.as_bytes())))
    };
    let ask = |scheme: &str, token: &str, proof: Option<String>| {
        let auth = format!("authorization: {scheme} {token}");
        let proof = proof.map(|proof| format!("dpop: {proof}"));
        let mut args = vec!["-H", auth.as_str()];
        if let Some(proof) = &proof {
            args.extend(["-H", proof]);
        }
        let answer = world.bare_curl("/a?x=1", &args).unwrap().out();
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let made = |proof: Mint| Some(proof.token().unwrap());
    assert_eq!(ask("DPoP", &token, made(proof("1"))), "200");
    assert_eq!(ask("DPoP", &token, made(proof("2"))), "200");
    has_not(&target.got().to_lowercase(), &["dpop", "authorization"]);
    target.forget();
    let stranger = std::sync::Arc::new(Key::generate(Alg::Es256, "stranger").unwrap());
    for (what, scheme, token, proof) in [
        ("used before", "DPoP", &token, made(proof("1"))),
        ("no proof", "DPoP", &token, None),
        ("as a bearer's", "Bearer", &token, None),
        ("another method", "DPoP", &token, made(proof("3").claim("htm", "POST"))),
        ("another address", "DPoP", &token, made(proof("4").claim("htu", world.url("/b")))),
        ("another token", "DPoP", &token, made(proof("5").claim("ath", base64url(&sha256(b"x"))))),
        ("no token named", "DPoP", &token, made(proof("6").without("ath"))),
        ("too old", "DPoP", &token, made(proof("7").issued(-300))),
        ("from the future", "DPoP", &token, made(proof("8").issued(300))),
        ("another type", "DPoP", &token, made(proof("9").header("typ", "JWT"))),
        ("forged", "DPoP", &token, made(proof("10").signed_by(&stranger))),
        ("no id", "DPoP", &token, made(proof("11").without("jti"))),
        (
            "a token without a key",
            "DPoP",
            &plain,
            made(proof("12").claim("ath", base64url(&sha256(plain.as_bytes())))),
        ),
    ] {
        assert_eq!(ask(scheme, token, proof), "401", "{what}");
    }
    let other = stranger.jwk().unwrap();
    let other = Mint::new("unused", &stranger)
        .header("typ", "dpop+jwt")
        .header("jwk", other)
        .without_header("kid")
        .claim("jti", "13")
        .claim("htm", "GET")
        .claim("htu", world.url("/a"))
        .claim("ath", base64url(&sha256(token.as_bytes())));
    assert_eq!(ask("DPoP", &token, made(other)), "401", "another key");
    assert_eq!(target.got(), "", "none of them reached the target");
    world.verified().unwrap();
}

#[test]
fn limits_and_lost_targets_are_told_as_what_they_are() {
    let policy = r#"
@id("connect") permit (principal, action == Bulla::Action::"connect", resource);
@id("small") @bytes_max("5") permit (principal, action == Bulla::Action::"http:get", resource)
    when { context has path && context.path == "/small" };
@id("rest") permit (principal, action, resource) unless { context has path && context.path == "/small" };
"#;
    let (world, target) = recorded(policy, "body_max = \"1MiB\"\nfirst_byte = \"2s\"");
    has(&world.curl("/small", &[]).unwrap().out(), &[" 403", "exceeds what policy allows"]);
    has(&world.curl("/a", &[]).unwrap().out(), &[" 200"]);
    let big = world.dir.write("big", vec![b'x'; 3 << 20]).unwrap().display().to_string();
    let put = world.curl("/a", &["-T", &big, "--http1.1"]).unwrap().out();
    has(&put, &["413", "the body is longer than this API takes"]);
    // An answer that is never finished, and one that never begins.
    target.answer(Some(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi"));
    let seen = world.curl("/a", &["--max-time", "5"]).unwrap();
    assert_ne!(seen.code(), 0, "a short answer does not look whole: {}", seen.out());
    target.answer(Some(b"HTTP/1.1 "));
    has(&world.curl("/b", &[]).unwrap().out(), &["504", "did not answer in time"]);
    drop(target);
    let replay = world.replayed().unwrap();
    has(&replay, &["cut:bytes_max", "cut:first_byte"]);
    world.verified().unwrap();
}

/// A server that offers nothing but HTTP/2, and says how it was spoken to.
const ONLY_TWO: &str = "
const http2 = require('node:http2'), fs = require('node:fs');
const at = (name) => fs.readFileSync(process.env.DIR + '/' + name);
const server = http2.createSecureServer({ cert: at('server.pem'), key: at('server.key') });
server.on('request', (req, res) => res.end('spoken ' + req.httpVersion + ' ' + req.method));
server.listen(Number(process.env.PORT), '127.0.0.1', () => console.log('ready'));
";

#[test]
fn a_target_that_speaks_only_http_2_is_spoken_to_by_every_client() {
    let authority = Authority::new("only two").unwrap();
    let (dir, port) = (TempDir::new("only-two").unwrap(), Port::new().unwrap());
    authority.issue(&Wish::server().unwrap()).unwrap().write(&dir, "server").unwrap();
    let node = xtask::places::which("node").expect("no node; install it: apt-get install nodejs");
    let mut server = Command::new(node);
    server.args(["-e", ONLY_TWO]).env("DIR", dir.path());
    server.env("PORT", port.number().to_string());
    let server = Proc::spawn_with("only-two", server, Signal::Kill, None).unwrap();
    server.wait_line("ready", SOON).unwrap();
    let api = ApiSpec::new("api", port.number()).tls(&authority);
    let world = World::start(EVERYTHING, &[api]).unwrap();
    for version in ["--http1.1", "--http2", "--http1.1"] {
        for (method, path) in [("GET", "/a"), ("POST", "/b")] {
            let got = world.curl(path, &[version, "-X", method]).unwrap().out();
            has(&got, &["200", &format!("spoken 2.0 {method}")]);
        }
    }
    world.verified().unwrap();
}

#[test]
fn trace_context_is_kept_and_recorded_and_an_archive_holds_the_exchange() {
    let (world, target) = recorded(EVERYTHING, "");
    let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for version in ["--http1.1", "--http2"] {
        target.forget();
        let args = [version, "-H", trace, "-H", "tracestate: a=1"];
        has(&world.curl("/traced?x=1", &args).unwrap().out(), &["200"]);
        has(&target.got(), &[trace, "tracestate: a=1"]);
    }
    let listed = world.gateway.cli(&["sessions", "ls", "--json"]).unwrap().success().unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let id = listed[0]["session"].as_str().unwrap();
    let har = world.gateway.cli(&["sessions", "replay", id, "--har"]).unwrap().success().unwrap();
    let har: serde_json::Value = serde_json::from_str(&har).unwrap();
    let entry = &har["log"]["entries"][0];
    assert_eq!(entry["request"]["method"], "GET", "{har}");
    has(entry["request"]["url"].as_str().unwrap(), &["/traced?x=1"]);
    has(&entry["request"]["headers"].to_string(), &["traceparent", "b7ad6b7169203331"]);
    assert_eq!(entry["response"]["status"], 200);
    has(&entry["response"]["content"].to_string(), &["ok"]);
    world.verified().unwrap();
}
