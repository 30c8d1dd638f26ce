//! A door, agents and targets for the tests, and hostile ones of each.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bulla_core::{
    Boxed, Clock, Credential, CredentialKind, Digest, Identity, IdentityError, Origin, Principal,
    PrincipalId, PrincipalKind, Proof, Timestamp,
};
use bulla_tunnel::{
    AgentConfig, AgentStatus, Authority, AuthorityError, Door, DoorConfig, Enrolment,
    GatewayConfig, Identities, JoinToken, Joined, Notes, Old, OpenError, Pin, Reached, Roster,
    Rule, TargetError, TargetInfo, Targets, Wanted, alpn, run_agent,
};
use bulla_wire::TargetHello;
use bytes::{Bytes, BytesMut};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::client::TlsStream;

/// How long anything may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// A tunnel is dead when it does not answer for this long, which a busy machine may keep it from.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Waits until something holds; a test that waits for ever fails.
pub async fn until(mut holds: impl FnMut() -> bool) {
    let look = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, look).await.expect("what was waited for did not happen");
}

struct Now;
impl Clock for Now {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Timestamp(u64::try_from(since.as_nanos()).unwrap())
    }
}

/// Keeps the entries, or fails as a full disk does.
#[derive(Default)]
pub struct Record {
    all: Mutex<Vec<String>>,
    fails: AtomicBool,
}

impl Record {
    pub fn all(&self) -> Vec<String> {
        self.all.lock().unwrap().clone()
    }
    pub fn has(&self, words: &str) -> bool {
        self.all().iter().any(|note| note.contains(words))
    }
    pub fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::SeqCst);
    }
}

impl Notes for Record {
    fn note<'a>(&'a self, by: &'a str, detail: &'a str) -> Boxed<'a, Result<(), String>> {
        Box::pin(async move {
            if self.fails.load(Ordering::SeqCst) {
                return Err("the disk of the record is full".into());
            }
            self.all.lock().unwrap().push(format!("{by}: {detail}"));
            Ok(())
        })
    }
}

/// Believes every token but `bad`, and takes its text for the subject.
struct Believer;
impl Identity for Believer {
    fn verify<'a>(
        &'a self,
        credential: Credential,
        _: &'a Origin,
        now: Timestamp,
    ) -> Boxed<'a, Result<Principal, IdentityError>> {
        Box::pin(async move {
            let refused = |detail: &str| IdentityError { word: "expired", detail: detail.into() };
            let Credential::Token(token) = credential else { return Err(refused("no token")) };
            let subject = std::str::from_utf8(token.reveal()).unwrap();
            if subject == "bad" {
                return Err(refused("it is bad"));
            }
            Ok(Principal {
                id: PrincipalId::new("k8s", subject).unwrap(),
                kind: PrincipalKind::Workload,
                issuer: "https://issuer.example".into(),
                groups: Vec::new(),
                attributes: Default::default(),
                proof: Proof {
                    kind: CredentialKind::Jwt,
                    hash: Digest::ZERO,
                    jti: None,
                    kid_tail: None,
                    issued_at: now,
                    expires_at: now.plus_ms(60_000),
                    verified_at: now,
                    bound: false,
                    jwks_stale: false,
                },
            })
        })
    }
}

/// Targets that give back what they get: `orders` and `payments`. `hung` reads nothing.
#[derive(Clone, Default)]
pub struct Echo {
    opened: Arc<AtomicUsize>,
    broken: Arc<AtomicBool>,
}

impl Echo {
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }
    pub fn break_targets(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }
}

impl Targets for Echo {
    fn list(&self) -> Vec<TargetInfo> {
        let info = |name: &str| TargetInfo { name: name.into(), protocol: "echo".into() };
        ["orders", "payments", "hung"].map(info).to_vec()
    }

    fn open<'a>(
        &'a self,
        target: &'a str,
        protocol: &'a str,
        part: &'a str,
        _: Vec<(String, String)>,
    ) -> Boxed<'a, Result<Reached, TargetError>> {
        Box::pin(async move {
            let known = self.list().iter().any(|one| one.name == target);
            if !known || protocol != "echo" || part != "main" {
                return Err(TargetError::Unknown(format!("no target `{target}`")));
            }
            if self.broken.load(Ordering::SeqCst) {
                return Err(TargetError::Unreachable("no route to host".into()));
            }
            self.opened.fetch_add(1, Ordering::SeqCst);
            let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
            let hung = target == "hung";
            tokio::spawn(async move {
                if hung {
                    std::future::pending::<()>().await;
                }
                let (mut read, mut write) = tokio::io::split(&mut theirs);
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
            let hello = TargetHello { account: "agent's account".into(), ..Default::default() };
            Ok(Reached { stream: Box::new(ours), hello, rest: BytesMut::new() })
        })
    }

    fn cancel<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: TargetHello,
    ) -> Boxed<'a, Result<(), TargetError>> {
        Box::pin(async { Ok(()) })
    }
}

static FOLDERS: AtomicUsize = AtomicUsize::new(0);

/// A folder that goes with its guard.
pub struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let number = FOLDERS.fetch_add(1, Ordering::SeqCst);
        let name = format!("bulla-tunnel-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A gateway's door.
pub struct Bed {
    pub door: Arc<Door>,
    pub notes: Arc<Record>,
    address: String,
    folder: Folder,
    files: AtomicUsize,
}

/// An agent that runs until it is dropped: then it is killed.
pub struct Agent {
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
    status: Arc<AgentStatus>,
}

impl Agent {
    /// The last failure toward its gateway.
    pub fn error(&self) -> Option<String> {
        self.status.links().values().find_map(|link| link.error.clone())
    }
    /// Asks it to stop; resolves when it has drained.
    pub fn stop(mut self) -> JoinHandle<()> {
        self.stop.send_replace(true);
        let stop = self.stop.clone();
        let task = self.task.take().unwrap();
        tokio::spawn(async move {
            task.await.unwrap();
            drop(stop);
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn config(name: &str, data: PathBuf, address: &str) -> AgentConfig {
    AgentConfig {
        name: name.into(),
        data,
        gateways: vec![GatewayConfig {
            alias: "gw".into(),
            address: address.into(),
            proxy: None,
            enrolment: Enrolment::JoinFile("/nonexistent".into()),
            pin: None,
        }],
        connections: 1,
        keepalive: KEEPALIVE,
        drain: SOON,
        build: "test".into(),
    }
}

/// A gateway, as an agent for `orders` configures it.
pub fn link(bed: &Bed, alias: &str, name: &str) -> GatewayConfig {
    let token = bed.token(name, &["orders"]).reveal();
    GatewayConfig {
        alias: alias.into(),
        address: bed.address.clone(),
        proxy: None,
        enrolment: Enrolment::JoinFile(bed.file(&token)),
        pin: None,
    }
}

fn run(config: AgentConfig, targets: Echo) -> Agent {
    let (stop, stopped) = watch::channel(false);
    let status = Arc::new(AgentStatus::default());
    let seen = status.clone();
    let task = tokio::spawn(async move {
        run_agent(config, Arc::new(targets), Arc::new(Now), seen, stopped).await.unwrap();
    });
    Agent { stop, task: Some(task), status }
}

impl Bed {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut DoorConfig)) -> Self {
        let folder = Folder::new();
        let authority = Authority::open(&folder.0.join("authority.pem"), "gw", Now.now()).unwrap();
        let roster = Arc::new(Roster::open(folder.0.join("roster.json")).unwrap());
        let notes = Arc::new(Record::default());
        let mut config = DoorConfig {
            address: "127.0.0.1:0".parse().unwrap(),
            gateway: "gw".into(),
            certificate_ttl: Duration::from_secs(600),
            keepalive: KEEPALIVE,
        };
        change(&mut config);
        let identities = Identities {
            identity: Arc::new(Believer),
            clients: None,
            rules: vec![Rule {
                agent: "eu-1".into(),
                principal: "k8s|infra/agent".into(),
                resources: vec!["orders".into()],
            }],
        };
        let clock = Arc::new(Now);
        let door = Door::new(config, authority, roster, notes.clone(), clock, identities).unwrap();
        let address = door.listen().await.unwrap().to_string();
        Self { door, notes, address, folder, files: AtomicUsize::new(0) }
    }

    pub fn now(&self) -> Timestamp {
        Now.now()
    }

    /// A file that holds `words`.
    pub fn file(&self, words: &str) -> PathBuf {
        let number = self.files.fetch_add(1, Ordering::SeqCst);
        let path = self.folder.0.join(format!("file-{number}"));
        std::fs::write(&path, words).unwrap();
        path
    }

    pub fn token(&self, name: &str, resources: &[&str]) -> JoinToken {
        let token = JoinToken::new(self.door.authority().pin()).unwrap();
        let resources: Vec<_> = resources.iter().map(|name| (*name).to_owned()).collect();
        let ttl = Duration::from_secs(60);
        let (hash, now) = (token.hash(), self.now());
        self.door.roster.add_token(hash, name, &resources, ttl, "local:root", now).unwrap();
        token
    }

    pub fn data(&self) -> PathBuf {
        self.folder.0.join(format!("agent-{}", self.files.fetch_add(1, Ordering::SeqCst)))
    }

    /// An agent with a join token of its own.
    pub fn try_agent(&self, name: &str, resources: &[&str], targets: Echo) -> Agent {
        let token = self.token(name, resources).reveal();
        let mut config = config(name, self.data(), &self.address);
        config.gateways[0].enrolment = Enrolment::JoinFile(self.file(&token));
        run(config, targets)
    }

    /// An agent that keeps what it has in `data`, and its tunnel is there.
    pub async fn agent_in(&self, data: &Path, name: &str, resources: &[&str]) -> Agent {
        let token = self.token(name, resources).reveal();
        let mut config = config(name, data.to_owned(), &self.address);
        config.gateways[0].enrolment = Enrolment::JoinFile(self.file(&token));
        let agent = run(config, Echo::default());
        until(|| self.door.fleet.list().iter().any(|tunnel| &*tunnel.name == name)).await;
        agent
    }

    /// An agent for `orders` with another configuration, and its tunnel is there.
    pub async fn agent_by(&self, name: &str, change: impl FnOnce(&mut AgentConfig)) -> Agent {
        let mut config = config(name, self.data(), &self.address);
        config.gateways = vec![link(self, "gw", name)];
        change(&mut config);
        let agent = run(config, Echo::default());
        until(|| self.door.fleet.list().iter().any(|tunnel| &*tunnel.name == name)).await;
        agent
    }

    /// A proxy that takes CONNECT and leads to this door, with the first lines that it was asked.
    pub async fn proxy(&self) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, door) = (listener.local_addr().unwrap().to_string(), self.address.clone());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heads = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (door, heads) = (door.clone(), heads.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(client.read_u8().await.unwrap());
                    }
                    let head = String::from_utf8(head).unwrap();
                    heads.lock().unwrap().push(head.lines().next().unwrap().to_owned());
                    let mut behind = TcpStream::connect(door).await.unwrap();
                    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut behind).await;
                });
            }
        });
        (at, asked)
    }

    pub fn authority_path(&self) -> PathBuf {
        self.folder.0.join("authority.pem")
    }

    /// Replaces the authority, as an operator does.
    pub fn replace(&self, old: Old) -> Result<(), AuthorityError> {
        let next = self.door.authority().successor("gw", old, self.now())?;
        self.door.replace(next, old)
    }

    /// Dials as an agent with this identity, which believes whom it believed; reads a byte.
    pub async fn try_dial(&self, pem: &[u8]) -> std::io::Result<u8> {
        let mut tls = try_dial(pem, &self.address).await?;
        tls.read_u8().await
    }

    /// The same, and its tunnel is there.
    pub async fn agent(&self, name: &str, resources: &[&str], targets: Echo) -> Agent {
        let agent = self.try_agent(name, resources, targets);
        until(|| self.door.fleet.list().iter().any(|tunnel| &*tunnel.name == name)).await;
        agent
    }

    pub fn agent_with(&self, enrolment: Enrolment, name: &str, pin: Option<Pin>) -> Agent {
        let mut config = config(name, self.data(), &self.address);
        config.gateways[0].enrolment = enrolment;
        config.gateways[0].pin = pin;
        run(config, Echo::default())
    }

    /// A stream by agents `eu-1` and, where there is one, `eu-2`.
    pub async fn open(&self, resource: &str) -> Result<Joined, OpenError> {
        let two = self.door.fleet.list().iter().any(|tunnel| &*tunnel.name == "eu-2");
        let all: [Arc<str>; 2] = ["eu-1".into(), "eu-2".into()];
        self.open_by(resource, if two { &all } else { &all[..1] }).await
    }

    pub async fn open_by(&self, resource: &str, agents: &[Arc<str>]) -> Result<Joined, OpenError> {
        let wanted = Wanted {
            agents,
            resource,
            protocol: "echo",
            part: "main",
            settings: Vec::new(),
            timeout: SOON,
        };
        self.door.fleet.open(wanted).await
    }

    /// A connection of somebody who has an agent's good certificate, and says nothing on it yet.
    pub async fn evil_dial(&self, name: &str, resources: &[&str]) -> TlsStream<TcpStream> {
        let data = self.data();
        let token = self.token(name, resources).reveal();
        let mut config = config(name, data.clone(), &self.address);
        config.gateways[0].enrolment = Enrolment::JoinFile(self.file(&token));
        let honest = run(config, Echo::default());
        until(|| !self.door.fleet.list().is_empty()).await;
        drop(honest);
        until(|| self.door.fleet.list().is_empty()).await;
        until(|| self.notes.has("disconnects")).await;
        dial(&std::fs::read(data.join("gw.pem")).unwrap(), &self.address).await
    }

    /// A process with an agent's good certificate that answers every request for a target with
    /// `answer`, and greets as it should.
    pub async fn evil_agent(
        &self,
        name: &str,
        resources: &[&str],
        answer: &'static [u8],
    ) -> JoinHandle<()> {
        tokio::spawn(serve(self.evil_dial(name, resources).await, answer))
    }
}

/// Greets as an agent should, and answers every request for a target with `answer`, until the
/// tunnel ends.
pub async fn serve(tls: TlsStream<TcpStream>, answer: &'static [u8]) {
    let mut connection = h2::server::handshake(tls).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let mut send = respond.send_response(http::Response::new(()), false).unwrap();
        let welcome: &[u8] = br#"{"version":1,"build":"evil",
            "capabilities":["login","cancel"],"targets":[]}"#;
        let mut out = BytesMut::new();
        if request.uri().path() == "/hello" {
            out.extend_from_slice(&u32::try_from(welcome.len()).unwrap().to_be_bytes());
            out.extend_from_slice(welcome);
            send.send_data(out.freeze(), false).unwrap();
            std::mem::forget(send);
        } else {
            if answer.starts_with(b"{") {
                let length = u32::try_from(answer.len()).unwrap();
                out.extend_from_slice(&length.to_be_bytes());
            }
            out.extend_from_slice(answer);
            send.send_data(out.freeze(), true).unwrap();
        }
    }
}

/// What an agent has on disk: its certificate, and the authority that it believes.
pub fn chain(data: &Path) -> Vec<CertificateDer<'static>> {
    let pem = std::fs::read(data.join("gw.pem")).unwrap();
    CertificateDer::pem_slice_iter(&pem).map(Result::unwrap).collect()
}

/// Dials a door with an identity as an agent keeps it.
async fn dial(pem: &[u8], address: &str) -> TlsStream<TcpStream> {
    try_dial(pem, address).await.unwrap()
}

async fn try_dial(pem: &[u8], address: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).map(Result::unwrap).collect();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(chain[1].clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![chain[0].clone()], PrivateKeyDer::from_pem_slice(pem).unwrap())
        .unwrap();
    config.alpn_protocols = vec![alpn::TUNNEL.to_vec()];
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(bulla_tunnel::GATEWAY_NAME).unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(name, tcp).await
}

/// A gateway with the right certificate and the wrong wishes.
pub struct EvilGateway {
    send: h2::client::SendRequest<Bytes>,
    _agent: Agent,
    _bed: Bed,
}

impl EvilGateway {
    pub async fn meet(targets: Echo) -> Self {
        let bed = Bed::start().await;
        let data = bed.data();
        let token = bed.token("eu-1", &["orders"]).reveal();
        let mut own = config("eu-1", data, &bed.address);
        own.gateways[0].enrolment = Enrolment::JoinFile(bed.file(&token));
        drop({
            let honest = run(own.clone(), targets.clone());
            until(|| !bed.door.fleet.list().is_empty()).await;
            honest
        });
        // From now on the same agent, with the identity that it kept, meets another gateway.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        own.gateways[0].address = listener.local_addr().unwrap().to_string();
        let agent = run(own, targets);
        let tls = bed.door.authority().server(alpn::TUNNEL, None, Now.now()).unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        let tls = tokio_rustls::TlsAcceptor::from(Arc::new(tls)).accept(tcp).await.unwrap();
        let (send, connection) = h2::client::handshake(tls).await.unwrap();
        tokio::spawn(connection);
        Self { send, _agent: agent, _bed: bed }
    }

    async fn call(&mut self, path: &str, body: &[u8]) -> (u16, String) {
        let uri = format!("https://agent{path}");
        let request = http::Request::post(uri).body(()).unwrap();
        let mut send = self.send.clone().ready().await.unwrap();
        let (response, mut sender) = send.send_request(request, false).unwrap();
        // The agent may have answered, and closed, before it reads this.
        let _ = sender.send_data(Bytes::copy_from_slice(body), false);
        let response = response.await.unwrap();
        let (status, mut body) = (response.status().as_u16(), response.into_body());
        let mut out = Vec::new();
        let first = tokio::time::timeout(SOON, body.data()).await.unwrap();
        if let Some(Ok(data)) = first {
            out.extend_from_slice(&data);
        }
        (status, String::from_utf8_lossy(&out).into_owned())
    }

    pub async fn status(&mut self, path: &str) -> u16 {
        self.call(path, b"").await.0
    }

    /// Says these bytes, and returns the start of the answer.
    pub async fn raw(&mut self, path: &str, body: &[u8]) -> String {
        self.call(path, body).await.1
    }

    pub async fn open(&mut self, target: &str, protocol: &str, part: &str) -> String {
        let json = format!(
            r#"{{"target":{target:?},"protocol":{protocol:?},"part":{part:?},"settings":[]}}"#
        );
        let mut body = u32::try_from(json.len()).unwrap().to_be_bytes().to_vec();
        body.extend_from_slice(json.as_bytes());
        self.raw("/open", &body).await
    }
}
