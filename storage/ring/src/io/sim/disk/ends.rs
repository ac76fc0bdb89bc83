//! Crashes: what the disk keeps of them, as a seed decides, or as the caller chooses, for
//! exhaustive tests.

use super::{SimDisk, State};
use crate::io::sim::change::{Change, Kept};
use crate::io::sim::image::PAGE_BYTES;
use crate::io::sim::metadata::Before;
use crate::io::sim::random::Random;

/// A change that is not durable: a power loss keeps any of its sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsynced {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len_bytes: u64,
    /// Whether it has not completed: the death of the process, too, keeps any of its sectors.
    pub in_flight: bool,
}

impl SimDisk {
    /// The disk after a power loss at this moment: what was synced, and of each later change,
    /// completed or in flight, all, nothing or any sectors, as `seed` decides. This disk goes on as
    /// it was.
    #[must_use]
    pub fn crash(&self, seed: u64) -> SimDisk {
        let state = self.state();
        let mut random = Random::new(seed);
        let mut parts = Vec::new();
        for change in state.changes() {
            parts.extend(change.torn(&mut random));
        }
        state.after_power_loss(parts, random.next_u64())
    }

    /// The disk after the death of the process that uses it: all that completed, and of each change
    /// in flight all, nothing or any sectors. What was not synced stays at risk of the next power
    /// loss. This disk goes on as it was.
    #[must_use]
    pub fn kill(&self, seed: u64) -> SimDisk {
        let state = self.state();
        let mut random = Random::new(seed);
        let mut parts = Vec::new();
        for change in state.in_flight() {
            parts.extend(change.torn(&mut random));
        }
        SimDisk::from_state(state.after_death(parts, random.next_u64()))
    }

    /// The disk after a crash of the host: as after the death of the process, less the changes that
    /// depend on metadata outside the journal; `seed` decides how much metadata got there by
    /// itself. This disk goes on as it was.
    #[must_use]
    pub fn kill_host(&self, seed: u64) -> SimDisk {
        let state = self.state();
        let mut random = Random::new(seed);
        let mut parts = Vec::new();
        for change in state.in_flight() {
            parts.extend(change.torn(&mut random));
        }
        let journaled = match random.below(3) {
            0 => 0,
            1 => usize::MAX,
            _ => random.below(state.metadata.unjournaled() as u64 + 1) as usize,
        };
        state.after_host_crash(parts, journaled, random.next_u64())
    }

    /// Changes of the file system's metadata that are not in its journal: a crash of the host may
    /// take them from any of them on.
    #[must_use]
    pub fn unjournaled(&self) -> usize {
        self.state().metadata.unjournaled()
    }

    /// The disk after a crash of the host at this moment that keeps the part `kept` of each change
    /// in flight, in the order of [`Self::unsynced`], and the first `journaled` changes of metadata
    /// of [`Self::unjournaled`], which then include the kept ones'.
    ///
    /// # Panics
    /// Where `kept` does not have as many entries as there are changes in flight.
    #[must_use]
    pub fn kill_host_keeping(&self, kept: &[Kept], journaled: usize) -> SimDisk {
        let state = self.state();
        let parts = state.kept_in_flight(kept);
        state.after_host_crash(parts, journaled, state.random.clone().next_u64())
    }

    /// The changes that are not durable: those that completed, in that order, then those in flight,
    /// in the order of their beginning.
    #[must_use]
    pub fn unsynced(&self) -> Vec<Unsynced> {
        let state = self.state();
        let unsynced = |in_flight| {
            move |change: &Change| Unsynced {
                offset: change.offset(),
                len_bytes: change.len(),
                in_flight,
            }
        };
        state
            .completed()
            .map(unsynced(false))
            .chain(state.in_flight().map(unsynced(true)))
            .collect()
    }

    /// The disk after a power loss at this moment that keeps the part `kept` of each change of
    /// [`Self::unsynced`], in their order.
    ///
    /// # Panics
    /// Where `kept` does not have as many entries.
    #[must_use]
    pub fn crash_keeping(&self, kept: &[Kept]) -> SimDisk {
        let state = self.state();
        let changes: Vec<_> = state.changes().collect();
        assert_eq!(changes.len(), kept.len(), "one fate for each change");
        let parts =
            changes.iter().zip(kept).flat_map(|(change, kept)| change.kept(*kept)).collect();
        state.after_power_loss(parts, state.random.clone().next_u64())
    }

    /// The disk after the death of the process at this moment that keeps the part `kept` of each
    /// change in flight, in the order of [`Self::unsynced`].
    ///
    /// # Panics
    /// Where `kept` does not have as many entries.
    #[must_use]
    pub fn kill_keeping(&self, kept: &[Kept]) -> SimDisk {
        let state = self.state();
        let parts = state.kept_in_flight(kept);
        SimDisk::from_state(state.after_death(parts, state.random.clone().next_u64()))
    }

    /// A copy of this disk, independent of it. Changes in flight here are in flight there forever.
    #[must_use]
    pub fn copy(&self) -> SimDisk {
        SimDisk::from_state(self.state().clone())
    }
}

impl State {
    fn completed(&self) -> impl Iterator<Item = &Change> {
        self.unsynced.iter().map(|completed| &completed.change)
    }

    fn in_flight(&self) -> impl Iterator<Item = &Change> {
        self.in_flight.values().filter_map(|begun| begun.effect.change())
    }

    /// All changes that are not durable.
    fn changes(&self) -> impl Iterator<Item = &Change> {
        self.completed().chain(self.in_flight())
    }

    fn after_power_loss(&self, kept: Vec<Change>, seed: u64) -> SimDisk {
        let mut after = self.successor(seed);
        after.durable = self.durable.clone();
        kept.iter().for_each(|part| part.apply(&mut after.durable));
        after.visible = after.durable.clone();
        // The visible content shows what got into the journal.
        after.metadata.forget(0);
        kept.iter().for_each(|part| after.metadata.mark(part));
        SimDisk::from_state(after)
    }

    fn kept_in_flight(&self, kept: &[Kept]) -> Vec<Change> {
        let changes: Vec<_> = self.in_flight().collect();
        assert_eq!(changes.len(), kept.len(), "one fate for each change");
        changes.iter().zip(kept).flat_map(|(change, kept)| change.kept(*kept)).collect()
    }

    fn after_host_crash(&self, landed: Vec<Change>, journaled: usize, seed: u64) -> SimDisk {
        let mut after = self.after_death(landed, seed);
        for Before { page, content, .. } in after.metadata.forget(journaled) {
            after.supersede(page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
            after.visible.put(page, content.clone());
            after.durable.put(page, content);
        }
        // The next mount replays the journal.
        after.metadata.journal(u64::MAX);
        SimDisk::from_state(after)
    }

    fn after_death(&self, landed: Vec<Change>, seed: u64) -> State {
        let mut after = self.successor(seed);
        after.visible = self.visible.clone();
        after.durable = self.durable.clone();
        after.unsynced.clone_from(&self.unsynced);
        after.completed = self.completed;
        landed.into_iter().for_each(|part| after.complete(part));
        after
    }

    /// An empty disk of the same size, with the same space taken and the same metadata.
    fn successor(&self, seed: u64) -> State {
        let mut state = State::new(self.len, seed);
        state.space_limit = self.space_limit;
        state.history.clone_from(&self.history);
        state.unreadable.clone_from(&self.unreadable);
        state.allocated.clone_from(&self.allocated);
        state.allocated_pages = self.allocated_pages;
        state.metadata.clone_from(&self.metadata);
        state.makes_zeroes = self.makes_zeroes;
        state
    }
}
