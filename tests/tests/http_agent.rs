//! Credentials toward an API that somebody else keeps: an issuer of OAuth, an agent.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use bulla_e2e::agent::{Agent, AgentSpec, GatewayLink, Join};
use bulla_e2e::ca::Authority;
use bulla_e2e::expect::{has, has_not};
use bulla_e2e::http::{ApiSpec, Nginx, World, python};
use bulla_e2e::place::{Port, TempDir};
use bulla_e2e::proc::{Proc, Signal};

const EVERYTHING: &str = r#"
@id("everything")
permit (principal, action, resource);
"#;

const SOON: Duration = Duration::from_secs(60);
const CLIENT_SECRET: &str = "the client's own: secret";

/// An issuer of access tokens, and an API that takes them.
const SERVER: &str = r#"
import os, json, base64, threading, urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
asked, good, lock = [0], set(), threading.Lock()
life = int(os.environ["LIFE"])
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["content-length"])).decode()))
        kind, pair = self.headers.get("authorization", " ").split(" ", 1)
        pair = base64.b64decode(pair).decode().split(":", 1)
        who = [urllib.parse.unquote_plus(part) for part in pair]
        if kind != "Basic" or who != ["bulla", os.environ["SECRET"]]:
            return self.answer(401, {"error": "invalid_client"})
        if form != {"grant_type": "client_credentials", "scope": "orders read"}:
            return self.answer(400, {"error": "invalid_request"})
        with lock:
            asked[0] += 1
            token = "access-token-%d" % asked[0]; good.add(token)
        self.answer(200, {"access_token": token, "token_type": "Bearer", "expires_in": life})
    def do_GET(self):
        if self.path == "/asked": return self.answer(200, {"asked": asked[0]})
        if self.path == "/revoke":
            good.clear(); return self.answer(200, {})
        token = self.headers.get("authorization", "")[len("Bearer "):]
        if token not in good: return self.answer(401, {"error": "no such token"})
        if self.path == "/echo": return self.answer(200, {"token": token})
        self.answer(200, {"orders": []})
server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
print("ready", flush=True)
server.serve_forever()
"#;

fn server(life: u32) -> (Port, Proc) {
    let port = Port::new().unwrap();
    let env = [
        ("PORT", port.number().to_string()),
        ("SECRET", CLIENT_SECRET.to_owned()),
        ("LIFE", life.to_string()),
    ];
    let server = Proc::spawn_with("issuer", python(SERVER, &env).unwrap(), Signal::Kill, None);
    let server = server.unwrap();
    server.wait_line("ready", SOON).unwrap();
    (port, server)
}

fn login(port: &Port, dir: &TempDir) -> String {
    let path = dir.write("client.secret", CLIENT_SECRET).unwrap();
    format!(
        "login = {{ user = \"bulla\", password_file = {path:?}, oauth = {{ \
         token_url = \"http://127.0.0.1:{}/token\", scope = \"orders read\" }} }}\n",
        port.number()
    )
}

fn asked(world: &World) -> String {
    world.curl("/asked", &[]).unwrap().out()
}

#[test]
fn a_token_is_fetched_once_and_again_when_it_is_no_good() {
    let (port, _server) = server(300);
    let dir = TempDir::new("oauth").unwrap();
    let mut api = ApiSpec::new("api", port.number()).http("login = \"bearer\"");
    api.more = login(&port, &dir);
    let world = World::start(EVERYTHING, &[api]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| has(&world.curl("/orders", &[]).unwrap().out(), &["200", "orders"]));
        }
    });
    has(&asked(&world), &["\"asked\": 1"]);
    // Before the head of the answer has gone it is a 502, and later a body that breaks off.
    has_not(&world.curl("/echo", &[]).unwrap().out(), &["access-token"]);
    // A token that the target does not take is not used for long; what failed has failed.
    has(&world.curl("/revoke", &[]).unwrap().out(), &["200"]);
    has(&world.curl("/orders", &[]).unwrap().out(), &["401", "no such token"]);
    let until = Instant::now() + SOON;
    while !world.curl("/orders", &[]).unwrap().out().contains("\"orders\"") {
        assert!(Instant::now() < until, "{}", world.gateway.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    has(&asked(&world), &["\"asked\": 2"]);
    let replay = world.replayed().unwrap();
    has(&replay, &["GET /orders", "401", "cut:secret"]);
    has_not(&replay, &["access-token", CLIENT_SECRET]);
    has_not(&world.gateway.log(), &["access-token", CLIENT_SECRET]);
    world.verified().unwrap();
}

#[test]
fn a_short_token_is_fetched_again_before_it_ends_and_a_wrong_client_is_told() {
    let (port, _server) = server(2);
    let dir = TempDir::new("oauth").unwrap();
    let mut api = ApiSpec::new("api", port.number()).http("login = \"bearer\"");
    api.more = login(&port, &dir);
    let world = World::start(EVERYTHING, &[api]).unwrap();
    has(&world.curl("/orders", &[]).unwrap().out(), &["200"]);
    let until = Instant::now() + SOON;
    while asked(&world).contains("\"asked\": 1}") {
        assert!(Instant::now() < until, "it is never fetched again");
        std::thread::sleep(Duration::from_millis(200));
    }
    dir.write("client.secret", "another").unwrap();
    while !world.curl("/orders", &[]).unwrap().out().contains("502") {
        assert!(Instant::now() < until, "a wrong client is never told");
        std::thread::sleep(Duration::from_millis(200));
    }
    // What it says comes through a pipe.
    while !world.gateway.log().contains("the issuer answers 401 Unauthorized: invalid_client") {
        assert!(Instant::now() < until, "{}", world.gateway.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A gateway with an API that an agent reaches.
fn through(http: &str) -> (World, u16, Port) {
    let door = Port::new().unwrap();
    let more = format!(
        "[resources.far]\nprotocol = \"http\"\nlisten = \"127.0.0.1:LISTEN\"\nagent = \"eu-1\"\n\
         [resources.far.http]\nhosts = [\"localhost\"]\nauthority = \"localhost\"\n{http}\n\
         [agents]\nlisten = \"127.0.0.1:{}\"\n",
        door.number()
    );
    // A resource of its own keeps the bed's listener; the other name is never asked for.
    let api = ApiSpec::new("near", 1).http("hosts = [\"near.example\"]");
    let world = World::start_with(EVERYTHING, &[api], &more).unwrap();
    let number = door.number();
    (world, number, door)
}

fn agent(world: &World, door: u16, target: &str) -> Agent {
    let done = world.gateway.cli(&["agent", "join-token", "--name", "eu-1", "--resource", "far"]);
    let token = done.unwrap().success().unwrap();
    let spec = AgentSpec {
        name: "eu-1".to_owned(),
        gateways: vec![GatewayLink {
            address: format!("127.0.0.1:{door}"),
            join: Join::Token(token.trim().to_owned()),
        }],
        targets: Vec::new(),
        more: format!("\n[targets.far]\nprotocol = \"http\"\n{target}"),
        host: None,
    };
    let agent = Agent::start(&spec).unwrap();
    world.gateway.wait_agents(1).unwrap();
    agent
}

#[test]
fn an_api_is_reached_through_an_agent_with_the_agents_secret() {
    let authority = Authority::new("targets").unwrap();
    let nginx = Nginx::start(&authority).unwrap();
    let dir = TempDir::new("far").unwrap();
    let ca = dir.write("ca.pem", authority.pem()).unwrap();
    let secret = dir.write("secret", "the-secret-of-the-far-api").unwrap();
    let (world, door, _door) = through("login = \"bearer\"");
    let offline = world.curl("/api/x", &[]).unwrap().out();
    has(&offline, &["502", "could not reach `far` (agent `eu-1` is offline)"]);
    let agent = agent(
        &world,
        door,
        &format!(
            "target = {{ host = \"localhost\", port = {}, ca = {ca:?} }}\n\
             login = {{ password_file = {secret:?} }}\n",
            nginx.port()
        ),
    );
    for (version, proto) in [("--http1.1", "HTTP/1.1"), ("--http2", "HTTP/2.0")] {
        let got = world.curl("/api/orders", &[version]).unwrap().out();
        has(&got, &["200", r#""path":"/api/orders""#, &format!("\"proto\":\"{proto}\"")]);
    }
    nginx.wait_logged("Bearer the-secret-of-the-far-api").unwrap();
    // Both ways, of any size.
    let big = dir.write("big", "0123456789abcdef".repeat(512 << 10)).unwrap();
    let up = ["-T", big.to_str().unwrap()];
    has(&world.curl("/upload/big", &up).unwrap().out(), &["201"]);
    assert_eq!(std::fs::metadata(nginx.root().join("upload/big")).unwrap().len(), 8 << 20);
    has_not(&world.curl("/echo", &[]).unwrap().out(), &["the-secret-of"]);
    agent.kill().unwrap();
    let until = Instant::now() + SOON;
    while !world.curl("/api/x", &[]).unwrap().out().contains("is offline") {
        assert!(Instant::now() < until, "{}", world.gateway.log());
    }
    let replay = world.replayed().unwrap();
    has(&replay, &["GET /api/orders", "PUT /upload/big", "cut:secret"]);
    has_not(&replay, &["the-secret-of"]);
    has_not(&world.gateway.log(), &["the-secret-of"]);
    world.verified().unwrap();
}

#[test]
fn an_agent_hands_over_a_token_and_keeps_the_client() {
    let (port, _server) = server(300);
    let dir = TempDir::new("far").unwrap();
    let (world, door, _door) = through("login = \"bearer\"");
    let target = format!(
        "target = {{ host = \"localhost\", port = {}, tls = \"off\" }}\n{}",
        port.number(),
        login(&port, &dir)
    );
    let _agent = agent(&world, door, &target);
    has(&world.curl("/orders", &[]).unwrap().out(), &["200", "orders"]);
    has(&asked(&world), &["\"asked\": 1"]);
    // The agent hears that its token is no good.
    has(&world.curl("/revoke", &[]).unwrap().out(), &["200"]);
    let until = Instant::now() + SOON;
    while !world.curl("/orders", &[]).unwrap().out().contains("\"orders\"") {
        assert!(Instant::now() < until, "{}", world.gateway.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    has(&asked(&world), &["\"asked\": 2"]);
    has_not(&world.replayed().unwrap(), &["access-token", CLIENT_SECRET]);
    world.verified().unwrap();
}
