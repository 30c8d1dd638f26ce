//! A disk that is full, and a disk that forgets.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use bulla_core::{
    Because, Digest, EvidenceRecord, Flow, Journal, Mode, OpenRecord, Origin, RecordError,
    Recorder, ResourceName, SessionId, Timestamp,
};
use bulla_ledger::{
    Compression, Ledger, LedgerConfig, RealTime,
    vfs::{Vfs, sim::SimVfs},
    wait_durable,
};
use bulla_postgres::DESCRIPTOR;

use crate::fixture::principal;

/// One piece of what fills a disk.
const PIECE_BYTES: usize = 12_000;

/// A ledger small enough to be filled, in which nothing happens by the clock.
pub fn config() -> LedgerConfig {
    LedgerConfig {
        dir: "/ledger".into(),
        origin: "sim.example/log".into(),
        segment_bytes: 512 << 10,
        compression: Compression::None,
        reserve_bytes: 64 << 10,
        // Nothing by the clock: the steps decide.
        checkpoint_ms: 1 << 40,
        heartbeat_ms: 1 << 40,
        heartbeat_idle_ms: 1 << 40,
        real_time: RealTime::Off,
        ..LedgerConfig::default()
    }
}

/// Takes the room of the segments that there are, and lets no more be made: all but so many pieces.
/// How many fit is found out once. The session that holds them must outlive the run.
pub fn fill(vfs: &SimVfs, ledger: &Ledger, but: u64) -> Box<dyn Journal> {
    static FIT: OnceLock<u64> = OnceLock::new();
    let fit = *FIT.get_or_init(|| {
        let vfs = SimVfs::new();
        let ledger = Ledger::open_on(config(), Arc::new(vfs.clone())).unwrap();
        pieces(&vfs, &ledger, u64::MAX).1
    });
    pieces(vfs, ledger, fit.saturating_sub(but)).0
}

fn pieces(vfs: &SimVfs, ledger: &Ledger, max: u64) -> (Box<dyn Journal>, u64) {
    let soon = || std::thread::sleep(std::time::Duration::from_millis(1));
    // The spare segments are made by a thread of the ledger's own; then nothing else fits. One that
    // is being made has no name of a segment yet, and none of its room.
    let is_made = |name: &&String| name.ends_with(".seg");
    while vfs.list(Path::new("/ledger/journal")).unwrap().iter().filter(is_made).count() < 3 {
        soon();
    }
    vfs.set_capacity(Some(vfs.used()));
    let now = Timestamp::from_secs(1_800_000_000);
    let record = OpenRecord {
        session: SessionId::new(now, [0; 10]),
        at: now,
        principal: Arc::new(principal(now)),
        resource: ResourceName::new("filler").unwrap(),
        part: None,
        protocol: DESCRIPTOR.protocol,
        origin: Origin {
            address: [127, 0, 0, 1].into(),
            port: 1,
            tls: "".into(),
            certificate: None,
        },
        mode: Mode::Strict,
        because: Because { policies: vec![], bundle: Digest::ZERO },
        claims: vec![],
    };
    let (mut journal, _) = ledger.open(&record).unwrap();
    let mut written = 0;
    while written < max {
        let bytes = vec![0; PIECE_BYTES].into();
        let record = EvidenceRecord {
            at: now,
            number: 1,
            flow: Flow::ToClient,
            bytes,
            outcome: None,
            masked: Default::default(),
        };
        match journal.evidence(record) {
            Ok(pending) => {
                wait_durable(pending).unwrap();
                written += 1;
            }
            Err(RecordError::Full) => break,
            Err(RecordError::Backlog) => soon(),
            Err(error) => panic!("{error}"),
        }
    }
    while ledger.health().error.is_none() {
        soon();
    }
    (journal, written)
}

/// A disk that loses its last pages, and the archive with them.
pub fn forget(vfs: &SimVfs) {
    for (path, bytes) in vfs.files(Path::new("/ledger")) {
        if path.starts_with("/ledger/archive") || path.starts_with("/ledger/state") {
            let _ = vfs.remove(&path);
        } else if path.extension().is_some_and(|e| e == "seg")
            && let Some(last) = bytes.chunks(4096).rposition(|page| page.starts_with(b"bullafr1"))
        {
            let _ = vfs.tamper(&path, |bytes| bytes[last * 4096..].fill(0));
        }
    }
}
