//! The verifier over archives in memory: whole ones, and every way to spoil one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{cell::RefCell, collections::BTreeMap, convert::Infallible};

use bulla_tlog::{
    Hash,
    checkpoint::{Checkpoint, SignedCheckpoint},
    entry::*,
    note::{KeyKind, Signer, Vkey},
    seal::{Dek, Sealer},
    tile::{BundleId, bundles_changed, encode_tile, push_bundle_entry},
    tree::Edge,
    verify::*,
};

const ORIGIN: &str = "log.example/a";
const SECOND: u64 = 1_000_000_000;

fn signer() -> Signer {
    Signer::from_seed(ORIGIN, KeyKind::Ed25519, &[1; 32]).unwrap()
}

fn key() -> [Vkey; 1] {
    [signer().vkey().clone()]
}

#[derive(Clone, Default)]
struct Files(BTreeMap<String, Vec<u8>>);

impl Archive for Files {
    type Error = Infallible;
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Infallible> {
        Ok(self.0.get(path).cloned())
    }
}

/// What a gateway would have written for these entries, with a checkpoint over all of them.
fn archive(entries: &[Vec<u8>]) -> Files {
    let mut files = Files::default();
    write(&mut files, entries);
    files
}

fn write(files: &mut Files, entries: &[Vec<u8>]) -> SignedCheckpoint {
    let mut edge = Edge::new();
    for entry in entries {
        assert!(edge.append(Hash::leaf(entry), |tile, hashes| {
            files.0.insert(tile.path(), encode_tile(hashes));
        }));
    }
    for (tile, hashes) in edge.partial_tiles() {
        files.0.insert(tile.path(), encode_tile(hashes));
    }
    let size = entries.len() as u64;
    for id in bundles_changed(0, size) {
        let first = id.first_entry() as usize;
        let mut bytes = vec![];
        for entry in &entries[first..first + usize::from(id.width())] {
            push_bundle_entry(&mut bytes, entry).unwrap();
        }
        files.0.insert(id.path(), bytes);
    }
    let signed = Checkpoint::new(ORIGIN, size, edge.root()).unwrap().sign(&signer()).unwrap();
    files.0.insert(CHECKPOINT_PATH.into(), signed.to_string().into_bytes());
    signed
}

fn good(_: &ObjectRef) -> ObjectState {
    ObjectState::Good
}

fn check_with(files: &Files, options: Options) -> Result<Report, VerifyError<Infallible>> {
    verify(files, &key(), &[], options, &good, &mut |_| {})
}

fn check(files: &Files) -> Result<Report, VerifyError<Infallible>> {
    check_with(files, Options::default())
}

/// Writes entries as a gateway does: one clock, one chain for each session.
struct Log {
    entries: Vec<Vec<u8>>,
    at: u64,
    boot: [u8; 16],
}

#[derive(Clone)]
struct Live {
    sid: [u8; 16],
    next: u64,
    prev: Option<Hash>,
    counts: Counts,
    transcript: Transcript,
}

impl Log {
    fn new() -> Self {
        let mut log = Self { entries: vec![], at: 0, boot: [1; 16] };
        log.plain(Kind::Genesis);
        log.plain(Kind::Boot);
        log
    }

    fn make(&mut self, kind: Kind) -> Entry {
        self.at += SECOND;
        Entry::new(kind, 1_000 * SECOND + self.at, self.at, self.boot)
    }

    fn push(&mut self, entry: &Entry) -> Hash {
        let bytes = entry.encode().unwrap();
        let leaf = Hash::leaf(&bytes);
        self.entries.push(bytes);
        leaf
    }

    fn plain(&mut self, kind: Kind) {
        let entry = self.make(kind);
        self.push(&entry);
    }

    /// One entry of a session, as `change` makes it.
    fn in_session(&mut self, live: &mut Live, kind: Kind, change: impl FnOnce(&mut Entry)) {
        let mut entry = self.make(kind);
        entry.session = Some(Link { sid: live.sid, seq: live.next, prev: live.prev });
        change(&mut entry);
        live.counts.observe(&entry);
        entry.objs.iter().for_each(|object| live.transcript.push(object));
        live.prev = Some(self.push(&entry));
        live.next += 1;
    }

    fn open(&mut self, number: u8) -> Live {
        let sid = [number; 16];
        let (counts, transcript) = (Counts::default(), Transcript::new(&sid));
        let mut live = Live { sid, next: 0, prev: None, counts, transcript };
        self.in_session(&mut live, Kind::Open, |entry| {
            entry.resource = Some("orders".into());
            entry.dek_commit = Some(Dek::new([number; 32]).commit());
        });
        live
    }

    fn command(&mut self, live: &mut Live) {
        let cmd = live.next;
        self.in_session(live, Kind::Intent, |entry| {
            entry.action = Some("postgres:select".into());
            entry.cmd = Some(cmd);
        });
        self.in_session(live, Kind::Outcome, |entry| {
            (entry.cmd, entry.rows, entry.bytes_out) = (Some(cmd), Some(3), Some(90));
            entry.status = Some("ok".into());
        });
    }

    fn close(&mut self, live: &mut Live) {
        let (counts, transcript) = (live.counts, live.transcript.hash());
        self.in_session(live, Kind::Close, |entry| {
            (entry.counts, entry.transcript) = (Some(counts), Some(transcript));
        });
    }

    fn session(&mut self, number: u8, commands: usize) {
        let mut live = self.open(number);
        (0..commands).for_each(|_| self.command(&mut live));
        self.close(&mut live);
    }

    fn report(&self) -> Report {
        check(&archive(&self.entries)).unwrap()
    }
}

/// 2 + 6 + 4 entries, and one object.
fn small() -> Log {
    let mut log = Log::new();
    let mut live = log.open(7);
    log.command(&mut live);
    let mut sealer = Sealer::new(&Dek::new([7; 32]), live.sid).unwrap();
    let dir = Direction::TargetToClient;
    let object = sealer.seal_object(dir, Encoding::Stored, b"row", &mut b"row".to_vec()).unwrap();
    log.in_session(&mut live, Kind::Chunk, |entry| entry.objs = vec![object]);
    log.in_session(&mut live, Kind::Refusal, |_| {});
    log.close(&mut live);
    log.session(8, 1);
    log
}

/// 600 entries: two full bundles and a partial one.
fn medium() -> Log {
    let mut log = Log::new();
    for number in 0..99 {
        log.session(number, 2);
    }
    log.session(200, 1);
    assert_eq!(log.entries.len(), 600);
    log
}

#[track_caller]
fn tampered(found: Result<Report, VerifyError<Infallible>>) -> Finding {
    match found.unwrap().verdict {
        Verdict::Tampered { first } => first,
        other => panic!("{other:?}"),
    }
}

/// The verdict is a gap, and the findings are exactly these, each at its entry.
#[track_caller]
fn gaps(log: &Log, expect: &[(What, u64)]) {
    let report = log.report();
    let found: Vec<_> =
        report.findings.iter().map(|f| (f.what.clone(), f.index.unwrap())).collect();
    assert_eq!(found, expect);
    match &report.verdict {
        Verdict::Gap { first } => assert_eq!((first.what.clone(), first.index.unwrap()), expect[0]),
        other => assert!(expect.is_empty() && *other == Verdict::Complete, "{other:?}"),
    }
}

#[test]
fn whole_logs_of_all_shapes_are_complete() {
    let mut log = Log::new();
    for size in 0..=1_030 {
        while log.entries.len() < size {
            log.plain(Kind::Heartbeat);
        }
        if size % 17 == 0 || size % 256 < 3 || size % 256 == 255 {
            let report = check(&archive(&log.entries[..size])).unwrap();
            assert_eq!(report.verdict, Verdict::Complete, "size {size}: {:?}", report.findings);
            assert_eq!((report.entries, report.uncovered), (size as u64, 0));
        }
    }
}

#[test]
fn a_report_counts_what_it_saw() {
    let mut log = small();
    let mut refused = log.make(Kind::Refusal);
    refused.session = Some(Link { sid: [70; 16], seq: 0, prev: None });
    log.push(&refused);
    let mut live = log.open(9);
    log.command(&mut live);
    let report = log.report();
    assert_eq!(report.verdict, Verdict::Complete, "{:?}", report.findings);
    let sessions = SessionTotals { closed: 2, refused: 1, live: 1, interrupted: 0 };
    assert_eq!(report.sessions, sessions);
    assert_eq!((report.entries, report.objects, report.runs), (16, 1, 1));
    assert_eq!(report.time_ns, Some((1_001 * SECOND, 1_016 * SECOND)));
    assert_eq!(report.checkpoint.size(), 16);
}

#[test]
fn progress_and_parallel_checks_come_to_the_same_report() {
    let files = archive(&medium().entries);
    let mut seen = vec![];
    let report = verify(&files, &key(), &[], Options::default(), &good, &mut |p| seen.push(p.done));
    assert_eq!(seen, [256, 512, 600]);
    let signed = open_checkpoint(&files, &key(), &[]).unwrap();
    let mut verifier = Verifier::new(signed.clone(), Options::default());
    let ids: Vec<BundleId> = verifier.bundles().collect();
    let check = |id: &BundleId| verify_bundle(&BundleInput::read(&files, *id).unwrap(), &good);
    let mut results: Vec<BundleResult> = std::thread::scope(|scope| {
        let threads: Vec<_> = ids.iter().map(|id| scope.spawn(move || check(id))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for result in results.drain(..) {
        verifier.feed(&files, result).unwrap();
    }
    assert_eq!(verifier.finish(&files), report);
    // Out of order, twice, or not to the end: no report.
    let mut verifier = Verifier::new(signed, Options::default());
    assert_eq!(verifier.feed(&files, check(&ids[1])), Err(VerifyError::OutOfOrder(1)));
    verifier.feed(&files, check(&ids[0])).unwrap();
    assert_eq!(verifier.feed(&files, check(&ids[0])), Err(VerifyError::OutOfOrder(0)));
    assert_eq!(verifier.finish(&files), Err(VerifyError::OutOfOrder(1)));
}

/// Where each entry lies in its bundle's file, its length included.
fn places(entries: &[Vec<u8>]) -> Vec<(usize, usize)> {
    let mut start = 0;
    entries
        .iter()
        .enumerate()
        .map(|(index, entry)| {
            if index % 256 == 0 {
                start = 0;
            }
            let place = (start, start + 2 + entry.len());
            start = place.1;
            place
        })
        .collect()
}

/// Flips bits of a file and expects each to be named.
fn flip(log: &Log, files: &Files, path: &str, step: usize) {
    let good = files.0[path].clone();
    let width = |id: BundleId| id.first_entry()..id.first_entry() + u64::from(id.width());
    for at in (0..good.len()).step_by(step) {
        for bit in if step == 1 { 0..8 } else { at % 8..at % 8 + 1 } {
            let mut files = files.clone();
            files.0.get_mut(path).unwrap()[at] ^= 1 << bit;
            let found = check(&files);
            if path == CHECKPOINT_PATH {
                assert!(matches!(found, Err(VerifyError::Checkpoint(_))), "byte {at} bit {bit}");
                continue;
            }
            let first = tampered(found);
            assert_eq!(first.path.as_deref(), Some(path), "byte {at} bit {bit}: {first}");
            let offset = first.offset.unwrap() as usize;
            if let Some(id) = BundleId::parse(path) {
                // The entry that holds the byte, by its index.
                let places = places(&log.entries);
                let range = width(id).start as usize..width(id).end as usize;
                let index =
                    range.clone().find(|i| places[*i].0 <= at && at < places[*i].1).unwrap();
                assert_eq!(first.index, Some(index as u64), "byte {at} bit {bit}: {first}");
                let start = places[index].0;
                assert!(offset == start || offset == start + 2, "byte {at} bit {bit}: {first}");
            } else {
                assert_eq!(first.what, What::TileAltered, "byte {at} bit {bit}: {first}");
                assert_eq!(offset, at / 32 * 32);
            }
        }
    }
}

#[test]
fn every_bit_flip_of_a_small_log_is_named() {
    let log = small();
    let files = archive(&log.entries);
    assert_eq!(files.0.len(), 3);
    for path in files.0.keys() {
        flip(&log, &files, path, 1);
    }
}

#[test]
fn flips_all_over_a_larger_log_are_named() {
    let log = medium();
    let files = archive(&log.entries);
    let paths: Vec<&str> = files.0.keys().map(String::as_str).collect();
    assert_eq!(
        paths,
        [
            "checkpoint",
            "tile/0/000",
            "tile/0/001",
            "tile/0/002.p/88",
            "tile/1/000.p/2",
            "tile/entries/000",
            "tile/entries/001",
            "tile/entries/002.p/88",
        ]
    );
    for path in files.0.keys() {
        flip(&log, &files, path, 97);
    }
}

#[test]
fn truncated_and_padded_files_are_named() {
    let log = small();
    let files = archive(&log.entries);
    for path in files.0.keys() {
        let good = &files.0[path];
        let cuts = (0..good.len()).map(|end| good[..end].to_vec());
        let pads = [&b"\0"[..], b"\n", b"\0\0", &[0; 32], &[7; 300]];
        let pads = pads.iter().map(|more| [good, *more].concat());
        for bytes in cuts.chain(pads) {
            let mut files = files.clone();
            let length = bytes.len();
            files.0.insert(path.clone(), bytes);
            let found = check(&files);
            if path == CHECKPOINT_PATH {
                assert!(matches!(found, Err(VerifyError::Checkpoint(_))), "{length}");
            } else {
                let first = tampered(found);
                assert_eq!(first.path.as_ref(), Some(path), "{length} bytes: {first}");
            }
        }
    }
}

#[test]
fn deleted_files_are_named() {
    let log = medium();
    let files = archive(&log.entries);
    for path in files.0.keys() {
        let mut files = files.clone();
        files.0.remove(path);
        if path == CHECKPOINT_PATH {
            assert_eq!(check(&files), Err(VerifyError::NoCheckpoint));
            continue;
        }
        let report = check(&files).unwrap();
        let Verdict::Tampered { first } = &report.verdict else { panic!("{path}") };
        assert_eq!(first.path.as_ref(), Some(path), "{first}");
        match BundleId::parse(path) {
            Some(id) => {
                let (from, to) = (id.first_entry(), id.first_entry() + u64::from(id.width()));
                assert_eq!(first.what, What::EntriesMissing { from, to });
                // Nothing else is held against the log: the tiles stand in for the leaves.
                assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
                assert_eq!(report.entries, 600 - (to - from));
            }
            None => assert_eq!(first.what, What::TileMissing),
        }
    }
    let mut files = files;
    files.0.retain(|path, _| path == CHECKPOINT_PATH);
    let report = check(&files).unwrap();
    let what: Vec<_> = report.findings.iter().map(|finding| &finding.what).collect();
    assert!(what.contains(&&What::EntriesMissing { from: 0, to: 600 }), "{what:?}");
    assert!(what.contains(&&What::Root { computed: None }), "{what:?}");
}

#[test]
fn swapped_and_duplicated_bundles_are_named() {
    let log = medium();
    let good = archive(&log.entries);
    let bundle = |index: u64| BundleId::at(600, index).unwrap().path();
    for (a, b) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
        let mut files = good.clone();
        files.0.insert(bundle(b), good.0[&bundle(a)].clone());
        let first = tampered(check(&files));
        assert_eq!(first.path, Some(bundle(b)), "{first}");
        assert_eq!(first.index, Some(b * 256), "{first}");
        files.0.insert(bundle(a), good.0[&bundle(b)].clone());
        let first = tampered(check(&files));
        assert_eq!(first.index, Some(a.min(b) * 256), "{first}");
        // With their tiles, so that each bundle agrees with its own.
        if a < 2 && b < 2 {
            let tile = |index: u64| format!("tile/0/00{index}");
            files.0.insert(tile(a), good.0[&tile(b)].clone());
            files.0.insert(tile(b), good.0[&tile(a)].clone());
            let first = tampered(check(&files));
            assert_eq!(first.what, What::EntriesRewritten { from: 0, to: 256 });
        }
    }
}

fn swap_entries(log: &Log, a: usize, b: usize) -> Vec<Vec<u8>> {
    let mut entries = log.entries.clone();
    entries.swap(a, b);
    entries
}

#[test]
fn reordered_inserted_removed_and_doubled_entries_are_named() {
    let log = medium();
    let good = archive(&log.entries);
    // The bundles of another list of entries; tiles and checkpoint stay.
    let with = |entries: &[Vec<u8>]| {
        let mut files = good.clone();
        for (path, bytes) in archive(entries).0 {
            // The last bundle under the name that the checkpoint demands.
            if let Some(id) = BundleId::parse(&path) {
                files.0.insert(BundleId::at(600, id.index()).unwrap().path(), bytes);
            }
        }
        files
    };
    for (a, b) in [(3, 4), (10, 500), (255, 256), (598, 599)] {
        let first = tampered(check(&with(&swap_entries(&log, a, b))));
        assert_eq!((first.what, first.index), (What::EntryAltered, Some(a as u64)));
    }
    for at in [0, 100, 255, 256, 599] {
        let mut entries = log.entries.clone();
        entries.remove(at);
        let first = tampered(check(&with(&entries)));
        assert_eq!(first.index, Some(at as u64), "{first}");
        let mut entries = log.entries.clone();
        entries.insert(at, entries[at].clone());
        let first = tampered(check(&with(&entries)));
        assert_eq!(first.index, Some((at + 1).min(599) as u64), "{first}");
    }
}

#[test]
fn a_log_rewritten_with_all_its_tiles_is_named_by_the_root() {
    let log = medium();
    let good = archive(&log.entries);
    let mut entries = log.entries.clone();
    let mut changed = Entry::decode(&entries[300]).unwrap();
    changed.t_wall_ns += 1;
    entries[300] = changed.encode().unwrap();
    let mut files = archive(&entries);
    let signed = good.0[CHECKPOINT_PATH].clone();
    files.0.insert(CHECKPOINT_PATH.into(), signed);
    let report = check(&files).unwrap();
    let first = tampered(Ok(report.clone()));
    // The session's own chain tells where, though the tree cannot.
    assert!(matches!(first.what, What::Root { computed: Some(_) }), "{first}");
    let prev = report.findings.iter().find(|finding| finding.what == What::SessionPrev).unwrap();
    assert_eq!(prev.index, Some(301));
    // An earlier checkpoint narrows it down.
    let mut before = Files::default();
    let earlier =
        vec![write(&mut before, &log.entries[..290]), write(&mut before, &log.entries[..320])];
    let report = check_with(&files, Options { earlier, ..Options::default() }).unwrap();
    let forks = report.findings.iter().filter(|f| matches!(f.what, What::Forked { .. }));
    let forks: Vec<_> = forks.map(|finding| finding.what.clone()).collect();
    assert_eq!(forks, [What::Forked { earlier: 320 }]);
    // With the upper tiles as they were, the bundle is named.
    files.0.insert("tile/1/000.p/2".into(), good.0["tile/1/000.p/2"].clone());
    let first = tampered(check(&files));
    assert_eq!(first.what, What::EntriesRewritten { from: 256, to: 512 });
    // With the level above changed and the tile as it was, the entry is.
    let mut files = archive(&entries);
    for path in [CHECKPOINT_PATH, "tile/0/001"] {
        files.0.insert(path.into(), good.0[path].clone());
    }
    let first = tampered(check(&files));
    assert_eq!((first.what, first.index), (What::EntryAltered, Some(300)));
}

#[test]
fn levels_above_are_checked_and_named() {
    let mut log = Log::new();
    while log.entries.len() < 65_536 + 300 {
        log.plain(Kind::Heartbeat);
    }
    let good = archive(&log.entries);
    let report = check(&good).unwrap();
    assert_eq!(report.verdict, Verdict::Complete, "{:?}", report.findings);
    for (path, at) in [("tile/1/000", 40), ("tile/1/001.p/1", 0), ("tile/2/000.p/1", 31)] {
        let mut files = good.clone();
        files.0.get_mut(path).unwrap()[at] ^= 4;
        let first = tampered(check(&files));
        assert_eq!((first.what, first.path), (What::TileAltered, Some(path.into())));
        assert_eq!(first.offset, Some(at as u64 / 32 * 32));
        files.0.remove(path);
        assert_eq!(tampered(check(&files)).what, What::TileMissing);
        files.0.insert(path.into(), vec![0; 33]);
        assert_eq!(tampered(check(&files)).what, What::TileLength);
    }
    // A whole level-1 subtree rewritten, under a level-2 tile that is not.
    let mut entries = log.entries.clone();
    let mut changed = Entry::decode(&entries[1_000]).unwrap();
    changed.t_wall_ns += 1;
    entries[1_000] = changed.encode().unwrap();
    let mut files = archive(&entries);
    for path in [CHECKPOINT_PATH, "tile/2/000.p/1"] {
        files.0.insert(path.into(), good.0[path].clone());
    }
    let first = tampered(check(&files));
    assert_eq!(first.what, What::EntriesRewritten { from: 0, to: 65_536 });
    // A missing bundle and its missing tile: the level above stands in.
    let mut files = good.clone();
    files.0.remove("tile/0/003");
    files.0.remove("tile/entries/003");
    let report = check(&files).unwrap();
    let what: Vec<_> = report.findings.iter().map(|finding| finding.what.clone()).collect();
    assert!(what.contains(&What::EntriesMissing { from: 768, to: 1_024 }), "{what:?}");
    assert!(!what.iter().any(|what| matches!(what, What::Root { .. })), "{what:?}");
}

#[test]
fn a_cut_tail_is_named() {
    let log = medium();
    let good = archive(&log.entries);
    let mut files = good.clone();
    for gone in ["tile/entries/002.p/88", "tile/0/002.p/88", "tile/entries/001", "tile/0/001"] {
        files.0.remove(gone);
    }
    let report = check(&files).unwrap();
    let Verdict::Tampered { first } = &report.verdict else { panic!() };
    assert_eq!(first.what, What::EntriesMissing { from: 256, to: 600 });
    // A whole smaller log under the checkpoint of the larger one.
    let mut files = archive(&log.entries[..550]);
    files.0.insert(CHECKPOINT_PATH.into(), good.0[CHECKPOINT_PATH].clone());
    let first = tampered(check(&files));
    assert_eq!(first.what, What::EntriesMissing { from: 512, to: 600 });
}

#[test]
fn an_old_checkpoint_shows_as_entries_not_covered() {
    let log = medium();
    let mut files = archive(&log.entries);
    let latest = open_checkpoint(&files, &key(), &[]).unwrap();
    for (old, uncovered) in [(512, 88), (511, 89), (300, 300), (8, 592), (599, 1), (0, 600)] {
        let mut before = Files::default();
        let signed = write(&mut before, &log.entries[..old]);
        files.0.insert(CHECKPOINT_PATH.into(), signed.to_string().into_bytes());
        // The old partial tiles and bundles are gone; the wider ones serve.
        let report = check(&files).unwrap();
        assert_eq!(report.uncovered, uncovered, "{old}");
        assert_eq!(report.entries, old as u64);
        assert!(!matches!(report.verdict, Verdict::Tampered { .. }), "{:?}", report.findings);
        // Whoever has seen the later one is not deceived.
        let options = Options { earlier: vec![latest.clone()], ..Options::default() };
        let first = tampered(check_with(&files, options));
        assert_eq!(first.what, What::RolledBack { earlier: 600 });
    }
}

#[test]
fn two_logs_under_one_key_are_a_fork() {
    let (a, mut b) = (medium(), Log::new());
    (0..150).for_each(|number| b.session(number, 1));
    let files = archive(&b.entries);
    assert_eq!(check(&files).unwrap().verdict, Verdict::Complete);
    for size in [3, 256, 300, 512, 600] {
        let earlier = vec![write(&mut Files::default(), &a.entries[..size])];
        let options = Options { earlier, ..Options::default() };
        let found = check_with(&files, options).unwrap();
        let agrees = a.entries[..size] == b.entries[..size];
        assert_eq!(found.verdict == Verdict::Complete, agrees, "{size}");
        if !agrees {
            assert_eq!(tampered(Ok(found)).what, What::Forked { earlier: size as u64 });
        }
    }
    let mut earlier = vec![];
    for size in [0, 1, 2, 255, 256, 257, 600] {
        earlier.push(write(&mut Files::default(), &b.entries[..size]));
    }
    let options = Options { earlier, ..Options::default() };
    assert_eq!(check_with(&files, options).unwrap().verdict, Verdict::Complete);
    // A checkpoint of another log says nothing of this one.
    let other = Signer::from_seed("log.example/b", KeyKind::Ed25519, &[1; 32]).unwrap();
    let other = Checkpoint::new("log.example/b", 3, Hash([0; 32])).unwrap().sign(&other).unwrap();
    let options = Options { earlier: vec![other], ..Options::default() };
    let first = tampered(check_with(&files, options));
    assert_eq!(first.what, What::OtherLog("log.example/b".into()));
}

#[test]
fn a_signed_entry_that_is_none_is_named() {
    let mut log = small();
    log.entries.push(b"not an entry".to_vec());
    log.plain(Kind::Heartbeat);
    let report = log.report();
    let first = tampered(Ok(report.clone()));
    assert_eq!(first.index, Some(12));
    assert!(matches!(first.what, What::EntryMalformed(EntryError::Type { at: 0 })), "{first}");
    assert_eq!(report.findings.len(), 1);
}

#[test]
fn objects_are_looked_for() {
    let log = small();
    let files = archive(&log.entries);
    let entry = Entry::decode(&log.entries[5]).unwrap();
    let name = entry.objs[0].ct_hash;
    for (state, expect) in [
        (ObjectState::Missing, What::ObjectMissing(name)),
        (ObjectState::Unreadable, What::ObjectUnreadable(name)),
        (ObjectState::Altered, What::ObjectAltered(name)),
    ] {
        let asked = RefCell::new(vec![]);
        let objects = |object: &ObjectRef| {
            asked.borrow_mut().push(*object);
            state
        };
        let report = verify(&files, &key(), &[], Options::default(), &objects, &mut |_| {});
        let report = report.unwrap();
        assert_eq!(asked.into_inner(), entry.objs);
        let finding = &report.findings[0];
        assert_eq!((&finding.what, finding.index), (&expect, Some(5)));
        let tampered = matches!(report.verdict, Verdict::Tampered { .. });
        assert_eq!(tampered, state == ObjectState::Altered);
    }
}

#[test]
fn sessions_without_their_close_are_found() {
    // In the run that goes on a session is live.
    let mut log = Log::new();
    let mut live = log.open(1);
    log.command(&mut live);
    gaps(&log, &[]);
    assert_eq!(log.report().sessions.live, 1);
    let cut = |log: &mut Log| {
        log.boot = [2; 16];
        log.at = 0;
    };
    // The next run has a recover: interrupted, and said so.
    let mut recovered = Log { entries: log.entries.clone(), ..Log::new() };
    cut(&mut recovered);
    recovered.plain(Kind::Boot);
    recovered.plain(Kind::Recover);
    recovered.session(2, 1);
    gaps(&recovered, &[]);
    assert_eq!(recovered.report().sessions.interrupted, 1);
    // Recovery may also close it.
    let mut closed = Log { entries: log.entries.clone(), ..Log::new() };
    cut(&mut closed);
    closed.plain(Kind::Recover);
    closed.close(&mut live.clone());
    closed.plain(Kind::Boot);
    gaps(&closed, &[]);
    assert_eq!(closed.report().sessions.closed, 1);
    // Nothing of the kind.
    let mut lost = Log { entries: log.entries.clone(), ..Log::new() };
    cut(&mut lost);
    lost.plain(Kind::Boot);
    lost.session(2, 1);
    gaps(&lost, &[(What::SessionNotClosed, 4), (What::RunNotRecovered, 5)]);
    // The run was closed over the session's head.
    let mut over = Log { entries: log.entries.clone(), ..Log::new() };
    over.plain(Kind::Close);
    gaps(&over, &[(What::SessionNotClosed, 4)]);
    // It goes on in the next run.
    let mut across = Log { entries: log.entries.clone(), ..Log::new() };
    cut(&mut across);
    across.plain(Kind::Boot);
    across.plain(Kind::Recover);
    across.command(&mut live.clone());
    across.close(&mut live);
    assert_eq!(across.report().findings[0].what, What::SessionAcrossRuns(Kind::Intent));
}

#[test]
fn gaps_in_a_session_are_found() {
    // An entry of the chain is not in the log.
    let mut log = Log::new();
    let mut live = log.open(1);
    log.command(&mut live);
    let kept = log.entries.len();
    log.command(&mut live);
    log.entries.truncate(kept);
    log.command(&mut live);
    log.close(&mut live);
    gaps(&log, &[(What::SessionSeq { expected: 3, found: 5 }, 5)]);
    // An entry is there twice.
    let mut log = Log::new();
    let mut live = log.open(1);
    log.in_session(&mut live, Kind::Intent, |_| {});
    let again = log.entries[3].clone();
    log.entries.push(again);
    log.close(&mut live);
    gaps(
        &log,
        &[
            (What::SessionSeq { expected: 2, found: 1 }, 4),
            // Their chains meet again.
        ],
    );
    // It names another entry before it.
    let mut log = Log::new();
    let mut live = log.open(1);
    live.prev = Some(Hash::leaf(b"another"));
    log.command(&mut live);
    log.close(&mut live);
    gaps(&log, &[(What::SessionPrev, 3)]);
    // The open is not there.
    let mut log = Log::new();
    let mut live = log.open(1);
    log.entries.pop();
    log.command(&mut live);
    log.close(&mut live);
    gaps(&log, &[(What::SessionNotOpened, 2)]);
    // It is opened twice, or goes on after its close.
    let mut log = Log::new();
    let mut live = log.open(1);
    log.open(1);
    gaps(&log, &[(What::SessionSeq { expected: 1, found: 0 }, 3)]);
    let mut log2 = Log::new();
    let mut live2 = log2.open(1);
    log2.close(&mut live2);
    log2.command(&mut live2);
    gaps(&log2, &[(What::SessionNotOpened, 4)]);
    log.close(&mut live);
}

#[test]
fn a_close_must_tell_the_truth() {
    let make = |change: &dyn Fn(&mut Entry)| {
        let mut log = Log::new();
        let mut live = log.open(1);
        log.command(&mut live);
        log.in_session(&mut live, Kind::Hold, |_| {});
        log.in_session(&mut live, Kind::Refusal, |_| {});
        let (counts, transcript) = (live.counts, live.transcript.hash());
        let expect = Counts { commands: 1, denied: 1, held: 1, rows: 3, bytes: 90 };
        assert_eq!(counts, expect);
        log.in_session(&mut live, Kind::Close, |entry| {
            (entry.counts, entry.transcript) = (Some(counts), Some(transcript));
            change(entry);
        });
        log
    };
    gaps(&make(&|_| {}), &[]);
    gaps(&make(&|entry| entry.transcript = None), &[]);
    gaps(&make(&|entry| entry.counts = None), &[(What::SessionCounts, 7)]);
    for change in [
        &(|c: &mut Counts| c.commands += 1) as &dyn Fn(&mut Counts),
        &|c| c.denied = 0,
        &|c| c.held = 2,
        &|c| c.rows -= 1,
        &|c| c.bytes += 1,
    ] {
        let log = make(&|entry| change(entry.counts.as_mut().unwrap()));
        gaps(&log, &[(What::SessionCounts, 7)]);
    }
    let log = make(&|entry| entry.transcript = Some(Hash::leaf(b"")));
    gaps(&log, &[(What::SessionTranscript, 7)]);
}

#[test]
fn runs_and_silences_are_found() {
    let mut log = Log::new();
    log.at += 180 * SECOND;
    log.plain(Kind::Heartbeat);
    gaps(&log, &[(What::Silence { ms: 181_000 }, 2)]);
    let mut log = Log::new();
    log.at += 178 * SECOND;
    log.plain(Kind::Heartbeat);
    gaps(&log, &[]);
    let options = Options { silence_ns_max: 10 * SECOND, ..Options::default() };
    let found = check_with(&archive(&log.entries), options).unwrap();
    assert_eq!(found.findings[0].what, What::Silence { ms: 179_000 });
    // Entries of one run need not come in the order of its clock.
    let mut log = Log::new();
    log.at += 30 * SECOND;
    log.plain(Kind::Heartbeat);
    log.at -= 29 * SECOND;
    log.plain(Kind::Heartbeat);
    gaps(&log, &[]);
    // A run that nothing announced, and one after its close.
    let mut log = Log::new();
    log.plain(Kind::Close);
    log.plain(Kind::Heartbeat);
    gaps(&log, &[(What::RunClosed, 3)]);
    let mut log = Log::new();
    log.plain(Kind::Close);
    log.boot = [2; 16];
    log.plain(Kind::Boot);
    log.session(1, 1);
    gaps(&log, &[]);
    assert_eq!(log.report().runs, 2);
    log.plain(Kind::Close);
    log.boot = [3; 16];
    log.plain(Kind::Heartbeat);
    gaps(&log, &[(What::RunNotAnnounced, 9)]);
    // Two crashes, the first without a recover.
    let mut log = Log::new();
    log.boot = [2; 16];
    log.plain(Kind::Boot);
    log.boot = [3; 16];
    log.plain(Kind::Boot);
    log.plain(Kind::Recover);
    gaps(&log, &[(What::RunNotRecovered, 2)]);
    // A log begins with its genesis.
    let mut log = Log::new();
    log.entries.remove(0);
    gaps(&log, &[(What::Genesis, 0)]);
    let mut log = Log::new();
    log.plain(Kind::Genesis);
    gaps(&log, &[(What::Genesis, 2)]);
}

#[test]
fn findings_are_limited_and_the_worst_is_kept() {
    let mut log = Log::new();
    for number in 0..50 {
        let mut live = log.open(number);
        log.entries.pop();
        log.close(&mut live);
    }
    let mut files = archive(&log.entries);
    let options = || Options { findings_max: 10, ..Options::default() };
    let report = check_with(&files, options()).unwrap();
    assert_eq!((report.findings.len(), report.findings_left_off), (10, 40));
    let path = BundleId::at(52, 0).unwrap().path();
    *files.0.get_mut(&path).unwrap().last_mut().unwrap() ^= 1;
    let report = check_with(&files, options()).unwrap();
    assert_eq!(tampered(Ok(report)).index, Some(51));
}

#[test]
fn findings_say_where_in_one_line() {
    let log = small();
    let mut files = archive(&log.entries);
    let path = BundleId::at(12, 0).unwrap().path();
    let place = places(&log.entries)[4].0 + 2;
    files.0.get_mut(&path).unwrap()[place + 5] ^= 1;
    let first = tampered(check(&files));
    assert_eq!(
        first.to_string(),
        format!("entry 4, `{path}`, byte {place}: is not the entry that was signed")
    );
}

/// A store that fails is no proof of anything.
struct Broken(Files, &'static str);

impl Archive for Broken {
    type Error = String;
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, String> {
        if path.starts_with(self.1) { Err("disk".into()) } else { Ok(self.0.0.get(path).cloned()) }
    }
}

#[test]
fn an_archive_that_cannot_be_read_gives_no_report() {
    let files = archive(&medium().entries);
    for fails in ["checkpoint", "tile/entries/002", "tile/0/000", "tile/1"] {
        let broken = Broken(files.clone(), fails);
        let found = verify(&broken, &key(), &[], Options::default(), &good, &mut |_| {});
        assert_eq!(found, Err(VerifyError::Read("disk".into())), "{fails}");
    }
    // Nor if what lies beyond the checkpoint cannot be told.
    let broken = Broken(archive(&medium().entries[..512]), "tile/entries/002");
    let found = verify(&broken, &key(), &[], Options::default(), &good, &mut |_| {});
    assert_eq!(found, Err(VerifyError::Read("disk".into())));
    let other = Signer::from_seed(ORIGIN, KeyKind::Ed25519, &[2; 32]).unwrap();
    let keys = [other.vkey().clone()];
    let found = verify(&files, &keys, &[], Options::default(), &good, &mut |_| {});
    assert!(matches!(found, Err(VerifyError::Checkpoint(_))));
}
