//! Bound values, decoded for the record. Display only: the exact bytes are evidence.
//!
//! A value is shown as the server itself would show what it received (`IntervalStyle = postgres`,
//! ISO dates, UTC), with `true` and `false` spelled out. Ranges are shown as they were sent, before
//! the server brings them to its canonical form, and so is JSON; a float in the fewest digits that
//! read back, which in a few cases are fewer than the server's (`1e+23`).
//!
//! In doubt nothing is guessed: what is not whole and of its type's form to the last byte stays
//! bytes, and so do `money`, whose fraction is a setting of the server, and `xml`, whose encoding
//! is inside. Whether the server takes what has the right form (a range's bounds in order, JSON
//! that parses) is left to the server. The formats are those of PostgreSQL 13 to 18.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use bulla_core::ParameterValue;
use bulla_wire::Reader;
use bytes::Bytes;

/// Values longer than this are kept as evidence alone.
const INLINE_BYTES_MAX: usize = 4096;
/// Longest text that a value may be decoded to: ten bytes of `numeric` can mean 131072 digits.
const TEXT_BYTES_MAX: usize = 32 * 1024;
/// PostgreSQL's `MAXDIM`.
const DIMENSIONS_MAX: usize = 6;

/// The binary format of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Bool,
    Int2,
    Int4,
    Int8,
    /// 32 bits without a sign: numbers of objects, whose names only the server knows, and of
    /// transactions.
    Oid,
    Xid8,
    Float4,
    Float8,
    Numeric,
    Text,
    Char,
    /// A version, which is 1, and text.
    Versioned,
    Bytea,
    Uuid,
    Date,
    Time,
    TimeTz,
    Timestamp,
    TimestampTz,
    Interval,
    Inet,
    Cidr,
    Mac(usize),
    Bits,
    Tid,
    Lsn,
    /// Of this type.
    Range(u32),
    /// Of this range type.
    Multirange(u32),
    /// Of this element type.
    Array(u32),
    /// Known by name alone.
    Opaque,
}

/// One `match` from a table: number, number of the array type, name, shape.
macro_rules! types {
    ($($oid:literal $array:literal $name:literal $shape:expr;)*) => {
        const fn known(oid: u32) -> Option<(&'static str, Shape)> {
            use Shape::*;
            match oid {
                $(
                    $oid => Some(($name, $shape)),
                    $array => Some((concat!($name, "[]"), Array($oid))),
                )*
                705 => Some(("unknown", Text)),
                2275 => Some(("cstring", Text)),
                _ => None,
            }
        }

        #[cfg(test)]
        const OIDS: &[u32] = &[$($oid, $array),*];
    };
}

types! {
    16 1000 "boolean" Bool;
    17 1001 "bytea" Bytea;
    18 1002 "char" Char;
    19 1003 "name" Text;
    20 1016 "bigint" Int8;
    21 1005 "smallint" Int2;
    23 1007 "integer" Int4;
    24 1008 "regproc" Oid;
    25 1009 "text" Text;
    26 1028 "oid" Oid;
    27 1010 "tid" Tid;
    28 1011 "xid" Oid;
    29 1012 "cid" Oid;
    114 199 "json" Text;
    142 143 "xml" Opaque;
    600 1017 "point" Opaque;
    601 1018 "lseg" Opaque;
    602 1019 "path" Opaque;
    603 1020 "box" Opaque;
    604 1027 "polygon" Opaque;
    628 629 "line" Opaque;
    650 651 "cidr" Cidr;
    700 1021 "real" Float4;
    701 1022 "double precision" Float8;
    718 719 "circle" Opaque;
    774 775 "macaddr8" Mac(8);
    790 791 "money" Opaque;
    829 1040 "macaddr" Mac(6);
    869 1041 "inet" Inet;
    1042 1014 "character" Text;
    1043 1015 "character varying" Text;
    1082 1182 "date" Date;
    1083 1183 "time" Time;
    1114 1115 "timestamp" Timestamp;
    1184 1185 "timestamptz" TimestampTz;
    1186 1187 "interval" Interval;
    1266 1270 "timetz" TimeTz;
    1560 1561 "bit" Bits;
    1562 1563 "bit varying" Bits;
    1700 1231 "numeric" Numeric;
    1790 2201 "refcursor" Text;
    2202 2207 "regprocedure" Oid;
    2203 2208 "regoper" Oid;
    2204 2209 "regoperator" Oid;
    2205 2210 "regclass" Oid;
    2206 2211 "regtype" Oid;
    2950 2951 "uuid" Uuid;
    3220 3221 "pg_lsn" Lsn;
    3614 3643 "tsvector" Opaque;
    3615 3645 "tsquery" Opaque;
    3734 3735 "regconfig" Oid;
    3769 3770 "regdictionary" Oid;
    3802 3807 "jsonb" Versioned;
    3904 3905 "int4range" Range(23);
    3906 3907 "numrange" Range(1700);
    3908 3909 "tsrange" Range(1114);
    3910 3911 "tstzrange" Range(1184);
    3912 3913 "daterange" Range(1082);
    3926 3927 "int8range" Range(20);
    4072 4073 "jsonpath" Versioned;
    4089 4090 "regnamespace" Oid;
    4096 4097 "regrole" Oid;
    4191 4192 "regcollation" Oid;
    4451 6150 "int4multirange" Multirange(3904);
    4532 6151 "nummultirange" Multirange(3906);
    4533 6152 "tsmultirange" Multirange(3908);
    4534 6153 "tstzmultirange" Multirange(3910);
    4535 6155 "datemultirange" Multirange(3912);
    4536 6157 "int8multirange" Multirange(3926);
    5069 271 "xid8" Xid8;
}

/// The name of a built-in type; empty for all others.
pub fn type_name(oid: u32) -> &'static str {
    known(oid).map_or("", |(name, _)| name)
}

/// `binary`: the value is in the type's binary format. The type of a domain's value is the domain's
/// base type.
pub fn decode(oid: u32, binary: bool, bytes: &Bytes) -> ParameterValue {
    if bytes.len() > INLINE_BYTES_MAX {
        return ParameterValue::Large { bytes: bytes.len() as u64 };
    }
    let text: Option<Arc<str>> = if binary {
        known(oid).and_then(|(_, shape)| {
            let mut out = String::new();
            show(shape, bytes, &mut out).map(|()| out.into())
        })
    } else {
        utf8(bytes).map(Into::into)
    };
    text.map_or_else(|| ParameterValue::Bytes(bytes.clone()), ParameterValue::Text)
}

/// Appends what `bytes`, to their last, mean. None: they are not a value of that shape, or the text
/// would be too long.
fn show(shape: Shape, bytes: &[u8], out: &mut String) -> Option<()> {
    let mut reader = Reader::new(bytes);
    show_from(shape, &mut reader, out)?;
    reader.finish().ok()?;
    (out.len() <= TEXT_BYTES_MAX).then_some(())
}

fn show_from(shape: Shape, from: &mut Reader<'_>, out: &mut String) -> Option<()> {
    match shape {
        Shape::Bool => out.push_str(if from.u8().ok()? != 0 { "true" } else { "false" }),
        Shape::Int2 => write!(out, "{}", i16::from_be_bytes(array(from)?)).ok()?,
        Shape::Int4 => write!(out, "{}", i32::from_be_bytes(array(from)?)).ok()?,
        Shape::Int8 => write!(out, "{}", i64::from_be_bytes(array(from)?)).ok()?,
        Shape::Oid => write!(out, "{}", u32::from_be_bytes(array(from)?)).ok()?,
        Shape::Xid8 => write!(out, "{}", u64::from_be_bytes(array(from)?)).ok()?,
        Shape::Float4 => {
            let value = f32::from_be_bytes(array(from)?);
            let shortest = format!("{value:e}");
            let nearest = format!("{:.1$e}", value, places(&shortest));
            let reads = nearest.parse() == Ok(value);
            float(value.into(), if reads { &nearest } else { &shortest }, 6, out)?;
        }
        Shape::Float8 => {
            let value = f64::from_be_bytes(array(from)?);
            let shortest = format!("{value:e}");
            let nearest = format!("{:.1$e}", value, places(&shortest));
            let reads = nearest.parse() == Ok(value);
            float(value, if reads { &nearest } else { &shortest }, 15, out)?;
        }
        Shape::Numeric => numeric(from, out)?,
        Shape::Text => out.push_str(utf8(from.rest())?),
        Shape::Char => match from.u8().ok()? {
            0 => {}
            byte if byte.is_ascii() => out.push(byte.into()),
            _ => return None,
        },
        Shape::Versioned => {
            if from.u8().ok()? != 1 {
                return None;
            }
            out.push_str(utf8(from.rest())?);
        }
        Shape::Bytea => {
            out.push_str("\\x");
            from.rest().iter().try_for_each(|byte| write!(out, "{byte:02x}")).ok()?;
        }
        Shape::Uuid => {
            let value = u128::from_be_bytes(array(from)?);
            let part = |shift: u32, bits: u32| (value >> shift) & ((1 << bits) - 1);
            let (a, b, c) = (part(96, 32), part(80, 16), part(64, 16));
            write!(out, "{a:08x}-{b:04x}-{c:04x}-{:04x}-{:012x}", part(48, 16), part(0, 48))
                .ok()?;
        }
        Shape::Date => date(i32::from_be_bytes(array(from)?), out)?,
        Shape::Time => clock(i64::from_be_bytes(array(from)?), out)?,
        Shape::TimeTz => {
            clock(i64::from_be_bytes(array(from)?), out)?;
            offset(i32::from_be_bytes(array(from)?), out)?;
        }
        Shape::Timestamp => timestamp(i64::from_be_bytes(array(from)?), "", out)?,
        Shape::TimestampTz => timestamp(i64::from_be_bytes(array(from)?), "+00", out)?,
        Shape::Interval => interval(from, out)?,
        Shape::Inet => network(from, Mask::WherePartial, out)?,
        Shape::Cidr => network(from, Mask::Always, out)?,
        Shape::Mac(size) => {
            for (at, byte) in from.bytes(size).ok()?.iter().enumerate() {
                write!(out, "{}{byte:02x}", if at == 0 { "" } else { ":" }).ok()?;
            }
        }
        Shape::Bits => bits(from, out)?,
        Shape::Tid => {
            let (block, at) = (from.u32().ok()?, from.u16().ok()?);
            write!(out, "({block},{at})").ok()?;
        }
        Shape::Lsn => {
            let (high, low) = (from.u32().ok()?, from.u32().ok()?);
            write!(out, "{high:X}/{low:X}").ok()?;
        }
        Shape::Range(of) => range(known(of)?.1, from, out)?,
        Shape::Multirange(of) => multirange(known(of)?.1, from, out)?,
        Shape::Array(of) => elements(of, from, out)?,
        Shape::Opaque => return None,
    }
    Some(())
}

/// Text as the server takes it: without zero bytes.
fn utf8(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

fn say(text: &str, out: &mut String) -> Option<()> {
    out.push_str(text);
    Some(())
}

fn array<const N: usize>(from: &mut Reader<'_>) -> Option<[u8; N]> {
    from.bytes(N).ok()?.try_into().ok()
}

/// Digits behind the point of `1.25e0`. Of several texts of that length, the server takes the one
/// nearest to the value.
fn places(digits: &str) -> usize {
    let mantissa = digits.split('e').next().unwrap_or_default();
    mantissa.split_once('.').map_or(0, |(_, part)| part.len())
}

/// `digits`: the shortest that read back, as `1.5e0`. Fixed notation where the exponent is from -4
/// to below `fixed`, as the server has it.
fn float(value: f64, digits: &str, fixed: i32, out: &mut String) -> Option<()> {
    if value.is_nan() {
        out.push_str("NaN");
        return Some(());
    }
    if value.is_sign_negative() {
        out.push('-');
    }
    if value.is_infinite() {
        out.push_str("Infinity");
        return Some(());
    }
    let (mantissa, exponent) = digits.trim_start_matches('-').split_once('e')?;
    let exponent: i32 = exponent.parse().ok()?;
    if !(-4..fixed).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(out, "{mantissa}e{sign}{:02}", exponent.unsigned_abs()).ok()?;
        return Some(());
    }
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    if exponent < 0 {
        out.push_str("0.");
        out.extend(std::iter::repeat_n('0', usize::try_from(-exponent - 1).ok()?));
        out.push_str(&digits);
        return Some(());
    }
    let whole = usize::try_from(exponent + 1).ok()?;
    match digits.split_at_checked(whole) {
        Some((whole, "")) => out.push_str(whole),
        Some((whole, part)) => write!(out, "{whole}.{part}").ok()?,
        None => {
            out.push_str(&digits);
            out.extend(std::iter::repeat_n('0', whole - digits.len()));
        }
    }
    Some(())
}

/// Groups of four digits, the first of weight 10000^`weight`; `scale` digits behind the point.
fn numeric(from: &mut Reader<'_>, out: &mut String) -> Option<()> {
    let count = usize::from(from.u16().ok()?);
    let weight = i32::from(i16::from_be_bytes(array(from)?));
    let sign = from.u16().ok()?;
    let scale = usize::from(from.u16().ok()?);
    let groups: Vec<u16> = (0..count).map(|_| from.u16().ok()).collect::<Option<_>>()?;
    if scale > 0x3fff || groups.iter().any(|group| *group > 9999) {
        return None;
    }
    let sign = match sign {
        0x0000 => "",
        0x4000 => "-",
        0xc000 | 0xd000 | 0xf000 if count > 0 => return None,
        0xc000 => return say("NaN", out),
        0xd000 => return say("Infinity", out),
        0xf000 => return say("-Infinity", out),
        _ => return None,
    };
    let before = usize::try_from(weight + 1).unwrap_or(0);
    if before * 4 + scale > TEXT_BYTES_MAX {
        return None;
    }
    // The group of weight 10000^`at`, counted down from `weight`.
    let group = |at: i32| {
        let group = usize::try_from(weight - at).ok().and_then(|at| groups.get(at));
        format!("{:04}", group.copied().unwrap_or(0))
    };
    let whole: String = (0..=weight).rev().map(group).collect();
    let whole = whole.trim_start_matches('0');
    let behind = i32::try_from(scale.div_ceil(4)).ok()?;
    let part: String = (1..=behind).map(|at| group(-at)).collect();
    let part = part.get(..scale)?;
    let zero = whole.is_empty() && part.bytes().all(|digit| digit == b'0');
    out.push_str(if zero { "" } else { sign });
    out.push_str(if whole.is_empty() { "0" } else { whole });
    if scale > 0 {
        write!(out, ".{part}").ok()?;
    }
    Some(())
}

/// Days from the Unix epoch to 2000-01-01, where PostgreSQL counts from.
const EPOCH_DAYS: i64 = 10_957;
/// What dates and timestamps may hold: 4713-11-24 BC to 5874897-12-31 and to the end of 294276.
const DATES: std::ops::Range<i64> = -2_451_545..2_145_031_949;
const TIMESTAMPS: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;
const DAY_US: i64 = 86_400_000_000;

/// Writes `2020-01-31`; gives what has to stand behind everything.
fn day(days: i64, out: &mut String) -> Option<&'static str> {
    // The proleptic Gregorian calendar in eras of 400 years that start on 1 March of year 0.
    let days = days + EPOCH_DAYS + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + later;
    let (year, suffix) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    write!(out, "{year:04}-{month:02}-{day:02}").ok()?;
    Some(suffix)
}

fn date(days: i32, out: &mut String) -> Option<()> {
    match days {
        i32::MAX => out.push_str("infinity"),
        i32::MIN => out.push_str("-infinity"),
        _ if !DATES.contains(&days.into()) => return None,
        _ => {
            let suffix = day(days.into(), out)?;
            out.push_str(suffix);
        }
    }
    Some(())
}

/// Appends `.5` for half a second, nothing for a whole one.
fn fraction(us: u64, out: &mut String) -> Option<()> {
    if us > 0 {
        out.push_str(format!(".{us:06}").trim_end_matches('0'));
    }
    Some(())
}

/// Hours, minutes and seconds of so many microseconds.
fn seconds(us: u64, out: &mut String) -> Option<()> {
    let s = us / 1_000_000;
    write!(out, "{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60).ok()?;
    fraction(us % 1_000_000, out)
}

/// A time of day, to 24:00:00.
fn clock(us: i64, out: &mut String) -> Option<()> {
    let us = u64::try_from(us).ok()?;
    if us > DAY_US.unsigned_abs() {
        return None;
    }
    seconds(us, out)
}

/// `west`: seconds west of Greenwich, less than 16 hours either way.
fn offset(west: i32, out: &mut String) -> Option<()> {
    let s = west.unsigned_abs();
    if s >= 16 * 3600 {
        return None;
    }
    write!(out, "{}{:02}", if west <= 0 { '+' } else { '-' }, s / 3600).ok()?;
    if !s.is_multiple_of(3600) {
        write!(out, ":{:02}", s / 60 % 60).ok()?;
    }
    if !s.is_multiple_of(60) {
        write!(out, ":{:02}", s % 60).ok()?;
    }
    Some(())
}

fn timestamp(us: i64, zone: &str, out: &mut String) -> Option<()> {
    match us {
        i64::MAX => out.push_str("infinity"),
        i64::MIN => out.push_str("-infinity"),
        _ if !TIMESTAMPS.contains(&us) => return None,
        _ => {
            let suffix = day(us.div_euclid(DAY_US), out)?;
            out.push(' ');
            clock(us.rem_euclid(DAY_US), out)?;
            out.push_str(zone);
            out.push_str(suffix);
        }
    }
    Some(())
}

/// `1 year 2 mons -3 days +04:05:06.5`, with the signs that the server sets.
fn interval(from: &mut Reader<'_>, out: &mut String) -> Option<()> {
    let us = i64::from_be_bytes(array(from)?);
    let days = i32::from_be_bytes(array(from)?);
    let months = i32::from_be_bytes(array(from)?);
    match (us, days, months) {
        (i64::MAX, i32::MAX, i32::MAX) => return say("infinity", out),
        (i64::MIN, i32::MIN, i32::MIN) => return say("-infinity", out),
        _ => {}
    }
    let (mut empty, mut negative) = (true, false);
    for (value, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if value == 0 {
            continue;
        }
        let space = if empty { "" } else { " " };
        let plus = if negative && value > 0 { "+" } else { "" };
        write!(out, "{space}{plus}{value} {unit}{}", if value == 1 { "" } else { "s" }).ok()?;
        (empty, negative) = (false, value < 0);
    }
    if empty || us != 0 {
        out.push_str(if empty { "" } else { " " });
        out.push_str(match (us < 0, negative) {
            (true, _) => "-",
            (false, true) => "+",
            (false, false) => "",
        });
        seconds(us.unsigned_abs(), out)?;
    }
    Some(())
}

/// When the length of an address's network part is shown.
#[derive(PartialEq, Eq)]
enum Mask {
    WherePartial,
    Always,
}

fn network(from: &mut Reader<'_>, mask: Mask, out: &mut String) -> Option<()> {
    let (family, length) = (from.u8().ok()?, from.u8().ok()?);
    // Says whether it is a `cidr`; the server goes by the type instead.
    from.u8().ok()?;
    let whole = match (family, from.u8().ok()?) {
        (2, 4) => {
            write!(out, "{}", Ipv4Addr::from(array::<4>(from)?)).ok()?;
            32
        }
        (3, 16) => {
            address6(array(from)?, out)?;
            128
        }
        _ => return None,
    };
    if length > whole {
        return None;
    }
    if length < whole || mask == Mask::Always {
        write!(out, "/{length}").ok()?;
    }
    Some(())
}

fn address6(bytes: [u8; 16], out: &mut String) -> Option<()> {
    let value = u128::from_be_bytes(bytes);
    let address = Ipv6Addr::from(bytes);
    match u32::try_from(value) {
        // An IPv4 address in IPv6's clothes, which the server shows as such.
        Ok(low) if low > 0xffff => write!(out, "::{}", Ipv4Addr::from(low)).ok(),
        _ => write!(out, "{address}").ok(),
    }
}

fn bits(from: &mut Reader<'_>, out: &mut String) -> Option<()> {
    let count = usize::try_from(i32::from_be_bytes(array(from)?)).ok()?;
    let bytes = from.bytes(count.div_ceil(8)).ok()?;
    let bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1));
    out.extend(bits.take(count).map(|bit| if bit == 1 { '1' } else { '0' }));
    Some(())
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// A value of its own length; None inside: NULL.
fn part<'a>(from: &mut Reader<'a>) -> Option<Option<&'a [u8]>> {
    match from.length32().ok()? {
        None => Some(None),
        Some(length) => from.bytes(length).ok().map(Some),
    }
}

/// One bound of a range. Quotes are doubled.
fn bound(of: Shape, from: &mut Reader<'_>, out: &mut String) -> Option<()> {
    let mut text = String::new();
    show(of, part(from)??, &mut text)?;
    let marks = |c| matches!(c, '"' | '\\' | '(' | ')' | '[' | ']' | ',') || is_space(c);
    if text.is_empty() || text.contains(marks) {
        let text = text.replace('\\', "\\\\").replace('"', "\"\"");
        write!(out, "\"{text}\"").ok()
    } else {
        say(&text, out)
    }
}

fn range(of: Shape, from: &mut Reader<'_>, out: &mut String) -> Option<()> {
    const EMPTY: u8 = 1;
    const LOWER_INCLUSIVE: u8 = 2;
    const UPPER_INCLUSIVE: u8 = 4;
    const LOWER_INFINITE: u8 = 8;
    const UPPER_INFINITE: u8 = 16;
    let flags = from.u8().ok()?;
    let has = |flag| flags & flag != 0;
    if flags == EMPTY {
        return say("empty", out);
    }
    let odd = has(LOWER_INFINITE) && has(LOWER_INCLUSIVE)
        || has(UPPER_INFINITE) && has(UPPER_INCLUSIVE)
        || has(EMPTY)
        || flags > 31;
    if odd {
        return None;
    }
    out.push(if has(LOWER_INCLUSIVE) { '[' } else { '(' });
    if !has(LOWER_INFINITE) {
        bound(of, from, out)?;
    }
    out.push(',');
    if !has(UPPER_INFINITE) {
        bound(of, from, out)?;
    }
    out.push(if has(UPPER_INCLUSIVE) { ']' } else { ')' });
    Some(())
}

fn multirange(of: Shape, from: &mut Reader<'_>, out: &mut String) -> Option<()> {
    out.push('{');
    for at in 0..from.u32().ok()? {
        out.push_str(if at == 0 { "" } else { "," });
        show(of, part(from)??, out)?;
    }
    out.push('}');
    Some(())
}

/// An array of any number of dimensions: `[0:1]={1,NULL}`.
fn elements(of: u32, from: &mut Reader<'_>, out: &mut String) -> Option<()> {
    let dimensions = usize::try_from(from.u32().ok()?).ok()?;
    // Whether there may be NULLs; the server looks for itself.
    if dimensions > DIMENSIONS_MAX || from.u32().ok()? > 1 || from.u32().ok()? != of {
        return None;
    }
    let (mut sizes, mut bounds, mut usual) = (Vec::new(), String::new(), true);
    for _ in 0..dimensions {
        let size = i32::from_be_bytes(array(from)?);
        let lower = i32::from_be_bytes(array(from)?);
        usual &= lower == 1;
        write!(bounds, "[{lower}:{}]", lower.checked_add(size)?.checked_sub(1)?).ok()?;
        sizes.push(usize::try_from(size).ok()?);
    }
    let total = sizes.iter().try_fold(1, |total: usize, size| total.checked_mul(*size))?;
    if dimensions == 0 || total == 0 {
        return say("{}", out);
    }
    // Each element has at least its length.
    if total > from.remaining() / 4 {
        return None;
    }
    if !usual {
        write!(out, "{bounds}=").ok()?;
    }
    // How many elements each dimension holds, the outermost first.
    let spans: Vec<usize> =
        (0..dimensions).map(|at| sizes.iter().skip(at).product::<usize>()).collect();
    let edges = |at: usize| spans.iter().filter(|span| at.is_multiple_of(**span)).count();
    let shape = known(of)?.1;
    for at in 0..total {
        out.push_str(if at == 0 { "" } else { "," });
        out.extend(std::iter::repeat_n('{', edges(at)));
        element(shape, part(from)?, out)?;
        out.extend(std::iter::repeat_n('}', edges(at + 1)));
        if out.len() > TEXT_BYTES_MAX {
            return None;
        }
    }
    Some(())
}

fn element(shape: Shape, bytes: Option<&[u8]>, out: &mut String) -> Option<()> {
    let Some(bytes) = bytes else { return say("NULL", out) };
    let mut text = String::new();
    show(shape, bytes, &mut text)?;
    let marks = |c| matches!(c, '"' | '\\' | '{' | '}' | ',') || is_space(c);
    if text.is_empty() || text.eq_ignore_ascii_case("null") || text.contains(marks) {
        let text = text.replace('\\', "\\\\").replace('"', "\\\"");
        write!(out, "\"{text}\"").ok()
    } else {
        say(&text, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unhex(hex: &str) -> Bytes {
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        hex.as_bytes().chunks(2).map(|pair| byte(pair).unwrap()).collect()
    }

    fn text(oid: u32, bytes: &Bytes) -> Option<String> {
        match decode(oid, true, bytes) {
            ParameterValue::Text(text) => Some(text.to_string()),
            _ => None,
        }
    }

    /// What PostgreSQL 15.18 and 18.4 send for a value in binary and show of it as text.
    #[rustfmt::skip]
    const VECTORS: &[(u32, &str, &str)] = &[
        (16, "01", "true"), (16, "00", "false"), (21, "0000", "0"), (21, "8000", "-32768"),
        (21, "7fff", "32767"), (23, "0000002a", "42"), (23, "80000000", "-2147483648"),
        (23, "7fffffff", "2147483647"), (20, "ffffffffffffffff", "-1"),
        (20, "8000000000000000", "-9223372036854775808"),
        (20, "7fffffffffffffff", "9223372036854775807"), (26, "ffffffff", "4294967295"),
        (28, "00000007", "7"), (29, "00000003", "3"),
        (5069, "ffffffffffffffff", "18446744073709551615"),
        (27, "ffffffffffff", "(4294967295,65535)"), (3220, "00000016b374d848", "16/B374D848"),
        (3220, "0000000000000000", "0/0"), (700, "00000000", "0"), (700, "80000000", "-0"),
        (700, "3fc00000", "1.5"), (700, "49742400", "1e+06"), (700, "497423f0", "999999"),
        (700, "4996b438", "1.234567e+06"), (700, "38d1b717", "0.0001"),
        (700, "38cf9e38", "9.9e-05"), (700, "7fc00000", "NaN"), (700, "7f800000", "Infinity"),
        (700, "ff800000", "-Infinity"), (700, "7f7fffff", "3.4028235e+38"),
        (700, "00000001", "1e-45"), (700, "3dcccccd", "0.1"), (700, "42c80000", "100"),
        (700, "c1440000", "-12.25"), (701, "0000000000000000", "0"),
        (701, "8000000000000000", "-0"), (701, "3ff8000000000000", "1.5"),
        (701, "430c6bf526340000", "1e+15"), (701, "42d6bcc41e900000", "100000000000000"),
        (701, "42dc12218377de40", "123456789012345"),
        (701, "43118b54f22aeb00", "1.234567890123456e+15"), (701, "3f1a36e2eb1c432d", "0.0001"),
        (701, "3f19f3c70c996b76", "9.9e-05"), (701, "7ff8000000000000", "NaN"),
        (701, "7ff0000000000000", "Infinity"), (701, "fff0000000000000", "-Infinity"),
        (701, "7fefffffffffffff", "1.7976931348623157e+308"), (701, "0000000000000001", "5e-324"),
        (701, "3fb999999999999a", "0.1"), (701, "4059000000000000", "100"),
        (701, "c028800000000000", "-12.25"), (701, "4340000000000000", "9.007199254740992e+15"),
        (701, "3fd5555555555555", "0.3333333333333333"), (701, "81a56e1fc2f8f359", "-1e-300"),
        (1700, "0000000000000000", "0"), (1700, "0000000000000002", "0.00"),
        (1700, "0001ffff400000011388", "-0.5"), (1700, "00010000000000000001", "1"),
        (1700, "0001000000000000002a", "42"), (1700, "00010001000000000001", "10000"),
        (1700, "00010002000000000001", "100000000"),
        (1700, "000300010000000204d2162e2328", "12345678.90"),
        (1700, "0003000140000004000109291a85", "-12345.6789"),
        (1700, "0001ffff000000040001", "0.0001"), (1700, "0001fffe0000000503e8", "0.00001"),
        (1700, "0001fffd0000000c04d2", "0.000000001234"),
        (1700, "00010005000000000001", "100000000000000000000"),
        (1700, "0001fffb000000140001", "0.00000000000000000001"),
        (1700, "0007000400000008270f270f270f270f270f270f270f", "99999999999999999999.99999999"),
        (1700, "00000000c0000000", "NaN"), (1700, "00000000d0000020", "Infinity"),
        (1700, "00000000f0000020", "-Infinity"), (1700, "0002000000000002000103e8", "1.10"),
        (1700, "0001ffff0000000403e8", "0.1000"),
        (1700, "0002fffc40000011000107d0", "-0.00000000000000012"),
        (1700, "000a00090000000004d2162e23340d801ed204d2162e23340d801ed2",
            "1234567890123456789012345678901234567890"),
        (25, "", ""), (25, "68c3a46c6c6f20e29883", "hällo ☃"), (25, "612262", "a\"b"),
        (1043, "78", "x"), (1042, "782020", "x  "), (19, "6e", "n"),
        (114, "7b2261223a20317d", "{\"a\": 1}"),
        (3802, "017b2261223a205b312c20322e35302c206e756c6c5d7d", "{\"a\": [1, 2.50, null]}"),
        (4072, "01242e2261225b2a5d", "$.\"a\"[*]"), (18, "78", "x"),
        (2950, "00000000000000000000000000000000", "00000000-0000-0000-0000-000000000000"),
        (2950, "123e4567e89b12d3a456426614174000", "123e4567-e89b-12d3-a456-426614174000"),
        (2950, "ffffffffffffffffffffffffffffffff", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
        (17, "", "\\x"), (17, "deadbeef00", "\\xdeadbeef00"), (1082, "00000000", "2000-01-01"),
        (1082, "ffffffff", "1999-12-31"), (1082, "ffffd533", "1970-01-01"),
        (1082, "00002279", "2024-02-29"), (1082, "ffff718f", "1900-03-01"),
        (1082, "fff4dbf9", "0001-01-01"), (1082, "fff4dbf8", "0001-12-31 BC"),
        (1082, "ffda9915", "4713-11-24 BC"), (1082, "fff4e07b", "0004-02-29"),
        (1082, "7fda970c", "5874897-12-31"), (1082, "002c95d4", "10000-01-01"),
        (1082, "7fffffff", "infinity"), (1082, "80000000", "-infinity"),
        (1083, "0000000000000000", "00:00:00"), (1083, "000000141dd75fff", "23:59:59.999999"),
        (1083, "000000141dd76000", "24:00:00"), (1083, "000000036c966ee0", "04:05:06.7"),
        (1083, "0000000a0eebb001", "12:00:00.000001"),
        (1266, "000000036c8bc08000000000", "04:05:06+00"),
        (1266, "000000036c97ca8800007080", "04:05:06.789-08"),
        (1266, "000000036c8bc080ffffb2a8", "04:05:06+05:30"),
        (1266, "000000141dc81dc0ffff1f01", "23:59:59+15:59:59"),
        (1266, "000000000000000000000001", "00:00:00-00:00:01"),
        (1266, "000000141dd760000000b34c", "24:00:00-12:45"),
        (1114, "0000000000000000", "2000-01-01 00:00:00"),
        (1114, "ffffffffffffffff", "1999-12-31 23:59:59.999999"),
        (1114, "0002b58341712a60", "2024-02-29 12:34:56.7"),
        (1114, "ff1fc63d1bb12000", "0001-01-01 00:00:00 BC"),
        (1114, "fd0f9983eb0ae000", "4713-11-24 00:00:00 BC"),
        (1114, "7fffff5bb3b29fff", "294276-12-31 23:59:59.999999"),
        (1114, "7fffffffffffffff", "infinity"), (1114, "8000000000000000", "-infinity"),
        (1114, "ff1af9e8fb4e7120", "0044-03-15 12:00:00.5 BC"),
        (1184, "0000000000000000", "2000-01-01 00:00:00+00"),
        (1184, "0002bf215ed896e0", "2024-06-30 21:59:59.5+00"),
        (1184, "ff1af9e8fb46d000", "0044-03-15 12:00:00+00 BC"),
        (1184, "7fffffffffffffff", "infinity"), (1184, "8000000000000000", "-infinity"),
        (1186, "00000000000000000000000000000000", "00:00:00"),
        (1186, "0000000000000000000000000000000c", "1 year"),
        (1186, "00000000000000000000000000000019", "2 years 1 mon"),
        (1186, "000000000000000000000000fffffff4", "-1 years"),
        (1186, "0000000000000000ffffffff00000001", "1 mon -1 days"),
        (1186, "000000000000000000000001ffffffff", "-1 mons +1 day"),
        (1186, "000000036c8bc080ffffffff00000000", "-1 days +04:05:06"),
        (1186, "fffffffc936835780000000100000000", "1 day -04:05:06.789"),
        (1186, "ffffffffffffffff0000000000000000", "-00:00:00.000001"),
        (1186, "00000053d1ac10000000000000000000", "100:00:00"),
        (1186, "fffffffffff0bdc000000002ffffffff", "-1 mons +2 days -00:00:01"),
        (1186, "000000036c966ee0000000030000000e", "1 year 2 mons 3 days 04:05:06.7"),
        (1186, "000000000000000000000000fffffff3", "-1 years -1 mons"),
        (1186, "0000000000000000000000000000000d", "1 year 1 mon"),
        (1186, "00000000d693a400ffffffff0000000c", "1 year -1 days +01:00:00"),
        (1186, "ffffffff296c5c0000000001fffffff4", "-1 years +1 day -01:00:00"),
        (1186, "00000000000000007fffffff00000000", "2147483647 days"),
        (1186, "00000000000000000000000080000000", "-178956970 years -8 mons"),
        (1186, "7fffffffffffffff0000000000000000", "2562047788:00:54.775807"),
        (869, "022000047f000001", "127.0.0.1"), (869, "020800040a000001", "10.0.0.1/8"),
        (869, "0200000400000000", "0.0.0.0/0"),
        (869, "0380001000000000000000000000000000000001", "::1"),
        (869, "0380001000000000000000000000000000000000", "::"),
        (869, "0380001000000000000000000000000000000002", "::2"),
        (869, "0380001000000000000000000000000001020304", "::1.2.3.4"),
        (869, "0380001000000000000000000000ffff01020304", "::ffff:1.2.3.4"),
        (869, "0380001000000000000000000000ffff00000000", "::ffff:0.0.0.0"),
        (869, "0340001020010db8000000000000000000000001", "2001:db8::1/64"),
        (869, "0380001020010db8000000010001000100010001", "2001:db8:0:1:1:1:1:1"),
        (869, "0380001000010000000000020000000000000003", "1:0:0:2::3"),
        (869, "030a0010fe800000000000000000000000000000", "fe80::/10"),
        (869, "0380001000000000000000000000000000010000", "::0.1.0.0"),
        (869, "0380001000010000000000000000000000000000", "1::"),
        (869, "0380001000000000000000000000000100000000", "::1:0:0"),
        (650, "020801040a000000", "10.0.0.0/8"), (650, "022001047f000001", "127.0.0.1/32"),
        (650, "0300011000000000000000000000000000000000", "::/0"),
        (650, "0320011020010db8000000000000000000000000", "2001:db8::/32"),
        (829, "08002b010203", "08:00:2b:01:02:03"),
        (774, "08002bfffe010203", "08:00:2b:ff:fe:01:02:03"), (1560, "00000003a0", "101"),
        (1562, "00000000", ""), (1562, "0000000180", "1"), (1562, "00000005a8", "10101"),
        (1562, "00000012ff00c0", "111111110000000011"), (1007, "000000000000000000000017", "{}"),
        (1007, "00000001000000000000001700000001000000010000000400000001", "{1}"),
        (1007, "00000001000000010000001700000003000000010000000400000001ffffffff00000004fffffffd",
            "{1,NULL,-3}"),
        (1007, "00000002000000000000001700000002000000010000000200000001000000040000000100000004\
            0000000200000004000000030000000400000004",
            "{{1,2},{3,4}}"),
        (1007, "00000003000000010000001700000002000000010000000100000001000000020000000100000004\
            0000000100000004000000020000000400000003ffffffff",
            "{{{1,2}},{{3,NULL}}}"),
        (1007, "000000010000000000000017000000020000000000000004000000050000000400000006",
            "[0:1]={5,6}"),
        (1007, "00000002000000000000001700000002ffffffff0000000200000002000000040000000100000004\
            0000000200000004000000030000000400000004",
            "[-1:0][2:3]={{1,2},{3,4}}"),
        (1007, "00000001000000000000001700000001000000050000000400000007", "[5:5]={7}"),
        (1009, "000000010000000000000019000000020000000100000001610000000162", "{a,b}"),
        (1009, "000000010000000100000019000000050000000100000000ffffffff000000044e554c4cffffffff\
            000000046e556c4c",
            "{\"\",NULL,\"NULL\",NULL,\"nUlL\"}"),
        (1009, "00000001000000000000001900000007000000010000000361206200000003632c64000000017b00\
            0000017d000000015c000000012200000002c3a9",
            "{\"a b\",\"c,d\",\"{\",\"}\",\"\\\\\",\"\\\"\",é}"),
        (1009, "000000010000000000000019000000020000000100000003610a62000000020978",
            "{\"a\nb\",\"\tx\"}"),
        (1009, "0000000200000000000000190000000100000001000000020000000100000001780000000379207a",
            "{{x,\"y z\"}}"),
        (1231, "0000000100000000000006a400000003000000010000000c00020000000000020001138800000008\
            00000000c00000000000000a0001ffff40000003000a",
            "{1.50,NaN,-0.001}"),
        (1022, "0000000100000000000002bd0000000300000001000000083ff00000000000000000000840040000\
            000000000000000854b249ad2594c37d",
            "{1,2.5,1e+100}"),
        (2951, "000000010000000000000b86000000010000000100000010123e4567e89b12d3a456426614174000",
            "{123e4567-e89b-12d3-a456-426614174000}"),
        (1185, "0000000100000000000004a00000000200000001000000080000000000000000000000087fffffff\
            ffffffff",
            "{\"2000-01-01 00:00:00+00\",infinity}"),
        (3807, "000000010000000000000eda000000010000000100000009017b2261223a20317d",
            "{\"{\\\"a\\\": 1}\"}"),
        (1041, "000000010000000000000365000000020000000100000008022000040a0000010000001403800010\
            00000000000000000000000000000001",
            "{10.0.0.1,::1}"),
        (1187, "0000000100000000000004a200000002000000010000001000000000000000000000000100000000\
            0000001000000000000f42400000000000000000",
            "{\"1 day\",00:00:01}"),
        (1001, "000000010000000000000011000000010000000100000002dead", "{\"\\\\xdead\"}"),
        (1182, "00000001000000000000043a00000001000000010000000400001c89", "{2020-01-01}"),
        (1015, "00000001000000000000041300000001000000010000000178", "{x}"),
        (1016, "0000000100000000000000140000000100000001000000087fffffffffffffff",
            "{9223372036854775807}"),
        (1005, "0000000100000000000000150000000200000001000000020001000000020002", "{1,2}"),
        (3904, "01", "empty"), (3904, "0200000004000000010000000400000005", "[1,5)"),
        (3904, "18", "(,)"), (3904, "120000000400000001", "[1,)"),
        (3904, "080000000400000005", "(,5)"),
        (3926, "02000000088000000000000000000000087fffffffffffffff",
            "[-9223372036854775808,9223372036854775807)"),
        (3906, "060000000c0002000000000001000113880000000c000200000000000200021388", "[1.5,2.50]"),
        (3906, "000000000c0002000000000001000113880000000c000200000000000200021388", "(1.5,2.50)"),
        (3906, "060000000a000100000000000000010000000a00010000000000000001", "[1,1]"),
        (3906, "0c000000080000000000000000", "(,0]"),
        (3912, "020000000400001c890000000400001ca8", "[2020-01-01,2020-02-01)"),
        (3912, "12000000047fffffff", "[infinity,)"),
        (3908, "020000000800023e0786c260000000000800023e1ba499c000",
            "[\"2020-01-01 00:00:00\",\"2020-01-02 00:00:00\")"),
        (3908, "0c0000000800023e1ba499c000", "(,\"2020-01-02 00:00:00\"]"),
        (3910, "120000000800023e0786c26000", "[\"2020-01-01 00:00:00+00\",)"),
        (4451, "00000000", "{}"),
        (4451, "00000002000000110200000004000000010000000400000003000000110200000004000000050000\
            000400000007",
            "{[1,3),[5,7)}"),
        (4532, "0000000200000011080000000c0002000000000001000113880000001d060000000a000100000000\
            000000020000000a00010000000000000003",
            "{(,1.5),[2,3]}"),
        (4534, "0000000100000019020000000800023e0786c260000000000800023e1ba499c000",
            "{[\"2020-01-01 00:00:00+00\",\"2020-01-02 00:00:00+00\")}"),
        (4535, "0000000100000011020000000400001c890000000400001ca8", "{[2020-01-01,2020-02-01)}"),
        (3905, "000000010000000100000f4000000003000000010000001102000000040000000100000004000000\
            050000000101ffffffff",
            "{\"[1,5)\",empty,NULL}"),
        (3909, "000000010000000000000f4400000001000000010000000d120000000800023e0786c26000",
            "{\"[\\\"2020-01-01 00:00:00\\\",)\"}"),
        (6150, "00000001000000000000116300000001000000010000001900000001000000110200000004000000\
            010000000400000003",
            "{\"{[1,3)}\"}"),
    ];

    #[test]
    fn shows_what_the_server_shows() {
        for (oid, hex, expect) in VECTORS {
            assert_eq!(text(*oid, &unhex(hex)).as_deref(), Some(*expect), "{oid} {hex}");
        }
    }

    /// Ways to say a value that the server never sends, but takes.
    #[test]
    fn shows_what_the_server_would_take() {
        for (oid, hex, expect) in [
            (16, "02", "true"),
            (18, "00", ""),
            // Digits without need, behind the scale, and of nothing.
            (1700, "0003000200000000000000000007", "7"),
            (1700, "00010000000000020005", "5.00"),
            (1700, "000200000000000100051999", "5.6"),
            (1700, "00010000400000000000", "0"),
            (1700, "0001ffff400000020001", "0.00"),
            (1700, "0000000040000003", "0.000"),
            // Halfway between two texts of eight and of seventeen digits.
            (700, "4a1d7791", "2.5799402e+06"),
            (701, "3ff8000800000000", "1.5000076293945312"),
            // Not canonical.
            (3904, "060000000400000001000000 0400000005", "[1,5]"),
            (1186, "7fffffffffffffff7fffffff7fffffff", "infinity"),
            (1186, "80000000000000008000000080000000", "-infinity"),
            (1000, "000000010000000000000010000000020000000100000001010000000100", "{true,false}"),
            (1007, "0000000100000000000000170000000000000001", "{}"),
        ] {
            let hex = hex.replace(' ', "");
            assert_eq!(text(oid, &unhex(&hex)).as_deref(), Some(expect), "{oid} {hex}");
        }
    }

    #[test]
    fn keeps_bytes_when_in_doubt() {
        let check = |oid, hex: &str| assert_eq!(text(oid, &unhex(hex)), None, "{oid} {hex}");
        // Types that are not known, or only by name.
        for oid in [0, 600, 790, 3614, 16384, u32::MAX] {
            check(oid, "0000000000000001");
        }
        for (oid, hex, _) in VECTORS.iter().chain(&[(25, "ff", ""), (114, "ff", "")]) {
            // Of another size. Texts may have any.
            if ![17, 19, 25, 114, 1042, 1043, 3802, 4072].contains(oid) {
                check(*oid, &format!("{hex}00"));
                let shorter = hex.len().saturating_sub(2);
                check(*oid, &hex[..shorter]);
            }
        }
        for (oid, hex) in [
            (18, "80"),
            (25, "ff"),
            (3802, "027b7d"),
            (3802, ""),
            (1082, "7ffffffe"),
            (1082, "80000001"),
            (1083, "ffffffffffffffff"),
            (1083, "000000141dd76001"),
            (1266, "00000000000000000000e100"),
            (1114, "7ffffffffffffffe"),
            (1114, "8000000000000001"),
            // A digit of 10000, a sign and a scale that do not exist, a NaN with digits.
            (1700, "00010000000000002710"),
            (1700, "0000000000010000"),
            (1700, "0000000000004000"),
            (1700, "00010000c00000000001"),
            (1700, "00000000c0004000"),
            // 131072 digits from ten bytes.
            (1700, "00017fff000000000001"),
            (869, "0420000401020304"),
            (869, "0221000401020304"),
            (869, "02200010"),
            (1560, "ffffffff"),
            (1560, "0000000901"),
            // A range with unknown flags, empty with bounds, infinite and inclusive, with a NULL.
            (3904, "20"),
            (3904, "03"),
            (3904, "1a"),
            (3904, "0a0000000400000001"),
            (3904, "10ffffffff"),
            (4451, "00000001ffffffff"),
            (4451, "ffffffff"),
            // Arrays: of another type, seven dimensions, negative and huge sizes, odd flags, bounds
            // beyond the last number.
            (1007, "0000000100000000000000140000000100000001000000040000002a"),
            (1007, "000000070000000000000017"),
            (1007, "ffffffff0000000000000017"),
            (1007, "000000010000000000000017ffffffff00000001"),
            (1007, "0000000100000000000000177fffffff00000001"),
            (1007, "0000000200000000000000177fffffff000000017fffffff00000001"),
            (1007, "000000010000000200000017000000010000000100000004 0000002a"),
            (1007, "00000001000000000000001700000001 80000000 000000040000002a00"),
            (1007, "00000001000000000000001700000002 7fffffff ffffffffffffffff"),
        ] {
            check(oid, &hex.replace(' ', ""));
        }
        for bytes in [&[0xff][..], b"a\0b"] {
            let bytes = Bytes::from_static(bytes);
            for binary in [false, true] {
                let value = decode(25, binary, &bytes);
                assert_eq!(value, ParameterValue::Bytes(bytes.clone()));
            }
        }
    }

    #[test]
    fn texts_are_texts_of_any_type() {
        for oid in [0, 23, 790, 16384] {
            let value = decode(oid, false, &Bytes::from_static("7 ä".as_bytes()));
            assert_eq!(value, ParameterValue::Text("7 ä".into()));
        }
    }

    #[test]
    fn long_values_are_evidence_alone() {
        for binary in [false, true] {
            let fits = Bytes::from(vec![b'x'; INLINE_BYTES_MAX]);
            assert!(matches!(decode(25, binary, &fits), ParameterValue::Text(_)));
            let long = Bytes::from(vec![b'x'; INLINE_BYTES_MAX + 1]);
            assert_eq!(decode(25, binary, &long), ParameterValue::Large { bytes: 4097 });
        }
    }

    #[test]
    fn a_few_bytes_never_become_a_long_text() {
        // An array of numbers of 30000 digits each.
        let element = unhex("0000000a00011d4b000000000001");
        let mut bytes =
            unhex("00000001000000000000 06a4 0000000a00000001".replace(' ', "").as_str()).to_vec();
        (0..10).for_each(|_| bytes.extend_from_slice(&element));
        assert!(text(1700, &element.slice(4..)).is_some_and(|text| text.len() == 29_997));
        assert_eq!(text(1231, &bytes.into()), None);
    }

    #[test]
    fn types_have_names() {
        for (oid, name) in [
            (23, "integer"),
            (1007, "integer[]"),
            (1184, "timestamptz"),
            (790, "money"),
            (705, "unknown"),
            (0, ""),
            (16384, ""),
        ] {
            assert_eq!(type_name(oid), name);
        }
        for oid in OIDS {
            // Whatever a shape is made of is known too.
            let (_, shape) = known(*oid).unwrap();
            if let Shape::Range(of) | Shape::Multirange(of) | Shape::Array(of) = shape {
                assert!(known(of).is_some(), "{oid}");
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            oid in prop::sample::select(OIDS),
            bytes in prop::collection::vec(any::<u8>(), 0..80),
            binary in any::<bool>(),
        ) {
            let bytes = Bytes::from(bytes);
            match decode(oid, binary, &bytes) {
                ParameterValue::Text(text) => prop_assert!(text.len() <= TEXT_BYTES_MAX),
                other => prop_assert_eq!(other, ParameterValue::Bytes(bytes)),
            }
        }

        /// Like a value, but for a few bytes.
        #[test]
        fn damaged_values_never_panic(
            vector in prop::sample::select(VECTORS),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = unhex(vector.1).to_vec();
            for (at, byte) in damage {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            if let Some(text) = text(vector.0, &bytes.into()) {
                prop_assert!(text.len() <= TEXT_BYTES_MAX);
            }
        }
    }
}
