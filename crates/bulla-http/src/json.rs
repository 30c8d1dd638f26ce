//! JSON with one meaning, for the parts of a body that policy judges. Pure.
//!
//! Two readers agree on a document only if no object names a member twice. Some match names
//! without their case, so that too counts as twice.

use std::{collections::HashSet, fmt};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::wire::{Fault, bad};

/// Members and items of one document.
const ITEMS_MAX: usize = 100_000;

const TWICE: &str = "an object of the body names a member twice, whatever its case";
const MANY: &str = "the body has too many members or items";

struct Strict(Value);

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of JSON")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            out.push(item);
            if out.len() > ITEMS_MAX {
                return Err(A::Error::custom(MANY));
            }
        }
        Ok(Value::Array(out))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let (mut out, mut seen) = (Map::new(), HashSet::new());
        while let Some((name, Strict(value))) = members.next_entry::<String, Strict>()? {
            if !seen.insert(name.to_lowercase()) {
                return Err(A::Error::custom(TWICE));
            }
            if seen.len() > ITEMS_MAX {
                return Err(A::Error::custom(MANY));
            }
            out.insert(name, value);
        }
        Ok(Value::Object(out))
    }
}

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Strict)
    }
}

/// Words that hold nothing of the body.
fn meaning(error: &serde_json::Error) -> &'static str {
    let words = error.to_string();
    [TWICE, MANY].into_iter().find(|own| words.starts_with(own)).unwrap_or(
        "the body is not JSON, which its `content-type` says it is, or is nested too deeply",
    )
}

/// Reads a document. Depth is bounded by the parser (128).
pub fn read(body: &[u8]) -> Result<Value, Fault> {
    let text = std::str::from_utf8(body).map_err(|_| bad("the body is not UTF-8"))?;
    if text.starts_with('\u{feff}') {
        return Err(bad("the body begins with a byte order mark"));
    }
    serde_json::from_str::<Strict>(text)
        .map(|Strict(value)| value)
        .map_err(|error| bad(meaning(&error)))
}

/// The value at a pointer (RFC 6901). An error: there is none, but a member whose name differs only in
/// its case, which some readers take for it.
pub fn find<'a>(document: &'a Value, pointer: &str) -> Result<Option<&'a Value>, ()> {
    let mut value = document;
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        let next = match value {
            Value::Object(members) => {
                let next = members.get(&token);
                let like = |name: &String| name.to_lowercase() == token.to_lowercase();
                if next.is_none() && members.keys().any(like) {
                    return Err(());
                }
                next
            }
            Value::Array(items) => token.parse::<usize>().ok().and_then(|at| items.get(at)),
            _ => None,
        };
        match next {
            Some(next) => value = next,
            None => return Ok(None),
        }
    }
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_in_another_case_is_a_doubt() {
        let document = read(br#"{"Amount":1,"b":{"c/d":[5,{"E":2}]}}"#).unwrap();
        for (pointer, expect) in [
            ("/amount", Err(())),
            ("/Amount", Ok(Some(1))),
            ("/b/c~1d/0", Ok(Some(5))),
            ("/b/c~1d/1/e", Err(())),
            ("/b/c~1d/7", Ok(None)),
            ("/x", Ok(None)),
        ] {
            let found = find(&document, pointer).map(|value| value.and_then(Value::as_i64));
            assert_eq!(found, expect, "{pointer}");
        }
    }

    #[test]
    fn h8_one_meaning_or_none() {
        for good in ["{}", "[1,2]", r#"{"a":{"a":1},"b":[{"a":2}]}"#, "\"x\"", " {\"a\":1e3} "] {
            assert!(read(good.as_bytes()).is_ok(), "{good}");
        }
        let deep = "[".repeat(400_000);
        for bad in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"a":1,"A":2}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            "\u{feff}{}",
            "{}{}",
            "{'a':1}",
            "{a:1}",
            "{\"a\":1,}",
            "// x\n{}",
            "{\"a\":NaN}",
            "{\"a\":01}",
            "",
            deep.as_str(),
        ] {
            assert!(read(bad.as_bytes()).is_err(), "{:.40}", bad);
        }
        assert!(read(b"\xff\xfe{\x00}\x00").is_err());
        let many = format!("[{}1]", "1,".repeat(ITEMS_MAX));
        for (bad, why) in [
            (r#"{"x":{"a":1,"A":2}}"#, "names a member twice"),
            (&many, "too many members or items"),
            (r#"{"a":"#, "is not JSON"),
            (&deep, "nested too deeply"),
        ] {
            let fault = read(bad.as_bytes()).unwrap_err();
            assert!(fault.why.contains(why), "{:.40}: {fault}", bad);
        }
    }
}
