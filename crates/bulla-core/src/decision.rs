//! The pure answer of policy. A decision is not leave to send: only the gate gives that.

use std::sync::Arc;

use crate::Digest;

/// Which policies decided, out of which bundle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Because {
    pub policies: Vec<Arc<str>>,
    pub bundle: Digest,
}

/// Why a command is denied. Each has a public sentence of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DenyReason {
    /// No policy permits `action` on `what`, a part of the command: `orders.public.x`.
    NoPermit { what: Arc<str>, action: Arc<str> },
    /// A `forbid` applies to `what`.
    Forbidden { what: Arc<str> },
    /// A policy could not be evaluated.
    Error,
    /// A policy demands what this gateway cannot do for this command.
    CannotHonour { obligation: Arc<str> },
}

impl DenyReason {
    /// The public sentence: what, for whom, which rule.
    pub fn public(&self, verb: &str, what: &str, who: &str, because: &Because) -> String {
        let named =
            because.policies.iter().map(|p| format!("`{p}`")).collect::<Vec<_>>().join(", ");
        match self {
            Self::NoPermit { what, action } => {
                // A `SELECT … FOR UPDATE` may lack the lock alone: say what a permit must name.
                let short = action.split_once(':').map_or("", |(_, verb)| verb);
                let lacks = if short.eq_ignore_ascii_case(verb) {
                    "it".into()
                } else {
                    format!("`{action}` there")
                };
                format!(
                    "refused: `{verb}` on `{what}` is not allowed for `{who}` \
                     (no policy permits {lacks})"
                )
            }
            Self::Forbidden { what } => {
                format!("refused: `{verb}` on `{what}` is forbidden for `{who}` (policy {named})")
            }
            Self::Error if named.is_empty() => format!("refused: {what} cannot be decided"),
            Self::Error => format!("refused: {what} cannot be decided (policy {named} failed)"),
            Self::CannotHonour { obligation } => {
                format!(
                    "refused: policy {named} demands `{obligation}`, which cannot be kept for {what}"
                )
            }
        }
    }
}

/// Durability of the record, as the resource is configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub enum Mode {
    /// Intent durable before effect, evidence durable before release.
    #[default]
    Strict,
    /// Released ahead of durability by at most a stated number of bytes and milliseconds.
    Bounded,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Bounded => "bounded",
        }
    }
}

/// What an allowed command owes. One that cannot be honoured turns the Allow into a Deny.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Obligations {
    pub rows_max: Option<u64>,
    pub bytes_max: Option<u64>,
    /// Names of channels to tell.
    pub notify: Vec<Arc<str>>,
    /// Obligations that this version knows by name only. The gate refuses each.
    pub unknown: Vec<Arc<str>>,
}

impl Obligations {
    /// The stricter of the two, field by field.
    #[must_use]
    pub fn join(mut self, other: &Self) -> Self {
        let least = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.rows_max = least(self.rows_max, other.rows_max);
        self.bytes_max = least(self.bytes_max, other.bytes_max);
        for name in &other.notify {
            if !self.notify.contains(name) {
                self.notify.push(name.clone());
            }
        }
        for name in &other.unknown {
            if !self.unknown.contains(name) {
                self.unknown.push(name.clone());
            }
        }
        self
    }
}

/// Who must approve, and for how long the command may wait.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HoldTerms {
    /// Every group whose approval is needed.
    pub groups: Vec<Arc<str>>,
    pub quorum: u32,
    pub expires_ms: u64,
}

impl HoldTerms {
    /// Two policies hold the same command: every group, the larger quorum, the shorter time.
    #[must_use]
    pub fn join(mut self, other: &Self) -> Self {
        for group in &other.groups {
            if !self.groups.contains(group) {
                self.groups.push(group.clone());
            }
        }
        self.quorum = self.quorum.max(other.quorum);
        self.expires_ms = self.expires_ms.min(other.expires_ms);
        self
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    Allow { because: Because, owe: Obligations },
    Hold { because: Because, owe: Obligations, terms: HoldTerms },
    Deny { because: Because, reason: DenyReason },
}

impl Decision {
    pub fn because(&self) -> &Because {
        match self {
            Self::Allow { because, .. }
            | Self::Hold { because, .. }
            | Self::Deny { because, .. } => because,
        }
    }
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Allow { .. } => "allow",
            Self::Hold { .. } => "hold",
            Self::Deny { .. } => "deny",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joining_takes_the_stricter() {
        let a = Obligations { rows_max: Some(10), ..Default::default() };
        let b = Obligations { rows_max: Some(5), bytes_max: Some(7), ..Default::default() };
        let joined = a.join(&b);
        assert_eq!((joined.rows_max, joined.bytes_max), (Some(5), Some(7)));
        let terms = |group: &str, quorum, expires_ms| HoldTerms {
            groups: vec![group.into()],
            quorum,
            expires_ms,
        };
        let joined = terms("dba", 1, 900).join(&terms("owner", 2, 60));
        assert_eq!((joined.groups.len(), joined.quorum, joined.expires_ms), (2, 2, 60));
    }
}
