//! PostgreSQL servers: the system's own, or PostgreSQL 18 from npm.
//!
//! `initdb` and [`seed.sql`](../seed.sql) run once for each version and seed; the result is kept in
//! the cache folder, and every server starts on a copy of it. A server refuses to run as root, so
//! root starts it as `nobody`.
//!
//! | Role | Proves itself by | Secret |
//! |---|---|---|
//! | `postgres` | `scram-sha-256`, superuser | [`SUPERUSER_PASSWORD`] |
//! | `bulla_scram` | `scram-sha-256`, with channel binding over TLS | `scram secret` |
//! | `bulla_md5` | `md5` | `md5 secret` |
//! | `bulla_plain` | `password` | `plain secret` |
//! | `bulla_cert` | a client certificate of the bed's authority, over TLS | |
//! | `bulla_trust` | nothing | |

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use xtask::places;

use crate::ca::{Authority, Wish};
use crate::client::{Dial, program};
use crate::netns::Host;
use crate::place::{Port, TempDir};
use crate::proc::{Proc, Signal, capture};

/// The password of the superuser `postgres`.
pub const SUPERUSER_PASSWORD: &str = "superuser secret";

/// The seeded database.
pub const DATABASE: &str = "orders";

const SEED: &str = include_str!("seed.sql");

/// A slow machine under load takes a while to `initdb`.
const INITDB: Duration = Duration::from_secs(120);
const START: Duration = Duration::from_secs(60);

const HBA: &str = "\
local   all postgres                   trust
host    all bulla_md5     127.0.0.1/32 md5
host    all bulla_plain   127.0.0.1/32 password
hostssl all bulla_cert    127.0.0.1/32 cert
host    all bulla_trust   127.0.0.1/32 trust
host    all all           127.0.0.1/32 scram-sha-256
";

/// Which server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Flavor {
    /// The newest that the system has under `/usr/lib/postgresql`.
    System,
    /// PostgreSQL 18, as `cargo xtask setup` installs it.
    Eighteen,
}

/// A running server. Dropped, it and its data are gone.
#[derive(Debug)]
pub struct Postgres {
    proc: Proc,
    port: Port,
    dir: TempDir,
    install: Install,
    authority: Authority,
}

/// How a server is to differ from the usual.
#[derive(Clone, Debug)]
pub struct Options {
    pub flavor: Flavor,
    pub tls: bool,
    /// Further settings, as in `postgresql.conf`.
    pub settings: Vec<(String, String)>,
    /// Replaces the table of the module's documentation.
    pub hba: String,
    /// The network in which it runs.
    pub host: Option<Host>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            flavor: Flavor::System,
            tls: true,
            settings: Vec::new(),
            hba: HBA.to_owned(),
            host: None,
        }
    }
}

impl Options {
    pub fn flavor(flavor: Flavor) -> Self {
        Self { flavor, ..Self::default() }
    }

    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl Postgres {
    /// The system's server, with TLS by a certificate of `authority`.
    ///
    /// # Errors
    /// There is no server (the message says how to install one), or it does not start.
    pub fn start(authority: &Authority) -> Result<Self> {
        Self::with(authority, &Options::default())
    }

    /// # Errors
    /// As [`Postgres::start`].
    pub fn with(authority: &Authority, options: &Options) -> Result<Self> {
        let install = Install::find(options.flavor)?;
        let template = install.template()?;
        let dir = TempDir::new("pg")?;
        let data = dir.join("data");
        let mut copy = Command::new("cp");
        copy.args(["-a", "--reflink=auto"]).arg(&template).arg(&data);
        capture(copy, None, INITDB)?.success().context("copy the template")?;
        authority.issue(&Wish::server()?)?.write(&dir, "server")?;
        dir.write("root.pem", authority.pem())?;
        dir.write("hba.conf", &options.hba)?;
        own(dir.path())?;
        let port = Port::new()?;
        let command = install.server(&dir, &data, port.number(), options);
        let command = Host::enter_if(options.host.as_ref(), command);
        let proc = Proc::spawn_with("postgres", command, Signal::Quit, None)?;
        proc.wait_line("ready to accept connections", START)?;
        Ok(Self { proc, port, dir, install, authority: authority.clone() })
    }

    /// `127.0.0.1`; the certificate also names `localhost`.
    pub fn host(&self) -> &'static str {
        "127.0.0.1"
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The major version.
    pub fn version(&self) -> u32 {
        self.install.version
    }

    /// Who signed its certificate, and whose client certificates it takes.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The file that a client must trust to verify the server.
    pub fn root_pem(&self) -> PathBuf {
        self.dir.join("root.pem")
    }

    /// How to dial it directly over TLS, past any gateway.
    pub fn dial(&self, user: &str, password: &str) -> Dial {
        Dial::new(self.host(), self.port(), user, DATABASE)
            .password(password)
            .verify_full(&self.root_pem())
    }

    /// How the superuser dials it, through a socket that only this test can reach.
    pub fn admin(&self, database: &str) -> Dial {
        Dial::new(&self.dir.path().to_string_lossy(), self.port(), "postgres", database)
    }

    /// Runs SQL as superuser in the seeded database and returns bare rows, fields split by `|`.
    ///
    /// # Errors
    /// The server refuses.
    pub fn sql(&self, sql: &str) -> Result<String> {
        self.admin(DATABASE).psql_rows(sql)
    }

    /// Everything that the server logged, every statement that it received included.
    pub fn log(&self) -> String {
        self.proc.log()
    }

    /// The server's process, to stop, hang or kill it.
    pub fn proc(&self) -> &Proc {
        &self.proc
    }
}

/// An installed PostgreSQL.
#[derive(Clone, Debug)]
struct Install {
    bin: PathBuf,
    /// Where its libraries are, if the system does not know.
    lib: Option<PathBuf>,
    version: u32,
    full_version: String,
}

impl Install {
    fn find(flavor: Flavor) -> Result<Self> {
        let (bin, lib) = match flavor {
            Flavor::System => {
                let missing = "no PostgreSQL server; install one: apt-get install postgresql";
                (places::system_postgres().context(missing)?, None)
            }
            Flavor::Eighteen => {
                let home = places::embedded_postgres().filter(|home| home.join("bin").is_dir());
                let missing = "no PostgreSQL 18; install it: cargo xtask setup";
                let home = home.context(missing)?;
                (home.join("bin"), Some(home.join("lib")))
            }
        };
        let mut install = Self { bin, lib, version: 0, full_version: String::new() };
        let mut command = install.unprivileged("postgres");
        command.arg("--version");
        install.full_version = capture(command, None, START)?.success()?.trim().to_owned();
        // `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`
        let number = install.full_version.split(' ').nth(2).unwrap_or_default();
        let major = number.split('.').next().unwrap_or_default();
        install.version = major.parse().with_context(|| format!("a version in `{number}`"))?;
        Ok(install)
    }

    /// A program of this install, run as whoever may run a server.
    fn unprivileged(&self, name: &str) -> Command {
        let program = self.bin.join(name);
        let mut command = if places::is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
            command.args(["--pdeathsig", "QUIT", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.env_clear().env("LC_ALL", "C.UTF-8").env("PATH", "/usr/bin:/bin").env("TZ", "UTC");
        command.current_dir("/");
        if let Some(lib) = &self.lib {
            command.env("LD_LIBRARY_PATH", lib);
        }
        command
    }

    fn server(&self, dir: &TempDir, data: &Path, port: u16, options: &Options) -> Command {
        let mut command = self.unprivileged("postgres");
        command.arg("-D").arg(data).args(["-p", &port.to_string()]);
        let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
        let settings = [
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("unix_socket_directories", dir.path().to_string_lossy().into_owned()),
            ("unix_socket_permissions", "0700".to_owned()),
            ("hba_file", path("hba.conf")),
            ("ssl", if options.tls { "on" } else { "off" }.to_owned()),
            ("ssl_cert_file", path("server.pem")),
            ("ssl_key_file", path("server.key")),
            ("ssl_ca_file", path("root.pem")),
            ("fsync", "off".to_owned()),
            ("synchronous_commit", "off".to_owned()),
            ("full_page_writes", "off".to_owned()),
            ("shared_buffers", "32MB".to_owned()),
            ("max_connections", "120".to_owned()),
            ("autovacuum", "off".to_owned()),
            ("log_statement", "all".to_owned()),
            ("log_connections", "on".to_owned()),
            ("log_line_prefix", "%u@%d [%p] ".to_owned()),
        ];
        let more = options.settings.iter().cloned();
        for (name, value) in settings.into_iter().map(|(n, v)| (n.to_owned(), v)).chain(more) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command
    }

    /// A seeded data folder to copy, made now if nobody did before.
    fn template(&self) -> Result<PathBuf> {
        let home = places::cache().join("postgres");
        fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
        let mut hash = DefaultHasher::new();
        (SEED, HBA, &self.full_version, places::is_root()).hash(&mut hash);
        let name = format!("{}-{:016x}", self.version, hash.finish());
        let kept = home.join(&name);
        let lock = fs::File::create(home.join(format!("{name}.lock"))).context("create a lock")?;
        lock.lock().context("wait for another test to make the template")?;
        if kept.is_dir() {
            return Ok(kept);
        }
        let dir = TempDir::new("pg-template")?;
        let data = dir.join("data");
        self.initialise(&dir, &data)?;
        // Renamed last, so that what an interrupted copy left is never taken for whole.
        let partial = home.join(format!("{name}.partial"));
        let _ = fs::remove_dir_all(&partial);
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(&data).arg(&partial);
        capture(copy, None, INITDB)?.success().context("keep the template")?;
        fs::rename(&partial, &kept).context("name the template")?;
        Ok(kept)
    }

    fn initialise(&self, dir: &TempDir, data: &Path) -> Result<()> {
        let password = dir.write("password", SUPERUSER_PASSWORD)?;
        dir.write("hba.conf", HBA)?;
        own(dir.path())?;
        let mut initdb = self.unprivileged("initdb");
        initdb.arg("-D").arg(data).arg("--pwfile").arg(&password);
        initdb.args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C"]);
        initdb.args(["--no-sync", "--wal-segsize=1"]);
        capture(initdb, None, INITDB)?.success().context("initdb")?;
        let port = Port::new()?;
        let options = Options { tls: false, ..Options::default() };
        let server = self.server(dir, data, port.number(), &options);
        let server = Proc::spawn_with("postgres", server, Signal::Interrupt, None)?;
        server.wait_line("ready to accept connections", START)?;
        let dial = Dial::new(&dir.path().to_string_lossy(), port.number(), "postgres", "postgres");
        let mut psql = dial.command(&program("psql")?);
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null"]);
        capture(psql, Some(SEED.as_bytes().to_vec()), START)?.success().context("seed")?;
        let status = server.stop(START)?;
        ensure!(status.success(), "the template's server ended with {status}");
        Ok(())
    }
}

/// Gives a folder to whoever may run a server.
fn own(path: &Path) -> Result<()> {
    if !places::is_root() {
        return Ok(());
    }
    let mut chown = Command::new("chown");
    chown.args(["-R", "nobody:nogroup"]).arg(path);
    let done = capture(chown, None, START)?;
    if !done.status.success() {
        bail!("give {} to nobody: {done}", path.display());
    }
    Ok(())
}
