//! The client half: messages become drafts.
//!
//! A simple query is one draft. Of the extended protocol, the messages up to an Execute are one
//! draft, and so is what is left at a Sync or Flush; a draft is about one statement, so a message
//! about another one ends it. Sync and Flush themselves go as constants.

use std::sync::{Arc, LazyLock, OnceLock};

use bulla_core::{Parameter, ParameterValue, RefusalKind};
use bulla_sql::SearchPath;
use bulla_wire::{Output, Outputs, Violation};
use bytes::{Buf, Bytes, BytesMut};

use crate::{
    frame::{self, HEADER_BYTES, Head},
    judge::{Reading, Unknown, coming},
    machine::{Batch, Copying, Expect, Judging, Machine, Manner, Stream, Tried, large},
    made::Made,
    mask::{self, Covered},
    message::{self, Client, Format, Of, Value},
    names::{Change, Meaning, Portal, Prepared},
    reading::{self, Phase},
    refusal::{FLUSH, SYNC, broke},
    replication::sender_of,
    steps::{self, Step},
    value,
    world::Turn,
};

/// Longest Bind, function call or CopyFail that is kept whole. A longer Bind streams: its values
/// are evidence and are not read.
const WHOLE_BYTES_MAX: usize = 256 << 10;
/// Longest message of any other type: two names.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// Beside its text, what a Parse may hold: a name and types.
const PARSE_BYTES_MORE: usize = 256 << 10;
/// A Bind's two names.
const BIND_NAMES_MAX: usize = 8 << 10;
/// What of a message is left in the caller's buffer until it is whole.
const LEAVE_BYTES_MAX: usize = 64 << 10;
/// Messages that wait for an Execute, Sync or Flush.
const BATCH_BYTES_MAX: usize = 16 << 20;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Taken,
    /// Its turn has not come: keep it.
    Wait,
}

impl Machine {
    /// Takes messages off the front of `input` until one is judged or must wait.
    pub fn take(&mut self, input: &mut BytesMut, out: &mut Outputs) -> Result<(), Violation> {
        while self.may_take() {
            if let Some((head, whole)) = self.waiting.take() {
                if self.message(head, whole, out)? == Flow::Wait {
                    return Ok(());
                }
            } else if input.is_empty() || self.next(input, out)? == Flow::Wait {
                return Ok(());
            }
        }
        Ok(())
    }

    fn next(&mut self, input: &mut BytesMut, out: &mut Outputs) -> Result<Flow, Violation> {
        if self.dropping > 0 {
            let n = self.dropping.min(input.len());
            input.advance(n);
            self.dropping -= n;
            return Ok(Flow::Taken);
        }
        if let Some(stream) = &mut self.stream {
            let n = stream.left.min(input.len());
            stream.left -= n;
            let (number, ended) = (stream.number, stream.left == 0);
            out.push(Output::More { number, bytes: input.split_to(n).freeze() });
            if ended {
                self.stream = None;
                if let Some((number, outcome)) = self.late.take() {
                    out.push(Output::Done { number, outcome });
                }
            }
            return Ok(Flow::Taken);
        }
        if !self.partial.is_empty() {
            return self.fill(input, out);
        }
        let head = frame::head(input).map_err(|e| broke(format!("a message: {e}")))?;
        let Some(head) = head else { return Ok(Flow::Wait) };
        if matches!(head.kind, b'd' | b'c' | b'f') {
            return self.copy_data(head, input, out);
        }
        if !message::is_known(head.kind) {
            return Err(message::Malformed::Type(head.kind).into());
        }
        self.copy_tail = false;
        let dropped = self.now.discarding || self.now.skipped;
        let max = match head.kind {
            b'Q' => self.shared.analyzer.limits().statement_bytes_max + HEADER_BYTES + 1,
            b'P' => self.shared.analyzer.limits().statement_bytes_max + PARSE_BYTES_MORE,
            b'B' | b'F' => WHOLE_BYTES_MAX,
            _ if head.total() > SMALL_BYTES_MAX => {
                let why = format!("a message of type {:#04x} and {} bytes", head.kind, head.body);
                return Err(broke(why));
            }
            _ => SMALL_BYTES_MAX,
        };
        if head.total() > max {
            return match head.kind {
                _ if dropped => {
                    self.dropping = head.total();
                    Ok(Flow::Taken)
                }
                b'B' => self.long_bind(head, input, out),
                _ => self.too_large(head, max, out),
            };
        }
        if input.len() >= head.total() {
            let whole = input.split_to(head.total()).freeze();
            return self.message(head, whole, out);
        }
        // The caller may stop reading before a long message is whole, so it is kept here.
        if head.total() > LEAVE_BYTES_MAX {
            self.partial = input.split();
        } else {
            input.reserve(head.total() - input.len());
        }
        Ok(Flow::Wait)
    }

    /// Goes on with a message that is kept here until it is whole.
    fn fill(&mut self, input: &mut BytesMut, out: &mut Outputs) -> Result<Flow, Violation> {
        let head = frame::head(&self.partial).map_err(|e| broke(format!("a message: {e}")))?;
        let Some(head) = head else { return Err(broke("a message without a head")) };
        let n = (head.total().saturating_sub(self.partial.len())).min(input.len());
        self.partial.extend_from_slice(&input.split_to(n));
        if self.partial.len() < head.total() {
            return Ok(Flow::Wait);
        }
        let whole = std::mem::take(&mut self.partial).freeze();
        self.message(head, whole, out)
    }

    fn message(&mut self, head: Head, whole: Bytes, out: &mut Outputs) -> Result<Flow, Violation> {
        let body = whole.get(HEADER_BYTES..).unwrap_or_default();
        // Decoded even where it is dropped: what is no message ends the session either way.
        let decoded = message::client(head.kind, body)?;
        if let Some(copy) = self.copy {
            match decoded {
                Client::Sync | Client::Flush | Client::Terminate => {}
                _ if copy.is_started() => return Err(broke("a message within a COPY")),
                // Whether it is within one depends on how the server answers the COPY.
                _ => {
                    self.waiting = Some((head, whole));
                    return Ok(Flow::Wait);
                }
            }
        }
        let dropped = self.now.discarding || self.now.skipped;
        if dropped && !matches!(decoded, Client::Sync | Client::Terminate) {
            return Ok(Flow::Taken);
        }
        let flow = match decoded {
            Client::Query { text } => {
                let text: Arc<str> = text.into();
                self.query(text, &whole, out)?
            }
            Client::Parse { name, text, types } => {
                let (name, text): (Arc<str>, Arc<str>) = (name.into(), text.into());
                self.parse(name, text, types, &whole, out)?
            }
            Client::Bind(bind) => {
                let (portal, name): (Arc<str>, Arc<str>) =
                    (bind.portal.into(), bind.statement.into());
                match self.bound(&name, &whole, out)? {
                    Err(flow) => flow,
                    Ok(statement) => {
                        let (parameters, known) = parameters(&statement, &bind.values, &whole);
                        let formats = Some(bind.results.into());
                        let bound = Portal { statement, parameters, known, formats, hold: false };
                        self.push_bind(portal, bound, &whole)?;
                        Flow::Taken
                    }
                }
            }
            Client::Describe { of, name } => {
                let name: Arc<str> = name.into();
                self.describe(of, &name, &whole, out)?
            }
            Client::Close { of, name } => {
                self.close(of, name.into(), &whole)?;
                Flow::Taken
            }
            Client::Execute { portal } => {
                let portal: Arc<str> = portal.into();
                self.execute(&portal, &whole, out)?
            }
            Client::FunctionCall { oid } => self.call(oid, &whole, out)?,
            Client::Sync => self.sync(out)?,
            Client::Flush => self.flush(out)?,
            Client::Terminate => {
                self.terminate(out);
                Flow::Taken
            }
        };
        match flow {
            Flow::Wait => self.waiting = Some((head, whole)),
            Flow::Taken => self.tried = Tried::default(),
        }
        Ok(flow)
    }

    fn query(
        &mut self,
        text: Arc<str>,
        whole: &Bytes,
        out: &mut Outputs,
    ) -> Result<Flow, Violation> {
        if self.judge_batch(out)? == Flow::Wait || self.settle_segment(out) == Flow::Wait {
            return Ok(Flow::Wait);
        }
        if self.replication.is_some()
            && let Some(sender) = sender_of(&text)
        {
            return self.sender(sender, &text, whole, out);
        }
        let read = match self.read(&text, out) {
            Reading::Wait => return Ok(Flow::Wait),
            Reading::Refused(refusal) => {
                return self.refuse(whole, Manner::Simple, refusal, None, out);
            }
            Reading::Ready(read) => read,
        };
        let (code, place) = (mask::code_of(&read.facts), mask::place_of(&read.facts, &text));
        let Covered { text: sent, read, veil } = match self.cover(&text, read) {
            Ok(covered) => covered,
            Err(mut refusal) => {
                refusal.position = refusal.position.or(place.filter(|_| code.is_some()));
                return self.refuse(whole, Manner::Simple, refusal, code, out);
            }
        };
        let Some(mut survey) = self.survey(&sent, &read, veil.as_ref()) else {
            return Ok(Flow::Wait);
        };
        if let Some(refusal) = survey.stale.take() {
            return self.refuse(whole, Manner::Simple, refusal, None, out);
        }
        let known = read.facts.params() == 0;
        let bound = (Arc::default(), known);
        let command = self.command(&sent, &read, &survey, Phase::Simple, bound, veil.as_ref())?;
        if let Some(refusal) = self.too_many_names(&survey) {
            return self.refuse(whole, Manner::Simple, refusal, None, out);
        }
        let meaning = self.meaning(&sent, &read, &survey, veil.as_ref());
        let bytes = if *sent == *text { whole.clone() } else { mask::query(&sent) };
        let judging = Judging {
            steps: survey.steps,
            copies: steps::copies_in(&read.facts) + survey.copies,
            coming: coming(&read.facts),
            meaning: Some(meaning),
            veil: veil.map(|veil| veil.with(survey.touches)),
            by_name: survey.by_name,
            ..self.judging(Manner::Simple, vec![Expect::Query])
        };
        self.judge(bytes, command, judging, out);
        Ok(Flow::Taken)
    }

    fn call(&mut self, oid: u32, whole: &Bytes, out: &mut Outputs) -> Result<Flow, Violation> {
        if self.judge_batch(out)? == Flow::Wait || self.settle_segment(out) == Flow::Wait {
            return Ok(Flow::Wait);
        }
        if self.hides() {
            let words = "refused: a function call could read columns that are masked for you";
            let hint = "use SELECT and name the function there";
            let refusal = reading::principle(RefusalKind::Denied, words.into(), hint);
            return self.refuse(whole, Manner::Simple, refusal, None, out);
        }
        let command = self.function_call(oid).ok_or_else(|| broke("a call without an action"))?;
        let judging = Judging {
            steps: vec![Step { turns: vec![Turn::Opaque], ..Step::default() }],
            ..self.judging(Manner::Simple, vec![Expect::Call])
        };
        self.judge(whole.clone(), command, judging, out);
        Ok(Flow::Taken)
    }

    /// A simple query within a pipeline that no Sync has ended: whether the server will hear it
    /// depends on how the pipeline fares, so its answers are asked for and awaited.
    fn settle_segment(&mut self, out: &mut Outputs) -> Flow {
        if !self.now.sent || self.queue.is_empty() {
            return Flow::Taken;
        }
        if !self.now.awaited {
            self.now.awaited = true;
            self.send(FLUSH, None, out);
        }
        Flow::Wait
    }

    fn push(&mut self, whole: &Bytes, expect: Expect) -> Result<(), Violation> {
        if self.batch.bytes.len() + whole.len() > BATCH_BYTES_MAX {
            return Err(broke("too much before an Execute or Sync"));
        }
        match &expect {
            Expect::Parse(change) | Expect::CloseStatement(change) => {
                self.statements.wish(change, self.now.id);
            }
            Expect::Bind(change) | Expect::ClosePortal(change) => {
                self.portals.wish(change, self.now.id);
            }
            _ => {}
        }
        self.batch.bytes.extend_from_slice(whole);
        self.batch.items.push(expect);
        Ok(())
    }

    fn parse(
        &mut self,
        name: Arc<str>,
        text: Arc<str>,
        types: Vec<u32>,
        whole: &Bytes,
        out: &mut Outputs,
    ) -> Result<Flow, Violation> {
        if self.batch.statement.is_some() {
            self.judge_batch(out)?;
            return Ok(Flow::Wait);
        }
        if self.statements.is_full() {
            let words = "refused: too many prepared statements are kept".into();
            let hint = "deallocate those that are not needed";
            let refusal = reading::principle(RefusalKind::TooLarge, words, hint);
            return self.refuse(whole, Manner::Extended, refusal, None, out);
        }
        match self.read(&text, out) {
            Reading::Wait => Ok(Flow::Wait),
            Reading::Refused(refusal) => self.refuse(whole, Manner::Extended, refusal, None, out),
            Reading::Ready(read) => {
                let (code, place) =
                    (mask::code_of(&read.facts), mask::place_of(&read.facts, &text));
                let Covered { text: sent, read, veil } = match self.cover(&text, read) {
                    Ok(covered) => covered,
                    Err(mut refusal) => {
                        refusal.position = refusal.position.or(place.filter(|_| code.is_some()));
                        return self.refuse(whole, Manner::Extended, refusal, code, out);
                    }
                };
                let bytes =
                    if *sent == *text { whole.clone() } else { mask::parse(&name, &sent, &types) };
                let text = sent;
                let path = read.paths.first().map(|p| (**p).clone());
                let statement = Arc::new(Prepared {
                    text,
                    facts: read.facts,
                    epoch: read.epoch,
                    path: path.unwrap_or_else(SearchPath::unknown),
                    veil,
                    types,
                    columns: OnceLock::new(),
                    described: OnceLock::new(),
                    made: Made::default(),
                });
                self.batch.statement = Some(statement.clone());
                self.batch.unnamed = false;
                self.push(&bytes, Expect::Parse(Change::Set(name, statement)))?;
                Ok(Flow::Taken)
            }
        }
    }

    /// Makes `statement` what the batch is about. `Wait`: it is about another one.
    fn about(
        &mut self,
        statement: &Arc<Prepared>,
        unnamed: bool,
        out: &mut Outputs,
    ) -> Result<Flow, Violation> {
        match &self.batch.statement {
            Some(other) if !Arc::ptr_eq(other, statement) => self.judge_batch(out),
            Some(_) => Ok(Flow::Taken),
            None => {
                self.batch.statement = Some(statement.clone());
                self.batch.unnamed = unnamed;
                Ok(Flow::Taken)
            }
        }
    }

    /// The statement that a Bind names, and that the batch is then about.
    fn bound(
        &mut self,
        name: &Arc<str>,
        whole: &Bytes,
        out: &mut Outputs,
    ) -> Result<Result<Arc<Prepared>, Flow>, Violation> {
        let statement = match self.statements.find(name, self.now.id) {
            Meaning::Wait => return Ok(Err(Flow::Wait)),
            Meaning::Nothing => {
                return self.refuse_unknown(whole, no_statement(name), out).map(Err);
            }
            Meaning::Known(statement) => statement,
        };
        if self.batch.portal.is_some() {
            return self.judge_batch(out).map(Err);
        }
        if self.portals.is_full() {
            let words = "refused: too many portals are kept".into();
            let refusal = reading::principle(RefusalKind::TooLarge, words, "close some of them");
            return self.refuse(whole, Manner::Extended, refusal, None, out).map(Err);
        }
        match self.about(&statement, name.is_empty(), out)? {
            Flow::Taken => Ok(Ok(statement)),
            Flow::Wait => Ok(Err(Flow::Wait)),
        }
    }

    fn push_bind(&mut self, name: Arc<str>, bound: Portal, whole: &Bytes) -> Result<(), Violation> {
        let bound = Arc::new(bound);
        self.batch.portal = Some(bound.clone());
        self.push(whole, Expect::Bind(Change::Set(name, bound)))
    }

    /// The portal that a message names, and that the batch is then about.
    fn portal(
        &mut self,
        name: &Arc<str>,
        whole: &Bytes,
        out: &mut Outputs,
    ) -> Result<Flow, Violation> {
        let portal = match self.portals.find(name, self.now.id) {
            Meaning::Wait => return Ok(Flow::Wait),
            Meaning::Nothing => return self.refuse_unknown(whole, no_portal(name), out),
            Meaning::Known(portal) => portal,
        };
        if self.batch.portal.as_ref().is_some_and(|other| !Arc::ptr_eq(other, &portal)) {
            return self.judge_batch(out);
        }
        let flow = self.about(&portal.statement, false, out)?;
        if flow == Flow::Taken {
            self.batch.portal = Some(portal);
        }
        Ok(flow)
    }

    fn describe(
        &mut self,
        of: Of,
        name: &Arc<str>,
        whole: &Bytes,
        out: &mut Outputs,
    ) -> Result<Flow, Violation> {
        match of {
            Of::Statement => {
                let statement = match self.statements.find(name, self.now.id) {
                    Meaning::Wait => return Ok(Flow::Wait),
                    Meaning::Nothing => {
                        return self.refuse_unknown(whole, no_statement(name), out);
                    }
                    Meaning::Known(statement) => statement,
                };
                if self.about(&statement, name.is_empty(), out)? == Flow::Wait {
                    return Ok(Flow::Wait);
                }
                self.push(whole, Expect::Describe(Some(statement)))?;
            }
            Of::Portal => {
                if self.portal(name, whole, out)? == Flow::Wait {
                    return Ok(Flow::Wait);
                }
                // Refused: there is no such portal.
                if self.judging.is_some() {
                    return Ok(Flow::Taken);
                }
                self.push(whole, Expect::Describe(None))?;
            }
        }
        Ok(Flow::Taken)
    }

    fn close(&mut self, of: Of, name: Arc<str>, whole: &Bytes) -> Result<(), Violation> {
        let expect = match of {
            Of::Statement => Expect::CloseStatement(Change::Drop(name)),
            Of::Portal => Expect::ClosePortal(Change::Drop(name)),
        };
        self.push(whole, expect)
    }

    fn execute(
        &mut self,
        name: &Arc<str>,
        whole: &Bytes,
        out: &mut Outputs,
    ) -> Result<Flow, Violation> {
        if self.portal(name, whole, out)? == Flow::Wait {
            return Ok(Flow::Wait);
        }
        if self.judging.is_some() {
            return Ok(Flow::Taken);
        }
        self.push(whole, Expect::Execute)?;
        if self.judge_as(Phase::Execute, Manner::Extended, out)? {
            return Ok(Flow::Taken);
        }
        // Its turn has not come: it is not part of the batch yet.
        self.batch.items.pop();
        let len = self.batch.bytes.len().saturating_sub(whole.len());
        self.batch.bytes.truncate(len);
        if self.batch.items.is_empty() {
            self.batch = Batch::default();
        }
        Ok(Flow::Wait)
    }

    fn sync(&mut self, out: &mut Outputs) -> Result<Flow, Violation> {
        if self.judge_batch(out)? == Flow::Wait {
            return Ok(Flow::Wait);
        }
        if let Some(copy) = self.copy {
            // Within a COPY the server ignores it.
            if !copy.is_started() {
                self.send(SYNC, Some(Expect::Sync { copy: Some(copy.number) }), out);
            }
            return Ok(Flow::Taken);
        }
        if self.now.discarding && !self.now.sent {
            self.say(Expect::Ready { query: false });
            self.next_segment();
            self.drain(out);
            return Ok(Flow::Taken);
        }
        let turning = self.ends_turning();
        if turning {
            self.turning.push_back(self.now.id);
        }
        self.send(SYNC, Some(Expect::Sync { copy: None }), out);
        if let Some(item) = self.queue.back_mut() {
            item.turning = turning;
        }
        self.next_segment();
        Ok(Flow::Taken)
    }

    fn flush(&mut self, out: &mut Outputs) -> Result<Flow, Violation> {
        if self.judge_batch(out)? == Flow::Wait {
            return Ok(Flow::Wait);
        }
        if self.now.sent && self.copy.is_none_or(|copy| !copy.is_started()) {
            self.send(FLUSH, None, out);
        }
        Ok(Flow::Taken)
    }

    fn terminate(&mut self, out: &mut Outputs) {
        self.drop_batch();
        // A server does first what it was told before, unless no Sync would ever come.
        self.leaving = true;
        if self.queue.is_empty() || self.now.sent || self.copy.is_some() {
            self.over = true;
            out.push(Output::End { why: "client" });
        }
    }

    fn too_large(&mut self, head: Head, max: usize, out: &mut Outputs) -> Result<Flow, Violation> {
        let simple = matches!(head.kind, b'Q' | b'F');
        if self.judge_batch(out)? == Flow::Wait
            || (simple && self.settle_segment(out) == Flow::Wait)
        {
            return Ok(Flow::Wait);
        }
        self.dropping = head.total();
        let words = format!("refused: a message of {} bytes, at most {max}", head.total());
        let hint = "send large values as parameters or with COPY";
        let refusal = reading::principle(RefusalKind::TooLarge, words, hint);
        let manner = if simple { Manner::Simple } else { Manner::Extended };
        self.refuse(&Bytes::new(), manner, refusal, None, out)
    }

    /// A Bind whose values are not kept: what is bound is judged now, what is run at its Execute.
    fn long_bind(
        &mut self,
        head: Head,
        input: &mut BytesMut,
        out: &mut Outputs,
    ) -> Result<Flow, Violation> {
        let have = input.len().min(HEADER_BYTES + BIND_NAMES_MAX);
        let body = input.get(HEADER_BYTES..have).unwrap_or_default();
        let Some((portal, name, names)) = message::bind_names(body)? else {
            if body.len() >= BIND_NAMES_MAX {
                return Err(broke("a Bind with names of more than 8 KiB"));
            }
            return Ok(Flow::Wait);
        };
        let (portal, name): (Arc<str>, Arc<str>) = (portal.into(), name.into());
        let front = HEADER_BYTES + names;
        let left = head.total() - front;
        let seen = Bytes::copy_from_slice(input.get(..front).unwrap_or_default());
        let numbers = self.numbers;
        let statement = match self.bound(&name, &seen, out)? {
            Ok(statement) => statement,
            Err(Flow::Wait) => return Ok(Flow::Wait),
            Err(Flow::Taken) => {
                // Refused: all of it is dropped.
                debug_assert!(self.numbers > numbers);
                self.dropping = head.total();
                return Ok(Flow::Taken);
            }
        };
        let value = Parameter { name: "$*".into(), kind: "".into(), value: large(left) };
        let parameters: Arc<[Parameter]> = [value].into();
        let bound = Portal { statement, parameters, known: false, formats: None, hold: false };
        self.push_bind(portal, bound, &seen)?;
        if self.judge_as(Phase::Bind, Manner::Streaming(left), out)? {
            input.advance(front);
            return Ok(Flow::Taken);
        }
        if let Some(expect) = self.batch.items.pop() {
            self.forget(&expect);
        }
        self.batch.portal = None;
        let len = self.batch.bytes.len().saturating_sub(seen.len());
        self.batch.bytes.truncate(len);
        Ok(Flow::Wait)
    }

    /// A run of copy data, as far as it is there.
    fn copy_data(
        &mut self,
        head: Head,
        input: &mut BytesMut,
        out: &mut Outputs,
    ) -> Result<Flow, Violation> {
        if head.kind == b'c' && head.body != 0 {
            return Err(broke("CopyDone: it has bytes after its end"));
        }
        if head.kind != b'd' && head.total() > WHOLE_BYTES_MAX {
            return Err(broke("a CopyFail of more than 256 KiB"));
        }
        let Some(Copying { number, .. }) = self.copy else {
            // A server accepts and ignores what a client sent before it heard that its COPY failed.
            // postgres.js also fails each COPY that it has ended.
            let ends = head.kind != b'd';
            if ends || self.copy_tail || self.now.discarding || self.now.skipped {
                self.dropping = head.total();
                return Ok(Flow::Taken);
            }
            return Err(broke("copy data outside of a COPY"));
        };
        let (mut at, mut left) = (0, 0);
        while let Some(copy) = &mut self.copy {
            let rest = input.get(at..).unwrap_or_default();
            let head = frame::head(rest).map_err(|e| broke(format!("a message: {e}")))?;
            match head {
                Some(head) if head.kind == b'd' => {
                    let n = head.total().min(rest.len());
                    at += n;
                    left = head.total() - n;
                    if left > 0 {
                        break;
                    }
                }
                Some(head) if matches!(head.kind, b'c' | b'f') => {
                    let bad =
                        head.total() > WHOLE_BYTES_MAX || (head.kind == b'c' && head.body != 0);
                    // One that is bad is said to be when it is at the front.
                    if bad || rest.len() < head.total() {
                        break;
                    }
                    at += head.total();
                    copy.left -= 1;
                    copy.done += 1;
                    if copy.left == 0 || head.kind == b'f' {
                        self.copy = None;
                    }
                }
                _ => break,
            }
        }
        if at == 0 {
            return Ok(Flow::Wait);
        }
        if left > 0 {
            self.stream = Some(Stream { number, left });
        }
        out.push(Output::More { number, bytes: input.split_to(at).freeze() });
        Ok(Flow::Taken)
    }
}

fn parameter_name(i: usize) -> Arc<str> {
    format!("${}", i + 1).into()
}

/// Names of parameters, of which most statements have few.
static NAMES: LazyLock<[Arc<str>; 32]> = LazyLock::new(|| std::array::from_fn(parameter_name));

fn parameters(
    statement: &Prepared,
    values: &[Value<'_>],
    whole: &Bytes,
) -> (Arc<[Parameter]>, bool) {
    let mut known = true;
    let parameters = values.iter().enumerate().map(|(i, (format, value))| {
        let kind = statement.kind(i);
        let value = match value {
            None => ParameterValue::Null,
            Some(bytes) => value::decode(kind, *format == Format::Binary, &whole.slice_ref(bytes)),
        };
        known &= !matches!(value, ParameterValue::Bytes(_) | ParameterValue::Large { .. });
        let name = NAMES.get(i).cloned().unwrap_or_else(|| parameter_name(i));
        Parameter { name, kind: value::type_name(kind).into(), value }
    });
    let parameters: Arc<[Parameter]> = parameters.collect();
    (parameters, known)
}

fn no_statement(name: &str) -> Unknown {
    let words = match name {
        "" => "unnamed prepared statement does not exist".to_string(),
        name => format!("prepared statement \"{}\" does not exist", name.escape_debug()),
    };
    Unknown { code: "26000", words }
}

fn no_portal(name: &str) -> Unknown {
    let words = format!("portal \"{}\" does not exist", name.escape_debug());
    Unknown { code: "34000", words }
}
