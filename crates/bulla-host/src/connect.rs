//! The way to a target, as a hosted protocol sees it: a byte stream, and the secret to use on it.

use std::sync::Arc;

use bulla_core::{Boxed, Secret};

use crate::Stream;

/// A stream to a target.
pub struct Dialled {
    pub stream: Box<dyn Stream>,
    /// The protocol name that the target chose (RFC 7301); none without TLS.
    pub alpn: Option<Arc<str>>,
    /// Whether the stream is protected.
    pub tls: bool,
}

/// A stream to a target beside which an agent stands that vouches for us.
pub struct Vouched {
    pub stream: Box<dyn Stream>,
    /// What the agent says; the protocol's own words, and never more than an agent's words.
    pub told: Vec<(String, String)>,
    /// Names the stream to its agent, for [`Connector::sign`].
    pub handle: Vec<u8>,
}

/// Why a target is not reached. For operators; the client learns only that it is not.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("no target is configured for `{0}`")]
    NoTarget(String),
    #[error("dial {0}: {1}")]
    Dial(String, std::io::Error),
    #[error("TLS with {0}: {1}")]
    Tls(String, std::io::Error),
    #[error("read the secret of `{0}`: {1}")]
    Secret(String, std::io::Error),
    #[error("{0} did not answer in time")]
    TimedOut(String),
    /// The way through an agent.
    #[error("{detail}")]
    Agent { detail: String, public: Option<String> },
}

impl DialError {
    /// What a client may know of it, beyond that the target is not reached.
    pub fn public(&self) -> Option<&str> {
        match self {
            Self::Agent { public, .. } => public.as_deref(),
            Self::NoTarget(_)
            | Self::Dial(..)
            | Self::Tls(..)
            | Self::Secret(..)
            | Self::TimedOut(_) => None,
        }
    }
}

/// Reaches targets. No protocol knows whether directly or through an agent.
pub trait Connector: Send + Sync {
    /// A fresh stream, after TLS where the target is configured with it. `alpn`: the names to
    /// offer, best first; none offers nothing.
    fn dial<'a>(
        &'a self,
        resource: &'a str,
        alpn: &'a [&'static str],
    ) -> Boxed<'a, Result<Dialled, DialError>>;
    /// The target did not take its secret: what was kept of it is no good.
    fn spoiled(&self, resource: &str) {
        let _ = resource;
    }
    /// The target's secret, read afresh, so that it can be rotated in place.
    fn secret<'a>(&'a self, resource: &'a str)
    -> Boxed<'a, Result<Option<Arc<Secret>>, DialError>>;
    /// A fresh stream to a target that an agent reaches, with what the agent says of it. `wishes`:
    /// the protocol's own words, for the agent.
    fn vouched<'a>(
        &'a self,
        resource: &'a str,
        wishes: Vec<(String, String)>,
    ) -> Boxed<'a, Result<Vouched, DialError>> {
        let _ = wishes;
        Box::pin(async move { Err(DialError::NoTarget(resource.into())) })
    }
    /// Asks the agent of a stream to sign what logs in on it.
    fn sign<'a>(
        &'a self,
        resource: &'a str,
        handle: &'a [u8],
        data: &'a [u8],
    ) -> Boxed<'a, Result<Vec<u8>, DialError>> {
        let _ = (handle, data);
        Box::pin(async move { Err(DialError::NoTarget(resource.into())) })
    }
}
