//! The table of segments: which slot holds which segment, and which slots are free.
//!
//! ```text
//!   raw ─allocate─► allocated ─prepare─► prepared
//!    └─────────┬────────┴─────────────────┘
//!             take ─► used ─(nothing alive, or moved)─► retired
//!                                                          └─(checkpoint durable)─► prepared or
//!                                                                            gapped ─punch─► raw
//! ```
//!
//! A slot whose dead runs were punched out before is *partial* until it is allocated or punched as
//! a whole. A slot without all of its blocks in the file is unusable where the file system cannot
//! give it the others (`core/backing.rs`).
//!
//! A slot that is free when the store is opened is *unknown*: it may be any of the first three,
//! until the slot pool looks at it or a thorough reclaim punches it. A slot that was not prepared
//! when it was taken comes back *gapped*: a segment leaves out blocks here and there.
//!
//! A sparse segment is *moved*: what is alive in it goes into a segment of moved blocks, and
//! look-ups by its addresses are led there. It has no slot any more; its number and its addresses
//! stay.
//!
//! I1  A segment number is never used twice; a slot is.
//! I2  A slot leaves *used* only after a checkpoint that does not refer to its segment is durable,
//!     and after the reads that began before have ended.
//! I3  Some free slots are kept for the work that makes room again (`reserve.rs`).
//! I4  A segment of moved blocks lives as long as one of the segments that were moved into it.
//!
//! I5  A prepared slot has all of its blocks written and synced. So a write into it changes no
//!     metadata of the file system, and what was written there survives a crash of the host without
//!     a sync (`io/placement.rs` of the ring crate).
//!
//! Nor does the ring need a thread of its own for such a write, or a sync wait for the file
//! system's journal. (Measured on ext4, 8 KiB at depth 1: 42 µs into a prepared slot, 48 into an
//! allocated one, 93 into a raw one, and 205 µs written through.) So prepared slots are kept for
//! the log; `maintenance/slot_pool` prepares them.

use crate::{
    base::{Address, Bitmap, SegmentId, Slot, bitmap},
    format::{Geometry, Piece, SegmentEntry, SegmentKind, SegmentPlace, Stretches},
};
use dashmap::DashMap;
use foldhash::fast::FixedState;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

mod preparing;
mod reserve;
mod slot;
#[cfg(test)]
mod tests;

use reserve::Reserve;
pub(crate) use reserve::{MAPS_PART, Need};
use slot::SlotState;
pub(crate) use slot::{Readiness, SlotBacking, SlotPreparation};

/// How a new segment will be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writing {
    /// Piece by piece, each acknowledged when it is in the store: the use of prepared slots.
    Awaited,
    /// As a whole, with a sync before it counts.
    Streamed,
}

/// Prepared slots that are kept for the log, from segments which gain nothing by them.
pub(crate) const PREPARED_KEPT: usize = 2;

/// When the log will use a new segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Now,
    /// When the log reaches it, if ever.
    Later,
}

/// A fresh segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) id: SegmentId,
    pub(crate) slot: Slot,
    pub(crate) readiness: Readiness,
}

#[derive(Clone, Debug)]
struct Segment {
    place: SegmentPlace,
    kind: SegmentKind,
    /// Nothing more will be written to it.
    sealed: bool,
    readiness: Readiness,
    /// Dead blocks that were punched out of the file.
    punched: u32,
    /// State of its slot before the claim, while the log has claimed it and has not come there yet.
    claimed: Option<SlotState>,
}

impl Segment {
    /// State of its slot when the segment is free.
    fn slot_when_free(&self) -> SlotState {
        if self.punched > 0 { SlotState::Partial } else { self.readiness.slot_when_free() }
    }
}

/// Blocks of a segment in a new place.
#[derive(Clone, Debug)]
pub(crate) struct Move {
    pub(crate) segment: SegmentId,
    /// The segment that held them: itself, or one of moved blocks.
    pub(crate) from: SegmentId,
    pub(crate) pieces: Vec<Piece>,
}

/// Segments and slots that may be freed after a checkpoint that does not name them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Retired {
    /// Segments without live blocks.
    segments: BTreeSet<SegmentId>,
    /// Slots of segments that were moved, and the state of each once it is free.
    slots: BTreeMap<Slot, SlotState>,
}

impl Retired {
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.slots.is_empty()
    }
}

/// A segment that takes up a slot, and the segments whose blocks are in it: itself, or the segments
/// that were moved into it.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) id: SegmentId,
    pub(crate) residents: Vec<SegmentId>,
}

struct State {
    next: SegmentId,
    slots: Vec<SlotState>,
    table: BTreeMap<SegmentId, Segment>,
    /// Waits for I2.
    retired: Retired,
}

/// The table of segments.
pub(crate) struct Segments {
    pub(crate) geometry: Geometry,
    state: Mutex<State>,
    /// Where each segment is: the part that reads need.
    place_of: DashMap<u64, SegmentPlace, FixedState>,
    free: AtomicU32,
    /// Free slots that have their blocks in the file.
    backed: AtomicU32,
    /// Free slots that are prepared.
    prepared: AtomicU32,
    /// Other free slots for which the file system has blocks.
    backing: AtomicU32,
    reserve: Reserve,
}

impl Segments {
    /// A table with these segments in it; all other slots are free.
    pub(crate) fn new(geometry: Geometry, entries: &[SegmentEntry], next: SegmentId) -> Self {
        let segments = Self {
            geometry,
            state: Mutex::new(State {
                next,
                slots: vec![SlotState::Unknown; geometry.slots as usize],
                table: BTreeMap::new(),
                retired: Retired::default(),
            }),
            place_of: DashMap::default(),
            free: AtomicU32::new(geometry.slots),
            backed: AtomicU32::new(0),
            prepared: AtomicU32::new(0),
            backing: AtomicU32::new(u32::MAX),
            reserve: Reserve::new(geometry.slots),
        };
        entries.iter().for_each(|e| segments.adopt(e));
        segments
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panics under this lock")
    }

    /// Recovery: adds this segment. It is idempotent.
    pub(crate) fn adopt(&self, entry: &SegmentEntry) {
        let mut state = self.lock();
        let place = entry.place.clone();
        let segment = Segment {
            place: place.clone(),
            kind: entry.kind,
            sealed: true,
            readiness: Readiness::Unready,
            punched: 0,
            claimed: None,
        };
        if state.table.insert(entry.id, segment).is_none() {
            if let SegmentPlace::Own(slot) = &place {
                self.set_slot(&mut state, slot.0 as usize, SlotState::Used);
            }
            self.place_of.insert(entry.id.0, place);
        }
        state.next = state.next.max(SegmentId(entry.id.0 + 1));
    }

    /// Free slots, including the reserve and slots that the file system cannot back.
    pub(crate) fn free(&self) -> u32 {
        self.free.load(Relaxed)
    }

    /// Free slots that a segment can be written into.
    pub(crate) fn usable(&self) -> u32 {
        let (free, backed) = (self.free(), self.backed.load(Relaxed));
        backed.saturating_add(self.backing.load(Relaxed)).min(free)
    }

    /// Slots that can hold segments: all, or as many as the file system can back.
    fn reachable(&self) -> u32 {
        self.with_blocks().saturating_add(self.backing.load(Relaxed)).min(self.geometry.slots)
    }

    /// Blocks of all slots that can hold segments.
    pub(crate) fn reachable_blocks(&self) -> u64 {
        u64::from(self.reachable()) * u64::from(self.geometry.segment_blocks)
    }

    /// Blocks that may live in the store; the others are the working room (`reserve.rs`).
    pub(crate) fn usable_blocks(&self) -> u64 {
        u64::from(self.reserve.usable(self.reachable())) * u64::from(self.geometry.segment_blocks)
    }

    /// Blocks of the segments of nodes: an upper bound of the blocks of maps and catalogs, without
    /// moved ones.
    pub(crate) fn node_blocks(&self) -> u64 {
        let nodes = |s: &&Segment| s.kind == SegmentKind::Node;
        self.lock().table.values().filter(nodes).count() as u64
            * u64::from(self.geometry.segment_blocks)
    }

    /// Blocks of the slots that are used.
    pub(crate) fn used_blocks(&self) -> u64 {
        u64::from(self.geometry.slots - self.free()) * u64::from(self.geometry.segment_blocks)
    }

    /// Upper bound of the slots that have all of their blocks in the file.
    pub(crate) fn with_blocks(&self) -> u32 {
        self.geometry.slots - self.free() + self.backed.load(Relaxed)
    }

    /// Sets the number of further free slots for which the file system has blocks.
    pub(crate) fn set_backing(&self, slots: u32) {
        self.backing.store(slots, Relaxed);
    }

    /// Changes the state of a slot, and the counts.
    fn set_slot(&self, state: &mut State, at: usize, new: SlotState) {
        let old = std::mem::replace(&mut state.slots[at], new);
        let count = |counter: &AtomicU32, was: bool, is: bool| match (was, is) {
            (false, true) => drop(counter.fetch_add(1, Relaxed)),
            (true, false) => drop(counter.fetch_sub(1, Relaxed)),
            (true, true) | (false, false) => {}
        };
        count(&self.free, old.is_free(), new.is_free());
        count(&self.backed, old.is_backed(), new.is_backed());
        count(&self.prepared, old == SlotState::Prepared, new == SlotState::Prepared);
    }

    /// Whether there is a segment for `need`.
    pub(crate) fn has_room(&self, need: Need) -> bool {
        self.room(need) > 0
    }

    /// A checkpoint takes so many slots from now on, at most.
    pub(crate) fn keep_for_checkpoint(&self, slots: u32) {
        self.reserve.keep_for_checkpoint(slots);
    }

    /// Free slots that data never takes.
    pub(crate) fn left_by_data(&self) -> u32 {
        self.kept(Need::Data)
    }

    fn kept(&self, need: Need) -> u32 {
        self.reserve.kept(need, self.reachable())
    }

    /// How many segments there are for `need`.
    pub(crate) fn room(&self, need: Need) -> u32 {
        self.usable().saturating_sub(self.kept(need))
    }

    /// Whether there are free slots for `need`, and the file system cannot back one of them.
    pub(crate) fn is_starved(&self, need: Need) -> bool {
        !self.has_room(need) && self.free() > self.kept(need)
    }

    /// Whether segments of the reserve are in use.
    pub(crate) fn is_in_reserve(&self) -> bool {
        self.usable() < self.kept(Need::Data)
    }

    /// A fresh segment; `None` when there is no room for that need.
    pub(crate) fn take(&self, kind: SegmentKind, need: Need, writing: Writing) -> Option<Taken> {
        self.take_for(kind, need, writing, Use::Now)
    }

    /// A fresh segment for the log to go on in later; `None` when there is no room for data. No
    /// checkpoint names it before [`Self::enter`], so a start that finds that the log never came
    /// there finds it free.
    pub(crate) fn claim_ahead(&self) -> Option<Taken> {
        self.take_for(SegmentKind::Log, Need::Data, Writing::Awaited, Use::Later)
    }

    /// The log has come to the segment that it claimed.
    pub(crate) fn enter(&self, id: SegmentId) {
        if let Some(segment) = self.lock().table.get_mut(&id) {
            segment.claimed = None;
        }
    }

    /// The log gives the claim up: the slot has its former state again.
    pub(crate) fn give_up(&self, id: SegmentId) {
        let mut state = self.lock();
        if let Some(Segment { place: SegmentPlace::Own(slot), claimed: Some(was), .. }) =
            state.table.get(&id).cloned()
        {
            state.table.remove(&id);
            self.place_of.remove(&id.0);
            self.set_slot(&mut state, slot.0 as usize, was);
        }
    }

    /// The slot of the claimed segment, if it may have blocks in the file, which nothing needs yet.
    pub(crate) fn claimed_surplus(&self, id: SegmentId) -> Option<Slot> {
        match self.lock().table.get(&id) {
            Some(Segment { place: SegmentPlace::Own(slot), claimed: Some(was), .. })
                if *was != SlotState::Raw =>
            {
                Some(*slot)
            }
            _ => None,
        }
    }

    /// The slot of the claimed segment was punched.
    pub(crate) fn claimed_is_raw(&self, id: SegmentId) {
        if let Some(Segment { claimed: Some(was), readiness, .. }) = self.lock().table.get_mut(&id)
        {
            *was = SlotState::Raw;
            *readiness = Readiness::Unready;
        }
    }

    /// How many segments the log has claimed.
    pub(crate) fn claimed(&self) -> u64 {
        self.lock().table.values().filter(|segment| segment.claimed.is_some()).count() as u64
    }

    fn take_for(
        &self,
        kind: SegmentKind,
        need: Need,
        writing: Writing,
        usage: Use,
    ) -> Option<Taken> {
        use SlotState::{Allocated, Gapped, Partial, Prepared, Raw, Unknown};
        let mut state = self.lock();
        if !self.has_room(need) {
            return None;
        }
        // Where the file system has no blocks for another slot, there is no choice.
        let keeps_prepared = writing == Writing::Streamed
            && self.prepared() <= PREPARED_KEPT
            && self.backing.load(Relaxed) > 0;
        let best = if keeps_prepared {
            [Allocated, Gapped, Partial, Raw, Unknown, Prepared]
        } else {
            [Prepared, Gapped, Allocated, Partial, Raw, Unknown]
        };
        let at = best.iter().find_map(|wanted| state.slots.iter().position(|s| s == wanted))?;
        let slot = Slot(u32::try_from(at).expect("slots are 32 bits"));
        let was = state.slots[at];
        let readiness = if was == Prepared { Readiness::Ready } else { Readiness::Unready };
        self.claim(&mut state, at);
        let id = state.next;
        state.next = SegmentId(id.0 + 1);
        let place = SegmentPlace::Own(slot);
        self.place_of.insert(id.0, place.clone());
        let claimed = (usage == Use::Later).then_some(was);
        state
            .table
            .insert(id, Segment { place, kind, sealed: false, readiness, punched: 0, claimed });
        Some(Taken { id, slot, readiness })
    }

    /// Whether no segment is in the slot, as far as is known.
    pub(crate) fn is_free(&self, slot: Slot) -> bool {
        self.lock().slots.get(slot.0 as usize).is_some_and(|state| state.is_free())
    }

    /// Slots that are prepared.
    pub(crate) fn prepared(&self) -> usize {
        self.prepared.load(Relaxed) as usize
    }

    /// Whether there is a prepared slot, and so many free ones that the log may leave a segment
    /// early.
    pub(crate) fn offers_prepared(&self) -> bool {
        self.free() > self.geometry.slots / 2 && self.prepared() > 0
    }

    /// Nothing more will be written to the segment.
    pub(crate) fn seal(&self, id: SegmentId) {
        if let Some(segment) = self.lock().table.get_mut(&id) {
            segment.sealed = true;
        }
    }

    /// Recovery: the log goes on in this segment.
    pub(crate) fn unseal(&self, id: SegmentId) {
        if let Some(segment) = self.lock().table.get_mut(&id) {
            segment.sealed = false;
        }
    }

    /// Whether something may still be written to the segment.
    pub(crate) fn is_open(&self, id: SegmentId) -> bool {
        self.lock().table.get(&id).is_some_and(|segment| !segment.sealed)
    }

    /// Where in the store `blocks` blocks (at least one) are: byte offset and number of blocks of
    /// each stretch, in order; `None` when there is no such segment, or it does not have all of
    /// them.
    pub(crate) fn stretches(&self, address: Address, blocks: u32) -> Option<Stretches> {
        self.place_of.get(&address.segment().0)?.stretches(&self.geometry, address.block(), blocks)
    }

    /// Which blocks of a segment a segment of moved blocks holds; `None` where it has all of them
    /// itself.
    pub(crate) fn held_by(&self, id: SegmentId, container: SegmentId) -> Option<Bitmap> {
        match &*self.place_of.get(&id.0)? {
            SegmentPlace::Own(_) => None,
            SegmentPlace::Moved(pieces) => {
                let held = pieces.iter().filter(|piece| piece.into == container);
                let blocks = held.flat_map(|piece| bitmap::ones(piece.live.words()));
                Some(Bitmap::of(blocks, self.geometry.segment_blocks))
            }
        }
    }

    /// The number of the next segment.
    pub(crate) fn next(&self) -> SegmentId {
        self.lock().next
    }

    /// Recovery: numbers below this one may have been used by a log that was lost.
    pub(crate) fn skip_to(&self, next: SegmentId) {
        let mut state = self.lock();
        state.next = state.next.max(next);
    }

    /// The segments that a checkpoint names: all but the retired ones and the one that the log has
    /// claimed.
    pub(crate) fn entries(&self, retired: &Retired) -> Vec<SegmentEntry> {
        let state = self.lock();
        let is_named = |(id, s): &(&SegmentId, &Segment)| {
            !retired.segments.contains(id) && s.claimed.is_none()
        };
        let kept = state.table.iter().filter(is_named);
        kept.map(|(id, s)| SegmentEntry { id: *id, kind: s.kind, place: s.place.clone() }).collect()
    }

    /// Segments that the mark may judge: sealed, not yet retired, with addresses in use.
    pub(crate) fn candidates(&self) -> Vec<SegmentId> {
        let state = self.lock();
        let judged = |id: &SegmentId, s: &Segment| {
            s.sealed && s.kind != SegmentKind::Forwarded && !state.retired.segments.contains(id)
        };
        state.table.iter().filter(|(id, s)| judged(id, s)).map(|(id, _)| *id).collect()
    }

    /// Sealed segments that take up slots and are not retired, and the segments whose blocks are in
    /// each.
    pub(crate) fn containers(&self) -> Vec<Container> {
        let state = self.lock();
        let mut residents: BTreeMap<SegmentId, Vec<SegmentId>> = BTreeMap::new();
        for (id, segment) in &state.table {
            if !segment.sealed || state.retired.segments.contains(id) {
                continue;
            }
            match (&segment.place, segment.kind) {
                (SegmentPlace::Moved(pieces), _) => {
                    let into: BTreeSet<_> = pieces.iter().map(|piece| piece.into).collect();
                    // A destination that still takes blocks would be emptied into itself.
                    let sealed = into.into_iter().filter(|destination| {
                        state.table.get(destination).is_some_and(|h| h.sealed)
                    });
                    sealed.for_each(|destination| {
                        residents.entry(destination).or_default().push(*id)
                    });
                }
                (SegmentPlace::Own(_), SegmentKind::Log | SegmentKind::Node) => {
                    residents.entry(*id).or_default().push(*id);
                }
                (SegmentPlace::Own(_), SegmentKind::Forwarded) => {}
            }
        }
        residents.into_iter().map(|(id, residents)| Container { id, residents }).collect()
    }

    /// Retires these segments, in which nothing is alive; they are free once a checkpoint that
    /// began later is durable.
    pub(crate) fn retire(&self, dead: &[SegmentId]) {
        let mut state = self.lock();
        state.retired.segments.extend(dead);
        state.retire_empty();
    }

    /// Look-ups of these blocks are led to their new places from now on. The old place is free once
    /// a checkpoint that began later is durable, if nothing else is there.
    pub(crate) fn move_to(&self, moves: Vec<Move>) {
        let mut state = self.lock();
        let State { table, retired, .. } = &mut *state;
        for Move { segment: id, from, pieces } in moves {
            let segment = table.get_mut(&id).expect("a judged segment is in the table");
            let was = segment.slot_when_free();
            let stay = match &segment.place {
                SegmentPlace::Own(slot) => {
                    retired.slots.insert(*slot, was);
                    Vec::new()
                }
                SegmentPlace::Moved(all) => {
                    all.iter().filter(|p| p.into != from).cloned().collect()
                }
            };
            segment.place = SegmentPlace::Moved(stay.into_iter().chain(pieces).collect());
            self.place_of.insert(id.0, segment.place.clone());
        }
        state.retire_empty();
    }

    /// The segments and slots that are retired now.
    pub(crate) fn retired(&self) -> Retired {
        self.lock().retired.clone()
    }

    /// Slots that will be free when what is retired now is released.
    pub(crate) fn retired_slots(&self) -> u32 {
        let state = self.lock();
        let owns = |id: &&SegmentId| {
            matches!(state.table.get(id).map(|s| &s.place), Some(SegmentPlace::Own(_)))
        };
        let count = state.retired.slots.len() + state.retired.segments.iter().filter(owns).count();
        u32::try_from(count).expect("slots are 32 bits")
    }

    /// Frees what was retired (I2 holds now).
    pub(crate) fn release(&self, freed: &Retired) {
        let mut state = self.lock();
        let mut slots = freed.slots.clone();
        for id in &freed.segments {
            state.retired.segments.remove(id);
            self.place_of.remove(&id.0);
            let segment = state.table.remove(id).expect("a retired segment is in the table");
            if let SegmentPlace::Own(slot) = segment.place {
                slots.insert(slot, segment.slot_when_free());
            }
        }
        for (slot, free) in slots {
            state.retired.slots.remove(&slot);
            self.set_slot(&mut state, slot.0 as usize, free);
        }
    }

    /// Dead runs of a segment that are worth punching, if it has a slot of its own and more is dead
    /// in it than was punched: byte offset and length of each. They count as punched.
    pub(crate) fn punch(&self, id: SegmentId, gaps: &[(u32, u32)]) -> Vec<(u64, u64)> {
        let mut state = self.lock();
        if state.retired.segments.contains(&id) {
            return Vec::new();
        }
        let dead: u32 = gaps.iter().map(|(_, len)| len).sum();
        match state.table.get_mut(&id) {
            Some(Segment { place: SegmentPlace::Own(slot), punched, .. }) if dead > *punched => {
                *punched = dead;
                let bytes = |len: u32| u64::from(len) * crate::base::BLOCK_BYTES as u64;
                gaps.iter()
                    .map(|(from, len)| (self.geometry.offset(*slot, *from), bytes(*len)))
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    /// Takes a free slot. Unless the slot has its blocks, the file system can back one slot less
    /// then, until it is asked again: slots that are being prepared count too, or their blocks
    /// would count twice until the next look.
    fn claim(&self, state: &mut State, at: usize) -> Slot {
        if !state.slots[at].is_backed() {
            // Without a limit the count stays.
            let less = |backing| (backing < u32::MAX).then(|| u32::saturating_sub(backing, 1));
            let _unlimited = self.backing.fetch_update(Relaxed, Relaxed, less);
        }
        self.set_slot(state, at, SlotState::Used);
        Slot(at as u32)
    }
}

impl State {
    /// Keeps I4.
    fn retire_empty(&mut self) {
        let State { table, retired, .. } = self;
        let inhabited: BTreeSet<SegmentId> = table
            .iter()
            .filter(|(id, _)| !retired.segments.contains(id))
            .flat_map(|(_, segment)| match &segment.place {
                SegmentPlace::Moved(pieces) => pieces.iter().map(|piece| piece.into).collect(),
                SegmentPlace::Own(_) => Vec::new(),
            })
            .collect();
        let empty = table.iter().filter(|(id, s)| {
            s.kind == SegmentKind::Forwarded && s.sealed && !inhabited.contains(id)
        });
        retired.segments.extend(empty.map(|(id, _)| *id));
    }
}
