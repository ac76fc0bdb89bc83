//! How much may be in flight: requests and bytes, for a connection and for its worker.
//!
//! A full budget stops receiving; nothing is dropped. What a request takes it gives back when its reply has been sent,
//! so a client that does not send what it announced, or does not read its replies, stops its own requests. Several of
//! them can take all of the worker's budget and keep it. So each connection has a little of its own besides: with that
//! the others go on, if not with requests of any size.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::Notify;

/// Requests of a connection in flight, at most. The kernel's client has 128, libnbd's copy 64.
const CONNECTION_REQUESTS_MAX: u32 = 512;
/// Bytes of a connection's payloads in flight, at most: two of the largest.
const CONNECTION_BYTES_MAX: u64 = 128 << 20;
/// Bytes that a connection may have in flight whatever the others of its worker have. Above the requests of common
/// clients (qemu's are 2 MiB at most), and 2 GiB for a thousand clients that all misbehave.
const CONNECTION_BYTES_OWN: u64 = 2 << 20;
/// Requests of a worker's connections in flight, at most.
const WORKER_REQUESTS_MAX: u32 = 16_384;
/// Bytes of a worker's connections in flight, at most.
const WORKER_BYTES_MAX: u64 = 512 << 20;

/// What a worker has to do, for other threads to look at.
#[derive(Debug, Default)]
pub(crate) struct Load {
    connections: AtomicU64,
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Load {
    pub(super) fn connection_came(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(super) fn connection_went(&self) {
        self.connections.fetch_sub(1, Relaxed);
    }

    /// Connections that are its own.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    /// Requests taken in whose replies have not been sent yet.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Bytes of their payloads and replies, at most.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

/// What is in flight of one connection, or of one worker.
#[derive(Debug)]
pub(super) struct Budget {
    requests: Cell<u32>,
    bytes: Cell<u64>,
    requests_max: u32,
    bytes_max: u64,
    /// Needs no room above.
    bytes_own: u64,
    above: Above,
    /// Something was given back.
    freed: Notify,
}

#[derive(Debug)]
enum Above {
    /// That of the connection's worker.
    Worker(Rc<Budget>),
    /// Nothing: this is a worker's, which shows it here.
    Shown(Arc<Load>),
}

impl Budget {
    /// A worker's, which shows itself in `load`.
    pub(super) fn worker(load: Arc<Load>) -> Rc<Self> {
        Self::new(WORKER_REQUESTS_MAX, WORKER_BYTES_MAX, 0, Above::Shown(load))
    }

    pub(super) fn connection(worker: &Rc<Self>) -> Rc<Self> {
        let worker = Above::Worker(Rc::clone(worker));
        Self::new(CONNECTION_REQUESTS_MAX, CONNECTION_BYTES_MAX, CONNECTION_BYTES_OWN, worker)
    }

    fn new(requests_max: u32, bytes_max: u64, bytes_own: u64, above: Above) -> Rc<Self> {
        let (requests, bytes) = (Cell::new(0), Cell::new(0));
        Rc::new(Self { requests, bytes, requests_max, bytes_max, bytes_own, above, freed: Notify::new() })
    }

    fn fits(&self, bytes: u64) -> bool {
        self.requests.get() == 0
            || self.requests.get() < self.requests_max && self.bytes.get() + bytes <= self.bytes_max
    }

    /// Which one, this or the one above, has no room for a request with `bytes` of payload.
    fn full(&self, bytes: u64) -> Option<&Self> {
        if !self.fits(bytes) {
            return Some(self);
        }
        let is_own = self.bytes.get() + bytes <= self.bytes_own;
        match &self.above {
            Above::Worker(worker) if !is_own && !worker.fits(bytes) => Some(worker.as_ref()),
            Above::Worker(_) | Above::Shown(_) => None,
        }
    }

    fn add(&self, bytes: u64) {
        self.requests.set(self.requests.get() + 1);
        self.bytes.set(self.bytes.get() + bytes);
        match &self.above {
            Above::Worker(worker) => worker.add(bytes),
            Above::Shown(load) => self.show(load),
        }
    }

    fn show(&self, load: &Load) {
        load.requests.store(self.requests.get().into(), Relaxed);
        load.bytes.store(self.bytes.get(), Relaxed);
    }

    /// Whether no more than one request is in flight on the same worker.
    pub(super) fn is_alone(&self) -> bool {
        match &self.above {
            Above::Worker(worker) => worker.requests.get() <= 1,
            Above::Shown(_) => self.requests.get() <= 1,
        }
    }

    /// Whether others have requests in flight on the same worker.
    pub(super) fn is_shared(&self) -> bool {
        match &self.above {
            Above::Worker(worker) => worker.requests.get() > self.requests.get(),
            Above::Shown(_) => false,
        }
    }

    /// Lets a request with `bytes` of payload be in flight, if there is room. For a lone one there always is, however
    /// large.
    pub(super) fn try_take(self: &Rc<Self>, bytes: u64) -> Option<Share> {
        if self.full(bytes).is_some() {
            return None;
        }
        self.add(bytes);
        Some(Share { budget: Rc::clone(self), bytes })
    }

    /// Waits until there is room. Dropping the future is safe.
    pub(super) async fn take(self: &Rc<Self>, bytes: u64) -> Share {
        loop {
            if let Some(share) = self.try_take(bytes) {
                return share;
            }
            if let Some(full) = self.full(bytes) {
                full.freed.notified().await;
            }
        }
    }

    /// Waits until nothing is in flight.
    pub(super) async fn empty(&self) {
        while self.requests.get() > 0 {
            self.freed.notified().await;
        }
    }

    fn give_back(&self, bytes: u64) {
        self.requests.set(self.requests.get() - 1);
        self.bytes.set(self.bytes.get() - bytes);
        self.freed.notify_waiters();
        // For the one that is just about to wait.
        self.freed.notify_one();
        match &self.above {
            Above::Worker(worker) => worker.give_back(bytes),
            Above::Shown(load) => self.show(load),
        }
    }
}

/// What one request has taken. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Share {
    budget: Rc<Budget>,
    bytes: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
        match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    fn worker(load: &Arc<Load>) -> Rc<Budget> {
        Budget::new(3, 150, 0, Above::Shown(Arc::clone(load)))
    }

    #[test]
    fn bytes_and_requests_are_bounded_and_a_lone_request_passes() {
        let connection = Budget::new(2, 100, 0, Above::Worker(worker(&Arc::default())));
        let large = ready(connection.take(1000)).expect("alone");
        assert!(ready(connection.take(1)).is_none());
        drop(large);
        let first = ready(connection.take(60)).expect("fits");
        assert!(ready(connection.take(60)).is_none());
        let second = ready(connection.take(40)).expect("fits");
        assert!(ready(connection.take(0)).is_none(), "two requests at most");
        drop((first, second));
        assert!(ready(connection.empty()).is_some());
    }

    #[test]
    fn the_worker_bounds_all_its_connections() {
        let load = Arc::default();
        let worker = worker(&load);
        let [one, two] = [(); 2].map(|()| Budget::new(9, 100, 10, Above::Worker(Rc::clone(&worker))));
        let held = ready(one.take(100)).expect("fits");
        assert_eq!((load.requests(), load.bytes()), (1, 100));
        assert_eq!((one.is_shared(), two.is_shared()), (false, true));
        assert!(one.is_alone() && two.is_alone(), "one request is in flight");
        assert!(ready(two.take(60)).is_none());
        let own = ready(two.take(10)).expect("its own");
        assert!(!one.is_alone() && !two.is_alone());
        assert!(ready(two.take(51)).is_none());
        drop(own);
        drop(held);
        assert!(ready(two.take(60)).is_some());
        assert_eq!((load.requests(), load.bytes()), (0, 0));
    }
}
