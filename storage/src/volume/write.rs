//! Writing: data into the log, runs into the map, in the same order, under the volume's lock.
//!
//! ```text
//!   payload ─checksum─► chunks ─lock─► log.append (copies into staging) ─►
//!                                      tree.replace ─unlock─► acknowledge
//! ```
//!
//! I1  Changes under one lock are one state for readers: a request appears whole, unless it is
//!     larger than staging.
//! I2  The record comes before the change of the map, and both under the lock, so replay meets the
//!     same order.
//! I3  A block that is written in part is read first, without the lock. Under the lock its mapping
//!     must still be the one that was read; addresses are never reused, so "the same address" means
//!     "the same bytes". Otherwise the write reads it again.
//! I4  A range is checked against the size once more under the lock: blocks beyond the end after a
//!     restore would show when the volume grows again.
//!
//! I5  A request that is refused for want of room has changed nothing: what it needs is admitted at
//!     once, and stays admitted while the request waits with a part logged.
//! I6  The last block of a range that ends with the volume is whole as long as the volume has that
//!     size: when it has grown, the bytes behind the old end are not in the range.
//!
//! A write of zeroes becomes a hole: it takes a record, no data.

use super::chunk::{Chunk, Condition, Content, Edge, Seen, split, whole_blocks};
use crate::{
    base::{BLOCK_BYTES, Blindness, Durability, Error, Kind, Result, is_blind_to},
    core::Admitted,
    disk::{Need, NodesInHand},
    format::RecordKind,
    log::{Append, Batch, Refused},
    map::{NewState, Nodes, ReplaceMode, Touched},
    volume::{Piece, State, Volume},
};
use bytes::{Bytes, BytesMut};
use std::{collections::VecDeque, fmt, sync::Arc};

/// Whether a zeroed range keeps its space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// The range may become a hole.
    Hole,
    /// The range stays reserved (`NBD_CMD_FLAG_NO_HOLE`): a state of the map, not gigabytes of
    /// zeroes.
    Reserve,
}

/// State of a write that [`Volume::write_now`] began.
#[derive(Debug)]
pub enum Begun {
    /// The write is complete: logged, and acknowledged from staging.
    Done,
    /// The write is logged, and reads see it; the receipt waits for the store.
    Logged(Receipt),
    /// A part of the write is logged, and the rest has to wait.
    Started(Unfinished),
}

/// A write of which a part is logged, and the rest has to wait.
pub struct Unfinished {
    volume: Volume,
    request: Request,
}

impl Unfinished {
    /// Writes the rest.
    ///
    /// # Errors
    /// As [`Volume::write`].
    pub async fn finish(self) -> Result<()> {
        self.volume.commit(self.request, Durability::Volatile).await
    }
}

impl fmt::Debug for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unfinished").field("chunks", &self.request.chunks.len()).finish()
    }
}

/// Receipt for a write that is logged and not in the store yet.
#[derive(Clone, Debug)]
pub struct Receipt(Arc<Batch>);

impl Receipt {
    /// Whether both writes are in one batch, so that one wait is enough.
    pub fn is_shared_with(&self, other: &Receipt) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Waits until the write is in the store, past the page cache. Dropping the future changes
    /// nothing.
    ///
    /// # Errors
    /// [`Kind::Latched`] when writing failed.
    pub async fn written(&self) -> Result<()> {
        self.0.written().await
    }
}

/// A request on its way into the log.
#[derive(Default)]
pub(super) struct Request {
    /// What is not logged yet.
    pub(super) chunks: VecDeque<Chunk>,
    /// The batch of the last part that is.
    pub(super) last: Option<Arc<Batch>>,
    /// New blocks of the rest that are admitted, once a part is logged (I5).
    admitted: Option<Admitted>,
}

impl Request {
    /// A request of which nothing is logged yet.
    pub(super) fn new(chunks: VecDeque<Chunk>) -> Self {
        Self { chunks, ..Self::default() }
    }

    /// Blocks of data that are not logged yet.
    pub(super) fn data_blocks(&self) -> u64 {
        data_blocks_of(&self.chunks)
    }
}

/// Blocks of data of these chunks.
fn data_blocks_of(chunks: &VecDeque<Chunk>) -> u64 {
    chunks.iter().map(Chunk::data_blocks).sum()
}

/// Why the chunks could not all be applied; applied chunks have left the queue.
pub(super) enum Stopped {
    Missing(crate::map::Missing),
    /// The condition of that chunk is no longer true.
    Changed(usize),
    Busy,
    /// The log has no segment to go on in.
    NoSpace(Need),
    /// The store has no room for so many new blocks.
    Full,
    Latched,
    Failed(Error),
}

impl Volume {
    /// Writes `data` at `offset`. When it returns, the write is as durable as was asked, and reads
    /// see it.
    ///
    /// Dropping the future abandons the wait; what was logged stays written.
    ///
    /// # Errors
    /// [`Kind::OutOfRange`], [`Kind::NotFound`], [`Kind::Invalid`] (a snapshot): nothing was done.
    /// [`Kind::NoSpace`]: a part may be written, and nothing else was lost. [`Kind::Latched`],
    /// [`Kind::ReadOnly`]: see the store's health. [`Kind::Io`], [`Kind::Corrupt`]: the rest of a
    /// block that is written in part, or the map, could not be read.
    pub async fn write(&self, offset: u64, data: Bytes, durability: Durability) -> Result<()> {
        self.write_parts(offset, vec![data], durability).await
    }

    /// Writes several buffers as one request: each but the last ends at a border of the volume's
    /// blocks. A piece's memory is free once the log has it.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn write_parts(
        &self,
        offset: u64,
        parts: Vec<Bytes>,
        durability: Durability,
    ) -> Result<()> {
        let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
        self.inner.check_range(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let mut chunks = VecDeque::with_capacity(2 * parts.len());
        let (mut at, end) = (offset, offset + len);
        for part in parts {
            let part_end = at + part.len() as u64;
            assert!(
                part_end == end || part_end.is_multiple_of(BLOCK_BYTES as u64),
                "a part ends within a block"
            );
            self.add_chunks(at, part, &mut chunks).await?;
            at = part_end;
        }
        self.commit(Request::new(chunks), durability).await
    }

    /// Makes the data ready for the log. Nothing else holds it then, so its memory is free once the
    /// log has it.
    async fn add_chunks(
        &self,
        offset: u64,
        data: Bytes,
        chunks: &mut VecDeque<Chunk>,
    ) -> Result<()> {
        let edges = split(offset, data.len() as u64);
        let part = |from: u64, len: u64| {
            data.slice((from - offset) as usize..(from - offset + len) as usize)
        };
        if let Some((at, len)) = edges.head {
            chunks.push_back(self.edge(at, part(at, len)).await?);
        }
        if let Some((at, len)) = edges.middle {
            whole_blocks(at / BLOCK_BYTES as u64, part(at, len), chunks);
        }
        if let Some((at, len)) = edges.tail {
            chunks.push_back(self.edge(at, part(at, len)).await?);
        }
        Ok(())
    }

    /// Begins a write of whole blocks at once, where it need not wait: it is logged when this
    /// returns. It returns `None` where it would wait, or the range is not whole blocks or not in
    /// the volume: then nothing was done, and [`Self::write`] waits, or returns the error. It needs
    /// no read pin, because it reads nothing from the disk.
    pub fn write_now(&self, offset: u64, data: &Bytes) -> Option<Begun> {
        let (engine, block_bytes) = (&self.inner.engine, BLOCK_BYTES as u64);
        let is_whole = offset.is_multiple_of(block_bytes) && data.len().is_multiple_of(BLOCK_BYTES);
        if !is_whole
            || data.is_empty()
            || self.inner.check_range(offset, data.len() as u64).is_err()
        {
            return None;
        }
        if self.is_full() || engine.is_too_dirty() || engine.space.throttle().is_on() {
            return None;
        }
        let mut chunks = VecDeque::with_capacity(1);
        whole_blocks(offset / block_bytes, data.clone(), &mut chunks);
        let mut request = Request::new(chunks);
        match self.apply(&mut request, &engine.disk.nodes) {
            Ok(()) => Some(match request.last {
                Some(batch) if !self.may_acknowledge() => Begun::Logged(Receipt(batch)),
                Some(_) | None => Begun::Done,
            }),
            Err(_) if request.last.is_none() => None,
            // The obstacle will be met again.
            Err(_) => Some(Begun::Started(Unfinished { volume: self.clone(), request })),
        }
    }

    /// Trims a range: it reads as zeroes, and its blocks become garbage. Blocks that the range
    /// covers in part stay as they are, as the specification allows. Its cost follows the number of
    /// map nodes, not of bytes.
    ///
    /// # Errors
    /// As [`Self::write`], but never [`Kind::NoSpace`].
    pub async fn trim(&self, offset: u64, len: u64, durability: Durability) -> Result<()> {
        self.inner.check_range(offset, len)?;
        let mut chunks = VecDeque::with_capacity(1);
        let block_bytes = BLOCK_BYTES as u64;
        let first = offset.div_ceil(block_bytes);
        // The last block of a volume of odd size is whole when the range reaches its end.
        let to_end = len > 0 && offset + len == self.size_bytes();
        let end = if to_end {
            (offset + len).div_ceil(block_bytes)
        } else {
            (offset + len) / block_bytes
        };
        if first < end {
            let ends_at = (end * block_bytes > offset + len).then_some(offset + len);
            let hole = Chunk::range(first, end - first, RecordKind::Hole);
            chunks.push_back(Chunk { ends_at, ..hole });
        }
        self.commit(Request::new(chunks), durability).await
    }

    /// Zeroes a range, exact to the byte. Its cost follows the number of map nodes, not of bytes.
    ///
    /// # Errors
    /// As [`Self::write`]; [`Kind::NoSpace`] only for blocks that the range covers in part.
    pub async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        allocation: Allocation,
        durability: Durability,
    ) -> Result<()> {
        self.inner.check_range(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let mut chunks = VecDeque::with_capacity(3);
        let edges = split(offset, len);
        let zeroes = |len: u64| Bytes::from(vec![0; len as usize]);
        if let Some((at, len)) = edges.head {
            chunks.push_back(self.edge(at, zeroes(len)).await?);
        }
        if let Some((at, len)) = edges.middle {
            let kind = match allocation {
                Allocation::Hole => RecordKind::Hole,
                Allocation::Reserve => RecordKind::Zero,
            };
            let block_bytes = BLOCK_BYTES as u64;
            chunks.push_back(Chunk::range(at / block_bytes, len / block_bytes, kind));
        }
        if let Some((at, len)) = edges.tail {
            chunks.push_back(self.edge(at, zeroes(len)).await?);
        }
        self.commit(Request::new(chunks), durability).await
    }
}

impl Volume {
    /// Reads the block around a part of it and puts the part over it.
    async fn edge(&self, offset: u64, patch: Bytes) -> Result<Chunk> {
        let (block, at) = (offset / BLOCK_BYTES as u64, (offset % BLOCK_BYTES as u64) as usize);
        // Not held while the write waits for room: the reclaim that makes room quiesces.
        let _pin = self.inner.engine.pins.pin();
        let mapping = self.inner.mappings(block, 1).await?;
        let seen = Seen::from(&mapping[0].state);
        let mut bytes = BytesMut::with_capacity(BLOCK_BYTES);
        match &self.read_mapped(&mapping, self.demand_fill()).await?[..] {
            [Piece::Data(data)] => bytes.extend_from_slice(data),
            _ => bytes.resize(BLOCK_BYTES, 0),
        }
        bytes[at..at + patch.len()].copy_from_slice(&patch);
        Ok(Chunk::edge(block, bytes.freeze(), Edge { patch, at, seen }))
    }

    /// Logs and maps the rest of the request, then waits for the durability asked for, also of the
    /// part that was logged before.
    async fn commit(&self, mut request: Request, durability: Durability) -> Result<()> {
        self.wait_buffer().await;
        self.inner.engine.wait_clean().await;
        self.inner.engine.space.throttle().wait(request.data_blocks()).await;
        let mut waited = false;
        let mut nodes = NodesInHand::new(&self.inner.engine.disk);
        while !request.chunks.is_empty() {
            let room = self.inner.engine.log.room.notified();
            let pin = self.inner.engine.pins.pin();
            let applied = self.apply(&mut request, &nodes);
            if let Err(Stopped::Missing(missing)) = applied {
                nodes.load(missing).await?;
                continue;
            }
            drop(pin);
            match applied {
                Ok(()) => {}
                Err(Stopped::Missing(_)) => unreachable!("loaded above"),
                Err(Stopped::Changed(i)) => {
                    let chunk = &mut request.chunks[i];
                    let Chunk { block, condition: Condition::Edge(edge), .. } = &*chunk else {
                        unreachable!("a request moves nothing")
                    };
                    let offset = *block * BLOCK_BYTES as u64 + edge.at as u64;
                    *chunk = self.edge(offset, edge.patch.clone()).await?;
                }
                Err(Stopped::Busy) => {
                    self.inner.engine.log.pump();
                    room.await;
                }
                Err(Stopped::NoSpace(need)) => self.inner.engine.wait_reclaim(need).await?,
                Err(Stopped::Full) => {
                    self.inner.engine.wait_recount(waited).await?;
                    waited = true;
                }
                Err(Stopped::Latched) => return Err(self.inner.engine.health.refusal()),
                Err(Stopped::Failed(error)) => return Err(error),
            }
        }
        match (durability, request.last) {
            (Durability::Fua, _) if !is_blind_to(Blindness::Fua) => {
                let applied = self.inner.lock().applied;
                self.inner.engine.log.sync(applied).await
            }
            (_, None) => Ok(()),
            (_, Some(_)) if self.may_acknowledge() => Ok(()),
            (_, Some(batch)) => batch.written().await,
        }
    }

    /// Whether the record that was just logged may be acknowledged while it is only in staging:
    /// recovery reaches it there only when no other record is half filled in.
    fn may_acknowledge(&self) -> bool {
        let log = &self.inner.engine.log;
        self.writeback() && log.all_committed() && !log.is_behind()
    }

    /// Applies chunks from the front, all under one lock; stops where it has to wait.
    pub(super) fn apply(&self, request: &mut Request, nodes: &impl Nodes) -> Result<(), Stopped> {
        let chunks = &mut request.chunks;
        let mut state = self.inner.lock();
        state.check_exists().map_err(Stopped::Failed)?;
        if self.inner.snapshot_of.is_some() && !is_blind_to(Blindness::SnapshotWrites) {
            return Err(Stopped::Failed(Error::new(Kind::Invalid, "a snapshot never changes")));
        }
        if chunks.iter().any(|chunk| chunk.end_bytes() > state.meta.size_bytes) {
            // I4
            let error =
                Error::new(Kind::OutOfRange, "a restore has made the volume smaller meanwhile");
            return Err(Stopped::Failed(error));
        }
        chunks.iter_mut().for_each(|chunk| chunk.fit(state.meta.size_bytes));
        chunks.retain(|chunk| chunk.blocks() > 0);
        let engine = &self.inner.engine;
        let admitted = match request.admitted.take() {
            Some(admitted) => admitted.take(),
            None => self.admit(&state, chunks, nodes)?,
        };
        let before = state.tree.birthday().own_blocks;
        let applied = self.apply_admitted(&mut state, chunks, &mut request.last, nodes);
        let after = state.tree.birthday().own_blocks;
        let waits = applied.is_err() && request.last.is_some();
        let kept = if waits {
            // What was overwritten is free for others: the rest needs no more than its own blocks.
            (admitted + before).saturating_sub(after).min(data_blocks_of(chunks))
        } else {
            0
        };
        engine.space.commit_admitted(admitted, before, after, kept);
        request.admitted = waits.then(|| Admitted::keep(engine, kept)); // keeps I5
        applied
    }

    /// Admits the new blocks of all chunks, and returns their number. Where the store has room for
    /// all of them, overwritten blocks are not looked up.
    fn admit(
        &self,
        state: &State,
        chunks: &VecDeque<Chunk>,
        nodes: &impl Nodes,
    ) -> Result<u64, Stopped> {
        let space = &self.inner.engine.space;
        let blocks = data_blocks_of(chunks);
        if space.admit(blocks) {
            return Ok(blocks);
        }
        let mut new = 0;
        for chunk in chunks.iter().filter(|chunk| chunk.data_blocks() > 0) {
            let own =
                state.tree.own_in(nodes, chunk.block, chunk.blocks()).map_err(Stopped::Missing)?;
            new += chunk.blocks() - own;
        }
        if space.admit(new) { Ok(new) } else { Err(Stopped::Full) }
    }

    /// Logs and maps the chunks, from the front, as far as the log takes them.
    fn apply_admitted(
        &self,
        state: &mut State,
        chunks: &mut VecDeque<Chunk>,
        last: &mut Option<Arc<Batch>>,
        nodes: &impl Nodes,
    ) -> Result<(), Stopped> {
        // All of them before anything is prepared: what does not apply leaves the map as it is.
        for (i, chunk) in chunks.iter().enumerate() {
            if !chunk.is_condition_true(&state.tree, nodes).map_err(Stopped::Missing)? {
                return Err(Stopped::Changed(i));
            }
        }
        for chunk in chunks.iter() {
            // The log may take data in parts, each of which changes the map.
            let mode = match chunk.content {
                Content::Data { .. } => ReplaceMode::Parts,
                Content::Range { .. } => ReplaceMode::Whole,
            };
            let mut touched = Touched::default();
            let prepared =
                state.tree.prepare(nodes, chunk.block, chunk.blocks(), mode, &mut touched);
            self.inner.engine.note_touched(touched);
            prepared.map_err(Stopped::Missing)?;
        }
        while let Some(chunk) = chunks.front_mut() {
            let mapped = state.tree.mapped_blocks();
            let (done, batch, lsn) = self.append(state, chunk)?;
            // Blocks that are no longer mapped, or whose data has a new address.
            let (added, spent) =
                if matches!(chunk.content, Content::Data { .. }) { (done, 0) } else { (0, 1) };
            // A record without data is garbage itself after the next checkpoint, about a header
            // block.
            let garbage = spent + (mapped + added).saturating_sub(state.tree.mapped_blocks());
            self.inner.engine.reclaim.add_garbage(garbage);
            state.applied = lsn.plus(1);
            *last = Some(batch);
            if done == chunk.blocks() {
                chunks.pop_front();
            } else {
                chunk.advance(done);
            }
        }
        Ok(())
    }

    /// Logs and maps as much of the chunk as fits. Returns the number of blocks.
    fn append(
        &self,
        state: &mut State,
        chunk: &Chunk,
    ) -> Result<(u64, Arc<Batch>, crate::base::Lsn), Stopped> {
        let log = &self.inner.engine.log;
        let (appended, done) = match &chunk.content {
            Content::Data { data, checksums } => {
                let record =
                    Append::Data { volume: self.inner.number, block: chunk.block, data, checksums };
                let gauge = (!chunk.is_move()).then_some(&self.effective.gauge);
                let appended = log.append(record, gauge)?;
                let done = u64::from(appended.blocks);
                let new = NewState::Data(appended.address, &checksums[..appended.blocks as usize]);
                self.map(state, chunk.block, done, new);
                (appended, done)
            }
            Content::Range { count, kind } => {
                let record = Append::Range {
                    volume: self.inner.number,
                    block: chunk.block,
                    count: *count,
                    kind: *kind,
                };
                let appended = log.append(record, None)?;
                let new = if *kind == RecordKind::Zero { NewState::Zero } else { NewState::Hole };
                self.map(state, chunk.block, *count, new);
                (appended, *count)
            }
        };
        Ok((done, appended.batch, appended.lsn))
    }

    fn map(&self, state: &mut State, block: u64, blocks: u64, new: NewState<'_>) {
        let touched = state.tree.replace_prepared(block, blocks, new);
        self.inner.engine.note_touched(touched);
    }
}

impl From<Refused> for Stopped {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Busy => Self::Busy,
            Refused::NoSpace(need) => Self::NoSpace(need),
            Refused::Stopped => Self::Latched,
        }
    }
}
