//! A session through the gateway is the session that one would have had directly: every message
//! of the server, its fields and the transaction status behind it, as libpq traces them. Only what
//! the gateway answers itself, since it sends nothing that it cannot read, has words of its own.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::time::Duration;

use bulla_e2e::ca::Authority;
use bulla_e2e::client::Dial;
use bulla_e2e::gateway::{Gateway, Spec};
use bulla_e2e::issuer::Issuer;
use bulla_e2e::postgres::{Flavor, Options, Postgres};
use bulla_e2e::proc::capture;
use xtask::places;

const EVERYTHING: &str = "@id(\"everything\")\npermit (principal, action, resource);\n";

fn trace(dial: &Dial) -> Vec<String> {
    let python = places::python();
    assert!(python.is_file(), "no Python drivers; install them: cargo xtask setup");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/trace.py");
    let mut command = dial.command(&python);
    command.args(["-B", "-s"]).arg(script);
    let done = capture(command, None, Duration::from_secs(100)).unwrap();
    done.success().unwrap().lines().map(str::to_owned).collect()
}

/// How many of the errors are the gateway's own.
const OWN: usize = 7;

/// An error's severity, code, message and place.
fn substance(message: &str) -> String {
    let (kind, fields) = message.split_once("\t S ").unwrap_or((message, ""));
    let mut kept = kind.to_owned();
    for (start, end) in [("V \"", "\" "), ("C \"", "\" "), ("M \"", "\" "), (" P \"", "\" ")] {
        let field = fields.split_once(start).and_then(|(_, rest)| rest.split_once(end));
        let field = field.map_or("none", |(field, _)| field);
        kept.push('|');
        kept.push_str(field.strip_prefix("refused: ").unwrap_or(field));
    }
    kept
}

fn check(flavor: Flavor) {
    let authority = Authority::new("trace").unwrap();
    let server = || Postgres::with(&authority, &Options::flavor(flavor)).unwrap();
    let (bare, guarded) = (server(), server());
    let issuer = Issuer::start().unwrap();
    let spec = Spec::new(&guarded, &issuer).policy("all.cedar", EVERYTHING);
    let gateway = Gateway::start(&authority, spec).unwrap();
    let token = issuer.mint().unwrap().subject("trace").claim("team", "trace").token().unwrap();
    let expected = trace(&bare.dial("bulla_scram", "scram secret"));
    let found = trace(&gateway.dial(&token));
    assert!(expected.len() > 500, "a trace of {} messages", expected.len());
    let mut about = "";
    let mut own = 0;
    for (number, (expected, found)) in expected.iter().zip(&found).enumerate() {
        if expected.starts_with('#') {
            about = expected;
        }
        let (mut expected, mut found) = (expected.clone(), found.clone());
        if found.contains("{\"bulla\":\"unreadable\"") {
            own += 1;
            (expected, found) = (substance(&expected), substance(&found));
        }
        assert_eq!(found, expected, "message {number}, after {about}");
    }
    assert_eq!(found.len(), expected.len());
    // Five texts that no grammar accepts, two names that nobody gave.
    assert_eq!(own, OWN);
}

#[test]
fn every_message_is_the_same_on_postgresql_15() {
    check(Flavor::System);
}

#[test]
fn every_message_is_the_same_on_postgresql_18() {
    check(Flavor::Eighteen);
}
