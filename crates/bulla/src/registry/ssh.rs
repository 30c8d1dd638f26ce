//! `[resources.NAME.ssh]` and `[ssh]`: hosts, and what the gateway itself is, to clients of SSH.

use std::{path::PathBuf, sync::Arc};

use bulla_mask::{Kind, Scanner};
use bulla_ssh::{Host, HostKeys, Keys, Masked, PublicKey, Ssh, TargetLogin};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{Config, file::Resource};

/// What only a host has.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SshSettings {
    /// Accounts that clients may ask for besides `login.user`, which is the first.
    pub accounts: Vec<String>,
    /// How the gateway logs in there.
    pub login: SshLogin,
    /// Public keys that the host may have: `ssh-ed25519 AAAA…`. Nothing is trusted on first use.
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

/// How the gateway logs in at a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SshLogin {
    /// With a certificate for each session, signed by the gateway's own authority, which the host
    /// must trust (`bulla ssh target-ca`).
    #[default]
    Certificate,
    /// With the private key that the secret of `login` is, in OpenSSH's form.
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

/// Builds the host of a resource, or says everything that does not hold.
pub fn host(config: &Config, name: &str, resource: &Resource) -> Result<Host, Vec<Mistake>> {
    let classes: Vec<&String> = config.classes.keys().collect();
    let settings = resource.ssh.clone().unwrap_or_default();
    let login = resource.login.clone().unwrap_or_default();
    let mut mistakes = Vec::new();
    if login.user.is_empty() {
        mistakes.push(("login.user", "is missing: the account at the host".to_owned()));
    }
    let mut accounts = vec![login.user.clone()];
    accounts.extend(settings.accounts.iter().filter(|account| **account != login.user).cloned());
    let plain = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
    for account in accounts.iter().filter(|account| !account.is_empty()) {
        if account.starts_with('-') || !account.chars().all(plain) {
            let words = format!("`{}` is no name of an account", account.escape_debug());
            mistakes.push(("ssh.accounts", words));
        }
    }
    match (settings.login, login.has_secret()) {
        (SshLogin::Certificate, true) => {
            let words = "a secret in `login` needs `login = \"key\"` or `\"password\"` here";
            mistakes.push(("ssh.login", words.to_owned()));
        }
        (SshLogin::Key | SshLogin::Password, false) => {
            mistakes.push(("ssh.login", "needs a secret in `login`".to_owned()));
        }
        (SshLogin::Certificate, false) | (SshLogin::Key | SshLogin::Password, true) => {}
    }
    let pinned = parse(&settings.host_keys, "ssh.host_keys", &mut mistakes);
    let authorities = parse(&settings.host_authorities, "ssh.host_authorities", &mut mistakes);
    if settings.host_keys.is_empty() && settings.host_authorities.is_empty() {
        let words = "is missing: who the host is must be known before it is met; \
                     write the line that `ssh-keyscan -t ed25519 HOST` prints";
        mistakes.push(("ssh.host_keys", words.to_owned()));
    }
    if resource.target.ca.is_some() || login.cert.is_some() {
        let words = "TLS does not come into it; `ssh.host_keys` says who the host is";
        mistakes.push(("target", words.to_owned()));
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
        login: match settings.login {
            SshLogin::Certificate => TargetLogin::Certificate,
            SshLogin::Key => TargetLogin::Key,
            SshLogin::Password => TargetLogin::Password,
        },
        keys: HostKeys { pinned, authorities, name: host_name.unwrap_or_default() },
        env: settings.env,
        masked,
    };
    if mistakes.is_empty() { Ok(host) } else { Err(mistakes) }
}
