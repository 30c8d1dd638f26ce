//! What a protocol tells the rest about itself. Policy's schema, `bulla check` and the help texts
//! are made from it, so that no other crate names a protocol.

/// An action of a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActionSpec {
    /// The verb after the colon: `select`.
    pub verb: &'static str,
    /// Groups of actions it belongs to, as verbs of their own: `read`, `write`.
    pub groups: &'static [&'static str],
    pub about: &'static str,
}

/// A kind of thing within a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TouchSpec {
    /// `table`.
    pub kind: &'static str,
    /// The Cedar entity type: `Table`.
    pub entity: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactKind {
    Text,
    Flag,
    Number,
    Set,
}

/// A fact that commands of the protocol carry into policy's context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FactSpec {
    pub name: &'static str,
    pub kind: FactKind,
    /// Always there, so that a policy may use it without `has`.
    pub required: bool,
    pub about: &'static str,
}

/// One protocol, described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// The prefix of its actions and the value of `protocol` in the configuration.
    pub protocol: &'static str,
    pub default_port: u16,
    pub actions: &'static [ActionSpec],
    pub touches: &'static [TouchSpec],
    pub facts: &'static [FactSpec],
    /// Obligations that its wire can honour: `rows_max`, `bytes_max`.
    pub honours: &'static [&'static str],
}

/// Actions of the gateway itself, the same for every protocol.
pub const COMMON_ACTIONS: &[ActionSpec] = &[
    ActionSpec { verb: "connect", groups: &[], about: "open a session on a resource" },
    ActionSpec { verb: "reveal", groups: &[], about: "see values of a class in the clear" },
];

/// The action of [`COMMON_ACTIONS`] that shows values of a class in the clear, and the kind of what
/// it touches. A command that would show such values touches their classes with it.
pub const REVEAL: &str = "reveal";
pub const CLASS_KIND: &str = "class";
