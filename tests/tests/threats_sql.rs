//! THREATS 1.1 to 1.3: what statements say, and what they try to hide.
//!
//! Every family is one line of the list. Each of its attacks is refused before the server sees it,
//! by both protocols, as an entry; a harmless neighbour passes in the same session; and through the
//! bare passage, without the gateway, the attack has its effect.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "threats/benign.rs"]
mod benign;
#[path = "threats/corners.rs"]
mod corners;
#[path = "threats/family.rs"]
mod family;
#[path = "threats/kinds.rs"]
mod kinds;
#[path = "threats/lexer.rs"]
mod lexer;
#[path = "threats/names.rs"]
mod names;

use anyhow::Result;
use bulla_e2e::arena::Arena;
use bulla_e2e::postgres::Flavor;

#[test]
fn quoting_hides_nothing() -> Result<()> {
    family::run(Arena::start()?, lexer::FAMILIES)
}

#[test]
fn names_hide_nothing() -> Result<()> {
    family::run(Arena::start()?, names::FAMILIES)
}

#[test]
fn kinds_hide_nothing() -> Result<()> {
    family::run(Arena::start()?, kinds::FAMILIES)
}

#[test]
fn corners_hide_nothing() -> Result<()> {
    family::run(Arena::start()?, corners::FAMILIES)
}

#[test]
fn newer_grammar_hides_nothing() -> Result<()> {
    family::run(Arena::on(Flavor::Eighteen)?, corners::EIGHTEEN)
}

#[test]
fn moves_hide_nothing() -> Result<()> {
    let arena = Arena::start()?;
    names::moves(&arena);
    arena.finish()
}

#[test]
fn size_hides_nothing() -> Result<()> {
    let arena = Arena::start()?;
    lexer::stress(&arena);
    arena.finish()
}

#[test]
fn what_is_harmless_passes() -> Result<()> {
    let arena = Arena::start()?;
    benign::pass(&arena);
    arena.finish()
}

#[test]
fn what_is_harmless_passes_on_eighteen() -> Result<()> {
    let arena = Arena::on(Flavor::Eighteen)?;
    benign::pass_on_eighteen(&arena);
    arena.finish()
}
