//! The built binary, as an operator and an auditor use it: words, exit codes, signals. No target is
//! behind the gateway here; that is for the tests of the whole.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_bulla");
const SOON: Duration = Duration::from_secs(30);

const POLICY: &str = r#"
@id("reads")
permit (principal in Bulla::Group::"team:billing", action == Bulla::Action::"postgres:select",
        resource in Bulla::Resource::"orders");
"#;

/// A folder with a configuration and everything that it names. Removed when dropped.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Place {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("bulla-cli-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("policies")).unwrap();
        let place = Self(dir);
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        place.write("gw.pem", &made.cert.pem());
        place.write("gw.key", &made.signing_key.serialize_pem());
        place.write("orders.password", "secret");
        place.write("keys.json", r#"{ "keys": [] }"#);
        place.write("policies/orders.cedar", POLICY);
        place.write("bulla.toml", &place.toml());
        place
    }

    fn toml(&self) -> String {
        let (http, listen, target) = (free_port(), free_port(), free_port());
        format!(
            r#"[gateway]
name = "test"
data = "data"
http = "127.0.0.1:{http}"
tls = {{ cert = "gw.pem", key = "gw.key" }}

[issuers.k8s]
issuer = "https://issuer.example"
audience = "bulla"
groups = ["team:{{team}}"]
jwks_file = "keys.json"

[resources.orders]
protocol = "postgres"
listen = "127.0.0.1:{listen}"
target = {{ host = "localhost", port = {target}, tls = "off" }}
login = {{ user = "u", password_file = "orders.password" }}
"#
        )
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap()
    }

    fn edit(&self, name: &str, from: &str, to: &str) {
        let text = self.read(name);
        assert!(text.contains(from), "`{from}` in {text}");
        self.write(name, &text.replace(from, to));
    }

    fn bulla(&self, args: &[&str]) -> Said {
        let output = Command::new(BINARY).args(args).current_dir(&self.0).output().unwrap();
        Said(output)
    }

    fn http(&self, path: &str) -> Option<(u16, String)> {
        let config: toml::Table = self.read("bulla.toml").parse().unwrap();
        let address = config["gateway"]["http"].as_str().unwrap();
        let mut tcp = TcpStream::connect(address).ok()?;
        tcp.set_read_timeout(Some(SOON)).unwrap();
        write!(tcp, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer))
    }
}

struct Said(Output);

impl Said {
    fn code(&self) -> i32 {
        self.0.status.code().unwrap()
    }
    fn out(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }
    fn err(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }
    /// The exit code, and every part in what was said.
    #[track_caller]
    fn expect(self, code: i32, parts: &[&str]) -> Self {
        let all = format!("{}{}", self.out(), self.err());
        assert_eq!(self.code(), code, "{all}");
        for part in parts {
            assert!(all.contains(part), "`{part}` in {all}");
        }
        self
    }
}

/// A running gateway. Killed when dropped.
struct Gateway {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Gateway {
    fn start(place: &Place) -> Self {
        let mut child = Command::new(BINARY)
            .arg("gateway")
            .current_dir(&place.0)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let gateway = Self { child, lines };
        gateway.wait_for("ready");
        gateway
    }

    /// Waits until its log says so.
    #[track_caller]
    fn wait_for(&self, part: &str) -> String {
        let deadline = Instant::now() + SOON;
        let mut seen = Vec::new();
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => seen.push(line),
                Err(_) => break,
            }
        }
        panic!("`{part}` was never said, but: {seen:#?}");
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    fn stop(mut self) -> i32 {
        self.signal("TERM");
        self.child.wait().unwrap().code().unwrap()
    }
}

#[test]
fn usage_and_help() {
    let place = Place::new("usage");
    place.bulla(&[]).expect(2, &["Usage"]);
    place.bulla(&["frobnicate"]).expect(2, &["frobnicate"]);
    place.bulla(&["sessions", "ls", "--since", "often"]).expect(2, &["15m"]);
    place.bulla(&["--help"]).expect(0, &["gateway", "approvals", "Exit codes"]);
    place.bulla(&["--version"]).expect(0, &["bulla 0."]);
    place.bulla(&["completions", "bash"]).expect(0, &["_bulla"]);
    place.bulla(&["man"]).expect(0, &[".TH bulla"]);
    place.bulla(&["man", "pages"]).expect(0, &[]);
    assert!(place.0.join("pages/bulla-log-verify.1").is_file());
}

#[test]
fn a_good_configuration() {
    let place = Place::new("good");
    place.bulla(&["check"]).expect(0, &["1 resources, 1 issuers, 1 policies"]);
    let said = place.bulla(&["check", "--json"]).expect(0, &[]);
    let value: Value = serde_json::from_str(&said.out()).unwrap();
    assert_eq!((&value["valid"], &value["policies"]), (&true.into(), &1.into()));
    place.bulla(&["policy", "check"]).expect(0, &["1 policies"]);
    place.bulla(&["policy", "schema"]).expect(0, &["postgres:select"]);
    place.bulla(&["config", "schema"]).expect(0, &["\"resources\""]);
}

/// The words of every mistake, in one golden text: who changes one sees what an operator reads.
#[test]
fn every_mistake_at_once() {
    let place = Place::new("mistakes");
    place.write(
        "bulla.toml",
        r#"[gateway]
name = "a b"
data = "data"
tls = { cert = "absent.pem", key = "gw.key" }

[ledger]
segment = "100KiB"

[policy]
dir = "absent"

[issuers.k8s]
issuer = "https://issuer.example"
audience = "bulla"
subject = "{sub"
algorithms = ["none"]
jwks_file = "keys.json"
jwks_url = "https://issuer.example/keys"

[resources.orders]
protocol = "oracle"
listen = "127.0.0.1:8080"
target = { host = "localhost", port = 1, ca = "absent.ca" }
login = { user = "u", cert = "gw.pem", password_file = "orders.password", password_env = "X" }
"#,
    );
    let said = place.bulla(&["check"]).expect(3, &[]);
    assert_eq!(said.out(), "");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/mistakes.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, said.err()).unwrap();
    }
    let golden = fs::read_to_string(path).unwrap();
    assert_eq!(said.err(), golden, "set UPDATE_GOLDEN=1");

    let said = place.bulla(&["check", "--json"]).expect(3, &[]);
    let value: Value = serde_json::from_str(&said.err()).unwrap();
    assert_eq!(value["problems"].as_array().unwrap().len() + 1, golden.lines().count());
}

/// A target is reached directly or by agents; an API may need no login.
#[test]
fn ways_to_a_target() {
    let login = "login = { user = \"u\", password_file = \"orders.password\" }\n";
    let place = Place::new("ways");
    place.write("policies/orders.cedar", "@id(\"all\")\npermit (principal, action, resource);");
    let direct = place.read("bulla.toml");
    let line = direct.lines().find(|line| line.starts_with("target =")).unwrap();
    let agent = "agent = \"eu-1\"";
    let agents = format!("[agents]\nlisten = \"127.0.0.1:{}\"\n", free_port());
    let check = |text: &str, code: i32, parts: &[&str]| {
        place.write("bulla.toml", text);
        place.bulla(&["check"]).expect(code, parts)
    };
    check(&direct.replace(login, ""), 3, &["resources.orders.login: this table is missing"]);
    check(&direct.replace("user = \"u\", ", ""), 3, &["orders.login.user: is missing"]);
    check(&direct.replace(line, ""), 3, &["`host` and `port` are missing", "or name the `agent`"]);
    let by_agent = direct.replace(line, agent).replace(login, "") + &agents;
    check(&by_agent, 0, &[]);
    check(&by_agent.replace(&agents, ""), 3, &["orders.agent: agents have no door"]);
    check(&by_agent.replace(agent, &format!("{agent}\n{login}")), 3, &["targets without `agent`"]);

    let api = direct.replace("\"postgres\"", "\"http\"").replace(login, "");
    check(&api, 0, &[]);
    let both = api.replace(line, &format!("{line}\n{agent}")) + &agents;
    check(&both, 3, &["targets without `agent`"]);
    let only = api.replace(line, agent) + &agents;
    check(&only, 3, &["resources.orders.http.authority: is missing"]);
    let named = "[resources.orders.http]\nauthority = \"api.internal\"\n";
    check(&(only + named), 0, &[]);
}

#[test]
fn policies_that_do_not_hold() {
    let place = Place::new("policies");
    place.write("policies/bad.cedar", "permit (principal, action, resource);\n@hodl(\"x\") forbid");
    place.bulla(&["check"]).expect(3, &["policies/bad.cedar:"]);
    place.bulla(&["policy", "check"]).expect(3, &["policies/bad.cedar:"]);
    place.bulla(&["gateway"]).expect(3, &["policies/bad.cedar:"]);
    assert!(!place.0.join("data/archive").exists(), "nothing was made");
    place.bulla(&["check", "-c", "absent.toml"]).expect(3, &["absent.toml", "-c FILE"]);
}

#[test]
fn a_gateway_from_start_to_verified_log() {
    let place = Place::new("life");
    let gateway = Gateway::start(&place);
    assert_eq!(place.http("/livez").unwrap().0, 200);
    assert_eq!(place.http("/readyz").unwrap().0, 200);
    assert_eq!(place.http("/elsewhere").unwrap().0, 404);
    let (status, metrics) = place.http("/metrics").unwrap();
    assert_eq!(status, 200);
    assert!(metrics.contains("bulla_ready 1") && metrics.contains("bulla_log_entries"));
    place.bulla(&["health"]).expect(0, &["ready"]);
    place.bulla(&["sessions", "ls"]).expect(0, &["PRINCIPAL"]);
    place.bulla(&["approvals", "ls"]).expect(0, &["nothing waits"]);
    place.bulla(&["approvals", "approve", "7F3K-2Q"]).expect(1, &["nothing waits under"]);
    place.bulla(&["sessions", "kill", "01M88ZAMSHAJ9PZREE8NZA3MB7"]).expect(1, &["not live"]);
    place.bulla(&["sessions", "show", "nonsense"]).expect(1, &["sessions ls"]);
    // Its data are taken while it runs.
    place.bulla(&["gateway"]).expect(1, &["in use"]);

    // What the gateway itself did is a session too, and a look at it is an entry.
    let said = place.bulla(&["sessions", "ls", "--resource", "bulla", "--json"]).expect(0, &[]);
    let listed: Value = serde_json::from_str(&said.out()).unwrap();
    let id = listed[0]["session"].as_str().unwrap().to_owned();
    place.bulla(&["sessions", "show", &id]).expect(0, &["the gateway starts"]);
    let shown = place.bulla(&["sessions", "show", &id]);
    let user = shown.expect(0, &[&format!("evidence_read: sessions show {id}"), "local:"]).out();
    assert!(user.contains("kill session 01M88ZAMSHAJ9PZREE8NZA3MB7"), "{user}");

    assert_eq!(gateway.stop(), 0);
    assert!(!place.0.join("data/admin.sock").exists());
    place.bulla(&["health"]).expect(1, &["is it running?"]);
    place.bulla(&["sessions", "show", &id]).expect(1, &["--offline"]);
    place.bulla(&["sessions", "show", &id, "--offline"]).expect(0, &["drain", "not in the log"]);

    let verify = ["log", "verify", "data/archive", "--key", "data/log.vkey"];
    place.bulla(&verify).expect(0, &["complete and untampered up to", "no gap in any chain"]);
    let key = place.read("data/log.vkey");
    place.bulla(&["log", "verify", "data/archive", "--key", key.trim()]).expect(0, &[]);
    place.bulla(&["log", "verify", "data/archive", "--key", "nonsense"]).expect(1, &["no public"]);
    place.bulla(&["log", "prove", "0"]).expect(0, &["c2sp.org/tlog-proof@v1"]);
    let checkpoint = place.bulla(&["log", "checkpoint"]).expect(0, &["bulla.local/test"]).out();
    place.write("earlier.txt", &checkpoint);
    place.bulla(&["log", "show", "--from", "0"]).expect(0, &["genesis", "boot"]);

    // It goes on in a second run, which holds the first.
    assert_eq!(Gateway::start(&place).stop(), 0);
    let earlier = [&verify[..], &["--earlier", "earlier.txt", "--json"]].concat();
    let said = place.bulla(&earlier).expect(0, &[]);
    let report: Value = serde_json::from_str(&said.out()).unwrap();
    assert_eq!((&report["verdict"], &report["runs"]), (&"complete".into(), &2.into()));

    tamper(&place, &verify);
}

/// One bit of the largest bundle of entries, and then a checkpoint of another log.
fn tamper(place: &Place, verify: &[&str]) {
    let folder = place.0.join("data/archive/tile/entries/000.p");
    let bundles = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let file = bundles.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, &bytes).unwrap();
    place.bulla(verify).expect(10, &["TAMPERED", "tile/entries/000.p/", "byte"]);
    bytes[middle] ^= 1;
    fs::write(&file, &bytes).unwrap();
    place.bulla(verify).expect(0, &[]);
    place.edit("data/archive/checkpoint", "bulla.local/test", "bulla.local/other");
    place.bulla(verify).expect(10, &["TAMPERED"]);
}

#[test]
fn a_reload_takes_all_or_nothing() {
    let place = Place::new("reload");
    let gateway = Gateway::start(&place);
    place.edit("policies/orders.cedar", "postgres:select", "postgres:insert");
    gateway.signal("HUP");
    let good = gateway.wait_for("reloaded: bundle");
    place.edit("policies/orders.cedar", "permit", "prmit");
    gateway.signal("HUP");
    gateway.wait_for("reload refused, nothing changed");
    assert_eq!(place.http("/readyz").unwrap().0, 200, "the last good policies serve");
    place.edit("policies/orders.cedar", "prmit", "permit");
    place.edit("bulla.toml", "user = \"u\"", "user = \"v\"");
    gateway.signal("HUP");
    let again = gateway.wait_for("restart to change resources");
    let bundle = |line: &str| line.split("bundle ").nth(1).unwrap()[..12].to_owned();
    assert_eq!(bundle(&good), bundle(&again));
    assert_eq!(gateway.stop(), 0);
    place.bulla(&["log", "show", "--limit", "50"]).expect(0, &["policy", "alarm"]);
}

#[test]
fn policies_have_an_age() {
    let place = Place::new("age");
    let toml = place.read("bulla.toml");
    place.write("bulla.toml", &format!("{toml}\n[policy]\nmax_age = \"1ms\"\n"));
    let gateway = Gateway::start(&place);
    let (status, text) = place.http("/readyz").unwrap();
    assert!(status == 503 && text.contains("no current policies"), "{text}");
    place.bulla(&["health"]).expect(1, &["no current policies"]);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn statements_need_the_target() {
    let place = Place::new("explain");
    let who = ["--principal", "k8s|billing/api", "--group", "team:billing"];
    let explain = |more: &[&str]| {
        let mut args = vec!["policy", "explain"];
        args.extend(who);
        args.extend(more);
        place.bulla(&args)
    };
    explain(&["--resource", "orders"]).expect(0, &["allow", "connect"]);
    explain(&["--resource", "orders", "--sql", "SELECT 1"]).expect(1, &["catalogue"]);
    explain(&["--resource", "absent"]).expect(1, &["no resource `absent`"]);
    let nobody = ["policy", "explain", "--principal", "k8s|x", "--resource", "orders"];
    place.bulla(&nobody).expect(4, &["deny"]);
    place.bulla(&["doctor"]).expect(1, &["identity", "targets", "no witness"]);
    place.write(
        "policies/t.test.toml",
        "[[case]]\nprincipal = { id = \"k8s|x\" }\nresource = \"orders\"\nexpect = \"deny\"\n",
    );
    place.bulla(&["policy", "test"]).expect(0, &["1 hold, 0 do not"]);
    place.edit("policies/t.test.toml", "\"deny\"", "\"allow\"");
    place.bulla(&["policy", "test"]).expect(4, &["expected allow, found deny"]);
    place.edit("policies/t.test.toml", "expect", "expct");
    place.bulla(&["policy", "test"]).expect(3, &["t.test.toml:"]);
}
