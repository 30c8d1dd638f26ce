//! Temporary folders and ports that no other test uses.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A folder that is removed when this is dropped, unless `BULLA_KEEP` is set.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// # Errors
    /// The folder for temporary files is not writable.
    pub fn new(name: &str) -> Result<Self> {
        let base = std::env::temp_dir();
        for _ in 0..100 {
            let path = base.join(format!("bulla-{name}-{:08x}", random() & 0xffff_ffff));
            match fs::create_dir(&path) {
                Ok(()) => {
                    let mode = fs::Permissions::from_mode(0o755);
                    fs::set_permissions(&path, mode).context("open the folder to read")?;
                    return Ok(Self { path });
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e).with_context(|| format!("create {}", path.display())),
            }
        }
        bail!("no free name in {}", base.display())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file that only its owner can read.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(&path, mode).with_context(|| format!("close {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if std::env::var_os("BULLA_KEEP").is_some() {
            eprintln!("kept: {}", self.path.display());
        } else {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// A loopback TCP port that is reserved among all tests of this user while this lives.
///
/// It lies below the range from which the kernel takes ports for outgoing connections, so that no
/// client can take it between choice and use.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Locked; the kernel unlocks it if this process dies.
    _reserved: File,
}

impl Port {
    /// # Errors
    /// No port is free, which is unlikely.
    pub fn new() -> Result<Self> {
        let home = std::env::temp_dir().join(format!("bulla-ports-{}", user()));
        fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
        let above = first_ephemeral();
        let below = above.saturating_sub(PORTS).max(1024);
        for _ in 0..1000 {
            let offset = random() % u64::from(above - below).max(1);
            let number = below + u16::try_from(offset).unwrap_or_default();
            let file = File::create(home.join(number.to_string())).context("reserve a port")?;
            if file.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _reserved: file });
            }
        }
        bail!("no free port between {below} and {above}")
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}

/// How many ports below the ephemeral range are ours to try.
const PORTS: u16 = 12_000;

/// The first port that the kernel gives to outgoing connections.
fn first_ephemeral() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_whitespace().next().and_then(|first| first.parse().ok());
    first.filter(|first| *first > 2048).unwrap_or(32_768)
}

fn user() -> u32 {
    // SAFETY: takes nothing, touches nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Good enough for names: the standard library seeds its hasher from the kernel.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::thread::current().id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_with_its_guard() {
        let dir = TempDir::new("place").unwrap();
        let file = dir.write("secret", "x").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let path = dir.path().to_path_buf();
        drop(dir);
        assert!(!path.exists());
    }

    #[test]
    fn ports_are_distinct_and_free() {
        let ports: Vec<Port> = (0..50).map(|_| Port::new().unwrap()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), ports.len());
        assert!(numbers.iter().all(|number| *number < first_ephemeral()));
        TcpListener::bind((Ipv4Addr::LOCALHOST, ports[0].number())).unwrap();
    }
}
