//! The cache keeps within its bounds, and keeps what is worth keeping.

use super::{s3_fifo::ENTRY_BYTES, *};
use crate::base::{Address, SegmentId, Usage};
use proptest::prelude::*;
use std::sync::{Arc, atomic::Ordering::Relaxed};

/// Content of an entry.
const BYTES: usize = 4096;
const WHOLE: usize = BYTES + ENTRY_BYTES;

fn key(i: u32) -> Address {
    Address::new(SegmentId(1 + u64::from(i / 16_000)), i % 16_000)
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

fn self_check(cache: &Cache<u32>) {
    cache.shards.iter().for_each(|shard| Cache::lock(shard).self_check());
}

#[test]
fn one_pass_over_much_more_leaves_the_hot_set_alone() {
    let cache = cache(1000);
    for _ in 0..3 {
        (0..500).for_each(|i| read(&cache, i));
    }
    (10_000..40_000).for_each(|i| read(&cache, i));
    let kept = (0..500).filter(|i| cache.contains(key(*i))).count();
    assert!(kept > 490, "{kept} of 500 are left");
    self_check(&cache);
}

#[test]
fn what_comes_back_soon_after_it_left_is_kept_longer() {
    let cache = cache(1000);
    (0..1500).for_each(|i| put(&cache, i));
    let evicted: Vec<_> = (0..1500).filter(|i| !cache.contains(key(*i))).take(50).collect();
    assert_eq!(evicted.len(), 50);
    evicted.iter().for_each(|i| put(&cache, *i));
    (50_000..51_000).for_each(|i| put(&cache, i));
    let kept = evicted.iter().filter(|i| cache.contains(key(**i))).count();
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
    assert!((0..1000).all(|i| cache.contains(key(i))), "the other's are left alone");
    small.set_cap(10 * WHOLE as u64);
    cache.trim(&small);
    assert_eq!(usage.cache_bytes.load(Relaxed), 10 * WHOLE as u64);
    small.set_cap(0);
    cache.trim(&small);
    cache.insert(key(9000), BYTES, Some(&small), Origin::Demand, || 0);
    assert!(!cache.contains(key(9000)));
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
    let before: Vec<_> = (0..900).filter(|i| cache.contains(key(*i))).collect();
    (20_000..60_000)
        .for_each(|i| cache.insert(key(i), BYTES, Some(&account), Origin::Readahead, || i));
    assert!(before.iter().all(|i| cache.contains(key(*i))), "all that was used is there");
    assert!(usage.prefetch_wasted_bytes.load(Relaxed) > 30_000 * BYTES as u64);
    assert_eq!(usage.prefetch_used_bytes.load(Relaxed), 0);
    let guessed = (20_000..60_000).find(|i| cache.contains(key(*i))).expect("some guess is there");
    read(&cache, guessed);
    read(&cache, guessed);
    assert_eq!(usage.prefetch_used_bytes.load(Relaxed), BYTES as u64, "once");
    self_check(&cache);
}

#[test]
fn entries_that_do_not_fit_are_left_out() {
    let cache = Cache::<u32>::new(16 * WHOLE as u64);
    cache.insert(key(1), BYTES + 1, None, Origin::Demand, || 1);
    assert_eq!(cache.bytes(), 0);
    put(&cache, 1);
    assert_eq!(cache.bytes(), WHOLE as u64);
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
}
