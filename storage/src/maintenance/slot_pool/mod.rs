//! The slot pool: prepares free slots before the log needs them, and returns surplus ones to the
//! file system.

mod pool;
mod prepare;

pub(crate) use pool::SlotPool;
