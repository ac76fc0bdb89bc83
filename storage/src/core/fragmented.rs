//! Leaves that reads in sequence met in many pieces, for the defragmenter.

use crate::base::VolumeNumber;
use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, MutexGuard},
};
use tokio::sync::Notify;

/// Most leaves that wait: 4 GiB of volumes. Those beyond are met again by the next read of them.
const LEAVES_MAX: usize = 4096;

/// A leaf of a volume's map: a MiB of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LeafId {
    pub(crate) volume: VolumeNumber,
    /// The number of the leaf in its volume.
    pub(crate) leaf: u64,
}

/// Leaves to put in order, each once.
#[derive(Debug, Default)]
pub(crate) struct Fragmented {
    waiting: Mutex<Waiting>,
    noted: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    queue: VecDeque<LeafId>,
    all: HashSet<LeafId>,
}

impl Fragmented {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no panics under this lock")
    }

    /// Notes a leaf, if there is room.
    pub(crate) fn note(&self, leaf: LeafId) {
        let mut waiting = self.lock();
        if waiting.queue.len() < LEAVES_MAX && waiting.all.insert(leaf) {
            waiting.queue.push_back(leaf);
            self.noted.notify_one();
        }
    }

    /// The leaf that has waited longest.
    pub(crate) fn next(&self) -> Option<LeafId> {
        let mut waiting = self.lock();
        let leaf = waiting.queue.pop_front()?;
        waiting.all.remove(&leaf);
        Some(leaf)
    }

    /// Waits until a leaf is noted.
    pub(crate) async fn noted(&self) {
        self.noted.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_waits_once_and_no_more_than_so_many_wait() {
        let fragmented = Fragmented::default();
        let leaf = |leaf| LeafId { volume: VolumeNumber(1), leaf };
        (0..3).for_each(|_| fragmented.note(leaf(7)));
        (0..2 * LEAVES_MAX as u64).for_each(|i| fragmented.note(leaf(i)));
        assert_eq!(fragmented.next(), Some(leaf(7)));
        let left: Vec<_> = std::iter::from_fn(|| fragmented.next()).collect();
        assert_eq!(left.len(), LEAVES_MAX - 1);
        fragmented.note(leaf(7));
        assert_eq!(fragmented.next(), Some(leaf(7)), "it may come again");
    }
}
