//! Sandstone's block store: many copy-on-write volumes in one file, crash safe, without a database.
//!
//! ```text
//!   store         the facade: open and close, volumes, snapshots, statistics
//!   offline       check and inspect a stopped store
//!   recovery      opening a store: replay, staging files
//!   maintenance   checkpointer, reclaimer, defragmenter, scrubber, slot pool, watchdog
//!   catalog       the volumes and snapshots of a store
//!   volume        read, write, read-ahead, defragment, diff
//!   core          shared by all volumes: read pins, space, dirty nodes, demand for reclaim
//!   log           append, place, submit, sync, staging, fairness
//!   disk          segments and their slots, checked reads, reads under way, superblock and catalog
//!   cache  map    extents and nodes in memory; a radix tree of leaves, one a MiB
//!   format  base  bytes on disk; units, errors, settings, health
//! ```
//! A room imports only from the rooms below it; `tests/tests/it/tidy.rs` holds that. Files and
//! sockets are `sandstone-ring`'s.
//!
//! Start reading at [`Volume::write_now`] (`volume/write.rs`), follow it into `log/append.rs`, then
//! `maintenance/checkpoint/writer.rs` and `recovery/recover.rs`. `storage/FORMAT.md` is the table
//! of the format on disk, `storage/DESIGN.md` has the decisions and their reasons.
//!
//! The store runs on threads of a [`sandstone_ring::Runtime`]; its documentation says how other
//! threads call in.
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
//!     let settings = Settings {
//!         cache_bytes: 64 << 20,
//!         buffer_bytes: 32 << 20,
//!         prefetch_mib: 0,
//!         writeback: false,
//!     };
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
//! | word | meaning here |
//! |---|---|
//! | block | 4 KiB, the unit of mapping and of checksums |
//! | segment | a numbered stretch of log, map nodes or moved blocks; numbers are not reused |
//! | slot | a segment's place in the store file; slots are reused |
//! | address | segment and block in it; an address names the same bytes forever |
//! | leaf, node | the map of one MiB of a volume, and the tree nodes above it |
//! | catalog, entry | all volumes and snapshots; one of them |
//! | page, head | a part of the catalog's entries on disk; what leads to all pages |
//! | family | the entries that come from one volume, and so may share blocks |
//! | birthday rule | a block younger than its volume's last snapshot or fork is not shared |
//! | pin, quiesce | held while a slot may be read; waiting until all older pins are released |
//! | admission | counting new blocks against the usable size before they are logged |
//! | checkpoint | what changed of maps and catalog written, and a superblock that names it |
//! | cut | the place in the log where a checkpoint begins |
//! | mark, victim | the walk that finds live blocks; a segment that reclaim empties |
//! | forward | copying live blocks; addresses stay, look-ups are led to the copy |
//! | destination | the segment that takes moved blocks |
//! | extent | in the cache: 64 KiB of addresses; in block status: a range of one state |
//! | flight, lead, follow | a read under way; doing it, or waiting for another's |
//! | retired | of a segment without references: free once a checkpoint without it is durable |
//! | prepared slot | all of its blocks are written and synced: a plain write survives the host |
//! | written through | with `RWF_DSYNC`, where there is no prepared slot |
//! | staging | shared memory with the end of the log; it survives the server |
//! | epoch, generation | number of a start; number of a superblock |
//! | fence | a start's superblock: an older end of the log is void from then on |
//! | claim | the segment that the log takes next, recorded before it is needed |
//! | tail | the end of the log, which a crash may tear |
//! | salvage | reading block by block where a whole read fails |
//! | blindness | mutation testing: engines without one ordering, which the suites must find |
//!
//! # Promises
//! The promises are numbered, because the tests that attack them cite them.
//! - **P1** A flush or FUA that was acknowledged survives power loss.
//! - **P2** With `writeback` off, an acknowledged write survives the death of the server and of the
//!   host; with it on, that of the server. A crash of the host takes what is not in its file
//!   system's journal yet, so with `writeback` off a write goes to blocks that were written and
//!   synced before, or is written through ([`sandstone_ring::Placement`]).
//! - **P3** After a crash every volume, snapshot and fork equals its state at some prefix of the
//!   log that is no older than its last flush.
//! - **P4** A read returns the bytes that were written, or [`Kind::Corrupt`].
//! - **P5** No volume ever returns another volume's bytes, or those of a freed block.
//! - **P6** A failed sync is never retried and never forgotten.
//! - **P7** A full store loses nothing, goes on reading, and recovers. Overwrites, trims, deletions
//!   and restores go on in it.
//! - **P8** Damage to acknowledged data, or to a structure that leads to it (superblock, catalog,
//!   footer), is reported, and never cut off with the tail of the log. The store is then open for
//!   reading only; no single damaged or unreadable sector keeps it from being opened.
//! - **P9** A snapshot never changes.
//!
//! | in `tests/it/` | attacks | how |
//! |---|---|---|
//! | `enumeration` | P1 to P5, P8, P9 | all crash states of all short runs on a tiny store |
//! | `crash` | P1 to P3, P5, P7, P9 | long random lives, which end in every way |
//! | `host` | P2 | hosts that crash at any moment, on file systems of each kind |
//! | `faults` | P1, P2, P6, P7 | a disk that fails, or is full |
//! | `damage` | P4, P8 | a disk that loses or changes what was written |
//! | `rot` | P4, P8 | a flipped bit in every byte that is ever read |
//! | `space` | P7 | stores filled to any level; deletion of interleaved volumes |
//! | `ordering` | P2, P5 | overlapping operations, held apart on purpose |
//! | `watchdog` | | work that hangs, and its waiters, are reported |
//! | `blindness` | | mutations, each of which the suites above find |

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

/// Checking a stopped store for damage.
pub mod check {
    pub use crate::offline::check::{
        CheckOptions, CheckProgress, CheckReport, Finding, FindingKind, Place,
    };
}

/// Inspecting a stopped store, field by field.
pub mod inspect {
    pub use crate::offline::inspect::{Field, Row, Section};
}

/// Seams for tests: a store on a simulated disk, and mutation testing.
pub mod sim {
    #[cfg(feature = "blindness")]
    pub use crate::base::{Blindness, while_blind_to};
    pub use crate::recovery::Parts;
}
