//! What the benchmark calls still runs. What it measures is nobody's test.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bulla_e2e::place::TempDir;
use bulla_e2e::proc::capture;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(400);

fn bench() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_bulla-bench"))
}

#[test]
fn steps_are_measured() {
    let dir = TempDir::new("costs").unwrap();
    let json = dir.path().join("bench.json");
    let mut command = Command::new(bench());
    command.args(["--quick", "--rounds", "1", "--no-traffic", "--json"]).arg(&json);
    // Whatever it finds slow here, it says so and ends well.
    let done = capture(command, None, PATIENCE).unwrap();
    let told = format!("{}{}", done.out(), done.err());
    assert_eq!(done.code(), 0, "{told}");
    for row in ["statement analysis, uncached", "policy decision, cached", "log verify"] {
        assert!(told.contains(row), "no `{row}`: {told}");
    }
    let json: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert!(json.as_object().is_some_and(|rows| !rows.is_empty()), "{json}");
}

#[test]
fn texts_are_scanned() {
    let example: &Path = &bench().with_file_name("examples").join("scan");
    assert!(example.is_file(), "`{}` is not built: cargo build --examples", example.display());
    let mut command = Command::new(example);
    command.arg("row");
    let done = capture(command, None, PATIENCE).unwrap();
    assert!(done.code() == 0 && done.out().contains(" ns"), "{}{}", done.out(), done.err());
}
