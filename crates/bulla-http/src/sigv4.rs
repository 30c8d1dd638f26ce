//! AWS Signature Version 4, for targets that want it. Pure.
//!
//! Source: "Signature Version 4 signing process" of the AWS General Reference. The client's own
//! `x-amz-date`, `x-amz-content-sha256` and `x-amz-security-token` are replaced: they were for a
//! signature that is not sent.

use std::fmt::Write as _;

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac,
};
use bulla_core::{Secret, Timestamp};

use crate::head::Head;

/// Headers of a signature, which a client cannot make for us.
const OURS: &[&str] =
    &["x-amz-date", "x-amz-content-sha256", "x-amz-security-token", "x-amz-signature"];

/// For whom and where a request is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The access key's id; its secret comes from the connector.
    pub key_id: String,
    pub region: String,
    /// `s3`, `execute-api`, ...
    pub service: String,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

/// Everything but the unreserved characters of RFC 3986 as `%XX`.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// `20130524T000000Z`
fn stamp(now: Timestamp) -> String {
    let (year, month, day, hour, minute, second, _) = now.civil();
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// The headers that sign a request: names in lower case, with their values. `body`: all of it, or
/// none where it streams; only what TLS protects may stream.
pub fn sign(
    head: &Head,
    host: &str,
    body: Option<&[u8]>,
    scope: &Scope,
    secret: &Secret,
    now: Timestamp,
) -> Vec<(&'static str, String)> {
    let time = stamp(now);
    let day = time.get(..8).unwrap_or_default();
    let payload = match body {
        Some(body) => hex(digest(&SHA256, body).as_ref()),
        None => "UNSIGNED-PAYLOAD".into(),
    };
    let mut signed: Vec<(String, String)> = vec![
        ("host".into(), host.into()),
        ("x-amz-content-sha256".into(), payload.clone()),
        ("x-amz-date".into(), time.clone()),
    ];
    for (name, value) in head.headers.iter() {
        let own = name.starts_with("x-amz-") || name == "content-type" || name == "range";
        if own && !OURS.contains(&name) {
            let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
            match signed.iter_mut().find(|(other, _)| other == name) {
                Some((_, all)) => *all = format!("{all},{value}"),
                None => signed.push((name.to_owned(), value)),
            }
        }
    }
    signed.sort();
    let names: Vec<&str> = signed.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(";");
    let mut pairs: Vec<(String, String)> =
        head.pairs.iter().map(|(name, value)| (encode(name), encode(value))).collect();
    // By name and then by value: `a=1` is before `a1=`, though `=` is behind `1`.
    pairs.sort();
    let pairs: Vec<String> =
        pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let headers: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let canonical = format!(
        "{}\n{}\n{}\n{headers}\n{names}\n{payload}",
        head.method,
        path(head, scope),
        pairs.join("&")
    );
    let place = format!("{day}/{}/{}/aws4_request", scope.region, scope.service);
    let text = format!(
        "AWS4-HMAC-SHA256\n{time}\n{place}\n{}",
        hex(digest(&SHA256, canonical.as_bytes()).as_ref())
    );
    let mut key = [b"AWS4", secret.reveal()].concat();
    for part in [day, &scope.region, &scope.service, "aws4_request"] {
        key = mac(&key, part);
    }
    let signature = hex(&mac(&key, &text));
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/{place},SignedHeaders={names},Signature={signature}",
        scope.key_id
    );
    vec![("authorization", authorization), ("x-amz-content-sha256", payload), ("x-amz-date", time)]
}

/// S3 takes the segments of the path encoded; every other service takes the path as it is sent, encoded
/// once more.
fn path(head: &Head, scope: &Scope) -> String {
    if scope.service != "s3" {
        return head.path.split('/').map(encode).collect::<Vec<_>>().join("/");
    }
    let mut out = String::new();
    for segment in &head.segments {
        out.push('/');
        out.push_str(&encode(segment));
    }
    if out.is_empty() || head.path.ends_with('/') {
        out.push('/');
    }
    out
}

/// Whether a header of the client is replaced by ours.
pub fn replaces(name: &str) -> bool {
    OURS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> Head {
        let mut request = http::Request::builder().method(method).uri(target);
        request = request.header("host", "examplebucket.s3.amazonaws.com");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Head::read(&request.body(()).unwrap().into_parts().0, None).unwrap()
    }

    /// The examples of "Authenticating Requests: Using the Authorization Header" (Amazon S3).
    #[test]
    fn the_published_examples_sign_alike() {
        let scope = Scope {
            key_id: "AKIAIOSFODNN7EXAMPLE".into(),
            region: "us-east-1".into(),
            service: "s3".into(),
        };
        let secret = Secret::new(b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_vec());
        // 2013-05-24T00:00:00Z
        let now = Timestamp::from_secs(1_369_353_600);
        let host = "examplebucket.s3.amazonaws.com";
        for (head, expect) in [
            (
                head(
                    "GET",
                    "/test.txt",
                    &[("range", "bytes=0-9"), ("x-amz-date", "19700101T000000Z")],
                ),
                "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            ),
            (
                head("GET", "/?max-keys=2&prefix=J", &[]),
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
        ] {
            let made = sign(&head, host, Some(b""), &scope, &secret, now);
            let (_, authorization) = made.first().unwrap();
            assert!(authorization.ends_with(expect), "{authorization}");
            assert_eq!(made.last().unwrap().1, "20130524T000000Z");
        }
    }
}
