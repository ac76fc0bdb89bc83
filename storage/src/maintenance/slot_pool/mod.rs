//! The slot pool: prepares free slots before the log needs them, and returns what is too much.

mod pool;
mod prepare;

pub(crate) use pool::SlotPool;
