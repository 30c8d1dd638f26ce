//! The admin socket: one line of JSON each way, for operators on this host. Who connects is known
//! from the kernel, and each act is an entry before its answer is sent.

use std::{os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use anyhow::{Context, Result, bail};
use bulla_core::{EventId, SessionId};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

use crate::gateway::Running;

/// Longest request.
const LINE_BYTES_MAX: u64 = 64 * 1024;

pub fn listen(running: Arc<Running>, path: &Path) -> Result<()> {
    // A socket that is left from a run that was killed is dead: the ledger's lock says so.
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let running = running.clone();
            tokio::spawn(async move {
                if let Err(error) = serve(&running, stream).await {
                    tracing::debug!(%error, "admin socket");
                }
            });
        }
    });
    Ok(())
}

async fn serve(running: &Arc<Running>, stream: UnixStream) -> Result<()> {
    let by = format!("local:uid-{}", stream.peer_cred()?.uid());
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(LINE_BYTES_MAX)).read_line(&mut line).await?;
    let running = running.clone();
    let answer = tokio::task::spawn_blocking(move || {
        serde_json::from_str(&line)
            .map_err(|e| e.to_string())
            .and_then(|request| act(&running, &by, &request))
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
            let id = need("session")?;
            let session = SessionId::parse(id).ok_or("that is not a session's id")?;
            running.note("admin", by, &format!("kill session {session}"))?;
            if running.engine.kill(session, by) {
                Ok(json!({ "killed": id }))
            } else {
                Err(format!("session `{session}` is not live"))
            }
        }
        "approvals" => Ok(running.desk.list().iter().map(ask).collect()),
        "approval" => {
            let id = need("id")?;
            let found = running.desk.show(id);
            found
                .as_ref()
                .map(ask)
                .ok_or_else(|| format!("nothing waits under `{}`", id.escape_debug()))
        }
        word @ ("approve" | "reject") => {
            let (id, reason) = (need("id")?, text("reason"));
            running.note("approval", by, &format!("{word} {}", id.escape_debug()))?;
            let answered = match word {
                "approve" => running.desk.approve(id, by, reason),
                _ => running.desk.reject(id, by, reason),
            };
            answered.map(|()| json!({ "id": id, "by": by })).map_err(|e| e.to_string())
        }
        "read" => {
            let what = need("what")?;
            running.note("evidence_read", by, &what.escape_debug().to_string())?;
            Ok(Value::Null)
        }
        other => Err(format!("`{}` is not something that can be done", other.escape_debug())),
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

fn ask(view: &bulla_engine::AskView) -> Value {
    let a = &view.ask;
    let event = EventId { session: a.session, seq: a.number };
    json!({
        "id": &*view.id, "since": a.at.to_string(), "principal": a.principal.id.to_string(),
        "resource": a.resource.to_string(), "action": &*a.action, "statement": &*a.shown,
        "parameters": a.parameters.iter().map(|p| format!("{} = {:?}", p.name, p.value)).collect::<Vec<_>>(),
        "touches": a.touches.iter().map(|t| t.to_string()).collect::<Vec<_>>(),
        "effects": a.effects, "policies": a.policies.iter().map(|p| p.to_string()).collect::<Vec<_>>(),
        "groups": a.terms.groups.iter().map(|g| g.to_string()).collect::<Vec<_>>(),
        "quorum": a.terms.quorum, "expires_s": a.terms.expires_ms / 1000,
        "digest": a.digest.to_string(), "session": event.session.to_string(),
    })
}

/// Asks the gateway whose socket this is.
pub fn call(socket: &Path, request: &Value) -> Result<Value> {
    use std::io::{BufRead, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).with_context(|| {
        format!("no gateway answers at {}; is it running, and are you allowed?", socket.display())
    })?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut line = String::new();
    std::io::BufReader::new(stream).read_line(&mut line)?;
    let mut answer: Value = serde_json::from_str(&line).context("read the gateway's answer")?;
    if let Some(error) = answer.get("error").and_then(Value::as_str) {
        bail!("{error}");
    }
    Ok(answer.get_mut("ok").map(Value::take).unwrap_or_default())
}
