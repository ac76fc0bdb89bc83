//! Sandstone's block store: many copy-on-write volumes in one file, crash safe, without a database.
//!
//! ```text
//!   Volume: read write flush trim zero status diff     Store: open create snapshot fork restore delete close
//!     │ map: radix tree of leaves, one a MiB             │ lines, catalog
//!     ▼                                                  ▼
//!   log: segments, staging, group commit ── checkpoint ──► superblock
//!     │                                        reclaim: mark, forward, punch; scrub
//!   io: io_uring | threads | simulated      runtime: one thread, one ring
//! ```
//!
//! Start reading at [`Volume::write_now`] (`write.rs`), follow it into `log/mod.rs`, then `checkpoint.rs` and `recovery.rs`.
//! What lies on disk is told in `storage/FORMAT.md`.
//!
//! Everything here runs on the threads of a [`Runtime`]; see its documentation for how other threads call in.
//!
//! # Promises
//! Numbered, because the tests that attack them cite them.
//! - **P1** A flush or FUA that was acknowledged survives power loss.
//! - **P2** With `writeback` off, an acknowledged write survives the death of the server and of the host; with it on, that
//!   of the server. The host takes what its file system's journal does not know of yet, so such a write goes to blocks that
//!   were written and synced before, or is written through ([`Placement`]).
//! - **P3** After a crash every volume, snapshot and fork equals its state at some prefix of the log that is no older than
//!   its last flush.
//! - **P4** A block is never returned that is not what was written there. The alternative is [`Kind::Corrupt`].
//! - **P5** No volume ever shows another's bytes, or those of a freed block.
//! - **P6** A failed sync is never retried and never forgotten.
//! - **P7** A full store loses nothing, goes on reading, and recovers. Overwrites, trims, deletions and restores go on in it.
//! - **P8** Damage to acknowledged data is reported, and never cut off with the end of the log: also of what leads to it, a
//!   superblock, the catalog, a footer. The store is open for reading only then; no one sector that is damaged or cannot be
//!   read keeps it from being opened.
//! - **P9** A snapshot never changes.
//!
//! | in `tests/` | attacks | how |
//! |---|---|---|
//! | `enumeration.rs` | P1 to P5, P8, P9 | all crash states of all short sequences of operations on a tiny store |
//! | `crash.rs` | P1 to P3, P5, P7, P9 | long random lives, which end in every way |
//! | `host.rs` | P2 | hosts that crash at any moment of young and old stores, on file systems of each kind |
//! | `faults.rs` | P1, P2, P6, P7 | a disk that fails, or is full |
//! | `damage.rs` | P4, P8 | a disk that does not hold what was written |
//! | `rot.rs` | P4, P8 | a flipped bit in every byte that anybody reads |
//! | `space.rs` | P7 | stores filled to any part of what is usable, and interleaved volumes that are deleted |
//! | `ordering.rs` | P2, P5 | what overlaps, held apart on purpose |
//! | `watchdog.rs` | | what hangs, and who waits for it, is told |
//! | `blindness.rs` | | engines that leave one of it out, each of which those above find |

mod address;
mod below;
mod bitmap;
#[cfg_attr(not(feature = "blindness"), allow(unreachable_pub, reason = "it is exported with the feature"))]
mod blindness;
mod cache;
mod check;
mod checkpoint;
mod checksum;
mod closing;
mod diff;
mod disk;
mod distribution;
mod engine;
mod error;
mod exclusive;
mod format;
mod health;
mod inspect;
mod io;
mod keeper;
mod knobs;
mod lineage;
mod lines;
mod log;
mod map;
mod memo;
mod patient;
mod read;
mod reader;
mod readers;
mod reclaim;
mod recovery;
pub mod runtime;
mod scrub;
mod segments;
mod slot_pool;
mod space;
mod stopped;
mod store;
mod usage;
mod volume;
mod watchdog;
mod write;

pub use address::{BLOCK_BYTES, VOLUME_BYTES_MAX};
#[cfg(feature = "blindness")]
pub use blindness::{Blindness, while_blind_to};
pub use check::{CheckOptions, CheckProgress, CheckReport, Finding, FindingKind, Place};
pub use diff::{Change, Changes};
pub use distribution::Distribution;
pub use error::{Error, Kind, Result};
pub use health::Health;
pub use inspect::{Field, Row, Section};
pub use io::{File, Kept, OpKind, Placement, SharedMemory, SimDisk, Socket, Unsynced};
pub use knobs::Overrides;
pub use lineage::ForkSpec;
pub use read::{BegunRead, Extent, ExtentState, Piece, UnfinishedRead};
pub use reader::Reader;
pub use reclaim::{ReclaimPhase, ReclaimProgress};
pub use recovery::{Parts, StagingFate};
pub use runtime::{Engine, Handle, Runtime, TurnEnd};
pub use scrub::{Rot, RotKind, ScrubProgress};
pub use stopped::StoppedStore;
pub use store::{RecoveryReport, Store, StoreOptions, StoreStats, VolumeChange, VolumeSpec};
pub use usage::VolumeStats;
pub use volume::{ATTRIBUTES_BYTES_MAX, Durability, Settings, Volume};
pub use watchdog::{STALLED_AFTER, Stall, StallKind};
pub use write::{Allocation, Begun, Receipt, Unfinished};
