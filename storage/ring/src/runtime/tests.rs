//! The executor on both real engines and on the simulated one.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Backend, Runtime};
use crate::runtime;

fn each_engine(test: impl Fn(Runtime)) {
    for engine in [Backend::Uring, Backend::Threads] {
        match Runtime::new(engine) {
            Ok(runtime) => test(runtime),
            Err(reason) => println!("skipped on {engine:?}: {reason}"),
        }
    }
    test(Runtime::simulated(1));
}

#[test]
fn auto_takes_the_ring_or_says_why_not() {
    let runtime = Runtime::new(Backend::Auto).unwrap();
    match runtime.fallback_reason() {
        None => assert_eq!(runtime.backend_name(), "uring"),
        Some(reason) => {
            assert_eq!(runtime.backend_name(), "threads");
            assert!(reason.contains("io_uring"), "{reason}");
        }
    }
    runtime.block_on(runtime::yield_now());
}

#[test]
fn tasks_spawned_by_tasks_run() {
    each_engine(|runtime| {
        let count = Rc::new(Cell::new(0));
        runtime.block_on(async {
            let (sender, receiver) = oneshot::channel();
            let count = Rc::clone(&count);
            runtime::spawn(async move {
                let inner = Rc::clone(&count);
                runtime::spawn(async move {
                    inner.set(inner.get() + 1);
                    sender.send(()).unwrap();
                });
                count.set(count.get() + 1);
            });
            receiver.await.unwrap();
        });
        assert_eq!(count.get(), 2);
    });
}

#[test]
fn timers_fire_in_the_order_of_their_deadlines() {
    each_engine(|runtime| {
        const DELAYS_MS: [u64; 5] = [30, 10, 0, 20, 40];
        let deadlines = Rc::new(RefCell::new(Vec::new()));
        runtime.block_on(async {
            for ms in DELAYS_MS {
                let deadlines = Rc::clone(&deadlines);
                runtime::spawn(async move {
                    // It begins when it is first polled, which may be late on a busy machine.
                    let deadline = runtime::now() + Duration::from_millis(ms);
                    runtime::sleep(Duration::from_millis(ms)).await;
                    assert!(runtime::now() >= deadline);
                    deadlines.borrow_mut().push(deadline);
                });
            }
            drop(runtime::sleep(Duration::ZERO));
            while deadlines.borrow().len() < DELAYS_MS.len() {
                runtime::sleep(Duration::from_millis(1)).await;
            }
        });
        assert!(deadlines.borrow().is_sorted(), "{deadlines:?}");
    });
}

#[test]
fn dropped_sleeps_leave_nothing_behind() {
    each_engine(|runtime| {
        runtime.block_on(async {
            let mut sleep = Box::pin(runtime::sleep(Duration::from_secs(3600)));
            assert!(futures_util::poll!(&mut sleep).is_pending());
            drop(sleep);
            runtime::sleep(Duration::from_millis(1)).await;
        });
    });
}

#[test]
fn yielding_lets_others_run() {
    each_engine(|runtime| {
        let seen = Rc::new(Cell::new(false));
        runtime.block_on(async {
            let flag = Rc::clone(&seen);
            runtime::spawn(async move { flag.set(true) });
            runtime::yield_now().await;
        });
        assert!(seen.get());
    });
}

/// A task that never waits must not keep timers from firing.
#[test]
fn busy_tasks_do_not_starve_timers() {
    for engine in [Backend::Uring, Backend::Threads] {
        let Ok(runtime) = Runtime::new(engine) else { continue };
        runtime.block_on(async {
            runtime::spawn(async {
                loop {
                    runtime::yield_now().await;
                }
            });
            runtime::sleep(Duration::from_millis(5)).await;
        });
    }
}

#[test]
fn turn_end_hook_sees_the_turn_as_a_whole() {
    each_engine(|runtime| {
        runtime.block_on(async {
            let batch = Rc::new(RefCell::new(Vec::<oneshot::Sender<usize>>::new()));
            let sealed = Rc::clone(&batch);
            let hook = runtime::on_turn_end(Rc::new(move || {
                let batch = std::mem::take(&mut *sealed.borrow_mut());
                let len = batch.len();
                batch.into_iter().for_each(|sender| sender.send(len).unwrap());
            }));
            let write = || async {
                let (sender, receiver) = oneshot::channel();
                batch.borrow_mut().push(sender);
                receiver.await.unwrap()
            };
            let sizes = futures_util::future::join_all((0..10).map(|_| write())).await;
            assert_eq!(sizes, [10; 10]);
            drop(hook);
            let mut unsealed = Box::pin(write());
            assert!(futures_util::poll!(&mut unsealed).is_pending());
            runtime::yield_now().await;
            runtime::yield_now().await;
            assert!(
                futures_util::poll!(&mut unsealed).is_pending(),
                "a dropped hook is not called"
            );
        });
    });
}

/// Wakes arrive while the thread is busy, about to wait and waiting; none may be lost.
#[test]
fn other_threads_wake_the_runtime() {
    const THREADS: u64 = 4;
    const CALLS: u64 = 25_000;
    for engine in [Backend::Uring, Backend::Threads] {
        let Ok(runtime) = Runtime::new(engine) else { continue };
        let total = Arc::new(AtomicU64::new(0));
        let (sender, receiver) = oneshot::channel::<()>();
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (handle, total) = (runtime.handle(), Arc::clone(&total));
                std::thread::spawn(move || {
                    let caller = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    caller.block_on(async {
                        for number in 0..CALLS {
                            let answer = handle.run(move || async move {
                                if number % 64 == 0 {
                                    runtime::yield_now().await;
                                }
                                number * 2
                            });
                            assert_eq!(answer.await, number * 2);
                            total.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                })
            })
            .collect();
        let joined = std::thread::spawn(move || {
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            drop(sender);
        });
        runtime.block_on(async { assert!(receiver.await.is_err()) });
        joined.join().unwrap();
        assert_eq!(total.load(Ordering::Relaxed), THREADS * CALLS);
    }
}

#[test]
fn handle_spawns_in_order() {
    each_engine(|runtime| {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let handle = runtime.handle();
        for number in 0..100 {
            let seen = Arc::clone(&seen);
            handle.spawn(move || {
                seen.lock().unwrap().push(number);
                async {}
            });
        }
        assert_eq!(runtime.block_on(handle.run(|| async { 7 })), 7);
        assert!(seen.lock().unwrap().iter().copied().eq(0..100));
    });
}

#[test]
fn dropping_the_runtime_drops_its_tasks() {
    struct Noted(Rc<Cell<u32>>);
    impl Drop for Noted {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    each_engine(|runtime| {
        let dropped = Rc::new(Cell::new(0));
        let (never, receiver) = oneshot::channel::<()>();
        let noted = Noted(Rc::clone(&dropped));
        let second = Noted(Rc::clone(&dropped));
        runtime.block_on(async {
            runtime::spawn(async move {
                let _noted = noted;
                let _ = receiver.await;
            });
            runtime::spawn(async move {
                let _second = second;
                std::future::pending::<()>().await;
            });
            runtime::yield_now().await;
        });
        let handle = runtime.handle();
        drop(runtime);
        assert_eq!(dropped.get(), 2);
        assert!(never.is_closed());
        handle.spawn(|| async { panic!("never run") });
    });
}

#[test]
fn virtual_time_costs_none() {
    let runtime = Runtime::simulated(3);
    let begun = Instant::now();
    runtime.block_on(async {
        runtime::sleep(Duration::from_secs(3600)).await;
        assert_eq!(runtime::now(), Duration::from_secs(3600));
    });
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
#[should_panic(expected = "nothing is left that could happen")]
fn simulation_that_can_never_go_on_panics() {
    Runtime::simulated(3).block_on(std::future::pending::<()>());
}

#[test]
#[should_panic(expected = "inside a runtime already")]
fn block_on_inside_block_on_panics() {
    let outer = Runtime::simulated(1);
    let inner = Runtime::simulated(2);
    outer.block_on(async { inner.block_on(async {}) });
}
