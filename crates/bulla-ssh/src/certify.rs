//! Certificates for whoever is identified: a public key comes in, a certificate goes out.

use bulla_core::{Principal, Timestamp};
use russh::keys::{PublicKey, ssh_key::HashAlg};

use crate::authority::{Authority, AuthorityError};

/// Longest public key that is read.
pub const KEY_BYTES_MAX: usize = 16 << 10;

/// A certificate, and what the record says of it.
pub struct Minted {
    /// A line as `ssh-keygen` writes it.
    pub line: String,
    pub noted: String,
}

/// Signs the public key in `text`, a line of OpenSSH's form.
pub fn mint(
    authority: &Authority,
    text: &[u8],
    principal: &Principal,
    now: Timestamp,
) -> Result<Minted, String> {
    let text = std::str::from_utf8(text).map_err(|_| "the public key is no text".to_owned())?;
    let public = PublicKey::from_openssh(text.trim())
        .map_err(|_| "send one public key, as it stands in a `.pub` file".to_owned())?;
    let signed = |error: AuthorityError| error.to_string();
    let certificate = authority.client(&public, principal, now).map_err(signed)?;
    let line = certificate.to_openssh().map_err(|error| error.to_string())?;
    let (serial, until) = (certificate.serial(), certificate.valid_before());
    let until = Timestamp(until.saturating_mul(1_000_000_000));
    let print = public.fingerprint(HashAlg::Sha256);
    let noted = format!("minted certificate {serial} for key {print}, good until {until}");
    Ok(Minted { line, noted })
}
