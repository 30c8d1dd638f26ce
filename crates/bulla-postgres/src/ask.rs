//! The gateway's own questions to a server, and what the answers say.
//!
//! Only the server knows for sure where names lead: which role is in effect, what its search path
//! is and which temporary relations stand in front. Before PostgreSQL 18 it does not report the
//! path, and no version reports the role; a login trigger, a default of the role or a pooler may
//! have changed either. So the login asks, and the machine asks again where following would need a
//! guess. All questions are constants, and every operator in them is qualified, since the path that
//! they are run under is not ours.

use std::collections::BTreeMap;

use bulla_sql::catalog::{QUERIES, Row, Temporary};

use crate::{frame, message};

/// Temporary relations of one session that are kept by name.
pub const TEMPORARY_MAX: usize = 10_000;
/// Settings of role and database that are looked at.
const DEFAULTS_MAX: usize = 1_000;
/// Rows and bytes of a look; a larger catalogue is not known within a transaction that changed it.
const LOOK_ROWS_MAX: usize = 500_000;
const LOOK_BYTES_MAX: usize = 64 << 20;

/// Where names lead now.
macro_rules! question {
    () => {
        "SELECT 'p', pg_catalog.current_setting('search_path') \
UNION ALL SELECT 'u', CURRENT_USER::pg_catalog.text \
UNION ALL SELECT 't', c.relname::pg_catalog.text FROM pg_catalog.pg_class c \
WHERE c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() \
AND c.relkind OPERATOR(pg_catalog.<>) 'v' \
UNION ALL SELECT 'v', pg_catalog.concat((SELECT pg_catalog.string_agg(\
DISTINCT d.refobjid::pg_catalog.text, ',') FROM pg_catalog.pg_rewrite r \
JOIN pg_catalog.pg_depend d ON d.objid OPERATOR(pg_catalog.=) r.oid \
AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass \
AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass \
AND d.refobjid OPERATOR(pg_catalog.<>) c.oid \
JOIN pg_catalog.pg_class b ON b.oid OPERATOR(pg_catalog.=) d.refobjid \
AND (b.relkind OPERATOR(pg_catalog.=) 'v' OR b.relnamespace \
OPERATOR(pg_catalog.<>) c.relnamespace) \
WHERE r.ev_class OPERATOR(pg_catalog.=) c.oid), ' ', c.relname) FROM pg_catalog.pg_class c \
WHERE c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() \
AND c.relkind OPERATOR(pg_catalog.=) 'v'"
    };
}

/// Within a transaction: whether it made, changed or dropped any relation so far. Whatever does so
/// holds this lock until its end, also where the statement was in a function that nobody read.
macro_rules! changed {
    () => {
        " UNION ALL SELECT 'x', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks l \
WHERE l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() \
AND l.locktype OPERATOR(pg_catalog.=) 'relation' \
AND l.mode OPERATOR(pg_catalog.=) 'AccessExclusiveLock')"
    };
}

/// The same, and what role and database set for every session. A default that changes how text is
/// read does not reach our sessions, since a startup message counts more; but it would wait there.
const LOGIN_BODY: &str = concat!(
    question!(),
    " UNION ALL SELECT 'd', s.s FROM pg_catalog.pg_db_role_setting d \
CROSS JOIN LATERAL pg_catalog.unnest(d.setconfig) AS s(s) \
WHERE (d.setdatabase OPERATOR(pg_catalog.=) 0::pg_catalog.oid OR d.setdatabase \
OPERATOR(pg_catalog.=) (SELECT b.oid FROM pg_catalog.pg_database b \
WHERE b.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())) \
AND (d.setrole OPERATOR(pg_catalog.=) 0::pg_catalog.oid OR d.setrole \
OPERATOR(pg_catalog.=) (SELECT r.oid FROM pg_catalog.pg_roles r \
WHERE r.rolname OPERATOR(pg_catalog.=) SESSION_USER))\0"
);

pub const AT_LOGIN: &[u8] = &constant::<{ LOGIN_BODY.len() + 5 }>(b'Q', LOGIN_BODY.as_bytes());

const SIMPLE_BODY: &str = concat!(question!(), changed!(), "\0");

/// The question as a simple query, for a connection that takes nothing else.
pub const PROBE_SIMPLE: &[u8] =
    &constant::<{ SIMPLE_BODY.len() + 5 }>(b'Q', SIMPLE_BODY.as_bytes());

/// The statement and the portal of our own questions. Named, so that asking does not drop the
/// client's unnamed ones; if a client took the name, the question fails and nothing is known.
const NAME: &[u8] = b"bulla asks\0";
/// No formats and no parameters in, text out.
const BOUND: &[u8] = &[0; 6];
const ALL_ROWS: &[u8] = &[0; 4];

/// Bytes that asking all of `texts` takes.
const fn asking_bytes(texts: &[&str]) -> usize {
    let closes = 2 * (frame::HEADER_BYTES + 1 + NAME.len());
    let (mut total, mut i) = (closes, 0);
    while i < texts.len() {
        let bodies = NAME.len() * 4 + texts[i].len() + 3 + BOUND.len() + ALL_ROWS.len();
        total += closes + bodies + 3 * frame::HEADER_BYTES;
        i += 1;
    }
    total
}

const fn put<const N: usize>(out: &mut [u8; N], at: usize, kind: u8, body: &[&[u8]]) -> usize {
    let (mut end, mut i) = (at + frame::HEADER_BYTES, 0);
    while i < body.len() {
        let mut j = 0;
        while j < body[i].len() {
            out[end] = body[i][j];
            end += 1;
            j += 1;
        }
        i += 1;
    }
    let length = ((end - at - 1) as u32).to_be_bytes();
    out[at] = kind;
    let mut k = 0;
    while k < 4 {
        out[at + 1 + k] = length[k];
        k += 1;
    }
    end
}

const fn put_closes<const N: usize>(out: &mut [u8; N], at: usize) -> usize {
    let at = put(out, at, b'C', &[b"S", NAME]);
    put(out, at, b'C', &[b"P", NAME])
}

/// Parse, Bind and Execute for each text, with both Closes before, since a question that failed may
/// have left its names, and behind the last. What ends it all is sent behind.
const fn asking<const N: usize>(texts: &[&str]) -> [u8; N] {
    let (mut out, mut at, mut i) = ([0; N], 0, 0);
    while i < texts.len() {
        at = put_closes(&mut out, at);
        at = put(&mut out, at, b'P', &[NAME, texts[i].as_bytes(), b"\0\0\0"]);
        at = put(&mut out, at, b'B', &[NAME, NAME, BOUND]);
        at = put(&mut out, at, b'E', &[NAME, ALL_ROWS]);
        i += 1;
    }
    at = put_closes(&mut out, at);
    assert!(at == N);
    out
}

const PROBE_TEXTS: &[&str] = &[concat!(question!(), changed!())];
/// The question within the extended protocol: it ends no transaction and drops no name.
pub const PROBE: &[u8] = &asking::<{ asking_bytes(PROBE_TEXTS) }>(PROBE_TEXTS);

const LOOK_TEXTS: &[&str] = {
    let [a, b, c, d, e, f, g, h, i, j, k] = QUERIES;
    &[question!(), a, b, c, d, e, f, g, h, i, j, k]
};
/// The question and the whole catalogue, as the transaction that is open sees it.
pub const LOOK: &[u8] = &asking::<{ asking_bytes(LOOK_TEXTS) }>(LOOK_TEXTS);

/// One message as a constant; `N` is its whole length.
pub const fn constant<const N: usize>(kind: u8, body: &[u8]) -> [u8; N] {
    assert!(N == body.len() + frame::HEADER_BYTES);
    let length = (body.len() as u32 + 4).to_be_bytes();
    let mut out = [0; N];
    out[0] = kind;
    let mut i = 0;
    while i < 4 {
        out[1 + i] = length[i];
        i += 1;
    }
    let mut i = 0;
    while i < body.len() {
        out[frame::HEADER_BYTES + i] = body[i];
        i += 1;
    }
    out
}

/// How the end of the question is told, so that its answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A Sync of our own, answered by ReadyForQuery; or a simple query.
    Ready,
    /// A Flush: it stands in the middle of the client's own messages.
    Closed,
}

/// A question that is on its way, and what was answered so far.
#[derive(Debug)]
pub struct Question {
    pub told: Told,
    /// Of the catalogue's queries.
    pub results: Vec<Vec<Row>>,
    looks: bool,
    end: End,
    complete: usize,
    closed: usize,
    rows: usize,
    bytes: usize,
}

impl Question {
    pub fn new(looks: bool, end: End) -> Self {
        let (told, results) = (Told::default(), Vec::new());
        Self { told, results, looks, end, complete: 0, closed: 0, rows: 0, bytes: 0 }
    }

    pub fn end(&self) -> End {
        self.end
    }

    fn texts(&self) -> usize {
        if self.looks { LOOK_TEXTS.len() } else { PROBE_TEXTS.len() }
    }

    /// Takes a message of the answer. True: it was the last that comes without a ReadyForQuery.
    /// `None`: it is not part of any answer.
    pub fn take(&mut self, kind: u8, body: &[u8]) -> Option<bool> {
        match kind {
            b'1' | b'2' | b'T' => {}
            b'D' if self.complete == 0 => self.told.row(body),
            b'D' if self.looks => {
                self.bytes += body.len();
                self.rows += 1;
                let fits = self.rows <= LOOK_ROWS_MAX && self.bytes <= LOOK_BYTES_MAX;
                match row(body) {
                    Ok(row) if fits && !self.told.failed => {
                        self.results.resize_with(self.complete, Vec::new);
                        self.results.last_mut()?.push(row);
                    }
                    _ => (self.told.failed, self.results) = (true, Vec::new()),
                }
            }
            b'C' => self.complete += 1,
            b'3' => self.closed += 1,
            b'E' => self.told.failed = true,
            _ => return None,
        }
        Some(self.end == End::Closed && self.closed == 2 * (self.texts() + 1))
    }

    /// The catalogue's rows, one result for each query, where the answer is whole.
    pub fn catalogue(&mut self) -> Option<Vec<Vec<Row>>> {
        if !self.looks || self.told.failed || self.complete != LOOK_TEXTS.len() {
            return None;
        }
        let mut results = std::mem::take(&mut self.results);
        results.resize_with(QUERIES.len(), Vec::new);
        Some(results)
    }
}

fn row(body: &[u8]) -> Result<Row, message::Malformed> {
    let cells = message::row(body)?;
    Ok(cells.into_iter().map(|cell| cell.map(str::to_owned)).collect())
}

/// `12,34 name`: what a temporary view shows, and its name.
pub fn temporary_view(text: &str) -> Option<(String, Temporary)> {
    let (shows, name) = text.split_once(' ')?;
    let shows = shows.split(',').filter(|oid| !oid.is_empty());
    let shows: Result<Vec<u32>, _> = shows.map(str::parse).collect();
    Some((name.to_owned(), Temporary::View(shows.ok()?)))
}

/// What the rows of an answer say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    pub path: Option<String>,
    pub user: Option<String>,
    pub temporary: BTreeMap<String, Temporary>,
    /// `name=value` of role and database.
    pub defaults: Vec<String>,
    /// The transaction changed relations.
    pub changed: bool,
    /// It is not the answer to what was asked, or more than can be kept.
    pub failed: bool,
}

impl Told {
    /// Takes the body of one DataRow.
    pub fn row(&mut self, body: &[u8]) {
        match message::row(body).as_deref() {
            Ok([Some("p"), Some(path)]) if self.path.is_none() => self.path = Some((*path).into()),
            Ok([Some("u"), Some(user)]) if self.user.is_none() => self.user = Some((*user).into()),
            Ok([Some("t"), Some(name)]) if self.temporary.len() <= TEMPORARY_MAX => {
                self.temporary.insert((*name).into(), Temporary::Own);
            }
            Ok([Some("v"), Some(view)]) if self.temporary.len() <= TEMPORARY_MAX => {
                match temporary_view(view) {
                    Some((name, shows)) => _ = self.temporary.insert(name, shows),
                    None => self.failed = true,
                }
            }
            Ok([Some("x"), Some("")]) => self.changed = true,
            Ok([Some("d"), Some(pair)]) if self.defaults.len() <= DEFAULTS_MAX => {
                self.defaults.push((*pair).into());
            }
            _ => self.failed = true,
        }
    }

    /// Role and path, where the answer is whole.
    pub fn whole(&self) -> Option<(&str, &str)> {
        match (&self.user, &self.path) {
            (Some(user), Some(path)) if !self.failed => Some((user, path)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Client;
    use bytes::{BufMut, BytesMut};

    /// Every message is whole, is one that a client may send, and its text parses.
    #[test]
    fn questions_are_whole_messages() {
        let analyzer = bulla_sql::Analyzer::new(bulla_sql::Limits::default()).unwrap();
        let check = |mut bytes: &[u8], expect: &str| {
            let mut kinds = String::new();
            while let Some(head) = frame::head(bytes).unwrap() {
                let (whole, rest) = bytes.split_at(head.total());
                let message = message::client(head.kind, &whole[frame::HEADER_BYTES..]).unwrap();
                if let Client::Parse { text, .. } | Client::Query { text } = message {
                    assert!(analyzer.normalise(text, &|wait| wait()).is_ok(), "{text}");
                }
                kinds.push(char::from(head.kind));
                bytes = rest;
            }
            assert!(bytes.is_empty());
            assert_eq!(kinds, expect);
        };
        check(AT_LOGIN, "Q");
        check(PROBE_SIMPLE, "Q");
        check(PROBE, "CCPBECC");
        check(LOOK, &format!("{}CC", "CCPBE".repeat(12)));
    }

    fn row(cells: &[&str]) -> Vec<u8> {
        let mut body = BytesMut::new();
        body.put_u16(cells.len() as u16);
        for cell in cells {
            body.put_u32(cell.len() as u32);
            body.extend_from_slice(cell.as_bytes());
        }
        body.to_vec()
    }

    fn told(rows: &[&[&str]]) -> Told {
        let mut told = Told::default();
        rows.iter().for_each(|cells| told.row(&row(cells)));
        told
    }

    #[test]
    fn only_a_whole_answer_counts() {
        let whole =
            told(&[&["p", "a, b"], &["u", "boss"], &["t", "x"], &["v", "7,8 y z"], &["d", "n=v"]]);
        assert_eq!(whole.whole(), Some(("boss", "a, b")));
        assert_eq!(whole.defaults, ["n=v"]);
        let shown = [("x".into(), Temporary::Own), ("y z".into(), Temporary::View(vec![7, 8]))];
        assert_eq!(whole.temporary, shown.into());
        for rows in [
            &[&["p", "a"][..]][..],
            &[&["u", "a"]],
            &[&["p", "a"], &["u", "b"], &["p", "c"]],
            &[&["p", "a"], &["u", "b"], &["u", "c"]],
            &[&["p", "a"], &["u", "b"], &["x", "c"]],
            &[&["p", "a"], &["u", "b"], &["t"]],
            &[&["p", "a"], &["u", "b"], &["v", "x"]],
            &[&["p", "a"], &["u", "b"], &["v", "1,x y"]],
        ] {
            assert_eq!(told(rows).whole(), None, "{rows:?}");
        }
    }
}
