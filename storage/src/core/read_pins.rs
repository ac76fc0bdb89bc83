//! Read pins: a slot is reused only after the operations that may be reading it have ended.
//!
//! Each operation holds the current pin. [`ReadPins::quiesce`] replaces it and waits until no
//! operation holds that one, or one that an earlier call replaced. Operations that begin later do
//! not make it wait.
//!
//! An operation that seldom needs a pin may take it later, unless the pin was replaced since the
//! operation looked into the map.

use crate::base::{Blindness, Progress, is_blind_to};
use sandstone_ring::runtime;
use std::{
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicU64, Ordering::*},
    },
    time::Duration,
};

/// A read pin: held by an operation from before it looks into the map until it has its bytes.
pub(crate) type ReadPin = Arc<()>;

#[derive(Debug, Default)]
pub(crate) struct ReadPins {
    pins: Mutex<Pins>,
    /// Counts the pins that were replaced. It changes under the lock.
    replaced: AtomicU64,
    /// Reclaim quiesces: it waits for operations that began before.
    pub(crate) quiescing: Progress,
}

/// When an operation looked into the map without a pin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(u64);

#[derive(Debug, Default)]
struct Pins {
    current: ReadPin,
    /// Pins that were replaced and may still be held.
    older: Vec<Weak<()>>,
}

impl ReadPins {
    fn lock(&self) -> MutexGuard<'_, Pins> {
        self.pins.lock().expect("no panics under this lock")
    }

    /// The current pin.
    pub(crate) fn pin(&self) -> ReadPin {
        Arc::clone(&self.lock().current)
    }

    /// The moment before a look into the map that may need a pin afterwards.
    pub(crate) fn now(&self) -> Moment {
        Moment(self.replaced.load(Acquire))
    }

    /// The pin that [`Self::pin`] gave at that moment, unless it was replaced since.
    pub(crate) fn pin_as_of(&self, moment: Moment) -> Option<ReadPin> {
        let pins = self.lock();
        (self.replaced.load(Relaxed) == moment.0).then(|| Arc::clone(&pins.current))
    }

    /// Waits until all operations that began before have ended.
    pub(crate) async fn quiesce(&self) {
        let older = {
            let mut pins = self.lock();
            let last = Arc::downgrade(&std::mem::take(&mut pins.current));
            self.replaced.fetch_add(1, Release);
            pins.older.push(last);
            pins.older.retain(is_held);
            pins.older.clone()
        };
        let _waiting = self.quiescing.begin();
        while older.iter().any(is_held) && !is_blind_to(Blindness::DrainBeforeReuse) {
            runtime::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn is_held(pin: &Weak<()>) -> bool {
    pin.strong_count() > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::poll;
    use sandstone_ring::Runtime;
    use std::pin::pin;

    #[test]
    fn late_pin_is_that_of_the_look_or_none() {
        Runtime::simulated(1).block_on(async {
            let pins = ReadPins::default();
            let moment = pins.now();
            let late = pins.pin_as_of(moment).expect("nothing happened since");
            let mut drain = pin!(pins.quiesce());
            assert!(poll!(&mut drain).is_pending(), "it holds back what began after the look");
            assert!(pins.pin_as_of(moment).is_none());
            drop(late);
            drain.await;
            assert!(pins.pin_as_of(pins.now()).is_some());
        });
    }

    #[test]
    fn calls_at_once_wait_for_the_same_operations() {
        Runtime::simulated(1).block_on(async {
            let pins = ReadPins::default();
            let old = pins.pin();
            let mut first = pin!(pins.quiesce());
            assert!(poll!(&mut first).is_pending());
            let mut second = pin!(pins.quiesce());
            assert!(poll!(&mut second).is_pending(), "the operation began before both");
            let _new = pins.pin();
            drop(old);
            first.await;
            second.await;
        });
    }
}
