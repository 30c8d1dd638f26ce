//! What an operator says about who may speak: plain structs; the binary owns their file format.
//!
//! [`Config::validate`] reports every problem at once. A [`crate::Verifier`] is built from nothing
//! that has one.

use std::{fmt, path::PathBuf, sync::Arc};

use bulla_core::PrincipalKind;

use crate::jwt::Algorithm;

/// Longest life of a token unless an issuer says otherwise: `exp - iat`.
pub const MAX_TTL_SECS_DEFAULT: u64 = 3_600;
/// Longest life that may be configured: a credential is short-lived or it is not one.
pub const MAX_TTL_SECS_MAX: u64 = 86_400;
/// Clock difference that is forgiven between issuer and gateway, at most.
pub const LEEWAY_SECS_MAX: u64 = 30;
/// Longest life of a client certificate unless a trust domain says otherwise. Issuers that give
/// 24 hours date the start back a little.
pub const CERTIFICATE_TTL_SECS_DEFAULT: u64 = 25 * 3_600;
/// Longest life of a client certificate that may be configured.
pub const CERTIFICATE_TTL_SECS_MAX: u64 = 7 * 86_400;

/// Everybody who may vouch for a principal.
#[derive(Debug, Clone, Default)]
pub struct Config {
    pub issuers: Vec<IssuerConfig>,
    pub trust_domains: Vec<TrustDomainConfig>,
}

/// What kind of token an issuer signs: fixes the accepted `typ` and the mandatory claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// RFC 9068 access tokens: `typ` is `at+jwt`; `client_id` and `jti` are mandatory.
    AccessToken,
    /// Projected service account tokens of Kubernetes: no `typ` (or `JWT`); the claim
    /// `kubernetes.io` is mandatory.
    Kubernetes,
    /// Any other signed JWT, such as those of CI systems and clouds: `typ` is `JWT` or absent.
    Plain,
}

/// Where an issuer's keys are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// `<issuer>/.well-known/openid-configuration`, or the URL given; its `issuer` must equal ours.
    Discovery { url: Option<String> },
    /// The key set's own URL.
    Jwks { url: String },
    /// A key set in a file, for issuers that the gateway cannot reach. Read again like a URL is.
    File { path: PathBuf },
}

/// An attribute for policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeConfig {
    /// An identifier: letters, digits, `_`.
    pub name: String,
    /// The path of a claim.
    pub claim: String,
    pub kind: AttributeKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributeKind {
    Text,
    Flag,
    Number,
    Set,
}

/// A claim that must be present, and what it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequiredClaim {
    /// The path of a claim.
    pub claim: String,
    /// Exact values, or prefixes that end in `*`; one must match, in an array claim one of its
    /// items. Empty: any value but null.
    pub values: Vec<String>,
}

/// One issuer of JWTs.
#[derive(Debug, Clone)]
pub struct IssuerConfig {
    /// Our short name for it: the first half of every principal's id.
    pub alias: String,
    /// The claim `iss`, exactly.
    pub issuer: String,
    /// What `aud` must contain, exactly: our name, never a target's.
    pub audience: String,
    pub keys: KeySource,
    /// PEM file with the only authorities accepted for the issuer's TLS. None: the system's.
    pub ca_file: Option<PathBuf>,
    /// Allows `http` to hosts other than loopback. For laboratories.
    pub allow_http: bool,
    /// Accepted signature algorithms. Empty: all that we implement.
    pub algorithms: Vec<Algorithm>,
    /// None: [`Profile::Kubernetes`] if `subject` reads a claim below `kubernetes.io`, otherwise
    /// [`Profile::AccessToken`].
    pub profile: Option<Profile>,
    /// Accepted `typ` instead of the profile's; an empty text stands for a token without `typ`.
    pub typ: Option<Vec<String>>,
    pub kind: PrincipalKind,
    pub max_ttl_secs: u64,
    pub leeway_secs: u64,
    /// Template of the stable subject: `{claim}`, `{claim/nested}`.
    pub subject: String,
    /// Templates of groups; an array claim gives one group for each item.
    pub groups: Vec<String>,
    pub attributes: Vec<AttributeConfig>,
    pub required: Vec<RequiredClaim>,
}

impl IssuerConfig {
    /// An issuer with every default: discovery, `{sub}`, one hour, 30 seconds.
    pub fn new(alias: &str, issuer: &str, audience: &str) -> Self {
        Self {
            alias: alias.into(),
            issuer: issuer.into(),
            audience: audience.into(),
            keys: KeySource::Discovery { url: None },
            ca_file: None,
            allow_http: false,
            algorithms: Vec::new(),
            profile: None,
            typ: None,
            kind: PrincipalKind::Workload,
            max_ttl_secs: MAX_TTL_SECS_DEFAULT,
            leeway_secs: LEEWAY_SECS_MAX,
            subject: "{sub}".into(),
            groups: Vec::new(),
            attributes: Vec::new(),
            required: Vec::new(),
        }
    }
}

/// One SPIFFE trust domain.
#[derive(Debug, Clone)]
pub struct TrustDomainConfig {
    /// Our short name for it: the first half of every principal's id.
    pub alias: String,
    /// `prod.example.com`.
    pub trust_domain: String,
    pub bundle: Bundle,
    pub kind: PrincipalKind,
    pub max_ttl_secs: u64,
    /// Which paths are accepted and what they become; the first that matches counts. Empty: every
    /// path, as it stands, is the subject.
    pub paths: Vec<PathConfig>,
}

impl TrustDomainConfig {
    pub fn new(alias: &str, trust_domain: &str, bundle: Bundle) -> Self {
        Self {
            alias: alias.into(),
            trust_domain: trust_domain.into(),
            bundle,
            kind: PrincipalKind::Workload,
            max_ttl_secs: CERTIFICATE_TTL_SECS_DEFAULT,
            paths: Vec::new(),
        }
    }
}

/// The authorities of a trust domain, and of no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bundle {
    /// PEM, read again from time to time.
    File(PathBuf),
    /// DER certificates.
    Der(Vec<Arc<[u8]>>),
}

/// What the path of a SPIFFE id becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathConfig {
    /// `/ns/{ns}/sa/{sa}`: each segment is a text or one name in braces.
    pub pattern: String,
    /// Template over the pattern's names: `{ns}/{sa}`.
    pub subject: String,
    /// Templates over the pattern's names: `team:{ns}`.
    pub groups: Vec<String>,
}

/// One mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `issuers.k8s.subject`.
    pub path: String,
    /// `the brace is never closed`.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}
