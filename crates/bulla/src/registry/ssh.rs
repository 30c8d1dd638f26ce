//! `[resources.NAME.ssh]` and `[ssh]`: hosts, and what the gateway itself is, to clients of SSH.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Result, ensure};
use bulla_mask::{Kind, Scanner};
use bulla_ssh::{Beside, Host, HostKeys, Keys, Masked, PublicKey, Ssh, TargetLogin};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{Config, agent::AgentTarget, file::Resource};

/// What only a host has.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SshSettings {
    /// Accounts that clients may ask for besides `login.user`, which is the first. With `agent`
    /// the first of these is the first.
    pub accounts: Vec<String>,
    /// How the gateway logs in there, by default with a certificate; with `agent`, the agent says it.
    pub login: Option<SshLogin>,
    /// Public keys that the host may have: `ssh-ed25519 AAAA…`. Nothing is trusted on first use.
    /// With `agent`, by default what the agent's configuration has.
    pub host_keys: Vec<String>,
    /// Public keys of authorities that may certify the host.
    pub host_authorities: Vec<String>,
    /// The name in the host's certificate; by default `target.host`.
    pub host_name: Option<String>,
    /// Environment variables that go on, besides `LANG` and `LC_*`.
    pub env: Vec<String>,
    /// A class: whoever may not `reveal` it gets output in which what `detectors` find is masked.
    pub masked: Option<String>,
    /// What is looked for, by the names that `bulla mask find` prints; by default everything.
    pub detectors: Vec<String>,
}

/// What only a host has, beside which an agent stands.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SshBeside {
    /// Accounts that gateways may ask for besides `login.user`.
    pub accounts: Vec<String>,
    /// How gateways log in there.
    pub login: SshLogin,
    /// Public keys that the host may have: `ssh-ed25519 AAAA…`.
    pub host_keys: Vec<String>,
    /// Public keys of authorities that may certify the host.
    pub host_authorities: Vec<String>,
    /// The name in the host's certificate; by default `target.host`.
    pub host_name: Option<String>,
}

/// How the gateway logs in at a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SshLogin {
    /// With a certificate for each connection, signed by the gateway's own authority, which the host
    /// must trust (`bulla ssh target-ca`); with an agent, by the agent's (`bulla agent target-ca`).
    #[default]
    Certificate,
    /// With the private key that the secret of `login` is, in OpenSSH's form. It stays with an agent.
    Key,
    /// With the password that the secret of `login` is.
    Password,
}

/// What the gateway is to clients of SSH.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SshGateway {
    /// The gateway's host key and its three authorities, made when they are not there. By default
    /// `ssh` in `gateway.data`.
    pub keys: Option<PathBuf>,
    /// Host names for the gateway's own certificate. The names of its hosts are always in it.
    pub names: Vec<String>,
}

/// A mistake: the key below the resource, and the words.
type Mistake = (&'static str, String);

/// The gateway's keys.
pub fn keys(config: &Config) -> Arc<Keys> {
    let dir = match &config.ssh.keys {
        Some(dir) => config.path(dir),
        None => config.data().join("ssh"),
    };
    Keys::new(&dir)
}

/// The protocol, or every mistake of a resource.
pub fn protocol(config: &Config, keys: Arc<Keys>) -> Result<Ssh, Vec<(String, Vec<Mistake>)>> {
    let own = bulla_ssh::DESCRIPTOR.protocol;
    let (mut hosts, mut mistakes, mut ports) = (Vec::new(), Vec::new(), Vec::new());
    for (name, resource) in &config.resources {
        if resource.protocol != own {
            ports.extend(resource.target.port);
            continue;
        }
        match host(config, name, resource) {
            Ok(host) => hosts.push(host),
            Err(found) => mistakes.push((name.clone(), found)),
        }
    }
    match mistakes.is_empty() {
        true => Ok(Ssh::new(hosts, config.ssh.names.clone(), ports, keys)),
        false => Err(mistakes),
    }
}

fn parse(lines: &[String], key: &'static str, mistakes: &mut Vec<Mistake>) -> Vec<PublicKey> {
    let mut keys = Vec::new();
    for line in lines {
        match PublicKey::from_openssh(line.trim()) {
            Ok(read) if read.algorithm().is_ed25519() || read.algorithm().is_ecdsa() => {
                keys.push(read);
            }
            Ok(read) => {
                let words =
                    format!("`{}` is not used; give its Ed25519 or ECDSA key", read.algorithm());
                mistakes.push((key, words));
            }
            Err(_) => {
                let short: String = line.chars().take(40).collect();
                let words =
                    format!("`{}` is no public key in OpenSSH's form", short.escape_debug());
                mistakes.push((key, words));
            }
        }
    }
    keys
}

/// The names of accounts: the default first.
fn accounts(first: &str, more: &[String], mistakes: &mut Vec<Mistake>) -> Vec<String> {
    let mut accounts: Vec<String> =
        Some(first.to_owned()).filter(|first| !first.is_empty()).into_iter().collect();
    accounts.extend(more.iter().filter(|account| *account != first).cloned());
    let plain = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
    for account in &accounts {
        if account.is_empty() || account.starts_with('-') || !account.chars().all(plain) {
            let words = format!("`{}` is no name of an account", account.escape_debug());
            mistakes.push(("ssh.accounts", words));
        }
    }
    accounts
}

/// Whether a secret is there where it is needed, and only there.
fn secret(login: SshLogin, there: bool, mistakes: &mut Vec<Mistake>) {
    match (login, there) {
        (SshLogin::Certificate, true) => {
            let words = "a secret in `login` needs `login = \"key\"` or `\"password\"` here";
            mistakes.push(("ssh.login", words.to_owned()));
        }
        (SshLogin::Key | SshLogin::Password, false) => {
            mistakes.push(("ssh.login", "needs a secret in `login`".to_owned()));
        }
        (SshLogin::Certificate, false) | (SshLogin::Key | SshLogin::Password, true) => {}
    }
}

const NO_HOST_KEYS: &str = "is missing: who the host is must be known before it is met; \
                            write the line that `ssh-keyscan -t ed25519 HOST` prints";
const NO_TLS: &str = "TLS does not come into it; `ssh.host_keys` says who the host is";

/// The agent's side of a host, or every mistake of it.
fn read_beside(target: &AgentTarget) -> Result<(Vec<String>, HostKeys, TargetLogin), Vec<Mistake>> {
    let settings = target.ssh.clone().unwrap_or_default();
    let mut mistakes = Vec::new();
    if target.login.user.is_empty() {
        mistakes.push(("login.user", "is missing: the account at the host".to_owned()));
    }
    let accounts = accounts(&target.login.user, &settings.accounts, &mut mistakes);
    secret(settings.login, target.login.has_secret(), &mut mistakes);
    if settings.host_keys.is_empty() && settings.host_authorities.is_empty() {
        mistakes.push(("ssh.host_keys", NO_HOST_KEYS.to_owned()));
    }
    if target.target.ca.is_some() || target.login.cert.is_some() {
        mistakes.push(("target", NO_TLS.to_owned()));
    }
    let name = settings.host_name.or_else(|| target.target.host.clone());
    let keys = HostKeys {
        pinned: parse(&settings.host_keys, "ssh.host_keys", &mut mistakes),
        authorities: parse(&settings.host_authorities, "ssh.host_authorities", &mut mistakes),
        name: name.unwrap_or_default(),
    };
    let login = means(settings.login);
    if mistakes.is_empty() { Ok((accounts, keys, login)) } else { Err(mistakes) }
}

pub fn mistakes_beside(target: &AgentTarget) -> Vec<Mistake> {
    read_beside(target).err().unwrap_or_default()
}

/// Where an agent keeps the authority of one host.
fn own_folder(data: &Path, name: &str) -> PathBuf {
    data.join("ssh").join(name)
}

/// The agent's side of a host.
pub fn beside(data: &Path, name: &str, target: &AgentTarget) -> Result<Beside, String> {
    let (accounts, keys, login) = read_beside(target).map_err(|mistakes| {
        let words = mistakes.into_iter().map(|(key, words)| format!("{key}: {words}"));
        words.collect::<Vec<_>>().join("; ")
    })?;
    let made = Beside::open(&own_folder(data, name), accounts, keys, login);
    made.map_err(|error| error.to_string())
}

/// The authority of an agent's host, as a line.
pub fn target_ca(data: &Path, name: &str, target: &AgentTarget) -> Result<String> {
    let login = target.ssh.as_ref().map(|settings| settings.login).unwrap_or_default();
    let needed = login == SshLogin::Certificate;
    ensure!(needed, "`{name}` is not logged in at with certificates; see `ssh.login`");
    Ok(bulla_ssh::authority_line(&own_folder(data, name))?)
}

fn means(login: SshLogin) -> TargetLogin {
    match login {
        SshLogin::Certificate => TargetLogin::Certificate,
        SshLogin::Key => TargetLogin::Key,
        SshLogin::Password => TargetLogin::Password,
    }
}

/// Builds the host of a resource, or says everything that does not hold.
pub fn host(config: &Config, name: &str, resource: &Resource) -> Result<Host, Vec<Mistake>> {
    let classes: Vec<&String> = config.classes.keys().collect();
    let settings = resource.ssh.clone().unwrap_or_default();
    let login = resource.login.clone().unwrap_or_default();
    let by_agent = !resource.agent.is_empty();
    let mut mistakes = Vec::new();
    let accounts = accounts(&login.user, &settings.accounts, &mut mistakes);
    match (by_agent, login.user.is_empty()) {
        (true, _) if accounts.is_empty() => {
            let words = "is missing: the account that clients get comes first; \
                         the agent's configuration must have it";
            mistakes.push(("ssh.accounts", words.to_owned()));
        }
        (false, true) => {
            mistakes.push(("login.user", "is missing: the account at the host".to_owned()));
        }
        (true, _) | (false, false) => {}
    }
    match (by_agent, settings.login) {
        (true, Some(_)) => {
            let words = "is for hosts without `agent`: the agent's configuration says it";
            mistakes.push(("ssh.login", words.to_owned()));
        }
        (true, None) => {}
        (false, own) => secret(own.unwrap_or_default(), login.has_secret(), &mut mistakes),
    }
    let pinned = parse(&settings.host_keys, "ssh.host_keys", &mut mistakes);
    let authorities = parse(&settings.host_authorities, "ssh.host_authorities", &mut mistakes);
    if settings.host_keys.is_empty() && settings.host_authorities.is_empty() && !by_agent {
        mistakes.push(("ssh.host_keys", NO_HOST_KEYS.to_owned()));
    }
    if by_agent && !settings.host_authorities.is_empty() && settings.host_name.is_none() {
        let words = "is missing: the name in the host's certificate";
        mistakes.push(("ssh.host_name", words.to_owned()));
    }
    if resource.target.ca.is_some() || login.cert.is_some() {
        mistakes.push(("target", NO_TLS.to_owned()));
    }
    let names = settings.env.iter().filter(|name| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        name.is_empty() || !name.chars().all(plain)
    });
    mistakes
        .extend(names.map(|name| {
            ("ssh.env", format!("`{}` is no name of a variable", name.escape_debug()))
        }));
    let kinds = settings.detectors.iter().filter_map(|name| {
        let kind = Kind::parse(name);
        if kind.is_none() {
            let words = format!("`{}` is no detector", name.escape_debug());
            mistakes.push(("ssh.detectors", words));
        }
        kind
    });
    let kinds: Vec<Kind> = kinds.collect();
    let scanner = match settings.detectors.is_empty() {
        true => Scanner::all(),
        false => Scanner::new(&kinds, Vec::new()),
    };
    if settings.masked.is_none() && !settings.detectors.is_empty() {
        mistakes.push(("ssh.detectors", "needs `masked`, which is not set".to_owned()));
    }
    if let Some(class) = settings.masked.as_ref().filter(|class| !classes.contains(class)) {
        let words = format!("`{}` is no class; add [classes.NAME]", class.escape_debug());
        mistakes.push(("ssh.masked", words));
    }
    let masked = settings.masked.map(|class| Masked { class, scanner });
    let host_name = settings.host_name.or_else(|| resource.target.host.clone());
    let host = Host {
        resource: name.into(),
        accounts,
        login: match by_agent {
            true => TargetLogin::Agent,
            false => means(settings.login.unwrap_or_default()),
        },
        keys: HostKeys { pinned, authorities, name: host_name.unwrap_or_default() },
        env: settings.env,
        masked,
    };
    if mistakes.is_empty() { Ok(host) } else { Err(mistakes) }
}
