//! Frames that lie, frames of no kind, frames out of turn.

use anyhow::{Result, ensure};
use bulla_e2e::arena::Arena;
use bulla_e2e::raw::{
    Answer, Raw, bind, bind_as, close, copy_data, describe, execute, flush, frame, framed, parse,
    parse_typed, query, startup, sync,
};

/// What an attacker would like to run.
const GOAL: &str = "SELECT amount FROM salaries";

/// Bytes within a session, and what the server says of them when it hears them.
fn violations() -> Vec<(&'static str, &'static str, Vec<u8>, &'static str)> {
    let goal = [GOAL.as_bytes(), &[0]].concat();
    let text = |text: &[u8]| [text, &[0]].concat();
    let counts = |count: [u8; 2]| [b"\0SELECT 1\0".as_slice(), &count].concat();
    let bound = |tail: &[u8]| frame(b'B', &[b"\0\0".as_slice(), tail].concat());
    vec![
        ("W6", "a length of 3", framed(b'Q', 3, &goal), "invalid message length"),
        ("W6", "a length of 0", framed(b'Q', 0, &goal), "invalid message length"),
        ("W6", "a length of -1", framed(b'Q', 0xffff_ffff, &goal), "invalid message length"),
        ("W6", "a length of 2^31", framed(b'Q', 1 << 31, &goal), "invalid message length"),
        ("W6", "a length of 2^31 - 1", framed(b'Q', 0x7fff_ffff, &goal), "invalid message length"),
        ("W6", "more than a gigabyte", framed(b'P', 0x4000_0000, &goal), "invalid message length"),
        ("W6", "a Sync of 1 GB", framed(b'S', 0x3fff_ffff, &goal), "invalid message length"),
        (
            "W6",
            "text behind the end",
            frame(b'Q', &[&b"SELECT 1\0"[..], &goal].concat()),
            "invalid",
        ),
        ("W6", "a byte behind the end", frame(b'Q', b"SELECT 1\0\0"), "invalid message format"),
        ("W6", "no end of a text", frame(b'Q', GOAL.as_bytes()), "invalid string in message"),
        ("W6", "an empty Query", frame(b'Q', b""), "invalid string in message"),
        ("W6", "a Parse without counts", frame(b'P', b"\0SELECT 1\0"), "insufficient data"),
        ("W6", "a Parse with half a count", frame(b'P', b"\0SELECT 1\0\0"), "insufficient data"),
        ("W6", "a Parse of 65,535 types", frame(b'P', &counts([255, 255])), "insufficient data"),
        ("W6", "a Parse of -32,768 types", frame(b'P', &counts([128, 0])), "insufficient data"),
        (
            "W6",
            "a Parse with a tail",
            frame(b'P', &[counts([0, 0]), goal.clone()].concat()),
            "invalid message format",
        ),
        ("W6", "a Bind cut short", bound(&[0]), "insufficient data"),
        ("W6", "a Bind with 65,535 formats", bound(&[255, 255]), "insufficient data"),
        ("W6", "a Bind with 65,535 values", bound(&[0, 0, 255, 255]), "bind message supplies"),
        ("W6", "a value of length -2", bound(&[0, 0, 0, 1, 255, 255, 255, 254]), "insufficient"),
        ("W6", "a value longer than all", bound(&[0, 0, 0, 1, 0, 0, 1, 0, 65]), "insufficient"),
        ("W6", "a value of 2 GB", bound(&[0, 0, 0, 1, 127, 255, 255, 255]), "insufficient"),
        (
            "W6",
            "a Bind with a tail",
            bound(&[&[0; 6][..], &goal].concat()),
            "bind message supplies",
        ),
        ("W6", "an Execute without a count", frame(b'E', b"\0"), "insufficient data"),
        ("W6", "an Execute with a tail", frame(b'E', b"\0\0\0\0\0!"), "invalid message format"),
        ("W6", "a Describe of nothing", frame(b'D', b""), "no data left"),
        ("W6", "a Describe of an X", frame(b'D', b"X\0"), "invalid DESCRIBE"),
        ("W6", "a Close of an X", frame(b'C', b"X\0"), "invalid CLOSE"),
        ("W6", "a Describe with a tail", frame(b'D', b"S\0more"), "invalid message format"),
        ("W6", "a Sync with a body", frame(b'S', &goal), "invalid message format"),
        ("W6", "a Flush with a body", frame(b'H', &goal), "invalid message format"),
        ("W6", "a FunctionCall cut short", frame(b'F', &[0, 0]), "insufficient data"),
        ("W12", "an unknown type", frame(b'z', &goal), "invalid frontend message type"),
        ("W12", "a type of 0", frame(0, &goal), "invalid frontend message type"),
        ("W12", "a type of 255", frame(255, &goal), "invalid frontend message type"),
        ("W12", "a server's RowDescription", frame(b'T', &goal), "invalid frontend message type"),
        ("W12", "a server's ReadyForQuery", frame(b'Z', b"I"), "invalid frontend message type"),
        ("W12", "a server's Authentication", frame(b'R', &[0; 4]), "invalid frontend"),
        ("W12", "a late password", frame(b'p', b"secret\0"), "invalid frontend message type"),
        ("W12", "a second startup", startup(0x30000, &[("user", "postgres")]), "invalid frontend"),
        ("W12", "a late SSLRequest", bulla_e2e::raw::SSL_REQUEST.to_vec(), "invalid frontend"),
        ("L9", "NUL in a query", frame(b'Q', b"SELECT 1\0, amount FROM salaries\0"), "invalid"),
        ("L9", "an overlong quote", frame(b'Q', &text(b"SELECT '\xc0\xa7'")), "invalid byte"),
        ("L9", "an overlong slash", frame(b'Q', &text(b"SELECT '\xe0\x80\xaf'")), "invalid byte"),
        ("L9", "an overlong NUL", frame(b'Q', &text(b"SELECT '\xc0\x80'")), "invalid byte"),
        ("L9", "a surrogate", frame(b'Q', &text(b"SELECT '\xed\xa0\x80'")), "invalid byte"),
        ("L9", "beyond Unicode", frame(b'Q', &text(b"SELECT '\xf4\x90\x80\x80'")), "invalid byte"),
        ("L9", "half a character", frame(b'Q', &text(b"SELECT 'x\xe2\x82")), "invalid byte"),
        (
            "L3",
            "LATIN1 in a name",
            frame(b'Q', &text(b"SELECT * FROM sal\xe4ries")),
            "invalid byte",
        ),
        ("L2", "SJIS with a backslash", frame(b'Q', &text(b"SELECT '\x95\\' --'")), "invalid byte"),
        (
            "L9",
            "bad UTF-8 in a Parse",
            [frame(b'P', &[&b"\0SELECT '\xff'\0"[..], &[0, 0]].concat()), sync()].concat(),
            "invalid byte",
        ),
        (
            "L9",
            "bad UTF-8 in a comment",
            frame(b'Q', &text(b"SELECT 1 /* \xff */")),
            "invalid byte",
        ),
    ]
}

/// Nobody would hear of a frame that lies: the session ends, and says why.
pub fn broken(arena: &Arena) {
    for (at, (line, what, bytes, says)) in violations().into_iter().enumerate() {
        let row = format!("{line} {what}");
        arena.try_row(&row, || -> Result<()> {
            let subject = format!("frames-{at}");
            let mut session = arena.through("app", &subject)?.open()?;
            ensure!(session.query("SELECT 'before'")?.succeeded(), "the control");
            let from = arena.logged();
            session.send(&bytes)?;
            let answer = session.to_end()?;
            ensure!(answer.code().as_deref() == Some("08P01"), "{}", answer.describe());
            ensure!(!answer.holds("6400.00"), "{}", answer.describe());
            let log = arena.logged_since(from)?;
            ensure!(!log.contains(says) && !log.contains("salaries"), "the server heard: {log}");
            let (session, _) = arena.session_of(&subject)?;
            ensure!(session["state"] == "violation", "recorded as {}", session["state"]);
            Ok(())
        });
        arena.try_row(&format!("{row}, unguarded"), || -> Result<()> {
            let mut session = arena.passage().open()?;
            let from = arena.logged();
            session.send(&[parse("", "SELECT $1::text"), bytes, sync()].concat())?;
            session.half_close()?;
            session.to_end()?;
            let log = arena.logged_since(from)?;
            ensure!(log.contains(says), "the server says nothing of `{says}`: {log}");
            Ok(())
        });
    }
}

/// Messages that are sound and not in their turn, or of a kind that is refused on principle.
pub fn out_of_turn(arena: &Arena) {
    arena.try_row("K6 FunctionCall", || function_call(arena));
    arena.try_row("W12 COPY data out of turn", || copy_out_of_turn(arena));
    arena.try_row("W6 a length that says less", || smuggled(arena));
    arena.try_row("W5 COPY of a closed table", || copies(arena));
    arena.try_row("W4 binary answers of a closed table", || binary(arena));
    arena.try_row("W3 portals without Describe", || portals(arena));
    arena.try_row("W11 notices, notifications, parameters", || asides(arena));
}

fn function_call(arena: &Arena) -> Result<()> {
    // pg_read_file(text), and abs(integer).
    let oids = arena.ask("SELECT 'pg_read_file(text)'::regprocedure::oid, 1397")?;
    for (oid, value) in oids.split(',').zip(["PG_VERSION", "-7"]) {
        let oid: u32 = oid.parse()?;
        let mut body = oid.to_be_bytes().to_vec();
        body.extend([0, 0, 0, 1]);
        body.extend(u32::try_from(value.len())?.to_be_bytes());
        body.extend(value.as_bytes());
        body.extend([0, 0]);
        let call = frame(b'F', &body);
        for group in ["least", "deny", "app"] {
            let mut session = arena.through(group, "K6")?.open()?;
            let answer = session.turn(&call)?;
            arena.expect_refused("K6", &answer)?;
            ensure!(!answer.kinds().contains('V'), "{}", answer.describe());
            ensure!(session.query("SELECT abs(-7)")?.succeeded(), "the control");
        }
        let answer = arena.passage().open()?.turn(&call)?;
        ensure!(answer.kinds().contains('V'), "no effect by itself: {}", answer.describe());
    }
    Ok(())
}

fn copy_out_of_turn(arena: &Arena) -> Result<()> {
    let copy = query("COPY notes (body) FROM STDIN");
    // The server drops copy data that it did not ask for; here it is a violation, or dropped.
    for bytes in [copy_data(b"evil\n"), frame(b'c', b""), frame(b'f', b"why\0")] {
        let mut session = arena.through("app", "W12-copy")?.open()?;
        session.send(&[bytes, query("SELECT 'behind'")].concat())?;
        let answer = session.ready(1)?;
        ensure!(answer.closed || answer.holds("behind"), "{}", answer.describe());
    }
    // A query within COPY data is data, and a message within COPY is judged like any other.
    let mut session = arena.through("deny", "W12-within")?.open()?;
    let from = arena.logged();
    session.send(&copy)?;
    session.until(|messages| messages.iter().any(|m| m.kind == b'G'))?;
    let inside = [copy_data(query(GOAL).as_slice()), query(GOAL), sync()].concat();
    session.send(&inside)?;
    session.half_close()?;
    let answer = session.to_end()?;
    ensure!(!answer.holds("6400.00"), "{}", answer.describe());
    let log = arena.logged_since(from)?;
    ensure!(!log.contains(&format!("statement: {GOAL}")), "it reached the server: {log}");
    // The usual way works.
    let mut session = arena.through("app", "W12-benign")?.open()?;
    session.send(&copy)?;
    session.until(|messages| messages.iter().any(|m| m.kind == b'G'))?;
    let done = session.turn(&[copy_data(b"a\n"), copy_data(b"b\n"), frame(b'c', b"")].concat())?;
    ensure!(done.holds("COPY 2"), "{}", done.describe());
    session.send(&copy)?;
    session.until(|messages| messages.iter().any(|m| m.kind == b'G'))?;
    let failed = session.turn(&[copy_data(b"c\n"), frame(b'f', b"changed my mind\0")].concat())?;
    ensure!(failed.code().as_deref() == Some("57014"), "{}", failed.describe());
    Ok(())
}

/// The classic: one message by its length, two by another reading (CVE-2024-27304).
fn smuggled(arena: &Arena) -> Result<()> {
    let hidden = query(GOAL);
    // As a value it is a value, whatever stands in it.
    let value = [b"x".repeat(70_000).as_slice(), &hidden].concat();
    let whole = [
        parse_typed("", "SELECT length($1::bytea)", &[17]),
        bind_as("", "", &[1], &[Some(&value)], &[0]),
        execute("", 0),
        sync(),
    ]
    .concat();
    let mut session = arena.through("app", "W6-value")?.open()?;
    let answer = session.turn(&whole)?;
    ensure!(answer.cells() == [value.len().to_string()], "{}", answer.describe());
    // Cut by a false length, what follows is a message of its own and is judged.
    let bound = bind_as("", "", &[1], &[Some(&value)], &[0]);
    let mut short = bound.clone();
    drop(short.splice(1..5, 70_016_u32.to_be_bytes()));
    for (group, bytes) in
        [("deny", [query("SELECT 1"), hidden.clone()].concat()), ("deny", short), ("least", hidden)]
    {
        let mut session = arena.through(group, "W6-short")?.open()?;
        let from = arena.logged();
        session.send(&[bytes, sync()].concat())?;
        session.half_close()?;
        let answer = session.to_end()?;
        ensure!(!answer.holds("6400.00"), "{}", answer.describe());
        ensure!(!arena.logged_since(from)?.contains(GOAL), "it reached the server");
    }
    let answer = arena.passage().open()?.turn(&query(GOAL))?;
    ensure!(answer.holds("6400.00"), "no effect by itself");
    Ok(())
}

fn copies(arena: &Arena) -> Result<()> {
    let forms = ["", " (FORMAT csv)", " (FORMAT csv, HEADER, FORCE_QUOTE *)", " (FORMAT binary)"];
    for form in forms {
        let mut session = arena.through("deny", "W5")?.open()?;
        for from in ["salaries", "(SELECT employee, amount FROM salaries)", "(TABLE pay)"] {
            let sql = format!("COPY {from} TO STDOUT{form}");
            arena.expect_refused("W5", &session.query(&sql)?)?;
            arena.expect_refused("W5", &session.extended(&sql)?)?;
            ensure!(arena.passage().open()?.query(&sql)?.kinds().contains('d'), "no effect");
        }
        let answer = session.query(&format!("COPY customers TO STDOUT{form}"))?;
        ensure!(answer.kinds().contains("dd"), "the control: {}", answer.describe());
    }
    Ok(())
}

fn binary(arena: &Arena) -> Result<()> {
    let sql = "SELECT employee, amount, ARRAY[amount], ROW(amount) FROM salaries WHERE id > $1";
    let goal = [
        parse_typed("", sql, &[23]),
        bind_as("", "", &[1], &[Some(&[0, 0, 0, 0])], &[1, 1, 1, 1]),
        execute("", 0),
        sync(),
    ]
    .concat();
    let mut session = arena.through("deny", "W4")?.open()?;
    let answer = session.turn(&goal)?;
    arena.expect_refused("W4", &answer)?;
    ensure!(!answer.holds("Emmy"), "{}", answer.describe());
    let control = [
        parse_typed(
            "",
            "SELECT name, since, ARRAY[id], ROW(id) FROM customers WHERE id = $1",
            &[23],
        ),
        bind_as("", "", &[1], &[Some(&[0, 0, 0, 7])], &[1]),
        execute("", 0),
        sync(),
    ]
    .concat();
    ensure!(session.turn(&control)?.holds("Ada"), "the control");
    ensure!(arena.passage().open()?.turn(&goal)?.holds("Emmy"), "no effect by itself");
    Ok(())
}

fn portals(arena: &Arena) -> Result<()> {
    // Two portals in turns with row limits, none described, and one that was never judged.
    let both = |second: &str| {
        [
            query("BEGIN"),
            parse("a", "SELECT name FROM customers ORDER BY id"),
            bind("pa", "a", &[]),
            execute("pa", 1),
            parse("b", second),
            bind("pb", "b", &[]),
            execute("pb", 1),
            execute("pa", 1),
            execute("pb", 0),
            sync(),
            query("COMMIT"),
        ]
        .concat()
    };
    let run = |session: &mut Raw, second: &str| -> Result<Answer> {
        session.send(&both(second))?;
        session.ready(3)
    };
    let mut session = arena.through("deny", "W3")?.open()?;
    let answer = run(&mut session, GOAL)?;
    arena.expect_refused("W3", &answer)?;
    let fine = run(&mut arena.through("deny", "W3-benign")?.open()?, "SELECT item FROM orders")?;
    ensure!(fine.holds("Ada") && fine.holds("punch cards"), "{}", fine.describe());
    ensure!(fine.kinds().contains('s'), "portals are suspended: {}", fine.kinds());
    ensure!(run(&mut arena.passage().open()?, GOAL)?.holds("5100.00"), "no effect by itself");
    let (_, events) = arena.session_of("W3-benign")?;
    let ran = events.iter().filter(|event| event["statement"] == "SELECT item FROM orders");
    ensure!(ran.count() >= 2, "one entry for each execution");
    Ok(())
}

fn asides(arena: &Arena) -> Result<()> {
    let notify = "SELECT pg_notify('events', 'w11 payload')";
    for sql in ["LISTEN events", notify, "NOTIFY events, 'x'", "UNLISTEN *"] {
        let mut session = arena.through("least", "W11")?.open()?;
        arena.expect_refused("W11", &session.query(sql)?)?;
    }
    // Who may listen is told, and what he is told is evidence of his session.
    let mut listener = arena.through("app", "W11-listens")?.open()?;
    ensure!(listener.query("LISTEN events")?.succeeded(), "LISTEN");
    let mut sender = arena.through("app", "W11-sends")?.open()?;
    ensure!(sender.query(notify)?.succeeded(), "NOTIFY");
    let told = listener.until(|messages| messages.iter().any(|m| m.kind == b'A'))?;
    ensure!(told.holds("w11 payload"), "{}", told.describe());
    let (session, _) = arena.session_of("W11-listens")?;
    let id = session["session"].as_str().unwrap_or_default();
    let raw = arena.gateway.cli(&["sessions", "replay", id, "--raw"])?.success()?;
    ensure!(raw.contains("w11 payload"), "the notification is not in the evidence");
    let changed = sender.query("SET application_name = 'w11 name'")?;
    ensure!(changed.kinds().contains('S'), "ParameterStatus: {}", changed.describe());
    let mut direct = arena.passage().open()?;
    ensure!(direct.query(notify)?.succeeded(), "no effect by itself");
    Ok(())
}

/// After an error the server skips to the Sync; the gateway must not take skipped words for true.
pub fn kept_in_order(arena: &Arena) {
    arena.try_row("W2 a Parse that the server skipped", || skipped(arena));
    arena.try_row("W2 a refusal in a pipeline", || refused_in_pipeline(arena));
}

fn skipped(arena: &Arena) -> Result<()> {
    let one = "SELECT name, 'one' FROM customers WHERE id = 7";
    let two = "SELECT item, 'two' FROM orders WHERE id = 1";
    let fails = "SELECT 1 / (id - id) FROM customers";
    let attempts = [
        // Skipped behind an error.
        [
            parse("", fails),
            bind("", "", &[]),
            execute("", 0),
            close(b'S', "s"),
            parse("s", two),
            sync(),
        ]
        .concat(),
        // A name that is taken.
        [parse("s", two), sync()].concat(),
        // A Bind that fails, then a new meaning.
        [bind("", "s", &[Some("1"), Some("2")]), close(b'S', "s"), parse("s", two), sync()]
            .concat(),
        // A syntax error first.
        [parse("", "SELECT FROM WHERE"), close(b'S', "s"), parse("s", two), sync()].concat(),
        // Something refused first.
        [parse("", GOAL), close(b'S', "s"), parse("s", two), sync()].concat(),
        // Within a transaction that fails.
        [query("BEGIN"), query(fails), parse("s", two), sync(), query("ROLLBACK")].concat(),
        [parse("", fails), bind("", "", &[]), execute("", 1), describe(b'S', "s"), flush(), sync()]
            .concat(),
    ];
    for (at, attempt) in attempts.iter().enumerate() {
        let subject = format!("W2-{at}");
        let mut session = arena.through("deny", &subject)?.open()?;
        ensure!(session.turn(&[parse("s", one), sync()].concat())?.errors().is_empty(), "Parse");
        let syncs = [attempt.clone(), query("SELECT 'w2 end'")].concat();
        session.send(&syncs)?;
        session.until(|messages| {
            let mut end = messages.iter().skip_while(|m| !m.body.ends_with(b"w2 end"));
            end.any(|m| m.kind == b'Z')
        })?;
        let answer = session.turn(&[bind("", "s", &[]), execute("", 0), sync()].concat())?;
        ensure!(answer.holds("one") && answer.holds("Ada"), "{at}: {}", answer.describe());
        let (_, events) = arena.session_of(&subject)?;
        let last = events.iter().rev().find(|event| event["action"] == "postgres:select");
        let text = last.map(|event| event["statement"].clone()).unwrap_or_default();
        ensure!(text == one, "{at}: the record says {text}");
    }
    Ok(())
}

fn refused_in_pipeline(arena: &Arena) -> Result<()> {
    let write = "UPDATE customers SET name = 'w2' WHERE id = 8";
    let run = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0)].concat();
    let mut session = arena.through("deny", "W2-pipeline")?.open()?;
    let before = arena.fingerprint()?;
    for pipeline in [
        [run(write), run(GOAL), sync()].concat(),
        [run(GOAL), run(write), sync()].concat(),
        [run(write), parse("", GOAL), sync()].concat(),
        [run("BEGIN"), run(write), run(GOAL), run("COMMIT"), sync()].concat(),
    ] {
        let mut answer = session.turn(&pipeline)?;
        if answer.status() != Some('I') {
            answer = answer.and(session.query("COMMIT")?);
        }
        arena.expect_refused("W2 pipeline", &answer)?;
        ensure!(arena.fingerprint()? == before, "half of it was kept: {}", answer.describe());
    }
    let fine = session.turn(&[run(write), run("SELECT name FROM customers"), sync()].concat())?;
    ensure!(fine.holds("w2"), "the control: {}", fine.describe());
    arena.ask("UPDATE customers SET name = 'Edsger' WHERE id = 8")?;
    Ok(())
}
