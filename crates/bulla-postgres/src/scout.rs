//! Loads the catalogue of one database, and publishes it.
//!
//! A look takes two round trips. The first sets the connection up, opens a read-only snapshot and
//! asks for the fingerprint; the second ends the snapshot at once where nothing changed, and loads
//! everything before that where something did. Every answer is held to what was asked: the columns
//! of its rows, their number as the server counts them, and the state of the transaction. A
//! snapshot is published whole or not at all: after any error the last good one stays.
//!
//! A database that holds names in another encoding than UTF-8 cannot be loaded, and so not be used
//! through the gateway: nobody could say which of its objects a statement means.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, PoisonError, RwLock},
};

use bulla_sql::{
    Catalog,
    catalog::{FINGERPRINT, QUERIES, Row, SESSION, SETUP},
};
use bulla_wire::{LoginError, Place, Reader, Scout, ScoutStep};
use bytes::{Buf, BytesMut};

use crate::{frame, login::error_words};

/// What one look may bring.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    rows_max: usize,
    bytes_max: usize,
}

const BOUNDS: Bounds = Bounds { rows_max: 2_000_000, bytes_max: 512 << 20 };
/// Longest message of a look: a view's definition, at most.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Columns of a result.
const COLUMNS_MAX: usize = 64;
/// Places whose catalogues are kept.
const PLACES_MAX: usize = 1024;

/// What scouts learned: the newest snapshot of each place. Readers get a shared pointer, so that a
/// command is read against one snapshot from start to end.
#[derive(Default)]
pub struct Knowledge(RwLock<HashMap<Place, Known>>);

struct Known {
    fingerprint: String,
    catalog: Arc<Catalog>,
}

impl Knowledge {
    /// The newest snapshot.
    pub fn get(&self, place: &Place) -> Option<Arc<Catalog>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(place).map(|known| known.catalog.clone())
    }

    /// What the newest snapshot was recognised by.
    pub fn fingerprint(&self, place: &Place) -> Option<String> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(place).map(|known| known.fingerprint.clone())
    }

    /// Replaces what was known. Where too many places are known, the one that was published longest
    /// ago is forgotten: its commands are refused until its scout has looked again.
    pub fn publish(&self, place: &Place, fingerprint: String, catalog: Catalog) {
        let new = Known { fingerprint, catalog: Arc::new(catalog) };
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= PLACES_MAX && !known.contains_key(place) {
            let oldest = known.iter().min_by_key(|(_, known)| known.catalog.epoch());
            if let Some(oldest) = oldest.map(|(place, _)| place.clone()) {
                known.remove(&oldest);
            }
        }
        known.insert(place.clone(), new);
    }
}

/// One look at a database, over a connection that is logged in and at rest.
pub struct Look {
    knowledge: Arc<Knowledge>,
    place: Place,
    phase: Phase,
    asked: VecDeque<Asked>,
    answer: Answer,
    results: Vec<Vec<Row>>,
    rows: usize,
    bytes: usize,
    bounds: Bounds,
}

enum Phase {
    Start,
    /// Waits for the fingerprint.
    First,
    /// Waits for everything, to be published under this fingerprint.
    Loading(String),
    /// Waits for the end of a snapshot in which nothing is new.
    Same,
    /// Done or failed.
    Over,
}

/// What one query has to be answered with.
#[derive(Clone, Copy)]
struct Asked {
    text: &'static str,
    /// The command's tag, or none for rows.
    tag: Option<&'static str>,
    /// The state of the transaction afterwards.
    status: u8,
}

#[derive(Default)]
struct Answer {
    columns: Option<usize>,
    rows: Vec<Row>,
    complete: bool,
}

const fn command(text: &'static str, tag: &'static str, status: u8) -> Asked {
    Asked { text, tag: Some(tag), status }
}

const fn rows(text: &'static str) -> Asked {
    Asked { text, tag: None, status: b'T' }
}

const OPENING: [Asked; 3] =
    [command(SETUP, "SET", b'I'), command(SESSION.0, "BEGIN", b'T'), rows(FINGERPRINT)];
const CLOSING: Asked = command(SESSION.1, "COMMIT", b'I');

fn protocol(why: &'static str) -> LoginError {
    LoginError::Protocol(why.into())
}

impl Look {
    pub fn new(knowledge: Arc<Knowledge>, place: Place) -> Self {
        Self {
            knowledge,
            place,
            phase: Phase::Start,
            asked: VecDeque::new(),
            answer: Answer::default(),
            results: Vec::new(),
            rows: 0,
            bytes: 0,
            bounds: BOUNDS,
        }
    }

    fn ask(&mut self, queries: impl IntoIterator<Item = Asked>) -> ScoutStep {
        let mut out = BytesMut::new();
        for query in queries {
            frame::put(&mut out, b'Q', |out| frame::put_text(out, query.text));
            self.asked.push_back(query);
        }
        ScoutStep::Send(out.freeze())
    }

    /// Takes one message. True: a query was answered whole.
    fn message(&mut self, kind: u8, body: &[u8]) -> Result<bool, LoginError> {
        match kind {
            b'E' => return Err(LoginError::Refused(error_words(body))),
            // Notices, settings and notifications may come at any time.
            b'N' | b'S' | b'A' => return Ok(false),
            _ => {}
        }
        let Some(asked) = self.asked.front() else {
            return Err(protocol("an answer to nothing"));
        };
        let answer = &mut self.answer;
        match (kind, asked.tag, answer.columns, answer.complete) {
            (b'T', None, None, false) => answer.columns = Some(description(body)?),
            (b'D', None, Some(columns), false) => {
                self.rows += 1;
                if self.rows > self.bounds.rows_max {
                    return Err(protocol("a catalogue of too many rows"));
                }
                answer.rows.push(row(body, columns)?);
            }
            (b'C', tag, columns, false) if tag.is_some() != columns.is_some() => {
                let expect = match tag {
                    Some(tag) => format!("{tag}\0"),
                    None => format!("SELECT {}\0", answer.rows.len()),
                };
                if body != expect.as_bytes() {
                    return Err(protocol("the end of another command, or after other rows"));
                }
                answer.complete = true;
            }
            (b'Z', _, _, true) => {
                if body != [asked.status] {
                    return Err(protocol("a transaction that is not as it was asked for"));
                }
                return Ok(true);
            }
            _ => return Err(protocol("a message out of turn while the catalogue was read")),
        }
        Ok(false)
    }

    /// A query was answered whole: go on, or stop.
    fn answered(&mut self) -> Result<Option<ScoutStep>, LoginError> {
        let answer = std::mem::take(&mut self.answer);
        let of_rows = self.asked.pop_front().is_some_and(|asked| asked.tag.is_none());
        if of_rows {
            self.results.push(answer.rows);
        }
        if !self.asked.is_empty() {
            return Ok(None);
        }
        let results = std::mem::take(&mut self.results);
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::First => {
                let fingerprint = fingerprint(results)?;
                if self.knowledge.fingerprint(&self.place).as_ref() == Some(&fingerprint) {
                    self.phase = Phase::Same;
                    return Ok(Some(self.ask([CLOSING])));
                }
                self.phase = Phase::Loading(fingerprint);
                Ok(Some(self.ask(QUERIES.into_iter().map(rows).chain([CLOSING]))))
            }
            Phase::Loading(fingerprint) => {
                let catalog = Catalog::from_rows(&results);
                let catalog = catalog.map_err(|e| LoginError::Protocol(e.to_string().into()))?;
                self.knowledge.publish(&self.place, fingerprint, catalog);
                Ok(Some(ScoutStep::Done { changed: true }))
            }
            Phase::Same => Ok(Some(ScoutStep::Done { changed: false })),
            Phase::Start | Phase::Over => Err(protocol("an answer to nothing")),
        }
    }

    fn step(&mut self, input: &mut BytesMut) -> Result<ScoutStep, LoginError> {
        match self.phase {
            Phase::Start => {
                self.phase = Phase::First;
                return Ok(self.ask(OPENING));
            }
            Phase::Over => return Err(protocol("more input after the look")),
            Phase::First | Phase::Loading(_) | Phase::Same => {}
        }
        loop {
            let head = frame::head(input);
            let head = head.map_err(|_| protocol("a message of impossible length"))?;
            let Some(head) = head else { return Ok(ScoutStep::More) };
            if head.total() > MESSAGE_BYTES_MAX {
                return Err(protocol("a catalogue row of more than 16 MiB"));
            }
            if input.len() < head.total() {
                return Ok(ScoutStep::More);
            }
            self.bytes += head.total();
            if self.bytes > self.bounds.bytes_max {
                return Err(protocol("a catalogue of too many bytes"));
            }
            let mut message = input.split_to(head.total());
            message.advance(frame::HEADER_BYTES);
            if self.message(head.kind, &message)?
                && let Some(step) = self.answered()?
            {
                return Ok(step);
            }
        }
    }
}

impl Scout for Look {
    /// After an error the connection is in no known state: MUST NOT be used again.
    fn input(&mut self, input: &mut BytesMut) -> Result<ScoutStep, LoginError> {
        let step = self.step(input);
        if step.is_err() {
            self.phase = Phase::Over;
            self.results = Vec::new();
            self.answer = Answer::default();
        }
        step
    }
}

/// The one text of the one row of the fingerprint's result.
fn fingerprint(mut results: Vec<Vec<Row>>) -> Result<String, LoginError> {
    let mut rows = results.pop().unwrap_or_default();
    let mut row = rows.pop().unwrap_or_default();
    match (row.pop().flatten(), row.is_empty() && rows.is_empty()) {
        (Some(text), true) => Ok(text),
        _ => Err(protocol("a fingerprint that is not one text")),
    }
}

/// The number of columns of a RowDescription, all of them in text form.
fn description(body: &[u8]) -> Result<usize, LoginError> {
    let bad = |_| protocol("a malformed RowDescription");
    let mut body = Reader::new(body);
    let count = body.count16().map_err(bad)?;
    if !(1..=COLUMNS_MAX).contains(&count) {
        return Err(protocol("a result of too many columns, or of none"));
    }
    for _ in 0..count {
        body.until_nul().map_err(bad)?;
        // Table, column, type, its size, its modifier.
        body.bytes(4 + 2 + 4 + 2 + 4).map_err(bad)?;
        if body.u16().map_err(bad)? != 0 {
            return Err(protocol("a result that is not in text form"));
        }
    }
    body.finish().map_err(bad)?;
    Ok(count)
}

fn row(body: &[u8], columns: usize) -> Result<Row, LoginError> {
    let bad = |_| protocol("a malformed row");
    let mut body = Reader::new(body);
    if body.count16().map_err(bad)? != columns {
        return Err(protocol("a row with other columns than described"));
    }
    let mut row = Vec::with_capacity(columns);
    for _ in 0..columns {
        let cell = match body.length32().map_err(bad)? {
            None => None,
            Some(length) => {
                let text = std::str::from_utf8(body.bytes(length).map_err(bad)?);
                Some(text.map_err(|_| protocol("a cell that is not UTF-8"))?.to_string())
            }
        };
        row.push(cell);
    }
    body.finish().map_err(bad)?;
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(n: usize) -> Place {
        Place { resource: "orders".into(), part: n.to_string().into(), default_part: true }
    }

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        frame::put(&mut out, kind, |out| out.extend_from_slice(body));
        out.to_vec()
    }

    fn described(columns: usize) -> Vec<u8> {
        let mut body = (columns as u16).to_be_bytes().to_vec();
        for _ in 0..columns {
            body.extend_from_slice(b"name\0");
            body.extend_from_slice(&[0; 18]);
        }
        message(b'T', &body)
    }

    fn data(cells: &[&str]) -> Vec<u8> {
        let mut body = (cells.len() as u16).to_be_bytes().to_vec();
        for cell in cells {
            body.extend_from_slice(&(cell.len() as u32).to_be_bytes());
            body.extend_from_slice(cell.as_bytes());
        }
        message(b'D', &body)
    }

    fn done(tag: &str, status: u8) -> Vec<u8> {
        [message(b'C', format!("{tag}\0").as_bytes()), message(b'Z', &[status])].concat()
    }

    fn result(columns: usize, rows: &[&[&str]]) -> Vec<u8> {
        let mut out = described(columns);
        rows.iter().for_each(|row| out.extend(data(row)));
        out.extend(done(&format!("SELECT {}", rows.len()), b'T'));
        out
    }

    fn opening(fingerprint: &str) -> Vec<u8> {
        [done("SET", b'I'), done("BEGIN", b'T'), result(1, &[&[fingerprint]])].concat()
    }

    /// Just enough of a catalogue, seen by `user`.
    fn load(user: &str) -> Vec<u8> {
        let mut out = result(3, &[&["150018", "orders", user]]);
        out.extend(result(3, &[&["2200", "public", "t"]]));
        (2..QUERIES.len()).for_each(|_| out.extend(result(5, &[])));
        out.extend(done("COMMIT", b'I'));
        out
    }

    fn sent(step: Result<ScoutStep, LoginError>) -> usize {
        match step {
            Ok(ScoutStep::Send(bytes)) => bytes.windows(2).filter(|w| w == b"Q\0").count(),
            other => panic!("{other:?}"),
        }
    }

    /// A look that is fed `parts`, one after each thing it sends: whether it found a change.
    fn look(knowledge: &Arc<Knowledge>, parts: &[Vec<u8>]) -> Result<bool, LoginError> {
        let mut look = Look::new(knowledge.clone(), place(0));
        let (mut input, mut parts) = (BytesMut::new(), parts.iter());
        loop {
            match look.input(&mut input) {
                Ok(ScoutStep::Send(_)) => {
                    input.extend_from_slice(parts.next().map_or(&[], Vec::as_slice));
                }
                Ok(ScoutStep::Done { changed }) => {
                    assert!(input.is_empty() && look.input(&mut input).is_err());
                    return Ok(changed);
                }
                Ok(ScoutStep::More) => return Err(protocol("test: it wants more")),
                Err(error) => {
                    assert!(look.input(&mut input).is_err());
                    return Err(error);
                }
            }
        }
    }

    fn user(knowledge: &Knowledge) -> Option<String> {
        knowledge.get(&place(0)).map(|catalog| catalog.user().to_string())
    }

    #[test]
    fn loads_once_and_again_only_after_a_change() {
        let knowledge = Arc::new(Knowledge::default());
        assert_eq!(look(&knowledge, &[opening("1"), load("a")]), Ok(true));
        assert_eq!(user(&knowledge).as_deref(), Some("a"));
        let first = knowledge.get(&place(0)).unwrap();
        assert_eq!(look(&knowledge, &[opening("1"), done("COMMIT", b'I')]), Ok(false));
        assert!(Arc::ptr_eq(&first, &knowledge.get(&place(0)).unwrap()));
        assert_eq!(look(&knowledge, &[opening("2"), load("b")]), Ok(true));
        assert_eq!(user(&knowledge).as_deref(), Some("b"));
        assert_eq!(knowledge.fingerprint(&place(0)).as_deref(), Some("2"));
        assert!(knowledge.get(&place(0)).unwrap().epoch() > first.epoch());
        assert!(knowledge.get(&place(1)).is_none());
    }

    #[test]
    fn two_round_trips() {
        let mut look = Look::new(Arc::default(), place(0));
        assert_eq!(sent(look.input(&mut BytesMut::new())), 3);
        assert_eq!(sent(look.input(&mut BytesMut::from(&opening("1")[..]))), QUERIES.len() + 1);
    }

    #[test]
    fn after_an_error_the_last_snapshot_stays() {
        let knowledge = Arc::new(Knowledge::default());
        look(&knowledge, &[opening("1"), load("a")]).unwrap();
        let loaded = load("b");
        let end = loaded.len() - done("COMMIT", b'I').len();
        let error = message(b'E', b"C40001\0Mno\0\0");
        let one = || result(1, &[&["2"]]);
        let begun = || [done("SET", b'I'), done("BEGIN", b'T')].concat();
        for (parts, words) in [
            (vec![error.clone()], "40001 no"),
            (vec![opening("2"), error.clone()], "40001 no"),
            (vec![opening("2"), [&loaded[..end], &error].concat()], "40001 no"),
            (vec![opening("2"), loaded[..end].to_vec()], "wants more"),
            // A pooler that ends transactions on its own.
            (vec![[done("SET", b'I'), done("BEGIN", b'I')].concat()], "transaction"),
            (vec![opening("2"), [&loaded[..end], &done("ROLLBACK", b'I')].concat()], "another"),
            (vec![opening("2"), [&loaded[..end], &done("COMMIT", b'T')].concat()], "transaction"),
            (vec![done("SELECT 0", b'I')], "another command"),
            (vec![[begun(), done("SELECT 0", b'T')].concat()], "out of turn"),
            (vec![[begun(), result(1, &[])].concat()], "fingerprint"),
            (vec![[begun(), result(1, &[&["1"], &["2"]])].concat()], "fingerprint"),
            (vec![[begun(), result(2, &[&["1", "2"]])].concat()], "fingerprint"),
            (vec![[begun(), described(1), done("SELECT 1", b'T')].concat()], "other rows"),
            (vec![[begun(), described(2), data(&["1"])].concat()], "other columns"),
            (vec![[begun(), described(0)].concat()], "of none"),
            (vec![[begun(), described(65)].concat()], "too many columns"),
            (vec![[begun(), described(1), described(1)].concat()], "out of turn"),
            (vec![[begun(), data(&["1"])].concat()], "out of turn"),
            (vec![described(1)], "out of turn"),
            (vec![message(b'Z', b"I")], "out of turn"),
            (vec![message(b'G', &[0; 3])], "out of turn"),
            (vec![[begun(), message(b'T', &[0, 1, b'x'])].concat()], "RowDescription"),
            (vec![[begun(), message(b'T', &[&[0, 1, 0][..], &[1; 18]].concat())].concat()], "text"),
            (vec![[begun(), described(1), message(b'D', &[0, 1, 0, 0, 0, 9])].concat()], "row"),
            (vec![[begun(), described(1), message(b'D', b"\0\x01\0\0\0\x01\xff")].concat()], "UTF"),
            (vec![[begun(), described(1), message(b'D', b"\0\x01\0\0\0\0x")].concat()], "row"),
            (vec![b"D\x01\x00\x00\x00".to_vec()], "more than 16 MiB"),
            (vec![b"D\0\0\0\x03".to_vec()], "impossible length"),
            // Whole, but not a catalogue.
            (
                vec![opening("2"), [&one().repeat(QUERIES.len())[..], &loaded[end..]].concat()],
                "row",
            ),
        ] {
            let error = look(&knowledge, &parts).unwrap_err().to_string();
            assert!(error.contains(words), "{error}: {words}");
            assert_eq!(user(&knowledge).as_deref(), Some("a"));
            assert_eq!(knowledge.fingerprint(&place(0)).as_deref(), Some("1"));
        }
        assert_eq!(look(&knowledge, &[opening("2"), loaded]), Ok(true));
    }

    #[test]
    fn what_comes_at_any_time_is_passed_over() {
        let knowledge = Arc::new(Knowledge::default());
        let noise = [message(b'N', b""), message(b'S', b""), message(b'A', b"")].concat();
        let parts = [[noise.clone(), opening("1"), noise].concat(), load("a")];
        assert_eq!(look(&knowledge, &parts), Ok(true));
    }

    #[test]
    fn rows_and_bytes_are_bounded() {
        let check = |bounds: Bounds, words: Option<&str>| {
            let knowledge = Arc::new(Knowledge::default());
            let mut look = Look::new(knowledge, place(0));
            look.bounds = bounds;
            let mut input = BytesMut::new();
            look.input(&mut input).unwrap();
            input.extend_from_slice(&opening("1"));
            look.input(&mut input).unwrap();
            input.extend_from_slice(&load("a"));
            let error = look.input(&mut input).err().map(|e| e.to_string());
            assert_eq!(error.is_some(), words.is_some(), "{error:?}");
            assert!(error.unwrap_or_default().contains(words.unwrap_or_default()));
        };
        let bytes = opening("1").len() + load("a").len();
        check(Bounds { rows_max: 3, bytes_max: bytes }, None);
        check(Bounds { rows_max: 2, bytes_max: bytes }, Some("too many rows"));
        check(Bounds { rows_max: 3, bytes_max: bytes - 1 }, Some("too many bytes"));
    }

    #[test]
    fn the_place_published_longest_ago_is_forgotten() {
        let knowledge = Knowledge::default();
        let catalog = || {
            let cell = |text: &str| Some(text.to_string());
            let mut results = vec![Vec::new(); QUERIES.len()];
            results[0] = vec![vec![cell("150018"), cell("orders"), cell("u")]];
            Catalog::from_rows(&results).unwrap()
        };
        for n in (0..PLACES_MAX).chain([0, PLACES_MAX]) {
            knowledge.publish(&place(n), n.to_string(), catalog());
        }
        assert_eq!(knowledge.0.read().unwrap().len(), PLACES_MAX);
        let known = |n| knowledge.get(&place(n)).is_some();
        assert!(known(0) && !known(1) && known(2) && known(PLACES_MAX));
    }

    proptest! {
        #[test]
        fn pieces_change_nothing(sizes in prop::collection::vec(1usize..200, 1..40)) {
            let knowledge = Arc::new(Knowledge::default());
            let mut look = Look::new(knowledge.clone(), place(0));
            let (mut input, mut sizes) = (BytesMut::new(), sizes.iter().cycle());
            look.input(&mut input).unwrap();
            let (mut sends, mut found) = (0, None);
            let bytes = [opening("1"), load("a")].concat();
            let mut rest = &bytes[..];
            while let Some(size) = sizes.next().filter(|_| !rest.is_empty()) {
                let (piece, after) = rest.split_at(rest.len().min(*size));
                rest = after;
                input.extend_from_slice(piece);
                match look.input(&mut input).unwrap() {
                    ScoutStep::More => {}
                    ScoutStep::Send(_) => sends += 1,
                    ScoutStep::Done { changed } => found = Some(changed),
                }
                if found.is_none() && !input.is_empty() && sends == 1 {
                    // What came behind the fingerprint is taken at the next call.
                    if let ScoutStep::Done { changed } = look.input(&mut input).unwrap() {
                        found = Some(changed);
                    }
                }
            }
            prop_assert_eq!((sends, found), (1, Some(true)));
            prop_assert_eq!(user(&knowledge), Some("a".to_string()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            messages in prop::collection::vec(
                (prop::sample::select(b"TDCZENSAI".to_vec()), any::<Vec<u8>>()), 0..12),
            begun in any::<bool>(),
        ) {
            let knowledge = Arc::new(Knowledge::default());
            let mut look = Look::new(knowledge.clone(), place(0));
            look.input(&mut BytesMut::new()).unwrap();
            if begun {
                look.input(&mut BytesMut::from(&opening("1")[..])).unwrap();
            }
            for (kind, body) in messages {
                let step = look.input(&mut BytesMut::from(&message(kind, &body)[..]));
                let done = matches!(step, Ok(ScoutStep::Done { .. }));
                prop_assert!(!done);
            }
            prop_assert!(user(&knowledge).is_none());
        }
    }
}
