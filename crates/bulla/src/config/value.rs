//! Values with a unit, as an operator writes them.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

/// A time: `250ms`, `20s`, `15m`, `8h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    pub ms: u64,
}

/// A size: `512KiB`, `64MiB`, `1GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    pub bytes: u64,
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(at)?;
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

impl Time {
    pub const fn secs(secs: u64) -> Self {
        Self { ms: secs * 1_000 }
    }
    pub fn parse(text: &str) -> Option<Self> {
        let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
        scaled(text, &units).map(|ms| Self { ms })
    }
}

impl Size {
    pub const fn mib(mib: u64) -> Self {
        Self { bytes: mib << 20 }
    }
    pub fn parse(text: &str) -> Option<Self> {
        let units = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
        scaled(text, &units).map(|bytes| Self { bytes })
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ms {
            ms if ms % 1_000 != 0 => write!(f, "{ms}ms"),
            ms if ms % 60_000 != 0 || ms == 0 => write!(f, "{}s", ms / 1_000),
            ms if ms % 3_600_000 != 0 => write!(f, "{}m", ms / 60_000),
            ms => write!(f, "{}h", ms / 3_600_000),
        }
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bad = || format!("`{}` is not a time: write `250ms`, `20s`, `15m` or `8h`", text);
        Self::parse(&text).ok_or_else(|| de::Error::custom(bad()))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bad = || format!("`{text}` is not a size: write `512KiB`, `64MiB` or `1GiB`");
        Self::parse(&text).ok_or_else(|| de::Error::custom(bad()))
    }
}

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$",
            "description": "A time with its unit: 250ms, 20s, 15m, 8h.",
        })
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$",
            "description": "A size with its unit: 512KiB, 64MiB, 1GiB.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, ms) in [("250ms", 250), ("20s", 20_000), ("15m", 900_000), ("8h", 28_800_000)] {
            let time = Time::parse(text);
            assert_eq!(time, Some(Time { ms }), "{text}");
            assert_eq!(time.map(|time| time.to_string()).as_deref(), Some(text));
        }
        for bad in ["", "15", "m", "1w", "-1s", "99999999999999999999h", "18446744073709551615h"] {
            assert_eq!(Time::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(Size::parse("64MiB"), Some(Size::mib(64)));
        for bad in ["", "64", "64MB", "MiB", "99999999999GiB"] {
            assert_eq!(Size::parse(bad), None, "{bad}");
        }
    }
}
