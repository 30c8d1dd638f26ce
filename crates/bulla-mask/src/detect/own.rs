//! The operator's own patterns.

use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};

use super::{
    FINDING_BYTES_MAX, Finding, What,
    view::{View, Words},
};

/// Memory that one compiled pattern may take.
const COMPILED_BYTES_MAX: usize = 1 << 20;
/// Longest pattern as written.
const PATTERN_BYTES_MAX: usize = 4 << 10;

/// One pattern: a regular expression (linear time, no look-around), and words one of which must
/// stand nearby.
#[derive(Debug, Clone)]
pub struct Own {
    name: Arc<str>,
    pattern: Regex,
    near: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnError {
    #[error("the name `{0}` is not 1 to 64 letters, digits, `.`, `_` or `-`")]
    Name(String),
    #[error("the pattern cannot be used: {0}")]
    Pattern(String),
    #[error("the pattern matches an empty text, which is everywhere")]
    Empty,
}

impl Own {
    /// # Errors
    /// [`OwnError`] for a pattern that cannot be compiled within its limits.
    pub fn new(name: &str, pattern: &str, near: &[String]) -> Result<Self, OwnError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if !(1..=64).contains(&name.len()) || !name.bytes().all(plain) {
            return Err(OwnError::Name(name.to_owned()));
        }
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(OwnError::Pattern("it is longer than 4 KiB".to_owned()));
        }
        let pattern = RegexBuilder::new(pattern)
            .size_limit(COMPILED_BYTES_MAX)
            .dfa_size_limit(COMPILED_BYTES_MAX)
            .build()
            .map_err(|error| OwnError::Pattern(error.to_string().replace('\n', " ")))?;
        if pattern.is_match(b"") {
            return Err(OwnError::Empty);
        }
        let near = near.iter().map(|word| word.to_lowercase()).collect();
        Ok(Self { name: name.into(), pattern, near })
    }

    pub(super) fn scan(&self, view: &View<'_>, out: &mut Vec<Finding>) {
        let words: Vec<&str> = self.near.iter().map(String::as_str).collect();
        let near = Words::new(&words);
        for hit in self.pattern.find_iter(view.bytes) {
            let fits = hit.len() <= FINDING_BYTES_MAX
                && (words.is_empty() || view.near(hit.start(), hit.end(), &near));
            if fits {
                let what = What::Own(self.name.clone());
                out.push(Finding { start: hit.start(), end: hit.end(), what });
            }
        }
    }
}
