//! What applications, drivers and tools really say, and must not be refused.

use anyhow::{Result, ensure};
use bulla_e2e::arena::Arena;

/// Under `app`: what any ORM, BI tool or driver says on a good day.
#[rustfmt::skip]
const APP: &[&str] = &[
    "SELECT 1", "select 1 as one", "SELECT version()", "SELECT current_schema()", "SELECT current_user",
    "SELECT current_database(), current_schemas(true), session_user, inet_server_addr()",
    "SELECT pg_backend_pid()", "SELECT now(), current_timestamp, localtime, clock_timestamp()",
    "SHOW transaction_isolation", "SHOW standard_conforming_strings", "show timezone", "SHOW ALL",
    "SHOW server_version_num", "SELECT current_setting('server_version_num')",
    "SELECT current_setting('app.nothing', true)",
    "SET application_name = 'billing'", "SET TIME ZONE 'Europe/Berlin'", "SET timezone TO 'UTC'",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET DateStyle = 'ISO'", "SET extra_float_digits = 3", "SET statement_timeout = 60000",
    "SET lock_timeout = '5s'", "SET idle_in_transaction_session_timeout = 0",
    "SET client_min_messages TO WARNING", "SET bytea_output = 'hex'", "SET search_path TO public",
    "SET client_encoding TO 'UTF8'", "SET NAMES 'utf8'", "SET standard_conforming_strings TO ON",
    "SET intervalstyle = 'iso_8601'", "SET work_mem = '16MB'", "SET enable_seqscan = off",
    "SET default_transaction_read_only = on", "SET default_transaction_read_only = off",
    "RESET ALL", "RESET search_path", "DISCARD ALL",
    "BEGIN", "SELECT 1", "COMMIT", "START TRANSACTION READ ONLY", "ROLLBACK",
    "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE", "END",
    "BEGIN", "SAVEPOINT sp1", "RELEASE SAVEPOINT sp1", "SAVEPOINT sp1", "ROLLBACK TO SAVEPOINT sp1", "COMMIT",
    "BEGIN; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1; COMMIT",
    "BEGIN; SET CONSTRAINTS ALL DEFERRED; COMMIT", "BEGIN; SET LOCAL statement_timeout = '1s'; COMMIT AND CHAIN; ROLLBACK",
    "SELECT set_config('search_path', 'public', false)", "SELECT set_config('application_name', 'x', false)",
    "SELECT pg_catalog.set_config('search_path', '', false)", "SELECT * FROM public.customers", "RESET search_path",
    // Django
    "SELECT c.relname, CASE WHEN c.relispartition THEN 'p' WHEN c.relkind IN ('m', 'v') THEN 'v' ELSE 't' END, obj_description(c.oid, 'pg_class') FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('f', 'm', 'p', 'r', 'v') AND n.nspname NOT IN ('pg_catalog', 'pg_toast') AND pg_catalog.pg_table_is_visible(c.oid)",
    "SELECT \"customers\".\"id\", \"customers\".\"name\" FROM \"customers\" WHERE \"customers\".\"name\" LIKE 'A%' ORDER BY \"customers\".\"id\" ASC LIMIT 21",
    "SELECT COUNT(*) AS \"__count\" FROM \"customers\"", "SELECT (1) AS \"a\" FROM \"customers\" LIMIT 1",
    "SELECT DATE_TRUNC('month', \"since\" AT TIME ZONE 'UTC') AS m, COUNT(\"id\") FROM \"customers\" GROUP BY 1",
    "INSERT INTO \"notes\" (\"body\") VALUES ('x') RETURNING \"notes\".\"id\"",
    "UPDATE \"notes\" SET \"body\" = 'y' WHERE \"notes\".\"id\" IN (SELECT U0.\"id\" FROM \"notes\" U0 LIMIT 1 FOR UPDATE)",
    "DELETE FROM \"notes\" WHERE \"notes\".\"id\" IN (1, 2)",
    "SELECT \"id\" FROM \"customers\" WHERE \"id\" = 7 FOR UPDATE SKIP LOCKED", "SELECT * FROM customers FOR SHARE OF customers NOWAIT",
    // SQLAlchemy
    "select pg_catalog.version()", "select current_schema()", "show standard_conforming_strings",
    "SELECT CAST('test plain returns' AS VARCHAR(60)) AS anon_1", "SELECT 'customers'::regclass, 'customers'::regclass::oid",
    "SELECT pg_catalog.pg_class.relname FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_catalog.pg_namespace.oid = pg_catalog.pg_class.relnamespace WHERE pg_catalog.pg_class.relname = 'customers' AND pg_catalog.pg_class.relkind = ANY (ARRAY['r', 'p', 'f', 'v', 'm']) AND pg_catalog.pg_table_is_visible(pg_catalog.pg_class.oid) AND pg_catalog.pg_namespace.nspname != 'pg_catalog'",
    "SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attrdef d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.atthasdef) AS DEFAULT, a.attnotnull, a.attrelid as table_oid, pgd.description as comment, a.attgenerated as generated FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_description pgd ON (pgd.objoid = a.attrelid AND pgd.objsubid = a.attnum) WHERE a.attrelid = 'customers'::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
    "SELECT t.oid, typarray FROM pg_type t JOIN pg_namespace ns ON typnamespace = ns.oid WHERE typname = 'hstore'",
    // Rails, Hibernate, Npgsql, node
    "SELECT t.oid, t.typname, t.typelem, t.typdelim, t.typinput, r.rngsubtype, t.typtype, t.typbasetype FROM pg_type as t LEFT JOIN pg_range as r ON oid = rngtypid WHERE t.typname IN ('int2', 'int4')",
    "SELECT a.attname FROM ( SELECT indrelid, indkey, generate_subscripts(indkey, 1) idx FROM pg_index WHERE indrelid = '\"customers\"'::regclass AND indisprimary ) i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[i.idx] ORDER BY i.idx",
    "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_.*' AND nspname NOT IN ('information_schema') ORDER by nspname",
    "SELECT ns.nspname, t.oid, t.typname, t.typtype, t.typnotnull, t.elemtypoid FROM (SELECT t.oid, t.typnamespace, t.typname, t.typtype, t.typrelid, t.typnotnull, t.relkind, elemtyp.oid AS elemtypoid FROM (SELECT typ.oid, typnamespace, typname, typrelid, typnotnull, relkind, typelem, CASE WHEN proc.proname='array_recv' THEN 'a' ELSE typ.typtype END AS typtype FROM pg_type AS typ LEFT JOIN pg_class AS cls ON (cls.oid = typ.typrelid) LEFT JOIN pg_proc AS proc ON proc.oid = typ.typreceive) AS t LEFT JOIN pg_type AS elemtyp ON elemtyp.oid = t.typelem) AS t JOIN pg_namespace AS ns ON (ns.oid = typnamespace)",
    "select c1_0.id,c1_0.name from customers c1_0 where c1_0.email=upper('x') fetch first 10 rows only", "select nextval('customers_id_seq')",
    "SELECT b.oid, b.typname FROM pg_catalog.pg_type a LEFT JOIN pg_catalog.pg_type b ON b.oid = a.typelem WHERE a.typcategory = 'A' GROUP BY b.oid, b.typname ORDER BY b.oid",
    // BI
    "SELECT table_schema, table_name, table_type FROM information_schema.tables WHERE table_schema NOT IN ('pg_catalog', 'information_schema')",
    "SELECT column_name, data_type, is_nullable, column_default, character_maximum_length FROM information_schema.columns WHERE table_name = 'customers' ORDER BY ordinal_position",
    "SELECT tc.constraint_name, kcu.column_name, ccu.table_name FROM information_schema.table_constraints tc JOIN information_schema.key_column_usage kcu USING (constraint_schema, constraint_name) JOIN information_schema.constraint_column_usage ccu USING (constraint_schema, constraint_name) WHERE tc.constraint_type = 'FOREIGN KEY'",
    "SELECT \"region\", SUM(o.quantity), AVG(o.quantity)::numeric(10,2), COUNT(DISTINCT c.id) FROM customers c JOIN orders o ON o.customer_id = c.id GROUP BY ROLLUP (\"region\") HAVING COUNT(*) > 0 ORDER BY 2 DESC NULLS LAST LIMIT 500",
    "WITH RECURSIVE t(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM t WHERE n < 100) SELECT sum(n) FROM t",
    "SELECT id, rank() OVER (PARTITION BY customer_id ORDER BY quantity DESC), lag(quantity, 1, 0) OVER w, percent_rank() OVER w FROM orders WINDOW w AS (ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY quantity), mode() WITHIN GROUP (ORDER BY item), corr(id, quantity) FROM orders",
    "SELECT generate_series('2026-01-01'::date, '2026-02-01', '1 day')::date", "SELECT * FROM unnest(ARRAY[1,2], ARRAY['a','b']) WITH ORDINALITY AS u(a, b, n)",
    "SELECT j->>'a', jb #> '{b,0}', jb @> '{\"b\":[2]}', jsonb_path_query_array(jb, '$.b[*]') FROM every_type", "SELECT * FROM jsonb_to_recordset('[{\"a\":1}]') AS x(a int)",
    "SELECT json_build_object('id', id, 'tags', json_agg(item)) FROM orders GROUP BY id", "SELECT to_tsvector('english', name) @@ plainto_tsquery('ada') FROM customers",
    "SELECT regexp_replace(name, '[^a-z]', '', 'gi'), split_part(email, '@', 2), format('%s-%I', id, name), md5(name), encode(sha256(name::bytea), 'hex') FROM customers",
    "SELECT extract(epoch FROM placed_at), date_part('year', placed_at), to_char(placed_at, 'YYYY-MM'), age(placed_at), placed_at + interval '1 day' FROM orders",
    "SELECT name COLLATE \"C\" FROM customers WHERE name ILIKE '%a%' AND name SIMILAR TO '%(a|b)%' AND name ~* 'a' AND (id, name) IN ((7, 'Ada')) AND id BETWEEN SYMMETRIC 10 AND 1",
    "SELECT * FROM customers WHERE name = ANY(ARRAY['Ada', 'Grace']) OR id = ALL('{7}'::int[]) OR name IS DISTINCT FROM NULL",
    "SELECT * FROM customer_orders", "SELECT * FROM contacts", "SELECT * FROM order_totals", "REFRESH MATERIALIZED VIEW order_totals",
    "SELECT CASE state WHEN 'paid' THEN 1 ELSE 0 END, nullif(amount, 0), greatest(amount, 1), CAST(amount AS money) FROM payments",
    "TABLE customers ORDER BY id OFFSET 1 ROW", "VALUES (1, 'a'), (2, 'b')", "SELECT", "", ";", "-- only a comment", "/* and another */;",
    "SELECT 'drop table salaries; -- '' /* $$' AS harmless", "SELECT $tag$ '; DELETE FROM payments; $tag$", "SELECT E'it\\'s', U&'\\0041', 'a' || 'b'",
    "SELECT \"name\" AS \"select\", 1 AS \"from\" FROM customers", "SELECT 'łąńęó 漢字 🦀'", "SELECT 1 AS \"ñandú\"",
    "INSERT INTO notes (body) VALUES ('a'), ('b'), (DEFAULT) RETURNING id, body", "INSERT INTO notes DEFAULT VALUES",
    "INSERT INTO customers (id, name, email, ssn, region) VALUES (7, 'Ada', 'ada@example.com', '536-90-4399', 'EU') ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name WHERE customers.name IS NOT NULL RETURNING xmax = 0",
    "UPDATE orders SET quantity = quantity + 0 WHERE id = 1 RETURNING *", "UPDATE orders o SET quantity = o.quantity FROM customers c WHERE c.id = o.customer_id",
    "DELETE FROM notes WHERE id > 1000 RETURNING id", "WITH moved AS (DELETE FROM notes WHERE id > 1000 RETURNING body) INSERT INTO notes (body) SELECT body FROM moved",
    "MERGE INTO notes n USING (VALUES (1, 'x')) v(id, body) ON n.id = v.id WHEN MATCHED THEN UPDATE SET body = v.body WHEN NOT MATCHED THEN DO NOTHING",
    "PREPARE stmt (int) AS SELECT name FROM customers WHERE id = $1", "EXECUTE stmt(7)", "DEALLOCATE stmt", "DEALLOCATE ALL",
    "BEGIN", "DECLARE c NO SCROLL CURSOR FOR SELECT * FROM customers", "FETCH FORWARD 2 FROM c", "MOVE 1 IN c", "CLOSE c", "COMMIT",
    "BEGIN", "DECLARE \"curs@1\" CURSOR WITH HOLD FOR SELECT id FROM orders", "COMMIT", "FETCH ALL FROM \"curs@1\"", "CLOSE ALL",
    "EXPLAIN SELECT * FROM customers WHERE id = 7", "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM orders", "EXPLAIN (COSTS off) UPDATE notes SET body = 'x'",
    "LISTEN events", "NOTIFY events, 'payload'", "SELECT pg_notify('events', 'x')", "UNLISTEN *",
    "SELECT pg_advisory_lock(42)", "SELECT pg_try_advisory_lock(1, 2)", "SELECT pg_advisory_unlock_all()", "BEGIN; SELECT pg_advisory_xact_lock(7); COMMIT",
    "COPY customers (id, name) TO STDOUT WITH (FORMAT csv, HEADER true)", "COPY (SELECT id FROM orders) TO STDOUT (FORMAT binary)",
    "CREATE TEMP TABLE work (id int PRIMARY KEY, v text) ON COMMIT PRESERVE ROWS", "INSERT INTO work VALUES (1, 'a')", "SELECT * FROM work JOIN customers USING (id)", "DROP TABLE work",
    "CREATE TABLE IF NOT EXISTS migrations (version bigint PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now())", "ALTER TABLE migrations ADD COLUMN note varchar(20) DEFAULT 'x' NOT NULL",
    "CREATE UNIQUE INDEX IF NOT EXISTS migrations_note ON migrations (note) WHERE version > 0", "ALTER TABLE migrations ADD CONSTRAINT positive CHECK (version > 0)",
    "COMMENT ON TABLE migrations IS 'done'", "CREATE VIEW newest AS SELECT max(version) AS v FROM migrations", "SELECT v FROM newest", "DROP VIEW newest", "DROP TABLE migrations",
    "CREATE TYPE mood AS ENUM ('ok', 'sad')", "ALTER TYPE mood ADD VALUE 'happy'", "DROP TYPE mood", "CREATE SEQUENCE counter START 5", "SELECT nextval('counter'), currval('counter'), lastval()", "DROP SEQUENCE counter",
    "TRUNCATE notes RESTART IDENTITY", "ANALYZE customers", "VACUUM (ANALYZE) notes", "LOCK TABLE notes IN ROW EXCLUSIVE MODE; SELECT 1",
    "SELECT cents(1.5)", "SELECT pg_typeof(1), pg_size_pretty(pg_total_relation_size('customers')), pg_get_viewdef('contacts'::regclass), to_regclass('nothing')",
    "SELECT has_table_privilege('customers', 'SELECT'), pg_is_in_recovery(), txid_current_if_assigned(), pg_encoding_to_char(6)", "SELECT gen_random_uuid(), random(), setseed(0.5)",
    "SELECT * FROM pg_catalog.pg_tables WHERE schemaname = 'public'", "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'customers'", "SELECT * FROM pg_timezone_names LIMIT 1", "SELECT name, setting FROM pg_settings WHERE name = 'max_connections'",
    "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'customers'::regclass", "SELECT oid, proname, pg_get_function_arguments(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
    "SELECT xmlagg(xmlelement(name c, xmlattributes(id AS i), name)) FROM customers", "SELECT (ARRAY[1,2,3])[2:3], ARRAY[[1,2],[3,4]], ROW(1, 'a'), (ROW(1, 2)).f1", "SELECT int4range(1, 5) && '[2,3)', '10.0.0.1'::inet << '10.0.0.0/8', point(1, 2) <-> point(3, 4)",
];

/// Under `app`: what migrations and scripts say in one string, and names that only the session has.
#[rustfmt::skip]
const MADE: &[&str] = &[
    "CREATE TABLE a1 (id serial PRIMARY KEY, v text DEFAULT 'x' CHECK (v <> '')); INSERT INTO a1 (v) VALUES ('a'), ('b'); SELECT count(*) FROM a1; DROP TABLE a1",
    "BEGIN; CREATE TABLE a2 AS SELECT id, name FROM customers; CREATE INDEX ON a2 (name); CREATE UNIQUE INDEX a2_id ON a2 (id); ALTER TABLE a2 ADD COLUMN z int; UPDATE a2 SET z = 1; ANALYZE a2; DELETE FROM a2; DROP TABLE a2; COMMIT",
    "CREATE TABLE IF NOT EXISTS versions (version text PRIMARY KEY); INSERT INTO versions VALUES ('1') ON CONFLICT DO NOTHING; SELECT * FROM versions",
    "CREATE TABLE IF NOT EXISTS versions (version text PRIMARY KEY); INSERT INTO versions VALUES ('2') ON CONFLICT DO NOTHING; SELECT * FROM versions",
    "DROP TABLE IF EXISTS versions; CREATE TABLE versions (version text); INSERT INTO versions VALUES ('3'); COMMENT ON TABLE versions IS 'kept'; TABLE versions; DROP TABLE versions",
    "CREATE TABLE a3 (id int PRIMARY KEY); CREATE TABLE a4 (id int REFERENCES a3 ON DELETE CASCADE); INSERT INTO a3 VALUES (1); INSERT INTO a4 SELECT id FROM a3; SELECT * FROM a3 JOIN a4 USING (id); DROP TABLE a4; DROP TABLE a3",
    "CREATE SCHEMA app; CREATE TABLE app.t (id int); INSERT INTO app.t VALUES (1); SELECT id FROM app.t; DROP TABLE app.t; DROP SCHEMA app",
    "SELECT * INTO TEMP copied FROM customers; SELECT count(*) FROM copied; DROP TABLE copied",
    "CREATE TEMP TABLE t1 (id int, v text) ON COMMIT DROP; INSERT INTO t1 VALUES (7, 'a'); UPDATE t1 SET v = 'b'; SELECT * FROM t1 JOIN customers USING (id)",
    "BEGIN; CREATE TEMPORARY TABLE t2 ON COMMIT DROP AS SELECT id FROM orders; CREATE INDEX ON t2 (id); ANALYZE t2; DELETE FROM orders WHERE id > 1000 AND id IN (SELECT id FROM t2); COMMIT",
    "CREATE TEMP TABLE t4 (id int); ALTER TABLE t4 ADD COLUMN v text DEFAULT 'x'; CREATE INDEX t4_v ON t4 (v); INSERT INTO t4 VALUES (1, 'y'); SELECT v FROM t4; TRUNCATE t4; DROP TABLE t4",
    "CREATE TEMP TABLE t3 (n int)", "INSERT INTO t3 SELECT generate_series(1, 3)", "CREATE TEMP VIEW on_t3 AS SELECT sum(n) AS s FROM t3", "SELECT s FROM on_t3",
    "CREATE TEMP VIEW recent AS SELECT c.id, c.name, p.amount FROM customers c LEFT JOIN orders o ON o.customer_id = c.id LEFT JOIN payments p ON p.order_id = o.id", "SELECT name FROM recent ORDER BY 1", "SELECT * FROM pg_temp.recent",
    "DROP VIEW recent, on_t3", "DROP TABLE t3", "CREATE VIEW pg_temp.v AS SELECT 1 AS one", "SELECT one FROM v", "DISCARD TEMP",
    "CREATE TABLE a5 (id int, at date) PARTITION BY RANGE (at)", "CREATE TABLE a5_2026 PARTITION OF a5 FOR VALUES FROM ('2026-01-01') TO (date '2026-01-01' + interval '1 year')", "INSERT INTO a5 VALUES (1, '2026-05-05')", "SELECT * FROM a5", "ALTER TABLE a5 DETACH PARTITION a5_2026", "DROP TABLE a5_2026", "DROP TABLE a5",
    "CREATE TABLE a6 (r int4range, EXCLUDE USING gist (r WITH &&))", "DROP TABLE a6", "CREATE POLICY mine ON notes USING (body = current_user)", "DROP POLICY mine ON notes",
    "CREATE TRIGGER touched BEFORE UPDATE ON notes FOR EACH ROW WHEN (OLD.body IS DISTINCT FROM NEW.body) EXECUTE FUNCTION suppress_redundant_updates_trigger()", "DROP TRIGGER touched ON notes", "CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'", "ALTER FUNCTION one() RENAME TO two", "SELECT two()", "DROP FUNCTION two()",
    "CREATE STATISTICS st (ndistinct) ON id, (lower(body)) FROM notes", "DROP STATISTICS st", "ALTER SCHEMA archive RENAME TO attic", "SELECT count(*) FROM attic.payments", "ALTER SCHEMA attic RENAME TO archive",
    "GRANT SELECT ON ALL TABLES IN SCHEMA archive TO PUBLIC", "REVOKE SELECT ON ALL TABLES IN SCHEMA archive FROM PUBLIC", "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO CURRENT_USER", "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO CURRENT_USER",
    "SELECT pid, state, wait_event FROM pg_stat_activity WHERE datname = current_database()", "SELECT set_config('application_name', 'a' || 'b', false)",
    "DROP TABLE IF EXISTS never_there CASCADE", "DROP VIEW IF EXISTS never_there", "ALTER TABLE IF EXISTS never_there ADD COLUMN x int",
    "SELECT subname, subenabled FROM pg_subscription", "SELECT srvname, usename FROM pg_user_mappings", "SELECT * FROM pg_prepared_statements", "SELECT name FROM pg_cursors",
];

/// Under `app`, on PostgreSQL 18.
#[rustfmt::skip]
const NEWER: &[&str] = &[
    "SELECT JSON_OBJECT('a': 1, 'b': name ABSENT ON NULL) FROM customers", "SELECT JSON_ARRAY(1, 2 NULL ON NULL), JSON_SCALAR(1), JSON('{}'), JSON_SERIALIZE('{}'::json RETURNING bytea)", "SELECT JSON_OBJECTAGG(id: name), JSON_ARRAYAGG(name ORDER BY id) FROM customers",
    "SELECT JSON_VALUE(jb, '$.b[0]' RETURNING int DEFAULT 0 ON EMPTY NULL ON ERROR), JSON_QUERY(jb, '$.b' WITH WRAPPER), JSON_EXISTS(jb, '$.b') FROM every_type", "SELECT t.* FROM JSON_TABLE('[{\"a\": 1}]'::jsonb, '$[*]' COLUMNS (n FOR ORDINALITY, a int PATH '$.a', e boolean EXISTS PATH '$.e')) t",
    "SELECT '{}' IS JSON OBJECT WITH UNIQUE KEYS", "SELECT any_value(name), array_sort(array_agg(id)) FROM customers", "SELECT uuidv7(), uuidv4(), random(1, 6), casefold('X'), crc32('x'), reverse('\x01'::bytea)", "SELECT 0x1f, 0b1, 0o7, 1_000",
    "MERGE INTO notes n USING (VALUES (1, 'x')) v(id, body) ON n.id = v.id WHEN MATCHED THEN UPDATE SET body = v.body WHEN NOT MATCHED BY TARGET THEN INSERT (body) VALUES (v.body) WHEN NOT MATCHED BY SOURCE AND n.id < 0 THEN DELETE RETURNING merge_action(), old.body, new.body",
    "UPDATE notes SET body = 'y' RETURNING WITH (OLD AS o, NEW AS n) o.body, n.body", "INSERT INTO notes (body) VALUES ('z') RETURNING old, new", "CREATE TABLE b1 (id int, d int GENERATED ALWAYS AS (id * 2) VIRTUAL, UNIQUE NULLS NOT DISTINCT (id))", "SELECT d FROM b1", "DROP TABLE b1",
    "SET transaction_timeout = '1min'", "SHOW search_path", "SELECT * FROM (VALUES (1)) LIMIT 1", "SELECT * FROM (SELECT name FROM customers)", "COPY notes (body) TO STDOUT (FORMAT csv, HEADER true)", "EXPLAIN (ANALYZE, SERIALIZE, MEMORY) SELECT name FROM customers", "SELECT pg_get_acl('pg_class'::regclass, 'customers'::regclass, 0)", "SELECT to_regtypemod('numeric(10,2)'), date_add(now(), '1 day'), array_shuffle(ARRAY[1, 2]), system_user",
];

/// Under `least`: neighbours of attacks, with the little that is allowed.
#[rustfmt::skip]
const LEAST: &[&str] = &[
    "SELECT id, name FROM customers WHERE email = 'salaries'", "SELECT c.name, o.item FROM customers c JOIN orders o ON o.customer_id = c.id",
    "WITH salaries AS (SELECT id, name FROM customers) SELECT * FROM salaries", "SELECT salaries.name FROM customers salaries",
    "SELECT name AS amount FROM public.customers", "INSERT INTO notes (body) VALUES ('DELETE FROM payments')",
    "UPDATE customers SET name = 'Ada' WHERE id = 7 RETURNING id, name", "EXPLAIN SELECT name FROM customers", "PREPARE p AS SELECT name FROM customers", "EXECUTE p",
    "DEALLOCATE p", "BEGIN", "DECLARE c CURSOR FOR SELECT name FROM customers", "FETCH 1 FROM c", "COMMIT", "COPY customers (id, name) TO STDOUT", "SHOW search_path", "SELECT 1",
    "SET search_path = public", "SELECT name FROM customers /* salaries */ -- salaries", "DISCARD ALL",
];

pub fn pass(arena: &Arena) {
    all(arena, &[("app", APP), ("app", MADE), ("least", LEAST)]);
}

pub fn pass_on_eighteen(arena: &Arena) {
    all(arena, &[("app", APP), ("app", MADE), ("app", NEWER), ("least", LEAST)]);
}

fn all(arena: &Arena, lists: &[(&str, &[&str])]) {
    for (group, list) in lists {
        let opened = arena.try_row(&format!("benign as {group}"), || {
            arena.through(group, &format!("benign-{group}"))?.open()
        });
        let Some(mut session) = opened else { continue };
        for sql in *list {
            arena.try_row(&format!("benign as {group}: {sql}"), || -> Result<()> {
                let answer = session.query(sql)?;
                ensure!(answer.succeeded(), "{}", answer.describe());
                Ok(())
            });
        }
        for sql in list.iter().filter(|sql| !sql.contains(';') && !sql.starts_with("COPY")) {
            arena.try_row(&format!("benign as {group}, extended: {sql}"), || -> Result<()> {
                let answer = session.extended(sql)?;
                ensure!(!answer.is_refused() && answer.is_ready(), "{}", answer.describe());
                Ok(())
            });
        }
    }
}
