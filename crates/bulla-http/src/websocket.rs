//! WebSocket: each message of a client is a command of its own; each message of the target is
//! evidence before it goes on.

use std::{io, sync::Arc, time::Duration};

use aws_lc_rs::{
    digest::{SHA1_FOR_LEGACY_USE_ONLY, digest},
    rand::{SecureRandom, SystemRandom},
};
use base64::Engine as _;
use bulla_core::{Command, Draft, Outcome, RecordError, Status};
use bulla_host::Stream;
use bulla_mask::Counts;
use bytes::{Bytes, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::Mutex,
};

use crate::{
    answer::{Answer, Outgoing, Reply},
    exchange::{Exchange, Failed},
    flow::{Passing, ended},
    head::Head,
    line::Got,
    near::{self, Rest},
    needles::Needles,
    reading,
    target::TargetError,
    veil::{self, Plan as Hiding},
    ws::{self, CLOSE_AWAY, CLOSE_INTERNAL, CLOSE_POLICY, Event, Reader, close, frame},
};

/// How long the last word to a side may take.
const PARTING: Duration = Duration::from_secs(2);
/// RFC 6455 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What goes to one side.
struct Half<T> {
    io: WriteHalf<T>,
    /// A frame was begun and not ended: what followed would be taken for its rest.
    cut: bool,
}

impl<T: AsyncWrite> Half<T> {
    fn new(io: WriteHalf<T>) -> Write<T> {
        Arc::new(Mutex::new(Self { io, cut: false }))
    }
    async fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        self.cut = true;
        self.io.write_all(frame).await?;
        self.io.flush().await?;
        self.cut = false;
        Ok(())
    }
}

type Write<T> = Arc<Mutex<Half<T>>>;
type Client = Box<dyn Stream>;
type Target = TokioIo<Upgraded>;

/// Why one direction is over: a close code for both sides, words, and how the command ended.
struct Over {
    code: u16,
    words: String,
    status: Status,
}

fn over(code: u16, words: impl Into<String>, status: Status) -> Over {
    Over { code, words: words.into(), status }
}

/// What the target must have answered to this key.
fn accepted(head: &Head) -> Option<String> {
    let key = head.header("sec-websocket-key")?;
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
    Some(base64::engine::general_purpose::STANDARD.encode(hash.as_ref()))
}

/// What was asked for, and is open.
pub struct Opened {
    pub head: Box<Head>,
    pub command: Command,
    /// What no message of the target may hold.
    pub never: Needles,
}

/// The target agreed: tells the client, and goes on in a task of its own.
pub async fn open(
    exchange: Exchange,
    opened: Opened,
    passing: Arc<Passing>,
    got: Got,
    client: near::Upgraded,
) -> Reply {
    let agreed = accepted(&opened.head).filter(|accepted| {
        got.headers.only("sec-websocket-accept") == Some(accepted)
            && got.headers.get("sec-websocket-extensions").is_none()
    });
    let target = got.upgrade;
    let Some(agreed) = agreed else {
        let fault = TargetError::Fault("the handshake was not what was asked for");
        return exchange.failed(&passing, &Failed::Target(fault)).await;
    };
    let Some(target) = target else {
        let failed = Failed::Broken("the target's connection is gone");
        return exchange.failed(&passing, &failed).await;
    };
    let now = exchange.seat.live.clock().now();
    let read = Answer::read(got.status, got.headers, true, now);
    let mut answer = match read {
        Ok(answer) if !opened.never.are_in(&answer.head) => answer,
        told => {
            let why = told.err().map_or("the answer holds the target's own secret", |f| f.why);
            let failed = Failed::Target(TargetError::Fault(why));
            return exchange.failed(&passing, &failed).await;
        }
    };
    if let Some(hiding) = exchange.hiding(&opened.head).filter(Hiding::hides) {
        // It is what was awaited, and no value of the target's.
        answer.hide(&hiding, ("sec-websocket-accept", &agreed));
        passing.masked(&answer.masked);
    }
    let recorded = match passing.reply(answer.head.clone(), None) {
        Ok(mut release) => std::future::poll_fn(|cx| release.poll_released(cx)).await.map(drop),
        Err(error) => Err(error),
    };
    if recorded.is_err() {
        let failed = Failed::Broken("the record cannot be written");
        return exchange.failed(&passing, &failed).await;
    }
    tokio::spawn(async move {
        let (client, target) = tokio::join!(client, target);
        match (client, target) {
            (Ok(client), Ok(target)) => relay(exchange, opened, &passing, client, target).await,
            (Err(_), _) => passing.finish(Status::ClientLost),
            (_, Err(error)) => {
                tracing::debug!(%error, "an upgrade failed");
                passing.finish(Status::TargetLost);
            }
        }
    });
    let mut reply = answer.reply(false, Outgoing::Whole(None));
    reply.headers.set("connection", "upgrade");
    reply.headers.set("upgrade", "websocket");
    reply
}

async fn relay(
    exchange: Exchange,
    opened: Opened,
    passing: &Arc<Passing>,
    client: Rest,
    target: Upgraded,
) {
    let Rest { ahead, io } = client;
    let (client_read, client_write) = tokio::io::split(io);
    let (target_read, target_write) = tokio::io::split(TokioIo::new(target));
    let client_write: Write<Client> = Half::new(client_write);
    let target_write: Write<Target> = Half::new(target_write);
    let mut counts = Counts::new();
    let from = (ahead, client_read);
    let up = up(&exchange, &opened, from, &client_write, &target_write);
    let mut down = Down { exchange: &exchange, opened: &opened, passing, counts: &mut counts };
    let down = down.run(target_read, &client_write, &target_write);
    let ended = tokio::select! {
        over = up => over,
        over = down => over,
        why = ended(passing.live()) => {
            over(CLOSE_AWAY, "the session was ended", Status::Cut(why.into()))
        }
    };
    passing.masked(&counts);
    passing.end(Outcome { status: ended.status, tag: Some("101".into()), rows: 0 });
    let words = close(ended.code, &ended.words);
    let own = passing.live().aside(frame(8, &words, None));
    let tells_client = async {
        if let Ok(mut release) = own
            && std::future::poll_fn(|cx| release.poll_released(cx)).await.is_ok()
        {
            part(&client_write, &frame(8, &words, None)).await;
        }
    };
    let tells_target = async {
        if let Ok(key) = mask() {
            part(&target_write, &frame(8, &close(ended.code, ""), Some(key))).await;
        }
    };
    tokio::join!(tells_client, tells_target);
}

/// The last word to a side. It may be gone already, or take nothing; there is nobody else to tell.
async fn part<T: AsyncWrite>(to: &Write<T>, bytes: &[u8]) {
    let parting = async {
        let mut to = to.lock().await;
        if !to.cut {
            to.write(bytes).await?;
        }
        to.io.shutdown().await
    };
    let _ = tokio::time::timeout(PARTING, parting).await;
}

fn mask() -> Result<[u8; 4], Over> {
    let mut key = [0; 4];
    let filled = SystemRandom::new().fill(&mut key);
    filled.map_err(|_| over(CLOSE_INTERNAL, "no randomness", Status::Cut("internal".into())))?;
    Ok(key)
}

/// `idle`: how long it may take.
async fn write<T: AsyncWrite>(
    to: &Write<T>,
    bytes: &[u8],
    lost: Status,
    idle: Duration,
) -> Result<(), Over> {
    let written = async { to.lock().await.write(bytes).await };
    match tokio::time::timeout(idle, written).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(over(CLOSE_AWAY, "the other side is gone", lost)),
        Err(_) => {
            let words = "the other side took nothing for too long";
            Err(over(CLOSE_AWAY, words, Status::Cut("idle".into())))
        }
    }
}

/// From the client to the target: every message is judged.
async fn up(
    exchange: &Exchange,
    opened: &Opened,
    (ahead, mut from): (BytesMut, ReadHalf<Client>),
    client: &Write<Client>,
    target: &Write<Target>,
) -> Over {
    let mut reader = Reader::new(ws::From::Client);
    *reader.buffer() = ahead;
    loop {
        let event = match reader.next() {
            Ok(Some(event)) => event,
            Ok(None) => {
                let read =
                    tokio::time::timeout(exchange.seat.api.idle, from.read_buf(reader.buffer()));
                match read.await {
                    Ok(Ok(1..)) => continue,
                    Ok(_) => return over(CLOSE_AWAY, "the client is gone", Status::ClientLost),
                    Err(_) => {
                        let words = "nothing came for too long";
                        return over(CLOSE_AWAY, words, Status::Cut("idle".into()));
                    }
                }
            }
            Err(violation) => {
                let words = violation.to_string();
                return over(violation.0, words, Status::Cut("violation".into()));
            }
        };
        let done = match event {
            Event::Text(text) => message(exchange, opened, 1, text, target).await,
            Event::Binary(bytes) => message(exchange, opened, 2, bytes, target).await,
            Event::Ping(payload) => {
                let idle = exchange.seat.api.idle;
                write(client, &frame(10, &payload, None), Status::ClientLost, idle).await
            }
            Event::Pong => Ok(()),
            Event::Close(said) => {
                let code = said.map_or(1000, |(code, _)| code);
                Err(over(code, "", Status::Ok))
            }
        };
        if let Err(over) = done {
            return over;
        }
    }
}

async fn message(
    exchange: &Exchange,
    opened: &Opened,
    opcode: u8,
    payload: Bytes,
    target: &Write<Target>,
) -> Result<(), Over> {
    let live = &exchange.seat.live;
    let number = live.number();
    let text = if opcode == 1 { std::str::from_utf8(&payload).ok() } else { None };
    let internal = || over(CLOSE_INTERNAL, "internal error", Status::Cut("internal".into()));
    let command = reading::message(&opened.head, &opened.command, text, payload.len());
    let command = command.map_err(|_| internal())?;
    // Recorded as an unmasked frame: the mask is chance, and says nothing.
    let draft = Draft::new(frame(opcode, &payload, None), command);
    let (cleared, passage) = live.clear(number, draft, &mut |_| {}).await.map_err(|refusal| {
        let words = match refusal.event {
            Some(event) => format!("{}; event {event}", refusal.message),
            None => refusal.message.to_string(),
        };
        over(CLOSE_POLICY, words, Status::Cut("refused".into()))
    })?;
    let sent = cleared.spend();
    let head_len = sent.len() - payload.len();
    let key = mask()?;
    let masked = frame(opcode, &sent[head_len..], Some(key));
    let wrote = write(target, &masked, Status::TargetLost, exchange.seat.api.idle).await;
    let status = if wrote.is_ok() { Status::Ok } else { Status::TargetLost };
    let finished = passage.finish(Outcome { status, tag: None, rows: 0 });
    finished
        .map_err(|error| over(CLOSE_INTERNAL, error.public(), Status::Cut("recorder".into())))?;
    wrote
}

/// From the target to the client: every message is masked, and evidence before it goes on.
struct Down<'a> {
    exchange: &'a Exchange,
    opened: &'a Opened,
    passing: &'a Arc<Passing>,
    counts: &'a mut Counts,
}

impl Down<'_> {
    async fn run(
        &mut self,
        mut from: ReadHalf<Target>,
        client: &Write<Client>,
        target: &Write<Target>,
    ) -> Over {
        let mut reader = Reader::new(ws::From::Server);
        loop {
            let event = match reader.next() {
                Ok(Some(event)) => event,
                Ok(None) => match from.read_buf(reader.buffer()).await {
                    Ok(1..) => continue,
                    _ => return over(CLOSE_AWAY, "the target is gone", Status::TargetLost),
                },
                Err(violation) => {
                    tracing::warn!(%violation, "a target broke the protocol");
                    let words = "the target broke the protocol";
                    return over(CLOSE_INTERNAL, words, Status::Cut("target_violation".into()));
                }
            };
            if let Err(over) = self.event(event, client, target).await {
                return over;
            }
        }
    }

    async fn event(
        &mut self,
        event: Event,
        client: &Write<Client>,
        target: &Write<Target>,
    ) -> Result<(), Over> {
        let idle = self.exchange.seat.api.idle;
        let (opcode, payload) = match event {
            Event::Text(text) => (1, text),
            Event::Binary(bytes) => (2, bytes),
            Event::Pong => return Ok(()),
            Event::Ping(payload) => {
                let pong = frame(10, &payload, Some(mask()?));
                return write(target, &pong, Status::TargetLost, idle).await;
            }
            Event::Close(said) => {
                let (code, mut words) = said.unwrap_or((1000, String::new()));
                if self.show(1, words.clone().into()).is_err() {
                    words.clear();
                }
                return Err(over(code, words, Status::Ok));
            }
        };
        let payload = self.show(opcode, payload)?;
        let recorded = |error: RecordError| {
            over(CLOSE_INTERNAL, error.public(), Status::Cut("recorder".into()))
        };
        let frame = frame(opcode, &payload, None);
        let mut release = self.passing.reply(frame, None).map_err(recorded)?;
        let released = std::future::poll_fn(|cx| release.poll_released(cx)).await;
        let released = released.map_err(recorded)?.spend();
        write(client, &released, Status::ClientLost, idle).await
    }

    /// What of a message the client may see, by the policies of the moment.
    fn show(&mut self, opcode: u8, payload: Bytes) -> Result<Bytes, Over> {
        if self.opened.never.are_in(&payload) {
            let words = "the target told its own secret";
            return Err(over(CLOSE_INTERNAL, words, Status::Cut("secret".into())));
        }
        let hiding = self.exchange.hiding(&self.opened.head).filter(|hiding| hiding.hides());
        let Some(hiding) = hiding else { return Ok(payload) };
        let text = std::str::from_utf8(&payload).ok().filter(|_| opcode == 1);
        let shown = text.and_then(|text| veil::message(&hiding.hidden, text, self.counts));
        shown.ok_or_else(|| {
            let words = "a message cannot be masked, and some of it may not be seen";
            over(CLOSE_POLICY, words, Status::Cut("unmaskable".into()))
        })
    }
}
