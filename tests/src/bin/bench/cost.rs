//! What single steps cost. Each crate measures its own, in an example that prints JSON.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bulla_e2e::place::TempDir;
use bulla_e2e::proc::capture;
use serde_json::Value;

use crate::Args;
use crate::rows::{Reach, Row};

const PATIENCE: Duration = Duration::from_secs(300);

/// Name of a row, name in the example's JSON, factor, unit, and what is to be reached.
type Wanted = (&'static str, &'static str, f64, &'static str, Option<Reach>);

const EXAMPLES: &[(&str, &[Wanted])] = &[
    (
        "sql-cost",
        &[
            ("statement analysis, cached", "cached_ns", 1e-3, "µs", Some(Reach::AtMost(1.0))),
            ("statement analysis, uncached", "uncached_ns", 1e-3, "µs", Some(Reach::AtMost(60.0))),
        ],
    ),
    (
        "policy-cost",
        &[
            ("policy decision, cached", "cached_ns", 1e-3, "µs", Some(Reach::AtMost(1.0))),
            (
                "policy decision, uncached, 1,000 policies",
                "uncached_ns",
                1e-3,
                "µs",
                Some(Reach::AtMost(200.0)),
            ),
            ("the same, all of them to be evaluated", "worst_ns", 1e-3, "µs", None),
        ],
    ),
    (
        "ledger-cost",
        &[
            ("append of 300 B in its caller's thread", "append_ns", 1e-3, "µs", None),
            (
                "durable entries, 512 B, 64 committers",
                "entries_per_s",
                1e-3,
                "k/s",
                Some(Reach::AtLeast(50.0)),
            ),
            ("evidence, one session", "evidence_mb_per_s", 1.0, "MB/s", None),
            ("log verify, one core", "verify_gb_per_s", 1.0, "GB/s", Some(Reach::AtLeast(0.75))),
        ],
    ),
];

/// Runs every example as often as there are rounds, one after the other in each.
pub fn measure(args: &Args) -> Result<Vec<Row>> {
    let home = TempDir::new("bench-cost")?;
    let mut found: Vec<Vec<Value>> = vec![Vec::new(); EXAMPLES.len()];
    for _ in 0..args.rounds {
        for ((name, _), all) in EXAMPLES.iter().zip(&mut found) {
            let program = std::env::current_exe().context("find this program")?;
            let program = program.with_file_name("examples").join(name);
            ensure!(program.is_file(), "`{}` is not built: cargo xtask bench", program.display());
            let mut command = Command::new(program);
            command.arg("--json").args(args.quick.then_some("--quick")).current_dir(home.path());
            let said = capture(command, None, PATIENCE)?.success()?;
            all.push(serde_json::from_str(&said).with_context(|| format!("read `{name}`"))?);
        }
    }
    let mut rows = Vec::new();
    for ((_, wanted), all) in EXAMPLES.iter().zip(&found) {
        for (name, key, factor, unit, reach) in *wanted {
            let values = all.iter().filter_map(|value| value.get(key)?.as_f64());
            let values: Vec<f64> = values.map(|value| value * factor).collect();
            ensure!(values.len() == all.len(), "no `{key}` was measured");
            rows.push(Row::new((*name).to_owned(), unit, *reach, values));
        }
    }
    Ok(rows)
}
