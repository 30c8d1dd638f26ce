//! An issuer that is down, slow, wrong, or changes its keys.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bulla_e2e::arena::Arena;
use bulla_e2e::gateway::{IssuerSpec, Spec};
use bulla_e2e::issuer::{Behaviour, Issuer};
use bulla_e2e::mint::Alg;
use bulla_e2e::raw::Raw;

type Troubled = Vec<(&'static str, Issuer)>;

/// One issuer for each trouble, in it before the gateway asks for the first time.
pub fn troubled() -> Result<Troubled> {
    let elsewhere = Issuer::start()?;
    let there = format!("{}/.well-known/openid-configuration", elsewhere.url());
    let mut all = Vec::new();
    for (name, behaviour) in [
        ("down", Behaviour::HangUp),
        ("html", Behaviour::Garbage),
        ("empty", Behaviour::NoKeys),
        ("slow", Behaviour::Slow(Duration::from_secs(40))),
        ("redirects", Behaviour::Redirect(there)),
        ("huge", Behaviour::Large(8 << 20)),
        ("other", Behaviour::OtherIssuer),
        ("fails", Behaviour::Status(500)),
        ("absent", Behaviour::Status(404)),
        ("forbids", Behaviour::Status(403)),
    ] {
        let issuer = Issuer::start()?;
        issuer.behave(behaviour);
        all.push((name, issuer));
    }
    Ok(all)
}

pub fn trust(mut spec: Spec, troubled: &Troubled) -> Spec {
    spec.issuers.extend(troubled.iter().map(|(name, issuer)| IssuerSpec::new(name, issuer)));
    spec
}

fn enter(arena: &Arena, issuer: &Issuer) -> Result<(Raw, bool)> {
    let token = issuer.mint()?.subject("keys").claim("team", "app").token()?;
    let route = arena.through("app", "x")?.password(&token);
    let (session, answer) = route.try_open_as(&route.startup())?;
    if !answer.is_ready() {
        let code = answer.code().unwrap_or_default();
        ensure!(code == "28P01", "other words: {}", answer.describe());
    }
    Ok((session, answer.is_ready()))
}

/// Without keys nobody gets in; others are not hindered; it is on record.
pub fn cold(arena: &Arena, troubled: &Troubled) {
    for (name, issuer) in troubled {
        arena.try_row(&format!("JWKS {name}, cold"), || {
            let before = arena.turned_away()?;
            let (_, opened) = enter(arena, issuer)?;
            ensure!(!opened, "it opened without keys");
            arena.expect_turned_away(before, 1)?;
            let begun = Instant::now();
            ensure!(enter(arena, &arena.issuer)?.1, "another issuer's token");
            ensure!(begun.elapsed() < Duration::from_secs(3), "took {:?}", begun.elapsed());
            Ok(())
        });
    }
}

/// The last good keys serve through an outage.
pub fn outage(arena: &Arena) {
    for behaviour in [
        Behaviour::HangUp,
        Behaviour::Garbage,
        Behaviour::NoKeys,
        Behaviour::Status(503),
        Behaviour::Large(8 << 20),
    ] {
        arena.try_row(&format!("JWKS outage: {behaviour:?}"), || {
            arena.issuer.behave(behaviour.clone());
            ensure!(enter(arena, &arena.issuer)?.1, "cached keys serve");
            arena.issuer.behave(Behaviour::Well);
            Ok(())
        });
    }
}

/// Tokens with unknown keys make the gateway ask at most now and then.
pub fn flood(arena: &Arena) {
    arena.try_row("JWKS unknown-kid flood", || {
        let before = arena.issuer.counts();
        let begun = Instant::now();
        for at in 0..60 {
            let mint = arena.issuer.mint()?.claim("team", "app");
            let token = mint.header("kid", format!("unknown-{at}")).token()?;
            let route = arena.through("app", "x")?.password(&token);
            let (_, answer) = route.try_open_as(&route.startup())?;
            ensure!(answer.code().as_deref() == Some("28P01"), "{}", answer.describe());
            if at % 10 == 0 {
                ensure!(enter(arena, &arena.issuer)?.1, "others are hindered");
            }
        }
        let asked = arena.issuer.counts().keys - before.keys;
        let allowed = 2 + u32::try_from(begun.elapsed().as_secs() / 5)?;
        ensure!(asked <= allowed, "asked {asked} times in {:?}", begun.elapsed());
        Ok(())
    });
}

/// A new key is found; a key that is gone opens no more.
pub fn rotation(arena: &Arena) {
    arena.try_row("JWKS rotation and removal", || {
        let old = arena.issuer.mint()?.subject("keys").claim("team", "app").token()?;
        arena.issuer.rotate(Alg::EdDsa)?;
        ensure!(eventually(|| Ok(enter(arena, &arena.issuer)?.1))?, "the new key is not found");
        let route = arena.through("app", "x")?.password(&old);
        ensure!(route.open().is_ok(), "the old key still serves while it is published");
        arena.issuer.rotate(Alg::Es256)?;
        arena.issuer.withdraw_old_keys();
        ensure!(eventually(|| Ok(enter(arena, &arena.issuer)?.1))?, "the newest key");
        // To learn of the newest key the set was fetched, and the old one was not in it.
        ensure!(route.open().is_err(), "a removed key still opens");
        Ok(())
    });
}

/// Once the issuer is well, its tokens open.
pub fn recovered(arena: &Arena, troubled: &Troubled) {
    for (name, issuer) in troubled {
        arena.try_row(&format!("JWKS {name}, recovered"), || {
            ensure!(eventually(|| Ok(enter(arena, issuer)?.1))?, "it stays shut");
            Ok(())
        });
    }
}

/// A refresh has a cool-down; within it the answer may still be no.
fn eventually(mut ask: impl FnMut() -> Result<bool>) -> Result<bool> {
    let until = Instant::now() + Duration::from_secs(45);
    loop {
        if ask()? {
            return Ok(true);
        }
        if Instant::now() > until {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
