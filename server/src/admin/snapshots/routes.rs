//! The handlers of snapshots.

use super::{request::SnapshotFields, view::view};
use crate::{
    admin::{
        base::{ApiError, Body, Changes, Force, ForceQuery, Shared, SnapshotId, Success, VolumeId},
        volumes::{self, exclusive_bytes, newborn},
    },
    api::{Deleted, NewSnapshot, NewVolume, Restored, RestoredStatus, Snapshot, Volume},
    registry::SnapshotEntry,
};
use axum::extract::State;
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};

const SNAPSHOTS: &str = "/api/v1/sandboxvolumes/{id}/snapshots";
const SNAPSHOT: &str = "/api/v1/sandboxvolumes/{id}/snapshots/{snapshot_id}";
const RESTORE: &str = "/api/v1/sandboxvolumes/{id}/snapshots/{snapshot_id}/restore";
const FORK: &str = "/api/v1/sandboxvolumes/{id}/snapshots/{snapshot_id}/fork";

pub(crate) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(read, remove))
        .routes(routes!(restore))
        .routes(routes!(fork))
}

/// Make a snapshot of a volume, attached or not: all that was acknowledged before, from all clients
#[utoipa::path(
    post, path = SNAPSHOTS, operation_id = "createSnapshot", params(VolumeId), request_body = NewSnapshot,
    responses(
        (status = 201, description = "The snapshot, durable.", body = Snapshot),
        (status = 400, description = "A field or the body is wrong."),
        (status = 404, description = "No such volume."),
        Changes,
    )
)]
async fn create(
    State(admin): State<Shared>,
    volume: VolumeId,
    body: Body,
) -> Result<Success<Snapshot>, ApiError> {
    let SnapshotFields { name, description } = SnapshotFields::check(body.request()?)?;
    let entry = volumes::snapshot(&admin, volume.known()?, name, description).await?;
    // Its volume holds all of it, as yet.
    Ok(Success::created(view(&entry, &admin, Some(0))))
}

/// All snapshots of a volume, newest first
#[utoipa::path(get, path = SNAPSHOTS, operation_id = "listSnapshots", params(VolumeId), responses(
    (status = 200, description = "The snapshots.", body = Vec<Snapshot>),
    (status = 404, description = "No such volume."),
))]
async fn list(
    State(admin): State<Shared>,
    volume: VolumeId,
) -> Result<Success<Vec<Snapshot>>, ApiError> {
    let entry = volume.find(&admin)?;
    let exclusive = exclusive_bytes(&admin, Some(entry.volume.id())).await;
    let view = |entry: Arc<SnapshotEntry>| {
        view(&entry, &admin, exclusive.get(&entry.snapshot.id()).copied())
    };
    Ok(Success::ok(entry.snapshots.list().into_iter().map(view).collect()))
}

/// One snapshot
#[utoipa::path(get, path = SNAPSHOT, operation_id = "getSnapshot", params(VolumeId, SnapshotId), responses(
    (status = 200, description = "The snapshot.", body = Snapshot),
    (status = 404, description = "No such volume, or it has no such snapshot."),
))]
async fn read(
    State(admin): State<Shared>,
    volume: VolumeId,
    snapshot: SnapshotId,
) -> Result<Success<Snapshot>, ApiError> {
    let entry = volume.find(&admin)?;
    let entry = volumes::snapshot_of(&entry, snapshot.known(&volume)?)?;
    let exclusive = exclusive_bytes(&admin, Some(entry.snapshot.id())).await;
    let exclusive = exclusive.get(&entry.snapshot.id()).copied();
    Ok(Success::ok(view(&entry, &admin, exclusive)))
}

/// Delete a snapshot; one that does not exist is deleted already
///
/// The volume and all forks stay as they are. While a client reads the snapshot it is a conflict,
/// unless forced.
#[utoipa::path(
    delete, path = SNAPSHOT, operation_id = "deleteSnapshot", params(VolumeId, SnapshotId, ForceQuery),
    responses(
        (status = 200, description = "Deleted.", body = Deleted),
        (status = 400, description = "force is neither true nor false."),
        (status = 409, description = "In use; details name the attachments in active_mounts, \
            mounts and hint."),
        (status = 503, description = "The store takes no changes, or clients that were cut off did \
            not go."),
    )
)]
async fn remove(
    State(admin): State<Shared>,
    volume: VolumeId,
    snapshot: SnapshotId,
    force: Force,
) -> Result<Success<Deleted>, ApiError> {
    if let (Some(volume), Some(snapshot)) = (volume.id, snapshot.id) {
        volumes::delete_snapshot(&admin, volume, snapshot, force).await?;
    }
    Ok(Success::ok(Deleted { deleted: true }))
}

/// Make a volume what its snapshot is, in content and size
///
/// Name, access mode and tuning stay. While a client is attached read-write it is a conflict,
/// unless forced. Clients that are attached read-only are no conflict, and are cut off, because
/// what they have cached would be wrong; they may connect again at once, mounts of the volume have
/// to be made anew. Clients of snapshots stay.
#[utoipa::path(
    post, path = RESTORE, operation_id = "restoreSnapshot", params(VolumeId, SnapshotId, ForceQuery),
    responses(
        (status = 200, description = "Restored, durable.", body = Restored),
        (status = 400, description = "force is neither true nor false."),
        (status = 404, description = "No such volume, or it has no such snapshot."),
        (status = 409, description = "Attached read-write; details name the attachments in \
            active_mounts, mounts and hint."),
        (status = 503, description = "The store takes no changes, or clients that were cut off did \
            not go."),
    )
)]
async fn restore(
    State(admin): State<Shared>,
    volume: VolumeId,
    snapshot: SnapshotId,
    force: Force,
) -> Result<Success<Restored>, ApiError> {
    volumes::restore(&admin, volume.known()?, snapshot.known(&volume)?, force).await?;
    Ok(Success::ok(Restored { status: RestoredStatus::Restored }))
}

/// Make a volume that begins as a copy of a snapshot
///
/// Size and content are the snapshot's, the tuning is that of the snapshot's volume as it is now.
#[utoipa::path(
    post, path = FORK, operation_id = "forkSnapshot", params(VolumeId, SnapshotId),
    request_body = Option<NewVolume>,
    responses(
        (status = 201, description = "The fork, durable.", body = Volume),
        (status = 400, description = "A field or the body is wrong, or the size is below the \
            source's."),
        (status = 404, description = "No such volume, or it has no such snapshot."),
        (status = 409, description = "That id exists, or another volume has that name; details \
            name it in field and sandboxvolume_id."),
        Changes,
    )
)]
async fn fork(
    State(admin): State<Shared>,
    volume: VolumeId,
    snapshot: SnapshotId,
    body: Body,
) -> Result<Success<Volume>, ApiError> {
    let (snapshot, volume) = (snapshot.known(&volume)?, volume.known()?);
    let (id, fields) = volumes::check_new(body.request_or_default()?)?;
    let entry = volumes::fork(&admin, volume, Some(snapshot), id, fields).await?;
    Ok(Success::created(newborn(&entry, &admin)))
}
