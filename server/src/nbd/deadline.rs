//! The time that a client has for what is under way.

use futures_util::future::{Either, select};
use sandstone_ring::runtime;
use std::{pin::pin, task::Poll, time::Duration};

/// What comes of `future`; `None` where it takes longer than `time`. What is there at once costs no
/// timer.
pub(super) async fn in_time<F: Future>(future: F, time: Duration) -> Option<F::Output> {
    let mut future = pin!(future);
    let first = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
    if let Poll::Ready(output) = first {
        return Some(output);
    }
    match select(future, pin!(runtime::sleep(time))).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}

/// The deadline of a stretch of a payload: one for all waits in it.
pub(super) struct Deadline {
    time: Duration,
    /// By the runtime's clock; from the first wait on.
    ends: Option<Duration>,
}

impl Deadline {
    pub(super) fn new(time: Duration) -> Deadline {
        Deadline { time, ends: None }
    }

    /// What comes of `future`; `None` where the deadline passes before.
    pub(super) async fn in_time<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let now = runtime::now();
        let ends = *self.ends.get_or_insert(now + self.time);
        in_time(future, ends.saturating_sub(now)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandstone_ring::Runtime;
    use std::future::{pending, ready};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn time_runs_out_for_what_does_not_come() {
        Runtime::simulated(1).block_on(async {
            assert_eq!(in_time(ready(1), Duration::ZERO).await, Some(1));
            assert_eq!(in_time(pending::<()>(), SECOND).await, None);
            assert_eq!(in_time(runtime::sleep(SECOND), 2 * SECOND).await, Some(()));
        });
    }

    #[test]
    fn a_stretch_has_one_time_for_all_its_waits() {
        Runtime::simulated(1).block_on(async {
            let mut deadline = Deadline::new(3 * SECOND);
            assert_eq!(deadline.in_time(runtime::sleep(2 * SECOND)).await, Some(()));
            assert_eq!(deadline.in_time(runtime::sleep(2 * SECOND)).await, None);
        });
    }
}
