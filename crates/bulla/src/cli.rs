//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::value::Time;

const CODES: &str = "\
Exit codes:
  0   good
  1   error
  2   wrong usage
  3   configuration or policies do not hold
  4   denied
  10  the log was tampered with
  11  the log is not complete

Environment:
  BULLA_TABLE__KEY  overrides a key of the configuration, such as BULLA_GATEWAY__NAME
  BULLA_LOG         what the gateway logs: info (default), debug, bulla_engine=trace, ...
  BULLA_LOG_FORMAT  text (default) or json
  NO_COLOR          no colours";

/// A Layer-7, identity-aware access gateway that leaves a record which nobody can change unseen.
#[derive(Parser)]
#[command(name = "bulla", version, about, propagate_version = true, after_help = CODES)]
pub struct Cli {
    /// The configuration.
    #[arg(short, long, global = true, default_value = "bulla.toml", value_name = "FILE")]
    pub config: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run the gateway. SIGHUP reloads policies, issuers and certificates; SIGTERM drains.
    Gateway,
    /// Run an agent beside targets, or make the token that lets one join.
    Agent {
        #[command(subcommand)]
        command: Option<AgentCommand>,
    },
    /// Agents of this gateway: list, revoke.
    #[command(subcommand)]
    Agents(Agents),
    /// Check the configuration and everything that it names, offline, every mistake at once.
    Check,
    /// Ask the running gateway how it is; exit 0 only if it is ready.
    Health,
    /// Sessions, live and recorded.
    #[command(subcommand)]
    Sessions(Sessions),
    /// Commands that wait for a person.
    #[command(subcommand)]
    Approvals(Approvals),
    /// Policies: check, test, explain.
    #[command(subcommand)]
    Policy(Policy),
    /// Masks and detectors, tried out.
    #[command(subcommand)]
    Mask(Mask),
    /// Propose classes for a resource's columns, by their names and samples of what they hold.
    Classify {
        /// `orders`, or `orders/reports`.
        resource: String,
    },
    /// Hosts: certificates for clients, and whom clients and hosts have to believe.
    #[command(subcommand)]
    Ssh(Ssh),
    /// The tamper-evident log: verify, prove, show.
    #[command(subcommand)]
    Log(Log),
    /// Look at identity, recording and targets as they are now, and say what to do.
    Doctor,
    /// The configuration file.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print completions for a shell.
    Completions { shell: clap_complete::Shell },
    /// Print the manual page, or write every page into a folder.
    Man { dir: Option<PathBuf> },
}

#[derive(Subcommand)]
pub enum AgentCommand {
    /// Check an agent's configuration and every file that it names, every mistake at once.
    Check,
    /// Print the JSON Schema of an agent's configuration.
    Schema,
    /// Print the authority that a target has to believe, so that the agent can vouch for gateways.
    TargetCa {
        /// The target's name in the agent's configuration.
        target: String,
    },
    /// On the gateway: make a token, good once, that lets an agent join.
    JoinToken {
        /// The agent's name, as resources have it in `agent`.
        #[arg(long)]
        name: String,
        /// A resource that it may serve; may be given several times. By default all of its own.
        #[arg(long, value_name = "RESOURCE")]
        resource: Vec<String>,
        /// How long the token is good: 10m; at most 1h.
        #[arg(long, value_parser = time, default_value = "10m")]
        ttl: Time,
    },
}

#[derive(Subcommand)]
pub enum Agents {
    /// List enrolled agents and their tunnels.
    Ls,
    /// Revoke an agent at once: its tunnels end, its certificates are worth nothing.
    Revoke {
        name: String,
        /// This instance alone.
        #[arg(long, value_name = "ID")]
        instance: Option<String>,
    },
    /// Print what an agent without a join token has to pin.
    Pin,
    /// Replace the key of the agents' authority. Agents take certificates of the new one as they
    /// renew; the old one is believed for a day.
    Rotate {
        /// Believe the old one no more: its key was stolen. Every agent enrols anew.
        #[arg(long)]
        at_once: bool,
    },
}

#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Print the JSON Schema of the configuration.
    Schema,
}

#[derive(Subcommand)]
pub enum Sessions {
    /// List sessions, newest first.
    Ls {
        /// Only those on this resource; `bulla` is the gateway itself, with what operators did.
        #[arg(long)]
        resource: Option<String>,
        /// Only those of this principal: `k8s|billing/api`, or a part of it.
        #[arg(long)]
        principal: Option<String>,
        /// Only those opened so long ago at most: 15m, 8h, 7d.
        #[arg(long, value_parser = time)]
        since: Option<Time>,
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
    },
    /// Show what a session did: each command, its parameters, its decision.
    Show {
        session: String,
        /// This command alone, with what was returned.
        #[arg(long, value_name = "N")]
        command: Option<u64>,
        /// Read although no gateway runs that could record the reading.
        #[arg(long)]
        offline: bool,
    },
    /// Show what a session did and what was returned.
    Replay {
        session: String,
        #[arg(long, value_name = "N")]
        command: Option<u64>,
        /// Write the exact bytes that the client got instead.
        #[arg(long)]
        raw: bool,
        /// Write the exchanges of an HTTP session as an archive (HAR 1.2) instead.
        #[arg(long, conflicts_with = "raw")]
        har: bool,
        /// Write a terminal as a recording for `asciinema play` (asciicast v2) instead.
        #[arg(long, conflicts_with_all = ["raw", "har"])]
        cast: bool,
        /// Read although no gateway runs that could record the reading.
        #[arg(long)]
        offline: bool,
    },
    /// End a live session.
    Kill { session: String },
}

#[derive(Subcommand)]
pub enum Ssh {
    /// Get a certificate for a key, good for 15 minutes at most, in exchange for a token.
    Login(SshLogin),
    /// On the gateway: print the line of `known_hosts` by which clients know it.
    HostCa {
        /// The host names that clients use.
        #[arg(default_value = "*")]
        pattern: String,
    },
    /// On the gateway: print the line of `TrustedUserCAKeys` by which hosts let it in.
    TargetCa,
}

#[derive(clap::Args)]
pub struct SshLogin {
    /// The gateway: `bulla.example:2222`.
    #[arg(long, value_name = "HOST:PORT")]
    pub gateway: String,
    /// A file with the line that `bulla ssh host-ca` prints.
    #[arg(long, value_name = "FILE")]
    pub ca: PathBuf,
    /// The token; by default standard input.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The private key; made if it is not there. The certificate is written beside it.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
}

#[derive(Subcommand)]
pub enum Approvals {
    /// List what waits.
    Ls,
    /// Show exactly what would run.
    Show { id: String },
    /// Let it run, once.
    Approve(AnswerArgs),
    /// Refuse it.
    Reject(AnswerArgs),
}

#[derive(clap::Args)]
pub struct AnswerArgs {
    pub id: String,
    /// Recorded, and shown to whoever asked.
    #[arg(long)]
    pub reason: Option<String>,
    /// Answer as the principal of the token in this file, not as the user of this host.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum Policy {
    /// Check the policies.
    Check,
    /// Run tables of expected decisions. Statements are read with the target's catalogue.
    Test { files: Vec<PathBuf> },
    /// Say how a statement is decided, and why.
    Explain(Explain),
    /// Print the schema that policies are checked against.
    Schema,
}

#[derive(Subcommand)]
pub enum Mask {
    /// Show what a class's mask makes of a value.
    Try(Try),
    /// Say where a text holds card numbers, keys and the like, and never what they are. Exit 4 if
    /// it holds any.
    Find {
        /// By default standard input.
        file: Option<PathBuf>,
    },
}

#[derive(clap::Args)]
pub struct Try {
    /// `pii.ssn`
    #[arg(long)]
    pub class: String,
    pub value: String,
    #[arg(long, value_enum, default_value_t = Kind::Text)]
    pub kind: Kind,
    /// Whose date it is, for `date-shift`.
    #[arg(long)]
    pub subject: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    Text,
    Number,
    Json,
}

#[derive(clap::Args)]
pub struct Explain {
    /// `k8s|billing/api`, or JSON: {"id": ..., "groups": [...], "attributes": {...}}
    #[arg(long, required_unless_present = "event")]
    pub principal: Option<String>,
    /// A group of the principal; may be given several times.
    #[arg(long, value_name = "GROUP")]
    pub group: Vec<String>,
    /// `orders`, or `orders/reports`.
    #[arg(long, required_unless_present = "event")]
    pub resource: Option<String>,
    /// The statement; without one, the opening of a session is explained.
    #[arg(long, visible_alias = "statement")]
    pub sql: Option<String>,
    /// A recorded command, as a refusal names it, decided again by today's policies.
    #[arg(long, conflicts_with_all = ["principal", "group", "resource", "sql"])]
    pub event: Option<String>,
    /// Read the record although no gateway runs that could record the reading.
    #[arg(long)]
    pub offline: bool,
}

#[derive(Subcommand)]
pub enum Log {
    /// Verify an archive offline, with nothing but the log's public key.
    Verify {
        /// The archive: `archive` in the data folder, or a copy of it.
        dir: PathBuf,
        /// The log's public key, or a file that holds it.
        #[arg(long)]
        key: String,
        /// A checkpoint from earlier, kept elsewhere; the log must contain it.
        #[arg(long, value_name = "FILE")]
        earlier: Vec<PathBuf>,
        #[arg(long, value_name = "N")]
        threads: Option<usize>,
    },
    /// Print a proof, good offline and for ever, that an entry is in the log.
    Prove { index: u64 },
    /// Print the newest signed checkpoint.
    Checkpoint,
    /// Show entries as the log holds them, without their private parts.
    Show {
        /// The first; by default the newest ones.
        #[arg(long)]
        from: Option<u64>,
        #[arg(long, default_value_t = 20, value_name = "N")]
        limit: u64,
    },
}

fn time(text: &str) -> Result<Time, String> {
    Time::parse(text).ok_or_else(|| "write 15m, 8h or 7d".to_owned())
}
