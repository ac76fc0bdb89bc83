//! Reads of data that is not in memory, for one request: all its pieces are submitted together,
//! checked, and offered to the cache; blocks that others are reading come from their reads.
//!
//! ```text
//!   runs ─cut at extents─► parts ─┬─ led ────► one submission ─► checked ─► cache ─► landed ─┐
//!                                 ├─ followed ─────────────────── waited for ────────────────┼─►
//!                                 └─ in the cache by now ────────────────────────────────────┘
//! ```
//!
//! Parts that are long get a buffer each, which goes into the cache as it is. Where they are short,
//! as in data that was overwritten at random, all of them share one buffer, and the cache gets
//! copies, because a buffer lives as long as any part of it.

use super::{
    checked_reads::{Disk, Fill},
    single_flight::{Begun, Flight, Lead},
};
use crate::{
    base::{Address, BLOCK_BYTES, Blindness, Error, Result, checksum, is_blind_to},
    cache::blocks_to_border,
};
use bytes::{Bytes, BytesMut};
use sandstone_ring::{ReadInto, aligned};
use smallvec::SmallVec;
use std::sync::{Arc, atomic::Ordering::Relaxed};

/// Parts of fewer blocks than this, on average, share a buffer: a copy into the cache takes as long
/// as an allocation and a piece of the reply for three or four blocks. A guess, not tuned.
const OWN_BUFFER_BLOCKS: u32 = 4;

/// Blocks of data that follow each other, with their checksums.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) address: Address,
    pub(crate) checksums: SmallVec<[u32; 8]>,
}

/// The bytes of a run, in order.
pub(crate) type Pieces = SmallVec<[Bytes; 1]>;

/// Blocks of a run that lie in one extent and share their lot.
struct Part<'a> {
    run: usize,
    address: Address,
    checksums: &'a [u32],
    state: PartState<'a>,
}

enum PartState<'a> {
    Wanted,
    Led(Lead<'a, Bytes>),
    Followed { flight: Arc<Flight<Bytes>>, from: u32 },
    There(Bytes),
}

type Parts<'a> = SmallVec<[Part<'a>; 1]>;

impl Run {
    /// A run of one block.
    pub(crate) fn new(address: Address, checksum: u32) -> Self {
        Self { address, checksums: SmallVec::from_slice(&[checksum]) }
    }

    /// Adds a block if it is the next one.
    pub(crate) fn extend(&mut self, address: Address, checksum: u32) -> bool {
        let follows = self.address.raw() + self.checksums.len() as u64 == address.raw();
        if follows {
            self.checksums.push(checksum);
        }
        follows
    }

    fn blocks(&self) -> u32 {
        self.checksums.len() as u32
    }
}

impl<'a> Part<'a> {
    fn blocks(&self) -> u32 {
        self.checksums.len() as u32
    }

    /// Splits the part behind its first blocks, whose state is now this.
    fn split_to(&mut self, blocks: u32, state: PartState<'a>) -> Part<'a> {
        let (checksums, rest) = self.checksums.split_at(blocks as usize);
        let first = Part { run: self.run, address: self.address, checksums, state };
        self.checksums = rest;
        if !rest.is_empty() {
            self.address = self.address.plus(blocks);
        }
        first
    }

    /// The first block that is not what was written.
    fn find_bad(&self, data: &[u8]) -> Option<u32> {
        let blocks = data.chunks_exact(BLOCK_BYTES).zip(self.checksums);
        let bad = blocks.map(|(block, sum)| checksum::block(block) != *sum).position(|bad| bad);
        bad.filter(|_| !is_blind_to(Blindness::DataChecksum)).map(|bad| bad as u32)
    }
}

impl Disk {
    /// Reads runs of data and puts them into the cache. Hold a read pin.
    ///
    /// # Errors
    /// [`crate::Kind::Io`]; [`crate::Kind::Corrupt`] when the bytes differ from what was written,
    /// twice.
    pub(crate) async fn read_runs(&self, runs: &[Run], fill: Fill<'_>) -> Result<Vec<Pieces>> {
        let mut parts: Parts<'_> = runs
            .iter()
            .enumerate()
            .map(|(run, Run { address, checksums })| Part {
                run,
                address: *address,
                checksums,
                state: PartState::Wanted,
            })
            .collect();
        while parts.iter().any(|part| matches!(part.state, PartState::Wanted)) {
            parts = self.begin(parts);
            // Before it waits for others' reads (keeps single_flight's I2).
            self.read_led(&mut parts, fill).await?;
            for part in &mut parts {
                if let PartState::Followed { flight, from } = &part.state {
                    part.state = match flight.landed().await {
                        None => PartState::Wanted,
                        Some(read) => {
                            // Counts as a use of what was read ahead.
                            let _counted = self.blocks.take(part.address, part.blocks());
                            let from = *from as usize * BLOCK_BYTES;
                            let len = part.checksums.len() * BLOCK_BYTES;
                            PartState::There(read?.slice(from..from + len))
                        }
                    };
                }
            }
        }
        let mut read = vec![Pieces::new(); runs.len()];
        for part in parts {
            let PartState::There(data) = part.state else { unreachable!("all of them are there") };
            read[part.run].push(data);
        }
        debug_assert!(runs.iter().zip(&read).all(|(run, pieces)| {
            pieces.iter().map(Bytes::len).sum::<usize>() == run.blocks() as usize * BLOCK_BYTES
        }));
        Ok(read)
    }

    /// Decides for each wanted part who reads it, and cuts it where that changes.
    fn begin<'a>(&'a self, wanted: Parts<'a>) -> Parts<'a> {
        let mut begun = Parts::with_capacity(wanted.len());
        for mut part in wanted {
            if !matches!(part.state, PartState::Wanted) {
                begun.push(part);
                continue;
            }
            while !part.checksums.is_empty() {
                let blocks = part.blocks().min(blocks_to_border(part.address));
                let look = |blocks| self.blocks.look(part.address, blocks);
                let (blocks, state) = match self.flights.begin(part.address, blocks, look) {
                    Begun::Cached(data) => {
                        ((data.len() / BLOCK_BYTES) as u32, PartState::There(data))
                    }
                    Begun::Follow { flight, from, blocks } => {
                        (blocks, PartState::Followed { flight, from })
                    }
                    Begun::Lead(lead) => (lead.blocks(), PartState::Led(lead)),
                };
                begun.push(part.split_to(blocks, state));
            }
        }
        begun
    }

    /// Reads the parts that this request leads, all at once, and lands them.
    async fn read_led(&self, parts: &mut Parts<'_>, fill: Fill<'_>) -> Result<()> {
        let led = |part: &&Part<'_>| matches!(part.state, PartState::Led(_));
        let (number, blocks) = parts
            .iter()
            .filter(led)
            .fold((0, 0), |(number, blocks), part| (number + 1, blocks + part.blocks()));
        let is_shared = number > 1 && blocks < OWN_BUFFER_BLOCKS * number;
        let read = match number {
            0 => return Ok(()),
            1 => None, // one read needs no list of them
            _ => self.read_at_once(parts.iter().filter(led), is_shared).await,
        };
        let mut read = read.map(IntoIterator::into_iter);
        let mut failed = None;
        for part in parts {
            let PartState::Led(_) = part.state else { continue };
            let data = self.check(part, read.as_mut().and_then(Iterator::next)).await;
            let state = match &data {
                Ok(data) => PartState::There(data.clone()),
                Err(_) => PartState::Wanted,
            };
            let PartState::Led(lead) = std::mem::replace(&mut part.state, state) else {
                unreachable!("looked at above")
            };
            match &data {
                Ok(data) if is_shared => {
                    self.cache_blocks(part.address, &Bytes::copy_from_slice(data), fill);
                }
                Ok(data) => self.cache_blocks(part.address, data, fill),
                Err(error) => failed = Some(error.clone()),
            }
            lead.land(data); // after the cache had it (keeps single_flight's I1)
        }
        failed.map_or(Ok(()), Err)
    }

    /// Reads parts with one submission, unchecked; `None` where one of them cannot be read.
    async fn read_at_once<'a>(
        &self,
        parts: impl Iterator<Item = &'a Part<'a>> + Clone,
        is_shared: bool,
    ) -> Option<Vec<Bytes>> {
        let bytes = |part: &Part<'_>| part.checksums.len() * BLOCK_BYTES;
        let mut shared = aligned(if is_shared { parts.clone().map(bytes).sum() } else { 0 });
        let mut reads: Vec<ReadInto> = Vec::new();
        for part in parts.clone() {
            let mut left = if is_shared {
                let rest = shared.split_off(bytes(part));
                std::mem::replace(&mut shared, rest)
            } else {
                aligned(bytes(part))
            };
            // Blocks that were moved lie apart from each other.
            let stretches = self.segments.stretches(part.address, part.blocks())?;
            if let [(offset, _)] = stretches[..] {
                reads.push(ReadInto { offset, buf: left, len: bytes(part) });
                continue;
            }
            for (offset, blocks) in stretches {
                let len = blocks as usize * BLOCK_BYTES;
                let rest = left.split_off(len);
                let buf = std::mem::replace(&mut left, rest);
                reads.push(ReadInto { offset, buf, len });
            }
        }
        let mut filled = self.file.read_all(reads).await.ok()?.into_iter();
        let mut join = |len: usize| {
            let mut joined = BytesMut::new();
            while joined.len() < len {
                joined.unsplit(filled.next().expect("as many buffers as reads"));
            }
            joined.freeze()
        };
        if !is_shared {
            return Some(parts.map(|part| join(bytes(part))).collect());
        }
        let mut all = join(parts.clone().map(bytes).sum());
        Some(parts.map(|part| all.split_to(bytes(part))).collect())
    }

    /// Checks what was `read` of a part, or reads it by itself.
    async fn check(&self, part: &Part<'_>, read: Option<Bytes>) -> Result<Bytes> {
        let again = async || Ok(self.read_blocks(part.address, part.blocks()).await?.freeze());
        let data = match read {
            Some(data) => data,
            None => again().await?,
        };
        if part.find_bad(&data).is_none() {
            return Ok(data);
        }
        let data = again().await?; // the second try
        let Some(bad) = part.find_bad(&data) else { return Ok(data) };
        self.corrupt.fetch_add(1, Relaxed);
        let at = part.address.plus(bad);
        tracing::error!(address = ?at, "a block is not what was written there");
        Err(Error::corrupt(format!("the block at {at:?} is not what was written there")))
    }
}
