//! Shared by the maintenance tasks: waiting for the first of several events, and logging failures
//! once.

use crate::{base::Result, log::Log};
use futures_util::future::select;
use sandstone_ring::runtime;
use std::{pin::pin, sync::atomic::Ordering::Relaxed, time::Duration};

/// Interval at which a task wakes when no event does.
pub(super) const TICK: Duration = Duration::from_millis(200);

/// Waits for the first of three and returns its event: the store's shutdown, a notification, a
/// time.
pub(super) async fn first_of<E>(
    (shutdown, is_shutdown): (impl Future<Output = ()>, E),
    (call, is_call): (impl Future<Output = ()>, E),
    (time, is_time): (Duration, E),
) -> E {
    use futures_util::future::Either::{Left, Right};
    let (shutdown, call, time) = (pin!(shutdown), pin!(call), pin!(runtime::sleep(time)));
    match select(shutdown, pin!(select(call, time))).await {
        Left(_) => is_shutdown,
        Right((Left(_), _)) => is_call,
        Right((Right(_), _)) => is_time,
    }
}

/// Bytes that were logged since a task last looked.
#[derive(Debug, Default)]
pub(super) struct LogActivity {
    bytes: u64,
    quiet_ticks: u32,
}

impl LogActivity {
    pub(super) fn look(&mut self, log: &Log) {
        let bytes = log.counters.bytes.load(Relaxed);
        let is_quiet = bytes == std::mem::replace(&mut self.bytes, bytes);
        self.quiet_ticks = if is_quiet { self.quiet_ticks.saturating_add(1) } else { 0 };
    }

    /// Bytes logged until the last look.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of looks in a row that found nothing new.
    pub(super) fn quiet_ticks(&self) -> u32 {
        self.quiet_ticks
    }
}

/// Logs a task's failures: the first at once, and the next after a success.
#[derive(Debug, Default)]
pub(super) struct Failures {
    is_told: bool,
}

impl Failures {
    pub(super) fn log(&mut self, result: Result<()>, what: &str) {
        match result {
            Ok(()) => self.is_told = false,
            Err(error) if self.is_told => tracing::debug!(%error, "{what} failed again"),
            Err(error) => {
                self.is_told = true;
                tracing::error!(%error, "{what} failed; it is tried again");
            }
        }
    }
}
