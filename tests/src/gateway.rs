//! The gateway under test: the built binary, started as an operator would start it.
//!
//! Everything that depends on the shape of the configuration is in [`Spec::toml`]; everything that
//! depends on the layout of the data folder is in [`Gateway::archive`] and [`Gateway::log_key`].

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::ca::{Authority, Wish};
use crate::client::{Dial, http_get};
use crate::issuer::Issuer;
use crate::netns::Host;
use crate::place::{Port, TempDir};
use crate::postgres::{DATABASE, Postgres};
use crate::proc::{Captured, Proc, Signal, capture};
use xtask::places;

/// How long the gateway may take to become ready, and to drain.
const READY: Duration = Duration::from_secs(60);

/// Between two questions whether it is ready: nothing tells us when it is.
const ASK_AGAIN: Duration = Duration::from_millis(15);

/// How long a command of the `bulla` binary may take.
const COMMAND: Duration = Duration::from_secs(120);

/// What an operator would write down.
#[derive(Clone, Debug)]
pub struct Spec {
    pub name: String,
    pub issuers: Vec<IssuerSpec>,
    pub trust_domains: Vec<TrustDomainSpec>,
    pub resources: Vec<ResourceSpec>,
    /// File name and text.
    pub policies: Vec<(String, String)>,
    /// Further lines at the top of the file, before any table.
    pub first: String,
    /// Further tables at the end of the file.
    pub last: String,
    /// A shell script that prepares the gateway's own view of the file system, in its folder, such
    /// as `mount -t tmpfs -o size=16m none data`. It is gone with the process.
    pub mounts: Option<String>,
    /// The network in which it runs; then it listens on every address of that.
    pub host: Option<Host>,
    /// Another build of the gateway than [`binary`].
    pub program: Option<PathBuf>,
}

/// Who may speak for a service.
#[derive(Clone, Debug)]
pub struct IssuerSpec {
    pub alias: String,
    pub url: String,
    pub audience: String,
    pub subject: String,
    pub groups: Vec<String>,
    /// Further lines of its table.
    pub more: String,
}

/// A SPIFFE trust domain.
#[derive(Clone, Debug)]
pub struct TrustDomainSpec {
    pub alias: String,
    pub trust_domain: String,
    /// PEM of its authorities.
    pub bundle: String,
}

/// A database behind the gateway.
#[derive(Clone, Debug)]
pub struct ResourceSpec {
    pub name: String,
    pub host: String,
    pub port: u16,
    pub database: String,
    /// `verify-full`, `disable`.
    pub tls: String,
    /// PEM of the target's authority.
    pub root: String,
    pub user: String,
    pub password: Option<String>,
    /// The vault that holds the password instead, as an inline table.
    pub vault: Option<String>,
    /// PEM of a client certificate and of its key.
    pub identity: Option<(String, String)>,
    /// `strict` or `bounded`; the gateway's default if none.
    pub durability: Option<String>,
    /// The agents that reach it, which then know its address and its secret instead.
    pub agents: Vec<String>,
    /// Further lines of its table.
    pub more: String,
}

impl IssuerSpec {
    /// Trusts an issuer: subjects as they are, and `team:TEAM` as a group.
    pub fn new(alias: &str, issuer: &Issuer) -> Self {
        Self {
            alias: alias.to_owned(),
            url: issuer.url().to_owned(),
            audience: "bulla".to_owned(),
            subject: "{sub}".to_owned(),
            groups: vec!["team:{team}".to_owned()],
            more: String::new(),
        }
    }
}

impl ResourceSpec {
    /// A server's seeded database, reached over TLS as one of the seed's roles.
    pub fn new(name: &str, server: &Postgres, user: &str, password: &str) -> Self {
        Self {
            name: name.to_owned(),
            host: "localhost".to_owned(),
            port: server.port(),
            database: DATABASE.to_owned(),
            tls: "verify-full".to_owned(),
            root: server.authority().pem(),
            user: user.to_owned(),
            password: Some(password.to_owned()),
            vault: None,
            identity: None,
            durability: None,
            agents: Vec::new(),
            more: String::new(),
        }
    }
}

impl ResourceSpec {
    /// How it is reached: the keys `target` and `login`.
    ///
    /// # Errors
    /// Never: it writes to memory.
    pub(crate) fn reach(&self) -> Result<String> {
        let Self { name, host, port, database, tls, user, .. } = self;
        let mut toml = format!(
            "target = {{ host = {host:?}, port = {port}, database = {database:?}, tls = {tls:?}, \
             ca = \"{name}.root.pem\" }}\nlogin = {{ user = {user:?}"
        );
        if self.password.is_some() {
            write!(toml, ", password_file = \"{name}.password\"")?;
        }
        if let Some(vault) = &self.vault {
            write!(toml, ", vault = {vault}")?;
        }
        if self.identity.is_some() {
            write!(toml, ", cert = \"{name}.client.pem\", key = \"{name}.client.key\"")?;
        }
        toml.push_str(" }\n");
        Ok(toml)
    }

    /// Writes the files that [`ResourceSpec::reach`] names.
    pub(crate) fn write(&self, dir: &TempDir) -> Result<()> {
        let name = &self.name;
        dir.write(&format!("{name}.root.pem"), &self.root)?;
        if let Some(password) = &self.password {
            dir.write(&format!("{name}.password"), password)?;
        }
        if let Some((cert, key)) = &self.identity {
            dir.write(&format!("{name}.client.pem"), cert)?;
            dir.write(&format!("{name}.client.key"), key)?;
        }
        Ok(())
    }
}

impl Spec {
    /// One resource, `orders`, reached as `bulla_scram`; one issuer, `bed`.
    pub fn new(server: &Postgres, issuer: &Issuer) -> Self {
        let orders = ResourceSpec::new("orders", server, "bulla_scram", "scram secret");
        Self { resources: vec![orders], ..Self::empty(issuer) }
    }

    /// No resource; one issuer, `bed`.
    pub fn empty(issuer: &Issuer) -> Self {
        Self {
            name: "bed".to_owned(),
            issuers: vec![IssuerSpec::new("bed", issuer)],
            trust_domains: Vec::new(),
            resources: Vec::new(),
            policies: Vec::new(),
            first: String::new(),
            last: String::new(),
            mounts: None,
            host: None,
            program: None,
        }
    }

    /// Asks the target seldom whether its catalogue has changed, so that a test can tell the
    /// connections of clients from those of the gateway itself.
    #[must_use]
    pub fn looks_seldom(mut self) -> Self {
        self.last.push_str("[limits]\ncatalogue = \"10m\"\n");
        self
    }

    /// Adds a policy file.
    #[must_use]
    pub fn policy(mut self, file: &str, text: &str) -> Self {
        self.policies.push((file.to_owned(), text.to_owned()));
        self
    }

    /// The configuration file. Paths are relative to its folder.
    fn toml(&self, ports: &Ports) -> Result<String> {
        let mut toml = self.first.clone();
        let health = ports.health.number();
        write!(
            toml,
            "[gateway]\nname = {:?}\ndata = \"data\"\nhttp = \"127.0.0.1:{health}\"\n\
             tls = {{ cert = \"gateway.pem\", key = \"gateway.key\" }}\n\n\
             [policy]\ndir = \"policies\"\n\n",
            self.name
        )?;
        for issuer in &self.issuers {
            let IssuerSpec { alias, url, audience, subject, groups, more } = issuer;
            write!(
                toml,
                "[issuers.{alias}]\nissuer = {url:?}\naudience = {audience:?}\nmax_ttl = \"1h\"\n\
                 subject = {subject:?}\ngroups = {groups:?}\n{more}\n",
            )?;
        }
        for domain in &self.trust_domains {
            let TrustDomainSpec { alias, trust_domain, .. } = domain;
            write!(
                toml,
                "[trust_domains.{alias}]\ntrust_domain = {trust_domain:?}\n\
                 bundle = \"{alias}.bundle.pem\"\n\n"
            )?;
        }
        let any = if self.host.is_some() { "0.0.0.0" } else { "127.0.0.1" };
        for (resource, port) in self.resources.iter().zip(&ports.resources) {
            let ResourceSpec { name, database, more, .. } = resource;
            let port = port.number();
            write!(
                toml,
                "[resources.{name}]\nprotocol = \"postgres\"\nlisten = \"{any}:{port}\"\n"
            )?;
            if resource.agents.is_empty() {
                toml.push_str(&resource.reach()?);
            } else {
                let agents = &resource.agents;
                let target = format!("target = {{ database = {database:?} }}");
                write!(toml, "agent = {agents:?}\n{target}\n")?;
            }
            if let Some(durability) = &resource.durability {
                writeln!(toml, "durability = {durability:?}")?;
            }
            writeln!(toml, "{more}")?;
        }
        if self.resources.iter().any(|resource| !resource.agents.is_empty()) {
            let port = ports.agents.number();
            write!(toml, "[agents]\nlisten = \"{any}:{port}\"\nkeepalive = \"2s\"\n\n")?;
        }
        toml.push_str(&self.last);
        Ok(toml)
    }

    /// Writes the configuration and every file that it names.
    fn write(&self, dir: &TempDir, ports: &Ports) -> Result<()> {
        dir.write("bulla.toml", self.toml(ports)?)?;
        for domain in &self.trust_domains {
            dir.write(&format!("{}.bundle.pem", domain.alias), &domain.bundle)?;
        }
        for resource in self.resources.iter().filter(|resource| resource.agents.is_empty()) {
            resource.write(dir)?;
        }
        let policies = dir.join("policies");
        fs::create_dir_all(&policies).context("create the folder of policies")?;
        for (file, text) in &self.policies {
            fs::write(policies.join(file), text).with_context(|| format!("write {file}"))?;
        }
        Ok(())
    }
}

/// The ports that a gateway was given, kept over a restart.
#[derive(Debug)]
struct Ports {
    health: Port,
    agents: Port,
    /// In the order of the resources.
    resources: Vec<Port>,
}

/// A running gateway. Dropped, it and its data are gone.
#[derive(Debug)]
pub struct Gateway {
    proc: Proc,
    spec: Spec,
    ports: Ports,
    dir: TempDir,
    authority: Authority,
    env: Vec<(String, String)>,
    /// What earlier processes of this gateway said.
    past_log: String,
}

impl Gateway {
    /// Writes the configuration into a fresh folder, starts the gateway and waits until it is
    /// ready. Its certificate names `localhost` and is signed by `authority`.
    ///
    /// # Errors
    /// The binary is not built (the message says how), or it does not become ready.
    pub fn start(authority: &Authority, spec: Spec) -> Result<Self> {
        Self::start_with(authority, spec, &[])
    }

    /// As [`Gateway::start`], with further variables in its environment.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub fn start_with(authority: &Authority, spec: Spec, env: &[(String, String)]) -> Result<Self> {
        let dir = TempDir::new("gateway")?;
        let resources = spec.resources.iter().map(|_| Port::new()).collect::<Result<Vec<_>>>()?;
        let ports = Ports { health: Port::new()?, agents: Port::new()?, resources };
        authority.issue(&Wish::server()?)?.write(&dir, "gateway")?;
        dir.write("root.pem", authority.pem())?;
        spec.write(&dir, &ports)?;
        let proc = spawn(&dir, env, &spec)?;
        let authority = authority.clone();
        let env = env.to_vec();
        let gateway = Self { proc, spec, ports, dir, authority, env, past_log: String::new() };
        gateway.wait_ready()?;
        Ok(gateway)
    }

    /// Waits until `/readyz` says yes.
    ///
    /// # Errors
    /// It ends, or takes too long.
    pub fn wait_ready(&self) -> Result<()> {
        if self.spec.host.is_none() {
            return self.wait_http("/readyz", 200);
        }
        // Its loopback is not ours; its admin socket is a file.
        let deadline = Instant::now() + READY;
        while self.cli(&["health"])?.code() != 0 {
            ensure!(self.proc.is_running(), "the gateway ended:{}", self.proc.tail());
            ensure!(Instant::now() < deadline, "the gateway is not ready:{}", self.proc.tail());
            thread::sleep(ASK_AGAIN);
        }
        Ok(())
    }

    /// Where agents dial in, on this host.
    pub fn agents_port(&self) -> u16 {
        self.ports.agents.number()
    }

    /// A token that lets an agent join, for all of its resources.
    ///
    /// # Errors
    /// The gateway makes none.
    pub fn join_token(&self, agent: &str) -> Result<String> {
        let made = self.cli(&["agent", "join-token", "--name", agent])?;
        Ok(made.success()?.trim().to_owned())
    }

    /// Waits until so many agents are online.
    ///
    /// # Errors
    /// They are not in time.
    pub fn wait_agents(&self, online: usize) -> Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            let listed = self.cli(&["agents", "ls", "--json"])?.success()?;
            if listed.matches("\"state\":\"online\"").count() == online {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("not {online} agents are online but {listed}:{}", self.proc.tail());
            }
            thread::sleep(ASK_AGAIN);
        }
    }

    /// Waits until a page of its HTTP listener has a status.
    ///
    /// # Errors
    /// It ends, or takes too long.
    pub fn wait_http(&self, path: &str, status: u16) -> Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            let last = self.http(path);
            if matches!(last, Ok((found, _)) if found == status) {
                return Ok(());
            }
            if !self.proc.is_running() {
                bail!("the gateway ended before {path} was {status}:{}", self.proc.tail());
            }
            if Instant::now() >= deadline {
                bail!("{path} was not {status} in {READY:?} but {last:?}:{}", self.proc.tail());
            }
            thread::sleep(ASK_AGAIN);
        }
    }

    /// How a client dials the first resource over TLS, with a token as its password. A client's
    /// database name is the resource's name.
    pub fn dial(&self, token: &str) -> Dial {
        let name = self.spec.resources.first().map_or("orders", |first| first.name.as_str());
        self.dial_resource(name, token)
    }

    /// How a client dials a resource.
    pub fn dial_resource(&self, name: &str, token: &str) -> Dial {
        let found = self.spec.resources.iter().position(|resource| resource.name == name);
        let port = found.and_then(|found| self.ports.resources.get(found)).map(Port::number);
        Dial::new("localhost", port.unwrap_or_default(), "app", name)
            .password(token)
            .verify_full(&self.root_pem())
    }

    /// A page of its HTTP listener: status and body.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn http(&self, path: &str) -> Result<(u16, String)> {
        http_get(&format!("http://127.0.0.1:{}{path}", self.ports.health.number()))
    }

    /// A command of the `bulla` binary against this gateway, such as `sessions ls`.
    ///
    /// # Errors
    /// It cannot be run. What it answers is in the result, whatever it is.
    pub fn cli(&self, args: &[&str]) -> Result<Captured> {
        cli_in(self.dir.path(), args)
    }

    /// The folder with configuration, policies and data.
    pub fn dir(&self) -> &TempDir {
        &self.dir
    }

    /// The file that a client must trust.
    pub fn root_pem(&self) -> PathBuf {
        self.dir.join("root.pem")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// A path as the running gateway sees it, its own mounts included.
    pub fn inside(&self, path: impl AsRef<Path>) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.proc.pid()));
        let path = self.dir.join(path);
        root.join(path.strip_prefix("/").unwrap_or(&path))
    }

    /// What `bulla log verify` reads.
    pub fn archive(&self) -> PathBuf {
        self.data_dir().join("archive")
    }

    /// The log's public key, as an auditor holds it.
    pub fn log_key(&self) -> PathBuf {
        self.data_dir().join("log.vkey")
    }

    /// Who signed its certificate.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Its process, to hang it or to look at it.
    pub fn proc(&self) -> &Proc {
        &self.proc
    }

    /// Everything that it said, over all restarts: where a secret must not be.
    pub fn log(&self) -> String {
        format!("{}{}", self.past_log, self.proc.log())
    }

    /// Replaces a policy file. The gateway sees it at [`Gateway::reload`].
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_policy(&self, file: &str, text: &str) -> Result<()> {
        let path = self.dir.join("policies").join(file);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    /// Asks it to read configuration and policies again.
    ///
    /// # Errors
    /// It does not run.
    pub fn reload(&self) -> Result<()> {
        ensure!(self.proc.is_running(), "the gateway has ended:{}", self.proc.tail());
        self.proc.signal(Signal::Hangup)
    }

    /// Asks it to drain and waits until it has ended.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn terminate(&self) -> Result<ExitStatus> {
        self.proc.stop(READY)
    }

    /// Kills it at once, as a power cut would.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(&self) -> Result<()> {
        self.proc.kill()
    }

    /// Starts it again on the same data, after it was terminated or killed, and waits until it is
    /// ready.
    ///
    /// # Errors
    /// It still runs, or does not become ready.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(!self.proc.is_running(), "the gateway still runs");
        self.past_log = self.log();
        self.proc = spawn(&self.dir, &self.env, &self.spec)?;
        self.wait_ready()
    }
}

/// A command of the `bulla` binary, in a folder that has the configuration if it needs one.
///
/// # Errors
/// It cannot be run.
pub fn cli_in(dir: &Path, args: &[&str]) -> Result<Captured> {
    let mut command = Command::new(binary()?);
    command.args(args).current_dir(dir).env("NO_COLOR", "1");
    capture(command, None, COMMAND)
}

fn spawn(dir: &TempDir, env: &[(String, String)], spec: &Spec) -> Result<Proc> {
    let program = spec.program.clone().map_or_else(binary, Ok)?;
    let mut command = match &spec.mounts {
        None => Command::new(program),
        Some(mounts) => {
            let mut command = Command::new("unshare");
            command.args(if places::is_root() { &["-m"][..] } else { &["-m", "-Ur"] });
            let script = format!("set -e; {mounts}; exec \"$0\" \"$@\"");
            command.args(["--", "sh", "-c", &script]).arg(program);
            command
        }
    };
    command.args(["gateway", "-c", "bulla.toml"]).current_dir(dir.path());
    command.env("NO_COLOR", "1").envs(env.iter().cloned());
    Proc::spawn("bulla", Host::enter_if(spec.host.as_ref(), command))
}

/// The binary under test: `$BULLA_BIN`, or the one that cargo built beside this program.
///
/// # Errors
/// It is not built.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("BULLA_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "`BULLA_BIN` names no file: {}", path.display());
        return Ok(path);
    }
    let me = env::current_exe().context("find this program")?;
    // Tests run from `deps`, other programs from the folder above it.
    let candidates = me.ancestors().skip(1).take(2).map(|folder| folder.join("bulla"));
    let built = candidates.into_iter().find(|path| path.is_file());
    built.context("no `bulla` binary beside the tests; build it: cargo build -p bulla")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_toml_whatever_it_holds() {
        let resource = |name: &str| ResourceSpec {
            name: name.to_owned(),
            host: "localhost".to_owned(),
            port: 5432,
            database: "or\"ders".to_owned(),
            tls: "verify-full".to_owned(),
            root: "PEM".to_owned(),
            user: "back\\slash".to_owned(),
            password: Some("secret".to_owned()),
            vault: None,
            identity: Some(("CERT".to_owned(), "KEY".to_owned())),
            durability: Some("bounded".to_owned()),
            agents: if name == "far" { vec!["eu-1".to_owned()] } else { Vec::new() },
            more: "classes = { \"public.customers.ssn\" = \"pii.ssn\" }\n".to_owned(),
        };
        let spec = Spec {
            name: "bed".to_owned(),
            issuers: vec![IssuerSpec {
                alias: "bed".to_owned(),
                url: "http://127.0.0.1:1".to_owned(),
                audience: "bulla".to_owned(),
                subject: "{sub}".to_owned(),
                groups: vec!["team:{team}".to_owned()],
                more: String::new(),
            }],
            trust_domains: vec![TrustDomainSpec {
                alias: "mesh".to_owned(),
                trust_domain: "example.com".to_owned(),
                bundle: "PEM".to_owned(),
            }],
            resources: vec![resource("orders"), resource("other"), resource("far")],
            policies: Vec::new(),
            first: String::new(),
            last: "[extra]\nkey = 1\n".to_owned(),
            mounts: None,
            host: None,
            program: None,
        };
        let port = || Port::new().unwrap();
        let resources = vec![port(), port(), port()];
        let ports = Ports { health: port(), agents: port(), resources };
        let text = spec.toml(&ports).unwrap();
        let parsed: toml::Table = text.parse().unwrap_or_else(|e| panic!("{e}:\n{text}"));
        let orders = &parsed["resources"]["orders"];
        assert_eq!(orders["target"]["database"].as_str(), Some("or\"ders"));
        assert_eq!(orders["login"]["user"].as_str(), Some("back\\slash"));
        assert_eq!(orders["login"]["password_file"].as_str(), Some("orders.password"));
        assert_eq!(orders["durability"].as_str(), Some("bounded"));
        let listen = format!("127.0.0.1:{}", ports.resources[0].number());
        assert_eq!(orders["listen"].as_str(), Some(listen.as_str()));
        assert!(!text.contains("secret"), "a secret stays in its file");

        let dir = TempDir::new("spec").unwrap();
        spec.write(&dir, &ports).unwrap();
        assert_eq!(fs::read_to_string(dir.join("other.password")).unwrap(), "secret");
        assert_eq!(fs::read_to_string(dir.join("mesh.bundle.pem")).unwrap(), "PEM");
    }
}
