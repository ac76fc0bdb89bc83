//! Snapshots, forks and restore: the store first, then the registry, as in `lifecycle`.
//!
//! ```text
//!   snapshot, fork   shared lock ─► store: durable ─► registry: visible
//!   restore          exclusive lock ─► closed, clients gone ─► store: durable ─► open
//!   delete           exclusive lock ─► closed, clients gone ─► store: durable ─► registry: forgotten
//! ```
//!
//! I1  Tuning belongs to the volume: a restore leaves it, and a fork of a snapshot takes it from
//!     the volume as it is now.
//! I2  No client sees its content change: a client that read the volume before a restore is no
//!     client after it. NBD has no word for such a change, and what the client has cached of it
//!     would be wrong.

use super::{
    lifecycle::{claimed, limit, refuse_shrinking, tuned},
    request::VolumeFields,
};
use crate::{
    admin::base::{
        ApiError, Force, Shared, blocking_deletion, close, finished, lock_exclusive, lock_shared,
        not_kept,
    },
    attachments::{BlockedBy, Closing},
    record::{SnapshotRecord, VolumeRecord, now},
    registry::{Entry, SnapshotEntry},
};
use sandstone_storage::{ForkSpec, Settings};
use std::sync::Arc;
use uuid::Uuid;

/// Makes a snapshot of a volume.
pub(crate) async fn snapshot(
    admin: &Shared,
    volume: Uuid,
    name: String,
    description: Option<String>,
) -> Result<Arc<SnapshotEntry>, ApiError> {
    finished(admin, |admin| async move {
        let locked = lock_shared(&admin, volume).await?;
        let record = SnapshotRecord { name, description, created_at: now() };
        let (store, attributes) = (admin.store.clone(), record.to_attributes());
        let create =
            move || async move { store.create_snapshot(volume, Uuid::new_v4(), attributes).await };
        let snapshot = admin.store_thread.run(create).await?;
        Ok(admin.registry.insert_snapshot(&locked.entry, snapshot, record))
    })
    .await
}

/// Makes a volume that begins as a copy of a volume, or of one of its snapshots.
pub(crate) async fn fork(
    admin: &Shared,
    volume: Uuid,
    snapshot: Option<Uuid>,
    id: Option<Uuid>,
    fields: VolumeFields,
) -> Result<Arc<Entry>, ApiError> {
    finished(admin, |admin| async move {
        let locked = lock_shared(&admin, volume).await?;
        let source = match snapshot {
            None => locked.entry.volume.clone(),
            Some(id) => snapshot_of(&locked.entry, id)?.snapshot.clone(),
        };
        refuse_shrinking(source.size_bytes(), &fields)?;
        let size_bytes = fields.size_bytes;
        let (mut record, settings) = forked(&locked.entry, fields);
        record.source_snapshot_id = snapshot;
        let spec = ForkSpec {
            id: id.unwrap_or_else(Uuid::new_v4),
            size_bytes,
            settings: Some(settings),
            attributes: record.to_attributes(),
        };
        let name = claimed(&admin, record.name.as_deref(), spec.id)?;
        let store = admin.store.clone();
        let fork = admin
            .store_thread
            .run(move || async move { store.create_fork(source.id(), spec).await });
        let entry = admin.registry.insert(fork.await?, record);
        name.keep();
        Ok(entry)
    })
    .await
}

/// What a fork is from the start. Name and access mode are not inherited; limits are, as all
/// tuning: else a fork would be the way around them.
fn forked(source: &Entry, fields: VolumeFields) -> (VolumeRecord, Settings) {
    let (record, settings) = (source.record(), source.volume.settings());
    let (texts, settings) = tuned(fields.tuning, [record.cache_size, record.buffer_size], settings);
    let record = VolumeRecord {
        source_volume_id: Some(source.volume.id()),
        iops_max: limit(fields.iops_max, record.iops_max),
        bytes_per_second_max: limit(fields.bytes_per_second_max, record.bytes_per_second_max),
        ..VolumeRecord::new(fields.name, fields.access_mode, texts)
    };
    (record, settings)
}

/// Makes a volume what its snapshot is. Writers are in the way unless forced; readers are
/// disconnected (I2).
pub(crate) async fn restore(
    admin: &Shared,
    volume: Uuid,
    snapshot: Uuid,
    force: Force,
) -> Result<(), ApiError> {
    finished(admin, |admin| async move {
        let locked = lock_exclusive(&admin, volume).await?;
        snapshot_of(&locked.entry, snapshot)?;
        let blocked_by = match force {
            Force::No => BlockedBy::Writers,
            Force::Yes => BlockedBy::Nothing,
        };
        let exports = vec![Arc::clone(&locked.entry.attachments)];
        let what = format!("volume {volume}");
        let closed = close(exports, Closing::Restore, blocked_by, (volume, &what)).await?;
        closed.unmount(&admin).await?; // keeps I2: a client that connects again on its own is one of before
        // Under plain names, too, and after a restart.
        let (at, attachments) = (now(), &locked.entry.attachments);
        let peers = attachments.restored(at);
        let store = admin.store.clone();
        let restored = match admin.registry.mounts.fence(volume, attachments, peers, at).await {
            Ok(()) => {
                let restore = move || async move { store.restore(volume, snapshot).await };
                admin.store_thread.run(restore).await.map_err(ApiError::from)
            }
            Err(error) => Err(not_kept(&error)),
        };
        if restored.is_err() {
            attachments.not_restored(at);
        }
        restored
    })
    .await
}

/// Deletes a snapshot. One that does not exist is deleted already.
pub(crate) async fn delete_snapshot(
    admin: &Shared,
    volume: Uuid,
    snapshot: Uuid,
    force: Force,
) -> Result<(), ApiError> {
    finished(admin, |admin| async move {
        let Some(locked) = admin.registry.lock_exclusive(volume).await else { return Ok(()) };
        let Some(entry) = locked.entry.snapshots.get(snapshot) else { return Ok(()) };
        let exports = vec![Arc::clone(&entry.attachments)];
        let what = format!("snapshot {snapshot}");
        let blocked_by = blocking_deletion(force);
        let closed = close(exports, Closing::Deletion, blocked_by, (volume, &what)).await?;
        let store = admin.store.clone();
        admin
            .store_thread
            .run(move || async move { store.delete_snapshot(volume, snapshot).await })
            .await?;
        closed.for_ever();
        admin.registry.remove_snapshot(&locked, snapshot);
        Ok(())
    })
    .await
}

/// The snapshot of that id, if it is one of that volume.
pub(crate) fn snapshot_of(volume: &Entry, id: Uuid) -> Result<Arc<SnapshotEntry>, ApiError> {
    volume
        .snapshots
        .get(id)
        .ok_or_else(|| ApiError::no_snapshot(&volume.volume.id().to_string(), &id.to_string()))
}
