//! Facts by text, snapshot and path, bounded by entries and bytes.
//!
//! Two generations: a full young one becomes the old one, and the old one is dropped; a hit in the
//! old one moves the entry back. Every operation is constant, nothing is ordered. The 64-bit hash is
//! keyed per process (a client chooses the text) and only finds the entry: text, epoch and path are
//! compared in full.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use crate::catalog::SearchPath;
use crate::facts::Facts;

const SHARDS: usize = 16;

#[derive(Debug)]
pub(crate) struct Cache {
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
    /// Per generation of one shard.
    entries_max: usize,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Shard {
    young: Generation,
    old: Generation,
}

#[derive(Debug, Default)]
struct Generation {
    entries: HashMap<u64, Entry, BuildHasherDefault<Identity>>,
    bytes: usize,
}

#[derive(Debug, Clone)]
struct Entry {
    text: Arc<str>,
    epoch: u64,
    path: Arc<SearchPath>,
    facts: Arc<Facts>,
    bytes: usize,
}

impl Entry {
    fn is(&self, text: &str, epoch: u64, path: &SearchPath) -> bool {
        self.epoch == epoch && *self.text == *text && *self.path == *path
    }
}

/// The key is a hash already.
#[derive(Debug, Default, Clone, Copy)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

impl Cache {
    pub(crate) fn new(entries_max: usize, bytes_max: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::new(Shard::default())),
            entries_max: (entries_max / (2 * SHARDS)).max(1),
            bytes_max: (bytes_max / (2 * SHARDS)).max(1),
        }
    }

    fn hash(&self, text: &str, epoch: u64, path: &SearchPath) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        text.hash(&mut hasher);
        epoch.hash(&mut hasher);
        path.hash(&mut hasher);
        hasher.finish()
    }

    fn shard(&self, hash: u64) -> Option<&Mutex<Shard>> {
        // The map uses the low bits.
        self.shards.get((hash >> 57) as usize % SHARDS)
    }

    pub(crate) fn find(&self, text: &str, epoch: u64, path: &SearchPath) -> Option<Arc<Facts>> {
        let hash = self.hash(text, epoch, path);
        let mut shard = self.shard(hash)?.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = shard.young.entries.get(&hash) {
            return entry.is(text, epoch, path).then(|| Arc::clone(&entry.facts));
        }
        let entry = shard.old.entries.get(&hash)?;
        if !entry.is(text, epoch, path) {
            return None;
        }
        let (entry, facts) = (entry.clone(), Arc::clone(&entry.facts));
        self.put(&mut shard, hash, entry);
        Some(facts)
    }

    pub(crate) fn insert(&self, text: &str, epoch: u64, path: &SearchPath, facts: &Arc<Facts>) {
        let hash = self.hash(text, epoch, path);
        let bytes = text.len() + facts.weight() + 128;
        // What alone would empty the cache is not worth keeping.
        if bytes > self.bytes_max {
            return;
        }
        let Some(shard) = self.shard(hash) else { return };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = Entry {
            text: text.into(),
            epoch,
            path: Arc::new(path.clone()),
            facts: Arc::clone(facts),
            bytes,
        };
        self.put(&mut shard, hash, entry);
    }

    fn put(&self, shard: &mut Shard, hash: u64, entry: Entry) {
        let young = &mut shard.young;
        if young.entries.len() >= self.entries_max || young.bytes + entry.bytes > self.bytes_max {
            shard.old = std::mem::take(young);
        }
        let young = &mut shard.young;
        young.bytes += entry.bytes;
        if let Some(before) = young.entries.insert(hash, entry) {
            young.bytes -= before.bytes;
        }
    }

    #[cfg(test)]
    fn held(&self) -> (usize, usize) {
        let mut held = (0, 0);
        for shard in &self.shards {
            let shard = shard.lock().unwrap();
            for generation in [&shard.young, &shard.old] {
                held.0 += generation.entries.len();
                held.1 += generation.bytes;
            }
        }
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> SearchPath {
        SearchPath::new(["public"])
    }

    #[test]
    fn the_whole_key_counts() {
        let cache = Cache::new(100, 1 << 20);
        let facts = Arc::new(Facts::default());
        cache.insert("select 1", 1, &path(), &facts);
        assert!(cache.find("select 1", 1, &path()).is_some());
        assert!(cache.find("select 1", 2, &path()).is_none());
        assert!(cache.find("select 2", 1, &path()).is_none());
        assert!(cache.find("select 1", 1, &SearchPath::new(["other"])).is_none());
        assert!(cache.find("select 1", 1, &path().with_temp(["t"])).is_none());
    }

    #[test]
    fn bounds_hold_and_what_is_used_stays() {
        let cache = Cache::new(320, 1 << 20);
        let facts = Arc::new(Facts::default());
        cache.insert("hot", 1, &path(), &facts);
        for n in 0..10_000 {
            cache.insert(&format!("select {n}"), 1, &path(), &facts);
            assert!(cache.find("hot", 1, &path()).is_some(), "after {n}");
        }
        let (entries, bytes) = cache.held();
        assert!(entries <= 320 && bytes <= 1 << 20, "{entries} entries, {bytes} bytes");
        // Too large to keep, and it evicts nothing.
        cache.insert(&"x".repeat(1 << 20), 1, &path(), &facts);
        assert!(cache.find("hot", 1, &path()).is_some());
        assert_eq!(cache.held(), (entries, bytes));
    }
}
