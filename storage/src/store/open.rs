//! The store: opening and closing it, and what it does in the background.

use crate::{
    base::{Error, Health, Kind, Result},
    catalog::{Catalog, Volumes},
    format::Superblock,
    maintenance::{Effort, Maintenance, ReclaimProgress, ScrubProgress, Stall},
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

/// What all handles of a store share.
pub(crate) struct Open {
    pub(crate) volumes: Arc<Volumes>,
    pub(crate) maintenance: Arc<Maintenance>,
    /// Number of this start.
    pub(super) epoch: u32,
    /// Until the store is closed.
    staging_file: Mutex<Option<StagingFile>>,
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

    /// Opens a store on parts that the caller brings, as simulations do. `staging` is asked for
    /// shared memory: given the store's id and the bytes needed, it answers with the memory and
    /// whether it has what an earlier server left.
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
        let maintenance = Arc::new(Maintenance::new(Arc::clone(&volumes), superblock, rates));
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

    /// Lets the log send its batches at the end of this thread's turns, as long as the guard is
    /// held. Call it once on each runtime's thread that uses the store's volumes; the one that
    /// opened the store is attached already.
    pub fn attach_runtime(&self) -> TurnEnd {
        self.0.volumes.engine.attach_runtime()
    }

    /// Whether the store takes writes, and if not, why.
    pub fn health(&self) -> Health {
        self.0.volumes.engine.health.get()
    }

    /// Writes a checkpoint now.
    ///
    /// # Errors
    /// [`Kind::Latched`], [`Kind::NoSpace`].
    pub async fn checkpoint(&self) -> Result<()> {
        let maintenance = Arc::clone(&self.0.maintenance);
        to_its_end(async move { maintenance.checkpoint().await }).await
    }

    /// Gives back all space that nothing refers to: whole segments, by moving what is alive in
    /// sparse ones, and long dead runs to the file system. Within the I/O budget, unless a writer
    /// waits.
    ///
    /// # Errors
    /// As [`Self::checkpoint`]; [`Kind::Corrupt`] when a map cannot be read; [`Kind::Latched`] when
    /// the store is closed meanwhile. What was given back until then is.
    pub async fn reclaim(&self) -> Result<()> {
        let maintenance = Arc::clone(&self.0.maintenance);
        to_its_end(async move { maintenance.reclaimer.reclaim_all(Effort::Thorough).await }).await
    }

    /// What reclaim is doing and has done.
    pub fn reclaim_progress(&self) -> ReclaimProgress {
        self.0.maintenance.reclaimer.progress()
    }

    /// Has all maps and data read and compared in the background, within the I/O budget; at once,
    /// unless that is under way anyway.
    pub fn start_scrub(&self) {
        self.0.maintenance.scrubber.start();
    }

    /// What the scrub is doing and has found.
    pub fn scrub_progress(&self) -> ScrubProgress {
        self.0.maintenance.scrubber.progress()
    }

    /// Bytes of data that deleting it would give back, by id, for all volumes and snapshots; or for
    /// those of one's family, none where there is no such one.
    ///
    /// # Errors
    /// [`Kind::Io`], [`Kind::Corrupt`] when a map cannot be read.
    pub async fn exclusive_bytes(&self, of: Option<Uuid>) -> Result<HashMap<Uuid, u64>> {
        self.0.maintenance.exclusive.of(of).await
    }

    /// What is under way and has not got on for [`crate::STALLED_AFTER`], causes before effects.
    /// None while [`Self::health`] has a reason why nothing goes on. May be asked on any thread.
    pub fn stalls(&self) -> Vec<Stall> {
        self.0.maintenance.stalls()
    }

    /// Ends the background work, a reclaim too, writes a last checkpoint, and lets go of the store.
    /// Nothing may be writing any more.
    ///
    /// # Errors
    /// As [`Self::checkpoint`]; nothing acknowledged is lost then, the next start replays it.
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

/// Runs `work` in a task of its own: a checkpoint given up half way would leave nodes that count as
/// written and are not, and a superblock of which nobody knows whether it counts.
async fn to_its_end(work: impl Future<Output = Result<()>> + 'static) -> Result<()> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    runtime::spawn(async move {
        // Nobody may be waiting any more.
        let _gone = sender.send(work.await);
    });
    receiver
        .await
        .unwrap_or_else(|_| Err(Error::new(Kind::Latched, "the store's thread has ended")))
}
