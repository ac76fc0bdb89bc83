//! The segments of the store: which slot holds which, which slots are free.
//!
//! ```text
//!   raw ─allocate─► allocated ─prepare─► prepared
//!    └─────────┬────────┴─────────────────┘
//!             take ─► used ─(mark finds nothing alive)─► retired ─(checkpoint durable)─► prepared ─punch─► raw
//! ```
//!
//! I1  A segment number is never used twice; a slot is.
//! I2  A slot leaves *used* only after a checkpoint that does not refer to its segment is durable, and after the reads
//!     that began before have ended.
//! I3  The last [`Segments::reserve`] free slots are kept for records without data, so that a full store can still trim
//!     and delete; and half of them for checkpoints, so that what was trimmed comes back.
//!
//! A write into a prepared slot, which was written once before, changes no metadata of the file system: the ring needs no
//! thread of its own for it, and a sync does not wait for the file system's journal. An allocated slot has its place in
//! the file and costs nearly as little until somebody syncs. (Measured on ext4, 8 KiB at depth 1: 42 µs into a prepared
//! slot, 48 into an allocated one, 93 into a raw one.)

use crate::{
    address::{Address, SegmentId, Slot},
    format::{Geometry, SegmentEntry, SegmentKind},
};
use dashmap::DashMap;
use foldhash::fast::FixedState;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

/// What a new segment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// New data; leaves the reserve alone.
    Data,
    /// Records without data: what makes room again, and so must go on when the store is full.
    Record,
    /// A checkpoint, without which nothing comes back; the records above leave it some.
    Checkpoint,
}

/// A fresh segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) id: SegmentId,
    pub(crate) slot: Slot,
    /// Its slot was written before.
    pub(crate) prepared: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    /// Free; without blocks in the file.
    Raw,
    /// Free; has its blocks in the file.
    Allocated,
    /// Free; written.
    Prepared,
    /// Holds a segment, or is being worked on.
    Used,
}

/// What has become of a free slot that was worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worked {
    /// It has no blocks in the file.
    Punched,
    /// It has its blocks.
    Allocated,
    /// It was written throughout.
    Written,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    slot: Slot,
    kind: SegmentKind,
    /// Nothing more will be written to it.
    sealed: bool,
}

struct State {
    next: SegmentId,
    slots: Vec<SlotState>,
    table: BTreeMap<SegmentId, Segment>,
    /// Nothing alive in them; they wait for I2.
    retired: Vec<SegmentId>,
}

/// The table of segments.
pub(crate) struct Segments {
    pub(crate) geometry: Geometry,
    state: Mutex<State>,
    /// The part that reads need: segment to slot.
    slot_of: DashMap<u64, Slot, FixedState>,
    free: AtomicU32,
}

impl Segments {
    /// A table with these segments in it; all other slots are free.
    pub(crate) fn new(geometry: Geometry, entries: &[SegmentEntry], next: SegmentId) -> Self {
        let segments = Self {
            geometry,
            state: Mutex::new(State {
                next,
                slots: vec![SlotState::Raw; geometry.slots as usize],
                table: BTreeMap::new(),
                retired: Vec::new(),
            }),
            slot_of: DashMap::default(),
            free: AtomicU32::new(geometry.slots),
        };
        entries.iter().for_each(|e| segments.adopt(*e));
        segments
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panics under this lock")
    }

    /// Recovery: this segment exists. Doing it twice does it once.
    pub(crate) fn adopt(&self, entry: SegmentEntry) {
        let mut state = self.lock();
        let known =
            state.table.insert(entry.id, Segment { slot: entry.slot, kind: entry.kind, sealed: true });
        if known.is_none() {
            state.slots[entry.slot.0 as usize] = SlotState::Used;
            self.slot_of.insert(entry.id.0, entry.slot);
            self.free.fetch_sub(1, Relaxed);
        }
        state.next = state.next.max(SegmentId(entry.id.0 + 1));
    }

    /// Slots that are kept back from data (I3).
    pub(crate) fn reserve(&self) -> u32 {
        (self.geometry.slots / 5).clamp(3, 4).min(self.geometry.slots / 2)
    }

    /// Free slots, the reserve included.
    pub(crate) fn free(&self) -> u32 {
        self.free.load(Relaxed)
    }

    /// Whether a segment can be had for that.
    pub(crate) fn has_room(&self, need: Need) -> bool {
        let kept = match need {
            Need::Data => self.reserve(),
            Need::Record => self.reserve() / 2,
            Need::Checkpoint => 0,
        };
        self.free() > kept
    }

    /// Whether segments of the reserve are in use.
    pub(crate) fn is_in_reserve(&self) -> bool {
        self.free() < self.reserve()
    }

    /// A fresh segment; `None` when there is no room for that need.
    pub(crate) fn take(&self, kind: SegmentKind, need: Need) -> Option<Taken> {
        let mut state = self.lock();
        if !self.has_room(need) {
            return None;
        }
        let best = [SlotState::Prepared, SlotState::Allocated, SlotState::Raw];
        let at = best.iter().find_map(|wanted| state.slots.iter().position(|s| s == wanted))?;
        let slot = Slot(u32::try_from(at).expect("slots are 32 bits"));
        let prepared = state.slots[at] == SlotState::Prepared;
        state.slots[at] = SlotState::Used;
        self.free.fetch_sub(1, Relaxed);
        let id = state.next;
        state.next = SegmentId(id.0 + 1);
        state.table.insert(id, Segment { slot, kind, sealed: false });
        self.slot_of.insert(id.0, slot);
        Some(Taken { id, slot, prepared })
    }

    /// Whether the next segment would get a prepared slot, and slots are so plenty that a segment may be left early.
    pub(crate) fn offers_prepared(&self) -> bool {
        self.free() > self.geometry.slots / 2 && self.lock().slots.contains(&SlotState::Prepared)
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

    /// Byte offset of a block in the store; `None` for a segment that does not exist.
    pub(crate) fn offset(&self, address: Address) -> Option<u64> {
        let slot = *self.slot_of.get(&address.segment().0)?;
        (address.block() < self.geometry.segment_blocks).then(|| self.geometry.offset(slot, address.block()))
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

    /// The segments that a checkpoint names: all but the retired ones.
    pub(crate) fn entries(&self, retired: &[SegmentId]) -> Vec<SegmentEntry> {
        let state = self.lock();
        let kept = state.table.iter().filter(|(id, _)| !retired.contains(id));
        kept.map(|(id, s)| SegmentEntry { id: *id, slot: s.slot, kind: s.kind }).collect()
    }

    /// Segments that may be looked through for dead ones: sealed, not yet retired.
    pub(crate) fn candidates(&self) -> Vec<SegmentId> {
        let state = self.lock();
        let sealed = state.table.iter().filter(|(id, s)| s.sealed && !state.retired.contains(id));
        sealed.map(|(id, _)| *id).collect()
    }

    /// Nothing in these segments is alive; they are free once a checkpoint that began later is durable.
    pub(crate) fn retire(&self, dead: &[SegmentId]) {
        self.lock().retired.extend_from_slice(dead);
    }

    /// What is retired now.
    pub(crate) fn retired(&self) -> Vec<SegmentId> {
        self.lock().retired.clone()
    }

    /// Frees retired segments (I2 holds now). Their slots are prepared, having been written.
    pub(crate) fn release(&self, freed: &[SegmentId]) {
        let mut state = self.lock();
        state.retired.retain(|id| !freed.contains(id));
        for id in freed {
            let segment = state.table.remove(id).expect("a retired segment is in the table");
            self.slot_of.remove(&id.0);
            state.slots[segment.slot.0 as usize] = SlotState::Prepared;
            self.free.fetch_add(1, Relaxed);
        }
    }

    /// A slot to allocate or write, if fewer than `ahead` are as far as that; it counts as used until
    /// [`Self::give_back`].
    pub(crate) fn take_to(&self, goal: Worked, ahead: usize) -> Option<Slot> {
        let mut state = self.lock();
        let from: &[SlotState] = match goal {
            Worked::Written => &[SlotState::Allocated, SlotState::Raw],
            Worked::Allocated => &[SlotState::Raw],
            Worked::Punched => &[],
        };
        let done = state.slots.iter().filter(|s| **s != SlotState::Used && !from.contains(s)).count();
        // A writer must not find the store full because of a slot that is being made ready for it.
        let scarce = self.free() <= self.reserve() + 1;
        if scarce || done >= ahead {
            return None;
        }
        let at = from.iter().find_map(|wanted| state.slots.iter().position(|s| s == wanted))?;
        Some(self.claim(&mut state, at))
    }

    /// A free slot to give back to the file system, if more than `keep` have blocks in it: the last one, so that the
    /// front of the file is used.
    pub(crate) fn take_surplus(&self, keep: usize) -> Option<Slot> {
        let mut state = self.lock();
        let has_blocks = |s: &SlotState| matches!(s, SlotState::Allocated | SlotState::Prepared);
        if state.slots.iter().filter(|s| has_blocks(s)).count() <= keep {
            return None;
        }
        let at = state.slots.iter().rposition(has_blocks)?;
        Some(self.claim(&mut state, at))
    }

    fn claim(&self, state: &mut State, at: usize) -> Slot {
        state.slots[at] = SlotState::Used;
        self.free.fetch_sub(1, Relaxed);
        Slot(at as u32)
    }

    /// A slot that was claimed is free again.
    pub(crate) fn give_back(&self, slot: Slot, worked: Worked) {
        self.lock().slots[slot.0 as usize] = match worked {
            Worked::Punched => SlotState::Raw,
            Worked::Allocated => SlotState::Allocated,
            Worked::Written => SlotState::Prepared,
        };
        self.free.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments() -> Segments {
        Segments::new(Geometry::with_segments((1 << 20) + 12 * (64 << 12), 64), &[], SegmentId(1))
    }

    #[test]
    fn data_leaves_the_reserve_and_records_the_checkpoint_s_half() {
        let s = segments();
        assert_eq!((s.free(), s.reserve()), (12, 3));
        let taken: Vec<_> = std::iter::from_fn(|| s.take(SegmentKind::Log, Need::Data)).collect();
        assert_eq!(taken.len(), 9);
        assert_eq!(std::iter::from_fn(|| s.take(SegmentKind::Log, Need::Record)).count(), 2);
        assert_eq!(std::iter::from_fn(|| s.take(SegmentKind::Node, Need::Checkpoint)).count(), 1);
        assert_eq!(s.free(), 0);
    }

    #[test]
    fn released_slots_come_back_under_new_numbers() {
        let s = segments();
        let Taken { id: first, slot, prepared } = s.take(SegmentKind::Log, Need::Data).expect("room");
        assert!(!prepared && !s.offers_prepared());
        let address = Address::new(first, 3);
        assert!(s.offset(address).is_some());
        s.seal(first);
        assert_eq!(s.candidates(), [first]);
        s.retire(&[first]);
        assert!(s.candidates().is_empty());
        assert!(s.entries(&s.retired()).is_empty());
        s.release(&[first]);
        assert_eq!(s.offset(address), None);
        // The prepared slot is preferred over raw ones.
        let second = s.take(SegmentKind::Log, Need::Data).expect("room");
        assert!(second.id > first);
        assert_eq!((second.slot, second.prepared), (slot, true));
    }
}
