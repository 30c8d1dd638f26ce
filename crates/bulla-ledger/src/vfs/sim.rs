//! A simulated disk: keeps what is durable apart from what was merely written, and can crash at any
//! operation, with any part of the write in flight.
//!
//! It is harsher than a real file system: names are as volatile as bytes until their directory is
//! synced, writes that were not synced may survive in any subset of their sectors, and a failed
//! sync drops what it should have made durable while the running process goes on to see it.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{Access, Privacy, Vfs, VfsDisk, VfsFile};

pub const SECTOR: usize = 512;

/// The part of a write that reached the disk before the crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Torn {
    /// So many bytes from its start.
    Prefix(usize),
    /// Sector `i` if bit `i` is set; sectors from 64 on are not.
    Sectors(u64),
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The machine stops: the operation happens in part, nothing after it at all.
    Crash(Torn),
    /// The operation fails, once. A sync that fails has dropped what it should have kept.
    Error(io::ErrorKind),
    /// From here on, every operation that writes fails.
    Forever(io::ErrorKind),
    /// The thread that asks for it panics.
    Panic,
}

/// When: at the `at`-th operation, from 0, that writes to a path which contains `path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub path: String,
    pub at: u64,
    pub fault: Fault,
}

/// What a crash leaves of what was written and not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survive {
    Nothing,
    All,
    /// Any subset of the sectors and names, by this seed.
    Some(u64),
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: u64, bytes: Vec<u8>, torn: Option<Torn> },
    Len(u64),
}

#[derive(Debug, Clone, Default)]
struct Node {
    /// What a crash is sure to leave.
    durable: Vec<u8>,
    /// What the running process sees.
    seen: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    File(usize),
    Dir,
}

#[derive(Debug, Clone)]
enum NameChange {
    Put(String, Name),
    Drop(String),
}

#[derive(Debug, Clone, Default)]
struct Dir {
    durable: BTreeMap<String, Name>,
    seen: BTreeMap<String, Name>,
    pending: Vec<NameChange>,
}

#[derive(Debug, Default)]
struct Disk {
    nodes: Vec<Node>,
    dirs: BTreeMap<PathBuf, Dir>,
    plan: Option<Plan>,
    /// Operations that the plan's path matches.
    matched: u64,
    broken: Option<io::ErrorKind>,
    crashed: bool,
    bytes_max: Option<u64>,
    /// Every operation that writes, for whoever wants to enumerate them.
    ops: u64,
}

/// A disk in memory. Clones share it.
#[derive(Debug, Clone)]
pub struct SimVfs(Arc<Mutex<Disk>>);

impl Default for SimVfs {
    fn default() -> Self {
        Self::new()
    }
}

/// Small, seeded, good enough to choose subsets.
struct Chooser(u64);

impl Chooser {
    fn flip(&mut self) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 40 & 1 == 1
    }
}

fn put(bytes: &mut Vec<u8>, at: u64, piece: &[u8]) {
    let at = at as usize;
    if bytes.len() < at + piece.len() {
        bytes.resize(at + piece.len(), 0);
    }
    bytes[at..at + piece.len()].copy_from_slice(piece);
}

fn put_sectors(bytes: &mut Vec<u8>, at: u64, piece: &[u8], mut keep: impl FnMut(usize) -> bool) {
    for (i, sector) in piece.chunks(SECTOR).enumerate() {
        if keep(i) {
            put(bytes, at + (i * SECTOR) as u64, sector);
        }
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { at, bytes: piece, .. } => put(bytes, *at, piece),
        Change::Len(len) => bytes.resize(*len as usize, 0),
    }
}

impl Node {
    fn sync(&mut self) {
        let changes = std::mem::take(&mut self.pending);
        changes.iter().for_each(|change| apply(&mut self.durable, change));
    }

    fn survive(&mut self, survive: Survive, chooser: &mut Chooser) {
        for change in std::mem::take(&mut self.pending) {
            match (&change, survive) {
                (Change::Write { at, bytes, torn: Some(torn) }, _) => match torn {
                    Torn::Prefix(n) => {
                        put(&mut self.durable, *at, &bytes[..(*n).min(bytes.len())]);
                    }
                    Torn::Sectors(mask) => {
                        put_sectors(&mut self.durable, *at, bytes, |i| i < 64 && mask >> i & 1 == 1)
                    }
                },
                (_, Survive::Nothing) => {}
                (_, Survive::All) => apply(&mut self.durable, &change),
                (Change::Write { at, bytes, .. }, Survive::Some(_)) => {
                    put_sectors(&mut self.durable, *at, bytes, |_| chooser.flip());
                }
                (Change::Len(_), Survive::Some(_)) => {
                    if chooser.flip() {
                        apply(&mut self.durable, &change);
                    }
                }
            }
        }
        self.seen = self.durable.clone();
    }
}

impl Dir {
    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.seen);
        self.pending.push(change);
    }
    fn sync(&mut self) {
        self.durable = self.seen.clone();
        self.pending.clear();
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, Name>) {
        match self {
            Self::Put(name, what) => {
                names.insert(name.clone(), *what);
            }
            Self::Drop(name) => {
                names.remove(name);
            }
        }
    }
}

fn crashed() -> io::Error {
    io::Error::other("the simulated machine has stopped")
}

impl Disk {
    /// Counts an operation that writes, and lets the plan interfere. `Some` is the part that a
    /// crash leaves of it.
    #[allow(clippy::panic, reason = "a fault that was asked for")]
    fn op(&mut self, path: &Path) -> io::Result<Option<Torn>> {
        if self.crashed {
            return Err(crashed());
        }
        if let Some(kind) = self.broken {
            return Err(kind.into());
        }
        self.ops += 1;
        let matches = |plan: &&Plan| path.to_string_lossy().contains(&plan.path);
        let Some(plan) = self.plan.as_ref().filter(matches) else { return Ok(None) };
        self.matched += 1;
        if self.matched != plan.at + 1 {
            return Ok(None);
        }
        match plan.fault {
            Fault::Crash(torn) => {
                self.crashed = true;
                Ok(Some(torn))
            }
            Fault::Error(kind) => Err(kind.into()),
            Fault::Forever(kind) => {
                self.broken = Some(kind);
                Err(kind.into())
            }
            Fault::Panic => panic!("a thread that writes to `{}` shall panic", path.display()),
        }
    }

    /// Whether `more` bytes fit. What has its place already fits a disk that is more than full, as
    /// one is that was made smaller.
    fn room(&self, more: u64) -> io::Result<()> {
        let used: u64 = self.nodes.iter().map(|node| node.seen.len() as u64).sum();
        match self.bytes_max {
            Some(max) if more > 0 && used + more > max => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn split(path: &Path) -> io::Result<(PathBuf, String)> {
        let name = path.file_name().and_then(|name| name.to_str());
        let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((dir.to_path_buf(), name.ok_or(io::ErrorKind::InvalidInput)?.to_owned()))
    }

    fn dir(&mut self, path: &Path) -> io::Result<&mut Dir> {
        self.dirs.get_mut(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn lookup(&mut self, path: &Path) -> io::Result<Name> {
        let (dir, name) = Self::split(path)?;
        let found = self.dir(&dir)?.seen.get(&name).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn file(&mut self, path: &Path) -> io::Result<usize> {
        match self.lookup(path)? {
            Name::File(node) => Ok(node),
            Name::Dir => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// Frees what no name leads to, so that the disk's capacity is honest.
    fn collect(&mut self) {
        let dirs = self.dirs.values();
        let live: Vec<usize> = dirs
            .flat_map(|dir| dir.seen.values().chain(dir.durable.values()))
            .filter_map(|name| match name {
                Name::File(node) => Some(*node),
                Name::Dir => None,
            })
            .collect();
        for (i, node) in self.nodes.iter_mut().enumerate() {
            if !live.contains(&i) {
                *node = Node::default();
            }
        }
    }
}

impl SimVfs {
    /// An empty disk with a root directory `/`.
    pub fn new() -> Self {
        let mut disk = Disk::default();
        disk.dirs.insert(PathBuf::from("/"), Dir::default());
        Self(Arc::new(Mutex::new(disk)))
    }

    /// What shall go wrong from now on; the count begins anew.
    pub fn plan(&self, plan: Option<Plan>) {
        let mut disk = self.0.lock();
        disk.plan = plan;
        disk.matched = 0;
    }

    /// Operations so far that the plan's path matched.
    pub fn matched(&self) -> u64 {
        self.0.lock().matched
    }

    pub fn ops(&self) -> u64 {
        self.0.lock().ops
    }

    /// Stops the machine now, between two operations.
    pub fn crash(&self) {
        self.0.lock().crashed = true;
    }

    pub fn is_crashed(&self) -> bool {
        self.0.lock().crashed
    }

    /// Limits the bytes of all files together.
    pub fn set_capacity(&self, bytes_max: Option<u64>) {
        self.0.lock().bytes_max = bytes_max;
    }

    pub fn used(&self) -> u64 {
        self.0.lock().nodes.iter().map(|node| node.seen.len() as u64).sum()
    }

    /// The disk as the next boot finds it.
    #[must_use]
    pub fn after_crash(&self, survive: Survive) -> Self {
        let disk = self.0.lock();
        let mut chooser = Chooser(match survive {
            Survive::Some(seed) => seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            Survive::Nothing | Survive::All => 1,
        });
        let mut next =
            Disk { nodes: disk.nodes.clone(), bytes_max: disk.bytes_max, ..Disk::default() };
        next.nodes.iter_mut().for_each(|node| node.survive(survive, &mut chooser));
        for (path, dir) in &disk.dirs {
            let mut names = dir.durable.clone();
            for change in &dir.pending {
                let kept = match survive {
                    Survive::Nothing => false,
                    Survive::All => true,
                    Survive::Some(_) => chooser.flip(),
                };
                if kept {
                    change.apply(&mut names);
                }
            }
            let dir = Dir { durable: names.clone(), seen: names, pending: vec![] };
            next.dirs.insert(path.clone(), dir);
        }
        // A directory whose own name was lost is gone with all that is in it.
        let reachable = |dirs: &BTreeMap<PathBuf, Dir>, path: &Path| {
            path.ancestors().zip(path.ancestors().skip(1)).all(|(child, parent)| {
                let name = child.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                dirs.get(parent).is_some_and(|dir| dir.seen.get(name) == Some(&Name::Dir))
            })
        };
        let lost: Vec<PathBuf> =
            next.dirs.keys().filter(|path| !reachable(&next.dirs, path)).cloned().collect();
        for path in lost {
            next.dirs.remove(&path);
        }
        Self(Arc::new(Mutex::new(next)))
    }

    /// A copy that shares nothing, as the running process sees the disk.
    #[must_use]
    pub fn fork(&self) -> Self {
        let disk = self.0.lock();
        Self(Arc::new(Mutex::new(Disk {
            nodes: disk.nodes.clone(),
            dirs: disk.dirs.clone(),
            bytes_max: disk.bytes_max,
            ..Disk::default()
        })))
    }

    /// Every file under `dir`, as the running process sees it.
    pub fn files(&self, dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let disk = self.0.lock();
        let mut out = vec![];
        for (path, found) in disk.dirs.iter().filter(|(path, _)| path.starts_with(dir)) {
            for (name, node) in &found.seen {
                if let Name::File(node) = node {
                    out.push((path.join(name), disk.nodes[*node].seen.clone()));
                }
            }
        }
        out
    }

    /// Changes bytes behind everybody's back, durably.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut disk = self.0.lock();
        let node = disk.file(path)?;
        let node = &mut disk.nodes[node];
        change(&mut node.seen);
        node.durable = node.seen.clone();
        node.pending.clear();
        Ok(())
    }
}

impl Vfs for SimVfs {
    fn create(&self, path: &Path, _: Privacy) -> io::Result<Box<dyn VfsFile>> {
        let mut disk = self.0.lock();
        let (dir, name) = Disk::split(path)?;
        if disk.dir(&dir)?.seen.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.room(1)?;
        if disk.op(path)?.is_some() {
            return Err(crashed());
        }
        disk.nodes.push(Node::default());
        let node = disk.nodes.len() - 1;
        disk.dir(&dir)?.change(NameChange::Put(name, Name::File(node)));
        Ok(Box::new(SimFile { disk: self.clone(), path: path.into(), node, access: Access::Write }))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn VfsFile>> {
        let mut disk = self.0.lock();
        if disk.crashed {
            return Err(crashed());
        }
        let node = disk.file(path)?;
        Ok(Box::new(SimFile { disk: self.clone(), path: path.into(), node, access }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        let node = disk.file(from)?;
        if disk.op(to)?.is_some() {
            return Err(crashed());
        }
        let ((from_dir, from_name), (to_dir, to_name)) = (Disk::split(from)?, Disk::split(to)?);
        disk.dir(&to_dir)?.change(NameChange::Put(to_name, Name::File(node)));
        disk.dir(&from_dir)?.change(NameChange::Drop(from_name));
        Ok(())
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.exists(to)? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.file(path)?;
        if disk.op(path)?.is_some() {
            return Err(crashed());
        }
        let (dir, name) = Disk::split(path)?;
        disk.dir(&dir)?.change(NameChange::Drop(name));
        Ok(())
    }

    fn create_dir(&self, path: &Path, _: Privacy) -> io::Result<()> {
        let mut disk = self.0.lock();
        let (dir, name) = Disk::split(path)?;
        if disk.dir(&dir)?.seen.contains_key(&name) {
            return Ok(());
        }
        if disk.op(path)?.is_some() {
            return Err(crashed());
        }
        disk.dir(&dir)?.change(NameChange::Put(name, Name::Dir));
        disk.dirs.entry(path.to_path_buf()).or_default();
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        if !disk.dir(path)?.seen.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        if disk.op(path)?.is_some() {
            return Err(crashed());
        }
        let (dir, name) = Disk::split(path)?;
        disk.dir(&dir)?.change(NameChange::Drop(name));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.0.lock();
        if disk.op(path)?.is_some() {
            return Err(crashed());
        }
        disk.dir(path)?.sync();
        disk.collect();
        Ok(())
    }

    fn disk_of(&self, path: &Path) -> io::Result<Box<dyn VfsDisk>> {
        let mut disk = self.0.lock();
        if disk.crashed {
            return Err(crashed());
        }
        disk.dir(path)?;
        Ok(Box::new(SimDisk { disk: self.clone(), path: path.into() }))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut disk = self.0.lock();
        if disk.crashed {
            return Err(crashed());
        }
        Ok(disk.dir(path)?.seen.keys().cloned().collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let mut disk = self.0.lock();
        if disk.crashed {
            return Err(crashed());
        }
        match disk.lookup(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        let disk = self.0.lock();
        let used: u64 = disk.nodes.iter().map(|node| node.seen.len() as u64).sum();
        Ok(disk.bytes_max.unwrap_or(u64::MAX / 2).saturating_sub(used))
    }
}

#[derive(Debug)]
struct SimDisk {
    disk: SimVfs,
    path: PathBuf,
}

impl VfsDisk for SimDisk {
    fn sync_all(&self) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        match disk.op(&self.path) {
            Ok(None) => {
                disk.nodes.iter_mut().for_each(Node::sync);
                disk.dirs.values_mut().for_each(Dir::sync);
                Ok(())
            }
            Ok(Some(_)) => Err(crashed()),
            Err(error) => {
                // As with a file: what was to be kept is gone, and only seen.
                if !disk.crashed {
                    disk.nodes.iter_mut().for_each(|node| node.pending.clear());
                }
                Err(error)
            }
        }
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimVfs,
    path: PathBuf,
    node: usize,
    access: Access,
}

impl SimFile {
    fn aligned(&self, offset: u64, len: usize) -> io::Result<()> {
        let direct = matches!(self.access, Access::Durable | Access::ReadDirect);
        let good = offset.is_multiple_of(4096) && len.is_multiple_of(4096);
        if direct && !good { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(()) }
    }

    fn write(&self, bytes: &[u8], at: u64, durable: bool) -> io::Result<()> {
        self.aligned(at, bytes.len())?;
        if matches!(self.access, Access::Read | Access::ReadDirect) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut disk = self.disk.0.lock();
        let len = disk.nodes[self.node].seen.len() as u64;
        disk.room((at + bytes.len() as u64).saturating_sub(len))?;
        let torn = disk.op(&self.path)?;
        let node = &mut disk.nodes[self.node];
        put(&mut node.seen, at, bytes);
        node.pending.push(Change::Write { at, bytes: bytes.to_vec(), torn });
        if torn.is_some() {
            return Err(crashed());
        }
        if durable {
            node.sync();
        }
        Ok(())
    }
}

impl VfsFile for SimFile {
    fn pread(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.aligned(offset, out.len())?;
        let disk = self.disk.0.lock();
        if disk.crashed {
            return Err(crashed());
        }
        let bytes = &disk.nodes[self.node].seen;
        let from = bytes.get((offset as usize).min(bytes.len())..).unwrap_or_default();
        let n = from.len().min(out.len());
        out[..n].copy_from_slice(&from[..n]);
        Ok(n)
    }

    fn pwrite(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write(bytes, offset, false)
    }

    fn write_durable(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write(bytes, offset, self.access == Access::Durable)?;
        if self.access == Access::Durable { Ok(()) } else { self.fdatasync() }
    }

    fn fdatasync(&self) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        match disk.op(&self.path) {
            Ok(None) => {
                disk.nodes[self.node].sync();
                Ok(())
            }
            Ok(Some(_)) => Err(crashed()),
            Err(error) => {
                // The pages are marked clean and never written: what is seen is not what is kept.
                disk.nodes[self.node].pending.clear();
                Err(error)
            }
        }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().nodes[self.node].seen.len() as u64)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        let len = disk.nodes[self.node].seen.len() as u64;
        disk.room(bytes.saturating_sub(len))?;
        if disk.op(&self.path)?.is_some() {
            return Err(crashed());
        }
        let node = &mut disk.nodes[self.node];
        if len < bytes {
            node.seen.resize(bytes as usize, 0);
            node.pending.push(Change::Len(bytes));
        }
        Ok(())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        if disk.op(&self.path)?.is_some() {
            return Err(crashed());
        }
        let node = &mut disk.nodes[self.node];
        node.seen.resize(bytes as usize, 0);
        node.pending.push(Change::Len(bytes));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vfs: &SimVfs, path: &str) -> Option<Vec<u8>> {
        vfs.read(Path::new(path), 1 << 20).ok()
    }

    #[test]
    fn only_what_was_synced_is_sure_to_stay() {
        let vfs = SimVfs::new();
        let file = vfs.create(Path::new("/a"), Privacy::Private).unwrap();
        file.pwrite(b"one", 0).unwrap();
        file.fdatasync().unwrap();
        assert_eq!(read(&vfs.after_crash(Survive::Nothing), "/a"), None, "its name was not synced");
        assert_eq!(read(&vfs.after_crash(Survive::All), "/a").unwrap(), b"one");
        vfs.sync_dir(Path::new("/")).unwrap();
        file.pwrite(b"two!", 0).unwrap();
        assert_eq!(read(&vfs, "/a").unwrap(), b"two!");
        assert_eq!(read(&vfs.after_crash(Survive::Nothing), "/a").unwrap(), b"one");
        vfs.rename(Path::new("/a"), Path::new("/b")).unwrap();
        let after = vfs.after_crash(Survive::Nothing);
        assert_eq!((read(&after, "/a").unwrap(), read(&after, "/b")), (b"one".to_vec(), None));
    }

    #[test]
    fn a_crash_leaves_the_planned_part() {
        let vfs = SimVfs::new();
        let file = vfs.create(Path::new("/a"), Privacy::Private).unwrap();
        file.allocate(2_048).unwrap();
        file.fdatasync().unwrap();
        vfs.sync_dir(Path::new("/")).unwrap();
        let crash = |torn| {
            let vfs = vfs.fork();
            vfs.plan(Some(Plan { path: "a".into(), at: 0, fault: Fault::Crash(torn) }));
            let file = vfs.open(Path::new("/a"), Access::Write).unwrap();
            assert!(file.pwrite(&[7; 2_048], 0).is_err());
            assert!(file.pwrite(b"x", 0).is_err() && vfs.list(Path::new("/")).is_err());
            read(&vfs.after_crash(Survive::Nothing), "/a").unwrap()
        };
        let prefix = crash(Torn::Prefix(3));
        assert_eq!((&prefix[..4], prefix.len()), (&[7, 7, 7, 0][..], 2_048));
        let sectors = crash(Torn::Sectors(0b1010));
        assert_eq!((sectors[0], sectors[512], sectors[1_024], sectors[1_536]), (0, 7, 0, 7));
    }

    #[test]
    fn a_full_disk_takes_what_needs_no_room() {
        let vfs = SimVfs::new();
        let file = vfs.create(Path::new("/a"), Privacy::Private).unwrap();
        file.allocate(10).unwrap();
        // Smaller than what is on it: something else was written before the limit was set.
        vfs.set_capacity(Some(vfs.used() - 1));
        file.pwrite(b"place", 5).unwrap();
        file.write_durable(b"place", 0).unwrap();
        for refused in [file.pwrite(b"more", 7), file.allocate(11)] {
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::StorageFull);
        }
        assert!(vfs.create(Path::new("/b"), Privacy::Private).is_err());
        assert_eq!(read(&vfs, "/a").unwrap(), b"placeplace");
    }

    #[test]
    fn a_failed_sync_drops_what_it_should_have_kept() {
        let vfs = SimVfs::new();
        let file = vfs.create(Path::new("/a"), Privacy::Private).unwrap();
        vfs.sync_dir(Path::new("/")).unwrap();
        file.pwrite(b"one", 0).unwrap();
        let fault = Fault::Error(io::ErrorKind::Other);
        vfs.plan(Some(Plan { path: "a".into(), at: 0, fault }));
        assert!(file.fdatasync().is_err());
        file.fdatasync().unwrap();
        assert_eq!(read(&vfs, "/a").unwrap(), b"one");
        assert_eq!(read(&vfs.after_crash(Survive::All), "/a").unwrap(), b"");
    }
}
