//! The scheduler: sets a world up, moves one thing at a time, breaks things, ends it or cuts the
//! power, and checks.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};

use bulla_core::{
    Because, Clock, Decision, Expiry, Flow, Journal, Mode, OpenRecord, Origin, Policies, Resource,
    ResourceName, SessionId,
};
use bulla_gate::{Gate, Session};
use bulla_ledger::{
    Ledger, Reader, ReaderConfig, log_vkey, verify_dir,
    vfs::sim::{Fault, Plan, SimVfs, Survive, Torn},
};
use bulla_postgres::DESCRIPTOR;
use bulla_tlog::{entry::Kind, verify::Verdict};
use bulla_wire::{CANCEL_KEY_BYTES, Opened, Protocol};
use parking_lot::Mutex;

use crate::{
    Break,
    chance::Chance,
    client::Client,
    disk::{config, fill, forget},
    fixture::{PASSWORD, TOKEN, fixture, greet, login, principal},
    model::{Model, Violation},
    ports::{SimApprovals, SimClock, SimPolicies, SimRecorder},
    road::{Road, Start},
    target::Target,
};

/// Steps that a run may take before it must come to rest.
const STEPS: u64 = 2_000;
/// Steps that coming to rest may take.
const REST: u64 = 60_000;
/// Steps that a failure shows.
const TRACE_LINES: usize = 40;

/// What a run is made of.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub seed: u64,
    pub lie: Option<Break>,
    pub trace: bool,
}

/// What a run went through, to show that it went through something.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    pub steps: u64,
    pub sessions: u64,
    pub commands: u64,
    pub refusals: u64,
    pub holds: u64,
    pub grants: u64,
    pub rows: u64,
    pub to_client: u64,
    pub receipts: u64,
    pub crashes: u64,
    pub disk_faults: u64,
    pub full_disks: u64,
    /// Appends that were turned away because of it.
    pub turned_away: u64,
}

impl Stats {
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.sessions += other.sessions;
        self.commands += other.commands;
        self.refusals += other.refusals;
        self.holds += other.holds;
        self.grants += other.grants;
        self.rows += other.rows;
        self.to_client += other.to_client;
        self.receipts += other.receipts;
        self.crashes += other.crashes;
        self.disk_faults += other.disk_faults;
        self.full_disks += other.full_disks;
        self.turned_away += other.turned_away;
    }
}

/// A run that broke an invariant.
#[derive(Debug, Clone)]
pub struct Failure {
    pub seed: u64,
    pub step: u64,
    pub violation: Violation,
    /// The last steps.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { invariant, what } = &self.violation;
        writeln!(f, "seed {} breaks {invariant} at step {}: {what}", self.seed, self.step)?;
        for line in &self.trace {
            writeln!(f, "    {line}")?;
        }
        write!(f, "replay: cargo xtask sim --seeds 1 --from {} --trace", self.seed)
    }
}

/// What goes wrong in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    Sound,
    /// The power goes at the so many-th write to the journal.
    Cut(Torn),
    Fails,
    Full,
}

struct World {
    options: Options,
    chance: Chance,
    vfs: SimVfs,
    ledger: Arc<Ledger>,
    recorder: SimRecorder,
    policies: Arc<SimPolicies>,
    approvals: Arc<SimApprovals>,
    clock: Arc<SimClock>,
    gate: Arc<Gate>,
    model: Arc<Mutex<Model>>,
    roads: Vec<Road>,
    disk: Disk,
    /// Takes the room of a full disk.
    filler: Option<Box<dyn Journal>>,
    step: u64,
    trace: Vec<String>,
    stats: Stats,
}

/// Runs one seed to its end.
///
/// # Errors
/// The first invariant that did not hold.
pub fn run(options: Options) -> Result<Stats, Failure> {
    let mut world = World::new(options);
    world.go();
    world.finish()
}

impl World {
    fn new(options: Options) -> Self {
        let mut chance = Chance::new(options.seed);
        let vfs = SimVfs::new();
        let ledger = Ledger::open_on(config(), Arc::new(vfs.clone())).unwrap();
        let model = Arc::new(Mutex::new(Model::default()));
        model.lock().secrets = vec![TOKEN.as_bytes().to_vec(), PASSWORD.as_bytes().to_vec()];
        let recorder = SimRecorder::new(ledger.clone(), model.clone(), options.lie);
        let policies = Arc::new(SimPolicies(Mutex::new(Some(fixture().all.clone()))));
        let approvals = Arc::new(SimApprovals::new(model.clone(), options.lie));
        let clock = Arc::new(SimClock(AtomicU64::new(1_800_000_000_000_000_000)));
        let gate = Arc::new(Gate::new(policies.clone(), approvals.clone(), clock.clone()));
        let disk = match chance.below(100) {
            0..50 => Disk::Sound,
            50..75 => {
                let torn = match chance.below(3) {
                    0 => Torn::Prefix(usize::try_from(chance.below(9_000)).unwrap()),
                    1 => Torn::Sectors(chance.next()),
                    _ => Torn::Prefix(usize::MAX),
                };
                Disk::Cut(torn)
            }
            75..88 => Disk::Fails,
            _ => Disk::Full,
        };
        let mut world = Self {
            options,
            chance,
            vfs,
            ledger,
            recorder,
            policies,
            approvals,
            clock,
            gate,
            model,
            roads: Vec::new(),
            disk,
            filler: None,
            step: 0,
            trace: Vec::new(),
            stats: Stats::default(),
        };
        let sessions = 1 + world.chance.below(3);
        for _ in 0..sessions {
            world.open();
        }
        world.plan();
        world
    }

    /// Arms the disk's fault, once the sessions are open.
    fn plan(&mut self) {
        let at = self.chance.below(70);
        let fault = match self.disk {
            Disk::Sound => return,
            Disk::Full => {
                self.stats.full_disks += 1;
                let but = self.chance.below(4);
                self.filler = Some(fill(&self.vfs, &self.ledger, but));
                return;
            }
            Disk::Cut(torn) => Fault::Crash(torn),
            Disk::Fails => {
                self.stats.disk_faults += 1;
                Fault::Error(std::io::ErrorKind::Other)
            }
        };
        let path = "0000000000000000.seg".to_owned();
        self.vfs.plan(Some(Plan { path, at, fault }));
    }

    fn say(&mut self, what: String) {
        let line = format!("{:>5} {what}", self.step);
        if self.options.trace {
            println!("{line}");
        }
        if self.trace.len() >= TRACE_LINES {
            self.trace.remove(0);
        }
        self.trace.push(line);
    }

    /// The whole way in: greeting, policy, login at the target, the record of the opening.
    fn open(&mut self) {
        let fixture = fixture();
        let mut greeting = fixture.protocol.greet();
        let hello = greet(greeting.as_mut());
        let target = login(&fixture.protocol);
        let strict = self.chance.percent(75);
        let resource = Arc::new(Resource {
            name: ResourceName::new("shop").unwrap(),
            protocol: "postgres".into(),
            groups: vec![],
            mode: if strict { Mode::Strict } else { Mode::Bounded },
            expiry: Expiry::Rebind,
            session_ms_max: 3_600_000,
            hold_in_transaction_ms: if self.chance.percent(50) { 60_000 } else { 0 },
        });
        let now = self.clock.now();
        let principal = Arc::new(principal(now));
        let origin = Origin {
            address: [127, 0, 0, 1].into(),
            port: 1,
            tls: "TLSv1.3".into(),
            certificate: None,
        };
        let decided = fixture.all.decide_open(&principal, &resource, &origin, now);
        let Decision::Allow { because, .. } = decided else { panic!("{decided:?}") };
        let mut random = [0; 10];
        random.copy_from_slice(&self.chance.bytes(10));
        let mut claims = hello.claims;
        if self.options.lie == Some(Break::SecretRecorded) {
            claims.push(("credential".into(), TOKEN.into()));
        }
        let record = OpenRecord {
            session: SessionId::new(now, random),
            at: now,
            principal: principal.clone(),
            resource: resource.name.clone(),
            part: None,
            protocol: DESCRIPTOR.protocol,
            origin: origin.clone(),
            mode: resource.mode,
            because: Because { policies: because.policies, bundle: because.bundle },
            claims,
        };
        let Ok((at, journal)) = self.recorder.open(&record, strict) else { return };
        let session = Session::new(
            record.session,
            principal,
            resource,
            None,
            origin,
            DESCRIPTOR.honours,
            journal,
        );
        let opened = Opened {
            cancel_key: [7; CANCEL_KEY_BYTES],
            target: Arc::new(target),
            place: fixture.place.clone(),
            block: Arc::new(|wait: &mut dyn FnMut()| wait()),
            reveals: Arc::new(|_| false),
        };
        let (welcome, wire) = greeting.welcome(opened).unwrap();
        let start = Start {
            at,
            gate: self.gate.clone(),
            clock: self.clock.clone(),
            session,
            wire,
            welcome,
            model: self.model.clone(),
            lie: self.options.lie,
        };
        let client = Client::new(&mut self.chance);
        let target = Target::new(2 + self.chance.below(8));
        self.roads.push(Road::new(start, client, target));
        self.stats.sessions += 1;
    }

    fn is_broken(&self) -> bool {
        self.vfs.is_crashed() || self.model.lock().violation().is_some()
    }

    fn go(&mut self) {
        let cut = self.chance.percent(20).then(|| self.chance.below(STEPS));
        while self.step < STEPS {
            self.step += 1;
            self.clock.0.fetch_add(1_000_000, std::sync::atomic::Ordering::Relaxed);
            self.one();
            self.check();
            if self.is_broken() || self.roads.iter_mut().all(Road::is_over) {
                return;
            }
            if cut == Some(self.step) {
                self.say("the power is cut".into());
                self.vfs.crash();
                return;
            }
        }
        self.rest();
    }

    fn check(&mut self) {
        for road in &mut self.roads {
            road.look();
        }
        if self.step.is_multiple_of(16) {
            let mut model = self.model.lock();
            model.refusals_sent_nothing();
            model.secrets_in_the_record();
        }
    }

    /// One thing happens.
    fn one(&mut self) {
        let n = self.roads.len() as u64;
        let what = self.chance.below(100);
        match what {
            0..14 => {
                let k = 1 + self.chance.below(6);
                if self.recorder.untold() > 0 {
                    self.say(format!("the disk tells of {k}"));
                }
                self.recorder.tell(usize::try_from(k).unwrap());
            }
            14..18 => {
                let (which, how) = (self.chance.next(), self.chance.next());
                if self.approvals.decide(which, how) {
                    self.say(format!("an approver decides ({})", how % 8));
                }
            }
            18 if self.chance.percent(40) => self.policies_change(),
            19 => {
                let down = self.chance.percent(10);
                self.approvals.board.lock().down = down;
            }
            20..97 => {
                let at = usize::try_from(self.chance.below(n)).unwrap();
                self.road(at);
            }
            _ if self.chance.percent(6) => {
                let at = usize::try_from(self.chance.below(n)).unwrap();
                self.disturb(at);
            }
            _ => {}
        }
    }

    fn road(&mut self, at: usize) {
        let chance = &mut self.chance;
        let Some(road) = self.roads.get_mut(at).filter(|road| !road.over) else { return };
        let (moved, what) = match chance.below(6) {
            0 => (road.client_writes(chance), "its client writes"),
            1 => (road.client_is_read(), "its client is read"),
            2 => (road.verdict(), "the gate answers"),
            3 => (road.up(chance), "bytes go to its target"),
            4 => (road.target_is_read(chance), "its target is read"),
            _ => (road.down(chance), "bytes go to its client"),
        };
        if moved {
            self.say(format!("session {at}: {what}"));
        }
    }

    fn policies_change(&mut self) {
        let fixture = fixture();
        let next = match self.chance.below(4) {
            0 => Some(fixture.fewer.clone()),
            1 if self.chance.percent(50) => None,
            _ => Some(fixture.all.clone()),
        };
        *self.policies.0.lock() = next;
        self.say("the policies change".into());
    }

    fn disturb(&mut self, at: usize) {
        let what = self.chance.below(4);
        self.say(format!("session {at} is disturbed ({what})"));
        let Some(road) = self.roads.get_mut(at).filter(|road| !road.over) else { return };
        match what {
            0 => road.client_leaves(),
            1 => road.target_is_lost(),
            2 => road.kill(),
            _ => road.cancel(),
        }
    }

    /// Everything is given its turn until nothing moves: then every client must be done.
    fn rest(&mut self) {
        *self.policies.0.lock() = Some(fixture().all.clone());
        self.approvals.board.lock().down = false;
        let mut still = 0;
        while still < 3 && self.step < REST {
            self.step += 1;
            let mut moved = self.recorder.untold() > 0;
            self.recorder.tell(usize::MAX);
            let (which, how) = (self.chance.next(), self.chance.next());
            moved |= self.approvals.decide(which, how);
            for at in 0..self.roads.len() {
                let (chance, road) = (&mut self.chance, &mut self.roads[at]);
                if road.over {
                    continue;
                }
                moved |= road.client_writes(chance);
                moved |= road.client_is_read();
                moved |= road.verdict();
                moved |= road.up(chance);
                moved |= road.target_is_read(chance);
                moved |= road.down(chance);
            }
            self.check();
            if self.is_broken() {
                return;
            }
            still = if moved { 0 } else { still + 1 };
        }
        for at in 0..self.roads.len() {
            if !self.roads[at].over && !self.roads[at].ends_when_idle() {
                let state = self.roads[at].state();
                self.model.lock().lost(format!("session {at} came to rest too early: {state}"));
            }
        }
    }

    /// Ends the run, or finds what the power cut left; then the log must be whole.
    fn finish(mut self) -> Result<Stats, Failure> {
        for road in &self.roads {
            self.stats.commands += road.commands;
            self.stats.refusals += road.refused;
            self.stats.holds += road.held;
            self.stats.rows += road.client.rows;
        }
        self.model.lock().refusals_sent_nothing();
        self.model.lock().secrets_in_the_record();
        if self.model.lock().violation().is_none() {
            self.recover();
        }
        let model = self.model.lock();
        self.stats.steps = self.step;
        self.stats.grants = model.grants_spent;
        self.stats.turned_away = model.turned_away;
        self.stats.receipts = model.receipts.len() as u64;
        self.stats.to_client = model.sessions.iter().map(|s| s.to_client.len() as u64).sum();
        match model.violation() {
            None => Ok(self.stats),
            Some(violation) => Err(Failure {
                seed: self.options.seed,
                step: self.step,
                violation: violation.clone(),
                trace: self.trace.clone(),
            }),
        }
    }

    fn recover(&mut self) {
        let crashed = self.vfs.is_crashed();
        if !crashed && self.chance.percent(50) {
            // Ends as a gateway that drains.
            self.roads.iter_mut().filter(|road| !road.over).for_each(Road::close);
            self.recorder.tell(usize::MAX);
        }
        self.roads.clear();
        self.filler = None;
        // With nobody left to say *stopped*, the end of the run is part of the record.
        let _ = self.ledger.shutdown();
        let survive = match self.chance.below(3) {
            0 => Survive::Nothing,
            1 => Survive::All,
            _ => Survive::Some(self.chance.next()),
        };
        self.stats.crashes += u64::from(crashed);
        let vfs = self.vfs.after_crash(survive);
        vfs.set_capacity(None);
        if self.options.lie == Some(Break::ForgetfulDisk) {
            forget(&vfs);
        }
        let again = match Ledger::open_on(config(), Arc::new(vfs.clone())) {
            Ok(ledger) => ledger,
            Err(error) => return self.model.lock().lost(format!("does not open again: {error}")),
        };
        if let Err(error) = again.shutdown() {
            return self.model.lock().lost(format!("does not end well: {error}"));
        }
        let dir = TempDir::new(self.options.seed);
        for (path, bytes) in vfs.files(Path::new("/ledger")) {
            // The archive has all of it now.
            if path.starts_with("/ledger/journal") {
                continue;
            }
            let to = dir.0.join(path.strip_prefix("/").unwrap_or(&path));
            std::fs::create_dir_all(to.parent().unwrap_or(&dir.0)).unwrap();
            std::fs::write(to, bytes).unwrap();
        }
        if let Err(what) = self.read_back(&dir.0.join("ledger")) {
            self.model.lock().lost(what);
        }
    }

    /// I5, by the verifier and the reader that a stranger would use.
    fn read_back(&self, dir: &Path) -> Result<(), String> {
        let said = |what: &str, error: &dyn fmt::Display| format!("{what}: {error}");
        let vkey = log_vkey(&dir.join("keys")).map_err(|e| said("key", &e))?;
        let archive = dir.join("archive");
        let report = verify_dir(&archive, &[vkey], Default::default(), 1, &mut |_| {});
        let report = report.map_err(|e| said("verify", &e))?;
        if report.verdict != Verdict::Complete {
            return Err(format!("{:?}: {:?}", report.verdict, report.findings));
        }
        let config = ReaderConfig { journal: None, ..ReaderConfig::of_ledger(dir) };
        let reader = Reader::open(config).map_err(|e| said("reader", &e))?;
        let mut model = self.model.lock();
        for receipt in &model.receipts {
            let entry = reader.entry(receipt.index).map_err(|e| said("receipt", &e))?;
            if entry.leaf.0 != receipt.leaf.0 {
                return Err(format!("entry {} is another than its receipt", receipt.index));
            }
        }
        for at in 0..model.sessions.len() {
            let session = reader.session(model.sessions[at].id).map_err(|e| said("session", &e))?;
            let (mut to_client, mut to_target) = (Vec::new(), Vec::new());
            for event in session.events() {
                let event = event.map_err(|e| said("event", &e))?;
                let bytes = session.payload_bytes(&event).map_err(|e| said("payload", &e))?;
                model
                    .secret("the log", format!("{:?}", event.detail).as_bytes())
                    .map_err(|violation| violation.what)?;
                match (event.flow(), event.kind()) {
                    (Some(Flow::ToClient | Flow::ToClientBeside | Flow::Gateway), _) => {
                        to_client.extend(bytes);
                    }
                    (_, Kind::Refusal) => {}
                    (Some(Flow::ToTarget | Flow::ToTargetBeside), _) => to_target.extend(bytes),
                    (None, _) => {}
                }
            }
            model.replayed(at, &to_client, &to_target);
        }
        Ok(())
    }
}

/// A directory that goes when the run does.
struct TempDir(PathBuf);

impl TempDir {
    fn new(seed: u64) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("bulla-sim-{}-{seed}-{n}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
