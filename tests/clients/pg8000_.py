import io
import time
from datetime import datetime, timezone
from decimal import Decimal
from uuid import UUID

import pg8000
import pg8000.native
from bed import *

DatabaseError = pg8000.native.DatabaseError


def dial(word=None):
    word = word or os.environ["PGPASSWORD"]
    return pg8000.native.Connection(
        USER, host=HOST, port=PORT, database=DATABASE, password=word, ssl_context=context()
    )


version(pg8000.__version__)
c = dial()


@feature("connect")
def _():
    same(c.run("SELECT 1 + 1"), [[2]])


@feature("prepared")
def _():
    statement = c.prepare("SELECT id FROM customers WHERE id = :id")
    for n in [7, 8, 9]:
        same(statement.run(id=n), [[n]])
    statement.close()
    same(c.run("SELECT name FROM customers WHERE id = :id", id=7), [["Ada"]])


@feature("transactions")
def _():
    c.run("START TRANSACTION")
    c.run(f"{INSERT} (101, 'a', 'a101', '', 'EU')")
    c.run("COMMIT")
    c.run("START TRANSACTION")
    c.run(f"{INSERT} (102, 'b', 'b102', '', 'EU')")
    fails(DatabaseError, lambda: c.run("SELECT 1/0"))
    error = fails(DatabaseError, lambda: c.run("SELECT 1"))
    same(error.args[0]["C"], "25P02")
    c.run("ROLLBACK")
    same(c.run("SELECT id FROM customers WHERE id > 100"), [[101]])


@feature("errors")
def _():
    error = fails(DatabaseError, lambda: c.run(MISSPELT))
    same((error.args[0]["C"], error.args[0]["P"]), ("42703", "8"))
    error = fails(DatabaseError, lambda: c.run(f"{INSERT} (7, 'a', 'a', '', 'EU')"))
    same((error.args[0]["t"], error.args[0]["n"]), ("customers", "customers_pkey"))


@feature("notify")
def _():
    listener = dial()
    listener.run("LISTEN pg8000")
    c.run("SELECT pg_notify('pg8000', 'one')")
    deadline = time.monotonic() + 10
    while not listener.notifications and time.monotonic() < deadline:
        listener.run("SELECT 1")
    same([n[2] for n in listener.notifications], ["one"])
    listener.close()


@feature("copy")
def _():
    c.run("CREATE TABLE copied (a int, b text)")
    lines = "".join(f"{n}\trow {n}\n" for n in range(20_000)).encode()
    c.run("COPY copied FROM STDIN", stream=io.BytesIO(lines))
    out = io.BytesIO()
    c.run("COPY copied TO STDOUT", stream=out)
    same(out.getvalue(), lines)


@feature("large")
def _():
    rows = c.run("SELECT n, repeat('x', 200) FROM generate_series(1, 20000) n")
    same(sum(len(row[1]) for row in rows), 4_000_000)


@feature("types")
def _():
    row = c.run("SELECT i8, n, raw, tz, u, jb, ints, t FROM every_type WHERE id = 1")[0]
    expect = [
        -9223372036854775808,
        Decimal("12345678901234567890.123"),
        b"\x00\xff\x10",
        datetime(2026, 11, 23, 14, 5, tzinfo=timezone.utc),
        UUID("00000000-0000-4000-8000-000000000001"),
        {"b": [2, None]},
        [1, 2, None],
        "tëxt",
    ]
    same(row, expect)


@feature("refusal")
def _():
    error = fails(DatabaseError, lambda: c.run(REFUSED))
    same(error.args[0]["C"], "42501")
    assert error.args[0]["M"].startswith("refused: `SELECT` on `"), error
    same(c.run("SELECT 1"), [[1]])


@feature("rebind")
def _():
    old = dial(token(SHORT))
    first = old.run("SELECT pg_backend_pid()")
    other = dial(token())
    until_gone()
    same(old.run("SELECT pg_backend_pid()"), first)
    other.close()
