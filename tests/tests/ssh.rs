//! SSH through the real gateway: a real OpenSSH server as target, real clients before it.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use bulla_e2e::expect::{has, has_not};
use bulla_e2e::proc::{Proc, capture};
use bulla_e2e::ssh::{Sshd, World, keygen, python};

const PATIENCE: Duration = Duration::from_secs(120);

const EVERYTHING: &str = r#"
@id("everything")
permit (principal, action, resource);
"#;

/// Some programs, for one team.
const SOME: &str = r#"
@id("connect")
permit (principal in Bulla::Group::"team:billing", action == Bulla::Action::"connect", resource);
@id("programs")
permit (principal, action == Bulla::Action::"ssh:exec", resource)
when { context has program && ["true", "cat", "echo"].contains(context.program) };
"#;

#[test]
fn commands_run_with_their_input_output_and_status() {
    let world = World::start(EVERYTHING, "").unwrap();
    let done = world.ssh(&["true"]).unwrap();
    assert_eq!(done.code(), 0, "{done}{}", world.gateway.log());
    assert_eq!(world.ssh(&["exit 7"]).unwrap().code(), 7);
    let done = world.ssh_with(&["cat; echo err >&2"], Some(b"input\n".to_vec())).unwrap();
    assert_eq!((done.out().as_str(), done.err().as_str()), ("input\n", "err\n"));
    has(&world.target.log(), &["ID bed|billing/api session "]);
    let killed = world.ssh(&["kill -TERM $$"]).unwrap();
    assert_ne!(killed.code(), 0);
    let replay = world.replayed().unwrap();
    has(&replay, &["exit 7", "cat; echo err >&2", "input", "err", "bed|billing/api"]);
    world.verified().unwrap();
}

#[test]
fn a_refusal_is_one_line_and_a_status() {
    let world = World::start(SOME, "").unwrap();
    assert_eq!(world.ssh(&["echo", "hello"]).unwrap().out(), "hello\n");
    for line in ["id", "echo a; id", "echo $(id)", "true && id", "/bin/cat /etc/passwd"] {
        let refused = world.ssh(&[line]).unwrap();
        assert_eq!((refused.code(), refused.out().as_str()), (126, ""), "{line}: {refused}");
        let words = refused.err();
        assert_eq!(words.lines().count(), 1, "{words}");
        has(&words, &["bulla: refused: ", "no policy permits"]);
    }
    let replay = world.replayed().unwrap();
    has(&replay, &["echo $(id)", "refused"]);
    has_not(&replay, &["uid="]);
    world.verified().unwrap();
}

#[test]
fn only_tokens_and_certificates_of_the_gateway_open_it() {
    let world = World::start(EVERYTHING, "").unwrap();
    let login = |user: &str, secret: &str| {
        let script = "
import sys, paramiko
class Trusting(paramiko.MissingHostKeyPolicy):
    def missing_host_key(self, client, hostname, key): pass
client = paramiko.SSHClient()
client.set_missing_host_key_policy(Trusting())
try:
    client.connect('127.0.0.1', int(sys.argv[1]), sys.argv[2], sys.argv[3],
                   allow_agent=False, look_for_keys=False)
except paramiko.AuthenticationException as error:
    print('no:', error)
    sys.exit()
_, out, err = client.exec_command('echo hello; echo err >&2; exit 3')
print(out.read().decode().strip(), err.read().decode().strip(), out.channel.recv_exit_status())
";
        let port = world.port.number().to_string();
        let command = python(script, &[&port, user, secret]).unwrap();
        capture(command, None, PATIENCE).unwrap().success().unwrap()
    };
    let (token, account) = (world.token().unwrap(), &world.account);
    assert_eq!(login(&format!("{account}%web"), &token), "hello err 3\n");
    // One host on the address: it need not be named.
    assert_eq!(login(account, &token), "hello err 3\n");
    let old = world.issuer.mint().unwrap().issued(-1200).expires(-600).token().unwrap();
    let no = login(&format!("{account}%web"), "a.b.c");
    has(&no, &["no: Authentication failed"]);
    // A connection may try again, and is told the same.
    for (user, secret) in [
        (format!("{account}%web"), old.as_str()),
        (format!("{account}%web"), ""),
        (format!("{account}%nowhere"), &token),
        ("nobody%web".to_owned(), &token),
        ("%".to_owned(), &token),
    ] {
        assert_eq!(login(&user, secret), no, "{user}: every kind of no looks the same");
    }
    // A key that the target itself would let in opens nothing here.
    let own = keygen(&world.dir.join("static")).unwrap();
    world.target.authorize(&own).unwrap();
    let (key, known) = (world.dir.join("static"), world.dir.join("known_hosts"));
    let port = world.port.number().to_string();
    let mut ssh = std::process::Command::new("ssh");
    ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-p", &port]);
    ssh.arg("-o").arg(format!("UserKnownHostsFile={}", known.display())).arg("-i").arg(key);
    ssh.args([&format!("{account}%web@localhost"), "true"]).env_remove("SSH_AUTH_SOCK");
    let refused = capture(ssh, None, PATIENCE).unwrap();
    assert_eq!(refused.code(), 255);
    has(&refused.err(), &["Permission denied"]);
    world.verified().unwrap();
}

#[test]
fn files_move_with_every_program() {
    let world = World::start(EVERYTHING, "env = [\"GIT_PROTOCOL\"]").unwrap();
    let body: Vec<u8> = (0..3_000_000u32).flat_map(|n| n.to_le_bytes()).collect();
    world.dir.write("up", &body).unwrap();
    let there = |name: &str| world.target.dir().join(name).display().to_string();
    let remote = |name: &str| format!("web:{}", there(name));
    let here = |name: &str| std::fs::read(world.dir.join(name)).unwrap();
    let run = |program: &str, args: &[&str]| {
        let mut command = world.client(program).unwrap();
        command.args(args);
        capture(command, None, PATIENCE).unwrap().success().unwrap_or_else(|e| {
            panic!("{program} {args:?}: {e}{}", world.gateway.log());
        })
    };
    for (option, name) in [("-O", "scp-old"), ("-s", "scp-sftp")] {
        run("scp", &[option, "up", &remote(name)]);
        assert!(std::fs::read(there(name)).unwrap() == body, "{option}");
        run("scp", &[option, &remote(name), "down"]);
        assert!(here("down") == body, "{option}");
    }
    world.dir.write("batch", format!(
        "put up {0}\nget {0} down2\nrename {0} {1}\nmkdir {2}\nls {2}\nchmod 600 {1}\nrm {1}\nrmdir {2}\n",
        there("a"), there("b"), there("folder"),
    )).unwrap();
    run("sftp", &["-b", "batch", "web"]);
    assert!(here("down2") == body);
    assert!(!world.target.dir().join("b").exists());
    run("rsync", &["-a", "up", &remote("synced")]);
    assert!(std::fs::read(there("synced")).unwrap() == body);
    run("rsync", &["-a", &remote("synced"), "down3"]);
    assert!(here("down3") == body);
    let repository = there("repository.git");
    let git = |args: &[&str]| {
        let mut all = vec!["-c", "user.name=bed", "-c", "user.email=bed@localhost"];
        all.extend(args);
        run("git", &all)
    };
    git(&["init", "-q", "--bare", "-b", "main", &repository]);
    git(&["clone", "-q", &remote("repository.git"), "clone"]);
    git(&["-C", "clone", "commit", "-q", "--allow-empty", "-m", "first"]);
    git(&["-C", "clone", "push", "-q", "origin", "HEAD:main"]);
    git(&["clone", "-q", &remote("repository.git"), "again"]);
    has(&git(&["-C", "again", "log", "--format=%s"]), &["first"]);
    let replay = world.replayed().unwrap();
    has(
        &replay,
        &[
            &format!("upload {}", there("a")),
            &format!("rename {} -> {}", there("a"), there("b")),
            &format!("remove {}", there("b")),
            &format!("mkdir {}", there("folder")),
            "rsync --server",
            "git-receive-pack",
        ],
    );
    world.verified().unwrap();
}

/// Everything but what is named.
fn all_but(forbid: &str) -> String {
    format!("{EVERYTHING}\n@id(\"no\")\nforbid (principal, action, resource) {forbid};")
}

#[test]
fn each_operation_of_sftp_is_judged_by_what_the_file_really_is() {
    let policy = all_but(
        "when { context has path && (context.path like \"*secret*\" || \
         (context has to_path && context.to_path like \"*secret*\")) }",
    );
    let world = World::start(&policy, "").unwrap();
    let there = |name: &str| world.target.dir().join(name).display().to_string();
    for name in ["secret.txt", "open.txt"] {
        world.target.dir().write(name, format!("body of {name}\n")).unwrap();
    }
    std::os::unix::fs::symlink(there("secret.txt"), there("link")).unwrap();
    std::fs::create_dir(there("folder")).unwrap();
    std::os::unix::fs::symlink(world.target.dir().path(), there("folder/up")).unwrap();
    let sftp = |line: &str| {
        world.dir.write("batch", format!("{line}\n")).unwrap();
        let mut command = world.client("sftp").unwrap();
        command.args(["-b", "batch", "web"]);
        capture(command, None, PATIENCE).unwrap()
    };
    for (line, allowed) in [
        (format!("get {} got", there("open.txt")), true),
        (format!("get {} got", there("secret.txt")), false),
        (format!("get {} got", there("link")), false),
        (format!("get {} got", there("folder/../secret.txt")), false),
        (format!("get {} got", there("folder/up/secret.txt")), false),
        (format!("get {} got", there("folder/up/open.txt")), true),
        (format!("put got {}", there("new-secret")), false),
        (format!("rename {} {}", there("open.txt"), there("secret.2")), false),
        (format!("rename {} {}", there("secret.txt"), there("free.txt")), false),
        (format!("rm {}", there("secret.txt")), false),
        (format!("chmod 777 {}", there("link")), false),
        (format!("ln -s {} {}", there("secret.txt"), there("link2")), false),
        (format!("mkdir {}", there("secret.d")), false),
        (format!("chmod 600 {}", there("open.txt")), true),
        (format!("rm {}", there("link")), true),
    ] {
        let done = sftp(&line);
        assert_eq!(done.code() == 0, allowed, "{line}: {done}{}", world.gateway.log());
        has_not(&std::fs::read_to_string(world.dir.join("got")).unwrap_or_default(), &["secret"]);
    }
    assert!(world.target.dir().join("secret.txt").exists());
    let replay = world.replayed().unwrap();
    has(&replay, &[&format!("stat {}", there("link")), "policy no", "body of open.txt"]);
    has_not(&replay, &["body of secret.txt"]);
    world.verified().unwrap();
}

#[test]
fn a_held_command_waits_for_leave_and_a_killed_one_ends() {
    let policy = format!(
        "{EVERYTHING}\n@id(\"hold\")\n@hold(\"dba\")\npermit (principal, \
         action == Bulla::Action::\"ssh:exec\", resource) \
         when {{ context has command && context.command like \"echo restart*\" }};"
    );
    let policy = policy.replace(
        "permit (principal, action, resource);",
        "permit (principal, action, resource) \
         unless { context has command && context.command like \"echo restart*\" };",
    );
    let world = World::start(&policy, "").unwrap();
    let line = "echo restarted";
    let start = |args: &[&str]| {
        let mut ssh = world.client("ssh").unwrap();
        ssh.arg("web").args(args);
        Proc::spawn("ssh", ssh).unwrap()
    };
    let held = start(&[line]);
    let notice = held.wait_line("it waits up to", PATIENCE).unwrap();
    let ask = notice.split("approvals approve ").nth(1).unwrap().split_whitespace().next().unwrap();
    has(&notice, &["bulla: ", "`dba`"]);
    let waiting = world.gateway.cli(&["approvals", "show", ask]).unwrap().success().unwrap();
    has(&waiting, &[line]);
    assert!(held.is_running());
    world.gateway.cli(&["approvals", "approve", ask]).unwrap().success().unwrap();
    assert!(held.wait(PATIENCE).unwrap().success());
    assert_eq!(String::from_utf8_lossy(&held.output().0), "restarted\n");
    // Whoever leaves takes the ask along.
    let left = start(&[line]);
    left.wait_line("it waits up to", PATIENCE).unwrap();
    left.kill().unwrap();
    let until = Instant::now() + PATIENCE;
    while world.gateway.cli(&["approvals", "ls", "--json"]).unwrap().out().contains(line) {
        assert!(Instant::now() < until, "the ask of a client that left still waits");
    }
    // A session that is killed ends at once, whatever it does.
    let running = start(&["echo up; sleep 600"]);
    let until = Instant::now() + PATIENCE;
    while !String::from_utf8_lossy(&running.output().0).contains("up") {
        assert!(Instant::now() < until, "{}", running.log());
    }
    let id = world.sessions().unwrap().remove(0);
    world.gateway.cli(&["sessions", "kill", &id]).unwrap().success().unwrap();
    let asked = Instant::now();
    let status = running.wait(PATIENCE).unwrap();
    assert!(!status.success() && asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    let shown = world.gateway.cli(&["sessions", "show", &id]).unwrap().success().unwrap();
    has(&shown, &["echo up; sleep 600", "cut:ended"]);
    world.verified().unwrap();
}

#[test]
fn a_terminal_is_recorded_and_a_password_is_not() {
    let world = World::start(EVERYTHING, "").unwrap();
    let script = "
import os, sys, asyncio, asyncssh
async def main():
    async with asyncssh.connect('127.0.0.1', int(sys.argv[1]), username=sys.argv[2],
                                password=sys.argv[3], known_hosts=None) as conn:
        process = await conn.create_process(term_type='xterm', term_size=(100, 30))
        async def until(text):
            got = ''
            while text not in got:
                got += await process.stdout.read(4096)
            return got
        process.stdin.write('PS1=; stty -echo; printf \"Pass%s: \" word; read p; stty echo; echo got ${#p}\\n')
        await until('Password: ')
        process.stdin.write('hunter2-hunter2\\n')
        await until('got 15')
        # In words that nobody knows, and without an echo.
        process.stdin.write('stty -echo; printf \"Friend%s \" .; read p; stty echo; echo got ${#p}\\n')
        await until('Friend. ')
        process.stdin.write('swordfish-77\\n')
        await until('got 12')
        process.change_terminal_size(80, 24)
        process.stdin.write('stty size\\n')
        await until('24 80')
        process.stdin.write('exit 5\\n')
        await process.wait()
        print(process.exit_status)
asyncio.run(main())
";
    let (port, token) = (world.port.number().to_string(), world.token().unwrap());
    let user = format!("{}%web", world.account);
    let command = python(script, &[&port, &user, &token]).unwrap();
    let done = capture(command, None, PATIENCE).unwrap();
    assert_eq!(done.out(), "5\n", "{done}{}", world.gateway.log());
    let id = world.sessions().unwrap().remove(0);
    let cast = world.gateway.cli(&["sessions", "replay", &id, "--cast"]).unwrap();
    let cast = cast.success().unwrap();
    let mut lines =
        cast.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let head = lines.next().unwrap();
    assert_eq!((head["version"].as_u64(), head["width"].as_u64()), (Some(2), Some(100)));
    assert!(lines.any(|line| line[1] == "r" && line[2] == "80x24"), "{cast}");
    has(&cast, &["Password: ", "got 15"]);
    let replay = world.replayed().unwrap();
    has(&replay, &["typed, as far as it can be told: stty size", "exit 5"]);
    for text in [&cast, &replay] {
        has_not(text, &["hunter2", "swordfish"]);
    }
    world.verified().unwrap();
}

#[test]
fn nothing_is_forwarded_but_what_a_rule_allows() {
    let target = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = target.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in target.incoming().flatten() {
            let _ = stream.write_all(b"through\n");
        }
    });
    let through = |world: &World| {
        let mut ssh = world.client("ssh").unwrap();
        ssh.args(["-W", &format!("127.0.0.1:{port}"), "web"]);
        capture(ssh, Some(Vec::new()), PATIENCE).unwrap()
    };
    let rule = format!("when {{ context has port && context.port != {port} }}");
    let closed = World::start(&all_but(&rule.replace("!=", "==")), "").unwrap();
    let refused = through(&closed);
    assert_ne!(refused.code(), 0);
    has(&refused.err(), &["administratively prohibited"]);
    let open = World::start(&all_but(&rule), "").unwrap();
    has(&through(&open).out(), &["through"]);
    // Neither an agent, nor a display, nor a port of the client's side, nor odd variables.
    let script = "echo agent=$SSH_AUTH_SOCK display=$DISPLAY preload=$LD_PRELOAD lang=$LANG";
    let options = [
        "-o",
        "ForwardAgent=yes",
        "-o",
        "ForwardX11=yes",
        "-o",
        "SetEnv=LANG=C LD_PRELOAD=/x.so",
        "-R",
        "127.0.0.1:0:127.0.0.1:1",
        "web",
        script,
    ];
    let mut ssh = open.client("ssh").unwrap();
    ssh.args(options).env("DISPLAY", "127.0.0.1:1");
    let done = capture(ssh, Some(Vec::new()), PATIENCE).unwrap();
    assert_eq!(done.out(), "agent= display= preload= lang=C\n", "{done}");
    has(&done.err(), &["remote port forwarding failed"]);
    has(&open.replayed().unwrap(), &[&format!("forward to 127.0.0.1:{port}"), "through"]);
    for world in [open, closed] {
        world.verified().unwrap();
    }
}

#[test]
fn a_target_that_is_not_the_one_is_not_used() {
    let other = keygen(&bulla_e2e::place::TempDir::new("other").unwrap().join("key")).unwrap();
    let world = World::start(EVERYTHING, &format!("host_keys = [{other:?}]")).unwrap();
    let failed = world.ssh(&["true"]).unwrap();
    assert_eq!(failed.code(), 255);
    has(&failed.err(), &["bulla: could not reach `web`"]);
    has(&world.gateway.log(), &["its host key is none that is pinned: SHA256:"]);
    has_not(&world.target.log(), &["Accepted"]);
    world.verified().unwrap();
}

#[test]
fn output_is_masked_for_whoever_may_not_see_it() {
    let classes = "[classes.pii]\nmask = \"null\"\n";
    let policy = all_but("when { action == Bulla::Action::\"reveal\" }");
    let target = Sshd::start().unwrap();
    let ssh = "masked = \"pii\"\ndetectors = [\"card\", \"email\"]";
    let world = World::before(target, &policy, ssh, "", classes).unwrap();
    let line = "for part in 4111 1111 1111 1111; do printf $part; sleep 0.1; done; echo; \
                echo alice@example.com >&2; echo plain";
    let done = world.ssh(&[line]).unwrap();
    assert_eq!((done.out().as_str(), done.err().as_str()), ("[card]\nplain\n", "[email]\n"));
    let mut scp = world.client("scp").unwrap();
    scp.args(["-O", "web:/etc/hostname", "got"]);
    let refused = capture(scp, None, PATIENCE).unwrap();
    assert_ne!(refused.code(), 0);
    has(&refused.err(), &["what they hold may not be seen"]);
    let replay = world.replayed().unwrap();
    has(&replay, &["[card]", "[email]"]);
    has_not(&replay, &["4111111111111111"]);
    world.verified().unwrap();
}

#[test]
fn much_passes_both_ways_unchanged() {
    let world = World::start(EVERYTHING, "").unwrap();
    let mega = std::env::var("BULLA_SSH_MIB").ok().and_then(|n| n.parse().ok()).unwrap_or(64usize);
    let mut state = 7u64;
    let body: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(mega << 20)
    .collect();
    world.dir.write("big", &body).unwrap();
    // Into a file: what a command says is kept up to a limit only.
    let mut ssh = std::process::Command::new("sh");
    ssh.args(["-c", "exec ssh -F config web cat < big > through"]);
    ssh.current_dir(world.dir.path()).env_remove("SSH_AUTH_SOCK");
    capture(ssh, None, Duration::from_secs(900)).unwrap().success().unwrap();
    assert!(std::fs::read(world.dir.join("through")).unwrap() == body);
    let there = world.target.dir().join("big").display().to_string();
    world.dir.write("batch", format!("put big {there}\nget {there} back\n")).unwrap();
    let mut sftp = world.client("sftp").unwrap();
    sftp.args(["-b", "batch", "web"]);
    capture(sftp, None, Duration::from_secs(900)).unwrap().success().unwrap();
    assert!(std::fs::read(&there).unwrap() == body);
    assert!(std::fs::read(world.dir.join("back")).unwrap() == body);
    world.verified().unwrap();
}

#[test]
fn hostile_input_is_refused_and_harms_nobody() {
    let world = World::start(EVERYTHING, "").unwrap();
    // Nobody who is unknown may send much.
    let mut raw = std::net::TcpStream::connect(("127.0.0.1", world.port.number())).unwrap();
    raw.set_read_timeout(Some(PATIENCE)).unwrap();
    raw.set_write_timeout(Some(PATIENCE)).unwrap();
    // Whole packets that mean nothing (SSH_MSG_IGNORE, RFC 4253 section 11.2).
    let length = 32_752u32;
    let mut packet = (length + 12).to_be_bytes().to_vec();
    packet.extend([6, 2]);
    packet.extend(length.to_be_bytes());
    packet.resize(4 + length as usize + 12, 0);
    let begun = Instant::now();
    let _ = raw.write_all(b"SSH-2.0-flood\r\n");
    for _ in 0..64 {
        let _ = raw.write_all(&packet);
    }
    let mut rest = Vec::new();
    let _ = raw.read_to_end(&mut rest);
    assert!(rest.starts_with(b"SSH-2.0-Bulla\r\n"));
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    for option in [
        "Ciphers=aes128-cbc",
        "Ciphers=chacha20-poly1305@openssh.com",
        "KexAlgorithms=diffie-hellman-group14-sha1",
        "HostKeyAlgorithms=rsa-sha2-256",
    ] {
        let refused = world.ssh_with(&["-o", option, "true"], None).unwrap();
        assert_eq!(refused.code(), 255, "{option}");
        has(&refused.err(), &["no matching"]);
    }
    let script = "
import sys, time, paramiko
def connect():
    transport = paramiko.Transport(('127.0.0.1', int(sys.argv[1])))
    transport.start_client(timeout=60)
    transport.auth_password(sys.argv[2], sys.argv[3])
    return transport
transport = connect()
def attempt(name, work):
    try:
        print(name, work())
    except (paramiko.SSHException, EOFError, OSError) as error:
        print(name, 'no')
def twice():
    channel = transport.open_session()
    channel.exec_command('true')
    channel.exec_command('true')
    return 'yes'
def zero():
    channel = transport.open_session()
    channel.exec_command(b'true\\0 x')
    return channel.recv_exit_status()
def garbage(data):
    channel = transport.open_session()
    channel.invoke_subsystem('sftp')
    channel.sendall(data)
    return channel.recv(100)
def kinds():
    return transport.open_channel(sys.argv[4], timeout=20)
attempt('twice', twice)
attempt('zero', zero)
attempt('long', lambda: garbage(b'\\xff' * 100))
attempt('short', lambda: garbage(b'\\0\\0\\0\\1\\x63'))
attempt('own', lambda: garbage(b'\\0\\0\\0\\5\\1\\0\\0\\0\\3' + b'\\0\\0\\0\\x0a\\x0d\\xff\\xff\\xff\\x00\\0\\0\\0\\1a'))
attempt('odd', kinds)
attempt('after', lambda: transport.open_session().exec_command('true'))
other = paramiko.Transport(('127.0.0.1', int(sys.argv[1])))
other.start_client(timeout=60)
attempt('before', lambda: other.open_session(timeout=5))
tries = 0
other = paramiko.Transport(('127.0.0.1', int(sys.argv[1])))
other.start_client(timeout=60)
try:
    while tries < 40:
        try:
            other.auth_password(sys.argv[2], 'a.b.c')
        except paramiko.AuthenticationException:
            tries += 1
except (paramiko.SSHException, EOFError, OSError):
    pass
print('tries', 0 < tries <= 8)
";
    let (port, token) = (world.port.number().to_string(), world.token().unwrap());
    let user = format!("{}%web", world.account);
    let command = python(script, &[&port, &user, &token, "tun@openssh.com"]).unwrap();
    let done = capture(command, None, PATIENCE).unwrap();
    let expect = "twice no\nzero 126\nlong b''\nshort b''\n";
    has(&done.out(), &[expect, "odd no\nafter None\nbefore no\ntries True\n"]);
    assert_eq!(world.ssh(&["true"]).unwrap().code(), 0);
    world.verified().unwrap();
}

#[test]
fn programs_that_bring_their_own_client_work() {
    let world = World::start(EVERYTHING, "").unwrap();
    let (port, token) = (world.port.number().to_string(), world.token().unwrap());
    let user = format!("{}%web", world.account);
    let there = world.target.dir().join("file").display().to_string();
    let asyncssh = "
import sys, asyncio, asyncssh
async def main():
    async with asyncssh.connect('127.0.0.1', int(sys.argv[1]), username=sys.argv[2],
                                password=sys.argv[3], known_hosts=None) as conn:
        results = await asyncio.gather(*[conn.run(f'echo {n}', check=True) for n in range(8)])
        print([result.stdout.strip() for result in results])
        # One after the other, more than may be open at once.
        for _ in range(40):
            await conn.run('true', check=True)
        async with conn.start_sftp_client() as sftp:
            async with sftp.open(sys.argv[4], 'wb') as file:
                await file.write(b'x' * 100_000)
            print((await sftp.stat(sys.argv[4])).size)
asyncio.run(main())
";
    let command = python(asyncssh, &[&port, &user, &token, &there]).unwrap();
    let done = capture(command, None, PATIENCE).unwrap();
    let all = "['0', '1', '2', '3', '4', '5', '6', '7']\n100000\n";
    assert_eq!(done.out(), all, "{done}{}", world.gateway.log());
    let ansible = xtask::places::ssh_python_home().join("bin/ansible");
    assert!(ansible.is_file(), "no ansible; install it: cargo xtask setup");
    let mut command = std::process::Command::new(ansible);
    let config = world.dir.join("config").display().to_string();
    command
        .args(["-i", "web,", "web", "-m", "command", "-a", "echo from ansible"])
        .args(["--ssh-common-args", &format!("-F {config}"), "-e"])
        .arg("ansible_python_interpreter=/usr/bin/python3")
        .env("HOME", world.dir.path())
        .env("ANSIBLE_HOST_KEY_CHECKING", "False")
        .env("LC_ALL", "C.UTF-8")
        .env_remove("SSH_AUTH_SOCK");
    let done = capture(command, None, PATIENCE).unwrap();
    has(&done.out(), &["web | CHANGED | rc=0", "from ansible"]);
    world.verified().unwrap();
}
