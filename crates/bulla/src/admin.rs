//! The admin socket: one line of JSON each way, for operators on this host. Who connects is known
//! from the kernel, and each act is an entry before it is done.
//!
//! | `do` | needs | answers |
//! |---|---|---|
//! | `sessions` | | live sessions |
//! | `kill` | `session` | |
//! | `approvals` | | asks that wait |
//! | `approval` | `id` | one of them |
//! | `approve`, `reject` | `id`; `reason`, `token` may be | |
//! | `read` | `what` | notes that evidence is read |
//! | `agents` | | enrolled agents, with their tunnels, and the pin |
//! | `agent_token` | `name`, `resources`, `ttl_ms` | a join token |
//! | `agent_revoke` | `name`; `instance` may be | |
//! | `agent_rotate` | `at_once` may be | the pins of the new authority and of the old one |
//! | `health` | | record, issuers, sessions |
//! | `reveal_policy` | | digest and number of policies in force |

use std::{
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bulla_core::{
    Clock, Credential, Identity, Origin, PolicySource, PrincipalKind, Recorder, Secret, SessionId,
};
use bulla_engine::Approver;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};

use crate::{agents, fail::Denied, gateway::Running};

/// Longest request: a token and a reason.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Longest answer that a client of the socket reads.
const ANSWER_BYTES_MAX: u64 = 256 << 20;
/// Operators served at once.
const CALLS_MAX: usize = 64;
const CALL_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest reason for an answer.
const REASON_CHARS_MAX: usize = 1_000;

pub fn listen(running: Arc<Running>, path: &Path) -> Result<()> {
    // A socket that is left from a run that was killed is dead: the ledger's lock says so.
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    tokio::spawn(async move {
        loop {
            let Ok(permit) = calls.clone().acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let running = running.clone();
            tokio::spawn(async move {
                let served = tokio::time::timeout(CALL_TIME_MAX, serve(&running, stream)).await;
                if let Ok(Err(error)) = served {
                    tracing::debug!(%error, "admin socket");
                }
                drop(permit);
            });
        }
    });
    Ok(())
}

/// The name of a user of this host.
fn user_name(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid) && !name.is_empty()).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| format!("uid-{uid}"))
}

async fn serve(running: &Arc<Running>, stream: UnixStream) -> Result<()> {
    let uid = stream.peer_cred()?.uid();
    // The socket's mode says so too; this holds while it is being made.
    let ours = std::fs::metadata("/proc/self").map(|own| own.uid());
    let allowed = uid == 0 || ours.is_ok_and(|ours| ours == uid);
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(LINE_BYTES_MAX)).read_line(&mut line).await?;
    let running = running.clone();
    let answer = tokio::task::spawn_blocking(move || {
        if !allowed {
            return Err("only the gateway's own user and root may do this".to_owned());
        }
        let request = serde_json::from_str(&line).map_err(|error| error.to_string())?;
        act(&running, &format!("local:{}", user_name(uid)), &request)
    })
    .await?;
    let answer = match answer {
        Ok(value) => json!({ "ok": value }),
        Err(error) => json!({ "error": error }),
    };
    write.write_all(format!("{answer}\n").as_bytes()).await?;
    Ok(())
}

fn act(running: &Running, by: &str, request: &Value) -> Result<Value, String> {
    let text = |key: &str| request.get(key).and_then(Value::as_str);
    let need = |key: &str| text(key).ok_or_else(|| format!("`{key}` is missing"));
    match need("do")? {
        "sessions" => Ok(sessions(running)),
        "kill" => {
            let session = SessionId::parse(need("session")?);
            let session = session.ok_or("that is not a session's id")?;
            running.note("admin", by, &format!("kill session {session}"))?;
            if running.engine.kill(session, by) {
                Ok(json!({ "killed": session.to_string() }))
            } else {
                Err(format!("session `{session}` is not live"))
            }
        }
        "approvals" => Ok(running.desk.list().iter().map(ask).collect()),
        "approval" => {
            let id = need("id")?;
            let found = running.desk.show(id);
            let unknown = || format!("nothing waits under `{}`", id.escape_debug());
            found.as_ref().map(ask).ok_or_else(unknown)
        }
        word @ ("approve" | "reject") => answer(running, by, word, need("id")?, request),
        "read" => {
            running.note("evidence_read", by, &need("what")?.escape_debug().to_string())?;
            Ok(json!({ "by": by }))
        }
        "agents" => agents::view(running),
        "agent_token" => agents::make_token(running, by, request),
        "agent_revoke" => agents::revoke(running, by, request),
        "agent_rotate" => agents::rotate(running, by, request),
        "health" => Ok(health(running)),
        "reveal_policy" => {
            let bundle = running.policies.bundle().ok_or("there are no current policies")?;
            let digest = running.policies.current().map(|bundle| bundle.digest().to_string());
            Ok(json!({ "bundle": digest, "policies": bundle.policy_count() }))
        }
        other => Err(format!("`{}` is not something that can be done", other.escape_debug())),
    }
}

/// An answer to an ask. Who answers is the bearer of the token, or the user of the socket.
fn answer(
    running: &Running,
    local: &str,
    word: &str,
    id: &str,
    request: &Value,
) -> Result<Value, String> {
    let text = |key: &str| request.get(key).and_then(Value::as_str);
    let reason = text("reason");
    if reason.is_some_and(|reason| reason.chars().count() > REASON_CHARS_MAX) {
        return Err(format!("the reason is longer than {REASON_CHARS_MAX} characters"));
    }
    let by = match text("token") {
        Some(token) => bearer(running, token)?,
        None => running.local_approver(local),
    };
    // The entry comes first: an answer that is not on record is none.
    let view = running.desk.show(id).ok_or_else(|| {
        format!("nothing waits under `{}`: answered, withdrawn or timed out", id.escape_debug())
    })?;
    let what = format!("{word} {} for {} by {local}", view.id, view.ask.principal.id);
    running.note("approval", &by.id, &what)?;
    let answered = match word {
        "approve" => running.desk.approve(id, &by, reason).map(Some),
        _ => running.desk.reject(id, &by, reason).map(|()| None),
    };
    let progress = answered.map_err(|error| {
        let words = format!("{word} {} had no effect: {error}", view.id);
        running.note("approval", &by.id, &words).err().unwrap_or_else(|| error.to_string())
    })?;
    let mut answer = json!({ "id": &*view.id, "by": &*by.id, "answer": word });
    if let Some(progress) = progress.filter(|progress| !progress.is_done()) {
        answer["approvers"] = progress.have.into();
        answer["quorum"] = progress.need.into();
        let missing: Vec<_> = progress.missing.iter().map(|group| group.to_string()).collect();
        answer["missing"] = missing.into();
    }
    Ok(answer)
}

/// The person that a token is of.
fn bearer(running: &Running, token: &str) -> Result<Approver, String> {
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let origin = Origin { address, port: 0, tls: "".into(), certificate: None };
    let token = Credential::Token(Secret::new(token.trim().as_bytes().to_vec()));
    let verified = tokio::runtime::Handle::current().block_on(running.who.verify(
        token,
        &origin,
        running.clock.now(),
    ));
    match verified {
        Ok(principal) if principal.kind != PrincipalKind::Human => Err(format!(
            "`{}` is not a person: only issuers with `kind = \"human\"` vouch for approvers",
            principal.id
        )),
        Ok(principal) => Ok(Approver {
            id: principal.id.as_str().into(),
            groups: Some(principal.groups.clone()),
        }),
        Err(error) => {
            tracing::info!(%error, "the token of an approver is not accepted");
            Err("the token is not accepted; the gateway's log says why".into())
        }
    }
}

fn sessions(running: &Running) -> Value {
    let one = |s: &bulla_engine::LiveSession| {
        json!({
            "session": s.id.to_string(), "principal": s.principal.to_string(),
            "resource": &*s.resource, "opened": s.opened.to_string(), "source": &*s.source,
            "commands": s.commands, "denied": s.denied, "held": s.held, "rows": s.rows,
        })
    };
    running.engine.sessions().iter().map(one).collect()
}

/// The state of the record, the issuers and the traffic.
pub fn health(running: &Running) -> Value {
    let record = running.ledger.health();
    let issuer = |status: &bulla_identity::IssuerStatus| {
        json!({
            "alias": &*status.alias, "ready": status.ready, "keys": status.keys,
            "keys_ignored": status.keys_ignored, "age_ms": status.age_ms, "stale": status.stale,
            "clock_offset_ms": status.clock_offset_ms, "failures": status.failures,
            "error": status.last_error.as_ref().map(ToString::to_string),
        })
    };
    let why = crate::health::not_ready(running);
    json!({
        "ready": why.is_none(),
        "why": why,
        "version": env!("CARGO_PKG_VERSION"),
        "record": {
            "error": record.error.as_deref(), "entries": record.entries,
            "published": running.ledger.published(), "free_bytes": record.free_bytes,
            "flush_p50_us": record.flush_p50_us, "flush_p99_us": record.flush_p99_us,
            "waiting_bytes": record.waiting_bytes, "real_time": record.real_time,
        },
        "issuers": running.who.verifier().status().iter().map(issuer).collect::<Vec<_>>(),
        "policies": running.policies.bundle().map(|bundle| bundle.policy_count()),
        "sessions": running.engine.sessions().len(),
        "asks": running.desk.list().len(),
        "agents": agents::health(running),
    })
}

fn ask(view: &bulla_engine::AskView) -> Value {
    let ask = &view.ask;
    let texts = |list: &[Arc<str>]| list.iter().map(|text| text.to_string()).collect::<Vec<_>>();
    let parameter = |p: &bulla_core::Parameter| {
        let value = match &p.value {
            bulla_core::ParameterValue::Null => Value::Null,
            bulla_core::ParameterValue::Text(text) => json!(&**text),
            bulla_core::ParameterValue::Bytes(bytes) => json!(format!("{} bytes", bytes.len())),
            bulla_core::ParameterValue::Large { bytes } => json!(format!("{bytes} bytes")),
        };
        json!({ "name": &*p.name, "type": &*p.kind, "value": value })
    };
    json!({
        "id": &*view.id,
        "since": ask.at.to_string(),
        "principal": ask.principal.id.to_string(),
        "resource": ask.resource.to_string(),
        "action": &*ask.action,
        "statement": &*ask.shown,
        "parameters": ask.parameters.iter().map(parameter).collect::<Vec<_>>(),
        "touches": texts(&ask.touches),
        "effects": ask.effects,
        "policies": texts(&ask.policies),
        "groups": texts(&ask.terms.groups),
        "quorum": ask.terms.quorum,
        "approved": texts(&view.approved),
        "expires_s": ask.terms.expires_ms / 1_000,
        "session": ask.session.to_string(),
        "digest": ask.digest.to_string(),
    })
}

/// Asks the gateway whose socket this is.
pub fn call(socket: &Path, request: &Value) -> Result<Value> {
    use std::io::{BufRead, Read, Write};
    let stream = std::os::unix::net::UnixStream::connect(socket);
    let mut stream = match stream {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let words = "you may not use it; run as the gateway's user or as root";
            return Err(Denied(format!("{}: {words}", socket.display())).into());
        }
        other => other.with_context(|| {
            format!("no gateway answers at {}; is it running?", socket.display())
        })?,
    };
    stream.set_read_timeout(Some(CALL_TIME_MAX * 2))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut line = String::new();
    std::io::BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut line)?;
    let mut answer: Value = serde_json::from_str(&line).context("read the gateway's answer")?;
    if let Some(error) = answer.get("error").and_then(Value::as_str) {
        bail!("{}", crate::say::safe(error));
    }
    Ok(answer.get_mut("ok").map(Value::take).unwrap_or_default())
}
