//! `tree`: which volume came from where.
//!
//! ```text
//!   base
//!   ├─ snapshot clean
//!   │  ├─ agent-1              a fork of the snapshot
//!   │  └─ agent-2
//!   ├─ snapshot upgraded       snapshots, oldest first
//!   └─ scratch                 then forks of what the volume held at some time
//! ```
//!
//! Everything here walks with a list of its own instead of calling itself: a fork of a fork may lie
//! a thousand deep.

mod command;
mod draw;
mod lineage;
#[cfg(test)]
#[path = "lineage_tests.rs"]
mod tests;

pub(super) use command::run;
