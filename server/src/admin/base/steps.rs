//! What the steps that change volumes and snapshots have in common.

use super::{
    attachment_view::in_use_details,
    error::ApiError,
    extract::Force,
    state::{Admin, Shared},
};
use crate::{
    api::Code,
    attachments::{Attachments, Closing, InTheWay, Session},
    registry::{Alone, Together},
};
use std::{future::Future, io, sync::Arc, time::Duration};
use uuid::Uuid;

/// Longest wait for clients that were cut off to be gone. Far more than a connection takes to notice; past it something
/// is stuck, and the caller is told instead of kept.
pub(crate) const CUT_OFF_TIME_MAX: Duration = Duration::from_secs(10);

/// Runs a step to its end even if its caller goes away: axum drops a handler when its client hangs up.
pub(crate) async fn finished<T, F>(admin: &Shared, step: impl FnOnce(Shared) -> F) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ApiError>> + Send + 'static,
{
    admin
        .under_way
        .spawn(step(Arc::clone(admin)))
        .await
        .unwrap_or_else(|died| Err(ApiError::new(Code::InternalError, format!("a step died: {died}"))))
}

/// The right to change a volume.
pub(crate) async fn alone(admin: &Shared, id: Uuid) -> Result<Alone, ApiError> {
    admin.registry.alone(id).await.ok_or_else(|| ApiError::no_volume(&id.to_string()))
}

/// The right to copy a volume.
pub(crate) async fn together(admin: &Shared, id: Uuid) -> Result<Together, ApiError> {
    admin.registry.together(id).await.ok_or_else(|| ApiError::no_volume(&id.to_string()))
}

/// Doors that nobody enters until this is dropped, and nobody is behind.
pub(crate) struct ClosedDoors(Vec<Arc<Attachments>>);

impl ClosedDoors {
    /// Ends the mounts that lead to them, durably: whoever comes back under one of their sessions is a stranger.
    pub(crate) async fn unmount(&self, admin: &Admin) -> Result<(), ApiError> {
        let sessions: Vec<Session> = self.0.iter().flat_map(|door| door.unmount_all()).collect();
        let forgotten = admin.registry.mounts.forget(&sessions).await;
        forgotten.map_err(|error| not_kept(&error))
    }

    /// What is behind them is gone, so they stay closed.
    pub(crate) fn for_ever(mut self) {
        self.0.clear();
    }
}

impl Drop for ClosedDoors {
    fn drop(&mut self) {
        self.0.iter().for_each(|door| door.reopen());
    }
}

/// Closes the doors of exports of one volume, all or none, and waits until nobody is behind them. `what` names the export
/// that the caller means.
pub(crate) async fn close(
    doors: Vec<Arc<Attachments>>,
    why: Closing,
    in_the_way: InTheWay,
    (volume, what): (Uuid, &str),
) -> Result<ClosedDoors, ApiError> {
    let mut closed = ClosedDoors(Vec::with_capacity(doors.len()));
    let mut blocking = Vec::new();
    for door in doors {
        match door.close(why, in_the_way).await {
            Ok(()) => closed.0.push(door),
            Err(attached) => blocking.extend(attached),
        }
    }
    if !blocking.is_empty() {
        let how = match in_the_way {
            InTheWay::Writers => "attached read-write",
            InTheWay::Everyone | InTheWay::Nobody => "in use",
        };
        return Err(ApiError::conflict(format!("{what} is {how} by {} client(s)", blocking.len()))
            .with_details(in_use_details(
                volume,
                &blocking,
                "detach the clients, or repeat with ?force=true to cut them off",
            )));
    }
    let gone = async {
        for door in &closed.0 {
            door.empty().await;
        }
    };
    match tokio::time::timeout(CUT_OFF_TIME_MAX, gone).await {
        Ok(()) => Ok(closed),
        Err(_elapsed) => {
            let message = format!("clients were cut off but not gone after {CUT_OFF_TIME_MAX:?}: try again");
            Err(ApiError::new(Code::Unavailable, message))
        }
    }
}

/// Who keeps something from being deleted.
pub(crate) fn in_the_way_of_deletion(force: Force) -> InTheWay {
    match force {
        Force::No => InTheWay::Everyone,
        Force::Yes => InTheWay::Nobody,
    }
}

pub(crate) fn not_kept(error: &io::Error) -> ApiError {
    ApiError::new(Code::InternalError, format!("the list of mounts cannot be written: {error}"))
}
