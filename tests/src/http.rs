//! HTTP APIs behind the gateway: a target that keeps every byte that it gets, nginx, and a client
//! that sends whatever bytes a test wants.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::ServerName;
use xtask::places;

use crate::ca::{Authority, Wish};
use crate::gateway::{Gateway, Spec};
use crate::issuer::Issuer;
use crate::place::{Port, TempDir};
use crate::proc::{Captured, Proc, Signal, capture};

const PATIENCE: Duration = Duration::from_secs(30);

/// How long a client waits for an answer that does not come.
const ANSWER: Duration = Duration::from_secs(20);

/// A target without TLS that keeps every byte and answers each request with a short JSON text.
#[derive(Debug)]
pub struct Recorder {
    port: Port,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    got: Mutex<Vec<u8>>,
    connections: AtomicUsize,
    stopped: AtomicBool,
    /// What is answered instead of the usual, to every request.
    answer: Mutex<Option<Vec<u8>>>,
    /// The head of an answer, and the halves of its body, come one after the other.
    slow: AtomicBool,
    /// The connection ends with each answer.
    closing: AtomicBool,
    /// The answer comes as soon as the head is there, and the body is read behind it.
    early: AtomicBool,
}

impl Recorder {
    /// # Errors
    /// There is no port to be had.
    pub fn start() -> Result<Self> {
        let port = Port::new()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number()));
        let listener = listener.context("listen as a target")?;
        let shared = Arc::new(Shared::default());
        let own = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if own.stopped.load(Ordering::SeqCst) {
                    return;
                }
                own.connections.fetch_add(1, Ordering::SeqCst);
                let own = own.clone();
                thread::spawn(move || own.serve(stream));
            }
        });
        Ok(Self { port, shared })
    }
    pub fn port(&self) -> u16 {
        self.port.number()
    }
    /// Everything that came in, over all connections.
    pub fn got(&self) -> String {
        let got = self.shared.got.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&got).into_owned()
    }
    pub fn forget(&self) {
        self.shared.got.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
    /// Answers so from now on; an empty answer closes the connection.
    pub fn answer(&self, bytes: Option<&[u8]>) {
        let mut answer = self.shared.answer.lock().unwrap_or_else(PoisonError::into_inner);
        *answer = bytes.map(<[u8]>::to_vec);
    }
    /// Ends its connection behind each answer from now on, or does not.
    pub fn closes(&self, closing: bool) {
        self.shared.closing.store(closing, Ordering::SeqCst);
    }
    /// Answers from now on before it reads a body.
    pub fn answers_early(&self) {
        self.shared.early.store(true, Ordering::SeqCst);
    }
    /// Pauses from now on within its answers.
    pub fn slowly(&self) {
        self.shared.slow.store(true, Ordering::SeqCst);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port.number()));
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        let mut unread: Vec<u8> = Vec::new();
        let mut buffer = [0; 16 << 10];
        // The request whose body is awaited was answered.
        let mut answered = false;
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            let piece = buffer.get(..length).unwrap_or_default();
            self.got.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(piece);
            unread.extend_from_slice(piece);
            loop {
                let end = whole(&unread);
                let head = unread.windows(4).any(|window| window == b"\r\n\r\n");
                let early = self.early.load(Ordering::SeqCst) && head;
                if !answered && (end.is_some() || early) {
                    if !self.answered(&mut stream) {
                        let _ = stream.shutdown(Shutdown::Both);
                        return;
                    }
                    answered = true;
                }
                let Some(end) = end else { break };
                unread.drain(..end);
                answered = false;
            }
        }
    }

    /// Answers. False: the connection ends with it.
    fn answered(&self, stream: &mut TcpStream) -> bool {
        let usual = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                      content-length: 11\r\n\r\n{\"ok\":true}"
            .to_vec();
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let answer = answer.unwrap_or(usual);
        let wrote = !answer.is_empty() && self.write(stream, &answer).is_ok();
        wrote && !self.closing.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn write(&self, stream: &mut TcpStream, answer: &[u8]) -> std::io::Result<()> {
        if !self.slow.load(Ordering::SeqCst) {
            return stream.write_all(answer);
        }
        let head =
            answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |at| at + 4);
        let (head, body) = answer.split_at(head);
        let (first, second) = body.split_at(body.len() / 2);
        for part in [head, first, second] {
            stream.write_all(part)?;
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// Length of the first request in `bytes`, if it is whole.
fn whole(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(bytes.get(..end)?).to_lowercase();
    if head.contains("transfer-encoding: chunked") {
        let rest = bytes.get(end..)?;
        let last = rest.windows(5).position(|window| window == b"0\r\n\r\n")?;
        return Some(end + last + 5);
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
    (bytes.len() >= end + length).then_some(end + length)
}

/// An API behind the gateway, as its operator writes it down.
#[derive(Clone, Debug)]
pub struct ApiSpec {
    pub name: String,
    pub port: u16,
    /// PEM of the target's authority; none is a target without TLS.
    pub root: Option<String>,
    pub secret: Option<String>,
    /// Lines of `[resources.NAME.http]`.
    pub http: String,
    /// Lines of `[resources.NAME]`.
    pub more: String,
}

impl ApiSpec {
    pub fn new(name: &str, port: u16) -> Self {
        let (name, http, more) = (name.to_owned(), String::new(), String::new());
        Self { name, port, root: None, secret: None, http, more }
    }
    #[must_use]
    pub fn tls(mut self, authority: &Authority) -> Self {
        self.root = Some(authority.pem());
        self
    }
    #[must_use]
    pub fn secret(mut self, secret: &str) -> Self {
        self.secret = Some(secret.to_owned());
        self
    }
    #[must_use]
    pub fn http(mut self, lines: &str) -> Self {
        let _ = writeln!(self.http, "{lines}");
        self
    }
}

/// A gateway before APIs, all on one address, with an issuer.
#[derive(Debug)]
pub struct World {
    pub gateway: Gateway,
    pub issuer: Issuer,
    pub authority: Authority,
    pub dir: TempDir,
    pub port: Port,
}

impl World {
    /// # Errors
    /// The gateway does not start.
    pub fn start(policy: &str, apis: &[ApiSpec]) -> Result<Self> {
        Self::start_with(policy, apis, "")
    }

    /// The same with another build of the gateway, where `program` names one.
    ///
    /// # Errors
    /// The gateway does not start.
    pub fn start_as(program: Option<PathBuf>, policy: &str, apis: &[ApiSpec]) -> Result<Self> {
        Self::start_all(program, policy, apis, "", &[])
    }

    /// `more`: further tables of the configuration; `LISTEN` stands for the port.
    ///
    /// # Errors
    /// The gateway does not start.
    pub fn start_with(policy: &str, apis: &[ApiSpec], more: &str) -> Result<Self> {
        Self::start_all(None, policy, apis, more, &[])
    }

    /// The same, with variables in the gateway's environment.
    ///
    /// # Errors
    /// The gateway does not start.
    pub fn start_in(
        env: &[(String, String)],
        policy: &str,
        apis: &[ApiSpec],
        more: &str,
    ) -> Result<Self> {
        Self::start_all(None, policy, apis, more, env)
    }

    fn start_all(
        program: Option<PathBuf>,
        policy: &str,
        apis: &[ApiSpec],
        more: &str,
        env: &[(String, String)],
    ) -> Result<Self> {
        let authority = Authority::new("http bed")?;
        let issuer = Issuer::start()?;
        let (dir, port) = (TempDir::new("http")?, Port::new()?);
        let mut last = String::new();
        for api in apis {
            let name = &api.name;
            let tls = match &api.root {
                None => "tls = \"off\"".to_owned(),
                Some(pem) => {
                    let path = dir.write(&format!("{name}.root.pem"), pem)?;
                    format!("ca = {path:?}")
                }
            };
            write!(
                last,
                "[resources.{name}]\nprotocol = \"http\"\nlisten = \"127.0.0.1:{}\"\n\
                 target = {{ host = \"localhost\", port = {}, {tls} }}\n{}",
                port.number(),
                api.port,
                api.more
            )?;
            if let Some(secret) = &api.secret {
                let path = dir.write(&format!("{name}.secret"), secret)?;
                writeln!(last, "login = {{ user = \"bulla\", password_file = {path:?} }}")?;
            }
            writeln!(last, "[resources.{name}.http]\n{}", api.http)?;
        }
        last.push_str(&more.replace("LISTEN", &port.number().to_string()));
        let spec = Spec { last, program, ..Spec::empty(&issuer).policy("api.cedar", policy) };
        let gateway = Gateway::start_with(&authority, spec, env)?;
        Ok(Self { gateway, issuer, authority, dir, port })
    }

    /// # Errors
    /// The issuer has no key.
    pub fn token(&self) -> Result<String> {
        self.issuer.mint()?.subject("billing/api").claim("team", "billing").token()
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port.number())
    }

    /// curl against the gateway, with a token, status line and headers in the answer.
    ///
    /// # Errors
    /// It is not installed or does not end.
    pub fn curl(&self, path: &str, args: &[&str]) -> Result<Captured> {
        let token = format!("authorization: Bearer {}", self.token()?);
        let mut all = vec!["-H", &token];
        all.extend(args);
        self.bare_curl(path, &all)
    }

    /// curl without a token.
    ///
    /// # Errors
    /// It is not installed or does not end.
    pub fn bare_curl(&self, path: &str, args: &[&str]) -> Result<Captured> {
        curl(&self.gateway.root_pem(), &self.url(path), args)
    }

    /// A client of the gateway that sends whatever bytes it is told to.
    ///
    /// # Errors
    /// The gateway does not take it.
    pub fn raw(&self, alpn: &[&str]) -> Result<Raw> {
        Raw::connect(self.port.number(), &self.authority, "localhost", alpn)
    }

    /// Stops the gateway and verifies its log.
    ///
    /// # Errors
    /// It does not end well, or the log does not hold.
    pub fn verified(&self) -> Result<()> {
        ensure!(self.gateway.terminate()?.success(), "{}", self.gateway.log());
        let args = ["log", "verify", "data/archive", "--key", "data/log.vkey"];
        let done = self.gateway.cli(&args)?;
        ensure!(done.code() == 0, "{}{}", done.out(), done.err());
        Ok(())
    }

    /// What every session of the record says, answers included.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn replayed(&self) -> Result<String> {
        let listed = self.gateway.cli(&["sessions", "ls", "--json"])?.success()?;
        let listed: serde_json::Value = serde_json::from_str(&listed).context("read the list")?;
        let mut all = String::new();
        for session in listed.as_array().context("a list")? {
            let id = session["session"].as_str().context("an id")?;
            let shown = self.gateway.cli(&["sessions", "replay", id, "--offline"])?;
            all.push_str(&shown.success()?);
        }
        Ok(all)
    }
}

/// Permits everything.
pub const EVERYTHING: &str = r#"
@id("everything")
permit (principal, action, resource);
"#;

/// A gateway that permits everything, before one target that keeps every byte.
///
/// # Errors
/// One of them does not start.
pub fn recorded() -> Result<(World, Recorder)> {
    let target = Recorder::start()?;
    let api = ApiSpec::new("api", target.port());
    Ok((World::start(EVERYTHING, &[api])?, target))
}

/// A trust domain `example.com`, and where its bundle is.
#[derive(Debug)]
pub struct Mesh {
    pub authority: Authority,
    pub dir: TempDir,
}

/// The same, with certificates of a trust domain for clients.
///
/// # Errors
/// Something does not start.
pub fn meshed() -> Result<(World, Recorder, Mesh)> {
    let (target, mesh) = (Recorder::start()?, Authority::new("mesh")?);
    let dir = TempDir::new("mesh")?;
    let bundle = dir.write("bundle.pem", mesh.pem())?;
    let more =
        format!("[trust_domains.mesh]\ntrust_domain = \"example.com\"\nbundle = {bundle:?}\n");
    let api = ApiSpec::new("api", target.port());
    let world = World::start_with(EVERYTHING, &[api], &more)?;
    Ok((world, target, Mesh { authority: mesh, dir }))
}

/// curl, trusting one authority, with status line and headers in the answer.
///
/// # Errors
/// It is not installed or does not end.
pub fn curl(root: &Path, url: &str, args: &[&str]) -> Result<Captured> {
    let curl = places::which("curl").context("no curl; install it: apt-get install curl")?;
    let mut command = Command::new(curl);
    command.args(["-sS", "-i", "--max-time", "30", "--noproxy", "*", "--path-as-is"]);
    command.arg("--cacert").arg(root).args(args).arg(url);
    capture(command, None, PATIENCE)
}

/// What a filter makes of `text`.
///
/// # Errors
/// It cannot be started, or fails.
pub fn piped(command: &mut Command, text: &[u8]) -> Result<Vec<u8>> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().context("its input")?;
    let text = text.to_vec();
    let writing = thread::spawn(move || input.write_all(&text));
    let done = child.wait_with_output()?;
    writing.join().map_err(|_| anyhow::anyhow!("writing its input panicked"))??;
    ensure!(done.status.success(), "{command:?} failed");
    Ok(done.stdout)
}

/// # Errors
/// There is no `gzip`.
pub fn gzip(text: &[u8]) -> Result<Vec<u8>> {
    piped(Command::new("gzip").arg("-c"), text)
}

/// A TLS connection on which a test writes bytes as it likes.
pub struct Raw {
    tls: rustls::StreamOwned<rustls::ClientConnection, TcpStream>,
    got: Vec<u8>,
}

impl Raw {
    /// # Errors
    /// No connection, or no TLS.
    pub fn connect(port: u16, authority: &Authority, name: &str, alpn: &[&str]) -> Result<Self> {
        crate::crypto();
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(authority.roots()?)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).context("a host name")?;
        let connection = rustls::ClientConnection::new(Arc::new(config), name)?;
        let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("reach the gateway")?;
        tcp.set_read_timeout(Some(ANSWER))?;
        tcp.set_nodelay(true)?;
        let mut tls = rustls::StreamOwned::new(connection, tcp);
        tls.flush().context("shake hands")?;
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock).context("shake hands")?;
        }
        Ok(Self { tls, got: Vec::new() })
    }

    pub fn alpn(&self) -> Option<String> {
        self.tls.conn.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned())
    }

    /// # Errors
    /// The gateway has closed.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.tls.write_all(bytes.as_ref()).context("write")?;
        self.tls.flush().context("flush")
    }

    /// Says that nothing more comes, and reads on.
    pub fn finish(&mut self) {
        self.tls.conn.send_close_notify();
        // The other side may have closed already.
        let _ = self.tls.flush();
        let _ = self.tls.sock.shutdown(Shutdown::Write);
    }

    /// The next frame of HTTP/2: kind, flags, stream and payload. None: the connection has ended, or
    /// nothing came within the time.
    pub fn frame(&mut self, time: Duration) -> Option<(u8, u8, u32, Vec<u8>)> {
        let until = Instant::now() + time;
        let mut buffer = [0; 16 << 10];
        loop {
            if let Some([a, b, c, kind, flags, d, e, f, g]) = self.got.first_chunk::<9>().copied() {
                let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                if self.got.len() >= 9 + length {
                    let frame: Vec<u8> = self.got.drain(..9 + length).skip(9).collect();
                    return Some((kind, flags, u32::from_be_bytes([d, e, f, g]) << 1 >> 1, frame));
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.tls.sock.set_read_timeout(Some(left)).is_err() {
                return None;
            }
            match self.tls.read(&mut buffer) {
                Ok(length @ 1..) => {
                    self.got.extend_from_slice(buffer.get(..length).unwrap_or_default());
                }
                Ok(_) | Err(_) => return None,
            }
        }
    }

    /// Reads until the connection ends; whatever came.
    pub fn rest(mut self) -> Vec<u8> {
        let mut buffer = [0; 16 << 10];
        while let Ok(length @ 1..) = self.tls.read(&mut buffer) {
            self.got.extend_from_slice(buffer.get(..length).unwrap_or_default());
        }
        self.got
    }

    /// Reads until what came holds `needle`.
    ///
    /// # Errors
    /// It ends or pauses for long without.
    pub fn until(&mut self, needle: &str) -> Result<String> {
        let mut buffer = [0; 16 << 10];
        loop {
            let text = String::from_utf8_lossy(&self.got).into_owned();
            if text.contains(needle) {
                self.got.clear();
                return Ok(text);
            }
            match self.tls.read(&mut buffer) {
                Ok(length @ 1..) => {
                    self.got.extend_from_slice(buffer.get(..length).unwrap_or_default());
                }
                Ok(_) => bail!("it ended without `{needle}`: {text}"),
                Err(error) => bail!("no `{needle}` ({error}): {text}"),
            }
        }
    }

    /// Whether the other side closes within a time.
    pub fn closes_within(mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut buffer = [0; 4096];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.tls.sock.set_read_timeout(Some(left)).is_err() {
                return false;
            }
            match self.tls.read(&mut buffer) {
                Ok(1..) => {}
                Ok(_) => return true,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
                Err(_) => return true,
            }
        }
    }
}

/// nginx with TLS, HTTP/1.1 and HTTP/2, as a target. Dropped, it is gone.
#[derive(Debug)]
pub struct Nginx {
    proc: Proc,
    port: Port,
    dir: TempDir,
}

impl Nginx {
    /// Serves JSON at `/api/`, files below `/files/`, and takes uploads of any size at `/upload/`.
    ///
    /// # Errors
    /// It is not installed (the message says how), or does not start.
    pub fn start(authority: &Authority) -> Result<Self> {
        let body = "location /api/ { default_type application/json; return 200 '{\"path\":\"$request_uri\",\"method\":\"$request_method\",\"proto\":\"$server_protocol\"}'; }\n\
             location /echo { return 200 $http_authorization; }\n\
             location /files/ { root ROOT; }\n\
             location /upload/ { root ROOT; dav_methods PUT DELETE; create_full_put_path on; client_max_body_size 0; }\n";
        Self::with(authority, body)
    }

    /// `body`: what stands in its `server`; `ROOT` is a folder that it may write.
    ///
    /// # Errors
    /// It is not installed (the message says how), or does not start.
    pub fn with(authority: &Authority, body: &str) -> Result<Self> {
        let nginx = places::which("nginx").or_else(|| Some(PathBuf::from("/usr/sbin/nginx")));
        let nginx = nginx.filter(|path| path.is_file());
        let nginx = nginx.context("no nginx; install it: apt-get install nginx-light")?;
        let (dir, port) = (TempDir::new("nginx")?, Port::new()?);
        authority.issue(&Wish::server()?)?.write(&dir, "server")?;
        std::fs::create_dir_all(dir.join("root/files")).context("create a folder")?;
        let path = |name: &str| dir.join(name).display().to_string();
        let root = path("root");
        let user = if places::is_root() { "user root;" } else { "" };
        let config = format!(
            "daemon off; {user} worker_processes 1; pid {}; error_log stderr info;\n\
             events {{ worker_connections 2048; }}\n\
             http {{ log_format own '$request $status $http_authorization'; access_log {} own; client_body_temp_path {}; proxy_temp_path {};\n\
             fastcgi_temp_path {}; uwsgi_temp_path {}; scgi_temp_path {}; keepalive_requests 1000000;\n\
             server {{ listen 127.0.0.1:{} ssl http2; server_name localhost;\n\
             ssl_certificate {}; ssl_certificate_key {};\n{} }} }}\n",
            path("pid"),
            path("access.log"),
            path("t1"),
            path("t2"),
            path("t3"),
            path("t4"),
            path("t5"),
            port.number(),
            path("server.pem"),
            path("server.key"),
            body.replace("ROOT", &root),
        );
        let config = dir.write("nginx.conf", config)?;
        let mut command = Command::new(nginx);
        command.arg("-e").arg("stderr").arg("-p").arg(dir.path()).arg("-c").arg(config);
        let proc = Proc::spawn_with("nginx", command, Signal::Terminate, None)?;
        proc.wait_line("start worker process", PATIENCE)?;
        Ok(Self { proc, port, dir })
    }
    pub fn port(&self) -> u16 {
        self.port.number()
    }
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }
    pub fn pid(&self) -> libc::pid_t {
        self.proc.pid()
    }
    /// Waits until its log of requests holds `needle`: it writes it after it has answered.
    ///
    /// # Errors
    /// It does not in time; the message has the log.
    pub fn wait_logged(&self, needle: &str) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !self.access_log().contains(needle) {
            ensure!(Instant::now() < until, "no `{needle}` in {}", self.access_log());
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
    /// The requests that reached it, with the credential that they had.
    pub fn access_log(&self) -> String {
        std::fs::read_to_string(self.dir.join("access.log")).unwrap_or_default()
    }
}

/// A Python script with the HTTP libraries of `cargo xtask setup`.
///
/// # Errors
/// They are not installed (the message says how).
pub fn python(script: &str, env: &[(&str, String)]) -> Result<Command> {
    python_of(&places::http_python(), script, env)
}

/// The same with the libraries of Amazon.
///
/// # Errors
/// They are not installed (the message says how).
pub fn aws_python(script: &str, env: &[(&str, String)]) -> Result<Command> {
    python_of(&places::aws_python(), script, env)
}

fn python_of(python: &Path, script: &str, env: &[(&str, String)]) -> Result<Command> {
    ensure!(python.is_file(), "no Python libraries; install them: cargo xtask setup");
    let mut command = Command::new(python);
    command.args(["-I", "-c", script]).env_clear().env("PATH", "/usr/bin:/bin");
    command.env("LC_ALL", "C.UTF-8").env("HOME", "/nonexistent").env("no_proxy", "*");
    command.envs(env.iter().map(|(name, value)| (*name, value.as_str())));
    Ok(command)
}
