//! A part of the cache with a lock of its own: its entries and the queues that they wait in.

use super::{account::Account, s3_fifo::Origin};
use foldhash::fast::FixedState;
use slab::Slab;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// Uses of an entry that are remembered, at most. Source: S3-FIFO, section 4.
const USES_MAX: u8 = 3;
/// The small queue's part of the shard: one in this many bytes. Source: S3-FIFO, section 4.
const SMALL_PART: usize = 10;

/// What an entry is, if it may come and go in parts.
pub(crate) trait Parts {
    /// The parts of it that were used, a bit each. One that comes back soon after its entry was
    /// evicted is used again.
    fn used(&self) -> u16;
}

/// How a look-up used an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Use {
    /// It was of parts that had been used before.
    pub(super) is_again: bool,
    /// Bytes that were read ahead, and are used for the first time.
    pub(super) ahead_bytes: u32,
}

/// An entry, for one who is about to add to it.
pub(super) struct Held<'a, V> {
    pub(super) value: &'a V,
    pub(super) owner: Option<&'a Arc<Account>>,
    pub(super) bytes: u32,
}

pub(super) struct Shard<V> {
    index: HashMap<u64, usize, FixedState>,
    entries: Slab<Entry<V>>,
    small: Queue,
    main: Queue,
    /// Keys that left the small queue without a second use, oldest first.
    ghosts: VecDeque<u64>,
    /// The parts of them that were used.
    ghost_parts: HashMap<u64, u16, FixedState>,
    /// The entries of each account, newest first.
    owned: HashMap<u64, List, FixedState>,
    bytes_max: usize,
}

struct Entry<V> {
    key: u64,
    value: V,
    bytes: u32,
    /// Uses since it came into its queue.
    uses: u8,
    /// Bytes of it that were read ahead, and no request has used yet.
    ahead_bytes: u32,
    place: Place,
    owner: Option<Arc<Account>>,
    /// Neighbours in its queue, and among its owner's entries.
    links: [Links; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Small,
    Main,
}

#[derive(Clone, Copy, Debug, Default)]
struct Links {
    newer: Option<u32>,
    older: Option<u32>,
}

/// Which links of an entry.
#[derive(Clone, Copy)]
enum Chain {
    Queue = 0,
    Owner = 1,
}

#[derive(Clone, Copy, Debug, Default)]
struct List {
    newest: Option<u32>,
    oldest: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Queue {
    list: List,
    bytes: usize,
}

impl List {
    fn push<V>(&mut self, entries: &mut Slab<Entry<V>>, chain: Chain, at: usize) {
        let number = u32::try_from(at).expect("fewer than 2^32 entries");
        entries[at].links[chain as usize] = Links { newer: None, older: self.newest };
        match self.newest.replace(number) {
            Some(next) => entries[next as usize].links[chain as usize].newer = Some(number),
            None => self.oldest = Some(number),
        }
    }

    fn unlink<V>(&mut self, entries: &mut Slab<Entry<V>>, chain: Chain, at: usize) {
        let Links { newer, older } = std::mem::take(&mut entries[at].links[chain as usize]);
        match newer {
            Some(newer) => entries[newer as usize].links[chain as usize].older = older,
            None => self.newest = older,
        }
        match older {
            Some(older) => entries[older as usize].links[chain as usize].newer = newer,
            None => self.oldest = newer,
        }
    }
}

impl<V: Parts> Shard<V> {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            index: HashMap::default(),
            entries: Slab::new(),
            small: Queue::default(),
            main: Queue::default(),
            ghosts: VecDeque::new(),
            ghost_parts: HashMap::default(),
            owned: HashMap::default(),
            bytes_max,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.small.bytes + self.main.bytes
    }

    pub(super) fn contains(&self, key: u64) -> bool {
        self.index.contains_key(&key)
    }

    /// An entry, without counting as a use of it.
    pub(super) fn peek(&self, key: u64) -> Option<&V> {
        self.index.get(&key).map(|at| &self.entries[*at].value)
    }

    /// An entry, for one who is about to add to it. Does not count as a use.
    pub(super) fn held(&self, key: u64) -> Option<Held<'_, V>> {
        let entry = &self.entries[*self.index.get(&key)?];
        Some(Held { value: &entry.value, owner: entry.owner.as_ref(), bytes: entry.bytes })
    }

    /// An entry that is used as a whole.
    pub(super) fn get(&mut self, key: u64) -> Option<&V> {
        let at = *self.index.get(&key)?;
        let ahead_bytes = self.entries[at].ahead_bytes;
        self.count(at, Use { is_again: ahead_bytes == 0, ahead_bytes });
        Some(&self.entries[at].value)
    }

    /// An entry that is used in part, as `take` says; `None` also where it has not got the part.
    pub(super) fn take<R>(
        &mut self,
        key: u64,
        take: impl FnOnce(&mut V) -> Option<(R, Use)>,
    ) -> Option<R> {
        let at = *self.index.get(&key)?;
        let (taken, used) = take(&mut self.entries[at].value)?;
        self.count(at, used);
        Some(taken)
    }

    /// The first use of what came on demand is counted when it comes, so this is another; of what
    /// was read ahead it is the first.
    fn count(&mut self, at: usize, Use { is_again, ahead_bytes }: Use) {
        let entry = &mut self.entries[at];
        if is_again {
            entry.uses = (entry.uses + 1).min(USES_MAX);
        }
        if ahead_bytes > 0 {
            entry.ahead_bytes -= ahead_bytes;
            if let Some(owner) = &entry.owner {
                owner.usage.prefetch_used_bytes.fetch_add(u64::from(ahead_bytes), Relaxed);
            }
        }
    }

    /// Lets an entry that is there grow by `bytes`, `ahead_bytes` of which are read ahead. The
    /// caller has made room, and taken it from the owner's account.
    pub(super) fn grow(
        &mut self,
        key: u64,
        bytes: usize,
        ahead_bytes: u32,
        add: impl FnOnce(&mut V),
    ) {
        let at = self.index[&key];
        let entry = &mut self.entries[at];
        add(&mut entry.value);
        entry.bytes += u32::try_from(bytes).expect("an entry is below 4 GiB");
        entry.ahead_bytes += ahead_bytes;
        let place = entry.place;
        self.queue(place).bytes += bytes;
    }

    /// Gives an entry that is there, with all its bytes, to another account. The caller has taken
    /// them from it.
    pub(super) fn give_to(&mut self, key: u64, owner: &Arc<Account>) {
        let at = self.index[&key];
        self.leave_owner(at);
        self.entries[at].owner = Some(Arc::clone(owner));
        self.owned.entry(owner.number()).or_default().push(&mut self.entries, Chain::Owner, at);
    }

    /// Makes room for `bytes` more; `false` where a block that is read ahead finds nothing that it
    /// may replace.
    pub(super) fn make_room(&mut self, bytes: usize, origin: Origin) -> bool {
        while self.bytes() + bytes > self.bytes_max {
            if self.evict(origin).is_none() {
                return false;
            }
        }
        true
    }

    pub(super) fn push(
        &mut self,
        key: u64,
        value: V,
        (bytes, content_bytes): (usize, u32),
        owner: Option<Arc<Account>>,
        origin: Origin,
    ) {
        let returns = self.ghost_parts.get(&key).is_some_and(|parts| parts & value.used() != 0);
        let (place, ahead_bytes) = match origin {
            Origin::Demand if returns => (Place::Main, 0),
            Origin::Demand => (Place::Small, 0),
            Origin::Readahead => (Place::Small, content_bytes),
        };
        let number = owner.as_ref().map(|owner| owner.number());
        let bytes = u32::try_from(bytes).expect("an entry is below 4 GiB");
        let entry = Entry {
            key,
            value,
            bytes,
            uses: 0,
            ahead_bytes,
            place,
            owner,
            links: Default::default(),
        };
        let at = self.entries.insert(entry);
        self.index.insert(key, at);
        self.enqueue(at, place);
        if let Some(number) = number {
            self.owned.entry(number).or_default().push(&mut self.entries, Chain::Owner, at);
        }
    }

    /// Evicts the account's oldest entry that was not used lately.
    pub(super) fn evict_owned(&mut self, account: &Account) -> Option<V> {
        let list = self.owned.get_mut(&account.number())?;
        let mut at = list.oldest? as usize;
        while self.entries[at].uses > 0 {
            self.entries[at].uses -= 1;
            list.unlink(&mut self.entries, Chain::Owner, at);
            list.push(&mut self.entries, Chain::Owner, at);
            at = list.oldest.expect("one was just put back") as usize;
        }
        Some(self.remove(at))
    }

    fn queue(&mut self, place: Place) -> &mut Queue {
        match place {
            Place::Small => &mut self.small,
            Place::Main => &mut self.main,
        }
    }

    fn enqueue(&mut self, at: usize, place: Place) {
        self.entries[at].place = place;
        let bytes = self.entries[at].bytes as usize;
        let mut queue = *self.queue(place);
        queue.bytes += bytes;
        queue.list.push(&mut self.entries, Chain::Queue, at);
        *self.queue(place) = queue;
    }

    fn dequeue(&mut self, at: usize) {
        let (place, bytes) = (self.entries[at].place, self.entries[at].bytes as usize);
        let mut queue = *self.queue(place);
        queue.bytes -= bytes;
        queue.list.unlink(&mut self.entries, Chain::Queue, at);
        *self.queue(place) = queue;
    }

    /// Evicts the entry that is least worth keeping.
    fn evict(&mut self, origin: Origin) -> Option<V> {
        loop {
            let small_is_large = self.small.bytes > self.bytes_max / SMALL_PART;
            let oldest = match (origin, self.main.list.oldest) {
                (Origin::Demand, Some(oldest)) if !small_is_large => oldest,
                // A block that is read ahead evicts from the small queue only (keeps I3).
                (Origin::Readahead | Origin::Demand, _) => self.small.list.oldest?,
            } as usize;
            let Entry { uses, place, .. } = self.entries[oldest];
            match (place, uses) {
                (Place::Small, 0) => {
                    let Entry { key, value, .. } = &self.entries[oldest];
                    let (key, parts) = (*key, value.used());
                    self.remember(key, parts);
                    return Some(self.remove(oldest));
                }
                (Place::Main, 0) => return Some(self.remove(oldest)),
                (Place::Small, _) => {
                    self.dequeue(oldest);
                    self.entries[oldest].uses = 0;
                    self.enqueue(oldest, Place::Main);
                }
                (Place::Main, uses) => {
                    self.dequeue(oldest);
                    self.entries[oldest].uses = uses - 1;
                    self.enqueue(oldest, Place::Main);
                }
            }
        }
    }

    /// Keeps the key of an entry that left after one use of these parts as a ghost; there are at
    /// most as many ghosts as entries.
    fn remember(&mut self, key: u64, parts: u16) {
        if parts != 0 && self.ghost_parts.insert(key, parts).is_none() {
            self.ghosts.push_back(key);
        }
        while self.ghosts.len() > self.entries.len() {
            if let Some(forgotten) = self.ghosts.pop_front() {
                self.ghost_parts.remove(&forgotten);
            }
        }
    }

    fn remove(&mut self, at: usize) -> V {
        self.dequeue(at);
        let wasted = self.entries[at].ahead_bytes;
        if let Some(owner) = self.leave_owner(at)
            && wasted > 0
        {
            owner.usage.prefetch_wasted_bytes.fetch_add(u64::from(wasted), Relaxed);
        }
        let entry = self.entries.remove(at);
        self.index.remove(&entry.key);
        entry.value
    }

    /// Takes an entry from its owner's account.
    fn leave_owner(&mut self, at: usize) -> Option<Arc<Account>> {
        let owner = self.entries[at].owner.take()?;
        if let Some(list) = self.owned.get_mut(&owner.number()) {
            list.unlink(&mut self.entries, Chain::Owner, at);
            if list.oldest.is_none() {
                self.owned.remove(&owner.number());
            }
        }
        owner.give_back(u64::from(self.entries[at].bytes));
        Some(owner)
    }

    /// Checks table, queues and counts against each other.
    #[cfg(test)]
    pub(super) fn self_check(&self) {
        let walk = |list: List, chain: Chain| {
            let (mut found, mut at) = (Vec::new(), list.newest);
            while let Some(here) = at {
                found.push(here as usize);
                at = self.entries[here as usize].links[chain as usize].older;
            }
            assert_eq!(found.last().map(|at| *at as u32), list.oldest);
            found
        };
        let mut queued = 0;
        for (queue, place) in [(self.small, Place::Small), (self.main, Place::Main)] {
            let here = walk(queue.list, Chain::Queue);
            assert!(here.iter().all(|at| self.entries[*at].place == place));
            assert_eq!(
                here.iter().map(|at| self.entries[*at].bytes as usize).sum::<usize>(),
                queue.bytes
            );
            queued += here.len();
        }
        assert_eq!((queued, self.index.len()), (self.entries.len(), self.entries.len()));
        assert!(self.index.iter().all(|(key, at)| self.entries[*at].key == *key));
        let owned: usize = self.owned.values().map(|list| walk(*list, Chain::Owner).len()).sum();
        assert_eq!(owned, self.entries.iter().filter(|(_, entry)| entry.owner.is_some()).count());
        assert!(self.bytes() <= self.bytes_max && self.ghosts.len() == self.ghost_parts.len());
    }
}
