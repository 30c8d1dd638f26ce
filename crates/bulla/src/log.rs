//! `bulla log …`: for auditors. `verify` needs nothing but an archive and a public key.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use bulla_core::{SessionId, Timestamp};
use bulla_ledger::{StoredEntry, verify_dir};
use bulla_tlog::{
    checkpoint::SignedCheckpoint,
    note::Vkey,
    verify::{Class, Finding, Options, Progress, Report, Verdict},
};
use serde_json::{Value, json};

use crate::{
    config::Config,
    fail::code,
    print,
    say::{self, Paint, count, line},
    sessions::reader,
};

/// Longest key or checkpoint file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Findings of each class that are shown.
const FINDINGS_SHOWN_MAX: usize = 20;

fn small_file(path: &Path) -> Result<Vec<u8>> {
    let place = || format!("read `{}`", path.display());
    if std::fs::metadata(path).with_context(place)?.len() > FILE_BYTES_MAX {
        bail!("`{}` is longer than 1 MiB", path.display());
    }
    std::fs::read(path).with_context(place)
}

/// A key as text, or in a file.
fn key_of(text: &str) -> Result<Vkey> {
    let from_file;
    let text = if Path::new(text).is_file() {
        from_file = String::from_utf8(small_file(Path::new(text))?).context("read the key")?;
        &from_file
    } else {
        text
    };
    let words = "this is no public key of a log, and no file that holds one";
    Vkey::parse(text.trim()).with_context(|| format!("{words}: `{}`", line(text.trim())))
}

/// Verifies an archive offline: exit 0, 10 or 11.
pub fn verify(
    dir: &Path,
    key: &str,
    earlier: &[PathBuf],
    threads: Option<usize>,
    json: bool,
) -> Result<ExitCode> {
    let key = [key_of(key)?];
    if !dir.is_dir() {
        bail!("`{}` is no folder", dir.display());
    }
    let mut options = Options::default();
    for path in earlier {
        let opened = SignedCheckpoint::open(&small_file(path)?, &key, &[]);
        let place = || format!("the earlier checkpoint in `{}`", path.display());
        options.earlier.push(opened.with_context(place)?);
    }
    let bar = if std::io::stderr().is_terminal() && !json {
        let bar = indicatif::ProgressBar::new(0);
        let style = "{msg} {wide_bar} {human_pos}/{human_len} entries {eta}";
        bar.set_style(indicatif::ProgressStyle::with_template(style)?);
        bar.set_message("verify");
        bar
    } else {
        indicatif::ProgressBar::hidden()
    };
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let mut progress = |at: Progress| {
        bar.set_length(at.total);
        bar.set_position(at.done);
    };
    let started = Instant::now();
    let threads = threads.unwrap_or_else(cores);
    let verified = verify_dir(dir, &key, options, threads, &mut progress);
    bar.finish_and_clear();
    let report = match verified {
        Ok(report) => report,
        Err(error) if error.is_integrity() => {
            let paint = Paint::new();
            let words = line(&error.to_string());
            if json {
                print(&json!({ "verdict": "tampered", "error": words }).to_string())?;
            } else {
                let verdict = paint.bad("verdict: TAMPERED");
                print(&format!("signatures  {} {words}\n{verdict}", paint.tick(false)))?;
            }
            return Ok(ExitCode::from(code::TAMPERED));
        }
        Err(error) => bail!("verify `{}`: {error}", dir.display()),
    };
    let exit = match &report.verdict {
        Verdict::Complete => 0,
        Verdict::Tampered { .. } => code::TAMPERED,
        Verdict::Gap { .. } => code::GAP,
    };
    if json {
        print(&verdict_json(&report).to_string())?;
    } else {
        print(&verdict_text(&report, started.elapsed().as_millis()))?;
    }
    Ok(ExitCode::from(exit))
}

fn until(report: &Report) -> String {
    report.time_ns.map_or_else(|| "now".into(), |(_, last)| Timestamp(last).to_string())
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "class": match finding.what.class() { Class::Gap => "gap", Class::Tampered => "tampered" },
        "what": finding.what.to_string(), "entry": finding.index,
        "session": finding.session.map(|sid| SessionId(sid).to_string()),
        "file": finding.path, "byte": finding.offset,
    })
}

fn verdict_json(report: &Report) -> Value {
    let sessions = &report.sessions;
    json!({
        "verdict": match &report.verdict {
            Verdict::Complete => "complete",
            Verdict::Tampered { .. } => "tampered",
            Verdict::Gap { .. } => "gap",
        },
        "until": report.time_ns.map(|(_, last)| Timestamp(last).to_string()),
        "origin": report.checkpoint.origin(), "size": report.checkpoint.size(),
        "root": report.checkpoint.root().to_string(),
        "entries": report.entries, "uncovered": report.uncovered, "objects": report.objects,
        "runs": report.runs,
        "sessions": {
            "closed": sessions.closed, "live": sessions.live, "refused": sessions.refused,
            "interrupted": sessions.interrupted,
        },
        "findings": report.findings.iter().map(finding_json).collect::<Vec<_>>(),
        "findings_left_off": report.findings_left_off,
    })
}

/// A finding as a person reads it: what, where, whose.
fn finding_text(finding: &Finding) -> String {
    let mut out = String::new();
    if let Some(index) = finding.index {
        out.push_str(&format!("entry {}", count(index)));
    }
    if let Some(sid) = finding.session {
        let comma = if out.is_empty() { "" } else { ", " };
        out.push_str(&format!("{comma}session {}", SessionId(sid)));
    }
    let what = finding.what.to_string();
    out.push_str(if out.is_empty() { "" } else { ": " });
    out.push_str(&what);
    if let Some(path) = &finding.path {
        out.push_str(&format!(" · {path}"));
    }
    if let Some(offset) = finding.offset {
        out.push_str(&format!(", byte {}", count(offset)));
    }
    line(&out)
}

fn verdict_text(report: &Report, took_ms: u128) -> String {
    let paint = Paint::new();
    let of = |class| move |finding: &&Finding| finding.what.class() == class;
    let tampered: Vec<_> = report.findings.iter().filter(of(Class::Tampered)).collect();
    let gaps: Vec<_> = report.findings.iter().filter(of(Class::Gap)).collect();
    let is_object = |finding: &&&Finding| finding.what.to_string().starts_with("object ");
    let objects_bad = report.findings.iter().any(|f| f.what.to_string().starts_with("object "));
    let tree_bad = tampered.iter().any(|f| !is_object(&f));
    let sessions_bad = gaps.iter().any(|f| !is_object(&f));
    let checkpoint = &report.checkpoint;
    let root = checkpoint.root().to_string();
    let mut lines = vec![
        format!(
            "signatures  {} checkpoint of {} entries, signed by the key of `{}`",
            paint.tick(true),
            count(checkpoint.size()),
            line(checkpoint.origin())
        ),
        format!(
            "tree        {} {} entries, root {}…, in {took_ms} ms",
            paint.tick(!tree_bad),
            count(report.entries),
            root.get(..8).unwrap_or(&root)
        ),
        format!(
            "objects     {} {} evidence objects{}",
            paint.tick(!objects_bad),
            count(report.objects),
            if objects_bad { "" } else { " present and intact" }
        ),
    ];
    let sessions = &report.sessions;
    let opened = sessions.closed + sessions.live + sessions.interrupted;
    lines.push(format!(
        "sessions    {} {} opened, {} closed, {} live, {} cut off by a crash, {} turned away{}",
        paint.tick(!sessions_bad),
        count(opened),
        count(sessions.closed),
        count(sessions.live),
        count(sessions.interrupted),
        count(sessions.refused),
        if sessions_bad { "" } else { "; no gap in any chain" }
    ));
    if report.uncovered > 0 {
        let words = "entries beyond the checkpoint are signed by nobody yet";
        lines.push(format!("            {} {} {words}", paint.warn("‼"), report.uncovered));
    }
    for list in [&tampered, &gaps] {
        for finding in list.iter().take(FINDINGS_SHOWN_MAX) {
            lines.push(format!("            {} {}", paint.tick(false), finding_text(finding)));
        }
        let more = list.len().saturating_sub(FINDINGS_SHOWN_MAX);
        if more > 0 {
            lines.push(format!("            … and {more} more; --json lists them"));
        }
    }
    lines.push(match &report.verdict {
        Verdict::Complete => {
            paint.good(format!("verdict: complete and untampered up to {}", until(report)))
        }
        Verdict::Tampered { first } => {
            format!("{}, first at {}", paint.bad("verdict: TAMPERED"), finding_text(first))
        }
        Verdict::Gap { first } => {
            format!("{}, first at {}", paint.bad("verdict: NOT COMPLETE"), finding_text(first))
        }
    });
    lines.join("\n")
}

/// A proof that an entry is in the log, for stdout.
pub fn prove(config: &Config, index: u64) -> Result<()> {
    Ok(print(&reader(config)?.prove(index)?.to_string())?)
}

/// The newest checkpoint, as signed.
pub fn checkpoint(config: &Config) -> Result<()> {
    Ok(print(&reader(config)?.checkpoint().to_string())?)
}

/// Entries as the log holds them. Their clear parts hold no personal data.
pub fn show(config: &Config, from: Option<u64>, limit: u64, json: bool) -> Result<()> {
    let reader = reader(config)?;
    let from = from.unwrap_or_else(|| reader.len().saturating_sub(limit));
    let mut rows = Vec::new();
    for stored in reader.entries(from..from.saturating_add(limit)) {
        rows.push(entry_json(&stored?));
    }
    if json {
        return Ok(print(&say::json(&Value::Array(rows)))?);
    }
    let columns = [
        ("entry", "ENTRY"),
        ("at", "AT"),
        ("kind", "KIND"),
        ("session", "SESSION"),
        ("command", "CMD"),
        ("action", "ACTION"),
        ("decision", "DECISION"),
        ("status", "STATUS"),
        ("note", "NOTE"),
    ];
    Ok(print(&say::table(&rows, &columns))?)
}

fn entry_json(stored: &StoredEntry) -> Value {
    let entry = &stored.entry;
    json!({
        "entry": stored.index, "leaf": stored.leaf.to_string(), "kind": entry.kind.as_str(),
        "at": Timestamp(entry.t_wall_ns).to_string(),
        "session": entry.session.map(|link| SessionId(link.sid).to_string()),
        "seq": entry.session.map(|link| link.seq), "resource": entry.resource,
        "command": entry.cmd, "action": entry.action,
        "decision": entry.decision.map(|decision| decision.as_str()),
        "policies": entry.policies, "rows": entry.rows, "bytes_in": entry.bytes_in,
        "bytes_out": entry.bytes_out, "objects": entry.objs.len(), "status": entry.status,
        "note": entry.note,
    })
}
