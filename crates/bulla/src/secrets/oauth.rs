//! Client credentials of OAuth (RFC 6749 4.4): fetched, kept while they are good, fetched again.

use std::{
    io,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bulla_core::{Boxed, Secret};
use bulla_engine::{SecretSource, Secrets};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode, Uri, header};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::sync::Mutex;

use super::{ANSWER_BYTES_MAX, SECRET_BYTES_MAX, Secrecy, connector, in_time, other, other_box};
use crate::config::file;

/// A token is fetched again so long before it expires.
const EARLY: Duration = Duration::from_secs(30);
/// The life of a token that says nothing of it, and the longest that is believed.
const LIFE: Duration = Duration::from_secs(300);
const LIFE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// A target that takes no token does not make us ask for one more often than this.
const PAUSE: Duration = Duration::from_secs(5);

/// Where a token is asked for: https, or http to this very host.
pub fn address(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|_| format!("`{}` is no address", text.escape_debug()))?;
    let local = ["localhost", "127.0.0.1", "[::1]"].contains(&uri.host().unwrap_or_default());
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if local => Ok(uri),
        _ => Err("a token is asked for over https".into()),
    }
}

struct Token {
    secret: Secret,
    since: Instant,
    until: Instant,
}

/// One client at one issuer.
pub struct Oauth {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    id: String,
    secret: SecretSource,
    auth: file::OauthAuth,
    /// The request, without the client's own credential.
    form: String,
    /// Locked while one is fetched, so that many who wait ask once.
    token: Mutex<Option<Token>>,
    spoiled: AtomicBool,
}

impl Oauth {
    pub fn new(base: &Path, from: &file::Oauth, id: &str, secret: SecretSource) -> Result<Self> {
        let uri = address(&from.token_url).map_err(anyhow::Error::msg)?;
        let connector = connector(base, from.ca.as_deref()).context("login.oauth")?;
        let mut form = "grant_type=client_credentials".to_owned();
        let more =
            [("scope", &from.scope), ("audience", &from.audience), ("resource", &from.resource)];
        for (name, value) in more {
            if let Some(value) = value {
                form.push_str(&format!("&{name}={}", escape(value.as_bytes())));
            }
        }
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            uri,
            id: id.to_owned(),
            secret,
            auth: from.auth,
            form,
            token: Mutex::new(None),
            spoiled: AtomicBool::new(false),
        })
    }

    async fn ask(&self) -> io::Result<Secret> {
        let mut kept = self.token.lock().await;
        let now = Instant::now();
        if let Some(token) = &*kept {
            let young = now.duration_since(token.since) < PAUSE;
            let spoiled = self.spoiled.load(Ordering::Relaxed) && !young;
            if now < token.until && !spoiled {
                return Ok(Secret::new(token.secret.reveal().to_vec()));
            }
        }
        *kept = None;
        let token = self.fetch().await?;
        self.spoiled.store(false, Ordering::Relaxed);
        let secret = Secret::new(token.secret.reveal().to_vec());
        *kept = Some(token);
        Ok(secret)
    }

    async fn fetch(&self) -> io::Result<Token> {
        let secret = self.secret.read().await?.ok_or_else(|| other("the client has no secret"))?;
        let (id, own) = (escape(self.id.as_bytes()), Secrecy(escape(secret.reveal()).into_bytes()));
        let own = std::str::from_utf8(&own.0).map_err(io::Error::other)?;
        let mut request = Request::post(&self.uri)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let mut form = self.form.clone();
        match self.auth {
            file::OauthAuth::Basic => {
                let pair = BASE64.encode(format!("{id}:{own}"));
                let mut value = header::HeaderValue::from_str(&format!("Basic {pair}"))
                    .map_err(io::Error::other)?;
                value.set_sensitive(true);
                request = request.header(header::AUTHORIZATION, value);
            }
            file::OauthAuth::Post => {
                form.push_str(&format!("&client_id={id}&client_secret={own}"));
            }
        }
        let request = request.body(Full::new(Bytes::from(form))).map_err(io::Error::other)?;
        let asked = Instant::now();
        let answer = self.client.request(request).await.map_err(|error| {
            use std::error::Error;
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            other(format!("ask for a token: {error}{cause}"))
        })?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = Secrecy(body.map_err(other_box)?.to_bytes().to_vec());
        if status != StatusCode::OK {
            return Err(other(format!("the issuer answers {status}{}", said(&body.0))));
        }
        let (secret, life) = token_in(&body.0).map_err(|why| other(format!("a token {why}")))?;
        Ok(Token { secret, since: asked, until: asked + life })
    }
}

/// The error code of RFC 6749 5.2, which is no secret.
fn said(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let plain = |c: char| c.is_ascii_lowercase() || c == '_';
    let code = body.get("error").and_then(Value::as_str).filter(|code| code.chars().all(plain));
    code.map(|code| format!(": {code}")).unwrap_or_default()
}

/// RFC 6749 5.1. The token, and how long it is used.
fn token_in(body: &[u8]) -> Result<(Secret, Duration), &'static str> {
    let body: Value = serde_json::from_slice(body).map_err(|_| "comes in no JSON")?;
    let kind = body.get("token_type").and_then(Value::as_str).ok_or("has no type")?;
    if !kind.eq_ignore_ascii_case("bearer") {
        return Err("is of a type other than `Bearer`");
    }
    let token = body.get("access_token").and_then(Value::as_str).ok_or("is missing")?;
    // b64token of RFC 6750 2.1.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
    if token.is_empty() || token.len() > SECRET_BYTES_MAX || !token.bytes().all(plain) {
        return Err("holds characters that no token has");
    }
    let life = match body.get("expires_in") {
        None | Some(Value::Null) => LIFE,
        Some(Value::Number(life)) => Duration::from_secs(life.as_u64().ok_or("has an odd life")?),
        Some(_) => return Err("has an odd life"),
    };
    // A short life is not spent before it began.
    let life = life.min(LIFE_MAX);
    Ok((Secret::new(token.as_bytes().to_vec()), life.saturating_sub(EARLY).max(life / 2)))
}

/// `application/x-www-form-urlencoded`.
fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b if b.is_ascii_alphanumeric() || b"-._*".contains(b) => out.push(char::from(*b)),
            b' ' => out.push('+'),
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

impl Secrets for Oauth {
    fn read(&self) -> Boxed<'_, io::Result<Secret>> {
        Box::pin(in_time(self.ask()))
    }
    fn spoiled(&self) {
        self.spoiled.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_or_is_not_taken() {
        let check = |body: &str, expect: Option<(&str, u64)>| {
            let got = token_in(body.as_bytes()).ok();
            let got = got.as_ref().map(|(secret, life)| {
                (std::str::from_utf8(secret.reveal()).unwrap(), life.as_secs())
            });
            assert_eq!(got, expect, "{body}");
        };
        check(
            r#"{"access_token":"a.b","token_type":"Bearer","expires_in":300}"#,
            Some(("a.b", 270)),
        );
        check(r#"{"access_token":"a","token_type":"bearer","expires_in":10}"#, Some(("a", 5)));
        check(r#"{"access_token":"a","token_type":"bearer"}"#, Some(("a", 270)));
        check(r#"{"access_token":"a","token_type":"mac","expires_in":10}"#, None);
        check(r#"{"access_token":"a\r\nx: y","token_type":"bearer"}"#, None);
        check(r#"{"access_token":"","token_type":"bearer"}"#, None);
        check(r#"{"token_type":"bearer"}"#, None);
        check(r#"{"access_token":"a","token_type":"bearer","expires_in":"x"}"#, None);
        check("<html>", None);
    }

    #[test]
    fn a_token_is_asked_for_over_https() {
        for good in ["https://issuer.example.com/token?x=1", "http://127.0.0.1:80/token"] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in ["http://issuer.example.com/token", "issuer/token", "ftp://x/"] {
            assert!(address(bad).is_err(), "{bad}");
        }
        assert_eq!(said(br#"{"error":"invalid_client"}"#), ": invalid_client");
        assert_eq!(said(br#"{"error":"SECRET"}"#), "");
        assert_eq!(escape("a b/\u{e4}".as_bytes()), "a+b%2F%C3%A4");
    }
}
