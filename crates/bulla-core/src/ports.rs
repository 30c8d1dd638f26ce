//! The other ports: identity, directory, policies, approvals, clock.

use std::{future::Future, pin::Pin, sync::Arc};

use crate::{
    Command, Decision, Digest, HoldTerms, Mode, Origin, Principal, ResourceName, SessionId,
    Timestamp,
};

/// A boxed future, for ports that are trait objects.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Tells the time. The pure middle never asks the system.
pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;
}

/// A secret in memory. Has no `Display`; `Debug` shows nothing of it; zeroed when dropped.
pub struct Secret(Vec<u8>);

impl Secret {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
    /// Whoever calls this must not store, print or record what it gets.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        for byte in &mut self.0 {
            *byte = 0;
        }
        // Keeps the loop above from being removed as a dead store.
        std::hint::black_box(&self.0);
    }
}

/// What a client presents.
#[derive(Debug)]
pub enum Credential {
    /// A bearer token, as sent.
    Token(Secret),
    /// A token, as sent, with a proof that the client holds the key that it names (RFC 9449), and
    /// the request that the proof is for.
    Proven { token: Secret, proof: Secret, method: String, url: String },
    /// The certificate of the TLS handshake, in [`Origin::certificate`].
    Certificate,
    /// A certificate that this gateway minted for somebody whom it had identified, as sent. Whoever
    /// presents it MUST have proven that it holds the certificate's key, on this very connection.
    Minted(Vec<u8>),
}

/// Why an identity is refused. The client is told none of it: unknown and wrong look the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word}: {detail}")]
pub struct IdentityError {
    /// A stable word: `expired`, `bad_signature`, `unknown_issuer`, `malformed`,
    /// `keys_unavailable`.
    pub word: &'static str,
    /// For operators. Never holds a token or a part of one.
    pub detail: Arc<str>,
}

/// Verifies credentials.
pub trait Identity: Send + Sync {
    fn verify<'a>(
        &'a self,
        credential: Credential,
        origin: &'a Origin,
        now: Timestamp,
    ) -> Boxed<'a, Result<Principal, IdentityError>>;
}

/// What happens to a session when the identity that opened it expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expiry {
    /// Checked at login only. A listed exception.
    LoginOnly,
    /// A fresh credential of the same principal, on any connection, extends all its sessions.
    #[default]
    Rebind,
    /// The session ends when the credential that opened it does.
    Strict,
}

/// A resource as the gateway knows it. Its address and credential are not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub name: ResourceName,
    pub protocol: Arc<str>,
    /// Labels and groups for policy, such as `env:prod`.
    pub groups: Vec<Arc<str>>,
    pub mode: Mode,
    pub expiry: Expiry,
    /// A session ends after this time whatever its identity.
    pub session_ms_max: u64,
    /// How long a command may wait for approval inside an open transaction; 0 refuses it.
    pub hold_in_transaction_ms: u64,
}

/// Finds resources by the name that a client asks for.
pub trait Directory: Send + Sync {
    fn find(&self, name: &str) -> Option<Arc<Resource>>;
}

/// The facts of one decision.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub principal: &'a Principal,
    pub resource: &'a Resource,
    /// Part of the resource, such as a database of a cluster.
    pub part: Option<&'a str>,
    pub origin: &'a Origin,
    pub command: &'a Command,
    pub now: Timestamp,
    /// The command has been approved; a policy that only holds is then met.
    pub approved: bool,
}

/// One loaded bundle of policies: immutable, so that one command sees one bundle.
pub trait Policies: Send + Sync {
    /// SHA-256 over the bundle's files.
    fn digest(&self) -> Digest;
    /// Every failure inside is a Deny.
    fn decide(&self, request: &Request<'_>) -> Decision;
    /// Whether a session may open at all.
    fn decide_open(
        &self,
        principal: &Principal,
        resource: &Resource,
        origin: &Origin,
        now: Timestamp,
    ) -> Decision;
    /// Whether a principal may see values of a class in the clear. Whoever does not answer says no.
    fn reveals(&self, request: &RevealRequest<'_>) -> bool {
        let _ = request;
        false
    }
}

/// The facts of one decision about a class of values.
#[derive(Debug, Clone, Copy)]
pub struct RevealRequest<'a> {
    pub principal: &'a Principal,
    pub resource: &'a Resource,
    pub part: Option<&'a str>,
    pub origin: &'a Origin,
    pub now: Timestamp,
    /// `pii.ssn`
    pub class: &'a str,
}

/// Where the current bundle is found. Reloading swaps it whole.
pub trait PolicySource: Send + Sync {
    /// None when the last good bundle is older than its age limit: nothing may open then.
    fn current(&self) -> Option<Arc<dyn Policies>>;
}

/// A request for an approval.
#[derive(Debug, Clone)]
pub struct Ask {
    pub session: SessionId,
    pub number: u64,
    pub at: Timestamp,
    pub principal: Arc<Principal>,
    pub resource: ResourceName,
    pub action: Arc<str>,
    pub shown: Arc<str>,
    pub parameters: Arc<[crate::Parameter]>,
    /// What the command reaches, readable: `select public.payments (id, state)`.
    pub touches: Vec<Arc<str>>,
    pub effects: Vec<&'static str>,
    pub policies: Vec<Arc<str>>,
    /// Of principal, statement bytes, bound values, session settings and policy bundle.
    pub digest: Digest,
    pub terms: HoldTerms,
}

/// How an ask was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Good for one command with exactly this digest.
    Approved {
        by: Arc<str>,
        reason: Option<Arc<str>>,
        digest: Digest,
    },
    Rejected {
        by: Arc<str>,
        reason: Option<Arc<str>>,
    },
    Expired,
    Withdrawn,
}

/// An ask that waits. Dropping it withdraws the ask.
pub trait Asked: Send + Sync {
    /// Short, readable, unique: `7F3K-2Q`.
    fn id(&self) -> Arc<str>;
    fn answer(&mut self) -> Boxed<'_, Answer>;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApprovalError {
    #[error("too many commands are waiting for approval")]
    Full,
    #[error("the approval service is not available: {0}")]
    Down(Arc<str>),
}

/// Where approvals are asked for.
pub trait Approvals: Send + Sync {
    fn ask(&self, ask: Ask) -> Result<Box<dyn Asked>, ApprovalError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        let secret = Secret::new(b"eyJhbGciOi".to_vec());
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }
}
