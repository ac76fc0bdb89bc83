//! The scrub: reads, in the background, everything that the maps refer to.

mod scrubber;
mod walk;

pub use scrubber::{CorruptKind, Corruption, ScrubProgress};

pub(crate) use scrubber::Scrubber;
