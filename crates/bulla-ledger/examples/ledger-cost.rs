//! Durable entries a second, their latency, evidence in MB/s on the disk of a directory, and how
//! fast the log that this makes is verified on one core.
//!
//! `cargo run --profile fast -p bulla-ledger --example ledger-cost -- [DIR] [SESSIONS] [SECONDS]`
//! With `--json` (and `--quick`), as the benchmark calls it: in the working directory, as JSON.
//!
//! Sessions wait for each entry before the next, as strict traffic does; two threads drive them
//! all, as a runtime would.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement, not the product"
)]

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use bulla_core::*;
use bulla_ledger::*;
use bytes::Bytes;

const THREADS: usize = 2;
const ENTRY_BYTES: usize = 512;
const PIECE_BYTES: usize = 64 << 10;
/// Pieces of evidence in flight for each session.
const WINDOW: usize = 4;

struct Driver {
    thread: std::thread::Thread,
    woken: AtomicBool,
}
impl Wake for Driver {
    fn wake(self: Arc<Self>) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.thread.unpark();
        }
    }
}

fn open_record(n: usize) -> OpenRecord {
    let at = Timestamp::from_secs(1_800_000_000);
    let mut random = [0; 10];
    random[..8].copy_from_slice(&(n as u64).to_be_bytes());
    OpenRecord {
        session: SessionId::new(at, random),
        at,
        principal: Arc::new(Principal {
            id: PrincipalId::new("bench", "bench").unwrap(),
            kind: PrincipalKind::Workload,
            issuer: "bench".into(),
            groups: vec![],
            attributes: Default::default(),
            proof: Proof {
                kind: CredentialKind::Jwt,
                hash: Digest::ZERO,
                jti: None,
                kid_tail: None,
                issued_at: at,
                expires_at: at,
                verified_at: at,
                bound: false,
                jwks_stale: false,
            },
        }),
        resource: ResourceName::new("bench").unwrap(),
        part: None,
        protocol: "postgres",
        origin: Origin {
            address: "127.0.0.1".parse().unwrap(),
            port: 1,
            tls: "".into(),
            certificate: None,
        },
        mode: Mode::Strict,
        because: Because { policies: vec![], bundle: Digest::ZERO },
        claims: vec![],
    }
}

/// Half noise, half zeros: compresses to about half.
fn bytes(seed: u64, len: usize) -> Bytes {
    let mut state = seed | 1;
    let mut out = vec![0; len];
    for byte in out.iter_mut().take(len / 2) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (state >> 56) as u8;
    }
    out.into()
}

struct Slot {
    journal: Box<dyn Journal>,
    waiting: std::collections::VecDeque<(Instant, Pending)>,
    number: u64,
}

/// Drives sessions until time is up. Returns what each append took, in microseconds.
fn drive(
    ledger: &Ledger,
    sessions: std::ops::Range<usize>,
    until: Instant,
    payload: &Bytes,
    window: usize,
    done: &AtomicU64,
) -> Vec<u32> {
    let mut slots: Vec<Slot> = sessions
        .map(|n| {
            let (journal, pending) = ledger.open(&open_record(n)).unwrap();
            wait_durable(pending).unwrap();
            Slot { journal, waiting: Default::default(), number: 0 }
        })
        .collect();
    let driver = Arc::new(Driver { thread: std::thread::current(), woken: AtomicBool::new(false) });
    let waker = Waker::from(driver.clone());
    let mut context = Context::from_waker(&waker);
    let mut took = vec![];
    while Instant::now() < until {
        driver.woken.store(false, Ordering::Release);
        let mut moved = false;
        for slot in &mut slots {
            while let Some((start, pending)) = slot.waiting.front() {
                let Poll::Ready(result) = pending.poll_durable(&mut context) else { break };
                result.unwrap();
                took.push(start.elapsed().as_micros() as u32);
                done.fetch_add(1, Ordering::Relaxed);
                slot.waiting.pop_front();
            }
            while slot.waiting.len() < window {
                slot.number += 1;
                let record = EvidenceRecord {
                    at: Timestamp::from_secs(1_800_000_000),
                    number: slot.number,
                    flow: Flow::ToClient,
                    bytes: payload.clone(),
                    outcome: Some(Outcome { status: Status::Ok, tag: None, rows: 1 }),
                    masked: Default::default(),
                };
                match slot.journal.evidence(record) {
                    Ok(pending) => slot.waiting.push_back((Instant::now(), pending)),
                    Err(RecordError::Backlog) => break,
                    Err(error) => panic!("{error}"),
                }
                moved = true;
            }
        }
        if !moved && !driver.woken.load(Ordering::Acquire) {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
    for slot in &mut slots {
        while let Some((_, pending)) = slot.waiting.pop_front() {
            wait_durable(pending).unwrap();
        }
    }
    took
}

fn run(
    ledger: &Ledger,
    name: &str,
    sessions: usize,
    time: Duration,
    payload: &Bytes,
    window: usize,
) -> f64 {
    let done = AtomicU64::new(0);
    let start = Instant::now();
    let first = (start.elapsed().as_nanos() as usize) + sessions * 1_000 + payload.len();
    let mut took: Vec<u32> = std::thread::scope(|scope| {
        let done = &done;
        let per = sessions.div_ceil(THREADS);
        let threads: Vec<_> = (0..THREADS.min(sessions))
            .map(|t| {
                let range = first + t * per..first + ((t + 1) * per).min(sessions);
                scope.spawn(move || drive(ledger, range, start + time, payload, window, done))
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let seconds = start.elapsed().as_secs_f64();
    let count = done.load(Ordering::Relaxed) as f64;
    took.sort_unstable();
    let quantile = |q: f64| took.get((took.len() as f64 * q) as usize).copied().unwrap_or(0);
    let health = ledger.health();
    eprintln!(
        "{name:<34} {:>9.0} entries/s {:>8.1} MB/s   append to durable p50 {:>6} p99 {:>6} us   \
         flush p50 {:>5} p99 {:>5} us",
        count / seconds,
        count * payload.len() as f64 / seconds / 1e6,
        quantile(0.5),
        quantile(0.99),
        health.flush_p50_us,
        health.flush_p99_us,
    );
    count / seconds
}

fn hot_path(ledger: &Ledger) -> f64 {
    let (mut journal, _) = ledger.open(&open_record(usize::MAX)).unwrap();
    let payload = bytes(3, 300);
    let (mut spent, mut count) = (Duration::ZERO, 0u32);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(500) {
        let mut last = None;
        let begin = Instant::now();
        for number in 0..32 {
            let record = EvidenceRecord {
                at: Timestamp::from_secs(1_800_000_000),
                number,
                flow: Flow::ToClient,
                bytes: payload.clone(),
                outcome: Some(Outcome { status: Status::Ok, tag: None, rows: 1 }),
                masked: Default::default(),
            };
            last = Some(journal.evidence(record).unwrap());
        }
        spent += begin.elapsed();
        count += 32;
        wait_durable(last.unwrap()).unwrap();
    }
    let each = spent.as_secs_f64() * 1e6 / f64::from(count);
    eprintln!(
        "append of 300 bytes in its caller's thread, sealing and hashing included: {each:.2} us"
    );
    each
}

/// Processor time that this process has used.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid `timespec` that outlives the call.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(done, 0, "the processor time of this process");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Bytes of all files in a directory and below.
fn tree_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("list the archive");
    entries
        .map(|entry| {
            let entry = entry.expect("list the archive");
            let meta = entry.metadata().expect("look at a file");
            if meta.is_dir() { tree_bytes(&entry.path()) } else { meta.len() }
        })
        .sum()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let is_set = |name: &str| args.iter().any(|arg| arg == name);
    let json = is_set("--json");
    let quick = is_set("--quick");
    let mut plain = args.iter().filter(|arg| !arg.starts_with("--"));
    let home = if json { PathBuf::from(".") } else { std::env::temp_dir() };
    let base = plain.next().map_or(home, PathBuf::from);
    let sessions = plain.next().map_or(64, |n| n.parse().expect("number of sessions"));
    let seconds = plain.next().map_or(if quick { 1 } else { 3 }, |n| n.parse().expect("seconds"));
    let time = Duration::from_secs(seconds);
    let dir = base.join(format!("bulla-bench-{}", std::process::id()));
    let config = LedgerConfig {
        dir: dir.clone(),
        origin: "bench.example/log".into(),
        ..LedgerConfig::default()
    };
    let ledger = Ledger::open(config).expect("open a ledger");
    eprintln!("real-time priority: {}", ledger.health().real_time);
    let append_us = hot_path(&ledger);
    let entry = bytes(1, ENTRY_BYTES);
    let mut entries_per_s = 0.0;
    for n in if json { vec![sessions] } else { vec![1, 8, sessions] } {
        let name = format!("{n} sessions, {ENTRY_BYTES} B");
        entries_per_s = run(&ledger, &name, n, time, &entry, 1);
    }
    let piece = bytes(2, PIECE_BYTES);
    let mut evidence = 0.0;
    for n in if json { vec![1] } else { vec![8, 1] } {
        let name = format!("{n} sessions, evidence of 64 KiB");
        evidence = run(&ledger, &name, n, time, &piece, WINDOW) * PIECE_BYTES as f64 / 1e6;
    }
    let start = Instant::now();
    ledger.shutdown().expect("close the ledger");
    eprintln!("last checkpoint and close: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let vkey = log_vkey(&dir.join("keys")).expect("the log's key");
    let archive = dir.join("archive");
    let read = tree_bytes(&archive) as f64;
    // On a busy machine the wall clock would measure the others.
    let start = processor_time();
    let report = verify_dir(&archive, &[vkey], Default::default(), 1, &mut |_| {});
    let report = report.expect("verify");
    let took = (processor_time() - start).as_secs_f64();
    let verify = read / took / 1e9;
    eprintln!(
        "verified {} entries and {} objects, {:.0} MB in {took:.2} s, {verify:.2} GB/s: {:?}",
        report.entries,
        report.objects,
        read / 1e6,
        report.verdict
    );
    std::fs::remove_dir_all(&dir).expect("remove the ledger");
    if json {
        println!(
            "{{\"append_ns\": {:.0}, \"entries_per_s\": {entries_per_s:.0}, \
             \"evidence_mb_per_s\": {evidence:.1}, \"verify_gb_per_s\": {verify:.3}}}",
            append_us * 1e3
        );
    }
}
