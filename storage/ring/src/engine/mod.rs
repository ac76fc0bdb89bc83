//! The engines behind one seam: each starts operations, and reports their completions.

mod availability;
mod driver;
mod in_place;
mod pool;
mod remote;
mod simulated;
mod threads;
mod uring;

pub(crate) use driver::{Driver, Spun};
pub(crate) use remote::{Item, Remote};
pub(crate) use simulated::Simulated;
pub(crate) use threads::Threads;
pub(crate) use uring::Uring;
