//! `bulla doctor` and `bulla health`: how things are, and what to do about it.

use std::{collections::BTreeMap, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Result;
use bulla_core::Clock;
use bulla_engine::{Connector, SystemClock};
use serde_json::{Value, json};

use crate::{
    admin,
    config::{Config, file},
    fail::{Invalid, code},
    gateway, judge, policies, print, registry,
    roads::{self, Roads},
    say::{self, Paint, count, line},
};

/// How long issuers may take.
const ISSUERS_WAIT: Duration = Duration::from_secs(15);
/// A certificate that ends sooner is worth a warning.
const SOON_SECS: i64 = 14 * 86_400;
/// Free space below which the disk is worth a warning.
const FREE_BYTES_MIN: u64 = 10 << 30;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Good,
    Warning,
    Bad,
}

/// What was found, by area.
#[derive(Default)]
struct Found(BTreeMap<&'static str, Vec<(Level, String)>>);

impl Found {
    fn put(&mut self, area: &'static str, level: Level, words: impl Into<String>) {
        self.0.entry(area).or_default().push((level, words.into()));
    }

    fn is_bad(&self) -> bool {
        self.0.values().flatten().any(|(level, _)| *level == Level::Bad)
    }

    fn text(&self, paint: Paint) -> String {
        let mut out = String::new();
        for (area, lines) in &self.0 {
            for (i, (level, words)) in lines.iter().enumerate() {
                let sign = match level {
                    Level::Good => paint.good("✓"),
                    Level::Warning => paint.warn("‼"),
                    Level::Bad => paint.bad("✗"),
                };
                let area = if i == 0 { *area } else { "" };
                out.push_str(&format!("{area:10} {sign} {}\n", line(words)));
            }
        }
        out
    }

    fn json(&self) -> Value {
        let word = |level: &Level| match level {
            Level::Good => "good",
            Level::Warning => "warning",
            Level::Bad => "bad",
        };
        let one = |(level, words): &(Level, String)| json!({ "level": word(level), "text": words });
        let areas = self
            .0
            .iter()
            .map(|(area, lines)| (area.to_string(), lines.iter().map(one).collect::<Value>()));
        Value::Object(areas.collect())
    }
}

/// How the running gateway is. Exit 0 only if it is ready.
pub fn health(config: &Config, json: bool) -> Result<ExitCode> {
    let health = admin::call(&config.socket(), &json!({ "do": "health" }))?;
    let ready = health.get("ready").and_then(Value::as_bool).unwrap_or(false);
    if json {
        print(&health.to_string())?;
    } else {
        let paint = Paint::new();
        let why = health.get("why").and_then(Value::as_str).unwrap_or("ready");
        let number = |key: &str| health.get(key).and_then(Value::as_u64).unwrap_or_default();
        let (sessions, asks) = (count(number("sessions")), count(number("asks")));
        let words = format!("{}; {sessions} sessions, {asks} commands wait", line(why));
        print(&format!("{} {words}", paint.tick(ready)))?;
    }
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::from(code::ERROR) })
}

/// A look at everything around the gateway. Exit 1 if something is broken.
pub fn run(config: &Config, json: bool) -> Result<ExitCode> {
    let mut found = Found::default();
    let protocols = config.protocols()?;
    match policies::load(config, &protocols) {
        Ok(bundle) => {
            found.put("policy", Level::Good, format!("{} policies hold", bundle.policy_count()));
        }
        Err(problems) => {
            for problem in Invalid::policies(problems).lines {
                found.put("policy", Level::Bad, problem);
            }
        }
    }
    let running = admin::call(&config.socket(), &json!({ "do": "health" }));
    recording(config, running.as_ref().ok(), &mut found);
    certificate(config, &mut found);
    let runtime = crate::runtime()?;
    runtime.block_on(async {
        identity(config, &mut found).await;
        targets(config, &protocols, running.as_ref().ok(), &mut found).await;
    });
    if json {
        print(&found.json().to_string())?;
    } else {
        print(&found.text(Paint::new()))?;
    }
    Ok(if found.is_bad() { ExitCode::from(code::ERROR) } else { ExitCode::SUCCESS })
}

fn recording(config: &Config, health: Option<&Value>, found: &mut Found) {
    const AREA: &str = "recording";
    let Some(record) = health.and_then(|health| health.get("record")) else {
        let data = config.data();
        let words = format!("no gateway answers at {}", config.socket().display());
        found.put(AREA, Level::Warning, format!("{words}; start it to see how it records"));
        if !data.exists() {
            found.put(AREA, Level::Warning, format!("`{}` is made at start", data.display()));
        }
        witness(found);
        return;
    };
    let number = |key: &str| record.get(key).and_then(Value::as_u64).unwrap_or_default();
    match record.get("error").and_then(Value::as_str) {
        Some(error) => found.put(AREA, Level::Bad, format!("nothing can be recorded: {error}")),
        None => {
            let ms = |key: &str| {
                let us = number(key);
                format!("{}.{:02}", us / 1_000, us % 1_000 / 10)
            };
            let (p50, p99) = (ms("flush_p50_us"), ms("flush_p99_us"));
            let entries = count(number("entries"));
            let words = format!("{entries} entries, durable in {p50} ms (p99 {p99})");
            found.put(AREA, Level::Good, words);
        }
    }
    let free = number("free_bytes");
    let level = if free < FREE_BYTES_MIN { Level::Warning } else { Level::Good };
    found.put(AREA, level, format!("{} free", say::size(free)));
    if record.get("real_time").and_then(Value::as_bool) == Some(true) {
        found.put(AREA, Level::Good, "real-time committer");
    } else {
        let words = "the committer has no real-time priority; give the gateway CAP_SYS_NICE";
        found.put(AREA, Level::Warning, words);
    }
    witness(found);
}

fn witness(found: &mut Found) {
    let words = "no witness is configured: an administrator of this host could cut the tail \
                 unseen; keep checkpoints elsewhere and verify with --earlier (docs/operations.md)";
    found.put("recording", Level::Warning, words);
}

fn certificate(config: &Config, found: &mut Found) {
    const AREA: &str = "tls";
    let pair = crate::tls::server_pair(config);
    let ends = pair.as_ref().ok().and_then(|pair| pair.cert.first()).and_then(|leaf| {
        let (_, leaf) = x509_parser::parse_x509_certificate(leaf).ok()?;
        Some(leaf.validity().not_after.timestamp())
    });
    let now = i64::try_from(SystemClock::default().now().secs()).unwrap_or(i64::MAX);
    match ends {
        None => found.put(AREA, Level::Bad, "the gateway's certificate cannot be read"),
        Some(ends) if ends <= now => {
            found.put(AREA, Level::Bad, "the gateway's certificate has expired");
        }
        Some(ends) => {
            let left = ends - now;
            let level = if left < SOON_SECS { Level::Warning } else { Level::Good };
            let left = match left / 86_400 {
                0 | 1 => format!("{} hours", left / 3_600),
                days => format!("{days} days"),
            };
            found.put(AREA, level, format!("the gateway's certificate is good for {left}"));
        }
    }
}

async fn identity(config: &Config, found: &mut Found) {
    const AREA: &str = "identity";
    let clock = Arc::new(SystemClock::default());
    let verifier = match bulla_identity::Verifier::new(&config.identity(), clock) {
        Ok(verifier) => verifier,
        Err(problems) => {
            for problem in problems {
                found.put(AREA, Level::Bad, problem.to_string());
            }
            return;
        }
    };
    let waited = tokio::time::timeout(ISSUERS_WAIT, verifier.attempted()).await;
    if waited.is_err() {
        found.put(AREA, Level::Warning, "not every issuer answered in time");
    }
    for status in verifier.status() {
        let alias = &status.alias;
        if !status.ready {
            let why = status.last_error.as_ref().map(ToString::to_string);
            let why = why.unwrap_or_else(|| "no answer".into());
            found.put(AREA, Level::Bad, format!("{alias}: no keys from {}: {why}", status.issuer));
            continue;
        }
        let offset = status.clock_offset_ms.unwrap_or(0);
        let ignored = match status.keys_ignored {
            0 => String::new(),
            n => format!(", {n} left out"),
        };
        let words = format!("{alias}: {} keys{ignored}, clock offset {offset} ms", status.keys);
        let level = if offset.unsigned_abs() > 5_000 { Level::Warning } else { Level::Good };
        found.put(AREA, level, words);
    }
    for (alias, domain) in &config.trust_domains {
        let words = format!("{alias}: trust bundle of {} is read", domain.trust_domain);
        found.put(AREA, Level::Good, words);
    }
    verifier.shutdown().await;
}

/// Whether a target answers, and its secret is there.
async fn dial(config: &Config, name: &str) -> anyhow::Result<()> {
    use bulla_host::Connector as _;
    let dialer = roads::hosted_roads(config, None)?;
    dialer.dial(name, &[]).await?;
    dialer.secret(name).await?;
    Ok(())
}

/// What only agents reach: the running gateway knows whether they are here.
fn agents(name: &str, from: &file::Resource, health: Option<&Value>, found: &mut Found) {
    let online = |agent: &str| {
        health
            .and_then(|health| health.get("agents")?.get(agent)?.get("online")?.as_bool())
            .unwrap_or(false)
    };
    let (here, away): (Vec<_>, Vec<_>) = from.agent.iter().partition(|agent| online(agent));
    let list = |names: &[&String]| {
        let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        names.join(", ")
    };
    let level = if here.is_empty() { Level::Bad } else { Level::Warning };
    if !away.is_empty() {
        let help = "run it, or let it join with `bulla agent join-token`";
        let words = format!("{name}: agent {} is offline; {help}", list(&away));
        found.put("targets", level, words);
    }
    if !here.is_empty() {
        found.put("targets", Level::Good, format!("{name}: agent {} is online", list(&here)));
    }
}

async fn targets(
    config: &Config,
    protocols: &registry::Protocols,
    health: Option<&Value>,
    found: &mut Found,
) {
    const AREA: &str = "targets";
    let connector = match Roads::new(config, protocols, None) {
        Ok(connector) => connector,
        Err(error) => return found.put(AREA, Level::Bad, format!("{error:#}")),
    };
    for (name, from) in &config.resources {
        if !from.agent.is_empty() {
            agents(name, from, health, found);
            continue;
        }
        if from.target.tls != file::TargetTls::VerifyFull {
            let words = format!("{name}: the target's certificate is not verified");
            found.put(AREA, Level::Warning, words);
        }
        if registry::is_hosted(&from.protocol) {
            match dial(config, name).await {
                Ok(()) => found.put(AREA, Level::Good, format!("{name}: reachable")),
                Err(error) => found.put(AREA, Level::Bad, format!("{name}: {error:#}")),
            }
            continue;
        }
        let place = gateway::resource(config, name, from).ok();
        let place = place.and_then(|resource| connector.place(&resource, None));
        let (Some(place), Some(protocol)) = (place, connector.protocol(name)) else {
            found.put(AREA, Level::Bad, format!("{name}: no way to it"));
            continue;
        };
        match connector.connect(&place, Vec::new()).await {
            Err(error) => {
                found.put(AREA, Level::Bad, format!("{name}: {error}"));
                continue;
            }
            Ok(connected) => {
                let account = &connected.hello.account;
                found.put(AREA, Level::Good, format!("{name}: reachable, login ok as {account}"));
            }
        }
        match judge::learn(&connector, &*protocol, &place).await {
            Ok(()) => found.put(AREA, Level::Good, format!("{name}: its catalogue can be read")),
            Err(error) => {
                let words = format!("{name}: its catalogue cannot be read: {error:#}");
                found.put(AREA, Level::Bad, words);
            }
        }
    }
}
