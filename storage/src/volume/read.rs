//! Reading: the map gives a range's state; staging, the cache, or the store has the bytes.

use crate::{
    base::{Address, BLOCK_BYTES, Result},
    cache::{Look, Origin, blocks_to_border},
    core::ReadPin,
    disk::{Demanded, Fill, NodesInHand, Pieces, Run},
    format::RunState,
    map::{Mapping, MappingState, Nodes},
    volume::{Inner, Volume},
};
use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;
use std::{ops::ControlFlow, sync::atomic::Ordering::Relaxed};

/// Most bytes of one fetch into the cache.
pub(crate) const FETCH_BYTES: u64 = 1 << 20;

/// A piece of the result of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of data.
    Data(Bytes),
    /// Zeroes, from a hole or reserved.
    Zero {
        /// Number of bytes.
        len: u32,
    },
}

/// An extent of a volume, as block status reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Number of bytes.
    pub len_bytes: u64,
    /// The extent's state.
    pub state: ExtentState,
}

/// The states of an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentState {
    /// The extent holds data.
    Data,
    /// The extent reads as zeroes, and its space is reserved.
    Zero,
    /// The extent reads as zeroes, and takes no space.
    Hole,
}

/// State of a read that was begun at once.
pub enum BegunRead {
    /// The whole read was in memory: pieces in order.
    Done(Vec<Piece>),
    /// A part has to be read from the disk.
    Started(UnfinishedRead),
}

/// A read of which a part has to come from the disk.
pub struct UnfinishedRead {
    volume: Volume,
    found: Found,
    offset: u64,
    len: u32,
    /// Held until the bytes are read: no slot of theirs is reused meanwhile.
    _pin: ReadPin,
}

impl UnfinishedRead {
    /// Reads the rest.
    ///
    /// # Errors
    /// As [`Volume::read`].
    pub async fn finish(self) -> Result<Vec<Piece>> {
        let Self { volume, found, offset, len, _pin } = self;
        let mut pieces = volume.complete(found, volume.demand_fill()).await?;
        trim_to(&mut pieces, (offset % BLOCK_BYTES as u64) as u32, len);
        Ok(pieces)
    }
}

/// The part of a read that was in memory, and its misses.
struct Found {
    /// Pieces in order, without those of the misses.
    pieces: Vec<Piece>,
    misses: Vec<Run>,
    /// For each miss the number of pieces before it.
    places: Vec<usize>,
    /// Number of blocks that were in memory.
    hits: usize,
    /// While there are misses: readahead waits for them.
    demanded: Option<Demanded>,
}

impl Volume {
    /// Reads `len` bytes from `offset`: pieces in order that add up to `len`.
    ///
    /// Dropping the future abandons the read; the store's own operations end by themselves. Poll it
    /// or drop it: others who want the same blocks wait for it.
    ///
    /// # Errors
    /// [`crate::Kind::OutOfRange`], [`crate::Kind::NotFound`]; [`crate::Kind::Io`] and
    /// [`crate::Kind::Corrupt`] for bytes that cannot be read, after a second try. The volume goes
    /// on serving.
    pub async fn read(&self, offset: u64, len: u32) -> Result<Vec<Piece>> {
        let volume = &*self.inner;
        volume.check_range(offset, u64::from(len))?;
        if len == 0 {
            return Ok(Vec::new());
        }
        let (first, blocks) = whole_blocks(offset, len);
        // Held until the bytes are read: no slot of theirs is reused meanwhile.
        let _pin = volume.engine.pins.pin();
        let mappings = volume.mappings(first, blocks).await?;
        let mut pieces = self.read_mapped(&mappings, self.demand_fill()).await?;
        trim_to(&mut pieces, (offset % BLOCK_BYTES as u64) as u32, len);
        Ok(pieces)
    }

    /// Reads whole blocks by their mappings. Hold a read pin, taken before the map was read.
    pub(super) async fn read_mapped(
        &self,
        mappings: &[Mapping],
        fill: Fill<'_>,
    ) -> Result<Vec<Piece>> {
        self.complete(self.look_in_memory(mappings, fill), fill).await
    }

    /// Reads the misses.
    async fn complete(&self, found: Found, fill: Fill<'_>) -> Result<Vec<Piece>> {
        let Found { pieces, misses, places, hits, demanded: _held } = found;
        if fill.origin == Origin::Demand {
            self.count(hits, misses.iter().map(|run| run.checksums.len()).sum());
        }
        if misses.is_empty() {
            return Ok(pieces);
        }
        let read = self.inner.engine.disk.read_runs(&misses, fill).await?;
        Ok(merge(pieces, places, read))
    }

    /// Begins a read at once, where all nodes that it needs are in `nodes`; otherwise returns
    /// `None`, and nothing was done. Bytes in memory need no read pin: they are found under their
    /// address or not at all, and an address is never reused.
    pub(crate) fn read_now(&self, nodes: &impl Nodes, offset: u64, len: u32) -> Option<BegunRead> {
        let volume = &*self.inner;
        if len == 0 || volume.check_range(offset, u64::from(len)).is_err() {
            return None;
        }
        let (first, blocks) = whole_blocks(offset, len);
        let moment = volume.engine.pins.now();
        let mut mappings = SmallVec::<[Mapping; 4]>::new();
        {
            let state = volume.lock();
            state.check_exists().ok()?;
            state.tree.lookup(nodes, first, blocks, &mut mappings).ok()?;
        }
        let mut found = self.look_in_memory(&mappings, self.demand_fill());
        if !found.misses.is_empty() {
            let _pin = volume.engine.pins.pin_as_of(moment)?;
            let volume = self.clone();
            return Some(BegunRead::Started(UnfinishedRead { volume, found, offset, len, _pin }));
        }
        self.count(found.hits, 0);
        trim_to(&mut found.pieces, (offset % BLOCK_BYTES as u64) as u32, len);
        Some(BegunRead::Done(found.pieces))
    }

    /// Returns the extents of a range: at most `entries_max` (at least one), so they may end before
    /// the range does. It reads no data.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn block_status(
        &self,
        offset: u64,
        len: u64,
        entries_max: usize,
    ) -> Result<Vec<Extent>> {
        let volume = &*self.inner;
        volume.check_range(offset, len)?;
        let block_bytes = BLOCK_BYTES as u64;
        let _pin = volume.engine.pins.pin();
        if len == 0 {
            return Ok(Vec::new());
        }
        let mut nodes = NodesInHand::new(&volume.engine.disk);
        let mut extents: Vec<Extent> = Vec::new();
        let (mut at, end) = (offset / block_bytes, (offset + len).div_ceil(block_bytes));
        while at < end {
            let missing = {
                let state = volume.lock();
                state.check_exists()?;
                let start = at;
                state.tree.visit(&nodes, start, end - start, &mut |blocks, run, _| {
                    let state = match run {
                        Some(RunState::Data(_)) => ExtentState::Data,
                        Some(RunState::Zero) => ExtentState::Zero,
                        None => ExtentState::Hole,
                    };
                    let len_bytes = blocks * block_bytes;
                    let full = extents.len() == entries_max.max(1);
                    match extents.last_mut() {
                        Some(last) if last.state == state => last.len_bytes += len_bytes,
                        _ if full => return ControlFlow::Break(()),
                        _ => extents.push(Extent { len_bytes, state }),
                    }
                    at += blocks;
                    ControlFlow::Continue(())
                })
            };
            match missing {
                Ok(ControlFlow::Break(())) => break,
                Ok(ControlFlow::Continue(())) => {}
                Err(missing) => nodes.load(missing).await?,
            }
        }
        if let Some(first) = extents.first_mut() {
            first.len_bytes -= offset % block_bytes;
        }
        let covered: u64 = extents.iter().map(|e| e.len_bytes).sum();
        if let Some(last) = extents.last_mut() {
            last.len_bytes -= covered.saturating_sub(len);
        }
        Ok(extents)
    }

    /// Brings a range into the cache (`NBD_CMD_CACHE`).
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn prefetch(&self, offset: u64, len: u64) -> Result<()> {
        self.inner.check_range(offset, len)?;
        let mut at = offset;
        while at < offset + len {
            let step = (FETCH_BYTES - at % FETCH_BYTES).min(offset + len - at);
            self.bring_in(at, step, self.demand_fill()).await?;
            at += step;
        }
        Ok(())
    }

    /// Brings the parts of a range (at most [`FETCH_BYTES`]) that are not in memory into the cache.
    /// Returns the number of bytes of those parts.
    pub(crate) async fn bring_in(&self, offset: u64, len: u64, fill: Fill<'_>) -> Result<u64> {
        let (volume, block_bytes) = (&*self.inner, BLOCK_BYTES as u64);
        let (first, end) = (offset / block_bytes, (offset + len).div_ceil(block_bytes));
        let _pin = volume.engine.pins.pin();
        let mut misses: Vec<Run> = Vec::new();
        for Mapping { state, .. } in volume.mappings(first, end - first).await? {
            if let MappingState::Data(address, checksums) = state {
                for (i, sum) in checksums.iter().enumerate() {
                    let here = address.plus(i as u32);
                    if !volume.engine.log.staging.holds(here)
                        && !volume.engine.disk.blocks.contains(here)
                        && !misses.last_mut().is_some_and(|last| last.extend(here, &[*sum]))
                    {
                        misses.push(Run::new(here, &[*sum]));
                    }
                }
            }
        }
        let read = volume.engine.disk.read_runs(&misses, fill).await?;
        Ok(read.iter().flatten().map(|data| data.len() as u64).sum())
    }

    /// For what requests read: into this handle's share of the cache.
    pub(super) fn demand_fill(&self) -> Fill<'_> {
        Fill { account: Some(&self.effective.account), origin: Origin::Demand }
    }

    /// Takes the blocks that are in memory, and notes the others as misses.
    fn look_in_memory(&self, mappings: &[Mapping], fill: Fill<'_>) -> Found {
        let pieces = Vec::with_capacity(mappings.len());
        let (misses, places) = (Vec::new(), Vec::new());
        let mut found = Found { pieces, misses, places, hits: 0, demanded: None };
        for Mapping { blocks, state } in mappings {
            match state {
                MappingState::Zero | MappingState::Hole => {
                    // A request is below 4 GiB, but not the whole blocks around it.
                    let (half, len) = (1 << 31, blocks * BLOCK_BYTES as u64);
                    let zeroes = (0..len).step_by(half);
                    let piece = |at: u64| Piece::Zero { len: (len - at).min(half as u64) as u32 };
                    found.pieces.extend(zeroes.map(piece));
                }
                MappingState::Data(address, checksums) => {
                    self.gather(*address, checksums, fill, &mut found);
                }
            }
        }
        if !found.misses.is_empty() && fill.origin == Origin::Demand {
            found.demanded = Some(self.inner.engine.disk.demand.begin());
        }
        found
    }

    /// Counts cache hits and misses, in blocks.
    fn count(&self, hits: usize, misses: usize) {
        for usage in [&*self.inner.usage, &self.inner.engine.disk.usage] {
            if hits > 0 {
                usage.cache_hits.fetch_add(hits as u64, Relaxed);
            }
            if misses > 0 {
                usage.cache_misses.fetch_add(misses as u64, Relaxed);
            }
        }
    }

    /// Takes the blocks that are in memory of a run of data, and notes the others as misses.
    fn gather(&self, address: Address, checksums: &[u32], fill: Fill<'_>, found: &mut Found) {
        let engine = &self.inner.engine;
        let blocks = checksums.len() as u32;
        let mut at = 0;
        while at < blocks {
            let here = address.plus(at);
            let most = (blocks - at).min(blocks_to_border(here));
            let mut copied = BytesMut::new();
            let staged = engine.log.staging.read(here, most, &mut copied);
            let look = if staged > 0 {
                let data = copied.freeze();
                // Staging holds the blocks only for a while, and what is read soon after its write
                // is likely to be read again.
                engine.disk.cache_blocks(here, &data, fill);
                Look::Hit(data)
            } else {
                engine.disk.blocks.look(here, most, fill.origin)
            };
            match look {
                Look::Hit(data) => {
                    let taken = (data.len() / BLOCK_BYTES) as u32;
                    found.hits += taken as usize;
                    at += taken;
                    found.pieces.push(Piece::Data(data));
                }
                Look::Miss(missing) => {
                    // Those behind the first may be in staging.
                    let missing = (1..missing)
                        .find(|i| engine.log.staging.holds(here.plus(*i)))
                        .unwrap_or(missing);
                    found.miss(here, &checksums[at as usize..(at + missing) as usize]);
                    at += missing;
                }
            }
        }
    }
}

impl Found {
    /// Notes blocks that are not in memory.
    fn miss(&mut self, address: Address, checksums: &[u32]) {
        // The next blocks of the miss that was noted last, with nothing in between.
        let follows = self.places.last() == Some(&self.pieces.len());
        let last = self.misses.last_mut().filter(|_| follows);
        if !last.is_some_and(|last| last.extend(address, checksums)) {
            self.misses.push(Run::new(address, checksums));
            self.places.push(self.pieces.len());
        }
    }
}

/// Pieces that were in memory, and what was read for the misses between them.
fn merge(found: Vec<Piece>, places: Vec<usize>, read: Vec<Pieces>) -> Vec<Piece> {
    let number = found.len() + read.iter().map(SmallVec::len).sum::<usize>();
    let mut merged = Vec::with_capacity(number);
    let mut found = found.into_iter().enumerate().peekable();
    for (place, pieces) in places.into_iter().zip(read) {
        while let Some((_, piece)) = found.next_if(|(i, _)| *i < place) {
            merged.push(piece);
        }
        merged.extend(pieces.into_iter().map(Piece::Data));
    }
    merged.extend(found.map(|(_, piece)| piece));
    merged
}

impl Inner {
    /// The mappings of the blocks; loads the nodes that it needs. Hold a read pin.
    pub(crate) async fn mappings(&self, first: u64, blocks: u64) -> Result<SmallVec<[Mapping; 4]>> {
        let (mut out, mut nodes) = (SmallVec::new(), NodesInHand::new(&self.engine.disk));
        loop {
            let missing = {
                let state = self.lock();
                state.check_exists()?;
                match state.tree.lookup(&nodes, first, blocks, &mut out) {
                    Ok(()) => return Ok(out),
                    Err(missing) => missing,
                }
            };
            out.clear();
            nodes.load(missing).await?;
        }
    }
}

/// The blocks around a range of bytes: the first, and how many.
fn whole_blocks(offset: u64, len: u32) -> (u64, u64) {
    let (block, end) = (BLOCK_BYTES as u64, offset + u64::from(len));
    (offset / block, end.div_ceil(block) - offset / block)
}

/// Cuts block-aligned pieces down to the bytes asked for.
fn trim_to(pieces: &mut Vec<Piece>, mut skip: u32, len: u32) {
    let mut left = len;
    pieces.retain_mut(|piece| {
        let have = match piece {
            Piece::Data(data) => u32::try_from(data.len()).expect("a request is below 4 GiB"),
            Piece::Zero { len } => *len,
        };
        let (from, take) = (skip.min(have), left.min(have - skip.min(have)));
        skip -= from;
        left -= take;
        match piece {
            Piece::Data(data) => *data = data.slice(from as usize..(from + take) as usize),
            Piece::Zero { len } => *len = take,
        }
        take > 0
    });
    debug_assert_eq!(left, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_at_both_ends() {
        let data = Bytes::from(vec![7u8; 4096]);
        let mut pieces =
            vec![Piece::Data(data.clone()), Piece::Zero { len: 4096 }, Piece::Data(data)];
        trim_to(&mut pieces, 4000, 96 + 4096 + 5);
        assert_eq!(
            pieces,
            [
                Piece::Data(Bytes::from(vec![7; 96])),
                Piece::Zero { len: 4096 },
                Piece::Data(Bytes::from(vec![7; 5]))
            ]
        );
    }
}
