//! Reclaim: finds live blocks (mark), moves them out of sparse segments, and frees the rest.

mod effort;
mod forward;
mod freed_rate;
mod mark;
mod pace;
mod progress;
mod reclaimer;
mod round;

pub use progress::{ReclaimPhase, ReclaimProgress};

pub(crate) use effort::Effort;
pub(crate) use reclaimer::Reclaimer;
