//! Hostile texts: refused in time, never a crash, and the reader lives on. What a text costs is
//! bounded by counting, not by the clock, so nothing here measures time: an answer other than
//! `TimedOut` is the assertion.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use bulla_sql::{Analyzer, Limits, ReadError, SearchPath};
use proptest::prelude::*;
use support::{catalog, public};

/// Unoptimised and on a busy machine everything is slower.
fn patient() -> Analyzer {
    Analyzer::new(Limits { wait: Duration::from_secs(120), ..Limits::default() }).unwrap()
}

fn read(analyzer: &Analyzer, sql: &str) -> Result<(), ReadError> {
    analyzer.read(sql, &catalog(), &public(), &|wait| wait()).map(|_| ())
}

/// L8 and its neighbours.
#[test]
fn hostile_texts_are_refused_and_the_reader_lives_on() {
    let analyzer = patient();
    let n = |text: &str, times: usize| text.repeat(times);
    let complex = |sql: String| {
        let answer = read(&analyzer, &sql);
        let head: String = sql.chars().take(40).collect();
        assert!(matches!(answer, Err(ReadError::TooComplex { .. })), "{head}…: {answer:?}");
        assert_eq!(read(&analyzer, "SELECT 1"), Ok(()), "after {head}…");
    };
    complex(format!("SELECT {}1{}", n("(", 100_000), n(")", 100_000)));
    complex(format!("SELECT 'a'{}", n(" || 'a'", 9_000)));
    complex(format!("SELECT 'a'{}", n(" || 'a'", 4_000)));
    complex(format!("{}SELECT 1{}", n("SELECT (", 2_500), n(")", 2_500)));
    complex(format!("{}SELECT 1{}", n("SELECT * FROM (", 900), n(") x", 900)));
    complex(n("SELECT 1;", 100_000));
    complex(n("SELECT 1;", 20_000));
    complex(format!("SELECT 1{}", n(" UNION SELECT 1", 4_000)));
    complex(format!("SELECT 1{}", n("::int", 4_500)));
    complex(format!("SELECT {}true", n("NOT ", 5_000)));
    complex(format!("SELECT {}id FROM customers", n("- ", 9_000)));
    complex(format!("SELECT {}1{}", n("CASE WHEN true THEN ", 900), n(" END", 900)));
    complex(format!("{}SELECT 1{}", n("WITH a AS (", 800), n(") SELECT 1", 800)));
    complex(format!("SELECT 1 FROM customers{}", n(" JOIN orders ON true", 9_000)));
    complex(format!("SELECT 1{}", n(",1", 400_000)));
    complex(format!("SELECT 1 WHERE true{}", n(" AND true", 300_000)));
    // What costs the scanner more than its length.
    complex(n("/*", 1_000_000));
    complex(format!("SELECT {}1", n("+", 3_000)));
    complex(format!("SELECT {}1", n("+-", 2_000)));
    complex(format!("SELECT {}{}1", n("=", 1_000_000), n("+", 100)));
    // What costs the walk more than its length.
    let tables: String = (0..1_500).map(|t| format!("pg_class t{t},")).collect();
    complex(format!("SELECT nothing{} FROM {tables} orders", n(",nothing", 3_000)));
}

#[test]
fn large_but_ordinary_texts_are_read() {
    let analyzer = patient();
    let n = |text: &str, times: usize| text.repeat(times);
    for sql in [
        format!("SELECT 'a'{}", n(" || 'a'", 300)),
        format!("SELECT 1{}", n(" UNION ALL SELECT 1", 200)),
        format!("SELECT id FROM customers WHERE id IN (1{})", n(",1", 50_000)),
        format!("INSERT INTO orders VALUES ($1,$2,$3,$4){}", n(",($1,$2,$3,$4)", 16_000)),
        format!("SELECT id FROM customers WHERE id = 1{}", n(" OR id = 2", 10_000)),
        format!("SELECT '{}'", n("x", 3_000_000)),
        format!("SELECT /*{}*/ ssn FROM customers", n("x", 3_000_000)),
        format!("/{}/ SELECT 1", n("*", 10_000)),
        format!("SELECT 1 --{}", n("-", 100_000)),
        format!("{}SELECT 1{}", n("SELECT (", 80), n(")", 80)),
        n("SELECT 1;", 9_000),
    ] {
        let head: String = sql.chars().take(60).collect();
        assert_eq!(read(&analyzer, &sql), Ok(()), "{head}");
    }
}

/// L7: behind megabytes of comment the rest is read all the same.
#[test]
fn nothing_hides_behind_length() {
    let analyzer = patient();
    let sql = format!("/*{}*/ SELECT ssn FROM customers", "x".repeat(3 << 20));
    let facts = analyzer.read(&sql, &catalog(), &public(), &|wait| wait()).unwrap();
    let lines = support::lines(&Ok(facts));
    assert_eq!(lines, ["select PURE read | select:public.customers(ssn)"]);
    let sql = format!("SELECT '{}'", "x".repeat(5 << 20));
    let max = Limits::default().statement_bytes_max;
    assert_eq!(read(&analyzer, &sql), Err(ReadError::TooLarge { bytes: sql.len(), max }));
}

#[test]
fn a_cached_text_needs_no_thread() {
    let analyzer = patient();
    let sql = "SELECT name FROM customers";
    let first = analyzer.read(sql, &catalog(), &public(), &|wait| wait()).unwrap();
    let second = analyzer.read(sql, &catalog(), &public(), &|_| panic!("not cached")).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    // Another path is another key.
    let other = SearchPath::new(["app"]);
    let third = analyzer.read(sql, &catalog(), &other, &|wait| wait()).unwrap();
    assert_ne!(first, third);
}

#[test]
fn a_reader_that_never_runs_is_internal() {
    let answer = patient().read("SELECT 1", &catalog(), &public(), &|_| ());
    assert_eq!(answer, Err(ReadError::Internal));
}

#[test]
fn every_error_says_what_to_do() {
    for error in [
        ReadError::TooLarge { bytes: 2, max: 1 },
        ReadError::TooComplex { what: "tokens", max: 1 },
        ReadError::Syntax { message: "x".into(), position: None },
        ReadError::Nul,
        ReadError::Busy,
        ReadError::TimedOut { ms: 1 },
        ReadError::Internal,
    ] {
        assert!(!error.hint().is_empty() && !error.to_string().is_empty());
    }
}

#[test]
fn normal_forms() {
    let normal = |sql: &str| patient().normalise(sql, &|wait| wait());
    let a = normal("SELECT name FROM customers WHERE ssn = '123-45-6789'").unwrap();
    let b = normal("SELECT name FROM customers WHERE ssn = 'other'").unwrap();
    let c = normal("SELECT ssn FROM customers WHERE name = 'other'").unwrap();
    assert_eq!(a.text, "SELECT name FROM customers WHERE ssn = $1");
    assert_eq!(a, b);
    assert_ne!(a.fingerprint, c.fingerprint);
    assert!(matches!(normal("SELEC"), Err(ReadError::Syntax { .. })));
}

/// Versions of libpg_query that are built without its `DEBUG` redirect the *process's* standard error
/// while they parse, and several threads then put back each other's. This one must not.
#[cfg(target_os = "linux")]
#[test]
fn standard_error_survives() {
    let before = fs::read_link("/proc/self/fd/2").unwrap();
    let analyzer = Arc::new(
        Analyzer::new(Limits { threads: 4, wait: Duration::from_secs(120), ..Limits::default() })
            .unwrap(),
    );
    let workers: Vec<_> = (0..8)
        .map(|worker| {
            let analyzer = Arc::clone(&analyzer);
            std::thread::spawn(move || {
                for n in 0..200 {
                    let _ = read(&analyzer, &format!("SELECT {worker}, {n}"));
                    let _ = read(&analyzer, &format!("SELECT {worker}, {n} FROM FROM"));
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    assert_eq!(fs::read_link("/proc/self/fd/2").unwrap(), before);
}

/// Words that make statements when thrown together.
const WORDS: &[&str] = &[
    "SELECT",
    "INSERT",
    "INTO",
    "UPDATE",
    "DELETE",
    "FROM",
    "WHERE",
    "WITH",
    "RECURSIVE",
    "AS",
    "(",
    ")",
    ",",
    ";",
    ".",
    "*",
    "=",
    "||",
    "::",
    "[",
    "]",
    "$1",
    "'x'",
    "E'\\'",
    "$$",
    "$a$",
    "U&\"\\0061\"",
    "1",
    "1e",
    "NULL",
    "customers",
    "orders",
    "c",
    "id",
    "ssn",
    "name",
    "lower",
    "set_config",
    "'search_path'",
    "false",
    "JOIN",
    "ON",
    "USING",
    "LATERAL",
    "VALUES",
    "SET",
    "RETURNING",
    "MERGE",
    "WHEN",
    "MATCHED",
    "THEN",
    "DO",
    "COPY",
    "TO",
    "STDOUT",
    "STDIN",
    "EXPLAIN",
    "ANALYZE",
    "PREPARE",
    "EXECUTE",
    "DECLARE",
    "CURSOR",
    "FOR",
    "CREATE",
    "TABLE",
    "TEMP",
    "VIEW",
    "ALTER",
    "DROP",
    "GRANT",
    "BEGIN",
    "COMMIT",
    "UNION",
    "ORDER",
    "BY",
    "GROUP",
    "HAVING",
    "LIMIT",
    "CASE",
    "END",
    "ELSE",
    "NOT",
    "AND",
    "OR",
    "IN",
    "EXISTS",
    "--",
    "/*",
    "*/",
    "\n",
    "pg_catalog",
    "public",
    "OPERATOR",
    "+",
    "-",
    "/",
    "<",
    ">",
    "@",
    "excluded",
    "old",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// Any text: an answer, no panic (that would be `Internal`), no lost thread.
    #[test]
    fn any_text_has_an_answer(sql in any::<String>()) {
        let answer = read(support::analyzer(), &sql);
        prop_assert!(!matches!(answer, Err(ReadError::Internal)), "{sql:?}");
    }

    #[test]
    fn any_words_have_an_answer(words in prop::collection::vec(prop::sample::select(WORDS), 0..40)) {
        let sql = words.join(" ");
        let answer = read(support::analyzer(), &sql);
        prop_assert!(!matches!(answer, Err(ReadError::Internal)), "{sql:?}");
    }

    /// Cutting or repeating a piece of a real statement.
    #[test]
    fn mutated_statements_have_an_answer(
        pick in any::<prop::sample::Index>(),
        from in any::<prop::sample::Index>(),
        length in 0_usize..60,
        times in 0_usize..4,
    ) {
        let text = concat!(
            include_str!("cases/kinds.txt"), "\n", include_str!("cases/columns.txt"), "\n",
            include_str!("cases/utility.txt"), "\n", include_str!("cases/names.txt"),
        );
        let cases: Vec<&str> = text
            .lines()
            .filter(|l| !l.is_empty() && !l.starts_with("  =") && !l.starts_with(['#', '@']))
            .collect();
        let sql = *pick.get(&cases);
        let chars: Vec<char> = sql.chars().collect();
        let start = from.index(chars.len());
        let end = (start + length).min(chars.len());
        let piece: String = chars[start..end].iter().collect();
        let head: String = chars[..start].iter().collect();
        let tail: String = chars[end..].iter().collect();
        let sql = format!("{head}{}{tail}", piece.repeat(times));
        let answer = read(support::analyzer(), &sql);
        prop_assert!(!matches!(answer, Err(ReadError::Internal)), "{sql:?}");
        if let Ok(facts) = support::read(&sql, &public()) {
            for statement in &facts.statements {
                prop_assert!(sql.get(statement.text.clone()).is_some());
                // A statement with a reason is unknown, and one that is unknown is never pure.
                let unknown = statement.effects.contains(bulla_sql::Effects::UNKNOWN);
                prop_assert!(unknown || statement.unknown.is_empty());
                prop_assert!(!unknown || !statement.is_pure_read());
            }
        }
    }
}
