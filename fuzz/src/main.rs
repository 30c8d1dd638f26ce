//! The driver: `bulla-fuzz --seconds N [--target X] [--seed S]`.
//!
//! It says which seed it began with. What it is about to run stands in a file, so that a finding
//! is there even when the process dies with it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bulla_fuzz::mutate::{Random, mutate};
use bulla_fuzz::{TARGETS, Target};

/// A target that works on one input for longer than this is a finding.
const ONE_RUN_MAX: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).cloned()
    };
    let seconds = value("--seconds").and_then(|text| text.parse().ok()).unwrap_or(60_u64);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = value("--seed").and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or(u64::from(now.subsec_nanos()) ^ now.as_secs());
    let only = value("--target").unwrap_or_default();
    let targets: Vec<&Target> = TARGETS.iter().filter(|t| t.name.contains(&only)).collect();
    if targets.is_empty() {
        eprintln!("no target is named `{only}`");
        return ExitCode::from(2);
    }
    let share = Duration::from_secs(seconds) / u32::try_from(targets.len()).unwrap_or(1);
    for target in targets {
        drive(target, share, seed);
    }
    ExitCode::SUCCESS
}

fn drive(target: &Target, share: Duration, seed: u64) {
    let corpus = target.corpus().expect("a corpus");
    let seeds: Vec<Vec<u8>> = corpus.into_iter().map(|(_, bytes)| bytes).collect();
    let finding = std::env::temp_dir().join(format!("bulla-fuzz-{}.bin", target.name));
    let (mut random, begun, mut runs) = (Random::new(seed), Instant::now(), 0_u64);
    while begun.elapsed() < share {
        let bytes = mutate(&mut random, &seeds);
        fs::write(&finding, &bytes).expect("keep the input");
        let started = Instant::now();
        (target.run)(&bytes);
        let took = started.elapsed();
        assert!(took < ONE_RUN_MAX, "{} takes {took:?} on {}", target.name, finding.display());
        runs += 1;
    }
    let _ = fs::remove_file(&finding);
    println!("{}/{}: {runs} runs, seed {seed}, nothing found", target.krate, target.name);
}
