//! The demo: everything around the gateway, and one walk through what it does.
//!
//! Run it with `cargo xtask demo`. Each step says what it expects, shows what came, and gets a
//! tick or a cross. The exit code is 0 only if every step got its tick.

use std::fmt::Write as _;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bulla_e2e::agent::{Agent, AgentSpec};
use bulla_e2e::ca::Authority;
use bulla_e2e::client::{Dial, http, program};
use bulla_e2e::gateway::{Gateway, Spec, binary, cli_in};
use bulla_e2e::http::{Nginx, Raw, curl};
use bulla_e2e::issuer::Issuer;
use bulla_e2e::mint::{Alg, Key};
use bulla_e2e::place::{Port, TempDir};
use bulla_e2e::postgres::Postgres;
use bulla_e2e::proc::{Captured, Proc, capture};
use bulla_e2e::ssh::{self, Sshd};
use serde_json::{Value, json};

const POLICY: &str = r#"
@id("billing-reads")
permit (
    principal in Bulla::Group::"team:billing",
    action == Bulla::Action::"postgres:select",
    resource is Bulla::Table
) when {
    [Bulla::Table::"orders.public.customers", Bulla::Table::"orders.public.orders",
     Bulla::Table::"orders.public.payments"].contains(resource)
};

@id("payments-need-a-human") @hold("dba") @expires("15m")
permit (
    principal in Bulla::Group::"team:billing",
    action == Bulla::Action::"postgres:update",
    resource == Bulla::Table::"orders.public.payments"
);
"#;

const SHOP_POLICY: &str = r#"
@id("shop-session")
permit (principal in Bulla::Group::"team:billing", action == Bulla::Action::"connect",
        resource == Bulla::Resource::"shop");

@id("shop-reads")
permit (principal in Bulla::Group::"team:billing", action in Bulla::Action::"http:read",
        resource in Bulla::Resource::"shop");

@id("refunds-need-a-human") @hold("finance") @expires("15m")
permit (principal in Bulla::Group::"team:billing", action == Bulla::Action::"http:post",
        resource == Bulla::Route::"shop./api/refunds");
"#;

const HOST_POLICY: &str = r#"
@id("host-session")
permit (principal in Bulla::Group::"team:billing", action == Bulla::Action::"connect",
        resource == Bulla::Resource::"web");

@id("host-looks")
permit (principal in Bulla::Group::"team:billing", action == Bulla::Action::"ssh:exec",
        resource)
when { context has program && ["uname", "uptime"].contains(context.program) };
"#;

const USAGE: &str = "usage: bulla-demo [--keep]";

/// What a service needs to fetch tokens.
const CLIENT: (&str, &str) = ("billing-api", "demo-secret");

/// Exit code of `bulla log verify` for a log that was changed.
const TAMPERED: i32 = 10;

const SOON: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let keep = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--keep"] => true,
        ["-h" | "--help"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(keep) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("\n{failed} of the demo's expectations did not hold");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("\ndemo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(keep: bool) -> Result<u32> {
    let mut show = Show::new();
    binary()?;
    show.title("What is started, all of it on this machine and thrown away afterwards");
    let mut world = World::start(&mut show)?;
    show.title("A service at work: it changes its connection string and nothing else");
    let token = reads(&world, &mut show)?;
    show.title("What it may not do");
    refusals(&world, &token, &mut show)?;
    show.title("What needs a human");
    held(&world, &token, &mut show)?;
    show.title("An HTTP API, through the same gate");
    api(&world, &token, &mut show)?;
    show.title("A host, by the ssh that everybody has");
    host(&world, &token, &mut show)?;
    show.title("Who may not come in");
    strangers(&world, &mut show)?;
    show.title("What needs no open port: an agent beside the database");
    agent(&world, &token, &mut show)?;
    show.title("What is on record");
    record(&world, &mut show)?;
    show.title("What nobody can change unseen");
    tampering(&world, &mut show)?;
    show.summary();
    if keep {
        world.gateway.restart()?;
        keep_running(&world, &mut show)?;
    } else {
        show.say("To try it by hand: cargo xtask demo --keep");
    }
    Ok(show.failed)
}

/// Everything that runs while the demo does.
struct World {
    server: Postgres,
    issuer: Issuer,
    nginx: Nginx,
    shop: Port,
    sshd: Sshd,
    web: Port,
    authority: Authority,
    gateway: Gateway,
    /// What the configuration names and the gateway reads again and again.
    _files: TempDir,
}

impl World {
    fn start(show: &mut Show) -> Result<Self> {
        let authority = Authority::new("bulla demo")?;
        let server = Postgres::start(&authority)?;
        let facts = format!("PostgreSQL {} on port {}", server.version(), server.port());
        show.tick(&format!("{facts}, with customers, orders, payments and salaries"));
        let issuer = Issuer::start()?;
        let (id, secret) = CLIENT;
        issuer.register(id, secret, json!({ "team": "billing" }));
        show.tick(&format!("an identity provider (OIDC) on {}", issuer.url()));
        let (nginx, shop, dir) = (Nginx::start(&authority)?, Port::new()?, TempDir::new("shop")?);
        show.tick(&format!("an HTTP API (nginx) on port {}", nginx.port()));
        let (sshd, web, account) = (Sshd::start()?, Port::new()?, ssh::me()?);
        show.tick(&format!("a host (OpenSSH) on port {}", sshd.port()));
        let mut spec = Spec::new(&server, &issuer)
            .policy("orders.cedar", POLICY)
            .policy("shop.cedar", SHOP_POLICY)
            .policy("web.cedar", HOST_POLICY);
        spec.last = format!(
            "[resources.shop]\nprotocol = \"http\"\nlisten = \"127.0.0.1:{}\"\n\
             target = {{ host = \"localhost\", port = {}, ca = {:?} }}\n\
             login = {{ password_file = {:?} }}\n[resources.shop.http]\nlogin = \"bearer\"\n",
            shop.number(),
            nginx.port(),
            dir.write("shop.root.pem", authority.pem())?,
            dir.write("shop.secret", "the-apis-own-key")?,
        );
        write!(
            spec.last,
            "[ssh]\nnames = [\"localhost\"]\n[resources.web]\nprotocol = \"ssh\"\n\
             listen = \"127.0.0.1:{}\"\ntarget = {{ host = \"127.0.0.1\", port = {} }}\n\
             login = {{ user = {account:?} }}\n[resources.web.ssh]\nhost_keys = [{:?}]\n",
            web.number(),
            sshd.port(),
            sshd.host_key(),
        )?;
        let gateway = Gateway::start(&authority, spec)?;
        sshd.trust(&gateway.cli(&["ssh", "target-ca"])?.success()?)?;
        let port = gateway.dial("").port;
        show.tick(&format!("the gateway on port {port}, before the database `orders`"));
        let words = format!("and on port {}, before the API `shop`", shop.number());
        show.tick(&words);
        show.tick(&format!("and on port {}, before the host `web`", web.number()));
        Ok(Self { server, issuer, nginx, shop, sshd, web, authority, gateway, _files: dir })
    }

    /// A token, fetched as a service would.
    fn fetch_token(&self) -> Result<String> {
        let (id, secret) = CLIENT;
        let form = format!("grant_type=client_credentials&client_id={id}&client_secret={secret}");
        let (status, body) = http("POST", &format!("{}/token", self.issuer.url()), &form)?;
        ensure!(status == 200, "the identity provider answered {status}: {body}");
        let answer: Value = serde_json::from_str(&body).context("read the token's answer")?;
        Ok(answer["access_token"].as_str().context("a token")?.to_owned())
    }
}

fn reads(world: &World, show: &mut Show) -> Result<String> {
    let token = world.fetch_token()?;
    show.tick("it fetched a token that lives ten minutes; that is its password");
    let dial = world.gateway.dial(&token);
    let ask = "SELECT id, name, region FROM customers ORDER BY id LIMIT 3";
    let answer = show.ask(&dial, ask)?;
    show.expect(&answer, 0, &["Ada", "Grace"], "a read that policy permits returns its rows");
    let ask = "SELECT c.name, o.item, o.quantity FROM orders o \
               JOIN customers c ON c.id = o.customer_id ORDER BY o.id";
    let answer = show.ask(&dial, ask)?;
    show.expect(&answer, 0, &["punch cards", "5000"], "so does a join");
    Ok(token)
}

fn refusals(world: &World, token: &str, show: &mut Show) -> Result<()> {
    let dial = world.gateway.dial(token);
    let answer = show.ask(&dial, "DELETE FROM customers WHERE id = 7")?;
    show.expect(&answer, 1, &["refused", "HINT"], "a write is refused, with the reason");
    let answer = show.ask(&dial, "SELECT * FROM salaries")?;
    let salaries = ["refused", "salaries", "HINT"];
    show.expect(&answer, 1, &salaries, "so is a table that no policy permits");
    let log = world.server.log();
    let reached = log.contains("DELETE FROM customers") || log.contains("FROM salaries");
    show.check(!reached, "the database's own log has neither: they never reached it");
    Ok(())
}

fn held(world: &World, token: &str, show: &mut Show) -> Result<()> {
    let update = "UPDATE payments SET state = 'void' WHERE id = 42";
    let dial = world.gateway.dial(token);
    show.prompt(update);
    let mut psql = dial.command(&program("psql")?);
    psql.args(["-X", "-c", update]);
    let waiting = Proc::spawn("psql", psql)?;
    let notice = waiting.wait_line("waiting for approval", SOON)?;
    show.lines(&notice);
    let id = approval_id(&notice)?;
    let before = world.server.sql("SELECT state FROM payments WHERE id = 42")?;
    show.check(before == "open", "the update waits at the gateway; the payment is still open");

    let seen = show.bulla(world.gateway.dir().path(), &["approvals", "show", &id])?;
    show.expect(&seen, 0, &["UPDATE payments"], "an operator sees exactly what would run");
    let approved = show.bulla(world.gateway.dir().path(), &["approvals", "approve", &id])?;
    show.expect(&approved, 0, &[], "and approves it, from another process");
    let status = waiting.wait(SOON)?;
    let answer = waiting.log();
    show.lines(answer.lines().last().unwrap_or_default());
    let after = world.server.sql("SELECT state FROM payments WHERE id = 42")?;
    let done = status.success() && answer.contains("UPDATE 1") && after == "void";
    show.check(done, "the same statement goes through, once");
    Ok(())
}

fn host(world: &World, token: &str, show: &mut Show) -> Result<()> {
    let (dir, account) = (TempDir::new("demo-ssh")?, ssh::me()?);
    ssh::set_up(&world.gateway, &dir, world.web.number(), &account, token)?;
    show.say("    $ bulla ssh login --gateway localhost:… --token-file token --key id");
    show.check(dir.join("id-cert.pub").is_file(), "a token becomes a certificate for 15 minutes");
    let ask = |show: &Show, line: &str| -> Result<Captured> {
        show.say(&format!("    $ ssh web {line}"));
        let mut command = Command::new(program("ssh")?);
        command.arg("-F").arg(dir.join("config")).args(["web", line]).env_remove("SSH_AUTH_SOCK");
        let answer = capture(command, None, SOON)?;
        show.lines(&answer.out());
        show.lines(&answer.err());
        Ok(answer)
    };
    let answer = ask(show, "uname -s")?;
    show.expect(&answer, 0, &["Linux"], "a command that a rule names runs");
    let own = world.sshd.log().contains("ID bed|");
    show.check(own, "the host let the gateway in, for this principal and this session");
    let words = ["bulla: refused: `EXEC`", "no policy permits"];
    let answer = ask(show, "id")?;
    show.expect(&answer, 126, &words, "another does not: one line, and exit status 126");
    let answer = ask(show, "uname; id")?;
    show.expect(&answer, 126, &words, "and hides behind no shell's grammar");
    Ok(())
}

fn api(world: &World, token: &str, show: &mut Show) -> Result<()> {
    let auth = format!("authorization: Bearer {token}");
    let root = world.gateway.root_pem();
    let ask = |show: &Show, line: &str, path: &str, args: &[&str]| -> Result<Captured> {
        show.say(&format!("    $ curl -H \"authorization: Bearer $TOKEN\" {line}"));
        let url = format!("https://localhost:{}{path}", world.shop.number());
        let mut all = vec!["-H", auth.as_str()];
        all.extend(args);
        let answer = curl(&root, &url, &all)?;
        show.lines(answer.out().lines().last().unwrap_or_default());
        Ok(answer)
    };
    let answer = ask(show, "…/api/orders/7", "/api/orders/7", &[])?;
    show.expect(&answer, 0, &["HTTP/2 200", "/api/orders/7"], "a read goes through");
    let own = world.nginx.wait_logged("/api/orders/7 HTTP/2.0 200 Bearer the-apis-own-key").is_ok();
    show.check(own, "the API's log has its own key: the caller's token went no further");
    let answer = ask(show, "-X DELETE …/api/orders/7", "/api/orders/7", &["-X", "DELETE"])?;
    let denied = ["HTTP/2 403", "no policy permits it", "event"];
    show.expect(
        &answer,
        0,
        &denied,
        "a write is refused, with the rule and the entry to ask about",
    );
    let refund = ["-H", "content-type: application/json", "-d", "{\"order\":7,\"amount\":40}"];
    let line = "-d '{\"order\":7,\"amount\":40}' …/api/refunds";
    let held = ask(show, line, "/api/refunds", &refund)?;
    let waits = ["HTTP/2 403", "approval-required"];
    show.expect(&held, 0, &waits, "a refund waits for a human, and says for which approval");
    let held = held.out();
    let id = held.split("\"approval\":\"").nth(1).and_then(|rest| rest.split('"').next());
    let id = id.context("an approval in the answer")?;
    let dir = world.gateway.dir().path();
    let seen = show.bulla(dir, &["approvals", "show", id])?;
    show.expect(&seen, 0, &["POST /api/refunds", "40"], "an operator sees the very request");
    show.expect(&show.bulla(dir, &["approvals", "approve", id])?, 0, &[], "and approves it");
    let until = Instant::now() + SOON;
    let mut answer = ask(show, line, "/api/refunds", &refund)?;
    while !answer.out().contains("HTTP/2 200") && Instant::now() < until {
        answer = ask(show, line, "/api/refunds", &refund)?;
    }
    show.expect(&answer, 0, &["HTTP/2 200", "POST"], "the same request goes through, once");
    let mut raw = Raw::connect(world.shop.number(), &world.authority, "localhost", &[])?;
    show.say("    a request that hides another: Content-Length and Transfer-Encoding");
    raw.send(format!(
        "POST /api/orders HTTP/1.1\r\nhost: localhost\r\n{auth}\r\ncontent-length: 4\r\n\
         transfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /api/hidden HTTP/1.1\r\n\r\n"
    ))?;
    let answer = String::from_utf8_lossy(&raw.rest()).into_owned();
    show.lines(answer.lines().next().unwrap_or_default());
    let log = world.nginx.access_log();
    let kept = answer.contains(" 400 ") && !log.contains("hidden") && log.contains("/api/orders/7");
    show.check(kept, "it is refused; the API's own log has neither of the two");
    Ok(())
}

/// The word after "approval" in the notice: `waiting for approval 7F3K-2Q (1 of group dba)`.
fn approval_id(notice: &str) -> Result<String> {
    let (_, after) = notice.split_once("approval ").context("an approval in the notice")?;
    let id: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '-').collect();
    ensure!(!id.is_empty(), "no id in `{notice}`");
    Ok(id)
}

fn strangers(world: &World, show: &mut Show) -> Result<()> {
    let ours = world.issuer.mint()?.subject(CLIENT.0).claim("team", "billing");
    let forger = std::sync::Arc::new(Key::generate(Alg::Es256, "forger")?);
    let forged = ours.clone().signed_by(&forger).token()?;
    let old = ours.clone().issued(-1200).expires(-600).token()?;
    let other = ours.claim("aud", "another-service").token()?;
    for (token, what) in [
        (forged, "a forged token: the right words, signed by somebody else"),
        (old, "an expired token"),
        (other, "a token made for another service"),
    ] {
        let answer = show.ask(&world.gateway.dial(&token), "SELECT 1")?;
        show.expect(&answer, 2, &["FATAL"], &format!("{what} is refused"));
    }
    let plain = world.gateway.dial("x").sslmode("disable");
    let answer = show.ask(&plain, "SELECT 1")?;
    show.expect(&answer, 2, &["FATAL", "TLS"], "without TLS nobody is even asked who they are");
    Ok(())
}

/// A gateway of its own that knows neither the database's address nor its password.
fn agent(world: &World, token: &str, show: &mut Show) -> Result<()> {
    let mut spec = Spec::new(&world.server, &world.issuer).policy("orders.cedar", POLICY);
    let target = spec.resources.first().context("a resource")?.clone();
    let only = spec.resources.first_mut().context("a resource")?;
    only.agents = vec!["eu-1".to_owned()];
    let gateway = Gateway::start(world.gateway.authority(), spec)?;
    let (dir, dial) = (gateway.dir().path(), gateway.dial(token));
    let toml = fs::read_to_string(gateway.dir().join("bulla.toml"))?;
    let knows = toml.contains("login =") || toml.contains(&world.server.port().to_string());
    show.check(!knows, "another gateway, without the database's address and password");
    let ask = "SELECT id, name, region FROM customers ORDER BY id LIMIT 3";
    let answer = show.ask(&dial, ask)?;
    show.expect(&answer, 2, &["agent `eu-1` is offline"], "alone it reaches nothing, and says so");

    let join = gateway.join_token("eu-1")?;
    // It is a secret, so it is not shown.
    show.check(join.starts_with("bulla-join-1."), "a join token: good once, for ten minutes");
    let port = gateway.agents_port();
    let agent = Agent::start(&AgentSpec::new("eu-1", port, &join, &target))?;
    gateway.wait_agents(1)?;
    let listed = show.bulla(dir, &["agents", "ls"])?;
    show.expect(&listed, 0, &["eu-1", "online"], "the agent dials out, enrols, and is there");
    let answer = show.ask(&dial, ask)?;
    show.expect(
        &answer,
        0,
        &["Ada", "Grace"],
        "through it the same rows come, logged in over there",
    );
    let answer = show.ask(&dial, "SELECT * FROM salaries")?;
    show.expect(
        &answer,
        1,
        &["refused", "salaries"],
        "and the same refusals, from the same policy",
    );

    let revoked = show.bulla(dir, &["agents", "revoke", "eu-1"])?;
    show.expect(&revoked, 0, &["1 revoked"], "revoked, it is out at once");
    gateway.wait_agents(0)?;
    let answer = show.ask(&dial, ask)?;
    show.expect(&answer, 2, &["agent `eu-1` is offline"], "and nothing passes any more");
    agent.kill()?;
    Ok(())
}

fn record(world: &World, show: &mut Show) -> Result<()> {
    let dir = world.gateway.dir().path();
    let listed = show.bulla(dir, &["sessions", "ls"])?;
    show.expect(&listed, 0, &[CLIENT.0, "orders"], "every session, with who and how much");
    let session = session_with(world, "FROM orders o")?;
    let shown = show.bulla(dir, &["sessions", "show", &session])?;
    show.expect(&shown, 0, &["billing-reads", "FROM orders o"], "every command, with the policy");
    let replayed = show.bulla(dir, &["sessions", "replay", &session])?;
    show.expect(&replayed, 0, &["punch cards", "5000"], "and the rows that really went out");
    Ok(())
}

/// The session in which a statement ran.
fn session_with(world: &World, statement: &str) -> Result<String> {
    let dir = world.gateway.dir().path();
    let listed = cli_in(dir, &["sessions", "ls", "--json"])?.success()?;
    for id in session_ids(&listed)? {
        if cli_in(dir, &["sessions", "show", &id])?.success()?.contains(statement) {
            return Ok(id);
        }
    }
    bail!("no session holds `{statement}`: {listed}")
}

/// The ids in `sessions ls --json`: an array, or one object a line.
fn session_ids(listed: &str) -> Result<Vec<String>> {
    let sessions: Vec<Value> = match serde_json::from_str(listed) {
        Ok(Value::Array(sessions)) => sessions,
        Ok(one @ Value::Object(_)) => match one.get("sessions").and_then(Value::as_array) {
            Some(sessions) => sessions.clone(),
            None => vec![one],
        },
        _ => listed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?,
    };
    let id = |session: &Value| {
        ["session", "id"].iter().find_map(|key| Some(session.get(key)?.as_str()?.to_owned()))
    };
    sessions.iter().map(|session| id(session).context("a session's id")).collect()
}

fn tampering(world: &World, show: &mut Show) -> Result<()> {
    let dir = TempDir::new("auditor")?;
    // The auditor works on copies: of the archive, and of the key that was handed over long ago.
    let status = world.gateway.terminate()?;
    show.check(status.success(), "the gateway drains and ends");
    copy(&world.gateway.archive(), &dir.join("archive"))?;
    copy(&world.gateway.log_key(), &dir.join("log.vkey"))?;
    let verify = ["log", "verify", "archive", "--key", "log.vkey"];
    let verified = show.bulla(dir.path(), &verify)?;
    let what = "the whole log verifies offline, with nothing but a public key";
    show.expect(&verified, 0, &["complete and untampered"], what);

    let (file, offset) = flip_one_byte(&dir.join("archive"))?;
    let name = file.strip_prefix(dir.path()).unwrap_or(&file).display().to_string();
    show.say(&format!("now one bit is flipped: {name}, byte {offset}"));
    let verified = show.bulla(dir.path(), &verify)?;
    let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let what = "verification says so, and names the place (exit 10)";
    show.expect(&verified, TAMPERED, &["TAMPERED", &file], what);
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().context("run cp")?;
    ensure!(status.success(), "copy {}: {status}", from.display());
    Ok(())
}

/// Flips a bit in the middle of the largest bundle of entries (tlog-tiles: `tile/entries/…`).
fn flip_one_byte(archive: &Path) -> Result<(PathBuf, usize)> {
    let mut bundles: Vec<(u64, PathBuf)> = Vec::new();
    let mut folders = vec![archive.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().contains("tile/entries/") {
                bundles.push((path.metadata()?.len(), path));
            }
        }
    }
    let (_, file) = bundles.into_iter().max().context("an archive with entries")?;
    let mut bytes = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
    let offset = bytes.len() / 2;
    *bytes.get_mut(offset).context("a byte to flip")? ^= 1;
    fs::write(&file, bytes).with_context(|| format!("write {}", file.display()))?;
    Ok((file, offset))
}

/// Says how to try it by hand, and waits for Ctrl-C.
fn keep_running(world: &World, show: &mut Show) -> Result<()> {
    let (id, secret) = CLIENT;
    let form = format!("grant_type=client_credentials&client_id={id}&client_secret={secret}");
    let token = r#"sed 's/.*"access_token":"\([^"]*\)".*/\1/'"#;
    let dir = world.gateway.dir().path();
    show.title("To try by hand, while this runs");
    show.say(&format!(
        "  export PGPASSWORD=$(curl -s -d '{form}' {}/token | {token})",
        world.issuer.url()
    ));
    show.say(&format!("  psql '{}'", world.gateway.dial("").uri()));
    show.say(&format!("  cd {} && {} sessions ls", dir.display(), binary()?.display()));
    show.say("\nCtrl-C ends it and removes everything.");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("start a runtime")?;
    runtime.block_on(tokio::signal::ctrl_c()).context("wait for Ctrl-C")
}

/// How many lines of an answer are shown.
const SHOWN_LINES_MAX: usize = 24;

/// What the viewer sees, and whether it was what was promised.
struct Show {
    colours: bool,
    started: Instant,
    passed: u32,
    failed: u32,
}

impl Show {
    fn new() -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { colours, started: Instant::now(), passed: 0, failed: 0 }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn say(&self, text: &str) {
        println!("{text}");
    }

    fn title(&self, text: &str) {
        println!("\n{}", self.paint("1", text));
    }

    fn tick(&mut self, what: &str) {
        self.check(true, what);
    }

    fn check(&mut self, held: bool, what: &str) {
        if held {
            self.passed += 1;
            println!("  {} {what}", self.paint("32", "✓"));
        } else {
            self.failed += 1;
            println!("  {} {what}", self.paint("31", "✗"));
        }
    }

    /// A tick if the program ended with this code and its answer holds every one of these.
    fn expect(&mut self, answer: &Captured, code: i32, needles: &[&str], what: &str) {
        let text = format!("{}{}", answer.out(), answer.err());
        let missing: Vec<&&str> =
            needles.iter().filter(|needle| !text.contains(**needle)).collect();
        let held = answer.code() == code && missing.is_empty();
        self.check(held, what);
        if !held {
            println!("    expected exit {code} with {needles:?}");
            println!("    got exit {} without {missing:?}", answer.code());
        }
    }

    fn prompt(&self, statement: &str) {
        println!("    {}{statement};", self.paint("2", "orders=> "));
    }

    fn lines(&self, text: &str) {
        for line in text.trim_end().lines().take(SHOWN_LINES_MAX) {
            println!("    {line}");
        }
        let more = text.trim_end().lines().count().saturating_sub(SHOWN_LINES_MAX);
        if more > 0 {
            println!("    … {more} more lines");
        }
    }

    /// Runs one statement with psql and shows both sides.
    fn ask(&self, dial: &Dial, statement: &str) -> Result<Captured> {
        self.prompt(statement);
        let mut psql = dial.command(&program("psql")?);
        psql.args(["-X", "-v", "ON_ERROR_STOP=1", "-P", "footer=off", "-c", statement]);
        let answer = capture(psql, None, SOON)?;
        self.lines(&answer.out());
        self.lines(&answer.err());
        Ok(answer)
    }

    /// Runs a command of the gateway's binary and shows both sides.
    fn bulla(&self, dir: &Path, args: &[&str]) -> Result<Captured> {
        println!("    {}bulla {}", self.paint("2", "$ "), args.join(" "));
        let answer = cli_in(dir, args)?;
        self.lines(&answer.out());
        self.lines(&answer.err());
        Ok(answer)
    }

    fn summary(&self) {
        let Self { passed, failed, .. } = self;
        let seconds = self.started.elapsed().as_secs();
        println!("\n{passed} held, {failed} did not, in {seconds} s");
    }
}
