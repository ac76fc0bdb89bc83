//! Sandstone's block store: many copy-on-write volumes in one file, crash safe, without a database.
//!
//! ```text
//!   store         the facade: open and close, volumes, snapshots, statistics      offline: check and inspect
//!   recovery      what the last server left, made whole
//!   maintenance   checkpointer, reclaimer, scrubber, slot pool, watchdog
//!   catalog       which volumes and snapshots there are
//!   volume        read, write, read-ahead, diff
//!   core          what volumes share: read pins, space, what is dirty, who waits for what
//!   log           append, place, submit, sync, staging, fairness
//!   disk          segments and their slots, checked reads, superblock and catalog
//!   cache  map    blocks and nodes in memory; a radix tree of leaves, one a MiB
//!   format  base  bytes on disk; units, errors, settings, health
//! ```
//! A room imports from those below it alone; `tests/tidy.rs` holds that. Files and sockets are
//! `sandstone-ring`'s.
//!
//! Start reading at [`Volume::write_now`] (`volume/write.rs`), follow it into `log/append.rs`, then
//! `maintenance/checkpoint/writer.rs` and `recovery/recover.rs`. What lies on disk is told in
//! `storage/FORMAT.md`, why it is so in `storage/DESIGN.md`.
//!
//! All of it runs on the threads of a [`sandstone_ring::Runtime`]; see its documentation for how
//! other threads call in.
//!
//! ```
//! use sandstone_ring::{Backend, Runtime};
//! use sandstone_storage::{Durability, Piece, Settings, Store, StoreOptions, VolumeSpec};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! let options = StoreOptions {
//!     path: folder.path().join("store"),
//!     size_bytes: 512 << 20,
//!     staging_dir: folder.path().to_owned(),
//!     cache_bytes: 64 << 20,
//!     metadata_bytes: 32 << 20,
//!     reclaim_rate: 64 << 20,
//!     scrub_rate: 0,
//! };
//! Runtime::new(Backend::Auto)?.block_on(async {
//!     let (store, _report) = Store::open(options).await?;
//!     let settings = Settings { cache_bytes: 64 << 20, buffer_bytes: 32 << 20, prefetch_mib: 0, writeback: false };
//!     let id = uuid::Uuid::new_v4();
//!     let spec = VolumeSpec { id, size_bytes: 1 << 30, settings, attributes: Vec::new() };
//!     let volume = store.create_volume(spec).await?;
//!     volume.write(4096, bytes::Bytes::from_static(b"hello"), Durability::Fua).await?;
//!     let snapshot = store.create_snapshot(id, uuid::Uuid::new_v4(), Vec::new()).await?;
//!     volume.trim(0, 1 << 20, Durability::Volatile).await?;
//!     let read = snapshot.read(4096, 5).await?;
//!     assert!(matches!(&read[..], [Piece::Data(bytes)] if bytes == "hello"));
//!     store.close().await
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! # Glossary
//! | word | what it is here |
//! |---|---|
//! | block | 4 KiB, the unit of mapping and of checksums |
//! | segment, slot | a numbered stretch of the log, of map nodes or of moved blocks; its place in the file, which is reused |
//! | address | a block's segment and number: the same bytes for ever |
//! | leaf, node | the map's ends (1 MiB of a volume each), and what is above them |
//! | catalog, entry | all volumes and snapshots; one of them |
//! | family | the entries that may share blocks, because they come from one volume |
//! | birthday rule | a block younger than its volume's last snapshot or fork belongs to that volume alone |
//! | pin, quiesce | what an operation holds while it may read a slot; waiting until all older pins are released |
//! | checkpoint | all maps and the catalog written, and a superblock that names them |
//! | cut | the place in the log where a checkpoint begins |
//! | mark, victim | finding out what is alive; a segment that reclaim empties |
//! | forward | copying what is alive elsewhere; addresses stay, look-ups are led to the copy |
//! | retired | a segment that nothing refers to any more, until a checkpoint says so |
//! | prepared slot | one whose blocks are all written and synced, so that a write into it survives a host's crash |
//! | written through | with `RWF_DSYNC`, where no prepared slot is there |
//! | staging | shared memory that holds what is acknowledged and not in the store yet; it survives the server |
//! | epoch, generation | the number of a start; the number of a superblock |
//! | claim | the slot that the log takes next, written down before it is needed |
//! | salvage | reading block by block where a whole read fails |
//! | blindness | mutation testing: engines that leave one ordering out, which the suites must find |
//!
//! # Promises
//! Numbered, because the tests that attack them cite them.
//! - **P1** A flush or FUA that was acknowledged survives power loss.
//! - **P2** With `writeback` off, an acknowledged write survives the death of the server and of the
//!   host; with it on, that of the server. The host takes what its file system's journal does not
//!   know of yet, so such a write goes to blocks that were written and synced before, or is written
//!   through ([`sandstone_ring::Placement`]).
//! - **P3** After a crash every volume, snapshot and fork equals its state at some prefix of the
//!   log that is no older than its last flush.
//! - **P4** A block is never returned that is not what was written there. The alternative is
//!   [`Kind::Corrupt`].
//! - **P5** No volume ever shows another's bytes, or those of a freed block.
//! - **P6** A failed sync is never retried and never forgotten.
//! - **P7** A full store loses nothing, goes on reading, and recovers. Overwrites, trims, deletions
//!   and restores go on in it.
//! - **P8** Damage to acknowledged data is reported, and never cut off with the end of the log:
//!   also of what leads to it, a superblock, the catalog, a footer. The store is open for reading
//!   only then; no one sector that is damaged or cannot be read keeps it from being opened.
//! - **P9** A snapshot never changes.
//!
//! | in `tests/` | attacks | how |
//! |---|---|---|
//! | `enumeration.rs` | P1 to P5, P8, P9 | all crash states of all short sequences of operations on a tiny store |
//! | `crash.rs` | P1 to P3, P5, P7, P9 | long random lives, which end in every way |
//! | `host.rs` | P2 | hosts that crash at any moment of young and old stores, on file systems of each kind |
//! | `faults.rs` | P1, P2, P6, P7 | a disk that fails, or is full |
//! | `damage.rs` | P4, P8 | a disk that does not hold what was written |
//! | `rot.rs` | P4, P8 | a flipped bit in every byte that anything reads |
//! | `space.rs` | P7 | stores filled to any part of what is usable, and interleaved volumes that are deleted |
//! | `ordering.rs` | P2, P5 | what overlaps, held apart on purpose |
//! | `watchdog.rs` | | what hangs, and who waits for it, is told |
//! | `blindness.rs` | | engines that leave one of it out, each of which those above find |

mod base;
mod cache;
mod catalog;
mod core;
mod disk;
mod format;
mod log;
mod maintenance;
mod map;
mod offline;
mod recovery;
mod store;
mod volume;

pub use base::{
    ATTRIBUTES_BYTES_MAX, BLOCK_BYTES, Distribution, Durability, Error, Health, Kind, Result,
    Settings, SettingsOverride, VOLUME_BYTES_MAX, VolumeStats,
};
pub use maintenance::{
    CorruptKind, Corruption, ReclaimPhase, ReclaimProgress, STALLED_AFTER, ScrubProgress, Stall,
    StallKind,
};
pub use offline::StoppedStore;
pub use recovery::{RecoveryReport, StagingFate, StoreOptions};
pub use store::{ForkSpec, Store, StoreStats, VolumeChange, VolumeSpec};
pub use volume::{
    Allocation, Begun, BegunRead, Change, Changes, Extent, ExtentState, Piece, Readahead, Receipt,
    Unfinished, UnfinishedRead, Volume,
};

/// Checking a stopped store.
pub mod check {
    pub use crate::offline::check::{
        CheckOptions, CheckProgress, CheckReport, Finding, FindingKind, Place,
    };
}

/// Showing what lies in a stopped store.
pub mod inspect {
    pub use crate::offline::inspect::{Field, Row, Section};
}

/// The seams for tests: a store on a simulated disk, and engines that leave one ordering out.
pub mod sim {
    #[cfg(feature = "blindness")]
    pub use crate::base::{Blindness, while_blind_to};
    pub use crate::recovery::Parts;
}
