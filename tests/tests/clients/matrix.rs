//! `docs/clients.md`: a row for each client, written and checked by the client's own test.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::PathBuf;

use crate::world::Said;

/// Clients in the order of the table.
const CLIENTS: &[&str] = &[
    "psql",
    "pgbench",
    "pg_dump, pg_restore",
    "psycopg 3",
    "psycopg2",
    "asyncpg",
    "pg8000",
    "SQLAlchemy on psycopg 3",
    "SQLAlchemy on psycopg2",
    "SQLAlchemy on pg8000",
    "Django",
    "node-postgres",
    "postgres.js",
    "pgjdbc",
    "pgx",
    "tokio-postgres",
];

/// What has a column, and what a client does to fill it. Whatever else a client tries is named in
/// its last column.
const FEATURES: &[(&str, &str)] = &[
    ("connect", "TLS with the certificate verified, a token as the password"),
    ("prepared", "prepared statements, used again with other values; batches"),
    ("binary", "binary values in both directions, of a dozen types"),
    ("transactions", "commit, rollback, savepoints, the failed state, isolation levels"),
    ("errors", "code, position, table and constraint of an error; notices"),
    ("notify", "`LISTEN` in one session, `NOTIFY` in another"),
    ("copy", "20,000 rows in by `COPY` and out again"),
    ("large", "a result of 20 MB; where values are bound in binary, one of 8 MiB"),
    ("cancel", "a running statement is cancelled, and the session goes on"),
    ("refusal", "a refused statement is an error with code `42501`, and the session goes on"),
    ("pipeline", "many statements without waiting; a refusal among them leaves no half"),
    ("cursor", "rows in portions: server-side cursors, portals"),
    ("expiry", "the client's pool outlives the token that it began with"),
    ("rebind", "a session outlives its token when its service shows a newer one"),
    ("direct TLS", "TLS without `SSLRequest`, by ALPN"),
    ("protocol 3.2", "protocol 3.2 and nothing less, with its longer cancel keys"),
];

/// `(client, feature, target, why)`: what does not work, in words for who needs it to. A test fails
/// when one of these works, too.
const KNOWN: &[(&str, &str, &str, &str)] = &[];

const HEAD: &str = "\
# Clients

What unmodified clients do through the gateway, on PostgreSQL 15 and 18. Each row is written by a
test that runs the client against real servers (`tests/tests/clients.rs`) and fails when the row is
out of date; `BULLA_UPDATE=1 cargo xtask test clients` writes it anew. Each of these runs ends with
`bulla log verify` over its record.

A password is a token that expires, so a pool is given a function or a file where it was given a
password. `tests/clients` has a program for each client to copy from.

";

fn path() -> PathBuf {
    xtask::places::root().join("docs/clients.md")
}

/// One client's outcome.
#[derive(Default)]
struct Outcome {
    version: String,
    /// By feature, then target: why not, if not.
    features: BTreeMap<String, BTreeMap<String, Option<String>>>,
}

fn read(said: &Said) -> Outcome {
    let mut outcome = Outcome::default();
    for (target, text) in said {
        for line in text.lines() {
            let mut fields = line.split('\t');
            let (kind, name) = (fields.next().unwrap_or_default(), fields.next());
            let verdict = match (kind, name) {
                ("version", Some(version)) => {
                    version.clone_into(&mut outcome.version);
                    continue;
                }
                ("ok", Some(_)) => None,
                ("no", Some(_)) => Some(fields.next().unwrap_or_default().to_owned()),
                _ => panic!("a client said `{line}`"),
            };
            let feature = outcome.features.entry(name.unwrap_or_default().to_owned()).or_default();
            feature.insert(target.clone(), verdict);
        }
    }
    outcome
}

/// The row that an outcome makes.
fn row(client: &str, outcome: &Outcome, targets: &BTreeSet<&String>) -> String {
    let cell = |tried: Option<&BTreeMap<String, Option<String>>>| match tried {
        None => "–".to_owned(),
        Some(tried) => {
            let good = tried.iter().filter(|(_, why)| why.is_none()).map(|(target, _)| target);
            let good: Vec<&str> = good.map(String::as_str).collect();
            match good.len() {
                0 => "no".to_owned(),
                some if some == targets.len() => "✓".to_owned(),
                _ => good.join(", "),
            }
        }
    };
    let mut row = format!("| {client} | {} |", outcome.version);
    for (feature, _) in FEATURES {
        let _ = write!(row, " {} |", cell(outcome.features.get(*feature)));
    }
    let is_column = |name: &String| FEATURES.iter().any(|(feature, _)| feature == name);
    let others = outcome.features.iter().filter(|(name, _)| !is_column(name));
    let others = others.map(|(name, tried)| match cell(Some(tried)).as_str() {
        "✓" => name.clone(),
        some => format!("{name} ({some})"),
    });
    let others: Vec<String> = others.collect();
    let _ = write!(row, " {} |", others.join(", "));
    row
}

/// Checks a client's row, or writes it.
pub fn check(client: &str, said: &Said) {
    assert!(CLIENTS.contains(&client), "add `{client}` to the clients of the table");
    let outcome = read(said);
    assert!(!outcome.version.is_empty(), "`{client}` said no version");
    let mut wrong = String::new();
    for (feature, tried) in &outcome.features {
        for (target, why) in tried {
            let known =
                KNOWN.iter().any(|known| (known.0, known.1, known.2) == (client, feature, target));
            match why {
                Some(why) if !known => {
                    let _ = writeln!(wrong, "{client}, {feature}, PostgreSQL {target}: {why}");
                }
                None if known => {
                    let _ = writeln!(wrong, "{client}, {feature}, PostgreSQL {target}: works now");
                }
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "not as known:\n{wrong}");
    let targets = said.keys().collect();
    let row = row(client, &outcome, &targets);
    let found = with_file(|rows| {
        let found = rows.get(client).cloned();
        if updating() {
            rows.insert(client.to_owned(), row.clone());
        }
        found
    });
    if !updating() {
        let found = found.unwrap_or_default();
        let old = "docs/clients.md is out of date: BULLA_UPDATE=1 cargo xtask test clients";
        assert_eq!(unversioned(&found), unversioned(&row), "{old}");
    }
}

/// A row without the version: a distribution's update is no news here.
fn unversioned(row: &str) -> String {
    let cells = row.split(" | ").enumerate().filter(|(number, _)| *number != 1);
    cells.map(|(_, cell)| cell).collect::<Vec<_>>().join(" | ")
}

fn updating() -> bool {
    std::env::var_os("BULLA_UPDATE").is_some()
}

/// Checks that the document is what its rows make, and that no client is missing.
pub fn whole() {
    with_file(|rows| {
        if !updating() {
            let missing: Vec<_> =
                CLIENTS.iter().filter(|name| !rows.contains_key(**name)).collect();
            assert!(missing.is_empty(), "docs/clients.md has no row of {missing:?}");
        }
    });
}

/// Reads the rows, lets `change` at them, and writes the document again if we are to; otherwise it
/// must already be what its rows make.
fn with_file<T>(change: impl FnOnce(&mut BTreeMap<String, String>) -> T) -> T {
    let lock = File::create(std::env::temp_dir().join("bulla-clients.lock")).unwrap();
    lock.lock().unwrap();
    let text = fs::read_to_string(path()).unwrap_or_default();
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let client = line.strip_prefix("| ").and_then(|line| line.split(" | ").next());
        if let Some(client) = client.filter(|client| CLIENTS.contains(client)) {
            rows.insert(client.to_owned(), line.to_owned());
        }
    }
    let result = change(&mut rows);
    let readme = fs::read_to_string(readme_path()).unwrap();
    for (path, text, made) in
        [(path(), &text, document(&rows)), (readme_path(), &readme, with_summary(&readme, &rows))]
    {
        if updating() {
            fs::write(path, made).unwrap();
        } else {
            let old = "is out of date: BULLA_UPDATE=1 cargo xtask test clients";
            assert_eq!(*text, made, "{} {old}", path.display());
        }
    }
    result
}

fn readme_path() -> PathBuf {
    xtask::places::root().join("README.md")
}

/// Around the summary in the README.
const BEGIN: &str = "<!-- clients: written by `BULLA_UPDATE=1 cargo xtask test clients` -->\n";
const END: &str = "<!-- /clients -->\n";

/// The README with what the rows say, in short.
fn with_summary(readme: &str, rows: &BTreeMap<String, String>) -> String {
    let (before, rest) = readme.split_once(BEGIN).expect("the README's summary of clients begins");
    let (_, after) = rest.split_once(END).expect("the README's summary of clients ends");
    let mut table =
        String::from("| Client | Version | Tried on PostgreSQL 15 and 18 |\n|---|---|---|\n");
    for row in CLIENTS.iter().filter_map(|client| rows.get(*client)) {
        let cells: Vec<&str> = row.trim_matches(['|', ' ']).split(" | ").collect();
        let marks = cells.get(2..).unwrap_or_default();
        let all = FEATURES.iter().map(|(name, _)| *name).zip(marks);
        let tried = all.filter(|(_, mark)| **mark != "–").map(|(name, mark)| match *mark {
            "✓" => name.to_owned(),
            some => format!("{name} ({some})"),
        });
        let others = marks.get(FEATURES.len()).filter(|others| !others.is_empty());
        let tried: Vec<String> = tried.chain(others.map(|others| (*others).to_owned())).collect();
        let _ = writeln!(table, "| {} | {} | {} |", cells[0], cells[1], tried.join(", "));
    }
    format!("{before}{BEGIN}{table}{END}{after}")
}

fn document(rows: &BTreeMap<String, String>) -> String {
    let mut text = HEAD.to_owned();
    let names: Vec<&str> = FEATURES.iter().map(|(name, _)| *name).collect();
    let _ = writeln!(text, "| Client | Version | {} | And |", names.join(" | "));
    let _ = writeln!(text, "|{}", "---|".repeat(FEATURES.len() + 3));
    for client in CLIENTS {
        if let Some(row) = rows.get(*client) {
            let _ = writeln!(text, "{row}");
        }
    }
    text.push_str(
        "\n✓ on both; `15` or `18` on that one alone; – not tried: the client has no such thing, or \
         it is its\ndriver's.\n",
    );
    text.push_str("\n## What the columns mean\n\n| Column | Tried |\n|---|---|\n");
    for (name, meaning) in FEATURES {
        let _ = writeln!(text, "| {name} | {meaning} |");
    }
    text.push_str("\n## What does not work\n\n");
    for (client, feature, target, why) in KNOWN {
        let _ = writeln!(text, "- **{client}**, {feature}, PostgreSQL {target}: {why}");
    }
    text.push_str(NOT);
    text.push_str(&crate::never::section());
    text
}

/// What no row can show.
const NOT: &str = "\
- **OAUTHBEARER** is not offered yet. A client that insists on it (`require_auth=oauth`) is told that
  the server asks for a password, and sends nothing.
- **Replication** connections need a permit of their own (`postgres:replicate`, docs/postgres.md), since
  what they carry is recorded and not read. Without it `pg_basebackup` is refused.
- **`pg_dump`** wants to be at least as new as its server; version 15 is tried on PostgreSQL 15 alone.
";
