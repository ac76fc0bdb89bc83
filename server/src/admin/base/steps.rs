//! What the steps that change volumes and snapshots have in common.

use super::{
    attachment_view::in_use_details,
    error::ApiError,
    extract::Force,
    state::{Admin, Shared},
};
use crate::{
    api::Code,
    attachments::{Attachments, BlockedBy, Closing, Session},
    registry::{ExclusiveGuard, SharedGuard},
};
use std::{future::Future, io, sync::Arc, time::Duration};
use uuid::Uuid;

/// Longest wait for clients that were disconnected to be gone. Far more than a connection takes to
/// notice; past it something is stuck, and the caller is told instead of kept.
pub(crate) const DISCONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// Runs a step to its end even if its caller goes away: axum drops a handler when its client hangs
/// up.
pub(crate) async fn finished<T, F>(
    admin: &Shared,
    step: impl FnOnce(Shared) -> F,
) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ApiError>> + Send + 'static,
{
    admin.under_way.spawn(step(Arc::clone(admin))).await.unwrap_or_else(|died| {
        Err(ApiError::new(Code::InternalError, format!("a step died: {died}")))
    })
}

/// The right to change a volume.
pub(crate) async fn lock_exclusive(admin: &Shared, id: Uuid) -> Result<ExclusiveGuard, ApiError> {
    admin.registry.lock_exclusive(id).await.ok_or_else(|| ApiError::no_volume(&id.to_string()))
}

/// The right to copy a volume.
pub(crate) async fn lock_shared(admin: &Shared, id: Uuid) -> Result<SharedGuard, ApiError> {
    admin.registry.lock_shared(id).await.ok_or_else(|| ApiError::no_volume(&id.to_string()))
}

/// Closed exports: until this is dropped they take no connection, and they have none.
pub(crate) struct ClosedExports(Vec<Arc<Attachments>>);

impl ClosedExports {
    /// Ends their mounts, durably: a client that comes back under one of their sessions is refused.
    pub(crate) async fn unmount(&self, admin: &Admin) -> Result<(), ApiError> {
        let sessions: Vec<Session> =
            self.0.iter().flat_map(|export| export.unmount_all()).collect();
        let forgotten = admin.registry.mounts.forget(&sessions).await;
        forgotten.map_err(|error| not_kept(&error))
    }

    /// What is behind them is gone, so they stay closed.
    pub(crate) fn for_ever(mut self) {
        self.0.clear();
    }
}

impl Drop for ClosedExports {
    fn drop(&mut self) {
        self.0.iter().for_each(|export| export.reopen());
    }
}

/// Closes exports of one volume, all or none, and waits until they have no connection. `what` names
/// the export that the caller means.
pub(crate) async fn close(
    exports: Vec<Arc<Attachments>>,
    why: Closing,
    blocked_by: BlockedBy,
    (volume, what): (Uuid, &str),
) -> Result<ClosedExports, ApiError> {
    let mut closed = ClosedExports(Vec::with_capacity(exports.len()));
    let mut blocking = Vec::new();
    for export in exports {
        match export.close(why, blocked_by).await {
            Ok(()) => closed.0.push(export),
            Err(attached) => blocking.extend(attached),
        }
    }
    if !blocking.is_empty() {
        let how = match blocked_by {
            BlockedBy::Writers => "attached read-write",
            BlockedBy::Attachments | BlockedBy::Nothing => "in use",
        };
        return Err(ApiError::conflict(format!("{what} is {how} by {} client(s)", blocking.len()))
            .with_details(in_use_details(
                volume,
                &blocking,
                "detach the clients, or repeat with ?force=true to cut them off",
            )));
    }
    let gone = async {
        for export in &closed.0 {
            export.empty().await;
        }
    };
    match tokio::time::timeout(DISCONNECT_TIME_MAX, gone).await {
        Ok(()) => Ok(closed),
        Err(_elapsed) => {
            let message = format!(
                "clients were cut off but not gone after {DISCONNECT_TIME_MAX:?}: try again"
            );
            Err(ApiError::new(Code::Unavailable, message))
        }
    }
}

/// Who keeps something from being deleted.
pub(crate) fn blocking_deletion(force: Force) -> BlockedBy {
    match force {
        Force::No => BlockedBy::Attachments,
        Force::Yes => BlockedBy::Nothing,
    }
}

pub(crate) fn not_kept(error: &io::Error) -> ApiError {
    ApiError::new(Code::InternalError, format!("the list of mounts cannot be written: {error}"))
}
