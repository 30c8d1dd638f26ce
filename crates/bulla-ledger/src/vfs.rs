//! The file system as the ledger sees it: few operations, each with one meaning for durability, so
//! that a simulated disk can stand in for the real one in tests.
//!
//! Nothing is durable before a sync says so: bytes need [`VfsFile::fdatasync`] (or
//! [`VfsFile::write_durable`]), names need [`Vfs::sync_dir`]. A failed sync is never retried: the
//! kernel may have dropped the pages, and the next sync would succeed without them.

use std::{
    ffi::CString,
    fmt, fs, io,
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, FileExt, OpenOptionsExt},
        },
    },
    path::Path,
};

use crate::aligned::is_aligned;

#[cfg(any(test, feature = "sim"))]
pub mod sim;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    /// Past the page cache where the file system can; buffer, offset and length are then multiples
    /// of 4 KiB.
    ReadDirect,
    /// For reading and writing through the page cache.
    Write,
    /// Each write is durable when it returns, past the page cache where the file system can. Same
    /// alignment as [`Access::ReadDirect`].
    Durable,
}

/// Who may read a file that is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privacy {
    /// The gateway's own user only.
    Private,
    /// As the process's umask says.
    Shared,
}

/// An open file.
pub trait VfsFile: Send + Sync + fmt::Debug {
    /// Reads up to the whole buffer; fewer bytes only at the end of the file.
    fn pread(&self, out: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes the whole buffer or fails.
    fn pwrite(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn fdatasync(&self) -> io::Result<()>;
    /// Writes and makes durable, in one call where [`Access::Durable`] got what it asked for.
    fn write_durable(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.pwrite(bytes, offset)?;
        self.fdatasync()
    }
    fn size(&self) -> io::Result<u64>;
    /// Grows the file to `bytes` with its blocks set aside, so that writing within it cannot find
    /// the disk full. Reads as zeros.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    fn truncate(&self, bytes: u64) -> io::Result<()>;
}

/// A file system as a whole.
pub trait VfsDisk: Send + Sync + fmt::Debug {
    /// Makes everything durable that was written to it. Fails if any write to it has failed since
    /// this was opened or last told so.
    fn sync_all(&self) -> io::Result<()>;
}

/// A file system. Paths are taken as they are.
pub trait Vfs: Send + Sync + fmt::Debug {
    /// Creates a file that must not exist, open for [`Access::Write`].
    fn create(&self, path: &Path, privacy: Privacy) -> io::Result<Box<dyn VfsFile>>;
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn VfsFile>>;
    /// Replaces `to`, atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames within one directory; fails with [`io::ErrorKind::AlreadyExists`] if there is a `to`.
    /// A crash may leave both names.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Creates one directory; that it exists already is no error.
    fn create_dir(&self, path: &Path, privacy: Privacy) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// The file system that holds `path`, a directory.
    fn disk_of(&self, path: &Path) -> io::Result<Box<dyn VfsDisk>>;
    /// Names in a directory, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Bytes that may still be written on the disk that holds `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;

    /// The whole file, which must not be longer than `bytes_max`.
    fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
        let file = self.open(path, Access::Read)?;
        let len = file.size()?;
        let fits = usize::try_from(len).ok().filter(|_| len <= bytes_max);
        let Some(len) = fits else { return Err(io::ErrorKind::FileTooLarge.into()) };
        let mut out = vec![0; len];
        let got = file.pread(&mut out, 0)?;
        out.truncate(got);
        Ok(out)
    }

    /// Creates a file in place of one that a run which was cut off may have left.
    fn create_anew(&self, path: &Path, privacy: Privacy) -> io::Result<Box<dyn VfsFile>> {
        match self.create(path, privacy) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.remove(path)?;
                self.create(path, privacy)
            }
            other => other,
        }
    }

    /// Replaces a small file so that a crash leaves the old one or the new one, whole. Durable when
    /// it returns.
    fn replace(&self, path: &Path, bytes: &[u8], privacy: Privacy) -> io::Result<()> {
        let Some(dir) = path.parent() else { return Err(io::ErrorKind::InvalidInput.into()) };
        let temporary = path.with_extension("tmp");
        let file = self.create_anew(&temporary, privacy)?;
        file.pwrite(bytes, 0)?;
        file.fdatasync()?;
        self.rename(&temporary, path)?;
        self.sync_dir(dir)
    }
}

/// The disk is full, or a quota is.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The operating system's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealVfs;

#[derive(Debug)]
struct RealFile {
    file: fs::File,
    /// Opened with `O_DSYNC`: a write that returned is durable.
    durable: bool,
    /// Opened with `O_DIRECT`.
    direct: bool,
}

impl RealVfs {
    fn open_with(path: &Path, write: bool, flags: i32) -> io::Result<fs::File> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(write).custom_flags(flags | libc::O_CLOEXEC).open(path)
    }

    /// Some file systems take `O_DIRECT` at open and refuse it at the first transfer, so one page
    /// is read to see.
    fn open_direct(path: &Path, write: bool, flags: i32) -> io::Result<fs::File> {
        let file = Self::open_with(path, write, flags | libc::O_DIRECT)?;
        let mut page = crate::aligned::AlignedBuf::zeroed(crate::aligned::PAGE);
        file.read_at(page.as_mut_slice(), 0)?;
        Ok(file)
    }
}

/// A signal that is for another part of the process has cut a call off before it did anything:
/// POSIX, `EINTR`. Nothing has failed.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// rename(2), `RENAME_NOREPLACE`.
fn rename_no_replace(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (c_path(from)?, c_path(to)?);
    let (cwd, flags) = (libc::AT_FDCWD, libc::RENAME_NOREPLACE);
    // The standard library's rename always replaces.
    // SAFETY: both paths are C strings that outlive the call, which changes no memory of ours.
    match unsafe { libc::renameat2(cwd, from.as_ptr(), cwd, to.as_ptr(), flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The same by a second name, which link(2) never gives to what has it already.
fn link_no_replace(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to)?;
    fs::remove_file(from)
}

/// A descriptor of a file system: syncfs(2) tells each of them once of writes that failed.
#[derive(Debug)]
struct RealDisk(fs::File);

impl VfsDisk for RealDisk {
    fn sync_all(&self) -> io::Result<()> {
        // SAFETY: the descriptor is open for as long as `self` lives; the call touches no memory of
        // ours.
        match unsafe { libc::syncfs(self.0.as_raw_fd()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Vfs for RealVfs {
    fn create(&self, path: &Path, privacy: Privacy) -> io::Result<Box<dyn VfsFile>> {
        let mode = match privacy {
            Privacy::Private => 0o600,
            Privacy::Shared => 0o644,
        };
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(mode);
        Ok(Box::new(RealFile { file: options.open(path)?, durable: false, direct: false }))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn VfsFile>> {
        let plain = |write| -> io::Result<RealFile> {
            let file = Self::open_with(path, write, 0)?;
            Ok(RealFile { file, durable: false, direct: false })
        };
        let file = match access {
            Access::Read => plain(false)?,
            Access::Write => plain(true)?,
            Access::ReadDirect => match Self::open_direct(path, false, 0) {
                Ok(file) => RealFile { file, durable: false, direct: true },
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => plain(false)?,
                Err(error) => return Err(error),
            },
            Access::Durable => match Self::open_direct(path, true, libc::O_DSYNC) {
                Ok(file) => RealFile { file, durable: true, direct: true },
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => plain(true)?,
                Err(error) => return Err(error),
            },
        };
        Ok(Box::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        match rename_no_replace(from, to) {
            // The kernel or the file system does not know the flag.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
                link_no_replace(from, to)
            }
            other => other,
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path, privacy: Privacy) -> io::Result<()> {
        let mode = match privacy {
            Privacy::Private => 0o700,
            Privacy::Shared => 0o755,
        };
        match fs::DirBuilder::new().mode(mode).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            other => other,
        }
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn disk_of(&self, path: &Path) -> io::Result<Box<dyn VfsDisk>> {
        Ok(Box::new(RealDisk(fs::File::open(path)?)))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = vec![];
        for entry in fs::read_dir(path)? {
            // Names that are not UTF-8 are not ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        fs::exists(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let path = c_path(path)?;
        let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: `path` is a C string that outlives the call, and `stat` is memory for one
        // `statvfs` to be written to.
        if unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `statvfs` returned 0, so it has filled `stat`.
        let stat = unsafe { stat.assume_init() };
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl VfsFile for RealFile {
    fn pread(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => {
                    done += n;
                    // A direct read that stops off a page has met the end of the file.
                    if self.direct && !is_aligned(n) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn pwrite(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if !self.direct {
            return self.file.write_all_at(bytes, offset);
        }
        // A direct write is whole or it is an error: its rest would not be aligned.
        match uninterrupted(|| self.file.write_at(bytes, offset))? {
            n if n == bytes.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    fn fdatasync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write_durable(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.pwrite(bytes, offset)?;
        if self.durable { Ok(()) } else { self.fdatasync() }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let len = libc::off_t::try_from(bytes)
            .map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        // SAFETY: the descriptor is open for as long as `self.file` lives; the call touches no
        // memory of ours.
        uninterrupted(|| match unsafe { libc::posix_fallocate(self.file.as_raw_fd(), 0, len) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        })
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::{sim::SimVfs, *};

    /// A directory that goes with the value.
    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("bulla-vfs-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn put(vfs: &dyn Vfs, path: &Path, bytes: &[u8]) {
        vfs.create(path, Privacy::Private).unwrap().pwrite(bytes, 0).unwrap();
    }

    type Rename<'a> = &'a dyn Fn(&Path, &Path) -> io::Result<()>;

    #[test]
    fn a_name_that_is_taken_is_not_taken_away() {
        let (scratch, sim) = (Scratch::new("names"), SimVfs::new());
        let cases: [(&dyn Vfs, &Path, Rename); 4] = [
            (&RealVfs, &scratch.0, &|from, to| RealVfs.rename_new(from, to)),
            (&RealVfs, &scratch.0, &rename_no_replace),
            (&RealVfs, &scratch.0, &link_no_replace),
            (&sim, Path::new("/"), &|from, to| sim.rename_new(from, to)),
        ];
        for (n, (vfs, dir, rename)) in cases.into_iter().enumerate() {
            let (old, new) = (dir.join(format!("{n}-old")), dir.join(format!("{n}-new")));
            put(vfs, &old, b"old");
            rename(&old, &new).unwrap();
            assert!(!vfs.exists(&old).unwrap(), "{n}");
            put(vfs, &old, b"other");
            let error = rename(&old, &new).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{n}");
            let read = |path| vfs.read(path, 99).unwrap();
            assert_eq!((read(&old), read(&new)), (b"other".to_vec(), b"old".to_vec()), "{n}");
            let missing = rename(&dir.join("none"), &dir.join("else")).unwrap_err();
            assert_eq!(missing.kind(), io::ErrorKind::NotFound, "{n}");
        }
    }

    #[test]
    fn a_signal_is_no_failure_and_a_failure_is_not_tried_again() {
        let interrupted = || io::ErrorKind::Interrupted.into();
        let mut calls = vec![Ok(7), Err(interrupted()), Err(interrupted())];
        assert_eq!(uninterrupted(|| calls.pop().unwrap()).unwrap(), 7);
        let mut calls = vec![Ok(7), Err(io::ErrorKind::StorageFull.into()), Err(interrupted())];
        let error = uninterrupted(|| calls.pop().unwrap()).unwrap_err();
        assert_eq!((error.kind(), calls.len()), (io::ErrorKind::StorageFull, 1));
    }

    #[test]
    fn a_file_that_is_left_over_is_made_anew() {
        let (scratch, sim) = (Scratch::new("anew"), SimVfs::new());
        let cases: [(&dyn Vfs, &Path); 2] = [(&RealVfs, &scratch.0), (&sim, Path::new("/"))];
        for (vfs, dir) in cases {
            let path = dir.join("a");
            put(vfs, &path, b"longer");
            vfs.create_anew(&path, Privacy::Private).unwrap().pwrite(b"new", 0).unwrap();
            assert_eq!(vfs.read(&path, 99).unwrap(), b"new");
        }
    }
}
