//! Hosts that only an agent reaches: the gateway speaks SSH with them, and the agent has the means.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use bulla_e2e::expect::{has, has_not};
use bulla_e2e::place::{Port, TempDir};
use bulla_e2e::proc::{Proc, Signal, capture};
use bulla_e2e::ssh::{Beside, Far, Sshd, keygen, python};

const SOON: Duration = Duration::from_secs(120);

const EVERYTHING: &str = r#"
@id("everything")
permit (principal, action, resource);
"#;

/// All but one program.
const ALL_BUT_ID: &str = r#"
@id("everything")
permit (principal, action, resource);
@id("no-id")
forbid (principal, action == Bulla::Action::"ssh:exec", resource)
when { context has program && context.program == "id" };
"#;

fn start(policy: &str, ssh: &str, beside: &Beside) -> Far {
    Far::start(Sshd::start().unwrap(), policy, ssh, beside).unwrap()
}

/// Waits until the gateway has said something.
fn said(far: &Far, words: &str) {
    let until = Instant::now() + SOON;
    while !far.world.gateway.log().contains(words) {
        assert!(Instant::now() < until, "no `{words}` in {}", far.world.gateway.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn commands_and_files_pass_with_a_certificate_of_the_agents() {
    let far = start(ALL_BUT_ID, "", &Beside::default());
    let world = &far.world;
    let done = world.ssh_with(&["cat; echo err >&2; exit 7"], Some(b"input\n".to_vec())).unwrap();
    assert_eq!((done.out().as_str(), done.err().as_str(), done.code()), ("input\n", "err\n", 7));
    let refused = world.ssh(&["id"]).unwrap();
    assert_eq!((refused.code(), refused.out().as_str()), (126, ""));
    has(&refused.err(), &["bulla: refused: ", "no-id"]);
    let sent = world.dir.write("sent", "0123456789abcdef".repeat(64 << 10)).unwrap();
    let there = world.target.dir().join("there");
    let mut sftp = world.client("sftp").unwrap();
    sftp.args(["-b", "-", "web"]);
    let script =
        format!("put {} {there}\nget {there} back\n", sent.display(), there = there.display());
    let done = capture(sftp, Some(script.into_bytes()), SOON).unwrap();
    assert_eq!(done.code(), 0, "{done}");
    assert!(std::fs::read(&sent).unwrap() == std::fs::read(world.dir.join("back")).unwrap());
    // The host's own log names principal and session, and the agent's authority, not the gateway's.
    has(&world.target.log(), &["ID bed|billing/api session "]);
    let own = world.gateway.cli(&["ssh", "target-ca"]).unwrap().success().unwrap();
    world.target.trust(&own).unwrap();
    // What is open already goes on; a fresh connection is not let in any more.
    let closed = world.ssh(&["true"]).unwrap();
    assert_eq!(closed.code(), 255, "{closed}");
    has(&closed.err(), &["bulla: could not reach `web`"]);
    said(&far, "it does not let the gateway in");
    let replay = world.replayed().unwrap();
    has(&replay, &["cat; echo err >&2; exit 7", "input", "err", "refused"]);
    has_not(&replay, &["uid="]);
    world.verified().unwrap();
}

#[test]
fn the_agents_own_key_signs_and_stays_there() {
    let target = Sshd::start().unwrap();
    let dir = TempDir::new("key").unwrap();
    let path = dir.join("id");
    target.authorize(&keygen(&path).unwrap()).unwrap();
    let beside =
        Beside { login: format!(", password_file = {path:?}"), ssh: "login = \"key\"".to_owned() };
    let far = Far::start(target, EVERYTHING, "", &beside).unwrap();
    let done = far.world.ssh(&["echo", "hello"]).unwrap();
    assert_eq!((done.code(), done.out().as_str()), (0, "hello\n"), "{done}{}", far.agent.log());
    has(&far.world.target.log(), &["Accepted publickey"]);
    // Nothing of the key is with the gateway.
    let key = std::fs::read_to_string(&path).unwrap();
    let line = key.lines().nth(2).unwrap();
    let found = std::process::Command::new("grep")
        .args(["-rlaF", "-e", line])
        .arg(far.world.gateway.dir().path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    has_not(&far.world.gateway.log(), &[line]);
    // Another key in its place, which the host does not know.
    std::fs::remove_file(&path).unwrap();
    keygen(&path).unwrap();
    let closed = far.world.ssh(&["true"]).unwrap();
    assert_eq!(closed.code(), 255, "{closed}");
    said(&far, "it does not let the gateway in");
    far.world.verified().unwrap();
}

/// A server that takes a password, and gives back what it is asked to run.
const SERVER: &str = "
import sys, asyncio, asyncssh
class Server(asyncssh.SSHServer):
    def begin_auth(self, username): return True
    def password_auth_supported(self): return True
    def validate_password(self, username, password): return password == 'the-secret-of-the-host'
def run(process):
    process.stdout.write('ran ' + process.command + '\\n'); process.exit(0)
async def main():
    await asyncssh.listen('127.0.0.1', int(sys.argv[1]), server_factory=Server,
                          server_host_keys=[sys.argv[2]], process_factory=run)
    print('ready', flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
";

#[test]
fn a_password_is_said_to_the_host_and_to_nobody_else() {
    let dir = TempDir::new("password").unwrap();
    let (key, port) = (dir.join("host"), Port::new().unwrap());
    let public = keygen(&key).unwrap();
    let number = port.number().to_string();
    let command = python(SERVER, &[&number, key.to_str().unwrap()]).unwrap();
    let server = Proc::spawn_with("asyncssh", command, Signal::Kill, None).unwrap();
    server.wait_line("ready", SOON).unwrap();
    let secret = dir.write("secret", "the-secret-of-the-host\n").unwrap();
    let beside = Beside {
        login: format!(", password_file = {secret:?}"),
        ssh: "login = \"password\"".to_owned(),
    };
    let other = Sshd::start().unwrap();
    let far = Far::before(other, port.number(), &public, EVERYTHING, "", &beside).unwrap();
    let done = far.world.ssh(&["some", "words"]).unwrap();
    assert_eq!((done.code(), done.out().as_str()), (0, "ran some words\n"), "{done}");
    let replay = far.world.replayed().unwrap();
    has(&replay, &["ran some words"]);
    for text in [replay, far.world.gateway.log(), far.agent.log()] {
        has_not(&text, &["the-secret-of"]);
    }
    far.world.verified().unwrap();
}

#[test]
fn a_host_that_is_not_the_one_is_not_used() {
    let dir = TempDir::new("other").unwrap();
    let other = keygen(&dir.join("key")).unwrap();
    let pins = format!("host_keys = [{other:?}]");
    // By the agent's configuration, and by the gateway's, which stands above it.
    let by_agent = Beside { ssh: pins.clone(), ..Beside::default() };
    for (own, beside) in [("", &by_agent), (pins.as_str(), &Beside::default())] {
        let far = start(EVERYTHING, own, beside);
        let failed = far.world.ssh(&["true"]).unwrap();
        assert_eq!(failed.code(), 255);
        has(&failed.err(), &["bulla: could not reach `web`"]);
        said(&far, "its host key is none that is pinned: SHA256:");
        has_not(&far.world.target.log(), &["Accepted"]);
        far.world.verified().unwrap();
    }
}

#[test]
fn an_agent_that_is_lost_ends_what_was_under_way() {
    let far = start(EVERYTHING, "", &Beside::default());
    let mut ssh = far.world.client("ssh").unwrap();
    ssh.args(["web", "echo begun; sleep 100"]);
    let running = Proc::spawn("ssh", ssh).unwrap();
    running.wait_line("begun", SOON).unwrap();
    far.agent.kill().unwrap();
    assert_eq!(running.wait(SOON).unwrap().code(), Some(255));
    has(&running.log(), &["bulla: the target was lost"]);
    let until = Instant::now() + SOON;
    loop {
        let offline = far.world.ssh(&["true"]).unwrap();
        assert_eq!(offline.code(), 255, "{offline}");
        if offline.err().contains("could not reach `web` (agent `eu-1` is offline)") {
            break;
        }
        assert!(Instant::now() < until, "{offline}");
    }
    has(&far.world.replayed().unwrap(), &["echo begun; sleep 100", "target_lost"]);
    far.world.verified().unwrap();
}

#[test]
fn an_account_that_the_agent_does_not_name_is_not_opened() {
    let far = start(EVERYTHING, "", &Beside::default());
    // The gateway's configuration has it, as a compromised gateway's would.
    let toml = far.world.gateway.dir().join("bulla.toml");
    let text = std::fs::read_to_string(&toml).unwrap();
    let account = format!("accounts = [{:?}", far.world.account);
    let text = text.replace(&account, &format!("{account}, \"daemon\""));
    std::fs::write(&toml, text).unwrap();
    assert!(far.world.gateway.terminate().unwrap().success());
    let mut far = far;
    far.world.gateway.restart().unwrap();
    far.world.gateway.wait_agents(1).unwrap();
    let mut ssh = far.world.client("ssh").unwrap();
    ssh.args(["-l", "daemon%web", "web", "true"]);
    let closed = capture(ssh, Some(Vec::new()), SOON).unwrap();
    assert_eq!(closed.code(), 255, "{closed}");
    said(&far, "the agent's configuration has no account `daemon` there");
    has_not(&far.world.target.log(), &["daemon"]);
    assert_eq!(far.world.ssh(&["true"]).unwrap().code(), 0);
    far.world.verified().unwrap();
}
