//! The ring runtime: one thread, one executor, one I/O engine.
//!
//! A [`Runtime`] lives on the thread that made it and drives the tasks spawned there; the functions of this module
//! act on the runtime of the current thread. Other threads reach it through a [`Handle`].

mod current;
mod engine;
mod executor;
mod patience;
mod remote;
#[cfg(test)]
mod tests;
mod timers;

pub use current::{clock, handle, note_company, now, on_turn_end, serve_one, sleep, spawn, yield_now};
pub use engine::{Engine, Runtime};
pub use executor::{Served, TurnEnd};
pub use remote::Handle;
pub use timers::Sleep;

pub(crate) use executor::Core;
pub(crate) use remote::Remote;
