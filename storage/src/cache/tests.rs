//! The cache keeps within its bounds, and keeps what is worth keeping.

use super::{
    extent::BUFFER_BYTES,
    s3_fifo::{Cache, ENTRY_BYTES},
    shard::Parts,
    *,
};
use crate::base::{Address, BLOCK_BYTES, SegmentId, Usage};
use bytes::Bytes;
use proptest::prelude::*;
use std::sync::{Arc, atomic::Ordering::Relaxed};

/// Content of an entry.
const BYTES: usize = 4096;
const WHOLE: usize = BYTES + ENTRY_BYTES;

fn key(i: u32) -> u64 {
    Address::new(SegmentId(1 + u64::from(i / 16_000)), i % 16_000).raw()
}

impl Parts for u32 {
    fn used(&self) -> u16 {
        1
    }
}

fn contains(cache: &Cache<u32>, i: u32) -> bool {
    cache.shard(key(i)).contains(key(i))
}

/// Room for about that many entries, spread over the shards as evenly as chance will have it.
fn cache(entries: usize) -> Cache<u32> {
    Cache::new((entries * WHOLE) as u64)
}

fn put(cache: &Cache<u32>, i: u32) {
    cache.insert(key(i), BYTES, None, Origin::Demand, || i);
}

fn read(cache: &Cache<u32>, i: u32) {
    match cache.get(key(i), |v| *v) {
        Some(found) => assert_eq!(found, i),
        None => put(cache, i),
    }
}

fn self_check<V: Parts>(cache: &Cache<V>) {
    cache.shards.iter().for_each(|shard| Cache::lock(shard).self_check());
}

#[test]
fn one_pass_over_much_more_leaves_the_hot_set_alone() {
    let cache = cache(1000);
    for _ in 0..3 {
        (0..500).for_each(|i| read(&cache, i));
    }
    (10_000..40_000).for_each(|i| read(&cache, i));
    let kept = (0..500).filter(|i| contains(&cache, *i)).count();
    assert!(kept > 490, "{kept} of 500 are left");
    self_check(&cache);
}

#[test]
fn what_comes_back_soon_after_it_left_is_kept_longer() {
    let cache = cache(1000);
    (0..1500).for_each(|i| put(&cache, i));
    let evicted: Vec<_> = (0..1500).filter(|i| !contains(&cache, *i)).take(50).collect();
    assert_eq!(evicted.len(), 50);
    evicted.iter().for_each(|i| put(&cache, *i));
    (50_000..51_000).for_each(|i| put(&cache, i));
    let kept = evicted.iter().filter(|i| contains(&cache, **i)).count();
    assert!(kept > 40, "{kept} of 50 are left");
}

#[test]
fn an_account_keeps_to_its_cap_and_gives_up_its_own() {
    let cache = cache(10_000);
    let usage = Arc::new(Usage::default());
    let small = Account::new(100 * WHOLE as u64, Arc::clone(&usage));
    let large = Account::new(u64::MAX, Arc::default());
    for i in 0..1000 {
        cache.insert(key(i), BYTES, Some(&large), Origin::Demand, || i);
    }
    for i in 2000..5000 {
        cache.insert(key(i), BYTES, Some(&small), Origin::Demand, || i);
        assert!(usage.cache_bytes.load(Relaxed) <= 100 * WHOLE as u64);
    }
    assert_eq!(usage.cache_bytes.load(Relaxed), 100 * WHOLE as u64, "all that it may have");
    assert!((0..1000).all(|i| contains(&cache, i)), "the other's are left alone");
    small.set_cap(10 * WHOLE as u64);
    cache.trim(&small);
    assert_eq!(usage.cache_bytes.load(Relaxed), 10 * WHOLE as u64);
    small.set_cap(0);
    cache.trim(&small);
    cache.insert(key(9000), BYTES, Some(&small), Origin::Demand, || 0);
    assert!(!contains(&cache, 9000));
    assert_eq!(cache.bytes(), 1000 * WHOLE as u64);
    self_check(&cache);
}

#[test]
fn an_account_gives_up_what_it_does_not_use() {
    let cache = cache(10_000);
    let account = Account::new(200 * WHOLE as u64, Arc::default());
    for i in 0..3000 {
        cache.insert(key(i), BYTES, Some(&account), Origin::Demand, || i);
        assert!(
            cache.get(key(i % 50), |_| ()).is_some(),
            "{i}: the first fifty are used all the time"
        );
    }
}

#[test]
fn guesses_take_no_place_of_what_is_used_again() {
    let cache = cache(1000);
    let usage = Arc::new(Usage::default());
    let account = Account::new(u64::MAX, Arc::clone(&usage));
    for _ in 0..3 {
        (0..900).for_each(|i| read(&cache, i));
    }
    let before: Vec<_> = (0..900).filter(|i| contains(&cache, *i)).collect();
    (20_000..60_000)
        .for_each(|i| cache.insert(key(i), BYTES, Some(&account), Origin::Readahead, || i));
    assert!(before.iter().all(|i| contains(&cache, *i)), "all that was used is there");
    assert!(usage.prefetch_wasted_bytes.load(Relaxed) > 30_000 * BYTES as u64);
    assert_eq!(usage.prefetch_used_bytes.load(Relaxed), 0);
    let guessed = (20_000..60_000).find(|i| contains(&cache, *i)).expect("some guess is there");
    read(&cache, guessed);
    read(&cache, guessed);
    assert_eq!(usage.prefetch_used_bytes.load(Relaxed), BYTES as u64, "once");
    self_check(&cache);
}

#[test]
fn entries_that_do_not_fit_are_left_out() {
    let cache = Cache::<u32>::new(WHOLE as u64);
    cache.insert(key(1), BYTES + 1, None, Origin::Demand, || 1);
    assert_eq!(cache.bytes(), 0);
    put(&cache, 1);
    assert_eq!(cache.bytes(), WHOLE as u64);
}

fn block(i: u32) -> Address {
    Address::new(SegmentId(7), i)
}

fn data(blocks: u32) -> Bytes {
    Bytes::from(vec![blocks as u8; blocks as usize * BLOCK_BYTES])
}

fn extents(bytes_max: u64) -> BlockCache {
    BlockCache::new(bytes_max)
}

fn take(cache: &BlockCache, first: u32, blocks: u32) -> Option<Bytes> {
    match cache.look(block(first), blocks, Origin::Demand) {
        Look::Hit(data) => Some(data),
        Look::Miss(_) => None,
    }
}

fn unlimited() -> Arc<Account> {
    Account::new(u64::MAX, Arc::default())
}

/// The bytes that an extent takes with runs of so many blocks.
fn extent_bytes(runs: &[usize]) -> u64 {
    let content: usize = runs.iter().map(|blocks| blocks * BLOCK_BYTES + BUFFER_BYTES).sum();
    (content + ENTRY_BYTES) as u64
}

#[test]
fn blocks_that_were_read_together_are_taken_together_and_never_copied() {
    let (cache, account) = (extents(16 << 20), unlimited());
    let (long, short) = (data(10), data(2));
    cache.put(block(4), &long, &account, Origin::Demand);
    cache.put(block(14), &short, &account, Origin::Demand);
    let taken = take(&cache, 6, 10).expect("it is there");
    assert_eq!((taken.len(), taken.as_ptr()), (8 * BLOCK_BYTES, long[2 * BLOCK_BYTES..].as_ptr()));
    let rest = take(&cache, 14, 2).expect("it is there");
    assert_eq!(rest.as_ptr(), short.as_ptr());
    assert!(matches!(cache.look(block(0), 16, Origin::Demand), Look::Miss(4)));
    assert!(matches!(cache.look(block(0), 2, Origin::Demand), Look::Miss(2)));
    assert!(!cache.contains(block(3)) && cache.contains(block(4)) && cache.contains(block(15)));
    assert_eq!(cache.bytes(), extent_bytes(&[10, 2]));
    // What is there in part is left as it is.
    cache.put(block(0), &data(8), &account, Origin::Demand);
    assert_eq!(cache.bytes(), extent_bytes(&[10, 2]));
    self_check(&cache);
}

#[test]
fn one_pass_in_small_requests_is_no_use_of_the_same_blocks_again() {
    let (cache, account) = (extents(16 << 20), unlimited());
    let read = |i: u32| {
        if take(&cache, i, 1).is_none() {
            cache.put(block(i), &data(1), &account, Origin::Demand);
        }
    };
    for _ in 0..3 {
        (0..1000).for_each(read);
    }
    (2000..14_000).for_each(read);
    let kept = (0..1000).filter(|i| cache.contains(block(*i))).count();
    assert!(kept > 980, "{kept} of 1000 are left");
    assert!(cache.bytes() <= cache.bytes_max());
    self_check(&cache);
}

#[test]
fn an_extent_counts_against_one_account_which_may_change() {
    let cache = extents(64 << 20);
    let held = |account: &Arc<Account>| account.usage.cache_bytes.load(Relaxed);
    let small = Account::new(extent_bytes(&[2, 2]), Arc::default());
    let large = unlimited();
    cache.put(block(0), &data(2), &small, Origin::Demand);
    cache.put(block(2), &data(2), &large, Origin::Demand);
    assert_eq!((held(&small), held(&large)), (extent_bytes(&[2, 2]), 0), "there is room");
    cache.put(block(4), &data(2), &large, Origin::Readahead);
    assert_eq!((held(&small), held(&large)), (0, extent_bytes(&[2, 2, 2])), "there is none");
    assert_eq!(take(&cache, 2, 2).map(|data| data.len()), Some(2 * BLOCK_BYTES));
    // An account that makes room from its own may lose the very extent.
    cache.put(block(16), &data(4), &small, Origin::Demand);
    cache.put(block(20), &data(4), &small, Origin::Demand);
    assert!(held(&small) <= small.cap_bytes());
    assert_eq!(held(&small) + held(&large), cache.bytes());
    small.set_cap(0);
    cache.trim(&small);
    assert_eq!((held(&small), cache.bytes()), (0, extent_bytes(&[2, 2, 2])));
    self_check(&cache);
}

#[test]
fn what_was_read_ahead_counts_as_used_or_wasted_by_the_block() {
    let (cache, usage) = (extents(16 << 20), Arc::new(Usage::default()));
    let account = Account::new(u64::MAX, Arc::clone(&usage));
    cache.put(block(0), &data(16), &account, Origin::Readahead);
    for _ in 0..2 {
        assert!(take(&cache, 3, 4).is_some());
    }
    account.set_cap(0);
    cache.trim(&account);
    let counted = [&usage.prefetch_used_bytes, &usage.prefetch_wasted_bytes];
    let counted = counted.map(|bytes| bytes.load(Relaxed) / BLOCK_BYTES as u64);
    assert_eq!(counted, [4, 12]);
}

proptest! {
    /// After any operations the counts fit, and what is found is what was inserted.
    #[test]
    fn keeps_its_counts(
        steps in prop::collection::vec((0u32..300, 0u8..5, 0usize..3, 1usize..9000), 1..2000),
        room in 16usize..200,
    ) {
        let cache = cache(room);
        let account = |n| Account::new(n * WHOLE as u64, Arc::default());
        let accounts: Vec<_> = [0, 20, 1000].map(account).into();
        for (i, what, who, bytes) in steps {
            match what {
                0 => cache.insert(key(i), bytes, Some(&accounts[who]), Origin::Readahead, || i),
                1 => cache.insert(key(i), bytes, None, Origin::Demand, || i),
                2 => cache.insert(key(i), bytes, Some(&accounts[who]), Origin::Demand, || i),
                3 => {
                    accounts[who].set_cap(bytes as u64 * 10);
                    cache.trim(&accounts[who]);
                }
                _ => prop_assert!(cache.get(key(i), |v| *v).is_none_or(|v| v == i)),
            }
            prop_assert!(cache.bytes() <= cache.bytes_max());
        }
        self_check(&cache);
        accounts.iter().for_each(|account| account.set_cap(0));
        accounts.iter().for_each(|account| cache.trim(account));
        prop_assert!(accounts.iter().all(|account| account.usage.cache_bytes.load(Relaxed) == 0));
    }

    /// The same of extents, whose blocks come in any order from any account.
    #[test]
    fn extents_keep_their_counts(
        steps in prop::collection::vec((0u32..400, 0u8..5, 0usize..3, 1u32..17), 1..1500),
        room_kib in 100u64..4000,
    ) {
        let cache = extents(room_kib << 10);
        let accounts = [0u64, 300 << 10, 1 << 30].map(|cap| Account::new(cap, Arc::default()));
        for (i, what, who, blocks) in steps {
            let (first, account) = (block(i), &accounts[who]);
            let blocks = blocks.min(blocks_to_border(first));
            match what {
                0 => cache.put(first, &data(blocks), account, Origin::Readahead),
                1 | 2 => cache.put(first, &data(blocks), account, Origin::Demand),
                3 => {
                    account.set_cap(u64::from(blocks) << 15);
                    cache.trim(account);
                }
                _ => match cache.look(first, blocks, Origin::Demand) {
                    Look::Hit(found) => {
                        prop_assert!((1..=blocks as usize).contains(&(found.len() / BLOCK_BYTES)));
                    }
                    Look::Miss(missing) => {
                        prop_assert!((1..=blocks).contains(&missing));
                        prop_assert!((i..i + missing).all(|i| !cache.contains(block(i))));
                    }
                },
            }
            prop_assert!(cache.bytes() <= cache.bytes_max());
            for account in &accounts {
                prop_assert!(account.usage.cache_bytes.load(Relaxed) <= account.cap_bytes());
            }
            let held: u64 = accounts.iter().map(|a| a.usage.cache_bytes.load(Relaxed)).sum();
            prop_assert_eq!(held, cache.bytes());
        }
        self_check(&cache);
        accounts.iter().for_each(|account| account.set_cap(0));
        accounts.iter().for_each(|account| cache.trim(account));
        prop_assert_eq!(cache.bytes(), 0);
    }
}
