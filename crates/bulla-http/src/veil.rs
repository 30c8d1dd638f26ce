//! What of an answer may not be seen by whom, and how it is masked. Pure.
//!
//! Classes are known by place (a path in JSON, on a route or anywhere) and by content. An answer of
//! which something is hidden goes on only in a form that can be read: JSON, lines of JSON, events,
//! and, where no place is hidden, text. Every other form is withheld.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bulla_mask::{Document, Hidden, Key, Kind, Mask, Rule, Stream, document::Counts, json::Path};
use bytes::{Bytes, BytesMut};
use http::Method;
use parking_lot::Mutex;

use crate::{
    coding::{Coding, CodingError, Decoder},
    fields::Headers,
    needles::Needles,
    route::{Case, Route},
    wire::header_value,
};

/// The class of what need not be masked.
const CLEAR: &str = "clear";
/// Longest event of a stream of events.
const EVENT_BYTES_MAX: usize = 1 << 20;
/// Sets of hidden classes that are kept ready.
const KEPT_MAX: usize = 256;
/// The end of a stream as some APIs say it: no document, and no value.
const DONE: &str = "[DONE]";

/// Headers that speak of the very bytes of an answer, which are not those that the client gets.
const OF_BYTES: &[&str] = &[
    "etag",
    "content-length",
    "content-encoding",
    "content-md5",
    "content-range",
    "accept-ranges",
    "digest",
    "content-digest",
    "repr-digest",
    "x-goog-hash",
    "signature",
    "signature-input",
];
const OF_BYTES_PREFIXES: &[&str] = &["x-amz-checksum-", "x-checksum-"];
/// Headers of a request that ask for a part of an answer, or for none if it has not changed.
pub const OF_PARTS: &[&str] =
    &["range", "if-range", "if-none-match", "if-modified-since", "accept-encoding"];

/// A rule as it is configured: values at a path, on a route or on all.
#[derive(Debug, Clone)]
struct Placed {
    route: Option<Route>,
    path: Path,
    /// None: the whole answer is clear.
    class: Option<Arc<str>>,
}

/// Rules, by their number, and kinds that are hidden.
type Which = (Vec<usize>, Vec<Kind>);

/// What an API's operator says about classes.
#[derive(Debug, Default)]
pub struct Masks {
    placed: Vec<Placed>,
    content: Vec<(Kind, Arc<str>)>,
    classes: BTreeMap<Arc<str>, Mask>,
    key: Option<Key>,
    kept: Mutex<HashMap<Which, Arc<Hidden>>>,
}

impl Masks {
    /// `json`: `$..ssn` or `GET /customers/{id} $.email`, with the class. `content`: what is found
    /// by what it looks like. `mask`: of a class, if there is one.
    ///
    /// # Errors
    /// Everything that does not hold.
    pub fn new(
        json: &BTreeMap<String, String>,
        content: &BTreeMap<String, String>,
        mask: &dyn Fn(&str) -> Option<Mask>,
        key: Option<Key>,
    ) -> Result<Self, Vec<String>> {
        let (mut made, mut wrong) = (Self { key, ..Self::default() }, Vec::new());
        let mut find = |class: &str, wrong: &mut Vec<String>| -> Option<Arc<str>> {
            match mask(class) {
                Some(mask) => {
                    made.classes.insert(class.into(), mask);
                    Some(class.into())
                }
                None => {
                    let missing = "is named, but there is no class of that name: add";
                    wrong
                        .push(format!("`{class}` {missing} `[classes.\"{class}\"]` with a `mask`"));
                    None
                }
            }
        };
        let mut placed = Vec::new();
        for (text, class) in json {
            match Placed::parse(text) {
                Err(why) => wrong.push(why),
                Ok((_, path)) if class == CLEAR && path != Path::whole() => {
                    wrong.push(format!("`{text}`: only a whole answer (`$`) can be `clear`"));
                }
                Ok((route, path)) => {
                    let class = if class == CLEAR { None } else { find(class, &mut wrong) };
                    placed.push(Placed { route, path, class });
                }
            }
        }
        let mut kinds = Vec::new();
        for (word, class) in content {
            match Kind::parse(word) {
                Some(kind) => kinds.extend(find(class, &mut wrong).map(|class| (kind, class))),
                None => wrong.push(format!("`{word}` is nothing that is found by content")),
            }
        }
        (made.placed, made.content) = (placed, kinds);
        if wrong.is_empty() { Ok(made) } else { Err(wrong) }
    }

    pub fn is_empty(&self) -> bool {
        self.content.is_empty() && self.placed.iter().all(|rule| rule.class.is_none())
    }

    /// What may not be seen of the answer to a request by whom `reveals` answers for. None: nothing
    /// of it has a class.
    pub fn plan(
        &self,
        method: &Method,
        segments: &[String],
        reveals: &dyn Fn(&str) -> bool,
    ) -> Option<Plan> {
        if self.is_empty() {
            return None;
        }
        let fits = |rule: &&(usize, &Placed)| {
            // On doubt it is hidden: only what is clear is known by its very name.
            let case = if rule.1.class.is_some() { Case::Any } else { Case::Exact };
            rule.1.route.as_ref().is_none_or(|route| route.fits(method, segments, case))
        };
        let all: Vec<(usize, &Placed)> = self
            .placed
            .iter()
            .enumerate()
            .collect::<Vec<_>>()
            .iter()
            .filter(fits)
            .copied()
            .collect();
        // What is said of this route outweighs that the whole of it is clear.
        let named = all.iter().any(|(_, rule)| rule.route.is_some() && rule.class.is_some());
        if !named && all.iter().any(|(_, rule)| rule.class.is_none()) {
            return None;
        }
        let mut seen: BTreeMap<Arc<str>, bool> = BTreeMap::new();
        let mut hides =
            |class: &Arc<str>| !*seen.entry(class.clone()).or_insert_with(|| reveals(class));
        let mut rules = Vec::new();
        for (at, rule) in &all {
            if rule.class.as_ref().is_some_and(&mut hides) {
                rules.push(*at);
            }
        }
        let mut kinds = Vec::new();
        for (kind, class) in &self.content {
            if hides(class) {
                kinds.push(*kind);
            }
        }
        let shown = seen.into_iter().filter(|(_, seen)| *seen).map(|(class, _)| class).collect();
        Some(Plan { hidden: self.hidden(rules, kinds), shown })
    }

    fn hidden(&self, rules: Vec<usize>, kinds: Vec<Kind>) -> Arc<Hidden> {
        let key = (rules, kinds);
        if let Some(hidden) = self.kept.lock().get(&key) {
            return hidden.clone();
        }
        let rules = key.0.iter().filter_map(|at| {
            let placed = self.placed.get(*at)?;
            let class = placed.class.clone()?;
            let mask = self.classes.get(&class)?.clone();
            Some(Rule { path: placed.path.clone(), class, mask })
        });
        let own = |(kind, _): &&(Kind, Arc<str>)| key.1.contains(kind);
        let kinds = self.content.iter().filter(own).cloned().collect();
        let hidden = Arc::new(Hidden::new(rules.collect(), kinds, self.key.clone()));
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(key, hidden.clone());
        hidden
    }
}

impl Placed {
    fn parse(text: &str) -> Result<(Option<Route>, Path), String> {
        let (route, path) = match text.split_once(" $") {
            Some((route, path)) if !text.starts_with('$') => (Some(route), format!("${path}")),
            _ => (None, text.to_owned()),
        };
        let route = route.map(Route::parse).transpose()?;
        if path == "$" {
            return Ok((route, Path::whole()));
        }
        let path = Path::parse(&path).ok_or_else(|| {
            format!("`{text}` is no path: write `$..ssn` or `GET /customers/{{id}} $.email`")
        })?;
        Ok((route, path))
    }
}

/// What of one answer is hidden, and which classes are shown in the clear.
#[derive(Debug, Clone)]
pub struct Plan {
    pub hidden: Arc<Hidden>,
    pub shown: Vec<Arc<str>>,
}

impl Plan {
    pub fn hides(&self) -> bool {
        !self.hidden.is_empty()
    }
}

/// Why an answer is withheld.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VeilError {
    #[error("its form is none that can be masked")]
    Form,
    #[error("it is compressed in a way that is not known")]
    Coding,
    #[error("it is compressed, and not as it says")]
    Compressed,
    #[error("it grows more than any honest body")]
    Bomb,
    #[error("it is no JSON that can be masked")]
    Document,
    #[error("an event of it is too long, or no UTF-8")]
    Event,
    #[error("it is a part of an answer")]
    Part,
    #[error("it holds the target's own secret")]
    Secret,
}

impl VeilError {
    /// The reason that has these words.
    pub fn named(words: &str) -> Option<Self> {
        let all = [
            Self::Form,
            Self::Coding,
            Self::Compressed,
            Self::Bomb,
            Self::Document,
            Self::Event,
            Self::Part,
            Self::Secret,
        ];
        all.into_iter().find(|error| error.words() == words)
    }
    pub fn words(self) -> &'static str {
        match self {
            Self::Form => "its form is none that can be masked",
            Self::Coding => "it is compressed in a way that is not known",
            Self::Compressed => "it is compressed, and not as it says",
            Self::Bomb => "it grows more than any honest body",
            Self::Document => "it is no JSON that can be masked",
            Self::Event => "an event of it is too long, or no UTF-8",
            Self::Part => "it is a part of an answer",
            Self::Secret => "it holds the target's own secret",
        }
    }
}

impl From<CodingError> for VeilError {
    fn from(error: CodingError) -> Self {
        match error {
            CodingError::Malformed => Self::Compressed,
            CodingError::Bomb => Self::Bomb,
        }
    }
}

/// How a body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Lines,
    Events,
    Text,
}

impl Form {
    fn of(headers: &Headers) -> Result<Self, VeilError> {
        let value = headers.only("content-type").ok_or(VeilError::Form)?;
        if value.contains(',') || !value.is_ascii() {
            return Err(VeilError::Form);
        }
        let lower = value.to_ascii_lowercase();
        let mut parts = lower.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let charset = parts.find_map(|part| part.strip_prefix("charset="));
        let charset = charset.unwrap_or("utf-8").trim_matches('"');
        let form = match media {
            "application/json" => Self::Json,
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/json-seq"
            | "application/x-jsonlines" => Self::Lines,
            "text/event-stream" => Self::Events,
            "application/xml"
            | "application/javascript"
            | "application/ecmascript"
            | "application/x-www-form-urlencoded"
            | "application/yaml"
            | "application/x-yaml"
            | "application/toml"
            | "application/sql"
            | "application/graphql" => Self::Text,
            _ if media.ends_with("+json") => Self::Json,
            _ if media.ends_with("+xml") || media.ends_with("+yaml") => Self::Text,
            _ if media.starts_with("text/") => Self::Text,
            _ => return Err(VeilError::Form),
        };
        let read = match charset {
            "utf-8" | "utf8" | "us-ascii" | "ascii" => true,
            // The detectors know these; JSON and events are UTF-8.
            "iso-8859-1" | "latin1" | "windows-1252" | "utf-16" | "utf-16le" | "utf-16be" => {
                form == Self::Text
            }
            _ => false,
        };
        if read { Ok(form) } else { Err(VeilError::Form) }
    }
}

enum Reading {
    Document(Box<Document>),
    Events(Events),
    Text(Box<Stream>),
}

/// A body that is masked as it comes.
pub struct Veil {
    hidden: Arc<Hidden>,
    decoder: Decoder,
    reading: Reading,
    counts: Counts,
}

impl Veil {
    /// `headers`: of the answer, before they are changed.
    pub fn new(
        hidden: &Arc<Hidden>,
        headers: &Headers,
        codings: &[Coding],
    ) -> Result<Self, VeilError> {
        let form = Form::of(headers)?;
        let hidden = hidden.clone();
        let reading = match (form, hidden.scanner()) {
            (Form::Json, _) => Reading::Document(Box::new(Document::new(hidden.clone()))),
            (Form::Lines, _) => Reading::Document(Box::new(Document::sequence(hidden.clone()))),
            (Form::Events, _) => Reading::Events(Events::default()),
            // A place in a document says nothing about the same values in another form.
            (Form::Text, Some(scanner)) if !hidden.has_paths() => {
                Reading::Text(Box::new(Stream::new(scanner.clone())))
            }
            (Form::Text, _) => return Err(VeilError::Form),
        };
        let decoder = Decoder::new(codings)?;
        Ok(Self { hidden, decoder, reading, counts: Counts::new() })
    }

    /// Takes a piece as it came, and appends what may go on.
    pub fn push(&mut self, piece: &[u8], out: &mut BytesMut) -> Result<(), VeilError> {
        let Self { hidden, decoder, reading, counts } = self;
        decoder.push(piece, &mut |plain: &[u8]| reading.push(hidden, plain, out, counts))
    }

    /// The body has ended.
    pub fn finish(&mut self, out: &mut BytesMut) -> Result<(), VeilError> {
        let Self { hidden, decoder, reading, counts } = self;
        decoder.finish(&mut |plain: &[u8]| reading.push(hidden, plain, out, counts))?;
        let mut rest = Vec::new();
        match reading {
            Reading::Document(document) => {
                document.finish(&mut rest).map_err(|_| VeilError::Document)?;
            }
            // An event that has not ended is none.
            Reading::Events(_) => {}
            Reading::Text(stream) => stream.finish(&mut rest),
        }
        out.extend_from_slice(&rest);
        Ok(())
    }

    /// Counts what was masked besides.
    pub fn count(&mut self, more: &Counts) {
        merge(&mut self.counts, more);
    }
    /// How many values of which class were masked so far.
    pub fn counts(&self) -> Counts {
        let mut counts = self.counts.clone();
        match &self.reading {
            Reading::Document(document) => merge(&mut counts, document.counts()),
            Reading::Events(_) => {}
            Reading::Text(stream) => {
                for (kind, count) in stream.counts() {
                    if let Some(class) = self.hidden.class_of(kind) {
                        *counts.entry(class.clone()).or_default() += count;
                    }
                }
            }
        }
        counts
    }
}

impl Reading {
    fn push(
        &mut self,
        hidden: &Arc<Hidden>,
        plain: &[u8],
        out: &mut BytesMut,
        counts: &mut Counts,
    ) -> Result<(), VeilError> {
        let mut masked = Vec::with_capacity(plain.len());
        match self {
            Self::Document(document) => {
                document.push(plain, &mut masked).map_err(|_| VeilError::Document)?;
            }
            Self::Events(events) => events.push(hidden, plain, &mut masked, counts)?,
            Self::Text(stream) => stream.push(plain, &mut masked),
        }
        out.extend_from_slice(&masked);
        Ok(())
    }
}

fn merge(counts: &mut Counts, more: &Counts) {
    for (class, count) in more {
        *counts.entry(class.clone()).or_default() += count;
    }
}

/// Masks a whole text that may be a document. None: it is no document, and places are hidden.
fn whole(hidden: &Arc<Hidden>, text: &str, counts: &mut Counts) -> Option<String> {
    let looks = text.trim_start().starts_with(['{', '[', '"']);
    if looks || hidden.has_paths() {
        let (mut document, mut out) = (Document::new(hidden.clone()), Vec::new());
        let read = document.push(text.as_bytes(), &mut out);
        if read.and_then(|()| document.finish(&mut out)).is_ok() {
            merge(counts, document.counts());
            return String::from_utf8(out).ok();
        }
    }
    if hidden.has_paths() {
        return None;
    }
    Some(hidden.text("", text, counts).unwrap_or_else(|| text.to_owned()))
}

/// A message of a WebSocket. None: it is in no form that can be masked.
pub fn message(hidden: &Arc<Hidden>, text: &str, counts: &mut Counts) -> Option<Bytes> {
    whole(hidden, text, counts).map(Bytes::from)
}

/// Takes from an answer's headers what is not true of the masked one, and masks the rest.
pub fn headers(hidden: &Hidden, headers: &mut Headers, counts: &mut Counts) {
    let of_bytes = |name: &str| {
        OF_BYTES.contains(&name) || OF_BYTES_PREFIXES.iter().any(|own| name.starts_with(own))
    };
    // What one may see is not what another may see, and no browser guesses at its form.
    let own = [("cache-control", "no-store"), ("x-content-type-options", "nosniff")];
    let ours = |name: &str| own.iter().any(|(own, _)| *own == name);
    let mut kept = Headers::default();
    for (name, value) in headers.iter().filter(|(name, _)| !of_bytes(name) && !ours(name)) {
        let masked = match name {
            "content-type" | "date" => None,
            _ => hidden.text(name, value, counts),
        };
        match masked.as_deref().map(|masked| header_value(masked.as_bytes())) {
            None => kept.push(name, value),
            Some(Ok(masked)) => kept.push(name, masked),
            Some(Err(_)) => kept.push(name, "[masked]"),
        }
    }
    own.iter().for_each(|(name, value)| kept.push(name, value));
    *headers = kept;
}

/// A stream of events (HTML, section 9.2.6), event by event.
#[derive(Default)]
struct Events {
    line: Vec<u8>,
    /// The last line ended in CR: an LF that follows is part of that.
    after_cr: bool,
    begun: bool,
    data: Option<String>,
    others: Vec<(&'static str, String)>,
    bytes: usize,
}

impl Events {
    fn push(
        &mut self,
        hidden: &Arc<Hidden>,
        plain: &[u8],
        out: &mut Vec<u8>,
        counts: &mut Counts,
    ) -> Result<(), VeilError> {
        for byte in plain {
            let after_cr = std::mem::replace(&mut self.after_cr, *byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\r' | b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    let line = String::from_utf8(line).map_err(|_| VeilError::Event)?;
                    self.line(hidden, &line, out, counts);
                }
                _ => {
                    self.bytes += 1;
                    if self.bytes > EVENT_BYTES_MAX {
                        return Err(VeilError::Event);
                    }
                    self.line.push(*byte);
                }
            }
        }
        Ok(())
    }

    fn line(&mut self, hidden: &Arc<Hidden>, line: &str, out: &mut Vec<u8>, counts: &mut Counts) {
        let line = if self.begun { line } else { line.strip_prefix('\u{feff}').unwrap_or(line) };
        self.begun = true;
        if line.is_empty() {
            return self.dispatch(hidden, out, counts);
        }
        if line.starts_with(':') {
            // It keeps a connection open; what it says is for nobody.
            out.extend_from_slice(b":\n");
            self.bytes = self.bytes.saturating_sub(line.len());
            return;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => {
                let data = self.data.get_or_insert_default();
                data.push_str(value);
                data.push('\n');
            }
            "event" => self.others.push(("event", value.to_owned())),
            "id" => self.others.push(("id", value.to_owned())),
            "retry" if value.bytes().all(|b| b.is_ascii_digit()) && value.len() < 10 => {
                self.others.push(("retry", value.to_owned()));
            }
            // A client has to ignore every other field.
            _ => {}
        }
    }

    fn dispatch(&mut self, hidden: &Arc<Hidden>, out: &mut Vec<u8>, counts: &mut Counts) {
        self.bytes = 0;
        for (name, value) in self.others.drain(..) {
            let masked = hidden.text(name, &value, counts).unwrap_or(value);
            out.extend_from_slice(format!("{name}: {masked}\n").as_bytes());
        }
        if let Some(data) = self.data.take() {
            let data = data.strip_suffix('\n').unwrap_or(&data);
            let masked = match data {
                "" | DONE => Some(data.to_owned()),
                _ => whole(hidden, data, counts),
            };
            for line in masked.as_deref().unwrap_or("[masked]").split(['\n', '\r']) {
                out.extend_from_slice(format!("data: {line}\n").as_bytes());
            }
        }
        out.push(b'\n');
    }
}

/// What is done to a body on its way to the client.
pub enum Lens {
    Nothing,
    /// It goes on as it came; what it means is looked at first.
    Tap(Box<Tap>),
    Veil(Box<Veil>),
}

impl Lens {
    /// Takes a piece as it came, and appends what may go on.
    pub fn push(&mut self, piece: &[u8], out: &mut BytesMut) -> Result<(), VeilError> {
        match self {
            Self::Nothing => out.extend_from_slice(piece),
            Self::Tap(tap) => tap.push(piece, out)?,
            Self::Veil(veil) => veil.push(piece, out)?,
        }
        Ok(())
    }
    pub fn finish(&mut self, out: &mut BytesMut) -> Result<(), VeilError> {
        match self {
            Self::Nothing => Ok(()),
            Self::Tap(tap) => tap.finish(out),
            Self::Veil(veil) => veil.finish(out),
        }
    }
    pub fn counts(&self) -> Option<Counts> {
        match self {
            Self::Veil(veil) => Some(veil.counts()),
            Self::Nothing | Self::Tap(_) => None,
        }
    }
}

/// Looks for the target's own secret in a compressed body. What may be the beginning of it is held
/// back as it came.
pub struct Tap {
    decoder: Decoder,
    never: Needles,
    tail: Vec<u8>,
    held: BytesMut,
}

impl Tap {
    pub fn new(codings: &[Coding], never: Needles) -> Result<Self, VeilError> {
        let decoder = Decoder::new(codings)?;
        Ok(Self { decoder, never, tail: Vec::new(), held: BytesMut::new() })
    }

    fn push(&mut self, piece: &[u8], out: &mut BytesMut) -> Result<(), VeilError> {
        self.held.extend_from_slice(piece);
        let Self { decoder, never, tail, .. } = self;
        decoder.push(piece, &mut |plain: &[u8]| look(never, tail, plain))?;
        if self.tail.is_empty() {
            out.unsplit(self.held.split());
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut BytesMut) -> Result<(), VeilError> {
        let Self { decoder, never, tail, .. } = self;
        decoder.finish(&mut |plain: &[u8]| look(never, tail, plain))?;
        out.unsplit(self.held.split());
        Ok(())
    }
}

fn look(never: &Needles, tail: &mut Vec<u8>, plain: &[u8]) -> Result<(), VeilError> {
    tail.extend_from_slice(plain);
    if never.are_in(tail) {
        return Err(VeilError::Secret);
    }
    let begun = never.begun(tail);
    tail.drain(..tail.len() - begun);
    Ok(())
}

#[cfg(test)]
mod tests;
