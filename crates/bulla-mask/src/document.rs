//! Masking a JSON document that comes in pieces (RFC 8259), of any length in bounded memory.
//!
//! Values at configured paths are replaced by their class's mask; every other text, number and name
//! of a member is looked at by content. What is not masked stays byte for byte as it was. What was
//! given out is never taken back: a document that turns out to be none ends with an error, and
//! nothing of it that was given out was unmasked.
//!
//! A text that is itself a document (`"{\"ssn\":1}"`) is followed where a path goes to any depth.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    detect::{Kind, Scanner, What},
    function::{Key, Mask, With},
    json::{self, DEPTH_MAX, Path, Step},
};

/// Longest text, number or name of a member.
pub const SCALAR_BYTES_MAX: usize = 4 << 20;
/// How often a document may stand within a text of another.
const NESTED_MAX: usize = 4;
/// What of a name is looked at together with its value.
const NAME_BYTES_MAX: usize = 128;

/// Values at a path, and what stands for them.
#[derive(Debug, Clone)]
pub struct Rule {
    pub path: Path,
    pub class: Arc<str>,
    pub mask: Mask,
}

/// What of a document or a text may not be seen.
#[derive(Debug, Clone, Default)]
pub struct Hidden {
    rules: Vec<Rule>,
    scanner: Option<Scanner>,
    kinds: BTreeMap<Kind, Arc<str>>,
    key: Option<Key>,
}

impl Hidden {
    /// `kinds`: what is looked for by content, with its class.
    #[must_use]
    pub fn new(rules: Vec<Rule>, kinds: BTreeMap<Kind, Arc<str>>, key: Option<Key>) -> Self {
        let all: Vec<Kind> = kinds.keys().copied().collect();
        let scanner = (!all.is_empty()).then(|| Scanner::new(&all, Vec::new()));
        Self { rules, scanner, kinds, key }
    }
    /// Nothing is hidden.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.scanner.is_none()
    }
    /// Some values are known by their place in a document.
    #[must_use]
    pub fn has_paths(&self) -> bool {
        !self.rules.is_empty()
    }
    #[must_use]
    pub fn scanner(&self) -> Option<&Scanner> {
        self.scanner.as_ref()
    }
    /// The class of what was found by content.
    #[must_use]
    pub fn class_of(&self, found: &str) -> Option<&Arc<str>> {
        Kind::parse(found).and_then(|kind| self.kinds.get(&kind))
    }
    /// Classes of which something is hidden, each once.
    #[must_use]
    pub fn classes(&self) -> Vec<Arc<str>> {
        let by_path = self.rules.iter().map(|rule| rule.class.clone());
        let mut all: Vec<_> = by_path.chain(self.kinds.values().cloned()).collect();
        all.sort();
        all.dedup();
        all
    }

    /// What is hidden, for a person: `pii.ssn at $..ssn`, `pii.contact where it looks like email`.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let placed = self.rules.iter().map(|rule| format!("{} at {}", rule.class, rule.path));
        let found = self.kinds.iter();
        let found =
            found.map(|(kind, class)| format!("{class} where it looks like {}", kind.as_str()));
        placed.chain(found).collect()
    }

    /// A text with what is found in it masked; none where nothing is. `name`: what it is the value
    /// of, which helps to tell what it is.
    #[must_use]
    pub fn text(&self, name: &str, text: &str, counts: &mut Counts) -> Option<String> {
        let scanner = self.scanner.as_ref()?;
        let cut = name.len().saturating_sub(NAME_BYTES_MAX);
        let name = name.get(cut..).unwrap_or_default();
        let mut whole = String::with_capacity(name.len() + 2 + text.len());
        if !name.is_empty() {
            whole.push_str(name);
            whole.push_str(": ");
        }
        let from = whole.len();
        whole.push_str(text);
        let (mut out, mut at) = (String::new(), from);
        for finding in scanner.scan(whole.as_bytes()) {
            if finding.end <= at {
                continue;
            }
            let kept = whole.get(at..finding.start.max(at));
            // A finding within a letter: the detectors look at bytes.
            let Some(kept) = kept else { return Some(self.whole(&finding.what, counts)) };
            out.push_str(kept);
            out.push_str(&self.whole(&finding.what, counts));
            at = finding.end;
        }
        if at == from {
            return None;
        }
        match whole.get(at..) {
            Some(rest) => out.push_str(rest),
            None => out.push_str("[masked]"),
        }
        Some(out)
    }

    fn whole(&self, what: &What, counts: &mut Counts) -> String {
        if let Some(class) = self.class_of(what.as_str()) {
            *counts.entry(class.clone()).or_default() += 1;
        }
        format!("[{}]", what.as_str())
    }
}

/// How many values of which class were masked.
pub type Counts = BTreeMap<Arc<str>, u64>;

/// Why a text is not masked, but withheld.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("it is no JSON")]
    Malformed,
    #[error("it nests deeper than {DEPTH_MAX} levels")]
    Deep,
    #[error("it has a text of more than {SCALAR_BYTES_MAX} bytes")]
    Long,
}

/// How far into each path a value is: the rule, and the step that comes next.
type Heads = Vec<(usize, usize)>;

#[derive(Debug)]
struct Frame {
    object: bool,
    heads: Heads,
    /// The member that is being read; in an array the name of the array.
    name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Value,
    /// Behind `[`: a value or the end.
    FirstItem,
    /// Behind `{`: a name or the end.
    FirstName,
    Name,
    Colon,
    After,
    /// Behind the whole document.
    Done,
    Text {
        name: bool,
        escaped: bool,
    },
    /// A number or a word.
    Word,
}

/// One document under way.
#[derive(Debug)]
pub struct Document {
    hidden: Arc<Hidden>,
    /// The heads of the whole document.
    root: Heads,
    heads: Heads,
    stack: Vec<Frame>,
    at: At,
    token: Vec<u8>,
    /// The level at which a value is masked with all that is in it.
    quiet: Option<usize>,
    /// Documents one after the other (NDJSON, RFC 7464).
    many: bool,
    nested: usize,
    counts: Counts,
}

impl Document {
    #[must_use]
    pub fn new(hidden: Arc<Hidden>) -> Self {
        let root = (0..hidden.rules.len()).map(|rule| (rule, 0)).collect();
        Self::within(hidden, root, 0)
    }
    /// Documents one after the other.
    #[must_use]
    pub fn sequence(hidden: Arc<Hidden>) -> Self {
        Self { many: true, ..Self::new(hidden) }
    }
    fn within(hidden: Arc<Hidden>, root: Heads, nested: usize) -> Self {
        Self {
            hidden,
            heads: root.clone(),
            root,
            stack: Vec::new(),
            at: At::Value,
            token: Vec::new(),
            quiet: None,
            many: false,
            nested,
            counts: Counts::new(),
        }
    }

    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
    /// Bytes that are held back.
    #[must_use]
    pub fn held(&self) -> usize {
        self.token.len()
    }

    /// Takes a piece, and appends to `out` what may go on.
    ///
    /// # Errors
    /// It is no JSON, or beyond a limit. Nothing more may be pushed then.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), DocumentError> {
        let mut at = 0;
        while let Some(byte) = piece.get(at).copied() {
            let rest = piece.get(at..).unwrap_or_default();
            match self.at {
                At::Text { name, escaped } => at += self.text(rest, name, escaped, out)?,
                At::Word => at += self.word(rest, out)?,
                _ => {
                    self.mark(byte, out)?;
                    at += 1;
                }
            }
        }
        Ok(())
    }

    /// The document has ended.
    ///
    /// # Errors
    /// It has not.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), DocumentError> {
        if self.at == At::Word && self.stack.is_empty() {
            self.scalar(out)?;
        }
        let none = self.many && self.at == At::Value && self.stack.is_empty();
        if self.at == At::Done || none { Ok(()) } else { Err(DocumentError::Malformed) }
    }

    fn give(&self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.quiet.is_none() {
            out.extend_from_slice(bytes);
        }
    }

    /// One byte between texts and words.
    fn mark(&mut self, byte: u8, out: &mut Vec<u8>) -> Result<(), DocumentError> {
        let record = byte == 0x1e && self.many && self.stack.is_empty();
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') || record {
            self.give(&[byte], out);
            return Ok(());
        }
        if self.at == At::Done && self.many {
            self.at = At::Value;
            self.heads.clone_from(&self.root);
        }
        match (self.at, byte) {
            (At::FirstItem, b']') => self.close(byte, out),
            (At::Value | At::FirstItem, _) => self.begin(byte, out),
            (At::FirstName, b'}') => self.close(byte, out),
            (At::FirstName | At::Name, b'"') => {
                self.token.push(byte);
                self.at = At::Text { name: true, escaped: false };
                Ok(())
            }
            (At::Colon, b':') => {
                self.give(&[byte], out);
                self.at = At::Value;
                Ok(())
            }
            (At::After, b',') => {
                self.give(&[byte], out);
                let Some(frame) = self.stack.last() else { return Err(DocumentError::Malformed) };
                self.at = if frame.object { At::Name } else { At::Value };
                if !frame.object {
                    self.heads = self.onward(&frame.heads, None);
                }
                Ok(())
            }
            (At::After, b'}' | b']') => self.close(byte, out),
            _ => Err(DocumentError::Malformed),
        }
    }

    fn begin(&mut self, byte: u8, out: &mut Vec<u8>) -> Result<(), DocumentError> {
        match byte {
            b'{' | b'[' => {}
            b'"' => {
                self.token.push(byte);
                self.at = At::Text { name: false, escaped: false };
                return Ok(());
            }
            b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
                self.token.push(byte);
                self.at = At::Word;
                return Ok(());
            }
            _ => return Err(DocumentError::Malformed),
        }
        if self.stack.len() >= DEPTH_MAX {
            return Err(DocumentError::Deep);
        }
        let heads = std::mem::take(&mut self.heads);
        if let Some(rule) = self.complete(&heads)
            && self.quiet.is_none()
        {
            let masked = self.masked(rule, "{}");
            out.extend_from_slice(masked.as_bytes());
            self.quiet = Some(self.stack.len());
        }
        self.give(&[byte], out);
        let object = byte == b'{';
        self.at = if object { At::FirstName } else { At::FirstItem };
        let heads = if self.quiet.is_some() { Heads::new() } else { heads };
        if !object {
            self.heads = self.onward(&heads, None);
        }
        let name = self.stack.last().map(|frame| frame.name.clone()).unwrap_or_default();
        self.stack.push(Frame { object, heads, name });
        Ok(())
    }

    fn close(&mut self, byte: u8, out: &mut Vec<u8>) -> Result<(), DocumentError> {
        let frame = self.stack.pop().ok_or(DocumentError::Malformed)?;
        if frame.object != (byte == b'}') {
            return Err(DocumentError::Malformed);
        }
        self.give(&[byte], out);
        if self.quiet.is_some_and(|level| level == self.stack.len()) {
            self.quiet = None;
        }
        self.ended();
        Ok(())
    }

    fn ended(&mut self) {
        self.at = if self.stack.is_empty() { At::Done } else { At::After };
    }

    /// Reads on in a text. How many bytes were taken.
    fn text(
        &mut self,
        rest: &[u8],
        name: bool,
        escaped: bool,
        out: &mut Vec<u8>,
    ) -> Result<usize, DocumentError> {
        if escaped {
            self.token.extend_from_slice(rest.get(..1).unwrap_or_default());
            self.at = At::Text { name, escaped: false };
            return Ok(1);
        }
        let special = |byte: &u8| *byte == b'"' || *byte == b'\\' || *byte < 0x20;
        let found = rest.iter().position(special);
        let plain = rest.get(..found.unwrap_or(rest.len())).unwrap_or_default();
        if self.token.len() + plain.len() > SCALAR_BYTES_MAX {
            return Err(DocumentError::Long);
        }
        self.token.extend_from_slice(plain);
        let Some(end) = found else { return Ok(rest.len()) };
        match rest.get(end) {
            Some(b'"') => {
                self.token.push(b'"');
                if name { self.named(out)? } else { self.scalar(out)? }
            }
            Some(b'\\') => {
                self.token.push(b'\\');
                self.at = At::Text { name, escaped: true };
            }
            _ => return Err(DocumentError::Malformed),
        }
        Ok(end + 1)
    }

    /// Reads on in a number or a word. How many bytes were taken.
    fn word(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Result<usize, DocumentError> {
        let within = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        let end = rest.iter().position(|byte| !within(byte));
        self.token.extend_from_slice(rest.get(..end.unwrap_or(rest.len())).unwrap_or_default());
        if self.token.len() > SCALAR_BYTES_MAX {
            return Err(DocumentError::Long);
        }
        if end.is_some() {
            self.scalar(out)?;
        }
        Ok(end.unwrap_or(rest.len()))
    }

    /// A name of a member is whole.
    fn named(&mut self, out: &mut Vec<u8>) -> Result<(), DocumentError> {
        let token = std::mem::take(&mut self.token);
        let raw = std::str::from_utf8(&token).map_err(|_| DocumentError::Malformed)?;
        let name = unquoted(raw)?;
        match self.hidden.text("", &name, &mut self.counts).filter(|_| self.quiet.is_none()) {
            Some(masked) => self.give(json::quoted(&masked).as_bytes(), out),
            None => self.give(&token, out),
        }
        let frame = self.stack.last().ok_or(DocumentError::Malformed)?;
        self.heads = self.onward(&frame.heads, Some(&name));
        if let Some(frame) = self.stack.last_mut() {
            frame.name = name;
        }
        self.at = At::Colon;
        Ok(())
    }

    /// A text, a number or a word is whole.
    fn scalar(&mut self, out: &mut Vec<u8>) -> Result<(), DocumentError> {
        let token = std::mem::take(&mut self.token);
        let raw = std::str::from_utf8(&token).map_err(|_| DocumentError::Malformed)?;
        let text = if raw.starts_with('"') { Some(unquoted(raw)?) } else { None };
        if text.is_none() && !is_word(raw) {
            return Err(DocumentError::Malformed);
        }
        let heads = std::mem::take(&mut self.heads);
        let shown = if self.quiet.is_some() {
            None
        } else if let Some(rule) = self.complete(&heads) {
            Some(self.masked(rule, raw))
        } else if let Some(text) = text {
            self.inner(&text, heads)
        } else {
            self.number(raw)
        };
        match shown {
            Some(masked) => self.give(masked.as_bytes(), out),
            None => self.give(&token, out),
        }
        self.ended();
        Ok(())
    }

    /// A text that no path names: a document of its own, or looked at by content.
    fn inner(&mut self, text: &str, heads: Heads) -> Option<String> {
        let deep = |(rule, step): &(usize, usize)| {
            let path = self.hidden.rules.get(*rule).map(|rule| rule.path.steps());
            path.and_then(|steps| steps.get(*step)) == Some(&Step::Deep)
        };
        let document = text.trim_start().starts_with(['{', '[']);
        if document && self.nested < NESTED_MAX && heads.iter().any(deep) {
            let heads = heads.into_iter().filter(deep).collect();
            let mut inner = Self::within(self.hidden.clone(), heads, self.nested + 1);
            let mut out = Vec::new();
            let read = inner.push(text.as_bytes(), &mut out);
            if read.and_then(|()| inner.finish(&mut out)).is_ok() {
                for (class, count) in inner.counts {
                    *self.counts.entry(class).or_default() += count;
                }
                let out = String::from_utf8(out).ok()?;
                return (out != text).then(|| json::quoted(&out));
            }
        }
        let name = self.stack.last().map(|frame| frame.name.as_str()).unwrap_or_default();
        let masked = self.hidden.text(name, text, &mut self.counts)?;
        Some(json::quoted(&masked))
    }

    /// A number that is more than a number is null: its type cannot say what it was.
    fn number(&mut self, raw: &str) -> Option<String> {
        self.hidden.scanner.as_ref()?;
        if !raw.bytes().any(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let name = self.stack.last().map(|frame| frame.name.as_str()).unwrap_or_default();
        let whole = raw.contains(['e', 'E', '.']).then(|| raw.parse::<f64>().ok()).flatten();
        // Another spelling of the same number: 4.1e15, 4100000000000000.0.
        let plain = whole.filter(|n| n.is_finite() && n.abs() < 1e24).map(|n| format!("{n:.0}"));
        let spellings = [Some(raw.to_owned()), plain];
        let found = spellings
            .into_iter()
            .flatten()
            .any(|text| self.hidden.text(name, &text, &mut self.counts).is_some());
        found.then(|| "null".to_owned())
    }

    /// The rule whose path ends here, if one does.
    fn complete(&self, heads: &Heads) -> Option<usize> {
        let ends = |(rule, step): &&(usize, usize)| {
            self.hidden.rules.get(*rule).is_some_and(|rule| rule.path.steps().len() == *step)
        };
        heads.iter().find(ends).map(|(rule, _)| *rule)
    }

    fn masked(&mut self, rule: usize, raw: &str) -> String {
        let Some(rule) = self.hidden.rules.get(rule) else { return "null".to_owned() };
        *self.counts.entry(rule.class.clone()).or_default() += 1;
        let key = self.hidden.key.as_ref();
        json::scalar(&rule.mask, raw, &With { class: &rule.class, key, subject: None })
    }

    /// The paths that lead on: through the member `name`, or through an element. What may lie at
    /// any depth leads on always.
    fn onward(&self, heads: &Heads, name: Option<&str>) -> Heads {
        let fits = |step: &Step| match (step, name) {
            (Step::Key(own), Some(name)) => own == name,
            (Step::Any, Some(_)) | (Step::Each, None) => true,
            _ => false,
        };
        let mut out = Heads::new();
        for (rule, step) in heads {
            let Some(steps) = self.hidden.rules.get(*rule).map(|rule| rule.path.steps()) else {
                continue;
            };
            match steps.get(*step) {
                Some(Step::Deep) => {
                    out.push((*rule, *step));
                    if steps.get(step + 1).is_some_and(&fits) {
                        out.push((*rule, step + 2));
                    }
                }
                Some(next) if fits(next) => out.push((*rule, step + 1)),
                _ => {}
            }
        }
        out.sort_unstable();
        out.dedup();
        out
    }
}

/// What a text between quotation marks means. Half a pair of surrogates means no character.
fn unquoted(raw: &str) -> Result<String, DocumentError> {
    let inner = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
    let inner = inner.ok_or(DocumentError::Malformed)?;
    json::unescape_any(inner).ok_or(DocumentError::Malformed)
}

/// A number or a word of RFC 8259.
fn is_word(raw: &str) -> bool {
    if ["true", "false", "null"].contains(&raw) {
        return true;
    }
    let rest = raw.strip_prefix('-').unwrap_or(raw);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (number, exponent) = match rest.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, Some(exponent)),
        None => (rest, None),
    };
    let (whole, part) = match number.split_once('.') {
        Some((whole, part)) => (whole, Some(part)),
        None => (number, None),
    };
    let signed = |text: &str| digits(text.strip_prefix(['+', '-']).unwrap_or(text));
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && part.is_none_or(digits)
        && exponent.is_none_or(signed)
}

#[cfg(test)]
mod tests;
