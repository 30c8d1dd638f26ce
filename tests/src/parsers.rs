//! Servers of other hands, as targets: each says of every request how it read it.
//!
//! What the gateway judged is worth nothing if the target reads something else. So a target here
//! tells, per request, method, target, host and a digest of the body, in one line.

use std::fmt::Write as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use xtask::places;

use crate::http::python;
use crate::place::{Port, TempDir};
use crate::proc::{Proc, Signal};

const PATIENCE: Duration = Duration::from_secs(120);

/// Whose parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hand {
    /// `net/http`.
    Go,
    /// `http`, which is llhttp.
    Node,
    /// `h11`, which is what hypercorn reads with, and uvicorn can.
    Python,
}

const GO: &str = r#"package main
import ("crypto/sha256"; "fmt"; "io"; "net/http"; "os"; "sync")
var lock sync.Mutex
func main() {
	own := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil { return }
		lock.Lock()
		fmt.Printf("SEEN %s %s %s %x\n", r.Method, r.RequestURI, r.Host, sha256.Sum256(body))
		lock.Unlock()
		w.Header().Set("content-type", "application/json")
		fmt.Fprintf(w, "{\"ok\":true,\"target\":%q,\"body\":\"%x\"}", r.RequestURI, sha256.Sum256(body))
	})
	fmt.Println("ready")
	panic(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), own))
}
"#;

const NODE: &str = r#"
const http = require('http'), crypto = require('crypto');
http.createServer((request, answer) => {
  const hash = crypto.createHash('sha256');
  request.on('data', piece => hash.update(piece));
  request.on('end', () => {
    console.log(`SEEN ${request.method} ${request.url} ${request.headers.host} ${hash.digest('hex')}`);
    answer.setHeader('content-type', 'application/json');
    answer.end('{"ok":true}');
  });
  request.on('error', () => {});
}).listen(Number(process.env.PORT), '127.0.0.1', () => console.log('ready'));
"#;

const PYTHON: &str = r#"
import hashlib, os, socket, threading, h11
lock = threading.Lock()
def whole(conn, sock):
    request, body = None, b""
    while True:
        event = conn.next_event()
        if event is h11.NEED_DATA:
            if conn.they_are_waiting_for_100_continue:
                sock.sendall(conn.send(h11.InformationalResponse(status_code=100, headers=[])))
            conn.receive_data(sock.recv(65536))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return request, body
        else:
            return None, None
def serve(sock):
    conn = h11.Connection(h11.SERVER)
    try:
        while True:
            request, body = whole(conn, sock)
            if request is None:
                return
            host = dict(request.headers).get(b"host", b"-").decode()
            with lock:
                print("SEEN", request.method.decode(), request.target.decode(), host,
                      hashlib.sha256(body).hexdigest(), flush=True)
            answer = b'{"ok":true}'
            fields = [("content-type", "application/json"), ("content-length", str(len(answer)))]
            sock.sendall(conn.send(h11.Response(status_code=200, headers=fields)))
            if request.method != b"HEAD":
                sock.sendall(conn.send(h11.Data(data=answer)))
            sock.sendall(conn.send(h11.EndOfMessage()))
            if conn.our_state is h11.MUST_CLOSE:
                return
            conn.start_next_cycle()
    except (h11.RemoteProtocolError, OSError):
        return
    finally:
        sock.close()
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=128)
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;

/// A request as a target read it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub host: String,
    /// SHA-256 of the body, in hexadecimal digits.
    pub body: String,
}

/// A target without TLS. Dropped, it is gone.
#[derive(Debug)]
pub struct Target {
    proc: Proc,
    port: Port,
    _dir: TempDir,
}

impl Target {
    /// # Errors
    /// What it needs is not installed (the message says how), or it does not start.
    pub fn start(hand: Hand) -> Result<Self> {
        let (dir, port) = (TempDir::new("parser")?, Port::new()?);
        let mut command = match hand {
            Hand::Go => go(&dir)?,
            Hand::Node => {
                let node = places::which("node");
                let node = node.context("no node; install it: apt-get install nodejs")?;
                let mut command = Command::new(node);
                command.arg(dir.write("target.cjs", NODE)?).env_clear();
                command
            }
            Hand::Python => python(PYTHON, &[])?,
        };
        command.env("PORT", port.number().to_string());
        let proc = Proc::spawn_with("parser", command, Signal::Terminate, None)?;
        proc.wait_line("ready", PATIENCE)?;
        Ok(Self { proc, port, _dir: dir })
    }
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Every request so far, in the order in which they were read whole.
    ///
    /// # Errors
    /// A line of it is malformed.
    pub fn seen(&self) -> Result<Vec<Seen>> {
        let out = self.proc.output().0;
        let text = String::from_utf8_lossy(&out).into_owned();
        let lines = text.lines().filter_map(|line| line.strip_prefix("SEEN "));
        lines
            .map(|line| {
                let parts: Vec<&str> = line.split(' ').collect();
                let [method, target, host, body] = parts[..] else {
                    bail!("a request with blanks in it: {line}")
                };
                let own = |text: &str| text.to_owned();
                Ok(Seen {
                    method: own(method),
                    target: own(target),
                    host: own(host),
                    body: own(body),
                })
            })
            .collect()
    }

    /// The same, once `target` is among them.
    ///
    /// # Errors
    /// It does not come.
    pub fn seen_with(&self, target: &str) -> Result<Vec<Seen>> {
        let until = Instant::now() + PATIENCE;
        loop {
            let seen = self.seen()?;
            if seen.iter().any(|one| one.target == target) {
                return Ok(seen);
            }
            ensure!(Instant::now() < until, "`{target}` never came");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The program in Go, built.
fn go(dir: &TempDir) -> Result<Command> {
    let go = places::which("go").context("no go; install it: apt-get install golang-go")?;
    let source = dir.write("target.go", GO)?;
    let program = dir.join("target");
    let mut build = Command::new(go);
    build.arg("build").arg("-o").arg(&program).arg(source).env("GO111MODULE", "off");
    build.env("GOCACHE", places::cache().join("go/build")).env("CGO_ENABLED", "0");
    build.env("GOFLAGS", "-trimpath");
    crate::proc::capture(build, None, PATIENCE)?.success()?;
    let mut command = Command::new(program);
    command.env_clear();
    Ok(command)
}

/// SHA-256 of a body, in hexadecimal digits.
pub fn digest(body: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body);
    digest.as_ref().iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}
