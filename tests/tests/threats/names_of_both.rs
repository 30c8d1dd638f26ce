//! Names that SQL and the protocol share, sessions that share nothing, and how sessions end.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bulla_e2e::arena::Arena;
use bulla_e2e::raw::{Raw, bind, close, describe, execute, parse, query, sync};

const GOAL: &str = "SELECT amount FROM salaries";
const FINE: &str = "SELECT name FROM customers ORDER BY id";

pub fn shared(arena: &Arena) {
    arena.try_row("W1 one name for SQL and protocol", || crossed(arena));
    arena.try_row("W1 what runs under a name is what is recorded", || recorded(arena));
}

/// Every way to run under one route what was made under the other.
fn crossed(arena: &Arena) -> Result<()> {
    let made = |session: &mut Raw, how: usize, sql: &str| match how {
        0 => session.turn(&[parse("s", sql), sync()].concat()),
        _ => session.query(&format!("PREPARE s AS {sql}")),
    };
    let run = |session: &mut Raw, how: usize| match how {
        0 => session.turn(&[bind("", "s", &[]), execute("", 0), sync()].concat()),
        1 => session.query("EXECUTE s"),
        2 => session.extended("EXECUTE s"),
        _ => {
            let made = session.query("CREATE TEMP TABLE w1 AS EXECUTE s")?;
            let seen = session.query("TABLE w1")?;
            Ok(made.and(seen).and(session.query("DROP TABLE IF EXISTS w1")?))
        }
    };
    for maker in 0..2 {
        for runner in 0..4 {
            for group in ["least", "deny"] {
                let mut session = arena.through(group, "W1")?.open()?;
                let answer = made(&mut session, maker, GOAL)?;
                arena.expect_refused("W1", &answer)?;
                let answer = run(&mut session, runner)?;
                ensure!(!answer.errors().is_empty(), "ran {maker} {runner}");
                ensure!(!answer.holds("6400.00"), "leaked by {maker} {runner}");
                ensure!(session.query("ROLLBACK")?.is_ready(), "the session is gone");
                if runner == 3 && group == "least" {
                    continue;
                }
                ensure!(made(&mut session, maker, FINE)?.errors().is_empty(), "the control");
                let answer = run(&mut session, runner)?;
                ensure!(answer.holds("Ada"), "{maker} {runner}: {}", answer.describe());
            }
            let mut direct = arena.passage().open()?;
            made(&mut direct, maker, GOAL)?;
            ensure!(run(&mut direct, runner)?.holds("6400.00"), "no effect by itself");
        }
    }
    cursors(arena)
}

fn cursors(arena: &Arena) -> Result<()> {
    // A cursor of SQL run as a portal, a portal fetched as a cursor.
    let as_portal = |session: &mut Raw, sql: &str| {
        session.query("BEGIN")?;
        let declared = session.query(&format!("DECLARE c CURSOR FOR {sql}"))?;
        let bytes = [describe(b'P', "c"), execute("c", 0), close(b'P', "c"), sync()].concat();
        Ok::<_, anyhow::Error>(declared.and(session.turn(&bytes)?).and(session.query("COMMIT")?))
    };
    let as_cursor = |session: &mut Raw, sql: &str| {
        session.query("BEGIN")?;
        let bound = session.turn(&[parse("", sql), bind("p", "", &[]), sync()].concat())?;
        let fetched = session.query("FETCH ALL FROM p")?;
        Ok::<_, anyhow::Error>(bound.and(fetched).and(session.query("COMMIT")?))
    };
    for group in ["least", "deny"] {
        let mut session = arena.through(group, "W1-cursors")?.open()?;
        let answer = as_portal(&mut session, GOAL)?;
        arena.expect_refused("W1 portal", &answer)?;
        let answer = as_cursor(&mut session, GOAL)?;
        arena.expect_refused("W1 cursor", &answer)?;
        ensure!(as_portal(&mut session, FINE)?.holds("Ada"), "the control of a portal");
        ensure!(as_cursor(&mut session, FINE)?.holds("Ada"), "the control of a cursor");
    }
    let mut direct = arena.passage().open()?;
    ensure!(as_portal(&mut direct, GOAL)?.holds("6400.00"), "no effect by itself");
    ensure!(as_cursor(&mut direct, GOAL)?.holds("6400.00"), "no effect by itself");
    Ok(())
}

/// A name is given away and taken again, by turns; the record must follow.
fn recorded(arena: &Arena) -> Result<()> {
    let texts = ["SELECT 'w1 zero'", "SELECT 'w1 one'", "SELECT 'w1 two'", "SELECT 'w1 three'"];
    let mut session = arena.through("least", "W1-record")?.open()?;
    session.turn(&[parse("s", texts[0]), sync()].concat())?;
    session.query("DEALLOCATE s")?;
    session.query(&format!("PREPARE s AS {}", texts[1]))?;
    let one = session.turn(&[bind("", "s", &[]), execute("", 0), sync()].concat())?;
    ensure!(one.holds("w1 one"), "{}", one.describe());
    session.turn(&[close(b'S', "s"), parse("s", texts[2]), sync()].concat())?;
    ensure!(session.query("EXECUTE s")?.holds("w1 two"), "EXECUTE");
    session.query("DEALLOCATE ALL")?;
    session.turn(&[parse("s", texts[3]), sync()].concat())?;
    ensure!(session.query("EXECUTE s")?.holds("w1 three"), "EXECUTE");
    session.query("DISCARD ALL")?;
    let gone = session.query("EXECUTE s")?;
    ensure!(!gone.errors().is_empty(), "{}", gone.describe());
    session.query("BEGIN")?;
    session.query(&format!("PREPARE s AS {}", texts[1]))?;
    session.query("ROLLBACK")?;
    // What PREPARE made outlives the rollback.
    ensure!(session.query("EXECUTE s")?.holds("w1 one"), "EXECUTE");
    let (_, events) = arena.session_of("W1-record")?;
    let said = serde_json::to_string(&events)?;
    for text in texts {
        ensure!(said.contains(text), "`{text}` is not in the record");
    }
    Ok(())
}

/// W9: what one session leaves behind, no other finds.
pub fn sessions_share_nothing(arena: &Arena) {
    arena.try_row("W9 two sessions share nothing", || -> Result<()> {
        let mut one = arena.through("app", "W9")?.open()?;
        for sql in [
            "SET work_mem = '7MB'",
            "SET search_path = archive",
            "PREPARE left_over AS SELECT 1",
            "CREATE TEMP TABLE left_over (id int)",
            "LISTEN left_over",
            "SELECT pg_advisory_lock(4711)",
            "BEGIN",
            "DECLARE left_over CURSOR WITH HOLD FOR SELECT 1",
        ] {
            ensure!(one.query(sql)?.succeeded(), "{sql}");
        }
        drop(one);
        let mut two = arena.through("app", "W9")?.open()?;
        let pid = two.query("SELECT pg_backend_pid()")?;
        ensure!(pid.succeeded(), "a session");
        for (sql, want) in [
            ("SHOW work_mem", "4MB"),
            ("SHOW search_path", "\"$user\", public"),
            ("SELECT count(*) FROM pg_prepared_statements", "0"),
            ("SELECT count(*) FROM pg_cursors WHERE name = 'left_over'", "0"),
            ("SELECT to_regclass('pg_temp.left_over')", "∅"),
            ("SELECT count(*) FROM pg_listening_channels()", "0"),
        ] {
            let cells = two.query(sql)?.cells();
            ensure!(cells == [want], "{sql}: {cells:?}");
        }
        Ok(())
    });
}

/// W10: a session that ends in the midst of its work.
pub fn endings(arena: &Arena) {
    type Ending = fn(Raw) -> Result<()>;
    let half_close: Ending = |mut session| {
        session.half_close()?;
        session.to_end().map(drop)
    };
    let cut: Ending = |session| {
        drop(session);
        Ok(())
    };
    let ways: [(&str, Ending); 3] =
        [("half-closed", half_close), ("reset", Raw::reset), ("cut", cut)];
    for (what, end) in ways {
        arena.try_row(&format!("W10 {what} in mid result"), || {
            let subject = format!("W10-{what}");
            let mut session = arena.through("app", &subject)?.open()?;
            let sql = "SELECT repeat('w10', 1000) FROM generate_series(1, 100000)";
            session.send(&query(sql))?;
            session.until(|messages| messages.len() > 3)?;
            end(session)?;
            settled(arena, &subject)?;
            let (_, events) = arena.session_of(&subject)?;
            let command = events.iter().find(|event| event["statement"] == sql);
            let status = command.map(|event| event["status"].clone()).unwrap_or_default();
            ensure!(status.is_string(), "no end on record: {events:?}");
            Ok(())
        });
        arena.try_row(&format!("W10 {what} in a transaction"), || {
            let subject = format!("W10-tx-{what}");
            let mut session = arena.through("app", &subject)?.open()?;
            session.query("BEGIN")?;
            session.query("UPDATE customers SET name = 'w10' WHERE id = 7")?;
            end(session)?;
            settled(arena, &subject)?;
            ensure!(arena.ask("SELECT name FROM customers WHERE id = 7")? == "Ada", "half kept");
            Ok(())
        });
    }
}

/// Waits until the session is closed on record and its server process is gone.
fn settled(arena: &Arena, subject: &str) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let (session, _) = arena.session_of(subject)?;
        let working = arena.ask(
            "SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle' AND query ~ 'w10' \
             AND pid <> pg_backend_pid()",
        )?;
        if session["state"] != "live" && working == "0" {
            return Ok(());
        }
        ensure!(Instant::now() < until, "still {} with {working} at work", session["state"]);
    }
}
