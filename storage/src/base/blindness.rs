//! Mutation testing (*blindness*): engines that leave out one ordering or one check on purpose, so
//! that the suites can show that they notice.
//!
//! Without the feature `blindness` [`is_blind_to`] is a constant `false`, and the compiler removes
//! it from the program. With it, a test chooses a mutation for its own thread, on which the whole
//! simulated engine runs.

#[cfg(feature = "blindness")]
use std::cell::Cell;

/// A mutation of the engine. Each names the promise that it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blindness {
    /// P1: the sync before the superblock is written (checkpoint's I3).
    SyncBeforeSuperblock,
    /// P1: the sync that makes the superblock count (checkpoint's I3).
    SyncAfterSuperblock,
    /// P3: the wait for the log before the checkpoint's sync (checkpoint's I2).
    LogBeforeCheckpoint,
    /// P1: a checkpoint writes each entry of the catalog that changed (checkpoint's I1).
    ChangedEntries,
    /// P1: the mark reaches the catalog's pages (mark's I4).
    MarkedPages,
    /// P1: segments are free once the checkpoint that no longer names them is durable (segments'
    /// I2).
    FreeAfterCheckpoint,
    /// P5: a slot that a read pin may cover is not reused: quiesce before reuse (segments' I2).
    DrainBeforeReuse,
    /// P2: acknowledgements leave in log order (the log's I2).
    LogOrder,
    /// P2: data for a slot that is not ready is written through (the log's I6).
    WriteThrough,
    /// P2: a slot is prepared when its zeroes were synced (segments' I5).
    PreparedSync,
    /// P2: a slot that was not ready when it was taken is not ready when it comes back (segments'
    /// I5).
    SlotReadiness,
    /// P1: a sync covers what was in the store when it began (the log's I3).
    SyncCoverage,
    /// P6: a failed sync latches the store (the log's I4).
    FailedSync,
    /// P1: a write with FUA waits for a sync.
    Fua,
    /// P1: a change of the catalog waits for a sync.
    CatalogSync,
    /// P3: replay compares the data of records that are not known to be synced (recovery's I3).
    ReplayData,
    /// P3: an end of the log that was lost does not come back (recovery's I4).
    Fence,
    /// P3: the trailer block of the open segment is cleared before the log goes on (recovery's I4).
    ClearedTrailer,
    /// P8: an end of the log below the last synced LSN is damage (recovery's I2).
    SyncedEnd,
    /// P8: a superblock that is damaged, lost or in the wrong slot is no torn write (recovery's
    /// I5).
    SuperblockDamage,
    /// P8: the log goes on in the segment that was claimed for it, with or without a footer (the
    /// log's I5).
    NextSegment,
    /// P1: a start writes again the part of the log that it can read and that is not known to be
    /// synced (recovery's I4).
    WrittenAgain,
    /// P2: the trailer is staged before the log goes on in the next segment.
    StagedTrailer,
    /// P2: a window of staging takes the next stretch when all of the old one is in the store
    /// (staging's I1).
    WindowInUse,
    /// P4: data is compared with its checksum when it is read.
    DataChecksum,
    /// P4: nodes of the map are compared with their checksums when they are read.
    NodeChecksum,
    /// P4: a block that is written in part still has, at that moment, the content that was read
    /// (write's I3).
    EdgeChanged,
    /// P4: a block that moves to be in order still has, at that moment, the content that was read
    /// (defragment's I1).
    MoveChanged,
    /// P7: a block that is shared does not move to be in order (defragment's I2).
    MoveShared,
    /// P7: some segments are kept for the work that makes room again (segments' I3).
    Reserve,
    /// P9: a snapshot refuses to be written.
    SnapshotWrites,
}

#[cfg(feature = "blindness")]
thread_local! {
    static CHOSEN: Cell<Option<Blindness>> = const { Cell::new(None) };
}

/// Runs `work` on this thread with an engine that has this mutation.
#[cfg(feature = "blindness")]
pub fn while_blind_to<T>(blindness: Blindness, work: impl FnOnce() -> T) -> T {
    struct Sighted;
    impl Drop for Sighted {
        fn drop(&mut self) {
            CHOSEN.set(None);
        }
    }
    let _sighted_again = Sighted;
    CHOSEN.set(Some(blindness));
    work()
}

/// Whether this engine has that mutation.
#[cfg(feature = "blindness")]
pub(crate) fn is_blind_to(what: Blindness) -> bool {
    CHOSEN.get() == Some(what)
}

/// Whether this engine has that mutation: never.
#[cfg(not(feature = "blindness"))]
pub(crate) const fn is_blind_to(_: Blindness) -> bool {
    false
}
