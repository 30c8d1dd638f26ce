//! One connection of a client: who it is, which session it has, which channels are open.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bulla_core::{Credential, Origin, Principal, Secret, Timestamp};
use bulla_host::{Arrival, Door, Live, Rejection};
use bytes::Bytes;
use russh::{
    Channel, ChannelId, ChannelOpenFailure, Disconnect, MethodKind, MethodSet, Pty, Sig,
    keys::ssh_key::Certificate,
    server::{self, Auth, ChannelOpenHandle, Handle, Msg, Response, Session},
};
use tokio::sync::Notify;

use crate::{
    Ssh,
    backlog::{FromClient, Input, Room},
    line::{Ask, Line, Size, What},
    name::{CERTIFY, Login},
    pump,
    reading::Setting,
    stream::{Allowance, Guarded},
    target::{Pool, preferred},
};

/// What may come in before somebody is identified.
const STRANGER_BYTES_MAX: u64 = 256 << 10;
/// Time for that.
const STRANGER_TIME_MAX: Duration = Duration::from_secs(30);
/// Credentials that one connection may present.
const ATTEMPTS_MAX: usize = 8;
/// Every refusal takes this long, whatever it is for.
const REJECTION_TIME: Duration = Duration::from_millis(500);
/// Longest token.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Channels that one connection may have open.
const CHANNELS_MAX: usize = 32;
/// Variables that one channel may set.
const ENV_MAX: usize = 64;
/// Longest value of one.
const ENV_BYTES_MAX: usize = 4 << 10;
/// A host certificate is signed anew after this.
const SHOWN_AGE_MS_MAX: u64 = 12 * 3_600 * 1_000;
/// Time for last words before a connection is cut.
const GOODBYE: Duration = Duration::from_millis(300);

/// A client's session, and its connections to the target.
pub struct Seat {
    pub live: Arc<Live>,
    pub pool: Arc<Pool>,
    shared: Arc<Shared>,
}

impl Seat {
    /// Ends the session, since something of it could not be recorded.
    pub fn unrecorded(&self) {
        self.live.end("unrecorded");
        self.shared.unrecorded.notify_one();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.pool.close();
    }
}

/// What the handler and the task around it share.
#[derive(Default)]
struct Shared {
    known: AtomicBool,
    changed: Notify,
    /// The record fails: nothing more may pass.
    unrecorded: Notify,
    live: parking_lot::Mutex<Option<std::sync::Weak<Live>>>,
}

/// One connection, as russh calls it back.
struct Client {
    ssh: Arc<Ssh>,
    door: Door,
    origin: Origin,
    resources: Arc<[Arc<str>]>,
    shared: Arc<Shared>,
    allowance: Allowance,
    stranger: Option<Box<dyn Send>>,
    seat: Option<Arc<Seat>>,
    /// Who gets a certificate, and nothing else.
    certified: Option<Arc<Principal>>,
    account: String,
    room: Arc<Room>,
    channels: HashMap<ChannelId, Open>,
}

/// A channel that is open.
struct Open {
    setting: Setting,
    size: Option<Size>,
    modes: Vec<(Pty, u32)>,
    /// Until something is asked of it.
    channel: Option<Channel<Msg>>,
    input: Input,
}

fn methods() -> MethodSet {
    let methods = [MethodKind::PublicKey, MethodKind::KeyboardInteractive, MethodKind::Password];
    MethodSet::from(&methods[..])
}

/// Every kind of no, and always the same ways to go on.
fn no() -> Auth {
    Auth::Reject { proceed_with_methods: Some(methods()), partial_success: false }
}

/// What clients of a gateway are shown.
fn config(ssh: &Ssh, now: Timestamp) -> Result<Arc<server::Config>, String> {
    let mut shown = ssh.shown.lock();
    if let Some((at, config)) = &*shown
        && now.ms_since(*at) < SHOWN_AGE_MS_MAX
    {
        return Ok(config.clone());
    }
    let authority = ssh.authority().map_err(|error| error.to_string())?;
    let mut names = ssh.names.clone();
    names.extend(ssh.hosts.iter().map(|host| host.resource.to_string()));
    let certificate = authority.host(&names, now).map_err(|error| error.to_string())?;
    let config = Arc::new(server::Config {
        server_id: russh::SshId::Standard("SSH-2.0-Bulla".into()),
        methods: methods(),
        auth_rejection_time: REJECTION_TIME,
        // Every client of OpenSSH begins with it, and learns the methods from the answer.
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![authority.host_key.clone()],
        certificates: vec![certificate],
        preferred: preferred(),
        max_auth_attempts: ATTEMPTS_MAX,
        inactivity_timeout: None,
        keepalive_interval: Some(Duration::from_secs(15)),
        keepalive_max: 4,
        ..server::Config::default()
    });
    *shown = Some((now, config.clone()));
    Ok(config)
}

/// Serves a connection to its end.
pub async fn serve(ssh: Arc<Ssh>, arrival: Arrival, door: Door) {
    let Arrival { stream, origin, tls: _, resources, stranger } = arrival;
    let config = match config(&ssh, door.now()) {
        Ok(config) => config,
        Err(error) => return tracing::error!(error, "show the gateway's host key"),
    };
    let allowance = Allowance::new(STRANGER_BYTES_MAX);
    let (stream, knife) = Guarded::new(stream, allowance.clone());
    let shared = Arc::new(Shared::default());
    let mut draining = door.draining();
    let source = origin.address;
    let room = Room::new(ssh.house.clone());
    let client = Client {
        ssh,
        door,
        origin,
        resources,
        shared: shared.clone(),
        allowance,
        stranger: Some(stranger),
        seat: None,
        certified: None,
        account: String::new(),
        room,
        channels: HashMap::new(),
    };
    let deadline = tokio::time::Instant::now() + STRANGER_TIME_MAX;
    let greeted = tokio::time::timeout_at(deadline, server::run_stream(config, stream, client));
    let running = match greeted.await {
        Ok(Ok(running)) => running,
        Ok(Err(error)) => return said(source, &error),
        Err(_) => return slow(),
    };
    let handle = running.handle();
    tokio::pin!(running);
    // Until somebody is known there is a deadline; afterwards there is a session that may end.
    loop {
        let known = shared.known.load(Ordering::Acquire);
        tokio::select! {
            ended = &mut running => {
                if let Err(error) = ended {
                    said(source, &error);
                }
                return;
            }
            () = shared.changed.notified(), if !known => {}
            () = tokio::time::sleep_until(deadline), if !known => {
                slow();
                return knife.cut();
            }
            why = ended(&shared), if known => {
                goodbye(&handle, why).await;
                return knife.cut();
            }
            () = shared.unrecorded.notified() => {
                goodbye(&handle, "unrecorded").await;
                return knife.cut();
            }
            () = stopping(&mut draining), if !known => return knife.cut(),
        }
    }
}

/// Resolves once the gateway is stopping.
async fn stopping(draining: &mut tokio::sync::watch::Receiver<bool>) {
    let _ = draining.wait_for(|on| *on).await;
}

fn said(source: IpAddr, error: &russh::Error) {
    tracing::debug!(%source, %error, "a connection ended");
}

fn slow() {
    metrics::counter!("bulla_connections_refused_total", "why" => "slow").increment(1);
}

async fn goodbye(handle: &Handle, why: &'static str) {
    let words = match why {
        "killed" => "this session was ended by an operator",
        "expired" => "the identity of this session has expired",
        "unrecorded" => "the record cannot be written, and nothing passes unrecorded",
        _ => "the gateway is stopping",
    };
    let said = handle.disconnect(Disconnect::ByApplication, words.into(), "en".into());
    let _ = tokio::time::timeout(GOODBYE, said).await;
    tokio::time::sleep(GOODBYE).await;
}

/// Resolves when the session ends from outside.
async fn ended(shared: &Shared) -> &'static str {
    let live = shared.live.lock().as_ref().and_then(std::sync::Weak::upgrade);
    // It has ended by itself, and its connection with it.
    let Some(live) = live else { return std::future::pending().await };
    let standing = live.standing();
    drop(live);
    pump::ended(standing).await
}

impl Client {
    /// Who presents this, and whether there is a session for what was asked. One answer for every
    /// kind of no.
    async fn admit(&mut self, name: &str, credential: Credential) -> Auth {
        match self.enter(name, credential).await {
            Some(()) => {
                // Whoever was identified is no stranger any more.
                self.stranger = None;
                self.allowance.lift();
                self.shared.known.store(true, Ordering::Release);
                self.shared.changed.notify_one();
                Auth::Accept
            }
            None => no(),
        }
    }

    async fn enter(&mut self, name: &str, credential: Credential) -> Option<()> {
        let login = Login::parse(name);
        let asked = login.as_ref().and_then(|login| self.resource(login));
        let identified = self.door.identify(credential, &self.origin, asked.as_deref()).await;
        let principal = identified.ok()?;
        let login = login.or_else(|| self.away(&principal, None))?;
        if login.resource.is_none() && login.account == CERTIFY {
            self.certified = Some(principal);
            return Some(());
        }
        let asked = asked.or_else(|| self.away(&principal, None))?;
        let host = self.ssh.host(&asked).cloned();
        let host = host.filter(|_| self.resources.contains(&asked));
        let host = host.filter(|host| host.accounts.contains(&login.account));
        let host = host.or_else(|| self.away(&principal, Some(&asked)))?;
        let default = host.accounts.first() == Some(&login.account);
        let part = (!default).then(|| login.account.as_str().into());
        let claims = vec![("account".into(), login.account.as_str().into())];
        let opened = self.door.open(&principal, &asked, part, &self.origin, claims).await;
        let live = match opened {
            Ok(live) => live,
            Err(Rejection::Unavailable(why)) => {
                tracing::warn!(why, "a session cannot be opened");
                return None;
            }
            Err(Rejection::Credential | Rejection::Resource) => return None,
        };
        let authority = match self.ssh.authority() {
            Ok(authority) => authority,
            Err(error) => {
                tracing::error!(%error, "read the gateway's keys");
                return None;
            }
        };
        let id = format!("{} session {}", principal.id, live.session().id());
        let pool = Pool::new(host, &login.account, id, self.door.clone(), authority);
        self.account = login.account;
        *self.shared.live.lock() = Some(Arc::downgrade(&live));
        self.seat = Some(Arc::new(Seat { live, pool, shared: self.shared.clone() }));
        Some(())
    }

    /// The resource that a login asks for: where a listener has one only, it need not be named.
    fn resource(&self, login: &Login) -> Option<Arc<str>> {
        match (&login.resource, &self.resources[..]) {
            (Some(name), _) => Some(name.as_str().into()),
            (None, [only]) if login.account != CERTIFY => Some(only.clone()),
            (None, _) => None,
        }
    }

    fn away<T>(&self, principal: &Arc<Principal>, asked: Option<&str>) -> Option<T> {
        let why = "unknown_resource";
        self.door.turn_away(&self.origin, why, "", Some(principal), asked, None);
        None
    }

    fn token(text: &str) -> Option<Credential> {
        let text = text.trim();
        let fits = !text.is_empty() && text.len() <= TOKEN_BYTES_MAX;
        fits.then(|| Credential::Token(Secret::new(text.as_bytes().to_vec())))
    }

    /// Whether one more channel may be opened. What has ended counts no more: russh tells of a
    /// channel's close only where the client closes it first.
    fn has_room(&mut self) -> bool {
        self.channels.retain(|_, open| !open.input.is_over());
        self.channels.len() < CHANNELS_MAX
    }

    /// A channel that nothing was asked of yet.
    fn fresh(&mut self, id: ChannelId) -> Option<&mut Open> {
        self.channels.get_mut(&id).filter(|open| open.channel.is_some())
    }

    /// Starts what a channel is for: once, and once only.
    fn start(
        &mut self,
        id: ChannelId,
        what: What,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let taken = self.channels.get_mut(&id).and_then(|open| {
            let channel = open.channel.take()?;
            Some((
                channel,
                std::mem::take(&mut open.setting),
                open.size,
                open.modes.clone(),
                &open.input,
            ))
        });
        let Some((channel, setting, size, modes, input)) = taken else {
            return session.channel_failure(id);
        };
        let ask = Ask { what, setting, size, modes };
        let from = input.reader();
        let line = match (&self.seat, &self.certified) {
            (Some(seat), _) => Line::new(seat.clone(), ask, channel, session.handle(), from),
            (None, Some(principal)) => {
                let who = principal.clone();
                let whose = (self.ssh.clone(), self.door.clone(), who);
                Line::certifying(whose, ask, channel, session.handle(), from)
            }
            (None, None) => return session.channel_failure(id),
        };
        session.channel_success(id)?;
        tokio::spawn(line.run());
        Ok(())
    }

    /// Hands on what happened on a channel.
    fn tell(&self, id: ChannelId, event: FromClient) {
        if let Some(open) = self.channels.get(&id) {
            open.input.event(event);
        }
    }
}

impl server::Handler for Client {
    type Error = russh::Error;

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        Ok(match Self::token(password) {
            Some(credential) => self.admit(user, credential).await,
            None => no(),
        })
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        let Some(mut response) = response else {
            return Ok(Auth::Partial {
                name: "".into(),
                instructions: "".into(),
                prompts: vec![("Token: ".into(), false)].into(),
            });
        };
        let answer = response.next().and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
        Ok(match answer.as_deref().and_then(Self::token) {
            Some(credential) => self.admit(user, credential).await,
            None => no(),
        })
    }

    async fn auth_openssh_certificate(
        &mut self,
        user: &str,
        certificate: &Certificate,
    ) -> Result<Auth, Self::Error> {
        // russh has checked that the client holds the certificate's key.
        Ok(match certificate.to_bytes() {
            Ok(bytes) => self.admit(user, Credential::Minted(bytes)).await,
            Err(_) => no(),
        })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if !self.has_room() {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        let setting = Setting { account: self.account.clone(), ..Setting::default() };
        let (id, input) = (channel.id(), Input::new(&self.room));
        let open = Open { setting, size: None, modes: Vec::new(), input, channel: Some(channel) };
        self.channels.insert(id, open);
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let has_room = self.has_room();
        let Some(seat) = self.seat.clone().filter(|_| has_room) else {
            reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            return Ok(());
        };
        let setting = Setting { account: self.account.clone(), ..Setting::default() };
        let input = Input::new(&self.room);
        let what = What::Forward {
            host: host.to_owned(),
            port,
            guarded: self.ssh.guards(port),
            reply: Some(reply),
        };
        let ask = Ask { what, setting: setting.clone(), size: None, modes: Vec::new() };
        let id = channel.id();
        let line = Line::new(seat, ask, channel, session.handle(), input.reader());
        let open = Open { setting, size: None, modes: Vec::new(), channel: None, input };
        self.channels.insert(id, open);
        tokio::spawn(line.run());
        Ok(())
    }

    async fn channel_close(
        &mut self,
        id: ChannelId,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        // Dropping the input tells whoever reads it.
        self.channels.remove(&id);
        Ok(())
    }

    async fn channel_eof(
        &mut self,
        id: ChannelId,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.tell(id, FromClient::Eof);
        Ok(())
    }

    async fn data(
        &mut self,
        id: ChannelId,
        data: &[u8],
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(open) = self.channels.get(&id) {
            // While too much waits elsewhere, this waits too.
            open.input.data(Bytes::copy_from_slice(data)).await;
        }
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        width: u32,
        height: u32,
        modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._+".contains(c);
        let named = !term.is_empty() && term.len() <= 64 && term.chars().all(plain);
        match self.fresh(id).filter(|_| named || term.is_empty()) {
            Some(open) => {
                let term = if term.is_empty() { "dumb" } else { term };
                open.setting.terminal = Some(term.to_owned());
                open.size = Some(Size { columns, rows, width, height });
                open.modes = modes.to_vec();
                session.channel_success(id)
            }
            None => session.channel_failure(id),
        }
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let seat = self.seat.clone();
        let takes = seat.as_ref().is_some_and(|seat| seat.pool.host.takes_env(name));
        let plain = value.len() <= ENV_BYTES_MAX && !value.chars().any(char::is_control);
        match self.fresh(id).filter(|open| takes && plain && open.setting.env.len() < ENV_MAX) {
            Some(open) => {
                open.setting.env.push((name.to_owned(), value.to_owned()));
                session.channel_success(id)
            }
            None => session.channel_failure(id),
        }
    }

    async fn shell_request(
        &mut self,
        id: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.start(id, What::Shell, session)
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        line: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.start(id, What::Exec(Bytes::copy_from_slice(line)), session)
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.start(id, What::Subsystem(name.to_owned()), session)
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        columns: u32,
        rows: u32,
        width: u32,
        height: u32,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let size = Size { columns, rows, width, height };
        if let Some(open) = self.fresh(id) {
            open.size = open.size.map(|_| size);
        }
        self.tell(id, FromClient::Resize(size));
        Ok(())
    }

    async fn signal(
        &mut self,
        id: ChannelId,
        signal: Sig,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.tell(id, FromClient::Signal(signal));
        Ok(())
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _single_connection: bool,
        _auth_protocol: &str,
        _auth_cookie: &str,
        _screen_number: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(id)
    }
}
