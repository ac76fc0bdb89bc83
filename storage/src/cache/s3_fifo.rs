//! A bounded cache that all volumes share: sharded, scan-resistant, sized in bytes.
//!
//! ```text
//!   new ─► small (a tenth) ─used again─► main ─round and round─┬─used meanwhile─► once more
//!             └─not used again─► evicted; a ghost keeps        └─not used─► evicted
//!                its key, and a key that returns soon goes straight into main
//! ```
//!
//! Two of them exist: extents of data, which come and go in parts (`blocks.rs`), and nodes of the
//! map. Both are keyed by address, and because an address names the same bytes forever, an entry is
//! never stale and a block that a thousand forks share is held once.
//!
//! I1  The entries, with their overhead, never take more than the budget.
//! I2  The entries that an account brought in never take more than its cap: an account at its cap
//!     evicts one of its own.
//! I3  A block that is read ahead replaces other such blocks and blocks that were read once, never
//!     a block that was used again.
//!
//! Source: Yang et al., "FIFO queues are all you need for cache eviction" (S3-FIFO), SOSP 2023. One
//! pass over a large volume goes through the small queue alone.

use super::{
    account::Account,
    shard::{Parts, Shard},
};
use crate::{
    format::NodeRef,
    map::{Node, Nodes},
};
use std::sync::{Arc, Mutex, MutexGuard};

/// Most shards.
const SHARDS_MAX: u64 = 16;
/// Least bytes of a shard, where there are several: its small queue then holds some extents.
const SHARD_BYTES_MIN: u64 = 4 << 20;

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
    pub(super) shards: Box<[Mutex<Shard<V>>]>,
    pub(super) shard_bytes_max: usize,
}

impl<V: Parts> Cache<V> {
    /// A cache of at most `bytes_max`.
    pub(crate) fn new(bytes_max: u64) -> Self {
        let shards = (bytes_max / SHARD_BYTES_MIN).clamp(1, SHARDS_MAX);
        let shard_bytes_max = usize::try_from(bytes_max / shards).unwrap_or(usize::MAX);
        let shard = |_| Mutex::new(Shard::new(shard_bytes_max));
        Self { shards: (0..shards).map(shard).collect(), shard_bytes_max }
    }

    /// Most bytes that it may hold.
    pub(crate) fn bytes_max(&self) -> u64 {
        (self.shard_bytes_max * self.shards.len()) as u64
    }

    pub(super) fn lock(shard: &Mutex<Shard<V>>) -> MutexGuard<'_, Shard<V>> {
        shard.lock().expect("no panics under this lock")
    }

    /// The shard of a key; neighbouring keys go to different shards.
    fn shard_number(&self, key: u64) -> usize {
        let spread = key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        ((spread * self.shards.len() as u64) >> 32) as usize
    }

    pub(super) fn shard(&self, key: u64) -> MutexGuard<'_, Shard<V>> {
        Self::lock(&self.shards[self.shard_number(key)])
    }

    /// Calls `look` with an entry under the lock of its shard; keep it short.
    pub(super) fn get<R>(&self, key: u64, look: impl FnOnce(&V) -> R) -> Option<R> {
        self.shard(key).get(key).map(look)
    }

    /// Inserts an entry whose content takes `content_bytes`, unless the account's cap, or entries
    /// that are worth more, leave no room; then `make` is not called.
    pub(super) fn insert(
        &self,
        key: u64,
        content_bytes: usize,
        owner: Option<&Arc<Account>>,
        origin: Origin,
        make: impl FnOnce() -> V,
    ) {
        let bytes = content_bytes + ENTRY_BYTES;
        if bytes > self.shard_bytes_max || self.shard(key).contains(key) {
            return;
        }
        if owner.is_some_and(|owner| !self.take_room(owner, bytes, key)) {
            return;
        }
        let mut shard = self.shard(key);
        // Another worker may have put it in meanwhile.
        if !shard.contains(key) && shard.make_room(bytes, origin) {
            let content_bytes = u32::try_from(content_bytes).expect("an entry is below 4 GiB");
            shard.push(key, make(), (bytes, content_bytes), owner.cloned(), origin);
        } else if let Some(owner) = owner {
            owner.give_back(bytes as u64);
        }
    }

    /// Takes room from an account, whose own entries make it where its cap is reached. Returns
    /// whether there is so much.
    pub(super) fn take_room(&self, owner: &Account, bytes: usize, key: u64) -> bool {
        while !owner.try_take(bytes as u64) {
            if self.evict_owned(owner, self.shard_number(key)).is_none() {
                return false;
            }
        }
        true
    }

    /// Evicts one of the account's entries, from the shard `first` if it has one.
    fn evict_owned(&self, owner: &Account, first: usize) -> Option<V> {
        let number = self.shards.len();
        let from = |i| Self::lock(&self.shards[(first + i) % number]).evict_owned(owner);
        (0..number).find_map(from)
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

/// The cache of map nodes, by their addresses.
pub(crate) type NodeCache = Cache<Arc<Node>>;

impl Parts for Arc<Node> {
    fn used(&self) -> u16 {
        1
    }
}

impl Nodes for NodeCache {
    fn get(&self, node: &NodeRef) -> Option<Arc<Node>> {
        Cache::get(self, node.address.raw(), Arc::clone)
    }
}

impl NodeCache {
    /// The node, without counting as a use of it.
    pub(crate) fn peek(&self, node: &NodeRef) -> Option<Arc<Node>> {
        let key = node.address.raw();
        self.shard(key).peek(key).cloned()
    }

    /// Inserts a node under the address it has on disk.
    pub(crate) fn put(&self, node: Arc<Node>) {
        let home = node.home().expect("only nodes that are on disk are cached");
        let (key, bytes) = (home.address.raw(), node.memory_bytes());
        self.insert(key, bytes, None, Origin::Demand, || node);
    }
}
