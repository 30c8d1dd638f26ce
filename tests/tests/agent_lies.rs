//! A compromised agent or target can refuse service and lie about its own answers. It cannot skip
//! policy, forge or alter an entry, or harm another's session.
//!
//! The liar stands where a compromised agent would: behind the login, with every byte in its hand.

#![allow(clippy::unwrap_used, clippy::panic)]

use bulla_e2e::agent::{Agent, AgentSpec};
use bulla_e2e::ca::Authority;
use bulla_e2e::expect::has;
use bulla_e2e::gateway::{Gateway, ResourceSpec, Spec, cli_in};
use bulla_e2e::issuer::Issuer;
use bulla_e2e::liar::{Liar, Lie, Then, message};
use bulla_e2e::postgres::Postgres;
use bulla_e2e::tap::{self, Door, Keep};
use serde_json::Value;

const POLICY: &str = r#"
@id("everything-but-deletes")
permit (principal, action, resource)
unless { action == Bulla::Action::"postgres:delete" };
"#;

/// How a lie ends.
#[derive(Clone, Copy)]
enum End {
    /// The session ends with these words.
    Violation(&'static str),
    /// What was in flight is lost, and the client reads this.
    Lost(&'static str),
    /// The answer is taken for the target's, which it is; the session goes on.
    Taken,
}

fn ready(status: u8) -> Vec<u8> {
    message(b'Z', &[status])
}

fn done(tag: &str) -> Vec<u8> {
    message(b'C', format!("{tag}\0").as_bytes())
}

fn status(name: &str, value: &str) -> Vec<u8> {
    message(b'S', format!("{name}\0{value}\0").as_bytes())
}

fn error(severity: &str) -> Vec<u8> {
    message(b'E', format!("S{severity}\0V{severity}\0CXX000\0Mthe liar\0\0").as_bytes())
}

/// One column of text, called `a`.
fn described() -> Vec<u8> {
    let column = [b"\0\x01a\0".as_slice(), &[0; 6], &25u32.to_be_bytes(), &[0xff; 6], &[0; 2]];
    message(b'T', &column.concat())
}

fn lies() -> Vec<(&'static str, Vec<u8>, Then, End)> {
    use End::{Lost, Taken, Violation};
    use Then::{Ask, Hang, Keep};
    let row = |text: &str| {
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        message(b'D', &[&[0, 1], &length[..], text.as_bytes()].concat())
    };
    let whole = [described(), row("lie"), done("SELECT 1"), ready(b'I')].concat();
    let out_of_turn = Violation("out of turn");
    vec![
        // What the client would take for the gateway asking.
        ("password", message(b'R', &3u32.to_be_bytes()), Ask, out_of_turn),
        ("login", message(b'R', &0u32.to_be_bytes()), Ask, out_of_turn),
        ("key", message(b'K', &[0; 8]), Ask, out_of_turn),
        ("version", message(b'v', &[0; 8]), Ask, out_of_turn),
        // What changes how the next statement is read.
        (
            "strings",
            status("standard_conforming_strings", "off"),
            Ask,
            Violation("changed `standard_conforming_strings`"),
        ),
        ("encoding", status("client_encoding", "SJIS"), Ask, Violation("`client_encoding`")),
        // What asks the client for bytes that nobody judges.
        ("copy in", message(b'G', &[0, 0, 1, 0, 0]), Ask, Violation("asks for copy data")),
        ("copy both", message(b'W', &[0, 0, 1, 0, 0]), Ask, out_of_turn),
        // What shifts answers against statements.
        ("early", [done("SELECT 1"), ready(b'I')].concat(), Ask, out_of_turn),
        ("twice", [whole.clone(), whole.clone()].concat(), Keep, out_of_turn),
        ("ready", [ready(b'I'), ready(b'I')].concat(), Keep, out_of_turn),
        (
            "no such status",
            [done("SELECT 1"), ready(b'X')].concat(),
            Keep,
            Violation("without a transaction status"),
        ),
        ("parsed", message(b'1', &[]), Ask, out_of_turn),
        // What is no message.
        ("kind", message(b'q', &[]), Ask, out_of_turn),
        ("length", vec![b'C', 0, 0, 0, 0], Ask, Violation("negative or too large")),
        ("huge", vec![b'C', 0x7f, 0, 0, 0], Ask, Violation("negative or too large")),
        ("cut", vec![b'D', 0, 0, 1, 0, 0, 1], Hang, Lost("closed the line")),
        ("bye", vec![], Hang, Lost("FATAL 08006: lost ")),
        ("fatal", error("FATAL"), Hang, Lost("FATAL XX000: the liar")),
        // Lies about its own answers.
        ("rows", whole, Keep, Taken),
        ("refusal", [error("ERROR"), ready(b'I')].concat(), Keep, Taken),
    ]
}

struct World {
    server: Postgres,
    issuer: Issuer,
    gateway: Gateway,
    _agent: Agent,
}

impl World {
    fn start() -> Self {
        let authority = Authority::new("liar").unwrap();
        let server = Postgres::start(&authority).unwrap();
        let issuer = Issuer::start().unwrap();
        let mut spec = Spec::new(&server, &issuer).policy("all.cedar", POLICY);
        let told = lies().into_iter().map(|(name, bytes, then, _)| Lie {
            cue: format!("lie {name}!"),
            bytes,
            then,
        });
        let liar = Liar::start(&server, told.collect()).unwrap();
        let target = ResourceSpec {
            port: liar.port(),
            tls: "disable".to_owned(),
            ..spec.resources[0].clone()
        };
        spec.resources[0].agents = vec!["eu-1".to_owned()];
        let gateway = Gateway::start(&authority, spec).unwrap();
        let token = gateway.join_token("eu-1").unwrap();
        let agent = AgentSpec::new("eu-1", gateway.agents_port(), &token, &target);
        let agent = Agent::start(&agent).unwrap();
        gateway.wait_agents(1).unwrap();
        Self { server, issuer, gateway, _agent: agent }
    }

    fn door(&self, subject: &str) -> Door {
        let minted = self.issuer.mint().unwrap().subject(subject).claim("team", "billing");
        Door::new(&self.gateway.dial(&minted.token().unwrap())).unwrap()
    }

    /// Every entry of the one session of a subject.
    fn entries(&self, subject: &str) -> Vec<Value> {
        let show = |args: &[&str]| {
            let shown = self.gateway.cli(args).unwrap().success().unwrap();
            serde_json::from_str::<Value>(&shown).unwrap()
        };
        let listed = show(&["sessions", "ls", "--limit", "1000", "--json"]);
        let sessions = listed.as_array().or_else(|| listed["sessions"].as_array()).unwrap();
        let who = format!("bed|{subject}");
        let mine: Vec<_> = sessions.iter().filter(|one| one["principal"] == who.as_str()).collect();
        assert_eq!(mine.len(), 1, "{subject}");
        let id = mine[0]["session"].as_str().unwrap();
        show(&["sessions", "show", id, "--json"]).as_array().unwrap().clone()
    }
}

/// What one lie does to the session that hears it.
async fn told(world: &World, name: &str, end: End) {
    let subject = format!("liar/{}", name.replace(' ', "-"));
    let mut raw = world.door(&subject).enter(Keep::All).await.unwrap();
    let asked = format!("SELECT 'lie {name}!'");
    let answer = raw.query(&asked).await;
    match end {
        End::Violation(words) => {
            // A lie may pass for the answer; then the server's own is out of turn.
            let ended = match answer {
                Ok(_) => raw.until_ready().await,
                Err(error) => Err(error),
            };
            let Err(error) = ended else { panic!("{name}: {:?}", raw.received) };
            has(&error.to_string(), &["FATAL 08P01: protocol violation: ", words]);
        }
        End::Lost(words) => {
            let Err(error) = answer else { panic!("{name}: {:?}", raw.received) };
            has(&error.to_string(), &[words]);
        }
        End::Taken => {
            answer.unwrap();
            // A session that was lied to is no way around policy.
            let (refused, _) = raw.query("DELETE FROM customers").await.unwrap();
            assert_eq!(refused.unwrap().field(b'C').as_deref(), Some("42501"), "{name}");
        }
    }
    if !matches!(end, End::Taken) {
        raw.rest().await;
    }
    // Behind its login nobody asks the client for a password, a key or bytes.
    let (mut rest, mut welcome) = (&raw.received[..], false);
    while let [kind, a, b, c, d, ..] = *rest {
        assert!(!welcome || !b"RKGWv".contains(&kind), "{name}: {}", kind as char);
        welcome |= kind == b'Z';
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        rest = rest.get(1 + length..).unwrap_or_default();
    }
    let entries = world.entries(&subject);
    // What the client said, and nothing else.
    let commands: Vec<_> = entries.iter().filter(|entry| entry["number"].is_u64()).collect();
    let said: Vec<_> = commands.iter().map(|entry| entry["statement"].clone()).collect();
    let deleted = matches!(end, End::Taken).then_some("DELETE FROM customers");
    let expected: Vec<Value> =
        [Some(&*asked), deleted].into_iter().flatten().map(Value::from).collect();
    assert_eq!(said, expected, "{name}: {entries:#?}");
    assert!(commands[0]["refusal"].is_null(), "{name}");
    assert!(commands.get(1).is_none_or(|command| !command["refusal"].is_null()), "{name}");
    if let End::Lost(_) = end {
        assert_eq!(commands[0]["status"], "target_lost", "{name}");
    }
}

#[test]
fn a_liar_ends_its_own_session_and_nothing_else() {
    let world = World::start();
    tap::runtime().block_on(async {
        // One that is open all the while, and hears no lie.
        let mut other = world.door("honest/one").enter(Keep::Nothing).await.unwrap();
        for (name, _, _, end) in lies() {
            told(&world, name, end).await;
            let (error, rows) = other.query("SELECT id FROM customers LIMIT 2").await.unwrap();
            assert_eq!((error.is_none(), rows), (true, 2), "{name}");
        }
        drop(other);
    });
    // It heard statements, and nothing that policy forbids.
    let customers = world.server.sql("SELECT count(*) > 0 FROM customers").unwrap();
    assert_eq!(customers, "t");
    assert!(world.gateway.terminate().unwrap().success(), "{}", world.gateway.log());
    assert!(!world.gateway.log().contains("panicked"), "{}", world.gateway.log());
    let args = ["log", "verify", "data/archive", "--key", "data/log.vkey"];
    let verified = cli_in(world.gateway.dir().path(), &args).unwrap();
    assert_eq!(verified.code(), 0, "{}{}", verified.out(), verified.err());
}
