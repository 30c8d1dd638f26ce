//! The contract for protocols whose wire a library owns: the library reads and writes the client's
//! connection, and everything that matters goes through a [`Door`].
//!
//! A door leads to the same gate, the same recorded sessions and the same tickets as the wires that
//! we parse ourselves. It knows no protocol and no library.
//!
//! Invariants:
//! - **No principal without a credential that was verified for this very origin.**
//! - **No [`Live`] session without a decision that opened it and an open entry that is durable.**
//! - **No close entry before the last ticket**: whoever holds a [`Passage`] holds its session.
//! - **No answer about a resource that tells absent from forbidden.**
//!
//! What the types cannot prove, the protocol's crate must: that it sends to a target nothing but
//! what came out of a [`bulla_gate::Cleared`] or a [`bulla_gate::Released`] (and the target's own
//! credential, which is never recorded), and that it hands the client nothing else either.
//!
//! | file | holds |
//! |---|---|
//! | `lib` | what a hosted protocol is, and how a client arrives |
//! | `door` | identity, the opening of sessions, people turned away |
//! | `live` | a session, its commands, its end |
//! | `connect` | the `Connector` port: byte streams to targets |
//! | `beside` | what an agent does beside such a target |
//! | `roll` | the `Roll` port: the list of live sessions |

mod beside;
mod connect;
mod door;
mod live;
mod roll;

use std::sync::Arc;

use bulla_core::{Boxed, Command, Descriptor, Origin};
use tokio::io::{AsyncRead, AsyncWrite};

pub use beside::{Beside, Keeping, Seal, Vouch};
pub use connect::{Connector, DialError, Dialled, Vouched};
pub use door::{Door, Parts, Rejection};
pub use live::{Live, Passage, Standing};
pub use roll::{Counters, Entrant, Presence, Roll, Tell};

/// A byte stream, whatever protects it.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What a listener does before it hands a connection over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TLS with the gateway's certificate, offering these names (RFC 7301). A client that offers
    /// names and shares none is turned away by TLS itself.
    Tls { alpn: &'static [&'static str] },
    /// Nothing: the protocol protects itself.
    Bare,
}

/// What TLS learned of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// The host name that the client asked for (RFC 6066), in lower case.
    pub server_name: Option<Arc<str>>,
    /// The protocol name that both agreed on.
    pub alpn: Option<Arc<str>>,
}

/// One accepted connection.
pub struct Arrival {
    pub stream: Box<dyn Stream>,
    pub origin: Origin,
    pub tls: TlsFacts,
    /// The resources that share the listener, in the order of their names.
    pub resources: Arc<[Arc<str>]>,
    /// The connection's share of what strangers may hold open. MUST be dropped once somebody was
    /// identified, and not before.
    pub stranger: Box<dyn Send>,
}

/// One hosted protocol, for the registry.
pub trait Hosted: Send + Sync {
    fn descriptor(&self) -> &'static Descriptor;
    fn transport(&self) -> Transport;
    /// Makes ready what serving needs, once, before the first connection.
    fn prepare(&self) -> Result<(), String> {
        Ok(())
    }
    /// Serves one connection to its end. Dropping the future ends it.
    fn serve(self: Arc<Self>, arrival: Arrival, door: Door) -> Boxed<'static, ()>;
    /// Reads a command's text as a request would be, for `policy test` and `policy explain`.
    fn read(&self, resource: &str, text: &str) -> Result<Command, String>;
    /// Completes what was read of `text` by what of the answer may not be seen by whom `reveals`
    /// answers for, and says what would be masked. An error: it would be refused because of masks.
    fn mask(
        &self,
        resource: &str,
        text: &str,
        command: &mut Command,
        reveals: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<String>, String> {
        let _ = (resource, text, command, reveals);
        Ok(Vec::new())
    }
}
