//! Agents of the gateway under test: the built binary, beside its targets.

use std::fmt::Write as _;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::Result;

use crate::client::http_get;
use crate::gateway::{ResourceSpec, binary};
use crate::netns::Host;
use crate::place::{Port, TempDir};
use crate::proc::{Proc, Signal};

/// How long an agent may take to drain.
const STOP: Duration = Duration::from_secs(60);

/// What the agent's operator would write down.
#[derive(Clone, Debug)]
pub struct AgentSpec {
    pub name: String,
    pub gateways: Vec<GatewayLink>,
    /// What it may reach, by the names of the gateway's resources.
    pub targets: Vec<ResourceSpec>,
    /// Further tables of its configuration.
    pub more: String,
    /// The network in which it runs.
    pub host: Option<Host>,
}

/// A gateway that may use the agent.
#[derive(Clone, Debug)]
pub struct GatewayLink {
    /// `host:port`.
    pub address: String,
    /// A join token, or lines of the table that say another way.
    pub join: Join,
}

#[derive(Clone, Debug)]
pub enum Join {
    Token(String),
    Lines(String),
}

impl AgentSpec {
    /// An agent of one gateway on this host.
    pub fn new(name: &str, port: u16, token: &str, target: &ResourceSpec) -> Self {
        let join = Join::Token(token.to_owned());
        Self {
            name: name.to_owned(),
            gateways: vec![GatewayLink { address: format!("127.0.0.1:{port}"), join }],
            targets: vec![target.clone()],
            more: String::new(),
            host: None,
        }
    }

    fn toml(&self, health: u16, dir: &TempDir) -> Result<String> {
        let mut toml = format!(
            "[agent]\nname = {:?}\ndata = \"data\"\nhttp = \"127.0.0.1:{health}\"\n\
             keepalive = \"2s\"\n\n",
            self.name
        );
        for (i, gateway) in self.gateways.iter().enumerate() {
            write!(toml, "[gateways.gw{i}]\naddress = {:?}\n", gateway.address)?;
            match &gateway.join {
                Join::Token(token) => {
                    dir.write(&format!("gw{i}.token"), token)?;
                    writeln!(toml, "join_token_file = \"gw{i}.token\"")?;
                }
                Join::Lines(lines) => writeln!(toml, "{lines}")?,
            }
        }
        for target in &self.targets {
            write!(
                toml,
                "\n[targets.{}]\nprotocol = \"postgres\"\n{}",
                target.name,
                target.reach()?
            )?;
            target.write(dir)?;
        }
        toml.push_str(&self.more);
        Ok(toml)
    }
}

/// A running agent. Dropped, it and its data are gone.
#[derive(Debug)]
pub struct Agent {
    proc: Proc,
    dir: TempDir,
    host: Option<Host>,
    health: Port,
}

impl Agent {
    /// Writes its configuration into a fresh folder and starts it. When it is connected, the
    /// gateway knows: `Gateway::wait_agents`.
    ///
    /// # Errors
    /// The binary is not built (the message says how).
    pub fn start(spec: &AgentSpec) -> Result<Self> {
        let dir = TempDir::new("agent")?;
        let health = Port::new()?;
        dir.write("agent.toml", spec.toml(health.number(), &dir)?)?;
        let proc = spawn(&dir, spec.host.as_ref())?;
        Ok(Self { proc, dir, host: spec.host.clone(), health })
    }

    pub fn dir(&self) -> &TempDir {
        &self.dir
    }

    pub fn proc(&self) -> &Proc {
        &self.proc
    }

    /// Everything that it said since its last start.
    pub fn log(&self) -> String {
        self.proc.log()
    }

    /// A page of its HTTP listener: status and body.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn http(&self, path: &str) -> Result<(u16, String)> {
        http_get(&format!("http://127.0.0.1:{}{path}", self.health.number()))
    }

    /// Kills it at once.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(&self) -> Result<()> {
        self.proc.kill()
    }

    /// Asks it to drain.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn terminate(&self) -> Result<()> {
        self.proc.signal(Signal::Terminate)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn wait(&self) -> Result<ExitStatus> {
        self.proc.wait(STOP)
    }

    /// Starts it again on what it kept.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.proc = spawn(&self.dir, self.host.as_ref())?;
        Ok(())
    }
}

fn spawn(dir: &TempDir, host: Option<&Host>) -> Result<Proc> {
    let mut command = Command::new(binary()?);
    command.args(["agent", "-c", "agent.toml"]).current_dir(dir.path()).env("NO_COLOR", "1");
    Proc::spawn("agent", Host::enter_if(host, command))
}
