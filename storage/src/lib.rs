//! Sandstone's block store: many copy-on-write volumes in one file, crash safe, without a database.
//!
//! ```text
//!   Volume: read write flush trim zero status diff     Store: open create snapshot fork restore delete close
//!     │ map: radix tree of leaves, one a MiB             │ lines, catalog
//!     ▼                                                  ▼
//!   log: segments, staging, group commit ── checkpoint ──► superblock
//!     │                                        reclaim: mark, forward, punch
//!   io: io_uring | threads | simulated      runtime: one thread, one ring
//! ```
//!
//! Start reading at [`Volume::write`] (`write.rs`), follow it into `log/mod.rs`, then `checkpoint.rs` and `recovery.rs`.
//! What lies on disk is told in `storage/FORMAT.md`.
//!
//! Everything here runs on the threads of a [`Runtime`]; see its documentation for how other threads call in.

mod address;
mod bitmap;
mod cache;
mod checkpoint;
mod checksum;
mod closing;
mod diff;
mod disk;
mod engine;
mod error;
mod exclusive;
mod format;
mod health;
mod io;
mod keeper;
mod lineage;
mod lines;
mod log;
mod map;
mod read;
mod readers;
mod reclaim;
mod recovery;
pub mod runtime;
mod segments;
mod store;
mod volume;
mod write;

pub use address::{BLOCK_BYTES, VOLUME_BYTES_MAX};
pub use diff::{Change, Changes};
pub use error::{Error, Kind, Result};
pub use health::Health;
pub use io::{File, OpKind, SharedMemory, SimDisk, Socket};
pub use lineage::ForkSpec;
pub use read::{Extent, ExtentState, Piece};
pub use reclaim::{ReclaimPhase, ReclaimProgress};
pub use recovery::Parts;
pub use runtime::{Engine, Handle, Runtime, TurnEnd};
pub use store::{RecoveryReport, Store, StoreOptions, StoreStats, VolumeChange, VolumeSpec};
pub use volume::{ATTRIBUTES_BYTES_MAX, Durability, Settings, Volume};
pub use write::Allocation;
