//! Tokens, good and forged.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bulla_e2e::arena::Arena;
use bulla_e2e::mint::{Alg, DEFECTS, Defect, Key, Mint};
use serde_json::{Value, json};

fn mint(arena: &Arena) -> Result<Mint> {
    Ok(arena.issuer.mint()?.subject("token").claim("team", "app"))
}

/// Tokens that real issuers make.
pub fn good(arena: &Arena) {
    type Row = (&'static str, fn(Mint) -> Mint);
    let rows: [Row; 13] = [
        ("plain", |mint| mint),
        ("aud as a list", |mint| mint.claim("aud", json!(["other", "bulla"]))),
        ("typ application/at+jwt", |mint| mint.header("typ", "application/at+jwt")),
        ("typ AT+JWT", |mint| mint.header("typ", "AT+JWT")),
        ("exp with a fraction", |mint| {
            let exp = mint.claims().get("exp").and_then(Value::as_i64).unwrap_or_default();
            mint.claim("exp", json!(exp as f64 + 0.5))
        }),
        ("iat 20 s ahead", |mint| mint.issued(20)),
        ("nbf now", |mint| mint.not_before(0)),
        ("expired 10 s ago, within the leeway", |mint| mint.issued(-300).expires(-10)),
        ("many unknown claims", |mint| {
            (0..50).fold(mint, |mint, at| mint.claim(&format!("x{at}"), json!({"a": [1, null]})))
        }),
        ("escapes and Unicode", |mint| mint.claim("name", "Zoë \"x\" \\ \u{1f980} \n")),
        ("azp", |mint| mint.claim("azp", "billing")),
        ("cty absent, extra header", |mint| mint.header("x-extra", "1")),
        ("a long subject", |mint| mint.claim("sub", "s".repeat(200))),
    ];
    for (what, change) in rows {
        arena.try_row(&format!("JWT benign: {what}"), || {
            opens(arena, &change(mint(arena)?).token()?)
        });
    }
    for alg in [Alg::Es256, Alg::Es384, Alg::Rs256, Alg::Ps256, Alg::EdDsa] {
        arena.try_row(&format!("JWT benign: {}", alg.name()), || {
            let mint = arena.issuer.mint_by(alg)?.subject("token").claim("team", "app");
            opens(arena, &mint.token()?)
        });
    }
}

fn opens(arena: &Arena, token: &str) -> Result<()> {
    let mut session = arena.through("app", "x")?.password(token).open()?;
    ensure!(session.query("SELECT 1")?.succeeded(), "no session");
    Ok(())
}

/// Turned away in the words that everybody hears, recorded, the server untouched.
fn stays_shut(arena: &Arena, token: &str) -> Result<()> {
    let from = arena.logged();
    let before = arena.turned_away()?;
    let route = arena.through("app", "x")?.password(token);
    let (_, answer) = route.try_open_as(&route.startup())?;
    ensure!(!answer.is_ready(), "it opened");
    let error = answer.errors().first().copied().context("an error")?.clone();
    if token.contains('\0') || token.len() > 17_408 {
        ensure!(error.field(b'C').as_deref() == Some("08P01"), "{}", answer.describe());
    } else {
        ensure!(error.field(b'C').as_deref() == Some("28P01"), "{}", answer.describe());
        let words = error.field(b'M').unwrap_or_default();
        ensure!(words == "the credential is not accepted", "other words: {words}");
    }
    arena.expect_turned_away(before, 1)?;
    ensure!(!arena.logged_since(from)?.contains("authorized"), "it reached the server");
    ensure!(token.len() < 24 || !arena.gateway.log().contains(token), "the token is in a log");
    Ok(())
}

fn b64(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

pub fn bad(arena: &Arena) {
    let rows = forged(arena).and_then(|mut rows| {
        rows.extend(claims(arena)?);
        rows.extend(shapes(arena)?);
        Ok(rows)
    });
    for (row, token) in arena.try_row("JWT: mint", || rows).unwrap_or_default() {
        arena.try_row(&format!("JWT {row}"), || stays_shut(arena, &token));
    }
}

type Rows = Vec<(String, String)>;

/// Signatures and headers.
fn forged(arena: &Arena) -> Result<Rows> {
    let fine = mint(arena)?;
    let mut rows: Rows = Vec::new();
    for defect in DEFECTS {
        rows.push((format!("{defect:?}"), fine.clone().with(*defect).token()?));
    }
    let payload = Value::Object(fine.claims().clone()).to_string();
    let unsigned = |header: &str| format!("{}.{}.", b64(header), b64(&payload));
    let kid = arena.issuer.mint()?.token()?;
    let kid = header_of(&kid)?["kid"].as_str().unwrap_or_default().to_owned();
    for alg in ["none", "None", "NONE", "nOnE", "none ", "", "null"] {
        let header = format!(r#"{{"alg":"{alg}","typ":"at+jwt","kid":"{kid}"}}"#);
        rows.push((format!("alg `{alg}`"), unsigned(&header)));
        let signed = fine.clone().raw_header(&header).token()?;
        rows.push((format!("alg `{alg}` and a signature"), signed));
    }
    for alg in ["null", "[]", "[\"ES256\"]", "0", "true", "{}", "[\"none\",\"ES256\"]"] {
        let header = format!(r#"{{"alg":{alg},"typ":"at+jwt","kid":"{kid}"}}"#);
        rows.push((format!("alg is {alg}"), fine.clone().raw_header(&header).token()?));
    }
    let raw = [
        ("no alg", format!(r#"{{"typ":"at+jwt","kid":"{kid}"}}"#)),
        ("alg twice", format!(r#"{{"alg":"none","alg":"ES256","kid":"{kid}","typ":"at+jwt"}}"#)),
        ("alg twice, none last", format!(r#"{{"alg":"ES256","alg":"none","kid":"{kid}"}}"#)),
        ("alg twice, escaped", format!(r#"{{"\u0061lg":"none","alg":"ES256","kid":"{kid}"}}"#)),
        ("kid twice", format!(r#"{{"alg":"ES256","kid":"x","kid":"{kid}","typ":"at+jwt"}}"#)),
        ("a header that is a list", format!(r#"["ES256","{kid}"]"#)),
        ("a header that is text", r#""ES256""#.to_owned()),
        ("a header behind a BOM", format!("\u{feff}{{\"alg\":\"ES256\",\"kid\":\"{kid}\"}}")),
        ("two headers", format!(r#"{{"alg":"ES256","kid":"{kid}"}}{{"alg":"none"}}"#)),
        ("no header", String::new()),
        ("a comment in the header", format!(r#"{{/**/"alg":"ES256","kid":"{kid}"}}"#)),
    ];
    for (what, header) in raw {
        rows.push((what.to_owned(), fine.clone().raw_header(&header).token()?));
    }
    let stranger = std::sync::Arc::new(Key::generate(Alg::Es256, "evil")?);
    let evil = stranger.jwk()?;
    for (name, value) in [
        ("jwk", evil.clone()),
        ("jku", json!(format!("{}/evil", arena.issuer.url()))),
        ("x5u", json!(format!("{}/evil", arena.issuer.url()))),
        ("x5c", json!([STANDARD.encode(b"no certificate")])),
    ] {
        let token = fine.clone().header(name, value.clone()).signed_by(&stranger).token()?;
        rows.push((format!("{name} of a stranger"), token));
        let own = Mint::new(arena.issuer.url(), &stranger).claim("team", "app");
        rows.push((format!("{name} and kid of a stranger"), own.header(name, value).token()?));
    }
    rows.push(("a stranger's signature".to_owned(), fine.clone().signed_by(&stranger).token()?));
    for kid in [
        json!("nothing"),
        json!(""),
        json!("../../../../dev/null"),
        json!("/etc/passwd"),
        json!("' OR '1'='1"),
        json!("x' UNION SELECT 'secret"),
        json!("http://127.0.0.1:1/evil"),
        json!("es256-5\u{0}"),
        json!("ES256-5"),
        json!(" es256-5"),
        json!(["es256-5"]),
        json!(5),
        json!({"kid": "es256-5"}),
        json!(true),
        json!("k".repeat(5_000)),
    ] {
        let shown: String = kid.to_string().chars().take(40).collect();
        rows.push((format!("kid {shown}"), fine.clone().header("kid", kid).token()?));
    }
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!(["b64"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("enc", json!("A256GCM")),
        ("cty", json!("JWT")),
        ("typ", json!("JWE")),
        ("typ", json!("logout+jwt")),
        ("typ", json!("dpop+jwt")),
        ("typ", json!("id_token")),
        ("typ", json!(["at+jwt"])),
    ] {
        let shown = format!("{name} {value}");
        rows.push((shown, fine.clone().header(name, value).token()?));
    }
    for (alg, other) in [(Alg::Rs256, "PS256"), (Alg::Ps256, "RS256"), (Alg::Es384, "ES256")] {
        let mint = arena.issuer.mint_by(alg)?.claim("team", "app").header("alg", other);
        rows.push((format!("{} as {other}", alg.name()), mint.token()?));
    }
    for other in ["HS256", "HS384", "HS512", "RS512", "ES512", "ES256K", "RS1", "dir", "A128KW"] {
        let mint = arena.issuer.mint_by(Alg::Rs256)?.claim("team", "app").header("alg", other);
        rows.push((format!("RS256 as {other}"), mint.token()?));
    }
    let hmac = arena.issuer.mint_by(Alg::Rs256)?.with(Defect::PublicKeyAsSecret);
    rows.push(("RSA's public key as a secret".to_owned(), hmac.token()?));
    Ok(rows)
}

fn header_of(token: &str) -> Result<Value> {
    let header = token.split('.').next().context("a header")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header)?)?)
}

/// `iss`, `aud`, `exp`, `nbf`, `iat`, `sub` in wrong forms.
fn claims(arena: &Arena) -> Result<Rows> {
    let fine = mint(arena)?;
    let url = arena.issuer.url().to_owned();
    let now = fine.claims().get("iat").and_then(Value::as_i64).context("iat")?;
    let mut rows: Rows = Vec::new();
    for name in ["iss", "aud", "exp", "iat", "sub"] {
        rows.push((format!("no {name}"), fine.clone().without(name).token()?));
        for value in [json!(null), json!({}), json!([]), json!(true), json!("")] {
            let token = fine.clone().claim(name, value.clone()).token()?;
            rows.push((format!("{name} is {value}"), token));
        }
    }
    for iss in [
        format!("{url}/"),
        url.to_uppercase(),
        format!(" {url}"),
        format!("{url}#x"),
        format!("{url}?"),
        url.replace("127.0.0.1", "localhost"),
        url.replace("http://", "https://"),
        "https://evil.example".to_owned(),
    ] {
        rows.push((format!("iss {iss}"), fine.clone().claim("iss", iss).token()?));
    }
    rows.push(("iss as a list".to_owned(), fine.clone().claim("iss", json!([url])).token()?));
    for aud in [
        json!("Bulla"),
        json!("bulla "),
        json!("bulla/orders"),
        json!("bull"),
        json!("*"),
        json!(["other"]),
        json!([["bulla"]]),
        json!([null, 1]),
        json!({"bulla": true}),
        json!("other bulla"),
        json!("bulla,other"),
    ] {
        rows.push((format!("aud {aud}"), fine.clone().claim("aud", aud).token()?));
    }
    for (name, value) in [
        ("exp", json!(now - 100)),
        ("exp", json!(0)),
        ("exp", json!(-1)),
        ("exp", json!(now + 7_200)),
        ("exp", json!(1e300)),
        ("exp", json!(u64::MAX)),
        ("exp", json!((now + 600) * 1_000)),
        ("exp", json!((now + 600).to_string())),
        ("exp", json!([now + 600])),
        ("iat", json!(now + 400)),
        ("iat", json!(now - 360_000)),
        ("iat", json!(-1)),
        ("iat", json!(1e300)),
        ("iat", json!(now.to_string())),
        ("nbf", json!(now + 400)),
        ("nbf", json!("now")),
        ("nbf", json!(null)),
        ("nbf", json!(1e300)),
        ("sub", json!(42)),
        ("sub", json!(["token"])),
        ("sub", json!("x".repeat(3_000))),
        ("sub", json!("a\u{0}b")),
    ] {
        let shown: String = value.to_string().chars().take(30).collect();
        rows.push((format!("{name} {shown}"), fine.clone().claim(name, value).token()?));
    }
    let whole = Value::Object(fine.claims().clone()).to_string();
    let twice = |more: &str| whole.replacen('{', &format!("{{{more},"), 1);
    for (what, payload) in [
        ("sub twice", twice(r#""sub":"admin""#)),
        ("aud twice", twice(r#""aud":"other""#)),
        ("exp twice", twice(r#""exp":1"#)),
        ("team twice", twice(r#""team":"dba""#)),
        ("sub twice, escaped", twice(r#""\u0073ub":"admin""#)),
        ("twice within", twice(r#""x":{"a":1,"a":2}"#)),
        ("a payload that is a list", format!("[{whole}]")),
        ("two payloads", format!("{whole}{whole}")),
        ("bytes behind the payload", format!("{whole} x")),
        ("NaN", whole.replacen("\"iat\":", "\"iat\":NaN,\"i\":", 1)),
        ("a trailing comma", whole.replacen('}', ",}", 1)),
        ("deep nesting", twice(&format!("\"x\":{}1{}", "[".repeat(2_000), "]".repeat(2_000)))),
        ("an empty payload", String::new()),
        ("single quotes", whole.replace('"', "'")),
        ("half a surrogate", twice(r#""x":"\ud800""#)),
    ] {
        rows.push((what.to_owned(), fine.clone().raw_payload(&payload).token()?));
    }
    Ok(rows)
}

/// What is around the three parts.
fn shapes(arena: &Arena) -> Result<Rows> {
    let token = mint(arena)?.token()?;
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, signature] = parts[..] else { anyhow::bail!("three parts") };
    let malleable = {
        // The last character has bits that no byte uses; only one of them may be said.
        let last = signature.chars().last().context("a character")?;
        let next = match last {
            'A' => 'B',
            'Q' => 'R',
            'g' => 'h',
            'w' => 'x',
            other => char::from(u8::try_from(other)?.wrapping_add(1)),
        };
        let start = signature.get(..signature.len() - 1).context("a start")?;
        format!("{header}.{payload}.{start}{next}")
    };
    let json = json!({ "payload": payload, "protected": header, "signature": signature });
    let list = json!({ "payload": payload,
        "signatures": [{ "protected": header, "signature": signature }] });
    Ok([
        ("the last character is malleable", malleable),
        ("nothing", String::new()),
        ("a dot", ".".to_owned()),
        ("dots", "..".to_owned()),
        ("four dots", "....".to_owned()),
        ("five segments", format!("{token}.x.y")),
        ("a segment more", format!("{token}.")),
        ("no signature", format!("{header}.{payload}.")),
        ("no payload", format!("{header}..{signature}")),
        ("JSON serialisation", json.to_string()),
        ("general JSON serialisation", list.to_string()),
        ("padding", format!("{header}=.{payload}==.{signature}=")),
        ("a blank before", format!(" {token}")),
        ("a blank behind", format!("{token} ")),
        ("a line behind", format!("{token}\n")),
        ("Bearer", format!("Bearer {token}")),
        ("quotes", format!("\"{token}\"")),
        ("twice", format!("{token}{token}")),
        ("twice, apart", format!("{token} {token}")),
        ("a comma list", format!("{token},{token}")),
        ("standard base64", token.replace('-', "+").replace('_', "/") + "+/"),
        ("percent", format!("{header}%2E{payload}%2E{signature}")),
        ("capitals", token.to_uppercase()),
        ("a NUL within", format!("{header}\0.{payload}.{signature}")),
        ("17 KB", format!("{header}.{payload}.{}", "A".repeat(20_000))),
        ("a password", "scram secret".to_owned()),
        ("the server's password", bulla_e2e::postgres::SUPERUSER_PASSWORD.to_owned()),
        ("SQL", "' OR 1=1 --".to_owned()),
        ("a SAML response", "PHNhbWxwOlJlc3BvbnNlPg==".to_owned()),
    ]
    .map(|(what, token)| (what.to_owned(), token))
    .to_vec())
}
