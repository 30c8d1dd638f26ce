//! PostgreSQL's own regression scripts, directly and through the gateway under a policy that
//! permits everything: the same words come back, or the difference is in
//! `tests/regress/differences.md`, explained and counted.
//!
//! Each script runs in psql against two servers that began alike. What psql prints holds rows,
//! notices, errors with their place, and what a failed transaction says to each further statement.
//!
//! `BULLA_UPDATE=1 cargo xtask test regress` counts anew; `BULLA_REGRESS=all` runs the scripts of
//! [`LONG`] too; any other value is a list of scripts to run alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "regress/differences.rs"]
mod differences;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use bulla_e2e::ca::Authority;
use bulla_e2e::client::{Dial, program};
use bulla_e2e::gateway::{Gateway, ResourceSpec, Spec};
use bulla_e2e::issuer::Issuer;
use bulla_e2e::place::TempDir;
use bulla_e2e::postgres::{Flavor, Options, Postgres, SUPERUSER_PASSWORD};
use bulla_e2e::proc::capture;
use xtask::places;

const DATABASE: &str = "regression";

const EVERYTHING: &str = r#"
@id("everything")
permit (principal, action, resource);
"#;

/// Hundreds of definitions each: after every one the gateway learns the catalogue anew. They take
/// a quarter of an hour together on a busy machine and are run on demand.
const LONG: &[&str] = &[
    "alter_table",
    "collate.icu.utf8",
    "create_table",
    "create_view",
    "domain",
    "event_trigger",
    "fast_default",
    "foreign_data",
    "foreign_key",
    "generated",
    "indexing",
    "inherit",
    "insert",
    "join_hash",
    "partition_join",
    "partition_prune",
    "plpgsql",
    "polymorphism",
    "privileges",
    "publication",
    "rangefuncs",
    "rowsecurity",
    "rules",
    "select_parallel",
    "stats_ext",
    "tablespace",
    "triggers",
    "updatable_views",
    "update",
];

/// What is run before PostgreSQL 18 as well: of each kind of statement and answer some.
const EIGHTEEN: &[&str] = &[
    "test_setup",
    "advisory_lock",
    "arrays",
    "case",
    "combocid",
    "copyselect",
    "delete",
    "dependency",
    "errors",
    "explain",
    "guc",
    "groupingsets",
    "insert_conflict",
    "join",
    "jsonb",
    "limit",
    "lock",
    "namespace",
    "plancache",
    "portals",
    "prepare",
    "prepared_xacts",
    "returning",
    "rowtypes",
    "select",
    "sequence",
    "strings",
    "subselect",
    "temp",
    "transactions",
    "union",
    "window",
    "with",
    "xml",
];

/// Where the second half begins, and what of the first half it needs.
const SECOND: &str = "select_into";
const NEEDED: &[&str] = &["test_setup", "create_misc", "create_operator", "create_index"];

const SCRIPT: Duration = Duration::from_secs(300);

#[test]
fn types_and_tables_are_the_same() {
    let (first, _) = halves();
    run(&first, Flavor::System);
}

#[test]
fn queries_and_features_are_the_same() {
    let (_, second) = halves();
    run(&second, Flavor::System);
}

/// The same scripts before PostgreSQL 18. It says some things otherwise than its elder, and the
/// gateway must say them so too.
#[test]
fn a_newer_server_is_the_same() {
    let wish = std::env::var("BULLA_REGRESS").unwrap_or_default();
    let names: Vec<String> = match wish.as_str() {
        "" | "all" => EIGHTEEN.iter().map(ToString::to_string).collect(),
        list => list.split(' ').map(str::to_owned).collect(),
    };
    run(&names, Flavor::Eighteen);
}

#[test]
fn every_difference_is_explained() {
    differences::whole();
}

fn home() -> PathBuf {
    let home = places::regression().filter(|home| home.join("sql").is_dir());
    home.unwrap_or_else(|| panic!("no regression scripts; install them: cargo xtask setup"))
}

/// The schedule's scripts in its order, without what was not asked for.
fn halves() -> (Vec<String>, Vec<String>) {
    let schedule = fs::read_to_string(home().join("parallel_schedule")).unwrap();
    let groups = schedule.lines().filter_map(|line| line.strip_prefix("test: "));
    let mut first: Vec<String> =
        groups.flat_map(str::split_whitespace).map(str::to_owned).collect();
    let at = first.iter().position(|name| name == SECOND).unwrap();
    let mut second: Vec<String> = NEEDED.iter().map(ToString::to_string).collect();
    second.extend(first.split_off(at));
    let wish = std::env::var("BULLA_REGRESS").unwrap_or_default();
    let asked = |name: &String| match wish.as_str() {
        "" => !LONG.contains(&name.as_str()),
        "all" => true,
        list => list.split(' ').any(|asked| asked == name) || name == "test_setup",
    };
    first.retain(asked);
    second.retain(asked);
    (first, second)
}

/// One of the two roads: a server of its own, and where its output goes.
struct Road {
    name: &'static str,
    dial: Dial,
    scripts: PathBuf,
    out: TempDir,
}

fn run(names: &[String], flavor: Flavor) {
    let authority = Authority::new("regress").unwrap();
    let scripts = TempDir::new("regress").unwrap();
    copied(&home(), scripts.path());
    let servers: Vec<Postgres> = (0..2).map(|_| prepared(&authority, flavor)).collect();
    let issuer = Issuer::start().unwrap();
    let mut spec = Spec::new(&servers[1], &issuer).policy("all.cedar", EVERYTHING);
    let mut resource = ResourceSpec::new(DATABASE, &servers[1], "postgres", SUPERUSER_PASSWORD);
    DATABASE.clone_into(&mut resource.database);
    spec.resources = vec![resource];
    let gateway = Gateway::start(&authority, spec).unwrap();
    let token = issuer.mint().unwrap().subject("regress").claim("team", "regress").expires(3_000);
    let mut through = gateway.dial(&token.token().unwrap());
    // Scripts connect again as `-`, which is the user that they began as.
    "postgres".clone_into(&mut through.user);
    let direct = servers[0].dial("postgres", SUPERUSER_PASSWORD).database(DATABASE);
    let road = |name, dial| {
        let scripts = scripts.path().join("regress");
        Road { name, dial, scripts, out: results() }
    };
    let roads = [road("direct", direct), road("gateway", through)];
    let mut outputs: Vec<BTreeMap<String, String>> = thread::scope(|scope| {
        let threads = roads.iter().map(|road| scope.spawn(move || road.run(names)));
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    if let Some(keep) = std::env::var_os("BULLA_OUT") {
        for (road, outputs) in roads.iter().zip(&outputs) {
            let keep = Path::new(&keep).join(road.name);
            fs::create_dir_all(&keep).unwrap();
            for (name, text) in outputs {
                fs::write(keep.join(name), text).unwrap();
            }
        }
    }
    assert!(gateway.terminate().unwrap().success(), "{}", gateway.log());
    if flavor == Flavor::Eighteen {
        for output in &mut outputs {
            let named = |(name, text)| (format!("{name}{}", differences::NEWER), text);
            *output = std::mem::take(output).into_iter().map(named).collect();
        }
    }
    differences::check(&outputs[0], &outputs[1]);
}

/// A server with the database of `pg_regress`, set as that sets it.
fn prepared(authority: &Authority, flavor: Flavor) -> Postgres {
    let server = Postgres::with(authority, &Options::flavor(flavor)).unwrap();
    let admin = server.admin("postgres");
    admin
        .psql_rows(
            "CREATE DATABASE regression TEMPLATE template0 ENCODING 'UTF8' \
             LC_COLLATE 'C' LC_CTYPE 'C'",
        )
        .unwrap();
    for setting in [
        "lc_messages TO 'C'",
        "lc_monetary TO 'C'",
        "lc_numeric TO 'C'",
        "lc_time TO 'C'",
        "bytea_output TO 'hex'",
        "timezone_abbreviations TO 'Default'",
    ] {
        admin.psql_rows(&format!("ALTER DATABASE regression SET {setting}")).unwrap();
    }
    server
}

/// The scripts' data is read by the server, who is somebody else.
fn copied(from: &Path, to: &Path) {
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(from).arg(to.join("regress"));
    capture(copy, None, SCRIPT).unwrap().success().unwrap();
    opened(to);
}

fn results() -> TempDir {
    let out = TempDir::new("results").unwrap();
    fs::create_dir(out.join("results")).unwrap();
    opened(out.path());
    out
}

fn opened(path: &Path) {
    let mut chmod = Command::new("chmod");
    chmod.args(["-R", "a+rwX"]).arg(path);
    capture(chmod, None, SCRIPT).unwrap().success().unwrap();
}

impl Road {
    /// What each script printed, free of what differs by its nature.
    fn run(&self, names: &[String]) -> BTreeMap<String, String> {
        let out = self.out.path().to_string_lossy().into_owned();
        let mut outputs = BTreeMap::new();
        for name in names {
            let started = Instant::now();
            let printed = self.script(name).replace(&out, "DIR");
            outputs.insert(name.clone(), printed);
            eprintln!("{} {name}: {} ms", self.name, started.elapsed().as_millis());
        }
        outputs
    }

    /// As `pg_regress` runs it.
    fn script(&self, name: &str) -> String {
        let psql = program("psql").unwrap();
        let input = self.scripts.join("sql").join(format!("{name}.sql"));
        let output = self.out.join(format!("{name}.out"));
        let mut shell = self.dial.command(Path::new("/bin/sh"));
        shell.arg("-c").arg(format!(
            "exec {} -X -a -q -v HIDE_TABLEAM=on -v HIDE_TOAST_COMPRESSION=on < {} > {} 2>&1",
            psql.display(),
            input.display(),
            output.display()
        ));
        shell.env("PGTZ", "PST8PDT").env("PGDATESTYLE", "Postgres, MDY");
        shell.env("PGOPTIONS", "-c intervalstyle=postgres_verbose");
        shell.env("PG_ABS_SRCDIR", &self.scripts).env("PG_ABS_BUILDDIR", self.out.path());
        shell.env("PG_LIBDIR", &self.scripts).env("PG_DLSUFFIX", ".so");
        shell.current_dir(self.out.path());
        // A script's psql may end in an error of its own; what it printed is what counts.
        capture(shell, None, SCRIPT).unwrap();
        String::from_utf8_lossy(&fs::read(output).unwrap()).into_owned()
    }
}
