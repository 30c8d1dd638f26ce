//! What an agent does beside its targets: it dials what its own configuration names, and logs in
//! there, or vouches for the gateway that does.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context as Task, Poll, ready},
    time::Duration,
};

use anyhow::{Context, Result};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use bulla_core::{Boxed, Clock, Secret};
use bulla_engine::{ConnectError, Connector, DirectConnector, DirectDialer};
use bulla_host::{Connector as _, DialError, Keeping, Seal, Stream};
use bulla_tunnel::{Reached, TargetError, TargetInfo, Targets};
use bulla_wire::{Place, TargetHello};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    config::agent::AgentConfig,
    registry::{self, Wires},
    roads,
};

/// The names of RFC 7301 that a gateway may ask for.
const KNOWN_ALPN: &[&str] = &["h2", "http/1.1"];

/// What the agent's configuration names, and nothing else.
pub struct Beside {
    direct: DirectConnector,
    hosted: DirectDialer,
    known: HashMap<String, Known>,
    seals: Arc<Seals>,
    clock: Arc<dyn Clock>,
}

struct Known {
    protocol: &'static str,
    part: String,
    other_parts: bool,
    way: Way,
}

/// How a stream is handed over.
enum Way {
    /// Logged in.
    LoggedIn,
    /// Before anybody logs in; the gateway does so with each request, and gets the secret for it.
    Dialled,
    /// The same, with what helps the gateway to log in once.
    Vouched(Arc<dyn bulla_host::Beside>),
}

impl Beside {
    /// Blocks on files: the keys of some targets are made here.
    pub fn new(config: &AgentConfig, protocols: &Wires, clock: Arc<dyn Clock>) -> Result<Self> {
        let (mut targets, mut hosted, mut known) = (Vec::new(), Vec::new(), HashMap::new());
        for (name, from) in &config.targets {
            if let Some(protocol) = registry::hosted_name(&from.protocol) {
                let bare = registry::is_bare(&from.protocol);
                let target = roads::hosted_target(&config.base, &from.target, &from.login, bare);
                hosted.push((name.clone(), target.with_context(|| format!("targets.{name}"))?));
                let (part, other_parts) = (name.clone(), false);
                let way = registry::beside(config, name, from).map_err(anyhow::Error::msg);
                let way = way.with_context(|| format!("targets.{name}"))?;
                let way = way.map_or(Way::Dialled, Way::Vouched);
                known.insert(name.clone(), Known { protocol, part, other_parts, way });
                continue;
            }
            let protocol = protocols.get(from.protocol.as_str());
            let protocol = protocol.with_context(|| format!("unknown protocol of `{name}`"))?;
            let target = roads::target(&config.base, protocol.clone(), &from.target, &from.login);
            targets.push((name.clone(), target.with_context(|| format!("targets.{name}"))?));
            let one = Known {
                protocol: protocol.descriptor().protocol,
                part: from.target.database.clone().unwrap_or_else(|| name.clone()),
                other_parts: from.target.other_databases,
                way: Way::LoggedIn,
            };
            known.insert(name.clone(), one);
        }
        let timeout = Duration::from_millis(config.agent.connect_max.ms);
        let hosted = DirectDialer::new(hosted, timeout);
        let direct = DirectConnector::new(targets, timeout);
        Ok(Self { direct, hosted, known, seals: Arc::default(), clock })
    }

    /// The place that is asked for, if the configuration has it.
    fn place(
        &self,
        target: &str,
        protocol: &str,
        part: Option<&str>,
    ) -> Result<Place, TargetError> {
        let shown = target.escape_debug();
        let unknown = |words: String| Err(TargetError::Unknown(words));
        let Some(known) = self.known.get(target) else {
            return unknown(format!("the agent has no [targets.{shown}]"));
        };
        if known.protocol != protocol {
            let protocol = protocol.escape_debug();
            return unknown(format!("the agent's target `{shown}` does not speak `{protocol}`"));
        }
        let part = part.unwrap_or(&known.part);
        let default_part = part == known.part;
        if !default_part && !known.other_parts {
            let part = part.escape_debug();
            return unknown(format!("the agent's target `{shown}` has no `{part}`"));
        }
        Ok(Place { resource: target.into(), part: part.into(), default_part })
    }
}

fn failed(error: ConnectError) -> TargetError {
    let words = error.to_string();
    match error {
        ConnectError::NoTarget(_) => TargetError::Unknown(words),
        ConnectError::Login(..) | ConnectError::Secret(..) => TargetError::Login(words),
        ConnectError::Dial(..)
        | ConnectError::Tls(..)
        | ConnectError::TimedOut(_)
        | ConnectError::Io(..)
        | ConnectError::Agent { .. } => TargetError::Unreachable(words),
    }
}

impl Beside {
    /// Dials a target whose wire a library owns, with TLS but without a login.
    async fn dial(
        &self,
        target: &str,
        settings: &[(String, String)],
    ) -> Result<Reached, TargetError> {
        let asked = settings.iter().find(|(name, _)| name == roads::ALPN);
        let asked = asked.map_or("", |(_, names)| names.as_str());
        let alpn: Vec<&'static str> = asked
            .split(',')
            .filter_map(|name| KNOWN_ALPN.iter().copied().find(|own| *own == name))
            .collect();
        let dialled = self.hosted.dial(target, &alpn).await.map_err(undialled)?;
        let mut parameters = vec![(roads::TLS.to_owned(), dialled.tls.to_string())];
        if let Some(alpn) = &dialled.alpn {
            parameters.push((roads::ALPN.to_owned(), alpn.to_string()));
        }
        let hello = TargetHello { parameters, ..Default::default() };
        Ok(Reached { stream: Box::new(dialled.stream), hello, rest: Default::default() })
    }
}

impl Beside {
    /// Dials a target and vouches for the gateway that logs in there.
    async fn vouch(
        &self,
        target: &str,
        beside: &dyn bulla_host::Beside,
        wishes: &[(String, String)],
    ) -> Result<Reached, TargetError> {
        let secret = match beside.keeping() {
            Keeping::Kept => self.hosted.secret(target).await.map_err(undialled)?,
            Keeping::Needless | Keeping::Given => None,
        };
        let vouch = beside.vouch(wishes, secret.as_deref(), self.clock.now());
        let vouch = vouch.map_err(TargetError::Login)?;
        let dialled = self.hosted.dial(target, &[]).await.map_err(undialled)?;
        let mut hello = TargetHello { parameters: vouch.told, ..Default::default() };
        let Some(seal) = vouch.seal else {
            return Ok(Reached {
                stream: Box::new(dialled.stream),
                hello,
                rest: Default::default(),
            });
        };
        let (stream, key) = Sealed::new(dialled.stream, target, seal, &self.seals)
            .ok_or_else(|| TargetError::Login("the system has no randomness".into()))?;
        hello.cancel_key = key.to_vec();
        Ok(Reached { stream: Box::new(stream), hello, rest: Default::default() })
    }
}

/// Names a stream to the gateway that has it.
type SealKey = [u8; 16];

/// A target, and what signs for it while the stream lives.
type Waiting = (String, Weak<dyn Seal>);

/// Streams on which a login may be signed, once each.
#[derive(Default)]
struct Seals(Mutex<HashMap<SealKey, Waiting>>);

/// A stream whose seal sees what the target says.
struct Sealed {
    stream: Box<dyn Stream>,
    seal: Arc<dyn Seal>,
    sees: bool,
    key: SealKey,
    seals: Arc<Seals>,
}

impl Sealed {
    fn new(
        stream: Box<dyn Stream>,
        target: &str,
        seal: Arc<dyn Seal>,
        seals: &Arc<Seals>,
    ) -> Option<(Self, SealKey)> {
        let mut key = SealKey::default();
        SystemRandom::new().fill(&mut key).ok()?;
        seals.0.lock().insert(key, (target.to_owned(), Arc::downgrade(&seal)));
        Some((Self { stream, seal, sees: true, key, seals: seals.clone() }, key))
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        self.seals.0.lock().remove(&self.key);
    }
}

impl AsyncRead for Sealed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let fresh = buf.filled().get(before..).unwrap_or_default();
        if this.sees && !fresh.is_empty() {
            this.sees = this.seal.see(fresh);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Sealed {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

fn undialled(error: DialError) -> TargetError {
    let words = error.to_string();
    match error {
        DialError::NoTarget(_) => TargetError::Unknown(words),
        DialError::Secret(..) => TargetError::Login(words),
        DialError::Dial(..)
        | DialError::Tls(..)
        | DialError::TimedOut(_)
        | DialError::Agent { .. } => TargetError::Unreachable(words),
    }
}

impl Targets for Beside {
    fn list(&self) -> Vec<TargetInfo> {
        let info = |(name, known): (&String, &Known)| TargetInfo {
            name: name.clone(),
            protocol: known.protocol.into(),
        };
        self.known.iter().map(info).collect()
    }

    fn open<'a>(
        &'a self,
        target: &'a str,
        protocol: &'a str,
        part: &'a str,
        settings: Vec<(String, String)>,
    ) -> Boxed<'a, Result<Reached, TargetError>> {
        Box::pin(async move {
            let place = self.place(target, protocol, Some(part))?;
            match self.known.get(target).map(|known| &known.way) {
                Some(Way::Dialled) => return self.dial(target, &settings).await,
                Some(Way::Vouched(beside)) => {
                    return self.vouch(target, beside.as_ref(), &settings).await;
                }
                Some(Way::LoggedIn) | None => {}
            }
            let connected = self.direct.connect(&place, settings).await.map_err(failed)?;
            let stream = Box::new(connected.stream);
            Ok(Reached { stream, hello: connected.hello, rest: connected.rest })
        })
    }

    fn cancel<'a>(
        &'a self,
        target: &'a str,
        protocol: &'a str,
        hello: TargetHello,
    ) -> Boxed<'a, Result<(), TargetError>> {
        Box::pin(async move {
            let place = self.place(target, protocol, None)?;
            self.direct.cancel(&place, &hello).await.map_err(failed)
        })
    }

    fn secret<'a>(
        &'a self,
        target: &'a str,
        protocol: &'a str,
        spoiled: bool,
    ) -> Boxed<'a, Result<Option<Arc<Secret>>, TargetError>> {
        Box::pin(async move {
            self.place(target, protocol, None)?;
            // Where the agent logs in by itself, or vouches, the secret goes nowhere.
            let given = match self.known.get(target).map(|known| &known.way) {
                Some(Way::Dialled) => true,
                Some(Way::Vouched(beside)) => beside.keeping() == Keeping::Given,
                Some(Way::LoggedIn) | None => false,
            };
            if !given {
                let target = target.escape_debug();
                return Err(TargetError::Unknown(format!("the secret of `{target}` stays here")));
            }
            if spoiled {
                self.hosted.spoiled(target);
            }
            self.hosted.secret(target).await.map_err(undialled)
        })
    }

    fn sign<'a>(
        &'a self,
        target: &'a str,
        protocol: &'a str,
        key: Vec<u8>,
        data: Vec<u8>,
    ) -> Boxed<'a, Result<Vec<u8>, TargetError>> {
        Box::pin(async move {
            self.place(target, protocol, None)?;
            let none = || TargetError::Unknown("no stream waits for a signature".into());
            let key = SealKey::try_from(key).map_err(|_| none())?;
            let found = {
                let mut seals = self.seals.0.lock();
                match seals.get(&key) {
                    Some((own, _)) if own == target => seals.remove(&key),
                    Some(_) | None => None,
                }
            };
            let seal = found.and_then(|(_, seal)| seal.upgrade()).ok_or_else(none)?;
            // Some dozens of microseconds of arithmetic.
            seal.sign(&data).map_err(TargetError::Login)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"
[agent]
name = "eu-1"
data = "data"
[gateways.main]
address = "gw:7443"
join_token_env = "JOIN"
[targets.orders]
protocol = "postgres"
target = { host = "127.0.0.1", port = 5432, tls = "off" }
login = { user = "u", password_file = "password" }
[targets.shop]
protocol = "http"
target = { host = "127.0.0.1", port = 80, tls = "off" }
login = { password_file = "password" }
"#;

    #[tokio::test]
    async fn only_what_an_api_needs_leaves_the_agent() {
        let dir = std::env::temp_dir().join(format!("bulla-agent-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("password"), "secret\n").unwrap();
        std::fs::write(dir.join("agent.toml"), CONFIG).unwrap();
        let environment = [("JOIN".to_owned(), "x".to_owned())];
        let known = registry::REACHED_BY_AGENTS;
        let config = AgentConfig::load(&dir.join("agent.toml"), &environment, known).unwrap();
        let wires = registry::wires(Default::default()).unwrap();
        let clock = Arc::new(bulla_engine::SystemClock::default());
        let beside = Beside::new(&config, &wires, clock).unwrap();
        let told = beside.secret("shop", "http", false).await.unwrap().unwrap();
        assert_eq!(told.reveal(), b"secret");
        for (target, protocol) in
            [("orders", "postgres"), ("orders", "http"), ("shop", "postgres"), ("other", "http")]
        {
            let told = beside.secret(target, protocol, false).await;
            assert!(matches!(told, Err(TargetError::Unknown(_))), "{target} {protocol}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
