//! Keeps fresh what readings need to know of a target, one task and one connection per place.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bulla_wire::{Place, Protocol, ScoutStep};
use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, oneshot},
};

use crate::connect::{Connected, Connector};

/// A place that no session used for so many intervals is looked at no more.
const IDLE_INTERVALS_MAX: u32 = 24;
/// Longest time for one look at a target.
const SCOUT_TIMEOUT: Duration = Duration::from_secs(30);

type Reply = oneshot::Sender<bool>;

/// As long as one lives, what is known of its place is kept fresh.
pub struct Lease(#[expect(dead_code, reason = "counted by its references")] Arc<()>);

struct Watched {
    asks: mpsc::UnboundedSender<Reply>,
    leases: Arc<()>,
}

#[derive(Clone)]
pub struct Scouts {
    connector: Arc<dyn Connector>,
    interval: Duration,
    connect: Duration,
    places: Arc<Mutex<HashMap<Place, Watched>>>,
}

impl Scouts {
    pub fn new(connector: Arc<dyn Connector>, interval: Duration, connect: Duration) -> Self {
        Self { connector, interval, connect, places: Arc::default() }
    }

    /// Resolves to true once what is known is at least as new as this call.
    pub fn refresh(&self, place: &Place, protocol: &Arc<dyn Protocol>) -> oneshot::Receiver<bool> {
        let (reply, answer) = oneshot::channel();
        if protocol.scout(place).is_none() {
            let _ = reply.send(true);
            return answer;
        }
        let mut places = self.places.lock();
        let reply = match places.get(place) {
            Some(watched) => match watched.asks.send(reply) {
                Ok(()) => return answer,
                Err(mpsc::error::SendError(reply)) => reply,
            },
            None => reply,
        };
        let (asks, inbox) = mpsc::unbounded_channel();
        let _ = asks.send(reply);
        let leases = Arc::new(());
        places.insert(place.clone(), Watched { asks, leases: leases.clone() });
        tokio::spawn(watch(self.clone(), place.clone(), protocol.clone(), inbox, leases));
        answer
    }

    /// Whether what is known of a place is looked at again and again.
    pub fn is_watched(&self, place: &Place) -> bool {
        self.places.lock().get(place).is_some_and(|watched| !watched.asks.is_closed())
    }

    /// None where there is nothing to know.
    pub fn lease(&self, place: &Place) -> Option<Lease> {
        self.places.lock().get(place).map(|watched| Lease(watched.leases.clone()))
    }

    async fn look(
        &self,
        place: &Place,
        protocol: &Arc<dyn Protocol>,
        connection: &mut Option<Connected>,
    ) -> Result<(), String> {
        let Some(mut scout) = protocol.scout(place) else { return Ok(()) };
        let mut connected = match connection.take() {
            Some(connected) => connected,
            None => {
                let dial = self.connector.connect(place, Vec::new());
                let dialled = tokio::time::timeout(self.connect, dial).await;
                dialled.map_err(|_| "timed out".to_string())?.map_err(|e| e.to_string())?
            }
        };
        loop {
            match scout.input(&mut connected.rest).map_err(|e| e.to_string())? {
                ScoutStep::Done { .. } => break,
                ScoutStep::Send(bytes) => {
                    connected.stream.write_all(&bytes).await.map_err(|e| e.to_string())?;
                    connected.stream.flush().await.map_err(|e| e.to_string())?;
                }
                ScoutStep::More => {
                    connected.rest.reserve(16 * 1024);
                    let read = connected.stream.read_buf(&mut connected.rest).await;
                    if read.map_err(|e| e.to_string())? == 0 {
                        return Err("the target closed the connection".into());
                    }
                }
            }
        }
        connected.rest = BytesMut::new();
        *connection = Some(connected);
        Ok(())
    }
}

async fn watch(
    scouts: Scouts,
    place: Place,
    protocol: Arc<dyn Protocol>,
    mut inbox: mpsc::UnboundedReceiver<Reply>,
    leases: Arc<()>,
) {
    let (mut connection, mut idle) = (None, 0);
    loop {
        if idle >= IDLE_INTERVALS_MAX {
            // Under the lock, so that nobody leases or asks what is about to be forgotten.
            let mut places = scouts.places.lock();
            if Arc::strong_count(&leases) <= 2 && inbox.is_empty() {
                places.remove(&place);
                return;
            }
            idle = 0;
        }
        let mut asks = Vec::new();
        match tokio::time::timeout(scouts.interval, inbox.recv()).await {
            Ok(Some(reply)) => {
                idle = 0;
                asks.push(reply);
                while let Ok(reply) = inbox.try_recv() {
                    asks.push(reply);
                }
            }
            Ok(None) => return,
            Err(_) => idle += 1,
        }
        // One retry: a connection that has been idle may have been closed by the target.
        let mut known = false;
        for _ in 0..2 {
            let look = scouts.look(&place, &protocol, &mut connection);
            match tokio::time::timeout(SCOUT_TIMEOUT, look).await {
                Ok(Ok(())) => {
                    known = true;
                    break;
                }
                Ok(Err(why)) => {
                    tracing::warn!(resource = %place.resource, part = %place.part, why, "catalogue");
                }
                Err(_) => tracing::warn!(resource = %place.resource, "catalogue: timed out"),
            }
        }
        for reply in asks {
            let _ = reply.send(known);
        }
    }
}
