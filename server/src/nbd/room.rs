//! Room for what is in flight: one number of bytes for the whole server (`nbd.in_flight`), which all workers share.
//!
//! ```text
//!   nbd.in_flight  | shared by all parties: taken, given back ............ | lane: one request |
//!                                   │ nothing left for this one
//!                                   ▼
//!                  line: the parties in turn, each with its waiting requests in their order
//! ```
//!
//! Who takes room is a *party*: the connections of one holder (a mount, or a peer) to one volume.
//!
//! I1  What is shared is never more than there is, and the lane holds one request at a time. So all of it is never more
//!     than `nbd.in_flight`.
//! I2  After each taking a volume has at most as much as is left free, and a holder at most [`HOLDER_SHARES`] times as much.
//!     So one volume gets half of what there is, and n of them that take all they can leave the next one an n-th of it, but
//!     for one: nobody takes everything, and nothing has to be known of who will come. ("Dynamic thresholds", Choudhury and
//!     Hahne, 1998: the rule by which switches share their buffers.)
//! I3  Who finds no room waits in line. Parties have their turns, so that one with many requests waits for others no less
//!     than they for it.
//! I4  Where no party's next request fits, the one whose turn it is gets the lane, for all that it still needs. The largest
//!     request fits there.
//! I5  Giving back looks whether somebody waits after it has given, and waiting looks whether there is room after it has
//!     told that it waits, both in one order for all threads (SeqCst): one of them sees the other.
//!
//! Nothing stands still for ever: a payload that comes in keeps what it has while it waits for more, so that several can
//! take all there is. But the one in the lane needs nothing more of anybody than its client, and a client that neither sends
//! nor takes anything is cut off after `nbd.stall`. Then it is another one's turn.
//!
//! What is shared is taken and given back without a lock, as long as nobody waits.

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
pub(super) const LANE_BYTES: u64 = limits::PAYLOAD_BYTES_MAX as u64 / 4 * 5 + (1 << 20);
const _: () = assert!(ranges::IN_FLIGHT.bytes_min > LANE_BYTES + (32 << 20));

/// A holder may have this many times what is left free: four fifths of all, where it is alone. More than a volume, because
/// an address may stand for many clients.
const HOLDER_SHARES: u64 = 4;

/// The part of what is shared that larger receive buffers may take together: they make it faster for those who have them,
/// and who falls silent keeps them.
const BUFFERS_PART: u64 = 8;

/// See the module.
#[derive(Debug)]
pub(crate) struct Room {
    shared_bytes_max: u64,
    shared_bytes: AtomicU64,
    /// Of those, what receive buffers have.
    buffer_bytes: AtomicU64,
    lane_is_taken: AtomicBool,
    /// Requests in line.
    waiting: AtomicUsize,
    line: Mutex<Line>,
    parties: Mutex<Parties>,
}

/// Those that wait.
#[derive(Debug, Default)]
struct Line {
    /// The parties of which somebody waits, by their turn.
    turns: VecDeque<u64>,
    waiters: HashMap<u64, VecDeque<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    party: Arc<Party>,
    bytes: u64,
    granted: oneshot::Sender<Grant>,
}

/// The parties that have connections.
#[derive(Debug, Default)]
struct Parties {
    next: u64,
    volumes: BTreeMap<Uuid, Weak<AtomicU64>>,
    holders: BTreeMap<Holder, Weak<AtomicU64>>,
    parties: BTreeMap<(Uuid, Holder), Weak<Party>>,
}

/// Connections of one holder to one volume.
#[derive(Debug)]
pub(super) struct Party {
    room: Arc<Room>,
    number: u64,
    name: (Uuid, Holder),
    /// What all parties of the volume have.
    volume_bytes: Arc<AtomicU64>,
    /// What all parties of the holder have.
    holder_bytes: Arc<AtomicU64>,
}

/// What somebody who waited got.
#[derive(Debug)]
pub(super) enum Grant {
    /// Of what is shared; to be given back by hand.
    Shared(u64),
    Lane(Lane),
}

/// The lane, until it is dropped.
#[derive(Debug)]
pub(super) struct Lane {
    room: Arc<Room>,
}

/// A request in line. Dropped, it leaves it.
#[derive(Debug)]
pub(super) struct Waiting {
    party: Arc<Party>,
    /// `None` once it was granted.
    granted: Option<oneshot::Receiver<Grant>>,
}

impl Room {
    /// Of that many bytes.
    ///
    /// # Panics
    /// With fewer than the configuration allows.
    pub(super) fn new(bytes: u64) -> Arc<Room> {
        let shared_bytes_max = bytes.checked_sub(LANE_BYTES).expect("the configuration allows no less");
        Arc::new(Room {
            shared_bytes_max,
            shared_bytes: AtomicU64::new(0),
            buffer_bytes: AtomicU64::new(0),
            lane_is_taken: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            line: Mutex::default(),
            parties: Mutex::default(),
        })
    }

    /// The party of those who are connected as `holder` to `volume`.
    pub(super) fn party(self: &Arc<Room>, volume: Uuid, holder: Holder) -> Arc<Party> {
        let mut parties = self.parties();
        let name = (volume, holder);
        if let Some(party) = parties.parties.get(&name).and_then(Weak::upgrade) {
            return party;
        }
        let volume_bytes = tally(&mut parties.volumes, &name.0);
        let holder_bytes = tally(&mut parties.holders, &name.1);
        let number = parties.next;
        parties.next += 1;
        let party = Party { room: Arc::clone(self), number, name, volume_bytes, holder_bytes };
        let party = Arc::new(party);
        parties.parties.insert(party.name.clone(), Arc::downgrade(&party));
        party
    }

    /// Bytes that are taken. The lane counts as a whole.
    pub(super) fn taken_bytes(&self) -> u64 {
        let lane = if self.lane_is_taken.load(Relaxed) { LANE_BYTES } else { 0 };
        self.shared_bytes.load(Relaxed) + lane
    }

    /// Requests that wait for room.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Whether there is plenty, so that taking more than is needed now is in nobody's way.
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
        self.serve_line();
    }

    /// Lets those go on who can.
    fn serve_line(self: &Room) {
        if self.waiting.load(SeqCst) == 0 {
            return; // keeps I5
        }
        let mut granted = Vec::new();
        {
            let mut line = self.line();
            while self.serve_each_party(&mut line, &mut granted) {}
            self.waiting.store(line.waiters.values().map(VecDeque::len).sum(), SeqCst);
        }
        // Without the lock, because one that is gone gives back what it gets, and comes here again.
        for (waiter, grant) in granted {
            if let Err(Grant::Shared(bytes)) = waiter.granted.send(grant) {
                waiter.party.give_back(bytes);
            }
        }
    }

    /// One turn of each party that waits. Whether any got something.
    fn serve_each_party(&self, line: &mut Line, granted: &mut Vec<(Waiter, Grant)>) -> bool {
        let before = granted.len();
        let (mut passed, mut served) = (VecDeque::new(), VecDeque::new());
        while let Some(number) = line.turns.pop_front() {
            let waiters = line.waiters.get_mut(&number).expect("a party has its turn while it waits");
            waiters.retain(|waiter| !waiter.granted.is_closed());
            let fits = waiters.front().is_some_and(|next| next.party.try_add(next.bytes));
            if fits && let Some(next) = waiters.pop_front() {
                let grant = Grant::Shared(next.bytes);
                granted.push((next, grant));
            }
            match (waiters.is_empty(), fits) {
                (true, _) => drop(line.waiters.remove(&number)),
                (false, true) => served.push_back(number),
                (false, false) => passed.push_back(number),
            }
        }
        if let Some(first) = passed.front().copied()
            && !self.lane_is_taken.swap(true, SeqCst)
        {
            let waiters = line.waiters.get_mut(&first).expect("it was passed by a moment ago");
            let next = waiters.pop_front().expect("it was passed by a moment ago");
            let grant = Grant::Lane(Lane { room: Arc::clone(&next.party.room) });
            granted.push((next, grant));
            passed.pop_front();
            if waiters.is_empty() {
                line.waiters.remove(&first);
            } else {
                served.push_back(first);
            }
        }
        passed.append(&mut served);
        line.turns = passed;
        granted.len() > before
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parties(&self) -> MutexGuard<'_, Parties> {
        self.parties.lock().unwrap_or_else(PoisonError::into_inner)
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

impl Party {
    pub(super) fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// Takes that much, if this is not more than its share and nobody of the party waits.
    pub(super) fn try_take(&self, bytes: u64) -> bool {
        if self.room.waiting.load(SeqCst) > 0 && self.room.line().waiters.contains_key(&self.number) {
            return false; // keeps I3
        }
        let taken = self.try_add(bytes);
        if !taken {
            // What was taken for a moment may have been what another one lacked.
            self.room.serve_line();
        }
        taken
    }

    /// Waits in line for that much.
    pub(super) fn wait(self: &Arc<Party>, bytes: u64) -> Waiting {
        let (granted, waiting) = oneshot::channel();
        {
            let mut line = self.room.line();
            let waiter = Waiter { party: Arc::clone(self), bytes, granted };
            let Line { turns, waiters } = &mut *line;
            let waiters = waiters.entry(self.number).or_default();
            if waiters.is_empty() {
                turns.push_back(self.number);
            }
            waiters.push_back(waiter);
            self.room.waiting.fetch_add(1, SeqCst); // keeps I5
        }
        self.room.serve_line();
        Waiting { party: Arc::clone(self), granted: Some(waiting) }
    }

    /// Keeps I1 and I2.
    fn try_add(&self, bytes: u64) -> bool {
        let is_within = |shared: u64, of_volume: u64, of_holder: u64| {
            let free = self.room.shared_bytes_max.checked_sub(shared);
            free.is_some_and(|free| of_volume <= free && of_holder <= HOLDER_SHARES * free)
        };
        let tallies = [&self.room.shared_bytes, &*self.volume_bytes, &*self.holder_bytes];
        // A look first, so that who does not fit is in nobody's way.
        let [shared, of_volume, of_holder] = tallies.map(|tally| tally.load(SeqCst) + bytes);
        if !is_within(shared, of_volume, of_holder) {
            return false;
        }
        let [shared, of_volume, of_holder] = tallies.map(|tally| tally.fetch_add(bytes, SeqCst) + bytes);
        if !is_within(shared, of_volume, of_holder) {
            for tally in tallies {
                tally.fetch_sub(bytes, SeqCst);
            }
            return false;
        }
        true
    }

    pub(super) fn give_back(&self, bytes: u64) {
        for tally in [&self.room.shared_bytes, &*self.volume_bytes, &*self.holder_bytes] {
            tally.fetch_sub(bytes, SeqCst);
        }
        self.room.serve_line();
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        let mut parties = self.room.parties();
        // Another one of that name may have come meanwhile.
        if parties.parties.get(&self.name).is_some_and(|party| party.strong_count() == 0) {
            parties.parties.remove(&self.name);
        }
        let (volume, holder) = &self.name;
        if Arc::strong_count(&self.volume_bytes) == 1 {
            parties.volumes.remove(volume);
        }
        if Arc::strong_count(&self.holder_bytes) == 1 {
            parties.holders.remove(holder);
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.room.lane_is_taken.store(false, SeqCst);
        self.room.serve_line();
    }
}

impl Future for Waiting {
    type Output = Grant;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Grant> {
        let granted = self.granted.as_mut().expect("what was granted is not asked for again");
        let grant =
            ready!(Pin::new(granted).poll(cx)).expect("who waits stays in line until it gets something");
        self.granted = None;
        Poll::Ready(grant)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(mut granted) = self.granted.take() else { return };
        granted.close();
        match granted.try_recv() {
            Ok(Grant::Shared(bytes)) => self.party.give_back(bytes),
            Ok(Grant::Lane(lane)) => drop(lane),
            // It is still in line, and goes with the next look.
            Err(_) => self.party.room.serve_line(),
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
    fn room() -> Arc<Room> {
        Room::new(100 * MIB + LANE_BYTES)
    }

    fn peer(name: &str) -> Holder {
        Holder::Peer(name.to_owned())
    }

    fn parties<const N: usize>(room: &Arc<Room>, holder: impl Fn(usize) -> Holder) -> [Arc<Party>; N] {
        std::array::from_fn(|i| room.party(Uuid::from_u128(i as u128), holder(i)))
    }

    /// Takes MiB after MiB.
    fn take_all(party: &Party) -> u64 {
        (0..).take_while(|_| party.try_take(MIB)).count() as u64
    }

    #[test]
    fn a_volume_gets_half_and_leaves_the_next_one_half_of_the_rest() {
        let room = room();
        let volumes: [_; 4] = parties(&room, |i| peer(&i.to_string()));
        let taken: Vec<u64> = volumes.iter().map(|volume| take_all(volume)).collect();
        assert_eq!(taken, [50, 25, 12, 6]);
        volumes.iter().zip(taken).for_each(|(volume, taken)| volume.give_back(taken * MIB));
        assert_eq!(room.taken_bytes(), 0);
        assert_eq!(take_all(&volumes[3]), 50);
    }

    #[test]
    fn a_holder_of_many_volumes_leaves_the_others_a_fifth() {
        let room = room();
        let of_one: [_; 9] = parties(&room, |_| peer("greedy"));
        let taken: u64 = of_one.iter().map(|party| take_all(party)).sum();
        assert_eq!(taken, 80);
        let other = room.party(Uuid::from_u128(99), peer("modest"));
        assert_eq!(take_all(&other), 10);
        let same_volume = room.party(Uuid::from_u128(99), peer("another"));
        assert_eq!(take_all(&same_volume), 0, "a volume's holders share what it may have");
    }

    #[test]
    fn one_that_finds_no_room_gets_the_lane_and_the_next_waits_for_it() {
        let room = room();
        let [one, two] = parties(&room, |i| peer(&i.to_string()));
        let large = 64 * MIB;
        let mut first = one.wait(large);
        let Some(Grant::Lane(lane)) = (&mut first).now_or_never() else { panic!("the lane is free") };
        assert_eq!(room.taken_bytes(), LANE_BYTES);
        let mut second = two.wait(large);
        assert!((&mut second).now_or_never().is_none());
        assert!(one.try_take(MIB), "what is shared is still there");
        drop(lane);
        assert!(matches!((&mut second).now_or_never(), Some(Grant::Lane(_))));
    }

    #[test]
    fn what_is_given_back_goes_to_the_parties_in_turn() {
        let room = room();
        let [hog, one, two] = parties(&room, |i| peer(&i.to_string()));
        assert_eq!(take_all(&hog), 50);
        let lane = one.wait(64 * MIB).now_or_never().expect("the lane is free");
        // More than a quarter of what is free.
        let mut waiting: Vec<_> = [&one, &one, &two].map(|party| party.wait(26 * MIB)).into();
        assert_eq!(room.waiting(), 3);
        assert!(!one.try_take(MIB), "it would pass those that wait before it");
        hog.give_back(10 * MIB);
        let got: Vec<bool> = waiting.iter_mut().map(|one| one.now_or_never().is_some()).collect();
        assert_eq!(got, [true, false, false], "40 and 26 of 100 are taken");
        hog.give_back(40 * MIB);
        let rest: Vec<bool> = waiting[1..].iter_mut().map(|one| one.now_or_never().is_some()).collect();
        assert_eq!(rest, [false, true], "it is the other one's turn");
        drop(lane);
        assert!(matches!((&mut waiting[1]).now_or_never(), Some(Grant::Lane(_))));
        assert_eq!(room.waiting(), 0);
    }

    #[test]
    fn who_leaves_the_line_or_what_it_got_is_in_nobodys_way() {
        let room = room();
        let [hog, one, two] = parties(&room, |i| peer(&i.to_string()));
        assert_eq!(take_all(&hog), 50);
        let lane = one.wait(64 * MIB);
        let gone = one.wait(30 * MIB);
        let mut stays = two.wait(30 * MIB);
        drop(gone);
        assert_eq!(room.waiting(), 1);
        assert!((&mut stays).now_or_never().is_none());
        drop(lane); // which had the lane, and never looked
        assert!(matches!((&mut stays).now_or_never(), Some(Grant::Lane(_))));
        hog.give_back(50 * MIB);
        assert_eq!(room.taken_bytes(), 0);
    }

    #[test]
    fn receive_buffers_take_a_small_part_and_nothing_where_room_is_short() {
        let room = room();
        assert!(room.try_take_buffer(12 * MIB) && !room.try_take_buffer(MIB));
        room.give_back_buffer(12 * MIB);
        let [hog] = parties(&room, |_| peer("hog"));
        assert_eq!(take_all(&hog), 50);
        assert!(!room.try_take_buffer(MIB));
    }

    #[test]
    fn names_without_connections_are_forgotten() {
        let room = room();
        let [one, two] = parties(&room, |_| peer("both"));
        drop(one);
        assert_eq!(room.parties().holders.len(), 1);
        drop(two);
        let parties = room.parties();
        assert!(parties.parties.is_empty() && parties.volumes.is_empty() && parties.holders.is_empty());
    }

    #[test]
    fn threads_that_take_and_give_back_never_leave_anybody_waiting() {
        let room = room();
        thread::scope(|scope| {
            for thread in 0..4 {
                let room = &room;
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    let party = room.party(Uuid::from_u128(thread), peer("all"));
                    for i in 0..2000 {
                        let bytes = (1 + (i * 7 + thread as u64) % 40) * MIB;
                        if party.try_take(bytes) {
                            party.give_back(bytes);
                            continue;
                        }
                        match runtime.block_on(party.wait(bytes)) {
                            Grant::Shared(bytes) => party.give_back(bytes),
                            Grant::Lane(lane) => drop(lane),
                        }
                    }
                });
            }
        });
        assert_eq!((room.taken_bytes(), room.waiting()), (0, 0));
    }
}
