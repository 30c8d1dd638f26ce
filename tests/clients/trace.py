"""Prints every message of a session, as libpq sees it: run directly and through the gateway."""

import os
import select
import sys
import tempfile

import psycopg
from psycopg import pq

# One string each by the simple protocol.
SIMPLE = [
    "SELECT 1 AS one, NULL AS nothing, 'text' AS words",
    "SELECT",
    "",
    ";",
    "-- nothing but words",
    "SELECT 1; SELECT 2; INSERT INTO notes (body) VALUES ('three') RETURNING body",
    "SELECT 1; SELECT 1/0; SELECT 3",
    "SELECT nothing FROM customers",
    "SELEC 1",
    "SELECT 1; SELECT (2",
    "SELECT 'open",
    "SELECT * FROM customers WHERE nothing(id) = 1",
    "SELECT 'a' + 1, cents('x')",
    "INSERT INTO customers (id, name, email, ssn, region) VALUES (7, 'a', 'b', 'c', 'EU')",
    "INSERT INTO customers (name, email, ssn, region) VALUES ('a', 'e1', 'c', 'nowhere')",
    "INSERT INTO payments VALUES (1, 999, 1)",
    "INSERT INTO orders (id, customer_id, item, quantity) VALUES (9, 7, 'x', 0)",
    "UPDATE customers SET name = NULL WHERE id = 7",
    "CREATE TABLE nothing.at_all (a int)",
    "DROP TABLE IF EXISTS nothing",
    "CREATE TABLE IF NOT EXISTS customers (a int)",
    "CREATE TABLE made (a int PRIMARY KEY, b text DEFAULT 'x')",
    "DO $$ BEGIN RAISE NOTICE 'one %', 1 USING DETAIL = 'd', HINT = 'h', ERRCODE = '01234'; END $$",
    "DO $$ BEGIN RAISE WARNING 'two'; RAISE INFO 'three'; RAISE LOG 'unseen'; END $$",
    "DO $$ BEGIN RAISE 'four' USING ERRCODE = 'P1234', COLUMN = 'c', TABLE = 't', SCHEMA = 's', "
    "CONSTRAINT = 'n', DATATYPE = 'y'; END $$",
    "CALL raise_salaries(0)",
    "SELECT void_payment(42)",
    "SET application_name = 'traced'",
    "SET timezone = 'Asia/Tokyo'",
    "SET DateStyle = 'German'",
    "RESET ALL",
    "SHOW server_version_num",
    "BEGIN",
    "BEGIN",
    "INSERT INTO made VALUES (1)",
    "SAVEPOINT s",
    "INSERT INTO made VALUES (1)",
    "SELECT 1",
    "ROLLBACK TO s",
    "SELECT FROM WHERE",
    "SELECT 1",
    "ROLLBACK TO s",
    "INSERT INTO made VALUES (2) RETURNING *",
    "SELECT 1/0",
    "COMMIT",
    "COMMIT",
    "ROLLBACK",
    "BEGIN; INSERT INTO made VALUES (3); COMMIT; SELECT count(*) FROM made",
    "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
    "INSERT INTO made VALUES (4)",
    "ROLLBACK",
    "BEGIN",
    "DECLARE c SCROLL CURSOR FOR SELECT n FROM generate_series(1, 5) n",
    "FETCH 2 FROM c",
    "MOVE BACKWARD ALL FROM c",
    "FETCH ALL FROM c",
    "FETCH FROM nobody",
    "ROLLBACK",
    "PREPARE p (int) AS SELECT $1 + 1",
    "EXECUTE p (41)",
    "EXECUTE p ('x')",
    "EXECUTE q",
    "DEALLOCATE p",
    "LISTEN heard",
    "NOTIFY heard, 'one'",
    "SELECT pg_notify('heard', 'two')",
    "UNLISTEN *",
    "EXPLAIN (COSTS OFF) SELECT * FROM customers WHERE id = 1",
    "EXPLAIN (COSTS OFF, FORMAT JSON) SELECT 1",
    "SELECT * FROM every_type ORDER BY id",
    "SELECT repeat('x', 100000), generate_series(1, 3)",
    "TABLE order_totals ORDER BY 1",
    "VALUES (1, 'a'), (2, 'b')",
    "WITH gone AS (DELETE FROM made RETURNING a) SELECT count(*) FROM gone",
    "MERGE INTO made USING (VALUES (8)) v (a) ON made.a = v.a WHEN NOT MATCHED THEN INSERT VALUES (v.a)",
    "TRUNCATE made",
    "VACUUM made",
    "ANALYZE made",
    "ALTER TABLE made ADD c int",
    "COMMENT ON TABLE made IS 'x'",
    "LOCK TABLE made",
    "SET work_mem = 'much'",
    "SET no_such_setting = 1",
    "SELECT pg_sleep(0)",
    "DROP TABLE made",
    "DISCARD ALL",
]

# Statement, parameters and the format of results, by the extended protocol.
EXTENDED = [
    (b"SELECT $1::int + 1", [b"41"], 0),
    (b"SELECT $1::int + 1", [b"41"], 1),
    (b"SELECT $1::int", [b"x"], 0),
    (b"SELECT $1::text", [None], 0),
    (b"SELECT id, i8, n, raw, tz, u, jb, ints, state FROM every_type ORDER BY id", [], 1),
    (b"SELECT nothing FROM customers WHERE id = $1", [b"1"], 0),
    (b"SELEC $1", [b"1"], 0),
    (b"INSERT INTO notes (body) VALUES ($1) RETURNING body", [b"bound"], 0),
    (b"UPDATE notes SET body = $1 WHERE body = $2", [b"a", b"bound"], 0),
    (b"", [], 0),
    (b"BEGIN", [], 0),
    (b"SELECT 1/$1::int", [b"0"], 0),
    (b"SELECT 1", [], 0),
    (b"ROLLBACK", [], 0),
]

connection = psycopg.connect(autocommit=True)
raw = connection.pgconn
out = tempfile.TemporaryFile("w+")
raw.trace(out.fileno())
raw.set_trace_flags(pq.Trace.SUPPRESS_TIMESTAMPS | pq.Trace.REGRESS_MODE)


def say(words):
    raw.untrace()
    out.seek(0, 2)
    out.write(f"# {words}\n")
    out.flush()
    raw.trace(out.fileno())
    raw.set_trace_flags(pq.Trace.SUPPRESS_TIMESTAMPS | pq.Trace.REGRESS_MODE)


def drain():
    """Every result up to the end of a pipeline's segment."""
    while True:
        while raw.is_busy():
            select.select([raw.socket], [], [])
            raw.consume_input()
        result = raw.get_result()
        if result is None:
            continue
        if result.status == pq.ExecStatus.PIPELINE_SYNC:
            return


for sql in SIMPLE:
    say(sql)
    raw.exec_(sql.encode())

for sql, values, form in EXTENDED:
    say(f"extended {sql.decode()}")
    raw.exec_params(sql, values, result_format=form)

say("named statements")
raw.prepare(b"named", b"SELECT $1::int * 2, $2::text")
raw.describe_prepared(b"named")
raw.exec_prepared(b"named", [b"21", b"x"])
raw.prepare(b"named", b"SELECT 1")
raw.describe_prepared(b"nobody")
raw.exec_prepared(b"nobody", [])
raw.prepare(b"wrong", b"SELECT nothing FROM customers")
raw.exec_(b"DEALLOCATE named")

say("copy")
raw.exec_(b"CREATE TEMP TABLE copied (a int, b text)")
for lines, error in [([b"1\tone\n", b"2\ttwo\n"], None), ([b"x\ty\n"], None), ([b"3\t3\n"], b"no")]:
    raw.exec_(b"COPY copied FROM STDIN")
    for line in lines:
        raw.put_copy_data(line)
    raw.put_copy_end(error)
    while raw.get_result():
        pass
raw.exec_(b"COPY copied TO STDOUT")
while raw.get_copy_data(0)[0] > 0:
    pass
while raw.get_result():
    pass
raw.exec_(b"COPY nothing TO STDOUT")
raw.exec_(b"COPY (SELECT 1/0) TO STDOUT")

say("pipeline")
raw.enter_pipeline_mode()
for segment in [
    [b"SELECT 1", b"SELECT $1::int"],
    [b"INSERT INTO copied VALUES (7)", b"SELECT 1/0", b"SELECT 3"],
    [b"SELECT count(*) FROM copied"],
    [b"BEGIN", b"INSERT INTO copied VALUES (8)"],
    [b"SELECT nothing"],
    [b"SELECT 1"],
    [b"ROLLBACK", b"SELECT count(*) FROM copied"],
]:
    for sql in segment:
        raw.send_query_params(sql, [b"5"] if b"$1" in sql else [])
    raw.pipeline_sync()
    drain()
raw.exit_pipeline_mode()

raw.untrace()
out.seek(0)
sys.stdout.write(out.read())
