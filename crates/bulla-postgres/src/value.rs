//! Bound values, decoded for the record. Display only: the exact bytes are evidence.

use bulla_core::ParameterValue;
use bytes::Bytes;

/// Values longer than this are kept as evidence alone.
const INLINE_BYTES_MAX: usize = 4096;

/// The name of a built-in type, where a person would know it by name.
pub fn type_name(oid: u32) -> &'static str {
    match oid {
        16 => "boolean",
        17 => "bytea",
        18 => "char",
        19 => "name",
        20 => "bigint",
        21 => "smallint",
        23 => "integer",
        25 => "text",
        26 => "oid",
        114 => "json",
        700 => "real",
        701 => "double precision",
        1042 => "character",
        1043 => "character varying",
        1082 => "date",
        1083 => "time",
        1114 => "timestamp",
        1184 => "timestamptz",
        1700 => "numeric",
        2950 => "uuid",
        3802 => "jsonb",
        _ => "",
    }
}

/// `binary`: the value is in the type's binary format.
pub fn decode(oid: u32, binary: bool, bytes: &Bytes) -> ParameterValue {
    if bytes.len() > INLINE_BYTES_MAX {
        return ParameterValue::Large { bytes: bytes.len() as u64 };
    }
    let text = if binary { from_binary(oid, bytes) } else { utf8(bytes) };
    text.map_or_else(|| ParameterValue::Bytes(bytes.clone()), |t| ParameterValue::Text(t.into()))
}

fn utf8(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_string)
}

/// Sizes are part of a type's binary format: another size is not that type.
fn from_binary(oid: u32, bytes: &[u8]) -> Option<String> {
    Some(match oid {
        16 => match bytes {
            [0] => "false".into(),
            [1] => "true".into(),
            _ => return None,
        },
        21 => i16::from_be_bytes(bytes.try_into().ok()?).to_string(),
        23 => i32::from_be_bytes(bytes.try_into().ok()?).to_string(),
        20 => i64::from_be_bytes(bytes.try_into().ok()?).to_string(),
        26 => u32::from_be_bytes(bytes.try_into().ok()?).to_string(),
        700 => f32::from_be_bytes(bytes.try_into().ok()?).to_string(),
        701 => f64::from_be_bytes(bytes.try_into().ok()?).to_string(),
        18 | 19 | 25 | 114 | 1042 | 1043 => utf8(bytes)?,
        3802 => match bytes.split_first() {
            Some((1, json)) => utf8(json)?,
            _ => return None,
        },
        2950 => {
            let hex = format!("{:032x}", u128::from_be_bytes(bytes.try_into().ok()?));
            let part = |a: usize, b: usize| hex.get(a..b).unwrap_or_default().to_string();
            [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
        }
        17 => bytes.iter().fold("\\x".to_string(), |out, b| out + &format!("{b:02x}")),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_what_it_is_sure_of() {
        let check = |oid, bytes: &[u8], expect: &str| {
            let value = decode(oid, true, &Bytes::copy_from_slice(bytes));
            assert_eq!(value, ParameterValue::Text(expect.into()), "{oid}");
        };
        check(23, &[0, 0, 0, 42], "42");
        check(20, &[255; 8], "-1");
        check(16, &[1], "true");
        check(701, &1.5f64.to_be_bytes(), "1.5");
        check(3802, b"\x01{}", "{}");
        check(2950, &[0x12; 16], "12121212-1212-1212-1212-121212121212");
        check(17, &[0xde, 0xad], "\\xdead");
    }

    #[test]
    fn keeps_bytes_when_in_doubt() {
        for (oid, binary, bytes) in [
            (23, true, &[0u8, 1][..]),
            (25, false, &[0xff]),
            (3802, true, b"\x02{}"),
            (600, true, b"x"),
        ] {
            let bytes = Bytes::copy_from_slice(bytes);
            assert_eq!(decode(oid, binary, &bytes), ParameterValue::Bytes(bytes));
        }
        let large = Bytes::from(vec![b'x'; 5000]);
        assert_eq!(decode(25, false, &large), ParameterValue::Large { bytes: 5000 });
    }
}
