//! Live sessions: list, kill, cancel by key, extend by a fresh credential.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bulla_core::{PrincipalId, SessionId, Timestamp};
pub use bulla_host::{Counters, Tell};
use bulla_wire::CANCEL_KEY_BYTES;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc::UnboundedSender;

/// Shortest cancel key that is looked at.
const CANCEL_KEY_BYTES_MIN: usize = 8;

/// A live session as an operator sees it.
#[derive(Debug, Clone)]
pub struct LiveSession {
    pub id: SessionId,
    pub principal: PrincipalId,
    pub resource: Arc<str>,
    pub opened: Timestamp,
    pub source: Arc<str>,
    pub commands: u64,
    pub denied: u64,
    pub held: u64,
    pub rows: u64,
}

pub struct Handle {
    pub id: SessionId,
    pub principal: PrincipalId,
    pub resource: Arc<str>,
    pub opened: Timestamp,
    pub source: Arc<str>,
    pub counters: Arc<Counters>,
    /// None where a client has no such key.
    pub cancel_key: Option<[u8; CANCEL_KEY_BYTES]>,
    pub tell: UnboundedSender<Tell>,
}

impl Handle {
    pub fn tell(&self, what: Tell) {
        // A session that is gone needs no telling.
        let _ = self.tell.send(what);
    }
}

#[derive(Default)]
struct Maps {
    sessions: HashMap<SessionId, Arc<Handle>>,
    /// By the first bytes of the cancel key; the rest is compared in constant time.
    keys: HashMap<[u8; 4], Vec<SessionId>>,
    principals: HashMap<PrincipalId, Identified>,
}

/// What the sessions of one principal share.
#[derive(Default)]
struct Identified {
    sessions: usize,
    logins: Arc<Logins>,
}

/// Logins of one principal whose credentials are kept in mind: more are not needed, and the oldest
/// are forgotten.
const LOGINS_MAX: usize = 64;

/// The latest logins of one principal. A login of a principal with thousands of sessions writes
/// here, and wakes none of them.
#[derive(Default)]
pub struct Logins(Mutex<Latest>);

#[derive(Default)]
struct Latest {
    count: u64,
    /// Number and end of each that no later one outlasts, so ends fall from the front to the back.
    ends: VecDeque<(u64, Timestamp)>,
}

impl Logins {
    fn add(&self, until: Timestamp) {
        let mut latest = self.0.lock();
        latest.count += 1;
        while latest.ends.back().is_some_and(|(_, end)| *end <= until) {
            latest.ends.pop_back();
        }
        if latest.ends.len() >= LOGINS_MAX {
            latest.ends.pop_front();
        }
        let number = latest.count;
        latest.ends.push_back((number, until));
    }
    fn count(&self) -> u64 {
        self.0.lock().count
    }
    /// How long the credentials last that came after so many.
    pub fn until(&self, since: u64) -> Timestamp {
        let latest = self.0.lock();
        let found = latest.ends.iter().find(|(number, _)| *number > since);
        found.map_or(Timestamp(0), |(_, end)| *end)
    }
}

#[derive(Default)]
pub struct Registry(RwLock<Maps>);

fn key_head(key: &[u8]) -> Option<[u8; 4]> {
    key.get(..4)?.try_into().ok()
}

fn forget<K: std::hash::Hash + Eq>(map: &mut HashMap<K, Vec<SessionId>>, key: &K, id: SessionId) {
    if let Some(ids) = map.get_mut(key) {
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            map.remove(key);
        }
    }
}

impl Registry {
    /// Registers until the guard drops.
    pub fn enter(self: &Arc<Self>, handle: Handle) -> Entered {
        let handle = Arc::new(handle);
        let mut maps = self.0.write();
        if let Some(head) = handle.cancel_key.as_ref().and_then(|key| key_head(key)) {
            maps.keys.entry(head).or_default().push(handle.id);
        }
        let identified = maps.principals.entry(handle.principal.clone()).or_default();
        identified.sessions += 1;
        let logins = identified.logins.clone();
        let since = logins.count();
        maps.sessions.insert(handle.id, handle.clone());
        Entered { registry: self.clone(), handle, logins, since }
    }
    pub fn len(&self) -> usize {
        self.0.read().sessions.len()
    }
    pub fn each(&self, f: impl Fn(&Handle)) {
        self.0.read().sessions.values().for_each(|handle| f(handle));
    }
    pub fn tell(&self, id: SessionId, what: Tell) -> bool {
        let maps = self.0.read();
        let found = maps.sessions.get(&id);
        if let Some(handle) = found {
            handle.tell(what);
        }
        found.is_some()
    }
    /// Tells the session whose cancel key this is; whether there is one. Whoever asks hears neither.
    pub fn cancel(&self, key: &[u8]) -> bool {
        if !(CANCEL_KEY_BYTES_MIN..=CANCEL_KEY_BYTES).contains(&key.len()) {
            return false;
        }
        let mut found = false;
        let maps = self.0.read();
        let ids = key_head(key).and_then(|head| maps.keys.get(&head));
        for handle in ids.into_iter().flatten().filter_map(|id| maps.sessions.get(id)) {
            let own = handle.cancel_key.as_ref().and_then(|own| own.get(..key.len()));
            let Some(own) = own else { continue };
            if aws_lc_rs::constant_time::verify_slices_are_equal(own, key).is_ok() {
                handle.tell(Tell::Cancel);
                found = true;
            }
        }
        found
    }
    /// A fresh credential of `principal` lasts until `until`: so do its sessions, which look when
    /// their own time is up.
    pub fn extend(&self, principal: &PrincipalId, until: Timestamp) {
        if let Some(identified) = self.0.read().principals.get(principal) {
            identified.logins.add(until);
        }
    }
    pub fn list(&self) -> Vec<LiveSession> {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let maps = self.0.read();
        let mut list: Vec<_> = maps
            .sessions
            .values()
            .map(|h| LiveSession {
                id: h.id,
                principal: h.principal.clone(),
                resource: h.resource.clone(),
                opened: h.opened,
                source: h.source.clone(),
                commands: read(&h.counters.commands),
                denied: read(&h.counters.denied),
                held: read(&h.counters.held),
                rows: read(&h.counters.rows),
            })
            .collect();
        list.sort_by_key(|session| session.id);
        list
    }
}

/// Keeps a session registered.
pub struct Entered {
    registry: Arc<Registry>,
    pub handle: Arc<Handle>,
    pub logins: Arc<Logins>,
    /// Logins of its principal before it: they do not prolong it.
    pub since: u64,
}

impl Entered {
    /// How long the credentials last that its principal presented after it opened.
    pub fn identified_until(&self) -> Timestamp {
        self.logins.until(self.since)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let (id, mut maps) = (self.handle.id, self.registry.0.write());
        maps.sessions.remove(&id);
        let key = self.handle.cancel_key.as_ref();
        if let Some(head) = key.and_then(|key| key_head(key)) {
            forget(&mut maps.keys, &head, id);
        }
        if let Some(identified) = maps.principals.get_mut(&self.handle.principal) {
            identified.sessions = identified.sessions.saturating_sub(1);
            if identified.sessions == 0 {
                maps.principals.remove(&self.handle.principal);
            }
        }
    }
}
