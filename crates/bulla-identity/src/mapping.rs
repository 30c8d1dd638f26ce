//! From verified claims to a principal: templates, attributes and required claims.
//!
//! The rules are read once, at load; what a token may then do is only to fill them. A template is
//! unambiguous: a value that holds the character after its brace is refused, so that `{a}/{b}`
//! cannot become the same subject in two ways.

use std::{collections::BTreeMap, sync::Arc};

use bulla_core::Attribute;

use crate::{
    config::{AttributeConfig, AttributeKind, RequiredClaim},
    error::{Refused, Word},
    json::{Json, Object},
};

/// Longest value that a claim may put into a template, in bytes.
pub const VALUE_BYTES_MAX: usize = 512;
/// Longest group or subject, in bytes.
pub const NAME_BYTES_MAX: usize = 512;
/// Most groups of one principal.
pub const GROUPS_MAX: usize = 256;
/// Most items of one attribute of kind set.
pub const SET_ITEMS_MAX: usize = 256;
/// Longest text of an attribute, in bytes.
pub const TEXT_BYTES_MAX: usize = 2_048;
/// Deepest claim path.
pub const PATH_SEGMENTS_MAX: usize = 8;
/// Most templates, attributes or required claims of one issuer.
pub const RULES_MAX: usize = 64;

/// Where a claim is found. `/` goes one object down; in a name `~1` stands for `/` and `~0` for `~`
/// (RFC 6901), as in `https:~1~1sts.amazonaws.com~1/aws_account`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClaimPath {
    segments: Vec<String>,
    written: Arc<str>,
}

impl ClaimPath {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a claim has no name".into());
        }
        if text.chars().any(|c| c.is_control() || c == '{' || c == '}') {
            return Err(format!("`{}` is not the name of a claim", text.escape_debug()));
        }
        let segments = text.split('/').map(unescape).collect::<Result<Vec<_>, _>>()?;
        if segments.len() > PATH_SEGMENTS_MAX {
            return Err(format!("`{text}` is deeper than {PATH_SEGMENTS_MAX} names"));
        }
        Ok(Self { segments, written: text.into() })
    }

    pub(crate) fn root(&self) -> &str {
        self.segments.first().map_or("", String::as_str)
    }

    /// As it is written.
    pub(crate) fn whole(&self) -> &str {
        &self.written
    }

    fn find<'a>(&self, claims: &'a Object) -> Option<&'a Json> {
        let (last, parents) = self.segments.split_last()?;
        let mut object = claims;
        for name in parents {
            match object.get(name)? {
                Json::Object(inner) => object = inner,
                _ => return None,
            }
        }
        object.get(last)
    }
}

fn unescape(segment: &str) -> Result<String, String> {
    if segment.is_empty() {
        return Err("a claim path has an empty name (write `~1` for a `/` inside a name)".into());
    }
    let mut out = String::new();
    let mut chars = segment.chars();
    while let Some(c) = chars.next() {
        match c {
            '~' => match chars.next() {
                Some('0') => out.push('~'),
                Some('1') => out.push('/'),
                _ => return Err(format!("`{segment}`: after `~` only `0` and `1` may follow")),
            },
            c => out.push(c),
        }
    }
    Ok(out)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Claim(ClaimPath),
}

/// Text with claims in braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
    written: Arc<str>,
}

impl Template {
    /// Refused: no claim at all, an open or stray brace, an empty name, two claims with nothing
    /// between them, control characters and `|`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > NAME_BYTES_MAX {
            return Err(format!("a template is longer than {NAME_BYTES_MAX} bytes"));
        }
        if text.chars().any(is_unsafe) {
            return Err(format!("`{}` holds a character that is not allowed", text.escape_debug()));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (before, after) = match rest.split_once('{') {
                Some((before, after)) => (before, Some(after)),
                None => (rest, None),
            };
            if before.contains('}') {
                return Err(format!("`{text}` closes a brace that is not open"));
            }
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let Some(after) = after else { break };
            let Some((name, tail)) = after.split_once('}') else {
                return Err(format!("`{text}` never closes a brace"));
            };
            if matches!(parts.last(), Some(Part::Claim(_))) {
                return Err(format!("`{text}` has two claims with nothing between them"));
            }
            parts.push(Part::Claim(ClaimPath::parse(name)?));
            rest = tail;
        }
        let template = Self { parts, written: text.into() };
        if template.claims().next().is_none() {
            return Err(format!("`{text}` reads no claim: it would be the same for everybody"));
        }
        Ok(template)
    }

    pub(crate) fn claims(&self) -> impl Iterator<Item = &ClaimPath> {
        self.parts.iter().filter_map(|part| match part {
            Part::Claim(path) => Some(path),
            Part::Text(_) => None,
        })
    }

    /// The one value; a missing claim or an array is a refusal.
    pub(crate) fn one(&self, claims: &Object) -> Result<String, Refused> {
        match self.expand(claims)? {
            None => Err(Refused::claim(Word::MissingClaim, "the subject needs", &self.written)),
            Some(Expanded::One(value)) => Ok(value),
            Some(Expanded::Many(_)) => Err(self.wrong("the subject may not be a list")),
        }
    }

    /// A value, several for an array claim, or none where a claim is missing.
    pub(crate) fn many(&self, claims: &Object) -> Result<Vec<String>, Refused> {
        Ok(match self.expand(claims)? {
            None => Vec::new(),
            Some(Expanded::One(value)) => vec![value],
            Some(Expanded::Many(values)) => values,
        })
    }

    fn wrong(&self, why: &'static str) -> Refused {
        Refused::claim(Word::ClaimNotAllowed, why, &self.written)
    }

    fn expand(&self, claims: &Object) -> Result<Option<Expanded>, Refused> {
        // One list at most: two would multiply.
        let mut outs = vec![String::new()];
        let mut list = false;
        for (i, part) in self.parts.iter().enumerate() {
            let path = match part {
                Part::Text(text) => {
                    outs.iter_mut().for_each(|out| out.push_str(text));
                    continue;
                }
                Part::Claim(path) => path,
            };
            let Some(found) = path.find(claims) else { return Ok(None) };
            let stop = match self.parts.get(i + 1) {
                Some(Part::Text(text)) => text.chars().next(),
                _ => None,
            };
            let values = match found {
                Json::Array(items) if list => {
                    let _ = items;
                    return Err(self.wrong("two lists meet in"));
                }
                Json::Array(items) => {
                    list = true;
                    if items.len() > GROUPS_MAX {
                        return Err(self.wrong("too many items for"));
                    }
                    items.iter().map(|item| self.value(item, stop)).collect::<Result<_, _>>()?
                }
                single => vec![self.value(single, stop)?],
            };
            outs = outs.iter().flat_map(|out| values.iter().map(move |v| join(out, v))).collect();
        }
        if outs.iter().any(|out| out.len() > NAME_BYTES_MAX) {
            return Err(self.wrong("too long a value for"));
        }
        Ok(Some(if list {
            Expanded::Many(outs)
        } else {
            Expanded::One(outs.pop().unwrap_or_default())
        }))
    }

    fn value(&self, value: &Json, stop: Option<char>) -> Result<String, Refused> {
        let text = match value {
            Json::Text(text) => text.clone(),
            Json::Integer(number) => number.to_string(),
            Json::Null | Json::Bool(_) | Json::Float(_) | Json::Array(_) | Json::Object(_) => {
                return Err(self.wrong("neither text nor whole number for"));
            }
        };
        if text.is_empty() {
            return Err(self.wrong("an empty value for"));
        }
        if text.len() > VALUE_BYTES_MAX {
            return Err(self.wrong("too long a value for"));
        }
        if text.chars().any(|c| is_unsafe(c) || Some(c) == stop) {
            return Err(self.wrong("a character that is not allowed for"));
        }
        Ok(text)
    }
}

enum Expanded {
    One(String),
    Many(Vec<String>),
}

fn join(a: &str, b: &str) -> String {
    let mut out = String::with_capacity(a.len() + b.len());
    out.push_str(a);
    out.push_str(b);
    out
}

/// Control characters, `|` (which separates issuer and subject), and what changes or hides the text
/// around it on a screen.
pub(crate) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || c == '|'
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[derive(Debug, Clone)]
struct AttributeRule {
    name: Arc<str>,
    claim: ClaimPath,
    kind: AttributeKind,
}

#[derive(Debug, Clone)]
struct RequiredRule {
    claim: ClaimPath,
    values: Vec<Expect>,
}

#[derive(Debug, Clone)]
enum Expect {
    Exact(String),
    Prefix(String),
}

impl Expect {
    fn parse(text: &str) -> Result<Self, String> {
        let (body, glob) = match text.strip_suffix('*') {
            Some(body) => (body, true),
            None => (text, false),
        };
        if body.contains('*') {
            return Err(format!("`{text}`: `*` may only stand at the end"));
        }
        if body.is_empty() {
            return Err(format!("`{text}` would match anything or nothing: give no values"));
        }
        Ok(if glob { Self::Prefix(body.into()) } else { Self::Exact(body.into()) })
    }

    fn matches(&self, value: &Json) -> bool {
        let text = match value {
            Json::Text(text) => text.as_str().into(),
            Json::Integer(number) => std::borrow::Cow::Owned(number.to_string()),
            Json::Bool(flag) => flag.to_string().into(),
            Json::Null | Json::Float(_) | Json::Array(_) | Json::Object(_) => return false,
        };
        match self {
            Self::Exact(expect) => text == expect.as_str(),
            Self::Prefix(expect) => text.starts_with(expect.as_str()),
        }
    }
}

/// The rules of one issuer, read.
#[derive(Debug, Clone)]
pub(crate) struct Mapping {
    subject: Template,
    groups: Vec<Template>,
    attributes: Vec<AttributeRule>,
    required: Vec<RequiredRule>,
}

/// What the rules made of a token.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mapped {
    pub subject: String,
    pub groups: Vec<Arc<str>>,
    pub attributes: BTreeMap<Arc<str>, Attribute>,
}

impl Mapping {
    /// Reads the rules; `problem(key, what)` is called for every mistake.
    pub(crate) fn parse(
        subject: &str,
        groups: &[String],
        attributes: &[AttributeConfig],
        required: &[RequiredClaim],
        mut problem: impl FnMut(String, String),
    ) -> Option<Self> {
        let mut bad = false;
        let mut note = |key: String, what: String| {
            bad = true;
            problem(key, what);
        };
        let counts = [
            ("groups", groups.len()),
            ("attributes", attributes.len()),
            ("required", required.len()),
        ];
        for (key, count) in counts {
            if count > RULES_MAX {
                note(key.into(), format!("{count} rules; at most {RULES_MAX} are allowed"));
            }
        }
        let subject = match Template::parse(subject) {
            Ok(template) => Some(template),
            Err(what) => {
                note("subject".into(), what);
                None
            }
        };
        let mut group_rules = Vec::new();
        for (i, text) in groups.iter().enumerate() {
            match Template::parse(text) {
                Ok(template) => group_rules.push(template),
                Err(what) => note(format!("groups[{i}]"), what),
            }
        }
        let mut attribute_rules: Vec<AttributeRule> = Vec::new();
        for attribute in attributes {
            let key = format!("attributes.{}", attribute.name.escape_debug());
            if !is_identifier(&attribute.name) {
                note(key.clone(), "a name is a letter, then letters, digits and `_`".into());
            }
            if attribute_rules.iter().any(|rule| *rule.name == *attribute.name) {
                note(key.clone(), "the attribute is given twice".into());
            }
            match ClaimPath::parse(&attribute.claim) {
                Ok(claim) => attribute_rules.push(AttributeRule {
                    name: attribute.name.as_str().into(),
                    claim,
                    kind: attribute.kind,
                }),
                Err(what) => note(key, what),
            }
        }
        let mut required_rules = Vec::new();
        for (i, rule) in required.iter().enumerate() {
            let key = format!("required[{i}]");
            let mut values = Vec::new();
            for value in &rule.values {
                match Expect::parse(value) {
                    Ok(expect) => values.push(expect),
                    Err(what) => note(key.clone(), what),
                }
            }
            match ClaimPath::parse(&rule.claim) {
                Ok(claim) => required_rules.push(RequiredRule { claim, values }),
                Err(what) => note(key, what),
            }
        }
        if bad {
            return None;
        }
        Some(Self {
            subject: subject?,
            groups: group_rules,
            attributes: attribute_rules,
            required: required_rules,
        })
    }

    /// MUST be given verified claims only.
    pub(crate) fn apply(&self, claims: &Object) -> Result<Mapped, Refused> {
        for rule in &self.required {
            rule.check(claims)?;
        }
        let subject = self.subject.one(claims)?;
        let mut groups: Vec<Arc<str>> = Vec::new();
        for template in &self.groups {
            for group in template.many(claims)? {
                if !groups.iter().any(|have| **have == *group) {
                    groups.push(group.into());
                }
                if groups.len() > GROUPS_MAX {
                    return Err(Refused::new(Word::ClaimNotAllowed, "too many groups"));
                }
            }
        }
        let mut attributes = BTreeMap::new();
        for rule in &self.attributes {
            if let Some(value) = rule.claim.find(claims) {
                attributes.insert(rule.name.clone(), rule.read(value)?);
            }
        }
        Ok(Mapped { subject, groups, attributes })
    }
}

impl RequiredRule {
    fn check(&self, claims: &Object) -> Result<(), Refused> {
        let value = match self.claim.find(claims) {
            None | Some(Json::Null) => {
                return Err(Refused::claim(Word::MissingClaim, "required", &self.claim.written));
            }
            Some(value) => value,
        };
        let matches = |value: &Json| self.values.iter().any(|expect| expect.matches(value));
        let good = self.values.is_empty()
            || match value {
                Json::Array(items) => items.iter().any(matches),
                single => matches(single),
            };
        if good {
            Ok(())
        } else {
            let why = "not among the values that are accepted";
            Err(Refused::claim(Word::ClaimNotAllowed, why, &self.claim.written))
        }
    }
}

impl AttributeRule {
    fn read(&self, value: &Json) -> Result<Attribute, Refused> {
        let wrong = |why| Refused::claim(Word::ClaimNotAllowed, why, &self.claim.written);
        let text = |value: &Json| match value.text() {
            Some(text) if text.len() > TEXT_BYTES_MAX => Err(wrong("too long a value in")),
            Some(text) if text.chars().any(is_unsafe) => {
                Err(wrong("a character that is not allowed in"))
            }
            Some(text) => Ok(Arc::from(text)),
            None => Err(wrong("not a text in")),
        };
        Ok(match (self.kind, value) {
            (AttributeKind::Text, value) => Attribute::Text(text(value)?),
            (AttributeKind::Flag, Json::Bool(flag)) => Attribute::Flag(*flag),
            (AttributeKind::Flag, _) => return Err(wrong("neither true nor false in")),
            (AttributeKind::Number, Json::Integer(number)) => Attribute::Number(
                i64::try_from(*number).map_err(|_| wrong("a number out of range in"))?,
            ),
            (AttributeKind::Number, _) => return Err(wrong("not a whole number in")),
            (AttributeKind::Set, Json::Array(items)) if items.len() > SET_ITEMS_MAX => {
                return Err(wrong("too many items in"));
            }
            (AttributeKind::Set, Json::Array(items)) => {
                let mut set = items.iter().map(text).collect::<Result<Vec<_>, _>>()?;
                set.sort();
                set.dedup();
                Attribute::Set(set)
            }
            (AttributeKind::Set, single) => Attribute::Set(vec![text(single)?]),
        })
    }
}

fn is_identifier(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
