//! Answers that cost a walk over maps: made on the store's thread, and only as long as somebody waits for them.

use super::state::Admin;
use std::{collections::HashMap, error::Error as _, future::Future, time::Duration};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Longest wait for exclusive bytes. Where terabytes of maps differ they take longer, and whoever asks for a volume wants
/// the rest of it before its own patience ends (30 s in the published client). A guess, not tuned.
const EXCLUSIVE_WAIT_MAX: Duration = Duration::from_secs(5);

/// What deletion would give back, by id: of everything, or of one's family. Those are missing of which it cannot be told,
/// which the log says: an answer is better without a number than not given.
pub(super) async fn exclusive_bytes(admin: &Admin, of: Option<Uuid>) -> HashMap<Uuid, u64> {
    let store = admin.store.clone();
    let walk = while_wanted(admin, move || async move { store.exclusive_bytes(of).await });
    match tokio::time::timeout(EXCLUSIVE_WAIT_MAX, walk).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            let cause = error.source().map(ToString::to_string);
            tracing::error!(?of, %error, cause, "exclusive bytes cannot be told");
            HashMap::new()
        }
        Err(_elapsed) => {
            tracing::warn!(?of, waited = ?EXCLUSIVE_WAIT_MAX, "exclusive bytes take too long to be told");
            HashMap::new()
        }
    }
}

/// Runs something on the store's thread. When the returned future is dropped, it ends at its next wait.
pub(super) async fn while_wanted<T, F, Fut>(admin: &Admin, walk: F) -> T
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let unwanted = CancellationToken::new();
    let until = unwanted.clone();
    let _wanted = unwanted.drop_guard();
    let walked = admin.keeper.run(move || async move { until.run_until_cancelled(walk()).await }).await;
    walked.expect("it is cancelled when this future is dropped, not before")
}
