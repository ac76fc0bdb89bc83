//! Answers that cost a walk over maps: made on the store's thread, and only as long as the caller
//! waits.

use super::state::Admin;
use std::future::Future;
use tokio_util::sync::CancellationToken;

/// Runs something on the store's thread. When the returned future is dropped, it ends at its next
/// wait.
pub(crate) async fn abortable<T, F, Fut>(admin: &Admin, walk: F) -> T
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let unwanted = CancellationToken::new();
    let until = unwanted.clone();
    let _wanted = unwanted.drop_guard();
    let walked = admin
        .store_thread
        .run(move || async move { until.run_until_cancelled(walk()).await })
        .await;
    walked.expect("it is cancelled when this future is dropped, not before")
}
