//! The store: opens, keeps the catalog of volumes, closes.

use crate::{
    address::{BLOCK_BYTES, VOLUME_BYTES_MAX},
    blindness::{Blindness, is_blind_to},
    checkpoint::Checkpointer,
    distribution::Distribution,
    engine::Engine,
    error::{Error, Kind, Result},
    exclusive::Exclusive,
    format::{Catalog, RecordKind, Superblock, VolumeEntry, VolumeMeta},
    health::Health,
    io::{Placement, SharedMemory},
    keeper,
    lines::{Lines, NotChanged},
    log::Refused,
    map::Tree,
    reclaim::{self, Effort, ReclaimProgress},
    recovery::{self, Parts, Recovered, StagingFate, StagingFile},
    runtime::{self, TurnEnd},
    scrub::ScrubProgress,
    volume::{ATTRIBUTES_BYTES_MAX, Settings, Volume},
};
use std::{
    path::PathBuf,
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::*},
    },
    time::Duration,
};
use tokio::sync::Notify;
use uuid::Uuid;

/// What a store is opened with.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The store file or block device. A file is made when it is not there.
    pub path: PathBuf,
    /// Bytes of a new store. An older one grows to it, and never shrinks.
    pub size_bytes: u64,
    /// Directory of shared memory for the staging buffer; the store's own directory when there is no room in it.
    pub staging_dir: PathBuf,
    /// Most bytes of data in the cache.
    pub cache_bytes: u64,
    /// Most bytes of maps in the cache, and once more of changed maps.
    pub metadata_bytes: u64,
    /// Bytes a second that reclaim may read and write while nobody waits for it.
    pub reclaim_rate: u64,
    /// Bytes a second that the scrub may read; 0 for none but when somebody asks, and then as many as there are.
    pub scrub_rate: u64,
}

/// What a volume is made from.
#[derive(Clone, Debug)]
pub struct VolumeSpec {
    /// Its id.
    pub id: Uuid,
    /// Its size in bytes: 1 to 16 TiB.
    pub size_bytes: u64,
    /// Its tuning.
    pub settings: Settings,
    /// The caller's bytes, at most [`ATTRIBUTES_BYTES_MAX`].
    pub attributes: Vec<u8>,
}

/// What is to be changed of a volume.
#[derive(Clone, Debug, Default)]
pub struct VolumeChange {
    /// A larger size.
    pub size_bytes: Option<u64>,
    /// Other tuning.
    pub settings: Option<Settings>,
    /// Other attributes.
    pub attributes: Option<Vec<u8>>,
}

/// How opening went.
#[derive(Clone, Debug)]
pub struct RecoveryReport {
    /// The store was made just now.
    pub created: bool,
    /// From the lock to being ready.
    pub duration: Duration,
    /// Records replayed.
    pub records: u64,
    /// Bytes of log that they came from.
    pub log_bytes: u64,
    /// Of the records, those that were in the staging buffer only.
    pub staged_records: u64,
    /// Volumes and snapshots.
    pub volumes: usize,
    /// The last server had closed it.
    pub clean: bool,
    /// What became of what it had staged.
    pub staging: StagingFate,
    /// What an acknowledged write is worth when the host crashes.
    pub placement: Placement,
    /// Number of this start; the first is 1.
    pub epoch: u32,
}

/// Numbers for metrics.
#[derive(Clone, Debug)]
pub struct StoreStats {
    /// Bytes that segments can take.
    pub capacity_bytes: u64,
    /// Bytes of data that may live in it: `capacity_bytes` without what is held back for the log, maps, checkpoints and
    /// reclaim, and without what the file system below cannot back.
    pub usable_bytes: u64,
    /// Bytes of data that live: what volumes and snapshots have, shared blocks once. At most: a mark counts exactly.
    pub used_bytes: u64,
    /// Bytes of new data that writers may still store.
    pub free_bytes: u64,
    /// Bytes in used segments that nothing refers to, about: reclaim gives them back.
    pub garbage_bytes: u64,
    /// Bytes of segments that nothing is in, as far as the file system below can back them.
    pub free_segment_bytes: u64,
    /// Bytes that the file system counts for the store file.
    pub file_allocated_bytes: u64,
    /// Records logged since the start.
    pub log_records: u64,
    /// Device writes of the log since the start.
    pub log_batches: u64,
    /// Bytes of them, headers included.
    pub log_bytes: u64,
    /// How large those writes were, in bytes.
    pub batch_bytes: Distribution,
    /// Bytes that are staged and not in the store yet, of all volumes.
    pub buffered_bytes: u64,
    /// Device syncs since the start.
    pub syncs: u64,
    /// Flushes and the like that they served.
    pub sync_requests: u64,
    /// How many waited for each sync together.
    pub sync_sharing: Distribution,
    /// Checkpoints since the start.
    pub checkpoints: u64,
    /// What they took, all together.
    pub checkpoint_time: Duration,
    /// Bytes of maps and catalogs that they wrote.
    pub checkpoint_bytes: u64,
    /// Of the device writes of the log, those that were written through, because no slot was ready for them.
    pub written_through: u64,
    /// Bytes of free slots that are ready for the log. None is counted where that makes no difference, as on a block device.
    pub ready_bytes: u64,
    /// What an acknowledged write is worth when the host crashes, and why the log is written through where it always is.
    pub placement: Placement,
    /// Zeroes written since the start to get slots ready, in bytes.
    pub prepared_bytes: u64,
    /// Rounds of reclaim since the start.
    pub reclaims: u64,
    /// Look-ups of data blocks that the cache had.
    pub cache_hits: u64,
    /// Those that it had not.
    pub cache_misses: u64,
    /// Bytes of data in the cache.
    pub cache_bytes: u64,
    /// Bytes of maps in the cache.
    pub metadata_bytes: u64,
    /// Blocks that were not what was written there.
    pub corrupt_blocks: u64,
    /// Number of this start.
    pub epoch: u32,
}

/// An open store. Cheap to clone; its methods run on a runtime's thread.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Shared>);

/// What the store, its keeper and its volumes hold together.
pub(crate) struct Shared {
    pub(crate) engine: Arc<Engine>,
    epoch: u32,
    catalog: Mutex<Lines>,
    pub(crate) checkpointer: tokio::sync::Mutex<Checkpointer>,
    /// Held for a round of reclaim: two together would free a segment twice.
    pub(crate) reclaiming: tokio::sync::Mutex<reclaim::Plan>,
    /// Held for a thorough reclaim, so that closing can wait for it.
    pub(crate) reclaiming_all: tokio::sync::Mutex<()>,
    checkpoints: AtomicU64,
    checkpoint_us: AtomicU64,
    /// The keeper has ended.
    pub(crate) kept: Notify,
    /// What deletion would give back, as of the last time that somebody asked.
    pub(crate) exclusive: Mutex<Exclusive>,
    /// Until the store is closed.
    staging_file: Mutex<Option<StagingFile>>,
}

/// When a checkpoint is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// If something changed since the last one.
    IfChanged,
    /// In any case.
    Always,
}

impl Store {
    /// Opens the store, makes it when there is none, and replays what the last server left.
    ///
    /// # Errors
    /// [`Kind::Io`] (another server has it, no permission, no room); [`Kind::Corrupt`] when no superblock or catalog
    /// can be read. Damage to acknowledged data further on does not fail: see [`Self::health`].
    pub async fn open(options: StoreOptions) -> Result<(Self, RecoveryReport)> {
        let recovered = recovery::open(&options).await?;
        Ok(Self::start(recovered))
    }

    /// Opens a store on parts that the caller brings, as simulations do. `staging` is asked for shared memory: given the
    /// store's id and the bytes needed, it answers with the memory and whether it has what an earlier server left.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_on(
        parts: Parts,
        staging: impl FnOnce(&[u8; 16], usize) -> std::io::Result<(Arc<SharedMemory>, bool)>,
    ) -> Result<(Self, RecoveryReport)> {
        let staging = |superblock: &Superblock, bytes| staging(&superblock.identity.store, bytes);
        Ok(Self::start(recovery::recover(parts, staging).await?))
    }

    fn start(recovered: Recovered) -> (Self, RecoveryReport) {
        let Recovered { engine, superblock, volumes, families, applied, next_volume, report, staging_file } =
            recovered;
        let engine = Arc::new(engine);
        let line =
            |entry: VolumeEntry| Volume::new(Arc::clone(&engine), entry.meta, entry.tree, entry.applied);
        let lines: Vec<_> = volumes.into_iter().map(line).collect();
        let shared = Arc::new(Shared {
            epoch: superblock.epoch,
            catalog: Mutex::new(Lines::new(lines, &families, next_volume, applied)),
            checkpointer: tokio::sync::Mutex::new(Checkpointer::new(superblock)),
            reclaiming: tokio::sync::Mutex::default(),
            checkpoints: AtomicU64::new(0),
            checkpoint_us: AtomicU64::new(0),
            reclaiming_all: tokio::sync::Mutex::default(),
            kept: Notify::new(),
            exclusive: Mutex::default(),
            staging_file: Mutex::new(staging_file),
            engine,
        });
        shared.engine.look_below();
        runtime::spawn(keeper::keep(Arc::clone(&shared)));
        (Self(shared), report)
    }

    /// Lets the log send its batches at the end of this thread's turns, as long as the guard is held. Call it once on
    /// each runtime's thread that uses the store's volumes; the one that opened the store is attached already.
    pub fn attach_runtime(&self) -> TurnEnd {
        self.0.attach_runtime()
    }

    /// Makes a volume. It is durable when this returns.
    ///
    /// # Errors
    /// [`Kind::Exists`], [`Kind::Invalid`], [`Kind::NoSpace`]: nothing was done. [`Kind::Latched`],
    /// [`Kind::ReadOnly`]: see [`Self::health`].
    pub async fn create_volume(&self, spec: VolumeSpec) -> Result<Volume> {
        check_size(spec.size_bytes)?;
        check_attributes(&spec.attributes)?;
        let engine = &self.0.engine;
        engine.check_room().await?;
        let create = |lines: &mut Lines| {
            let number = lines.next_number(spec.id)?;
            let meta = VolumeMeta {
                number,
                id: spec.id,
                family: number,
                snapshot_of: None,
                size_bytes: spec.size_bytes,
                settings: spec.settings,
                attributes: spec.attributes.as_slice().into(),
            };
            let logged = lines.log_meta(&engine.log, number, RecordKind::VolumePut, &meta)?;
            Ok(lines.add(Volume::new(Arc::clone(engine), meta, Tree::default(), logged.behind)))
        };
        self.0.change(create).await
    }

    /// The volume of that id.
    pub fn volume(&self, id: Uuid) -> Option<Volume> {
        self.0.lock().volume(id).ok()
    }

    /// All volumes, in no order.
    pub fn volumes(&self) -> Vec<Volume> {
        self.0.lock().all().filter(|line| line.inner.snapshot_of.is_none()).cloned().collect()
    }

    /// Changes a volume. The change is durable when this returns.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Invalid`] for a smaller size; otherwise as [`Self::create_volume`].
    pub async fn update_volume(&self, id: Uuid, change: VolumeChange) -> Result<()> {
        if let Some(attributes) = &change.attributes {
            check_attributes(attributes)?;
        }
        let update = |lines: &mut Lines| {
            let volume = lines.volume(id)?;
            let mut state = volume.inner.lock();
            let mut meta = state.meta.clone();
            if let Some(size) = change.size_bytes {
                meta.size_bytes = grown(meta.size_bytes, size)?;
            }
            meta.settings = change.settings.unwrap_or(meta.settings);
            if let Some(attributes) = &change.attributes {
                meta.attributes = attributes.as_slice().into();
            }
            lines.log_meta(&self.0.engine.log, meta.number, RecordKind::VolumePut, &meta)?;
            state.meta = meta;
            volume.inner.publish(&state);
            drop(state);
            Ok(volume)
        };
        self.0.change(update).await?.inner.keep_to_cap();
        Ok(())
    }

    /// Deletes a volume and its snapshots; `false` when there was none. Its forks live on. It is durable when this
    /// returns; the space that nobody else holds comes back in the background.
    ///
    /// # Errors
    /// [`Kind::Latched`], [`Kind::ReadOnly`]: see [`Self::health`]. Never for want of space.
    pub async fn delete_volume(&self, id: Uuid) -> Result<bool> {
        let found = self.0.change(|lines| self.0.delete(lines, &lines.volume(id)?)).await;
        unless_missing(found)
    }

    /// Numbers for metrics.
    pub fn stats(&self) -> StoreStats {
        let engine = &self.0.engine;
        let (segments, counters) = (&engine.disk.segments, &engine.log.counters);
        let cache = engine.disk.usage.stats();
        let geometry = segments.geometry;
        StoreStats {
            capacity_bytes: u64::from(geometry.slots) * geometry.segment_bytes(),
            usable_bytes: engine.space.usable_blocks() * BLOCK_BYTES as u64,
            used_bytes: engine.space.live_blocks() * BLOCK_BYTES as u64,
            free_bytes: engine.space.free_blocks() * BLOCK_BYTES as u64,
            garbage_bytes: engine.garbage_blocks() * BLOCK_BYTES as u64,
            free_segment_bytes: u64::from(segments.usable()) * geometry.segment_bytes(),
            file_allocated_bytes: engine.disk.file.allocated_bytes().unwrap_or(0),
            log_records: counters.records.load(Relaxed),
            log_batches: counters.batches.load(Relaxed),
            log_bytes: counters.bytes.load(Relaxed),
            batch_bytes: counters.batch_bytes.distribution(),
            buffered_bytes: self.0.lines().iter().map(|line| line.stats().buffered_bytes).sum(),
            syncs: counters.syncs.load(Relaxed),
            sync_requests: counters.sync_requests.load(Relaxed),
            sync_sharing: counters.sync_sharing.distribution(),
            checkpoints: self.0.checkpoints.load(Relaxed),
            checkpoint_time: Duration::from_micros(self.0.checkpoint_us.load(Relaxed)),
            checkpoint_bytes: engine.upkeep.checkpoint_bytes.load(Relaxed),
            written_through: counters.through.load(Relaxed),
            ready_bytes: segments.prepared() as u64 * geometry.segment_bytes(),
            placement: engine.disk.file.placement(),
            prepared_bytes: engine.upkeep.prepared_bytes.load(Relaxed),
            reclaims: engine.upkeep.reclaims.load(Relaxed),
            cache_hits: cache.cache_hits,
            cache_misses: cache.cache_misses,
            cache_bytes: engine.disk.blocks.bytes(),
            metadata_bytes: engine.disk.nodes.bytes(),
            corrupt_blocks: engine.disk.corrupt.load(Relaxed),
            epoch: self.0.epoch,
        }
    }

    /// Whether the store takes writes, and if not, why.
    pub fn health(&self) -> Health {
        self.0.engine.health.get()
    }

    /// Writes a checkpoint now.
    ///
    /// # Errors
    /// [`Kind::Latched`], [`Kind::NoSpace`].
    pub async fn checkpoint(&self) -> Result<()> {
        let shared = Arc::clone(&self.0);
        to_its_end(async move { shared.checkpoint().await }).await
    }

    /// Gives back all space that nothing refers to: whole segments, by moving what is alive in sparse ones, and long dead
    /// runs to the file system. Within the I/O budget, unless a writer waits.
    ///
    /// # Errors
    /// As [`Self::checkpoint`]; [`Kind::Corrupt`] when a map cannot be read; [`Kind::Latched`] when the store is closed
    /// meanwhile. What was given back until then is.
    pub async fn reclaim(&self) -> Result<()> {
        let shared = Arc::clone(&self.0);
        to_its_end(async move { shared.reclaim_all(Effort::Thorough).await }).await
    }

    /// What reclaim is doing and has done.
    pub fn reclaim_progress(&self) -> ReclaimProgress {
        let upkeep = &self.0.engine.upkeep;
        upkeep.reclaim.progress(upkeep.reclaims.load(Relaxed))
    }

    /// Has all maps and data read and compared in the background, within the I/O budget; at once, unless that is under way
    /// anyway.
    pub fn start_scrub(&self) {
        self.0.engine.upkeep.scrub.start();
    }

    /// What the scrub is doing and has found.
    pub fn scrub_progress(&self) -> ScrubProgress {
        self.0.engine.upkeep.scrub.progress()
    }

    /// Ends the background work, a reclaim too, writes a last checkpoint, and lets go of the store. Nothing may be writing
    /// any more.
    ///
    /// # Errors
    /// As [`Self::checkpoint`]; nothing acknowledged is lost then, the next start replays it.
    pub async fn close(self) -> Result<()> {
        let upkeep = &self.0.engine.upkeep;
        // Whoever waits for room would hold up the end.
        self.0.engine.health.lose_patience();
        if upkeep.closing.begin() {
            upkeep.wanted.notify_one();
            upkeep.checkpoint_wanted.notify_one();
            self.0.kept.notified().await;
        }
        drop(self.0.reclaiming_all.lock().await);
        if self.0.engine.health.is_stopped() {
            return Ok(());
        }
        self.checkpoint().await?;
        let shared = Arc::clone(&self.0);
        to_its_end(async move {
            shared.checkpointer.lock().await.close(&shared.engine).await?;
            let staging_file = shared.staging_file.lock().expect("no panics under this lock").take();
            if let Some(file) = staging_file {
                file.remove();
            }
            Ok(())
        })
        .await
    }
}

/// Runs `work` in a task of its own: a checkpoint given up half way would leave nodes that count as written and are not,
/// and a superblock of which nobody knows whether it counts.
async fn to_its_end(work: impl Future<Output = Result<()>> + 'static) -> Result<()> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    runtime::spawn(async move {
        // Nobody may be waiting any more.
        let _gone = sender.send(work.await);
    });
    receiver.await.unwrap_or_else(|_| Err(Error::new(Kind::Latched, "the store's thread has ended")))
}

impl Shared {
    pub(crate) fn attach_runtime(&self) -> TurnEnd {
        let log = Arc::clone(&self.engine.log);
        runtime::on_turn_end(Rc::new(move || log.pump()))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Lines> {
        self.catalog.lock().expect("no panics under this lock")
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.engine.upkeep.closing.has_begun()
    }

    /// All volumes and snapshots.
    pub(crate) fn lines(&self) -> Vec<Volume> {
        self.lock().all().cloned().collect()
    }

    /// Changes the catalog, under its lock, as soon as the log has room for the record; waits until that is durable.
    pub(crate) async fn change<T>(
        &self,
        mut change: impl FnMut(&mut Lines) -> Result<T, NotChanged>,
    ) -> Result<T> {
        let (done, lsn) = loop {
            let room = self.engine.log.room.notified();
            let refused = {
                let mut lines = self.lock();
                match change(&mut lines) {
                    Ok(done) => break (done, lines.applied()),
                    Err(NotChanged::Refused(refused)) => refused,
                    Err(NotChanged::Failed(error)) => return Err(error),
                }
            };
            self.wait(refused, room).await?;
        };
        if !is_blind_to(Blindness::CatalogSync) {
            self.engine.log.sync(lsn).await?;
        }
        Ok(done)
    }

    /// Logs that a volume with its snapshots, or a snapshot, is gone, and lets go of them.
    pub(crate) fn delete(&self, lines: &mut Lines, line: &Volume) -> Result<(), NotChanged> {
        lines.log(&self.engine.log, line.inner.number, RecordKind::VolumeDelete, &[])?;
        let removed = lines.remove(line.inner.number);
        self.engine.space.add(-removed.freed_blocks);
        self.engine.upkeep.garbage_blocks.fetch_add(removed.mapped_blocks, Relaxed);
        Ok(())
    }

    /// Waits for what a catalog record was refused for.
    async fn wait(&self, refused: Refused, room: impl Future<Output = ()>) -> Result<()> {
        match refused {
            Refused::Busy => {
                self.engine.log.pump();
                room.await;
                Ok(())
            }
            Refused::NoSpace(need) => self.engine.wait_reclaim(need).await,
            Refused::Stopped => Err(self.engine.health.refusal()),
        }
    }

    /// Writes a checkpoint, if anything changed since the last one. Where it would take the room that reclaim needs for its
    /// own, which frees what they leave behind, that goes first.
    pub(crate) async fn checkpoint(&self) -> Result<()> {
        let is_short = self.engine.is_room_for_checkpoints_short() && !self.is_closing();
        // Only then does a checkpoint wait for a round: whichever comes first would take the room of the other.
        if is_short {
            match self.reclaim_round(Effort::Needed).await {
                Ok(_) => {}
                // Another one would take what is left for that of reclaim.
                Err(error) if error.kind() == Kind::NoSpace => return Err(error),
                // A map that cannot be read, which is told elsewhere, does not keep a checkpoint from being written.
                Err(error) => tracing::debug!(%error, "a round of reclaim before a checkpoint failed"),
            }
        }
        self.write_checkpoint(Due::IfChanged).await
    }

    /// The same in any case.
    pub(crate) async fn checkpoint_anew(&self) -> Result<()> {
        self.write_checkpoint(Due::Always).await
    }

    async fn write_checkpoint(&self, due: Due) -> Result<()> {
        let engine = &self.engine;
        let mut checkpointer = self.checkpointer.lock().await;
        if engine.health.is_stopped() {
            return Err(engine.health.refusal());
        }
        let retired = engine.disk.segments.retired();
        // Writes that found no room have made nodes their own and logged nothing: those are written too, or those who
        // wait for less that is dirty would wait for ever.
        let unchanged =
            engine.log.next_lsn() == checkpointer.replay_lsn() && engine.upkeep.dirty_nodes() == 0;
        if due == Due::IfChanged && retired.is_empty() && unchanged {
            return Ok(());
        }
        let began = runtime::now();
        let _under_way = engine.watchdog.checkpoint.begin();
        engine.upkeep.take_dirty();
        let replay = engine.log.cut();
        let (next_volume, catalog) = {
            let lines = self.lock();
            let entry = |line: &Volume| {
                let state = line.inner.lock();
                VolumeEntry { meta: state.meta.clone(), applied: state.applied, tree: state.tree.clone() }
            };
            let volumes = lines.all().map(entry).collect();
            let (applied, families) = (lines.applied(), lines.shared());
            (lines.next(), Catalog { applied, volumes, families, segments: Vec::new() })
        };
        let result = checkpointer.run(engine, next_volume, &retired, replay, catalog).await;
        if result.is_ok() {
            self.checkpoints.fetch_add(1, Relaxed);
            let took = runtime::now().saturating_sub(began);
            self.checkpoint_us.fetch_add(took.as_micros() as u64, Relaxed);
            engine.upkeep.taken_is_durable();
            for line in self.lines() {
                line.inner.lock().tree.prune();
            }
        }
        engine.upkeep.checkpointed.notify_waiters();
        result
    }
}

/// Whether there was something to delete.
pub(crate) fn unless_missing(deleted: Result<()>) -> Result<bool> {
    match deleted {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == Kind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn check_size(size_bytes: u64) -> Result<()> {
    if size_bytes == 0 || size_bytes > VOLUME_BYTES_MAX {
        let text = format!("a volume's size must be from 1 byte to 16 TiB, not {size_bytes}");
        return Err(Error::new(Kind::Invalid, text));
    }
    Ok(())
}

/// The size that a volume of `have` bytes gets that shall have `wanted`.
pub(crate) fn grown(have: u64, wanted: u64) -> Result<u64> {
    check_size(wanted)?;
    if wanted < have {
        return Err(Error::new(Kind::Invalid, format!("a volume cannot shrink (it has {have} bytes)")));
    }
    Ok(wanted)
}

pub(crate) fn check_attributes(attributes: &[u8]) -> Result<()> {
    if attributes.len() > ATTRIBUTES_BYTES_MAX {
        let text = format!("{} bytes of attributes are more than {ATTRIBUTES_BYTES_MAX}", attributes.len());
        return Err(Error::new(Kind::Invalid, text));
    }
    Ok(())
}
