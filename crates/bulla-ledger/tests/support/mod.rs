//! What the tests of the ledger share.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test uses a part, and may fail"
)]

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bulla_core::*;
use bulla_ledger::*;
use bytes::Bytes;

/// A directory that goes when the test does.
pub struct TempDir(pub PathBuf);
impl TempDir {
    pub fn new(name: &str) -> Self {
        let nanos =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        let dir = std::env::temp_dir().join(format!("bulla-{name}-{}-{nanos}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}
impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Entries come from the test alone: on a busy machine a heartbeat may come between any two.
pub fn config(dir: &TempDir) -> LedgerConfig {
    LedgerConfig {
        dir: dir.0.join("ledger"),
        origin: "test.example/log".into(),
        segment_bytes: 1 << 20,
        reserve_bytes: 64 << 10,
        checkpoint_ms: 20,
        heartbeat_ms: 1 << 40,
        heartbeat_idle_ms: 1 << 40,
        real_time: RealTime::Off,
        ..LedgerConfig::default()
    }
}

pub fn principal() -> Arc<Principal> {
    Arc::new(Principal {
        id: PrincipalId::new("k8s", "billing/api").unwrap(),
        kind: PrincipalKind::Workload,
        issuer: "https://issuer.example".into(),
        groups: vec!["team:billing".into()],
        attributes: Default::default(),
        proof: Proof {
            kind: CredentialKind::Jwt,
            hash: Digest([7; 32]),
            jti: None,
            kid_tail: None,
            issued_at: Timestamp::from_secs(1),
            expires_at: Timestamp::from_secs(2),
            verified_at: Timestamp::from_secs(1),
            bound: false,
            jwks_stale: false,
        },
    })
}

pub fn because() -> Because {
    Because { policies: vec!["reads".into()], bundle: Digest([5; 32]) }
}

pub fn open_record(n: u8) -> OpenRecord {
    let at = Timestamp::from_secs(1_800_000_000 + u64::from(n));
    OpenRecord {
        session: SessionId::new(at, [n; 10]),
        at,
        principal: principal(),
        resource: ResourceName::new("orders").unwrap(),
        part: Some("main".into()),
        protocol: "postgres",
        origin: Origin {
            address: "192.0.2.7".parse().unwrap(),
            port: 4711,
            tls: "TLSv1.3".into(),
            certificate: None,
        },
        mode: Mode::Strict,
        because: because(),
        claims: vec![("application_name".into(), "test".into())],
    }
}

pub fn command(text: &str) -> Command {
    Command {
        action: ActionName::new("postgres:select").unwrap(),
        spelling: Spelling::Capitals,
        effects: Effects::READ,
        touches: Touches::Known(vec![]),
        also: vec![],
        beneath: vec![],
        purity: Purity::Read,
        shown: text.into(),
        parameters: Arc::new([]),
        facts: Default::default(),
        settings: "".into(),
    }
}

pub fn now(n: u64) -> Timestamp {
    Timestamp::from_secs(1_800_000_000 + n)
}

/// Tries again while the disk does not set room aside as fast as this asks for it. What is refused
/// so leaves no trace.
pub fn append<T>(mut append: impl FnMut() -> Result<T, RecordError>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match append() {
            Err(RecordError::Backlog) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other.unwrap(),
        }
    }
}

/// Appends an intent and returns it unresolved.
pub fn intent(journal: &mut dyn Journal, number: u64, text: &str, payload: &[u8]) -> Pending {
    append(|| {
        journal.intent(&IntentRecord {
            at: now(number),
            number,
            command: &command(text),
            payload: Bytes::copy_from_slice(payload),
            decision: "allow",
            because: &because(),
            grant: None,
        })
    })
}

pub fn outcome(rows: u64) -> Outcome {
    Outcome { status: Status::Ok, tag: Some(format!("SELECT {rows}").into()), rows }
}

pub fn evidence(
    journal: &mut dyn Journal,
    number: u64,
    flow: Flow,
    bytes: &[u8],
    outcome: Option<Outcome>,
) -> Pending {
    let bytes = Bytes::copy_from_slice(bytes);
    append(|| {
        journal.evidence(EvidenceRecord {
            at: now(number),
            number,
            flow,
            bytes: bytes.clone(),
            outcome: outcome.clone(),
            masked: Default::default(),
        })
    })
}

pub fn close(journal: &mut dyn Journal) -> Pending {
    journal.close(&CloseRecord { at: now(900), why: "client".into(), detail: None }).unwrap()
}

/// Bytes that look random and are the same every time.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// Waits until a checkpoint covers everything appended so far.
pub fn wait_published(ledger: &Ledger) {
    let entries = ledger.health().entries;
    for _ in 0..2_000 {
        if ledger.published() >= entries {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("no checkpoint over {entries} entries: {:?}", ledger.health());
}

pub fn verify(ledger_dir: &std::path::Path) -> bulla_tlog::verify::Report {
    let vkey = log_vkey(&ledger_dir.join("keys")).unwrap();
    let dir = ledger_dir.join("archive");
    verify_dir(&dir, &[vkey], Default::default(), 2, &mut |_| {}).unwrap()
}
