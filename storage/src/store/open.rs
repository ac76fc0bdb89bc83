//! The open store: opening and closing it, and controlling its background work.

use crate::{
    base::{Error, Health, Kind, Result},
    catalog::{Catalog, Volumes},
    format::Superblock,
    maintenance::{Checkpointer, Effort, Maintenance, ReclaimProgress, ScrubProgress, Stall},
    map::VolumeImage,
    recovery::{self, Parts, Recovered, RecoveryReport, StagingFile, StoreOptions},
    volume::Volume,
};
use sandstone_ring::{SharedMemory, TurnEnd, runtime};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};
use uuid::Uuid;

/// An open store. Cheap to clone; its methods run on a runtime's thread.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Open>);

/// The state that all handles of a store share.
pub(crate) struct Open {
    pub(crate) volumes: Arc<Volumes>,
    pub(crate) maintenance: Arc<Maintenance>,
    /// Number of this start (the epoch).
    pub(super) epoch: u32,
    /// The staging file, until the store is closed.
    staging_file: Mutex<Option<StagingFile>>,
}

impl Store {
    /// Opens the store, or creates it when there is none, and replays the log that the last server
    /// left.
    ///
    /// # Errors
    /// [`Kind::Io`] (another server has the store open, no permission, no room); [`Kind::Corrupt`]
    /// when no superblock or catalog can be read. Damage to acknowledged data further on is no
    /// error; the store is then read-only: see [`Self::health`].
    pub async fn open(options: StoreOptions) -> Result<(Self, RecoveryReport)> {
        let recovered = recovery::open(&options).await?;
        Ok(Self::start(recovered))
    }

    /// Opens a store on the caller's parts, for simulations. `staging` gets the store's id and a
    /// number of bytes; it returns shared memory, and whether an earlier server left its content
    /// there.
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
        let Recovered {
            engine,
            superblock,
            volumes,
            families,
            pages,
            unwritten,
            is_damaged,
            applied,
            next_volume,
            rates,
            report,
            staging_file,
        } = recovered;
        let engine = Arc::new(engine);
        let open = |image: VolumeImage| {
            Volume::new(Arc::clone(&engine), image.meta, image.tree, image.applied)
        };
        let catalog =
            Catalog::new(volumes.into_iter().map(open).collect(), &families, next_volume, applied);
        engine.measure_backing();
        let volumes = Arc::new(Volumes::new(engine, catalog));
        let epoch = superblock.epoch;
        let checkpointer =
            Checkpointer::new(Arc::clone(&volumes), superblock, pages, unwritten, is_damaged);
        let maintenance = Arc::new(Maintenance::new(Arc::clone(&volumes), checkpointer, rates));
        let running = Arc::clone(&maintenance);
        runtime::spawn(async move { running.run().await });
        (
            Self(Arc::new(Open {
                volumes,
                maintenance,
                epoch,
                staging_file: Mutex::new(staging_file),
            })),
            report,
        )
    }

    /// Pumps the log at the end of each of this thread's turns, as long as the guard is held. Call
    /// it once on each runtime's thread that uses the store's volumes; the one that opened the
    /// store is attached already.
    pub fn attach_runtime(&self) -> TurnEnd {
        self.0.volumes.engine.attach_runtime()
    }

    /// Whether the store takes writes, and if not, why.
    pub fn health(&self) -> Health {
        self.0.volumes.engine.health.get()
    }

    /// Writes a checkpoint now, and returns when it is durable.
    ///
    /// # Errors
    /// [`Kind::Latched`]: no write succeeds until a restart. [`Kind::NoSpace`]: the checkpoint
    /// before stays valid.
    pub async fn checkpoint(&self) -> Result<()> {
        let maintenance = Arc::clone(&self.0.maintenance);
        to_its_end(async move { maintenance.checkpoint().await }).await
    }

    /// Reclaims all garbage: it frees whole segments, by moving the live blocks of sparse ones, and
    /// returns long dead runs to the file system. It keeps within `reclaim_rate`, unless a writer
    /// waits.
    ///
    /// # Errors
    /// As [`Self::checkpoint`]; [`Kind::Corrupt`] when a map cannot be read; [`Kind::Latched`] when
    /// the store is closed meanwhile. Space that was freed until then stays free.
    pub async fn reclaim(&self) -> Result<()> {
        let maintenance = Arc::clone(&self.0.maintenance);
        to_its_end(async move { maintenance.reclaimer.reclaim_all(Effort::Thorough).await }).await
    }

    /// Progress of reclaim.
    pub fn reclaim_progress(&self) -> ReclaimProgress {
        self.0.maintenance.reclaimer.progress()
    }

    /// Starts a pass of the scrub, which reads and compares all maps and data in the background
    /// within `scrub_rate`; does nothing if a pass is under way.
    pub fn start_scrub(&self) {
        self.0.maintenance.scrubber.start();
    }

    /// Progress and findings of the scrub.
    pub fn scrub_progress(&self) -> ScrubProgress {
        self.0.maintenance.scrubber.progress()
    }

    /// Bytes of data that deleting each volume and snapshot would give back, by id: of all, or of
    /// the family of one id (empty if there is no such volume or snapshot).
    ///
    /// # Errors
    /// [`Kind::Io`], [`Kind::Corrupt`] when a map cannot be read.
    pub async fn exclusive_bytes(&self, of: Option<Uuid>) -> Result<HashMap<Uuid, u64>> {
        self.0.maintenance.exclusive.of(of).await
    }

    /// Work that has made no progress for [`crate::STALLED_AFTER`], causes before effects. Empty
    /// while [`Self::health`] reports a reason. Any thread may call it.
    pub fn stalls(&self) -> Vec<Stall> {
        self.0.maintenance.stalls()
    }

    /// Closes the store: ends the background work, also a reclaim, writes a last checkpoint, and
    /// releases the file. All writes must have ended before.
    ///
    /// # Errors
    /// As [`Self::checkpoint`]; no acknowledged write is lost then, the next start replays it.
    pub async fn close(self) -> Result<()> {
        self.0.maintenance.shut_down().await;
        if self.0.volumes.engine.health.is_stopped() {
            return Ok(());
        }
        self.checkpoint().await?;
        let open = self.0;
        to_its_end(async move {
            open.maintenance.checkpointer.close().await?;
            let staging_file = open.staging_file.lock().expect("no panics under this lock").take();
            if let Some(file) = staging_file {
                file.remove();
            }
            Ok(())
        })
        .await
    }
}

/// Runs `work` in a task of its own: an abandoned checkpoint would leave nodes that count as
/// written and are not, and a superblock that may or may not count.
async fn to_its_end(work: impl Future<Output = Result<()>> + 'static) -> Result<()> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    runtime::spawn(async move {
        // The caller may have dropped its future.
        let _gone = sender.send(work.await);
    });
    receiver
        .await
        .unwrap_or_else(|_| Err(Error::new(Kind::Latched, "the store's thread has ended")))
}
