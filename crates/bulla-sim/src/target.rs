//! A target: as much of a server as the scripts need. Knows transactions, skips to Sync after an
//! error, answers the gateway's own questions, and makes rows that can be told apart.

use std::collections::HashMap;

use bytes::{Buf, BufMut, BytesMut};

use crate::client::{frame, next, text};

/// Begins every cell, so that data can be told from words.
pub const CELL: &str = "cell:";
/// The role of the fixture's catalogue.
const USER: &str = "postgres";
/// The search path of a fresh session.
pub const START_PATH: &str = "public";

pub struct Target {
    input: BytesMut,
    pub out: BytesMut,
    status: u8,
    skipping: bool,
    copying: bool,
    statements: HashMap<String, String>,
    portals: HashMap<String, String>,
    path: String,
    /// Cells are numbered.
    cells: u64,
    rows_max: u64,
}

/// Answers the gateway's own question: the search path and the role in effect.
pub fn where_names_lead(out: &mut BytesMut, path: &str) {
    for (name, value) in [("p", path), ("u", USER)] {
        frame(out, b'D', |out| {
            out.put_u16(2);
            for cell in [name, value] {
                out.put_u32(u32::try_from(cell.len()).unwrap());
                out.put_slice(cell.as_bytes());
            }
        });
    }
    frame(out, b'C', |out| text(out, "SELECT 2"));
}

impl Target {
    pub fn new(rows_max: u64) -> Self {
        Self {
            input: BytesMut::new(),
            out: BytesMut::new(),
            status: b'I',
            skipping: false,
            copying: false,
            statements: HashMap::new(),
            portals: HashMap::new(),
            path: START_PATH.into(),
            cells: 3,
            rows_max,
        }
    }

    pub fn hear(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while let Some((kind, body)) = next(&mut self.input) {
            self.message(kind, body);
        }
    }

    fn put(&mut self, kind: u8, body: &[u8]) {
        frame(&mut self.out, kind, |out| out.put_slice(body));
    }
    fn tag(&mut self, tag: &str) {
        frame(&mut self.out, b'C', |out| text(out, tag));
    }
    fn ready(&mut self) {
        self.put(b'Z', &[self.status]);
    }
    fn error(&mut self, code: &str) {
        let body = format!("SERROR\0VERROR\0C{code}\0Msaid\0\0");
        self.put(b'E', body.as_bytes());
        if self.status == b'T' {
            self.status = b'E';
        }
    }

    fn describe(&mut self) {
        frame(&mut self.out, b'T', |out| {
            out.put_u16(1);
            text(out, "name");
            out.put_slice(&[0; 6]);
            out.put_u32(25);
            out.put_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
        });
    }

    fn rows(&mut self) -> u64 {
        let rows = self.cells % (self.rows_max + 1);
        for _ in 0..rows {
            self.cells += 1;
            let cell = format!("{CELL}{}", self.cells);
            frame(&mut self.out, b'D', |out| {
                out.put_u16(1);
                out.put_u32(u32::try_from(cell.len()).unwrap());
                out.put_slice(cell.as_bytes());
            });
        }
        self.cells += 1;
        rows
    }

    /// Runs one statement. True: an answer was given up to its end.
    fn run(&mut self, statement: &str, simple: bool) -> Result<(), &'static str> {
        let word = statement.split(' ').next().unwrap_or_default().to_uppercase();
        if statement.starts_with("SELECT 'p'") && self.status != b'E' {
            if simple {
                frame(&mut self.out, b'T', |out| out.put_u16(0));
            }
            where_names_lead(&mut self.out, &self.path);
            return Ok(());
        }
        if statement.starts_with("bulla:") || statement.contains('(') && word == "SELECT" {
            return Err("42601");
        }
        if self.status == b'E' && !matches!(word.as_str(), "COMMIT" | "ROLLBACK") {
            return Err("25P02");
        }
        match (word.as_str(), statement) {
            ("", _) => self.put(b'I', b""),
            (_, "SELECT 1/0") => return Err("22012"),
            ("SELECT", _) => {
                if simple {
                    self.describe();
                }
                let rows = self.rows();
                self.tag(&format!("SELECT {rows}"));
            }
            ("BEGIN", _) => {
                self.status = b'T';
                self.tag("BEGIN");
            }
            ("COMMIT", _) => {
                let tag = if self.status == b'E' { "ROLLBACK" } else { "COMMIT" };
                self.status = b'I';
                self.tag(tag);
            }
            ("ROLLBACK", _) => {
                self.status = b'I';
                self.tag("ROLLBACK");
            }
            ("SET", _) => {
                self.path = "app".into();
                self.tag("SET");
            }
            ("INSERT", _) => self.tag("INSERT 0 1"),
            ("COPY", _) if statement.contains("STDIN") => {
                self.put(b'G', &[0, 0, 1, 0, 0]);
                self.copying = true;
            }
            ("COPY", _) => {
                self.put(b'H', &[0, 0, 1, 0, 0]);
                self.cells += 1;
                let row = format!("{CELL}{}\n", self.cells);
                self.put(b'd', row.as_bytes());
                self.put(b'c', b"");
                self.tag("COPY 1");
            }
            (word, _) => self.tag(&format!("{word} 1")),
        }
        Ok(())
    }

    fn query(&mut self, query: &str) {
        for statement in query.split(';').map(str::trim) {
            if let Err(code) = self.run(statement, true) {
                self.error(code);
                break;
            }
        }
        if !self.copying {
            self.ready();
        }
    }

    fn message(&mut self, kind: u8, mut body: BytesMut) {
        let mut word = || {
            let end = body.iter().position(|b| *b == 0).unwrap_or(body.len());
            let word = String::from_utf8_lossy(&body.split_to(end)).into_owned();
            body.advance(1.min(body.len()));
            word
        };
        match kind {
            b'd' => {}
            b'c' | b'f' if self.copying => {
                self.copying = false;
                if kind == b'c' {
                    self.tag("COPY 1");
                } else {
                    self.error("57014");
                }
                self.ready();
            }
            b'S' => {
                self.skipping = false;
                self.ready();
            }
            b'Q' => {
                let query = word();
                self.query(&query);
            }
            _ if self.skipping => {}
            b'P' => {
                let (name, query) = (word(), word());
                let failed = query.starts_with("bulla:")
                    || self.status == b'E' && !matches!(query.as_str(), "COMMIT" | "ROLLBACK");
                if failed {
                    self.error(if self.status == b'E' { "25P02" } else { "42601" });
                    self.skipping = true;
                } else {
                    self.statements.insert(name, query);
                    self.put(b'1', b"");
                }
            }
            b'B' => {
                let (portal, name) = (word(), word());
                match self.statements.get(&name).cloned() {
                    Some(query) => {
                        self.portals.insert(portal, query);
                        self.put(b'2', b"");
                    }
                    None => {
                        self.error("26000");
                        self.skipping = true;
                    }
                }
            }
            b'D' => {
                let portal = word();
                let query = self.portals.get(portal.get(1..).unwrap_or_default());
                let rows = query.is_some_and(|query| query.starts_with("SELECT"));
                if rows { self.describe() } else { self.put(b'n', b"") }
            }
            b'E' => {
                let query = self.portals.get(&word()).cloned();
                let done = query.ok_or("34000").and_then(|query| self.run(&query, false));
                if let Err(code) = done {
                    self.error(code);
                    self.skipping = true;
                }
            }
            b'C' => {
                let name = word();
                self.statements.remove(name.get(1..).unwrap_or_default());
                self.put(b'3', b"");
            }
            _ => {}
        }
    }
}
