//! The contract for protocols that Bulla parses itself: machines over bytes, without sockets,
//! clocks or a runtime.
//!
//! A protocol is a [`Protocol`]. It makes four kinds of machine, each fed with bytes and answering
//! with values:
//!
//! | machine | runs | until |
//! |---|---|---|
//! | [`Greeting`] | toward the client, before anybody is known | a credential and a wish are read |
//! | [`Login`] | toward the target, beside the secret | the target has let us in |
//! | [`Wire`] | between both, for the life of the session | the session ends |
//! | [`Scout`] | toward the target, on a connection of its own | what readings need to know is known |
//!
//! Invariants:
//! - **No client byte leaves a machine except inside a [`Draft`] or an [`Output::More`]**, as a
//!   slice of what the client sent, never re-encoded; or as the machine's own rewriting where masks
//!   demand one, and then that is what the draft holds and what is judged.
//! - **After [`Output::Judge`] or [`Output::Refuse`] a machine takes no client input** until it
//!   hears `cleared` or
//!   `refused` for that number.
//! - **Answers keep the order of the commands**: a gateway's own answer waits for its turn.
//! - **Arbitrary bytes never panic** and never make a machine hold more than its limits.
//!
//! This crate is *not* a place for any protocol's details. Files: `reader` (bounded decoding),
//! `conformance` (the suite that every wire passes).

pub mod conformance;
mod reader;

use std::{borrow::Cow, sync::Arc};

use bulla_core::{Command, Descriptor, Draft, Obligations, Outcome, Refusal, Secret};
use bytes::{Bytes, BytesMut};

pub use reader::{ReadError, Reader};

/// Runs a wait that may block for long somewhere where blocking is allowed.
pub type Block = Arc<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

/// Asks policy whether values of a class may be seen in the clear.
pub type Reveals = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The other side broke the protocol. The session ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("protocol violation: {why}")]
pub struct Violation {
    /// What is wrong, without any of the offending bytes.
    pub why: Cow<'static, str>,
    /// The last bytes for the client, in the protocol's own words; may be empty.
    pub answer: Bytes,
}

/// Constant bytes for a target. Cannot carry a client's bytes, since nothing of a client is
/// `'static`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control(pub &'static [u8]);

/// What a [`Wire`] wants done, in this order.
#[derive(Debug)]
pub enum Output {
    /// Judge this. `number` counts commands from 1 within the session.
    Judge { number: u64, draft: Draft<Bytes> },
    /// This cannot be read, or is refused on principle: record it and refuse it.
    Refuse { number: u64, bytes: Bytes, refusal: Box<Refusal> },
    /// More client bytes of the command `number`, which was cleared and takes a stream of input.
    More { number: u64, bytes: Bytes },
    /// Bytes from the target that answer the command `number`; 0 where they answer none. With the
    /// last of them, how it ended.
    Reply { number: u64, bytes: Bytes, done: Option<Outcome> },
    /// So many more cells of the answer to the command `number` are masked, by class. Before its
    /// end is told.
    Masked { number: u64, cells: Vec<(Arc<str>, u64)> },
    /// The command `number` ended and there are no bytes to show for it.
    Done { number: u64, outcome: Outcome },
    /// Bytes that the gateway itself says to the client.
    ToClient(Bytes),
    /// Constant bytes for the target.
    Control(Control),
    /// What the scout learned may be out of date: learn again before the next command is read.
    Relearn,
    /// Flush everything above, then end the session. `why` is a word for the close entry.
    End { why: &'static str },
}

/// A list that a machine pushes to and the engine drains.
pub type Outputs = Vec<Output>;

/// A hold, as far as the client may know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldNotice {
    /// The ask's id: `7F3K-2Q`.
    pub id: Arc<str>,
    pub groups: Vec<Arc<str>>,
    pub quorum: u32,
    /// How long it has been waiting, in seconds; 0 the first time.
    pub waited_s: u64,
    pub expires_s: u64,
}

/// One live session, after both logins.
pub trait Wire: Send {
    /// Takes whole units from the front of `input` and leaves the rest.
    fn client(&mut self, input: &mut BytesMut, out: &mut Outputs) -> Result<(), Violation>;
    fn target(&mut self, input: &mut BytesMut, out: &mut Outputs) -> Result<(), Violation>;
    /// The draft was judged and its bytes are on the way to the target.
    fn cleared(&mut self, number: u64, owe: &Obligations, out: &mut Outputs);
    /// The draft will not be sent; tell the client in its turn.
    fn refused(&mut self, number: u64, refusal: &Refusal, out: &mut Outputs);
    /// The draft waits for an approval; called again every few seconds.
    fn held(&mut self, number: u64, notice: &HoldNotice, out: &mut Outputs);
    /// The draft waited and was approved, and what readings need is fresh: whether it still means
    /// what was judged. If not it is refused.
    fn still(&mut self, _number: u64) -> bool {
        true
    }
    /// Whether client input may be fed now.
    fn takes_client(&self) -> bool;
    /// Nothing is in flight and no transaction is open: the session may end here without harm.
    fn at_rest(&self) -> bool;
    /// A transaction is open, so that ending now loses the client's work.
    fn in_transaction(&self) -> bool;
    /// The gateway ends the session: last words to the client, outcomes for what is in flight.
    fn farewell(&mut self, refusal: &Refusal, out: &mut Outputs);
    /// The target closed or was lost. `why` is public: "could not reach `orders`".
    fn target_lost(&mut self, why: &str, out: &mut Outputs);
    /// What is read so far of a unit that has not ended, in bytes: for limits and accounting.
    fn held_bytes(&self) -> usize;
    /// A cancel arrived for this session: it is a command of its own, with an empty payload.
    fn cancel(&mut self) -> Option<(u64, Draft<Bytes>)>;
}

/// Whether, and how, the client's connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    Plain,
    /// `certificate`: the client presented one and TLS verified its chain.
    On {
        certificate: bool,
    },
}

/// What a client asks for.
#[derive(Debug)]
pub struct Hello {
    pub credential: bulla_core::Credential,
    /// The resource by name, as asked for.
    pub resource: String,
    /// A part of it, such as a database.
    pub part: Option<String>,
    /// Settings that the client asks for and the protocol lets through to the target.
    pub wishes: Vec<(String, String)>,
    /// What it claims about itself; for the record only.
    pub claims: Vec<(Arc<str>, Arc<str>)>,
    /// What policy has to permit, beside the opening itself, before the session may open: a way of
    /// using the target that begins with the login.
    pub needs: Vec<Command>,
}

/// What a [`Greeting`] wants next.
#[derive(Debug)]
pub enum Step {
    /// More input.
    More,
    /// Send this, then call again.
    Send(Bytes),
    /// Send this, then start TLS. Any input that is still buffered is a violation.
    StartTls(Bytes),
    /// TLS begins at once, with the bytes that are buffered (not consumed).
    DirectTls,
    /// Decide.
    Ready(Box<Hello>),
    /// A request to cancel what the session with this key is doing. Answer nothing, close.
    Cancel(Vec<u8>),
    /// Send this and close: the client asked for something that is refused on principle.
    Bye { answer: Bytes, why: &'static str },
}

/// Why a client is turned away, in public words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// Unknown or wrong credential: same words for both.
    Credential,
    /// Absent or forbidden resource: same words for both. The name as asked for.
    Resource(String),
    /// The target cannot be reached: `could not reach `orders``.
    Target(String),
    /// The gateway cannot take it now: full, stopping, or unable to record.
    Unavailable(String),
}

/// The first words with a client.
pub trait Greeting: Send {
    fn input(&mut self, input: &mut BytesMut, tls: Tls) -> Result<Step, Violation>;
    fn reject(&mut self, why: &Rejection) -> Bytes;
    /// Both sides are in: the bytes that tell the client, and the session's machine.
    fn welcome(self: Box<Self>, opened: Opened) -> Result<(Bytes, Box<dyn Wire>), Violation>;
}

/// What a session starts from.
pub struct Opened {
    /// Random; lets the client cancel. Its length is [`CANCEL_KEY_BYTES`].
    pub cancel_key: [u8; CANCEL_KEY_BYTES],
    /// What the target said about itself at login.
    pub target: Arc<TargetHello>,
    /// Full name of the part in use, for reading: `orders/orders`.
    pub place: Place,
    pub block: Block,
    /// Whether policy lets this session's principal see values of a class in the clear, now.
    pub reveals: Reveals,
}

/// Random bytes of a cancel key.
pub const CANCEL_KEY_BYTES: usize = 32;

/// A resource and the part of it in use: what a scout's knowledge belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    pub resource: Arc<str>,
    pub part: Arc<str>,
    /// The part is the one that is configured, so that paths need not name it.
    pub default_part: bool,
}

/// What a target says about itself when it lets us in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetHello {
    pub parameters: Vec<(String, String)>,
    /// The target's own cancel key; never shown to a client.
    pub cancel_key: Vec<u8>,
    /// The account in use on the target.
    pub account: String,
}

/// What to log in with.
#[derive(Debug)]
pub struct LoginSpec {
    pub user: String,
    pub secret: Option<Arc<Secret>>,
    pub part: Option<String>,
    /// Settings to start with: the wishes that were let through, and the gateway's own.
    pub settings: Vec<(String, String)>,
    /// TLS must be used toward the target.
    pub tls: bool,
    /// Fresh randomness for this login.
    pub nonce: [u8; 24],
}

#[derive(Debug)]
pub enum LoginStep {
    More,
    Send(Bytes),
    /// Start TLS toward the target now; buffered input is a violation.
    StartTls,
    /// Do this on a thread that may be busy for a while, one for each target at a time, then call
    /// again.
    Work(Work),
    Done(Box<TargetHello>),
}

/// Work that takes too long for a thread that others wait for, such as deriving a key.
pub struct Work(Box<dyn FnOnce() + Send>);

impl Work {
    pub fn new(work: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(work))
    }
    pub fn run(self) {
        (self.0)();
    }
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Work(..)")
    }
}

/// Why a login toward a target failed. Operators see it whole; the client only that it failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    #[error("the target does not offer TLS; set `tls = \"off\"` on the target to allow that")]
    NoTls,
    #[error("the target refused the login: {0}")]
    Refused(String),
    #[error("the target asks for {0}, and the login has no such secret")]
    NoSecret(&'static str),
    #[error("the target proved itself wrongly: {0}")]
    BadProof(&'static str),
    #[error("the target broke the protocol: {0}")]
    Protocol(Cow<'static, str>),
    #[error("the target asks for {0}, which is not supported")]
    Unsupported(String),
}

/// What a login needs to know of the connection.
#[derive(Debug, Clone, Default)]
pub struct LoginContext {
    pub tls: bool,
    /// RFC 5929 `tls-server-end-point` of the target's certificate.
    pub server_end_point: Option<Vec<u8>>,
}

/// Logs in to a target, or tells it to cancel.
pub trait Login: Send {
    /// Called first with empty input, then whenever there is more.
    fn input(&mut self, input: &mut BytesMut, with: &LoginContext)
    -> Result<LoginStep, LoginError>;
}

#[derive(Debug)]
pub enum ScoutStep {
    More,
    Send(Bytes),
    /// Learned, and published. `changed`: it differs from what was known before.
    Done {
        changed: bool,
    },
}

/// Learns what readings need to know, over a connection that is logged in.
pub trait Scout: Send {
    fn input(&mut self, input: &mut BytesMut) -> Result<ScoutStep, LoginError>;
}

/// A column, or what a protocol has of the kind, that looks as if it should be classified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// As rules of classes write it: `schema.relation.column`.
    pub path: String,
    pub class: Arc<str>,
    /// For people; never holds a value.
    pub why: String,
}

/// Looks at names and samples of values over a connection that is logged in, and forgets the
/// values.
pub trait Survey: Send {
    fn input(&mut self, input: &mut BytesMut) -> Result<ScoutStep, LoginError>;
    fn found(&mut self) -> Vec<Proposed>;
}

/// One protocol, for the registry.
pub trait Protocol: Send + Sync {
    fn descriptor(&self) -> &'static Descriptor;
    fn greet(&self) -> Box<dyn Greeting>;
    fn login(&self, spec: LoginSpec) -> Box<dyn Login>;
    /// Tells the target to cancel what the session behind `target` is doing.
    fn cancel(&self, target: &TargetHello, tls: bool) -> Box<dyn Login>;
    /// None where readings need no knowledge of the target.
    fn scout(&self, place: &Place) -> Option<Box<dyn Scout>>;
    /// Whether the scout's knowledge of `place` is there.
    fn knows(&self, place: &Place) -> bool;
    /// Reads a command's text as the wire would, for `policy test` and `policy explain`.
    fn read(&self, place: &Place, text: &str, block: &Block) -> Result<Command, String>;
    /// None where there is nothing to classify, or the scout's knowledge of `place` is not there.
    fn survey(&self, place: &Place) -> Option<Box<dyn Survey>> {
        let _ = place;
        None
    }
    /// What a command's text would be sent as to whom `reveals` answers for; none where it goes as
    /// it is. An error says why it would be refused, and what would pass.
    fn mask(
        &self,
        place: &Place,
        text: &str,
        reveals: &dyn Fn(&str) -> bool,
        block: &Block,
    ) -> Result<Option<String>, String> {
        let _ = (place, text, reveals, block);
        Ok(None)
    }
}
