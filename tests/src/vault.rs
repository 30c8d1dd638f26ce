//! A vault: a server of HashiCorp Vault's HTTP API that is not ours, with TLS, in a folder of its
//! own.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use xtask::places;

use crate::ca::{Authority, Wish};
use crate::place::{Port, TempDir};
use crate::proc::{Proc, capture};

const PATIENCE: Duration = Duration::from_secs(30);

/// Unsealed, with a key-value store at `secret/`.
#[derive(Debug)]
pub struct Vault {
    dir: TempDir,
    port: Port,
    token: String,
    /// Tables given out.
    tables: AtomicU32,
    _proc: Proc,
}

impl Vault {
    /// # Errors
    /// The server is not installed (the message names the command that does), or does not start.
    pub fn start(authority: &Authority) -> Result<Self> {
        let program = places::vault();
        ensure!(program.is_file(), "no vault; run: cargo xtask setup");
        let (dir, port) = (TempDir::new("vault")?, Port::new()?);
        let (cert, key) = authority.issue(&Wish::server()?)?.write(&dir, "server")?;
        dir.write("ca.pem", authority.pem())?;
        for folder in ["data", "work"] {
            std::fs::create_dir(dir.join(folder))?;
        }
        let number = port.number();
        let config = format!(
            "storage \"file\" {{ path = {:?} }}\n\
             listener \"tcp\" {{\n address = \"127.0.0.1:{number}\"\n tls_disable = \"false\"\n \
             tls_cert_file = {cert:?}\n tls_key_file = {key:?}\n \
             tls_disable_client_certs = \"true\"\n}}\n\
             api_addr = \"https://127.0.0.1:{number}\"\nlog_level = \"info\"\ndaemon = false\n\
             pid_file = {:?}\nwork_dir = {:?}\n",
            dir.join("data"),
            dir.join("pid"),
            dir.join("work"),
        );
        dir.write("vault.hcl", config)?;
        let mut command = Command::new(program);
        command.args(["server", "--config"]).arg(dir.join("vault.hcl"));
        let proc = Proc::spawn("vault", command)?;
        proc.wait_line("listening on", PATIENCE)?;
        let mut vault =
            Self { dir, port, token: String::new(), tables: AtomicU32::new(0), _proc: proc };
        let made =
            vault.ask("PUT", "sys/init", &json!({"secret_shares": 1, "secret_threshold": 1}))?;
        let text = |value: &Value| value.as_str().map(str::to_owned).context("not a text");
        vault.ask("PUT", "sys/unseal", &json!({ "key": text(&made["keys"][0])? }))?;
        vault.token = text(&made["root_token"])?;
        vault.dir.write("token", &vault.token)?;
        Ok(vault)
    }

    /// Keeps a password at `secret/<name>`.
    ///
    /// # Errors
    /// The server refuses.
    pub fn put(&self, name: &str, password: &str) -> Result<()> {
        self.ask("POST", &format!("secret/{name}"), &json!({ "password": password })).map(drop)
    }

    /// Changes the token that clients of [`Self::table`] show.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_token(&self, token: Option<&str>) -> Result<()> {
        self.dir.write("token", token.unwrap_or(&self.token)).map(drop)
    }

    /// The `vault` of a login, which trusts `authority`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn table(&self, name: &str, field: &str, authority: &Authority) -> Result<String> {
        let number = self.tables.fetch_add(1, Ordering::Relaxed);
        let ca = self.dir.write(&format!("{number}.ca.pem"), authority.pem())?;
        Ok(format!(
            "{{ address = \"https://localhost:{}\", path = \"secret/{name}\", field = {field:?}, \
             token_file = {:?}, ca = {ca:?} }}",
            self.port.number(),
            self.dir.join("token"),
        ))
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail-with-body", "--retry-connrefused"])
            .args(["--retry", "5", "--request", method, "--data", &body.to_string()])
            .arg("--cacert")
            .arg(self.dir.join("ca.pem"))
            .args(["--header", &format!("X-Vault-Token: {}", self.token)])
            .arg(format!("https://localhost:{}/v1/{path}", self.port.number()));
        let said = capture(curl, None, PATIENCE)?.success()?;
        if said.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&said).context("the vault's answer")
    }
}
