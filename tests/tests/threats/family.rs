//! Families of statements: one line of the list of threats each.

use anyhow::{Context, Result, ensure};
use bulla_e2e::arena::{Arena, SECRETS, as_logged};
use bulla_e2e::raw::{Answer, Raw};

/// How an attack shows that it works where nothing stops it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// The server runs it without an error.
    Runs,
    /// The client reads a salary.
    Leaks,
    /// The server runs it, but not within a transaction.
    Alone,
    /// The client reads a salary, but not within a transaction.
    LeaksAlone,
    /// It gets as far as the server, which stumbles over it for a reason of its own.
    Reaches,
}

impl Proof {
    fn in_a_block(self) -> bool {
        !matches!(self, Self::Alone | Self::LeaksAlone)
    }
}

pub struct Family {
    pub line: &'static str,
    pub what: &'static str,
    /// The policies under which each attack is refused.
    pub groups: &'static [&'static str],
    /// A harmless neighbour, which passes in the same session.
    pub control: &'static str,
    /// Statements; ` ;; ` parts what is sent as queries of their own.
    pub attacks: &'static [(Proof, &'static str)],
}

pub const BOTH: &[&str] = &["least", "deny"];
pub const LEAST: &[&str] = &["least"];
pub const DENY: &[&str] = &["deny"];
pub const WATCH: &[&str] = &["watch"];

/// How a statement is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Simple,
    Extended,
}

/// Each family through the gateway and past it; then everything is asked to have its entry.
pub fn run(arena: Arena, families: &[Family]) -> Result<()> {
    for family in families {
        family.through_the_gateway(&arena);
        family.past_the_gateway(&arena);
    }
    arena.finish()
}

impl Family {
    /// The name of one of its rows.
    fn row(&self, attack: &str) -> String {
        let shown: String = attack.chars().take(90).collect();
        format!("{} {}: {shown}", self.line, self.what)
    }

    /// Each attack is refused, leaves no trace, and leaves the session as it was.
    pub fn through_the_gateway(&self, arena: &Arena) {
        for (at, group) in self.groups.iter().enumerate() {
            self.said(arena, group, Way::Simple);
            // What the extended protocol says to policy is the same: once is enough.
            if at + 1 == self.groups.len() {
                self.said(arena, group, Way::Extended);
            }
        }
    }

    /// All of them to one session; what the server heard, and whether anything changed, is asked
    /// once for all, and once for each when the answer is bad.
    fn said(&self, arena: &Arena, group: &str, way: Way) {
        let name = |attack: &str| format!("{} as {group}, {way:?}", self.row(attack));
        let before = arena.try_row(self.what, || arena.fingerprint());
        let from = arena.logged();
        let mut session = None;
        let mut stopped = Vec::new();
        for (_, attack) in self.attacks {
            let row = name(attack);
            let kept = session.take();
            let done = arena.try_row(&row, || self.attack(arena, &row, group, attack, way, kept));
            if let Some((kept, step)) = done {
                stopped.push((row, step));
                // A session that took one step of many is not as it was.
                session = (steps(attack).count() == 1).then_some(kept);
            }
        }
        let Some(log) = arena.try_row(self.what, || arena.logged_since(from)) else { return };
        for (row, step) in stopped {
            if log.contains(&as_logged(step)) {
                arena.fail(&row, "it reached the server");
            }
        }
        if before != arena.try_row(self.what, || arena.fingerprint()) {
            self.who_did_it(arena, group, way);
        }
    }

    /// One of them had an effect: each once more, alone.
    fn who_did_it(&self, arena: &Arena, group: &str, way: Way) {
        arena.fail(self.what, format!("one of them had an effect, as {group}, {way:?}"));
        for (_, attack) in self.attacks {
            let row = self.row(attack);
            arena.try_row(&row, || {
                let before = arena.fingerprint()?;
                self.attack(arena, &row, group, attack, way, None)?;
                ensure!(arena.fingerprint()? == before, "it had an effect");
                Ok(())
            });
        }
    }

    /// Refused; the step at which it was.
    fn attack<'a>(
        &self,
        arena: &Arena,
        row: &str,
        group: &str,
        attack: &'a str,
        way: Way,
        kept: Option<Raw>,
    ) -> Result<(Raw, &'a str)> {
        let kept = kept.filter(|_| steps(attack).count() == 1);
        let mut session = match kept {
            Some(session) => session,
            None => arena.through(group, self.line)?.open()?,
        };
        let mut all = Answer::default();
        let mut stopped = None;
        for step in steps(attack) {
            let answer = say(&mut session, step, way)?;
            let refused = answer.is_refused();
            all = all.and(answer);
            if refused {
                stopped = Some(step);
                break;
            }
        }
        arena.expect_refused(row, &all)?;
        ensure!(all.is_ready() && !all.closed, "the session is gone: {}", all.describe());
        if all.status() != Some('I') {
            let ended = session.query("ROLLBACK")?;
            ensure!(ended.status() == Some('I'), "no way out: {}", ended.describe());
        }
        let control = session.query(self.control)?;
        ensure!(control.succeeded(), "the control `{}`: {}", self.control, control.describe());
        Ok((session, stopped.context("a step was refused")?))
    }

    /// Each attack has its effect where nothing stops it.
    pub fn past_the_gateway(&self, arena: &Arena) {
        let mut session = None;
        for (proof, attack) in self.attacks {
            let row = format!("{}, unguarded", self.row(attack));
            let kept = session.take();
            session = arena
                .try_row(&row, || prove(arena, *proof, attack, kept))
                .filter(|_| proof.in_a_block() && steps(attack).count() == 1);
        }
    }
}

fn steps(attack: &str) -> impl Iterator<Item = &str> {
    attack.split(" ;; ")
}

fn say(session: &mut Raw, text: &str, way: Way) -> Result<Answer> {
    match way {
        Way::Simple => session.query(text),
        Way::Extended => session.extended(text),
    }
}

fn prove(arena: &Arena, proof: Proof, attack: &str, kept: Option<Raw>) -> Result<Raw> {
    let mut session = match kept {
        Some(session) if steps(attack).count() == 1 => session,
        _ => arena.passage().open()?,
    };
    let from = arena.logged();
    let wrapped = proof.in_a_block() && !steps(attack).any(|step| step.starts_with("BEGIN"));
    if wrapped {
        session.query("BEGIN")?;
    }
    let mut all = Answer::default();
    for step in steps(attack) {
        all = all.and(session.query(step)?);
    }
    if !all.closed {
        session.query("ROLLBACK")?;
        session.query("DISCARD ALL")?;
    }
    match proof {
        Proof::Runs | Proof::Alone => {
            let fine = all.errors().is_empty() && !all.closed;
            ensure!(fine, "has no effect by itself: {}", all.describe());
        }
        Proof::Leaks | Proof::LeaksAlone => ensure!(
            SECRETS.iter().any(|secret| all.holds(secret)),
            "leaks nothing by itself: {}",
            all.describe()
        ),
        Proof::Reaches => {
            let since = arena.logged_since(from)?;
            let last = steps(attack).last().context("a step")?;
            ensure!(since.contains(&as_logged(last)), "does not reach the server by itself");
        }
    }
    Ok(session)
}
