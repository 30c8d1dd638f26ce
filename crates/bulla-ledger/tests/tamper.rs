//! Whoever can only write the archive can destroy it, not change it unseen: every flip, truncation,
//! growth, swap and deletion of every file is named.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use bulla_core::*;
use bulla_ledger::*;
use bulla_tlog::verify::{Report, Verdict};
use support::*;

/// A log with full and partial bundles and tiles, and packs of objects.
fn archive(dir: &TempDir) -> PathBuf {
    // One checkpoint, at the end: files of earlier ones are left behind, and mean nothing.
    let config = LedgerConfig { checkpoint_ms: 1 << 40, ..config(dir) };
    let ledger = Ledger::open(config).unwrap();
    for n in 1..=6u8 {
        let (mut journal, _) = ledger.open(&open_record(n)).unwrap();
        for number in 1..=50 {
            intent(&mut *journal, number, "select 1", &noise(number, 200));
            let end = Some(outcome(1));
            let len = if number % 10 == 0 { 6_000 } else { 100 };
            evidence(&mut *journal, number, Flow::ToClient, &noise(number, len), end);
        }
        wait_durable(close(&mut *journal)).unwrap();
    }
    ledger.shutdown().unwrap();
    assert!(ledger.health().entries > 600);
    ledger.dir().to_path_buf()
}

fn files(dir: &Path, out: &mut BTreeMap<String, Vec<u8>>, root: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, out, root);
        } else {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            out.insert(name, std::fs::read(&path).unwrap());
        }
    }
}

struct Case<'a> {
    ledger: &'a Path,
    archive: PathBuf,
    vkey: bulla_tlog::note::Vkey,
    files: BTreeMap<String, Vec<u8>>,
}

impl Case<'_> {
    fn verify(&self) -> Result<Report, String> {
        let vkey = std::slice::from_ref(&self.vkey);
        verify_dir(&self.archive, vkey, Default::default(), 1, &mut |_| {})
            .map_err(|error| error.to_string())
    }

    /// Changes one file, verifies, puts it back. What is said must name the file.
    fn named(&self, name: &str, what: &str, change: impl FnOnce(&Path)) {
        let path = self.archive.join(name);
        change(&path);
        let context = format!("{name}: {what}");
        match self.verify() {
            // A checkpoint that is none: nothing else is looked at.
            Err(error) => assert!(
                name == "checkpoint" && (error.contains("checkpoint") || error.contains("note")),
                "{context}: {error}"
            ),
            Ok(report) => {
                assert_ne!(report.verdict, Verdict::Complete, "{context} is not seen");
                let named = report.findings.iter().any(|finding| {
                    finding.path.as_deref() == Some(name) || finding.to_string().contains(name)
                });
                assert!(named, "{context}: named otherwise: {:?}", report.findings);
            }
        }
        std::fs::write(&path, &self.files[name]).unwrap();
    }
}

/// Where to change a file: all of its beginning and end, and some of each stretch between.
fn places(len: usize) -> Vec<usize> {
    (0..len).filter(|at| *at < 40 || at + 40 > len || at % (len / 24 + 1) == 0).collect()
}

#[test]
fn every_change_of_every_file_is_named() {
    let dir = TempDir::new("tamper");
    let ledger = archive(&dir);
    let archive = ledger.join("archive");
    let mut found = BTreeMap::new();
    files(&archive, &mut found, &archive);
    let vkey = log_vkey(&ledger.join("keys")).unwrap();
    let case = Case { ledger: &ledger, archive, vkey, files: found };
    assert_eq!(case.verify().unwrap().verdict, Verdict::Complete);
    let kinds: std::collections::BTreeSet<&str> =
        case.files.keys().map(|name| name.split('/').next().unwrap()).collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["checkpoint", "objects", "tile"]);
    for (name, bytes) in &case.files {
        for at in places(bytes.len()) {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            case.named(name, &format!("byte {at} flipped"), |path| {
                std::fs::write(path, &changed).unwrap();
            });
        }
        for len in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            case.named(name, &format!("cut to {len}"), |path| {
                std::fs::write(path, &bytes[..len]).unwrap();
            });
        }
        case.named(name, "deleted", |path| std::fs::remove_file(path).unwrap());
        let family = |name: &str| name.rsplit_once('/').map(|(dir, _)| dir.to_owned());
        for (other, instead) in &case.files {
            if other != name && family(other) == family(name) && instead != bytes {
                case.named(name, &format!("replaced by {other}"), |path| {
                    std::fs::write(path, instead).unwrap();
                });
            }
        }
        // Behind its last object a pack may hold what a crash left of the next: nothing names it.
        if name.ends_with(".pack") {
            continue;
        }
        case.named(name, "grown", |path| {
            std::fs::write(path, [&bytes[..], b"x"].concat()).unwrap();
        });
    }
    assert_eq!(case.verify().unwrap().verdict, Verdict::Complete);
    assert!(case.ledger.join("keys").exists());
}
