//! `agent.toml`: an agent's own configuration. What it does not name, no gateway can reach.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use bulla_tunnel::Pin;
use schemars::JsonSchema;

use super::{file::*, value::Time, *};

/// The configuration of an agent. Relative paths start at the file's own folder.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentFile {
    pub agent: Agent,
    /// The gateways that may use it, by our short names for them. It is connected to all at once.
    pub gateways: BTreeMap<String, AgentGateway>,
    /// What it may reach, by the names of the gateways' resources.
    pub targets: BTreeMap<String, AgentTarget>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// The name that resources have in `agent`.
    pub name: String,
    /// Its keys and certificates; made private.
    pub data: PathBuf,
    /// Where /livez, /readyz and /metrics answer.
    #[serde(default = "http")]
    pub http: SocketAddr,
    /// How long sessions may go on after SIGTERM.
    #[serde(default = "drain")]
    pub drain: Time,
    /// A tunnel is asked this often whether it is alive, and has as long to say so.
    #[serde(default = "keepalive")]
    pub keepalive: Time,
    /// Tunnels to each gateway, 1 to 8: more spread what a lost packet holds up.
    #[serde(default = "one")]
    pub connections: usize,
    /// Time to reach a target and log in.
    #[serde(default = "keepalive")]
    pub connect_max: Time,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentGateway {
    /// `gw.example.com:7443`.
    pub address: String,
    /// An HTTP proxy that takes CONNECT: `proxy.internal:3128`.
    pub proxy: Option<String>,
    /// `user:password` for the proxy.
    pub proxy_credentials_file: Option<PathBuf>,
    /// A token of `bulla agent join-token`, needed until the agent is enrolled.
    pub join_token_file: Option<PathBuf>,
    /// The same in an environment variable.
    pub join_token_env: Option<String>,
    /// A JWT of the workload's own, instead of a join token.
    pub identity_token_file: Option<PathBuf>,
    /// An X.509-SVID, instead of a join token.
    pub svid: Option<Tls>,
    /// The gateway's `sha256:…` (`bulla agents pin`); a join token brings it.
    pub pin: Option<String>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentTarget {
    /// The wire that it speaks.
    pub protocol: String,
    pub target: Target,
    /// An API may have none.
    #[serde(default)]
    pub login: Login,
    /// What only a host has.
    pub ssh: Option<crate::registry::SshBeside>,
}

fn http() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8081))
}
fn drain() -> Time {
    Time::secs(20)
}
fn keepalive() -> Time {
    Time::secs(10)
}
fn one() -> usize {
    1
}

/// The JSON Schema of the file.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(AgentFile).to_value();
    schema["title"] = "agent.toml".into();
    schema
}

/// An agent's configuration that holds.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    pub file: AgentFile,
    pub base: PathBuf,
}

impl std::ops::Deref for AgentConfig {
    type Target = AgentFile;
    fn deref(&self) -> &AgentFile {
        &self.file
    }
}

impl AgentConfig {
    /// Where keys and certificates are.
    pub fn data(&self) -> PathBuf {
        self.base.join(&self.agent.data)
    }

    /// As [`Config::load`].
    pub fn load(
        path: &Path,
        environment: &[(String, String)],
        known: &[&str],
    ) -> Result<Self, Vec<Problem>> {
        let name = path.display().to_string();
        let text = read(path, "name the agent's configuration with `-c FILE`")?;
        let base = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let mut parse = Parse::new(&name, &text, environment);
        if let Some(file) = agent_file(&mut parse) {
            let config = Self { file, base };
            let found = config.problems(known);
            for (key, (message, help)) in found {
                let at = parse.find(&key).unwrap_or(0);
                parse.keep(at, &key, &message, Some(help).filter(|help| !help.is_empty()));
            }
            if parse.problems.is_empty() {
                return Ok(config);
            }
        }
        let mut problems = parse.problems;
        problems.sort_by(|a, b| (a.line == 0, a.line, a).cmp(&(b.line == 0, b.line, b)));
        problems.dedup();
        Err(problems)
    }

    fn problems(&self, known: &[&str]) -> Vec<(String, Words)> {
        let mut out = Vec::new();
        let mut keep = |key: String, message: String, help: &str| {
            out.push((key, (message, help.to_owned())));
        };
        if let Err(error) = ResourceName::new(&self.agent.name) {
            keep("agent.name".into(), error.to_string(), "");
        }
        if !(1..=8).contains(&self.agent.connections) {
            keep("agent.connections".into(), "must be from 1 to 8".into(), "use 1");
        }
        if !(100..=300_000).contains(&self.agent.keepalive.ms) {
            keep("agent.keepalive".into(), "must be from `100ms` to `5m`".into(), "use `10s`");
        }
        if self.gateways.is_empty() {
            keep("gateways".into(), "there is none".into(), "add a [gateways.NAME] table");
        }
        if self.targets.is_empty() {
            keep("targets".into(), "there is none".into(), "add a [targets.NAME] table");
        }
        for (alias, gateway) in &self.gateways {
            let key = format!("gateways.{alias}");
            if let Err(error) = ResourceName::new(alias) {
                keep(key.clone(), error.to_string(), "rename the table");
            }
            if !is_address(&gateway.address) {
                keep(format!("{key}.address"), "is no `host:port`".into(), "add the port: 7443");
            }
            if gateway.proxy.as_deref().is_some_and(|proxy| !is_address(proxy)) {
                keep(
                    format!("{key}.proxy"),
                    "is no `host:port`".into(),
                    "write it without http://",
                );
            }
            let ways = [
                gateway.join_token_file.is_some(),
                gateway.join_token_env.is_some(),
                gateway.identity_token_file.is_some(),
                gateway.svid.is_some(),
            ];
            if ways.into_iter().filter(|set| *set).count() != 1 {
                let message = "there must be one way to enrol";
                let help =
                    "set `join_token_file`, `join_token_env`, `identity_token_file` or `svid`";
                keep(key.clone(), message.into(), help);
            }
            let own = gateway.identity_token_file.is_some() || gateway.svid.is_some();
            match &gateway.pin {
                None if own => {
                    let help = "`bulla agents pin` on the gateway prints it";
                    keep(format!("{key}.pin"), "is missing".into(), help);
                }
                Some(pin) if Pin::parse(pin).is_none() => {
                    let help = "write `sha256:` and 64 hexadecimal digits";
                    keep(format!("{key}.pin"), "is no pin".into(), help);
                }
                Some(_) | None => {}
            }
        }
        for (name, target) in &self.targets {
            let key = format!("targets.{name}");
            if let Err(error) = ResourceName::new(name) {
                keep(key.clone(), error.to_string(), "rename the table");
            }
            for (part, message) in crate::registry::mistakes_beside(target) {
                keep(format!("{key}.{part}"), message, "");
            }
            if !known.contains(&target.protocol.as_str()) {
                let message = format!("unknown protocol `{}`", target.protocol.escape_debug());
                keep(format!("{key}.protocol"), message, &format!("use {}", known.join(" or ")));
            }
            if target.target.host.is_none() || target.target.port.is_none() {
                let help = "write target = { host = \"…\", port = … }";
                keep(format!("{key}.target"), "`host` and `port` are missing".into(), help);
            }
            if target.login.user.is_empty() && !crate::registry::is_hosted(&target.protocol) {
                keep(format!("{key}.login.user"), "is missing".into(), "name the account");
            }
            for (part, (message, help)) in login(&self.base, &target.target, &target.login) {
                keep(format!("{key}.{part}"), message, &help);
            }
        }
        out
    }
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '/' || c == '@';
    !host.is_empty() && !host.contains(bad) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn agent_file(parse: &mut Parse<'_>) -> Option<AgentFile> {
    if !parse.problems.is_empty() {
        return None;
    }
    let (mut agent, mut gateways, mut targets) = (None, BTreeMap::new(), BTreeMap::new());
    let before = parse.problems.len();
    for (name, node) in parse.root.clone() {
        match name.get_ref().as_ref() {
            "agent" => agent = parse.table("agent", node),
            "gateways" => gateways = parse.tables("gateways", node),
            "targets" => targets = parse.tables("targets", node),
            other => {
                let help = "the tables are agent, gateways, targets";
                let message = format!("unknown table `{}`", other.escape_debug());
                parse.keep(name.span().start, "", &message, Some(help.into()));
            }
        }
    }
    if agent.is_none() && parse.problems.len() == before {
        let help = "add it with `name` and `data`";
        parse.keep(0, "agent", "this table is missing", Some(help.into()));
    }
    Some(AgentFile { agent: agent?, gateways, targets })
}

/// What is wrong, and what to do.
type Words = (String, String);

/// What does not hold about a target and the login to it, by the key below theirs.
pub fn login(base: &Path, target: &Target, login: &Login) -> Vec<(&'static str, Words)> {
    let mut out = Vec::new();
    let mut keep = |key, message: String, help: &str| out.push((key, (message, help.to_owned())));
    let vault = login.vault.as_ref();
    for (key, path, what) in [
        ("target.ca", target.ca.as_ref(), "the target's authority, in PEM"),
        ("login.password_file", login.password_file.as_ref(), "the password and nothing else"),
        ("login.cert", login.cert.as_ref(), "a client certificate, in PEM"),
        ("login.key", login.key.as_ref(), "its key, in PEM"),
        ("login.vault.token_file", vault.map(|v| &v.token_file), "a token of the vault"),
        (
            "login.oauth.ca",
            login.oauth.as_ref().and_then(|o| o.ca.as_ref()),
            "its authority, in PEM",
        ),
        ("login.vault.ca", vault.and_then(|v| v.ca.as_ref()), "the vault's authority, in PEM"),
    ] {
        if let Some(message) = path.and_then(|path| unreadable(&base.join(path))) {
            keep(key, message, &format!("it must hold {what}"));
        }
    }
    if login.cert.is_some() != login.key.is_some() {
        keep("login", "`cert` and `key` go together".into(), "set both");
    }
    let ways = [
        ("password_file", login.password_file.is_some()),
        ("password_env", login.password_env.is_some()),
        ("password_command", login.password_command.is_some()),
        ("vault", vault.is_some()),
    ];
    let set: Vec<_> = ways.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    if let [one, two, ..] = set[..] {
        keep("login", format!("`{one}` and `{two}` are both set"), "keep one");
    }
    if let Some(variable) = &login.password_env
        && std::env::var_os(variable).is_none()
    {
        let message = format!("the environment variable `{variable}` is not set");
        keep("login.password_env", message, "set it for this process");
    }
    if login.password_command.as_ref().is_some_and(Vec::is_empty) {
        keep(
            "login.password_command",
            "names no program".into(),
            "write [\"program\", \"argument\"]",
        );
    }
    if let Some(vault) = vault
        && let Err(error) = crate::secrets::address(&vault.address)
    {
        keep("login.vault.address", error, "write https://host:port");
    }
    if let Some(oauth) = &login.oauth {
        if let Err(error) = crate::secrets::oauth_address(&oauth.token_url) {
            keep("login.oauth.token_url", error, "write https://issuer.example.com/token");
        }
        if login.user.is_empty() || !login.has_secret() {
            let message = "`oauth` needs a client: `user` is its id, the password its secret";
            keep("login", message.into(), "set both");
        }
    }
    if login.cert.is_some() && target.tls == TargetTls::Off {
        let message = "a client certificate needs TLS, which is off";
        keep("target.tls", message.into(), "use `verify-full`");
    }
    let files = [&target.ca, &login.cert, &login.key];
    let all_there = files.into_iter().flatten().all(|path| base.join(path).is_file());
    if all_there
        && login.cert.is_some() == login.key.is_some()
        && let Err(error) = crate::tls::target(base, target, login)
    {
        keep("target", format!("{error:#}"), "");
    }
    out
}

/// Why a file that is needed cannot be used.
fn unreadable(path: &Path) -> Option<String> {
    match std::fs::File::open(path).and_then(|file| file.metadata()) {
        Ok(found) if found.is_file() => None,
        Ok(_) => Some(format!("`{}` is no file", path.display())),
        Err(error) => Some(format!("open `{}`: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[agent]
name = "eu-1"
data = "data"
[gateways.main]
address = "gw.example:7443"
join_token_env = "JOIN"
[targets.orders]
protocol = "postgres"
target = { host = "localhost", port = 5432, tls = "off" }
login = { user = "u" }
"#;

    /// The mistakes of a configuration, as one text.
    fn check(text: &str) -> String {
        let dir = std::env::temp_dir().join(format!("bulla-agent-toml-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(format!("{:?}.toml", std::thread::current().id()));
        std::fs::write(&path, text).unwrap();
        let loaded = AgentConfig::load(&path, &[], &["postgres", "ssh"]);
        std::fs::remove_file(&path).unwrap();
        let problems = loaded.err().unwrap_or_default();
        problems.iter().map(|p| format!("{}:{}: {}\n", p.line, p.key, p.message)).collect()
    }

    #[test]
    fn every_mistake_is_named() {
        assert_eq!(check(GOOD), "");
        for (old, new, expected) in [
            ("[agent]", "[agnt]", "unknown table `agnt`"),
            ("name = \"eu-1\"", "name = \"a b\"", "3:agent.name: "),
            ("gw.example:7443", "gw.example", "6:gateways.main.address: is no `host:port`"),
            ("gw.example:7443", "https://gw:1", "6:gateways.main.address: is no `host:port`"),
            ("join_token_env = \"JOIN\"\n", "", "gateways.main: there must be one way to enrol"),
            ("_env = \"JOIN\"", "_env = \"J\"\nsvid = { cert = \"c\", key = \"k\" }", "one way"),
            ("join_token_env = \"JOIN\"", "identity_token_file = \"x\"", "main.pin: is missing"),
            ("_env = \"JOIN\"", "_env = \"J\"\npin = \"sha256:1\"", "8:gateways.main.pin: is no"),
            ("\"postgres\"", "\"x\"", "9:targets.orders.protocol: unknown protocol `x`"),
            ("port = 5432, ", "", "targets.orders.target: `host` and `port` are missing"),
            ("user = \"u\"", "user = \"u\", password_file = \"x\"", "login.password_file: open"),
            ("user = \"u\"", "user = \"u\", password_command = []", "names no program"),
            ("user = \"u\"", "", "targets.orders.login.user: is missing"),
            ("tls = \"off\"", "tls = \"off\", prt = 1", "unknown field `prt`"),
        ] {
            let found = check(&GOOD.replace(old, new));
            assert!(found.contains(expected), "{expected} in {found}");
        }
    }

    #[test]
    fn every_mistake_about_a_host_is_named() {
        let key =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
        let host = format!("[targets.orders.ssh]\nhost_keys = [{key:?}]\n");
        let good = GOOD.replace("\"postgres\"", "\"ssh\"") + &host;
        assert_eq!(check(&good), "");
        for (old, new, expected) in [
            (host.as_str(), "", "targets.orders.ssh.host_keys: is missing: who the host is must"),
            (key, "ssh-ed25519 AAAA", "ssh.host_keys: `ssh-ed25519 AAAA` is no public key"),
            ("host_keys", "login = \"key\"\nhost_keys", "ssh.login: needs a secret in `login`"),
            ("host_keys", "accounts = [\"-x\"]\nhost_keys", "accounts: `-x` is no name of an acc"),
            ("user = \"u\"", "", "targets.orders.login.user: is missing"),
            ("user = \"u\"", "user = \"u\", cert = \"c\", key = \"k\"", "TLS does not come into"),
            ("\"ssh\"", "\"postgres\"", "targets.orders.ssh: is for `protocol = \"ssh\"` only"),
            ("[targets.orders]", "[targets.\"../x\"]", "targets.../x: "),
        ] {
            let found = check(&good.replace(old, new));
            assert!(found.contains(expected), "{expected} in {found}");
        }
    }

    #[test]
    fn the_documented_file_holds() {
        let docs = include_str!("../../../../docs/agent.md");
        let (_, example) = docs.split_once("```toml\n# agent.toml").unwrap();
        let (_, example) = example.split_once('\n').unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let mut parse = Parse::new("agent.toml", example, &[]);
        let file = agent_file(&mut parse);
        assert_eq!(parse.problems, []);
        assert!(file.is_some());
        let schema = schema();
        let tables = schema["$defs"].as_object().unwrap().values();
        let keys = tables.filter_map(|table| table.get("properties")?.as_object());
        for key in keys.flat_map(|table| table.keys()) {
            assert!(docs.contains(key), "`{key}` is not documented");
        }
    }

    #[test]
    fn the_published_schema_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/agent.schema.json");
        let made = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        let words = "run: cargo run -p bulla -- agent schema > docs/agent.schema.json";
        assert!(std::fs::read_to_string(path).unwrap() == made, "out of date; {words}");
    }
}
