//! The protocols that are built in: the only file of this crate that names one.

mod certify;
mod http;
mod ssh;

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, anyhow};
use bulla_core::{Descriptor, Identity};
use bulla_host::{Hosted, Transport};
use bulla_mask::Classes;
use bulla_wire::Protocol;

pub use certify::run as ssh;
pub use http::HttpSettings;
pub use ssh::{SshBeside, SshGateway, SshSettings};

use crate::config::{
    Config,
    agent::{AgentConfig, AgentTarget},
    file,
};

/// The protocols whose wire we read ourselves, by name.
pub type Wires = BTreeMap<&'static str, Arc<dyn Protocol>>;

/// Every protocol, by the word that `protocol = "…"` takes.
pub struct Protocols {
    /// Those whose wire we read ourselves.
    pub wires: Wires,
    /// Those whose wire a library owns.
    pub hosted: BTreeMap<&'static str, Arc<dyn Hosted>>,
    /// Verifies the certificates that the gateway mints itself.
    pub minted: Arc<dyn Identity>,
}

impl Protocols {
    pub fn descriptors(&self) -> Vec<&'static Descriptor> {
        let wires = self.wires.values().map(|protocol| protocol.descriptor());
        wires.chain(self.hosted.values().map(|protocol| protocol.descriptor())).collect()
    }
}

/// The words that `protocol = "…"` takes.
pub const KNOWN: &[&str] = &[
    bulla_postgres::DESCRIPTOR.protocol,
    bulla_http::DESCRIPTOR.protocol,
    bulla_ssh::DESCRIPTOR.protocol,
];

/// Those of them that an agent can reach.
pub const REACHED_BY_AGENTS: &[&str] = KNOWN;

/// The name of a protocol whose wire is a library's.
pub fn hosted_name(protocol: &str) -> Option<&'static str> {
    [bulla_http::DESCRIPTOR.protocol, bulla_ssh::DESCRIPTOR.protocol]
        .into_iter()
        .find(|known| *known == protocol)
}

/// Whether a protocol's wire is a library's.
pub fn is_hosted(protocol: &str) -> bool {
    protocol == bulla_http::DESCRIPTOR.protocol || is_bare(protocol)
}

/// Whether its connections may be served by threads beside each other: each command of HTTP takes
/// more of the gateway than of the target, so that one thread would be the limit.
pub fn takes_lanes(protocol: &str) -> bool {
    protocol == bulla_http::DESCRIPTOR.protocol
}

/// Whether a protocol protects itself, and needs no TLS on either side.
pub fn is_bare(protocol: &str) -> bool {
    protocol == bulla_ssh::DESCRIPTOR.protocol
}

/// Makes every protocol whose wire we read, with its threads. `classes`: of columns, by resource.
pub fn wires(classes: BTreeMap<String, Arc<Classes>>) -> Result<Wires> {
    let classes = classes.into_iter().map(|(name, classes)| (name.into(), classes)).collect();
    let postgres = bulla_postgres::Postgres::masking(Default::default(), classes);
    let postgres: Arc<dyn Protocol> = Arc::new(postgres.context("start the parser threads")?);
    Ok(BTreeMap::from([(postgres.descriptor().protocol, postgres)]))
}

/// Makes every protocol, with its threads. `classes`: of columns, by resource.
pub fn protocols(config: &Config, classes: BTreeMap<String, Arc<Classes>>) -> Result<Protocols> {
    let wires = wires(classes)?;
    let mut apis = Vec::new();
    for (name, resource) in of(config, bulla_http::DESCRIPTOR.protocol) {
        let api = http::api(config, name, resource).map_err(|mistakes| {
            let words = mistakes.into_iter().map(|(key, words)| format!("{key}: {words}"));
            anyhow!("resources.{name}: {}", words.collect::<Vec<_>>().join("; "))
        })?;
        apis.push(api);
    }
    let issuers = config.issuers.values().map(|issuer| issuer.issuer.clone()).collect();
    let http =
        bulla_http::Http::new(apis, issuers, Default::default()).map_err(|why| anyhow!(why))?;
    let http: Arc<dyn Hosted> = Arc::new(http);
    let keys = ssh::keys(config);
    let ssh = ssh::protocol(config, keys.clone()).map_err(|mistakes| {
        let words = mistakes.into_iter().flat_map(|(name, mistakes)| {
            mistakes.into_iter().map(move |(key, words)| format!("resources.{name}.{key}: {words}"))
        });
        anyhow!("{}", words.collect::<Vec<_>>().join("; "))
    })?;
    let ssh: Arc<dyn Hosted> = Arc::new(ssh);
    let hosted = [http, ssh].map(|protocol| (protocol.descriptor().protocol, protocol));
    Ok(Protocols { wires, hosted: BTreeMap::from(hosted), minted: keys })
}

fn of<'a>(
    config: &'a Config,
    protocol: &'static str,
) -> impl Iterator<Item = (&'a String, &'a file::Resource)> {
    config.resources.iter().filter(move |(_, resource)| resource.protocol == protocol)
}

/// Whether it is an API, which says itself what its classes of content are.
pub fn is_api(resource: &file::Resource) -> bool {
    resource.protocol == bulla_http::DESCRIPTOR.protocol
}

/// What does not hold of a resource's own settings: key and words.
pub fn mistakes(
    config: &Config,
    name: &str,
    resource: &file::Resource,
) -> Vec<(&'static str, String)> {
    let own = bulla_http::DESCRIPTOR.protocol;
    let classes = &resource.classes;
    // Classes that change nothing would mislead.
    if is_bare(&resource.protocol) && !classes.is_empty() {
        return vec![("classes", "are not for this protocol; see `ssh.masked`".to_owned())];
    }
    if resource.protocol == own && !classes.is_without_columns() {
        return vec![("classes", "an API has no columns: use `json` and `content`".to_owned())];
    }
    if resource.protocol != own && !classes.json.is_empty() {
        return vec![("classes", "`json` is for APIs only".to_owned())];
    }
    if is_bare(&resource.protocol) {
        let mut mistakes = ssh::host(config, name, resource).err().unwrap_or_default();
        if resource.http.is_some() {
            mistakes.push(("http", format!("is for `protocol = \"{own}\"` only")));
        }
        return mistakes;
    }
    if resource.ssh.is_some() {
        let protocol = bulla_ssh::DESCRIPTOR.protocol;
        return vec![("ssh", format!("is for `protocol = \"{protocol}\"` only"))];
    }
    match (resource.protocol == own, &resource.http) {
        (true, _) => http::api(config, name, resource).err().unwrap_or_default(),
        (false, Some(_)) => vec![("http", format!("is for `protocol = \"{own}\"` only"))],
        (false, None) if resource.login.as_ref().is_some_and(|login| login.user.is_empty()) => {
            vec![("login.user", "is missing: the account at the target".to_owned())]
        }
        (false, None) => Vec::new(),
    }
}

/// What an agent does beside a target; none where it hands over the stream, and the secret.
pub fn beside(
    config: &AgentConfig,
    name: &str,
    target: &AgentTarget,
) -> Result<Option<Arc<dyn bulla_host::Beside>>, String> {
    if !is_bare(&target.protocol) {
        return Ok(None);
    }
    let beside = ssh::beside(&config.data(), name, target)?;
    Ok(Some(Arc::new(beside)))
}

/// The line of the authority that an agent's target has to believe.
pub fn target_ca(config: &AgentConfig, name: &str, target: &AgentTarget) -> Result<String> {
    match is_bare(&target.protocol) {
        true => ssh::target_ca(&config.data(), name, target),
        false => anyhow::bail!("`{name}` believes no authority of ours"),
    }
}

/// What does not hold of an agent's target's own settings: key and words.
pub fn mistakes_beside(target: &AgentTarget) -> Vec<(&'static str, String)> {
    match (is_bare(&target.protocol), &target.ssh) {
        (true, _) => ssh::mistakes_beside(target),
        (false, Some(_)) => {
            let protocol = bulla_ssh::DESCRIPTOR.protocol;
            vec![("ssh", format!("is for `protocol = \"{protocol}\"` only"))]
        }
        (false, None) => Vec::new(),
    }
}

/// Two resources that clients could not tell apart.
pub fn clashes(config: &Config) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let all: Vec<_> = of(config, bulla_http::DESCRIPTOR.protocol).collect();
    for (at, (name, resource)) in all.iter().enumerate() {
        for (other, earlier) in all.iter().take(at) {
            if resource.listen != earlier.listen {
                continue;
            }
            let settings = |r: &file::Resource| r.http.clone().unwrap_or_default();
            let (one, two) = (settings(resource), settings(earlier));
            let hosts = one.hosts.is_empty() && two.hosts.is_empty()
                || one.hosts.iter().any(|host| two.hosts.contains(host));
            if hosts && one.path == two.path {
                let words = format!("`{other}` is reached by the same host and path");
                out.push(((*name).clone(), words));
            }
        }
    }
    out
}

/// The ALPN names that a listener of the protocol accepts.
pub fn alpn(protocols: &Protocols, protocol: &str) -> Vec<Vec<u8>> {
    if let Some(hosted) = protocols.hosted.get(protocol) {
        return match hosted.transport() {
            Transport::Tls { alpn } => alpn.iter().map(|name| name.as_bytes().to_vec()).collect(),
            Transport::Bare => Vec::new(),
        };
    }
    match protocol {
        "postgres" => vec![b"postgresql".to_vec()],
        _ => Vec::new(),
    }
}

/// A recorded command as it can be read again. `sent`: its bytes, where they are kept with it.
pub fn statement(protocol: &str, shown: Option<String>, sent: &[u8]) -> Option<String> {
    match (protocol, std::str::from_utf8(sent)) {
        // What is shown of a request leaves out the headers that say how its body is read.
        ("http", Ok(text)) if !text.is_empty() => Some(text.to_owned()),
        _ => shown,
    }
}

/// What a command that could not be read begins with, where that says something to a person.
pub fn heading(protocol: &str, sent: &[u8]) -> Option<String> {
    let line = sent.split(|byte| *byte == b'\r').next().filter(|line| !line.is_empty())?;
    let line = String::from_utf8_lossy(line);
    let line = line.strip_suffix(" HTTP/1.1").unwrap_or(&line);
    (protocol == bulla_http::DESCRIPTOR.protocol).then(|| format!("{line} (not read)"))
}

/// What went to a client, as a person reads it, line by line. Not escaped.
pub fn render(protocol: &str, action: &str, to_client: &[u8]) -> Vec<String> {
    match protocol {
        "postgres" => bulla_postgres::render(to_client),
        "http" => bulla_http::render(to_client),
        "ssh" => bulla_ssh::render(action, to_client),
        _ => vec![format!("{} bytes", to_client.len())],
    }
}

pub use bulla_http::Recorded;

/// Exchanges of a session as an archive that other tools read; none where the protocol has no such
/// form.
pub fn archive(protocol: &str, recorded: &[Recorded]) -> Option<serde_json::Value> {
    (protocol == bulla_http::DESCRIPTOR.protocol).then(|| bulla_http::har(recorded))
}

pub use bulla_ssh::Piece;

/// A terminal's record as a player of terminals takes it; none where the protocol has no terminals.
pub fn terminal(protocol: &str, title: &str, pieces: &[Piece]) -> Option<String> {
    (protocol == bulla_ssh::DESCRIPTOR.protocol).then(|| bulla_ssh::cast(title, pieces))
}

/// How much a command did, as its protocol counts.
pub fn amount(protocol: &str, rows: &str, tag: Option<&str>) -> String {
    match (protocol, tag) {
        ("ssh" | "http", Some(tag)) => format!("{tag}, "),
        ("ssh" | "http", None) => String::new(),
        _ => format!("{rows} rows, "),
    }
}

/// Lines that were typed in a shell, as far as they can be told from its input.
pub fn typed(protocol: &str, action: &str, input: &[u8]) -> Vec<String> {
    match (protocol, action) {
        ("ssh", "ssh:shell") => bulla_ssh::typed_lines(input),
        _ => Vec::new(),
    }
}
