//! The verified *who*: with how, by whom and when it was verified.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use crate::{Digest, PrincipalId, Timestamp};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum PrincipalKind {
    Workload,
    Human,
}

impl PrincipalKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Human => "human",
        }
    }
}

/// An attribute that an issuer's record maps from a claim. Nothing else reaches policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Attribute {
    Text(Arc<str>),
    Flag(bool),
    Number(i64),
    Set(Vec<Arc<str>>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum CredentialKind {
    Jwt,
    ClientCertificate,
    /// A certificate of the gateway's own, minted for a principal that it had verified.
    Minted,
}

impl CredentialKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::ClientCertificate => "mtls",
            Self::Minted => "minted",
        }
    }
}

/// How a principal was verified. Never the credential itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proof {
    pub kind: CredentialKind,
    /// SHA-256 of the token or of the certificate: finds a credential again, reveals nothing.
    pub hash: Digest,
    /// SHA-256 of `jti`, where there is one.
    pub jti: Option<Digest>,
    /// The last 4 characters of the signing key's id.
    pub kid_tail: Option<Arc<str>>,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    pub verified_at: Timestamp,
    /// Bound to a key that the client proved to hold on this very connection.
    pub bound: bool,
    /// Verified with keys that could not be refreshed from the issuer.
    pub jwks_stale: bool,
}

/// A verified identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Principal {
    pub id: PrincipalId,
    pub kind: PrincipalKind,
    /// The issuer's URL, or the SPIFFE trust domain.
    pub issuer: Arc<str>,
    /// `team:billing`; snapshotted, so that a replay a year later decides the same.
    pub groups: Vec<Arc<str>>,
    pub attributes: BTreeMap<Arc<str>, Attribute>,
    pub proof: Proof,
}

/// Where a connection came from and how it is protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub address: IpAddr,
    pub port: u16,
    /// `TLSv1.3`; empty before TLS.
    pub tls: Arc<str>,
    /// Subject-alternative certificate presented by the client, verified by TLS against the trust
    /// bundle: DER of the leaf. Identity reads it; nothing else does.
    pub certificate: Option<Arc<[u8]>>,
}
