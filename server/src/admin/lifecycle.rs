//! Making, changing and deleting volumes: the store first, then the registry.
//!
//! ```text
//!   create   store: durable ─► registry: visible
//!   change   turn ─► store: durable ─► registry: new record
//!   delete   turn ─► door closed, clients cut off and gone ─► store: durable ─► registry: forgotten
//! ```
//!
//! I1  Nothing is answered before it is durable.
//! I2  The registry never shows what the store does not have: it changes after the store, and at once.
//! I3  A step that was begun is finished, whether or not its caller waits for the answer: each runs in a task of its
//!     own, because axum drops a handler when its client hangs up. A stopping server waits for it. A store changed and a registry left behind would
//!     break I2.
//! I4  Changes of one volume take turns (`Entry::turn`); those of different volumes run side by side, so that they share
//!     the store's syncs.

use super::{
    body::Force,
    error::{ApiError, Code},
    fields::{GivenSize, VolumeFields},
    state::Shared,
    volume_view::in_use_details,
};
use crate::{
    record::{AccessMode, TEAM_ID, USER_ID, VolumeRecord, now},
    registry::Entry,
};
use sandstone_config::ByteSize;
use sandstone_storage::{Settings, VolumeChange, VolumeSpec};
use std::{future::Future, sync::Arc, time::Duration};
use uuid::Uuid;

/// Defaults of the contract.
const CACHE_SIZE: &str = "1G";
const CACHE_BYTES: u64 = 1 << 30;
const BUFFER_SIZE: &str = "32M";
const BUFFER_BYTES: u64 = 32 << 20;

/// Longest wait for clients that were cut off to be gone. Far more than a connection takes to notice; past it something
/// is stuck, and the caller is told instead of kept.
const CUT_OFF_SECS_MAX: u64 = 10;

/// Makes a volume.
pub(super) async fn create(
    admin: &Shared,
    id: Option<Uuid>,
    fields: VolumeFields,
) -> Result<Arc<Entry>, ApiError> {
    let created_at = now();
    let (cache_size, cache_bytes) = text_and_bytes(fields.cache_size, CACHE_SIZE, CACHE_BYTES);
    let (buffer_size, buffer_bytes) = text_and_bytes(fields.buffer_size, BUFFER_SIZE, BUFFER_BYTES);
    let record = VolumeRecord {
        name: fields.name,
        team_id: TEAM_ID.to_owned(),
        user_id: USER_ID.to_owned(),
        cache_size,
        buffer_size,
        access_mode: fields.access_mode.unwrap_or(AccessMode::Rwo),
        created_at,
        updated_at: created_at,
        source_volume_id: None,
    };
    let spec = VolumeSpec {
        id: id.unwrap_or_else(Uuid::new_v4),
        size_bytes: fields.size_bytes.unwrap_or(admin.volume_size_bytes),
        settings: Settings {
            cache_bytes,
            buffer_bytes,
            prefetch_mib: fields.prefetch_mib.unwrap_or(0),
            writeback: fields.writeback.unwrap_or(false),
        },
        attributes: record.to_attributes(),
    };
    let shared = Arc::clone(admin);
    finished(admin, async move {
        let admin = shared;
        // A deletion of the same id that is under way forgets it first; else it would forget the new one.
        let before = admin.registry.get(spec.id).map(|entry| Arc::clone(&entry.turn));
        let _turn = match &before {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        let store = admin.store.clone();
        let volume = admin.keeper.run(move || async move { store.create_volume(spec).await }).await?;
        Ok(admin.registry.insert(volume, record))
    })
    .await
}

/// Changes what `fields` names, all of it or nothing.
pub(super) async fn change(admin: &Shared, id: Uuid, fields: VolumeFields) -> Result<Arc<Entry>, ApiError> {
    let shared = Arc::clone(admin);
    finished(admin, async move {
        let admin = shared;
        let no_volume = || ApiError::no_volume(&id.to_string());
        let turn = Arc::clone(&admin.registry.get(id).ok_or_else(no_volume)?.turn);
        let _turn = turn.lock().await;
        // Only now: whoever had the turn before may have changed or deleted it.
        let entry = admin.registry.get(id).ok_or_else(no_volume)?;
        if fields == VolumeFields::default() {
            return Ok(entry);
        }
        refuse_shrinking(&entry, &fields)?;
        let (change, record) = changed(&entry, fields);
        let store = admin.store.clone();
        admin.keeper.run(move || async move { store.update_volume(id, change).await }).await?;
        Ok(admin.registry.replace(&entry, record))
    })
    .await
}

fn refuse_shrinking(entry: &Entry, fields: &VolumeFields) -> Result<(), ApiError> {
    let now_bytes = entry.volume.size_bytes();
    match fields.size_bytes {
        Some(bytes) if bytes < now_bytes => Err(ApiError::bad_request(format!(
            "size must be at least the present {}: a volume only grows, not to {}",
            ByteSize::new(now_bytes),
            ByteSize::new(bytes)
        ))
        .with_details(serde_json::json!({ "field": "size", "size_bytes": now_bytes }))),
        Some(_) | None => Ok(()),
    }
}

fn changed(entry: &Entry, fields: VolumeFields) -> (VolumeChange, VolumeRecord) {
    let mut record = entry.record.clone();
    let mut settings = entry.volume.settings();
    record.updated_at = now();
    record.name = fields.name.or(record.name);
    record.access_mode = fields.access_mode.unwrap_or(record.access_mode);
    (record.cache_size, settings.cache_bytes) =
        text_and_bytes(fields.cache_size, &record.cache_size, settings.cache_bytes);
    (record.buffer_size, settings.buffer_bytes) =
        text_and_bytes(fields.buffer_size, &record.buffer_size, settings.buffer_bytes);
    settings.prefetch_mib = fields.prefetch_mib.unwrap_or(settings.prefetch_mib);
    settings.writeback = fields.writeback.unwrap_or(settings.writeback);
    let change = VolumeChange {
        size_bytes: fields.size_bytes,
        settings: Some(settings),
        attributes: Some(record.to_attributes()),
    };
    (change, record)
}

/// Deletes a volume. One that does not exist is deleted already.
pub(super) async fn delete(admin: &Shared, id: Uuid, force: Force) -> Result<(), ApiError> {
    let shared = Arc::clone(admin);
    finished(admin, async move {
        let admin = shared;
        let Some(turn) = admin.registry.get(id).map(|entry| Arc::clone(&entry.turn)) else {
            return Ok(());
        };
        let _turn = turn.lock().await;
        let Some(entry) = admin.registry.get(id) else {
            return Ok(());
        };
        make_idle(&entry, force).await?;
        let store = admin.store.clone();
        match admin.keeper.run(move || async move { store.delete_volume(id).await }).await {
            Ok(_was_there) => {
                admin.registry.remove(&entry);
                Ok(())
            }
            Err(error) => {
                entry.attachments.reopen();
                Err(error.into())
            }
        }
    })
    .await
}

/// Closes the door of a volume, with nobody left inside.
async fn make_idle(entry: &Entry, force: Force) -> Result<(), ApiError> {
    match force {
        Force::No => entry.attachments.close_if_idle().map_err(|attached| {
            let message = format!("volume {} is in use by {} client(s)", entry.volume.id(), attached.len());
            ApiError::conflict(message).with_details(in_use_details(entry.volume.id(), &attached))
        }),
        Force::Yes => {
            entry.attachments.close_and_cut_off();
            let wait = Duration::from_secs(CUT_OFF_SECS_MAX);
            tokio::time::timeout(wait, entry.attachments.empty()).await.map_err(|_elapsed| {
                entry.attachments.reopen();
                let message =
                    format!("clients were cut off but not gone after {CUT_OFF_SECS_MAX} s: try again");
                ApiError::new(Code::Unavailable, message)
            })
        }
    }
}

fn text_and_bytes(given: Option<GivenSize>, text: &str, bytes: u64) -> (String, u64) {
    given.map_or_else(|| (text.to_owned(), bytes), |given| (given.text, given.bytes))
}

/// Runs a step to its end even if its caller goes away (I3).
async fn finished<T, F>(admin: &Shared, step: F) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ApiError>> + Send + 'static,
{
    admin
        .under_way
        .spawn(step)
        .await
        .unwrap_or_else(|died| Err(ApiError::new(Code::InternalError, format!("a step died: {died}"))))
}
