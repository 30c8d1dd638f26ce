//! What the gateway keeps of earlier commands is not used when it is no longer true, and what it
//! keeps of one session is not used for another.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;
use std::time::Duration;

use bulla_e2e::ca::Authority;
use bulla_e2e::gateway::{Gateway, Spec, cli_in};
use bulla_e2e::issuer::Issuer;
use bulla_e2e::place::TempDir;
use bulla_e2e::postgres::{Options, Postgres};
use bulla_e2e::proc::Proc;

const PATIENCE: Duration = Duration::from_secs(60);

/// Everything of `billing`, but two tables of nobody.
const ALL_BUT: &str = r#"
@id("billing")
permit (principal in Bulla::Group::"team:billing", action, resource in Bulla::Resource::"orders");
@id("no-salaries")
forbid (principal, action, resource == Bulla::Table::"orders.public.salaries");
@id("no-other")
forbid (principal, action, resource == Bulla::Table::"orders.other.customers");
@id("others-may-open")
permit (principal, action in [Bulla::Action::"postgres:session"], resource in Bulla::Resource::"orders");
"#;

/// Nothing but a session.
const OPEN_ONLY: &str = r#"
@id("may-open")
permit (principal, action in [Bulla::Action::"postgres:session"], resource in Bulla::Resource::"orders");
"#;

/// `ask` prints what comes of a statement; `pause` waits until the test says go.
const PRELUDE: &str = r#"
import os, time, psycopg
def pause(n):
    print("paused", n, flush=True)
    end = time.monotonic() + 60
    while not os.path.exists(os.path.join(os.environ["GO"], str(n))):
        assert time.monotonic() < end
        time.sleep(0.01)
c = psycopg.connect("", autocommit=True, prepare_threshold=0)
def ask(sql, *values):
    try:
        answer = "row " + str(c.execute(sql, values).fetchone())
    except psycopg.Error as error:
        answer = "error " + str(error.sqlstate)
    print(answer, flush=True)
    return answer
"#;

struct World {
    server: Postgres,
    issuer: Issuer,
    gateway: Gateway,
    go: TempDir,
}

impl World {
    fn start(policy: &str) -> Self {
        let authority = Authority::new("caches").unwrap();
        let options = Options::default().set("log_statement", "none");
        let server = Postgres::with(&authority, &options).unwrap();
        let issuer = Issuer::start().unwrap();
        let mut spec = Spec::new(&server, &issuer).policy("orders.cedar", policy);
        spec.last.push_str("[limits]\ncatalogue = \"200ms\"\n");
        let gateway = Gateway::start(&authority, spec).unwrap();
        Self { server, issuer, gateway, go: TempDir::new("go").unwrap() }
    }

    /// A session of a team that runs a script behind [`PRELUDE`].
    fn session(&self, team: &str, script: &str) -> Proc {
        let token = self.issuer.mint().unwrap().subject("api").claim("team", team).token().unwrap();
        let python: PathBuf = xtask::places::python();
        assert!(python.is_file(), "no Python drivers; install them: cargo xtask setup");
        let mut command = self.gateway.dial(&token).command(&python);
        command.env("GO", self.go.path()).args(["-I", "-c", &format!("{PRELUDE}{script}")]);
        Proc::spawn("python", command).unwrap()
    }

    fn go(&self, number: u32) {
        self.go.write(&number.to_string(), "").unwrap();
    }

    /// The script's answers, once it has ended well.
    fn answers(session: &Proc) -> Vec<String> {
        let status = session.wait(PATIENCE).unwrap();
        assert!(status.success(), "{}", session.log());
        let (out, _) = session.output();
        let out = String::from_utf8(out).unwrap();
        out.lines().filter(|line| !line.starts_with("paused")).map(str::to_owned).collect()
    }

    fn put_policy(&self, text: &str, times: usize) {
        self.gateway.write_policy("orders.cedar", text).unwrap();
        self.gateway.reload().unwrap();
        let until = std::time::Instant::now() + PATIENCE;
        while self.gateway.log().matches("reloaded: bundle").count() < times {
            assert!(std::time::Instant::now() < until, "{}", self.gateway.log());
            std::thread::yield_now();
        }
    }

    fn verified(&self) {
        assert!(self.gateway.terminate().unwrap().success(), "{}", self.gateway.log());
        let args = ["log", "verify", "data/archive", "--key", "data/log.vkey"];
        let done = cli_in(self.gateway.dir().path(), &args).unwrap();
        assert_eq!(done.code(), 0, "{}{}", done.out(), done.err());
    }
}

#[test]
fn a_reload_decides_a_prepared_statement_anew() {
    let world = World::start(ALL_BUT);
    let session = world.session(
        "billing",
        r#"
for n in (1, 2, 3):
    ask("SELECT name FROM customers WHERE id = %s", 7)
    ask("SELECT name FROM customers WHERE id = %s", 7)
    if n < 3: pause(n)
"#,
    );
    session.wait_line("paused 1", PATIENCE).unwrap();
    world.put_policy(OPEN_ONLY, 1);
    world.go(1);
    session.wait_line("paused 2", PATIENCE).unwrap();
    world.put_policy(ALL_BUT, 2);
    world.go(2);
    let (row, error) = ("row ('Ada',)", "error 42501");
    assert_eq!(World::answers(&session), [row, row, error, error, row, row]);
    world.verified();
}

#[test]
fn the_same_text_is_another_statement_under_another_path() {
    let world = World::start(ALL_BUT);
    world.server.sql("CREATE SCHEMA other").unwrap();
    world.server.sql("CREATE TABLE other.customers AS SELECT 1 AS id").unwrap();
    world.server.sql("GRANT USAGE ON SCHEMA other TO PUBLIC").unwrap();
    world.server.sql("GRANT SELECT ON other.customers TO PUBLIC").unwrap();
    let session = world.session(
        "billing",
        r#"
for path in ("public", "other", "public"):
    c.execute("SET search_path = " + path)
    ask("SELECT count(*) FROM customers")
    ask("SELECT count(*) FROM customers")
"#,
    );
    let (row, error) = ("row (4,)", "error 42501");
    assert_eq!(World::answers(&session), [row, row, error, error, row, row]);
    world.verified();
}

#[test]
fn one_team_s_decision_is_not_another_s() {
    let world = World::start(ALL_BUT);
    let script = r#"ask("SELECT name FROM customers WHERE id = %s", 7)"#;
    for team in ["billing", "sales", "billing", "sales"] {
        let expect = if team == "billing" { "row ('Ada',)" } else { "error 42501" };
        assert_eq!(World::answers(&world.session(team, script)), [expect], "{team}");
    }
    world.verified();
}

/// Asks until the answer is another one, which is when the gateway has looked at the catalogue.
const UNTIL: &str = r#"
def until(want, sql, *values):
    end = time.monotonic() + 60
    while True:
        try:
            got = "row " + str(c.execute(sql, values).fetchone())
        except psycopg.Error as error:
            got = "error " + str(error.sqlstate)
        if got == want:
            break
        assert time.monotonic() < end, got
        time.sleep(0.02)
"#;

#[test]
fn a_changed_view_is_read_anew() {
    let world = World::start(ALL_BUT);
    let shows = |what: &str| {
        let view = format!("CREATE OR REPLACE VIEW shown AS SELECT id, {what}");
        world.server.sql(&view).unwrap();
        world.server.sql("GRANT SELECT ON shown TO PUBLIC").unwrap();
    };
    shows("name FROM customers");
    let script = r#"
sql = "SELECT name FROM shown WHERE id = %s"
ask(sql, 7)
ask(sql, 7)
pause(1)
until("error 42501", sql, 7)
ask(sql, 7)
pause(2)
until("row ('Ada',)", sql, 7)
ask(sql, 7)
"#;
    let session = world.session("billing", &format!("{UNTIL}{script}"));
    session.wait_line("paused 1", PATIENCE).unwrap();
    shows("employee AS name FROM salaries");
    world.go(1);
    session.wait_line("paused 2", PATIENCE).unwrap();
    shows("name FROM customers");
    world.go(2);
    let (row, error) = ("row ('Ada',)", "error 42501");
    assert_eq!(World::answers(&session), [row, row, error, row]);
    world.verified();
}

/// What `CASCADE` reaches is in the catalogue that the gateway keeps, as it is by then.
#[test]
fn cascade_is_judged_by_what_it_reaches() {
    let policy = format!(
        "{ALL_BUT}\n@id(\"no-doubt\")\nforbid (principal, \
         action == Bulla::Action::\"postgres:unknown\", resource);\n"
    );
    let world = World::start(&policy);
    let script = r#"
def do(sql):
    try:
        c.execute(sql)
        answer = "done"
    except psycopg.Error as error:
        answer = "error " + str(error.sqlstate)
    print(sql, "|", answer, flush=True)
for sql in (
    "CREATE TABLE shelves (id int PRIMARY KEY, label text)",
    "CREATE TABLE books (id int PRIMARY KEY, shelf int REFERENCES shelves)",
    "CREATE VIEW labels AS SELECT label FROM shelves",
    "INSERT INTO shelves VALUES (1, 'a')",
    "INSERT INTO books VALUES (1, 1)",
    "TRUNCATE shelves CASCADE",
): do(sql)
ask("SELECT count(*) FROM books")
do("DROP TABLE shelves CASCADE")
ask("SELECT to_regclass('labels'), to_regclass('shelves'), to_regclass('books')::text")
do("CREATE TABLE parts (id int PRIMARY KEY)")
do("INSERT INTO parts VALUES (5)")
pause(1)
until("row (1,)", "SELECT one FROM marker")
for sql in (
    "TRUNCATE parts CASCADE",
    "DROP TABLE parts CASCADE",
    "ALTER TABLE parts DROP COLUMN id CASCADE",
    "ALTER TABLE parts DROP CONSTRAINT parts_pkey CASCADE",
    "DROP SCHEMA public CASCADE",
): do(sql)
ask("SELECT id FROM parts")
"#;
    let session = world.session("billing", &format!("{UNTIL}{script}"));
    session.wait_line("paused 1", PATIENCE).unwrap();
    // The table that nobody may touch hangs on one that the session has made.
    world.server.sql("ALTER TABLE salaries ADD part int REFERENCES parts").unwrap();
    // Who knows this one knows the key before it.
    world.server.sql("CREATE VIEW marker AS SELECT 1 AS one").unwrap();
    world.server.sql("GRANT SELECT ON marker TO PUBLIC").unwrap();
    world.go(1);
    let answers = World::answers(&session);
    let expect = [
        "CREATE TABLE shelves (id int PRIMARY KEY, label text) | done",
        "CREATE TABLE books (id int PRIMARY KEY, shelf int REFERENCES shelves) | done",
        "CREATE VIEW labels AS SELECT label FROM shelves | done",
        "INSERT INTO shelves VALUES (1, 'a') | done",
        "INSERT INTO books VALUES (1, 1) | done",
        "TRUNCATE shelves CASCADE | done",
        "row (0,)",
        "DROP TABLE shelves CASCADE | done",
        "row (None, None, 'books')",
        "CREATE TABLE parts (id int PRIMARY KEY) | done",
        "INSERT INTO parts VALUES (5) | done",
        "TRUNCATE parts CASCADE | error 42501",
        "DROP TABLE parts CASCADE | error 42501",
        "ALTER TABLE parts DROP COLUMN id CASCADE | error 42501",
        "ALTER TABLE parts DROP CONSTRAINT parts_pkey CASCADE | error 42501",
        "DROP SCHEMA public CASCADE | error 42501",
        "row (5,)",
    ];
    assert_eq!(answers, expect);
    world.verified();
}
