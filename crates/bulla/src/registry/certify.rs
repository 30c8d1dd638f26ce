//! `bulla ssh …`: certificates for clients, and whom clients and hosts have to believe.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use bulla_core::{Clock as _, Secret};
use bulla_engine::SystemClock;
use bulla_ssh::PublicKey;
use tokio::net::TcpStream;

use crate::{
    cli::{Cli, Ssh, SshLogin},
    fail::Denied,
    gateway, print,
};

/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 64 << 10;

pub fn run(cli: &Cli, command: &Ssh) -> Result<()> {
    let authority =
        || super::ssh::keys(&gateway::load(&cli.config)?).open().map_err(anyhow::Error::from);
    match command {
        Ssh::HostCa { pattern } => {
            let line = authority()?.host_line()?;
            Ok(print(&format!("@cert-authority {pattern} {line}"))?)
        }
        Ssh::TargetCa => Ok(print(&authority()?.target_line()?)?),
        Ssh::Login(args) => {
            let made = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("start the runtime")?
                .block_on(login(args))?;
            Ok(print(&made)?)
        }
    }
}

fn text(path: &Path) -> Result<String> {
    let mut out = String::new();
    let file = fs::File::open(path).with_context(|| format!("open `{}`", path.display()))?;
    let read = file.take(FILE_BYTES_MAX).read_to_string(&mut out);
    read.with_context(|| format!("read `{}`", path.display()))?;
    Ok(out)
}

/// The authorities in a file of lines as `bulla ssh host-ca` prints them.
fn authorities(path: &Path) -> Result<Vec<PublicKey>> {
    let mut keys = Vec::new();
    for line in text(path)?.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let key = match line.strip_prefix("@cert-authority ") {
            Some(rest) => rest.split_once(' ').map_or("", |(_, key)| key),
            None => line,
        };
        let read = PublicKey::from_openssh(key.trim());
        keys.push(read.map_err(|_| anyhow!("`{}` holds a line that is no key", path.display()))?);
    }
    Ok(keys)
}

fn token(path: Option<&Path>) -> Result<Secret> {
    let text = match path {
        Some(path) => text(path)?,
        None => {
            let mut out = String::new();
            io::stdin().take(FILE_BYTES_MAX).read_to_string(&mut out).context("read the token")?;
            out
        }
    };
    Ok(Secret::new(text.trim().as_bytes().to_vec()))
}

fn beside(key: &Path, end: &str) -> PathBuf {
    let mut name = key.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// The public key beside a private one; both are made if the private one is not there.
fn public(key: &Path) -> Result<String> {
    if key.exists() {
        return text(&beside(key, ".pub"));
    }
    let (private, public) = bulla_ssh::fresh_key("bulla")?;
    let write = |path: &Path, bytes: &[u8], mode| {
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(mode);
        let written = options.open(path).and_then(|mut file| file.write_all(bytes));
        written.with_context(|| format!("write `{}`", path.display()))
    };
    write(key, private.reveal(), 0o600)?;
    write(&beside(key, ".pub"), format!("{public}\n").as_bytes(), 0o644)?;
    Ok(public)
}

async fn login(args: &SshLogin) -> Result<String> {
    let (name, _) = args.gateway.rsplit_once(':').context("write --gateway HOST:PORT")?;
    let (authorities, token) = (authorities(&args.ca)?, token(args.token_file.as_deref())?);
    let public = public(&args.key)?;
    let stream = TcpStream::connect(&args.gateway).await;
    let stream = stream.with_context(|| format!("reach `{}`", args.gateway))?;
    let now = SystemClock::default().now();
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let line = match bulla_ssh::login(stream, name, authorities, &token, &public, now).await {
        Ok(line) => line,
        Err(bulla_ssh::LoginError::Token) => {
            return Err(Denied("the gateway does not take the token".into()).into());
        }
        Err(error) => return Err(error.into()),
    };
    let path = beside(&args.key, "-cert.pub");
    fs::write(&path, line + "\n").with_context(|| format!("write `{}`", path.display()))?;
    Ok(format!("{}", path.display()))
}
