// node-postgres, its pool, cursors and COPY streams.
const { Client, Pool } = require("pg");
const Cursor = require("pg-cursor");
const copy = require("pg-copy-streams");
const { pipeline } = require("stream/promises");
const { Readable, Writable } = require("stream");
const { fails, feature, misspelt, insert, refused, same, sleep, token, GONE, SHORT, version } =
  require("./bed.js");

const ssl = { ca: require("fs").readFileSync(process.env.PGSSLROOTCERT, "utf8") };

async function dial(more = {}) {
  const client = new Client({ ssl, ...more });
  await client.connect();
  return client;
}

(async () => {
  version(require("pg/package.json").version);
  const c = await dial();

  await feature("connect", async () => {
    same((await c.query("SELECT 1 + 1 AS two")).rows[0].two, 2);
  });

  await feature("prepared", async () => {
    const query = { name: "by id", text: "SELECT id FROM customers WHERE id = $1" };
    for (const n of [7, 8, 9, 7, 8, 9]) {
      same((await c.query({ ...query, values: [n] })).rows[0].id, n);
    }
    same((await c.query("SELECT $1::text AS t", [null])).rows[0].t, null);
  });

  await feature("types", async () => {
    const row = (await c.query("SELECT i8, raw, tz, jb, ints, t FROM every_type WHERE id = 1")).rows[0];
    same(
      [row.i8, row.raw.toString("hex"), row.tz.toISOString(), row.jb, row.ints, row.t],
      ["-9223372036854775808", "00ff10", "2026-11-23T14:05:00.000Z", { b: [2, null] }, [1, 2, null], "tëxt"],
    );
    // A buffer is the one thing that node-postgres binds in binary.
    const sent = Buffer.from([0, 255, 16, 200]);
    same((await c.query("SELECT $1::bytea AS b", [sent])).rows[0].b, sent);
  });

  await feature("transactions", async () => {
    await c.query("BEGIN");
    await c.query(`${insert} (101, 'a', 'a101', '', 'EU')`);
    await c.query("SAVEPOINT s");
    same((await fails(c.query("SELECT 1/0"))).code, "22012");
    same((await fails(c.query("SELECT 1"))).code, "25P02");
    await c.query("ROLLBACK TO s");
    await c.query("COMMIT");
    await c.query("BEGIN");
    await c.query(`${insert} (102, 'b', 'b102', '', 'EU')`);
    await c.query("ROLLBACK");
    same((await c.query("SELECT array_agg(id) AS a FROM customers WHERE id > 100")).rows[0].a, [101]);
  });

  await feature("errors", async () => {
    const error = await fails(c.query(misspelt));
    same([error.code, error.position, error.severity], ["42703", "8", "ERROR"]);
    const twice = await fails(c.query(`${insert} (7, 'a', 'a', '', 'EU')`));
    same([twice.table, twice.constraint], ["customers", "customers_pkey"]);
    const notices = [];
    c.on("notice", (notice) => notices.push(notice.message));
    await c.query("DROP TABLE IF EXISTS nothing");
    same(notices, ['table "nothing" does not exist, skipping']);
  });

  await feature("notify", async () => {
    const listener = await dial();
    const heard = new Promise((done) => listener.on("notification", (n) => done(n.payload)));
    await listener.query("LISTEN node");
    await c.query("SELECT pg_notify('node', 'one')");
    same(await heard, "one");
    await listener.end();
  });

  await feature("copy", async () => {
    await c.query("CREATE TABLE copied (a int, b text)");
    const lines = Array.from({ length: 20000 }, (_, n) => `${n}\trow ${n}\n`);
    await pipeline(Readable.from(lines), c.query(copy.from("COPY copied FROM STDIN")));
    let out = "";
    const take = new Writable({ write: (chunk, _, next) => { out += chunk; next(); } });
    await pipeline(c.query(copy.to("COPY copied TO STDOUT")), take);
    same(out === lines.join(""), true);
  });

  await feature("large", async () => {
    const query = "SELECT n, repeat('x', 200) AS t FROM generate_series(1, 100000) n";
    const { rows } = await c.query(query);
    same(rows.reduce((sum, row) => sum + row.t.length, 0), 20000000);
  });

  await feature("cancel", async () => {
    // node-postgres cancels through another connection, as its documentation shows.
    const { pid } = (await c.query("SELECT pg_backend_pid() AS pid")).rows[0];
    const other = await dial();
    const sleeping = fails(c.query("SELECT pg_sleep(30)"));
    await sleep(0.5);
    await other.query("SELECT pg_cancel_backend($1)", [pid]);
    same((await sleeping).code, "57014");
    same((await c.query("SELECT 1 AS one")).rows[0].one, 1);
    await other.end();
  });

  await feature("refusal", async () => {
    const error = await fails(c.query(refused));
    same([error.code, error.message.slice(0, 21)], ["42501", "refused: `SELECT` on "]);
    same((await c.query("SELECT 1 AS one")).rows[0].one, 1);
    await fails(c.query({ text: refused + " WHERE id = $1", values: [1] }));
    same((await c.query("SELECT 1 AS one")).rows[0].one, 1);
  });

  await feature("pipeline", async () => {
    // Queued by the driver, sent one after the other.
    const all = await Promise.all([1, 2, 3].map((n) => c.query("SELECT $1::int AS n", [n])));
    same(all.map((r) => r.rows[0].n), [1, 2, 3]);
  });

  await feature("cursor", async () => {
    const cursor = c.query(new Cursor("SELECT n FROM generate_series(1, $1::int) n", [1000]));
    same((await cursor.read(10)).length, 10);
    same((await cursor.read(2000)).length, 990);
    await cursor.close();
  });

  await feature("expiry", async () => {
    let count = 0;
    const password = () => token(count++ === 0 ? SHORT : 600);
    const pool = new Pool({ ssl, password, max: 1 });
    pool.on("error", () => {}); // an idle client that ended: the pool drops it
    const pid = async () => (await pool.query("SELECT pg_backend_pid() AS pid")).rows[0].pid;
    const first = await pid();
    await sleep(GONE);
    same((await pid()) !== first, true);
    same(count, 2);
    await pool.end();
  });

  await feature("rebind", async () => {
    const old = await dial({ password: await token(SHORT) });
    const pid = async () => (await old.query("SELECT pg_backend_pid() AS pid")).rows[0].pid;
    const first = await pid();
    const other = await dial({ password: await token() });
    await sleep(GONE);
    same(await pid(), first);
    await old.end();
    await other.end();
  });

  await feature("direct TLS", async () => {
    const client = await dial({ sslnegotiation: "direct" });
    same((await client.query("SELECT 1 AS one")).rows[0].one, 1);
    await client.end();
  });

  await c.end();
  // What a failure left open would keep it waiting.
  process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
