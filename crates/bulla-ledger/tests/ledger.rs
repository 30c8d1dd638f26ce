//! The ledger on real files.

use std::{path::PathBuf, sync::Arc};

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

fn config(dir: &TempDir) -> LedgerConfig {
    LedgerConfig {
        dir: dir.0.join("ledger"),
        origin: "test.example/log".into(),
        segment_bytes: 1 << 20,
        reserve_bytes: 64 << 10,
        checkpoint_ms: 20,
        real_time: RealTime::Off,
        ..LedgerConfig::default()
    }
}

fn principal() -> Arc<Principal> {
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

fn because() -> Because {
    Because { policies: vec!["reads".into()], bundle: Digest([5; 32]) }
}

fn open_record(n: u8) -> OpenRecord {
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

fn command(text: &str) -> Command {
    Command {
        action: ActionName::new("postgres:select").unwrap(),
        effects: Effects::READ,
        touches: Touches::Known(vec![]),
        purity: Purity::Read,
        shown: text.into(),
        parameters: Arc::new([]),
        facts: Default::default(),
        settings: "".into(),
    }
}

fn now(n: u64) -> Timestamp {
    Timestamp::from_secs(1_800_000_000 + n)
}

#[test]
fn a_session_is_recorded_and_the_ledger_reopens() {
    let dir = TempDir::new("reopen");
    let ledger = Ledger::open(config(&dir)).unwrap();
    assert_eq!(ledger.recovery().entries, 0);
    let (mut journal, opened) = ledger.open(&open_record(1)).unwrap();
    assert_eq!(wait_durable(opened).unwrap().index, 2, "genesis and boot come first");
    let intent = journal
        .intent(&IntentRecord {
            at: now(2),
            number: 1,
            command: &command("select 1"),
            payload: Bytes::from_static(b"Q...select 1"),
            decision: "allow",
            because: &because(),
            grant: None,
        })
        .unwrap();
    wait_durable(intent).unwrap();
    let outcome = Outcome { status: Status::Ok, tag: Some("SELECT 1".into()), rows: 1 };
    let evidence = journal
        .evidence(EvidenceRecord {
            at: now(3),
            number: 1,
            flow: Flow::ToClient,
            bytes: Bytes::from(vec![9; 200_000]),
            outcome: Some(outcome),
        })
        .unwrap();
    wait_durable(evidence).unwrap();
    assert_eq!(journal.next_seq(), 3);
    drop(journal);
    ledger.shutdown().unwrap();
    assert_eq!(ledger.shutdown(), Ok(()));
    let entries = ledger.health().entries;
    drop(ledger);

    let ledger = Ledger::open(config(&dir)).unwrap();
    assert_eq!(ledger.recovery().entries, entries);
    assert!(!ledger.recovery().was_cut_off);
    assert!(matches!(Ledger::open(config(&dir)), Err(LedgerError::InUse { .. })));
}
