//! The archive's files that are written once: tiles, bundles, chunks of the index.
//!
//! Each is written under a temporary name ([`Files::stage`]), made durable, and given its name,
//! durably ([`Files::settle`]). A name that is taken is left: what stands there must be the same
//! bytes, of a run that was cut off before its checkpoint. Nothing is looked at beforehand; that a
//! name is taken is what creating and naming say.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{ArchiveError, TILE_FILE_BYTES_MAX, at, sync_at};
use crate::vfs::{Privacy, Vfs, VfsDisk, VfsFile};

/// New files above which the whole file system is synced at once instead of each of them.
const SYNC_EACH_MAX: usize = 16;

/// A file that is to be written.
struct NewFile {
    path: PathBuf,
    bytes: Vec<u8>,
    is_partial: bool,
}

/// A file that is written and has only its temporary name.
struct Staged {
    temporary: PathBuf,
    path: PathBuf,
    /// Open as long as each file is synced by itself.
    file: Option<Box<dyn VfsFile>>,
}

pub(super) struct Files {
    vfs: Arc<dyn Vfs>,
    /// The archive's directory, which is there.
    dir: PathBuf,
    /// Open since before the first write, so that no write that failed since goes unseen.
    disk: Box<dyn VfsDisk>,
    fresh: VecDeque<NewFile>,
    staged: VecDeque<Staged>,
    /// Partial tiles and bundles that were written since the last checkpoint.
    partials: BTreeSet<PathBuf>,
    known_dirs: BTreeSet<PathBuf>,
    /// Directories that hold new names.
    dirty_dirs: BTreeSet<PathBuf>,
}

impl Files {
    pub(super) fn new(vfs: Arc<dyn Vfs>, dir: &Path) -> io::Result<Self> {
        let disk = vfs.disk_of(dir)?;
        Ok(Self {
            vfs,
            dir: dir.to_path_buf(),
            disk,
            fresh: VecDeque::new(),
            staged: VecDeque::new(),
            partials: BTreeSet::new(),
            known_dirs: BTreeSet::new(),
            dirty_dirs: BTreeSet::new(),
        })
    }

    /// Memory only. A path is never added twice.
    pub(super) fn add(&mut self, path: &str, bytes: Vec<u8>) {
        self.fresh.push_back(NewFile { path: self.dir.join(path), bytes, is_partial: false });
    }

    /// A partial tile or bundle. One that a checkpoint which failed has written is there already.
    pub(super) fn add_partial(&mut self, path: &str, bytes: Vec<u8>) {
        let path = self.dir.join(path);
        if !self.partials.contains(&path) {
            self.fresh.push_back(NewFile { path, bytes, is_partial: true });
        }
    }

    /// Drops the partial ones that a checkpoint which failed has not written: the next has others.
    pub(super) fn forget_partials(&mut self) {
        self.fresh.retain(|new| !new.is_partial);
    }

    /// There is a checkpoint over all that was added.
    pub(super) fn stand(&mut self) {
        self.partials.clear();
    }

    /// Creates a directory within the archive, with those above it.
    pub(super) fn make_dir(&mut self, dir: &Path) -> Result<(), ArchiveError> {
        if dir == self.dir || self.known_dirs.contains(dir) {
            return Ok(());
        }
        let Some(parent) = dir.parent() else { return Ok(()) };
        self.make_dir(parent)?;
        self.vfs.create_dir(dir, Privacy::Shared).map_err(at(dir))?;
        self.dirty_dirs.insert(parent.to_path_buf());
        self.known_dirs.insert(dir.to_path_buf());
        Ok(())
    }

    /// A name in this directory is new.
    pub(super) fn has_new_name(&mut self, dir: &Path) {
        if !self.dirty_dirs.contains(dir) {
            self.dirty_dirs.insert(dir.to_path_buf());
        }
    }

    /// Writes what was added under temporary names. What an error leaves is written by the next
    /// call.
    pub(super) fn stage(&mut self) -> Result<(), ArchiveError> {
        while let Some(new) = self.fresh.pop_front() {
            match self.write(&new) {
                Ok(staged) => {
                    if new.is_partial {
                        self.partials.insert(new.path);
                    }
                    self.keep(staged);
                }
                Err(error) => {
                    self.fresh.push_front(new);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, new: &NewFile) -> Result<Staged, ArchiveError> {
        let NewFile { path, bytes, .. } = new;
        if let Some(dir) = path.parent() {
            self.make_dir(dir)?;
            self.has_new_name(dir);
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".tmp");
        let temporary = path.with_file_name(name);
        let file = self.vfs.create_anew(&temporary, Privacy::Shared).map_err(at(&temporary))?;
        if let Err(error) = file.pwrite(bytes, 0) {
            let _ = self.vfs.remove(&temporary);
            return Err(at(&temporary)(error));
        }
        Ok(Staged { temporary, path: path.clone(), file: Some(file) })
    }

    fn keep(&mut self, mut staged: Staged) {
        if self.staged.len() >= SYNC_EACH_MAX {
            staged.file = None;
            if self.staged.len() == SYNC_EACH_MAX {
                self.staged.iter_mut().for_each(|staged| staged.file = None);
            }
        }
        self.staged.push_back(staged);
    }

    /// Makes what was staged durable, then gives it its names, durably. May be called again after
    /// it failed for want of space.
    pub(super) fn settle(&mut self) -> Result<(), ArchiveError> {
        if self.staged.iter().any(|staged| staged.file.is_none()) {
            self.disk.sync_all().map_err(sync_at(&self.dir))?;
        } else {
            for Staged { temporary, file, .. } in &self.staged {
                if let Some(file) = file {
                    file.fdatasync().map_err(sync_at(temporary))?;
                }
            }
        }
        while let Some(staged) = self.staged.front() {
            self.name(staged)?;
            self.staged.pop_front();
        }
        // Deepest last does not matter: all are durable before the checkpoint.
        while let Some(dir) = self.dirty_dirs.pop_first() {
            self.vfs.sync_dir(&dir).map_err(sync_at(&dir))?;
        }
        Ok(())
    }

    fn name(&self, Staged { temporary, path, .. }: &Staged) -> Result<(), ArchiveError> {
        match self.vfs.rename_new(temporary, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map_err(at(path)),
        }
        let read = |path: &Path| self.vfs.read(path, TILE_FILE_BYTES_MAX).map_err(at(path));
        if read(path)? != read(temporary)? {
            return Err(ArchiveError::OtherBytes { path: path.clone() });
        }
        self.vfs.remove(temporary).map_err(at(temporary))
    }

    /// Removes the directory of partial tiles or bundles beside a full one, if it is there. What
    /// cannot be removed is left.
    pub(super) fn remove_partials(&mut self, full: &str) {
        let dir = self.dir.join(format!("{full}.p"));
        for name in self.vfs.list(&dir).unwrap_or_default() {
            let _ = self.vfs.remove(&dir.join(name));
        }
        let _ = self.vfs.remove_dir(&dir);
        self.known_dirs.remove(&dir);
    }
}
