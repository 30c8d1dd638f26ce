//! The envelope: algorithms, headers, encodings, signatures.

use aws_lc_rs::{
    hmac,
    signature::{RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, RsaPublicKeyComponents},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bulla_identity::{Algorithm, TOKEN_BYTES_MAX, Verifier};

use crate::support::*;

struct Bench {
    clock: std::sync::Arc<TestClock>,
    rsa: Signer,
    p256: Signer,
    p384: Signer,
    ed25519: Signer,
    verifier: Verifier,
}

impl Bench {
    /// An issuer with one key of each kind: `k1` is the RSA key.
    async fn new() -> Self {
        let clock = TestClock::new();
        let (rsa, p256, p384, ed25519) =
            (Signer::rsa(), Signer::p256(), Signer::p384(), Signer::ed25519());
        let keys = [rsa.jwk("k1"), p256.jwk("k256"), p384.jwk("k384"), ed25519.jwk("ked")];
        let verifier = verifier(with_keys(issuer(), &keys), &clock);
        verifier.attempted().await;
        Self { clock, rsa, p256, p384, ed25519, verifier }
    }

    async fn check(&self, what: &str, token: &str, expect: &str) {
        assert_eq!(word(&self.verifier, &self.clock, token).await, expect, "{what}");
    }

    fn rs256(&self) -> Members {
        Members::header("RS256")
    }

    fn claims(&self) -> String {
        Members::claims().json()
    }
}

#[tokio::test]
async fn each_algorithm_verifies_with_its_own_key() {
    let bench = Bench::new().await;
    let claims = bench.claims();
    bench.check("RS256", &good(&bench.rsa, "k1"), "ok").await;
    bench.check("ES256", &good(&bench.p256, "k256"), "ok").await;
    bench.check("ES384", &good(&bench.p384, "k384"), "ok").await;
    bench.check("EdDSA", &good(&bench.ed25519, "ked"), "ok").await;
    let header = Members::header("PS256").json();
    let token = mint_with(&header, &claims, |signed| bench.rsa.sign_pss(signed));
    bench.check("PS256", &token, "ok").await;
    // The other padding under either name.
    let token = mint_with(&header, &claims, |signed| bench.rsa.sign(signed));
    bench.check("PKCS #1 as PS256", &token, "bad_signature").await;
    let header = Members::header("RS256").json();
    let token = mint_with(&header, &claims, |signed| bench.rsa.sign_pss(signed));
    bench.check("PSS as RS256", &token, "bad_signature").await;
}

#[tokio::test]
async fn the_algorithm_is_ours_to_choose() {
    let bench = Bench::new().await;
    let claims = bench.claims();
    let sign = |signed: &[u8]| bench.rsa.sign(signed);
    for none in ["none", "None", "NONE", "nOnE", "none ", "", "null"] {
        let header = Members::header(none).json();
        let signed = format!("{}.{}", b64(&header), b64(&claims));
        bench.check(none, &format!("{signed}."), "malformed").await;
        bench.check(none, &signed, "malformed").await;
        // With a signature that would be good.
        bench.check(none, &mint_with(&header, &claims, sign), "algorithm_not_allowed").await;
    }
    for (value, expect) in [
        ("null", "malformed"),
        (r#"["RS256"]"#, "malformed"),
        (r#"["none"]"#, "malformed"),
        (r#"{"name":"RS256"}"#, "malformed"),
        ("0", "malformed"),
        ("true", "malformed"),
        (r#""rs256""#, "algorithm_not_allowed"),
        (r#""RS256 ""#, "algorithm_not_allowed"),
        (r#"" RS256""#, "algorithm_not_allowed"),
        (r#""RS256\u0000""#, "algorithm_not_allowed"),
        (r#""RSA256""#, "algorithm_not_allowed"),
        (r#""RS1""#, "algorithm_not_allowed"),
        (r#""HS256""#, "algorithm_not_allowed"),
        (r#""RS256""#, "ok"),
        (r#""\u0052S256""#, "ok"),
    ] {
        let header = bench.rs256().set("alg", value).json();
        bench.check(value, &mint_with(&header, &claims, sign), expect).await;
    }
    let header = bench.rs256().without("alg").json();
    bench.check("missing", &mint_with(&header, &claims, sign), "malformed").await;
    for second in ["RS256", "none", "HS256"] {
        let header = bench.rs256().add("alg", format!("{second:?}")).json();
        bench.check("twice", &mint_with(&header, &claims, sign), "malformed").await;
        let header = Members::header(second).add("\\u0061lg", r#""RS256""#).json();
        bench.check("twice, escaped", &mint_with(&header, &claims, sign), "malformed").await;
    }
    // Good signatures of algorithms that nobody configured.
    let header = Members::header("RS512").json();
    let token = mint_with(&header, &claims, |signed| bench.rsa.sign_rs512(signed));
    bench.check("RS512", &token, "algorithm_not_allowed").await;
}

#[tokio::test]
async fn an_issuer_may_allow_fewer_algorithms() {
    let clock = TestClock::new();
    let (rsa, p256) = (Signer::rsa(), Signer::p256());
    let keys = [rsa.jwk("k1"), p256.jwk("k256")];
    let mut record = with_keys(issuer(), &keys);
    record.algorithms = vec![Algorithm::Es256];
    let verifier = verifier(record, &clock);
    assert_eq!(word(&verifier, &clock, &good(&p256, "k256")).await, "ok");
    assert_eq!(word(&verifier, &clock, &good(&rsa, "k1")).await, "algorithm_not_allowed");
}

#[tokio::test]
async fn a_public_key_is_no_secret() {
    let bench = Bench::new().await;
    let claims = bench.claims();
    let pem = |label: &str, der: &[u8]| {
        let text = STANDARD.encode(der);
        let lines: Vec<_> =
            text.as_bytes().chunks(64).map(|c| std::str::from_utf8(c).unwrap()).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    };
    let (spki, pkcs1) = (bench.rsa.spki_der(), bench.rsa.pkcs1_der());
    let (n, _) = rsa_numbers(&pkcs1);
    let spki_pem = pem("PUBLIC KEY", &spki);
    let secrets: Vec<Vec<u8>> = vec![
        spki_pem.trim_end().into(),
        spki_pem.replace('\n', "\r\n").into(),
        spki_pem.into(),
        pem("RSA PUBLIC KEY", &pkcs1).into(),
        STANDARD.encode(&spki).into(),
        bench.rsa.jwk("k1").into(),
        jwks(&[bench.rsa.jwk("k1")]).into(),
        b64(&n).into(),
        spki,
        pkcs1,
        n,
        b"k1".to_vec(),
        b"secret".to_vec(),
        vec![0],
        Vec::new(),
    ];
    for secret in secrets {
        for (alg, how) in [
            ("HS256", hmac::HMAC_SHA256),
            ("HS384", hmac::HMAC_SHA384),
            ("HS512", hmac::HMAC_SHA512),
        ] {
            let key = hmac::Key::new(how, &secret);
            let mac = |signed: &[u8]| hmac::sign(&key, signed).as_ref().to_vec();
            let token = mint_with(&Members::header(alg).json(), &claims, mac);
            bench.check(alg, &token, "algorithm_not_allowed").await;
            // Under an honest name, too, it is no signature.
            let token = mint_with(&bench.rs256().json(), &claims, mac);
            bench.check(alg, &token, "bad_signature").await;
        }
    }
    bench.check("control", &good(&bench.rsa, "k1"), "ok").await;
}

#[tokio::test]
async fn a_key_fits_its_own_algorithm_only() {
    let bench = Bench::new().await;
    let signers =
        [(&bench.rsa, "k1"), (&bench.p256, "k256"), (&bench.p384, "k384"), (&bench.ed25519, "ked")];
    for (signer, own) in signers {
        for (_, kid) in signers {
            let expect = if own == kid { "ok" } else { "algorithm_not_allowed" };
            bench.check(&format!("{own} as {kid}"), &good(signer, kid), expect).await;
        }
    }
    // Another key of the same kind.
    bench.check("stranger", &good(&Signer::rsa(), "k1"), "bad_signature").await;
    bench.check("stranger", &good(&Signer::p256(), "k256"), "bad_signature").await;
    bench.check("stranger", &good(&Signer::ed25519(), "ked"), "bad_signature").await;
}

#[tokio::test]
async fn signatures_have_one_form() {
    let bench = Bench::new().await;
    let claims = bench.claims();
    let header = Members::header("ES256").set("kid", r#""k256""#).json();
    // The order of P-256, as another zero.
    let order: Vec<u8> = (0..32)
        .map(|i| {
            let hex = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
            u8::from_str_radix(&hex[i * 2..i * 2 + 2], 16).unwrap()
        })
        .collect();
    let (zero, one) = (vec![0u8; 32], [vec![0u8; 31], vec![1]].concat());
    let pairs = [
        ("r = s = 0", [zero.clone(), zero.clone()]),
        ("r = 0", [zero.clone(), one.clone()]),
        ("s = 0", [one.clone(), zero.clone()]),
        ("r = s = order", [order.clone(), order.clone()]),
        ("r = order", [order.clone(), one.clone()]),
        ("s = order", [one.clone(), order.clone()]),
        ("r = s = 1", [one.clone(), one.clone()]),
        ("r = s = max", [vec![255; 32], vec![255; 32]]),
    ];
    for (what, pair) in pairs {
        let token = mint_with(&header, &claims, |_| pair.concat());
        bench.check(what, &token, "bad_signature").await;
    }
    let token = mint_with(&header, &claims, |signed| bench.p256.sign_der(signed));
    bench.check("DER", &token, "bad_signature").await;
    type Change = fn(Vec<u8>) -> Vec<u8>;
    let changes: [(&str, Change); 5] = [
        ("one byte more", |s| [s, vec![0]].concat()),
        ("one byte less", |s| s[..63].to_vec()),
        ("zeros before", |s| [vec![0], s[..32].to_vec(), vec![0], s[32..].to_vec()].concat()),
        ("as for P-384", |s| {
            [vec![0; 16], s[..32].to_vec(), vec![0; 16], s[32..].to_vec()].concat()
        }),
        ("swapped", |s| [s[32..].to_vec(), s[..32].to_vec()].concat()),
    ];
    for (what, change) in changes {
        let token = mint_with(&header, &claims, |signed| change(bench.p256.sign(signed)));
        bench.check(what, &token, "bad_signature").await;
    }
    bench.check("control", &good(&bench.p256, "k256"), "ok").await;
    let header = bench.rs256().json();
    for (what, signature) in [
        ("zeros", vec![0; 256]),
        ("ones", vec![255; 256]),
        ("short", vec![1]),
        ("1", { [vec![0; 255], vec![1]].concat() }),
    ] {
        let token = mint_with(&header, &claims, |_| signature.clone());
        bench.check(what, &token, "bad_signature").await;
    }
    // A token whose payload was exchanged after signing.
    let token = good(&bench.rsa, "k1");
    let parts: Vec<_> = token.split('.').collect();
    let other = b64(Members::claims().set("sub", r#""evil""#).json());
    let forged = format!("{}.{other}.{}", parts[0], parts[2]);
    bench.check("exchanged payload", &forged, "bad_signature").await;
}

#[tokio::test]
async fn a_header_brings_no_key() {
    let bench = Bench::new().await;
    let claims = bench.claims();
    let evil = Signer::rsa();
    let idp = Idp::start().await;
    idp.reply("/evil", Reply::json(jwks(&[evil.jwk("k1")])));
    let url = format!("{:?}", idp.url("/evil"));
    for (name, value) in [
        ("jwk", evil.jwk("k1")),
        ("jku", url.clone()),
        ("x5u", url),
        ("x5c", format!(r#"["{}"]"#, STANDARD.encode(evil.spki_der()))),
        ("x5t", r#""AAAA""#.into()),
        ("x5t#S256", r#""AAAA""#.into()),
    ] {
        let header = bench.rs256().set(name, &value).json();
        // With the attacker's signature it is wrong; with the issuer's own the member is ignored.
        bench.check(name, &mint(&evil, &header, &claims), "bad_signature").await;
        bench.check(name, &mint(&bench.rsa, &header, &claims), "ok").await;
        let header = bench.rs256().set(name, &value).set("kid", r#""evil""#).json();
        bench.check(name, &mint(&evil, &header, &claims), "unknown_key").await;
        let header = bench.rs256().set(name, &value).without("kid").json();
        bench.check(name, &mint(&evil, &header, &claims), "malformed").await;
    }
    assert_eq!(idp.hits("/evil"), 0, "a URL from a header was fetched");
}

#[tokio::test]
async fn a_key_id_is_matched_whole() {
    let bench = Bench::new().await;
    let claims = bench.claims();
    for (kid, expect) in [
        (r#""k1""#, "ok"),
        (r#""\u006b1""#, "ok"),
        (r#""K1""#, "unknown_key"),
        (r#""k1 ""#, "unknown_key"),
        (r#"" k1""#, "unknown_key"),
        (r#""k1\u0000""#, "unknown_key"),
        (r#""k1\u0000.pem""#, "unknown_key"),
        (r#""k""#, "unknown_key"),
        (r#""k1x""#, "unknown_key"),
        (r#""../../../../dev/null""#, "unknown_key"),
        (r#""/etc/passwd""#, "unknown_key"),
        (r#""' OR '1'='1""#, "unknown_key"),
        (r#""k1' UNION SELECT 'x'--""#, "unknown_key"),
        (r#""http://127.0.0.1/k1""#, "unknown_key"),
        (r#""k1|whoami""#, "unknown_key"),
        (r#""*""#, "unknown_key"),
        (r#""k1*""#, "unknown_key"),
        (r#""0""#, "unknown_key"),
        (r#""""#, "malformed"),
        ("null", "malformed"),
        ("0", "malformed"),
        ("1", "malformed"),
        ("true", "malformed"),
        (r#"["k1"]"#, "malformed"),
        (r#"{"kid":"k1"}"#, "malformed"),
    ] {
        let header = bench.rs256().set("kid", kid).json();
        bench.check(kid, &mint(&bench.rsa, &header, &claims), expect).await;
    }
    let header = bench.rs256().without("kid").json();
    bench.check("missing", &mint(&bench.rsa, &header, &claims), "malformed").await;
    let header = bench.rs256().add("kid", r#""k1""#).json();
    bench.check("twice", &mint(&bench.rsa, &header, &claims), "malformed").await;
    let kid = |n: usize| bench.rs256().set("kid", format!("{:?}", "k".repeat(n))).json();
    bench.check("long", &mint(&bench.rsa, &kid(512), &claims), "unknown_key").await;
    bench.check("too long", &mint(&bench.rsa, &kid(513), &claims), "malformed").await;
}

#[tokio::test]
async fn extensions_are_refused() {
    let bench = Bench::new().await;
    let claims = bench.claims();
    for (name, value, expect) in [
        ("crit", r#"["exp"]"#, "malformed"),
        ("crit", r#"["b64"]"#, "malformed"),
        ("crit", "[]", "malformed"),
        ("crit", "null", "malformed"),
        ("b64", "false", "malformed"),
        ("b64", "true", "malformed"),
        ("zip", r#""DEF""#, "malformed"),
        ("enc", r#""A256GCM""#, "malformed"),
        ("cty", r#""JWT""#, "malformed"),
        ("epk", "{}", "malformed"),
        ("extra", r#""x""#, "ok"),
        ("CRIT", r#"["exp"]"#, "ok"),
    ] {
        let header = bench.rs256().set(name, value).json();
        bench.check(name, &mint(&bench.rsa, &header, &claims), expect).await;
    }
    // RFC 7797: an unencoded payload, signed as it says.
    let header = bench.rs256().set("b64", "false").set("crit", r#"["b64"]"#).json();
    let token = mint_raw(&b64(header), &claims.replace('.', ""), |s| bench.rsa.sign(s));
    bench.check("unencoded payload", &token, "malformed").await;
}

#[tokio::test]
async fn the_type_is_the_issuers() {
    let accept = |typ: &[&str]| {
        let mut record = issuer();
        record.typ = Some(typ.iter().map(ToString::to_string).collect());
        record
    };
    let clock = TestClock::new();
    let signer = Signer::ed25519();
    let check = async |record: bulla_identity::IssuerConfig, typ: &str, expect: &str| {
        let verifier = verifier(with_keys(record, &[signer.jwk("k1")]), &clock);
        let header = match typ {
            "" => Members::header("EdDSA").without("typ"),
            typ => Members::header("EdDSA").set("typ", typ),
        };
        let token = mint(&signer, &header.json(), &Members::claims().json());
        assert_eq!(word(&verifier, &clock, &token).await, expect, "{typ}");
    };
    for (typ, expect) in [
        (r#""at+jwt""#, "ok"),
        (r#""AT+JWT""#, "ok"),
        (r#""application/at+jwt""#, "ok"),
        (r#""JWT""#, "wrong_type"),
        (r#""at+jwt ""#, "wrong_type"),
        (r#""text/at+jwt""#, "wrong_type"),
        (r#""application/application/at+jwt""#, "wrong_type"),
        (r#""application/""#, "wrong_type"),
        (r#""id+jwt""#, "wrong_type"),
        (r#""logout+jwt""#, "wrong_type"),
        (r#""dpop+jwt""#, "wrong_type"),
        ("", "wrong_type"),
        ("null", "malformed"),
        (r#""""#, "malformed"),
        (r#"["at+jwt"]"#, "malformed"),
    ] {
        check(issuer(), typ, expect).await;
    }
    check(accept(&["JWT", ""]), "", "ok").await;
    check(accept(&["JWT", ""]), r#""JWT""#, "ok").await;
    check(accept(&["JWT", ""]), r#""at+jwt""#, "wrong_type").await;
    check(accept(&["JWT"]), "", "wrong_type").await;
    check(accept(&["", "at+jwt"]), r#""application/""#, "wrong_type").await;
}

#[tokio::test]
async fn a_token_has_one_encoding() {
    let bench = Bench::new().await;
    let token = good(&bench.rsa, "k1");
    bench.check("control", &token, "ok").await;
    let parts: Vec<_> = token.split('.').collect();
    let (h, c, s) = (parts[0], parts[1], parts[2]);
    let json =
        format!(r#"{{"payload":"{c}","signatures":[{{"protected":"{h}","signature":"{s}"}}]}}"#);
    let flat = format!(r#"{{"payload":"{c}","protected":"{h}","signature":"{s}"}}"#);
    for (what, text) in [
        ("empty", String::new()),
        ("dots", "..".into()),
        ("one segment", h.into()),
        ("two segments", format!("{h}.{c}")),
        ("no signature", format!("{h}.{c}.")),
        ("no payload", format!("{h}..{s}")),
        ("no header", format!(".{c}.{s}")),
        ("four segments", format!("{token}.")),
        ("four segments", format!("{token}.{s}")),
        ("five segments", format!("{token}..")),
        ("five segments", format!("{h}.{c}.{s}.{c}.{s}")),
        ("a dot before", format!(".{token}")),
        ("general JSON", json),
        ("flattened JSON", flat),
        ("space before", format!(" {token}")),
        ("space after", format!("{token} ")),
        ("newline after", format!("{token}\n")),
        ("NUL after", format!("{token}\0")),
        ("newline inside", format!("{h}.\n{c}.{s}")),
        ("with its scheme", format!("Bearer {token}")),
        ("twice", format!("{token},{token}")),
        ("quoted", format!("\"{token}\"")),
        ("no ASCII", format!("{h}.{c}.{s}ä")),
    ] {
        bench.check(what, &text, "malformed").await;
    }
}

#[tokio::test]
async fn base64url_is_canonical() {
    let bench = Bench::new().await;
    // A header and claims of lengths that leave spare bits or would be padded.
    let header = bench.rs256().set("x", r#""?>""#).json();
    let claims = Members::claims().set("x", r#""?>~""#);
    for pad in 0..3 {
        let claims = claims.clone().set("p", format!("{:?}", "p".repeat(pad))).json();
        let header = format!("{header}{}", " ".repeat(pad));
        let (h, c) = (b64(&header), b64(&claims));
        let sign = |signed: &[u8]| bench.rsa.sign(signed);
        let token = mint_raw(&h, &c, sign);
        bench.check("control", &token, "ok").await;
        let s = token.rsplit('.').next().unwrap();
        // What a lax decoder reads as the same bytes; header and payload are signed as they stand.
        for (what, changed) in spellings(&h) {
            bench.check(what, &mint_raw(&changed, &c, sign), "malformed").await;
        }
        for (what, changed) in spellings(&c) {
            bench.check(what, &mint_raw(&h, &changed, sign), "malformed").await;
        }
        for (what, changed) in spellings(s) {
            bench.check(what, &format!("{h}.{c}.{changed}"), "malformed").await;
        }
    }
}

/// Other spellings of the same bytes.
fn spellings(text: &str) -> Vec<(&'static str, String)> {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = vec![
        ("a space", format!("{text} ")),
        ("a newline", format!("{text}\n")),
        ("a newline inside", format!("{}\n{}", &text[..4], &text[4..])),
        ("padding inside", format!("{}={}", &text[..4], &text[4..])),
        ("too much padding", format!("{text}====")),
    ];
    if text.contains(['-', '_']) {
        out.push(("standard alphabet", text.replace('-', "+").replace('_', "/")));
    }
    let spare = match text.len() % 4 {
        2 => 16,
        3 => 4,
        _ => return out,
    };
    out.push(("padding", format!("{text}{}", "=".repeat(4 - text.len() % 4))));
    let (rest, last) = text.split_at(text.len() - 1);
    let value = ALPHABET.find(last).unwrap();
    assert_eq!(value % spare, 0);
    for stray in 1..spare {
        out.push(("stray bits", format!("{rest}{}", &ALPHABET[value + stray..][..1])));
    }
    out
}

#[tokio::test]
async fn json_is_strict() {
    let bench = Bench::new().await;
    let header = bench.rs256().json();
    let claims = Members::claims();
    let good_claims = claims.json();
    let nest = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    for (what, text, expect) in [
        ("control", claims.clone().set("x", r#"{"a":1,"b":1}"#).json(), "ok"),
        ("sub twice", claims.clone().add("sub", r#""evil""#).json(), "malformed"),
        ("sub twice, equal", claims.clone().add("sub", r#""svc-7""#).json(), "malformed"),
        ("aud twice", claims.clone().add("aud", r#""bulla""#).json(), "malformed"),
        ("exp twice", claims.clone().add("exp", NOW + 200).json(), "malformed"),
        ("sub escaped", claims.clone().add("\\u0073ub", r#""svc-7""#).json(), "malformed"),
        ("twice within", claims.clone().set("x", r#"{"a":1,"a":1}"#).json(), "malformed"),
        ("twice in a list", claims.clone().set("x", r#"[{"a":1,"a":1}]"#).json(), "malformed"),
        ("deep", claims.clone().set("x", nest(15)).json(), "ok"),
        ("too deep", claims.clone().set("x", nest(16)).json(), "malformed"),
        ("far too deep", claims.clone().set("x", nest(5_000)).json(), "malformed"),
        ("text after", format!("{good_claims}{{}}"), "malformed"),
        ("text after", format!("{good_claims}x"), "malformed"),
        ("space after", format!("{good_claims}\n "), "ok"),
        ("a comma", good_claims.replace('}', ",}"), "malformed"),
        ("a comment", format!("/**/{good_claims}"), "malformed"),
        ("a mark", format!("\u{feff}{good_claims}"), "malformed"),
        ("a list", format!("[{good_claims}]"), "malformed"),
        ("a text", format!("{good_claims:?}"), "malformed"),
        ("nothing", "null".into(), "malformed"),
        ("half a pair", claims.clone().set("x", r#""\ud800""#).json(), "malformed"),
        ("a pair", claims.clone().set("x", r#""\ud83d\ude00""#).json(), "ok"),
        ("not a number", claims.clone().set("x", "NaN").json(), "malformed"),
        ("infinite", claims.clone().set("x", "1e999").json(), "malformed"),
    ] {
        bench.check(what, &mint(&bench.rsa, &header, &text), expect).await;
    }
    let utf8 = |byte: &[u8]| {
        let mut claims = claims.clone().set("x", r#""@""#).json().into_bytes();
        let at = claims.iter().position(|b| *b == b'@').unwrap();
        claims.splice(at..=at, byte.iter().copied());
        mint_raw(&b64(&header), &b64(&claims), |signed| bench.rsa.sign(signed))
    };
    bench.check("UTF-8", &utf8("ä".as_bytes()), "ok").await;
    bench.check("Latin-1", &utf8(b"\xe4"), "malformed").await;
    bench.check("overlong", &utf8(b"\xc0\xaf"), "malformed").await;
    // The header as well.
    for (what, header) in [
        ("typ twice", bench.rs256().add("typ", r#""at+jwt""#).json()),
        ("x twice", bench.rs256().set("x", r#"{"a":1,"a":1}"#).json()),
        ("too deep", bench.rs256().set("x", nest(16)).json()),
        ("text after", format!("{header}x")),
        ("a list", format!("[{header}]")),
    ] {
        bench.check(what, &mint(&bench.rsa, &header, &good_claims), "malformed").await;
    }
}

#[tokio::test]
async fn a_token_has_a_largest_size() {
    let bench = Bench::new().await;
    let header = bench.rs256().json();
    let token = |fill: usize| {
        let claims = Members::claims().set("x", format!("{:?}", "x".repeat(fill))).json();
        mint(&bench.rsa, &header, &claims)
    };
    let mut fill = 0;
    while token(fill + 3).len() <= TOKEN_BYTES_MAX {
        fill += if TOKEN_BYTES_MAX - token(fill).len() > 100 { 50 } else { 1 };
    }
    assert!(token(fill).len() > TOKEN_BYTES_MAX - 8);
    bench.check("largest", &token(fill), "ok").await;
    bench.check("too large", &token(fill + 8), "malformed").await;
    bench.check("far too large", &"e".repeat(10_000_000), "malformed").await;
}

/// Signed by OpenSSL with a key of 1024 bits, which nobody else here would make.
#[tokio::test]
async fn a_weak_key_is_left_out() {
    const N: &str = include_str!("rsa1024/modulus.txt").trim_ascii();
    const TOKEN: &str = include_str!("rsa1024/token.txt").trim_ascii();
    // The signature itself is right.
    let (signed, signature) = TOKEN.rsplit_once('.').unwrap();
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    RsaPublicKeyComponents { n: decode(N), e: vec![1, 0, 1] }
        .verify(
            &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
            signed.as_bytes(),
            &decode(signature),
        )
        .unwrap();
    let clock = TestClock::new();
    let other = Signer::rsa();
    let weak = format!(r#"{{"kid":"k1","kty":"RSA","n":"{N}","e":"AQAB"}}"#);
    let verifier = verifier(with_keys(issuer(), &[weak, other.jwk("k2")]), &clock);
    verifier.attempted().await;
    assert_eq!(word(&verifier, &clock, TOKEN).await, "unknown_key");
    assert_eq!(word(&verifier, &clock, &good(&other, "k2")).await, "ok");
    let status = &verifier.status()[0];
    assert_eq!((status.keys, status.keys_ignored), (1, 1));
}

#[tokio::test]
async fn no_changed_or_cut_token_is_good() {
    let bench = Bench::new().await;
    let token = good(&bench.p256, "k256");
    bench.check("control", &token, "ok").await;
    for at in 0..token.len() {
        for change in ["A", "_", ".", "=", "\0", ""] {
            let changed = format!("{}{change}{}", &token[..at], &token[at + 1..]);
            if changed != token {
                assert_ne!(word(&bench.verifier, &bench.clock, &changed).await, "ok", "{changed}");
            }
        }
        assert_ne!(word(&bench.verifier, &bench.clock, &token[..at]).await, "ok");
    }
}
