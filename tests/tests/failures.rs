//! Rows of `docs/failures.md` that need real servers and are tested nowhere else.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use bulla_e2e::ca::Authority;
use bulla_e2e::gateway::{Gateway, Spec, cli_in};
use bulla_e2e::issuer::Issuer;
use bulla_e2e::postgres::Postgres;
use bulla_e2e::proc::Signal;
use bulla_e2e::tap::{self, Door, Keep, Message, Raw, query};
use bulla_ledger::{Reader, ReaderConfig};
use bulla_tlog::entry::Kind;

const POLICY: &str = r#"
@id("everything-but-deletes")
permit (principal, action, resource in Bulla::Resource::"orders")
unless { action == Bulla::Action::"postgres:delete" };
@id("held") @hold("dba") @expires("1m")
permit (principal, action == Bulla::Action::"postgres:delete",
        resource == Bulla::Table::"orders.public.customers");
"#;

struct World {
    server: Postgres,
    gateway: Gateway,
    door: Door,
    _issuer: Issuer,
}

impl World {
    fn start(more: &str, env: &[(&str, &str)]) -> Self {
        let authority = Authority::new("failures").unwrap();
        let server = Postgres::start(&authority).unwrap();
        let issuer = Issuer::start().unwrap();
        let token = issuer.mint().unwrap().subject("billing/api").token().unwrap();
        let mut spec = Spec::new(&server, &issuer).policy("orders.cedar", POLICY);
        spec.issuers[0].groups.clear();
        spec.last = more.to_owned();
        let env: Vec<_> =
            env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let gateway = Gateway::start_with(&authority, spec, &env).unwrap();
        let door = Door::new(&gateway.dial(&token)).unwrap();
        Self { server, gateway, door, _issuer: issuer }
    }

    fn client(&self) -> Raw {
        tap::runtime().block_on(self.door.enter(Keep::All)).unwrap()
    }

    /// Status words of all entries of a kind, and the log verified.
    fn recorded(&self, kind: Kind) -> Vec<String> {
        let args = ["log", "verify", "data/archive", "--key", "data/log.vkey"];
        let done = cli_in(self.gateway.dir().path(), &args).unwrap();
        assert_eq!(done.code(), 0, "{}{}", done.out(), done.err());
        let reader = Reader::open(ReaderConfig::of_ledger(&self.gateway.data_dir())).unwrap();
        let entries = (0..reader.len()).map(|index| reader.entry(index).unwrap().entry);
        let of = entries.filter(|entry| entry.kind == kind);
        of.filter_map(|entry| entry.status).collect()
    }
}

fn run(client: &mut Raw, sql: &str) -> Option<Message> {
    tap::runtime().block_on(client.query(sql)).unwrap().0
}

/// What a session says when it ends by itself.
fn last_words(client: &mut Raw) -> String {
    tap::runtime().block_on(async {
        loop {
            match client.message().await {
                Ok(message) if message.kind == b'E' => {
                    let field = |name| message.field(name).unwrap_or_default();
                    return format!("{} {}: {}", field(b'V'), field(b'C'), field(b'M'));
                }
                Ok(_) => {}
                Err(error) => return format!("{error:#}"),
            }
        }
    })
}

#[test]
fn a_hold_that_cannot_be_met_is_refused() {
    let world = World::start("[limits]\napprovals_max = 1\n", &[]);
    let (mut waits, mut refused) = (world.client(), world.client());
    let delete = query("DELETE FROM customers WHERE id = 7").unwrap();
    let runtime = tap::runtime();
    runtime.block_on(waits.send(&delete)).unwrap();
    let notice = runtime.block_on(waits.message()).unwrap();
    assert_eq!(notice.kind, b'N');
    let error = run(&mut refused, "DELETE FROM customers WHERE id = 8").unwrap();
    assert_eq!(error.field(b'C').as_deref(), Some("42501"));
    let words = error.field(b'M').unwrap();
    assert!(words.contains("needs approval, and too many commands already wait"), "{words}");
    // The session is as before.
    assert_eq!(run(&mut refused, "SELECT 1"), None);
    assert_eq!(world.server.sql("SELECT count(*) FROM customers").unwrap(), "4");
    drop((waits, refused));
    assert!(world.gateway.terminate().unwrap().success(), "{}", world.gateway.log());
    assert!(world.recorded(Kind::Refusal).contains(&"approval_unavailable".to_owned()));
}

#[test]
fn a_lost_target_is_said_and_recorded_and_never_retried() {
    let world = World::start("", &[]);
    let mut client = world.client();
    let insert = "INSERT INTO orders SELECT 70, 7, 'once', 1 FROM pg_sleep(60)";
    tap::runtime().block_on(client.send(&query(insert).unwrap())).unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while !world.server.log().contains("'once'") {
        assert!(std::time::Instant::now() < until, "the statement never ran");
        std::thread::yield_now();
    }
    world.server.proc().signal(Signal::Kill).unwrap();
    let words = last_words(&mut client);
    assert!(words.starts_with("FATAL 08006: lost `orders`"), "{words}");
    let turned_away = tap::runtime().block_on(world.door.enter(Keep::All));
    let words = format!("{:#}", turned_away.unwrap_err());
    assert!(words.contains("could not reach `orders`"), "{words}");
    assert!(!words.contains("127.0.0.1") && !words.contains("localhost"), "{words}");
    assert!(world.gateway.terminate().unwrap().success(), "{}", world.gateway.log());
    assert_eq!(world.recorded(Kind::Outcome), ["target_lost"]);
    let sent = world.server.log().matches("statement: INSERT INTO orders SELECT 70").count();
    assert_eq!(sent, 1, "it was sent again");
}

#[test]
fn a_drain_ends_sessions_at_safe_points() {
    let world = World::start("", &[("BULLA_GATEWAY__DRAIN", "8s")]);
    let [mut idle, mut writes, mut works] = [world.client(), world.client(), world.client()];
    assert_eq!(run(&mut idle, "SELECT 1"), None);
    assert_eq!(run(&mut writes, "BEGIN"), None);
    let insert = "INSERT INTO orders (id, customer_id, item, quantity) VALUES (80, 7, 'x', 1)";
    assert_eq!(run(&mut writes, insert), None);
    let sleep = query("SELECT pg_sleep(60)").unwrap();
    tap::runtime().block_on(works.send(&sleep)).unwrap();
    world.gateway.proc().signal(Signal::Terminate).unwrap();
    // At rest: ended at once, in words that make pools connect again.
    let words = last_words(&mut idle);
    assert!(words.starts_with("FATAL 57P01: the gateway is stopping"), "{words}");
    // Nobody new.
    assert!(tap::runtime().block_on(world.door.enter(Keep::All)).is_err());
    // In a transaction: ended when that is over, with the work kept.
    assert_eq!(run(&mut writes, "COMMIT"), None);
    let words = last_words(&mut writes);
    assert!(words.starts_with("FATAL 57P01"), "{words}");
    // At work: cut at the deadline, and the target is told to stop.
    let words = last_words(&mut works);
    assert!(words.starts_with("FATAL 57P01"), "{words}");
    assert!(world.gateway.terminate().unwrap().success(), "{}", world.gateway.log());
    assert_eq!(world.server.sql("SELECT item FROM orders WHERE id = 80").unwrap(), "x");
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' \
                   AND state = 'active' AND pid <> pg_backend_pid()";
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while world.server.sql(running).unwrap() != "0" {
        assert!(std::time::Instant::now() < until, "the target still works");
        std::thread::yield_now();
    }
    let outcomes = world.recorded(Kind::Outcome);
    assert!(outcomes.contains(&"cut:ended".to_owned()), "{outcomes:?}");
    let closes = world.recorded(Kind::Close);
    assert_eq!(closes.iter().filter(|why| *why == "drained").count(), 4, "{closes:?}");
}
