//! Golden transcripts: what client and target say, and what the machine makes of it.
//!
//! A file holds cases, each `## name`. Lines with `C>` are the client's messages, with `T>` the
//! target's, with `!` what the gate or the engine does; everything indented is what the machine
//! answered, and is written anew with `BULLA_UPDATE=1`. Every case runs twice: with messages whole,
//! and byte by byte; both must agree.

use std::{
    fmt::Write as _,
    sync::{Arc, OnceLock},
};

use bulla_core::{
    Columns, Command, Draft, Fact, Obligations, Outcome, ParameterValue, Purity, Refusal,
    RefusalKind, Touches,
};
use bulla_sql::{Catalog, Limits, catalog::Row};
use bulla_wire::{HoldNotice, Opened, Output, Outputs, Place, TargetHello, Wire};
use bytes::{BufMut, Bytes, BytesMut};

use crate::{Shared, ask, frame, login, machine::Machine, message, refusal};

/// The snapshot that the tests of `bulla-sql` use.
pub fn fixture() -> Vec<Vec<Row>> {
    let text = include_str!("../../bulla-sql/tests/fixtures/catalogue.txt");
    let mut results: Vec<Vec<Row>> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with("# ")) {
        if line == "===" {
            results.push(Vec::new());
        } else {
            let cell = |cell: &str| (cell != "\\N").then(|| unescape(cell));
            results.last_mut().unwrap().push(line.split('\t').map(cell).collect());
        }
    }
    results
}

pub fn shared() -> Arc<Shared> {
    static SHARED: OnceLock<Arc<Shared>> = OnceLock::new();
    let make = || {
        let shared = Shared::new(Limits::default()).unwrap();
        let catalog = Catalog::from_rows(&fixture()).unwrap();
        shared.knowledge.publish(&place(), "fixture".into(), catalog);
        Arc::new(shared)
    };
    SHARED.get_or_init(make).clone()
}

fn unescape(cell: &str) -> String {
    cell.replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\")
}

pub fn place() -> Place {
    Place { resource: "shop".into(), part: "shop".into(), default_part: true }
}

pub fn opened(parameters: &[(&str, &str)]) -> Opened {
    let path = "\"$user\", public";
    let usual = [(login::ASKED_PATH, path), (login::PATH, path), (login::USER, "postgres")];
    let own = |name: &str| !parameters.iter().any(|(n, _)| *n == name);
    let usual = usual.iter().filter(|(name, _)| own(name));
    let target = TargetHello {
        parameters: parameters
            .iter()
            .chain(usual)
            .map(|(n, v)| (n.to_string(), v.to_string()))
            .collect(),
        cancel_key: vec![0; 8],
        account: "postgres".into(),
    };
    Opened {
        cancel_key: [7; bulla_wire::CANCEL_KEY_BYTES],
        target: Arc::new(target),
        place: place(),
        block: Arc::new(|wait| wait()),
        reveals: Arc::new(|_| true),
    }
}

/// `a "b c" d` → `a`, `b c`, `d`.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut chars) = (Vec::new(), line.chars().peekable());
    while let Some(c) = chars.next() {
        if c == '"' {
            let mut word = String::new();
            while let Some(c) = chars.next().filter(|c| *c != '"') {
                match c {
                    '\\' => match chars.next().unwrap() {
                        'n' => word.push('\n'),
                        '0' => word.push('\0'),
                        c => word.push(c),
                    },
                    c => word.push(c),
                }
            }
            words.push(word);
        } else if !c.is_whitespace() {
            let mut word = c.to_string();
            while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
                word.push(c);
            }
            words.push(word);
        }
    }
    words
}

/// ` | ` outside of quotes.
fn parts(line: &str) -> Vec<String> {
    let (mut parts, mut quoted) = (vec![String::new()], false);
    for c in line.chars() {
        quoted ^= c == '"';
        if c == '|' && !quoted {
            parts.push(String::new());
        } else {
            parts.last_mut().unwrap().push(c);
        }
    }
    parts
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

/// One message of the client.
pub fn client(text: &str) -> Vec<u8> {
    let words = words(text);
    let word = |n: usize| words.get(n).map_or("", String::as_str);
    let mut out = BytesMut::new();
    match word(0) {
        "raw" => out.extend(hex(&words[1..].concat())),
        "big" => {
            // A Bind of so many bytes: portal, statement, size of its one value.
            let n: usize = word(3).parse().unwrap();
            frame::put(&mut out, b'B', |out| {
                frame::put_text(out, word(1));
                frame::put_text(out, word(2));
                out.put_u16(0);
                out.put_u16(1);
                out.put_u32(n as u32);
                out.extend(std::iter::repeat_n(b'x', n));
                out.put_u16(0);
            });
        }
        kind => {
            let code = kind.as_bytes()[0];
            frame::put(&mut out, code, |out| match code {
                b'Q' => frame::put_text(out, word(1)),
                b'P' => {
                    frame::put_text(out, word(1));
                    frame::put_text(out, word(2));
                    out.put_u16(words.len().saturating_sub(3) as u16);
                    words.iter().skip(3).for_each(|oid| out.put_u32(oid.parse().unwrap()));
                }
                b'B' => {
                    frame::put_text(out, word(1));
                    frame::put_text(out, word(2));
                    let values: Vec<_> = words.iter().skip(3).collect();
                    let binary = values.iter().any(|v| v.starts_with("0x"));
                    out.put_u16(u16::from(binary));
                    if binary {
                        out.put_u16(1);
                    }
                    out.put_u16(values.len() as u16);
                    for value in values {
                        let bytes = match value.strip_prefix("0x") {
                            Some(digits) => hex(digits),
                            None => value.clone().into_bytes(),
                        };
                        if value == "NULL" {
                            out.put_u32(u32::MAX);
                        } else {
                            out.put_u32(bytes.len() as u32);
                            out.extend(bytes);
                        }
                    }
                    out.put_u16(0);
                }
                b'D' | b'C' => {
                    out.put_u8(word(1).as_bytes()[0]);
                    frame::put_text(out, word(2));
                }
                b'E' => {
                    frame::put_text(out, word(1));
                    out.put_u32(word(2).parse().unwrap_or(0));
                }
                b'F' => {
                    out.put_u32(word(1).parse().unwrap());
                    out.extend([0; 6]);
                }
                b'd' => out.extend(word(1).bytes()),
                b'f' => frame::put_text(out, word(1)),
                b'p' => frame::put_text(out, word(1)),
                _ => {}
            });
        }
    }
    out.to_vec()
}

/// Rows to one of our own questions, and everything around them.
fn answer(rows: &[Vec<&str>]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for kind in [b'1', b'2'] {
        frame::put(&mut out, kind, |_| {});
    }
    for row in rows {
        frame::put(&mut out, b'D', |out| {
            out.put_u16(row.len() as u16);
            for cell in row {
                match *cell {
                    "\\N" => out.put_u32(u32::MAX),
                    cell => {
                        out.put_u32(cell.len() as u32);
                        out.extend(cell.bytes());
                    }
                }
            }
        });
    }
    frame::put(&mut out, b'C', |out| frame::put_text(out, "SELECT"));
    for _ in 0..2 {
        frame::put(&mut out, b'3', |_| {});
    }
    out.to_vec()
}

/// Answers to the queries of a look: the fixture with a table `name` in `schema`.
fn looked(schema: &str, name: &str) -> Vec<u8> {
    let results = fixture();
    let cells = |row: &Vec<Option<String>>| -> Vec<String> {
        row.iter().map(|cell| cell.clone().unwrap_or("\\N".into())).collect()
    };
    let mut all: Vec<Vec<Vec<String>>> =
        results.iter().map(|rows| rows.iter().map(cells).collect()).collect();
    let schema = all[1].iter().find(|row| row[1] == schema).unwrap()[0].clone();
    let own = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    all[2].push(own(&format!("99999 {schema} {name} r f p f f \\N")));
    all[3].push(own("99999 1 a 23 f"));
    let mut out = Vec::new();
    for rows in &all {
        let rows: Vec<Vec<&str>> =
            rows.iter().map(|row| row.iter().map(String::as_str).collect()).collect();
        out.extend(answer(&rows));
    }
    out
}

/// One message of the target.
pub fn target(text: &str) -> Vec<u8> {
    let words = words(text);
    let word = |n: usize| words.get(n).map_or("", String::as_str);
    let mut out = BytesMut::new();
    if word(0) == "raw" {
        return hex(&words[1..].concat());
    }
    if word(0) == "told" {
        // The answer to a question: path, role, temporary relations.
        let mut rows = vec![["p", word(1)], ["u", word(2)]];
        let more = words.iter().skip(3).map(|name| match name.as_str() {
            "changed" => ["x", ""],
            name => ["t", name],
        });
        rows.extend(more);
        for _ in 0..2 {
            frame::put(&mut out, b'3', |_| {});
        }
        let rows = rows.iter().map(|row| row.to_vec()).collect::<Vec<_>>();
        return [out.to_vec(), answer(&rows)].concat();
    }
    if word(0) == "catalogue" {
        // The rest of a look: the fixture, with one more table.
        return looked(word(1), word(2));
    }
    let code = word(0).as_bytes()[0];
    frame::put(&mut out, code, |out| match code {
        b'Z' => out.put_u8(word(1).as_bytes()[0]),
        b'C' => frame::put_text(out, word(1)),
        b'E' | b'N' => {
            let severity = match (word(0), code) {
                ("E!", _) => "FATAL",
                (_, b'E') => "ERROR",
                _ => "NOTICE",
            };
            for (field, value) in [('S', severity), ('V', severity), ('C', word(1)), ('M', "said")]
            {
                out.put_u8(field as u8);
                frame::put_text(out, value);
            }
            out.put_u8(0);
        }
        b'D' => {
            out.put_u16(words.len() as u16 - 1);
            for cell in &words[1..] {
                out.put_u32(cell.len() as u32);
                out.extend(cell.bytes());
            }
        }
        b't' => {
            out.put_u16(words.len() as u16 - 1);
            words[1..].iter().for_each(|oid| out.put_u32(oid.parse().unwrap()));
        }
        b'T' => out.put_u16(0),
        b'G' | b'H' | b'W' => out.extend([0, 0, 0]),
        b'd' => out.extend(word(1).bytes()),
        b'S' => {
            frame::put_text(out, word(1));
            frame::put_text(out, word(2));
        }
        b'A' => {
            out.put_u32(1);
            frame::put_text(out, word(1));
            frame::put_text(out, "");
        }
        _ => {}
    });
    out.to_vec()
}

/// Messages by their types.
pub fn kinds(mut bytes: &[u8]) -> String {
    let mut kinds = Vec::new();
    while !bytes.is_empty() {
        let Ok(Some(head)) = frame::head(bytes) else {
            kinds.push("…".to_string());
            break;
        };
        let kind = char::from(head.kind);
        let Some((whole, rest)) = bytes.split_at_checked(head.total()) else {
            kinds.push(format!("{kind}…"));
            break;
        };
        let body = &whole[frame::HEADER_BYTES..];
        kinds.push(match head.kind {
            b'Z' => format!("Z({})", char::from(body[0])),
            _ => kind.to_string(),
        });
        bytes = rest;
    }
    // Rows by their number.
    let mut out = String::new();
    let mut kinds = kinds.into_iter().peekable();
    while let Some(kind) = kinds.next() {
        let mut n = 1;
        while kinds.next_if_eq(&kind).is_some() {
            n += 1;
        }
        let times = if n > 1 { format!("×{n}") } else { String::new() };
        let _ = write!(out, " {kind}{times}");
    }
    out.trim().to_string()
}

/// What the gateway itself says, in the clear.
fn own_words(mut bytes: &[u8]) -> String {
    let mut out = Vec::new();
    while let Ok(Some(head)) = frame::head(bytes) {
        let (whole, rest) = bytes.split_at(head.total());
        let body = &whole[frame::HEADER_BYTES..];
        out.push(match head.kind {
            b'E' | b'N' => {
                let mut fields = body.split(|b| *b == 0);
                let mut said = String::new();
                for field in &mut fields {
                    let text = String::from_utf8_lossy(field.get(1..).unwrap_or_default());
                    match field.first() {
                        Some(b'V') => said.push_str(&text),
                        Some(b'C') => said.push_str(&format!(" {text}")),
                        Some(b'M') => said.push_str(&format!(" {text:?}")),
                        Some(b'D') => said.push_str(&format!(" detail {text}")),
                        Some(b'P') => said.push_str(&format!(" at {text}")),
                        _ => {}
                    }
                }
                said
            }
            _ => kinds(whole),
        });
        bytes = rest;
    }
    out.join(" + ")
}

fn outcome(outcome: &Outcome) -> String {
    let tag = outcome.tag.as_deref().unwrap_or("-");
    format!("{} {tag:?} rows={}", outcome.status.word(), outcome.rows)
}

fn judged(number: u64, command: &Command, payload: &[u8]) -> String {
    let fact = |name: &str| match command.facts.get(name) {
        Some(Fact::Text(text)) => text.to_string(),
        other => format!("{other:?}"),
    };
    let purity = if command.purity == Purity::Read { " pure" } else { "" };
    let mut out = format!(
        "judge {number} {}{purity} {} {} [{}] {:?}",
        command.action,
        fact("phase"),
        fact("transaction"),
        command.effects.names().join("+"),
        command.shown,
    );
    for parameter in command.parameters.iter() {
        let value = match &parameter.value {
            ParameterValue::Null => "NULL".into(),
            ParameterValue::Text(text) => format!("{text:?}"),
            ParameterValue::Bytes(bytes) => format!("{} bytes", bytes.len()),
            ParameterValue::Large { bytes } => format!("{bytes} bytes of evidence"),
        };
        let _ = write!(out, " {}:{}={value}", parameter.name, parameter.kind);
    }
    for touch in command.touches.seen() {
        let columns = match &touch.columns {
            Columns::NotApplicable => String::new(),
            Columns::Known(names) => format!("({})", names.join(",")),
            Columns::All => "(*)".into(),
            Columns::Unknown => "(?)".into(),
        };
        let _ = write!(out, " {}:{}{columns}", touch.action.as_str(), touch.path);
    }
    if let Touches::Unknown { why, .. } = &command.touches {
        let _ = write!(out, " UNKNOWN {why}");
    }
    let _ = write!(out, " <{}>", kinds(payload));
    out
}

/// A case as it runs.
pub struct Play {
    pub wire: Machine,
    input: BytesMut,
    from_target: BytesMut,
    sent: Vec<u8>,
    /// Up to where the client's bytes are found in what was judged.
    found: usize,
    deny: Vec<String>,
    hold: bool,
    owe: Obligations,
    held: Option<u64>,
    pub log: Vec<String>,
    more: Option<(u64, usize)>,
    reply: Option<(u64, Vec<u8>)>,
    pub ended: bool,
}

impl Play {
    pub fn new(wire: Machine) -> Self {
        Self {
            wire,
            input: BytesMut::new(),
            from_target: BytesMut::new(),
            sent: Vec::new(),
            found: 0,
            deny: Vec::new(),
            hold: false,
            owe: Obligations::default(),
            held: None,
            log: Vec::new(),
            more: None,
            reply: None,
            ended: false,
        }
    }

    fn line(&mut self, line: String) {
        if let Some((number, bytes)) = self.more.take() {
            self.log.push(format!("up {number} more, {bytes} bytes"));
        }
        if let Some((number, bytes)) = self.reply.take() {
            self.log.push(format!("down {number} {}", kinds(&bytes)));
        }
        if !line.is_empty() {
            self.log.push(line);
        }
    }

    /// Every byte that leaves is the client's, in the client's order.
    fn verbatim(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let rest = &self.sent[self.found..];
        let at = rest.windows(bytes.len()).position(|w| w == bytes);
        self.found += at.expect("judged bytes are the client's") + bytes.len();
    }

    fn deny(&self, text: &str) -> bool {
        self.deny.iter().any(|word| text.contains(word.as_str()))
    }

    fn outputs(&mut self, out: Outputs) {
        for output in out {
            match output {
                Output::Judge { number, draft } => {
                    assert!(!self.wire.takes_client());
                    self.line(judged(number, draft.command(), draft.payload()));
                    let (payload, command) = Draft::into_parts(draft);
                    if self.hold {
                        self.verbatim(&payload);
                        self.held = Some(number);
                    } else if self.deny(&command.shown) {
                        self.refuse(number, RefusalKind::Denied);
                    } else {
                        self.verbatim(&payload);
                        self.clear(number);
                    }
                }
                Output::Refuse { number, bytes, refusal } => {
                    self.line(format!("refuse {number} <{}>", kinds(&bytes)));
                    let mut out = Outputs::new();
                    self.wire.refused(number, &refusal, &mut out);
                    self.outputs(out);
                }
                Output::More { number, bytes } => {
                    self.verbatim(&bytes);
                    match &mut self.more {
                        Some((n, total)) if *n == number => *total += bytes.len(),
                        _ => {
                            self.line(String::new());
                            self.more = Some((number, bytes.len()));
                        }
                    }
                }
                Output::Reply { number, bytes, done } => {
                    match &mut self.reply {
                        Some((n, all)) if *n == number => all.extend_from_slice(&bytes),
                        _ => {
                            self.line(String::new());
                            self.reply = Some((number, bytes.to_vec()));
                        }
                    }
                    if let Some(done) = done {
                        let (number, bytes) = self.reply.take().unwrap();
                        let bytes = kinds(&bytes);
                        self.line(format!("down {number} {bytes} done {}", outcome(&done)));
                    }
                }
                Output::Done { number, outcome: done } => {
                    self.line(format!("done {number} {}", outcome(&done)));
                }
                Output::ToClient(bytes) => {
                    self.line(format!("down gateway {}", own_words(&bytes)));
                }
                Output::Control(control) => {
                    let what = match control.0 {
                        refusal::POISON => "poison",
                        refusal::SYNC => "sync",
                        refusal::FLUSH => "flush",
                        ask::PROBE => "probe",
                        ask::PROBE_SIMPLE => "probe simple",
                        ask::LOOK => "look",
                        _ => "?",
                    };
                    self.line(format!("up control {what}"));
                }
                Output::Relearn => self.line("relearn".into()),
                Output::Masked { number, cells } => {
                    let of = |(class, n): &(Arc<str>, u64)| format!(" {class}={n}");
                    let cells: String = cells.iter().map(of).collect();
                    self.line(format!("masked #{number}{cells}"));
                }
                Output::End { why } => {
                    self.ended = true;
                    self.line(format!("end {why}"));
                }
            }
        }
    }

    fn clear(&mut self, number: u64) {
        let mut out = Outputs::new();
        self.wire.cleared(number, &self.owe.clone(), &mut out);
        self.outputs(out);
    }

    fn refuse(&mut self, number: u64, kind: RefusalKind) {
        let refusal = Refusal::plain(kind, "refused: no", "ask");
        let mut out = Outputs::new();
        self.wire.refused(number, &refusal, &mut out);
        self.outputs(out);
    }

    fn violated(&mut self, violation: &bulla_wire::Violation) {
        self.ended = true;
        self.line(format!("violation {:?}", violation.why));
        self.line(format!("down gateway {}", own_words(&violation.answer)));
    }

    /// Feeds the client half until it stands still.
    pub fn client(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.sent.extend_from_slice(bytes);
        while !self.ended && self.held.is_none() && self.wire.takes_client() {
            let (before, mut out) = (self.input.len(), Outputs::new());
            let result = self.wire.client(&mut self.input, &mut out);
            let still = out.is_empty() && before == self.input.len();
            self.outputs(out);
            if let Err(violation) = result {
                self.violated(&violation);
            } else if still {
                return;
            }
        }
    }

    pub fn target(&mut self, bytes: &[u8]) {
        self.from_target.extend_from_slice(bytes);
        let mut out = Outputs::new();
        let result = self.wire.target(&mut self.from_target, &mut out);
        self.outputs(out);
        if let Err(violation) = result {
            self.violated(&violation);
        }
    }

    /// Bytes of the target that were not taken.
    pub fn unread(&self) -> usize {
        self.from_target.len()
    }

    fn feed(&mut self, bytes: &[u8], by: usize, side: fn(&mut Self, &[u8])) {
        for piece in bytes.chunks(by) {
            if !self.ended {
                side(self, piece);
            }
        }
    }

    /// Carries out one line of a case.
    pub fn act(&mut self, line: &str, by: usize) {
        let all = |text: &str, one: fn(&str) -> Vec<u8>| -> Vec<u8> {
            parts(text).iter().flat_map(|part| one(part.trim())).collect()
        };
        if let Some(text) = line.strip_prefix("C> ") {
            self.feed(&all(text, client), by, Self::client);
        } else if let Some(text) = line.strip_prefix("T> ") {
            self.feed(&all(text, target), by, Self::target);
            // Not before: when the client half goes on is the engine's choice.
            self.client(&[]);
        } else {
            self.gate(line.strip_prefix("! ").unwrap());
        }
        self.line(String::new());
    }

    fn gate(&mut self, line: &str) {
        let words = words(line);
        let number = self.held;
        let mut out = Outputs::new();
        match words[0].as_str() {
            "deny" => self.deny.push(words[1].clone()),
            "allow" => self.deny.clear(),
            "hold" => self.hold = true,
            "clear" => {
                (self.held, self.hold) = (None, false);
                self.clear(number.unwrap());
            }
            "refuse" => {
                (self.held, self.hold) = (None, false);
                let kind = match words[1].as_str() {
                    "expired" => RefusalKind::HoldExpired,
                    "withdrawn" => RefusalKind::Withdrawn,
                    "rejected" => RefusalKind::Rejected,
                    "recorder" => RefusalKind::Recorder,
                    other => panic!("{other}"),
                };
                self.refuse(number.unwrap(), kind);
            }
            "notice" => {
                let notice = HoldNotice {
                    id: "7F3K-2Q".into(),
                    groups: vec!["dba".into()],
                    quorum: 1,
                    waited_s: 0,
                    expires_s: 900,
                };
                self.wire.held(number.unwrap(), &notice, &mut out);
            }
            "rows_max" => self.owe.rows_max = Some(words[1].parse().unwrap()),
            "bytes_max" => self.owe.bytes_max = Some(words[1].parse().unwrap()),
            "cancel" => {
                let (number, draft) = self.wire.cancel().unwrap();
                self.line(judged(number, draft.command(), draft.payload()));
            }
            "farewell" => {
                let refusal = Refusal::plain(RefusalKind::Ended, "the gateway is stopping", "");
                self.wire.farewell(&refusal, &mut out);
            }
            "lost" => self.wire.target_lost("lost `shop`", &mut out),
            "learned" => {
                // The catalogue was loaded anew: everything is read again.
                panic!("not within a shared catalogue");
            }
            "rest" => {
                let (rest, open) = (self.wire.at_rest(), self.wire.in_transaction());
                self.line(format!("at rest {rest}, in transaction {open}"));
            }
            other => panic!("{other}"),
        }
        self.outputs(out);
        self.client(&[]);
    }
}

fn play(case: &[&str], by: usize) -> String {
    let mut out = String::new();
    let eighteen = case.iter().any(|line| line.trim() == "! eighteen");
    let parameters: &[_] = if eighteen { &[("search_path", "\"$user\", public")] } else { &[] };
    let kind = case.iter().find_map(|line| line.strip_prefix("! replication "));
    let replication: Vec<_> = kind.iter().map(|kind| (login::REPLICATION, *kind)).collect();
    let parameters = [parameters, replication.as_slice()].concat();
    let mut play = Play::new(Machine::new(shared(), &opened(&parameters)));
    for line in case {
        let _ = writeln!(out, "{line}");
        let begins = *line == "! eighteen" || line.starts_with("! replication");
        if line.starts_with('#') || line.is_empty() || begins {
            continue;
        }
        play.act(line, by);
        for line in std::mem::take(&mut play.log) {
            let _ = writeln!(out, "    {line}");
        }
    }
    out
}

fn run(name: &str) {
    let path = format!("{}/tests/transcripts/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("    ")).collect();
    let mut whole = String::new();
    for case in lines.chunk_by(|_, next| !next.starts_with("## ")) {
        let (once, bytewise) = (play(case, usize::MAX), play(case, 1));
        assert_eq!(once, bytewise, "{name}: cut into bytes it differs");
        whole.push_str(&once);
    }
    if std::env::var_os("BULLA_UPDATE").is_some() {
        std::fs::write(&path, whole).unwrap();
    } else {
        assert!(text == whole, "{path} differs; look at it with BULLA_UPDATE=1\n{whole}");
    }
}

macro_rules! transcripts {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })*

        #[test]
        fn every_file_is_run() {
            let path = format!("{}/tests/transcripts", env!("CARGO_MANIFEST_DIR"));
            for entry in std::fs::read_dir(path).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let known = [$(concat!(stringify!($name), ".txt")),*];
                assert!(known.contains(&name.as_str()), "{name}");
            }
        }
    };
}

transcripts!(simple, extended, names, pipelines, copy, hostile, world, holds, streams, replication);

#[test]
fn the_words_of_a_line() {
    assert_eq!(words(r#"P "" "select \"a\"" 23"#), ["P", "", "select \"a\"", "23"]);
    assert_eq!(parts(r#"Q "a | b" | S"#).len(), 2);
    assert!(matches!(message::client(b'S', b""), Ok(message::Client::Sync)));
    let _: Bytes = Bytes::from(client("S"));
}
