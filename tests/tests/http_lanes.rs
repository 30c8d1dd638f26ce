//! Which threads of the gateway serve an API: lanes, where its answers do not wait for the disk.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::thread::available_parallelism;

use bulla_e2e::http::{ApiSpec, Raw, Recorder, World};
use bulla_e2e::place::Port;

const EVERYTHING: &str = "@id(\"everything\") permit (principal, action, resource);";

/// More than this machine may have processors.
const LANES: usize = 3;
const CONNECTIONS: usize = 4 * LANES;
const REQUESTS: usize = 10;

/// How often each thread of a process has gone to sleep so far, by its name.
fn slept(pid: libc::pid_t) -> BTreeMap<String, u64> {
    let mut slept = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task = task.unwrap().path();
        // One that has ended meanwhile is none of those that this is about.
        let Ok(status) = fs::read_to_string(task.join("status")) else { continue };
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.map(|line| line.trim().to_owned()).unwrap()
        };
        let count: u64 = value("voluntary_ctxt_switches:").parse().unwrap();
        *slept.entry(value("Name:")).or_default() += count;
    }
    slept
}

/// Sends requests to one address, one after the other over as many connections, and tells how often
/// each thread slept meanwhile: one that serves a request sleeps until the next one comes.
fn slept_serving(world: &World, port: u16) -> BTreeMap<String, u64> {
    let pid = world.gateway.proc().pid();
    let connect = |_| Raw::connect(port, &world.authority, "localhost", &["http/1.1"]).unwrap();
    let mut connections: Vec<Raw> = (0..CONNECTIONS).map(connect).collect();
    let token = world.token().unwrap();
    let request =
        format!("GET / HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n");
    let mut serve = |times: usize| {
        for _ in 0..times {
            for connection in &mut connections {
                connection.send(&request).unwrap();
                connection.until("{\"ok\":true}").unwrap();
            }
        }
    };
    // Sessions and connections to the target are there.
    serve(1);
    let before = slept(pid);
    serve(REQUESTS);
    let more = |(name, after): (String, u64)| {
        // Threads that wait for files share a name, and one of them may have ended.
        let grown = after.saturating_sub(before.get(&name).copied().unwrap_or_default());
        (name, grown)
    };
    slept(pid).into_iter().map(more).collect()
}

fn lanes(slept: &BTreeMap<String, u64>) -> BTreeMap<&str, u64> {
    let lane = |(name, _): &(&String, &u64)| name.starts_with("bulla-lane-");
    slept.iter().filter(lane).map(|(name, count)| (name.as_str(), *count)).collect()
}

#[test]
fn an_api_in_bounded_mode_is_served_by_every_lane_and_a_strict_one_by_none() {
    let target = Recorder::start().unwrap();
    let mut api = ApiSpec::new("api", target.port());
    api.more = "durability = \"bounded\"\n".to_owned();
    let strict = Port::new().unwrap();
    let other = format!(
        "[resources.strict]\nprotocol = \"http\"\nlisten = \"127.0.0.1:{}\"\n\
         target = {{ host = \"localhost\", port = {}, tls = \"off\" }}\n",
        strict.number(),
        target.port()
    );
    let env = [("TOKIO_WORKER_THREADS".to_owned(), LANES.to_string())];
    let world = World::start_in(&env, EVERYTHING, &[api], &other).unwrap();
    // A quarter of what each serves: two pieces of work may be found together.
    let some = (CONNECTIONS * REQUESTS / LANES / 4) as u64;
    // First, while nothing else is under way that a lane might wake for.
    let slept = slept_serving(&world, strict.number());
    assert!(lanes(&slept).values().all(|count| *count < some / 2), "{slept:?}");
    let main: u64 = (0..LANES).filter_map(|at| slept.get(&format!("bulla-main-{at}"))).sum();
    assert!(main >= some * LANES as u64, "{slept:?}");
    let slept = slept_serving(&world, world.port.number());
    let all: Vec<String> = (0..LANES).map(|at| format!("bulla-lane-{at}")).collect();
    assert_eq!(lanes(&slept).keys().copied().collect::<Vec<_>>(), all, "{slept:?}");
    assert!(lanes(&slept).values().all(|count| *count >= some), "{slept:?}");
    world.verified().unwrap();
}

#[test]
fn a_gateway_without_an_api_in_bounded_mode_has_no_lanes() {
    let target = Recorder::start().unwrap();
    let world = World::start(EVERYTHING, &[ApiSpec::new("api", target.port())]).unwrap();
    let slept = slept_serving(&world, world.port.number());
    assert_eq!(lanes(&slept), BTreeMap::new());
    let main = slept.keys().filter(|name| name.starts_with("bulla-main-")).count();
    let processors = available_parallelism().unwrap().get();
    assert_eq!(main, (processors / 2).max(1), "{slept:?}");
    world.verified().unwrap();
}
