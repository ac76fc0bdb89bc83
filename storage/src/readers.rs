//! Operations that may be reading the store: a slot is reused only when those that began before are over.
//!
//! Each holds the current token; [`Readers::drain`] replaces it and waits until that one, and those that other drains
//! replaced before, are held by nobody. New operations do not make it wait.
//!
//! An operation that mostly needs no token may take it when it turns out that it does, if no drain has replaced it since before
//! it looked into the map.

use crate::{
    blindness::{Blindness, is_blind_to},
    runtime,
    watchdog::Progress,
};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicU64, Ordering::*},
    },
    time::Duration,
};

/// Held by an operation from before it looks into the map until it has its bytes.
pub(crate) type ReadToken = Arc<()>;

#[derive(Debug, Default)]
pub(crate) struct Readers {
    tokens: Mutex<Tokens>,
    /// Tokens that were replaced. It changes under the lock.
    replaced: AtomicU64,
    /// Reclaim waits for those who entered before.
    pub(crate) draining: Progress,
}

/// When an operation looked into the map without a token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(u64);

#[derive(Debug, Default)]
struct Tokens {
    current: ReadToken,
    /// Those that were replaced and may be held still.
    older: Vec<Weak<()>>,
}

impl Readers {
    fn lock(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().expect("no panics under this lock")
    }

    pub(crate) fn enter(&self) -> ReadToken {
        Arc::clone(&self.lock().current)
    }

    /// Before a look into the map that may turn out to need a token.
    pub(crate) fn now(&self) -> Moment {
        Moment(self.replaced.load(Acquire))
    }

    /// The token that [`Self::enter`] gave at that moment, unless it was replaced since.
    pub(crate) fn enter_as_of(&self, moment: Moment) -> Option<ReadToken> {
        let tokens = self.lock();
        (self.replaced.load(Relaxed) == moment.0).then(|| Arc::clone(&tokens.current))
    }

    /// Waits until all that entered before are done.
    pub(crate) async fn drain(&self) {
        let older = {
            let mut tokens = self.lock();
            let last = Arc::downgrade(&std::mem::take(&mut tokens.current));
            self.replaced.fetch_add(1, Release);
            tokens.older.push(last);
            tokens.older.retain(is_held);
            tokens.older.clone()
        };
        let _waiting = self.draining.begin();
        while older.iter().any(is_held) && !is_blind_to(Blindness::DrainBeforeReuse) {
            runtime::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn is_held(token: &Weak<()>) -> bool {
    token.strong_count() > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Runtime;
    use futures_util::poll;
    use std::pin::pin;

    #[test]
    fn late_token_is_that_of_the_look_or_none() {
        Runtime::simulated(1).block_on(async {
            let readers = Readers::default();
            let moment = readers.now();
            let late = readers.enter_as_of(moment).expect("nothing happened since");
            let mut drain = pin!(readers.drain());
            assert!(poll!(&mut drain).is_pending(), "it holds back what began after the look");
            assert!(readers.enter_as_of(moment).is_none());
            drop(late);
            drain.await;
            assert!(readers.enter_as_of(readers.now()).is_some());
        });
    }

    #[test]
    fn drains_at_once_wait_for_the_same_readers() {
        Runtime::simulated(1).block_on(async {
            let readers = Readers::default();
            let old = readers.enter();
            let mut first = pin!(readers.drain());
            assert!(poll!(&mut first).is_pending());
            let mut second = pin!(readers.drain());
            assert!(poll!(&mut second).is_pending(), "the reader entered before both");
            let _new = readers.enter();
            drop(old);
            first.await;
            second.await;
        });
    }
}
