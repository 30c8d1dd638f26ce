//! `kill -9` at any moment, many times over: every entry that the process said was durable is there
//! afterwards, at its index, and the log verifies.
#![allow(clippy::unwrap_used, reason = "the child is a test, too")]

mod support;

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bulla_core::*;
use bulla_ledger::*;
use bulla_tlog::verify::Verdict;
use support::*;

const CHILD: &str = "BULLA_LEDGER_TEST_CHILD";
const ROUNDS: u64 = 10;

/// Appends from several threads for ever and prints each receipt once it has it.
fn child(dir: TempDir, round: u8) -> ! {
    let ledger = Ledger::open(config(&dir)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let ledger = &ledger;
            scope.spawn(move || {
                for n in 0.. {
                    let mut open = open_record(thread);
                    let mut random = [round; 10];
                    random[..4].copy_from_slice(&u32::to_be_bytes(n));
                    random[4] = thread;
                    open.session = SessionId::new(open.at, random);
                    let say = |pending: Pending| {
                        let receipt = wait_durable(pending).unwrap();
                        let mut out = std::io::stdout().lock();
                        writeln!(out, "ack {} {}", receipt.index, receipt.leaf).unwrap();
                        out.flush().unwrap();
                    };
                    let (mut journal, opened) = append(|| ledger.open(&open));
                    say(opened);
                    for number in 1..=20 {
                        say(intent(&mut *journal, number, "select 1", b"Q select 1"));
                        let bytes = noise(number, number as usize * 3_001);
                        let end = Some(outcome(number));
                        say(evidence(&mut *journal, number, Flow::ToClient, &bytes, end));
                    }
                    say(close(&mut *journal));
                }
            });
        }
    });
    unreachable!("the threads do not end");
}

#[test]
fn nothing_acknowledged_is_lost() {
    if let Ok(text) = std::env::var(CHILD) {
        let (round, dir) = text.split_once(':').unwrap();
        child(TempDir(dir.into()), round.parse().unwrap());
    }
    let dir = TempDir::new("kill");
    let mut acknowledged: Vec<(u64, Digest)> = vec![];
    for round in 0..ROUNDS {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["nothing_acknowledged_is_lost", "--exact", "--nocapture"])
            .env(CHILD, format!("{round}:{}", dir.0.display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        let mut count = 0;
        let deadline = Instant::now() + Duration::from_secs(60);
        // Killed after so many receipts, then what it still said is read to the end.
        let wanted = 3 + round * 61 % 300;
        loop {
            line.clear();
            if lines.read_line(&mut line).unwrap() == 0 {
                break;
            }
            let ack = line.strip_prefix("ack ").and_then(|rest| rest.strip_suffix('\n'));
            if let Some((index, leaf)) = ack.and_then(|rest| rest.split_once(' ')) {
                acknowledged.push((index.parse().unwrap(), Digest::from_hex(leaf).unwrap()));
                count += 1;
                if count == wanted {
                    process.kill().unwrap();
                }
            }
            assert!(Instant::now() < deadline, "round {round}: {count} receipts");
        }
        assert!(count >= wanted, "round {round}: the process ended by itself");
        process.wait().unwrap();
    }
    let ledger = Ledger::open(config(&dir)).unwrap();
    assert!(ledger.recovery().was_cut_off);
    ledger.shutdown().unwrap();
    let report = verify(ledger.dir());
    assert_eq!(report.verdict, Verdict::Complete, "{:?}", report.findings);
    assert_eq!(report.runs, ROUNDS + 1);
    let reader = Reader::open(ReaderConfig::of_ledger(ledger.dir())).unwrap();
    for (index, leaf) in &acknowledged {
        let entry = reader.entry(*index).unwrap();
        assert_eq!(entry.leaf.0, leaf.0, "entry {index}");
    }
    // And can be read: each session, as far as it got.
    let mut sessions = 0;
    for session in reader.sessions().take(60) {
        let (_, id) = session.unwrap();
        let session = reader.session(id).unwrap();
        let events: Vec<Event> = session.events().map(Result::unwrap).collect();
        for event in &events {
            let bytes = session.payload_bytes(event).unwrap();
            if event.flow() == Some(Flow::ToClient) {
                let number = event.command().unwrap();
                assert!(bytes == noise(number, number as usize * 3_001));
            }
        }
        assert!(session.place().closed, "a crash closes what it cut off");
        sessions += 1;
    }
    assert!(sessions >= 10);
}
