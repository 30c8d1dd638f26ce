//! Loads the catalogue of one database, and publishes it.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use bulla_sql::{
    Catalog,
    catalog::{FINGERPRINT, QUERIES, Row, SESSION, SETUP},
};
use bulla_wire::{LoginError, Place, Reader, Scout, ScoutStep};
use bytes::{Buf, Bytes, BytesMut};

use crate::{frame, login::error_words};

/// Most bytes of one catalogue.
const CATALOGUE_BYTES_MAX: usize = 512 << 20;
/// Longest message of one.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// What scouts learned: the newest snapshot of each place. Readers get a shared pointer.
#[derive(Default)]
pub struct Knowledge(RwLock<HashMap<Place, (String, Arc<Catalog>)>>);

impl Knowledge {
    pub fn get(&self, place: &Place) -> Option<Arc<Catalog>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(place).map(|(_, catalog)| catalog.clone())
    }
    fn fingerprint(&self, place: &Place) -> Option<String> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(place).map(|(fingerprint, _)| fingerprint.clone())
    }
    pub fn publish(&self, place: &Place, fingerprint: String, catalog: Catalog) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(place.clone(), (fingerprint, Arc::new(catalog)));
    }
}

/// One look at a database.
pub struct Look {
    knowledge: Arc<Knowledge>,
    place: Place,
    /// The queries of this look: setup, fingerprint, begin, the catalogue's, commit.
    next: usize,
    waiting: bool,
    rows: Vec<Row>,
    results: Vec<Vec<Row>>,
    fingerprint: String,
    bytes: usize,
}

const FIRST: usize = 3;

fn protocol(why: &'static str) -> LoginError {
    LoginError::Protocol(why.into())
}

impl Look {
    pub fn new(knowledge: Arc<Knowledge>, place: Place) -> Self {
        Self {
            knowledge,
            place,
            next: 0,
            waiting: false,
            rows: Vec::new(),
            results: Vec::new(),
            fingerprint: String::new(),
            bytes: 0,
        }
    }

    fn query(&self) -> Option<&'static str> {
        match self.next {
            0 => Some(SETUP),
            1 => Some(SESSION.0),
            2 => Some(FINGERPRINT),
            n if n < FIRST + QUERIES.len() => QUERIES.get(n - FIRST).copied(),
            n if n == FIRST + QUERIES.len() => Some(SESSION.1),
            _ => None,
        }
    }

    fn send(&mut self, text: &str) -> ScoutStep {
        let mut out = BytesMut::new();
        frame::put(&mut out, b'Q', |out| frame::put_text(out, text));
        self.waiting = true;
        ScoutStep::Send(out.freeze())
    }

    /// A result is whole: go on with the next query, or stop.
    fn answered(&mut self) -> Result<Option<ScoutStep>, LoginError> {
        let rows = std::mem::take(&mut self.rows);
        let at = self.next;
        self.next += 1;
        self.waiting = false;
        if at == 2 {
            let text = rows.into_iter().next().and_then(|row| row.into_iter().next().flatten());
            self.fingerprint = text.ok_or_else(|| protocol("no fingerprint"))?;
            if self.knowledge.fingerprint(&self.place).as_ref() == Some(&self.fingerprint) {
                // Nothing changed: end the snapshot and be done.
                self.next = FIRST + QUERIES.len();
                self.results.clear();
            }
        } else if (FIRST..FIRST + QUERIES.len()).contains(&at) {
            self.results.push(rows);
        } else if at == FIRST + QUERIES.len() {
            let changed = !self.results.is_empty();
            if changed {
                let catalog = Catalog::from_rows(&std::mem::take(&mut self.results));
                let catalog = catalog.map_err(|e| LoginError::Protocol(e.to_string().into()))?;
                let fingerprint = std::mem::take(&mut self.fingerprint);
                self.knowledge.publish(&self.place, fingerprint, catalog);
            }
            return Ok(Some(ScoutStep::Done { changed }));
        }
        Ok(None)
    }

    fn row(&mut self, body: &[u8]) -> Result<(), LoginError> {
        let bad = |_| protocol("a bad row");
        let mut reader = Reader::new(body);
        let count = reader.count16().map_err(bad)?;
        let mut row = Vec::with_capacity(count);
        for _ in 0..count {
            let cell = match reader.length32().map_err(bad)? {
                None => None,
                Some(n) => {
                    let text = std::str::from_utf8(reader.bytes(n).map_err(bad)?);
                    Some(text.map_err(|_| protocol("a cell that is not UTF-8"))?.to_string())
                }
            };
            row.push(cell);
        }
        reader.finish().map_err(bad)?;
        self.rows.push(row);
        Ok(())
    }
}

impl Scout for Look {
    fn input(&mut self, input: &mut BytesMut) -> Result<ScoutStep, LoginError> {
        loop {
            if !self.waiting {
                let Some(query) = self.query() else {
                    return Ok(ScoutStep::Done { changed: false });
                };
                return Ok(self.send(query));
            }
            let head =
                frame::head(input).map_err(|_| protocol("a message of impossible length"))?;
            let Some(head) = head else { return Ok(ScoutStep::More) };
            if head.total() > MESSAGE_BYTES_MAX {
                return Err(protocol("a catalogue row of more than 16 MiB"));
            }
            if input.len() < head.total() {
                return Ok(ScoutStep::More);
            }
            self.bytes += head.total();
            if self.bytes > CATALOGUE_BYTES_MAX {
                return Err(protocol("a catalogue of more than 512 MiB"));
            }
            let mut message = input.split_to(head.total());
            message.advance(frame::HEADER_BYTES);
            let body: Bytes = message.freeze();
            match head.kind {
                b'D' => self.row(&body)?,
                b'T' | b'C' | b'N' | b'S' | b'A' | b'I' => {}
                b'E' => return Err(LoginError::Refused(error_words(&body))),
                b'Z' => {
                    if let Some(step) = self.answered()? {
                        return Ok(step);
                    }
                }
                _ => return Err(protocol("an unknown message")),
            }
        }
    }
}
