//! The handlers of mounts.

use super::{
    mounting,
    request::{MountFields, UnmountFields},
};
use crate::{
    admin::base::{Admin, ApiError, Body, SandboxId, Shared, Success},
    api::{self, NewMount, SandboxMounts, Unmount, Unmounted},
    attachments::{Access, MountStatus},
    mounts::Mount,
    record::now,
};
use axum::extract::State;
use utoipa_axum::{router::OpenApiRouter, routes};

const MOUNT: &str = "/api/v1/sandboxes/{sandbox_id}/sandboxvolumes/mount";
const UNMOUNT: &str = "/api/v1/sandboxes/{sandbox_id}/sandboxvolumes/unmount";
const STATUS: &str = "/api/v1/sandboxes/{sandbox_id}/sandboxvolumes/status";
const ALL: &str = "/api/v1/admin/mounts";

pub(crate) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(mount))
        .routes(routes!(unmount))
        .routes(routes!(status))
        .routes(routes!(all))
}

/// `None` for a mount that has just ended.
fn view(mount: &Mount, admin: &Admin) -> Option<api::Mount> {
    let MountStatus { state, access, connections } = mount.status()?;
    let record = mount.record.clone();
    let export_name = record.session.export_name(record.volume_id);
    Some(api::Mount {
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

/// Let a sandbox attach a volume
///
/// The same sandbox that asks for the same mount_point again gets the mount that it has. The
/// answer's export_name holds a secret session: a client that connects under it is this mount, with
/// as many connections as it wants. A mount without a connection for attach.grace seconds ends by
/// itself. Mounts outlive a restart of the server.
#[utoipa::path(
    post, path = MOUNT, operation_id = "mountVolume", params(SandboxId), request_body = NewMount,
    responses(
        (status = 200, description = "The mount, durable.", body = api::Mount),
        (status = 400, description = "A field or the body is wrong."),
        (status = 404, description = "No such volume."),
        (status = 409, description = "The volume is RWO and attached by another, which details \
            name as holder; or the sandbox has it at that mount_point with another volume_config; \
            or it is being deleted or restored."),
        (status = 500, description = "The mount cannot be kept."),
    )
)]
async fn mount(
    State(admin): State<Shared>,
    SandboxId(sandbox_id): SandboxId,
    body: Body,
) -> Result<Success<api::Mount>, ApiError> {
    let fields = MountFields::check(body.request()?, &sandbox_id)?;
    let mount = mounting::mount(&admin, sandbox_id, fields).await?;
    let view = view(&mount, &admin);
    view.map(Success::ok).ok_or_else(|| ApiError::conflict("the mount has ended already"))
}

/// End a mount; its clients are cut off first
///
/// A mount that there is not, any more, is a success.
#[utoipa::path(
    post, path = UNMOUNT, operation_id = "unmountVolume", params(SandboxId), request_body = Unmount,
    responses(
        (status = 200, description = "It has ended: no client of it is connected, and none can \
            connect.", body = Unmounted),
        (status = 400, description = "A field or the body is wrong."),
        (status = 500, description = "It has ended, but would be pending again after a restart."),
        (status = 503, description = "It has ended, but clients that were cut off did not go."),
    )
)]
async fn unmount(
    State(admin): State<Shared>,
    SandboxId(sandbox_id): SandboxId,
    body: Body,
) -> Result<Success<Unmounted>, ApiError> {
    let fields = UnmountFields::check(body.request()?)?;
    mounting::unmount(&admin, sandbox_id, fields).await?;
    Ok(Success::ok(Unmounted { unmounted: true }))
}

/// The mounts of a sandbox, newest first
#[utoipa::path(get, path = STATUS, operation_id = "listSandboxMounts", params(SandboxId), responses(
    (status = 200, description = "Its mounts.", body = SandboxMounts),
    (status = 400, description = "The sandbox's id is none."),
))]
async fn status(
    State(admin): State<Shared>,
    SandboxId(sandbox_id): SandboxId,
) -> Success<SandboxMounts> {
    let mounts = views(&admin, |mount| mount.record.sandbox_id == sandbox_id);
    Success::ok(SandboxMounts { mounts })
}

/// The mounts of all sandboxes, newest first
#[utoipa::path(get, path = ALL, operation_id = "listMounts", responses(
    (status = 200, description = "All mounts.", body = Vec<api::Mount>),
))]
async fn all(State(admin): State<Shared>) -> Success<Vec<api::Mount>> {
    Success::ok(views(&admin, |_| true))
}

fn views(admin: &Admin, which: impl Fn(&Mount) -> bool) -> Vec<api::Mount> {
    let mounts = admin.registry.mounts.list();
    let which = mounts.iter().filter(|mount| which(mount));
    which.filter_map(|mount| view(mount, admin)).collect()
}
