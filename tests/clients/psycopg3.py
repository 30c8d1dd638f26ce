import os
from datetime import datetime, timezone
from decimal import Decimal
from uuid import UUID

import psycopg
import psycopg_pool
from bed import *
from psycopg import errors, pq
from psycopg.types.json import Jsonb

version(f"{psycopg.__version__} (libpq {pq.version() // 10000}.{pq.version() % 10000})")
connection = psycopg.connect(autocommit=True)


@feature("connect")
def _():
    same(connection.execute("SELECT 1 + 1").fetchone(), (2,))
    same(connection.pgconn.ssl_in_use, True)


@feature("prepared")
def _():
    for n in [7, 8, 9, 7, 8, 9, 7, 8, 9]:
        row = connection.execute("SELECT id FROM customers WHERE id = %s", (n,)).fetchone()
        same(row, (n,))
    same(connection.execute("SELECT %s::text", (None,), prepare=True).fetchone(), (None,))
    connection.execute("DEALLOCATE ALL")
    same(connection.execute("SELECT name FROM customers WHERE id = %s", (7,), prepare=True).fetchone(), ("Ada",))


@feature("binary")
def _():
    with connection.cursor(binary=True) as cursor:
        cursor.execute("SELECT i8, n, raw, tz, u, jb, ints, t FROM every_type WHERE id = 1")
        expect = (
            -9223372036854775808,
            Decimal("12345678901234567890.123"),
            b"\x00\xff\x10",
            datetime(2026, 11, 23, 14, 5, tzinfo=timezone.utc),
            UUID("00000000-0000-4000-8000-000000000001"),
            {"b": [2, None]},
            [1, 2, None],
            "tëxt",
        )
        same(cursor.fetchone(), expect)
        cursor.execute("SELECT %b::int8, %b::bytea, %b::jsonb", (1 << 40, b"\0\1", Jsonb([1])))
        same(cursor.fetchone(), (1 << 40, b"\0\1", [1]))


def nested(c):
    with c.transaction():
        c.execute(f"{INSERT} (101, 'a', 'x', '', 'EU')")


@feature("transactions")
def _():
    with psycopg.connect() as c:
        c.execute(f"{INSERT} (101, 'a', 'a101', '', 'EU')")
        c.commit()
        c.execute(f"{INSERT} (102, 'b', 'b102', '', 'EU')")
        c.rollback()
        with c.transaction():
            c.execute(f"{INSERT} (103, 'c', 'c103', '', 'EU')")
            fails(errors.UniqueViolation, lambda: nested(c))
            same(c.execute("SELECT count(*) FROM customers WHERE id = 103").fetchone(), (1,))
        c.commit()
        fails(errors.DivisionByZero, lambda: c.execute("SELECT 1/0"))
        fails(errors.InFailedSqlTransaction, lambda: c.execute("SELECT 1"))
        c.rollback()
        rows = c.execute("SELECT id FROM customers WHERE id > 100 ORDER BY id").fetchall()
        same(rows, [(101,), (103,)])


@feature("errors")
def _():
    error = fails(errors.UndefinedColumn, lambda: connection.execute(MISSPELT))
    same((error.diag.statement_position, error.diag.severity), ("8", "ERROR"))
    twice = f"{INSERT} (7, 'a', 'a', '', 'EU')"
    error = fails(errors.UniqueViolation, lambda: connection.execute(twice))
    same((error.diag.table_name, error.diag.constraint_name), ("customers", "customers_pkey"))
    notices = []
    connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    connection.execute("DROP TABLE IF EXISTS nothing")
    same(notices, ['table "nothing" does not exist, skipping'])


@feature("notify")
def _():
    with psycopg.connect(autocommit=True) as c:
        c.execute("LISTEN psycopg3")
        connection.execute("SELECT pg_notify('psycopg3', 'one')")
        connection.execute("NOTIFY psycopg3, 'two'")
        found = [n.payload for n in c.notifies(timeout=10, stop_after=2)]
        same(found, ["one", "two"])


def bad_copy(cursor):
    with cursor.copy("COPY copied FROM STDIN") as copy:
        copy.write(b"x\ty\n")


@feature("copy")
def _():
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE copied (a int, b text)")
        with cursor.copy("COPY copied FROM STDIN") as copy:
            for n in range(20_000):
                copy.write_row((n, f"row\t{n}"))
        with cursor.copy("COPY copied TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            rows = list(copy.rows())
        same((len(rows), rows[-1]), (20_000, (19_999, "row\t19999")))
        fails(errors.InvalidTextRepresentation, lambda: bad_copy(cursor))
        same(cursor.execute("SELECT count(*) FROM copied").fetchone(), (20_000,))


@feature("large")
def _():
    rows = connection.execute("SELECT n, repeat('x', 200) FROM generate_series(1, 100000) n")
    same(sum(len(text) for _, text in rows), 20_000_000)
    big = os.urandom(8 << 20)
    same(connection.execute("SELECT %b::bytea", (big,), binary=True).fetchone(), (big,))


@feature("cancel")
def _():
    with later(connection.cancel_safe):
        fails(errors.QueryCanceled, lambda: connection.execute("SELECT pg_sleep(30)"))
    same(connection.execute("SELECT 1").fetchone(), (1,))


@feature("refusal")
def _():
    error = fails(errors.InsufficientPrivilege, lambda: connection.execute(REFUSED))
    assert str(error).startswith("refused: `SELECT` on `"), error
    same(connection.execute("SELECT 1").fetchone(), (1,))
    with psycopg.connect() as c:
        c.execute(f"{INSERT} (104, 'd', 'd104', '', 'EU')")
        fails(errors.InsufficientPrivilege, lambda: c.execute(REFUSED))
        same(c.info.transaction_status.name, "INERROR")
        c.rollback()
        same(c.execute("SELECT count(*) FROM customers WHERE id = 104").fetchone(), (0,))


@feature("pipeline")
def _():
    with connection.pipeline() as pipeline:
        first = connection.execute("SELECT count(*) FROM orders")
        for n in range(200):
            connection.execute(f"INSERT INTO notes (body) VALUES (%s)", (f"pipeline {n}",))
        pipeline.sync()
        same(first.fetchone(), (5,))
        bad = connection.execute("SELECT count(*) FROM notes WHERE body LIKE 'pipeline%%'")
        same(bad.fetchone(), (200,))

    def broken():
        with connection.pipeline():
            connection.execute("INSERT INTO notes (body) VALUES ('half')")
            connection.execute(REFUSED)
            connection.execute("INSERT INTO notes (body) VALUES ('half')")

    fails(errors.InsufficientPrivilege, broken)
    same(connection.execute("SELECT count(*) FROM notes WHERE body = 'half'").fetchone(), (0,))


@feature("cursor")
def _():
    with psycopg.connect() as c, c.cursor(name="server_side", scrollable=True) as cursor:
        cursor.execute("SELECT n FROM generate_series(1, 10000) n")
        same(cursor.fetchmany(3), [(1,), (2,), (3,)])
        cursor.scroll(1000, mode="absolute")
        same(cursor.fetchone(), (1001,))
        same(len(cursor.fetchall()), 8999)


@feature("expiry")
def _():
    tokens = Tokens(SHORT)
    pool = psycopg_pool.ConnectionPool(
        kwargs=lambda: {"password": tokens(), "autocommit": True},
        min_size=1,
        max_size=1,
        check=psycopg_pool.ConnectionPool.check_connection,
    )
    told = psycopg.connect(password=token(SHORT), autocommit=True)
    with pool:
        with pool.connection() as c:
            first = c.execute("SELECT pg_backend_pid()").fetchone()
        until_gone()
        error = fails(psycopg.OperationalError, lambda: told.execute("SELECT 1"))
        assert "the identity of this session has expired" in str(error), error
        with pool.connection() as c:
            same(c.execute("SELECT count(*) FROM orders").fetchone(), (5,))
            second = c.execute("SELECT pg_backend_pid()").fetchone()
        assert second != first, f"{first} lives, and {tokens.count} tokens were asked for"
        assert tokens.count >= 2


@feature("rebind")
def _():
    with psycopg.connect(password=token(SHORT), autocommit=True) as c:
        first = c.execute("SELECT pg_backend_pid()").fetchone()
        with psycopg.connect(password=token()):
            until_gone()
            same(c.execute("SELECT pg_backend_pid()").fetchone(), first)


@feature("direct TLS")
def _():
    with psycopg.connect("sslnegotiation=direct") as c:
        same(c.execute("SELECT 1").fetchone(), (1,))


@feature("protocol 3.2")
def _():
    with psycopg.connect("min_protocol_version=3.2 max_protocol_version=3.2") as c:
        same(c.pgconn.full_protocol_version, 30002)
        with later(c.cancel_safe):
            fails(errors.QueryCanceled, lambda: c.execute("SELECT pg_sleep(30)"))
