//! One channel: what is asked of it is read, judged, recorded, and only then asked of the target.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bulla_core::{Canonical, Command, Draft, Principal, RecordError, Refusal, RefusalKind, Status};
use bulla_gate::{Cleared, Holding};
use bulla_host::{Door, Live, Passage};
use bulla_mask::Scanner;
use bytes::{Bytes, BytesMut};
use russh::{
    Channel, ChannelMsg, ChannelOpenFailure, Pty,
    client::Msg as TargetMsg,
    server::{ChannelOpenHandle, Handle, Msg as ClientMsg},
};
use tokio::sync::mpsc;

use crate::{
    Ssh,
    backlog::{FromClient, Reader},
    certify, files,
    pump::{Exit, Pump, STDERR, Stopped, ToPeer, ended},
    reading::{self, Setting},
    serve::Seat,
    target::{Conn, TargetError},
};

/// The status of what was refused: it was found, and could not be run.
const REFUSED: u32 = 126;
/// The status of what failed on the way, as ssh has it.
const FAILED: u32 = 255;
/// Time for a client to take the last words.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// The size of a terminal, in characters and in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub columns: u32,
    pub rows: u32,
    pub width: u32,
    pub height: u32,
}

/// What is asked of a channel.
pub enum What {
    Exec(Bytes),
    Shell,
    Subsystem(String),
    Forward { host: String, port: u32, guarded: bool, reply: Option<ChannelOpenHandle> },
}

/// All that is known when it is asked.
pub struct Ask {
    pub what: What,
    pub setting: Setting,
    pub size: Option<Size>,
    pub modes: Vec<(Pty, u32)>,
}

impl Ask {
    /// The bytes that are judged: a command line exactly as it was sent.
    fn bytes(&self) -> Bytes {
        match &self.what {
            What::Exec(line) => line.clone(),
            What::Shell => Bytes::from_static(b"shell"),
            What::Subsystem(name) => format!("subsystem {name}").into(),
            What::Forward { host, port, .. } => format!("forward {host}:{port}").into(),
        }
    }
    fn read(&self) -> Option<Command> {
        match &self.what {
            What::Exec(line) => reading::exec(line, &self.setting),
            What::Shell => reading::shell(&self.setting),
            What::Subsystem(name) => reading::subsystem(name, &self.setting),
            What::Forward { host, port, .. } => reading::forward(host, *port, &self.setting),
        }
    }
    /// What is refused whatever the policies say.
    fn on_principle(&self) -> Option<&'static str> {
        match &self.what {
            What::Forward { guarded: true, .. } => Some(
                "the port is that of a resource of its own, which is reached through its own door",
            ),
            What::Forward { host, .. } if is_metadata(host) => {
                Some("addresses of the link itself are not forwarded to")
            }
            What::Subsystem(name) if !is_plain(name) => {
                Some("the subsystem has a name that none has")
            }
            What::Exec(line) if line.contains(&0) => {
                Some("the command line holds a zero byte, at which programs end it")
            }
            What::Exec(_) | What::Shell | What::Subsystem(_) | What::Forward { .. } => None,
        }
    }
}

impl Ask {
    /// What cannot be masked, and is refused where something may not be seen.
    fn unmaskable(&self) -> Option<&'static str> {
        let whole = "it moves files or bytes as they are, and what they hold may not be seen";
        match &self.what {
            What::Exec(_) => {
                let moves = self.read().is_some_and(|read| read.facts.contains_key("transfer"));
                moves.then_some(whole)
            }
            What::Subsystem(_) | What::Forward { .. } => Some(whole),
            What::Shell => None,
        }
    }
}

fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    !name.is_empty() && name.len() <= 64 && name.chars().all(plain)
}

/// Where clouds keep the credentials of their machines.
fn is_metadata(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    host.starts_with("169.254.") || host.starts_with("fe80:") || host.starts_with("fd00:ec2:")
}

/// What was judged, on its way to the target.
struct Request {
    ask: Ask,
    bytes: Bytes,
}

impl Canonical for Request {
    fn canonical(&self) -> Bytes {
        self.bytes.clone()
    }
}

enum Whose {
    Session(Arc<Seat>),
    /// Somebody who gets a certificate, and nothing else.
    Certified {
        ssh: Arc<Ssh>,
        door: Door,
        who: Arc<Principal>,
    },
}

/// One channel's task.
pub struct Line {
    whose: Whose,
    ask: Ask,
    client: ToPeer,
    from: Reader,
}

type Verdict = Result<(Cleared<Request>, Passage), Box<Refusal>>;

impl Line {
    pub fn new(
        seat: Arc<Seat>,
        ask: Ask,
        channel: Channel<ClientMsg>,
        handle: Handle,
        from: Reader,
    ) -> Self {
        Self { whose: Whose::Session(seat), ask, client: peer(channel, handle), from }
    }

    pub fn certifying(
        (ssh, door, who): (Arc<Ssh>, Door, Arc<Principal>),
        ask: Ask,
        channel: Channel<ClientMsg>,
        handle: Handle,
        from: Reader,
    ) -> Self {
        let whose = Whose::Certified { ssh, door, who };
        Self { whose, ask, client: peer(channel, handle), from }
    }

    pub async fn run(self) {
        let Self { whose, ask, client, from } = self;
        match whose {
            Whose::Session(seat) => {
                let job = Job { live: seat.live.clone(), seat, client };
                job.run(ask, from).await;
            }
            Whose::Certified { ssh, door, who } => {
                let (words, status) = certified(&ssh, &door, &who, &ask, from).await;
                match words {
                    Ok(line) => {
                        let _ = client.half.data_bytes(line).await;
                    }
                    Err(words) => {
                        let words = format!("bulla: {words}\n");
                        let _ = client.half.extended_data_bytes(STDERR, words).await;
                    }
                }
                client.end(&Exit::Status(status)).await;
            }
        }
    }
}

fn peer(channel: Channel<ClientMsg>, handle: Handle) -> ToPeer {
    // What comes in is handed over by the connection itself.
    let (_, half) = channel.split();
    ToPeer { half: Arc::new(half), handle, ended: Arc::default() }
}

/// Reads a public key and answers with its certificate.
async fn certified(
    ssh: &Ssh,
    door: &Door,
    who: &Principal,
    ask: &Ask,
    mut from: Reader,
) -> (Result<String, String>, u32) {
    if !matches!(&ask.what, What::Exec(line) if &line[..] == b"certify") {
        let words = "this name is for `certify` alone; log in as `account%resource`";
        return (Err(words.into()), REFUSED);
    }
    let mut text = BytesMut::new();
    loop {
        match from.next().await {
            Some(FromClient::Data(data, _)) => {
                text.extend_from_slice(&data);
                if text.len() > certify::KEY_BYTES_MAX {
                    return (Err("the public key is too long".into()), 1);
                }
            }
            Some(FromClient::Eof) => break,
            Some(FromClient::Signal(_) | FromClient::Resize(_)) => {}
            None => return (Err("there is no public key".into()), 1),
        }
    }
    let authority = match ssh.authority() {
        Ok(authority) => authority,
        Err(error) => {
            tracing::error!(%error, "read the gateway's keys");
            return (Err("the gateway's keys cannot be read".into()), 1);
        }
    };
    let minted = match certify::mint(&authority, &text, who, door.now()) {
        Ok(minted) => minted,
        Err(words) => return (Err(words), 1),
    };
    match door.note("admin", who.id.as_str(), &minted.noted).await {
        Ok(()) => (Ok(minted.line + "\n"), 0),
        Err(error) => (Err(format!("{}, and nothing is given out unrecorded", error.public())), 1),
    }
}

struct Job {
    seat: Arc<Seat>,
    live: Arc<Live>,
    client: ToPeer,
}

impl Job {
    async fn run(self, mut ask: Ask, from: Reader) {
        let reply = match &mut ask.what {
            What::Forward { reply, .. } => reply.take(),
            What::Exec(_) | What::Shell | What::Subsystem(_) => None,
        };
        let terminal = ask.setting.terminal.is_some();
        let words = Words { live: &self.live, client: &self.client, terminal };
        match self.judge(ask, &from, reply.is_none().then_some(&words)).await {
            None => {}
            Some(Err(refusal)) => match reply {
                Some(reply) => reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await,
                None => {
                    let status = match words.say(&refused(&refusal)).await {
                        Ok(()) => REFUSED,
                        Err(error) => self.unrecorded(&error, &words).await,
                    };
                    self.client.end(&Exit::Status(status)).await;
                }
            },
            Some(Ok((cleared, passage))) => {
                self.carry(cleared, passage, from, reply, &words).await;
            }
        }
    }

    /// What finds values that this session's principal may not see; none where there are none.
    fn scanner(&self) -> Option<Scanner> {
        let masked = self.seat.pool.host.masked.as_ref()?;
        (!self.live.reveals(&masked.class)).then(|| masked.scanner.clone())
    }

    /// None: nobody waits for an answer any more.
    async fn judge(&self, ask: Ask, from: &Reader, words: Option<&Words<'_>>) -> Option<Verdict> {
        let number = self.live.number();
        let bytes = ask.bytes();
        let hides = self.scanner().is_some().then(|| ask.unmaskable()).flatten();
        if let Some(why) = ask.on_principle().or(hides) {
            let kind = RefusalKind::NotSupported;
            let hint = "see the gateway's documentation on SSH";
            let refusal = Refusal::plain(kind, format!("refused: {why}"), hint);
            return Some(Err(self.live.refuse(number, &bytes, refusal)));
        }
        let Some(command) = ask.read() else {
            let refusal = Refusal::plain(RefusalKind::Bug, "refused: it has no name", "tell us");
            return Some(Err(self.live.refuse(number, &bytes, refusal)));
        };
        let draft = Draft::new(Request { ask, bytes }, command);
        let (tell, mut told) = mpsc::unbounded_channel::<Holding>();
        let mut holding = move |what: Holding| {
            let _ = tell.send(what);
        };
        let ended = ended(self.live.standing());
        tokio::pin!(ended);
        let clearing = self.live.clear(number, draft, &mut holding);
        tokio::pin!(clearing);
        loop {
            tokio::select! {
                biased;
                verdict = &mut clearing => return Some(verdict),
                Some(holding) = told.recv() => {
                    // Whoever opens a forwarded connection has no place for words yet.
                    if let Some(words) = words
                        && let Err(error) = words.say(&held(&holding)).await
                    {
                        let status = self.unrecorded(&error, words).await;
                        self.client.end(&Exit::Status(status)).await;
                        return None;
                    }
                }
                // Dropping it withdraws the ask.
                () = from.closed() => return None,
                _ = &mut ended => return None,
            }
        }
    }

    /// Leave was given: spends it, and carries the bytes until it ends.
    async fn carry(
        &self,
        cleared: Cleared<Request>,
        passage: Passage,
        mut from: Reader,
        reply: Option<ChannelOpenHandle>,
        words: &Words<'_>,
    ) {
        let Request { ask, .. } = cleared.spend();
        let terminal = ask.setting.terminal.is_some();
        let pump = Pump::new(passage, self.client.clone(), &from, terminal, self.scanner());
        if let Some(Size { columns, rows, .. }) = ask.size
            && let Err(stopped) = pump.begin(format!("size {columns}x{rows}\n")).await
        {
            return self.stop(&pump, &stopped, words).await;
        }
        let opened = tokio::select! {
            opened = self.open(&ask) => opened,
            () = from.closed() => return self.stop(&pump, &Stopped::ClientLost, words).await,
        };
        let (conn, channel) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(resource = %self.seat.pool.host.resource, %error, "target");
                let Some(reply) = reply else {
                    let why = error.public().map(|why| format!(" ({why})"));
                    let stopped = Stopped::Unreached(why.unwrap_or_default());
                    return self.stop(&pump, &stopped, words).await;
                };
                reply.reject(ChannelOpenFailure::ConnectFailed).await;
                if let Err(error) = pump.finish(Status::TargetLost, None).await {
                    self.unrecorded(&error, words).await;
                }
                return;
            }
        };
        if let Some(reply) = reply {
            reply.accept().await;
        }
        let (read, write) = channel.split();
        let stopped = match &ask.what {
            What::Subsystem(name) if name == "sftp" => {
                files::run(&pump, ask.setting.clone(), &mut from, read, &write).await
            }
            _ => pump.run(&mut from, read, &write).await,
        };
        let whole = matches!(stopped, Stopped::Exit(_));
        // Ours too, so that the channel is closed on both sides.
        let _ = write.close().await;
        self.stop(&pump, &stopped, words).await;
        if whole {
            self.seat.pool.put(conn);
        }
    }

    /// Records how it ended, and tells the client.
    async fn stop(&self, pump: &Pump, stopped: &Stopped, words: &Words<'_>) {
        let (status, tag, exit) = outcome(stopped);
        let exit = match self.told(pump, (status, tag), stopped, words).await {
            Ok(()) => exit,
            Err(error) => Exit::Status(self.unrecorded(&error, words).await),
        };
        self.client.end(&exit).await;
    }

    async fn told(
        &self,
        pump: &Pump,
        (status, tag): (Status, Option<Arc<str>>),
        stopped: &Stopped,
        words: &Words<'_>,
    ) -> Result<(), RecordError> {
        if let Stopped::Record(error) = stopped {
            // Its end, as far as the record takes it; this error is what is told.
            let _ = pump.finish(status, tag).await;
            return Err(error.clone());
        }
        pump.finish(status, tag).await?;
        match stopped {
            Stopped::Exit(_) | Stopped::ClientLost | Stopped::Record(_) => Ok(()),
            Stopped::Unreached(why) => {
                let resource = &self.seat.pool.host.resource;
                words.say(&format!("could not reach `{resource}`{why}")).await
            }
            Stopped::TargetLost => words.say("the target was lost").await,
            Stopped::Cut("bytes_max") => words.say("refused: the answer exceeds its limit").await,
            Stopped::Cut("flood") => {
                words.say("refused: no answer is taken, and too much input waits").await
            }
            Stopped::Cut(_) => words.say("this session was ended").await,
        }
    }

    /// What cannot be recorded ends the session: every channel of it, at once. Returns the status
    /// that is left to say.
    async fn unrecorded(&self, error: &RecordError, words: &Words<'_>) -> u32 {
        tracing::error!(%error, session = %self.live.session().id(), "the record fails");
        words.last(error).await;
        self.seat.unrecorded();
        FAILED
    }

    /// Asks the target for what was cleared.
    async fn open(&self, ask: &Ask) -> Result<(Conn, Channel<TargetMsg>), TargetError> {
        let conn = self.seat.pool.take().await?;
        if let What::Forward { host, port, .. } = &ask.what {
            let channel = conn.forward(host, *port).await?;
            return Ok((conn, channel));
        }
        let mut channel = conn.session().await?;
        for (name, value) in &ask.setting.env {
            // Whether a target takes it is its own affair.
            channel.set_env(false, name.as_str(), value.as_str()).await?;
        }
        let mut answers = 1;
        if let (Some(term), Some(size)) = (&ask.setting.terminal, ask.size) {
            let Size { columns, rows, width, height } = size;
            channel.request_pty(true, term, columns, rows, width, height, &ask.modes).await?;
            answers += 1;
        }
        match &ask.what {
            What::Exec(line) => channel.exec(true, line.to_vec()).await?,
            What::Shell => channel.request_shell(true).await?,
            What::Subsystem(name) => channel.request_subsystem(true, name.as_str()).await?,
            What::Forward { .. } => {}
        }
        while answers > 0 {
            match channel.wait().await {
                Some(ChannelMsg::Success) => answers -= 1,
                Some(ChannelMsg::WindowAdjusted { .. }) => {}
                _ => return Err(TargetError::Refused),
            }
        }
        Ok((conn, channel))
    }
}

/// How it ended: for the record, and for the client.
fn outcome(stopped: &Stopped) -> (Status, Option<Arc<str>>, Exit) {
    match stopped {
        Stopped::Exit(exit) => {
            let (status, tag) = match exit {
                Exit::Status(0) => (Status::Ok, Some("exit 0".into())),
                Exit::Status(code) => {
                    (Status::Error(code.to_string().into()), Some(format!("exit {code}").into()))
                }
                Exit::Signal { name, .. } => {
                    let words: Arc<str> = format!("signal {name:?}").into();
                    (Status::Error("signal".into()), Some(words))
                }
                Exit::Unsaid => (Status::Ok, None),
            };
            (status, tag, exit.clone())
        }
        Stopped::ClientLost => (Status::ClientLost, None, Exit::Unsaid),
        Stopped::TargetLost | Stopped::Unreached(_) => {
            (Status::TargetLost, None, Exit::Status(FAILED))
        }
        Stopped::Cut(why) => (Status::Cut((*why).into()), None, Exit::Status(FAILED)),
        Stopped::Record(_) => (Status::Cut("recorder".into()), None, Exit::Status(FAILED)),
    }
}

/// One line that says what, which rule, what next, and where it is on record.
fn refused(refusal: &Refusal) -> String {
    let event = refusal.event.map(|event| format!(" [{event}]")).unwrap_or_default();
    format!("{}; {}{event}", refusal.message, refusal.hint)
}

fn held(holding: &Holding) -> String {
    let groups = holding.terms.groups.join("`, `");
    let minutes = holding.terms.expires_ms.div_ceil(60_000);
    format!(
        "it waits up to {minutes} min for approval {0} by `{groups}`; bulla approvals approve {0}",
        holding.ask
    )
}

/// The gateway's own words, on standard error.
struct Words<'a> {
    live: &'a Live,
    client: &'a ToPeer,
    terminal: bool,
}

impl Words<'_> {
    fn line(&self, text: &str) -> Bytes {
        let one: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let end = if self.terminal { "\r\n" } else { "\n" };
        format!("bulla: {one}{end}").into()
    }

    /// Evidence first, like every other byte. An error: nothing was said, and nothing more may be.
    async fn say(&self, text: &str) -> Result<(), RecordError> {
        let mut release = self.live.aside(self.line(text))?;
        let released = poll_fn(|cx| release.poll_released(cx)).await?;
        let _ = self.client.half.extended_data_bytes(STDERR, released.spend()).await;
        Ok(())
    }

    /// What the record cannot hold any more: that it cannot.
    async fn last(&self, error: &RecordError) {
        let why = error.public();
        let words = self.line(&format!("refused: {why}, and nothing passes unrecorded"));
        let said = self.client.half.extended_data_bytes(STDERR, words);
        // A client that takes nothing holds nothing up.
        let _ = tokio::time::timeout(LAST_WORDS, said).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_on_principle() {
        let ask = |what| Ask { what, setting: Setting::default(), size: None, modes: Vec::new() };
        let forward = |host: &str, guarded| What::Forward {
            host: host.into(),
            port: 80,
            guarded,
            reply: None,
        };
        for (what, refused) in [
            (What::Exec(Bytes::from_static(b"true")), false),
            (What::Exec(Bytes::from_static(b"true\0rm")), true),
            (What::Subsystem("sftp".into()), false),
            (What::Subsystem("".into()), true),
            (What::Subsystem("a b".into()), true),
            (forward("db.internal", false), false),
            (forward("db.internal", true), true),
            (forward("169.254.169.254", false), true),
            (forward("[fe80::1]", false), true),
            (forward("FD00:EC2::254", false), true),
        ] {
            assert_eq!(ask(what).on_principle().is_some(), refused);
        }
    }
}
