//! What reaches hidden values without naming them: code that writes set off, rows that follow
//! through foreign keys, names that come to mean another relation, places of rows in partitions.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bulla_sql::catalog::{Catalog, Row};
use bulla_sql::{Cover, Fault, Hidden, Late, SearchPath};
use support::{analyzer, results};

/// The fixture's catalogue, with what `change` makes of its results.
fn catalog(change: impl Fn(&mut Vec<Vec<Row>>)) -> Arc<Catalog> {
    let mut all = results();
    change(&mut all);
    Arc::new(Catalog::from_rows(&all).unwrap())
}

/// Sets cells of the row of a relation, behind those that the fixture has.
fn set(all: &mut [Vec<Row>], relation: &str, cells: &[(usize, &str)]) {
    let named =
        |row: &&mut Row| row[2].as_deref() == Some(relation) && row[1].as_deref() == Some("2200");
    let row = all[2].iter_mut().find(named).unwrap();
    for (at, value) in cells {
        if row.len() <= *at {
            row.resize(*at + 1, None);
        }
        row[*at] = Some((*value).to_owned());
    }
}

fn oid(relation: &str) -> String {
    let all = results();
    let named =
        |row: &&Row| row[2].as_deref() == Some(relation) && row[1].as_deref() == Some("2200");
    all[2].iter().find(named).unwrap()[0].clone().unwrap()
}

const HIDDEN: [(&str, &str); 3] = [("customers", "ssn"), ("customers", "email"), ("events", "at")];

fn hidden(catalog: &Catalog) -> Arc<Hidden> {
    hides(catalog, &HIDDEN)
}

fn hides(catalog: &Catalog, columns: &[(&str, &str)]) -> Arc<Hidden> {
    let mut relations: HashMap<u32, BTreeMap<Arc<str>, Cover>> = HashMap::new();
    for (relation, column) in columns.iter().copied() {
        let found = catalog.relation_named("public", relation).unwrap();
        let kind = found.column(column).unwrap().type_oid;
        let form = bulla_sql::null_of(catalog, kind).into();
        let cover = Cover { class: "pii".into(), form, equality: false, late: None };
        relations.entry(found.oid).or_default().insert(column.into(), cover);
    }
    Arc::new(Hidden::new(catalog, relations, HashSet::new(), HashSet::new()))
}

/// `as it is`, `touches` (what the target says is replaced), `masks`, or why it is refused.
fn told(catalog: &Arc<Catalog>, path: &[&str], sql: &str) -> String {
    let path = SearchPath::new(path.to_vec());
    let facts = analyzer().read(sql, catalog, &path, &|wait| wait()).unwrap();
    match analyzer().mask(sql, &facts, catalog, &path, &hidden(catalog), &|wait| wait()) {
        Ok(plan) if plan.sent.is_some() => "masks".to_owned(),
        Ok(plan) if plan.touches => "touches".to_owned(),
        Ok(_) => "as it is".to_owned(),
        Err(Fault::Refused(refused)) => format!("refused: {}", refused.why),
        Err(Fault::Read(error)) => format!("unreadable: {error}"),
    }
}

#[track_caller]
fn check(catalog: &Arc<Catalog>, path: &[&str], table: &[(&str, &str)]) {
    for (sql, expect) in table {
        let told = told(catalog, path, sql);
        assert!(told.starts_with(expect), "{sql}: {told}, not {expect}");
    }
}

const PUBLIC: &[&str] = &["public"];

/// Code of a trigger, a default or a check may speak of anything.
#[test]
fn what_writes_set_off_may_speak() {
    let plain = catalog(|_| {});
    let runs = catalog(|all| set(all, "audit", &[(10, "t")]));
    for sql in [
        "INSERT INTO audit (who) VALUES ('x')",
        "UPDATE audit SET who = 'x'",
        "DELETE FROM audit",
        "MERGE INTO audit a USING orders o ON a.id = o.id WHEN MATCHED THEN DELETE",
        "TRUNCATE audit",
        "COPY audit FROM STDIN",
        "ALTER TABLE audit ADD COLUMN x int",
        "REINDEX TABLE audit",
    ] {
        check(&plain, PUBLIC, &[(sql, "as it is")]);
        check(&runs, PUBLIC, &[(sql, "touches")]);
    }
    check(
        &runs,
        PUBLIC,
        &[("SELECT who FROM audit", "as it is"), ("LOCK TABLE audit", "as it is")],
    );
}

/// Rows that hold hidden values follow, or rows whose code may speak.
#[test]
fn what_follows_through_foreign_keys_may_speak() {
    let falls = catalog(|all| set(all, "orders", &[(11, &oid("customers"))]));
    let moves = catalog(|all| set(all, "orders", &[(12, &oid("customers")), (13, "1,3")]));
    let far = catalog(|all| {
        set(all, "orders", &[(11, &oid("tenants"))]);
        set(all, "tenants", &[(12, &oid("audit"))]);
        set(all, "audit", &[(10, "t")]);
    });
    let (update, moved) = ("UPDATE orders SET note = 'x'", "UPDATE orders SET id = id + 1");
    let delete = "DELETE FROM orders WHERE id = 1";
    check(&catalog(|_| {}), PUBLIC, &[(update, "as it is"), (delete, "as it is")]);
    check(&falls, PUBLIC, &[(update, "as it is"), (moved, "as it is"), (delete, "touches")]);
    check(&moves, PUBLIC, &[(update, "as it is"), (moved, "touches"), (delete, "as it is")]);
    let merge = "MERGE INTO orders o USING audit a ON o.id = a.id WHEN MATCHED THEN DELETE";
    check(&falls, PUBLIC, &[("TRUNCATE orders", "touches"), (merge, "touches")]);
    check(&catalog(|_| {}), PUBLIC, &[("TRUNCATE orders", "as it is"), (merge, "as it is")]);
    check(&far, PUBLIC, &[(delete, "touches"), ("INSERT INTO orders (id) VALUES (1)", "as it is")]);
}

/// Were the relation gone that a name means, it would mean another.
#[test]
fn names_that_could_come_to_mean_hidden_columns_are_refused() {
    let all = catalog(|_| {});
    let path = &["app", "public"];
    check(
        &all,
        path,
        &[
            ("SELECT id FROM customers", "refused: names `customers` without its schema"),
            ("UPDATE customers SET id = 1", "refused: names `customers` without its schema"),
            ("SELECT id FROM app.customers", "as it is"),
            ("SELECT id FROM public.customers", "masks"),
            ("SELECT id FROM orders", "as it is"),
        ],
    );
    check(&all, &["public", "app"], &[("SELECT id FROM customers", "masks")]);
    check(&all, &["app"], &[("SELECT id FROM customers", "as it is")]);
    // A view of that name stands on it as well, and so does one that runs code.
    for name in ["customer_names", "customer_orders", "peeking", "big_orders"] {
        let both = catalog(move |all| {
            let app = all[2].iter().find(|row| row[2].as_deref() == Some("settings")).unwrap();
            let app = app[1].clone();
            let table = all[2].iter_mut().find(|row| row[2].as_deref() == Some("drawings"));
            let table = table.unwrap();
            (table[1], table[2]) = (app, Some("same".to_owned()));
            let view = all[2].iter_mut().find(|row| row[2].as_deref() == Some(name)).unwrap();
            view[2] = Some("same".to_owned());
        });
        let expect = if name == "big_orders" { "as it is" } else { "refused: names `same`" };
        check(&both, path, &[("SELECT id FROM same", expect)]);
    }
    check(
        &all,
        PUBLIC,
        &[
            ("ALTER VIEW customer_names RENAME TO x", "refused: changes `customer_names`"),
            ("ALTER VIEW customer_orders SET SCHEMA app", "refused: changes `customer_orders`"),
            ("ALTER MATERIALIZED VIEW customer_stats RENAME TO x", "refused: changes"),
            ("ALTER VIEW peeking RENAME TO x", "refused: changes `peeking`"),
            ("ALTER VIEW big_orders RENAME TO x", "as it is"),
            ("ALTER FUNCTION plus_one(int) RENAME TO same", "refused: `ALTER FUNCTION`"),
            ("ALTER FUNCTION plus_one(int) SET SCHEMA app", "refused: `ALTER FUNCTION`"),
            ("ALTER ROUTINE plus_one(int) OWNER TO x", "refused: `ALTER ROUTINE`"),
            ("ALTER AGGREGATE my_sum(int) RENAME TO x", "refused: `ALTER AGGREGATE`"),
            ("ALTER OPERATOR === (text, text) SET SCHEMA app", "refused: `ALTER OPERATOR`"),
            (
                "CREATE AGGREGATE a (int) (sfunc = int4pl, stype = int)",
                "refused: `CREATE AGGREGATE`",
            ),
            ("DROP AGGREGATE my_sum(int)", "refused: `DROP AGGREGATE`"),
            ("ALTER TYPE mood RENAME TO x", "as it is"),
            (
                "CREATE FOREIGN TABLE f (id int) SERVER elsewhere",
                "refused: `CREATE FOREIGN TABLE` could send",
            ),
        ],
    );
}

/// In which partition a row is tells of the value that divides them.
#[test]
fn partitions_by_a_hidden_column_are_not_read_by_themselves() {
    let plain = catalog(|_| {});
    check(&plain, PUBLIC, &[("SELECT id FROM events_2024", "masks")]);
    for by in ["2", "0", "1,2"] {
        let by = catalog(|all| set(all, "events", &[(9, by)]));
        check(
            &by,
            PUBLIC,
            &[
                ("SELECT id FROM events_2024", "refused: reads `events_2024`, a partition by"),
                ("SELECT count(*) FROM ONLY events_2025", "refused: reads `events_2025`"),
                ("DELETE FROM events_2024", "refused: reads `events_2024`"),
                ("COPY events_2024 TO STDOUT", "refused: reads `events_2024`"),
                ("DELETE FROM events WHERE tableoid = 1", "refused: reads `tableoid`"),
                ("UPDATE events SET id = 1 RETURNING tableoid", "refused: reads `tableoid`"),
                ("EXPLAIN ANALYZE SELECT id FROM events", "refused: explains `events`"),
                ("SELECT id FROM events", "masks"),
                ("DELETE FROM events WHERE id = 1", "touches"),
                ("INSERT INTO events_2024 (id) VALUES (1)", "touches"),
            ],
        );
    }
    let other = catalog(|all| set(all, "events", &[(9, "1")]));
    check(&other, PUBLIC, &[("SELECT id FROM events_2024", "masks")]);
}

/// `ALTER TABLE … ADD COLUMN … DEFAULT` keeps one value for all rows that are there.
#[test]
fn values_kept_beside_the_rows_are_closed() {
    let kept = |column: &'static str| {
        catalog(move |all| {
            let of = oid("customers");
            let named =
                |row: &&mut Row| row[0] == Some(of.clone()) && row[2].as_deref() == Some(column);
            let row = all[3].iter_mut().find(named).unwrap();
            row.resize(6, None);
            row.push(Some("t".to_owned()));
        })
    };
    let (all, one) = ("SELECT * FROM pg_attribute", "SELECT attmissingval FROM pg_attribute");
    let others = "SELECT attname, atthasmissing FROM pg_attribute";
    let whole = "SELECT a FROM pg_attribute a";
    for sql in [all, one, whole] {
        check(&kept("ssn"), PUBLIC, &[(sql, "refused: `pg_attribute` holds")]);
        check(&kept("name"), PUBLIC, &[(sql, "as it is")]);
    }
    check(&kept("ssn"), PUBLIC, &[(others, "as it is")]);
    for (sql, expect) in [
        ("SELECT count(*) FROM pg_stat_activity", "as it is"),
        ("SELECT pid, state FROM pg_stat_activity", "as it is"),
        ("SELECT query FROM pg_stat_activity", "refused: `pg_stat_activity` holds"),
        ("SELECT * FROM pg_stat_activity", "refused: `pg_stat_activity` holds"),
        ("SELECT pid, mode FROM pg_locks WHERE NOT granted", "as it is"),
        ("SELECT objid FROM pg_locks", "refused: `pg_locks` holds"),
    ] {
        check(&kept("name"), PUBLIC, &[(sql, expect)]);
    }
}

/// Ordinary statements beside hidden columns are not refused for them.
#[test]
fn what_leaves_hidden_columns_out_passes() {
    check(
        &catalog(|_| {}),
        PUBLIC,
        &[
            ("CREATE TABLE t AS SELECT id, name FROM customers", "masks"),
            ("SELECT id INTO TEMP t FROM customers", "masks"),
            ("CREATE TABLE t AS SELECT id FROM customers WHERE ssn > 'x'", "refused"),
            ("CREATE TABLE t AS SELECT * FROM customers", "refused"),
            ("CREATE TABLE t AS SELECT name FROM customer_names", "refused"),
            ("CREATE VIEW t AS SELECT id FROM customers", "refused"),
            ("CREATE MATERIALIZED VIEW t AS SELECT id FROM customers", "refused"),
            ("CREATE TABLE t (c bigint REFERENCES customers (id))", "touches"),
            ("CREATE TABLE t (c text REFERENCES customers (ssn))", "refused"),
            ("CREATE TABLE t (c bigint REFERENCES customers)", "refused"),
            ("ALTER TABLE orders ADD FOREIGN KEY (id) REFERENCES customers (id)", "touches"),
            ("ALTER TABLE orders ADD FOREIGN KEY (note) REFERENCES customers (ssn)", "refused"),
            (
                "UPDATE customers SET name = 'x' WHERE id IN (SELECT id FROM customers LIMIT 1 FOR \
                 UPDATE SKIP LOCKED) RETURNING ssn, *",
                "masks",
            ),
            (
                "WITH j AS (SELECT id FROM customers LIMIT 1) UPDATE customers c SET name = 'x' FROM \
                 j WHERE c.id = j.id RETURNING c.ssn",
                "masks",
            ),
            (
                "UPDATE customers SET name = 'x' RETURNING (SELECT c.ssn FROM customers c LIMIT 1)",
                "refused",
            ),
            ("UPDATE customers SET name = 'x' FROM customers c RETURNING c.ssn", "refused"),
            (
                "MERGE INTO customers c USING orders o ON c.id = o.id WHEN MATCHED THEN UPDATE SET \
                 ssn = o.note WHEN NOT MATCHED THEN INSERT (id, ssn) VALUES (o.id, o.note)",
                "touches",
            ),
            (
                "MERGE INTO customers c USING orders o ON c.ssn = o.note WHEN MATCHED THEN DELETE",
                "refused: uses the masked `ssn`",
            ),
            (
                "MERGE INTO customers c USING orders o ON c.id = o.id WHEN MATCHED AND c.ssn > 'x' \
                 THEN DELETE",
                "refused: uses the masked `ssn`",
            ),
            (
                "MERGE INTO customers c USING orders o ON c.id = o.id WHEN MATCHED THEN UPDATE SET \
                 name = c.ssn",
                "refused: uses the masked `ssn`",
            ),
            (
                "MERGE INTO orders o USING customers c ON c.id = o.id WHEN MATCHED THEN UPDATE SET \
                 note = c.ssn",
                "refused: would keep",
            ),
            (
                "MERGE INTO customers c USING orders o ON c.id = o.id WHEN MATCHED THEN DELETE \
                 RETURNING c.ssn, o.id",
                "masks",
            ),
            (
                "MERGE INTO customers c USING orders o ON c.id = o.id WHEN MATCHED THEN DELETE \
                 RETURNING c",
                "refused",
            ),
        ],
    );
}

/// Partitions of partitions, and views over one.
#[test]
fn partitions_are_followed() {
    let deep = catalog(|all| {
        set(all, "events", &[(9, "2")]);
        let (child, parent) = (oid("events_2025"), oid("events_2024"));
        let row = all[4].iter_mut().find(|row| row[0].as_deref() == Some(&*child)).unwrap();
        row[1] = Some(parent);
        let view = all[2].iter_mut().find(|row| row[2].as_deref() == Some("big_orders")).unwrap();
        view[8] = Some(" SELECT id FROM public.events_2024;".to_owned());
    });
    check(
        &deep,
        PUBLIC,
        &[
            ("SELECT count(*) FROM ONLY events_2025", "refused: reads `events_2025`"),
            ("SELECT id FROM big_orders", "refused: reads `events_2024`"),
        ],
    );
}

/// Each refusal for its own reason: that another line would refuse as well is no test of it.
#[test]
fn each_line_says_why() {
    let all = catalog(|_| {});
    let toast = all.relations().iter().find(|r| &*r.schema == "pg_toast").map(|r| r.name.clone());
    let toast = format!("SELECT chunk_data FROM pg_toast.{}", toast.unwrap());
    check(
        &all,
        PUBLIC,
        &[
            ("DO 'BEGIN END'", "refused: runs code whose body"),
            ("INSERT INTO ruled VALUES (1)", "refused: runs code that cannot be followed"),
            ("ALTER TABLE customers ADD x int", "refused: changes `customers`"),
            ("DROP TABLE customers", "refused: changes `customers`"),
            ("SELECT pg_stat_get_live_tuples(1)", "refused: calls `pg_stat_get_live_tuples`"),
            ("SELECT brin_summarize_new_values('x')", "refused: calls `brin_summarize_new_values`"),
            ("SELECT id FROM customers TABLESAMPLE system (10)", "refused: samples `customers`"),
            ("SELECT ctid FROM customers", "refused: reads `ctid`"),
            ("EXPLAIN SELECT id FROM customers WHERE ssn = '1'", "refused: explains how `ssn`"),
            ("INSERT INTO audit (who) SELECT ssn FROM customers", "refused: would keep or use"),
            ("UPDATE customer_names SET name = 'x'", "refused: writes through the view"),
            ("COPY customer_names TO STDOUT", "refused: copies `customer_names`"),
            (&toast, "refused: `pg_toast"),
        ],
    );
}

/// A generated column of a child is made of what its parent hides.
#[test]
fn what_a_child_computes_is_hidden_with_its_parent() {
    let computed = catalog(|all| {
        let of = oid("dogs");
        let row = all[3]
            .iter_mut()
            .find(|row| row[0].as_deref() == Some(&*of) && row[2].as_deref() == Some("breed"));
        row.unwrap().push(Some("2".to_owned()));
    });
    let (path, sql) = (SearchPath::new(vec!["public"]), "SELECT breed FROM dogs");
    let facts = analyzer().read(sql, &computed, &path, &|wait| wait()).unwrap();
    let hidden = hides(&computed, &[("animals", "name")]);
    let plan = analyzer().mask(sql, &facts, &computed, &path, &hidden, &|wait| wait()).unwrap();
    let (text, _) = plan.sent.as_ref().unwrap();
    assert!(text.contains("NULL::\"pg_catalog\".\"text\" AS \"breed\""), "{text}");
}

/// What the gateway masks itself goes only where it can read the form that comes.
#[test]
fn only_forms_that_are_read_let_values_out() {
    let all = catalog(|_| {});
    let customers = all.relation_named("public", "customers").unwrap();
    let cover = Cover {
        class: "pii".into(),
        form: "NULL::pg_catalog.text".into(),
        equality: false,
        late: Some(Late::default()),
    };
    let relations = HashMap::from([(customers.oid, BTreeMap::from([("ssn".into(), cover)]))]);
    let hidden = Arc::new(Hidden::new(&all, relations, HashSet::new(), HashSet::new()));
    let path = SearchPath::new(vec!["public"]);
    for (sql, late) in [
        ("SELECT ssn FROM customers", true),
        ("COPY (SELECT ssn FROM customers) TO STDOUT", true),
        ("COPY (SELECT ssn FROM customers) TO STDOUT (FORMAT csv, HEADER)", true),
        ("COPY (SELECT ssn FROM customers) TO STDOUT (ENCODING 'UTF8')", false),
        ("COPY (SELECT ssn FROM customers) TO '/tmp/x'", false),
        ("DECLARE c CURSOR FOR SELECT ssn FROM customers", true),
        ("DECLARE c BINARY CURSOR FOR SELECT ssn FROM customers", false),
        ("SELECT ssn FROM customers GROUP BY ssn", false),
        ("SELECT DISTINCT ssn FROM customers", false),
        ("UPDATE customers SET name = 'x' RETURNING ssn", true),
        ("UPDATE customers SET name = 'x' RETURNING ssn || ''", false),
    ] {
        let facts = analyzer().read(sql, &all, &path, &|wait| wait()).unwrap();
        let plan = analyzer().mask(sql, &facts, &all, &path, &hidden, &|wait| wait()).unwrap();
        assert_eq!(plan.is_late(), late, "{sql}: {:?}", plan.sent.as_ref().map(|(text, _)| text));
    }
}
