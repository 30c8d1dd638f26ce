//! What a text does by name, and to names: prepared statements and cursors, as the text itself makes
//! and drops them, and what masks the rows of those that it runs.

use std::sync::{Arc, OnceLock};

use bulla_core::{Refusal, RefusalKind};
use bulla_sql::{Facts, Kind, SearchPath, Statement, facts::NameUse};

use crate::{
    judge::Read,
    machine::Machine,
    made::Made,
    mask::{self, Veil},
    names::{Change, Meaning as Name, Prepared},
    reading,
    steps::{self, Over, Overlay, Step},
    world::Turn,
};

/// Names that may lead to each other: a statement that runs one that runs one.
const BY_NAME_MAX: usize = 8;
/// Bytes of text that one command may run by name.
const BY_NAME_BYTES_MAX: usize = 1 << 20;

/// What a text does by name, and to names.
#[derive(Default)]
pub struct Survey {
    pub steps: Vec<Step>,
    pub deferred: Vec<Arc<Facts>>,
    pub missing: Option<String>,
    /// What was run by name, for people and for the digest of an approval.
    pub remembered: Vec<(String, Arc<str>)>,
    remembered_bytes: usize,
    /// How often that takes copy data.
    pub copies: usize,
    /// Something that it runs by name touches masked columns, or was prepared with other masks.
    pub touches: bool,
    pub stale: Option<Box<Refusal>>,
    /// What masks the rows of each statement that runs something by name.
    pub by_name: Vec<Option<Arc<Veil>>>,
    /// Of the statement at hand.
    rows: Option<Arc<Veil>>,
}

impl Survey {
    fn remember(&mut self, name: &str, prepared: &Prepared, facts: &Arc<Facts>) {
        if !self.deferred.iter().any(|known| Arc::ptr_eq(known, facts)) {
            self.deferred.push(facts.clone());
        }
        let text = &prepared.text;
        if self.remembered.iter().any(|(n, t)| n == name && Arc::ptr_eq(t, text)) {
            return;
        }
        self.remembered_bytes += name.len() + text.len();
        if self.remembered_bytes > BY_NAME_BYTES_MAX {
            self.missing = Some("what it runs by name is too long to be shown".into());
        } else {
            self.remembered.push((name.to_string(), text.clone()));
        }
    }
}

/// Where a statement stands while a text is surveyed.
#[derive(Clone, Copy)]
struct At<'a> {
    read: &'a Read,
    /// The text that the statement's places count in.
    text: &'a str,
    path: &'a Arc<SearchPath>,
    /// It runs whole, not as far as it is fetched.
    whole: bool,
    /// What masks a statement within it.
    veil: &'a Option<Arc<Veil>>,
    /// How many names led here.
    depth: usize,
}

impl Machine {
    /// What a text does by name. `None`: a name depends on an answer that is still to come.
    pub fn survey(&self, text: &str, read: &Read, veil: Option<&Arc<Veil>>) -> Option<Survey> {
        let missing = read.doubt.map(str::to_owned);
        let (mut survey, mut overlay) =
            (Survey { missing, ..Survey::default() }, Overlay::default());
        let mut moved = false;
        for (i, statement) in read.facts.statements.iter().enumerate() {
            let path = read.paths.get(i).or(read.paths.last())?;
            // What was prepared is planned again where an object has changed.
            if moved && statement.names.iter().any(|n| matches!(n, NameUse::Execute { .. })) {
                let why = "objects were changed earlier in the same text";
                survey.missing.get_or_insert_with(|| why.to_owned());
            }
            moved |= steps::changes_objects(statement);
            // A statement within it was rewritten with it; its own text cannot be told from it.
            let veil = veil.map(|veil| veil.within(i));
            let at = At { read, text, path, whole: true, veil: &veil, depth: 0 };
            let mut step = Step::default();
            self.statement(statement, &at, &mut overlay, &mut step, &mut survey)?;
            survey.steps.push(step);
            let rows = survey.rows.take();
            survey.by_name.push(rows);
        }
        Some(survey)
    }

    /// Names that SQL makes count like those of the protocol.
    pub fn too_many_names(&self, survey: &Survey) -> Option<Box<Refusal>> {
        fn made<T>(changes: &[Change<T>]) -> usize {
            changes.iter().filter(|change| matches!(change, Change::Set(..))).count()
        }
        let statements: usize = survey.steps.iter().map(|step| made(&step.statements)).sum();
        let portals: usize = survey.steps.iter().map(|step| made(&step.portals)).sum();
        let fits = (statements == 0 || self.statements.has_room(statements))
            && (portals == 0 || self.portals.has_room(portals));
        (!fits).then(|| {
            let words = "refused: too many prepared statements or cursors are kept".into();
            let hint = "deallocate and close those that are not needed";
            reading::principle(RefusalKind::TooLarge, words, hint)
        })
    }

    /// Adds what one statement does, and what it runs by name, which may do the same again.
    fn statement(
        &self,
        statement: &Statement,
        at: &At<'_>,
        overlay: &mut Overlay,
        step: &mut Step,
        survey: &mut Survey,
    ) -> Option<()> {
        for turn in self.turns(statement, &at.read.catalog) {
            step.turns.push(match turn {
                // A cursor runs as far as it is fetched, and nobody knows how far.
                Turn::Path { local, .. } if !at.whole => Turn::Path { to: None, local },
                turn => turn,
            });
        }
        for name_use in &statement.names {
            let (name, found, whole) = match name_use {
                NameUse::Execute { name } => {
                    let found = match overlay.statement(name) {
                        Over::Known(known) => Name::Known(known),
                        Over::Nothing => Name::Nothing,
                        Over::Elsewhere => self.statements.find(name, self.now.id),
                    };
                    (name, found, at.whole)
                }
                NameUse::Fetch { name, .. } | NameUse::CurrentOf { name } => {
                    let found = match overlay.portal(name) {
                        Over::Known(known) => Name::Known(known),
                        Over::Nothing => Name::Nothing,
                        Over::Elsewhere => self.portals.find(name, self.now.id),
                    };
                    let found = match found {
                        Name::Known(portal) => Name::Known(portal.statement.clone()),
                        Name::Nothing => Name::Nothing,
                        Name::Wait => Name::Wait,
                    };
                    (name, found, false)
                }
                NameUse::Prepare { inner, .. } | NameUse::Declare { inner, .. } => {
                    let inner = inner.clone().and_then(|range| at.text.get(range));
                    let inner = inner
                        .and_then(|inner| self.inner(inner, at.read, at.path, at.veil.as_ref()));
                    overlay.follow(name_use, inner, step);
                    continue;
                }
                NameUse::Deallocate { .. } | NameUse::Close { .. } => {
                    overlay.follow(name_use, None, step);
                    continue;
                }
            };
            let known = match found {
                Name::Wait => return None,
                Name::Nothing => Err("nothing is known under the name"),
                Name::Known(_) if at.depth >= BY_NAME_MAX => Err("too many names lead to"),
                Name::Known(prepared) => self
                    .facts_here(&prepared, at)
                    .map(|facts| (prepared, facts))
                    .ok_or("it could not be read again what is known under the name"),
            };
            let (prepared, facts) = match known {
                Ok(known) => known,
                Err(why) => {
                    survey.missing = Some(format!("{why} `{}`", name.escape_debug()));
                    continue;
                }
            };
            let veil = prepared.veil.as_ref();
            let mut now = None;
            match self.still_covers(&prepared.text, veil, at.read, at.path) {
                Ok(veil) => now = veil,
                Err(refusal) => {
                    survey.stale.get_or_insert(refusal);
                }
            }
            let touches = |veil: Option<&Arc<Veil>>| veil.is_some_and(|veil| veil.touches);
            survey.touches |= touches(veil) || touches(now.as_ref());
            // Which of its cells hold values is known where its rows are the answer, and only there.
            let answers = at.depth == 0
                && matches!(statement.kind, Kind::Execute | Kind::Fetch)
                && matches!(name_use, NameUse::Execute { .. } | NameUse::Fetch { .. });
            if answers {
                survey.rows = now;
            } else if veil.is_some_and(|veil| veil.is_late()) {
                survey.stale.get_or_insert_with(|| {
                    mask::refused(
                        "runs by name what was prepared with values to be masked in its result",
                        "run it by itself, with EXECUTE or FETCH",
                    )
                });
            }
            survey.copies += steps::copies_in(&facts);
            survey.remember(name, &prepared, &facts);
            let veil = prepared.veil.as_ref().map(|veil| veil.within(0));
            let inner = At { text: &prepared.text, whole, veil: &veil, depth: at.depth + 1, ..*at };
            for statement in &facts.statements {
                self.statement(statement, &inner, overlay, step, survey)?;
            }
        }
        Some(())
    }

    /// The facts of a prepared statement where it is run by name.
    fn facts_here(&self, prepared: &Prepared, at: &At<'_>) -> Option<Arc<Facts>> {
        if at.read.epoch == prepared.epoch && **at.path == prepared.path {
            return Some(prepared.facts.clone());
        }
        self.analyse(&prepared.text, &at.read.catalog, at.path).ok()
    }

    /// The statement that is prepared or declared inside another.
    pub fn inner(
        &self,
        text: &str,
        read: &Read,
        path: &Arc<SearchPath>,
        veil: Option<&Arc<Veil>>,
    ) -> Option<Arc<Prepared>> {
        let facts = self.analyse(text, &read.catalog, path).ok()?;
        Some(Arc::new(Prepared {
            text: text.into(),
            facts,
            epoch: read.epoch,
            path: (**path).clone(),
            veil: veil.cloned(),
            types: Vec::new(),
            columns: OnceLock::new(),
            described: OnceLock::new(),
            made: Made::default(),
        }))
    }
}
