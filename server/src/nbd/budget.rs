//! What one connection has in flight: its requests, and the room they take.
//!
//! ```text
//!   a connection   | its own | borrowed of the shared pool, a granule at a time |   + the reserve, for one
//! ```
//!
//! A full budget stops receiving; nothing is dropped. What a request takes it gives back when its
//! reply has been sent, so a client that does not read its replies stops its own requests. A little
//! is each connection's own: with that the others go on whatever the others take. All else comes
//! from the room that the whole server shares.
//!
//! Small requests borrow nothing, or many of them a granule together, so that the data path has no
//! atomic operation for each of them.

use super::in_flight_pool::{Flow, Grant, Reserve};
use crate::process::allocator;
use futures_util::future::{Either, select};
use sandstone_ring::runtime;
use std::{
    cell::Cell,
    pin::pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::Notify;

/// Requests of a connection in flight, at most. The kernel's client has 128, libnbd's copy 64.
const REQUESTS_MAX: u32 = 512;
/// Bytes that a connection may have in flight whatever the others have: a few small requests. Part
/// of what a connection takes in the README's sum.
const OWN_BYTES: u64 = 32 << 10;
/// Borrowed at a time where there is plenty, and kept while more is in use: a deep queue of small
/// requests.
const GRANULE_BYTES: u64 = 256 << 10;

/// What a worker keeps after its load has fallen by this much goes back to the system.
const COLLECT_BYTES: u64 = 16 << 20;
/// How long the load must have been lower.
const COLLECT_AFTER: Duration = Duration::from_secs(1);

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

/// What is in flight on one worker.
#[derive(Debug)]
pub(super) struct OnWorker {
    requests: Cell<u32>,
    bytes: Cell<u64>,
    load: Arc<Load>,
    /// The most bytes since memory was given back, and since it was last looked at.
    most: Cell<u64>,
    most_lately: Cell<u64>,
    is_watched: Cell<bool>,
}

impl OnWorker {
    /// Shows itself in `load`.
    pub(super) fn new(load: Arc<Load>) -> Rc<OnWorker> {
        Rc::new(OnWorker {
            requests: Cell::new(0),
            bytes: Cell::new(0),
            load,
            most: Cell::new(0),
            most_lately: Cell::new(0),
            is_watched: Cell::new(false),
        })
    }

    fn set(self: &Rc<Self>, requests: u32, bytes: u64) {
        self.requests.set(requests);
        self.bytes.set(bytes);
        self.load.requests.store(requests.into(), Relaxed);
        self.load.bytes.store(bytes, Relaxed);
        self.most_lately.set(self.most_lately.get().max(bytes));
        if bytes > self.most.get() {
            self.most.set(bytes);
            if bytes >= COLLECT_BYTES && !self.is_watched.replace(true) {
                runtime::spawn(Rc::clone(self).give_memory_back());
            }
        }
    }

    /// Gives memory back to the system whenever much less is in flight than there was: the
    /// allocator would keep it for as long as the thread has nothing else to do.
    async fn give_memory_back(self: Rc<Self>) {
        while self.most.get() >= COLLECT_BYTES {
            runtime::sleep(COLLECT_AFTER).await;
            let lately = self.most_lately.replace(self.bytes.get());
            if self.most.get() - lately >= COLLECT_BYTES {
                allocator::give_back();
                self.most.set(lately);
            }
        }
        self.is_watched.set(false);
    }
}

/// What is in flight of one connection.
#[derive(Debug)]
pub(super) struct Budget {
    requests: Cell<u32>,
    /// But for what is in the reserve.
    bytes: Cell<u64>,
    /// Of the room: what is needed beyond its own, and a granule at most.
    borrowed: Cell<u64>,
    flow: Arc<Flow>,
    worker: Rc<OnWorker>,
    /// Something was given back.
    freed: Notify,
}

impl Budget {
    pub(super) fn new(flow: Arc<Flow>, worker: &Rc<OnWorker>) -> Rc<Self> {
        Rc::new(Self {
            requests: Cell::new(0),
            bytes: Cell::new(0),
            borrowed: Cell::new(0),
            flow,
            worker: Rc::clone(worker),
            freed: Notify::new(),
        })
    }

    /// Whether no more than one request is in flight on the same worker.
    pub(super) fn is_alone(&self) -> bool {
        self.worker.requests.get() <= 1
    }

    /// Whether others have requests in flight on the same worker.
    pub(super) fn is_shared(&self) -> bool {
        self.worker.requests.get() > self.requests.get()
    }

    /// Requests in flight.
    pub(super) fn requests(&self) -> u32 {
        self.requests.get()
    }

    /// Lets a request with that many bytes be in flight, if there is room.
    pub(super) fn try_take(self: &Rc<Self>, bytes: u64) -> Option<Share> {
        (self.requests.get() < REQUESTS_MAX && self.try_add(bytes)).then(|| self.share(bytes, None))
    }

    /// Waits until there is room. Dropping the future is safe. No two may wait at a time.
    pub(super) async fn take(self: &Rc<Self>, bytes: u64) -> Share {
        while self.requests.get() >= REQUESTS_MAX {
            self.freed.notified().await;
        }
        match self.add(bytes).await {
            None => self.share(bytes, None),
            Some(reserve) => self.share(0, Some(reserve)),
        }
    }

    /// Lets a request be in flight whose bytes are in memory already, and counted there.
    pub(super) fn take_received(self: &Rc<Self>) -> Share {
        self.share(0, None)
    }

    /// Waits until nothing is in flight.
    pub(super) async fn empty(&self) {
        while self.requests.get() > 0 {
            self.freed.notified().await;
        }
    }

    /// `bytes` are counted already.
    fn share(self: &Rc<Self>, bytes: u64, reserve: Option<Reserve>) -> Share {
        self.requests.set(self.requests.get() + 1);
        self.worker.set(self.worker.requests.get() + 1, self.worker.bytes.get() + bytes);
        Share { budget: Rc::clone(self), bytes, reserve }
    }

    /// What would have to be borrowed for that many bytes more.
    fn lacking(&self, bytes: u64) -> u64 {
        let beyond_own = (self.bytes.get() + bytes).saturating_sub(OWN_BYTES);
        beyond_own.saturating_sub(self.borrowed.get())
    }

    fn try_add(&self, bytes: u64) -> bool {
        let lacking = self.lacking(bytes);
        let has_room = lacking == 0
            || (lacking < GRANULE_BYTES
                && self.flow.pool().is_ample()
                && self.try_borrow(GRANULE_BYTES))
            || self.try_borrow(lacking);
        if has_room {
            self.bytes.set(self.bytes.get() + bytes);
        }
        has_room
    }

    fn try_borrow(&self, bytes: u64) -> bool {
        let borrowed = self.flow.try_take(bytes);
        if borrowed {
            self.borrowed.set(self.borrowed.get() + bytes);
        }
        borrowed
    }

    /// Waits for room; the reserve, where that is what was given.
    async fn add(&self, bytes: u64) -> Option<Reserve> {
        if self.try_add(bytes) {
            return None;
        }
        let mut waiting = self.flow.wait(self.lacking(bytes));
        loop {
            // What the connection itself gives back may be enough.
            match select(&mut waiting, pin!(self.freed.notified())).await {
                Either::Left((Grant::Shared(granted), _)) => {
                    self.borrowed.set(self.borrowed.get() + granted);
                    self.bytes.set(self.bytes.get() + bytes);
                    self.give_back_excess();
                    return None;
                }
                Either::Left((Grant::Reserve(reserve), _)) => return Some(reserve),
                Either::Right(_) if self.lacking(bytes) == 0 => {
                    self.bytes.set(self.bytes.get() + bytes);
                    return None;
                }
                Either::Right(_) => {}
            }
        }
    }

    fn give_back(&self, bytes: u64) {
        self.requests.set(self.requests.get() - 1);
        self.bytes.set(self.bytes.get() - bytes);
        self.worker.set(self.worker.requests.get() - 1, self.worker.bytes.get() - bytes);
        self.give_back_excess();
        self.freed.notify_one();
    }

    /// What is borrowed and not needed, but for a granule while something is in flight and there is
    /// plenty.
    fn give_back_excess(&self) {
        let needed = self.bytes.get().saturating_sub(OWN_BYTES);
        let excess = self.borrowed.get().saturating_sub(needed);
        // Whether there is plenty is looked at only where the granule is of no use now.
        let is_in_use = needed > 0 || (self.bytes.get() > 0 && self.flow.pool().is_ample());
        let kept = if is_in_use { GRANULE_BYTES } else { 0 };
        if excess > kept {
            self.borrowed.set(self.borrowed.get() - (excess - kept));
            self.flow.give_back(excess - kept);
        }
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        self.flow.give_back(self.borrowed.get());
    }
}

/// What one request has taken. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Share {
    budget: Rc<Budget>,
    bytes: u64,
    /// All that the request takes beyond `bytes` is there.
    reserve: Option<Reserve>,
}

impl Share {
    /// Whether it has what only one request at a time may have.
    pub(super) fn holds_reserve(&self) -> bool {
        self.reserve.is_some()
    }

    /// Waits until the request may have that many bytes more. Dropping the future is safe.
    pub(super) async fn grow(&mut self, bytes: u64) {
        if self.reserve.is_some() {
            return;
        }
        match self.budget.add(bytes).await {
            None => {
                self.bytes += bytes;
                let worker = &self.budget.worker;
                worker.set(worker.requests.get(), worker.bytes.get() + bytes);
            }
            reserve @ Some(_) => self.reserve = reserve,
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.reserve = None;
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        attachments::Holder,
        nbd::in_flight_pool::{InFlightPool, RESERVE_BYTES},
    };
    use futures_util::FutureExt;
    use sandstone_ring::{Backend, Runtime};
    use uuid::Uuid;

    const MIB: u64 = 1 << 20;

    /// On a worker with 100 MiB to share among its volumes.
    fn on_a_worker(test: impl FnOnce(&Arc<InFlightPool>, &dyn Fn(u128) -> Rc<Budget>, &Load)) {
        let pool = InFlightPool::new(100 * MIB + RESERVE_BYTES);
        let load = Arc::<Load>::default();
        Runtime::new(Backend::Threads).unwrap().block_on(async {
            let worker = OnWorker::new(Arc::clone(&load));
            let connection = |volume: u128| {
                let holder = Holder::Peer(volume.to_string());
                Budget::new(pool.flow(Uuid::from_u128(volume), holder), &worker)
            };
            test(&pool, &connection, &load);
        });
        assert_eq!((pool.taken_bytes(), load.requests(), load.bytes()), (0, 0, 0));
    }

    #[test]
    fn small_requests_borrow_nothing_and_many_of_them_a_granule() {
        on_a_worker(|pool, connection, load| {
            let connection = connection(1);
            let few: Vec<_> = (0..8).map(|_| connection.try_take(4096).expect("its own")).collect();
            assert_eq!((pool.taken_bytes(), load.requests(), load.bytes()), (0, 8, 8 * 4096));
            let many: Vec<_> =
                (0..32).map(|_| connection.try_take(4096).expect("a granule")).collect();
            assert_eq!(pool.taken_bytes(), GRANULE_BYTES);
            drop((few, many));
            assert_eq!(pool.taken_bytes(), 0, "nothing is in flight");
        });
    }

    #[test]
    fn requests_are_bounded_however_small() {
        on_a_worker(|_, connection, _| {
            let connection = connection(1);
            let mut all: Vec<_> =
                (0..REQUESTS_MAX).map(|_| connection.try_take(1).expect("room")).collect();
            assert!(
                connection.try_take(1).is_none() && connection.take(1).now_or_never().is_none()
            );
            all.pop();
            assert!(connection.take(1).now_or_never().is_some());
        });
    }

    #[test]
    fn a_connection_goes_on_with_its_own_when_all_else_is_taken() {
        on_a_worker(|pool, connection, load| {
            let hogs: Vec<_> = (0..30).map(connection).collect();
            let _held: Vec<_> = hogs
                .iter()
                .flat_map(|hog| std::iter::from_fn(|| hog.try_take(MIB / 4)).collect::<Vec<_>>())
                .collect();
            let _reserve = hogs[0].take(64 * MIB).now_or_never().expect("the reserve is free");
            let (same, other) = (connection(99), connection(99));
            let _taken: Vec<_> = std::iter::from_fn(|| same.try_take(4096)).collect();
            assert!(pool.taken_bytes() > 97 * MIB + RESERVE_BYTES);
            let before = load.requests();
            let own = other.try_take(OWN_BYTES).expect("its own");
            let mut more = Box::pin(other.take(OWN_BYTES));
            assert!((&mut more).now_or_never().is_none(), "no more than that");
            drop(own);
            drop(more.now_or_never().expect("its own is free again"));
            assert_eq!(load.requests(), before);
        });
    }

    #[test]
    fn payloads_that_took_all_there_is_are_done_one_after_the_other() {
        on_a_worker(|_, connection, load| {
            let connections = [1, 2, 3].map(connection);
            let mut shares =
                connections.each_ref().map(|c| c.take(MIB).now_or_never().expect("room"));
            // A MiB each in turn, until none gets more.
            loop {
                let grown = shares.each_mut().map(|share| {
                    share.reserve.is_none() && share.grow(MIB).now_or_never().is_some()
                });
                if grown == [false; 3] {
                    break;
                }
            }
            assert!(load.bytes() >= 74 * MIB, "{}", load.bytes());
            let (in_reserve, waiting): (Vec<_>, Vec<_>) =
                shares.into_iter().partition(|share| share.reserve.is_some());
            assert_eq!((in_reserve.len(), waiting.len()), (1, 2), "one of them goes on");
            drop(in_reserve);
            for mut share in waiting {
                // What the one before it had is free.
                for _ in 0..40 {
                    share.grow(MIB).now_or_never().expect("room, or the reserve");
                }
            }
        });
    }

    #[test]
    fn memory_is_given_back_once_much_less_is_in_flight() {
        Runtime::simulated(1).block_on(async {
            let worker = OnWorker::new(Arc::default());
            worker.set(1, COLLECT_BYTES);
            runtime::sleep(COLLECT_AFTER * 5).await;
            assert_eq!(
                (worker.most.get(), worker.is_watched.get()),
                (COLLECT_BYTES, true),
                "it is in use"
            );
            worker.set(0, 0);
            runtime::sleep(COLLECT_AFTER * 4).await;
            assert_eq!((worker.most.get(), worker.is_watched.get()), (0, false));
        });
    }
}
