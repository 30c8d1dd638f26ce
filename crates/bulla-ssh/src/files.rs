//! The `sftp` subsystem: each operation is read, judged and recorded, and so is what it carries.
//!
//! An operation that names a file is judged by the path as it was written, and again by what the
//! target says that it really is, where that is another. What is done on an open file belongs to
//! its opening. Requests and answers go on as they were sent.

use std::{
    collections::HashMap,
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bulla_core::{Canonical, Command, Draft, Outcome, Refusal, RefusalKind, Status};
use bulla_gate::{Release, ToClient, ToTarget};
use bulla_host::Passage;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, client::Msg as TargetMsg};
use tokio::sync::{mpsc, oneshot};

use crate::{
    backlog::{FromClient, Reader},
    pump::{Down, Exit, Pump, STDERR, Stopped},
    reading::{self, Setting},
    sftp::{self, DENIED, Op, Request, UNSUPPORTED, Use, What},
    wait::Waiting,
};

/// Requests that may be under way at once.
const PENDING_MAX: usize = 2_048;
/// Files that may be open at once.
const HANDLES_MAX: usize = 512;
/// Time for a target to say what a path really is.
const RESOLVE_TIME: Duration = Duration::from_secs(30);
/// SSH_FX_NO_SUCH_FILE, SSH_FX_FAILURE.
const NO_SUCH_FILE: u32 = 2;
const FAILURE: u32 = 4;

/// An open file, and the command that opened it.
struct File {
    path: String,
    passage: Mutex<Option<Passage>>,
    /// Bytes of it that went either way.
    read: AtomicU64,
    written: AtomicU64,
}

impl File {
    fn finish(&self, status: Status) -> Result<(), Stopped> {
        let Some(passage) = self.passage.lock().take() else { return Ok(()) };
        passage.finish(Outcome { status, tag: self.tag(), rows: 0 })?;
        Ok(())
    }

    /// How much of it went, in words; none where nothing did.
    fn tag(&self) -> Option<Arc<str>> {
        let counts = [(&self.read, "read"), (&self.written, "written")];
        let words = counts.iter().filter_map(|(count, word)| match count.load(Ordering::Relaxed) {
            0 => None,
            bytes => Some(format!("{bytes} bytes {word}")),
        });
        let words: Vec<String> = words.collect();
        (!words.is_empty()).then(|| words.join(", ").into())
    }
}

/// A request whose answer is awaited.
enum Pending {
    /// Of the subsystem itself.
    Outer,
    /// A command of its own; `path` where its answer is an open file.
    Command {
        passage: Passage,
        path: Option<String>,
    },
    OnFile {
        file: Arc<File>,
        closes: Option<Bytes>,
    },
    /// The gateway's own question.
    Own(oneshot::Sender<Option<String>>),
}

#[derive(Default)]
struct State {
    pending: HashMap<u32, Pending>,
    files: HashMap<Bytes, Arc<File>>,
}

/// A request that was judged, on its way.
struct Judged(Bytes);

impl Canonical for Judged {
    fn canonical(&self) -> Bytes {
        self.0.clone()
    }
}

/// One SFTP channel.
pub struct Files<'a> {
    pump: &'a Pump,
    setting: Setting,
    state: Mutex<State>,
    /// Words of the gateway, on their way to the client.
    asides: mpsc::UnboundedSender<Release<ToClient>>,
}

/// The way to the target, in order.
struct Onward<'a> {
    write: &'a ChannelWriteHalf<TargetMsg>,
    waiting: Waiting<ToTarget, Packet>,
    own_id: u32,
    home: String,
}

enum Packet {
    /// What was recorded and released.
    Released,
    /// What was cleared, or is the gateway's own.
    Cleared(Bytes),
    Eof,
}

impl Onward<'_> {
    /// Sends what is due. Not cancel safe: half a packet may be on its way.
    async fn forward(&mut self, released: Bytes, kind: Packet) -> Result<(), Stopped> {
        let sent = match kind {
            Packet::Released => self.write.data_bytes(released).await,
            Packet::Cleared(packet) => self.write.data_bytes(packet).await,
            Packet::Eof => self.write.eof().await,
        };
        sent.map_err(|_| Stopped::TargetLost)
    }

    /// Waits for something, while what is on its way goes on.
    async fn meanwhile<T>(&mut self, wanted: impl Future<Output = T>) -> Result<T, Stopped> {
        let mut wanted = pin!(wanted);
        loop {
            tokio::select! {
                biased;
                out = &mut wanted => return Ok(out),
                next = self.waiting.next(), if !self.waiting.is_empty() => {
                    let (released, kind) = next?;
                    self.forward(released, kind).await?;
                }
            }
        }
    }
}

/// Carries the subsystem until something stops it.
pub async fn run(
    pump: &Pump,
    setting: Setting,
    from: &mut Reader,
    read: ChannelReadHalf,
    write: &ChannelWriteHalf<TargetMsg>,
) -> Stopped {
    let (asides, said) = mpsc::unbounded_channel();
    let files = Files { pump, setting, state: Mutex::default(), asides };
    let stopped = tokio::select! {
        down = files.answers(read, said) => match down {
            Ok(exit) => Stopped::Exit(exit),
            Err(stopped) => stopped,
        },
        up = files.requests(from, write) => match up {
            Ok(()) => Stopped::ClientLost,
            Err(stopped) => stopped,
        },
        why = pump.cut() => Stopped::Cut(why),
    };
    let state = std::mem::take(&mut *files.state.lock());
    let status = match stopped {
        Stopped::Exit(_) | Stopped::ClientLost => Status::ClientLost,
        _ => Status::TargetLost,
    };
    let ended = state.files.into_values().try_for_each(|file| file.finish(status.clone()));
    match (stopped, ended) {
        // Whatever else stopped it, this is what everybody must know.
        (_, Err(unrecorded)) => unrecorded,
        (stopped, Ok(())) => stopped,
    }
}

impl Files<'_> {
    async fn requests(
        &self,
        from: &mut Reader,
        write: &ChannelWriteHalf<TargetMsg>,
    ) -> Result<(), Stopped> {
        let mut onward = Onward {
            write,
            waiting: Waiting::default(),
            own_id: sftp::OWN_ID_MIN,
            home: "/".to_owned(),
        };
        let (mut buffer, mut ended) = (BytesMut::new(), false);
        loop {
            let has_room = onward.waiting.has_room();
            let event = tokio::select! {
                biased;
                next = onward.waiting.next(), if !onward.waiting.is_empty() => {
                    let (released, kind) = next?;
                    onward.forward(released, kind).await?;
                    continue;
                }
                event = from.next(), if has_room => event,
            };
            match event {
                None => return Ok(()),
                Some(FromClient::Data(..)) if ended => {}
                Some(FromClient::Data(data, _waits)) => {
                    buffer.extend_from_slice(&data);
                    while let Some(packet) = self.malformed(sftp::packet(&mut buffer))? {
                        let request = self.malformed(sftp::request(packet))?;
                        self.request(request, &mut onward).await?;
                    }
                }
                Some(FromClient::Eof) => {
                    ended = true;
                    onward.waiting.mark(Packet::Eof);
                }
                // A subsystem has neither a terminal nor signals.
                Some(FromClient::Signal(_) | FromClient::Resize(_)) => {}
            }
        }
    }

    /// What cannot be read ends the channel: nobody knows what stands behind it.
    fn malformed<T>(&self, read: Result<T, sftp::Malformed>) -> Result<T, Stopped> {
        read.map_err(|malformed| {
            let live = self.pump.live();
            let message = format!("refused: {}", malformed.0);
            let refusal = Refusal::plain(RefusalKind::Unreadable, message, "send SFTP version 3");
            live.refuse(live.number(), &Bytes::new(), refusal);
            Stopped::Cut("malformed")
        })
    }

    async fn request(&self, request: Request, onward: &mut Onward<'_>) -> Result<(), Stopped> {
        let Request { id, op, packet } = request;
        if self.state.lock().pending.len() >= PENDING_MAX {
            return Err(Stopped::Cut("pending"));
        }
        match op {
            Op::Init(3..) => {
                self.outer(0, packet, onward)?;
                // What a relative path begins with.
                if let Some(home) = self.resolve(".", onward).await? {
                    onward.home = home;
                }
                Ok(())
            }
            Op::Init(_) => Err(Stopped::Cut("version")),
            Op::Limits => self.outer(id, packet, onward),
            Op::OnHandle { handle, used } => self.on_handle(id, packet, &handle, used, onward),
            Op::Unknown { name } => {
                let message = format!("refused: the extension `{name}` is not read here");
                let refusal = Refusal::plain(RefusalKind::NotSupported, message, "do without it");
                let live = self.pump.live();
                let refusal = live.refuse(live.number(), &packet, refusal);
                self.say(id, UNSUPPORTED, &refusal)
            }
            op => self.judged(id, op, packet, onward).await,
        }
    }

    fn outer(&self, id: u32, packet: Bytes, onward: &mut Onward<'_>) -> Result<(), Stopped> {
        self.expect(id, Pending::Outer)?;
        let release = self.pump.record(|passage| passage.more(packet))?;
        onward.waiting.push(release, Packet::Released);
        Ok(())
    }

    /// A number that is in use is nobody's own any more.
    fn expect(&self, id: u32, pending: Pending) -> Result<(), Stopped> {
        match self.state.lock().pending.insert(id, pending) {
            None => Ok(()),
            Some(_) => Err(Stopped::Cut("malformed")),
        }
    }

    fn on_handle(
        &self,
        id: u32,
        packet: Bytes,
        handle: &Bytes,
        used: Use,
        onward: &mut Onward<'_>,
    ) -> Result<(), Stopped> {
        let file = self.state.lock().files.get(handle).cloned();
        let Some(file) = file else { return self.tell(id, FAILURE, "there is no such handle") };
        let release = match file.passage.lock().as_mut() {
            Some(passage) => passage.more(packet)?,
            None => return Err(Stopped::Cut("malformed")),
        };
        if let Use::Writes(bytes) = used {
            file.written.fetch_add(u64::from(bytes), Ordering::Relaxed);
        }
        let closes = (used == Use::Closes).then(|| handle.clone());
        self.expect(id, Pending::OnFile { file, closes })?;
        onward.waiting.push(release, Packet::Released);
        Ok(())
    }

    /// A request that is a command of its own.
    async fn judged(
        &self,
        id: u32,
        op: Op,
        packet: Bytes,
        onward: &mut Onward<'_>,
    ) -> Result<(), Stopped> {
        let op = match op {
            Op::SetStatOpen { handle } => {
                let path = self.state.lock().files.get(&handle).map(|file| file.path.clone());
                match path {
                    Some(path) => Op::SetStat { path, follows: true },
                    None => return self.tell(id, FAILURE, "there is no such handle"),
                }
            }
            op => op,
        };
        let written = Named::of(&op, &mut |path, _| sftp::normal(&onward.home, path));
        let Some(cleared) = self.clear(id, &written, &packet, onward).await? else {
            return Ok(());
        };
        let real = match self.real(&op, onward).await? {
            Some(real) => real,
            None => {
                finish(cleared.1, Status::Error("no such file".into()))?;
                return self.tell(id, NO_SUCH_FILE, "no such file");
            }
        };
        let (sent, passage) = if real == written {
            cleared
        } else {
            // By another name it is another file, and needs leave of its own.
            finish(cleared.1, Status::Skipped)?;
            match self.clear(id, &real, &packet, onward).await? {
                Some(cleared) => cleared,
                None => return Ok(()),
            }
        };
        let opens = matches!(op, Op::Open { .. } | Op::List { .. });
        if opens && self.state.lock().files.len() >= HANDLES_MAX {
            finish(passage, Status::Cut("handles".into()))?;
            return self.tell(id, FAILURE, "too many files are open");
        }
        let path = opens.then_some(real.path);
        self.expect(id, Pending::Command { passage, path })?;
        onward.waiting.mark(Packet::Cleared(sent));
        Ok(())
    }

    /// Leave for one request. None: it was refused, and the client is told.
    async fn clear(
        &self,
        id: u32,
        named: &Named,
        packet: &Bytes,
        onward: &mut Onward<'_>,
    ) -> Result<Option<(Bytes, Passage)>, Stopped> {
        let live = self.pump.live().clone();
        let Some(command) = named.command(&self.setting) else { return Err(Stopped::Cut("bug")) };
        let draft = Draft::new(Judged(packet.clone()), command);
        let mut told = |_| {};
        let clearing = live.clear(live.number(), draft, &mut told);
        match onward.meanwhile(clearing).await? {
            Ok((cleared, passage)) => Ok(Some((cleared.spend().0, passage))),
            Err(refusal) => {
                self.say(id, DENIED, &refusal)?;
                Ok(None)
            }
        }
    }

    /// What the target says that an operation's files are. None: there are none.
    async fn real(&self, op: &Op, onward: &mut Onward<'_>) -> Result<Option<Named>, Stopped> {
        let mut found = Vec::new();
        let mut wanted = Vec::new();
        Named::of(op, &mut |path, follows| {
            wanted.push((path.to_owned(), follows));
            String::new()
        });
        for (path, follows) in wanted {
            let whole = match follows {
                true => self.resolve(&path, onward).await?,
                false => None,
            };
            let real = match whole {
                Some(real) => Some(real),
                // Of what is not there yet, or is not followed, the folder is.
                None => {
                    let (folder, name) = sftp::split(&path);
                    let folder = self.resolve(folder, onward).await?;
                    folder.map(|folder| sftp::normal("/", &format!("{folder}/{name}")))
                }
            };
            match real {
                Some(real) => found.push(real),
                None => return Ok(None),
            }
        }
        let mut found = found.into_iter();
        Ok(Some(Named::of(op, &mut |_, _| found.next().unwrap_or_default())))
    }

    async fn resolve(
        &self,
        path: &str,
        onward: &mut Onward<'_>,
    ) -> Result<Option<String>, Stopped> {
        let (tell, told) = oneshot::channel();
        let id = onward.own_id;
        onward.own_id = id.checked_add(1).unwrap_or(sftp::OWN_ID_MIN);
        self.expect(id, Pending::Own(tell))?;
        onward.waiting.mark(Packet::Cleared(sftp::resolve(id, path)));
        let answer = onward.meanwhile(tokio::time::timeout(RESOLVE_TIME, told)).await?;
        match answer {
            Ok(Ok(real)) => Ok(real),
            Ok(Err(_)) | Err(_) => Err(Stopped::TargetLost),
        }
    }

    /// An answer of the gateway's own, evidence like every other byte.
    fn tell(&self, id: u32, code: u32, words: &str) -> Result<(), Stopped> {
        let release = self.pump.live().aside(sftp::status(id, code, words))?;
        let _ = self.asides.send(release);
        Ok(())
    }

    fn say(&self, id: u32, code: u32, refusal: &Refusal) -> Result<(), Stopped> {
        let event = refusal.event.map(|event| format!(" [{event}]")).unwrap_or_default();
        self.tell(id, code, &format!("{}; {}{event}", refusal.message, refusal.hint))
    }

    async fn answers(
        &self,
        mut read: ChannelReadHalf,
        mut said: mpsc::UnboundedReceiver<Release<ToClient>>,
    ) -> Result<Exit, Stopped> {
        let mut waiting = Waiting::<ToClient, Down>::default();
        let (mut exit, mut closed, mut buffer) = (Exit::Unsaid, false, BytesMut::new());
        while !closed || !waiting.is_empty() {
            let has_room = waiting.has_room();
            tokio::select! {
                biased;
                next = waiting.next(), if !waiting.is_empty() => {
                    let (bytes, kind) = next?;
                    self.pump.deliver(&kind, bytes).await?;
                }
                Some(aside) = said.recv() => waiting.push(aside, Down::Out),
                message = read.wait(), if !closed && has_room => match message {
                    Some(ChannelMsg::Data { data }) => {
                        buffer.extend_from_slice(&data);
                        while let Some(packet) = self.malformed(sftp::packet(&mut buffer))? {
                            if let Some(release) = self.answer(packet)? {
                                waiting.push(release, Down::Out);
                            }
                        }
                    }
                    Some(ChannelMsg::ExtendedData { data, ext: STDERR }) => {
                        let release = self.pump.record(|passage| passage.reply_beside(data))?;
                        waiting.push(release, Down::Err);
                    }
                    Some(ChannelMsg::ExtendedData { .. }) => return Err(Stopped::Cut("stream")),
                    Some(ChannelMsg::Eof) => waiting.mark(Down::Eof),
                    Some(ChannelMsg::ExitStatus { exit_status }) => {
                        exit = Exit::Status(exit_status);
                    }
                    Some(ChannelMsg::Close) => closed = true,
                    Some(_) => {}
                    None => return Err(Stopped::TargetLost),
                },
            }
        }
        Ok(exit)
    }

    /// Records an answer with what it answers. None: it was to the gateway.
    fn answer(&self, packet: Bytes) -> Result<Option<Release<ToClient>>, Stopped> {
        let answer = self.malformed(sftp::answer(packet))?;
        let pending = self.state.lock().pending.remove(&answer.id.unwrap_or(0));
        let (what, packet) = (answer.what, answer.packet);
        match pending {
            None => Err(Stopped::Cut("unasked")),
            Some(Pending::Own(tell)) => {
                let name = match what {
                    What::Name(name) => name.filter(|name| name.starts_with('/')),
                    _ => None,
                };
                let _ = tell.send(name);
                Ok(None)
            }
            Some(Pending::Outer) => {
                let packet = match what {
                    What::Version => self.malformed(sftp::version(&packet))?,
                    _ => packet,
                };
                self.pump.count(packet.len())?;
                Ok(Some(self.pump.record(|passage| passage.reply(packet, None))?))
            }
            Some(Pending::OnFile { file, closes }) => {
                self.pump.count(packet.len())?;
                let mut passage = file.passage.lock();
                let Some(open) = passage.as_mut() else { return Err(Stopped::Cut("unasked")) };
                if let What::Data(bytes) = &what {
                    file.read.fetch_add(u64::from(*bytes), Ordering::Relaxed);
                }
                let done = closes.is_some().then(|| Outcome { tag: file.tag(), ..outcome(&what) });
                let release = open.reply(packet, done)?;
                if let Some(handle) = closes {
                    self.state.lock().files.remove(&handle);
                    passage.take();
                }
                Ok(Some(release))
            }
            Some(Pending::Command { mut passage, path }) => {
                self.pump.count(packet.len())?;
                match (what, path) {
                    (What::Handle(handle), Some(path)) => {
                        let release = passage.reply(packet, None)?;
                        let (read, written) = (AtomicU64::new(0), AtomicU64::new(0));
                        let passage = Mutex::new(Some(passage));
                        let file = File { path, passage, read, written };
                        let before = self.state.lock().files.insert(handle, Arc::new(file));
                        if let Some(before) = before {
                            before.finish(Status::TargetLost)?;
                        }
                        Ok(Some(release))
                    }
                    (What::Handle(_), None) => Err(Stopped::Cut("unasked")),
                    (what, _) => Ok(Some(passage.reply(packet, Some(outcome(&what)))?)),
                }
            }
        }
    }
}

fn finish(passage: Passage, status: Status) -> Result<(), Stopped> {
    passage.finish(Outcome { status, tag: None, rows: 0 })?;
    Ok(())
}

fn outcome(what: &What) -> Outcome {
    let status = match what {
        What::Status(code) if *code > 1 => Status::Error(sftp::word(*code).into()),
        _ => Status::Ok,
    };
    Outcome { status, tag: None, rows: 0 }
}

/// An operation with its paths in one form.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    verb: &'static str,
    path: String,
    to: Option<String>,
    /// An opening that reads besides.
    reads: bool,
}

impl Named {
    /// `form`: from a path, and whether a link at its end is followed.
    fn of(op: &Op, form: &mut dyn FnMut(&str, bool) -> String) -> Self {
        let mut named = |verb, path: &str, follows| Self {
            verb,
            path: form(path, follows),
            to: None,
            reads: false,
        };
        match op {
            Op::Open { path, reads, writes: true } => {
                Self { reads: *reads, ..named("upload", path, true) }
            }
            Op::Open { path, .. } => named("download", path, true),
            Op::List { path } => named("list", path, true),
            Op::Stat { path, follows } => named("stat", path, *follows),
            Op::Resolve { path } => named("stat", path, true),
            Op::ReadLink { path } => named("stat", path, false),
            Op::SetStat { path, follows } => named("setstat", path, *follows),
            Op::Remove { path } | Op::RemoveDir { path } => named("remove", path, false),
            Op::MakeDir { path } => named("mkdir", path, false),
            Op::Rename { from, to } => {
                let from = named("rename", from, false);
                Self { to: Some(form(to, false)), ..from }
            }
            Op::Link { path, to } => {
                let link = named("link", path, false);
                // What a link points to is not looked up until it is used.
                Self { to: Some(to.clone()), ..link }
            }
            Op::Init(_)
            | Op::OnHandle { .. }
            | Op::SetStatOpen { .. }
            | Op::Limits
            | Op::Unknown { .. } => named("unknown", "", false),
        }
    }

    fn command(&self, setting: &Setting) -> Option<Command> {
        let Self { verb, path, to, reads } = self;
        reading::file(verb, path, to.as_deref(), *reads, setting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_named_with_all_their_paths() {
        let form = |op: &Op| {
            let named = Named::of(op, &mut |path, follows| format!("{path}:{follows}"));
            (named.verb, named.path, named.to, named.reads)
        };
        let path = || "/a".to_owned();
        for (op, expect) in [
            (
                Op::Open { path: path(), reads: true, writes: false },
                ("download", "/a:true", None, false),
            ),
            (
                Op::Open { path: path(), reads: true, writes: true },
                ("upload", "/a:true", None, true),
            ),
            (
                Op::Open { path: path(), reads: false, writes: false },
                ("download", "/a:true", None, false),
            ),
            (Op::Remove { path: path() }, ("remove", "/a:false", None, false)),
            (Op::Stat { path: path(), follows: false }, ("stat", "/a:false", None, false)),
            (
                Op::Rename { from: path(), to: "/b".into() },
                ("rename", "/a:false", Some("/b:false"), false),
            ),
            (
                Op::Link { path: path(), to: "../x".into() },
                ("link", "/a:false", Some("../x"), false),
            ),
        ] {
            let (verb, path, to, reads) = form(&op);
            assert_eq!((verb, path.as_str(), to.as_deref(), reads), expect, "{op:?}");
        }
    }
}
