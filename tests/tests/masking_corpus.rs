//! A masked value appears nowhere, against a schema made to leak: triggers that speak, checks that
//! quote, columns made of others, functions of every kind. Each attack has its benign neighbour.
//! All of it runs in two databases that differ in masked values alone, and every byte that comes
//! back is the same.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;

use bulla_e2e::masked::World;

/// A table of every kind of value, with all that a database can hang on one.
const VAULT: &str = r#"
SET ROLE shop;
CREATE TABLE vault (
  id int PRIMARY KEY,
  ssn text NOT NULL CHECK (length(ssn) > 3),
  card text UNIQUE,
  born date,
  pay numeric(10,2) CHECK (pay > 0),
  level int,
  at timestamptz,
  tags text[],
  doc jsonb,
  raw bytea,
  span int4range,
  who uuid,
  bag json,
  open text DEFAULT 'o',
  shout text GENERATED ALWAYS AS (upper(ssn)) STORED,
  loud text GENERATED ALWAYS AS (open || '!') STORED
);
INSERT INTO vault (id, ssn, card, born, pay, level, at, tags, doc, raw, span, who, bag)
SELECT i, format('%s-90-4399', 530 + i), format('4111 1111 1111 %s', 1110 + i),
  date '1980-03-04' + i * 50, 5100 + i, 77000 + i, timestamptz '1999-09-09 09:09:09+00' + i * interval '1 hour',
  ARRAY['sekret' || i], jsonb_build_object('ssn', format('%s-90-4399', 530 + i), 'k', jsonb_build_array(format('sekret%s', i))),
  convert_to('sekret' || i, 'UTF8'), int4range(77000 + i, 78000 + i), md5('sekret' || i)::uuid,
  json_build_object('x', 'sekret' || i)
FROM generate_series(1, 4) i;
CREATE INDEX vault_lower ON vault (lower(ssn));
CREATE TABLE tells (id int PRIMARY KEY, ssn text, note text);
INSERT INTO tells SELECT id, ssn, 'n' FROM vault;
CREATE FUNCTION speak() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE NOTICE 'row is %', OLD;
  IF NEW.note = 'boom' THEN RAISE EXCEPTION 'secret %', OLD.ssn USING DETAIL = OLD.ssn, HINT = OLD.ssn, COLUMN = OLD.ssn; END IF;
  PERFORM pg_notify('spoken', OLD.ssn);
  RETURN NEW;
END $$;
CREATE TRIGGER speak BEFORE UPDATE ON tells FOR EACH ROW EXECUTE FUNCTION speak();
CREATE FUNCTION definer(int) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER AS 'SELECT ssn FROM vault WHERE id = $1';
CREATE FUNCTION rows() RETURNS SETOF vault LANGUAGE sql STABLE AS 'SELECT * FROM vault';
CREATE FUNCTION shown(vault) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ($1).ssn';
CREATE OPERATOR ### (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq);
CREATE AGGREGATE glue(text) (SFUNC = textcat, STYPE = text, INITCOND = '');
CREATE VIEW v1 AS SELECT id, ssn AS a, card AS b FROM vault;
CREATE VIEW v2 AS SELECT id, a AS x, left(b, 4) AS y FROM v1 WHERE a <> '';
CREATE VIEW v3 AS SELECT id, x || y AS z FROM v2;
CREATE VIEW v4 AS SELECT id, z FROM v3 UNION ALL SELECT id, a FROM v1;
CREATE VIEW v5 WITH (security_barrier) AS WITH w AS (SELECT * FROM vault) SELECT w.id, to_jsonb(w) AS j FROM w;
CREATE VIEW v6 AS SELECT id, (SELECT max(t.ssn) FROM tells t) AS m FROM vault;
CREATE MATERIALIZED VIEW kept AS SELECT id, ssn AS other FROM vault;
CREATE VIEW over_kept AS SELECT other FROM kept;
CREATE TABLE parent (id int, ssn text);
CREATE TABLE heir (extra text) INHERITS (parent);
INSERT INTO heir SELECT id, ssn, 'e' FROM vault;
CREATE TABLE parted (id int, ssn text) PARTITION BY LIST (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1, 2, 3, 4) PARTITION BY RANGE (id);
CREATE TABLE parted_1_1 PARTITION OF parted_1 FOR VALUES FROM (0) TO (10);
INSERT INTO parted SELECT id, ssn FROM vault;
CREATE TYPE pair AS (a text, b text);
CREATE SEQUENCE counter;
-- What a write sets off: rows that follow, and code that reads elsewhere.
CREATE TABLE afar (id int PRIMARY KEY, note text);
INSERT INTO afar SELECT i, 'a' FROM generate_series(1, 4) i;
CREATE TABLE near (id int PRIMARY KEY, afar int REFERENCES afar ON DELETE CASCADE ON UPDATE CASCADE, ssn text);
INSERT INTO near SELECT id, id, ssn FROM vault;
CREATE FUNCTION cry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE NOTICE 'row is %', OLD;
  RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE TRIGGER cry BEFORE UPDATE OR DELETE ON near FOR EACH ROW EXECUTE FUNCTION cry();
CREATE TABLE plainly (id int PRIMARY KEY, note text);
INSERT INTO plainly VALUES (1, 'p'), (2, 'q');
CREATE FUNCTION gossip() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE s text;
BEGIN
  SELECT max(ssn) INTO s FROM vault;
  RAISE NOTICE 'by the way %', s;
  PERFORM pg_notify('told', s);
  IF NEW.note = 'boom' THEN RAISE EXCEPTION '%', s; END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER gossip BEFORE INSERT OR UPDATE ON plainly FOR EACH ROW EXECUTE FUNCTION gossip();
CREATE FUNCTION known() RETURNS text LANGUAGE sql STABLE AS 'SELECT max(ssn) FROM vault';
CREATE TABLE preset (id int, n int DEFAULT known()::int);
-- As many rows in either part in both databases, and not the same ones.
CREATE TABLE split (id int, ssn text) PARTITION BY LIST (ssn);
CREATE TABLE split_a PARTITION OF split FOR VALUES IN ('531-90-4399', '532-90-4399', '782-90-4399', '783-90-4399');
CREATE TABLE split_b PARTITION OF split FOR VALUES IN ('533-90-4399', '534-90-4399', '788-90-4399', '789-90-4399');
INSERT INTO split SELECT id, ssn FROM vault;
CREATE TABLE later (id int);
INSERT INTO later VALUES (1), (2);
ALTER TABLE later ADD COLUMN ssn text DEFAULT '531-90-4399';
ANALYZE;
"#;

const VAULT_CLASSES: &str = r#"
[classes."v.ssn"]
mask = "partial(0,4)"
[classes."v.card"]
mask = "card-last4"
[classes."v.date"]
mask = "date-trunc(decade)"
[classes."v.pay"]
mask = "bucket(1000)"
[classes."v.null"]
mask = "null"
[classes."v.doc"]
mask = "json($.ssn=null; $.k=constant(x))"
"#;

fn vault_columns(resource: &str) -> String {
    let mut out = format!("[resources.{resource}.classes.columns]\n");
    for (column, class) in [
        ("vault.ssn", "v.ssn"),
        ("vault.card", "v.card"),
        ("vault.born", "v.date"),
        ("vault.pay", "v.pay"),
        ("vault.level", "v.pay"),
        ("vault.at", "v.date"),
        ("vault.tags", "v.null"),
        ("vault.doc", "v.doc"),
        ("vault.raw", "v.null"),
        ("vault.span", "v.null"),
        ("vault.who", "v.null"),
        ("vault.bag", "v.null"),
        ("tells.ssn", "v.ssn"),
        ("parent.ssn", "v.ssn"),
        ("parted.ssn", "v.ssn"),
        ("near.ssn", "v.ssn"),
        ("split.ssn", "v.ssn"),
        ("later.ssn", "v.ssn"),
    ] {
        let _ = writeln!(out, "\"public.{column}\" = \"{class}\"");
    }
    out
}

/// Other values of the same shape: what the masks show of them is the same.
const OTHER: &str = "
ALTER TABLE tells DISABLE TRIGGER speak;
UPDATE vault SET ssn = translate(left(ssn, 3), '0123456789', '5938271640') || substr(ssn, 4),
  card = '5500 0000 0000 ' || right(card, 4), born = born + 77, pay = pay + 321.55, level = level + 432,
  at = at + interval '44 days', tags = ARRAY['hidden' || id], doc = jsonb_build_object('ssn', 'hidden', 'k', '[1]'::jsonb),
  raw = '\\x00', span = int4range(1, 9), who = md5('other' || id)::uuid, bag = '{\"x\": 9}';
UPDATE tells SET ssn = (SELECT v.ssn FROM vault v WHERE v.id = tells.id);
UPDATE parent SET ssn = (SELECT v.ssn FROM vault v WHERE v.id = parent.id);
UPDATE parted SET ssn = (SELECT v.ssn FROM vault v WHERE v.id = parted.id);
ALTER TABLE near DISABLE TRIGGER cry;
UPDATE near SET ssn = (SELECT v.ssn FROM vault v WHERE v.id = near.id);
ALTER TABLE near ENABLE TRIGGER cry;
TRUNCATE split; INSERT INTO split SELECT id, ssn FROM vault ORDER BY id;
UPDATE later SET ssn = '088-90-4399';
REFRESH MATERIALIZED VIEW kept;
ALTER TABLE tells ENABLE TRIGGER speak;
ANALYZE;
";
const SAME: &str = "
ALTER TABLE tells DISABLE TRIGGER speak;
UPDATE vault SET ssn = ssn; UPDATE tells SET ssn = ssn; UPDATE parent SET ssn = ssn;
UPDATE parted SET ssn = ssn;
ALTER TABLE near DISABLE TRIGGER cry; UPDATE near SET ssn = ssn; ALTER TABLE near ENABLE TRIGGER cry;
TRUNCATE split; INSERT INTO split SELECT id, ssn FROM vault ORDER BY id; UPDATE later SET ssn = ssn;
REFRESH MATERIALIZED VIEW kept;
ALTER TABLE tells ENABLE TRIGGER speak; ANALYZE;
";

const SECRETS: &[&str] = &[
    "531-90",
    "532-90",
    "533-90",
    "534-90",
    "53190",
    "4111 1",
    "411111",
    "sekret",
    "73656b726574",
    "1980-04",
    "1980-06",
    "1999-09",
    "5101.00",
    "5102.00",
];

/// `!` is refused; empty must not be; anything else must come back.
const ATTACKS: &[(&str, &str)] = &[
    // Every type keeps its own, and shows its mask.
    (
        "SELECT id, ssn, card, born, pay, level, at AT TIME ZONE 'UTC', tags, raw, span, who, bag FROM vault ORDER BY id LIMIT 1",
        "1|***4399|****1111|1980-01-01|5000|77000|1990-01-01 00:00:00|||||",
    ),
    ("SELECT doc FROM vault WHERE id = 1", "{\"k\": \"x\", \"ssn\": null}"),
    (
        "SELECT pg_typeof(born), pg_typeof(pay), pg_typeof(level), pg_typeof(tags), pg_typeof(doc), pg_typeof(who) FROM vault LIMIT 1",
        "date|numeric|integer|text[]|jsonb|uuid",
    ),
    ("SELECT sum(pay), avg(level), max(born), min(at) FROM vault", ""),
    ("SELECT doc->>'ssn', doc#>>'{k,0}', jsonb_path_query(doc, '$.k[*]') FROM vault", ""),
    ("SELECT jsonb_each_text(doc) FROM vault", ""),
    ("SELECT tags[1], unnest(tags), array_to_string(tags, ',') FROM vault", ""),
    ("SELECT encode(raw, 'hex'), convert_from(raw, 'UTF8'), length(raw) FROM vault", ""),
    ("SELECT lower(span), upper(span), span @> 77001 FROM vault", ""),
    ("SELECT bag->>'x' FROM vault", ""),
    (
        "SELECT extract(epoch FROM at), to_char(born, 'YYYY-MM-DD'), age(born) IS NULL, date_part('doy', born) FROM vault",
        "",
    ),
    // What is made of it.
    ("SELECT shout FROM vault", ""),
    ("SELECT loud FROM vault LIMIT 1", "o!"),
    ("SELECT v.shout, v.* FROM vault v", "***4399"),
    // Views upon views.
    ("SELECT * FROM v1 ORDER BY id", "***4399"),
    ("SELECT * FROM v2", "***4399|****"),
    ("SELECT z FROM v3", "***4399****"),
    ("SELECT * FROM v4", "***4399"),
    ("SELECT j FROM v5", "***4399"),
    ("SELECT m FROM v6", "***4399"),
    ("SELECT * FROM over_kept", ""),
    ("SELECT * FROM kept", ""),
    ("CREATE VIEW v9 AS SELECT * FROM vault", "!"),
    ("CREATE OR REPLACE VIEW v1 AS SELECT 1 AS id, ''::text AS a, ''::text AS b", ""),
    ("REFRESH MATERIALIZED VIEW kept", ""),
    ("SELECT * FROM parent", "***4399"),
    ("SELECT * FROM ONLY parent", ""),
    ("SELECT * FROM heir", "***4399"),
    ("SELECT heir::parent FROM heir", "42846"),
    ("SELECT * FROM parted_1_1", "***4399"),
    ("SELECT tableoid::regclass, ssn FROM parted", "!"),
    // Rows as values.
    ("SELECT vault FROM vault", "***4399"),
    ("SELECT v FROM (SELECT * FROM vault) v", "***4399"),
    ("SELECT ROW(v.*) FROM vault v", "***4399"),
    ("SELECT ROW(ssn, card)::pair FROM vault", "***4399"),
    ("SELECT (ROW(ssn, card)::pair).a FROM vault", "***4399"),
    ("SELECT to_json(v), hstore FROM vault v, (SELECT 1 AS hstore) h", "***4399"),
    (
        "SELECT json_build_object('s', v.ssn), jsonb_agg(v), array_agg(v) FROM vault v GROUP BY v.ssn",
        "***4399",
    ),
    ("SELECT record_out(ROW(v.ssn)) FROM vault v", "!"),
    ("SELECT v.shown FROM vault v", "!"),
    ("SELECT shown(v) FROM vault v", "!"),
    ("SELECT (jsonb_populate_record(NULL::pair, jsonb_build_object('a', ssn))).a FROM vault", ""),
    ("SELECT json_populate_record(NULL::vault, '{}') FROM vault LIMIT 1", ""),
    (
        "SELECT xmlelement(name x, v.ssn), xmlagg(xmlelement(name y, ssn)) FROM vault v GROUP BY v.ssn",
        "***4399",
    ),
    ("SELECT query_to_xml('select * from vault', true, false, '')", "!"),
    ("SELECT cursor_to_xml('c', 10, true, false, '')", "!"),
    ("SELECT glue(ssn) FROM vault", "!"),
    ("SELECT ssn ### '531-90-4399' FROM vault", "!"),
    ("SELECT definer(1)", "!"),
    ("SELECT * FROM rows()", "!"),
    ("SELECT r.ssn FROM rows() r", "!"),
    ("SELECT (SELECT s FROM (SELECT ssn AS s) q) FROM vault", "***4399"),
    ("SELECT l.s FROM vault v, LATERAL (VALUES (v.ssn), (v.card)) l(s)", "***4399"),
    (
        "SELECT u.* FROM vault v CROSS JOIN LATERAL unnest(ARRAY[v.ssn, v.card]) WITH ORDINALITY u(s, n)",
        "***4399",
    ),
    (
        "SELECT * FROM ROWS FROM (unnest((SELECT array_agg(ssn) FROM vault)), generate_series(1, 2)) r",
        "***4399",
    ),
    ("SELECT * FROM vault v FULL JOIN tells t USING (ssn)", "***4399"),
    ("SELECT * FROM vault NATURAL JOIN tells", "***4399"),
    ("SELECT count(*) FROM vault v JOIN tells t ON v.ssn = t.ssn", ""),
    ("SELECT id FROM vault GROUP BY id HAVING max(ssn) LIKE '531%'", ""),
    ("SELECT id FROM vault ORDER BY level DESC, id", ""),
    (
        "SELECT id, ntile(2) OVER (ORDER BY pay, id), sum(pay) OVER (ORDER BY id ROWS 1 PRECEDING) FROM vault",
        "",
    ),
    (
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY pay), mode() WITHIN GROUP (ORDER BY ssn) FROM vault",
        "",
    ),
    ("SELECT width_bucket(pay, 5000, 6000, 1000) FROM vault", ""),
    ("SELECT GROUPING(ssn), ssn, count(*) FROM vault GROUP BY ROLLUP (ssn)", "***4399"),
    ("SELECT count(DISTINCT ssn), count(DISTINCT card) FROM vault", ""),
    ("SELECT DISTINCT ON (born) id FROM vault ORDER BY born, id", "1"),
    ("SELECT id FROM vault WHERE born BETWEEN '1980-04-01' AND '1980-05-01'", ""),
    ("SELECT id FROM vault WHERE pay > 5101 ORDER BY id", ""),
    (
        "SELECT id FROM vault WHERE ssn SIMILAR TO '53[1-2]%' OR ssn ~ '^531' OR ssn ILIKE '531%'",
        "",
    ),
    ("SELECT id FROM vault WHERE ssn = ANY (ARRAY['531-90-4399'])", ""),
    ("SELECT id FROM vault WHERE (ssn, id) > ('531', 0)", ""),
    (
        "SELECT id FROM vault WHERE doc @> '{\"ssn\": \"531-90-4399\"}' OR doc ? 'zzz' OR doc @@ '$.ssn == \"531-90-4399\"'",
        "",
    ),
    (
        "SELECT id FROM vault WHERE tags && ARRAY['sekret1'] OR raw = 'sekret1'::bytea OR who = md5('sekret1')::uuid",
        "",
    ),
    ("SELECT id FROM vault WHERE lower(ssn) = '531-90-4399'", ""),
    (
        "SELECT id FROM vault FETCH FIRST (SELECT (level - 77000)::int FROM vault WHERE id = 2) ROWS ONLY",
        "",
    ),
    ("SELECT id FROM vault OFFSET (SELECT level - 77000 FROM vault WHERE id = 2)", ""),
    // Errors that quote.
    ("SELECT ssn::numeric, card::date, tags::int[] FROM vault", "22P02"),
    ("SELECT ssn::interval FROM vault", ""),
    ("SELECT to_number(ssn, '999'), to_date(ssn, 'YYYY-MM-DD') FROM vault", ""),
    ("SELECT ssn::xml FROM vault", ""),
    ("SELECT ssn::bit(8) FROM vault", "22P02"),
    ("SELECT ssn::payment_state FROM vault", "22P02"),
    ("SELECT ssn::region FROM vault", "!"),
    ("SELECT ssn::regtype FROM vault", ""),
    ("SELECT to_regclass(ssn), ssn::regproc FROM vault", ""),
    (
        "SELECT format(ssn, 1), chr(level), repeat(ssn, level), lpad(ssn, level) FROM vault LIMIT 0",
        "",
    ),
    ("SELECT 1 / (level - 77001) FROM vault ORDER BY id", ""),
    ("SELECT id FROM vault WHERE 1 / (pay - 5101) > 0", ""),
    (
        "SELECT 1 / (CASE WHEN EXISTS (SELECT FROM vault WHERE ssn LIKE '531%') THEN 0 ELSE 1 END)",
        "1",
    ),
    ("SELECT array_fill(0, ARRAY[level]) FROM vault LIMIT 0", ""),
    ("SELECT regexp_match('x', ssn), regexp_replace('x', ssn, '') FROM vault LIMIT 1", ""),
    ("SELECT jsonb_path_query('{}', ssn::jsonpath) FROM vault", ""),
    ("SELECT ssn::tsquery, to_tsvector('simple', ssn) FROM vault", ""),
    ("SELECT decode(ssn, 'hex') FROM vault", "22023"),
    ("SELECT make_date(level, 1, 1), make_interval(days => level) FROM vault LIMIT 1", ""),
    ("SELECT set_bit(B'1', level, 1) FROM vault", ""),
    ("SELECT currval(ssn) FROM vault", ""),
    ("SELECT setval('counter', level) FROM vault", ""),
    ("SELECT nextval('counter') FROM vault", ""),
    ("SELECT pg_notify(ssn, card) FROM vault", ""),
    ("SELECT pg_advisory_xact_lock(level) FROM vault", ""),
    ("SELECT * FROM pg_locks", "!"),
    ("SELECT lo_from_bytea(0, convert_to(ssn, 'UTF8')) FROM vault", "!"),
    ("SELECT lo_get(1)", "!"),
    ("SELECT set_config('application_name', card, true) FROM vault", "****1111"),
    ("SELECT pg_logical_emit_message(false, 'x', ssn) FROM vault", "!"),
    ("SELECT dblink('host=x', ssn) FROM vault", "!"),
    ("SELECT pg_sleep(level) FROM vault LIMIT 0", ""),
    ("SELECT pg_read_file('/etc/passwd')", "!"),
    ("SELECT * FROM pg_ls_waldir()", "!"),
    (
        "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 'vault'::regclass",
        "upper(ssn)",
    ),
    ("SELECT * FROM pg_toast.pg_toast_1", "!"),
    ("SELECT pg_stat_get_backend_activity(1)", "!"),
    ("SELECT most_common_freqs FROM pg_stats", "!"),
    ("SELECT stxdmcv FROM pg_statistic_ext_data", "!"),
    ("SELECT pg_get_statisticsobjdef_expressions(1)", ""),
    ("SELECT relname, reltuples FROM pg_class WHERE relname = 'vault'", "vault"),
    ("SELECT pg_column_size(ssn), octet_length(card), bit_length(ssn) FROM vault LIMIT 1", ""),
    (
        "SELECT hashtext(ssn), md5(ssn), sha256(ssn::bytea), crc FROM vault, (SELECT 1 AS crc) c ORDER BY 4 LIMIT 1",
        "",
    ),
    ("SELECT schema_to_xml('public', true, true, '')", "!"),
    ("SELECT query_to_xmlschema('SELECT ssn FROM vault', true, true, '')", "!"),
    ("SELECT table_to_xml_and_xmlschema('vault', true, true, '')", "!"),
    ("SELECT * FROM ts_stat('SELECT to_tsvector(''simple'', ssn) FROM vault')", "!"),
    ("SELECT ts_rewrite('a'::tsquery, 'SELECT ssn::tsquery, ssn::tsquery FROM vault')", "!"),
    ("SELECT currtid2('vault', '(0,1)')", "!"),
    ("SELECT pg_create_logical_replication_slot('x', 'test_decoding')", "!"),
    ("SELECT * FROM pg_logical_slot_peek_changes('x', NULL, NULL)", "!"),
    ("SELECT loread(1, 100)", "!"),
    ("SELECT lo_export(1, '/tmp/x')", "!"),
    ("SELECT data FROM pg_largeobject", "!"),
    ("SELECT stavalues1 FROM pg_statistic", "!"),
    ("SELECT * FROM pg_stats_ext_exprs", "!"),
    ("SELECT pg_stat_get_activity(NULL)", "!"),
    ("SELECT json_populate_recordset(NULL::vault, json_agg(v)) FROM vault v", "***4399"),
    (
        "SELECT * FROM json_to_recordset((SELECT json_agg(v) FROM vault v)) AS x(ssn text)",
        "***4399",
    ),
    ("SELECT (SELECT ssn FROM vault WHERE id = 1)::regproc", ""),
    ("SELECT ssn::regrole FROM vault", ""),
    ("SELECT ssn::oid, card::money FROM vault", "22P02"),
    ("SELECT pg_get_viewdef('v1'::regclass), pg_get_functiondef('definer(int)'::regprocedure)", ""),
    ("SELECT statement FROM pg_cursors UNION ALL SELECT statement FROM pg_prepared_statements", ""),
    ("SELECT n_live_tup FROM pg_stat_user_tables WHERE relname = 'vault'", ""),
    ("LISTEN spoken; UPDATE tells SET note = 'said' WHERE id = 1; UNLISTEN spoken", ""),
    ("DELETE FROM vault WHERE id IN (SELECT id FROM vault ORDER BY ssn LIMIT 1)", "!"),
    (
        "UPDATE vault SET open = 'x' WHERE id = (SELECT id FROM vault ORDER BY pay DESC LIMIT 1)",
        "!",
    ),
    (
        "UPDATE vault SET open = 'x' FROM (SELECT id FROM vault WHERE ssn LIKE '531%') q WHERE q.id = vault.id",
        "!",
    ),
    ("CREATE TABLE oracle (card text REFERENCES vault (card))", "!"),
    ("ALTER TABLE notes ADD FOREIGN KEY (body) REFERENCES vault (card)", "!"),
    ("CREATE UNIQUE INDEX ON vault (ssn)", "!"),
    ("CREATE INDEX ON vault (lower(card))", "!"),
    ("SELECT setval('counter', (SELECT level FROM vault WHERE id = 1))", ""),
    ("SELECT * FROM generate_series(1, (SELECT level - 77000 FROM vault WHERE id = 2))", ""),
    ("SELECT id FROM vault ORDER BY CASE WHEN ssn LIKE '533%' THEN 0 ELSE 1 END, id LIMIT 1", "1"),
    // Writes that would keep, compare or tell.
    ("INSERT INTO vault (id, ssn, pay) VALUES (1, 'abcdef', 1)", "23505"),
    ("INSERT INTO vault (id, ssn, pay) VALUES (99, 'x', 1)", "23514"),
    ("BEGIN; UPDATE vault SET pay = -1 WHERE id = 1; ROLLBACK", "23514"),
    ("BEGIN; UPDATE vault SET pay = NULL, ssn = NULL WHERE id = 1; ROLLBACK", "23502"),
    (
        "BEGIN; UPDATE vault SET open = 'p' WHERE id = 1 RETURNING id, ssn, shout; ROLLBACK",
        "1|***4399|",
    ),
    ("BEGIN; DELETE FROM vault WHERE id = 1 RETURNING *; ROLLBACK", "***4399"),
    (
        "BEGIN; DELETE FROM vault WHERE id = 1 RETURNING (SELECT ssn FROM tells WHERE tells.id = vault.id); ROLLBACK",
        "!",
    ),
    ("BEGIN; UPDATE tells SET note = 'q' WHERE id = 1; ROLLBACK", "UPDATE 1"),
    ("BEGIN; UPDATE tells SET note = 'boom' WHERE id = 1; ROLLBACK", "P0001"),
    (
        "LISTEN spoken; BEGIN; UPDATE tells SET note = 'q' WHERE id = 1; COMMIT; SELECT 1; UNLISTEN spoken",
        "",
    ),
    ("UPDATE vault SET open = ssn", "!"),
    ("UPDATE vault SET open = 'x' WHERE pay > 5101", "!"),
    ("UPDATE vault SET pay = pay + 1", "!"),
    ("UPDATE vault SET open = shout", "!"),
    ("UPDATE vault SET (open) = (SELECT ssn FROM tells LIMIT 1)", "!"),
    ("UPDATE tells SET note = v.ssn FROM vault v WHERE v.id = tells.id", "!"),
    ("UPDATE tells SET note = 'x' FROM vault v WHERE v.ssn = tells.ssn", "!"),
    ("INSERT INTO notes (body) SELECT j::text FROM v5", "!"),
    ("INSERT INTO notes (body) TABLE over_kept", "!"),
    ("INSERT INTO notes (body) VALUES ('x') RETURNING (SELECT max(ssn) FROM vault)", "!"),
    (
        "WITH w AS (INSERT INTO notes (body) SELECT ssn FROM vault RETURNING body) SELECT * FROM w",
        "!",
    ),
    ("WITH s AS (SELECT ssn FROM vault) INSERT INTO notes (body) SELECT ssn FROM s", "!"),
    (
        "INSERT INTO tells (id, ssn) VALUES (1, 'z') ON CONFLICT (id) DO UPDATE SET note = tells.ssn",
        "!",
    ),
    (
        "INSERT INTO tells (id, ssn) VALUES (1, 'z') ON CONFLICT (id) DO UPDATE SET note = 'u' WHERE tells.ssn LIKE '5%'",
        "!",
    ),
    (
        "MERGE INTO tells t USING vault v ON t.id = v.id WHEN MATCHED AND v.ssn LIKE '5%' THEN UPDATE SET note = 'm'",
        "!",
    ),
    ("CREATE TEMP TABLE mine AS TABLE vault", "!"),
    (
        "CREATE TEMP TABLE vault (id int, ssn text); INSERT INTO vault VALUES (1, 'own'); SELECT ssn FROM vault; SELECT count(*) FROM public.vault; DROP TABLE pg_temp.vault",
        "",
    ),
    ("SELECT * INTO mine FROM vault", "!"),
    ("CREATE INDEX ON vault ((1 / (pay - 5101)))", "!"),
    ("ALTER TABLE vault ADD CHECK (ssn <> '531-90-4399')", "!"),
    ("ALTER TABLE vault ALTER COLUMN ssn TYPE int USING ssn::int", "!"),
    ("ALTER TABLE vault ADD COLUMN more text GENERATED ALWAYS AS (ssn) STORED", "!"),
    ("ALTER TABLE parted DETACH PARTITION parted_1", "!"),
    ("ALTER TABLE heir NO INHERIT parent", "!"),
    ("CREATE TRIGGER t BEFORE UPDATE ON vault FOR EACH ROW EXECUTE FUNCTION speak()", "!"),
    ("CREATE POLICY p ON vault USING (ssn LIKE '5%')", "!"),
    ("CREATE STATISTICS s ON ssn, card FROM vault", "!"),
    ("CREATE PUBLICATION p FOR TABLE vault", "!"),
    ("CREATE TABLE like_it (LIKE vault INCLUDING ALL)", ""),
    ("GRANT SELECT ON vault TO public", "!"),
    ("COMMENT ON TABLE vault IS 'x'", ""),
    ("DO $$ BEGIN PERFORM ssn FROM vault; END $$", "!"),
    ("CREATE FUNCTION f() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT ssn FROM vault; END", "!"),
    ("COPY vault TO STDOUT WITH (FORMAT csv, HEADER)", "***4399"),
    ("COPY vault (ssn, shout) TO STDOUT", "***4399"),
    ("COPY (SELECT v.*, t.ssn FROM vault v JOIN tells t USING (id)) TO STDOUT", "***4399"),
    ("COPY (DELETE FROM vault WHERE id = 999 RETURNING *) TO STDOUT", ""),
    ("COPY vault TO '/tmp/x'", ""),
    ("COPY vault TO PROGRAM 'cat'", ""),
    ("COPY heir TO STDOUT", "***4399"),
    ("COPY parted_1_1 TO STDOUT", "***4399"),
    ("COPY kept TO STDOUT", "!"),
    (
        "BEGIN; DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT * FROM vault; FETCH 2 FROM c; MOVE 1 IN c; FETCH BACKWARD 1 FROM c; COMMIT; FETCH ALL FROM c; CLOSE c",
        "***4399",
    ),
    (
        "BEGIN; DECLARE c CURSOR FOR SELECT id, open FROM vault WHERE id = 1 FOR UPDATE; FETCH c; UPDATE vault SET open = 'x' WHERE CURRENT OF c RETURNING ssn; ROLLBACK",
        "",
    ),
    (
        "PREPARE q(text) AS SELECT id FROM vault WHERE ssn = $1; EXECUTE q('531-90-4399'); DEALLOCATE q",
        "",
    ),
    ("EXPLAIN (FORMAT json) SELECT * FROM vault WHERE ssn > '531'", "!"),
    (
        "EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT * FROM v1 WHERE a LIKE '531%'",
        "!",
    ),
    (
        "SET search_path = archive, public; SELECT ssn FROM vault LIMIT 1; RESET search_path",
        "***4399",
    ),
    ("SET DateStyle = 'German'; SELECT born FROM vault LIMIT 1; RESET DateStyle", "01.01.1980"),
    ("SET TIME ZONE 'Asia/Tokyo'; SELECT at FROM vault LIMIT 1; RESET TIME ZONE", "1990-01-01"),
    ("SET bytea_output = 'escape'; SELECT raw FROM vault LIMIT 1; RESET bytea_output", ""),
    ("SET xmloption = 'document'; SELECT ssn::xml FROM vault LIMIT 1; RESET xmloption", ""),
    ("SET ROLE shop; SELECT ssn FROM vault LIMIT 1; RESET ROLE", ""),
    ("SET debug_print_plan = on", ""),
    ("SET log_statement = 'all'", ""),
    ("LOCK TABLE vault", ""),
    ("ANALYZE VERBOSE vault", ""),
    ("VACUUM (VERBOSE) vault", ""),
    ("CLUSTER vault USING vault_lower", ""),
    ("REINDEX TABLE vault", ""),
    ("TRUNCATE vault RESTART IDENTITY CASCADE", ""),
    // What a write sets off, far from what it names.
    ("BEGIN; DELETE FROM afar WHERE id = 1; ROLLBACK", "DELETE 1"),
    ("BEGIN; UPDATE afar SET id = 100 WHERE id = 1; ROLLBACK", "UPDATE 1"),
    ("BEGIN; UPDATE afar SET note = 'b' WHERE id = 1; ROLLBACK", "UPDATE 1"),
    ("BEGIN; INSERT INTO plainly VALUES (9, 'x') RETURNING note; ROLLBACK", "x"),
    ("BEGIN; UPDATE plainly SET note = 'boom' WHERE id = 1; ROLLBACK", "P0001"),
    ("BEGIN; INSERT INTO preset (id) VALUES (1); ROLLBACK", "22P02"),
    (
        "LISTEN told; UPDATE plainly SET note = 'p' WHERE id = 1; SELECT 'then'; UNLISTEN told",
        "then",
    ),
    // In which partition a row is tells of what divides them.
    ("SELECT id FROM split_a", "!"),
    ("SELECT count(*) FROM split_b", "!"),
    ("DELETE FROM split_a RETURNING id", "!"),
    ("DELETE FROM split WHERE tableoid = 'split_a'::regclass", "!"),
    ("SELECT tableoid::regclass, id FROM split", "!"),
    ("EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT count(*) FROM split", "!"),
    ("SELECT id, ssn FROM split ORDER BY id LIMIT 1", "1|***4399"),
    ("SELECT attmissingval FROM pg_attribute WHERE attrelid = 'later'::regclass", "!"),
    ("SELECT to_jsonb(a) FROM pg_attribute a WHERE attrelid = 'later'::regclass", "!"),
    // Names that come to mean another relation, or another function.
    (
        "CREATE TABLE archive.vault (id int, ssn text); SET search_path = archive, public; SELECT upper(ssn) FROM vault; RESET search_path; DROP TABLE archive.vault",
        "!",
    ),
    ("ALTER VIEW v1 RENAME TO v0", "!"),
    ("ALTER MATERIALIZED VIEW kept SET SCHEMA archive", "!"),
    ("ALTER FUNCTION definer(int) RENAME TO cents", "!"),
    ("ALTER ROUTINE known() SET SCHEMA archive", "!"),
    ("CREATE AGGREGATE glue2(text) (SFUNC = textcat, STYPE = text)", "!"),
    ("CREATE FOREIGN TABLE f (id int) SERVER y", "!"),
    ("IMPORT FOREIGN SCHEMA x FROM SERVER y INTO public", "!"),
    ("CREATE EXTENSION dblink", "!"),
    ("LOAD 'auto_explain'", ""),
];

/// What a person at psql and its neighbours ordinarily do, on the same tables.
const BENIGN: &[&str] = &[
    "\\d",
    "\\dt",
    "\\dt+",
    "\\d vault",
    "\\d+ vault",
    "\\d customers",
    "\\d+ contacts",
    "\\dv",
    "\\dm",
    "\\di",
    "\\ds",
    "\\df",
    "\\df+ cents",
    "\\dn",
    "\\dn+",
    "\\dp",
    "\\du",
    "\\l",
    "\\dT",
    "\\dD",
    "\\dx",
    "\\dy",
    "\\dO",
    "\\db",
    "\\dC",
    "\\dd",
    "\\des",
    "\\do",
    "\\drds",
    "\\sv contacts",
    "\\sf cents",
    "\\conninfo",
    "\\encoding",
    "SELECT version()",
    "SELECT current_database(), current_user, current_schema()",
    "SHOW server_version",
    "SHOW search_path",
    "SELECT now() IS NOT NULL",
    "SELECT pg_backend_pid() > 0",
    "SELECT txid_current() > 0",
    "SELECT count(*) FROM vault",
    "SELECT id, open FROM vault ORDER BY id",
    "SELECT id FROM vault WHERE id = 1",
    "SELECT v.id, v.open, t.note FROM vault v JOIN tells t ON t.id = v.id ORDER BY 1",
    "SELECT open, count(*) FROM vault GROUP BY open",
    "SELECT * FROM vault WHERE id = 2",
    "SELECT id, ssn FROM vault ORDER BY id LIMIT 2 OFFSET 1",
    "SELECT max(id) FROM vault",
    "SELECT EXISTS (SELECT 1 FROM vault WHERE id = 1)",
    "SELECT id FROM vault WHERE id IN (1, 2)",
    "SELECT id FROM vault WHERE id = ANY (ARRAY[1, 2])",
    "SELECT coalesce(open, '-') FROM vault",
    "SELECT id FROM vault v WHERE EXISTS (SELECT 1 FROM tells t WHERE t.id = v.id)",
    "WITH w AS (SELECT id FROM vault) SELECT count(*) FROM w",
    "SELECT id FROM vault UNION SELECT id FROM tells",
    "SELECT id, row_number() OVER (ORDER BY id) FROM vault",
    "SELECT * FROM vault WHERE false",
    "SELECT id FROM vault WHERE open LIKE 'o%' FOR UPDATE",
    "SELECT id FROM vault FOR SHARE SKIP LOCKED",
    "BEGIN; SAVEPOINT a; SELECT id FROM vault; ROLLBACK TO a; RELEASE a; COMMIT",
    "INSERT INTO notes (body) VALUES ('x') RETURNING id > 0",
    "BEGIN; INSERT INTO vault (id, ssn, pay) VALUES (50, 'abcdef', 5) RETURNING id; ROLLBACK",
    "BEGIN; INSERT INTO vault (id, ssn, pay) VALUES (50, 'abcdef', 5) ON CONFLICT DO NOTHING; ROLLBACK",
    "BEGIN; INSERT INTO vault (id, ssn, pay) VALUES (1, 'abcdef', 5) ON CONFLICT (id) DO UPDATE SET ssn = EXCLUDED.ssn, open = 'u'; ROLLBACK",
    "BEGIN; UPDATE vault SET ssn = 'abcdef', card = NULL WHERE id = 1; ROLLBACK",
    "BEGIN; UPDATE vault SET open = 'z' WHERE id = 1 AND open = 'o'; ROLLBACK",
    "BEGIN; DELETE FROM vault WHERE id = 1; ROLLBACK",
    "BEGIN; DELETE FROM tells USING vault v WHERE v.id = tells.id AND v.open = 'o'; ROLLBACK",
    "COPY (SELECT id, open FROM vault) TO STDOUT",
    "COPY vault (id, open) TO STDOUT",
    "EXPLAIN SELECT id, open FROM vault WHERE id = 1",
    "EXPLAIN (ANALYZE, TIMING off) SELECT count(*) FROM orders",
    "PREPARE b AS SELECT open FROM vault WHERE id = $1; EXECUTE b(1); DEALLOCATE b",
    "BEGIN; DECLARE c CURSOR FOR SELECT id FROM vault; FETCH 1 FROM c; CLOSE c; COMMIT",
    "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1",
    "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'vault' ORDER BY ordinal_position",
    "SELECT constraint_name FROM information_schema.table_constraints WHERE table_name = 'vault'",
    "SELECT a.attname, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid) FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE a.attrelid = 'vault'::regclass AND a.attnum > 0 ORDER BY a.attnum",
    "SELECT i.relname, pg_get_indexdef(i.oid) FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = 'vault'::regclass",
    "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'vault'::regclass",
    "SELECT n.nspname, c.relname, obj_description(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relname = 'vault'",
    "SELECT t.typname, t.oid FROM pg_type t WHERE t.typname IN ('hstore', 'citext', 'json')",
    "SELECT pg_catalog.pg_table_size('vault') > 0",
    "SELECT has_table_privilege('vault', 'SELECT')",
    "SET statement_timeout = 1000; RESET statement_timeout",
    "SET TIME ZONE 'UTC'",
    "SHOW transaction_isolation",
    "SELECT set_config('search_path', '', false); SELECT set_config('search_path', 'public', false)",
    "SELECT nextval('counter') > 0",
    "LISTEN ch; NOTIFY ch, 'hello'; UNLISTEN ch",
    "DISCARD PLANS",
    "SELECT 1; SELECT 2",
    "SELECT lower(open), length(open), open || 'x' FROM vault",
    "SELECT generate_series(1, 2)",
    "SELECT gen_random_uuid() IS NOT NULL",
    "SELECT pg_cancel_backend(0)",
    "SELECT current_setting('jit'), set_config('jit', 'off', false)",
    "CREATE TEMP TABLE scratch (id int); INSERT INTO scratch SELECT id FROM vault; SELECT count(*) FROM scratch; DROP TABLE scratch",
    "BEGIN; CREATE TEMP TABLE taken ON COMMIT DROP AS SELECT id, open FROM vault; SELECT count(*) FROM taken; ROLLBACK",
    "BEGIN; CREATE TABLE refers (id int PRIMARY KEY, v int REFERENCES vault (id)); ROLLBACK",
    "BEGIN; UPDATE vault SET open = 'w' WHERE id = (SELECT id FROM vault WHERE open = 'o' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING *; ROLLBACK",
    "BEGIN; WITH j AS (SELECT id FROM vault ORDER BY id LIMIT 1 FOR UPDATE) UPDATE vault v SET open = 'w' FROM j WHERE v.id = j.id RETURNING v.id, v.ssn; ROLLBACK",
    "BEGIN; MERGE INTO vault v USING (VALUES (1, 'm')) AS s(id, w) ON v.id = s.id WHEN MATCHED THEN UPDATE SET open = s.w WHEN NOT MATCHED THEN INSERT (id, ssn) VALUES (s.id, s.w); ROLLBACK",
    "BEGIN; DELETE FROM afar WHERE id = 99; ROLLBACK",
    "SELECT count(*) > 0 FROM pg_stat_activity",
    "SELECT pid > 0, state FROM pg_stat_activity WHERE pid = pg_backend_pid()",
    "SELECT count(pid) > 0 FROM pg_locks WHERE granted",
    "CREATE TABLE fresh (id int); ALTER TABLE fresh ADD COLUMN t text; CREATE INDEX ON fresh (t); DROP TABLE fresh",
];

/// One psql for all: each case between marks of its own.
fn script() -> String {
    let mut out = String::new();
    let attacks = ATTACKS.iter().map(|(sql, _)| *sql);
    for (at, sql) in attacks.chain(BENIGN.iter().copied()).enumerate() {
        let end = if sql.starts_with('\\') { "" } else { ";" };
        // Whatever it leaves open ends here; what it changed for good is not wanted.
        let wrapped =
            ["CREATE OR", "REFRESH", "CREATE TABLE like", "COMMENT", "TRUNCATE", "CLUSTER"];
        let (before, after) = match wrapped.iter().any(|word| sql.starts_with(word)) {
            true => ("BEGIN;\n", "ROLLBACK;\n"),
            false => ("", ""),
        };
        let _ =
            writeln!(out, "\\echo =={at}\n{before}{sql}{end}\n{after}\\echo =={at}.\nROLLBACK;");
    }
    out
}

/// The answer to each case.
fn answers(all: &str) -> Vec<String> {
    let count = ATTACKS.len() + BENIGN.len();
    (0..count)
        .map(|at| {
            let (start, end) = (format!("=={at}\n"), format!("=={at}.\n"));
            let from = all.find(&start).map(|p| p + start.len());
            let part = from.and_then(|from| all.get(from..)?.split_once(&end));
            part.map_or_else(|| "(nothing)".to_owned(), |(part, _)| part.to_owned())
        })
        .collect()
}

#[test]
fn a_schema_made_to_leak_does_not() {
    let world = World::twins(VAULT, VAULT_CLASSES, vault_columns, OTHER, SAME);
    let script = script();
    let (one, two) =
        (world.merged("orders", "billing", &script), world.merged("twin", "billing", &script));
    let (one, two) = (answers(&one), answers(&two));
    let mut wrong = String::new();
    let mut refused = 0;
    let expected = ATTACKS.iter().copied().chain(BENIGN.iter().map(|sql| (*sql, "+")));
    for (((sql, expect), seen), other) in expected.zip(&one).zip(&two) {
        let is_refused = seen.contains("refused: ");
        let own: String =
            seen.lines().filter(|l| !l.starts_with("LINE ")).collect::<Vec<_>>().join("\n");
        if let Some(secret) = SECRETS.iter().find(|s| own.contains(**s)) {
            let _ = writeln!(wrong, "LEAK of `{secret}`: {sql}\n{seen}");
        }
        // Names of databases and ports differ, and how long things took.
        let differs = ["\\l", "\\conninfo", "EXPLAIN (ANALYZE, TIMING"];
        let same = seen == other || differs.iter().any(|word| sql.starts_with(word));
        if !same {
            let _ = writeln!(wrong, "DIFFERS: {sql}\n{seen}---\n{other}");
        }
        let fits = match expect {
            "!" => is_refused,
            "" => true,
            "+" => !is_refused && !seen.contains("ERROR") && seen != "(nothing)",
            part => !is_refused && seen.contains(part),
        };
        if !fits {
            let _ = writeln!(wrong, "not `{expect}`: {sql}\n{seen}");
        }
        refused += usize::from(expect == "+" && is_refused);
    }
    assert!(wrong.is_empty(), "{wrong}\nbenign refused: {refused} of {}", BENIGN.len());
    // The twins do differ, for whoever may see it.
    let sees = |resource: &str| {
        world.script_on(resource, "audit", "SELECT ssn, card, born, doc FROM vault ORDER BY id;\n")
    };
    assert_ne!(sees("orders"), sees("twin"));
    world.verified();
}

/// The same through a driver: prepared, in text and in binary, run twice.
#[test]
fn prepared_and_binary_answers_are_the_same() {
    let world = World::twins(VAULT, VAULT_CLASSES, vault_columns, OTHER, SAME);
    let one_each = |sql: &&str| !sql.contains(';') && !sql.starts_with("COPY");
    let all = ATTACKS.iter().map(|(sql, _)| *sql).chain(BENIGN.iter().copied());
    let statements: Vec<&str> = all.filter(one_each).filter(|sql| !sql.starts_with('\\')).collect();
    // What cannot be taken back, and what says how long it took.
    let kept = |sql: &&str| {
        let words =
            ["CREATE OR", "REFRESH", "CREATE TABLE", "TRUNCATE", "CLUSTER", "EXPLAIN (ANALYZE"];
        !words.iter().any(|word| sql.starts_with(word))
    };
    let statements: Vec<&str> = statements.into_iter().filter(kept).collect();
    assert!(statements.len() > 200, "{}", statements.len());
    let python = format!(
        r#"
import psycopg, json
statements = json.loads({:?})
c = None
for at, sql in enumerate(statements):
    for binary in (False, True):
        if c is None or c.closed:
            c = psycopg.connect("")
        try:
            with c.cursor(binary=binary) as cur:
                for _ in range(2):
                    cur.execute(sql, binary=binary, prepare=True)
                    print(at, binary, cur.rowcount, cur.fetchall() if cur.description else None)
        except psycopg.Error as e:
            print(at, binary, e.sqlstate, str(e).split("DETAIL")[0])
        if not c.closed:
            c.rollback()
"#,
        serde_json::to_string(&statements).unwrap()
    );
    let answer = |resource: &str| {
        let dial = world.gateway.dial_resource(resource, &world.token("billing"));
        let done = dial.python(&python).unwrap();
        assert_eq!(done.code(), 0, "{}", done.err());
        bulla_e2e::masked::without_marks(&done.out(), resource)
    };
    let (one, two) = (answer("orders"), answer("twin"));
    for (a, b) in one.lines().zip(two.lines()) {
        assert_eq!(a, b);
    }
    for secret in SECRETS {
        assert!(!one.contains(secret), "`{secret}` in:\n{one}");
    }
    // Rows come back, and few statements are refused: those that the table says.
    assert!(one.matches("***4399").count() > 100, "{one}");
    world.verified();
}
