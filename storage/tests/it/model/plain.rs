//! A volume as a plain array of blocks, and what a request makes of it.

use crate::world::{BLOCK, Random, unless_full, write_either_way};
use bytes::Bytes;
use sandstone_storage::{Allocation, Durability, ExtentState, Piece, Volume};
use std::{ops::Range, rc::Rc};

static ZEROES: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// A block. Data is shared where one line was made from another, so whether it is still the same
/// write can be told.
#[derive(Clone, Debug)]
pub(crate) enum Cell {
    Hole,
    Zero,
    Data(Rc<Vec<u8>>),
}

impl Cell {
    /// What a block becomes that is written: zeroes take no room.
    fn written(bytes: Vec<u8>) -> Self {
        if bytes == ZEROES { Self::Hole } else { Self::Data(Rc::new(bytes)) }
    }

    pub(crate) fn state(&self) -> ExtentState {
        match self {
            Self::Hole => ExtentState::Hole,
            Self::Zero => ExtentState::Zero,
            Self::Data(_) => ExtentState::Data,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Hole | Self::Zero => &ZEROES,
            Self::Data(bytes) => bytes,
        }
    }

    /// Whether it is the same write, or the same kind of nothing.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Data(a), Self::Data(b)) => Rc::ptr_eq(a, b),
            _ => self.state() == other.state(),
        }
    }

    /// Whether it reads and is told alike.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        self.state() == other.state() && self.bytes() == other.bytes()
    }
}

#[derive(Clone)]
pub(crate) struct Plain {
    pub(crate) size: u64,
    pub(crate) cells: Vec<Cell>,
}

impl Plain {
    pub(crate) fn new(size: u64) -> Self {
        Self { size, cells: vec![Cell::Hole; size.div_ceil(BLOCK) as usize] }
    }

    pub(crate) fn grow(&mut self, size: u64) {
        self.size = size;
        self.cells.resize(size.div_ceil(BLOCK) as usize, Cell::Hole);
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.cells.iter().filter(|cell| matches!(cell, Cell::Data(_))).count() as u64 * BLOCK
    }

    /// The first block at `offset` or behind it, before `end`, that is not as `piece` has it.
    fn wrong(&self, offset: u64, end: u64, piece: &Piece) -> Option<u64> {
        (offset / BLOCK..end.div_ceil(BLOCK)).find(|block| {
            let (from, to) = (offset.max(block * BLOCK), end.min((block + 1) * BLOCK));
            let cell = &self.cells[*block as usize];
            let expected =
                &cell.bytes()[(from - block * BLOCK) as usize..(to - block * BLOCK) as usize];
            match piece {
                Piece::Data(data) => {
                    data[(from - offset) as usize..(to - offset) as usize] != *expected
                }
                Piece::Zero { .. } => {
                    matches!(cell, Cell::Data(_)) && expected.iter().any(|b| *b != 0)
                }
            }
        })
    }
}

/// Reads a range and compares it.
pub(crate) async fn check_range(volume: &Volume, plain: &Plain, offset: u64, len: u64) {
    let mut at = offset;
    for piece in volume.read(offset, len as u32).await.expect("a read") {
        let end = at
            + match &piece {
                Piece::Data(data) => data.len() as u64,
                Piece::Zero { len } => u64::from(*len),
            };
        let wrong = plain.wrong(at, end, &piece);
        assert!(wrong.is_none(), "block {} of {} is wrong", wrong.unwrap_or(0), volume.id());
        at = end;
    }
    assert_eq!(at, offset + len);
}

/// Compares everything that a line tells of itself.
pub(crate) async fn check(volume: &Volume, plain: &Plain) {
    assert_eq!(volume.size_bytes(), plain.size);
    check_range(volume, plain, 0, plain.size).await;
    let states = states(volume, 0, plain.size, 16).await;
    for (block, (found, cell)) in states.iter().zip(&plain.cells).enumerate() {
        assert_eq!(*found, cell.state(), "block {block} of {}", volume.id());
    }
    assert_eq!(volume.used_bytes(), plain.used_bytes());
}

/// What block status tells, by block, asked for some extents at a time. `offset` is at a block.
async fn states(volume: &Volume, offset: u64, len: u64, entries_max: usize) -> Vec<ExtentState> {
    let mut states = Vec::new();
    let end = offset + len;
    let mut at = offset;
    while at < end {
        let extents = volume.block_status(at, end - at, entries_max).await.expect("block status");
        assert!((1..=entries_max).contains(&extents.len()));
        for extent in extents {
            at += extent.len_bytes;
            assert!(extent.len_bytes > 0 && (at == end || at.is_multiple_of(BLOCK)));
            states.extend(std::iter::repeat_n(
                extent.state,
                extent.len_bytes.div_ceil(BLOCK) as usize,
            ));
        }
    }
    assert_eq!(at, end);
    states
}

/// Some blocks as they are now.
pub(crate) async fn found(volume: &Volume, blocks: Range<usize>) -> Vec<Cell> {
    let offset = blocks.start as u64 * BLOCK;
    let len = (blocks.end as u64 * BLOCK).min(volume.size_bytes()) - offset;
    let mut bytes = crate::world::read(volume, offset, len).await.expect("a read");
    bytes.resize(blocks.len() * BLOCK as usize, 0);
    let cell = |(bytes, state): (&[u8], ExtentState)| match state {
        ExtentState::Data => Cell::Data(Rc::new(bytes.to_vec())),
        ExtentState::Zero | ExtentState::Hole => {
            assert!(
                bytes == ZEROES,
                "zeroes are told of {}, and something else is read",
                volume.id()
            );
            if state == ExtentState::Zero { Cell::Zero } else { Cell::Hole }
        }
    };
    bytes.chunks(BLOCK as usize).zip(states(volume, offset, len, 3).await).map(cell).collect()
}

/// A request that changes a volume.
#[derive(Clone, Debug)]
pub(crate) struct Edit {
    what: What,
    offset: u64,
    len: u64,
    /// It reaches the volume's end: the last block is covered as a whole, whatever its size.
    to_end: bool,
}

#[derive(Clone, Debug)]
enum What {
    Write(Bytes),
    Trim,
    Zeroes(Allocation),
}

impl Edit {
    pub(crate) fn random(random: &mut Random, size: u64, (offset, len): (u64, u64)) -> Self {
        let what = match random.below(6) {
            0 => What::Trim,
            1 => What::Zeroes(Allocation::Hole),
            2 => What::Zeroes(Allocation::Reserve),
            _ => What::Write(random.bytes(len)),
        };
        Self { what, offset, len, to_end: offset + len == size }
    }

    /// The blocks that it concerns.
    pub(crate) fn blocks(&self) -> Range<usize> {
        (self.offset / BLOCK) as usize..(self.offset + self.len).div_ceil(BLOCK) as usize
    }

    /// `false` when it was not done as a whole, for want of space.
    pub(crate) async fn send(&self, volume: &Volume, durability: Durability) -> bool {
        let (offset, len) = (self.offset, self.len);
        unless_full(match &self.what {
            What::Write(data) => write_either_way(volume, offset, data.clone(), durability).await,
            What::Trim => volume.trim(offset, len, durability).await,
            What::Zeroes(allocation) => {
                volume.write_zeroes(offset, len, *allocation, durability).await
            }
        })
    }

    pub(crate) fn apply(&self, plain: &mut Plain) {
        for block in self.blocks() {
            self.apply_to(block, &mut plain.cells[block]);
        }
    }

    /// Whether the block is another one after it.
    pub(crate) fn touches(&self, block: usize) -> bool {
        self.blocks().contains(&block) && (!matches!(self.what, What::Trim) || self.trims(block))
    }

    fn part(&self, block: usize) -> Range<usize> {
        let start = block as u64 * BLOCK;
        let (from, to) = (self.offset.max(start), (self.offset + self.len).min(start + BLOCK));
        (from - start) as usize..(to - start) as usize
    }

    /// A trim leaves blocks alone that it covers in part.
    fn trims(&self, block: usize) -> bool {
        let part = self.part(block);
        part.start == 0 && (part.end == BLOCK as usize || self.to_end)
    }

    /// What it makes of one block.
    pub(crate) fn apply_to(&self, block: usize, cell: &mut Cell) {
        let part = self.part(block);
        match &self.what {
            What::Trim => {
                if self.trims(block) {
                    *cell = Cell::Hole;
                }
            }
            What::Zeroes(allocation) if part.len() == BLOCK as usize => {
                *cell = match allocation {
                    Allocation::Reserve => Cell::Zero,
                    Allocation::Hole => Cell::Hole,
                };
            }
            What::Zeroes(_) => {
                let mut bytes = cell.bytes().to_vec();
                bytes[part].fill(0);
                *cell = Cell::written(bytes);
            }
            What::Write(data) => {
                let mut bytes = cell.bytes().to_vec();
                let from = (block as u64 * BLOCK + part.start as u64 - self.offset) as usize;
                bytes[part.clone()].copy_from_slice(&data[from..from + part.len()]);
                *cell = Cell::written(bytes);
            }
        }
    }
}
