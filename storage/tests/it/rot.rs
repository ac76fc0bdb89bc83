//! Bit rot (P4, P8): one bit of every byte of a small store that anybody reads is flipped, one at a
//! time. Whatever is read then is right, or an error, or the store says that it is damaged; never
//! wrong bytes, a panic, or an opening without end. And sectors that cannot be read any more, one
//! at a time: the store opens.
//!
//! What is tried, by what a block holds (its magic tells, `FORMAT.md`):
//! - superblocks: all bytes, each with an opening of the store;
//! - headers, footers, nodes, catalog: all bytes that are not the zeroes at their end, each with an
//!   opening;
//! - data: all bytes in a store that is open and caches nothing, and some with an opening, because
//!   replay compares data that is not known to be synced.
//!
//! Skipped is the zero tail of the others, but for a byte here and there: a header's is covered by
//! no checksum because nobody reads it; a node's and a catalog chunk's is covered by the same
//! checksum as the rest. Blocks that are all zero are no store's, but for the last one of the log's
//! segment, of which one byte is tried.

use crate::enumeration::{
    lines::{
        CELL, CELLS_A_BLOCK, Lines, Timeline, bytes_of, cells_of, snapshot_id, volume_id, word,
    },
    verdict::in_time,
};
use crate::world::{BLOCK, Effort, Shape, World, read, spec};
use sandstone_ring::{Runtime, SharedMemory, sim::SimDisk};
use sandstone_storage::{Durability, ForkSpec, Health, Kind, Store, VolumeChange, VolumeSpec};
use std::{collections::BTreeMap, ops::Range, sync::Arc};

const SHAPE: Shape = Shape { segment_blocks: 64, slots: 10, cache_bytes: 0, metadata_bytes: 0 };
const MAIN: u64 = 1;
const FORK: u64 = 2;
const MAIN_BLOCKS: u64 = 12;

/// How the store was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Closed,
    /// The process was killed, and staging has the end of the log too.
    Killed,
    /// The host went down with it.
    SwitchedOff,
    /// The same, with segments in slots that others were in when the checkpoint before the last was
    /// made.
    Worn,
}

/// A store as it was left, and what is in it.
struct Specimen {
    disk: SimDisk,
    staging: Option<Arc<[u8]>>,
    lines: Lines,
    /// Before the last batch. That one's damage looks like a torn end of the log, because nothing
    /// behind it says that it was synced.
    before_last: Lines,
    /// The bytes of the last batch.
    last: Range<u64>,
}

async fn write(store: &Store, timeline: &mut Timeline, number: u64, block: u64, blocks: u64) {
    let (id, version) = (volume_id(number), timeline.version());
    let from = block * CELLS_A_BLOCK;
    let cells: Vec<_> =
        (from..from + blocks * CELLS_A_BLOCK).map(|cell| word(id, cell, version)).collect();
    timeline.fill(id, from, &cells);
    let volume = store.volume(id).expect("it was made");
    volume.write(from * CELL, bytes_of(&cells), Durability::Volatile).await.expect("a write");
}

/// A volume that has grown, a snapshot and a fork of it, a checkpoint, a sealed segment behind it,
/// and an end of the log.
fn specimen(left: Left) -> Specimen {
    let world = World::new(SHAPE, 7);
    let mut timeline = Timeline::new(Lines::default());
    let t = &mut timeline;
    Runtime::simulated(7).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let main = volume_id(MAIN);
        let made = VolumeSpec { attributes: vec![7; 40], ..spec(main, MAIN_BLOCKS * BLOCK, false) };
        store.create_volume(made).await.expect("a volume");
        t.step(main, |lines| {
            drop(lines.0.insert(main, vec![0; (MAIN_BLOCKS * CELLS_A_BLOCK) as usize]))
        });
        write(&store, t, MAIN, 0, 5).await;
        write(&store, t, MAIN, 9, 2).await;
        let snapshot = snapshot_id(main, 1);
        store.create_snapshot(main, snapshot, Vec::new()).await.expect("a snapshot");
        t.step(main, |lines| drop(lines.0.insert(snapshot, lines.0[&main].clone())));
        let cells = MAIN_BLOCKS * CELLS_A_BLOCK + 12;
        let grow = VolumeChange { size_bytes: Some(cells * CELL), ..VolumeChange::default() };
        store.update_volume(main, grow).await.expect("a resize");
        t.step(main, |lines| {
            lines.0.get_mut(&main).expect("it is there").resize(cells as usize, 0)
        });
        let fork = volume_id(FORK);
        let fork_spec =
            ForkSpec { id: fork, size_bytes: None, settings: None, attributes: Vec::new() };
        store.create_fork(main, fork_spec).await.expect("a fork");
        t.step(fork, |lines| drop(lines.0.insert(fork, lines.0[&main].clone())));
        write(&store, t, MAIN, 2, 2).await;
        store.checkpoint().await.expect("a checkpoint");
        if left == Left::Worn {
            for round in 0..14 {
                write(&store, t, [MAIN, FORK][round % 2], 0, 11).await;
                store.volume(main).expect("the volume").flush().await.expect("a flush");
                if round % 3 == 2 {
                    store.reclaim().await.expect("a reclaim");
                }
            }
        }
        // Nodes that are on disk are changed by what is replayed.
        for round in 0..5 {
            write(&store, t, [MAIN, FORK][round % 2], 1, 10).await;
        }
        store.volume(fork).expect("the fork").flush().await.expect("a flush");
        write(&store, t, MAIN, 6, 2).await;
        store
            .volume(main)
            .expect("the volume")
            .trim(0, BLOCK, Durability::Fua)
            .await
            .expect("a trim");
        t.fill(main, 0, &[0; CELLS_A_BLOCK as usize]);
        write(&store, t, MAIN, 9, 1).await;
        store.volume(main).expect("the volume").flush().await.expect("a flush");
        if left == Left::Closed {
            store.close().await.expect("an end");
        }
    });
    let staging = match left {
        Left::Killed => world.staging_content().map(Into::into),
        Left::Closed | Left::SwitchedOff | Left::Worn => None,
    };
    let (disk, states) = (world.disk.copy(), &timeline.states);
    let before_last = states[states.len() - 2].clone();
    Specimen { last: last_batch(&disk), disk, staging, lines: timeline.now().clone(), before_last }
}

/// Where the batch of the highest LSN is.
fn last_batch(disk: &SimDisk) -> Range<u64> {
    let batch = |at: u64| {
        let block = disk.peek(at, BLOCK as usize);
        let lsn = u64::from_le_bytes(block[32..40].try_into().expect("eight bytes"));
        let data_blocks = u32::from_le_bytes(block[56..60].try_into().expect("four bytes"));
        (holds(&block) == Holds::Header)
            .then(|| (lsn, at..at + (1 + u64::from(data_blocks)) * BLOCK))
    };
    let batches = (0..SHAPE.size_bytes()).step_by(BLOCK as usize).filter_map(batch);
    batches.max_by_key(|(lsn, _)| *lsn).expect("there is a log").1
}

/// What rots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rot {
    /// A bit of a byte.
    Bit,
    /// The whole sector, which the device does not give any more.
    Sector,
}

/// What that led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    AllRight,
    /// Reading something fails.
    Unreadable,
    /// The store is open for reading only and says why.
    ReadOnly,
    /// The store does not open and says why.
    Refused,
}

/// Whether a cell that is not what it should be is at least what it once was: the store has said
/// that something is lost.
fn is_older(cell: u64, index: usize, right: u64) -> bool {
    let place = |word: u64| (word >> 32 & 0xffff) as usize;
    cell == 0
        || (place(cell) == index
            && [MAIN, FORK].contains(&(cell >> 48))
            && (right == 0 || cell < right || cell >> 48 != right >> 48))
}

impl Specimen {
    /// The machine once more, with one bit flipped or one sector that cannot be read any more.
    fn rotten(&self, byte: u64, rot: Rot) -> World {
        let disk = self.disk.copy();
        match rot {
            Rot::Bit => disk.flip_bit(byte, (byte % 8) as u8),
            Rot::Sector => disk.spoil_sector(byte),
        }
        let held = |bytes: &Arc<[u8]>| Arc::new(SharedMemory::holding(bytes).expect("memory"));
        let staging = self.staging.as_ref().map(held);
        World::on(disk, SHAPE, staging)
    }

    /// Opens the store and reads everything, block by block.
    fn open(&self, byte: u64, rot: Rot) -> Result<Outcome, String> {
        let world = self.rotten(byte, rot);
        in_time(byte, async {
            let store = match world.open().await {
                Ok((store, _)) => store,
                Err(error) if [Kind::Corrupt, Kind::Io].contains(&error.kind()) => {
                    return Ok(Outcome::Refused);
                }
                Err(error) => return Err(format!("it does not open: {:?} {error}", error.kind())),
            };
            let told = match store.health() {
                Health::Ready => Outcome::AllRight,
                Health::Corrupt(_) => Outcome::ReadOnly,
                Health::Starved(why) | Health::Latched(why) => {
                    return Err(format!("nothing failed: {why}"));
                }
            };
            let read = self.read_all(&store, told, self.last.contains(&byte)).await?;
            store.close().await.map_err(|error| format!("it does not close: {error}"))?;
            Ok(told.max(read))
        })
    }

    async fn read_all(
        &self,
        store: &Store,
        told: Outcome,
        in_last: bool,
    ) -> Result<Outcome, String> {
        let mut outcome = Outcome::AllRight;
        let snapshots: BTreeMap<_, _> =
            store.all_snapshots().into_iter().map(|(_, s)| (s.id(), s)).collect();
        for (id, cells) in &self.lines.0 {
            let name = id.as_u128();
            let Some(line) = store.volume(*id).or_else(|| snapshots.get(id).cloned()) else {
                if told == Outcome::AllRight {
                    return Err(format!("{name} is gone"));
                }
                continue;
            };
            if line.size_bytes() != cells.len() as u64 * CELL && told == Outcome::AllRight {
                return Err(format!("{name} has {} bytes", line.size_bytes()));
            }
            for at in (0..line.size_bytes()).step_by(BLOCK as usize) {
                let len = BLOCK.min(line.size_bytes() - at);
                let bytes = match read(&line, at, len).await {
                    Ok(bytes) => bytes,
                    Err(error) if [Kind::Corrupt, Kind::Io].contains(&error.kind()) => {
                        outcome = Outcome::Unreadable;
                        continue;
                    }
                    Err(error) => {
                        return Err(format!("{name} at {at}: {:?} {error}", error.kind()));
                    }
                };
                for (i, cell) in cells_of(&bytes)?.into_iter().enumerate() {
                    let index = (at / CELL) as usize + i;
                    let right = cells.get(index).copied().unwrap_or(0);
                    let before = self.before_last.0[id].get(index).copied().unwrap_or(0);
                    if in_last && cell == before {
                        continue;
                    }
                    if cell != right && (told == Outcome::AllRight || !is_older(cell, index, right))
                    {
                        return Err(format!("{name} cell {index} is {cell:x}, not {right:x}"));
                    }
                }
            }
        }
        Ok(outcome)
    }

    /// Flips a bit of each of these bytes, of data, in the open store.
    fn flip_under(&self, bytes: &[u64]) -> Result<BTreeMap<Outcome, u64>, String> {
        let world = self.rotten(0, Rot::Bit);
        world.disk.flip_bit(0, 0);
        let mut outcomes = BTreeMap::new();
        in_time(1, async {
            let (store, _) =
                world.open().await.map_err(|error| format!("it does not open: {error}"))?;
            // Which block of which line lies where is found by what is in it.
            for page in bytes.chunk_by(|a, b| a / BLOCK == b / BLOCK) {
                let content = cells_of(&world.disk.peek(page[0] / BLOCK * BLOCK, BLOCK as usize))?;
                let held = |cells: &Vec<u64>| {
                    cells
                        .chunks(CELLS_A_BLOCK as usize)
                        .position(|block| content.starts_with(block))
                };
                let holders: Vec<_> = self
                    .lines
                    .0
                    .iter()
                    .filter_map(|(id, cells)| Some((*id, held(cells)?)))
                    .collect();
                for byte in page {
                    world.disk.flip_bit(*byte, (byte % 8) as u8);
                    let mut outcome = Outcome::AllRight;
                    for (id, block) in &holders {
                        let line =
                            store.volume(*id).or_else(|| store.snapshot(volume_id(MAIN), *id));
                        let line = line.ok_or("a line is gone")?;
                        let at = *block as u64 * BLOCK;
                        let len = BLOCK.min(line.size_bytes() - at);
                        match read(&line, at, len).await {
                            Err(error) if error.kind() == Kind::Corrupt => {
                                outcome = Outcome::Unreadable
                            }
                            Err(error) => return Err(format!("byte {byte}: {error}")),
                            Ok(bytes) => {
                                let right = &self.lines.0[id][*block * CELLS_A_BLOCK as usize..];
                                if bytes[..] != bytes_of(&right[..(len / CELL) as usize])[..] {
                                    return Err(format!(
                                        "byte {byte}: wrong bytes of {}",
                                        id.as_u128()
                                    ));
                                }
                            }
                        }
                    }
                    *outcomes.entry(outcome).or_default() += 1;
                    world.disk.flip_bit(*byte, (byte % 8) as u8);
                }
            }
            Ok(())
        })?;
        Ok(outcomes)
    }
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holds {
    Superblock,
    Header,
    Footer,
    Node,
    Catalog,
    Data,
    Nothing,
}

fn holds(block: &[u8]) -> Holds {
    match &block[..4] {
        b"SAND" => Holds::Superblock,
        b"SSB1" => Holds::Header,
        b"SSL1" | b"SSI1" => Holds::Node,
        b"SSC1" | b"SSV1" | b"SSX1" => Holds::Catalog,
        _ if &block[BLOCK as usize - 128..][..4] == b"SSF1" => Holds::Footer,
        _ if block.iter().all(|byte| *byte == 0) => Holds::Nothing,
        _ => Holds::Data,
    }
}

/// How often what led to what.
type Outcomes = BTreeMap<(Holds, Outcome), u64>;

/// What is tried of a store: bytes with what their block holds, each with an opening; and bytes
/// under an open store.
struct Trials {
    opened: Vec<(Holds, u64)>,
    under: Vec<u64>,
}

impl Trials {
    /// Every `stride`th byte of all that anybody reads.
    fn of(specimen: &Specimen, stride: usize) -> Self {
        let (mut opened, mut under) = (Vec::new(), Vec::new());
        for at in (0..SHAPE.size_bytes()).step_by(BLOCK as usize) {
            let block = specimen.disk.peek(at, BLOCK as usize);
            let end = block.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
            let what = holds(&block);
            let bytes = match what {
                Holds::Superblock => BLOCK,
                Holds::Header | Holds::Footer | Holds::Node | Holds::Catalog => end,
                Holds::Data => 0,
                Holds::Nothing => u64::from((at + BLOCK).is_multiple_of(64 * BLOCK)),
            };
            opened.extend((0..bytes).map(|byte| (what, at + byte)));
            if what != Holds::Nothing {
                opened.extend((bytes..BLOCK).step_by(509).map(|byte| (what, at + byte)));
            }
            if what == Holds::Data {
                under.extend(at..at + BLOCK);
            }
        }
        let opened = opened.into_iter().step_by(stride).collect();
        Self { opened, under: under.into_iter().step_by(stride).collect() }
    }

    /// Tries those with an opening whose number leaves this rest.
    fn open(&self, specimen: &Specimen, rest: usize, of: usize) -> Result<Outcomes, String> {
        let mut outcomes = Outcomes::new();
        for (what, byte) in self.opened.iter().skip(rest).step_by(of) {
            let outcome = specimen
                .open(*byte, Rot::Bit)
                .map_err(|why| format!("{what:?} at {byte}: {why}"))?;
            *outcomes.entry((*what, outcome)).or_default() += 1;
        }
        Ok(outcomes)
    }

    fn under(&self, specimen: &Specimen) -> Result<Outcomes, String> {
        let mut outcomes = Outcomes::new();
        // An opening for each so many, because its virtual time is bounded.
        for bytes in self.under.chunks(BLOCK as usize) {
            for (outcome, count) in specimen.flip_under(bytes)? {
                *outcomes.entry((Holds::Data, outcome)).or_default() += count;
            }
        }
        Ok(outcomes)
    }
}

/// Tries a store that was left like this on two threads, and tells what came of it.
fn rot(left: Left) {
    let specimen = specimen(left);
    let trials = Trials::of(&specimen, stride());
    let mut outcomes = trials.under(&specimen).expect("rot under an open store");
    let opened = std::thread::scope(|scope| {
        let halves = [0, 1].map(|half| {
            let (trials, specimen) = (&trials, &specimen);
            scope.spawn(move || trials.open(specimen, half, 2))
        });
        halves.map(|half| {
            half.join().expect("no panic, whatever rots").expect("rot before an opening")
        })
    });
    for (key, count) in opened.into_iter().flatten() {
        *outcomes.entry(key).or_default() += count;
    }
    println!(
        "{left:?}: {} flips with an opening, {} under an open store",
        trials.opened.len(),
        trials.under.len()
    );
    outcomes
        .iter()
        .for_each(|((what, outcome), count)| println!("  {what:?} {outcome:?}: {count}"));
    let noticed: u64 =
        outcomes.iter().filter(|((_, o), _)| *o != Outcome::AllRight).map(|(_, n)| n).sum();
    assert!(noticed > 1000, "{noticed} are noticed");
}

/// Some of the same on this thread, for an engine that may be blind: a look at all kinds of blocks,
/// and all of the nodes.
///
/// # Errors
/// What was wrong.
#[allow(dead_code, reason = "only the check for blindness calls it")]
pub(crate) fn rot_on_this_thread() -> Result<(), String> {
    let specimen = specimen(Left::Closed);
    let (some, mut nodes) = (Trials::of(&specimen, 31), Trials::of(&specimen, 1));
    nodes.opened.retain(|(what, _)| *what == Holds::Node);
    some.under(&specimen)?;
    nodes.open(&specimen, 0, 1)?;
    some.open(&specimen, 0, 1).map(drop)
}

/// A quick look leaves most bytes out, at odd places.
fn stride() -> usize {
    match Effort::asked() {
        Effort::Quick => 31,
        Effort::Whole | Effort::Long => 1,
    }
}

/// Each sector of all that is there, one at a time: whatever it holds, the store opens, and what
/// else is there is read.
fn unreadable_sectors(left: Left) {
    let specimen = specimen(left);
    let mut outcomes = Outcomes::new();
    for sector in (0..SHAPE.size_bytes()).step_by(CELL as usize) {
        let block = specimen.disk.peek(sector / BLOCK * BLOCK, BLOCK as usize);
        let what = holds(&block);
        // Of the blocks that nobody has written, those at the ends of segments are read.
        if what == Holds::Nothing && !(sector / BLOCK + 1).is_multiple_of(64) {
            continue;
        }
        // Of data one of its sectors is as good as the next.
        if what == Holds::Data && !sector.is_multiple_of(BLOCK) {
            continue;
        }
        let outcome = specimen.open(sector, Rot::Sector);
        let outcome = outcome.unwrap_or_else(|why| panic!("{left:?}: {what:?} at {sector}: {why}"));
        assert_ne!(outcome, Outcome::Refused, "{left:?}: {what:?} at {sector}");
        *outcomes.entry((what, outcome)).or_default() += 1;
    }
    println!("{left:?}, with an unreadable sector");
    outcomes
        .iter()
        .for_each(|((what, outcome), count)| println!("  {what:?} {outcome:?}: {count}"));
    // The first sector of each slot, and no other.
    assert_eq!(outcomes[&(Holds::Superblock, Outcome::ReadOnly)], 2);
    assert!(
        !outcomes.contains_key(&(Holds::Catalog, Outcome::ReadOnly)),
        "there are two copies of it"
    );
}

#[test]
fn no_unreadable_sector_keeps_a_store_from_opening() {
    [Left::Closed, Left::Killed, Left::SwitchedOff, Left::Worn]
        .into_iter()
        .for_each(unreadable_sectors);
}

#[test]
fn a_store_that_reuses_slots_never_shows_rot() {
    rot(Left::Worn);
}

#[test]
fn a_closed_store_never_shows_rot() {
    rot(Left::Closed);
}

#[test]
fn a_killed_store_never_shows_rot() {
    rot(Left::Killed);
}

#[test]
fn a_store_whose_host_went_down_never_shows_rot() {
    rot(Left::SwitchedOff);
}
