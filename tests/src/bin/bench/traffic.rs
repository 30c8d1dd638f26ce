//! Workloads through each contender.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bulla_e2e::agent::{Agent, AgentSpec};
use bulla_e2e::ca::Authority;
use bulla_e2e::client::{Dial, program};
use bulla_e2e::gateway::{Gateway, ResourceSpec, Spec};
use bulla_e2e::issuer::Issuer;
use bulla_e2e::neighbours::Neighbour;
use bulla_e2e::place::TempDir;
use bulla_e2e::postgres::{Options, Postgres};
use bulla_e2e::proc::capture;
use serde_json::{Value, json};

use crate::rows::show;
use crate::{Args, disk, median};

const USER: &str = "bulla_scram";
const PASSWORD: &str = "scram secret";

/// Rows of pgbench's accounts: 100,000 for each. As many as clients, or they queue for a branch.
const SCALE: &str = "10";

/// How much a bulk read returns: about 97 bytes a row.
const BULK: &str = "SELECT * FROM pgbench_accounts WHERE aid <= 200000";

/// Patience beyond the time that was asked for.
const PATIENCE_S: u64 = 120;

/// What the gateway still does after the last answer: the archive's next checkpoint.
pub const SETTLE: Duration = Duration::from_millis(1_200);

const POLICY: &str = r#"
@id("bench-may-everything")
permit (principal in Bulla::Group::"team:bench", action, resource);
"#;

/// Who is ratio 1.
pub const BASELINE: &str = "pgbouncer";

/// One kind of work.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub name: &'static str,
    kind: Kind,
    clients: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Prepared,
    Simple,
    TpcB,
    BulkSelect,
    BulkCopy,
    /// A new connection for each statement.
    Connect,
}

pub const WORKLOADS: &[Workload] = &[
    Workload { name: "select-prepared-1", kind: Kind::Prepared, clients: 1 },
    Workload { name: "select-prepared-8", kind: Kind::Prepared, clients: 8 },
    Workload { name: "select-prepared-32", kind: Kind::Prepared, clients: 32 },
    Workload { name: "select-simple-1", kind: Kind::Simple, clients: 1 },
    Workload { name: "select-simple-8", kind: Kind::Simple, clients: 8 },
    Workload { name: "select-simple-32", kind: Kind::Simple, clients: 32 },
    Workload { name: "tpcb-8", kind: Kind::TpcB, clients: 8 },
    Workload { name: "bulk-select", kind: Kind::BulkSelect, clients: 1 },
    Workload { name: "bulk-copy", kind: Kind::BulkCopy, clients: 1 },
    Workload { name: "connect-8", kind: Kind::Connect, clients: 8 },
];

impl Workload {
    fn is_bulk(&self) -> bool {
        matches!(self.kind, Kind::BulkSelect | Kind::BulkCopy)
    }
}

/// A way to the same database.
struct Contender {
    name: &'static str,
    dial: Dial,
    /// The process between, if there is one.
    pid: Option<libc::pid_t>,
}

/// What one round of one contender gave.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Operations per second; megabytes per second for bulk.
    pub rate: f64,
    operations: f64,
    /// Microseconds of the process between, for each operation or megabyte.
    pub cpu_us: Option<f64>,
    /// How often a thread of the process between slept and was woken, for each of them.
    wakes: Option<f64>,
    /// Median latency of one operation.
    pub p50_us: Option<f64>,
    /// Of the disk, right before.
    pub flush_us: Option<f64>,
}

/// Everything that traffic runs through.
pub struct Bed {
    contenders: Vec<Contender>,
    bulk_megabytes: f64,
    scripts: TempDir,
    server: Postgres,
    _neighbours: Vec<Neighbour>,
    _agents: Vec<Agent>,
    _gateways: Vec<Gateway>,
    _issuer: Issuer,
}

impl Bed {
    pub fn start(args: &Args) -> Result<Self> {
        let authority = Authority::new("bulla bench")?;
        // As people run it: a COMMIT is durable, and statements are not logged.
        let options = Options::default()
            .set("log_statement", "none")
            .set("log_connections", "off")
            .set("fsync", "on")
            .set("synchronous_commit", "on")
            .set("full_page_writes", "on")
            .set("max_wal_size", "4GB")
            .set("shared_buffers", "256MB");
        let server = Postgres::with(&authority, &options)?;
        let direct = server.dial(USER, PASSWORD);
        direct.run("pgbench", &["-i", "-q", "-s", SCALE])?.success().context("fill the tables")?;
        direct.psql_rows("VACUUM ANALYZE pgbench_accounts")?;
        let sum = format!("SELECT sum(length(b::text) - 1) FROM ({BULK}) b");
        let bytes: f64 = direct.psql_rows(&sum)?.parse().context("bytes of a bulk read")?;
        let scripts = TempDir::new("bench-scripts")?;
        scripts.write("bulk.sql", format!("{BULK};\n"))?;
        let (mut contenders, mut neighbours) = (Vec::new(), Vec::new());
        if !args.only_gateway {
            contenders.push(Contender { name: "direct", dial: direct, pid: None });
            let bouncer = Neighbour::pgbouncer(&server, USER, PASSWORD)?;
            let mut relay = Command::new(std::env::current_exe().context("find this program")?);
            relay.arg("relay");
            let relay = Neighbour::relay(&server, relay)?;
            for (name, neighbour) in [(BASELINE, bouncer), ("relay", relay)] {
                let (dial, pid) = (neighbour.dial(USER, PASSWORD), Some(neighbour.pid()));
                contenders.push(Contender { name, dial, pid });
                neighbours.push(neighbour);
            }
        }
        let issuer = Issuer::start()?;
        let token = issuer.mint()?.claim("team", "bench").expires(3600).token()?;
        let (mut gateways, mut agents) = (Vec::new(), Vec::new());
        let mut ways = vec![
            ("bulla-strict", "strict", false, None),
            ("bulla-bounded", "bounded", false, None),
            // As `bulla-strict`, but for the way.
            ("bulla-agent", "strict", true, None),
        ];
        if let Some(other) = &args.beside {
            ways.push(("bulla-strict'", "strict", false, Some(other.clone())));
            ways.push(("bulla-bounded'", "bounded", false, Some(other.clone())));
        }
        for (name, durability, by_agent, program) in ways {
            let mut resource = ResourceSpec::new("bench", &server, USER, PASSWORD);
            resource.durability = Some(durability.to_owned());
            let target = resource.clone();
            if by_agent {
                resource.agents = vec!["bench".to_owned()];
            }
            let mut spec = Spec::new(&server, &issuer).policy("bench.cedar", POLICY);
            spec.resources = vec![resource];
            spec.program = program;
            // A process each: what one still has to archive is not counted as the other's work.
            let gateway = Gateway::start(&authority, spec)?;
            if by_agent {
                let join = gateway.join_token("bench")?;
                let agent = AgentSpec::new("bench", gateway.agents_port(), &join, &target);
                agents.push(Agent::start(&agent)?);
                gateway.wait_agents(1)?;
            }
            let (dial, pid) = (gateway.dial(&token), Some(gateway.proc().pid()));
            contenders.push(Contender { name, dial, pid });
            gateways.push(gateway);
        }
        Ok(Self {
            contenders,
            bulk_megabytes: bytes / 1e6,
            scripts,
            server,
            _neighbours: neighbours,
            _agents: agents,
            _gateways: gateways,
            _issuer: issuer,
        })
    }

    pub fn version(&self) -> u32 {
        self.server.version()
    }

    /// One sample of each contender in each round.
    pub fn measure(&self, args: &Args, workload: &Workload) -> Result<Measured> {
        let mut samples: BTreeMap<&'static str, Vec<Sample>> = BTreeMap::new();
        for round in 0..args.rounds {
            // Each round begins with another contender.
            let shift = usize::try_from(round)? % self.contenders.len();
            let all = self.contenders.iter().cycle().skip(shift);
            for contender in all.take(self.contenders.len()) {
                let sample = self
                    .sample(args, workload, contender)
                    .with_context(|| format!("{} through {}", workload.name, contender.name))?;
                samples.entry(contender.name).or_default().push(sample);
            }
        }
        let order = self.contenders.iter().map(|contender| contender.name).collect();
        Ok(Measured { workload: *workload, order, samples })
    }

    fn sample(&self, args: &Args, workload: &Workload, contender: &Contender) -> Result<Sample> {
        let flush = disk::flush_time(self.scripts.path())?;
        let before = contender.pid.map(cpu_time).transpose()?;
        let slept = contender.pid.map(sleeps).transpose()?;
        let mut sample = match workload.kind {
            Kind::BulkCopy => self.copy(args, &contender.dial)?,
            _ => self.pgbench(args, workload, &contender.dial)?,
        };
        if contender.name.starts_with("bulla") {
            std::thread::sleep(SETTLE);
        }
        let after = contender.pid.map(cpu_time).transpose()?;
        let cpu = before.zip(after).map(|(before, after)| micros(after.saturating_sub(before)));
        sample.cpu_us = cpu.map(|cpu| cpu / sample.operations.max(1e-9));
        let wakes = slept.zip(contender.pid.map(sleeps).transpose()?);
        sample.wakes =
            wakes.map(|(from, to)| to.saturating_sub(from) as f64 / sample.operations.max(1e-9));
        sample.flush_us = Some(micros(flush));
        Ok(sample)
    }

    fn pgbench(&self, args: &Args, workload: &Workload, dial: &Dial) -> Result<Sample> {
        let log = TempDir::new("bench")?;
        let (clients, seconds) = (workload.clients.to_string(), args.seconds.to_string());
        let jobs = workload.clients.min(2).to_string();
        let mut command = dial.command(&program("pgbench")?);
        command.args(["-n", "-c", &clients, "-j", &jobs, "-T", &seconds]).current_dir(log.path());
        match workload.kind {
            Kind::Prepared => command.args(["-S", "-M", "prepared"]),
            Kind::Connect => command.args(["-S", "-C"]),
            Kind::TpcB => command.args(["-M", "prepared"]),
            Kind::BulkSelect => command.arg("-f").arg(self.scripts.join("bulk.sql")),
            Kind::Simple | Kind::BulkCopy => command.arg("-S"),
        };
        if workload.clients == 1 {
            command.arg("-l");
        }
        let within = Duration::from_secs(u64::from(args.seconds) + PATIENCE_S);
        let said = capture(command, None, within)?.success()?;
        let number = |before: &str| {
            let (_, rest) = said.split_once(before)?;
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            rest.get(..end)?.parse::<f64>().ok()
        };
        let done = number("number of transactions actually processed: ").context("transactions")?;
        let failed = number("number of failed transactions: ").unwrap_or_default();
        ensure!(failed == 0.0, "{failed} transactions failed");
        let each = if workload.is_bulk() { self.bulk_megabytes } else { 1.0 };
        let rate = number("tps = ").with_context(|| {
            format!("{} s were not enough to connect {clients} clients: --seconds N", args.seconds)
        })? * each;
        let p50_us = latency(log.path())?;
        Ok(Sample {
            rate,
            operations: done * each,
            cpu_us: None,
            wakes: None,
            p50_us,
            flush_us: None,
        })
    }

    /// COPY out, as a backup does it.
    fn copy(&self, args: &Args, dial: &Dial) -> Result<Sample> {
        let started = Instant::now();
        let mut operations = 0.0;
        while started.elapsed() < Duration::from_secs(u64::from(args.seconds)) {
            let mut command = dial.command(&program("psql")?);
            command.args(["-X", "-q", "-o", "/dev/null"]);
            // Several on one connection, so that its opening weighs little.
            for _ in 0..5 {
                command.args(["-c", &format!("COPY ({BULK}) TO STDOUT")]);
                operations += self.bulk_megabytes;
            }
            capture(command, None, Duration::from_secs(PATIENCE_S))?.success()?;
        }
        let rate = operations / started.elapsed().as_secs_f64();
        Ok(Sample { rate, operations, cpu_us: None, wakes: None, p50_us: None, flush_us: None })
    }
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

/// All samples of one workload.
pub struct Measured {
    pub workload: Workload,
    order: Vec<&'static str>,
    samples: BTreeMap<&'static str, Vec<Sample>>,
}

impl Measured {
    fn of(&self, who: &str) -> &[Sample] {
        self.samples.get(who).map(Vec::as_slice).unwrap_or_default()
    }

    /// The samples of two contenders, round by round.
    pub fn pairs(&self, who: &str, beside: &str) -> Vec<(Sample, Sample)> {
        self.of(who).iter().copied().zip(self.of(beside).iter().copied()).collect()
    }

    /// Beside the baseline of the same round.
    pub fn ratios(&self, who: &str, of: impl Fn(&Sample) -> Option<f64>) -> Vec<f64> {
        let pairs = self.pairs(who, BASELINE);
        pairs.iter().filter_map(|(own, base)| Some(of(own)? / of(base)?)).collect()
    }

    fn middle(&self, who: &str, of: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        median(&mut self.of(who).iter().filter_map(of).collect::<Vec<_>>())
    }

    fn summary(&self, who: &str) -> Summary {
        let mut ratios = self.ratios(who, |sample| Some(sample.rate));
        Summary {
            rate: self.middle(who, |sample| Some(sample.rate)),
            ratio: median(&mut ratios),
            low: ratios.first().copied(),
            high: ratios.last().copied(),
            cpu_us: self.middle(who, |sample| sample.cpu_us),
            wakes: self.middle(who, |sample| sample.wakes),
            p50_us: self.middle(who, |sample| sample.p50_us),
        }
    }

    fn flush(&self) -> Option<f64> {
        let all = self.samples.values().flatten();
        median(&mut all.filter_map(|sample| sample.flush_us).collect::<Vec<_>>())
    }

    pub fn print(&self) {
        let unit = if self.workload.is_bulk() { "MB/s" } else { "/s" };
        println!("\n{} (flush {} µs)", self.workload.name, show(self.flush()));
        println!(
            "  {:<14} {unit:>11} {:>8} {:>15} {:>8} {:>8} {:>9}",
            "", "ratio", "spread", "CPU µs", "wakes", "p50 µs"
        );
        for who in &self.order {
            let s = self.summary(who);
            let spread = format!("{}–{}", show(s.low), show(s.high));
            let (rate, ratio, cpu) = (show(s.rate), show(s.ratio), show(s.cpu_us));
            let (wakes, p50) = (show(s.wakes), show(s.p50_us));
            println!("  {who:<14} {rate:>11} {ratio:>8} {spread:>15} {cpu:>8} {wakes:>8} {p50:>9}");
        }
    }

    pub fn json(&self) -> Value {
        let of = |who: &&str| {
            let s = self.summary(who);
            json!({
                "name": who, "rate": s.rate, "ratio": s.ratio, "ratio_low": s.low,
                "ratio_high": s.high, "cpu_us": s.cpu_us, "wakes": s.wakes, "p50_us": s.p50_us,
            })
        };
        let unit = if self.workload.is_bulk() { "MB/s" } else { "1/s" };
        let all: Vec<Value> = self.order.iter().map(of).collect();
        json!({
            "name": self.workload.name, "unit": unit, "flush_us": self.flush(), "contenders": all,
        })
    }
}

/// Medians of one contender, and how far its ratio went.
struct Summary {
    rate: Option<f64>,
    ratio: Option<f64>,
    low: Option<f64>,
    high: Option<f64>,
    cpu_us: Option<f64>,
    wakes: Option<f64>,
    p50_us: Option<f64>,
}

/// How often the threads of a process have given up their processor to wait.
pub fn sleeps(pid: libc::pid_t) -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("list a process's threads")? {
        // One that ends meanwhile is not counted.
        let status = fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += count.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// User and system time of a process and its ended threads: fields 14 and 15 of its `stat`.
pub fn cpu_time(pid: libc::pid_t) -> Result<Duration> {
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

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
