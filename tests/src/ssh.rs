//! Hosts behind the gateway: a real OpenSSH server as target, OpenSSH's own programs as clients.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::places;

use crate::agent::{Agent, AgentSpec, GatewayLink, Join};
use crate::ca::Authority;
use crate::gateway::{Gateway, Spec, cli_in};
use crate::issuer::Issuer;
use crate::place::{Port, TempDir};
use crate::proc::{Captured, Proc, Signal, capture};

const PATIENCE: Duration = Duration::from_secs(60);

/// The name of the host as a resource.
pub const HOST: &str = "web";

fn program(name: &str, package: &str) -> Result<PathBuf> {
    let found = places::which(name).or_else(|| Some(PathBuf::from("/usr/sbin").join(name)));
    let found = found.filter(|path| path.is_file());
    found.with_context(|| format!("no {name}; install it: apt-get install {package}"))
}

/// Who runs the tests: the only account that a server of theirs can open.
///
/// # Errors
/// `id` does not say it.
pub fn me() -> Result<String> {
    let mut command = Command::new("id");
    command.arg("-un");
    Ok(capture(command, None, PATIENCE)?.success()?.trim().to_owned())
}

/// Makes a key in OpenSSH's form.
///
/// # Errors
/// `ssh-keygen` is not installed.
pub fn keygen(path: &Path) -> Result<String> {
    let mut command = Command::new(program("ssh-keygen", "openssh-client")?);
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", "bed", "-f"]).arg(path);
    capture(command, None, PATIENCE)?.success()?;
    let mut public = path.as_os_str().to_owned();
    public.push(".pub");
    Ok(fs::read_to_string(PathBuf::from(public)).context("read the public key")?.trim().to_owned())
}

/// OpenSSH's server. Dropped, it is gone.
#[derive(Debug)]
pub struct Sshd {
    proc: Proc,
    port: Port,
    dir: TempDir,
    host_key: String,
}

impl Sshd {
    /// Lets in whoever its trusted authority certifies; it has none yet.
    ///
    /// # Errors
    /// It is not installed (the message says how), or does not start.
    pub fn start() -> Result<Self> {
        Self::with("")
    }

    /// `more`: further lines of its configuration, before the others.
    ///
    /// # Errors
    /// As [`Sshd::start`].
    pub fn with(more: &str) -> Result<Self> {
        let dir = TempDir::new("sshd")?;
        let host_key = keygen(&dir.join("host_key"))?;
        Self::launch(dir, host_key, more)
    }

    /// With a host certificate for `name`, and the public key of the authority that signed it.
    ///
    /// # Errors
    /// As [`Sshd::start`].
    pub fn certified(name: &str) -> Result<(Self, String)> {
        let dir = TempDir::new("sshd")?;
        let host_key = keygen(&dir.join("host_key"))?;
        let authority = keygen(&dir.join("ca"))?;
        let mut sign = Command::new(program("ssh-keygen", "openssh-client")?);
        sign.args(["-q", "-I", "host", "-h", "-n", name, "-V", "-1h:+1h", "-s"]);
        sign.arg(dir.join("ca")).arg(dir.join("host_key.pub"));
        capture(sign, None, PATIENCE)?.success()?;
        let more = format!("HostCertificate {}", dir.join("host_key-cert.pub").display());
        Ok((Self::launch(dir, host_key, &more)?, authority))
    }

    /// Another server in its place: a Python script that is given its port and the file of its
    /// host key, and says `listening`.
    ///
    /// # Errors
    /// The libraries are not installed (the message says how), or it does not start.
    pub fn script(script: &str) -> Result<Self> {
        let (dir, port) = (TempDir::new("sshd")?, Port::new()?);
        let host_key = keygen(&dir.join("host_key"))?;
        let path = dir.join("host_key").display().to_string();
        let command = python(script, &[&port.number().to_string(), &path])?;
        let proc = Proc::spawn("a server of SSH", command)?;
        proc.wait_line("listening", PATIENCE)?;
        Ok(Self { proc, port, dir, host_key })
    }

    fn launch(dir: TempDir, host_key: String, more: &str) -> Result<Self> {
        let sshd = program("sshd", "openssh-server")?;
        let port = Port::new()?;
        if places::is_root() {
            fs::create_dir_all("/run/sshd").context("make sshd's empty folder")?;
        }
        dir.write("target_ca.pub", "")?;
        dir.write("authorized_keys", "")?;
        let path = |name: &str| dir.join(name).display().to_string();
        let config = format!(
            "{more}\nPort {}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile {}\n\
             TrustedUserCAKeys {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
             AcceptEnv *\nSubsystem sftp internal-sftp\nMaxStartups 200\nMaxSessions 100\n\
             LogLevel VERBOSE\nUseDNS no\nPrintMotd no\nPrintLastLog no\n",
            port.number(),
            path("host_key"),
            path("pid"),
            path("target_ca.pub"),
            path("authorized_keys"),
        );
        let config = dir.write("sshd_config", config)?;
        let mut command = Command::new(sshd);
        command.arg("-D").arg("-e").arg("-f").arg(config);
        let proc = Proc::spawn_with("sshd", command, Signal::Terminate, None)?;
        proc.wait_line("Server listening", PATIENCE)?;
        Ok(Self { proc, port, dir, host_key })
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }
    /// Its public key, as a line.
    pub fn host_key(&self) -> &str {
        &self.host_key
    }
    /// A folder for whatever a test keeps at the target.
    pub fn dir(&self) -> &TempDir {
        &self.dir
    }
    pub fn log(&self) -> String {
        self.proc.log()
    }
    /// Believes an authority from now on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn trust(&self, authority: &str) -> Result<()> {
        self.dir.write("target_ca.pub", authority).map(drop)
    }
    /// Lets a key in.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn authorize(&self, key: &str) -> Result<()> {
        self.dir.write("authorized_keys", key).map(drop)
    }
}

/// Sets up OpenSSH's programs in a folder: `known_hosts`, a key and its certificate in exchange for
/// the token, and the file `config`, in which the host is `web`.
///
/// # Errors
/// The gateway gives no certificate.
pub fn set_up(
    gateway: &Gateway,
    dir: &TempDir,
    port: u16,
    account: &str,
    token: &str,
) -> Result<()> {
    dir.write("known_hosts", gateway.cli(&["ssh", "host-ca"])?.success()?)?;
    dir.write("token", token)?;
    let path = |name: &str| dir.join(name).display().to_string();
    let (address, ca) = (format!("localhost:{port}"), path("known_hosts"));
    let (token, key) = (path("token"), path("id"));
    let args =
        ["ssh", "login", "--gateway", &address, "--ca", &ca, "--token-file", &token, "--key", &key];
    gateway.cli(&args)?.success()?;
    let text = format!(
        "Host {HOST}\n HostName localhost\n Port {port}\n User {account}%{HOST}\n \
         HostKeyAlias {HOST}\nHost *\n UserKnownHostsFile {ca}\n \
         GlobalKnownHostsFile /dev/null\n StrictHostKeyChecking yes\n IdentityFile {key}\n \
         CertificateFile {key}-cert.pub\n IdentitiesOnly yes\n BatchMode yes\n \
         AddressFamily inet\n",
    );
    dir.write("config", text).map(drop)
}

/// A gateway before one host that an agent reaches.
#[derive(Debug)]
pub struct Far {
    pub world: World,
    pub agent: Agent,
    _door: Port,
}

/// The agent's configuration of the host.
#[derive(Debug, Default)]
pub struct Beside {
    /// Members of `login` behind the account.
    pub login: String,
    /// Lines of the table `ssh`.
    pub ssh: String,
}

impl Far {
    /// `ssh`: lines of `[resources.web.ssh]` at the gateway, besides the account.
    ///
    /// # Errors
    /// Something does not start.
    pub fn start(target: Sshd, policy: &str, ssh: &str, beside: &Beside) -> Result<Self> {
        let port = target.port();
        let key = target.host_key().to_owned();
        let far = Self::before(target, port, &key, policy, ssh, beside)?;
        if !beside.ssh.contains("login =") {
            far.trust()?;
        }
        Ok(far)
    }

    /// As [`Far::start`], before the server with this port and host key, whatever it is.
    ///
    /// # Errors
    /// As [`Far::start`].
    pub fn before(
        target: Sshd,
        at: u16,
        host_key: &str,
        policy: &str,
        ssh: &str,
        beside: &Beside,
    ) -> Result<Self> {
        let account = me()?;
        let authority = Authority::new("ssh bed")?;
        let issuer = Issuer::start()?;
        let (dir, port, door) = (TempDir::new("ssh")?, Port::new()?, Port::new()?);
        let last = format!(
            "[ssh]\nnames = [\"localhost\"]\n[agents]\nlisten = \"127.0.0.1:{}\"\n\
             [resources.{HOST}]\nprotocol = \"ssh\"\nlisten = \"127.0.0.1:{}\"\n\
             agent = \"eu-1\"\n[resources.{HOST}.ssh]\naccounts = [{account:?}]\n{ssh}\n",
            door.number(),
            port.number(),
        );
        let spec = Spec { last, ..Spec::empty(&issuer).policy("hosts.cedar", policy) };
        let gateway = Gateway::start(&authority, spec)?;
        let mut more = format!(
            "\n[targets.{HOST}]\nprotocol = \"ssh\"\n\
             target = {{ host = \"127.0.0.1\", port = {at} }}\n\
             login = {{ user = {account:?}{} }}\n[targets.{HOST}.ssh]\n{}\n",
            beside.login, beside.ssh,
        );
        if !beside.ssh.contains("host_") {
            writeln!(more, "host_keys = [{host_key:?}]")?;
        }
        let token = gateway.join_token("eu-1")?;
        let agent = AgentSpec {
            name: "eu-1".to_owned(),
            gateways: vec![GatewayLink {
                address: format!("127.0.0.1:{}", door.number()),
                join: Join::Token(token),
            }],
            targets: Vec::new(),
            more,
            host: None,
        };
        let agent = Agent::start(&agent)?;
        gateway.wait_agents(1)?;
        let world = World { gateway, issuer, target, dir, port, account };
        let (port, account) = (world.port.number(), world.account.as_str());
        set_up(&world.gateway, &world.dir, port, account, &world.token()?)?;
        Ok(Self { world, agent, _door: door })
    }

    /// Lets the host believe the agent's authority.
    fn trust(&self) -> Result<()> {
        let args = ["agent", "-c", "agent.toml", "target-ca", HOST];
        let line = cli_in(self.agent.dir().path(), &args)?.success()?;
        self.world.target.trust(&line)
    }
}

/// A gateway before one host, with an issuer and a client that has a certificate.
#[derive(Debug)]
pub struct World {
    pub gateway: Gateway,
    pub issuer: Issuer,
    pub target: Sshd,
    pub dir: TempDir,
    pub port: Port,
    pub account: String,
}

impl World {
    /// `ssh`: lines of `[resources.web.ssh]`.
    ///
    /// # Errors
    /// Something does not start.
    pub fn start(policy: &str, ssh: &str) -> Result<Self> {
        Self::before(Sshd::start()?, policy, ssh, "", "")
    }

    /// `more`: further lines of the resource's own table; `tables`: further tables.
    ///
    /// # Errors
    /// Something does not start.
    pub fn before(target: Sshd, policy: &str, ssh: &str, more: &str, tables: &str) -> Result<Self> {
        Self::with_env(target, policy, ssh, more, tables, &[])
    }

    /// As [`World::before`], with further variables in the gateway's environment.
    ///
    /// # Errors
    /// Something does not start.
    pub fn with_env(
        target: Sshd,
        policy: &str,
        ssh: &str,
        more: &str,
        tables: &str,
        env: &[(String, String)],
    ) -> Result<Self> {
        let account = me()?;
        let authority = Authority::new("ssh bed")?;
        let issuer = Issuer::start()?;
        let (dir, port) = (TempDir::new("ssh")?, Port::new()?);
        let mut last = format!(
            "[ssh]\nnames = [\"localhost\"]\n[resources.{HOST}]\nprotocol = \"ssh\"\n\
             listen = \"127.0.0.1:{}\"\ntarget = {{ host = \"127.0.0.1\", port = {} }}\n",
            port.number(),
            target.port(),
        );
        if !more.contains("login =") {
            writeln!(last, "login = {{ user = {account:?} }}")?;
        }
        writeln!(last, "{more}\n[resources.{HOST}.ssh]\n{ssh}")?;
        if !ssh.contains("host_") {
            writeln!(last, "host_keys = [{:?}]", target.host_key())?;
        }
        last.push_str(tables);
        let spec = Spec { last, ..Spec::empty(&issuer).policy("hosts.cedar", policy) };
        let gateway = Gateway::start_with(&authority, spec, env)?;
        target.trust(&gateway.cli(&["ssh", "target-ca"])?.success()?)?;
        let world = Self { gateway, issuer, target, dir, port, account };
        let (port, account) = (world.port.number(), world.account.as_str());
        set_up(&world.gateway, &world.dir, port, account, &world.token()?)?;
        Ok(world)
    }

    /// # Errors
    /// The issuer has no key.
    pub fn token(&self) -> Result<String> {
        self.issuer.mint()?.subject("billing/api").claim("team", "billing").token()
    }

    /// One of OpenSSH's programs, or one that starts them, set up for the gateway.
    ///
    /// # Errors
    /// It is not installed.
    pub fn client(&self, name: &str) -> Result<Command> {
        let package =
            if name == "ssh" || name == "scp" || name == "sftp" { "openssh-client" } else { name };
        let mut command = Command::new(program(name, package)?);
        command.current_dir(self.dir.path()).env_remove("SSH_AUTH_SOCK");
        match name {
            "ssh" | "scp" | "sftp" => {
                command.arg("-F").arg(self.dir.join("config"));
            }
            _ => {
                let ssh = format!("ssh -F {}", self.dir.join("config").display());
                command.env("RSYNC_RSH", &ssh).env("GIT_SSH_COMMAND", &ssh);
            }
        }
        Ok(command)
    }

    /// `ssh web ARGS`, with input.
    ///
    /// # Errors
    /// It is not installed or does not end.
    pub fn ssh_with(&self, args: &[&str], input: Option<Vec<u8>>) -> Result<Captured> {
        let mut command = self.client("ssh")?;
        command.arg(HOST).args(args);
        capture(command, Some(input.unwrap_or_default()), PATIENCE)
    }

    /// `ssh web ARGS`.
    ///
    /// # Errors
    /// It is not installed or does not end.
    pub fn ssh(&self, args: &[&str]) -> Result<Captured> {
        self.ssh_with(args, None)
    }

    /// Stops the gateway and verifies its log.
    ///
    /// # Errors
    /// It does not end well, or the log does not hold.
    pub fn verified(&self) -> Result<()> {
        ensure!(self.gateway.terminate()?.success(), "{}", self.gateway.log());
        let args = ["log", "verify", "data/archive", "--key", "data/log.vkey"];
        let done = self.gateway.cli(&args)?;
        ensure!(done.code() == 0, "{}{}", done.out(), done.err());
        Ok(())
    }

    /// The ids of all sessions on the host, newest first.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn sessions(&self) -> Result<Vec<String>> {
        let listed = self.gateway.cli(&["sessions", "ls", "--json"])?.success()?;
        let listed: serde_json::Value = serde_json::from_str(&listed).context("read the list")?;
        let ids = listed.as_array().context("a list")?.iter();
        ids.map(|session| Ok(session["session"].as_str().context("an id")?.to_owned())).collect()
    }

    /// What every session of the record says, answers included.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn replayed(&self) -> Result<String> {
        let mut all = String::new();
        for id in self.sessions()? {
            let shown = self.gateway.cli(&["sessions", "replay", &id, "--offline"])?;
            all.push_str(&shown.success()?);
        }
        Ok(all)
    }
}

/// A Python script with the SSH libraries of `cargo xtask setup`.
///
/// # Errors
/// They are not installed (the message says how).
pub fn python(script: &str, args: &[&str]) -> Result<Command> {
    let python = places::ssh_python_home().join("bin/python3");
    ensure!(python.is_file(), "no Python SSH libraries; install them: cargo xtask setup");
    let mut command = Command::new(python);
    command.args(["-I", "-c", script]).args(args).env_clear().env("PATH", "/usr/bin:/bin");
    command.env("LC_ALL", "C.UTF-8").env("HOME", "/nonexistent");
    Ok(command)
}
