//! A shop with masked columns behind a gateway, for the tests that try to see them.
//!
//! Everything here panics where a test would: it is of no use elsewhere.

#![allow(clippy::unwrap_used, clippy::panic, clippy::missing_panics_doc)]

use std::time::Duration;

use crate::ca::Authority;
use crate::client::program;
use crate::gateway::{Gateway, ResourceSpec, Spec, cli_in};
use crate::issuer::Issuer;
use crate::postgres::Postgres;
use crate::proc::capture;

/// Everything on the tables; values of `pii` for one team alone.
pub const POLICY: &str = r#"
@id("everything")
permit (principal, action, resource in Bulla::ResourceGroup::"shop");
@id("audit-sees-pii")
permit (principal in Bulla::Group::"team:audit", action == Bulla::Action::"reveal",
        resource in Bulla::Class::"pii");
"#;

/// The same, with every class for that team.
pub const EVERY_CLASS: &str = r#"
@id("everything")
permit (principal, action, resource in Bulla::ResourceGroup::"shop");
@id("audit-sees-all")
permit (principal in Bulla::Group::"team:audit", action == Bulla::Action::"reveal", resource);
"#;

pub const CLASSES: &str = r#"
[classes."pii.ssn"]
mask = "partial(0,4)"
[classes."pii.email"]
mask = "email-domain"
[classes."pii.name"]
mask = "constant(hidden)"
[classes."pay.amount"]
mask = "bucket(1000)"
[classes."pii.since"]
mask = "date-trunc(year)"
"#;

pub fn columns(resource: &str) -> String {
    format!(
        r#"groups = ["shop"]
[resources.{resource}.classes.columns]
"public.customers.ssn" = "pii.ssn"
"public.customers.email" = "pii.email"
"public.customers.name" = "pii.name"
"public.customers.since" = "pii.since"
"public.salaries.amount" = "pay.amount"
"public.salaries.employee" = "pii.name"
[resources.{resource}.classes]
trusted = ["public.cents"]
"#
    )
}

/// Further things to leak through, made by the owner of the database.
pub const MORE: &str = "
SET ROLE shop;
CREATE TABLE people (id int, ssn text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE people_1 PARTITION OF people FOR VALUES FROM (0) TO (100);
INSERT INTO people SELECT id, ssn FROM customers;
CREATE TABLE base (id int, ssn text);
CREATE TABLE child (more text) INHERITS (base);
INSERT INTO child SELECT id, ssn, 'm' FROM customers;
CREATE MATERIALIZED VIEW copied AS SELECT id, ssn AS harmless FROM customers;
CREATE VIEW deep AS SELECT reachable_at, reference FROM contacts WHERE name <> '';
CREATE VIEW joined AS SELECT o.id, o.item, c.ssn AS code FROM orders o JOIN customers c ON c.id = o.customer_id;
ANALYZE;
";

/// A server, a gateway with masks, and who may see what.
pub struct World {
    pub server: Postgres,
    pub issuer: Issuer,
    pub gateway: Gateway,
}

/// What must never be seen: the parts of the values that masks hide.
pub const SECRETS: &[&str] = &[
    "536-90", "53690", "219-09", "078-05", "457-55", "ada@", "edsger@", "grace@", "lukasz@",
    "Edsger", "Łukasz", "5100.00", "6400.00", "Blaise", "Emmy", "Ada", "Grace",
];

impl World {
    pub fn start() -> Self {
        let authority = Authority::new("masking").unwrap();
        let server = Postgres::start(&authority).unwrap();
        server.sql(MORE).unwrap();
        let issuer = Issuer::start().unwrap();
        let mut spec = Spec::new(&server, &issuer).policy("shop.cedar", POLICY);
        spec.resources[0].more = more_columns(&columns("orders"), "orders");
        spec.last = CLASSES.to_owned();
        let gateway = Gateway::start(&authority, spec).unwrap();
        Self { server, issuer, gateway }
    }

    /// A world of one's own: what is run in the database, and what is classified how.
    pub fn with(more: &str, classes: &str, columns: fn(&str) -> String) -> Self {
        let authority = Authority::new("masked").unwrap();
        let server = Postgres::start(&authority).unwrap();
        server.sql(more).unwrap();
        let issuer = Issuer::start().unwrap();
        let mut spec = Spec::new(&server, &issuer).policy("shop.cedar", EVERY_CLASS);
        spec.resources[0].more = format!("groups = [\"shop\"]\n{}", columns("orders"));
        spec.last = classes.to_owned();
        let gateway = Gateway::start(&authority, spec).unwrap();
        Self { server, issuer, gateway }
    }

    /// A second database, `twin`, beside `orders`. `more` is run in both; `other` in the twin, to
    /// change what masks hide and nothing else; `same` in the other, so that rows move alike.
    pub fn twins(
        more: &str,
        classes: &str,
        columns: fn(&str) -> String,
        other: &str,
        same: &str,
    ) -> Self {
        let authority = Authority::new("twins").unwrap();
        let server = Postgres::start(&authority).unwrap();
        server.sql(more).unwrap();
        let run = |database: &str, sql: &str| {
            server.admin(database).psql_script(sql).unwrap().success().unwrap();
        };
        run("postgres", "CREATE DATABASE twin TEMPLATE orders;");
        run("twin", other);
        run("orders", same);
        let issuer = Issuer::start().unwrap();
        let mut spec = Spec::new(&server, &issuer).policy("shop.cedar", EVERY_CLASS);
        let mut twin = ResourceSpec::new("twin", &server, "bulla_scram", "scram secret");
        twin.database = "twin".to_owned();
        twin.more = format!("groups = [\"shop\"]\n{}", columns("twin"));
        spec.resources[0].more = format!("groups = [\"shop\"]\n{}", columns("orders"));
        spec.resources.push(twin);
        spec.last = classes.to_owned();
        let gateway = Gateway::start(&authority, spec).unwrap();
        Self { server, issuer, gateway }
    }

    /// What psql says to a script, errors where they happened, without what differs between any
    /// two runs.
    pub fn merged(&self, resource: &str, team: &str, script: &str) -> String {
        let dial = self.gateway.dial_resource(resource, &self.token(team));
        let mut bash = dial.command(&program("bash").unwrap());
        let psql = program("psql").unwrap();
        bash.args(["-c", &format!("{} -X -A -t -v VERBOSITY=verbose 2>&1", psql.display())]);
        let input = Some(script.as_bytes().to_vec());
        let done = capture(bash, input, Duration::from_secs(300)).unwrap();
        without_marks(&done.out(), resource)
    }

    pub fn token(&self, team: &str) -> String {
        self.issuer.mint().unwrap().subject("billing/api").claim("team", team).token().unwrap()
    }

    pub fn script_on(&self, resource: &str, team: &str, sql: &str) -> String {
        let dial = self.gateway.dial_resource(resource, &self.token(team));
        let mut psql = dial.command(&program("psql").unwrap());
        psql.args(["-X", "-A", "-t", "-v", "VERBOSITY=verbose"]);
        let done = capture(psql, Some(sql.as_bytes().to_vec()), Duration::from_secs(120)).unwrap();
        format!("{}{}", done.out(), done.err())
    }

    pub fn script(&self, sql: &str) -> String {
        self.script_on("orders", "billing", sql)
    }

    pub fn verified(&self) {
        assert!(self.gateway.terminate().unwrap().success(), "{}", self.gateway.log());
        let args = ["log", "verify", "data/archive", "--key", "data/log.vkey"];
        let done = cli_in(self.gateway.dir().path(), &args).unwrap();
        assert_eq!(done.code(), 0, "{}{}", done.out(), done.err());
    }
}

pub fn more_columns(columns: &str, resource: &str) -> String {
    let more = "\"public.people.ssn\" = \"pii.ssn\"\n\"public.base.ssn\" = \"pii.ssn\"\n";
    let table = format!("[resources.{resource}.classes]\n");
    columns.replace(&table, &format!("{more}{table}"))
}

pub fn leaks(text: &str) -> Option<&'static str> {
    SECRETS.iter().copied().find(|secret| text.contains(secret))
}

/// Event ids and times differ between any two runs, and so do the names of the resources.
pub fn without_marks(text: &str, resource: &str) -> String {
    let mut out = String::new();
    for line in text.lines().filter(|line| !line.starts_with("DETAIL:  {\"bulla\"")) {
        // Whose notification it was.
        let line = match line.find(" received from server process") {
            Some(at) => &line[..at],
            None => line,
        };
        let line = match line.find("bulla sessions show") {
            Some(at) => &line[..at],
            None => line,
        };
        out.push_str(&line.replace(resource, "R").replace("orders", "R"));
        out.push('\n');
    }
    out
}
