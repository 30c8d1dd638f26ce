//! Strict JSON: what an issuer or a client wrote, read in exactly one way or not at all.
//!
//! A member that occurs twice at any level is refused: parsers differ on which of the two counts,
//! and a signature covers both. Depth is bounded. Text after the value, a byte order mark, invalid
//! UTF-8, lone surrogates and numbers out of range are refused by `serde_json` itself.

use std::{collections::BTreeMap, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// Deepest nesting of arrays and objects. Tokens that we know of need four.
pub const JSON_DEPTH_MAX: usize = 16;

/// A JSON value without doubt in it.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    /// A number written without fraction or exponent, within 64 bits.
    Integer(i128),
    /// Any other number: finite.
    Float(f64),
    Text(String),
    Array(Vec<Json>),
    Object(Object),
}

/// The members of an object, each name once.
pub type Object = BTreeMap<String, Json>;

/// Why bytes are not strict JSON. Says nothing of their content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a strict JSON object")]
pub struct NotStrict;

impl Json {
    /// Reads one object from all of `bytes`.
    pub fn object(bytes: &[u8]) -> Result<Object, NotStrict> {
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let value = Strict { depth: 0 }.deserialize(&mut reader).map_err(|_| NotStrict)?;
        reader.end().map_err(|_| NotStrict)?;
        match value {
            Json::Object(object) => Ok(object),
            _ => Err(NotStrict),
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= JSON_DEPTH_MAX {
            return Err(E::custom("nested too deeply"));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Json;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("strict JSON")
    }
    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Integer(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Integer(value.into()))
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Json, E> {
        if value.is_finite() {
            Ok(Json::Float(value))
        } else {
            Err(E::custom("a number out of range"))
        }
    }
    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::Text(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let inner = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let inner = self.deeper()?;
        let mut members = Object::new();
        while let Some(name) = access.next_key::<String>()? {
            let value = access.next_value_seed(inner)?;
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a member occurs twice"));
            }
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reading_or_none() {
        let check = |text: &str, good: bool| {
            assert_eq!(Json::object(text.as_bytes()).is_ok(), good, "{text}");
        };
        check(r#"{}"#, true);
        check(r#" {"a":1,"b":{"a":[{"a":2},{"a":3}]}} "#, true);
        check(r#"{"a":1,"a":1}"#, false);
        check(r#"{"a":1,"\u0061":1}"#, false);
        check(r#"{"x":{"a":1,"b":2}}"#, true);
        check(r#"{"x":{"a":1,"a":2}}"#, false);
        check(r#"{"x":[{"a":1,"b":2}]}"#, true);
        check(r#"{"x":[{"a":1,"a":2}]}"#, false);
        check(r#"{"a":1}{"#, false);
        check(r#"{"a":1} {}"#, false);
        check(r#"[]"#, false);
        check(r#""a""#, false);
        check("", false);
        check("\u{feff}{}", false);
        check(r#"{"a":1,}"#, false);
        check(r#"{a:1}"#, false);
        check(r#"{'a':1}"#, false);
        check(r#"{"a":NaN}"#, false);
        check(r#"{"a":1e999}"#, false);
        check(r#"{"a":-1e999}"#, false);
        check(r#"{"a":01}"#, false);
        check(r#"{"a":"\ud800"}"#, false);
        check("{\"a\":\"\n\"}", false);
        check("/*c*/{}", false);
        assert!(Json::object(b"{\"a\":\"\xff\"}").is_err());
        assert!(Json::object(b"{\"a\":\"\xc3\xa4\"}").is_ok());
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert!(Json::object(nested(JSON_DEPTH_MAX - 1).as_bytes()).is_ok());
        assert!(Json::object(nested(JSON_DEPTH_MAX).as_bytes()).is_err());
        assert!(Json::object(nested(8_000).as_bytes()).is_err());
    }
}
