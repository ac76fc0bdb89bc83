//! What reads a store whose server is stopped.

pub(super) mod check;
pub(super) mod inspect;
mod stopped;
