//! The facade: an open store.

mod open;
mod snapshots;
mod statistics;
mod volumes;

pub use open::Store;
pub use snapshots::ForkSpec;
pub use statistics::StoreStats;
pub use volumes::{VolumeChange, VolumeSpec};
