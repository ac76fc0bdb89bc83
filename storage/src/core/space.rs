//! Space: how much lives in the store, how much may, and admission of new blocks.
//!
//! ```text
//!   slots ─► usable ─┬─ live: data blocks that some map reaches, each once
//!                    ├─ free: what new blocks are admitted against
//!      working room ─┴─ what the log, checkpoints and reclaim need to go on
//! ```
//!
//! A store is full when the live blocks reach the usable size, wherever the log is: an overwrite
//! needs no new room, so it is always admitted, and waits for reclaim where the log has none.
//!
//! I1  `live` is never less than what the maps reach. Each map counts the blocks that are its own
//!     by the birthday rule (`map/tree.rs`), and each family those that its entries may share; the
//!     sum is exact where nothing is shared.
//! I2  The mark corrects what `live` is too much: it counts again, entry by entry and family by
//!     family.
//! I3  New blocks are admitted before they are logged, and all of one request's together. A request
//!     that waits with a part logged keeps the admission of the rest (`core/admitted.rs`), so one
//!     that is refused has changed nothing.
//! I4  Below the usable size reclaim always has room to work in: new blocks are never admitted
//!     against the working room.
//!
//! Maps and catalogs live too. They have a part of the working room (`MAPS_PART`), which is
//! enough where volumes hold data in any order; what they take beyond it (a thousand forks with a
//! block each) counts like data.
//!
//! Units: blocks. Source: DESIGN section 3, "Reclaim".

use crate::{
    base::BLOCK_BYTES,
    disk::{MAPS_PART, Segments},
};
use sandstone_ring::runtime;
use std::{
    sync::{
        Mutex,
        atomic::{AtomicU8, AtomicU64, Ordering::*},
    },
    time::Duration,
};

/// Fill levels, in per cent of the usable size; reaching one is logged once.
const LEVELS: [u64; 3] = [80, 90, 100];
/// Per cent below a level at which it may be logged again.
const LEVEL_SLACK: u64 = 2;

/// Counts of live blocks, and their limits.
#[derive(Debug, Default)]
pub(crate) struct Space {
    /// Upper bound of the data blocks that a map reaches or that are admitted (I1).
    live: AtomicU64,
    /// Upper bound of the blocks of maps: the last mark's count, and their growth since.
    maps: AtomicU64,
    /// Blocks of the catalog.
    catalog: AtomicU64,
    /// Data blocks that may live, maps not counted.
    usable: AtomicU64,
    /// Blocks of maps that do not count as data.
    maps_free: AtomicU64,
    /// How many of [`LEVELS`] were reached.
    level: AtomicU8,
    throttle: Throttle,
}

impl Space {
    /// The counts of a store that was just opened: data blocks that live, by its catalog and log,
    /// and blocks of maps at most.
    pub(crate) fn new(live: u64, maps: u64) -> Self {
        Self { live: AtomicU64::new(live), maps: AtomicU64::new(maps), ..Self::default() }
    }

    /// Measures how large the store can be now.
    pub(crate) fn measure(&self, segments: &Segments) {
        self.usable.store(segments.usable_blocks(), Relaxed);
        self.maps_free.store(segments.reachable_blocks() / u64::from(MAPS_PART), Relaxed);
        self.log_fill_level();
    }

    /// Data blocks that may live.
    pub(crate) fn usable_blocks(&self) -> u64 {
        self.usable.load(Relaxed).saturating_sub(self.maps_beyond())
    }

    /// Upper bound of the data blocks that live.
    pub(crate) fn live_blocks(&self) -> u64 {
        self.live.load(Relaxed)
    }

    /// Upper bound of the blocks of maps.
    pub(crate) fn map_blocks(&self) -> u64 {
        self.maps.load(Relaxed)
    }

    /// Data blocks that may still be added.
    pub(crate) fn free_blocks(&self) -> u64 {
        self.usable_blocks().saturating_sub(self.live_blocks())
    }

    fn maps_beyond(&self) -> u64 {
        let all = self.maps.load(Relaxed) + self.catalog.load(Relaxed);
        all.saturating_sub(self.maps_free.load(Relaxed))
    }

    /// Admits so many new blocks, if there is room for all of them. The caller then calls
    /// [`Self::commit_admitted`].
    pub(crate) fn admit(&self, blocks: u64) -> bool {
        let usable = self.usable_blocks();
        let fits = |live: u64| live.checked_add(blocks).filter(|live| *live <= usable);
        blocks == 0 || self.live.fetch_update(Relaxed, Relaxed, fits).is_ok()
    }

    /// Replaces an admission of `admitted` blocks by the change of a map's own blocks from `before`
    /// to `after`, and the `kept` ones that it is still to get.
    pub(crate) fn commit_admitted(&self, admitted: u64, before: u64, after: u64, kept: u64) {
        let change = i128::from(after) - i128::from(before);
        self.add(change + i128::from(kept) - i128::from(admitted));
    }

    /// Changes the count of live blocks by `delta`.
    pub(crate) fn add(&self, delta: i128) {
        let less = |live: u64| Some((i128::from(live) + delta).max(0) as u64);
        if delta != 0 {
            let _always = self.live.fetch_update(Relaxed, Relaxed, less);
        }
    }

    /// Counts `blocks` by which maps will grow.
    pub(crate) fn add_maps(&self, blocks: u64) {
        if blocks > 0 {
            self.maps.fetch_add(blocks, Relaxed);
        }
    }

    /// Blocks of the catalog, both copies.
    pub(crate) fn catalog_blocks(&self) -> u64 {
        self.catalog.load(Relaxed)
    }

    /// Sets the blocks of the catalog, both copies.
    pub(crate) fn set_catalog(&self, blocks: u64) {
        self.catalog.store(blocks, Relaxed);
    }

    /// The mark has counted the blocks of maps; the count stood at `then` when it began.
    pub(crate) fn recount_maps(&self, then: u64, counted: u64) {
        let counted_and_since = |now: u64| Some(counted + now.saturating_sub(then));
        let _always = self.maps.fetch_update(Relaxed, Relaxed, counted_and_since);
    }

    /// Logs a warning when a level is reached, once.
    fn log_fill_level(&self) {
        let (live, usable) = (self.live_blocks(), self.usable_blocks().max(1));
        let percent = live * 100 / usable;
        let logged = usize::from(self.level.load(Relaxed));
        let reached = LEVELS.iter().filter(|level| percent >= **level).count();
        if reached > logged {
            let mib = |blocks: u64| (blocks * BLOCK_BYTES as u64) >> 20;
            tracing::warn!(
                live_mib = mib(live),
                usable_mib = mib(usable),
                "the store is {} % full{}",
                LEVELS[reached - 1],
                if reached == LEVELS.len() {
                    ": new blocks are refused, overwrites go on"
                } else {
                    ""
                }
            );
            self.level.store(reached as u8, Relaxed);
        } else if logged > 0 && percent + LEVEL_SLACK < LEVELS[logged - 1] {
            self.level.store(reached as u8, Relaxed);
        }
    }

    /// The throttle that slows writers while reclaim makes room.
    pub(crate) fn throttle(&self) -> &Throttle {
        &self.throttle
    }
}

/// Slows writers to what reclaim frees while the log's room is short, so that writers slow down
/// before they stop.
///
/// A virtual clock: each write advances it by the write's duration at the present rate, and waits
/// until then. Writers wait in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// Rate of the log in blocks a second; 0 for no limit.
    rate: AtomicU64,
    /// When the next write may go, in microseconds.
    next_us: Mutex<u64>,
}

/// Longest time that a write is slowed for: beyond it the log's own room decides.
const SLOWED_MAX: Duration = Duration::from_millis(500);

impl Throttle {
    /// Limits writers to this rate from now on; `None` for no limit.
    pub(crate) fn set(&self, blocks_per_second: Option<u64>) {
        self.rate.store(blocks_per_second.map_or(0, |rate| rate.max(1)), Relaxed);
    }

    /// Whether writers are slowed now.
    pub(crate) fn is_on(&self) -> bool {
        self.rate.load(Relaxed) > 0
    }

    /// Waits until a write of `blocks` blocks may go.
    pub(crate) async fn wait(&self, blocks: u64) {
        let rate = self.rate.load(Relaxed);
        if rate == 0 {
            return;
        }
        let now = runtime::now().as_micros() as u64;
        let until = {
            let mut next = self.next_us.lock().expect("no panics under this lock");
            let begins = (*next).clamp(now, now + SLOWED_MAX.as_micros() as u64);
            *next = begins + blocks * 1_000_000 / rate;
            begins
        };
        if until > now {
            runtime::sleep(Duration::from_micros(until - now)).await;
        }
    }
}
