//! The handlers of volumes.

use super::{
    exclusive_bytes::exclusive_bytes,
    lifecycle, lineage,
    request::{self, VolumeFields},
    view::{newborn, present, view},
};
use crate::{
    admin::base::{ApiError, Body, Changes, Force, ForceQuery, Shared, Success, VolumeId},
    api::{self, Deleted, NewVolume, Volume},
    registry::Entry,
};
use axum::extract::State;
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};

const VOLUMES: &str = "/api/v1/sandboxvolumes";
const VOLUME: &str = "/api/v1/sandboxvolumes/{id}";
const FORK: &str = "/api/v1/sandboxvolumes/{id}/fork";

pub(crate) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(read, change, remove))
        .routes(routes!(fork))
}

/// Make a volume
#[utoipa::path(post, path = VOLUMES, operation_id = "createVolume", request_body = NewVolume, responses(
    (status = 201, description = "The volume, durable.", body = Volume),
    (status = 400, description = "A field or the body is wrong."),
    (status = 409, description = "That id exists, or another volume has that name; details name it \
        in field and sandboxvolume_id."),
    Changes,
))]
async fn create(State(admin): State<Shared>, body: Body) -> Result<Success<Volume>, ApiError> {
    let (id, fields) = request::check_new(body.request()?)?;
    let entry = lifecycle::create(&admin, id, fields).await?;
    Ok(Success::created(newborn(&entry, &admin)))
}

/// All volumes, newest first
#[utoipa::path(get, path = VOLUMES, operation_id = "listVolumes", responses(
    (status = 200, description = "The volumes.", body = Vec<Volume>),
))]
async fn list(State(admin): State<Shared>) -> Success<Vec<Volume>> {
    let exclusive = exclusive_bytes(&admin, None).await;
    let view = |entry: Arc<Entry>| view(&entry, &admin, exclusive.get(&entry.volume.id()).copied());
    Success::ok(admin.registry.list().into_iter().map(view).collect())
}

/// One volume
#[utoipa::path(get, path = VOLUME, operation_id = "getVolume", params(VolumeId), responses(
    (status = 200, description = "The volume.", body = Volume),
    (status = 404, description = "No such volume."),
))]
async fn read(State(admin): State<Shared>, volume: VolumeId) -> Result<Success<Volume>, ApiError> {
    let entry = volume.find(&admin)?;
    Ok(Success::ok(present(&entry, &admin).await))
}

/// Change a volume's name, size, access mode or tuning, all or nothing
#[utoipa::path(
    patch, path = VOLUME, operation_id = "changeVolume", params(VolumeId), request_body = api::VolumeFields,
    responses(
        (status = 200, description = "The volume as it is now, durable.", body = Volume),
        (status = 400, description = "A field or the body is wrong, or the size would shrink."),
        (status = 404, description = "No such volume."),
        (status = 409, description = "Another volume has that name, or the access mode does not go \
            with who is attached; details name them in sandboxvolume_id, or in active_mounts and \
            mounts."),
        Changes,
    )
)]
async fn change(
    State(admin): State<Shared>,
    volume: VolumeId,
    body: Body,
) -> Result<Success<Volume>, ApiError> {
    let id = volume.known()?;
    let fields = VolumeFields::check(body.request()?)?;
    let entry = lifecycle::change(&admin, id, fields).await?;
    Ok(Success::ok(present(&entry, &admin).await))
}

/// Delete a volume and its snapshots; one that does not exist is deleted already
///
/// Forks live on. While a client uses the volume or one of its snapshots it is a conflict, unless
/// forced.
#[utoipa::path(
    delete, path = VOLUME, operation_id = "deleteVolume", params(VolumeId, ForceQuery),
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
    force: Force,
) -> Result<Success<Deleted>, ApiError> {
    if let Some(id) = volume.id {
        lifecycle::delete(&admin, id, force).await?;
    }
    Ok(Success::ok(Deleted { deleted: true }))
}

/// Make a volume that begins as a copy of this one, as it is now
#[utoipa::path(
    post, path = FORK, operation_id = "forkVolume", params(VolumeId), request_body = Option<NewVolume>,
    responses(
        (status = 201, description = "The fork, durable.", body = Volume),
        (status = 400, description = "A field or the body is wrong, or the size is below the \
            source's."),
        (status = 404, description = "No such volume."),
        (status = 409, description = "That id exists, or another volume has that name; details \
            name it in field and sandboxvolume_id."),
        Changes,
    )
)]
async fn fork(
    State(admin): State<Shared>,
    volume: VolumeId,
    body: Body,
) -> Result<Success<Volume>, ApiError> {
    let volume = volume.known()?;
    let (id, fields) = request::check_new(body.request_or_default()?)?;
    let entry = lineage::fork(&admin, volume, None, id, fields).await?;
    Ok(Success::created(newborn(&entry, &admin)))
}
