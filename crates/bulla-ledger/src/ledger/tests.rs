//! The whole ledger on a simulated disk: crashes, failing writes and syncs, a full disk, a disk
//! gone read-only. Whatever was acknowledged is there afterwards, at its index, and the log
//! verifies.

use std::io::ErrorKind;

use bulla_core::{
    ActionName, Command, Effects, EvidenceRecord, Flow, IntentRecord, Outcome, Purity,
    RefusalRecord, Spelling, Status, Touches,
};
use bulla_tlog::{tile::BundleId, verify::Verdict};

use super::*;
use crate::{
    archive::read_bundle,
    vfs::sim::{Fault, Plan, SimVfs, Survive, Torn},
};

fn config() -> LedgerConfig {
    LedgerConfig {
        dir: "/ledger".into(),
        origin: "test.example/log".into(),
        segment_bytes: 512 << 10,
        reserve_bytes: 64 << 10,
        checkpoint_ms: 3,
        heartbeat_ms: 5,
        real_time: crate::RealTime::Off,
        ..LedgerConfig::default()
    }
}

fn open(vfs: &SimVfs) -> Result<Arc<Ledger>, LedgerError> {
    Ledger::open_on(config(), Arc::new(vfs.clone()))
}

fn at(n: u64) -> Timestamp {
    Timestamp::from_secs(1_800_000_000 + n)
}

fn because() -> Because {
    Because { policies: vec!["p".into()], bundle: Digest([5; 32]) }
}

fn open_record(n: u8) -> OpenRecord {
    OpenRecord {
        session: SessionId::new(at(0), [n; 10]),
        at: at(0),
        principal: Arc::new(Principal {
            id: PrincipalId::new("k8s", "app").unwrap(),
            kind: PrincipalKind::Workload,
            issuer: "https://issuer.example".into(),
            groups: vec![],
            attributes: Default::default(),
            proof: Proof {
                kind: CredentialKind::Jwt,
                hash: Digest([7; 32]),
                jti: None,
                kid_tail: None,
                issued_at: at(0),
                expires_at: at(9),
                verified_at: at(0),
                bound: false,
                jwks_stale: false,
            },
        }),
        resource: ResourceName::new("orders").unwrap(),
        part: None,
        protocol: "postgres",
        origin: Origin {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 1,
            tls: "".into(),
            certificate: None,
        },
        mode: Mode::Strict,
        because: because(),
        claims: vec![],
    }
}

fn command() -> Command {
    Command {
        action: ActionName::new("postgres:select").unwrap(),
        spelling: Spelling::Capitals,
        effects: Effects::READ,
        touches: Touches::Known(vec![]),
        also: vec![],
        beneath: vec![],
        purity: Purity::Read,
        shown: "select 1".into(),
        parameters: Arc::new([]),
        facts: Default::default(),
        settings: "".into(),
    }
}

fn intent(journal: &mut dyn Journal, number: u64) -> Result<Pending, RecordError> {
    journal.intent(&IntentRecord {
        at: at(number),
        number,
        command: &command(),
        payload: b"select 1".as_slice().into(),
        decision: "allow",
        because: &because(),
        grant: None,
    })
}

fn evidence(journal: &mut dyn Journal, number: u64, len: usize) -> Result<Pending, RecordError> {
    journal.evidence(EvidenceRecord {
        at: at(number),
        number,
        flow: Flow::ToClient,
        bytes: (0..len).map(|i| (i as u8).wrapping_mul(number as u8)).collect(),
        outcome: Some(Outcome { status: Status::Ok, tag: None, rows: 1 }),
        masked: Default::default(),
    })
}

fn refusal(journal: &mut dyn Journal, number: u64) -> Result<Pending, RecordError> {
    journal.refusal(&RefusalRecord {
        at: at(number),
        number,
        command: None,
        payload: b"what".as_slice().into(),
        kind: "recorder_unavailable",
        message: "refused",
        reason: None,
        because: None,
    })
}

fn close(journal: &mut dyn Journal) -> Result<Pending, RecordError> {
    journal.close(&CloseRecord { at: at(99), why: "client".into(), detail: None })
}

/// Two sessions that wait for every append, one of them left open for good, until something fails.
/// Returns what was acknowledged.
fn work(ledger: &Ledger, seed: u8) -> Vec<Receipt> {
    let mut receipts = vec![];
    let mut wait = |pending: Result<Pending, RecordError>| -> Option<()> {
        receipts.push(wait_durable(pending.ok()?).ok()?);
        Some(())
    };
    let mut work = || {
        let (mut a, opened) = ledger.open(&open_record(seed)).ok()?;
        wait(Ok(opened))?;
        let (mut b, opened) = ledger.open(&open_record(seed + 1)).ok()?;
        wait(Ok(opened))?;
        for number in 1..=6 {
            wait(intent(&mut *a, number))?;
            wait(intent(&mut *b, number))?;
            wait(evidence(&mut *a, number, number as usize * 30_000))?;
            wait(evidence(&mut *b, number, 100))?;
        }
        wait(close(&mut *a))?;
        std::mem::forget(b);
        Some(())
    };
    work();
    receipts
}

/// Every receipt is honoured and the log is whole.
fn check(vfs: &SimVfs, vkey: &Vkey, receipts: &[Receipt], context: &str) {
    let dir = Path::new("/ledger/archive");
    let report = crate::verify::verify_on(
        Arc::new(vfs.clone()),
        dir,
        std::slice::from_ref(vkey),
        Default::default(),
        1,
        &mut |_| {},
    );
    let report = report.unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(report.verdict, Verdict::Complete, "{context}: {:?}", report.findings);
    for receipt in receipts {
        let bundle = BundleId::at(report.checkpoint.size(), receipt.index / 256).unwrap();
        let entries = read_bundle(vfs, dir, bundle).unwrap();
        let leaf = Hash::leaf(&entries[(receipt.index % 256) as usize]);
        assert_eq!(leaf.0, receipt.leaf.0, "{context}: entry {}", receipt.index);
    }
}

#[test]
fn a_crash_at_any_operation_loses_nothing_acknowledged() {
    // A first run that is cut off by nothing says how many operations there are.
    let vfs = SimVfs::new();
    let ledger = open(&vfs).unwrap();
    work(&ledger, 1);
    ledger.shutdown().unwrap();
    let total = vfs.ops();
    assert!(total > 100, "{total}");
    for n in (0..total + 20).step_by(3) {
        let torn = match n % 4 {
            0 => Torn::Prefix(n as usize * 37 % 9_000),
            1 => Torn::Sectors(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            2 => Torn::Prefix(0),
            _ => Torn::Prefix(usize::MAX),
        };
        let survive = match n % 3 {
            0 => Survive::Nothing,
            1 => Survive::All,
            _ => Survive::Some(n),
        };
        let context = format!("operation {n}, {torn:?}, {survive:?}");
        let vfs = SimVfs::new();
        vfs.plan(Some(Plan { path: "/".into(), at: n, fault: Fault::Crash(torn) }));
        let mut receipts = vec![];
        if let Ok(ledger) = open(&vfs) {
            receipts = work(&ledger, 1);
            vfs.crash();
        }
        // The second run is cut off as well, the third ends well.
        let vfs = vfs.after_crash(survive);
        let ledger = open(&vfs).unwrap_or_else(|error| panic!("{context}: {error}"));
        receipts.extend(work(&ledger, 11));
        vfs.crash();
        drop(ledger);
        let vfs = vfs.after_crash(Survive::Some(n + 1));
        let ledger = open(&vfs).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(ledger.recovery().was_cut_off, "{context}");
        receipts.extend(work(&ledger, 21));
        ledger.shutdown().unwrap();
        check(&vfs, ledger.vkey(), &receipts, &context);
    }
}

#[test]
fn a_failing_disk_stops_the_ledger_for_good() {
    for (kind, n) in [
        (ErrorKind::Other, 0),
        (ErrorKind::Other, 5),
        (ErrorKind::ReadOnlyFilesystem, 3),
        (ErrorKind::StorageFull, 7),
    ] {
        for forever in [false, true] {
            let vfs = SimVfs::new();
            let ledger = open(&vfs).unwrap();
            let fault = if forever { Fault::Forever(kind) } else { Fault::Error(kind) };
            // The segment that is being written; the others are ready.
            let path = "0000000000000000.seg".to_owned();
            vfs.plan(Some(Plan { path, at: n, fault }));
            let receipts = work(&ledger, 1);
            assert!(receipts.len() < 27, "{kind}");
            for _ in 0..3 {
                let error = ledger.open(&open_record(9)).err();
                assert!(matches!(error, Some(RecordError::Stopped(_))), "{error:?}");
            }
            // It says what failed. Where every write fails from one on, two threads meet that beside
            // each other, and the reason is of whichever is first to say so.
            let error = ledger.health().error.unwrap_or_default();
            let is_told = error.contains("journal") || (forever && error.starts_with("archive: "));
            assert!(is_told, "{kind} at {n}: {error}");
            assert!(ledger.shutdown().is_err());
            let vkey = ledger.vkey().clone();
            drop(ledger);
            let vfs = vfs.after_crash(Survive::Nothing);
            let ledger = open(&vfs).unwrap();
            ledger.shutdown().unwrap();
            check(&vfs, &vkey, &receipts, &format!("{kind} at {n}"));
        }
    }
}

#[test]
fn a_failing_archive_stops_the_ledger_too() {
    let vfs = SimVfs::new();
    let ledger = open(&vfs).unwrap();
    let fault = Fault::Error(ErrorKind::Other);
    vfs.plan(Some(Plan { path: "/archive".into(), at: 4, fault }));
    let receipts = work(&ledger, 1);
    for n in 0.. {
        if ledger.health().error.is_some() {
            break;
        }
        assert!(n < 2_000, "the archive's error is not noticed");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(matches!(ledger.open(&open_record(9)), Err(RecordError::Stopped(_))));
    let vkey = ledger.vkey().clone();
    drop(ledger);
    let vfs = vfs.after_crash(Survive::Nothing);
    open(&vfs).unwrap().shutdown().unwrap();
    check(&vfs, &vkey, &receipts, "archive");
}

/// Whichever thread of the ledger it is: nothing waits for it, and nothing goes on without it.
#[test]
fn a_thread_that_panics_stops_the_ledger() {
    for (path, why) in [
        ("0000000000000000.seg", "the committer panicked"),
        ("making.tmp", "the thread that makes segments"),
        ("/archive", "archive: its thread panicked"),
    ] {
        let vfs = SimVfs::new();
        let config = LedgerConfig { compression: crate::Compression::None, ..config() };
        let ledger = Ledger::open_on(config, Arc::new(vfs.clone())).unwrap();
        vfs.plan(Some(Plan { path: path.into(), at: 3, fault: Fault::Panic }));
        let mut receipts = vec![];
        let error = (0..2_000u64).find_map(|n| {
            receipts.extend(work(&ledger, (n % 200) as u8));
            // Whoever sees why finds the ledger stopped.
            let error = ledger.health().error?;
            let stopped = matches!(ledger.open(&open_record(9)), Err(RecordError::Stopped(_)));
            assert!(stopped, "{path}: {error}");
            Some(error)
        });
        let error = error.unwrap_or_else(|| panic!("{path}: it is not noticed"));
        assert!(error.contains(why), "{path}: {error}");
        assert!(ledger.shutdown().is_err(), "{path}");
        let vkey = ledger.vkey().clone();
        drop(ledger);
        let vfs = vfs.after_crash(Survive::Nothing);
        open(&vfs).unwrap().shutdown().unwrap();
        check(&vfs, &vkey, &receipts, path);
    }
}

#[test]
fn a_run_that_ends_on_a_full_disk_says_so_and_loses_nothing() {
    let vfs = SimVfs::new();
    let config = LedgerConfig { checkpoint_ms: 1 << 40, ..config() };
    let ledger = Ledger::open_on(config, Arc::new(vfs.clone())).unwrap();
    let receipts = work(&ledger, 1);
    assert_eq!(receipts.len(), 27);
    // The journal has its place; the archive has none.
    vfs.set_capacity(Some(0));
    let error = ledger.shutdown().unwrap_err().to_string();
    assert!(error.contains("no last checkpoint"), "{error}");
    let vkey = ledger.vkey().clone();
    drop(ledger);
    let vfs = vfs.after_crash(Survive::Nothing);
    vfs.set_capacity(None);
    open(&vfs).unwrap().shutdown().unwrap();
    check(&vfs, &vkey, &receipts, "full at the end");
}

#[test]
fn a_full_disk_refuses_before_the_first_byte_is_lost() {
    let vfs = SimVfs::new();
    let ledger = open(&vfs).unwrap();
    let (mut journal, opened) = ledger.open(&open_record(1)).unwrap();
    wait_durable(opened).unwrap();
    // The spare segments are there; nothing else fits any more.
    for _ in 0..400 {
        let names = vfs.list(Path::new("/ledger/journal")).unwrap();
        if names.iter().filter(|name| name.ends_with(".seg")).count() >= 3 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    vfs.set_capacity(Some(vfs.used()));
    let mut receipts = vec![];
    let mut number = 0;
    let full = loop {
        number += 1;
        match intent(&mut *journal, number).and_then(|_| evidence(&mut *journal, number, 60_000)) {
            Ok(pending) => receipts.push(wait_durable(pending).unwrap()),
            // The maker of segments may not have met the full disk yet.
            Err(RecordError::Backlog) => std::thread::sleep(std::time::Duration::from_millis(5)),
            Err(error) => break error,
        }
        assert!(number < 10_000);
    };
    assert_eq!(full, RecordError::Full);
    assert_eq!(ledger.health().error.as_deref(), Some("the disk of the record is full"));
    while let Ok(pending) = intent(&mut *journal, 20_000 + number) {
        receipts.push(wait_durable(pending).unwrap());
        number += 1;
        assert!(number < 10_000);
    }
    assert!(matches!(ledger.open(&open_record(2)), Err(RecordError::Full)));
    let before = journal.next_seq();
    assert_eq!(intent(&mut *journal, 1).unwrap_err(), RecordError::Full);
    assert_eq!(journal.next_seq(), before, "nothing is numbered that is not recorded");
    // Refusals are recorded out of the reserve, but not until nothing is left for closes.
    let mut refusals = 0;
    while let Ok(pending) = refusal(&mut *journal, 30_000 + refusals) {
        receipts.push(wait_durable(pending).unwrap());
        refusals += 1;
        assert!(refusals < 1_000);
    }
    assert!(refusals >= 5, "{refusals}");
    receipts.push(wait_durable(close(&mut *journal).unwrap()).unwrap());

    // Room again: the ledger goes on by itself.
    vfs.set_capacity(None);
    for n in 0.. {
        match ledger.open(&open_record(3)) {
            Ok((mut journal, opened)) => {
                receipts.push(wait_durable(opened).unwrap());
                receipts.push(wait_durable(close(&mut *journal).unwrap()).unwrap());
                break;
            }
            Err(error) => assert!(n < 1_000, "{error}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    ledger.shutdown().unwrap();
    check(&vfs, ledger.vkey(), &receipts, "full disk");
}

#[test]
fn published_entries_that_are_gone_are_missed() {
    let vfs = SimVfs::new();
    let ledger = open(&vfs).unwrap();
    work(&ledger, 1);
    // A snapshot of the disk, restored after the log went on.
    let journal = Path::new("/ledger/journal");
    let old = vfs.fork();
    work(&ledger, 11);
    ledger.shutdown().unwrap();
    drop(ledger);
    let rolled_back = vfs.fork();
    for name in vfs.list(journal).unwrap() {
        let path = journal.join(name);
        if let Ok(bytes) = old.read(&path, 1 << 20) {
            rolled_back.tamper(&path, |now| *now = bytes).unwrap();
        }
    }
    let error = open(&rolled_back).unwrap_err();
    assert!(matches!(error, LedgerError::RolledBack { .. }), "{error}");

    // A published entry that rots at the very end looks like a torn write, and is missed all the
    // same.
    let rotten = vfs.fork();
    let path = journal.join(crate::journal::segment::segment_name(0));
    rotten
        .tamper(&path, |bytes| {
            let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
            bytes[last] ^= 1;
        })
        .unwrap();
    let error = open(&rotten).unwrap_err();
    assert!(matches!(error, LedgerError::RolledBack { .. }), "{error}");

    // Another journal of the same origin.
    let other = SimVfs::new();
    let ledger = open(&other).unwrap();
    work(&ledger, 1);
    work(&ledger, 31);
    ledger.shutdown().unwrap();
    let forked = vfs.fork();
    for name in vfs.list(journal).unwrap() {
        let path = journal.join(name);
        if let Ok(bytes) = other.read(&path, 1 << 20) {
            forked.tamper(&path, |now| *now = bytes).unwrap();
        }
    }
    let error = open(&forked).unwrap_err();
    assert!(matches!(error, LedgerError::Archive(ArchiveError::Forked { index: 0 })), "{error}");
}

#[test]
fn state_and_index_are_made_again() {
    let vfs = SimVfs::new();
    let ledger = open(&vfs).unwrap();
    let receipts = work(&ledger, 1);
    // Until a checkpoint covers it all; then a crash.
    let entries = ledger.health().entries;
    for n in 0.. {
        if ledger.published() >= entries {
            break;
        }
        assert!(n < 2_000);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    vfs.crash();
    let vkey = ledger.vkey().clone();
    drop(ledger);
    let with_state = vfs.after_crash(Survive::Nothing);
    let without = with_state.fork();
    let dir = Path::new("/ledger/state");
    for name in without.list(dir).unwrap() {
        without.remove(&dir.join(name)).unwrap();
    }
    for vfs in [with_state, without] {
        let ledger = open(&vfs).unwrap();
        assert_eq!(ledger.recovery().sessions_closed, 1);
        let mut receipts = receipts.clone();
        receipts.extend(work(&ledger, 11));
        ledger.shutdown().unwrap();
        check(&vfs, &vkey, &receipts, "state");
    }
}

#[test]
fn an_archive_that_falls_behind_reads_the_journal() {
    let vfs = SimVfs::new();
    let config = LedgerConfig { archive_bytes_max: 0, ..config() };
    let ledger = Ledger::open_on(config, Arc::new(vfs.clone())).unwrap();
    let receipts = work(&ledger, 1);
    ledger.shutdown().unwrap();
    let vkey = ledger.vkey().clone();
    drop(ledger);
    let ledger = open(&vfs).unwrap();
    ledger.shutdown().unwrap();
    check(&vfs, &vkey, &receipts, "behind");
}

#[test]
fn what_is_noted_while_a_run_ends_opens_no_session() {
    let vfs = SimVfs::new();
    let note = || AdminRecord {
        at: at(1),
        kind: "agent",
        by: "gateway".into(),
        detail: "it disconnects".into(),
        digest: None,
    };
    for begun in [false, true] {
        let ledger = open(&vfs).unwrap();
        if begun {
            ledger.admin(&note()).unwrap();
        }
        // Between the end of its session and the end of the run.
        ledger.end_own_session().unwrap();
        assert!(matches!(ledger.admin(&note()), Err(RecordError::Stopped(_))));
        ledger.shutdown().unwrap();
        check(&vfs, ledger.vkey(), &[], "a note at the end");
    }
}
