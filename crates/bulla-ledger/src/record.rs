//! Writes records: encodes and seals entries in the caller's thread, chains them per session, and
//! hands them to the committer.
//!
//! An append either happens whole or leaves no trace: room is taken before anything is numbered.
//! What does not fit into one entry goes on in `chunk` entries of the same command, behind an
//! intent, a hold or a refusal, and before an outcome; the last one's durability is the append's.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bulla_core::{
    AdminRecord, Because, BootId, CloseRecord, Command, DenyReason, Effects, EvidenceRecord, Flow,
    GrantRecord, HoldRecord, IntentRecord, Journal, Mode, OpenRecord, Outcome, Pending, Purity,
    RecordError, RefusalRecord, SessionId, Timestamp, TurnedAwayRecord,
};
use bulla_tlog::{
    Hash,
    entry::{self, Counts, Direction, Encoding, Entry, Kind, Link, ObjectRef, Refers, Transcript},
    seal::{Dek, SealError, Sealer},
};

use crate::{
    committer::{Claim, Gauge, Item, Queue},
    company::{Counted, Sent},
    config::{Compression, OBJECT_BYTES_MAX},
    detail::DetailWriter,
    journal::frame::{Payload, frame_bytes},
    keys::{Keys, Wrapped, random},
};

/// Longest private part that stands in its entry; what is longer goes into objects.
const DETAIL_BYTES_MAX: usize = 40 << 10;
/// Longest private part at all: what an intent says about a statement of the largest size.
const DETAIL_TOTAL_BYTES_MAX: usize = 256 << 20;
/// Longest policy ids of one entry together, in its clear part.
const POLICIES_BYTES_MAX: usize = 4 << 10;
/// Upper bound of an entry's clear part.
const CLEAR_BYTES_MAX: usize = 12 << 10;
/// Longest status in an entry.
const STATUS_BYTES_MAX: usize = 200;
/// Commands of one session that may await their outcome.
pub(crate) const COMMANDS_OPEN_MAX: usize = 1 << 16;

/// What all sessions share.
pub(crate) struct Shared {
    pub gauge: Arc<Gauge>,
    pub queue: Queue,
    pub keys: Keys,
    pub boot: BootId,
    pub started: Instant,
    pub compression: Compression,
    pub inline_bytes_max: usize,
    pub entry_object_bytes_max: usize,
    /// Sessions whose close has not been appended.
    pub open_sessions: AtomicU64,
    /// The entry that announces the run is on its way, and everything else comes after it.
    pub has_begun: AtomicBool,
}

impl Shared {
    pub(crate) fn mono_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub(crate) fn entry(&self, kind: Kind, at: Timestamp) -> Entry {
        Entry::new(kind, at.0, self.mono_ns(), self.boot.0)
    }

    /// Appends one entry of the gateway's own, without a session and without a private part.
    pub(crate) fn append_plain(&self, entry: &Entry) -> Result<Pending, RecordError> {
        let (item, pending) = self.plain(entry)?;
        self.queue.push(item)?;
        Ok(pending)
    }

    /// The same, as the last entry of the run: what comes after it is refused.
    pub(crate) fn append_last(&self, entry: &Entry) -> Result<Pending, RecordError> {
        let (item, pending) = self.plain(entry)?;
        self.queue.push_last(item)?;
        Ok(pending)
    }

    fn plain(&self, entry: &Entry) -> Result<(Item, Pending), RecordError> {
        let payload = Payload::new(entry.encode().map_err(|_| RecordError::Bug("plain entry"))?);
        let room = payload.frame_bytes() as u64;
        self.gauge.admit(room, Claim::Closing)?;
        let (completer, pending) = self.queue.pending();
        Ok((Item { payload, done: Some(completer), room, urgent: true }, pending))
    }

    pub(crate) fn stopped(&self) -> Option<Arc<str>> {
        self.gauge.error()
    }
}

pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.unwrap_or(Duration::ZERO).as_nanos().try_into().unwrap_or(u64::MAX))
}

fn mode_of(mode: Mode) -> entry::Mode {
    match mode {
        Mode::Strict => entry::Mode::Strict,
        Mode::Bounded => entry::Mode::Bounded,
    }
}

fn direction_of(flow: Flow) -> Direction {
    match flow {
        Flow::ToTarget | Flow::ToTargetBeside => Direction::ClientToTarget,
        Flow::ToClient | Flow::ToClientBeside => Direction::TargetToClient,
        Flow::Gateway => Direction::GatewayToClient,
    }
}

/// A text for the clear part. What a target or a client chose is cut down to printable ASCII.
fn clear_text(text: &str) -> Option<String> {
    let mut out: String = text
        .chars()
        .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' })
        .take(STATUS_BYTES_MAX)
        .collect();
    if out.is_empty() {
        out.push('?');
    }
    Some(out)
}

fn decision_of(word: &str) -> Option<entry::Decision> {
    entry::Decision::ALL.iter().copied().find(|decision| decision.as_str() == word)
}

/// The chain of one session and what seals it.
struct Chain {
    sid: SessionId,
    seq: u64,
    prev: Option<Hash>,
    sealer: Sealer,
    transcript: Transcript,
    counts: Counts,
    /// Latest time in the chain: a clock that steps back does not take the chain with it.
    wall: Timestamp,
    mode: entry::Mode,
    /// The chain has an end that the log does not have: nothing may follow it.
    broken: bool,
    wrapped: Option<Wrapped>,
}

/// One append before it is numbered.
struct Append<'a> {
    entry: Entry,
    detail: Vec<u8>,
    flow: Flow,
    /// Payload that is too long to stand in `detail`.
    bulk: &'a [u8],
    /// The entry comes after the chunks that its bytes need, not before them.
    entry_last: bool,
    claim: Claim,
    /// Who waits for it does not wait for others.
    urgent: bool,
}

impl<'a> Append<'a> {
    fn new(entry: Entry, detail: Vec<u8>, claim: Claim) -> Self {
        let (flow, urgent) = (Flow::Gateway, true);
        Self { entry, detail, flow, bulk: &[], entry_last: false, claim, urgent }
    }
}

/// Bytes that one entry carries outside itself.
#[derive(Clone, Copy, Default)]
struct Load<'a> {
    /// Continuation of a private part.
    overflow: &'a [u8],
    bulk: &'a [u8],
}

impl Load<'_> {
    fn objects(&self) -> usize {
        self.overflow.len().div_ceil(OBJECT_BYTES_MAX) + self.bulk.len().div_ceil(OBJECT_BYTES_MAX)
    }

    /// Upper bound of the frame of an entry with such a load and such a private part.
    fn room(&self, detail: usize, policies: usize) -> u64 {
        let per_object = 4 + 16 + 160;
        let objects = self.overflow.len() + self.bulk.len() + self.objects() * per_object;
        frame_bytes(
            CLEAR_BYTES_MAX.min(2_048 + policies) + detail + objects + crate::keys::WRAPPED_BYTES,
        ) as u64
    }
}

impl Chain {
    fn new(shared: &Shared, sid: SessionId, mode: Mode) -> Result<Self, RecordError> {
        let bug = |_| RecordError::Bug("cannot make the session's key");
        let dek = Dek::new(random().map_err(bug)?);
        let sealer = Sealer::new(&dek, sid.0).map_err(|_| RecordError::Bug("seal"))?;
        let wrapped =
            shared.keys.kek.wrap(sid, &dek).map_err(|_| RecordError::Bug("wrap a key"))?;
        Ok(Self {
            sid,
            seq: 0,
            prev: None,
            sealer,
            transcript: Transcript::new(&sid.0),
            counts: Counts::default(),
            wall: Timestamp(0),
            mode: mode_of(mode),
            broken: false,
            wrapped: Some(wrapped),
        })
    }

    fn entry(&mut self, shared: &Shared, kind: Kind, at: Timestamp) -> Entry {
        self.wall = self.wall.max(at);
        let mut entry = shared.entry(kind, self.wall);
        entry.mode = self.mode;
        entry
    }

    /// Splits an append into entries, takes the room of all of them, then numbers and queues them.
    fn append(&mut self, shared: &Shared, append: Append<'_>) -> Result<Pending, RecordError> {
        if self.broken {
            return Err(RecordError::Bug("the session's chain is broken"));
        }
        let Append { entry, mut detail, flow, bulk, entry_last, claim, urgent } = append;
        let urgent = urgent && self.mode == entry::Mode::Strict;
        let continuation = if detail.len() > DETAIL_BYTES_MAX {
            if entry_last || detail.len() > DETAIL_TOTAL_BYTES_MAX {
                return Err(RecordError::TooLarge("the description of a command"));
            }
            let whole = std::mem::take(&mut detail);
            let mut writer = DetailWriter::new(&mut detail);
            writer.flow(flow);
            writer.overflow(whole.len() as u64);
            writer.finish();
            whole
        } else {
            vec![]
        };
        let loads = split(&continuation, bulk, shared.entry_object_bytes_max);
        let main = if entry_last { loads.len() - 1 } else { 0 };
        let policies: usize = entry.policies.iter().map(|id| id.len() + 3).sum();
        let room = |(i, load): (usize, &Load<'_>)| match i == main {
            true => load.room(detail.len(), policies),
            false => load.room(64, 0),
        };
        let rooms: Vec<u64> = loads.iter().enumerate().map(room).collect();
        let total: u64 = rooms.iter().sum();
        shared.gauge.admit(total, claim)?;
        let (completer, pending) = shared.queue.pending();
        let mut completer = Some(completer);
        let (mode, cmd) = (entry.mode, entry.cmd);
        let mut entry = Some(entry);
        let mut left = total;
        let count = loads.len();
        for (i, (load, room)) in loads.iter().zip(rooms).enumerate() {
            let built = match entry.take_if(|_| i == main) {
                Some(mut entry) => {
                    if entry.kind == Kind::Chunk && count > 1 {
                        count_bytes(&mut entry, flow, load.bulk.len());
                    }
                    self.build(shared, entry, &detail, flow, *load)
                }
                None => {
                    let mut chunk = shared.entry(Kind::Chunk, self.wall);
                    (chunk.mode, chunk.cmd) = (mode, cmd);
                    count_bytes(&mut chunk, flow, load.bulk.len());
                    let mut detail = vec![];
                    let mut writer = DetailWriter::new(&mut detail);
                    writer.flow(flow);
                    if !load.overflow.is_empty() {
                        writer.overflow(load.overflow.len() as u64);
                    }
                    writer.finish();
                    self.build(shared, chunk, &detail, flow, *load)
                }
            };
            let payload = match built {
                Ok(payload) => payload,
                Err(error) => {
                    shared.gauge.give_up(left);
                    // Without an entry queued nothing has happened yet, unless a number was spent.
                    self.broken |= i > 0 || matches!(error, RecordError::Bug(_));
                    return Err(error);
                }
            };
            let done = if i + 1 == count { completer.take() } else { None };
            left -= room;
            if let Err(error) = shared.queue.push(Item { payload, done, room, urgent }) {
                shared.gauge.give_up(left);
                self.broken = true;
                return Err(error);
            }
        }
        Ok(pending)
    }

    /// Numbers and seals one entry.
    fn build(
        &mut self,
        shared: &Shared,
        mut entry: Entry,
        detail: &[u8],
        flow: Flow,
        load: Load<'_>,
    ) -> Result<Payload, RecordError> {
        let mut objects = Vec::with_capacity(load.objects());
        entry.objs.reserve(load.objects());
        for part in [load.overflow, load.bulk] {
            for piece in part.chunks(OBJECT_BYTES_MAX) {
                let (object, body) = self.object(shared.compression, flow, piece)?;
                entry.objs.push(object);
                objects.push((object.ct_hash, body));
            }
        }
        entry.session = Some(Link { sid: self.sid.0, seq: self.seq, prev: self.prev });
        let mut bytes = Vec::with_capacity(512 + detail.len() + entry.objs.len() * 128);
        match self.sealer.seal_entry_into(&entry, detail, &mut bytes) {
            Ok(()) => {}
            // The codec refused the entry, so its number is still free.
            Err(SealError::Entry(error)) => {
                tracing::error!(%error, kind = entry.kind.as_str(), "an entry cannot be written");
                return Err(RecordError::TooLarge("an entry"));
            }
            Err(_) => return Err(RecordError::Bug("seal an entry")),
        }
        let mut payload = Payload::new(bytes);
        payload.objects = objects;
        payload.sides.extend(self.wrapped.take().map(|wrapped| wrapped.to_vec()));
        self.prev = Some(payload.leaf);
        self.seq += 1;
        self.counts.observe(&entry);
        entry.objs.iter().for_each(|object| self.transcript.push(object));
        Ok(payload)
    }

    fn object(
        &mut self,
        compression: Compression,
        flow: Flow,
        plaintext: &[u8],
    ) -> Result<(ObjectRef, Vec<u8>), RecordError> {
        let (encoding, mut body) = match compression {
            Compression::Zstd => match compress(plaintext) {
                Some(body) => (Encoding::Zstd, body),
                None => (Encoding::Stored, with_room(plaintext)),
            },
            Compression::None => (Encoding::Stored, with_room(plaintext)),
        };
        let object = self
            .sealer
            .seal_object(direction_of(flow), encoding, plaintext, &mut body)
            .map_err(|_| RecordError::Bug("seal an object"))?;
        Ok((object, body))
    }
}

/// What a piece of a command's bytes counts as.
fn count_bytes(entry: &mut Entry, flow: Flow, len: usize) {
    match flow {
        Flow::ToTarget | Flow::ToTargetBeside => entry.bytes_in = Some(len as u64),
        Flow::ToClient | Flow::ToClientBeside | Flow::Gateway => {
            entry.bytes_out = Some(len as u64);
        }
    }
}

/// A copy with room for the tag, so that sealing does not move it.
fn with_room(plaintext: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(plaintext.len() + 16);
    body.extend_from_slice(plaintext);
    body
}

/// A compressor and where it writes. Its tables are large and reused; sessions are many, threads
/// are few. What it wrote is copied out, so that an object holds no more memory than its bytes.
struct Press {
    compressor: zstd::bulk::Compressor<'static>,
    out: Vec<u8>,
}

thread_local! {
    static PRESS: RefCell<Option<Press>> = RefCell::new(
        zstd::bulk::Compressor::new(1)
            .ok()
            .map(|compressor| Press { compressor, out: vec![0; OBJECT_BYTES_MAX] }),
    );
}

/// None if it does not become smaller by an eighth.
fn compress(plaintext: &[u8]) -> Option<Vec<u8>> {
    PRESS.with_borrow_mut(|press| {
        let Press { compressor, out } = press.as_mut()?;
        let limit = plaintext.len() - plaintext.len() / 8;
        let out = out.get_mut(..limit)?;
        let len = compressor.compress_to_buffer(plaintext, out).ok()?;
        out.get(..len).map(with_room)
    })
}

/// Lays a continuation and a payload out over entries. At least one load, be it empty.
fn split<'a>(mut overflow: &'a [u8], mut bulk: &'a [u8], bytes_max: usize) -> Vec<Load<'a>> {
    let mut loads = vec![];
    while loads.is_empty() || !overflow.is_empty() || !bulk.is_empty() {
        let (head, rest) = overflow.split_at(overflow.len().min(bytes_max));
        // Whole objects only, so that the two together stay within the limit.
        let left = (bytes_max - head.len()) / OBJECT_BYTES_MAX * OBJECT_BYTES_MAX;
        let (payload, bulk_rest) = bulk.split_at(bulk.len().min(left));
        (overflow, bulk) = (rest, bulk_rest);
        loads.push(Load { overflow: head, bulk: payload });
    }
    loads
}

/// Puts the decision's grounds into the clear part, and into the private part what has no room.
fn because(entry: &mut Entry, detail: &mut DetailWriter<'_>, because: &Because) {
    entry.policy = Some(because.bundle.0);
    let mut bytes = 0;
    for id in because.policies.iter().take(entry::POLICIES_MAX) {
        bytes += id.len();
        let clean = !id.is_empty() && !id.chars().any(char::is_control);
        if bytes > POLICIES_BYTES_MAX || id.len() > entry::TEXT_BYTES_MAX || !clean {
            break;
        }
        entry.policies.push(id.to_string());
    }
    if entry.policies.len() < because.policies.len() {
        detail.policies(&because.policies);
    }
}

fn reason_text(reason: &DenyReason) -> String {
    match reason {
        DenyReason::NoPermit { what, action } => format!("no policy permits {action} on {what}"),
        DenyReason::Forbidden { what } => format!("a policy forbids {what}"),
        DenyReason::Error => "a policy could not be evaluated".into(),
        DenyReason::CannotHonour { obligation } => format!("cannot honour `{obligation}`"),
    }
}

fn describe(entry: &mut Entry, detail: &mut DetailWriter<'_>, command: &Command) {
    entry.action = Some(command.action.as_str().into());
    entry.effects = command.effects.0;
    detail.command(command);
}

/// A command whose outcome is still to come.
struct OpenCommand {
    /// Bytes returned so far.
    returned: u64,
    /// Of a plain read of a `strict` session.
    sent: Option<Sent>,
}

/// The record of one session.
pub(crate) struct SessionJournal {
    shared: Arc<Shared>,
    chain: Chain,
    /// Each command whose outcome is still to come.
    open: HashMap<u64, OpenCommand>,
    counted: Counted,
    closed: bool,
}

/// Begins a session's chain with its open entry.
pub(crate) fn open_session(
    shared: &Arc<Shared>,
    record: &OpenRecord,
    claim: Claim,
) -> Result<(SessionJournal, Pending), RecordError> {
    let mut chain = Chain::new(shared, record.session, record.mode)?;
    let mut entry = chain.entry(shared, Kind::Open, record.at);
    entry.subj_tag = Some(shared.keys.subject_tag(record.principal.id.as_str()));
    entry.resource = Some(record.resource.as_str().into());
    entry.protocol = clear_text(record.protocol);
    entry.decision = Some(entry::Decision::Allow);
    entry.dek_commit = Some(chain.sealer.dek_commit());
    let mut detail = Vec::with_capacity(1_024);
    let mut writer = DetailWriter::new(&mut detail);
    writer.principal(&record.principal);
    writer.origin(&record.origin);
    writer.part(record.part.as_deref());
    writer.claims(&record.claims);
    because(&mut entry, &mut writer, &record.because);
    writer.finish();
    let pending = chain.append(shared, Append::new(entry, detail, claim))?;
    let shared = shared.clone();
    shared.open_sessions.fetch_add(1, Ordering::AcqRel);
    Ok((
        SessionJournal {
            shared,
            chain,
            open: HashMap::new(),
            counted: Counted::default(),
            closed: false,
        },
        pending,
    ))
}

/// A refusal before a session: a chain of one entry.
pub(crate) fn turned_away(
    shared: &Shared,
    record: &TurnedAwayRecord,
) -> Result<Pending, RecordError> {
    let random = random().map_err(|_| RecordError::Bug("no randomness"))?;
    let sid = SessionId::new(record.at, random);
    let mut chain = Chain::new(shared, sid, Mode::Strict)?;
    let mut entry = chain.entry(shared, Kind::Refusal, record.at);
    entry.protocol = clear_text(record.protocol);
    entry.status = clear_text(record.why);
    entry.dek_commit = Some(chain.sealer.dek_commit());
    let mut detail = Vec::with_capacity(512);
    let mut writer = DetailWriter::new(&mut detail);
    if let Some(principal) = &record.principal {
        entry.subj_tag = Some(shared.keys.subject_tag(principal.id.as_str()));
        writer.principal(principal);
    }
    writer.origin(&record.origin);
    // What the client asked for may be anything, so it is not for the clear part.
    writer.part(record.resource.as_deref());
    writer.reason(Some(&record.detail));
    if let Some(grounds) = &record.because {
        entry.decision = Some(entry::Decision::Deny);
        because(&mut entry, &mut writer, grounds);
    }
    writer.finish();
    chain.append(shared, Append::new(entry, detail, Claim::Refusal))
}

impl SessionJournal {
    fn check(&self) -> Result<(), RecordError> {
        if self.closed { Err(RecordError::Bug("append after close")) } else { Ok(()) }
    }

    /// Writes a payload into the private part, or leaves it to objects.
    fn payload<'a>(&self, detail: &mut DetailWriter<'_>, flow: Flow, bytes: &'a [u8]) -> &'a [u8] {
        detail.flow(flow);
        if bytes.len() <= self.shared.inline_bytes_max {
            detail.bytes(bytes);
            &[]
        } else {
            bytes
        }
    }

    /// An administrative entry, in the gateway's own session.
    pub(crate) fn admin(&mut self, record: &AdminRecord) -> Result<Pending, RecordError> {
        self.check()?;
        let kind = match record.kind {
            "config" => Kind::Config,
            "policy" => Kind::Policy,
            "alarm" => Kind::Alarm,
            _ => Kind::Admin,
        };
        let mut entry = self.chain.entry(&self.shared, kind, record.at);
        entry.note = clear_text(record.kind);
        entry.refers = record.digest.map(|digest| Refers::Hash(Hash(digest.0)));
        let mut detail = Vec::with_capacity(256);
        let mut writer = DetailWriter::new(&mut detail);
        writer.answer(record.kind, Some(&record.by));
        writer.message(&record.detail);
        writer.finish();
        self.chain.append(&self.shared, Append::new(entry, detail, Claim::Closing))
    }
}

impl Journal for SessionJournal {
    fn next_seq(&self) -> u64 {
        self.chain.seq
    }

    fn intent(&mut self, record: &IntentRecord<'_>) -> Result<Pending, RecordError> {
        self.check()?;
        if self.open.len() >= COMMANDS_OPEN_MAX {
            return Err(RecordError::TooLarge("commands without an outcome"));
        }
        let mut entry = self.chain.entry(&self.shared, Kind::Intent, record.at);
        entry.cmd = Some(record.number);
        entry.bytes_in = Some(record.payload.len() as u64);
        entry.decision = decision_of(record.decision);
        let mut detail = Vec::with_capacity(512 + record.command.shown.len());
        let mut writer = DetailWriter::new(&mut detail);
        describe(&mut entry, &mut writer, record.command);
        because(&mut entry, &mut writer, record.because);
        if let Some(grant) = record.grant {
            writer.ask(&grant.ask, &grant.digest);
            writer.answer(grant.answer, grant.by.as_deref());
            writer.reason(grant.reason.as_deref());
            writer.granted(grant.at);
        }
        let bulk = self.payload(&mut writer, Flow::ToTarget, &record.payload);
        writer.finish();
        let mut append = Append::new(entry, detail, Claim::Ordinary);
        (append.flow, append.bulk) = (Flow::ToTarget, bulk);
        let plain = record.command.purity == Purity::Read
            && !record.command.effects.has(Effects::TRANSACTION);
        append.urgent = !plain;
        let pending = self.chain.append(&self.shared, append)?;
        // Somebody will wait for its response.
        let sent = (plain && self.chain.mode == entry::Mode::Strict)
            .then(|| self.shared.gauge.company.sends(&mut self.counted));
        self.open.insert(record.number, OpenCommand { returned: 0, sent });
        Ok(pending)
    }

    fn refusal(&mut self, record: &RefusalRecord<'_>) -> Result<Pending, RecordError> {
        self.check()?;
        let mut entry = self.chain.entry(&self.shared, Kind::Refusal, record.at);
        entry.cmd = Some(record.number);
        entry.bytes_in = Some(record.payload.len() as u64);
        entry.status = clear_text(record.kind);
        let mut detail = Vec::with_capacity(512);
        let mut writer = DetailWriter::new(&mut detail);
        if let Some(command) = record.command {
            describe(&mut entry, &mut writer, command);
        }
        if let Some(grounds) = record.because {
            because(&mut entry, &mut writer, grounds);
        }
        if let Some(reason) = record.reason {
            entry.decision = Some(entry::Decision::Deny);
            writer.reason(Some(&reason_text(reason)));
        }
        writer.message(record.message);
        let bulk = self.payload(&mut writer, Flow::ToTarget, &record.payload);
        writer.finish();
        let mut append = Append::new(entry, detail, Claim::Refusal);
        (append.flow, append.bulk) = (Flow::ToTarget, bulk);
        self.chain.append(&self.shared, append)
    }

    fn hold(&mut self, record: &HoldRecord<'_>) -> Result<Pending, RecordError> {
        self.check()?;
        let mut entry = self.chain.entry(&self.shared, Kind::Hold, record.at);
        entry.cmd = Some(record.number);
        entry.decision = Some(entry::Decision::Hold);
        let mut detail = Vec::with_capacity(512 + record.command.shown.len());
        let mut writer = DetailWriter::new(&mut detail);
        describe(&mut entry, &mut writer, record.command);
        because(&mut entry, &mut writer, record.because);
        writer.ask(&record.ask, &record.digest);
        writer.terms(record.terms);
        writer.finish();
        self.chain.append(&self.shared, Append::new(entry, detail, Claim::Ordinary))
    }

    fn grant(&mut self, record: &GrantRecord) -> Result<Pending, RecordError> {
        self.check()?;
        let mut entry = self.chain.entry(&self.shared, Kind::Grant, record.at);
        entry.cmd = Some(record.number);
        entry.status = clear_text(record.answer);
        let mut detail = Vec::with_capacity(256);
        let mut writer = DetailWriter::new(&mut detail);
        writer.ask(&record.ask, &record.digest);
        writer.answer(record.answer, record.by.as_deref());
        writer.reason(record.reason.as_deref());
        writer.finish();
        self.chain.append(&self.shared, Append::new(entry, detail, Claim::Ordinary))
    }

    fn evidence(&mut self, record: EvidenceRecord) -> Result<Pending, RecordError> {
        self.check()?;
        let len = record.bytes.len() as u64;
        let kind = if record.outcome.is_some() { Kind::Outcome } else { Kind::Chunk };
        let mut entry = self.chain.entry(&self.shared, kind, record.at);
        entry.cmd = Some(record.number);
        let before = self.open.get(&record.number).map_or(0, |open| open.returned);
        let returned = match record.flow {
            Flow::ToTarget | Flow::ToTargetBeside => before,
            Flow::ToClient | Flow::ToClientBeside | Flow::Gateway => before.saturating_add(len),
        };
        let mut detail = Vec::with_capacity(64 + record.bytes.len().min(1 << 14));
        let mut writer = DetailWriter::new(&mut detail);
        let mut masked = None;
        match &record.outcome {
            Some(Outcome { status, tag, rows }) => {
                // The totals of the command.
                entry.status = clear_text(&status.word());
                entry.rows = Some(*rows);
                entry.bytes_out = Some(returned);
                writer.tag(tag.as_deref());
                masked = Some(&record.masked);
            }
            None => count_bytes(&mut entry, record.flow, record.bytes.len()),
        }
        let bulk = self.payload(&mut writer, record.flow, &record.bytes);
        masked.into_iter().for_each(|cells| writer.masked(cells));
        writer.finish();
        let claim = match (&record.outcome, bulk.is_empty()) {
            (Some(_), true) => Claim::Closing,
            // The words of a refusal, which must reach the client for the session to go on.
            (None, true) if record.flow == Flow::Gateway => Claim::Refusal,
            _ => Claim::Ordinary,
        };
        let ends = record.outcome.is_some();
        let plain = self.open.get(&record.number).is_some_and(|open| open.sent.is_some());
        let mut append = Append::new(entry, detail, claim);
        (append.flow, append.bulk, append.entry_last) = (record.flow, bulk, true);
        append.urgent = !plain;
        let pending = self.chain.append(&self.shared, append)?;
        if ends {
            if let Some(sent) = self.open.remove(&record.number).and_then(|open| open.sent) {
                self.shared.gauge.company.answered(sent);
            }
        } else if let Some(open) = self.open.get_mut(&record.number) {
            open.returned = returned;
        } else if self.open.len() < COMMANDS_OPEN_MAX {
            self.open.insert(record.number, OpenCommand { returned, sent: None });
        }
        Ok(pending)
    }

    fn close(&mut self, record: &CloseRecord) -> Result<Pending, RecordError> {
        self.check()?;
        let mut entry = self.chain.entry(&self.shared, Kind::Close, record.at);
        entry.status = clear_text(&record.why);
        entry.counts = Some(self.chain.counts);
        entry.transcript = Some(self.chain.transcript.hash());
        let mut detail = Vec::with_capacity(64);
        let mut writer = DetailWriter::new(&mut detail);
        writer.reason(record.detail.as_deref());
        writer.finish();
        let pending =
            self.chain.append(&self.shared, Append::new(entry, detail, Claim::Closing))?;
        self.closed = true;
        self.shared.open_sessions.fetch_sub(1, Ordering::AcqRel);
        Ok(pending)
    }
}

impl Drop for SessionJournal {
    fn drop(&mut self) {
        if self.closed || self.shared.stopped().is_some() {
            return;
        }
        let record = CloseRecord { at: now(), why: "abandoned".into(), detail: None };
        if let Err(error) = self.close(&record) {
            let session = self.chain.sid;
            tracing::error!(%error, %session, "cannot record the end of a session");
        }
    }
}
