//! GraphQL documents, as far as policy needs them: which operation, which fields. Pure.
//!
//! Grammar: GraphQL, October 2021, sections 2 and 3. Values are read over, selections are kept.

use std::collections::{BTreeMap, BTreeSet};

use crate::wire::{Fault, bad};

/// Most tokens of one document.
const TOKENS_MAX: usize = 20_000;
/// Deepest nesting of selections and values.
const DEPTH_MAX: usize = 64;
/// Most fields that one operation may name, fragments spread out.
const FIELDS_MAX: usize = 5_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Query,
    Mutation,
    Subscription,
}

/// What a document asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub kind: Kind,
    pub name: Option<String>,
    /// `Query.orders`, and the paths below it: `items.price`.
    pub fields: Vec<(String, Vec<String>)>,
}

const MALFORMED: Fault = bad("the GraphQL document cannot be read");

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Name(String),
    /// A string or a number.
    Value,
    Spread,
    Mark(u8),
}

fn tokens(text: &str) -> Result<Vec<Token>, Fault> {
    let bytes = text.as_bytes();
    let (mut at, mut out) = (0, Vec::new());
    while let Some(byte) = bytes.get(at).copied() {
        let rest = bytes.get(at..).unwrap_or_default();
        let run = |is: fn(&u8) -> bool| rest.iter().take_while(|byte| is(byte)).count();
        at += match byte {
            b' ' | b'\t' | b'\r' | b'\n' | b',' => 1,
            b'#' => rest.iter().take_while(|byte| **byte != b'\n' && **byte != b'\r').count(),
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                let n = run(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
                out.push(Token::Name(text.get(at..at + n).unwrap_or_default().to_owned()));
                n
            }
            b'0'..=b'9' | b'-' => {
                out.push(Token::Value);
                run(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
            }
            b'"' => {
                out.push(Token::Value);
                string(rest)?
            }
            b'.' if rest.starts_with(b"...") => {
                out.push(Token::Spread);
                3
            }
            b'!' | b'$' | b'&' | b'(' | b')' | b':' | b'=' | b'@' | b'[' | b']' | b'{' | b'|'
            | b'}' => {
                out.push(Token::Mark(byte));
                1
            }
            _ => return Err(MALFORMED),
        };
        if out.len() > TOKENS_MAX {
            return Err(bad("the GraphQL document is too long"));
        }
    }
    Ok(out)
}

/// Length of a string or block string, its quotes included.
fn string(rest: &[u8]) -> Result<usize, Fault> {
    if rest.starts_with(b"\"\"\"") {
        let mut at = 3;
        while at < rest.len() {
            let here = rest.get(at..).unwrap_or_default();
            if here.starts_with(b"\\\"\"\"") {
                at += 4;
            } else if here.starts_with(b"\"\"\"") {
                return Ok(at + 3);
            } else {
                at += 1;
            }
        }
        return Err(MALFORMED);
    }
    let mut at = 1;
    loop {
        match rest.get(at) {
            None | Some(b'\n' | b'\r') => return Err(MALFORMED),
            Some(b'\\') => at += 2,
            Some(b'"') => return Ok(at + 1),
            Some(_) => at += 1,
        }
    }
}

#[derive(Debug, Clone)]
enum Selection {
    Field { name: String, below: Vec<Selection> },
    Inline(Vec<Selection>),
    Spread(String),
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
}

struct Operation {
    kind: Kind,
    name: Option<String>,
    selections: Vec<Selection>,
}

impl Parser {
    fn is(&mut self, mark: u8) -> bool {
        self.tokens.peek() == Some(&Token::Mark(mark))
    }
    fn takes(&mut self, mark: u8) -> bool {
        self.tokens.next_if(|token| *token == Token::Mark(mark)).is_some()
    }
    fn want(&mut self, mark: u8) -> Result<(), Fault> {
        if self.takes(mark) { Ok(()) } else { Err(MALFORMED) }
    }
    fn name(&mut self) -> Result<String, Fault> {
        match self.tokens.next() {
            Some(Token::Name(name)) => Ok(name),
            _ => Err(MALFORMED),
        }
    }

    /// Reads over what stands between two marks, both included.
    fn over(&mut self, open: u8, close: u8) -> Result<(), Fault> {
        self.want(open)?;
        let mut closes = vec![close];
        while let Some(last) = closes.last().copied() {
            match self.tokens.next().ok_or(MALFORMED)? {
                Token::Mark(b'(') => closes.push(b')'),
                Token::Mark(b'[') => closes.push(b']'),
                Token::Mark(b'{') => closes.push(b'}'),
                Token::Mark(mark) if mark == last => {
                    closes.pop();
                }
                Token::Mark(b')' | b']' | b'}') => return Err(MALFORMED),
                _ => {}
            }
            if closes.len() > DEPTH_MAX {
                return Err(bad("the GraphQL document is nested too deeply"));
            }
        }
        Ok(())
    }

    fn directives(&mut self) -> Result<(), Fault> {
        while self.takes(b'@') {
            self.name()?;
            if self.is(b'(') {
                self.over(b'(', b')')?;
            }
        }
        Ok(())
    }

    fn selections(&mut self, depth: usize) -> Result<Vec<Selection>, Fault> {
        if depth > DEPTH_MAX {
            return Err(bad("the GraphQL document is nested too deeply"));
        }
        self.want(b'{')?;
        let mut out = Vec::new();
        while !self.takes(b'}') {
            if self.tokens.next_if(|token| *token == Token::Spread).is_some() {
                match self.tokens.next_if(|token| matches!(token, Token::Name(_))) {
                    Some(Token::Name(name)) if name != "on" => {
                        self.directives()?;
                        out.push(Selection::Spread(name));
                        continue;
                    }
                    Some(_) => {
                        self.name()?;
                    }
                    None => {}
                }
                self.directives()?;
                out.push(Selection::Inline(self.selections(depth + 1)?));
                continue;
            }
            let mut name = self.name()?;
            if self.takes(b':') {
                // The first was an alias: what is reached is named by the second.
                name = self.name()?;
            }
            if self.is(b'(') {
                self.over(b'(', b')')?;
            }
            self.directives()?;
            let below = if self.is(b'{') { self.selections(depth + 1)? } else { Vec::new() };
            out.push(Selection::Field { name, below });
        }
        if out.is_empty() { Err(MALFORMED) } else { Ok(out) }
    }

    fn operation(&mut self, kind: Kind) -> Result<Operation, Fault> {
        let named = self.tokens.next_if(|token| matches!(token, Token::Name(_)));
        let name =
            named.and_then(|token| if let Token::Name(name) = token { Some(name) } else { None });
        if self.is(b'(') {
            self.over(b'(', b')')?;
        }
        self.directives()?;
        Ok(Operation { kind, name, selections: self.selections(0)? })
    }
}

/// Spreads selections out into fields.
struct Spreader<'a> {
    fragments: &'a BTreeMap<String, Vec<Selection>>,
    inside: Vec<&'a str>,
    left: usize,
}

impl<'a> Spreader<'a> {
    fn walk(
        &mut self,
        selections: &'a [Selection],
        prefix: &str,
        out: &mut BTreeSet<String>,
    ) -> Result<(), Fault> {
        for selection in selections {
            self.left =
                self.left.checked_sub(1).ok_or(bad("the GraphQL document names too much"))?;
            match selection {
                Selection::Field { name, below } => {
                    let path =
                        if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                    self.walk(below, &path, out)?;
                    out.insert(path);
                }
                Selection::Inline(below) => self.walk(below, prefix, out)?,
                Selection::Spread(name) => {
                    let below = self.fragments.get(name).ok_or(MALFORMED)?;
                    if self.inside.contains(&name.as_str()) || self.inside.len() > DEPTH_MAX {
                        return Err(MALFORMED);
                    }
                    self.inside.push(name);
                    self.walk(below, prefix, out)?;
                    self.inside.pop();
                }
            }
        }
        Ok(())
    }
}

/// Whether any field of a document is asked for under another name. What cannot be read is.
pub fn has_aliases(text: &str) -> bool {
    let Ok(tokens) = tokens(text) else { return true };
    let mut depth = 0_usize;
    tokens.windows(2).any(|pair| {
        match pair {
            // Between these stand arguments and variables, whose names end in a colon too.
            [Token::Mark(b'('), _] => depth += 1,
            [Token::Mark(b')'), _] => depth = depth.saturating_sub(1),
            [Token::Name(_), Token::Mark(b':')] => return depth == 0,
            _ => {}
        }
        false
    })
}

/// Reads a document and the operation of it that will run.
pub fn read(text: &str, wanted: Option<&str>) -> Result<Read, Fault> {
    let mut parser = Parser { tokens: tokens(text)?.into_iter().peekable() };
    let (mut operations, mut fragments) = (Vec::new(), BTreeMap::new());
    while parser.tokens.peek().is_some() {
        if parser.is(b'{') {
            let selections = parser.selections(0)?;
            operations.push(Operation { kind: Kind::Query, name: None, selections });
            continue;
        }
        match parser.name()?.as_str() {
            "query" => operations.push(parser.operation(Kind::Query)?),
            "mutation" => operations.push(parser.operation(Kind::Mutation)?),
            "subscription" => operations.push(parser.operation(Kind::Subscription)?),
            "fragment" => {
                let name = parser.name()?;
                if name == "on" || parser.name()? != "on" {
                    return Err(MALFORMED);
                }
                parser.name()?;
                parser.directives()?;
                let selections = parser.selections(0)?;
                if fragments.insert(name, selections).is_some() {
                    return Err(MALFORMED);
                }
            }
            _ => return Err(MALFORMED),
        }
    }
    let mut names = BTreeSet::new();
    if operations.iter().any(|operation| !names.insert(operation.name.clone())) {
        return Err(MALFORMED);
    }
    let chosen = match (wanted, &operations[..]) {
        (None, [one]) => one,
        (None, _) => return Err(bad("the GraphQL request does not say which operation runs")),
        (Some(name), all) => all
            .iter()
            .find(|operation| operation.name.as_deref() == Some(name))
            .ok_or(bad("the GraphQL document has no such operation"))?,
    };
    let root = match chosen.kind {
        Kind::Query => "Query",
        Kind::Mutation => "Mutation",
        Kind::Subscription => "Subscription",
    };
    let mut paths = BTreeSet::new();
    let mut spreader = Spreader { fragments: &fragments, inside: Vec::new(), left: FIELDS_MAX };
    spreader.walk(&chosen.selections, "", &mut paths)?;
    let mut fields: Vec<(String, Vec<String>)> = Vec::new();
    let mut order = Vec::new();
    roots(&chosen.selections, &fragments, &mut order);
    for name in order {
        let full = format!("{root}.{name}");
        if fields.iter().any(|(own, _)| *own == full) {
            continue;
        }
        let prefix = format!("{name}.");
        let below = paths.iter().filter_map(|path| path.strip_prefix(&prefix));
        fields.push((full, below.map(str::to_owned).collect()));
    }
    Ok(Read { kind: chosen.kind, name: chosen.name.clone(), fields })
}

/// The fields at the root, in their order. The walk has bounded them before.
fn roots(
    selections: &[Selection],
    fragments: &BTreeMap<String, Vec<Selection>>,
    out: &mut Vec<String>,
) {
    for selection in selections {
        match selection {
            Selection::Field { name, .. } => out.push(name.clone()),
            Selection::Inline(below) => roots(below, fragments, out),
            Selection::Spread(name) => {
                if let Some(below) = fragments.get(name) {
                    roots(below, fragments, out);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, wanted: Option<&str>, kind: Kind, expect: &[(&str, &[&str])]) {
        let read = read(text, wanted).unwrap_or_else(|fault| panic!("{text}: {fault}"));
        let got: Vec<(&str, Vec<&str>)> = read
            .fields
            .iter()
            .map(|(name, below)| (name.as_str(), below.iter().map(String::as_str).collect()))
            .collect();
        let expect: Vec<(&str, Vec<&str>)> = expect.iter().map(|(n, b)| (*n, b.to_vec())).collect();
        assert_eq!((read.kind, got), (kind, expect), "{text}");
    }

    #[test]
    fn fields_are_what_is_reached_not_what_it_is_called() {
        let q = Kind::Query;
        check("{ me { name } }", None, q, &[("Query.me", &["name"])]);
        check("{ innocent: salaries { ssn } }", None, q, &[("Query.salaries", &["ssn"])]);
        check(
            "query A($x: [Int!]! = [1]) @d(a: {b: 1}) { a(x: $x) b }",
            None,
            q,
            &[("Query.a", &[]), ("Query.b", &[])],
        );
        check(
            "{ ...F } fragment F on Query { a { ...G } } fragment G on A { b: c }",
            None,
            q,
            &[("Query.a", &["c"])],
        );
        check(
            "{ ... on Query { a } ... @include(if: true) { b } }",
            None,
            q,
            &[("Query.a", &[]), ("Query.b", &[])],
        );
        check("query A { a } mutation B { b }", Some("B"), Kind::Mutation, &[("Mutation.b", &[])]);
        check(
            "{ a(s: \"} mutation {\", t: \"\"\"} \\\"\"\" { x\"\"\") } # } { x",
            None,
            q,
            &[("Query.a", &[])],
        );
        check(
            "{ __schema { types { name } } }",
            None,
            q,
            &[("Query.__schema", &["types", "types.name"])],
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let deep = format!("{}a{}", "{a".repeat(100), "}".repeat(100));
        let cycle = "{ ...F } fragment F on Q { ...F }";
        let bomb: String = (0..20)
            .map(|i| format!("fragment F{i} on Q {{ ...F{} ...F{} }} ", i + 1, i + 1))
            .collect::<String>()
            + "fragment F20 on Q { a } { ...F0 }";
        for text in [
            "",
            "{",
            "{}",
            "{ a",
            "{ a } }",
            "query",
            "{ a(x: 1 }",
            "{ a(x: [1) }",
            "{ \"a\" }",
            "{ a } { b }",
            "query A { a } query A { b }",
            "{ ...F }",
            cycle,
            &deep,
            &bomb,
            "{ \u{e4} }",
            "type A { a: B }",
            "{ a(s: \"x\n\") }",
        ] {
            assert!(read(text, None).is_err(), "{text:.60}");
        }
        assert!(read("query A { a } query B { b }", None).is_err());
        assert!(read("query A { a }", Some("B")).is_err());
    }
}
