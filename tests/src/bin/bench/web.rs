//! HTTP through the gateway beside nginx and HAProxy as reverse proxies, TLS on both legs.
//!
//! Everybody stands before the same nginx and gets the same load: 32 connections of HTTP/1.1 that
//! are kept. The neighbours judge nothing, keep no log and reuse their connections to the target
//! for everybody; the gateway judges and records both directions whole.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bulla_e2e::ca::{Authority, Wish};
use bulla_e2e::http::{ApiSpec, Nginx, World};
use bulla_e2e::place::{Port, TempDir};
use bulla_e2e::proc::{Proc, Signal, capture};
use xtask::places;

use crate::rows::{Reach, Row, show};
use crate::traffic::{SETTLE, cpu_time, sleeps};
use crate::{Args, median};

const CONNECTIONS: &str = "32";
const WARM_UP_S: u32 = 1;
const START: Duration = Duration::from_secs(30);
const PATIENCE_S: u64 = 60;

const POLICY: &str = r#"
@id("bench-may-everything")
permit (principal, action, resource);
"#;

/// What is asked for, and how long it is.
const PAGES: [(&str, usize); 2] = [("/files/small.json", 200), ("/files/large.json", 100_000)];

/// A way to the same target.
struct Contender {
    name: &'static str,
    port: u16,
    /// The processes between.
    pids: Vec<libc::pid_t>,
    /// Of the gateway: each has an issuer of its own.
    world: Option<World>,
}

/// What one round of one contender gave.
#[derive(Clone, Copy)]
struct Sample {
    rate: f64,
    /// Microseconds of the processes between, for each request.
    cpu_us: f64,
    /// How often a thread of them slept and was woken, for each request.
    wakes: f64,
}

/// Everything that stands between, and the target.
struct Bed {
    contenders: Vec<Contender>,
    _neighbours: Vec<(Proc, TempDir, Port)>,
    _target: Nginx,
}

/// A JSON text of a length.
fn page(bytes: usize) -> String {
    let item = r#"{"id":4711,"state":"shipped","note":"nothing of note"},"#;
    let mut text = "[".to_owned();
    while text.len() + item.len() < bytes {
        text.push_str(item);
    }
    text.push('"');
    text.push_str(&"x".repeat(bytes.saturating_sub(text.len() + 2)));
    text.push_str("\"]");
    text
}

fn program(name: &str, package: &str) -> Result<PathBuf> {
    let found = places::which(name).or_else(|| Some(PathBuf::from("/usr/sbin").join(name)));
    let found = found.filter(|path| path.is_file());
    found.with_context(|| format!("no {name}; install it: apt-get install {package}"))
}

fn nginx(authority: &Authority, target: u16) -> Result<(Proc, TempDir, Port)> {
    let (dir, port) = (TempDir::new("nginx-proxy")?, Port::new()?);
    authority.issue(&Wish::server()?)?.write(&dir, "server")?;
    dir.write("root.pem", authority.pem())?;
    let path = |name: &str| dir.join(name).display().to_string();
    let user = if places::is_root() { "user root;" } else { "" };
    let config = format!(
        "daemon off; {user} worker_processes auto; pid {}; error_log stderr notice;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; client_body_temp_path {}; proxy_temp_path {};\n\
         fastcgi_temp_path {}; uwsgi_temp_path {}; scgi_temp_path {}; keepalive_requests 10000000;\n\
         upstream target {{ server localhost:{target}; keepalive 64; keepalive_requests 10000000; }}\n\
         server {{ listen 127.0.0.1:{} ssl; server_name localhost;\n\
         ssl_certificate {}; ssl_certificate_key {};\n\
         location / {{ proxy_pass https://target; proxy_http_version 1.1;\n\
         proxy_set_header connection \"\"; proxy_set_header host localhost;\n\
         proxy_ssl_name localhost; proxy_ssl_server_name on; proxy_ssl_verify on;\n\
         proxy_ssl_trusted_certificate {}; }} }} }}\n",
        path("pid"),
        path("t1"),
        path("t2"),
        path("t3"),
        path("t4"),
        path("t5"),
        port.number(),
        path("server.pem"),
        path("server.key"),
        path("root.pem"),
    );
    let config = dir.write("nginx.conf", config)?;
    let mut command = Command::new(program("nginx", "nginx-light")?);
    command.arg("-e").arg("stderr").arg("-p").arg(dir.path()).arg("-c").arg(config);
    let proc = Proc::spawn_with("nginx", command, Signal::Terminate, None)?;
    proc.wait_line("start worker process", START)?;
    Ok((proc, dir, port))
}

fn haproxy(authority: &Authority, target: u16) -> Result<(Proc, TempDir, Port)> {
    let (dir, port) = (TempDir::new("haproxy")?, Port::new()?);
    authority.issue(&Wish::server()?)?.write(&dir, "server")?;
    let read = |name: &str| std::fs::read(dir.join(name)).context("read what was issued");
    let both = [read("server.pem")?, read("server.key")?].concat();
    let both = dir.write("both.pem", both)?;
    let root = dir.write("root.pem", authority.pem())?;
    let config = format!(
        "global\n  maxconn 1000\ndefaults\n  mode http\n  timeout connect 10s\n  \
         timeout client 60s\n  timeout server 60s\n  http-reuse always\n\
         frontend f\n  bind 127.0.0.1:{} ssl crt {} alpn http/1.1\n  default_backend b\n\
         backend b\n  server target localhost:{target} ssl verify required ca-file {} \
         sni str(localhost) alpn http/1.1\n",
        port.number(),
        both.display(),
        root.display()
    );
    let config = dir.write("haproxy.cfg", config)?;
    let mut command = Command::new(program("haproxy", "haproxy")?);
    command.arg("-db").arg("-f").arg(config);
    let proc = Proc::spawn_with("haproxy", command, Signal::Terminate, None)?;
    let until = Instant::now() + START;
    while std::net::TcpStream::connect(("127.0.0.1", port.number())).is_err() {
        ensure!(Instant::now() < until, "haproxy does not listen: {}", proc.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((proc, dir, port))
}

impl Bed {
    fn start(args: &Args) -> Result<Self> {
        let authority = Authority::new("bench targets")?;
        let target = Nginx::start(&authority)?;
        for (path, bytes) in PAGES {
            let path = target.root().join(path.trim_start_matches('/'));
            std::fs::write(path, page(bytes)).context("write a page")?;
        }
        let (mut contenders, mut neighbours) = (Vec::new(), Vec::new());
        if !args.only_gateway {
            let all = [
                ("nginx", nginx(&authority, target.port())?),
                ("haproxy", haproxy(&authority, target.port())?),
            ];
            for (name, neighbour) in all {
                let (port, pids) = (neighbour.2.number(), family(neighbour.0.pid())?);
                contenders.push(Contender { name, port, pids, world: None });
                neighbours.push(neighbour);
            }
        }
        let mut ways = vec![("bulla-strict", "strict", None), ("bulla-bounded", "bounded", None)];
        if let Some(other) = &args.beside {
            ways.push(("bulla-strict'", "strict", Some(other.clone())));
            ways.push(("bulla-bounded'", "bounded", Some(other.clone())));
        }
        for (name, durability, program) in ways {
            let mut api = ApiSpec::new("api", target.port()).tls(&authority).http("safe = [\"*\"]");
            api.more = format!("durability = \"{durability}\"\n");
            let world = World::start_as(program, POLICY, &[api])?;
            let (port, pids) = (world.port.number(), vec![world.gateway.proc().pid()]);
            contenders.push(Contender { name, port, pids, world: Some(world) });
        }
        Ok(Self { contenders, _neighbours: neighbours, _target: target })
    }

    fn sample(&self, contender: &Contender, path: &str, seconds: u32) -> Result<Sample> {
        let spent = || -> Result<(Duration, u64)> {
            let mut sum = (Duration::ZERO, 0);
            for pid in &contender.pids {
                sum = (sum.0 + cpu_time(*pid)?, sum.1 + sleeps(*pid)?);
            }
            Ok(sum)
        };
        let before = spent()?;
        let (rate, requests) = load(contender, path, seconds)?;
        if contender.world.is_some() {
            std::thread::sleep(SETTLE);
        }
        let after = spent()?;
        let cpu = after.0.saturating_sub(before.0).as_secs_f64() * 1e6;
        let wakes = after.1.saturating_sub(before.1) as f64;
        Ok(Sample { rate, cpu_us: cpu / requests, wakes: wakes / requests })
    }
}

/// A process and those that it has started.
fn family(pid: libc::pid_t) -> Result<Vec<libc::pid_t>> {
    let children = format!("/proc/{pid}/task/{pid}/children");
    let children = std::fs::read_to_string(children).context("list a process's children")?;
    let children = children.split_whitespace().map(str::parse);
    let children: Result<Vec<_>, _> = children.collect();
    Ok([vec![pid], children.context("read a process's number")?].concat())
}

/// Requests each second, and how many there were in all.
fn load(contender: &Contender, path: &str, seconds: u32) -> Result<(f64, f64)> {
    let mut command = Command::new(program("h2load", "nghttp2-client")?);
    command.args(["--h1", "-t", "1", "-c", CONNECTIONS, "-D", &seconds.to_string()]);
    command.args(["--warm-up-time", &WARM_UP_S.to_string()]);
    if let Some(world) = &contender.world {
        command.args(["-H", &format!("authorization: Bearer {}", world.token()?)]);
    }
    command.arg(format!("https://localhost:{}{path}", contender.port));
    let patience = Duration::from_secs(u64::from(seconds) + PATIENCE_S);
    let said = capture(command, None, patience)?.success()?;
    let failed = said.lines().find(|line| line.starts_with("status codes:"));
    let failed = failed.context("h2load said no status codes")?;
    ensure!(failed.contains("0 3xx, 0 4xx, 0 5xx"), "{}: {failed}", contender.name);
    let line = said.lines().find(|line| line.starts_with("finished in"));
    let rate = line.and_then(|line| line.split(", ").nth(1)?.strip_suffix(" req/s"));
    let rate: f64 = rate.context("h2load said no rate")?.parse().context("read a rate")?;
    ensure!(rate > 0.0, "{}: nothing was answered: {said}", contender.name);
    // Those of the warm-up are not in what it counts, but in what the processes spent.
    Ok((rate, rate * f64::from(seconds + WARM_UP_S)))
}

/// Measures both pages, round by round.
pub fn measure(args: &Args) -> Result<Vec<Row>> {
    let pages = PAGES.iter().filter(|(path, _)| name(path).contains(&args.only));
    let pages: Vec<_> = pages.collect();
    if pages.is_empty() {
        return Ok(Vec::new());
    }
    let bed = Bed::start(args)?;
    let mut rows = Vec::new();
    for (path, bytes) in pages {
        let count = bed.contenders.len();
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); count];
        for round in 0..args.rounds {
            // Each round begins with another contender.
            let shift = usize::try_from(round)? % count;
            let all = bed.contenders.iter().enumerate().cycle().skip(shift).take(count);
            for (at, contender) in all {
                let sample = bed.sample(contender, path, args.seconds)?;
                samples.get_mut(at).context("a contender")?.push(sample);
            }
        }
        println!("\n{} ({bytes} bytes, {CONNECTIONS} connections)", name(path));
        println!(
            "  {:<15} {:>8} {:>8} {:>8}  requests/s of each round",
            "", "1/s", "CPU µs", "wakes"
        );
        for (contender, samples) in bed.contenders.iter().zip(&samples) {
            let middle = |of: &dyn Fn(&Sample) -> f64| {
                show(median(&mut samples.iter().map(of).collect::<Vec<_>>()))
            };
            let (rate, cpu) = (middle(&|sample| sample.rate), middle(&|sample| sample.cpu_us));
            let wakes = middle(&|sample| sample.wakes);
            let all: Vec<String> = samples.iter().map(|s| format!("{:.0}", s.rate)).collect();
            println!("  {:<15} {rate:>8} {cpu:>8} {wakes:>8}  {}", contender.name, all.join(" "));
        }
        rows.extend(compare(&bed, &samples, path, *bytes));
    }
    Ok(rows)
}

/// The gateway beside its neighbours, and another build beside it.
fn compare(bed: &Bed, samples: &[Vec<Sample>], path: &str, bytes: usize) -> Vec<Row> {
    let of = |wanted: &str| {
        let at = bed.contenders.iter().position(|contender| contender.name == wanted)?;
        samples.get(at)
    };
    let mut rows = Vec::new();
    for neighbour in ["nginx", "haproxy"] {
        for who in ["bulla-strict", "bulla-bounded"] {
            let Some((own, other)) = of(who).zip(of(neighbour)) else { continue };
            let values = own.iter().zip(other).map(|(a, b)| a.rate / b.rate).collect();
            let goal = match (neighbour, bytes, who) {
                ("nginx", 200, "bulla-strict") => Some(0.6),
                ("nginx", 200, _) => Some(0.8),
                ("nginx", ..) => Some(1.0),
                _ => None,
            };
            let what = format!("{}, {who}: rate / {neighbour}", name(path));
            rows.push(Row::new(what, "×", goal.map(Reach::AtLeast), values));
        }
    }
    for (who, other) in [("bulla-strict", "bulla-strict'"), ("bulla-bounded", "bulla-bounded'")] {
        let Some((own, other)) = of(who).zip(of(other)) else { continue };
        let each = || own.iter().zip(other);
        let what = format!("{}, {who}: CPU / the other build's", name(path));
        rows.push(Row::new(what, "×", None, each().map(|(a, b)| a.cpu_us / b.cpu_us).collect()));
        let what = format!("{}, {who}: rate / the other build's", name(path));
        rows.push(Row::new(what, "×", None, each().map(|(a, b)| a.rate / b.rate).collect()));
    }
    rows
}

fn name(path: &str) -> &'static str {
    if path.contains("small") { "http-200B" } else { "http-100KB" }
}
