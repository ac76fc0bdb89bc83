//! The routes of mounts.

use super::mounting;
use crate::{
    admin::base::{Admin, ApiError, Body, MountFields, Route, SandboxId, Shared, Success, UnmountFields},
    attachments::{Access, MountState, MountStatus},
    mounts::Mount,
    record::now,
};
use axum::{
    extract::State,
    routing::{get, post},
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

const MOUNT: &str = "/api/v1/sandboxes/{sandbox_id}/sandboxvolumes/mount";
const UNMOUNT: &str = "/api/v1/sandboxes/{sandbox_id}/sandboxvolumes/unmount";
const STATUS: &str = "/api/v1/sandboxes/{sandbox_id}/sandboxvolumes/status";
const ALL: &str = "/api/v1/admin/mounts";

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::new("POST", MOUNT, post(mount)),
        Route::new("POST", UNMOUNT, post(unmount)),
        Route::new("GET", STATUS, get(status)),
        Route::new("GET", ALL, get(all)),
    ]
}

/// Source: the mount of the API contract, field by field.
#[derive(Serialize)]
struct MountView {
    sandboxvolume_id: Uuid,
    sandbox_id: String,
    mount_point: String,
    mounted_at: Timestamp,
    mounted_duration_sec: i64,
    mount_session_id: Uuid,
    state: MountState,
    export_name: String,
    uris: Vec<String>,
    read_only: bool,
    connections: usize,
}

impl MountView {
    /// `None` for one that has just ended.
    fn new(mount: &Mount, admin: &Admin) -> Option<MountView> {
        let MountStatus { state, access, connections } = mount.status()?;
        let record = mount.record.clone();
        let export_name = record.session.export_name(record.volume_id);
        Some(MountView {
            sandboxvolume_id: record.volume_id,
            sandbox_id: record.sandbox_id,
            mount_point: record.mount_point,
            mounted_at: record.mounted_at,
            // A clock may be set back.
            mounted_duration_sec: now().duration_since(record.mounted_at).as_secs().max(0),
            mount_session_id: record.session.reveal(),
            state,
            uris: admin.endpoints.uris(&export_name),
            export_name,
            read_only: access == Access::ReadOnly,
            connections,
        })
    }
}

async fn mount(
    State(admin): State<Shared>,
    SandboxId(sandbox_id): SandboxId,
    body: Body,
) -> Result<Success<MountView>, ApiError> {
    let fields = MountFields::from_body(&body.into_fields()?, &sandbox_id)?;
    let mount = mounting::mount(&admin, sandbox_id, fields).await?;
    let view = MountView::new(&mount, &admin);
    view.map(Success::ok).ok_or_else(|| ApiError::conflict("the mount has ended already"))
}

async fn unmount(
    State(admin): State<Shared>,
    SandboxId(sandbox_id): SandboxId,
    body: Body,
) -> Result<Success<Value>, ApiError> {
    let fields = UnmountFields::from_body(&body.into_fields()?)?;
    mounting::unmount(&admin, sandbox_id, fields).await?;
    Ok(Success::ok(json!({ "unmounted": true })))
}

async fn status(State(admin): State<Shared>, SandboxId(sandbox_id): SandboxId) -> Success<Value> {
    Success::ok(json!({ "mounts": views(&admin, |mount| mount.record.sandbox_id == sandbox_id) }))
}

async fn all(State(admin): State<Shared>) -> Success<Vec<MountView>> {
    Success::ok(views(&admin, |_| true))
}

fn views(admin: &Admin, which: impl Fn(&Mount) -> bool) -> Vec<MountView> {
    let mounts = admin.registry.mounts.list();
    let which = mounts.iter().filter(|mount| which(mount));
    which.filter_map(|mount| MountView::new(mount, admin)).collect()
}
