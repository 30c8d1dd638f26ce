//! Two servers behind one gateway, and an issuer for the client.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use bulla_e2e::ca::Authority;
use bulla_e2e::client::Dial;
use bulla_e2e::gateway::{Gateway, ResourceSpec, Spec, cli_in};
use bulla_e2e::issuer::Issuer;
use bulla_e2e::place::TempDir;
use bulla_e2e::postgres::{Flavor, Options, Postgres};

/// How long a client's program may take: it waits for tokens to expire, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Everything but one table, on both servers.
const POLICY: &str = r#"
@id("everything")
permit (principal, action, resource);
@id("salaries")
forbid (principal, action, resource == Bulla::Table::"pg15.public.salaries");
@id("salaries-18")
forbid (principal, action, resource == Bulla::Table::"pg18.public.salaries");
"#;

/// The same, and nobody sees what is classified.
const MASKED: &str = r#"
@id("everything")
permit (principal, action, resource in Bulla::ResourceGroup::"shop");
@id("salaries")
forbid (principal, action, resource == Bulla::Table::"pg15.public.salaries");
"#;

const CLASSES: &str = r#"
[classes."pii.ssn"]
mask = "partial(0,4)"
[classes."pii.email"]
mask = "email-domain"
[classes."pay.amount"]
mask = "bucket(1000)"
"#;

const COLUMNS: &str = r#"groups = ["shop"]
[resources.pg15.classes]
trusted = ["public.cents"]
[resources.pg15.classes.columns]
"*.*.ssn" = "pii.ssn"
"*.*.email" = "pii.email"
"public.salaries.amount" = "pay.amount"
"#;

pub struct World {
    sides: Vec<Side>,
    gateway: Gateway,
    _issuer: Issuer,
}

/// One server, as a client sees it through the gateway.
pub struct Side {
    /// `15`, `18`.
    pub target: String,
    /// Through the gateway, with what every program finds in its environment.
    pub dial: Dial,
    /// An empty database of the same server, through the gateway.
    pub empty: Dial,
    pub server: Postgres,
    pub scratch: TempDir,
}

/// What a client said, by target.
pub type Said = BTreeMap<String, String>;

impl World {
    pub fn start(client: &str) -> Self {
        let authority = Authority::new("clients").unwrap();
        let flavors = [Flavor::System, Flavor::Eighteen];
        let servers: Vec<Postgres> = thread::scope(|scope| {
            let start = |flavor| {
                let authority = &authority;
                scope.spawn(move || Postgres::with(authority, &Options::flavor(flavor)).unwrap())
            };
            flavors.map(start).into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let issuer = Issuer::start().unwrap();
        let mut spec = Spec::new(&servers[0], &issuer).policy("clients.cedar", POLICY);
        spec.resources.clear();
        for server in &servers {
            server.admin("postgres").psql_rows("CREATE DATABASE empty OWNER shop").unwrap();
            let name = format!("pg{}", server.version());
            let usual = ResourceSpec::new(&name, server, "bulla_scram", "scram secret");
            let mut empty = usual.clone();
            empty.name = format!("{name}_empty");
            empty.database = "empty".to_owned();
            spec.resources.extend([usual, empty]);
        }
        let gateway = Gateway::start(&authority, spec).unwrap();
        let sides = servers.into_iter().map(|server| {
            let target = server.version().to_string();
            let subject = format!("{}-{target}", client.replace(' ', "-"));
            issuer.register(&subject, "secret", serde_json::json!({ "team": "clients" }));
            let token = issuer.mint().unwrap().subject(&subject).claim("team", "clients");
            let token = token.token().unwrap();
            let scratch = TempDir::new("client").unwrap();
            let dial = gateway
                .dial_resource(&format!("pg{target}"), &token)
                .env("BULLA_CLIENT", &subject)
                .env("BULLA_TOKENS", &format!("{}/token", issuer.url()))
                .env("BULLA_SCRATCH", &scratch.path().to_string_lossy());
            let empty = gateway.dial_resource(&format!("pg{target}_empty"), &token);
            Side { target, dial, empty, server, scratch }
        });
        let sides = sides.collect();
        Self { sides, gateway, _issuer: issuer }
    }

    /// One server whose masks are in force for everybody.
    pub fn masked() -> (Postgres, Gateway, Issuer) {
        let authority = Authority::new("masked-clients").unwrap();
        let server = Postgres::with(&authority, &Options::flavor(Flavor::System)).unwrap();
        let issuer = Issuer::start().unwrap();
        let mut spec = Spec::new(&server, &issuer).policy("clients.cedar", MASKED);
        let mut resource = ResourceSpec::new("pg15", &server, "bulla_scram", "scram secret");
        resource.more = COLUMNS.to_owned();
        spec.resources = vec![resource];
        spec.last = CLASSES.to_owned();
        let gateway = Gateway::start(&authority, spec).unwrap();
        (server, gateway, issuer)
    }

    /// Runs a client against both servers at once.
    pub fn both(&self, run: impl Fn(&Side) -> String + Sync) -> Said {
        thread::scope(|scope| {
            let run = &run;
            let threads: Vec<_> = self
                .sides
                .iter()
                .map(|side| (side.target.clone(), scope.spawn(move || run(side))))
                .collect();
            threads.into_iter().map(|(target, thread)| (target, thread.join().unwrap())).collect()
        })
    }

    pub fn side(&self, number: usize) -> &Side {
        &self.sides[number]
    }

    pub fn log(&self) -> String {
        self.gateway.log()
    }

    /// Nothing forbidden arrived, and the record of all that is whole.
    pub fn verified(&self) {
        for side in &self.sides {
            let log = side.server.log();
            assert!(
                !log.contains("SELECT employee"),
                "a refused statement reached {}",
                side.target
            );
        }
        assert!(self.gateway.terminate().unwrap().success(), "{}", self.gateway.log());
        let args = ["log", "verify", "data/archive", "--key", "data/log.vkey"];
        let done = cli_in(self.gateway.dir().path(), &args).unwrap();
        assert_eq!(done.code(), 0, "{}{}", done.out(), done.err());
    }
}
