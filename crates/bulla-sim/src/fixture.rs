//! What all runs share, and the way in: catalogue, policies, greeting, login.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use bulla_core::{
    CredentialKind, Digest, Principal, PrincipalId, PrincipalKind, Proof, ResourceName, Timestamp,
};
use bulla_policy::{Bundle, ResourceInput, SchemaInput};
use bulla_postgres::{DESCRIPTOR, Postgres};
use bulla_wire::{
    Greeting, LoginContext, LoginSpec, LoginStep, Place, Protocol, ScoutStep, Step, TargetHello,
    Tls,
};
use bytes::{BufMut, BytesMut};

use crate::{
    client::{frame, next, text},
    target::{START_PATH, where_names_lead},
};

pub const TOKEN: &str = "token-that-must-stand-nowhere";
pub const PASSWORD: &str = "password-that-must-stand-nowhere";

const POLICIES: &str = r#"
@id("session")
permit (principal, action in [Bulla::Action::"postgres:session"],
        resource in Bulla::Resource::"shop");
@id("reads-customers")
permit (principal, action == Bulla::Action::"postgres:select",
        resource == Bulla::Table::"shop.public.customers");
@id("reads-orders")
permit (principal, action == Bulla::Action::"postgres:select",
        resource == Bulla::Table::"shop.public.orders");
@id("no-table")
permit (principal, action == Bulla::Action::"postgres:select",
        resource == Bulla::Resource::"shop");
@id("limited") @rows_max("3")
permit (principal, action == Bulla::Action::"postgres:select",
        resource == Bulla::Table::"shop.public.audit");
@id("inserts-customers")
permit (principal, action == Bulla::Action::"postgres:insert",
        resource == Bulla::Table::"shop.public.customers");
@id("inserts-orders")
permit (principal, action == Bulla::Action::"postgres:insert",
        resource == Bulla::Table::"shop.public.orders");
@id("copies")
permit (principal, action in
        [Bulla::Action::"postgres:copy_in", Bulla::Action::"postgres:copy_out"],
        resource in Bulla::Resource::"shop");
@id("held") @hold("dba") @expires("5m")
permit (principal, action == Bulla::Action::"postgres:delete",
        resource == Bulla::Table::"shop.public.customers");
"#;

const FEWER: &str = r#"
@id("no-inserts")
forbid (principal, action == Bulla::Action::"postgres:insert", resource);
"#;

/// What all runs of a process share: it takes long to make, and nothing in it changes.
pub struct Fixture {
    pub protocol: Postgres,
    pub place: Place,
    pub all: Arc<Bundle>,
    /// Forbids what `all` permits.
    pub fewer: Arc<Bundle>,
}

pub fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let protocol = Postgres::new(bulla_sql::Limits::default()).unwrap();
        let place = Place { resource: "shop".into(), part: "shop".into(), default_part: true };
        scout(&protocol, &place);
        let load = |text: String| {
            let input = SchemaInput {
                protocols: &[&DESCRIPTOR],
                resources: vec![ResourceInput {
                    name: ResourceName::new("shop").unwrap(),
                    protocol: "postgres".into(),
                    groups: vec![],
                }],
                issuers: BTreeMap::from([("k8s".to_owned(), BTreeMap::new())]),
            };
            match Bundle::load(&[("sim.cedar".to_owned(), text)], &input) {
                Ok(bundle) => Arc::new(bundle),
                Err(problems) => {
                    let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
                    panic!("{}", all.join("\n"))
                }
            }
        };
        let all = load(POLICIES.to_owned());
        let fewer = load(format!("{POLICIES}{FEWER}"));
        Fixture { protocol, place, all, fewer }
    })
}

/// Answers the scout with the snapshot that the tests of `bulla-sql` use.
fn scout(protocol: &Postgres, place: &Place) {
    let snapshot = include_str!("../../bulla-sql/tests/fixtures/catalogue.txt");
    let mut results: Vec<Vec<Vec<Option<String>>>> = Vec::new();
    for line in snapshot.lines().filter(|line| !line.starts_with("# ")) {
        if line == "===" {
            results.push(Vec::new());
        } else {
            let plain =
                |cell: &str| cell.replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\");
            let cell = |cell: &str| (cell != "\\N").then(|| plain(cell));
            results.last_mut().unwrap().push(line.split('\t').map(cell).collect());
        }
    }
    // Columns of `bulla_sql::catalog::QUERIES`.
    let columns = [3, 3, 9, 5, 2, 3, 12, 8, 5, 4, 7];
    let mut results = results.into_iter().zip(columns);
    let mut scout = protocol.scout(place).unwrap();
    let mut input = BytesMut::new();
    let mut asked = 0;
    loop {
        match scout.input(&mut input).unwrap() {
            ScoutStep::More => panic!("the scout wants more than it asked for"),
            ScoutStep::Done { .. } => return,
            ScoutStep::Send(bytes) => {
                let mut queries = BytesMut::from(&bytes[..]);
                while let Some((_, query)) = next(&mut queries) {
                    let query = String::from_utf8_lossy(&query[..query.len() - 1]).into_owned();
                    let status = answer(&mut input, &query, asked, &mut results);
                    frame(&mut input, b'Z', |out| out.put_u8(status));
                    asked += 1;
                }
            }
        }
    }
}

fn answer(
    out: &mut BytesMut,
    query: &str,
    asked: usize,
    results: &mut impl Iterator<Item = (Vec<Vec<Option<String>>>, usize)>,
) -> u8 {
    let command = [("SET ", "SET", b'I'), ("BEGIN ", "BEGIN", b'T'), ("COMMIT", "COMMIT", b'I')];
    if let Some((_, tag, status)) = command.iter().find(|(begin, ..)| query.starts_with(begin)) {
        frame(out, b'C', |out| text(out, tag));
        return *status;
    }
    let (rows, columns) = match asked {
        2 => (vec![vec![Some("fingerprint".to_owned())]], 1),
        _ => results.next().unwrap(),
    };
    frame(out, b'T', |out| {
        out.put_u16(u16::try_from(columns).unwrap());
        for _ in 0..columns {
            text(out, "c");
            out.put_slice(&[0; 6]);
            out.put_u32(25);
            out.put_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
        }
    });
    for row in &rows {
        frame(out, b'D', |out| {
            out.put_u16(u16::try_from(row.len()).unwrap());
            for cell in row {
                match cell {
                    None => out.put_u32(u32::MAX),
                    Some(cell) => {
                        out.put_u32(u32::try_from(cell.len()).unwrap());
                        out.put_slice(cell.as_bytes());
                    }
                }
            }
        });
    }
    frame(out, b'C', |out| text(out, &format!("SELECT {}", rows.len())));
    b'T'
}

pub fn principal(now: Timestamp) -> Principal {
    Principal {
        id: PrincipalId::new("k8s", "billing/api").unwrap(),
        kind: PrincipalKind::Workload,
        issuer: "https://issuer.example".into(),
        groups: vec![],
        attributes: BTreeMap::new(),
        proof: Proof {
            kind: CredentialKind::Jwt,
            hash: Digest([7; 32]),
            jti: None,
            kid_tail: None,
            issued_at: now,
            expires_at: now.plus_ms(3_600_000),
            verified_at: now,
            bound: false,
            jwks_stale: false,
        },
    }
}

pub fn greet(greeting: &mut dyn Greeting) -> bulla_wire::Hello {
    let mut body = BytesMut::new();
    body.put_u32(3 << 16);
    for word in ["user", "app", "database", "shop", "application_name", "sim", ""] {
        text(&mut body, word);
    }
    let mut input = BytesMut::new();
    input.put_u32(u32::try_from(body.len() + 4).unwrap());
    input.extend_from_slice(&body);
    let tls = Tls::On { certificate: false };
    let step = greeting.input(&mut input, tls).unwrap();
    assert!(matches!(step, Step::Send(_)), "{step:?}");
    frame(&mut input, b'p', |out| text(out, TOKEN));
    match greeting.input(&mut input, tls).unwrap() {
        Step::Ready(hello) => *hello,
        step => panic!("{step:?}"),
    }
}

pub fn login(protocol: &Postgres) -> TargetHello {
    let mut login = protocol.login(LoginSpec {
        user: "bulla".into(),
        secret: Some(Arc::new(bulla_core::Secret::new(PASSWORD.as_bytes().to_vec()))),
        part: Some("shop".into()),
        settings: vec![],
        tls: false,
        nonce: [1; 24],
    });
    let (mut input, context) = (BytesMut::new(), LoginContext::default());
    let mut sent = 0;
    loop {
        match login.input(&mut input, &context).unwrap() {
            LoginStep::Done(hello) => return *hello,
            LoginStep::Send(bytes) => {
                let secret = PASSWORD.as_bytes();
                assert!(!bytes.windows(secret.len()).any(|window| window == secret));
                sent += 1;
                if sent == 1 {
                    // MD5, so that the password itself never travels.
                    frame(&mut input, b'R', |out| out.put_slice(&[0, 0, 0, 5, 1, 2, 3, 4]));
                } else if sent == 3 {
                    // Where names lead.
                    frame(&mut input, b'T', |out| out.put_u16(0));
                    where_names_lead(&mut input, START_PATH);
                    frame(&mut input, b'Z', |out| out.put_u8(b'I'));
                } else {
                    frame(&mut input, b'R', |out| out.put_u32(0));
                    for (name, value) in
                        [("client_encoding", "UTF8"), ("standard_conforming_strings", "on")]
                    {
                        frame(&mut input, b'S', |out| {
                            text(out, name);
                            text(out, value);
                        });
                    }
                    frame(&mut input, b'K', |out| out.put_slice(&[0; 8]));
                    frame(&mut input, b'Z', |out| out.put_u8(b'I'));
                }
            }
            step => panic!("{step:?}"),
        }
    }
}
