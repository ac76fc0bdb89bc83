//! The routes of volumes.

use super::{exclusive_bytes::exclusive_bytes, lifecycle, view::VolumeView};
use crate::{
    admin::base::{ApiError, Body, Force, Route, Shared, Success, VolumeFields, VolumeId, id_from_body},
    registry::Entry,
};
use axum::{
    extract::State,
    routing::{delete, get, patch, post},
};
use serde_json::{Value, json};
use std::sync::Arc;

const VOLUMES: &str = "/api/v1/sandboxvolumes";
const VOLUME: &str = "/api/v1/sandboxvolumes/{id}";

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::new("POST", VOLUMES, post(create)),
        Route::new("GET", VOLUMES, get(list)),
        Route::new("GET", VOLUME, get(read)),
        Route::new("PATCH", VOLUME, patch(change)),
        Route::new("DELETE", VOLUME, delete(remove)),
    ]
}

async fn create(State(admin): State<Shared>, body: Body) -> Result<Success<VolumeView>, ApiError> {
    let body = body.into_fields()?;
    let (id, fields) = (id_from_body(&body)?, VolumeFields::from_body(&body)?);
    let entry = lifecycle::create(&admin, id, fields).await?;
    Ok(Success::created(VolumeView::newborn(&entry, &admin)))
}

async fn list(State(admin): State<Shared>) -> Success<Vec<VolumeView>> {
    let exclusive = exclusive_bytes(&admin, None).await;
    let view =
        |entry: Arc<Entry>| VolumeView::new(&entry, &admin, exclusive.get(&entry.volume.id()).copied());
    Success::ok(admin.registry.list().into_iter().map(view).collect())
}

async fn read(State(admin): State<Shared>, volume: VolumeId) -> Result<Success<VolumeView>, ApiError> {
    let entry = volume.find(&admin)?;
    Ok(Success::ok(VolumeView::present(&entry, &admin).await))
}

async fn change(
    State(admin): State<Shared>,
    volume: VolumeId,
    body: Body,
) -> Result<Success<VolumeView>, ApiError> {
    let id = volume.known()?;
    let fields = VolumeFields::from_body(&body.into_fields()?)?;
    let entry = lifecycle::change(&admin, id, fields).await?;
    Ok(Success::ok(VolumeView::present(&entry, &admin).await))
}

async fn remove(
    State(admin): State<Shared>,
    volume: VolumeId,
    force: Force,
) -> Result<Success<Value>, ApiError> {
    if let Some(id) = volume.id {
        lifecycle::delete(&admin, id, force).await?;
    }
    Ok(Success::ok(json!({ "deleted": true })))
}
