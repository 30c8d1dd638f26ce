//! Proofs that an entry is in a log (C2SP tlog-proof v1): one self-contained text that anybody can
//! check offline with the log's public key.

use std::fmt;

use crate::{
    checkpoint::{CheckpointError, SignedCheckpoint},
    hash::{Hash, decode_base64, encode_base64},
    note::{NOTE_BYTES_MAX, Vkey},
    tile::decimal,
    tree::{
        HashRead, INCLUSION_HASHES_MAX, ProofError, ProveError, prove_inclusion, verify_inclusion,
    },
};

const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// Longest proof, in bytes.
pub const PROOF_BYTES_MAX: usize = 2 * NOTE_BYTES_MAX;

/// A proof as read or built. **Worth nothing before [`LogProof::verify`].**
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogProof {
    extra: Option<Vec<u8>>,
    index: u64,
    hashes: Vec<Hash>,
    /// The signed checkpoint, verbatim.
    checkpoint: String,
}

/// Why bytes are not a proof, or prove nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogProofError {
    #[error("proof is longer than {PROOF_BYTES_MAX} bytes or not UTF-8")]
    Bytes,
    #[error("proof does not begin with `{HEADER}`")]
    Header,
    #[error("proof's extra data is not canonical base64 or is empty")]
    Extra,
    #[error("proof's index is not a decimal number without leading zeros")]
    Index,
    #[error("proof's hash {0} is not canonical base64 of 32 bytes")]
    Hash(usize),
    #[error("proof has too many hashes")]
    TooMany,
    #[error("proof has no checkpoint")]
    NoCheckpoint,
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("entry {index} is not proven: {cause}")]
    Inclusion { index: u64, cause: ProofError },
}

/// Why a proof cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError<E> {
    #[error(transparent)]
    Prove(#[from] ProveError<E>),
    /// The stored hashes, the entry and the checkpoint do not belong together.
    #[error("stored hashes do not lead from the entry to the checkpoint: {0}")]
    Inconsistent(ProofError),
}

impl LogProof {
    /// Builds the proof that `leaf` is at `index` under `checkpoint`, and verifies it, so that a
    /// damaged store never yields a bad proof.
    pub fn build<R: HashRead>(
        read: &mut R,
        checkpoint: &SignedCheckpoint,
        index: u64,
        leaf: &Hash,
    ) -> Result<Self, BuildError<R::Error>> {
        let size = checkpoint.size();
        let hashes = prove_inclusion(read, index, size)?;
        verify_inclusion(leaf, index, size, &hashes, &checkpoint.root())
            .map_err(BuildError::Inconsistent)?;
        Ok(Self { extra: None, index, hashes, checkpoint: checkpoint.to_string() })
    }

    /// Attaches opaque data. Nothing authenticates it.
    #[must_use]
    pub fn with_extra(mut self, extra: Vec<u8>) -> Self {
        self.extra = Some(extra).filter(|extra| !extra.is_empty());
        self
    }

    /// Reads what `Display` writes, and nothing else.
    pub fn parse(bytes: &[u8]) -> Result<Self, LogProofError> {
        let text = Some(bytes)
            .filter(|bytes| bytes.len() <= PROOF_BYTES_MAX)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .ok_or(LogProofError::Bytes)?;
        let mut rest = text;
        if next_line(&mut rest) != Some(HEADER) {
            return Err(LogProofError::Header);
        }
        let mut line = next_line(&mut rest);
        let mut extra = None;
        if let Some(text) = line.and_then(|line| line.strip_prefix("extra ")) {
            let bytes = decode_base64(text).filter(|bytes| !bytes.is_empty());
            extra = Some(bytes.ok_or(LogProofError::Extra)?);
            line = next_line(&mut rest);
        }
        let index = line
            .and_then(|line| line.strip_prefix("index "))
            .filter(|digits| !digits.is_empty())
            .and_then(decimal)
            .ok_or(LogProofError::Index)?;
        let mut hashes = vec![];
        loop {
            let line = next_line(&mut rest).ok_or(LogProofError::NoCheckpoint)?;
            if line.is_empty() {
                break;
            }
            if hashes.len() == INCLUSION_HASHES_MAX {
                return Err(LogProofError::TooMany);
            }
            let hash = Hash::from_base64(line).ok_or(LogProofError::Hash(hashes.len() + 1))?;
            hashes.push(hash);
        }
        Ok(Self { extra, index, hashes, checkpoint: rest.into() })
    }

    /// Not authenticated.
    pub fn extra(&self) -> Option<&[u8]> {
        self.extra.as_deref()
    }
    pub fn index(&self) -> u64 {
        self.index
    }
    pub fn hashes(&self) -> &[Hash] {
        &self.hashes
    }

    /// That the log holds exactly the bytes `entry` at [`LogProof::index`]. `log` and `cosigners`
    /// as for [`SignedCheckpoint::open`]; how many cosignatures are enough is the caller's policy.
    pub fn verify(
        &self,
        entry: &[u8],
        log: &[Vkey],
        cosigners: &[Vkey],
    ) -> Result<SignedCheckpoint, LogProofError> {
        self.verify_leaf(&Hash::leaf(entry), log, cosigners)
    }

    /// As [`LogProof::verify`], for whoever has the leaf hash only.
    pub fn verify_leaf(
        &self,
        leaf: &Hash,
        log: &[Vkey],
        cosigners: &[Vkey],
    ) -> Result<SignedCheckpoint, LogProofError> {
        let signed = SignedCheckpoint::open(self.checkpoint.as_bytes(), log, cosigners)?;
        verify_inclusion(leaf, self.index, signed.size(), &self.hashes, &signed.root())
            .map_err(|cause| LogProofError::Inclusion { index: self.index, cause })?;
        Ok(signed)
    }
}

/// The file, by convention named `*.tlog-proof`.
impl fmt::Display for LogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", encode_base64(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.hashes.iter().try_for_each(|hash| writeln!(f, "{}", hash.to_base64()))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

/// Takes a line and its newline off the front; none if there is no whole line.
fn next_line<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let (line, after) = rest.split_once('\n')?;
    *rest = after;
    Some(line)
}
