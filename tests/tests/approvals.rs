//! Who may answer for a command that waits, and how many it takes.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::time::Duration;

use bulla_e2e::ca::Authority;
use bulla_e2e::client::program;
use bulla_e2e::gateway::{Gateway, IssuerSpec, Spec, cli_in};
use bulla_e2e::issuer::Issuer;
use bulla_e2e::postgres::Postgres;
use bulla_e2e::proc::Proc;

const POLICY: &str = r#"
@id("session")
permit (principal, action in [Bulla::Action::"postgres:session"], resource in Bulla::Resource::"orders");
@id("two-of-dba") @hold("team:dba") @quorum("2") @expires("1m")
permit (principal, action == Bulla::Action::"postgres:delete",
        resource == Bulla::Table::"orders.public.customers");
@id("where")
permit (principal, action == Bulla::Action::"postgres:select", resource in Bulla::Resource::"orders");
"#;

#[test]
fn a_quorum_of_people_of_the_group_and_nobody_else() {
    let authority = Authority::new("approvals").unwrap();
    let server = Postgres::start(&authority).unwrap();
    let (services, people) = (Issuer::start().unwrap(), Issuer::start().unwrap());
    let mut spec = Spec::new(&server, &services).policy("orders.cedar", POLICY);
    let mut human = IssuerSpec::new("staff", &people);
    human.more = "kind = \"human\"\n".into();
    spec.issuers.push(human);
    // Root may look, and stands for no group that counts here.
    spec.last = "[approvals]\nlocal = { root = [\"team:ops\"] }\n".into();
    let gateway = Gateway::start(&authority, spec).unwrap();
    let token = |issuer: &Issuer, subject: &str, team: &str| {
        issuer.mint().unwrap().subject(subject).claim("team", team).token().unwrap()
    };
    let own = token(&services, "billing/api", "dba");
    let file = |name: &str, token: &str| {
        let path = gateway.dir().path().join(name);
        fs::write(&path, token).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (ann, bob) = (token(&people, "ann", "dba"), token(&people, "bob", "dba"));
    let eve = token(&people, "eve", "dev");
    let bent = format!("{}x", &ann[..ann.len() - 2]);
    let (own_file, bent) = (file("own", &own), file("bent", &bent));
    let (ann, bob, eve) = (file("ann", &ann), file("bob", &bob), file("eve", &eve));

    let dial = gateway.dial(&own);
    let mut psql = dial.command(&program("psql").unwrap());
    psql.args(["-X", "-c", "DELETE FROM customers WHERE id = 12345"]);
    let waiting = Proc::spawn("psql", psql).unwrap();
    let notice = waiting.wait_line("waiting for approval", Duration::from_secs(10)).unwrap();
    let id = notice.split("approval ").nth(1).unwrap().split(' ').next().unwrap().to_string();
    let answer = |word: &str, file: Option<&str>| {
        let mut args = vec!["approvals", word, &id];
        args.extend(file.iter().flat_map(|file| ["--token-file", *file]));
        let done = gateway.cli(&args).unwrap();
        (done.code(), format!("{}{}", done.out(), done.err()))
    };
    for (word, file, code, part) in [
        ("approve", None, 1, "in none of the groups that may answer: team:dba"),
        ("reject", None, 1, "in none of the groups"),
        ("approve", Some(&own_file), 1, "is not a person"),
        ("approve", Some(&eve), 1, "in none of the groups"),
        ("reject", Some(&eve), 1, "in none of the groups"),
        ("approve", Some(&bent), 1, "the token is not accepted"),
        ("approve", Some(&ann), 0, "approved by staff|ann; it still waits, 1 of 2"),
        ("approve", Some(&ann), 1, "another person must"),
    ] {
        let (seen, words) = answer(word, file.map(String::as_str));
        assert!(seen == code && words.contains(part), "{word} {file:?}: {seen} {words}");
    }
    let shown = gateway.cli(&["approvals", "show", &id]).unwrap().success().unwrap();
    assert!(shown.contains("staff|ann") && shown.contains("2 of group team:dba"), "{shown}");
    assert!(!server.log().contains("12345"), "one of two is not enough");
    let (code, words) = answer("approve", Some(&bob));
    assert!(code == 0 && !words.contains("still waits"), "{words}");
    assert!(waiting.wait(Duration::from_secs(10)).unwrap().success(), "{}", waiting.log());
    assert!(server.log().contains("12345"));

    let own = ["sessions", "ls", "--resource", "bulla", "--json"];
    let own: serde_json::Value =
        serde_json::from_str(&gateway.cli(&own).unwrap().success().unwrap()).unwrap();
    let own = own[0]["session"].as_str().unwrap();
    let acts = gateway.cli(&["sessions", "show", own]).unwrap().success().unwrap();
    for part in ["staff|ann", "staff|bob", "had no effect", &id] {
        assert!(acts.contains(part), "{part} is not on record: {acts}");
    }
    assert!(gateway.terminate().unwrap().success(), "{}", gateway.log());
    let args = ["log", "verify", "data/archive", "--key", "data/log.vkey"];
    assert_eq!(cli_in(gateway.dir().path(), &args).unwrap().code(), 0);
}
