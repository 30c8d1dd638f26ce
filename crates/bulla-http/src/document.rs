//! A document that an operator hands over, in JSON or YAML, with one meaning. Pure.

use std::{collections::BTreeMap, fmt, rc::Rc};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::yaml;

/// Longest document.
pub const DOCUMENT_BYTES_MAX: usize = 32 << 20;
/// Most collections within each other, with aliases followed.
pub const DEPTH_MAX: usize = 128;

pub type Table = BTreeMap<Rc<str>, Node>;

/// A value, and where it stands.
#[derive(Debug, Clone)]
pub struct Node {
    /// From 1, of the key where it has one.
    pub line: usize,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub enum Value {
    Nothing,
    Text(Rc<str>),
    /// A number or a truth value of JSON.
    Other,
    List(Rc<[Node]>),
    Table(Rc<Table>),
}

impl Node {
    pub fn table(&self) -> Option<&Table> {
        if let Value::Table(members) = &self.value { Some(members) } else { None }
    }
    pub fn list(&self) -> Option<&[Node]> {
        if let Value::List(items) = &self.value { Some(items) } else { None }
    }
    pub fn text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }
    pub fn is_nothing(&self) -> bool {
        matches!(self.value, Value::Nothing)
    }
    /// What is wrong here, with its line.
    pub fn wrong(&self, words: impl fmt::Display) -> String {
        format!("line {}: {words}", self.line)
    }
}

/// Reads a document: JSON where it begins with `{`, else YAML.
///
/// # Errors
/// Each says where and what to do.
pub fn read(text: &str) -> Result<Node, String> {
    if text.len() > DOCUMENT_BYTES_MAX {
        return Err(format!("it is longer than {} MiB", DOCUMENT_BYTES_MAX >> 20));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('{') { json(text) } else { yaml::read(text) }
}

/// A reader of JSON bounds the depth itself, by as much.
fn json(text: &str) -> Result<Node, String> {
    let mut from = serde_json::Deserializer::from_str(text);
    let mut lines = Lines { rest: text.as_bytes(), line: 1 };
    let node = Reader(&mut lines).deserialize(&mut from);
    node.and_then(|node| from.end().map(|()| node)).map_err(|error| {
        let words = error.to_string();
        let (line, column) = (error.line(), error.column());
        let words = words.strip_suffix(&format!(" at line {line} column {column}"));
        let words = words.map_or_else(|| error.to_string(), str::to_owned);
        format!("line {line}: it begins as JSON does, but column {column} is not: {words}")
    })
}

/// The lines where values and keys of JSON begin, in their order. A reader tells no places, so this
/// goes beside one; what is no JSON that one refuses.
struct Lines<'a> {
    rest: &'a [u8],
    line: usize,
}

impl Lines<'_> {
    fn take(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        self.line += usize::from(*byte == b'\n');
        Some(*byte)
    }
    /// Of the next key or value, which is passed; of a collection its beginning.
    fn next(&mut self) -> usize {
        let between = |byte: u8| byte.is_ascii_whitespace() || b",:]}".contains(&byte);
        let mut first = self.take();
        while first.is_some_and(between) {
            first = self.take();
        }
        let line = self.line;
        match first {
            Some(b'"') => loop {
                match self.take() {
                    Some(b'\\') => drop(self.take()),
                    Some(b'"') | None => break,
                    Some(_) => {}
                }
            },
            Some(b'{' | b'[') | None => {}
            Some(_) => {
                while self.rest.first().is_some_and(|byte| !between(*byte)) {
                    self.take();
                }
            }
        }
        line
    }
}

struct Reader<'a, 'b>(&'a mut Lines<'b>);

impl<'de> DeserializeSeed<'de> for Reader<'_, '_> {
    type Value = Node;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Node, D::Error> {
        let line = self.0.next();
        from.deserialize_any(self).map(|value| Node { line, value })
    }
}

impl<'de> Visitor<'de> for Reader<'_, '_> {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Other)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Other)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Other)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Other)
    }
    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.into()))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nothing)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element_seed(Reader(self.0))? {
            items.push(item);
        }
        Ok(Value::List(items.into()))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut members = Table::new();
        while let Some(key) = from.next_key::<String>()? {
            if members.contains_key(key.as_str()) {
                return Err(A::Error::custom(format!("the key `{key}` stands twice; keep one")));
            }
            let line = self.0.next();
            let value = from.next_value_seed(Reader(self.0))?.value;
            members.insert(key.into(), Node { line, value });
        }
        Ok(Value::Table(members.into()))
    }
}

#[cfg(test)]
mod tests;
