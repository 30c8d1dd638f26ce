//! How refusals, holds and endings are said, and the constants that keep a refusal from leaving
//! half a transaction behind.

use bulla_core::{Refusal, RefusalKind};
use bulla_wire::{HoldNotice, Violation};
use bytes::{Bytes, BytesMut};

use crate::{
    ask::constant,
    frame::{self, Said},
};

const POISON_BODY: &[u8] = b"bulla refused\0bulla: refused by the gateway\0\0\0";

/// A Parse whose text can never parse: the server fails it, and with it whatever transaction is
/// open, and skips to the next Sync. If an earlier message has failed, it is skipped itself: either
/// way there is exactly one error, and one Sync ends it. It is named so that it does not drop the
/// unnamed statement, and since it fails the name is never taken.
pub const POISON: &[u8] = &constant::<{ POISON_BODY.len() + 5 }>(b'P', POISON_BODY);

pub const SYNC: &[u8] = &constant::<5>(b'S', b"");
pub const FLUSH: &[u8] = &constant::<5>(b'H', b"");

/// SQLSTATE of a refusal.
pub fn code(refusal: &Refusal) -> &'static str {
    match refusal.kind {
        RefusalKind::Denied | RefusalKind::Rejected | RefusalKind::HoldUnavailable => "42501",
        RefusalKind::HoldExpired | RefusalKind::Withdrawn => "57014",
        // With a position it is the text's fault; otherwise it may be fine and is not certain.
        RefusalKind::Unreadable if refusal.position.is_some() => "42601",
        RefusalKind::Unreadable => "42501",
        RefusalKind::TooLarge => "54000",
        RefusalKind::NotSupported => "0A000",
        RefusalKind::Recorder => "58030",
        RefusalKind::Expired => "28000",
        RefusalKind::Ended => "57P01",
        RefusalKind::Bug => "XX000",
    }
}

/// A refusal as ERROR; `code` where the server has a code of its own for it.
pub fn error(refusal: &Refusal, own: Option<&'static str>) -> Bytes {
    say("ERROR", own.unwrap_or_else(|| code(refusal)), refusal)
}

/// The last words of a session.
pub fn fatal(refusal: &Refusal) -> Bytes {
    // Sessions that end because of time or an operator look alike to pools: connect again.
    let code = if refusal.kind == RefusalKind::Expired { "57P01" } else { code(refusal) };
    say("FATAL", code, refusal)
}

fn say(severity: &str, code: &str, refusal: &Refusal) -> Bytes {
    let detail = refusal.detail();
    let said = Said {
        severity,
        code,
        message: &refusal.message,
        detail: Some(&detail),
        hint: Some(&refusal.hint),
        position: refusal.position,
    };
    let mut out = BytesMut::new();
    said.put(&mut out, b'E');
    out.freeze()
}

/// The notice that a command waits.
pub fn held(notice: &HoldNotice) -> Bytes {
    let groups = match notice.groups.as_slice() {
        [one] => format!("group {one}"),
        more => format!("groups {}", more.join(", ")),
    };
    let (id, quorum) = (&notice.id, notice.quorum);
    let message = format!("bulla: waiting for approval {id} ({quorum} of {groups})");
    let hint = format!("bulla approvals show {id}");
    let said = Said {
        severity: "NOTICE",
        code: "ZA001",
        message: &message,
        detail: None,
        hint: Some(&hint),
        position: None,
    };
    let mut out = BytesMut::new();
    said.put(&mut out, b'N');
    out.freeze()
}

/// The other side broke the protocol: FATAL 08P01.
pub fn broke(why: impl Into<std::borrow::Cow<'static, str>>) -> Violation {
    let why = why.into();
    let answer = frame::fatal("08P01", &format!("protocol violation: {why}"), None);
    Violation { why, answer }
}

impl From<crate::message::Malformed> for Violation {
    fn from(error: crate::message::Malformed) -> Self {
        broke(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_whole_messages() {
        for (bytes, kind) in [(POISON, b'P'), (SYNC, b'S'), (FLUSH, b'H')] {
            let head = frame::head(bytes).unwrap().unwrap();
            assert_eq!((head.kind, head.total()), (kind, bytes.len()));
            let body = bytes.get(frame::HEADER_BYTES..).unwrap();
            assert!(crate::message::client(kind, body).is_ok());
        }
    }

    #[test]
    fn the_poison_can_never_parse() {
        let analyzer = bulla_sql::Analyzer::new(bulla_sql::Limits::default()).unwrap();
        let text = |bytes: &'static [u8]| match crate::message::client(bytes[0], &bytes[5..]) {
            Ok(crate::message::Client::Parse { text, .. }) => text.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(analyzer.normalise(&text(POISON), &|wait| wait()).is_err());
    }
}
