import io
import select

import psycopg2
import psycopg2.pool
from bed import *
from psycopg2 import errorcodes, errors, extensions, extras

version(f"{psycopg2.__version__.split(' ')[0]} (libpq {extensions.libpq_version() // 10000})")
connection = psycopg2.connect("")
connection.autocommit = True
cursor = connection.cursor()


def run(sql, values=None, on=cursor):
    on.execute(sql, values)
    return on.fetchall() if on.description else None


@feature("connect")
def _():
    same(run("SELECT 1 + 1"), [(2,)])
    same(connection.info.ssl_in_use, True)


@feature("transactions")
def _():
    with psycopg2.connect("") as c, c.cursor() as cur:
        run(f"{INSERT} (101, 'a', 'a101', '', 'EU')", on=cur)
        c.commit()
        run(f"{INSERT} (102, 'b', 'b102', '', 'EU')", on=cur)
        c.rollback()
        run(f"{INSERT} (103, 'c', 'c103', '', 'EU')", on=cur)
        run("SAVEPOINT s", on=cur)
        fails(errors.DivisionByZero, lambda: run("SELECT 1/0", on=cur))
        fails(errors.InFailedSqlTransaction, lambda: run("SELECT 1", on=cur))
        run("ROLLBACK TO SAVEPOINT s", on=cur)
    same(run("SELECT id FROM customers WHERE id > 100 ORDER BY id"), [(101,), (103,)])


@feature("errors")
def _():
    error = fails(errors.UndefinedColumn, lambda: run(MISSPELT))
    same((error.diag.statement_position, error.pgcode), ("8", errorcodes.UNDEFINED_COLUMN))
    twice = f"{INSERT} (7, 'a', 'a', '', 'EU')"
    error = fails(errors.UniqueViolation, lambda: run(twice))
    same((error.diag.table_name, error.diag.constraint_name), ("customers", "customers_pkey"))
    run("DROP TABLE IF EXISTS nothing")
    same(connection.notices[-1], 'NOTICE:  table "nothing" does not exist, skipping\n')


@feature("notify")
def _():
    listener = psycopg2.connect("")
    listener.autocommit = True
    run("LISTEN psycopg2", on=listener.cursor())
    run("NOTIFY psycopg2, 'one'")
    assert select.select([listener], [], [], 10)[0]
    listener.poll()
    same([n.payload for n in listener.notifies], ["one"])


@feature("copy")
def _():
    run("CREATE TABLE copied (a int, b text)")
    lines = "".join(f"{n}\trow {n}\n" for n in range(20_000))
    cursor.copy_expert("COPY copied FROM STDIN", io.StringIO(lines))
    out = io.StringIO()
    cursor.copy_expert("COPY copied TO STDOUT", out)
    same(out.getvalue(), lines)


@feature("large")
def _():
    rows = run("SELECT n, repeat('x', 200) FROM generate_series(1, 100000) n")
    same(sum(len(text) for _, text in rows), 20_000_000)
    rows = [(f"value {n}",) for n in range(5_000)]
    extras.execute_values(cursor, "INSERT INTO notes (body) VALUES %s", rows, page_size=1000)
    same(run("SELECT count(*) FROM notes WHERE body LIKE 'value%'"), [(5_000,)])


@feature("cancel")
def _():
    with later(connection.cancel):
        fails(errors.QueryCanceled, lambda: run("SELECT pg_sleep(30)"))
    same(run("SELECT 1"), [(1,)])


@feature("refusal")
def _():
    error = fails(errors.InsufficientPrivilege, lambda: run(REFUSED))
    assert str(error).startswith("refused: `SELECT` on `"), error
    same(run("SELECT 1"), [(1,)])


@feature("cursor")
def _():
    with psycopg2.connect("") as c, c.cursor("server_side") as cur:
        cur.execute("SELECT n FROM generate_series(1, 10000) n")
        same(cur.fetchmany(3), [(1,), (2,), (3,)])
        same(sum(1 for _ in cur), 9_997)


@feature("expiry")
def _():
    # The pool dials with what it was given, so the token comes from the file of passwords.
    os.environ.pop("PGPASSWORD")
    pool = psycopg2.pool.ThreadedConnectionPool(1, 2, passfile=passfile(token(SHORT)))
    c = pool.getconn()
    run("SELECT 1", on=c.cursor())
    c.rollback()
    pool.putconn(c)
    until_gone()
    passfile(token())
    c = pool.getconn()
    # psycopg2's pool finds out on use, keeps the last of two errors, and drops the session.
    fails(psycopg2.OperationalError, lambda: run("SELECT 1", on=c.cursor()))
    pool.putconn(c)
    c = pool.getconn()
    same(run("SELECT count(*) FROM orders", on=c.cursor()), [(5,)])
    pool.putconn(c)
    pool.closeall()


@feature("rebind")
def _():
    c = psycopg2.connect(password=token(SHORT))
    c.autocommit = True
    first = run("SELECT pg_backend_pid()", on=c.cursor())
    other = psycopg2.connect(password=token())
    until_gone()
    same(run("SELECT pg_backend_pid()", on=c.cursor()), first)
    other.close()


@feature("direct TLS")
def _():
    c = psycopg2.connect(sslnegotiation="direct", password=token())
    same(run("SELECT 1", on=c.cursor()), [(1,)])
