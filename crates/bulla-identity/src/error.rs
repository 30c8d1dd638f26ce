//! Why a credential is refused. For operators; a client is told none of it.

use std::sync::Arc;

use bulla_core::IdentityError;

/// The stable words of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Word {
    /// Not a compact JWS in strict form, or claims of the wrong type.
    Malformed,
    UnknownIssuer,
    AlgorithmNotAllowed,
    /// The `typ` is not one that this issuer's tokens have.
    WrongType,
    /// The issuer has no such key.
    UnknownKey,
    BadSignature,
    Expired,
    NotYetValid,
    /// `iat` lies in the future, or the lifetime is longer than allowed or not positive.
    BadLifetime,
    WrongAudience,
    MissingClaim,
    ClaimNotAllowed,
    /// Bound to a key that the client did not prove to hold on this connection.
    NotBound,
    /// The issuer's keys were never fetched, or too long ago.
    KeysUnavailable,
    NoCertificate,
    BadCertificate,
    UnknownTrustDomain,
    Bug,
}

impl Word {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownIssuer => "unknown_issuer",
            Self::AlgorithmNotAllowed => "algorithm_not_allowed",
            Self::WrongType => "wrong_type",
            Self::UnknownKey => "unknown_key",
            Self::BadSignature => "bad_signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::BadLifetime => "bad_lifetime",
            Self::WrongAudience => "wrong_audience",
            Self::MissingClaim => "missing_claim",
            Self::ClaimNotAllowed => "claim_not_allowed",
            Self::NotBound => "not_bound",
            Self::KeysUnavailable => "keys_unavailable",
            Self::NoCertificate => "no_certificate",
            Self::BadCertificate => "bad_certificate",
            Self::UnknownTrustDomain => "unknown_trust_domain",
            Self::Bug => "bug",
        }
    }
}

/// A refusal: a word, our own text, and a name from our own configuration where that helps. Never
/// built from what the credential says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub word: Word,
    pub why: &'static str,
    pub name: Option<Arc<str>>,
}

impl Refused {
    pub(crate) fn new(word: Word, why: &'static str) -> Self {
        Self { word, why, name: None }
    }

    /// `name` MUST come from the configuration or from a specification.
    pub(crate) fn claim(word: Word, why: &'static str, name: &str) -> Self {
        Self { word, why, name: Some(name.into()) }
    }

    pub(crate) fn at(self, alias: Option<&str>) -> IdentityError {
        let mut detail = String::new();
        if let Some(alias) = alias {
            detail.push_str(alias);
            detail.push_str(": ");
        }
        detail.push_str(self.why);
        if let Some(name) = self.name {
            detail.push_str(&format!(" `{name}`"));
        }
        IdentityError { word: self.word.as_str(), detail: detail.into() }
    }
}
