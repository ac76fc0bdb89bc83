//! The store against every way to die: after each, every volume, snapshot and fork equals the model
//! at some prefix of what was asked.
//!
//! Lanes run side by side, each with volumes and snapshots of its own and one operation at a time.
//! A lane keeps its history as steps of a block each, and how many of them must survive which
//! death:
//!
//! | death   | survives |
//! |---------|----------|
//! | process | every step that was acknowledged |
//! | host    | every step before one that was acknowledged on a volume without write-back |
//! | power   | every step that a flush, FUA, checkpoint or change of the catalog covered |
//!
//! The log is one, so what is found must be a lane's state after *some* number of steps, at least
//! that many: nothing older, nothing else, no later step without an earlier one. What was found is
//! where the next generation begins, and is durable from then on, because recovery syncs before it
//! opens: so old ends of the log that come back are noticed.

use crate::world::{
    BLOCK, Death, Random, Shape, World, for_seeds, read, spec, unless_full, write_either_way,
};
use futures_util::{
    FutureExt,
    future::{Either, join_all, select},
    pin_mut,
};
use sandstone_ring::{Placement, Runtime, runtime};
use sandstone_storage::{
    Allocation, Durability, Error, ForkSpec, Health, Kind, Result, Store, Volume, VolumeChange,
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};
use uuid::Uuid;

/// A volume or snapshot as the model has it.
#[derive(Clone, Default)]
struct Plain {
    bytes: Vec<u8>,
    /// By block; what comparing looks at.
    sums: Vec<u32>,
    /// Steps of the lane up to this line's last.
    last_step: usize,
}

impl Plain {
    fn new(bytes: Vec<u8>) -> Self {
        let sums = bytes.chunks(BLOCK as usize).map(sum).collect();
        Self { bytes, sums, last_step: 0 }
    }

    fn grown(mut self, size: u64) -> Self {
        self.bytes.resize(size as usize, 0);
        self.sums.resize((size / BLOCK) as usize, 0);
        self
    }
}

fn sum(block: &[u8]) -> u32 {
    if block.iter().all(|b| *b == 0) { 0 } else { crc32fast::hash(block) | 1 }
}

type State = BTreeMap<Uuid, Plain>;

enum Step {
    Block {
        line: Uuid,
        block: usize,
        sum: u32,
    },
    /// Lines become this at once, whatever they were: created, resized, copied, restored; `None` is
    /// deleted.
    Lines(Vec<(Uuid, Option<Vec<u32>>)>),
}

#[derive(Default)]
struct Lane {
    /// Where `steps` begin.
    base: State,
    now: State,
    steps: Vec<Step>,
    /// Steps that survive the process, the host's crash, the power loss.
    acknowledged: usize,
    written: usize,
    durable: usize,
}

impl Lane {
    /// An operation on `line` changes these bytes.
    fn change(&mut self, line: Uuid, offset: u64, len: u64, data: impl Fn(usize) -> u8) {
        let plain = self.now.get_mut(&line).expect("the lane's own volume");
        for i in 0..len as usize {
            plain.bytes[offset as usize + i] = data(i);
        }
        for block in (offset / BLOCK) as usize..(offset + len).div_ceil(BLOCK) as usize {
            let at = block * BLOCK as usize;
            plain.sums[block] = sum(&plain.bytes[at..at + BLOCK as usize]);
            self.steps.push(Step::Block { line, block, sum: plain.sums[block] });
        }
        plain.last_step = self.steps.len();
    }

    /// Lines become something else as a whole. Gives what they were.
    fn becomes(&mut self, lines: Vec<(Uuid, Option<Plain>)>) -> Vec<(Uuid, Option<Plain>)> {
        let sums = |plain: &Plain| plain.sums.clone();
        self.steps
            .push(Step::Lines(lines.iter().map(|(id, p)| (*id, p.as_ref().map(sums))).collect()));
        self.put(lines)
    }

    /// It did not happen.
    fn undo(&mut self, before: Vec<(Uuid, Option<Plain>)>) {
        self.steps.pop();
        self.put(before);
    }

    fn put(&mut self, lines: Vec<(Uuid, Option<Plain>)>) -> Vec<(Uuid, Option<Plain>)> {
        let put = |(id, plain): (Uuid, Option<Plain>)| match plain {
            Some(plain) => (id, self.now.insert(id, plain)),
            None => (id, self.now.remove(&id)),
        };
        lines.into_iter().map(put).collect()
    }

    /// The change of the catalog is durable, and so is all before it: there is one log.
    fn all_durable(&mut self) {
        let all = self.steps.len();
        (self.acknowledged, self.written, self.durable) = (all, all, all);
    }

    /// What was found after a death, of which `floor` steps must be there.
    fn check(&mut self, found: &State, floor: usize) {
        let mut state: BTreeMap<Uuid, Vec<u32>> =
            self.base.iter().map(|(id, plain)| (*id, plain.sums.clone())).collect();
        let cell = |sums: Option<&Vec<u32>>, block: usize| sums.and_then(|s| s.get(block)).copied();
        let ids: BTreeSet<Uuid> = state.keys().chain(found.keys()).copied().collect();
        let blocks = |a: Option<&Vec<u32>>, b: Option<&Vec<u32>>| {
            let len = a.map_or(0, Vec::len).max(b.map_or(0, Vec::len));
            (0..len).filter(|i| cell(a, *i) != cell(b, *i)).collect::<Vec<_>>()
        };
        let mut wrong: usize =
            ids.iter().map(|id| blocks(state.get(id), found.get(id).map(|p| &p.sums)).len()).sum();
        let mut best = (usize::MAX, 0);
        for k in 0..=self.steps.len() {
            if k >= floor && wrong <= best.0 {
                best = (wrong, k);
            }
            let Some(step) = self.steps.get(k) else { break };
            match step {
                Step::Block { line, block, sum } => {
                    let expected = found.get(line).and_then(|p| p.sums.get(*block)).copied();
                    let sums = state.get_mut(line).expect("a step of a volume that is there");
                    wrong -= usize::from(Some(sums[*block]) != expected);
                    sums[*block] = *sum;
                    wrong += usize::from(Some(*sum) != expected);
                }
                Step::Lines(lines) => {
                    for (line, after) in lines {
                        let expected = found.get(line).map(|p| &p.sums);
                        wrong -= blocks(state.get(line), expected).len();
                        match after {
                            Some(sums) => drop(state.insert(*line, sums.clone())),
                            None => drop(state.remove(line)),
                        }
                        wrong += blocks(state.get(line), expected).len();
                    }
                }
            }
        }
        assert_eq!(
            best.0,
            0,
            "no prefix of {} steps with at least {floor} fits (acknowledged {}, written {}, durable {}); the best is {} with this many blocks wrong",
            self.steps.len(),
            self.acknowledged,
            self.written,
            self.durable,
            best.1,
        );
    }

    /// Goes on from what was found.
    fn restart(&mut self, found: State) {
        *self = Self { base: found.clone(), now: found, ..Self::default() };
    }

    fn floor(&self, death: Death) -> usize {
        match death {
            Death::Process => self.acknowledged,
            Death::Host => self.written,
            Death::Power => self.durable,
        }
    }
}

type Lanes = Vec<Rc<RefCell<Lane>>>;

const VOLUMES_MAX: u64 = 3;
const SNAPSHOTS_MAX: u64 = 3;

/// What a lane's volumes are called.
fn id(lane: usize, number: u64) -> Uuid {
    Uuid::from_u128(lane as u128 * 1000 + u128::from(number + 1) * 10)
}

/// What a volume's snapshots are called.
fn snapshot_id(volume: Uuid, number: u64) -> Uuid {
    Uuid::from_u128(volume.as_u128() + u128::from(number + 1))
}

fn volume_of(snapshot: Uuid) -> Uuid {
    Uuid::from_u128(snapshot.as_u128() / 10 * 10)
}

fn lane_of(id: Uuid) -> usize {
    (id.as_u128() / 1000) as usize
}

/// Makes a volume from nothing, or from another or a snapshot.
async fn begin(store: &Store, volume: Uuid, lane: &RefCell<Lane>, random: &mut Random) {
    let sources: Vec<Uuid> = lane.borrow().now.keys().copied().collect();
    let made = if sources.is_empty() || random.one_in(3) {
        let size = random.pick(&[64 << 10, 300 * BLOCK, 600 * BLOCK]);
        let plain = Plain::default().grown(size);
        let before = lane.borrow_mut().becomes(vec![(volume, Some(plain))]);
        (before, store.create_volume(spec(volume, size, random.one_in(2))).await)
    } else {
        let source = random.pick(&sources);
        let plain = lane.borrow().now[&source].clone();
        let size = plain.bytes.len() as u64 + random.pick(&[0, 0, 10]) * BLOCK;
        let before = lane.borrow_mut().becomes(vec![(volume, Some(plain.grown(size)))]);
        let spec =
            ForkSpec { id: volume, size_bytes: Some(size), settings: None, attributes: Vec::new() };
        (before, store.create_fork(source, spec).await)
    };
    settle(lane, made.0, made.1.map(|_| ()));
}

/// A change of the catalog has ended.
fn settle(lane: &RefCell<Lane>, before: Vec<(Uuid, Option<Plain>)>, done: Result<()>) {
    let mut lane = lane.borrow_mut();
    if unless_full(done) { lane.all_durable() } else { lane.undo(before) }
}

/// Makes a snapshot, goes back to it, compares it or deletes it.
async fn lineage(store: &Store, volume: Uuid, lane: &RefCell<Lane>, random: &mut Random) {
    let snapshot = snapshot_id(volume, random.below(SNAPSHOTS_MAX));
    let Some(plain) = lane.borrow().now.get(&snapshot).cloned() else {
        let plain = lane.borrow().now[&volume].clone();
        let before = lane.borrow_mut().becomes(vec![(snapshot, Some(plain))]);
        let made = store.create_snapshot(volume, snapshot, Vec::new()).await;
        return settle(lane, before, made.map(|_| ()));
    };
    match random.below(4) {
        0 | 1 => {
            let before = lane.borrow_mut().becomes(vec![(volume, Some(plain))]);
            // Never refused for want of space.
            store.restore(volume, snapshot).await.expect("a restore");
            settle(lane, before, Ok(()));
        }
        2 => {
            let handle = store.snapshot(volume, snapshot).expect("the model has it");
            assert!(read(&handle, 0, handle.size_bytes()).await.expect("a read") == plain.bytes);
        }
        _ => {
            let before = lane.borrow_mut().becomes(vec![(snapshot, None)]);
            assert!(store.delete_snapshot(volume, snapshot).await.expect("a delete"));
            settle(lane, before, Ok(()));
        }
    }
}

/// One operation of a lane.
async fn operate(store: &Store, number: usize, lane: &RefCell<Lane>, random: &mut Random) {
    let volume = id(number, random.below(VOLUMES_MAX));
    let there = lane.borrow().now.contains_key(&volume);
    if !there {
        if random.one_in(3) {
            begin(store, volume, lane, random).await;
        }
        return;
    }
    let handle = store.volume(volume).expect("the model has it");
    let size = handle.size_bytes();
    let (offset, len) = random.range(size);
    let fua = random.one_in(8);
    let durability = if fua { Durability::Fua } else { Durability::Volatile };
    let steps = lane.borrow().steps.len();
    let before = lane.borrow().now[&volume].clone();
    let done = match random.below(28) {
        0 => {
            let snapshots = (0..SNAPSHOTS_MAX).map(|n| snapshot_id(volume, n));
            let gone = snapshots.chain([volume]).map(|line| (line, None)).collect();
            let before = lane.borrow_mut().becomes(gone);
            assert!(store.delete_volume(volume).await.expect("a delete"));
            return settle(lane, before, Ok(()));
        }
        1 => {
            let size = size + random.below(64) * BLOCK;
            let mut settings = handle.settings();
            settings.writeback = random.one_in(2);
            let before = lane.borrow_mut().becomes(vec![(volume, Some(before.grown(size)))]);
            let change = VolumeChange {
                size_bytes: Some(size),
                settings: Some(settings),
                ..VolumeChange::default()
            };
            return settle(lane, before, store.update_volume(volume, change).await);
        }
        24..=27 => return lineage(store, volume, lane, random).await,
        2..=4 => {
            let covered = lane.borrow().now[&volume].last_step;
            handle.flush().await.expect("a flush");
            let mut lane = lane.borrow_mut();
            lane.durable = lane.durable.max(covered);
            lane.written = lane.written.max(covered);
            return;
        }
        5..=7 => {
            let read = read(&handle, offset, len).await.expect("a read");
            let expected =
                &lane.borrow().now[&volume].bytes[offset as usize..(offset + len) as usize];
            assert!(read == expected, "{len} bytes at {offset} of {volume} are wrong");
            return;
        }
        8 => {
            let pause = random.pick(&[1, 50, 250, 6000]);
            runtime::sleep(Duration::from_millis(pause)).await;
            return;
        }
        9 | 10 => {
            let (first, end) = (offset.next_multiple_of(BLOCK), (offset + len) / BLOCK * BLOCK);
            if first < end {
                lane.borrow_mut().change(volume, first, end - first, |_| 0);
            }
            handle.trim(offset, len, durability).await
        }
        11 | 12 => {
            lane.borrow_mut().change(volume, offset, len, |_| 0);
            let allocation = random.pick(&[Allocation::Hole, Allocation::Reserve]);
            handle.write_zeroes(offset, len, allocation, durability).await
        }
        _ => {
            let data = random.bytes(len);
            lane.borrow_mut().change(volume, offset, len, |i| data[i]);
            write_either_way(&handle, offset, data, durability).await
        }
    };
    if unless_full(done) {
        let mut lane = lane.borrow_mut();
        lane.acknowledged = lane.steps.len();
        if !handle.settings().writeback || fua {
            lane.written = lane.steps.len();
        }
        if fua {
            lane.durable = lane.now[&volume].last_step;
        }
    } else {
        // A beginning of it may have been written: look how much.
        let now = read(&handle, 0, size).await.expect("a read");
        let mut lane = lane.borrow_mut();
        let found = Plain::new(now);
        let mut kept = Vec::new();
        for step in lane.steps.split_off(steps) {
            let Step::Block { block, sum, .. } = step else { unreachable!("a write has blocks") };
            assert!(
                found.sums[block] == sum || found.sums[block] == before.sums[block],
                "block {block}"
            );
            if found.sums[block] == sum {
                kept.push(step);
            }
        }
        lane.steps.extend(kept);
        let last_step = lane.steps.len();
        lane.now.insert(volume, Plain { last_step, ..found });
    }
}

/// Checkpoints, rounds of reclaim, and reads of whatever is there.
async fn disturb(store: &Store, lanes: &Lanes, random: &mut Random) {
    match random.below(6) {
        0 | 1 => {
            let at: Vec<_> = lanes.iter().map(|lane| lane.borrow().acknowledged).collect();
            if unless_full(if random.one_in(2) {
                store.checkpoint().await
            } else {
                store.reclaim().await
            }) {
                for (lane, at) in lanes.iter().zip(at) {
                    let mut lane = lane.borrow_mut();
                    lane.durable = lane.durable.max(at);
                    lane.written = lane.written.max(at);
                }
            }
        }
        2 | 3 => {
            let volumes = store.volumes();
            if !volumes.is_empty() {
                look(store, &volumes[random.below(volumes.len() as u64) as usize]).await;
            }
        }
        _ => runtime::sleep(Duration::from_micros(random.below(20_000))).await,
    }
}

/// Reads all that there is to read of a volume, which may become smaller or be deleted meanwhile.
async fn look(store: &Store, volume: &Volume) {
    let gone = |error: Error| {
        assert!(matches!(error.kind(), Kind::NotFound | Kind::OutOfRange), "{error}")
    };
    read(volume, 0, volume.size_bytes()).await.map_or_else(gone, drop);
    store.exclusive_bytes(Some(volume.id())).await.map_or_else(gone, drop);
    for snapshot in store.snapshots(volume.id()).unwrap_or_default() {
        let changes = volume.changes_since(&snapshot, 0, volume.size_bytes(), 100).await;
        changes.map_or_else(gone, drop);
    }
}

/// Everything that is in the store.
async fn observe(store: &Store, lanes: usize) -> Vec<State> {
    let mut found = vec![State::new(); lanes];
    let mut lines = store.volumes();
    for volume in store.volumes() {
        let snapshots = store.snapshots(volume.id()).expect("it is there");
        assert!(snapshots.iter().all(|snapshot| volume_of(snapshot.id()) == volume.id()));
        lines.extend(snapshots);
    }
    for line in lines {
        let bytes = read(&line, 0, line.size_bytes()).await.expect("all can be read");
        let plain = Plain::new(bytes);
        let used = plain.sums.iter().filter(|sum| **sum != 0).count() as u64 * BLOCK;
        assert_eq!(line.used_bytes(), used, "of {}", line.id());
        found[lane_of(line.id())].insert(line.id(), plain);
    }
    found
}

struct Course {
    lanes: usize,
    generations: u64,
    /// Virtual time that a generation lasts, about.
    micros: u64,
}

/// Generations of life and death.
fn live_and_die(seed: u64, course: &Course, shape: impl Fn(&mut Random) -> Shape) {
    let mut random = Random::new(seed);
    let mut world = World::new(shape(&mut random), random.next());
    world.disk.set_placement(random.pick(&[
        Placement::InPlace("a simulation"),
        Placement::InPlace("a simulation"),
        Placement::Moving("it is simulated"),
        Placement::Device,
    ]));
    let lanes: Lanes = (0..course.lanes).map(|_| Rc::default()).collect();
    let mut worst = Death::Process;
    for generation in 0..course.generations {
        let simulation = Runtime::simulated(random.next());
        // Some die on their way up, some live long.
        let lifetime = match random.below(4) {
            0 => random.below(6000),
            1 => random.below(course.micros * 4),
            _ => random.below(course.micros),
        };
        let seeds: Vec<u64> = lanes.iter().map(|_| random.next()).collect();
        let mut disturbing = Random::new(random.next());
        let (world_ref, lanes_ref, worst_ref) = (&world, &lanes, &mut worst);
        let ended = simulation.block_on(async move {
            let life = async {
                let (store, report) = world_ref.open().await.expect("the store opens");
                assert_eq!(store.health(), Health::Ready, "generation {generation}: {report:?}");
                for (lane, found) in lanes_ref.iter().zip(observe(&store, lanes_ref.len()).await) {
                    let mut lane = lane.borrow_mut();
                    let floor = lane.floor(*worst_ref);
                    lane.check(&found, floor);
                    lane.restart(found);
                }
                *worst_ref = Death::Process;
                let store_ref = &store;
                let work = join_all(lanes_ref.iter().zip(seeds).enumerate().map(
                    async |(number, (lane, seed))| {
                        let mut random = Random::new(seed);
                        loop {
                            operate(store_ref, number, lane, &mut random).await;
                            // What is refused at once takes no time of its own.
                            runtime::sleep(Duration::from_micros(10)).await;
                        }
                    },
                ));
                let disturb = async {
                    loop {
                        disturb(store_ref, lanes_ref, &mut disturbing).await;
                        runtime::sleep(Duration::from_micros(10)).await;
                    }
                };
                pin_mut!(work, disturb);
                select(work, disturb).await;
            };
            let life = life.boxed_local();
            let death = runtime::sleep(Duration::from_micros(lifetime));
            pin_mut!(death);
            matches!(select(life, death).await, Either::Right(_))
        });
        assert!(ended);
        drop(simulation);
        let death =
            random.pick(&[Death::Process, Death::Process, Death::Host, Death::Power, Death::Power]);
        worst = worst.max(death);
        world.die(death, &mut random);
    }
}

#[test]
fn one_lane_finds_a_prefix_of_what_it_did() {
    let course = Course { lanes: 1, generations: 8, micros: 30_000 };
    for_seeds(1, 150, |seed| live_and_die(seed, &course, Shape::random));
}

#[test]
fn many_lanes_find_prefixes_of_what_they_did() {
    let course = Course { lanes: 4, generations: 8, micros: 20_000 };
    for_seeds(10_000, 100, |seed| live_and_die(seed, &course, Shape::random));
}

#[test]
fn small_stores_run_full_and_lose_nothing() {
    for_seeds(20_000, 60, small_store_runs_full_and_loses_nothing);
}

fn small_store_runs_full_and_loses_nothing(seed: u64) {
    let course = Course { lanes: 2, generations: 5, micros: 60_000 };
    live_and_die(seed, &course, |random| Shape {
        slots: 14 + random.below(20),
        ..Shape::random(random)
    });
}
