//! Prints what reading costs: cached and uncached statements, and the worst texts that the limits
//! admit. Not a test: numbers depend on the machine.
//!
//! `cargo run --profile fast -p bulla-sql --example sql-cost`; with `--json`, as the benchmark calls
//! it, only the first two, as JSON.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulla_sql::catalog::QUERIES;
use bulla_sql::{Analyzer, Catalog, Limits, SearchPath};

fn catalog() -> Arc<Catalog> {
    let info = vec![vec![Some("150000".into()), Some("shop".into()), Some("postgres".into())]];
    let row = |cells: &[&str]| cells.iter().map(|c| Some((*c).to_owned())).collect::<Vec<_>>();
    let schemas = vec![row(&["11", "pg_catalog", "t"]), row(&["2200", "public", "t"])];
    let mut relations = Vec::new();
    let mut columns = Vec::new();
    for n in 0..1_000 {
        let oid = (20_000 + n).to_string();
        let name = format!("t{n}");
        let mut relation = row(&[&oid, "2200", &name, "r", "f", "p", "f", "f"]);
        relation.push(None);
        relations.push(relation);
        for (at, column) in ["id", "a", "b", "c", "d"].iter().enumerate() {
            columns.push(row(&[&oid, &(at + 1).to_string(), column, "25", "f"]));
        }
    }
    let mut results = vec![info, schemas, relations, columns];
    // Of everything else there is none.
    results.resize(QUERIES.len(), Vec::new());
    match Catalog::from_rows(&results) {
        Ok(catalog) => Arc::new(catalog),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}

fn main() -> std::io::Result<()> {
    let analyzer = Analyzer::new(Limits { wait: Duration::from_secs(60), ..Limits::default() })?;
    let (catalog, path) = (catalog(), SearchPath::new(["public"]));
    let read = |sql: &str| analyzer.read(sql, &catalog, &path, &|wait| wait());

    let sql =
        "SELECT a, b, count(*) FROM t1 JOIN t2 USING (id) WHERE t1.c = $1 GROUP BY 1, 2 LIMIT 9";
    let rounds = 200_000_u32;
    let _ = black_box(read(sql));
    let start = Instant::now();
    for _ in 0..rounds {
        let _ = black_box(read(black_box(sql)));
    }
    let cached = start.elapsed() / rounds;
    let texts: Vec<String> = (0..5_000).map(|n| format!("{sql} OFFSET {n}")).collect();
    let start = Instant::now();
    for text in &texts {
        let _ = black_box(read(text));
    }
    let uncached = start.elapsed() / 5_000;
    if std::env::args().any(|arg| arg == "--json") {
        let (cached, uncached) = (cached.as_nanos(), uncached.as_nanos());
        println!("{{\"cached_ns\": {cached}, \"uncached_ns\": {uncached}}}");
        return Ok(());
    }
    println!("cached   {cached:>9.1?}\nuncached {uncached:>9.1?}");

    let n = |text: &str, n: usize| text.repeat(n);
    let worst = [
        ("2,000 plus", format!("SELECT {}1", n("+", 2_000))),
        ("300 plus", format!("SELECT {}1", n("+", 300))),
        ("10,000 terms +", format!("SELECT 1{}", n("+1", 10_000))),
        ("2,900 terms +", format!("SELECT 1{}", n("+1", 2_900))),
        ("120,000 AND", format!("SELECT 1 WHERE a{}", n(" AND a", 120_000))),
        ("20,000 AND", format!("SELECT 1 WHERE a{}", n(" AND a", 20_000))),
        ("6,000 AND", format!("SELECT FROM t1 WHERE a=a{}", n(" AND a=a", 6_000))),
        ("3,000 AND", format!("SELECT FROM t1 WHERE a=a{}", n(" AND a=a", 3_000))),
        ("100,000 AND", format!("SELECT 1 WHERE a{}", n(" AND a", 100_000))),
        ("6,000 OR in parens", format!("SELECT 1 WHERE {}", n("(a) OR ", 6_000) + "a")),
        ("5,000 UNION", format!("SELECT 1{}", n(" UNION SELECT 1", 5_000))),
        ("1,000 UNION", format!("SELECT 1{}", n(" UNION SELECT 1", 1_000))),
        ("5,000 casts", format!("SELECT 1{}", n("::int", 5_000))),
        ("5,000 subscripts", format!("SELECT a{} FROM t1", n("[1]", 5_000))),
        ("100,000 parens", format!("SELECT {}1{}", n("(", 100_000), n(")", 100_000))),
        ("900 parens", format!("SELECT {}1{}", n("(", 900), n(")", 900))),
        ("900 selects", format!("{}SELECT 1{}", n("SELECT (", 900), n(")", 900))),
        ("2,500 selects", format!("{}SELECT 1{}", n("SELECT (", 2_500), n(")", 2_500))),
        (
            "900 nested joins",
            format!("SELECT FROM {}t1{}", n("(", 900), n(" JOIN t2 ON true)", 900)),
        ),
        ("9,000 joins", format!("SELECT FROM t1{}", n(" JOIN t2 ON true", 9_000))),
        ("2,000 NOT", format!("SELECT {} true", n("NOT ", 2_000))),
        ("19,000 NOT", format!("SELECT {} true", n("NOT ", 19_000))),
        ("19,000 minus", format!("SELECT {} 1", n("- ", 19_000))),
        ("100,000 statements", n("SELECT 1;", 100_000)),
        ("9,000 statements", n("SELECT 1;", 9_000)),
        ("190,000 list", format!("SELECT 1 WHERE 1 IN (1{})", n(",1", 190_000))),
        (
            "30,000 rows of 5",
            format!("INSERT INTO t1 VALUES (1,1,1,1,1){}", n(",(1,1,1,1,1)", 30_000)),
        ),
        ("65,000 params", format!("INSERT INTO t1 VALUES ($1,$1){}", n(",($1,$1)", 32_500))),
        (
            "1,000 tables x 5,000 columns",
            format!(
                "SELECT a{} FROM t0{}",
                n(",a", 5_000),
                (1..1_000).map(|i| format!(",t{i}")).collect::<String>()
            ),
        ),
        ("3 MB literal", format!("SELECT '{}'", n("x", 3_000_000))),
        ("3 MB comment", format!("/*{}*/ SELECT 1", n("x", 3_000_000))),
        ("4 MB of /*", n("/*", 2_000_000)),
        ("1,900,000 quotes", format!("SELECT '{}'", n("''", 1_900_000))),
        ("20,000 CASE", format!("SELECT {}1{}", n("CASE WHEN true THEN ", 900), n(" END", 900))),
        ("syntax error late", format!("SELECT 1{} FROM FROM", n(",1", 60_000))),
        ("4 MB of a", n("a ", 2_000_000)),
    ];
    for (name, text) in worst {
        let start = Instant::now();
        let result = read(&text);
        let took = start.elapsed().as_secs_f64() * 1e3;
        let answer = match result {
            Ok(facts) => format!("{} statements", facts.statements.len()),
            Err(error) => error.to_string().chars().take(90).collect(),
        };
        println!("{name:<30} {took:>9.1} ms  {:>8} bytes  {answer}", text.len());
    }
    Ok(())
}
