//! The engine with its catalog: what background work and the store share.

use super::{Catalog, NotChanged};
use crate::{
    base::{Blindness, Result, is_blind_to},
    core::Engine,
    format::RecordKind,
    log::Refused,
    volume::Volume,
};
use std::sync::{Arc, Mutex, MutexGuard};

/// All volumes and snapshots of an open store.
pub(crate) struct Volumes {
    pub(crate) engine: Arc<Engine>,
    catalog: Mutex<Catalog>,
}

impl Volumes {
    pub(crate) fn new(engine: Arc<Engine>, catalog: Catalog) -> Self {
        Self { engine, catalog: Mutex::new(catalog) }
    }

    /// The catalog's lock. A volume's is taken under it, never the other way round.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().expect("no panics under this lock")
    }

    /// All volumes and snapshots.
    pub(crate) fn all(&self) -> Vec<Volume> {
        self.lock().all().cloned().collect()
    }

    /// Changes the catalog, under its lock, as soon as the log has room for the record; waits until
    /// the record is durable.
    pub(crate) async fn change<T>(
        &self,
        mut change: impl FnMut(&mut Catalog) -> Result<T, NotChanged>,
    ) -> Result<T> {
        let (done, lsn) = loop {
            let room = self.engine.log.room.notified();
            let refused = {
                let mut catalog = self.lock();
                match change(&mut catalog) {
                    Ok(done) => break (done, catalog.applied()),
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

    /// Logs the deletion of a volume with its snapshots, or of a snapshot, and removes them.
    pub(crate) fn delete(&self, catalog: &mut Catalog, entry: &Volume) -> Result<(), NotChanged> {
        catalog.log(&self.engine.log, entry.inner.number, RecordKind::VolumeDelete, &[])?;
        let removed = catalog.remove(entry.inner.number);
        self.engine.space.add(-removed.freed_blocks);
        self.engine.reclaim.add_garbage(removed.mapped_blocks);
        Ok(())
    }

    /// Waits until the reason for which a catalog record was refused may have ended.
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
}
