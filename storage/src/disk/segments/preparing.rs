//! Free slots that the slot pool prepares, or gives back to the file system. They count as used
//! meanwhile.

use super::{Need, Segments, SlotBacking, SlotPreparation, slot::SlotState};
use crate::base::Slot;
use std::sync::atomic::Ordering::Relaxed;

impl Segments {
    /// A slot to allocate or prepare, if fewer than `ahead` are: first the slots that may need
    /// least. It counts as used until [`Self::give_back`].
    pub(crate) fn take_to(&self, goal: SlotPreparation, ahead: usize) -> Option<Slot> {
        use SlotState::{Allocated, Gapped, Partial, Raw, Unknown};
        match goal {
            SlotPreparation::Prepared => {
                self.take_from(&[Gapped, Allocated, Partial, Raw, Unknown], ahead)
            }
            SlotPreparation::Allocated => self.take_from(&[Partial, Raw, Unknown], ahead),
            SlotPreparation::Punched | SlotPreparation::Partly => None,
        }
    }

    /// A slot that may have been written already, or nearly, if fewer than `ahead` are prepared.
    pub(crate) fn take_written(&self, ahead: usize) -> Option<Slot> {
        use SlotState::{Gapped, Unknown};
        let mut state = self.lock();
        if self.is_scarce() || self.prepared() >= ahead {
            return None;
        }
        let at =
            [Gapped, Unknown].iter().find_map(|s| state.slots.iter().position(|is| is == s))?;
        Some(self.claim(&mut state, at))
    }

    fn take_from(&self, from: &[SlotState], ahead: usize) -> Option<Slot> {
        let mut state = self.lock();
        let done =
            state.slots.iter().filter(|s| **s != SlotState::Used && !from.contains(s)).count();
        if self.is_scarce() || done >= ahead {
            return None;
        }
        let at = from.iter().find_map(|wanted| state.slots.iter().position(|s| s == wanted))?;
        Some(self.claim(&mut state, at))
    }

    /// A free slot to give back to the file system, if more than `keep` have blocks in it: the last
    /// one, so that the front of the file is used, and a prepared one only where there is no other.
    /// Slots in an unknown state come last, and only where none is to be kept.
    pub(crate) fn take_surplus(&self, keep: usize) -> Option<(Slot, SlotBacking)> {
        let mut state = self.lock();
        let has_blocks = |s: &SlotState| {
            matches!(
                s,
                SlotState::Partial | SlotState::Allocated | SlotState::Gapped | SlotState::Prepared
            )
        };
        if self.backing.load(Relaxed) < u32::MAX
            && let Some(at) = state.slots.iter().rposition(|s| *s == SlotState::Partial)
        {
            // The blocks that it has left do not count until the file system has them back. Nor did
            // a partial slot count, so the room does not shrink meanwhile.
            self.set_slot(&mut state, at, SlotState::Used);
            return Some((Slot(at as u32), SlotBacking::Blocks));
        }
        if self.is_scarce() {
            return None;
        }
        if state.slots.iter().filter(|s| has_blocks(s)).count() > keep {
            let unwritten = |s: &SlotState| has_blocks(s) && *s != SlotState::Prepared;
            let at = state.slots.iter().rposition(unwritten);
            let at = at.or_else(|| state.slots.iter().rposition(has_blocks))?;
            return Some((self.claim(&mut state, at), SlotBacking::Blocks));
        }
        let unknown = if keep == 0 {
            state.slots.iter().rposition(|s| *s == SlotState::Unknown)
        } else {
            None
        };
        unknown.map(|at| (self.claim(&mut state, at), SlotBacking::Unknown))
    }

    /// Whether so few slots are free that one which is being prepared could make a writer find the
    /// store full.
    fn is_scarce(&self) -> bool {
        self.usable() <= self.kept(Need::Data) + 1
    }

    /// A slot that was claimed is free again.
    pub(crate) fn give_back(&self, slot: Slot, preparation: SlotPreparation) {
        let free = match preparation {
            SlotPreparation::Punched => SlotState::Raw,
            SlotPreparation::Partly => SlotState::Partial,
            SlotPreparation::Allocated => SlotState::Allocated,
            SlotPreparation::Prepared => SlotState::Prepared,
        };
        self.set_slot(&mut self.lock(), slot.0 as usize, free);
    }
}
