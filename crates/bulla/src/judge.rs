//! `bulla policy …`: what policies decide, before and after the fact, in the same code that the
//! gateway runs.
//!
//! A statement is read as the gateway reads it, which takes the target's catalogue; it is learned
//! from the target with the gateway's own login. Nothing is sent there but the catalogue's queries.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use bulla_core::{
    Attribute, Clock, Command, CredentialKind, Digest, EventId, Flow, Origin, Policies, Principal,
    PrincipalId, PrincipalKind, Proof, Request, Resource, RevealRequest, Timestamp,
};
use bulla_engine::{Connector, SystemClock};
use bulla_host::Hosted;
use bulla_ledger::PrincipalDetail;
use bulla_policy::{Bundle, Explanation, PolicyNote};
use bulla_tlog::entry::Kind;
use bulla_wire::{Place, Protocol, ScoutStep};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    cli::Explain,
    config::{Config, file},
    fail::{Invalid, code},
    gateway, policies, print,
    registry::{self, Protocols},
    roads::Roads,
    say::{Paint, line, safe},
    sessions,
};

/// Time to learn a catalogue.
const LEARN_MAX: Duration = Duration::from_secs(60);

/// What is needed to judge: policies, and readers of statements.
struct Bench<'a> {
    config: &'a Config,
    bundle: Bundle,
    protocols: Protocols,
    connector: Roads,
    runtime: tokio::runtime::Runtime,
    /// Places whose catalogue was asked for, and why it is not there.
    learned: RefCell<HashMap<Place, Option<String>>>,
}

impl<'a> Bench<'a> {
    fn new(config: &'a Config) -> Result<Self> {
        let protocols = config.protocols()?;
        let bundle = policies::load(config, &protocols).map_err(Invalid::policies)?;
        let connector = Roads::new(config, &protocols, None)?;
        let (runtime, learned) = (crate::runtime()?, RefCell::default());
        Ok(Self { config, bundle, protocols, connector, runtime, learned })
    }

    fn resource(&self, name: &str) -> Result<Resource> {
        let found = self.config.resources.get(name);
        let found = found.with_context(|| format!("no resource `{}` is configured", line(name)))?;
        gateway::resource(self.config, name, found)
    }

    /// Reads a statement for `resource` or `resource/part`.
    fn read(&self, asked: &str, text: &str) -> Result<Command, String> {
        if let Some(hosted) = self.hosted(asked)? {
            return hosted.read(name_of(asked), text);
        }
        let (protocol, place) = self.known(asked)?;
        protocol.read(&place, text, &(Arc::new(|work: &mut dyn FnMut()| work()) as _))
    }

    /// What masks do to a statement of whom `reveals` answers for, and to its answer.
    fn mask(
        &self,
        asked: &str,
        text: &str,
        command: &mut Command,
        reveals: &dyn Fn(&str) -> bool,
    ) -> Result<Masked, String> {
        if let Some(hosted) = self.hosted(asked)? {
            return hosted.mask(name_of(asked), text, command, reveals).map(Masked::Answer);
        }
        let (protocol, place) = self.known(asked)?;
        let block = &(Arc::new(|work: &mut dyn FnMut()| work()) as _);
        protocol.mask(&place, text, reveals, block).map(Masked::Statement)
    }

    /// Its protocol where a library owns the wire.
    fn hosted(&self, asked: &str) -> Result<Option<&Arc<dyn Hosted>>, String> {
        let resource = self.resource(name_of(asked)).map_err(|error| error.to_string())?;
        Ok(self.protocols.hosted.get(&*resource.protocol))
    }

    /// The protocol and place of `resource` or `resource/part`, with its catalogue learned.
    fn known(&self, asked: &str) -> Result<(Arc<dyn Protocol>, Place), String> {
        let (name, part) = match asked.split_once('/') {
            Some((name, part)) => (name, Some(part)),
            None => (asked, None),
        };
        let resource = self.resource(name).map_err(|error| error.to_string())?;
        let place = self.connector.place(&resource, part);
        let place = place.ok_or_else(|| format!("`{asked}` is no part that may be asked for"))?;
        let protocol = self.connector.protocol(name).ok_or("the resource has no protocol")?;
        let known = self.learned.borrow().get(&place).cloned();
        let missing = known.unwrap_or_else(|| {
            let learned = self.runtime.block_on(learn(&self.connector, &*protocol, &place));
            let missing = learned.err().map(|error| format!("{error:#}"));
            self.learned.borrow_mut().insert(place.clone(), missing.clone());
            missing
        });
        if let Some(why) = missing {
            return Err(format!("the catalogue of `{asked}` cannot be learned: {why}"));
        }
        Ok((protocol, place))
    }
}

/// What masks do.
enum Masked {
    /// The statement goes as another text; none: as it is.
    Statement(Option<String>),
    /// What is masked of the answer.
    Answer(Vec<String>),
}

/// The name in `resource` or `resource/part`.
fn name_of(asked: &str) -> &str {
    asked.split_once('/').map_or(asked, |(name, _)| name)
}

/// Learns what readings need to know about a place, over a connection of its own.
pub async fn learn(connector: &Roads, protocol: &dyn Protocol, place: &Place) -> Result<()> {
    let Some(mut scout) = protocol.scout(place) else { return Ok(()) };
    let work = async {
        let connected = connector.connect(place, Vec::new()).await?;
        let (mut stream, mut input) = (connected.stream, connected.rest);
        loop {
            match scout.input(&mut input)? {
                ScoutStep::Done { .. } => return Ok(()),
                ScoutStep::Send(bytes) => {
                    stream.write_all(&bytes).await?;
                    stream.flush().await?;
                }
                ScoutStep::More => {
                    if stream.read_buf(&mut input).await? == 0 {
                        bail!("the target closed the connection");
                    }
                }
            }
        }
    };
    tokio::time::timeout(LEARN_MAX, work).await.context("it took too long")?
}

pub fn check(config: &Config, json: bool) -> Result<()> {
    let protocols = config.protocols()?;
    let bundle = policies::load(config, &protocols).map_err(Invalid::policies)?;
    let (count, digest) = (bundle.policy_count(), bundle.digest());
    if json {
        let value = json!({ "valid": true, "policies": count, "bundle": digest.to_string() });
        return Ok(print(&value.to_string())?);
    }
    let (tick, dir) = (Paint::new().tick(true), config.policy_dir());
    Ok(print(&format!("{tick} {}: {count} policies, bundle {}", dir.display(), digest.short(12)))?)
}

pub fn schema(config: &Config) -> Result<()> {
    let protocols = config.protocols()?;
    let bundle = policies::load(config, &protocols).map_err(Invalid::policies)?;
    Ok(print(bundle.schema_text())?)
}

/// Runs tables of expected decisions. Exit 4 if one does not hold.
pub fn test(config: &Config, files: &[PathBuf], json: bool) -> Result<ExitCode> {
    let bench = Bench::new(config)?;
    let mut paths = files.to_vec();
    if paths.is_empty() {
        let dir = config.policy_dir();
        let listed = std::fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))?;
        for entry in listed {
            let path = entry?.path();
            if path.to_string_lossy().ends_with(".test.toml") {
                paths.push(path);
            }
        }
        paths.sort();
    }
    if paths.is_empty() {
        let dir = config.policy_dir();
        bail!("there is no table; name one, or put *.test.toml into `{}`", dir.display());
    }
    let read = |resource: &str, text: &str| bench.read(resource, text);
    let (mut reports, mut failed, mut problems) = (Vec::new(), 0, Vec::new());
    for path in &paths {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(|| format!("read `{name}`"))?;
        match bench.bundle.test(&name, &text, &read) {
            Ok(report) => {
                failed += report.failed;
                reports.push(report);
            }
            Err(mistakes) => problems.extend(mistakes),
        }
    }
    if !problems.is_empty() {
        return Err(Invalid::policies(problems).into());
    }
    if json {
        print(&serde_json::to_string(&reports)?)?;
    } else {
        let paint = Paint::new();
        for case in reports.iter().flat_map(|report| &report.cases) {
            let place = paint.dim(format!("{}:{}", case.file, case.line));
            print(&format!("{} {}  {place}", paint.tick(case.passed), line(&case.name)))?;
            if !case.passed {
                let (expected, found) = (line(&case.expected), line(&case.found));
                print(&format!("    expected {expected}, found {found}"))?;
                let why = case.explanation.as_ref().map(|why| line(&why.reason));
                why.map_or(Ok(()), |why| print(&format!("    {why}")))?;
            }
        }
        let passed: usize = reports.iter().map(|report| report.passed).sum();
        print(&format!("{passed} hold, {failed} do not"))?;
        let untested: Vec<_> = reports.iter().map(|report| report.untested.as_slice()).collect();
        if let [only] = untested[..]
            && !only.is_empty()
        {
            print(&format!("no case is decided by: {}", line(&only.join(", "))))?;
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(code::DENIED) })
}

/// Says how a statement is decided. Exit 0 for allow and hold, 4 for deny.
pub fn explain(config: &Config, args: &Explain, json: bool) -> Result<ExitCode> {
    let bench = Bench::new(config)?;
    let case = match &args.event {
        Some(event) => Case::of_event(config, event, args.offline)?,
        None => Case::of_args(config, args)?,
    };
    let (name, part) = match case.resource.split_once('/') {
        Some((name, part)) => (name, Some(part)),
        None => (case.resource.as_str(), None),
    };
    let resource = bench.resource(name)?;
    let reveals = |class: &str| {
        bench.bundle.reveals(&RevealRequest {
            principal: &case.principal,
            resource: &resource,
            part,
            origin: &case.origin,
            now: case.now,
            class,
        })
    };
    let mut masked = None;
    let explanation = match &case.statement {
        None => {
            let (who, from) = (&case.principal, &case.origin);
            bench.bundle.explain_open(who, &resource, from, case.now)
        }
        Some(text) => {
            let read = bench.read(&case.resource, text);
            let mut command = read.map_err(|why| anyhow!("the statement cannot be read: {why}"))?;
            masked = Some(bench.mask(&case.resource, text, &mut command, &reveals));
            bench.bundle.explain(&Request {
                principal: &case.principal,
                resource: &resource,
                part,
                origin: &case.origin,
                command: &command,
                now: case.now,
                approved: false,
            })
        }
    };
    let unmaskable = matches!(masked, Some(Err(_)));
    if json {
        let mut value = serde_json::to_value(&explanation)?;
        match &masked {
            Some(Ok(Masked::Statement(Some(sent)))) => {
                value["sent_with_masks"] = sent.as_str().into();
            }
            Some(Ok(Masked::Answer(what))) if !what.is_empty() => {
                value["answer_masked"] = what.as_slice().into();
            }
            Some(Err(why)) => value["masks_refuse"] = why.as_str().into(),
            Some(Ok(_)) | None => {}
        }
        print(&serde_json::to_string_pretty(&value)?)?;
    } else {
        let other = case.bundle.filter(|bundle| *bundle != bench.bundle.digest());
        print(&told(&explanation))?;
        match &masked {
            Some(Ok(Masked::Statement(Some(sent)))) => {
                print(&format!("sent with masks: {}", safe(sent)))?;
            }
            Some(Ok(Masked::Answer(what))) => {
                for what in what {
                    print(&format!("masked in the answer: {}", line(what)))?;
                }
            }
            Some(Err(why)) => {
                let bad = Paint::new().bad("refused because of masks");
                print(&format!("{bad}: {}", safe(why)))?;
            }
            Some(Ok(Masked::Statement(None))) | None => {}
        }
        if let Some(other) = other {
            let then = other.short(12);
            print(&format!(
                "note: it was decided by another bundle then, {then}; this is today's"
            ))?;
        }
    }
    let denied = unmaskable || explanation.decision == "deny";
    Ok(if denied { ExitCode::from(code::DENIED) } else { ExitCode::SUCCESS })
}

fn told(e: &Explanation) -> String {
    let paint = Paint::new();
    let decision = match e.decision {
        "allow" => paint.good("allow"),
        "hold" => paint.warn("hold"),
        other => paint.bad(other),
    };
    let mut out = format!("{decision}: {}\n", safe(&e.reason));
    let mut put = |name: &str, value: String| {
        if !value.is_empty() {
            out.push_str(&format!("  {name:10} {}\n", line(&value)));
        }
    };
    put("principal", format!("{} ({})", e.principal, e.kind));
    put("groups", e.groups.join(", "));
    put("resource", e.resource.clone());
    put("action", e.action.clone());
    put("effects", e.effects.join(", "));
    put("policies", e.policies.join(", "));
    put("bundle", e.bundle.chars().take(12).collect());
    if let Some(hold) = &e.hold {
        let groups = hold.groups.join(", ");
        put("hold", format!("{} of group {groups}, {} s", hold.quorum, hold.expires_ms / 1_000));
    }
    for (name, limit) in [("rows max", e.rows_max), ("bytes max", e.bytes_max)] {
        put(name, limit.map(|limit| limit.to_string()).unwrap_or_default());
    }
    put("notify", e.notify.join(", "));
    for question in &e.questions {
        let need = if question.needs_permit { "" } else { " (must not be forbidden)" };
        let action = line(&question.action);
        let on = line(&question.resource);
        out.push_str(&format!("  {} on {on}{need}: {}\n", action, question.answer));
        for (word, notes) in [
            ("by", &question.policies),
            ("error in", &question.errors),
            ("its conditions do not hold:", &question.missed),
            ("nearest:", &question.nearest),
        ] {
            notes.iter().for_each(|note| out.push_str(&noted(word, note)));
        }
    }
    e.reached_by.iter().for_each(|note| out.push_str(&noted("would be reached by", note)));
    out
}

fn noted(word: &str, note: &PolicyNote) -> String {
    let more = note.note.as_deref().map(|text| format!(" — {text}")).unwrap_or_default();
    let text = format!("{word} {} `{}` {}:{}{more}", note.effect, note.id, note.file, note.line);
    format!("      {}\n", line(&text))
}

/// Who asks for what, from where and when.
struct Case {
    principal: Principal,
    resource: String,
    statement: Option<String>,
    origin: Origin,
    now: Timestamp,
    /// The bundle that decided it when it was recorded.
    bundle: Option<Digest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Who {
    id: String,
    #[serde(default)]
    kind: file::PrincipalKind,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    attributes: BTreeMap<String, Value>,
    #[serde(default)]
    bound: bool,
}

fn principal(
    id: &str,
    kind: PrincipalKind,
    groups: Vec<String>,
    attributes: BTreeMap<Arc<str>, Attribute>,
    now: Timestamp,
) -> Result<Principal> {
    let form = "a principal is `issuer|subject`";
    let (issuer, subject) =
        id.split_once('|').with_context(|| format!("{form}: `{}`", line(id)))?;
    Ok(Principal {
        id: PrincipalId::new(issuer, subject)?,
        kind,
        issuer: issuer.into(),
        groups: groups.into_iter().map(Into::into).collect(),
        attributes,
        proof: Proof {
            kind: CredentialKind::Jwt,
            hash: Digest::ZERO,
            jti: None,
            kid_tail: None,
            issued_at: now,
            expires_at: now.plus_ms(600_000),
            verified_at: now,
            bound: false,
            jwks_stale: false,
        },
    })
}

fn attribute(name: &str, value: &Value) -> Result<Attribute> {
    let text = |value: &Value| value.as_str().map(Arc::<str>::from);
    let found = match value {
        Value::String(text) => Some(Attribute::Text(text.as_str().into())),
        Value::Bool(flag) => Some(Attribute::Flag(*flag)),
        Value::Number(number) => number.as_i64().map(Attribute::Number),
        Value::Array(all) => all.iter().map(text).collect::<Option<_>>().map(Attribute::Set),
        Value::Null | Value::Object(_) => None,
    };
    found.with_context(|| format!("the attribute `{}` has no kind that policy knows", line(name)))
}

fn local() -> Origin {
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Origin { address, port: 0, tls: "TLSv1.3".into(), certificate: None }
}

impl Case {
    fn of_args(config: &Config, args: &Explain) -> Result<Self> {
        let (who, resource) = match (&args.principal, &args.resource) {
            (Some(who), Some(resource)) => (who.trim(), resource),
            _ => bail!("--principal and --resource are needed"),
        };
        let mut who: Who = if who.starts_with('{') {
            serde_json::from_str(who).context("read the principal's JSON")?
        } else {
            let (groups, attributes) = Default::default();
            let (id, kind) = (who.to_owned(), file::PrincipalKind::Workload);
            Who { id, kind, groups, attributes, bound: false }
        };
        who.groups.extend(args.group.iter().cloned());
        let issuer = who.id.split_once('|').map_or("", |(issuer, _)| issuer);
        if !config.issuers.contains_key(issuer) && !config.trust_domains.contains_key(issuer) {
            let known: Vec<_> = config.issuers.keys().chain(config.trust_domains.keys()).collect();
            bail!("no issuer `{}` is configured; there is {known:?}", line(issuer));
        }
        let now = SystemClock::default().now();
        let mut attributes = BTreeMap::new();
        for (name, value) in &who.attributes {
            attributes.insert(name.as_str().into(), attribute(name, value)?);
        }
        let mut principal = principal(&who.id, who.kind.into(), who.groups, attributes, now)?;
        principal.proof.bound = who.bound;
        Ok(Self {
            principal,
            resource: resource.clone(),
            statement: args.sql.clone(),
            origin: local(),
            now,
            bundle: None,
        })
    }

    /// A recorded command, with who asked and where from.
    fn of_event(config: &Config, event: &str, offline: bool) -> Result<Self> {
        let form = || format!("`{}` names no event, such as a refusal's", line(event));
        let wanted = EventId::parse(event).with_context(form)?;
        sessions::note_reading(config, &format!("policy explain {wanted}"), offline)?;
        let reader = sessions::reader(config)?;
        let session = reader.session(wanted.session)?;
        let (mut opened, mut protocol) = (None, String::new());
        for event in session.events() {
            let event = event?;
            let (entry, detail) = (&event.entry, &event.detail);
            if let Some(name) = &entry.protocol {
                protocol.clone_from(name);
            }
            let seq = entry.session.map(|link| link.seq);
            if opened.is_none() {
                let who = detail.principal.clone().filter(|_| event.kind() == Kind::Open);
                let away =
                    || format!("it opened no session; see: bulla sessions show {}", wanted.session);
                let who = who.with_context(away)?;
                let name = entry.resource.clone().context("the session has no resource")?;
                let default = config.resources.get(&name).and_then(|r| r.target.database.clone());
                let part = detail.part.clone().filter(|part| Some(part) != default.as_ref());
                let asked = match part {
                    Some(part) if part != name => format!("{name}/{part}"),
                    _ => name,
                };
                opened = Some((who, asked, detail.address.clone()));
            }
            if seq == Some(wanted.seq)
                && let Some((who, resource, address)) = opened
            {
                let now = Timestamp(entry.t_wall_ns);
                let mut origin = local();
                let ip = address.and_then(|address| address.parse::<std::net::SocketAddr>().ok());
                origin.address = ip.map_or(origin.address, |ip| ip.ip());
                let sent = if event.flow() == Some(Flow::ToTarget) {
                    session.payload_bytes(&event)?
                } else {
                    Vec::new()
                };
                return Ok(Self {
                    principal: recorded(config, &who, now)?,
                    resource,
                    statement: registry::statement(&protocol, detail.shown.clone(), &sent),
                    origin,
                    now,
                    bundle: entry.policy.map(Digest),
                });
            }
        }
        bail!("session {} has no entry {}", wanted.session, wanted.seq)
    }
}

/// A principal as it stood in the record. Attributes are texts there; the configuration says what
/// they were.
fn recorded(config: &Config, who: &PrincipalDetail, now: Timestamp) -> Result<Principal> {
    let alias = who.id.split_once('|').map_or("", |(alias, _)| alias);
    let mapped = config.issuers.get(alias).map(|issuer| &issuer.attributes);
    let mut attributes = BTreeMap::new();
    for (name, text) in &who.attributes {
        let kind = mapped.and_then(|all| all.get(name)).map(|attribute| attribute.kind);
        let value = match kind.unwrap_or_default() {
            file::AttributeKind::Text => Attribute::Text(text.as_str().into()),
            file::AttributeKind::Flag => Attribute::Flag(text == "true"),
            file::AttributeKind::Number => Attribute::Number(text.parse().unwrap_or_default()),
            file::AttributeKind::Set => {
                Attribute::Set(text.split(", ").filter(|t| !t.is_empty()).map(Into::into).collect())
            }
        };
        attributes.insert(name.as_str().into(), value);
    }
    let kind = if who.kind == "human" { PrincipalKind::Human } else { PrincipalKind::Workload };
    let mut principal = principal(&who.id, kind, who.groups.clone(), attributes, now)?;
    principal.issuer = who.issuer.as_str().into();
    principal.proof.bound = who.bound;
    principal.proof.jwks_stale = who.jwks_stale;
    if who.credential == CredentialKind::ClientCertificate.as_str() {
        principal.proof.kind = CredentialKind::ClientCertificate;
    }
    Ok(principal)
}
