//! What the gateway is measured beside: PgBouncer, and a relay that only copies bytes.
//!
//! Both speak TLS on both legs. The relay reads the eight bytes of an `SSLRequest` and nothing
//! else; what it costs is what any hop costs.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use xtask::places;

use crate::ca::Wish;
use crate::client::Dial;
use crate::place::{Port, TempDir};
use crate::postgres::{DATABASE, Postgres};
use crate::proc::{Proc, Signal, capture};

const START: Duration = Duration::from_secs(30);

/// `SSLRequest`: length 8, code 80877103.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

const COPY_BYTES: usize = 64 << 10;

/// A process that stands before the server. Dropped, it is gone.
#[derive(Debug)]
pub struct Neighbour {
    proc: Proc,
    port: Port,
    dir: TempDir,
}

impl Neighbour {
    pub fn pid(&self) -> libc::pid_t {
        self.proc.pid()
    }

    /// How a client dials it, as one of the seed's roles.
    pub fn dial(&self, user: &str, password: &str) -> Dial {
        Dial::new("localhost", self.port.number(), user, DATABASE)
            .password(password)
            .verify_full(&self.dir.join("root.pem"))
            // What stands between cannot keep a binding to the server's own certificate.
            .env("PGCHANNELBINDING", "disable")
    }

    /// PgBouncer with session pooling, SCRAM on both legs.
    ///
    /// # Errors
    /// It is not installed (the message says how), or does not start.
    pub fn pgbouncer(server: &Postgres, user: &str, password: &str) -> Result<Self> {
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"];
        let program = program.into_iter().find(|path| std::path::Path::new(path).is_file());
        let program = program.context("no pgbouncer; install it: apt-get install pgbouncer")?;
        let (dir, port) = (TempDir::new("pgbouncer")?, Port::new()?);
        server.authority().issue(&Wish::server()?)?.write(&dir, "server")?;
        dir.write("root.pem", server.authority().pem())?;
        dir.write("users.txt", format!("\"{user}\" \"{password}\"\n"))?;
        let path = |name: &str| dir.join(name).display().to_string();
        let config = format!(
            "[databases]\n\
             {DATABASE} = host={} port={} user={user} password='{password}'\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\n\
             auth_type = scram-sha-256\nauth_file = {}\n\
             client_tls_sslmode = require\nclient_tls_cert_file = {}\nclient_tls_key_file = {}\n\
             server_tls_sslmode = verify-full\nserver_tls_ca_file = {}\n\
             pool_mode = session\nmax_client_conn = 200\ndefault_pool_size = 100\n\
             ignore_startup_parameters = extra_float_digits\n",
            server.host(),
            server.port(),
            port.number(),
            path("users.txt"),
            path("server.pem"),
            path("server.key"),
            path("root.pem"),
        );
        let config = dir.write("pgbouncer.ini", config)?;
        let mut command = if places::is_root() {
            let mut chown = Command::new("chown");
            chown.args(["-R", "nobody:nogroup"]).arg(dir.path());
            capture(chown, None, START)?.success()?;
            let mut command = Command::new("setpriv");
            command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
            command.args(["--pdeathsig", "KILL", "--", program]);
            command
        } else {
            Command::new(program)
        };
        command.arg(&config);
        let proc = Proc::spawn_with("pgbouncer", command, Signal::Kill, None)?;
        proc.wait_line("process up", START)?;
        Ok(Self { proc, port, dir })
    }

    /// The bare relay, as a process of its own: `program` must call [`relay`] when its arguments
    /// are those that this gives it.
    ///
    /// # Errors
    /// It does not start.
    pub fn relay(server: &Postgres, program: Command) -> Result<Self> {
        let (dir, port) = (TempDir::new("relay")?, Port::new()?);
        server.authority().issue(&Wish::server()?)?.write(&dir, "server")?;
        dir.write("root.pem", server.authority().pem())?;
        let mut command = program;
        command.arg(dir.path()).args([port.number().to_string(), server.port().to_string()]);
        let proc = Proc::spawn_with("relay", command, Signal::Kill, None)?;
        proc.wait_line("relay up", START)?;
        Ok(Self { proc, port, dir })
    }
}

/// Relays until the process is killed. `dir` has `server.pem`, `server.key` and `root.pem`.
///
/// # Errors
/// It cannot listen, or the files make no TLS.
pub fn relay(dir: &std::path::Path, listen: u16, target: u16) -> Result<()> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    crate::crypto();
    let cert = CertificateDer::from_pem_file(dir.join("server.pem")).context("a certificate")?;
    let key = PrivateKeyDer::from_pem_file(dir.join("server.key")).context("a key")?;
    let root = CertificateDer::from_pem_file(dir.join("root.pem")).context("a root")?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root)?;
    let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert], key)?;
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let connector = TlsConnector::from(Arc::new(client));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async move {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, listen)).await?;
        println!("relay up");
        loop {
            let (stream, _) = listener.accept().await?;
            let (acceptor, connector) = (acceptor.clone(), connector.clone());
            tokio::spawn(async move {
                if let Err(error) = relay_one(stream, target, acceptor, connector).await {
                    eprintln!("relay: {error:#}");
                }
            });
        }
    })
}

async fn relay_one(
    mut client: TcpStream,
    target: u16,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
) -> Result<()> {
    client.set_nodelay(true)?;
    let mut request = [0; 8];
    client.read_exact(&mut request).await.context("read the request for TLS")?;
    ensure!(request == SSL_REQUEST, "the client wants no TLS");
    client.write_all(b"S").await?;
    let mut client = acceptor.accept(client).await.context("TLS with the client")?;
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await.context("dial")?;
    server.set_nodelay(true)?;
    server.write_all(&SSL_REQUEST).await?;
    let mut answer = [0; 1];
    server.read_exact(&mut answer).await?;
    if answer != *b"S" {
        bail!("the server has no TLS");
    }
    let name = ServerName::try_from("localhost")?;
    let mut server = connector.connect(name, server).await.context("TLS with the server")?;
    // Peers close without a TLS goodbye; that is how their sessions end.
    let _ = copy_bidirectional_with_sizes(&mut client, &mut server, COPY_BYTES, COPY_BYTES).await;
    Ok(())
}
