//! Disks that fail.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::place::TempDir;
use crate::proc::capture;

/// A disk of which one write fails, when it is told to; see `failing_disk.c`.
#[derive(Debug)]
pub struct Failing {
    dir: TempDir,
    library: String,
}

impl Failing {
    /// Compiles it.
    ///
    /// # Errors
    /// There is no C compiler (the message says how to install one).
    pub fn new() -> Result<Self> {
        let dir = TempDir::new("failing-disk")?;
        let source = dir.write("failing_disk.c", include_str!("failing_disk.c"))?;
        let library = dir.join("failing_disk.so");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl");
        let made = capture(cc, None, Duration::from_secs(60));
        made.context("no cc; install it: apt-get install build-essential")?.success()?;
        Ok(Self { library: library.display().to_string(), dir })
    }

    /// The variables with which a gateway writes to it.
    pub fn env(&self) -> Vec<(String, String)> {
        let order = self.dir.join("fail").display().to_string();
        vec![("LD_PRELOAD".to_owned(), self.library.clone()), ("FAILING_DISK".to_owned(), order)]
    }

    /// The next write to the journal fails; `reached` says how much of it is on the disk all the
    /// same: `none`, `half` or `all`.
    ///
    /// # Errors
    /// The order cannot be written.
    pub fn fail(&self, reached: &str) -> Result<()> {
        self.dir.write("fail", reached).map(drop)
    }

    /// Whether the write that was to fail has failed.
    pub fn has_failed(&self) -> bool {
        !self.dir.join("fail").exists()
    }
}
