//! `bulla.toml`: parsed strictly, overridable key by key from the environment, every mistake
//! reported at once.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use bulla_core::{Expiry, Mode, ResourceName};
use bulla_identity as identity;
use serde::Deserialize;

/// Variables that override keys: `BULLA_GATEWAY__NAME` is `[gateway] name`.
const PREFIX: &str = "BULLA_";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub gateway: Gateway,
    #[serde(default)]
    pub policy: Policy,
    #[serde(default)]
    pub issuers: BTreeMap<String, Issuer>,
    #[serde(default)]
    pub trust_domains: BTreeMap<String, TrustDomain>,
    #[serde(default)]
    pub resources: BTreeMap<String, Resource>,
    /// The folder that relative paths start from.
    #[serde(skip)]
    pub base: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// The log's origin ends in it.
    pub name: String,
    #[serde(default = "default_origin")]
    pub origin: String,
    pub data: PathBuf,
    pub tls: Tls,
    #[serde(default = "default_http")]
    pub http: SocketAddr,
    #[serde(default = "default_drain")]
    pub drain: String,
}

fn default_origin() -> String {
    "bulla.local".into()
}
fn default_http() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}
fn default_drain() -> String {
    "20s".into()
}
fn default_policies() -> PathBuf {
    "policies".into()
}
fn default_ttl() -> String {
    "1h".into()
}
fn default_subject() -> String {
    "{sub}".into()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    #[serde(default = "default_policies")]
    pub dir: PathBuf,
}

impl Default for Policy {
    fn default() -> Self {
        Self { dir: default_policies() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    pub issuer: String,
    pub audience: String,
    #[serde(default = "default_ttl")]
    pub max_ttl: String,
    #[serde(default = "default_subject")]
    pub subject: String,
    #[serde(default)]
    pub groups: Vec<String>,
    /// Accepted values of the header's `typ`; by default those of an access token.
    pub typ: Option<Vec<String>>,
    pub jwks_file: Option<PathBuf>,
    pub ca: Option<PathBuf>,
    #[serde(default)]
    pub allow_http: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustDomain {
    pub trust_domain: String,
    pub bundle: PathBuf,
    /// Patterns of SPIFFE paths, such as `/ns/{ns}/sa/{sa}`.
    #[serde(default)]
    pub paths: Vec<SpiffePath>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpiffePath {
    pub pattern: String,
    pub subject: String,
    #[serde(default)]
    pub groups: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    pub protocol: String,
    pub listen: SocketAddr,
    pub target: Target,
    pub login: Login,
    /// `strict` (the default) or `bounded`.
    pub durability: Option<String>,
    /// `rebind` (the default), `strict` or `login_only`.
    pub expiry: Option<String>,
    #[serde(default)]
    pub groups: Vec<String>,
    pub hold_in_transaction: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    pub host: String,
    pub port: u16,
    pub database: Option<String>,
    /// `verify-full` (the default), or `off`.
    pub tls: Option<String>,
    pub ca: Option<PathBuf>,
    #[serde(default)]
    pub other_databases: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    pub user: String,
    pub password_file: Option<PathBuf>,
    pub password_env: Option<String>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// `10s`, `15m`, `1h`, in milliseconds.
pub fn duration_ms(text: &str) -> Option<u64> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(at);
    let unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

impl Config {
    /// Reads, overrides, parses and checks. Every problem, in words with a place.
    pub fn load(path: &Path, environment: &[(String, String)]) -> Result<Self, Vec<String>> {
        let name = path.display();
        let text = std::fs::read_to_string(path).map_err(|e| vec![format!("read {name}: {e}")])?;
        let mut table: toml::Table =
            toml::from_str(&text).map_err(|e| vec![format!("{name}: {e}")])?;
        let mut problems = Vec::new();
        for (key, value) in environment {
            if let Some(key) = key.strip_prefix(PREFIX).filter(|key| key.contains("__")) {
                override_key(&mut table, key, value);
            }
        }
        // Without overrides the text itself is parsed, so that mistakes have a line.
        let untouched = toml::from_str::<toml::Table>(&text).is_ok_and(|same| same == table);
        let parsed = if untouched { toml::from_str(&text) } else { table.try_into() };
        let mut config: Self = parsed.map_err(|e| vec![format!("{name}: {e}")])?;
        config.base = path.parent().unwrap_or(Path::new(".")).to_path_buf();
        config.check(&mut problems);
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    pub fn path(&self, path: &Path) -> PathBuf {
        self.base.join(path)
    }

    fn check(&self, problems: &mut Vec<String>) {
        let mut need = |what: &str, path: &Path| {
            if let Err(error) = std::fs::File::open(self.path(path)) {
                problems.push(format!("{what}: open `{}`: {error}", path.display()));
            }
        };
        need("gateway.tls.cert", &self.gateway.tls.cert);
        need("gateway.tls.key", &self.gateway.tls.key);
        for (name, resource) in &self.resources {
            for (key, path) in [
                ("target.ca", &resource.target.ca),
                ("login.password_file", &resource.login.password_file),
                ("login.cert", &resource.login.cert),
                ("login.key", &resource.login.key),
            ] {
                if let Some(path) = path {
                    need(&format!("resources.{name}.{key}"), path);
                }
            }
        }
        if duration_ms(&self.gateway.drain).is_none() {
            problems.push("gateway.drain: use a number and s, m or h, such as `20s`".into());
        }
        if self.resources.is_empty() {
            problems.push("resources: there is none; add a [resources.NAME] table".into());
        }
        if self.issuers.is_empty() && self.trust_domains.is_empty() {
            problems.push("issuers: nobody could log in; add an [issuers.NAME] table".into());
        }
        for (name, resource) in &self.resources {
            let mut bad =
                |key: &str, why: &str| problems.push(format!("resources.{name}.{key}: {why}"));
            if let Err(error) = ResourceName::new(name) {
                bad("", &error.to_string());
            }
            if resource.mode().is_none() {
                bad("durability", "use `strict` or `bounded`");
            }
            if resource.expiry().is_none() {
                bad("expiry", "use `rebind`, `strict` or `login_only`");
            }
            if !matches!(resource.target.tls.as_deref(), None | Some("verify-full" | "off")) {
                bad("target.tls", "use `verify-full` or `off`");
            }
            if resource.hold_in_transaction.as_deref().is_some_and(|t| duration_ms(t).is_none()) {
                bad("hold_in_transaction", "use a number and s, m or h, such as `10s`");
            }
            if resource.login.cert.is_some() != resource.login.key.is_some() {
                bad("login", "`cert` and `key` go together");
            }
        }
        match self.identity() {
            Ok(config) => problems.extend(config.validate().iter().map(ToString::to_string)),
            Err(problem) => problems.push(problem),
        }
    }

    /// The identity part, as its crate wants it.
    pub fn identity(&self) -> Result<identity::Config, String> {
        let mut out = identity::Config::default();
        for (alias, issuer) in &self.issuers {
            let mut config = identity::IssuerConfig::new(alias, &issuer.issuer, &issuer.audience);
            let ttl = duration_ms(&issuer.max_ttl)
                .ok_or_else(|| format!("issuers.{alias}.max_ttl: use a number and s, m or h"))?;
            config.max_ttl_secs = ttl / 1000;
            config.subject = issuer.subject.clone();
            config.groups = issuer.groups.clone();
            config.typ = issuer.typ.clone();
            config.allow_http = issuer.allow_http;
            config.ca_file = issuer.ca.as_ref().map(|p| self.path(p));
            if let Some(file) = &issuer.jwks_file {
                config.keys = identity::KeySource::File { path: self.path(file) };
            }
            out.issuers.push(config);
        }
        for (alias, domain) in &self.trust_domains {
            let bundle = identity::Bundle::File(self.path(&domain.bundle));
            let mut config = identity::TrustDomainConfig::new(alias, &domain.trust_domain, bundle);
            for path in &domain.paths {
                config.paths.push(identity::PathConfig {
                    pattern: path.pattern.clone(),
                    subject: path.subject.clone(),
                    groups: path.groups.clone(),
                });
            }
            out.trust_domains.push(config);
        }
        Ok(out)
    }

    pub fn data(&self) -> PathBuf {
        self.path(&self.gateway.data)
    }
    pub fn socket(&self) -> PathBuf {
        self.data().join("admin.sock")
    }
}

impl Resource {
    pub fn mode(&self) -> Option<Mode> {
        match self.durability.as_deref() {
            None | Some("strict") => Some(Mode::Strict),
            Some("bounded") => Some(Mode::Bounded),
            Some(_) => None,
        }
    }
    pub fn expiry(&self) -> Option<Expiry> {
        match self.expiry.as_deref() {
            None | Some("rebind") => Some(Expiry::Rebind),
            Some("strict") => Some(Expiry::Strict),
            Some("login_only") => Some(Expiry::LoginOnly),
            Some(_) => None,
        }
    }
}

/// `GATEWAY__TLS__CERT` → `[gateway.tls] cert`. A value that is TOML is taken as such.
fn override_key(table: &mut toml::Table, key: &str, value: &str) {
    let parts: Vec<String> = key.split("__").map(str::to_ascii_lowercase).collect();
    let Some((last, path)) = parts.split_last() else { return };
    let mut at = table;
    for part in path {
        let next = at.entry(part.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        let Some(next) = next.as_table_mut() else { return };
        at = next;
    }
    let parsed = toml::from_str::<toml::Table>(&format!("v = {value}"));
    let parsed = parsed.ok().and_then(|mut t| t.remove("v"));
    at.insert(last.clone(), parsed.unwrap_or_else(|| toml::Value::String(value.into())));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let dir = std::env::temp_dir().join(format!("bulla-config-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let name = format!("{:x}.toml", text.len() * 31 + environment.len());
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        for file in ["gw.pem", "gw.key"] {
            std::fs::write(dir.join(file), "x").unwrap();
        }
        let pairs = environment.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        Config::load(&path, &pairs.collect::<Vec<_>>())
    }

    const GOOD: &str = r#"
[gateway]
name = "eu-1"
data = "data"
tls = { cert = "gw.pem", key = "gw.key" }
[issuers.k8s]
issuer = "https://issuer.example"
audience = "bulla"
[resources.orders]
protocol = "postgres"
listen = "127.0.0.1:6432"
target = { host = "localhost", port = 5432 }
login = { user = "u" }
"#;

    #[test]
    fn every_mistake_is_told_at_once() {
        let bad = GOOD.replace("gw.key", "absent.key").replace(
            "login = { user = \"u\" }",
            "login = { user = \"u\", cert = \"absent.pem\" }\ndurability = \"loose\"",
        );
        let problems = load(&bad, &[]).unwrap_err().join("\n");
        for part in ["gateway.tls.key", "login.cert", "durability", "go together"] {
            assert!(problems.contains(part), "{part} in {problems}");
        }
    }

    #[test]
    fn unknown_keys_have_a_line() {
        let problems = load(&GOOD.replace("data =", "dta ="), &[]).unwrap_err().join("\n");
        assert!(problems.contains("dta") && problems.contains("line 4"), "{problems}");
    }

    #[test]
    fn the_environment_overrides() {
        let config = load(
            GOOD,
            &[("BULLA_GATEWAY__NAME", "us-1"), ("BULLA_RESOURCES__ORDERS__TARGET__PORT", "1")],
        );
        let config = config.unwrap();
        assert_eq!(
            (config.gateway.name.as_str(), config.resources["orders"].target.port),
            ("us-1", 1)
        );
        assert!(load(GOOD, &[("BULLA_GATEWAY__NOPE", "x")]).is_err());
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration_ms("15m"), Some(900_000));
        for bad in ["", "15", "m", "1d", "-1s", "99999999999999999999h"] {
            assert_eq!(duration_ms(bad), None, "{bad}");
        }
    }
}
