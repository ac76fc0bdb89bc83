//! What the simulations share: a disk, a staging memory, the ways in which a machine dies, and
//! numbers from a seed.

use bytes::Bytes;
use sandstone_ring::{File, Placement, SharedMemory, sim::SimDisk};
use sandstone_storage::{
    Begun, Durability, Kind, Piece, RecoveryReport, Result, Settings, StoppedStore, Store, Volume,
    VolumeChange, VolumeSpec, sim::Parts,
};
use std::{cell::RefCell, sync::Arc};
use uuid::Uuid;

pub(crate) const BLOCK: u64 = 4096;

/// SplitMix64, as the simulated disk's own.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// A range of a volume: mostly short, at odd places or at whole blocks, here and there long.
    pub(crate) fn range(&mut self, size: u64) -> (u64, u64) {
        let offset = self.below(size);
        let len = match self.below(8) {
            0 => self.below(300_000),
            1 => self.below(200),
            _ => self.below(40_000),
        };
        let (offset, len) = match self.below(3) {
            0 => (offset, len),
            _ => (offset / BLOCK * BLOCK, len.next_multiple_of(BLOCK)),
        };
        (offset, len.clamp(1, size - offset))
    }

    /// Bytes for a write: noise, with zero blocks and repetitions among it.
    pub(crate) fn bytes(&mut self, len: u64) -> Bytes {
        let mut out = Vec::with_capacity(len as usize + BLOCK as usize);
        while out.len() < len as usize {
            match self.below(8) {
                0 => out.resize(out.len() + BLOCK as usize, 0),
                1 => out.resize(out.len() + BLOCK as usize, 0xa5),
                _ => {
                    let word = self.next() | 1;
                    (0..BLOCK / 8)
                        .for_each(|i| out.extend_from_slice(&(word ^ i << 40).to_le_bytes()));
                }
            }
        }
        out.truncate(len as usize);
        out.into()
    }
}

/// The measures of a store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) segment_blocks: u32,
    pub(crate) slots: u64,
    pub(crate) cache_bytes: u64,
    pub(crate) metadata_bytes: u64,
}

impl Shape {
    pub(crate) fn random(random: &mut Random) -> Self {
        let segment_blocks = random.pick(&[64, 64, 128]);
        let slots = if segment_blocks == 64 { 200 } else { 100 };
        Self {
            segment_blocks,
            slots,
            cache_bytes: random.pick(&[0, 200 << 10, 8 << 20]),
            metadata_bytes: random.pick(&[64 << 10, 400 << 10, 8 << 20]),
        }
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        (1 << 20) + self.slots * u64::from(self.segment_blocks) * BLOCK
    }
}

/// A machine with one store.
pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) shape: Shape,
    /// Bytes a second for reclaim while nobody waits.
    pub(crate) reclaim_rate: u64,
    /// Bytes a second for the scrub; 0 for none.
    pub(crate) scrub_rate: u64,
    staging: RefCell<Option<Arc<SharedMemory>>>,
    boot: u8,
}

/// Nothing that a test waits for.
const RECLAIM_RATE: u64 = 64 << 20;

/// What a staging memory holds.
pub(crate) fn content_of(memory: &SharedMemory) -> Vec<u8> {
    #[expect(unsafe_code, reason = "a copy of memory that an engine may share with other threads")]
    // SAFETY: a simulated engine runs on the thread that asks, and nowhere else.
    unsafe {
        memory.content()
    }
}

/// The ways to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Death {
    /// kill -9: staging and all that was written stays.
    Process,
    /// A panic of the kernel: staging is gone, and so is what the file system had not told its
    /// journal of.
    Host,
    /// What was not synced may be gone too.
    Power,
}

impl World {
    pub(crate) fn new(shape: Shape, seed: u64) -> Self {
        let disk = SimDisk::new(shape.size_bytes(), seed);
        Self {
            disk,
            shape,
            reclaim_rate: RECLAIM_RATE,
            scrub_rate: 0,
            staging: RefCell::new(None),
            boot: 1,
        }
    }

    /// A machine with its store on a block device, where the log never leaves a segment for one
    /// that is ready.
    pub(crate) fn on_device(shape: Shape, seed: u64) -> Self {
        let world = Self::new(shape, seed);
        world.disk.set_placement(Placement::Device);
        world
    }

    /// A machine with what another one left: its disk, and its staging memory if it is the same
    /// one, not booted since.
    pub(crate) fn on(disk: SimDisk, shape: Shape, staging: Option<Arc<SharedMemory>>) -> Self {
        let boot = 1;
        let staging = RefCell::new(staging);
        Self { disk, shape, reclaim_rate: RECLAIM_RATE, scrub_rate: 0, staging, boot }
    }

    /// The staging memory, once a store was opened.
    pub(crate) fn staging(&self) -> Option<Arc<SharedMemory>> {
        self.staging.borrow().clone()
    }

    /// What is in it.
    pub(crate) fn staging_content(&self) -> Option<Vec<u8>> {
        self.staging().map(|memory| content_of(&memory))
    }

    /// Puts another one there, with that content, or none.
    pub(crate) fn replace_staging(&self, content: Option<&[u8]>) {
        let memory =
            content.map(|content| Arc::new(SharedMemory::holding(content).expect("memory")));
        *self.staging.borrow_mut() = memory;
    }

    pub(crate) fn parts(&self) -> Parts {
        Parts {
            file: File::simulated(&self.disk),
            size_bytes: self.shape.size_bytes(),
            segment_blocks: self.shape.segment_blocks,
            boot: [self.boot; 16],
            cache_bytes: self.shape.cache_bytes,
            metadata_bytes: self.shape.metadata_bytes,
            reclaim_rate: self.reclaim_rate,
            scrub_rate: self.scrub_rate,
        }
    }

    pub(crate) async fn open(&self) -> Result<(Store, RecoveryReport)> {
        Store::open_on(self.parts(), |_, bytes| {
            let mut staging = self.staging.borrow_mut();
            let existed = staging.is_some();
            let memory = match staging.take() {
                Some(memory) => memory,
                None => Arc::new(SharedMemory::anonymous(bytes)?),
            };
            *staging = Some(Arc::clone(&memory));
            Ok((memory, existed))
        })
        .await
    }

    /// The store as it lies there while no server has it.
    pub(crate) fn stopped(&self) -> StoppedStore {
        StoppedStore::on(
            File::simulated(&self.disk),
            [self.boot; 16],
            self.staging.borrow().clone(),
        )
    }

    /// The same disk, as it is now, in a machine that was switched on; this one stays as it is.
    pub(crate) fn reboot(&self) -> Self {
        let disk = self.disk.kill(1);
        Self { disk, staging: RefCell::new(None), boot: self.boot + 1, ..*self }
    }

    /// The runtime must have been dropped.
    pub(crate) fn die(&mut self, death: Death, random: &mut Random) {
        let seed = random.next();
        self.disk = match death {
            Death::Process => self.disk.kill(seed),
            Death::Host => self.disk.kill_host(seed),
            Death::Power => self.disk.crash(seed),
        };
        if death != Death::Process {
            // Staging in the data directory outlives the boot, and must not be believed.
            self.boot += 1;
            if random.one_in(2) {
                self.staging.take();
            }
        }
    }
}

/// How thorough a suite is to be: quick by itself, whole where `SANDSTONE_PROOF` is set, as
/// `tests/run` does, and for hours where `SANDSTONE_LONG` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    Quick,
    Whole,
    Long,
}

impl Effort {
    pub(crate) fn asked() -> Self {
        let is_set = |name: &str| std::env::var_os(name).is_some();
        if is_set("SANDSTONE_LONG") {
            Self::Long
        } else if is_set("SANDSTONE_PROOF") {
            Self::Whole
        } else {
            Self::Quick
        }
    }
}

/// Says which seed it was when a test panics.
pub(crate) struct Seed(pub(crate) u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {}: run it alone with SEED={}", self.0, self.0);
        }
    }
}

/// Runs `one` for `count` seeds, or for the one in the environment.
pub(crate) fn for_seeds(first: u64, count: u64, one: impl Fn(u64)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + number("SEEDS").unwrap_or(count),
    };
    println!("seeds {seeds:?}");
    for seed in seeds {
        let _seed = Seed(seed);
        if std::env::var("LOUD").is_ok() {
            println!("seed {seed}");
        }
        one(seed);
    }
}

pub(crate) fn spec(id: Uuid, size_bytes: u64, writeback: bool) -> VolumeSpec {
    let settings =
        Settings { cache_bytes: 1 << 20, buffer_bytes: 1 << 20, prefetch_mib: 0, writeback };
    VolumeSpec { id, size_bytes, settings, attributes: Vec::new() }
}

pub(crate) async fn read(volume: &Volume, offset: u64, len: u64) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(len as usize);
    for piece in volume.read(offset, len as u32).await? {
        match piece {
            Piece::Data(data) => out.extend_from_slice(&data),
            Piece::Zero { len } => out.resize(out.len() + len as usize, 0),
        }
    }
    assert_eq!(out.len() as u64, len);
    Ok(out)
}

/// `Ok(true)` when it was done, `Ok(false)` for want of space.
pub(crate) fn unless_full(result: Result<()>) -> bool {
    match result {
        Ok(()) => true,
        Err(error) if error.kind() == Kind::NoSpace => false,
        Err(error) => panic!("{:?}: {error} {:?}", error.kind(), std::error::Error::source(&error)),
    }
}

/// A small store without a cache of data, so that what is not staged is read from the disk.
pub(crate) fn shape() -> Shape {
    Shape { segment_blocks: 64, slots: 40, cache_bytes: 0, metadata_bytes: 1 << 20 }
}

pub(crate) fn name(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// Blocks that tell their place and what they were written for.
pub(crate) fn filled(blocks: u64, tag: u8) -> Bytes {
    (0..blocks * BLOCK).map(|i| (i / BLOCK) as u8 ^ tag | 1).collect::<Vec<_>>().into()
}

pub(crate) async fn volume(store: &Store, number: u128, blocks: u64, writeback: bool) -> Volume {
    let made = store.create_volume(spec(name(number), blocks * BLOCK, writeback)).await;
    made.expect("a new volume")
}

pub(crate) async fn write(volume: &Volume, block: u64, data: &Bytes) {
    volume.write(block * BLOCK, data.clone(), Durability::Volatile).await.expect("a write");
}

/// Writes as a server does: at once where nothing is in the way, else with whatever has to be
/// waited for. Which of them is tried is up to the place.
pub(crate) async fn write_either_way(
    volume: &Volume,
    offset: u64,
    data: Bytes,
    durability: Durability,
) -> Result<()> {
    let tries = durability == Durability::Volatile && (offset / BLOCK).is_multiple_of(2);
    match tries.then(|| volume.write_now(offset, &data)).flatten() {
        Some(Begun::Done) => Ok(()),
        Some(Begun::Logged(receipt)) => receipt.written().await,
        Some(Begun::Started(rest)) => rest.finish().await,
        None => volume.write(offset, data, durability).await,
    }
}

pub(crate) async fn assert_holds(volume: &Volume, block: u64, data: &Bytes) {
    let found = read(volume, block * BLOCK, data.len() as u64).await.expect("a read");
    assert!(found == data[..], "block {block} and on");
}

pub(crate) async fn trim(volume: &Volume, block: u64, blocks: u64) {
    volume.trim(block * BLOCK, blocks * BLOCK, Durability::Volatile).await.expect("a trim");
}

/// Changes the settings of a volume.
pub(crate) async fn change(store: &Store, number: u128, change: impl FnOnce(&mut Settings)) {
    let mut settings = store.volume(name(number)).expect("the volume").settings();
    change(&mut settings);
    let change = VolumeChange { settings: Some(settings), ..VolumeChange::default() };
    store.update_volume(name(number), change).await.expect("a change");
}

/// Writes so much to a new volume, of this number and a thousand, that nothing before it is in
/// staging.
pub(crate) async fn leave_staging(store: &Store, number: u128) {
    let other = volume(store, number + 1000, 400, false).await;
    write(&other, 0, &filled(200, 1)).await;
    write(&other, 200, &filled(200, 1)).await;
}
