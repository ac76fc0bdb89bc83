//! Random operations against a plain byte array a volume, with the state that block status tells.
//!
//! Most operations run one at a time; some in groups at once, on ranges that may overlap. Of a group each block must end
//! as some order of the group's operations leaves it (a request may be cut where staging ends, so blocks are the unit).

mod world;

use bytes::Bytes;
use futures_util::future::join_all;
use sandstone_storage::{
    Allocation, Durability, ExtentState, Health, Kind, Runtime, Store, Volume, VolumeChange, runtime,
};
use std::{collections::BTreeMap, time::Duration};
use uuid::Uuid;
use world::{BLOCK, Death, Random, Shape, World, for_seeds, read, spec, unless_full};

const VOLUMES_MAX: u64 = 4;

struct Plain {
    bytes: Vec<u8>,
    states: Vec<ExtentState>,
}

impl Plain {
    fn new(size: u64) -> Self {
        Self { bytes: vec![0; size as usize], states: vec![ExtentState::Hole; (size / BLOCK) as usize] }
    }

    fn block(&self, block: usize) -> (&[u8], ExtentState) {
        (&self.bytes[block * BLOCK as usize..(block + 1) * BLOCK as usize], self.states[block])
    }

    fn cell(&self, block: usize) -> Cell {
        let (bytes, state) = self.block(block);
        (bytes.to_vec(), state)
    }

    fn set(&mut self, block: usize, (bytes, state): (&[u8], ExtentState)) {
        self.bytes[block * BLOCK as usize..(block + 1) * BLOCK as usize].copy_from_slice(bytes);
        self.states[block] = state;
    }

    fn used_bytes(&self) -> u64 {
        self.states.iter().filter(|s| **s == ExtentState::Data).count() as u64 * BLOCK
    }
}

/// One block and its state.
type Cell = (Vec<u8>, ExtentState);

#[derive(Clone, Debug)]
enum Change {
    Write { offset: u64, data: Bytes },
    Trim { offset: u64, len: u64 },
    Zeroes { offset: u64, len: u64, allocation: Allocation },
}

impl Change {
    fn random(random: &mut Random, size: u64) -> Self {
        let (offset, len) = random.range(size);
        match random.below(6) {
            0 => Self::Trim { offset, len },
            1 => Self::Zeroes { offset, len, allocation: Allocation::Hole },
            2 => Self::Zeroes { offset, len, allocation: Allocation::Reserve },
            _ => Self::Write { offset, data: random.bytes(len) },
        }
    }

    fn blocks(&self) -> std::ops::Range<usize> {
        let (offset, len) = match self {
            Self::Write { offset, data } => (*offset, data.len() as u64),
            Self::Trim { offset, len } | Self::Zeroes { offset, len, .. } => (*offset, *len),
        };
        (offset / BLOCK) as usize..(offset + len).div_ceil(BLOCK) as usize
    }

    async fn send(&self, volume: &Volume, durability: Durability) -> bool {
        unless_full(match self {
            Self::Write { offset, data } => volume.write(*offset, data.clone(), durability).await,
            Self::Trim { offset, len } => volume.trim(*offset, *len, durability).await,
            Self::Zeroes { offset, len, allocation } => {
                volume.write_zeroes(*offset, *len, *allocation, durability).await
            }
        })
    }

    fn apply(&self, plain: &mut Plain) {
        for block in self.blocks() {
            let mut cell = plain.cell(block);
            self.apply_to(block, &mut cell);
            plain.set(block, (&cell.0, cell.1));
        }
    }

    /// What it makes of one block.
    fn apply_to(&self, block: usize, (bytes, state): &mut Cell) {
        let start = block as u64 * BLOCK;
        let part = |offset: u64, len: u64| {
            let (from, to) = (offset.max(start), (offset + len).min(start + BLOCK));
            (from - start) as usize..(to - start) as usize
        };
        let whole = |range: &std::ops::Range<usize>| range.len() as u64 == BLOCK;
        match self {
            Self::Trim { offset, len } => {
                let range = part(*offset, *len);
                if whole(&range) {
                    bytes[range].fill(0);
                    *state = ExtentState::Hole;
                }
            }
            Self::Zeroes { offset, len, allocation } => {
                let range = part(*offset, *len);
                bytes[range.clone()].fill(0);
                *state = match (whole(&range), allocation) {
                    (true, Allocation::Reserve) => ExtentState::Zero,
                    (true, Allocation::Hole) => ExtentState::Hole,
                    (false, _) => Self::told(bytes),
                };
            }
            Self::Write { offset, data } => {
                let range = part(*offset, data.len() as u64);
                let from = (start + range.start as u64 - offset) as usize;
                bytes[range.clone()].copy_from_slice(&data[from..from + range.len()]);
                *state = Self::told(bytes);
            }
        }
    }

    /// What a block becomes that is written: zeroes take no room.
    fn told(bytes: &[u8]) -> ExtentState {
        if bytes.iter().all(|b| *b == 0) { ExtentState::Hole } else { ExtentState::Data }
    }
}

type Model = BTreeMap<Uuid, Plain>;

async fn found(volume: &Volume, blocks: std::ops::Range<usize>) -> Plain {
    let (offset, len) = (blocks.start as u64 * BLOCK, blocks.len() as u64 * BLOCK);
    let bytes = read(volume, offset, len).await.expect("a read");
    let mut states = Vec::new();
    while states.len() < blocks.len() {
        let at = offset + states.len() as u64 * BLOCK;
        let extents = volume.block_status(at, offset + len - at, 3).await.expect("block status");
        assert!((1..=3).contains(&extents.len()));
        for extent in extents {
            assert!(extent.len_bytes > 0 && extent.len_bytes % BLOCK == 0);
            states.extend(std::iter::repeat_n(extent.state, (extent.len_bytes / BLOCK) as usize));
        }
    }
    Plain { bytes, states }
}

async fn check(volume: &Volume, plain: &Plain) {
    assert_eq!(volume.size_bytes(), plain.bytes.len() as u64);
    let found = found(volume, 0..plain.states.len()).await;
    for block in 0..plain.states.len() {
        assert!(found.block(block) == plain.block(block), "block {block} of {}", volume.id());
    }
    assert_eq!(volume.used_bytes(), plain.used_bytes());
}

/// All orders of a few changes.
fn orders(of: usize) -> Vec<Vec<usize>> {
    if of == 0 {
        return vec![Vec::new()];
    }
    let insert = |order: &Vec<usize>, at: usize| {
        let mut order = order.clone();
        order.insert(at, of - 1);
        order
    };
    orders(of - 1).iter().flat_map(|order| (0..of).map(|at| insert(order, at)).collect::<Vec<_>>()).collect()
}

/// Some changes at once, with reads among them.
async fn at_once(volume: &Volume, plain: &mut Plain, random: &mut Random, count: u64) {
    let size = volume.size_bytes();
    let changes: Vec<_> = (0..count).map(|_| Change::random(random, size)).collect();
    let durability = random.pick(&[Durability::Volatile, Durability::Volatile, Durability::Fua]);
    let reads = [random.range(size), random.range(size)].map(async |(offset, len)| {
        read(volume, offset, len).await.expect("a read");
    });
    let sent = join_all(changes.iter().map(|change| change.send(volume, durability)));
    let (sent, _) = futures_util::future::join(sent, join_all(reads)).await;
    let full = sent.contains(&false);
    let first = changes.iter().map(|c| c.blocks().start).min().expect("one at least");
    let end = changes.iter().map(|c| c.blocks().end).max().expect("one at least");
    let found = found(volume, first..end).await;
    for block in first..end {
        let concerned: Vec<_> = changes.iter().filter(|c| c.blocks().contains(&block)).collect();
        let fits = |order: &[usize]| {
            let mut twin = plain.cell(block);
            order.iter().for_each(|i| concerned[*i].apply_to(block, &mut twin));
            (&twin.0[..], twin.1) == found.block(block - first)
        };
        let mut possible = orders(concerned.len());
        if full {
            // Any of them may not have come that far.
            possible = possible.iter().flat_map(|o| (0..=o.len()).map(|n| o[..n].to_vec())).collect();
        }
        assert!(
            possible.iter().any(|order| fits(order)),
            "block {block} is as no order of {changes:?} leaves it"
        );
        plain.set(block, found.block(block - first));
    }
}

async fn step(store: &Store, model: &mut Model, random: &mut Random) {
    let id = Uuid::from_u128(1 + u128::from(random.below(VOLUMES_MAX)));
    let Some(plain) = model.get_mut(&id) else {
        assert!(store.volume(id).is_none());
        let size = BLOCK * (1 + random.below(700));
        let made = store.create_volume(spec(id, size, random.one_in(2))).await;
        if unless_full(made.map(|_| ())) {
            model.insert(id, Plain::new(size));
        }
        return;
    };
    let volume = store.volume(id).expect("the model has it");
    let size = volume.size_bytes();
    match random.below(30) {
        0 => {
            assert!(store.delete_volume(id).await.expect("a delete"));
            assert!(!store.delete_volume(id).await.expect("a second one"));
            for error in [
                volume.flush().await.err(),
                volume.read(0, 1).await.err(),
                volume.trim(0, size, Durability::Volatile).await.err(),
            ] {
                assert_eq!(error.map(|e| e.kind()), Some(Kind::NotFound));
            }
            model.remove(&id);
        }
        1 => {
            let size = size + BLOCK * random.below(100);
            let mut settings = volume.settings();
            settings.writeback = random.one_in(2);
            let change =
                VolumeChange { size_bytes: Some(size), settings: Some(settings), ..VolumeChange::default() };
            if unless_full(store.update_volume(id, change).await) {
                plain.bytes.resize(size as usize, 0);
                plain.states.resize((size / BLOCK) as usize, ExtentState::Hole);
                assert_eq!(volume.settings(), settings);
            }
            let size = volume.size_bytes();
            let smaller = VolumeChange { size_bytes: Some(size - BLOCK), ..VolumeChange::default() };
            if size > BLOCK {
                let refused = store.update_volume(id, smaller).await.map_err(|e| e.kind());
                assert_eq!(refused, Err(Kind::Invalid));
            }
        }
        2 => volume.flush().await.expect("a flush"),
        3 => drop(unless_full(store.checkpoint().await)),
        4 => drop(unless_full(store.reclaim().await)),
        5 => runtime::sleep(Duration::from_millis(random.pick(&[1, 300, 7000]))).await,
        6 => check(&volume, plain).await,
        7..=10 => {
            let (offset, len) = random.range(size);
            let bytes = read(&volume, offset, len).await.expect("a read");
            assert!(
                bytes == plain.bytes[offset as usize..(offset + len) as usize],
                "{len} bytes at {offset}"
            );
        }
        11 => {
            let refused = volume.write(size - 1, Bytes::from_static(b"xy"), Durability::Volatile).await;
            assert_eq!(refused.map_err(|e| e.kind()), Err(Kind::OutOfRange));
            let (offset, len) = random.range(size);
            volume.prefetch(offset, len).await.expect("a prefetch");
            volume.write(offset, Bytes::new(), Durability::Fua).await.expect("nothing to write");
            assert!(volume.block_status(offset, 0, 1).await.expect("nothing to tell").is_empty());
        }
        12..=15 => {
            let count = 2 + random.below(2);
            at_once(&volume, plain, random, count).await;
        }
        _ => {
            let change = Change::random(random, size);
            let durability = if random.one_in(8) { Durability::Fua } else { Durability::Volatile };
            if change.send(&volume, durability).await {
                change.apply(plain);
            } else {
                let blocks = change.blocks();
                let found = found(&volume, blocks.clone()).await;
                for block in blocks.clone() {
                    let mut after = plain.cell(block);
                    change.apply_to(block, &mut after);
                    let now = found.block(block - blocks.start);
                    assert!(now == plain.block(block) || now == (&after.0[..], after.1), "block {block}");
                    plain.set(block, now);
                }
            }
        }
    }
}

fn sequence(seed: u64, shape: Shape, steps: u64) {
    let mut random = Random::new(seed);
    let mut world = World::new(shape, random.next());
    let mut model = Model::new();
    let mut left = steps;
    let mut clean = true;
    while left > 0 {
        let now = (1 + random.below(120)).min(left);
        left -= now;
        let simulation = Runtime::simulated(random.next());
        let close = random.one_in(2);
        simulation.block_on(async {
            let (store, report) = world.open().await.expect("the store opens");
            assert_eq!(store.health(), Health::Ready);
            assert_eq!(report.volumes, model.len());
            assert!(!clean || report.created || report.clean, "{report:?}");
            assert_eq!(store.volumes().len(), model.len());
            for (id, plain) in &model {
                check(&store.volume(*id).expect("the model has it"), plain).await;
            }
            for _ in 0..now {
                step(&store, &mut model, &mut random).await;
            }
            for (id, plain) in &model {
                check(&store.volume(*id).expect("the model has it"), plain).await;
            }
            assert_eq!(store.stats().corrupt_blocks, 0);
            clean = close && unless_full(store.clone().close().await);
        });
        drop(simulation);
        world.die(Death::Process, &mut random);
    }
}

#[test]
fn volumes_equal_plain_arrays() {
    for_seeds(1, 250, |seed| sequence(seed, Shape::random(&mut Random::new(seed)), 250));
}

#[test]
fn volumes_equal_plain_arrays_in_small_stores() {
    for_seeds(50_000, 150, |seed| {
        let mut random = Random::new(seed);
        let shape = Shape { slots: 14 + random.below(30), ..Shape::random(&mut random) };
        sequence(seed, shape, 300);
    });
}

#[test]
fn same_seed_is_the_same_course_of_events() {
    let course = || {
        let world = World::new(Shape::random(&mut Random::new(3)), 3);
        let mut random = Random::new(3);
        Runtime::simulated(3).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let mut model = Model::new();
            for _ in 0..300 {
                step(&store, &mut model, &mut random).await;
            }
        });
        (world.disk.fingerprint(), random.next())
    };
    assert_eq!(course(), course());
}
