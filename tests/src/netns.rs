//! Hosts of their own: network namespaces, joined by virtual cables to one in the middle, each with
//! a firewall. Made and removed by this process, which needs to be root.
//!
//! ```text
//!   app 10.207.1.2 ──┐
//!   target 10.207.2.2 ──┼── gateway 10.207.<n>.1
//!   audit 10.207.3.2 ──┘
//! ```
//!
//! The gateway's host would route between them if its firewall let it, so that what keeps them
//! apart is the firewall and not a missing route.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::places;

use crate::place::random;
use crate::proc::{Captured, capture};

/// How long one change of a network may take.
const SOON: Duration = Duration::from_secs(30);
/// What does not answer for so long does not answer.
const DEAF: Duration = Duration::from_secs(2);

/// A network namespace, as seen by what is started in it.
#[derive(Clone, Debug)]
pub struct Host {
    namespace: String,
    /// Folders of other hosts, which are not on this one's disk.
    hidden: Vec<PathBuf>,
}

impl Host {
    /// This host without a folder that is on another host's disk.
    #[must_use]
    pub fn without(mut self, folder: &Path) -> Self {
        self.hidden.push(folder.to_path_buf());
        self
    }

    /// The command, run on this host. What it finds in its environment is what it would find here.
    pub fn enter(&self, command: &Command) -> Command {
        let mut out = Command::new("ip");
        out.args(["netns", "exec", &self.namespace]);
        if !self.hidden.is_empty() {
            // `ip netns exec` has given us mounts of our own.
            let mounts: Vec<_> =
                self.hidden.iter().map(|path| format!("mount -t tmpfs none {path:?}")).collect();
            let script = format!("{} && exec \"$@\"", mounts.join(" && "));
            out.args(["sh", "-c", &script, "sh"]);
        }
        out.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => out.env(name, value),
                None => out.env_remove(name),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            out.current_dir(dir);
        }
        out
    }

    /// The command, on that host, or on this one.
    pub fn enter_if(host: Option<&Self>, command: Command) -> Command {
        match host {
            Some(host) => host.enter(&command),
            None => command,
        }
    }

    /// Runs a program here.
    ///
    /// # Errors
    /// It cannot be run. What it answers is in the result, whatever it is.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<Captured> {
        let mut command = Command::new(program);
        command.args(args);
        capture(self.enter(&command), None, SOON)
    }

    /// Whether somebody takes a TCP connection at an address.
    ///
    /// # Errors
    /// It cannot be tried.
    pub fn reaches(&self, address: &str, port: u16) -> Result<bool> {
        let script = format!("exec 3<>/dev/tcp/{address}/{port}");
        let deaf = DEAF.as_secs().to_string();
        Ok(self.run("timeout", &[&deaf, "bash", "-c", &script])?.code() == 0)
    }
}

/// The hosts of one test. Dropped, they are gone.
#[derive(Debug)]
pub struct Net {
    pub app: Host,
    pub gateway: Host,
    pub target: Host,
    pub audit: Host,
}

pub const APP: &str = "10.207.1.2";
pub const TARGET: &str = "10.207.2.2";
pub const AUDIT: &str = "10.207.3.2";

/// The gateway's address on the cable of the host with this address.
pub fn gateway_at(host: &str) -> String {
    host.strip_suffix(".2").map_or_else(String::new, |cable| format!("{cable}.1"))
}

impl Net {
    /// Makes the hosts. The audit host lets the gateway in; nobody else lets anybody in.
    ///
    /// # Errors
    /// This is not root, or a tool is missing (the message names the command that installs it).
    pub fn new() -> Result<Self> {
        ensure!(places::is_root(), "network namespaces are made by root: run the tests as root");
        for (tool, package) in [("ip", "iproute2"), ("nft", "nftables")] {
            let missing = || format!("no `{tool}`; install it: apt-get install {package}");
            let found =
                places::which(tool).is_some() || Path::new("/usr/sbin").join(tool).is_file();
            ensure!(found, missing());
        }
        let tag = format!("{:08x}", random() as u32);
        let host = |role: &str| Host { namespace: format!("bulla-{tag}-{role}"), hidden: vec![] };
        let net = Self {
            app: host("app"),
            gateway: host("gateway"),
            target: host("target"),
            audit: host("audit"),
        };
        for host in net.hosts() {
            ip(&["netns", "add", &host.namespace])?;
            ip(&["-n", &host.namespace, "link", "set", "lo", "up"])?;
        }
        for (host, address) in [(&net.app, APP), (&net.target, TARGET), (&net.audit, AUDIT)] {
            net.cable(host, address)?;
        }
        let forward = net.gateway.run("sysctl", &["-q", "-w", "net.ipv4.ip_forward=1"])?;
        forward.success().context("let the gateway's host route")?;
        firewall(&net.gateway, "")?;
        firewall(&net.target, "")?;
        firewall(&net.audit, "tcp dport 8000 accept\n")?;
        Ok(net)
    }

    /// Lets the application reach one port of the gateway, and the target's network another.
    ///
    /// # Errors
    /// The firewall refuses.
    pub fn let_in(&self, clients: u16, agents: u16) -> Result<()> {
        for (cable, port) in [("to-app", clients), ("to-target", agents)] {
            let rule =
                format!("add rule inet filter input iifname {cable} tcp dport {port} accept");
            self.gateway.run("nft", &[&rule])?.success().context("open a port")?;
        }
        Ok(())
    }

    fn hosts(&self) -> [&Host; 4] {
        [&self.app, &self.gateway, &self.target, &self.audit]
    }

    /// Joins a host to the gateway's.
    fn cable(&self, host: &Host, address: &str) -> Result<()> {
        let (near, far) = (&self.gateway.namespace, &host.namespace);
        let role = far.rsplit('-').next().unwrap_or_default();
        let (end, gateway) = (format!("to-{role}"), gateway_at(address));
        let (near_ip, far_ip) = (format!("{gateway}/24"), format!("{address}/24"));
        ip(&[
            "-n", near, "link", "add", &end, "type", "veth", "peer", "name", "cable", "netns", far,
        ])?;
        ip(&["-n", near, "address", "add", &near_ip, "dev", &end])?;
        ip(&["-n", near, "link", "set", &end, "up"])?;
        ip(&["-n", far, "address", "add", &far_ip, "dev", "cable"])?;
        ip(&["-n", far, "link", "set", "cable", "up"])?;
        ip(&["-n", far, "route", "add", "default", "via", &gateway])
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in self.hosts() {
            // What was not made cannot be removed.
            let _ = ip(&["netns", "delete", &host.namespace]);
        }
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(args);
    let done = capture(command, None, SOON)?;
    done.success().with_context(|| format!("ip {}", args.join(" "))).map(drop)
}

/// Drops everything that is not answered for or let in by `input`, and routes nothing.
fn firewall(host: &Host, input: &str) -> Result<()> {
    let rules = format!(
        "table inet filter {{\n\
         chain input {{\n type filter hook input priority 0; policy drop;\n\
         iifname \"lo\" accept\n ct state established,related accept\n {input}}}\n\
         chain forward {{\n type filter hook forward priority 0; policy drop;\n }}\n\
         }}\n"
    );
    let mut command = Command::new("nft");
    command.args(["-f", "-"]);
    let done = capture(host.enter(&command), Some(rules.into_bytes()), SOON)?;
    done.success().context("set up a firewall").map(drop)
}
