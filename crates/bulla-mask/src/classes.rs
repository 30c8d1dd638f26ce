//! Which columns belong to which class, and what a class demands.
//!
//! A rule names columns by `schema.relation.column`, each part with `*` where anything may stand.
//! The rule that says most wins: the one with the fewest `*`, then the longest. A relation that no
//! rule speaks of belongs to the default class, with every column; a rule whose relation is `*`
//! speaks of columns only.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    detect::Kind,
    function::{Key, Mask},
};

/// The class of what need not be masked.
pub const CLEAR: &str = "clear";
/// Rules of one resource.
pub const RULES_MAX: usize = 10_000;

/// What a class demands where its values may not be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    pub mask: Mask,
    pub inference: Inference,
    /// NULL stays NULL. Otherwise a mask that can hides even that.
    pub keeps_null: bool,
    /// The column of the same relation that says whose value it is, for masks that depend on it.
    pub subject: Option<Arc<str>>,
}

/// What may be asked about values that may not be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Inference {
    /// Nothing: conditions see the mask.
    #[default]
    Deny,
    /// `column = constant` sees the value: who knows it may find its row.
    Equality,
}

/// Why rules cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClassError {
    #[error("`{0}` is not `schema.relation.column`")]
    Rule(String),
    #[error("`{0}` is not a class: lower-case letters, digits, `_`, `-`, with dots between")]
    Name(String),
    #[error(
        "`{0}` is named, but there is no class of that name: add `[classes.\"{0}\"]` with a `mask`"
    )]
    Unknown(String),
    #[error("`{0}` needs a key, and no key is configured")]
    NoKey(String),
    #[error("more than {RULES_MAX} rules")]
    Rules,
}

/// The classes of one resource.
#[derive(Debug, Clone, Default)]
pub struct Classes {
    rules: Vec<Rule>,
    default: Option<Arc<str>>,
    classes: BTreeMap<Arc<str>, Class>,
    key: Option<Key>,
    trusted: Vec<Arc<str>>,
    channels: Vec<Arc<str>>,
    content: Vec<(Kind, Arc<str>)>,
    /// Every class that a rule or the default names.
    used: Vec<Arc<str>>,
}

#[derive(Debug, Clone)]
struct Rule {
    parts: [String; 3],
    /// `None`: clear.
    class: Option<Arc<str>>,
}

/// A name of a class: words with dots between, `pii.ssn`. `pii.ssn` is in `pii`.
#[must_use]
pub fn is_class_name(name: &str) -> bool {
    let word = |w: &str| {
        !w.is_empty()
            && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b))
    };
    name.len() <= 100 && name.split('.').all(word)
}

impl Classes {
    /// The classes of a resource. `default`: of relations that no rule speaks of; none is clear.
    /// `trusted`: functions (`schema.name`) that are known not to read what is masked.
    ///
    /// # Errors
    /// Every mistake, not just the first.
    pub fn new(
        rules: &BTreeMap<String, String>,
        default: Option<&str>,
        classes: BTreeMap<Arc<str>, Class>,
        key: Option<Key>,
        trusted: &[String],
    ) -> Result<Self, Vec<ClassError>> {
        let mut wrong = Vec::new();
        for (name, class) in &classes {
            if !is_class_name(name) || &**name == CLEAR {
                wrong.push(ClassError::Name(name.to_string()));
            }
            if class.mask.needs_key() && key.is_none() {
                wrong.push(ClassError::NoKey(name.to_string()));
            }
        }
        if rules.len() > RULES_MAX {
            wrong.push(ClassError::Rules);
        }
        let mut find = |name: &str| match classes.get_key_value(name) {
            Some((name, _)) => Some(name.clone()),
            None => {
                if name != CLEAR {
                    wrong.push(ClassError::Unknown(name.to_owned()));
                }
                None
            }
        };
        let default = default.and_then(&mut find);
        let mut parsed = Vec::new();
        let mut broken = Vec::new();
        for (path, class) in rules {
            let class = find(class);
            match split(path) {
                Some(parts) => parsed.push(Rule { parts, class }),
                None => broken.push(ClassError::Rule(path.clone())),
            }
        }
        wrong.extend(broken);
        if !wrong.is_empty() {
            return Err(wrong);
        }
        parsed.sort_by_key(|rule| {
            let stars = rule.parts.iter().map(|part| part.matches('*').count()).sum::<usize>();
            let letters = rule.parts.iter().map(String::len).sum::<usize>();
            (stars, std::cmp::Reverse(letters))
        });
        let trusted = trusted.iter().map(|name| name.as_str().into()).collect();
        let named = parsed.iter().filter_map(|rule| rule.class.clone());
        let mut used: Vec<Arc<str>> = named.chain(default.clone()).collect();
        used.sort();
        used.dedup();
        let (channels, content) = (Vec::new(), Vec::new());
        Ok(Self { rules: parsed, default, classes, key, trusted, channels, content, used })
    }

    /// The same, with channels of notifications that are known to hold nothing that is masked.
    #[must_use]
    pub fn with_channels(mut self, channels: &[String]) -> Self {
        self.channels = channels.iter().map(|name| name.as_str().into()).collect();
        self
    }

    /// The same, with kinds that are looked for by content, and the class of each. The classes MUST
    /// be among those that there are.
    #[must_use]
    pub fn with_content(mut self, content: Vec<(Kind, Arc<str>)>) -> Self {
        self.used.extend(content.iter().map(|(_, class)| class.clone()));
        self.used.sort();
        self.used.dedup();
        self.content = content;
        self
    }

    /// Kinds that are looked for by content, and the class of each.
    #[must_use]
    pub fn content(&self) -> &[(Kind, Arc<str>)] {
        &self.content
    }

    /// Whether notifications of a channel are known to hold nothing that is masked.
    #[must_use]
    pub fn trusts_channel(&self, name: &str) -> bool {
        self.channels.iter().any(|channel| **channel == *name)
    }

    /// Nothing is classified, so that nothing can be masked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.content.is_empty()
            && self.default.is_none()
            && self.rules.iter().all(|rule| rule.class.is_none())
    }

    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    #[must_use]
    pub fn class(&self, name: &str) -> Option<&Class> {
        self.classes.get(name)
    }

    /// Names of all classes that a rule or the default uses.
    #[must_use]
    pub fn used(&self) -> &[Arc<str>] {
        &self.used
    }

    /// Functions (`schema.name`) that are known not to read what is masked.
    pub fn trusted(&self) -> impl Iterator<Item = &str> {
        self.trusted.iter().map(|name| &**name)
    }

    /// Whether a rule speaks of a relation, and not just of columns anywhere.
    #[must_use]
    pub fn speaks(&self, schema: &str, relation: &str) -> bool {
        self.rules.iter().any(|rule| {
            let [s, r, _] = &rule.parts;
            r != "*" && fits(s, schema) && fits(r, relation)
        })
    }

    /// The class of a column; `None` is clear.
    #[must_use]
    pub fn of(&self, schema: &str, relation: &str, column: &str) -> Option<&Arc<str>> {
        let mut spoken = false;
        for rule in &self.rules {
            let [s, r, c] = &rule.parts;
            if fits(s, schema) && fits(r, relation) {
                // A name of a column anywhere is no word about the relation.
                spoken |= r != "*";
                if fits(c, column) {
                    return rule.class.as_ref();
                }
            }
        }
        if spoken { None } else { self.default.as_ref() }
    }
}

/// `schema.relation.column`; a part with a dot stands in quotation marks.
fn split(path: &str) -> Option<[String; 3]> {
    let mut parts = Vec::new();
    let mut rest = path;
    loop {
        let (part, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted.find('"')?;
                (quoted.get(..end)?, quoted.get(end + 1..)?)
            }
            None => {
                let end = rest.find('.').unwrap_or(rest.len());
                rest.split_at(end)
            }
        };
        if part.is_empty() || part.chars().any(char::is_control) {
            return None;
        }
        parts.push(part.to_owned());
        match after.strip_prefix('.') {
            Some(more) => rest = more,
            None if after.is_empty() => break,
            None => return None,
        }
    }
    parts.try_into().ok()
}

/// A part with `*` for anything.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let Some(tail) = parts.pop() else { return true };
    for part in parts {
        match name.find(part) {
            Some(at) => name = name.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    name.len() >= tail.len() && name.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(rules: &[(&str, &str)], default: Option<&str>) -> Result<Classes, Vec<ClassError>> {
        let class = Class {
            mask: Mask::Null,
            inference: Inference::Deny,
            keeps_null: false,
            subject: None,
        };
        let known = ["pii", "pii.ssn", "pii.email"].map(|name| (Arc::from(name), class.clone()));
        let rules = rules.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        Classes::new(&rules, default, known.into(), None, &[])
    }

    #[test]
    fn the_rule_that_says_most_wins() {
        let classes = classes(
            &[
                ("public.customers.ssn", "pii.ssn"),
                ("*.*.email", "pii.email"),
                ("public.customers.*", "clear"),
                ("public.log_*.*", "pii"),
                ("\"odd.schema\".t.c", "pii"),
            ],
            Some("pii"),
        )
        .unwrap();
        let of = |s: &str, r: &str, c: &str| classes.of(s, r, c).map(|c| c.to_string());
        assert_eq!(of("public", "customers", "ssn").as_deref(), Some("pii.ssn"));
        // Two stars say less than one.
        assert_eq!(of("public", "customers", "email"), None);
        assert_eq!(of("other", "t", "email").as_deref(), Some("pii.email"));
        assert_eq!(of("public", "log_2024", "x").as_deref(), Some("pii"));
        assert_eq!(of("odd.schema", "t", "c").as_deref(), Some("pii"));
        // `*.*.email` is no word about `other.t`.
        assert_eq!(of("other", "t", "x").as_deref(), Some("pii"));
    }

    #[test]
    fn what_nobody_spoke_of_has_the_default() {
        let classes = classes(&[("public.t.a", "pii.ssn")], Some("pii")).unwrap();
        assert_eq!(classes.of("public", "t", "b"), None);
        assert_eq!(classes.of("public", "new", "b").map(|c| &**c), Some("pii"));
        assert_eq!(classes.used().len(), 2);
    }

    #[test]
    fn mistakes_are_all_told() {
        let wrong = classes(&[("a.b", "pii"), ("a.b.c", "nope"), ("a..c", "pii")], Some("gone"));
        assert_eq!(wrong.unwrap_err().len(), 4);
    }

    #[test]
    fn stars() {
        for (pattern, name, expect) in [
            ("*", "", true),
            ("*", "a", true),
            ("a*", "ab", true),
            ("a*", "ba", false),
            ("*b", "ab", true),
            ("a*c", "ac", true),
            ("a*c", "abd", false),
            ("*b*", "abc", true),
            ("a*a", "a", false),
            ("a", "a", true),
            ("a", "A", false),
        ] {
            assert_eq!(fits(pattern, name), expect, "{pattern} {name}");
        }
    }
}
