//! The server half: each message of the server belongs to the item at the front of the queue.
//!
//! Messages are not copied: what belongs to one command and lies together goes on as one slice.
//! Of rows and copy data only the head is looked at, and they go on in pieces as they come.

use std::sync::Arc;

use bulla_core::{Outcome, Status};
use bulla_sql::Catalog;
use bulla_wire::{Output, Outputs, Violation};
use bytes::{Bytes, BytesMut};

use crate::{
    ask::End,
    frame::{self, HEADER_BYTES},
    machine::{Ended, Expect, FINISHING_MAX, Item, Machine, Probe, Running},
    mask, message,
    refusal::broke,
    rows::Run,
    world::Turn,
};

/// Longest message of a server that must be whole to be understood; rows stream.
pub const MESSAGE_BYTES_MAX: usize = 32 << 20;

/// What becomes of a server's message.
#[derive(Debug)]
enum Pass {
    /// To the client, for the command.
    On(u64),
    /// The same, and the command has ended.
    End(u64, Outcome),
    /// It answers the gateway itself.
    Drop,
}

/// How a kind of message reads in a violation.
fn kind_word(kind: u8) -> String {
    if kind.is_ascii_graphic() { format!("`{}`", char::from(kind)) } else { format!("{kind:#04x}") }
}

impl Machine {
    pub fn answers(&mut self, input: &mut BytesMut, out: &mut Outputs) -> Result<(), Violation> {
        let mut run = Run::default();
        let result = self.each(input, &mut run, out);
        run.flush(input, out);
        result
    }

    fn each(
        &mut self,
        input: &mut BytesMut,
        run: &mut Run,
        out: &mut Outputs,
    ) -> Result<(), Violation> {
        loop {
            if self.over {
                run.flush(input, out);
                input.clear();
                return Ok(());
            }
            if let Some((left, number)) = self.passing {
                let n = left.min(input.len().saturating_sub(run.at));
                run.of(number, input, out);
                run.at += n;
                self.passing = (left > n).then_some((left - n, number));
                if self.passing.is_some() {
                    return Ok(());
                }
            }
            if let Some(words) = self.notice.take() {
                run.flush(input, out);
                out.push(Output::ToClient(words));
            }
            if self.rows(input, run, out)? || self.passing.is_some() {
                continue;
            }
            let rest = input.get(run.at..).unwrap_or_default();
            let head = frame::head(rest).map_err(|e| broke(format!("the target: {e}")))?;
            let Some(head) = head else { return Ok(()) };
            if head.total() > MESSAGE_BYTES_MAX {
                return Err(broke("a message of the target of more than 32 MiB"));
            }
            if rest.len() < head.total() {
                return Ok(());
            }
            let body = rest.get(HEADER_BYTES..head.total()).unwrap_or_default();
            let words = self.veiled_words(head.kind, body)?;
            let mut aside = Outputs::new();
            match self.answer(head.kind, body, &mut aside)? {
                Pass::On(number) if words.is_some() => {
                    run.flush(input, out);
                    drop(input.split_to(head.total()));
                    let bytes = words.unwrap_or_default();
                    out.push(Output::Reply { number, bytes, done: None });
                }
                Pass::End(number, outcome) if words.is_some() => {
                    run.flush(input, out);
                    drop(input.split_to(head.total()));
                    let bytes = words.unwrap_or_default();
                    out.push(Output::Reply { number, bytes, done: Some(outcome) });
                }
                Pass::Drop => {
                    run.flush(input, out);
                    drop(input.split_to(head.total()));
                }
                Pass::On(number) => {
                    run.of(number, input, out);
                    run.at += head.total();
                }
                Pass::End(number, outcome) => {
                    run.of(number, input, out);
                    let bytes = input.split_to(run.at + head.total()).freeze();
                    run.at = 0;
                    out.push(Output::Reply { number, bytes, done: Some(outcome) });
                }
            }
            if !aside.is_empty() {
                run.flush(input, out);
                out.append(&mut aside);
            }
            if matches!(
                self.queue.front().map(|item| &item.expect),
                None | Some(Expect::Say(_) | Expect::Ready { .. })
            ) {
                run.flush(input, out);
                self.drain(out);
            }
            if self.queue.len() < crate::machine::IN_FLIGHT_MAX / 4 {
                self.now.flushed = false;
            }
            if head.kind == b'Z' && std::mem::take(&mut self.relearn) {
                run.flush(input, out);
                out.push(Output::Relearn);
            }
        }
    }

    /// Takes the item off the front.
    fn pop(&mut self) -> Option<Item> {
        let item = self.queue.pop_front()?;
        if item.turning {
            self.turning.pop_front();
            if self.turning.is_empty() {
                self.view = None;
            }
        }
        Some(item)
    }

    /// What the server may say of the statement at the front, if not its own words; and whether a
    /// result holds what it may not.
    fn veiled_words(&mut self, kind: u8, body: &[u8]) -> Result<Option<Bytes>, Violation> {
        let front = self.queue.front().map_or(0, |item| item.number);
        let running = self.running.front().filter(|r| r.number == front && front != 0);
        if let Some(veil) = running.and_then(|r| r.veil.as_ref()) {
            if let Some((rows, at)) = running.and_then(Running::rows_veil) {
                match kind {
                    b'T' => rows.guard(at, body)?,
                    b'H' => rows.guard_copy(at, body)?,
                    _ => {}
                }
            }
            if veil.content.as_ref().is_some_and(|of| matches!(kind, b'E' | b'N') && of.finds(body))
            {
                return veil.words(kind, body).map(Some);
            }
            if veil.touches {
                self.veiled = Some(veil.clone());
            }
        }
        match (&self.veiled, kind) {
            (_, b'A') => self.unheard(body),
            (Some(veil), b'E' | b'N') => veil.words(kind, body).map(Some),
            _ => Ok(None),
        }
    }

    /// Remembers what rows, or copy data, will look like, where they are searched.
    fn shape(&mut self, kind: u8, body: &[u8]) -> Result<(), Violation> {
        let Some(item) = self.queue.front() else { return Ok(()) };
        let Some(running) = self.running.front_mut().filter(|r| r.number == item.number) else {
            return Ok(());
        };
        if kind == b'H' {
            running.copies_binary = body.first() == Some(&1);
            running.copy_begun = false;
            return Ok(());
        }
        if running.veil.as_ref().is_none_or(|veil| veil.content.is_none()) {
            return Ok(());
        }
        let types = mask::types(body)?;
        let described = match &item.expect {
            Expect::Describe(Some(statement)) => Some(statement),
            Expect::Describe(None) => running.statement.as_ref(),
            _ => None,
        };
        if let Some(statement) = described {
            // Described before: it cannot have become something else.
            let _ = statement.columns.set(types.clone());
        }
        running.types = Some(types);
        Ok(())
    }

    fn answer(&mut self, kind: u8, body: &[u8], out: &mut Outputs) -> Result<Pass, Violation> {
        let (number, ours) = match self.queue.front() {
            None => (0, false),
            Some(item) => {
                let ours =
                    matches!(item.expect, Expect::Poison | Expect::PoisonSync | Expect::Probe);
                (item.number, ours)
            }
        };
        match kind {
            b'A' => return Ok(Pass::On(0)),
            b'N' => return Ok(if ours { Pass::Drop } else { Pass::On(number) }),
            b'S' => {
                self.parameter(body)?;
                return Ok(Pass::On(number));
            }
            b'E' => return self.error(body, number, out),
            b'Z' => return self.ready(message::status(body)?, out),
            _ => {}
        }
        if matches!(kind, b'T' | b'H') {
            self.shape(kind, body)?;
        }
        let out_of_turn = || broke(format!("{} of the target, out of turn", kind_word(kind)));
        let Some(item) = self.queue.front() else { return Err(out_of_turn()) };
        match (&item.expect, kind) {
            (Expect::Probe, _) => self.probed(kind, body),
            (Expect::Describe(statement), b't') => {
                let types = message::described(body)?;
                if let Some(statement) = statement {
                    // Described before: it cannot have become something else.
                    let _ = statement.described.set(types);
                }
                Ok(Pass::On(number))
            }
            (Expect::Parse(_), b'1')
            | (Expect::Bind(_), b'2')
            | (Expect::CloseStatement(_) | Expect::ClosePortal(_), b'3')
            | (Expect::Describe(_), b'T' | b'n') => Ok(self.confirmed(out)),
            (Expect::Execute, b'C' | b'I' | b's') => {
                self.completed(kind, body)?;
                Ok(self.confirmed(out))
            }
            (Expect::Query, b'C' | b'I') => {
                self.completed(kind, body)?;
                Ok(Pass::On(number))
            }
            (Expect::Call, b'V') => Ok(Pass::On(number)),
            (Expect::Query, b'W') if self.replication.is_some() => {
                self.copy_starts(number)?;
                Ok(Pass::On(number))
            }
            (Expect::Query | Expect::Execute, b'G') => {
                self.copy_starts(number)?;
                Ok(Pass::On(number))
            }
            (Expect::Query, b'T' | b'H' | b'c') | (Expect::Execute, b'H' | b'c') => {
                Ok(Pass::On(number))
            }
            _ => Err(out_of_turn()),
        }
    }

    /// The item at the front was answered as it should be.
    fn confirmed(&mut self, out: &mut Outputs) -> Pass {
        let Some(item) = self.pop() else { return Pass::On(0) };
        match item.expect {
            Expect::Parse(change) | Expect::CloseStatement(change) => {
                self.statements.settle(change);
            }
            Expect::Bind(change) | Expect::ClosePortal(change) => self.portals.settle(change),
            _ => {}
        }
        if item.last { self.ended(item.number, out) } else { Pass::On(item.number) }
    }

    /// A statement is done: what it changes has happened.
    fn completed(&mut self, kind: u8, body: &[u8]) -> Result<(), Violation> {
        let tag = if kind == b'C' { Some(message::tag(body)?) } else { None };
        let Some(running) = self.running.front_mut() else { return Ok(()) };
        running.at += 1;
        let told = tag.and_then(message::tag_rows).unwrap_or(0);
        running.rows += told.max(std::mem::take(&mut running.rows_now));
        if let Some(tag) = tag {
            running.tag = Some(tag.into());
        }
        let mut ended = false;
        if let Some(step) = running.steps.pop_front() {
            for turn in &step.turns {
                // COMMIT of a transaction that has failed rolls it back, and says so.
                let rolled = *turn == Turn::Commit && tag == Some("ROLLBACK");
                self.turn(if rolled { &Turn::Rollback } else { turn });
                if matches!(turn, Turn::Commit | Turn::Rollback) {
                    ended = true;
                }
            }
            step.statements.into_iter().for_each(|change| self.statements.settle(change));
            step.portals.into_iter().for_each(|change| self.portals.settle(change));
        }
        if ended {
            self.finishing.iter_mut().for_each(|ended| ended.settled = true);
            if let Some(running) = self.running.front_mut() {
                running.settled = true;
            }
        }
        Ok(())
    }

    fn copy_starts(&mut self, number: u64) -> Result<(), Violation> {
        let running = self.running.front_mut().filter(|r| r.number == number && r.copies > 0);
        let Some(running) = running else {
            return Err(broke("the target asks for copy data that nobody sends"));
        };
        running.copies -= 1;
        if let Some(copy) = self.copy.as_mut().filter(|copy| copy.number == number) {
            copy.begun += 1;
        }
        // Whatever Sync it finds among the data, it ignores.
        self.queue
            .retain(|item| !matches!(item.expect, Expect::Sync { copy: Some(of) } if of == number));
        Ok(())
    }

    /// The command takes no more copy data.
    fn copy_ends(&mut self, number: u64, failed: bool) {
        let Some(copy) = self.copy.take_if(|copy| copy.number == number) else { return };
        // What the client sent before it hears of it is still to come.
        self.copy_tail |= failed;
        let mut synced = false;
        for item in &mut self.queue {
            if let Expect::Sync { copy } = &mut item.expect
                && copy.take() == Some(number)
            {
                synced = true;
            }
        }
        // It never began, so that a Sync behind it is one.
        if synced && copy.begun == 0 {
            self.next_segment();
        }
    }

    fn finish(&mut self, number: u64) -> Option<(Running, Outcome)> {
        let mut running = self.running.pop_front().filter(|r| r.number == number)?;
        let status = match running.error.take() {
            None => Status::Ok,
            Some(code) if &*code == "57014" && self.cancelled => Status::Cancelled,
            Some(code) => Status::Error(code),
        };
        self.cancelled = false;
        let outcome =
            Outcome { status, tag: running.tag.take(), rows: running.rows + running.rows_now };
        Some((running, outcome))
    }

    /// The last item of a command is answered.
    fn ended(&mut self, number: u64, out: &mut Outputs) -> Pass {
        let Some((running, outcome)) = self.finish(number) else { return Pass::On(number) };
        let (effect, settled) = (running.effect, running.settled);
        self.settle_rest(running, outcome.status == Status::Ok);
        self.copy_ends(number, outcome.status != Status::Ok);
        // What it did counts once the Sync behind it is answered: the end of the last command is told
        // with that, and whether the others' effects stay is not known before.
        let synced = matches!(self.queue.front().map(|i| &i.expect), Some(Expect::Sync { .. }));
        if synced || (effect && outcome.status == Status::Ok) {
            if self.finishing.len() >= FINISHING_MAX
                && let Some(Ended { number, mut outcome, settled }) = self.finishing.pop_front()
            {
                if !settled && outcome.status == Status::Ok {
                    outcome.status = Status::Uncommitted;
                }
                self.done(number, outcome, out);
            }
            self.finishing.push_back(Ended { number, outcome, settled });
            return Pass::On(number);
        }
        match self.late_for(number, outcome) {
            Some(outcome) => Pass::End(number, outcome),
            None => Pass::On(number),
        }
    }

    /// Steps that no CommandComplete spoke of: of a Bind, which ran; or of what failed.
    fn settle_rest(&mut self, running: Running, ok: bool) {
        if ok {
            for turn in running.steps.iter().flat_map(|step| &step.turns) {
                self.turn(turn);
            }
        }
        self.forget_steps(running.steps);
        if running.drops_unnamed {
            self.settle_unnamed();
        }
    }

    fn error(&mut self, body: &[u8], number: u64, out: &mut Outputs) -> Result<Pass, Violation> {
        let problem = message::problem(body)?;
        self.fatal |= problem.fatal;
        let Some(item) = self.queue.front() else {
            // A server that goes away is all that may speak unasked.
            return if problem.fatal {
                Ok(Pass::On(0))
            } else {
                Err(broke("an error of the target, out of turn"))
            };
        };
        self.failed = true;
        match item.expect {
            Expect::Poison | Expect::PoisonSync | Expect::Probe if problem.fatal => Ok(Pass::On(0)),
            Expect::Poison => {
                self.pop();
                self.skip(0, out);
                Ok(Pass::Drop)
            }
            Expect::PoisonSync => Ok(Pass::Drop),
            Expect::Probe => {
                let pass = self.probed(b'E', body)?;
                let Probe::Asked(question) = &self.probe else { return Ok(pass) };
                if question.end() == End::Ready {
                    return Ok(pass);
                }
                // It stands among the client's messages, and they fail with it.
                self.probe = Probe::Idle;
                self.pop();
                self.skip(0, out);
                Ok(Pass::On(0))
            }
            Expect::Query | Expect::Call => {
                if let Some(running) = self.running.front_mut() {
                    running.error = Some(problem.code);
                    let steps = std::mem::take(&mut running.steps);
                    self.forget_steps(steps);
                }
                self.copy_ends(number, true);
                Ok(Pass::On(number))
            }
            Expect::Sync { .. } => {
                // What was to be committed could not be.
                let of = self.finishing.back_mut().map_or(0, |ended| {
                    ended.outcome.status = Status::Error(problem.code);
                    ended.number
                });
                Ok(Pass::On(of))
            }
            Expect::Say(_) | Expect::Ready { .. } => {
                Err(broke("an error of the target, out of turn"))
            }
            Expect::Parse(_)
            | Expect::Bind(_)
            | Expect::CloseStatement(_)
            | Expect::ClosePortal(_)
            | Expect::Describe(_)
            | Expect::Execute => {
                if let Some(running) = self.running.front_mut() {
                    running.error = Some(problem.code);
                }
                self.copy_ends(number, true);
                self.skip(number, out);
                Ok(self.ended(number, out))
            }
        }
    }

    /// The server skips to the next Sync, and so does the queue.
    fn skip(&mut self, failed: u64, out: &mut Outputs) {
        while let Some(item) = self.queue.front() {
            if matches!(
                item.expect,
                Expect::Sync { .. } | Expect::PoisonSync | Expect::Ready { .. }
            ) {
                return;
            }
            // One error to a segment: a refusal behind it is not said, unless it is this one.
            if matches!(item.expect, Expect::Say(_)) && failed == 0 {
                break;
            }
            let Some(item) = self.pop() else { break };
            self.forget(&item.expect);
            if matches!(item.expect, Expect::Probe) {
                self.probe = Probe::Idle;
            }
            if item.number != failed && item.last && item.number != 0 {
                self.skipped(item.number, out);
            }
        }
        // The Sync is still to come.
        let synced = |item: &Item| {
            matches!(item.expect, Expect::Sync { .. } | Expect::PoisonSync | Expect::Ready { .. })
        };
        if !self.queue.iter().any(synced) {
            self.now.skipped = true;
            self.drop_batch();
        }
    }

    fn skipped(&mut self, number: u64, out: &mut Outputs) {
        let Some(at) = self.running.iter().position(|r| r.number == number) else { return };
        let Some(running) = self.running.remove(at) else { return };
        self.settle_rest(running, false);
        self.copy_ends(number, true);
        self.done(number, Outcome { status: Status::Skipped, tag: None, rows: 0 }, out);
    }

    fn done(&mut self, number: u64, outcome: Outcome, out: &mut Outputs) {
        if let Some(outcome) = self.late_for(number, outcome) {
            out.push(Output::Done { number, outcome });
        }
    }

    /// The segment has ended, and with it what it began and did not commit.
    fn segment_ended(&mut self, rolled_back: bool, out: &mut Outputs) -> Option<(u64, Outcome)> {
        let last = self.finishing.pop_back();
        let told = |ended: Ended| {
            let Ended { number, mut outcome, settled } = ended;
            if rolled_back && !settled && outcome.status == Status::Ok {
                outcome.status = Status::RolledBack;
            }
            (number, outcome)
        };
        for (number, outcome) in std::mem::take(&mut self.finishing).into_iter().map(told) {
            self.done(number, outcome, out);
        }
        last.map(told)
    }

    fn ready(&mut self, status: u8, out: &mut Outputs) -> Result<Pass, Violation> {
        let Some(item) = self.pop() else {
            return Err(broke("the target is ready, out of turn"));
        };
        let ended = match item.expect {
            Expect::Query | Expect::Call => self.finish(item.number),
            Expect::Sync { .. } | Expect::PoisonSync | Expect::Probe => None,
            _ => return Err(broke("the target is ready, out of turn")),
        };
        let ended = ended.map(|(running, outcome)| {
            let number = running.number;
            self.settle_rest(running, outcome.status == Status::Ok);
            self.copy_ends(number, false);
            (number, outcome)
        });
        let failed = std::mem::take(&mut self.failed);
        let mut finishing = match item.expect {
            // Ours stand between the segments.
            Expect::Probe | Expect::PoisonSync if !failed => None,
            _ => self.segment_ended(failed && status == b'I', out),
        };
        if status == b'I' {
            self.veiled = None;
            self.turn(if failed { &Turn::Rollback } else { &Turn::Commit });
            self.portals.retain(|portal| portal.hold);
        }
        // A simple query ended the segment, and is told with its own end; or we ended it.
        let told = ended.is_some() || matches!(item.expect, Expect::Probe | Expect::PoisonSync);
        if told && let Some((number, outcome)) = finishing.take() {
            self.done(number, outcome, out);
        }
        if let Some(path) = self.reported.clone() {
            self.world.told_path(&path, status != b'I');
        }
        self.status = status;
        match item.expect {
            Expect::Probe => {
                self.learned(status);
                Ok(Pass::Drop)
            }
            Expect::PoisonSync => Ok(Pass::Drop),
            _ => Ok(match ended.or(finishing.take()) {
                Some((number, outcome)) => match self.late_for(number, outcome) {
                    Some(outcome) => Pass::End(number, outcome),
                    None => Pass::On(number),
                },
                None => Pass::On(0),
            }),
        }
    }

    /// The answer to the gateway's own question.
    fn probed(&mut self, kind: u8, body: &[u8]) -> Result<Pass, Violation> {
        let Probe::Asked(question) = &mut self.probe else {
            return Err(broke("an answer to a question that was not asked"));
        };
        match question.take(kind, body) {
            None => Err(broke(format!("{} of the target, out of turn", kind_word(kind)))),
            Some(false) => Ok(Pass::Drop),
            Some(true) => {
                self.pop();
                self.learned(b'T');
                Ok(Pass::Drop)
            }
        }
    }

    fn learned(&mut self, status: u8) {
        let Probe::Asked(mut question) = std::mem::take(&mut self.probe) else { return };
        if self.replication.is_some() {
            // As any simple query, it dropped these.
            self.statements.lose("");
            self.portals.lose("");
        }
        let results = question.catalogue();
        let Some((user, path)) = question.told.whole() else { return };
        self.world.told_path(&path.into(), status != b'I');
        self.world.told(user, question.told.temporary.clone());
        if question.told.changed {
            self.world.told_changed();
        }
        let Some(results) = results else { return };
        let under = (**self.world.reading()).clone();
        let mut catalog = None;
        (self.block)(&mut || catalog = Catalog::from_rows(&results).ok());
        // What cannot be understood leaves the doubt as it was.
        if let Some(catalog) = catalog {
            self.world.looked(Arc::new(catalog.written_under(under)));
        }
    }

    /// A setting that the server reports. What would change how text is read ends the session.
    fn parameter(&mut self, body: &[u8]) -> Result<(), Violation> {
        let (name, value) = message::parameter(body)?;
        let bad = match name {
            "client_encoding" => !value.eq_ignore_ascii_case("UTF8"),
            "standard_conforming_strings" => value != "on",
            _ => false,
        };
        if bad {
            return Err(broke(format!("the target changed `{name}`")));
        }
        if name == "search_path" && self.reported.is_some() {
            self.reported = Some(value.into());
        }
        Ok(())
    }
}
