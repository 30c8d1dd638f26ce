//! The replication protocol: a connection that begins with it, and the commands of a WAL sender.
//!
//! Source: PostgreSQL manual, "Streaming Replication Protocol"; `repl_scanner.l`. A text whose first
//! word is one of a WAL sender's is that command, whatever its case: were the server to disagree, it
//! would be a text that SQL cannot begin with. `SHOW` is in both and is read as SQL.
//!
//! Nothing of what flows is read: it is the whole of a database, or of a cluster, with no tables and
//! no columns that policy could name. So each command touches the resource itself, and none of them
//! reaches the target unless policy names the action `postgres:replicate`; and none where columns are
//! masked for the session, since nothing of what flows can be.

use std::sync::Arc;

use bulla_core::{Command, Effects, Fact, Purity, RefusalKind, Touches};
use bulla_sql::Facts;
use bulla_wire::Outputs;
use bytes::Bytes;

use crate::{
    client::Flow,
    machine::{Expect, Machine, Manner},
    reading::{self, Phase, Seen, Transaction},
    refusal::broke,
};

/// A command of a WAL sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    word: &'static str,
    effects: Effects,
    /// It takes copy data.
    takes: bool,
}

const READS: Effects = Effects::READ.with(Effects::SERVER);
const CHANGES: Effects = READS.with(Effects::WRITE);

const fn sender(word: &'static str, effects: Effects, takes: bool) -> Sender {
    Sender { word, effects, takes }
}

const SENDERS: [Sender; 9] = [
    sender("IDENTIFY_SYSTEM", READS, false),
    sender("TIMELINE_HISTORY", READS, false),
    sender("READ_REPLICATION_SLOT", READS, false),
    sender("CREATE_REPLICATION_SLOT", CHANGES, false),
    sender("ALTER_REPLICATION_SLOT", CHANGES, false),
    sender("DROP_REPLICATION_SLOT", CHANGES, false),
    sender("START_REPLICATION", CHANGES, true),
    sender("BASE_BACKUP", CHANGES, false),
    sender("UPLOAD_MANIFEST", CHANGES, true),
];

/// The command of a WAL sender that a text is, if it is one.
pub fn sender_of(text: &str) -> Option<Sender> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    let of_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii();
    let end = text.find(|c| !of_word(c)).unwrap_or(text.len());
    let word = text.get(..end)?;
    SENDERS.into_iter().find(|sender| sender.word.eq_ignore_ascii_case(word))
}

/// The value of `replication` in a startup message: the kind that is asked for, or none; `Err` is
/// none that the server takes.
pub fn kind(value: &str) -> Result<Option<&'static str>, ()> {
    match value {
        "database" => Ok(Some("database")),
        "true" | "on" | "yes" | "1" => Ok(Some("true")),
        "false" | "off" | "no" | "0" => Ok(None),
        _ => Err(()),
    }
}

/// What policy has to permit before such a connection is opened.
pub fn opening() -> Option<Command> {
    command("REPLICATION", "replication", READS, Transaction::Idle, "".into())
}

fn command(
    tag: &'static str,
    shown: &str,
    effects: Effects,
    transaction: Transaction,
    settings: Arc<str>,
) -> Option<Command> {
    let mut command = reading::command(Seen {
        phase: Phase::Simple,
        shown: shown.into(),
        facts: &Facts::default(),
        deferred: &[],
        missing: None,
        parameters: Arc::default(),
        parameters_known: true,
        transaction,
        settings,
    })?;
    command.action = reading::action("replicate")?;
    command.effects = effects;
    command.purity = Purity::Effect;
    command.touches = Touches::Known(Vec::new());
    command.facts.insert("tag", Fact::Text(tag.into()));
    Some(command)
}

impl Machine {
    /// Judges a command of a WAL sender. Its answer may flow both ways until both ends have ended it.
    pub fn sender(
        &mut self,
        sender: Sender,
        text: &str,
        whole: &Bytes,
        out: &mut Outputs,
    ) -> Result<Flow, bulla_wire::Violation> {
        if self.hides() {
            let words = "refused: replication shows columns that are masked for you";
            let hint = "have it done by a principal who may see them";
            let refusal = reading::principle(RefusalKind::Denied, words.into(), hint);
            return self.refuse(whole, Manner::Simple, refusal, None, out);
        }
        let settings = self.settings(&[]);
        let command = command(sender.word, text, sender.effects, self.transaction(), settings);
        let command = command.ok_or_else(|| broke("a command without an action"))?;
        let mut judging = self.judging(Manner::Simple, vec![Expect::Query]);
        judging.copies = usize::from(sender.takes);
        self.judge(whole.clone(), command, judging, out);
        Ok(Flow::Taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_tells_a_senders_command() {
        for (text, word) in [
            ("IDENTIFY_SYSTEM", Some("IDENTIFY_SYSTEM")),
            (" \t\nSTART_REPLICATION SLOT x 0/0", Some("START_REPLICATION")),
            ("start_replication 0/0", Some("START_REPLICATION")),
            ("BASE_BACKUP(LABEL 'x')", Some("BASE_BACKUP")),
            ("BASE_BACKUP; DROP TABLE x", Some("BASE_BACKUP")),
            ("IDENTIFY_SYSTEMS", None),
            ("IDENTIFY_SYSTEM\u{e9}", None),
            ("-- x\nIDENTIFY_SYSTEM", None),
            ("/**/ BASE_BACKUP", None),
            ("SHOW wal_segment_size", None),
            ("SELECT 1", None),
            ("", None),
        ] {
            assert_eq!(sender_of(text).map(|sender| sender.word), word, "{text:?}");
        }
    }

    #[test]
    fn kinds_of_replication() {
        assert_eq!((kind("database"), kind("on")), (Ok(Some("database")), Ok(Some("true"))));
        assert_eq!((kind("off"), kind("TRUE"), kind("")), (Ok(None), Err(()), Err(())));
    }
}
