//! A PostgreSQL client of bare bytes: says what no driver would say.
//!
//! It knows how messages are framed and nothing more, so that a test can send any of them, whole,
//! cut, false or out of turn, and see every byte that comes back.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// How long an answer may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// `SSLRequest`: length 8, code 80877103.
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// `GSSENCRequest`: length 8, code 80877104.
pub const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

/// Protocol 3.0 and 3.2.
pub const V3_0: u32 = 0x0003_0000;
pub const V3_2: u32 = 0x0003_0002;

/// Where to dial, as whom.
#[derive(Clone, Debug)]
pub struct Route {
    pub port: u16,
    /// PEM file of the authority to trust.
    pub root: PathBuf,
    pub user: String,
    pub database: String,
    pub password: String,
    /// Client certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Route {
    pub fn new(port: u16, root: &Path, user: &str, database: &str, password: &str) -> Self {
        Self {
            port,
            root: root.to_path_buf(),
            user: user.to_owned(),
            database: database.to_owned(),
            password: password.to_owned(),
            identity: None,
        }
    }

    #[must_use]
    pub fn password(&self, password: &str) -> Self {
        Self { password: password.to_owned(), ..self.clone() }
    }

    /// A bare connection.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn plain(&self) -> Result<Raw> {
        let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).context("dial")?;
        tcp.set_nodelay(true)?;
        Ok(Raw { io: Io::Plain(tcp), input: Vec::new(), closed: false })
    }

    /// TLS after `SSLRequest`.
    ///
    /// # Errors
    /// Nobody listens, or speaks TLS.
    pub fn tls(&self) -> Result<Raw> {
        let mut raw = self.plain()?;
        raw.send(&SSL_REQUEST)?;
        ensure!(raw.byte()? == Some(b'S'), "no TLS is offered");
        raw.start_tls(self, &[])
    }

    /// TLS from the first byte, as PostgreSQL 17 and later take it.
    ///
    /// # Errors
    /// As [`Route::tls`].
    pub fn direct(&self, alpn: &[&str]) -> Result<Raw> {
        self.plain()?.start_tls(self, alpn)
    }

    /// The usual startup message.
    pub fn startup(&self) -> Vec<u8> {
        startup(V3_0, &[("user", &self.user), ("database", &self.database)])
    }

    /// Through TLS, startup and password, until the server is ready.
    ///
    /// # Errors
    /// The door stays shut.
    pub fn open(&self) -> Result<Raw> {
        self.open_as(&self.startup())
    }

    /// As [`Route::open`], with this startup message.
    ///
    /// # Errors
    /// The door stays shut.
    pub fn open_as(&self, startup: &[u8]) -> Result<Raw> {
        let mut raw = self.tls()?;
        let answer = raw.enter(startup, &self.password)?;
        ensure!(answer.is_ready(), "the door stays shut: {}", answer.describe());
        Ok(raw)
    }

    /// As [`Route::open_as`], with whatever comes back.
    ///
    /// # Errors
    /// There is no TLS, or no answer in time.
    pub fn try_open_as(&self, startup: &[u8]) -> Result<(Raw, Answer)> {
        let mut raw = self.tls()?;
        let answer = raw.enter(startup, &self.password)?;
        Ok((raw, answer))
    }

    fn config(&self, alpn: &[&str]) -> Result<ClientConfig> {
        crate::crypto();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.root).context("a root")?)?;
        let config = ClientConfig::builder().with_root_certificates(roots);
        let mut config = match &self.identity {
            None => config.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = CertificateDer::pem_file_iter(cert).context("a certificate")?;
                let chain = chain.collect::<Result<Vec<_>, _>>().context("a certificate")?;
                config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key)?)?
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(config)
    }
}

enum Io {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// One connection.
pub struct Raw {
    io: Io,
    /// Read and not yet given out.
    input: Vec<u8>,
    closed: bool,
}

/// One message of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: u8,
    pub body: Vec<u8>,
}

/// What came back, in order.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub messages: Vec<Message>,
    /// The other side closed behind it.
    pub closed: bool,
}

impl Raw {
    fn start_tls(self, route: &Route, alpn: &[&str]) -> Result<Self> {
        let Io::Plain(tcp) = self.io else { bail!("TLS within TLS") };
        tcp.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from("localhost")?;
        let connection = ClientConnection::new(Arc::new(route.config(alpn)?), name)?;
        let mut stream = StreamOwned::new(connection, tcp);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).context("TLS")?;
        }
        Ok(Self { io: Io::Tls(Box::new(stream)), input: Vec::new(), closed: false })
    }

    /// Says the startup message, then the password if it is asked for.
    ///
    /// # Errors
    /// No answer in time.
    pub fn enter(&mut self, startup: &[u8], password: &str) -> Result<Answer> {
        self.send(startup)?;
        let mut before = Answer::default();
        loop {
            let Some(message) = self.message(PATIENCE)? else {
                before.closed = true;
                return Ok(before);
            };
            let asked = message.kind == b'R' && message.body == [0, 0, 0, 3];
            let ended = matches!(message.kind, b'E' | b'Z');
            before.messages.push(message);
            if ended {
                return Ok(before);
            }
            if asked {
                self.send(&frame(b'p', &[password.as_bytes(), &[0]].concat()))?;
            }
        }
    }

    /// # Errors
    /// The other side is gone.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = match &mut self.io {
            Io::Plain(tcp) => tcp.write_all(bytes).and_then(|()| tcp.flush()),
            Io::Tls(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        };
        match sent {
            Ok(()) => Ok(()),
            // Whoever closes early still has something to say, which is read next.
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Ok(())
            }
            Err(e) => Err(e).context("send"),
        }
    }

    /// Closes only the direction towards the server, if that side has not closed already.
    ///
    /// # Errors
    /// The system refuses.
    pub fn half_close(&mut self) -> Result<()> {
        let closed = match &mut self.io {
            Io::Plain(tcp) => tcp.shutdown(Shutdown::Write),
            Io::Tls(tls) => {
                tls.conn.send_close_notify();
                let _ = tls.conn.complete_io(&mut tls.sock);
                tls.sock.shutdown(Shutdown::Write)
            }
        };
        match closed {
            Err(e) if e.kind() == ErrorKind::NotConnected => Ok(()),
            other => other.context("half-close"),
        }
    }

    /// Ends the connection with a reset in place of a goodbye.
    ///
    /// # Errors
    /// The connection is gone already.
    pub fn reset(self) -> Result<()> {
        use std::os::fd::AsRawFd;
        let tcp = match &self.io {
            Io::Plain(tcp) => tcp,
            Io::Tls(tls) => &tls.sock,
        };
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        let size = libc::socklen_t::try_from(size_of::<libc::linger>())?;
        let value = std::ptr::from_ref(&linger).cast();
        // SAFETY: `value` points to a `linger` of `size` bytes that outlives the call.
        let done = unsafe {
            libc::setsockopt(tcp.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, value, size)
        };
        ensure!(done == 0, "set SO_LINGER");
        Ok(())
    }

    /// Reads more. False: there will be no more.
    fn fill(&mut self, until: Instant) -> Result<Option<bool>> {
        if self.closed {
            return Ok(Some(false));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let mut chunk = [0; 16 << 10];
        let read = match &mut self.io {
            Io::Plain(tcp) => {
                tcp.set_read_timeout(Some(left))?;
                tcp.read(&mut chunk)
            }
            Io::Tls(tls) => {
                tls.sock.set_read_timeout(Some(left))?;
                tls.read(&mut chunk)
            }
        };
        match read {
            Ok(0) => self.closed = true,
            Ok(n) => self.input.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            // A reset, and a close without TLS's goodbye, are both ends.
            Err(_) => self.closed = true,
        }
        Ok(Some(!self.closed))
    }

    /// One byte, as the answer to `SSLRequest` is. `None`: closed.
    ///
    /// # Errors
    /// Nothing comes in time.
    pub fn byte(&mut self) -> Result<Option<u8>> {
        let until = Instant::now() + PATIENCE;
        while self.input.is_empty() {
            match self.fill(until)? {
                None => bail!("no answer within {PATIENCE:?}"),
                Some(false) => return Ok(None),
                Some(true) => {}
            }
        }
        Ok(Some(self.input.remove(0)))
    }

    /// The next message. `None`: closed.
    ///
    /// # Errors
    /// Nothing comes in time.
    pub fn message(&mut self, within: Duration) -> Result<Option<Message>> {
        let until = Instant::now() + within;
        loop {
            if let Some(&[kind, a, b, c, d]) = self.input.first_chunk::<5>() {
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                ensure!(length >= 4, "a server's message of length {length}");
                if self.input.len() > length {
                    let rest = self.input.split_off(length + 1);
                    let whole = std::mem::replace(&mut self.input, rest);
                    let body = whole.get(5..).unwrap_or_default().to_vec();
                    return Ok(Some(Message { kind, body }));
                }
            }
            match self.fill(until)? {
                None => bail!("no message within {within:?}, {} bytes read", self.input.len()),
                Some(false) => return Ok(None),
                Some(true) => {}
            }
        }
    }

    /// Everything up to the `count`th ReadyForQuery, or up to the end of the connection.
    ///
    /// # Errors
    /// Nothing comes in time.
    pub fn ready(&mut self, count: usize) -> Result<Answer> {
        let mut left = count;
        self.until(|messages| {
            let ready = messages.last().is_some_and(|message| message.kind == b'Z');
            left = left.saturating_sub(usize::from(ready));
            left == 0
        })
    }

    /// Everything until `enough` says so, or up to the end of the connection.
    ///
    /// # Errors
    /// Nothing comes in time.
    pub fn until(&mut self, mut enough: impl FnMut(&[Message]) -> bool) -> Result<Answer> {
        let mut answer = Answer::default();
        while !enough(&answer.messages) {
            match self.message(PATIENCE).with_context(|| answer.describe())? {
                Some(message) => answer.messages.push(message),
                None => {
                    answer.closed = true;
                    break;
                }
            }
        }
        Ok(answer)
    }

    /// Everything up to the end of the connection.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn to_end(&mut self) -> Result<Answer> {
        self.until(|_| false)
    }

    /// Sends, and reads to the next ReadyForQuery or the end.
    ///
    /// # Errors
    /// No answer in time.
    pub fn turn(&mut self, bytes: &[u8]) -> Result<Answer> {
        self.send(bytes)?;
        self.ready(1)
    }

    /// A simple query.
    ///
    /// # Errors
    /// No answer in time.
    pub fn query(&mut self, sql: &str) -> Result<Answer> {
        self.turn(&query(sql))
    }

    /// A statement through the extended protocol, all rows, in text.
    ///
    /// # Errors
    /// No answer in time.
    pub fn extended(&mut self, sql: &str) -> Result<Answer> {
        self.turn(
            &[parse("", sql), bind("", "", &[]), describe(b'P', ""), execute("", 0), sync()]
                .concat(),
        )
    }

    /// Nothing at all comes within a moment.
    ///
    /// # Errors
    /// The connection broke.
    pub fn is_quiet(&mut self, moment: Duration) -> Result<bool> {
        Ok(self.input.is_empty() && self.fill(Instant::now() + moment)?.is_none())
    }
}

impl Answer {
    /// The types of all messages, in order.
    pub fn kinds(&self) -> String {
        self.messages.iter().map(|message| char::from(message.kind)).collect()
    }

    /// The last message is ReadyForQuery.
    pub fn is_ready(&self) -> bool {
        self.messages.last().is_some_and(|message| message.kind == b'Z')
    }

    /// Transaction status of the last ReadyForQuery.
    pub fn status(&self) -> Option<char> {
        let ready = self.messages.iter().rev().find(|message| message.kind == b'Z')?;
        ready.body.first().map(|status| char::from(*status))
    }

    pub fn errors(&self) -> Vec<&Message> {
        self.messages.iter().filter(|message| message.kind == b'E').collect()
    }

    /// SQLSTATE of the first error.
    pub fn code(&self) -> Option<String> {
        self.errors().first().and_then(|error| error.field(b'C'))
    }

    /// All cells of all rows, as text; NULL as `∅`. COPY data as it is.
    pub fn cells(&self) -> Vec<String> {
        let mut cells = Vec::new();
        for message in &self.messages {
            match message.kind {
                b'D' => cells.extend(message.cells()),
                b'd' => cells.push(String::from_utf8_lossy(&message.body).into_owned()),
                _ => {}
            }
        }
        cells
    }

    /// Every byte of it contains this.
    pub fn holds(&self, text: &str) -> bool {
        let find = |body: &[u8]| body.windows(text.len()).any(|part| part == text.as_bytes());
        self.messages.iter().any(|message| find(&message.body))
    }

    /// The gateway itself refused something: its refusals carry their reference as JSON.
    pub fn is_refused(&self) -> bool {
        self.errors().iter().any(|error| error.is_refusal())
    }

    /// The server executed something to its end and nothing failed.
    pub fn succeeded(&self) -> bool {
        self.errors().is_empty() && !self.closed && self.messages.iter().any(Message::is_done)
    }

    /// For people.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for message in &self.messages {
            let body: String = String::from_utf8_lossy(&message.body).chars().take(160).collect();
            text.push_str(&format!("{} {:?}; ", char::from(message.kind), body));
        }
        if self.closed {
            text.push_str("closed");
        }
        text
    }

    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.messages.extend(other.messages);
        self.closed |= other.closed;
        self
    }
}

impl Message {
    /// A field of an error or a notice.
    pub fn field(&self, name: u8) -> Option<String> {
        let mut fields = self.body.split(|byte| *byte == 0);
        let found = fields.find(|field| field.first() == Some(&name))?;
        found.get(1..).map(|text| String::from_utf8_lossy(text).into_owned())
    }

    /// The gateway said it: its refusals carry their reference as one line of JSON.
    pub fn is_refusal(&self) -> bool {
        let detail = self.field(b'D').unwrap_or_default();
        detail.starts_with("{\"bulla\":")
    }

    fn is_done(&self) -> bool {
        matches!(self.kind, b'C' | b's' | b'I' | b'V')
    }

    fn cells(&self) -> Vec<String> {
        let mut cells = Vec::new();
        let mut rest = self.body.get(2..).unwrap_or_default();
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            match usize::try_from(i32::from_be_bytes(*length)) {
                Err(_) => {
                    cells.push("∅".to_owned());
                    rest = tail;
                }
                Ok(length) => {
                    let (cell, tail) = tail.split_at(length.min(tail.len()));
                    cells.push(String::from_utf8_lossy(cell).into_owned());
                    rest = tail;
                }
            }
        }
        cells
    }
}

/// A message: type, true length, body.
pub fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    framed(kind, u32::try_from(body.len() + 4).unwrap_or(u32::MAX), body)
}

/// A message with any length.
pub fn framed(kind: u8, length: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// A startup message.
pub fn startup(version: u32, pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (key, value) in pairs {
        body.extend([text(key), text(value)].concat());
    }
    body.push(0);
    untyped(&body)
}

/// Length and body, as the messages before the session are framed.
pub fn untyped(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], body].concat()
}

pub fn query(sql: &str) -> Vec<u8> {
    frame(b'Q', &text(sql))
}

pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    parse_typed(name, sql, &[])
}

pub fn parse_typed(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = [text(name), text(sql)].concat();
    body.extend(u16::try_from(types.len()).unwrap_or_default().to_be_bytes());
    body.extend(types.iter().flat_map(|oid| oid.to_be_bytes()));
    frame(b'P', &body)
}

/// Values in text; results in text.
pub fn bind(portal: &str, statement: &str, values: &[Option<&str>]) -> Vec<u8> {
    let values: Vec<_> = values.iter().map(|value| value.map(str::as_bytes)).collect();
    bind_as(portal, statement, &[], &values, &[])
}

/// With formats (0 text, 1 binary) of values and of results.
pub fn bind_as(
    portal: &str,
    statement: &str,
    formats: &[u16],
    values: &[Option<&[u8]>],
    results: &[u16],
) -> Vec<u8> {
    let list = |list: &[u16]| {
        let mut out = u16::try_from(list.len()).unwrap_or_default().to_be_bytes().to_vec();
        out.extend(list.iter().flat_map(|format| format.to_be_bytes()));
        out
    };
    let mut body = [text(portal), text(statement), list(formats)].concat();
    body.extend(u16::try_from(values.len()).unwrap_or_default().to_be_bytes());
    for value in values {
        match value {
            None => body.extend((-1_i32).to_be_bytes()),
            Some(value) => {
                body.extend(u32::try_from(value.len()).unwrap_or_default().to_be_bytes());
                body.extend_from_slice(value);
            }
        }
    }
    body.extend(list(results));
    frame(b'B', &body)
}

/// `of` is `S` or `P`.
pub fn describe(of: u8, name: &str) -> Vec<u8> {
    frame(b'D', &[&[of][..], &text(name)].concat())
}

/// `of` is `S` or `P`.
pub fn close(of: u8, name: &str) -> Vec<u8> {
    frame(b'C', &[&[of][..], &text(name)].concat())
}

pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    frame(b'E', &[&text(portal)[..], &rows.to_be_bytes()].concat())
}

pub fn sync() -> Vec<u8> {
    frame(b'S', &[])
}

pub fn flush() -> Vec<u8> {
    frame(b'H', &[])
}

pub fn copy_data(data: &[u8]) -> Vec<u8> {
    frame(b'd', data)
}

/// `CancelRequest` with a key: process id and secret.
pub fn cancel(key: &[u8]) -> Vec<u8> {
    untyped(&[&80_877_102_u32.to_be_bytes()[..], key].concat())
}
