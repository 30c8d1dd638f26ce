//! SSH through the gateway beside the host itself and beside a jump host (`ProxyJump`).
//!
//! Everybody is asked by the same OpenSSH client for the same host, with the same key exchange
//! (X25519; by itself OpenSSH 9.2 would choose sntrup761 with the host and not with the gateway).
//! A jump host passes on what it cannot read; the gateway ends the connection, judges what is asked
//! and records both directions whole.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bulla_e2e::place::TempDir;
use bulla_e2e::proc::capture;
use bulla_e2e::ssh::{Sshd, World, keygen, python};

use crate::Args;
use crate::median;
use crate::rows::{Reach, Row};

const PATIENCE: Duration = Duration::from_secs(300);

const POLICY: &str = r#"
@id("bench-may-everything")
permit (principal, action, resource);
"#;

/// Connections of one round; commands and keys of one connection.
const CONNECTIONS: usize = 5;
const COMMANDS: usize = 40;
const KEYS: usize = 100;
/// Bytes of one transfer for each second that a measurement may take.
const BYTES: u64 = 64 << 20;

/// What is measured, and what it may be beside the host itself.
const ROWS: [(&str, Option<Reach>); 5] = [
    ("ssh-connect", Some(Reach::AtMost(1.22))),
    ("ssh-exec", Some(Reach::AtMost(1.5))),
    ("ssh-key", Some(Reach::AtMost(1.5))),
    ("ssh-down", None),
    ("ssh-up", None),
];

/// Times commands and keys of one connection, and prints both medians in microseconds.
const CLIENT: &str = "
import sys, time, asyncio, asyncssh, statistics
port, user, key, password, commands, keys = sys.argv[1:]
async def main():
    how = dict(password=password, client_keys=None) if password else dict(client_keys=[key])
    async with asyncssh.connect('127.0.0.1', int(port), username=user, known_hosts=None,
                                agent_path=None, kex_algs=['curve25519-sha256'],
                                encryption_algs=['aes128-gcm@openssh.com'], **how) as conn:
        times = []
        for _ in range(int(commands)):
            begun = time.perf_counter()
            await conn.run('true', check=True)
            times.append(time.perf_counter() - begun)
        print(statistics.median(times) * 1e6)
        shell = await conn.create_process('cat', term_type='xterm')
        times = []
        for _ in range(int(keys)):
            begun = time.perf_counter()
            shell.stdin.write('x')
            await shell.stdout.read(1)
            times.append(time.perf_counter() - begun)
        print(statistics.median(times) * 1e6)
        shell.close()
asyncio.run(main())
";

/// A way to a host.
struct Contender {
    name: &'static str,
    config: String,
    port: u16,
    user: String,
    key: String,
    token: String,
}

struct Bed {
    contenders: Vec<Contender>,
    _worlds: Vec<World>,
    _jump: Sshd,
    dir: TempDir,
}

impl Bed {
    fn start() -> Result<Self> {
        let dir = TempDir::new("bench-ssh")?;
        let (mut contenders, mut worlds) = (Vec::new(), Vec::new());
        let own = keygen(&dir.join("key"))?;
        for (name, durability) in [("bulla-strict", "strict"), ("bulla-bounded", "bounded")] {
            let more = format!("durability = \"{durability}\"");
            let world = World::before(Sshd::start()?, POLICY, "", &more, "")?;
            contenders.push(Contender {
                name,
                config: world.dir.join("config").display().to_string(),
                port: world.port.number(),
                user: format!("{}%web", world.account),
                key: String::new(),
                token: world.token()?,
            });
            worlds.push(world);
        }
        let first = worlds.first().context("a world")?;
        let jump = Sshd::start()?;
        first.target.authorize(&own)?;
        jump.authorize(&own)?;
        let (key, user) = (dir.join("key").display().to_string(), first.account.clone());
        let known = format!(
            "[127.0.0.1]:{} {}\n[127.0.0.1]:{} {}\n",
            first.target.port(),
            first.target.host_key(),
            jump.port(),
            jump.host_key()
        );
        let known = dir.write("known_hosts", known)?.display().to_string();
        let host = |name: &str, port: u16, more: &str| {
            format!("Host {name}\n HostName 127.0.0.1\n Port {port}\n User {user}\n{more}")
        };
        let rest = format!(
            "Host *\n UserKnownHostsFile {known}\n GlobalKnownHostsFile /dev/null\n \
             StrictHostKeyChecking yes\n IdentityFile {key}\n IdentitiesOnly yes\n \
             BatchMode yes\n KexAlgorithms curve25519-sha256\n"
        );
        for (name, via) in [("direct", ""), ("proxyjump", " ProxyJump jump\n")] {
            let config = [
                host("web", first.target.port(), via),
                host("jump", jump.port(), ""),
                rest.clone(),
            ];
            let config = dir.write(name, config.concat())?.display().to_string();
            let (port, user, key) = (first.target.port(), user.clone(), key.clone());
            contenders.push(Contender { name, config, port, user, key, token: String::new() });
        }
        Ok(Self { contenders, _worlds: worlds, _jump: jump, dir })
    }

    fn ssh(contender: &Contender, line: &str) -> Command {
        let mut command = Command::new("ssh");
        command.args(["-F", &contender.config, "-o", "KexAlgorithms=curve25519-sha256"]);
        command.args(["-o", "Ciphers=aes128-gcm@openssh.com", "web", line]);
        command.env_remove("SSH_AUTH_SOCK");
        command
    }

    /// Seconds until `ssh HOST true` has ended.
    fn connect(contender: &Contender) -> Result<f64> {
        let begun = Instant::now();
        let mut command = Self::ssh(contender, "true");
        command.stdin(Stdio::null()).stderr(Stdio::null());
        let status = command.status().context("ssh; install it: apt-get install openssh-client")?;
        ensure!(status.success(), "{}: ssh ended with {status}", contender.name);
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Seconds for a command, and for a key and its echo; none through a jump host.
    fn typing(contender: &Contender) -> Result<Option<(f64, f64)>> {
        if contender.name == "proxyjump" {
            return Ok(None);
        }
        let Contender { port, user, key, token, .. } = contender;
        let (port, commands, keys) = (port.to_string(), COMMANDS.to_string(), KEYS.to_string());
        let command = python(CLIENT, &[&port, user, key, token, &commands, &keys])?;
        let said = capture(command, None, PATIENCE)?.success()?;
        let mut values = said.lines().map(|line| line.parse::<f64>().map(|us| us * 1e-6));
        let mut next = || values.next().context("a median is missing")?.context("read a median");
        Ok(Some((next()?, next()?)))
    }

    /// Seconds for a transfer to, or from, the client.
    fn transfer(&self, contender: &Contender, bytes: u64, up: bool) -> Result<f64> {
        let line = match up {
            true => "cat > /dev/null".to_owned(),
            false => format!("head -c {bytes} /dev/zero"),
        };
        let mut command = Self::ssh(contender, &line);
        command.stdout(Stdio::null()).stdin(Stdio::null());
        if up {
            let body = self.dir.join("body");
            let file = std::fs::File::options()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(body);
            let file = file.context("make what is sent")?;
            file.set_len(bytes)?;
            command.stdin(file);
        }
        let begun = Instant::now();
        let status = command.status().context("start ssh")?;
        ensure!(status.success(), "{}: ssh ended with {status}", contender.name);
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Seconds of each row of one round.
    fn round(&self, contender: &Contender, seconds: u32) -> Result<[Option<f64>; 5]> {
        let times = (0..CONNECTIONS).map(|_| Self::connect(contender));
        let connect = median(&mut times.collect::<Result<Vec<_>>>()?);
        let typing = Self::typing(contender)?;
        let bytes = BYTES * u64::from(seconds);
        let (exec, key) = typing.unzip();
        let down = self.transfer(contender, bytes, false)?;
        Ok([connect, exec, key, Some(down), Some(self.transfer(contender, bytes, true)?)])
    }
}

/// Whether anything here is asked for.
pub fn wanted(only: &str) -> bool {
    only.is_empty() || ROWS.iter().any(|(name, _)| name.contains(only))
}

/// Measures everything, round by round.
pub fn measure(args: &Args) -> Result<Vec<Row>> {
    let bed = Bed::start()?;
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        let round = bed.contenders.iter().map(|each| bed.round(each, args.seconds));
        rounds.push(round.collect::<Result<Vec<_>>>()?);
    }
    let of = |who: &str, row: usize| -> Vec<Option<f64>> {
        let at = bed.contenders.iter().position(|each| each.name == who).unwrap_or(usize::MAX);
        rounds.iter().map(|round| *round.get(at)?.get(row)?).collect()
    };
    let mut rows = Vec::new();
    for (row, (name, reach)) in ROWS.iter().enumerate() {
        println!("\n{name}, milliseconds");
        for contender in &bed.contenders {
            let all = of(contender.name, row).into_iter().flatten();
            let all: Vec<String> = all.map(|s| format!("{:.2}", s * 1e3)).collect();
            println!("  {:<14} {}", contender.name, all.join(" "));
        }
        for (who, other) in [
            ("bulla-strict", "direct"),
            ("bulla-bounded", "direct"),
            ("bulla-strict", "proxyjump"),
            ("proxyjump", "direct"),
        ] {
            let pairs = of(who, row).into_iter().zip(of(other, row));
            let values: Vec<f64> = pairs.filter_map(|(a, b)| Some(a? / b?)).collect();
            let reach = reach.filter(|_| who != "proxyjump" && other == "direct");
            if !values.is_empty() {
                rows.push(Row::new(format!("{name}, {who}: time / {other}"), "×", reach, values));
            }
        }
    }
    Ok(rows)
}
