//! A client that keeps every byte: for tests that compare what was received with what was recorded,
//! and for thousands of sessions in one process.
//!
//! It speaks just enough: TLS, a password, simple queries. It keeps no more than it is told to.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::Dial;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is kept of what comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// Every byte behind the password, in [`Raw::received`].
    All,
    /// Only the message at hand.
    Nothing,
}

/// A message of the server, as far as a test asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    pub kind: u8,
    pub body: Vec<u8>,
}

impl Message {
    /// A field of an error or a notice, such as `C` for its code.
    pub fn field(&self, name: u8) -> Option<String> {
        let mut fields = self.body.split(|byte| *byte == 0);
        let found = fields.find(|field| field.first() == Some(&name))?;
        Some(String::from_utf8_lossy(found.get(1..).unwrap_or_default()).into_owned())
    }
}

/// One session.
#[derive(Debug)]
pub struct Raw {
    stream: TlsStream<TcpStream>,
    keep: Keep,
    input: Vec<u8>,
    /// Of `input`, what was taken.
    taken: usize,
    /// Every byte that the server sent behind the password, if kept.
    pub received: Vec<u8>,
    /// Bytes of messages behind the password.
    pub bytes: u64,
}

/// How to reach a server: made once for many sessions, so that TLS tickets are used as a pool's
/// would be.
#[derive(Clone, Debug)]
pub struct Door {
    dial: Dial,
    tls: Arc<ClientConfig>,
}

impl Door {
    /// # Errors
    /// The root that the dial names cannot be read.
    pub fn new(dial: &Dial) -> Result<Self> {
        crate::crypto();
        let root = dial.root.as_ref().context("a dial with TLS")?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(root).context("read the root")? {
            roots.add(certificate.context("read a certificate")?).context("take a root")?;
        }
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(Self { dial: dial.clone(), tls: Arc::new(tls) })
    }

    /// Connects, up to the encrypted line, and says nothing more.
    ///
    /// # Errors
    /// Nobody listens, or TLS fails.
    pub async fn knock(&self) -> Result<TlsStream<TcpStream>> {
        let mut tcp = TcpStream::connect(("127.0.0.1", self.dial.port)).await.context("dial")?;
        tcp.set_nodelay(true).context("set nodelay")?;
        tcp.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.context("ask for TLS")?;
        let mut answer = [0];
        tcp.read_exact(&mut answer).await.context("read the answer to SSLRequest")?;
        ensure!(answer == *b"S", "no TLS: {answer:?}");
        let name = ServerName::try_from(self.dial.host.clone()).context("a host name")?;
        TlsConnector::from(self.tls.clone()).connect(name, tcp).await.context("TLS")
    }

    /// Logs in and waits until the server is ready.
    ///
    /// # Errors
    /// The server turns it away, or does not answer.
    pub async fn enter(&self, keep: Keep) -> Result<Raw> {
        let mut stream = self.knock().await?;
        let Dial { user, database, password, .. } = &self.dial;
        let mut body = vec![0, 3, 0, 0];
        for word in ["user", user, "database", database, ""] {
            body.extend_from_slice(word.as_bytes());
            body.push(0);
        }
        stream.write_all(&framed(None, &body)?).await.context("send the startup message")?;
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.context("read the request for a password")?;
        ensure!(head == [b'R', 0, 0, 0, 8, 0, 0, 0, 3], "another request: {head:?}");
        let mut secret = password.clone().unwrap_or_default().into_bytes();
        secret.push(0);
        stream.write_all(&framed(Some(b'p'), &secret)?).await.context("send the password")?;
        let mut raw =
            Raw { stream, keep, input: Vec::new(), taken: 0, received: Vec::new(), bytes: 0 };
        raw.until_ready().await.context("log in")?;
        Ok(raw)
    }
}

fn framed(kind: Option<u8>, body: &[u8]) -> Result<Vec<u8>> {
    let mut out: Vec<u8> = kind.into_iter().collect();
    out.extend_from_slice(&u32::try_from(body.len() + 4)?.to_be_bytes());
    out.extend_from_slice(body);
    Ok(out)
}

/// A simple query as it travels.
///
/// # Errors
/// It is longer than a message can be.
pub fn query(sql: &str) -> Result<Vec<u8>> {
    framed(Some(b'Q'), &[sql.as_bytes(), b"\0"].concat())
}

impl Raw {
    /// # Errors
    /// The line is gone.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await.context("write")?;
        self.stream.flush().await.context("flush")
    }

    /// The next message.
    ///
    /// # Errors
    /// The line is gone, or nothing comes.
    pub async fn message(&mut self) -> Result<Message> {
        loop {
            let rest = self.input.get(self.taken..).unwrap_or_default();
            if let Some((kind, body, total)) = whole(rest) {
                let message = Message { kind, body: body.to_vec() };
                self.taken += total;
                self.bytes += total as u64;
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<()> {
        self.input.drain(..self.taken);
        self.taken = 0;
        let before = self.input.len();
        let read = self.stream.read_buf(&mut self.input);
        let read = tokio::time::timeout(PATIENCE, read).await.context("nothing comes")?;
        if read.context("read")? == 0 {
            bail!("the server closed the line");
        }
        if self.keep == Keep::All {
            self.received.extend_from_slice(self.input.get(before..).unwrap_or_default());
        }
        Ok(())
    }

    /// Messages up to ReadyForQuery: the first error among them, and how many rows came.
    ///
    /// # Errors
    /// The line is gone, or the server ends the session.
    pub async fn until_ready(&mut self) -> Result<(Option<Message>, u64)> {
        let (mut error, mut rows) = (None, 0);
        loop {
            let message = self.message().await?;
            match message.kind {
                b'Z' => return Ok((error, rows)),
                b'D' => rows += 1,
                b'E' if message.field(b'V').as_deref() == Some("FATAL") => {
                    let code = message.field(b'C').unwrap_or_default();
                    bail!("FATAL {code}: {}", message.field(b'M').unwrap_or_default());
                }
                b'E' if error.is_none() => error = Some(message),
                _ => {}
            }
        }
    }

    /// Runs SQL: the first error, and how many rows came.
    ///
    /// # Errors
    /// The line is gone, or the server ends the session.
    pub async fn query(&mut self, sql: &str) -> Result<(Option<Message>, u64)> {
        self.send(&query(sql)?).await?;
        self.until_ready().await
    }

    /// Reads, and throws away, up to ReadyForQuery: for answers of many gigabytes.
    ///
    /// # Errors
    /// The line is gone.
    pub async fn drain(&mut self) -> Result<u64> {
        let before = self.bytes;
        loop {
            let rest = self.input.get(self.taken..).unwrap_or_default();
            match whole(rest) {
                Some((kind, _, total)) => {
                    self.taken += total;
                    self.bytes += total as u64;
                    if kind == b'Z' {
                        return Ok(self.bytes - before);
                    }
                }
                None => self.fill().await?,
            }
        }
    }

    /// What is still there after the server is gone: reads until the line ends.
    pub async fn rest(&mut self) {
        while self.fill().await.is_ok() {}
    }
}

fn whole(input: &[u8]) -> Option<(u8, &[u8], usize)> {
    let kind = *input.first()?;
    let length: [u8; 4] = input.get(1..5)?.try_into().ok()?;
    let total = 1 + usize::try_from(u32::from_be_bytes(length)).ok()?;
    Some((kind, input.get(5..total)?, total))
}

/// The runtime of the raw clients of this process.
///
/// # Panics
/// The system gives no thread.
#[allow(clippy::expect_used, reason = "without a thread there is no test")]
pub fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().expect("a runtime for raw clients")
    })
}
