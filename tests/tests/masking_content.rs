//! What is in columns that nobody classified is found by what it looks like, in rows and copies, in
//! text and in binary, whole and in pieces of any size.

#![allow(clippy::unwrap_used, clippy::panic)]

use bulla_e2e::expect::has;
use bulla_e2e::masked::World;

const REMARKS: &str = r#"
SET ROLE shop;
CREATE TABLE remarks (id int PRIMARY KEY, body text, doc jsonb, raw bytea, n bigint, list text[]);
INSERT INTO remarks VALUES
  (1, 'paid with 4111 1111 1111 1111, ask ann@example.com', '{"card": 4111111111111111, "who": "ann@example.com"}',
   'ann@example.com', 4111111111111111, ARRAY['ann@example.com']),
  (2, 'nothing of it, order 4111 1111 1111 1112', '{"a": [1, 2]}', '\x00ff', 12, ARRAY['a']);
INSERT INTO remarks (id, body) VALUES (3, repeat('word ', 200000) || 'ann@example.com' || repeat(' word', 200000));
"#;

const CLASSES: &str = r#"
[classes."pii.card"]
mask = "card-last4"
[classes."pii.email"]
mask = "email-domain"
"#;

fn columns(resource: &str) -> String {
    format!("[resources.{resource}.classes.content]\ncard = \"pii.card\"\nemail = \"pii.email\"\n")
}

#[test]
fn what_nobody_classified_is_found() {
    let world = World::with(REMARKS, CLASSES, columns);
    let simple = "SELECT body FROM remarks WHERE id = 1;\nSELECT doc FROM remarks WHERE id = 1;\n\
        SELECT raw, list, n FROM remarks WHERE id = 1;\nSELECT body, doc FROM remarks WHERE id = 2;\n\
        SELECT left(body, 10), length(body) FROM remarks WHERE id = 3;\n\
        COPY (SELECT id, body FROM remarks WHERE id < 3 ORDER BY id) TO STDOUT;\n\
        SELECT body::int FROM remarks WHERE id = 1;\n";
    let seen = world.script(simple);
    has(
        &seen,
        &[
            "paid with ****1111, ask ***@example.com\n",
            "{\"who\": \"***@example.com\", \"card\": \"****1111\"}",
            "|{***@example.com}|4111111111111111\n",
            "nothing of it, order 4111 1111 1111 1112|{\"a\": [1, 2]}",
            "1\tpaid with ****1111, ask ***@example.com\n2\tnothing",
            "22P02",
        ],
    );
    assert!(!seen.contains("4111 1111 1111 1111") && !seen.contains("ann@"), "{seen}");
    let python = r#"
import psycopg
c = psycopg.connect("", autocommit=True)
for binary in (False, True):
    for prepare in (False, True):
        cur = c.cursor(binary=binary)
        print(cur.execute("SELECT body, doc, raw, list FROM remarks WHERE id = %s", (1,), prepare=prepare).fetchone())
        body = cur.execute("SELECT body FROM remarks WHERE id = 3", prepare=prepare).fetchone()[0]
        print("long", len(body), "ann@" in body)
with c.cursor() as cur:
    with cur.copy("COPY (SELECT body FROM remarks WHERE id = 3) TO STDOUT") as copy:
        all = b"".join(bytes(b) for b in copy)
        print("copied", len(all), b"ann@" in all)
try:
    with c.cursor() as cur:
        with cur.copy("COPY remarks TO STDOUT (FORMAT BINARY)") as copy:
            print(b"".join(bytes(b) for b in copy))
except psycopg.Error as e:
    print("binary copy ended")
"#;
    let done = world.gateway.dial(&world.token("billing")).python(python).unwrap();
    let out = format!("{}{}", done.out(), done.err());
    let row = "('paid with ****1111, ask ***@example.com', \
               {'who': '***@example.com', 'card': '****1111'}, b'***@example.com', ";
    assert_eq!(out.matches(row).count(), 4, "{out}");
    assert_eq!(out.matches("long 2000015 False").count(), 4, "{out}");
    has(&out, &["copied 2000016 False", "binary copy ended"]);
    assert!(!out.contains("ann@") && !out.contains("1111 1111"), "{out}");
    let (_, metrics) = world.gateway.http("/metrics").unwrap();
    has(&metrics, &["bulla_masked_cells_total{class=\"pii.card\"}"]);
    has(
        &world.script_on("orders", "audit", simple),
        &["paid with 4111 1111 1111 1111, ask ann@example.com", "|{ann@example.com}|"],
    );
    world.verified();
}
