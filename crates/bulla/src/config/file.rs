//! The keys of `bulla.toml`. The JSON Schema in `docs/bulla.schema.json` is made from these types.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::value::{Size, Time};

/// The configuration of a gateway. Relative paths start at the file's own folder.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub gateway: Gateway,
    #[serde(default)]
    pub ledger: Ledger,
    #[serde(default)]
    pub policy: Policy,
    /// Who may vouch for a service by a JWT, by our short name for it.
    #[serde(default)]
    pub issuers: BTreeMap<String, Issuer>,
    /// Who may vouch for a service by a client certificate, by our short name for it.
    #[serde(default)]
    pub trust_domains: BTreeMap<String, TrustDomain>,
    /// What is behind the gateway, by the name that policies use.
    #[serde(default)]
    pub resources: BTreeMap<String, Resource>,
    /// The door for agents, which reach targets from inside their networks.
    pub agents: Option<Agents>,
    /// What classes of values demand where they may not be seen, by the class's name: `pii.ssn`.
    #[serde(default)]
    pub classes: BTreeMap<String, Class>,
    #[serde(default)]
    pub masking: Masking,
    #[serde(default)]
    pub ssh: crate::registry::SshGateway,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub approvals: Approvals,
}

/// A class of values. Whoever has no permit to `reveal` it gets the mask.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// `null`, `constant(TEXT)`, `partial(FIRST,LAST)`, `card-last4`, `email-domain`, `zip3`,
    /// `date-trunc(UNIT)`, `bucket(WIDTH)`, `json(PATH=MASK; …)`, `token`, `fpe`,
    /// `date-shift(DAYS)`.
    pub mask: String,
    /// Whether NULL stays NULL; hidden, a mask of texts stands for it too.
    #[serde(default)]
    pub nulls: Nulls,
    /// Whether conditions `column = value` see the value: who knows it may find its row.
    #[serde(default)]
    pub inference: Inference,
    /// The column of the same table that says whose value it is, for `date-shift`: all dates of one
    /// subject move together. Where a result does not show it, they are NULL.
    #[serde(default)]
    pub subject: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Inference {
    /// Conditions see the mask.
    #[default]
    Deny,
    Equality,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Nulls {
    #[default]
    Hide,
    Keep,
}

/// The key of masks that need one.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Masking {
    /// Stands in every token, so that keys can be changed: 1 to 16 letters, digits and dashes.
    pub key_id: Option<String>,
    /// At least 32 random bytes.
    pub key_file: Option<PathBuf>,
}

/// Which columns of a resource belong to which class.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResourceClasses {
    /// The class of relations that no rule speaks of; by default they are `clear`.
    pub default: Option<String>,
    /// `"schema.relation.column" = "class"`; `*` stands for anything, `clear` is the class of what
    /// need not be masked. The rule with the fewest stars wins, then the longest.
    pub columns: BTreeMap<String, String>,
    /// Functions, as `schema.name`, that are known not to read masked columns by themselves.
    pub trusted: Vec<String>,
    /// Channels of notifications whose payloads are known to hold no masked values. Of the others
    /// whoever may not see some class gets the name alone, unless whoever sent it sees no more.
    pub channels: Vec<String>,
    /// Of an API: `"$..ssn" = "class"`, or of one route `"GET /customers/{id} $.email" = "class"`.
    /// `clear` for `"/static/** $"` says that whole answers of a route need not be masked.
    pub json: BTreeMap<String, String>,
    /// What is found by what it looks like, as `card = "class"`: in answers of an API, and in texts,
    /// JSON and bytes of every column.
    pub content: BTreeMap<String, String>,
}

impl ResourceClasses {
    /// Nothing is said of columns.
    pub fn is_without_columns(&self) -> bool {
        self.default.is_none()
            && self.columns.is_empty()
            && self.trusted.is_empty()
            && self.channels.is_empty()
    }
    pub fn is_empty(&self) -> bool {
        self.is_without_columns() && self.json.is_empty() && self.content.is_empty()
    }
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// The gateway's name. The log's origin is `<origin>/<name>`; it can never change.
    pub name: String,
    /// The first part of the log's origin: a host name of yours.
    #[serde(default = "origin")]
    pub origin: String,
    /// Journal, log and keys. The targets must not be able to reach it.
    pub data: PathBuf,
    pub tls: Tls,
    /// Where /livez, /readyz and /metrics answer.
    #[serde(default = "http")]
    pub http: SocketAddr,
    /// The admin socket; by default `admin.sock` in `data`.
    pub admin: Option<PathBuf>,
    /// How long sessions may go on after SIGTERM.
    #[serde(default = "drain")]
    pub drain: Time,
}

/// The gateway's own certificate.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM, the leaf first.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// How the record is kept.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ledger {
    /// For resources that do not say it themselves.
    pub durability: Durability,
    /// Size of one segment of the journal.
    pub segment: Size,
    pub compression: Compression,
    /// Kept free for refusals, outcomes and closes when the disk is full.
    pub reserve: Size,
    /// A checkpoint is signed this often while there are new entries.
    pub checkpoint: Time,
    /// A heartbeat is recorded this often while nothing else is.
    pub heartbeat: Time,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            durability: Durability::Strict,
            segment: Size::mib(64),
            compression: Compression::Zstd,
            reserve: Size::mib(4),
            checkpoint: Time::secs(1),
            heartbeat: Time::secs(10),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Intent durable before effect, evidence durable before release.
    Strict,
    /// Released ahead of durability, by at most a stated number of bytes and milliseconds.
    Bounded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    Zstd,
    None,
}

/// Where the rules are.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// The folder with `*.cedar` files.
    pub dir: PathBuf,
    /// After so long without a good reload, no session is opened and no command is allowed.
    /// By default policies do not age.
    pub max_age: Option<Time>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { dir: "policies".into(), max_age: None }
    }
}

/// An issuer of JWTs (OpenID Connect).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// The claim `iss`, exactly.
    pub issuer: String,
    /// What `aud` must contain: our name, never a target's.
    pub audience: String,
    /// Longest life of a token that is accepted.
    #[serde(default = "hour")]
    pub max_ttl: Time,
    /// The stable subject: `{sub}`, `{claim/nested}`.
    #[serde(default = "subject")]
    pub subject: String,
    /// Groups for policy: `team:{team}`.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Attributes for policy, each from one claim.
    #[serde(default)]
    pub attributes: BTreeMap<String, Attribute>,
    /// Claims that must be there, and the values that they may have; empty is any.
    #[serde(default)]
    pub required: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub kind: PrincipalKind,
    /// What kind of token it signs; by default told from `subject`.
    pub profile: Option<Profile>,
    /// Accepted values of the header `typ`, instead of the profile's.
    pub typ: Option<Vec<String>>,
    /// Accepted algorithms; by default all that are implemented: RS256, PS256, ES256, EdDSA, ...
    #[serde(default)]
    pub algorithms: Vec<String>,
    /// The discovery document, if it is not at the issuer's well-known place.
    pub discovery_url: Option<String>,
    /// The key set itself, instead of discovery.
    pub jwks_url: Option<String>,
    /// The key set in a file, instead of discovery.
    pub jwks_file: Option<PathBuf>,
    /// PEM with the only authorities accepted for the issuer's own TLS.
    pub ca: Option<PathBuf>,
    /// Clock difference that is forgiven, up to 30s.
    #[serde(default = "leeway")]
    pub leeway: Time,
    /// Allows http to hosts other than loopback. For laboratories.
    #[serde(default)]
    pub allow_http: bool,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Attribute {
    /// The path of a claim: `kubernetes.io/namespace`.
    pub claim: String,
    #[serde(default)]
    pub kind: AttributeKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AttributeKind {
    #[default]
    Text,
    Flag,
    Number,
    Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PrincipalKind {
    #[default]
    Workload,
    Human,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// RFC 9068.
    AccessToken,
    /// Projected service account tokens.
    Kubernetes,
    /// Any other signed JWT.
    Plain,
}

/// A SPIFFE trust domain.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustDomain {
    /// `prod.example.com`.
    pub trust_domain: String,
    /// PEM with its authorities; read again from time to time.
    pub bundle: PathBuf,
    /// Longest life of a certificate that is accepted.
    #[serde(default = "certificate_ttl")]
    pub max_ttl: Time,
    #[serde(default)]
    pub kind: PrincipalKind,
    /// Which SPIFFE paths are accepted and what they become. None: every path is the subject.
    #[serde(default)]
    pub paths: Vec<SpiffePath>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpiffePath {
    /// `/ns/{ns}/sa/{sa}`.
    pub pattern: String,
    /// `{ns}/{sa}`.
    pub subject: String,
    /// `team:{ns}`.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// Something behind the gateway.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    /// The wire that it speaks.
    pub protocol: String,
    /// Where clients connect. Several resources of one protocol may share an address.
    pub listen: SocketAddr,
    #[serde(default)]
    pub target: Target,
    /// Needed without `agent`, though an API may have none; with it, the secret stays with the agent.
    pub login: Option<Login>,
    /// The agents that reach it, by name: one, or several to share the work and to fail over.
    #[serde(default)]
    pub agent: Names,
    /// What only an HTTP API has.
    pub http: Option<crate::registry::HttpSettings>,
    /// What only a host has.
    pub ssh: Option<crate::registry::SshSettings>,
    pub durability: Option<Durability>,
    /// What happens to a session when the identity that opened it expires.
    #[serde(default)]
    pub expiry: Expiry,
    /// Groups for policy: `env:prod`.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Which columns belong to which class.
    #[serde(default)]
    pub classes: ResourceClasses,
    /// How long a command may wait for approval inside an open transaction; `0s` refuses it.
    #[serde(default = "zero")]
    pub hold_in_transaction: Time,
    /// A session ends after this time, whatever its identity.
    #[serde(default = "session_max")]
    pub session_max: Time,
}

/// The door for agents.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Agents {
    /// Where agents dial in.
    pub listen: SocketAddr,
    /// Life of an agent's certificate, which it renews by itself; at most `24h`.
    pub certificate: Time,
    /// A tunnel is asked this often whether it is alive, and has as long to say so.
    pub keepalive: Time,
    /// Agents that may enrol by an identity of their own, without a join token.
    pub enrol: BTreeMap<String, Enrol>,
}

impl Default for Agents {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 7443)),
            certificate: Time::secs(24 * 3_600),
            keepalive: Time::secs(10),
            enrol: BTreeMap::new(),
        }
    }
}

/// Who may become an agent.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Enrol {
    /// Whole, as in the log: `k8s|infra/bulla-agent`.
    pub principal: String,
    /// What it may serve.
    pub resources: Vec<String>,
}

/// One name, or several.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Names {
    One(String),
    Several(Vec<String>),
}

impl Default for Names {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl std::ops::Deref for Names {
    type Target = [String];
    fn deref(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Several(names) => names,
        }
    }
}

/// The real server.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Needed where it is dialled from here; with `agent`, only the agent knows it.
    pub host: Option<String>,
    pub port: Option<u16>,
    /// The database; by default one with the resource's name.
    pub database: Option<String>,
    /// Lets clients ask for another database as `resource/database`. Policy sees it.
    #[serde(default)]
    pub other_databases: bool,
    #[serde(default)]
    pub tls: TargetTls,
    /// PEM with the only authorities accepted for it; by default the system's.
    pub ca: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TargetTls {
    /// The certificate must be valid for `host`.
    #[default]
    VerifyFull,
    /// TLS, with any certificate: who is in between can read everything.
    Require,
    /// No TLS. For sockets that leave no host.
    #[serde(alias = "disable")]
    Off,
}

/// How the gateway logs in. The client never sees it.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Login {
    /// The account. An API may have none.
    pub user: String,
    /// Read at each login, so that it can be rotated in place.
    pub password_file: Option<PathBuf>,
    /// The name of an environment variable.
    pub password_env: Option<String>,
    /// A program and its arguments; what it prints is the password.
    pub password_command: Option<Vec<String>>,
    /// A secret of a vault.
    pub vault: Option<Vault>,
    /// Of an API: a token of OAuth takes the place of user and password, which are the client's.
    pub oauth: Option<Oauth>,
    /// PEM of a client certificate.
    pub cert: Option<PathBuf>,
    /// PEM of its key.
    pub key: Option<PathBuf>,
}

impl Login {
    /// Whether it names a place where the secret is.
    pub fn has_secret(&self) -> bool {
        self.password_file.is_some()
            || self.password_env.is_some()
            || self.password_command.is_some()
            || self.vault.is_some()
    }
}

/// Client credentials of OAuth (RFC 6749 4.4): the access token is the secret toward the target.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Oauth {
    /// `https://issuer.example.com/oauth2/token`.
    pub token_url: String,
    /// What the token is for, in the issuer's words, with blanks between.
    pub scope: Option<String>,
    /// The target, where the issuer wants to be told (`audience`).
    pub audience: Option<String>,
    /// The target as RFC 8707 has it (`resource`).
    pub resource: Option<String>,
    /// How the client says who it is.
    #[serde(default)]
    pub auth: OauthAuth,
    /// PEM with the authorities of the issuer; by default the system's.
    pub ca: Option<PathBuf>,
}

/// How a client says who it is (RFC 6749 2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OauthAuth {
    #[default]
    Basic,
    /// In the request's body.
    Post,
}

/// A secret behind the HTTP API of HashiCorp Vault or OpenBao.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vault {
    /// `https://vault.internal:8200`.
    pub address: String,
    /// Behind `/v1/`: `secret/data/orders`, `database/static-creds/orders`.
    pub path: String,
    /// The member that is the password.
    #[serde(default = "password_field")]
    pub field: String,
    /// Read at each login, so that an agent of the vault can keep it fresh.
    pub token_file: PathBuf,
    pub namespace: Option<String>,
    /// PEM with the only authorities accepted for it; by default the system's.
    pub ca: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Expiry {
    /// A fresh credential of the same principal, on any connection, extends all its sessions.
    #[default]
    Rebind,
    /// The session ends when the credential does.
    Strict,
    /// Checked at login only.
    #[serde(alias = "login_only")]
    LoginOnly,
}

/// What may grow, and how far.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub sessions_max: usize,
    /// Connections that have not logged in yet.
    pub handshakes_max: usize,
    /// The same, of one source address.
    pub handshakes_per_source_max: usize,
    /// Time for a login.
    pub handshake_max: Time,
    /// Time to reach a target.
    pub connect_max: Time,
    /// How often a client that waits for an approval is told so.
    pub hold_notice: Time,
    /// Commands that may wait for approval at once.
    pub approvals_max: usize,
    /// How often knowledge of a target's tables is checked.
    pub catalogue: Time,
    /// After its identity expired, a session may finish what it is in for this long.
    pub expiry_grace: Time,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions_max: 20_000,
            handshakes_max: 20_000,
            handshakes_per_source_max: 20_000,
            handshake_max: Time::secs(10),
            connect_max: Time::secs(10),
            hold_notice: Time::secs(10),
            approvals_max: 10_000,
            catalogue: Time::secs(5),
            expiry_grace: Time::secs(60),
        }
    }
}

/// Who may answer for commands that wait.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Approvals {
    /// Groups of users of this host who answer without a token. Without it they stand for every
    /// group; with it, a user who is not listed stands for none.
    pub local: Option<BTreeMap<String, Vec<String>>>,
}

fn origin() -> String {
    "bulla.local".into()
}
fn http() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}
fn drain() -> Time {
    Time::secs(20)
}
fn hour() -> Time {
    Time::secs(3_600)
}
fn certificate_ttl() -> Time {
    Time::secs(bulla_identity::CERTIFICATE_TTL_SECS_DEFAULT)
}
fn leeway() -> Time {
    Time::secs(bulla_identity::LEEWAY_SECS_MAX)
}
fn session_max() -> Time {
    Time::secs(8 * 3_600)
}
fn zero() -> Time {
    Time::secs(0)
}
fn password_field() -> String {
    "password".into()
}
fn subject() -> String {
    "{sub}".into()
}
