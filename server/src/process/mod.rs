//! The process and its host: memory, limits, the log, signals, and the end by a panic.

pub(crate) mod allocator;
pub(crate) mod limits;
pub(crate) mod logging;
pub(crate) mod panic;
mod signals;

pub(crate) use limits::LimitError;
pub(crate) use signals::Signals;
