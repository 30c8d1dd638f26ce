//! THREATS 1.1 to 1.3: what statements say, and what they try to hide.
//!
//! Every family is one line of the list. Each of its attacks is refused before the server sees it,
//! by both protocols, as an entry; a harmless neighbour passes in the same session; and through the
//! bare passage, without the gateway, the attack has its effect.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "threats/benign.rs"]
mod benign;
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

/// One test, so that one server and one gateway serve all rows.
#[test]
fn statements_hide_nothing() -> Result<()> {
    let arena = Arena::start()?;
    let families = || lexer::FAMILIES.iter().chain(names::FAMILIES).chain(kinds::FAMILIES);
    for family in families() {
        family.through_the_gateway(&arena);
    }
    benign::pass(&arena);
    lexer::stress(&arena);
    names::moves(&arena);
    for family in families() {
        family.past_the_gateway(&arena);
    }
    arena.finish()
}
