//! The bed itself: before it can test a gateway, it must stand.

use anyhow::Result;
use bulla_e2e::ca::{Authority, Wish};
use bulla_e2e::client::Dial;
use bulla_e2e::place::TempDir;
use bulla_e2e::postgres::{Flavor, Options, Postgres, SUPERUSER_PASSWORD};

/// Starts one flavor and lets every kind of login in, and keeps the wrong ones out.
fn check_server(flavor: Flavor, version: Option<u32>) -> Result<()> {
    let authority = Authority::new("bed")?;
    let server = Postgres::with(&authority, &Options::flavor(flavor))?;
    assert!(version.is_none_or(|version| version == server.version()));
    for (user, password) in [
        ("bulla_scram", "scram secret"),
        ("bulla_md5", "md5 secret"),
        ("bulla_plain", "plain secret"),
        ("bulla_trust", "anything"),
        ("postgres", SUPERUSER_PASSWORD),
    ] {
        let ask = "SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let rows = server.dial(user, password).psql_rows(ask)?;
        assert_eq!(rows, format!("{user}|t"));
        if user != "bulla_trust" {
            let refused = server.dial(user, "wrong").psql(&["SELECT 1"])?;
            assert_eq!(refused.code(), 2, "{refused}");
            assert!(refused.err().contains("authentication failed"), "{refused}");
        }
    }
    let bound = server.dial("bulla_scram", "scram secret").env("PGCHANNELBINDING", "require");
    assert_eq!(bound.psql_rows("SELECT 1")?, "1");

    let dir = TempDir::new("client")?;
    let (cert, key) = authority.issue(&Wish::client("bulla_cert"))?.write(&dir, "client")?;
    let dial = server.dial("bulla_cert", "").identity(&cert, &key);
    assert_eq!(dial.psql_rows("SELECT current_user")?, "bulla_cert");
    let (cert, key) = authority.issue(&Wish::client("bulla_cert").expired())?.write(&dir, "old")?;
    let refused = server.dial("bulla_cert", "").identity(&cert, &key).psql(&["SELECT 1"])?;
    assert_eq!(refused.code(), 2, "{refused}");

    let other = dir.write("other.pem", Authority::new("other")?.pem())?;
    let refused = server.dial("bulla_trust", "").verify_full(&other).psql(&["SELECT 1"])?;
    assert!(refused.err().contains("certificate verify failed"), "{refused}");
    Ok(())
}

#[test]
fn the_systems_server_answers_psql_over_tls() -> Result<()> {
    check_server(Flavor::System, None)
}

#[test]
fn postgresql_18_answers_psql_over_tls() -> Result<()> {
    check_server(Flavor::Eighteen, Some(18))
}

#[test]
fn the_seed_is_whole_and_each_server_has_its_own_copy() -> Result<()> {
    let authority = Authority::new("bed")?;
    let (one, two) = (Postgres::start(&authority)?, Postgres::start(&authority)?);
    let dial = one.dial("bulla_scram", "scram secret");
    assert_eq!(dial.psql_rows("SELECT name, orders FROM customer_orders WHERE id = 7")?, "Ada|2");
    assert_eq!(dial.psql_rows("SELECT void_payment(42), cents(1.5)")?, "42|150");
    let state = "SELECT state FROM payments WHERE id = 42";
    assert_eq!((one.sql(state)?.as_str(), two.sql(state)?.as_str()), ("void", "open"));
    assert!(one.log().contains("SELECT void_payment(42)"), "the target logs what it receives");
    assert!(!two.log().contains("SELECT void_payment(42)"));
    Ok(())
}

#[test]
fn a_killed_server_is_noticed() -> Result<()> {
    let server = Postgres::start(&Authority::new("bed")?)?;
    server.proc().kill()?;
    let refused = server.dial("bulla_trust", "").psql(&["SELECT 1"])?;
    assert_eq!(refused.code(), 2, "{refused}");
    Ok(())
}

#[test]
fn drivers_of_other_languages_reach_it() -> Result<()> {
    let server = Postgres::start(&Authority::new("bed")?)?;
    let dial = server.dial("bulla_scram", "scram secret");
    for script in [PSYCOPG, ASYNCPG] {
        assert_eq!(dial.python(script)?.success()?.trim(), "Ada Grace");
    }
    for script in [NODE_POSTGRES, POSTGRES_JS] {
        assert_eq!(dial.node(script)?.success()?.trim(), "Ada Grace");
    }
    let bench = dial.run("pgbench", &["-i", "-s", "1", "-q"])?;
    bench.success()?;
    let bench = dial.run("pgbench", &["-S", "-M", "prepared", "-t", "20", "-n"])?.success()?;
    assert!(bench.contains("number of transactions actually processed: 20/20"), "{bench}");
    Ok(())
}

#[test]
fn a_dial_never_shows_its_password() {
    let dial = Dial::new("localhost", 1, "u", "d").password("secret").sslmode("require");
    assert_eq!(dial.uri(), "postgresql://u@localhost:1/d?sslmode=require");
}

const PSYCOPG: &str = "
import psycopg
with psycopg.connect() as connection:
    rows = connection.execute('SELECT name FROM customers WHERE id IN (%s, %s)', (7, 9)).fetchall()
    print(' '.join(name for name, in rows))
";

const ASYNCPG: &str = "
import asyncio, asyncpg
async def main():
    connection = await asyncpg.connect()
    rows = await connection.fetch('SELECT name FROM customers WHERE id IN ($1, $2)', 7, 9)
    print(' '.join(row['name'] for row in rows))
    await connection.close()
asyncio.run(main())
";

const NODE_POSTGRES: &str = "
const { Client } = require('pg');
const ca = require('fs').readFileSync(process.env.PGSSLROOTCERT, 'utf8');
(async () => {
  const client = new Client({ ssl: { ca, servername: 'localhost' } });
  await client.connect();
  const { rows } = await client.query('SELECT name FROM customers WHERE id IN ($1, $2)', [7, 9]);
  console.log(rows.map(row => row.name).join(' '));
  await client.end();
})();
";

const POSTGRES_JS: &str = "
const postgres = require('postgres');
const ca = require('fs').readFileSync(process.env.PGSSLROOTCERT, 'utf8');
(async () => {
  const sql = postgres({ ssl: { ca, servername: 'localhost' }, max: 1 });
  const rows = await sql`SELECT name FROM customers WHERE id IN (${7}, ${9})`;
  console.log(rows.map(row => row.name).join(' '));
  await sql.end();
})();
";
