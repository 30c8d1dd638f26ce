//! THREATS 1.2: names and catalogue.

use anyhow::{Result, ensure};
use bulla_e2e::arena::Arena;
use bulla_e2e::raw::{bind, describe, execute, parse, sync};

use crate::family::{BOTH, DENY, Family, LEAST, Proof};
use Proof::{Alone, Leaks, LeaksAlone, Reaches, Runs};

#[rustfmt::skip]
pub const FAMILIES: &[Family] = &[
    Family { line: "N1", what: "search_path", groups: BOTH,
        control: "SELECT name FROM public.customers",
        attacks: &[
        (Leaks, "SET search_path = archive ;; SELECT name FROM customers"),
        (Leaks, "SET search_path TO archive, public ;; SELECT name FROM customers"),
        (Leaks, "SET search_path = 'archive' ;; SELECT name FROM customers"),
        (Leaks, "SET \"search_path\" = \"archive\" ;; TABLE customers"),
        (Leaks, "SET SESSION search_path = Archive ;; SELECT name FROM customers"),
        (Leaks, "SET U&\"search_\\0070ath\" = archive ;; SELECT name FROM customers"),
        (Leaks, "SET SCHEMA 'archive' ;; SELECT name FROM customers"),
        (Leaks, "SET search_path = nothing, archive, public ;; SELECT name FROM customers"),
        (Leaks, "SET search_path = \"$user\", archive, public ;; SELECT name FROM customers"),
        (Leaks, "SET search_path = pg_catalog, archive ;; SELECT name FROM customers"),
        (Leaks, "SET search_path = archive; SELECT name FROM customers"),
        (Leaks, "SELECT 1; SET search_path = archive; SELECT name FROM customers"),
        (Leaks, "SET search_path = public; SET search_path = archive; TABLE customers"),
        (Leaks, "BEGIN ;; SET LOCAL search_path = archive ;; SELECT name FROM customers"),
        (Leaks, "BEGIN; SET LOCAL search_path = archive; SELECT name FROM customers; COMMIT"),
        (Leaks, "BEGIN ;; SET search_path = archive ;; COMMIT ;; SELECT name FROM customers"),
        (Leaks, "SET search_path = archive ;; BEGIN ;; SET search_path = public ;; ROLLBACK ;; SELECT name FROM customers"),
        (Leaks, "SET search_path = archive ;; BEGIN ;; SET LOCAL search_path = public ;; COMMIT ;; SELECT name FROM customers"),
        (Leaks, "SET search_path = archive ;; BEGIN ;; SAVEPOINT s ;; SET search_path = public ;; ROLLBACK TO s ;; SELECT name FROM customers"),
        (Leaks, "BEGIN ;; SAVEPOINT s ;; SET search_path = archive ;; RELEASE s ;; SELECT name FROM customers"),
        (Leaks, "BEGIN ;; SAVEPOINT s ;; SET search_path = archive ;; SAVEPOINT s ;; SET search_path = public ;; ROLLBACK TO s ;; SELECT name FROM customers"),
        (Leaks, "SET search_path = archive ;; BEGIN ;; SET search_path = public ;; SELECT 1/0 ;; COMMIT ;; SELECT name FROM customers"),
        (LeaksAlone, "SET search_path = archive ;; SET search_path = public; SELECT 1/0 ;; SELECT name FROM customers"),
        (Leaks, "SET search_path = archive ;; BEGIN ;; SET search_path = public ;; COMMIT AND CHAIN ;; SET search_path = archive ;; ROLLBACK AND CHAIN ;; SET search_path = archive ;; SELECT name FROM customers"),
        (Leaks, "SELECT set_config('search_path', 'archive', false) ;; SELECT name FROM customers"),
        (Leaks, "SELECT set_config('search' || '_path', 'archive', false) ;; SELECT name FROM customers"),
        (Leaks, "SELECT pg_catalog.set_config(n, 'archive', false) FROM (SELECT 'search_path' AS n) x ;; TABLE customers"),
        (Leaks, "SELECT set_config('search_path', 'archive', false), 1; SELECT name FROM customers"),
        (Leaks, "BEGIN ;; SELECT set_config('search_path', 'archive', true) ;; SELECT name FROM customers"),
        (Leaks, "UPDATE pg_settings SET setting = 'archive' WHERE name = 'search_path' ;; SELECT name FROM customers"),
        (Runs, "ALTER ROLE intern SET search_path = archive"),
        (Runs, "ALTER DATABASE orders SET search_path = archive, public"),
        (Leaks, "SELECT name FROM archive.customers"),
        (Leaks, "SELECT archive.customers.name FROM archive.customers"),
        (Leaks, "SELECT name FROM orders.archive.customers"),
        (Leaks, "SET search_path = archive ;; RESET search_path; SET search_path = archive; SELECT name FROM customers"),
    ] },
    Family { line: "N3", what: "a name that changes its meaning", groups: BOTH,
        control: "SELECT count(*) FROM customers", attacks: &[
        (Runs, "CREATE OR REPLACE VIEW contacts AS SELECT employee AS name, '' AS reachable_at, amount::text AS reference FROM salaries"),
        (Runs, "ALTER TABLE salaries RENAME TO notes_2"),
        (Runs, "ALTER TABLE salaries SET SCHEMA archive"),
        (Runs, "ALTER TABLE salaries RENAME COLUMN amount TO id2"),
        (Runs, "CREATE TABLE open_salaries AS SELECT * FROM salaries"),
        (Runs, "CREATE TABLE open_salaries (LIKE salaries INCLUDING ALL); INSERT INTO open_salaries TABLE salaries"),
        (Runs, "CREATE VIEW open_salaries AS TABLE salaries"),
        (Runs, "CREATE MATERIALIZED VIEW open_salaries AS SELECT * FROM salaries"),
        (Runs, "CREATE RECURSIVE VIEW open_salaries (n) AS SELECT amount FROM salaries"),
        (Runs, "CREATE RULE \"_RETURN\" AS ON SELECT TO wages DO INSTEAD SELECT FROM salaries"),
        (Runs, "CREATE RULE r AS ON INSERT TO notes DO ALSO DELETE FROM salaries"),
        (Runs, "ALTER TABLE salaries_2026 NO INHERIT salaries"),
        (Runs, "CREATE TABLE child () INHERITS (salaries)"),
        (Reaches, "ALTER TABLE all_salaries INHERIT salaries"),
        (Runs, "DROP TABLE salaries CASCADE"),
        (Runs, "DROP VIEW pay CASCADE; DROP TABLE salaries CASCADE"),
        (Runs, "TRUNCATE salaries"),
        (Runs, "COMMENT ON TABLE salaries IS 'x'"),
        (Runs, "CREATE TRIGGER t AFTER INSERT ON salaries FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"),
        (Runs, "GRANT SELECT ON salaries TO intern"),
        (Runs, "CREATE INDEX i ON salaries (amount)"),
        (Runs, "CREATE STATISTICS st ON id, amount FROM salaries"),
        (Runs, "CREATE POLICY p ON salaries"),
    ] },
    Family { line: "N4", what: "pg_temp", groups: BOTH,
        control: "SELECT name FROM public.customers", attacks: &[
        (Runs, "CREATE TEMP TABLE customers AS SELECT id, employee AS name, amount FROM salaries"),
        (Runs, "CREATE TEMPORARY VIEW customers AS SELECT amount AS name FROM salaries"),
        (Leaks, "SELECT amount AS name INTO TEMP customers FROM salaries ;; SELECT name FROM customers"),
        (Leaks, "CREATE TABLE pg_temp.customers AS SELECT amount AS name FROM salaries ;; SELECT name FROM pg_temp.customers"),
        (Leaks, "CREATE LOCAL TEMP TABLE t (n numeric) ;; INSERT INTO t SELECT amount FROM salaries ;; TABLE t"),
        (Leaks, "CREATE TEMP TABLE t (n numeric); INSERT INTO t SELECT amount FROM salaries; TABLE t"),
        (Leaks, "BEGIN ;; CREATE TEMP TABLE customers ON COMMIT DROP AS TABLE salaries ;; TABLE customers"),
    ] },
    Family { line: "N5", what: "views, children, functions of the catalogue", groups: BOTH,
        control: "SELECT id, name FROM customers", attacks: &[
        (Leaks, "SELECT * FROM pay"),
        (Leaks, "TABLE pay"),
        (Leaks, "SELECT n FROM pay_of_pay"),
        (Leaks, "SELECT * FROM (SELECT * FROM pay_of_pay) x"),
        (Leaks, "WITH w AS (SELECT * FROM pay) SELECT * FROM w"),
        (Leaks, "SELECT (SELECT max(amount) FROM pay)"),
        (Leaks, "SELECT c.id, p.* FROM customers c LEFT JOIN pay p ON true"),
        (Leaks, "COPY (TABLE pay) TO STDOUT"),
        (Leaks, "SELECT * FROM pay_kept"),
        (Leaks, "COPY (SELECT * FROM pay_kept) TO STDOUT"),
        (Leaks, "SELECT * FROM salaries_2026"),
        (Leaks, "SELECT amount FROM ONLY salaries_2026"),
        (Runs, "DELETE FROM salaries_2026"),
        (Runs, "UPDATE salaries_2026 SET amount = 0"),
        (Runs, "INSERT INTO salaries_2026 VALUES (9, 'x', 1)"),
        (Leaks, "CREATE VIEW v AS SELECT * FROM pay; TABLE v"),
        (Leaks, "PREPARE p AS SELECT * FROM pay; EXECUTE p"),
        (Leaks, "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM pay; FETCH ALL c"),
    ] },
    Family { line: "N6", what: "functions whose body nobody sees", groups: BOTH,
        control: "SELECT lower(name), coalesce(email, ''), count(*) OVER () FROM customers", attacks: &[
        (Leaks, "SELECT pay_of(1)"),
        (Leaks, "SELECT public.pay_of(1)"),
        (Leaks, "SELECT \"pay_of\"(2)"),
        (Leaks, "SELECT U&\"p\\0061y_of\"(2)"),
        (Leaks, "SELECT * FROM pay_of(1)"),
        (Leaks, "SELECT * FROM pay_of(1) WITH ORDINALITY"),
        (Leaks, "SELECT * FROM ROWS FROM (pay_of(1), generate_series(1, 2))"),
        (Leaks, "SELECT * FROM customers c, LATERAL pay_of(c.id - 6)"),
        (Leaks, "SELECT pay_of($$1$$::int)"),
        (Leaks, "SELECT name FROM customers; SELECT pay_of(1)"),
        (Leaks, "VALUES (pay_of(1))"),
        (Leaks, "SELECT coalesce(NULL, pay_of(1))"),
        (Leaks, "SELECT CASE WHEN true THEN pay_of(1) END"),
        (Leaks, "SELECT ARRAY[pay_of(1), pay_of(2)]"),
        (Leaks, "SELECT ROW(pay_of(1))"),
        (Leaks, "SELECT sum(pay_of(id - 6)) FROM customers WHERE id = 7"),
        (Leaks, "SELECT max(x) OVER (ORDER BY pay_of(1)) FROM (SELECT pay_of(1) AS x) y"),
        (Leaks, "SELECT string_agg(pay_of(1)::text, ',' ORDER BY id) FROM customers"),
        (Leaks, "SELECT name, pay_of(1) FROM customers ORDER BY pay_of(1) LIMIT 1"),
        (Runs, "SELECT name FROM customers WHERE pay_of(1) > 0"),
        (Runs, "SELECT name FROM customers LIMIT pay_of(1)"),
        (Runs, "SELECT name FROM customers OFFSET (SELECT pay_of(1))"),
        (Runs, "SELECT count(*) FILTER (WHERE pay_of(1) > 5) FROM customers"),
        (Runs, "SELECT 1 FROM customers GROUP BY pay_of(1)"),
        (Runs, "SELECT 1 FROM customers HAVING pay_of(1) > 0"),
        (Runs, "SELECT 1 FROM customers c JOIN orders o ON pay_of(1) > 0"),
        (Runs, "SELECT 1 FROM customers TABLESAMPLE bernoulli (least(100, pay_of(1)::int))"),
        (Leaks, "SELECT * FROM run('SELECT amount FROM salaries') AS t(n numeric)"),
        (Runs, "SELECT * FROM customers WHERE spy(41)"),
        (Leaks, "SELECT 'x' <~> 1"),
        (Leaks, "SELECT 'x' OPERATOR(public.<~>) 2"),
        (Leaks, "SELECT name <~> 1 FROM customers"),
        (Runs, "SELECT 1 ### 2"),
        (Leaks, "SELECT ROW(1)::paid::numeric"),
        (Leaks, "SELECT CAST(CAST(ROW(2) AS paid) AS numeric)"),
        (Leaks, "SELECT '(1)'::paid::numeric"),
        (Leaks, "SELECT ROW(1)::public.paid::pg_catalog.numeric"),
        (Leaks, "SELECT c.leak FROM customers c"),
        (Leaks, "SELECT leak(c) FROM customers c"),
        (Leaks, "SELECT leak(customers) FROM customers"),
        (Leaks, "SELECT leak(customers.*) FROM customers"),
        (Leaks, "SELECT (c).leak FROM customers c"),
        (Leaks, "SELECT customers.leak FROM customers"),
        (Leaks, "SELECT (x.c).leak FROM (SELECT c FROM customers c) x"),
        (Leaks, "SELECT name FROM customers c ORDER BY c.leak; SELECT leak(c) FROM customers c"),
        (Runs, "SELECT pay_sum(id) FROM customers"),
        (Runs, "SELECT void_payment(42)"),
        (Runs, "SELECT ssn_of(7)"),
        (Runs, "INSERT INTO notes (body) VALUES (pay_of(1)::text)"),
        (Runs, "INSERT INTO notes (body) SELECT pay_of(1)"),
        (Leaks, "INSERT INTO notes (body) VALUES ('x') RETURNING pay_of(1)"),
        (Leaks, "EXPLAIN (ANALYZE, VERBOSE) SELECT pay_of(1); SELECT pay_of(1)"),
        (Runs, "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'DELETE FROM salaries; SELECT 1'; SELECT f()"),
    ] },
    Family { line: "N7", what: "SQL inside of strings", groups: BOTH,
        control: "SELECT xmlelement(name x, name), 'query_to_xml(''TABLE salaries'')' FROM customers",
        attacks: &[
        (Leaks, "SELECT query_to_xml('SELECT * FROM salaries', true, true, '')"),
        (Leaks, "SELECT pg_catalog.query_to_xml('SELECT * FROM sal' || 'aries', true, true, '')"),
        (Leaks, "SELECT \"query_to_xml\"(query => 'TABLE salaries', nulls => true, tableforest => false, targetns => '')"),
        (Leaks, "SELECT U&\"query_to\\005fxml\"('TABLE salaries', true, true, '')"),
        (Leaks, "SELECT QUERY_TO_XML(E'TABLE s\\x61laries', true, true, '')"),
        (Leaks, "SELECT (xpath('//amount', query_to_xml($$TABLE salaries$$, true, false, '')))[1]"),
        (Leaks, "SELECT * FROM query_to_xml('TABLE salaries', true, true, '')"),
        (Leaks, "SELECT x.* FROM XMLTABLE('//row' PASSING query_to_xml('TABLE salaries', true, false, '') COLUMNS amount text) x"),
        (Leaks, "SELECT query_to_xml_and_xmlschema('TABLE salaries', true, true, '')"),
        (Runs, "SELECT query_to_xmlschema('TABLE salaries', true, true, '')"),
        (Leaks, "SELECT table_to_xml('salaries', true, true, '')"),
        (Leaks, "SELECT table_to_xml('salaries'::regclass, true, true, '')"),
        (Leaks, "SELECT table_to_xml(oid, true, true, '') FROM pg_class WHERE relname = 'sal' || 'aries'"),
        (Leaks, "SELECT table_to_xml_and_xmlschema('salaries', true, true, '')"),
        (Leaks, "SELECT schema_to_xml('public', true, true, '')"),
        (Leaks, "SELECT schema_to_xml_and_xmlschema('public', true, true, '')"),
        (Leaks, "SELECT database_to_xml(true, true, '')"),
        (Leaks, "SELECT database_to_xml_and_xmlschema(true, true, '')"),
        (Runs, "SELECT cursor_to_xml('nothing', 1, true, true, '') WHERE false"),
        (Leaks, "BEGIN ;; DECLARE c CURSOR FOR SELECT amount FROM salaries ;; SELECT cursor_to_xml('c', 5, true, true, '')"),
        (Runs, "SELECT * FROM ts_stat('SELECT to_tsvector(employee) FROM salaries')"),
        (Runs, "SELECT ts_rewrite('a'::tsquery, 'SELECT ''a''::tsquery, ''b''::tsquery FROM salaries')"),
        (Leaks, "SELECT * FROM crosstab('SELECT id, id, amount FROM salaries ORDER BY 1') AS t(a int, b numeric)"),
        (Runs, "SELECT * FROM connectby('salaries', 'id', 'id', '1', 1) AS t(a int, b int, c int)"),
        (Leaks, "SELECT * FROM crosstab2('SELECT employee, employee, amount::text FROM salaries')"),
        (Runs, "SELECT normal_rand(1, 1, 1), * FROM crosstab3('SELECT employee, employee, amount::text FROM salaries')"),
        (Reaches, "SELECT 1 WHERE 'salaries'::regclass = 0 OR pg_relation_filenode('salaries') = 0 OR query_to_xml('TABLE salaries', true, true, '') IS NULL"),
    ] },
    Family { line: "N8", what: "files, programs, large objects, WAL", groups: BOTH,
        control: "COPY (SELECT id, name FROM customers) TO STDOUT", attacks: &[
        (Runs, "SELECT pg_read_file('/etc/hostname')"),
        (Runs, "SELECT pg_catalog.pg_read_file('PG_VERSION', 0, 10)"),
        (Runs, "SELECT pg_read_binary_file('PG_VERSION')"),
        (Runs, "SELECT * FROM pg_ls_dir('.')"),
        (Runs, "SELECT * FROM pg_ls_dir('/', true, false)"),
        (Runs, "SELECT pg_stat_file('PG_VERSION')"),
        (Runs, "SELECT (pg_stat_file('PG_VERSION')).size"),
        (Runs, "SELECT * FROM pg_ls_waldir()"),
        (Runs, "SELECT * FROM pg_ls_tmpdir()"),
        (Reaches, "SELECT * FROM pg_ls_logdir()"),
        (Runs, "SELECT pg_current_logfile()"),
        (Runs, "SELECT * FROM pg_hba_file_rules"),
        (Runs, "SELECT * FROM pg_file_settings"),
        (Runs, "SELECT * FROM pg_config"),
        (Leaks, "SELECT convert_from(lo_get(424242), 'UTF8')"),
        (Leaks, "SELECT convert_from(loread(lo_open(424242, 262144), 100), 'UTF8')"),
        (Leaks, "SELECT convert_from(data, 'UTF8') FROM pg_largeobject WHERE loid = 424242"),
        (Runs, "SELECT lo_import('/etc/hostname')"),
        (Runs, "SELECT lo_export(424242, '/tmp/bulla-arena-stolen')"),
        (Runs, "SELECT lo_from_bytea(0, 'x')"),
        (Runs, "SELECT lo_put(424242, 0, 'x')"),
        (Runs, "SELECT lo_create(0)"),
        (Runs, "SELECT lo_creat(-1)"),
        (Runs, "SELECT lo_unlink(424242)"),
        (Runs, "SELECT lowrite(lo_open(424242, 131072), 'x')"),
        (Runs, "COPY customers TO '/tmp/bulla-arena-customers'"),
        (Runs, "COPY (SELECT * FROM customers) TO '/tmp/bulla-arena-customers'"),
        (Runs, "COPY customers TO PROGRAM 'cat >/dev/null'"),
        (Runs, "COPY (SELECT 1) TO PROGRAM 'cat >/dev/null'"),
        (Runs, "COPY notes (body) FROM PROGRAM 'echo x'"),
        (Runs, "COPY notes (body) FROM '/etc/hostname'"),
        (Runs, "COPY notes(body) FROM/**/PROGRAM $$id$$"),
        (Runs, "CREATE TEMP TABLE t (l text); COPY t FROM PROGRAM 'id'"),
        (Runs, "SELECT pg_logical_emit_message(true, 'x', 'y')"),
        (Runs, "SELECT pg_switch_wal()"),
        (Alone, "SELECT pg_create_physical_replication_slot('evil') ;; SELECT pg_drop_replication_slot('evil')"),
        (Alone, "SELECT pg_create_logical_replication_slot('evil', 'test_decoding') ;; SELECT pg_logical_slot_get_changes('evil', NULL, NULL) ;; SELECT pg_drop_replication_slot('evil')"),
        (Runs, "SELECT * FROM pg_walfile_name('0/0'), pg_create_restore_point('x')"),
        (Runs, "SELECT pg_rotate_logfile()"),
        (Runs, "LOAD 'auto_explain'"),
        (Reaches, "CREATE FUNCTION sys(cstring) RETURNS int AS '/lib/x86_64-linux-gnu/libc.so.6', 'system' LANGUAGE c; SELECT 1"),
        (Reaches, "CREATE TABLESPACE t LOCATION '/tmp'"),
        (Runs, "CREATE EXTENSION adminpack ;; SELECT pg_file_write('x', 'y', false) ;; SELECT pg_file_unlink('x')"),
        (Reaches, "IMPORT FOREIGN SCHEMA x FROM SERVER y INTO z"),
    ] },
    Family { line: "N9", what: "out to the database by another road", groups: BOTH,
        control: "SELECT 'dblink(''host=x'')', name FROM customers", attacks: &[
        (Reaches, "SELECT * FROM dblink('dbname=orders', 'SELECT amount FROM salaries') AS t(n numeric)"),
        (Reaches, "SELECT dblink_connect('c', 'dbname=orders user=postgres')"),
        (Reaches, "SELECT dblink_exec('dbname=orders', 'DELETE FROM salaries')"),
        (Reaches, "SELECT public.dblink_send_query('c', 'DELETE FROM salaries')"),
        (Reaches, "SELECT * FROM dblink_get_result('c') AS t(n numeric)"),
        (Runs, "SELECT dblink_get_connections()"),
        (Runs, "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1')"),
        (Runs, "CREATE SERVER f FOREIGN DATA WRAPPER file_fdw; CREATE FOREIGN TABLE ft (l text) SERVER f OPTIONS (filename '/etc/hostname')"),
        (Runs, "CREATE SERVER f FOREIGN DATA WRAPPER file_fdw; CREATE FOREIGN TABLE ft (l text) SERVER f OPTIONS (program 'id'); SELECT * FROM ft"),
        (Runs, "CREATE SERVER s FOREIGN DATA WRAPPER dblink_fdw; CREATE USER MAPPING FOR PUBLIC SERVER s"),
        (Runs, "CREATE FOREIGN DATA WRAPPER w"),
        (Runs, "CREATE SUBSCRIPTION s CONNECTION 'dbname=orders' PUBLICATION p WITH (connect = false)"),
        (Runs, "CREATE PUBLICATION p FOR ALL TABLES"),
        (Runs, "CREATE PUBLICATION p FOR TABLE salaries"),
        (Runs, "CREATE EXTENSION pageinspect"),
        (Runs, "CREATE EXTENSION pageinspect; SELECT get_raw_page('salaries', 0)"),
        (Runs, "CREATE EXTENSION IF NOT EXISTS pg_buffercache"),
        (Runs, "DROP EXTENSION dblink"),
    ] },
    Family { line: "N10", what: "what nobody classified", groups: LEAST,
        control: "SELECT count(*) FROM orders", attacks: &[
        (Runs, "SELECT * FROM blobs"),
        (Runs, "SELECT * FROM every_type"),
        (Runs, "SELECT * FROM payments"),
        (Runs, "SELECT * FROM contacts"),
        (Runs, "SELECT * FROM order_totals"),
        (Runs, "SELECT * FROM archive.payments"),
        (Runs, "SELECT last_value FROM customers_id_seq"),
        (Runs, "SELECT * FROM pg_class"),
        (Runs, "SELECT * FROM pg_catalog.pg_authid"),
        (Runs, "SELECT * FROM pg_shadow"),
        (Runs, "SELECT passwd FROM pg_user"),
        (Runs, "SELECT * FROM pg_stats"),
        (Runs, "SELECT * FROM pg_statistic"),
        (Runs, "SELECT query FROM pg_stat_activity"),
        (Runs, "SELECT * FROM pg_locks"),
        (Runs, "SELECT * FROM pg_settings"),
        (Runs, "SELECT * FROM information_schema.tables"),
        (Runs, "SELECT prosrc FROM pg_proc"),
        (Runs, "SELECT * FROM pg_largeobject"),
        (Runs, "SELECT * FROM pg_user_mappings"),
        (Runs, "SELECT * FROM pg_foreign_server"),
        (Runs, "SELECT c.name, p.amount FROM customers c JOIN orders o ON o.customer_id = c.id JOIN payments p ON p.order_id = o.id"),
        (Runs, "SELECT name FROM customers WHERE id IN (SELECT order_id FROM payments)"),
        (Runs, "SELECT name FROM customers WHERE EXISTS (TABLE payments)"),
        (Runs, "SELECT name FROM customers UNION SELECT amount::text FROM payments"),
        (Runs, "SELECT name FROM customers ORDER BY (SELECT count(*) FROM payments)"),
        (Runs, "UPDATE customers SET name = (SELECT max(amount)::text FROM payments)"),
        (Runs, "UPDATE customers SET name = p.amount::text FROM payments p"),
        (Runs, "INSERT INTO customers (name, email, ssn, region) SELECT amount::text, id::text, 'x', 'EU' FROM payments"),
        (Runs, "CREATE SCHEMA mine"),
        (Runs, "NOTIFY channel, 'payload'"),
        (Runs, "SELECT pg_notify('c', 'x')"),
        (Runs, "LISTEN channel"),
    ] },
    Family { line: "N10", what: "statistics that hold the values of a closed table", groups: DENY,
        control: "SELECT reltuples FROM pg_class WHERE relname = 'customers'", attacks: &[
        (Leaks, "SELECT most_common_vals, histogram_bounds FROM pg_stats WHERE tablename = 'salaries'"),
        (Leaks, "SELECT stavalues1 FROM pg_statistic s WHERE starelid = 'salaries'::regclass"),
    ] },
];

/// What takes more than one session, or more than statements.
pub fn moves(arena: &Arena) {
    arena.try_row("N2 the search path changes between Parse and Bind", || parse_then_move(arena));
    arena.try_row("N3 a view is replaced behind the gateway's back", || replaced_view(arena));
    arena.try_row("N4 a temporary table stands in front", || temp_in_front(arena));
    arena.try_row("N10 a new table is closed until a policy names it", || new_table(arena));
}

fn parse_then_move(arena: &Arena) -> Result<()> {
    let text = "SELECT name FROM customers WHERE id = 7 AND 'n2' = 'n2'";
    let run = |session: &mut bulla_e2e::raw::Raw| -> Result<_> {
        let parsed = session.turn(&[parse("s", text), sync()].concat())?;
        ensure!(parsed.succeeded() || parsed.errors().is_empty(), "{}", parsed.describe());
        session.query("SET search_path = archive, public")?;
        session.turn(&[bind("", "s", &[]), execute("", 0), sync()].concat())
    };
    for group in BOTH {
        let mut session = arena.through(group, "N2")?.open()?;
        let answer = run(&mut session)?;
        arena.expect_refused("N2", &answer)?;
        session.query("SET search_path = public")?;
        let again = session.turn(&[bind("", "s", &[]), execute("", 0), sync()].concat())?;
        ensure!(again.holds("Ada"), "the control: {}", again.describe());
        // The portal is bound on the good path and run on the bad one: the server has planned it
        // already, so what runs is what was judged.
        session.query("BEGIN")?;
        session.turn(&[bind("p", "s", &[]), describe(b'P', "p"), sync()].concat())?;
        session.query("SET search_path = archive")?;
        let old = session.turn(&[execute("p", 0), sync()].concat())?;
        ensure!(!old.holds("6400.00"), "{}", old.describe());
        session.query("ROLLBACK")?;
        session.query("PREPARE q AS SELECT name FROM customers")?;
        session.query("SET search_path = archive")?;
        arena.expect_refused("N2 EXECUTE", &session.query("EXECUTE q")?)?;
        session.query("RESET search_path")?;
        ensure!(session.query("EXECUTE q")?.holds("Ada"), "the control of EXECUTE");
        session.query("DEALLOCATE q")?;
        session.query("SET search_path = archive")?;
        session.query("DISCARD ALL")?;
        ensure!(session.query("SELECT name FROM customers")?.holds("Ada"), "DISCARD ALL resets");
    }
    let answer = run(&mut arena.passage().open()?)?;
    ensure!(answer.holds("6400.00"), "no effect by itself: {}", answer.describe());
    Ok(())
}

fn replaced_view(arena: &Arena) -> Result<()> {
    let mut session = arena.through("deny", "N3-moves")?.open()?;
    let view = "SELECT name, reference FROM contacts";
    ensure!(session.query(view)?.holds("Ada"), "the control");
    arena.ask(
        "CREATE OR REPLACE VIEW contacts AS SELECT employee AS name, '' AS reachable_at, \
         amount::text AS reference FROM salaries",
    )?;
    // The catalogue is asked every few seconds whether it has changed.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let refused = loop {
        let answer = session.query(view)?;
        if answer.is_refused() || std::time::Instant::now() > until {
            break answer;
        }
    };
    arena.expect_refused("N3 view", &refused)?;
    ensure!(arena.passage().open()?.query(view)?.holds("6400.00"), "no effect by itself");
    arena.ask(
        "CREATE OR REPLACE VIEW contacts AS SELECT name, email AS reachable_at, ssn AS reference \
         FROM customers",
    )?;
    Ok(())
}

fn temp_in_front(arena: &Arena) -> Result<()> {
    let mut session = arena.through("deny", "N4-moves")?.open()?;
    let made = session.query("CREATE TEMP TABLE salaries (amount int)")?;
    ensure!(made.succeeded(), "{}", made.describe());
    ensure!(session.query("SELECT amount FROM salaries")?.succeeded(), "its own table");
    arena.expect_refused("N4 qualified", &session.query("SELECT amount FROM public.salaries")?)?;
    session.query("BEGIN")?;
    session.query("DROP TABLE pg_temp.salaries")?;
    arena.expect_refused("N4 dropped", &session.query("SELECT amount FROM salaries")?)?;
    session.query("ROLLBACK")?;
    ensure!(session.query("SELECT amount FROM salaries")?.succeeded(), "it is back");
    session.query("DISCARD TEMP")?;
    arena.expect_refused("N4 discarded", &session.query("SELECT amount FROM salaries")?)?;
    session.query("BEGIN")?;
    session.query("CREATE TEMP TABLE salaries (amount int)")?;
    session.query("ROLLBACK")?;
    arena.expect_refused("N4 rolled back", &session.query("SELECT amount FROM salaries")?)?;
    // What `least` may read must be the table of that name, not one that stands in front of it.
    let mut least = arena.through("least", "N4-least")?.open()?;
    let made = least.query("CREATE TEMP TABLE customers (name text)")?;
    arena.expect_refused("N4 least", &made)
}

fn new_table(arena: &Arena) -> Result<()> {
    let mut session = arena.through("least", "N10-moves")?.open()?;
    arena.ask("CREATE TABLE fresh AS SELECT amount FROM salaries")?;
    arena.expect_refused("N10 new", &session.query("SELECT * FROM fresh")?)?;
    ensure!(session.query("SELECT name FROM customers")?.holds("Ada"), "the control");
    ensure!(arena.passage().open()?.query("TABLE fresh")?.holds("6400.00"), "no effect by itself");
    arena.ask("DROP TABLE fresh")?;
    Ok(())
}
