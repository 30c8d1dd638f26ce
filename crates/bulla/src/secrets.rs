//! Where the secrets toward targets are: files, the environment, a command, a vault. Each is read
//! at each login, so that it can be rotated in place, and is kept nowhere.

mod oauth;

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use bulla_core::{Boxed, Secret};
use bulla_engine::{SecretSource, Secrets};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::io::AsyncReadExt;

use crate::{config::file, tls};

pub use oauth::address as oauth_address;

/// Longest secret, and longest answer of a vault.
const SECRET_BYTES_MAX: usize = 64 * 1024;
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Time for a command or a vault.
const TIME_MAX: Duration = Duration::from_secs(10);
/// What of a failed command's words is passed on.
const WORDS_CHARS_MAX: usize = 200;

/// The place that a login names. Relative paths start at `base`.
pub fn source(base: &Path, login: &file::Login) -> Result<SecretSource> {
    let own = plain(base, login)?;
    Ok(match &login.oauth {
        None => own,
        Some(from) => {
            SecretSource::Elsewhere(Arc::new(oauth::Oauth::new(base, from, &login.user, own)?))
        }
    })
}

fn plain(base: &Path, login: &file::Login) -> Result<SecretSource> {
    Ok(if let Some(path) = &login.password_file {
        SecretSource::File(base.join(path))
    } else if let Some(variable) = &login.password_env {
        SecretSource::Env(variable.clone())
    } else if let Some(words) = &login.password_command {
        let (program, arguments) = words.split_first().context("the command is empty")?;
        let (program, arguments) = (program.clone(), arguments.to_vec());
        SecretSource::Elsewhere(Arc::new(Command { program, arguments }))
    } else if let Some(vault) = &login.vault {
        SecretSource::Elsewhere(Arc::new(Vault::new(base, vault)?))
    } else {
        SecretSource::None
    })
}

fn other(words: impl Into<String>) -> io::Error {
    io::Error::other(words.into())
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    tokio::time::timeout(TIME_MAX, work).await.map_err(|_| late())?
}

/// A program that prints the secret.
struct Command {
    program: String,
    arguments: Vec<String>,
}

impl Command {
    async fn run(&self) -> io::Result<Secret> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", self.program));
        let mut child = tokio::process::Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(named)?;
        let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(other("the command has no output"));
        };
        let limit = u64::try_from(SECRET_BYTES_MAX).unwrap_or(u64::MAX);
        let (mut secret, mut words) = (Vec::new(), Vec::new());
        let (mut out, mut err) = (out.take(limit + 1), err.take(limit));
        let (out, err) = tokio::join!(out.read_to_end(&mut secret), err.read_to_end(&mut words));
        let (_, _) = (out?, err?);
        let mut secret = Secrecy(secret);
        let status = child.wait().await?;
        if !status.success() {
            let words = String::from_utf8_lossy(&words);
            let words = words.chars().filter(|c| !c.is_control()).take(WORDS_CHARS_MAX);
            let words: String = words.collect();
            return Err(other(format!("`{}` ended with {status}: {words}", self.program)));
        }
        if secret.0.len() > SECRET_BYTES_MAX {
            return Err(other(format!("`{}` prints more than 64 KiB", self.program)));
        }
        while secret.0.last().is_some_and(|byte| *byte == b'\n' || *byte == b'\r') {
            secret.0.pop();
        }
        if secret.0.is_empty() {
            return Err(other(format!("`{}` prints nothing", self.program)));
        }
        Ok(Secret::new(std::mem::take(&mut secret.0)))
    }
}

/// Zeroed on every way out.
struct Secrecy(Vec<u8>);

impl Drop for Secrecy {
    fn drop(&mut self) {
        drop(Secret::new(std::mem::take(&mut self.0)));
    }
}

impl Secrets for Command {
    fn read(&self) -> Boxed<'_, io::Result<Secret>> {
        Box::pin(in_time(self.run()))
    }
}

/// What a vault's address must be: https, or http to this very host.
pub fn address(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|_| format!("`{}` is no address", text.escape_debug()))?;
    let host = uri.host().unwrap_or_default();
    let local = ["localhost", "127.0.0.1", "[::1]"].contains(&host);
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if local => {}
        _ => return Err("a vault is asked over https".into()),
    }
    if host.is_empty() || !["", "/"].contains(&uri.path()) || uri.query().is_some() {
        return Err(format!("`{}` is more than an address", text.escape_debug()));
    }
    Ok(uri)
}

/// To whoever has secrets, by the authorities of `ca`, or the system's.
fn connector(base: &Path, ca: Option<&Path>) -> Result<HttpsConnector<HttpConnector>> {
    let config = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(tls::roots(base, ca)?)
        .with_no_client_auth();
    let builder = HttpsConnectorBuilder::new().with_tls_config(config);
    Ok(builder.https_or_http().enable_http1().build())
}

/// HashiCorp Vault's HTTP API, which OpenBao speaks too: `GET /v1/<path>`, with a token.
struct Vault {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    uri: Uri,
    field: String,
    token_file: PathBuf,
    namespace: Option<String>,
}

impl Vault {
    fn new(base: &Path, from: &file::Vault) -> Result<Self> {
        let server = address(&from.address).map_err(anyhow::Error::msg)?;
        let (scheme, host) = (server.scheme_str(), server.authority());
        let (scheme, host) = scheme.zip(host).context("the vault's address has no host")?;
        let path = from.path.trim_matches('/');
        let uri = format!("{scheme}://{host}/v1/{path}").parse().context("the vault's path")?;
        Ok(Self {
            client: Client::builder(TokioExecutor::new())
                .build(connector(base, from.ca.as_deref())?),
            uri,
            field: from.field.clone(),
            token_file: base.join(&from.token_file),
            namespace: from.namespace.clone(),
        })
    }

    async fn ask(&self) -> io::Result<Secret> {
        let token = tokio::fs::read_to_string(&self.token_file).await.map_err(|error| {
            io::Error::new(error.kind(), format!("read `{}`: {error}", self.token_file.display()))
        })?;
        let mut request = Request::get(&self.uri)
            .header("x-vault-token", token.trim())
            .header("x-vault-request", "true");
        if let Some(namespace) = &self.namespace {
            request = request.header("x-vault-namespace", namespace);
        }
        let request = request.body(Empty::new()).map_err(io::Error::other)?;
        let answer = self.client.request(request).await.map_err(|error| {
            use std::error::Error;
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            other(format!("ask the vault: {error}{cause}"))
        })?;
        let status = answer.status();
        if status != StatusCode::OK {
            return Err(other(format!("the vault answers {status} for `{}`", self.uri.path())));
        }
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = Secrecy(body.map_err(other_box)?.to_bytes().to_vec());
        secret_in(&body.0, &self.field)
            .map_err(|why| other(format!("the vault's answer for `{}` {why}", self.uri.path())))
    }
}

fn other_box(error: Box<dyn std::error::Error + Send + Sync>) -> io::Error {
    io::Error::other(error)
}

/// `data.data.<field>` (key-value, version 2) or `data.<field>`.
fn secret_in(json: &[u8], field: &str) -> Result<Secret, &'static str> {
    let answer: Value = serde_json::from_slice(json).map_err(|_| "is no JSON")?;
    let data = answer.get("data").ok_or("has no `data`")?;
    let data = data.get("data").filter(|inner| inner.is_object()).unwrap_or(data);
    let secret = data.get(field).and_then(Value::as_str).ok_or("lacks the field, as a text")?;
    if secret.is_empty() || secret.len() > SECRET_BYTES_MAX {
        return Err("holds a field that is no password");
    }
    Ok(Secret::new(secret.as_bytes().to_vec()))
}

impl Secrets for Vault {
    fn read(&self) -> Boxed<'_, io::Result<Secret>> {
        Box::pin(in_time(self.ask()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_both_shapes() {
        let check = |json: &str, expected: Option<&str>| {
            let found = secret_in(json.as_bytes(), "password").ok();
            let found = found.as_ref().map(|secret| std::str::from_utf8(secret.reveal()).unwrap());
            assert_eq!(found, expected, "{json}");
        };
        check(r#"{"data":{"data":{"password":"p"},"metadata":{}}}"#, Some("p"));
        check(r#"{"data":{"password":"p","ttl":3}}"#, Some("p"));
        check(r#"{"data":{"data":{"user":"u"}}}"#, None);
        check(r#"{"data":{"password":7}}"#, None);
        check(r#"{"data":{"password":""}}"#, None);
        check(r#"{"errors":["no"]}"#, None);
        check("<html>", None);
    }

    #[test]
    fn a_vault_is_asked_over_https() {
        for good in ["https://vault.internal:8200", "https://v/", "http://127.0.0.1:8200"] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in
            ["http://vault.internal:8200", "vault:8200", "", "https://v/v1/secret", "ftp://v"]
        {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_command_prints_a_secret_or_says_why_not() {
        let run = |script: &str| {
            let command =
                Command { program: "sh".into(), arguments: vec!["-c".into(), script.into()] };
            async move { command.read().await.map(|secret| secret.reveal().to_vec()) }
        };
        assert_eq!(run("printf 'a b\\n\\n'").await.unwrap(), b"a b");
        let failed = run("echo secret; echo sorry >&2; exit 3").await.unwrap_err().to_string();
        assert!(failed.contains("sorry") && !failed.contains("secret"), "{failed}");
        assert!(run("true").await.is_err());
        assert!(run("head -c 70000 /dev/zero").await.is_err());
    }
}
