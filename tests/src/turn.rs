//! Suites take turns: tests of one module run beside each other, those of another wait until they
//! have ended.
//!
//! All suites are modules of one program, which links once. Many of them measure times, count
//! processes or fill the machine, and each was written to have it for itself.

use std::{
    cell::RefCell,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

/// Which suite has its turn.
struct Turn {
    suite: String,
    /// Tests of it that run.
    tests: usize,
}

static TURN: Mutex<Turn> = Mutex::new(Turn { suite: String::new(), tests: 0 });
static ENDED: Condvar = Condvar::new();

thread_local! {
    /// A test has a thread of its own, so its turn ends with the thread.
    static TAKEN: RefCell<Option<Taken>> = const { RefCell::new(None) };
}

struct Taken;

/// Waits until the suite of the current test has its turn, and keeps it until the test ends. On
/// other threads, whose test has taken it, it does nothing.
pub fn take() {
    let thread = thread::current();
    let Some((suite, _test)) = thread.name().and_then(|name| name.split_once("::")) else { return };
    TAKEN.with_borrow_mut(|taken| {
        taken.get_or_insert_with(|| {
            let mut turn = lock();
            while turn.tests > 0 && turn.suite != suite {
                turn = ENDED.wait(turn).unwrap_or_else(PoisonError::into_inner);
            }
            suite.clone_into(&mut turn.suite);
            turn.tests += 1;
            Taken
        });
    });
}

impl Drop for Taken {
    fn drop(&mut self) {
        lock().tests -= 1;
        ENDED.notify_all();
    }
}

fn lock() -> MutexGuard<'static, Turn> {
    // Nothing panics under it.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
