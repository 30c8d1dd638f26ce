//! The session: what the client sends is read and judged, what the server answers is attributed.
//!
//! Two halves share one queue. The client half (`client`) turns messages into drafts and, when a
//! draft is cleared, appends what the server will answer; the server half (`reply`) takes answers
//! off its front. Here is what both share, and the [`Wire`] that drives them.
//!
//! A *segment* is all that stands or falls together: one simple query, or everything up to a Sync.

use std::{collections::VecDeque, sync::Arc};

use bulla_core::{
    Draft, Effects, Obligations, Outcome, ParameterValue, Purity, Refusal, Status, Touches,
};
use bulla_sql::{Facts, catalog::Temporary};
use bulla_wire::{
    Block, Control, HoldNotice, Opened, Output, Outputs, Place, Reveals, Violation, Wire,
};
use bytes::{Bytes, BytesMut};

use crate::{
    Shared,
    ask::{self, Question},
    frame,
    heard::{Pid, Registered},
    judge::Still,
    login,
    mask::Veil,
    names::{Change, Names, Portal, Prepared, Segment},
    reading::{self, Phase, Transaction},
    refusal::{self, FLUSH, POISON, SYNC},
    steps::Step,
    world::{Turn, World},
};

/// Outcomes that wait for the end of their segment; of more the first are told as uncommitted.
pub const FINISHING_MAX: usize = 1_000;
/// Messages of one session whose answers may be outstanding.
pub const IN_FLIGHT_MAX: usize = 10_000;

/// What a message from the server must be for the item at the front of the queue.
#[derive(Debug)]
pub enum Expect {
    Parse(Change<Prepared>),
    Bind(Change<Portal>),
    CloseStatement(Change<Prepared>),
    ClosePortal(Change<Portal>),
    /// Of a statement, whose types are learned; or of a portal.
    Describe(Option<Arc<Prepared>>),
    Execute,
    /// A simple query, up to its ReadyForQuery.
    Query,
    /// A function call, up to its ReadyForQuery.
    Call,
    /// The client's own Sync: its ReadyForQuery goes to the client. `copy`: it was sent while that
    /// command could still take copy data, and then the server does not answer it.
    Sync {
        copy: Option<u64>,
    },
    /// Ours, and so are its answers.
    Poison,
    PoisonSync,
    Probe,
    /// The gateway's own words, when their turn comes.
    Say(Bytes),
    /// ReadyForQuery of the gateway, with the status as it then is. `query`: of a simple query,
    /// which drops the unnamed statement and portal even when it is refused.
    Ready {
        query: bool,
    },
}

#[derive(Debug)]
pub struct Item {
    /// The command it belongs to; 0 for none.
    pub number: u64,
    pub expect: Expect,
    /// The last of its command.
    pub last: bool,
    /// Where names lead may be different once it is answered.
    pub turning: bool,
}

/// A command that was cleared and is not answered whole.
#[derive(Debug, Default)]
pub struct Running {
    pub number: u64,
    /// Of statements that are done, and of the one that is not.
    pub rows: u64,
    pub rows_now: u64,
    /// Rows and bytes of rows that were passed on.
    pub passed: (u64, u64),
    pub max: (Option<u64>, Option<u64>),
    pub tag: Option<Arc<str>>,
    pub error: Option<Arc<str>>,
    /// What its statements change, from the one that is next. Empty when none changes anything.
    pub steps: VecDeque<Step>,
    /// How often the server may still ask for copy data.
    pub copies: usize,
    /// It may have an effect that its transaction can take back.
    pub effect: bool,
    /// It ended a transaction.
    pub settled: bool,
    /// A simple query drops the unnamed statement and portal.
    pub drops_unnamed: bool,
    /// What its answers may not hold.
    pub veil: Option<Arc<Veil>>,
    /// Which statement of the text is answered now, and what masks the rows of those that run
    /// something by name.
    pub at: usize,
    pub by_name: Vec<Option<Arc<Veil>>>,
    /// Formats of its rows, where values in them are masked.
    pub formats: Option<Arc<[i16]>>,
    /// Types of its rows, as far as the server described them.
    pub types: Option<Arc<[u32]>>,
    /// Its copy data is in binary, and some of it came.
    pub copies_binary: bool,
    pub copy_begun: bool,
    pub statement: Option<Arc<Prepared>>,
}

/// A command that was answered, and whose outcome waits for the end of its segment.
#[derive(Debug)]
pub struct Ended {
    pub number: u64,
    pub outcome: Outcome,
    /// Its transaction ended within the segment, so that the segment's end changes nothing for it.
    pub settled: bool,
}

/// How a draft is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Up to a ReadyForQuery of its own.
    Simple,
    Extended,
    /// As `Extended`, and so many bytes of its last message are still to come.
    Streaming(usize),
}

/// A draft at the gate.
#[derive(Debug)]
pub struct Judging {
    pub number: u64,
    pub manner: Manner,
    pub items: Vec<Expect>,
    pub steps: Vec<Step>,
    /// How often it takes copy data.
    pub copies: usize,
    /// It ends, or begins, a transaction.
    pub coming: Option<u8>,
    pub effect: bool,
    /// What it was read to mean, where that depends on the catalogue.
    pub meaning: Option<Meaning>,
    /// The server's own SQLSTATE for a refusal on principle.
    pub code: Option<&'static str>,
    /// What its answers may not hold.
    pub veil: Option<Arc<Veil>>,
    /// What masks the rows of its statements that run something by name.
    pub by_name: Vec<Option<Arc<Veil>>>,
    pub formats: Option<Arc<[i16]>>,
    pub statement: Option<Arc<Prepared>>,
}

/// What a text was read to mean, and when.
#[derive(Debug)]
pub struct Meaning {
    /// As it is sent.
    pub text: Arc<str>,
    /// As the client wrote it, where that is known.
    pub original: Option<Arc<str>>,
    pub facts: Arc<Facts>,
    /// Of what it runs by name.
    pub deferred: Vec<Arc<Facts>>,
    /// The shared catalogue at that time.
    pub epoch: Option<u64>,
    /// What was hidden from the session, if anything was.
    pub hidden: Option<u64>,
}

/// Messages of the extended protocol that are not judged yet. All are about one statement.
#[derive(Debug, Default)]
pub struct Batch {
    pub bytes: BytesMut,
    pub items: Vec<Expect>,
    pub statement: Option<Arc<Prepared>>,
    /// The statement is the unnamed one of an earlier segment.
    pub unnamed: bool,
    pub portal: Option<Arc<Portal>>,
}

/// The segment that the client is in.
#[derive(Debug, Default)]
pub struct Now {
    pub id: Segment,
    /// The server has something of it, so that it needs the Sync.
    pub sent: bool,
    /// Something of it was refused: the rest is dropped, as a server would.
    pub discarding: bool,
    /// Something of it failed at the server, which skips the rest.
    pub skipped: bool,
    /// Once something of it was sent: the transaction that the next of it finds has failed, so that
    /// its COMMIT is a ROLLBACK.
    pub rolls_back: bool,
    /// Something of it moves names, or would if it were not skipped.
    pub turned: bool,
    /// Its answers were asked for, because there are many; or because what follows needs them.
    pub flushed: bool,
    pub awaited: bool,
}

/// A client's message that is passed on in pieces.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    pub number: u64,
    pub left: usize,
}

/// The command that takes copy data.
#[derive(Debug, Clone, Copy)]
pub struct Copying {
    pub number: u64,
    /// How often it still does.
    pub left: usize,
    /// How often the server said that it is ready for it, and how often the client said that this
    /// was all.
    pub begun: usize,
    pub done: usize,
}

impl Copying {
    /// The server takes copy data now.
    pub fn is_started(&self) -> bool {
        self.begun > self.done
    }
}

/// The gateway's own question to the server.
#[derive(Debug, Default)]
pub enum Probe {
    #[default]
    Idle,
    Asked(Box<Question>),
}

/// What was done already to remove a doubt about the message at hand: each helps once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tried {
    pub probe: bool,
    pub look: bool,
    pub refresh: bool,
}

/// A connection that speaks the replication protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// With a database: simple queries may be SQL.
    Logical,
    /// Without: nothing is SQL.
    Physical,
}

pub struct Machine {
    pub shared: Arc<Shared>,
    pub place: Place,
    pub block: Block,
    pub reveals: Reveals,
    pub numbers: u64,

    /// A client message that has begun and is longer than what is read at once.
    pub partial: BytesMut,
    /// A whole client message whose turn has not come.
    pub waiting: Option<(frame::Head, Bytes)>,
    /// Bytes of a client message that is dropped.
    pub dropping: usize,
    pub stream: Option<Stream>,
    pub copy: Option<Copying>,
    /// A COPY failed, and the client may not have heard of it: its data is dropped.
    pub copy_tail: bool,
    pub batch: Batch,
    pub judging: Option<Judging>,
    pub now: Now,

    pub queue: VecDeque<Item>,
    pub running: VecDeque<Running>,
    pub statements: Names<Prepared>,
    pub portals: Names<Portal>,
    /// As confirmed; and as it will be when what is in flight succeeds, if that differs.
    pub world: World,
    pub view: Option<World>,
    /// Segments of what is in flight and may move names, in order.
    pub turning: VecDeque<Segment>,
    pub probe: Probe,
    pub tried: Tried,
    /// The shared catalogue that was doubted last, so that each is doubted once.
    pub doubted: u64,
    /// What RESET goes back to; `None` where something else than the login decided.
    pub initial_path: Option<Arc<str>>,
    pub replication: Option<Replication>,

    /// The transaction status of the last ReadyForQuery: I, T or E; and as it will be.
    pub status: u8,
    pub coming: u8,
    /// Something of the segment at the front failed.
    pub failed: bool,
    /// The path as a server that reports it last said.
    pub reported: Option<Arc<str>>,
    /// A server message that is passed on in pieces: bytes to come, and its command.
    pub passing: Option<(usize, u64)>,
    /// Outcomes that wait for the ReadyForQuery behind them, which says whether they stay; the last
    /// is told with it.
    pub finishing: VecDeque<Ended>,
    /// An outcome that waits for the end of the client's message.
    pub late: Option<(u64, Outcome)>,
    /// A notice that waits for the end of a server's message.
    pub notice: Option<Bytes>,
    /// The session's own number at the server, as notifications name who sent them.
    pub own_pid: Option<Pid>,
    pub registered: Option<Registered>,
    /// The transaction touched masked columns, so that what is said at its end may hold values.
    pub veiled: Option<Arc<Veil>>,
    pub cancelled: bool,
    pub relearn: bool,
    /// The target has said its last words, and the client has them.
    pub fatal: bool,
    /// The client said goodbye and waits for what is in flight.
    pub leaving: bool,
    pub over: bool,
}

impl Machine {
    pub fn new(shared: Arc<Shared>, opened: &Opened) -> Self {
        let each = |name: &'static str| {
            let parameters = opened.target.parameters.iter();
            parameters.filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
        };
        let said = |name| each(name).next();
        let replication = said(login::REPLICATION).map(|kind| match kind {
            "database" => Replication::Logical,
            _ => Replication::Physical,
        });
        // What the target answered at the login; without that, nothing is known until it is asked.
        let mut world = World::unknown();
        let path: Option<Arc<str>> = said(login::PATH).map(Into::into);
        if let (Some(user), Some(path)) = (said(login::USER), &path) {
            world.told_path(path, false);
            let tables = each(login::TEMPORARY).map(|name| Some((name.into(), Temporary::Own)));
            let views = each(login::TEMPORARY_VIEW).map(ask::temporary_view);
            if let Some(temporary) = tables.chain(views).collect() {
                world.told(user, temporary);
            }
        }
        // A login trigger may have set another path than the one that RESET goes back to.
        let initial_path = path.filter(|path| said(login::ASKED_PATH) == Some(&**path));
        // Servers from 18 on report it and always will.
        let reported = said("search_path").map(Into::into);
        let own_pid: Option<Pid> = opened.target.cancel_key.first_chunk().copied();
        let speaks = own_pid.filter(|_| shared.masking.of(&opened.place.resource).is_some());
        let registered = speaks.map(|pid| {
            Registered::new(&shared.masking.speakers, &opened.place, pid, &opened.reveals)
        });
        Self {
            shared,
            place: opened.place.clone(),
            block: opened.block.clone(),
            reveals: opened.reveals.clone(),
            numbers: 0,
            partial: BytesMut::new(),
            waiting: None,
            dropping: 0,
            stream: None,
            copy: None,
            copy_tail: false,
            batch: Batch::default(),
            judging: None,
            now: Now { id: 1, ..Now::default() },
            queue: VecDeque::new(),
            running: VecDeque::new(),
            statements: Names::default(),
            portals: Names::default(),
            world,
            view: None,
            turning: VecDeque::new(),
            probe: Probe::Idle,
            tried: Tried::default(),
            doubted: 0,
            initial_path,
            replication,
            status: b'I',
            coming: b'I',
            failed: false,
            reported,
            passing: None,
            finishing: VecDeque::new(),
            late: None,
            notice: None,
            own_pid,
            registered,
            veiled: None,
            cancelled: false,
            relearn: false,
            fatal: false,
            leaving: false,
            over: false,
        }
    }

    pub fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// The next segment begins.
    pub fn next_segment(&mut self) {
        self.now = Now { id: self.now.id + 1, ..Now::default() };
    }

    /// The transaction that a command sent now will find.
    pub fn transaction(&self) -> Transaction {
        let status = if self.queue.is_empty() { self.status } else { self.coming };
        match status {
            _ if self.now.sent => Transaction::Open,
            b'I' => Transaction::Idle,
            b'E' if self.queue.is_empty() => Transaction::Failed,
            _ => Transaction::Open,
        }
    }

    pub fn send(&mut self, constant: &'static [u8], expect: Option<Expect>, out: &mut Outputs) {
        out.push(Output::Control(Control(constant)));
        if let Some(expect) = expect {
            self.queue.push_back(Item { number: 0, expect, last: false, turning: false });
        }
    }

    /// What the item would have changed will not happen.
    pub fn forget(&mut self, expect: &Expect) {
        match expect {
            Expect::Parse(change) | Expect::CloseStatement(change) => {
                self.statements.forget(change);
            }
            Expect::Bind(change) | Expect::ClosePortal(change) => self.portals.forget(change),
            _ => {}
        }
    }

    pub fn forget_steps(&mut self, steps: impl IntoIterator<Item = Step>) {
        for step in steps {
            step.statements.iter().for_each(|change| self.statements.forget(change));
            step.portals.iter().for_each(|change| self.portals.forget(change));
        }
    }

    pub fn drop_batch(&mut self) {
        for expect in std::mem::take(&mut self.batch).items {
            self.forget(&expect);
        }
    }

    /// Where names will be looked for by what is sent now.
    pub fn here(&self) -> &World {
        self.view.as_ref().unwrap_or(&self.world)
    }

    /// Whether where names lead may be different once the segment has ended.
    pub fn ends_turning(&self) -> bool {
        self.now.turned || self.here().is_changed() || self.world.is_changed()
    }

    /// Whether the transaction that is found by what is sent now has failed. Where that matters
    /// everything before this segment has been answered, and within it what fails skips the rest.
    pub fn rolls_back(&self) -> bool {
        if self.now.sent { self.now.rolls_back } else { self.status == b'E' }
    }

    /// Follows what a cleared command will change. Whether the world may be different behind it.
    fn follow(&mut self, steps: &[Step], ends_segment: bool) -> bool {
        let mut turning = false;
        let mut rolls_back = self.rolls_back();
        for step in steps {
            for change in &step.statements {
                self.statements.wish(change, self.now.id);
            }
            for change in &step.portals {
                self.portals.wish(change, self.now.id);
            }
            for turn in &step.turns {
                let view = self.view.get_or_insert_with(|| self.world.clone());
                view.apply(turn.in_transaction(&mut rolls_back));
                turning = true;
            }
        }
        self.now.rolls_back = rolls_back;
        self.now.turned |= turning;
        turning |= ends_segment && self.ends_turning();
        if turning {
            self.turning.push_back(self.now.id);
        }
        turning
    }

    /// Says what the gateway has to say as soon as its turn has come.
    pub fn drain(&mut self, out: &mut Outputs) {
        while let Some(Expect::Say(_) | Expect::Ready { .. }) =
            self.queue.front().map(|i| &i.expect)
        {
            match self.queue.pop_front().map(|item| item.expect) {
                Some(Expect::Say(bytes)) => out.push(Output::ToClient(bytes)),
                expect => {
                    if let Some(Expect::Ready { query: true }) = expect {
                        self.settle_unnamed();
                    }
                    let mut words = BytesMut::new();
                    frame::ready(&mut words, self.status);
                    out.push(Output::ToClient(words.freeze()));
                }
            }
        }
        if self.queue.is_empty() {
            self.coming = self.status;
            if self.leaving && !self.over {
                self.over = true;
                out.push(Output::End { why: "client" });
            }
        }
    }

    pub fn say(&mut self, expect: Expect) {
        self.queue.push_back(Item { number: 0, expect, last: false, turning: false });
    }

    /// A simple query drops the unnamed statement and portal. False: there are none.
    fn wish_unnamed(&mut self) -> bool {
        let some = !(self.statements.is_empty() && self.portals.is_empty());
        if some {
            self.statements.wish(&Change::Drop("".into()), self.now.id);
            self.portals.wish(&Change::Drop("".into()), self.now.id);
        }
        some
    }

    pub fn settle_unnamed(&mut self) {
        self.statements.settle(Change::Drop("".into()));
        self.portals.settle(Change::Drop("".into()));
    }

    /// Nothing may be committed that was sent before a refusal in the same transaction: if one may
    /// be open, it is made to fail.
    fn poison(&mut self, out: &mut Outputs) -> bool {
        let certain = self.queue.is_empty() && !self.now.sent;
        if certain && self.status != b'T' {
            return false;
        }
        self.send(POISON, Some(Expect::Poison), out);
        true
    }

    /// A command without a statement's text.
    pub fn bare(&self, verb: &str, shown: &str, phase: Phase) -> Option<bulla_core::Command> {
        let mut command = reading::command(reading::Seen {
            phase,
            shown: shown.into(),
            facts: &Facts::default(),
            deferred: &[],
            missing: None,
            parameters: Arc::default(),
            parameters_known: true,
            transaction: self.transaction(),
            settings: self.settings(&[]),
        })?;
        command.action = reading::action(verb)?;
        Some(command)
    }
}

impl Wire for Machine {
    fn client(&mut self, input: &mut BytesMut, out: &mut Outputs) -> Result<(), Violation> {
        self.take(input, out)
    }

    fn target(&mut self, input: &mut BytesMut, out: &mut Outputs) -> Result<(), Violation> {
        self.answers(input, out)
    }

    fn cleared(&mut self, number: u64, owe: &Obligations, out: &mut Outputs) {
        let Some(judging) = self.judging.take_if(|j| j.number == number) else { return };
        let simple = judging.manner == Manner::Simple;
        if let Manner::Streaming(left) = judging.manner {
            self.stream = Some(Stream { number, left });
        }
        if self.now.skipped && !simple {
            self.now.sent = true;
            // While it was judged an earlier message failed: the server skips this one.
            judging.items.iter().for_each(|expect| self.forget(expect));
            let outcome = Outcome { status: Status::Skipped, tag: None, rows: 0 };
            if let Some(outcome) = self.late_for(number, outcome) {
                out.push(Output::Done { number, outcome });
            }
            return;
        }
        let mut turning = self.follow(&judging.steps, simple);
        self.now.sent = true;
        let drops_unnamed = simple && self.wish_unnamed();
        if judging.copies > 0 {
            self.copy = Some(Copying { number, left: judging.copies, begun: 0, done: 0 });
        }
        self.coming = judging.coming.unwrap_or(self.coming);
        if judging.effect
            && judging.veil.as_ref().is_some_and(|veil| veil.touches)
            && let Some(registered) = &self.registered
        {
            registered.speaker.touches();
        }
        let some = judging.steps.iter().any(|step| !step.is_empty());
        self.running.push_back(Running {
            number,
            max: (owe.rows_max, owe.bytes_max),
            steps: if some { judging.steps.into() } else { VecDeque::new() },
            copies: judging.copies,
            effect: judging.effect,
            drops_unnamed,
            veil: judging.veil,
            by_name: judging.by_name,
            formats: judging.formats,
            statement: judging.statement,
            ..Running::default()
        });
        let count = judging.items.len();
        for (i, expect) in judging.items.into_iter().enumerate() {
            let last = i + 1 == count;
            let turning = last && std::mem::take(&mut turning);
            self.queue.push_back(Item { number, expect, last, turning });
        }
        if simple {
            self.next_segment();
        } else if self.queue.len() > IN_FLIGHT_MAX / 2 && !self.now.flushed {
            // The server keeps answers back until its buffer is full, or it is told not to.
            self.now.flushed = true;
            self.send(FLUSH, None, out);
        }
    }

    fn refused(&mut self, number: u64, refusal: &Refusal, out: &mut Outputs) {
        let Some(judging) = self.judging.take_if(|j| j.number == number) else { return };
        judging.items.iter().for_each(|expect| self.forget(expect));
        self.drop_batch();
        self.copy_tail |= judging.copies > 0;
        if let Manner::Streaming(left) = judging.manner {
            self.dropping = left;
        }
        let words = Expect::Say(refusal::error(refusal, judging.code));
        if judging.manner == Manner::Simple {
            if self.poison(out) {
                self.send(SYNC, Some(Expect::PoisonSync), out);
            }
            let query = self.wish_unnamed();
            self.say(words);
            self.say(Expect::Ready { query });
            self.next_segment();
        } else {
            // One error to a segment: if the server has said one, this is not said.
            if !self.now.skipped {
                self.now.sent |= self.poison(out);
                self.say(words);
            }
            self.now.discarding = true;
        }
        self.drain(out);
    }

    fn held(&mut self, number: u64, notice: &HoldNotice, out: &mut Outputs) {
        if self.judging.as_ref().is_none_or(|judging| judging.number != number) {
            return;
        }
        let words = refusal::held(notice);
        // Between messages a notice may come at any time; within one it would be part of it.
        if self.passing.is_none() {
            out.push(Output::ToClient(words));
        } else {
            self.notice = Some(words);
        }
    }

    fn still(&mut self, number: u64) -> bool {
        let Some(judging) = self.judging.as_ref().filter(|j| j.number == number) else {
            return true;
        };
        let Some(meaning) = &judging.meaning else {
            // Nothing of it can be masked.
            let shows = matches!(judging.manner, Manner::Simple);
            return !(shows && self.hides());
        };
        match self.still_means(meaning) {
            Still::Same => true,
            Still::Other => false,
            Still::Again(veil, by_name) => {
                if let Some(judging) = &mut self.judging {
                    judging.veil = veil;
                    judging.by_name = by_name;
                }
                true
            }
        }
    }

    fn takes_client(&self) -> bool {
        self.may_take()
    }

    fn at_rest(&self) -> bool {
        self.judging.is_none()
            && self.queue.is_empty()
            && self.status == b'I'
            && !self.now.sent
            && self.batch.items.is_empty()
            && self.waiting.is_none()
            && self.partial.is_empty()
            && self.passing.is_none()
            && self.stream.is_none()
            && self.copy.is_none()
    }

    fn in_transaction(&self) -> bool {
        self.transaction() != Transaction::Idle
    }

    fn farewell(&mut self, refusal: &Refusal, out: &mut Outputs) {
        self.over = true;
        self.queue.clear();
        self.leave(&Status::Cut("ended".into()), out);
        // In the middle of a message there is no place for words: the client sees the end alone.
        if self.passing.is_none() {
            out.push(Output::ToClient(refusal::fatal(refusal)));
        }
        out.push(Output::End { why: "ended" });
    }

    fn target_lost(&mut self, why: &str, out: &mut Outputs) {
        self.over = true;
        self.queue.clear();
        self.leave(&Status::TargetLost, out);
        if self.passing.is_none() && !self.fatal {
            let hint = "whether the command took effect is not known; connect again and look";
            out.push(Output::ToClient(frame::fatal("08006", why, Some(hint))));
        }
        out.push(Output::End { why: "target_lost" });
    }

    fn held_bytes(&self) -> usize {
        let waiting = self.waiting.as_ref().map_or(0, |(_, frame)| frame.len());
        self.batch.bytes.len() + self.partial.len() + waiting
    }

    fn cancel(&mut self) -> Option<(u64, Draft<Bytes>)> {
        // With nothing running there is nothing that it could stop.
        self.cancelled = !self.running.is_empty();
        let mut command = self.bare("cancel", "cancel", Phase::Simple)?;
        command.purity = Purity::Effect;
        Some((self.next_number(), Draft::new(Bytes::new(), command)))
    }
}

impl Machine {
    /// The session ends in the midst of commands: nobody will hear how they would have ended.
    fn leave(&mut self, status: &Status, out: &mut Outputs) {
        let running = self.running.drain(..).map(|r| (r.number, r.tag, r.rows + r.rows_now));
        let unfinished = self.finishing.drain(..);
        let unfinished = unfinished.map(|e| (e.number, e.outcome.tag, e.outcome.rows));
        for (number, tag, rows) in unfinished.chain(running) {
            let outcome = Outcome { status: status.clone(), tag, rows };
            out.push(Output::Done { number, outcome });
        }
        if let Some((number, outcome)) = self.late.take() {
            out.push(Output::Done { number, outcome });
        }
    }

    pub fn may_take(&self) -> bool {
        self.judging.is_none() && !self.over && !self.leaving && self.queue.len() < IN_FLIGHT_MAX
    }

    /// The outcome of a command, unless the client's message that belongs to it is still to end:
    /// until then its bytes must find their ticket.
    pub fn late_for(&mut self, number: u64, outcome: Outcome) -> Option<Outcome> {
        if self.stream.is_some_and(|stream| stream.number == number) {
            self.late = Some((number, outcome));
            return None;
        }
        Some(outcome)
    }

    /// A function call: nothing of it is read but which one it is.
    pub fn function_call(&self, oid: u32) -> Option<bulla_core::Command> {
        let mut command = self.bare("function_call", &format!("function {oid}"), Phase::Simple)?;
        let catalog = self.catalog().ok();
        let known = catalog.as_deref().and_then(|catalog| catalog.function(oid));
        let path = known.map_or_else(
            || format!("pg_catalog.\"#{oid}\"").into(),
            |function| reading::path(&function.schema, &function.name),
        );
        command.purity = Purity::Effect;
        command.effects = Effects::OPAQUE.with(Effects::UNKNOWN);
        command.touches = Touches::Unknown {
            why: "the protocol's function call names no statement".into(),
            seen: vec![bulla_core::Touch {
                action: reading::action("function_call")?,
                kind: "function",
                path,
                columns: bulla_core::Columns::NotApplicable,
            }],
        };
        command.facts.insert("params_known", bulla_core::Fact::Flag(false));
        Some(command)
    }

    pub fn turn(&mut self, turn: &Turn) {
        match turn {
            Turn::Commit | Turn::Rollback
                if !self.world.is_changed() && self.world.own().is_none() => {}
            _ => {
                let commits = *turn == Turn::Commit;
                self.relearn |= commits && self.world.is_schema_changed();
                self.world.apply(turn);
            }
        }
    }
}

/// A bound value of a Bind that is not kept.
pub fn large(bytes: usize) -> ParameterValue {
    ParameterValue::Large { bytes: bytes as u64 }
}
