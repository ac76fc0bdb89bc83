//! The keeper: the thread whose runtime owns the open store, and does what belongs to no connection.
//!
//! It opens the store, makes, changes and deletes volumes for the admin side, and closes the store at the end. tokio
//! tasks reach it through its handle and wait there without blocking.

use super::watchdog::Heartbeat;
use sandstone_ring::{Backend, Handle, Runtime, runtime};
use std::{
    io,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};
use tokio::sync::oneshot;

/// A running keeper thread. It stops when this is stopped or dropped.
pub(crate) struct Keeper {
    handle: Handle,
    backend_name: &'static str,
    fallback: Option<String>,
    heartbeat: Arc<Heartbeat>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Starts the thread and its runtime.
    ///
    /// # Errors
    /// What kept the thread or the engine from starting.
    pub(crate) fn start(engine: Backend) -> io::Result<Keeper> {
        let (started, starting) = mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel::<()>();
        let heartbeat = Heartbeat::new("keeper");
        let beating = Arc::clone(&heartbeat);
        let thread = thread::Builder::new().name("keeper".into()).spawn(move || {
            let runtime = match Runtime::new(engine) {
                Ok(runtime) => runtime,
                Err(error) => return send(&started, Err(error)),
            };
            let fallback = runtime.fallback_reason().map(str::to_owned);
            send(&started, Ok((runtime.handle(), runtime.backend_name(), fallback)));
            runtime.block_on(async move {
                runtime::spawn(beating.go_on());
                // Told to stop or forgotten: both end the thread.
                let _told_or_forgotten = stopped.await;
            });
        })?;
        let died = || io::Error::other("the keeper thread ended before it had started");
        let (handle, backend_name, fallback) = starting.recv().map_err(|_| died())??;
        Ok(Keeper { handle, backend_name, fallback, heartbeat, stop, thread })
    }

    /// To run things on the keeper.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// That its thread runs.
    pub(crate) fn heartbeat(&self) -> Arc<Heartbeat> {
        Arc::clone(&self.heartbeat)
    }

    /// Which engine it runs on.
    pub(crate) fn backend_name(&self) -> &'static str {
        self.backend_name
    }

    /// Why it could not be the ring, where either would have done.
    pub(crate) fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Ends the thread and waits for it. Whatever still runs on it is dropped, so the store is closed before.
    pub(crate) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the keeper thread panicked");
        }
    }
}

fn send<T>(to: &mpsc::SyncSender<T>, value: T) {
    to.send(value).expect("the starter waits for this");
}
