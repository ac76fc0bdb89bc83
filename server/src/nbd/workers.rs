//! The workers: one thread, one runtime, one ring each. A connection goes to the one that has fewest.

use super::{
    admission::{Admission, Admissions},
    budget::{Load, OnWorker},
    connection::{Connection, Placed},
    dispatch::Agreed,
    ending::Ending,
    loss::Lost,
    numbers::Numbers,
    room::Room,
    wire::Wire,
};
use crate::{
    attachments::{AttachedGuard, Holder, Line},
    runtime_thread::RuntimeThread,
    traffic::Traffic,
    watchdog::Heartbeat,
};
use bytes::BytesMut;
use dashmap::DashMap;
use prometheus_client::registry::Registry as Exported;
use sandstone_config::Nbd;
use sandstone_protocol::Negotiated;
use sandstone_storage::{Engine, Runtime, Socket, Store, Volume};
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

/// How long clients may keep sending while the server stops. Then they are cut off.
const DRAIN_SECS_MAX: u64 = 5;

/// Longest look for the next request before a worker sleeps; only where requests follow each other closely.
const SPIN: Duration = Duration::from_micros(60);

/// All workers, and the connections they serve.
pub(crate) struct Workers {
    workers: Vec<Worker>,
    live: Arc<Live>,
    room: Arc<Room>,
    admissions: Arc<Admissions>,
    numbers: Numbers,
    stall: Duration,
}

struct Worker {
    thread: RuntimeThread,
    load: Arc<Load>,
}

/// The connections in transmission.
struct Live {
    wires: DashMap<u64, Arc<Wire>>,
    next: AtomicU64,
    count: watch::Sender<usize>,
}

/// A connection that has finished its handshake.
pub(super) struct Ready {
    pub(super) socket: OwnedFd,
    pub(super) wire: Arc<Wire>,
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
    pub(crate) fn start(nbd: &Nbd, engine: Engine, store: &Store) -> io::Result<Self> {
        let workers = (0..nbd.workers as usize)
            .map(|i| Worker::start(i, engine, store.clone()))
            .collect::<io::Result<_>>()?;
        let live = Live { wires: DashMap::new(), next: AtomicU64::new(0), count: watch::Sender::new(0) };
        Ok(Self {
            workers,
            live: Arc::new(live),
            room: Room::new(nbd.in_flight_bytes),
            admissions: Admissions::new(nbd.connections_max as usize),
            numbers: Numbers::default(),
            stall: Duration::from_secs(nbd.stall_secs.into()),
        })
    }

    /// Has what the NBD side counts shown.
    pub(crate) fn register(&self, exported: &mut Exported) {
        self.numbers.register(Arc::clone(&self.room), exported);
    }

    /// A client comes; `None` where it is to be sent away without a word.
    pub(super) fn enter(&self) -> Option<Admission> {
        let admission = self.admissions.enter();
        if admission.as_ref().is_none_or(|admission| admission.check().is_err()) {
            self.numbers.count_refused();
        }
        admission
    }

    /// Connections in transmission.
    pub(crate) fn connections(&self) -> usize {
        self.live.wires.len()
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
        let worker = self.workers.iter().min_by_key(|w| w.load.connections()).expect("there is a worker");
        let place = Place::take(&self.live, &worker.load, &ready.wire);
        let load = Arc::clone(&worker.load);
        let (room, numbers, stall) = (Arc::clone(&self.room), self.numbers.clone(), self.stall);
        worker.thread.handle().spawn(move || async move {
            let Ready { socket, received, negotiated, volume, traffic, guard, holder, older, peer, wire } =
                ready;
            let id = volume.id();
            tracing::debug!(volume = %id, peer, "attached");
            let worker = ON_WORKER.with(|worker| Rc::clone(worker.get_or_init(|| OnWorker::new(load))));
            let placed = Placed { party: room.party(id, holder), worker: &worker, stall };
            let agreed = Agreed::new(&negotiated, older);
            let socket = Socket::new(socket);
            let connection =
                Connection::new(socket, &wire, volume, traffic, negotiated.terms, agreed, placed);
            let ending = connection.run(received).await;
            numbers.count_ending(&ending);
            match &ending {
                Ending::Lost(Lost::PayloadStalled | Lost::ReplyStalled) => {
                    tracing::warn!(volume = %id, peer, reason = %ending, "detached");
                }
                _ => tracing::debug!(volume = %id, peer, reason = %ending, "detached"),
            }
            drop(guard);
            drop(place);
        });
    }

    /// The server stops: what has arrived is answered, then the connections end.
    pub(crate) async fn drain(&self) {
        self.live.wires.iter().for_each(|wire| wire.stop_receiving());
        let mut count = self.live.count.subscribe();
        let ended =
            tokio::time::timeout(Duration::from_secs(DRAIN_SECS_MAX), count.wait_for(|n| *n == 0)).await;
        if ended.is_err() {
            tracing::warn!(connections = self.connections(), "clients keep sending and are cut off");
            self.live.wires.iter().for_each(|wire| wire.cut_off());
            let mut count = self.live.count.subscribe();
            let cut =
                tokio::time::timeout(Duration::from_secs(DRAIN_SECS_MAX), count.wait_for(|n| *n == 0)).await;
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
    fn start(i: usize, engine: Engine, store: Store) -> io::Result<Self> {
        let enter = move || store.attach_runtime();
        let set_up = |runtime: &Runtime| runtime.set_spin(SPIN);
        let thread = RuntimeThread::start(&format!("worker-{i}"), engine, set_up, enter)?;
        Ok(Self { thread, load: Arc::default() })
    }
}

/// A connection's place among the live ones, and in its worker's count.
struct Place {
    live: Arc<Live>,
    number: u64,
    worker: Arc<Load>,
}

impl Place {
    fn take(live: &Arc<Live>, worker: &Arc<Load>, wire: &Arc<Wire>) -> Self {
        let number = live.next.fetch_add(1, Relaxed);
        live.wires.insert(number, Arc::clone(wire));
        live.count.send_modify(|n| *n += 1);
        worker.connection_came();
        Self { live: Arc::clone(live), number, worker: Arc::clone(worker) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.worker.connection_went();
        self.live.wires.remove(&self.number);
        self.live.count.send_modify(|n| *n -= 1);
    }
}
