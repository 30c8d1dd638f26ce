//! Names, digests, ids and timestamps. Each is checked once, in its constructor.

use std::{fmt, sync::Arc};

/// Longest name of a resource, an action or a policy, in bytes.
pub const NAME_BYTES_MAX: usize = 200;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name may not be empty")]
    Empty,
    #[error("`{0}` is longer than {NAME_BYTES_MAX} bytes")]
    TooLong(String),
    #[error("`{0}` holds a character that a name may not: use a-z, A-Z, 0-9, `_`, `-`, `.`")]
    Character(String),
}

fn check_name(text: &str, extra: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong(text.chars().take(40).collect()));
    }
    let ok = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c) || extra.contains(c);
    if text.chars().all(ok) {
        Ok(())
    } else {
        Err(NameError::Character(text.escape_debug().to_string()))
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $extra:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);
        impl $name {
            pub fn new(text: &str) -> Result<Self, NameError> {
                check_name(text, $extra)?;
                Ok(Self(text.into()))
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name!(
    /// What policy names: a database, an API, a host, a broker. Never an address.
    ResourceName, ""
);
name!(
    /// An action as policy spells it: `protocol:verb`, or a verb of the gateway itself (`connect`).
    /// Operations of APIs have names with slashes in them: `http:repos/get`.
    ActionName, ":/"
);

/// `issuer_alias|stable subject`: the stable key of a principal. Display only; compare whole.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PrincipalId(Arc<str>);

impl PrincipalId {
    /// Control characters are refused: ids are shown to people and written to entries.
    pub fn new(issuer: &str, subject: &str) -> Result<Self, NameError> {
        check_name(issuer, "")?;
        if subject.is_empty() {
            return Err(NameError::Empty);
        }
        if subject.len() > 512 {
            return Err(NameError::TooLong(subject.chars().take(40).collect()));
        }
        if subject.chars().any(|c| c.is_control() || c == '|') {
            return Err(NameError::Character(subject.escape_debug().to_string()));
        }
        Ok(Self(format!("{issuer}|{subject}").into()))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    pub fn issuer(&self) -> &str {
        self.0.split_once('|').map_or("", |(issuer, _)| issuer)
    }
    pub fn subject(&self) -> &str {
        self.0.split_once('|').map_or(&self.0, |(_, subject)| subject)
    }
}

impl fmt::Display for PrincipalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A SHA-256 value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    pub const ZERO: Self = Self([0; 32]);

    /// The first `n` hexadecimal digits, for people.
    pub fn short(&self, n: usize) -> String {
        self.to_string().chars().take(n).collect()
    }
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut out = [0u8; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(i * 2..i * 2 + 2)?, 16).ok()?;
        }
        Some(Self(out))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// 16 bytes as 26 digits of Crockford's base 32.
fn base32(bytes: [u8; 16]) -> String {
    let value = u128::from_be_bytes(bytes);
    (0..26).map(|i| char::from(CROCKFORD[((value >> (125 - i * 5)) & 31) as usize])).collect()
}

fn parse_base32(text: &str) -> Option<[u8; 16]> {
    if text.len() != 26 {
        return None;
    }
    let mut value: u128 = 0;
    for (i, byte) in text.bytes().enumerate() {
        let upper = byte.to_ascii_uppercase();
        let digit = CROCKFORD.iter().position(|c| *c == upper)? as u128;
        if i == 0 && digit > 7 {
            return None;
        }
        value = (value << 5) | digit;
    }
    Some(value.to_be_bytes())
}

macro_rules! id16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 16]);
        impl $name {
            pub fn parse(text: &str) -> Option<Self> {
                parse_base32(text).map(Self)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&base32(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
    };
}

id16!(
    /// One principal on one resource. The first 6 bytes are the opening time in milliseconds (as in
    /// a ULID), the rest is random, so that ids sort by time and cannot be guessed.
    SessionId
);
id16!(
    /// One run of the gateway process.
    BootId
);

impl SessionId {
    pub fn new(now: Timestamp, random: [u8; 10]) -> Self {
        let mut bytes = [0u8; 16];
        let ms = (now.0 / 1_000_000).to_be_bytes();
        bytes[..6].copy_from_slice(&ms[2..]);
        bytes[6..].copy_from_slice(&random);
        Self(bytes)
    }
}

/// Names one entry of one session: the session and the entry's number in the session's chain. It is
/// what a refusal tells the client, and what `bulla policy explain --event` takes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EventId {
    pub session: SessionId,
    pub seq: u64,
}

impl EventId {
    pub fn parse(text: &str) -> Option<Self> {
        let (session, seq) = text.split_once('-')?;
        Some(Self { session: SessionId::parse(session)?, seq: seq.parse().ok()? })
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.session, self.seq)
    }
}

/// Nanoseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000_000))
    }
    pub const fn secs(self) -> u64 {
        self.0 / 1_000_000_000
    }
    pub const fn millis(self) -> u64 {
        self.0 / 1_000_000
    }
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }
    /// Milliseconds from `earlier` to here; zero if `earlier` is later.
    pub const fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000_000
    }
    /// Calendar fields in UTC: year, month, day, hour, minute, second, millisecond.
    pub fn civil(self) -> (i64, u8, u8, u8, u8, u8, u16) {
        let secs = self.secs() as i64;
        let (days, rem) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
        // Days to a civil date: H. Hinnant, "chrono-compatible low-level date algorithms".
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let day = doy - (153 * mp + 2) / 5 + 1;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        let year = yoe + era * 400 + i64::from(month <= 2);
        let (h, m, s) = (rem / 3_600, rem % 3_600 / 60, rem % 60);
        let ms = (self.millis() % 1_000) as u16;
        (year, month as u8, day as u8, h as u8, m as u8, s as u8, ms)
    }
}

/// RFC 3339 in UTC with milliseconds.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (y, mo, d, h, mi, s, ms) = self.civil();
        write!(f, "{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}.{ms:03}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_could_confuse() {
        for bad in ["", "a b", "a/b", "a|b", "ä", "a\n", "a`b", &"x".repeat(201)] {
            assert!(ResourceName::new(bad).is_err(), "{bad:?}");
        }
        for good in ["orders", "orders-eu.1", "A_b"] {
            assert_eq!(ResourceName::new(good).unwrap().as_str(), good);
        }
        assert!(ActionName::new("postgres:select").is_ok());
        assert!(ActionName::new("http:repos/get").is_ok());
        assert!(ActionName::new("http:get repos").is_err());
        assert!(PrincipalId::new("k8s", "a|b").is_err());
        assert!(PrincipalId::new("k8s", "a\u{1b}[2J").is_err());
        let id = PrincipalId::new("k8s", "billing/api").unwrap();
        assert_eq!((id.issuer(), id.subject()), ("k8s", "billing/api"));
    }

    #[test]
    fn ids_read_back() {
        for bytes in [[0u8; 16], [255; 16], *b"0123456789abcdef"] {
            let id = SessionId(bytes);
            assert_eq!(SessionId::parse(&id.to_string()), Some(id));
            assert_eq!(SessionId::parse(&id.to_string().to_lowercase()), Some(id));
            let event = EventId { session: id, seq: 17 };
            assert_eq!(EventId::parse(&event.to_string()), Some(event));
        }
        for bad in ["", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ", "0000000000000000000000000U", "0-1"] {
            assert_eq!(SessionId::parse(bad), None, "{bad}");
        }
        let digest = Digest([0xab; 32]);
        assert_eq!(Digest::from_hex(&digest.to_string()), Some(digest));
        assert_eq!(Digest::from_hex("ab"), None);
    }

    #[test]
    fn ids_sort_by_time() {
        let early = SessionId::new(Timestamp::from_secs(1_000), [255; 10]);
        let late = SessionId::new(Timestamp::from_secs(1_001), [0; 10]);
        assert!(early < late && early.to_string() < late.to_string());
    }

    #[test]
    fn timestamps_print_as_rfc_3339() {
        let check = |secs: u64, expect: &str| {
            assert_eq!(Timestamp::from_secs(secs).to_string(), expect);
        };
        check(0, "1970-01-01T00:00:00.000Z");
        check(951_782_400, "2000-02-29T00:00:00.000Z");
        check(1_795_615_985, "2026-11-25T14:13:05.000Z");
        assert_eq!(Timestamp(1_500_000).to_string(), "1970-01-01T00:00:00.001Z");
    }
}
