//! Why a message goes no further, and what its sender does next. Pure.

/// Why a message is refused. The words are public and hold nothing that the client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Fault {
    pub status: u16,
    pub why: &'static str,
}

impl Fault {
    /// What a client does next.
    pub const fn next(self) -> &'static str {
        match self.status {
            403 => "check the method and the address, or ask the owner of the API to describe it",
            405 | 501 => "use GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS",
            408 => "send the whole request without long pauses",
            413 | 414 | 431 => "send less: docs/http.md says the limits",
            415 => "send the body in plain UTF-8, uncompressed",
            417 => "send no `expect` but `100-continue`",
            421 => "open a connection for that host, and name it in TLS (SNI)",
            500 => "tell the operators of the gateway",
            505 => "use HTTP/1.1 or HTTP/2",
            _ => {
                "send it so that it has one meaning; \"What is refused\" in docs/http.md says more"
            }
        }
    }
}

pub(crate) const fn bad(why: &'static str) -> Fault {
    Fault { status: 400, why }
}
