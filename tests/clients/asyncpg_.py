import asyncio
from datetime import datetime, timezone
from decimal import Decimal
from uuid import UUID

import asyncpg
from bed import *


def dial(**more):
    more.setdefault("password", os.environ["PGPASSWORD"])
    more.setdefault("ssl", context())
    return asyncpg.connect(host=HOST, port=PORT, user=USER, database=DATABASE, **more)


async def raises(kind, awaitable):
    try:
        await awaitable
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


async def connect(c):
    same(await c.fetchval("SELECT 1 + 1"), 2)


async def prepared(c):
    statement = await c.prepare("SELECT id, name FROM customers WHERE id = $1")
    for n in [7, 8, 9] * 3:
        same((await statement.fetchrow(n))["id"], n)
    same([a.name for a in statement.get_attributes()], ["id", "name"])
    await c.executemany("INSERT INTO notes (body) VALUES ($1)", [(f"many {n}",) for n in range(500)])
    same(await c.fetchval("SELECT count(*) FROM notes WHERE body LIKE 'many%'"), 500)
    # A statement that the server must plan anew after its table changed.
    await c.execute("CREATE TABLE shape (a int); INSERT INTO shape VALUES (1)")
    same(await c.fetchval("SELECT a FROM shape"), 1)
    await c.execute("ALTER TABLE shape ALTER a TYPE bigint")
    same(await c.fetchval("SELECT a FROM shape"), 1)


async def binary(c):
    row = await c.fetchrow(
        "SELECT i8, n, raw, tz, u, ints, t, ip, state FROM every_type WHERE id = $1", 1
    )
    expect = (
        -9223372036854775808,
        Decimal("12345678901234567890.123"),
        b"\x00\xff\x10",
        datetime(2026, 11, 23, 14, 5, tzinfo=timezone.utc),
        UUID("00000000-0000-4000-8000-000000000001"),
        [1, 2, None],
        "tëxt",
    )
    same(tuple(row)[:7], expect)
    same(await c.fetchval("SELECT $1::payment_state[]", ["open", "void"]), ["open", "void"])


async def transactions(c):
    async with c.transaction():
        await c.execute(f"{INSERT} (101, 'a', 'a101', '', 'EU')")
        try:
            async with c.transaction():
                await c.execute(f"{INSERT} (102, 'b', 'b102', '', 'EU')")
                raise KeyError
        except KeyError:
            pass

    async def failing():
        async with c.transaction(isolation="serializable"):
            await c.execute(f"{INSERT} (103, 'c', 'c103', '', 'EU')")
            await c.execute("SELECT 1/0")

    await raises(asyncpg.DivisionByZeroError, failing())
    same(await c.fetchval("SELECT array_agg(id) FROM customers WHERE id > 100"), [101])


async def errors(c):
    error = await raises(asyncpg.UndefinedColumnError, c.fetch(MISSPELT))
    same((error.position, error.severity), ("8", "ERROR"))
    error = await raises(asyncpg.UniqueViolationError, c.execute(f"{INSERT} (7,'a','a','','EU')"))
    same((error.table_name, error.constraint_name), ("customers", "customers_pkey"))
    logs = []
    c.add_log_listener(lambda _, message: logs.append(message.message))
    await c.execute("DROP TABLE IF EXISTS nothing")
    await asyncio.sleep(0)
    same(logs, ['table "nothing" does not exist, skipping'])


async def notify(c):
    heard = asyncio.get_running_loop().create_future()
    await c.add_listener("asyncpg", lambda *args: heard.set_result(args[3]))
    other = await dial()
    await other.execute("SELECT pg_notify('asyncpg', 'one')")
    same(await asyncio.wait_for(heard, 10), "one")
    await other.close()


async def copy(c):
    await c.execute("CREATE TABLE copied (a int, b text)")
    rows = [(n, f"row {n}") for n in range(20_000)]
    same(await c.copy_records_to_table("copied", records=rows), "COPY 20000")
    chunks = []

    async def take(chunk):
        chunks.append(chunk)

    await c.copy_from_query("SELECT * FROM copied ORDER BY a", output=take, format="csv")
    same(b"".join(chunks).count(b"\n"), 20_000)


async def large(c):
    rows = await c.fetch("SELECT n, repeat('x', 200) AS t FROM generate_series(1, 100000) n")
    same(sum(len(row["t"]) for row in rows), 20_000_000)
    big = os.urandom(8 << 20)
    same(await c.fetchval("SELECT $1::bytea", big), big)


async def cancel(c):
    # asyncpg cancels on its own when its deadline passes.
    await raises(TimeoutError, c.fetch("SELECT pg_sleep(30)", timeout=0.5))
    same(await c.fetchval("SELECT 1"), 1)


async def refusal(c):
    error = await raises(asyncpg.InsufficientPrivilegeError, c.fetch(REFUSED))
    assert str(error).startswith("refused: `SELECT` on `"), error
    same(await c.fetchval("SELECT 1"), 1)

    async def inside():
        async with c.transaction():
            await c.execute(f"{INSERT} (104, 'd', 'd104', '', 'EU')")
            await c.fetch(REFUSED)

    await raises(asyncpg.InsufficientPrivilegeError, inside())
    same(await c.fetchval("SELECT count(*) FROM customers WHERE id = 104"), 0)


async def cursor(c):
    async with c.transaction():
        cur = await c.cursor("SELECT n FROM generate_series(1, 10000) n")
        same(len(await cur.fetch(10)), 10)
        await cur.forward(100)
        same((await cur.fetchrow())["n"], 111)
        total = 0
        async for _ in c.cursor("SELECT n FROM generate_series(1, 1000) n", prefetch=100):
            total += 1
        same(total, 1000)


async def expiry(_):
    tokens = Tokens(SHORT)
    pool = await asyncpg.create_pool(
        host=HOST, port=PORT, user=USER, database=DATABASE, ssl=context(),
        password=tokens, min_size=1, max_size=2,
    )
    first = await pool.fetchval("SELECT pg_backend_pid()")
    await asyncio.sleep(GONE)
    same(await pool.fetchval("SELECT count(*) FROM orders"), 5)
    assert await pool.fetchval("SELECT pg_backend_pid()") != first
    assert tokens.count >= 2
    await pool.close()


async def rebind(_):
    c = await dial(password=token(SHORT))
    first = await c.fetchval("SELECT pg_backend_pid()")
    other = await dial(password=token())
    await asyncio.sleep(GONE)
    same(await c.fetchval("SELECT pg_backend_pid()"), first)
    await other.close()


async def direct(_):
    c = await dial(ssl=context("postgresql"), direct_tls=True)
    same(await c.fetchval("SELECT 1"), 1)
    await c.close()


async def main():
    version(asyncpg.__version__)
    c = await dial()
    for name, function in {
        "connect": connect, "prepared": prepared, "binary": binary, "transactions": transactions,
        "errors": errors, "notify": notify, "copy": copy, "large": large, "cancel": cancel,
        "refusal": refusal, "cursor": cursor, "expiry": expiry, "rebind": rebind,
        "direct TLS": direct,
    }.items():
        await attempt(name, function(c))


asyncio.run(main())
