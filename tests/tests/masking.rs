//! A masked value appears nowhere: every way in which masking gateways are known to leak, tried
//! with real clients through the real gateway.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;
use std::time::Duration;

use bulla_e2e::ca::Authority;
use bulla_e2e::dice::Dice;
use bulla_e2e::expect::has;
use bulla_e2e::gateway::{Gateway, ResourceSpec, Spec};
use bulla_e2e::issuer::Issuer;
use bulla_e2e::masked::{CLASSES, POLICY, World, columns, leaks};
use bulla_e2e::postgres::Postgres;

#[test]
fn one_statement_two_answers() {
    let world = World::start();
    let sql = "SELECT id, name, email, ssn, since FROM customers ORDER BY id LIMIT 1;\n\
               SELECT employee, amount FROM salaries ORDER BY id;\n";
    has(
        &world.script(sql),
        &["7|hidden|***@example.com|***4399|2024-01-01", "hidden|5000\n", "hidden|6000\n"],
    );
    let audit = world.script_on("orders", "audit", sql);
    has(&audit, &["7|Ada|ada@example.com|536-90-4399|2024-01-01", "Blaise|5000\n"]);
    // What would be classified by somebody who looks.
    let proposed = world.gateway.cli(&["classify", "orders"]).unwrap().success().unwrap();
    has(
        &proposed,
        &[
            "# \"public.customers.email\" is \"pii.email\" already; 4 of 4 values look like email",
            "\"public.copied.harmless\" = \"pii.ssn\"  # 4 of 4 values look like us_ssn",
        ],
    );
    assert_eq!(leaks(&proposed), None, "{proposed}");
    let explain = |sql: &str| {
        let args = ["policy", "explain", "--principal", "bed|billing/api", "--resource", "orders"];
        let done = world.gateway.cli(&[&args[..], &["--sql", sql]].concat()).unwrap();
        format!("{}{}", done.out(), done.err())
    };
    has(
        &explain("SELECT ssn FROM customers"),
        &["allow", "sent with masks: SELECT ssn FROM (SELECT"],
    );
    has(
        &explain("DELETE FROM customers WHERE ssn = 'x'"),
        &["refused because of masks", "find the rows by other columns than `ssn`"],
    );
    let tried = world.gateway.cli(&["mask", "try", "--class", "pii.ssn", "536-90-4399"]).unwrap();
    assert_eq!(tried.out().trim(), "***4399");
    // What was sent is in the record, beside what was asked.
    let listed = world.gateway.cli(&["sessions", "ls", "--json"]).unwrap().success().unwrap();
    let sessions: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let mut shown = String::new();
    for session in sessions.as_array().unwrap() {
        let id = session["session"].as_str().unwrap();
        shown += &world.gateway.cli(&["sessions", "show", id]).unwrap().out();
    }
    has(&shown, &["SELECT id, name, email, ssn, since FROM customers", "-- sent with masks:"]);
    world.verified();
}

/// Each with what it must answer, if it is to answer at all; `!` is a refusal.
const WAYS: &[(&str, &str)] = &[
    // Names that do not say what they show.
    ("SELECT ssn AS harmless FROM customers ORDER BY id", "***4399"),
    ("SELECT U&\"\\0073sn\" FROM customers ORDER BY id", "***4399"),
    ("SELECT c.ssn FROM customers c ORDER BY c.id", "***4399"),
    ("SELECT customers.ssn FROM public.customers ORDER BY 1", "***1120"),
    ("SELECT public.customers.ssn FROM public.customers ORDER BY 1", "***1120"),
    ("SELECT orders.public.customers.ssn FROM public.customers ORDER BY 1", "***1120"),
    ("SELECT public.customers.* FROM public.customers ORDER BY 1", "***4399"),
    ("SELECT x.c FROM customers AS x(a, b, e, c) ORDER BY 1", "***1120"),
    ("TABLE customers", "***4399"),
    ("SELECT * FROM ONLY customers", "***4399"),
    ("SELECT * FROM ONLY (customers)", "***4399"),
    ("SELECT * FROM customers *", "***4399"),
    ("SELECT c FROM customers c ORDER BY id", "***4399"),
    ("SELECT (c).ssn FROM customers c ORDER BY 1", "***1120"),
    ("SELECT row_to_json(c) FROM customers c", "***4399"),
    ("SELECT to_jsonb(customers) FROM customers", "***4399"),
    ("SELECT c::text FROM customers c", "***4399"),
    ("SELECT json_agg(c) FROM customers c", "***4399"),
    ("SELECT array_agg(ssn ORDER BY id) FROM customers", "***4399"),
    ("SELECT string_agg(ssn, ',') FROM customers", "***4399"),
    ("SELECT DISTINCT ssn FROM customers", "***4399"),
    ("SELECT count(DISTINCT substr(ssn, 1, 3)) FROM customers", "\n1\n"),
    // Computed.
    ("SELECT ssn || '' FROM customers", "***4399"),
    ("SELECT reverse(ssn) FROM customers", "9934***"),
    (
        "SELECT md5(ssn), encode(ssn::bytea, 'hex'), encode(ssn::bytea, 'base64') FROM customers",
        "2a2a2a",
    ),
    ("SELECT regexp_split_to_table(ssn, '') FROM customers WHERE id = 7", "*\n*\n*\n4"),
    ("SELECT substr(ssn, 1, 3), ascii(ssn) FROM customers", "***|42"),
    ("SELECT CASE WHEN ssn LIKE '536%' THEN 'yes' ELSE 'no' END FROM customers WHERE id = 7", "no"),
    ("SELECT coalesce(ssn, 'x'), nullif(ssn, 'y'), greatest(ssn, 'a') FROM customers", "***4399"),
    ("SELECT format('%s', ssn), concat_ws('-', id, ssn) FROM customers", "***4399"),
    ("SELECT xmlelement(name a, ssn) FROM customers", "***4399"),
    ("SELECT xmlforest(ssn) FROM customers", "***4399"),
    ("SELECT first_value(ssn) OVER (ORDER BY id) FROM customers", "***4399"),
    ("SELECT lag(ssn) OVER (ORDER BY id) FROM customers", "***4399"),
    ("SELECT min(ssn), max(ssn) FROM customers", "***1120"),
    ("SELECT unnest(ARRAY[ssn]) FROM customers", "***4399"),
    ("SELECT * FROM customers, LATERAL (SELECT ssn AS again) l", "***4399"),
    ("SELECT * FROM customers, unnest(ARRAY[ssn]) AS u", "***4399"),
    ("SELECT * FROM customers c, json_each_text(row_to_json(c))", "***4399"),
    ("SELECT (SELECT ssn FROM customers WHERE id = 7)", "***4399"),
    ("SELECT ARRAY(SELECT ssn FROM customers)", "***4399"),
    ("SELECT * FROM (SELECT ssn AS a FROM customers) AS q(b)", "***4399"),
    ("WITH w AS (SELECT ssn FROM customers) SELECT * FROM w", "***4399"),
    (
        "WITH RECURSIVE w(n, s) AS (SELECT 7, (SELECT ssn FROM customers WHERE id = 7) UNION ALL SELECT n + 1, (SELECT c.ssn FROM customers c WHERE c.id = n + 1) FROM w WHERE n < 10) SELECT * FROM w",
        "***4399",
    ),
    ("WITH customers AS (SELECT 1 AS ssn) SELECT * FROM customers", "\n1\n"),
    ("SELECT ssn FROM customers UNION SELECT item FROM orders", "***4399"),
    ("SELECT item FROM orders EXCEPT SELECT ssn FROM customers", "shortest path"),
    ("VALUES ((SELECT ssn FROM customers WHERE id = 7))", "***4399"),
    ("SELECT a.ssn FROM customers a JOIN customers b USING (ssn)", "***4399"),
    ("SELECT * FROM customers NATURAL JOIN (SELECT 7 AS id) x", "***4399"),
    ("SELECT * FROM (customers c JOIN orders o ON o.customer_id = c.id) AS j", "***4399"),
    // Relations behind others.
    ("SELECT * FROM contacts", "***4399"),
    ("SELECT reference FROM contacts WHERE name <> ''", "***4399"),
    ("SELECT * FROM deep", "***4399"),
    ("SELECT code FROM joined", "***4399"),
    ("SELECT * FROM people", "***4399"),
    ("SELECT * FROM people_1", "***4399"),
    ("SELECT * FROM child", "***4399"),
    ("SELECT * FROM base", "***4399"),
    ("SELECT harmless FROM copied", ""),
    // Conditions see the mask: none of these finds the row by its value.
    ("SELECT id FROM customers WHERE ssn = '536-90-4399'", ""),
    ("SELECT id FROM customers WHERE ssn LIKE '536%'", ""),
    ("SELECT id FROM customers WHERE ssn < '3' AND ssn > '0'", ""),
    ("SELECT id FROM customers WHERE substr(ssn, 1, 1) = '5'", ""),
    ("SELECT id FROM customers ORDER BY substr(ssn, 1, 3), id", "7\n8\n9\n10"),
    ("SELECT count(*) FROM customers GROUP BY substr(ssn, 1, 3)", "4"),
    (
        "SELECT id FROM customers LIMIT (SELECT substr(ssn, 1, 1)::int FROM customers WHERE id = 7)",
        "22P02",
    ),
    ("SELECT generate_series(1, substr(ssn, 1, 1)::int) FROM customers", "22P02"),
    ("SELECT repeat('x', substr(ssn, 1, 1)::int) FROM customers", "22P02"),
    ("SELECT 1 / (CASE WHEN ssn LIKE '536%' THEN 0 ELSE 1 END) FROM customers", "1"),
    ("SELECT pg_sleep(CASE WHEN ssn LIKE '536%' THEN 100 ELSE 0 END) FROM customers", ""),
    (
        "SELECT o.id FROM orders o JOIN customers c ON c.ssn = '536-90-4399' AND c.id = o.customer_id",
        "",
    ),
    (
        "SELECT id FROM orders WHERE customer_id IN (SELECT id FROM customers WHERE ssn LIKE '5%')",
        "",
    ),
    ("SELECT id FROM salaries WHERE amount = 5100", ""),
    // Errors.
    ("SELECT ssn::int FROM customers", "22P02"),
    ("SELECT ssn::uuid FROM customers", "22P02"),
    ("SELECT ssn::json FROM customers", "22P02"),
    ("SELECT ssn::regclass FROM customers", "42P01"),
    ("SELECT now() AT TIME ZONE ssn FROM customers", "22023"),
    ("SELECT nextval(ssn) FROM customers", ""),
    ("SELECT set_config('application_name', ssn, false) FROM customers", "***4399"),
    ("SELECT set_config('my.own', ssn, false) FROM customers WHERE id = 7", "***4399"),
    ("SELECT pg_notify('c', ssn) FROM customers", ""),
    ("LISTEN c; SELECT pg_notify('c', ssn) FROM customers", ""),
    ("SELECT pg_advisory_lock(substr(ssn, 1, 3)::int) FROM customers", "22P02"),
    ("UPDATE customers SET name = NULL WHERE id = 7", "23502"),
    ("UPDATE customers SET id = 8 WHERE id = 7", "23505"),
    (
        "INSERT INTO customers (id, name, email, ssn, region) VALUES (7, 'x', 'x', 'x', 'EU')",
        "23505",
    ),
    ("BEGIN; UPDATE customers SET region = 'toolong' WHERE id = 7; COMMIT", "23514"),
    // Writes.
    ("CREATE TEMP TABLE t AS SELECT ssn FROM customers", "!"),
    ("SELECT ssn INTO TEMP t FROM customers", "!"),
    ("CREATE VIEW v AS SELECT ssn FROM customers", "!"),
    ("INSERT INTO notes (body) SELECT ssn FROM customers", "!"),
    ("INSERT INTO notes (body) SELECT reference FROM contacts", "!"),
    (
        "INSERT INTO notes (body) VALUES ((SELECT ssn FROM customers WHERE id = 7)) RETURNING body",
        "!",
    ),
    ("UPDATE customers SET region = 'XX' WHERE ssn = '536-90-4399'", "!"),
    ("UPDATE customers SET name = ssn", "!"),
    ("UPDATE notes SET body = c.ssn FROM customers c", "!"),
    ("DELETE FROM customers WHERE ssn LIKE '5%'", "!"),
    ("DELETE FROM notes USING customers c WHERE notes.body = c.ssn", "!"),
    ("MERGE INTO notes n USING customers c ON n.body = c.ssn WHEN MATCHED THEN DELETE", "!"),
    ("UPDATE customers SET region = 'EU' WHERE id = 7 RETURNING *", "***4399"),
    ("UPDATE customers SET region = 'EU' WHERE id = 7 RETURNING ssn, ssn || 'x'", "***4399x"),
    ("UPDATE customers c SET region = 'EU' WHERE id = 7 RETURNING c.*, c.ssn AS s", "***4399"),
    ("UPDATE customers c SET region = 'EU' WHERE id = 7 RETURNING c", "!"),
    (
        "INSERT INTO customers (id, name, email, ssn, region) VALUES (7, 'x', 'x', 'x', 'EU') ON CONFLICT (id) DO UPDATE SET region = 'EU' RETURNING ssn",
        "***4399",
    ),
    (
        "INSERT INTO customers (id, name, email, ssn, region) VALUES (7, 'x', 'x', 'x', 'EU') ON CONFLICT (id) DO UPDATE SET name = customers.ssn",
        "!",
    ),
    ("WITH d AS (DELETE FROM customers WHERE id = 12345 RETURNING ssn) SELECT * FROM d", ""),
    ("INSERT INTO contacts VALUES ('a', 'b', 'c')", "!"),
    ("ALTER TABLE customers RENAME COLUMN ssn TO other", "!"),
    ("CREATE RULE r AS ON INSERT TO notes DO ALSO SELECT * FROM customers", "!"),
    ("CREATE FUNCTION f() RETURNS text LANGUAGE sql AS 'SELECT ssn FROM customers'", "!"),
    ("CREATE INDEX ON customers ((ssn::int))", "!"),
    // Copies, cursors, prepared statements, plans.
    ("COPY customers TO STDOUT", "***4399"),
    ("COPY customers (id, ssn) TO STDOUT (FORMAT csv)", "7,***4399"),
    ("COPY (SELECT ssn FROM customers) TO STDOUT", "***4399"),
    ("COPY (TABLE customers) TO STDOUT", "***4399"),
    ("COPY contacts TO STDOUT", "!"),
    ("BEGIN; DECLARE c CURSOR FOR SELECT ssn FROM customers; FETCH ALL FROM c; COMMIT", "***4399"),
    ("PREPARE p AS SELECT ssn FROM customers WHERE id = $1; EXECUTE p(7)", "***4399"),
    ("EXPLAIN SELECT ssn FROM customers WHERE ssn = 'x'", "!"),
    ("EXPLAIN (ANALYZE, VERBOSE) SELECT * FROM customers", "!"),
    ("EXPLAIN SELECT id FROM customers", "Seq Scan"),
    ("SELECT ssn FROM customers FOR UPDATE", "***4399"),
    ("SELECT ctid, ssn FROM customers", "!"),
    ("SELECT xmin FROM customers", "!"),
    ("SELECT ssn FROM customers TABLESAMPLE SYSTEM (100)", "!"),
    // Where the server keeps copies.
    ("SELECT most_common_vals FROM pg_stats WHERE attname = 'ssn'", "!"),
    ("SELECT histogram_bounds FROM pg_catalog.pg_stats", "!"),
    ("SELECT * FROM pg_statistic", "!"),
    ("SELECT query FROM pg_stat_activity", "!"),
    ("SELECT * FROM pg_stat_get_activity(NULL)", "!"),
    // Code that nobody reads.
    ("SELECT ssn_of(7)", "!"),
    ("DO $$ BEGIN RAISE NOTICE '%', (SELECT ssn FROM customers WHERE id = 7); END $$", "!"),
    ("SELECT query_to_xml('SELECT ssn FROM customers', true, true, '')", "!"),
    ("SELECT table_to_xml('customers', true, true, '')", "!"),
    ("SELECT database_to_xml(true, true, '')", "!"),
    ("SELECT * FROM ts_stat('SELECT to_tsvector(ssn) FROM customers')", "!"),
    ("CALL raise_salaries(1)", "!"),
    ("SELECT lo_import('/etc/passwd')", "!"),
    // And what is nobody's secret goes on as before.
    ("SELECT cents(1.5)", "150"),
    ("SELECT count(*) FROM customers", "4"),
    ("SELECT id, region FROM customers WHERE id = 7", "7|EU"),
    (
        "SELECT item FROM orders o JOIN customers c ON c.id = o.customer_id WHERE c.region = 'US'",
        "nanosecond",
    ),
    ("INSERT INTO notes (body) SELECT region FROM customers RETURNING body", "EU"),
    (
        "INSERT INTO customers (id, name, email, ssn, region) VALUES (77, 'n', 'n@x.y', '1', 'EU') RETURNING id",
        "77",
    ),
    (
        "INSERT INTO customers (id, name, email, ssn, region) VALUES (77, 'n', 'm@x.y', '1', 'EU') ON CONFLICT (id) DO UPDATE SET email = EXCLUDED.email",
        "INSERT 0 1",
    ),
    ("UPDATE customers SET ssn = '2' WHERE id = 77", "UPDATE 1"),
    ("DELETE FROM customers WHERE id = 77", "DELETE 1"),
];

#[test]
fn every_known_way_round_is_closed() {
    let world = World::start();
    let mut wrong = String::new();
    for (sql, expect) in WAYS {
        let seen = world.script(&format!("{sql};\n"));
        // Errors quote the client's own text; that is no leak.
        let own: String =
            seen.lines().filter(|l| !l.starts_with("LINE ")).collect::<Vec<_>>().join("\n");
        if let Some(secret) = leaks(&own) {
            let _ = writeln!(wrong, "LEAK of `{secret}`: {sql}\n{seen}");
        }
        let refused = seen.contains("refused: ");
        let fits = match *expect {
            "!" => refused,
            "" => !refused,
            part => !refused && format!("\n{seen}").contains(part),
        };
        if !fits {
            let _ = writeln!(wrong, "not `{expect}`: {sql}\n{seen}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    world.verified();
}

#[test]
fn drivers_bind_and_read_in_binary() {
    let world = World::start();
    let python = r#"
import psycopg
c = psycopg.connect("", autocommit=True)
for binary in (False, True):
    with c.cursor(binary=binary) as cur:
        cur.execute("SELECT id, name, email, ssn, since FROM customers WHERE id = %s", (7,))
        print(cur.fetchone())
        cur.execute("SELECT amount FROM salaries WHERE id = %s", (1,))
        print(cur.fetchone())
for i in range(12):
    r = c.execute("SELECT ssn FROM customers WHERE id = %s", (7,), prepare=True).fetchone()
print(r)
with c.cursor() as cur:
    with cur.copy("COPY (SELECT id, ssn FROM customers ORDER BY id) TO STDOUT (FORMAT BINARY)") as copy:
        copy.set_types(["int4", "text"])
        print([row for row in copy.rows()][0])
with c.cursor(name="server", scrollable=False) as cur:
    try:
        cur.execute("SELECT ssn FROM customers ORDER BY id")
        print(cur.fetchone())
    except psycopg.Error as e:
        print(e.sqlstate)
with c.transaction():
    cur = c.cursor(name="named")
    cur.execute("SELECT ssn FROM customers ORDER BY id")
    print(cur.fetchone())
try:
    c.execute("UPDATE customers SET name = NULL WHERE id = 7")
except psycopg.Error as e:
    print(e.sqlstate, e.diag.message_detail, "withheld" if "left out" in e.diag.message_primary else e)
"#;
    let done = world.gateway.dial(&world.token("billing")).python(python).unwrap();
    let out = format!("{}{}", done.out(), done.err());
    has(
        &out,
        &[
            "(7, 'hidden', '***@example.com', '***4399', datetime.date(2024, 1, 1))",
            "(Decimal('5000",
            "('***4399',)",
            "(7, '***4399')",
            "23502 None withheld",
        ],
    );
    assert_eq!(leaks(&out), None, "{out}");
    world.verified();
}

#[test]
fn a_permit_that_comes_and_goes_counts_at_once() {
    let world = World::start();
    let more = format!(
        "{POLICY}\n@id(\"billing-too\") permit (principal in Bulla::Group::\"team:billing\", \
         action == Bulla::Action::\"reveal\", resource == Bulla::Class::\"pii.ssn\");"
    );
    let sql = "SELECT ssn, name FROM customers WHERE id = 7;\n";
    has(&world.script(sql), &["***4399|hidden"]);
    world.gateway.write_policy("shop.cedar", &more).unwrap();
    world.gateway.reload().unwrap();
    world.gateway.proc().wait_line("reloaded: bundle", Duration::from_secs(10)).unwrap();
    has(&world.script(sql), &["536-90-4399|hidden"]);
    world.verified();
}

/// A value over the columns of `c`.
fn value(dice: &mut Dice, depth: usize) -> String {
    if depth == 0 || dice.below(3) == 0 {
        return dice
            .one(&[
                "c.ssn",
                "c.email",
                "c.name",
                "c.ssn",
                "c.email",
                "c.id::text",
                "c.region::text",
                "c.since::text",
                "c::text",
                "'x'",
                "NULL::text",
                "(SELECT max(d.ssn) FROM customers d)",
                "(SELECT d.reference FROM contacts d ORDER BY 1 LIMIT 1)",
            ])
            .to_owned();
    }
    let inner = value(dice, depth - 1);
    let other = value(dice, depth - 1);
    match dice.below(14) {
        0 => format!("upper({inner})"),
        1 => format!("md5({inner})"),
        2 => format!("substr({inner}, {}, {})", 1 + dice.below(6), 1 + dice.below(4)),
        3 => format!("concat({inner}, {other})"),
        4 => format!("({inner} || {other})"),
        5 => format!("length({inner})::text"),
        6 => format!("coalesce({inner}, {other})"),
        7 => format!("CASE WHEN {inner} < {other} THEN {inner} ELSE '-' END"),
        8 => format!("replace({inner}, '1', 'one')"),
        9 => format!("({inner})::int::text"),
        10 => format!("regexp_replace({inner}, '[0-9]+', '#')"),
        11 => format!("to_json({inner})::text"),
        12 => format!("nullif({inner}, {other})"),
        _ => format!("split_part({inner}, '-', {})", 1 + dice.below(3)),
    }
}

fn condition(dice: &mut Dice) -> String {
    let (a, b) = (value(dice, 2), value(dice, 2));
    match dice.below(6) {
        0 => format!("{a} = {b}"),
        1 => format!("{a} LIKE '%{}%'", dice.below(10)),
        2 => format!("{a} < {b} OR c.id = {}", 7 + dice.below(4)),
        3 => format!("length({a}) > {}", dice.below(12)),
        4 => format!("{a} IN (SELECT ssn FROM customers WHERE id > {})", 6 + dice.below(5)),
        _ => format!("EXISTS (SELECT FROM orders o WHERE o.customer_id = c.id AND o.item > {a})"),
    }
}

fn statement(dice: &mut Dice) -> String {
    let from = dice.one(&[
        "customers c",
        "public.customers AS c",
        "customers c JOIN orders o ON o.customer_id = c.id",
        "orders o LEFT JOIN customers c ON o.customer_id = c.id",
        "(SELECT * FROM customers) c",
        "(SELECT id, ssn, email, name, region, since FROM customers UNION ALL SELECT id, ssn, email, name, region, since FROM customers) c",
    ]);
    let (a, b, when) = (value(dice, 3), value(dice, 2), condition(dice));
    match dice.below(12) {
        0 => format!("SELECT {a} FROM {from} WHERE {when} ORDER BY {b}, c.id"),
        1 => format!("SELECT {a}, count(*) FROM {from} GROUP BY 1 ORDER BY 1"),
        2 => format!("SELECT count(*) FROM {from} WHERE {when}"),
        3 => format!(
            "SELECT c.id FROM {from} ORDER BY {a}, c.id LIMIT (SELECT count(*) FROM customers c WHERE {when})"
        ),
        4 => {
            format!("WITH w AS (SELECT {a} AS v, c.id FROM {from}) SELECT v FROM w ORDER BY v, id")
        }
        5 => format!("SELECT min({a}), max({b}) FROM {from} WHERE {when}"),
        6 => format!("COPY (SELECT {a}, {b} FROM {from} ORDER BY c.id, 1) TO STDOUT"),
        7 => format!("SELECT c.id, rank() OVER (ORDER BY {a}, c.id) FROM {from} ORDER BY c.id, 2"),
        8 => format!(
            "SELECT {a} FROM customers c WHERE c.id = 7 UNION SELECT {b} FROM customers c ORDER BY 1"
        ),
        9 => format!(
            "BEGIN; UPDATE customers c SET region = 'US' WHERE c.id = {} RETURNING {a}; ROLLBACK",
            7 + dice.below(5)
        ),
        10 => format!("BEGIN; UPDATE customers c SET name = 'n' WHERE {when}; ROLLBACK"),
        _ => {
            format!("SELECT set_config('my.v', {a}, false) FROM {from} WHERE {when} ORDER BY c.id")
        }
    }
}

/// Two databases that differ in masked values only, of the same shape: whatever is asked, every
/// byte that a client gets is the same, and so is what the record keeps of it.
#[test]
fn masked_values_make_no_difference() {
    let authority = Authority::new("twins").unwrap();
    let server = Postgres::start(&authority).unwrap();
    server
        .admin("postgres")
        .psql(&["CREATE DATABASE twin TEMPLATE orders"])
        .unwrap()
        .success()
        .unwrap();
    // What the masks show is kept: the last four of an SSN, the domain of an address, the year.
    let other = "UPDATE customers SET ssn = translate(left(ssn, 6), '0123456789', '5938271640') || substr(ssn, 7), \
                 email = reverse(split_part(email, '@', 1)) || 'q@' || split_part(email, '@', 2), \
                 name = reverse(name) || 'x', since = since + 100; \
                 UPDATE salaries SET amount = amount + 77, employee = reverse(employee); ANALYZE";
    server.admin("twin").psql(&[other]).unwrap().success().unwrap();
    // Rows move when they change, and plans follow statistics: the same for both.
    let same = "UPDATE customers SET ssn = ssn; UPDATE salaries SET amount = amount; ANALYZE";
    server.admin("orders").psql(&[same]).unwrap().success().unwrap();
    let issuer = Issuer::start().unwrap();
    let mut spec = Spec::new(&server, &issuer).policy("shop.cedar", POLICY);
    let mut twin = ResourceSpec::new("twin", &server, "bulla_scram", "scram secret");
    twin.database = "twin".to_owned();
    twin.more = columns("twin");
    spec.resources[0].more = columns("orders");
    spec.resources.push(twin);
    spec.last = CLASSES.to_owned();
    let gateway = Gateway::start(&authority, spec).unwrap();
    let world = World { server, issuer, gateway };
    let (mut script, mut count) = (String::new(), 0);
    for seed in 0..400 {
        let sql = statement(&mut Dice(seed));
        let _ = writeln!(script, "\\echo {seed}\n{sql};\nROLLBACK;");
        count += 1;
    }
    for (sql, _) in
        WAYS.iter().filter(|(sql, _)| !sql.contains("people") && !sql.contains("pg_sleep"))
    {
        let _ = writeln!(
            script,
            "\\echo {count}\nBEGIN;\n{};\nROLLBACK;",
            sql.replace("orders.public", "public")
        );
        count += 1;
    }
    let answer = |resource: &str| world.merged(resource, "billing", &script);
    let (one, two) = (answer("orders"), answer("twin"));
    let different: Vec<_> = one.lines().zip(two.lines()).filter(|(a, b)| a != b).take(10).collect();
    assert!(different.is_empty(), "{different:#?}");
    assert_eq!(one.lines().count(), two.lines().count());
    // The statements did something: most answer with rows, some with errors, few are refused.
    let refused = one.matches("refused: ").count();
    assert!(
        one.contains("***4399") && one.contains("22P02") && refused < count / 4,
        "{refused} of {count}"
    );
    // An honest database makes a difference to whoever may see it: the twins do differ.
    let differs = |resource: &str| {
        world.script_on(resource, "audit", "SELECT ssn, email FROM customers ORDER BY id;\n")
    };
    assert_ne!(differs("orders"), differs("twin"));
    world.verified();
}

/// What an ordinary mapper does with a schema that has masked columns passes, with masks.
#[test]
fn an_orm_works_on_masked_tables() {
    let world = World::start();
    let python = r#"
import datetime
from sqlalchemy import create_engine, ForeignKey, select, func, update, delete, text, inspect
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, Session
from sqlalchemy.orm import joinedload, selectinload, subqueryload
class Base(DeclarativeBase): pass
class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str]
    ssn: Mapped[str]
    region: Mapped[str]
    since: Mapped[datetime.date] = mapped_column(server_default=text("'2024-01-01'"))
    orders: Mapped[list["Order"]] = relationship(back_populates="customer")
class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    item: Mapped[str]
    quantity: Mapped[int]
    customer: Mapped[Customer] = relationship(back_populates="orders")
engine = create_engine("postgresql+psycopg://")
count, failed = 0, []
def do(name, step):
    global count
    count += 1
    try:
        with Session(engine) as s:
            print(name, step(s))
            s.commit()
    except Exception as e:
        failed.append((name, str(e).split("\n")[0]))
C, O = Customer, Order
do("all", lambda s: [c.ssn for c in s.scalars(select(C).order_by(C.id))])
do("get", lambda s: s.get(C, 7).email)
do("one", lambda s: s.scalars(select(C).where(C.id == 7)).one().name)
do("filter", lambda s: s.scalars(select(C.id).where(C.region == "EU").order_by(C.id)).all())
do("by masked", lambda s: s.scalars(select(C.id).where(C.email == "ada@example.com")).all())
do("in", lambda s: s.scalars(select(C.id).where(C.id.in_([7, 8])).order_by(C.id)).all())
do("like", lambda s: s.scalars(select(C.id).where(C.name.ilike("%a%"))).all())
do("joined", lambda s: [len(c.orders) for c in s.scalars(select(C).options(joinedload(C.orders)).order_by(C.id)).unique()])
do("selectin", lambda s: [len(c.orders) for c in s.scalars(select(C).options(selectinload(C.orders)).order_by(C.id))])
do("subquery", lambda s: [len(c.orders) for c in s.scalars(select(C).options(subqueryload(C.orders)).order_by(C.id))])
do("lazy", lambda s: s.get(O, 1).customer.name)
do("join", lambda s: s.execute(select(O.item, C.email).join(C).order_by(O.id)).all()[0])
do("outer", lambda s: len(s.execute(select(C.id, O.item).outerjoin(O)).all()))
do("group", lambda s: s.execute(select(C.region, func.count()).group_by(C.region).order_by(C.region)).all())
do("group by key", lambda s: s.execute(select(C.id, C.name, func.count(O.id)).join(O).group_by(C.id).order_by(C.id)).all()[0])
do("group all by key", lambda s: len(s.execute(select(C, func.count(O.id)).join(O).group_by(C.id)).all()))
do("having", lambda s: s.execute(select(C.id).join(O).group_by(C.id).having(func.count(O.id) > 1)).all())
do("exists", lambda s: s.scalars(select(C.id).where(C.orders.any(O.quantity > 100))).all())
do("sub", lambda s: s.scalars(select(O.id).where(O.customer_id.in_(select(C.id).where(C.region == "US")))).all())
do("cte", lambda s: s.execute(select(select(C.id, C.ssn).cte("w").c.ssn)).all()[0])
do("union", lambda s: len(s.execute(select(C.ssn).union(select(O.item))).all()))
do("window", lambda s: s.execute(select(C.id, func.row_number().over(order_by=C.id)).order_by(C.id)).all()[0])
do("distinct", lambda s: len(s.scalars(select(C.email).distinct()).all()))
do("page", lambda s: s.scalars(select(C.id).order_by(C.name, C.id).limit(2).offset(1)).all())
do("count", lambda s: s.scalar(select(func.count()).select_from(C)))
do("lock", lambda s: s.scalars(select(C).where(C.id == 7).with_for_update()).one().id)
do("stream", lambda s: len(list(s.scalars(select(C).execution_options(yield_per=2)))))
do("refresh", lambda s: (lambda c: (s.refresh(c), c.region)[1])(s.get(C, 7)))
def add(s):
    c = C(id=70, name="New", email="new@example.com", ssn="1", region="EU")
    s.add(c); s.flush(); return c.since
do("insert", add)
def add_many(s):
    s.add_all([C(id=71 + i, name="N", email=f"n{i}@example.com", ssn=str(i), region="EU") for i in range(3)]); s.flush()
do("insert many", add_many)
do("returning", lambda s: s.execute(insert(C).values(id=80, name="R", email="r@example.com", ssn="9", region="EU").returning(C)).scalar_one().ssn)
do("upsert", lambda s: (lambda i: s.execute(i.on_conflict_do_update(index_elements=[C.id], set_=dict(email=i.excluded.email))).rowcount)(insert(C).values(id=80, name="R", email="s@example.com", ssn="9", region="EU")))
do("update", lambda s: s.execute(update(C).where(C.id == 80).values(ssn="8")).rowcount)
def change(s):
    c = s.get(C, 70); c.region = "US"; s.flush(); return c.region
do("change", change)
do("update returning", lambda s: s.execute(update(C).where(C.id == 80).values(region="US").returning(C.id, C.email)).all())
do("delete", lambda s: s.execute(delete(C).where(C.id.in_([71, 72, 73, 80]))).rowcount)
def remove(s):
    s.delete(s.get(C, 70)); s.flush()
do("remove", remove)
do("order", lambda s: (s.add(O(id=90, customer_id=7, item="x", quantity=1)), s.flush())[1])
do("tables", lambda s: inspect(engine).get_table_names()[:1])
do("columns", lambda s: len(inspect(engine).get_columns("customers")))
do("keys", lambda s: inspect(engine).get_pk_constraint("customers")["constrained_columns"])
do("indexes", lambda s: len(inspect(engine).get_indexes("customers")))
do("foreign keys", lambda s: len(inspect(engine).get_foreign_keys("orders")))
print("failed", len(failed), "of", count, failed)
"#;
    let done = world.gateway.dial(&world.token("billing")).python(python).unwrap();
    let out = format!("{}{}", done.out(), done.err());
    has(
        &out,
        &[
            "all ['***4399', '***9999', '***1120', '***5462']",
            "get ***@example.com",
            "by masked []",
            "group by key (7, 'hidden', 2)",
            "lazy hidden",
            "failed 0 of ",
        ],
    );
    assert_eq!(leaks(&out), None, "{out}");
    world.verified();
}
