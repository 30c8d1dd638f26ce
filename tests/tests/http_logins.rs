//! How the gateway logs in at a target, by targets that check it, and where its secret is afterwards:
//! nowhere.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use bulla_e2e::ca::{Authority, Wish};
use bulla_e2e::expect::{has, has_not};
use bulla_e2e::http::{ApiSpec, Nginx, World, aws_python};
use bulla_e2e::place::{Port, TempDir};
use bulla_e2e::proc::{Proc, Signal};

const EVERYTHING: &str = r#"
@id("everything")
permit (principal, action, resource);
"#;

const SECRET: &str = "Tr0ub4dor-and-3-horses";

/// Whether a file below a folder holds a text, plain or in base64.
fn holds(folder: &Path, needles: &[String]) -> Option<String> {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = holds(&path, needles) {
                return Some(found);
            }
            continue;
        }
        // The files are large, and this search is the library's, not built for debugging.
        let bytes = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        if let Some(needle) = needles.iter().find(|needle| text.contains(needle.as_str())) {
            return Some(format!("{needle} in {}", path.display()));
        }
    }
    None
}

/// The secret is in no answer of the record, in no file of the gateway and in no line of its log.
fn kept(world: &World, secret: &str) {
    let replay = world.replayed().unwrap();
    has(&replay, &["HTTP/1.1 200 OK"]);
    world.verified().unwrap();
    let coded = base64::engine::general_purpose::STANDARD.encode(format!("bulla:{secret}"));
    let needles = [secret.to_owned(), coded];
    for needle in &needles {
        has_not(&replay, &[needle]);
        has_not(&world.gateway.log(), &[needle]);
    }
    assert_eq!(holds(&world.gateway.data_dir(), &needles), None);
}

fn nginx(authority: &Authority, body: &str) -> Nginx {
    Nginx::with(authority, body).unwrap()
}

#[test]
fn basic() {
    let (authority, dir) = (Authority::new("nginx").unwrap(), TempDir::new("basic").unwrap());
    let users = dir.write("users", format!("bulla:{{PLAIN}}{SECRET}\n")).unwrap();
    let body = format!(
        "auth_basic x; auth_basic_user_file {users:?};\n\
         location /who {{ return 200 $remote_user; }}\n\
         location / {{ root ROOT; }}\n\
         location /echo {{ root ROOT; add_header x-echo $http_authorization always; }}\n"
    );
    let nginx = nginx(&authority, &body);
    fs::write(nginx.root().join("files/a"), "a file").unwrap();
    fs::create_dir_all(nginx.root().join("echo")).unwrap();
    fs::write(nginx.root().join("echo/a"), "a file").unwrap();
    let api = |secret: &str| {
        let api = ApiSpec::new("api", nginx.port()).tls(&authority);
        api.secret(secret).http("login = \"basic\"")
    };
    let world = World::start(EVERYTHING, &[api(SECRET)]).unwrap();
    has(&world.curl("/files/a", &[]).unwrap().out(), &["HTTP/2 200", "a file"]);
    // What is told back is not passed on.
    let echo = world.curl("/echo/a", &[]).unwrap().out();
    has(&echo, &["HTTP/2 502"]);
    has_not(&echo, &[SECRET, "x-echo"]);
    kept(&world, SECRET);
    let wrong = World::start(EVERYTHING, &[api("another-secret")]).unwrap();
    has(&wrong.curl("/files/a", &[]).unwrap().out(), &["HTTP/2 401"]);
}

#[test]
fn header() {
    let authority = Authority::new("nginx").unwrap();
    let body = format!(
        "location /echo {{ return 200 $http_x_api_key; }}\n\
         location / {{ if ($http_x_api_key != \"{SECRET}\") {{ return 403; }} return 200 in; }}\n"
    );
    let nginx = nginx(&authority, &body);
    let api = ApiSpec::new("api", nginx.port()).tls(&authority).secret(SECRET);
    let api = api.http("login = \"header\"\nheader = \"x-api-key\"");
    let world = World::start(EVERYTHING, &[api]).unwrap();
    has(&world.curl("/a", &[]).unwrap().out(), &["HTTP/2 200", "in"]);
    // What the client says in that header, once or twice, is not what the target hears.
    let args = ["-H", "x-api-key: mine", "-H", "X-Api-Key: mine, too"];
    has(&world.curl("/a", &args).unwrap().out(), &["HTTP/2 200", "in"]);
    let echo = world.curl("/echo", &[]).unwrap().out();
    has(&echo, &["HTTP/2 502"]);
    has_not(&echo, &[SECRET]);
    kept(&world, SECRET);
}

#[test]
fn certificate() {
    let (authority, dir) = (Authority::new("nginx").unwrap(), TempDir::new("mtls").unwrap());
    let clients = Authority::new("clients of nginx").unwrap();
    let trusted = dir.write("clients.pem", clients.pem()).unwrap();
    let (cert, key) = clients.issue(&Wish::client("bulla")).unwrap().write(&dir, "client").unwrap();
    let body = format!(
        "ssl_client_certificate {}; ssl_verify_client on;\n\
         location / {{ return 200 \"$ssl_client_s_dn $ssl_client_verify\"; }}\n",
        trusted.display()
    );
    let nginx = nginx(&authority, &body);
    let mut api = ApiSpec::new("api", nginx.port()).tls(&authority);
    api.more = format!("login = {{ cert = {cert:?}, key = {key:?} }}\n");
    let world = World::start(EVERYTHING, &[api]).unwrap();
    for version in ["--http1.1", "--http2"] {
        has(&world.curl("/a", &[version]).unwrap().out(), &[" 200", "CN=bulla SUCCESS"]);
    }
    let text = fs::read_to_string(&key).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('-'));
    kept(&world, lines.max_by_key(|line| line.len()).unwrap());
    // Without it the target lets nobody in.
    let bare = ApiSpec::new("api", nginx.port()).tls(&authority);
    let world = World::start(EVERYTHING, &[bare]).unwrap();
    let refused = world.curl("/a", &["--http1.1"]).unwrap().out();
    has_not(&refused, &["SUCCESS", " 200"]);
}

/// Verifies every request as Amazon's own library would have signed what came.
const VERIFIER: &str = r#"
import hashlib, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest, HeadersDict
from botocore.credentials import Credentials
from http.client import HTTPMessage
SECRET, SERVICE = os.environ["SECRET"], os.environ["SERVICE"]
def problem(handler, body):
    kind, rest = handler.headers["authorization"].split(" ", 1)
    parts = dict(part.strip().split("=", 1) for part in rest.split(","))
    access, day, region, service, end = parts["Credential"].split("/")
    if (kind, access, region, service, end) != ("AWS4-HMAC-SHA256", "bulla", "eu-central-1", SERVICE, "aws4_request"):
        return "scope"
    auth = (S3SigV4Auth if SERVICE == "s3" else SigV4Auth)(Credentials(access, SECRET), SERVICE, region)
    request = AWSRequest(method=handler.command, url="https://x" + handler.path, data=body)
    request.context["timestamp"] = handler.headers["x-amz-date"]
    names = parts["SignedHeaders"].split(";")
    must = {"host", "x-amz-date", "x-amz-content-sha256"}
    must |= {n.lower() for n in handler.headers if n.lower().startswith("x-amz-")}
    if not must <= set(names) or names != sorted(names):
        return "names"
    signed = HTTPMessage()
    for name, value in handler.headers.items():
        if name.lower() in names:
            signed[name.lower()] = value
    said = handler.headers["x-amz-content-sha256"]
    if said not in (hashlib.sha256(body).hexdigest(), "UNSIGNED-PAYLOAD"):
        return "body"
    url = urlsplit(handler.path)
    path = quote(unquote(url.path), safe="/~") if SERVICE == "s3" else auth._normalize_url_path(url.path)
    query = auth._canonical_query_string_params(parse_qsl(url.query, keep_blank_values=True))
    canonical = "\n".join([handler.command, path, query, auth.canonical_headers(signed) + "\n", ";".join(names), said])
    text = auth.string_to_sign(request, canonical)
    return None if auth.signature(text, request) == parts["Signature"] else "signature of " + repr(canonical)
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args):
        pass
    def answer(self):
        if self.headers.get("transfer-encoding") == "chunked":
            body = b""
            while (size := int(self.rfile.readline(), 16)):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            why = problem(self, body)
        except Exception as error:
            why = repr(error)
        text = (why or "signed").encode()
        self.send_response(403 if why else 200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)
    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = do_OPTIONS = do_HEAD = answer
server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
print("ready", flush=True)
server.serve_forever()
"#;

#[test]
fn signatures_of_aws() {
    let dir = TempDir::new("aws").unwrap();
    let large = dir.write("large", vec![b'x'; 200_000]).unwrap().display().to_string();
    let large = format!("@{large}");
    for service in ["s3", "execute-api"] {
        let port = Port::new().unwrap();
        let env = [
            ("PORT", port.number().to_string()),
            ("SECRET", SECRET.to_owned()),
            ("SERVICE", service.to_owned()),
        ];
        let target =
            Proc::spawn_with("aws", aws_python(VERIFIER, &env).unwrap(), Signal::Kill, None);
        let target = target.unwrap();
        target.wait_line("ready", Duration::from_secs(60)).unwrap();
        let http = format!("login = \"sigv4\"\nregion = \"eu-central-1\"\nservice = \"{service}\"");
        let api = |secret: &str| ApiSpec::new("api", port.number()).secret(secret).http(&http);
        let world = World::start(EVERYTHING, &[api(SECRET)]).unwrap();
        for (path, args) in [
            ("/", &[][..]),
            ("/a/b.txt", &[]),
            ("/a/", &[]),
            ("/a%20b/c%2Bd", &[]),
            ("/a!b$c&d'e(f)g*h,i=j:k@l", &[]),
            ("/%E4%B8%AD%c3%a9~x", &[]),
            ("/a?list-type=2&prefix=J&max-keys=2", &[]),
            ("/a?b", &[]),
            ("/a?b=&c", &[]),
            ("/a?a1=1&a=2&a-b=3&a.b=4&A=5&a=1", &[]),
            ("/a?x=%2F%20%3D%26&y=*~!'()", &[]),
            ("/a?x=%c3%a9", &[]),
            ("/a", &["-I"]),
            ("/a", &["-X", "DELETE"]),
            ("/a", &["-X", "PUT", "-d", "body", "-H", "content-type: text/plain; charset=utf-8"]),
            ("/a", &["-X", "PUT", "--data-binary", &large]),
            ("/a", &["-X", "PUT", "-d", "x", "-H", "transfer-encoding: chunked"]),
            ("/a", &["-H", "range: bytes=0-9", "-H", "x-amz-meta-a:   two   blanks  "]),
            ("/a", &["-H", "x-amz-meta-b: 1", "-H", "x-amz-meta-b: 2", "-H", "x-amz-acl: private"]),
            // A client's own are not what is sent.
            ("/a", &["-H", "x-amz-date: 19700101T000000Z", "-H", "x-amz-content-sha256: x"]),
            ("/a", &["-H", "x-amz-security-token: mine", "-H", "x-amz-signature: mine"]),
        ] {
            let got = world.curl(path, args).unwrap().out();
            assert!(got.starts_with("HTTP/2 200"), "{service}: {path} {args:?}: {got}");
        }
        kept(&world, SECRET);
        let wrong = World::start(EVERYTHING, &[api("another-secret-key")]).unwrap();
        has(&wrong.curl("/a", &[]).unwrap().out(), &["HTTP/2 403", "signature of"]);
    }
}
