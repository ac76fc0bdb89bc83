//! The bytes that a deletion would give back.

use crate::admin::base::{Admin, abortable};
use std::{collections::HashMap, error::Error as _, time::Duration};
use uuid::Uuid;

/// Longest wait for exclusive bytes. Where terabytes of maps differ they take longer, and a request
/// for a volume wants the rest of it before its own patience ends (30 s in the published client). A
/// guess, not tuned.
const EXCLUSIVE_WAIT_MAX: Duration = Duration::from_secs(5);

/// What deletion would give back, by id: of everything, or of one's family. Those are missing of
/// which it cannot be told, which the log says: an answer is better without a number than not
/// given.
pub(crate) async fn exclusive_bytes(admin: &Admin, of: Option<Uuid>) -> HashMap<Uuid, u64> {
    let store = admin.store.clone();
    let walk = abortable(admin, move || async move { store.exclusive_bytes(of).await });
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
