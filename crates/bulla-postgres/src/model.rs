//! A model of a server, and random scripts: through the gateway a client must see what it would see
//! without it, except for what is refused; and what is refused never happens.
//!
//! The model knows what matters here: statements and portals, implicit and explicit transactions,
//! skipping to Sync, buffering until something flushes. Source: PostgreSQL's `postgres.c`.

use std::collections::HashMap;

use bulla_core::{Draft, Obligations, Refusal, RefusalKind, Touches};
use bulla_wire::{Output, Outputs, Wire};
use bytes::{BufMut, BytesMut};
use proptest::prelude::*;

use crate::{
    frame,
    machine::Machine,
    message::{self, Client, Of},
    transcript::{client, opened, shared},
};

/// What a script may say. The model and the fixture's catalogue know all of them.
const TEXTS: [&str; 12] = [
    "select 1",
    "insert into audit (who) values ('x')",
    "select 1/0",
    "begin",
    "commit",
    "rollback",
    "prepare a as insert into audit (who) values ('y')",
    "execute a",
    "deallocate a",
    "insert into audit (who) values ('x'); select 1/0",
    "insert into audit (who) values ('x'); commit; insert into audit (who) values ('z')",
    DENIED,
];
const DENIED: &str = "delete from orders";

#[derive(Default)]
struct Server {
    input: BytesMut,
    /// Written, and given to the client.
    buffer: BytesMut,
    out: BytesMut,
    status: u8,
    /// A transaction that nobody began is open.
    implicit: bool,
    skipping: bool,
    statements: HashMap<String, String>,
    portals: HashMap<String, String>,
    pending: Vec<String>,
    committed: Vec<String>,
    /// The policy, for a server without a gateway.
    denies: bool,
    ran: Vec<String>,
    path: Path,
    savepoints: Vec<(Path, usize)>,
    /// Where `customers` led, each time that it was asked for.
    led: Vec<String>,
}

/// `search_path` as `guc.c` keeps it: when the transaction began, after it, and now.
#[derive(Clone)]
struct Path {
    start: String,
    session: String,
    now: String,
}

impl Default for Path {
    fn default() -> Self {
        let path = || "public".to_string();
        Self { start: path(), session: path(), now: path() }
    }
}

type Answer = Result<(), &'static str>;

impl Server {
    fn new(denies: bool) -> Self {
        Self { status: b'I', denies, ..Self::default() }
    }

    fn put(&mut self, kind: u8, body: &[u8]) {
        frame::put(&mut self.buffer, kind, |out| out.put_slice(body));
    }
    fn complete(&mut self, tag: &str) {
        self.put(b'C', &[tag.as_bytes(), b"\0"].concat());
    }
    fn flush(&mut self) {
        let written = self.buffer.split();
        self.out.unsplit(written);
    }
    fn error(&mut self, code: &str) {
        self.put(b'E', &[b"SERROR\0VERROR\0C", code.as_bytes(), b"\0Msaid\0\0"].concat());
        self.flush();
        if self.status == b'T' {
            self.status = b'E';
        } else if self.status == b'I' {
            self.end(false);
        }
    }
    fn end(&mut self, commits: bool) {
        let pending = std::mem::take(&mut self.pending);
        if commits {
            self.committed.extend(pending);
        }
        let path = &mut self.path;
        let left = if commits { path.session.clone() } else { path.start.clone() };
        *path = Path { start: left.clone(), session: left.clone(), now: left };
        self.savepoints.clear();
        self.portals.clear();
        (self.status, self.implicit) = (b'I', false);
    }
    fn ready(&mut self) {
        self.put(b'Z', &[self.status]);
        self.flush();
    }

    fn parse(&self, text: &str) -> Answer {
        match text {
            _ if text.starts_with("bulla:") => Err("42601"),
            _ if self.denies && text.contains(DENIED) => Err("42501"),
            _ if self.status == b'E'
                && !matches!(text, "commit" | "rollback" | "rollback to s") =>
            {
                Err("25P02")
            }
            _ => Ok(()),
        }
    }

    fn run(&mut self, text: &str) -> Answer {
        self.parse(text)?;
        if text.starts_with("SELECT 'p'") {
            // The gateway's own question.
            let path = self.path.now.clone();
            for (tag, value) in [(b'p', path.as_str()), (b'u', "postgres")] {
                let row = [&[0, 2, 0, 0, 0, 1, tag, 0, 0, 0, value.len() as u8], value.as_bytes()];
                self.put(b'D', &row.concat());
            }
            self.complete("SELECT 2");
            return Ok(());
        }
        self.ran.push(text.into());
        if self.status == b'I' {
            self.implicit = true;
        }
        if let Some((name, inner)) =
            text.strip_prefix("prepare ").and_then(|t| t.split_once(" as "))
        {
            if self.statements.contains_key(name) {
                return Err("42P05");
            }
            self.statements.insert(name.into(), inner.into());
            self.complete("PREPARE");
            return Ok(());
        }
        if let Some(name) = text.strip_prefix("execute ") {
            let inner = self.statements.get(name).cloned().ok_or("26000")?;
            // It runs itself: the server's stack ends, and so does the gateway's patience.
            if inner == text {
                return Err("54001");
            }
            return self.run(&inner);
        }
        if let Some(name) = text.strip_prefix("deallocate ") {
            self.statements.remove(name).ok_or("26000")?;
            self.complete("DEALLOCATE");
            return Ok(());
        }
        match text {
            "select 1" => {
                self.put(b'D', &[0, 1, 0, 0, 0, 1, b'1']);
                self.complete("SELECT 1");
            }
            "select 1/0" => return Err("22012"),
            "select * from customers" => {
                self.led.push(self.path.now.clone());
                self.complete("SELECT 0");
            }
            "set search_path = app" => {
                (self.path.session, self.path.now) = ("app".into(), "app".into());
                self.complete("SET");
            }
            "set local search_path = app" => {
                self.path.now = "app".into();
                self.complete("SET");
            }
            "reset search_path" => {
                (self.path.session, self.path.now) = ("public".into(), "public".into());
                self.complete("RESET");
            }
            "savepoint s" if self.status == b'T' => {
                self.savepoints.push((self.path.clone(), self.pending.len()));
                self.complete("SAVEPOINT");
            }
            "savepoint s" => return Err("25P01"),
            "rollback to s" => {
                let (path, pending) = self.savepoints.last().cloned().ok_or("3B001")?;
                self.path = path;
                self.pending.truncate(pending);
                self.status = b'T';
                self.complete("ROLLBACK");
            }
            "begin" => {
                self.status = b'T';
                self.implicit = false;
                self.complete("BEGIN");
            }
            "commit" | "rollback" => {
                let commits = text == "commit" && self.status != b'E';
                self.end(commits);
                self.complete(if commits { "COMMIT" } else { "ROLLBACK" });
            }
            DENIED => {
                self.pending.push(text.into());
                self.complete("DELETE 1");
            }
            insert => {
                self.pending.push(insert.into());
                self.complete("INSERT 0 1");
            }
        }
        Ok(())
    }

    fn query(&mut self, text: &str) {
        self.statements.remove("");
        self.portals.remove("");
        let denied = self.denies && text.contains(DENIED);
        let mut answer = if denied { Err("42501") } else { Ok(()) };
        if answer.is_ok() {
            for statement in text.split(';').map(str::trim) {
                answer = self.run(statement);
                if answer.is_err() {
                    break;
                }
            }
        }
        match answer {
            Err(code) => self.error(code),
            Ok(()) if self.status == b'I' => self.end(true),
            Ok(()) => {}
        }
        self.ready();
    }

    fn extended(&mut self, message: Client<'_>) -> Answer {
        if self.status == b'I' {
            self.implicit = true;
        }
        match message {
            Client::Parse { name, text, .. } => {
                // A refusal leaves things as they are; the server drops the unnamed one first.
                if name.is_empty() && !(self.denies && text.contains(DENIED)) {
                    self.statements.remove("");
                }
                self.parse(text)?;
                if text.contains(';') {
                    return Err("42601");
                }
                if self.statements.contains_key(name) {
                    return Err("42P05");
                }
                self.statements.insert(name.into(), text.into());
                self.put(b'1', b"");
            }
            Client::Bind(bind) => {
                let text = self.statements.get(bind.statement).cloned().ok_or("26000")?;
                self.parse(&text)?;
                if !bind.portal.is_empty() && self.portals.contains_key(bind.portal) {
                    return Err("42P03");
                }
                self.portals.insert(bind.portal.into(), text);
                self.put(b'2', b"");
            }
            Client::Describe { of: Of::Statement, name } => {
                let text = self.statements.get(name).cloned().ok_or("26000")?;
                self.parse(&text)?;
                self.put(b't', &[0, 0]);
                self.put(b'n', b"");
            }
            Client::Describe { of: Of::Portal, name } => {
                let text = self.portals.get(name).cloned().ok_or("34000")?;
                self.parse(&text)?;
                self.put(b'n', b"");
            }
            Client::Execute { portal } => {
                let text = self.portals.get(portal).cloned().ok_or("34000")?;
                self.run(&text)?;
            }
            Client::Close { of, name } => {
                match of {
                    Of::Statement => self.statements.remove(name),
                    Of::Portal => self.portals.remove(name),
                };
                self.put(b'3', b"");
            }
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while let Some(head) = frame::head(&self.input).unwrap() {
            if self.input.len() < head.total() {
                return;
            }
            let whole = self.input.split_to(head.total());
            let message = message::client(head.kind, &whole[frame::HEADER_BYTES..]).unwrap();
            match message {
                Client::Sync => {
                    self.skipping = false;
                    if self.status == b'I' {
                        self.end(true);
                    }
                    self.ready();
                }
                _ if self.skipping => {}
                Client::Flush => self.flush(),
                Client::Query { text } => self.query(text),
                message => {
                    if let Err(code) = self.extended(message) {
                        self.error(code);
                        self.skipping = true;
                    }
                }
            }
        }
    }
}

/// Kinds of messages, errors with their codes.
fn seen(mut bytes: &[u8]) -> Vec<String> {
    let mut seen = Vec::new();
    while let Some(head) = frame::head(bytes).unwrap() {
        let (whole, rest) = bytes.split_at(head.total());
        let body = &whole[frame::HEADER_BYTES..];
        seen.push(match head.kind {
            b'E' => format!("E {}", message::problem(body).unwrap().code),
            b'Z' => format!("Z {}", char::from(body[0])),
            b'C' => format!("C {}", message::tag(body).unwrap()),
            kind => char::from(kind).to_string(),
        });
        bytes = rest;
    }
    assert!(bytes.is_empty(), "half a message");
    seen
}

/// A client, the gateway and a server, moved step by step.
struct Road {
    wire: Machine,
    server: Server,
    to_wire: BytesMut,
    from_server: BytesMut,
    to_client: BytesMut,
    verdicts: Vec<(u64, Option<bytes::Bytes>)>,
    open: Vec<u64>,
    numbers: Vec<u64>,
    /// What each command was judged to touch; `?` where it could not be told.
    touched: HashMap<u64, Vec<String>>,
    /// How often a name was followed, and how often it could not be told where.
    led: usize,
    doubts: usize,
}

impl Road {
    fn outputs(&mut self, out: Outputs) {
        for output in out {
            match output {
                Output::Judge { number, draft } => {
                    self.numbers.push(number);
                    let (payload, command) = Draft::into_parts(draft);
                    let denied = command.shown.contains(DENIED);
                    let mut touched: Vec<_> =
                        command.touches.seen().iter().map(|t| t.path.to_string()).collect();
                    if let Touches::Unknown { .. } = command.touches {
                        touched.push("?".into());
                    }
                    self.touched.insert(number, touched);
                    self.verdicts.push((number, (!denied).then_some(payload)));
                }
                Output::Refuse { number, refusal, .. } => {
                    self.numbers.push(number);
                    let mut out = Outputs::new();
                    self.wire.refused(number, &refusal, &mut out);
                    self.outputs(out);
                }
                Output::Control(control) => self.server.take(control.0),
                Output::Reply { number, bytes, done } => {
                    self.to_client.extend_from_slice(&bytes);
                    if number != 0 {
                        assert!(self.open.contains(&number), "a reply without a ticket");
                    }
                    if done.is_some() {
                        self.open.retain(|n| *n != number);
                    }
                }
                Output::Done { number, .. } => {
                    assert!(self.open.contains(&number), "done without a ticket");
                    self.open.retain(|n| *n != number);
                }
                Output::ToClient(bytes) => self.to_client.extend_from_slice(&bytes),
                Output::More { .. } | Output::Masked { .. } | Output::Relearn => {}
                Output::End { why } => panic!("ended: {why}"),
            }
        }
    }

    /// Moves what can be moved; `choice` says what first. False: nothing can.
    fn step(&mut self, choice: u8, chunk: usize) -> bool {
        for turn in 0..3 {
            match (choice.wrapping_add(turn)) % 3 {
                0 if !self.verdicts.is_empty() => {
                    let (number, allowed) = self.verdicts.remove(0);
                    let mut out = Outputs::new();
                    if let Some(payload) = allowed {
                        self.open.push(number);
                        self.server.take(&payload);
                        let touched = self.touched.remove(&number);
                        for path in std::mem::take(&mut self.server.led) {
                            let path = format!("{path}.customers");
                            let known = touched.as_ref().unwrap();
                            assert!(known.contains(&path) || known.contains(&"?".into()), "{path}");
                            self.doubts += usize::from(known.contains(&"?".into()));
                            self.led += 1;
                        }
                        self.wire.cleared(number, &Obligations::default(), &mut out);
                    } else {
                        let refusal = Refusal::plain(RefusalKind::Denied, "refused", "");
                        self.wire.refused(number, &refusal, &mut out);
                    }
                    self.outputs(out);
                    return true;
                }
                1 if self.wire.takes_client() => {
                    let (before, mut out) = (self.to_wire.len(), Outputs::new());
                    let mut part = self.to_wire.split_to(before.min(chunk));
                    self.wire.client(&mut part, &mut out).unwrap();
                    let moved = part.len() != before.min(chunk) || !out.is_empty();
                    part.unsplit(self.to_wire.split());
                    self.to_wire = part;
                    self.outputs(out);
                    if moved {
                        return true;
                    }
                    // Perhaps the piece was too short for a message.
                    let mut out = Outputs::new();
                    let before = self.to_wire.len();
                    self.wire.client(&mut self.to_wire, &mut out).unwrap();
                    let moved = before != self.to_wire.len() || !out.is_empty();
                    self.outputs(out);
                    if moved {
                        return true;
                    }
                }
                2 if !self.server.out.is_empty() => {
                    let n = self.server.out.len().min(chunk);
                    let piece = self.server.out.split_to(n);
                    self.from_server.extend_from_slice(&piece);
                    let mut out = Outputs::new();
                    self.wire.target(&mut self.from_server, &mut out).unwrap();
                    self.outputs(out);
                    return true;
                }
                _ => {}
            }
        }
        false
    }
}

/// Runs a script both ways.
fn compare(script: &[String], choices: &[(u8, usize)]) -> Road {
    let bytes: Vec<u8> = script.iter().flat_map(|line| client(line)).collect();
    let mut direct = Server::new(true);
    direct.take(&bytes);
    let mut road = Road {
        wire: Machine::new(shared(), &opened(&[])),
        server: Server::new(false),
        to_wire: BytesMut::from(&bytes[..]),
        from_server: BytesMut::new(),
        to_client: BytesMut::new(),
        verdicts: Vec::new(),
        open: Vec::new(),
        numbers: Vec::new(),
        touched: HashMap::new(),
        led: 0,
        doubts: 0,
    };
    let mut rest = false;
    for (choice, chunk) in choices.iter().cycle().take(100_000) {
        if !road.step(*choice, *chunk) {
            rest = true;
            break;
        }
    }
    assert!(rest, "it never comes to rest: {script:#?}");
    assert_eq!(seen(&road.to_client), seen(&direct.out), "{script:#?}");
    assert_eq!(road.server.committed, direct.committed, "{script:#?}");
    assert!(!road.server.ran.iter().any(|text| text == DENIED), "{script:#?}");
    assert!(road.open.is_empty(), "without an end: {:?} {script:#?}", road.open);
    assert!(road.numbers.iter().copied().eq(1..=road.numbers.len() as u64));
    assert_eq!(road.wire.status, direct.status);
    assert!(road.to_wire.is_empty() && road.wire.takes_client());
    assert!(road.wire.at_rest() == (direct.status == b'I'), "{script:#?}");
    road
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

fn line() -> impl Strategy<Value = Vec<String>> {
    let text = prop::sample::select(&TEXTS[..]);
    let name = prop::sample::select(&["", "a", "b"][..]);
    let portal = prop::sample::select(&["", "p"][..]);
    prop_oneof![
        3 => text.clone().prop_map(|t| vec![format!("Q {}", quoted(t)), "S".into()]),
        3 => text.clone().prop_map(|t| {
            let parse = format!("P \"\" {}", quoted(t));
            let rest = ["B \"\" \"\"", "D P \"\"", "E \"\""];
            std::iter::once(parse).chain(rest.map(str::to_string)).collect()
        }),
        2 => (name.clone(), text).prop_map(|(n, t)| vec![format!("P {} {}", quoted(n), quoted(t))]),
        2 => (portal.clone(), name.clone())
            .prop_map(|(p, n)| vec![format!("B {} {}", quoted(p), quoted(n))]),
        2 => portal.clone().prop_map(|p| vec![format!("E {}", quoted(p))]),
        1 => name.clone().prop_map(|n| vec![format!("D S {}", quoted(n))]),
        1 => portal.prop_map(|p| vec![format!("D P {}", quoted(p))]),
        1 => name.prop_map(|n| vec![format!("C S {}", quoted(n)), "H".into()]),
        2 => Just(vec!["S".to_string()]),
        1 => Just(vec!["H".to_string()]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    #[test]
    fn through_the_gateway_a_server_is_the_same(
        lines in prop::collection::vec(line(), 1..14),
        choices in prop::collection::vec((0u8..3, 1usize..60), 1..40),
    ) {
        let mut script: Vec<String> = lines.into_iter().flatten().collect();
        script.push("S".into());
        compare(&script, &choices);
    }
    #[test]
    fn names_lead_where_the_server_says(
        lines in prop::collection::vec(world_line(), 1..16),
        choices in prop::collection::vec((0u8..3, 1usize..60), 1..40),
    ) {
        let mut script: Vec<String> = lines.into_iter().flatten().collect();
        script.push("S".into());
        compare(&script, &choices);
    }
}

/// What moves names, and what they lead to.
fn world_line() -> impl Strategy<Value = Vec<String>> {
    let text = prop::sample::select(
        &[
            "select * from customers",
            "select * from customers",
            "set search_path = app",
            "set local search_path = app",
            "reset search_path",
            "begin",
            "commit",
            "rollback",
            "savepoint s",
            "rollback to s",
            "select 1/0",
            "set search_path = app; select * from customers",
            "select * from customers; set local search_path = app; select * from customers",
            "begin; set local search_path = app; commit; select * from customers",
            "prepare a as select * from customers",
            "execute a",
            DENIED,
        ][..],
    );
    (text, any::<bool>(), any::<bool>()).prop_map(|(text, simple, sync)| {
        if simple || text.contains(';') {
            return vec!["S".into(), format!("Q {}", quoted(text))];
        }
        let mut lines =
            vec![format!("P \"\" {}", quoted(text)), "B \"\" \"\"".into(), "E \"\"".into()];
        lines.extend(sync.then(|| "S".into()));
        lines
    })
}

/// In a session that goes step by step nothing is left in doubt.
#[test]
fn step_by_step_there_is_no_doubt() {
    let script: Vec<String> = [
        "begin",
        "savepoint s",
        "set search_path = app",
        "select * from customers",
        "rollback to s",
        "select * from customers",
        "commit",
        "select * from customers",
    ]
    .iter()
    .map(|text| format!("Q {}", quoted(text)))
    .collect();
    let road = compare(&script, &[(1, 1000), (0, 1000), (2, 1000)]);
    assert_eq!((road.led, road.doubts), (3, 0));
}
