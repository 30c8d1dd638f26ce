//! A command that will not be sent, with a reason safe to show.

use std::sync::Arc;

use crate::{Digest, EventId};

/// Whom a refusal blames and why. The protocol maps each to its own code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum RefusalKind {
    /// Policy denies it.
    Denied,
    /// An approver rejected it.
    Rejected,
    /// Nobody approved it in time.
    HoldExpired,
    /// The client cancelled or left while it was held.
    Withdrawn,
    /// A hold is needed and cannot be had (approvals are down, or a transaction is open).
    HoldUnavailable,
    /// The command could not be read with certainty.
    Unreadable,
    /// It exceeds a limit of the gateway.
    TooLarge,
    /// The protocol feature is refused on principle.
    NotSupported,
    /// The record cannot be written.
    Recorder,
    /// The session's identity has expired.
    Expired,
    /// The gateway is stopping, or the session was ended by an operator.
    Ended,
    /// The gateway is at fault.
    Bug,
}

impl RefusalKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Rejected => "rejected",
            Self::HoldExpired => "approval_timeout",
            Self::Withdrawn => "withdrawn",
            Self::HoldUnavailable => "approval_unavailable",
            Self::Unreadable => "unreadable",
            Self::TooLarge => "too_large",
            Self::NotSupported => "not_supported",
            Self::Recorder => "recorder_unavailable",
            Self::Expired => "identity_expired",
            Self::Ended => "ended",
            Self::Bug => "internal",
        }
    }
}

/// What the client is told. Every text is safe to show; none holds a value of the data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub kind: RefusalKind,
    /// Names the entry; none when the refusal itself could not be recorded.
    pub event: Option<EventId>,
    /// `` refused: `UPDATE` on `orders.payments` ... ``
    pub message: Arc<str>,
    /// What to do next.
    pub hint: Arc<str>,
    pub policies: Vec<Arc<str>>,
    pub bundle: Option<Digest>,
    /// The approval's id, where one was asked for.
    pub approval: Option<Arc<str>>,
    /// Character position within the command's text, counted from 1.
    pub position: Option<u32>,
}

impl Refusal {
    /// One that names no policy, entry or approval (yet).
    pub fn plain(
        kind: RefusalKind,
        message: impl Into<Arc<str>>,
        hint: impl Into<Arc<str>>,
    ) -> Self {
        Self {
            kind,
            event: None,
            message: message.into(),
            hint: hint.into(),
            policies: Vec::new(),
            bundle: None,
            approval: None,
            position: None,
        }
    }

    /// The machine-readable line: one JSON object, no user text in it.
    pub fn detail(&self) -> String {
        let mut out = format!("{{\"bulla\":\"{}\"", self.kind.as_str());
        if let Some(event) = self.event {
            out.push_str(&format!(",\"event\":\"{event}\""));
        }
        if let Some(bundle) = self.bundle {
            out.push_str(&format!(",\"policies\":\"{}\"", bundle.short(12)));
        }
        if let Some(approval) = &self.approval {
            let safe: String =
                approval.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
            out.push_str(&format!(",\"approval\":\"{safe}\""));
        }
        out.push('}');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detail_is_one_line_of_json() {
        let refusal = Refusal {
            kind: RefusalKind::Denied,
            event: None,
            message: "m".into(),
            hint: "h".into(),
            policies: vec![],
            bundle: Some(Digest([0xab; 32])),
            approval: Some("7F\"3K".into()),
            position: None,
        };
        assert_eq!(
            refusal.detail(),
            r#"{"bulla":"denied","policies":"abababababab","approval":"7F3K"}"#
        );
    }
}
