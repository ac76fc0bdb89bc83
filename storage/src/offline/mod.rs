//! What reads a stopped store, and changes nothing of it.

pub(crate) mod check;
pub(crate) mod inspect;
mod stopped;

pub use stopped::StoppedStore;
