//! Volumes, snapshots, forks and mounts from the command line.

pub(crate) mod fork;
pub(crate) mod mounts;
pub(crate) mod snapshots;
mod temporary;
pub(crate) mod volumes;

pub(crate) use temporary::Temporary;
