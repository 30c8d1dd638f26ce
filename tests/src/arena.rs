//! Where attacks are tried: one server that would let everything happen, the gateway before it,
//! and a bare relay beside the gateway.
//!
//! The gateway's login is a superuser, so that whatever does not happen was stopped by the gateway
//! and by nothing else. [`Arena::passage`] is the pass-through switch: a relay that copies bytes
//! between the same kind of client and the same server with the same login. An attack counts as
//! shown only if it has its effect there. It exists in this test bed alone; the product has none.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::ca::{Authority, Wish};
use crate::gateway::{Gateway, IssuerSpec, Spec, cli_in};
use crate::issuer::Issuer;
use crate::neighbours;
use crate::place::{Port, TempDir};
use crate::postgres::{DATABASE, Flavor, Options, Postgres, SUPERUSER_PASSWORD};
use crate::raw::{Answer, Raw, Route};

/// Everybody proves himself by a password in the clear (within TLS), so that one raw client can
/// say the same to the server, to the relay and to the gateway.
const HBA: &str = "local all all trust\nhost all,replication all 127.0.0.1/32 password\n";

/// What no attacker may ever see: salaries, and the numbers of customers.
pub const SECRETS: &[&str] = &["5100.00", "6400.00"];

/// Who may what. Subjects are the names of rows; groups are what the policies know.
///
/// - `least`: reads and writes on two tables, and nothing else.
/// - `deny`: everything that was read with certainty, but for salaries and what is dangerous.
/// - `app`: everything that an application, a driver or a tool needs.
/// - `held`: as `app`; deleting needs an approval.
/// - `watch`: everything that was read with certainty, but for writing to customers.
pub const POLICY: &str = r#"
@id("least-session")
permit (principal in Bulla::Group::"team:least", action in [Bulla::Action::"postgres:session"],
        resource in Bulla::Resource::"orders");
@id("least-customers")
permit (principal in Bulla::Group::"team:least", action == Bulla::Action::"postgres:select",
        resource == Bulla::Table::"orders.public.customers");
@id("least-orders")
permit (principal in Bulla::Group::"team:least", action == Bulla::Action::"postgres:select",
        resource == Bulla::Table::"orders.public.orders");
@id("least-nothing")
permit (principal in Bulla::Group::"team:least",
        action in [Bulla::Action::"postgres:select", Bulla::Action::"postgres:insert",
                   Bulla::Action::"postgres:update", Bulla::Action::"postgres:explain",
                   Bulla::Action::"postgres:copy_out"],
        resource == Bulla::Resource::"orders");
@id("least-write")
permit (principal in Bulla::Group::"team:least",
        action in [Bulla::Action::"postgres:insert", Bulla::Action::"postgres:update",
                   Bulla::Action::"postgres:copy_out"],
        resource == Bulla::Table::"orders.public.customers");
@id("least-notes")
permit (principal in Bulla::Group::"team:least",
        action in [Bulla::Action::"postgres:insert", Bulla::Action::"postgres:select",
                   Bulla::Action::"postgres:delete"],
        resource == Bulla::Table::"orders.public.notes");

@id("deny-all-but")
permit (principal in Bulla::Group::"team:deny", action in [Bulla::Action::"postgres:known"],
        resource in Bulla::Resource::"orders");
@id("deny-salaries")
forbid (principal in Bulla::Group::"team:deny", action,
        resource == Bulla::Table::"orders.public.salaries");
@id("deny-archive")
forbid (principal in Bulla::Group::"team:deny", action,
        resource == Bulla::Table::"orders.archive.customers");
@id("deny-long")
forbid (principal in Bulla::Group::"team:deny", action, resource ==
 Bulla::Table::"orders.public.abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk");
@id("deny-danger")
forbid (principal in Bulla::Group::"team:deny",
        action in [Bulla::Action::"postgres:server", Bulla::Action::"postgres:role",
                   Bulla::Action::"postgres:set_privileged", Bulla::Action::"postgres:do",
                   Bulla::Action::"postgres:call_dangerous", Bulla::Action::"postgres:call",
                   Bulla::Action::"postgres:function_call", Bulla::Action::"postgres:replication",
                   Bulla::Action::"postgres:two_phase"],
        resource);

@id("watch-all-but")
permit (principal in Bulla::Group::"team:watch", action in [Bulla::Action::"postgres:known"],
        resource in Bulla::Resource::"orders");
@id("watch-customers")
forbid (principal in Bulla::Group::"team:watch", action in [Bulla::Action::"postgres:write"],
        resource == Bulla::Table::"orders.public.customers");

@id("app")
permit (principal in Bulla::Group::"team:app",
        action in [Bulla::Action::"postgres:read", Bulla::Action::"postgres:write",
                   Bulla::Action::"postgres:session", Bulla::Action::"postgres:notify",
                   Bulla::Action::"postgres:ddl", Bulla::Action::"postgres:grant",
                   Bulla::Action::"postgres:maintenance", Bulla::Action::"postgres:lock",
                   Bulla::Action::"postgres:batch", Bulla::Action::"postgres:call"],
        resource in Bulla::Resource::"orders");

@id("held-known")
permit (principal in Bulla::Group::"team:held",
        action in [Bulla::Action::"postgres:read", Bulla::Action::"postgres:session",
                   Bulla::Action::"postgres:insert", Bulla::Action::"postgres:update",
                   Bulla::Action::"postgres:batch"],
        resource in Bulla::Resource::"orders");
@id("held-delete") @hold("team:dba") @expires("60s")
permit (principal in Bulla::Group::"team:held", action == Bulla::Action::"postgres:delete",
        resource in Bulla::Resource::"orders");
"#;

/// What else stands in the database: roads to salaries that do not say so.
const MORE: &str = r#"
CREATE EXTENSION dblink; CREATE EXTENSION tablefunc; CREATE EXTENSION postgres_fdw;
CREATE EXTENSION file_fdw; CREATE EXTENSION pg_trgm;
CREATE VIEW pay AS SELECT employee, amount FROM salaries;
CREATE VIEW pay_of_pay AS SELECT amount AS n FROM pay;
CREATE MATERIALIZED VIEW pay_kept AS SELECT employee, amount FROM salaries;
CREATE TABLE wages (); CREATE TABLE all_salaries (id int, employee text, amount numeric(12, 2));
CREATE TABLE salaries_2026 () INHERITS (salaries);
INSERT INTO salaries_2026 VALUES (3, 'Karen', 6400.00);
CREATE FUNCTION pay_of(integer) RETURNS numeric LANGUAGE sql STABLE
    AS 'SELECT amount FROM public.salaries WHERE id = $1';
CREATE FUNCTION run(text) RETURNS SETOF record LANGUAGE plpgsql SECURITY DEFINER
    AS 'BEGIN RETURN QUERY EXECUTE $1; END';
CREATE OPERATOR public.### (LEFTARG = integer, RIGHTARG = integer, FUNCTION = int4pl);
CREATE FUNCTION spy(integer) RETURNS boolean LANGUAGE plpgsql COST 0.0001
    AS 'BEGIN DELETE FROM public.payments WHERE id = $1; RETURN true; END';
CREATE FUNCTION pay_prefix(text, integer) RETURNS numeric LANGUAGE sql
    AS 'SELECT amount FROM public.salaries WHERE id = $2';
CREATE OPERATOR public.<~> (LEFTARG = text, RIGHTARG = integer, FUNCTION = pay_prefix);
CREATE FUNCTION to_pay(integer) RETURNS text LANGUAGE sql
    AS 'SELECT amount::text FROM public.salaries WHERE id = $1';
CREATE FUNCTION pay_fixed(integer) RETURNS numeric LANGUAGE sql IMMUTABLE
    AS 'SELECT amount FROM public.salaries WHERE id = $1';
CREATE FUNCTION order_json(json, json) RETURNS integer LANGUAGE sql IMMUTABLE
    AS 'SELECT amount::integer FROM public.salaries WHERE id = 1';
CREATE TABLE parts (n numeric) PARTITION BY LIST (n); CREATE TABLE spare (n numeric);
CREATE TYPE paid AS (id integer);
CREATE FUNCTION pay_cast(paid) RETURNS numeric LANGUAGE sql
    AS 'SELECT amount FROM public.salaries WHERE id = ($1).id';
CREATE CAST (paid AS numeric) WITH FUNCTION pay_cast(paid);
CREATE AGGREGATE pay_sum(integer) (SFUNC = int4pl, STYPE = integer, INITCOND = '0');
CREATE TABLE abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk (secret text);
INSERT INTO abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk VALUES ('6400.00');
CREATE TABLE archive.customers (LIKE customers INCLUDING ALL);
INSERT INTO archive.customers (id, name, email, ssn, region) VALUES (7, '6400.00', 'a', 'b', 'EU');
CREATE FUNCTION leak(customers) RETURNS text LANGUAGE sql
    AS 'SELECT amount::text FROM public.salaries WHERE id = 2';
ANALYZE salaries;
CREATE RULE pay_note AS ON DELETE TO wages DO ALSO DELETE FROM payments;
CREATE ROLE intern LOGIN PASSWORD 'intern secret';
SELECT lo_from_bytea(424242, '6400.00');
"#;

/// What must be as before when an attack was refused. Temporary relations come and go.
const FINGERPRINT: &str = "SELECT pg_catalog.md5(pg_catalog.concat_ws('|',
 (SELECT string_agg(t::text, ',' ORDER BY id) FROM public.customers t),
 (SELECT string_agg(t::text, ',' ORDER BY id) FROM public.orders t),
 (SELECT string_agg(t::text, ',' ORDER BY id) FROM public.payments t),
 (SELECT string_agg(t::text, ',' ORDER BY id) FROM public.salaries t),
 (SELECT string_agg(t::text, ',' ORDER BY id) FROM public.notes t),
 (SELECT string_agg(c.oid::text || c.relname || c.relowner || coalesce(c.relacl::text, ''), ','
   ORDER BY c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
   WHERE nspname !~ '^pg_(temp|toast)'),
 (SELECT count(*) || ',' || max(oid) FROM pg_proc),
 (SELECT string_agg(rolname || rolsuper || coalesce(rolpassword, ''), ',' ORDER BY oid)
   FROM pg_authid),
 (SELECT string_agg(s::text, ',') FROM pg_db_role_setting s),
 (SELECT count(*) FROM pg_largeobject_metadata), (SELECT count(*) FROM pg_largeobject),
 (SELECT count(*) FROM pg_foreign_server), (SELECT count(*) FROM pg_extension),
 (SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM pg_publication),
 (SELECT count(*) FROM pg_prepared_xacts), (SELECT count(*) FROM pg_policy),
 (SELECT count(*) FROM pg_trigger), (SELECT count(*) FROM pg_database),
 (SELECT string_agg(schemaname || sequencename || coalesce(last_value, 0), ',')
   FROM pg_sequences),
 (SELECT string_agg(name || setting, ',') FROM pg_file_settings)))";

/// The whole of it.
pub struct Arena {
    pub server: Postgres,
    pub issuer: Issuer,
    /// Who issues tokens to people, as `staff`: only they may approve.
    pub people: Issuer,
    pub gateway: Gateway,
    relay: (TempDir, Port),
    admin: RefCell<Raw>,
    marks: RefCell<u32>,
    failures: RefCell<Vec<String>>,
    /// Events that refusals named, and who was turned away: each must be an entry.
    events: RefCell<BTreeMap<String, String>>,
}

impl Arena {
    /// # Errors
    /// Something that it needs is not installed or does not start.
    pub fn start() -> Result<Self> {
        Self::with(|spec| spec)
    }

    /// With another configuration of the gateway.
    ///
    /// # Errors
    /// As [`Arena::start`].
    pub fn with(change: impl FnOnce(Spec) -> Spec) -> Result<Self> {
        Self::with_issuer(Issuer::start()?, change)
    }

    /// With an issuer of the test's own.
    ///
    /// # Errors
    /// As [`Arena::start`].
    pub fn with_issuer(issuer: Issuer, change: impl FnOnce(Spec) -> Spec) -> Result<Self> {
        Self::whole(Flavor::System, issuer, change)
    }

    /// Before another server.
    ///
    /// # Errors
    /// As [`Arena::start`].
    pub fn on(flavor: Flavor) -> Result<Self> {
        Self::whole(flavor, Issuer::start()?, |spec| spec)
    }

    fn whole(flavor: Flavor, issuer: Issuer, change: impl FnOnce(Spec) -> Spec) -> Result<Self> {
        let authority = Authority::new("arena")?;
        let options = Options { flavor, hba: HBA.to_owned(), ..Options::default() };
        let options = options.set("log_min_duration_statement", "0");
        let options = options.set("max_prepared_transactions", "4");
        let options = options.set("wal_level", "logical");
        let server = Postgres::with(&authority, &options)?;
        server.admin(DATABASE).psql(&[MORE])?.success()?;
        let mut spec = Spec::new(&server, &issuer).policy("arena.cedar", POLICY);
        let people = Issuer::start()?;
        let mut staff = IssuerSpec::new("staff", &people);
        staff.more = "kind = \"human\"\n".to_owned();
        spec.issuers = vec![IssuerSpec::new("bed", &issuer), staff];
        for resource in &mut spec.resources {
            resource.user = "postgres".to_owned();
            resource.password = Some(SUPERUSER_PASSWORD.to_owned());
        }
        let gateway = Gateway::start(&authority, change(spec))?;
        let relay = relay(&server)?;
        let route =
            Route::new(server.port(), &server.root_pem(), "postgres", DATABASE, SUPERUSER_PASSWORD);
        let admin = RefCell::new(route.open()?);
        Ok(Self {
            server,
            issuer,
            people,
            gateway,
            relay,
            admin,
            marks: RefCell::default(),
            failures: RefCell::default(),
            events: RefCell::default(),
        })
    }

    /// A token for `subject` in `team:GROUP`.
    ///
    /// # Errors
    /// The issuer has no key.
    pub fn token(&self, group: &str, subject: &str) -> Result<String> {
        self.issuer.mint()?.subject(subject).claim("team", group).token()
    }

    /// A token for a person in `team:GROUP`.
    ///
    /// # Errors
    /// The issuer has no key.
    pub fn person(&self, group: &str, subject: &str) -> Result<String> {
        self.people.mint()?.subject(subject).claim("team", group).token()
    }

    /// The way through the gateway.
    ///
    /// # Errors
    /// The issuer has no key.
    pub fn through(&self, group: &str, subject: &str) -> Result<Route> {
        let token = self.token(group, subject)?;
        let dial = self.gateway.dial(&token);
        Ok(Route::new(dial.port, &self.gateway.root_pem(), "app", DATABASE, &token))
    }

    /// The way past the gateway, through the bare relay, with the gateway's own login.
    pub fn passage(&self) -> Route {
        let (dir, port) = (&self.relay.0, self.relay.1.number());
        Route::new(port, &dir.join("server.root.pem"), "postgres", DATABASE, SUPERUSER_PASSWORD)
    }

    /// The way to the server itself, for what is said before TLS.
    pub fn straight(&self) -> Route {
        Route { port: self.server.port(), root: self.server.root_pem(), ..self.passage() }
    }

    /// One value, asked of the server directly by a superuser.
    ///
    /// # Errors
    /// The server refuses.
    pub fn ask(&self, sql: &str) -> Result<String> {
        let answer = self.admin.borrow_mut().query(sql)?;
        ensure!(answer.errors().is_empty(), "{sql}: {}", answer.describe());
        Ok(answer.cells().join(","))
    }

    /// What the tables, the objects and the settings of the database add up to.
    ///
    /// # Errors
    /// The server refuses.
    pub fn fingerprint(&self) -> Result<String> {
        self.ask(FINGERPRINT)
    }

    /// How much the server has logged up to now, what earlier clients made it say included.
    pub fn logged(&self) -> usize {
        let before = self.server.proc().errors_from(usize::MAX).1;
        if let Err(error) = self.logged_since(before) {
            self.fail("the server's log", error);
        }
        self.server.proc().errors_from(usize::MAX).1
    }

    /// What the server has logged behind so many bytes, up to now.
    ///
    /// # Errors
    /// It logs nothing more.
    pub fn logged_since(&self, from: usize) -> Result<String> {
        let mark = {
            let mut marks = self.marks.borrow_mut();
            *marks += 1;
            format!("mark {marks} of the arena")
        };
        self.ask(&format!("SELECT '{mark}'"))?;
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let (log, _) = self.server.proc().errors_from(from);
            if log.contains(&mark) {
                return Ok(log);
            }
            ensure!(Instant::now() < until, "the server logs nothing more");
            std::thread::yield_now();
        }
    }

    /// Notes a failure of a row; [`Arena::finish`] tells them all.
    pub fn fail(&self, row: &str, why: impl std::fmt::Display) {
        eprintln!("{row}: {why}");
        self.failures.borrow_mut().push(format!("{row}: {why}"));
    }

    /// A result, or a noted failure.
    pub fn try_row<T>(&self, row: &str, run: impl FnOnce() -> Result<T>) -> Option<T> {
        match run() {
            Ok(value) => Some(value),
            Err(error) => {
                self.fail(row, format!("{error:#}"));
                None
            }
        }
    }

    /// The answer holds a refusal of the gateway, whose event must be in the log in the end.
    ///
    /// # Errors
    /// Nothing was refused, or the refusal names no event.
    pub fn expect_refused(&self, row: &str, answer: &Answer) -> Result<()> {
        let refusals: Vec<_> = answer.errors().into_iter().filter(|e| e.is_refusal()).collect();
        ensure!(!refusals.is_empty(), "was not refused: {}", answer.describe());
        for refusal in refusals {
            let detail = refusal.field(b'D').unwrap_or_default();
            let detail: Value = serde_json::from_str(&detail).context("the DETAIL is JSON")?;
            let event = detail["event"].as_str().context("a refusal names its event")?;
            self.events.borrow_mut().insert(event.to_owned(), row.to_owned());
            ensure!(refusal.field(b'H').is_some_and(|hint| !hint.is_empty()), "no HINT");
        }
        for secret in SECRETS {
            ensure!(!answer.holds(secret), "the answer holds {secret}: {}", answer.describe());
        }
        Ok(())
    }

    /// Whether `text` is in what the server logged since `from`.
    ///
    /// # Errors
    /// It is.
    pub fn expect_absent(&self, from: usize, text: &str) -> Result<()> {
        let since = self.logged_since(from)?;
        ensure!(!since.contains(&as_logged(text)), "it reached the server:\n{since}");
        Ok(())
    }

    /// How many were turned away at the door, as the gateway counts them.
    ///
    /// # Errors
    /// It does not answer.
    pub fn turned_away(&self) -> Result<usize> {
        let (_, page) = self.gateway.http("/metrics")?;
        let lines = page.lines().filter(|line| line.starts_with("bulla_turned_away_total"));
        let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(counts.map(|count| count as usize).sum())
    }

    /// As many more were turned away. What is counted is what has its entry: [`Arena::finish`]
    /// compares.
    ///
    /// # Errors
    /// There were not, in time.
    pub fn expect_turned_away(&self, before: usize, more: usize) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let now = self.turned_away()?;
            if now == before + more {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{} of {more} turned away on record", now - before);
        }
    }

    /// All entries, as `bulla log show` tells them.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn entries(&self) -> Result<Vec<Value>> {
        let dir = self.gateway.dir().path();
        let shown = cli_in(dir, &["log", "show", "--json", "--from", "0", "--limit", "1000000"])?;
        Ok(serde_json::from_str(&shown.success()?)?)
    }

    /// All sessions, newest first.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn sessions(&self) -> Result<Vec<Value>> {
        let shown = self.gateway.cli(&["sessions", "ls", "--json", "--limit", "100000"])?;
        Ok(serde_json::from_str(&shown.success()?)?)
    }

    /// Everything that a session did, newest session of that subject.
    ///
    /// # Errors
    /// There is none, or the record cannot be read.
    pub fn session_of(&self, subject: &str) -> Result<(Value, Vec<Value>)> {
        let sessions = self.sessions()?;
        let who = format!("bed|{subject}");
        let found = sessions.into_iter().find(|session| session["principal"] == who.as_str());
        let session = found.with_context(|| format!("no session of {who}"))?;
        let id = session["session"].as_str().unwrap_or_default();
        let shown = self.gateway.cli(&["sessions", "show", id, "--json"])?.success()?;
        Ok((session, serde_json::from_str(&shown)?))
    }

    /// Stops the gateway; every refusal has its entry, and the log verifies.
    ///
    /// # Errors
    /// A row failed: all of them are told.
    pub fn finish(self) -> Result<()> {
        let checked = self.check_record();
        let mut failures = self.failures.into_inner();
        if let Err(error) = checked {
            failures.push(format!("record: {error:#}"));
        }
        if !failures.is_empty() {
            let count = failures.len();
            bail!("{count} rows failed:\n{}", failures.join("\n"));
        }
        Ok(())
    }

    fn check_record(&self) -> Result<()> {
        let turned_away = self.turned_away();
        if self.gateway.proc().is_running() {
            let stopped = self.gateway.terminate()?;
            ensure!(stopped.success(), "the gateway ended with {stopped}");
        }
        ensure!(!self.gateway.log().contains("panicked"), "{}", self.gateway.proc().tail());
        let verify = ["log", "verify", "data/archive", "--key", "data/log.vkey"];
        let done = cli_in(self.gateway.dir().path(), &verify)?;
        ensure!(done.code() == 0, "the log does not verify: {}{}", done.out(), done.err());
        let recorded: BTreeSet<String> = self
            .entries()?
            .iter()
            .filter(|entry| entry["kind"] == "refusal")
            .map(|entry| {
                format!("{}-{}", entry["session"].as_str().unwrap_or_default(), entry["seq"])
            })
            .collect();
        // Whoever is turned away opens and closes with one entry.
        if let Ok(counted) = turned_away {
            let alone = |entry: &&Value| entry["kind"] == "refusal" && entry["seq"] == 0;
            let found = self.entries()?.iter().filter(alone).count();
            ensure!(found == counted, "{counted} were turned away, {found} have an entry");
        }
        for (event, row) in self.events.borrow().iter() {
            ensure!(recorded.contains(event), "{row}: no entry for the refusal {event}");
        }
        Ok(())
    }
}

/// A statement as the server's log shows it: further lines are indented.
pub fn as_logged(sql: &str) -> String {
    sql.trim().replace('\n', "\n\t")
}

/// Starts the relay in this process; it ends with it.
fn relay(server: &Postgres) -> Result<(TempDir, Port)> {
    let (dir, port) = (TempDir::new("passage")?, Port::new()?);
    server.authority().issue(&Wish::server()?)?.write(&dir, "server")?;
    dir.write("root.pem", server.authority().pem())?;
    dir.write("server.root.pem", server.authority().pem())?;
    let (home, listen, target) = (dir.path().to_path_buf(), port.number(), server.port());
    std::thread::spawn(move || {
        if let Err(error) = neighbours::relay(&home, listen, target) {
            eprintln!("the passage: {error:#}");
        }
    });
    let until = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", port.number())).is_err() {
        ensure!(Instant::now() < until, "the passage does not open");
        std::thread::yield_now();
    }
    Ok((dir, port))
}
