//! Claims to principals, and what is wrong with a configuration.

use bulla_core::{Attribute, Principal, PrincipalKind, Timestamp};
use bulla_identity::{
    AttributeConfig, AttributeKind, Bundle, Config, IssuerConfig, KeySource, PathConfig, Profile,
    RequiredClaim, TrustDomainConfig,
};

use crate::support::*;

struct Bench {
    clock: std::sync::Arc<TestClock>,
    signer: Signer,
}

impl Bench {
    fn new() -> Self {
        Self { clock: TestClock::new(), signer: Signer::ed25519() }
    }

    async fn map(
        &self,
        change: impl FnOnce(&mut IssuerConfig),
        claims: &Members,
    ) -> Result<Principal, &'static str> {
        let mut record = with_keys(issuer(), &[self.signer.jwk("k1")]);
        record.profile = Some(Profile::Plain);
        change(&mut record);
        let verifier = verifier(record, &self.clock);
        let header = Members::header("EdDSA").set("typ", r#""JWT""#);
        let token = mint(&self.signer, &header.json(), &claims.json());
        let found = verify_at(&verifier, &token, Timestamp::from_secs(NOW)).await;
        found.map_err(|error| error.word)
    }
}

const POD: &str = r#"{"namespace":"billing","pod":{"name":"api-0","uid":"u1"},
    "serviceaccount":{"name":"api","uid":"u2"}}"#;

#[tokio::test]
async fn a_subject_is_made_of_claims() {
    let bench = Bench::new();
    let claims = Members::claims()
        .set("kubernetes.io", POD)
        .set("n", 42)
        .set("a/b", r#""slash""#)
        .set("a~b", r#""tilde""#)
        .set("a", r#"{"b":"nested"}"#)
        .set("list", r#"["x"]"#)
        .set("flag", "true")
        .set("half", "0.5")
        .set("empty", r#""""#)
        .set("none", "null");
    for (template, expect) in [
        ("{sub}", Ok("idp|svc-7")),
        ("svc:{sub}", Ok("idp|svc:svc-7")),
        ("{kubernetes.io/namespace}/{kubernetes.io/serviceaccount/name}", Ok("idp|billing/api")),
        ("{n}", Ok("idp|42")),
        ("{a/b}", Ok("idp|nested")),
        ("{a~1b}", Ok("idp|slash")),
        ("{a~0b}", Ok("idp|tilde")),
        ("{missing}", Err("missing_claim")),
        ("{sub}/{missing}", Err("missing_claim")),
        ("{sub/name}", Err("missing_claim")),
        ("{kubernetes.io/serviceaccount}", Err("claim_not_allowed")),
        ("{list}", Err("claim_not_allowed")),
        ("{flag}", Err("claim_not_allowed")),
        ("{half}", Err("claim_not_allowed")),
        ("{empty}", Err("claim_not_allowed")),
        ("{none}", Err("claim_not_allowed")),
    ] {
        let found = bench.map(|record| record.subject = template.into(), &claims).await;
        let found = found.as_ref().map(|principal| principal.id.as_str()).map_err(|word| *word);
        assert_eq!(found, expect, "{template}");
    }
}

#[tokio::test]
async fn a_subject_cannot_be_made_in_two_ways() {
    let bench = Bench::new();
    for (a, b, expect) in [
        ("x", "y", Ok("idp|x/y")),
        ("x", "y/z", Ok("idp|x/y/z")),
        ("x/y", "z", Err("claim_not_allowed")),
    ] {
        let claims = Members::claims().set("a", format!("{a:?}")).set("b", format!("{b:?}"));
        let found = bench.map(|record| record.subject = "{a}/{b}".into(), &claims).await;
        let found = found.as_ref().map(|principal| principal.id.as_str()).map_err(|word| *word);
        assert_eq!(found, expect);
    }
}

#[tokio::test]
async fn groups_come_from_claims() {
    let bench = Bench::new();
    let claims = Members::claims()
        .set("team", r#""billing""#)
        .set("roles", r#"["reader","writer","reader"]"#)
        .set("none", "[]")
        .set("bad", r#"["reader","a|b"]"#)
        .set("mixed", r#"["reader",{}]"#)
        .set("control", r#"["a\u0007"]"#)
        .set("null", "null");
    let many = format!("[{}0]", (1..=256).map(|n| format!("{n},")).collect::<String>());
    let claims = claims.set("many", many);
    for (templates, expect) in [
        (&["team:{team}"][..], Ok(&["team:billing"][..])),
        (&["team:{team}", "team:{team}"], Ok(&["team:billing"])),
        (&["{roles}"], Ok(&["reader", "writer"])),
        (&["{team}:{roles}"], Ok(&["billing:reader", "billing:writer"])),
        (&["team:{missing}"], Ok(&[])),
        (&["team:{missing}", "team:{team}"], Ok(&["team:billing"])),
        (&["{none}"], Ok(&[])),
        (&["{bad}"], Err("claim_not_allowed")),
        (&["{mixed}"], Err("claim_not_allowed")),
        (&["{control}"], Err("claim_not_allowed")),
        (&["{null}"], Err("claim_not_allowed")),
        (&["{roles}:{roles}"], Err("claim_not_allowed")),
        (&["{many}"], Err("claim_not_allowed")),
    ] {
        let groups = templates.iter().map(ToString::to_string).collect();
        let found = bench.map(|record| record.groups = groups, &claims).await;
        let found = found.map(|principal| principal.groups);
        let expect = expect.map(|all| all.iter().map(|g| (*g).into()).collect());
        assert_eq!(found, expect, "{templates:?}");
    }
}

#[tokio::test]
async fn attributes_have_their_kind() {
    let bench = Bench::new();
    let claims = Members::claims()
        .set("env", r#""prod""#)
        .set("mfa", "true")
        .set("level", 3)
        .set("tags", r#"["b","a","b"]"#)
        .set("kubernetes.io", POD)
        .set("half", "0.5")
        .set("large", "9223372036854775808")
        .set("control", r#""a\u0000""#)
        .set("null", "null");
    let text = |text: &str| Attribute::Text(text.into());
    let set = |items: &[&str]| Attribute::Set(items.iter().map(|i| (*i).into()).collect());
    use AttributeKind::{Flag, Number, Set, Text};
    for (claim, kind, expect) in [
        ("env", Text, Ok(Some(text("prod")))),
        ("kubernetes.io/pod/uid", Text, Ok(Some(text("u1")))),
        ("missing", Text, Ok(None)),
        ("mfa", Flag, Ok(Some(Attribute::Flag(true)))),
        ("level", Number, Ok(Some(Attribute::Number(3)))),
        ("tags", Set, Ok(Some(set(&["a", "b"])))),
        ("env", Set, Ok(Some(set(&["prod"])))),
        ("env", Flag, Err("claim_not_allowed")),
        ("env", Number, Err("claim_not_allowed")),
        ("mfa", Text, Err("claim_not_allowed")),
        ("level", Text, Err("claim_not_allowed")),
        ("level", Flag, Err("claim_not_allowed")),
        ("half", Number, Err("claim_not_allowed")),
        ("large", Number, Err("claim_not_allowed")),
        ("tags", Text, Err("claim_not_allowed")),
        ("null", Text, Err("claim_not_allowed")),
        ("null", Set, Err("claim_not_allowed")),
        ("control", Text, Err("claim_not_allowed")),
    ] {
        let attribute = AttributeConfig { name: "it".into(), claim: claim.into(), kind };
        let found = bench.map(|record| record.attributes = vec![attribute], &claims).await;
        let found = found.map(|principal| principal.attributes.get("it").cloned());
        assert_eq!(found, expect, "{claim} {kind:?}");
    }
}

#[tokio::test]
async fn no_claim_comes_through_unasked() {
    let bench = Bench::new();
    let claims = Members::claims()
        .set("groups", r#"["dba"]"#)
        .set("roles", r#"["admin"]"#)
        .set("kind", r#""human""#)
        .set("bound", "true");
    let principal = bench.map(|_| {}, &claims).await.unwrap();
    assert!(principal.groups.is_empty() && principal.attributes.is_empty());
    assert_eq!(principal.kind, PrincipalKind::Workload);
    let human = bench.map(|record| record.kind = PrincipalKind::Human, &claims).await.unwrap();
    assert_eq!(human.kind, PrincipalKind::Human);
}

#[tokio::test]
async fn required_claims_are_required() {
    let bench = Bench::new();
    let claims = Members::claims()
        .set("azp", r#""web""#)
        .set("ref", r#""refs/heads/main""#)
        .set("roles", r#"["reader","writer"]"#)
        .set("protected", "true")
        .set("project", 42)
        .set("null", "null");
    for (claim, values, expect) in [
        ("azp", &["web"][..], Ok(())),
        ("azp", &["api", "web"], Ok(())),
        ("azp", &[], Ok(())),
        ("azp", &["w*"], Ok(())),
        ("azp", &["api"], Err("claim_not_allowed")),
        ("azp", &["we"], Err("claim_not_allowed")),
        ("azp", &["Web"], Err("claim_not_allowed")),
        ("azp", &["web*"], Ok(())),
        ("azp", &["webs*"], Err("claim_not_allowed")),
        ("ref", &["refs/heads/*"], Ok(())),
        ("ref", &["refs/tags/*"], Err("claim_not_allowed")),
        ("roles", &["writer"], Ok(())),
        ("roles", &["admin"], Err("claim_not_allowed")),
        ("protected", &["true"], Ok(())),
        ("protected", &["false"], Err("claim_not_allowed")),
        ("project", &["42"], Ok(())),
        ("project", &["43"], Err("claim_not_allowed")),
        ("null", &[], Err("missing_claim")),
        ("null", &["null"], Err("missing_claim")),
        ("missing", &[], Err("missing_claim")),
        ("missing", &["x"], Err("missing_claim")),
    ] {
        let values = values.iter().map(ToString::to_string).collect();
        let rule = RequiredClaim { claim: claim.into(), values };
        let shown = format!("{rule:?}");
        let found = bench.map(|record| record.required = vec![rule], &claims).await;
        assert_eq!(found.map(|_| ()), expect, "{shown}");
    }
}

#[test]
fn a_good_configuration_has_no_problem() {
    let mut k8s = IssuerConfig::new("k8s", "https://kubernetes.default.svc.cluster.local", "bulla");
    k8s.subject = "{kubernetes.io/namespace}/{kubernetes.io/serviceaccount/name}".into();
    k8s.groups = vec!["team:{team}".into(), "{https:~1~1example.com~1roles}".into()];
    let mut domain = TrustDomainConfig::new("mesh", "prod.example.com", Bundle::Der(Vec::new()));
    domain.paths = vec![PathConfig {
        pattern: "/ns/{ns}/sa/{sa}".into(),
        subject: "{ns}/{sa}".into(),
        groups: vec!["team:{ns}".into(), "{trust_domain}".into()],
    }];
    let config = Config { issuers: vec![k8s, issuer()], trust_domains: vec![domain] };
    assert_eq!(config.validate(), []);
}

#[test]
fn every_problem_is_told_at_once() {
    let shown = |config: &Config| -> Vec<String> {
        config.validate().iter().map(|problem| problem.path.clone()).collect()
    };
    let mut bad = IssuerConfig::new("a b", "http://idp.example.com", "");
    bad.max_ttl_secs = 0;
    bad.leeway_secs = 31;
    bad.subject = "{sub".into();
    bad.groups = vec!["team".into(), "team:{a}{b}".into(), "team:{a}".into()];
    let attribute = |name: &str, claim: &str| AttributeConfig {
        name: name.into(),
        claim: claim.into(),
        kind: AttributeKind::Text,
    };
    bad.attributes = vec![
        attribute("env", "env"),
        attribute("env", "e2"),
        attribute("1", "x"),
        attribute("y", "a//b"),
    ];
    bad.required = vec![RequiredClaim { claim: "x".into(), values: vec!["a*b".into()] }];
    bad.typ = Some(vec![]);
    let config = Config { issuers: vec![bad], trust_domains: Vec::new() };
    assert_eq!(
        shown(&config),
        [
            "issuers.a b.alias",
            "issuers.a b.audience",
            "issuers.a b.issuer",
            "issuers.a b.max_ttl",
            "issuers.a b.leeway",
            "issuers.a b.subject",
            "issuers.a b.groups[0]",
            "issuers.a b.groups[1]",
            "issuers.a b.attributes.env",
            "issuers.a b.attributes.1",
            "issuers.a b.attributes.y",
            "issuers.a b.required[0]",
            "issuers.a b.typ",
        ]
    );
    let mut domain = TrustDomainConfig::new("idp", "Prod", Bundle::Der(Vec::new()));
    domain.max_ttl_secs = 8 * 86_400;
    let path = |pattern: &str, subject: &str| PathConfig {
        pattern: pattern.into(),
        subject: subject.into(),
        groups: vec!["x".into()],
    };
    domain.paths = vec![path("ns", "{ns}"), path("/{ns}", "{sa}"), path("/{ns}", "{ns}")];
    let twin = TrustDomainConfig::new("twin", "Prod", Bundle::Der(Vec::new()));
    let config = Config { issuers: vec![issuer(), issuer()], trust_domains: vec![domain, twin] };
    assert_eq!(
        shown(&config),
        [
            "issuers.idp.alias",
            "issuers.idp.issuer",
            "trust_domains.idp.alias",
            "trust_domains.idp.trust_domain",
            "trust_domains.idp.max_ttl",
            "trust_domains.idp.paths[0].pattern",
            "trust_domains.idp.paths[1].subject",
            "trust_domains.idp.paths[1].groups[0]",
            "trust_domains.idp.paths[2].pattern",
            "trust_domains.idp.paths[2].groups[0]",
            "trust_domains.twin.trust_domain",
            "trust_domains.twin.trust_domain",
        ]
    );
}

#[test]
fn templates_are_checked() {
    for (template, good) in [
        ("{sub}", true),
        ("a{sub}b", true),
        ("{a}-{b}", true),
        ("", false),
        ("plain", false),
        ("{", false),
        ("}", false),
        ("{}", false),
        ("{sub}}", false),
        ("{{sub}}", false),
        ("{sub", false),
        ("sub}", false),
        ("{a}{b}", false),
        ("{a|b}", false),
        ("x|{sub}", false),
        ("x\u{7}{sub}", false),
        ("{a//b}", false),
        ("{/a}", false),
        ("{a/}", false),
        ("{a~2}", false),
        ("{a~}", false),
        ("{a/b/c/d/e/f/g/h}", true),
        ("{a/b/c/d/e/f/g/h/i}", false),
    ] {
        let mut record = issuer();
        record.subject = template.into();
        let config = Config { issuers: vec![record], trust_domains: Vec::new() };
        assert_eq!(config.validate().is_empty(), good, "{template}");
    }
}

#[test]
fn keys_come_from_allowed_urls_only() {
    let file = |path: &str| KeySource::File { path: path.into() };
    let jwks = |url: &str| KeySource::Jwks { url: url.into() };
    let discovery = |url: &str| KeySource::Discovery { url: Some(url.into()) };
    for (keys, allow_http, good) in [
        (file("keys.json"), false, true),
        (file(""), false, false),
        (jwks("https://a/keys"), false, true),
        (jwks("http://a/keys"), false, false),
        (jwks("http://a/keys"), true, true),
        (jwks("http://127.0.0.1:1/keys"), false, true),
        (discovery("http://a/x"), false, false),
        (discovery("https://a/x"), false, true),
        (discovery("gopher://a/x"), true, false),
    ] {
        let mut record = issuer();
        record.allow_http = allow_http;
        record.keys = keys.clone();
        let config = Config { issuers: vec![record], trust_domains: Vec::new() };
        assert_eq!(config.validate().is_empty(), good, "{keys:?}");
    }
}
