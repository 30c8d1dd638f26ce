//! Keys, outside the log: the log's signing key, the key of subject tags, the key that wraps the
//! sessions' data keys, and the wrapped keys themselves.
//!
//! | file in `keys/` | holds |
//! |---|---|
//! | `log.skey` | the Ed25519 key that signs checkpoints; who has it can add lies, not alter |
//! | `log.vkey` | its public half, for verifiers |
//! | `index.key` | key of subject tags; who has it can tell whether a known subject appears |
//! | `kek.key` | wraps data keys; who has it and `sessions/` reads all evidence |
//! | `sessions/<day>.keys` | wrapped data keys of sessions opened on that day since the epoch |
//!
//! A wrapped key is 96 bytes: `bdk1`, mode, 3 zeros, session id (16), the first 8 bytes of the
//! SHA-256 of `bulla/kek` and the wrapping key, ciphertext with tag (48), and the first 16 bytes of
//! the SHA-256 of what stands before. The key under which it is encrypted is derived from the
//! wrapping key for this session alone, so the nonce is zero. Overwriting one record with zeros
//! makes that session unreadable and leaves every proof valid.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf, hmac, rand,
};
use bulla_core::SessionId;
use bulla_tlog::{
    Hash,
    note::{KeyKind, Signer, Vkey},
    seal::{DEK_BYTES, Dek},
};

use crate::vfs::{Access, Privacy, Vfs};

/// Length of one wrapped key.
pub const WRAPPED_BYTES: usize = 96;
const MAGIC: &[u8; 4] = b"bdk1";
/// Wrapped for the gateway itself.
const MODE_GATEWAY: u8 = 0;
const KEY_FILE_BYTES_MAX: u64 = 4_096;
const MS_PER_DAY: u64 = 86_400_000;

/// Why keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("`{}`: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("`{}` is missing or holds no key of this kind", path.display())]
    Malformed { path: PathBuf },
    #[error("the log's key is named `{found}`, the log `{origin}`")]
    Origin { found: String, origin: String },
    #[error("the origin `{0}` cannot name a key")]
    Name(String),
    #[error("there is no key of session {0}: it was erased, or is not in this directory")]
    Missing(SessionId),
    #[error("the key of session {0} was wrapped under another key")]
    OtherKek(SessionId),
    #[error("the cryptographic library failed")]
    Crypto,
}

pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut out = [0; N];
    rand::fill(&mut out).map_err(|_| io::Error::other("no randomness"))?;
    Ok(out)
}

/// A wrapped data key as it is stored.
pub(crate) type Wrapped = [u8; WRAPPED_BYTES];

/// The session that a stored record is of; none if it is none, or was erased.
pub(crate) fn wrapped_session(record: &[u8]) -> Option<SessionId> {
    let (head, check) = record.split_at_checked(WRAPPED_BYTES - 16)?;
    let good = record.len() == WRAPPED_BYTES
        && head.starts_with(MAGIC)
        && Hash::of(head).0.get(..16) == Some(check);
    let sid = head.get(8..24)?.try_into().ok()?;
    good.then_some(SessionId(sid))
}

/// The key that wraps data keys. Overwritten when dropped.
pub(crate) struct Kek {
    secret: [u8; 32],
    id: [u8; 8],
}

impl std::fmt::Debug for Kek {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kek(..)")
    }
}

impl Drop for Kek {
    fn drop(&mut self) {
        self.secret.fill(0);
        // Keeps the store from being optimised away.
        std::hint::black_box(&self.secret);
    }
}

impl Kek {
    pub(crate) fn new(secret: [u8; 32]) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&Hash::of_parts(&[b"bulla/kek", &secret]).0[..8]);
        Self { secret, id }
    }

    fn cipher(&self, session: SessionId) -> Result<LessSafeKey, KeyError> {
        let mut key = [0; 32];
        hkdf::Salt::new(hkdf::HKDF_SHA256, b"bulla/kek")
            .extract(&self.secret)
            .expand(&[b"wrap", &session.0], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut key))
            .map_err(|_| KeyError::Crypto)?;
        let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| KeyError::Crypto)?;
        Ok(LessSafeKey::new(key))
    }

    /// `dek` MUST be the session's only one: the nonce is the same for all of a session.
    pub(crate) fn wrap(&self, session: SessionId, dek: &Dek) -> Result<Wrapped, KeyError> {
        let mut out = [0; WRAPPED_BYTES];
        let mut body = dek.secret().to_vec();
        let aad = Aad::from(session.0);
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let tag = self
            .cipher(session)?
            .seal_in_place_separate_tag(nonce, aad, &mut body)
            .map_err(|_| KeyError::Crypto)?;
        out[..4].copy_from_slice(MAGIC);
        out[4] = MODE_GATEWAY;
        out[8..24].copy_from_slice(&session.0);
        out[24..32].copy_from_slice(&self.id);
        out[32..64].copy_from_slice(&body);
        out[64..80].copy_from_slice(tag.as_ref());
        let check = Hash::of(&out[..80]);
        out[80..].copy_from_slice(&check.0[..16]);
        body.fill(0);
        Ok(out)
    }

    pub(crate) fn unwrap(&self, session: SessionId, wrapped: &Wrapped) -> Result<Dek, KeyError> {
        if wrapped_session(wrapped) != Some(session) {
            return Err(KeyError::Missing(session));
        }
        if wrapped[24..32] != self.id {
            return Err(KeyError::OtherKek(session));
        }
        let mut body = wrapped[32..80].to_vec();
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let plain = self
            .cipher(session)?
            .open_in_place(nonce, Aad::from(session.0), &mut body)
            .map_err(|_| KeyError::OtherKek(session))?;
        let secret: [u8; DEK_BYTES] = (&*plain).try_into().map_err(|_| KeyError::Crypto)?;
        let dek = Dek::new(secret);
        body.fill(0);
        Ok(dek)
    }
}

/// What to do about a key that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The log is new.
    Make,
    /// A log that exists under another key would be another log.
    Refuse,
}

/// The keys of a gateway.
pub(crate) struct Keys {
    pub signer: Signer,
    pub kek: Kek,
    index: hmac::Key,
}

impl Keys {
    pub(crate) fn open(
        vfs: &dyn Vfs,
        dir: &Path,
        origin: &str,
        missing: Missing,
    ) -> Result<Self, KeyError> {
        let io = |error| KeyError::Io { path: dir.to_path_buf(), error };
        vfs.create_dir(dir, Privacy::Private).map_err(io)?;
        vfs.create_dir(&dir.join("sessions"), Privacy::Private).map_err(io)?;
        let skey = read_or_make(vfs, &dir.join("log.skey"), missing, || {
            Signer::secret_text(origin, KeyKind::Ed25519, &random().map_err(io)?)
                .map(|text| text + "\n")
                .map_err(|_| KeyError::Name(origin.into()))
        })?;
        let malformed = |name: &str| KeyError::Malformed { path: dir.join(name) };
        let signer = Signer::parse(skey.trim_end()).map_err(|_| malformed("log.skey"))?;
        if signer.vkey().name() != origin {
            let found = signer.vkey().name().to_owned();
            return Err(KeyError::Origin { found, origin: origin.into() });
        }
        if signer.vkey().kind() != KeyKind::Ed25519 {
            return Err(malformed("log.skey"));
        }
        let vkey = dir.join("log.vkey");
        let text = format!("{}\n", signer.vkey());
        if read(vfs, &vkey)?.as_deref() != Some(&text) {
            vfs.replace(&vkey, text.as_bytes(), Privacy::Shared).map_err(io)?;
        }
        let secret = |name: &str| {
            let hex = || Ok(Hash(random().map_err(io)?).to_string() + "\n");
            let text = read_or_make(vfs, &dir.join(name), missing, hex)?;
            Hash::from_hex(text.trim_end()).ok_or_else(|| malformed(name))
        };
        let index = hmac::Key::new(hmac::HMAC_SHA256, &secret("index.key")?.0);
        Ok(Self { signer, kek: Kek::new(secret("kek.key")?.0), index })
    }

    /// Finds a subject's entries; reveals nothing without the key.
    pub(crate) fn subject_tag(&self, principal: &str) -> [u8; 32] {
        let tag = hmac::sign(&self.index, principal.as_bytes());
        let mut out = [0; 32];
        out.copy_from_slice(tag.as_ref());
        out
    }
}

fn read(vfs: &dyn Vfs, path: &Path) -> Result<Option<String>, KeyError> {
    let io = |error| KeyError::Io { path: path.to_path_buf(), error };
    if !vfs.exists(path).map_err(io)? {
        return Ok(None);
    }
    let bytes = vfs.read(path, KEY_FILE_BYTES_MAX).map_err(io)?;
    let malformed = |_| KeyError::Malformed { path: path.to_path_buf() };
    String::from_utf8(bytes).map(Some).map_err(malformed)
}

fn read_or_make(
    vfs: &dyn Vfs,
    path: &Path,
    missing: Missing,
    make: impl FnOnce() -> Result<String, KeyError>,
) -> Result<String, KeyError> {
    if let Some(text) = read(vfs, path)? {
        return Ok(text);
    }
    if missing == Missing::Refuse {
        return Err(KeyError::Malformed { path: path.to_path_buf() });
    }
    let text = make()?;
    let io = |error| KeyError::Io { path: path.to_path_buf(), error };
    vfs.replace(path, text.as_bytes(), Privacy::Private).map_err(io)?;
    Ok(text)
}

/// Reads keys of sessions, wherever their directory was copied to.
#[derive(Debug)]
pub struct KeyReader {
    dir: PathBuf,
    kek: Kek,
    index: hmac::Key,
}

impl KeyReader {
    /// `dir` is a gateway's `keys`, or a copy of it with `kek.key`, `index.key` and `sessions`.
    pub fn open(dir: &Path) -> Result<Self, KeyError> {
        let vfs = crate::vfs::RealVfs;
        let secret = |name: &str| {
            let path = dir.join(name);
            let text = read(&vfs, &path)?;
            let hash = text.and_then(|text| Hash::from_hex(text.trim_end()));
            hash.ok_or(KeyError::Malformed { path })
        };
        let index = hmac::Key::new(hmac::HMAC_SHA256, &secret("index.key")?.0);
        Ok(Self { dir: dir.to_path_buf(), kek: Kek::new(secret("kek.key")?.0), index })
    }

    /// The tag under which a principal's entries are found.
    pub fn subject_tag(&self, principal: &str) -> [u8; 32] {
        let tag = hmac::sign(&self.index, principal.as_bytes());
        let mut out = [0; 32];
        out.copy_from_slice(tag.as_ref());
        out
    }

    pub fn dek(&self, session: SessionId) -> Result<Dek, KeyError> {
        let path = day_file(&self.dir.join("sessions"), session);
        let vfs = crate::vfs::RealVfs;
        let io = |error| KeyError::Io { path: path.clone(), error };
        if !vfs.exists(&path).map_err(io)? {
            return Err(KeyError::Missing(session));
        }
        let file = vfs.open(&path, Access::Read).map_err(io)?;
        let mut found = None;
        each_record(&*file, |record| {
            if wrapped_session(record) == Some(session) {
                found = Some(*record);
            }
        })
        .map_err(io)?;
        self.unwrap(session, &found.ok_or(KeyError::Missing(session))?)
    }

    pub(crate) fn unwrap(&self, session: SessionId, wrapped: &Wrapped) -> Result<Dek, KeyError> {
        self.kek.unwrap(session, wrapped)
    }
}

fn day_of(session: SessionId) -> u64 {
    let mut ms = [0; 8];
    ms[2..].copy_from_slice(&session.0[..6]);
    u64::from_be_bytes(ms) / MS_PER_DAY
}

fn day_file(dir: &Path, session: SessionId) -> PathBuf {
    dir.join(format!("{:06}.keys", day_of(session)))
}

/// Calls `f` with each whole record; returns the length of all of them.
fn each_record(file: &dyn crate::vfs::VfsFile, mut f: impl FnMut(&Wrapped)) -> io::Result<u64> {
    let mut buf = vec![0; WRAPPED_BYTES * 4_096];
    let mut at = 0;
    loop {
        let got = file.pread(&mut buf, at)?;
        let (records, _) = buf.get(..got).unwrap_or_default().as_chunks::<WRAPPED_BYTES>();
        records.iter().for_each(&mut f);
        at += (records.len() * WRAPPED_BYTES) as u64;
        if got < buf.len() {
            return Ok(at);
        }
    }
}

/// Appends wrapped keys to the files of their days.
#[derive(Debug)]
pub(crate) struct KeyStore {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    day: Option<Day>,
}

#[derive(Debug)]
struct Day {
    day: u64,
    file: Box<dyn crate::vfs::VfsFile>,
    len: u64,
    /// Keys that stood in the file when it was opened: recovery hands some out again.
    had: HashSet<[u8; 16]>,
    dirty: bool,
}

impl KeyStore {
    pub(crate) fn new(vfs: Arc<dyn Vfs>, keys_dir: &Path) -> Self {
        Self { vfs, dir: keys_dir.join("sessions"), day: None }
    }

    /// Not durable before [`KeyStore::sync`].
    pub(crate) fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let Some(session) = wrapped_session(record) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a wrapped key"));
        };
        let number = day_of(session);
        if self.day.as_ref().is_none_or(|day| day.day != number) {
            self.sync().map_err(sync_failed)?;
            self.day = Some(self.open_day(number, session)?);
        }
        let Some(day) = &mut self.day else { return Ok(()) };
        if day.had.contains(&session.0) {
            return Ok(());
        }
        day.file.pwrite(record, day.len)?;
        day.len += record.len() as u64;
        day.dirty = true;
        Ok(())
    }

    fn open_day(&self, number: u64, session: SessionId) -> io::Result<Day> {
        let path = day_file(&self.dir, session);
        if !self.vfs.exists(&path)? {
            self.vfs.create(&path, Privacy::Private)?;
        }
        // Also where it is there: whoever made it may not have come to this.
        self.vfs.sync_dir(&self.dir).map_err(sync_failed)?;
        let file = self.vfs.open(&path, Access::Write)?;
        let mut had = HashSet::new();
        let len = each_record(&*file, |record| {
            had.extend(wrapped_session(record).map(|session| session.0));
        })?;
        // A record that was cut short is written again.
        if file.size()? != len {
            file.truncate(len)?;
        }
        Ok(Day { day: number, file, len, had, dirty: false })
    }

    pub(crate) fn sync(&mut self) -> io::Result<()> {
        match &mut self.day {
            Some(day) if day.dirty => {
                day.file.fdatasync()?;
                day.dirty = false;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Whatever the reason, a full disk too: another try would say that all is well.
fn sync_failed(error: io::Error) -> io::Error {
    io::Error::other(format!("sync: {error}"))
}

/// The log's public key out of a `keys` directory.
pub fn log_vkey(keys_dir: &Path) -> Result<Vkey, KeyError> {
    let path = keys_dir.join("log.vkey");
    let text = read(&crate::vfs::RealVfs, &path)?;
    let vkey = text.and_then(|text| Vkey::parse(text.trim_end()).ok());
    vkey.ok_or(KeyError::Malformed { path })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::{
        is_full,
        sim::{Fault, Plan, SimVfs, Survive},
    };

    /// A key whose file or its name could not be made durable is not taken for one that is, by whoever
    /// tries again and by whoever comes after.
    #[test]
    fn a_key_is_durable_or_its_failure_is_final() {
        let kek = Kek::new([1; 32]);
        let wrapped = |day: u64| {
            let at = bulla_core::Timestamp::from_secs(day * MS_PER_DAY / 1_000);
            let session = SessionId::new(at, [3; 10]);
            kek.wrap(session, &Dek::new([9; 32])).unwrap()
        };
        let disk = || {
            let vfs = SimVfs::new();
            let dir = Path::new("/sessions");
            vfs.create_dir(dir, Privacy::Private).unwrap();
            vfs.sync_dir(Path::new("/")).unwrap();
            (KeyStore::new(Arc::new(vfs.clone()), Path::new("/")), vfs)
        };
        // The name: made, and then the process was killed, or the disk full.
        let (mut store, vfs) = disk();
        let fault = Fault::Error(io::ErrorKind::StorageFull);
        vfs.plan(Some(Plan { path: "/sessions".into(), at: 1, fault }));
        let error = store.append(&wrapped(5)).unwrap_err();
        assert!(!is_full(&error), "{error}");
        let mut next = KeyStore::new(Arc::new(vfs.clone()), Path::new("/"));
        next.append(&wrapped(5)).unwrap();
        next.sync().unwrap();
        let vfs = vfs.after_crash(Survive::Nothing);
        assert_eq!(vfs.read(&Path::new("/sessions").join("000005.keys"), 999).unwrap().len(), 96);
        // The bytes, when the next day begins: create, sync of the name, write, and then its sync.
        let (mut store, vfs) = disk();
        vfs.plan(Some(Plan { path: "/sessions".into(), at: 3, fault }));
        store.append(&wrapped(5)).unwrap();
        let error = store.append(&wrapped(6)).unwrap_err();
        assert!(!is_full(&error) && error.to_string().contains("sync"), "{error}");
    }

    #[test]
    fn keys_unwrap_for_their_session_and_key_alone() {
        let kek = Kek::new([1; 32]);
        let (a, b) = (SessionId([3; 16]), SessionId([4; 16]));
        let wrapped = kek.wrap(a, &Dek::new([9; 32])).unwrap();
        assert_eq!(kek.unwrap(a, &wrapped).unwrap().secret(), &[9; 32]);
        assert!(matches!(kek.unwrap(b, &wrapped), Err(KeyError::Missing(_))));
        let other = Kek::new([2; 32]);
        assert!(matches!(other.unwrap(a, &wrapped), Err(KeyError::OtherKek(_))));
        for i in 0..WRAPPED_BYTES {
            let mut changed = wrapped;
            changed[i] ^= 1;
            assert!(kek.unwrap(a, &changed).is_err(), "byte {i}");
        }
        assert_eq!(wrapped_session(&[0; WRAPPED_BYTES]), None);
    }
}
