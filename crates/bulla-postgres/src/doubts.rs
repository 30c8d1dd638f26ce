//! Tests of what moves while a session lives: the catalogue under a command that waits, names that
//! pile up, outcomes that are not certain yet.

use std::sync::Arc;

use bulla_core::{Obligations, Refusal, RefusalKind};
use bulla_sql::{Catalog, Limits, catalog::Row};
use bulla_wire::{Output, Outputs, Wire};
use bytes::BytesMut;

use crate::{
    Shared,
    machine::{FINISHING_MAX, Machine},
    names::NAMES_MAX,
    transcript::{Play, client, fixture, opened, place, target},
};

fn publish(shared: &Shared, results: &[Vec<Row>]) {
    let catalog = Catalog::from_rows(results).unwrap();
    shared.knowledge.publish(&place(), "f".into(), catalog);
}

/// A machine over a catalogue of its own.
fn machine() -> (Arc<Shared>, Machine) {
    let shared = Arc::new(Shared::new(Limits::default()).unwrap());
    publish(&shared, &fixture());
    (shared.clone(), Machine::new(shared, &opened(&[])))
}

fn cell(text: &str) -> Option<String> {
    Some(text.into())
}

/// The fixture with one more table `public.name`.
fn with_table(schema: &str, name: &str) -> Vec<Vec<Row>> {
    let mut results = fixture();
    let named = |row: &&Row| row[1].as_deref() == Some(schema);
    let oid = results[1].iter().find(named).unwrap()[0].clone();
    let mut row = vec![cell("99999"), oid];
    row.extend([name, "r", "f", "p", "f", "f"].map(cell));
    row.push(None);
    results[2].push(row);
    let column = ["99999", "1", "id", "23", "f"];
    results[3].push(column.map(cell).to_vec());
    results
}

/// Judges one text and says whether it still means the same after `change`.
fn still(text: &str, change: impl FnOnce(&Shared)) -> bool {
    let (shared, mut machine) = machine();
    let (mut input, mut out) = (BytesMut::from(&client(text)[..]), Outputs::new());
    machine.client(&mut input, &mut out).unwrap();
    let Some(Output::Judge { number, .. }) = out.first() else { panic!("{out:?}") };
    change(&shared);
    machine.still(*number)
}

/// THREATS K8: approve A, run B.
#[test]
fn what_waited_is_read_again_where_the_catalogue_moved() {
    let delete = r#"Q "delete from orders""#;
    assert!(still(delete, |_| {}));
    // Something else changed.
    assert!(still(delete, |shared| publish(shared, &with_table("public", "other"))));
    // Another relation of that name: the OID is another one.
    assert!(!still(delete, |shared| {
        let mut results = fixture();
        let row = results[2].iter_mut().find(|row| row[2].as_deref() == Some("orders")).unwrap();
        let old = row[0].replace("99998".into());
        for row in results[3].iter_mut().filter(|row| row[0] == old) {
            row[0] = cell("99998");
        }
        publish(shared, &results);
    }));
    // It became a view.
    assert!(!still(delete, |shared| {
        let mut results = fixture();
        let row = results[2].iter_mut().find(|row| row[2].as_deref() == Some("orders")).unwrap();
        (row[3], row[8]) = (cell("v"), cell("SELECT * FROM customers"));
        publish(shared, &results);
    }));
    // It is gone.
    assert!(!still(delete, |shared| {
        let mut results = fixture();
        results[2].retain(|row| row[2].as_deref() != Some("orders"));
        publish(shared, &results);
    }));
    // Another relation stands in front of it, at the second look as at the first.
    let set = r#"Q "set search_path = app, public; delete from orders""#;
    assert!(still(set, |_| {}));
    assert!(!still(set, |shared| publish(shared, &with_table("app", "orders"))));
}

/// Names that SQL makes are as many as those of the protocol.
#[test]
fn sql_names_are_capped() {
    let (_, machine) = machine();
    let mut play = Play::new(machine);
    let per_text = 1_000;
    for text in 0..NAMES_MAX / per_text {
        let names = (0..per_text).map(|n| format!("prepare s{text}x{n} as select 1"));
        play.client(&client(&format!("Q \"{}\"", names.collect::<Vec<_>>().join(";"))));
        let done = target(r#"C "PREPARE""#).repeat(per_text);
        play.target(&[done, target("Z I")].concat());
        assert!(!play.log.concat().contains("54000"), "{text}");
        play.log.clear();
    }
    play.client(&client(r#"Q "prepare one_more as select 1""#));
    assert!(play.log.concat().contains("54000"), "{:?}", play.log);
    play.log.clear();
    play.client(&client(r#"P one_more "select 1""#));
    assert!(play.log.concat().contains("54000"), "{:?}", play.log);
    // What is not kept makes room.
    play.client(&[client("S"), client(r#"Q "deallocate all""#)].concat());
    play.target(&[target(r#"C "DEALLOCATE ALL""#), target("Z I")].concat());
    play.log.clear();
    play.client(&client(r#"Q "prepare one_more as select 1""#));
    assert!(!play.log.concat().contains("54000"), "{:?}", play.log);
}

/// Outcomes that wait for the end of their pipeline are so many; the first of more say that it was
/// not known whether they stay.
#[test]
fn outcomes_that_wait_are_bounded() {
    let (_, machine) = machine();
    let mut play = Play::new(machine);
    let insert = |n: usize| {
        let text = format!("insert into audit (who) values ('{n}')");
        [client(&format!("P \"\" \"{text}\"")), client(r#"B "" """#), client(r#"E """#)].concat()
    };
    let many = FINISHING_MAX + 5;
    for n in 0..many {
        play.client(&insert(n));
        play.target(&["1", "2", r#"C "INSERT 0 1""#].map(target).concat());
    }
    let told = |play: &Play, word: &str| play.log.iter().filter(|l| l.contains(word)).count();
    assert_eq!((told(&play, "uncommitted"), told(&play, "ok")), (5, 0));
    play.client(&client(r#"P "" "select 1/0""#));
    play.client(&client("S"));
    play.target(&[target("E 22012"), target("Z I")].concat());
    // The one that failed took the place of another.
    assert_eq!((told(&play, "uncommitted"), told(&play, "error:22012")), (6, 1));
    assert_eq!(told(&play, "rolled_back"), FINISHING_MAX - 1, "all others were taken back");
}

/// Whatever is in flight gets an outcome when the gateway ends the session.
#[test]
fn a_farewell_tells_every_outcome() {
    let (_, mut machine) = machine();
    let script = [
        client(r#"P "" "insert into audit (who) values ('x')""#),
        client(r#"B "" """#),
        client(r#"E """#),
        client(r#"P "" "select 1""#),
        client(r#"B "" """#),
        client(r#"E """#),
        client("S"),
    ];
    let (mut input, mut open) = (BytesMut::from(&script.concat()[..]), Vec::new());
    loop {
        let mut out = Outputs::new();
        machine.client(&mut input, &mut out).unwrap();
        if out.is_empty() {
            break;
        }
        for output in out {
            if let Output::Judge { number, .. } = output {
                open.push(number);
                machine.cleared(number, &Obligations::default(), &mut Outputs::new());
            }
        }
    }
    let mut input = BytesMut::from(&["1", "2", r#"C "INSERT 0 1""#].map(target).concat()[..]);
    machine.target(&mut input, &mut Outputs::new()).unwrap();
    let mut out = Outputs::new();
    machine.farewell(&Refusal::plain(RefusalKind::Ended, "over", ""), &mut out);
    let mut told: Vec<_> = out
        .iter()
        .filter_map(|output| match output {
            Output::Done { number, outcome } => Some((*number, outcome.status.word())),
            _ => None,
        })
        .collect();
    told.sort();
    let expect: Vec<_> = open.iter().map(|number| (*number, "cut:ended".to_string())).collect();
    assert_eq!((told, open.len()), (expect, 2));
}
