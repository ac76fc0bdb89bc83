//! A bounded cache that all volumes share: sharded, scan-resistant, sized in bytes.
//!
//! ```text
//!   new ─► small (a tenth) ─used again─► main ─round and round─┬─used meanwhile─► once more
//!             └─not used again─► evicted; a ghost keeps        └─not used─► evicted
//!                its key, and a key that returns soon goes straight into main
//! ```
//!
//! Two of them exist: blocks of data, and nodes of the map. Both are keyed by address, and because
//! an address names the same bytes forever, an entry is never stale and a block that a thousand
//! forks share is held once.
//!
//! I1  The entries, with their overhead, never take more than the budget.
//! I2  The entries that an account brought in never take more than its cap: an account at its cap
//!     evicts one of its own.
//! I3  A block that is read ahead replaces other such blocks and blocks that were read once, never
//!     a block that was used again.
//!
//! Source: Yang et al., "FIFO queues are all you need for cache eviction" (S3-FIFO), SOSP 2023. One
//! pass over a large volume goes through the small queue alone.

use super::{account::Account, shard::Shard};
use crate::{
    base::Address,
    format::NodeRef,
    map::{Node, Nodes},
};
use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard};

const SHARDS: usize = 16;

/// Overhead of an entry in bytes: its place in table and queues, a ghost key, its reference count,
/// the allocator's heads (counted on a 64-bit machine, rounded up).
pub(super) const ENTRY_BYTES: usize = 192;

/// Why a block or node comes into the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Brought in for a request.
    Demand,
    /// Brought in by read-ahead.
    Readahead,
}

/// The cache. `V` is held by value and looked at under its shard's lock.
pub(crate) struct Cache<V> {
    pub(super) shards: [Mutex<Shard<V>>; SHARDS],
    shard_bytes_max: usize,
}

impl<V> Cache<V> {
    /// A cache of at most `bytes_max`.
    pub(crate) fn new(bytes_max: u64) -> Self {
        let shard_bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX) / SHARDS;
        Self {
            shards: std::array::from_fn(|_| Mutex::new(Shard::new(shard_bytes_max))),
            shard_bytes_max,
        }
    }

    /// Most bytes that it may hold.
    pub(crate) fn bytes_max(&self) -> u64 {
        (self.shard_bytes_max * SHARDS) as u64
    }

    pub(super) fn lock(shard: &Mutex<Shard<V>>) -> MutexGuard<'_, Shard<V>> {
        shard.lock().expect("no panics under this lock")
    }

    /// The shard of a key; neighbouring addresses go to different shards.
    fn shard_number(key: u64) -> usize {
        (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 60) as usize
    }

    fn shard(&self, key: Address) -> MutexGuard<'_, Shard<V>> {
        Self::lock(&self.shards[Self::shard_number(key.raw())])
    }

    /// Calls `look` with an entry under the lock of its shard; keep it short.
    pub(crate) fn get<R>(&self, key: Address, look: impl FnOnce(&V) -> R) -> Option<R> {
        self.shard(key).get(key.raw()).map(look)
    }

    /// Whether it is there, without counting as a use of it.
    pub(crate) fn contains(&self, key: Address) -> bool {
        self.shard(key).contains(key.raw())
    }

    /// Inserts an entry whose content takes `bytes`, unless the account's cap, or entries that are
    /// worth more, leave no room; then `make` is not called.
    pub(crate) fn insert(
        &self,
        key: Address,
        bytes: usize,
        owner: Option<&Arc<Account>>,
        origin: Origin,
        make: impl FnOnce() -> V,
    ) {
        let bytes = bytes + ENTRY_BYTES;
        if bytes > self.shard_bytes_max || self.contains(key) {
            return;
        }
        if let Some(owner) = owner {
            while !owner.try_take(bytes as u64) {
                if self.evict_owned(owner, Self::shard_number(key.raw())).is_none() {
                    return;
                }
            }
        }
        let mut shard = self.shard(key);
        // Another worker may have put it in meanwhile.
        if !shard.contains(key.raw()) && shard.make_room(bytes, origin) {
            shard.push(key.raw(), make(), bytes, owner.cloned(), origin);
        } else if let Some(owner) = owner {
            owner.give_back(bytes as u64);
        }
    }

    /// Evicts one of the account's entries, from the shard `first` if it has one.
    fn evict_owned(&self, owner: &Account, first: usize) -> Option<V> {
        let from = |i| Self::lock(&self.shards[(first + i) % SHARDS]).evict_owned(owner);
        (0..SHARDS).find_map(from)
    }

    /// Evicts what an account holds beyond its cap, which may just have become smaller.
    pub(crate) fn trim(&self, owner: &Account) {
        while owner.is_over() && self.evict_owned(owner, 0).is_some() {}
    }

    /// Bytes held now.
    pub(crate) fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| Self::lock(shard).bytes() as u64).sum()
    }
}

/// The cache of data blocks.
pub(crate) type BlockCache = Cache<Bytes>;

/// The cache of map nodes.
pub(crate) type NodeCache = Cache<Arc<Node>>;

impl Nodes for NodeCache {
    fn get(&self, node: &NodeRef) -> Option<Arc<Node>> {
        Cache::get(self, node.address, Arc::clone)
    }
}

impl NodeCache {
    /// The node, without counting as a use of it.
    pub(crate) fn peek(&self, node: &NodeRef) -> Option<Arc<Node>> {
        self.shard(node.address).peek(node.address.raw()).cloned()
    }

    /// Inserts a node under the address it has on disk.
    pub(crate) fn put(&self, node: Arc<Node>) {
        let home = node.home().expect("only nodes that are on disk are cached");
        self.insert(home.address, node.memory_bytes(), None, Origin::Demand, || node);
    }
}
