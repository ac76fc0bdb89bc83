//! A disk and a clock that a seed decides: the third engine, for tests of what no real disk does on
//! demand.

mod change;
mod disk;
mod fault;
mod image;
mod metadata;
mod random;
#[cfg(test)]
mod tests;

pub use change::Kept;
pub use disk::{SimDisk, Unsynced};
pub use random::Random;

pub(crate) use disk::Ticket;
