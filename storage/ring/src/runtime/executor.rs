//! The executor: tasks of one thread, turn by turn.
//!
//! ```text
//!          ┌─────────────────────────────── turn ───────────────────────────────┐
//!   wait ─►│ completions, remote queue, timers ─► ready tasks ─► turn-end hooks │─► submit, wait
//!          │                                      ▲ tasks ready again │         │
//!          │                                      └───────────────────┘         │
//!          └────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! I1  Tasks are polled and dropped on this thread only. Wakers may be called anywhere: here they
//!     push to the ready queue, elsewhere to the remote queue.
//! I2  No `RefCell` of the core is borrowed while foreign code runs: tasks, hooks, wakers, and the
//!     drop of buffers.
//! I3  All that the tasks of a turn queue leaves in one submission, after the hooks, which see the
//!     turn as a whole.
//! I4  A turn is bounded (`TASKS_MAX`, `ROUNDS_MAX`), so completions are reaped however busy the
//!     tasks keep themselves.
//! I5  The thread waits only when nothing is ready and the remote queue was seen empty after the
//!     wait was announced.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use async_task::Runnable;
use pin_project_lite::pin_project;
use slab::Slab;

use super::handle::Handle;
use super::spin::{For, How, SpinPolicy};
use super::timers::Timers;
use crate::engine::{Driver, Item, Remote, Spun};
use crate::io::{Random, Reaped};

/// Most tasks run before the hooks. A guess, not tuned.
const TASKS_MAX: usize = 256;
/// How often a turn goes back to tasks that its hooks made ready, before it submits.
const ROUNDS_MAX: usize = 4;
/// How often tasks dropped at the end may make new ones that are dropped too.
const DROP_ROUNDS_MAX: usize = 64;
/// How long the end waits for operations in flight: a slow disk with a full queue takes seconds.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

thread_local! {
    static CURRENT: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
}

/// The beginning of `now` for all real runtimes.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

type Hook = Rc<dyn Fn()>;

/// The state of a runtime.
pub(crate) struct Core {
    remote: Arc<Remote>,
    driver: RefCell<Driver>,
    clock: Clock,
    ready: RefCell<VecDeque<Runnable>>,
    /// Wakers of tasks that yielded until the next turn.
    yielded: RefCell<Vec<Waker>>,
    main_woken: Cell<bool>,
    /// One waker a task, so that all of them can be found and dropped at the end.
    tasks: RefCell<Slab<Waker>>,
    timers: RefCell<Timers>,
    /// Replaced as a whole, so that a hook may add and remove hooks.
    hooks: RefCell<Rc<[(u64, Hook)]>>,
    next_hook: Cell<u64>,
    clients: Cell<usize>,
    spin_policy: SpinPolicy,
    reaped: Cell<Reaped>,
    received: Cell<VecDeque<Item>>,
}

/// The source of time, and with it the order of ready tasks.
pub(super) enum Clock {
    Real,
    Simulated { now: Cell<Duration>, order: RefCell<Random> },
}

impl Clock {
    pub(super) fn real() -> Clock {
        LazyLock::force(&EPOCH);
        Clock::Real
    }

    pub(super) fn simulated(order: Random) -> Clock {
        Clock::Simulated { now: Cell::new(Duration::ZERO), order: RefCell::new(order) }
    }
}

/// Runs `f` with this thread's core, if it is inside one.
fn with_current<R>(f: impl FnOnce(&Rc<Core>) -> R) -> Option<R> {
    // While the thread itself ends, there is no core any more.
    CURRENT.try_with(|current| current.borrow().as_ref().map(f)).ok().flatten()
}

/// Whether this thread runs the runtime of `remote` right now.
pub(super) fn is_current(remote: &Arc<Remote>) -> bool {
    with_current(|core| Arc::ptr_eq(&core.remote, remote)).unwrap_or(false)
}

/// Makes a core the current one until it is dropped.
struct Entered;

impl Entered {
    fn new(core: &Rc<Core>) -> Entered {
        CURRENT.with(|current| {
            let before = current.replace(Some(Rc::clone(core)));
            assert!(before.is_none(), "this thread is inside a runtime already");
        });
        Entered
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let _core = CURRENT.with(RefCell::take);
    }
}

impl Core {
    pub(super) fn new(driver: Driver, remote: Arc<Remote>, clock: Clock) -> Core {
        Core {
            remote,
            driver: RefCell::new(driver),
            clock,
            ready: RefCell::default(),
            yielded: RefCell::default(),
            main_woken: Cell::new(false),
            tasks: RefCell::default(),
            timers: RefCell::default(),
            hooks: RefCell::new(Rc::new([])),
            next_hook: Cell::new(0),
            clients: Cell::new(0),
            spin_policy: SpinPolicy::default(),
            reaped: Cell::default(),
            received: Cell::default(),
        }
    }

    /// This thread's core.
    ///
    /// # Panics
    /// Outside a runtime.
    pub(crate) fn current() -> Rc<Core> {
        with_current(Rc::clone)
            .expect("this has to run on a runtime's thread, inside block_on or a task")
    }

    /// The driver, borrowed while no foreign code runs (I2).
    pub(crate) fn driver(&self) -> RefMut<'_, Driver> {
        self.driver.borrow_mut()
    }

    pub(super) fn timers(&self) -> RefMut<'_, Timers> {
        self.timers.borrow_mut()
    }

    /// The time on any thread: of the current runtime, else of the real ones.
    pub(super) fn clock() -> Duration {
        with_current(|core| core.now()).unwrap_or_else(|| EPOCH.elapsed())
    }

    pub(crate) fn now(&self) -> Duration {
        match &self.clock {
            Clock::Real => EPOCH.elapsed(),
            Clock::Simulated { now, .. } => now.get(),
        }
    }

    /// Virtual time for the simulated engine; the real engines need none, and reading the clock for
    /// each operation costs.
    pub(crate) fn virtual_now(&self) -> Duration {
        match &self.clock {
            Clock::Real => Duration::ZERO,
            Clock::Simulated { now, .. } => now.get(),
        }
    }

    pub(super) fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.remote))
    }

    pub(super) fn set_spin(&self, spin: Duration) {
        self.spin_policy.set_max(spin);
    }

    pub(super) fn wake_next_turn(&self, waker: Waker) {
        self.yielded.borrow_mut().push(waker);
    }

    pub(super) fn spawn(self: &Rc<Self>, future: impl Future<Output = ()> + 'static) {
        let key = self.tasks.borrow_mut().insert(Waker::noop().clone());
        let task = Task { future, _listed: Listed { core: Rc::clone(self), key } };
        let remote = Arc::clone(&self.remote);
        let (runnable, task) =
            async_task::spawn_local(task, move |runnable| schedule(&remote, runnable));
        self.tasks.borrow_mut()[key] = runnable.waker();
        task.detach();
        runnable.schedule();
    }

    pub(super) fn on_turn_end(self: &Rc<Self>, hook: Hook) -> TurnEnd {
        let number = self.next_hook.get();
        self.next_hook.set(number + 1);
        let before = Rc::clone(&self.hooks.borrow());
        let after: Rc<[_]> = before.iter().cloned().chain([(number, hook)]).collect();
        self.hooks.replace(after);
        TurnEnd { core: Rc::downgrade(self), number }
    }

    pub(super) fn serve_one(self: &Rc<Self>) -> Served {
        self.set_clients(self.clients.get() + 1);
        Served { core: Rc::downgrade(self) }
    }

    fn set_clients(&self, clients: usize) {
        self.clients.set(clients);
        self.driver().set_clients(clients);
    }

    /// Runs turns until `future` is done.
    pub(super) fn drive<F: Future>(self: &Rc<Self>, future: F) -> F::Output {
        let _entered = Entered::new(self);
        let waker = Waker::from(Arc::new(MainWaker { remote: Arc::clone(&self.remote) }));
        let mut cx = Context::from_waker(&waker);
        let mut future = pin!(future);
        self.main_woken.set(true);
        loop {
            self.collect();
            for _ in 0..ROUNDS_MAX {
                if self.main_woken.replace(false)
                    && let Poll::Ready(output) = future.as_mut().poll(&mut cx)
                {
                    self.driver().submit();
                    return output;
                }
                self.run_ready();
                self.run_hooks();
                if self.ready.borrow().is_empty() && !self.main_woken.get() {
                    break;
                }
            }
            self.wait();
        }
    }

    /// Collects completions, remote items and timers since the last turn.
    fn collect(self: &Rc<Self>) {
        let mut reaped = self.reaped.take();
        self.driver().reap(self.virtual_now(), &mut reaped);
        reaped.woken.drain(..).for_each(Waker::wake);
        reaped.dropped.clear();
        self.reaped.set(reaped);

        let mut received = self.received.take();
        self.remote.take(&mut received);
        for item in received.drain(..) {
            match item {
                Item::Task(runnable) => self.ready.borrow_mut().push_back(runnable),
                Item::Main => self.main_woken.set(true),
                Item::Call(call) => call(),
            }
        }
        self.received.set(received);

        if self.timers().next_deadline().is_some() {
            let now = self.now();
            loop {
                let Some(waker) = self.timers().pop_due(now) else { break };
                waker.wake();
            }
        }
        let yielded = self.yielded.take();
        yielded.into_iter().for_each(Waker::wake);
    }

    fn run_ready(&self) {
        for _ in 0..TASKS_MAX {
            let Some(runnable) = self.next_ready() else { return };
            runnable.run();
        }
    }

    fn next_ready(&self) -> Option<Runnable> {
        let mut ready = self.ready.borrow_mut();
        match &self.clock {
            Clock::Real => ready.pop_front(),
            Clock::Simulated { order, .. } => {
                let count = ready.len() as u64;
                if count == 0 {
                    None
                } else {
                    ready.remove(order.borrow_mut().below(count) as usize)
                }
            }
        }
    }

    fn run_hooks(&self) {
        let hooks = Rc::clone(&self.hooks.borrow());
        hooks.iter().for_each(|(_, hook)| hook());
    }

    fn is_idle(&self) -> bool {
        self.ready.borrow().is_empty() && !self.main_woken.get() && self.yielded.borrow().is_empty()
    }

    /// Submits queued operations, and where no task is ready, waits for an event.
    fn wait(&self) {
        if !self.is_idle() {
            self.driver().submit();
            return;
        }
        let next_timer = self.timers().next_deadline();
        match &self.clock {
            Clock::Simulated { now, .. } => {
                let next_event = self.driver().next_event();
                match [next_timer, next_event].into_iter().flatten().min() {
                    Some(next) => now.set(now.get().max(next)),
                    None if self.remote.is_filled() => {}
                    None => panic!("everything waits, and nothing is left that could happen"),
                }
            }
            Clock::Real if !self.remote.is_filled() && self.driver().wait_in_place() => {}
            Clock::Real => {
                let began = self.now();
                let what = if self.driver().has_file_ops() { For::Disk } else { For::Others };
                if let Some(window) = self.spin_policy.window(what)
                    && self.spin(window, next_timer) == Spun::Found
                {
                    return self.spin_policy.waited(what, How::Looking, self.now() - began);
                }
                if self.remote.announce_wait() {
                    let timeout = next_timer.map(|deadline| deadline.saturating_sub(self.now()));
                    self.driver().park(timeout);
                    self.remote.end_wait();
                    self.spin_policy.waited(what, How::Asleep, self.now() - began);
                } else {
                    self.driver().submit();
                }
            }
        }
    }

    /// Busy-polls for events for a while, without sleeping.
    fn spin(&self, spin: Duration, next_timer: Option<Duration>) -> Spun {
        let mut driver = self.driver();
        let give_up_at = self.now() + spin;
        let mut spun = driver.submit();
        loop {
            let now = self.now();
            if spun == Spun::Found
                || self.remote.is_filled()
                || next_timer.is_some_and(|timer| timer <= now)
            {
                return Spun::Found;
            }
            if now >= give_up_at {
                return Spun::Nothing;
            }
            std::hint::spin_loop();
            spun = driver.spin();
        }
    }

    /// Drops all tasks and waits for the operations in flight.
    pub(super) fn shut_down(self: &Rc<Self>) {
        let _entered = Entered::new(self);
        // Tasks are dropped from here on; calls that never began are dropped with the queue.
        for item in self.remote.close() {
            match item {
                Item::Task(runnable) => self.ready.borrow_mut().push_back(runnable),
                Item::Main | Item::Call(_) => {}
            }
        }
        self.hooks.replace(Rc::new([]));
        for _ in 0..DROP_ROUNDS_MAX {
            // A woken task is in the ready queue, and dropping it from there drops its future.
            let wakers: Vec<Waker> =
                self.tasks.borrow().iter().map(|(_, waker)| waker.clone()).collect();
            if wakers.is_empty() && self.ready.borrow().is_empty() {
                break;
            }
            wakers.into_iter().for_each(Waker::wake);
            loop {
                let Some(runnable) = self.ready.borrow_mut().pop_front() else { break };
                drop(runnable);
            }
        }
        let mut reaped = Reaped::default();
        let left = self.driver().drain(DRAIN_TIMEOUT, &mut reaped);
        if left > 0 {
            tracing::warn!(operations = left, "operations in flight outlive their runtime");
        }
    }
}

/// Puts a woken task where its thread finds it.
fn schedule(remote: &Arc<Remote>, runnable: Runnable) {
    let mut runnable = Some(runnable);
    with_current(|core| {
        if Arc::ptr_eq(&core.remote, remote)
            && let Some(runnable) = runnable.take()
        {
            core.ready.borrow_mut().push_back(runnable);
        }
    });
    if let Some(runnable) = runnable {
        remote.push(Item::Task(runnable));
    }
}

/// Wakes the future given to `block_on`.
struct MainWaker {
    remote: Arc<Remote>,
}

impl Wake for MainWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let here = with_current(|core| {
            let own = Arc::ptr_eq(&core.remote, &self.remote);
            if own {
                core.main_woken.set(true);
            }
            own
        });
        if here != Some(true) {
            self.remote.push(Item::Main);
        }
    }
}

pin_project! {
    /// A spawned future, taken off the list of tasks when it is done or dropped.
    struct Task<F> {
        #[pin]
        future: F,
        _listed: Listed,
    }
}

impl<F: Future<Output = ()>> Future for Task<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().future.poll(cx)
    }
}

struct Listed {
    core: Rc<Core>,
    key: usize,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let _waker = self.core.tasks.borrow_mut().try_remove(self.key);
    }
}

/// A client that a thread serves. See [`serve_one`](super::serve_one).
#[must_use = "the client is no longer counted when this guard is dropped"]
pub struct Served {
    core: Weak<Core>,
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            core.set_clients(core.clients.get() - 1);
        }
    }
}

/// Keeps a turn-end hook in place. See [`on_turn_end`](super::on_turn_end).
#[must_use = "the hook is removed with this guard"]
pub struct TurnEnd {
    core: Weak<Core>,
    number: u64,
}

impl Drop for TurnEnd {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            let before = Rc::clone(&core.hooks.borrow());
            let after: Rc<[_]> =
                before.iter().filter(|(number, _)| *number != self.number).cloned().collect();
            let _replaced = core.hooks.replace(after);
        }
    }
}
