//! The session: what the client sends is read and judged, what the server answers is attributed.
//!
//! Two halves share one queue. The client half turns frames into drafts, and, when a draft is
//! cleared, appends what the server will answer. The server half takes answers off its front.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bulla_core::{
    Command, Draft, Obligations, Outcome, Parameter, ParameterValue, Purity, Refusal, RefusalKind,
    Status, Touches,
};
use bulla_sql::{
    Catalog, Facts, SearchPath,
    facts::{CopyDirection, CopyTarget, NameUse},
    settings::{SettingAction, SettingScope, SettingValue},
};
use bulla_wire::{
    Block, Control, HoldNotice, Opened, Output, Outputs, Place, ReadError, Reader, Violation, Wire,
};
use bytes::{Bytes, BytesMut};

use crate::{
    SEARCH_PATH, Shared,
    frame::{self, Head, Said},
    reading::{self, Phase, Seen},
    value,
};

/// Longest message of a client that is kept whole; `CopyData` streams, whatever its length.
const CLIENT_MESSAGE_BYTES_MAX: usize = 32 << 20;
/// Frames that may wait for an Execute, Sync or Flush, in bytes.
const BATCH_BYTES_MAX: usize = 64 << 20;
/// Longest message of a server that must be whole to be understood (rows stream).
const SERVER_MESSAGE_BYTES_MAX: usize = 32 << 20;
/// Prepared statements and portals of one session.
const NAMES_MAX: usize = 20_000;
/// Commands of one session that may be in flight.
const IN_FLIGHT_MAX: usize = 10_000;

/// A simple query whose text can never parse: the server fails it, and with it whatever
/// transaction is open. Its answer is swallowed.
const POISON: &[u8] = b"Q\0\0\0\x14bulla: refused.\0";
const SYNC: &[u8] = b"S\0\0\0\x04";
const FLUSH: &[u8] = b"H\0\0\0\x04";

fn broke(why: impl Into<std::borrow::Cow<'static, str>>) -> Violation {
    let why = why.into();
    let answer = frame::fatal("08P01", &format!("protocol violation: {why}"), None);
    Violation { why, answer }
}

fn malformed(what: &'static str) -> impl Fn(ReadError) -> Violation {
    move |error| broke(format!("{what}: {error}"))
}

/// A prepared statement.
struct Prepared {
    text: Arc<str>,
    types: Vec<u32>,
    facts: Arc<Facts>,
    epoch: u64,
    path: SearchPath,
}

/// A bound portal.
struct Portal {
    statement: Arc<Prepared>,
    parameters: Arc<[Parameter]>,
    known: bool,
}

/// What a message from the server must be for the item at the front of the queue.
enum Expect {
    Parse(String, Arc<Prepared>),
    Bind(String, Arc<Portal>),
    Close {
        portal: bool,
        name: String,
    },
    Describe,
    Execute,
    /// The client's own Sync: its ReadyForQuery goes to the client.
    Sync,
    /// A simple query, up to its ReadyForQuery.
    Query,
    /// Ours; all of its answers are swallowed.
    Poison,
    SwallowSync,
    /// The gateway's own words, when their turn comes.
    Say(Bytes),
    /// ReadyForQuery of the gateway, with the status as it then is.
    Ready,
}

struct Item {
    /// The command it belongs to; 0 for none.
    number: u64,
    expect: Expect,
    /// The last of its command.
    last: bool,
}

/// A draft at the gate.
struct Judging {
    number: u64,
    simple: bool,
    items: Vec<Expect>,
    facts: Option<Arc<Facts>>,
    copies: bool,
}

/// Frames of the extended protocol that are not judged yet.
#[derive(Default)]
struct Batch {
    bytes: BytesMut,
    items: Vec<Expect>,
    last: Option<(Arc<Portal>, Phase)>,
    /// The statement that its last frame names, if no portal.
    statement: Option<Arc<Prepared>>,
}

/// Where names are looked for, and what a transaction may still undo.
struct Path {
    now: SearchPath,
    initial: SearchPath,
    /// The path to go back to when the transaction does not commit, or in any case.
    before: Option<(SearchPath, bool)>,
    /// What a command in flight makes of it.
    coming: Option<(u64, SearchPath, bool)>,
}

pub struct Machine {
    shared: Arc<Shared>,
    place: Place,
    block: Block,
    numbers: u64,
    judging: Option<Judging>,
    batch: Batch,
    /// After a refusal in a pipeline: everything up to Sync is dropped.
    discarding: bool,
    /// An extended message failed and no Sync is behind it yet: the server skips up to one, so
    /// what the client sends until then is dropped as the server would drop it.
    failed: bool,
    /// Bytes of a client message that is dropped because it is too long.
    skipping: usize,
    /// Bytes of a CopyData that is passed on in pieces.
    copy_left: usize,
    /// The command that takes CopyData.
    copying: Option<u64>,
    /// Executes since the last Sync: an implicit transaction may be open.
    unsynced: bool,
    queue: VecDeque<Item>,
    /// The transaction status of the last ReadyForQuery: I, T or E.
    status: u8,
    statements: HashMap<String, Arc<Prepared>>,
    portals: HashMap<String, Arc<Portal>>,
    /// Everything that was ever prepared or declared in SQL under a name. Never forgotten: a name
    /// stands for all that it may be.
    sql_names: HashMap<String, Vec<Arc<Facts>>>,
    path: Path,
    temp: bool,
    /// Of the command at the front: rows so far, last tag, error.
    rows: u64,
    tag: Option<Arc<str>>,
    error: Option<Arc<str>>,
    /// An outcome that waits for the ReadyForQuery right behind it.
    finishing: Option<(u64, Outcome)>,
    /// Bytes of a server message that is passed on in pieces.
    server_left: usize,
    last_end: Arc<str>,
    relearn: bool,
    over: bool,
}

impl Machine {
    pub fn new(shared: Arc<Shared>, opened: &Opened) -> Result<Self, Violation> {
        let user = opened.target.account.as_str();
        let known = |name: &str| {
            let found = opened.target.parameters.iter().find(|(n, _)| n == name);
            found.map(|(_, value)| value.as_str())
        };
        let value = known("bulla.search_path").or_else(|| known("search_path"));
        let initial = SearchPath::parse(value.unwrap_or(SEARCH_PATH), user);
        Ok(Self {
            shared,
            place: opened.place.clone(),
            block: opened.block.clone(),
            numbers: 0,
            judging: None,
            batch: Batch::default(),
            discarding: false,
            failed: false,
            skipping: 0,
            copy_left: 0,
            copying: None,
            unsynced: false,
            queue: VecDeque::new(),
            status: b'I',
            statements: HashMap::new(),
            portals: HashMap::new(),
            sql_names: HashMap::new(),
            path: Path { now: initial.clone(), initial, before: None, coming: None },
            temp: false,
            rows: 0,
            tag: None,
            error: None,
            finishing: None,
            server_left: 0,
            last_end: "".into(),
            relearn: false,
            over: false,
        })
    }

    fn next(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn search_path(&self) -> SearchPath {
        let path =
            if self.path.coming.is_some() { SearchPath::unknown() } else { self.path.now.clone() };
        if self.temp { path.with_temp_unknown() } else { path }
    }

    fn catalog(&self) -> Result<Arc<Catalog>, Box<Refusal>> {
        self.shared.knowledge.get(&self.place).ok_or_else(|| {
            reading::principle(
                RefusalKind::Unreadable,
                "refused: the catalogue of the target is not known".into(),
                "try again; if it stays, tell the operators of the gateway",
            )
        })
    }

    fn read(&self, text: &str) -> Result<(Arc<Facts>, u64, SearchPath), Box<Refusal>> {
        let (catalog, path) = (self.catalog()?, self.search_path());
        let facts = self.shared.analyzer.read(text, &catalog, &path, &*self.block);
        let facts = facts.map_err(|error| reading::unreadable(&error))?;
        if let Some(refusal) = reading::breaks_reading(&facts) {
            return Err(refusal);
        }
        Ok((facts, catalog.epoch(), path))
    }

    /// The facts of a prepared statement as of now: read again when the world has moved.
    fn reread(&self, prepared: &Prepared) -> Result<Arc<Facts>, Box<Refusal>> {
        let same = self.catalog()?.epoch() == prepared.epoch && self.search_path() == prepared.path;
        if same { Ok(prepared.facts.clone()) } else { Ok(self.read(&prepared.text)?.0) }
    }

    /// Everything that a statement runs by name.
    fn deferred(&self, facts: &Facts) -> (Vec<Arc<Facts>>, Option<String>) {
        let (mut found, mut missing) = (Vec::new(), None);
        for name_use in facts.statements.iter().flat_map(|s| &s.names) {
            let (NameUse::Execute { name }
            | NameUse::Fetch { name, .. }
            | NameUse::CurrentOf { name }) = name_use
            else {
                continue;
            };
            let before = found.len();
            found.extend(self.sql_names.get(name).into_iter().flatten().cloned());
            found.extend(self.statement(name).map(|s| s.facts.clone()));
            found.extend(self.portal(name).map(|p| p.statement.facts.clone()));
            if found.len() == before {
                missing =
                    Some(format!("nothing is known under the name `{}`", name.escape_debug()));
            }
        }
        (found, missing)
    }

    fn in_flight(&self) -> impl Iterator<Item = &Expect> {
        self.batch.items.iter().rev().chain(self.queue.iter().rev().map(|item| &item.expect))
    }

    fn statement(&self, name: &str) -> Option<&Arc<Prepared>> {
        for expect in self.in_flight() {
            match expect {
                Expect::Parse(n, statement) if n == name => return Some(statement),
                Expect::Close { portal: false, name: n } if n == name => return None,
                _ => {}
            }
        }
        self.statements.get(name)
    }

    fn portal(&self, name: &str) -> Option<&Arc<Portal>> {
        for expect in self.in_flight() {
            match expect {
                Expect::Bind(n, portal) if n == name => return Some(portal),
                Expect::Close { portal: true, name: n } if n == name => return None,
                _ => {}
            }
        }
        self.portals.get(name)
    }

    fn settings(&self) -> Arc<str> {
        let path = self.path.now.schemas().map_or("?".into(), |s| s.join(","));
        format!("search_path={path};status={}", char::from(self.status)).into()
    }

    fn open_transaction(&self) -> bool {
        self.status != b'I' || self.unsynced || !self.queue.is_empty()
    }

    fn command(
        &self,
        text: &Arc<str>,
        facts: &Facts,
        phase: Phase,
        parameters: Arc<[Parameter]>,
        parameters_known: bool,
    ) -> Result<Command, Violation> {
        let (deferred, missing) = self.deferred(facts);
        reading::command(Seen {
            phase,
            text,
            facts,
            deferred: &deferred,
            missing,
            parameters,
            parameters_known,
            in_transaction: self.status == b'T' || self.unsynced,
            settings: self.settings(),
        })
        .ok_or_else(|| broke("a command without an action"))
    }

    fn judge(
        &mut self,
        bytes: Bytes,
        command: Command,
        simple: bool,
        items: Vec<Expect>,
        facts: Option<Arc<Facts>>,
        out: &mut Outputs,
    ) {
        let number = self.next();
        let copies = facts.as_deref().is_some_and(|facts| {
            facts.statements.iter().filter_map(|s| s.copy.as_ref()).any(|copy| {
                copy.direction == CopyDirection::In && copy.target == CopyTarget::Connection
            })
        });
        self.judging = Some(Judging { number, simple, items, facts, copies });
        out.push(Output::Judge { number, draft: Draft::new(bytes, command) });
    }

    fn refuse(&mut self, bytes: Bytes, simple: bool, refusal: Box<Refusal>, out: &mut Outputs) {
        let number = self.next();
        let judging = Judging { number, simple, items: Vec::new(), facts: None, copies: false };
        self.judging = Some(judging);
        out.push(Output::Refuse { number, bytes, refusal });
    }

    /// One whole client message.
    fn message(&mut self, head: Head, whole: Bytes, out: &mut Outputs) -> Result<(), Violation> {
        let body = whole.slice(frame::HEADER_BYTES..);
        let mut reader = Reader::new(&body);
        if (self.discarding || self.failed) && !matches!(head.kind, b'S' | b'X') {
            return Ok(());
        }
        match head.kind {
            b'Q' => {
                let text = reader.text().map_err(malformed("Query"))?;
                reader.finish().map_err(malformed("Query"))?;
                self.query(text, whole.clone(), out)
            }
            b'P' => self.parse(reader, whole.clone(), out),
            b'B' => self.bind(&body, whole.clone(), out),
            b'D' | b'C' => self.describe_or_close(head.kind, reader, &whole, out),
            b'E' => self.execute(reader, whole.clone(), out),
            b'S' => {
                reader.finish().map_err(malformed("Sync"))?;
                self.sync(out)
            }
            b'H' => {
                reader.finish().map_err(malformed("Flush"))?;
                self.flush(FLUSH, out)
            }
            b'X' => {
                reader.finish().map_err(malformed("Terminate"))?;
                self.over = true;
                out.push(Output::End { why: "client" });
                Ok(())
            }
            b'F' => {
                let text: Arc<str> = "function call".into();
                let mut command =
                    self.command(&text, &Facts::default(), Phase::Simple, Arc::default(), false)?;
                command.action =
                    reading::action("function_call").ok_or_else(|| broke("no such action"))?;
                command.purity = Purity::Effect;
                let why = "the protocol's function call names no statement".into();
                command.touches = Touches::Unknown { why, seen: Vec::new() };
                command.effects = bulla_core::Effects::OPAQUE.with(bulla_core::Effects::UNKNOWN);
                self.judge(whole, command, true, vec![Expect::Query], None, out);
                Ok(())
            }
            b'p' => Err(broke("a password that nobody asked for")),
            kind => Err(broke(format!("unknown message type {kind:#04x}"))),
        }
    }

    fn query(&mut self, text: &str, whole: Bytes, out: &mut Outputs) -> Result<(), Violation> {
        match self.read(text) {
            Err(refusal) => self.refuse(whole, true, refusal, out),
            Ok((facts, _, _)) => {
                let command =
                    self.command(&text.into(), &facts, Phase::Simple, Arc::default(), true)?;
                self.judge(whole, command, true, vec![Expect::Query], Some(facts), out);
            }
        }
        Ok(())
    }

    fn push(&mut self, frame: &Bytes, expect: Expect) -> Result<(), Violation> {
        if self.batch.bytes.len() + frame.len() > BATCH_BYTES_MAX {
            return Err(broke("too much before an Execute or Sync"));
        }
        self.batch.bytes.extend_from_slice(frame);
        self.batch.items.push(expect);
        Ok(())
    }

    /// A refusal of what is in the batch: none of it is sent.
    fn refuse_batch(&mut self, whole: &Bytes, refusal: Box<Refusal>, out: &mut Outputs) {
        let mut bytes = std::mem::take(&mut self.batch).bytes;
        bytes.extend_from_slice(whole);
        self.refuse(bytes.freeze(), false, refusal, out);
    }

    fn parse(
        &mut self,
        mut reader: Reader<'_>,
        whole: Bytes,
        out: &mut Outputs,
    ) -> Result<(), Violation> {
        let what = malformed("Parse");
        let name = reader.text().map_err(&what)?.to_string();
        let text = reader.text().map_err(&what)?;
        let count = reader.count16().map_err(&what)?;
        let types = (0..count).map(|_| reader.u32()).collect::<Result<Vec<_>, _>>();
        let types = types.map_err(&what)?;
        reader.finish().map_err(&what)?;
        if self.statements.len() + self.queue.len() > NAMES_MAX {
            return Err(broke("too many prepared statements"));
        }
        match self.read(text) {
            Err(refusal) => self.refuse_batch(&whole, refusal, out),
            Ok((facts, epoch, path)) => {
                let text = text.into();
                let statement = Arc::new(Prepared { text, types, facts, epoch, path });
                self.batch.statement = Some(statement.clone());
                self.batch.last = None;
                self.push(&whole, Expect::Parse(name, statement))?;
            }
        }
        Ok(())
    }

    fn bind(&mut self, body: &Bytes, whole: Bytes, out: &mut Outputs) -> Result<(), Violation> {
        let what = malformed("Bind");
        let mut reader = Reader::new(body);
        let portal = reader.text().map_err(&what)?.to_string();
        let name = reader.text().map_err(&what)?.to_string();
        let count = reader.count16().map_err(&what)?;
        let formats: Vec<u16> =
            (0..count).map(|_| reader.u16()).collect::<Result<_, _>>().map_err(&what)?;
        let values = usize::from(reader.u16().map_err(&what)?);
        let Some(statement) = self.statement(&name).cloned() else {
            // The server would say the same, but what is bound here could not be judged.
            let words =
                format!("refused: prepared statement `{}` is not known", name.escape_debug());
            let hint = "prepare it through this session's protocol first";
            let refusal = reading::principle(RefusalKind::Unreadable, words, hint);
            self.refuse_batch(&whole, refusal, out);
            return Ok(());
        };
        let (mut parameters, mut known) = (Vec::with_capacity(values), true);
        for i in 0..values {
            let format = match formats.len() {
                0 => 0,
                1 => formats.first().copied().unwrap_or(0),
                _ => *formats.get(i).ok_or_else(|| broke("Bind: too few formats"))?,
            };
            if format > 1 {
                return Err(broke("Bind: an unknown format"));
            }
            let kind = statement.types.get(i).copied().unwrap_or(0);
            let length = reader.length32().map_err(&what)?;
            let value = match length {
                None => ParameterValue::Null,
                Some(n) => {
                    let bytes = body.slice_ref(reader.bytes(n).map_err(&what)?);
                    value::decode(kind, format == 1, &bytes)
                }
            };
            known &= !matches!(value, ParameterValue::Bytes(_) | ParameterValue::Large { .. });
            let name = format!("${}", i + 1).into();
            parameters.push(Parameter { name, kind: value::type_name(kind).into(), value });
        }
        let results = reader.count16().map_err(&what)?;
        for _ in 0..results {
            if reader.u16().map_err(&what)? > 1 {
                return Err(broke("Bind: an unknown format"));
            }
        }
        reader.finish().map_err(&what)?;
        let bound = Arc::new(Portal { statement, parameters: parameters.into(), known });
        self.batch.last = Some((bound.clone(), Phase::Bind));
        self.push(&whole, Expect::Bind(portal, bound))
    }

    fn describe_or_close(
        &mut self,
        kind: u8,
        mut reader: Reader<'_>,
        whole: &Bytes,
        _out: &mut Outputs,
    ) -> Result<(), Violation> {
        let what = malformed("Describe or Close");
        let of = reader.u8().map_err(&what)?;
        let name = reader.text().map_err(&what)?.to_string();
        reader.finish().map_err(&what)?;
        if of != b'S' && of != b'P' {
            return Err(broke("Describe or Close of neither a statement nor a portal"));
        }
        if kind == b'C' {
            return self.push(whole, Expect::Close { portal: of == b'P', name });
        }
        if of == b'S' {
            self.batch.statement = self.statement(&name).cloned().or(self.batch.statement.take());
        } else if let Some(portal) = self.portal(&name).cloned() {
            self.batch.last = Some((portal, Phase::Bind));
        }
        self.push(whole, Expect::Describe)
    }

    fn execute(
        &mut self,
        mut reader: Reader<'_>,
        whole: Bytes,
        out: &mut Outputs,
    ) -> Result<(), Violation> {
        let what = malformed("Execute");
        let name = reader.text().map_err(&what)?.to_string();
        reader.u32().map_err(&what)?;
        reader.finish().map_err(&what)?;
        let portal = self.portal(&name).cloned();
        let facts = portal.as_ref().map(|p| self.reread(&p.statement));
        let declared = self.sql_names.get(&name).cloned();
        let (portal, facts) = match (portal, facts, declared) {
            (Some(portal), Some(Ok(facts)), None) => (portal, facts),
            (_, Some(Err(refusal)), _) => {
                self.refuse_batch(&whole, refusal, out);
                return Ok(());
            }
            // A cursor of SQL, or a name that could be either: what runs could not be told.
            _ => {
                let words = format!("refused: portal `{}` is not known", name.escape_debug());
                let hint = "bind it through this session's protocol first, or use FETCH";
                let refusal = reading::principle(RefusalKind::Unreadable, words, hint);
                self.refuse_batch(&whole, refusal, out);
                return Ok(());
            }
        };
        self.push(&whole, Expect::Execute)?;
        let batch = std::mem::take(&mut self.batch);
        let (text, parameters) = (portal.statement.text.clone(), portal.parameters.clone());
        let command = self.command(&text, &facts, Phase::Execute, parameters, portal.known)?;
        self.judge(batch.bytes.freeze(), command, false, batch.items, Some(facts), out);
        Ok(())
    }

    /// Judges what waits in the batch without an Execute. True if something was there.
    fn judge_batch(&mut self, out: &mut Outputs) -> Result<bool, Violation> {
        if self.batch.items.is_empty() {
            return Ok(false);
        }
        let batch = std::mem::take(&mut self.batch);
        let none: (Arc<str>, Facts) = ("close".into(), Facts::default());
        let command = match (&batch.last, &batch.statement) {
            (Some((portal, phase)), _) => {
                let facts = match self.reread(&portal.statement) {
                    Ok(facts) => facts,
                    Err(refusal) => {
                        self.refuse(batch.bytes.freeze(), false, refusal, out);
                        return Ok(true);
                    }
                };
                let text = portal.statement.text.clone();
                self.command(&text, &facts, *phase, portal.parameters.clone(), portal.known)?
            }
            (None, Some(statement)) => {
                let text = statement.text.clone();
                self.command(&text, &statement.facts, Phase::Parse, Arc::default(), false)?
            }
            (None, None) => {
                let mut command =
                    self.command(&none.0, &none.1, Phase::Parse, Arc::default(), true)?;
                command.action =
                    reading::action("deallocate").ok_or_else(|| broke("no such action"))?;
                command
            }
        };
        self.judge(batch.bytes.freeze(), command, false, batch.items, None, out);
        Ok(true)
    }

    fn flush(&mut self, constant: &'static [u8], out: &mut Outputs) -> Result<(), Violation> {
        if !self.judge_batch(out)? {
            out.push(Output::Control(Control(constant)));
        } else if let Some(judging) = &mut self.judging {
            // The Flush follows when the batch is cleared; a refusal makes it needless.
            judging.items.push(Expect::Say(Bytes::new()));
        }
        Ok(())
    }

    fn sync(&mut self, out: &mut Outputs) -> Result<(), Violation> {
        if self.discarding {
            self.discarding = false;
            self.unsynced = false;
            self.queue.push_back(Item { number: 0, expect: Expect::Ready, last: false });
            self.drain(out);
            return Ok(());
        }
        if self.failed {
            self.failed = false;
            self.batch = Batch::default();
        }
        if self.judge_batch(out)? {
            if let Some(judging) = &mut self.judging {
                judging.items.push(Expect::Sync);
            }
            return Ok(());
        }
        self.unsynced = false;
        out.push(Output::Control(Control(SYNC)));
        self.queue.push_back(Item { number: 0, expect: Expect::Sync, last: false });
        Ok(())
    }

    /// What a command in flight will make of names and settings.
    fn remember(&mut self, number: u64, facts: &Facts) {
        for statement in &facts.statements {
            for name_use in &statement.names {
                if let NameUse::Prepare { name, .. } | NameUse::Declare { name, .. } = name_use {
                    let bodies = self.sql_names.entry(name.clone()).or_default();
                    let body = Facts { statements: vec![statement.clone()] };
                    if !bodies.iter().any(|known| **known == body) {
                        bodies.push(Arc::new(body));
                    }
                }
            }
            self.temp |= statement.creates.iter().any(|made| made.temporary)
                || statement.effects.contains(bulla_sql::Effects::OPAQUE);
            self.relearn |= statement.effects.contains(bulla_sql::Effects::SCHEMA);
            for setting in &statement.settings {
                let all = setting.action == SettingAction::ResetAll;
                let ours = setting.name.as_deref() == Some("search_path");
                if setting.is_show() || !(all || ours) {
                    continue;
                }
                let local = setting.scope == SettingScope::Local;
                let path = match (&setting.action, &setting.value) {
                    (SettingAction::Reset | SettingAction::ResetAll, _)
                    | (SettingAction::Set, SettingValue::Default) => self.path.initial.clone(),
                    (SettingAction::Set, SettingValue::Literal(value)) => {
                        let user = self.shared.knowledge.get(&self.place);
                        SearchPath::parse(value, user.as_deref().map_or("", Catalog::user))
                    }
                    _ => SearchPath::unknown(),
                };
                // Beside other statements, which one came first could not be told.
                let alone = facts.statements.len() == 1 && self.path.coming.is_none();
                let path = if alone { path } else { SearchPath::unknown() };
                self.path.coming = Some((number, path, local));
            }
            if let Some(bulla_sql::facts::Tx::RollbackTo(_)) = statement.transaction
                && self.path.before.is_some()
            {
                self.path.coming = Some((number, SearchPath::unknown(), true));
            }
        }
    }

    /// The command ended: its change of the path took effect, or did not.
    fn settle_path(&mut self, number: u64, ok: bool) {
        let Some((of, path, local)) = self.path.coming.take() else { return };
        if of != number {
            self.path.coming = Some((of, path, local));
            return;
        }
        if ok {
            let before = std::mem::replace(&mut self.path.now, path);
            let was_local = self.path.before.as_ref().is_some_and(|(_, local)| *local);
            self.path.before.get_or_insert((before, local));
            if let Some((_, only)) = &mut self.path.before {
                *only = local || was_local;
            }
        }
    }

    /// ReadyForQuery: a transaction that ended takes local changes, and failed ones, with it.
    fn settle_transaction(&mut self, status: u8) {
        if status == b'I'
            && let Some((before, local)) = self.path.before.take()
            && (local || &*self.last_end == "ROLLBACK")
        {
            self.path.now = before;
        }
        if status == b'I' {
            self.portals.clear();
            self.last_end = "".into();
        }
        self.status = status;
    }

    /// Says what the gateway has to say as soon as its turn has come.
    fn drain(&mut self, out: &mut Outputs) {
        while let Some(item) = self.queue.front() {
            match &item.expect {
                Expect::Say(bytes) => {
                    if !bytes.is_empty() {
                        out.push(Output::ToClient(bytes.clone()));
                    }
                }
                Expect::Ready => {
                    let mut words = BytesMut::new();
                    frame::ready(&mut words, self.status);
                    out.push(Output::ToClient(words.freeze()));
                }
                _ => return,
            }
            self.queue.pop_front();
        }
    }

    fn outcome(&mut self) -> Outcome {
        let status = match self.error.take() {
            None => Status::Ok,
            Some(code) if &*code == "57014" => Status::Cancelled,
            Some(code) => Status::Error(code),
        };
        Outcome { status, tag: self.tag.take(), rows: std::mem::take(&mut self.rows) }
    }

    /// An error in the extended protocol: the server skips to Sync, and so does the queue.
    fn skip_to_sync(&mut self, number: u64, out: &mut Outputs) {
        let mut poisoned = false;
        while let Some(item) = self.queue.front() {
            if matches!(item.expect, Expect::Sync | Expect::SwallowSync | Expect::Ready) {
                break;
            }
            let (of, last) = (item.number, item.last);
            poisoned |= matches!(item.expect, Expect::Poison);
            self.queue.pop_front();
            if of != number && of != 0 && last {
                self.settle_path(of, false);
                let outcome = Outcome { status: Status::Skipped, tag: None, rows: 0 };
                out.push(Output::Done { number: of, outcome });
            }
        }
        if poisoned {
            // One error to a Sync: the refusal behind this one would be a second.
            let refusal = self.queue.iter().position(|item| matches!(item.expect, Expect::Say(_)));
            refusal.map(|at| self.queue.remove(at));
        }
        self.failed = self.queue.is_empty();
    }
}

/// What becomes of a server's message.
enum Pass {
    /// To the client, for the command.
    On(u64),
    /// The same, and the command has ended.
    End(u64, Outcome),
    Drop,
}

impl Machine {
    /// Ends the command at the front, or keeps its outcome for the ReadyForQuery right behind it.
    fn ended(&mut self, number: u64) -> Pass {
        let outcome = self.outcome();
        let ok = outcome.status == Status::Ok;
        self.settle_path(number, ok);
        if matches!(self.queue.front().map(|item| &item.expect), Some(Expect::Sync)) {
            self.finishing = Some((number, outcome));
            return Pass::On(number);
        }
        Pass::End(number, outcome)
    }

    fn pop(&mut self) -> (u64, bool) {
        self.queue.pop_front().map_or((0, false), |item| (item.number, item.last))
    }

    fn answer(&mut self, kind: u8, body: &[u8], out: &mut Outputs) -> Result<Pass, Violation> {
        let number = self.queue.front().map_or(0, |item| item.number);
        let ours = matches!(
            self.queue.front().map(|item| &item.expect),
            Some(Expect::Poison | Expect::SwallowSync)
        );
        match kind {
            b'A' | b'N' | b'S' => {
                if kind == b'S' {
                    self.reported(body)?;
                }
                // Not an answer to anything: it must not end up inside a swallowed one.
                return Ok(if ours && kind == b'N' { Pass::Drop } else { Pass::On(number) });
            }
            _ => {}
        }
        let Some(item) = self.queue.front() else {
            // A FATAL of a server that is going away is all that may come unasked.
            return if kind == b'E' { Ok(Pass::On(0)) } else { Err(broke("an answer to nothing")) };
        };
        let unexpected = || broke(format!("an answer {:?} out of turn", char::from(kind)));
        match (&item.expect, kind) {
            (Expect::Poison, b'E') => Ok(Pass::Drop),
            (Expect::Poison | Expect::SwallowSync, b'Z') => {
                self.settle_transaction(*body.first().unwrap_or(&b'I'));
                self.queue.pop_front();
                Ok(Pass::Drop)
            }
            (Expect::Query, b'Z') => {
                let (number, _) = self.pop();
                let outcome = self.outcome();
                self.settle_path(number, outcome.status == Status::Ok);
                self.settle_transaction(*body.first().unwrap_or(&b'I'));
                Ok(Pass::End(number, outcome))
            }
            (Expect::Sync, b'Z') => {
                self.queue.pop_front();
                self.settle_transaction(*body.first().unwrap_or(&b'I'));
                Ok(match self.finishing.take() {
                    Some((number, outcome)) => Pass::End(number, outcome),
                    None => Pass::On(0),
                })
            }
            (_, b'Z') => Err(unexpected()),
            (Expect::Query, b'E') => {
                self.error = Some(sqlstate(body));
                Ok(Pass::On(number))
            }
            (_, b'E') => {
                self.error = Some(sqlstate(body));
                self.skip_to_sync(number, out);
                Ok(self.ended(number))
            }
            (Expect::Parse(..), b'1') => {
                if let Some(Item { expect: Expect::Parse(name, statement), number, last }) =
                    self.queue.pop_front()
                {
                    self.statements.insert(name, statement);
                    return Ok(if last { self.ended(number) } else { Pass::On(number) });
                }
                Err(unexpected())
            }
            (Expect::Bind(..), b'2') => {
                if let Some(Item { expect: Expect::Bind(name, portal), number, last }) =
                    self.queue.pop_front()
                {
                    self.portals.insert(name, portal);
                    return Ok(if last { self.ended(number) } else { Pass::On(number) });
                }
                Err(unexpected())
            }
            (Expect::Close { .. }, b'3') => {
                if let Some(Item { expect: Expect::Close { portal, name }, number, last }) =
                    self.queue.pop_front()
                {
                    if portal {
                        self.portals.remove(&name);
                    } else {
                        self.statements.remove(&name);
                    }
                    return Ok(if last { self.ended(number) } else { Pass::On(number) });
                }
                Err(unexpected())
            }
            (Expect::Describe, b't') => Ok(Pass::On(number)),
            (Expect::Describe, b'T' | b'n') => {
                let (number, last) = self.pop();
                Ok(if last { self.ended(number) } else { Pass::On(number) })
            }
            (Expect::Execute, b'C' | b'I' | b's') => {
                self.completed(kind, body, out);
                let (number, last) = self.pop();
                Ok(if last { self.ended(number) } else { Pass::On(number) })
            }
            (Expect::Query, b'C' | b'I') => {
                self.completed(kind, body, out);
                Ok(Pass::On(number))
            }
            (Expect::Query, b'V') => Ok(Pass::On(number)),
            (Expect::Query, b'T' | b'D' | b'G' | b'H' | b'd' | b'c')
            | (Expect::Execute, b'D' | b'G' | b'H' | b'd' | b'c') => {
                self.rows += u64::from(kind == b'D' || kind == b'd');
                Ok(Pass::On(number))
            }
            (_, b'W') => Err(broke("a server that wants to replicate")),
            _ => Err(unexpected()),
        }
    }

    fn completed(&mut self, kind: u8, body: &[u8], out: &mut Outputs) {
        let tag = body.split(|b| *b == 0).next().unwrap_or_default();
        let tag: Arc<str> = String::from_utf8_lossy(tag).into();
        if kind == b'C' {
            if matches!(&*tag, "COMMIT" | "ROLLBACK" | "PREPARE TRANSACTION") {
                self.last_end = tag.clone();
            }
            let counted = tag.rsplit(' ').next().and_then(|n| n.parse().ok());
            self.rows = self.rows.max(counted.unwrap_or(0));
            self.tag = Some(tag);
        }
        if std::mem::take(&mut self.relearn) {
            out.push(Output::Relearn);
        }
    }

    fn reported(&mut self, body: &[u8]) -> Result<(), Violation> {
        let mut reader = Reader::new(body);
        let name = reader.text().map_err(malformed("ParameterStatus"))?;
        let value = reader.text().map_err(malformed("ParameterStatus"))?;
        let bad = (name == "client_encoding" && value != "UTF8")
            || (name == "standard_conforming_strings" && value != "on");
        if bad { Err(broke(format!("the server changed `{name}`"))) } else { Ok(()) }
    }
}

fn sqlstate(body: &[u8]) -> Arc<str> {
    let mut reader = Reader::new(body);
    while let Ok(field) = reader.u8() {
        let Ok(text) = reader.until_nul() else { break };
        if field == b'C' && text.len() == 5 && text.iter().all(u8::is_ascii_alphanumeric) {
            return String::from_utf8_lossy(text).into();
        }
    }
    "XX000".into()
}

fn code(kind: RefusalKind) -> &'static str {
    match kind {
        RefusalKind::Denied | RefusalKind::Rejected | RefusalKind::HoldUnavailable => "42501",
        RefusalKind::HoldExpired | RefusalKind::Withdrawn => "57014",
        RefusalKind::Unreadable => "42601",
        RefusalKind::TooLarge => "54000",
        RefusalKind::NotSupported => "0A000",
        RefusalKind::Recorder => "58030",
        RefusalKind::Expired => "28000",
        RefusalKind::Ended => "57P01",
        RefusalKind::Bug => "XX000",
    }
}

impl Wire for Machine {
    fn client(&mut self, input: &mut BytesMut, out: &mut Outputs) -> Result<(), Violation> {
        while self.takes_client() && !input.is_empty() {
            if self.skipping > 0 {
                let n = self.skipping.min(input.len());
                drop(input.split_to(n));
                self.skipping -= n;
                continue;
            }
            if self.copy_left > 0 {
                let n = self.copy_left.min(input.len());
                let bytes = input.split_to(n).freeze();
                self.copy_left -= n;
                if let Some(number) = self.copying {
                    out.push(Output::More { number, bytes });
                }
                continue;
            }
            let head = match frame::head(input) {
                Ok(Some(head)) => head,
                Ok(None) => return Ok(()),
                Err(error) => return Err(malformed("a message")(error)),
            };
            if matches!(head.kind, b'd' | b'c' | b'f') {
                // After a COPY that failed the rest of it may still arrive: it has no ticket then.
                if self.copying.is_none() {
                    return Err(broke("copy data outside of a COPY"));
                }
                if head.kind != b'd' && head.total() > CLIENT_MESSAGE_BYTES_MAX {
                    return Err(broke("a CopyFail of more than 32 MiB"));
                }
                self.copy_left = head.total();
                continue;
            }
            let text = matches!(head.kind, b'Q' | b'P');
            let max = if text {
                self.shared.analyzer.limits().statement_bytes_max + 64 * 1024
            } else {
                CLIENT_MESSAGE_BYTES_MAX
            };
            if head.total() > max {
                self.skipping = head.total();
                if !self.discarding {
                    let words =
                        format!("refused: a message of {} bytes, at most {max}", head.total());
                    let hint = "send large values with COPY";
                    let refusal = reading::principle(RefusalKind::TooLarge, words, hint);
                    self.batch = Batch::default();
                    self.refuse(Bytes::new(), head.kind == b'Q', refusal, out);
                }
                continue;
            }
            if input.len() < head.total() {
                input.reserve(head.total() - input.len());
                return Ok(());
            }
            let whole = input.split_to(head.total()).freeze();
            self.message(head, whole, out)?;
        }
        Ok(())
    }

    fn target(&mut self, input: &mut BytesMut, out: &mut Outputs) -> Result<(), Violation> {
        // `at` bytes at the front of the input belong to the run of `run`.
        let (mut at, mut run) = (0usize, 0u64);
        loop {
            if self.server_left > 0 {
                let n = self.server_left.min(input.len().saturating_sub(at));
                at += n;
                self.server_left -= n;
                if self.server_left > 0 {
                    break;
                }
            }
            let rest = input.get(at..).unwrap_or_default();
            let Some(head) = frame::head(rest).map_err(malformed("the server's message"))? else {
                break;
            };
            let row = matches!(head.kind, b'D' | b'd');
            if rest.len() < head.total() && !row {
                if head.total() > SERVER_MESSAGE_BYTES_MAX {
                    return Err(broke("a server's message of more than 32 MiB"));
                }
                break;
            }
            let end = head.total().min(rest.len());
            let body = rest.get(frame::HEADER_BYTES..end).unwrap_or_default().to_vec_if(!row);
            let mut aside = Outputs::new();
            let pass = self.answer(head.kind, &body, &mut aside)?;
            let number = match &pass {
                Pass::On(number) | Pass::End(number, _) => *number,
                Pass::Drop => run,
            };
            if at > 0 && (number != run || matches!(pass, Pass::Drop)) {
                let bytes = input.split_to(at).freeze();
                out.push(Output::Reply { number: run, bytes, done: None });
                at = 0;
            }
            run = number;
            match pass {
                Pass::Drop => drop(input.split_to(end)),
                Pass::On(_) => {
                    at += end;
                    self.server_left = head.total() - end;
                }
                Pass::End(number, outcome) => {
                    let bytes = input.split_to(at + end).freeze();
                    at = 0;
                    out.push(Output::Reply { number, bytes, done: Some(outcome) });
                }
            }
            out.append(&mut aside);
            // The gateway's own words come behind what has been answered so far.
            if matches!(
                self.queue.front().map(|item| &item.expect),
                Some(Expect::Say(_) | Expect::Ready)
            ) {
                if at > 0 {
                    let bytes = input.split_to(at).freeze();
                    at = 0;
                    out.push(Output::Reply { number: run, bytes, done: None });
                }
                self.drain(out);
            }
        }
        if at > 0 {
            let bytes = input.split_to(at).freeze();
            out.push(Output::Reply { number: run, bytes, done: None });
        }
        Ok(())
    }

    fn cleared(&mut self, number: u64, _owe: &Obligations, out: &mut Outputs) {
        let Some(judging) = self.judging.take_if(|j| j.number == number) else { return };
        if let Some(facts) = &judging.facts {
            self.remember(number, facts);
        }
        self.copying = if judging.copies { Some(number) } else { self.copying };
        self.unsynced |= !judging.simple;
        let mut items = judging.items;
        // While it was judged, an earlier message failed: the server skips this one.
        if self.failed && !judging.simple {
            let outcome = Outcome { status: Status::Skipped, tag: None, rows: 0 };
            out.push(Output::Done { number, outcome });
            items.retain(|expect| matches!(expect, Expect::Sync));
        }
        // A Sync or Flush that came with it goes right behind it, as a constant.
        let mut sync = false;
        match items.last() {
            Some(Expect::Sync) => {
                items.pop();
                out.push(Output::Control(Control(SYNC)));
                sync = true;
            }
            Some(Expect::Say(_)) => {
                items.pop();
                out.push(Output::Control(Control(FLUSH)));
            }
            _ => {}
        }
        let count = items.len();
        for (i, expect) in items.into_iter().enumerate() {
            self.queue.push_back(Item { number, expect, last: i + 1 == count });
        }
        if sync {
            (self.unsynced, self.failed) = (false, false);
            self.queue.push_back(Item { number: 0, expect: Expect::Sync, last: false });
        }
    }

    fn refused(&mut self, number: u64, refusal: &Refusal, out: &mut Outputs) {
        let Some(judging) = self.judging.take_if(|j| j.number == number) else { return };
        let synced = matches!(judging.items.last(), Some(Expect::Sync));
        if self.failed && !judging.simple {
            // One error to a Sync, and the server has said it.
            if synced {
                (self.unsynced, self.failed) = (false, false);
                out.push(Output::Control(Control(SYNC)));
                self.queue.push_back(Item { number: 0, expect: Expect::Sync, last: false });
            }
            self.batch = Batch::default();
            return;
        }
        let failed = self.status == b'E' && self.queue.is_empty();
        if self.open_transaction() && !failed {
            out.push(Output::Control(Control(POISON)));
            self.queue.push_back(Item { number: 0, expect: Expect::Poison, last: false });
            if !judging.simple || self.unsynced {
                // If an earlier message failed, the server skips the poison and stops here.
                out.push(Output::Control(Control(SYNC)));
                self.queue.push_back(Item { number: 0, expect: Expect::SwallowSync, last: false });
            }
        }
        let mut words = BytesMut::new();
        frame::refusal(&mut words, "ERROR", code(refusal.kind), refusal);
        let expect = Expect::Say(words.freeze());
        self.queue.push_back(Item { number: 0, expect, last: false });
        if judging.simple || synced {
            self.unsynced = false;
            self.queue.push_back(Item { number: 0, expect: Expect::Ready, last: false });
        } else {
            self.discarding = true;
        }
        self.batch = Batch::default();
        self.drain(out);
    }

    fn held(&mut self, number: u64, notice: &HoldNotice, out: &mut Outputs) {
        if self.judging.as_ref().is_none_or(|judging| judging.number != number) {
            return;
        }
        let groups = notice.groups.join(", ");
        let message = format!(
            "bulla: waiting for approval {} ({} of group {groups})",
            notice.id, notice.quorum
        );
        let hint = format!("bulla approvals show {}", notice.id);
        let said = Said {
            severity: "NOTICE",
            code: "ZA001",
            message: &message,
            detail: None,
            hint: Some(&hint),
            position: None,
        };
        let mut words = BytesMut::new();
        said.put(&mut words, b'N');
        // Between messages a notice may come at any time.
        if self.server_left == 0 {
            out.push(Output::ToClient(words.freeze()));
        }
    }

    fn takes_client(&self) -> bool {
        self.judging.is_none() && !self.over && self.queue.len() < IN_FLIGHT_MAX
    }

    fn at_rest(&self) -> bool {
        self.judging.is_none()
            && self.queue.is_empty()
            && self.status == b'I'
            && self.batch.items.is_empty()
            && self.server_left == 0
            && self.copy_left == 0
    }

    fn in_transaction(&self) -> bool {
        self.status != b'I'
    }

    fn farewell(&mut self, refusal: &Refusal, out: &mut Outputs) {
        self.over = true;
        let mut words = BytesMut::new();
        // In the middle of a row there is no place for words: the client sees the end alone.
        if self.server_left == 0 {
            let code =
                if refusal.kind == RefusalKind::Expired { "57P01" } else { code(refusal.kind) };
            frame::refusal(&mut words, "FATAL", code, refusal);
            out.push(Output::ToClient(words.freeze()));
        }
        out.push(Output::End { why: "ended" });
    }

    fn target_lost(&mut self, why: &str, out: &mut Outputs) {
        self.over = true;
        let mut told = std::collections::BTreeSet::new();
        for item in self.queue.drain(..) {
            if item.number != 0 && told.insert(item.number) {
                let outcome = Outcome { status: Status::TargetLost, tag: None, rows: self.rows };
                out.push(Output::Done { number: item.number, outcome });
            }
        }
        if self.server_left == 0 {
            let hint = "whether the command took effect is not known; connect again and look";
            out.push(Output::ToClient(frame::fatal("08006", why, Some(hint))));
        }
        out.push(Output::End { why: "target_lost" });
    }

    fn held_bytes(&self) -> usize {
        self.batch.bytes.len()
    }

    fn cancel(&mut self) -> Option<(u64, Draft<Bytes>)> {
        let facts = Facts::default();
        let text = "cancel".into();
        let mut command = self.command(&text, &facts, Phase::Simple, Arc::default(), true).ok()?;
        command.action = reading::action("cancel")?;
        command.purity = Purity::Effect;
        Some((self.next(), Draft::new(Bytes::new(), command)))
    }
}

/// Bodies of rows are never looked at, so they are never copied.
trait ToVecIf {
    fn to_vec_if(&self, wanted: bool) -> Vec<u8>;
}

impl ToVecIf for [u8] {
    fn to_vec_if(&self, wanted: bool) -> Vec<u8> {
        if wanted { self.to_vec() } else { Vec::new() }
    }
}
