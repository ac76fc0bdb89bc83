//! Read-only work on a stopped store: check and inspect.

pub(crate) mod check;
pub(crate) mod inspect;
mod stopped;

pub use stopped::StoppedStore;
