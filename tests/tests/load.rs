//! What the gateway holds, in sizes for every run. `cargo xtask load` measures the full ones.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use bulla_e2e::load::{self, Bed, quantile};

/// A debug build under a busy machine; the full measure holds a release build to less.
const LOGIN_MAX: Duration = Duration::from_millis(100);

#[test]
fn idle_sessions_are_small_and_busy_ones_go_on() {
    let bed = Bed::start("").unwrap();
    let opened = load::idle_sessions(&bed, 300).unwrap();
    println!(
        "{} sessions in {:?}: {:.1} KiB each, {:.0} new sessions per second and core (debug)",
        opened.sessions.len(),
        opened.took,
        opened.kib_each,
        opened.per_second_and_core()
    );
    assert!(opened.kib_each <= 100.0, "{:.1} KiB for an idle session", opened.kib_each);
    let mut times = load::busy(&bed, 30, Duration::from_secs(2)).unwrap();
    println!("{} statements beside them, p99 {:?}", times.len(), quantile(&mut times, 0.99));
    assert!(times.len() > 500, "{} statements", times.len());
    drop(opened);
}

#[test]
fn sockets_that_never_speak_hinder_nobody() {
    let bed = Bed::start("").unwrap();
    let silent = load::silent_sockets(&bed, 2_000).unwrap();
    let mut times = load::logins(&bed, 20).unwrap();
    let (median, worst) = (quantile(&mut times, 0.5), quantile(&mut times, 1.0));
    println!("beside {} silent sockets a login takes {median:?}, at most {worst:?}", silent.len());
    assert!(median <= LOGIN_MAX, "{median:?}");
}

#[test]
fn a_hung_target_changes_nobody_elses_p99() {
    let bed = Bed::start("[limits]\nconnect_max = \"30s\"\n").unwrap();
    let during = Duration::from_secs(2);
    let p99 = || quantile(&mut load::busy(&bed, 8, during).unwrap(), 0.99);
    // Before and after, so that what else the machine does falls on both; and again, since a single
    // pause of a disk is a hundredth of such a while. What is hung is so all the time.
    let mut told = String::new();
    let changes_nothing = (0..5).any(|_| {
        let mut calm = p99();
        let hung = load::hung(&bed, 40).unwrap();
        let beside = p99();
        drop(hung);
        calm = calm.max(p99());
        told.push_str(&format!("p99 {calm:?} alone, {beside:?} beside 40 hung statements\n"));
        beside <= calm * 2 + Duration::from_millis(5)
    });
    println!("{told}");
    assert!(changes_nothing, "{told}");
}

#[test]
fn memory_does_not_grow_with_an_answer() {
    let bed = Bed::start("").unwrap();
    let large = load::large(&bed, 400_000_000).unwrap();
    println!("{large:?}");
    assert!(large.bytes > 400_000_000);
    assert!(large.grown_kib <= 32 << 10, "grown by {} KiB", large.grown_kib);
}

#[test]
fn budgets_and_deadlines_hold() {
    let limits = "[limits]\nhandshakes_per_source_max = 20\nhandshakes_max = 60\n\
                  handshake_max = \"8s\"\nsessions_max = 5\n";
    let bed = Bed::start(limits).unwrap();
    let address = bed.address();
    let dial = |source| {
        let socket = load::dial_from(source, address);
        bulla_e2e::tap::runtime().block_on(socket).unwrap()
    };
    // At once is long before a deadline.
    let at_once = Duration::from_secs(4);
    // One source takes its share and no more; others are let in all the same.
    let greedy: Vec<_> = (0..20).map(|_| dial([127, 0, 0, 2])).collect();
    let over = load::closed_after(dial([127, 0, 0, 2]), Duration::from_secs(20)).unwrap();
    assert!(over < at_once, "closed after {over:?}");
    assert_eq!(load::logins(&bed, 1).unwrap().len(), 1);
    // All sources together have a share, too.
    let crowd: Vec<_> = (0..40).map(|n| dial([127, 0, 0, 10 + (n % 4) as u8])).collect();
    let over = load::closed_after(dial([127, 0, 0, 30]), Duration::from_secs(20)).unwrap();
    assert!(over < at_once, "closed after {over:?}");
    // Who never speaks is gone by the deadline, and the room is free again.
    for socket in greedy.into_iter().chain(crowd) {
        load::closed_after(socket, Duration::from_secs(20)).unwrap();
    }
    let opened = load::idle_sessions(&bed, 4).unwrap();
    // Sessions have a limit of their own, said in words.
    let full = loop {
        match load::idle_sessions(&bed, 1) {
            Ok(_) => continue,
            Err(error) => break format!("{error:#}"),
        }
    };
    assert!(full.contains("full"), "{full}");
    drop(opened);
}
