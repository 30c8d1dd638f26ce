//! YAML with one meaning. Pure.
//!
//! YAML 1.2.2 in its core schema, of which only two kinds of scalar matter here: nothing (`null`,
//! `~`, empty) and text. So `no`, `on`, `0755` and `1.10` are what is written. What readers of YAML
//! differ about is refused: tags, directives, merge keys, keys that stand twice or are no text, and
//! more than one document.
//!
//! An alias shares what its anchor names and copies nothing, so that a document of any shape costs
//! memory in proportion to its length; how deep it goes is bounded with aliases followed.

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use granit_parser::{Event, Parser, ScalarStyle, Span, options};

use crate::document::{DEPTH_MAX, Node, Table, Value};

/// Reads a text that holds one document.
///
/// # Errors
/// Each begins with its line.
pub fn read(text: &str) -> Result<Node, String> {
    let options = options! {
        disallow_directives: true,
        emit_comments: false,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    let mut loader = Loader::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| {
            let (line, column) = (error.marker().line(), error.marker().col() + 1);
            format!("line {line}: it is not YAML at column {column}: {}", error.info())
        })?;
        let line = span.start.line();
        loader.take(event, &span).map_err(|why| format!("line {line}: {why}"))?;
    }
    loader.root.ok_or_else(|| "it is empty".to_owned())
}

/// A node, with how many levels it has below it.
#[derive(Clone)]
struct Grown {
    node: Node,
    height: usize,
}

/// A collection that is not closed yet.
struct Open {
    line: usize,
    anchor: usize,
    height: usize,
    holds: Holds,
}

enum Holds {
    List(Vec<Node>),
    /// With the key whose value comes next, and its line.
    Table(Table, Option<(Rc<str>, usize)>),
}

#[derive(Default)]
struct Loader {
    documents: usize,
    open: Vec<Open>,
    anchors: HashMap<usize, Grown>,
    root: Option<Node>,
}

impl Loader {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), String> {
        let line = span.start.line();
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err("a second document begins; keep one in a file".into());
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                untagged(tag.is_some())?;
                self.scalar(&text, style == ScalarStyle::Plain, anchor, line)
            }
            Event::SequenceStart(_, anchor, tag) => {
                untagged(tag.is_some())?;
                self.begin(Holds::List(Vec::new()), anchor, line)
            }
            Event::MappingStart(_, anchor, tag) => {
                untagged(tag.is_some())?;
                self.begin(Holds::Table(BTreeMap::new(), None), anchor, line)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => {
                if self.wants_key() {
                    return Err("a key is an alias; write it out".into());
                }
                // An anchor is known once its node is closed: none stands within itself.
                let known = self.anchors.get(&anchor).cloned();
                let grown = known.ok_or("an alias stands within what it names; write it out")?;
                self.put(grown, 0)
            }
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            _ => Err("it holds what this gateway does not read".into()),
        }
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { holds: Holds::Table(_, None), .. }))
    }

    fn begin(&mut self, holds: Holds, anchor: usize, line: usize) -> Result<(), String> {
        if self.wants_key() {
            return Err("a key is no text; write it out as one".into());
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(too_deep());
        }
        self.open.push(Open { line, anchor, height: 0, holds });
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        let Some(Open { line, anchor, height, holds }) = self.open.pop() else {
            return Err("a collection ends that did not begin".into());
        };
        let value = match holds {
            Holds::List(items) => Value::List(items.into()),
            Holds::Table(members, _) => Value::Table(members.into()),
        };
        self.put(Grown { node: Node { line, value }, height: height + 1 }, anchor)
    }

    fn scalar(
        &mut self,
        text: &str,
        plain: bool,
        anchor: usize,
        line: usize,
    ) -> Result<(), String> {
        if let Some(Open { holds: Holds::Table(members, key @ None), .. }) = self.open.last_mut() {
            if anchor > 0 {
                return Err(format!("the key `{text}` has an anchor; take it out"));
            }
            if plain && text == "<<" {
                return Err("a merge key (`<<`), which YAML 1.2 does not know: write out what it \
                            brings in (`yq 'explode(.)'` does)"
                    .into());
            }
            if members.contains_key(text) {
                return Err(format!("the key `{text}` stands twice; keep one"));
            }
            *key = Some((text.into(), line));
            return Ok(());
        }
        let nothing = plain && matches!(text, "" | "~" | "null" | "Null" | "NULL");
        let value = if nothing { Value::Nothing } else { Value::Text(text.into()) };
        self.put(Grown { node: Node { line, value }, height: 0 }, anchor)
    }

    /// Puts a whole node where it belongs.
    fn put(&mut self, mut grown: Grown, anchor: usize) -> Result<(), String> {
        if self.open.len() + grown.height > DEPTH_MAX {
            return Err(too_deep());
        }
        if anchor > 0 {
            self.anchors.insert(anchor, grown.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(grown.node);
            return Ok(());
        };
        open.height = open.height.max(grown.height);
        match &mut open.holds {
            Holds::List(items) => items.push(grown.node),
            Holds::Table(members, key) => {
                let (key, line) = key.take().ok_or("a value without a key")?;
                // Where people look for it.
                grown.node.line = line;
                members.insert(key, grown.node);
            }
        }
        Ok(())
    }
}

fn untagged(tagged: bool) -> Result<(), String> {
    if tagged {
        Err("a tag (`!`), which OpenAPI does not know; take it out".into())
    } else {
        Ok(())
    }
}

fn too_deep() -> String {
    format!("it is nested deeper than {DEPTH_MAX} levels")
}
