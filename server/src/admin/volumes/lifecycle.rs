//! Making, changing and deleting volumes: the store first, then the registry.
//!
//! ```text
//!   create   name claimed ─► store: durable ─► registry: visible
//!   change   lock ─► name claimed ─► store: durable ─► registry: new record
//!   delete   lock ─► closed, clients gone ─► store: durable ─► registry: forgotten
//! ```
//!
//! I1  Nothing is answered before it is durable.
//! I2  The registry never shows what the store does not have: it changes after the store, and at
//!     once.
//! I3  A step that was begun is finished, whether or not its caller waits for the answer: each runs
//!     in a task of its own, and a stopping server waits for it. A store changed and a registry
//!     left behind would break I2.
//! I4  Changes of one volume take turns (`Registry::lock_exclusive`); those of different volumes
//!     run side by side, so that they share the store's syncs.

use super::request::VolumeFields;
use crate::{
    admin::base::{
        Admin, ApiError, Force, GivenSize, GivenTuning, Shared, blocking_deletion, close, finished,
        in_use_details, lock_exclusive,
    },
    api::{AccessMode, Details},
    attachments::{Attachment, Closing},
    record::{VolumeRecord, now},
    registry::{Entry, NameClaim},
};
use sandstone_config::ByteSize;
use sandstone_storage::{Settings, VolumeChange, VolumeSpec};
use std::sync::Arc;
use uuid::Uuid;

/// Defaults of the contract.
const CACHE_SIZE: &str = "1G";
const CACHE_BYTES: u64 = 1 << 30;
const BUFFER_SIZE: &str = "32M";
const BUFFER_BYTES: u64 = 32 << 20;

/// Makes a volume.
pub(super) async fn create(
    admin: &Shared,
    id: Option<Uuid>,
    fields: VolumeFields,
) -> Result<Arc<Entry>, ApiError> {
    let settings = Settings {
        cache_bytes: CACHE_BYTES,
        buffer_bytes: BUFFER_BYTES,
        prefetch_mib: 0,
        writeback: false,
    };
    let (texts, settings) =
        tuned(fields.tuning, [CACHE_SIZE.to_owned(), BUFFER_SIZE.to_owned()], settings);
    let record = VolumeRecord {
        iops_max: limit(fields.iops_max, None),
        bytes_per_second_max: limit(fields.bytes_per_second_max, None),
        ..VolumeRecord::new(fields.name, fields.access_mode, texts)
    };
    let spec = VolumeSpec {
        id: id.unwrap_or_else(Uuid::new_v4),
        size_bytes: fields.size_bytes.unwrap_or(admin.volume_size_bytes),
        settings,
        attributes: record.to_attributes(),
    };
    finished(admin, |admin| async move {
        let name = claimed(&admin, record.name.as_deref(), spec.id)?;
        let store = admin.store.clone();
        let volume =
            admin.store_thread.run(move || async move { store.create_volume(spec).await }).await?;
        let entry = admin.registry.insert(volume, record);
        name.keep();
        Ok(entry)
    })
    .await
}

/// Changes what `fields` names, all of it or nothing.
pub(super) async fn change(
    admin: &Shared,
    id: Uuid,
    fields: VolumeFields,
) -> Result<Arc<Entry>, ApiError> {
    finished(admin, |admin| async move {
        let locked = lock_exclusive(&admin, id).await?;
        if fields == VolumeFields::default() {
            return Ok(Arc::clone(&locked.entry));
        }
        refuse_shrinking(locked.entry.volume.size_bytes(), &fields)?;
        let name = claimed(&admin, fields.name.as_deref(), id)?;
        let before = locked.entry.record().access_mode;
        let (change, record) = changed(&locked.entry, fields);
        let (after, attachments) = (record.access_mode, &locked.entry.attachments);
        // Whether the store takes the change or not, until then no more may attach than either mode
        // allows.
        let meanwhile = if after.writers_max() < before.writers_max() { after } else { before };
        attachments
            .set_mode(meanwhile)
            .await
            .map_err(|writers| would_break(id, after, &writers))?;
        let store = admin.store.clone();
        let updated = admin
            .store_thread
            .run(move || async move { store.update_volume(id, change).await })
            .await;
        let settled = if updated.is_ok() { after } else { before };
        attachments.set_mode(settled).await.expect("it is as wide as the mode meanwhile, or wider");
        updated?;
        let entry = admin.registry.replace(&locked, record);
        name.keep();
        Ok(entry)
    })
    .await
}

/// The right to be found under a name that no other volume has; of no name, none.
pub(super) fn claimed<'a>(
    admin: &'a Admin,
    name: Option<&str>,
    id: Uuid,
) -> Result<NameClaim<'a>, ApiError> {
    admin.registry.claim_name(name, id).map_err(|taken| {
        ApiError::conflict(taken.to_string()).with_details(Details::NameTaken {
            field: "name".to_owned(),
            sandboxvolume_id: taken.by,
        })
    })
}

fn would_break(volume: Uuid, mode: AccessMode, writers: &[Attachment]) -> ApiError {
    let message = format!(
        "volume {volume} is attached read-write by {} client(s), and {mode} allows {}",
        writers.len(),
        mode.writers_max()
    );
    ApiError::conflict(message).with_details(in_use_details(
        volume,
        writers,
        "detach the clients first",
    ))
}

/// Refuses a size below that of the volume, or of a fork's source.
pub(super) fn refuse_shrinking(now_bytes: u64, fields: &VolumeFields) -> Result<(), ApiError> {
    match fields.size_bytes {
        Some(bytes) if bytes < now_bytes => Err(ApiError::bad_request(format!(
            "size must be at least the present {}: a volume only grows, not to {}",
            ByteSize::new(now_bytes),
            ByteSize::new(bytes)
        ))
        .with_details(Details::Shrinks { field: "size".to_owned(), size_bytes: now_bytes })),
        Some(_) | None => Ok(()),
    }
}

fn changed(entry: &Entry, fields: VolumeFields) -> (VolumeChange, VolumeRecord) {
    let mut record = entry.record();
    record.updated_at = now();
    record.name = fields.name.or(record.name);
    record.access_mode = fields.access_mode.unwrap_or(record.access_mode);
    let settings;
    ([record.cache_size, record.buffer_size], settings) =
        tuned(fields.tuning, [record.cache_size, record.buffer_size], entry.volume.settings());
    record.iops_max = limit(fields.iops_max, record.iops_max);
    record.bytes_per_second_max = limit(fields.bytes_per_second_max, record.bytes_per_second_max);
    let change = VolumeChange {
        size_bytes: fields.size_bytes,
        settings: Some(settings),
        attributes: Some(record.to_attributes()),
    };
    (change, record)
}

/// Deletes a volume and its snapshots. One that does not exist is deleted already.
pub(super) async fn delete(admin: &Shared, id: Uuid, force: Force) -> Result<(), ApiError> {
    finished(admin, |admin| async move {
        let Some(locked) = admin.registry.lock_exclusive(id).await else { return Ok(()) };
        let entry = &locked.entry;
        let of_snapshots =
            entry.snapshots.list().into_iter().map(|entry| Arc::clone(&entry.attachments));
        let exports = [Arc::clone(&entry.attachments)].into_iter().chain(of_snapshots).collect();
        let what = format!("volume {id}");
        let closed =
            close(exports, Closing::Deletion, blocking_deletion(force), (id, &what)).await?;
        let store = admin.store.clone();
        admin.store_thread.run(move || async move { store.delete_volume(id).await }).await?;
        if let Err(error) = closed.unmount(&admin).await {
            // The volume is gone, and the next start drops mounts of what is not there.
            tracing::warn!(volume = %id, ?error, "mounts of a deleted volume stay in the list");
        }
        closed.for_ever();
        admin.registry.remove(&locked);
        Ok(())
    })
    .await
}

/// The limit that a volume has from now on: as given, where 0 is none, else as before.
pub(super) fn limit(given: Option<u64>, before: Option<u64>) -> Option<u64> {
    given.or(before).filter(|limit| *limit > 0)
}

/// What tuning becomes: as given, else as before. The texts are those of the cache's and the
/// buffer's size.
pub(super) fn tuned(
    given: GivenTuning,
    [cache_size, buffer_size]: [String; 2],
    before: Settings,
) -> ([String; 2], Settings) {
    let or_before = |given: Option<GivenSize>, text: String, bytes: u64| {
        given.map_or((text, bytes), |given| (given.text, given.bytes))
    };
    let (cache_size, cache_bytes) = or_before(given.cache_size, cache_size, before.cache_bytes);
    let (buffer_size, buffer_bytes) =
        or_before(given.buffer_size, buffer_size, before.buffer_bytes);
    let settings = Settings {
        cache_bytes,
        buffer_bytes,
        prefetch_mib: given.prefetch_mib.unwrap_or(before.prefetch_mib),
        writeback: given.writeback.unwrap_or(before.writeback),
    };
    ([cache_size, buffer_size], settings)
}
