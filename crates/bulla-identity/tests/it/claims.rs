//! What a rightly signed token says: issuer, audience, times, subject, binding.

use aws_lc_rs::digest::{SHA256, digest};
use bulla_core::{Clock, Credential, CredentialKind, Identity, PrincipalKind, Secret, Timestamp};
use bulla_identity::{Config, Profile, Verifier};

use crate::support::*;

struct Bench {
    clock: std::sync::Arc<TestClock>,
    signer: Signer,
    verifier: Verifier,
}

impl Bench {
    fn new() -> Self {
        let clock = TestClock::new();
        let signer = Signer::ed25519();
        let verifier = verifier(with_keys(issuer(), &[signer.jwk("k1")]), &clock);
        Self { clock, signer, verifier }
    }

    fn token(&self, claims: &Members) -> String {
        mint(&self.signer, &Members::header("EdDSA").json(), &claims.json())
    }

    async fn check(&self, what: &str, claims: &Members, expect: &str) {
        let found = word(&self.verifier, &self.clock, &self.token(claims)).await;
        assert_eq!(found, expect, "{what}: {}", claims.json());
    }
}

#[tokio::test]
async fn a_principal_is_what_was_verified() {
    let bench = Bench::new();
    let token = good(&bench.signer, "k1");
    let now = Timestamp(bench.clock.now().0 + 5);
    let principal = verify_at(&bench.verifier, &token, now).await.unwrap();
    let sha = |bytes: &[u8]| digest(&SHA256, bytes).as_ref().to_vec();
    assert_eq!(principal.id.as_str(), "idp|svc-7");
    assert_eq!(principal.kind, PrincipalKind::Workload);
    assert_eq!(&*principal.issuer, ISSUER);
    assert!(principal.groups.is_empty() && principal.attributes.is_empty());
    let proof = principal.proof;
    assert_eq!(proof.kind, CredentialKind::Jwt);
    assert_eq!(proof.hash.0.to_vec(), sha(token.as_bytes()));
    assert_eq!(proof.jti.unwrap().0.to_vec(), sha(b"j-1"));
    assert_eq!(proof.kid_tail.as_deref(), Some("k1"));
    assert_eq!(proof.issued_at, Timestamp::from_secs(NOW));
    assert_eq!(proof.expires_at, Timestamp::from_secs(NOW + 300));
    assert_eq!(proof.verified_at, now);
    assert!(!proof.bound && !proof.jwks_stale);
}

#[tokio::test]
async fn only_the_tail_of_a_key_id_is_kept() {
    let clock = TestClock::new();
    let signer = Signer::ed25519();
    for (kid, tail) in [("key-2027-abcd", "abcd"), ("ab", "ab"), ("x-a b", "-a?b")] {
        let verifier = verifier(with_keys(issuer(), &[signer.jwk(kid)]), &clock);
        let found = verify_at(&verifier, &good(&signer, kid), Timestamp::from_secs(NOW)).await;
        assert_eq!(found.unwrap().proof.kid_tail.as_deref(), Some(tail));
    }
}

#[tokio::test]
async fn the_issuer_is_compared_exactly() {
    let bench = Bench::new();
    let claims = Members::claims();
    for (iss, expect) in [
        (r#""https://idp.example.com""#, "ok"),
        (r#""https:\/\/idp.example.com""#, "ok"),
        (r#""https://idp.example.com/""#, "unknown_issuer"),
        (r#""https://IDP.example.com""#, "unknown_issuer"),
        (r#""http://idp.example.com""#, "unknown_issuer"),
        (r#""https://idp.example.com.evil.example""#, "unknown_issuer"),
        (r#""https://idp.example.co""#, "unknown_issuer"),
        (r#""https://idp.example.com:443""#, "unknown_issuer"),
        (r#""https://idp.example.com ""#, "unknown_issuer"),
        (r#"" https://idp.example.com""#, "unknown_issuer"),
        (r#""https://idp.example.com\u0000""#, "unknown_issuer"),
        (r#""https://idp.example.com#x""#, "unknown_issuer"),
        (r#""idp.example.com""#, "unknown_issuer"),
        (r#""idp""#, "unknown_issuer"),
        (r#""*""#, "unknown_issuer"),
        (r#""""#, "unknown_issuer"),
        ("null", "missing_claim"),
        ("0", "missing_claim"),
        (r#"["https://idp.example.com"]"#, "missing_claim"),
        (r#"{"iss":"https://idp.example.com"}"#, "missing_claim"),
    ] {
        bench.check("iss", &claims.clone().set("iss", iss), expect).await;
    }
    bench.check("iss", &claims.clone().without("iss"), "missing_claim").await;
    let twice = claims.add("iss", r#""https://idp.example.com""#);
    bench.check("iss", &twice, "malformed").await;
}

#[tokio::test]
async fn an_issuer_cannot_speak_for_another() {
    let clock = TestClock::new();
    let (one, two) = (Signer::ed25519(), Signer::ed25519());
    let first = with_keys(issuer(), &[one.jwk("k1")]);
    let mut second = with_keys(issuer(), &[two.jwk("k1")]);
    second.alias = "other".into();
    second.issuer = "https://other.example.com".into();
    let config = Config { issuers: vec![first, second], trust_domains: Vec::new() };
    let verifier = Verifier::with_limits(&config, clock.clone(), quick()).unwrap();
    let other = Members::claims().set("iss", r#""https://other.example.com""#).json();
    let header = Members::header("EdDSA").json();
    for (what, token, expect) in [
        ("one as one", good(&one, "k1"), "ok"),
        ("two as two", mint(&two, &header, &other), "ok"),
        ("two as one", good(&two, "k1"), "bad_signature"),
        ("one as two", mint(&one, &header, &other), "bad_signature"),
    ] {
        assert_eq!(word(&verifier, &clock, &token).await, expect, "{what}");
    }
    let found = verify_at(&verifier, &mint(&two, &header, &other), Timestamp::from_secs(NOW)).await;
    assert_eq!(found.unwrap().id.as_str(), "other|svc-7");
}

#[tokio::test]
async fn the_audience_holds_ours_exactly() {
    let bench = Bench::new();
    let claims = Members::claims();
    let many = |n: usize| format!(r#"[{}"bulla"]"#, r#""x","#.repeat(n - 1));
    for (aud, expect) in [
        (r#""bulla""#, "ok"),
        (r#"["bulla"]"#, "ok"),
        (r#"["orders","bulla"]"#, "ok"),
        (r#"["bulla","bulla"]"#, "ok"),
        (r#""Bulla""#, "wrong_audience"),
        (r#""bulla ""#, "wrong_audience"),
        (r#""bulla/""#, "wrong_audience"),
        (r#""bullah""#, "wrong_audience"),
        (r#""bull""#, "wrong_audience"),
        (r#""orders""#, "wrong_audience"),
        (r#""bulla orders""#, "wrong_audience"),
        (r#""bulla,orders""#, "wrong_audience"),
        (r#""*""#, "wrong_audience"),
        (r#""""#, "wrong_audience"),
        ("[]", "wrong_audience"),
        (r#"["orders"]"#, "wrong_audience"),
        (r#"["Bulla","bulla "]"#, "wrong_audience"),
        (r#"[["bulla"]]"#, "malformed"),
        (r#"["bulla",null]"#, "malformed"),
        (r#"["bulla",1]"#, "malformed"),
        (r#"{"bulla":true}"#, "malformed"),
        ("null", "malformed"),
        ("true", "malformed"),
        ("0", "malformed"),
        (&many(64), "ok"),
        (&many(65), "malformed"),
    ] {
        bench.check("aud", &claims.clone().set("aud", aud), expect).await;
    }
    bench.check("aud", &claims.without("aud"), "missing_claim").await;
}

#[tokio::test]
async fn dates_are_sane_numbers() {
    let bench = Bench::new();
    for name in ["exp", "iat", "nbf"] {
        let base = match name {
            "exp" => NOW + 300,
            _ => NOW,
        };
        for (value, expect) in [
            (base.to_string(), "ok"),
            (format!("{base}.5"), "ok"),
            (format!("{base}.0"), "ok"),
            (format!("{}e1", base / 10), "ok"),
            (format!("\"{base}\""), "malformed"),
            (format!("[{base}]"), "malformed"),
            (format!("{{\"v\":{base}}}"), "malformed"),
            ("null".into(), "malformed"),
            ("true".into(), "malformed"),
            (r#""""#.into(), "malformed"),
            (r#""2027-01-15T08:05:00Z""#.into(), "malformed"),
            (r#""Infinity""#.into(), "malformed"),
            (format!("-{base}"), "malformed"),
            ("-1".into(), "malformed"),
            ("-0.5".into(), "malformed"),
            ("253402300800".into(), "malformed"),
            ("1e300".into(), "malformed"),
            ("1e999".into(), "malformed"),
            ("9223372036854775807".into(), "malformed"),
            ("18446744073709551615".into(), "malformed"),
            ("18446744073709551616".into(), "malformed"),
            ("99999999999999999999999999999999".into(), "malformed"),
            (format!("{base}000"), "malformed"),
            (format!("0x{base:x}"), "malformed"),
            (format!("0{base}"), "malformed"),
        ] {
            bench.check(name, &Members::claims().set(name, value), expect).await;
        }
        let twice = Members::claims().set(name, base).add(name, base);
        bench.check(name, &twice, "malformed").await;
    }
    bench.check("exp", &Members::claims().without("exp"), "missing_claim").await;
    bench.check("iat", &Members::claims().without("iat"), "missing_claim").await;
    bench.check("nbf", &Members::claims().without("nbf"), "ok").await;
}

#[tokio::test]
async fn times_hold_with_little_leeway() {
    let bench = Bench::new();
    let claims = Members::claims();
    let at = |iat: u64, exp: u64| claims.clone().set("iat", iat).set("exp", exp);
    for (what, claims, expect) in [
        ("expired 29 s ago", at(NOW - 300, NOW - 29), "ok"),
        ("expired 30 s ago", at(NOW - 300, NOW - 30), "expired"),
        ("expired an hour ago", at(NOW - 3_900, NOW - 3_600), "expired"),
        ("exp is zero", at(0, 0), "expired"),
        ("issued in 30 s", at(NOW + 30, NOW + 300), "ok"),
        ("issued in 31 s", at(NOW + 31, NOW + 300), "bad_lifetime"),
        ("not before in 30 s", claims.clone().set("nbf", NOW + 30), "ok"),
        ("not before in 31 s", claims.clone().set("nbf", NOW + 31), "not_yet_valid"),
        (
            "not before in 31 s",
            claims.clone().set("nbf", format!("{}.9", NOW + 30)),
            "not_yet_valid",
        ),
        ("an hour", at(NOW, NOW + 3_600), "ok"),
        ("a second more", at(NOW, NOW + 3_601), "bad_lifetime"),
        ("a year", at(NOW, NOW + 31_536_000), "bad_lifetime"),
        ("an old one, for long", at(0, NOW + 300), "bad_lifetime"),
        ("no time at all", at(NOW + 10, NOW + 10), "bad_lifetime"),
        ("backwards", at(NOW + 20, NOW + 10), "bad_lifetime"),
    ] {
        bench.check(what, &claims, expect).await;
    }
}

#[tokio::test]
async fn leeway_and_lifetime_are_the_issuers() {
    let clock = TestClock::new();
    let signer = Signer::ed25519();
    let mut record = with_keys(issuer(), &[signer.jwk("k1")]);
    record.leeway_secs = 0;
    record.max_ttl_secs = 300;
    let verifier = verifier(record, &clock);
    let header = Members::header("EdDSA").json();
    for (iat, exp, expect) in [
        (NOW, NOW + 300, "ok"),
        (NOW, NOW + 301, "bad_lifetime"),
        (NOW + 1, NOW + 300, "bad_lifetime"),
        (NOW - 299, NOW + 1, "ok"),
        (NOW - 299, NOW, "expired"),
    ] {
        let claims = Members::claims().set("iat", iat).set("exp", exp).json();
        assert_eq!(word(&verifier, &clock, &mint(&signer, &header, &claims)).await, expect);
    }
}

#[tokio::test]
async fn subject_and_client_are_texts() {
    let bench = Bench::new();
    for name in ["sub", "azp", "client_id", "jti"] {
        for (value, expect) in [
            (r#""svc-8""#, "ok"),
            (r#""""#, "malformed"),
            ("null", "malformed"),
            ("7", "malformed"),
            ("false", "malformed"),
            (r#"["svc-7"]"#, "malformed"),
            (r#"{"a":"svc-7"}"#, "malformed"),
        ] {
            bench.check(name, &Members::claims().set(name, value), expect).await;
        }
    }
    for value in [
        r#""a|b""#,
        r#""idp2|root""#,
        r#""a\u0000""#,
        r#""a\n""#,
        r#""a\u001b[2J""#,
        r#""a\u007f""#,
        r#""a\u0085""#,
        r#""a\u202eb""#,
        r#""a\u200bb""#,
        r#""\ufeffa""#,
        r#""a\u2028b""#,
    ] {
        bench.check("sub", &Members::claims().set("sub", value), "claim_not_allowed").await;
    }
    let long = |n: usize| Members::claims().set("sub", format!("{:?}", "s".repeat(n)));
    bench.check("long", &long(512), "ok").await;
    bench.check("too long", &long(513), "claim_not_allowed").await;
    bench.check("sub", &Members::claims().without("sub"), "missing_claim").await;
    bench.check("azp", &Members::claims().without("azp"), "ok").await;
}

#[tokio::test]
async fn a_profile_makes_claims_mandatory() {
    let clock = TestClock::new();
    let signer = Signer::ed25519();
    let check = async |profile, claims: Members, typ: Option<&str>, expect: &str| {
        let mut record = with_keys(issuer(), &[signer.jwk("k1")]);
        record.profile = profile;
        if profile.is_none() {
            record.subject = "{kubernetes.io/namespace}/{kubernetes.io/serviceaccount/name}".into();
        }
        let verifier = verifier(record, &clock);
        let header = match typ {
            Some(typ) => Members::header("EdDSA").set("typ", format!("{typ:?}")),
            None => Members::header("EdDSA").without("typ"),
        };
        let token = mint(&signer, &header.json(), &claims.json());
        let found = word(&verifier, &clock, &token).await;
        assert_eq!(found, expect, "{profile:?} {typ:?} {}", claims.json());
    };
    let claims = Members::claims();
    let access = Some(Profile::AccessToken);
    check(access, claims.clone(), Some("at+jwt"), "ok").await;
    check(access, claims.clone().without("client_id"), Some("at+jwt"), "missing_claim").await;
    check(access, claims.clone().without("jti"), Some("at+jwt"), "missing_claim").await;
    let plain = Some(Profile::Plain);
    let bare = claims.without("client_id").without("jti");
    check(plain, bare.clone(), Some("JWT"), "ok").await;
    check(plain, bare.clone(), None, "ok").await;
    check(plain, bare.clone(), Some("at+jwt"), "wrong_type").await;
    // Without a profile, the subject's claims tell.
    let pod = r#"{"namespace":"billing","serviceaccount":{"name":"api"}}"#;
    check(None, bare.clone().set("kubernetes.io", pod), None, "ok").await;
    check(None, bare.clone().set("kubernetes.io", pod), Some("at+jwt"), "wrong_type").await;
    check(None, bare.clone(), None, "missing_claim").await;
    check(None, bare.set("kubernetes.io", r#""billing""#), None, "malformed").await;
}

#[tokio::test]
async fn a_bound_token_is_good_with_its_certificate_only() {
    let bench = Bench::new();
    let certificate = b"any bytes: the handshake has checked them";
    let hash = b64(digest(&SHA256, certificate));
    let check = async |cnf: String, certificate: Option<&[u8]>| {
        let token = bench.token(&Members::claims().set("cnf", &cnf));
        let credential = Credential::Token(Secret::new(token.into_bytes()));
        let origin = origin(certificate);
        let found = bench.verifier.verify(credential, &origin, Timestamp::from_secs(NOW)).await;
        found.map(|principal| principal.proof.bound).map_err(|error| error.word)
    };
    let bound = |hash: &str| format!(r#"{{"x5t#S256":"{hash}"}}"#);
    let none = Err("not_bound");
    assert_eq!(check(bound(&hash), Some(certificate)).await, Ok(true));
    assert_eq!(check(bound(&hash), None).await, none);
    assert_eq!(check(bound(&hash), Some(b"another")).await, none);
    assert_eq!(check(bound(&format!("{hash}=")), Some(certificate)).await, none);
    assert_eq!(check(bound(&hash[..42]), Some(certificate)).await, none);
    assert_eq!(check(bound(""), Some(certificate)).await, none);
    let both = format!(r#"{{"x5t#S256":"{hash}","jkt":"{hash}"}}"#);
    assert_eq!(check(both, Some(certificate)).await, none);
    for other in [
        format!(r#"{{"jkt":"{hash}"}}"#),
        format!(r#"{{"x5t#s256":"{hash}"}}"#),
        format!(r#"{{"x5t#S256":["{hash}"]}}"#),
        r#"{"jwk":{"kty":"OKP"}}"#.into(),
        "{}".into(),
        "null".into(),
        format!("{hash:?}"),
    ] {
        assert_eq!(check(other, Some(certificate)).await, none);
    }
    // Nothing to prove: a bearer's, whatever certificate there is.
    let token = good(&bench.signer, "k1");
    let credential = Credential::Token(Secret::new(token.into_bytes()));
    let origin = origin(Some(certificate));
    let found = bench.verifier.verify(credential, &origin, Timestamp::from_secs(NOW)).await;
    assert!(!found.unwrap().proof.bound);
}
