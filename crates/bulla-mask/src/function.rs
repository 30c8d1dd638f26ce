//! What is put in place of a value.
//!
//! A mask takes a value of one type and gives one of the same type, or NULL where the type cannot
//! carry the mask: a token is not a number. It never gives back the value, and never fails open.
//!
//! | written | gives |
//! |---|---|
//! | `null` | NULL |
//! | `constant(TEXT)` | the text, where the type can be it |
//! | `partial(FIRST,LAST)` | so many characters of either end around `***` |
//! | `card-last4` | `****1234` of a card number, else `****` |
//! | `email-domain` | `***@example.com`, else `***` |
//! | `token` | HMAC-SHA-256 under the key in use: the same value, class and key, the same token |
//! | `fpe` | FF1 (NIST SP 800-38G) over digits, or over letters and digits; the form stays |
//! | `date-trunc(UNIT)` | the first instant of its `month`, `quarter`, `year` or `decade` |
//! | `date-shift(DAYS)` | moved by up to so many days, the same for all dates of one subject |
//! | `bucket(WIDTH)` | the lower end of its bucket |
//! | `zip3` | the first three characters and `**` |
//! | `json(PATH=MASK; …)` | the document, its values at the paths masked |
//!
//! Tokens and FF1 are deterministic: equal values stay equal, so that they can be joined and
//! counted. That is what they are for, and what they give away.

use std::{fmt, sync::Arc};

use aes::Aes256;
use aws_lc_rs::hmac;
use fpe::ff1::{FF1, FlexibleNumeralString};

use crate::{date, json};

/// Longest text of a constant, in bytes.
pub const CONSTANT_BYTES_MAX: usize = 200;
/// Paths of one `json(…)`.
pub const PATHS_MAX: usize = 64;
/// What hides the hidden part of a text.
pub const FILL: &str = "***";
/// A partial mask hides at least so many characters, or everything.
pub const HIDDEN_MIN: usize = 3;

/// A mask, as configured for a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mask {
    Null,
    Constant(Arc<str>),
    Partial { first: usize, last: usize },
    CardLast4,
    EmailDomain,
    Token,
    Fpe,
    DateTrunc(date::Unit),
    DateShift { days: u32 },
    Bucket { width: u64 },
    Zip3,
    Json(Vec<(json::Path, Mask)>),
}

/// Why a text is no mask.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a mask: {why}")]
pub struct MaskError {
    pub text: String,
    pub why: String,
}

/// The key of tokens and of FF1. `Debug` shows its id only.
#[derive(Clone)]
pub struct Key {
    id: Arc<str>,
    token: hmac::Key,
    cipher: [u8; 32],
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

impl Key {
    /// Shortest secret, in bytes.
    pub const SECRET_BYTES_MIN: usize = 32;

    /// A key from a secret of at least [`Key::SECRET_BYTES_MIN`] bytes; `None` if it is shorter or
    /// the id is not 1 to 16 letters, digits or dashes.
    #[must_use]
    pub fn new(id: &str, secret: &[u8]) -> Option<Self> {
        let fits = (1..=16).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && secret.len() >= Self::SECRET_BYTES_MIN;
        if !fits {
            return None;
        }
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derive = |purpose: &[u8]| {
            let mut out = [0; 32];
            for (to, from) in out.iter_mut().zip(hmac::sign(&root, purpose).as_ref()) {
                *to = *from;
            }
            out
        };
        let token = hmac::Key::new(hmac::HMAC_SHA256, &derive(b"bulla-mask-token-v1"));
        Some(Self { id: id.into(), token, cipher: derive(b"bulla-mask-ff1-v1") })
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// HMAC-SHA-256 of a purpose, the class and the value, each with its length in front.
    fn sign(&self, purpose: &[u8], class: &str, value: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.token);
        for part in [purpose, class.as_bytes(), value] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut out = [0; 32];
        for (to, from) in out.iter_mut().zip(context.sign().as_ref()) {
            *to = *from;
        }
        out
    }
}

/// What a value is masked with.
#[derive(Debug, Clone, Copy)]
pub struct With<'a> {
    /// The class scopes tokens: equal values of two classes have different ones.
    pub class: &'a str,
    /// None: what needs a key becomes NULL.
    pub key: Option<&'a Key>,
    /// Whose date it is; none makes a shifted date NULL.
    pub subject: Option<&'a [u8]>,
}

/// A value of one of the types that masks know.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    Text(&'a str),
    Int(i64),
    /// Digits, with a sign and a point where it has them.
    Decimal(&'a str),
    /// Days since 1970-01-01.
    Date(i64),
    /// Microseconds since 1970-01-01 00:00.
    Timestamp(i64),
    Bytes(&'a [u8]),
    Uuid([u8; 16]),
    Json(&'a str),
    /// Any other type.
    Other,
}

/// A masked value, of the type that the value was.
#[derive(Debug, Clone, PartialEq)]
pub enum Masked {
    Null,
    Text(String),
    Int(i64),
    Decimal(String),
    Date(i64),
    Timestamp(i64),
    Bytes(Vec<u8>),
    Uuid([u8; 16]),
    Json(String),
}

impl Mask {
    /// Reads a mask as it is written in a configuration.
    ///
    /// # Errors
    /// [`MaskError`] with what would be understood.
    pub fn parse(text: &str) -> Result<Self, MaskError> {
        let bad = |why: &str| MaskError { text: text.to_owned(), why: why.to_owned() };
        let whole = text.trim();
        let (name, argument) = match whole.split_once('(') {
            Some((name, rest)) => {
                let inner = rest.strip_suffix(')').ok_or_else(|| bad("a `)` is missing"))?;
                (name.trim(), Some(inner))
            }
            None => (whole, None),
        };
        let number = |text: &str| text.trim().parse::<u64>().ok();
        match (name, argument) {
            ("null", None) => Ok(Self::Null),
            ("card-last4", None) => Ok(Self::CardLast4),
            ("email-domain", None) => Ok(Self::EmailDomain),
            ("token", None) => Ok(Self::Token),
            ("fpe", None) => Ok(Self::Fpe),
            ("zip3", None) => Ok(Self::Zip3),
            ("constant", Some(text)) => {
                if text.len() > CONSTANT_BYTES_MAX || text.contains(char::is_control) {
                    return Err(bad("a constant is at most 200 bytes without control characters"));
                }
                Ok(Self::Constant(text.into()))
            }
            ("partial", Some(ends)) => {
                let ends = ends.split_once(',').and_then(|(a, b)| Some((number(a)?, number(b)?)));
                let (first, last) = ends.ok_or_else(|| bad("write `partial(FIRST,LAST)`"))?;
                if first > 64 || last > 64 {
                    return Err(bad("at most 64 characters of either end stay"));
                }
                Ok(Self::Partial { first: first as usize, last: last as usize })
            }
            ("date-trunc", Some(unit)) => date::Unit::parse(unit.trim())
                .map(Self::DateTrunc)
                .ok_or_else(|| bad("the units are month, quarter, year and decade")),
            ("date-shift", Some(days)) => match number(days) {
                Some(days @ 1..=3_650) => Ok(Self::DateShift { days: days as u32 }),
                _ => Err(bad("write `date-shift(DAYS)` with 1 to 3650 days")),
            },
            ("bucket", Some(width)) => match number(width) {
                Some(width @ 1..=1_000_000_000_000) => Ok(Self::Bucket { width }),
                _ => Err(bad("write `bucket(WIDTH)` with a whole number from 1")),
            },
            ("json", Some(paths)) => Self::parse_json(paths).map_err(|why| bad(&why)),
            _ => Err(bad("the masks are null, constant(TEXT), partial(FIRST,LAST), card-last4, \
                          email-domain, token, fpe, date-trunc(UNIT), date-shift(DAYS), \
                          bucket(WIDTH), zip3 and json(PATH=MASK; …)")),
        }
    }

    fn parse_json(paths: &str) -> Result<Self, String> {
        let mut out = Vec::new();
        for item in paths.split(';').map(str::trim).filter(|item| !item.is_empty()) {
            let (path, mask) = item.split_once('=').ok_or("write `json($.path=MASK; …)`")?;
            let mask = Self::parse(mask).map_err(|error| error.to_string())?;
            if matches!(mask, Self::Json(_)) {
                return Err("a json mask cannot hold another one".to_owned());
            }
            let path = json::Path::parse(path.trim()).ok_or("paths look like `$.a.b[*].c`")?;
            out.push((path, mask));
        }
        match out.len() {
            1..=PATHS_MAX => Ok(Self::Json(out)),
            _ => Err(format!("1 to {PATHS_MAX} paths are needed")),
        }
    }

    /// Whether it needs a key.
    #[must_use]
    pub fn needs_key(&self) -> bool {
        match self {
            Self::Token | Self::Fpe | Self::DateShift { .. } => true,
            Self::Json(paths) => paths.iter().any(|(_, mask)| mask.needs_key()),
            Self::Null
            | Self::Constant(_)
            | Self::Partial { .. }
            | Self::CardLast4
            | Self::EmailDomain
            | Self::DateTrunc(_)
            | Self::Bucket { .. }
            | Self::Zip3 => false,
        }
    }

    /// Masks one value.
    #[must_use]
    pub fn apply(&self, value: Value<'_>, with: &With<'_>) -> Masked {
        match (self, value) {
            (Self::Constant(text), Value::Text(_)) => Masked::Text(text.to_string()),
            (Self::Constant(text), Value::Int(_)) => text.parse().map_or(Masked::Null, Masked::Int),
            (Self::Constant(text), Value::Decimal(_)) if is_decimal(text) => {
                Masked::Decimal(text.to_string())
            }
            (Self::Constant(text), Value::Bytes(_)) => Masked::Bytes(text.as_bytes().to_vec()),
            (Self::Constant(text), Value::Json(_)) => Masked::Json(json::quoted(text)),
            (Self::Partial { first, last }, Value::Text(text)) => {
                Masked::Text(partial(text, *first, *last))
            }
            (Self::CardLast4, Value::Text(text)) => Masked::Text(card_last4(text)),
            (Self::EmailDomain, Value::Text(text)) => Masked::Text(email_domain(text)),
            (Self::Zip3, Value::Text(text)) => Masked::Text(zip3(text)),
            (Self::Token, value) => token(value, with),
            (Self::Fpe, value) => preserve(value, with),
            (Self::DateTrunc(unit), Value::Date(days)) => {
                unit.floor_days(days).map_or(Masked::Null, Masked::Date)
            }
            (Self::DateTrunc(unit), Value::Timestamp(micros)) => {
                unit.floor_micros(micros).map_or(Masked::Null, Masked::Timestamp)
            }
            (Self::DateShift { days }, value) => shift(value, *days, with),
            (Self::Bucket { width }, Value::Int(n)) => bucket(n, *width),
            (Self::Bucket { width }, Value::Decimal(text)) => bucket_decimal(text, *width),
            (Self::Json(paths), Value::Json(text)) => {
                json::mask(text, paths, with).map_or(Masked::Null, Masked::Json)
            }
            // Null, and every type that cannot carry the mask.
            _ => Masked::Null,
        }
    }
}

fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let all = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    all(whole) && all(part)
}

/// So many characters of either end, where at least [`HIDDEN_MIN`] stay hidden.
#[must_use]
pub fn partial(text: &str, first: usize, last: usize) -> String {
    let count = text.chars().count();
    if count < first + last + HIDDEN_MIN {
        return FILL.to_owned();
    }
    let head = text.chars().take(first);
    let tail = text.chars().skip(count - last);
    head.chain(FILL.chars()).chain(tail).collect()
}

/// `****1234` of 12 to 19 digits, whatever stands between them.
#[must_use]
pub fn card_last4(text: &str) -> String {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let other = text.chars().any(|c| !(c.is_ascii_digit() || matches!(c, ' ' | '-')));
    match digits.len() {
        n @ 12..=19 if !other => format!("****{}", digits.get(n - 4..).unwrap_or_default()),
        _ => "****".to_owned(),
    }
}

#[must_use]
pub fn email_domain(text: &str) -> String {
    match text.split_once('@') {
        Some((local, domain))
            if !local.is_empty() && !domain.is_empty() && !domain.contains('@') =>
        {
            format!("{FILL}@{domain}")
        }
        _ => FILL.to_owned(),
    }
}

/// The first three characters of five or more.
#[must_use]
pub fn zip3(text: &str) -> String {
    if text.chars().count() < 5 {
        return FILL.to_owned();
    }
    let head: String = text.chars().take(3).collect();
    format!("{head}**")
}

fn bucket(n: i64, width: u64) -> Masked {
    let (n, width) = (i128::from(n), i128::from(width));
    i64::try_from(n.div_euclid(width) * width).map_or(Masked::Null, Masked::Int)
}

fn bucket_decimal(text: &str, width: u64) -> Masked {
    if !is_decimal(text) {
        return Masked::Null;
    }
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let Ok(mut n) = whole.parse::<i128>() else { return Masked::Null };
    if text.starts_with('-') && part.bytes().any(|b| b != b'0') {
        n -= 1;
    }
    let width = i128::from(width);
    Masked::Decimal((n.div_euclid(width) * width).to_string())
}

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

fn base32(bytes: &[u8]) -> String {
    let (mut out, mut bits, mut have) = (String::new(), 0_u32, 0);
    for byte in bytes {
        bits = (bits << 8) | u32::from(*byte);
        have += 8;
        while have >= 5 {
            have -= 5;
            let at = (bits >> have) & 31;
            out.push(BASE32.get(at as usize).map_or('a', |b| char::from(*b)));
        }
    }
    out
}

fn token(value: Value<'_>, with: &With<'_>) -> Masked {
    let Some(key) = with.key else { return Masked::Null };
    let sign = |bytes: &[u8]| key.sign(b"token", with.class, bytes);
    // 120 bits, so that no token ends in padding.
    let text = |bytes: &[u8]| {
        format!("tok_{}_{}", key.id, base32(sign(bytes).get(..15).unwrap_or_default()))
    };
    match value {
        Value::Text(value) => Masked::Text(text(value.as_bytes())),
        Value::Json(value) => Masked::Json(json::quoted(&text(value.as_bytes()))),
        Value::Bytes(value) => Masked::Bytes(sign(value).to_vec()),
        Value::Uuid(value) => {
            let mut out = [0; 16];
            for (to, from) in out.iter_mut().zip(sign(&value)) {
                *to = from;
            }
            // RFC 9562, version 8: bits of our own making.
            let [_, _, _, _, _, _, version, _, variant, ..] = &mut out;
            *version = (*version & 0x0f) | 0x80;
            *variant = (*variant & 0x3f) | 0x80;
            Masked::Uuid(out)
        }
        _ => Masked::Null,
    }
}

/// FF1 over a string of numerals; `None` where the domain is smaller than a million.
fn ff1(key: &Key, class: &str, radix: u32, numerals: &[u16]) -> Option<Vec<u16>> {
    // SP 800-38G rev. 1: radix^length must be at least a million.
    if f64::from(radix).powf(numerals.len() as f64) < 1_000_000.0 {
        return None;
    }
    let cipher = FF1::<Aes256>::new(&key.cipher, radix).ok()?;
    let input = FlexibleNumeralString::from(numerals.to_vec());
    cipher.encrypt(class.as_bytes(), &input).ok().map(Vec::from)
}

fn preserve(value: Value<'_>, with: &With<'_>) -> Masked {
    let Some(key) = with.key else { return Masked::Null };
    match value {
        Value::Text(text) => {
            preserve_text(text, key, with.class).map_or(Masked::Null, Masked::Text)
        }
        Value::Int(n) => preserve_int(n, key, with.class).map_or(Masked::Null, Masked::Int),
        _ => Masked::Null,
    }
}

/// Digits stay digits; where there are letters, letters and digits may become each other. What is
/// neither stays where it is; upper case stays at its places.
fn preserve_text(text: &str, key: &Key, class: &str) -> Option<String> {
    if text.chars().any(|c| c.is_alphanumeric() && !c.is_ascii()) {
        return None;
    }
    let letters = text.bytes().any(|b| b.is_ascii_alphabetic());
    let radix = if letters { 36 } else { 10 };
    let numerals: Vec<u16> =
        text.chars().filter_map(|c| c.to_digit(36)).map(|d| d as u16).collect();
    let mut coded = ff1(key, class, radix, &numerals)?.into_iter();
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            let digit = char::from_digit(u32::from(coded.next()?), 36)?;
            out.push(if c.is_ascii_uppercase() { digit.to_ascii_uppercase() } else { digit });
        } else {
            out.push(c);
        }
    }
    Some(out)
}

/// A number of as many digits and of the same sign.
fn preserve_int(n: i64, key: &Key, class: &str) -> Option<i64> {
    let digits = n.unsigned_abs().to_string();
    // Beyond 18 digits the result could leave the type.
    if digits.len() > 18 {
        return None;
    }
    let mut numerals: Vec<u16> = digits.bytes().map(|b| u16::from(b - b'0')).collect();
    // Cycle walking: stay among the numbers of so many digits. Each step leaves with 9 in 10.
    for _ in 0..1_000 {
        numerals = ff1(key, class, 10, &numerals)?;
        if numerals.first().is_some_and(|d| *d != 0) {
            let value = numerals.iter().fold(0_i64, |n, d| n * 10 + i64::from(*d));
            return Some(if n < 0 { -value } else { value });
        }
    }
    None
}

fn shift(value: Value<'_>, days: u32, with: &With<'_>) -> Masked {
    let (Some(key), Some(subject)) = (with.key, with.subject) else { return Masked::Null };
    let [a, b, c, d, e, f, g, h, ..] = key.sign(b"shift", with.class, subject);
    let span = 2 * u64::from(days);
    // Never by nothing: 1 to `days` either way.
    let step = u64::from_be_bytes([a, b, c, d, e, f, g, h]) % span;
    let step = i64::try_from(step).unwrap_or(0) - i64::from(days);
    let step = if step >= 0 { step + 1 } else { step };
    match value {
        Value::Date(at) => at.checked_add(step).map_or(Masked::Null, Masked::Date),
        Value::Timestamp(at) => step
            .checked_mul(date::DAY_MICROS)
            .and_then(|step| at.checked_add(step))
            .map_or(Masked::Null, Masked::Timestamp),
        _ => Masked::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::new("k1", &[7; 32]).unwrap()
    }

    fn check(mask: &str, value: Value<'_>, expect: Masked) {
        let key = key();
        let with = With { class: "pii.x", key: Some(&key), subject: Some(b"ann") };
        assert_eq!(Mask::parse(mask).unwrap().apply(value, &with), expect, "{mask} {value:?}");
    }

    fn text(mask: &str, value: &str, expect: &str) {
        check(mask, Value::Text(value), Masked::Text(expect.into()));
    }

    #[test]
    fn texts_are_masked() {
        check("null", Value::Text("x"), Masked::Null);
        text("constant(hidden)", "x", "hidden");
        text("constant()", "x", "");
        text("partial(0,4)", "078-05-1120", "***1120");
        text("partial(2,2)", "Grüße an alle", "Gr***le");
        text("partial(2,2)", "abcdef", "***");
        text("partial(2,2)", "abcdefg", "ab***fg");
        text("partial(0,0)", "", "***");
        text("card-last4", "4111 1111 1111 1111", "****1111");
        text("card-last4", "4111-1111x1111-1111", "****");
        text("card-last4", "1234", "****");
        text("email-domain", "ann@example.com", "***@example.com");
        text("email-domain", "ann", "***");
        text("email-domain", "a@b@c", "***");
        text("email-domain", "@b", "***");
        text("zip3", "94107", "941**");
        text("zip3", "9410", "***");
    }

    #[test]
    fn types_that_cannot_carry_a_mask_are_null() {
        for mask in ["partial(1,1)", "card-last4", "email-domain", "zip3"] {
            for value in [Value::Int(5), Value::Date(1), Value::Bytes(b"x"), Value::Other] {
                check(mask, value, Masked::Null);
            }
        }
        check("constant(x)", Value::Int(5), Masked::Null);
        check("constant(0)", Value::Int(5), Masked::Int(0));
        check("constant(0.00)", Value::Decimal("5.1"), Masked::Decimal("0.00".into()));
        check("constant(NaN)", Value::Decimal("5.1"), Masked::Null);
        check("constant(a\"b)", Value::Json("{}"), Masked::Json("\"a\\\"b\"".into()));
        check("token", Value::Int(5), Masked::Null);
        check("fpe", Value::Date(5), Masked::Null);
        check("bucket(10)", Value::Text("5"), Masked::Null);
        check("date-trunc(year)", Value::Text("2024-01-01"), Masked::Null);
    }

    #[test]
    fn numbers_fall_into_buckets() {
        check("bucket(10)", Value::Int(17), Masked::Int(10));
        check("bucket(10)", Value::Int(-1), Masked::Int(-10));
        check("bucket(10)", Value::Int(i64::MIN), Masked::Null);
        let decimal = |value, expect: &str| {
            check("bucket(1000)", Value::Decimal(value), Masked::Decimal(expect.into()));
        };
        decimal("52341.77", "52000");
        decimal("-0.5", "-1000");
        decimal("-0.0", "0");
        decimal("0", "0");
        check("bucket(1000)", Value::Decimal("NaN"), Masked::Null);
    }

    #[test]
    fn tokens_are_keyed_and_scoped() {
        let (one, two) = (key(), Key::new("k2", &[8; 32]).unwrap());
        let of = |key: Option<&Key>, class: &str, value: &str| {
            Mask::Token.apply(Value::Text(value), &With { class, key, subject: None })
        };
        let same = of(Some(&one), "a", "v");
        assert_eq!(same, of(Some(&one), "a", "v"));
        let Masked::Text(text) = &same else { panic!("{same:?}") };
        assert!(text.starts_with("tok_k1_") && text.len() == 7 + 24, "{text}");
        assert_ne!(same, of(Some(&two), "a", "v"));
        assert_ne!(same, of(Some(&one), "b", "v"));
        assert_ne!(of(Some(&one), "ab", "c"), of(Some(&one), "a", "bc"));
        assert_eq!(of(None, "a", "v"), Masked::Null);
        assert_eq!(format!("{one:?}"), "Key(k1)");
        assert!(Key::new("k1", &[0; 31]).is_none() && Key::new("", &[0; 32]).is_none());
    }

    #[test]
    fn formats_are_preserved() {
        let key = key();
        let with = With { class: "pii.x", key: Some(&key), subject: None };
        let shape = |text: &str| -> String {
            text.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect()
        };
        for value in ["078-05-1120", "4111 1111 1111 1111", "123456"] {
            let Masked::Text(out) = Mask::Fpe.apply(Value::Text(value), &with) else { panic!() };
            assert_eq!(shape(&out), shape(value));
            assert_ne!(out, value);
        }
        let Masked::Text(out) = Mask::Fpe.apply(Value::Text("AB-12cd"), &with) else { panic!() };
        assert_eq!((out.len(), out.chars().nth(2)), (7, Some('-')));
        for small in ["12345", "abc", "", "größer"] {
            assert_eq!(Mask::Fpe.apply(Value::Text(small), &with), Masked::Null, "{small}");
        }
        let mut seen = std::collections::BTreeSet::new();
        for n in 100_000..101_000 {
            let Masked::Int(out) = Mask::Fpe.apply(Value::Int(n), &with) else { panic!() };
            assert!((100_000..1_000_000).contains(&out) && seen.insert(out), "{n} {out}");
        }
        check("fpe", Value::Int(99_999), Masked::Null);
        check("fpe", Value::Int(i64::MIN), Masked::Null);
    }

    /// NIST SP 800-38G, samples for FF1: AES-256, samples 7 and 8.
    #[test]
    fn ff1_is_the_standard() {
        let cipher: Vec<u8> = (0..32)
            .map(|i| {
                let hex = "2B7E151628AED2A6ABF7158809CF4F3CEF4359D8D580AA4F7F036D6F04FC6A94";
                u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()
            })
            .collect();
        let ff1 = FF1::<Aes256>::new(&cipher, 10).unwrap();
        let input = FlexibleNumeralString::from((0..10).collect::<Vec<u16>>());
        let out: Vec<u16> = ff1.encrypt(&[], &input).unwrap().into();
        assert_eq!(out, [6, 6, 5, 7, 6, 6, 7, 0, 0, 9]);
        let out: Vec<u16> = ff1.encrypt(b"9876543210", &input).unwrap().into();
        assert_eq!(out, [1, 0, 0, 1, 6, 2, 3, 4, 6, 3]);
    }

    #[test]
    fn dates_move_together() {
        let key = key();
        let at = |value, subject: Option<&[u8]>| {
            let with = With { class: "c", key: Some(&key), subject };
            Mask::DateShift { days: 30 }.apply(value, &with)
        };
        let Masked::Date(a) = at(Value::Date(1_000), Some(b"ann")) else { panic!() };
        let Masked::Date(b) = at(Value::Date(1_010), Some(b"ann")) else { panic!() };
        assert_eq!(b - a, 10);
        assert!((1..=30).contains(&(a - 1_000).abs()), "{a}");
        let Masked::Timestamp(t) = at(Value::Timestamp(0), Some(b"ann")) else { panic!() };
        assert_eq!(t, (a - 1_000) * date::DAY_MICROS);
        assert_eq!(at(Value::Date(1_000), None), Masked::Null);
        assert_eq!(
            at(Value::Timestamp(i64::MAX), Some(b"x")).clone(),
            at(Value::Timestamp(i64::MAX), Some(b"x"))
        );
        let moves: std::collections::BTreeSet<_> = (0..2_000_u32)
            .map(|n| format!("{:?}", at(Value::Date(0), Some(&n.to_be_bytes()))))
            .collect();
        assert_eq!(moves.len(), 60);
        assert!(!moves.contains("Date(0)"));
    }

    #[test]
    fn what_is_no_mask_is_said() {
        for text in [
            "",
            "nul",
            "null()",
            "partial",
            "partial(1)",
            "partial(1,999)",
            "constant",
            "constant(x",
            "date-trunc(day)",
            "date-shift(0)",
            "bucket(0)",
            "bucket(-1)",
            "json()",
            "json($.a)",
            "json(a=null)",
            "json($.a=json($.b=null))",
            "token(x)",
        ] {
            assert!(Mask::parse(text).is_err(), "{text}");
        }
    }
}
