//! Before a session: startup messages, encryption, cancel requests.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bulla_e2e::arena::Arena;
use bulla_e2e::raw::{
    Answer, GSSENC_REQUEST, Raw, SSL_REQUEST, V3_0, V3_2, cancel, query, startup, untyped,
};

type Pairs = &'static [(&'static str, &'static str)];

/// Wishes that are refused at the door. What the server says to them, unguarded.
#[rustfmt::skip]
const REFUSED: &[(&str, &str, Pairs)] = &[
    ("K5", "replication=database", &[("replication", "database")]),
    ("K5", "replication=true", &[("replication", "true")]),
    ("K5", "replication=on", &[("replication", "on")]),
    ("K5", "replication=1", &[("replication", "1")]),
    ("K5", "replication=yes", &[("replication", "yes")]),
    ("L1", "standard_conforming_strings", &[("standard_conforming_strings", "off")]),
    ("L1", "standard_conforming_strings in capitals", &[("STANDARD_CONFORMING_STRINGS", "Off")]),
    ("L1", "-c standard_conforming_strings", &[("options", "-c standard_conforming_strings=off")]),
    ("L1", "--standard-conforming-strings", &[("options", "--standard-conforming-strings=off")]),
    ("L1", "-cstandard_conforming_strings", &[("options", "-cstandard_conforming_strings=0")]),
    ("L1", "an escaped option", &[("options", "-c standard\\_conforming_strings=off")]),
    ("L1", "a second option", &[("options", "-c timezone=UTC -c standard_conforming_strings=off")]),
    ("L1", "an option behind tabs", &[("options", "\t-c\tstandard_conforming_strings=off")]),
    ("L1", "backslash_quote", &[("options", "-c backslash_quote=on")]),
    ("L2", "client_encoding SJIS", &[("client_encoding", "SJIS")]),
    ("L2", "client_encoding GBK", &[("client_encoding", "gbk")]),
    ("L2", "-c client_encoding=BIG5", &[("options", "-c client_encoding=BIG5")]),
    ("L3", "client_encoding LATIN1", &[("client_encoding", "LATIN1")]),
    ("L3", "client_encoding SQL_ASCII", &[("client_encoding", "sql_ascii")]),
    ("K5", "role", &[("role", "intern")]),
    ("K5", "-c role", &[("options", "-c role=intern")]),
    ("K5", "session_authorization", &[("session_authorization", "intern")]),
    ("K5", "--session-authorization", &[("options", "--session-authorization=intern")]),
    ("K4", "session_replication_role", &[("options", "-c session_replication_role=replica")]),
    ("K4", "row_security", &[("row_security", "off")]),
    ("K4", "log_statement", &[("options", "-c log_statement=none")]),
    ("K4", "log_min_messages", &[("log_min_messages", "panic")]),
    ("K4", "session_preload_libraries", &[("options", "-c session_preload_libraries=auto_explain")]),
    ("K4", "allow_system_table_mods", &[("options", "-c allow_system_table_mods=on")]),
    ("K4", "-O", &[("options", "-O")]),
    ("K4", "-P", &[("options", "-P")]),
    ("K4", "-E", &[("options", "-E")]),
    ("K4", "-W", &[("options", "-W 0")]),
    ("K4", "-f", &[("options", "-fs")]),
    ("K4", "-S", &[("options", "-S 64")]),
    ("K4", "-s", &[("options", "-s")]),
    ("K4", "-B", &[("options", "-c synchronous_commit=off")]),
    ("K4", "an unknown namespace", &[("app.user", "admin")]),
    ("K4", "-c app.user", &[("options", "-c app.user=admin")]),
];

/// Wishes of real drivers.
#[rustfmt::skip]
const TAKEN: &[Pairs] = &[
    &[], &[("application_name", "psql")], &[("client_encoding", "UTF8")], &[("client_encoding", "utf-8")],
    &[("client_encoding", "'utf-8'")], &[("client_encoding", "UNICODE")], &[("replication", "false")],
    &[("options", "-c statement_timeout=5000 -c search_path=public")], &[("options", "--search-path=public")],
    &[("options", "-c geqo=off  -c  work_mem=8MB")], &[("options", "")], &[("standard_conforming_strings", "on")],
    &[("DateStyle", "ISO"), ("TimeZone", "Europe/Berlin"), ("extra_float_digits", "2"), ("client_encoding", "UTF8")],
    &[("search_path", "\"$user\", public")], &[("intervalstyle", "iso_8601")], &[("bytea_output", "hex")],
    &[("options", "-c application_name=my\\ app")], &[("statement_timeout", "30s"), ("lock_timeout", "0")],
];

pub fn startups(arena: &Arena) {
    for (line, what, more) in REFUSED {
        let row = format!("{line} startup: {what}");
        arena.try_row(&row, || refused(arena, more));
    }
    for more in TAKEN {
        arena.try_row(&format!("K5 benign startup: {more:?}"), || -> Result<()> {
            let route = arena.through("app", "K5-benign")?;
            let mut session = route.open_as(&with("app", "orders", V3_0, more))?;
            ensure!(session.query("SELECT name FROM customers")?.holds("Ada"), "no session");
            Ok(())
        });
    }
    for (row, startup) in malformed() {
        arena.try_row(&format!("W6 startup: {row}"), || violated(arena, &startup));
    }
    arena.try_row("N1 startup: search_path", || search_path(arena));
    arena.try_row("K5 startup: another user and database", || others(arena));
    arena.try_row("K5 startup: protocols", || protocols(arena));
}

fn with(user: &str, database: &str, version: u32, more: &[(&str, &str)]) -> Vec<u8> {
    let mut pairs = vec![("user", user), ("database", database)];
    pairs.extend(more);
    startup(version, &pairs)
}

fn refused(arena: &Arena, more: &[(&str, &str)]) -> Result<()> {
    let from = arena.logged();
    let before = arena.turned_away()?;
    let route = arena.through("app", "K5")?;
    let (mut session, answer) = route.try_open_as(&with("app", "orders", V3_0, more))?;
    let answer = answer.and(session.to_end()?);
    // Whether a principal may replicate is for policy, so it is asked who it is; this one may not.
    let asks = more.iter().any(|(key, _)| *key == "replication");
    let code = if asks { "3D000" } else { "0A000" };
    ensure!(answer.code().as_deref() == Some(code), "{}", answer.describe());
    ensure!(asks == answer.kinds().contains('R'), "a credential was asked for: {}", answer.kinds());
    arena.expect_turned_away(before, 1)?;
    let log = arena.logged_since(from)?;
    ensure!(!log.contains("connection authorized"), "it reached the server: {log}");
    let (mut direct, answer) =
        arena.passage().try_open_as(&with("postgres", "orders", V3_0, more))?;
    ensure!(answer.is_ready(), "no effect by itself: {}", answer.describe());
    ensure!(!direct.query("SELECT 1")?.messages.is_empty(), "no session by itself");
    Ok(())
}

fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    let version = V3_0.to_be_bytes();
    let pairs = |pairs: &[u8]| untyped(&[&version[..], pairs].concat());
    let long = "x".repeat(9_990);
    vec![
        ("length 0", vec![0; 8]),
        ("length 3", [0, 0, 0, 3, 0, 3, 0, 0].to_vec()),
        ("length 7", [0, 0, 0, 7, 0, 3, 0].to_vec()),
        ("length -1", [255, 255, 255, 255, 0, 3, 0, 0].to_vec()),
        ("length 2^31", [128, 0, 0, 0, 0, 3, 0, 0].to_vec()),
        ("longer than the server takes", startup(V3_0, &[("user", "app"), ("x", long.as_str())])),
        ("no end", pairs(b"user\0app\0")),
        ("half a pair", pairs(b"user\0app\0database\0\0")),
        ("no user", pairs(b"database\0orders\0\0")),
        ("bytes behind the end", pairs(b"user\0app\0database\0orders\0\0replication\0on\0\0")),
        ("user twice", pairs(b"user\0app\0user\0postgres\0database\0orders\0\0")),
        ("database twice", pairs(b"user\0app\0database\0orders\0database\0postgres\0\0")),
        ("a key twice, by case", pairs(b"user\0app\0TimeZone\0UTC\0timezone\0UTC\0\0")),
        ("options twice", pairs(b"user\0app\0options\0-c x=1\0options\0\0\0")),
        ("bad UTF-8", pairs(b"user\0app\0database\0ord\xff\0\0")),
        ("protocol 2", startup(0x20000, &[("user", "app"), ("database", "orders")])),
        ("protocol 4", startup(0x40000, &[("user", "app"), ("database", "orders")])),
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("an SSH banner", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
    ]
}

fn violated(arena: &Arena, startup: &[u8]) -> Result<()> {
    let before = arena.turned_away()?;
    let from = arena.logged();
    let mut session = arena.through("app", "W6-startup")?.tls()?;
    session.send(startup)?;
    session.half_close()?;
    let answer = session.to_end()?;
    ensure!(!answer.kinds().contains('R'), "a credential was asked for: {}", answer.kinds());
    ensure!(answer.code().as_deref() == Some("08P01"), "{}", answer.describe());
    arena.expect_turned_away(before, 1)?;
    ensure!(!arena.logged_since(from)?.contains("authorized"), "it reached the server");
    // The server itself hears it, whatever it makes of it.
    let from = arena.logged();
    let mut direct = arena.passage().tls()?;
    direct.send(startup)?;
    direct.half_close()?;
    direct.to_end()?;
    ensure!(arena.logged_since(from)?.contains("connection received"), "no effect by itself");
    arena.through("app", "W6-startup-control")?.open().map(drop)
}

fn search_path(arena: &Arena) -> Result<()> {
    let sql = "SELECT name FROM customers";
    let wishes: [Pairs; 4] = [
        &[("search_path", "archive")],
        &[("options", "-c search_path=archive")],
        &[("options", "--search_path=archive,public")],
        &[("SEARCH_PATH", "archive, public")],
    ];
    for wish in wishes {
        let route = arena.through("least", "N1-startup")?;
        let mut session = route.open_as(&with("app", "orders", V3_0, wish))?;
        arena.expect_refused("N1 startup", &session.query(sql)?)?;
        session.query("SET search_path = public")?;
        ensure!(session.query(sql)?.holds("Ada"), "the control");
        for back in ["RESET search_path", "SET search_path TO DEFAULT", "DISCARD ALL", "RESET ALL"]
        {
            session.query("SET search_path = public")?;
            session.query(back)?;
            let answer = session.query(sql)?;
            arena.expect_refused("N1 back", &answer).with_context(|| back.to_owned())?;
        }
        let mut direct = arena.passage().open_as(&with("postgres", "orders", V3_0, wish))?;
        ensure!(direct.query(sql)?.holds("6400.00"), "no effect by itself");
    }
    Ok(())
}

fn others(arena: &Arena) -> Result<()> {
    for database in ["postgres", "template1", "orders/postgres", "nothing", "", "ORDERS", "orders "]
    {
        let route = arena.through("app", "K5-database")?;
        let (_, answer) = route.try_open_as(&with("app", database, V3_0, &[]))?;
        ensure!(!answer.is_ready(), "`{database}` let us in");
        ensure!(answer.code().as_deref() == Some("3D000"), "{database}: {}", answer.describe());
    }
    // Absent and forbidden are the same words.
    let mut words = Vec::new();
    for (group, database) in [("nobody", "orders"), ("app", "nothing")] {
        let route = arena.through(group, "K5-words")?;
        let (_, answer) = route.try_open_as(&with("app", database, V3_0, &[]))?;
        let said = answer.errors().first().and_then(|e| e.field(b'M')).unwrap_or_default();
        words.push((answer.code(), said.replace(database, "X")));
    }
    ensure!(words.first() == words.last(), "absent and forbidden differ: {words:?}");
    // Whatever a client calls itself, the target's login is ours and the principal is the token's.
    let route = arena.through("app", "K5-user")?;
    for user in ["postgres", "intern", "admin; DROP ROLE intern", "\u{202e}x"] {
        let mut session = route.open_as(&with(user, "orders", V3_0, &[]))?;
        let who = session.query("SELECT current_user, session_user")?.cells();
        ensure!(who == ["postgres", "postgres"], "{who:?}");
    }
    let mut direct = arena.passage().open_as(&with("postgres", "template1", V3_0, &[]))?;
    ensure!(direct.query("SELECT 1")?.succeeded(), "no effect by itself");
    Ok(())
}

fn protocols(arena: &Arena) -> Result<()> {
    let route = arena.through("app", "K5-protocol")?;
    for (version, option) in [
        (V3_2, None),
        (0x0003_0001, None),
        (0x0003_270f, None),
        (V3_0, Some("_pq_.nothing")),
        (V3_2, Some("_pq_.command_compression")),
    ] {
        let more: Vec<_> = option.into_iter().map(|name| (name, "on")).collect();
        let mut session = route.open_as(&with("app", "orders", version, &more))?;
        ensure!(session.query("SELECT 1")?.succeeded(), "{version:x}");
    }
    let (_, answer) = route.try_open_as(&with("app", "orders", 0x0003_270f, &[("_pq_.x", "1")]))?;
    ensure!(answer.kinds().contains('v'), "not negotiated: {}", answer.kinds());
    Ok(())
}

/// A ClientHello of an old version, or of a new one without anything in it.
fn client_hello(version: [u8; 2]) -> Vec<u8> {
    let mut body = [&version[..], &[7; 32], &[0]].concat();
    body.extend([0, 4, 0, 0x2f, 0, 0x35, 1, 0]);
    let length = u16::try_from(body.len()).unwrap_or_default().to_be_bytes();
    let hello = [&[1, 0][..], &length, &body].concat();
    let length = u16::try_from(hello.len()).unwrap_or_default().to_be_bytes();
    [&[0x16, 3, 1][..], &length, &hello].concat()
}

type Row = (&'static str, fn(&Arena) -> Result<()>);

pub fn encryption(arena: &Arena) {
    let rows: [Row; 6] = [
        ("W7 words stuffed behind SSLRequest", stuffed),
        ("W7 GSSENCRequest", gss),
        ("W7 plaintext", plaintext),
        ("W7 old TLS", old_tls),
        ("W7 direct TLS without its name", direct),
        ("W10 sockets that never finish", unfinished),
    ];
    for (row, run) in rows {
        arena.try_row(row, || run(arena));
    }
}

fn stuffed(arena: &Arena) -> Result<()> {
    let hidden = [startup(V3_0, &[("user", "postgres")]), query("SELECT 1")].concat();
    for first in [&SSL_REQUEST[..], &[GSSENC_REQUEST, SSL_REQUEST].concat()] {
        let before = arena.turned_away()?;
        let mut raw = arena.through("app", "W7")?.plain()?;
        raw.send(&[first, &hidden].concat())?;
        let mut said = Vec::new();
        while let Some(byte) = raw.byte()? {
            said.push(byte);
        }
        ensure!(said.iter().all(|byte| *byte == b'N'), "answered with {said:?}");
        arena.expect_turned_away(before, 1)?;
    }
    // The server goes on to TLS, with the words in its buffer.
    let mut raw = arena.straight().plain()?;
    raw.send(&[&SSL_REQUEST[..], &hidden].concat())?;
    ensure!(raw.byte()? == Some(b'S'), "no effect by itself");
    arena.through("app", "W7")?.open().map(drop)
}

fn gss(arena: &Arena) -> Result<()> {
    let mut raw = arena.through("app", "W7-gss")?.plain()?;
    raw.send(&GSSENC_REQUEST)?;
    ensure!(raw.byte()? == Some(b'N'), "GSSENC is answered with N");
    raw.send(&SSL_REQUEST)?;
    ensure!(raw.byte()? == Some(b'S'), "and TLS may follow");
    let mut raw = arena.through("app", "W7-gss")?.plain()?;
    raw.send(&GSSENC_REQUEST.repeat(50))?;
    let mut said = Vec::new();
    while let Some(byte) = raw.byte()? {
        said.push(byte);
    }
    ensure!(said.len() < 1_000 && said.iter().take(3).all(|b| *b == b'N'), "{said:?}");
    Ok(())
}

fn plaintext(arena: &Arena) -> Result<()> {
    let before = arena.turned_away()?;
    let route = arena.through("app", "W7-plain")?;
    let mut raw = route.plain()?;
    raw.send(&route.startup())?;
    let answer = raw.to_end()?;
    ensure!(answer.code().as_deref() == Some("28000"), "{}", answer.describe());
    ensure!(!answer.kinds().contains('R'), "a credential was asked for in the clear");
    arena.expect_turned_away(before, 1)?;
    let mut direct = arena.straight().plain()?;
    let answer = direct.enter(&arena.straight().startup(), &arena.straight().password)?;
    ensure!(answer.is_ready(), "no effect by itself: {}", answer.describe());
    Ok(())
}

fn old_tls(arena: &Arena) -> Result<()> {
    for version in [[3, 0], [3, 1], [3, 2]] {
        for ask_first in [true, false] {
            let mut raw = arena.through("app", "W7-old")?.plain()?;
            if ask_first {
                raw.send(&SSL_REQUEST)?;
                ensure!(raw.byte()? == Some(b'S'), "TLS is offered");
            }
            raw.send(&client_hello(version))?;
            let mut said = Vec::new();
            while let Some(byte) = raw.byte()? {
                said.push(byte);
            }
            // Nothing, or a fatal alert; never a ServerHello.
            ensure!(said.first().is_none_or(|byte| *byte == 0x15), "answered with {said:?}");
        }
    }
    Ok(())
}

fn direct(arena: &Arena) -> Result<()> {
    let route = arena.through("app", "W7-direct")?;
    let refused: [&[&str]; 3] = [&[], &["http/1.1"], &["h2", "postgres"]];
    for alpn in refused {
        let opened = route.direct(alpn).and_then(|mut raw| {
            let answer = raw.enter(&route.startup(), &route.password)?;
            Ok(answer.is_ready())
        });
        ensure!(!matches!(opened, Ok(true)), "{alpn:?} let us in");
    }
    let mut raw = route.direct(&["postgresql"])?;
    ensure!(raw.enter(&route.startup(), &route.password)?.is_ready(), "the control");
    Ok(())
}

fn unfinished(arena: &Arena) -> Result<()> {
    let route = arena.through("app", "W10-idle")?;
    let idle: Vec<Raw> = (0..200).map(|_| route.plain()).collect::<Result<_>>()?;
    let mut half = Vec::new();
    for _ in 0..50 {
        let mut raw = route.plain()?;
        raw.send(&SSL_REQUEST[..5])?;
        half.push(raw);
        let mut raw = route.tls()?;
        raw.send(&route.startup()[..6])?;
        half.push(raw);
    }
    let begun = std::time::Instant::now();
    let mut session = route.open()?;
    ensure!(session.query("SELECT 1")?.succeeded(), "no session");
    ensure!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    drop((idle, half));
    Ok(())
}

pub fn cancels(arena: &Arena) {
    arena.try_row("W8 a key is ours", || own_keys(arena));
    arena.try_row("W8 foreign keys", || foreign_keys(arena));
}

/// The key that a session was given.
fn key(answer: &Answer) -> Result<Vec<u8>> {
    let key = answer.messages.iter().find(|message| message.kind == b'K');
    Ok(key.context("a cancel key")?.body.clone())
}

fn send_cancel(arena: &Arena, key: &[u8]) -> Result<()> {
    let mut raw = arena.through("app", "W8")?.tls()?;
    raw.send(&cancel(key))?;
    ensure!(raw.to_end()?.messages.is_empty(), "a cancel is never answered");
    Ok(())
}

const SLEEP: &str = "SELECT pg_sleep(20), 'w8'";

fn own_keys(arena: &Arena) -> Result<()> {
    for (version, length) in [(V3_0, 8), (V3_2, 36)] {
        let route = arena.through("app", "W8-own")?;
        let (mut session, answer) = route.try_open_as(&with("app", "orders", version, &[]))?;
        let key = key(&answer)?;
        ensure!((8..=length).contains(&key.len()), "a key of {} bytes", key.len());
        let pid = session.query("SELECT pg_backend_pid()")?.cells().concat();
        let shown = u32::from_be_bytes(*key.first_chunk::<4>().context("a pid")?);
        ensure!(pid != shown.to_string(), "the server's own key was passed on");
        // Nobody can cancel at the server with what the gateway gave.
        session.send(&query(SLEEP))?;
        let mut straight = arena.straight().plain()?;
        straight.send(&cancel(key.get(..8).context("8 bytes")?))?;
        straight.to_end()?;
        ensure!(session.is_quiet(Duration::from_millis(300))?, "it was cancelled at the server");
        send_cancel(arena, &key)?;
        let answer = session.ready(1)?;
        ensure!(answer.code().as_deref() == Some("57014"), "{}", answer.describe());
        ensure!(session.query("SELECT 1")?.succeeded(), "the session goes on");
        // A cancel when nothing runs hurts nobody.
        send_cancel(arena, &key)?;
        ensure!(session.query("SELECT 2")?.succeeded(), "the session goes on");
    }
    let (_, events) = arena.session_of("W8-own")?;
    ensure!(events.iter().any(|e| e["action"] == "postgres:cancel"), "no entry for the cancel");
    // Without the gateway the key is the server's, good for everybody who can reach it.
    let route = arena.passage();
    let (mut session, answer) = route.try_open_as(&route.startup())?;
    let pid = session.query("SELECT pg_backend_pid()")?.cells().concat();
    let key = key(&answer)?;
    let shown = u32::from_be_bytes(*key.first_chunk::<4>().context("a pid")?);
    ensure!(pid == shown.to_string(), "no effect by itself");
    Ok(())
}

fn foreign_keys(arena: &Arena) -> Result<()> {
    let route = arena.through("app", "W8-foreign")?;
    let (mut session, answer) = route.try_open_as(&route.startup())?;
    let key = key(&answer)?;
    let before = arena.turned_away()?;
    session.send(&query(SLEEP))?;
    let mut tried = 0;
    for at in 0..key.len() {
        let mut wrong = key.clone();
        wrong[at] ^= 1;
        send_cancel(arena, &wrong)?;
        tried += 1;
    }
    for wrong in [vec![0; 8], vec![255; 8], [&key[..4], &[0; 4]].concat(), key[..4].to_vec()] {
        send_cancel(arena, &wrong)?;
        tried += 1;
    }
    for length in [9, 12, 32, 36, 260, 300] {
        send_cancel(arena, &[&key[..], &vec![0; length]].concat())?;
        tried += 1;
    }
    ensure!(session.is_quiet(Duration::from_millis(200))?, "a wrong key cancelled it");
    arena.expect_turned_away(before, tried)?;
    send_cancel(arena, &key)?;
    ensure!(session.ready(1)?.code().as_deref() == Some("57014"), "the control");
    Ok(())
}
