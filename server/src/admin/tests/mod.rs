//! The admin API as a client meets it: requests into the router, over a real store in a directory
//! of its own.

mod diff;
mod forks;
mod harness;
mod lifecycle;
mod mounts;
mod openapi;
mod reclaim;
mod refusals;
mod scrub;
mod snapshots;
mod system;
