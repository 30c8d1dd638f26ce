//! The bytes of a channel, both ways: evidence first, in order, with bounded memory.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bulla_core::{Outcome, RecordError, Status};
use bulla_gate::{ToClient, ToTarget};
use bulla_host::{Live, Passage, Standing};
use bulla_mask::{Scanner, Stream};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use russh::{
    ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig,
    client::Msg as TargetMsg,
    server::{Handle, Msg as ClientMsg},
};
use tokio::sync::watch;

use crate::{
    backlog::{FromClient, Gauge, Held, PIECE_BYTES, Reader},
    line::Size,
    typed::{Echo, Part},
    wait::Waiting,
};

/// What pauses for so long at a terminal is taken to be whole, where output is masked.
const PAUSE: Duration = Duration::from_millis(50);
/// Standard error, RFC 4254 section 5.2.
pub const STDERR: u32 = 1;

/// Resolves when a session ends from outside, with the word for it. One that ends by itself never
/// resolves it.
pub async fn ended(mut standing: watch::Receiver<Standing>) -> &'static str {
    loop {
        if let Standing::Ended(why, _) = &*standing.borrow_and_update() {
            return why;
        }
        if standing.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// How a target's command ended.
#[derive(Debug, Clone)]
pub enum Exit {
    Unsaid,
    Status(u32),
    Signal { name: Sig, core: bool, message: String },
}

/// Why the bytes stopped.
#[derive(Debug)]
pub enum Stopped {
    /// The target ended it.
    Exit(Exit),
    ClientLost,
    TargetLost,
    /// It never began; for the client, why.
    Unreached(String),
    Cut(&'static str),
    Record(RecordError),
}

impl From<RecordError> for Stopped {
    fn from(error: RecordError) -> Self {
        Self::Record(error)
    }
}

/// The client's side of a channel.
#[derive(Clone)]
pub struct ToPeer {
    pub half: Arc<ChannelWriteHalf<ClientMsg>>,
    pub handle: Handle,
    /// Whether its end was said: twice is a violation to some clients.
    pub ended: Arc<AtomicBool>,
}

impl ToPeer {
    /// What a channel ends with. A client that is gone needs none of it.
    pub async fn end(&self, exit: &Exit) {
        match exit {
            Exit::Unsaid => {}
            Exit::Status(status) => {
                let _ = self.half.exit_status(*status).await;
            }
            Exit::Signal { name, core, message } => {
                let (id, language) = (self.half.id(), "en".to_owned());
                let (name, message) = (name.clone(), message.clone());
                let _ = self.handle.exit_signal_request(id, name, *core, message, language).await;
            }
        }
        let _ = self.eof().await;
        let _ = self.half.close().await;
    }

    async fn eof(&self) -> Result<(), russh::Error> {
        match self.ended.swap(true, Ordering::AcqRel) {
            true => Ok(()),
            false => self.half.eof().await,
        }
    }
}

pub enum Down {
    Out,
    Err,
    Eof,
}

enum Up {
    Data(Held),
    /// Input that is not kept.
    Hidden(Bytes, Held),
    Eof,
    Signal(Sig),
    Resize(Size),
}

/// One command's bytes.
pub struct Pump {
    live: Arc<Live>,
    passage: Mutex<Option<Passage>>,
    client: ToPeer,
    gauge: Arc<Gauge>,
    bytes_max: Option<u64>,
    returned: AtomicU64,
    /// Follows a terminal; none without one.
    echo: Option<Mutex<Echo>>,
    /// Masks output and standard error; none where everything may be seen.
    masks: Option<[Mutex<Stream>; 2]>,
    scanner: Option<Scanner>,
}

impl Pump {
    /// `scanner`: finds what may not be seen.
    pub fn new(
        passage: Passage,
        client: ToPeer,
        from: &Reader,
        terminal: bool,
        scanner: Option<Scanner>,
    ) -> Self {
        let stream = |scanner: &Scanner| Mutex::new(Stream::new(scanner.clone()));
        Self {
            live: passage.live().clone(),
            bytes_max: passage.owe().bytes_max,
            passage: Mutex::new(Some(passage)),
            client,
            gauge: from.gauge.clone(),
            returned: AtomicU64::new(0),
            echo: terminal.then(Mutex::default),
            masks: scanner.as_ref().map(|scanner| [stream(scanner), stream(scanner)]),
            scanner,
        }
    }

    /// What was told before the first byte, such as the size of a terminal; returns once it may be
    /// passed on.
    pub async fn begin(&self, words: String) -> Result<(), Stopped> {
        let mut release = self.record(|passage| passage.more_beside(words.into()))?;
        poll_fn(|cx| release.poll_released(cx)).await.map(drop)?;
        Ok(())
    }

    /// Carries both ways until something stops it.
    pub async fn run(
        &self,
        from: &mut Reader,
        read: ChannelReadHalf,
        write: &ChannelWriteHalf<TargetMsg>,
    ) -> Stopped {
        tokio::select! {
            down = self.down(read) => down,
            up = self.up(from, write) => up,
            why = self.cut() => Stopped::Cut(why),
        }
    }

    /// Resolves when the bytes must stop, whatever both sides do, with the word for it.
    pub async fn cut(&self) -> &'static str {
        tokio::select! {
            _ = ended(self.live.standing()) => "ended",
            () = self.gauge.flooded() => "flood",
        }
    }

    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    pub fn record<T>(
        &self,
        with: impl FnOnce(&mut Passage) -> Result<T, RecordError>,
    ) -> Result<T, Stopped> {
        match self.passage.lock().as_mut() {
            Some(passage) => Ok(with(passage)?),
            None => Err(Stopped::Cut("ended")),
        }
    }

    async fn down(&self, mut read: ChannelReadHalf) -> Stopped {
        match self.answer(&mut read).await {
            Ok(exit) => Stopped::Exit(exit),
            Err(stopped) => stopped,
        }
    }

    async fn answer(&self, read: &mut ChannelReadHalf) -> Result<Exit, Stopped> {
        let mut waiting = Waiting::<ToClient, Down>::default();
        let (mut exit, mut closed, mut held) = (Exit::Unsaid, false, None);
        while !closed || !waiting.is_empty() {
            let has_room = waiting.has_room();
            tokio::select! {
                biased;
                next = waiting.next(), if !waiting.is_empty() => {
                    let (bytes, kind) = next?;
                    self.deliver(&kind, bytes).await?;
                }
                // A prompt has no end of line, and is waited for.
                () = tokio::time::sleep(PAUSE), if !closed && self.holds() => {
                    self.give_up_rest(&mut waiting)?;
                }
                message = next(read, &mut held), if !closed && has_room => match message {
                    Some(ChannelMsg::Data { data }) => {
                        let data = gather(data, None, read, &mut held);
                        self.returned(&data, Down::Out, &mut waiting)?;
                    }
                    Some(ChannelMsg::ExtendedData { data, ext: STDERR }) => {
                        let data = gather(data, Some(STDERR), read, &mut held);
                        self.returned(&data, Down::Err, &mut waiting)?;
                    }
                    // Nobody could tell what it is.
                    Some(ChannelMsg::ExtendedData { .. }) => return Err(Stopped::Cut("stream")),
                    Some(ChannelMsg::Eof) => {
                        self.give_up_rest(&mut waiting)?;
                        waiting.mark(Down::Eof);
                    }
                    Some(ChannelMsg::ExitStatus { exit_status }) => {
                        exit = Exit::Status(exit_status);
                    }
                    Some(ChannelMsg::ExitSignal { signal_name, core_dumped, error_message, .. }) => {
                        exit = Exit::Signal {
                            name: signal_name,
                            core: core_dumped,
                            message: error_message,
                        };
                    }
                    Some(ChannelMsg::Close) => {
                        self.give_up_rest(&mut waiting)?;
                        closed = true;
                    }
                    Some(_) => {}
                    None => return Err(Stopped::TargetLost),
                },
            }
        }
        Ok(exit)
    }

    /// Masks a piece of output where that is owed, and records it.
    fn returned(
        &self,
        data: &Bytes,
        kind: Down,
        waiting: &mut Waiting<ToClient, Down>,
    ) -> Result<(), Stopped> {
        if let Some(echo) = self.echo.as_ref().filter(|_| matches!(kind, Down::Out)) {
            for line in echo.lock().output(data) {
                // It went on already, and its length is on record; now it may be too.
                self.record(|passage| passage.more(line).map(drop))?;
            }
        }
        let data = match &self.masks {
            None => data.clone(),
            Some([out, err]) => {
                let mut shown = Vec::with_capacity(data.len());
                let stream = if matches!(kind, Down::Out) { out } else { err };
                stream.lock().push(data, &mut shown);
                shown.into()
            }
        };
        self.keep(data, kind, waiting)
    }

    fn keep(
        &self,
        data: Bytes,
        kind: Down,
        waiting: &mut Waiting<ToClient, Down>,
    ) -> Result<(), Stopped> {
        if data.is_empty() {
            return Ok(());
        }
        self.count(data.len())?;
        let release = self.record(|passage| match kind {
            Down::Err => passage.reply_beside(data),
            Down::Out | Down::Eof => passage.reply(data, None),
        })?;
        waiting.push(release, kind);
        Ok(())
    }

    /// Whether a terminal's output is held back that nothing ends.
    fn holds(&self) -> bool {
        self.echo.is_some()
            && self.masks.as_ref().is_some_and(|all| all.iter().any(|one| one.lock().held() > 0))
    }

    /// Gives out what is held back: no more of it will come.
    fn give_up_rest(&self, waiting: &mut Waiting<ToClient, Down>) -> Result<(), Stopped> {
        let (Some(masks), Some(scanner)) = (&self.masks, &self.scanner) else { return Ok(()) };
        for (stream, kind) in masks.iter().zip([Down::Out, Down::Err]) {
            let ended = std::mem::replace(&mut *stream.lock(), Stream::new(scanner.clone()));
            let (mut ended, mut shown) = (ended, Vec::new());
            ended.finish(&mut shown);
            self.keep(shown.into(), kind, waiting)?;
        }
        Ok(())
    }

    pub fn count(&self, bytes: usize) -> Result<(), Stopped> {
        let before = self.returned.fetch_add(bytes as u64, Ordering::Relaxed);
        let all = before.saturating_add(bytes as u64);
        match self.bytes_max {
            Some(max) if all > max => Err(Stopped::Cut("bytes_max")),
            _ => Ok(()),
        }
    }

    /// Sends a piece on. What the client does not take waits here, and the target with it.
    pub async fn deliver(&self, kind: &Down, bytes: Bytes) -> Result<(), Stopped> {
        let half = &self.client.half;
        let sending = async {
            match kind {
                Down::Out => half.data_bytes(bytes).await,
                Down::Err => half.extended_data_bytes(STDERR, bytes).await,
                Down::Eof => self.client.eof().await,
            }
        };
        let mut sending = pin!(sending);
        let at_once = poll_fn(|cx| {
            Poll::Ready(match sending.as_mut().poll(cx) {
                Poll::Ready(sent) => Some(sent),
                Poll::Pending => None,
            })
        });
        let sent = match at_once.await {
            Some(sent) => sent,
            None => {
                // What it waits for comes in behind whatever its client sends.
                let _sending = self.gauge.sending();
                sending.await
            }
        };
        sent.map_err(|_| Stopped::ClientLost)
    }

    async fn up(&self, from: &mut Reader, write: &ChannelWriteHalf<TargetMsg>) -> Stopped {
        match self.input(from, write).await {
            Ok(()) => Stopped::ClientLost,
            Err(stopped) => stopped,
        }
    }

    /// Carries input until the client closes the channel.
    async fn input(
        &self,
        from: &mut Reader,
        write: &ChannelWriteHalf<TargetMsg>,
    ) -> Result<(), Stopped> {
        let mut waiting = Waiting::<ToTarget, Up>::default();
        let (mut held, mut ended) = (None, false);
        loop {
            let has_room = waiting.has_room();
            tokio::select! {
                biased;
                next = waiting.next(), if !waiting.is_empty() => {
                    let (bytes, kind) = next?;
                    forward(write, kind, bytes).await?;
                }
                event = event(from, &mut held), if has_room => match event {
                    None => return Ok(()),
                    Some(FromClient::Data(..)) if ended => {}
                    Some(FromClient::Data(data, mut waits)) => {
                        let data = from.gather(data, &mut waits, &mut held);
                        self.typed(data, waits, &mut waiting)?;
                    }
                    Some(FromClient::Eof) => {
                        ended = true;
                        waiting.mark(Up::Eof);
                    }
                    Some(FromClient::Signal(signal)) => {
                        let words = format!("signal {}\n", plain(&signal)).into();
                        let release = self.record(|passage| passage.more_beside(words))?;
                        waiting.push(release, Up::Signal(signal));
                    }
                    Some(FromClient::Resize(size)) => {
                        let words = format!("size {}x{}\n", size.columns, size.rows).into();
                        let release = self.record(|passage| passage.more_beside(words))?;
                        waiting.push(release, Up::Resize(size));
                    }
                },
            }
        }
    }

    /// Records input. What a terminal does not show is not kept: only how much it was.
    fn typed(
        &self,
        data: Bytes,
        mut waits: Held,
        waiting: &mut Waiting<ToTarget, Up>,
    ) -> Result<(), Stopped> {
        let parts = match &self.echo {
            Some(echo) => echo.lock().input(data),
            None => vec![Part::Shown(data)],
        };
        for part in parts {
            match part {
                Part::Shown(data) => {
                    let waits = waits.split(data.len());
                    let release = self.record(|passage| passage.more(data))?;
                    waiting.push(release, Up::Data(waits));
                }
                Part::Hidden(data) => {
                    let words = format!("hidden {} bytes\n", data.len()).into();
                    let release = self.record(|passage| passage.more_beside(words))?;
                    let waits = waits.split(data.len());
                    waiting.push(release, Up::Hidden(data, waits));
                }
            }
        }
        Ok(())
    }

    /// The last entry of the command, durable before anything that it says is passed on.
    pub async fn finish(&self, status: Status, tag: Option<Arc<str>>) -> Result<(), RecordError> {
        let Some(mut passage) = self.passage.lock().take() else { return Ok(()) };
        let outcome = Outcome { status, tag, rows: 0 };
        let mut release = passage.reply(Bytes::new(), Some(outcome))?;
        poll_fn(|cx| release.poll_released(cx)).await.map(drop)
    }
}

/// The name of a signal, as RFC 4254 section 6.10 has it.
fn plain(signal: &Sig) -> String {
    let named = match signal {
        Sig::Custom(name) => name.clone(),
        other => format!("{other:?}"),
    };
    named.chars().filter(|c| c.is_ascii_graphic()).take(32).collect()
}

async fn forward(
    write: &ChannelWriteHalf<TargetMsg>,
    kind: Up,
    bytes: Bytes,
) -> Result<(), Stopped> {
    let sent = match kind {
        // Held until they are on their way.
        Up::Data(_waits) => write.data_bytes(bytes).await,
        Up::Hidden(hidden, _waits) => write.data_bytes(hidden).await,
        Up::Eof => write.eof().await,
        Up::Signal(signal) => write.signal(signal).await,
        Up::Resize(size) => {
            write.window_change(size.columns, size.rows, size.width, size.height).await
        }
    };
    sent.map_err(|_| Stopped::TargetLost)
}

/// What was looked at already, or what comes next.
async fn event(from: &mut Reader, held: &mut Option<FromClient>) -> Option<FromClient> {
    match held.take() {
        Some(event) => Some(event),
        None => from.next().await,
    }
}

async fn next(read: &mut ChannelReadHalf, held: &mut Option<ChannelMsg>) -> Option<ChannelMsg> {
    match held.take() {
        Some(message) => Some(message),
        None => read.wait().await,
    }
}

/// What is there already, without waiting.
fn ready(read: &mut ChannelReadHalf) -> Option<ChannelMsg> {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match pin!(read.wait()).poll(&mut cx) {
        Poll::Ready(message) => message,
        Poll::Pending => None,
    }
}

/// Takes what follows of the same stream, up to a piece.
fn gather(
    first: Bytes,
    stream: Option<u32>,
    read: &mut ChannelReadHalf,
    held: &mut Option<ChannelMsg>,
) -> Bytes {
    let mut all = BytesMut::new();
    while held.is_none() && all.len().max(first.len()) < PIECE_BYTES {
        let same = match ready(read) {
            None => break,
            Some(ChannelMsg::Data { data }) if stream.is_none() => data,
            Some(ChannelMsg::ExtendedData { data, ext }) if stream == Some(ext) => data,
            Some(other) => {
                *held = Some(other);
                break;
            }
        };
        if all.is_empty() {
            all.extend_from_slice(&first);
        }
        all.extend_from_slice(&same);
    }
    if all.is_empty() { first } else { all.freeze() }
}
