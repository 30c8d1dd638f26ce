//! THREATS 1.4, and the lines of 1.1 to 1.3 that are about bytes and not about words.
//!
//! Each row says something that no driver would say. Through the gateway the server never hears it
//! and the session's record tells; through the bare passage the server does.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "threats/door.rs"]
mod door;
#[path = "threats/frames.rs"]
mod frames;
#[path = "threats/holds.rs"]
mod holds;
#[path = "threats/names_of_both.rs"]
mod names_of_both;

use anyhow::Result;
use bulla_e2e::arena::Arena;
use bulla_e2e::gateway::Spec;

/// One test, so that one server and one gateway serve all rows.
#[test]
fn bytes_hide_nothing() -> Result<()> {
    let arena = Arena::with(Spec::looks_seldom)?;
    frames::broken(&arena);
    frames::out_of_turn(&arena);
    frames::kept_in_order(&arena);
    door::startups(&arena);
    door::encryption(&arena);
    door::cancels(&arena);
    names_of_both::shared(&arena);
    names_of_both::sessions_share_nothing(&arena);
    names_of_both::endings(&arena);
    holds::held(&arena);
    arena.finish()
}
