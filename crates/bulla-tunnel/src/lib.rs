//! The tunnel between a gateway and its agents: the target's network needs no open port, and the
//! target's secret stays there.
//!
//! An agent stands beside targets. It dials out to each of its gateways and then *serves*: over one
//! TLS connection the gateway opens streams, and each stream is a target that the agent has dialled
//! and logged in to. Inside it is HTTP/2 with the roles turned round, which brings flow control for
//! each stream, `PING` and `RST_STREAM`. The format is in `docs/formats/tunnel.md`.
//!
//! It is *not* where anything is judged or recorded. What runs through a stream was cleared by the
//! gate, and what comes back is recorded, exactly as for a target that is dialled directly.
//!
//! Invariants:
//! - **An agent asks for nothing.** On a tunnel only the gateway opens streams; what an agent can
//!   send without being asked is ignored or ends the tunnel.
//! - **The agent has the last word.** It dials what its own configuration names, by name; no
//!   address ever comes through the tunnel.
//! - **Who an agent is stands in its certificate, and what it may serve in the gateway's roster.**
//!   What it says about itself opens nothing.
//! - **A stalled stream slows no other**: the window of the connection exceeds the sum of all the
//!   windows of its streams.
//! - **Nothing before its entry**: enrolment, renewal, a tunnel and a revocation are on record
//!   before they have an effect.
//!
//! | file | holds |
//! |---|---|
//! | `message` | what the two sides say to each other, bounded and checked |
//! | `token` | join tokens |
//! | `authority` | the gateway's internal authority: certificates of a day |
//! | `roster` | who may serve what: enrolments, tokens, revocations; on disk |
//! | `door` | the gateway's listener: enrol, renew, tunnel |
//! | `fleet` | live tunnels: choose, open, fail over |
//! | `stream` | one stream as `AsyncRead + AsyncWrite` |
//! | `agent` | the agent: keep a tunnel to each gateway, serve targets |
//! | `keeper` | the agent's identity: enrol, renew, keep on disk |
//! | `dial` | from the agent to the gateway: proxy, TLS, the authority's pin |
//! | `private` | files that only their owner reads |

mod agent;
mod authority;
mod dial;
mod door;
mod fleet;
mod gather;
mod keeper;
mod message;
mod private;
mod roster;
mod stream;
mod token;

use std::time::Duration;

pub use agent::{
    AgentConfig, AgentStatus, GatewayConfig, LinkStatus, Reached, TargetError, TargetInfo, Targets,
    Wired, run as run_agent,
};
pub use authority::{Authority, AuthorityError, Old};
pub use dial::{Pin, Proxy};
pub use door::{Door, DoorConfig, Identities, Notes, Rule};
pub use fleet::{Fleet, Joined, OpenError, TunnelView, Wanted};
pub use keeper::Enrolment;
pub use message::{CAPABILITIES, clip};
pub use private::folder as private_folder;
pub use roster::{InstanceId, InstanceView, Roster, RosterError};
pub use stream::TunnelStream;
pub use token::{JoinToken, TOKEN_TTL_MAX};

/// ALPN names: what a connection to the gateway's port for agents is for.
pub mod alpn {
    /// HTTP/2, the gateway being its client.
    pub const TUNNEL: &[u8] = b"bulla-tunnel/1";
    /// One request for a certificate, with a join token or another identity.
    pub const ENROL: &[u8] = b"bulla-enrol/1";
    /// One request for the next certificate, with the present one.
    pub const RENEW: &[u8] = b"bulla-renew/1";
}

/// The name in every gateway's certificate toward agents. The pinned authority is what tells
/// gateways apart, so that addresses may change.
pub const GATEWAY_NAME: &str = "gateway.bulla.internal";

/// Longest life of an agent's certificate.
pub const CERTIFICATE_TTL_MAX: Duration = Duration::from_secs(24 * 3_600);

/// What one stream may have under way in one direction.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// What one tunnel may have under way; the most that HTTP/2 can say.
pub(crate) const TUNNEL_WINDOW_BYTES: u32 = (1 << 31) - 1;
/// Streams of one tunnel. Times the window of each it stays below the tunnel's window.
pub(crate) const STREAMS_MAX: u32 = 2_000;
const _: () =
    assert!(STREAMS_MAX as u64 * (STREAM_WINDOW_BYTES as u64) < TUNNEL_WINDOW_BYTES as u64);
/// What a stream may hold of what it was given to send.
pub(crate) const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// Large enough for bulk, small enough that one frame keeps nobody else waiting.
pub(crate) const FRAME_BYTES_MAX: u32 = 64 * 1024;
/// Headers of a request: there are hardly any.
pub(crate) const HEADERS_BYTES_MAX: u32 = 8 * 1024;
/// Time for a handshake and for each message of one.
pub(crate) const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
