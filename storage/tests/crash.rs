//! The store against every way to die: after each, every volume equals the model at some prefix of what was asked.
//!
//! Lanes run side by side, each with volumes of its own and one operation at a time. A lane keeps its history as steps
//! of a block each, and how many of them must survive which death:
//!
//! | death   | survives |
//! |---------|----------|
//! | process | every step that was acknowledged |
//! | host    | every step before one that was acknowledged on a volume without write-back |
//! | power   | every step that a flush, FUA, checkpoint or change of the catalog covered |
//!
//! The log is one, so what is found must be a lane's state after *some* number of steps, at least that many: nothing
//! older, nothing else, no later step without an earlier one. What was found is where the next generation begins, and
//! is durable from then on, because recovery syncs before it opens: so old ends of the log that come back are noticed.

mod world;

use futures_util::{
    FutureExt,
    future::{Either, join_all, select},
    pin_mut,
};
use sandstone_storage::{
    Allocation, Durability, Health, Kind, Runtime, Settings, Store, VolumeChange, runtime,
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};
use uuid::Uuid;
use world::{BLOCK, Death, Random, Shape, World, for_seeds, read, spec, unless_full};

/// A volume as the model has it.
#[derive(Clone, Default)]
struct Plain {
    bytes: Vec<u8>,
    /// By block; what comparing looks at.
    sums: Vec<u32>,
    settings: Option<Settings>,
    /// Steps of the lane up to this volume's last.
    last_step: usize,
}

impl Plain {
    fn new(bytes: Vec<u8>) -> Self {
        let sums = bytes.chunks(BLOCK as usize).map(sum).collect();
        Self { bytes, sums, settings: None, last_step: 0 }
    }
}

fn sum(block: &[u8]) -> u32 {
    if block.iter().all(|b| *b == 0) { 0 } else { crc32fast::hash(block) | 1 }
}

type State = BTreeMap<Uuid, Plain>;

#[derive(Clone, Debug)]
enum Step {
    Block {
        volume: Uuid,
        block: usize,
        sum: u32,
    },
    /// Created, resized, deleted.
    Size {
        volume: Uuid,
        blocks: Option<usize>,
    },
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
    /// An operation on `volume` changes these bytes.
    fn change(&mut self, volume: Uuid, offset: u64, len: u64, data: impl Fn(usize) -> u8) {
        let plain = self.now.get_mut(&volume).expect("the lane's own volume");
        for i in 0..len as usize {
            plain.bytes[offset as usize + i] = data(i);
        }
        for block in (offset / BLOCK) as usize..(offset + len).div_ceil(BLOCK) as usize {
            let at = block * BLOCK as usize;
            plain.sums[block] = sum(&plain.bytes[at..at + BLOCK as usize]);
            self.steps.push(Step::Block { volume, block, sum: plain.sums[block] });
        }
        plain.last_step = self.steps.len();
    }

    fn size(&mut self, volume: Uuid, bytes: Option<u64>) {
        match bytes {
            Some(bytes) => {
                let plain = self.now.entry(volume).or_default();
                plain.bytes.resize(bytes as usize, 0);
                plain.sums.resize((bytes / BLOCK) as usize, 0);
            }
            None => {
                self.now.remove(&volume);
            }
        }
        self.steps.push(Step::Size { volume, blocks: bytes.map(|b| (b / BLOCK) as usize) });
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
                Step::Block { volume, block, sum } => {
                    let expected = found.get(volume).and_then(|p| p.sums.get(*block)).copied();
                    let sums = state.get_mut(volume).expect("a step of a volume that is there");
                    wrong -= usize::from(Some(sums[*block]) != expected);
                    sums[*block] = *sum;
                    wrong += usize::from(Some(*sum) != expected);
                }
                Step::Size { volume, blocks: size } => {
                    let expected = found.get(volume).map(|p| &p.sums);
                    wrong -= blocks(state.get(volume), expected).len();
                    match size {
                        Some(size) => state.entry(*volume).or_default().resize(*size, 0),
                        None => {
                            state.remove(volume);
                        }
                    }
                    wrong += blocks(state.get(volume), expected).len();
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

/// What a lane's volumes are called.
fn id(lane: usize, number: u64) -> Uuid {
    Uuid::from_u128(lane as u128 * 100 + u128::from(number) + 1)
}

fn lane_of(id: Uuid) -> usize {
    (id.as_u128() / 100) as usize
}

/// One operation of a lane.
async fn operate(store: &Store, number: usize, lane: &RefCell<Lane>, random: &mut Random) {
    let volume = id(number, random.below(VOLUMES_MAX));
    let there = lane.borrow().now.contains_key(&volume);
    if !there {
        if random.one_in(3) {
            let size = random.pick(&[64 << 10, 300 * BLOCK, 600 * BLOCK]);
            let writeback = random.one_in(2);
            lane.borrow_mut().size(volume, Some(size));
            let spec = spec(volume, size, writeback);
            let settings = spec.settings;
            let made = unless_full(store.create_volume(spec).await.map(|_| ()));
            let mut lane = lane.borrow_mut();
            if made {
                lane.now.get_mut(&volume).expect("just made").settings = Some(settings);
                all_durable(&mut lane);
            } else {
                lane.steps.pop();
                lane.now.remove(&volume);
            }
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
    let done = match random.below(24) {
        0 => {
            lane.borrow_mut().size(volume, None);
            assert!(store.delete_volume(volume).await.expect("a delete"));
            all_durable(&mut lane.borrow_mut());
            return;
        }
        1 => {
            let size = size + random.below(64) * BLOCK;
            let mut settings = handle.settings();
            settings.writeback = random.one_in(2);
            lane.borrow_mut().size(volume, Some(size));
            let change =
                VolumeChange { size_bytes: Some(size), settings: Some(settings), ..VolumeChange::default() };
            if unless_full(store.update_volume(volume, change).await) {
                all_durable(&mut lane.borrow_mut());
            } else {
                lane.borrow_mut().steps.pop();
                lane.borrow_mut().now.insert(volume, before);
            }
            return;
        }
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
            let expected = &lane.borrow().now[&volume].bytes[offset as usize..(offset + len) as usize];
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
            handle.write(offset, data, durability).await
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
            assert!(found.sums[block] == sum || found.sums[block] == before.sums[block], "block {block}");
            if found.sums[block] == sum {
                kept.push(step);
            }
        }
        lane.steps.extend(kept);
        let last_step = lane.steps.len();
        lane.now.insert(volume, Plain { settings: before.settings, last_step, ..found });
    }
}

fn all_durable(lane: &mut Lane) {
    (lane.acknowledged, lane.written, lane.durable) = (lane.steps.len(), lane.steps.len(), lane.steps.len());
}

/// Checkpoints, rounds of reclaim, and reads of whatever is there.
async fn disturb(store: &Store, lanes: &Lanes, random: &mut Random) {
    match random.below(6) {
        0 | 1 => {
            let at: Vec<_> = lanes.iter().map(|lane| lane.borrow().acknowledged).collect();
            if unless_full(if random.one_in(2) { store.checkpoint().await } else { store.reclaim().await }) {
                for (lane, at) in lanes.iter().zip(at) {
                    let mut lane = lane.borrow_mut();
                    lane.durable = lane.durable.max(at);
                    lane.written = lane.written.max(at);
                }
            }
        }
        2 | 3 => {
            let volumes = store.volumes();
            if let Some(volume) = volumes.get(random.below(volumes.len().max(1) as u64) as usize) {
                match read(volume, 0, volume.size_bytes()).await {
                    Ok(_) => {}
                    Err(error) => assert_eq!(error.kind(), Kind::NotFound, "{error}"),
                }
            }
        }
        _ => runtime::sleep(Duration::from_micros(random.below(20_000))).await,
    }
}

/// Everything that is in the store.
async fn observe(store: &Store, lanes: usize) -> Vec<State> {
    let mut found = vec![State::new(); lanes];
    for volume in store.volumes() {
        let bytes = read(&volume, 0, volume.size_bytes()).await.expect("all can be read");
        let plain = Plain { settings: Some(volume.settings()), ..Plain::new(bytes) };
        found[lane_of(volume.id())].insert(volume.id(), plain);
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
                let work =
                    join_all(lanes_ref.iter().zip(seeds).enumerate().map(async |(number, (lane, seed))| {
                        let mut random = Random::new(seed);
                        loop {
                            operate(store_ref, number, lane, &mut random).await;
                            // What is refused at once takes no time of its own.
                            runtime::sleep(Duration::from_micros(10)).await;
                        }
                    }));
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
        let death = random.pick(&[Death::Process, Death::Process, Death::Host, Death::Power, Death::Power]);
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
    let course = Course { lanes: 2, generations: 5, micros: 60_000 };
    for_seeds(20_000, 60, |seed| {
        live_and_die(seed, &course, |random| Shape { slots: 14 + random.below(20), ..Shape::random(random) });
    });
}
