//! SPIFFE ids and the certificates that carry them (X.509-SVID).
//!
//! Pure: what is in a leaf, and whether it may stand for a workload. That it chains to the
//! authorities of its own trust domain is checked by [`crate::Trust`], during the handshake.

use bulla_core::Timestamp;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate, X509Version};

use crate::{
    error::{Refused, Word},
    json::{Json, Object},
};

/// Longest SPIFFE id, in bytes (SPIFFE-ID 2.3).
pub const SPIFFE_ID_BYTES_MAX: usize = 2_048;
/// Longest trust domain name, in bytes (SPIFFE-ID 2.3).
pub const TRUST_DOMAIN_BYTES_MAX: usize = 255;
/// Largest leaf certificate, in bytes.
pub const LEAF_BYTES_MAX: usize = 16 * 1024;
/// Most segments of a path or a pattern.
pub const PATH_SEGMENTS_MAX: usize = 32;

/// `spiffe://trust-domain/path`, in its only spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SpiffeId {
    pub trust_domain: String,
    /// Without the first slash; never empty, because a workload's id has a path.
    pub path: String,
}

impl SpiffeId {
    /// SPIFFE-ID 2: lower-case scheme and trust domain, no user, port, query, fragment or percent
    /// sign; segments of letters, digits, `.`, `-`, `_`, none empty, none `.` or `..`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.len() > SPIFFE_ID_BYTES_MAX {
            return None;
        }
        let (trust_domain, path) = text.strip_prefix("spiffe://")?.split_once('/')?;
        if !is_trust_domain(trust_domain) || path.split('/').count() > PATH_SEGMENTS_MAX {
            return None;
        }
        if !path.split('/').all(is_segment) {
            return None;
        }
        Some(Self { trust_domain: trust_domain.to_owned(), path: path.to_owned() })
    }
}

pub(crate) fn is_trust_domain(name: &str) -> bool {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
    !name.is_empty() && name.len() <= TRUST_DOMAIN_BYTES_MAX && name.bytes().all(ok)
}

fn is_segment(segment: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(ok)
}

/// What a leaf says, once it may say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub id: SpiffeId,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl Leaf {
    /// X509-SVID 2 to 4: exactly one URI name, which is a SPIFFE id; not an authority; its key may
    /// sign and may not certify. Does not look at the clock, nor at who signed it.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, Refused> {
        let bad = |why| Refused::new(Word::BadCertificate, why);
        if der.len() > LEAF_BYTES_MAX {
            return Err(bad("the certificate is too long"));
        }
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| bad("the certificate cannot be read"))?;
        if !rest.is_empty() {
            return Err(bad("bytes follow the certificate"));
        }
        if certificate.version() != X509Version::V3 {
            return Err(bad("the certificate is not of version 3"));
        }
        certificate.extensions_map().map_err(|_| bad("an extension occurs twice"))?;
        let mut names = None;
        let mut usage = None;
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(value) => names = Some(value),
                ParsedExtension::KeyUsage(value) => usage = Some(value),
                ParsedExtension::BasicConstraints(value) if value.ca => {
                    return Err(bad("an authority's certificate"));
                }
                ParsedExtension::ExtendedKeyUsage(value) if !value.client_auth && !value.any => {
                    return Err(bad("the certificate is not for clients"));
                }
                ParsedExtension::ParseError { .. } | ParsedExtension::Unparsed => {
                    return Err(bad("an extension cannot be read"));
                }
                ParsedExtension::UnsupportedExtension { .. } if extension.critical => {
                    return Err(bad("a critical extension is not known"));
                }
                _ => {}
            }
        }
        match usage {
            Some(usage) if usage.key_cert_sign() || usage.crl_sign() => {
                return Err(bad("the certificate's key may certify"));
            }
            Some(usage) if usage.digital_signature() => {}
            _ => return Err(bad("the certificate's key is not for signing")),
        }
        let mut uri = None;
        for name in names.map_or(&[][..], |names| names.general_names.as_slice()) {
            match name {
                GeneralName::URI(_) if uri.is_some() => {
                    return Err(bad("the certificate has two URI names"));
                }
                GeneralName::URI(text) => uri = Some(*text),
                GeneralName::Invalid(..) => return Err(bad("a name cannot be read")),
                _ => {}
            }
        }
        let uri = uri.ok_or(bad("the certificate has no URI name"))?;
        let id = SpiffeId::parse(uri).ok_or(bad("the URI name is not a SPIFFE id"))?;
        let time = |secs: i64| u64::try_from(secs).ok().map(Timestamp::from_secs);
        let validity = certificate.validity();
        let not_before = time(validity.not_before.timestamp());
        let not_after = time(validity.not_after.timestamp());
        let (Some(not_before), Some(not_after)) = (not_before, not_after) else {
            return Err(bad("the certificate's validity cannot be read"));
        };
        Ok(Self { id, not_before, not_after })
    }

    /// Whether the certificate holds now, and is short-lived.
    pub(crate) fn check_time(&self, now: Timestamp, max_ttl_secs: u64) -> Result<(), Refused> {
        if now < self.not_before {
            return Err(Refused::new(Word::NotYetValid, "the certificate is not valid yet"));
        }
        // `notAfter` is inclusive to the second (RFC 5280 4.1.2.5).
        if now.secs() > self.not_after.secs() {
            return Err(Refused::new(Word::Expired, "the certificate has expired"));
        }
        if self.not_after.secs().saturating_sub(self.not_before.secs()) > max_ttl_secs {
            return Err(Refused::new(
                Word::BadLifetime,
                "the certificate lives longer than allowed",
            ));
        }
        Ok(())
    }
}

/// `/ns/{ns}/sa/{sa}`, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Text(String),
    Name(String),
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let Some(path) = text.strip_prefix('/') else {
            return Err("a pattern begins with `/`".into());
        };
        let mut segments: Vec<Segment> = Vec::new();
        for segment in path.split('/') {
            let read = match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
                Some(name) if is_name(name) => {
                    let named = Segment::Name(name.to_owned());
                    if name == "path" || name == "trust_domain" || segments.contains(&named) {
                        return Err(format!("the name `{name}` is taken"));
                    }
                    named
                }
                None if is_segment(segment) => Segment::Text(segment.to_owned()),
                _ => {
                    let shown = segment.escape_debug();
                    return Err(format!(
                        "the segment `{shown}` is neither a text of letters, digits, `.`, `-`, \
                         `_`, nor one name in braces"
                    ));
                }
            };
            segments.push(read);
        }
        if segments.len() > PATH_SEGMENTS_MAX {
            return Err(format!("a pattern has at most {PATH_SEGMENTS_MAX} segments"));
        }
        Ok(Self { segments })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.segments.iter().any(|segment| matches!(segment, Segment::Name(n) if n == name))
    }

    /// The names with what they stand for; None if the path is another.
    pub(crate) fn read(&self, path: &str) -> Option<Object> {
        let mut found = Object::new();
        let mut parts = path.split('/');
        for segment in &self.segments {
            let part = parts.next()?;
            match segment {
                Segment::Text(text) if text == part => {}
                Segment::Text(_) => return None,
                Segment::Name(name) => {
                    found.insert(name.clone(), Json::Text(part.to_owned()));
                }
            }
        }
        if parts.next().is_some() { None } else { Some(found) }
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_spelling() {
        let check = |text: &str, expect: Option<(&str, &str)>| {
            let id = SpiffeId::parse(text);
            let parts = id.as_ref().map(|id| (id.trust_domain.as_str(), id.path.as_str()));
            assert_eq!(parts, expect, "{text}");
        };
        check("spiffe://prod.example.com/ns/a/sa/b", Some(("prod.example.com", "ns/a/sa/b")));
        check("spiffe://p_1-x/A.B_c-9", Some(("p_1-x", "A.B_c-9")));
        check("spiffe://p/...", Some(("p", "...")));
        for bad in [
            "",
            "spiffe://",
            "spiffe:///ns/a",
            "spiffe://p",
            "spiffe://p/",
            "spiffe://p/a/",
            "spiffe://p//a",
            "spiffe://p/a//b",
            "spiffe://p/./a",
            "spiffe://p/../a",
            "spiffe://p/a/..",
            "spiffe://p/a/.",
            "spiffe://p/%2e%2e/a",
            "spiffe://p/a%2fb",
            "spiffe://p/a b",
            "spiffe://p/a\0",
            "spiffe://p/a\n",
            "spiffe://p/ä",
            "spiffe://P/a",
            "Spiffe://p/a",
            "SPIFFE://p/a",
            "spiffe:/p/a",
            "spiffe:p/a",
            "https://p/a",
            "spiffe://p:443/a",
            "spiffe://user@p/a",
            "spiffe://p%41/a",
            "spiffe://p/a?x=1",
            "spiffe://p?x/a",
            "spiffe://p/a#x",
            " spiffe://p/a",
            "spiffe://p/a ",
            "spiffe://p/a\\b",
            "spiffe://p/a:b",
        ] {
            check(bad, None);
        }
        let domain = |n: usize| format!("spiffe://{}/a", "d".repeat(n));
        assert!(SpiffeId::parse(&domain(255)).is_some());
        assert!(SpiffeId::parse(&domain(256)).is_none());
        let long = |n: usize| format!("spiffe://p/{}", "a".repeat(n - 11));
        assert!(SpiffeId::parse(&long(2_048)).is_some());
        assert!(SpiffeId::parse(&long(2_049)).is_none());
        let deep = |n: usize| format!("spiffe://p{}", "/a".repeat(n));
        assert!(SpiffeId::parse(&deep(PATH_SEGMENTS_MAX)).is_some());
        assert!(SpiffeId::parse(&deep(PATH_SEGMENTS_MAX + 1)).is_none());
    }

    #[test]
    fn patterns_match_whole_paths() {
        let check = |pattern: &str, path: &str, expect: Option<&[(&str, &str)]>| {
            let found = Pattern::parse(pattern).unwrap().read(path);
            let expect = expect.map(|pairs| {
                let text = |(k, v): &(&str, &str)| (k.to_string(), Json::Text(v.to_string()));
                pairs.iter().map(text).collect::<Object>()
            });
            assert_eq!(found, expect, "{pattern} {path}");
        };
        check("/ns/{ns}/sa/{sa}", "ns/a/sa/b", Some(&[("ns", "a"), ("sa", "b")]));
        check("/ns/{ns}/sa/{sa}", "ns/a/sa/b/c", None);
        check("/ns/{ns}/sa/{sa}", "ns/a/sa", None);
        check("/ns/{ns}/sa/{sa}", "NS/a/sa/b", None);
        check("/ns/{ns}/sa/{sa}", "x/ns/a/sa/b", None);
        check("/web", "web", Some(&[]));
        check("/web", "webs", None);
    }

    #[test]
    fn patterns_are_checked() {
        for bad in [
            "",
            "ns",
            "/",
            "//",
            "/a/",
            "/{",
            "/}",
            "/{}",
            "/{a}b",
            "/a{b}",
            "/{a}/{a}",
            "/*",
            "/{a/b}",
            "/{path}",
            "/{trust_domain}",
            "/a b",
            "/..",
        ] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
        assert!(Pattern::parse("/{a}/{b}/c").is_ok());
    }
}
