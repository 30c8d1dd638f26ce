//! 200 seeds hold every invariant, and every missing defence is noticed by the one that names it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use bulla_sim::{Break, Options, Stats, run};

const SEEDS: u64 = 200;
/// Seeds that a missing defence may hide from.
const HIDES: u64 = 60;

#[test]
fn two_hundred_seeds_hold() {
    let mut total = Stats::default();
    let mut failures = Vec::new();
    for seed in 1..=SEEDS {
        match run(Options { seed, lie: None, trace: false }) {
            Ok(stats) => total.add(&stats),
            Err(failure) => failures.push(failure.to_string()),
        }
    }
    assert!(failures.is_empty(), "{} of {SEEDS}:\n{}", failures.len(), failures.join("\n"));
    // What was not reached was not tested.
    let Stats { commands, refusals, holds, grants, rows, to_client, receipts, .. } = total;
    assert!(commands > 10 * SEEDS && refusals > SEEDS && rows > SEEDS, "{total:?}");
    assert!(holds > SEEDS / 4 && grants > SEEDS / 20, "{total:?}");
    assert!(to_client > 100 * SEEDS && receipts > 20 * SEEDS, "{total:?}");
    let Stats { crashes, disk_faults, full_disks, turned_away, .. } = total;
    assert!(crashes > SEEDS / 5 && disk_faults > SEEDS / 20, "{total:?}");
    assert!(full_disks > SEEDS / 20 && turned_away > SEEDS / 4, "{total:?}");
}

#[test]
fn a_seed_is_a_run() {
    for seed in [3, 17, 40] {
        let run = || format!("{:?}", run(Options { seed, lie: None, trace: false }).unwrap());
        assert_eq!(run(), run(), "seed {seed}");
    }
}

#[test]
fn every_missing_defence_is_noticed() {
    for (lie, invariant) in Break::ALL {
        let mut seen = Vec::new();
        let caught = (1..=HIDES).any(|seed| {
            let failed = run(Options { seed, lie: Some(lie), trace: false }).err();
            seen.extend(failed.as_ref().map(|failure| failure.violation.clone()));
            failed.is_some_and(|failure| failure.violation.invariant == invariant)
        });
        assert!(caught, "{lie:?} is not noticed by {invariant} in {HIDES} seeds: {seen:?}");
    }
}
