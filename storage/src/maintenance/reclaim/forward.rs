//! Forwarding: the live blocks of sparse segments move together, and the slots become free.
//!
//! I1  Each block is checked against the checksum that a map has for it before it is copied. A
//!     segment with a corrupt block stays where it is.
//! I2  Look-ups are led to the new place only after the end of all operations that may know blocks
//!     that the mark found dead (quiesce): those blocks have no new place.
//! I3  The old place is reused only after a checkpoint that names the new one is durable; its sync
//!     covers the copies too.
//!
//! The maps are not touched: an address stays the name of its block forever.

use super::{
    mark::{Live, Mark},
    pace::Pace,
};
use crate::{
    base::{Address, BLOCK_BYTES, Bitmap, Error, Result, SegmentId, Slot, bitmap, checksum},
    core::Engine,
    disk::{Container, Disk, Move, Need, Segments, Taken, Writing},
    format::{Piece, SegmentKind},
};
use bytes::BytesMut;
use sandstone_ring::{WriteBuf, aligned};
use std::collections::{HashSet, VecDeque};

/// Most bytes of one read or write.
const STEP_BYTES: u64 = 1 << 20;
/// Longest run of dead blocks that is read with its neighbours rather than skipped.
const GAP_BLOCKS: u64 = 16;

/// A victim: a segment to be emptied, or a segment of moved blocks.
#[derive(Clone, Debug)]
pub(crate) struct Victim {
    pub(crate) container: Container,
    /// Blocks alive in it when it was chosen.
    alive: u32,
}

/// Victim selection: of the segments whose live part is below `sparse` the emptiest first, with at
/// most `blocks_max` blocks to copy.
pub(crate) fn plan(
    segments: &Segments,
    mark: &Mark,
    corrupt: &HashSet<SegmentId>,
    sparse: f64,
    blocks_max: u64,
) -> Vec<Victim> {
    let segment_blocks = segments.geometry.segment_blocks;
    let judged = |id: &SegmentId| mark.alive(*id).is_some() && !corrupt.contains(id);
    let mut victims: Vec<_> = segments
        .containers()
        .into_iter()
        .filter(|container| container.residents.iter().all(judged))
        .map(|container| {
            let held = |id: &SegmentId| live_in(segments, mark, *id, container.id).count() as u32;
            Victim { alive: container.residents.iter().map(held).sum(), container }
        })
        // A segment of moved blocks without live ones costs no copy; any other dead segment is
        // retired already.
        .filter(|v| f64::from(v.alive) < sparse * f64::from(segment_blocks))
        .collect();
    victims.sort_by_key(|v| (v.alive, v.container.id));
    let mut copied = 0;
    let within = victims.iter().take_while(|victim| {
        copied += u64::from(victim.alive);
        copied <= blocks_max
    });
    let count = within.count().max(1);
    victims.truncate(count);
    // Where all together free no whole segment, copying gains nothing.
    let alive: u64 = victims.iter().map(|victim| u64::from(victim.alive)).sum();
    let dead = victims.len() as u64 * u64::from(segment_blocks) - alive;
    if dead < u64::from(segment_blocks) {
        victims.clear();
    }
    victims
}

/// The blocks of a segment that are alive and, where it was moved, in that container.
fn live_in<'m>(
    segments: &Segments,
    mark: &'m Mark,
    id: SegmentId,
    container: SegmentId,
) -> impl Iterator<Item = u32> + use<'m> {
    let held = segments.held_by(id, container);
    let alive = mark.alive(id).unwrap_or_default();
    bitmap::ones(alive)
        .filter(move |block| held.as_ref().is_none_or(|held| held.run(*block, 1) == 1))
}

/// The destination: the segment that takes moved blocks now. A round goes on filling the one that
/// the round before left.
#[derive(Debug)]
pub(crate) struct Destination {
    id: SegmentId,
    slot: Slot,
    fill: u32,
}

impl Destination {
    pub(crate) fn id(&self) -> SegmentId {
        self.id
    }
}

/// Copies blocks one behind the other into segments of their own.
struct Copier<'a, 'p> {
    engine: &'a Engine,
    disk: &'a Disk,
    pace: &'a mut Pace<'p>,
    destination: Option<Destination>,
    /// Destinations that are full.
    left: Vec<SegmentId>,
    /// Number of segments that were taken.
    taken: u32,
    /// Bytes that are gathered for the next write.
    gathered: BytesMut,
    at: u64,
}

/// The result of copying.
pub(crate) struct Copies {
    pub(crate) moves: Vec<Move>,
    /// Number of segments that were taken for the copies.
    pub(crate) destinations: u32,
}

/// Copies the live blocks of `victims`, from the front, until `enough` says so or there is no room;
/// copied victims leave the queue. Nothing refers to the copies yet.
///
/// # Errors
/// A read or write failed, or the store is being closed: nothing was moved.
pub(crate) async fn copy(
    engine: &Engine,
    victims: &mut VecDeque<Victim>,
    destination: &mut Option<Destination>,
    mark: &Mark,
    corrupt: &mut HashSet<SegmentId>,
    pace: &mut Pace<'_>,
    enough: impl Fn(u32) -> bool,
) -> Result<Copies> {
    let (gathered, disk) = (aligned(STEP_BYTES as usize), &*engine.disk);
    let geometry = &disk.segments.geometry;
    if let Some(full) =
        destination.take_if(|destination| destination.fill == geometry.segment_blocks)
    {
        disk.segments.seal(full.id);
    }
    let at = destination
        .as_ref()
        .map_or(0, |destination| geometry.offset(destination.slot, destination.fill));
    let mut copier = Copier {
        engine,
        disk,
        pace,
        destination: destination.take(),
        left: Vec::new(),
        taken: 0,
        gathered,
        at,
    };
    let copied = copier.copy_all(victims, mark, corrupt, enough).await;
    match &copied {
        Ok(_) => *destination = copier.destination.take(),
        // Nothing refers to the blocks that were copied into it.
        Err(_) => copier.left.extend(copier.destination.take().map(|destination| destination.id)),
    }
    // A destination without moved blocks is freed with the next checkpoint.
    copier.left.iter().for_each(|id| disk.segments.seal(*id));
    copied.map(|moves| Copies { moves, destinations: copier.taken })
}

/// How copying one segment's blocks ended.
enum Copied {
    Whole(Vec<Piece>),
    /// A block in it is corrupt.
    Corrupt,
    /// No segment is free to take it.
    NoRoom,
}

impl Copier<'_, '_> {
    async fn copy_all(
        &mut self,
        victims: &mut VecDeque<Victim>,
        mark: &Mark,
        corrupt: &mut HashSet<SegmentId>,
        enough: impl Fn(u32) -> bool,
    ) -> Result<Vec<Move>> {
        let mut moves = Vec::new();
        'all: while let Some(Victim { container, .. }) = victims.front() {
            for id in &container.residents {
                // A dead segment is retired, and may be freed already.
                let Some(noted) = mark.noted(*id).filter(|noted| !noted.is_empty()) else {
                    continue;
                };
                if self
                    .disk
                    .segments
                    .held_by(*id, container.id)
                    .is_some_and(|held| held.count() == 0)
                {
                    // Moved by the step before, which had no room for the victim's other segments.
                    continue;
                }
                let held: HashSet<u32> =
                    live_in(&self.disk.segments, mark, *id, container.id).collect();
                let live: Vec<_> =
                    noted.into_iter().filter(|item| held.contains(&item.block)).collect();
                if !self.has_room_for(&live) {
                    break 'all;
                }
                match self.copy_segment(*id, &live).await? {
                    Copied::Whole(pieces) => {
                        moves.push(Move { segment: *id, from: container.id, pieces });
                    }
                    Copied::Corrupt => drop(corrupt.insert(*id)),
                    Copied::NoRoom => break 'all,
                }
            }
            victims.pop_front();
            if enough(self.taken) {
                break;
            }
        }
        self.flush().await?;
        Ok(moves)
    }

    /// Whether there is room for all of these: a segment is moved as a whole or not at all.
    fn has_room_for(&self, live: &[Live]) -> bool {
        // The last block of a segment may be too little for a node of two.
        let segment_blocks = u64::from(self.disk.segments.geometry.segment_blocks) - 1;
        let left = self
            .destination
            .as_ref()
            .map_or(0, |destination| segment_blocks.saturating_sub(u64::from(destination.fill)));
        let blocks: u64 = live.iter().map(|item| u64::from(item.blocks)).sum();
        left + u64::from(self.room()) * segment_blocks >= blocks
    }

    /// Segments that it may still take.
    fn room(&self) -> u32 {
        // Writers dirty maps meanwhile.
        self.engine.keep_room_for_checkpoints();
        self.disk.segments.room(Need::Forward)
    }

    async fn copy_segment(&mut self, id: SegmentId, live: &[Live]) -> Result<Copied> {
        let segments = &self.disk.segments;
        let segment_blocks = segments.geometry.segment_blocks;
        let mut placed: Vec<(SegmentId, Slot, u32, Vec<u32>)> = Vec::new();
        let mut left = live;
        while !left.is_empty() {
            let (step, from, len) = stretch(segments, id, left)?;
            let bytes = read_stretch(self.disk, id, step, from, len).await?;
            self.pace.spend(len).await?;
            let Some(bytes) = bytes else { return Ok(Copied::Corrupt) };
            for item in step {
                if self
                    .destination
                    .as_ref()
                    .is_none_or(|destination| destination.fill + item.blocks > segment_blocks)
                {
                    self.flush().await?;
                    let taken = if self.room() > 0 {
                        segments.take(SegmentKind::Forwarded, Need::Forward, Writing::Streamed)
                    } else {
                        None
                    };
                    let Some(Taken { id, slot, .. }) = taken else {
                        return Ok(Copied::NoRoom);
                    };
                    self.left.extend(self.destination.take().map(|destination| destination.id));
                    self.taken += 1;
                    self.destination = Some(Destination { id, slot, fill: 0 });
                    self.at = segments.geometry.offset(slot, 0);
                }
                let destination = self.destination.as_mut().expect("taken above");
                if placed.last().is_none_or(|(into, ..)| *into != destination.id) {
                    placed.push((destination.id, destination.slot, destination.fill, Vec::new()));
                }
                let (_, _, _, blocks) = placed.last_mut().expect("pushed above");
                blocks.extend(item.block..item.block + item.blocks);
                destination.fill += item.blocks;
                self.gathered.extend_from_slice(&bytes[part(segments, id, item, from)?]);
                if self.gathered.len() + 2 * BLOCK_BYTES > STEP_BYTES as usize {
                    self.flush().await?;
                }
            }
            left = &left[step.len()..];
        }
        let piece = |(into, slot, first, blocks): (_, _, _, Vec<u32>)| Piece {
            into,
            slot,
            first,
            live: Bitmap::of(blocks.into_iter(), segment_blocks),
        };
        Ok(Copied::Whole(placed.into_iter().map(piece).collect()))
    }

    /// Writes the gathered bytes.
    async fn flush(&mut self) -> Result<()> {
        let full = std::mem::replace(&mut self.gathered, aligned(STEP_BYTES as usize));
        let len = full.len() as u64;
        if len > 0 {
            let written = self.disk.file.write(self.at, WriteBuf::Owned(full)).await;
            written.map_err(|error| Error::io("moving blocks out of a sparse segment", error))?;
            self.at += len;
            self.pace.spend(len).await?;
        }
        Ok(())
    }
}

fn offset(segments: &Segments, id: SegmentId, item: &Live) -> Result<u64> {
    let address = Address::new(id, item.block);
    let stretches = segments.stretches(address, item.blocks);
    let one = stretches.filter(|stretches| stretches.len() == 1).map(|stretches| stretches[0].0);
    one.ok_or_else(|| Error::corrupt(format!("{address:?} is in no segment of this store")))
}

/// Where an item's bytes are among those read from `from` on.
fn part(
    segments: &Segments,
    id: SegmentId,
    item: &Live,
    from: u64,
) -> Result<std::ops::Range<usize>> {
    let start = (offset(segments, id, item)? - from) as usize;
    Ok(start..start + item.blocks as usize * BLOCK_BYTES)
}

/// The first items that one read can bring, its offset and length.
fn stretch<'l>(
    segments: &Segments,
    id: SegmentId,
    live: &'l [Live],
) -> Result<(&'l [Live], u64, u64)> {
    let from = offset(segments, id, &live[0])?;
    let (mut end, mut count) = (from, 0);
    for item in live {
        let start = offset(segments, id, item)?;
        let item_end = start + u64::from(item.blocks) * BLOCK_BYTES as u64;
        if count > 0
            && (!(end..=end + GAP_BLOCKS * BLOCK_BYTES as u64).contains(&start)
                || item_end - from > STEP_BYTES)
        {
            break;
        }
        (end, count) = (item_end, count + 1);
    }
    Ok((&live[..count], from, end - from))
}

/// Reads a stretch and checks its live blocks; `None` when one differs from what was written,
/// twice.
async fn read_stretch(
    disk: &Disk,
    id: SegmentId,
    items: &[Live],
    from: u64,
    len: u64,
) -> Result<Option<BytesMut>> {
    for _ in 0..2 {
        let read = disk.file.read(from, aligned(len as usize), len as usize).await;
        let bytes =
            read.map_err(|e| Error::io(format!("reading {len} bytes of segment {}", id.0), e))?;
        let mut good = true;
        for item in items {
            good &= checksum::plain(&bytes[part(&disk.segments, id, item, from)?]) == item.checksum;
        }
        if good {
            return Ok(Some(bytes));
        }
    }
    disk.corrupt.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    tracing::error!(
        segment = id.0,
        "a block is not what was written there; the segment is not moved"
    );
    Ok(None)
}
