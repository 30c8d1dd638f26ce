//! Live tunnels, on the gateway's side: which agent takes a session, and what is tried next.
//!
//! An agent may have several instances, and an instance several tunnels. A new stream goes to the
//! tunnel with the fewest open streams among those that may serve the resource; one that fails is
//! followed by the next, until time is up. A stream that is open stays where it is: if its tunnel
//! is lost, so is the target, and nothing is tried again on a client's behalf.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bulla_core::{Secret, Timestamp};
use bulla_wire::TargetHello;
use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use crate::{
    message::{
        self, Answer, AskSecret, AskSign, CANCEL_PATH, Cancel, Message, OPEN_PATH, Offer, Open,
        SECRET_PATH, SIGN_PATH, Signed, Told, Why,
    },
    roster::{InstanceId, Member},
    stream::{TunnelStream, lost},
};

/// Tunnels of one instance, and of all.
const TUNNELS_PER_INSTANCE_MAX: usize = 8;
const TUNNELS_MAX: usize = 2_000;
/// A cancel key of ours starts with the number of its tunnel.
const PREFIX_BYTES: usize = 8;
/// What an agent reports as its target's settings has to be read within the message's bounds; the
/// bytes behind the answer belong to the target.
const READ_AHEAD_BYTES: usize = 16 * 1024;

/// Why there is no stream to a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("agent {0} is offline")]
    Offline(String),
    #[error("agent {agent}: {detail}")]
    Failed { agent: String, detail: String },
    #[error("the agent that held the session is gone")]
    Gone,
    #[error("agent {0} did not answer in time")]
    TimedOut(String),
    #[error("the request is out of bounds: {0}")]
    Request(String),
}

impl OpenError {
    /// What a client may know of it.
    pub fn public(&self) -> Option<String> {
        match self {
            Self::Offline(_) => Some(self.to_string()),
            Self::Failed { .. } | Self::Gone | Self::TimedOut(_) | Self::Request(_) => None,
        }
    }
}

/// What a stream is wanted for.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// Agents that may be used, by name.
    pub agents: &'a [Arc<str>],
    pub resource: &'a str,
    pub protocol: &'a str,
    pub part: &'a str,
    pub settings: Vec<(String, String)>,
    /// For all attempts together.
    pub timeout: Duration,
}

/// A stream to a target that has let the agent in.
pub struct Joined {
    pub stream: TunnelStream,
    /// As the agent reports it, within bounds. The cancel key is for [`Fleet::cancel`] only.
    pub hello: TargetHello,
}

/// A live tunnel, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelView {
    pub name: Arc<str>,
    pub instance: InstanceId,
    pub peer: SocketAddr,
    pub since: Timestamp,
    pub build: String,
    pub streams: usize,
    pub draining: bool,
    pub round_trip_us: u64,
    /// What the agent's own configuration offers.
    pub targets: Vec<String>,
}

/// One tunnel.
pub(crate) struct Tunnel {
    pub id: u64,
    pub member: Member,
    pub peer: SocketAddr,
    pub since: Timestamp,
    pub build: String,
    pub capabilities: Vec<String>,
    pub offers: Vec<Offer>,
    /// What the roster says that it may serve.
    pub resources: Vec<Arc<str>>,
    pub send: SendRequest<Bytes>,
    pub streams: Arc<AtomicUsize>,
    /// When it was chosen last, to take turns.
    pub turn: AtomicU64,
    pub draining: AtomicBool,
    pub round_trip_us: AtomicU64,
    /// Ends the tunnel, with a word for the record.
    pub end: watch::Sender<Option<&'static str>>,
}

/// Counts a stream while it lives.
struct Count(Arc<AtomicUsize>);

impl Count {
    fn new(streams: &Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Ordering::Relaxed);
        Self(streams.clone())
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All live tunnels of a gateway.
#[derive(Default)]
pub struct Fleet {
    tunnels: Mutex<Vec<Arc<Tunnel>>>,
    turns: AtomicU64,
}

impl Fleet {
    /// The next number for a tunnel.
    pub(crate) fn number(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed)
    }

    /// False if there are too many.
    pub(crate) fn enter(&self, tunnel: Arc<Tunnel>) -> bool {
        let mut tunnels = self.tunnels.lock();
        let same = |other: &&Arc<Tunnel>| other.member == tunnel.member;
        if tunnels.len() >= TUNNELS_MAX
            || tunnels.iter().filter(same).count() >= TUNNELS_PER_INSTANCE_MAX
        {
            return false;
        }
        tunnels.push(tunnel);
        true
    }

    pub(crate) fn leave(&self, id: u64) {
        self.tunnels.lock().retain(|tunnel| tunnel.id != id);
    }

    /// Ends the tunnels of an agent, or of one of its instances.
    pub fn end(&self, name: &str, instance: Option<&InstanceId>, why: &'static str) {
        for tunnel in self.tunnels.lock().iter() {
            let member = &tunnel.member;
            if *member.name == *name && instance.is_none_or(|id| *id == member.instance) {
                tunnel.end.send_replace(Some(why));
            }
        }
    }

    /// Ends every tunnel.
    pub(crate) fn end_all(&self, why: &'static str) {
        for tunnel in self.tunnels.lock().iter() {
            tunnel.end.send_replace(Some(why));
        }
    }

    pub fn list(&self) -> Vec<TunnelView> {
        let view = |tunnel: &Arc<Tunnel>| TunnelView {
            name: tunnel.member.name.clone(),
            instance: tunnel.member.instance.clone(),
            peer: tunnel.peer,
            since: tunnel.since,
            build: tunnel.build.clone(),
            streams: tunnel.streams.load(Ordering::Relaxed),
            draining: tunnel.draining.load(Ordering::Relaxed),
            round_trip_us: tunnel.round_trip_us.load(Ordering::Relaxed),
            targets: tunnel.offers.iter().map(|offer| offer.name.clone()).collect(),
        };
        self.tunnels.lock().iter().map(view).collect()
    }

    /// Tunnels that may serve a resource, the least busy first.
    fn candidates(&self, wanted: &Wanted<'_>) -> Vec<Arc<Tunnel>> {
        let may = |tunnel: &&Arc<Tunnel>| {
            wanted.agents.contains(&tunnel.member.name)
                && tunnel.resources.iter().any(|one| **one == *wanted.resource)
                && !tunnel.draining.load(Ordering::Relaxed)
                && tunnel.capabilities.iter().any(|one| one == message::LOGIN)
        };
        let mut found: Vec<_> = self.tunnels.lock().iter().filter(may).cloned().collect();
        found.sort_by_cached_key(|tunnel| {
            let busy = tunnel.streams.load(Ordering::Relaxed);
            (busy, tunnel.turn.load(Ordering::Relaxed))
        });
        found
    }

    /// A stream to a target through one of the agents that may serve it.
    pub async fn open(&self, wanted: Wanted<'_>) -> Result<Joined, OpenError> {
        let request = message::encode(&Open {
            target: wanted.resource.into(),
            protocol: wanted.protocol.into(),
            part: wanted.part.into(),
            settings: wanted.settings.clone(),
        });
        let request = request.map_err(|error| OpenError::Request(error.to_string()))?;
        let names: Vec<_> = wanted.agents.iter().map(|name| format!("`{name}`")).collect();
        let mut last = OpenError::Offline(names.join(", "));
        let candidates = self.candidates(&wanted);
        let until = Instant::now() + wanted.timeout;
        let mut left = u32::try_from(candidates.len()).unwrap_or(u32::MAX);
        for tunnel in candidates {
            // Each attempt gets its share of the time that is left.
            let share = until.saturating_duration_since(Instant::now()) / left.max(1);
            left = left.saturating_sub(1);
            tunnel.turn.store(self.number(), Ordering::Relaxed);
            let agent = format!("`{}`", tunnel.member.name);
            let count = Count::new(&tunnel.streams);
            let asked = tokio::time::timeout(share, ask(&tunnel, OPEN_PATH, request.clone())).await;
            let error = match asked {
                Ok(Ok((mut stream, Answer::Ok { account, parameters, cancel_key }))) => {
                    tally(&tunnel, "ok");
                    let mut key = tunnel.id.to_be_bytes().to_vec();
                    let own = message::key(&cancel_key);
                    key.extend(own.map_err(|error| OpenError::Request(error.to_string()))?);
                    stream.guard(Box::new(count));
                    let hello = TargetHello { account, parameters, cancel_key: key };
                    return Ok(Joined { stream, hello });
                }
                Ok(Ok((_, Answer::Failed { why, detail }))) => {
                    if why == Why::Draining {
                        tunnel.draining.store(true, Ordering::Relaxed);
                    }
                    OpenError::Failed { agent, detail: message::clip(&detail) }
                }
                Ok(Err(detail)) => OpenError::Failed { agent, detail },
                Err(_) => OpenError::TimedOut(agent),
            };
            tally(&tunnel, "failed");
            tracing::warn!(resource = wanted.resource, %error, "agent");
            last = error;
        }
        Err(last)
    }

    /// The secret of a target whose protocol logs in with each request, from one of the agents that
    /// may serve it. It is kept nowhere. `spoiled`: the target did not take the one before.
    pub async fn secret(
        &self,
        wanted: &Wanted<'_>,
        spoiled: bool,
    ) -> Result<Option<Secret>, OpenError> {
        let request = message::encode(&AskSecret {
            target: wanted.resource.into(),
            protocol: wanted.protocol.into(),
            spoiled,
        });
        let request = request.map_err(|error| OpenError::Request(error.to_string()))?;
        let names: Vec<_> = wanted.agents.iter().map(|name| format!("`{name}`")).collect();
        let mut last = OpenError::Offline(names.join(", "));
        let until = Instant::now() + wanted.timeout;
        for tunnel in self.candidates(wanted) {
            let agent = format!("`{}`", tunnel.member.name);
            if !tunnel.capabilities.iter().any(|one| one == message::SECRET) {
                let detail = "it cannot hand over a secret; upgrade it".into();
                last = OpenError::Failed { agent, detail };
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            let asked = call::<Told>(tunnel.send.clone(), SECRET_PATH, request.clone());
            last = match tokio::time::timeout(left, asked).await {
                Ok(Ok((_, Told::Ok { secret }))) => {
                    let secret = secret.map(|text| message::secret(&text)).transpose();
                    return secret.map_err(|error| OpenError::Request(error.to_string()));
                }
                Ok(Ok((_, Told::Failed { detail, .. }))) => {
                    OpenError::Failed { agent, detail: message::clip(&detail) }
                }
                Ok(Err(detail)) => OpenError::Failed { agent, detail },
                Err(_) => OpenError::TimedOut(agent),
            };
            tracing::warn!(resource = wanted.resource, error = %last, "agent");
        }
        Err(last)
    }

    /// The tunnel of a stream, and the agent's own key, out of ours.
    fn of<'a>(&self, key: &'a [u8]) -> Result<(Arc<Tunnel>, &'a [u8]), OpenError> {
        let (id, key) = key.split_first_chunk::<PREFIX_BYTES>().ok_or(OpenError::Gone)?;
        let id = u64::from_be_bytes(*id);
        let tunnel = self.tunnels.lock().iter().find(|tunnel| tunnel.id == id).cloned();
        Ok((tunnel.ok_or(OpenError::Gone)?, key))
    }

    /// Asks the agent of a stream to sign what logs in on it. `key`: the stream's cancel key.
    pub async fn sign(
        &self,
        resource: &str,
        protocol: &str,
        key: &[u8],
        data: &[u8],
        timeout: Duration,
    ) -> Result<Vec<u8>, OpenError> {
        let (tunnel, key) = self.of(key)?;
        let agent = format!("`{}`", tunnel.member.name);
        if !tunnel.capabilities.iter().any(|one| one == message::SIGN) {
            let detail = "it cannot sign; upgrade it".into();
            return Err(OpenError::Failed { agent, detail });
        }
        let request = message::encode(&AskSign {
            target: resource.into(),
            protocol: protocol.into(),
            key: message::key_text(key),
            data: message::key_text(data),
        });
        let request = request.map_err(|error| OpenError::Request(error.to_string()))?;
        let asked = call::<Signed>(tunnel.send.clone(), SIGN_PATH, request);
        match tokio::time::timeout(timeout, asked).await {
            Ok(Ok((_, Signed::Ok { signature }))) => {
                message::signed(&signature).map_err(|error| OpenError::Request(error.to_string()))
            }
            Ok(Ok((_, Signed::Failed { detail, .. }))) => {
                Err(OpenError::Failed { agent, detail: message::clip(&detail) })
            }
            Ok(Err(detail)) => Err(OpenError::Failed { agent, detail }),
            Err(_) => Err(OpenError::TimedOut(agent)),
        }
    }

    /// Tells a target to cancel what the session behind `hello` is doing, through its own tunnel.
    pub async fn cancel(
        &self,
        resource: &str,
        protocol: &str,
        hello: &TargetHello,
        timeout: Duration,
    ) -> Result<(), OpenError> {
        let (tunnel, key) = self.of(&hello.cancel_key)?;
        let agent = format!("`{}`", tunnel.member.name);
        if !tunnel.capabilities.iter().any(|one| one == message::CANCEL) {
            let detail = "it cannot cancel; upgrade it".into();
            return Err(OpenError::Failed { agent, detail });
        }
        let request = message::encode(&Cancel {
            target: resource.into(),
            protocol: protocol.into(),
            key: message::key_text(key),
        });
        let request = request.map_err(|error| OpenError::Request(error.to_string()))?;
        match tokio::time::timeout(timeout, ask(&tunnel, CANCEL_PATH, request)).await {
            Ok(Ok((_, Answer::Ok { .. }))) => Ok(()),
            Ok(Ok((_, Answer::Failed { detail, .. }))) => {
                Err(OpenError::Failed { agent, detail: message::clip(&detail) })
            }
            Ok(Err(detail)) => Err(OpenError::Failed { agent, detail }),
            Err(_) => Err(OpenError::TimedOut(agent)),
        }
    }
}

fn tally(tunnel: &Tunnel, result: &'static str) {
    let agent = tunnel.member.name.to_string();
    metrics::counter!("bulla_agent_streams_opened_total", "agent" => agent, "result" => result)
        .increment(1);
}

/// Opens a stream, says `request` and reads one answer.
pub(crate) async fn call<M: Message>(
    send: SendRequest<Bytes>,
    path: &str,
    request: Bytes,
) -> Result<(TunnelStream, M), String> {
    let text = |error: h2::Error| lost(&error);
    let mut send = send.ready().await.map_err(text)?;
    let head = http::Request::post(format!("https://agent.bulla.internal{path}")).body(());
    let head = head.map_err(|error| error.to_string())?;
    let (response, body) = send.send_request(head, false).map_err(text)?;
    let mut body = body;
    // It fits into the window that every stream starts with.
    body.send_data(request, false).map_err(text)?;
    let response = response.await.map_err(text)?;
    if response.status() != http::StatusCode::OK {
        return Err(format!("it answered {}", response.status().as_u16()));
    }
    let mut stream = TunnelStream::new(body, response.into_body());
    let mut input = BytesMut::with_capacity(READ_AHEAD_BYTES);
    let answer = message::read(&mut stream, &mut input).await.map_err(|e| e.to_string())?;
    stream.put_back(input.freeze());
    Ok((stream, answer))
}

async fn ask(
    tunnel: &Tunnel,
    path: &str,
    request: Bytes,
) -> Result<(TunnelStream, Answer), String> {
    call(tunnel.send.clone(), path, request).await
}
