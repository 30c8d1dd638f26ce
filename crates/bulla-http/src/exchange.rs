//! One request: read, judged, recorded, sent, answered.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use bulla_core::{Canonical, Draft, Refusal, RefusalKind, Status};
use bulla_gate::{Cleared, Holding};
use bulla_host::{Live, Passage};
use bytes::Bytes;
use http::Method;
use http_body_util::{Either, Full};
use hyper::body::Body as _;
use parking_lot::Mutex;
use serde_json::json;

use crate::{
    answer::{Answer, Outgoing, Own, Reply},
    api::{Api, LoginKind},
    coding,
    flow::{self, Collected, Flow, Framing, Passing, Terms, collect, drain, ended},
    head::Head,
    hold::{self, Found, Hold, Judging},
    line::{Got, OutBody, Source},
    near::Upgraded,
    needles::Needles,
    overrides,
    reading::{self, Need},
    serve::{Conn, Seat},
    target::{Patience, TargetError},
    veil::{self, Lens, Plan as Hiding, VeilError},
    watch::Pace,
    websocket,
    wire::{Asked, BODY_OF_GET, Fault, bad},
};

/// Bodies of up to this length are recorded with their head, in one entry.
const SMALL_BYTES_MAX: u64 = 64 << 10;
/// Longest method and path that a refusal shows.
const LINE_CHARS_MAX: usize = 200;
/// Between two pieces of a body that is collected.
const COLLECT_IDLE: Duration = Duration::from_secs(30);

/// What goes out as a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    Nothing,
    /// The end of the canonical bytes.
    Whole(usize),
    /// What the client still sends. It is not held here, so that a refusal does not drop it.
    Stream,
}

/// A request in its one form: what is judged, recorded and sent.
pub struct Outbound {
    pub head: Box<Head>,
    canonical: Bytes,
    pub plan: Plan,
    /// What of the answer may not be seen.
    pub hiding: Option<Hiding>,
}

impl Canonical for Outbound {
    fn canonical(&self) -> Bytes {
        self.canonical.clone()
    }
}

/// One request on its way.
pub struct Exchange {
    pub conn: Arc<Conn>,
    pub seat: Arc<Seat>,
    pub grpc: bool,
    /// It is answered with a head alone.
    pub bare: bool,
    /// The client is answered with a message of HTTP/1.1 as it is recorded.
    pub message: bool,
}

fn head_bytes(head: &Head, chunked: bool) -> Vec<u8> {
    let mut text = head.canonical();
    if chunked {
        text.truncate(text.len() - 2);
        text.push_str("transfer-encoding: chunked\r\n\r\n");
    }
    text.into_bytes()
}

impl Exchange {
    fn api(&self) -> &Arc<Api> {
        &self.seat.api
    }
    fn live(&self) -> &Arc<Live> {
        &self.seat.live
    }

    pub async fn run(
        self,
        mut head: Box<Head>,
        body: Option<Source>,
        request: Option<Upgraded>,
    ) -> Reply {
        if head.upgrade {
            head.headers.retain(|name, _| name != "sec-websocket-extensions");
        }
        let body = body.filter(|body| !body.is_end_stream());
        let present = body.is_some();
        if present && matches!(head.method, Method::GET | Method::HEAD) {
            return self.uncollected(&head, Collected::Needless).await;
        }
        let small = head.length.is_some_and(|length| length <= SMALL_BYTES_MAX);
        let need = reading::need(self.api(), &head, present);
        let whole = need == Need::Whole || (small && !self.grpc && !head.expects_continue);
        let max = if need == Need::Whole { self.api().judged_bytes_max } else { 64 << 10 };
        let (plan, bytes, stream) = match body {
            None => (Plan::Nothing, None, None),
            Some(body) if whole => match collect(body, max, COLLECT_IDLE).await {
                Ok(bytes) => (Plan::Whole(bytes.len()), Some(bytes), None),
                Err(why) => return self.uncollected(&head, why).await,
            },
            Some(body) => (Plan::Stream, None, Some(body)),
        };
        let hiding = self.hiding(&head);
        self.fit(&mut head, hiding.as_ref());
        let outbound = self.outbound(head, plan, bytes.as_ref(), hiding);
        self.judge(outbound, bytes, stream, request).await
    }

    /// What of the answer the principal may not see, by the policies of the moment.
    pub fn hiding(&self, head: &Head) -> Option<Hiding> {
        let live = self.live();
        self.api().masks.plan(&head.method, &head.segments, &|class| live.reveals(class))
    }

    /// Asks for no answer that nobody here could look into.
    fn fit(&self, head: &mut Head, hiding: Option<&Hiding>) {
        let hides = hiding.is_some_and(Hiding::hides);
        let secret = self.api().login != LoginKind::None;
        if hides {
            head.headers.retain(|name, _| !veil::OF_PARTS.contains(&name));
            head.headers.push("accept-encoding", "identity");
        } else if secret {
            // Messages of gRPC that are compressed could hold it unseen.
            head.headers.retain(|name, _| name != "grpc-accept-encoding");
            let name = "accept-encoding";
            let all: Vec<_> = head.headers.all(name).map(coding::acceptable).collect();
            if !all.is_empty() {
                head.headers.set(name, &all.join(", "));
            }
        }
    }

    fn outbound(
        &self,
        mut head: Box<Head>,
        plan: Plan,
        body: Option<&Bytes>,
        hiding: Option<Hiding>,
    ) -> Outbound {
        if let Some(body) = body {
            head.length = Some(body.len() as u64);
        }
        let chunked = plan == Plan::Stream && head.length.is_none();
        let mut canonical = head_bytes(&head, chunked);
        canonical.extend_from_slice(body.map(|body| &body[..]).unwrap_or_default());
        Outbound { head, canonical: canonical.into(), plan, hiding }
    }

    async fn uncollected(self, head: &Head, why: Collected) -> Reply {
        let bytes = Bytes::from(head.canonical());
        let (kind, fault) = match (why, self.conn.fault()) {
            (_, Some(fault)) => (RefusalKind::Unreadable, fault),
            (Collected::TooLong, _) => {
                let why = "the body is longer than policy looks into (`judged_body`)";
                (RefusalKind::TooLarge, Fault { status: 413, why })
            }
            (Collected::Needless, _) => (RefusalKind::Unreadable, BODY_OF_GET),
            (Collected::Slow, _) => {
                let why = "the body took too long to arrive";
                (RefusalKind::Unreadable, Fault { status: 408, why })
            }
            (Collected::Broken, _) => (RefusalKind::Unreadable, bad("the body was cut short")),
        };
        let number = self.live().number();
        let refusal = Refusal::plain(kind, format!("refused: {}", fault.why), fault.next());
        let refusal = self.live().refuse(number, &bytes, refusal);
        self.say(Own::refusal(&refusal, Some(fault.status)).closing()).await
    }

    /// Words of the gateway within a session: evidence first, like every other byte.
    pub async fn say(&self, own: Own) -> Reply {
        let mut own = self.shape(own);
        let now = self.live().clock().now();
        let released = match self.live().aside(own.canonical(now)) {
            Ok(mut release) => poll_fn(|cx| release.poll_released(cx)).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = released {
            tracing::error!(%error, "record an answer of the gateway");
            // What the record cannot hold is not said; that it cannot is.
            let words = format!("refused: {}, and nothing passes unrecorded", error.public());
            let hint = "nothing was sent; tell the operators of the gateway";
            let own = Own::problem(503, RefusalKind::Recorder.as_str(), &words, hint).closing();
            return self.shape(own).reply(now);
        }
        own.reply(now)
    }

    /// gRPC has its own form for the same words, and `HEAD` has none of them.
    fn shape(&self, own: Own) -> Own {
        let own = if self.grpc { own.for_grpc() } else { own };
        if self.bare { own.bare() } else { own }
    }

    async fn refused(&self, number: u64, bytes: &Bytes, fault: Fault) -> Reply {
        self.refused_with(number, bytes, fault, fault.next()).await
    }

    async fn refused_with(&self, number: u64, bytes: &Bytes, fault: Fault, next: &str) -> Reply {
        let kind = if fault.status == 403 { RefusalKind::Denied } else { RefusalKind::Unreadable };
        let message = match fault.status {
            403 => format!("refused: `{}`: {}", line_of(bytes), fault.why),
            _ => format!("refused: {}", fault.why),
        };
        let refusal = Refusal::plain(kind, message, next);
        let refusal = self.live().refuse(number, bytes, refusal);
        self.say(Own::refusal(&refusal, Some(fault.status))).await
    }

    async fn judge(
        self,
        outbound: Outbound,
        body: Option<Bytes>,
        stream: Option<Source>,
        request: Option<Upgraded>,
    ) -> Reply {
        let canonical = outbound.canonical();
        let asked = (self.live().clone(), self.api().resource.clone(), canonical.clone());
        let length = body.as_ref().map_or(0, Bytes::len);
        // Asked for where something waits, or is about to.
        let key = move || {
            let (live, resource, bytes) = asked;
            let line = memchr::memchr(b'\r', &bytes).unwrap_or(bytes.len());
            let body = bytes.len().saturating_sub(length);
            let parts = [bytes.get(..line), bytes.get(body..)].map(Option::unwrap_or_default);
            hold::key(&live.session().principal().id, &resource, &parts)
        };
        let streams = outbound.plan == Plan::Stream || outbound.head.upgrade;
        let shown = !streams && (length == 0 || !reading::is_coded(&outbound.head));
        // Who waits for leave to send a body has sent none.
        let unwanted = !outbound.head.expects_continue;
        let respond_async = outbound.head.respond_async;
        if !streams && !self.conn.http.holds.is_empty() {
            match self.conn.http.holds.find(&key.clone()(), self.live().bundle()) {
                Found::Nothing => {}
                Found::Waiting(hold) => return self.held(&hold, respond_async).await,
                Found::Verdict(verdict) => {
                    return match *verdict {
                        Ok((cleared, passage)) => self.forward(cleared, passage, None, None).await,
                        Err(refusal) => self.say(Own::refusal(&refusal, None)).await,
                    };
                }
            }
        }
        let number = self.live().number();
        let read = reading::request(
            self.api(),
            &outbound.head,
            body.as_deref(),
            self.conn.http.descriptor.facts,
        );
        let read = read.and_then(|mut command| {
            if let Some(hiding) = &outbound.hiding {
                let (head, body) = (&outbound.head, body.as_deref());
                reading::complete(self.api(), head, body, hiding, &mut command)?;
            }
            Ok(command)
        });
        let command = match read {
            Ok(command) => command,
            Err(fault) => {
                shed(stream, unwanted).await;
                return self.refused(number, &canonical, fault).await;
            }
        };
        let path = command.touches.seen().first().map(|touch| touch.path.clone());
        if outbound.head.upgrade && !path.is_some_and(|path| self.api().speaks_websocket(&path)) {
            let why = "WebSocket is not spoken here; `websocket` of the resource would allow it";
            let next = "ask the operators of the gateway to name the route there";
            return self.refused_with(number, &canonical, bad(why), next).await;
        }
        let opened = outbound.head.upgrade.then(|| command.clone());
        let told: Arc<Mutex<Option<Holding>>> = Arc::default();
        let (live, slot) = (self.live().clone(), told.clone());
        let draft = Draft::new(outbound, command);
        let mut judging: Judging = Box::pin(async move {
            let mut tell = |holding: Holding| *slot.lock() = Some(holding);
            live.clear(number, draft, &mut tell).await
        });
        let verdict = poll_fn(|cx| match judging.as_mut().poll(cx) {
            Poll::Ready(verdict) => Poll::Ready(Some(verdict)),
            Poll::Pending if told.lock().is_some() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        match verdict.await {
            Some(Ok((cleared, passage))) => {
                let upgrade = opened.zip(request);
                self.forward(cleared, passage, stream, upgrade).await
            }
            Some(Err(refusal)) => {
                shed(stream, unwanted).await;
                self.say(Own::refusal(&refusal, None)).await
            }
            None => {
                let Some(holding) = told.lock().take().filter(|_| shown) else {
                    // Nobody can approve a body that nobody has seen, or can read.
                    drop(judging);
                    shed(stream, unwanted).await;
                    return self.unseen(number, &canonical).await;
                };
                let live = self.live().clone();
                let holds = &self.conn.http.holds;
                let principal = live.session().principal().id.clone();
                let bundle = move || live.bundle();
                let parked = holds.park(key(), principal, holding, judging, self.live(), bundle);
                match parked {
                    Some(hold) => self.held(&hold, respond_async).await,
                    None => self.unseen(number, &canonical).await,
                }
            }
        }
    }

    async fn unseen(&self, number: u64, bytes: &Bytes) -> Reply {
        let message = "refused: it needs an approval, and cannot wait for one as it is";
        let hint = "send the body uncompressed, with a `content-length` of up to 65536, or ask for a \
                    permit";
        let refusal = Refusal::plain(RefusalKind::HoldUnavailable, message, hint);
        let refusal = self.live().refuse(number, bytes, refusal);
        self.say(Own::refusal(&refusal, None).closing()).await
    }

    /// It waits. Only who asked for it gets a 202, which anybody else would take for success.
    async fn held(&self, hold: &Hold, respond_async: bool) -> Reply {
        let groups = hold.terms.groups.join("`, `");
        let message = format!("{} waits for approval {} by `{groups}`", hold.what, hold.ask);
        let hint = format!(
            "repeat the very same request once it is approved; who approves runs: bulla approvals \
             show {}",
            hold.ask
        );
        let place = format!("/.well-known/bulla/approvals/{}", hold.ask);
        let status = if respond_async { 202 } else { 403 };
        let mut own = Own::problem(status, "approval-required", &message, &hint)
            .member("approval", json!(&*hold.ask))
            .member("policies", hold.policies.iter().map(|id| &**id).collect())
            .member("session", hold.session.to_string().into())
            .member("approval_url", json!(place))
            .with("retry-after", "10");
        if respond_async {
            own = own.with("location", &place).with("preference-applied", "respond-async");
        }
        self.say(own).await
    }

    /// Leave was given: spends it, and answers with what comes back.
    async fn forward(
        self,
        cleared: Cleared<Outbound>,
        passage: Passage,
        stream: Option<Source>,
        upgrade: Option<(bulla_core::Command, Upgraded)>,
    ) -> Reply {
        let passing = Passing::new(passage);
        // Whatever ends this future early, such as a client that leaves, ends the command.
        let left = Left(Some(passing.clone()));
        let Outbound { head, canonical, plan, hiding } = cleared.spend();
        let length = if let Plan::Whole(length) = plan { length } else { 0 };
        let mut finished = None;
        let body: OutBody = match (plan, stream) {
            (Plan::Nothing, _) => Either::Left(Full::default()),
            (Plan::Whole(_), _) => {
                Either::Left(Full::new(canonical.slice(canonical.len() - length..)))
            }
            (Plan::Stream, None) => {
                left.keep();
                return self.failed(&passing, &Failed::Broken("the body is gone")).await;
            }
            (Plan::Stream, Some(source)) => {
                let Ok(watch) = overrides::of(&head) else {
                    // Its reading has refused it already.
                    left.keep();
                    return self.failed(&passing, &Failed::Broken("the body is unreadable")).await;
                };
                let terms = Terms {
                    framing: head.length.map_or(Framing::Chunked, Framing::Length),
                    head: Bytes::new(),
                    bytes_max: self.api().body_bytes_max,
                    idle: self.api().idle,
                    outcome: None,
                    trailers: false,
                    never: Needles::default(),
                    promised: None,
                    lens: Lens::Nothing,
                    watch,
                    message: false,
                };
                let (done, told) = tokio::sync::oneshot::channel();
                let pace = Arc::new(Pace::default());
                finished = Some((told, pace.clone()));
                Either::Right(Flow::new(source, passing.clone(), terms).tell(done, pace))
            }
        };
        let asked = match (head.upgrade, &head.method) {
            (true, _) => Asked::Upgrade,
            (_, &Method::HEAD) => Asked::Head,
            _ => Asked::Other,
        };
        let whole = matches!(body, Either::Left(_));
        let own = canonical.slice(canonical.len() - length..);
        let own = whole.then_some(&own[..]);
        let answered = self.send(&head, body, own, asked, finished, &passing).await;
        match answered {
            Ok((got, never)) => {
                let upgraded = got.status == 101;
                if let (true, Some((opened, client))) = (upgraded, upgrade) {
                    left.keep();
                    let opened = websocket::Opened { head, command: opened, never };
                    return websocket::open(self, opened, passing, got, client).await;
                }
                let hiding = hiding.as_ref();
                let answer = self.answer(got, never, &head, hiding, &passing).await;
                left.keep();
                match answer {
                    Ok(response) => response,
                    Err(error) => self.failed(&passing, &error).await,
                }
            }
            Err(error) => {
                left.keep();
                self.failed(&passing, &error).await
            }
        }
    }

    async fn send(
        &self,
        head: &Head,
        body: OutBody,
        whole: Option<&[u8]>,
        asked: Asked,
        finished: Option<(tokio::sync::oneshot::Receiver<()>, Arc<Pace>)>,
        passing: &Arc<Passing>,
    ) -> Result<(Got, Needles), Failed> {
        let credential = self.seat.pool.credential(head, whole, self.live().clock().now()).await?;
        let never = credential.as_ref().map(|own| own.never.clone()).unwrap_or_default();
        let patience = Patience { limit: self.api().first_byte, finished };
        let pool = &self.seat.pool;
        let sending = pool.send(head, credential.as_ref(), body, asked, patience, self.grpc);
        tokio::select! {
            biased;
            sent = sending => match sent {
                Ok(got) => Ok((got, never)),
                Err(TargetError::Late) => Err(Failed::Late),
                Err(error) => Err(error.into()),
            },
            why = ended(passing.live()) => Err(Failed::Ended(why)),
        }
    }

    async fn answer(
        &self,
        got: Got,
        never: Needles,
        head: &Head,
        hiding: Option<&Hiding>,
        passing: &Arc<Passing>,
    ) -> Result<Reply, Failed> {
        let Got { status, headers, source, .. } = got;
        if status == http::StatusCode::SWITCHING_PROTOCOLS {
            return Err(TargetError::Fault("a change of protocol that nobody asked for").into());
        }
        if status == http::StatusCode::UNAUTHORIZED && !never.is_empty() {
            self.seat.pool.spoiled();
        }
        let asked_head = head.method == Method::HEAD;
        let now = self.live().clock().now();
        let mut answer = Answer::read(status, headers, asked_head, now)
            .map_err(|fault| TargetError::Fault(fault.why))?;
        if never.are_in(&answer.head) {
            return Err(TargetError::Fault("the answer holds the target's own secret").into());
        }
        let bare = answer.is_bare(asked_head) || hyper::body::Body::is_end_stream(&source);
        let lens = answer.lens(hiding, bare, &never).map_err(Failed::Withheld)?;
        passing.masked(&answer.masked);
        let bytes_max = passing.bytes_max();
        if let (Some(max), Framing::Length(length)) = (bytes_max, answer.framing)
            && length > max
        {
            return Err(Failed::TooMuch);
        }
        let terms = Terms {
            framing: answer.framing,
            head: answer.head.clone(),
            bytes_max,
            idle: self.api().idle,
            outcome: Some(answer.outcome()),
            trailers: !matches!(lens, Lens::Veil(_)),
            never,
            promised: answer.promised.filter(|_| !bare),
            lens,
            watch: None,
            message: self.message,
        };
        let mut flow = Flow::new(source, passing.clone(), terms);
        // One task serves a connection of HTTP/1.1, and knows what it does.
        if self.conn.two {
            flow = flow.watched(self.conn.watch.stream(self.live().standing()));
        }
        let first = flow.begin().await.map_err(|broken| {
            VeilError::named(broken.0).map_or(Failed::Broken(broken.0), Failed::Withheld)
        })?;
        let body = if hyper::body::Body::is_end_stream(&flow) {
            Outgoing::Whole(first.filter(|bytes| !bytes.is_empty()))
        } else {
            Outgoing::Stream { first, flow: Box::new(flow) }
        };
        Ok(answer.reply(self.message, body))
    }

    /// No answer, or none that can go on.
    pub async fn failed(&self, passing: &Arc<Passing>, failed: &Failed) -> Reply {
        // What the client did wrong while its body was on the way is told as such.
        if let Some(fault) = self.conn.fault() {
            passing.finish(Status::Cut("violation".into()));
            let message = format!("refused: {}", fault.why);
            let own = Own::problem(fault.status, "unreadable", &message, fault.next());
            return self.say(own.closing()).await;
        }
        let name = &self.api().resource;
        let (status, word, message, next) = told(name, failed, passing.why());
        let ended = match failed {
            Failed::TooMuch => Status::Cut("bytes_max".into()),
            Failed::Ended(why) => Status::Cut((*why).into()),
            Failed::Late => Status::Cut("first_byte".into()),
            Failed::Withheld(VeilError::Secret) => Status::Cut("secret".into()),
            Failed::Withheld(_) => Status::Cut("unmaskable".into()),
            Failed::Target(_) | Failed::Broken(_) => Status::TargetLost,
        };
        tracing::warn!(resource = %name, why = %failed, "target");
        passing.finish(ended);
        let session = self.live().session().id().to_string();
        let own = Own::problem(status, word, &message, next).member("session", session.into());
        self.say(own.closing()).await
    }
}

/// What a client is told of an answer that does not come: status, word, what happened, what next.
/// `why`: what ended the way of the request.
fn told(
    name: &str,
    failed: &Failed,
    why: Option<&'static str>,
) -> (u16, &'static str, String, &'static str) {
    const LATER: &str = "try again later";
    const OPERATORS: &str = "tell the operators of the gateway: its log says why";
    const OWNER: &str = "tell the owner of the API: the same request would end the same way";
    const UNSURE: &str = "find out whether it was carried out before you send it again";
    match (failed, why) {
        (_, Some("the body exceeds its limit")) => {
            let words = "the body is longer than this API takes (`body_max`)".to_owned();
            (413, "too_large", words, "send a shorter body")
        }
        (_, Some(why)) if let Some(fault) = overrides::fault(why) => {
            (fault.status, "unreadable", format!("refused: {why}"), fault.next())
        }
        (Failed::Withheld(VeilError::Secret) | Failed::Broken(flow::SECRET), _) => {
            let words = format!(
                "`{name}` told its own secret: its answer held the credential that the gateway \
                 logs in with, and is withheld"
            );
            (502, "target_violation", words, OWNER)
        }
        (Failed::Withheld(error), _) => (403, "unmaskable", withheld(*error), OWNER),
        (Failed::TooMuch, _) => {
            let words = "the answer exceeds what policy allows (`bytes_max`)".to_owned();
            (403, "too_large", words, "ask for less")
        }
        (Failed::Late, _) => {
            let words =
                format!("`{name}` did not answer in time: it may have acted on the request");
            (504, "target_late", words, UNSURE)
        }
        (Failed::Ended(_), _) => (503, "ended", "the session was ended".to_owned(), UNSURE),
        (Failed::Target(TargetError::Dial(error)), _) => {
            let known = error.public().map(|why| format!(" ({why})")).unwrap_or_default();
            (502, "target_unreachable", format!("could not reach `{name}`{known}"), LATER)
        }
        (Failed::Target(TargetError::Fault(fault)), _) => {
            let words = format!("`{name}` answered with no HTTP of one meaning: {fault}");
            (502, "target_violation", words, OWNER)
        }
        (Failed::Target(TargetError::Secret), _) => {
            (502, "target_unreachable", format!("could not log in at `{name}`"), OPERATORS)
        }
        (Failed::Target(TargetError::Version), _) => {
            (502, "target_unreachable", format!("`{name}` does not speak HTTP/2"), OPERATORS)
        }
        (Failed::Target(_) | Failed::Broken(_), _) => {
            let words = format!("lost `{name}`: it may have acted on the request");
            (502, "target_lost", words, UNSURE)
        }
    }
}

/// Why there is no answer. For operators.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("it did not answer in time")]
    Late,
    #[error("the session was ended: {0}")]
    Ended(&'static str),
    #[error("its answer is longer than policy allows")]
    TooMuch,
    #[error("its answer is withheld: {0}")]
    Withheld(VeilError),
    #[error("{0}")]
    Broken(&'static str),
}

fn withheld(error: VeilError) -> String {
    format!(
        "it was carried out, but some of its answer may not be seen, and it cannot be masked: {}",
        error.words()
    )
}

/// `GET /orders` of a request in its one form.
fn line_of(canonical: &[u8]) -> String {
    let end = memchr::memchr2(b'?', b'\r', canonical).unwrap_or(canonical.len());
    let line = String::from_utf8_lossy(canonical.get(..end).unwrap_or_default());
    let line = line.strip_suffix(" HTTP/1.1").unwrap_or(&line);
    match line.char_indices().nth(LINE_CHARS_MAX) {
        Some((at, _)) => format!("{}…", line.get(..at).unwrap_or_default()),
        None => line.to_owned(),
    }
}

/// Reads on over a body that was refused, where that helps its sender.
async fn shed(stream: Option<Source>, unwanted: bool) {
    if let Some(body) = stream.filter(|_| unwanted) {
        drain(body).await;
    }
}

/// Ends a command as the client's loss when it is dropped.
struct Left(Option<Arc<Passing>>);

impl Left {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        if let Some(passing) = self.0.take() {
            passing.finish(Status::ClientLost);
        }
    }
}
