//! What PostgreSQL itself decides: names, logins, replication, large values, what a session made.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use bulla_e2e::ca::{Authority, Wish};
use bulla_e2e::client::program;
use bulla_e2e::expect::has;
use bulla_e2e::gateway::{Gateway, ResourceSpec, Spec, TrustDomainSpec, cli_in};
use bulla_e2e::issuer::Issuer;
use bulla_e2e::place::TempDir;
use bulla_e2e::postgres::{Flavor, Options, Postgres};
use bulla_e2e::proc::{Captured, Proc, Signal, capture};

const EVERYTHING: &str = r#"
@id("everything")
permit (principal, action, resource in Bulla::Resource::"orders");
"#;

/// Everything that is known for sure, and nothing that is in doubt.
const KNOWN: &str = r#"
@id("known")
permit (principal, action, resource in Bulla::Resource::"orders");
@id("doubt")
forbid (principal, action == Bulla::Action::"postgres:unknown", resource);
@id("salaries")
forbid (principal, action, resource == Bulla::Table::"orders.public.salaries");
@id("evil")
forbid (principal, action, resource == Bulla::Table::"orders.evil.orders");
@id("front")
forbid (principal, action == Bulla::Action::"postgres:select",
        resource == Bulla::Table::"orders.front.orders");
"#;

struct World {
    server: Postgres,
    issuer: Issuer,
    gateway: Gateway,
}

impl World {
    fn start(policy: &str) -> Self {
        Self::with(policy, &Options::default(), &[])
    }

    /// `first` runs as superuser before the gateway sees the server.
    fn with(policy: &str, options: &Options, first: &[&str]) -> Self {
        let authority = Authority::new("postgres").unwrap();
        let server = Postgres::with(&authority, options).unwrap();
        first.iter().for_each(|sql| drop(server.sql(sql).unwrap()));
        let issuer = Issuer::start().unwrap();
        let spec = Spec::new(&server, &issuer).policy("orders.cedar", policy);
        let gateway = Gateway::start(&authority, spec).unwrap();
        Self { server, issuer, gateway }
    }

    fn token(&self) -> String {
        self.issuer.mint().unwrap().subject("billing/api").token().unwrap()
    }

    fn script(&self, sql: &str) -> String {
        let dial = self.gateway.dial(&self.token());
        let mut psql = dial.command(&program("psql").unwrap());
        psql.args(["-X", "-A", "-t", "-v", "VERBOSITY=verbose"]);
        both(&capture(psql, Some(sql.as_bytes().to_vec()), Duration::from_secs(60)).unwrap())
    }

    fn python(&self, script: &str) -> String {
        both(&self.gateway.dial(&self.token()).python(script).unwrap())
    }

    /// What the record shows of the latest session.
    fn shown(&self) -> String {
        let listed = self.gateway.cli(&["sessions", "ls", "--json"]).unwrap().success().unwrap();
        let sessions: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let id = sessions[0]["session"].as_str().unwrap();
        self.gateway.cli(&["sessions", "show", id]).unwrap().success().unwrap()
    }

    fn verified(&self) {
        assert!(self.gateway.terminate().unwrap().success(), "{}", self.gateway.log());
        let args = ["log", "verify", "data/archive", "--key", "data/log.vkey"];
        let done = cli_in(self.gateway.dir().path(), &args).unwrap();
        assert_eq!(done.code(), 0, "{}{}", done.out(), done.err());
    }
}

fn both(done: &Captured) -> String {
    format!("{}{}", done.out(), done.err())
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

// ---- names ----

/// `$user` in the search path is the role in effect, not the login.
#[test]
fn names_follow_the_role_in_effect() {
    let world = World::with(
        KNOWN,
        &Options::default(),
        &[
            "CREATE SCHEMA shop AUTHORIZATION shop",
            "CREATE TABLE shop.customers AS SELECT 'of the schema'::text AS ssn",
            "ALTER TABLE shop.customers OWNER TO shop",
            "ALTER ROLE bulla_scram SET role = shop",
        ],
    );
    let only = r#"
@id("session")
permit (principal, action in [Bulla::Action::"postgres:session"], resource in Bulla::Resource::"orders");
@id("nothing")
permit (principal, action == Bulla::Action::"postgres:select",
        resource == Bulla::Resource::"orders");
@id("customers")
permit (principal, action == Bulla::Action::"postgres:select",
        resource == Bulla::Table::"orders.public.customers");
"#;
    has(&world.script("SELECT ssn FROM customers;\n"), &["of the schema"]);
    has(&world.script("SELECT count(ssn) FROM public.customers;\n"), &["4"]);
    world.gateway.write_policy("orders.cedar", only).unwrap();
    world.gateway.reload().unwrap();
    world.gateway.proc().wait_line("reloaded: bundle", Duration::from_secs(10)).unwrap();
    has(
        &world.script("SELECT ssn FROM customers;\n"),
        &["refused: `SELECT` on `orders.shop.customers`"],
    );
    has(&world.script("SELECT count(ssn) FROM public.customers;\n"), &["4"]);
    // DISCARD ALL goes back to the login's own role, and `$user` with it.
    has(&world.script("DISCARD ALL;\nSELECT count(ssn) FROM customers;\n"), &["4"]);
    world.verified();
}

/// A login trigger moves the path before the first statement is read.
#[test]
fn a_path_that_the_target_changed_at_login_is_noticed() {
    let trigger = "CREATE FUNCTION public.moves() RETURNS event_trigger LANGUAGE plpgsql AS \
                   $$ BEGIN PERFORM set_config('search_path', 'evil, public', false); END $$";
    let world = World::with(
        KNOWN,
        &Options::flavor(Flavor::Eighteen),
        &[
            "CREATE SCHEMA evil AUTHORIZATION shop",
            "CREATE TABLE evil.orders AS SELECT id, ssn FROM public.customers",
            "ALTER TABLE evil.orders OWNER TO shop",
            trigger,
            "CREATE EVENT TRIGGER moves ON login EXECUTE FUNCTION public.moves()",
            "ALTER EVENT TRIGGER moves ENABLE ALWAYS",
        ],
    );
    let seen = world.script("SELECT ssn FROM orders;\n");
    has(&seen, &["refused: `SELECT` on `orders.evil.orders`"]);
    // RESET goes back to what the login asked for.
    has(&world.script("RESET search_path;\nSELECT count(item) FROM orders;\n"), &["5"]);
    world.verified();
}

#[test]
fn defaults_that_change_how_text_is_read_are_not_used() {
    let world = World::start(EVERYTHING);
    for (set, reset) in [
        (
            "ALTER ROLE bulla_scram SET standard_conforming_strings = off",
            "ALTER ROLE bulla_scram RESET standard_conforming_strings",
        ),
        (
            "ALTER DATABASE orders SET client_encoding = 'SJIS'",
            "ALTER DATABASE orders RESET client_encoding",
        ),
        (
            "ALTER ROLE ALL SET standard_conforming_strings = off",
            "ALTER ROLE ALL RESET standard_conforming_strings",
        ),
        (
            "ALTER ROLE bulla_scram IN DATABASE orders SET client_encoding = 'LATIN1'",
            "ALTER ROLE bulla_scram IN DATABASE orders RESET client_encoding",
        ),
    ] {
        has(&world.script("SELECT 'in';\n"), &["in"]);
        world.server.sql(set).unwrap();
        has(&world.script("SELECT 'in';\n"), &["could not reach `orders`"]);
        world.server.sql(reset).unwrap();
    }
    has(&world.gateway.log(), &["the default `standard_conforming_strings` = `off`"]);
    world.verified();
}

/// Whatever the snapshot of the catalogue holds, a change of it changes the fingerprint.
#[test]
fn a_fingerprint_changes_with_what_it_stands_for() {
    let authority = Authority::new("fingerprint").unwrap();
    let server = Postgres::start(&authority).unwrap();
    let dial = server.dial("bulla_scram", "scram secret");
    let look = || dial.psql_rows(bulla_sql::catalog::FINGERPRINT).unwrap();
    let admin = server.admin("orders");
    let mut last = look();
    assert_eq!(look(), last, "nothing changed");
    for change in [
        "CREATE SCHEMA other",
        "GRANT USAGE ON SCHEMA other TO bulla_scram",
        "REVOKE USAGE ON SCHEMA other FROM bulla_scram",
        "CREATE ROLE users NOLOGIN; GRANT USAGE ON SCHEMA other TO users",
        "GRANT users TO bulla_scram",
        "ALTER ROLE bulla_scram NOINHERIT",
        "ALTER ROLE bulla_scram INHERIT",
        "ALTER ROLE bulla_scram SUPERUSER",
        "ALTER ROLE bulla_scram NOSUPERUSER",
        "ALTER ROLE bulla_scram SET role = shop",
        "ALTER ROLE shop RENAME TO shopkeeper",
        "ALTER ROLE shopkeeper RENAME TO shop",
        "ALTER ROLE bulla_scram RESET role",
        "CREATE TABLE t (a int)",
        "ALTER TABLE t ADD COLUMN b int",
        "ALTER TABLE t RENAME COLUMN b TO c",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY p ON t USING (true)",
        "CREATE OR REPLACE VIEW contacts AS SELECT name, email AS reachable_at, name AS reference \
         FROM customers",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER FUNCTION f() VOLATILE",
        "CREATE DOMAIN d AS int",
        "ALTER DOMAIN d ADD CHECK (value > 0)",
        "CREATE CAST (d AS text) WITH INOUT",
        "CREATE EXTENSION pgcrypto",
        "ALTER EXTENSION pgcrypto ADD FUNCTION f()",
    ] {
        // `CREATE CAST` on a domain warns and makes nothing that counts.
        let done = admin.psql(&[change]).unwrap();
        assert_eq!(done.code(), 0, "{change}: {}", done.err());
        let now = look();
        if !change.starts_with("GRANT USAGE ON SCHEMA other TO users") {
            assert_ne!(now, last, "{change}");
        }
        last = now;
    }
}

/// Migrations and ORMs work under policies that permit nothing in doubt.
#[test]
fn what_a_transaction_makes_is_known_within_it() {
    let world = World::start(KNOWN);
    let out = world.python(
        r#"
import psycopg
def run(c):
    e = c.execute
    e("CREATE TABLE users (id serial PRIMARY KEY, name text)")
    e("INSERT INTO users (name) VALUES (%s)", ("Ada",))
    e("ALTER TABLE users ADD COLUMN team text")
    e("UPDATE users SET team = 'x' WHERE name = 'Ada'")
    e("CREATE INDEX users_team ON users (team)")
    e("CREATE VIEW team_x AS SELECT name FROM users WHERE team = 'x'")
    e("SAVEPOINT s")
    e("ALTER TABLE users RENAME TO people")
    e("INSERT INTO people (name, team) VALUES ('Grace', 'x')")
    e("ROLLBACK TO s")
    e("CREATE SCHEMA crm")
    e("CREATE TABLE crm.notes (id int, of int REFERENCES users (id))")
    e("INSERT INTO crm.notes SELECT 1, id FROM users")
    e("CREATE TEMP TABLE mine AS SELECT name FROM users")
    e("INSERT INTO mine VALUES ('y')")
    e("DO $$ BEGIN PERFORM 1; END $$")
    e("INSERT INTO users (name) VALUES ('after')")
    return e("SELECT count(*) FROM team_x"), e("SELECT count(*) FROM mine"), e("SELECT count(*) FROM crm.notes")
with psycopg.connect("") as c:
    print("made", [x.fetchone()[0] for x in run(c)])
    c.rollback()
    try:
        c.execute("SELECT * FROM users")
    except psycopg.Error as e:
        print("gone", e.sqlstate)
    c.rollback()
    with c.pipeline():
        print("piped", [x.fetchone()[0] for x in run(c)])
    c.commit()
    print("kept", c.execute("SELECT count(*) FROM users").fetchone()[0])
    c.execute("DROP VIEW team_x")
    c.execute("DROP TABLE crm.notes, users")
    c.execute("CREATE VIEW users AS SELECT 1 AS id")
    print("other", c.execute("SELECT count(*) FROM users").fetchone()[0])
    try:
        c.execute("ALTER TABLE salaries RENAME TO harmless")
    except psycopg.Error as e:
        print("renamed", e.sqlstate)
"#,
    );
    has(
        &out,
        &["made [1, 2, 1]", "gone 42501", "piped [1, 2, 1]", "kept 2", "other 1", "renamed 42501"],
    );
    let orm = world.python(
        r#"
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
class Base(DeclarativeBase): pass
class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    books: Mapped[list["Book"]] = relationship(back_populates="author")
class Book(Base):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("author.id"))
    author: Mapped[Author] = relationship(back_populates="books")
engine = sa.create_engine("postgresql+psycopg://")
with engine.begin() as connection:
    Base.metadata.create_all(connection)
    with Session(connection) as session:
        session.add(Author(name="Ada", books=[Book(title="Notes"), Book(title="More")]))
        session.flush()
        print("within", session.scalar(sa.select(sa.func.count()).select_from(Book)))
with engine.connect() as connection:
    print("after", connection.scalar(sa.text("SELECT count(*) FROM book JOIN author ON author.id = author_id")))
"#,
    );
    has(&orm, &["within 2", "after 2"]);
    // A function that nobody read puts a table in front of another.
    world.server.sql("CREATE SCHEMA front AUTHORIZATION shop").unwrap();
    let makes = "CREATE FUNCTION public.makes() RETURNS void LANGUAGE plpgsql AS \
                 $$ BEGIN CREATE TABLE front.orders AS SELECT ssn FROM public.customers; END $$";
    world.server.sql(makes).unwrap();
    let seen = world.script(
        "SET search_path = front, public;\nBEGIN;\nSELECT public.makes();\n\
         SELECT ssn FROM orders;\nROLLBACK;\n",
    );
    has(&seen, &["refused: `SELECT` on `orders.front.orders`"]);
    world.verified();
}

#[test]
fn outcomes_say_what_stayed() {
    let world = World::start(EVERYTHING);
    let insert = "INSERT INTO salaries VALUES (%d, 'x', 1)";
    let out = world.python(&format!(
        r#"
import psycopg
c = psycopg.connect("", autocommit=True)
try:
    with c.pipeline():
        c.execute("{insert}" % 91)
        c.execute("SELECT 1/0")
except psycopg.Error as e:
    print("error", e.sqlstate)
with c.pipeline():
    c.execute("{insert}" % 92)
    c.execute("{insert}" % 93)
"#
    ));
    has(&out, &["error 22012"]);
    let shown = world.shown();
    has(&shown, &["rolled_back", "error:22012"]);
    assert_eq!(shown.matches("rolled_back").count(), 1, "{shown}");
    assert_eq!(
        world.server.sql("SELECT count(*) FROM salaries WHERE id > 90").unwrap().trim(),
        "2"
    );
    let dial = world.gateway.dial(&world.token());
    let mut psql = dial.command(&program("psql").unwrap());
    psql.args(["-X", "-c", "SELECT pg_sleep(60)"]);
    let running = Proc::spawn("psql", psql).unwrap();
    until("it runs", || world.server.log().contains("pg_sleep(60)"));
    let listed = world.gateway.cli(&["sessions", "ls", "--json"]).unwrap().success().unwrap();
    let sessions: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let id = sessions[0]["session"].as_str().unwrap();
    world.gateway.cli(&["sessions", "kill", id]).unwrap().success().unwrap();
    assert!(!running.wait(Duration::from_secs(10)).unwrap().success());
    has(&running.log(), &["the session was ended"]);
    let active = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' \
                  AND state = 'active' AND pid <> pg_backend_pid()";
    until("the target stopped", || world.server.sql(active).unwrap().trim() == "0");
    has(&world.shown(), &["cut:ended"]);
    world.verified();
}

// ---- holds ----

fn held_policy() -> String {
    let held = r#"@id("held") @hold("dba") @expires("30s")
permit (principal, action == Bulla::Action::"postgres:delete",
        resource == Bulla::Table::"orders.public.customers");
"#;
    let session = r#"
@id("session")
permit (principal, action in [Bulla::Action::"postgres:session", Bulla::Action::"postgres:select"],
        resource in Bulla::Resource::"orders");
@id("delete")
permit (principal, action == Bulla::Action::"postgres:delete",
        resource == Bulla::Resource::"orders");
"#;
    format!("{session}{held}")
}

/// The id of the ask that the gateway's log or a client's notice names.
fn ask_of(line: &str) -> String {
    line.split("approval ").nth(1).unwrap().split(' ').next().unwrap().to_string()
}

#[test]
fn an_approval_is_asked_for_once_and_for_what_was_read() {
    let world = World::start(&held_policy());
    let script = r#"
import psycopg, sys
c = psycopg.connect("", autocommit=True)
c.add_notice_handler(lambda n: print(n.message_primary, flush=True))
try:
    cur = c.execute("DELETE FROM customers WHERE id = %s", (12345,), prepare=True)
    print("deleted", cur.rowcount)
except psycopg.Error as e:
    print("error", e.sqlstate, e.diag.message_primary)
"#;
    let start = || {
        let dial = world.gateway.dial(&world.token());
        let mut python = dial.command(&xtask::places::python());
        python.args(["-I", "-c", script]);
        Proc::spawn("python", python).unwrap()
    };
    let waiting = start();
    let notice = waiting.wait_line("waiting for approval", Duration::from_secs(20)).unwrap();
    let approve = |id: &str| world.gateway.cli(&["approvals", "approve", id]).unwrap();
    let done = approve(&ask_of(&notice));
    assert_eq!(done.code(), 0, "{}", both(&done));
    assert!(waiting.wait(Duration::from_secs(20)).unwrap().success(), "{}", waiting.log());
    has(&waiting.log(), &["deleted 0"]);
    assert_eq!(world.shown().matches("held as ").count(), 1, "{}", world.shown());

    // While it waits the table becomes a view of another one.
    let waiting = start();
    let notice = waiting.wait_line("waiting for approval", Duration::from_secs(20)).unwrap();
    world.server.sql("ALTER TABLE customers RENAME TO kept").unwrap();
    world.server.sql("CREATE VIEW customers AS SELECT * FROM salaries").unwrap();
    let done = approve(&ask_of(&notice));
    assert_eq!(done.code(), 0, "{}", both(&done));
    waiting.wait(Duration::from_secs(20)).unwrap();
    has(&waiting.log(), &["error 42501", "changed while it waited"]);
    assert!(!world.server.log().contains("execute <unnamed>: DELETE"), "{}", world.server.log());
    world.verified();
}

// ---- logins ----

#[test]
fn every_kind_of_login_on_every_version() {
    let authority = Authority::new("logins").unwrap();
    let issuer = Issuer::start().unwrap();
    let client = authority.issue(&Wish::client("bulla_cert")).unwrap();
    let dir = TempDir::new("leaf").unwrap();
    let (cert, key) = client.write(&dir, "client").unwrap();
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    let identity = (read(&cert), read(&key));
    for flavor in [Flavor::System, Flavor::Eighteen] {
        let server = Postgres::with(&authority, &Options::flavor(flavor)).unwrap();
        let odd = "pa\u{fb01}\u{a0}\u{2168}";
        server.sql(&format!("CREATE ROLE odd LOGIN PASSWORD '{odd}' IN ROLE shop")).unwrap();
        if server.version() >= 16 {
            let many = "SET scram_iterations = 300000; \
                        CREATE ROLE many LOGIN PASSWORD 'many' IN ROLE shop";
            server.sql(many).unwrap();
        } else {
            server.sql("CREATE ROLE many LOGIN PASSWORD 'many' IN ROLE shop").unwrap();
        }
        let resource = |name: &str, user: &str, password: &str, tls: &str| {
            let mut resource = ResourceSpec::new(name, &server, user, password);
            resource.tls = tls.to_owned();
            resource
        };
        let mut spec = Spec::new(&server, &issuer);
        spec.resources = vec![
            resource("plus", "bulla_scram", "scram secret", "verify-full"),
            resource("scram", "bulla_scram", "scram secret", "off"),
            resource("md5", "bulla_md5", "md5 secret", "verify-full"),
            resource("plain", "bulla_plain", "plain secret", "verify-full"),
            ResourceSpec {
                password: None,
                identity: Some(identity.clone()),
                ..resource("cert", "bulla_cert", "", "verify-full")
            },
            ResourceSpec { password: None, ..resource("trust", "bulla_trust", "", "verify-full") },
            resource("odd", "odd", odd, "verify-full"),
            resource("many", "many", "many", "verify-full"),
            resource("wrong", "bulla_scram", "wrong", "verify-full"),
            resource("clear", "bulla_plain", "plain secret", "off"),
        ];
        let all = "@id(\"all\")\npermit (principal, action, resource);\n";
        let spec = spec.policy("all.cedar", all);
        let gateway = Gateway::start(&authority, spec).unwrap();
        let token = issuer.mint().unwrap().subject("billing/api").token().unwrap();
        for (name, user) in [
            ("plus", "bulla_scram"),
            ("scram", "bulla_scram"),
            ("md5", "bulla_md5"),
            ("plain", "bulla_plain"),
            ("cert", "bulla_cert"),
            ("trust", "bulla_trust"),
            ("odd", "odd"),
            ("many", "many"),
        ] {
            let dial = gateway.dial_resource(name, &token);
            let rows = dial.psql_rows("SELECT current_user, count(*) FROM customers");
            assert_eq!(rows.unwrap(), format!("{user}|4"), "{name} on {}", server.version());
        }
        for name in ["wrong", "clear"] {
            let done = gateway.dial_resource(name, &token).psql(&["SELECT 1"]).unwrap();
            has(&both(&done), &["could not reach"]);
        }
        // All at once: one derives the key, and nobody waits for another target's.
        let dials: Vec<_> = (0..12)
            .map(|_| {
                let mut psql =
                    gateway.dial_resource("many", &token).command(&program("psql").unwrap());
                psql.args(["-X", "-A", "-t", "-c", "SELECT 42"]);
                Proc::spawn("psql", psql).unwrap()
            })
            .collect();
        for psql in dials {
            assert!(psql.wait(Duration::from_secs(30)).unwrap().success(), "{}", psql.log());
        }
        let log = gateway.log();
        has(&log, &["28P01", "asks for the password in the clear, without TLS"]);
        for secret in ["scram secret", "plain secret", "md5 secret", odd] {
            assert!(!log.contains(secret), "a secret is in the log");
        }
        assert!(gateway.terminate().unwrap().success());
    }
}

/// A caller proves itself by a certificate with a SPIFFE id, and by nothing else.
#[test]
fn a_certificate_is_an_identity() {
    let authority = Authority::new("mesh").unwrap();
    let server = Postgres::start(&authority).unwrap();
    let issuer = Issuer::start().unwrap();
    let mesh = Authority::new("example.com").unwrap();
    let mut spec = Spec::new(&server, &issuer);
    spec.trust_domains = vec![TrustDomainSpec {
        alias: "mesh".to_owned(),
        trust_domain: "example.com".to_owned(),
        bundle: mesh.pem(),
    }];
    let spec = spec.policy("orders.cedar", EVERYTHING);
    let gateway = Gateway::start(&authority, spec).unwrap();
    let dir = TempDir::new("svid").unwrap();
    let id = "spiffe://example.com/billing/api";
    let leaf = |authority: &Authority, wish: &Wish, name: &str| {
        authority.issue(wish).unwrap().write(&dir, name).unwrap()
    };
    let ask = |(cert, key): &(std::path::PathBuf, std::path::PathBuf)| {
        let mut dial = gateway.dial("").identity(cert, key);
        dial.password = None;
        both(&dial.psql(&["SELECT 'as ' || count(*) FROM customers"]).unwrap())
    };
    has(&ask(&leaf(&mesh, &Wish::spiffe(id).unwrap(), "good")), &["as 4"]);
    let listed = gateway.cli(&["sessions", "ls", "--json"]).unwrap().success().unwrap();
    has(&listed, &["billing/api"]);
    for (authority, wish, name) in [
        (&authority, Wish::spiffe(id).unwrap(), "foreign"),
        (&mesh, Wish::spiffe(id).unwrap().expired(), "expired"),
        (&mesh, Wish::spiffe("spiffe://other.org/billing").unwrap(), "domain"),
        (&mesh, Wish::client("billing"), "nameless"),
    ] {
        let out = ask(&leaf(authority, &wish, name));
        assert!(!out.contains("as 4") && out.contains("error"), "{name}: {out}");
    }
    assert!(gateway.terminate().unwrap().success());
}

/// A pool of node-postgres over tokens that expire: a fresh token on one connection keeps the
/// others; where none comes they end with `57P01` and the pool opens new ones.
#[test]
fn a_pool_outlives_its_tokens() {
    let world = World::start(EVERYTHING);
    let mint = |subject: &str, life: i64| {
        let mint = world.issuer.mint().unwrap().subject(subject);
        mint.expires(life).token().unwrap()
    };
    let script = r#"
const { Pool } = require("pg");
const fs = require("fs");
const ssl = { ca: fs.readFileSync(process.env.PGSSLROOTCERT, "utf8") };
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const begun = Date.now();
const pool = (first, second) => {
  const pool = new Pool({ ssl, max: 3, password: () => Date.now() - begun < 1500 ? first : second });
  pool.gone = 0;
  pool.on("error", (e) => { pool.gone += 1; console.log("ended", e.code); });
  return pool;
};
(async () => {
  const kept = pool(process.env.KEPT_FIRST, process.env.KEPT_SECOND);
  const left = pool(process.env.LEFT_FIRST, process.env.LEFT_SECOND);
  const pid = async (p) => (await p.query("SELECT pg_backend_pid() AS pid")).rows[0].pid;
  const [before, other] = [await pid(kept), await pid(left)];
  await sleep(2000);
  const one = await kept.connect();
  const two = await kept.connect();
  console.log("fresh", (await two.query("SELECT 1 AS one")).rows[0].one);
  one.release(); two.release();
  await sleep(8000 - (Date.now() - begun));
  const both = [await kept.connect(), await kept.connect()];
  const pids = [await pid(both[0]), await pid(both[1])];
  both.forEach((client) => client.release());
  console.log("kept", kept.gone, pids.includes(before));
  const after = await pid(left);
  console.log("left", left.gone, after !== other);
  await kept.end(); await left.end();
})().catch((e) => { console.error("failed", e); process.exit(1); });
"#;
    let dial = world
        .gateway
        .dial("unused")
        .env("KEPT_FIRST", &mint("billing/kept", 5))
        .env("KEPT_SECOND", &mint("billing/kept", 3000))
        .env("LEFT_FIRST", &mint("billing/left", 5))
        .env("LEFT_SECOND", &mint("billing/left", 3000));
    let out = both(&dial.node(script).unwrap());
    has(&out, &["fresh 1", "kept 0 true", "ended 57P01", "left 1 true"]);
    world.verified();
}

// ---- replication and function calls ----

const SESSION: &str = r#"
@id("session")
permit (principal, action in [Bulla::Action::"postgres:session", Bulla::Action::"postgres:read"],
        resource in Bulla::Resource::"orders");
"#;

const REPLICATES: &str = r#"
@id("replicates")
permit (principal, action == Bulla::Action::"postgres:replicate",
        resource == Bulla::Resource::"orders");
@id("path")
permit (principal, action == Bulla::Action::"postgres:call",
        resource == Bulla::Function::"orders.pg_catalog.set_config");
"#;

#[test]
fn replication_flows_where_policy_names_it() {
    let mut options = Options::default().set("wal_level", "logical").set("max_wal_senders", "6");
    options = options.set("log_replication_commands", "on");
    options.hba.push_str("host replication all 127.0.0.1/32 scram-sha-256\n");
    let first = ["ALTER ROLE bulla_scram REPLICATION"];
    let world = World::with(SESSION, &options, &first);
    let run = |name: &str, args: &[&str]| {
        let dial = world.gateway.dial(&world.token());
        let dial = dial.env("PGOPTIONS", "-c bulla.resource=orders");
        let mut command = dial.command(&program(name).unwrap());
        command.args(args);
        capture(command, None, Duration::from_secs(60)).unwrap()
    };
    let dir = TempDir::new("replica").unwrap();
    let at = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let backup = |to: &str| run("pg_basebackup", &["-D", &at(to), "-c", "fast", "--no-sync"]);
    let logical = |args: &[&str]| {
        let fixed = ["-d", "dbname=orders", "--slot", "s", "--no-loop", "-F", "0"];
        run("pg_recvlogical", &[&fixed[..], args].concat())
    };
    let policy = |text: &str| {
        world.gateway.write_policy("orders.cedar", text).unwrap();
        world.gateway.reload().unwrap();
        let asked = Duration::from_secs(10);
        world.gateway.proc().wait_line("reloaded: bundle", asked).unwrap();
    };

    let done = backup("refused");
    assert_ne!(done.code(), 0);
    has(&both(&done), &["error"]);
    assert!(!world.server.log().contains("replication command"), "{}", world.server.log());

    // Only the opening and what tells about the server.
    policy(&format!(
        "{SESSION}{}",
        REPLICATES.replacen(";", " when { context.tag != \"BASE_BACKUP\" };", 1)
    ));
    let done = backup("half");
    has(&both(&done), &["refused: `REPLICATE`"]);
    assert!(!world.server.log().contains("BASE_BACKUP"), "{}", world.server.log());

    world.gateway.write_policy("orders.cedar", &format!("{SESSION}{REPLICATES}")).unwrap();
    world.gateway.reload().unwrap();
    until("the policy is there", || backup("try").code() == 0);
    assert!(std::path::Path::new(&at("try")).join("backup_manifest").is_file());
    has(&world.server.log(), &["BASE_BACKUP"]);

    let done = logical(&["--create-slot", "-P", "test_decoding"]);
    assert_eq!(done.code(), 0, "{}", both(&done));
    world.server.sql("INSERT INTO salaries VALUES (77, 'decoded', 1)").unwrap();
    let dial = world.gateway.dial(&world.token());
    let mut command = dial.command(&program("pg_recvlogical").unwrap());
    let args = ["--slot", "s", "--no-loop", "-F", "0", "--start", "-f", "-"];
    command.args(["-d", "dbname=orders"]).args(args);
    let stream = Proc::spawn("pg_recvlogical", command).unwrap();
    stream.wait_line("'decoded'", Duration::from_secs(20)).unwrap();
    stream.signal(Signal::Interrupt).unwrap();
    assert!(stream.wait(Duration::from_secs(20)).unwrap().success(), "{}", stream.log());
    // What flowed is evidence, and plain SQL on such a connection is judged as ever.
    let listed = world.gateway.cli(&["sessions", "ls", "--json"]).unwrap().success().unwrap();
    let sessions: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let found = sessions.as_array().unwrap().iter().any(|session| {
        let id = session["session"].as_str().unwrap();
        let raw = world.gateway.cli(&["sessions", "replay", id, "--raw"]).unwrap();
        raw.out().contains("'decoded'")
    });
    assert!(found, "the stream is not in the record");
    let out = world.python(
        r#"
import psycopg
c = psycopg.connect("replication=database", autocommit=True, cursor_factory=psycopg.ClientCursor)
print("sql", c.execute("SELECT count(*) FROM customers").fetchone())
for sql in ["DELETE FROM customers", "BASE_BACKUPS"]:
    try:
        c.execute(sql)
    except psycopg.Error as e:
        print("error", e.sqlstate)
print("identified", c.execute("IDENTIFY_SYSTEM").fetchone()[3])
"#,
    );
    has(&out, &["sql (4,)", "error 42501\nerror 42601", "identified orders"]);

    std::fs::create_dir(at("wal")).unwrap();
    world.server.sql("SELECT pg_switch_wal()").unwrap();
    world.server.sql("INSERT INTO salaries VALUES (79, 'wal', 1)").unwrap();
    let end = world.server.sql("SELECT pg_current_wal_lsn()").unwrap();
    world.server.sql("INSERT INTO salaries VALUES (80, 'wal', 1)").unwrap();
    let args = ["-D", &at("wal"), "--no-loop", "--no-sync", "--endpos", end.trim()];
    let done = run("pg_receivewal", &args);
    assert_eq!(done.code(), 0, "{}", both(&done));
    assert!(std::fs::read_dir(at("wal")).unwrap().count() > 0, "no WAL came");
    world.verified();
}

/// The protocol's function call, as only a raw client can say it.
const CALLS: &str = r#"
import os, socket, ssl, struct
def connect():
    s = socket.create_connection((os.environ["PGHOST"], int(os.environ["PGPORT"])))
    s.sendall(struct.pack("!II", 8, 80877103))
    assert s.recv(1) == b"S"
    s = ssl.create_default_context(cafile=os.environ["PGSSLROOTCERT"]).wrap_socket(s, server_hostname=os.environ["PGHOST"])
    body = struct.pack("!I", 196608) + b"user\0app\0database\0orders\0\0"
    s.sendall(struct.pack("!I", len(body) + 4) + body)
    return s
def exact(s, n):
    data = b""
    while len(data) < n:
        more = s.recv(n - len(data))
        if not more: raise SystemExit("closed")
        data += more
    return data
def message(s):
    kind, length = struct.unpack("!cI", exact(s, 5))
    return kind, exact(s, length - 4)
def send(s, kind, body):
    s.sendall(kind + struct.pack("!I", len(body) + 4) + body)
def ready(s):
    got = []
    while True:
        kind, body = message(s)
        got.append((kind, body))
        if kind == b"Z": return got
s = connect()
message(s)
send(s, b"p", os.environ["PGPASSWORD"].encode() + b"\0")
ready(s)
# abs(integer), with its argument and its result in text.
send(s, b"F", struct.pack("!IHHI", 1397, 0, 1, 2) + b"-5" + struct.pack("!H", 0))
for kind, body in ready(s):
    print(kind.decode(), body)
send(s, b"Q", b"SELECT 'alive'\0")
print([body for kind, body in ready(s) if kind == b"D"])
"#;

#[test]
fn a_function_call_passes_where_policy_names_it() {
    let world = World::start(SESSION);
    has(&world.python(CALLS), &["C42501", "refused: `FUNCTION_CALL`", "alive"]);
    let call = r#"
@id("calls")
permit (principal, action in [Bulla::Action::"postgres:function_call",
        Bulla::Action::"postgres:unknown"], resource in Bulla::Resource::"orders");
"#;
    world.gateway.write_policy("orders.cedar", &format!("{SESSION}{call}")).unwrap();
    world.gateway.reload().unwrap();
    world.gateway.proc().wait_line("reloaded: bundle", Duration::from_secs(10)).unwrap();
    has(&world.python(CALLS), &["V b'\\x00\\x00\\x00\\x015'", "alive"]);
    world.verified();
}

// ---- large values ----

/// Hundreds of megabytes in one value, both ways: what the gateway holds does not grow with them.
/// `BULLA_VALUE_BYTES` says how many; a server takes a little less than 1 GiB.
#[test]
fn large_values_stream_in_bounded_memory() {
    let size = std::env::var("BULLA_VALUE_BYTES").map_or(160 << 20, |text| text.parse().unwrap());
    let size: usize = size;
    let world = World::start(EVERYTHING);
    // The server writes parameters into its log in hexadecimal, which has its own limit.
    world.server.sql("ALTER SYSTEM SET log_parameter_max_length = 0").unwrap();
    world.server.sql("SELECT pg_reload_conf()").unwrap();
    world.script("SELECT 1;\n");
    let pid = world.gateway.proc().pid();
    let peak = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let before = peak();
    for (step, expect) in [
        (
            "print(c.execute('SELECT length(%b)', (value,)).fetchone())".into(),
            format!("({size},)"),
        ),
        (
            format!(
                "print(len(c.cursor(binary=True).execute(\"SELECT repeat('abcdefgh', {})\")\
                 .fetchone()[0]))",
                size / 8
            ),
            size.to_string(),
        ),
        (
            "with c.cursor().copy('COPY big FROM STDIN (FORMAT binary)') as copy:\n    copy.set_types(['bytea'])\n    copy.write_row((value,))\nprint('copied in')".into(),
            "copied in".into(),
        ),
        (
            "n = 0\nwith c.cursor().copy('COPY big TO STDOUT (FORMAT binary)') as copy:\n    for part in copy: n += len(part)\nprint('copied', n)".into(),
            // A signature, a header, a row of one value with its length, a trailer.
            format!("copied {}", size + 27),
        ),
    ] {
        let (step, expect): (String, String) = (step, expect);
        let begun = Instant::now();
        let out = world.python(&format!(
            "import psycopg\nc = psycopg.connect('', autocommit=True)\n\
             c.execute('CREATE TABLE IF NOT EXISTS big (v bytea)')\n\
             c.execute('ALTER TABLE big ALTER v SET STORAGE external')\n\
             value = b'x' * {size}\n{step}\n"
        ));
        has(&out, &[&expect]);
        let grown = peak().saturating_sub(before) / 1024;
        println!("{expect}: {:?}, grown by {grown} MiB", begun.elapsed());
        assert!(grown <= 64, "{step}: grown by {grown} MiB");
    }
    world.verified();
}
