//! Defragmenting a leaf: its data is logged again in the order of the volume, so that it can be
//! read in one piece.
//!
//! ```text
//!   read in sequence ─met many runs─► noted ─(in the background)─► read, checked ─lock:
//!       still the same addresses, all of them this volume's alone ─► logged in order, mapped
//! ```
//!
//! I1  Nothing changes for readers: the bytes are those that the map's checksums name, and each
//!     block is mapped anew only while it has the address that was read. An address names the same
//!     bytes forever.
//! I2  Sharing stays: a block that a snapshot or fork may have too is left where it is (birthday
//!     rule), or its copy would take space.
//! I3  It needs no order of its own: a record that is lost in a crash leaves the older address,
//!     whose segment is freed only after a checkpoint that does not name it.

use super::write::{Chunk, Stopped};
use crate::{
    base::{Address, BLOCK_BYTES, LEAF_BLOCKS, Result},
    cache::Origin,
    core::LeafId,
    disk::{Fill, NodesInHand, Run},
    map::{Mapping, MappingState},
    volume::Volume,
};
use bytes::{Bytes, BytesMut};
use sandstone_ring::runtime;
use std::{collections::VecDeque, ops::ControlFlow};

/// Requests of at least so many bytes are of a reader that would gain: a file system's read-ahead
/// sends 128 KiB and more.
pub(super) const REQUEST_BYTES_MIN: u64 = 64 << 10;
/// Runs of fewer blocks than this, on average, are many pieces: a run of 32 KiB costs the disk
/// about as much again as a seek in the queue. A guess, not tuned.
const RUN_BLOCKS: u64 = 8;

/// Whether data blocks in so many runs are many pieces.
fn is_fragmented(blocks: u64, runs: u64) -> bool {
    runs > 1 && blocks < RUN_BLOCKS * runs
}

impl Volume {
    /// Notes the leaves of a range that was read in sequence, if it lies in many pieces. Looks at
    /// nodes in memory alone.
    pub(super) fn note_fragmentation(&self, offset: u64, len: u64) {
        let (inner, engine) = (&*self.inner, &self.inner.engine);
        if inner.snapshot_of.is_some() || len < REQUEST_BYTES_MIN {
            return;
        }
        let first = offset / BLOCK_BYTES as u64;
        let end = (offset + len).div_ceil(BLOCK_BYTES as u64);
        let (mut runs, mut blocks) = (0, 0);
        let visited = inner.lock().tree.visit(
            &engine.disk.nodes,
            first,
            end - first,
            &mut |number, _, leaf| {
                if leaf.is_some() {
                    (runs, blocks) = (runs + 1, blocks + number);
                }
                ControlFlow::Continue(())
            },
        );
        if visited.is_ok() && is_fragmented(blocks, runs) {
            for leaf in first / LEAF_BLOCKS..end.div_ceil(LEAF_BLOCKS) {
                engine.fragmented.note(LeafId { volume: inner.number, leaf });
            }
        }
    }

    /// Logs the data of a leaf again in order. Returns the number of bytes that were logged: 0
    /// where the leaf does not lie in many pieces, is shared in part, changes, or the store has no
    /// room at once.
    ///
    /// # Errors
    /// [`crate::Kind::Io`], [`crate::Kind::Corrupt`] when map or data cannot be read;
    /// [`crate::Kind::NotFound`] after deletion. Nothing was changed.
    pub(crate) async fn defragment(&self, leaf: u64) -> Result<u64> {
        let (inner, engine) = (&*self.inner, &self.inner.engine);
        let first = leaf * LEAF_BLOCKS;
        // A block that the volume's end cuts is left alone.
        let end = (first + LEAF_BLOCKS).min(self.size_bytes() / BLOCK_BYTES as u64);
        if end <= first {
            return Ok(0);
        }
        let mut moves = {
            let _pin = engine.pins.pin();
            let mappings = inner.mappings(first, end - first).await?;
            let data = mappings.iter().filter(|mapping| is_data(mapping));
            let (runs, blocks) = data.fold((0, 0), |(n, blocks), run| (n + 1, blocks + run.blocks));
            if !is_fragmented(blocks, runs) {
                return Ok(0);
            }
            moves_of(first, &mappings, self.read_data_of(&mappings).await?)
        };
        self.wait_buffer().await;
        engine.wait_clean().await;
        let left = |moves: &VecDeque<Chunk>| moves.iter().map(Chunk::data_blocks).sum::<u64>();
        let all = left(&moves);
        let (mut last, mut nodes) = (None, NodesInHand::new(&engine.disk));
        while !moves.is_empty() {
            let room = engine.log.room.notified();
            let pin = engine.pins.pin();
            match self.apply(&mut moves, &mut last, &nodes) {
                Err(Stopped::Missing(missing)) => nodes.load(missing).await?,
                Err(Stopped::Busy) => {
                    drop(pin); // not held while it waits
                    engine.log.pump();
                    room.await;
                }
                Err(Stopped::Failed(error)) => return Err(error),
                Ok(()) | Err(_) => break,
            }
        }
        runtime::yield_now().await;
        Ok((all - left(&moves)) * BLOCK_BYTES as u64)
    }
}

impl Volume {
    /// The data of some mappings in order, from staging, the cache or the disk. Hold a read pin.
    async fn read_data_of(&self, mappings: &[Mapping]) -> Result<Bytes> {
        let engine = &self.inner.engine;
        // What is staged, with the number of runs before it.
        let (mut staged, mut runs) = (Vec::new(), Vec::<Run>::new());
        for mapping in mappings {
            let MappingState::Data(address, checksums) = &mapping.state else { continue };
            let mut at = 0;
            while let Some(sum) = checksums.get(at) {
                let here = address.plus(at as u32);
                let mut copied = BytesMut::new();
                let left = (checksums.len() - at) as u32;
                let number = engine.log.staging.read(here, left, &mut copied);
                if number > 0 {
                    staged.push((runs.len(), copied.freeze()));
                    at += number as usize;
                    continue;
                }
                let is_next = staged.last().is_none_or(|(before, _)| *before < runs.len());
                if !is_next || !runs.last_mut().is_some_and(|last| last.extend(here, *sum)) {
                    runs.push(Run::new(here, *sum));
                }
                at += 1;
            }
        }
        let fill = Fill { account: &self.effective.account, origin: Origin::Readahead };
        let read = engine.disk.read_runs(&runs, fill).await?;
        let mut staged = staged.into_iter().peekable();
        let blocks: u64 = mappings.iter().filter(|m| is_data(m)).map(|m| m.blocks).sum();
        let mut data = BytesMut::with_capacity(blocks as usize * BLOCK_BYTES);
        for (i, pieces) in read.into_iter().enumerate() {
            while let Some((_, bytes)) = staged.next_if(|(before, _)| *before == i) {
                data.extend_from_slice(&bytes);
            }
            pieces.iter().for_each(|piece| data.extend_from_slice(piece));
        }
        staged.for_each(|(_, bytes)| data.extend_from_slice(&bytes));
        Ok(data.freeze())
    }
}

/// The data of mappings from block `first` on as chunks to be logged, one for each stretch without
/// a hole, and only as long as each block has the address that it has now.
fn moves_of(first: u64, mappings: &[Mapping], mut data: Bytes) -> VecDeque<Chunk> {
    let (mut moves, mut at) = (VecDeque::new(), first);
    for stretch in mappings.chunk_by(|a, b| is_data(a) == is_data(b)) {
        let blocks: u64 = stretch.iter().map(|mapping| mapping.blocks).sum();
        if is_data(&stretch[0]) {
            let (mut addresses, mut checksums) = (Vec::<Address>::new(), Vec::new());
            for mapping in stretch {
                if let MappingState::Data(address, sums) = &mapping.state {
                    addresses.extend((0..sums.len() as u32).map(|i| address.plus(i)));
                    checksums.extend_from_slice(sums);
                }
            }
            let data = data.split_to(blocks as usize * BLOCK_BYTES);
            moves.push_back(Chunk::moved(at, data, checksums.into(), addresses));
        }
        at += blocks;
    }
    moves
}

fn is_data(mapping: &Mapping) -> bool {
    matches!(mapping.state, MappingState::Data(..))
}
