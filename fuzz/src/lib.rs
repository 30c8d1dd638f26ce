//! Fuzz targets: everything that reads what somebody else wrote.
//!
//! A target is a plain function over bytes that must not panic, whatever they are. Its corpus is
//! `crates/<crate>/fuzz/corpus/<target>`. The driver (`cargo xtask fuzz --minutes N`) mutates it on
//! the stable compiler; an ordinary test replays it, and a fixed number of seeded mutations.
//! A coverage-guided fuzzer takes the same functions: `fuzz_target!(|data: &[u8]| (run)(data))`.
//!
//! | File | Holds |
//! |---|---|
//! | `targets` | the functions |
//! | `mutate` | seeded mutations: the same seed makes the same bytes |

// Whatever fails here must stop the process: that is the finding.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod mutate;
mod targets;

use std::fs;
use std::path::PathBuf;

pub use targets::TARGETS;

/// One target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub krate: &'static str,
    pub name: &'static str,
    pub run: fn(&[u8]),
}

impl Target {
    /// Where its corpus is.
    pub fn folder(&self) -> PathBuf {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
        root.join("crates").join(self.krate).join("fuzz/corpus").join(self.name)
    }

    /// Its corpus, by name of file.
    ///
    /// # Errors
    /// There is none.
    pub fn corpus(&self) -> std::io::Result<Vec<(String, Vec<u8>)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(self.folder())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            all.push((name, fs::read(&path)?));
        }
        all.sort();
        Ok(all)
    }
}
