//! The relay between pipes: a session that panics dies alone, and says so.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bulla_core::*;
use bulla_gate::{Gate, Session};
use bulla_wire::*;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::{
    Engine, Limits, Parts, SystemClock,
    connect::{ConnectError, Connected, Connector},
    registry::{Counters, Handle},
    relay::{Relay, Start},
    watched,
};

/// A house with nothing in it but a record that is kept in memory.
struct Nothing;

impl Identity for Nothing {
    fn verify<'a>(
        &'a self,
        _: Credential,
        _: &'a Origin,
        _: Timestamp,
    ) -> Boxed<'a, Result<Principal, IdentityError>> {
        Box::pin(async { Err(IdentityError { word: "nobody", detail: "".into() }) })
    }
}
impl Directory for Nothing {
    fn find(&self, _: &str) -> Option<Arc<Resource>> {
        None
    }
}
impl Policies for Nothing {
    fn digest(&self) -> Digest {
        Digest::ZERO
    }
    fn decide(&self, _: &Request<'_>) -> Decision {
        let because = Because { policies: vec!["all".into()], bundle: Digest::ZERO };
        Decision::Allow { because, owe: Obligations::default() }
    }
    fn decide_open(&self, _: &Principal, _: &Resource, _: &Origin, _: Timestamp) -> Decision {
        let because = Because { policies: vec![], bundle: Digest::ZERO };
        Decision::Allow { because, owe: Obligations::default() }
    }
}
impl PolicySource for Nothing {
    fn current(&self) -> Option<Arc<dyn Policies>> {
        Some(Arc::new(Self))
    }
}
impl Approvals for Nothing {
    fn ask(&self, _: Ask) -> Result<Box<dyn Asked>, ApprovalError> {
        Err(ApprovalError::Full)
    }
}
impl Connector for Nothing {
    fn place(&self, _: &Resource, _: Option<&str>) -> Option<Place> {
        None
    }
    fn protocol(&self, _: &str) -> Option<Arc<dyn Protocol>> {
        None
    }
    fn connect<'a>(
        &'a self,
        place: &'a Place,
        _: Vec<(String, String)>,
    ) -> Boxed<'a, Result<Connected, ConnectError>> {
        Box::pin(async { Err(ConnectError::NoTarget(place.resource.to_string())) })
    }
    fn cancel<'a>(
        &'a self,
        _: &'a Place,
        _: &'a TargetHello,
    ) -> Boxed<'a, Result<(), ConnectError>> {
        Box::pin(async { Ok(()) })
    }
}
impl Recorder for Nothing {
    fn boot(&self) -> BootId {
        BootId([0; 16])
    }
    fn open(&self, _: &OpenRecord) -> Result<(Box<dyn Journal>, Pending), RecordError> {
        Err(RecordError::Full)
    }
    fn turned_away(&self, _: &TurnedAwayRecord) -> Result<Pending, RecordError> {
        Err(RecordError::Full)
    }
    fn admin(&self, _: &AdminRecord) -> Result<Pending, RecordError> {
        Err(RecordError::Full)
    }
    fn health(&self) -> RecordHealth {
        RecordHealth::default()
    }
}

/// Outcomes and the close of one session.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<String>>>);

fn durable() -> Result<Pending, RecordError> {
    Ok(Pending::done(Ok(Receipt { index: 0, leaf: Digest::ZERO })))
}

impl Journal for Kept {
    fn next_seq(&self) -> u64 {
        0
    }
    fn intent(&mut self, record: &IntentRecord<'_>) -> Result<Pending, RecordError> {
        self.0.lock().push(format!("intent {}", record.number));
        durable()
    }
    fn refusal(&mut self, _: &RefusalRecord<'_>) -> Result<Pending, RecordError> {
        durable()
    }
    fn hold(&mut self, _: &HoldRecord<'_>) -> Result<Pending, RecordError> {
        durable()
    }
    fn grant(&mut self, _: &GrantRecord) -> Result<Pending, RecordError> {
        durable()
    }
    fn evidence(&mut self, record: EvidenceRecord) -> Result<Pending, RecordError> {
        if let Some(outcome) = record.outcome {
            self.0.lock().push(format!("{} {}", record.number, outcome.status.word()));
        }
        durable()
    }
    fn close(&mut self, record: &CloseRecord) -> Result<Pending, RecordError> {
        self.0.lock().push(format!("close {}", record.why));
        durable()
    }
}

/// Every byte is a command; `!` is too much for it.
struct Touchy {
    number: u64,
}

const ACTIONS: Descriptor = Descriptor {
    protocol: "touchy",
    default_port: 1,
    actions: &[],
    touches: &[],
    facts: &[],
    honours: &[],
};

impl Protocol for Touchy {
    fn descriptor(&self) -> &'static Descriptor {
        &ACTIONS
    }
    fn greet(&self) -> Box<dyn Greeting> {
        panic!("nobody is greeted here")
    }
    fn login(&self, _: LoginSpec) -> Box<dyn Login> {
        panic!("nobody logs in here")
    }
    fn cancel(&self, _: &TargetHello, _: bool) -> Box<dyn Login> {
        panic!("nothing is cancelled here")
    }
    fn scout(&self, _: &Place) -> Option<Box<dyn Scout>> {
        None
    }
    fn knows(&self, _: &Place) -> bool {
        true
    }
    fn read(&self, _: &Place, _: &str, _: &Block) -> Result<Command, String> {
        Err("nothing is read here".into())
    }
}

impl Wire for Touchy {
    fn client(&mut self, input: &mut BytesMut, out: &mut Outputs) -> Result<(), Violation> {
        if input.is_empty() {
            return Ok(());
        }
        let bytes = input.split_to(1).freeze();
        assert_ne!(&bytes[..], b"!", "on purpose");
        self.number += 1;
        let command = Command {
            action: ActionName::new("touchy:byte").unwrap(),
            spelling: Spelling::Capitals,
            effects: Effects::WRITE,
            touches: Touches::Known(vec![]),
            also: vec![],
            beneath: vec![],
            purity: Purity::Effect,
            shown: "byte".into(),
            parameters: Arc::new([]),
            facts: Default::default(),
            settings: "".into(),
        };
        out.push(Output::Judge { number: self.number, draft: Draft::new(bytes, command) });
        Ok(())
    }
    fn target(&mut self, input: &mut BytesMut, out: &mut Outputs) -> Result<(), Violation> {
        let bytes = input.split().freeze();
        let done = Some(Outcome { status: Status::Ok, tag: None, rows: 0 });
        out.push(Output::Reply { number: self.number, bytes, done });
        Ok(())
    }
    fn cleared(&mut self, _: u64, _: &Obligations, _: &mut Outputs) {}
    fn refused(&mut self, _: u64, _: &Refusal, _: &mut Outputs) {}
    fn held(&mut self, _: u64, _: &HoldNotice, _: &mut Outputs) {}
    fn takes_client(&self) -> bool {
        true
    }
    fn at_rest(&self) -> bool {
        true
    }
    fn in_transaction(&self) -> bool {
        false
    }
    fn farewell(&mut self, _: &Refusal, _: &mut Outputs) {}
    fn target_lost(&mut self, _: &str, _: &mut Outputs) {}
    fn held_bytes(&self) -> usize {
        0
    }
    fn cancel(&mut self) -> Option<(u64, Draft<Bytes>)> {
        None
    }
}

fn engine() -> Arc<Engine> {
    let clock = Arc::new(SystemClock::default());
    let gate = Gate::new(Arc::new(Nothing), Arc::new(Nothing), clock.clone());
    let parts = Parts {
        gate: Arc::new(gate),
        recorder: Arc::new(Nothing),
        identity: Arc::new(Nothing),
        directory: Arc::new(Nothing),
        policies: Arc::new(Nothing),
        connector: Arc::new(Nothing),
        clock,
    };
    Engine::new(parts, Limits::default())
}

fn principal() -> Principal {
    let at = Timestamp::from_secs(1);
    Principal {
        id: PrincipalId::new("k8s", "app").unwrap(),
        kind: PrincipalKind::Workload,
        issuer: "https://issuer.example".into(),
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
    }
}

/// A session whose both ends are ours, and what is recorded of it.
fn session(engine: &Arc<Engine>, n: u8) -> (Relay, DuplexStream, DuplexStream, Kept) {
    let kept = Kept::default();
    let resource = Resource {
        name: ResourceName::new("shop").unwrap(),
        protocol: "touchy".into(),
        groups: vec![],
        mode: Mode::Strict,
        expiry: Expiry::LoginOnly,
        session_ms_max: 3_600_000,
        hold_in_transaction_ms: 0,
    };
    let origin =
        Origin { address: [127, 0, 0, 1].into(), port: 1, tls: "".into(), certificate: None };
    let id = SessionId::new(Timestamp::from_secs(1), [n; 10]);
    let (principal, now) = (Arc::new(principal()), engine.parts.clock.now());
    let session = Session::new(
        id,
        principal.clone(),
        Arc::new(resource),
        None,
        origin,
        &[],
        Box::new(kept.clone()),
    );
    let welcome = session.aside(Flow::Gateway, Bytes::from_static(b"hi"), now).unwrap();
    let (tell, inbox) = tokio::sync::mpsc::unbounded_channel();
    let entered = engine.registry.enter(Handle {
        id,
        principal: principal.id.clone(),
        resource: "shop".into(),
        opened: now,
        source: "test".into(),
        counters: Arc::new(Counters::default()),
        cancel_key: Some([n; CANCEL_KEY_BYTES]),
        tell,
    });
    let (client, near) = duplex(1 << 10);
    let (target, far) = duplex(1 << 10);
    let cap = now.plus_ms(3_600_000);
    let start = Start {
        session,
        wire: Box::new(Touchy { number: 0 }),
        protocol: Arc::new(Touchy { number: 0 }),
        place: Place { resource: "shop".into(), part: "shop".into(), default_part: true },
        hello: Arc::default(),
        target: Box::new(far),
        from_client: BytesMut::new(),
        from_target: BytesMut::new(),
        welcome,
        inbox,
        entered,
        lease: None,
        expires: cap,
        cap,
        expiry: Expiry::LoginOnly,
    };
    (Relay::new(engine.clone(), near, start), client, target, kept)
}

async fn expect(side: &mut DuplexStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    side.read_exact(&mut got).await.unwrap();
    assert_eq!(got, bytes);
}

/// Counts one counter.
struct Count(Arc<AtomicU64>);

impl metrics::Recorder for Count {
    fn describe_counter(
        &self,
        _: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
    }
    fn describe_gauge(
        &self,
        _: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
    }
    fn describe_histogram(
        &self,
        _: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
    }
    fn register_counter(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        match key.name() {
            "bulla_session_panics_total" => metrics::Counter::from_arc(self.0.clone()),
            _ => metrics::Counter::noop(),
        }
    }
    fn register_gauge(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        metrics::Gauge::noop()
    }
    fn register_histogram(
        &self,
        _: &metrics::Key,
        _: &metrics::Metadata<'_>,
    ) -> metrics::Histogram {
        metrics::Histogram::noop()
    }
}

#[test]
fn a_panic_in_one_session_ends_that_session_alone() {
    let panics = Arc::new(AtomicU64::new(0));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&Count(panics.clone()), || {
        runtime.block_on(async {
            let engine = engine();
            let (relay, mut client, mut target, kept) = session(&engine, 1);
            let (other, mut other_client, mut other_target, other_kept) = session(&engine, 2);
            let task = tokio::spawn(watched(relay.run()));
            let other_task = tokio::spawn(watched(other.run()));
            for (client, target) in
                [(&mut client, &mut target), (&mut other_client, &mut other_target)]
            {
                expect(client, b"hi").await;
                client.write_all(b"a").await.unwrap();
                expect(target, b"a").await;
            }
            // In flight, and then its session panics.
            client.write_all(b"!").await.unwrap();
            assert!(task.await.unwrap_err().is_panic());
            assert_eq!(*kept.0.lock(), ["intent 1", "1 abandoned"]);
            assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "its client sees the end");
            assert_eq!(target.read(&mut [0; 8]).await.unwrap(), 0, "and so does its target");
            assert_eq!(engine.sessions().len(), 1);
            // The other goes on.
            other_target.write_all(b"done").await.unwrap();
            expect(&mut other_client, b"done").await;
            drop(other_client);
            other_task.await.unwrap();
            assert_eq!(*other_kept.0.lock(), ["intent 1", "1 ok", "close client"]);
        });
    });
    assert_eq!(panics.load(Ordering::Relaxed), 1);
}

#[test]
fn a_lost_target_ends_its_session_at_once() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let engine = engine();
        let (relay, mut client, target, kept) = session(&engine, 1);
        let task = tokio::spawn(relay.run());
        expect(&mut client, b"hi").await;
        // More than the pipe to the target takes, so that bytes are left that can never go.
        client.write_all(&[b'a'; 3_000]).await.unwrap();
        drop(target);
        let started = std::time::Instant::now();
        task.await.unwrap();
        // Waiting until those bytes have gone would take 5 s.
        assert!(started.elapsed() < std::time::Duration::from_secs(4), "it lingers");
        assert_eq!(kept.0.lock().last().unwrap(), "close target_lost");
    });
}

#[test]
fn the_clock_never_goes_back() {
    let clock = SystemClock::default();
    let ahead = Timestamp::from_secs(u32::MAX.into());
    assert_eq!(clock.at_least(ahead), ahead);
    // The system's own time is far behind that.
    assert_eq!(clock.now(), ahead);
    assert_eq!(clock.at_least(Timestamp::from_secs(1)), ahead);
}

#[test]
fn a_fresh_credential_extends_sessions_without_waking_them() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let engine = engine();
    let (one, ..) = session(&engine, 1);
    let (two, ..) = session(&engine, 2);
    let principal = principal().id;
    let until = Timestamp::from_secs(5_000);
    engine.registry.extend(&principal, until);
    engine.registry.extend(&principal, Timestamp::from_secs(4_000));
    assert_eq!((one.identified_until(), two.identified_until()), (until, until));
    // What was presented before a session opened does not prolong it, whatever else lives.
    let (late, ..) = session(&engine, 4);
    assert_eq!(late.identified_until(), Timestamp(0));
    engine.registry.extend(&principal, Timestamp::from_secs(3_000));
    assert_eq!(late.identified_until(), Timestamp::from_secs(3_000));
    drop((one, late));
    assert_eq!(engine.sessions().len(), 1);
    assert_eq!(two.identified_until(), until);
    drop(two);
    // Who comes later starts from its own credential.
    let (three, ..) = session(&engine, 3);
    assert_eq!(three.identified_until(), Timestamp(0));
}
