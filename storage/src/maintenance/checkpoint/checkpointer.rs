//! The checkpointer: the one owner of superblock and node segments while the store is open.
//!
//! A checkpoint waits for the device, the log and nothing else: not for a round of reclaim, nor for
//! slots that are prepared or punched.

use super::writer::{CheckpointWriter, Cut, Stretch, Written};
use crate::{
    base::{Blindness, Progress, Result, VolumeNumber, is_blind_to},
    catalog::{Catalog, Volumes},
    disk::{CatalogPages, Numbers, Retired},
    format::{PageRef, Superblock},
    maintenance::wake::{LogActivity, TICK, first_of},
};
use sandstone_ring::runtime;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::*},
    },
    time::Duration,
};
use tokio::sync::{Mutex, MutexGuard};

/// Log bytes after which a checkpoint is due: about the most that replay has to read.
const LOG_BYTES_DUE: u64 = 1 << 30;
/// The same as a part of the store: segments of the log behind the replay start cannot be freed.
const LOG_PART_DUE: u64 = 16;
/// Quiet ticks after which a checkpoint of any change is due.
const QUIET_TICKS: u32 = 25;

/// An event that wakes the checkpointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// Many nodes are dirty, or a writer waits for fewer.
    Wanted,
    Tick,
    ShutDown,
}

/// When a checkpoint is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// If something changed since the last one.
    IfChanged,
    /// In any case.
    Always,
}

/// Writes checkpoints, one at a time.
pub(crate) struct Checkpointer {
    volumes: Arc<Volumes>,
    writer: Mutex<CheckpointWriter>,
    written: Written,
    /// Cuts of the log that checkpoints began with.
    begun: AtomicU64,
    /// The last of them whose checkpoint counts.
    completed: AtomicU64,
    count: AtomicU64,
    took_us: AtomicU64,
}

/// Totals of all checkpoints since the store was opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CheckpointStats {
    pub(crate) count: u64,
    /// Time that they took, all together.
    pub(crate) took: Duration,
    /// Bytes of maps and catalogs that they wrote.
    pub(crate) bytes: u64,
}

/// A guard: no checkpoint is under way until it is dropped.
pub(crate) struct NoCheckpoint<'a>(MutexGuard<'a, CheckpointWriter>);

impl NoCheckpoint<'_> {
    /// The pages of the catalog that counts which the next checkpoint may keep.
    pub(crate) fn lasting_pages(&self, catalog: &Catalog) -> Vec<PageRef> {
        self.0.pages().lasting(&changed(&self.0, catalog)).copied().collect()
    }
}

impl Checkpointer {
    /// A checkpointer that goes on from the superblock that counts and the pages of its catalog,
    /// with the numbers of the entries and families that differ from them. Where the catalog
    /// `is_damaged`, the next checkpoint repairs it.
    pub(crate) fn new(
        volumes: Arc<Volumes>,
        superblock: Superblock,
        pages: CatalogPages,
        unwritten: BTreeSet<VolumeNumber>,
        is_damaged: bool,
    ) -> Self {
        let writer = CheckpointWriter::new(superblock, pages, unwritten, is_damaged);
        Self {
            volumes,
            writer: Mutex::new(writer),
            written: Written::default(),
            begun: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            count: AtomicU64::new(0),
            took_us: AtomicU64::new(0),
        }
    }

    /// Calls `write` whenever a checkpoint is due, until the store closes.
    pub(crate) async fn run(&self, write: impl AsyncFn()) {
        let engine = &self.volumes.engine;
        let (mut activity, mut checkpoint_bytes) = (LogActivity::default(), 0);
        loop {
            match self.next_event().await {
                Event::ShutDown => break,
                // No checkpoint will come for the waiting writers.
                Event::Wanted | Event::Tick if engine.health.is_stopped() => {
                    engine.dirty.wake_waiters()
                }
                Event::Wanted | Event::Tick => {
                    activity.look(&engine.log);
                    let geometry = engine.disk.segments.geometry;
                    let due = LOG_BYTES_DUE
                        .min(geometry.store_bytes() / LOG_PART_DUE)
                        .max(4 * geometry.segment_bytes());
                    let is_due = activity.bytes() - checkpoint_bytes >= due;
                    if is_due || engine.is_half_dirty() || activity.quiet_ticks() == QUIET_TICKS {
                        checkpoint_bytes = activity.bytes();
                        write().await;
                    }
                }
            }
        }
        engine.dirty.wake_waiters();
    }

    async fn next_event(&self) -> Event {
        let engine = &self.volumes.engine;
        let wanted = engine.dirty.checkpoint_wanted();
        first_of(
            (engine.shutdown.begun(), Event::ShutDown),
            (wanted, Event::Wanted),
            (TICK, Event::Tick),
        )
        .await
    }

    /// Writes a checkpoint, if anything changed since the last one.
    ///
    /// # Errors
    /// [`crate::Kind::Latched`] after a failed write or sync; [`crate::Kind::NoSpace`], and the
    /// checkpoint before stays valid.
    pub(crate) async fn write_if_changed(&self) -> Result<()> {
        self.write(Due::IfChanged).await
    }

    /// Writes a checkpoint in any case.
    ///
    /// # Errors
    /// As [`Self::write_if_changed`].
    pub(crate) async fn write_anew(&self) -> Result<()> {
        self.write(Due::Always).await
    }

    async fn write(&self, due: Due) -> Result<()> {
        let engine = &self.volumes.engine;
        let mut writer = self.writer.lock().await;
        if engine.health.is_stopped() {
            return Err(engine.health.refusal());
        }
        let retired = engine.disk.segments.retired();
        if due == Due::IfChanged && self.is_unchanged(&writer, &retired) {
            return Ok(());
        }
        let began = runtime::now();
        let _under_way = self.written.progress.begin();
        let number = self.begun.fetch_add(1, AcqRel) + 1;
        let cut = self.cut(&writer);
        let numbers: Vec<_> = cut.stretches.iter().map(|stretch| stretch.numbers.clone()).collect();
        let result = writer.write(engine, &self.written, &retired, cut).await;
        if result.is_ok() {
            self.completed.store(number, Release);
            self.count.fetch_add(1, Relaxed);
            let took = runtime::now().saturating_sub(began);
            self.took_us.fetch_add(took.as_micros() as u64, Relaxed);
            let catalog = self.volumes.lock();
            let written = numbers.iter().flat_map(|numbers| catalog.in_range(numbers));
            written.for_each(|volume| volume.inner.prune());
        }
        engine.keep_room_for_checkpoints();
        engine.dirty.wake_waiters();
        result
    }

    /// Whether a checkpoint would repeat the last one, and repair nothing. Writes that found no
    /// room have dirtied nodes and logged nothing: such nodes count as a change, or writers that
    /// wait for fewer dirty nodes would wait forever.
    fn is_unchanged(&self, writer: &CheckpointWriter, retired: &Retired) -> bool {
        let engine = &self.volumes.engine;
        retired.is_empty()
            && engine.log.next_lsn() == writer.replay_lsn()
            && engine.dirty.count() == 0
            && writer.unwritten().is_empty()
            && !writer.is_damaged()
    }

    /// Cuts the log and takes what changed since the checkpoint before, with all that is in the
    /// same pages of the catalog.
    fn cut(&self, writer: &CheckpointWriter) -> Cut {
        let engine = &self.volumes.engine;
        engine.dirty.take();
        let (replay, claim) = engine.log.cut();
        let mut catalog = self.volumes.lock();
        let mut changed = changed(writer, &catalog);
        catalog.forget_changed();
        let numbers =
            writer.pages().to_write(&changed, |numbers| catalog.in_range(numbers).count());
        let stretches: Vec<_> =
            numbers.into_iter().map(|numbers| stretch(&catalog, numbers)).collect();
        // Also those that had not changed: one may have, since it was looked at.
        let taken = stretches.iter().flat_map(|stretch| &stretch.volumes);
        changed.extend(taken.map(|volume| volume.meta.number));
        Cut {
            replay,
            claim,
            applied: catalog.applied(),
            next_volume: catalog.next(),
            changed,
            stretches,
        }
    }

    /// A mark before which checkpoints may have begun that hold less than now.
    pub(crate) fn moment(&self) -> u64 {
        self.begun.load(Acquire)
    }

    /// Whether a checkpoint counts that began after that moment.
    pub(crate) fn has_completed_since(&self, moment: u64) -> bool {
        self.completed.load(Acquire) > moment
    }

    /// Waits until no checkpoint is under way; none begins as long as the guard is held.
    pub(crate) async fn hold(&self) -> NoCheckpoint<'_> {
        NoCheckpoint(self.writer.lock().await)
    }

    /// The next checkpoint begins a segment of nodes of its own. The segment that it leaves is
    /// sealed, so that reclaim can judge it.
    pub(crate) async fn leave_segment(&self) {
        if let Some(id) = self.writer.lock().await.leave_segment() {
            self.volumes.engine.disk.segments.seal(id);
        }
    }

    /// Damage on disk to superblock and catalog as they were written last.
    pub(crate) async fn damage(&self) -> Option<String> {
        self.writer.lock().await.damage(&self.volumes.engine).await
    }

    /// Marks the store as closed in the superblock, after a checkpoint that holds everything.
    ///
    /// # Errors
    /// [`crate::Kind::Latched`], as [`Self::write_if_changed`].
    pub(crate) async fn close(&self) -> Result<()> {
        self.writer.lock().await.close(&self.volumes.engine).await
    }

    pub(crate) fn stats(&self) -> CheckpointStats {
        CheckpointStats {
            count: self.count.load(Relaxed),
            took: Duration::from_micros(self.took_us.load(Relaxed)),
            bytes: self.written.bytes.load(Relaxed),
        }
    }

    /// Segments that checkpoints were given since the store was opened.
    pub(crate) fn segments_taken(&self) -> u64 {
        self.written.segments.load(Relaxed)
    }

    /// For the watchdog.
    pub(crate) fn progress(&self) -> &Progress {
        &self.written.progress
    }
}

/// All entries and families of these numbers, as they are now.
fn stretch(catalog: &Catalog, numbers: Numbers) -> Stretch {
    let volumes = catalog.in_range(&numbers).map(|volume| volume.inner.take_image()).collect();
    let families = catalog.shared_in(&numbers);
    Stretch { numbers, volumes, families }
}

/// Numbers of the entries and families that differ from the catalog that counts.
fn changed(writer: &CheckpointWriter, catalog: &Catalog) -> BTreeSet<VolumeNumber> {
    let mut changed = writer.unwritten().clone();
    changed.extend(catalog.changed());
    if !is_blind_to(Blindness::ChangedEntries) {
        let entries = catalog.all().map(|volume| &volume.inner);
        changed.extend(entries.filter(|inner| inner.has_changed()).map(|inner| inner.number));
    }
    changed
}
