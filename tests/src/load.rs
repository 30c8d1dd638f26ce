//! What the gateway holds: many sessions, sockets that never speak, a target that hangs, answers of
//! any size. Each function is one measurement; the sizes are the caller's.

use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::ca::Authority;
use crate::client::Dial;
use crate::fake::{self, Fake, Manner, rows_of};
use crate::gateway::{Gateway, ResourceSpec, Spec};
use crate::issuer::Issuer;
use crate::postgres::Postgres;
use crate::tap::{self, Door, Keep, Raw};

/// Logins at once while many sessions are opened.
const OPENING_MAX: usize = 24;
const POLICY: &str = r#"
@id("load-may-everything")
permit (principal in Bulla::Group::"team:load", action, resource);
"#;

/// A gateway before fake targets: `orders` answers, `mute` takes connections and says nothing.
#[derive(Debug)]
pub struct Bed {
    pub gateway: Gateway,
    pub door: Door,
    pub mute: Door,
    _fakes: [Fake; 2],
    _issuer: Issuer,
}

impl Bed {
    /// `more` are further tables of the configuration.
    ///
    /// # Errors
    /// Something does not start.
    pub fn start(more: &str) -> Result<Self> {
        files_max()?;
        let authority = Authority::new("load")?;
        let server = Postgres::start(&authority)?;
        let answers = fake::learn(&server)?;
        let fakes = [Fake::start(&answers, Manner::Prompt)?, Fake::start(&answers, Manner::Mute)?];
        let issuer = Issuer::start()?;
        let mut spec = Spec::new(&server, &issuer).policy("load.cedar", POLICY);
        let resource = |name: &str, fake: &Fake| ResourceSpec {
            port: fake.port(),
            tls: "disable".to_owned(),
            ..ResourceSpec::new(name, &server, "bulla_trust", "none")
        };
        spec.resources = vec![resource("orders", &fakes[0]), resource("mute", &fakes[1])];
        spec.last = more.to_owned();
        let gateway = Gateway::start(&authority, spec)?;
        let token = issuer.mint()?.subject("load/one").claim("team", "load").token()?;
        let door = Door::new(&gateway.dial(&token))?;
        let mute = Door::new(&gateway.dial_resource("mute", &token))?;
        Ok(Self { gateway, door, mute, _fakes: fakes, _issuer: issuer })
    }

    pub fn address(&self) -> SocketAddr {
        let Dial { port, .. } = self.gateway.dial("");
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// Memory of the gateway, in KiB: now, and the most since its start.
    ///
    /// # Errors
    /// It is gone.
    pub fn memory_kib(&self) -> Result<(u64, u64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.gateway.proc().pid()))
            .context("read the gateway's status")?;
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
        };
        Ok((field("VmRSS:"), field("VmHWM:")))
    }

    /// Processor time of the gateway.
    ///
    /// # Errors
    /// It is gone.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.gateway.proc().pid()))?;
        let rest = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
        let ticks: u64 =
            rest.split(' ').skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
        // Linux reports in hundredths of a second to everybody.
        Ok(Duration::from_millis(ticks * 10))
    }
}

/// Raises the number of files that this process, and what it starts, may have open.
///
/// # Errors
/// The system refuses.
pub fn files_max() -> Result<u64> {
    // SAFETY: zero is a valid `rlimit`, which the first call only fills and the second only reads.
    let limit = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        ensure!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0, "read the limit");
        limit.rlim_cur = limit.rlim_max;
        ensure!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0, "raise the limit");
        limit
    };
    Ok(limit.rlim_cur)
}

/// A quantile of what was measured.
pub fn quantile(times: &mut [Duration], q: f64) -> Duration {
    times.sort_unstable();
    let at = (times.len().saturating_sub(1) as f64 * q).round() as usize;
    times.get(at).copied().unwrap_or_default()
}

fn block<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tap::runtime().block_on(future)
}

/// What opening many sessions cost.
#[derive(Debug)]
pub struct Opened {
    pub sessions: Vec<Raw>,
    pub took: Duration,
    /// Of the gateway, for all of them.
    pub cpu: Duration,
    /// Memory of the gateway for each, once they are idle.
    pub kib_each: f64,
}

impl Opened {
    /// What one core of the gateway could open in a second.
    pub fn per_second_and_core(&self) -> f64 {
        self.sessions.len() as f64 / self.cpu.as_secs_f64().max(1e-9)
    }
}

/// Opens so many sessions and leaves them idle, each after one statement.
///
/// # Errors
/// One of them is turned away.
pub fn idle_sessions(bed: &Bed, count: usize) -> Result<Opened> {
    // The first session of all makes what all share.
    block(async {
        bed.door.enter(Keep::Nothing).await?.query("SELECT name FROM customers").await
    })?;
    let (before, cpu, started) = (bed.memory_kib()?.0, bed.cpu()?, Instant::now());
    let sessions = block(async {
        let mut opening = JoinSet::new();
        let mut sessions = Vec::with_capacity(count);
        for _ in 0..count {
            while opening.len() >= OPENING_MAX {
                let done = opening.join_next().await.context("a login")?;
                sessions.push(done??);
            }
            let door = bed.door.clone();
            opening.spawn(async move { door.enter(Keep::Nothing).await });
        }
        while let Some(done) = opening.join_next().await {
            sessions.push(done??);
        }
        Ok::<_, anyhow::Error>(sessions)
    })?;
    let (took, cpu) = (started.elapsed(), bed.cpu()?.saturating_sub(cpu));
    let mut sessions = sessions;
    block(async {
        for session in &mut sessions {
            let (error, _) = session.query("SELECT name FROM customers").await?;
            ensure!(error.is_none(), "{error:?}");
        }
        Ok(())
    })?;
    let grown = bed.memory_kib()?.0.saturating_sub(before);
    Ok(Opened { sessions, took, cpu, kib_each: grown as f64 / count.max(1) as f64 })
}

/// Statements of so many sessions at once, for a while: how many, and how long each took.
///
/// # Errors
/// One of them fails.
pub fn busy(bed: &Bed, sessions: usize, during: Duration) -> Result<Vec<Duration>> {
    block(async {
        let (mut working, mut raws) = (JoinSet::new(), Vec::with_capacity(sessions));
        for _ in 0..sessions {
            raws.push(bed.door.enter(Keep::Nothing).await?);
        }
        let until = Instant::now() + during;
        for mut raw in raws {
            working.spawn(async move {
                let mut times = Vec::new();
                while Instant::now() < until {
                    let asked = Instant::now();
                    let (error, _) = raw.query("SELECT name FROM customers").await?;
                    ensure!(error.is_none(), "{error:?}");
                    times.push(asked.elapsed());
                }
                Ok::<_, anyhow::Error>(times)
            });
        }
        let mut all = Vec::new();
        while let Some(done) = working.join_next().await {
            all.extend(done??);
        }
        Ok(all)
    })
}

/// Opens so many sockets that never say a word, from as many addresses as it takes.
///
/// # Errors
/// One of them is not taken.
pub fn silent_sockets(bed: &Bed, count: usize) -> Result<Vec<TcpStream>> {
    let address = bed.address();
    block(async {
        let mut sockets = Vec::with_capacity(count);
        for n in 0..count {
            sockets.push(dial_from([127, 0, 0, 2 + u8::try_from(n / 10_000)?], address).await?);
        }
        Ok(sockets)
    })
}

/// Dials from one of the addresses of loopback.
///
/// # Errors
/// Nobody listens.
pub async fn dial_from(source: [u8; 4], address: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((source, 0)))?;
    socket.connect(address).await.context("dial")
}

/// How long logins take, one after the other.
///
/// # Errors
/// One of them is turned away.
pub fn logins(bed: &Bed, count: usize) -> Result<Vec<Duration>> {
    block(async {
        let mut times = Vec::new();
        for _ in 0..count {
            let asked = Instant::now();
            drop(bed.door.enter(Keep::Nothing).await?);
            times.push(asked.elapsed());
        }
        Ok(times)
    })
}

/// Whether the gateway closes a socket that says nothing, and when.
///
/// # Errors
/// It says something, or stays open.
pub fn closed_after(mut socket: TcpStream, patience: Duration) -> Result<Duration> {
    let started = Instant::now();
    block(async {
        let mut byte = [0];
        let read = tokio::time::timeout(patience, socket.read(&mut byte)).await;
        match read.context("the socket stays open")? {
            Ok(0) | Err(_) => Ok(started.elapsed()),
            Ok(_) => anyhow::bail!("the gateway spoke first"),
        }
    })
}

/// Sessions whose statement never gets an answer, and logins at a target that never speaks.
///
/// # Errors
/// They cannot be opened.
pub fn hung(bed: &Bed, sessions: usize) -> Result<Vec<Raw>> {
    block(async {
        let mut hung = Vec::new();
        for _ in 0..sessions {
            let mut raw = bed.door.enter(Keep::Nothing).await?;
            raw.send(&fake::hangs()?).await?;
            hung.push(raw);
            let door = bed.mute.clone();
            // It is never let in; the gateway gives up on it in its own time.
            tokio::spawn(async move { door.enter(Keep::Nothing).await.map(drop) });
        }
        Ok(hung)
    })
}

/// A large answer.
#[derive(Debug)]
pub struct Large {
    pub bytes: u64,
    pub took: Duration,
    /// By how much the gateway grew, in KiB, over what it was before any large answer: with the
    /// first of [`WARM_BYTES`], and with the one that is measured.
    pub first_kib: u64,
    pub grown_kib: u64,
}

/// An answer of this size makes what large answers need: queues, arenas, the journal's buffers.
pub const WARM_BYTES: i64 = 100_000_000;

/// Reads an answer of so many bytes.
///
/// # Errors
/// It is cut off.
pub fn large(bed: &Bed, bytes: i64) -> Result<Large> {
    block(async {
        let mut raw = bed.door.enter(Keep::Nothing).await?;
        raw.query("SELECT name FROM customers").await?;
        let ask = |bytes| tap::query(&rows_of(bytes));
        let (at_rest, _) = bed.memory_kib()?;
        raw.send(&ask(WARM_BYTES)?).await?;
        raw.drain().await?;
        let (_, first) = bed.memory_kib()?;
        let started = Instant::now();
        raw.send(&ask(bytes)?).await?;
        let bytes = raw.drain().await?;
        let (_, peak) = bed.memory_kib()?;
        Ok(Large {
            bytes,
            took: started.elapsed(),
            first_kib: first.saturating_sub(at_rest),
            grown_kib: peak.saturating_sub(first),
        })
    })
}
