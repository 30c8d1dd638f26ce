//! The full load measure: `cargo xtask load`. Prints each figure beside its target, and fails if one
//! is missed.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bulla_e2e::load::{self, Bed, quantile};

const USAGE: &str = "\
usage: bulla-load [--idle N] [--busy N] [--silent N] [--gigabytes N] [--only NAME]

  --idle N         idle sessions (5000)
  --busy N         busy sessions beside them (500)
  --silent N       sockets that never speak (10000)
  --gigabytes N    size of the large answer (10)
  --only NAME      only measures whose name contains this";

struct Args {
    idle: usize,
    busy: usize,
    silent: usize,
    gigabytes: i64,
    only: String,
}

fn parse() -> Result<Args> {
    let mut out =
        Args { idle: 5_000, busy: 500, silent: 10_000, gigabytes: 10, only: String::new() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().with_context(|| format!("`{arg}` needs a value\n\n{USAGE}"))?;
        match arg.as_str() {
            "--idle" => out.idle = value.parse()?,
            "--busy" => out.busy = value.parse()?,
            "--silent" => out.silent = value.parse()?,
            "--gigabytes" => out.gigabytes = value.parse()?,
            "--only" => out.only = value,
            _ => bail!("no such argument `{arg}`\n\n{USAGE}"),
        }
    }
    Ok(out)
}

/// One line of the report.
fn row(what: &str, found: String, target: &str, met: bool) -> bool {
    println!("{} {what:<46} {found:>24}   ({target})", if met { "ok  " } else { "MISS" });
    met
}

fn sessions(args: &Args) -> Result<bool> {
    let bed = Bed::start("")?;
    let opened = load::idle_sessions(&bed, args.idle)?;
    let n = opened.sessions.len();
    let mut met = row(
        &format!("{n} idle sessions, KiB each"),
        format!("{:.1}", opened.kib_each),
        "≤ 100",
        opened.kib_each <= 100.0,
    );
    let each = opened.per_second_and_core();
    let found = format!("{each:.0}, all in {:.1} s", opened.took.as_secs_f64());
    met &= row("new sessions per second and core", found, "≥ 1000", each >= 1_000.0);
    let mut times = load::busy(&bed, args.busy, Duration::from_secs(10))?;
    let found = format!("{} /s, p99 {:?}", times.len() / 10, quantile(&mut times, 0.99));
    met &= row(&format!("{} busy sessions beside them", args.busy), found, "none fails", true);
    let mut after = opened.sessions;
    let alive = bulla_e2e::tap::runtime().block_on(async {
        let mut alive = 0;
        for session in &mut after {
            alive += usize::from(session.query("SELECT name FROM customers").await.is_ok());
        }
        alive
    });
    met &= row("idle sessions that answer afterwards", format!("{alive}"), "all", alive == n);
    Ok(met)
}

fn silent(args: &Args) -> Result<bool> {
    // They are measured before their deadline ends them.
    let bed = Bed::start("[limits]\nhandshake_max = \"120s\"\n")?;
    let mut alone = load::logins(&bed, 50)?;
    let sockets = load::silent_sockets(&bed, args.silent)?;
    let mut beside = load::logins(&bed, 50)?;
    let (median, worst) = (quantile(&mut beside, 0.5), quantile(&mut beside, 1.0));
    let found = format!("{median:.1?}, at most {worst:.1?}");
    let alone = quantile(&mut alone, 0.5);
    let what = format!("a login beside {} silent sockets", sockets.len());
    let target = format!("≤ 100 ms; alone {alone:.1?}");
    Ok(row(&what, found, &target, worst <= Duration::from_millis(100)))
}

fn hung(_: &Args) -> Result<bool> {
    let bed = Bed::start("[limits]\nconnect_max = \"60s\"\n")?;
    let p99 = || -> Result<Duration> {
        Ok(quantile(&mut load::busy(&bed, 8, Duration::from_secs(5))?, 0.99))
    };
    let first = p99()?;
    let sessions = load::hung(&bed, 200)?;
    let beside = p99()?;
    drop(sessions);
    let alone = first.max(p99()?);
    let found = format!("{beside:.1?}, alone {alone:.1?}");
    let met = beside <= alone.mul_f64(1.5) + Duration::from_millis(1);
    Ok(row("p99 beside 200 hung statements and 200 logins", found, "as alone", met))
}

fn large(args: &Args) -> Result<bool> {
    let bed = Bed::start("")?;
    let large = load::large(&bed, args.gigabytes * 1_000_000_000)?;
    let mib = |kib: u64| kib as f64 / 1024.0;
    let rate = large.bytes as f64 / 1e6 / large.took.as_secs_f64();
    let found = format!("{:.1} MiB at {rate:.0} MB/s", mib(large.grown_kib));
    let what = format!("an answer of {:.1} GB, memory grown by", large.bytes as f64 / 1e9);
    let target = format!("≤ 32 MiB; the first 100 MB: {:.1} MiB", mib(large.first_kib));
    Ok(row(&what, found, &target, large.grown_kib <= 32 << 10))
}

type Measure = (&'static str, fn(&Args) -> Result<bool>);
const MEASURES: [Measure; 4] =
    [("sessions", sessions), ("silent", silent), ("hung", hung), ("large", large)];

fn run() -> Result<bool> {
    let args = parse()?;
    let mut met = true;
    for (name, measure) in MEASURES.iter().filter(|(name, _)| name.contains(&args.only)) {
        met &= measure(&args).with_context(|| format!("measure `{name}`"))?;
    }
    Ok(met)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}
