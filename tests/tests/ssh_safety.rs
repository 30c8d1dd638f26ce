//! SSH through the real gateway where something is wrong: a record that cannot be written, a
//! channel that stands still, hosts and clients that are not who they should be, strangers.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bulla_e2e::disk::Failing;
use bulla_e2e::expect::{has, has_not};
use bulla_e2e::issuer::Issuer;
use bulla_e2e::proc::{Proc, capture};
use bulla_e2e::ssh::{Sshd, World, keygen, me, python};

const PATIENCE: Duration = Duration::from_secs(120);

const EVERYTHING: &str = r#"
@id("everything")
permit (principal, action, resource)
unless { context has command && context.command like "*held*" };
@id("hold") @hold("dba")
permit (principal, action == Bulla::Action::"ssh:exec", resource)
when { context has command && context.command like "*held*" };
@id("no")
forbid (principal, action == Bulla::Action::"ssh:exec", resource)
when { context has command && context.command like "*forbidden*" };
"#;

/// Whatever cannot be recorded, the whole session ends, every channel of it, and nothing passes.
#[test]
fn what_cannot_be_recorded_ends_the_session() {
    let script = "
import os, sys, time, paramiko
port, user, token, moment, path, go = sys.argv[1:]
transport = paramiko.Transport(('127.0.0.1', int(port)))
transport.start_client(timeout=60)
transport.auth_password(user, token)
other, mine = transport.open_session(), transport.open_session()
for channel in other, mine:
    channel.settimeout(60)
other.exec_command('cat')
other.sendall(b'x')
assert other.recv(1) == b'x'
if moment == 'end':
    mine.exec_command('cat')
    mine.sendall(b'x')
    assert mine.recv(1) == b'x'
if moment == 'file':
    sftp = paramiko.SFTPClient.from_transport(transport)
    file = sftp.open(path, 'w')
print('ready', flush=True)
while not os.path.exists(go):
    time.sleep(0.01)
if moment == 'file':
    sftp.get_channel().close()
elif moment == 'end':
    mine.shutdown_write()
else:
    mine.exec_command('echo ' + moment)
if moment != 'file':
    words = b''
    while part := mine.recv_stderr(1000):
        words += part
    print(words.decode().strip())
    print('status', mine.recv_exit_status())
until = time.time() + 60
while transport.is_active() and time.time() < until:
    time.sleep(0.01)
print('over', not transport.is_active(), other.closed)
";
    let disk = Failing::new().unwrap();
    for moment in ["end", "file", "held", "forbidden"] {
        let target = Sshd::start().unwrap();
        let world = World::with_env(target, EVERYTHING, "", "", "", &disk.env()).unwrap();
        let (port, token) = (world.port.number().to_string(), world.token().unwrap());
        let user = format!("{}%web", world.account);
        let there = world.target.dir().join("file").display().to_string();
        let go = world.dir.join("go").display().to_string();
        let args = [&port, &user, &token, moment, &there, &go];
        let client = Proc::spawn("a client", python(script, &args).unwrap()).unwrap();
        client.wait_line("ready", PATIENCE).unwrap();
        disk.fail("none").unwrap();
        world.dir.write("go", "").unwrap();
        assert!(client.wait(PATIENCE).unwrap().success(), "{moment}: {}", client.log());
        let said = client.log();
        has(&said, &["over True True"]);
        if moment != "file" {
            has(&said, &["status 255"]);
        }
        // Behind the end of its output a channel has no words any more; the connection has.
        if moment == "held" || moment == "forbidden" {
            has(&said, &["and nothing passes unrecorded"]);
        }
        assert!(disk.has_failed(), "{moment}: nothing failed");
        world.gateway.wait_http("/readyz", 503).unwrap();
        // Nobody new either.
        assert_ne!(world.ssh(&["true"]).unwrap().code(), 0, "{moment}");
    }
}

/// A command that does not read its input slows no other of the connection, and loses nothing.
#[test]
fn a_channel_that_stands_still_slows_no_other() {
    let world = World::start(EVERYTHING, "").unwrap();
    let script = "
import sys, asyncio, asyncssh, hashlib
port, user, token, go = sys.argv[1:]
async def main():
    async with asyncssh.connect('127.0.0.1', int(port), username=user, password=token,
                                known_hosts=None) as conn:
        stalled = await conn.create_process(
            f'for i in $(seq 4000); do [ -e {go} ] && break; sleep 0.05; done; sha256sum', encoding=None)
        body = bytes(range(256)) * (24 << 12)
        stalled.stdin.write(body)
        async def busy():
            sent = b'y' * (4 << 20)
            back = await conn.run('cat', input=sent, encoding=None, check=True)
            down = await conn.run('head -c 16777216 /dev/zero', encoding=None, check=True)
            return back.stdout == sent, len(down.stdout)
        print(await asyncio.wait_for(busy(), 90))
        print('stalled', stalled.exit_status)
        # More than may wait without consequence: slowed, and not cut.
        more = bytes(16 << 20)
        stalled.stdin.write(more)
        stalled.stdin.write_eof()
        await asyncio.sleep(0.5)
        open(go, 'w').close()
        digest = (await asyncio.wait_for(stalled.stdout.read(), 90)).decode().split()[0]
        await stalled.wait()
        print(digest == hashlib.sha256(body + more).hexdigest(), stalled.exit_status)
asyncio.run(main())
";
    let (port, token) = (world.port.number().to_string(), world.token().unwrap());
    let user = format!("{}%web", world.account);
    let go = world.dir.join("go").display().to_string();
    let command = python(script, &[&port, &user, &token, &go]).unwrap();
    let done = capture(command, None, Duration::from_secs(240)).unwrap();
    let expect = "(True, 16777216)\nstalled None\nTrue 0\n";
    assert_eq!(done.out(), expect, "{done}{}", world.gateway.log());
    world.verified().unwrap();
}

/// With a key, with a password, at a host that an authority certifies.
#[test]
fn the_gateway_logs_in_as_it_is_told_and_only_where_it_should() {
    let account = me().unwrap();
    let secret = |file: &str| format!("login = {{ user = {account:?}, password_file = {file:?} }}");
    // With a key.
    let target = Sshd::start().unwrap();
    let own = target.dir().join("own");
    target.authorize(&keygen(&own).unwrap()).unwrap();
    let more = secret(&own.display().to_string());
    let world = World::before(target, EVERYTHING, "login = \"key\"", &more, "").unwrap();
    assert_eq!(world.ssh(&["echo in"]).unwrap().out(), "in\n", "{}", world.gateway.log());
    has(&world.target.log(), &["Accepted publickey", "ED25519 SHA256:"]);
    has_not(&world.target.log(), &["ED25519-CERT"]);
    world.target.authorize("").unwrap();
    let refused = world.ssh(&["echo in"]).unwrap();
    assert_eq!((refused.code(), refused.out().as_str()), (255, ""));
    has(&refused.err(), &["could not reach `web`"]);
    has(&world.gateway.log(), &["it does not let the gateway in as"]);
    world.verified().unwrap();
    // With a password, right and wrong.
    let script = "
import sys, asyncio, asyncssh
class Server(asyncssh.SSHServer):
    def begin_auth(self, username): return True
    def password_auth_supported(self): return True
    def validate_password(self, username, password): return password == 'correct horse'
async def run(process):
    process.stdout.write('in\\n')
    process.exit(0)
async def main():
    await asyncssh.create_server(Server, '127.0.0.1', int(sys.argv[1]),
                                 server_host_keys=[sys.argv[2]], process_factory=run)
    print('listening', flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
";
    for (password, status) in [("correct horse", 0), ("battery staple", 255)] {
        let target = Sshd::script(script).unwrap();
        let file = target.dir().write("password", password).unwrap();
        let more = secret(&file.display().to_string());
        let world = World::before(target, EVERYTHING, "login = \"password\"", &more, "").unwrap();
        let done = world.ssh(&["true"]).unwrap();
        assert_eq!(done.code(), status, "{done}{}", world.gateway.log());
        assert_eq!(done.out() == "in\n", status == 0);
        for said in [done.err(), world.gateway.log(), world.replayed().unwrap()] {
            has_not(&said, &[password]);
        }
    }
    // A host that its authority certifies, by its name.
    let other = Sshd::start().unwrap();
    for (name, signed, status) in
        [("web.internal", true, 0), ("db.internal", true, 255), ("web.internal", false, 255)]
    {
        let (target, authority) = Sshd::certified("web.internal").unwrap();
        let authority = if signed { authority } else { other.host_key().to_owned() };
        let ssh = format!("host_authorities = [{authority:?}]\nhost_name = {name:?}");
        let world = World::before(target, EVERYTHING, &ssh, "", "").unwrap();
        let done = world.ssh(&["true"]).unwrap();
        assert_eq!(done.code(), status, "{name} {signed}: {done}{}", world.gateway.log());
        if status != 0 {
            has(&world.gateway.log(), &["its host key is none that is pinned"]);
            has_not(&world.target.log(), &["Accepted"]);
        }
    }
}

/// A token by keyboard-interactive; and nobody any more whose issuer is not configured any more.
#[test]
fn an_issuer_that_is_removed_vouches_for_nobody() {
    let world = World::start(EVERYTHING, "").unwrap();
    let script = "
import sys, paramiko
port, user, token = sys.argv[1:]
def enter(work):
    transport = paramiko.Transport(('127.0.0.1', int(port)))
    transport.start_client(timeout=60)
    try:
        work(transport)
        channel = transport.open_session()
        channel.exec_command('echo in')
        print(channel.recv(100).decode().strip())
    except paramiko.AuthenticationException as error:
        print('no:', error)
    transport.close()
def interactive(answers):
    def answer(title, instructions, prompts):
        print(prompts)
        return answers
    return lambda transport: transport.auth_interactive(user, answer)
enter(interactive([token]))
enter(interactive([token[:-2]]))
enter(interactive([]))
for name in user, 'nobody%web', 'x%nowhere':
    key = paramiko.ECDSAKey.generate()
    enter(lambda transport: transport.auth_publickey(name, key))
";
    let (port, token) = (world.port.number().to_string(), world.token().unwrap());
    let user = format!("{}%web", world.account);
    let run = || {
        let command = python(script, &[&port, &user, &token]).unwrap();
        capture(command, None, PATIENCE).unwrap().success().unwrap()
    };
    let (asked, no) = ("[('Token: ', False)]\n", "no: Authentication failed.\n");
    let rest = format!("{asked}{no}{asked}{no}{no}{no}{no}");
    assert_eq!(run(), format!("{asked}in\n{rest}"), "{}", world.gateway.log());
    assert_eq!(world.ssh(&["true"]).unwrap().code(), 0);
    let other = Issuer::start().unwrap();
    let path = world.gateway.inside("bulla.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    assert!(config.contains(world.issuer.url()));
    std::fs::write(&path, config.replace(world.issuer.url(), other.url())).unwrap();
    world.gateway.reload().unwrap();
    world.gateway.proc().wait_line("reloaded: bundle", PATIENCE).unwrap();
    // Neither its tokens, nor certificates that were minted for them.
    assert_eq!(run(), format!("{asked}{no}{rest}"));
    let refused = world.ssh(&["true"]).unwrap();
    assert_eq!(refused.code(), 255);
    has(&refused.err(), &["Permission denied"]);
    world.verified().unwrap();
}

fn dial(world: &World) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", world.port.number())).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A packet before encryption (RFC 4253 section 6).
fn packet(payload: &[u8]) -> Vec<u8> {
    let padding = 8 - (5 + payload.len()) % 8 + 8;
    let length = u32::try_from(1 + payload.len() + padding).unwrap();
    let mut packet = length.to_be_bytes().to_vec();
    packet.push(u8::try_from(padding).unwrap());
    packet.extend_from_slice(payload);
    packet.resize(packet.len() + padding, 0);
    packet
}

/// What the gateway offers (RFC 4253 section 7.1), as lines; and the connection.
fn offers(world: &World) -> (TcpStream, Vec<String>) {
    let mut stream = dial(world);
    stream.write_all(b"SSH-2.0-raw\r\n").unwrap();
    let mut banner = Vec::new();
    while !banner.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        banner.push(byte[0]);
    }
    assert_eq!(banner, b"SSH-2.0-Bulla\r\n");
    let mut head = [0; 5];
    stream.read_exact(&mut head).unwrap();
    let length = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
    let mut body = vec![0; length - 1];
    stream.read_exact(&mut body).unwrap();
    assert_eq!(body[0], 20, "SSH_MSG_KEXINIT");
    let mut rest = &body[17..];
    let lists = std::iter::repeat_with(|| {
        let (length, behind) = rest.split_first_chunk::<4>().unwrap();
        let (list, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
        rest = behind;
        String::from_utf8(list.to_vec()).unwrap()
    });
    let lists = lists.take(10).collect();
    (stream, lists)
}

/// A client's offers, the strict exchange among them (PROTOCOL of OpenSSH, section 1.10).
fn kexinit() -> Vec<u8> {
    let mut payload = vec![20];
    payload.resize(17, 7);
    for list in [
        "curve25519-sha256,kex-strict-c-v00@openssh.com",
        "ssh-ed25519",
        "aes256-gcm@openssh.com",
        "aes256-gcm@openssh.com",
        "hmac-sha2-256-etm@openssh.com",
        "hmac-sha2-256-etm@openssh.com",
        "none",
        "none",
        "",
        "",
    ] {
        payload.extend(u32::try_from(list.len()).unwrap().to_be_bytes());
        payload.extend_from_slice(list.as_bytes());
    }
    payload.extend([0; 5]);
    payload
}

#[test]
fn strangers_are_few_brief_and_offered_little() {
    let limits = "[limits]\nhandshakes_per_source_max = 3\n";
    let world = World::before(Sshd::start().unwrap(), EVERYTHING, "", "", limits).unwrap();
    let begun = Instant::now();
    let mut idle = dial(&world);
    let (_, lists) = offers(&world);
    let [kex, keys, ciphers, back, macs, _, packed, ..] = &lists[..] else { panic!("{lists:?}") };
    let expect = "mlkem768x25519-sha256,curve25519-sha256,curve25519-sha256@libssh.org,\
                  ecdh-sha2-nistp256,ecdh-sha2-nistp384,ext-info-s,kex-strict-s-v00@openssh.com";
    assert_eq!(kex, expect);
    assert_eq!(keys, "ssh-ed25519-cert-v01@openssh.com,ssh-ed25519");
    assert_eq!(ciphers, "aes128-gcm@openssh.com,aes256-gcm@openssh.com");
    assert_eq!(ciphers, back);
    assert_eq!(macs, "hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com");
    assert_eq!(packed, "none");
    // A strict exchange bears nothing between (CVE-2023-48795): not even what means nothing.
    let (mut stream, _) = offers(&world);
    stream.write_all(&packet(&kexinit())).unwrap();
    stream.write_all(&packet(&[2, 0, 0, 0, 0])).unwrap();
    let mut rest = Vec::new();
    let asked = Instant::now();
    let _ = stream.read_to_end(&mut rest);
    assert!(asked.elapsed() < Duration::from_secs(20), "it went on: {rest:?}");
    // One of three is left; whoever is known needs none of them.
    let more = [dial(&world), dial(&world)];
    let full = world.ssh(&["true"]).unwrap();
    assert_eq!(full.code(), 255, "{full}");
    drop(more);
    let until = Instant::now() + PATIENCE;
    while world.ssh(&["true"]).unwrap().code() != 0 {
        assert!(Instant::now() < until, "{}", world.gateway.log());
    }
    let known: Vec<_> = (0..4)
        .map(|_| {
            let mut ssh = world.client("ssh").unwrap();
            ssh.args(["web", "echo up; sleep 600"]);
            let known = Proc::spawn("ssh", ssh).unwrap();
            known.wait_line("up", PATIENCE).unwrap();
            known
        })
        .collect();
    drop(known);
    // And nobody stays a stranger for long.
    let mut said = Vec::new();
    idle.read_to_end(&mut said).unwrap();
    let took = begun.elapsed();
    assert_eq!(said, b"SSH-2.0-Bulla\r\n");
    assert!((20..100).contains(&took.as_secs()), "{took:?}");
    world.verified().unwrap();
}

#[test]
fn keys_are_renewed_under_way() {
    let world = World::start(EVERYTHING, "").unwrap();
    let mut body = String::new();
    while body.len() < 12 << 20 {
        writeln!(body, "{}", body.len()).unwrap();
    }
    let mut ssh = world.client("ssh").unwrap();
    ssh.args(["-v", "-o", "RekeyLimit=1M", "web", "cat"]);
    let done = capture(ssh, Some(body.clone().into_bytes()), PATIENCE).unwrap();
    assert!(done.out() == body, "{} of {} bytes", done.out().len(), body.len());
    let exchanges = done.err().matches("SSH2_MSG_KEXINIT received").count();
    assert!(exchanges > 3, "{exchanges}");
    world.verified().unwrap();
}
