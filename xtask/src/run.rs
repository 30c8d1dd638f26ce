//! `test`, `demo`, `bench` and `fuzz`: what is run, in which order.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::setup::{self, Scope};
use crate::{places, tidy};

/// What `cargo xtask test` was asked for. Nothing means everything.
#[derive(Clone, Debug, Default)]
pub struct Test {
    pub filters: Vec<String>,
    pub packages: Vec<String>,
    pub runner_args: Vec<String>,
}

impl Test {
    fn is_everything(&self) -> bool {
        self.filters.is_empty() && self.packages.is_empty() && self.runner_args.is_empty()
    }
}

/// Formatting, lints, tidy and every test, or only the tests asked for.
///
/// # Errors
/// The first step that fails.
pub fn test(test: &Test) -> Result<()> {
    setup::setup(Scope::Test)?;
    if test.is_everything() {
        step("formatting", cargo("fmt").args(["--all", "--check"]))?;
        let mut clippy = cargo("clippy");
        step("lints", clippy.args(["--workspace", "--all-targets", "--", "-D", "warnings"]))?;
        tidy::tidy()?;
    }
    let packages: Vec<&str> = test.packages.iter().flat_map(|name| ["-p", name]).collect();
    let workspace = test.packages.is_empty().then_some("--workspace");
    // The end-to-end tests run the very binary; test runners alone do not always build it.
    let with_binary = test.packages.iter().any(|name| name == "bulla-e2e").then_some("-pbulla");
    let mut build = cargo("build");
    step("build", build.args(workspace).args(&packages).args(with_binary).arg("--all-targets"))?;
    let mut runner = if nextest() {
        let mut runner = cargo("nextest");
        runner.arg("run").arg("--config-file").arg(places::root().join("xtask/nextest.toml"));
        if std::env::var_os("CI").is_some() {
            runner.args(["--profile", "ci", "--show-progress", "none"]);
        }
        runner
    } else {
        println!("xtask: no cargo-nextest here, so `cargo test` runs the tests; for a quicker and");
        println!("xtask: clearer run: cargo install --locked cargo-nextest");
        cargo("test")
    };
    runner.args(workspace).args(&packages);
    if nextest() {
        runner.args(test.filters.iter().flat_map(|filter| selection(filter)));
    } else {
        runner.args((!test.filters.is_empty()).then_some("--")).args(&test.filters);
    }
    step("tests", runner.args(&test.runner_args))
}

/// Tests whose name, or whose file's name, contains the filter.
fn selection(filter: &str) -> Vec<String> {
    let plain = |c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '-';
    if filter.chars().all(plain) {
        return vec!["-E".to_owned(), format!("test(~{filter}) | binary(~{filter})")];
    }
    vec![filter.to_owned()]
}

/// Builds the gateway and the demo, and becomes the demo: its exit code is ours, and Ctrl-C
/// reaches it alone.
///
/// # Errors
/// Something is missing, does not build or cannot be started.
pub fn demo(args: &[String]) -> Result<ExitCode> {
    setup::setup(Scope::Demo)?;
    println!("xtask: building the gateway and the demo; the first time takes some minutes");
    let started = Instant::now();
    step("build", cargo("build").args(["-p", "bulla", "-p", "bulla-e2e", "--bins"]))?;
    println!("xtask: built in {} s", started.elapsed().as_secs());
    become_bin("debug", "bulla-demo", args)
}

/// Builds the gateway without debug checks and becomes the benchmark.
///
/// # Errors
/// Something is missing, does not build or cannot be started.
pub fn bench(args: &[String]) -> Result<ExitCode> {
    setup::setup(Scope::Bench)?;
    let build = ["--profile", "fast", "-p", "bulla", "-p", "bulla-e2e", "--bins"];
    step("build", cargo("build").args(build))?;
    // What single steps cost, each crate measures in an example of its own.
    let costs =
        ["--profile", "fast", "-p", "bulla-ledger", "-p", "bulla-policy", "-p", "bulla-sql"];
    step("build the examples", cargo("build").args(costs).arg("--examples"))?;
    become_bin("fast", "bulla-bench", args)
}

/// Replaces this process by a program that was just built.
fn become_bin(profile: &str, name: &str, args: &[String]) -> Result<ExitCode> {
    let bins = places::target().join(profile);
    let program = bins.join(name);
    ensure!(program.is_file(), "`{name}` was not built into {}", bins.display());
    let mut command = Command::new(&program);
    command.args(args).env("BULLA_BIN", bins.join("bulla")).current_dir(places::root());
    let error = command.exec();
    Err(error).with_context(|| format!("run {}", program.display()))
}

/// Runs each fuzz target for its share of the minutes.
///
/// # Errors
/// There is no cargo-fuzz or nightly compiler, no target, or a target found something.
pub fn fuzz(minutes: u64, only: Option<&str>) -> Result<()> {
    ensure!(
        places::succeeds("cargo", &["+nightly", "fuzz", "--version"]),
        "fuzzing needs a nightly compiler and cargo-fuzz: rustup toolchain install nightly && \
         cargo install --locked cargo-fuzz"
    );
    setup::setup(Scope::Build)?;
    let mut targets = Vec::new();
    for crate_dir in folders(&places::root().join("crates"))? {
        let home = crate_dir.join("fuzz");
        for file in folders(&home.join("fuzz_targets")).unwrap_or_default() {
            if let Some(name) = file.file_stem() {
                targets.push((home.clone(), name.to_string_lossy().into_owned()));
            }
        }
    }
    targets.retain(|(_, name)| only.is_none_or(|only| name.contains(only)));
    ensure!(!targets.is_empty(), "no fuzz target {}", only.unwrap_or("in crates/*/fuzz"));
    let seconds = (minutes * 60) / u64::try_from(targets.len())?;
    ensure!(seconds > 0, "{minutes} minutes are too few for {} targets", targets.len());
    for (home, name) in &targets {
        let mut command = Command::new("cargo");
        command.arg("+nightly").args(["fuzz", "run", "--fuzz-dir"]).arg(home).arg(name);
        command.args(["--", &format!("-max_total_time={seconds}"), "-rss_limit_mb=4096"]);
        command.current_dir(home).env("CARGO_TARGET_DIR", places::target().join("fuzz"));
        step(&format!("fuzz {name}, {seconds} s"), &mut command)?;
    }
    Ok(())
}

fn folders(home: &PathBuf) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(home).with_context(|| format!("list {}", home.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

fn nextest() -> bool {
    places::succeeds("cargo", &["nextest", "--version"])
}

/// Cargo in the workspace, building where every clone builds. In CI the lock file must be true.
fn cargo(command: &str) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.arg(command).current_dir(places::root());
    cargo.env("CARGO_TARGET_DIR", places::target());
    if std::env::var_os("CI").is_some() && command != "fmt" && command != "nextest" {
        cargo.arg("--locked");
    }
    cargo
}

fn step(what: &str, command: &mut Command) -> Result<()> {
    println!("xtask: {what}: {}", setup::shown(command));
    let started = Instant::now();
    let status = command.status().with_context(|| format!("start {what}"))?;
    if !status.success() {
        bail!("{what}: {status}");
    }
    println!("xtask: {what}: done in {} s", started.elapsed().as_secs());
    Ok(())
}
