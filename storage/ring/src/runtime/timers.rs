//! Timers of one runtime.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::executor::Core;

/// Sleeping tasks, soonest first; tasks with one deadline in the order of their calls.
#[derive(Default)]
pub(super) struct Timers {
    sleepers: BTreeMap<TimerKey, Waker>,
    next: u64,
}

/// Key of one sleeping task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TimerKey {
    deadline: Duration,
    number: u64,
}

impl Timers {
    pub(super) fn insert(&mut self, deadline: Duration, waker: Waker) -> TimerKey {
        let key = TimerKey { deadline, number: self.next };
        self.next += 1;
        self.sleepers.insert(key, waker);
        key
    }

    /// Replaces the waker of a task that still sleeps.
    pub(super) fn update(&mut self, key: TimerKey, waker: &Waker) -> Option<Waker> {
        let current = self.sleepers.get_mut(&key)?;
        (!current.will_wake(waker)).then(|| std::mem::replace(current, waker.clone()))
    }

    pub(super) fn remove(&mut self, key: TimerKey) -> Option<Waker> {
        self.sleepers.remove(&key)
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.sleepers.first_key_value().map(|(key, _)| key.deadline)
    }

    /// Removes a task whose deadline has passed.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<Waker> {
        let first = self.sleepers.first_entry()?;
        (first.key().deadline <= now).then(|| first.remove())
    }
}

/// The future of [`sleep`](super::sleep).
pub struct Sleep {
    core: Rc<Core>,
    deadline: Duration,
    key: Option<TimerKey>,
}

impl Sleep {
    pub(super) fn new(core: Rc<Core>, deadline: Duration) -> Sleep {
        Sleep { core, deadline, key: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.core.now() >= self.deadline {
            return Poll::Ready(());
        }
        match self.key {
            Some(key) => {
                let _replaced = self.core.timers().update(key, cx.waker());
            }
            None => {
                let key = self.core.timers().insert(self.deadline, cx.waker().clone());
                self.key = Some(key);
            }
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let _removed = self.core.timers().remove(key);
        }
    }
}
