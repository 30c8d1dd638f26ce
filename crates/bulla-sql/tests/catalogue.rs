//! The snapshot: shape, name search, paths, and what broken rows become.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::sync::Arc;

use bulla_sql::catalog::{CatalogError, Found, QUERIES, Row};
use bulla_sql::{Catalog, SearchPath};
use support::{catalog, line, rows};

fn results() -> Vec<Vec<Row>> {
    rows(include_str!("fixtures/catalogue.txt"))
}

fn find(catalog: &Catalog, path: &SearchPath, schema: Option<&str>, name: &str) -> String {
    match catalog.find_relation(path, schema, name) {
        Found::Relation(r) => r.qualified().to_string(),
        Found::Temp => "temp".to_owned(),
        Found::Made(schema) => format!("made in {schema}"),
        Found::Nothing => "nothing".to_owned(),
    }
}

/// Reads with a changed snapshot.
fn facts(catalog: Catalog, sql: &str) -> String {
    let path = SearchPath::new(["public"]);
    let read = support::analyzer().read(sql, &Arc::new(catalog), &path, &|wait| wait());
    read.unwrap().statements.iter().map(line).collect()
}

#[test]
fn names_are_found_as_the_server_finds_them() {
    let catalog = catalog();
    let path = SearchPath::new(["app", "public"]);
    assert_eq!(find(&catalog, &path, None, "customers"), "app.customers");
    assert_eq!(find(&catalog, &path, None, "orders"), "public.orders");
    assert_eq!(find(&catalog, &path, Some("public"), "customers"), "public.customers");
    assert_eq!(find(&catalog, &path, None, "pg_class"), "pg_catalog.pg_class");
    assert_eq!(find(&catalog, &path, None, "Customers"), "nothing");
    assert_eq!(find(&catalog, &path, Some("pg_temp"), "x"), "temp");
    // Some session's, and nobody knows whose.
    assert_eq!(find(&catalog, &path, Some("pg_temp_3"), "x"), "nothing");
    let made = path.clone().with_made([("app".into(), "orders".into())].into());
    assert_eq!(find(&catalog, &made, None, "orders"), "made in app");
    assert_eq!(find(&catalog, &made, Some("app"), "orders"), "made in app");
    assert_eq!(find(&catalog, &made, Some("public"), "orders"), "public.orders");
    assert_eq!(find(&catalog, &made.with_temp(["orders"]), None, "orders"), "temp");
    let temp = path.clone().with_temp(["orders"]);
    assert_eq!(find(&catalog, &temp, None, "orders"), "temp");
    assert_eq!(find(&catalog, &path.with_temp_unknown(), None, "orders"), "nothing");
    assert_eq!(find(&catalog, &SearchPath::unknown(), None, "orders"), "nothing");
    let late = SearchPath::new(["public", "pg_temp"]).with_temp(["orders", "mine"]);
    assert_eq!(find(&catalog, &late, None, "orders"), "public.orders");
    assert_eq!(find(&catalog, &late, None, "mine"), "temp");
    assert_eq!(catalog.database(), "shop");
    assert_eq!(catalog.user(), "postgres");
    assert!(catalog.server_version() >= 150_000);
}

#[test]
fn paths_are_read_as_the_server_reads_them() {
    let parse = |text: &str| SearchPath::parse(text, "me").schemas().map(<[String]>::to_vec);
    let some = |items: &[&str]| Some(items.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
    assert_eq!(parse("\"$user\", public"), some(&["me", "public"]));
    assert_eq!(parse("Public,  APP"), some(&["public", "app"]));
    assert_eq!(parse("\"A\"\"b\", \"c, d\""), some(&["A\"b", "c, d"]));
    assert_eq!(parse(""), some(&[]));
    assert_eq!(parse("\"\""), some(&[""]));
    assert_eq!(parse("a,"), None);
    assert_eq!(parse("a b"), None);
    assert_eq!(parse("\"a"), None);
    assert_eq!(parse(",a"), None);
    let long = "x".repeat(70);
    assert_eq!(parse(&long), some(&[&"x".repeat(63)]));
    // 62 bytes and a character of two: it does not fit.
    assert_eq!(parse(&format!("{}é", "x".repeat(62))), some(&[&"x".repeat(62)]));
}

#[test]
fn a_schema_without_usage_is_not_searched() {
    let mut results = results();
    let public = results[1].iter_mut().find(|r| r[1].as_deref() == Some("public")).unwrap();
    public[2] = Some("f".into());
    let catalog = Catalog::from_rows(&results).unwrap();
    let path = SearchPath::new(["public", "app"]);
    assert_eq!(find(&catalog, &path, None, "customers"), "app.customers");
    assert_eq!(find(&catalog, &path, None, "orders"), "nothing");
}

#[test]
fn every_snapshot_is_its_own() {
    let (a, b) = (Catalog::from_rows(&results()).unwrap(), Catalog::from_rows(&results()).unwrap());
    assert_ne!(a.epoch(), b.epoch());
}

#[test]
fn broken_rows_are_refused() {
    let mut few = results();
    few.pop();
    assert_eq!(
        Catalog::from_rows(&few).map(|_| ()),
        Err(CatalogError::Results { want: QUERIES.len(), got: QUERIES.len() - 1 })
    );
    for result in 0..QUERIES.len() {
        if results()[result].is_empty() {
            continue;
        }
        let mut short = results();
        short[result][0].truncate(1);
        assert!(matches!(Catalog::from_rows(&short), Err(CatalogError::Value { row: 0, .. })));
        let mut word = results();
        word[result][0][0] = Some("word".into());
        assert!(
            matches!(Catalog::from_rows(&word), Err(CatalogError::Value { column: 0, .. }))
                // Operators begin with a schema that may be unknown, dependencies with a name.
                || matches!(result, 8 | 10),
            "{result}"
        );
    }
    let mut empty = results();
    empty[0].clear();
    assert!(matches!(Catalog::from_rows(&empty), Err(CatalogError::Value { .. })));
}

#[test]
fn a_view_without_its_definition_is_doubt() {
    let mut results = results();
    let view = results[2].iter_mut().find(|r| r[2].as_deref() == Some("customer_names")).unwrap();
    view[8] = None;
    let facts = facts(Catalog::from_rows(&results).unwrap(), "SELECT name FROM customer_orders");
    assert!(facts.contains("read+unknown"), "{facts}");
    assert!(facts.contains("the definition of `public.customer_names` is not known"), "{facts}");
}

#[test]
fn views_in_a_circle_are_doubt() {
    let mut results = results();
    let view = results[2].iter_mut().find(|r| r[2].as_deref() == Some("customer_names")).unwrap();
    view[8] = Some("SELECT name, 1 AS id FROM public.customer_orders".into());
    let facts = facts(Catalog::from_rows(&results).unwrap(), "SELECT name FROM customer_names");
    assert!(facts.contains("is too deep"), "{facts}");
}

#[test]
fn a_definition_that_is_not_a_select_is_doubt() {
    for definition in ["DELETE FROM public.orders", "SELECT 1; SELECT 2", "not sql"] {
        let mut results = results();
        let view =
            results[2].iter_mut().find(|r| r[2].as_deref() == Some("customer_names")).unwrap();
        view[8] = Some(definition.into());
        let facts = facts(Catalog::from_rows(&results).unwrap(), "SELECT name FROM customer_names");
        assert!(facts.contains("cannot be read"), "{facts}");
    }
}

#[test]
fn row_security_without_readable_policies_is_doubt() {
    let mut results = results();
    for policy in &mut results[5] {
        policy[1] = Some("no_such_function(owner)".into());
    }
    let facts = facts(Catalog::from_rows(&results).unwrap(), "SELECT id FROM tenants");
    assert!(facts.contains("unknown"), "{facts}");
}
