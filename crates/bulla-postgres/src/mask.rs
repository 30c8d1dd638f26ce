//! Masks of columns: what a session may not see, and what is sent and said because of it.
//!
//! Three layers, each for itself: the text is rewritten so that masks are what the server computes
//! with (`bulla_sql::Plan`); a result that names a masked column all the same ends the session; and
//! what the server says about a statement that touches such columns is replaced by generic words.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bulla_core::{ActionName, CLASS_KIND, Columns, REVEAL, Refusal, RefusalKind, Touch};
use bulla_mask::{Classes, Inference};
use bulla_sql::{
    Catalog, Cell, CopyForm, Cover, Facts, Fault, Hidden, Late, Plan, SearchPath, Shape,
    facts::{Columns as SqlColumns, RelationKind, Resolved},
    null_of,
};
use bulla_wire::{Place, Reader, Violation};
use bytes::{Bytes, BytesMut};

use crate::{
    content::Content,
    forms,
    frame::{self, Said},
    heard::Speakers,
    judge::Read,
    machine::Machine,
    message::{Malformed, Result as Decoded},
    reading,
    refusal::broke,
};

/// Combinations of catalogue and classes whose covers are kept.
const KEPT_MAX: usize = 256;

/// Covers by place, snapshot, and which of the classes in use may be seen.
type Kept = HashMap<(Place, u64, Vec<bool>), Arc<Hidden>>;

/// What is looked for, by resource and which of its classes may be seen.
type Searched = HashMap<(Arc<str>, Vec<bool>), Option<Arc<Content>>>;

/// What all sessions share of masks: classes by resource, and covers made of them.
#[derive(Default)]
pub struct Masking {
    classes: HashMap<Arc<str>, Arc<Classes>>,
    kept: Mutex<Kept>,
    /// What is looked for by content, by resource and which of its classes may be seen.
    content: Mutex<Searched>,
    /// Sessions of resources that have classes.
    pub speakers: Arc<Speakers>,
}

impl Masking {
    pub fn new(classes: HashMap<Arc<str>, Arc<Classes>>) -> Self {
        let classes = classes.into_iter().filter(|(_, classes)| !classes.is_empty()).collect();
        Self {
            classes,
            kept: Mutex::default(),
            content: Mutex::default(),
            speakers: Arc::default(),
        }
    }

    pub fn of(&self, resource: &str) -> Option<&Arc<Classes>> {
        self.classes.get(resource)
    }

    /// Whether some class of a resource may not be seen by whom `reveals` answers for, whatever its
    /// catalogue.
    pub fn hides(&self, resource: &str, reveals: &dyn Fn(&str) -> bool) -> bool {
        self.of(resource).is_some_and(|of| of.used().iter().any(|class| !reveals(class)))
    }

    /// What may not be seen of a place by whom `reveals` answers for. It is made inside `block`
    /// when it is not there yet: a large catalogue takes a while.
    pub fn hidden(
        &self,
        place: &Place,
        catalog: &Catalog,
        reveals: &dyn Fn(&str) -> bool,
        block: &dyn Fn(&mut dyn FnMut()),
    ) -> Option<Arc<Hidden>> {
        let classes = self.of(&place.resource)?;
        let used = classes.used();
        let seen: Vec<bool> = used.iter().map(|class| reveals(class)).collect();
        if seen.iter().all(|seen| *seen) {
            return None;
        }
        let key = (place.clone(), catalog.epoch(), seen);
        if let Some(hidden) = self.kept().get(&key) {
            return Some(hidden.clone());
        }
        let mut made = None;
        block(&mut || {
            let is_seen =
                |name: &str| used.iter().zip(&key.2).any(|(class, seen)| *seen && **class == *name);
            made = Some(Arc::new(hide(classes, catalog, &is_seen)));
        });
        let mut kept = self.kept();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        // Whoever was faster is kept, so that all sessions share what is made of it.
        Some(match made {
            Some(made) => kept.entry(key).or_insert(made).clone(),
            None => Arc::new(everything(catalog)),
        })
    }

    /// What is looked for by content, of a resource, for whom `reveals` answers.
    pub fn content(
        &self,
        resource: &Arc<str>,
        reveals: &dyn Fn(&str) -> bool,
    ) -> Option<Arc<Content>> {
        let classes = self.of(resource).filter(|classes| !classes.content().is_empty())?;
        let seen: Vec<bool> = classes.content().iter().map(|(_, class)| reveals(class)).collect();
        let key = (resource.clone(), seen);
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        if content.len() >= KEPT_MAX {
            content.clear();
        }
        let sees = |name: &str| {
            let all = classes.content().iter().zip(&key.1);
            all.into_iter().any(|((_, class), seen)| *seen && **class == *name)
        };
        let made = || Content::new(classes, &sees).map(Arc::new);
        content.entry(key.clone()).or_insert_with(made).clone()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every column of everybody's relations: where it could not be told what is hidden.
fn everything(catalog: &Catalog) -> Hidden {
    let mut relations: HashMap<u32, BTreeMap<Arc<str>, Cover>> = HashMap::new();
    for relation in catalog.relations().iter().filter(|r| !r.is_system() && holds_rows(r.kind)) {
        for column in relation.columns.iter().filter(|column| !column.dropped) {
            let form = null_of(catalog, column.type_oid).into();
            let cover = Cover { class: "unknown".into(), form, equality: false, late: None };
            relations.entry(relation.oid).or_default().insert(column.name.clone(), cover);
        }
    }
    Hidden::new(catalog, relations, HashSet::new(), HashSet::new())
}

fn holds_rows(kind: RelationKind) -> bool {
    match kind {
        RelationKind::Table
        | RelationKind::PartitionedTable
        | RelationKind::Partition
        | RelationKind::View
        | RelationKind::MatView
        | RelationKind::Foreign => true,
        RelationKind::Sequence
        | RelationKind::Index
        | RelationKind::Toast
        | RelationKind::Composite
        | RelationKind::Other => false,
    }
}

/// The class of a column. A view that nobody speaks of shows what is behind it, with its masks.
fn class_of<'c>(
    classes: &'c Classes,
    relation: &bulla_sql::catalog::Relation,
    column: &str,
) -> Option<&'c Arc<str>> {
    if relation.is_system() || !holds_rows(relation.kind) {
        return None;
    }
    if relation.kind == RelationKind::View && !classes.speaks(&relation.schema, &relation.name) {
        return None;
    }
    classes.of(&relation.schema, &relation.name, column)
}

fn hide(classes: &Classes, catalog: &Catalog, seen: &dyn Fn(&str) -> bool) -> Hidden {
    let mut relations: HashMap<u32, BTreeMap<Arc<str>, Cover>> = HashMap::new();
    let mut settled = HashSet::new();
    for relation in catalog.relations() {
        for column in relation.columns.iter().filter(|column| !column.dropped) {
            let Some(class) = class_of(classes, relation, &column.name) else { continue };
            if seen(class) {
                continue;
            }
            let form = forms::form(classes, class, catalog, column.type_oid).into();
            let of = classes.class(class);
            let equality = of.is_some_and(|of| of.inference == Inference::Equality);
            let late = of.filter(|of| forms::is_late(&of.mask, catalog, column.type_oid));
            let late = late.map(|of| Late { subject: of.subject.clone() });
            let cover = Cover { class: class.clone(), form, equality, late };
            relations.entry(relation.oid).or_default().insert(column.name.clone(), cover);
        }
        if relation.kind == RelationKind::MatView
            && classes.speaks(&relation.schema, &relation.name)
        {
            settled.insert(relation.oid);
        }
    }
    let trusted = classes.trusted().filter_map(|name| name.split_once('.'));
    let trusted = trusted.map(|(schema, name)| (schema.into(), name.into())).collect();
    Hidden::new(catalog, relations, settled, trusted)
}

/// How one text of a session is sent, and what its answers may hold.
#[derive(Debug)]
pub struct Veil {
    pub hidden: Arc<Hidden>,
    pub catalog: Arc<Catalog>,
    /// Masks of values that come out.
    pub classes: Option<Arc<Classes>>,
    /// What its cells are searched for.
    pub content: Option<Arc<Content>>,
    pub plan: Arc<Plan>,
    /// As the client wrote it; none for a statement within another.
    pub original: Option<Arc<str>>,
    pub touches: bool,
}

impl Veil {
    /// The same with what it runs by name.
    pub fn with(&self, touches: bool) -> Arc<Self> {
        Arc::new(Self {
            hidden: self.hidden.clone(),
            catalog: self.catalog.clone(),
            classes: self.classes.clone(),
            content: self.content.clone(),
            plan: self.plan.clone(),
            original: self.original.clone(),
            touches: self.touches || touches,
        })
    }

    /// The same for the statement that one of its statements prepares or declares.
    pub fn within(&self, statement: usize) -> Arc<Self> {
        Arc::new(Self {
            hidden: self.hidden.clone(),
            catalog: self.catalog.clone(),
            classes: self.classes.clone(),
            content: self.content.clone(),
            plan: Arc::new(self.plan.within(statement)),
            original: None,
            touches: self.touches,
        })
    }

    /// Values come out of it, to be masked here.
    pub fn is_late(&self) -> bool {
        self.plan.is_late()
    }

    /// Masked cells of so many rows of one statement, by class.
    pub fn count(&self, statement: usize, rows: u64) -> Vec<(Arc<str>, u64)> {
        let mut out: BTreeMap<Arc<str>, u64> = BTreeMap::new();
        for cell in self.cells(statement).iter().flatten() {
            let of = out.entry(cell.class.clone()).or_default();
            *of = of.saturating_add(rows);
        }
        out.into_iter().collect()
    }

    /// What the rows of a statement are.
    pub fn shape(&self, statement: usize) -> Option<&Shape> {
        self.plan.shapes.get(statement)
    }

    pub fn cells(&self, statement: usize) -> &[Option<Cell>] {
        self.shape(statement).map_or(&[], |shape| &shape.cells)
    }

    /// A RowDescription that names a column which no rewriting lets through, or other columns than
    /// those whose values are masked here, ends the session.
    pub fn guard(&self, statement: usize, body: &[u8]) -> Result<(), Violation> {
        let columns: Vec<(u32, i16)> =
            columns(body)?.into_iter().map(|(table, column, _)| (table, column)).collect();
        let late = self.shape(statement).filter(|shape| shape.is_late());
        if late.is_some_and(|shape| shape.cells.len() != columns.len() || shape.copy.is_some()) {
            return Err(broke("a result has other columns than the ones that were to be masked"));
        }
        for (at, (table, column)) in columns.into_iter().enumerate() {
            let cell = self.cells(statement).get(at).and_then(Option::as_ref);
            let late = cell.is_some_and(|cell| cell.late);
            let masked = self.hidden.has_column(&self.catalog, table, column);
            if masked && !late {
                return Err(broke("a result names a masked column that was not to be in it"));
            }
            // The server names none where rows of several queries become one.
            if late && !masked && table != 0 {
                return Err(broke("a result names another column than the one to be masked"));
            }
        }
        Ok(())
    }

    /// The same for a CopyOutResponse: copy data of another form than the one that was to be masked.
    pub fn guard_copy(&self, statement: usize, body: &[u8]) -> Result<(), Violation> {
        let Some(shape) = self.shape(statement).filter(|shape| shape.is_late()) else {
            return Ok(());
        };
        let bad = |error| Malformed::Read("CopyOutResponse", error);
        let mut reader = Reader::new(body);
        let binary = reader.u8().map_err(bad)? != 0;
        let columns = usize::from(reader.u16().map_err(bad)?);
        let fits = match &shape.copy {
            None => false,
            Some(form) => binary == (*form == CopyForm::Binary),
        };
        if fits && columns == shape.cells.len() {
            return Ok(());
        }
        Err(broke("copy data of another form than the one that was to be masked"))
    }

    /// Generic words in place of the server's own: severity, SQLSTATE and position stay.
    pub fn words(&self, kind: u8, body: &[u8]) -> Result<Bytes, Violation> {
        let said = fields(body)?;
        let of = |field: u8| said.iter().find(|(name, _)| *name == field).map(|(_, text)| *text);
        let code = of(b'C').unwrap_or("XX000");
        let position = of(b'P').and_then(|p| p.parse::<usize>().ok());
        let position = match &self.original {
            Some(original) => position.and_then(|p| self.plan.origin(original, p)),
            None => None,
        };
        let what = if kind == b'E' {
            "the target refused the statement"
        } else {
            "the target has a notice"
        };
        let message =
            format!("{what} ({code}); its words are left out, since masked columns are touched");
        let severity = of(b'V').or(of(b'S')).unwrap_or("ERROR");
        let mut out = BytesMut::new();
        Said {
            severity,
            code,
            message: &message,
            detail: None,
            hint: None,
            position: position.and_then(|p| u32::try_from(p).ok()),
        }
        .put(&mut out, kind);
        Ok(out.freeze())
    }
}

/// Types of the columns of a RowDescription.
pub fn types(body: &[u8]) -> Decoded<Arc<[u32]>> {
    Ok(columns(body)?.into_iter().map(|(_, _, kind)| kind).collect())
}

/// Table, number and type of each column of a RowDescription.
fn columns(body: &[u8]) -> Decoded<Vec<(u32, i16, u32)>> {
    let bad = |error| Malformed::Read("RowDescription", error);
    let mut reader = Reader::new(body);
    let count = usize::from(reader.u16().map_err(bad)?);
    let mut out = Vec::new();
    for _ in 0..count {
        reader.until_nul().map_err(bad)?;
        let table = reader.u32().map_err(bad)?;
        let column = reader.u16().map_err(bad)?;
        let kind = reader.u32().map_err(bad)?;
        reader.bytes(8).map_err(bad)?;
        out.push((table, i16::from_be_bytes(column.to_be_bytes()), kind));
    }
    reader.finish().map_err(bad)?;
    Ok(out)
}

/// The fields of an error or a notice that are text.
fn fields(body: &[u8]) -> Decoded<Vec<(u8, &str)>> {
    let bad = |error| Malformed::Read("ErrorResponse", error);
    let (mut reader, mut out) = (Reader::new(body), Vec::new());
    loop {
        let field = reader.u8().map_err(bad)?;
        if field == 0 {
            reader.finish().map_err(bad)?;
            return Ok(out);
        }
        if let Ok(text) = std::str::from_utf8(reader.until_nul().map_err(bad)?) {
            out.push((field, text));
        }
    }
}

/// A text as it is sent.
pub struct Covered {
    pub text: Arc<str>,
    pub read: Read,
    pub veil: Option<Arc<Veil>>,
}

pub fn refused(why: &str, hint: &str) -> Box<Refusal> {
    reading::principle(RefusalKind::Denied, format!("refused: the statement {why}"), hint)
}

/// What the server itself would say of a name that is not there.
pub fn code_of(facts: &Facts) -> Option<&'static str> {
    let why = facts.statements.iter().flat_map(|s| &s.unknown).next()?;
    let says = [
        ("no column ", "42703"),
        (": no such relation in", "42P01"),
        (": no such function in", "42883"),
        ("no type ", "42704"),
    ];
    says.into_iter().find(|(words, _)| why.contains(words)).map(|(_, code)| code)
}

/// Where in the text the name stands that is not there, in characters from 1: as the server counts,
/// from its qualifiers on. None where it stands in several places.
pub fn place_of(facts: &Facts, text: &str) -> Option<u32> {
    let why = facts.statements.iter().flat_map(|s| &s.unknown).next()?;
    let name = why.split('`').nth(1)?;
    let part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$') || !c.is_ascii();
    let mut places = text.match_indices(name).filter(|(at, _)| {
        let (before, after) = text.split_at(*at);
        let ends = !after.get(name.len()..).is_some_and(|rest| rest.starts_with(part));
        ends && !before.ends_with(part)
    });
    let (Some((at, _)), None) = (places.next(), places.next()) else { return None };
    let before = text.get(..at)?;
    let led = before.trim_end_matches(|c| part(c) || c == '.');
    let start = if before.ends_with('.') { led } else { before };
    u32::try_from(start.chars().count() + 1).ok()
}

/// Where objects cannot be looked at, it cannot be told what has to be masked.
fn certain(read: &Read) -> Result<(), Box<Refusal>> {
    read.doubt.map_or(Ok(()), |doubt| {
        let why = format!("could reach masked columns: {doubt}");
        Err(refused(&why, "end the transaction first"))
    })
}

impl Machine {
    /// What this session may not see now. `None`: nothing is hidden from it.
    pub fn hidden(&self, catalog: &Catalog) -> Option<Arc<Hidden>> {
        self.shared.masking.hidden(&self.place, catalog, &*self.reveals, &*self.block)
    }

    /// Whether something may not be seen of what this session reaches, whether or not the
    /// catalogue is known.
    pub fn hides(&self) -> bool {
        self.shared.masking.hides(&self.place.resource, &*self.reveals)
    }

    /// A notification without its payload, where that may hold values.
    pub fn unheard(&self, body: &[u8]) -> Result<Option<Bytes>, Violation> {
        if !self.hides() {
            return Ok(None);
        }
        let bad = |error| Malformed::Read("NotificationResponse", error);
        let mut reader = Reader::new(body);
        let sender = reader.u32().map_err(bad)?.to_be_bytes();
        let channel = reader.until_nul().map_err(bad)?;
        let payload = reader.until_nul().map_err(bad)?;
        reader.finish().map_err(bad)?;
        let Some(classes) = self.shared.masking.of(&self.place.resource) else { return Ok(None) };
        let trusted = std::str::from_utf8(channel).is_ok_and(|name| classes.trusts_channel(name));
        let own = self.own_pid == Some(sender) && self.veiled.is_none();
        let speakers = &self.shared.masking.speakers;
        let heard = speakers.may_hear(&self.place, sender, own, classes, &*self.reveals);
        if payload.is_empty() || heard || trusted {
            return Ok(None);
        }
        let mut out = BytesMut::new();
        frame::put(&mut out, b'A', |out| {
            out.extend_from_slice(&sender);
            out.extend_from_slice(channel);
            out.extend_from_slice(b"\0\0");
        });
        Ok(Some(out.freeze()))
    }

    /// How a text is sent, given what it was read to be.
    pub fn cover(&self, text: &Arc<str>, read: Read) -> Result<Covered, Box<Refusal>> {
        let Some(hidden) = self.hidden(&read.catalog) else {
            return Ok(Covered { text: text.clone(), read, veil: None });
        };
        certain(&read)?;
        let path = read.paths.first().cloned().unwrap_or_else(|| self.path_in(&read.catalog));
        let plan = self.shared.analyzer.mask(
            text,
            &read.facts,
            &read.catalog,
            &path,
            &hidden,
            &*self.block,
        );
        let plan = plan.map_err(|fault| match fault {
            Fault::Read(error) => reading::unreadable(&error),
            Fault::Refused(refusal) => refused(&refusal.why, &refusal.hint),
        })?;
        let veil = Arc::new(Veil {
            hidden,
            catalog: read.catalog.clone(),
            classes: self.shared.masking.of(&self.place.resource).cloned(),
            content: self.shared.masking.content(&self.place.resource, &*self.reveals),
            touches: plan.touches,
            original: Some(text.clone()),
            plan: plan.clone(),
        });
        // It is rewritten as a whole, under one path.
        if plan.touches && read.paths.len() > 1 {
            return Err(refused(
                "changes where names lead and then reads masked columns",
                "send the statements one by one",
            ));
        }
        let Some((sent, facts)) = &plan.sent else {
            return Ok(Covered { text: text.clone(), read, veil: Some(veil) });
        };
        let read = Read { facts: facts.clone(), ..read };
        Ok(Covered { text: sent.clone(), read, veil: Some(veil) })
    }

    /// What was prepared, as it would be prepared now: in the same way, or not at all.
    pub fn still_covers(
        &self,
        text: &str,
        veil: Option<&Arc<Veil>>,
        read: &Read,
        path: &Arc<SearchPath>,
    ) -> Result<Option<Arc<Veil>>, Box<Refusal>> {
        let now = self.hidden(&read.catalog);
        if now.is_some() {
            certain(read)?;
        }
        let again = || refused("was prepared when other columns were masked", "prepare it again");
        match (veil, &now) {
            (None, None) => Ok(None),
            (Some(veil), Some(now)) if veil.hidden.id() == now.id() => Ok(Some(veil.clone())),
            _ => {
                let original = match veil {
                    Some(veil) => veil.original.clone().ok_or_else(again)?,
                    None => text.into(),
                };
                // What is at hand may be the facts of what is sent, or of what runs it by name.
                let before = Read {
                    facts: self.analyse(&original, &read.catalog, path)?,
                    epoch: read.epoch,
                    catalog: read.catalog.clone(),
                    paths: vec![path.clone()],
                    doubt: None,
                };
                let covered = self.cover(&original, before)?;
                if *covered.text == *text { Ok(covered.veil) } else { Err(again()) }
            }
        }
    }

    /// Classes whose values a text shows in the clear: policy is asked about each.
    pub fn shows(&self, facts: &Facts, catalog: &Catalog, hidden: Option<&Hidden>) -> Vec<Touch> {
        let Some(classes) = self.shared.masking.of(&self.place.resource) else {
            return Vec::new();
        };
        let mut names: Vec<Arc<str>> = Vec::new();
        for used in facts.statements.iter().flat_map(|s| &s.relations) {
            let Resolved::Known(known) = &used.resolved else { continue };
            let Some(relation) = catalog.relation(known.oid).filter(|_| used.access.reads()) else {
                continue;
            };
            for column in relation.columns.iter().filter(|column| !column.dropped) {
                let touched = match &used.columns {
                    SqlColumns::Known(set) => set.contains(&column.name),
                    SqlColumns::All | SqlColumns::Unknown => true,
                };
                let masked =
                    hidden.is_some_and(|h| h.has_column(catalog, relation.oid, column.attnum));
                if touched
                    && !masked
                    && let Some(class) = class_of(classes, relation, &column.name)
                    && !names.contains(class)
                {
                    names.push(class.clone());
                }
            }
        }
        names.sort();
        let Ok(action) = ActionName::new(REVEAL) else { return Vec::new() };
        names
            .into_iter()
            .map(|path| Touch {
                action: action.clone(),
                kind: CLASS_KIND,
                path,
                columns: Columns::NotApplicable,
            })
            .collect()
    }
}

/// A simple query.
pub fn query(text: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(text.len() + 6);
    frame::put(&mut out, b'Q', |out| frame::put_text(out, text));
    out.freeze()
}

/// A Parse.
pub fn parse(name: &str, text: &str, types: &[u32]) -> Bytes {
    let mut out = BytesMut::with_capacity(text.len() + name.len() + 16);
    frame::put(&mut out, b'P', |out| {
        frame::put_text(out, name);
        frame::put_text(out, text);
        out.extend_from_slice(&u16::try_from(types.len()).unwrap_or(u16::MAX).to_be_bytes());
        for kind in types {
            out.extend_from_slice(&kind.to_be_bytes());
        }
    });
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn veil() -> Veil {
        let shared = crate::transcript::shared();
        let catalog = shared.knowledge.get(&crate::transcript::place()).unwrap();
        let customers = catalog.relation_named("public", "customers").unwrap().oid;
        let cover = Cover { class: "pii".into(), form: "NULL".into(), equality: false, late: None };
        let relations = HashMap::from([(customers, BTreeMap::from([("ssn".into(), cover)]))]);
        let hidden = Hidden::new(&catalog, relations, HashSet::new(), HashSet::new());
        Veil {
            hidden: Arc::new(hidden),
            catalog,
            classes: None,
            content: None,
            plan: Arc::default(),
            original: Some("SELECT x".into()),
            touches: true,
        }
    }

    /// A result that names a masked column ends the session, whatever the plan was.
    #[test]
    fn results_are_guarded() {
        let veil = veil();
        let customers = veil.catalog.relation_named("public", "customers").unwrap();
        let describe = |number: i16| {
            let mut body = vec![0, 1];
            body.extend(b"x\0");
            body.extend(customers.oid.to_be_bytes());
            body.extend(number.to_be_bytes());
            body.extend([0; 12]);
            veil.guard(0, &body).is_ok()
        };
        let number = |name: &str| customers.column(name).unwrap().attnum;
        assert!(describe(number("id")) && describe(number("name")));
        assert!(!describe(number("ssn")));
    }

    /// Rows and copy data of another shape than the one whose values are masked here end the
    /// session.
    #[test]
    fn what_is_to_be_masked_comes_as_it_was_planned() {
        let mut veil = veil();
        let catalog = veil.catalog.clone();
        let relation = catalog.relation_named("public", "customers").unwrap();
        let number = |name: &str| relation.column(name).unwrap().attnum;
        let customers = relation.oid;
        let (ssn, id) = (number("ssn"), number("id"));
        let cell = Cell { class: "pii".into(), late: true, type_oid: 25, subject: None };
        let planned = |copy: Option<CopyForm>| {
            let mut plan = Plan::default();
            plan.shapes.push(Shape { cells: vec![Some(cell.clone()), None], copy });
            plan
        };
        let rows = |columns: &[(u32, i16)]| {
            let mut body = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
            for (table, number) in columns {
                body.extend(b"x\0");
                body.extend(table.to_be_bytes());
                body.extend(number.to_be_bytes());
                body.extend([0; 12]);
            }
            body
        };
        let copies = |form: u8, columns: u16| {
            let mut body = vec![form];
            body.extend(columns.to_be_bytes());
            body.extend(vec![0; 2 * usize::from(columns)]);
            body
        };
        veil.plan = Arc::new(planned(None));
        for (columns, fits) in [
            (&[(customers, ssn), (customers, id)][..], true),
            // Where rows of several queries become one, the server names no table.
            (&[(0, 0), (customers, id)], true),
            (&[(customers, id), (customers, id)], false),
            (&[(customers, ssn), (customers, ssn)], false),
            (&[(customers, ssn)], false),
            (&[(customers, ssn), (customers, id), (0, 0)], false),
        ] {
            assert_eq!(veil.guard(0, &rows(columns)).is_ok(), fits, "{columns:?}");
        }
        assert!(veil.guard_copy(0, &copies(0, 2)).is_err(), "rows were to come");
        let text = || CopyForm::Text { delimiter: b'\t', null: "\\N".into(), header: false };
        for (form, told, columns, fits) in [
            (text(), 0, 2, true),
            (text(), 1, 2, false),
            (text(), 0, 3, false),
            (text(), 0, 1, false),
            (CopyForm::Binary, 1, 2, true),
            (CopyForm::Binary, 0, 2, false),
        ] {
            veil.plan = Arc::new(planned(Some(form.clone())));
            let is = veil.guard_copy(0, &copies(told, columns)).is_ok();
            assert_eq!(is, fits, "{form:?} {told} {columns}");
            assert!(veil.guard(0, &rows(&[(customers, ssn), (customers, id)])).is_err());
        }
        assert!(veil.guard_copy(0, &[0]).is_err());
        // Nothing that is masked here comes: any form will do.
        veil.plan = Arc::default();
        assert!(veil.guard_copy(0, &copies(1, 9)).is_ok());
    }

    #[test]
    fn words_of_the_server_are_left_out() {
        let body = b"SERROR\0VERROR\0C23505\0Mduplicate 536-90-4399\0DKey (ssn)=(536)\0Hhint\0\
                     P8\0Wwhere\0nname\0Fnbtinsert.c\0L1\0R_bt\0\0";
        let words = veil().words(b'E', body).unwrap();
        let text = String::from_utf8_lossy(&words).into_owned();
        assert!(text.contains("C23505\0") && text.contains("SERROR\0") && text.contains("P8\0"));
        for gone in ["536", "duplicate", "Key", "hint", "where", "name\0", "nbtinsert"] {
            assert!(!text.contains(gone), "{gone}");
        }
        assert!(veil().words(b'E', b"SERROR").is_err());
    }

    #[test]
    fn descriptions_are_read_whole() {
        let column = |table: u32, number: i16| {
            let mut out = b"name\0".to_vec();
            out.extend(table.to_be_bytes());
            out.extend(number.to_be_bytes());
            out.extend([0; 12]);
            out
        };
        let body = [&2_u16.to_be_bytes()[..], &column(7, 2), &column(0, 0)].concat();
        assert_eq!(columns(&body), Ok(vec![(7, 2, 0), (0, 0, 0)]));
        assert!(columns(&body[..body.len() - 1]).is_err());
        assert!(columns(&[&body[..], b"x"].concat()).is_err());
    }
}
