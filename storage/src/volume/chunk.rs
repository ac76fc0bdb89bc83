//! A chunk: a part of a request that is ready for the log, and the condition under which it may go
//! there.

use crate::{
    base::{Address, BLOCK_BYTES, Blindness, checksum, is_blind_to},
    format::RecordKind,
    map::{Mapping, MappingState, Missing, Nodes, Tree},
};
use bytes::Bytes;
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Blocks that change together.
pub(super) struct Chunk {
    pub(super) block: u64,
    pub(super) content: Content,
    pub(super) condition: Condition,
    /// The size of the volume with which it ends, in the middle of its last block.
    pub(super) ends_at: Option<u64>,
}

pub(super) enum Content {
    Data { data: Bytes, checksums: SmallVec<[u32; 8]> },
    Range { count: u64, kind: RecordKind },
}

/// What must still be true of the map, under the lock under which the chunk changes it.
pub(super) enum Condition {
    None,
    /// The request covers the block in part: the rest of it is what was read.
    Edge(Edge),
    /// The data only moves: its blocks have these addresses, and no other volume may have them.
    Moves(Vec<Address>),
}

/// A block that is written in part: the new bytes, and its identity when it was read.
pub(super) struct Edge {
    pub(super) patch: Bytes,
    pub(super) at: usize,
    pub(super) seen: Seen,
}

/// Identity of a block's content.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    Data(Address),
    Zero,
    Hole,
}

impl From<&MappingState> for Seen {
    fn from(state: &MappingState) -> Self {
        match state {
            MappingState::Data(address, _) => Self::Data(*address),
            MappingState::Zero => Self::Zero,
            MappingState::Hole => Self::Hole,
        }
    }
}

/// A byte range as a part of a block, whole blocks, and a part of a block; each as offset and
/// length.
pub(super) struct Split {
    pub(super) head: Option<(u64, u64)>,
    pub(super) middle: Option<(u64, u64)>,
    pub(super) tail: Option<(u64, u64)>,
}

pub(super) fn split(offset: u64, len: u64) -> Split {
    let block = BLOCK_BYTES as u64;
    let (end, first_whole) = (offset + len, offset.next_multiple_of(block));
    let last_whole = end / block * block;
    if first_whole > last_whole {
        return Split { head: Some((offset, len)), middle: None, tail: None };
    }
    Split {
        head: (offset < first_whole).then_some((offset, first_whole - offset)),
        middle: (first_whole < last_whole).then_some((first_whole, last_whole - first_whole)),
        tail: (last_whole < end).then_some((last_whole, end - last_whole)),
    }
}

/// Whole blocks as chunks: runs of data with their checksums, and runs of zeroes.
pub(super) fn whole_blocks(first: u64, data: Bytes, chunks: &mut VecDeque<Chunk>) {
    let count = data.len() / BLOCK_BYTES;
    let block = |i: usize| &data[i * BLOCK_BYTES..(i + 1) * BLOCK_BYTES];
    let mut at = 0;
    while at < count {
        let zero = checksum::is_zero(block(at));
        let mut checksums = SmallVec::new();
        let start = at;
        while at < count && checksum::is_zero(block(at)) == zero {
            if !zero {
                checksums.push(checksum::block(block(at)));
            }
            at += 1;
        }
        let block = first + start as u64;
        chunks.push_back(if zero {
            Chunk::range(block, (at - start) as u64, RecordKind::Hole)
        } else {
            Chunk::data(block, data.slice(start * BLOCK_BYTES..at * BLOCK_BYTES), checksums)
        });
    }
}

impl Chunk {
    /// Whole blocks of data.
    pub(super) fn data(block: u64, data: Bytes, checksums: SmallVec<[u32; 8]>) -> Self {
        let content = Content::Data { data, checksums };
        Self { block, content, condition: Condition::None, ends_at: None }
    }

    /// Whole blocks that become holes or reserved zeroes.
    pub(super) fn range(block: u64, count: u64, kind: RecordKind) -> Self {
        let content = Content::Range { count, kind };
        Self { block, content, condition: Condition::None, ends_at: None }
    }

    /// A block with new bytes over the edge of it.
    pub(super) fn edge(block: u64, data: Bytes, edge: Edge) -> Self {
        let mut one = VecDeque::with_capacity(1);
        whole_blocks(block, data, &mut one);
        let chunk = one.pop_front().expect("one block is one chunk");
        Self { condition: Condition::Edge(edge), ..chunk }
    }

    /// Data that is to move from these addresses, a block each.
    pub(super) fn moved(
        block: u64,
        data: Bytes,
        checksums: SmallVec<[u32; 8]>,
        from: Vec<Address>,
    ) -> Self {
        Self { condition: Condition::Moves(from), ..Self::data(block, data, checksums) }
    }

    /// Whether the data only moves.
    pub(super) fn is_move(&self) -> bool {
        matches!(self.condition, Condition::Moves(_))
    }

    /// Whether its condition is true of this map.
    ///
    /// # Errors
    /// A node is not in memory.
    pub(super) fn is_condition_true(
        &self,
        tree: &Tree,
        nodes: &impl Nodes,
    ) -> Result<bool, Missing> {
        match &self.condition {
            Condition::None => Ok(true),
            Condition::Moves(addresses) => tree.owns_at(nodes, self.block, addresses),
            Condition::Edge(edge) => {
                let mut now = SmallVec::<[Mapping; 4]>::new();
                tree.lookup(nodes, self.block, 1, &mut now)?;
                Ok(Seen::from(&now[0].state) == edge.seen || is_blind_to(Blindness::EdgeChanged))
            }
        }
    }

    pub(super) fn blocks(&self) -> u64 {
        match &self.content {
            Content::Data { checksums, .. } => checksums.len() as u64,
            Content::Range { count, .. } => *count,
        }
    }

    /// Blocks that it stores.
    pub(super) fn data_blocks(&self) -> u64 {
        match &self.content {
            Content::Data { checksums, .. } => checksums.len() as u64,
            Content::Range { .. } => 0,
        }
    }

    /// Byte offset of the end of the range that it changes. Zeroes may reach beyond the volume's
    /// end in its last block.
    pub(super) fn end_bytes(&self) -> u64 {
        let start = self.block * BLOCK_BYTES as u64;
        match (&self.condition, &self.content) {
            (Condition::Edge(edge), _) => start + (edge.at + edge.patch.len()) as u64,
            (_, Content::Data { data, .. }) => start + data.len() as u64,
            (_, Content::Range { count, .. }) => start + (count - 1) * BLOCK_BYTES as u64 + 1,
        }
    }

    /// Leaves out the last block if it reached to the volume's end and the volume has another size
    /// now. Keeps write's I5.
    pub(super) fn fit(&mut self, size_bytes: u64) {
        if let (Some(end), Content::Range { count, .. }) = (self.ends_at, &mut self.content)
            && end != size_bytes
        {
            *count -= 1;
            self.ends_at = None;
        }
    }

    /// The first `done` blocks are written.
    pub(super) fn advance(&mut self, done: u64) {
        self.block += done;
        match &mut self.content {
            Content::Data { data, checksums } => {
                *data = data.slice(done as usize * BLOCK_BYTES..);
                checksums.drain(..done as usize);
            }
            Content::Range { count, .. } => *count -= done,
        }
        if let Condition::Moves(addresses) = &mut self.condition {
            addresses.drain(..done as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_split_at_block_borders() {
        let check = |offset, len, head, middle, tail| {
            let s = split(offset, len);
            assert_eq!((s.head, s.middle, s.tail), (head, middle, tail), "{offset} {len}");
        };
        check(0, 4096, None, Some((0, 4096)), None);
        check(1, 10, Some((1, 10)), None, None);
        check(1, 4095, Some((1, 4095)), None, None);
        check(4090, 12, Some((4090, 6)), None, Some((4096, 6)));
        check(4090, 6 + 4096 + 1, Some((4090, 6)), Some((4096, 4096)), Some((8192, 1)));
        check(4096, 100, None, None, Some((4096, 100)));
    }
}
