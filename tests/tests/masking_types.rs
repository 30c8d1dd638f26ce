//! Values that are made of parts, masked part by part: arrays, composites, ranges, domains, JSON.
//! In text and in binary, as output columns and in whatever is computed of them; and two databases
//! that differ in what masks hide give the same bytes.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;
use std::time::Duration;

use bulla_e2e::expect::has;
use bulla_e2e::masked::{World, without_marks};

const KINDS: &str = r#"
SET ROLE shop;
CREATE TYPE address AS (street text, number int, since date, note uuid);
CREATE TYPE nested AS (home address, names text[]);
CREATE DOMAIN login AS text CHECK (length(VALUE) > 2);
CREATE DOMAIN logins AS login[];
CREATE TABLE kinds (
  id int PRIMARY KEY,
  words text[], numbers int[], days date[], grid text[][], bare text[],
  names login, many logins,
  home address, deep nested, homes address[],
  span int4range, wide int8range, money numrange, stay daterange, shift tstzrange, multi int4multirange,
  doc jsonb, paper json, docs jsonb[]
);
INSERT INTO kinds SELECT i,
  ARRAY['sekret' || i, NULL, 'x'], ARRAY[5100 + i, -1], ARRAY[date '1980-03-04' + i],
  ARRAY[['sekret' || i, 'b'], ['c', 'd']], '{}',
  'sekret' || i, ARRAY['sekret' || i, 'ada']::logins,
  ROW('sekret' || i, 5100 + i, date '1980-03-04' + i, md5('s' || i)::uuid)::address,
  ROW(ROW('sekret' || i, 5100 + i, NULL, NULL)::address, ARRAY['sekret' || i])::nested,
  ARRAY[ROW('sekret' || i, 5100 + i, NULL, NULL)::address],
  int4range(5100 + i, 7300 + i), int8range(NULL, 7300 + i), numrange(5100.5 + i, NULL),
  daterange(date '1980-03-04' + i, date '1999-01-07' + i),
  tstzrange(timestamptz '1980-03-04 05:06:07+00' + i * interval '1 hour', 'infinity'),
  int4multirange(int4range(5100 + i, 5200)),
  jsonb_build_object('ssn', '531-90-439' || i, 'k', jsonb_build_array('sekret' || i)),
  json_build_object('ssn', '531-90-439' || i, 'k', json_build_array('sekret' || i)),
  ARRAY[jsonb_build_object('ssn', 'sekret' || i)]
FROM generate_series(1, 2) i;
INSERT INTO kinds (id) VALUES (3);
"#;

const CLASSES: &str = r#"
[classes."t.word"]
mask = "partial(0,1)"
nulls = "keep"
[classes."t.number"]
mask = "bucket(1000)"
[classes."t.day"]
mask = "date-trunc(decade)"
[classes."t.doc"]
mask = "json($.ssn=partial(0,3); $.k[*]=constant(x))"
[classes."t.fixed"]
mask = "constant(hidden)"
"#;

fn columns(resource: &str) -> String {
    let mut out = format!("[resources.{resource}.classes.columns]\n");
    for (columns, class) in [
        (&["words", "grid", "bare", "names", "many", "home", "deep", "homes"][..], "t.word"),
        (&["numbers", "span", "wide", "money", "multi"], "t.number"),
        (&["days", "stay", "shift"], "t.day"),
        (&["doc", "paper"], "t.doc"),
        (&["docs"], "t.fixed"),
    ] {
        for column in columns {
            let _ = writeln!(out, "\"public.kinds.{column}\" = \"{class}\"");
        }
    }
    out
}

/// The same shape: masks show the same of it.
const OTHER: &str = "
UPDATE kinds SET words = ARRAY['hidden' || id, NULL, 'y'], numbers = ARRAY[5900 + id, -7],
  days = ARRAY[date '1984-07-01' + id], grid = ARRAY[['a', 'b'], ['c', 'd']], names = 'hidden' || id,
  many = ARRAY['hidden' || id, 'xda']::logins,
  home = ROW('hidden' || id, 7, date '1999-01-01', NULL)::address,
  deep = ROW(ROW('hidden' || id, 7, NULL, NULL)::address, ARRAY['hidden' || id])::nested,
  homes = ARRAY[ROW('hidden' || id, 7, NULL, NULL)::address],
  span = int4range(5700 + id, 7900 + id), wide = int8range(NULL, 7100 + id),
  money = numrange(5999 + id / 10.0, NULL), stay = daterange(date '1988-01-01' + id, date '1991-01-07' + id),
  shift = tstzrange(timestamptz '1981-01-01 00:00:00+00', 'infinity'),
  multi = int4multirange(int4range(1, 5)),
  doc = jsonb_build_object('ssn', '999-99-939' || id, 'k', jsonb_build_array('hidden')),
  paper = json_build_object('ssn', '999-99-939' || id, 'k', json_build_array('hidden')),
  docs = ARRAY['1'::jsonb]
WHERE id < 3;
UPDATE kinds SET id = id WHERE id = 3;
";
const SAME: &str = "UPDATE kinds SET id = id WHERE id < 3; UPDATE kinds SET id = id WHERE id = 3;";

const STATEMENTS: &[&str] = &[
    "SELECT * FROM kinds ORDER BY id",
    "SELECT words[1], words[2] IS NULL, array_length(words, 1), 'sekret1' = ANY (words) FROM kinds ORDER BY id",
    "SELECT unnest(numbers), cardinality(numbers) FROM kinds WHERE id = 1",
    "SELECT (home).street, (home).number, (home).since, (home).note, (deep).home FROM kinds ORDER BY id",
    "SELECT (homes[1]).street, to_jsonb(homes), to_jsonb(deep) FROM kinds ORDER BY id",
    "SELECT lower(span), upper(span), lower(wide), upper_inf(wide), isempty(span) FROM kinds ORDER BY id",
    "SELECT span @> 5101, span && int4range(5000, 5101), money @> 5101.6 FROM kinds ORDER BY id",
    "SELECT stay, upper(stay) - lower(stay), shift FROM kinds ORDER BY id",
    "SELECT count(DISTINCT words), count(DISTINCT home), count(DISTINCT span) FROM kinds WHERE id < 3",
    "SELECT id FROM kinds WHERE words @> ARRAY['sekret1'] OR numbers @> ARRAY[5101]",
    "SELECT pg_typeof(words), pg_typeof(many), pg_typeof(home), pg_typeof(span), pg_typeof(docs) FROM kinds LIMIT 1",
    "SELECT doc->>'ssn', paper->>'ssn', doc FROM kinds ORDER BY id",
    "SELECT k.doc, k.paper FROM kinds k ORDER BY id",
    "SELECT array_to_string(many, ','), names || '', upper(names) FROM kinds ORDER BY id",
    "UPDATE kinds SET id = id WHERE id = 1 RETURNING words, numbers, home, span, stay, docs, doc, names",
    "UPDATE kinds SET id = id WHERE id = 1 RETURNING (home).street, words[1], lower(span)",
];

#[test]
fn parts_are_masked_one_by_one() {
    let world = World::twins(KINDS, CLASSES, columns, OTHER, SAME);
    let python = format!(
        r#"
import psycopg, json
c = psycopg.connect("", autocommit=True)
for binary in (False, True):
    for sql in json.loads({:?}):
        with c.cursor(binary=binary) as cur:
            try:
                cur.execute(sql, binary=binary)
                print(sql, cur.fetchall())
            except psycopg.Error as e:
                print(sql, e.sqlstate, str(e))
with c.cursor() as cur:
    for form in ("text", "csv"):
        with cur.copy("COPY kinds TO STDOUT (FORMAT " + form + ")") as copy:
            print(form, [bytes(b) for b in copy])
"#,
        serde_json::to_string(STATEMENTS).unwrap()
    );
    let run = |resource: &str| {
        let dial = world.gateway.dial_resource(resource, &world.token("billing"));
        let done = dial.python(&python).unwrap();
        assert_eq!(done.code(), 0, "{}", done.err());
        without_marks(&done.out(), resource)
    };
    let (one, two) = (run("orders"), run("twin"));
    for (a, b) in one.lines().zip(two.lines()) {
        assert_eq!(a, b);
    }
    for secret in ["sekret", "5101", "5102", "1980-03", "531-90", "7301"] {
        // The statements themselves say some of it.
        let own = STATEMENTS.iter().map(|sql| sql.matches(secret).count()).sum::<usize>() * 2;
        assert_eq!(one.matches(secret).count(), own, "`{secret}` in:\n{one}");
    }
    let shown = world.script_on(
        "orders",
        "billing",
        "SELECT words, numbers, days, grid, bare, names, many FROM kinds WHERE id = 1;
SELECT home, deep, homes FROM kinds WHERE id = 1;
SELECT span, wide, money, stay, multi FROM kinds WHERE id = 1;
SELECT doc, paper, docs FROM kinds WHERE id = 1;
SELECT doc || '{}' FROM kinds WHERE id = 1;
",
    );
    has(
        &shown,
        &[
            "{***1,***,***}|{5000,-1000}|{1980-01-01}||{}|***1|{***1,***}",
            "(***1,,,)|(\"(***1,,,)\",{***1})|{\"(***1,,,)\"}",
            "[5000,7000)|(,7000)|[5000,)|[1980-01-01,1990-01-01)|",
            "***391",
            "\"x\"",
            "|{\"\\\"hidden\\\"\"}",
        ],
    );
    world.verified();
}

/// What policy lets pass at most is all that passes, wherever the masks are made: by the server, by
/// the gateway in rows and in copies. The client is told, and so is the record.
#[test]
fn what_policy_cuts_is_cut_under_masks() {
    let world = World::with(KINDS, CLASSES, columns);
    // Of every kind of answer it is told how many cells were masked, and nothing else is counted:
    // two of each of three rows, three copied twice, two fetched, and one.
    world.script(
        "UPDATE kinds SET id = id RETURNING names, id, words, upper(names);
COPY kinds (id, names) TO STDOUT (FORMAT csv, HEADER);
COPY (SELECT names FROM kinds) TO STDOUT (FORMAT binary);
COPY (SELECT id, doc FROM kinds) TO STDOUT;
BEGIN;
DECLARE c CURSOR FOR SELECT names FROM kinds;
FETCH 2 FROM c;
COMMIT;
SELECT 1\\; SELECT names FROM kinds WHERE id = 1\\; SELECT 2;
",
    );
    let (_, metrics) = world.gateway.http("/metrics").unwrap();
    has(
        &metrics,
        &[
            "bulla_masked_cells_total{class=\"t.word\"} 15",
            "bulla_masked_cells_total{class=\"t.doc\"} 3",
        ],
    );
    let policy = |team: &str, limit: &str| {
        format!(
            "@id(\"cut-{team}\") {limit} permit (principal in Bulla::Group::\"team:{team}\", action, \
             resource in Bulla::ResourceGroup::\"shop\");\n"
        )
    };
    let policies = policy("rows", "@rows_max(\"2\")") + &policy("bytes", "@bytes_max(\"40\")");
    world.gateway.write_policy("shop.cedar", &policies).unwrap();
    world.gateway.reload().unwrap();
    world.gateway.proc().wait_line("reloaded: bundle", Duration::from_secs(60)).unwrap();
    for (team, word) in [("rows", "rows_max"), ("bytes", "bytes_max")] {
        for sql in [
            "SELECT id, words FROM kinds ORDER BY id",
            "SELECT id, doc FROM kinds ORDER BY id",
            "SELECT id, span FROM kinds UNION ALL SELECT id, span FROM kinds",
            "COPY (SELECT id, words FROM kinds) TO STDOUT",
            "COPY (SELECT id, paper FROM kinds) TO STDOUT (FORMAT csv)",
            "UPDATE kinds SET id = id RETURNING id, doc",
        ] {
            let seen = world.script_on("orders", team, &format!("{sql};\n"));
            assert!(seen.contains("53400") && seen.contains(word), "{team} {sql}\n{seen}");
            assert!(!seen.contains("sekret"), "{sql}\n{seen}");
        }
    }
    let listed = world.gateway.cli(&["sessions", "ls", "--json"]).unwrap().success().unwrap();
    let sessions: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let (mut rows, mut bytes) = (0, 0);
    for session in sessions.as_array().unwrap() {
        let id = session["session"].as_str().unwrap();
        let shown = world.gateway.cli(&["sessions", "show", id]).unwrap().out();
        rows += usize::from(shown.contains("cut:rows_max"));
        bytes += usize::from(shown.contains("cut:bytes_max"));
    }
    assert_eq!((rows, bytes), (6, 6));
    world.verified();
}
