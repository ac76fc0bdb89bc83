//! Room for what is in flight: one number of bytes for the whole server (`nbd.in_flight`), which
//! all workers share.
//!
//! ```text
//!   nbd.in_flight  | shared by all flows: taken, given back ............ | reserve: one request |
//!                                   │ nothing left for this one
//!                                   ▼
//!                 queue: the flows in turn, each with its waiting requests in their order
//! ```
//!
//! A *flow* takes room: the connections of one holder (a mount, or a peer) to one volume.
//!
//! I1  What is shared is never more than there is, and the reserve holds one request at a time. So
//!     all of it is never more than `nbd.in_flight`.
//! I2  After each taking a volume has at most as much as is left free, and a holder at most
//!     [`HOLDER_SHARES`] times as much. So one volume gets half of what there is, and n of them
//!     that take all they can leave the next one an n-th of it, but for one: no flow takes
//!     everything, and future flows need not be known. ("Dynamic thresholds", Choudhury and Hahne,
//!     1998: the rule by which switches share their buffers.)
//! I3  A request that finds no room waits in the queue. Flows have their turns, so that one with
//!     many requests waits for others no less than they for it.
//! I4  Where no flow's next request fits, the one whose turn it is gets the reserve, for all that
//!     it still needs. The largest request fits there.
//! I5  Giving back looks for waiters after it has given, and waiting looks whether there is room
//!     after it has told that it waits, both in one order for all threads (SeqCst): one of them
//!     sees the other.
//!
//! Nothing stands still for ever: a payload that comes in keeps what it has while it waits for
//! more, so that several can take all there is. But the one in the reserve needs nothing more than
//! its client, and a client that neither sends nor takes anything is disconnected after
//! `nbd.stall`. Then it is another one's turn.
//!
//! What is shared is taken and given back without a lock, as long as no request waits.

use crate::attachments::Holder;
use sandstone_config::ranges;
use sandstone_protocol::limits;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*},
    },
    task::{Context, Poll, ready},
};
use tokio::sync::oneshot;
use uuid::Uuid;

/// What the largest request takes: its bytes, a quarter of them for the books of a read, and some.
pub(super) const RESERVE_BYTES: u64 = limits::PAYLOAD_BYTES_MAX as u64 / 4 * 5 + (1 << 20);
const _: () = assert!(ranges::IN_FLIGHT.bytes_min > RESERVE_BYTES + (32 << 20));

/// A holder may have this many times what is left free: four fifths of all, where it is alone. More
/// than a volume, because an address may stand for many clients.
const HOLDER_SHARES: u64 = 4;

/// The part of what is shared that larger receive buffers may take together: they make it faster
/// for the connections that have them, and a silent connection keeps them.
const BUFFERS_PART: u64 = 8;

/// See the module.
#[derive(Debug)]
pub(crate) struct InFlightPool {
    shared_bytes_max: u64,
    shared_bytes: AtomicU64,
    /// Of those, what receive buffers have.
    buffer_bytes: AtomicU64,
    reserve_is_taken: AtomicBool,
    /// Requests in line.
    waiting: AtomicUsize,
    queue: Mutex<WaitQueue>,
    flows: Mutex<Flows>,
}

/// The requests that wait.
#[derive(Debug, Default)]
struct WaitQueue {
    /// The flows with a waiting request, by their turn.
    turns: VecDeque<u64>,
    waiters: HashMap<u64, VecDeque<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    flow: Arc<Flow>,
    bytes: u64,
    granted: oneshot::Sender<Grant>,
}

/// The flows that have connections.
#[derive(Debug, Default)]
struct Flows {
    next: u64,
    volumes: BTreeMap<Uuid, Weak<AtomicU64>>,
    holders: BTreeMap<Holder, Weak<AtomicU64>>,
    flows: BTreeMap<(Uuid, Holder), Weak<Flow>>,
}

/// Connections of one holder to one volume.
#[derive(Debug)]
pub(super) struct Flow {
    pool: Arc<InFlightPool>,
    number: u64,
    name: (Uuid, Holder),
    /// What all flows of the volume have.
    volume_bytes: Arc<AtomicU64>,
    /// What all flows of the holder have.
    holder_bytes: Arc<AtomicU64>,
}

/// What a waiting request got.
#[derive(Debug)]
pub(super) enum Grant {
    /// Of what is shared; to be given back by hand.
    Shared(u64),
    Reserve(Reserve),
}

/// The reserve, until it is dropped.
#[derive(Debug)]
pub(super) struct Reserve {
    pool: Arc<InFlightPool>,
}

/// A request in line. Dropped, it leaves it.
#[derive(Debug)]
pub(super) struct Waiting {
    flow: Arc<Flow>,
    /// `None` once it was granted.
    granted: Option<oneshot::Receiver<Grant>>,
}

impl InFlightPool {
    /// Of that many bytes.
    ///
    /// # Panics
    /// With fewer than the configuration allows.
    pub(super) fn new(bytes: u64) -> Arc<InFlightPool> {
        let shared_bytes_max =
            bytes.checked_sub(RESERVE_BYTES).expect("the configuration allows no less");
        Arc::new(InFlightPool {
            shared_bytes_max,
            shared_bytes: AtomicU64::new(0),
            buffer_bytes: AtomicU64::new(0),
            reserve_is_taken: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            queue: Mutex::default(),
            flows: Mutex::default(),
        })
    }

    /// The flow of the connections of `holder` to `volume`.
    pub(super) fn flow(self: &Arc<InFlightPool>, volume: Uuid, holder: Holder) -> Arc<Flow> {
        let mut flows = self.flows();
        let name = (volume, holder);
        if let Some(flow) = flows.flows.get(&name).and_then(Weak::upgrade) {
            return flow;
        }
        let volume_bytes = tally(&mut flows.volumes, &name.0);
        let holder_bytes = tally(&mut flows.holders, &name.1);
        let number = flows.next;
        flows.next += 1;
        let flow = Flow { pool: Arc::clone(self), number, name, volume_bytes, holder_bytes };
        let flow = Arc::new(flow);
        flows.flows.insert(flow.name.clone(), Arc::downgrade(&flow));
        flow
    }

    /// Bytes that are taken. The reserve counts as a whole.
    pub(super) fn taken_bytes(&self) -> u64 {
        let reserve = if self.reserve_is_taken.load(Relaxed) { RESERVE_BYTES } else { 0 };
        self.shared_bytes.load(Relaxed) + reserve
    }

    /// Requests that wait for room.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Whether there is plenty, so that taking more than is needed now delays no request.
    pub(super) fn is_ample(&self) -> bool {
        self.shared_bytes.load(Relaxed) < self.shared_bytes_max / 2
    }

    /// Takes room for a larger receive buffer, where there is plenty.
    pub(super) fn try_take_buffer(&self, bytes: u64) -> bool {
        let buffers = self.buffer_bytes.fetch_add(bytes, Relaxed) + bytes;
        if buffers > self.shared_bytes_max / BUFFERS_PART || !self.is_ample() {
            self.buffer_bytes.fetch_sub(bytes, Relaxed);
            return false;
        }
        self.shared_bytes.fetch_add(bytes, SeqCst);
        true
    }

    pub(super) fn give_back_buffer(&self, bytes: u64) {
        self.buffer_bytes.fetch_sub(bytes, Relaxed);
        self.shared_bytes.fetch_sub(bytes, SeqCst);
        self.serve_queue();
    }

    /// Lets those go on who can.
    fn serve_queue(self: &InFlightPool) {
        if self.waiting.load(SeqCst) == 0 {
            return; // keeps I5
        }
        let mut granted = Vec::new();
        {
            let mut queue = self.queue();
            while self.serve_each_flow(&mut queue, &mut granted) {}
            self.waiting.store(queue.waiters.values().map(VecDeque::len).sum(), SeqCst);
        }
        // Without the lock, because one that is gone gives back what it gets, and comes here again.
        for (waiter, grant) in granted {
            if let Err(Grant::Shared(bytes)) = waiter.granted.send(grant) {
                waiter.flow.give_back(bytes);
            }
        }
    }

    /// One turn of each flow that waits. Whether any got something.
    fn serve_each_flow(&self, queue: &mut WaitQueue, granted: &mut Vec<(Waiter, Grant)>) -> bool {
        let before = granted.len();
        let (mut passed, mut served) = (VecDeque::new(), VecDeque::new());
        while let Some(number) = queue.turns.pop_front() {
            let waiters =
                queue.waiters.get_mut(&number).expect("a flow has its turn while it waits");
            waiters.retain(|waiter| !waiter.granted.is_closed());
            let fits = waiters.front().is_some_and(|next| next.flow.try_add(next.bytes));
            if fits && let Some(next) = waiters.pop_front() {
                let grant = Grant::Shared(next.bytes);
                granted.push((next, grant));
            }
            match (waiters.is_empty(), fits) {
                (true, _) => drop(queue.waiters.remove(&number)),
                (false, true) => served.push_back(number),
                (false, false) => passed.push_back(number),
            }
        }
        if let Some(first) = passed.front().copied()
            && !self.reserve_is_taken.swap(true, SeqCst)
        {
            let waiters = queue.waiters.get_mut(&first).expect("it was passed by a moment ago");
            let next = waiters.pop_front().expect("it was passed by a moment ago");
            let grant = Grant::Reserve(Reserve { pool: Arc::clone(&next.flow.pool) });
            granted.push((next, grant));
            passed.pop_front();
            if waiters.is_empty() {
                queue.waiters.remove(&first);
            } else {
                served.push_back(first);
            }
        }
        passed.append(&mut served);
        queue.turns = passed;
        granted.len() > before
    }

    fn queue(&self) -> MutexGuard<'_, WaitQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flows(&self) -> MutexGuard<'_, Flows> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The count that all of one name share, as long as any of them is there.
fn tally<K: Ord + Clone>(tallies: &mut BTreeMap<K, Weak<AtomicU64>>, name: &K) -> Arc<AtomicU64> {
    if let Some(tally) = tallies.get(name).and_then(Weak::upgrade) {
        return tally;
    }
    let tally = Arc::new(AtomicU64::new(0));
    tallies.insert(name.clone(), Arc::downgrade(&tally));
    tally
}

impl Flow {
    pub(super) fn pool(&self) -> &Arc<InFlightPool> {
        &self.pool
    }

    /// Takes that much, if this is not more than its share and no request of the flow waits.
    pub(super) fn try_take(&self, bytes: u64) -> bool {
        if self.pool.waiting.load(SeqCst) > 0
            && self.pool.queue().waiters.contains_key(&self.number)
        {
            return false; // keeps I3
        }
        let taken = self.try_add(bytes);
        if !taken {
            // What was taken for a moment may have been what another one lacked.
            self.pool.serve_queue();
        }
        taken
    }

    /// Waits in line for that much.
    pub(super) fn wait(self: &Arc<Flow>, bytes: u64) -> Waiting {
        let (granted, waiting) = oneshot::channel();
        {
            let mut queue = self.pool.queue();
            let waiter = Waiter { flow: Arc::clone(self), bytes, granted };
            let WaitQueue { turns, waiters } = &mut *queue;
            let waiters = waiters.entry(self.number).or_default();
            if waiters.is_empty() {
                turns.push_back(self.number);
            }
            waiters.push_back(waiter);
            self.pool.waiting.fetch_add(1, SeqCst); // keeps I5
        }
        self.pool.serve_queue();
        Waiting { flow: Arc::clone(self), granted: Some(waiting) }
    }

    /// Keeps I1 and I2.
    fn try_add(&self, bytes: u64) -> bool {
        let is_within = |shared: u64, of_volume: u64, of_holder: u64| {
            let free = self.pool.shared_bytes_max.checked_sub(shared);
            free.is_some_and(|free| of_volume <= free && of_holder <= HOLDER_SHARES * free)
        };
        let tallies = [&self.pool.shared_bytes, &*self.volume_bytes, &*self.holder_bytes];
        // A look first, so that a request that does not fit delays no other.
        let [shared, of_volume, of_holder] = tallies.map(|tally| tally.load(SeqCst) + bytes);
        if !is_within(shared, of_volume, of_holder) {
            return false;
        }
        let [shared, of_volume, of_holder] =
            tallies.map(|tally| tally.fetch_add(bytes, SeqCst) + bytes);
        if !is_within(shared, of_volume, of_holder) {
            for tally in tallies {
                tally.fetch_sub(bytes, SeqCst);
            }
            return false;
        }
        true
    }

    pub(super) fn give_back(&self, bytes: u64) {
        for tally in [&self.pool.shared_bytes, &*self.volume_bytes, &*self.holder_bytes] {
            tally.fetch_sub(bytes, SeqCst);
        }
        self.pool.serve_queue();
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let mut flows = self.pool.flows();
        // Another one of that name may have come meanwhile.
        if flows.flows.get(&self.name).is_some_and(|flow| flow.strong_count() == 0) {
            flows.flows.remove(&self.name);
        }
        let (volume, holder) = &self.name;
        if Arc::strong_count(&self.volume_bytes) == 1 {
            flows.volumes.remove(volume);
        }
        if Arc::strong_count(&self.holder_bytes) == 1 {
            flows.holders.remove(holder);
        }
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        self.pool.reserve_is_taken.store(false, SeqCst);
        self.pool.serve_queue();
    }
}

impl Future for Waiting {
    type Output = Grant;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Grant> {
        let granted = self.granted.as_mut().expect("what was granted is not asked for again");
        let grant = ready!(Pin::new(granted).poll(cx))
            .expect("who waits stays in line until it gets something");
        self.granted = None;
        Poll::Ready(grant)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(mut granted) = self.granted.take() else { return };
        granted.close();
        match granted.try_recv() {
            Ok(Grant::Shared(bytes)) => self.flow.give_back(bytes),
            Ok(Grant::Reserve(reserve)) => drop(reserve),
            // It is still in line, and goes with the next look.
            Err(_) => self.flow.pool.serve_queue(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::thread;

    const MIB: u64 = 1 << 20;

    /// With 100 MiB to share.
    fn pool() -> Arc<InFlightPool> {
        InFlightPool::new(100 * MIB + RESERVE_BYTES)
    }

    fn peer(name: &str) -> Holder {
        Holder::Peer(name.to_owned())
    }

    fn flows<const N: usize>(
        pool: &Arc<InFlightPool>,
        holder: impl Fn(usize) -> Holder,
    ) -> [Arc<Flow>; N] {
        std::array::from_fn(|i| pool.flow(Uuid::from_u128(i as u128), holder(i)))
    }

    /// Takes MiB after MiB.
    fn take_all(flow: &Flow) -> u64 {
        (0..).take_while(|_| flow.try_take(MIB)).count() as u64
    }

    #[test]
    fn a_volume_gets_half_and_leaves_the_next_one_half_of_the_rest() {
        let pool = pool();
        let volumes: [_; 4] = flows(&pool, |i| peer(&i.to_string()));
        let taken: Vec<u64> = volumes.iter().map(|volume| take_all(volume)).collect();
        assert_eq!(taken, [50, 25, 12, 6]);
        volumes.iter().zip(taken).for_each(|(volume, taken)| volume.give_back(taken * MIB));
        assert_eq!(pool.taken_bytes(), 0);
        assert_eq!(take_all(&volumes[3]), 50);
    }

    #[test]
    fn a_holder_of_many_volumes_leaves_the_others_a_fifth() {
        let pool = pool();
        let of_one: [_; 9] = flows(&pool, |_| peer("greedy"));
        let taken: u64 = of_one.iter().map(|flow| take_all(flow)).sum();
        assert_eq!(taken, 80);
        let other = pool.flow(Uuid::from_u128(99), peer("modest"));
        assert_eq!(take_all(&other), 10);
        let same_volume = pool.flow(Uuid::from_u128(99), peer("another"));
        assert_eq!(take_all(&same_volume), 0, "a volume's holders share what it may have");
    }

    #[test]
    fn one_that_finds_no_room_gets_the_lane_and_the_next_waits_for_it() {
        let pool = pool();
        let [one, two] = flows(&pool, |i| peer(&i.to_string()));
        let large = 64 * MIB;
        let mut first = one.wait(large);
        let Some(Grant::Reserve(reserve)) = (&mut first).now_or_never() else {
            panic!("the reserve is free")
        };
        assert_eq!(pool.taken_bytes(), RESERVE_BYTES);
        let mut second = two.wait(large);
        assert!((&mut second).now_or_never().is_none());
        assert!(one.try_take(MIB), "what is shared is still there");
        drop(reserve);
        assert!(matches!((&mut second).now_or_never(), Some(Grant::Reserve(_))));
    }

    #[test]
    fn what_is_given_back_goes_to_the_parties_in_turn() {
        let pool = pool();
        let [hog, one, two] = flows(&pool, |i| peer(&i.to_string()));
        assert_eq!(take_all(&hog), 50);
        let reserve = one.wait(64 * MIB).now_or_never().expect("the reserve is free");
        // More than a quarter of what is free.
        let mut waiting: Vec<_> = [&one, &one, &two].map(|flow| flow.wait(26 * MIB)).into();
        assert_eq!(pool.waiting(), 3);
        assert!(!one.try_take(MIB), "it would pass those that wait before it");
        hog.give_back(10 * MIB);
        let got: Vec<bool> = waiting.iter_mut().map(|one| one.now_or_never().is_some()).collect();
        assert_eq!(got, [true, false, false], "40 and 26 of 100 are taken");
        hog.give_back(40 * MIB);
        let rest: Vec<bool> =
            waiting[1..].iter_mut().map(|one| one.now_or_never().is_some()).collect();
        assert_eq!(rest, [false, true], "it is the other one's turn");
        drop(reserve);
        assert!(matches!((&mut waiting[1]).now_or_never(), Some(Grant::Reserve(_))));
        assert_eq!(pool.waiting(), 0);
    }

    #[test]
    fn who_leaves_the_line_or_what_it_got_is_in_nobodys_way() {
        let pool = pool();
        let [hog, one, two] = flows(&pool, |i| peer(&i.to_string()));
        assert_eq!(take_all(&hog), 50);
        let reserve = one.wait(64 * MIB);
        let gone = one.wait(30 * MIB);
        let mut stays = two.wait(30 * MIB);
        drop(gone);
        assert_eq!(pool.waiting(), 1);
        assert!((&mut stays).now_or_never().is_none());
        drop(reserve); // which had the reserve, and never looked
        assert!(matches!((&mut stays).now_or_never(), Some(Grant::Reserve(_))));
        hog.give_back(50 * MIB);
        assert_eq!(pool.taken_bytes(), 0);
    }

    #[test]
    fn receive_buffers_take_a_small_part_and_nothing_where_room_is_short() {
        let pool = pool();
        assert!(pool.try_take_buffer(12 * MIB) && !pool.try_take_buffer(MIB));
        pool.give_back_buffer(12 * MIB);
        let [hog] = flows(&pool, |_| peer("hog"));
        assert_eq!(take_all(&hog), 50);
        assert!(!pool.try_take_buffer(MIB));
    }

    #[test]
    fn names_without_connections_are_forgotten() {
        let pool = pool();
        let [one, two] = flows(&pool, |_| peer("both"));
        drop(one);
        assert_eq!(pool.flows().holders.len(), 1);
        drop(two);
        let flows = pool.flows();
        assert!(flows.flows.is_empty() && flows.volumes.is_empty() && flows.holders.is_empty());
    }

    #[test]
    fn threads_that_take_and_give_back_never_leave_anybody_waiting() {
        let pool = pool();
        thread::scope(|scope| {
            for thread in 0..4 {
                let pool = &pool;
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    let flow = pool.flow(Uuid::from_u128(thread), peer("all"));
                    for i in 0..2000 {
                        let bytes = (1 + (i * 7 + thread as u64) % 40) * MIB;
                        if flow.try_take(bytes) {
                            flow.give_back(bytes);
                            continue;
                        }
                        match runtime.block_on(flow.wait(bytes)) {
                            Grant::Shared(bytes) => flow.give_back(bytes),
                            Grant::Reserve(reserve) => drop(reserve),
                        }
                    }
                });
            }
        });
        assert_eq!((pool.taken_bytes(), pool.waiting()), (0, 0));
    }
}
