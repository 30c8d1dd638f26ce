//! The way to every target: dialled from here, or through an agent. No protocol knows which.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use bulla_core::Secret;
use bulla_core::{Boxed, Resource};
use bulla_engine::{
    ConnectError, Connected, Connector, DirectConnector, DirectDialer, HostedTarget, Target,
    TargetTls,
};
use bulla_host::{DialError, Dialled, Vouched};
use bulla_tunnel::{Fleet, OpenError, Wanted};
use bulla_wire::{Place, Protocol, TargetHello};
use bytes::BytesMut;

use crate::{
    config::{Config, file},
    registry::{self, Protocols},
    secrets, tls,
};

/// A target as a configuration writes it. Relative paths start at `base`.
pub fn target(
    base: &Path,
    protocol: Arc<dyn Protocol>,
    target: &file::Target,
    login: &file::Login,
) -> Result<Target> {
    Ok(Target {
        protocol,
        host: target.host.clone().context("`target.host` is missing")?,
        port: target.port.context("`target.port` is missing")?,
        part: target.database.clone(),
        other_parts: target.other_databases,
        tls: tls::target(base, target, login)?,
        user: login.user.clone(),
        secret: secrets::source(base, login)?,
    })
}

/// The way to every target of a hosted protocol. Without `fleet` those through agents lead nowhere.
pub fn hosted_roads(config: &Config, fleet: Option<Arc<Fleet>>) -> Result<HostedRoads> {
    let mut through = HashMap::new();
    for (name, resource) in &config.resources {
        if registry::is_hosted(&resource.protocol) && !resource.agent.is_empty() {
            let agents = resource.agent.iter().map(|name| name.as_str().into()).collect();
            let protocol = resource.protocol.as_str().into();
            through.insert(name.clone(), Beyond { agents, protocol, spoiled: false.into() });
        }
    }
    let timeout = Duration::from_millis(config.limits.connect_max.ms);
    Ok(HostedRoads { direct: dialer(config)?, through, fleet, timeout })
}

fn dialer(config: &Config) -> Result<DirectDialer> {
    let mut targets = Vec::new();
    for (name, resource) in &config.resources {
        if registry::is_hosted(&resource.protocol) && resource.agent.is_empty() {
            let login = resource.login.clone().unwrap_or_default();
            let bare = registry::is_bare(&resource.protocol);
            let target = hosted_target(config.base(), &resource.target, &login, bare);
            targets.push((name.clone(), target.with_context(|| format!("resources.{name}"))?));
        }
    }
    Ok(DirectDialer::new(targets, Duration::from_millis(config.limits.connect_max.ms)))
}

/// A target of a hosted protocol as a configuration writes it. Relative paths start at `base`.
/// `bare`: the protocol protects itself.
pub fn hosted_target(
    base: &Path,
    target: &file::Target,
    login: &file::Login,
    bare: bool,
) -> Result<HostedTarget> {
    Ok(HostedTarget {
        host: target.host.clone().context("`target.host` is missing")?,
        port: target.port.context("`target.port` is missing")?,
        tls: if bare { TargetTls::Off } else { tls::target(base, target, login)? },
        secret: secrets::source(base, login)?,
    })
}

/// A resource of a hosted protocol that agents reach.
struct Beyond {
    agents: Vec<Arc<str>>,
    protocol: Arc<str>,
    /// The target did not take the secret that was asked for last.
    spoiled: AtomicBool,
}

/// Both kinds of way, for every protocol whose wire a library owns.
pub struct HostedRoads {
    direct: DirectDialer,
    through: HashMap<String, Beyond>,
    fleet: Option<Arc<Fleet>>,
    timeout: Duration,
}

fn undialled(error: &OpenError) -> DialError {
    DialError::Agent { detail: error.to_string(), public: error.public() }
}

/// The setting and the parameters of a stream that is not logged in.
pub const ALPN: &str = "alpn";
pub const TLS: &str = "tls";

impl HostedRoads {
    fn wanted<'a>(&self, resource: &'a str, beyond: &'a Beyond) -> Wanted<'a> {
        Wanted {
            agents: &beyond.agents,
            resource,
            protocol: &beyond.protocol,
            part: resource,
            settings: Vec::new(),
            timeout: self.timeout,
        }
    }
    fn beyond(&self, resource: &str) -> Result<&Beyond, DialError> {
        self.through.get(resource).ok_or_else(|| DialError::NoTarget(resource.to_owned()))
    }
    fn fleet(&self) -> Result<&Arc<Fleet>, DialError> {
        let detail = "no gateway runs".to_owned();
        self.fleet.as_ref().ok_or(DialError::Agent { detail, public: None })
    }
}

impl bulla_host::Connector for HostedRoads {
    fn dial<'a>(
        &'a self,
        resource: &'a str,
        alpn: &'a [&'static str],
    ) -> Boxed<'a, Result<Dialled, DialError>> {
        let Some(beyond) = self.through.get(resource) else {
            return self.direct.dial(resource, alpn);
        };
        Box::pin(async move {
            let mut wanted = self.wanted(resource, beyond);
            wanted.settings = vec![(ALPN.to_owned(), alpn.join(","))];
            let joined = self.fleet()?.open(wanted).await;
            let joined = joined.map_err(|error| undialled(&error))?;
            let said = |name: &str| {
                let found = joined.hello.parameters.iter().find(|(own, _)| own == name);
                found.map(|(_, value)| value.as_str())
            };
            let alpn = said(ALPN).map(Into::into);
            let tls = said(TLS) == Some("true");
            Ok(Dialled { alpn, tls, stream: Box::new(joined.stream) })
        })
    }

    fn spoiled(&self, resource: &str) {
        match self.through.get(resource) {
            Some(beyond) => beyond.spoiled.store(true, Ordering::Relaxed),
            None => self.direct.spoiled(resource),
        }
    }

    fn secret<'a>(
        &'a self,
        resource: &'a str,
    ) -> Boxed<'a, Result<Option<Arc<Secret>>, DialError>> {
        let Some(beyond) = self.through.get(resource) else {
            return self.direct.secret(resource);
        };
        Box::pin(async move {
            let wanted = self.wanted(resource, beyond);
            let spoiled = beyond.spoiled.swap(false, Ordering::Relaxed);
            let secret = self.fleet()?.secret(&wanted, spoiled).await;
            let secret = secret.map_err(|error| undialled(&error))?;
            Ok(secret.map(Arc::new))
        })
    }

    fn vouched<'a>(
        &'a self,
        resource: &'a str,
        wishes: Vec<(String, String)>,
    ) -> Boxed<'a, Result<Vouched, DialError>> {
        Box::pin(async move {
            let beyond = self.beyond(resource)?;
            let wanted = Wanted { settings: wishes, ..self.wanted(resource, beyond) };
            let joined = self.fleet()?.open(wanted).await.map_err(|error| undialled(&error))?;
            let TargetHello { parameters: told, cancel_key: handle, .. } = joined.hello;
            Ok(Vouched { stream: Box::new(joined.stream), told, handle })
        })
    }

    fn sign<'a>(
        &'a self,
        resource: &'a str,
        handle: &'a [u8],
        data: &'a [u8],
    ) -> Boxed<'a, Result<Vec<u8>, DialError>> {
        Box::pin(async move {
            let protocol = &self.beyond(resource)?.protocol;
            let signed = self.fleet()?.sign(resource, protocol, handle, data, self.timeout).await;
            signed.map_err(|error| undialled(&error))
        })
    }
}

/// A resource that agents reach.
struct Through {
    agents: Vec<Arc<str>>,
    protocol: Arc<dyn Protocol>,
    part: String,
    other_parts: bool,
}

/// Both kinds of way, for every protocol whose wire we read.
pub struct Roads {
    direct: DirectConnector,
    through: HashMap<String, Through>,
    /// None where no gateway runs, and so no agent is connected.
    fleet: Option<Arc<Fleet>>,
    timeout: Duration,
}

impl Roads {
    /// The ways of a configuration. Without `fleet` those through agents lead nowhere.
    pub fn new(config: &Config, protocols: &Protocols, fleet: Option<Arc<Fleet>>) -> Result<Self> {
        let (mut targets, mut through) = (Vec::new(), HashMap::new());
        for (name, resource) in &config.resources {
            if registry::is_hosted(&resource.protocol) {
                continue;
            }
            let protocol = protocols.wires.get(resource.protocol.as_str());
            let protocol =
                protocol.with_context(|| format!("unknown protocol of `{name}`"))?.clone();
            if resource.agent.is_empty() {
                let login = resource.login.as_ref();
                let login = login.with_context(|| format!("resources.{name}.login is missing"))?;
                let target = target(config.base(), protocol, &resource.target, login);
                targets.push((name.clone(), target.with_context(|| format!("resources.{name}"))?));
                continue;
            }
            let agents = resource.agent.iter().map(|name| name.as_str().into()).collect();
            let part = resource.target.database.clone().unwrap_or_else(|| name.clone());
            let other_parts = resource.target.other_databases;
            through.insert(name.clone(), Through { agents, protocol, part, other_parts });
        }
        let timeout = Duration::from_millis(config.limits.connect_max.ms);
        Ok(Self { direct: DirectConnector::new(targets, timeout), through, fleet, timeout })
    }
}

fn failed(error: &OpenError) -> ConnectError {
    ConnectError::Agent { detail: error.to_string(), public: error.public() }
}

impl Connector for Roads {
    fn place(&self, resource: &Resource, part: Option<&str>) -> Option<Place> {
        let Some(through) = self.through.get(resource.name.as_str()) else {
            return self.direct.place(resource, part);
        };
        let wanted = part.unwrap_or(&through.part);
        let default_part = wanted == through.part;
        if !default_part && !through.other_parts {
            return None;
        }
        Some(Place { resource: resource.name.as_str().into(), part: wanted.into(), default_part })
    }

    fn protocol(&self, resource: &str) -> Option<Arc<dyn Protocol>> {
        let through = self.through.get(resource).map(|through| through.protocol.clone());
        through.or_else(|| self.direct.protocol(resource))
    }

    fn connect<'a>(
        &'a self,
        place: &'a Place,
        wishes: Vec<(String, String)>,
    ) -> Boxed<'a, Result<Connected, ConnectError>> {
        let Some(through) = self.through.get(&*place.resource) else {
            return self.direct.connect(place, wishes);
        };
        Box::pin(async move {
            let Some(fleet) = &self.fleet else {
                let detail = "it is reached through an agent, by a running gateway only".into();
                return Err(ConnectError::Agent { detail, public: None });
            };
            let wanted = Wanted {
                agents: &through.agents,
                resource: &place.resource,
                protocol: through.protocol.descriptor().protocol,
                part: &place.part,
                settings: wishes,
                timeout: self.timeout,
            };
            let joined = fleet.open(wanted).await.map_err(|error| failed(&error))?;
            let rest = BytesMut::new();
            Ok(Connected { stream: Box::new(joined.stream), hello: joined.hello, rest })
        })
    }

    fn cancel<'a>(
        &'a self,
        place: &'a Place,
        target: &'a TargetHello,
    ) -> Boxed<'a, Result<(), ConnectError>> {
        let Some(through) = self.through.get(&*place.resource) else {
            return self.direct.cancel(place, target);
        };
        Box::pin(async move {
            let Some(fleet) = &self.fleet else { return Ok(()) };
            let protocol = through.protocol.descriptor().protocol;
            let cancelled = fleet.cancel(&place.resource, protocol, target, self.timeout).await;
            cancelled.map_err(|error| failed(&error))
        })
    }
}
