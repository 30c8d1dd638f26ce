//! The bed's issuer: what it publishes verifies what it mints, and it misbehaves as told.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bulla_e2e::client::{http, http_get};
use bulla_e2e::issuer::{Behaviour, Counts, Issuer};
use bulla_e2e::mint::Alg;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};

/// What a careful client does: discovery, keys, the key that the header names, then the claims.
fn verify(issuer: &Issuer, token: &str) -> Result<Value> {
    let (_, discovery) = http_get(&format!("{}/.well-known/openid-configuration", issuer.url()))?;
    let discovery: Value = serde_json::from_str(&discovery)?;
    assert_eq!(discovery["issuer"], issuer.url());
    let (_, keys) = http_get(discovery["jwks_uri"].as_str().context("jwks_uri")?)?;
    let keys: JwkSet = serde_json::from_str(&keys)?;
    let header = decode_header(token)?;
    assert_eq!(header.typ.as_deref(), Some("at+jwt"));
    let key = keys.find(&header.kid.context("kid")?).context("a key of that name")?;
    let mut validation = Validation::new(header.alg);
    validation.set_audience(&["bulla"]);
    validation.set_issuer(&[issuer.url()]);
    Ok(decode::<Value>(token, &DecodingKey::from_jwk(key)?, &validation)?.claims)
}

#[test]
fn published_keys_verify_minted_tokens() -> Result<()> {
    let issuer = Issuer::with(&[Alg::Rs256, Alg::EdDsa, Alg::Es256])?;
    for alg in [Alg::Rs256, Alg::EdDsa, Alg::Es256] {
        let token = issuer.mint_by(alg)?.claim("team", "billing").token()?;
        assert_eq!(verify(&issuer, &token)?["team"], "billing");
    }
    assert_eq!(issuer.counts(), Counts { discovery: 3, keys: 3, tokens: 0 });
    Ok(())
}

#[test]
fn keys_rotate() -> Result<()> {
    let issuer = Issuer::start()?;
    let old = issuer.mint()?.token()?;
    issuer.rotate(Alg::Es256)?;
    let new = issuer.mint()?.token()?;
    verify(&issuer, &old)?;
    verify(&issuer, &new)?;
    issuer.withdraw_old_keys();
    verify(&issuer, &new)?;
    let error = verify(&issuer, &old).unwrap_err();
    assert!(error.to_string().contains("a key of that name"), "{error:#}");
    Ok(())
}

#[test]
fn a_service_fetches_its_token() -> Result<()> {
    let issuer = Issuer::start()?;
    issuer.register("billing-api", "s3cret", json!({ "team": "billing" }));
    let url = format!("{}/token", issuer.url());
    let form = "grant_type=client_credentials&client_id=billing-api&client_secret=";
    let (status, body) = http("POST", &url, &format!("{form}s3cret"))?;
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body)?;
    let claims = verify(&issuer, answer["access_token"].as_str().context("a token")?)?;
    assert_eq!((&claims["sub"], &claims["team"]), (&json!("billing-api"), &json!("billing")));
    assert_eq!(http("POST", &url, &format!("{form}wrong"))?.0, 401);
    assert_eq!(http("POST", &url, "grant_type=password")?.0, 400);
    Ok(())
}

#[test]
fn it_misbehaves_as_told() -> Result<()> {
    let issuer = Issuer::start()?;
    let keys = format!("{}/jwks", issuer.url());
    issuer.behave(Behaviour::HangUp);
    assert!(http_get(&keys).is_err());
    issuer.behave(Behaviour::Garbage);
    assert!(serde_json::from_str::<Value>(&http_get(&keys)?.1).is_err());
    issuer.behave(Behaviour::Status(503));
    assert_eq!(http_get(&keys)?.0, 503);
    issuer.behave(Behaviour::Large(100_000));
    assert!(http_get(&keys)?.1.len() > 100_000);
    issuer.behave(Behaviour::Redirect("http://127.0.0.1:9/".to_owned()));
    assert_eq!(http_get(&keys)?.0, 302);
    issuer.behave(Behaviour::NoKeys);
    assert_eq!(http_get(&keys)?.1, r#"{"keys":[]}"#);
    issuer.behave(Behaviour::OtherIssuer);
    let (_, discovery) = http_get(&format!("{}/.well-known/openid-configuration", issuer.url()))?;
    assert!(!discovery.contains(&format!("\"issuer\":\"{}\"", issuer.url())), "{discovery}");
    issuer.behave(Behaviour::Slow(Duration::from_millis(50)));
    let asked = Instant::now();
    assert_eq!(http_get(&keys)?.0, 200);
    assert!(asked.elapsed() >= Duration::from_millis(50));
    issuer.behave(Behaviour::Well);
    assert_eq!(http_get(&keys)?.0, 200);
    Ok(())
}
