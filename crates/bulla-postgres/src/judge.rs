//! What messages mean: texts are read, names are followed, and a draft is made of them.

use std::sync::Arc;

use bulla_core::{Command, Draft, Fact, Parameter, Purity, Refusal, RefusalKind, Touches};
use bulla_sql::{
    Catalog, Effects as SqlEffects, Facts, SearchPath, Statement,
    facts::{Access, NameUse, Resolved, Tx},
};
use bulla_wire::{Output, Outputs, Violation};
use bytes::Bytes;

use crate::{
    ask::{self, End, Question},
    client::Flow,
    machine::{Expect, Judging, Machine, Manner, Meaning, Probe, Replication, Tried},
    mask::{self, Covered, Veil},
    named::Survey,
    names::Prepared,
    reading::{self, Phase},
    refusal::{FLUSH, SYNC, broke},
    steps::{self, Moved, Step},
    world::{Stale, Turn, World},
};

/// Statements of one text that are read one by one, because one of them moves names.
const ONE_BY_ONE_MAX: usize = 1_000;

/// A text, read.
pub struct Read {
    pub facts: Arc<Facts>,
    pub epoch: u64,
    pub catalog: Arc<Catalog>,
    /// Of each statement, or one for all.
    pub paths: Vec<Arc<SearchPath>>,
    /// Why it may mean something else than it was read to mean.
    pub doubt: Option<&'static str>,
}

pub enum Reading {
    Ready(Read),
    Refused(Box<Refusal>),
    Wait,
}

/// What a text that waited means now.
pub enum Still {
    Same,
    /// The same, read again; what its answers may not hold is told anew.
    Again(Option<Arc<Veil>>, Vec<Option<Arc<Veil>>>),
    /// Something else, or it cannot be told.
    Other,
}

/// What masks a text's answers, and those of what it runs by name.
type Now = (Option<Arc<Veil>>, Vec<Option<Arc<Veil>>>);

/// A refusal with the server's own code.
pub struct Unknown {
    pub code: &'static str,
    pub words: String,
}

impl Machine {
    /// The catalogue as the session sees it, as far as that is known.
    pub fn catalog(&self) -> Result<Arc<Catalog>, Box<Refusal>> {
        let own = self.here().own().cloned();
        own.or_else(|| self.shared.knowledge.get(&self.place)).ok_or_else(|| {
            reading::principle(
                RefusalKind::Unreadable,
                "refused: the catalogue of the target is not known".into(),
                "try again; if it stays, tell the operators of the gateway",
            )
        })
    }

    /// Where names are looked for in a catalogue. One that was loaded as another role says nothing
    /// about which schemas this one may use.
    pub fn path_in(&self, catalog: &Catalog) -> Arc<SearchPath> {
        let here = self.here();
        if here.user() == Some(catalog.user()) {
            return here.reading().clone();
        }
        Arc::new(SearchPath::unknown())
    }

    pub fn analyse(
        &self,
        text: &str,
        catalog: &Arc<Catalog>,
        path: &SearchPath,
    ) -> Result<Arc<Facts>, Box<Refusal>> {
        let facts = self.shared.analyzer.read(text, catalog, path, &*self.block);
        let facts = facts.map_err(|error| reading::unreadable(&error))?;
        reading::breaks_reading(&facts).map_or(Ok(facts), Err)
    }

    /// Whether where names lead depends on an answer that is still to come.
    pub fn must_wait(&self) -> bool {
        matches!(self.probe, Probe::Asked(_))
            || self.turning.front().is_some_and(|segment| *segment != self.now.id)
    }

    /// Whether the server can be asked by the session itself.
    fn may_ask(&self) -> bool {
        // In a failed transaction it would fail, and so it would in the midst of a COPY.
        let fails = (self.queue.is_empty() && self.status == b'E') || self.rolls_back();
        !fails && self.copy.is_none() && self.replication != Some(Replication::Physical)
    }

    /// Does what may remove a doubt about `facts`: the role, the path or the catalogue are not
    /// known as they are now. True: an answer is awaited. Each is tried once for a message.
    fn ask(&mut self, facts: &Facts, catalog: &Catalog, out: &mut Outputs) -> bool {
        let doubt = facts.effects().contains(SqlEffects::UNKNOWN) || misses(facts);
        if !doubt && (self.here().stale() != Stale::Yes || !is_about_names(facts)) {
            return false;
        }
        let (tried, may_ask) = (self.tried, self.may_ask());
        if doubt && may_ask && !self.here().is_sure() && !tried.probe && !tried.look {
            self.tried.probe = true;
            self.question(false, out);
            return true;
        }
        let logical = self.replication == Some(Replication::Logical);
        let open = self.transaction() != reading::Transaction::Idle;
        let foreign = self.here().user().is_some_and(|user| user != catalog.user());
        let moved = self.here().stale() == Stale::Yes
            || foreign
            || (open && self.here().stale() == Stale::Maybe);
        if moved && may_ask && !logical && !tried.look {
            self.tried.look = true;
            self.question(true, out);
            return true;
        }
        // What others changed, or code that ran here and has committed.
        let fresh = self.doubted != catalog.epoch() || self.here().stale() == Stale::Maybe;
        if doubt && fresh && self.here().is_sure() && !tried.refresh && self.here().own().is_none()
        {
            self.tried.refresh = true;
            self.doubted = catalog.epoch();
            out.push(Output::Relearn);
            return true;
        }
        false
    }

    fn question(&mut self, looks: bool, out: &mut Outputs) {
        let within = self.now.sent;
        let question = Question::new(looks, if within { End::Closed } else { End::Ready });
        self.probe = Probe::Asked(Box::new(question));
        if self.replication.is_some() {
            return self.send(ask::PROBE_SIMPLE, Some(Expect::Probe), out);
        }
        self.send(if looks { ask::LOOK } else { ask::PROBE }, Some(Expect::Probe), out);
        self.send(if within { FLUSH } else { SYNC }, None, out);
    }

    pub fn read(&mut self, text: &str, out: &mut Outputs) -> Reading {
        if self.must_wait() {
            return Reading::Wait;
        }
        if self.tried.refresh && self.transaction() == reading::Transaction::Idle {
            self.world.refreshed();
        }
        let catalog = match self.catalog() {
            Ok(catalog) => catalog,
            Err(refusal) => return Reading::Refused(refusal),
        };
        let path = self.path_in(&catalog);
        let facts = match self.analyse(text, &catalog, &path) {
            Ok(facts) => facts,
            Err(refusal) => return Reading::Refused(refusal),
        };
        if self.ask(&facts, &catalog, out) {
            return Reading::Wait;
        }
        let stale = self.here().stale() == Stale::Yes && is_about_names(&facts);
        let doubt = stale.then_some("objects were changed, and could not be looked at again");
        let epoch = catalog.epoch();
        let read = Read { facts, epoch, catalog, paths: vec![path], doubt };
        match self.one_by_one(text, read) {
            Ok(read) => Reading::Ready(read),
            Err(refusal) => Reading::Refused(refusal),
        }
    }

    pub fn turns(&self, statement: &Statement, catalog: &Catalog) -> Vec<Turn> {
        steps::turns(statement, catalog, self.initial_path.as_ref())
    }

    /// Where a statement moves names, those behind it in the same text are read where it leads.
    pub fn one_by_one(&self, text: &str, read: Read) -> Result<Read, Box<Refusal>> {
        let Some((_, before)) = read.facts.statements.split_last() else { return Ok(read) };
        let mut world: Option<World> = None;
        for statement in before {
            let turns = self.turns(statement, &read.catalog);
            let ends =
                turns.iter().any(|t| matches!(t, Turn::Commit | Turn::Rollback | Turn::Back));
            let moves = steps::moves_names(&turns) || turns.contains(&Turn::Schema);
            if moves || (ends && self.here().is_changed()) {
                world = Some(self.here().clone());
                break;
            }
        }
        let Some(mut world) = world else { return Ok(read) };
        let mut rolls_back = self.rolls_back();
        let (mut facts, mut paths) = (Facts::default(), Vec::new());
        let mut moved = Moved::default();
        if read.facts.statements.len() > ONE_BY_ONE_MAX {
            world.apply(&Turn::Opaque);
        }
        for whole in &read.facts.statements {
            let (from, path) = (whole.text.start, moved.on(world.reading()));
            let temporary = world.temporary();
            let part = text.get(whole.text.clone()).unwrap_or_default();
            let one = self.analyse(part, &read.catalog, &path)?;
            // The same text has the same statement in it, with places counted from its own start.
            let [statement] = one.statements.as_slice() else {
                return Err(reading::principle(
                    RefusalKind::Unreadable,
                    "refused: a statement could not be told from its neighbours".into(),
                    "send the statements one by one",
                ));
            };
            let turns = self.turns(statement, &read.catalog);
            for turn in &turns {
                let turn = turn.in_transaction(&mut rolls_back);
                if matches!(turn, Turn::Opaque | Turn::Rollback | Turn::Back) {
                    moved.forget();
                }
                world.apply(turn);
            }
            let mut statement = statement.clone();
            moved.doubt(&mut statement, &path);
            let made = moved.follow(&statement);
            if turns.contains(&Turn::Opaque) {
                // Code that nobody read ran with it.
                moved.forget();
            } else if let (Some(name), Some(before)) = (made, &temporary) {
                world.with_temporary(before, name);
            }
            statement.text = whole.text.clone();
            for name_use in &mut statement.names {
                if let NameUse::Prepare { inner: Some(inner), .. }
                | NameUse::Declare { inner: Some(inner), .. } = name_use
                {
                    *inner = inner.start + from..inner.end + from;
                }
            }
            facts.statements.push(statement);
            paths.push(path);
        }
        Ok(Read { facts: Arc::new(facts), paths, ..read })
    }

    /// The facts of a prepared statement as of now: read again when the world has moved.
    pub fn reread(&mut self, prepared: &Prepared, out: &mut Outputs) -> Reading {
        if self.must_wait() {
            return Reading::Wait;
        }
        let catalog = match self.catalog() {
            Ok(catalog) => catalog,
            Err(refusal) => return Reading::Refused(refusal),
        };
        let path = self.path_in(&catalog);
        let same = catalog.epoch() == prepared.epoch && *path == prepared.path;
        let doubtful = prepared.facts.effects().contains(SqlEffects::UNKNOWN);
        if same && !doubtful && self.here().stale() != Stale::Yes {
            let (facts, epoch) = (prepared.facts.clone(), prepared.epoch);
            return Reading::Ready(Read { facts, epoch, catalog, paths: vec![path], doubt: None });
        }
        self.read(&prepared.text.clone(), out)
    }

    fn shared_epoch(&self) -> Option<u64> {
        self.shared.knowledge.get(&self.place).map(|catalog| catalog.epoch())
    }

    pub fn meaning(
        &self,
        text: &Arc<str>,
        read: &Read,
        survey: &Survey,
        veil: Option<&Arc<Veil>>,
    ) -> Meaning {
        let (text, facts) = (text.clone(), read.facts.clone());
        let epoch = match self.here().own() {
            Some(_) => self.shared_epoch(),
            None => Some(read.epoch),
        };
        // What is within another text has none of its own, and cannot be masked again.
        let original = veil.map_or_else(|| Some(text.clone()), |veil| veil.original.clone());
        let hidden = self.hidden(&read.catalog).map(|hidden| hidden.id());
        let deferred = survey.deferred.clone();
        Meaning { text, original, facts, deferred, epoch, hidden }
    }

    /// Whether a text still means what it was read to mean, and would be sent with the same masks,
    /// now that the catalogue and the policies may have moved while it waited. The session itself
    /// has not: it takes nothing from the client meanwhile.
    pub fn still_means(&self, meaning: &Meaning) -> Still {
        let Ok(catalog) = self.catalog() else { return Still::Other };
        let hidden = self.hidden(&catalog).map(|hidden| hidden.id());
        if hidden == meaning.hidden && self.shared_epoch() == meaning.epoch {
            return Still::Same;
        }
        // What only this transaction sees cannot be looked at from here.
        if self.here().own().is_some() || self.here().stale() == Stale::Yes {
            return Still::Other;
        }
        let now = self.means_now(meaning, catalog);
        now.map_or(Still::Other, |(veil, by_name)| Still::Again(veil, by_name))
    }

    /// Reads, masks and surveys a text again from what the client wrote. None: what comes of it is
    /// something else.
    fn means_now(&self, meaning: &Meaning, catalog: Arc<Catalog>) -> Option<Now> {
        let original = meaning.original.as_ref()?;
        let path = self.path_in(&catalog);
        let facts = self.analyse(original, &catalog, &path).ok()?;
        let epoch = catalog.epoch();
        let read = Read { facts, epoch, catalog, paths: vec![path], doubt: None };
        let read = self.one_by_one(original, read).ok()?;
        let Covered { text, read, veil } = self.cover(original, read).ok()?;
        let survey = self.survey(&text, &read, veil.as_ref())?;
        let same = text == meaning.text
            && read.facts == meaning.facts
            && survey.deferred == meaning.deferred
            && survey.stale.is_none();
        same.then(|| (veil.map(|veil| veil.with(survey.touches)), survey.by_name))
    }

    /// What of the session changes what the same bytes mean: part of an approval's digest.
    pub fn settings(&self, remembered: &[(String, Arc<str>)]) -> Arc<str> {
        use std::fmt::Write as _;
        let path = self.here().reading();
        let mut out = match path.schemas() {
            Some(schemas) => format!("search_path={schemas:?}"),
            None => "search_path=?".into(),
        };
        match path.temp() {
            Some(names) if names.is_empty() => {}
            Some(names) => {
                let _ = write!(out, ";temporary={names:?}");
            }
            None => out.push_str(";temporary=?"),
        }
        let _ = write!(out, ";transaction={}", self.transaction().as_str());
        for (name, text) in remembered {
            let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
            let _ = write!(out, ";{name:?}=");
            for byte in hash.as_ref() {
                let _ = write!(out, "{byte:02x}");
            }
        }
        out.into()
    }

    pub fn command(
        &self,
        text: &Arc<str>,
        read: &Read,
        survey: &Survey,
        phase: Phase,
        parameters: (Arc<[Parameter]>, bool),
        veil: Option<&Arc<Veil>>,
    ) -> Result<Command, Violation> {
        let mut shown = text.clone();
        if let Some((original, sent)) =
            veil.and_then(|v| v.original.as_ref().zip(v.plan.sent.as_ref()))
        {
            shown = format!("{original}\n-- sent with masks: {}", sent.0).into();
        }
        if !survey.remembered.is_empty() {
            let mut more = shown.to_string();
            for (name, text) in &survey.remembered {
                more.push_str(&format!("\n-- {}: {text}", name.escape_debug()));
            }
            shown = more.into();
        }
        let command = reading::command(reading::Seen {
            phase,
            shown,
            facts: &read.facts,
            deferred: &survey.deferred,
            missing: survey.missing.clone(),
            parameters: parameters.0,
            parameters_known: parameters.1,
            transaction: self.transaction(),
            settings: self.settings(&survey.remembered),
        });
        let mut command = command.ok_or_else(|| broke("a command without an action"))?;
        self.tell_classes(&mut command, read, survey, veil);
        Ok(command)
    }

    /// Classes that are shown in the clear are touched; those that are masked are facts.
    fn tell_classes(
        &self,
        command: &mut Command,
        read: &Read,
        survey: &Survey,
        veil: Option<&Arc<Veil>>,
    ) {
        let hidden = veil.map(|veil| &*veil.hidden);
        let mut shown = self.shows(&read.facts, &read.catalog, hidden);
        for facts in &survey.deferred {
            shown.extend(self.shows(facts, &read.catalog, hidden));
        }
        let (Touches::Known(touches) | Touches::Unknown { seen: touches, .. }) =
            &mut command.touches;
        for touch in shown {
            if !touches.contains(&touch) {
                touches.push(touch);
            }
        }
        if let Some(veil) = veil.filter(|veil| !veil.plan.classes.is_empty()) {
            let classes = veil.plan.classes.iter().cloned().collect();
            command.facts.insert("masked", Fact::Set(classes));
        }
    }

    // ---- judging ----

    pub fn judge(
        &mut self,
        bytes: Bytes,
        command: Command,
        mut judging: Judging,
        out: &mut Outputs,
    ) {
        let number = judging.number;
        judging.effect = command.purity == Purity::Effect;
        self.judging = Some(judging);
        self.tried = Tried::default();
        out.push(Output::Judge { number, draft: Draft::new(bytes, command) });
    }

    pub fn judging(&mut self, manner: Manner, items: Vec<Expect>) -> Judging {
        Judging {
            number: self.next_number(),
            manner,
            items,
            steps: Vec::new(),
            copies: 0,
            coming: None,
            effect: false,
            meaning: None,
            code: None,
            veil: None,
            by_name: Vec::new(),
            formats: None,
            statement: None,
        }
    }

    /// Refuses a message on principle. What came before it is judged first.
    pub fn refuse(
        &mut self,
        bytes: &Bytes,
        manner: Manner,
        refusal: Box<Refusal>,
        code: Option<&'static str>,
        out: &mut Outputs,
    ) -> Result<Flow, Violation> {
        if self.judge_batch(out)? == Flow::Wait {
            return Ok(Flow::Wait);
        }
        let judging = Judging { code, ..self.judging(manner, Vec::new()) };
        let number = judging.number;
        self.judging = Some(judging);
        out.push(Output::Refuse { number, bytes: bytes.clone(), refusal });
        Ok(Flow::Taken)
    }

    pub fn refuse_unknown(
        &mut self,
        bytes: &Bytes,
        unknown: Unknown,
        out: &mut Outputs,
    ) -> Result<Flow, Violation> {
        let hint = "the gateway says so before the target is asked: nothing was sent";
        let refusal = reading::principle(RefusalKind::Unreadable, unknown.words, hint);
        self.refuse(bytes, Manner::Extended, refusal, Some(unknown.code), out)
    }

    /// Judges what is in the batch. `Wait`: something was, or its turn has not come.
    pub fn judge_batch(&mut self, out: &mut Outputs) -> Result<Flow, Violation> {
        if self.batch.items.is_empty() {
            return Ok(Flow::Taken);
        }
        let phase = if self.batch.portal.is_some() { Phase::Bind } else { Phase::Parse };
        self.judge_as(phase, Manner::Extended, out)?;
        Ok(Flow::Wait)
    }

    /// The batch is refused as it stands.
    fn refuse_batch(&mut self, manner: Manner, refusal: Box<Refusal>, out: &mut Outputs) {
        let batch = std::mem::take(&mut self.batch);
        let judging = self.judging(manner, batch.items);
        let number = judging.number;
        self.judging = Some(judging);
        out.push(Output::Refuse { number, bytes: batch.bytes.freeze(), refusal });
    }

    /// Judges the batch. False: its turn has not come.
    pub fn judge_as(
        &mut self,
        phase: Phase,
        manner: Manner,
        out: &mut Outputs,
    ) -> Result<bool, Violation> {
        let Some(statement) = self.batch.statement.clone() else {
            let verb = match self.batch.items.first() {
                Some(Expect::ClosePortal(_)) => "close",
                _ => "deallocate",
            };
            let command = self.bare(verb, "close", Phase::Parse);
            let command = command.ok_or_else(|| broke("a command without an action"))?;
            let batch = std::mem::take(&mut self.batch);
            let judging = self.judging(manner, batch.items);
            self.judge(batch.bytes.freeze(), command, judging, out);
            return Ok(true);
        };
        let read = match self.reread(&statement, out) {
            Reading::Wait => return Ok(false),
            Reading::Ready(read) => read,
            Reading::Refused(refusal) => {
                self.refuse_batch(manner, refusal, out);
                return Ok(true);
            }
        };
        let path = self.path_in(&read.catalog);
        let covers = self.still_covers(&statement.text, statement.veil.as_ref(), &read, &path);
        let (veil, stale) = match covers {
            Ok(veil) => (veil, None),
            Err(refusal) => (None, Some(refusal)),
        };
        let Some(mut survey) = self.survey(&statement.text, &read, veil.as_ref()) else {
            return Ok(false);
        };
        let formats = self.batch.portal.as_ref().and_then(|portal| portal.formats.clone());
        let late = |veil: &Arc<Veil>| veil.is_late();
        let late = veil.as_ref().is_some_and(late) || survey.by_name.iter().flatten().any(late);
        let blind = (late && formats.is_none()).then(|| {
            mask::refused(
                "has values to be masked in its result, and its Bind was too long to be kept",
                "send large values with COPY",
            )
        });
        let blind = blind.filter(|_| self.batch.portal.is_some());
        if let Some(refusal) = stale.or_else(|| survey.stale.take()).or(blind) {
            self.refuse_batch(manner, refusal, out);
            return Ok(true);
        }
        let bound = match (&self.batch.portal, phase) {
            (Some(portal), _) => (portal.parameters.clone(), portal.known),
            (None, _) => (Arc::default(), read.facts.params() == 0),
        };
        if phase == Phase::Execute
            && let Some(refusal) = self.too_many_names(&survey)
        {
            self.refuse_batch(manner, refusal, out);
            return Ok(true);
        }
        let command = self.command_of(&statement, &read, &survey, phase, bound, veil.as_ref())?;
        let meaning = self.meaning(&statement.text, &read, &survey, veil.as_ref());
        let batch = std::mem::take(&mut self.batch);
        let mut judging = self.judging(manner, batch.items);
        judging.statement = Some(statement);
        judging.meaning = Some(meaning);
        judging.veil = veil.map(|veil| veil.with(survey.touches));
        judging.by_name = std::mem::take(&mut survey.by_name);
        judging.formats = formats;
        if phase == Phase::Execute {
            judging.steps = std::mem::take(&mut survey.steps);
            judging.copies = steps::copies_in(&read.facts) + survey.copies;
            judging.coming = coming(&read.facts);
        } else if phase == Phase::Bind {
            // To plan it the server may run functions, but nothing of the statement itself.
            let opaque = |turn: &Turn| *turn == Turn::Opaque;
            if survey.steps.iter().flat_map(|step| &step.turns).any(opaque) {
                judging.steps = vec![Step { turns: vec![Turn::Opaque], ..Step::default() }];
            }
        }
        self.judge(batch.bytes.freeze(), command, judging, out);
        Ok(true)
    }
}

/// `IF EXISTS` of what is not known to exist: no doubt by itself, but worth another look.
fn misses(facts: &Facts) -> bool {
    let mut relations = facts.statements.iter().flat_map(|statement| &statement.relations);
    relations.any(|r| r.access != Access::Create && r.resolved == Resolved::Unresolved)
}

/// Whether what a text means depends on where names lead.
fn is_about_names(facts: &Facts) -> bool {
    facts.effects().contains(SqlEffects::DEFERRED)
        || facts.statements.iter().any(|statement| {
            let known = |f: &bulla_sql::facts::FunctionUse| f.class.keeps_purity();
            !statement.relations.is_empty()
                || !statement.names.is_empty()
                || !statement.creates.is_empty()
                || !statement.functions.iter().all(known)
        })
}

/// The transaction status that a text leaves behind, if it says so.
pub fn coming(facts: &Facts) -> Option<u8> {
    let last = facts.statements.iter().rev().find_map(|s| s.transaction.as_ref());
    match last? {
        Tx::Begin { .. } => Some(b'T'),
        Tx::Commit { chain } | Tx::Rollback { chain } => Some(if *chain { b'T' } else { b'I' }),
        Tx::Prepare(_) => Some(b'I'),
        Tx::Savepoint(_) | Tx::Release(_) | Tx::RollbackTo(_) => Some(b'T'),
        Tx::CommitPrepared(_) | Tx::RollbackPrepared(_) => None,
    }
}
