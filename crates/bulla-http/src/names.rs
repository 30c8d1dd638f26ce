//! What is done with a request's headers, by their names. Pure.

use std::sync::LazyLock;

/// Headers of one connection; they go no further (RFC 9110 7.6.1).
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "proxy-authenticate",
    "proxy-authorization",
    "http2-settings",
    "expect",
    "host",
    "content-length",
];

/// Headers by which a client could claim an origin or an identity. They are the gateway's to say.
const CLAIMED: &[&str] = &[
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-cluster-client-ip",
    "x-original-host",
    "x-host",
    "x-remote-user",
    "remote-user",
    "x-authenticated-user",
    "x-user",
    "x-client-cert",
    "ssl-client-cert",
    "client-cert",
    "client-cert-chain",
    "x-ssl-client-cert",
    "x-originating-ip",
    "fastly-client-ip",
    "x-appengine-user-ip",
    "x-jwt-assertion",
    "x-userinfo",
    "client-ip",
    "http-client-ip",
    "real-ip",
    "forwarded-for",
    "cluster-client-ip",
    "cf-connecting-ipv6",
    "x-proxyuser-ip",
    "x-custom-ip-authorization",
    "x-originally-forwarded-for",
    "front-end-https",
    "x-scheme",
    "x-url-scheme",
    "remote-name",
    "remote-email",
    "remote-groups",
    "x-anonymous-consumer",
    "x-credential-identifier",
    // A CGI program takes it for its own setting of a proxy.
    "proxy",
    // Next.js takes it for a request of its own.
    "x-middleware-subrequest",
];
/// The same, by how they begin.
const CLAIMED_PREFIXES: &[&str] = &[
    "x-forwarded",
    "x-bulla-",
    "bulla-",
    "x-envoy-",
    "x-ssl-",
    "x-tls-client-",
    "x-client-cert-",
    "x-client-verify",
    "x-client-dn",
    "x-auth-request-",
    "x-goog-authenticated-",
    "x-goog-iap-",
    "x-ms-client-principal",
    "x-ms-token-",
    "x-amzn-oidc-",
    "x-webauth-",
    "x-remote-",
    "x-azure-",
    "x-arr-",
    "x-consumer-",
    "x-authentik-",
    "x-pomerium-",
    "x-vouch-",
    "x-accel-",
    "cf-access-",
    "wl-proxy-",
    "x-forward-",
    "x-forwarder-",
    "x-forwared-",
];

/// Headers that would make another request of it than the one that was judged.
pub const OVERRIDES: &[&str] = &[
    "x-method",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "http-method-override",
    "x-http-override",
    "x-original-url",
    "x-rewrite-url",
    "x-override-url",
    "x-original-uri",
    "x-original-method",
    "x-original-path",
    "x-rewrite-uri",
    "x-http-path-override",
    "x-http-destinationurl",
    "x-http-host-override",
    "x-proxy-url",
    "proxy-url",
    "proxy-host",
    "request-uri",
    "base-url",
    "http-url",
];
/// Headers that may stand once.
const SINGLE: &[&str] = &[
    "authorization",
    "content-type",
    "content-encoding",
    "content-length",
    "content-range",
    "content-location",
    "dpop",
    "expect",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "max-forwards",
    "origin",
    "range",
    "referer",
    "traceparent",
    "upgrade",
    "user-agent",
    "sec-websocket-key",
    "sec-websocket-version",
    "grpc-timeout",
    "idempotency-key",
];

/// What becomes of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It goes on.
    Plain,
    /// It goes no further.
    Dropped,
    /// It is refused.
    Override,
}

/// Names of one length, what becomes of them, and whether they may stand once only.
type Bucket = Vec<(&'static str, Kind, bool)>;

/// By length: most headers are told apart by it.
static NAMES: LazyLock<Vec<Bucket>> = LazyLock::new(|| {
    let mut all: Vec<Bucket> = Vec::new();
    let mut put = |name: &'static str, kind: Option<Kind>, single: bool| {
        if all.len() <= name.len() {
            all.resize(name.len() + 1, Vec::new());
        }
        let Some(bucket) = all.get_mut(name.len()) else { return };
        match bucket.iter_mut().find(|(own, ..)| *own == name) {
            Some(known) => {
                known.1 = kind.unwrap_or(known.1);
                known.2 |= single;
            }
            None => bucket.push((name, kind.unwrap_or(Kind::Plain), single)),
        }
    };
    [HOP_BY_HOP, CLAIMED].concat().iter().for_each(|name| put(name, Some(Kind::Dropped), false));
    OVERRIDES.iter().for_each(|name| put(name, Some(Kind::Override), false));
    SINGLE.iter().for_each(|name| put(name, None, true));
    all
});

/// Names with the words of a refusal. Made once: what it holds lives as long as the process.
type Words = Vec<(&'static str, &'static str)>;

fn words(names: &[&'static str], say: impl Fn(&str) -> String) -> Words {
    names.iter().map(|name| (*name, &*say(name).leak())).collect()
}

static TWICE: LazyLock<Words> = LazyLock::new(|| {
    let names = [SINGLE, &["transfer-encoding"]].concat();
    words(&names, |name| format!("the header `{name}` stands twice, and may stand once"))
});

static REPLACES: LazyLock<Words> = LazyLock::new(|| {
    words(OVERRIDES, |name| format!("the header `{name}` would replace the method or the address"))
});

fn said(words: &Words, name: &str) -> Option<&'static str> {
    words.iter().find(|(own, _)| *own == name).map(|(_, why)| *why)
}

/// Why a header that may stand once is refused where it stands twice.
pub fn twice(name: &str) -> &'static str {
    said(&TWICE, name).unwrap_or("a header that may stand once stands twice")
}

/// Why a header of [`OVERRIDES`] is refused.
pub fn replaces(name: &str) -> &'static str {
    said(&REPLACES, name).unwrap_or("a header would replace the method or the address")
}

/// What becomes of a header of this name, in lower case, and whether it may stand once only.
pub fn kind(name: &str) -> (Kind, bool) {
    let known = NAMES.get(name.len()).and_then(|bucket| {
        let known = bucket.iter().find(|(own, ..)| *own == name);
        known.map(|(_, kind, single)| (*kind, *single))
    });
    // All of them begin with one of these.
    let claims = matches!(name.as_bytes().first(), Some(b'x' | b'b' | b'c' | b'w'))
        && CLAIMED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    match known {
        Some((Kind::Plain, single)) if claims => (Kind::Dropped, single),
        Some(known) => known,
        None if claims => (Kind::Dropped, false),
        None => (Kind::Plain, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_has_its_say() {
        for name in HOP_BY_HOP.iter().chain(CLAIMED) {
            assert_eq!(kind(name).0, Kind::Dropped, "{name}");
        }
        for name in OVERRIDES {
            assert!(replaces(name).contains(&format!("`{name}`")), "{name}");
            assert_eq!(kind(name).0, Kind::Override, "{name}");
        }
        for name in SINGLE {
            assert!(kind(name).1, "{name}");
            assert!(twice(name).contains(&format!("`{name}`")), "{name}");
        }
        for prefix in CLAIMED_PREFIXES {
            assert_eq!(kind(&format!("{prefix}zz")).0, Kind::Dropped, "{prefix}");
            assert!("xbcw".contains(prefix.chars().next().unwrap()), "{prefix}");
        }
        for name in ["accept", "x-own", "content-type", "cookie", ""] {
            assert_eq!(kind(name).0, Kind::Plain, "{name}");
        }
        assert_eq!(kind("content-length"), (Kind::Dropped, true));
    }
}
