//! Verifies an archive directory: `bulla_tlog::verify` over files, on several threads.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::channel,
    },
};

use bulla_tlog::{
    note::Vkey,
    verify::{
        self, BundleInput, BundleResult, Finding, Options, Progress, Report, Verdict, Verifier,
        VerifyError, What, verify_bundle,
    },
};
use parking_lot::{Condvar, Mutex};

use crate::{
    archive::{TILE_FILE_BYTES_MAX, read_file},
    objects::{Objects, PackScan},
    pack::pack_path,
    vfs::{RealVfs, Vfs},
};

/// How far ahead of the first bundle that is not done yet each thread may work.
const AHEAD: u64 = 8;

/// An archive directory as the verifier reads it.
#[derive(Debug)]
pub struct ArchiveDir {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
}

impl ArchiveDir {
    pub fn new(dir: &Path) -> Self {
        Self { vfs: Arc::new(RealVfs), dir: dir.to_path_buf() }
    }
}

/// A file that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("`{}`: {error}", path.display())]
pub struct ReadFileError {
    pub path: PathBuf,
    pub error: io::Error,
}

impl verify::Archive for ArchiveDir {
    type Error = ReadFileError;

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, ReadFileError> {
        let path = self.dir.join(path);
        match read_file(&*self.vfs, &path, TILE_FILE_BYTES_MAX) {
            // Longer than any tile or bundle: its own length condemns it, so the head is enough.
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Ok(Some(vec![])),
            other => other.map_err(|error| ReadFileError { path, error }),
        }
    }

    fn exists(&self, path: &str) -> Result<bool, ReadFileError> {
        let path = self.dir.join(path);
        self.vfs.exists(&path).map_err(|error| ReadFileError { path, error })
    }
}

/// Verifies the archive in `dir` against the log's public keys: signature, every entry, the tree,
/// its tiles, every object, every session and run. `progress` is called now and then from this
/// thread. `threads` of 0 means 1.
pub fn verify_dir(
    dir: &Path,
    log: &[Vkey],
    options: Options,
    threads: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, VerifyError<ReadFileError>> {
    verify_on(Arc::new(RealVfs), dir, log, options, threads, progress)
}

pub(crate) fn verify_on(
    vfs: Arc<dyn Vfs>,
    dir: &Path,
    log: &[Vkey],
    options: Options,
    threads: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, VerifyError<ReadFileError>> {
    let archive = ArchiveDir { vfs: vfs.clone(), dir: dir.to_path_buf() };
    let signed = verify::open_checkpoint(&archive, log, &[])?;
    let mut verifier = Verifier::new(signed, options);
    let bundles: Vec<_> = verifier.bundles().collect();
    let objects = Objects::new(vfs, dir);
    let threads = threads.clamp(1, 64);
    let next = AtomicU64::new(0);
    let window = Window { end: Mutex::new(threads as u64 * AHEAD), moved: Condvar::new() };
    std::thread::scope(|scope| {
        let (sender, receiver) = channel();
        for _ in 0..threads {
            let sender = sender.clone();
            let (archive, objects, bundles) = (&archive, &objects, &bundles);
            let (next, window) = (&next, &window);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(id) = bundles.get(number as usize) else { return };
                    window.wait_for(number);
                    let result =
                        BundleInput::read(archive, *id).map(|input| verify_bundle(&input, objects));
                    if sender.send((number, result)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        // Results come in any order and are taken in theirs.
        let mut waiting: BTreeMap<u64, Result<BundleResult, ReadFileError>> = BTreeMap::new();
        let mut wanted = 0;
        let mut feed = || -> Result<(), VerifyError<ReadFileError>> {
            for (number, result) in &receiver {
                waiting.insert(number, result);
                while let Some(result) = waiting.remove(&wanted) {
                    verifier.feed(&archive, result.map_err(VerifyError::Read)?)?;
                    wanted += 1;
                    window.move_to(wanted + threads as u64 * AHEAD);
                    progress(verifier.progress());
                }
            }
            Ok(())
        };
        let fed = feed();
        // After an error the threads find nobody to send to, and end.
        drop(receiver);
        window.move_to(u64::MAX);
        fed
    })?;
    let mut report = verifier.finish(&archive)?;
    let mut culprits = Culprits { objects: &objects, packs: BTreeMap::new() };
    let first = match &mut report.verdict {
        Verdict::Tampered { first } | Verdict::Gap { first } => Some(first),
        Verdict::Complete => None,
    };
    for finding in report.findings.iter_mut().chain(first) {
        culprits.name(finding);
    }
    Ok(report)
}

/// Names the pack behind each object that is not as it was recorded. Reads only packs that some
/// finding leads to, each once.
struct Culprits<'a> {
    objects: &'a Objects,
    packs: BTreeMap<u64, Option<PackScan>>,
}

impl Culprits<'_> {
    fn name(&mut self, finding: &mut Finding) {
        let (What::ObjectAltered(hash) | What::ObjectMissing(hash) | What::ObjectUnreadable(hash)) =
            finding.what
        else {
            return;
        };
        let Some(index) = finding.index else { return };
        // All objects of one entry stand in one pack, named for the first entry that has some.
        let pack = self.objects.pack_of(index);
        let Some(first) = pack else {
            finding.object = Some((pack_path(index), None));
            return;
        };
        let scan = self.packs.entry(first).or_insert_with(|| self.objects.examine(first).ok());
        let offset = scan.as_ref().map(|scan| scan.culprit(&hash));
        finding.object = Some((pack_path(first), offset));
    }
}

/// Bundles that may be worked on.
struct Window {
    end: Mutex<u64>,
    moved: Condvar,
}

impl Window {
    fn wait_for(&self, number: u64) {
        let mut end = self.end.lock();
        while number >= *end {
            self.moved.wait(&mut end);
        }
    }
    fn move_to(&self, to: u64) {
        *self.end.lock() = to;
        self.moved.notify_all();
    }
}
