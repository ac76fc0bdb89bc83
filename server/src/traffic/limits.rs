//! Limits of a volume: operations and bytes a second, for all its connections together.
//!
//! A token bucket, kept as the moment at which what was granted is paid off ("generic cell rate
//! algorithm"): a request moves that moment on by its cost, and begins when the moment before its
//! own cost has come. So there is nothing to refill, and a lone request larger than the bucket
//! begins at once and makes those behind it wait.
//!
//! ```text
//!        now - BURST        now            paid
//!   ─────────┼───────────────┼───────────────┼─────► time      a request begins at max(paid, now - BURST), if that
//!            └── may be had ─┘└─── debt ─────┘                 lies ahead it waits; paid := that + its cost
//! ```
//!
//! I1  Over any stretch of time, what begins costs no more than the time and one BURST, beside the
//!     last request's rest.
//! I2  A new limit counts at once, for those too who wait already.
//!
//! A FLUSH costs nothing: it is how a client makes its data safe, and holding it back saves no
//! work. TRIM and WRITE_ZEROES cost an operation and no bytes, because they move none.

use sandstone_protocol::Checked;
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};
use tokio::sync::Notify;

/// What may be had at once after a pause. Long against the lateness of timers and of a busy worker,
/// which else would be lost to the client; short against the seconds over which people look at a
/// rate.
const BURST: Duration = Duration::from_millis(100);

const NANOS: u64 = 1_000_000_000;

/// What a volume may have; `None`: as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    /// Operations a second.
    pub(crate) iops_max: Option<u64>,
    /// Bytes read and written a second.
    pub(crate) bytes_per_second_max: Option<u64>,
}

/// The limits of one volume, and how far they are used up.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    operations: Bucket,
    bytes: Bucket,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Bucket {
    /// Tokens a second; 0 for no limit.
    rate: AtomicU64,
    /// When all that was granted is paid off, in nanoseconds of the runtime's clock.
    paid_ns: AtomicU64,
}

/// What a request costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    operations: u64,
    bytes: u64,
}

impl Cost {
    pub(crate) fn of(request: &Checked) -> Cost {
        let (operations, bytes) = match request {
            Checked::Read { len, .. } | Checked::Write { len, .. } | Checked::Cache { len, .. } => {
                (1, *len)
            }
            Checked::Trim { .. } | Checked::WriteZeroes { .. } | Checked::BlockStatus { .. } => {
                (1, 0)
            }
            Checked::Flush | Checked::Disconnect => (0, 0),
        };
        Cost { operations, bytes: u64::from(bytes) }
    }
}

impl Bucket {
    fn set(&self, rate: Option<u64>) {
        let rate = rate.unwrap_or(0);
        if self.rate.swap(rate, Relaxed) != rate {
            // Debts of the old rate mean nothing at the new one.
            self.paid_ns.store(0, Relaxed);
        }
    }

    fn is_unlimited(&self) -> bool {
        self.rate.load(Relaxed) == 0
    }

    /// Takes that many tokens, and gives the moment from which they may be used; `ZERO` where there
    /// is no limit.
    fn take(&self, tokens: u64, now: Duration) -> Duration {
        let rate = self.rate.load(Relaxed);
        if rate == 0 || tokens == 0 {
            return Duration::ZERO;
        }
        // A request's bytes are below 2^32 and NANOS below 2^30.
        let cost_ns = tokens * NANOS / rate;
        let earliest_ns = nanos(now.saturating_sub(BURST));
        let begins = |paid_ns: u64| paid_ns.max(earliest_ns);
        let before = self
            .paid_ns
            .fetch_update(Relaxed, Relaxed, |paid_ns| Some(begins(paid_ns).saturating_add(cost_ns)))
            .expect("there is always a next value");
        Duration::from_nanos(begins(before))
    }

    /// Gives back what was taken and not used.
    fn give_back(&self, tokens: u64) {
        let Some(cost_ns) = (tokens * NANOS).checked_div(self.rate.load(Relaxed)) else { return };
        // A change of the rate meanwhile has forgiven it.
        let _before = self
            .paid_ns
            .fetch_update(Relaxed, Relaxed, |paid_ns| Some(paid_ns.saturating_sub(cost_ns)));
    }
}

/// What was granted to a request that waits. Dropped with it, the next one gets it.
struct Granted<'a> {
    limits: &'a Limits,
    cost: Cost,
}

impl Drop for Granted<'_> {
    fn drop(&mut self) {
        self.limits.operations.give_back(self.cost.operations);
        self.limits.bytes.give_back(self.cost.bytes);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Limits {
    pub(crate) fn new(rates: Rates) -> Limits {
        let limits = Limits::default();
        limits.set(rates);
        limits
    }

    /// Other limits, from now on (I2).
    pub(crate) fn set(&self, rates: Rates) {
        self.operations.set(rates.iops_max);
        self.bytes.set(rates.bytes_per_second_max);
        self.changed.notify_waiters();
    }

    /// Whether nothing has to wait: what the data path looks at.
    pub(crate) fn are_none(&self) -> bool {
        self.operations.is_unlimited() && self.bytes.is_unlimited()
    }

    /// Counts a request of that cost that begins at once: the next requests wait for it.
    pub(crate) fn charge(&self, cost: Cost, now: Duration) {
        self.operations.take(cost.operations, now);
        self.bytes.take(cost.bytes, now);
    }

    /// Waits until a request of that cost may begin. `now` and `sleep` are the runtime's. Dropping
    /// the future gives back what was granted: a client that is gone costs the ones after it
    /// nothing.
    pub(crate) async fn admit<S>(
        &self,
        cost: Cost,
        now: impl Fn() -> Duration,
        sleep: impl Fn(Duration) -> S,
    ) where
        S: Future<Output = ()>,
    {
        loop {
            // Before the look, so that no change is missed.
            let changed = std::pin::pin!(self.changed.notified());
            let began = now();
            let begins = self
                .operations
                .take(cost.operations, began)
                .max(self.bytes.take(cost.bytes, began));
            if begins <= began {
                return;
            }
            let granted = Granted { limits: self, cost };
            let waiting = std::pin::pin!(sleep(begins - began));
            let ended = futures_util::future::select(waiting, changed).await;
            std::mem::forget(granted);
            match ended {
                futures_util::future::Either::Left(_) => return,
                // Taken anew: the change has forgiven what was granted at the old rate.
                futures_util::future::Either::Right(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, task::Poll};

    const READ: Checked = Checked::Read { offset: 0, len: 4096, df: false };

    #[test]
    fn what_begins_at_once_is_owed_by_those_who_come_next() {
        let limits = limited(Some(100), None);
        let clock = Cell::new(Duration::from_secs(10));
        (0..200).for_each(|_| limits.charge(Cost::of(&READ), clock.get()));
        let sleep = |time| {
            clock.set(clock.get() + time);
            std::future::ready(())
        };
        let admitted = std::pin::pin!(limits.admit(Cost::of(&READ), || clock.get(), sleep));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(admitted.poll(&mut context).is_ready());
        assert!(
            clock.get() >= Duration::from_millis(11_800),
            "two seconds are owed: {:?}",
            clock.get()
        );
    }

    fn limited(iops_max: Option<u64>, bytes_per_second_max: Option<u64>) -> Limits {
        Limits::new(Rates { iops_max, bytes_per_second_max })
    }

    /// Requests that begin within a second of virtual time, one after the other.
    fn begun_in_a_second(limits: &Limits, request: &Checked) -> u64 {
        let clock = Cell::new(Duration::from_secs(10));
        let end = clock.get() + Duration::from_secs(1);
        let sleep = |time| {
            clock.set(clock.get() + time);
            std::future::ready(())
        };
        let mut begun = 0;
        while begun < 100_000 {
            let admitted = std::pin::pin!(limits.admit(Cost::of(request), || clock.get(), sleep));
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert_eq!(admitted.poll(&mut cx), Poll::Ready(()));
            if clock.get() >= end {
                break;
            }
            begun += 1;
        }
        begun
    }

    #[test]
    fn a_second_holds_the_rate_and_a_burst() {
        assert_eq!(begun_in_a_second(&limited(Some(1000), None), &READ), 1100);
        assert_eq!(begun_in_a_second(&limited(None, Some(4096 * 500)), &READ), 550);
        // The tighter one counts.
        assert_eq!(begun_in_a_second(&limited(Some(1000), Some(4096 * 500)), &READ), 550);
        assert_eq!(begun_in_a_second(&limited(None, None), &READ), 100_000);
    }

    #[test]
    fn flushes_are_free_and_trims_cost_no_bytes() {
        let tight = limited(Some(10), None);
        assert_eq!(begun_in_a_second(&tight, &Checked::Flush), 100_000);
        let trim = Checked::Trim { offset: 0, len: u32::MAX, fua: false };
        assert_eq!(begun_in_a_second(&tight, &trim), 11);
        assert_eq!(begun_in_a_second(&limited(None, Some(1 << 20)), &trim), 100_000);
    }

    #[test]
    fn a_request_larger_than_the_bucket_begins_at_once_and_delays_the_next() {
        let bucket = Bucket::default();
        bucket.set(Some(1 << 20));
        let now = Duration::from_secs(10);
        assert_eq!(bucket.take(2 << 20, now), now - BURST);
        assert_eq!(bucket.take(1, now), now - BURST + Duration::from_secs(2));
    }

    #[test]
    fn who_gives_up_waiting_gives_back_what_was_granted() {
        let limits = limited(None, Some(1 << 20));
        let now = || Duration::from_secs(100);
        let large = Cost { operations: 1, bytes: 64 << 20 };
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let first =
            std::pin::pin!(limits.admit(Cost::of(&READ), now, |_| std::future::pending::<()>()));
        assert!(first.poll(&mut cx).is_ready());
        let paid = limits.bytes.paid_ns.load(Relaxed);
        limits.bytes.take(1 << 20, now());
        {
            let waiting =
                std::pin::pin!(limits.admit(large, now, |_| std::future::pending::<()>()));
            assert!(waiting.poll(&mut cx).is_pending());
        }
        assert_eq!(
            limits.bytes.paid_ns.load(Relaxed),
            paid + NANOS,
            "of the large one nothing is left"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_limit_counts_for_those_who_wait_already() {
        let limits = limited(Some(1), None);
        let start = tokio::time::Instant::now();
        let now = || start.elapsed() + Duration::from_secs(100);
        for _ in 0..2 {
            // The second waits a second in part.
            limits.admit(Cost::of(&READ), now, tokio::time::sleep).await;
        }
        let waiting = limits.admit(Cost::of(&READ), now, tokio::time::sleep);
        let lift = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            limits.set(Rates::default());
        };
        let before = start.elapsed();
        futures_util::future::join(waiting, lift).await;
        assert_eq!(start.elapsed() - before, Duration::from_millis(10));
        assert!(limits.are_none());
    }
}
