//! The workers: one thread, one runtime, one ring each. A connection goes to the one that has
//! fewest.

use super::{
    abort::AbortReason,
    admission::{Admission, Admissions},
    budget::{Load, OnWorker},
    connection::{Connection, WorkerContext},
    disconnect::Disconnect,
    executor::Agreed,
    in_flight_pool::InFlightPool,
    metrics::Metrics,
    socket_handle::SocketHandle,
};
use crate::{
    attachments::{AttachedGuard, ConnectionHandle, Holder},
    runtime_thread::RuntimeThread,
    traffic::Traffic,
    watchdog::Heartbeat,
};
use bytes::BytesMut;
use dashmap::DashMap;
use prometheus_client::registry::Registry as Exported;
use sandstone_config::Nbd;
use sandstone_protocol::Negotiated;
use sandstone_ring::{Backend, Runtime, Socket};
use sandstone_storage::{Store, Volume};
use std::{
    cell::OnceCell,
    io,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::*},
    },
    time::Duration,
};
use tokio::sync::watch;

/// How long clients may keep sending while the server stops. Then they are disconnected.
const DRAIN_SECS_MAX: u64 = 5;

/// Longest look for the next request before a worker sleeps; only where requests follow each other
/// closely.
const SPIN: Duration = Duration::from_micros(60);

/// All workers, and the connections they serve.
pub(crate) struct Workers {
    workers: Vec<Worker>,
    live: Arc<Live>,
    pool: Arc<InFlightPool>,
    admissions: Arc<Admissions>,
    metrics: Metrics,
    stall: Duration,
}

struct Worker {
    thread: RuntimeThread,
    load: Arc<Load>,
}

/// The connections in transmission.
struct Live {
    handles: DashMap<u64, Arc<SocketHandle>>,
    next: AtomicU64,
    count: watch::Sender<usize>,
}

/// A connection that has finished its handshake.
pub(super) struct Ready {
    pub(super) socket: OwnedFd,
    pub(super) handle: Arc<SocketHandle>,
    pub(super) received: BytesMut,
    pub(super) negotiated: Negotiated,
    pub(super) volume: Volume,
    pub(super) traffic: Arc<Traffic>,
    pub(super) guard: AttachedGuard,
    pub(super) holder: Holder,
    pub(super) older: Vec<Volume>,
    pub(super) peer: String,
}

impl Workers {
    /// Starts as many threads as `nbd` says.
    ///
    /// # Errors
    /// What kept a thread or its engine from starting.
    pub(crate) fn start(nbd: &Nbd, engine: Backend, store: &Store) -> io::Result<Self> {
        let workers = (0..nbd.workers as usize)
            .map(|i| Worker::start(i, engine, store.clone()))
            .collect::<io::Result<_>>()?;
        let live =
            Live { handles: DashMap::new(), next: AtomicU64::new(0), count: watch::Sender::new(0) };
        Ok(Self {
            workers,
            live: Arc::new(live),
            pool: InFlightPool::new(nbd.in_flight_bytes),
            admissions: Admissions::new(nbd.connections_max as usize),
            metrics: Metrics::default(),
            stall: Duration::from_secs(nbd.stall_secs.into()),
        })
    }

    /// Has what the NBD side counts shown.
    pub(crate) fn register(&self, exported: &mut Exported) {
        self.metrics.register(Arc::clone(&self.pool), exported);
    }

    /// A client comes; `None` where it is to be sent away without a word.
    pub(super) fn enter(&self) -> Option<Admission> {
        let admission = self.admissions.enter();
        if admission.as_ref().is_none_or(|admission| admission.check().is_err()) {
            self.metrics.count_refused();
        }
        admission
    }

    /// Connections in transmission.
    pub(crate) fn connections(&self) -> usize {
        self.live.handles.len()
    }

    /// What each worker has to do, in their order; to be looked at again and again.
    pub(crate) fn loads(&self) -> Vec<Arc<Load>> {
        self.workers.iter().map(|worker| Arc::clone(&worker.load)).collect()
    }

    /// That their threads run.
    pub(crate) fn heartbeats(&self) -> Vec<Arc<Heartbeat>> {
        self.workers.iter().map(|worker| worker.thread.heartbeat()).collect()
    }

    /// Gives a connection to a worker.
    pub(super) fn serve(&self, ready: Ready) {
        let worker =
            self.workers.iter().min_by_key(|w| w.load.connections()).expect("there is a worker");
        let live_guard = LiveGuard::take(&self.live, &worker.load, &ready.handle);
        let load = Arc::clone(&worker.load);
        let (pool, metrics, stall) = (Arc::clone(&self.pool), self.metrics.clone(), self.stall);
        worker.thread.handle().spawn(move || async move {
            let Ready {
                socket,
                received,
                negotiated,
                volume,
                traffic,
                guard,
                holder,
                older,
                peer,
                handle,
            } = ready;
            let id = volume.id();
            tracing::debug!(volume = %id, peer, "attached");
            let worker =
                ON_WORKER.with(|worker| Rc::clone(worker.get_or_init(|| OnWorker::new(load))));
            let context = WorkerContext { flow: pool.flow(id, holder), worker: &worker, stall };
            let agreed = Agreed::new(&negotiated, older);
            let socket = Socket::new(socket);
            let connection = Connection::new(
                socket,
                &handle,
                volume,
                traffic,
                negotiated.terms,
                agreed,
                context,
            );
            let reason = connection.run(received).await;
            metrics.count_disconnect(&reason);
            match &reason {
                Disconnect::Aborted(AbortReason::PayloadStalled | AbortReason::ReplyStalled) => {
                    tracing::warn!(volume = %id, peer, reason = %reason, "detached");
                }
                _ => tracing::debug!(volume = %id, peer, reason = %reason, "detached"),
            }
            drop(guard);
            drop(live_guard);
        });
    }

    /// The server stops: what has arrived is answered, then the connections end.
    pub(crate) async fn drain(&self) {
        self.live.handles.iter().for_each(|handle| handle.stop_receiving());
        let mut count = self.live.count.subscribe();
        let ended =
            tokio::time::timeout(Duration::from_secs(DRAIN_SECS_MAX), count.wait_for(|n| *n == 0))
                .await;
        if ended.is_err() {
            tracing::warn!(
                connections = self.connections(),
                "clients keep sending and are cut off"
            );
            self.live.handles.iter().for_each(|handle| handle.disconnect());
            let mut count = self.live.count.subscribe();
            let cut = tokio::time::timeout(
                Duration::from_secs(DRAIN_SECS_MAX),
                count.wait_for(|n| *n == 0),
            )
            .await;
            if cut.is_err() {
                tracing::error!(connections = self.connections(), "connections do not end");
            }
        }
    }

    /// Ends the threads. What still runs on them is dropped.
    pub(crate) fn stop(self) {
        RuntimeThread::stop(self.workers.into_iter().map(|worker| worker.thread));
    }
}

thread_local! {
    /// What this worker's connections have in flight together.
    static ON_WORKER: OnceCell<Rc<OnWorker>> = const { OnceCell::new() };
}

impl Worker {
    fn start(i: usize, engine: Backend, store: Store) -> io::Result<Self> {
        let enter = move || store.attach_runtime();
        let set_up = |runtime: &Runtime| runtime.set_spin(SPIN);
        let thread = RuntimeThread::start(&format!("worker-{i}"), engine, set_up, enter)?;
        Ok(Self { thread, load: Arc::default() })
    }
}

/// A connection's place among the live ones, and in its worker's count.
struct LiveGuard {
    live: Arc<Live>,
    number: u64,
    worker: Arc<Load>,
}

impl LiveGuard {
    fn take(live: &Arc<Live>, worker: &Arc<Load>, handle: &Arc<SocketHandle>) -> Self {
        let number = live.next.fetch_add(1, Relaxed);
        live.handles.insert(number, Arc::clone(handle));
        live.count.send_modify(|n| *n += 1);
        worker.connection_came();
        Self { live: Arc::clone(live), number, worker: Arc::clone(worker) }
    }
}

impl Drop for LiveGuard {
    fn drop(&mut self) {
        self.worker.connection_went();
        self.live.handles.remove(&self.number);
        self.live.count.send_modify(|n| *n -= 1);
    }
}
