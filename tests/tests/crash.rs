//! The real gateway, killed at random moments under a real load, and on disks that fail.
//!
//! `BULLA_KILLS` says how many times; `cargo xtask kill --rounds N` sets it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bulla_core::{Flow, SessionId};
use bulla_e2e::ca::Authority;
use bulla_e2e::client::program;
use bulla_e2e::disk::Failing;
use bulla_e2e::gateway::{Gateway, Spec, cli_in};
use bulla_e2e::issuer::Issuer;
use bulla_e2e::place::TempDir;
use bulla_e2e::postgres::{Options, Postgres};
use bulla_e2e::proc::{Proc, Signal, capture};
use bulla_e2e::tap::{self, Door, Keep, Raw};
use bulla_ledger::{Reader, ReaderConfig, log_vkey, verify_dir};
use bulla_tlog::entry::Kind;
use bulla_tlog::verify::Verdict;

/// Kills in CI.
const KILLS: u64 = 100;
/// The log is verified whole after so many.
const VERIFY_EVERY: u64 = 20;
/// Longest life of a gateway under load: so many logins long, and within these.
const LIFE_LOGINS: u64 = 4;
const LIFE_MS: (u64, u64) = (220, 500);

const EVERYTHING: &str = r#"
@id("everything")
permit (principal, action, resource in Bulla::Resource::"orders");
"#;

struct World {
    server: Postgres,
    gateway: Gateway,
    door: Door,
    token: String,
    _issuer: Issuer,
}

impl World {
    fn start(shape: impl FnOnce(Spec) -> Spec) -> Self {
        Self::start_with(shape, &[])
    }
    fn start_with(shape: impl FnOnce(Spec) -> Spec, env: &[(String, String)]) -> Self {
        let authority = Authority::new("crash").unwrap();
        let options = Options::default().set("log_statement", "none").set("log_connections", "off");
        let server = Postgres::with(&authority, &options).unwrap();
        let issuer = Issuer::start().unwrap();
        let token =
            issuer.mint().unwrap().subject("billing/api").claim("team", "billing").token().unwrap();
        let spec = Spec::new(&server, &issuer).policy("orders.cedar", EVERYTHING);
        let gateway = Gateway::start_with(&authority, shape(spec), env).unwrap();
        let door = Door::new(&gateway.dial(&token)).unwrap();
        Self { server, gateway, door, token, _issuer: issuer }
    }
    fn psql(&self, sql: &str) -> String {
        let done = self.gateway.dial(&self.token).psql(&[sql]).unwrap();
        format!("{}{}", done.out(), done.err())
    }
    fn client(&self) -> Raw {
        tap::runtime().block_on(self.door.enter(Keep::All)).unwrap()
    }
    /// Sees what the gateway sees, mounts of its own included, and copies it out. The gateway stands
    /// still meanwhile: files are renamed and removed under whoever copies one after the other.
    fn copy(&self) -> TempDir {
        let copy = TempDir::new("copy").unwrap();
        self.gateway.proc().signal(Signal::Stop).unwrap();
        let mut cp = Command::new("cp");
        cp.arg("-r");
        for part in ["archive", "keys", "journal", "log.vkey"] {
            cp.arg(self.gateway.inside("data").join(part));
        }
        cp.arg(copy.path());
        let done = capture(cp, None, Duration::from_secs(30));
        self.gateway.proc().signal(Signal::Continue).unwrap();
        done.unwrap().success().unwrap();
        copy
    }
}

/// Repeats the same sequence for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % n.max(1)
    }
}

/// What one client saw.
#[derive(Default)]
struct Seen {
    received: Vec<u8>,
    acknowledged: Vec<u64>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Writes and reads until the gateway is gone.
async fn work(door: Door, mut dice: Dice) -> Seen {
    let mut seen = Seen::default();
    let Ok(mut client) = door.enter(Keep::All).await else { return seen };
    loop {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let sql = match dice.below(3) {
            0 => format!("SELECT repeat(chr(65 + {id} % 26), {})", dice.below(40_000)),
            1 => "SELECT c.name, o.item FROM customers c JOIN orders o ON o.customer_id = c.id \
                  ORDER BY o.id"
                .to_owned(),
            _ => format!("INSERT INTO writes VALUES ({id}, 'raw') RETURNING id"),
        };
        match client.query(&sql).await {
            Ok((None, _)) if sql.starts_with("INSERT") => seen.acknowledged.push(id),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    // What was on the way was delivered, too.
    client.rest().await;
    seen.received = client.received;
    seen
}

/// What a session's client got, according to the record.
fn delivered(reader: &Reader, id: SessionId) -> Vec<u8> {
    let session = reader.session(id).unwrap();
    let mut out = Vec::new();
    for event in session.events() {
        let event = event.unwrap();
        if matches!(event.flow(), Some(Flow::ToClient | Flow::Gateway)) {
            out.extend(session.payload_bytes(&event).unwrap());
        }
    }
    out
}

/// Every client's log is the beginning of what the record holds of one session.
fn delivered_is_recorded(reader: &Reader, clients: &[Seen], round: u64) {
    let logs: Vec<&[u8]> =
        clients.iter().map(|seen| &seen.received[..]).filter(|log| !log.is_empty()).collect();
    let mut missing: BTreeSet<usize> = (0..logs.len()).collect();
    for found in reader.sessions().take(40) {
        if missing.is_empty() {
            return;
        }
        let recorded = delivered(reader, found.unwrap().1);
        // Each begins with a cancel key of its own, so at most one log begins like it.
        missing.retain(|at| !recorded.starts_with(logs[*at]));
    }
    for at in &missing {
        let key = &logs[*at][..logs[*at].len().min(400)];
        eprintln!("round {round}, client {at}: {} bytes: {:?}", logs[*at].len(), key);
    }
    assert!(missing.is_empty(), "round {round}: what clients {missing:?} got is not recorded");
}

fn verified(data: &Path) {
    let vkey = log_vkey(&data.join("keys")).unwrap();
    let report =
        verify_dir(&data.join("archive"), &[vkey], Default::default(), 2, &mut |_| {}).unwrap();
    assert_eq!(report.verdict, Verdict::Complete, "{:?}", report.findings);
}

/// One life of the gateway under load. Returns what the clients saw.
fn live(world: &World, round: u64, life_ms_max: u64, dice: &mut Dice) -> Vec<Seen> {
    let runtime = tap::runtime();
    let clients: Vec<_> =
        (0..3).map(|n| runtime.spawn(work(world.door.clone(), Dice(round * 8 + n + 1)))).collect();
    let dial = world.gateway.dial(&world.token);
    let mut pgbench = dial.command(&program("pgbench").unwrap());
    pgbench.args(["-n", "-M", "prepared", "-c", "2", "-T", "60"]);
    let pgbench = Proc::spawn("pgbench", pgbench).unwrap();
    let mut psql = dial.command(&program("psql").unwrap());
    psql.args(["-X", "-q", "-A", "-t"]);
    let script: String = (0..400)
        .map(|_| {
            let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
            format!("INSERT INTO writes VALUES ({id}, 'psql') RETURNING id;\n")
        })
        .collect();
    let psql = Proc::spawn_with("psql", psql, Signal::Terminate, Some(script.into_bytes()));
    let psql = psql.unwrap();
    // The moment is the test; it may fall into start-up, logins or the load.
    std::thread::sleep(Duration::from_millis(dice.below(life_ms_max)));
    world.gateway.kill().unwrap();
    let mut seen: Vec<Seen> =
        clients.into_iter().map(|client| runtime.block_on(client).unwrap()).collect();
    drop(pgbench);
    let _ = psql.wait(Duration::from_secs(20));
    let (out, _) = psql.output();
    let ids = String::from_utf8_lossy(&out).lines().filter_map(|line| line.parse().ok()).collect();
    seen.push(Seen { received: Vec::new(), acknowledged: ids });
    seen
}

#[test]
fn a_hundred_kills_lose_nothing_that_was_delivered() {
    let kills = std::env::var("BULLA_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let mut world = World::start(|spec| spec);
    world.server.dial("bulla_scram", "scram secret").run("pgbench", &["-i", "-q"]).unwrap();
    let writes = "CREATE TABLE writes (id bigint, who text)";
    let made = world.server.dial("bulla_scram", "scram secret").psql(&[writes]).unwrap();
    made.success().unwrap();
    let started = Instant::now();
    // A life must be long enough for some work on a machine that does a lot else.
    world.client();
    let pace = u64::try_from(started.elapsed().as_millis()).unwrap();
    let life_ms_max = (LIFE_LOGINS * pace).clamp(LIFE_MS.0, LIFE_MS.1);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut acknowledged, mut delivered_bytes) = (BTreeSet::new(), 0u64);
    for round in 1..=kills {
        let seen = live(&world, round, life_ms_max, &mut dice);
        world.gateway.restart().unwrap();
        let reader = Reader::open(ReaderConfig::of_ledger(&world.gateway.data_dir())).unwrap();
        delivered_is_recorded(&reader, &seen, round);
        for seen in seen {
            delivered_bytes += seen.received.len() as u64;
            acknowledged.extend(seen.acknowledged);
        }
        if round % VERIFY_EVERY == 0 {
            verified(&world.gateway.data_dir());
        }
    }
    let took = started.elapsed();
    assert!(world.gateway.terminate().unwrap().success(), "{}", world.gateway.log());
    let data = world.gateway.data_dir();
    verified(&data);
    let reader = Reader::open(ReaderConfig::of_ledger(&data)).unwrap();
    // Whatever happened at the target was intended on record first, and every session is closed.
    let (mut intended, mut sessions) = (BTreeSet::new(), 0);
    for found in reader.sessions() {
        let id = found.unwrap().1;
        let session = reader.session(id).unwrap();
        assert!(session.place().closed, "session {id} has no end");
        sessions += 1;
        for event in session.events().map(Result::unwrap).filter(|e| e.kind() == Kind::Intent) {
            let text = event.detail.shown.clone().unwrap_or_default();
            let id = text.split("VALUES (").nth(1).and_then(|rest| rest.split(',').next());
            intended.extend(id.and_then(|id| id.trim().parse::<u64>().ok()));
        }
    }
    let rows = world.server.sql("SELECT id FROM writes").unwrap();
    let written: BTreeSet<u64> = rows.lines().map(|line| line.parse().unwrap()).collect();
    assert!(written.is_subset(&intended), "{:?}", written.difference(&intended).next());
    assert!(acknowledged.is_subset(&written));
    println!(
        "{kills} kills in {:.0} s: {sessions} sessions, {} writes, {} acknowledged, \
         {delivered_bytes} bytes delivered, {} entries",
        took.as_secs_f64(),
        written.len(),
        acknowledged.len(),
        reader.len()
    );
    // A load that never got anywhere would prove nothing.
    assert!(acknowledged.len() as u64 > kills && delivered_bytes > kills * 1_000);
}

/// Runs SQL until it is refused or the session ends: how that was said, whether the session goes
/// on, and how often it ran before.
fn until_refused(world: &World, client: &mut Raw, sql: &str) -> (Option<String>, bool, u64) {
    tap::runtime().block_on(async {
        for done in 0..20_000 {
            match client.query(sql).await {
                Ok((None, _)) => {}
                Ok((Some(error), _)) => {
                    let detail = error.field(b'D').or_else(|| error.field(b'M'));
                    return (detail, true, done);
                }
                Err(error) => return (Some(format!("{error:#}")), false, done),
            }
        }
        panic!("the disk is never full:{}", world.gateway.proc().tail());
    })
}

/// Bytes that may still be written where `path` is.
fn free_bytes(path: &Path) -> u64 {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: zero is a valid `statvfs`, which the call only fills; `path` outlives it.
    let stat = unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        assert_eq!(libc::statvfs(path.as_ptr(), &raw mut stat), 0);
        stat
    };
    stat.f_bavail * stat.f_frsize
}

const FULL: &str = "[ledger]\nsegment = \"1MiB\"\nreserve = \"256KiB\"\ncompression = \"none\"\n";

#[test]
fn a_full_disk_stops_traffic_and_records_the_refusal() {
    let world = World::start(|mut spec| {
        spec.mounts = Some("mkdir -p data; mount -t tmpfs -o size=24m none data".into());
        spec.last = FULL.into();
        spec
    });
    let mut client = world.client();
    let mut others: Vec<Raw> = (0..5).map(|_| world.client()).collect();
    // Everything but a little is taken by somebody else.
    let filler = world.gateway.inside("data/filler");
    let left = free_bytes(&world.gateway.inside("data"));
    fs::write(&filler, vec![1; usize::try_from(left.saturating_sub(300 << 10)).unwrap()]).unwrap();

    // Its answer comes as one piece: in the middle of a row there is no place for words.
    let large = format!("SELECT length('{}')", "x".repeat(20_000));
    let (told, usable, _) = until_refused(&world, &mut client, &large);
    let told = told.unwrap();
    assert!(told.contains("recorder_unavailable") || told.contains("58030"), "{told}");
    world.gateway.wait_http("/readyz", 503).unwrap();
    let (_, why) = world.gateway.http("/readyz").unwrap();
    assert!(why.contains("full"), "{why}");

    // A session whose response could not be recorded is over; one whose command could not be is
    // refused, in words, with an entry, and goes on.
    let update = "UPDATE orders SET quantity = quantity + 1 WHERE id = 1";
    let (mut refused, mut done, mut cut) = (None, 0, 0);
    for session in others.iter_mut().chain(usable.then_some(&mut client)) {
        let (told, usable, ran) = until_refused(&world, session, update);
        done += ran;
        if usable {
            refused = told;
            break;
        }
        assert!(told.unwrap().contains("58030"));
        cut += 1;
    }
    let refused = refused.unwrap();
    assert!(refused.contains("\"bulla\":\"recorder_unavailable\""), "{refused}");
    let event = refused.split("\"event\":\"").nth(1).and_then(|rest| rest.split('"').next());
    let event = event.unwrap_or_else(|| panic!("the refusal has no entry: {refused}")).to_owned();
    // What was refused was not sent; what was sent and could not be answered did happen.
    let quantity = world.server.sql("SELECT quantity FROM orders WHERE id = 1").unwrap();
    let quantity: u64 = quantity.parse().unwrap();
    assert!((1 + done..=1 + done + cut).contains(&quantity), "{quantity}, {done} done, {cut} cut");
    // Nobody new gets in unrecorded.
    assert!(world.psql("SELECT 1").contains("the record cannot be written"));

    fs::remove_file(&filler).unwrap();
    world.gateway.wait_http("/readyz", 200).unwrap();
    assert!(world.psql("SELECT 6 * 7 AS answer").contains("42"));
    let copy = world.copy();
    let reader = Reader::open(ReaderConfig::of_ledger(copy.path())).unwrap();
    let (session, seq) = event.rsplit_once('-').unwrap();
    let id = SessionId::parse(session).unwrap();
    let seq: u64 = seq.parse().unwrap();
    let recorded = reader.session(id).unwrap();
    let entry = recorded
        .events()
        .map(Result::unwrap)
        .find(|e| e.entry.session.as_ref().is_some_and(|link| link.seq == seq))
        .unwrap();
    assert_eq!(entry.kind(), Kind::Refusal);
    assert_eq!(entry.entry.status.as_deref(), Some("recorder_unavailable"));
    // And what the client got before is there.
    others.push(client);
    got_only_what_is_recorded(&reader, &others.iter().collect::<Vec<_>>());
    assert!(world.gateway.terminate().unwrap().success(), "{}", world.gateway.log());
}

/// A disk image of its own, mounted for the gateway alone.
fn image(dir: &TempDir) -> String {
    let image = dir.join("disk.img");
    let file = fs::File::create(&image).unwrap();
    file.set_len(48 << 20).unwrap();
    let mut mkfs = Command::new(
        xtask::places::which("mkfs.ext4").unwrap_or_else(|| "/usr/sbin/mkfs.ext4".into()),
    );
    mkfs.args(["-q", "-F", "-m", "0"]).arg(&image);
    let made = capture(mkfs, None, Duration::from_secs(30));
    let made = made.unwrap_or_else(|e| panic!("{e}; apt-get install e2fsprogs"));
    made.success().unwrap();
    format!("mkdir -p data; mount -o loop,errors=remount-ro {} data", image.display())
}

#[test]
fn a_disk_gone_read_only_stops_the_ledger_for_good() {
    assert!(xtask::places::is_root(), "mounting a disk image needs root: sudo cargo xtask test");
    let dir = TempDir::new("image").unwrap();
    let mounts = image(&dir);
    let mut world = World::start(|mut spec| {
        spec.mounts = Some(mounts);
        spec.last = FULL.into();
        spec
    });
    let (mut reader, mut writer) = (world.client(), world.client());
    let runtime = tap::runtime();
    let before = "INSERT INTO orders (id, customer_id, item, quantity) VALUES (98, 7, 'x', 1)";
    assert_eq!(runtime.block_on(writer.query(before)).unwrap().0, None);
    // The file system gives up, as it does after an error of the device: files stay open, and
    // every write fails.
    let pid = world.gateway.proc().pid().to_string();
    let mut abort = Command::new("nsenter");
    abort.args(["-t", &pid, "-m", "mount", "-o", "remount,abort"]);
    abort.arg(world.gateway.data_dir());
    capture(abort, None, Duration::from_secs(10)).unwrap().success().unwrap();

    let insert = "INSERT INTO orders (id, customer_id, item, quantity) VALUES (99, 7, 'x', 1)";
    let (told, ..) = until_refused(&world, &mut writer, insert);
    let told = told.unwrap();
    assert!(told.contains("recorder_unavailable") || told.contains("58030"), "{told}");
    let (told, ..) = until_refused(&world, &mut reader, "SELECT name FROM customers");
    let told = told.unwrap();
    assert!(told.contains("recorder_unavailable") || told.contains("58030"), "{told}");
    world.gateway.wait_http("/readyz", 503).unwrap();
    assert!(world.psql("SELECT 1").contains("the record cannot be written"));
    assert_eq!(world.server.sql("SELECT id FROM orders WHERE id > 90").unwrap(), "98");
    world.gateway.kill().unwrap();
    // The disk comes back with the next start, and with it all that was delivered.
    world.gateway.restart().unwrap();
    let copy = world.copy();
    verified(copy.path());
    let record = Reader::open(ReaderConfig::of_ledger(copy.path())).unwrap();
    got_only_what_is_recorded(&record, &[&reader, &writer]);
    assert!(world.psql("SELECT 6 * 7 AS answer").contains("42"));
}

/// What a client got is in the record. Last words of a session whose record failed stand nowhere,
/// and say so.
fn got_only_what_is_recorded(reader: &Reader, clients: &[&Raw]) {
    let sessions: Vec<Vec<u8>> =
        reader.sessions().map(|found| delivered(reader, found.unwrap().1)).collect();
    for client in clients {
        let whole = sessions.iter().any(|recorded| {
            let common = recorded.iter().zip(&client.received).take_while(|(a, b)| a == b).count();
            let words = String::from_utf8_lossy(&client.received[common..]).into_owned();
            common > 200 && (words.is_empty() || words.contains("58030"))
        });
        assert!(whole, "a client got what is not recorded");
    }
}

/// One write of the journal fails with EIO, whatever of it reached the disk; the next would
/// succeed. Nobody gets what was not recorded, nothing with an effect is sent, everybody is told,
/// and nothing passes until a restart, which finds all that was delivered.
#[test]
fn one_failed_write_stops_the_ledger_for_good() {
    let disk = Failing::new().unwrap();
    for (n, reached) in ["none", "half", "all"].into_iter().enumerate() {
        let mut world = World::start_with(|spec| spec, &disk.env());
        let (mut reader, mut writer, mut idle) = (world.client(), world.client(), world.client());
        let insert = |id: usize| {
            format!("INSERT INTO orders (id, customer_id, item, quantity) VALUES ({id}, 7, 'x', 1)")
        };
        let runtime = tap::runtime();
        assert_eq!(runtime.block_on(writer.query(&insert(97))).unwrap().0, None);
        assert_eq!(runtime.block_on(reader.query("SELECT 1")).unwrap().0, None);
        // Large enough to be torn, however well it is compressed; its answer comes as one piece, so
        // that there is a place for words.
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let noise: String = (0..30_000).map(|_| (b'a' + dice.below(26) as u8) as char).collect();
        let large = format!("SELECT length('{noise}')");
        disk.fail(reached).unwrap();
        // The first sees the failure, whether its intent or its response met it.
        let (told, ..) = match n % 2 {
            0 => until_refused(&world, &mut writer, &insert(98)),
            _ => until_refused(&world, &mut reader, &large),
        };
        let told = told.unwrap();
        assert!(told.contains("recorder_unavailable") || told.contains("58030"), "{told}");
        assert!(disk.has_failed(), "{reached}: nothing failed");
        // The disk works again, and still nothing passes. Who was told already may be cut off.
        for (n, client) in [&mut idle, &mut reader, &mut writer].into_iter().enumerate() {
            let (told, _, ran) = until_refused(&world, client, &insert(99));
            assert_eq!(ran, 0, "{reached}");
            let told = told.unwrap();
            let over = n > 0 && told.contains("closed the line");
            let words = told.contains("recorder_unavailable") || told.contains("58030");
            assert!(words || over, "{reached}: {told}");
        }
        world.gateway.wait_http("/readyz", 503).unwrap();
        assert!(world.psql("SELECT 1").contains("the record cannot be written"));
        assert_eq!(world.server.sql("SELECT id FROM orders WHERE id > 90").unwrap(), "97");
        world.gateway.kill().unwrap();
        world.gateway.restart().unwrap();
        let copy = world.copy();
        verified(copy.path());
        let record = Reader::open(ReaderConfig::of_ledger(copy.path())).unwrap();
        got_only_what_is_recorded(&record, &[&reader, &writer, &idle]);
        assert!(world.psql("SELECT 6 * 7 AS answer").contains("42"));
    }
}

#[test]
fn payloads_never_become_entries() {
    let mut world = World::start(|spec| spec);
    let runtime = tap::runtime();
    let mut client = world.client();
    runtime.block_on(client.query("CREATE TABLE blobs (line text)")).unwrap();
    let data = world.gateway.data_dir();
    let segment = fs::read_dir(data.join("journal")).unwrap().map(|e| e.unwrap().path()).min();
    let journal = fs::read(segment.unwrap()).unwrap();
    // Pages of this very journal, its own signed note and its own entries in CBOR, and what would
    // paint over a terminal.
    let frames: Vec<u8> = journal
        .chunks(4096)
        .filter(|p| p.starts_with(b"bullafr1"))
        .take(6)
        .flatten()
        .copied()
        .collect();
    assert!(!frames.is_empty());
    let note = fs::read(data.join("archive/checkpoint")).unwrap();
    let reader = Reader::open(ReaderConfig::of_ledger(&data)).unwrap();
    let entries: Vec<u8> = (0..3).flat_map(|n| reader.entry(n).unwrap().bytes).collect();
    let escapes = b"\x1b[2J\x1b[1;1Hall is well\x1b]0;owned\x07\x08\x08\r\x9b31m".to_vec();
    let before = reader.len();
    for payload in [&frames, &note, &entries, &escapes] {
        let mut copy = tap::query("COPY blobs FROM STDIN").unwrap();
        for piece in payload.chunks(8_000) {
            copy.push(b'd');
            copy.extend_from_slice(&u32::try_from(piece.len() + 4).unwrap().to_be_bytes());
            copy.extend_from_slice(piece);
        }
        copy.extend_from_slice(b"c\0\0\0\x04");
        runtime.block_on(client.send(&copy)).unwrap();
        // The server may refuse what is no text; it was received and recorded all the same.
        runtime.block_on(client.until_ready()).unwrap();
    }
    let text = String::from_utf8_lossy(&escapes).replace('\0', "");
    runtime.block_on(client.query(&format!("SELECT '{text}' AS \"{text}\""))).unwrap();
    world.gateway.kill().unwrap();
    world.gateway.restart().unwrap();

    let reader = Reader::open(ReaderConfig::of_ledger(&data)).unwrap();
    let mut kinds: HashMap<Kind, u64> = HashMap::new();
    let mut sessions = BTreeSet::new();
    for index in before..reader.len() {
        let entry = reader.entry(index).unwrap().entry;
        *kinds.entry(entry.kind).or_default() += 1;
        sessions.extend(entry.session.map(|link| link.sid));
    }
    // Five commands, the end that the crash made, and the gateway's own.
    assert_eq!(kinds.get(&Kind::Intent), Some(&5), "{kinds:?}");
    assert_eq!(kinds.get(&Kind::Genesis), None, "{kinds:?}");
    assert!(sessions.len() <= 3, "{kinds:?}");
    let id = client_session(&reader, &client.received);
    for args in [&["sessions", "replay", &id][..], &["sessions", "show", &id], &["log", "show"]] {
        let done = world.gateway.cli(args).unwrap();
        assert_eq!(done.code(), 0, "{}", done.err());
        let said = [done.stdout.clone(), done.stderr.clone()].concat();
        let raw = said.iter().any(|b| (*b < 0x20 && !b"\n\t".contains(b)) || *b == 0x7f);
        assert!(!raw && !String::from_utf8_lossy(&said).contains('\u{9b}'), "{args:?}");
    }
    assert!(world.gateway.terminate().unwrap().success(), "{}", world.gateway.log());
    verified(&data);
    let args = ["log", "verify", "data/archive", "--key", "data/log.vkey"];
    assert_eq!(cli_in(world.gateway.dir().path(), &args).unwrap().code(), 0);
}

fn client_session(reader: &Reader, received: &[u8]) -> String {
    let mut sessions = reader.sessions().map(|found| found.unwrap().1);
    let found = sessions.find(|id| delivered(reader, *id).starts_with(received));
    found.unwrap_or_else(|| panic!("the session is not recorded")).to_string()
}
