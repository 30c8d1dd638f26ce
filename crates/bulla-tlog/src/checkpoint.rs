//! Checkpoints (C2SP tlog-checkpoint v1.0.0): the signed head of a log's tree.
//!
//! [`SignedCheckpoint`] has one constructor that takes foreign bytes, [`SignedCheckpoint::open`],
//! and it verifies: holding one is the proof that the log signed it.

use std::fmt;

use crate::{
    hash::Hash,
    note::{KeyKind, Note, NoteError, NoteSignature, SignError, Signer, Verified, Vkey},
    tile::decimal,
};

/// Longest origin, in bytes. What ML-DSA cosignatures can name.
pub const ORIGIN_BYTES_MAX: usize = 255;
/// Most extension lines.
pub const EXTENSIONS_MAX: usize = 16;

/// A tree head: what is signed, without the signatures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    origin: String,
    size: u64,
    root: Hash,
    extensions: Vec<String>,
}

/// Why bytes are not a checkpoint, or not one of this log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    #[error("checkpoint: {0}")]
    Note(#[from] NoteError),
    #[error("checkpoint's origin is empty, too long, or holds a control character")]
    Origin,
    #[error("checkpoint's size is not a decimal number without leading zeros")]
    Size,
    #[error("checkpoint's root is not canonical base64 of 32 bytes")]
    Root,
    #[error("checkpoint of an empty tree does not have the empty root")]
    EmptyRoot,
    #[error("checkpoint's extension lines are empty, too many, or hold a control character")]
    Extension,
    #[error("checkpoint lacks a line or its final newline")]
    Form,
    #[error("the log's key has not signed the checkpoint of `{origin}`")]
    NotByLog { origin: String },
}

fn check_line(line: &str) -> bool {
    !line.is_empty() && !line.chars().any(char::is_control)
}

impl Checkpoint {
    pub fn new(origin: &str, size: u64, root: Hash) -> Result<Self, CheckpointError> {
        Self::with_extensions(origin, size, root, vec![])
    }

    /// Extension lines are signed, but no witness vouches for them.
    pub fn with_extensions(
        origin: &str,
        size: u64,
        root: Hash,
        extensions: Vec<String>,
    ) -> Result<Self, CheckpointError> {
        if !check_line(origin) || origin.len() > ORIGIN_BYTES_MAX {
            return Err(CheckpointError::Origin);
        }
        if size == 0 && root != Hash::EMPTY_ROOT {
            return Err(CheckpointError::EmptyRoot);
        }
        if extensions.len() > EXTENSIONS_MAX || !extensions.iter().all(|line| check_line(line)) {
            return Err(CheckpointError::Extension);
        }
        Ok(Self { origin: origin.into(), size, root, extensions })
    }

    /// Reads the text of a note; `parse(x).to_string() == x` for every `x` that it accepts.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let text = text.strip_suffix('\n').ok_or(CheckpointError::Form)?;
        let mut lines = text.split('\n');
        let origin = lines.next().ok_or(CheckpointError::Form)?;
        let size = lines.next().ok_or(CheckpointError::Form)?;
        let root = lines.next().ok_or(CheckpointError::Form)?;
        let size = Some(size)
            .filter(|text| !text.is_empty())
            .and_then(decimal)
            .ok_or(CheckpointError::Size)?;
        let root = Hash::from_base64(root).ok_or(CheckpointError::Root)?;
        let extensions: Vec<String> = lines.take(EXTENSIONS_MAX + 1).map(String::from).collect();
        Self::with_extensions(origin, size, root, extensions)
    }

    pub fn origin(&self) -> &str {
        &self.origin
    }
    pub fn size(&self) -> u64 {
        self.size
    }
    pub fn root(&self) -> Hash {
        self.root
    }
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }

    /// Signs with the log's key, which must be named as the origin.
    pub fn sign(self, signer: &Signer) -> Result<SignedCheckpoint, SignError> {
        if signer.vkey().name() != self.origin {
            return Err(SignError::Origin);
        }
        let text = self.to_string();
        let signature = signer.sign(&text)?;
        let note = Note::new(text, vec![signature])?;
        let by = Verified { key: signer.vkey().clone(), time_s: None };
        Ok(SignedCheckpoint { checkpoint: self, note, verified: vec![by] })
    }
}

/// The text that is signed; ends in a newline.
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, self.root.to_base64())?;
        self.extensions.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// A checkpoint that its log has signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    note: Note,
    verified: Vec<Verified>,
}

impl SignedCheckpoint {
    /// Reads and verifies. At least one of `log` (keys of kind [`KeyKind::Ed25519`] named as the
    /// origin) must have signed; of the `cosigners` any number. A wrong signature of either is an
    /// error, one by an unknown key is ignored.
    pub fn open(bytes: &[u8], log: &[Vkey], cosigners: &[Vkey]) -> Result<Self, CheckpointError> {
        let note = Note::parse(bytes)?;
        let checkpoint = Checkpoint::parse(note.text())?;
        let keys: Vec<Vkey> = log.iter().chain(cosigners).cloned().collect();
        let verified = note.verify(&keys)?;
        let by_log = |by: &Verified| {
            let key = &by.key;
            log.contains(key) && key.kind() == KeyKind::Ed25519 && key.name() == checkpoint.origin
        };
        if !verified.iter().any(by_log) {
            return Err(CheckpointError::NotByLog { origin: checkpoint.origin });
        }
        Ok(Self { checkpoint, note, verified })
    }

    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
    pub fn origin(&self) -> &str {
        &self.checkpoint.origin
    }
    pub fn size(&self) -> u64 {
        self.checkpoint.size
    }
    pub fn root(&self) -> Hash {
        self.checkpoint.root
    }
    /// Every known key that has signed, the log's included.
    pub fn verified(&self) -> &[Verified] {
        &self.verified
    }
    /// The known cosigners and the seconds since the Unix epoch at which each signed.
    pub fn cosigned(&self) -> impl Iterator<Item = (&Vkey, u64)> {
        self.verified.iter().filter_map(|by| by.time_s.map(|time_s| (&by.key, time_s)))
    }
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// Adds a further signature of the log (a key in rotation) or a cosignature, once it has
    /// verified under `key`.
    pub fn add(&mut self, signature: NoteSignature, key: &Vkey) -> Result<(), NoteError> {
        let mut note = self.note.clone();
        note.add(signature.clone()).map_err(|_| NoteError::TooMany)?;
        let alone = Note::new(note.text().into(), vec![signature]).map_err(|_| NoteError::Form)?;
        let by = alone.verify(std::slice::from_ref(key))?;
        self.note = note;
        for one in by {
            if !self.verified.iter().any(|earlier| earlier.key == one.key) {
                self.verified.push(one);
            }
        }
        Ok(())
    }
}

/// The file `checkpoint`, signatures included.
impl fmt::Display for SignedCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.note.fmt(f)
    }
}
