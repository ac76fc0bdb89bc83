//! Snapshots, forks and restore: a copy of a volume's root under its lock, and one record.
//!
//! I1  The record is logged and the root is copied under the source's lock, so the copy holds every
//!     write that was acknowledged before, from all connections; and replay, which meets the
//!     records in the same order, makes the same copy.
//! I2  The cost depends neither on the volume's size nor on the depth of its lineage: a copy is a
//!     map like any other, without a reference to its source.

use super::{
    open::Store,
    volumes::{check_attributes, grown, unless_missing},
};
use crate::{
    base::{Result, Settings},
    catalog::{Catalog, NotChanged},
    format::{RecordKind, VolumeMeta},
    volume::Volume,
};
use std::{collections::HashMap, sync::Arc};
use uuid::Uuid;

/// Specification of a fork: how it differs from its source.
#[derive(Clone, Debug)]
pub struct ForkSpec {
    /// The fork's id, chosen by the caller; unique in the store.
    pub id: Uuid,
    /// Its size in bytes, where it is larger than the source's; at most 16 TiB.
    pub size_bytes: Option<u64>,
    /// Its settings, where they differ from the source's.
    pub settings: Option<Settings>,
    /// Opaque bytes of the caller, at most [`crate::ATTRIBUTES_BYTES_MAX`].
    pub attributes: Vec<u8>,
}

impl Store {
    /// Makes a snapshot of a volume, with an id and opaque attributes. It never changes, and is
    /// durable when this returns.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`], [`crate::Kind::Exists`], [`crate::Kind::Invalid`],
    /// [`crate::Kind::NoSpace`]: nothing was done. [`crate::Kind::Latched`],
    /// [`crate::Kind::ReadOnly`]: see [`Self::health`].
    pub async fn create_snapshot(
        &self,
        volume: Uuid,
        id: Uuid,
        attributes: Vec<u8>,
    ) -> Result<Volume> {
        check_attributes(&attributes)?;
        let attributes: Arc<[u8]> = attributes.into();
        self.0.volumes.engine.check_room().await?;
        let snapshot = |catalog: &mut Catalog| {
            let source = catalog.volume(volume)?;
            let meta = |source: &VolumeMeta| {
                let snapshot_of = Some(source.number);
                Ok(VolumeMeta {
                    snapshot_of,
                    attributes: Arc::clone(&attributes),
                    ..source.clone()
                })
            };
            self.branch(catalog, &source, id, meta)
        };
        self.0.volumes.change(snapshot).await
    }

    /// Makes a volume that begins as a copy of a volume or snapshot. It is durable when this
    /// returns.
    ///
    /// # Errors
    /// As [`Self::create_snapshot`]; [`crate::Kind::Invalid`] also for a smaller size.
    pub async fn create_fork(&self, source: Uuid, spec: ForkSpec) -> Result<Volume> {
        check_attributes(&spec.attributes)?;
        let attributes: Arc<[u8]> = spec.attributes.into();
        self.0.volumes.engine.check_room().await?;
        let fork = |catalog: &mut Catalog| {
            let source = catalog.entry(source)?;
            let meta = |source: &VolumeMeta| {
                Ok(VolumeMeta {
                    snapshot_of: None,
                    size_bytes: grown(
                        source.size_bytes,
                        spec.size_bytes.unwrap_or(source.size_bytes),
                    )?,
                    settings: spec.settings.unwrap_or(source.settings),
                    attributes: Arc::clone(&attributes),
                    ..source.clone()
                })
            };
            self.branch(catalog, &source, spec.id, meta)
        };
        self.0.volumes.change(fork).await
    }

    /// Makes an entry that begins as a copy of `source`; `meta` makes its properties from the
    /// source's.
    fn branch(
        &self,
        catalog: &mut Catalog,
        source: &Volume,
        id: Uuid,
        meta: impl FnOnce(&VolumeMeta) -> Result<VolumeMeta>,
    ) -> Result<Volume, NotChanged> {
        let engine = &self.0.volumes.engine;
        let number = catalog.next_number(id)?;
        let mut state = source.inner.lock();
        let meta = VolumeMeta { number, id, ..meta(&state.meta)? };
        let logged = catalog.log_meta(&engine.log, source.inner.number, RecordKind::Fork, &meta)?;
        let (tree, shared_blocks) = state.tree.branch(logged.point);
        if let Some(family) = catalog.family_mut(meta.family) {
            family.shared_blocks += shared_blocks;
        }
        Ok(catalog.add(Volume::new(Arc::clone(engine), meta, tree, logged.behind)))
    }

    /// Restores a volume to its snapshot, in content and size; its settings and attributes stay. It
    /// is durable when this returns. Clients that hold the volume see it change under them: cut
    /// them off first.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`] when the volume has no such snapshot: nothing was done.
    /// [`crate::Kind::Latched`], [`crate::Kind::ReadOnly`]: see [`Self::health`]. Never
    /// [`crate::Kind::NoSpace`].
    pub async fn restore(&self, volume: Uuid, snapshot: Uuid) -> Result<()> {
        let engine = &self.0.volumes.engine;
        let restore = |catalog: &mut Catalog| {
            let volume = catalog.volume(volume)?;
            let snapshot = catalog.snapshot(&volume, snapshot)?;
            // The catalog's lock is held, so no other task holds two volumes' locks.
            let (mut state, from) = (volume.inner.lock(), snapshot.inner.lock());
            let payload = snapshot.inner.number.0.to_le_bytes();
            let logged =
                catalog.log(&engine.log, volume.inner.number, RecordKind::Restore, &payload)?;
            engine.reclaim.add_garbage(state.tree.mapped_blocks());
            let formerly_own = state.tree.become_copy_of(&from.tree, logged.point);
            engine.space.add(-i128::from(formerly_own));
            state.meta.size_bytes = from.meta.size_bytes;
            state.applied = logged.behind;
            volume.inner.publish(&state);
            Ok(())
        };
        self.0.volumes.change(restore).await
    }

    /// Deletes a snapshot of a volume; `false` when it has none of that id. The volume and all
    /// forks stay as they are.
    ///
    /// # Errors
    /// As [`Self::delete_volume`].
    pub async fn delete_snapshot(&self, volume: Uuid, snapshot: Uuid) -> Result<bool> {
        let delete = |catalog: &mut Catalog| {
            let snapshot = catalog.snapshot(&catalog.volume(volume)?, snapshot)?;
            self.0.volumes.delete(catalog, &snapshot)
        };
        unless_missing(self.0.volumes.change(delete).await)
    }

    /// A handle of a snapshot of a volume, for reading.
    pub fn snapshot(&self, volume: Uuid, id: Uuid) -> Option<Volume> {
        let catalog = self.0.volumes.lock();
        catalog.volume(volume).and_then(|volume| catalog.snapshot(&volume, id)).ok()
    }

    /// All snapshots of a volume, in the order in which they were made.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`].
    pub fn snapshots(&self, volume: Uuid) -> Result<Vec<Volume>> {
        let catalog = self.0.volumes.lock();
        let number = catalog.volume(volume)?.inner.number;
        Ok(catalog.snapshots(number).cloned().collect())
    }

    /// All snapshots of all volumes, each with its volume's id, in no order.
    pub fn all_snapshots(&self) -> Vec<(Uuid, Volume)> {
        let catalog = self.0.volumes.lock();
        let volumes: HashMap<_, _> =
            catalog.all().map(|entry| (entry.inner.number, entry.id())).collect();
        let of = |entry: &Volume| Some((*volumes.get(&entry.inner.snapshot_of?)?, entry.clone()));
        catalog.all().filter_map(of).collect()
    }
}
