//! Mounting and unmounting: the right first, then what keeps it over a restart.
//!
//! ```text
//!   mount     locked, with others ─► right, or the one that is there ─► file: durable ─► answer
//!   unmount   reservation taken back ─► clients disconnected and gone ─► file: durable ─► answer
//! ```
//!
//! A mount shares the volume's lock with copies of it, so that none is made while the volume is
//! changed, restored or deleted. An unmount needs no lock: the second one finds nothing to do.

use super::request::{MountFields, UnmountFields};
use crate::{
    admin::base::{
        Admin, ApiError, DISCONNECT_TIME_MAX, Shared, attachment_view, finished, lock_shared,
        not_kept,
    },
    api::{Code, Details, MountState},
    attachments::{Access, Attachments, Granted, Holder, Refused, Session},
    mounts::{Mount, MountRecord},
    record::now,
};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// Time between two looks at a mount that another request is about to make or to end.
const SETTLING_TIME: Duration = Duration::from_millis(1);

/// Mounts a volume for a sandbox. Where it has it at the same place, that mount is the answer.
pub(super) async fn mount(
    admin: &Shared,
    sandbox_id: String,
    fields: MountFields,
) -> Result<Arc<Mount>, ApiError> {
    finished(admin, |admin| async move {
        let locked = lock_shared(&admin, fields.volume_id).await?;
        let entry = &locked.entry;
        let mut record = MountRecord {
            session: Session::generate(),
            sandbox_id,
            volume_id: fields.volume_id,
            mount_point: fields.mount_point,
            mounted_at: now(),
            read_only: false,
            stale: false,
            tuning: fields.tuning,
        };
        let session = record.session;
        let granted = loop {
            let granted = entry.attachments.mount(session, record.info()).await;
            match granted.map_err(|why| refused(fields.volume_id, &why))? {
                Granted::New(access) => break access,
                Granted::Again(earlier) => {
                    let settled = admin
                        .registry
                        .mounts
                        .settled(earlier)
                        .await
                        .map_err(|error| not_kept(&error))?;
                    if let Some(mount) = settled {
                        return repeated(mount, &record);
                    }
                    // It has the right and is not in the list yet, or not in it any more.
                    tokio::time::sleep(SETTLING_TIME).await;
                }
            }
        };
        record.read_only = granted == Access::ReadOnly;
        let mount = Mount::new(record, &entry.volume, &entry.attachments);
        let mount = admin.registry.mounts.add(mount).await.map_err(|error| {
            entry.attachments.unmount(session);
            not_kept(&error)
        })?;
        forget_stale(&admin, &mount.record, &entry.attachments).await?;
        Ok(mount)
    })
    .await
}

/// The mount that a sandbox has at that place already: its answer may have been lost.
///
/// # Errors
/// It is asked for with other settings.
fn repeated(mount: Arc<Mount>, asked: &MountRecord) -> Result<Arc<Mount>, ApiError> {
    if mount.record.tuning == asked.tuning {
        return Ok(mount);
    }
    let MountRecord { volume_id, sandbox_id, mount_point, .. } = asked;
    Err(ApiError::conflict(format!(
        "volume {volume_id} is mounted at {mount_point} by sandbox {sandbox_id} already, with other settings: unmount it first"
    )))
}

/// What a host crash has taken is known to a sandbox that mounts the same volume anew.
async fn forget_stale(
    admin: &Admin,
    anew: &MountRecord,
    volume: &Attachments,
) -> Result<(), ApiError> {
    let mut stale = admin.registry.mounts.list();
    stale.retain(|mount| {
        let same =
            mount.record.volume_id == anew.volume_id && mount.record.sandbox_id == anew.sandbox_id;
        same && mount.status().is_some_and(|status| status.state == MountState::Stale)
    });
    let sessions: Vec<Session> = stale.iter().map(|mount| mount.record.session).collect();
    sessions.iter().for_each(|session| volume.unmount(*session));
    admin.registry.mounts.forget(&sessions).await.map_err(|error| not_kept(&error))
}

/// Ends a mount of that sandbox. One that does not exist has ended already.
pub(super) async fn unmount(
    admin: &Shared,
    sandbox_id: String,
    fields: UnmountFields,
) -> Result<(), ApiError> {
    finished(admin, |admin| async move {
        let UnmountFields { volume_id: Some(volume_id), session: Some(session) } = fields else {
            return Ok(());
        };
        let Some(entry) = admin.registry.get(volume_id) else { return Ok(()) };
        let mount = admin.registry.mounts.get(session);
        let is_meant = |mount: &Arc<Mount>| {
            mount.record.volume_id == volume_id && mount.record.sandbox_id == sandbox_id
        };
        if mount.filter(is_meant).is_none() {
            return Ok(());
        }
        entry.attachments.unmount(session);
        let holder = Holder::Mount(session);
        let gone = tokio::time::timeout(DISCONNECT_TIME_MAX, entry.attachments.gone(&holder)).await;
        admin.registry.mounts.forget(&[session]).await.map_err(|error| not_kept(&error))?;
        gone.map_err(|_elapsed| {
            let message =
                format!("its clients were cut off but not gone after {DISCONNECT_TIME_MAX:?}");
            ApiError::new(Code::Unavailable, message)
        })
    })
    .await
}

fn refused(volume: Uuid, why: &Refused) -> ApiError {
    let error = ApiError::conflict(format!("volume {volume} cannot be mounted: {why}"));
    match why {
        Refused::Held { by, leaving: _ } => error.with_details(Details::Held {
            holder: attachment_view(volume, by),
            hint:
                "detach it there, or wait until it ends; an RWX volume takes any number of writers"
                    .to_owned(),
        }),
        Refused::Closed(_)
        | Refused::NoMount
        | Refused::Stale
        | Refused::Restored { .. }
        | Refused::MountRestored { .. } => error,
    }
}
