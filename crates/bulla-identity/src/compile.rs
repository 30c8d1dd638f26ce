//! From configuration to what can be used, with every mistake reported at once.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use bulla_core::{PrincipalId, PrincipalKind};

use crate::{
    config::{
        CERTIFICATE_TTL_SECS_MAX, Config, IssuerConfig, KeySource, LEEWAY_SECS_MAX,
        MAX_TTL_SECS_MAX, PathConfig, Problem, Profile, TrustDomainConfig,
    },
    error::{Refused, Word},
    fetch::{allowed_url, discovery_url},
    json::{Json, Object},
    jwt::{Algorithm, ClaimType, Rules},
    mapping::{Mapped, Mapping, Template},
    spiffe::{Pattern, SpiffeId, is_trust_domain},
};

/// Most issuers, and most trust domains.
pub const RECORDS_MAX: usize = 64;
/// Most path rules of one trust domain.
pub const PATHS_MAX: usize = 64;
/// Longest issuer or audience, in bytes.
const TEXT_BYTES_MAX: usize = 2_048;

/// An issuer, ready but for its keys.
#[derive(Debug)]
pub(crate) struct Issuer {
    pub alias: Arc<str>,
    pub issuer: Arc<str>,
    pub algorithms: Vec<Algorithm>,
    pub typ: Vec<String>,
    pub kind: PrincipalKind,
    pub rules: Rules,
    pub mapping: Mapping,
}

/// A trust domain, ready but for its authorities.
#[derive(Debug)]
pub(crate) struct Domain {
    pub alias: Arc<str>,
    pub trust_domain: Arc<str>,
    pub kind: PrincipalKind,
    pub max_ttl_secs: u64,
    paths: Vec<PathRule>,
}

#[derive(Debug)]
struct PathRule {
    pattern: Pattern,
    subject: Template,
    groups: Vec<Template>,
}

#[derive(Debug)]
pub(crate) struct Compiled {
    pub issuers: Vec<Issuer>,
    pub domains: HashMap<String, Domain>,
}

impl Config {
    /// Every mistake that can be told from the configuration alone, without files or network.
    pub fn validate(&self) -> Vec<Problem> {
        compile(self).err().unwrap_or_default()
    }
}

impl Domain {
    /// Subject and groups of a SPIFFE id of this domain.
    pub(crate) fn map(&self, id: &SpiffeId) -> Result<Mapped, Refused> {
        if self.paths.is_empty() {
            return Ok(Mapped {
                subject: id.path.clone(),
                groups: Vec::new(),
                attributes: BTreeMap::new(),
            });
        }
        let found = self.paths.iter().find_map(|rule| Some((rule, rule.pattern.read(&id.path)?)));
        let Some((rule, mut names)) = found else {
            return Err(Refused::new(Word::ClaimNotAllowed, "no pattern matches the path"));
        };
        names.insert("path".into(), Json::Text(id.path.clone()));
        names.insert("trust_domain".into(), Json::Text(id.trust_domain.clone()));
        Ok(Mapped {
            subject: rule.subject.one(&names)?,
            groups: rule.groups(&names)?,
            attributes: BTreeMap::new(),
        })
    }
}

impl PathRule {
    fn groups(&self, names: &Object) -> Result<Vec<Arc<str>>, Refused> {
        let mut groups: Vec<Arc<str>> = Vec::new();
        for template in &self.groups {
            for group in template.many(names)? {
                if !groups.iter().any(|have| **have == *group) {
                    groups.push(group.into());
                }
            }
        }
        Ok(groups)
    }
}

/// Collects problems below one path.
struct Notes {
    path: String,
    problems: Vec<Problem>,
}

impl Notes {
    fn note(&mut self, key: &str, what: impl Into<String>) {
        let path = format!("{}.{key}", self.path);
        self.problems.push(Problem { path, what: what.into() });
    }
}

pub(crate) fn compile(config: &Config) -> Result<Compiled, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut aliases = HashSet::new();
    let mut names = HashSet::new();
    let mut domain_names = HashSet::new();
    let mut issuers = Vec::new();
    let mut domains = HashMap::new();
    for (key, count) in
        [("issuers", config.issuers.len()), ("trust_domains", config.trust_domains.len())]
    {
        if count > RECORDS_MAX {
            let what = format!("{count} records; at most {RECORDS_MAX} are allowed");
            problems.push(Problem { path: key.into(), what });
        }
    }
    for record in &config.issuers {
        let path = format!("issuers.{}", record.alias.escape_debug());
        let mut notes = Notes { path, problems: Vec::new() };
        check_alias(&record.alias, &mut aliases, &mut notes);
        if !names.insert(record.issuer.as_str()) {
            notes.note("issuer", "another record has the same issuer");
        }
        let issuer = compile_issuer(record, &mut notes);
        match issuer {
            Some(issuer) if notes.problems.is_empty() => issuers.push(issuer),
            _ => problems.append(&mut notes.problems),
        }
    }
    for record in &config.trust_domains {
        let path = format!("trust_domains.{}", record.alias.escape_debug());
        let mut notes = Notes { path, problems: Vec::new() };
        check_alias(&record.alias, &mut aliases, &mut notes);
        if !domain_names.insert(record.trust_domain.as_str()) {
            notes.note("trust_domain", "another record has the same trust domain");
        }
        if let Some(domain) = compile_domain(record, &mut notes) {
            domains.insert(record.trust_domain.clone(), domain);
        }
        problems.append(&mut notes.problems);
    }
    if problems.is_empty() { Ok(Compiled { issuers, domains }) } else { Err(problems) }
}

/// Aliases are one name space: they are the first half of every principal's id.
fn check_alias<'a>(alias: &'a str, aliases: &mut HashSet<&'a str>, notes: &mut Notes) {
    if let Err(error) = PrincipalId::new(alias, "x") {
        notes.note("alias", error.to_string());
    }
    if !aliases.insert(alias) {
        notes.note("alias", "another issuer or trust domain has the same name");
    }
}

fn compile_issuer(record: &IssuerConfig, notes: &mut Notes) -> Option<Issuer> {
    let plain = |text: &str| {
        !text.is_empty() && text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control)
    };
    if !plain(&record.issuer) {
        notes.note("issuer", "the issuer is empty, too long or holds a control character");
    }
    if !plain(&record.audience) {
        notes.note("audience", "the audience is empty, too long or holds a control character");
    }
    check_keys(record, notes);
    if !(1..=MAX_TTL_SECS_MAX).contains(&record.max_ttl_secs) {
        notes.note("max_ttl", format!("between 1 second and {MAX_TTL_SECS_MAX}"));
    }
    if record.leeway_secs > LEEWAY_SECS_MAX {
        notes.note("leeway", format!("at most {LEEWAY_SECS_MAX} seconds"));
    }
    let mut problems = Vec::new();
    let mapping = Mapping::parse(
        &record.subject,
        &record.groups,
        &record.attributes,
        &record.required,
        |key, what| problems.push((key, what)),
    );
    for (key, what) in problems {
        notes.note(&key, what);
    }
    let profile = record.profile.unwrap_or_else(|| guess_profile(&record.subject));
    let typ = match &record.typ {
        Some(typ) => typ.clone(),
        None => profile.typ(),
    };
    if typ.is_empty() {
        notes.note("typ", "no token could have it: give at least one, or leave it out");
    }
    if !typ.iter().all(|typ| is_media_type(typ)) {
        notes.note("typ", "not a media type such as `at+jwt`");
    }
    let algorithms = match record.algorithms.as_slice() {
        [] => Algorithm::ALL.to_vec(),
        some => some.to_vec(),
    };
    Some(Issuer {
        alias: record.alias.as_str().into(),
        issuer: record.issuer.as_str().into(),
        algorithms,
        typ,
        kind: record.kind,
        rules: Rules {
            issuer: record.issuer.clone(),
            audience: record.audience.clone(),
            max_ttl_secs: record.max_ttl_secs,
            leeway_secs: record.leeway_secs,
            mandatory: profile.mandatory(),
        },
        mapping: mapping?,
    })
}

fn check_keys(record: &IssuerConfig, notes: &mut Notes) {
    let plain = "use `https`, or `http` on loopback; `allow_http` lifts that in a laboratory";
    match &record.keys {
        KeySource::Discovery { url } => {
            let (key, url) = match url {
                Some(url) => ("keys.url", url.clone()),
                None => ("issuer", discovery_url(&record.issuer)),
            };
            if allowed_url(&url, record.allow_http).is_none() {
                notes.note(key, format!("its keys cannot be fetched from there: {plain}"));
            }
        }
        KeySource::Jwks { url } => {
            if allowed_url(url, record.allow_http).is_none() {
                notes.note("keys.url", format!("keys cannot be fetched from there: {plain}"));
            }
        }
        KeySource::File { path } => {
            if path.as_os_str().is_empty() {
                notes.note("keys.path", "the path is empty");
            }
        }
    }
}

/// A subject that needs a claim only Kubernetes gives cannot be filled by another kind of token.
fn guess_profile(subject: &str) -> Profile {
    let kubernetes = Template::parse(subject)
        .is_ok_and(|template| template.claims().any(|claim| claim.root() == "kubernetes.io"));
    if kubernetes { Profile::Kubernetes } else { Profile::AccessToken }
}

impl Profile {
    fn typ(self) -> Vec<String> {
        match self {
            Self::AccessToken => vec!["at+jwt".into()],
            Self::Kubernetes | Self::Plain => vec!["JWT".into(), String::new()],
        }
    }

    /// Beyond `iss`, `aud`, `exp`, `iat` and `sub`, which every token must have.
    fn mandatory(self) -> &'static [(&'static str, ClaimType)] {
        match self {
            Self::AccessToken => &[("client_id", ClaimType::Text), ("jti", ClaimType::Text)],
            Self::Kubernetes => &[("kubernetes.io", ClaimType::Object)],
            Self::Plain => &[],
        }
    }
}

fn is_media_type(text: &str) -> bool {
    text.len() <= 128
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+/".contains(&b))
}

fn compile_domain(record: &TrustDomainConfig, notes: &mut Notes) -> Option<Domain> {
    if !is_trust_domain(&record.trust_domain) {
        let what = "a trust domain is lower-case letters, digits, `.`, `-` and `_`";
        notes.note("trust_domain", what);
    }
    if !(1..=CERTIFICATE_TTL_SECS_MAX).contains(&record.max_ttl_secs) {
        notes.note("max_ttl", format!("between 1 second and {CERTIFICATE_TTL_SECS_MAX}"));
    }
    if record.paths.len() > PATHS_MAX {
        notes.note("paths", format!("at most {PATHS_MAX} are allowed"));
    }
    let mut paths = Vec::new();
    for (i, path) in record.paths.iter().enumerate() {
        if record.paths.iter().take(i).any(|before| before.pattern == path.pattern) {
            notes.note(&format!("paths[{i}].pattern"), "an earlier rule has the same pattern");
        }
        paths.extend(compile_path(i, path, notes));
    }
    if !notes.problems.is_empty() {
        return None;
    }
    Some(Domain {
        alias: record.alias.as_str().into(),
        trust_domain: record.trust_domain.as_str().into(),
        kind: record.kind,
        max_ttl_secs: record.max_ttl_secs,
        paths,
    })
}

fn compile_path(i: usize, path: &PathConfig, notes: &mut Notes) -> Option<PathRule> {
    let pattern = match Pattern::parse(&path.pattern) {
        Ok(pattern) => pattern,
        Err(what) => {
            notes.note(&format!("paths[{i}].pattern"), what);
            return None;
        }
    };
    let mut template = |key: String, text: &str| match Template::parse(text) {
        Ok(template) => {
            let known = |name: &str| pattern.has(name) || name == "path" || name == "trust_domain";
            for claim in template.claims().filter(|claim| !known(claim.whole())) {
                let what = format!("`{}` is not a name of the pattern", claim.whole());
                notes.note(&key, what);
            }
            Some(template)
        }
        Err(what) => {
            notes.note(&key, what);
            None
        }
    };
    let subject = template(format!("paths[{i}].subject"), &path.subject);
    let groups = path.groups.iter().enumerate();
    let groups: Vec<Option<Template>> =
        groups.map(|(g, text)| template(format!("paths[{i}].groups[{g}]"), text)).collect();
    Some(PathRule {
        subject: subject?,
        groups: groups.into_iter().collect::<Option<_>>()?,
        pattern,
    })
}
