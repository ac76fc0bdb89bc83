//! Operations that may be reading the store: a slot is reused only when those that began before are over.
//!
//! Each holds the current token; [`Readers::drain`] replaces it and waits until that one, and those that other drains
//! replaced before, are held by nobody. New operations do not make it wait.

use crate::{
    blindness::{Blindness, is_blind_to},
    runtime,
};
use std::{
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

/// Held by an operation from before it looks into the map until it has its bytes.
pub(crate) type ReadToken = Arc<()>;

#[derive(Debug, Default)]
pub(crate) struct Readers(Mutex<Tokens>);

#[derive(Debug, Default)]
struct Tokens {
    current: ReadToken,
    /// Those that were replaced and may be held still.
    older: Vec<Weak<()>>,
}

impl Readers {
    fn lock(&self) -> MutexGuard<'_, Tokens> {
        self.0.lock().expect("no panics under this lock")
    }

    pub(crate) fn enter(&self) -> ReadToken {
        Arc::clone(&self.lock().current)
    }

    /// Waits until all that entered before are done.
    pub(crate) async fn drain(&self) {
        let older = {
            let mut tokens = self.lock();
            let last = Arc::downgrade(&std::mem::take(&mut tokens.current));
            tokens.older.push(last);
            tokens.older.retain(is_held);
            tokens.older.clone()
        };
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
