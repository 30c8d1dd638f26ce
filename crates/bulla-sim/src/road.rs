//! One session's loop, one step at a time: the same machine, gate and writers as the engine's, with
//! the scheduler in the place of the runtime, and pipes in the place of sockets.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bulla_core::{
    Clock, CloseRecord, Flow, Obligations, Outcome, RecordError, Refusal, RefusalKind, Status,
};
use bulla_gate::{
    Cleared, Downstream, Gate, Release, Session, Ticket, ToClient, ToTarget, Upstream,
};
use bulla_wire::{Output, Outputs, Wire};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use crate::{Break, chance::Chance, client::Client, model::Model, ports::SimClock, target::Target};

type Judged = Result<(Cleared<Bytes>, Ticket), Box<Refusal>>;

struct Judging {
    number: u64,
    payload: Bytes,
    verdict: Pin<Box<dyn Future<Output = Judged> + Send>>,
    held: Arc<Mutex<bool>>,
}

enum Up {
    Cleared(Cleared<Bytes>),
    More(Release<ToTarget>),
    Control(&'static [u8]),
}

/// One session with both its ends.
pub struct Road {
    pub at: usize,
    pub client: Client,
    pub target: Target,
    gate: Arc<Gate>,
    clock: Arc<SimClock>,
    session: Session,
    wire: Box<dyn Wire>,
    model: Arc<Mutex<Model>>,
    lie: Option<Break>,
    from_client: BytesMut,
    from_target: BytesMut,
    judging: Option<Judging>,
    tickets: VecDeque<Ticket>,
    ups: VecDeque<Up>,
    up: Upstream,
    downs: VecDeque<Release<ToClient>>,
    down: Downstream,
    ending: Option<Arc<str>>,
    failed: Option<RecordError>,
    target_open: bool,
    pub over: bool,
    pub commands: u64,
    pub refused: u64,
    pub held: u64,
}

pub struct Start {
    pub at: usize,
    pub gate: Arc<Gate>,
    pub clock: Arc<SimClock>,
    pub session: Session,
    pub wire: Box<dyn Wire>,
    pub welcome: Bytes,
    pub model: Arc<Mutex<Model>>,
    pub lie: Option<Break>,
}

impl Road {
    pub fn new(start: Start, client: Client, target: Target) -> Self {
        let Start { at, gate, clock, session, wire, welcome, model, lie } = start;
        let mut road = Self {
            at,
            client,
            target,
            gate,
            clock,
            session,
            wire,
            model,
            lie,
            from_client: BytesMut::new(),
            from_target: BytesMut::new(),
            judging: None,
            tickets: VecDeque::new(),
            ups: VecDeque::new(),
            up: Upstream::default(),
            downs: VecDeque::new(),
            down: Downstream::default(),
            ending: None,
            failed: None,
            target_open: true,
            over: false,
            commands: 0,
            refused: 0,
            held: 0,
        };
        road.take(vec![Output::ToClient(welcome)]);
        road
    }

    fn end(&mut self, why: &str) {
        if self.ending.is_none() {
            self.ending = Some(why.into());
        }
    }

    fn fail(&mut self, error: &RecordError) {
        if self.failed.is_some() {
            return;
        }
        self.model.lock().record_failed(self.at);
        self.failed = Some(error.clone());
        self.downs.clear();
        self.ups.clear();
        let refusal = Refusal::plain(RefusalKind::Recorder, "not recorded, so stopped", "tell us");
        let mut out = Outputs::new();
        self.wire.farewell(&refusal, &mut out);
        let mut words = BytesMut::new();
        for output in &out {
            if let Output::ToClient(bytes) = output {
                words.extend_from_slice(bytes);
            }
        }
        self.down.last_words(error, words.freeze());
        self.end("recorder");
    }

    fn push_down(&mut self, release: Release<ToClient>) {
        if !release.is_empty() {
            self.downs.push_back(release);
        }
    }

    fn take(&mut self, outputs: Outputs) {
        for output in outputs {
            if self.failed.is_some() {
                return;
            }
            if let Err(error) = self.take_one(output) {
                self.fail(&error);
            }
        }
    }

    fn ticket(&mut self, number: u64) -> Option<&mut Ticket> {
        self.tickets.iter_mut().find(|ticket| ticket.number() == number)
    }

    fn take_one(&mut self, output: Output) -> Result<(), RecordError> {
        match output {
            Output::Judge { number, draft } => {
                self.commands += 1;
                let payload = draft.payload().clone();
                let held = Arc::new(Mutex::new(false));
                let (gate, session, told) = (self.gate.clone(), self.session.clone(), held.clone());
                let verdict = Box::pin(async move {
                    gate.clear(&session, number, draft, &mut |_| *told.lock() = true).await
                });
                self.judging = Some(Judging { number, payload, verdict, held });
            }
            Output::Refuse { number, bytes, refusal } => {
                self.refused += 1;
                let refusal = self.gate.refuse(&self.session, number, &bytes, *refusal);
                let mut out = Outputs::new();
                self.wire.refused(number, &refusal, &mut out);
                self.take(out);
            }
            Output::More { number, bytes } => {
                if let Some(ticket) = self.ticket(number) {
                    let release = ticket.more(bytes)?;
                    self.ups.push_back(Up::More(release));
                }
            }
            Output::Reply { number, bytes, done } => {
                if self.lie == Some(Break::EarlyRelease) {
                    self.deliver(&bytes);
                }
                let ended = done.is_some();
                let now = self.clock.now();
                let release = match self.ticket(number) {
                    Some(ticket) => ticket.reply(bytes, done)?,
                    None => self.session.aside(Flow::ToClient, bytes, now)?,
                };
                if ended {
                    self.tickets.retain(|ticket| ticket.number() != number);
                }
                self.push_down(release);
            }
            Output::Done { number, outcome } => {
                if let Some(at) = self.tickets.iter().position(|t| t.number() == number)
                    && let Some(ticket) = self.tickets.remove(at)
                {
                    drop(ticket.finish(outcome)?);
                }
            }
            Output::ToClient(bytes) => {
                let release = self.session.aside(Flow::Gateway, bytes, self.clock.now())?;
                self.push_down(release);
            }
            Output::Control(control) => {
                let mut model = self.model.lock();
                if !model.constants.contains(&control.0) {
                    model.constants.push(control.0);
                }
                self.ups.push_back(Up::Control(control.0));
            }
            // What is known of the target does not change here, and nothing is masked.
            Output::Relearn | Output::Masked { .. } => {}
            Output::End { why } => self.end(why),
        }
        Ok(())
    }

    fn deliver(&mut self, bytes: &[u8]) {
        self.model.lock().client_got(self.at, bytes);
        self.client.hear(bytes);
        self.model.lock().refused(self.at, &self.client.refusals);
    }

    /// The client writes.
    pub fn client_writes(&mut self, chance: &mut Chance) -> bool {
        let wants = self.client.wants();
        if self.ending.is_some() || self.client.gone || wants == 0 {
            return false;
        }
        let n = chance.piece(wants);
        let bytes = self.client.take(n);
        self.from_client.extend_from_slice(&bytes);
        true
    }

    /// The machine reads what the client wrote.
    pub fn client_is_read(&mut self) -> bool {
        if self.ending.is_some() || self.judging.is_some() || !self.wire.takes_client() {
            return false;
        }
        let before = self.from_client.len();
        let mut out = Outputs::new();
        let result = self.wire.client(&mut self.from_client, &mut out);
        let moved = before != self.from_client.len() || !out.is_empty();
        self.take(out);
        if let Err(violation) = result {
            self.take(vec![Output::ToClient(violation.answer)]);
            self.end("violation");
            return true;
        }
        moved
    }

    /// The gate is asked again.
    pub fn verdict(&mut self) -> bool {
        let Some(judging) = &mut self.judging else { return false };
        let number = judging.number;
        let mut cx = Context::from_waker(Waker::noop());
        let verdict = judging.verdict.as_mut().poll(&mut cx);
        if std::mem::take(&mut *judging.held.lock()) {
            self.held += 1;
        }
        let Poll::Ready(judged) = verdict else { return false };
        let payload = judging.payload.clone();
        self.judging = None;
        let mut out = Outputs::new();
        match judged {
            Ok((cleared, ticket)) => {
                let owe = match self.lie {
                    Some(Break::NoObligations) => Obligations::default(),
                    _ => ticket.owe().clone(),
                };
                self.tickets.push_back(ticket);
                self.ups.push_back(Up::Cleared(cleared));
                self.wire.cleared(number, &owe, &mut out);
            }
            Err(refusal) => {
                self.refused += 1;
                if refusal.kind == RefusalKind::Recorder {
                    self.model.lock().record_failed(self.at);
                }
                if self.lie == Some(Break::RefusedIsSent) {
                    self.model.lock().target_got(self.at, &payload);
                }
                self.wire.refused(number, &refusal, &mut out);
            }
        }
        self.take(out);
        true
    }

    /// Bytes go to the target.
    pub fn up(&mut self, chance: &mut Chance) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let mut moved = false;
        while let Some(next) = self.ups.pop_front() {
            match next {
                Up::More(mut release) => match release.poll_released(&mut cx) {
                    Poll::Pending => {
                        self.ups.push_front(Up::More(release));
                        break;
                    }
                    Poll::Ready(Err(error)) => {
                        self.fail(&error);
                        return true;
                    }
                    Poll::Ready(Ok(released)) => self.up.more(released),
                },
                Up::Cleared(cleared) => self.up.send(cleared),
                Up::Control(bytes) => self.up.control(bytes),
            }
            moved = true;
        }
        if !self.target_open {
            return moved;
        }
        let Some(run) = self.up.runs().next() else { return moved };
        let n = chance.piece(run.len());
        let mut bytes = run[..n].to_vec();
        if self.lie == Some(Break::AlteredPayload) {
            bytes[0] ^= 1;
        }
        self.up.advance(n);
        self.model.lock().target_got(self.at, &bytes);
        self.target.hear(&bytes);
        true
    }

    /// The machine reads what the target wrote.
    pub fn target_is_read(&mut self, chance: &mut Chance) -> bool {
        if self.ending.is_some() || !self.target_open || self.target.out.is_empty() {
            return false;
        }
        let n = chance.piece(self.target.out.len());
        let bytes = self.target.out.split_to(n);
        self.from_target.extend_from_slice(&bytes);
        let mut out = Outputs::new();
        let result = self.wire.target(&mut self.from_target, &mut out);
        self.take(out);
        if let Err(violation) = result {
            self.take(vec![Output::ToClient(violation.answer)]);
            self.end("target_violation");
        }
        true
    }

    /// Bytes go to the client.
    pub fn down(&mut self, chance: &mut Chance) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let mut moved = false;
        while let Some(release) = self.downs.front_mut() {
            match release.poll_released(&mut cx) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => {
                    self.fail(&error);
                    return true;
                }
                Poll::Ready(Ok(released)) => {
                    self.down.send(released);
                    self.downs.pop_front();
                    moved = true;
                }
            }
        }
        if self.client.gone {
            return moved;
        }
        let Some(run) = self.down.runs().next() else { return moved };
        let n = chance.piece(run.len());
        let bytes = run[..n].to_vec();
        self.down.advance(n);
        self.deliver(&bytes);
        true
    }

    /// Limits, and whether the session is over.
    pub fn look(&mut self) {
        let window = self.downs.iter().map(Release::len).sum::<usize>() + self.down.waiting_bytes();
        let held = self.wire.held_bytes() + self.from_client.len();
        self.model.lock().sizes(self.at, held, window, self.tickets.len());
        let sent = self.up.is_empty() || !self.target_open;
        let flushed = self.downs.is_empty() && self.down.is_empty() && sent;
        if !self.over && self.ending.is_some() && (flushed || self.client.gone) {
            self.close();
        }
    }

    /// The end, as the engine's: outcomes for what is in flight, then the close entry.
    pub fn close(&mut self) {
        self.over = true;
        self.judging = None;
        let status = match (self.target_open, self.client.gone) {
            (false, _) => Status::TargetLost,
            (true, true) => Status::ClientLost,
            (true, false) => Status::Abandoned,
        };
        for ticket in self.tickets.drain(..) {
            let _ = ticket.finish(Outcome { status: status.clone(), tag: None, rows: 0 });
        }
        let why = self.ending.take().unwrap_or_else(|| "abandoned".into());
        let _ = self.session.close(&CloseRecord { at: self.clock.now(), why, detail: None });
    }

    /// The client is gone.
    pub fn client_leaves(&mut self) {
        self.client.gone = true;
        self.end("client");
    }

    pub fn target_is_lost(&mut self) {
        if self.ending.is_some() || !self.target_open {
            return;
        }
        self.target_open = false;
        let mut out = Outputs::new();
        self.wire.target_lost("lost `shop`: the connection was closed", &mut out);
        self.take(out);
        self.end("target_lost");
    }

    /// An operator ends it.
    pub fn kill(&mut self) {
        if self.ending.is_some() {
            return;
        }
        let refusal = Refusal::plain(RefusalKind::Ended, "the session was ended", "ask why");
        let mut out = Outputs::new();
        self.wire.farewell(&refusal, &mut out);
        self.take(out);
        self.end("killed");
    }

    /// The client cancels: what waits for an approval is withdrawn, otherwise it is a command.
    pub fn cancel(&mut self) {
        if self.ending.is_some() {
            return;
        }
        let waits = self.judging.as_ref().is_some_and(|judging| {
            // Held, and not at the disk.
            self.held > 0 && !judging.payload.is_empty()
        });
        if waits && let Some(Judging { number, payload, verdict, .. }) = self.judging.take() {
            drop(verdict);
            let refusal = Refusal::plain(RefusalKind::Withdrawn, "refused: cancelled", "again");
            let refusal = self.gate.refuse(&self.session, number, &payload, refusal);
            let mut out = Outputs::new();
            self.wire.refused(number, &refusal, &mut out);
            self.take(out);
            return;
        }
        let Some((number, draft)) = self.wire.cancel() else { return };
        let mut ignore = |_| {};
        let clear = self.gate.clear(&self.session, number, draft, &mut ignore);
        let mut clear = std::pin::pin!(clear);
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(Ok((_, ticket))) = clear.as_mut().poll(&mut cx) {
            let _ = ticket.finish(Outcome { status: Status::Ok, tag: None, rows: 0 });
        }
    }

    /// Where it stands, for whoever debugs a seed.
    pub fn state(&self) -> String {
        format!(
            "ending {:?}, {} up, {}+{} down, {} judged, {} tickets, {} unread of the client, \
             takes more: {}, at the gate: {}, {}",
            self.ending,
            self.ups.len() + self.up.waiting_bytes(),
            self.downs.len(),
            self.down.waiting_bytes(),
            self.commands,
            self.tickets.len(),
            self.from_client.len(),
            self.wire.takes_client(),
            self.judging.is_some(),
            self.client.state()
        )
    }

    pub fn is_over(&mut self) -> bool {
        self.over
    }

    pub fn ends_when_idle(&mut self) -> bool {
        self.client.is_done()
    }
}
