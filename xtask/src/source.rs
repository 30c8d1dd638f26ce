//! Just enough of Rust's lexis to tell code from comments, string literals and tests.
//!
//! It does not parse: it blanks what a rule must not look at and keeps every line break, so that
//! line numbers stay true.

/// What to do with the contents of string literals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strings {
    /// Replace them by spaces.
    Blank,
    /// Keep them.
    Keep,
}

/// The source with comments and `#[cfg(test)]` items (and, if asked, strings) blanked.
pub fn code(text: &str, strings: Strings) -> String {
    // The search for tests needs braces that are code, so it runs on text without strings, and
    // the ranges it finds are then blanked in whichever text is wanted. Both have equal length.
    let bare = blank(text, Strings::Blank);
    let mut wanted: Vec<char> = blank(text, strings).chars().collect();
    for (start, end) in test_items(&bare) {
        for slot in wanted.iter_mut().take(end).skip(start) {
            if *slot != '\n' {
                *slot = ' ';
            }
        }
    }
    wanted.into_iter().collect()
}

/// Names of modules that are tests and live in files of their own: `#[cfg(test)] mod name;`.
pub fn test_modules(text: &str) -> Vec<String> {
    let bare: Vec<char> = blank(text, Strings::Blank).chars().collect();
    let joined: String = bare.iter().collect();
    let mut names = Vec::new();
    for (start, end) in test_items(&joined) {
        let item: String = bare.iter().take(end).skip(start).collect();
        let mut words = words(&item).skip_while(|word| *word != "mod");
        if item.trim_end().ends_with(';')
            && words.next().is_some()
            && let Some(name) = words.next()
        {
            names.push(name.to_owned());
        }
    }
    names
}

/// The identifiers and numbers of a text, in order.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !is_word(c)).filter(|word| !word.is_empty())
}

/// The text without white space, but for one space between two words: `use std :: fs` becomes
/// `use std::fs`.
pub fn squeeze(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut gap = false;
    for c in text.chars() {
        if c.is_whitespace() {
            gap = true;
            continue;
        }
        if gap && is_word(c) && out.chars().next_back().is_some_and(is_word) {
            out.push(' ');
        }
        gap = false;
        out.push(c);
    }
    out
}

/// Whether `text` (squeezed) uses `path`, such as `std::fs`, in full or through a group import.
pub fn uses(text: &str, path: &str) -> bool {
    if find_path(text, path).next().is_some() {
        return true;
    }
    // `std::{fs, io::{self}}` uses `std::fs`: look at the first segments inside the group.
    let Some((head, tail)) = path.rsplit_once("::") else { return false };
    let group = format!("{head}::{{");
    find_path(text, &group).any(|at| {
        let inside = text.get(at + group.len()..).unwrap_or_default();
        top_level(inside).iter().any(|item| words(item).next() == Some(tail))
    })
}

/// Where `path` starts, with no word going on before or after it.
fn find_path<'a>(text: &'a str, path: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(path).map(|(at, _)| at).filter(move |at| {
        let before = text.get(..*at).and_then(|s| s.chars().next_back());
        let after = text.get(*at + path.len()..).and_then(|s| s.chars().next());
        let bounded = !after.is_some_and(is_word) || !path.ends_with(is_word);
        !before.is_some_and(is_word) && bounded
    })
}

/// The comma-separated items up to the brace that closes the group.
fn top_level(inside: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut depth = 0_u32;
    for c in inside.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(String::new()),
            _ => {}
        }
        if let Some(item) = items.last_mut()
            && c != ','
        {
            item.push(c);
        }
    }
    items
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Character ranges of items under `#[cfg(test)]`, attribute included.
fn test_items(bare: &str) -> Vec<(usize, usize)> {
    const ATTRIBUTE: &str = "#[cfg(test)]";
    let chars: Vec<char> = bare.chars().collect();
    let pattern: Vec<char> = ATTRIBUTE.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        if !chars.get(at..).is_some_and(|rest| rest.starts_with(&pattern)) {
            at += 1;
            continue;
        }
        let end = item_end(&chars, at + pattern.len());
        found.push((at, end));
        at = end;
    }
    found
}

/// One past the end of the item that starts at `from`: its closing brace or its semicolon.
fn item_end(chars: &[char], from: usize) -> usize {
    let mut braces = 0_u32;
    let mut others = 0_u32;
    for (at, c) in chars.iter().enumerate().skip(from) {
        match c {
            '(' | '[' => others += 1,
            ')' | ']' => others = others.saturating_sub(1),
            '{' => braces += 1,
            '}' => {
                braces = braces.saturating_sub(1);
                if braces == 0 && others == 0 {
                    return at + 1;
                }
            }
            ';' if braces == 0 && others == 0 => return at + 1,
            _ => {}
        }
    }
    chars.len()
}

/// Blanks comments, and the contents of strings if asked. Characters are replaced one for one.
fn blank(text: &str, strings: Strings) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        let after_word = at > 0 && chars.get(at - 1).copied().is_some_and(is_word);
        let (end, keep) = match c {
            '/' if next == Some('/') => (line_end(&chars, at), false),
            '/' if next == Some('*') => (comment_end(&chars, at), false),
            '"' => (string_end(&chars, at), strings == Strings::Keep),
            'r' | 'b' | 'c' if !after_word => match raw_end(&chars, at) {
                Some(end) => (end, strings == Strings::Keep),
                None => (at + 1, true),
            },
            '\'' => match char_end(&chars, at) {
                Some(end) => (end, strings == Strings::Keep),
                None => (at + 1, true),
            },
            _ => (at + 1, true),
        };
        for &c in chars.get(at..end).unwrap_or_default() {
            out.push(if keep || c == '\n' { c } else { ' ' });
        }
        at = end;
    }
    out
}

fn line_end(chars: &[char], from: usize) -> usize {
    let rest = chars.iter().skip(from).position(|c| *c == '\n');
    rest.map_or(chars.len(), |length| from + length)
}

/// Block comments nest.
fn comment_end(chars: &[char], from: usize) -> usize {
    let mut depth = 0_u32;
    let mut at = from;
    while at < chars.len() {
        match (chars.get(at), chars.get(at + 1)) {
            (Some('/'), Some('*')) => {
                depth += 1;
                at += 2;
            }
            (Some('*'), Some('/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    chars.len()
}

/// `from` is the opening quote.
fn string_end(chars: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while let Some(c) = chars.get(at) {
        match c {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// A raw string (`r"`, `r#"`, `br#"`, `cr#"`) that starts at `from`; other prefixed strings are
/// met again at their quote.
fn raw_end(chars: &[char], from: usize) -> Option<usize> {
    let mut at = from;
    if matches!(chars.get(at), Some('b' | 'c')) {
        at += 1;
    }
    if chars.get(at) != Some(&'r') {
        return None;
    }
    let hashes = chars.iter().skip(at + 1).take_while(|c| **c == '#').count();
    let quote = at + 1 + hashes;
    if chars.get(quote) != Some(&'"') {
        return None;
    }
    let close = |at: usize| {
        chars.get(at) == Some(&'"')
            && chars.iter().skip(at + 1).take(hashes).filter(|c| **c == '#').count() == hashes
    };
    let end = (quote + 1..chars.len()).find(|at| close(*at));
    Some(end.map_or(chars.len(), |end| end + 1 + hashes))
}

/// A character literal, not a lifetime.
fn char_end(chars: &[char], from: usize) -> Option<usize> {
    if chars.get(from + 1) == Some(&'\\') {
        let close = chars.iter().skip(from + 3).position(|c| *c == '\'')?;
        return Some(from + 3 + close + 1);
    }
    (chars.get(from + 2) == Some(&'\'')).then_some(from + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, blanked: &str) {
        let got = code(text, Strings::Blank);
        assert_eq!(got.lines().count(), text.lines().count(), "lines of {text:?}");
        assert_eq!(squeeze(&got), squeeze(blanked), "{text:?}");
    }

    #[test]
    fn comments_and_strings_are_not_code() {
        check("let a = 1; // std::fs", "let a = 1;");
        check("/* a /* std::fs */ b */ let a = 1;", "let a = 1;");
        check(r#"let s = "std::fs \" // x"; f();"#, "let s = ; f();");
        check("let s = r#\"a \" std::fs\"#; f();", "let s = ; f();");
        check("let s = br\"\\\"; f();", "let s = ; f();");
        check("let s = b\"x\"; f();", "let s = b; f();");
        check("let c = '\"'; let d = '\\''; f::<'a>();", "let c = ; let d = ; f::<'a>();");
        check("let attribute = car\"x\";", "let attribute = car;");
        check("\"multi\nline\"; f()", "; f()");
    }

    #[test]
    fn tests_are_not_code() {
        check(
            "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { \"}\"; } }\nfn c() {}",
            "fn a(){}fn c(){}",
        );
        check("#[cfg(test)]\nuse std::fs;\nfn a() {}", "fn a(){}");
        check("#[cfg(test)] fn b(x: [u8; 3]) { }\nfn a() {}", "fn a(){}");
        check("#[cfg(not(test))] fn b() {}", "#[cfg(not(test))]fn b(){}");
        assert_eq!(test_modules("#[cfg(test)]\nmod tests;\nmod other;"), ["tests"]);
        assert_eq!(test_modules("#[cfg(test)]\nmod tests { mod a; }"), [""; 0]);
    }

    #[test]
    fn strings_can_be_kept() {
        assert_eq!(code("f(\"a\") // b", Strings::Keep).trim_end(), "f(\"a\")");
    }

    #[test]
    fn uses_of_a_path_are_found() {
        for (text, path, expect) in [
            ("use std::fs;", "std::fs", true),
            ("use std :: fs :: File;", "std::fs", true),
            ("use std::{collections::HashMap, fs};", "std::fs", true),
            ("use std::{fs::{self, File}, io};", "std::fs", true),
            ("use std::{io::{self, fs}};", "std::fs", false),
            ("std::fs::read(x)", "std::fs", true),
            ("use mystd::fs;", "std::fs", false),
            ("use std::fsync;", "std::fs", false),
            ("let t = Instant::now();", "Instant::now", true),
            ("let t = MyInstant::now();", "Instant::now", false),
            ("let t = std::time::Instant::now();", "Instant::now", true),
        ] {
            assert_eq!(uses(&squeeze(text), path), expect, "{text:?} uses {path}");
        }
    }
}
