//! Commands: what one judged unit of work does, read from exact bytes.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;

use crate::ActionName;

/// What a command may do, as a bit set. The numbers are part of the entry format.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Effects(pub u64);

impl Effects {
    pub const NONE: Self = Self(0);
    pub const READ: Self = Self(1);
    pub const WRITE: Self = Self(1 << 1);
    pub const SCHEMA: Self = Self(1 << 2);
    pub const LOCK: Self = Self(1 << 3);
    pub const SEQUENCE: Self = Self(1 << 4);
    pub const SETTINGS: Self = Self(1 << 5);
    pub const TRANSACTION: Self = Self(1 << 6);
    pub const NOTIFY: Self = Self(1 << 7);
    /// Reaches the server itself: files, programs, roles, configuration.
    pub const SERVER: Self = Self(1 << 8);
    /// Runs code that the gateway cannot see.
    pub const OPAQUE: Self = Self(1 << 9);
    /// The reading is in doubt. Policy must name it to allow it.
    pub const UNKNOWN: Self = Self(1 << 10);

    const NAMES: [(Self, &'static str); 11] = [
        (Self::READ, "read"),
        (Self::WRITE, "write"),
        (Self::SCHEMA, "schema"),
        (Self::LOCK, "lock"),
        (Self::SEQUENCE, "sequence"),
        (Self::SETTINGS, "settings"),
        (Self::TRANSACTION, "transaction"),
        (Self::NOTIFY, "notify"),
        (Self::SERVER, "server"),
        (Self::OPAQUE, "opaque"),
        (Self::UNKNOWN, "unknown"),
    ];

    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    pub fn names(self) -> Vec<&'static str> {
        Self::NAMES.iter().filter(|(bit, _)| self.has(*bit)).map(|(_, name)| *name).collect()
    }
}

impl fmt::Debug for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.names().join("+"))
    }
}

/// Which columns a touch concerns.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Columns {
    /// The notion does not apply (a function, a setting) or no column is named.
    NotApplicable,
    Known(Vec<Arc<str>>),
    All,
    Unknown,
}

/// One thing within a resource that a command reaches, and how.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Touch {
    /// How it is reached, as an action of its own: `postgres:select` on one table of a join,
    /// `postgres:insert` on another.
    pub action: ActionName,
    /// A kind that the protocol's descriptor declares: `table`, `function`, `setting`.
    pub kind: &'static str,
    /// The path within the resource: `public.payments`.
    pub path: Arc<str>,
    pub columns: Columns,
}

impl fmt::Display for Touch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.action, self.kind, self.path)
    }
}

impl Command {
    /// The verb for people: `UPDATE`, `createRefund`.
    pub fn verb(&self) -> String {
        let action = self.action.as_str();
        let verb = action.split_once(':').map_or(action, |(_, verb)| verb);
        match self.spelling {
            Spelling::Capitals => verb.to_uppercase(),
            Spelling::AsWritten => verb.to_owned(),
        }
    }
    /// It only makes ready what a later command runs, and that is judged again: nobody has to
    /// approve it. Said by the fact `phase`, where a protocol has such steps.
    pub fn prepares(&self) -> bool {
        let phase = self.facts.get("phase");
        matches!(phase, Some(Fact::Text(phase)) if matches!(&**phase, "parse" | "bind"))
    }
}

/// What a command reaches. "Touches nothing" is `Known(vec![])`.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Touches {
    Known(Vec<Touch>),
    /// Could not tell. `seen` is what was recognised all the same.
    Unknown {
        why: Arc<str>,
        seen: Vec<Touch>,
    },
}

impl Touches {
    pub fn seen(&self) -> &[Touch] {
        match self {
            Self::Known(touches) | Self::Unknown { seen: touches, .. } => touches,
        }
    }
}

/// Whether a command may be sent while its intent is still being made durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Purity {
    /// Proven to have no effect: nobody but the client can ever see that it ran.
    Read,
    Effect,
}

/// A bound value, decoded for the record. Display only; the exact bytes are evidence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parameter {
    /// `$1`, or the parameter's name.
    pub name: Arc<str>,
    /// The protocol's name or number of the type; empty when unknown.
    pub kind: Arc<str>,
    pub value: ParameterValue,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ParameterValue {
    Null,
    Text(Arc<str>),
    /// Could not be decoded to text: kept as bytes.
    Bytes(Bytes),
    /// Too large to keep inline: its bytes are evidence of the same command.
    Large {
        bytes: u64,
    },
}

/// A fact for policy's context and for the record.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Fact {
    Text(Arc<str>),
    Flag(bool),
    Number(i64),
    Set(Vec<Arc<str>>),
}

/// How people are shown the verb of an action.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Spelling {
    /// A word of the protocol: `UPDATE`.
    Capitals,
    /// A name that somebody gave: `createRefund`.
    AsWritten,
}

/// One judged unit of work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// The command's own action; a touch may name another.
    pub action: ActionName,
    /// How its verb is shown.
    pub spelling: Spelling,
    pub effects: Effects,
    pub touches: Touches,
    /// What it does to the resource as a whole and no touch says: each needs a permit of its own,
    /// so that nothing hides behind what a command does besides.
    pub also: Vec<ActionName>,
    /// What its touches reach in turn, such as the tables that a view reads. The name that was
    /// used is what needs a permit; these only must not be forbidden.
    pub beneath: Vec<Touch>,
    pub purity: Purity,
    /// The command as a person should read it: the exact statement text.
    pub shown: Arc<str>,
    pub parameters: Arc<[Parameter]>,
    /// Facts that the protocol's descriptor declares. Absent ones are absent in policy too.
    pub facts: BTreeMap<&'static str, Fact>,
    /// Settings of the session that change what the same bytes mean (search path, role,
    /// transaction state). Part of an approval's digest.
    pub settings: Arc<str>,
}

/// A payload together with the reading that policy judges. One constructor, so that the two cannot
/// drift apart; only the gate takes it apart again.
#[derive(Debug)]
pub struct Draft<T> {
    payload: T,
    command: Command,
}

impl<T> Draft<T> {
    pub fn new(payload: T, command: Command) -> Self {
        Self { payload, command }
    }
    pub fn command(&self) -> &Command {
        &self.command
    }
    pub fn payload(&self) -> &T {
        &self.payload
    }
    pub fn into_parts(self) -> (T, Command) {
        (self.payload, self.command)
    }
}

/// A payload whose exact bytes can be recorded and bound by a digest.
pub trait Canonical {
    /// The bytes that will be sent, exactly.
    fn canonical(&self) -> Bytes;
}

impl Canonical for Bytes {
    fn canonical(&self) -> Bytes {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_join_and_name() {
        let both = Effects::READ.with(Effects::LOCK);
        assert!(both.has(Effects::LOCK) && !both.has(Effects::WRITE));
        assert_eq!(both.names(), ["read", "lock"]);
        assert!(Effects::NONE.names().is_empty());
    }
}
