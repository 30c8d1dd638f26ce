//! The benchmark: the gateway beside what people use instead, in one run.
//!
//! Run it with `cargo xtask bench`. Rounds are interleaved, so that what else the machine does
//! falls on everybody; what is compared are ratios within one run, never numbers of two runs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bulla_e2e::agent::{Agent, AgentSpec};
use bulla_e2e::ca::Authority;
use bulla_e2e::client::{Dial, program};
use bulla_e2e::gateway::{Gateway, ResourceSpec, Spec};
use bulla_e2e::issuer::Issuer;
use bulla_e2e::neighbours::{Neighbour, relay};
use bulla_e2e::place::TempDir;
use bulla_e2e::postgres::{Options, Postgres};
use bulla_e2e::proc::capture;
use serde_json::{Value, json};

const USAGE: &str = "\
usage: bulla-bench [--seconds N] [--rounds N] [--only WORKLOAD] [--json FILE] [--no-gateway]

  --seconds N      how long each measurement takes (3)
  --rounds N       how often each is repeated (5)
  --only NAME      only workloads whose name contains this
  --json FILE      where the results go as JSON (bench.json in the target folder)
  --no-gateway     measures the others only, to know the machine";

const USER: &str = "bulla_scram";
const PASSWORD: &str = "scram secret";

/// Rows of pgbench's accounts: 100,000 for each.
const SCALE: &str = "2";

/// How much a bulk read returns: the accounts, about 97 bytes a row.
const BULK: &str = "SELECT a.* FROM pgbench_accounts a";

const POLICY: &str = r#"
@id("bench-may-everything")
permit (principal in Bulla::Group::"team:bench", action, resource);
"#;

/// Who is ratio 1.
const BASELINE: &str = "pgbouncer";

#[derive(Clone, Debug)]
struct Args {
    seconds: u32,
    rounds: u32,
    only: String,
    json: PathBuf,
    gateway: bool,
}

/// One kind of work.
#[derive(Clone, Copy, Debug)]
struct Workload {
    name: &'static str,
    kind: Kind,
    clients: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Prepared,
    Simple,
    TpcB,
    Bulk,
    /// A new connection for each statement.
    Connect,
}

const WORKLOADS: &[Workload] = &[
    Workload { name: "select-prepared-1", kind: Kind::Prepared, clients: 1 },
    Workload { name: "select-prepared-8", kind: Kind::Prepared, clients: 8 },
    Workload { name: "select-prepared-32", kind: Kind::Prepared, clients: 32 },
    Workload { name: "select-simple-1", kind: Kind::Simple, clients: 1 },
    Workload { name: "select-simple-8", kind: Kind::Simple, clients: 8 },
    Workload { name: "select-simple-32", kind: Kind::Simple, clients: 32 },
    Workload { name: "tpcb-8", kind: Kind::TpcB, clients: 8 },
    Workload { name: "bulk-copy", kind: Kind::Bulk, clients: 1 },
    Workload { name: "connect-8", kind: Kind::Connect, clients: 8 },
];

/// A way to the same database.
struct Contender {
    name: &'static str,
    dial: Dial,
    /// The process between, if there is one.
    pid: Option<libc::pid_t>,
}

/// What one round of one contender gave.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Operations per second; megabytes per second for bulk.
    rate: f64,
    /// Microseconds of the process between, for each operation or megabyte.
    cpu_us: Option<f64>,
    /// Median latency of one operation.
    p50_us: Option<f64>,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["relay", dir, listen, target] => run_relay(dir, listen, target),
        ["-h" | "--help"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => match parse(&args) {
            Ok(args) => run(&args),
            Err(error) => {
                eprintln!("bench: {error:#}\n{USAGE}");
                return ExitCode::from(2);
            }
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_relay(dir: &str, listen: &str, target: &str) -> Result<()> {
    relay(Path::new(dir), listen.parse()?, target.parse()?)
}

fn parse(args: &[String]) -> Result<Args> {
    let json = xtask::places::target().join("bench.json");
    let mut parsed = Args { seconds: 3, rounds: 5, only: String::new(), json, gateway: true };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("`{arg}` needs a value"));
        match arg.as_str() {
            "--seconds" => parsed.seconds = value()?.parse().context("--seconds")?,
            "--rounds" => parsed.rounds = value()?.parse().context("--rounds")?,
            "--only" => parsed.only.clone_from(value()?),
            "--json" => parsed.json = PathBuf::from(value()?),
            "--no-gateway" => parsed.gateway = false,
            _ => bail!("no such option: `{arg}`"),
        }
    }
    ensure!(parsed.seconds > 0 && parsed.rounds > 0, "seconds and rounds begin at 1");
    Ok(parsed)
}

fn run(args: &Args) -> Result<()> {
    let workloads: Vec<&Workload> =
        WORKLOADS.iter().filter(|workload| workload.name.contains(&args.only)).collect();
    ensure!(!workloads.is_empty(), "no workload is named `{}`", args.only);

    let authority = Authority::new("bulla bench")?;
    let options = Options::default().set("log_statement", "none").set("log_connections", "off");
    let server = Postgres::with(&authority, &options)?;
    let direct = server.dial(USER, PASSWORD);
    direct.run("pgbench", &["-i", "-q", "-s", SCALE])?.success().context("fill the tables")?;
    let bouncer = Neighbour::pgbouncer(&server, USER, PASSWORD)?;
    let mut relay = Command::new(std::env::current_exe().context("find this program")?);
    relay.arg("relay");
    let relay = Neighbour::relay(&server, relay)?;

    let mut contenders = vec![
        Contender { name: "direct", dial: direct, pid: None },
        between("pgbouncer", &bouncer),
        between("relay", &relay),
    ];
    let issuer = Issuer::start()?;
    let gateway =
        if args.gateway { Some(start_gateway(&authority, &server, &issuer)?) } else { None };
    let _agent = gateway.as_ref().map(|gateway| start_agent(gateway, &server)).transpose()?;
    if let Some(gateway) = &gateway {
        let token = issuer.mint()?.claim("team", "bench").expires(3600).token()?;
        let pid = Some(gateway.proc().pid());
        let ways =
            [("bulla-strict", "strict"), ("bulla-bounded", "bounded"), ("bulla-agent", "agent")];
        for (name, resource) in ways {
            let dial = gateway.dial_resource(resource, &token);
            contenders.push(Contender { name, dial, pid });
        }
    }
    let home = gateway.as_ref().map_or_else(std::env::temp_dir, Gateway::data_dir);
    let flush = flush_time(&home)?;
    println!("flush of 4 KiB where the evidence goes: {:.0} µs (median)", micros(flush));

    let mut results = Vec::new();
    for workload in workloads {
        let samples = measure(args, workload, &contenders)?;
        results.push(report(workload, &contenders, &samples));
    }
    let version = server.version();
    let all = json!({
        "postgresql": version, "seconds": args.seconds, "rounds": args.rounds,
        "flush_us": micros(flush), "baseline": BASELINE, "workloads": results,
    });
    let text = serde_json::to_string_pretty(&all)?;
    fs::write(&args.json, text).with_context(|| format!("write {}", args.json.display()))?;
    println!("\nas JSON: {}", args.json.display());
    Ok(())
}

fn between(name: &'static str, neighbour: &Neighbour) -> Contender {
    Contender { name, dial: neighbour.dial(USER, PASSWORD), pid: Some(neighbour.pid()) }
}

/// Two resources on one gateway: the same database, recorded strictly and boundedly.
fn start_gateway(authority: &Authority, server: &Postgres, issuer: &Issuer) -> Result<Gateway> {
    let mut spec = Spec::new(server, issuer).policy("bench.cedar", POLICY);
    let resource = |durability: &str| {
        let mut resource = ResourceSpec::new(durability, server, USER, PASSWORD);
        resource.durability = Some(durability.to_owned());
        resource
    };
    // As `strict`, but for the way: it is reached through an agent.
    let mut agent = resource("strict");
    agent.name = "agent".to_owned();
    agent.agents = vec!["bench".to_owned()];
    spec.resources = vec![resource("strict"), resource("bounded"), agent];
    Gateway::start(authority, spec)
}

/// The agent of the resource `agent`.
fn start_agent(gateway: &Gateway, server: &Postgres) -> Result<Agent> {
    let target = ResourceSpec::new("agent", server, USER, PASSWORD);
    let token = gateway.join_token("bench")?;
    let agent = Agent::start(&AgentSpec::new("bench", gateway.agents_port(), &token, &target))?;
    gateway.wait_agents(1)?;
    Ok(agent)
}

/// One sample of each contender in each round.
fn measure(
    args: &Args,
    workload: &Workload,
    contenders: &[Contender],
) -> Result<BTreeMap<&'static str, Vec<Sample>>> {
    let mut samples: BTreeMap<&'static str, Vec<Sample>> = BTreeMap::new();
    for round in 0..args.rounds {
        // Each round begins with another contender.
        let shift = usize::try_from(round)? % contenders.len();
        for contender in contenders.iter().cycle().skip(shift).take(contenders.len()) {
            let sample = sample(args, workload, contender)
                .with_context(|| format!("{} through {}", workload.name, contender.name))?;
            samples.entry(contender.name).or_default().push(sample);
        }
    }
    Ok(samples)
}

fn sample(args: &Args, workload: &Workload, contender: &Contender) -> Result<Sample> {
    let before = contender.pid.map(cpu_time).transpose()?;
    let (operations, rate, p50_us) = match workload.kind {
        Kind::Bulk => bulk(args, &contender.dial)?,
        _ => pgbench(args, workload, &contender.dial)?,
    };
    let after = contender.pid.map(cpu_time).transpose()?;
    let cpu = before.zip(after).map(|(before, after)| micros(after.saturating_sub(before)));
    Ok(Sample { rate, cpu_us: cpu.map(|cpu| cpu / operations.max(1.0)), p50_us })
}

/// Operations, operations per second, and the median latency where one client says it best.
fn pgbench(args: &Args, workload: &Workload, dial: &Dial) -> Result<(f64, f64, Option<f64>)> {
    let log = TempDir::new("bench")?;
    let (clients, seconds) = (workload.clients.to_string(), args.seconds.to_string());
    let jobs = workload.clients.min(2).to_string();
    let mut command = dial.command(&program("pgbench")?);
    command.args(["-n", "-c", &clients, "-j", &jobs, "-T", &seconds]).current_dir(log.path());
    match workload.kind {
        Kind::Prepared => command.args(["-S", "-M", "prepared"]),
        Kind::Connect => command.args(["-S", "-C"]),
        Kind::TpcB => command.args(["-M", "prepared"]),
        Kind::Simple | Kind::Bulk => command.arg("-S"),
    };
    if workload.clients == 1 {
        command.arg("-l");
    }
    let within = Duration::from_secs(u64::from(args.seconds) + 60);
    let said = capture(command, None, within)?.success()?;
    let number = |before: &str| {
        let (_, rest) = said.split_once(before)?;
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        rest.get(..end)?.parse::<f64>().ok()
    };
    let done = number("number of transactions actually processed: ").context("transactions")?;
    let failed = number("number of failed transactions: ").unwrap_or_default();
    ensure!(failed == 0.0, "{failed} transactions failed");
    let rate = number("tps = ").context("a rate")?;
    Ok((done, rate, latency(log.path())?))
}

/// The median of pgbench's log: client, transaction, microseconds, …
fn latency(dir: &Path) -> Result<Option<f64>> {
    let mut all: Vec<f64> = Vec::new();
    for entry in fs::read_dir(dir).context("list pgbench's logs")? {
        let text = fs::read_to_string(entry?.path()).context("read pgbench's log")?;
        let third = |line: &str| line.split(' ').nth(2)?.parse::<f64>().ok();
        all.extend(text.lines().filter_map(third));
    }
    Ok(median(&mut all))
}

/// Megabytes, and megabytes per second.
fn bulk(args: &Args, dial: &Dial) -> Result<(f64, f64, Option<f64>)> {
    let started = Instant::now();
    let mut bytes = 0.0;
    while started.elapsed() < Duration::from_secs(u64::from(args.seconds)) {
        let mut command = dial.command(&program("psql")?);
        command.args(["-X", "-q", "-c", &format!("COPY ({BULK}) TO STDOUT")]);
        let copied = capture(command, None, Duration::from_secs(300))?;
        bytes += copied.stdout.len() as f64;
        copied.success()?;
    }
    let megabytes = bytes / 1e6;
    Ok((megabytes, megabytes / started.elapsed().as_secs_f64(), None))
}

/// Prints one workload and returns it as JSON.
fn report(
    workload: &Workload,
    contenders: &[Contender],
    samples: &BTreeMap<&'static str, Vec<Sample>>,
) -> Value {
    let unit = if workload.kind == Kind::Bulk { "MB/s" } else { "/s" };
    println!("\n{}", workload.name);
    println!(
        "  {:<14} {:>11} {:>8} {:>15} {:>8} {:>9}",
        "", unit, "ratio", "spread", "CPU µs", "p50 µs"
    );
    let base = samples.get(BASELINE).cloned().unwrap_or_default();
    let mut rows = Vec::new();
    for contender in contenders {
        let own = samples.get(contender.name).cloned().unwrap_or_default();
        // Rounds are compared with the baseline of the same round.
        let mut ratios: Vec<f64> = own.iter().zip(&base).map(|(a, b)| a.rate / b.rate).collect();
        let rate = median(&mut own.iter().map(|sample| sample.rate).collect::<Vec<_>>());
        let cpu = median(&mut own.iter().filter_map(|sample| sample.cpu_us).collect::<Vec<_>>());
        let p50 = median(&mut own.iter().filter_map(|sample| sample.p50_us).collect::<Vec<_>>());
        let ratio = median(&mut ratios);
        let (low, high) = (ratios.first().copied(), ratios.last().copied());
        let show = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
        };
        let spread = format!("{}–{}", show(low, 2), show(high, 2));
        println!(
            "  {:<14} {:>11} {:>8} {spread:>15} {:>8} {:>9}",
            contender.name,
            show(rate, 0),
            show(ratio, 2),
            show(cpu, 1),
            show(p50, 0)
        );
        rows.push(json!({
            "name": contender.name, "rate": rate, "ratio": ratio, "ratio_low": low,
            "ratio_high": high, "cpu_us": cpu, "p50_us": p50,
        }));
    }
    json!({ "name": workload.name, "unit": unit, "contenders": rows })
}

/// Sorts, and returns the middle.
fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// User and system time of a process and its ended threads: fields 14 and 15 of its `stat`.
fn cpu_time(pid: libc::pid_t) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("read a process's time")?;
    // The name in parentheses may hold anything, so count from behind it.
    let (_, after) = stat.rsplit_once(") ").context("a process's state")?;
    let mut fields = after.split(' ').skip(11);
    let mut ticks = || fields.next().and_then(|field| field.parse::<u64>().ok());
    let total = ticks().zip(ticks()).context("a process's time")?;
    // SAFETY: asks for a constant of the system.
    let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(100);
    Ok(Duration::from_micros((total.0 + total.1) * 1_000_000 / per_second.max(1)))
}

/// The median time to append 4 KiB to a file and flush it.
fn flush_time(dir: &Path) -> Result<Duration> {
    let path = dir.join("bulla-flush");
    let mut file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let mut times = Vec::new();
    for _ in 0..200 {
        file.write_all(&[0x42; 4096]).context("append")?;
        let started = Instant::now();
        file.sync_data().context("flush")?;
        times.push(started.elapsed());
    }
    let _ = fs::remove_file(&path);
    times.sort();
    times.get(times.len() / 2).copied().context("a flush")
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
