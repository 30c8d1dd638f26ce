//! PostgreSQL's own programs: psql, pgbench, `pg_dump` and `pg_restore`.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::{Duration, Instant};

use bulla_e2e::client::{Dial, program};
use bulla_e2e::expect::has;
use bulla_e2e::postgres::Postgres;
use bulla_e2e::proc::{Captured, Proc, Signal, capture};

use crate::world::{PATIENCE, Side};

/// Collects what a program of the matrix prints.
pub struct Report(String);

impl Report {
    pub fn new(version: &str) -> Self {
        Self(format!("version\t{version}\n"))
    }

    pub fn feature(&mut self, name: &str, run: impl FnOnce()) {
        // The panic's message is on standard error; its first line is why.
        let verdict = catch_unwind(AssertUnwindSafe(run));
        let _ = match verdict {
            Ok(()) => writeln!(self.0, "ok\t{name}"),
            Err(why) => {
                let why = why.downcast_ref::<String>().cloned().unwrap_or_default();
                writeln!(self.0, "no\t{name}\t{}", why.replace(['\n', '\t'], " "))
            }
        };
    }

    pub fn end(self) -> String {
        self.0
    }
}

/// `psql (PostgreSQL) 15.18 (Debian …)`
fn version(name: &str) -> String {
    let mut command = Command::new(program(name).unwrap());
    command.arg("--version");
    let said = capture(command, None, PATIENCE).unwrap().success().unwrap();
    said.split(' ').nth(2).unwrap_or_default().trim().to_owned()
}

fn run(dial: &Dial, name: &str, args: &[&str]) -> Captured {
    let mut command = dial.command(&program(name).unwrap());
    command.args(args);
    capture(command, None, PATIENCE).unwrap()
}

fn good(dial: &Dial, name: &str, args: &[&str]) -> String {
    let done = run(dial, name, args);
    assert_eq!(done.code(), 0, "{name} {args:?}: {done}");
    done.out()
}

/// A script for psql; its output and its errors, as one would see them.
fn script(dial: &Dial, sql: &str) -> String {
    let mut psql = dial.command(&program("psql").unwrap());
    psql.args(["-X", "-A", "-t", "-q", "-v", "VERBOSITY=verbose"]);
    let done = capture(psql, Some(sql.as_bytes().to_vec()), PATIENCE).unwrap();
    format!("{}{}", done.out(), done.err())
}

/// What psql's own commands ask of the catalogue.
const DESCRIBE: &[&str] = &[
    "\\d",
    "\\d customers",
    "\\d+ customers",
    "\\d+ contacts",
    "\\dt+",
    "\\dv",
    "\\dm",
    "\\di",
    "\\ds",
    "\\dn+",
    "\\df+",
    "\\sf cents",
    "\\sv contacts",
    "\\dT+",
    "\\dD",
    "\\dp",
    "\\dx",
    "\\du",
    "\\ddp",
    "\\dO",
    "\\da sum",
    "\\do ||",
    "\\dFp",
    "\\dRp",
    "\\dy",
    "\\dconfig work_mem",
    "\\encoding",
    "\\z payments",
];

pub fn psql(side: &Side) -> String {
    let dial = &side.dial;
    let mut report = Report::new(&version("psql"));
    report.feature("connect", || {
        has(
            &good(dial, "psql", &["-X", "-c", "\\conninfo", "-c", "SELECT 1"]),
            &["SSL connection"],
        );
    });
    report.feature("prepared", || {
        let said = script(
            dial,
            "PREPARE p (int) AS SELECT name FROM customers WHERE id = $1;\n\
             EXECUTE p (7);\nEXECUTE p (9);\nDEALLOCATE p;\nEXECUTE p (7);\n",
        );
        has(&said, &["Ada\nGrace\n", "26000"]);
    });
    report.feature("transactions", || {
        let said = script(
            dial,
            "CREATE TABLE tx (a int);\nBEGIN;\nINSERT INTO tx VALUES (1);\nSAVEPOINT s;\n\
             SELECT 1/0;\nSELECT 1;\nROLLBACK TO s;\nINSERT INTO tx VALUES (2);\nCOMMIT;\n\
             BEGIN;\nDELETE FROM tx;\nROLLBACK;\nSELECT 'kept', sum(a) FROM tx;\n",
        );
        has(&said, &["22012", "25P02", "kept|3"]);
    });
    report.feature("errors", || {
        let sql = "SELECT nothing FROM customers;\n\\errverbose\nDROP TABLE IF EXISTS nothing;\n\
                   INSERT INTO customers (id, name, email, ssn, region) VALUES (7,'','','','EU');\n\
                   SELEC 1;\n";
        let said = script(dial, sql);
        let direct = script(&direct(side), sql);
        has(&said, &["42703", "LINE 1: SELECT nothing", "NOTICE:  00000: table", "23505"]);
        // The gateway reads the last one first, and says where it is wrong as the server would.
        let place = "LINE 1: SELEC 1;\n        ^";
        has(&said, &[place]);
        has(&direct, &[place]);
    });
    report.feature("notify", || {
        has(
            &script(dial, "LISTEN x;\nNOTIFY x, 'one';\nSELECT 1;\n"),
            &["\"x\" with payload \"one\""],
        );
    });
    report.feature("copy", || {
        let sql = "CREATE TABLE copied (a int, b text);\n\
                   \\copy copied from program 'seq 20000' with (format csv, header false, null 'x')\n\
                   ALTER TABLE copied DROP b;\n\
                   \\copy copied from program 'seq 20000'\n\
                   \\copy (select count(*), sum(a) from copied) to stdout csv\n\
                   COPY copied FROM STDIN;\nx\n\\.\nSELECT 'still', count(*) FROM copied;\n";
        has(&script(dial, sql), &["20000,200010000", "22P02", "still|20000"]);
    });
    report.feature("large", || {
        let sql = "SELECT n, repeat('x', 200) FROM generate_series(1, 100000) n";
        assert!(good(dial, "psql", &["-X", "-A", "-t", "-c", sql]).len() > 20_000_000);
    });
    report.feature("cancel", || cancel(side));
    report.feature("refusal", || {
        let sql = "SELECT employee FROM salaries;\nSELECT 'alive';\nBEGIN;\n\
                   INSERT INTO notes (body) VALUES ('half');\nSELECT employee FROM salaries;\n\
                   COMMIT;\nSELECT 'notes', count(*) FROM notes;\n";
        has(&script(dial, sql), &["42501: refused: `SELECT` on `", "alive", "notes|0"]);
    });
    report.feature("cursor", || {
        let sql = "\\set FETCH_COUNT 100\nSELECT n FROM generate_series(1, 1000) n;\n";
        assert_eq!(script(dial, sql).lines().count(), 1000);
    });
    report.feature("describe", || {
        for what in DESCRIBE {
            let args = ["-X", "-c", what];
            let through = run(dial, "psql", &args).to_string();
            assert_eq!(through, run(&direct(side), "psql", &args).to_string(), "{what}");
        }
    });
    report.end()
}

/// Past the gateway, as the gateway's own login: what a client sees must be the same.
fn direct(side: &Side) -> Dial {
    side.server.dial("bulla_scram", "scram secret")
}

fn cancel(side: &Side) {
    let mut psql = side.dial.command(&program("psql").unwrap());
    psql.args(["-X", "-c", "SELECT pg_sleep(60)", "-c", "SELECT 'alive'"]);
    let running = Proc::spawn("psql", psql).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while !side.server.log().contains("pg_sleep(60)") {
        assert!(Instant::now() < until, "the statement never ran");
        std::thread::sleep(Duration::from_millis(20));
    }
    running.signal(Signal::Interrupt).unwrap();
    running.wait(Duration::from_secs(20)).unwrap();
    has(&running.log(), &["canceling statement due to user request"]);
}

const PIPELINE: &str = "\\startpipeline\n\
    SELECT abalance FROM pgbench_accounts WHERE aid = 1;\n\
    UPDATE pgbench_tellers SET tbalance = tbalance + 1 WHERE tid = 1;\n\
    SELECT tbalance FROM pgbench_tellers WHERE tid = 1;\n\\endpipeline\n";

pub fn pgbench(side: &Side) -> String {
    let dial = &side.dial;
    let mut report = Report::new(&version("pgbench"));
    let bench = |args: &[&str]| {
        let said = good(dial, "pgbench", args);
        has(&said, &["number of failed transactions: 0"]);
    };
    report.feature("initialise", || {
        good(dial, "pgbench", &["-i", "-q", "-s", "1", "--foreign-keys"]);
    });
    for mode in ["simple", "extended", "prepared"] {
        report.feature(mode, || bench(&["-M", mode, "-c", "4", "-t", "25", "-n"]));
    }
    report.feature("read only", || bench(&["-M", "prepared", "-S", "-c", "4", "-t", "100", "-n"]));
    report.feature("a session each", || bench(&["-C", "-S", "-c", "2", "-t", "10", "-n"]));
    let file = side.scratch.write("pipeline.sql", PIPELINE).unwrap();
    let file = file.to_string_lossy().into_owned();
    report.feature("pipeline", || {
        bench(&["-M", "prepared", "-c", "2", "-t", "50", "-n", "-f", &file]);
        let sum = side.server.sql("SELECT count(*) FROM pgbench_history").unwrap();
        assert_eq!(sum.trim(), "300");
    });
    report.end()
}

const BLOB: &str = "INSERT INTO blobs VALUES (1, decode(repeat('00ff', 500000), 'hex'))";

/// A dump without its key, which is another in each: `\\restrict KEY`.
fn unlocked(dump: &str) -> String {
    let is_key = |line: &&str| line.starts_with("\\restrict") || line.starts_with("\\unrestrict");
    dump.lines().filter(|line| !is_key(line)).collect::<Vec<_>>().join("\n")
}

pub fn pg_dump(side: &Side) -> String {
    let (dial, direct) = (&side.dial, direct(side));
    let mut report = Report::new(&version("pg_dump"));
    let scratch = |name: &str| side.scratch.join(name).to_string_lossy().into_owned();
    side.server.sql(BLOB).unwrap();
    // The policy keeps one table back; a dump that should be whole leaves it out itself.
    let rest = ["--exclude-table", "salaries"];
    let (custom, folder) = (scratch("custom.dump"), scratch("folder"));
    // A dump is made of the server of the program's own version; it refuses a newer one.
    let same = version("pg_dump").starts_with(&side.target);
    if same {
        report.feature("plain", || {
            for more in [&[][..], &["--schema-only", "--no-owner"], &["--inserts"]] {
                let args = [&rest[..], more].concat();
                let dump = |dial| unlocked(&good(dial, "pg_dump", &args));
                assert!(dump(dial) == dump(&direct), "{args:?} differ");
            }
        });
        report.feature("refusal", || {
            let done = run(dial, "pg_dump", &[]);
            assert_ne!(done.code(), 0);
            has(&done.err(), &["refused: ", "salaries`"]);
        });
        report.feature("parallel", || {
            good(dial, "pg_dump", &[&rest[..], &["-F", "d", "-j", "2", "-f", &folder]].concat());
        });
        report.feature("archive", || {
            good(dial, "pg_dump", &[&rest[..], &["-F", "c", "-f", &custom]].concat());
        });
    } else {
        // What is restored comes from an older server then, as when one moves to a newer.
        let older = Postgres::start(side.server.authority()).unwrap();
        older.sql(BLOB).unwrap();
        let dial = older.dial("bulla_scram", "scram secret");
        good(&dial, "pg_dump", &[&rest[..], &["-F", "c", "-f", &custom]].concat());
    }
    report.feature("restore", || {
        let restored = side.server.admin("empty");
        let name = side.empty.database.as_str();
        let usual = ["-d", name, "--exit-on-error", "--clean", "--if-exists", "--no-owner"];
        let archives: &[(&str, &[&str])] = if same {
            &[(&custom, &["--single-transaction"]), (&folder, &["-j", "2"])]
        } else {
            &[(&custom, &["--single-transaction"]), (&custom, &["-j", "2"])]
        };
        for (archive, more) in archives {
            good(&side.empty, "pg_restore", &[&usual[..], more, &[archive]].concat());
            let sums = "SELECT count(*), sum(length(body)) FROM blobs";
            assert_eq!(restored.psql_rows(sums).unwrap(), "1|1000000");
            let count = "SELECT count(*) FROM customers JOIN orders ON customer_id = customers.id";
            assert_eq!(restored.psql_rows(count).unwrap(), "5");
        }
    });
    report.end()
}
