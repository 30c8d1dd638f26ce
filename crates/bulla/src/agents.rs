//! Agents on the gateway's side: their door, and what operators do with them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use bulla_core::{AdminRecord, Boxed, Clock, Identity, PolicySource, Recorder};
use bulla_engine::SystemClock;
use bulla_identity::Verifier;
use bulla_ledger::Ledger;
use bulla_tunnel::{
    Authority, CERTIFICATE_TTL_MAX, Door, DoorConfig, Identities, InstanceId, JoinToken, Notes,
    Old, Pin, Roster, Rule,
};
use serde_json::{Value, json};

use crate::{
    admin,
    cli::Agents,
    config::{Config, file, value::Time},
    gateway::{Running, Who},
    policies::Current,
    print,
    say::{self, Paint, line},
};

/// Writes what happens to agents into the gateway's own session.
pub struct Record {
    ledger: Arc<Ledger>,
    clock: Arc<SystemClock>,
    policies: Arc<Current>,
}

impl Record {
    pub fn new(ledger: Arc<Ledger>, clock: Arc<SystemClock>, policies: Arc<Current>) -> Self {
        Self { ledger, clock, policies }
    }
}

impl Notes for Record {
    fn note<'a>(&'a self, by: &'a str, detail: &'a str) -> Boxed<'a, Result<(), String>> {
        let record = AdminRecord {
            at: self.clock.now(),
            kind: "agent",
            by: by.into(),
            detail: detail.into(),
            digest: self.policies.current().map(|bundle| bundle.digest()),
        };
        let pending = self.ledger.admin(&record);
        Box::pin(async move {
            let pending = pending.map_err(|error| error.to_string())?;
            pending.await.map(drop).map_err(|error| error.to_string())
        })
    }
}

/// Who may enrol an agent without a join token.
pub fn identities(
    from: &file::Agents,
    who: Arc<Who>,
    config: &Config,
    verifier: &Verifier,
) -> Identities {
    let rule = |(agent, enrol): (&String, &file::Enrol)| Rule {
        agent: agent.as_str().into(),
        principal: enrol.principal.as_str().into(),
        resources: enrol.resources.iter().map(|name| name.as_str().into()).collect(),
    };
    let clients = (!config.trust_domains.is_empty()).then(|| verifier.client_verifier());
    Identities {
        identity: who as Arc<dyn Identity>,
        clients,
        rules: from.enrol.iter().map(rule).collect(),
    }
}

/// The door for agents, if the configuration has one.
pub async fn door(
    config: &Config,
    who: &Arc<Who>,
    clock: Arc<SystemClock>,
    notes: Arc<Record>,
) -> Result<Option<Arc<Door>>> {
    let Some(from) = &config.agents else { return Ok(None) };
    let (dir, name, now) = (config.agents_dir(), config.gateway.name.clone(), clock.now());
    let opened = tokio::task::spawn_blocking(move || -> Result<_> {
        bulla_tunnel::private_folder(&dir).with_context(|| format!("make `{}`", dir.display()))?;
        let authority = Authority::open(&dir.join("authority.pem"), &name, now)?;
        Ok((authority, Arc::new(Roster::open(dir.join("roster.json"))?)))
    });
    let (authority, roster) = opened.await??;
    let door = DoorConfig {
        address: from.listen,
        gateway: config.origin(),
        certificate_ttl: Duration::from_millis(from.certificate.ms),
        keepalive: Duration::from_millis(from.keepalive.ms),
    };
    let identities = identities(from, who.clone(), config, &who.verifier());
    Ok(Some(Door::new(door, authority, roster, notes, clock, identities)?))
}

fn need(running: &Running) -> Result<&Arc<Door>, String> {
    running.door.as_ref().ok_or_else(|| "there is no [agents] table: agents have no door".into())
}

/// Enrolled agents and their tunnels, for `agents ls`.
pub fn view(running: &Running) -> Result<Value, String> {
    let door = need(running)?;
    let now = running.clock.now();
    let mut tunnels: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for tunnel in door.fleet.list() {
        tunnels.entry(tunnel.instance.clone()).or_default().push(tunnel);
    }
    let mut rows = Vec::new();
    for one in door.roster.list() {
        let own = tunnels.remove(&one.instance).unwrap_or_default();
        let state = if one.revoked_by.is_some() {
            "revoked"
        } else if own.iter().any(|tunnel| !tunnel.draining) {
            "online"
        } else if !own.is_empty() {
            "draining"
        } else if one.expires <= now {
            "expired"
        } else {
            "offline"
        };
        let first = own.first();
        rows.push(json!({
            "agent": &*one.name,
            "instance": one.instance.as_str(),
            "state": state,
            "resources": one.resources.iter().map(|name| &**name).collect::<Vec<_>>(),
            "enrolled": one.enrolled.to_string(),
            "by": &*one.how,
            "certificate_until": one.expires.to_string(),
            "revoked_by": one.revoked_by.as_deref(),
            "tunnels": own.len(),
            "streams": own.iter().map(|tunnel| tunnel.streams).sum::<usize>(),
            "source": first.map(|tunnel| tunnel.peer.to_string()),
            "since": first.map(|tunnel| tunnel.since.to_string()),
            "build": first.map(|tunnel| bulla_tunnel::clip(&tunnel.build)),
            "round_trip_us": first.map(|tunnel| tunnel.round_trip_us),
        }));
    }
    Ok(json!({ "pin": Pin(door.authority().pin()).to_string(), "agents": rows }))
}

/// For `health`: which agents that a resource names are here.
pub fn health(running: &Running) -> Value {
    let Some(door) = &running.door else { return Value::Null };
    let live = door.fleet.list();
    let here = |name: &str| live.iter().any(|one| &*one.name == name && !one.draining);
    running
        .agent_names()
        .into_iter()
        .map(|name| {
            let online = here(&name);
            (name, json!({ "online": online }))
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

pub fn make_token(running: &Running, by: &str, request: &Value) -> Result<Value, String> {
    let door = need(running)?;
    let name = request.get("name").and_then(Value::as_str).ok_or("`name` is missing")?;
    let ttl = request.get("ttl_ms").and_then(Value::as_u64).ok_or("`ttl_ms` is missing")?;
    let own: Vec<String> = running
        .config()
        .resources
        .iter()
        .filter(|(_, from)| from.agent.iter().any(|agent| agent == name))
        .map(|(resource, _)| resource.clone())
        .collect();
    let asked = request.get("resources").and_then(Value::as_array).into_iter().flatten();
    let mut resources: Vec<_> = asked.filter_map(Value::as_str).map(str::to_owned).collect();
    if resources.is_empty() {
        resources.clone_from(&own);
    }
    let name = name.escape_debug();
    if let Some(other) = resources.iter().find(|one| !own.contains(one)) {
        let other = other.escape_debug();
        return Err(format!("no resource `{other}` has `agent = \"{name}\"`; set it first"));
    }
    if resources.is_empty() {
        return Err(format!("no resource has `agent = \"{name}\"`; set it first"));
    }
    let name = name.to_string();
    let list = resources.join(", ");
    running.note("agent", by, &format!("make a join token for agent `{name}`: {list}"))?;
    let token = JoinToken::new(door.authority().pin()).ok_or("the system has no randomness")?;
    let (ttl, now) = (Duration::from_millis(ttl), running.clock.now());
    let added = door.roster.add_token(token.hash(), &name, &resources, ttl, by, now);
    added.map_err(|error| error.to_string())?;
    Ok(json!({ "token": token.reveal(), "agent": name, "resources": resources }))
}

pub fn revoke(running: &Running, by: &str, request: &Value) -> Result<Value, String> {
    let door = need(running)?;
    let name = request.get("name").and_then(Value::as_str).ok_or("`name` is missing")?;
    let instance = match request.get("instance").and_then(Value::as_str) {
        Some(text) => Some(InstanceId::parse(text).ok_or("that is not an instance's id")?),
        None => None,
    };
    let shown = name.escape_debug();
    let which = instance.as_ref().map_or_else(String::new, |id| format!(" ({id})"));
    running.note("agent", by, &format!("revoke agent `{shown}`{which}"))?;
    let revoked = door.roster.revoke(name, instance.as_ref(), by, running.clock.now());
    let revoked = revoked.map_err(|error| error.to_string())?;
    door.fleet.end(name, instance.as_ref(), "revoked");
    Ok(json!({ "agent": name, "revoked": revoked }))
}

/// Replaces the key of the agents' authority.
pub fn rotate(running: &Running, by: &str, request: &Value) -> Result<Value, String> {
    let door = need(running)?;
    let old = match request.get("at_once").and_then(Value::as_bool) {
        Some(true) => Old::Ends,
        Some(false) | None => Old::Runs,
    };
    let (now, before) = (running.clock.now(), door.authority());
    let next = before.successor(&running.config().gateway.name, old, now);
    let next = next.map_err(|error| error.to_string())?;
    let (was, is) = (Pin(before.pin()).to_string(), Pin(next.pin()).to_string());
    let until = now.plus_ms(u64::try_from(CERTIFICATE_TTL_MAX.as_millis()).unwrap_or(u64::MAX));
    let fate = match old {
        Old::Runs => format!("is believed until {until}"),
        Old::Ends => "is believed no more".to_owned(),
    };
    running.note("agent", by, &format!("replace the agents' authority by {is}; {was} {fate}"))?;
    door.replace(next, old).map_err(|error| error.to_string())?;
    Ok(json!({ "pin": is, "before": was, "before_is": fate }))
}

/// `bulla agents …`.
pub fn run(config: &Config, command: &Agents, json: bool) -> Result<()> {
    let request = match command {
        Agents::Ls | Agents::Pin => json!({ "do": "agents" }),
        Agents::Revoke { name, instance } => {
            json!({ "do": "agent_revoke", "name": name, "instance": instance })
        }
        Agents::Rotate { at_once } => json!({ "do": "agent_rotate", "at_once": at_once }),
    };
    let answer = admin::call(&config.socket(), &request)?;
    let words = match (command, answer.get("agents").and_then(Value::as_array)) {
        (Agents::Pin, _) => answer.get("pin").and_then(Value::as_str).unwrap_or("?").to_owned(),
        _ if json => answer.to_string(),
        (Agents::Ls, Some(rows)) if rows.is_empty() => "no agent is enrolled".to_owned(),
        (Agents::Ls, Some(rows)) => {
            let mut rows = rows.clone();
            for row in &mut rows {
                if let Some(list) = row.get("resources").and_then(Value::as_array) {
                    let names: Vec<_> = list.iter().filter_map(Value::as_str).collect();
                    row["resources"] = names.join(",").into();
                }
            }
            let columns = [
                ("agent", "AGENT"),
                ("instance", "INSTANCE"),
                ("state", "STATE"),
                ("resources", "RESOURCES"),
                ("streams", "STREAMS"),
                ("source", "SOURCE"),
                ("certificate_until", "CERTIFICATE UNTIL"),
                ("by", "ENROLLED BY"),
            ];
            say::table(&rows, &columns)
        }
        (Agents::Revoke { name, .. }, _) => {
            let revoked = answer.get("revoked").and_then(Value::as_u64).unwrap_or_default();
            format!("{} {}: {revoked} revoked", Paint::new().tick(true), line(name))
        }
        (Agents::Rotate { .. }, _) => {
            let said = |key| line(answer.get(key).and_then(Value::as_str).unwrap_or("?"));
            let tick = Paint::new().tick(true);
            format!("{tick} {}\n{} {}", said("pin"), said("before"), said("before_is"))
        }
        (Agents::Ls, None) => bail!("the gateway's answer makes no sense"),
    };
    Ok(print(&words)?)
}

/// `bulla agent join-token`. The token alone goes to stdout, to be piped.
pub fn join_token(
    config: &Config,
    name: &str,
    resources: &[String],
    ttl: Time,
    json: bool,
) -> Result<()> {
    let request =
        json!({ "do": "agent_token", "name": name, "resources": resources, "ttl_ms": ttl.ms });
    let answer = admin::call(&config.socket(), &request)?;
    if json {
        return Ok(print(&answer.to_string())?);
    }
    let token = answer.get("token").and_then(Value::as_str);
    let token = token.context("the gateway's answer makes no sense")?;
    let list = answer.get("resources").and_then(Value::as_array);
    let list: Vec<_> = list.into_iter().flatten().filter_map(Value::as_str).collect();
    let (name, list) = (line(name), line(&list.join(", ")));
    eprintln!("good once, for {ttl}: agent {name} may serve {list}");
    Ok(print(token)?)
}
