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

    /// What it is to the others: the end of its namespace's name.
    fn role(&self) -> &str {
        self.namespace.rsplit('-').next().unwrap_or_default()
    }

    /// Changes the firewall of this host.
    fn nft(&self, rules: &str) -> Result<()> {
        let mut command = Command::new("nft");
        command.args(["-f", "-"]);
        let done = capture(self.enter(&command), Some(rules.as_bytes().to_vec()), SOON)?;
        done.success().context("change a firewall").map(drop)
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
    /// Between target and gateway, once [`Net::translate`] has put it there.
    router: Host,
}

pub const APP: &str = "10.207.1.2";
pub const TARGET: &str = "10.207.2.2";
pub const AUDIT: &str = "10.207.3.2";
/// The target's address behind a router that translates it.
pub const TARGET_INSIDE: &str = "10.208.0.2";

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
            router: host("router"),
        };
        for host in [&net.app, &net.gateway, &net.target, &net.audit] {
            ip(&["netns", "add", &host.namespace])?;
            ip(&["-n", &host.namespace, "link", "set", "lo", "up"])?;
        }
        for (host, address) in [(&net.app, APP), (&net.target, TARGET), (&net.audit, AUDIT)] {
            net.cable(host, host.role(), address)?;
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

    /// Puts a router between target and gateway, which gives the target's connections its own
    /// address and lets nobody in (NAT, RFC 3022).
    ///
    /// # Errors
    /// The network cannot be changed.
    pub fn translate(&self) -> Result<()> {
        let Self { gateway, target, router, .. } = self;
        ip(&["netns", "add", &router.namespace])?;
        ip(&["-n", &router.namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", &gateway.namespace, "link", "delete", "to-target"])?;
        self.cable(router, "target", TARGET)?;
        let inside = gateway_at(TARGET_INSIDE);
        join((&router.namespace, "inside", &inside), (&target.namespace, "cable", TARGET_INSIDE))?;
        router.run("sysctl", &["-q", "-w", "net.ipv4.ip_forward=1"])?.success()?;
        firewall(router, "")?;
        router.nft(
            "table ip nat {\n chain out {\n type nat hook postrouting priority 100;\n\
             oifname \"cable\" masquerade\n }\n }\n",
        )?;
        self.mend()
    }

    /// The router drops everything, and says nothing about it, until [`Net::mend`].
    ///
    /// # Errors
    /// The firewall refuses.
    pub fn cut(&self) -> Result<()> {
        self.router.nft("flush chain inet filter forward\n")
    }

    /// The router lets the target out again.
    ///
    /// # Errors
    /// The firewall refuses.
    pub fn mend(&self) -> Result<()> {
        self.router.nft(
            "add rule inet filter forward ct state established,related accept\n\
             add rule inet filter forward iifname \"inside\" accept\n",
        )
    }

    fn hosts(&self) -> [&Host; 5] {
        [&self.app, &self.gateway, &self.target, &self.audit, &self.router]
    }

    /// Joins a host to the gateway's, which knows the cable by what it leads to.
    fn cable(&self, host: &Host, to: &str, address: &str) -> Result<()> {
        let (end, near) = (format!("to-{to}"), gateway_at(address));
        join((&self.gateway.namespace, &end, &near), (&host.namespace, "cable", address))
    }
}

/// A cable between two namespaces: the name and the address of each end. The near end is the far
/// one's way to everything else.
fn join(near: (&str, &str, &str), far: (&str, &str, &str)) -> Result<()> {
    let ((near, end, gateway), (far, name, address)) = (near, far);
    let (near_ip, far_ip) = (format!("{gateway}/24"), format!("{address}/24"));
    ip(&["-n", near, "link", "add", end, "type", "veth", "peer", "name", name, "netns", far])?;
    ip(&["-n", near, "address", "add", &near_ip, "dev", end])?;
    ip(&["-n", near, "link", "set", end, "up"])?;
    ip(&["-n", far, "address", "add", &far_ip, "dev", name])?;
    ip(&["-n", far, "link", "set", name, "up"])?;
    ip(&["-n", far, "route", "add", "default", "via", gateway])
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
    host.nft(&rules)
}
