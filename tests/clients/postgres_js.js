// postgres.js, which pools and pipelines by itself.
const postgres = require("postgres");
const { fails, feature, misspelt, insert, refused, same, sleep, token, GONE, SHORT, version } =
  require("./bed.js");

const ssl = { ca: require("fs").readFileSync(process.env.PGSSLROOTCERT, "utf8"), servername: "localhost" };
const dial = (more = {}) =>
  postgres({ ssl, pass: () => token(), onnotice: () => {}, max: 1, ...more });

(async () => {
  // Its package keeps `package.json` to itself.
  const home = require.resolve("postgres").split("/cjs/")[0];
  version(JSON.parse(require("fs").readFileSync(`${home}/package.json`)).version);
  const sql = dial();

  await feature("connect", async () => {
    same((await sql`SELECT 1 + 1 AS two`)[0].two, 2);
  });

  await feature("prepared", async () => {
    for (const n of [7, 8, 9, 7, 8, 9]) {
      same((await sql`SELECT id FROM customers WHERE id = ${n}`)[0].id, n);
    }
    same((await sql`SELECT id FROM customers WHERE id IN ${sql([7, 8])}`).length, 2);
  });

  await feature("types", async () => {
    const row = (await sql`SELECT i8, raw, tz, jb, ints, t FROM every_type WHERE id = 1`)[0];
    same(
      [row.i8, row.raw.toString("hex"), row.tz.toISOString(), row.jb, row.ints, row.t],
      ["-9223372036854775808", "00ff10", "2026-11-23T14:05:00.000Z", { b: [2, null] }, [1, 2, NaN], "tëxt"],
    ); // NaN for NULL is the driver's own.
  });

  await feature("transactions", async () => {
    await sql.begin(async (tx) => {
      await tx`${tx.unsafe(insert)} (101, 'a', 'a101', '', 'EU')`;
      await fails(tx.savepoint(async (inner) => {
        await inner`${inner.unsafe(insert)} (102, 'b', 'b102', '', 'EU')`;
        await inner`SELECT 1/0`;
      }));
    });
    await fails(sql.begin(async (tx) => {
      await tx`${tx.unsafe(insert)} (103, 'c', 'c103', '', 'EU')`;
      throw new Error("changed my mind");
    }));
    same((await sql`SELECT array_agg(id) AS a FROM customers WHERE id > 100`)[0].a, [101]);
  });

  await feature("errors", async () => {
    const error = await fails(sql.unsafe(misspelt));
    same([error.code, error.position, error.severity], ["42703", "8", "ERROR"]);
    const twice = await fails(sql.unsafe(`${insert} (7, 'a', 'a', '', 'EU')`));
    same([twice.table_name, twice.constraint_name], ["customers", "customers_pkey"]);
  });

  await feature("notify", async () => {
    let tell;
    const heard = new Promise((done) => { tell = done; });
    const { unlisten } = await sql.listen("postgresjs", tell);
    await sql.notify("postgresjs", "one");
    same(await heard, "one");
    await unlisten();
  });

  await feature("copy", async () => {
    const { pipeline } = require("stream/promises");
    const { Readable } = require("stream");
    await sql`CREATE TABLE copied (a int, b text)`;
    const lines = Array.from({ length: 20000 }, (_, n) => `${n}\trow ${n}\n`);
    await pipeline(Readable.from(lines), await sql`COPY copied FROM STDIN`.writable());
    let out = "";
    for await (const chunk of await sql`COPY copied TO STDOUT`.readable()) out += chunk;
    same(out === lines.join(""), true);
  });

  await feature("large", async () => {
    const rows = await sql`SELECT n, repeat('x', 200) AS t FROM generate_series(1, 100000) n`;
    same(rows.reduce((sum, row) => sum + row.t.length, 0), 20000000);
  });

  await feature("cancel", async () => {
    const query = sql`SELECT pg_sleep(30)`;
    const sleeping = fails(query);
    await sleep(0.5);
    query.cancel();
    same((await sleeping).code, "57014");
    same((await sql`SELECT 1 AS one`)[0].one, 1);
  });

  await feature("refusal", async () => {
    const error = await fails(sql.unsafe(refused));
    same([error.code, error.message.slice(0, 21)], ["42501", "refused: `SELECT` on "]);
    same((await sql`SELECT 1 AS one`)[0].one, 1);
    const [bad, good] = await Promise.allSettled([
      sql`SELECT employee FROM salaries WHERE id = ${1}`,
      sql`SELECT ${2}::int AS n`,
    ]);
    same([bad.reason.code, good.value[0].n], ["42501", 2]);
  });

  await feature("pipeline", async () => {
    const asked = Array.from({ length: 100 }, (_, n) => sql`SELECT ${n}::int AS n`);
    const all = await Promise.all(asked);
    same(all.map((rows) => rows[0].n).reduce((a, b) => a + b), 4950);
  });

  await feature("cursor", async () => {
    let total = 0;
    await sql`SELECT n FROM generate_series(1, 1000) n`.cursor(100, (rows) => { total += rows.length; });
    same(total, 1000);
  });

  await feature("expiry", async () => {
    let count = 0;
    const pool = dial({ pass: () => token(count++ === 0 ? SHORT : 600) });
    const pid = async () => (await pool`SELECT pg_backend_pid() AS pid`)[0].pid;
    const first = await pid();
    await sleep(GONE);
    same((await pid()) !== first, true);
    same(count, 2);
    await pool.end();
  });

  await feature("rebind", async () => {
    const old = dial({ pass: () => token(SHORT) });
    const pid = async () => (await old`SELECT pg_backend_pid() AS pid`)[0].pid;
    const first = await pid();
    const other = dial();
    await other`SELECT 1`;
    await sleep(GONE);
    same(await pid(), first);
    await old.end();
    await other.end();
  });

  // What a failure left open, such as a COPY, would keep it waiting.
  await sql.end({ timeout: 5 });
  process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
