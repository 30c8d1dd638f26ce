//! `bulla.toml`: parsed strictly, overridable key by key from the environment, every mistake
//! reported at once with its place and what to do about it.
//!
//! Each table is parsed on its own, and a key that does not hold is taken out and the rest parsed
//! again, so that one mistake does not hide the next.

pub mod agent;
mod check;
mod classes;
pub mod file;
pub mod value;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
};

use bulla_core::{Expiry, Mode, ResourceName};
use bulla_identity as identity;
use serde::{Deserialize, Serialize};
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use check::Check;
use file::File;

/// Variables that override keys: `BULLA_GATEWAY__NAME` is `[gateway] name`.
const PREFIX: &str = "BULLA_";
/// Longest configuration.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Most mistakes that one table reports.
const PROBLEMS_MAX: usize = 100;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The file; the environment variable, where that set the key.
    pub file: String,
    /// Counted from 1; 0 when there is no place to point at.
    pub line: usize,
    /// `resources.orders.target.port`.
    pub key: String,
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        self.help.iter().try_for_each(|help| write!(f, "; {help}"))
    }
}

/// A configuration that holds.
#[derive(Debug, Clone)]
pub struct Config {
    pub file: File,
    /// The folder that relative paths start from.
    base: PathBuf,
}

impl std::ops::Deref for Config {
    type Target = File;
    fn deref(&self) -> &File {
        &self.file
    }
}

/// The JSON Schema of the file.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(File).to_value();
    schema["title"] = "bulla.toml".into();
    schema
}

impl Config {
    /// Reads, overrides, parses and checks. `known`: the protocols that are built in.
    pub fn load(
        path: &Path,
        environment: &[(String, String)],
        known: &[&str],
    ) -> Result<Self, Vec<Problem>> {
        let name = path.display().to_string();
        let text = read(path, "name the configuration with `-c FILE`")?;
        // Empty for a bare name, so that paths in messages are as they were written.
        let base = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let mut parse = Parse::new(&name, &text, environment);
        let file = parse.file();
        let mut problems = std::mem::take(&mut parse.problems);
        if let Some(file) = file {
            let config = Self { file, base };
            let mut check = Check { config: &config, parse: &parse, problems };
            check.all(known);
            problems = check.problems;
            if problems.is_empty() {
                return Ok(config);
            }
        }
        problems.sort_by(|a, b| (a.line == 0, a.line, a).cmp(&(b.line == 0, b.line, b)));
        problems.dedup();
        Err(problems)
    }

    /// A path of the file, from its folder.
    pub fn path(&self, path: &Path) -> PathBuf {
        self.base.join(path)
    }
    /// The folder that relative paths start from.
    pub fn base(&self) -> &Path {
        &self.base
    }
    /// Where the agents' authority and roster are.
    pub fn agents_dir(&self) -> PathBuf {
        self.data().join("agents")
    }
    pub fn data(&self) -> PathBuf {
        self.path(&self.gateway.data)
    }
    pub fn socket(&self) -> PathBuf {
        match &self.gateway.admin {
            Some(path) => self.path(path),
            None => self.data().join("admin.sock"),
        }
    }
    pub fn policy_dir(&self) -> PathBuf {
        self.path(&self.policy.dir)
    }
    pub fn origin(&self) -> String {
        format!("{}/{}", self.gateway.origin, self.gateway.name)
    }

    /// The identity part, as its crate wants it.
    pub fn identity(&self) -> identity::Config {
        let mut out = identity::Config::default();
        for (alias, issuer) in &self.issuers {
            out.issuers.push(self.issuer(alias, issuer));
        }
        for (alias, domain) in &self.trust_domains {
            let bundle = identity::Bundle::File(self.path(&domain.bundle));
            let mut config = identity::TrustDomainConfig::new(alias, &domain.trust_domain, bundle);
            config.kind = domain.kind.into();
            config.max_ttl_secs = domain.max_ttl.ms / 1_000;
            for path in &domain.paths {
                config.paths.push(identity::PathConfig {
                    pattern: path.pattern.clone(),
                    subject: path.subject.clone(),
                    groups: path.groups.clone(),
                });
            }
            out.trust_domains.push(config);
        }
        out
    }

    fn issuer(&self, alias: &str, issuer: &file::Issuer) -> identity::IssuerConfig {
        let mut config = identity::IssuerConfig::new(alias, &issuer.issuer, &issuer.audience);
        config.max_ttl_secs = issuer.max_ttl.ms / 1_000;
        config.leeway_secs = issuer.leeway.ms / 1_000;
        config.subject = issuer.subject.clone();
        config.groups = issuer.groups.clone();
        config.kind = issuer.kind.into();
        config.typ = issuer.typ.clone();
        config.allow_http = issuer.allow_http;
        config.ca_file = issuer.ca.as_ref().map(|path| self.path(path));
        config.profile = issuer.profile.map(|profile| match profile {
            file::Profile::AccessToken => identity::Profile::AccessToken,
            file::Profile::Kubernetes => identity::Profile::Kubernetes,
            file::Profile::Plain => identity::Profile::Plain,
        });
        let algorithms = issuer.algorithms.iter();
        config.algorithms = algorithms.filter_map(|a| identity::Algorithm::parse(a)).collect();
        config.keys = match (&issuer.jwks_file, &issuer.jwks_url) {
            (Some(file), _) => identity::KeySource::File { path: self.path(file) },
            (None, Some(url)) => identity::KeySource::Jwks { url: url.clone() },
            (None, None) => identity::KeySource::Discovery { url: issuer.discovery_url.clone() },
        };
        for (name, attribute) in &issuer.attributes {
            config.attributes.push(identity::AttributeConfig {
                name: name.clone(),
                claim: attribute.claim.clone(),
                kind: match attribute.kind {
                    file::AttributeKind::Text => identity::AttributeKind::Text,
                    file::AttributeKind::Flag => identity::AttributeKind::Flag,
                    file::AttributeKind::Number => identity::AttributeKind::Number,
                    file::AttributeKind::Set => identity::AttributeKind::Set,
                },
            });
        }
        for (claim, values) in &issuer.required {
            let (claim, values) = (claim.clone(), values.clone());
            config.required.push(identity::RequiredClaim { claim, values });
        }
        config
    }

    pub fn mode(&self, resource: &file::Resource) -> Mode {
        match resource.durability.unwrap_or(self.ledger.durability) {
            file::Durability::Strict => Mode::Strict,
            file::Durability::Bounded => Mode::Bounded,
        }
    }
}

impl From<file::PrincipalKind> for bulla_core::PrincipalKind {
    fn from(kind: file::PrincipalKind) -> Self {
        match kind {
            file::PrincipalKind::Workload => Self::Workload,
            file::PrincipalKind::Human => Self::Human,
        }
    }
}

impl From<file::Expiry> for Expiry {
    fn from(expiry: file::Expiry) -> Self {
        match expiry {
            file::Expiry::Rebind => Self::Rebind,
            file::Expiry::Strict => Self::Strict,
            file::Expiry::LoginOnly => Self::LoginOnly,
        }
    }
}

/// The text of a configuration, or why there is none and what to do.
fn read(path: &Path, help: &str) -> Result<String, Vec<Problem>> {
    let text = match std::fs::metadata(path) {
        Ok(found) if found.len() > FILE_BYTES_MAX => {
            Err(io::Error::new(io::ErrorKind::FileTooLarge, "longer than 4 MiB"))
        }
        Ok(_) => std::fs::read_to_string(path),
        Err(error) => Err(error),
    };
    text.map_err(|error| {
        let (file, message) = (path.display().to_string(), format!("cannot be read: {error}"));
        vec![Problem { file, line: 0, key: "".into(), message, help: Some(help.into()) }]
    })
}

type Node<'i> = Spanned<DeValue<'i>>;

/// A parse under way: mistakes are kept, the rest goes on.
struct Parse<'i> {
    name: &'i str,
    text: &'i str,
    /// Variables whose values are in the tree, at the places `text.len() + 1 + index`.
    variables: Vec<String>,
    root: DeTable<'i>,
    problems: Vec<Problem>,
}

impl<'i> Parse<'i> {
    fn new(name: &'i str, text: &'i str, environment: &'i [(String, String)]) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let (variables, problems) = Default::default();
        let mut parse = Self { name, text, variables, root: root.into_inner(), problems };
        for error in errors.iter().take(PROBLEMS_MAX) {
            let at = error.span().map_or(0, |span| span.start);
            parse.keep(at, "", error.message(), None);
        }
        let mut environment: Vec<_> = environment.iter().collect();
        environment.sort();
        for (variable, value) in environment {
            if let Some(key) = variable.strip_prefix(PREFIX).filter(|key| key.contains("__")) {
                parse.set(variable, key, value);
            }
        }
        parse
    }

    /// `GATEWAY__TLS__CERT` → `[gateway.tls] cert`. A value that is TOML is taken as such; any
    /// other is a text. A key that exists is found whatever its case, and `-` may be `_`.
    fn set(&mut self, variable: &str, key: &str, value: &'i str) {
        let place = self.text.len() + 1 + self.variables.len();
        self.variables.push(variable.to_owned());
        let parts: Vec<_> = key.split("__").collect();
        let Some((last, path)) = parts.split_last() else { return };
        let mut at = &mut self.root;
        for part in path {
            let empty = || DeValue::Table(DeTable::new());
            match child(at, part, place, empty).get_mut() {
                DeValue::Table(next) => at = next,
                other => {
                    *other = DeValue::Table(DeTable::new());
                    let DeValue::Table(next) = other else { return };
                    at = next;
                }
            }
        }
        let parsed = DeValue::parse(value).map(|node| placed(node.into_inner(), place));
        let text = || Spanned::new(place..place + 1, DeValue::String(Cow::Owned(value.into())));
        let node = parsed.unwrap_or_else(|_| text());
        *child(at, last, place, || DeValue::Boolean(false)) = node;
    }

    fn keep(&mut self, at: usize, key: &str, message: &str, help: Option<String>) {
        let (file, line) = self.place(at);
        let message = message.replace('\n', " ");
        self.problems.push(Problem { file, line, key: key.into(), message, help });
    }

    /// File and line of a byte; the variable, if that is where it came from.
    fn place(&self, at: usize) -> (String, usize) {
        if let Some(variable) = at.checked_sub(self.text.len() + 1)
            && let Some(variable) = self.variables.get(variable)
        {
            return (format!("environment {variable}"), 0);
        }
        let before = self.text.get(..at).unwrap_or(self.text);
        (self.name.to_owned(), before.matches('\n').count() + 1)
    }

    /// Where a key stands, or the nearest table above it that is there.
    fn find(&self, key: &str) -> Option<usize> {
        let mut at = None;
        let mut table = &self.root;
        for part in key.split('.') {
            let Some((name, node)) = table.iter().find(|(name, _)| name.get_ref() == part) else {
                return at;
            };
            at = Some(name.span().start);
            match node.get_ref() {
                DeValue::Table(next) => table = next,
                _ => return at,
            }
        }
        at
    }

    fn file(&mut self) -> Option<File> {
        // A text that is no TOML has no tables to go on with.
        if !self.problems.is_empty() {
            return None;
        }
        let (mut gateway, mut ledger, mut policy) = (None, None, None);
        let (mut limits, mut approvals) = (None, None);
        let (mut issuers, mut trust_domains, mut resources) =
            (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut agents = None;
        let (mut classes, mut masking, mut ssh) = (BTreeMap::new(), None, None);
        let before = self.problems.len();
        for (name, node) in self.root.clone() {
            match name.get_ref().as_ref() {
                "gateway" => gateway = self.table("gateway", node),
                "ledger" => ledger = self.table("ledger", node),
                "policy" => policy = self.table("policy", node),
                "limits" => limits = self.table("limits", node),
                "approvals" => approvals = self.table("approvals", node),
                "issuers" => issuers = self.tables("issuers", node),
                "trust_domains" => trust_domains = self.tables("trust_domains", node),
                "resources" => resources = self.tables("resources", node),
                "agents" => agents = self.table("agents", node),
                "classes" => classes = self.tables("classes", node),
                "masking" => masking = self.table("masking", node),
                "ssh" => ssh = self.table("ssh", node),
                other => {
                    let known = [
                        "gateway",
                        "ledger",
                        "policy",
                        "issuers",
                        "trust_domains",
                        "resources",
                        "classes",
                        "masking",
                        "ssh",
                        "limits",
                        "approvals",
                    ];
                    let help = format!("the tables are {}", known.join(", "));
                    let message = format!("unknown table `{}`", other.escape_debug());
                    self.keep(name.span().start, "", &message, Some(help));
                }
            }
        }
        if gateway.is_none() && self.problems.len() == before {
            let help = "add it with `name`, `data` and `tls`";
            self.keep(0, "gateway", "this table is missing", Some(help.into()));
        }
        Some(File {
            gateway: gateway?,
            ledger: ledger.unwrap_or_default(),
            policy: policy.unwrap_or_default(),
            issuers,
            trust_domains,
            resources,
            agents,
            classes,
            masking: masking.unwrap_or_default(),
            ssh: ssh.unwrap_or_default(),
            limits: limits.unwrap_or_default(),
            approvals: approvals.unwrap_or_default(),
        })
    }

    fn tables<T: for<'de> Deserialize<'de>>(
        &mut self,
        path: &str,
        node: Node<'i>,
    ) -> BTreeMap<String, T> {
        let at = node.span().start;
        let DeValue::Table(tables) = node.into_inner() else {
            let help = format!("write [{path}.NAME]");
            self.keep(at, path, "this is no table of tables", Some(help));
            return BTreeMap::new();
        };
        let mut out = BTreeMap::new();
        for (name, node) in tables {
            let name = name.into_inner().into_owned();
            if let Some(value) = self.table(&format!("{path}.{name}"), node) {
                out.insert(name, value);
            }
        }
        out
    }

    /// One table. What does not hold is reported and left out, until the rest holds.
    fn table<T: for<'de> Deserialize<'de>>(&mut self, path: &str, mut node: Node<'i>) -> Option<T> {
        let mut left_out = false;
        for _ in 0..PROBLEMS_MAX {
            let error = match T::deserialize(ValueDeserializer::from(node.clone())) {
                Ok(value) => return Some(value),
                Err(error) => error,
            };
            let message = error.message();
            let missing = message.starts_with("missing field");
            // It may be missing because it was just left out.
            if missing && left_out {
                return None;
            }
            let at = error.span().unwrap_or(node.span());
            let found = culprit(&node, at.start);
            let key = found.iter().fold(path.to_owned(), |key, part| format!("{key}.{part}"));
            let help = missing.then(|| "add it; docs/configuration.md shows every key".to_owned());
            self.keep(at.start, &key, message, help);
            if found.is_empty() || !remove(&mut node, &found) {
                return None;
            }
            left_out = true;
        }
        None
    }
}

/// The entry named `part`, made if it is not there.
fn child<'a, 'i>(
    table: &'a mut DeTable<'i>,
    part: &str,
    place: usize,
    make: impl FnOnce() -> DeValue<'i>,
) -> &'a mut Node<'i> {
    let plain = |name: &str| name.to_ascii_lowercase().replace('-', "_");
    let found = table.keys().find(|name| plain(name.get_ref()) == plain(part)).cloned();
    let key = found
        .unwrap_or_else(|| Spanned::new(place..place + 1, Cow::Owned(part.to_ascii_lowercase())));
    table.entry(key).or_insert_with(|| Spanned::new(place..place + 1, make()))
}

/// Gives every part of a value one place.
fn placed<'i>(value: DeValue<'i>, place: usize) -> Node<'i> {
    let at = place..place + 1;
    let value = match value {
        DeValue::Array(items) => {
            DeValue::Array(items.into_iter().map(|item| placed(item.into_inner(), place)).collect())
        }
        DeValue::Table(table) => {
            let pairs = table.into_iter().map(|(key, node)| {
                (Spanned::new(at.clone(), key.into_inner()), placed(node.into_inner(), place))
            });
            DeValue::Table(pairs.collect())
        }
        other => other,
    };
    Spanned::new(at, value)
}

/// The keys that lead to a byte.
fn culprit(node: &Node<'_>, at: usize) -> Vec<String> {
    let DeValue::Table(table) = node.get_ref() else { return vec![] };
    let holds = |span: Range<usize>| span.contains(&at) || span.start == at;
    for (key, value) in table {
        // A table's own header has a place too, but what is inside it is nearer.
        let inside = culprit(value, at);
        if !inside.is_empty() || holds(key.span()) || holds(value.span()) {
            let mut path = vec![key.get_ref().to_string()];
            path.extend(inside);
            return path;
        }
    }
    vec![]
}

fn remove(node: &mut Node<'_>, path: &[String]) -> bool {
    let DeValue::Table(table) = node.get_mut() else { return false };
    let Some((first, rest)) = path.split_first() else { return false };
    let Some(key) = table.keys().find(|key| key.get_ref().as_ref() == first).cloned() else {
        return false;
    };
    if rest.is_empty() {
        return table.remove(&key).is_some();
    }
    table.get_mut(&key).is_some_and(|node| remove(node, rest))
}

#[cfg(test)]
mod tests {
    use super::{file::Limits, *};

    const GOOD: &str = r#"
[gateway]
name = "eu-1"
data = "data"
tls = { cert = "gw.pem", key = "gw.key" }
[issuers.k8s]
issuer = "https://issuer.example"
audience = "bulla"
[resources.or-ders]
protocol = "postgres"
listen = "127.0.0.1:6432"
target = { host = "localhost", port = 5432 }
login = { user = "u" }
"#;

    /// What the text alone says, without files.
    fn parse(text: &str, environment: &[(&str, &str)]) -> (Option<File>, Vec<String>) {
        let pairs = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let pairs: Vec<_> = pairs.collect();
        let mut parse = Parse::new("bulla.toml", text, &pairs);
        let file = parse.file();
        (file, parse.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn one_mistake_does_not_hide_the_next() {
        let bad = GOOD
            .replace("data =", "dta =")
            .replace("port = 5432", "port = 70000, prot = 1")
            .replace("\"bulla\"", "\"bulla\"\nmax_ttl = \"1 hour\"")
            .replace("login =", "durability = \"loose\"\nlogin =");
        let (_, problems) = parse(&bad, &[]);
        for part in [
            "bulla.toml:4: gateway.dta: unknown field `dta`",
            "bulla.toml:9: issuers.k8s.max_ttl: `1 hour` is not a time",
            "bulla.toml:13: resources.or-ders.target.port: invalid value: integer `70000`",
            "bulla.toml:13: resources.or-ders.target.prot: unknown field `prot`",
            "bulla.toml:14: resources.or-ders.durability: unknown variant `loose`",
        ] {
            assert!(problems.iter().any(|p| p.starts_with(part)), "{part} in {problems:#?}");
        }
        assert_eq!(problems.len(), 5, "{problems:#?}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let (file, problems) = parse(&GOOD.replace("name = \"eu-1\"\n", ""), &[]);
        assert!(file.is_none());
        let expected = "bulla.toml:2: gateway: missing field `name`; add it; \
                        docs/configuration.md shows every key";
        assert_eq!(problems, [expected]);
        let (_, problems) = parse("", &[]);
        assert_eq!(problems.len(), 1, "{problems:#?}");
        let (_, problems) = parse("[gatway]\n[gateway]\nx", &[]);
        assert!(problems.iter().any(|p| p.starts_with("bulla.toml:3:")), "{problems:#?}");
    }

    #[test]
    fn the_environment_overrides() {
        let (file, problems) = parse(
            GOOD,
            &[
                ("BULLA_GATEWAY__NAME", "us-1"),
                ("BULLA_RESOURCES__OR_DERS__TARGET__PORT", "1"),
                ("BULLA_ISSUERS__K8S__GROUPS", "[\"team:{team}\"]"),
                ("BULLA_LIMITS__SESSIONS_MAX", "7"),
                ("BULLA_LOG", "debug"),
                ("OTHER_GATEWAY__NAME", "x"),
            ],
        );
        assert_eq!(problems, [""; 0]);
        let file = file.unwrap();
        assert_eq!(file.gateway.name, "us-1");
        assert_eq!(file.resources["or-ders"].target.port, Some(1));
        assert_eq!(file.issuers["k8s"].groups, ["team:{team}"]);
        assert_eq!(file.limits.sessions_max, 7);
    }

    #[test]
    fn a_mistake_in_the_environment_names_the_variable() {
        let (_, problems) = parse(GOOD, &[("BULLA_GATEWAY__NOPE", "x")]);
        let expected = "environment BULLA_GATEWAY__NOPE: gateway.nope: unknown field `nope`";
        assert!(problems.iter().any(|p| p.starts_with(expected)), "{problems:#?}");
        let (_, problems) = parse(GOOD, &[("BULLA_GATEWAY__DRAIN", "soon")]);
        let expected = "environment BULLA_GATEWAY__DRAIN: gateway.drain: `soon` is not a time";
        assert!(problems.iter().any(|p| p.starts_with(expected)), "{problems:#?}");
    }

    #[test]
    fn the_documented_file_holds() {
        let docs = include_str!("../../../docs/configuration.md");
        let (_, example) = docs.split_once("```toml\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let (file, problems) = parse(example, &[]);
        assert_eq!(problems, [""; 0]);
        // It says that it shows every key.
        let schema = schema();
        let tables = schema["$defs"].as_object().unwrap().values();
        let keys = tables.filter_map(|table| table.get("properties")?.as_object());
        for key in keys.flat_map(|table| table.keys()) {
            assert!(docs.contains(key), "`{key}` is not documented");
        }
        assert_eq!(file.unwrap().limits.sessions_max, Limits::default().sessions_max);
    }

    #[test]
    fn the_published_schema_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/bulla.schema.json");
        let made = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        let words = "run: cargo run -p bulla -- config schema > docs/bulla.schema.json";
        assert!(std::fs::read_to_string(path).unwrap() == made, "out of date; {words}");
    }
}
