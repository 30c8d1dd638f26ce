//! The ledger on real files: what is appended is read back, byte for byte, and verifies.

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bulla_core::*;
use bulla_ledger::*;
use bulla_tlog::{entry::Kind, verify::Verdict};
use bytes::Bytes;
use support::*;

#[test]
fn a_session_is_recorded_and_the_ledger_reopens() {
    let dir = TempDir::new("reopen");
    let ledger = Ledger::open(config(&dir)).unwrap();
    assert_eq!(ledger.recovery().entries, 0);
    let (mut journal, opened) = ledger.open(&open_record(1)).unwrap();
    assert_eq!(wait_durable(opened).unwrap().index, 2, "genesis and boot come first");
    wait_durable(intent(&mut *journal, 1, "select 1", b"Q select 1")).unwrap();
    let big = noise(1, 200_000);
    wait_durable(evidence(&mut *journal, 1, Flow::ToClient, &big, Some(outcome(1)))).unwrap();
    assert_eq!(journal.next_seq(), 3);
    drop(journal);
    ledger.shutdown().unwrap();
    assert_eq!(ledger.shutdown(), Ok(()));
    let entries = ledger.health().entries;
    assert_eq!(entries, 7, "genesis, boot, open, intent, outcome, abandoned close, end of the run");
    assert!(matches!(ledger.open(&open_record(2)), Err(RecordError::Stopped(_))));
    drop(ledger);

    let ledger = Ledger::open(config(&dir)).unwrap();
    assert_eq!(ledger.recovery().entries, entries);
    assert!(!ledger.recovery().was_cut_off);
    assert!(matches!(Ledger::open(config(&dir)), Err(LedgerError::InUse { .. })));
    ledger.shutdown().unwrap();
    let report = verify(ledger.dir());
    assert_eq!(report.verdict, Verdict::Complete, "{:?}", report.findings);
    assert_eq!((report.runs, report.sessions.closed), (2, 1));
}

/// A statement too long for an entry, a payload too long for one frame, every kind of record.
#[test]
fn every_byte_comes_back() {
    let dir = TempDir::new("bytes");
    let ledger = Ledger::open(LedgerConfig { segment_bytes: 16 << 20, ..config(&dir) }).unwrap();
    let open = open_record(7);
    let (mut journal, _) = ledger.open(&open).unwrap();
    let mut to_target = vec![];
    let mut to_client = vec![];
    let mut number = 0;
    for len in [0, 1, 2_047, 2_048, 2_049, 65_536, 65_537, 600_000, 3_000_000] {
        number += 1;
        let (asked, answered) = (noise(number, len), noise(number + 50, len));
        let text: String = "select '".chars().chain(std::iter::repeat_n('x', len)).collect();
        wait_durable(intent(&mut *journal, number, &text, &asked)).unwrap();
        to_target.extend_from_slice(&asked);
        for piece in answered.chunks(700_000) {
            wait_durable(evidence(&mut *journal, number, Flow::ToClient, piece, None)).unwrap();
        }
        to_client.extend_from_slice(&answered);
        evidence(&mut *journal, number, Flow::ToTarget, b"more", None);
        to_target.extend_from_slice(b"more");
        evidence(&mut *journal, number, Flow::ToClient, &answered, Some(outcome(number)));
        to_client.extend_from_slice(&answered);
        // Compresses well.
        let refused = vec![b'r'; len];
        journal
            .refusal(&RefusalRecord {
                at: now(number),
                number: number + 1_000,
                command: Some(&command(&text)),
                payload: refused.into(),
                kind: "denied",
                message: "refused: no",
                reason: Some(&DenyReason::NoPermit {
                    what: "orders.x".into(),
                    action: "postgres:select".into(),
                }),
                because: Some(&because()),
            })
            .map(wait_durable)
            .unwrap()
            .unwrap();
    }
    let terms = HoldTerms { groups: vec!["dba".into()], quorum: 1, expires_ms: 60_000 };
    let grant = GrantRecord {
        at: now(99),
        number: 99,
        ask: "7F3K-2Q".into(),
        digest: Digest([3; 32]),
        answer: "approved",
        by: Some("k8s|alice".into()),
        reason: Some("fine".into()),
    };
    journal
        .hold(&HoldRecord {
            at: now(99),
            number: 99,
            command: &command("delete"),
            ask: "7F3K-2Q".into(),
            digest: Digest([3; 32]),
            terms: &terms,
            because: &because(),
        })
        .unwrap();
    journal.grant(&grant).unwrap();
    wait_durable(close(&mut *journal)).unwrap();
    assert!(matches!(journal.grant(&grant), Err(RecordError::Bug(_))));
    ledger
        .admin(&AdminRecord {
            at: now(100),
            kind: "policy",
            by: "local:root".into(),
            detail: "loaded".into(),
            digest: Some(Digest([5; 32])),
        })
        .unwrap();
    let away = ledger.turned_away(&TurnedAwayRecord {
        at: now(101),
        protocol: "postgres",
        origin: open.origin.clone(),
        principal: Some(principal()),
        resource: Some("nothing\u{1b}[2J".into()),
        why: "unknown_resource",
        detail: "no such resource".into(),
        because: None,
    });
    let away = wait_durable(away.unwrap()).unwrap();

    // Beside the running gateway, then once all is archived.
    for archived in [false, true] {
        if archived {
            ledger.shutdown().unwrap();
        }
        let reader = Reader::open(ReaderConfig::of_ledger(ledger.dir())).unwrap();
        let session = reader.session(open.session).unwrap();
        assert!(session.place().closed);
        let stream = |flow, command| {
            let mut out = vec![];
            session
                .stream(flow, command, &mut |piece| {
                    out.extend_from_slice(piece);
                    Ok(())
                })
                .unwrap();
            out
        };
        assert!(stream(Flow::ToTarget, None) == to_target);
        assert!(stream(Flow::ToClient, None) == to_client);
        assert!(stream(Flow::ToTarget, Some(4)) == [noise(4, 2_048), b"more".to_vec()].concat());
        let events: Vec<Event> = session.events().map(Result::unwrap).collect();
        let of = |kind| events.iter().filter(move |event| event.kind() == kind);
        assert_eq!(
            of(Kind::Open).next().unwrap().detail.principal.as_ref().unwrap().id,
            "k8s|billing/api"
        );
        for (event, len) in of(Kind::Intent).zip([0, 1, 2_047, 2_048, 2_049, 65_536]) {
            assert_eq!(event.detail.shown.as_ref().unwrap().len(), 8 + len);
            assert_eq!(event.entry.policies, ["reads"]);
        }
        assert_eq!(of(Kind::Intent).count(), 9);
        assert_eq!(of(Kind::Outcome).next_back().unwrap().entry.bytes_out, Some(6_000_000));
        assert_eq!(of(Kind::Outcome).next_back().unwrap().detail.tag.as_deref(), Some("SELECT 9"));
        let refusal = of(Kind::Refusal).next_back().unwrap();
        assert_eq!(refusal.detail.shown.as_ref().unwrap().len(), 3_000_008);
        let mut refused = vec![];
        session
            .payload(refusal, &mut |piece| {
                refused.extend_from_slice(piece);
                Ok(())
            })
            .unwrap();
        // The rest of a long payload stands in the chunks that follow.
        assert!(!refused.is_empty() && refused.iter().all(|byte| *byte == b'r'));
        assert_eq!(of(Kind::Hold).next().unwrap().detail.groups, ["dba"]);
        let granted = of(Kind::Grant).next().unwrap();
        assert_eq!(granted.detail.by.as_deref(), Some("k8s|alice"));
        assert_eq!(of(Kind::Close).next().unwrap().entry.counts.unwrap().commands, 9);

        let refused = reader.entry(away.index).unwrap().entry;
        assert_eq!(refused.status.as_deref(), Some("unknown_resource"));
        assert_eq!(refused.subj_tag, Some(reader.keys().unwrap().subject_tag("k8s|billing/api")));
        let sid = SessionId(refused.session.unwrap().sid);
        let event = reader.session(sid).unwrap().events().next().unwrap().unwrap();
        assert_eq!(event.detail.part.as_deref(), Some("nothing\u{1b}[2J"));
        let sessions: Vec<_> = reader.sessions().map(Result::unwrap).collect();
        assert_eq!(sessions.len(), 2, "the gateway's own, then the client's");
        assert_eq!(sessions[1].1, open.session);
    }
    let report = verify(ledger.dir());
    assert_eq!(report.verdict, Verdict::Complete, "{:?}", report.findings);
    assert!(report.objects > 100);
}

#[test]
fn a_copy_of_the_archive_is_enough() {
    let dir = TempDir::new("copy");
    let ledger = Ledger::open(config(&dir)).unwrap();
    let (mut journal, _) = ledger.open(&open_record(1)).unwrap();
    intent(&mut *journal, 1, "select 1", &noise(1, 10_000));
    wait_durable(close(&mut *journal)).unwrap();
    wait_published(&ledger);
    let copy = dir.0.join("copy");
    let mut cp = std::process::Command::new("cp");
    assert!(cp.arg("-r").arg(ledger.archive_dir()).arg(&copy).status().unwrap().success());
    let vkey = log_vkey(&ledger.keys_dir()).unwrap();
    let config =
        ReaderConfig { archive: copy.clone(), keys: None, journal: None, log: vec![vkey.clone()] };
    let reader = Reader::open(config.clone()).unwrap();
    let sid = open_record(1).session;
    assert_eq!(reader.find(sid).unwrap().entries, [2, 3, 4]);
    assert!(matches!(reader.session(sid), Err(ReadError::NoKeys(_))));
    let proof = reader.prove(3).unwrap();
    let entry = reader.entry(3).unwrap();
    assert!(proof.verify(&entry.bytes, std::slice::from_ref(&vkey), &[]).is_ok());
    assert!(proof.verify(b"other", std::slice::from_ref(&vkey), &[]).is_err());
    assert!(matches!(reader.prove(1_000), Err(ReadError::BeyondEnd(1_000))));
    let keys = Some(ledger.keys_dir());
    let reader = Reader::open(ReaderConfig { keys, ..config }).unwrap();
    let session = reader.session(sid).unwrap();
    let event = session.events().nth(1).unwrap().unwrap();
    assert_eq!(session.payload_bytes(&event).unwrap(), noise(1, 10_000));

    // One bit of the evidence, and it is named.
    let objects = copy.join("objects");
    let pack = std::fs::read_dir(&objects).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&pack).unwrap();
    let at = bytes.len() - 100;
    bytes[at] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let report = verify_dir(&copy, &[vkey], Default::default(), 3, &mut |_| {}).unwrap();
    let Verdict::Tampered { first } = report.verdict else { panic!("{:?}", report.verdict) };
    assert_eq!(first.index, Some(3));
    assert!(session.payload_bytes(&event).is_err());
}

#[test]
fn many_threads_append_and_every_session_is_whole() {
    let dir = TempDir::new("threads");
    let ledger = Ledger::open(config(&dir)).unwrap();
    std::thread::scope(|scope| {
        for n in 1..=8u8 {
            let ledger: &Arc<Ledger> = &ledger;
            scope.spawn(move || {
                let (mut journal, _) = append(|| ledger.open(&open_record(n)));
                for number in 1..=100 {
                    intent(&mut *journal, number, "select 1", &noise(number, 300));
                    let end = Some(outcome(1));
                    let pending =
                        evidence(&mut *journal, number, Flow::ToClient, &noise(number, 5_000), end);
                    if number % 7 == 0 {
                        wait_durable(pending).unwrap();
                    }
                }
                wait_durable(close(&mut *journal)).unwrap();
            });
        }
    });
    ledger.shutdown().unwrap();
    let report = verify(ledger.dir());
    assert_eq!(report.verdict, Verdict::Complete, "{:?}", report.findings);
    assert_eq!((report.sessions.closed, report.entries), (8, 3 + 8 * 202));
    let reader = Reader::open(ReaderConfig::of_ledger(ledger.dir())).unwrap();
    let session = reader.session(open_record(5).session).unwrap();
    assert_eq!(session.events().filter(|event| event.is_ok()).count(), 202);
    // The journal is cut down to what the archive does not have.
    assert!(std::fs::read_dir(ledger.dir().join("journal")).unwrap().count() <= 4);
}

/// Bundles, tiles and packs grow, partial ones go and segments are removed while somebody reads.
#[test]
fn whoever_reads_beside_a_busy_ledger_sees_a_whole_log() {
    let dir = TempDir::new("beside");
    let ledger = Ledger::open(LedgerConfig { checkpoint_ms: 1, ..config(&dir) }).unwrap();
    wait_published(&ledger);
    let (writers, mut seen, mut looks) = (AtomicUsize::new(3), 0, 0);
    std::thread::scope(|scope| {
        for thread in 0..3u8 {
            let (ledger, writers): (&Arc<Ledger>, _) = (&ledger, &writers);
            scope.spawn(move || {
                for n in 0..40u8 {
                    let mut open = open_record(thread);
                    open.session = SessionId::new(open.at, [thread, n, 7, 7, 7, 7, 7, 7, 7, 7]);
                    let (mut journal, _) = append(|| ledger.open(&open));
                    for number in 1..=15 {
                        intent(&mut *journal, number, "select 1", b"Q select 1");
                        let (bytes, end) = (noise(number, 3_000), Some(outcome(number)));
                        let end = evidence(&mut *journal, number, Flow::ToClient, &bytes, end);
                        wait_durable(end).unwrap();
                    }
                    wait_durable(close(&mut *journal)).unwrap();
                }
                writers.fetch_sub(1, Ordering::SeqCst);
            });
        }
        while writers.load(Ordering::SeqCst) > 0 {
            let report = verify(ledger.dir());
            assert_eq!(report.verdict, Verdict::Complete, "{:?}", report.findings);
            assert!(report.entries >= seen, "{} after {seen}", report.entries);
            (seen, looks) = (report.entries, looks + 1);
            let reader = Reader::open(ReaderConfig::of_ledger(ledger.dir())).unwrap();
            assert!(reader.len() >= seen);
            for session in reader.sessions().take(5) {
                let session = reader.session(session.unwrap().1).unwrap();
                for event in session.events() {
                    let event = event.unwrap();
                    let bytes = session.payload_bytes(&event).unwrap();
                    let is_answer = event.flow() == Some(Flow::ToClient);
                    assert!(!is_answer || bytes == noise(event.command().unwrap(), 3_000));
                }
            }
        }
    });
    assert!(looks > 0);
    ledger.shutdown().unwrap();
    let report = verify(ledger.dir());
    assert_eq!((report.verdict, report.sessions.closed), (Verdict::Complete, 120));
}

#[test]
fn what_would_be_another_log_is_refused() {
    let dir = TempDir::new("refused");
    let ledger = Ledger::open(config(&dir)).unwrap();
    let (mut journal, _) = ledger.open(&open_record(1)).unwrap();
    wait_durable(close(&mut *journal)).unwrap();
    ledger.shutdown().unwrap();
    let root = ledger.dir().to_path_buf();
    drop(ledger);

    let other = LedgerConfig { origin: "other.example/log".into(), ..config(&dir) };
    assert!(matches!(Ledger::open(other), Err(LedgerError::Keys(_))));

    let keys = root.join("keys");
    std::fs::rename(keys.join("log.skey"), keys.join("aside")).unwrap();
    assert!(matches!(Ledger::open(config(&dir)), Err(LedgerError::Keys(_))));
    assert!(!keys.join("log.skey").exists(), "no new key for an old log");
    std::fs::rename(keys.join("aside"), keys.join("log.skey")).unwrap();

    let journal = root.join("journal");
    std::fs::rename(&journal, root.join("aside")).unwrap();
    std::fs::create_dir(&journal).unwrap();
    let error = Ledger::open(config(&dir)).unwrap_err();
    assert!(matches!(error, LedgerError::RolledBack { recovered: 0, published: 5 }), "{error}");
    std::fs::remove_dir_all(&journal).unwrap();
    std::fs::rename(root.join("aside"), &journal).unwrap();
    Ledger::open(config(&dir)).unwrap();
}

#[test]
fn limits_refuse_and_leave_no_trace() {
    let dir = TempDir::new("limits");
    for (bad, why) in [
        (LedgerConfig { segment_bytes: 1 << 10, ..config(&dir) }, "segment_bytes"),
        (LedgerConfig { reserve_bytes: 1 << 20, ..config(&dir) }, "reserve_bytes"),
        (LedgerConfig { inline_bytes_max: 1 << 20, ..config(&dir) }, "inline_bytes_max"),
        (LedgerConfig { checkpoint_ms: 0, ..config(&dir) }, "checkpoint_ms"),
    ] {
        let error = Ledger::open(bad).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let config = LedgerConfig { backlog_bytes_max: 0, ..config(&dir) };
    let ledger = Ledger::open(config).unwrap();
    let (mut journal, _) = ledger.open(&open_record(1)).unwrap();
    // More than the room of all segments together.
    let record = |len| EvidenceRecord {
        at: now(1),
        number: 1,
        flow: Flow::ToClient,
        bytes: Bytes::from(vec![0; len]),
        outcome: None,
        masked: Default::default(),
    };
    assert_eq!(journal.evidence(record(64 << 20)).unwrap_err(), RecordError::Backlog);
    assert_eq!(journal.next_seq(), 1);
    wait_durable(close(&mut *journal)).unwrap();
    ledger.shutdown().unwrap();
    assert_eq!(verify(ledger.dir()).verdict, Verdict::Complete);
}

/// The intent of a plain read waits for its response; without one it is written soon all the same.
#[test]
fn what_nobody_waits_for_is_written_as_well() {
    let dir = TempDir::new("unhurried");
    let ledger = Ledger::open(config(&dir)).unwrap();
    let (mut journal, opened) = ledger.open(&open_record(1)).unwrap();
    wait_durable(opened).unwrap();
    for number in 1..=20 {
        let pending = intent(&mut *journal, number, "select 1", b"Q select 1");
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        // Looking hurries nothing.
        while pending.peek().is_none() {
            assert!(std::time::Instant::now() < until, "intent {number} was never written");
            std::thread::yield_now();
        }
    }
    wait_durable(close(&mut *journal)).unwrap();
}

/// A thread that gathers wake-ups owes them: made, or not made, nothing waits for ever.
#[test]
fn a_wake_up_that_is_owed_is_made() {
    let dir = TempDir::new("owed");
    let ledger = Ledger::open(config(&dir)).unwrap();
    std::thread::scope(|scope| {
        for (n, makes) in [(1, true), (2, false)] {
            let ledger = &ledger;
            scope.spawn(move || {
                gather_wake_ups();
                let (mut journal, opened) = ledger.open(&open_record(n)).unwrap();
                wait_durable(opened).unwrap();
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                for number in 1..=50 {
                    let pending = intent(&mut *journal, number, "select 1", b"Q select 1");
                    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
                    while pending.poll_durable(&mut context).is_pending() {
                        assert!(std::time::Instant::now() < until, "intent {number} never came");
                        if makes {
                            wake_committer();
                        }
                        std::thread::yield_now();
                    }
                }
                wait_durable(close(&mut *journal)).unwrap();
            });
        }
    });
}
