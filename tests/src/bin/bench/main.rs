//! The benchmark: the gateway beside what people use instead, in one run.
//!
//! Run it with `cargo xtask bench`. Rounds are interleaved, so that what else the machine does
//! falls on everybody; what is compared are ratios within one round, never numbers of two runs.
//! `docs/performance.md` says what each row means. A row that is missed is printed as missed.
//!
//! | file | holds |
//! |---|---|
//! | `traffic` | workloads through each contender, and what the process between spent on them |
//! | `web` | HTTP beside nginx and HAProxy as reverse proxies |
//! | `shell` | SSH beside the host itself and a jump host |
//! | `cost` | what single steps cost: the examples of the crates that do them |
//! | `disk` | how long one flush takes, asked for as the gateway asks |
//! | `rows` | what is to be reached, and whether it was |

mod cost;
mod disk;
mod rows;
mod shell;
mod traffic;
mod web;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use bulla_e2e::neighbours::relay;
use serde_json::json;

use rows::Row;
use traffic::{Bed, WORKLOADS, Workload};

const USAGE: &str = "\
usage: bulla-bench [--quick] [--seconds N] [--rounds N] [--only NAME] [--json FILE]
                   [--no-traffic] [--no-cost] [--only-gateway] [--beside FILE]

  --quick          a look, not a measurement: one second, two rounds
  --seconds N      how long each measurement takes (3)
  --rounds N       how often each is repeated (5)
  --only NAME      only workloads whose name contains this
  --json FILE      where the results go as JSON (bench.json in the target folder)
  --no-traffic     only what single steps cost
  --no-cost        only traffic
  --only-gateway   traffic through the gateway alone, for a profiler; no ratios
  --beside FILE    another build of the gateway in the same rounds";

#[derive(Clone, Debug)]
pub struct Args {
    pub seconds: u32,
    pub rounds: u32,
    pub only: String,
    pub json: PathBuf,
    pub quick: bool,
    pub traffic: bool,
    pub cost: bool,
    pub only_gateway: bool,
    pub beside: Option<PathBuf>,
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
    let mut parsed = Args {
        seconds: 3,
        rounds: 5,
        only: String::new(),
        json,
        quick: false,
        traffic: true,
        cost: true,
        only_gateway: false,
        beside: None,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("`{arg}` needs a value"));
        match arg.as_str() {
            "--quick" => (parsed.quick, parsed.seconds, parsed.rounds) = (true, 1, 2),
            "--seconds" => parsed.seconds = value()?.parse().context("--seconds")?,
            "--rounds" => parsed.rounds = value()?.parse().context("--rounds")?,
            "--only" => parsed.only.clone_from(value()?),
            "--json" => parsed.json = PathBuf::from(value()?),
            "--no-traffic" => parsed.traffic = false,
            "--no-cost" => parsed.cost = false,
            "--only-gateway" => parsed.only_gateway = true,
            "--beside" => parsed.beside = Some(value()?.into()),
            _ => bail!("no such option: `{arg}`"),
        }
    }
    ensure!(parsed.seconds > 0 && parsed.rounds > 0, "seconds and rounds begin at 1");
    Ok(parsed)
}

fn run(args: &Args) -> Result<()> {
    let workloads: Vec<&Workload> =
        WORKLOADS.iter().filter(|workload| workload.name.contains(&args.only)).collect();
    let web = !args.only.is_empty() && "http-200B http-100KB".contains(&args.only);
    let ssh = shell::wanted(&args.only);
    let known = !workloads.is_empty() || web || ssh;
    ensure!(!args.traffic || known, "no workload is named `{}`", args.only);
    let (mut rows, mut measured, mut server) = (Vec::<Row>::new(), Vec::new(), None);
    if args.traffic && (web || args.only.is_empty()) {
        rows.extend(web::measure(args)?);
    }
    if args.traffic && ssh && !args.only_gateway {
        rows.extend(shell::measure(args)?);
    }
    if args.traffic && !workloads.is_empty() {
        let bed = Bed::start(args)?;
        for workload in workloads {
            let result = bed.measure(args, workload)?;
            result.print();
            rows.extend(rows::of_traffic(&result));
            measured.push(result.json());
        }
        server = Some(bed.version());
    }
    if args.cost && !args.only_gateway {
        rows.extend(cost::measure(args)?);
    }
    rows::print(&rows);
    let all = json!({
        "postgresql": server, "processors": std::thread::available_parallelism()?.get(),
        "seconds": args.seconds, "rounds": args.rounds, "baseline": traffic::BASELINE,
        "rows": rows.iter().map(Row::json).collect::<Vec<_>>(), "workloads": measured,
    });
    let text = serde_json::to_string_pretty(&all)?;
    fs::write(&args.json, text).with_context(|| format!("write {}", args.json.display()))?;
    println!("\nas JSON: {}", args.json.display());
    Ok(())
}

/// Sorts, and returns the middle.
pub fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
