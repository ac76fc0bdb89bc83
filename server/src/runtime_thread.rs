//! A thread with a storage runtime: the store's own, and each worker's.
//!
//! The store's thread opens the store, makes, changes and deletes volumes for the admin side, and
//! closes the store at the end. tokio tasks reach it through its handle and wait there without
//! blocking.

use crate::watchdog::Heartbeat;
use sandstone_ring::{Backend, Handle, Runtime, runtime};
use std::{
    io,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};
use tokio::sync::oneshot;

/// A running thread. It ends when this is stopped or dropped.
pub(crate) struct RuntimeThread {
    handle: Handle,
    backend_name: &'static str,
    fallback: Option<String>,
    heartbeat: Arc<Heartbeat>,
    /// Dropped, it ends the thread.
    _stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl RuntimeThread {
    /// Starts a thread of that name and its runtime. `set_up` runs on the thread before anything
    /// else; what `enter` gives, inside the runtime, lives as long as the thread.
    ///
    /// # Errors
    /// What kept the thread or the engine from starting.
    pub(crate) fn start<G: 'static>(
        name: &str,
        engine: Backend,
        set_up: impl FnOnce(&Runtime) + Send + 'static,
        enter: impl FnOnce() -> G + Send + 'static,
    ) -> io::Result<RuntimeThread> {
        let (started, starting) = mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel::<()>();
        let heartbeat = Heartbeat::new(name);
        let beating = Arc::clone(&heartbeat);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let send = |outcome| started.send(outcome).expect("the starter waits for this");
            let runtime = match Runtime::new(engine) {
                Ok(runtime) => runtime,
                Err(error) => return send(Err(error)),
            };
            set_up(&runtime);
            let fallback = runtime.fallback_reason().map(str::to_owned);
            send(Ok((runtime.handle(), runtime.backend_name(), fallback)));
            runtime.block_on(async move {
                let _entered = enter();
                runtime::spawn(beating.go_on());
                // Told to stop or forgotten: both end the thread.
                let _told_or_forgotten = stopped.await;
            });
        })?;
        let died = || io::Error::other(format!("the thread {name} ended before it had started"));
        let (handle, backend_name, fallback) = starting.recv().map_err(|_| died())??;
        Ok(RuntimeThread { handle, backend_name, fallback, heartbeat, _stop: stop, thread })
    }

    /// To run things on the thread.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// That it runs.
    pub(crate) fn heartbeat(&self) -> Arc<Heartbeat> {
        Arc::clone(&self.heartbeat)
    }

    /// Which engine it runs on.
    pub(crate) fn backend_name(&self) -> &'static str {
        self.backend_name
    }

    /// Why that could not be the ring, where either would have done.
    pub(crate) fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Ends threads and waits for them. What still runs on them is dropped, so the store is closed
    /// before.
    pub(crate) fn stop(threads: impl IntoIterator<Item = RuntimeThread>) {
        let ending: Vec<JoinHandle<()>> = threads.into_iter().map(|thread| thread.thread).collect();
        for thread in ending {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                tracing::error!("the thread {name} panicked");
            }
        }
    }
}
