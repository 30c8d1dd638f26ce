//! Real clients through the real gateway to a real server.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use bulla_e2e::ca::Authority;
use bulla_e2e::client::program;
use bulla_e2e::expect::has;
use bulla_e2e::gateway::{Gateway, Spec, cli_in};
use bulla_e2e::issuer::Issuer;
use bulla_e2e::postgres::Postgres;
use bulla_e2e::proc::{Proc, capture};

const EVERYTHING: &str = r#"
@id("everything")
permit (principal, action, resource in Bulla::Resource::"orders");
"#;

const LEAST: &str = r#"
@id("session")
permit (principal, action in [Bulla::Action::"postgres:session"], resource in Bulla::Resource::"orders");
@id("reads")
permit (principal, action == Bulla::Action::"postgres:select",
        resource == Bulla::Table::"orders.public.customers");
@id("select-nothing")
permit (principal, action == Bulla::Action::"postgres:select",
        resource == Bulla::Resource::"orders");
@id("inserts")
permit (principal, action == Bulla::Action::"postgres:insert",
        resource == Bulla::Table::"orders.public.customers");
@id("held") @hold("dba") @expires("2s")
permit (principal, action == Bulla::Action::"postgres:delete",
        resource == Bulla::Table::"orders.public.customers");
"#;

struct World {
    server: Postgres,
    issuer: Issuer,
    gateway: Gateway,
}

impl World {
    fn start(policy: &str) -> Self {
        let authority = Authority::new("road").unwrap();
        let server = Postgres::start(&authority).unwrap();
        let issuer = Issuer::start().unwrap();
        let spec = Spec::new(&server, &issuer).policy("orders.cedar", policy);
        let gateway = Gateway::start(&authority, spec).unwrap();
        Self { server, issuer, gateway }
    }
    fn token(&self) -> String {
        self.issuer.mint().unwrap().subject("billing/api").claim("team", "billing").token().unwrap()
    }
    fn script(&self, sql: &str) -> String {
        let dial = self.gateway.dial(&self.token());
        let mut psql = dial.command(&program("psql").unwrap());
        psql.args(["-X", "-A", "-t", "-v", "VERBOSITY=verbose"]);
        let done = capture(psql, Some(sql.as_bytes().to_vec()), Duration::from_secs(60)).unwrap();
        format!("{}{}", done.out(), done.err())
    }
    fn verified(&self) {
        assert!(self.gateway.terminate().unwrap().success(), "{}", self.gateway.log());
        let args = ["log", "verify", "data/archive", "--key", "data/log.vkey"];
        let done = cli_in(self.gateway.dir().path(), &args).unwrap();
        assert_eq!(done.code(), 0, "{}{}", done.out(), done.err());
    }
}

#[test]
fn pgbench_runs_in_every_protocol() {
    let world = World::start(EVERYTHING);
    let dial = world.gateway.dial(&world.token());
    for args in [
        &["-i", "-q", "-s", "1"][..],
        &["-M", "simple", "-c", "4", "-t", "50", "-n"],
        &["-M", "extended", "-c", "4", "-t", "50", "-n"],
        &["-M", "prepared", "-c", "4", "-t", "50", "-n"],
        &["-M", "prepared", "-S", "-c", "4", "-t", "50", "-n"],
    ] {
        let mut pgbench = dial.command(&program("pgbench").unwrap());
        pgbench.args(args);
        let done = capture(pgbench, None, Duration::from_secs(120)).unwrap();
        assert_eq!(done.code(), 0, "{args:?}\n{}{}", done.out(), done.err());
        assert!(!done.out().contains("number of failed transactions: 1"), "{}", done.out());
    }
    let history = world.server.sql("SELECT count(*) FROM pgbench_history").unwrap();
    assert_eq!(history.trim(), "600");
    world.verified();
}

#[test]
fn psql_copies_both_ways_and_keeps_transactions_whole() {
    let world = World::start(EVERYTHING);
    let seen = world.script(
        "CREATE TABLE t (a int, b text);\n\
         COPY t FROM STDIN;\n1\tone\n2\ttwo\n\\.\n\
         COPY t TO STDOUT;\n\
         BEGIN; SAVEPOINT s; SELECT 1/0; ROLLBACK TO s; INSERT INTO t VALUES (3, 'three'); COMMIT;\n\
         SELECT count(*) FROM t;\n\
         DECLARE nothing CURSOR FOR SELECT 1;\n",
    );
    has(&seen, &["1\tone", "2\ttwo", "22012", "\n3\n"]);
    world.verified();
}

#[test]
fn a_refusal_in_a_transaction_leaves_no_half() {
    let world = World::start(LEAST);
    let insert =
        "INSERT INTO customers (id, name, email, ssn, region) VALUES (99, 'x', 'x', 'x', 'EU')";
    let seen = world.script(&format!(
        "BEGIN;\n{insert};\nSELECT * FROM salaries;\nSELECT id FROM customers;\nCOMMIT;\nSELECT 42;\n"
    ));
    has(
        &seen,
        &["42501", "refused: `SELECT` on `orders.public.salaries`", "25P02", "ROLLBACK", "42"],
    );
    let count = world.server.sql("SELECT count(*) FROM customers WHERE id = 99").unwrap();
    assert_eq!(count.trim(), "0");
    let seen = world.script(&format!(
        "BEGIN;\nSAVEPOINT s;\nSELECT * FROM salaries;\nROLLBACK TO s;\n{insert};\nCOMMIT;\n"
    ));
    has(&seen, &["42501", "COMMIT"]);
    let count = world.server.sql("SELECT count(*) FROM customers WHERE id = 99").unwrap();
    assert_eq!(count.trim(), "1");
    assert!(!world.server.log().contains("salaries"));
    world.verified();
}

#[test]
fn a_refusal_in_a_pipeline_leaves_no_half() {
    let world = World::start(LEAST);
    let python = r#"
import psycopg
c = psycopg.connect("", autocommit=True)
def run(*statements):
    try:
        with c.pipeline():
            for s in statements:
                c.execute(s)
        print("ok")
    except psycopg.Error as e:
        print("error", e.sqlstate)
    print("after", c.execute("SELECT count(*) FROM customers WHERE id > 90").fetchone(), c.info.transaction_status.name)
insert = "INSERT INTO customers (id, name, email, ssn, region) VALUES (%d, 'x', '%d', 'x', 'EU')"
run(insert % (91, 91), "SELECT * FROM salaries", insert % (92, 92))
run("SELECT 1/0", "SELECT * FROM salaries")
run("SELECT * FROM salaries")
run(insert % (93, 93), "SELECT count(*) FROM customers")
"#;
    let done = world.gateway.dial(&world.token()).python(python).unwrap();
    let out = format!("{}{}", done.out(), done.err());
    has(
        &out,
        &[
            "error 42501\nafter (0,) IDLE\nerror 22012\nafter (0,) IDLE\nerror 42501\nafter (0,) IDLE\nok\nafter (1,) IDLE",
        ],
    );
    assert!(!world.server.log().contains("salaries"));
    world.verified();
}

#[test]
fn evasions_do_not_reach_the_server() {
    let world = World::start(LEAST);
    for sql in [
        "WITH x AS (DELETE FROM payments RETURNING *) SELECT * FROM x",
        "EXPLAIN ANALYZE DELETE FROM payments",
        "SELECT * INTO stolen FROM customers",
        "COPY (SELECT * FROM salaries) TO STDOUT",
        "COPY customers TO PROGRAM 'cat'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT query_to_xml('select * from salaries', true, true, '')",
        "SET standard_conforming_strings = off",
        "SET client_encoding = 'SJIS'",
        "SELECT set_config('standard_conforming_strings', 'off', false)",
        "SET ROLE postgres",
        "DO $$ BEGIN PERFORM 1; END $$",
        "PREPARE p AS SELECT * FROM salaries",
        "EXECUTE nothing",
        "SELECT U&\"\\0061mount\" FROM salaries",
        "SELECT 1; SELECT * FROM salaries",
        "LOCK TABLE customers",
        "TABLE salaries",
        "SELECT * FROM customers FOR UPDATE OF nothing; DROP TABLE customers",
    ] {
        let seen = world.script(&format!("{sql};\n"));
        assert!(seen.contains("refused: "), "{sql}\n{seen}");
    }
    let log = world.server.log();
    for word in ["salaries", "pg_read_file", "PROGRAM", "SJIS", "DELETE FROM payments"] {
        assert!(!log.contains(word), "`{word}` reached the server");
    }
    world.verified();
}

#[test]
fn what_is_allowed_alone_is_allowed_together() {
    let world = World::start(LEAST);
    for sql in [
        "BEGIN\\; SELECT 1\\; SAVEPOINT a\\; SELECT 2\\; ROLLBACK TO a\\; RELEASE a\\; COMMIT",
        "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE\\; SELECT now()\\; COMMIT",
        "BEGIN\\; SET LOCAL statement_timeout = '5s'\\; SELECT id FROM customers\\; COMMIT",
        "PREPARE p AS SELECT 1\\; EXECUTE p\\; DEALLOCATE p",
        "BEGIN\\; DECLARE c CURSOR FOR SELECT 1\\; FETCH 1 FROM c\\; CLOSE c\\; COMMIT",
        "SHOW server_version\\; SELECT version(), current_schema()\\; DISCARD PLANS",
    ] {
        let seen = world.script(&format!("{sql};\n"));
        assert!(!seen.contains("ERROR"), "{sql}\n{seen}");
    }
    // What is not says which permit is missing.
    for (sql, lacks) in [
        ("SELECT id FROM customers FOR UPDATE", "postgres:lock"),
        ("BEGIN\\; LISTEN x\\; COMMIT", "postgres:listen"),
        ("SELECT nextval('orders_id_seq')", "postgres:call"),
    ] {
        let seen = world.script(&format!("{sql};\n"));
        has(&seen, &["42501", &format!("(no policy permits `{lacks}` there)")]);
    }
    world.verified();
}

#[test]
fn a_hold_times_out_is_rejected_and_is_withdrawn() {
    let world = World::start(LEAST);
    let delete = "DELETE FROM customers WHERE id = 7;\n";
    has(&world.script(delete), &["waiting for approval", "57014"]);
    // From here on somebody answers, who needs more than a moment for it.
    let patient = LEAST.replace("@expires(\"2s\")", "@expires(\"2m\")");
    assert_ne!(patient, LEAST);
    world.gateway.write_policy("orders.cedar", &patient).unwrap();
    world.gateway.reload().unwrap();
    world.gateway.proc().wait_line("reloaded: bundle", Duration::from_secs(20)).unwrap();
    let psql = |sql: &str| {
        let dial = world.gateway.dial(&world.token());
        let mut psql = dial.command(&program("psql").unwrap());
        psql.args(["-X", "-c", sql]);
        Proc::spawn("psql", psql).unwrap()
    };
    let waiting = psql(delete);
    let notice = waiting.wait_line("waiting for approval", Duration::from_secs(10)).unwrap();
    let id = notice.split("approval ").nth(1).unwrap().split(' ').next().unwrap().to_string();
    let rejected = world.gateway.cli(&["approvals", "reject", &id, "--reason", "no"]).unwrap();
    assert_eq!(rejected.code(), 0, "{}", rejected.err());
    assert!(!waiting.wait(Duration::from_secs(10)).unwrap().success());
    has(&waiting.log(), &["an approver rejected"]);
    let listed = world.gateway.cli(&["sessions", "ls", "--json"]).unwrap().success().unwrap();
    has(&listed, &["\"held\":1"]);
    // Answered once, an id is spent.
    assert_ne!(world.gateway.cli(&["approvals", "approve", &id]).unwrap().code(), 0);
    let update = psql("DELETE FROM customers WHERE id = 12345;");
    let notice = update.wait_line("waiting for approval", Duration::from_secs(10)).unwrap();
    let id = notice.split("approval ").nth(1).unwrap().split(' ').next().unwrap().to_string();
    assert_eq!(world.gateway.cli(&["approvals", "approve", &id]).unwrap().code(), 0);
    assert!(update.wait(Duration::from_secs(10)).unwrap().success(), "{}", update.log());
    let listed = world.gateway.cli(&["sessions", "ls", "--json"]).unwrap().success().unwrap();
    let sessions: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&sessions[0]["held"], &sessions[0]["commands"]), (&1.into(), &1.into()));
    let shown = world.gateway.cli(&["sessions", "show", sessions[0]["session"].as_str().unwrap()]);
    has(&shown.unwrap().out(), &["held as ", "approved by local:", "DELETE FROM customers"]);
    let gone = psql(delete);
    gone.wait_line("waiting for approval", Duration::from_secs(10)).unwrap();
    gone.kill().unwrap();
    let count = world.server.sql("SELECT count(*) FROM customers WHERE id = 7").unwrap();
    assert_eq!(count.trim(), "1");
    world.verified();
}

#[test]
fn drivers_work_unchanged() {
    let world = World::start(EVERYTHING);
    let dial = world.gateway.dial(&world.token());
    let python = r#"
import os, psycopg
c = psycopg.connect("", autocommit=False)
with c.cursor(binary=True) as cur:
    cur.execute("SELECT id, name FROM customers WHERE id = %s", (7,))
    print(cur.fetchone())
with c.pipeline():
    cur = c.cursor()
    cur.execute("CREATE TABLE p (a int)")
    for i in range(50):
        c.execute("INSERT INTO p VALUES (%s)", (i,), prepare=True)
print(c.execute("SELECT count(*), sum(a) FROM p").fetchone())
with c.cursor() as cur:
    with cur.copy("COPY p FROM STDIN") as copy:
        for i in range(1000):
            copy.write_row((i,))
print(c.execute("SELECT count(*) FROM p").fetchone())
with c.cursor(name="server_side") as cur:
    cur.execute("SELECT a FROM p ORDER BY a")
    print(len(cur.fetchmany(10)))
c.commit()
d = psycopg.connect("sslnegotiation=direct min_protocol_version=3.2 max_protocol_version=3.2")
print("direct", d.execute("SELECT count(*) FROM customers").fetchone())
try:
    c.execute("SELECT 1/0")
except psycopg.errors.DivisionByZero as e:
    print("error", e.sqlstate)
"#;
    let done = dial.python(python).unwrap();
    has(
        &format!("{}{}", done.out(), done.err()),
        &["(7, 'Ada')", "(50, 1225)", "(1050,)", "10", "direct (4,)", "error 22012"],
    );
    world.verified();
}

#[test]
fn node_works_unchanged() {
    let world = World::start(EVERYTHING);
    let script = r#"
const { Client } = require("pg");
(async () => {
  const ssl = { ca: require("fs").readFileSync(process.env.PGSSLROOTCERT, "utf8") };
  const c = new Client({ ssl });
  await c.connect();
  const q = { name: "q", text: "SELECT name FROM customers WHERE id = $1", values: [9] };
  console.log((await c.query(q)).rows[0].name, (await c.query(q)).rows.length);
  try { await c.query("SELECT nothing FROM customers"); } catch (e) { console.log(e.code); }
  await c.end();
})().catch((e) => { console.error(e); process.exit(1); });
"#;
    let done = world.gateway.dial(&world.token()).node(script).unwrap();
    has(&format!("{}{}", done.out(), done.err()), &["Grace 1", "42"]);
    world.verified();
}

#[test]
fn a_killed_gateway_loses_nothing_that_was_released() {
    let mut world = World::start(EVERYTHING);
    has(&world.script("SELECT 'before the end' || ' of power';\n"), &["before the end of power"]);
    world.gateway.kill().unwrap();
    world.gateway.restart().unwrap();
    let listed = world.gateway.cli(&["sessions", "ls", "--json"]).unwrap().success().unwrap();
    let sessions: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let id = sessions[0]["session"].as_str().unwrap();
    let replayed = world.gateway.cli(&["sessions", "replay", id]).unwrap().success().unwrap();
    has(&replayed, &["before the end of power"]);
    has(&world.script("SELECT 7 * 6;\n"), &["42"]);
    world.verified();
}

#[test]
fn policies_reload_and_a_bad_one_is_not_taken() {
    let world = World::start(LEAST);
    has(&world.script("SELECT count(*) FROM orders;\n"), &["42501"]);
    world.gateway.write_policy("orders.cedar", "permit (").unwrap();
    world.gateway.reload().unwrap();
    world.gateway.proc().wait_line("reload refused", Duration::from_secs(10)).unwrap();
    has(&world.script("SELECT count(*) FROM customers;\n"), &["4"]);
    world.gateway.write_policy("orders.cedar", EVERYTHING).unwrap();
    world.gateway.reload().unwrap();
    world.gateway.proc().wait_line("reloaded: bundle", Duration::from_secs(10)).unwrap();
    has(&world.script("SELECT count(*) FROM orders;\n"), &["5"]);
    world.verified();
}

#[test]
fn large_results_stream_and_cancel_stops_a_statement() {
    let world = World::start(EVERYTHING);
    let pid = world.gateway.proc().pid();
    let peak = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    world.script("SELECT 1;\n");
    let before = peak();
    let dial = world.gateway.dial(&world.token());
    let mut psql = dial.command(&program("psql").unwrap());
    psql.args(["-X", "-A", "-t", "-c"]);
    psql.arg("\\copy (SELECT repeat('x', 1000) FROM generate_series(1, 200000)) TO '/dev/null'");
    let done = capture(psql, None, Duration::from_secs(120)).unwrap();
    has(&format!("{}{}", done.out(), done.err()), &["COPY 200000"]);
    let grown = peak().saturating_sub(before);
    assert!(grown < 96 * 1024, "200 MB through a gateway that grew by {grown} KiB");
    let mut psql = dial.command(&program("psql").unwrap());
    psql.args(["-X", "-c", "SELECT pg_sleep(60)"]);
    let running = Proc::spawn("psql", psql).unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while !world.server.log().contains("pg_sleep(60)") {
        assert!(std::time::Instant::now() < until, "the statement never ran");
        std::thread::yield_now();
    }
    running.signal(bulla_e2e::proc::Signal::Interrupt).unwrap();
    assert!(!running.wait(Duration::from_secs(10)).unwrap().success());
    has(&running.log(), &["canceling statement due to user request"]);
    world.verified();
}
