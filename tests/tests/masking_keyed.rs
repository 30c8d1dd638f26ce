//! Masks that need a key, on columns: the value leaves the target only as an output column and is
//! masked in the gateway, in text and in binary, before evidence and client have it.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;

use bulla_e2e::expect::has;
use bulla_e2e::masked::World;
use bulla_e2e::place::TempDir;

const PEOPLE: &str = "
SET ROLE shop;
CREATE TABLE persons (id int PRIMARY KEY, login text, ssn text, phone bigint, born date, seen timestamptz,
  ref uuid, raw bytea, doc jsonb, tags text[], bal numeric, open text);
INSERT INTO persons SELECT i, 'login' || i, format('%s-90-4399', 530 + i), 4930000000 + i, date '1980-03-04' + i,
  timestamptz '1999-09-09 09:09:09+00', md5('s' || i)::uuid, 'sekret', '{\"k\": \"sekret\"}', ARRAY['sekret'], 1, 'o'
  FROM generate_series(1, 3) i;
INSERT INTO persons (id) VALUES (4);
CREATE TABLE visits (id int PRIMARY KEY, login text);
INSERT INTO visits SELECT 10 + i, 'login' || i FROM generate_series(1, 3) i;
CREATE TABLE unmasked (id int PRIMARY KEY, word text);
INSERT INTO unmasked VALUES (1, 'u1'), (2, 'u2');
CREATE VIEW faces AS SELECT id, login AS who, born FROM persons;
CREATE VIEW loud AS SELECT id, upper(login) AS who FROM persons;
";

fn columns(resource: &str) -> String {
    let mut out = format!("[resources.{resource}.classes.columns]\n");
    for (column, class) in [
        ("persons.login", "k.login"),
        ("visits.login", "k.login"),
        ("persons.ssn", "k.form"),
        ("persons.phone", "k.form"),
        ("persons.born", "k.date"),
        ("persons.seen", "k.date"),
        ("persons.ref", "k.login"),
        ("persons.raw", "k.login"),
        ("persons.doc", "k.login"),
        ("persons.tags", "k.login"),
        ("persons.bal", "k.login"),
    ] {
        let _ = writeln!(out, "\"public.{column}\" = \"{class}\"");
    }
    out
}

fn world(dir: &TempDir) -> World {
    let key = dir.join("mask.key");
    std::fs::write(&key, [0x5a; 48]).unwrap();
    let classes = format!(
        r#"
[masking]
key_id = "k1"
key_file = {key:?}
[classes."k.login"]
mask = "token"
inference = "equality"
[classes."k.form"]
mask = "fpe"
[classes."k.date"]
mask = "date-shift(30)"
subject = "id"
"#
    );
    World::with(PEOPLE, &classes, columns)
}

const SECRETS: &[&str] =
    &["login1", "login2", "531-90", "4930000001", "1980-03-05", "sekret", "73656b726574"];

fn clean(text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "`{secret}` leaks:\n{text}");
    }
}

#[test]
fn values_are_masked_on_their_way_out() {
    let dir = TempDir::new("keyed").unwrap();
    let world = world(&dir);
    let python = r#"
import psycopg, datetime, re
c = psycopg.connect("", autocommit=True)
def rows(sql, args=None, binary=False, **more):
    with c.cursor(binary=binary) as cur:
        try:
            return cur.execute(sql, args, binary=binary, **more).fetchall()
        except psycopg.Error as e:
            return [("error", e.sqlstate)]
everything = "SELECT id, login, ssn, phone, born, seen, ref, raw, doc, tags, bal, open FROM persons ORDER BY id"
text, binary = rows(everything), rows(everything, None, True)
print("same", text == binary)
id, login, ssn, phone, born, seen, ref, raw, doc, tags, bal, open = text[0]
print("token", login[:7], len(login))
print("fpe", bool(re.fullmatch(r"\d{3}-\d\d-\d{4}", ssn)), len(str(phone)))
shift = (born - datetime.date(1980, 3, 5)).days
print("shift", shift != 0 and abs(shift) <= 30, (seen.date() - datetime.date(1999, 9, 9)).days == shift)
print("types", type(ref).__name__, ref.version, len(raw), type(doc).__name__, [t[:7] for t in tags], bal, open)
print("nothing", text[3][2:9], text[3][1] != None)
star = rows("SELECT * FROM persons ORDER BY id", None, True)
print("star", star == binary)
visits = dict(rows("SELECT id, login FROM visits"))
print("joins", visits[11] == text[0][1], visits[12] == text[1][1], visits[11] != visits[12])
print("prepared", [rows("SELECT login FROM persons WHERE id = %s", (1,), i % 2 == 1, prepare=True)[0][0] == login for i in range(8)])
print("equality", rows("SELECT id, login FROM persons WHERE login = %s", ("login1",)) == [(1, login)])
print("view", rows("SELECT who FROM faces WHERE id = 1") == [(login,)], rows("SELECT id, born FROM faces WHERE id = 1", None, True) == [(1, born)])
print("cte", rows("WITH w AS (SELECT id, login AS l FROM persons) SELECT l FROM w WHERE id = 1") == [(login,)])
print("join", rows("SELECT p.login, v.id FROM persons p JOIN visits v ON v.id = p.id + 10 ORDER BY v.id LIMIT 1") == [(login, 11)])
print("all", len(set(rows("SELECT login FROM persons WHERE id < 4 UNION ALL SELECT login FROM persons WHERE id < 4"))))
print("no subject", rows("SELECT born FROM persons WHERE id = 1"))
for sql in ["SELECT login FROM persons WHERE id < 4 ORDER BY login", "SELECT upper(login) FROM persons WHERE id < 4",
            "SELECT login FROM persons WHERE login > 'a'", "SELECT who FROM loud WHERE id < 4", "SELECT DISTINCT login FROM persons",
            "SELECT max(login), count(DISTINCT ssn) FROM persons", "SELECT p FROM persons p WHERE id = 1",
            "SELECT login::int FROM persons WHERE id = 1", "SELECT to_jsonb(p) FROM persons p WHERE id = 1",
            "SELECT count(*) FROM persons p JOIN visits v USING (login)"]:
    for b in (False, True):
        print("quiet", rows(sql, None, b))
import csv, io
def copied(sql):
    with c.cursor() as cur, cur.copy(sql) as copy:
        return b"".join(bytes(b) for b in copy)
table = copied("COPY persons (id, login, born, tags, ssn) TO STDOUT").decode().splitlines()
print("copy", table[0].split("\t") == ["1", login, born.isoformat(), '{"%s"}' % tags[0], ssn], table[3].startswith("4\ttok_k1_"))
whole = list(csv.reader(io.StringIO(copied("COPY (SELECT login, id, born FROM persons ORDER BY id) TO STDOUT (FORMAT csv, HEADER, FORCE_QUOTE *)").decode())))
print("csv", whole[:2] == [["login", "id", "born"], [login, "1", born.isoformat()]], len(whole))
odd = copied("COPY (SELECT login, id, tags FROM persons WHERE id = 1) TO STDOUT (FORMAT csv, DELIMITER 'k', QUOTE '''', NULL 'o')").decode()
print("odd", odd == "'%s'k1k'{\"%s\"}'\n" % (login, tags[0]))
with c.cursor() as cur, cur.copy("COPY (SELECT id, login, born, phone FROM persons WHERE id < 3 ORDER BY id) TO STDOUT (FORMAT binary)") as copy:
    copy.set_types(["int4", "text", "date", "int8"])
    print("binary copy", list(copy.rows()) == [(r[0], r[1], r[4], r[3]) for r in text[:2]])
print("nobody", copied("COPY (SELECT login FROM persons WHERE id < 0) TO STDOUT (FORMAT binary)")[:6], copied("COPY (SELECT login FROM persons WHERE false) TO STDOUT"))
with c.transaction():
    for binary in (False, True):
        cur = c.cursor(name="served", binary=binary, scrollable=True)
        cur.execute("SELECT id, login, born FROM persons WHERE id < 4")
        print("cursor", cur.fetchone() == (1, login, born), len({r[1] for r in cur.fetchall()}))
        cur.scroll(0, mode="absolute")
        print("again", cur.fetchone() == (1, login, born))
        cur.close()
c.execute("PREPARE mine AS SELECT login FROM persons WHERE id = $1")
print("execute", rows("EXECUTE mine(1)") == [(login,)], rows("EXECUTE mine(2)", None, True) == [(text[1][1],)])
print("no plan", rows("EXPLAIN ANALYZE EXECUTE mine(1)"), rows("CREATE TEMP TABLE kept AS EXECUTE mine(1)"))
many = c.execute("BEGIN; SELECT 1; SELECT login FROM persons WHERE id = 1; DECLARE d CURSOR FOR SELECT id, ssn FROM persons WHERE id < 3; FETCH 1 FROM d; MOVE 1 IN d; EXECUTE mine(2); COMMIT")
seen = []
while True:
    if many.description: seen.append(many.fetchall())
    if not many.nextset(): break
print("many", seen == [[(1,)], [(login,)], [(1, ssn)], [(text[1][1],)]])
for b in (False, True):
    print("returning", rows("UPDATE persons SET open = 'o' WHERE id = 1 RETURNING id, login, lower(login), born, tags, ref", None, b) == [(1, login, None, born, tags, ref)])
print("deleted", rows("INSERT INTO persons (id, login) VALUES (9, 'login1') RETURNING persons.login AS l, *")[0][0] == login, rows("DELETE FROM persons WHERE id = 9 RETURNING *")[0][1] == login)
print("in with", rows("WITH w AS (UPDATE persons SET open = 'o' WHERE id = 1 RETURNING login) SELECT login FROM w"))
wide = rows("SELECT * FROM persons p JOIN unmasked u ON u.id = p.id ORDER BY p.id", None, True)
print("wide", [r[:12] for r in wide] == text[:2], wide[0][12:])
print("side", rows("SELECT u.*, p.* FROM unmasked u LEFT JOIN persons p ON u.id = p.id ORDER BY u.id")[0][2:] == text[0])
"#;
    let done = world.gateway.dial(&world.token("billing")).python(python).unwrap();
    let out = format!("{}{}", done.out(), done.err());
    clean(&out);
    has(
        &out,
        &[
            "same True",
            "token tok_k1_ 31",
            "fpe True 10",
            "shift True True",
            "types UUID 8 32 str ['tok_k1_'] None o",
            "nothing (None, None, None, None, None, None, None) True",
            "star True",
            "joins True True True",
            "prepared [True, True, True, True, True, True, True, True]",
            "equality True",
            "view True True",
            "cte True",
            "join True",
            "all 3",
            "no subject [(None,)]",
            "quiet [(None,), (None,), (None,)]",
            "copy True True",
            "csv True 5",
            "odd True",
            "binary copy True",
            "nobody b'PGCOPY' b''",
            "cursor True 2\nagain True\ncursor True 2\nagain True",
            "execute True True",
            "no plan [('error', '42501')] [('error', '42501')]",
            "many True",
            "returning True\nreturning True",
            "deleted True True",
            "in with [(None,)]",
            "wide True (1, 'u1')",
            "side True",
        ],
    );
    let (status, metrics) = world.gateway.http("/metrics").unwrap();
    assert_eq!(status, 200);
    has(&metrics, &["bulla_masked_cells_total{class=\"k.login\"}"]);
    // What the record keeps of it is what the client got.
    let listed = world.gateway.cli(&["sessions", "ls", "--json"]).unwrap().success().unwrap();
    let sessions: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let mut shown = String::new();
    for session in sessions.as_array().unwrap() {
        let id = session["session"].as_str().unwrap();
        shown += &world.gateway.cli(&["sessions", "replay", id, "--command", "1"]).unwrap().out();
    }
    has(&shown, &["tok_k1_", "masked cells: 8 k.date, 8 k.form, 24 k.login"]);
    assert!(!shown.contains("531-90") && !shown.contains("sekret"), "{shown}");
    // And the key is in no statement.
    let audit =
        world.script_on("orders", "audit", "SELECT login, born FROM persons ORDER BY id;\n");
    has(&audit, &["login1|1980-03-05"]);
    assert!(!world.server.log().contains("tok_k1"), "the target knows tokens");
    world.verified();
}

/// What the protocol prepared, SQL cannot run past the masks of its result, nor fetch.
#[test]
fn names_do_not_lead_past_the_masks() {
    use bulla_e2e::raw::{self, Route};
    let dir = TempDir::new("keyed-names").unwrap();
    let world = world(&dir);
    let dial = world.gateway.dial(&world.token("billing"));
    let of =
        |name: &str| dial.variables().into_iter().find(|(n, _)| n == name).map(|(_, v)| v).unwrap();
    let route = Route::new(
        of("PGPORT").parse().unwrap(),
        &world.gateway.root_pem(),
        &of("PGUSER"),
        &of("PGDATABASE"),
        &of("PGPASSWORD"),
    );
    let mut raw = route.open().unwrap();
    let select = "SELECT login FROM persons WHERE id = 1";
    // In either format, without a Describe.
    for format in [0_u16, 1] {
        let mut bytes = raw::parse("p", select);
        bytes.extend(raw::bind_as("q", "p", &[], &[], &[format]));
        bytes.extend([raw::execute("q", 0), raw::close(b'S', "p"), raw::sync()].concat());
        let answer = raw.turn(&bytes).unwrap();
        assert!(answer.cells()[0].starts_with("tok_k1_"), "{}", answer.describe());
    }
    let bytes = [raw::parse("p", select), raw::sync()].concat();
    assert!(raw.turn(&bytes).unwrap().is_ready());
    let by_name = raw.query("EXECUTE p").unwrap();
    assert!(by_name.cells()[0].starts_with("tok_k1_"), "{}", by_name.describe());
    for format in [0_u16, 1] {
        let mut bytes = raw::parse("x", "EXECUTE p");
        bytes.extend([raw::bind_as("", "x", &[], &[], &[format]), raw::execute("", 0)].concat());
        bytes.extend([raw::close(b'S', "x"), raw::sync()].concat());
        let by_name = raw.turn(&bytes).unwrap();
        assert!(by_name.cells()[0].starts_with("tok_k1_"), "{}", by_name.describe());
    }
    // Whatever keeps its rows, or tells how they are found, is refused.
    for sql in ["CREATE TEMP TABLE t AS EXECUTE p", "EXPLAIN ANALYZE EXECUTE p"] {
        let kept = raw.query(sql).unwrap();
        assert!(kept.is_refused(), "{sql}: {}", kept.describe());
    }
    // A cursor of SQL, fetched by the protocol.
    assert!(raw.query("BEGIN").unwrap().succeeded());
    assert!(raw.query(&format!("DECLARE own CURSOR FOR {select}")).unwrap().succeeded());
    let fetched = raw.turn(&[raw::execute("own", 0), raw::sync()].concat()).unwrap();
    assert!(fetched.cells()[0].starts_with("tok_k1_"), "{}", fetched.describe());
    // One in binary lets none out.
    assert!(raw.query(&format!("DECLARE bin BINARY CURSOR FOR {select}")).unwrap().succeeded());
    let fetched = raw.query("FETCH ALL FROM bin").unwrap();
    assert!(!fetched.holds("login1") && !fetched.is_refused(), "{}", fetched.describe());
    assert!(raw.query("COMMIT").unwrap().succeeded());
    assert!(raw.query("BEGIN").unwrap().succeeded());
    let bytes = [raw::bind("portal", "p", &[]), raw::execute("portal", 0), raw::flush()].concat();
    raw.send(&[bytes, raw::sync()].concat()).unwrap();
    let answer = raw.ready(1).unwrap();
    assert!(!answer.holds("login1"), "{}", answer.describe());
    let fetched = raw.query("FETCH BACKWARD ALL FROM portal").unwrap();
    assert!(!fetched.holds("login1"), "{}", fetched.describe());
    world.verified();
}

/// A long stream of rows whose values are masked here takes no memory that grows with it: 50 MB, or
/// as many as `BULLA_STREAM_MB` says.
#[test]
fn a_long_stream_takes_no_memory() {
    let dir = TempDir::new("keyed-stream").unwrap();
    let world = world(&dir);
    let rss = || {
        let status = format!("/proc/{}/status", world.gateway.proc().pid());
        let text = std::fs::read_to_string(status).unwrap();
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    let asked = std::env::var("BULLA_STREAM_MB").ok().and_then(|mb| mb.parse().ok());
    let mb: usize = asked.unwrap_or(50);
    // 1 KB a row: 512 bytes in hexadecimal.
    world.server.sql("INSERT INTO blobs VALUES (1, decode(repeat('ab', 512), 'hex'))").unwrap();
    let stream = |mb: usize| {
        let python = format!(
            r#"
import psycopg
c = psycopg.connect("", autocommit=True)
sql = "SELECT p.login, p.born, p.id, b.body::text FROM persons p JOIN blobs b ON true JOIN generate_series(1, {}) ON true WHERE p.id = 1"
n = sum(row[0].startswith("tok_k1_") for row in c.cursor().stream(sql))
print(n)
"#,
            mb * 1000
        );
        let done = world.gateway.dial(&world.token("billing")).python(&python).unwrap();
        assert_eq!(done.out().trim(), (mb * 1000).to_string(), "{}", done.err());
    };
    // What is kept for any stream has been taken then.
    stream(50);
    let before = rss();
    stream(mb);
    let after = rss();
    eprintln!("{mb} MB: {before} MiB before, {after} MiB after");
    assert!(after <= before + 16, "grew from {before} to {after} MiB over {mb} MB");
    world.verified();
}
