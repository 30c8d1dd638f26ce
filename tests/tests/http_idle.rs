//! Clients that are slow, and many that say nothing: they hurt nobody else.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use bulla_e2e::expect::has;
use bulla_e2e::http::recorded;

#[test]
fn slow_clients_are_ended_and_hurt_nobody() {
    let (world, _target) = recorded().unwrap();
    let mut started = Instant::now();
    let mut slow: Vec<_> = (0..200)
        .map(|_| {
            started = Instant::now();
            let mut raw = world.raw(&[]).unwrap();
            raw.send("GET / HTTP/1.1\r\nhost: local").unwrap();
            raw
        })
        .collect();
    let idle: Vec<_> = (0..100).map(|_| world.raw(&["h2", "http/1.1"]).unwrap()).collect();
    // While they hold their connections, others are served at once.
    let asked = Instant::now();
    has(&world.curl("/a", &[]).unwrap().out(), &[" 200"]);
    assert!(asked.elapsed() < Duration::from_secs(5));
    let last = slow.pop().unwrap();
    let answer = String::from_utf8_lossy(&last.rest()).into_owned();
    has(&answer, &["408", "took too long"]);
    let took = started.elapsed();
    assert!(took > Duration::from_secs(8) && took < Duration::from_secs(30), "{took:?}");
    for raw in slow.into_iter().take(20) {
        assert!(raw.closes_within(Duration::from_secs(15)));
    }
    for raw in idle.into_iter().take(10) {
        assert!(raw.closes_within(Duration::from_secs(25)), "who says nothing may not stay");
    }
}

/// How many connections this process and the gateway may have; the gateway raises its own limit.
fn raise_file_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid `rlimit` that outlives both calls; the first fills it, the second
    // only reads it.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    assert!(raised, "raise the limit of open files");
    usize::try_from(limit.rlim_cur).unwrap()
}

fn resident_kib(pid: libc::pid_t) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

const IDLE: usize = 10_000;

#[test]
fn ten_thousand_idle_connections_hurt_nobody() {
    let limit = raise_file_limit();
    assert!(
        limit > IDLE + 500,
        "{limit} open files are too few: raise the hard limit (ulimit -Hn)"
    );
    let (world, _target) = recorded().unwrap();
    let pid = world.gateway.proc().pid();
    let before = resident_kib(pid);
    let auth = format!("authorization: Bearer {}", world.token().unwrap());
    let get = format!("GET /a HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n\r\n");
    // Each has said who it is, was answered, and says nothing more.
    let share = IDLE / 8;
    let mut idle: Vec<_> = std::thread::scope(|scope| {
        let open = || {
            let one = |_| {
                let mut raw = world.raw(&[]).unwrap();
                raw.send(&get).unwrap();
                raw.until("{\"ok\":true}").unwrap();
                raw
            };
            (0..share).map(one).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(idle.len(), IDLE);
    let grown = resident_kib(pid).saturating_sub(before);
    eprintln!("{IDLE} idle connections: {grown} KiB, {} each", grown / IDLE as u64);
    // Some or all have their connection to the target still: it is kept for 20 s.
    assert!(grown < 100 * IDLE as u64, "each idle connection costs {} KiB", grown / IDLE as u64);
    for _ in 0..20 {
        let asked = Instant::now();
        has(&world.curl("/a", &["--http2"]).unwrap().out(), &["200"]);
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    }
    // They are still good; the first ones may have been idle for too long by now.
    for raw in idle.iter_mut().rev().take(20) {
        raw.send(&get).unwrap();
        raw.until("{\"ok\":true}").unwrap();
    }
}
