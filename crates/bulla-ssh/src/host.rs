//! A host as it is configured, and the descriptor of the protocol.

use std::sync::Arc;

use bulla_core::{ActionSpec, Descriptor, FactKind, FactSpec, TouchSpec};
use bulla_mask::Scanner;
use russh::keys::PublicKey;

/// How the gateway logs in at a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TargetLogin {
    /// With a certificate of the gateway's own authority, made for each session.
    #[default]
    Certificate,
    /// With the private key that the secret is.
    Key,
    /// With the password that the secret is.
    Password,
    /// As the agent says that reaches it.
    Agent,
}

/// Who a target may say that it is. At least one of both is needed, here or at its agent: nothing
/// is trusted on first use.
#[derive(Debug, Clone, Default)]
pub struct HostKeys {
    pub pinned: Vec<PublicKey>,
    pub authorities: Vec<PublicKey>,
    /// The name that a host certificate must be good for.
    pub name: String,
}

impl HostKeys {
    pub fn is_empty(&self) -> bool {
        self.pinned.is_empty() && self.authorities.is_empty()
    }
}

/// One host behind the gateway.
#[derive(Debug, Clone)]
pub struct Host {
    pub resource: Arc<str>,
    /// Accounts that clients may ask for.
    pub accounts: Vec<String>,
    pub login: TargetLogin,
    pub keys: HostKeys,
    /// Names of environment variables that go on, besides `LANG` and `LC_*`.
    pub env: Vec<String>,
    /// What is looked for in output; none looks for nothing.
    pub masked: Option<Masked>,
}

/// What is masked in output, for whoever may not see values of a class.
#[derive(Debug, Clone)]
pub struct Masked {
    pub class: String,
    pub scanner: Scanner,
}

impl Host {
    pub fn takes_env(&self, name: &str) -> bool {
        name == "LANG"
            || name.strip_prefix("LC_").is_some_and(|rest| {
                !rest.is_empty() && rest.chars().all(|c| c.is_ascii_uppercase() || c == '_')
            })
            || self.env.iter().any(|own| own == name)
    }
}

const fn action(
    verb: &'static str,
    groups: &'static [&'static str],
    about: &'static str,
) -> ActionSpec {
    ActionSpec { verb, groups, about }
}

const ACTIONS: &[ActionSpec] = &[
    action("exec", &["session"], "run a command line"),
    action("shell", &["session"], "open a shell; what is typed in it is recorded, not judged"),
    action("subsystem", &["session"], "open a subsystem, such as `sftp`"),
    action("download", &["read", "session"], "read a file"),
    action("list", &["read", "session"], "list a folder"),
    action("stat", &["read", "session"], "look at what is known of a file"),
    action("upload", &["write", "session"], "write a file"),
    action("rename", &["write", "session"], "rename a file"),
    action("remove", &["write", "session"], "remove a file or a folder"),
    action("mkdir", &["write", "session"], "make a folder"),
    action("setstat", &["write", "session"], "change what is known of a file: its mode, its owner"),
    action("link", &["write", "session"], "make a link"),
    action("forward", &[], "reach another address through the host"),
];

const fn fact(name: &'static str, kind: FactKind, required: bool, about: &'static str) -> FactSpec {
    FactSpec { name, kind, required, about }
}

const FACTS: &[FactSpec] = &[
    fact("account", FactKind::Text, true, "the account at the host"),
    fact("terminal", FactKind::Flag, true, "a terminal was asked for"),
    fact("env", FactKind::Set, true, "the environment that goes along: `LANG=C`"),
    fact("command", FactKind::Text, false, "the command line, as sent"),
    fact("program", FactKind::Text, false, "its first word, where it is a simple command"),
    fact("args", FactKind::Set, false, "its other words"),
    fact("subsystem", FactKind::Text, false, "the name of the subsystem"),
    fact("transfer", FactKind::Text, false, "`scp`, `rsync`, `git` or `sftp`"),
    fact("path", FactKind::Text, false, "the file"),
    fact("to_path", FactKind::Text, false, "the new name, or what a link points to"),
    fact("host", FactKind::Text, false, "where a forwarded connection goes"),
    fact("port", FactKind::Number, false, "its port"),
];

const TOUCHES: &[TouchSpec] = &[
    TouchSpec { kind: "program", entity: "Program" },
    TouchSpec { kind: "file", entity: "File" },
    TouchSpec { kind: "address", entity: "Address" },
];

/// The protocol.
pub const DESCRIPTOR: Descriptor = Descriptor {
    protocol: "ssh",
    default_port: 2222,
    actions: ACTIONS,
    touches: TOUCHES,
    facts: FACTS,
    honours: &["bytes_max"],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_language_and_what_is_listed_goes_on() {
        let host = Host {
            resource: "web".into(),
            accounts: Vec::new(),
            login: TargetLogin::Certificate,
            keys: HostKeys::default(),
            env: vec!["GIT_PROTOCOL".into()],
            masked: None,
        };
        for (name, goes) in [
            ("LANG", true),
            ("LC_ALL", true),
            ("GIT_PROTOCOL", true),
            ("LC_", false),
            ("LC_x;y", false),
            ("LANGUAGE", false),
            ("LD_PRELOAD", false),
            ("PATH", false),
            ("BASH_ENV", false),
            ("", false),
        ] {
            assert_eq!(host.takes_env(name), goes, "{name}");
        }
    }
}
