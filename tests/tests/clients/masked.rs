//! The programs of the matrix where columns of the tables that they use are masked for them: less
//! than one of a hundred of their statements is refused because of that.

use std::fmt::Write as _;
use std::thread;

use bulla_e2e::client::Dial;
use bulla_e2e::gateway::Gateway;
use bulla_e2e::place::TempDir;

use crate::world::World;
use crate::{node, python};

/// What has nothing to do with statements, and takes long.
const SKIP: &str = "expiry,rebind,large,copy,cancel,notify,direct TLS,protocol 3.2,oauth,pooled";

/// Refusals that are the point of a test: the table that no policy permits.
const MEANT: &str = "SELECT employee FROM salaries";

/// Of so many statements at least this is told.
const STATEMENTS_MIN: usize = 500;

/// Names that programs made up, and that no table has: the server would say the same.
const MISSPELT: &str = "nothing";

type Program = (&'static str, fn(&Dial) -> String);

pub fn run() {
    let (server, gateway, issuer) = World::masked();
    let programs: [Program; 8] = [
        ("psycopg3", |dial| python(dial, "psycopg3.py")),
        ("psycopg2", |dial| python(dial, "psycopg2_.py")),
        ("asyncpg", |dial| python(dial, "asyncpg_.py")),
        ("pg8000", |dial| python(dial, "pg8000_.py")),
        ("sqlalchemy", |dial| {
            python(&dial.clone().env("BULLA_DRIVER", "psycopg"), "sqlalchemy_.py")
        }),
        ("django", |dial| python(dial, "django_.py")),
        ("node-postgres", |dial| node(dial, "node_postgres.js")),
        ("postgres.js", |dial| node(dial, "postgres_js.js")),
    ];
    let mut said = String::new();
    // Two at a time: they use the same tables, and some of them wait.
    for pair in programs.chunks(2) {
        let all = thread::scope(|scope| {
            let run = |(name, program)| {
                let (name, program): (&'static str, fn(&Dial) -> String) = (name, program);
                issuer.register(name, "secret", serde_json::json!({ "team": "clients" }));
                let token = issuer.mint().unwrap().subject(name).claim("team", "clients");
                let dial = gateway.dial_resource("pg15", &token.token().unwrap());
                let scratch = TempDir::new("masked").unwrap();
                let dial = dial
                    .env("BULLA_CLIENT", name)
                    .env("BULLA_TOKENS", &format!("{}/token", issuer.url()))
                    .env("BULLA_SCRATCH", &scratch.path().to_string_lossy())
                    .env("BULLA_SKIP", SKIP);
                scope.spawn(move || {
                    let _scratch = scratch;
                    format!("{name}:\n{}", program(&dial))
                })
            };
            let threads: Vec<_> = pair.iter().copied().map(run).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<String>()
        });
        said.push_str(&all);
    }
    println!("{said}");
    let mut psql =
        gateway.dial_resource("pg15", &issuer.mint().unwrap().subject("psql").token().unwrap());
    psql = psql.env("PAGER", "cat");
    let script = "\\d\n\\d+ customers\n\\df\n\\dn+\n\\l\n\\dt+\nSELECT * FROM customers;\n\\copy (SELECT * FROM customers) TO STDOUT CSV\n";
    let done = psql.psql_script(script).unwrap();
    assert!(done.out().contains("***"), "{}{}", done.out(), done.err());

    let (count, refused) = told(&gateway);
    let mut wrong = String::new();
    for (statement, why) in &refused {
        let _ = writeln!(wrong, "{statement}\n    {why}");
    }
    println!("{} of {count} refused:\n{wrong}", refused.len());
    assert!(count >= STATEMENTS_MIN, "only {count} statements:\n{said}");
    assert!(refused.len() * 100 < count, "{} of {count} refused:\n{wrong}", refused.len());
    drop(server);
}

/// How many statements the record has, and those that were refused because of masks.
fn told(gateway: &Gateway) -> (usize, Vec<(String, String)>) {
    let listed = gateway.cli(&["sessions", "ls", "--json"]).unwrap().success().unwrap();
    let sessions: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let (mut count, mut refused) = (0, Vec::new());
    for session in sessions.as_array().unwrap() {
        let id = session["session"].as_str().unwrap();
        let shown = gateway.cli(&["sessions", "show", id, "--json"]).unwrap().success().unwrap();
        let commands: serde_json::Value = serde_json::from_str(&shown).unwrap();
        for command in commands.as_array().unwrap() {
            let Some(statement) = command["statement"].as_str() else { continue };
            count += 1;
            let Some(why) = command["refusal"].as_str() else { continue };
            if !statement.contains(MEANT) && !statement.contains(MISSPELT) {
                refused.push((statement.to_owned(), why.to_owned()));
            }
        }
    }
    (count, refused)
}
