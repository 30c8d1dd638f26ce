//! THREATS 6: the record, attacked.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use bulla_e2e::arena::Arena;
use bulla_e2e::gateway::cli_in;
use bulla_e2e::proc::Signal;
use bulla_e2e::raw::{
    Raw, V3_0, bind_as, copy_data, describe, execute, frame, parse_typed, query, startup, sync,
};
use serde_json::Value;

/// One test, so that one server and one gateway serve all rows.
#[test]
fn the_record_is_whole_and_shows_true() -> Result<()> {
    let arena = Arena::start()?;
    type Row = fn(&Arena) -> Result<()>;
    let rows: [(&str, Row); 10] = [
        ("A1 huge statements", huge),
        ("A2 parameters, cursors, COPY", extended),
        ("A3 work that is taken back or breaks off", undone),
        ("A4 words that would write on a terminal", terminal),
        ("A5 secrets in the record", secrets),
        ("A6 order and gaps", order),
        ("A8 recording bombs", bombs),
        ("A8 a flood at the door", flood),
        ("A9 stopping the recorder's session", stopping),
        ("A2 what is not recorded without the gateway", unguarded),
    ];
    for (row, run) in rows {
        arena.try_row(row, || run(&arena));
    }
    let dir = arena.gateway.dir().path().to_path_buf();
    arena.try_row("A6 tampering", || {
        let copy = bulla_e2e::place::TempDir::new("tampered")?;
        arena.gateway.terminate()?;
        tampering(&dir, copy.path())
    });
    arena.finish()
}

fn statement<'a>(events: &'a [Value], text: &str) -> Result<&'a Value> {
    let found = events.iter().find(|event| event["statement"] == text);
    found.with_context(|| format!("`{:.60}` is not in the record", text))
}

fn huge(arena: &Arena) -> Result<()> {
    let mut session = arena.through("app", "A1")?.open()?;
    let texts = [
        format!("SELECT '{}' || 'a1 end'", "x".repeat(200_000)),
        format!("SELECT 1 /* {} */ -- a1 end", "\u{142}".repeat(300_000)),
        format!("SELECT amount FROM salaries_gone /* {} a1 end */", "y".repeat(800_000)),
    ];
    for text in &texts {
        session.query(text)?;
    }
    let (_, events) = arena.session_of("A1")?;
    for text in &texts {
        statement(&events, text)?;
    }
    // An answer of 8 MB is evidence to its last byte.
    let answer = session.query("SELECT repeat('z', 8000000) || 'a1 last'")?;
    ensure!(answer.holds("a1 last"), "the control");
    let (head, _) = arena.session_of("A1")?;
    let id = head["session"].as_str().unwrap_or_default();
    let raw = arena.gateway.cli(&["sessions", "replay", id, "--raw"])?;
    ensure!(raw.out().contains("a1 last"), "the end of the answer is not in the evidence");
    Ok(())
}

fn copy_in(session: &mut Raw, sql: &str, rows: &[&[u8]]) -> Result<()> {
    session.send(&query(sql))?;
    session.until(|messages| messages.iter().any(|m| matches!(m.kind, b'G' | b'E')))?;
    let data: Vec<u8> = rows.iter().flat_map(|row| copy_data(row)).collect();
    let done = session.turn(&[data, frame(b'c', b"")].concat())?;
    ensure!(done.errors().is_empty(), "{}", done.describe());
    Ok(())
}

fn extended(arena: &Arena) -> Result<()> {
    let mut session = arena.through("app", "A2")?.open()?;
    let sql = "SELECT name FROM customers WHERE id = $1 OR name = $2 OR $3::bytea IS NULL";
    session.turn(&[parse_typed("s", sql, &[23, 25, 17]), sync()].concat())?;
    for (id, name) in [(7_u32, "a2 first"), (8, "a2 second")] {
        let values = [Some(&id.to_be_bytes()[..]), Some(name.as_bytes()), Some(&[0, 255][..])];
        let bytes = [
            bind_as("", "s", &[1, 0, 1], &values, &[]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ];
        ensure!(session.turn(&bytes.concat())?.succeeded(), "the control");
    }
    session.query("BEGIN")?;
    session.query("DECLARE c CURSOR FOR SELECT item FROM orders ORDER BY id")?;
    session.query("FETCH 2 FROM c")?;
    session.query("COMMIT")?;
    copy_in(&mut session, "COPY notes (body) FROM STDIN", &[b"a2 copied\n"])?;
    let (head, events) = arena.session_of("A2")?;
    let all = serde_json::to_string(&events)?;
    for part in ["a2 first", "a2 second", "FETCH 2 FROM c", "COPY notes (body) FROM STDIN"] {
        ensure!(all.contains(part), "`{part}` is not in the record: {all}");
    }
    let runs = events.iter().filter(|e| e["statement"] == sql && e["parameters"][0]["value"] != "");
    ensure!(runs.count() >= 2, "an entry for each execution");
    let number = |e: &&Value| e["parameters"][0]["value"].to_string().contains('7');
    ensure!(events.iter().any(|e| e["statement"] == sql && number(&e)), "a binary value: {all}");
    let id = head["session"].as_str().unwrap_or_default();
    let rows = arena.gateway.cli(&["sessions", "replay", id])?.success()?;
    ensure!(rows.contains("difference engine"), "the rows of the cursor are not shown");
    let entries = arena.entries()?;
    let copy = entries.iter().filter(|e| e["session"] == id && e["action"] == "postgres:copy_in");
    ensure!(copy.count() > 0, "no entry for COPY");
    Ok(())
}

fn undone(arena: &Arena) -> Result<()> {
    let mut session = arena.through("app", "A3")?.open()?;
    let texts = ["BEGIN", "UPDATE customers SET name = 'a3' WHERE id = 7", "ROLLBACK"];
    for text in texts {
        ensure!(session.query(text)?.succeeded(), "{text}");
    }
    session.send(&query("SELECT pg_sleep(30), 'a3 never ends'"))?;
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !arena.logged_since(0)?.contains("a3 never ends") {
        ensure!(std::time::Instant::now() < until, "it does not run");
    }
    session.reset()?;
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let (head, events) = arena.session_of("A3")?;
        if head["state"] != "live" {
            for text in texts {
                statement(&events, text)?;
            }
            let broken = statement(&events, "SELECT pg_sleep(30), 'a3 never ends'")?;
            ensure!(broken["status"].is_string() && broken["status"] != "ok", "{broken}");
            return Ok(());
        }
        ensure!(std::time::Instant::now() < until, "the session stays open on record");
    }
}

/// Escapes, bells, text from right to left, HTML, forged lines.
const EVIL: &str = "\u{1b}[31m\u{1b}]0;x\u{7}\u{202e}\u{200b}\r\n2026-01-01 forged line <script>";

fn terminal(arena: &Arena) -> Result<()> {
    let token = arena.issuer.mint()?.claim("team", "app").subject("A4").token()?;
    let route = arena.through("app", "A4")?.password(&token);
    let pairs = [("user", EVIL), ("database", "orders"), ("application_name", EVIL)];
    let mut session = route.open_as(&startup(V3_0, &pairs))?;
    let sql = format!("SELECT '{EVIL}' AS a4");
    ensure!(session.query(&sql)?.holds("forged line"), "the control");
    let refused = session.query(&format!("SELECT * FROM \"{EVIL}\""))?;
    ensure!(!refused.errors().is_empty(), "{}", refused.describe());
    let (head, events) = arena.session_of("A4")?;
    statement(&events, &sql)?;
    let id = head["session"].as_str().unwrap_or_default();
    let pages: [&[&str]; 6] = [
        &["sessions", "ls"],
        &["sessions", "show", id],
        &["sessions", "replay", id],
        &["sessions", "show", id, "--json"],
        &["log", "show"],
        &["log", "show", "--json"],
    ];
    for page in pages {
        let text = arena.gateway.cli(page)?.success()?;
        for bad in ['\u{1b}', '\u{7}', '\u{202e}', '\r'] {
            ensure!(!text.contains(bad), "{page:?} writes {bad:?}");
        }
        let forged = text.lines().any(|line| line.starts_with("2026-01-01 forged"));
        ensure!(!forged, "{page:?} has a forged line");
    }
    for bad in ['\u{1b}', '\u{7}', '\u{202e}'] {
        ensure!(!arena.gateway.log().contains(bad), "the gateway's own log writes {bad:?}");
    }
    Ok(())
}

fn secrets(arena: &Arena) -> Result<()> {
    let route = arena.through("app", "A5")?;
    let mut session = route.open()?;
    let marker = "a5-Zq8vKx3LmN0pTw7y";
    let bytes = [
        parse_typed("", "SELECT $1::text", &[25]),
        bind_as("", "", &[0], &[Some(marker.as_bytes())], &[]),
        execute("", 0),
        sync(),
    ];
    ensure!(session.turn(&bytes.concat())?.holds(marker), "the control");
    ensure!(session.query("SELECT 'a5 flush'")?.succeeded(), "the control");
    let data = arena.gateway.data_dir();
    let token = route.password.as_bytes();
    let signature = route.password.rsplit('.').next().context("a signature")?;
    for (what, secret) in [
        ("the token", token),
        ("its signature", signature.as_bytes()),
        ("the target's password", bulla_e2e::postgres::SUPERUSER_PASSWORD.as_bytes()),
    ] {
        ensure!(!anywhere(arena, &data, secret)?, "{what} is in the record");
    }
    // Parameters are sealed in the archive: its reader without the key does not see them.
    ensure!(
        !anywhere(arena, &arena.gateway.archive(), marker.as_bytes())?,
        "a value is in the clear"
    );
    let (_, events) = arena.session_of("A5")?;
    ensure!(serde_json::to_string(&events)?.contains(marker), "whoever has the key sees it");
    ensure!(!arena.gateway.log().contains(marker), "a value is in the gateway's log");
    Ok(())
}

fn files(dir: &Path, all: &mut Vec<std::path::PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        let kind = fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() {
            files(&path, all)?;
        } else if kind.is_file() {
            all.push(path);
        }
    }
    Ok(())
}

/// The gateway stands still while its files are looked through: it renames and removes some of them
/// once a second.
fn anywhere(arena: &Arena, dir: &Path, needle: &[u8]) -> Result<bool> {
    arena.gateway.proc().signal(Signal::Stop)?;
    let found = is_under(dir, needle);
    arena.gateway.proc().signal(Signal::Continue)?;
    found
}

fn is_under(dir: &Path, needle: &[u8]) -> Result<bool> {
    let mut all = Vec::new();
    files(dir, &mut all)?;
    for path in all {
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        if bytes.windows(needle.len()).any(|part| part == needle) {
            eprintln!("found in {}", path.display());
            return Ok(true);
        }
    }
    Ok(false)
}

fn order(arena: &Arena) -> Result<()> {
    let entries = arena.entries()?;
    let mut last = std::collections::BTreeMap::new();
    for (at, entry) in entries.iter().enumerate() {
        ensure!(entry["entry"] == at, "entry {at} is {}", entry["entry"]);
        let time = entry["at"].as_str().with_context(|| format!("entry {at} has no time"))?;
        if let (Some(session), Some(seq)) = (entry["session"].as_str(), entry["seq"].as_u64()) {
            let (expect, before) = last.get(session).copied().unwrap_or((0, time));
            ensure!(seq == expect, "{session} goes from {expect} to {seq}");
            // Sessions read the clock side by side: between them, the index is the order.
            ensure!(before <= time, "entry {at}: time runs backwards in {session}");
            last.insert(session, (seq + 1, time));
        }
    }
    ensure!(last.len() > 1, "sessions of the log: {}", last.len());
    Ok(())
}

fn bombs(arena: &Arena) -> Result<()> {
    let mut session = arena.through("app", "A8")?.open()?;
    // Compressible to nothing, and many of them.
    session
        .send(&query("COPY (SELECT repeat('a', 1000) FROM generate_series(1, 30000)) TO STDOUT"))?;
    let answer = session.ready(1)?;
    ensure!(answer.kinds().ends_with("cCZ"), "the control: {}", answer.code().unwrap_or_default());
    let many: Vec<u8> = (0..5_000).flat_map(|_| query("SELECT 'a8'")).collect();
    session.send(&many)?;
    ensure!(session.ready(5_000)?.is_ready(), "five thousand statements");
    let denied: Vec<u8> = (0..2_000).flat_map(|_| query("SELECT pg_read_file('x')")).collect();
    session.send(&denied)?;
    ensure!(session.ready(2_000)?.is_ready(), "two thousand refusals");
    let (head, _) = arena.session_of("A8")?;
    ensure!(head["denied"] == 2_000, "the refusals are counted: {}", head["denied"]);
    ensure!(head["commands"].as_u64() >= Some(5_001), "{}", head["commands"]);
    Ok(())
}

fn flood(arena: &Arena) -> Result<()> {
    let before = arena.turned_away()?;
    let route = arena.through("app", "A8-door")?;
    for at in 0..100 {
        let (_, answer) = route.password(&format!("guess {at}")).try_open_as(&route.startup())?;
        ensure!(answer.code().as_deref() == Some("28P01"), "{}", answer.describe());
    }
    arena.expect_turned_away(before, 100)?;
    route.open().map(drop)
}

fn stopping(arena: &Arena) -> Result<()> {
    let mut session = arena.through("app", "A9")?.open()?;
    for sql in [
        "SELECT pg_terminate_backend(pg_backend_pid())",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
        "SELECT pg_cancel_backend(pg_backend_pid())",
        "SELECT pg_catalog.pg_terminate_backend(42, 100)",
        "SELECT pg_reload_conf()",
        "SELECT pg_rotate_logfile()",
    ] {
        let answer = session.query(sql)?;
        arena.expect_refused("A9", &answer)?;
        ensure!(session.query("SELECT pg_backend_pid()")?.succeeded(), "the control");
    }
    let killed = arena.passage().open()?.query("SELECT pg_terminate_backend(pg_backend_pid())")?;
    ensure!(killed.closed, "no effect by itself");
    Ok(())
}

/// The same work past the gateway leaves no entry: it is the gateway that records.
fn unguarded(arena: &Arena) -> Result<()> {
    let before = arena.entries()?.iter().filter(|entry| entry["kind"] == "intent").count();
    ensure!(arena.passage().open()?.query("SELECT 'a2 unseen'")?.succeeded(), "the server answers");
    let after = arena.entries()?.iter().filter(|entry| entry["kind"] == "intent").count();
    ensure!(before == after, "it was recorded");
    Ok(())
}

/// A part of a tile that a later one holds whole: no checkpoint needs it any more.
fn is_stale(path: &Path, all: &[std::path::PathBuf]) -> bool {
    let Some(folder) = path.parent().filter(|folder| folder.extension().is_some_and(|e| e == "p"))
    else {
        return false;
    };
    let width = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let larger =
        |other: &std::path::PathBuf| other.parent() == Some(folder) && width(other) > width(path);
    all.iter().any(larger) || all.contains(&folder.with_extension(""))
}

/// Flips, cuts, swaps and deletions of the archive are all found.
fn tampering(dir: &Path, copy: &Path) -> Result<()> {
    let archive = dir.join("data/archive");
    let key = dir.join("data/log.vkey").to_string_lossy().into_owned();
    let verify = || -> Result<i32> {
        Ok(cli_in(copy, &["log", "verify", "archive", "--key", &key])?.code())
    };
    let again = || -> Result<()> {
        let target = copy.join("archive");
        let _ = fs::remove_dir_all(&target);
        let mut command = std::process::Command::new("cp");
        command.arg("-a").arg(&archive).arg(&target);
        bulla_e2e::proc::capture(command, None, bulla_e2e::client::PATIENCE)?.success().map(drop)
    };
    again()?;
    ensure!(verify()? == 0, "the control");
    let mut all = Vec::new();
    files(&archive, &mut all)?;
    all.sort();
    let stale: Vec<_> = all.iter().filter(|path| is_stale(path, &all)).cloned().collect();
    all.retain(|path| !stale.contains(path));
    ensure!(all.len() > 5, "{} files", all.len());
    let step = (all.len() / 10).max(1);
    for path in all.iter().step_by(step) {
        let inside = copy.join("archive").join(path.strip_prefix(&archive)?);
        let bytes = fs::read(path)?;
        let middle = bytes.len() / 2;
        let changes: [(&str, Option<Vec<u8>>); 4] = [
            ("flipped", {
                let mut flipped = bytes.clone();
                if let Some(byte) = flipped.get_mut(middle) {
                    *byte ^= 1;
                }
                Some(flipped)
            }),
            ("cut", Some(bytes.get(..middle).unwrap_or_default().to_vec())),
            ("longer", Some([&bytes[..], b"x"].concat())),
            ("gone", None),
        ];
        for (what, change) in changes {
            match change {
                Some(changed) if changed == bytes => continue,
                Some(changed) => fs::write(&inside, changed)?,
                None => fs::remove_file(&inside)?,
            }
            let code = verify()?;
            let shown = path.strip_prefix(&archive)?.display().to_string();
            ensure!(matches!(code, 10 | 11 | 1), "{shown} {what}: exit {code}");
            fs::write(&inside, &bytes)?;
        }
    }
    ensure!(verify()? == 0, "the control in the end");
    Ok(())
}
