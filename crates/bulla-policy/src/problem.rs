//! What is wrong with a bundle, and where.

use std::{fmt, sync::Arc};

use serde::Serialize;

/// One mistake. A bundle with any is refused whole; all of them are reported at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PolicyProblem {
    /// Empty when the mistake is in the configuration that the schema is made from.
    pub file: Arc<str>,
    /// Counted from 1; 0 when there is no place to point at.
    pub line: u32,
    /// In characters, counted from 1; 0 when there is no place to point at.
    pub column: u32,
    /// The policy's `@id`, if it has one.
    pub policy: Option<Arc<str>>,
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl PolicyProblem {
    /// A mistake of the configuration.
    pub(crate) fn configuration(message: impl Into<String>) -> Self {
        Self {
            file: "".into(),
            line: 0,
            column: 0,
            policy: None,
            message: message.into(),
            help: None,
        }
    }

    pub(crate) fn at(
        file: &Arc<str>,
        (line, column): (u32, u32),
        message: impl Into<String>,
    ) -> Self {
        Self { file: file.clone(), line, column, policy: None, message: message.into(), help: None }
    }

    pub(crate) fn of(mut self, policy: Option<&Arc<str>>) -> Self {
        self.policy = policy.cloned();
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// `policies/orders.cedar:12:3: unknown annotation @hodl, in policy `x` (known: ...)`, one line.
impl fmt::Display for PolicyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        } else if !self.file.is_empty() {
            write!(f, "{}: ", self.file)?;
        }
        f.write_str(&one_line(&self.message))?;
        if let Some(policy) = &self.policy {
            write!(f, ", in policy `{policy}`")?;
        }
        if let Some(help) = &self.help {
            write!(f, " ({})", one_line(help))?;
        }
        Ok(())
    }
}

/// Control characters of `text` escaped, so that nothing in a file can forge a line of output.
pub(crate) fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() => out.extend(c.escape_default()),
            // Bidirectional controls would let a text read otherwise than it is.
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                out.extend(c.escape_unicode());
            }
            c => out.push(c),
        }
    }
    out
}

/// A text whose places are looked up often.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    pub text: &'a str,
    /// Byte offsets at which lines begin.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let after = text.match_indices('\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(after).collect() }
    }

    /// Line and column, counted from 1, of byte `offset`.
    pub(crate) fn place(&self, offset: usize) -> (u32, u32) {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let end =
            (0..=offset.min(self.text.len())).rev().find(|at| self.text.is_char_boundary(*at));
        let before = self.text.get(start..end.unwrap_or(start)).unwrap_or_default();
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        (number(line), number(before.chars().count() + 1))
    }
}

/// The nearest of `names` to `wrong`, if one is near enough to be a slip of the hand.
pub(crate) fn nearest<'a>(
    wrong: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let limit = (wrong.chars().count() / 3).max(1);
    names
        .into_iter()
        .map(|name| (distance(wrong, name), name))
        .filter(|(steps, _)| *steps <= limit)
        .min()
        .map(|(_, name)| name)
}

/// Edits between two words: insert, delete, replace, swap neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(200).collect(), b.chars().collect());
    let mut older = vec![0; b.len() + 1];
    let mut old: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut new = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let cell = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX / 2);
            let replace = cell(&old, j) + usize::from(x != y);
            let mut best = replace.min(cell(&old, j + 1) + 1).min(cell(&new, j) + 1);
            if i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x) {
                best = best.min(cell(&older, j - 1) + 1);
            }
            new.push(best);
        }
        older = std::mem::replace(&mut old, new);
    }
    old.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters() {
        let text = "ä\nböse x";
        let check = |offset: usize, expect: (u32, u32)| {
            assert_eq!(Lines::new(text).place(offset), expect, "{offset}");
        };
        check(0, (1, 1));
        check(text.find('x').unwrap(), (2, 6));
        check(1, (1, 1));
        check(2, (1, 2));
        check(3, (2, 1));
        check(999, (2, 7));
        assert_eq!(Lines::new("").place(0), (1, 1));
        assert_eq!(Lines::new("\n").place(1), (2, 1));
    }

    #[test]
    fn a_slip_finds_its_word() {
        let names = ["hold", "expires", "rows_max"];
        assert_eq!(nearest("hodl", names), Some("hold"));
        assert_eq!(nearest("row_max", names), Some("rows_max"));
        assert_eq!(nearest("mask", names), None);
    }

    #[test]
    fn a_problem_is_one_line() {
        let problem =
            PolicyProblem::at(&"a.cedar".into(), (3, 1), "bad \u{202e}\n`x`").help("fix it");
        assert_eq!(problem.to_string(), "a.cedar:3:1: bad \\u{202e}\\n`x` (fix it)");
    }
}
