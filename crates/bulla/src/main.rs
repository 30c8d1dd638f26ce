//! The one binary: `bulla gateway`, and the commands of its operators and auditors.
//!
//! It is the only crate that names concrete others, and the only place of configuration, files of
//! policies and words for a terminal. It decides nothing and judges nothing itself.
//!
//! Invariants:
//! - **Every mistake at once**, each with its place and what to do; exit 3.
//! - **What is read out of the record is escaped** before it meets a terminal (`say`).
//! - **An act of an operator is an entry before it is done**, and so is a look at evidence.
//! - **No protocol is named outside `registry`.**
//!
//! | file | holds |
//! |---|---|
//! | `cli` | the command line |
//! | `config`, `config/*` | `bulla.toml` |
//! | `gateway`, `tls`, `policies`, `registry` | the running gateway |
//! | `admin`, `health`, `notify` | its faces: socket, HTTP, systemd |
//! | `roads`, `secrets` | the way to each target, and the secret for it |
//! | `agents` | agents, on the gateway's side |
//! | `agent` | `bulla agent` |
//! | `beside` | what an agent does beside its targets |
//! | `sessions`, `log` | the record, read back |
//! | `judge` | `policy test`, `policy explain` |
//! | `classify` | classes proposed for a target's columns |
//! | `mask` | masks and detectors, tried out |
//! | `doctor` | a look at everything around |
//! | `say`, `fail` | words, exit codes |

mod admin;
mod agent;
mod agents;
mod approvals;
mod beside;
mod classify;
mod cli;
mod config;
mod doctor;
mod fail;
mod gateway;
mod health;
mod judge;
mod log;
mod mask;
mod notify;
mod policies;
mod registry;
mod roads;
mod say;
mod secrets;
mod sessions;
mod tls;

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result};
use bulla_engine::Lanes;
use clap::{CommandFactory, Parser};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{
    cli::{AgentCommand, Cli, Command, ConfigCommand, Log, Mask, Policy},
    config::Config,
    fail::Invalid,
};

/// Sessions allocate in one thread what the record's threads free: the system's allocator takes a
/// lock for that, this one does not. Measured: a tenth of the processor time of a small statement.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Writes to stdout. A reader that went away is an error with a quiet end.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// What `TOKIO_WORKER_THREADS` says, where it says a number.
fn said() -> Option<usize> {
    let said = std::env::var("TOKIO_WORKER_THREADS").ok()?.parse().ok()?;
    (said > 0).then_some(said)
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// With as many workers as `TOKIO_WORKER_THREADS` says, else one for two processors. Two that each
/// have little to do wake each other for it, which costs more than the work; and the record's own
/// threads want to run too.
fn runtime() -> Result<Runtime> {
    let workers = said().unwrap_or_else(|| (processors() / 2).max(1));
    runtime_of(workers, |at| format!("bulla-main-{at}"))
}

/// For protocols whose connections need more processor time than one thread has: a thread for each
/// processor, or as many as `TOKIO_WORKER_THREADS` says.
fn lanes() -> Result<Lanes> {
    let count = said().unwrap_or_else(processors);
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.on_thread_park(bulla_ledger::wake_committer).thread_name("bulla-aside");
        builder.enable_all().build()
    };
    Lanes::start(count, runtime, bulla_ledger::gather_wake_ups).context("start the lanes")
}

/// `name`: of each worker, of 15 characters at most, which is what the kernel keeps. The first
/// threads of a runtime are its workers; later ones wait for files and names.
fn runtime_of(
    workers: usize,
    name: impl Fn(usize) -> String + Send + Sync + 'static,
) -> Result<Runtime> {
    let started = AtomicUsize::new(0);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // A worker that has found all its sessions' work wakes the record's thread once for all of it.
    builder.on_thread_start(bulla_ledger::gather_wake_ups);
    builder.on_thread_park(bulla_ledger::wake_committer);
    builder.worker_threads(workers).thread_name_fn(move || {
        match started.fetch_add(1, Ordering::Relaxed) {
            at if at < workers => name(at),
            _ => "bulla-aside".to_owned(),
        }
    });
    builder.enable_all().build().context("start the runtime")
}

/// Configuration, policies and the files behind the identities: all that can be told offline.
fn check(cli: &Cli) -> Result<()> {
    let config = gateway::load(&cli.config)?;
    let protocols = config.protocols()?;
    let bundle = policies::load(&config, &protocols).map_err(Invalid::policies);
    let identity = identity(&config)?;
    let bundle = match (bundle, identity) {
        (Ok(bundle), None) => bundle,
        (Err(one), Some(other)) => return Err(one.and(other).into()),
        (Err(invalid), None) | (Ok(_), Some(invalid)) => return Err(invalid.into()),
    };
    let (resources, policies) = (config.resources.len(), bundle.policy_count());
    let issuers = config.issuers.len() + config.trust_domains.len();
    if cli.json {
        let value = json!({
            "valid": true, "resources": resources, "policies": policies, "issuers": issuers,
        });
        return Ok(print(&value.to_string())?);
    }
    let tick = say::Paint::new().tick(true);
    Ok(print(&format!(
        "{tick} {}: {resources} resources, {issuers} issuers, {policies} policies",
        cli.config.display()
    ))?)
}

/// The identity part, built as the gateway would, without waiting for keys.
fn identity(config: &Config) -> Result<Option<Invalid>> {
    let runtime = runtime()?;
    let _inside = runtime.enter();
    let clock = std::sync::Arc::new(bulla_engine::SystemClock::default());
    let built = bulla_identity::Verifier::new(&config.identity(), clock);
    Ok(built.err().map(Invalid::identity))
}

fn run(cli: Cli) -> Result<ExitCode> {
    match &cli.command {
        Command::Gateway => {
            log_to_stderr();
            runtime()?.block_on(gateway::run(cli.config))?;
        }
        Command::Agent { command: None } => {
            log_to_stderr();
            agent::run(&cli.config)?;
        }
        Command::Agent { command: Some(command) } => match command {
            AgentCommand::Check => agent::check(&cli.config, cli.json)?,
            AgentCommand::TargetCa { target } => agent::target_ca(&cli.config, target)?,
            AgentCommand::Schema => {
                print(&serde_json::to_string_pretty(&config::agent::schema())?)?;
            }
            AgentCommand::JoinToken { name, resource, ttl } => {
                agents::join_token(&gateway::load(&cli.config)?, name, resource, *ttl, cli.json)?;
            }
        },
        Command::Agents(command) => {
            agents::run(&gateway::load(&cli.config)?, command, cli.json)?;
        }
        Command::Check => check(&cli)?,
        Command::Health => return doctor::health(&gateway::load(&cli.config)?, cli.json),
        Command::Sessions(command) => {
            sessions::run(&gateway::load(&cli.config)?, command, cli.json)?;
        }
        Command::Approvals(command) => {
            approvals::run(&gateway::load(&cli.config)?, command, cli.json)?;
        }
        Command::Policy(command) => {
            let config = gateway::load(&cli.config)?;
            match command {
                Policy::Check => judge::check(&config, cli.json)?,
                Policy::Schema => judge::schema(&config)?,
                Policy::Test { files } => return judge::test(&config, files, cli.json),
                Policy::Explain(explain) => return judge::explain(&config, explain, cli.json),
            }
        }
        Command::Classify { resource } => {
            classify::run(&gateway::load(&cli.config)?, resource, cli.json)?;
        }
        Command::Ssh(command) => registry::ssh(&cli, command)?,
        Command::Mask(command) => match command {
            Mask::Try(args) => mask::try_on(&gateway::load(&cli.config)?, args, cli.json)?,
            Mask::Find { file } => return mask::find(file.as_deref(), cli.json),
        },
        Command::Log(command) => match command {
            Log::Verify { dir, key, earlier, threads } => {
                return log::verify(dir, key, earlier, *threads, cli.json);
            }
            Log::Prove { index } => log::prove(&gateway::load(&cli.config)?, *index)?,
            Log::Checkpoint => log::checkpoint(&gateway::load(&cli.config)?)?,
            Log::Show { from, limit } => {
                log::show(&gateway::load(&cli.config)?, *from, *limit, cli.json)?;
            }
        },
        Command::Doctor => return doctor::run(&gateway::load(&cli.config)?, cli.json),
        Command::Config(ConfigCommand::Schema) => {
            print(&serde_json::to_string_pretty(&config::schema())?)?;
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "bulla", &mut text);
            io::stdout().write_all(&text)?;
        }
        Command::Man { dir: Some(dir) } => {
            std::fs::create_dir_all(dir).with_context(|| format!("make `{}`", dir.display()))?;
            clap_mangen::generate_to(Cli::command(), dir)?;
        }
        Command::Man { dir: None } => {
            let mut text = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut text)?;
            io::stdout().write_all(&text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The gateway's own log. It never holds payloads, tokens or values; those are evidence.
fn log_to_stderr() {
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("BULLA_LOG").unwrap_or_else(|_| "info".into());
    let start = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let json = std::env::var("BULLA_LOG_FORMAT").is_ok_and(|format| format == "json");
    if json {
        start.json().init();
    } else {
        start.with_ansi(false).init();
    }
}

fn main() -> ExitCode {
    // Process-wide, for whatever library asks for the default; there is one provider only.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cli = Cli::parse();
    let json = cli.json;
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            let cause = error.root_cause().downcast_ref::<io::Error>();
            if cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe) {
                return ExitCode::SUCCESS;
            }
            complain(&error, json);
            fail::code_of(&error)
        }
    }
}

fn complain(error: &anyhow::Error, json: bool) {
    match error.downcast_ref::<Invalid>() {
        Some(invalid) if json => eprintln!("{}", json!({ "problems": invalid.json })),
        None if json => eprintln!("{}", json!({ "error": format!("{error:#}") })),
        Some(invalid) => {
            for line in &invalid.lines {
                eprintln!("{}", say::line(line));
            }
            let n = invalid.lines.len();
            eprintln!("{n} mistake{} found", if n == 1 { "" } else { "s" });
        }
        None => eprintln!("error: {}", say::safe(&format!("{error:#}"))),
    }
}
