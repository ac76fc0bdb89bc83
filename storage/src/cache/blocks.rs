//! The cache of data blocks, in extents: one look-up, one reference and one piece of a reply for up
//! to sixteen blocks. Blocks that were read together go in without a copy.
//!
//! I1  An extent belongs to one account, and all its bytes count against it: the account that
//!     brought in its first blocks, until another one brings blocks that the first has no room for.
//!     Then it belongs to that one.

use super::{
    account::Account,
    extent::{BUFFER_BYTES, CachedExtent, Look, blocks_to_border, extent_of},
    s3_fifo::{Cache, ENTRY_BYTES, Origin},
    shard::Held,
};
use crate::base::{Address, BLOCK_BYTES};
use bytes::Bytes;
use std::sync::Arc;

/// The cache of data blocks.
pub(crate) type BlockCache = Cache<CachedExtent>;

/// How blocks come into an extent.
enum Way {
    /// They are its first.
    New,
    /// Its account has room for them.
    Grow,
    /// The extent, with the bytes that it has, goes to the account that brings them.
    Move { bytes: u32 },
}

impl BlockCache {
    /// Whether a block is there, without counting as a use of it.
    pub(crate) fn contains(&self, block: Address) -> bool {
        let key = extent_of(block);
        self.shard(key).peek(key).is_some_and(|extent| extent.holds(block))
    }

    /// Blocks from `first` on, as many as lie together in memory, at most `blocks`, which lie in
    /// one extent; or how many are missing. A look for read-ahead is no use of them.
    pub(crate) fn look(&self, first: Address, blocks: u32, origin: Origin) -> Look<Bytes> {
        let key = extent_of(first);
        let mut shard = self.shard(key);
        let found = match origin {
            Origin::Demand => shard.take(key, |extent| extent.take(first, blocks)),
            Origin::Readahead => shard.peek(key).and_then(|extent| extent.get(first, blocks)),
        };
        match found {
            Some(data) => Look::Hit(data),
            None => {
                let missing = |extent: &CachedExtent| extent.missing(first, blocks);
                Look::Miss(shard.peek(key).map_or(blocks, missing))
            }
        }
    }

    /// Inserts blocks of one extent: `data` is all that its memory holds. Does nothing where one of
    /// them is there, or where the account's cap, or entries that are worth more, leave no room.
    pub(crate) fn put(&self, first: Address, data: &Bytes, account: &Arc<Account>, origin: Origin) {
        let blocks = (data.len() / BLOCK_BYTES) as u32;
        assert!(blocks <= blocks_to_border(first), "blocks of one extent");
        if data.len() + BUFFER_BYTES + ENTRY_BYTES > self.shard_bytes_max
            || account.cap_bytes() == 0
        {
            return;
        }
        let (key, added) = (extent_of(first), data.len() + BUFFER_BYTES);
        let fits = |extent: &CachedExtent| extent.missing(first, blocks) == blocks;

        let held = match self.shard(key).held(key) {
            None => None,
            Some(held) if !fits(held.value) => return,
            Some(held) => Some((held.owner.cloned(), held.bytes)),
        };
        let take = |payer: &Account, bytes: usize| self.take_room(payer, bytes, key);
        let (way, payer, taken) = match held {
            None if take(account, added + ENTRY_BYTES) => {
                (Way::New, Arc::clone(account), added + ENTRY_BYTES)
            }
            Some((Some(owner), _)) if owner.try_take(added as u64) => (Way::Grow, owner, added),
            Some((Some(owner), _)) if Arc::ptr_eq(&owner, account) && take(&owner, added) => {
                (Way::Grow, owner, added)
            }
            Some((Some(owner), _)) if Arc::ptr_eq(&owner, account) => return,
            Some((_, bytes)) if take(account, added + bytes as usize) => {
                (Way::Move { bytes }, Arc::clone(account), added + bytes as usize)
            }
            None | Some(_) => return,
        };
        // Another worker may have put blocks in meanwhile, or this one have evicted the extent.
        let mut shard = self.shard(key);
        let room = match way {
            Way::New => added + ENTRY_BYTES,
            Way::Grow | Way::Move { .. } => added,
        };
        let is_as_before = |held: Option<Held<'_, CachedExtent>>| match (&way, held) {
            (Way::New, held) => held.is_none(),
            (Way::Grow, Some(held)) => {
                fits(held.value) && held.owner.is_some_and(|owner| Arc::ptr_eq(owner, &payer))
            }
            (Way::Move { bytes }, Some(held)) => fits(held.value) && held.bytes == *bytes,
            (Way::Grow | Way::Move { .. }, None) => false,
        };
        if !is_as_before(shard.held(key))
            || !shard.make_room(room, origin)
            || !is_as_before(shard.held(key))
        {
            return payer.give_back(taken as u64);
        }
        let ahead_bytes = match origin {
            Origin::Demand => 0,
            Origin::Readahead => data.len() as u32,
        };
        let add = |extent: &mut CachedExtent| extent.add(first, data.clone(), origin);
        match way {
            Way::New => {
                let mut extent = CachedExtent::default();
                add(&mut extent);
                let bytes = (room, data.len() as u32);
                shard.push(key, extent, bytes, Some(Arc::clone(account)), origin);
            }
            Way::Grow => shard.grow(key, added, ahead_bytes, add),
            Way::Move { .. } => {
                shard.give_to(key, account);
                shard.grow(key, added, ahead_bytes, add);
            }
        }
    }
}
