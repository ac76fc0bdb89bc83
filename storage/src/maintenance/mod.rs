//! The background work of an open store: each task is the one owner of its state.

mod checkpoint;
mod defragmenter;
mod exclusive;
mod reclaim;
mod scrub;
mod slot_pool;
mod tasks;
mod wake;
mod watchdog;

pub use reclaim::{ReclaimPhase, ReclaimProgress};
pub use scrub::{CorruptKind, Corruption, ScrubProgress};
pub use watchdog::{STALLED_AFTER, Stall, StallKind};

pub(crate) use checkpoint::Checkpointer;
pub(crate) use reclaim::Effort;
pub(crate) use tasks::{Maintenance, Rates};
