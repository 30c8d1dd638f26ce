//! A target that is no database: it holds thousands of sessions in one thread, answers at once,
//! makes answers of any size, and can hang. For the sizes that a real server cannot hold.
//!
//! What it says of its catalogue is what a real server said, byte for byte.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, ensure};
use bulla_sql::catalog::{FINGERPRINT, QUERIES, SESSION, SETUP};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::place::Port;
use crate::postgres::Postgres;
use crate::tap::{Door, Keep, query};

/// Bytes of one row's cell in a large answer.
const CELL_BYTES: usize = 1_000;
/// Rows that are written at once.
const ROWS_AT_ONCE: usize = 64;
/// A statement that asks for this many bytes never gets an answer.
pub const HANGS: i64 = -1;

/// How a gateway asks at its login where names lead; what else it asks along has no rows here.
const WHERE_NAMES_LEAD: &str = "SELECT 'p', pg_catalog.current_setting('search_path') \
                                UNION ALL SELECT 'u', CURRENT_USER::pg_catalog.text";

/// The statement that gets so many bytes of rows, or [`HANGS`].
pub fn rows_of(bytes: i64) -> String {
    format!("SELECT item FROM orders WHERE id = {bytes}")
}

/// How logins go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    Prompt,
    /// Takes connections and never says a word.
    Mute,
}

/// A running fake. Dropped, it is gone.
#[derive(Debug)]
pub struct Fake {
    port: Port,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

type Answers = Arc<HashMap<String, Vec<u8>>>;

/// Asks a real server what scouts ask.
///
/// # Errors
/// The server refuses.
pub fn learn(server: &Postgres) -> Result<Arc<HashMap<String, Vec<u8>>>> {
    let dial = server.dial("bulla_plain", "plain secret");
    let mut answers = HashMap::new();
    let asked = [SETUP, SESSION.0, FINGERPRINT].into_iter().chain(QUERIES).chain([SESSION.1]);
    let asked = asked.chain([WHERE_NAMES_LEAD]);
    crate::tap::runtime().block_on(async {
        let mut raw = Door::new(&dial)?.enter(Keep::All).await?;
        for text in asked {
            raw.received.clear();
            let (error, _) = raw.query(text).await?;
            ensure!(error.is_none(), "`{text}`: {error:?}");
            answers.insert(text.to_owned(), raw.received.clone());
        }
        Ok(Arc::new(answers))
    })
}

impl Fake {
    /// # Errors
    /// No port is free.
    pub fn start(answers: &Arc<HashMap<String, Vec<u8>>>, manner: Manner) -> Result<Self> {
        let port = Port::new()?;
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (number, answers) = (port.number(), answers.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::spawn(move || {
            runtime.block_on(async move {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).await;
                let Ok(listener) = listener else { return };
                let _ = ready.send(());
                let serve = async {
                    loop {
                        let Ok((tcp, _)) = listener.accept().await else { continue };
                        let answers = answers.clone();
                        tokio::spawn(async move {
                            // A client that goes away is no error of ours.
                            let _ = session(tcp, answers, manner).await;
                        });
                    }
                };
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().context("the fake target listens")?;
        Ok(Self { port, stop: Some(stop), thread: Some(thread) })
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn put(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(body);
}

async fn session(mut tcp: TcpStream, answers: Answers, manner: Manner) -> Result<()> {
    tcp.set_nodelay(true)?;
    if manner == Manner::Mute {
        let mut nothing = [0; 64];
        while tcp.read(&mut nothing).await? > 0 {}
        return Ok(());
    }
    let length = tcp.read_u32().await?;
    let mut startup = vec![0; usize::try_from(length)?.saturating_sub(4).min(64 << 10)];
    tcp.read_exact(&mut startup).await?;
    let mut out = Vec::new();
    put(&mut out, b'R', &[0, 0, 0, 0]);
    for pair in [
        &b"client_encoding\0UTF8\0"[..],
        b"standard_conforming_strings\0on\0",
        b"server_version\x0015.0\0",
    ] {
        put(&mut out, b'S', pair);
    }
    put(&mut out, b'K', &[0; 8]);
    put(&mut out, b'Z', b"I");
    tcp.write_all(&out).await?;
    let mut body = Vec::new();
    loop {
        let kind = tcp.read_u8().await?;
        let length = usize::try_from(tcp.read_u32().await?)?.saturating_sub(4);
        body.resize(length.min(1 << 20), 0);
        tcp.read_exact(&mut body).await?;
        match kind {
            b'X' => return Ok(()),
            b'Q' => {
                let text = String::from_utf8_lossy(body.strip_suffix(b"\0").unwrap_or(&body));
                let known =
                    if text.starts_with(WHERE_NAMES_LEAD) { WHERE_NAMES_LEAD } else { &text };
                match answers.get(known) {
                    Some(answer) => tcp.write_all(answer).await?,
                    None => answer(&mut tcp, &text).await?,
                }
            }
            _ => {}
        }
    }
}

/// One column, `name`, and the rows that the statement asks for.
async fn answer(tcp: &mut TcpStream, text: &str) -> Result<()> {
    let asked = text.rsplit_once("id = ").and_then(|(_, n)| n.trim().parse::<i64>().ok());
    if asked == Some(HANGS) {
        return std::future::pending().await;
    }
    let mut out = Vec::new();
    let mut column = vec![0, 1];
    column.extend_from_slice(b"name\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
    put(&mut out, b'T', &column);
    let cell = |bytes: usize| {
        let mut row = vec![0, 1];
        row.extend_from_slice(&u32::try_from(bytes).unwrap_or_default().to_be_bytes());
        // Neither noise nor all the same, as data is.
        row.extend((0..bytes).map(|i| b"the quick brown fox 0123456789"[(i * i / 7) % 30]));
        row
    };
    let bytes = usize::try_from(asked.unwrap_or(5)).unwrap_or(5);
    let rows = bytes.div_ceil(CELL_BYTES).max(1);
    if rows == 1 {
        put(&mut out, b'D', &cell(bytes.min(CELL_BYTES)));
    } else {
        tcp.write_all(&out).await?;
        out.clear();
        let mut many = Vec::new();
        for _ in 0..ROWS_AT_ONCE {
            put(&mut many, b'D', &cell(CELL_BYTES));
        }
        for _ in 0..rows / ROWS_AT_ONCE {
            tcp.write_all(&many).await?;
        }
        for _ in 0..rows % ROWS_AT_ONCE {
            put(&mut out, b'D', &cell(CELL_BYTES));
        }
    }
    put(&mut out, b'C', format!("SELECT {rows}\0").as_bytes());
    put(&mut out, b'Z', b"I");
    tcp.write_all(&out).await?;
    Ok(())
}

/// A statement as it travels, for who sends it without waiting.
///
/// # Errors
/// It is too long.
pub fn hangs() -> Result<Vec<u8>> {
    query(&rows_of(HANGS))
}
