//! `bulla sessions …`: who did what, with which answers, out of the record.

use std::{collections::BTreeMap, io::Write as _};

use anyhow::{Context, Result, bail};
use bulla_core::{Digest, Flow, SessionId, Timestamp};
use bulla_ledger::{
    Event, GATEWAY_RESOURCE, ParameterDetail, ParameterDetailValue, Reader, ReaderConfig, Session,
};
use bulla_tlog::entry::{Counts, Entry, Kind};
use serde_json::{Value, json};

use crate::{
    admin,
    cli::Sessions,
    config::{Config, value::Time},
    fail::Denied,
    print, registry,
    say::{self, Paint, count, line, safe},
};

/// Bytes of one command's answer that are made readable; --raw has no limit.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Bytes of one command's input out of which typed lines are put together.
const TYPED_BYTES_MAX: usize = 1 << 20;

/// The record of the configured gateway, beside which it may run.
pub fn reader(config: &Config) -> Result<Reader> {
    let data = config.data();
    let opened = Reader::open(ReaderConfig::of_ledger(&data));
    opened.with_context(|| format!("read the record in `{}`", data.display()))
}

fn parse(id: &str) -> Result<SessionId> {
    let bad = || format!("`{}` is not a session's id; see: bulla sessions ls", id.escape_debug());
    SessionId::parse(id).with_context(bad)
}

/// Reading evidence is an entry of its own, made before anything is read. Without a gateway nobody
/// can make it, so that has to be asked for.
pub fn note_reading(config: &Config, what: &str, offline: bool) -> Result<()> {
    let noted = admin::call(&config.socket(), &json!({ "do": "read", "what": what }));
    match noted {
        Ok(_) => Ok(()),
        Err(error) if error.is::<Denied>() => Err(error),
        Err(_) if offline => {
            eprintln!("note: no gateway runs, so this reading is not in the log");
            Ok(())
        }
        Err(error) => {
            bail!("{error:#}; the reading cannot be recorded. Read all the same with --offline")
        }
    }
}

pub fn run(config: &Config, command: &Sessions, json: bool) -> Result<()> {
    match command {
        Sessions::Ls { resource, principal, since, limit } => {
            let wanted = Wanted {
                resource: resource.as_deref(),
                principal: principal.as_deref(),
                since: *since,
            };
            let rows = list(config, &wanted, *limit)?;
            if json {
                return Ok(print(&say::json(&Value::Array(rows)))?);
            }
            let columns = [
                ("session", "SESSION"),
                ("principal", "PRINCIPAL"),
                ("resource", "RESOURCE"),
                ("opened", "OPENED"),
                ("commands", "COMMANDS"),
                ("denied", "DENIED"),
                ("held", "HELD"),
                ("rows", "ROWS"),
                ("state", "STATE"),
            ];
            Ok(print(&say::table(&rows, &columns))?)
        }
        Sessions::Show { session, command, offline } => {
            let id = parse(session)?;
            note_reading(config, &reading("show", id, *command), *offline)?;
            let rows = if command.is_some() { Rows::Shown } else { Rows::Counted };
            show(config, id, *command, rows, json)
        }
        Sessions::Replay { session, command, raw, har, cast, offline } => {
            let id = parse(session)?;
            note_reading(config, &reading("replay", id, *command), *offline)?;
            if *har {
                return replay_archive(config, id, *command);
            }
            if *cast {
                return replay_terminal(config, id, *command);
            }
            if *raw {
                return replay_raw(config, id, *command);
            }
            show(config, id, *command, Rows::Shown, json)
        }
        Sessions::Kill { session } => {
            let id = parse(session)?.to_string();
            let answer = admin::call(&config.socket(), &json!({ "do": "kill", "session": id }))?;
            let words = if json { answer.to_string() } else { format!("{id} is told to end") };
            Ok(print(&words)?)
        }
    }
}

fn reading(word: &str, id: SessionId, command: Option<u64>) -> String {
    let part = command.map(|number| format!(", command {number}")).unwrap_or_default();
    format!("sessions {word} {id}{part}")
}

struct Wanted<'a> {
    resource: Option<&'a str>,
    principal: Option<&'a str>,
    since: Option<Time>,
}

/// One line per session, newest first.
fn list(config: &Config, wanted: &Wanted<'_>, limit: usize) -> Result<Vec<Value>> {
    let reader = reader(config)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
    let oldest = wanted.since.map(|since| now.saturating_sub(since.ms.saturating_mul(1_000_000)));
    let mut out = Vec::new();
    for found in reader.sessions() {
        let (first, id) = found?;
        let opened = reader.entry(first)?.entry;
        if oldest.is_some_and(|oldest| opened.t_wall_ns < oldest) {
            break;
        }
        let resource = opened.resource.as_deref().unwrap_or("?");
        // The gateway's own sessions hold what operators did; they are shown when asked for.
        if wanted.resource.unwrap_or(resource) != resource
            || resource == GATEWAY_RESOURCE && wanted.resource.is_none()
        {
            continue;
        }
        let session = reader.session(id)?;
        let who = session.events().next().transpose()?;
        let who = who.and_then(|event| event.detail.principal).map(|principal| principal.id);
        let who = who.unwrap_or_else(|| "?".into());
        if wanted.principal.is_some_and(|wanted| !who.contains(wanted)) {
            continue;
        }
        let (counts, state) = totals(&reader, id)?;
        out.push(json!({
            "session": id.to_string(), "principal": who, "resource": resource,
            "opened": Timestamp(opened.t_wall_ns).to_string(),
            "commands": counts.commands, "denied": counts.denied, "held": counts.held,
            "rows": counts.rows, "bytes": counts.bytes, "state": state,
        }));
        if out.len() >= limit {
            break;
        }
    }
    Ok(out)
}

/// What a session's entries add up to: in its close, or counted here.
fn totals(reader: &Reader, id: SessionId) -> Result<(Counts, String)> {
    let place = reader.find(id)?;
    if place.closed
        && let Some(last) = place.entries.last()
    {
        let close = reader.entry(*last)?.entry;
        if let Some(counts) = close.counts {
            return Ok((counts, close.status.unwrap_or_else(|| "closed".into())));
        }
    }
    let mut counts = Counts::default();
    for index in &place.entries {
        counts.observe(&reader.entry(*index)?.entry);
    }
    Ok((counts, "live".into()))
}

/// Whether the rows that were returned are shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    Shown,
    Counted,
}

/// One command of a session, put together from its entries.
#[derive(Default)]
struct Done {
    number: u64,
    begun_ns: u64,
    /// When it might be sent: after its approval, if it needed one.
    sent_ns: u64,
    /// Index and leaf of the entry that says what was asked.
    entry: Option<(u64, String)>,
    shown: Option<String>,
    action: Option<String>,
    parameters: Vec<ParameterDetail>,
    policies: Vec<String>,
    bundle: Option<Digest>,
    hold: Option<String>,
    answer: Option<String>,
    refusal: Option<String>,
    status: Option<String>,
    tag: Option<String>,
    masked: Vec<(String, u64)>,
    rows: u64,
    bytes: u64,
    took_ns: u64,
    returned: Vec<u8>,
    /// Input behind the command itself.
    given: Vec<u8>,
    /// The bytes of a command that could not be read.
    unread: Vec<u8>,
    cut: bool,
}

impl Done {
    fn new(number: u64, entry: &Entry) -> Self {
        Self { number, begun_ns: entry.t_wall_ns, ..Self::default() }
    }

    fn asked(&mut self, event: &Event) {
        let (entry, detail) = (&event.entry, &event.detail);
        self.entry = Some((event.index, event.leaf.to_string()));
        self.shown = detail.shown.clone().or(self.shown.take());
        self.action = entry.action.clone().or(self.action.take());
        self.parameters.clone_from(&detail.parameters);
        let all = if detail.policies.is_empty() { &entry.policies } else { &detail.policies };
        self.policies.clone_from(all);
        self.bundle = entry.policy.map(Digest);
    }

    /// Takes one entry in. True when the command has ended.
    fn take(&mut self, session: &Session<'_>, event: &Event, rows: Rows) -> Result<bool> {
        let (entry, detail) = (&event.entry, &event.detail);
        match event.kind() {
            Kind::Intent => {
                self.asked(event);
                self.sent_ns = entry.t_wall_ns;
            }
            Kind::Hold => {
                self.asked(event);
                let groups = detail.groups.join(", ");
                let ask = detail.ask.as_deref().unwrap_or("?");
                let quorum = detail.quorum.unwrap_or(1);
                self.hold = Some(format!("held as {ask} for {quorum} of group {groups}"));
            }
            Kind::Grant => {
                let word = detail.answer.as_deref().unwrap_or("answered");
                let by = detail.by.as_deref().map(|by| format!(" by {by}")).unwrap_or_default();
                let reason = detail.reason.as_deref().map(|reason| format!(": {reason}"));
                self.answer = Some(format!("{word}{by}{}", reason.unwrap_or_default()));
            }
            Kind::Refusal => {
                self.asked(event);
                let words = detail.message.clone().or_else(|| detail.reason.clone());
                self.refusal = Some(words.unwrap_or_else(|| "refused".into()));
                let unread = self.shown.is_none() && event.flow() == Some(Flow::ToTarget);
                if unread && event.payload_len() <= TYPED_BYTES_MAX as u64 {
                    self.unread = session.payload_bytes(event)?;
                }
                return Ok(true);
            }
            Kind::Chunk | Kind::Outcome => {
                if event.flow() == Some(Flow::ToTarget) && rows == Rows::Shown {
                    let room = TYPED_BYTES_MAX.saturating_sub(self.given.len()) as u64;
                    if event.payload_len() <= room {
                        self.given.extend(session.payload_bytes(event)?);
                    }
                }
                if matches!(event.flow(), Some(Flow::ToClient | Flow::ToClientBeside)) {
                    self.bytes = self.bytes.saturating_add(event.payload_len());
                    if rows == Rows::Shown {
                        self.keep(session, event)?;
                    }
                }
                if event.kind() == Kind::Outcome {
                    self.status.clone_from(&entry.status);
                    self.tag.clone_from(&detail.tag);
                    self.masked.clone_from(&detail.masked);
                    self.rows = entry.rows.unwrap_or(0);
                    self.took_ns = entry.t_wall_ns.saturating_sub(self.sent_ns.max(self.begun_ns));
                    return Ok(true);
                }
            }
            _ => {}
        }
        Ok(false)
    }

    fn keep(&mut self, session: &Session<'_>, event: &Event) -> Result<()> {
        let room = ANSWER_BYTES_MAX.saturating_sub(self.returned.len()) as u64;
        if event.payload_len() > room {
            self.cut = true;
        }
        if !self.cut {
            self.returned.extend(session.payload_bytes(event)?);
        }
        Ok(())
    }

    fn rendered(&self, protocol: &str) -> Vec<String> {
        let action = self.action.as_deref().unwrap_or_default();
        registry::render(protocol, action, &self.returned)
    }

    /// Lines that were typed in a shell: an aid to search, and no proof of what ran.
    fn typed(&self, protocol: &str) -> Vec<String> {
        let action = self.action.as_deref().unwrap_or_default();
        registry::typed(protocol, action, &self.given)
    }

    fn print(&self, protocol: &str, rows: Rows, paint: Paint) -> String {
        const INDENT: &str = "              ";
        let mut out = String::new();
        let mut put = |text: &str| {
            for part in text.lines() {
                out.push_str(INDENT);
                out.push_str(part);
                out.push('\n');
            }
        };
        for parameter in &self.parameters {
            put(&line(&readable(parameter)));
        }
        for words in [&self.hold, &self.answer].into_iter().flatten() {
            put(&line(words));
        }
        if let Some(refusal) = &self.refusal {
            put(&paint.bad(line(refusal)));
        }
        if self.refusal.is_none() {
            let status = self.status.as_deref().unwrap_or("no end on record");
            let status = match status {
                "ok" => String::new(),
                other => format!("{} · ", line(other)),
            };
            let tenths = self.took_ns / 100_000;
            let (ms, rest) = (tenths / 10, tenths % 10);
            put(&format!(
                "{status}{}{}, {ms}.{rest} ms",
                line(&registry::amount(protocol, &count(self.rows), self.tag.as_deref())),
                say::size(self.bytes)
            ));
            if !self.masked.is_empty() {
                let of =
                    |(class, cells): &(String, u64)| format!("{} {}", count(*cells), line(class));
                let all: Vec<String> = self.masked.iter().map(of).collect();
                put(&format!("masked cells: {}", all.join(", ")));
            }
        }
        if rows == Rows::Shown {
            for text in self.rendered(protocol) {
                put(&line(&text));
            }
            for text in self.typed(protocol) {
                put(&paint.dim(format!("typed, as far as it can be told: {}", line(&text))));
            }
            if self.cut {
                put("… the answer goes on; --raw writes all of it");
            }
        }
        if let Some((index, leaf)) = &self.entry {
            let leaf = leaf.get(..8).unwrap_or(leaf);
            let words = format!("entry {} · leaf {leaf}… · bulla log prove {index}", count(*index));
            put(&paint.dim(words));
        }
        let at = clock(self.begun_ns);
        let heading = registry::heading(protocol, &self.unread);
        let shown = self.shown.as_deref().or(self.action.as_deref()).or(heading.as_deref());
        let shown = shown.unwrap_or("(not read)");
        let policies = match (&self.policies[..], &self.bundle) {
            ([], Some(bundle)) => format!("[no policy @{}]", bundle.short(7)),
            ([], None) => String::new(),
            (all, bundle) => {
                let bundle = bundle.map(|bundle| format!(" @{}", bundle.short(7)));
                format!("[policy {}{}]", line(&all.join(", ")), bundle.unwrap_or_default())
            }
        };
        let text = safe(shown).replace('\n', &format!("\n{INDENT}"));
        format!("{at}  {text}   {}\n{out}", paint.dim(format!("#{} {policies}", self.number)))
    }

    fn json(&self, protocol: &str, rows: Rows) -> Value {
        let parameter = |p: &ParameterDetail| {
            let value = match &p.value {
                ParameterDetailValue::Null => Value::Null,
                ParameterDetailValue::Text(text) => text.as_str().into(),
                ParameterDetailValue::Bytes(bytes) => json!({ "hex": hex(bytes) }),
                ParameterDetailValue::Large(bytes) => json!({ "bytes": bytes }),
            };
            json!({ "name": p.name, "type": p.kind, "value": value })
        };
        let mut out = json!({
            "number": self.number, "at": Timestamp(self.begun_ns).to_string(),
            "action": self.action, "statement": self.shown,
            "parameters": self.parameters.iter().map(parameter).collect::<Vec<_>>(),
            "policies": self.policies, "bundle": self.bundle.map(|bundle| bundle.to_string()),
            "hold": self.hold, "answer": self.answer, "refusal": self.refusal,
            "status": self.status, "tag": self.tag, "rows": self.rows, "bytes": self.bytes,
            "masked": self.masked.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "took_us": self.took_ns / 1_000,
            "entry": self.entry.as_ref().map(|(index, _)| index),
            "leaf": self.entry.as_ref().map(|(_, leaf)| leaf),
        });
        if rows == Rows::Shown {
            out["returned"] = json!(self.rendered(protocol));
            out["returned_cut"] = self.cut.into();
            out["typed_aid"] = json!(self.typed(protocol));
        }
        out
    }
}

/// The time of day, to the millisecond.
fn clock(ns: u64) -> String {
    Timestamp(ns).to_string().get(11..23).unwrap_or_default().to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn readable(parameter: &ParameterDetail) -> String {
    let value = match &parameter.value {
        ParameterDetailValue::Null => "NULL".into(),
        ParameterDetailValue::Text(text) => format!("'{text}'"),
        ParameterDetailValue::Bytes(bytes) => format!("\\x{}", hex(bytes)),
        ParameterDetailValue::Large(bytes) => format!("{bytes} bytes, in the evidence"),
    };
    match parameter.kind.as_str() {
        "" => format!("{} = {value}", parameter.name),
        kind => format!("{} = {value} ({kind})", parameter.name),
    }
}

/// Everything that happened in a session, readable.
fn show(
    config: &Config,
    id: SessionId,
    command: Option<u64>,
    rows: Rows,
    json: bool,
) -> Result<()> {
    let reader = reader(config)?;
    let session = reader.session(id)?;
    let paint = Paint::new();
    let mut under_way: BTreeMap<u64, Done> = BTreeMap::new();
    let mut protocol = String::new();
    let mut all = Vec::new();
    let mut found = false;
    for event in session.events() {
        let event = event?;
        let entry = &event.entry;
        if let Some(name) = &entry.protocol {
            protocol.clone_from(name);
        }
        match event.kind() {
            Kind::Open if command.is_none() => {
                let head = Head::of(&event);
                if json { all.push(head.json(id)) } else { print(&head.print(id))? }
            }
            Kind::Close if command.is_none() => {
                let why = entry.status.as_deref().unwrap_or("?");
                let detail = event.detail.reason.as_deref().unwrap_or_default();
                let at = Timestamp(entry.t_wall_ns);
                if json {
                    all.push(json!({ "closed": at.to_string(), "why": why, "detail": detail }));
                } else {
                    let words = format!("{}  closed: {} {}", clock(at.0), line(why), line(detail));
                    print(words.trim_end())?;
                }
            }
            // Who was turned away at the door has no session, but an entry with an id of its own.
            Kind::Refusal if command.is_none() && event.command().is_none() => {
                print_turned_away(&event, id, json, &mut all)?;
            }
            Kind::Config | Kind::Policy | Kind::Admin | Kind::Alarm if command.is_none() => {
                print_administration(&event, json, &mut all)?;
            }
            _ => {}
        }
        // Bytes that answer no command have the number 0.
        let Some(number) = event.command().filter(|number| *number > 0) else { continue };
        if command.is_some_and(|wanted| wanted != number) {
            continue;
        }
        found = true;
        let done = under_way.entry(number).or_insert_with(|| Done::new(number, entry));
        if done.take(&session, &event, rows)?
            && let Some(done) = under_way.remove(&number)
        {
            if json {
                all.push(done.json(&protocol, rows));
            } else {
                print(&done.print(&protocol, rows, paint))?;
            }
        }
    }
    for done in under_way.values() {
        if json {
            all.push(done.json(&protocol, rows));
        } else {
            print(&done.print(&protocol, rows, paint))?;
        }
    }
    if let Some(number) = command
        && !found
    {
        bail!("session {id} has no command {number}");
    }
    if json {
        print(&say::json(&Value::Array(all)))?;
    }
    Ok(())
}

fn print_administration(event: &Event, json: bool, all: &mut Vec<Value>) -> Result<()> {
    let (entry, detail) = (&event.entry, &event.detail);
    let kind = entry.note.as_deref().unwrap_or("admin");
    let by = detail.by.as_deref().unwrap_or("?");
    let words = detail.message.as_deref().unwrap_or_default();
    if json {
        let at = Timestamp(entry.t_wall_ns).to_string();
        all.push(
            json!({ "at": at, "kind": kind, "by": by, "detail": words, "entry": event.index }),
        );
        return Ok(());
    }
    let at = clock(entry.t_wall_ns);
    Ok(print(&format!("{at}  {}: {} by {}", line(kind), line(words), line(by)))?)
}

/// Somebody who got no session: whom, from where, for what, and why.
fn print_turned_away(event: &Event, id: SessionId, json: bool, all: &mut Vec<Value>) -> Result<()> {
    let (entry, detail) = (&event.entry, &event.detail);
    let why = entry.status.as_deref().unwrap_or("?");
    let reason = detail.reason.as_deref().filter(|reason| !reason.is_empty());
    let who = detail.principal.as_ref().map(|principal| principal.id.as_str());
    let (asked, from) = (detail.part.as_deref(), detail.address.as_deref());
    let at = Timestamp(entry.t_wall_ns).to_string();
    if json {
        all.push(json!({
            "turned_away": id.to_string(), "at": at, "why": why, "detail": reason, "principal": who,
            "asked": asked, "address": from, "entry": event.index,
        }));
        return Ok(());
    }
    let words = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    let mut lines =
        vec![format!("turned away {id}, without a session"), format!("why         {why}{words}")];
    for (name, value) in [("principal   ", who), ("asked for   ", asked), ("from        ", from)] {
        lines.extend(value.map(|value| format!("{name}{value}")));
    }
    lines.push(format!("at          {at}"));
    lines.push(format!("entry       {} · bulla log prove {}", count(event.index), event.index));
    lines.iter().try_for_each(|text| Ok(print(&line(text))?))
}

/// Who opened a session, and how.
struct Head {
    principal: String,
    groups: Vec<String>,
    credential: String,
    resource: String,
    part: Option<String>,
    address: Option<String>,
    claims: Vec<(String, String)>,
    at: Timestamp,
    mode: &'static str,
}

impl Head {
    fn of(event: &Event) -> Self {
        let detail = &event.detail;
        let principal = detail.principal.clone().unwrap_or_default();
        Self {
            principal: principal.id,
            groups: principal.groups,
            credential: principal.credential,
            resource: event.entry.resource.clone().unwrap_or_default(),
            part: detail.part.clone(),
            address: detail.address.clone(),
            claims: detail.claims.clone(),
            at: Timestamp(event.entry.t_wall_ns),
            mode: event.entry.mode.as_str(),
        }
    }

    fn print(&self, id: SessionId) -> String {
        let part = self.part.as_deref().map(|part| format!("/{part}")).unwrap_or_default();
        let groups = match self.groups.join(", ") {
            groups if groups.is_empty() => String::new(),
            groups => format!(" ({groups})"),
        };
        let from = self.address.as_deref().unwrap_or("?");
        let mut lines = vec![
            format!("session     {id}, recorded {}", self.mode),
            format!("principal   {}{groups} by {}", self.principal, self.credential),
            format!("resource    {}{part}", self.resource),
            format!("from        {from}"),
        ];
        for (name, value) in &self.claims {
            lines.push(format!("claimed     {name} = {value}"));
        }
        lines.push(format!("opened      {}", self.at));
        lines.iter().map(|text| line(text) + "\n").collect()
    }

    fn json(&self, id: SessionId) -> Value {
        json!({
            "session": id.to_string(), "opened": self.at.to_string(), "principal": self.principal,
            "groups": self.groups, "credential": self.credential, "resource": self.resource,
            "part": self.part, "address": self.address, "durability": self.mode,
            "claims": self.claims.iter().cloned().collect::<BTreeMap<_, _>>(),
        })
    }
}

/// The exact bytes that the client got, in order: from the target, and from the gateway itself.
fn replay_raw(config: &Config, id: SessionId, command: Option<u64>) -> Result<()> {
    let reader = reader(config)?;
    let session = reader.session(id)?;
    let mut out = std::io::stdout().lock();
    for event in session.events() {
        let event = event?;
        let to_client =
            matches!(event.flow(), Some(Flow::ToClient | Flow::ToClientBeside | Flow::Gateway));
        if to_client && (command.is_none() || event.command() == command) {
            session.payload(&event, &mut |piece| out.write_all(piece))?;
        }
    }
    Ok(out.flush()?)
}

/// The exchanges as an archive for other tools (HAR).
fn replay_archive(config: &Config, id: SessionId, command: Option<u64>) -> Result<()> {
    let reader = reader(config)?;
    let session = reader.session(id)?;
    let (mut all, mut protocol) = (BTreeMap::<u64, Exchange>::new(), String::new());
    for event in session.events() {
        let event = event?;
        if let Some(name) = &event.entry.protocol {
            protocol.clone_from(name);
        }
        let Some(number) = event.command().filter(|number| *number > 0) else { continue };
        if command.is_none_or(|wanted| wanted == number) {
            all.entry(number).or_default().take(&session, &event)?;
        }
    }
    let recorded: Vec<_> = all.into_values().map(|exchange| exchange.recorded).collect();
    let archive = registry::archive(&protocol, &recorded);
    let archive =
        archive.with_context(|| format!("`{protocol}` has no such archive; use --raw"))?;
    Ok(print(&serde_json::to_string_pretty(&archive)?)?)
}

/// A command's output with its times, for a player of terminals (asciicast). Without a number, the
/// first command that has a terminal.
fn replay_terminal(config: &Config, id: SessionId, command: Option<u64>) -> Result<()> {
    let reader = reader(config)?;
    let session = reader.session(id)?;
    let (mut pieces, mut chosen, mut protocol) = (Vec::new(), command, String::new());
    for event in session.events() {
        let event = event?;
        if let Some(name) = &event.entry.protocol {
            protocol.clone_from(name);
        }
        let terminal = event.flow() == Some(Flow::ToTargetBeside);
        if chosen.is_none() && terminal {
            chosen = event.command();
        }
        let Some(flow) = event.flow().filter(|_| chosen.is_some() && event.command() == chosen)
        else {
            continue;
        };
        let (at_ns, bytes) = (event.entry.t_wall_ns, session.payload_bytes(&event)?);
        pieces.push(registry::Piece { at_ns, flow, bytes });
    }
    let title = format!("bulla session {id}");
    let cast = registry::terminal(&protocol, &title, &pieces);
    let cast = cast.with_context(|| format!("`{protocol}` has no terminals; use --raw"))?;
    if pieces.is_empty() {
        bail!("no command of this session had a terminal; name one with --command");
    }
    Ok(print(&cast)?)
}

/// One exchange, put together from its entries.
#[derive(Default)]
struct Exchange {
    recorded: registry::Recorded,
    begun_ns: u64,
}

impl Exchange {
    fn take(&mut self, session: &Session<'_>, event: &Event) -> Result<()> {
        let (entry, recorded) = (&event.entry, &mut self.recorded);
        if self.begun_ns == 0 {
            self.begun_ns = entry.t_wall_ns;
            recorded.started = Timestamp(entry.t_wall_ns).to_string();
        }
        let into = match event.flow() {
            Some(Flow::ToTarget) => &mut recorded.request,
            Some(Flow::ToClient) => &mut recorded.response,
            Some(Flow::Gateway | Flow::ToClientBeside | Flow::ToTargetBeside) | None => {
                return Ok(());
            }
        };
        if into.len() as u64 + event.payload_len() <= ANSWER_BYTES_MAX as u64 {
            into.extend(session.payload_bytes(event)?);
        } else {
            recorded.comment = "longer than 16 MiB; --raw writes all of it".into();
        }
        match event.kind() {
            Kind::Outcome => {
                let took_us = entry.t_wall_ns.saturating_sub(self.begun_ns) / 1_000;
                recorded.took_ms = f64::from(u32::try_from(took_us).unwrap_or(u32::MAX)) / 1_000.0;
                let status = entry.status.as_deref().unwrap_or_default();
                if recorded.comment.is_empty() {
                    recorded.comment = status.to_owned();
                }
            }
            Kind::Refusal => {
                recorded.comment = event.detail.message.clone().unwrap_or_else(|| "refused".into());
            }
            _ => {}
        }
        Ok(())
    }
}
