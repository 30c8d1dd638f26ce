//! Reading the record back: `bulla sessions …` and `bulla log …`.

use std::{
    io::{IsTerminal, Write},
    path::Path,
};

use anyhow::{Context, Result, bail};
use bulla_core::{Flow, SessionId, Timestamp};
use bulla_ledger::{GATEWAY_RESOURCE, ParameterDetailValue, Reader, ReaderConfig, verify_dir};
use bulla_tlog::{entry::Kind, note::Vkey, verify::Verdict};
use serde_json::{Value, json};

use crate::registry;

/// Text of others, made safe for a terminal: no controls, no marks that reorder or hide text.
pub fn safe(text: &str) -> String {
    let hides = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    text.chars().fold(String::new(), |mut out, c| {
        if (c.is_control() && c != '\n' && c != '\t') || hides(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
        out
    })
}

fn reader(data: &Path) -> Result<Reader> {
    Reader::open(ReaderConfig::of_ledger(data)).with_context(|| format!("open {}", data.display()))
}

fn parse(id: &str) -> Result<SessionId> {
    let bad = || format!("`{}` is not a session's id; see: bulla sessions ls", id.escape_debug());
    SessionId::parse(id).with_context(bad)
}

/// One line per session, newest first.
pub fn list(data: &Path, resource: Option<&str>, limit: usize) -> Result<Vec<Value>> {
    let reader = reader(data)?;
    let mut out = Vec::new();
    for found in reader.sessions() {
        let (_, id) = found?;
        let session = reader.session(id)?;
        let mut line = json!({ "session": id.to_string(), "state": "live" });
        let (mut commands, mut denied, mut held, mut rows) = (0u64, 0u64, 0u64, 0u64);
        let mut wanted = true;
        for event in session.events() {
            let event = event?;
            match event.kind() {
                Kind::Open | Kind::Refusal
                    if event.entry.session.as_ref().is_some_and(|l| l.seq == 0) =>
                {
                    let of = event.entry.resource.clone().unwrap_or_default();
                    wanted = of != GATEWAY_RESOURCE && resource.is_none_or(|r| r == of);
                    let who = event.detail.principal.as_ref().map(|p| p.id.clone());
                    line["principal"] = who.unwrap_or_else(|| "?".into()).into();
                    line["resource"] = of.into();
                    line["opened"] = Timestamp(event.entry.t_wall_ns).to_string().into();
                    if event.kind() == Kind::Refusal {
                        line["state"] = "refused".into();
                        denied += 1;
                    }
                }
                Kind::Intent => commands += 1,
                Kind::Refusal => denied += 1,
                Kind::Hold => held += 1,
                Kind::Outcome => rows += event.entry.rows.unwrap_or(0),
                Kind::Close => line["state"] = "closed".into(),
                _ => {}
            }
        }
        if wanted {
            line["commands"] = commands.into();
            line["denied"] = denied.into();
            line["held"] = held.into();
            line["rows"] = rows.into();
            out.push(line);
            if out.len() >= limit {
                break;
            }
        }
    }
    Ok(out)
}

/// Everything that happened in a session, readable. `rows`: with what was returned.
pub fn show(data: &Path, id: &str, command: Option<u64>, rows: bool) -> Result<()> {
    let reader = reader(data)?;
    let session = reader.session(parse(id)?)?;
    let mut out = std::io::stdout().lock();
    let mut protocol = String::new();
    let mut answer = Vec::new();
    for event in session.events() {
        let event = event?;
        if let Some(name) = &event.entry.protocol {
            protocol.clone_from(name);
        }
        if command.is_some() && event.command() != command {
            continue;
        }
        let at = Timestamp(event.entry.t_wall_ns).to_string();
        let at = at.get(11..23).unwrap_or_default();
        let (entry, detail) = (&event.entry, &event.detail);
        let policies = entry.policies.join(", ");
        let bundle = entry.policy.map(|d| bulla_core::Digest(d).short(7)).unwrap_or_default();
        match event.kind() {
            Kind::Open => {
                let who = detail.principal.as_ref().map_or("?", |p| p.id.as_str());
                let resource = entry.resource.as_deref().unwrap_or("?");
                writeln!(out, "{at}  open {} as {}", safe(resource), safe(who))?;
            }
            Kind::Intent => {
                let shown = safe(detail.shown.as_deref().unwrap_or(""));
                writeln!(
                    out,
                    "{at}  #{} {shown}   [policy {policies} @{bundle}]",
                    entry.cmd.unwrap_or(0)
                )?;
                for p in &detail.parameters {
                    let value = match &p.value {
                        ParameterDetailValue::Null => "NULL".into(),
                        ParameterDetailValue::Text(text) => format!("'{}'", safe(text)),
                        ParameterDetailValue::Bytes(bytes) => format!("{} bytes", bytes.len()),
                        ParameterDetailValue::Large(n) => format!("{n} bytes, in the evidence"),
                    };
                    writeln!(out, "              {} = {value}", safe(&p.name))?;
                }
            }
            Kind::Refusal => {
                let shown = safe(detail.shown.as_deref().unwrap_or(""));
                writeln!(out, "{at}  #{} {shown}", entry.cmd.unwrap_or(0))?;
                let words =
                    detail.message.as_deref().or(detail.reason.as_deref()).unwrap_or("refused");
                writeln!(out, "              {}   [policy {policies} @{bundle}]", safe(words))?;
            }
            Kind::Hold => {
                let ask = detail.ask.as_deref().unwrap_or("?");
                writeln!(out, "{at}  held: approval {ask} of {}", safe(&detail.groups.join(", ")))?;
            }
            Kind::Grant => {
                let by = detail.by.as_deref().unwrap_or("nobody");
                writeln!(out, "{at}  {} by {}", detail.answer.as_deref().unwrap_or("?"), safe(by))?;
            }
            Kind::Outcome | Kind::Chunk => {
                if event.flow() == Some(Flow::ToClient) && event.command().is_some_and(|n| n > 0) {
                    session.payload(&event, &mut |piece| {
                        answer.extend_from_slice(piece);
                        Ok(())
                    })?;
                }
                if event.kind() == Kind::Outcome {
                    if rows {
                        for line in registry::render(&protocol, &answer) {
                            writeln!(out, "              {}", safe(&line))?;
                        }
                    }
                    let status = entry.status.as_deref().unwrap_or("?");
                    writeln!(
                        out,
                        "              {status}: {} rows, {} bytes · entry {} · leaf {}… · bulla log prove {}",
                        entry.rows.unwrap_or(0),
                        answer.len(),
                        event.index,
                        event.leaf.to_string().chars().take(8).collect::<String>(),
                        event.index
                    )?;
                    answer.clear();
                }
            }
            Kind::Close => {
                writeln!(out, "{at}  close: {}", safe(entry.status.as_deref().unwrap_or("?")))?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The exact bytes that the client got from the target.
pub fn raw(data: &Path, id: &str, command: Option<u64>) -> Result<()> {
    let reader = reader(data)?;
    let session = reader.session(parse(id)?)?;
    let mut out = std::io::stdout().lock();
    session.stream(Flow::ToClient, command, &mut |piece| out.write_all(piece))?;
    Ok(out.flush()?)
}

/// Verifies an archive offline. The exit code: 0, 10 or 11.
pub fn verify(dir: &Path, key: &str, json: bool) -> Result<u8> {
    let text = if Path::new(key).is_file() { std::fs::read_to_string(key)? } else { key.into() };
    let key: Vkey = Vkey::parse(text.trim()).context("read the log's public key")?;
    let bar = if std::io::stderr().is_terminal() && !json {
        indicatif::ProgressBar::new(0)
    } else {
        indicatif::ProgressBar::hidden()
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut progress = |p: bulla_tlog::verify::Progress| {
        bar.set_length(p.total);
        bar.set_position(p.done);
    };
    let verified = verify_dir(dir, &[key], Default::default(), threads, &mut progress);
    bar.finish_and_clear();
    let report = match verified {
        Ok(report) => report,
        Err(error) if error.is_integrity() => {
            println!("checkpoint  ✗ {error}\nverdict: TAMPERED");
            return Ok(10);
        }
        Err(error) => bail!("verify {}: {error}", dir.display()),
    };
    let (word, code) = match &report.verdict {
        Verdict::Complete => ("complete", 0),
        Verdict::Tampered { .. } => ("tampered", 10),
        Verdict::Gap { .. } => ("gap", 11),
    };
    if json {
        let findings: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
        println!(
            "{}",
            json!({
                "verdict": word, "entries": report.entries, "objects": report.objects,
                "uncovered": report.uncovered, "findings": findings,
            })
        );
        return Ok(code);
    }
    let tick = |bad: bool| if bad { "✗" } else { "✓" };
    println!("signature   ✓ checkpoint signed by the log's key");
    println!("tree        {} {} entries", tick(code == 10), report.entries);
    println!("objects     {} evidence objects", report.objects);
    let s = &report.sessions;
    println!(
        "sessions    {} {} closed, {} live, {} refused, {} interrupted",
        tick(code == 11),
        s.closed,
        s.live,
        s.refused,
        s.interrupted
    );
    for finding in &report.findings {
        println!("            ✗ {}", safe(&finding.to_string()));
    }
    match code {
        0 => {
            let until = report.time_ns.map(|(_, last)| Timestamp(last).to_string());
            println!("verdict: complete and untampered up to {}", until.unwrap_or_default());
        }
        10 => println!("verdict: TAMPERED"),
        _ => println!("verdict: INCOMPLETE"),
    }
    Ok(code)
}

/// A proof that an entry is in the log, for `stdout`.
pub fn prove(data: &Path, index: u64) -> Result<()> {
    print!("{}", reader(data)?.prove(index)?);
    Ok(())
}

/// The newest checkpoint, as signed.
pub fn checkpoint(data: &Path) -> Result<()> {
    let path = data.join("archive/checkpoint");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    print!("{text}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_shown_not_obeyed() {
        assert_eq!(safe("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(safe("x\u{202e}y\u{200b}z"), "x\\u{202e}y\\u{200b}z");
        assert_eq!(safe("Ada ∅ ü\n"), "Ada ∅ ü\n");
    }
}
