//! tokio-postgres and its pool, deadpool.

use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{self, Poll};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use bulla_e2e::client::{Dial, http};
use bytes::Bytes;
use deadpool_postgres::{Connect, Manager, ManagerConfig, Pool, RecyclingMethod};
use futures_util::{SinkExt, TryStreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{AsyncMessage, Client, Config, Error, IsolationLevel, Socket};

use crate::world::Side;

const REFUSED: &str = "SELECT employee FROM salaries";
const INSERT: &str = "INSERT INTO customers (id, name, email, ssn, region) VALUES";
const SHORT: u32 = 3;
const GONE: Duration = Duration::from_secs(6);

/// rustls for tokio-postgres, which leaves TLS to its caller.
#[derive(Clone)]
struct Tls(Arc<rustls::ClientConfig>);

impl Tls {
    fn new(dial: &Dial, alpn: &[&[u8]]) -> Result<Self> {
        bulla_e2e::crypto();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(dial.root.as_ref().context("a root")?)?)?;
        let mut config =
            rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Self(Arc::new(config)))
    }
}

struct Stream(tokio_rustls::client::TlsStream<Socket>);

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Stream;
    type TlsConnect = Named;
    type Error = anyhow::Error;
    fn make_tls_connect(&mut self, host: &str) -> Result<Named> {
        Ok(Named(self.clone(), ServerName::try_from(host.to_owned())?))
    }
}

struct Named(Tls, ServerName<'static>);

impl TlsConnect<Socket> for Named {
    type Stream = Stream;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Stream>> + Send>>;
    fn connect(self, stream: Socket) -> Self::Future {
        let Self(Tls(config), name) = self;
        Box::pin(async move {
            tokio_rustls::TlsConnector::from(config).connect(name, stream).await.map(Stream)
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }
    fn poll_flush(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

fn config(dial: &Dial) -> Config {
    let mut config = Config::new();
    config.host(&dial.host).port(dial.port).user(&dial.user).dbname(&dial.database);
    config.password(dial.password.as_deref().unwrap_or_default()).ssl_mode(SslMode::Require);
    config
}

async fn connect(config: &Config, tls: &Tls) -> Result<Client> {
    let (client, connection) = config.connect(tls.clone()).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A token as a service fetches it.
fn token(dial: &Dial, seconds: u32) -> Result<String> {
    let of = |name: &str| {
        let found = dial.env.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).with_context(|| format!("no {name}"))
    };
    let form = format!(
        "grant_type=client_credentials&client_id={}&client_secret=secret&expires_in={seconds}",
        of("BULLA_CLIENT")?
    );
    let (_, body) = http("POST", of("BULLA_TOKENS")?, &form)?;
    let body: serde_json::Value = serde_json::from_str(&body)?;
    Ok(body["access_token"].as_str().context("a token")?.to_owned())
}

fn same<T: PartialEq + Debug>(found: T, expected: T) -> Result<()> {
    ensure!(found == expected, "{found:?} is not {expected:?}");
    Ok(())
}

/// The answer of the server, which must be an error of this code.
fn fails<T>(code: &str, result: Result<T, Error>) -> Result<tokio_postgres::error::DbError> {
    let Err(error) = result else { return Err(anyhow!("it did not fail")) };
    let answer = error.as_db_error().cloned().with_context(|| error.to_string())?;
    same(answer.code().code(), code)?;
    Ok(answer)
}

/// What a pool dials with: a fresh token each time.
struct Fresh {
    dial: Dial,
    tls: Tls,
    count: Arc<AtomicU32>,
}

type Dialled = (Client, JoinHandle<()>);

impl Connect for Fresh {
    fn connect(
        &self,
        _: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<Dialled, Error>> + Send + '_>> {
        Box::pin(async move {
            let life = if self.count.fetch_add(1, Ordering::Relaxed) == 0 { SHORT } else { 600 };
            let word = token(&self.dial, life).unwrap();
            let config = config(&self.dial.clone().password(&word));
            let (client, connection) = config.connect(self.tls.clone()).await?;
            Ok((client, tokio::spawn(async move { drop(connection.await) })))
        })
    }
}

pub fn run(side: &Side) -> String {
    let lock = include_str!("../../../Cargo.lock");
    let found = lock.split("name = \"tokio-postgres\"\nversion = \"").nth(1);
    let version = found.and_then(|rest| rest.split('"').next()).unwrap_or_default();
    let mut said = format!("version\t{version}\n");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let dial = &side.dial;
        let tls = Tls::new(dial, &[]).unwrap();
        let client = connect(&config(dial), &tls).await.unwrap();
        let mut note = |name: &str, result: Result<()>| match result {
            Ok(()) => said.push_str(&format!("ok\t{name}\n")),
            Err(why) => said.push_str(&format!("no\t{name}\t{why:#}\n")),
        };
        note("connect", same(one::<i32>(&client, "SELECT 1 + 1").await.unwrap(), 2));
        note("prepared", prepared(&client).await);
        note("binary", binary(&client).await);
        note("transactions", transactions(dial, &tls).await);
        note("errors", errors(&client).await);
        note("notify", notify(dial, &tls, &client).await);
        note("copy", copy(&client).await);
        note("large", large(&client).await);
        note("cancel", cancel(&client, &tls).await);
        note("refusal", refusal(&client).await);
        note("pipeline", pipeline(&client).await);
        note("cursor", cursor(dial, &tls).await);
        note("expiry", expiry(dial, &tls).await);
        note("rebind", rebind(dial, &tls).await);
        note("direct TLS", direct(dial).await);
    });
    said
}

async fn one<T>(client: &Client, sql: &str) -> Result<T, Error>
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    client.query_one(sql, &[]).await?.try_get(0)
}

async fn prepared(client: &Client) -> Result<()> {
    let statement = client.prepare("SELECT id FROM customers WHERE id = $1").await?;
    for n in [7, 8, 9, 7, 8, 9] {
        same(client.query_one(&statement, &[&n]).await?.get::<_, i32>(0), n)?;
    }
    Ok(())
}

async fn binary(client: &Client) -> Result<()> {
    let sql = "SELECT i8, raw, ints, t, f4 FROM every_type WHERE id = $1";
    let row = client.query_one(sql, &[&1]).await?;
    same(row.get::<_, i64>(0), i64::MIN)?;
    same(row.get::<_, Vec<u8>>(1), vec![0, 255, 16])?;
    same(row.get::<_, Vec<Option<i32>>>(2), vec![Some(1), Some(2), None])?;
    same(row.get::<_, String>(3), "tëxt".to_owned())?;
    same(row.get::<_, f32>(4), 1.5)
}

async fn transactions(dial: &Dial, tls: &Tls) -> Result<()> {
    let mut client = connect(&config(dial), tls).await?;
    let mut tx = client.transaction().await?;
    tx.execute(&format!("{INSERT} (101, 'a', 'a101', '', 'EU')"), &[]).await?;
    let inner = tx.savepoint("s").await?;
    fails("22012", inner.execute("SELECT 1/0", &[]).await)?;
    fails("25P02", inner.execute("SELECT 1", &[]).await)?;
    inner.rollback().await?;
    tx.commit().await?;
    let tx = client.build_transaction().isolation_level(IsolationLevel::Serializable);
    let tx = tx.start().await?;
    tx.execute(&format!("{INSERT} (102, 'b', 'b102', '', 'EU')"), &[]).await?;
    drop(tx);
    same(one::<i64>(&client, "SELECT count(*) FROM customers WHERE id > 100").await?, 1)
}

async fn errors(client: &Client) -> Result<()> {
    let answer = fails("42703", client.batch_execute("SELECT nothing FROM customers").await)?;
    let position = answer.position().context("a position")?;
    same(position, &tokio_postgres::error::ErrorPosition::Original(8))?;
    let twice = format!("{INSERT} (7, 'a', 'a', '', 'EU')");
    let answer = fails("23505", client.batch_execute(&twice).await)?;
    same((answer.table(), answer.constraint()), (Some("customers"), Some("customers_pkey")))
}

async fn notify(dial: &Dial, tls: &Tls, other: &Client) -> Result<()> {
    let (listener, mut connection) = config(dial).connect(tls.clone()).await?;
    let (tell, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(said) = message {
                let _ = tell.send(said.payload().to_owned());
            }
        }
    });
    listener.batch_execute("LISTEN tokio").await?;
    other.batch_execute("NOTIFY tokio, 'one'").await?;
    let heard = tokio::time::timeout(Duration::from_secs(10), heard.recv()).await?;
    same(heard.as_deref(), Some("one"))
}

async fn copy(client: &Client) -> Result<()> {
    client.batch_execute("CREATE TABLE copied (a int, b text)").await?;
    let sink = client.copy_in::<_, Bytes>("COPY copied FROM STDIN").await?;
    let mut sink = Box::pin(sink);
    let lines: String = (0..20_000).map(|n| format!("{n}\trow {n}\n")).collect();
    for chunk in lines.as_bytes().chunks(10_000) {
        sink.send(Bytes::copy_from_slice(chunk)).await?;
    }
    same(sink.as_mut().finish().await?, 20_000)?;
    let out = client.copy_out("COPY copied TO STDOUT").await?;
    let out: Vec<Bytes> = out.try_collect().await?;
    same(out.concat() == lines.as_bytes(), true)
}

async fn large(client: &Client) -> Result<()> {
    let sql = "SELECT n, repeat('x', 200) FROM generate_series(1, 100000) n";
    let rows = client.query(sql, &[]).await?;
    same(rows.iter().map(|row| row.get::<_, &str>(1).len()).sum::<usize>(), 20_000_000)?;
    let big = vec![0xa5_u8; 8 << 20];
    let row = client.query_one("SELECT $1::bytea", &[&big]).await?;
    same(row.get::<_, &[u8]>(0) == big, true)
}

async fn cancel(client: &Client, tls: &Tls) -> Result<()> {
    let (key, tls) = (client.cancel_token(), tls.clone());
    let cancelling = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        key.cancel_query(tls).await
    });
    fails("57014", client.batch_execute("SELECT pg_sleep(30)").await)?;
    cancelling.await??;
    same(one::<i32>(client, "SELECT 1").await?, 1)
}

async fn refusal(client: &Client) -> Result<()> {
    let answer = fails("42501", client.batch_execute(REFUSED).await)?;
    ensure!(answer.message().starts_with("refused: `SELECT` on `"), "{answer}");
    fails("42501", client.query(&format!("{REFUSED} WHERE id = $1"), &[&1]).await)?;
    same(one::<i32>(client, "SELECT 1").await?, 1)
}

async fn pipeline(client: &Client) -> Result<()> {
    let statement = client.prepare("SELECT $1::int").await?;
    let asked = (0..100).map(|n| {
        let statement = &statement;
        async move { client.query_one(statement, &[&n]).await.map(|row| row.get::<_, i32>(0)) }
    });
    let found = futures_util::future::try_join_all(asked).await?;
    same(found.iter().sum::<i32>(), 4950)
}

async fn cursor(dial: &Dial, tls: &Tls) -> Result<()> {
    let mut client = connect(&config(dial), tls).await?;
    let tx = client.transaction().await?;
    let portal = tx.bind("SELECT n FROM generate_series(1, 1000) n", &[]).await?;
    same(tx.query_portal(&portal, 10).await?.len(), 10)?;
    same(tx.query_portal(&portal, 0).await?.len(), 990)
}

async fn expiry(dial: &Dial, tls: &Tls) -> Result<()> {
    let count = Arc::new(AtomicU32::new(0));
    let fresh = Fresh { dial: dial.clone(), tls: tls.clone(), count: Arc::clone(&count) };
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_connect(config(dial), fresh, recycling);
    let pool = Pool::builder(manager).max_size(1).build()?;
    let first = one::<i32>(&*pool.get().await?, "SELECT pg_backend_pid()").await?;
    tokio::time::sleep(GONE).await;
    let client = pool.get().await?;
    ensure!(one::<i32>(&client, "SELECT pg_backend_pid()").await? != first, "the same session");
    same(one::<i64>(&client, "SELECT count(*) FROM orders").await?, 5)?;
    same(count.load(Ordering::Relaxed), 2)
}

async fn rebind(dial: &Dial, tls: &Tls) -> Result<()> {
    let old = connect(&config(&dial.clone().password(&token(dial, SHORT)?)), tls).await?;
    let first = one::<i32>(&old, "SELECT pg_backend_pid()").await?;
    let _other = connect(&config(&dial.clone().password(&token(dial, 600)?)), tls).await?;
    tokio::time::sleep(GONE).await;
    same(one::<i32>(&old, "SELECT pg_backend_pid()").await?, first)
}

async fn direct(dial: &Dial) -> Result<()> {
    let tls = Tls::new(dial, &[b"postgresql"])?;
    let mut config = config(dial);
    config.ssl_negotiation(SslNegotiation::Direct);
    let client = connect(&config, &tls).await?;
    same(one::<i32>(&client, "SELECT 1").await?, 1)
}
