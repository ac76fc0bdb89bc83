//! Functions that act on the current thread's runtime. They panic outside a runtime, unless they
//! say otherwise.

use std::future::Future;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::executor::{Core, Served, TurnEnd};
use super::handle::Handle;
use super::timers::Sleep;

/// Starts a task on this thread. It runs to its end, or until the runtime is dropped.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    Core::current().spawn(future);
}

/// A handle to this thread's runtime.
#[must_use]
pub fn handle() -> Handle {
    Core::current().handle()
}

/// Time since some moment in the past, the same moment for all real runtimes of the process. It
/// never goes back. On a simulated runtime it is virtual: it moves only when all tasks wait, to the
/// next thing to happen.
#[must_use]
pub fn now() -> Duration {
    Core::current().now()
}

/// The time on any thread: as [`now`], and outside a runtime the time of the real ones.
#[must_use]
pub fn clock() -> Duration {
    Core::clock()
}

/// Waits for at least `duration`. Dropping it is safe.
#[must_use = "a sleep that is not awaited does nothing"]
pub fn sleep(duration: Duration) -> Sleep {
    let core = Core::current();
    let deadline = core.now().saturating_add(duration);
    Sleep::new(core, deadline)
}

/// Yields: the other tasks run, their operations are submitted, and the caller goes on in the next
/// turn.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        Core::current().wake_next_turn(cx.waker().clone());
        Poll::Pending
    })
    .await;
}

/// Hints that more than one operation goes on at a time: for a while the thread does no file
/// operation in place, as it otherwise may when one is alone.
pub fn hint_concurrency() {
    Core::current().driver().hint_concurrency();
}

/// Counts one more client of this thread, until the guard is dropped. With two clients the thread
/// does no file operation in place: a device that hangs would keep it from the other client.
#[must_use = "the client is no longer counted when this guard is dropped"]
pub fn serve_one() -> Served {
    Core::current().serve_one()
}

/// Calls `hook` at the end of each turn, after the tasks have run and before what they queued is
/// submitted, until the returned guard is dropped. The hook may start I/O, wake and spawn; tasks it
/// makes ready run before the wait.
#[must_use = "the hook is removed with this guard"]
pub fn on_turn_end(hook: Rc<dyn Fn()>) -> TurnEnd {
    Core::current().on_turn_end(hook)
}
