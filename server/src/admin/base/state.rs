//! What the handlers share.

use super::reclaim_run::Reclaim;
use crate::{
    admin::metrics::Metrics, net::Endpoints, registry::Registry, token::Token, watchdog::Watchdog,
};
use sandstone_ring::Handle;
use sandstone_storage::Store;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio_util::task::TaskTracker;

/// The admin side of a running server.
pub(crate) struct Admin {
    pub(crate) store: Store,
    /// Where the store's async methods run.
    pub(crate) store_thread: Handle,
    pub(crate) registry: Arc<Registry>,
    pub(crate) token: Token,
    /// Where NBD clients connect.
    pub(crate) endpoints: Endpoints,
    /// Size of a volume whose creator names none, within the range of volume sizes.
    pub(crate) volume_size_bytes: u64,
    pub(crate) metrics: Metrics,
    pub(crate) watchdog: Arc<Watchdog>,
    pub(crate) reclaim: Reclaim,
    /// Set once, when the server begins to stop. A reader that sees it late only tells a prober
    /// late.
    pub(crate) stopping: AtomicBool,
    /// The requests and steps under way, for what waits until there are none.
    pub(crate) under_way: TaskTracker,
}

impl Admin {
    /// Turns readiness red, so that load balancers send no more clients.
    pub(crate) fn begin_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// The state as axum hands it to handlers.
pub(crate) type Shared = Arc<Admin>;
