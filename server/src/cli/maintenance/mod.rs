//! What a running server does for its store when it is asked.

mod poll;
pub(super) mod reclaim;
pub(super) mod scrub;
pub(super) mod store;
