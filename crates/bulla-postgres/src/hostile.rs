//! The conformance suite of every wire, arbitrary bytes, and what the descriptor promises.

use bulla_core::{ActionName, Command};
use bulla_sql::{Kind, facts::Access};
use bulla_wire::{Block, Greeting as _, Place, Protocol as _, Tls, Wire, conformance};
use bytes::BytesMut;
use proptest::prelude::*;

use crate::{
    DESCRIPTOR, Postgres,
    greet::Greeter,
    machine::Machine,
    reading,
    transcript::{client, opened, place, shared, target},
};

/// What a session may hold beside names, in bytes.
const HELD_BYTES_MAX: usize = 24 << 20;

fn machine() -> Box<dyn Wire> {
    Box::new(Machine::new(shared(), &opened(&[])))
}

/// Every line that a client says in the transcripts.
fn said() -> Vec<Vec<u8>> {
    let folder = format!("{}/tests/transcripts", env!("CARGO_MANIFEST_DIR"));
    let mut said = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for case in text.split("\n## ") {
            let lines = case.lines().filter_map(|line| line.strip_prefix("C> "));
            let parts = lines.flat_map(|line| line.split(" | ").map(str::to_string));
            said.push(parts.flat_map(|part| client(part.trim())).collect());
        }
    }
    said
}

#[test]
fn chunks_change_nothing_and_what_is_judged_is_the_clients() {
    let said = said();
    assert!(said.len() > 100);
    for input in said.iter().filter(|input| input.len() < 100_000) {
        let trace = conformance::chunking_changes_nothing(machine, input);
        conformance::judged_bytes_are_the_clients(&trace, input);
    }
}

/// Behind a refusal a machine does what it would have done without it.
#[test]
fn a_refusal_leaves_the_machine_usable() {
    for input in said() {
        let alone = conformance::run_client(&mut *machine(), &input, &[input.len().max(1)]);
        let refused = [client("P \"\" \"selec\""), client("S"), input].concat();
        let behind = conformance::run_client(&mut *machine(), &refused, &[refused.len()]);
        assert_eq!(behind.judged, alone.judged);
        assert_eq!((behind.ended, behind.violation), (alone.ended, alone.violation));
        assert!(behind.said.ends_with(&alone.said));
    }
}

/// Messages with a sound head and any body: they reach further than noise.
fn framed() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop::sample::select(&b"QPBDCESHXFdcfpZTEGRNAKIvtsn123"[..]);
    (kind, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(kind, body)| {
        let mut out = vec![kind];
        out.extend((body.len() as u32 + 4).to_be_bytes());
        out.extend(body);
        out
    })
}

fn noise() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        prop::collection::vec(framed(), 1..12).prop_map(|messages| messages.concat()),
        (prop::collection::vec(prop::sample::select(said()), 1..3), any::<u16>(), any::<u8>())
            .prop_map(|(said, at, byte)| {
                let mut bytes = said.concat();
                bytes.truncate(20_000);
                if let Some(byte_at) = bytes.get_mut(usize::from(at)) {
                    *byte_at = byte;
                }
                bytes
            }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in noise(), piece in 1usize..80) {
        conformance::survives(&mut *machine(), &bytes, HELD_BYTES_MAX);
        let _ = conformance::run_client(&mut *machine(), &bytes, &[piece]);
    }

    #[test]
    fn arbitrary_answers_never_panic(
        asked in prop::sample::select(said()),
        bytes in noise(),
        piece in 1usize..80,
    ) {
        let mut wire = machine();
        let _ = conformance::run_client(&mut *wire, &asked, &[64]);
        let (mut buffer, mut out) = (BytesMut::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            buffer.extend_from_slice(piece);
            if wire.target(&mut buffer, &mut out).is_err() {
                break;
            }
        }
        prop_assert!(wire.held_bytes() <= HELD_BYTES_MAX);
    }

    #[test]
    fn arbitrary_greetings_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for tls in [Tls::Plain, Tls::On { certificate: false }, Tls::On { certificate: true }] {
            let (mut greeter, mut input) = (Greeter::new(shared()), BytesMut::from(&bytes[..]));
            for _ in 0..20 {
                if greeter.input(&mut input, tls).is_err() || input.is_empty() {
                    break;
                }
            }
        }
    }
}

#[test]
fn lengths_alone_reserve_nothing() {
    // A Bind and a server's message that say they are long, and never come.
    for kind in b"QPBFdf" {
        let mut input = BytesMut::from(&[*kind, 0x3f, 0xff, 0xff, 0xff][..]);
        let (mut wire, mut out) = (machine(), Vec::new());
        let _ = wire.client(&mut input, &mut out);
        assert!(wire.held_bytes() < 1024 && input.capacity() < 1 << 20, "{}", char::from(*kind));
    }
    let mut wire = Machine::new(shared(), &opened(&[]));
    let mut input = BytesMut::from(&[b'Q', 0, 0x30, 0, 0][..]);
    wire.client(&mut input, &mut Vec::new()).unwrap();
    assert_eq!(wire.held_bytes(), 5);
    assert!(wire.partial.capacity() + input.capacity() < 1 << 20);
}

#[test]
fn a_gigabyte_passes_in_pieces() {
    let mut play = crate::transcript::Play::new(Machine::new(shared(), &opened(&[])));
    play.act("C> Q \"select id from orders\"", usize::MAX);
    play.target(&target("T"));
    // One row of 1,000,000,000 bytes, of which 4 MiB are seen here.
    let mut row = vec![b'D'];
    row.extend(1_000_000_000u32.to_be_bytes());
    play.target(&row);
    for _ in 0..64 {
        play.target(&[b'x'; 64 << 10]);
        assert!(play.wire.held_bytes() == 0 && play.unread() == 0);
    }
}

fn declared(action: &ActionName) -> bool {
    let verb = action.as_str().strip_prefix("postgres:").unwrap();
    DESCRIPTOR.actions.iter().any(|spec| spec.verb == verb)
}

fn check(command: &Command) {
    assert!(declared(&command.action), "{:?}", command.action);
    for touch in command.touches.seen() {
        assert!(declared(&touch.action), "{:?}", touch.action);
        assert!(DESCRIPTOR.touches.iter().any(|spec| spec.kind == touch.kind), "{touch:?}");
    }
    for name in command.facts.keys() {
        assert!(DESCRIPTOR.facts.iter().any(|spec| spec.name == *name), "{name}");
    }
    for spec in DESCRIPTOR.facts.iter().filter(|spec| spec.required) {
        assert!(command.facts.contains_key(spec.name), "{}", spec.name);
    }
}

#[test]
fn every_command_is_as_the_descriptor_says() {
    let postgres = Postgres::over(shared());
    let block: Block = std::sync::Arc::new(|wait| wait());
    let mut seen = std::collections::BTreeSet::new();
    for text in [
        "",
        "select 1",
        "select peek('x'), nextval('tickets'), pg_read_file('x') from customers",
        "insert into orders select * from orders",
        "with x as (delete from audit returning *) update orders set note = 'x' from x",
        "merge into orders o using customers c on o.id = c.id when matched then delete",
        "truncate audit",
        "copy orders from stdin",
        "copy orders to stdout",
        "lock table orders",
        "select * from orders for update",
        "begin",
        "set search_path = x",
        "set role postgres",
        "show all",
        "explain analyze delete from orders",
        "prepare p as select 1",
        "execute p",
        "deallocate all",
        "declare c cursor for select 1",
        "fetch c",
        "close c",
        "discard all",
        "listen x",
        "notify x",
        "do $$ begin end $$",
        "call tidy()",
        "create table x (id int)",
        "drop table orders",
        "alter table orders add column x int",
        "grant select on orders to public",
        "vacuum orders",
        "create role x",
        "alter system set work_mem = '1MB'",
        "create publication p for table orders",
        "select 1; delete from orders",
        "select * from nowhere",
    ] {
        let command = postgres.read(&place(), text, &block);
        let command = command.unwrap_or_else(|why| panic!("{text}: {why}"));
        check(&command);
        seen.insert(command.action.as_str().to_string());
    }
    assert!(seen.len() > 25, "{seen:?}");
    let mut machine = Machine::new(shared(), &opened(&[]));
    check(machine.cancel().unwrap().1.command());
    check(&machine.function_call(1).unwrap());
    assert!(reading::action("unknown").is_some_and(|action| declared(&action)));
}

/// Nothing hides behind what a text touches besides.
#[test]
fn what_no_touch_says_needs_a_permit_of_its_own() {
    let postgres = Postgres::over(shared());
    let block: Block = std::sync::Arc::new(|wait| wait());
    for (text, want) in [
        ("select id from orders", &[][..]),
        ("select id from orders; select id from customers", &[]),
        ("select id from orders; do $$ begin end $$", &["do"]),
        ("do $$ begin end $$; select id from orders", &["do"]),
        ("select id from orders; notify x", &["notify"]),
        ("select id from orders; listen x", &["listen"]),
        ("select id from orders; create role x superuser", &["role"]),
        ("select id from orders; create extension x", &["server"]),
        ("select id from orders; create schema x", &["ddl"]),
        ("select id from orders; checkpoint", &["maintenance", "server"]),
        ("begin; insert into orders values (1); commit", &["transaction"]),
        ("copy orders to stdout", &[]),
        ("copy orders to '/tmp/x'", &["server"]),
        ("copy orders to program 'cat'", &["server"]),
        ("copy orders from program 'cat'", &["server"]),
        ("copy (select 1) to program 'cat'", &["copy_out", "server"]),
        ("select rolpassword from pg_authid", &["server"]),
        ("select most_common_vals from pg_stats", &["server"]),
        ("select pg_read_file('x')", &[]),
        ("create rule r as on insert to orders do also delete from audit", &["call"]),
        ("create publication p for table orders", &["replication"]),
        ("explain analyze delete from orders", &[]),
        ("set role postgres", &[]),
    ] {
        let command = postgres.read(&place(), text, &block);
        let command = command.unwrap_or_else(|why| panic!("{text}: {why}"));
        let also = command.also.iter().filter_map(|a| a.as_str().strip_prefix("postgres:"));
        assert_eq!(also.collect::<Vec<_>>(), want, "{text}");
    }
}

#[test]
fn every_kind_and_access_has_an_action() {
    let kinds = [
        Kind::Select,
        Kind::Insert,
        Kind::Update,
        Kind::Delete,
        Kind::Merge,
        Kind::Truncate,
        Kind::CopyIn,
        Kind::CopyOut,
        Kind::Explain { analyze: true },
        Kind::Ddl,
        Kind::Grant,
        Kind::Set,
        Kind::Show,
        Kind::Discard,
        Kind::Transaction,
        Kind::TwoPhase,
        Kind::Prepare,
        Kind::Execute,
        Kind::Deallocate,
        Kind::Declare,
        Kind::Fetch,
        Kind::Close,
        Kind::Listen,
        Kind::Notify,
        Kind::Lock,
        Kind::Do,
        Kind::Call,
        Kind::Maintenance,
        Kind::Server,
        Kind::Role,
        Kind::Replication,
        Kind::Unknown,
    ];
    for kind in kinds {
        assert!(reading::action(kind.as_str()).is_some_and(|action| declared(&action)), "{kind}");
    }
    let accesses = [
        Access::Select,
        Access::Insert,
        Access::Update,
        Access::Delete,
        Access::Merge,
        Access::Truncate,
        Access::Lock,
        Access::CopyFrom,
        Access::CopyTo,
        Access::Maintain,
        Access::Create,
        Access::Alter,
        Access::Drop,
        Access::Grant,
    ];
    for access in accesses {
        let action = reading::action(reading::access(access));
        assert!(action.is_some_and(|action| declared(&action)), "{access:?}");
    }
}

#[test]
fn what_cannot_be_read_has_no_command() {
    let postgres = Postgres::over(shared());
    let block: Block = std::sync::Arc::new(|wait| wait());
    assert!(postgres.read(&place(), "selec", &block).is_err());
    let elsewhere = Place { part: "elsewhere".into(), ..place() };
    assert!(!postgres.knows(&elsewhere) && postgres.read(&elsewhere, "select 1", &block).is_err());
}
