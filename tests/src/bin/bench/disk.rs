//! How long one flush takes.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

/// Flushes of one measurement.
const FLUSHES: u64 = 40;
const PAGE: usize = 4096;
/// Priority of the gateway's own committer.
const PRIORITY: i32 = 10;

#[repr(C, align(4096))]
struct Page([u8; PAGE]);

/// The median time of a durable write of 4 KiB into a file whose blocks are set aside, past the
/// page cache where the file system can, by a thread of real-time priority where that is allowed:
/// the way that the gateway asks for it. An ordinary thread would measure the scheduler.
pub fn flush_time(dir: &Path) -> Result<Duration> {
    let path = dir.join("bench-flush");
    fs::write(&path, vec![0; PAGE * 64]).with_context(|| format!("write {}", path.display()))?;
    File::open(&path)?.sync_all().context("flush")?;
    let open = |flags| OpenOptions::new().write(true).custom_flags(flags).open(&path);
    let direct = open(libc::O_DSYNC | libc::O_DIRECT);
    let file = direct.or_else(|_| open(libc::O_DSYNC)).context("open for durable writes")?;
    let measured = std::thread::spawn(move || {
        let parameters = libc::sched_param { sched_priority: PRIORITY };
        // SAFETY: `parameters` outlives the call; 0 names this thread. Refused, it stays ordinary.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
        let page = Page([0x42; PAGE]);
        let mut times = Vec::new();
        for n in 0..FLUSHES {
            let started = Instant::now();
            file.write_all_at(&page.0, n * PAGE as u64)?;
            times.push(started.elapsed());
        }
        Ok::<_, std::io::Error>(times)
    });
    let times = measured.join().map_err(|_| anyhow!("the flushing thread panicked"))?;
    let mut times = times.context("write durably")?;
    let _ = fs::remove_file(&path);
    times.sort();
    times.get(times.len() / 2).copied().context("a flush")
}
