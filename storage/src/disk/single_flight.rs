//! Reads under way: who wants blocks that are being read waits for that read, and does not begin
//! another. A thousand forks that start together read their base once.
//!
//! ```text
//!   begin ─┬─ a read of the block is under way ──► Follow ─landed─► its outcome
//!          ├─ it is in the cache by now ─────────► Cached
//!          └─ otherwise ─────────────────────────► Lead ─► read, checked, into the cache ─► land
//! ```
//!
//! I1  A block is in a read under way, or what was read of it has been offered to the cache, before
//!     the next look: the leader offers it first and then leaves the table, and `begin` looks at
//!     both under the table's lock.
//! I2  A request lands all reads that it leads before it waits for one that it follows, so no two
//!     requests wait for each other.
//! I3  A leader that goes away (its client did) abandons its reads; followers begin anew.
//!
//! Keyed by extents of addresses, as the cache is. An address names the same bytes forever, and so
//! whatever was read of it serves everyone.

use crate::{
    base::{Address, Result},
    cache::{EXTENT_BLOCKS, Look, extent_of},
};
use foldhash::fast::FixedState;
use smallvec::SmallVec;
use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
};
use tokio::sync::Notify;

const SHARDS: usize = 16;

/// The reads under way of one kind; `T` is what comes of one.
pub(crate) struct SingleFlight<T> {
    shards: [Mutex<Flights<T>>; SHARDS],
}

/// By extent.
type Flights<T> = HashMap<u64, SmallVec<[Arc<Flight<T>>; 1]>, FixedState>;

/// A read under way.
pub(crate) struct Flight<T> {
    /// Its blocks, within one extent.
    range: Range<u64>,
    /// `None` when it was abandoned.
    outcome: OnceLock<Option<Result<T>>>,
    landed: Notify,
}

/// What is to be done for the first of some blocks, and as many behind it as share its lot.
pub(crate) enum Begun<'a, T, C> {
    /// They are in the cache by now.
    Cached(C),
    /// They are being read: wait for it, and take what it has from its block `from` on.
    Follow { flight: Arc<Flight<T>>, from: u32, blocks: u32 },
    /// The caller reads them.
    Lead(Lead<'a, T>),
}

/// The duty to read blocks that others may already wait for. Dropped without [`Lead::land`], it
/// abandons the read.
pub(crate) struct Lead<'a, T> {
    flights: &'a SingleFlight<T>,
    flight: Arc<Flight<T>>,
}

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl<T> SingleFlight<T> {
    fn shard(&self, extent: u64) -> MutexGuard<'_, Flights<T>> {
        let number = extent as usize % SHARDS;
        self.shards[number].lock().expect("no panics under this lock")
    }

    /// Begins to read at most `blocks` blocks from `first` on, all within one extent. `look` looks
    /// at the cache for the first of them and as many behind it as share its lot.
    pub(crate) fn begin<C>(
        &self,
        first: Address,
        blocks: u32,
        look: impl FnOnce(u32) -> Look<C>,
    ) -> Begun<'_, T, C> {
        let (extent, at) = (extent_of(first), first.raw());
        debug_assert!(at % EXTENT_BLOCKS + u64::from(blocks) <= EXTENT_BLOCKS);
        let mut shard = self.shard(extent);
        let under_way = shard.get(&extent).map_or(&[][..], |flights| flights);
        let mut end = at + u64::from(blocks);
        for flight in under_way {
            if flight.range.contains(&at) {
                let from = (at - flight.range.start) as u32;
                let blocks = (flight.range.end.min(end) - at) as u32;
                return Begun::Follow { flight: Arc::clone(flight), from, blocks };
            }
            if flight.range.start > at {
                end = end.min(flight.range.start);
            }
        }
        match look((end - at) as u32) {
            Look::Hit(cached) => Begun::Cached(cached),
            Look::Miss(blocks) => {
                let flight = Arc::new(Flight {
                    range: at..at + u64::from(blocks),
                    outcome: OnceLock::new(),
                    landed: Notify::new(),
                });
                shard.entry(extent).or_default().push(Arc::clone(&flight));
                Begun::Lead(Lead { flights: self, flight })
            }
        }
    }
}

impl<T> Lead<'_, T> {
    /// Number of blocks to read.
    pub(crate) fn blocks(&self) -> u32 {
        (self.flight.range.end - self.flight.range.start) as u32
    }

    /// Gives the followers the outcome. What was read has been offered to the cache before.
    pub(crate) fn land(self, outcome: Result<T>) {
        let _first = self.flight.outcome.set(Some(outcome));
    }
}

impl<T> Drop for Lead<'_, T> {
    fn drop(&mut self) {
        // Nothing, where it has landed.
        let _abandoned = self.flight.outcome.set(None);
        let extent = self.flight.range.start / EXTENT_BLOCKS;
        let mut shard = self.flights.shard(extent);
        if let Some(flights) = shard.get_mut(&extent) {
            flights.retain(|flight| !Arc::ptr_eq(flight, &self.flight));
            if flights.is_empty() {
                shard.remove(&extent);
            }
        }
        drop(shard);
        self.flight.landed.notify_waiters();
    }
}

impl<T: Clone> Flight<T> {
    /// Waits for the outcome; `None` when the read was abandoned.
    pub(crate) async fn landed(&self) -> Option<Result<T>> {
        let mut landed = std::pin::pin!(self.landed.notified());
        // Before the look, so that a landing between them is not missed.
        landed.as_mut().enable();
        if self.outcome.get().is_none() {
            landed.await;
        }
        self.outcome.get().expect("it has landed").clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Error, SegmentId};
    use futures_util::poll;
    use sandstone_ring::Runtime;
    use std::pin::pin;

    fn at(block: u32) -> Address {
        Address::new(SegmentId(3), block)
    }

    fn lead<T>(begun: Begun<'_, T, ()>) -> Lead<'_, T> {
        match begun {
            Begun::Lead(lead) => lead,
            Begun::Cached(()) | Begun::Follow { .. } => panic!("it is to lead"),
        }
    }

    fn follow<T>(begun: Begun<'_, T, ()>) -> (Arc<Flight<T>>, u32, u32) {
        match begun {
            Begun::Follow { flight, from, blocks } => (flight, from, blocks),
            Begun::Cached(()) | Begun::Lead(_) => panic!("it is to follow"),
        }
    }

    #[test]
    fn who_comes_during_a_read_has_its_outcome() {
        Runtime::simulated(1).block_on(async {
            let flights = SingleFlight::<u32>::default();
            let first = lead(flights.begin(at(20), 4, Look::Miss));
            assert_eq!(first.blocks(), 4);
            // In front of it, up to it; within it, no further than it goes.
            let before = lead(flights.begin(at(16), 16, Look::Miss));
            assert_eq!(before.blocks(), 4);
            let (flight, from, blocks) = follow(flights.begin(at(22), 10, Look::Miss));
            assert_eq!((from, blocks), (2, 2));
            let mut landed = pin!(flight.landed());
            assert!(poll!(&mut landed).is_pending());
            first.land(Ok(7));
            assert!(matches!(landed.await, Some(Ok(7))));
            assert!(matches!(flight.landed().await, Some(Ok(7))), "who looks late has it too");
            assert_eq!(lead(flights.begin(at(22), 1, Look::Miss)).blocks(), 1, "it is over");
            drop(before);
            assert!(flights.shards.iter().all(|s| s.lock().expect("no panics").is_empty()));
        });
    }

    #[test]
    fn errors_are_shared_and_abandoned_reads_begun_anew() {
        Runtime::simulated(1).block_on(async {
            let flights = SingleFlight::<u32>::default();
            let failing = lead(flights.begin(at(0), 1, Look::Miss));
            let (flight, ..) = follow(flights.begin(at(0), 1, Look::Miss));
            failing.land(Err(Error::corrupt("rot")));
            assert!(matches!(flight.landed().await, Some(Err(_))));
            let leaving = lead(flights.begin(at(0), 1, Look::Miss));
            let (flight, ..) = follow(flights.begin(at(0), 1, Look::Miss));
            let mut landed = pin!(flight.landed());
            assert!(poll!(&mut landed).is_pending());
            drop(leaving);
            assert!(landed.await.is_none());
            let _again = lead(flights.begin(at(0), 1, Look::Miss));
        });
    }
}
