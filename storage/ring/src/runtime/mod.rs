//! The runtime: one thread, one executor, one I/O backend.
//!
//! A [`Runtime`] lives on the thread that made it and drives the tasks spawned there; the functions
//! of this module act on the runtime of the current thread. Other threads reach it through a
//! [`Handle`].

mod current;
mod executor;
mod handle;
mod owner;
mod spin;
#[cfg(test)]
mod tests;
mod timers;

pub use current::{
    clock, handle, hint_concurrency, now, on_turn_end, serve_one, sleep, spawn, yield_now,
};
pub use executor::{Served, TurnEnd};
pub use handle::Handle;
pub use owner::{Backend, Runtime};
pub use timers::Sleep;

pub(crate) use executor::Core;
