//! THREATS 5: tokens and keys, against the running gateway and a running issuer.
//!
//! Whoever is turned away hears the same words, costs no connection to the server, and is an entry.
//! Past the gateway no token is asked for at all: the login's password opens to everybody.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "threats/keys.rs"]
mod keys;
#[path = "threats/tokens.rs"]
mod tokens;

use anyhow::{Result, ensure};
use bulla_e2e::arena::Arena;
use bulla_e2e::gateway::Spec;
use bulla_e2e::issuer::{Behaviour, Issuer};
use bulla_e2e::mint::Alg;

#[test]
fn only_the_issuers_word_opens() -> Result<()> {
    let algorithms = [Alg::Es384, Alg::Rs256, Alg::Ps256, Alg::EdDsa, Alg::Es256];
    let arena = Arena::with_issuer(Issuer::with(&algorithms)?, Spec::looks_seldom)?;
    tokens::good(&arena);
    tokens::bad(&arena);
    arena.try_row("JWT, unguarded", || {
        let route = arena.passage();
        ensure!(route.open()?.query("SELECT 1")?.succeeded(), "the login opens to everybody");
        Ok(())
    });
    arena.finish()
}

#[test]
fn an_issuer_in_trouble_opens_nothing() -> Result<()> {
    let troubled = keys::troubled()?;
    let arena = Arena::with(|spec| keys::trust(spec, &troubled))?;
    keys::cold(&arena, &troubled);
    keys::outage(&arena);
    keys::flood(&arena);
    keys::rotation(&arena);
    for (_, issuer) in &troubled {
        issuer.behave(Behaviour::Well);
    }
    keys::recovered(&arena, &troubled);
    arena.finish()
}
