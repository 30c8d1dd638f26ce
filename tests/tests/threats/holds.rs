//! K7, K8, A10 and A11: commands that wait for an approval.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bulla_e2e::arena::Arena;
use bulla_e2e::raw::{Answer, Raw, bind, cancel, close, execute, parse, query, sync};

/// Reads up to the notice that a command waits; the approval's id.
fn waits(session: &mut Raw) -> Result<String> {
    let answer = session.until(|messages| messages.iter().any(|m| m.kind == b'N'))?;
    let notice = answer.messages.iter().find(|message| message.kind == b'N');
    let words = notice.and_then(|notice| notice.field(b'M')).context("a notice")?;
    let id = words.split("approval ").nth(1).and_then(|rest| rest.split(' ').next());
    Ok(id.with_context(|| format!("an id in `{words}`"))?.to_owned())
}

/// Answers as a person of the group, with a token of his own.
fn answer(arena: &Arena, what: &str, id: &str, who: &str, group: &str) -> Result<i32> {
    let token = arena.person(group, who)?;
    answer_as(arena, what, id, &token)
}

fn answer_as(arena: &Arena, what: &str, id: &str, token: &str) -> Result<i32> {
    let file = arena.gateway.dir().write("approver.token", token)?;
    let file = file.to_string_lossy().into_owned();
    let done = arena.gateway.cli(&["approvals", what, id, "--token-file", &file])?;
    Ok(done.code())
}

fn delete(id: u32) -> String {
    format!("DELETE FROM notes WHERE id = {id}")
}

fn notes(arena: &Arena) -> Result<String> {
    arena.ask("SELECT count(*) FROM notes WHERE id BETWEEN 7000 AND 7999")
}

fn fill(arena: &Arena) -> Result<()> {
    arena.ask("DELETE FROM notes WHERE id BETWEEN 7000 AND 7999")?;
    let insert = "INSERT INTO notes OVERRIDING SYSTEM VALUE \
                  SELECT n, 'held' FROM generate_series(7001, 7009) n";
    arena.ask(insert).map(drop)
}

pub fn held(arena: &Arena) {
    type Row = fn(&Arena) -> Result<()>;
    let rows: [(&str, Row); 8] = [
        ("K7 a held command is not sent, and leaves with its client", leaves),
        ("K7 more words behind a held command", pipelined),
        ("K7 another meaning for the held name", renamed),
        ("K7 a cancel withdraws", cancelled),
        ("K7 approved once, run once", once),
        ("K8 approve A, run B", other_command),
        ("A11 nobody approves his own, nor without the group", own_approval),
        ("A10 the approver sees what runs", shown),
    ];
    for (row, run) in rows {
        arena.try_row(row, || {
            fill(arena)?;
            run(arena)
        });
    }
    arena.try_row("K7, unguarded", || {
        fill(arena)?;
        let answer = arena.passage().open()?.query(&delete(7001))?;
        ensure!(answer.holds("DELETE 1"), "no effect by itself: {}", answer.describe());
        Ok(())
    });
}

fn leaves(arena: &Arena) -> Result<()> {
    let ends: [fn(Raw) -> Result<()>; 3] = [
        |session| {
            drop(session);
            Ok(())
        },
        Raw::reset,
        |mut session| {
            session.half_close()?;
            session.to_end().map(drop)
        },
    ];
    for end in ends {
        let from = arena.logged();
        let mut session = arena.through("held", "K7-leaves")?.open()?;
        session.send(&query(&delete(7001)))?;
        let id = waits(&mut session)?;
        end(session)?;
        // The ask goes with its client; nobody can answer it any more.
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while arena.gateway.cli(&["approvals", "ls"])?.out().contains(&id) {
            ensure!(std::time::Instant::now() < until, "the ask outlives its client");
        }
        ensure!(answer(arena, "approve", &id, "carol", "dba")? != 0, "approved for nobody");
        ensure!(notes(arena)? == "9", "it ran");
        ensure!(!arena.logged_since(from)?.contains(&delete(7001)), "it reached the server");
    }
    Ok(())
}

fn pipelined(arena: &Arena) -> Result<()> {
    let mut session = arena.through("held", "K7-pipelined")?.open()?;
    let from = arena.logged();
    session.send(&query(&delete(7001)))?;
    let id = waits(&mut session)?;
    session.send(
        &[query("UPDATE customers SET name = 'k7' WHERE id = 7"), query(&delete(7002))].concat(),
    )?;
    ensure!(session.is_quiet(Duration::from_millis(300))?, "it answers out of turn");
    let log = arena.logged_since(from)?;
    ensure!(!log.contains("DELETE FROM notes WHERE") && !log.contains("'k7'"), "sent: {log}");
    ensure!(answer(arena, "reject", &id, "carol", "dba")? == 0, "reject");
    let answer_one = session.ready(1)?;
    arena.expect_refused("K7 pipelined", &answer_one)?;
    ensure!(session.ready(1)?.holds("UPDATE 1"), "what follows has its turn");
    let id = waits(&mut session)?;
    ensure!(answer(arena, "reject", &id, "carol", "dba")? == 0, "reject");
    session.ready(1)?;
    ensure!(notes(arena)? == "9", "it ran");
    arena.ask("UPDATE customers SET name = 'Ada' WHERE id = 7").map(drop)
}

/// Approves what is about `wanted` and rejects anything else, until the session is ready.
fn approve_only(arena: &Arena, session: &mut Raw, wanted: &str) -> Result<Answer> {
    let mut all = Answer::default();
    loop {
        let seen =
            session.until(|messages| messages.iter().any(|m| matches!(m.kind, b'Z' | b'N')))?;
        let words = seen.messages.iter().find(|m| m.kind == b'N').and_then(|m| m.field(b'M'));
        all = all.and(seen);
        let Some(words) = words else { return Ok(all) };
        let id = words.split("approval ").nth(1).and_then(|rest| rest.split(' ').next());
        let id = id.unwrap_or_default();
        let shown = arena.gateway.cli(&["approvals", "show", id])?.success()?;
        let what = if shown.contains(wanted) { "approve" } else { "reject" };
        ensure!(answer(arena, what, id, "carol", "dba")? == 0, "{what}: {shown}");
    }
}

fn renamed(arena: &Arena) -> Result<()> {
    let mut session = arena.through("held", "K7-renamed")?.open()?;
    session.send(&[parse("s", &delete(7001)), sync()].concat())?;
    approve_only(arena, &mut session, "7001")?;
    let run = [bind("", "s", &[]), execute("", 0)].concat();
    let again = [close(b'S', "s"), parse("s", &delete(7002)), bind("", "s", &[]), execute("", 0)];
    session.send(&[run, again.concat(), sync()].concat())?;
    let rest = approve_only(arena, &mut session, "7001")?;
    // The second one was rejected, and takes the first, of the same transaction, with it.
    arena.expect_refused("K7 renamed", &rest)?;
    ensure!(notes(arena)? == "9", "one of them was kept: {}", rest.describe());
    session.send(&[bind("", "s", &[]), execute("", 0), sync()].concat())?;
    let alone = approve_only(arena, &mut session, "7001")?;
    let left = arena.ask("SELECT min(id) FROM notes WHERE id BETWEEN 7000 AND 7999")?;
    let gone = alone.errors().is_empty() && left == "7002" && notes(arena)? == "8";
    let refused = !alone.errors().is_empty() && notes(arena)? == "9";
    ensure!(gone || refused, "the wrong one ran: {left}: {}", alone.describe());
    Ok(())
}

fn cancelled(arena: &Arena) -> Result<()> {
    let route = arena.through("held", "K7-cancel")?;
    let (mut session, welcome) = route.try_open_as(&route.startup())?;
    let key = welcome.messages.iter().find(|message| message.kind == b'K').context("a key")?;
    session.send(&query(&delete(7001)))?;
    let id = waits(&mut session)?;
    let mut raw = route.tls()?;
    raw.send(&cancel(&key.body))?;
    raw.to_end()?;
    let answered = session.ready(1)?;
    ensure!(answered.code().as_deref() == Some("57014"), "{}", answered.describe());
    ensure!(answer(arena, "approve", &id, "carol", "dba")? != 0, "approved after the cancel");
    ensure!(session.query("SELECT 1")?.succeeded(), "the session goes on");
    ensure!(notes(arena)? == "9", "it ran");
    Ok(())
}

fn once(arena: &Arena) -> Result<()> {
    let mut session = arena.through("held", "K7-once")?.open()?;
    session.send(&query(&delete(7001)))?;
    let id = waits(&mut session)?;
    ensure!(answer(arena, "approve", &id, "carol", "dba")? == 0, "approve");
    ensure!(session.ready(1)?.holds("DELETE 1"), "the control");
    ensure!(answer(arena, "approve", &id, "carol", "dba")? != 0, "approved twice");
    ensure!(answer(arena, "reject", &id, "carol", "dba")? != 0, "rejected after the fact");
    // The same words again are another command.
    session.send(&query(&delete(7001)))?;
    let again = waits(&mut session)?;
    ensure!(again != id, "the approval was used again");
    ensure!(answer(arena, "approve", &id, "carol", "dba")? != 0, "the old id answers");
    ensure!(answer(arena, "reject", &again, "carol", "dba")? == 0, "reject");
    let answered = session.ready(1)?;
    arena.expect_refused("K7 once", &answered)
}

fn other_command(arena: &Arena) -> Result<()> {
    let mut one = arena.through("held", "K8-one")?.open()?;
    let mut two = arena.through("held", "K8-two")?.open()?;
    one.send(&query(&delete(7001)))?;
    let first = waits(&mut one)?;
    two.send(&query(&delete(7001)))?;
    let second = waits(&mut two)?;
    ensure!(first != second, "two sessions share an approval");
    ensure!(answer(arena, "approve", &first, "carol", "dba")? == 0, "approve");
    ensure!(one.ready(1)?.holds("DELETE 1"), "the control");
    ensure!(two.is_quiet(Duration::from_millis(300))?, "the other one ran as well");
    ensure!(answer(arena, "reject", &second, "carol", "dba")? == 0, "reject");
    let refused = two.ready(1)?;
    arena.expect_refused("K8 two", &refused)?;
    // Same text, other values; same text, other search path.
    let bound = |value: &str| [bind("", "s", &[Some(value)]), execute("", 0), sync()].concat();
    let mut session = arena.through("held", "K8-values")?.open()?;
    session.send(&[parse("s", "DELETE FROM notes WHERE id = $1"), sync()].concat())?;
    approve_only(arena, &mut session, "DELETE FROM notes")?;
    session.send(&bound("7003"))?;
    let answered = approve_only(arena, &mut session, "DELETE FROM notes")?;
    ensure!(answered.holds("DELETE 1"), "{}", answered.describe());
    session.send(&bound("7004"))?;
    let id = waits(&mut session)?;
    ensure!(answer(arena, "reject", &id, "carol", "dba")? == 0, "reject");
    session.ready(1)?;
    let left =
        arena.ask("SELECT string_agg(id::text, ' ' ORDER BY id) FROM notes WHERE id > 7000")?;
    ensure!(left.starts_with("7002 7004"), "{left}");
    Ok(())
}

fn own_approval(arena: &Arena) -> Result<()> {
    let alice = arena.person("held", "alice")?;
    let mut session = arena.through("held", "alice")?.password(&alice).open()?;
    session.send(&query(&delete(7001)))?;
    let id = waits(&mut session)?;
    ensure!(answer(arena, "approve", &id, "alice", "dba")? != 0, "approved her own");
    ensure!(answer(arena, "approve", &id, "mallory", "app")? != 0, "approved without the group");
    let service = arena.token("dba", "billing")?;
    ensure!(answer_as(arena, "approve", &id, &service)? != 0, "approved by a service");
    for wrong in ["", "0000-00", "../../etc", "7F3K-2Q", &id.to_lowercase().replace('-', "")] {
        let code = answer(arena, "approve", wrong, "mallory", "app")?;
        ensure!(code != 0, "approved `{wrong}`");
    }
    ensure!(session.is_quiet(Duration::from_millis(200))? && notes(arena)? == "9", "it ran");
    ensure!(answer(arena, "approve", &id, "carol", "dba")? == 0, "the control");
    ensure!(session.ready(1)?.holds("DELETE 1"), "the control");
    Ok(())
}

fn shown(arena: &Arena) -> Result<()> {
    let hidden = "DELETE FROM notes WHERE id = 7001 /* \u{202e}0007 = di EREHW\u{202c} \u{200b}*/ \
                  -- \u{1b}[2K\u{1b}[1GDELETE FROM nothing\n AND body = 'held'";
    let mut session = arena.through("held", "A10")?.open()?;
    session.send(&query(hidden))?;
    let id = waits(&mut session)?;
    let shown = arena.gateway.cli(&["approvals", "show", &id])?.success()?;
    ensure!(shown.contains("DELETE FROM notes WHERE id = 7001"), "{shown}");
    for bad in ['\u{202e}', '\u{202c}', '\u{200b}', '\u{1b}'] {
        ensure!(!shown.contains(bad), "{bad:?} reaches the approver's terminal: {shown:?}");
    }
    ensure!(shown.contains("notes"), "what it touches is not shown: {shown}");
    ensure!(answer(arena, "reject", &id, "carol", "dba")? == 0, "reject");
    let refused = session.ready(1)?;
    arena.expect_refused("A10", &refused)?;
    // The end of a megabyte is shown or the approval refused, never silently left off.
    let long = format!("{} /*{}*/ OR id = 7002", delete(7001), "x".repeat(500_000));
    session.send(&query(&long))?;
    let seen = session.until(|messages| messages.iter().any(|m| matches!(m.kind, b'Z' | b'N')))?;
    if seen.is_ready() {
        return arena.expect_refused("A10 long", &seen);
    }
    let words = seen.messages.iter().find_map(|m| m.field(b'M')).unwrap_or_default();
    let id = words.split("approval ").nth(1).and_then(|rest| rest.split(' ').next());
    let id = id.unwrap_or_default().to_owned();
    let shown = arena.gateway.cli(&["approvals", "show", &id])?.success()?;
    let whole = shown.contains("OR id = 7002");
    ensure!(whole || shown.contains("not shown"), "the end is hidden from the approver");
    ensure!(answer(arena, "reject", &id, "carol", "dba")? == 0, "reject");
    session.ready(1).map(drop)
}
