//! The way in on both sides: how the gateway proves itself to a target, and clients that prove
//! themselves by a certificate.

#![allow(clippy::unwrap_used, clippy::panic)]

use bulla_e2e::agent::{Agent, AgentSpec};
use bulla_e2e::ca::{Authority, Wish};
use bulla_e2e::gateway::{Gateway, ResourceSpec, Spec, TrustDomainSpec, cli_in};
use bulla_e2e::issuer::Issuer;
use bulla_e2e::place::TempDir;
use bulla_e2e::postgres::{Flavor, Options, Postgres};
use bulla_e2e::vault::Vault;

const EVERYTHING: &str = r#"
@id("everything")
permit (principal, action, resource);
"#;

fn verified(gateway: &Gateway) {
    assert!(gateway.terminate().unwrap().success(), "{}", gateway.log());
    let args = ["log", "verify", "data/archive", "--key", "data/log.vkey"];
    let done = cli_in(gateway.dir().path(), &args).unwrap();
    assert_eq!(done.code(), 0, "{}{}", done.out(), done.err());
}

/// Every kind of login that a server may ask for, and what goes wrong with it.
fn check_target(flavor: Flavor, version: u32) {
    let authority = Authority::new("logins").unwrap();
    let stranger = Authority::new("stranger").unwrap();
    let options = Options::flavor(flavor).set("log_connections", "on");
    let server = Postgres::with(&authority, &options).unwrap();
    let issuer = Issuer::start().unwrap();
    let mut spec = Spec::new(&server, &issuer).policy("all.cedar", EVERYTHING);
    let leaf = authority.issue(&Wish::client("bulla_cert")).unwrap();
    let dir = TempDir::new("leaf").unwrap();
    let (cert, key) = leaf.write(&dir, "client").unwrap();
    let text = |path| std::fs::read_to_string(path).unwrap();
    let pair = (text(cert), text(key));
    let (cert, key) =
        stranger.issue(&Wish::client("bulla_cert")).unwrap().write(&dir, "other").unwrap();
    let other = (text(cert), text(key));

    let resource = |name: &str, user: &str, password: Option<&str>| {
        let mut resource = ResourceSpec::new(name, &server, user, "");
        resource.password = password.map(Into::into);
        resource
    };
    let mut cert = resource("cert", "bulla_cert", None);
    cert.identity = Some(pair);
    let mut forged = resource("forged", "bulla_cert", None);
    forged.identity = Some(other);
    let mut foreign = resource("foreign", "bulla_scram", Some("scram secret"));
    foreign.root = stranger.pem();
    let mut unnamed = resource("unnamed", "bulla_scram", Some("scram secret"));
    unnamed.host = "127.0.0.2".into();
    let mut plain = resource("clear", "bulla_scram", Some("scram secret"));
    plain.tls = "off".into();
    spec.resources = vec![
        resource("scram", "bulla_scram", Some("scram secret")),
        resource("md5", "bulla_md5", Some("md5 secret")),
        resource("password", "bulla_plain", Some("plain secret")),
        resource("trust", "bulla_trust", None),
        cert,
        plain,
        resource("wrong", "bulla_scram", Some("another secret")),
        resource("nobody", "no_such_role", Some("scram secret")),
        resource("unarmed", "bulla_scram", None),
        forged,
        foreign,
        unnamed,
    ];
    let gateway = Gateway::start(&authority, spec).unwrap();
    let token = issuer.mint().unwrap().subject("billing/api").token().unwrap();
    let run = |name: &str| {
        let done = gateway.dial_resource(name, &token).psql(&["SELECT current_user"]).unwrap();
        format!("{}{}", done.out(), done.err())
    };
    for (name, user) in [
        ("scram", "bulla_scram"),
        ("md5", "bulla_md5"),
        ("password", "bulla_plain"),
        ("trust", "bulla_trust"),
        ("cert", "bulla_cert"),
        ("clear", "bulla_scram"),
    ] {
        let seen = run(name);
        assert!(seen.contains(user), "{name} on {version}: {seen}\n{}", gateway.log());
    }
    for name in ["wrong", "nobody", "unarmed", "forged", "foreign", "unnamed"] {
        let seen = run(name);
        assert!(seen.contains(&format!("could not reach `{name}`")), "{name}: {seen}");
        for word in ["secret", "bulla_scram", "bulla_cert", "127.0.0.2", "no_such_role"] {
            assert!(!seen.contains(word), "`{word}` of the target is told for {name}: {seen}");
        }
    }
    for word in ["scram secret", "md5 secret", "plain secret", "another secret"] {
        assert!(!gateway.log().contains(word), "`{word}` is in the gateway's log");
    }
    assert_eq!(server.version(), version);
    verified(&gateway);
}

#[test]
fn every_login_of_postgresql_15() {
    check_target(Flavor::System, 15);
}

#[test]
fn every_login_of_postgresql_18() {
    check_target(Flavor::Eighteen, 18);
}

#[test]
fn a_certificate_is_an_identity() {
    let authority = Authority::new("mesh").unwrap();
    let (mesh, stranger) = (Authority::new("mesh").unwrap(), Authority::new("mesh").unwrap());
    let server = Postgres::start(&authority).unwrap();
    let issuer = Issuer::start().unwrap();
    let policy = r#"
@id("mesh")
permit (principal == Bulla::Workload::"mesh|ns/billing/sa/api", action, resource);
"#;
    let mut spec = Spec::new(&server, &issuer).policy("all.cedar", policy);
    spec.trust_domains.push(TrustDomainSpec {
        alias: "mesh".into(),
        trust_domain: "mesh.example".into(),
        bundle: mesh.pem(),
    });
    let gateway = Gateway::start(&authority, spec).unwrap();
    let dir = TempDir::new("mesh").unwrap();
    let id = "spiffe://mesh.example/ns/billing/sa/api";
    let run = |name: &str, by: &Authority, wish: Wish, password: &str| {
        let (cert, key) = by.issue(&wish).unwrap().write(&dir, name).unwrap();
        let dial = gateway.dial(password).identity(&cert, &key);
        let done = dial.psql(&["SELECT count(*) FROM customers"]).unwrap();
        (done.code(), format!("{}{}", done.out(), done.err()))
    };
    let (code, seen) = run("good", &mesh, Wish::spiffe(id).unwrap(), "");
    assert!(code == 0 && seen.contains('4'), "{seen}\n{}", gateway.log());
    let wish = |id: &str| Wish::spiffe(id).unwrap();
    for (name, by, wish) in [
        ("another authority", &stranger, wish(id)),
        ("another trust domain", &mesh, wish("spiffe://other.example/ns/billing/sa/api")),
        ("another path", &mesh, wish("spiffe://mesh.example/ns/billing/sa/api2")),
        ("two ids", &mesh, wish(id).and_uri("spiffe://mesh.example/ns/a/sa/b").unwrap()),
        ("expired", &mesh, wish(id).expired()),
        ("no id", &mesh, Wish::client("billing")),
        ("a server's", &mesh, Wish::server().unwrap()),
    ] {
        let (code, seen) = run("bad", by, wish, "");
        assert_eq!(code, 2, "{name}: {seen}");
    }
    // A certificate does not lend weight to a token that is not good.
    let (code, seen) = run("both", &stranger, wish(id), "not.a.token");
    assert_eq!(code, 2, "{seen}");
    let listed = gateway.cli(&["sessions", "ls"]).unwrap().success().unwrap();
    assert!(listed.contains("mesh|ns/billing/sa/api"), "{listed}");
    verified(&gateway);
}

#[test]
fn a_vault_holds_the_password() {
    let authority = Authority::new("vault").unwrap();
    let stranger = Authority::new("stranger").unwrap();
    let server = Postgres::start(&authority).unwrap();
    let issuer = Issuer::start().unwrap();
    let vault = Vault::start(&authority).unwrap();
    vault.put("orders", "scram secret").unwrap();
    let resource = |name: &str, table: String| {
        let mut resource = ResourceSpec::new(name, &server, "bulla_scram", "");
        (resource.password, resource.vault) = (None, Some(table));
        resource
    };
    let mut spec = Spec::new(&server, &issuer).policy("all.cedar", EVERYTHING);
    spec.resources = vec![
        resource("good", vault.table("orders", "password", &authority).unwrap()),
        resource("path", vault.table("elsewhere", "password", &authority).unwrap()),
        resource("field", vault.table("orders", "passphrase", &authority).unwrap()),
        resource("forged", vault.table("orders", "password", &stranger).unwrap()),
    ];
    // The same through an agent: the vault's token is beside the target, too.
    let mut far = resource("far", vault.table("orders", "password", &authority).unwrap());
    let target = far.clone();
    far.agents = vec!["eu-1".into()];
    spec.resources.push(far);
    let gateway = Gateway::start(&authority, spec).unwrap();
    let token = gateway.join_token("eu-1").unwrap();
    let agent = Agent::start(&AgentSpec::new("eu-1", gateway.agents_port(), &token, &target));
    let agent = agent.unwrap();
    gateway.wait_agents(1).unwrap();

    let token = issuer.mint().unwrap().subject("billing/api").token().unwrap();
    let run = |name: &str| {
        let done = gateway.dial_resource(name, &token).psql(&["SELECT current_user"]).unwrap();
        format!("{}{}", done.out(), done.err())
    };
    let is_in = |names: &[&str], want: bool| {
        for name in names {
            let seen = run(name);
            let words = format!("could not reach `{name}`");
            assert_eq!(seen.contains("bulla_scram"), want, "{name}: {seen}\n{}", gateway.log());
            assert_eq!(seen.contains(&words), !want, "{name}: {seen}");
        }
    };
    is_in(&["good", "far"], true);
    is_in(&["path", "field", "forged"], false);
    for words in ["answers 404", "lacks the field", "ask the vault"] {
        assert!(gateway.log().contains(words), "{words}: {}", gateway.log());
    }
    // Rotated in place: the next login reads the new one, and an old one is not kept.
    server.sql("ALTER ROLE bulla_scram PASSWORD 'rotated secret'").unwrap();
    is_in(&["good", "far"], false);
    vault.put("orders", "rotated secret").unwrap();
    is_in(&["good", "far"], true);
    // A token that is worth nothing is told apart, and so is a vault that is away.
    vault.set_token(Some("worth-nothing")).unwrap();
    is_in(&["good", "far"], false);
    assert!(gateway.log().contains("answers 403"), "{}", gateway.log());
    vault.set_token(None).unwrap();
    is_in(&["good", "far"], true);
    drop(vault);
    is_in(&["good", "far"], false);
    for word in ["scram secret", "rotated secret", "worth-nothing"] {
        assert!(!gateway.log().contains(word), "`{word}` is in the gateway's log");
        assert!(!agent.log().contains(word), "`{word}` is in the agent's log");
    }
    verified(&gateway);
}
