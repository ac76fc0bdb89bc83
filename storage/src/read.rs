//! Reading: the map says what a range is; staging, the cache, or the store has the bytes.

use crate::{
    address::{Address, BLOCK_BYTES},
    disk::{Fill, NodesInHand},
    error::Result,
    map::{Mapping, MappingState, RunState},
    volume::{Inner, Volume},
};
use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use smallvec::SmallVec;
use std::ops::ControlFlow;

/// Requests of this many bytes are streams: they do not fill the cache. Filling it costs a third of a core at the rate
/// of a fast disk (measured with perf: 29 of 100 samples), and a stream is seldom read twice. A guess, not tuned.
const STREAM_BYTES: u32 = 128 << 10;

/// A stretch of what was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes.
    Data(Bytes),
    /// Zeroes, from a hole or reserved.
    Zero {
        /// Number of bytes.
        len: u32,
    },
}

/// What a stretch of a volume is, as block status tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub len_bytes: u64,
    /// Its state.
    pub state: ExtentState,
}

/// The states of an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentState {
    /// Holds data.
    Data,
    /// Reads as zeroes, reserved.
    Zero,
    /// Reads as zeroes, takes nothing.
    Hole,
}

/// A stretch that is not in memory, and where its bytes belong among the pieces.
struct Miss {
    piece: usize,
    address: Address,
    checksums: SmallVec<[u32; 8]>,
}

impl Volume {
    /// Reads `len` bytes from `offset`: pieces in order that add up to `len`.
    ///
    /// Dropping the future abandons the read; the store's own operations end by themselves.
    ///
    /// # Errors
    /// [`crate::Kind::OutOfRange`], [`crate::Kind::NotFound`]; [`crate::Kind::Io`] and [`crate::Kind::Corrupt`] for
    /// bytes that cannot be had, after a second try. The volume goes on serving.
    pub async fn read(&self, offset: u64, len: u32) -> Result<Vec<Piece>> {
        let fill = if len >= STREAM_BYTES { Fill::Bypass } else { Fill::Cache };
        self.read_with(offset, len, fill).await
    }

    async fn read_with(&self, offset: u64, len: u32, fill: Fill) -> Result<Vec<Piece>> {
        let volume = &*self.0;
        volume.check_range(offset, u64::from(len))?;
        if len == 0 {
            return Ok(Vec::new());
        }
        let block_bytes = BLOCK_BYTES as u64;
        let (first, end) = (offset / block_bytes, (offset + u64::from(len)).div_ceil(block_bytes));
        // Held until the bytes are here: no slot that they are read from is reused meanwhile.
        let _token = volume.engine.readers.enter();
        let mappings = volume.mappings(first, end - first).await?;

        let mut pieces = Vec::with_capacity(mappings.len());
        let mut misses = Vec::new();
        for Mapping { blocks, state } in mappings {
            match state {
                MappingState::Zero | MappingState::Hole => {
                    // A request is below 4 GiB, but not the whole blocks around it.
                    let (half, len) = (1 << 31, blocks * block_bytes);
                    pieces.extend(
                        (0..len)
                            .step_by(half)
                            .map(|at| Piece::Zero { len: (len - at).min(half as u64) as u32 }),
                    );
                }
                MappingState::Data(address, checksums) => {
                    volume.gather(address, checksums, &mut pieces, &mut misses);
                }
            }
        }
        match misses.len() {
            0 => {}
            1 => {
                let miss = &misses[0];
                pieces[miss.piece] =
                    Piece::Data(volume.engine.disk.read_data(miss.address, &miss.checksums, fill).await?);
            }
            _ => {
                let reads =
                    misses.iter().map(|m| volume.engine.disk.read_data(m.address, &m.checksums, fill));
                for (miss, data) in misses.iter().zip(try_join_all(reads).await?) {
                    pieces[miss.piece] = Piece::Data(data);
                }
            }
        }
        trim_to(&mut pieces, (offset % block_bytes) as u32, len);
        Ok(pieces)
    }

    /// What the range is, as extents: at most `entries_max` (at least one), so they may end before the range does.
    /// Touches no data.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn block_status(&self, offset: u64, len: u64, entries_max: usize) -> Result<Vec<Extent>> {
        let volume = &*self.0;
        volume.check_range(offset, len)?;
        let block_bytes = BLOCK_BYTES as u64;
        let _token = volume.engine.readers.enter();
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
        let told: u64 = extents.iter().map(|e| e.len_bytes).sum();
        if let Some(last) = extents.last_mut() {
            last.len_bytes -= told.saturating_sub(len);
        }
        Ok(extents)
    }

    /// Brings a range into the cache (`NBD_CMD_CACHE`).
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn prefetch(&self, offset: u64, len: u64) -> Result<()> {
        const STEP_BYTES: u64 = 1 << 20;
        self.0.check_range(offset, len)?;
        let mut at = offset;
        while at < offset + len {
            let step = (STEP_BYTES - at % STEP_BYTES).min(offset + len - at);
            self.read_with(at, step as u32, Fill::Cache).await?;
            at += step;
        }
        Ok(())
    }
}

impl Inner {
    /// What the blocks are; loads the nodes of the map that it takes. Hold a read token.
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

    /// Takes what is in memory of a run of data, and notes the rest.
    fn gather(
        &self,
        address: Address,
        checksums: SmallVec<[u32; 8]>,
        pieces: &mut Vec<Piece>,
        misses: &mut Vec<Miss>,
    ) {
        let blocks = checksums.len() as u32;
        let mut found = BytesMut::new();
        let mut at = 0;
        while at < blocks {
            let here = address.plus(at);
            if found.capacity() == 0 {
                found.reserve((blocks - at) as usize * BLOCK_BYTES);
            }
            let staged = self.engine.log.staging.read(here, blocks - at, &mut found);
            if staged > 0 {
                at += staged;
            } else if self.engine.disk.blocks.get(here, |block| found.extend_from_slice(block)).is_some() {
                at += 1;
            } else {
                if !found.is_empty() {
                    pieces.push(Piece::Data(found.split().freeze()));
                }
                let sum = checksums[at as usize];
                match misses.last_mut() {
                    // The next block of the miss that was noted last, with nothing in between.
                    Some(miss)
                        if miss.piece + 1 == pieces.len()
                            && miss.address.raw() + miss.checksums.len() as u64 == here.raw() =>
                    {
                        miss.checksums.push(sum);
                    }
                    _ => {
                        let checksums = SmallVec::from_slice(&[sum]);
                        misses.push(Miss { piece: pieces.len(), address: here, checksums });
                        pieces.push(Piece::Data(Bytes::new()));
                    }
                }
                at += 1;
            }
        }
        if !found.is_empty() {
            pieces.push(Piece::Data(found.freeze()));
        }
    }
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
        let mut pieces = vec![Piece::Data(data.clone()), Piece::Zero { len: 4096 }, Piece::Data(data)];
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
