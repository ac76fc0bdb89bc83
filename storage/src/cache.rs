//! A bounded cache that all volumes share: sharded, second chance (CLOCK), sized in bytes.
//!
//! Two of them exist: blocks of data, and nodes of the map. Both are keyed by address, and because an address names the
//! same bytes for ever, an entry is never stale and a block that a thousand forks share is held once.

use crate::{
    address::Address,
    map::{Node, NodeRef, Nodes},
};
use foldhash::fast::FixedState;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

const SHARDS: usize = 16;

/// The cache. `V` is held by value and looked at under its shard's lock.
pub(crate) struct Clock<V> {
    shards: [Mutex<Shard<V>>; SHARDS],
    shard_bytes_max: usize,
    hits: AtomicU64,
    misses: AtomicU64,
}

struct Shard<V> {
    index: HashMap<u64, u32, FixedState>,
    entries: Vec<Entry<V>>,
    hand: usize,
    bytes: usize,
}

struct Entry<V> {
    key: u64,
    value: V,
    bytes: u32,
    /// Looked at since the hand came by.
    referenced: bool,
}

impl<V> Clock<V> {
    /// A cache of at most `bytes_max`.
    pub(crate) fn new(bytes_max: u64) -> Self {
        let shard =
            || Mutex::new(Shard { index: HashMap::default(), entries: Vec::new(), hand: 0, bytes: 0 });
        Self {
            shards: std::array::from_fn(|_| shard()),
            shard_bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX) / SHARDS,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    fn shard(&self, key: u64) -> &Mutex<Shard<V>> {
        // Neighbouring addresses to different shards.
        &self.shards[(key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 60) as usize]
    }

    /// Looks at an entry under the lock of its shard; keep `look` short.
    pub(crate) fn get<R>(&self, key: Address, look: impl FnOnce(&V) -> R) -> Option<R> {
        let mut shard = self.shard(key.raw()).lock().expect("no panics under this lock");
        let at = shard.index.get(&key.raw()).copied();
        let Some(at) = at else {
            self.misses.fetch_add(1, Relaxed);
            return None;
        };
        self.hits.fetch_add(1, Relaxed);
        let entry = &mut shard.entries[at as usize];
        entry.referenced = true;
        Some(look(&entry.value))
    }

    /// Puts an entry in, `bytes` large. `make` may reuse a value that had to go.
    pub(crate) fn insert(&self, key: Address, bytes: usize, make: impl FnOnce(Option<V>) -> V) {
        if bytes > self.shard_bytes_max {
            return;
        }
        let mut shard = self.shard(key.raw()).lock().expect("no panics under this lock");
        if shard.index.contains_key(&key.raw()) {
            return;
        }
        let mut spare = None;
        while shard.bytes + bytes > self.shard_bytes_max {
            spare = Some(shard.evict());
        }
        let (value, at) = (make(spare), shard.entries.len());
        let at = u32::try_from(at).expect("fewer than 2^32 entries");
        shard.entries.push(Entry { key: key.raw(), value, bytes: bytes as u32, referenced: false });
        shard.index.insert(key.raw(), at);
        shard.bytes += bytes;
    }

    /// Look-ups that found their entry, and those that did not.
    pub(crate) fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Relaxed), self.misses.load(Relaxed))
    }

    /// Bytes held now.
    pub(crate) fn bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.lock().expect("no panics under this lock").bytes as u64).sum()
    }
}

impl<V> Shard<V> {
    /// Lets go of the first entry from the hand on that was not looked at since.
    fn evict(&mut self) -> V {
        loop {
            if self.hand >= self.entries.len() {
                self.hand = 0;
            }
            let entry = &mut self.entries[self.hand];
            if std::mem::take(&mut entry.referenced) {
                self.hand += 1;
                continue;
            }
            let gone = self.entries.swap_remove(self.hand);
            self.index.remove(&gone.key);
            if let Some(moved) = self.entries.get(self.hand) {
                self.index.insert(moved.key, self.hand as u32);
            }
            self.bytes -= gone.bytes as usize;
            self.hand += 1;
            return gone.value;
        }
    }
}

/// The cache of map nodes.
pub(crate) type NodeCache = Clock<Arc<Node>>;

impl Nodes for NodeCache {
    fn get(&self, node: &NodeRef) -> Option<Arc<Node>> {
        Clock::get(self, node.address, Arc::clone)
    }
}

impl NodeCache {
    /// The node, without counting as a use of it.
    pub(crate) fn peek(&self, node: &NodeRef) -> Option<Arc<Node>> {
        let shard = self.shard(node.address.raw()).lock().expect("no panics under this lock");
        let at = *shard.index.get(&node.address.raw())?;
        Some(Arc::clone(&shard.entries[at as usize].value))
    }

    /// Puts a node in under the address it has on disk.
    pub(crate) fn put(&self, node: Arc<Node>) {
        let home = node.home().expect("only nodes that are on disk are cached");
        self.insert(home.address, node.memory_bytes(), |_| node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::SegmentId;

    fn key(i: u32) -> Address {
        Address::new(SegmentId(1 + u64::from(i / 16_000)), i % 16_000)
    }

    #[test]
    fn stays_within_its_bytes_and_keeps_what_is_used() {
        let cache = Clock::<u32>::new(16 * 100 * 10);
        for i in 0..10_000 {
            cache.insert(key(i), 10, |_| i);
            assert!(cache.bytes() <= 16 * 1000);
            // Looked at all the time, so it outlives the others.
            assert_eq!(cache.get(key(0), |v| *v), Some(0), "after {i}");
        }
        assert_eq!(cache.get(key(1), |v| *v), None);
    }

    #[test]
    fn entries_that_do_not_fit_are_left_out() {
        let cache = Clock::<u32>::new(1600);
        cache.insert(key(1), 101, |_| 1);
        assert_eq!(cache.bytes(), 0);
    }
}
