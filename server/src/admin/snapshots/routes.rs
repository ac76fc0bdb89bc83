//! The routes of snapshots, forks and restore.

use super::view::SnapshotView;
use crate::{
    admin::{
        base::{
            ApiError, Body, Force, Route, Shared, SnapshotFields, SnapshotId, Success, VolumeFields,
            VolumeId, id_from_body,
        },
        volumes::{self, VolumeView, exclusive_bytes},
    },
    registry::SnapshotEntry,
};
use axum::{
    extract::State,
    routing::{delete, get, post},
};
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::Uuid;

const SNAPSHOTS: &str = "/api/v1/sandboxvolumes/{id}/snapshots";
const SNAPSHOT: &str = "/api/v1/sandboxvolumes/{id}/snapshots/{snapshot_id}";
const RESTORE: &str = "/api/v1/sandboxvolumes/{id}/snapshots/{snapshot_id}/restore";
const FORK_SNAPSHOT: &str = "/api/v1/sandboxvolumes/{id}/snapshots/{snapshot_id}/fork";
const FORK: &str = "/api/v1/sandboxvolumes/{id}/fork";

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::new("POST", SNAPSHOTS, post(create)),
        Route::new("GET", SNAPSHOTS, get(list)),
        Route::new("GET", SNAPSHOT, get(read)),
        Route::new("DELETE", SNAPSHOT, delete(remove)),
        Route::new("POST", RESTORE, post(restore)),
        Route::new("POST", FORK_SNAPSHOT, post(fork_snapshot)),
        Route::new("POST", FORK, post(fork)),
    ]
}

async fn create(
    State(admin): State<Shared>,
    volume: VolumeId,
    body: Body,
) -> Result<Success<SnapshotView>, ApiError> {
    let fields = SnapshotFields::from_body(&body.into_fields()?)?;
    let entry = volumes::snapshot(&admin, volume.known()?, fields).await?;
    // Its volume holds all of it, as yet.
    Ok(Success::created(SnapshotView::new(&entry, &admin, Some(0))))
}

async fn list(State(admin): State<Shared>, volume: VolumeId) -> Result<Success<Vec<SnapshotView>>, ApiError> {
    let entry = volume.find(&admin)?;
    let exclusive = exclusive_bytes(&admin, Some(entry.volume.id())).await;
    let view = |entry: Arc<SnapshotEntry>| {
        SnapshotView::new(&entry, &admin, exclusive.get(&entry.snapshot.id()).copied())
    };
    Ok(Success::ok(entry.snapshots.list().into_iter().map(view).collect()))
}

async fn read(
    State(admin): State<Shared>,
    volume: VolumeId,
    snapshot: SnapshotId,
) -> Result<Success<SnapshotView>, ApiError> {
    let entry = volume.find(&admin)?;
    let entry = volumes::snapshot_of(&entry, snapshot.known(&volume)?)?;
    let exclusive = exclusive_bytes(&admin, Some(entry.snapshot.id())).await;
    let exclusive = exclusive.get(&entry.snapshot.id()).copied();
    Ok(Success::ok(SnapshotView::new(&entry, &admin, exclusive)))
}

async fn remove(
    State(admin): State<Shared>,
    volume: VolumeId,
    snapshot: SnapshotId,
    force: Force,
) -> Result<Success<Value>, ApiError> {
    if let (Some(volume), Some(snapshot)) = (volume.id, snapshot.id) {
        volumes::delete_snapshot(&admin, volume, snapshot, force).await?;
    }
    Ok(Success::ok(json!({ "deleted": true })))
}

async fn restore(
    State(admin): State<Shared>,
    volume: VolumeId,
    snapshot: SnapshotId,
    force: Force,
) -> Result<Success<Value>, ApiError> {
    volumes::restore(&admin, volume.known()?, snapshot.known(&volume)?, force).await?;
    Ok(Success::ok(json!({ "status": "restored" })))
}

async fn fork(
    State(admin): State<Shared>,
    volume: VolumeId,
    body: Body,
) -> Result<Success<VolumeView>, ApiError> {
    forked(&admin, volume.known()?, None, body).await
}

async fn fork_snapshot(
    State(admin): State<Shared>,
    volume: VolumeId,
    snapshot: SnapshotId,
    body: Body,
) -> Result<Success<VolumeView>, ApiError> {
    let of = snapshot.known(&volume)?;
    forked(&admin, volume.known()?, Some(of), body).await
}

async fn forked(
    admin: &Shared,
    volume: Uuid,
    snapshot: Option<Uuid>,
    body: Body,
) -> Result<Success<VolumeView>, ApiError> {
    let body = body.into_fields_or_none()?;
    let (id, fields) = (id_from_body(&body)?, VolumeFields::from_body(&body)?);
    let entry = volumes::fork(admin, volume, snapshot, id, fields).await?;
    Ok(Success::created(VolumeView::newborn(&entry, admin)))
}
