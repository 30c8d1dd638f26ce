//! What in the body of a request would replace its method, found as it streams by. Pure.

use crate::{
    head::Head,
    members::{self, is_like_json},
    multipart::{self, is_multipart},
    wire::Fault,
};

/// Looks through a body in pieces, with bounded memory.
#[derive(Debug)]
pub enum Watch {
    Parts(multipart::Watch),
    Members(Box<members::Watch>),
}

/// For a body of this head, where it could hold such a thing. A form of one part is read whole
/// ([`crate::head::check_form`]).
pub fn of(head: &Head) -> Result<Option<Watch>, Fault> {
    let media = head.media_type().unwrap_or_default();
    Ok(if is_multipart(&media) {
        Some(Watch::Parts(multipart::Watch::default()))
    } else if is_like_json(&media) {
        Some(Watch::Members(Box::new(members::Watch::new(head)?)))
    } else {
        None
    })
}

impl Watch {
    /// Takes the next piece. After an error nothing of it, and nothing more, may go on.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Fault> {
        match self {
            Self::Parts(parts) => parts.push(piece),
            Self::Members(members) => members.push(piece),
        }
    }

    /// The body has ended. After an error its end may not go on.
    pub fn finish(&mut self) -> Result<(), Fault> {
        match self {
            Self::Parts(parts) => parts.finish(),
            Self::Members(members) => members.finish(),
        }
    }
}

/// The refusal that says so.
pub fn fault(why: &str) -> Option<Fault> {
    let mut all = multipart::FAULTS.iter().chain(members::FAULTS);
    all.find(|fault| fault.why == why).copied()
}
