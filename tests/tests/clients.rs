//! Unmodified clients do their ordinary work through the gateway, and write down how it went.
//!
//! Each program tries one thing after the other and prints what worked; the result is the client's
//! row in `docs/clients.md`, which a test fails on when it is out of date. To write the rows anew:
//! `BULLA_UPDATE=1 cargo xtask test clients`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "clients/masked.rs"]
mod masked;
#[path = "clients/matrix.rs"]
mod matrix;
#[path = "clients/never.rs"]
mod never;
#[path = "clients/oauth.rs"]
mod oauth;
#[path = "clients/programs.rs"]
mod programs;
#[path = "clients/tokio.rs"]
mod tokio_client;
#[path = "clients/world.rs"]
mod world;

use std::path::{Path, PathBuf};
use std::process::Command;

use bulla_e2e::client::Dial;
use bulla_e2e::place::TempDir;
use bulla_e2e::proc::{Captured, capture};
use world::{PATIENCE, Side, World};
use xtask::places;

/// Programs that the test runs, beside this folder.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// Runs a client against both servers and checks its row.
fn row(client: &str, run: impl Fn(&Side) -> String + Sync) {
    let world = World::start(client);
    let said = world.both(run);
    world.verified();
    matrix::check(client, &said);
}

fn said(done: &Captured) -> String {
    assert_eq!(done.code(), 0, "{done}");
    eprintln!("{}", done.err());
    done.out()
}

fn python(dial: &Dial, file: &str) -> String {
    let python = places::python();
    assert!(python.is_file(), "no Python drivers; install them: cargo xtask setup");
    let mut command = dial.command(&python);
    command.args(["-B", "-s"]).arg(fixture(file));
    said(&capture(command, None, PATIENCE).unwrap())
}

fn node(dial: &Dial, file: &str) -> String {
    let modules = places::node_modules();
    assert!(modules.is_dir(), "no Node drivers; install them: cargo xtask setup");
    let mut command = dial.command(&places::which("node").expect("install it: cargo xtask setup"));
    command.env("NODE_PATH", modules).arg(fixture(file));
    said(&capture(command, None, PATIENCE).unwrap())
}

#[test]
fn psycopg3() {
    row("psycopg 3", |side| python(&side.dial, "psycopg3.py"));
}

#[test]
fn psycopg2() {
    row("psycopg2", |side| python(&side.dial, "psycopg2_.py"));
}

#[test]
fn asyncpg() {
    row("asyncpg", |side| python(&side.dial, "asyncpg_.py"));
}

#[test]
fn pg8000() {
    row("pg8000", |side| python(&side.dial, "pg8000_.py"));
}

fn sqlalchemy(client: &str, driver: &str) {
    row(client, |side| python(&side.dial.clone().env("BULLA_DRIVER", driver), "sqlalchemy_.py"));
}

#[test]
fn sqlalchemy_on_psycopg3() {
    sqlalchemy("SQLAlchemy on psycopg 3", "psycopg");
}

#[test]
fn sqlalchemy_on_psycopg2() {
    sqlalchemy("SQLAlchemy on psycopg2", "psycopg2");
}

#[test]
fn sqlalchemy_on_pg8000() {
    sqlalchemy("SQLAlchemy on pg8000", "pg8000");
}

#[test]
fn django() {
    row("Django", |side| python(&side.dial, "django_.py"));
}

#[test]
fn node_postgres() {
    row("node-postgres", |side| node(&side.dial, "node_postgres.js"));
}

#[test]
fn postgres_js() {
    row("postgres.js", |side| node(&side.dial, "postgres_js.js"));
}

#[test]
fn pgjdbc() {
    let jars = [places::PGJDBC, places::HIKARI, places::SLF4J];
    for jar in jars {
        assert!(Path::new(jar).is_file(), "no {jar}; install it: cargo xtask setup");
    }
    let missing = "no Java; install it: apt-get install default-jdk-headless";
    let classes = TempDir::new("jdbc").unwrap();
    let path = format!("{}:{}", classes.path().display(), jars.join(":"));
    let mut javac = Command::new(places::which("javac").expect(missing));
    javac.args(["-encoding", "UTF-8", "-cp", &path, "-d"]).arg(classes.path());
    javac.arg(fixture("Jdbc.java"));
    let built = capture(javac, None, PATIENCE).unwrap();
    assert_eq!(built.code(), 0, "{built}");
    row("pgjdbc", |side| {
        let mut java = side.dial.command(&places::which("java").expect(missing));
        // Starts quickly; speed is not what is tried here.
        java.args(["-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8", "-cp", &path, "Jdbc"]);
        said(&capture(java, None, PATIENCE).unwrap())
    });
}

#[test]
fn pgx() {
    let home = places::cache().join("go");
    let program = home.join(format!("pgx-{}", std::process::id()));
    let missing = "no Go; install it: apt-get install golang-go";
    let mut go = Command::new(places::which("go").expect(missing));
    go.env("GO111MODULE", "off").env("GOPATH", places::GOPATH).env("GOFLAGS", "-trimpath");
    go.env("GOCACHE", home.join("build")).env("CGO_ENABLED", "0");
    go.args(["build", "-o"]).arg(&program).arg(".").current_dir(fixture("pgx"));
    let built = capture(go, None, PATIENCE).unwrap();
    assert_eq!(built.code(), 0, "is golang-github-jackc-pgx-v4-dev installed?\n{built}");
    // `4.15.0-4`
    let mut ask = Command::new("dpkg-query");
    ask.args(["-W", "-f", "${Version}", "golang-github-jackc-pgx-v4-dev"]);
    let version = capture(ask, None, PATIENCE).unwrap().success().unwrap();
    let version = version.split('-').next().unwrap_or_default().to_owned();
    row("pgx", |side| {
        let command = side.dial.clone().env("BULLA_PGX", &version).command(&program);
        said(&capture(command, None, PATIENCE).unwrap())
    });
    std::fs::remove_file(program).unwrap();
}

#[test]
fn tokio_postgres() {
    row("tokio-postgres", tokio_client::run);
}

#[test]
fn psql() {
    row("psql", programs::psql);
}

#[test]
fn pgbench() {
    row("pgbench", programs::pgbench);
}

#[test]
fn pg_dump() {
    row("pg_dump, pg_restore", programs::pg_dump);
}

/// Masks are no burden to who does not ask for what they hide.
#[test]
fn clients_work_where_masks_are_in_force() {
    masked::run();
}

#[test]
fn the_matrix_is_whole() {
    matrix::whole();
}
