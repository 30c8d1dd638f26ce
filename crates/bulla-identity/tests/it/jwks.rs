//! Keys over HTTP: discovery, rotation, outages, floods; and what a key set may hold.

use std::{sync::Arc, time::Duration};

use bulla_core::{Credential, Identity, Secret, Timestamp};
use bulla_identity::{
    AGE_MS_MAX, BODY_BYTES_MAX, Config, FetchError, IssuerConfig, KEYS_MAX, KeySource,
    REFRESH_AGE_MS, STALE_AGE_MS, Verifier,
};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};

use crate::support::*;

async fn started(record: IssuerConfig, clock: &Arc<TestClock>) -> Verifier {
    let verifier = verifier(record, clock);
    verifier.attempted().await;
    verifier
}

fn last_error(verifier: &Verifier) -> Option<FetchError> {
    verifier.status()[0].last_error
}

#[tokio::test]
async fn keys_are_discovered() {
    let (clock, signer, idp) = (TestClock::new(), Signer::rsa(), Idp::start().await);
    let mut reply = Reply::json(jwks(&[signer.jwk("k1"), r#"{"kty":"oct"}"#.into()]));
    // 2027-01-15T09:00:00Z: an hour ahead of ours.
    reply.headers.push(("date", "Fri, 15 Jan 2027 09:00:00 GMT".into()));
    idp.reply("/keys", reply);
    let verifier = started(idp.discovery(), &clock).await;
    assert_eq!(word(&verifier, &clock, &good(&signer, "k1")).await, "ok");
    let status = &verifier.status()[0];
    assert_eq!((&*status.alias, &*status.issuer), ("idp", ISSUER));
    assert_eq!(status.fetched_at, Some(Timestamp::from_secs(NOW)));
    assert_eq!((status.keys, status.keys_ignored, status.failures), (1, 1, 0));
    assert!(status.ready && !status.stale);
    assert_eq!((status.last_error, status.clock_offset_ms), (None, Some(3_600_500)));
    assert_eq!((idp.hits("/discovery"), idp.hits("/keys")), (1, 1));
}

#[tokio::test]
async fn a_clock_that_agrees_shows_no_offset() {
    let (clock, signer, idp) = (TestClock::new(), Signer::ed25519(), Idp::start().await);
    let mut reply = Reply::json(jwks(&[signer.jwk("k1")]));
    reply.headers.push(("date", "Fri, 15 Jan 2027 08:00:00 GMT".into()));
    idp.reply("/keys", reply);
    let verifier = started(idp.record(), &clock).await;
    assert_eq!(verifier.status()[0].clock_offset_ms, Some(0));
}

#[tokio::test]
async fn discovery_must_name_the_issuer_exactly() {
    let (clock, signer, idp) = (TestClock::new(), Signer::ed25519(), Idp::start().await);
    idp.reply("/keys", Reply::json(jwks(&[signer.jwk("k1")])));
    let keys = idp.url("/keys");
    for (document, expect) in [
        (format!(r#"{{"issuer":"{ISSUER}","jwks_uri":"{keys}"}}"#), None),
        (format!(r#"{{"issuer":"{ISSUER}/","jwks_uri":"{keys}"}}"#), Some(FetchError::OtherIssuer)),
        (
            format!(r#"{{"issuer":"https://evil.example","jwks_uri":"{keys}"}}"#),
            Some(FetchError::OtherIssuer),
        ),
        (format!(r#"{{"issuer":["{ISSUER}"],"jwks_uri":"{keys}"}}"#), Some(FetchError::Discovery)),
        (format!(r#"{{"jwks_uri":"{keys}"}}"#), Some(FetchError::Discovery)),
        (format!(r#"{{"issuer":"{ISSUER}"}}"#), Some(FetchError::Discovery)),
        (
            format!(r#"{{"issuer":"{ISSUER}","issuer":"{ISSUER}","jwks_uri":"{keys}"}}"#),
            Some(FetchError::Discovery),
        ),
        (
            format!(r#"{{"issuer":"{ISSUER}","jwks_uri":"http://idp.example.com/keys"}}"#),
            Some(FetchError::KeysUrl),
        ),
        (
            format!(r#"{{"issuer":"{ISSUER}","jwks_uri":"file:///etc/passwd"}}"#),
            Some(FetchError::KeysUrl),
        ),
        ("<html></html>".into(), Some(FetchError::Discovery)),
        (String::new(), Some(FetchError::Discovery)),
    ] {
        let record = idp.discovery();
        idp.reply("/discovery", Reply::json(&document));
        let verifier = started(record, &clock).await;
        assert_eq!(last_error(&verifier), expect, "{document}");
        let found = word(&verifier, &clock, &good(&signer, "k1")).await;
        assert_eq!(found, if expect.is_none() { "ok" } else { "keys_unavailable" }, "{document}");
    }
}

#[tokio::test]
async fn without_keys_nobody_comes_in() {
    let (clock, signer, idp) = (TestClock::new(), Signer::ed25519(), Idp::start().await);
    let token = good(&signer, "k1");
    let set = jwks(&[signer.jwk("k1")]);
    let padded = |len: usize| format!("{set}{}", " ".repeat(len - set.len()));
    let with = |header, value: &str, reply: Reply| Reply {
        headers: vec![(header, value.to_owned())],
        ..reply
    };
    idp.reply("/moved", Reply::json(&set));
    let slow = |ms| Reply { delay: Duration::from_millis(ms), ..Reply::json(&set) };
    for (what, reply, expect) in [
        ("control", Reply::json(&set), None),
        ("any type", with("content-type", "text/plain", Reply::json(&set)), None),
        ("not found", Reply::status(404), Some(FetchError::Status(404))),
        ("in trouble", Reply::status(500), Some(FetchError::Status(500))),
        ("no content", Reply::status(204), Some(FetchError::Status(204))),
        ("moved", with("location", "/moved", Reply::status(301)), Some(FetchError::Redirect)),
        ("found", with("location", "/moved", Reply::status(302)), Some(FetchError::Redirect)),
        ("permanent", with("location", "/moved", Reply::status(308)), Some(FetchError::Redirect)),
        ("HTML", Reply::json("<!DOCTYPE html><html></html>"), Some(FetchError::KeySet)),
        ("nothing", Reply::json(""), Some(FetchError::KeySet)),
        ("no keys", Reply::json(r#"{"keys":[]}"#), Some(FetchError::NoKeys)),
        ("no set", Reply::json("{}"), Some(FetchError::KeySet)),
        ("an object", Reply::json(r#"{"keys":{}}"#), Some(FetchError::KeySet)),
        ("a list", Reply::json("[]"), Some(FetchError::KeySet)),
        ("texts", Reply::json(r#"{"keys":["k1"]}"#), Some(FetchError::KeySet)),
        ("cut off", Reply::json(&set[..set.len() - 2]), Some(FetchError::KeySet)),
        ("largest", Reply::json(padded(BODY_BYTES_MAX)), None),
        ("too large", Reply::json(padded(BODY_BYTES_MAX + 1)), Some(FetchError::TooLarge)),
        ("huge", Reply::json(padded(20_000_000)), Some(FetchError::TooLarge)),
        ("a bit slow", slow(50), None),
        ("too slow", slow(2_000), Some(FetchError::Timeout)),
    ] {
        idp.reply("/keys", reply);
        let verifier = started(idp.record(), &clock).await;
        assert_eq!(last_error(&verifier), expect, "{what}");
        let found = word(&verifier, &clock, &token).await;
        assert_eq!(found, if expect.is_none() { "ok" } else { "keys_unavailable" }, "{what}");
        assert_eq!(verifier.status()[0].ready, expect.is_none(), "{what}");
    }
    assert_eq!(idp.hits("/moved"), 0, "a redirect was followed");
    // Nobody listens.
    let url = idp.url("/keys");
    drop(idp);
    let mut record = issuer();
    record.keys = KeySource::Jwks { url };
    let verifier = started(record, &clock).await;
    assert_eq!(last_error(&verifier), Some(FetchError::Connect));
    assert_eq!(word(&verifier, &clock, &token).await, "keys_unavailable");
}

#[tokio::test]
async fn a_short_trouble_is_tried_over() {
    let (clock, signer, idp) = (TestClock::new(), Signer::ed25519(), Idp::start().await);
    let set = Reply::json(jwks(&[signer.jwk("k1")]));
    idp.replies("/keys", vec![Reply::status(503), set.clone()]);
    let verifier = started(idp.record(), &clock).await;
    assert_eq!(word(&verifier, &clock, &good(&signer, "k1")).await, "ok");
    assert_eq!(idp.hits("/keys"), 2);
    // As often as configured, no more.
    idp.replies("/keys", vec![Reply::status(503), Reply::status(503), set]);
    let verifier = started(idp.record(), &clock).await;
    assert_eq!(word(&verifier, &clock, &good(&signer, "k1")).await, "keys_unavailable");
    assert_eq!(idp.hits("/keys"), 4);
}

#[tokio::test]
async fn the_keys_come_when_the_issuer_does() {
    let (clock, signer, idp) = (TestClock::new(), Signer::ed25519(), Idp::start().await);
    idp.reply("/keys", Reply::status(404));
    let verifier = started(idp.record(), &clock).await;
    let token = good(&signer, "k1");
    assert_eq!(word(&verifier, &clock, &token).await, "keys_unavailable");
    idp.reply("/keys", Reply::json(jwks(&[signer.jwk("k1")])));
    // Not asked again at once, however many ask.
    clock.advance_secs(4);
    for _ in 0..10 {
        assert_eq!(word(&verifier, &clock, &token).await, "keys_unavailable");
    }
    assert_eq!(idp.hits("/keys"), 1);
    clock.advance_secs(1);
    assert_eq!(word(&verifier, &clock, &token).await, "ok");
    assert_eq!(idp.hits("/keys"), 2);
}

#[tokio::test]
async fn many_logins_make_one_fetch() {
    let (clock, signer, idp) = (TestClock::new(), Signer::ed25519(), Idp::start().await);
    let delay = Duration::from_millis(100);
    idp.reply("/keys", Reply { delay, ..Reply::json(jwks(&[signer.jwk("k1")])) });
    let verifier = Arc::new(verifier(idp.record(), &clock));
    let token: Arc<str> = good(&signer, "k1").into();
    let logins: Vec<_> = (0..100)
        .map(|_| {
            let (verifier, clock, token) = (verifier.clone(), clock.clone(), token.clone());
            tokio::spawn(async move { word(&verifier, &clock, &token).await })
        })
        .collect();
    for login in logins {
        assert_eq!(login.await.unwrap(), "ok");
    }
    assert_eq!(idp.hits("/keys"), 1);
}

#[tokio::test]
async fn a_login_that_goes_away_takes_no_fetch_with_it() {
    let (clock, signer, idp) = (TestClock::new(), Signer::ed25519(), Idp::start().await);
    let delay = Duration::from_millis(100);
    idp.reply("/keys", Reply { delay, ..Reply::json(jwks(&[signer.jwk("k1")])) });
    let verifier = verifier(idp.record(), &clock);
    let token = good(&signer, "k1");
    let gone = tokio::time::timeout(Duration::from_millis(20), word(&verifier, &clock, &token));
    assert!(gone.await.is_err());
    assert_eq!(word(&verifier, &clock, &token).await, "ok");
    assert_eq!(idp.hits("/keys"), 1);
}

#[tokio::test]
async fn unknown_key_ids_cost_one_fetch_in_thirty_seconds() {
    let (clock, signer, idp) = (TestClock::new(), Signer::ed25519(), Idp::start().await);
    idp.reply("/keys", Reply::json(jwks(&[signer.jwk("k1")])));
    let verifier = Arc::new(started(idp.record(), &clock).await);
    let flood = async |from: usize| {
        let logins: Vec<_> = (from..from + 200)
            .map(|n| {
                let (verifier, clock) = (verifier.clone(), clock.clone());
                let token = good(&signer, &format!("x{n}"));
                tokio::spawn(async move { word(&verifier, &clock, &token).await })
            })
            .collect();
        for login in logins {
            assert_eq!(login.await.unwrap(), "unknown_key");
        }
        idp.hits("/keys")
    };
    assert_eq!(flood(0).await, 1);
    clock.advance_secs(29);
    assert_eq!(flood(1_000).await, 1);
    clock.advance_secs(1);
    assert_eq!(flood(2_000).await, 2);
    assert_eq!(flood(3_000).await, 2);
    // Who has a good key is not held up.
    assert_eq!(word(&verifier, &clock, &good(&signer, "k1")).await, "ok");
    // Nor does a fetch happen for tokens that would be refused anyway.
    clock.advance_secs(30);
    for (alg, typ, expect) in
        [("HS256", "at+jwt", "algorithm_not_allowed"), ("EdDSA", "JWT", "wrong_type")]
    {
        let header = Members::header(alg).set("typ", format!("{typ:?}")).set("kid", r#""y""#);
        let token = mint(&signer, &header.json(), &Members::claims().json());
        assert_eq!(word(&verifier, &clock, &token).await, expect);
    }
    assert_eq!(idp.hits("/keys"), 2);
}

#[tokio::test]
async fn keys_rotate() {
    let (clock, idp) = (TestClock::new(), Idp::start().await);
    let (old, new) = (Signer::ed25519(), Signer::ed25519());
    idp.reply("/keys", Reply::json(jwks(&[old.jwk("k1")])));
    let verifier = started(idp.record(), &clock).await;
    assert_eq!(word(&verifier, &clock, &good(&new, "k2")).await, "unknown_key");
    // A new key beside the old one.
    idp.reply("/keys", Reply::json(jwks(&[old.jwk("k1"), new.jwk("k2")])));
    clock.advance_secs(30);
    assert_eq!(word(&verifier, &clock, &good(&new, "k2")).await, "ok");
    assert_eq!(word(&verifier, &clock, &good(&old, "k1")).await, "ok");
    // The old one is gone within the age at which a set is refreshed, and nobody waits for that.
    idp.reply("/keys", Reply::json(jwks(&[new.jwk("k2")])));
    assert_eq!(word(&verifier, &clock, &good(&old, "k1")).await, "ok");
    clock.advance_secs(REFRESH_AGE_MS / 1_000 - 31);
    assert_eq!(idp.hits("/keys"), 2);
    clock.advance_secs(32);
    eventually("the removed key is refused", async || verifier.status()[0].keys == 1).await;
    let old_token = mint(
        &old,
        &Members::header("EdDSA").json(),
        &Members::claims().set("exp", NOW + 3_000).json(),
    );
    assert_eq!(word(&verifier, &clock, &old_token).await, "unknown_key");
    let fresh = Members::claims().set("exp", NOW + 3_000).json();
    let header = Members::header("EdDSA").set("kid", r#""k2""#).json();
    assert_eq!(word(&verifier, &clock, &mint(&new, &header, &fresh)).await, "ok");
}

#[tokio::test]
async fn the_same_id_with_another_key_replaces_it() {
    let (clock, idp) = (TestClock::new(), Idp::start().await);
    let (old, new) = (Signer::ed25519(), Signer::ed25519());
    idp.reply("/keys", Reply::json(jwks(&[old.jwk("k1")])));
    let verifier = started(idp.record(), &clock).await;
    idp.reply("/keys", Reply::json(jwks(&[new.jwk("k1")])));
    clock.advance_secs(REFRESH_AGE_MS / 1_000 + 1);
    eventually("a second fetch", async || {
        verifier.status()[0].fetched_at > Some(Timestamp::from_secs(NOW))
    })
    .await;
    let header = Members::header("EdDSA").json();
    let claims = Members::claims().set("exp", NOW + 3_000).json();
    assert_eq!(word(&verifier, &clock, &mint(&old, &header, &claims)).await, "bad_signature");
    assert_eq!(word(&verifier, &clock, &mint(&new, &header, &claims)).await, "ok");
}

#[tokio::test]
async fn an_outage_is_survived_for_a_while() {
    let (clock, signer, idp) = (TestClock::new(), Signer::ed25519(), Idp::start().await);
    let set = Reply::json(jwks(&[signer.jwk("k1")]));
    idp.reply("/keys", set.clone());
    let verifier = started(idp.record(), &clock).await;
    // A fresh token each time: only the keys grow old.
    let login = async || {
        let now = bulla_core::Clock::now(&*clock);
        let claims = Members::claims().set("iat", now.secs()).set("exp", now.secs() + 60).json();
        let token = mint(&signer, &Members::header("EdDSA").json(), &claims);
        let found = verify_at(&verifier, &token, now).await;
        found.map(|principal| principal.proof.jwks_stale).map_err(|error| error.word)
    };
    for (what, trouble) in [
        ("down", Reply::status(503)),
        ("empty", Reply::json(r#"{"keys":[]}"#)),
        ("HTML", Reply::json("<html>")),
    ] {
        assert_eq!(login().await, Ok(false), "{what}");
        idp.reply("/keys", trouble);
        let until = |ms: u64| {
            let age = verifier.status()[0].age_ms.unwrap();
            clock.advance_secs((ms - age) / 1_000);
        };
        until(REFRESH_AGE_MS + 3_000);
        assert_eq!(login().await, Ok(false), "{what}");
        eventually("a failure", async || verifier.status()[0].failures > 0).await;
        assert_eq!(login().await, Ok(false), "{what}");
        until(STALE_AGE_MS - 2_000);
        assert_eq!(login().await, Ok(false), "{what}");
        until(STALE_AGE_MS + 3_000);
        assert_eq!(login().await, Ok(true), "{what}");
        assert!(verifier.status()[0].stale && verifier.status()[0].ready, "{what}");
        until(AGE_MS_MAX - 2_000);
        assert_eq!(login().await, Ok(true), "{what}");
        until(AGE_MS_MAX + 3_000);
        assert_eq!(login().await, Err("keys_unavailable"), "{what}");
        assert!(!verifier.status()[0].ready, "{what}");
        // And back.
        idp.reply("/keys", set.clone());
        clock.advance_secs(60);
        eventually("fresh keys", async || login().await == Ok(false)).await;
        let status = &verifier.status()[0];
        assert_eq!((status.failures, status.last_error), (0, None), "{what}");
    }
}

#[tokio::test]
async fn keys_from_a_file_follow_the_file() {
    let (clock, old, new) = (TestClock::new(), Signer::ed25519(), Signer::ed25519());
    let path = file(jwks(&[old.jwk("k1")]));
    let mut record = issuer();
    record.keys = KeySource::File { path: path.clone() };
    let verifier = started(record, &clock).await;
    assert_eq!(word(&verifier, &clock, &good(&old, "k1")).await, "ok");
    std::fs::write(&path, jwks(&[new.jwk("k2")])).unwrap();
    clock.advance_secs(30);
    assert_eq!(word(&verifier, &clock, &good(&new, "k2")).await, "ok");
    assert_eq!(word(&verifier, &clock, &good(&old, "k1")).await, "unknown_key");
    std::fs::write(&path, vec![b' '; BODY_BYTES_MAX + 1]).unwrap();
    clock.advance_secs(REFRESH_AGE_MS / 1_000 + 1);
    eventually("a failure", async || last_error(&verifier) == Some(FetchError::File)).await;
    assert!(verifier.status()[0].ready);
    std::fs::remove_file(&path).unwrap();
    let mut record = issuer();
    record.keys = KeySource::File { path };
    assert_eq!(last_error(&started(record, &clock).await), Some(FetchError::File));
}

#[tokio::test]
async fn a_key_set_may_hold_what_we_do_not_use() {
    let (clock, rsa, p256) = (TestClock::new(), Signer::rsa(), Signer::p256());
    let (ed, p384) = (Signer::ed25519(), Signer::p384());
    let key =
        |signer: &Signer, more: &str| format!(r#"{{"kid":"k1",{}{more}}}"#, signer.material());
    let spare = Signer::ed25519();
    let without_kid = format!("{{{}}}", rsa.material());
    let (n, _) = rsa_numbers(&rsa.pkcs1_der());
    let with_e =
        |e: &[u8]| format!(r#"{{"kid":"k1","kty":"RSA","n":"{}","e":"{}"}}"#, b64(&n), b64(e));
    let even = [&n[..255], &[n[255] & 0xfe]].concat();
    let xy = |change: fn(&mut Vec<u8>, &mut Vec<u8>)| {
        let Signer::P256 { fixed, .. } = &p256 else { unreachable!() };
        let point = aws_lc_rs::signature::KeyPair::public_key(fixed).as_ref();
        let (mut x, mut y) = (point[1..33].to_vec(), point[33..].to_vec());
        change(&mut x, &mut y);
        let (x, y) = (b64(x), b64(y));
        format!(r#"{{"kid":"k1","kty":"EC","crv":"P-256","x":"{x}","y":"{y}"}}"#)
    };
    for (what, signer, jwk, expect) in [
        ("bare", &rsa, key(&rsa, ""), "ok"),
        ("for signing", &rsa, key(&rsa, r#","use":"sig""#), "ok"),
        ("for encryption", &rsa, key(&rsa, r#","use":"enc""#), "unknown_key"),
        ("use in capitals", &rsa, key(&rsa, r#","use":"SIG""#), "unknown_key"),
        ("use is a list", &rsa, key(&rsa, r#","use":["sig"]"#), "unknown_key"),
        ("may verify", &rsa, key(&rsa, r#","key_ops":["verify"]"#), "ok"),
        ("may sign only", &rsa, key(&rsa, r#","key_ops":["sign"]"#), "unknown_key"),
        ("may do nothing", &rsa, key(&rsa, r#","key_ops":[]"#), "unknown_key"),
        ("operations no list", &rsa, key(&rsa, r#","key_ops":"verify""#), "unknown_key"),
        ("its algorithm", &rsa, key(&rsa, r#","alg":"RS256""#), "ok"),
        ("another algorithm", &rsa, key(&rsa, r#","alg":"PS256""#), "algorithm_not_allowed"),
        ("no such algorithm", &rsa, key(&rsa, r#","alg":"RS512""#), "unknown_key"),
        ("encryption", &rsa, key(&rsa, r#","alg":"RSA-OAEP""#), "unknown_key"),
        ("HMAC", &rsa, key(&rsa, r#","alg":"HS256""#), "unknown_key"),
        ("another type's", &rsa, key(&rsa, r#","alg":"ES256""#), "unknown_key"),
        ("private", &rsa, key(&rsa, r#","d":"AQAB""#), "unknown_key"),
        ("certificates", &rsa, key(&rsa, r#","x5c":["AAAA"],"x5t":"AAAA""#), "ok"),
        ("without an id", &rsa, without_kid, "unknown_key"),
        ("a number for id", &rsa, key(&rsa, "").replace(r#""k1""#, "1"), "unknown_key"),
        ("with a curve", &rsa, key(&rsa, r#","crv":"P-256""#), "unknown_key"),
        ("exponent 65537", &rsa, with_e(&[1, 0, 1]), "ok"),
        ("leading zero", &rsa, with_e(&[0, 1, 0, 1]), "ok"),
        ("exponent 1", &rsa, with_e(&[1]), "unknown_key"),
        ("exponent 0", &rsa, with_e(&[0]), "unknown_key"),
        ("exponent 2", &rsa, with_e(&[2]), "unknown_key"),
        ("no exponent", &rsa, with_e(&[]), "unknown_key"),
        ("huge exponent", &rsa, with_e(&[1; 9]), "unknown_key"),
        ("even modulus", &rsa, key(&rsa, "").replace(&b64(&n), &b64(&even)), "unknown_key"),
        ("padded", &rsa, key(&rsa, "").replace("AQAB", "AQAB===="), "unknown_key"),
        ("unknown type", &rsa, key(&rsa, "").replace("RSA", "rsa"), "unknown_key"),
        ("P-256", &p256, key(&p256, ""), "ok"),
        ("P-256 as P-384", &p256, key(&p256, "").replace("P-256", "P-384"), "unknown_key"),
        ("P-384 as P-256", &p384, key(&p384, "").replace("P-384", "P-256"), "unknown_key"),
        ("secp256k1", &p256, key(&p256, "").replace("P-256", "secp256k1"), "unknown_key"),
        ("the point", &p256, xy(|_, _| {}), "ok"),
        ("off the curve", &p256, xy(|x, _| x[31] ^= 1), "unknown_key"),
        ("swapped", &p256, xy(std::mem::swap), "unknown_key"),
        ("longer", &p256, xy(|x, _| x.insert(0, 0)), "unknown_key"),
        ("shorter", &p256, xy(|_, y| y.truncate(31)), "unknown_key"),
        (
            "origin",
            &p256,
            xy(|x, y| {
                x.fill(0);
                y.fill(0)
            }),
            "unknown_key",
        ),
        ("Ed25519", &ed, key(&ed, ""), "ok"),
        ("Ed448", &ed, key(&ed, "").replace("Ed25519", "Ed448"), "unknown_key"),
        ("X25519", &ed, key(&ed, "").replace("Ed25519", "X25519"), "unknown_key"),
    ] {
        let keys = [jwk.clone(), spare.jwk("spare")];
        let verifier = started(with_keys(issuer(), &keys), &clock).await;
        assert_eq!(word(&verifier, &clock, &good(signer, "k1")).await, expect, "{what}");
        let usable = if expect == "unknown_key" { (1, 1) } else { (2, 0) };
        let status = &verifier.status()[0];
        assert_eq!((status.keys, status.keys_ignored), usable, "{what}");
    }
}

#[tokio::test]
async fn two_keys_of_one_id_are_told_apart_or_refused() {
    let (clock, rsa, one, two) =
        (TestClock::new(), Signer::rsa(), Signer::ed25519(), Signer::ed25519());
    let verifier = started(with_keys(issuer(), &[one.jwk("k1"), rsa.jwk("k1")]), &clock).await;
    assert_eq!(word(&verifier, &clock, &good(&one, "k1")).await, "ok");
    assert_eq!(word(&verifier, &clock, &good(&rsa, "k1")).await, "ok");
    let verifier = started(with_keys(issuer(), &[one.jwk("k1"), two.jwk("k1")]), &clock).await;
    assert_eq!(word(&verifier, &clock, &good(&one, "k1")).await, "unknown_key");
    assert_eq!(word(&verifier, &clock, &good(&two, "k1")).await, "unknown_key");
}

#[tokio::test]
async fn a_key_set_has_a_largest_size() {
    let (clock, signer) = (TestClock::new(), Signer::ed25519());
    for (count, expect) in [(KEYS_MAX, None), (KEYS_MAX + 1, Some(FetchError::KeySet))] {
        let keys: Vec<_> = (1..=count).map(|n| signer.jwk(&format!("k{n}"))).collect();
        let verifier = started(with_keys(issuer(), &keys), &clock).await;
        assert_eq!(last_error(&verifier), expect, "{count}");
    }
}

#[tokio::test]
async fn a_reload_keeps_the_keys() {
    let (clock, signer, idp) = (TestClock::new(), Signer::ed25519(), Idp::start().await);
    idp.reply("/keys", Reply::json(jwks(&[signer.jwk("k1")])));
    idp.reply("/other", Reply::status(503));
    let first = started(idp.record(), &clock).await;
    let token = good(&signer, "k1");
    assert_eq!(word(&first, &clock, &token).await, "ok");
    idp.reply("/keys", Reply::status(503));
    let mut record = idp.record();
    record.subject = "svc:{sub}".into();
    let config = Config { issuers: vec![record.clone()], trust_domains: Vec::new() };
    let second = first.reload(&config).unwrap();
    drop(first);
    let principal = verify_at(&second, &token, Timestamp::from_secs(NOW)).await.unwrap();
    assert_eq!(principal.id.as_str(), "idp|svc:svc-7");
    // The task lives on.
    clock.advance_secs(REFRESH_AGE_MS / 1_000 + 1);
    eventually("a failure", async || second.status()[0].failures > 0).await;
    // Keys from another place are other keys.
    record.keys = KeySource::Jwks { url: idp.url("/other") };
    let config = Config { issuers: vec![record], trust_domains: Vec::new() };
    let third = second.reload(&config).unwrap();
    third.attempted().await;
    assert_eq!(word(&third, &clock, &token).await, "keys_unavailable");
}

#[tokio::test]
async fn shutdown_ends_the_fetching() {
    let (clock, signer, idp) = (TestClock::new(), Signer::ed25519(), Idp::start().await);
    let delay = Duration::from_secs(60);
    idp.reply("/keys", Reply { delay, ..Reply::json(jwks(&[signer.jwk("k1")])) });
    let mut limits = quick();
    limits.fetch = Duration::from_secs(60);
    let config = Config { issuers: vec![idp.record()], trust_domains: Vec::new() };
    let verifier = Verifier::with_limits(&config, clock.clone(), limits).unwrap();
    eventually("a fetch", async || idp.hits("/keys") == 1).await;
    // In the middle of a fetch.
    tokio::time::timeout(Duration::from_secs(5), verifier.shutdown()).await.unwrap();
    verifier.shutdown().await;
    drop(verifier);
    // Dropping alone, too: nothing asks any more.
    idp.reply("/keys", Reply::status(503));
    let verifier = started(idp.record(), &clock).await;
    drop(verifier);
    let before = idp.hits("/keys");
    clock.advance_secs(10_000);
    tokio::time::sleep(quick().tick * 5).await;
    assert_eq!(idp.hits("/keys"), before);
}

#[test]
fn without_a_runtime_there_is_a_problem_not_a_panic() {
    let config = Config { issuers: vec![issuer()], trust_domains: Vec::new() };
    assert!(Verifier::new(&config, TestClock::new()).is_err());
}

#[tokio::test]
async fn https_trusts_the_configured_authority_only() {
    let authority = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let (ours, other) = (authority("ours"), authority("other"));
    let server = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &ours).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Arc::new(config)
    };
    let (clock, signer) = (TestClock::new(), Signer::ed25519());
    for (name, ca, expect) in [
        ("localhost", Some(ours.pem()), None),
        ("localhost", Some(format!("{}{}", other.pem(), ours.pem())), None),
        ("localhost", Some(other.pem()), Some(FetchError::Connect)),
        ("localhost", None, Some(FetchError::Connect)),
        ("elsewhere", Some(ours.pem()), Some(FetchError::Connect)),
        ("localhost", Some("no certificate".into()), Some(FetchError::Authorities)),
    ] {
        let idp = Idp::start_tls(server(name)).await;
        idp.reply("/keys", Reply::json(jwks(&[signer.jwk("k1")])));
        let mut record = issuer();
        let url = format!("https://localhost:{}/keys", idp.address.port());
        record.keys = KeySource::Jwks { url };
        record.ca_file = ca.map(file);
        let verifier = started(record, &clock).await;
        assert_eq!(last_error(&verifier), expect, "{name}");
        let found = word(&verifier, &clock, &good(&signer, "k1")).await;
        assert_eq!(found, if expect.is_none() { "ok" } else { "keys_unavailable" });
    }
}

#[tokio::test]
async fn the_port_is_an_object() {
    let (clock, signer) = (TestClock::new(), Signer::ed25519());
    let verifier = started(with_keys(issuer(), &[signer.jwk("k1")]), &clock).await;
    let identity: Arc<dyn Identity> = Arc::new(verifier);
    let credential = Credential::Token(Secret::new(good(&signer, "k1").into_bytes()));
    let origin = origin(None);
    let now = Timestamp::from_secs(NOW);
    let principal = tokio::spawn(async move { identity.verify(credential, &origin, now).await });
    assert_eq!(principal.await.unwrap().unwrap().id.as_str(), "idp|svc-7");
}
