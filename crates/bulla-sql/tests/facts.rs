//! The readings of `cases/*.txt`: a statement, then one line of facts for each statement in it.
//!
//! ```text
//! # a comment
//! @path "$user", public      (or: unknown)
//! @temp a, b                 (or: unknown)
//! SELECT name
//! FROM customers
//!   = select PURE read | select:public.customers(name)
//! ```
//! A blank line ends a case; directives hold until the next one. `␀` in a statement is a NUL.
//! `BULLA_UPDATE=1` writes what the code says; read the difference before you commit it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use bulla_sql::SearchPath;
use support::{lines, public, read};

fn path_of(text: &str) -> SearchPath {
    if text == "unknown" { SearchPath::unknown() } else { SearchPath::parse(text, "postgres") }
}

/// Reads every case of a file and gives the file as it ought to be.
fn replay(text: &str) -> (String, usize) {
    let mut out = String::new();
    let mut count = 0;
    let (mut base, mut temp) = (public(), Some(Vec::<String>::new()));
    let mut sql = String::new();
    for line in text.lines().chain([""]) {
        if line.starts_with("  =") {
            continue;
        }
        if let Some(path) = line.strip_prefix("@path") {
            base = path_of(path.trim());
        } else if let Some(names) = line.strip_prefix("@temp") {
            temp = (names.trim() != "unknown").then(|| {
                names.split(',').map(|n| n.trim().to_owned()).filter(|n| !n.is_empty()).collect()
            });
        } else if line.starts_with("# ") || line == "#" {
        } else if !line.is_empty() {
            if !sql.is_empty() {
                sql.push('\n');
            }
            sql.push_str(line);
        } else if !sql.is_empty() {
            let path = match &temp {
                Some(names) if base.schemas().is_some() => base.clone().with_temp(names.clone()),
                Some(_) => base.clone(),
                None => base.clone().with_temp_unknown(),
            };
            for facts in lines(&read(&sql.replace('␀', "\0"), &path)) {
                let _ = writeln!(out, "  = {facts}");
            }
            count += 1;
            sql.clear();
        }
        out.push_str(line);
        out.push('\n');
    }
    while out.ends_with("\n\n") {
        out.pop();
    }
    (out, count)
}

fn check(name: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(name);
    let want = fs::read_to_string(&file).unwrap();
    let (got, count) = replay(&want);
    assert!(count > 5, "{name} has {count} cases");
    if want == got {
        return;
    }
    if std::env::var_os("BULLA_UPDATE").is_some() {
        fs::write(&file, got).unwrap();
        return;
    }
    let differences: Vec<_> = want
        .lines()
        .zip(got.lines())
        .enumerate()
        .filter(|(_, (w, g))| w != g)
        .take(10)
        .map(|(n, (w, g))| format!("line {}\n  want {w}\n  got  {g}", n + 1))
        .collect();
    panic!("{name} differs\n{}", differences.join("\n"));
}

macro_rules! cases {
    ($($name:ident)*) => { $(
        #[test]
        fn $name() {
            check(concat!(stringify!($name), ".txt"));
        }
    )* };
}

cases! {
    lexer names kinds columns views settings types utility
    controls_psql controls_pg_dump controls_pgbench controls_orms controls_jdbc
}

/// What ordinary tools send is read without doubt, and their catalogue queries are pure.
#[test]
fn controls_leave_no_doubt() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut pure = 0;
    for name in ["psql", "pg_dump", "pgbench", "orms", "jdbc"] {
        let text = fs::read_to_string(directory.join(format!("controls_{name}.txt"))).unwrap();
        let facts = text.lines().filter_map(|l| l.strip_prefix("  = "));
        for line in facts {
            // The two that are doubtful by right: a CASCADE, and a setting that is refused.
            let right = line.contains("?CASCADE") || line.contains("row_security=off REFUSED");
            let doubt = line.contains("| ?") || line.contains("REFUSED");
            assert!(!doubt || right, "{name}: {line}");
            assert!(!line.starts_with("SYNTAX") && !line.starts_with("unknown"), "{line}");
            pure += usize::from(line.starts_with("select PURE"));
        }
    }
    assert!(pure > 200, "{pure}");
}
