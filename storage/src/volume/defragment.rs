//! Defragmenting a leaf: its data is logged again in the order of the volume, so that it can be
//! read in one piece.
//!
//! ```text
//!   read in sequence ─met many runs─► noted ─(in the background)─► read, checked ─lock:
//!       still the same addresses, all of them this volume's alone ─► logged in order, mapped
//! ```
//!
//! I1  Nothing changes for readers, and a leaf that does not move leaves the map as it is: the
//!     bytes are those that the map's checksums name, and each block is mapped anew only while it
//!     has the address that was read. An address names the same bytes forever.
//! I2  Sharing stays: a block that a snapshot or fork may have too is left where it is (birthday
//!     rule), or its copy would take space.
//! I3  It needs no order of its own: a record that is lost in a crash leaves the older address,
//!     whose segment is freed only after a checkpoint that does not name it.

use super::{
    chunk::Chunk,
    write::{Request, Stopped},
};
use crate::{
    base::{Address, BLOCK_BYTES, Blindness, Kind, LEAF_BLOCKS, Result, is_blind_to},
    cache::Origin,
    core::LeafId,
    disk::{Fill, NodesInHand},
    format::{Birthday, RunState},
    map::{Mapping, MappingState, Tree},
    volume::{Piece, Volume},
};
use bytes::BytesMut;
use std::{collections::VecDeque, ops::ControlFlow};

/// Requests of at least so many bytes are of a reader that would gain: a file system's read-ahead
/// sends 128 KiB and more.
pub(super) const REQUEST_BYTES_MIN: u64 = 64 << 10;
/// Runs of fewer blocks than this, on average, are many pieces: a run of 32 KiB costs the disk
/// about as much again as a seek in the queue. A guess, not tuned.
const RUN_BLOCKS: u64 = 8;

/// How some data of a volume lies in the store.
#[derive(Debug, Default)]
struct Layout {
    blocks: u64,
    /// Those that are the volume's alone.
    own_blocks: u64,
    /// Stretches of addresses that follow each other; a hole in the volume ends none.
    pieces: u64,
    next: u64,
    birthday: Birthday,
}

impl Layout {
    /// No data yet of the volume with this map.
    fn of(tree: &Tree) -> Self {
        let shares_nothing = Birthday::default();
        let blind = is_blind_to(Blindness::MoveShared);
        let birthday = if blind { shares_nothing } else { tree.birthday() };
        Self { birthday, ..Self::default() }
    }

    /// Adds the next data of the volume.
    fn add(&mut self, address: Address, blocks: u64) {
        let (first, end) = (address.raw(), address.raw() + blocks);
        self.pieces += u64::from(first != self.next);
        self.next = end;
        self.blocks += blocks;
        self.own_blocks += self.birthday.own_in(address, blocks);
    }

    /// Whether it lies in many pieces, all of which may move.
    fn is_to_move(&self) -> bool {
        self.own_blocks == self.blocks && self.pieces > 1 && self.blocks < RUN_BLOCKS * self.pieces
    }
}

/// What was done for a leaf, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moved {
    pub(crate) read: u64,
    pub(crate) logged: u64,
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
        let (layout, visited) = {
            let tree = &inner.lock().tree;
            let mut layout = Layout::of(tree);
            let visited =
                tree.visit(&engine.disk.nodes, first, end - first, &mut |blocks, run, _| {
                    if let Some(RunState::Data(address)) = run {
                        layout.add(address, blocks);
                    }
                    ControlFlow::Continue(())
                });
            (layout, visited)
        };
        if visited.is_ok() && layout.is_to_move() {
            for leaf in first / LEAF_BLOCKS..end.div_ceil(LEAF_BLOCKS) {
                engine.fragmented.note(LeafId { volume: inner.number, leaf });
            }
        }
    }

    /// Logs the data of a leaf again in order. Logs nothing where the leaf does not lie in many
    /// pieces or is shared in part, and ends early where it changes meanwhile, is deleted, or the
    /// store has no room at once.
    ///
    /// # Errors
    /// [`crate::Kind::Io`], [`crate::Kind::Corrupt`] when map or data cannot be read. What was
    /// logged until then stays.
    pub(crate) async fn defragment(&self, leaf: u64) -> Result<Moved> {
        let (inner, engine) = (&*self.inner, &self.inner.engine);
        let first = leaf * LEAF_BLOCKS;
        // A block that the volume's end cuts is left alone.
        let end = (first + LEAF_BLOCKS).min(self.size_bytes() / BLOCK_BYTES as u64);
        let mut moved = Moved::default();
        if end <= first {
            return Ok(moved);
        }
        let moves = {
            let _pin = engine.pins.pin();
            let mappings = match inner.mappings(first, end - first).await {
                Err(error) if error.kind() == Kind::NotFound => return Ok(moved),
                found => found?,
            };
            let mut layout = Layout::of(&inner.lock().tree);
            for Mapping { blocks, state } in &mappings {
                if let MappingState::Data(address, _) = state {
                    layout.add(*address, *blocks);
                }
            }
            if !layout.is_to_move() {
                return Ok(moved);
            }
            moved.read = layout.blocks * BLOCK_BYTES as u64;
            // Not into the cache: no map will name these addresses for long.
            let fill = Fill { account: None, origin: Origin::Readahead };
            moves_of(first, &mappings, self.read_mapped(&mappings, fill).await?)
        };
        engine.wait_clean().await;
        let mut moves = Request::new(moves);
        let (all, mut nodes) = (moves.data_blocks(), NodesInHand::new(&engine.disk));
        while !moves.chunks.is_empty() {
            let room = engine.log.room.notified();
            let pin = engine.pins.pin();
            match self.apply(&mut moves, &nodes) {
                Err(Stopped::Missing(missing)) => nodes.load(missing).await?,
                Err(Stopped::Busy) => {
                    drop(pin); // not held while it waits
                    engine.log.pump();
                    room.await;
                }
                Ok(()) | Err(_) => break,
            }
        }
        moved.logged = (all - moves.data_blocks()) * BLOCK_BYTES as u64;
        Ok(moved)
    }
}

/// The data of mappings from block `first` on as chunks to be logged, one for each stretch without
/// a hole, and only as long as each block has the address that it has now.
fn moves_of(first: u64, mappings: &[Mapping], read: Vec<Piece>) -> VecDeque<Chunk> {
    let mut all = BytesMut::new();
    for piece in read {
        if let Piece::Data(data) = piece {
            all.extend_from_slice(&data);
        }
    }
    let (mut data, mut moves, mut at) = (all.freeze(), VecDeque::new(), first);
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
