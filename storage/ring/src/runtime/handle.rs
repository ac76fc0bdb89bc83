//! The way into a runtime from other threads.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::executor::{Core, is_current};
use crate::engine::{Item, Remote};

/// Reaches a runtime from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    remote: Arc<Remote>,
}

impl Handle {
    pub(super) fn new(remote: Arc<Remote>) -> Handle {
        Handle { remote }
    }

    /// Starts a task there. `f` is called on the runtime's thread, so the future need not be
    /// `Send`. Calls from one thread begin in their order. The call is dropped when the runtime has
    /// ended.
    pub fn spawn<F, Fut>(&self, f: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        if is_current(&self.remote) {
            Core::current().spawn(f());
        } else {
            self.remote.push(Item::Call(Box::new(move || Core::current().spawn(f()))));
        }
    }

    /// Starts a task there at once and returns its result, to be awaited on any executor. Dropping
    /// the returned future does not stop the task.
    ///
    /// # Panics
    /// The returned future, when the runtime is dropped before the task has ended.
    pub fn run<F, Fut, T>(&self, f: F) -> impl Future<Output = T> + Send + use<F, Fut, T>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.spawn(move || {
            let future = f();
            async move {
                // The caller may have dropped its future, and with it the result.
                let _ = sender.send(future.await);
            }
        });
        async move { receiver.await.expect("the runtime is dropped only after what was run on it") }
    }
}
