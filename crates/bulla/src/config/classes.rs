//! Classes of columns and the masks of their values.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Result, anyhow};
use bulla_mask::{
    ALL, CLEAR, Class, ClassError, Classes, Inference, Key, Kind, Mask, classes::is_class_name,
};

use super::{Config, file};
use crate::registry::{self, Protocols};

/// A mistake: where, what, and what to do about it.
pub type Wrong = (String, String, String);

/// Longest key file.
const KEY_BYTES_MAX: u64 = 4 << 10;

/// Why the key of masks cannot be used.
fn key(config: &Config) -> Result<Option<Key>, Wrong> {
    let masking = &config.masking;
    let (id, path) = match (&masking.key_id, &masking.key_file) {
        (None, None) => return Ok(None),
        (Some(id), Some(path)) => (id, path),
        (Some(_), None) | (None, Some(_)) => {
            let message = "`key_id` and `key_file` belong together".to_owned();
            return Err(("masking".into(), message, "set both, or neither".into()));
        }
    };
    let bad = |message: String| {
        let help = format!("it must hold {} to 4096 random bytes", Key::SECRET_BYTES_MIN);
        ("masking.key_file".to_owned(), message, help)
    };
    let full = config.path(path);
    let long = std::fs::metadata(&full).is_ok_and(|found| found.len() > KEY_BYTES_MAX);
    if long {
        return Err(bad(format!("`{}` is longer than 4096 bytes", full.display())));
    }
    let secret =
        std::fs::read(&full).map_err(|error| bad(format!("read `{}`: {error}", full.display())))?;
    let key = Key::new(id, &secret);
    key.map(Some).ok_or_else(|| bad(format!("key `{}` cannot be used", id.escape_debug())))
}

/// Every class by name.
fn named(config: &Config) -> Result<BTreeMap<Arc<str>, Class>, Vec<Wrong>> {
    let mut wrong = Vec::new();
    let mut out = BTreeMap::new();
    for (name, class) in &config.classes {
        let place = format!("classes.{name}");
        if !is_class_name(name) || name == CLEAR {
            let help = "use lower-case letters, digits, `_` and `-`, with dots between: pii.ssn";
            let message = format!("`{}` is no name for a class", name.escape_debug());
            wrong.push((place.clone(), message, help.into()));
        }
        match Mask::parse(&class.mask) {
            Err(error) => wrong.push((format!("{place}.mask"), error.to_string(), String::new())),
            Ok(mask) => {
                let keeps_null = class.nulls == file::Nulls::Keep;
                let inference = match class.inference {
                    file::Inference::Deny => Inference::Deny,
                    file::Inference::Equality => Inference::Equality,
                };
                let subject = class.subject.as_deref().map(Arc::from);
                let class = Class { mask, inference, keeps_null, subject };
                out.insert(name.as_str().into(), class);
            }
        }
    }
    if wrong.is_empty() { Ok(out) } else { Err(wrong) }
}

/// Kinds that are looked for by content, with their classes.
fn content(
    resource: &str,
    from: &BTreeMap<String, String>,
    classes: &Classes,
    wrong: &mut Vec<Wrong>,
) -> Vec<(Kind, Arc<str>)> {
    let mut out = Vec::new();
    for (word, class) in from {
        let place = format!("resources.{resource}.classes.content");
        let kind = Kind::parse(word);
        if kind.is_none() {
            let known: Vec<&str> = ALL.iter().map(|kind| kind.as_str()).collect();
            let message = format!("`{}` is not a kind of value", word.escape_debug());
            wrong.push((place.clone(), message, format!("the kinds are {}", known.join(", "))));
        }
        if classes.class(class).is_none() {
            let message = format!("there is no class `{}`", class.escape_debug());
            wrong.push((place, message, "add a [classes.\"NAME\"] table".into()));
            continue;
        }
        out.extend(kind.map(|kind| (kind, class.as_str().into())));
    }
    out
}

impl Config {
    /// Every protocol, with the classes of this configuration. Classes that do not hold are an
    /// error, never no classes.
    pub fn protocols(&self) -> Result<Protocols> {
        let classes = self.masks().map_err(|wrong| {
            let all: Vec<String> =
                wrong.iter().map(|(key, what, _)| format!("{key}: {what}")).collect();
            anyhow!("{}", all.join("; "))
        })?;
        registry::protocols(self, classes)
    }

    /// The classes of every resource that has some.
    pub fn masks(&self) -> Result<BTreeMap<String, Arc<Classes>>, Vec<Wrong>> {
        let (key, named) = match (key(self), named(self)) {
            (Ok(key), Ok(named)) => (key, named),
            (key, named) => {
                let mut wrong = named.err().unwrap_or_default();
                wrong.extend(key.err());
                return Err(wrong);
            }
        };
        let mut out = BTreeMap::new();
        let mut wrong = Vec::new();
        for (name, resource) in &self.resources {
            let from = &resource.classes;
            let made = Classes::new(
                &from.columns,
                from.default.as_deref(),
                named.clone(),
                key.clone(),
                &from.trusted,
            );
            match made {
                Ok(classes) => {
                    let content = match registry::is_api(resource) {
                        true => Vec::new(),
                        false => content(name, &from.content, &classes, &mut wrong),
                    };
                    let classes = classes.with_channels(&from.channels).with_content(content);
                    out.insert(name.clone(), Arc::new(classes));
                }
                Err(errors) => {
                    for error in errors {
                        let key = match &error {
                            ClassError::NoKey(class) => format!("classes.{class}.mask"),
                            _ => format!("resources.{name}.classes"),
                        };
                        let help = match &error {
                            ClassError::NoKey(_) => "set masking.key_id and masking.key_file",
                            ClassError::Unknown(_) => {
                                "add a [classes.\"NAME\"] table, or use `clear`"
                            }
                            _ => "",
                        };
                        let found = (key, error.to_string(), help.to_owned());
                        if !wrong.contains(&found) {
                            wrong.push(found);
                        }
                    }
                }
            }
            for function in &from.trusted {
                if !function.contains('.') {
                    let message = format!("`{}` is not `schema.name`", function.escape_debug());
                    wrong.push((
                        format!("resources.{name}.classes.trusted"),
                        message,
                        String::new(),
                    ));
                }
            }
        }
        if wrong.is_empty() { Ok(out) } else { Err(wrong) }
    }
}
