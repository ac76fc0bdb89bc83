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
//! as in data that was overwritten at random, all of them share one buffer, and the cache and the
//! followers get copies, because a buffer lives as long as any part of it.

use super::{
    checked_reads::{Disk, Fill},
    single_flight::{Begun, Flight, Lead},
};
use crate::{
    base::{Address, BLOCK_BYTES, Blindness, Error, Result, checksum, is_blind_to},
    cache::{Origin, blocks_to_border},
};
use bytes::{Bytes, BytesMut};
use sandstone_ring::{BegunRead, aligned};
use smallvec::SmallVec;
use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// Parts of fewer blocks than this, on average, share a buffer: a copy into the cache takes as long
/// as an allocation and a piece of the reply for three or four blocks. A guess, not tuned.
const OWN_BUFFER_BLOCKS: u32 = 4;

/// Most parts of a request that are read at once, so that a large request does not fill the queue
/// that the log's writes and other clients' reads go through.
const AT_ONCE_MAX: usize = 64;

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

/// The reads of one part.
type BegunReads = SmallVec<[BegunRead; 1]>;

impl Run {
    pub(crate) fn new(address: Address, checksums: &[u32]) -> Self {
        Self { address, checksums: SmallVec::from_slice(checksums) }
    }

    /// Adds blocks if they are the next ones.
    pub(crate) fn extend(&mut self, address: Address, checksums: &[u32]) -> bool {
        let follows = self.address.raw() + self.checksums.len() as u64 == address.raw();
        if follows {
            self.checksums.extend_from_slice(checksums);
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

/// Waits for the reads of a part; `None` where one of them failed.
async fn joined(reads: BegunReads) -> Option<Bytes> {
    let mut all = BytesMut::new();
    for read in reads {
        all.unsplit(read.finish().await.ok()?);
    }
    (!all.is_empty()).then(|| all.freeze())
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
            parts = self.begin(parts, fill.origin);
            // Before it waits for others' reads (keeps single_flight's I2).
            self.read_led(&mut parts, fill).await?;
            for part in &mut parts {
                if let PartState::Followed { flight, from } = &part.state {
                    part.state = match flight.landed().await {
                        None => PartState::Wanted,
                        Some(read) => {
                            if fill.origin == Origin::Demand {
                                // Counts as a use of what was read ahead.
                                let _counted =
                                    self.blocks.look(part.address, part.blocks(), fill.origin);
                            }
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
    fn begin<'a>(&'a self, wanted: Parts<'a>, origin: Origin) -> Parts<'a> {
        let mut begun = Parts::with_capacity(wanted.len());
        for mut part in wanted {
            if !matches!(part.state, PartState::Wanted) {
                begun.push(part);
                continue;
            }
            while !part.checksums.is_empty() {
                let blocks = part.blocks().min(blocks_to_border(part.address));
                let look = |blocks| self.blocks.look(part.address, blocks, origin);
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

    /// Reads the parts that this request leads, many at once, and lands each as soon as it and
    /// those before it are there.
    async fn read_led(&self, parts: &mut Parts<'_>, fill: Fill<'_>) -> Result<()> {
        let led = parts.iter().filter(|part| matches!(part.state, PartState::Led(_)));
        let plan: SmallVec<[(Address, u32); 1]> =
            led.map(|part| (part.address, part.blocks())).collect();
        let blocks: u32 = plan.iter().map(|(_, blocks)| blocks).sum();
        let number = plan.len() as u32;
        let is_shared = number > 1 && blocks < OWN_BUFFER_BLOCKS * number;
        let mut shared = match is_shared {
            true => aligned(blocks as usize * BLOCK_BYTES),
            false => BytesMut::new(),
        };
        // One read needs no list of them.
        let mut to_begin = plan.iter().filter(|_| number > 1);
        let (mut begun, mut failed) = (VecDeque::new(), None);
        for part in parts {
            let PartState::Led(_) = part.state else { continue };
            while begun.len() < AT_ONCE_MAX
                && let Some((address, blocks)) = to_begin.next()
            {
                let bytes = *blocks as usize * BLOCK_BYTES;
                let buffer = match is_shared {
                    true => {
                        let rest = shared.split_off(bytes);
                        std::mem::replace(&mut shared, rest)
                    }
                    false => aligned(bytes),
                };
                begun.push_back(self.begin_reads(*address, *blocks, buffer));
            }
            let read = match begun.pop_front() {
                Some(reads) => joined(reads).await,
                None => None,
            };
            let data = self.check(part, read).await;
            let state = match &data {
                Ok(data) => PartState::There(data.clone()),
                Err(_) => PartState::Wanted,
            };
            let PartState::Led(lead) = std::mem::replace(&mut part.state, state) else {
                unreachable!("looked at above")
            };
            // What others get outlives this request, and so must not hold a buffer of all of it.
            let data = data.map(|data| match is_shared {
                true => Bytes::copy_from_slice(&data),
                false => data,
            });
            match &data {
                Ok(data) => self.cache_blocks(part.address, data, fill),
                Err(error) => failed = Some(error.clone()),
            }
            lead.land(data); // after the cache had it (keeps single_flight's I1)
        }
        failed.map_or(Ok(()), Err)
    }

    /// Starts to read blocks into a buffer: one read, or several where they were moved apart from
    /// each other. None where they are in no segment.
    fn begin_reads(&self, address: Address, blocks: u32, buffer: BytesMut) -> BegunReads {
        let stretches = self.segments.stretches(address, blocks).unwrap_or_default();
        if let [(offset, blocks)] = stretches[..] {
            let read = self.file.begin_read(offset, buffer, blocks as usize * BLOCK_BYTES);
            return BegunReads::from_iter([read]);
        }
        let mut left = buffer;
        let begin = |(offset, blocks): (u64, u32)| {
            let len = blocks as usize * BLOCK_BYTES;
            let rest = left.split_off(len);
            self.file.begin_read(offset, std::mem::replace(&mut left, rest), len)
        };
        stretches.into_iter().map(begin).collect()
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
