//! Real agents between the real gateway and real servers.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bulla_e2e::agent::{Agent, AgentSpec, GatewayLink, Join};
use bulla_e2e::ca::{Authority, Wish};
use bulla_e2e::client::{Dial, program};
use bulla_e2e::expect::has;
use bulla_e2e::gateway::{Gateway, ResourceSpec, Spec, TrustDomainSpec, cli_in};
use bulla_e2e::issuer::Issuer;
use bulla_e2e::netns::{APP, AUDIT, Host, Net, TARGET, TARGET_INSIDE, gateway_at};
use bulla_e2e::place::TempDir;
use bulla_e2e::postgres::{Options, Postgres};
use bulla_e2e::proc::{Proc, Signal, capture};

const EVERYTHING: &str = r#"
@id("everything")
permit (principal, action, resource);
"#;

const SOON: Duration = Duration::from_secs(60);

/// A gateway whose resource `orders` only agents reach, and what the agents need to know.
struct World {
    server: Postgres,
    issuer: Issuer,
    gateway: Gateway,
    /// The target, as an agent configures it.
    target: ResourceSpec,
}

impl World {
    fn start(agents: &[&str]) -> Self {
        Self::start_with(agents, |_| {})
    }

    fn start_with(agents: &[&str], change: impl FnOnce(&mut Spec)) -> Self {
        let authority = Authority::new("agent").unwrap();
        let server = Postgres::start(&authority).unwrap();
        let issuer = Issuer::start().unwrap();
        let mut spec = Spec::new(&server, &issuer).policy("all.cedar", EVERYTHING);
        let target = spec.resources[0].clone();
        spec.resources[0].agents = agents.iter().map(|name| (*name).to_owned()).collect();
        change(&mut spec);
        let gateway = Gateway::start(&authority, spec).unwrap();
        Self { server, issuer, gateway, target }
    }

    fn agent(&self, name: &str) -> Agent {
        let token = self.gateway.join_token(name).unwrap();
        let port = self.gateway.agents_port();
        Agent::start(&AgentSpec::new(name, port, &token, &self.target)).unwrap()
    }

    fn token(&self) -> String {
        self.issuer.mint().unwrap().subject("billing/api").claim("team", "billing").token().unwrap()
    }

    fn dial(&self) -> Dial {
        self.gateway.dial(&self.token())
    }

    /// Ends the gateway and verifies its log.
    fn verified(&self) {
        assert!(self.gateway.terminate().unwrap().success(), "{}", self.gateway.log());
        let args = ["log", "verify", "data/archive", "--key", "data/log.vkey"];
        let done = cli_in(self.gateway.dir().path(), &args).unwrap();
        assert_eq!(done.code(), 0, "{}{}", done.out(), done.err());
    }

    /// The gateway's own record of its agents.
    fn notes(&self) -> String {
        let listed =
            self.gateway.cli(&["sessions", "ls", "--resource", "bulla", "--json"]).unwrap();
        let listed: serde_json::Value = serde_json::from_str(&listed.success().unwrap()).unwrap();
        let sessions = listed.as_array().or_else(|| listed["sessions"].as_array()).unwrap();
        let mut notes = String::new();
        for session in sessions {
            let id = session["session"].as_str().or_else(|| session["id"].as_str()).unwrap();
            notes
                .push_str(&self.gateway.cli(&["sessions", "show", id]).unwrap().success().unwrap());
        }
        notes
    }
}

#[test]
fn an_agent_is_the_only_way_and_holds_the_secret() {
    let world = World::start(&["eu-1"]);
    let offline = world.dial().psql(&["SELECT 1"]).unwrap();
    has(&offline.err(), &["could not reach `orders` (agent `eu-1` is offline)"]);
    let agent = world.agent("eu-1");
    world.gateway.wait_agents(1).unwrap();
    // Every protocol of a stock client, and a cancel, through the agent.
    for args in [
        &["-i", "-q", "-s", "1"][..],
        &["-M", "simple", "-c", "4", "-t", "30", "-n"],
        &["-M", "prepared", "-c", "4", "-t", "30", "-n"],
    ] {
        let done = world.dial().run("pgbench", args).unwrap();
        assert_eq!(done.code(), 0, "{args:?}\n{}{}", done.out(), done.err());
    }
    let rows = world.dial().psql_rows("SELECT count(*) FROM generate_series(1, 300000)").unwrap();
    assert_eq!(rows, "300000");
    let mut sleeping = world.dial().command(&program("psql").unwrap());
    sleeping.args(["-X", "-c", "SELECT pg_sleep(50)"]);
    let sleeping = Proc::spawn("psql", sleeping).unwrap();
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    wait_until(|| world.server.sql(asleep).unwrap() == "1");
    sleeping.signal(Signal::Interrupt).unwrap();
    sleeping.wait(Duration::from_secs(40)).unwrap();
    has(&sleeping.log(), &["canceling statement"]);
    // The gateway's disk and configuration have neither the password nor the address.
    let files = Command::new("grep")
        .args(["-rl", "-e", "scram secret", "-e", &world.server.port().to_string()])
        .arg(world.gateway.dir().join("bulla.toml"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&files.stdout), "");
    let notes = world.notes();
    has(
        &notes,
        &["make a join token for agent", "enrols from 127.0.0.1", "connects from 127.0.0.1"],
    );
    assert!(!agent.log().contains("scram secret") && !world.gateway.log().contains("scram secret"));
    let health = world.gateway.http("/metrics").unwrap().1;
    has(&health, &["bulla_agent_tunnels{agent=\"eu-1\"} 1"]);
    assert_eq!(agent.http("/readyz").unwrap().0, 200);
    has(&agent.http("/metrics").unwrap().1, &["bulla_agent_tunnels{gateway=\"gw0\"} 1"]);
    world.verified();
    // Without a gateway it is alive, and not ready.
    wait_until(|| agent.http("/readyz").unwrap().0 == 503);
    has(&agent.http("/readyz").unwrap().1, &["no gateway is connected: gw0: "]);
    assert_eq!(agent.http("/livez").unwrap().0, 200);
}

#[test]
fn a_revoked_agent_ends_and_a_restarted_one_comes_back() {
    let world = World::start(&["eu-1"]);
    let mut agent = world.agent("eu-1");
    world.gateway.wait_agents(1).unwrap();
    // Killed and started again on what it kept: the join token is used up and not needed. Meanwhile
    // the gateway's authority was replaced, and each still believes the other.
    let pin = || world.gateway.cli(&["agents", "pin"]).unwrap().success().unwrap();
    let before = pin();
    let rotated = world.gateway.cli(&["agents", "rotate"]).unwrap().success().unwrap();
    has(&rotated, &[pin().trim(), before.trim(), "is believed until"]);
    assert_ne!(pin(), before);
    agent.kill().unwrap();
    world.gateway.wait_agents(0).unwrap();
    agent.restart().unwrap();
    world.gateway.wait_agents(1).unwrap();
    assert_eq!(world.dial().psql_rows("SELECT 7").unwrap(), "7");
    let revoked = world.gateway.cli(&["agents", "revoke", "eu-1"]).unwrap();
    has(&revoked.success().unwrap(), &["1 revoked"]);
    world.gateway.wait_agents(0).unwrap();
    let offline = world.dial().psql(&["SELECT 1"]).unwrap();
    has(&offline.err(), &["(agent `eu-1` is offline)"]);
    agent.kill().unwrap();
    agent.restart().unwrap();
    agent.proc().wait_line("tunnel", SOON).unwrap();
    let listed = world.gateway.cli(&["agents", "ls"]).unwrap().success().unwrap();
    has(&listed, &["eu-1", "revoked", "join token of local:"]);
    let notes = world.notes();
    has(&notes, &["revoke agent `eu-1`", "disconnects: revoked"]);
    has(&notes, &["replace the agents' authority by sha256:"]);
    // A token for what has no such agent is not made.
    let none = world.gateway.cli(&["agent", "join-token", "--name", "eu-9"]).unwrap();
    assert_ne!(none.code(), 0);
    has(&none.err(), &["no resource has `agent = \"eu-9\"`"]);
    world.verified();
}

#[test]
fn an_agent_enrols_by_its_own_token() {
    let enrol = "[agents.enrol.eu-1]\nprincipal = \"bed|infra/agent\"\nresources = [\"orders\"]\n";
    let world = World::start_with(&["eu-1"], |spec| spec.last.push_str(enrol));
    let dir = TempDir::new("identity").unwrap();
    let pin = world.gateway.cli(&["agents", "pin"]).unwrap().success().unwrap();
    let jwt = |subject: &str| {
        world.issuer.mint().unwrap().subject(subject).claim("team", "infra").token().unwrap()
    };
    let start = |name: &str, subject: &str| {
        // Each reads its own file again and again.
        let file = format!("{}.jwt", subject.replace('/', "-"));
        let file = dir.write(&file, jwt(subject)).unwrap();
        let lines = format!("identity_token_file = {file:?}\npin = {:?}\n", pin.trim());
        let mut spec = AgentSpec::new(name, 0, "", &world.target);
        let address = format!("127.0.0.1:{}", world.gateway.agents_port());
        spec.gateways = vec![GatewayLink { address, join: Join::Lines(lines) }];
        Agent::start(&spec).unwrap()
    };
    let stranger = start("eu-1", "infra/other");
    stranger.proc().wait_line("the gateway refuses", SOON).unwrap();
    let _agent = start("eu-1", "infra/agent");
    world.gateway.wait_agents(1).unwrap();
    assert_eq!(world.dial().psql_rows("SELECT 7").unwrap(), "7");
    has(&world.notes(), &["bed|infra/agent", "no [agents.enrol] lets"]);
}

#[test]
fn an_agent_enrols_by_its_svid() {
    let mesh = Authority::new("mesh").unwrap();
    let enrol = "[agents.enrol.eu-1]\nprincipal = \"mesh|ns/infra/sa/agent\"\n\
                 resources = [\"orders\"]\n";
    let world = World::start_with(&["eu-1"], |spec| {
        spec.trust_domains.push(TrustDomainSpec {
            alias: "mesh".into(),
            trust_domain: "mesh.example".into(),
            bundle: mesh.pem(),
        });
        spec.last.push_str(enrol);
    });
    let dir = TempDir::new("svid").unwrap();
    let pin = world.gateway.cli(&["agents", "pin"]).unwrap().success().unwrap();
    let start = |name: &str, by: &Authority, id: &str| {
        let wish = Wish::spiffe(id).unwrap();
        let (cert, key) = by.issue(&wish).unwrap().write(&dir, name).unwrap();
        let pin = pin.trim();
        let lines = format!("svid = {{ cert = {cert:?}, key = {key:?} }}\npin = {pin:?}\n");
        let mut spec = AgentSpec::new("eu-1", 0, "", &world.target);
        let address = format!("127.0.0.1:{}", world.gateway.agents_port());
        spec.gateways = vec![GatewayLink { address, join: Join::Lines(lines) }];
        Agent::start(&spec).unwrap()
    };
    // Somebody of the mesh who is no agent, and somebody who only says to be of the mesh.
    let other = start("other", &mesh, "spiffe://mesh.example/ns/infra/sa/other");
    other.proc().wait_line("the gateway refuses", SOON).unwrap();
    let stranger = Authority::new("stranger").unwrap();
    let forged = start("forged", &stranger, "spiffe://mesh.example/ns/infra/sa/agent");
    forged.proc().wait_line("certificate", SOON).unwrap();
    assert_eq!(world.dial().psql(&["SELECT 1"]).unwrap().code(), 2);
    let _agent = start("agent", &mesh, "spiffe://mesh.example/ns/infra/sa/agent");
    world.gateway.wait_agents(1).unwrap();
    assert_eq!(world.dial().psql_rows("SELECT 7").unwrap(), "7");
    has(&world.notes(), &["mesh|ns/infra/sa/agent", "no [agents.enrol] lets", "agent refused"]);
    world.verified();
}

#[test]
fn one_of_two_agents_dies_under_load_and_nothing_is_lost() {
    let world = World::start(&["eu-1", "eu-2"]);
    let (first, _second) = (world.agent("eu-1"), world.agent("eu-2"));
    world.gateway.wait_agents(2).unwrap();
    world.dial().psql_rows("CREATE TABLE acked (n int PRIMARY KEY)").unwrap();
    let (dial, stop, next) = (world.dial(), AtomicBool::new(false), AtomicU32::new(0));
    let (acked, lost) = thread::scope(|scope| {
        let worker = || {
            scope.spawn(|| {
                let (mut acked, mut lost) = (Vec::new(), 0);
                while !stop.load(Ordering::Relaxed) {
                    // A session of twenty commands, each on its own.
                    let numbers: Vec<u32> =
                        (0..20).map(|_| next.fetch_add(1, Ordering::Relaxed)).collect();
                    let script: String = numbers
                        .iter()
                        .map(|n| format!("INSERT INTO acked VALUES ({n});\n\\echo ok {n}\n"))
                        .collect();
                    let mut psql = dial.command(&program("psql").unwrap());
                    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1"]);
                    let done = capture(psql, Some(script.into_bytes()), SOON).unwrap();
                    let out = done.out();
                    acked.extend(out.lines().filter_map(|line| {
                        line.strip_prefix("ok ").and_then(|n| n.parse::<u32>().ok())
                    }));
                    lost += u32::from(done.code() != 0);
                }
                (acked, lost)
            })
        };
        let workers = [worker(), worker(), worker(), worker()];
        let began = Instant::now();
        while next.load(Ordering::Relaxed) < 400 {
            assert!(began.elapsed() < SOON, "{}", world.gateway.log());
            thread::sleep(Duration::from_millis(5));
        }
        first.kill().unwrap();
        // New sessions go on at once: nobody waits for a time-out of the dead agent.
        for _ in 0..5 {
            let began = Instant::now();
            assert_eq!(dial.psql_rows("SELECT 7").unwrap(), "7");
            assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().unwrap()).fold(
            (Vec::new(), 0),
            |(mut acked, lost), (more, also)| {
                acked.extend(more);
                (acked, lost + also)
            },
        )
    });
    assert!(acked.len() >= 300, "{}", acked.len());
    // At most the sessions that were on the dead agent.
    assert!(lost <= 4, "{lost}");
    let stored = world.server.sql("SELECT string_agg(n::text, ',') FROM acked").unwrap();
    let stored: std::collections::BTreeSet<u32> =
        stored.split(',').filter_map(|n| n.parse().ok()).collect();
    assert!(acked.iter().all(|n| stored.contains(n)));
    // Whatever the server has, the record has: also what was under way when the agent died.
    let listed = world.gateway.cli(&["sessions", "ls", "--limit", "1000", "--json"]).unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed.success().unwrap()).unwrap();
    let sessions = listed.as_array().or_else(|| listed["sessions"].as_array()).unwrap().clone();
    let mut recorded = String::new();
    for session in &sessions {
        let id = session["session"].as_str().or_else(|| session["id"].as_str()).unwrap();
        recorded
            .push_str(&world.gateway.cli(&["sessions", "show", id]).unwrap().success().unwrap());
    }
    for n in &stored {
        assert!(recorded.contains(&format!("VALUES ({n})")), "{n} has no entry");
    }
    if lost > 0 {
        has(&recorded, &["target_lost"]);
    }
    has(&world.notes(), &["disconnects"]);
    world.verified();
}

#[test]
fn an_agent_drains_and_the_other_takes_over() {
    let world = World::start(&["eu-1", "eu-2"]);
    let old = world.agent("eu-1");
    world.gateway.wait_agents(1).unwrap();
    let mut psql = world.dial().command(&program("psql").unwrap());
    let script = "BEGIN; SELECT 'begun'; SELECT pg_sleep(6); SELECT 'done'; COMMIT;\n";
    psql.args(["-X", "-q", "-A", "-t", "-c", script]);
    let open = Proc::spawn("psql", psql).unwrap();
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    wait_until(|| world.server.sql(asleep).unwrap() == "1");
    let _new = world.agent("eu-2");
    world.gateway.wait_agents(2).unwrap();
    old.terminate().unwrap();
    // What is open ends well; what is new goes to the other.
    world.gateway.wait_agents(1).unwrap();
    assert_eq!(world.dial().psql_rows("SELECT 7").unwrap(), "7");
    let status = open.wait(SOON).unwrap();
    assert!(status.success(), "{}", open.log());
    has(&open.log(), &["done"]);
    assert!(old.wait().unwrap().success(), "{}", old.log());
    world.verified();
}

fn wait_until(mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < SOON, "what was waited for did not happen");
    }
}

/// What a process has read so far.
fn bytes_read(proc: &Proc) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{}/io", proc.pid())).unwrap();
    let read = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    read.unwrap().parse().unwrap()
}

/// Runs pgbench and returns the 99th percentile of its latencies, in microseconds.
fn p99(dial: &Dial) -> u64 {
    let dir = TempDir::new("p99").unwrap();
    let mut pgbench = dial.command(&program("pgbench").unwrap());
    pgbench.args(["-S", "-n", "-c", "2", "-t", "1000", "-l", "--log-prefix=log"]);
    pgbench.current_dir(dir.path());
    let done = capture(pgbench, None, Duration::from_secs(120)).unwrap();
    assert_eq!(done.code(), 0, "{}{}", done.out(), done.err());
    let mut all = Vec::new();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let latency = |line: &str| line.split(' ').nth(2).and_then(|us| us.parse::<u64>().ok());
        all.extend(text.lines().filter_map(latency));
    }
    all.sort_unstable();
    assert_eq!(all.len(), 2000);
    all[all.len() * 99 / 100]
}

#[test]
fn a_hung_target_leaves_other_sessions_alone() {
    let hung_authority = Authority::new("hung").unwrap();
    let hung = Postgres::start(&hung_authority).unwrap();
    let mut far = ResourceSpec::new("hung", &hung, "bulla_scram", "scram secret");
    let (own, name) = (far.clone(), "eu-1".to_owned());
    far.agents = vec![name.clone()];
    let world = World::start_with(&["eu-1"], |spec| spec.resources.push(far));
    let token = world.gateway.join_token("eu-1").unwrap();
    let mut spec = AgentSpec::new("eu-1", world.gateway.agents_port(), &token, &world.target);
    spec.targets.push(own);
    let _agent = Agent::start(&spec).unwrap();
    world.gateway.wait_agents(1).unwrap();
    let fill = world.dial().run("pgbench", &["-i", "-q", "-s", "1"]).unwrap();
    assert_eq!(fill.code(), 0, "{}", fill.err());
    p99(&world.dial());
    let before = p99(&world.dial());
    // Sessions that stuff a server which has stopped: every window between it and them fills up.
    let stuffed = world.gateway.dial_resource("hung", &world.token());
    let created = stuffed.psql(&["CREATE TABLE t (a text)"]).unwrap();
    assert_eq!(created.code(), 0, "{}", created.err());
    let mut stuffing = Vec::new();
    for _ in 0..4 {
        let mut psql = stuffed.command(&program("psql").unwrap());
        psql.args(["-X", "-c", "\\copy t from program 'echo x; sleep 2; exec yes'"]);
        stuffing.push(Proc::spawn("psql", psql).unwrap());
    }
    let copying = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'COPY%STDIN%' \
                   AND state = 'active'";
    let mut pids = String::new();
    wait_until(|| {
        pids = hung.sql(copying).unwrap();
        pids.lines().count() == 4
    });
    for pid in pids.lines() {
        let pid = pid.parse().unwrap();
        // SAFETY: sends a signal to a process that this test's own server started.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGSTOP) }, 0);
    }
    // Full: a good deal went in, and nothing more does.
    for psql in &stuffing {
        let mut last = 0;
        wait_until(|| {
            thread::sleep(Duration::from_millis(200));
            let now = bytes_read(psql);
            let full = now > 1_000_000 && now == last;
            last = now;
            full
        });
    }
    // A stalled tunnel would cost seconds, each time; a busy machine costs milliseconds, or has just
    // become one.
    let mut during = Vec::new();
    let goes_on = (0..5).any(|_| {
        during.push(p99(&world.dial()));
        during.last().is_some_and(|during| *during < before * 3 + 20_000)
    });
    for pid in pids.lines() {
        let pid = pid.parse().unwrap();
        // SAFETY: as above.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    println!("p99 in microseconds: {before} before, {during:?} beside a hung target");
    assert!(goes_on, "{before} before, {during:?} during");
}

/// The hosts of a network, with the gateway in the middle and an agent beside the server.
struct Hosts {
    net: Net,
    server: Postgres,
    gateway: Gateway,
    beside: Host,
    _agent: Agent,
    token: String,
    _files: TempDir,
}

impl Hosts {
    fn start(translated: bool) -> Self {
        let authority = Authority::new("hosts").unwrap();
        let issuer = Issuer::start().unwrap();
        let files = TempDir::new("keys").unwrap();
        let keys = bulla_e2e::client::http_get(&format!("{}/jwks", issuer.url())).unwrap();
        assert_eq!(keys.0, 200, "{}", keys.1);
        let keys = files.write("keys.json", &keys.1).unwrap();
        let net = Net::new().unwrap();
        if translated {
            net.translate().unwrap();
        }
        let options = Options { host: Some(net.target.clone()), ..Options::default() };
        let address = if translated { TARGET_INSIDE } else { TARGET };
        let options = options.set("listen_addresses", &format!("127.0.0.1,{address}"));
        let server = Postgres::with(&authority, &options).unwrap();
        let mut spec = Spec::new(&server, &issuer).policy("all.cedar", EVERYTHING);
        spec.issuers[0].more = format!("jwks_file = {keys:?}\n");
        let target = spec.resources[0].clone();
        spec.resources[0].agents = vec!["eu-1".to_owned()];
        spec.host = Some(net.gateway.clone());
        let gateway = Gateway::start(&authority, spec).unwrap();
        let agents = gateway.agents_port();
        net.let_in(gateway.dial("").port, agents).unwrap();
        let token = gateway.join_token("eu-1").unwrap();
        let mut own = AgentSpec::new("eu-1", agents, &token, &target);
        own.gateways[0].address = format!("{}:{agents}", gateway_at(TARGET));
        let beside = net.target.clone().without(gateway.dir().path());
        own.host = Some(beside.clone());
        let agent = Agent::start(&own).unwrap();
        gateway.wait_agents(1).unwrap();
        let minted = issuer.mint().unwrap().subject("billing/api").claim("team", "x");
        let token = minted.token().unwrap();
        Self { net, server, gateway, beside, _agent: agent, token, _files: files }
    }

    /// A client on the application's host.
    fn psql(&self, sql: &str) -> Command {
        let dial = self.gateway.dial(&self.token).env("PGHOSTADDR", &gateway_at(APP));
        let mut psql = dial.command(&program("psql").unwrap());
        psql.args(["-X", "-q", "-A", "-t", "-c", sql]);
        self.net.app.enter(&psql)
    }

    fn goes_through(&self) {
        let done = capture(self.psql("SELECT 'through'"), None, SOON).unwrap();
        assert_eq!(done.out().trim(), "through", "{}{}", done.err(), self.gateway.log());
    }

    fn verified(&self) {
        assert!(self.gateway.terminate().unwrap().success(), "{}", self.gateway.log());
        let verify = ["log", "verify", "data/archive", "--key", "data/log.vkey"];
        let done = cli_in(self.gateway.dir().path(), &verify).unwrap();
        assert_eq!(done.code(), 0, "{}{}", done.out(), done.err());
    }
}

/// Behind a router that translates addresses, and back after that one has dropped everything for
/// longer than anybody waits for an answer.
#[test]
fn behind_nat_and_back_after_a_cut() {
    let hosts = Hosts::start(true);
    let Hosts { net, gateway, .. } = &hosts;
    hosts.goes_through();
    // The gateway has met the router, and cannot reach what is behind it.
    let met = gateway.cli(&["agents", "ls", "--json"]).unwrap().success().unwrap();
    assert!(met.contains(TARGET) && !met.contains(TARGET_INSIDE), "{met}");
    assert!(net.target.reaches(TARGET_INSIDE, hosts.server.port()).unwrap());
    assert!(!net.gateway.reaches(TARGET_INSIDE, hosts.server.port()).unwrap());
    let sleeping = Proc::spawn("psql", hosts.psql("SELECT pg_sleep(300)")).unwrap();
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    wait_until(|| hosts.server.sql(asleep).unwrap() == "1");
    net.cut().unwrap();
    sleeping.wait(SOON).unwrap();
    has(
        &sleeping.log(),
        &["FATAL:  lost `orders`: ", "whether the command took effect is not known"],
    );
    gateway.wait_agents(0).unwrap();
    net.mend().unwrap();
    gateway.wait_agents(1).unwrap();
    hosts.goes_through();
    let listed = gateway.cli(&["sessions", "ls", "--json", "--limit", "20"]).unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed.success().unwrap()).unwrap();
    let shown = |session: &serde_json::Value| {
        let id = session["session"].as_str().unwrap();
        gateway.cli(&["sessions", "show", id]).unwrap().success().unwrap()
    };
    let lost = |told: &String| told.contains("pg_sleep(300)") && told.contains("target_lost");
    assert!(listed.as_array().unwrap().iter().map(shown).any(|told| lost(&told)));
    hosts.verified();
}

#[test]
fn three_hosts_and_one_way() {
    let hosts = Hosts::start(false);
    let Hosts { net, server, gateway, beside, .. } = &hosts;
    let (clients, agents) = (gateway.dial("").port, gateway.agents_port());
    // The way: application → gateway ← agent → database.
    hosts.goes_through();

    // No other way. Each "no" has a "yes" beside it, so that it is the wall that is tested.
    let port = server.port();
    assert!(net.target.reaches(TARGET, port).unwrap(), "the server listens on its network");
    assert!(!net.app.reaches(TARGET, port).unwrap(), "the application reaches the database");
    assert!(!net.gateway.reaches(TARGET, port).unwrap(), "the target's network has an open port");
    assert!(net.app.reaches(&gateway_at(APP), clients).unwrap());
    assert!(!net.app.reaches(&gateway_at(APP), agents).unwrap());
    assert!(net.target.reaches(&gateway_at(TARGET), agents).unwrap());
    assert!(!net.target.reaches(&gateway_at(TARGET), clients).unwrap());

    // The log's storage: the gateway's disk, and a host where the archive is kept.
    let mut store = Command::new("python3");
    store
        .args(["-m", "http.server", "8000", "--bind", AUDIT, "--directory"])
        .arg(gateway.archive());
    let _store = Proc::spawn("store", net.audit.enter(&store)).unwrap();
    let began = Instant::now();
    while !net.gateway.reaches(AUDIT, 8000).unwrap() {
        assert!(began.elapsed() < SOON, "the store does not listen");
    }
    assert!(!net.target.reaches(AUDIT, 8000).unwrap(), "the target's network reaches the log");
    assert!(!net.app.reaches(AUDIT, 8000).unwrap(), "the application reaches the log");
    let archive = gateway.archive().to_string_lossy().into_owned();
    assert_eq!(net.gateway.run("ls", &[&archive]).unwrap().code(), 0);
    assert_ne!(beside.run("ls", &[&archive]).unwrap().code(), 0, "the log is on the target's disk");

    hosts.verified();
}
