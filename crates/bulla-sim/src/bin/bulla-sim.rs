//! Runs seeds: `bulla-sim --seeds N --from S [--trace]`.

use std::{
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use bulla_sim::{Options, Stats, run};

const USAGE: &str = "usage: bulla-sim [--seeds N] [--from S] [--trace]";

fn main() -> ExitCode {
    let (mut seeds, mut from, mut trace) = (200u64, 1u64, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse().ok());
        match arg.as_str() {
            "--seeds" => match number() {
                Some(n) => seeds = n,
                None => return usage(),
            },
            "--from" => match number() {
                Some(n) => from = n,
                None => return usage(),
            },
            "--trace" => trace = true,
            _ => return usage(),
        }
    }
    let started = Instant::now();
    let next = AtomicU64::new(from);
    let end = from.saturating_add(seeds);
    let threads =
        if trace { 1 } else { std::thread::available_parallelism().map_or(1, |n| n.get()) };
    let work = || {
        let (mut total, mut failures) = (Stats::default(), Vec::new());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return (total, failures);
            }
            match run(Options { seed, lie: None, trace }) {
                Ok(stats) => total.add(&stats),
                Err(failure) => failures.push(failure),
            }
        }
    };
    let (mut total, mut failures) = (Stats::default(), Vec::new());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            match thread.join() {
                Ok((stats, mut failed)) => {
                    total.add(&stats);
                    failures.append(&mut failed);
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    println!("{seeds} seeds from {from} in {:.1} s: {total:?}", started.elapsed().as_secs_f64());
    for failure in &failures {
        eprintln!("{failure}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}
