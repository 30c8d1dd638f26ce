//! The one binary: `bulla gateway` and the commands of its operators and auditors.

mod admin;
mod config;
mod gateway;
mod health;
mod record;
mod registry;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Result, bail};
use clap::{CommandFactory, Parser, Subcommand};
use config::Config;
use serde_json::{Value, json};

/// A Layer-7, identity-aware access gateway that leaves a record which nobody can change unseen.
#[derive(Parser)]
#[command(name = "bulla", version, about, propagate_version = true)]
struct Cli {
    /// The configuration.
    #[arg(short, long, global = true, default_value = "bulla.toml")]
    config: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway.
    Gateway,
    /// Check the configuration and the policies, and report every mistake at once.
    Check,
    /// Live and recorded sessions.
    #[command(subcommand)]
    Sessions(Sessions),
    /// Commands that wait for a person.
    #[command(subcommand)]
    Approvals(Approvals),
    /// Policies.
    #[command(subcommand)]
    Policy(Policy),
    /// The tamper-evident log.
    #[command(subcommand)]
    Log(Log),
    /// Print completions for a shell.
    Completions { shell: clap_complete::Shell },
    /// Print the manual page.
    Man,
}

#[derive(Subcommand)]
enum Sessions {
    /// List sessions, newest first.
    Ls {
        #[arg(long)]
        resource: Option<String>,
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show what a session did.
    Show {
        session: String,
        #[arg(long)]
        command: Option<u64>,
    },
    /// Show what a session did and what was returned; --raw writes the exact bytes.
    Replay {
        session: String,
        #[arg(long)]
        command: Option<u64>,
        #[arg(long)]
        raw: bool,
    },
    /// End a live session.
    Kill { session: String },
}

#[derive(Subcommand)]
enum Approvals {
    Ls,
    Show {
        id: String,
    },
    Approve {
        id: String,
        #[arg(long)]
        reason: Option<String>,
    },
    Reject {
        id: String,
        #[arg(long)]
        reason: Option<String>,
    },
}

#[derive(Subcommand)]
enum Policy {
    /// Check the policies alone.
    Check,
    /// Print the schema that policies are checked against.
    Schema,
}

#[derive(Subcommand)]
enum Log {
    /// Verify an archive offline: exit 0, 10 (tampered) or 11 (incomplete).
    Verify {
        dir: PathBuf,
        /// The log's public key, or a file that holds it.
        #[arg(long)]
        key: String,
    },
    /// Print a proof that an entry is in the log.
    Prove { index: u64 },
    /// Print the newest signed checkpoint.
    Checkpoint,
}

fn load(path: &Path) -> Result<Config> {
    let environment: Vec<_> = std::env::vars().collect();
    let loaded = Config::load(path, &environment);
    Ok(loaded.map_err(|all| gateway::Invalid(all.join("\n")))?)
}

fn print(value: &Value) {
    println!("{value}");
}

fn table(rows: &[Value], columns: &[&str]) {
    let cell = |row: &Value, column: &str| match row.get(column) {
        Some(Value::String(text)) => record::safe(text).replace('\n', " "),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    let widths: Vec<usize> = columns
        .iter()
        .map(|c| {
            rows.iter().map(|r| cell(r, c).chars().count()).chain([c.len()]).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: Vec<String>| {
        let padded = cells.iter().zip(&widths).map(|(c, w)| format!("{c:w$}"));
        println!("{}", padded.collect::<Vec<_>>().join("  ").trim_end());
    };
    line(columns.iter().map(|c| c.to_uppercase()).collect());
    for row in rows {
        line(columns.iter().map(|c| cell(row, c)).collect());
    }
}

/// Reading evidence is an entry of its own. A gateway that does not run cannot write it: say so.
fn note_reading(config: &Config, what: &str) {
    let noted = admin::call(&config.socket(), &json!({ "do": "read", "what": what }));
    if let Err(error) = noted {
        eprintln!("note: this reading is not in the log, since {error}");
    }
}

fn sessions(config: &Config, command: Sessions, json: bool) -> Result<ExitCode> {
    let data = config.data();
    match command {
        Sessions::Ls { resource, limit } => {
            let rows = record::list(&data, resource.as_deref(), limit)?;
            if json {
                print(&Value::Array(rows));
            } else {
                let columns = [
                    "session",
                    "principal",
                    "resource",
                    "opened",
                    "commands",
                    "denied",
                    "held",
                    "rows",
                    "state",
                ];
                table(&rows, &columns);
            }
        }
        Sessions::Show { session, command } => {
            note_reading(config, &format!("session {session}"));
            record::show(&data, &session, command, command.is_some())?;
        }
        Sessions::Replay { session, command, raw } => {
            note_reading(config, &format!("session {session}, with its answers"));
            if raw {
                record::raw(&data, &session, command)?;
            } else {
                record::show(&data, &session, command, true)?;
            }
        }
        Sessions::Kill { session } => {
            admin::call(&config.socket(), &json!({ "do": "kill", "session": session }))?;
            println!("{session} is told to end");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn approvals(config: &Config, command: Approvals, json: bool) -> Result<ExitCode> {
    let request = match &command {
        Approvals::Ls => json!({ "do": "approvals" }),
        Approvals::Show { id } => json!({ "do": "approval", "id": id }),
        Approvals::Approve { id, reason } => json!({ "do": "approve", "id": id, "reason": reason }),
        Approvals::Reject { id, reason } => json!({ "do": "reject", "id": id, "reason": reason }),
    };
    let answer = admin::call(&config.socket(), &request)?;
    match (&command, &answer) {
        _ if json => print(&answer),
        (Approvals::Ls, Value::Array(rows)) => {
            table(rows, &["id", "since", "principal", "resource", "action", "statement"]);
        }
        (Approvals::Show { .. }, Value::Object(fields)) => {
            for (key, value) in fields {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
                println!("{key:11} {}", record::safe(&text));
            }
        }
        (Approvals::Approve { id, .. }, _) => println!("{id} approved"),
        (Approvals::Reject { id, .. }, _) => println!("{id} rejected"),
        _ => bail!("the gateway's answer makes no sense"),
    }
    Ok(ExitCode::SUCCESS)
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Gateway => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(gateway::run(cli.config))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check | Command::Policy(Policy::Check) => {
            let config = load(&cli.config)?;
            let bundle = gateway::policies(&config, &registry::protocols()?);
            let bundle = bundle.map_err(|all| gateway::Invalid(all.join("\n")))?;
            let n = bundle.policy_count();
            println!("good: {} resources, {n} policies", config.resources.len());
            Ok(ExitCode::SUCCESS)
        }
        Command::Policy(Policy::Schema) => {
            let config = load(&cli.config)?;
            let bundle = gateway::policies(&config, &registry::protocols()?);
            let bundle = bundle.map_err(|all| gateway::Invalid(all.join("\n")))?;
            println!("{}", bundle.schema_text());
            Ok(ExitCode::SUCCESS)
        }
        Command::Sessions(command) => sessions(&load(&cli.config)?, command, cli.json),
        Command::Approvals(command) => approvals(&load(&cli.config)?, command, cli.json),
        Command::Log(Log::Verify { dir, key }) => {
            Ok(ExitCode::from(record::verify(&dir, &key, cli.json)?))
        }
        Command::Log(Log::Prove { index }) => {
            record::prove(&load(&cli.config)?.data(), index)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Log(Log::Checkpoint) => {
            record::checkpoint(&load(&cli.config)?.data())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "bulla", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man => {
            clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn main() -> ExitCode {
    // Both are process-wide and must be the same one; a second call would be an error of ours.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("BULLA_LOG")
                .unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<gateway::Invalid>() { ExitCode::from(3) } else { ExitCode::FAILURE }
        }
    }
}
