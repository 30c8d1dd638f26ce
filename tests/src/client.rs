//! Stock clients, told where to dial through the environment that each of them knows.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::places;

use crate::proc::{Captured, capture};

/// How long a client may take, unless a test says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Where to dial, as whom, and how to trust.
#[derive(Clone, Debug)]
pub struct Dial {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub database: String,
    pub password: Option<String>,
    pub sslmode: String,
    pub root: Option<PathBuf>,
    /// Client certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Further variables, such as `PGAPPNAME`.
    pub env: Vec<(String, String)>,
}

impl Dial {
    /// Without TLS, until [`Dial::verify_full`]. A host that begins with `/` is a socket's folder.
    pub fn new(host: &str, port: u16, user: &str, database: &str) -> Self {
        Self {
            host: host.to_owned(),
            port,
            user: user.to_owned(),
            database: database.to_owned(),
            password: None,
            sslmode: "disable".to_owned(),
            root: None,
            identity: None,
            env: Vec::new(),
        }
    }

    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    #[must_use]
    pub fn verify_full(mut self, root: &Path) -> Self {
        self.sslmode = "verify-full".to_owned();
        self.root = Some(root.to_path_buf());
        self
    }

    #[must_use]
    pub fn sslmode(mut self, mode: &str) -> Self {
        mode.clone_into(&mut self.sslmode);
        self
    }

    #[must_use]
    pub fn identity(mut self, cert: &Path, key: &Path) -> Self {
        self.identity = Some((cert.to_path_buf(), key.to_path_buf()));
        self
    }

    #[must_use]
    pub fn database(mut self, database: &str) -> Self {
        database.clone_into(&mut self.database);
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// What every client finds in its environment: libpq's variables, and `BULLA_NODE_MODULES`.
    pub fn variables(&self) -> Vec<(String, String)> {
        let mut variables = vec![
            ("PGHOST", self.host.clone()),
            ("PGPORT", self.port.to_string()),
            ("PGUSER", self.user.clone()),
            ("PGDATABASE", self.database.clone()),
            ("PGSSLMODE", self.sslmode.clone()),
            ("PGCONNECT_TIMEOUT", "30".to_owned()),
            ("PGGSSENCMODE", "disable".to_owned()),
        ];
        if let Some(password) = &self.password {
            variables.push(("PGPASSWORD", password.clone()));
        }
        let text = |path: &Path| path.to_string_lossy().into_owned();
        if let Some(root) = &self.root {
            variables.push(("PGSSLROOTCERT", text(root)));
        }
        if let Some((cert, key)) = &self.identity {
            variables.push(("PGSSLCERT", text(cert)));
            variables.push(("PGSSLKEY", text(key)));
        }
        let owned = variables.into_iter().map(|(name, value)| (name.to_owned(), value));
        owned.chain(self.env.iter().cloned()).collect()
    }

    /// As an address for people; never with the password.
    pub fn uri(&self) -> String {
        let Self { host, port, user, database, sslmode, .. } = self;
        let root = self.root.as_ref().map(|root| format!("&sslrootcert={}", root.display()));
        let root = root.unwrap_or_default();
        format!("postgresql://{user}@{host}:{port}/{database}?sslmode={sslmode}{root}")
    }

    /// A program with nothing in its environment but this.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        command.env("HOME", "/nonexistent").env("PSQLRC", "/nonexistent").envs(self.variables());
        command
    }

    /// Runs SQL, one statement string per argument, as `psql -c` does.
    ///
    /// # Errors
    /// `psql` cannot be run. What it answers is in the result, whatever it is.
    pub fn psql(&self, statements: &[&str]) -> Result<Captured> {
        let mut command = self.command(&program("psql")?);
        command.args(["-X", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose"]);
        for statement in statements {
            command.args(["-c", statement]);
        }
        capture(command, None, PATIENCE)
    }

    /// Feeds `psql` a script, as from a file, with its own commands such as `\copy` and `\bind`.
    ///
    /// # Errors
    /// `psql` cannot be run.
    pub fn psql_script(&self, script: &str) -> Result<Captured> {
        let mut command = self.command(&program("psql")?);
        command.args(["-X", "-v", "VERBOSITY=verbose"]);
        capture(command, Some(script.as_bytes().to_vec()), PATIENCE)
    }

    /// Runs SQL and returns bare rows, fields split by `|`.
    ///
    /// # Errors
    /// The statement fails.
    pub fn psql_rows(&self, sql: &str) -> Result<String> {
        let mut command = self.command(&program("psql")?);
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        Ok(capture(command, None, PATIENCE)?.success()?.trim_end().to_owned())
    }

    /// Any of PostgreSQL's own programs.
    ///
    /// # Errors
    /// It is not installed or cannot be run.
    pub fn run(&self, name: &str, args: &[&str]) -> Result<Captured> {
        let mut command = self.command(&program(name)?);
        command.args(args);
        capture(command, None, PATIENCE)
    }

    /// A Python script with the drivers of `cargo xtask setup`. libpq's drivers need no address;
    /// others find it in `os.environ`.
    ///
    /// # Errors
    /// The drivers are not installed (the message says how), or Python cannot be run.
    pub fn python(&self, script: &str) -> Result<Captured> {
        let python = places::python();
        ensure!(python.is_file(), "no Python drivers; install them: cargo xtask setup");
        let mut command = self.command(&python);
        command.args(["-I", "-"]);
        capture(command, Some(script.as_bytes().to_vec()), PATIENCE)
    }

    /// A Node script (CommonJS) with the drivers of `cargo xtask setup`.
    ///
    /// # Errors
    /// The drivers are not installed (the message says how), or Node cannot be run.
    pub fn node(&self, script: &str) -> Result<Captured> {
        let modules = places::node_modules();
        ensure!(modules.is_dir(), "no Node drivers; install them: cargo xtask setup");
        let node = places::which("node").context("no node; install it: cargo xtask setup")?;
        let mut command = self.command(&node);
        command.env("NODE_PATH", &modules).arg("-");
        capture(command, Some(script.as_bytes().to_vec()), PATIENCE)
    }
}

/// One of PostgreSQL's client programs, from the newest install before any wrapper on `PATH`.
///
/// # Errors
/// It is not installed.
pub fn program(name: &str) -> Result<PathBuf> {
    let installed = places::system_postgres().map(|bin| bin.join(name));
    let installed = installed.filter(|program| program.is_file());
    installed.or_else(|| places::which(name)).with_context(|| {
        format!("no `{name}`; install it: apt-get install postgresql-client postgresql-contrib")
    })
}

/// An HTTP request to loopback, as `curl` would send it: status and body.
///
/// # Errors
/// Nobody listens, or what comes back is not HTTP.
pub fn http(method: &str, url: &str, form: &str) -> Result<(u16, String)> {
    let rest = url.strip_prefix("http://").context("an http:// address")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(host).with_context(|| format!("reach {host}"))?;
    stream.set_read_timeout(Some(PATIENCE)).context("set a deadline")?;
    let length = form.len();
    write!(
        stream,
        "{method} /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n\r\n{form}"
    )
    .with_context(|| format!("ask {host}"))?;
    let mut answer = Vec::new();
    stream.take(HTTP_BYTES_MAX).read_to_end(&mut answer).with_context(|| format!("read {host}"))?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").context("a head and a body")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(body) } else { body.to_owned() };
    Ok((status.context("a status")?, body))
}

/// # Errors
/// As [`http`].
pub fn http_get(url: &str) -> Result<(u16, String)> {
    http("GET", url, "")
}

const HTTP_BYTES_MAX: u64 = 64 << 20;

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or_default();
        let Some(chunk) = rest.get(..size).filter(|chunk| !chunk.is_empty()) else { break };
        whole.push_str(chunk);
        body = rest.get(size..).unwrap_or_default().trim_start_matches("\r\n");
    }
    whole
}
