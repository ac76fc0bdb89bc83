//! The checkpoint: makes all maps and the catalog durable, so that replay begins behind them.
//!
//! ```text
//!   cut the log ► take roots ► write nodes, children first ► write pages of the catalog ►
//!   write its head ► wait for the log ► sync ► superblock ► sync
//! ```
//!
//! I1  Everything logged before the cut is in the roots, because each root is taken under its
//!     volume's lock after it. Each volume's `applied` says what its root holds beyond the cut, so
//!     that it is not replayed twice. A page is written anew when one of its entries changed since
//!     the last checkpoint that counts; then all its entries are taken.
//! I2  Data that the roots refer to is in the store before the superblock names them: the wait for
//!     the log comes before the sync. Without it a checkpoint could outlive the data of an
//!     unacknowledged write, and show a block's old bytes.
//! I3  The superblock is written only after a sync has covered all it refers to, and counts only
//!     after its own sync. Only then are retired segments reused and nodes dropped from memory. It
//!     also counts only after it was read again: a lost write is found while everything that the
//!     superblock before names is still there.
//! I4  Writers go on meanwhile: they copy a node before they change it, because the checkpoint
//!     holds it too.
//! I5  Until a checkpoint counts, the pages are those of the one before, and what changed since
//!     then is still to be written.

use crate::{
    base::{
        Address, BLOCK_BYTES, Blindness, Error, Kind, Lsn, Progress, Result, SegmentId, Slot,
        VolumeNumber, is_blind_to,
    },
    core::Engine,
    disk::{
        self, CatalogPages, CheckpointDamage, Draft, Need, Numbers, Retired, Taken, Writing,
        checkpoint_damage, space_wait,
    },
    format::{
        CatalogHead, CatalogRef, Claim, ENTRIES_PAGE_BYTES, FamilyEntry, INDEX_PAGE_BYTES, NodeRef,
        PageItem, PageKind, PageRef, ReplayStart, SegmentKind, Superblock, chunk_blocks,
        encode_chunk, encode_page,
    },
    map::{Child, Inner, Node, NodeBody, VolumeImage, encode_node},
};
use bytes::BytesMut;
use futures_util::future::try_join_all;
use sandstone_ring::{WriteBuf, aligned};
use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Bytes of nodes gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;
/// Writes of nodes under way at once.
const WRITES_MAX: usize = 4;
/// Most bytes of the catalog's head in one chunk.
const CHUNK_BYTES_MAX: usize = 4 << 20;

/// The input of a checkpoint: at the cut of the log, what changed since the last one.
pub(super) struct Cut {
    pub(super) replay: ReplayStart,
    pub(super) claim: Claim,
    /// Records of the catalog below this LSN are in it.
    pub(super) applied: Lsn,
    pub(super) next_volume: u32,
    /// Numbers of the entries and families that changed, and of others that were taken with them.
    pub(super) changed: BTreeSet<VolumeNumber>,
    /// The pages to write anew.
    pub(super) stretches: Vec<Stretch>,
}

/// Neighbouring pages of the catalog that are written anew: all that they hold.
pub(super) struct Stretch {
    pub(super) numbers: Numbers,
    /// In the order of their numbers.
    pub(super) volumes: Vec<VolumeImage>,
    /// Those that share something, in the order of their numbers.
    pub(super) families: Vec<FamilyEntry>,
}

/// The last superblock, from which the next one is made. There is one writer of superblocks.
pub(super) struct CheckpointWriter {
    superblock: Superblock,
    /// The pages of the catalog that it names.
    pages: CatalogPages,
    /// Numbers of entries and families that differ from it, as far as a cut has taken them (I5).
    unwritten: BTreeSet<VolumeNumber>,
    /// A copy of a part of it cannot be read: the next checkpoint repairs it, even if nothing
    /// changed.
    is_damaged: bool,
    /// Where the next node goes. After a checkpoint that found no room it is ahead of the
    /// superblock's: the nodes that were written stay in place.
    node_tail: Option<(SegmentId, Slot, u32)>,
}

/// Progress of checkpoints, and how much they wrote.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) progress: Progress,
    /// Bytes of maps and catalogs.
    pub(super) bytes: AtomicU64,
    /// Segments that they were given.
    pub(super) segments: AtomicU64,
}

/// Writes nodes and catalog chunks one behind the other into node segments.
struct NodeWriter<'a> {
    engine: &'a Engine,
    effort: &'a Written,
    tail: Option<(SegmentId, Slot, u32)>,
    pages: CatalogPages,
    /// Blocks of the catalog's head, both copies.
    head_blocks: u64,
    /// Bytes that belong at this offset.
    gathered: Option<(u64, BytesMut)>,
    ready: Vec<(u64, BytesMut)>,
    /// Segments that it took.
    taken: u32,
}

impl CheckpointWriter {
    /// A writer that goes on from the superblock that counts and the pages of its catalog, with
    /// the numbers of the entries and families that differ from them. Where the catalog
    /// `is_damaged`, the next checkpoint repairs it.
    pub(super) fn new(
        superblock: Superblock,
        pages: CatalogPages,
        unwritten: BTreeSet<VolumeNumber>,
        is_damaged: bool,
    ) -> Self {
        Self { node_tail: superblock.node_tail, superblock, pages, unwritten, is_damaged }
    }

    /// The pages of the catalog.
    pub(super) fn pages(&self) -> &CatalogPages {
        &self.pages
    }

    /// Whether a part of the catalog has a copy that cannot be read.
    pub(super) fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// Numbers of entries and families that earlier cuts took, and that are still to be written.
    pub(super) fn unwritten(&self) -> &BTreeSet<VolumeNumber> {
        &self.unwritten
    }

    /// Writes a checkpoint of the cut. `retired` are the segments that it no longer names.
    ///
    /// # Errors
    /// [`Kind::Latched`] after a failed write or sync; [`Kind::NoSpace`], and the checkpoint before
    /// stays valid.
    pub(super) async fn write(
        &mut self,
        engine: &Engine,
        effort: &Written,
        retired: &Retired,
        cut: Cut,
    ) -> Result<()> {
        self.unwritten.extend(&cut.changed);
        let mut writer = NodeWriter {
            engine,
            effort,
            tail: self.node_tail,
            pages: self.pages.clone(),
            head_blocks: 0,
            gathered: None,
            ready: Vec::new(),
            taken: 0,
        };
        let written = writer.checkpoint(&cut, retired).await;
        if written.is_ok() {
            engine.space.set_catalog(writer.head_blocks + writer.pages.blocks());
        }
        // Even after a failure, nodes that got a place are written to it.
        let flushed = writer.flush().await;
        self.node_tail = writer.tail;
        let pages = writer.pages;
        let [reference, copy] = written.and_then(|references| flushed.map(|()| references))?;
        let next_lsn = engine.log.next_lsn();

        if !is_blind_to(Blindness::LogBeforeCheckpoint) {
            engine.log.wait_written(next_lsn).await?;
        }
        if !is_blind_to(Blindness::SyncBeforeSuperblock) {
            engine.log.sync_file().await?;
        }
        let superblock = Superblock {
            generation: self.superblock.generation + 1,
            replay: cut.replay,
            synced: next_lsn,
            next_segment: engine.disk.segments.next(),
            next_volume: cut.next_volume,
            node_tail: self.node_tail,
            catalog: Some(reference),
            catalog_copy: Some(copy),
            closed: false,
            claim: cut.claim,
            ..self.superblock.clone()
        };
        write_superblock(engine, &superblock).await?;
        self.superblock = superblock;
        self.pages = pages;
        self.unwritten.clear();
        self.is_damaged = false;
        Ok(())
    }

    /// The next checkpoint begins a segment of nodes of its own; returns the segment that it
    /// leaves.
    pub(super) fn leave_segment(&mut self) -> Option<SegmentId> {
        self.node_tail.take().map(|(id, _, _)| id)
    }

    /// Marks the store as closed, after a checkpoint that holds everything, so that a start without
    /// the staging buffer knows that it was empty.
    ///
    /// # Errors
    /// [`Kind::Latched`], as [`Self::write`].
    pub(super) async fn close(&mut self, engine: &Engine) -> Result<()> {
        let generation = self.superblock.generation + 1;
        let superblock = Superblock { generation, closed: true, ..self.superblock.clone() };
        write_superblock(engine, &superblock).await?;
        self.superblock = superblock;
        Ok(())
    }

    /// Damage on disk to superblock and catalog as they were written last. The next checkpoint
    /// writes damaged pages anew, or all of them where it is unknown which they are.
    pub(super) async fn damage(&mut self, engine: &Engine) -> Option<String> {
        let damage = checkpoint_damage(&engine.disk.file, &self.superblock).await;
        let what = match damage {
            CheckpointDamage::None => return None,
            CheckpointDamage::Superblock(what) => what,
            CheckpointDamage::Copies { what, to_repair } => {
                self.unwritten.extend(to_repair);
                what
            }
            CheckpointDamage::Catalog(what) => {
                self.unwritten.extend(self.pages.numbers());
                what
            }
        };
        self.is_damaged = true;
        Some(what)
    }

    /// The LSN from which on records would be replayed now.
    pub(super) fn replay_lsn(&self) -> Lsn {
        self.superblock.replay.lsn
    }
}

/// Keeps I3. After a failure nothing more is written.
async fn write_superblock(engine: &Engine, superblock: &Superblock) -> Result<()> {
    let sync = async || {
        if is_blind_to(Blindness::SyncAfterSuperblock) {
            Ok(())
        } else {
            engine.log.sync_file().await
        }
    };
    let written = disk::write_superblock(&engine.disk.file, &engine.health, superblock, sync).await;
    written.inspect_err(|error| engine.health.latch(&format!("the superblock: {error}")))?;
    engine.log.note_superblock(superblock.generation);
    Ok(())
}

impl NodeWriter<'_> {
    /// Writes the maps, then the catalog's pages, then its head, each of them twice. Returns the
    /// places of the head.
    async fn checkpoint(&mut self, cut: &Cut, retired: &Retired) -> Result<[CatalogRef; 2]> {
        for volume in cut.stretches.iter().flat_map(|stretch| &stretch.volumes) {
            self.tree(volume.tree.root(), 3).await?;
        }
        self.pages(&cut.stretches).await?;
        let index = self.pages.index();
        let head = CatalogHead { applied: cut.applied, index, segments: Vec::new() };
        self.head(head, retired).await
    }

    /// Writes the pages of these stretches, and those of the index that lead to them.
    async fn pages(&mut self, stretches: &[Stretch]) -> Result<()> {
        let mut replaced = BTreeSet::new();
        let drafts =
            stretches.iter().map(|stretch| Draft::fill(stretch.items(), ENTRIES_PAGE_BYTES));
        let written = self.place_pages(PageKind::Entries, drafts.collect()).await?;
        for (stretch, pages) in stretches.iter().zip(written) {
            replaced.extend(self.pages.replace_entries(&stretch.numbers, pages));
        }
        let ranges = self.pages.index_to_write(&replaced);
        let encoded = |page: &PageRef| {
            let mut bytes = Vec::with_capacity(PageRef::BYTES);
            page.encode(&mut bytes);
            (page.first, bytes)
        };
        let drafts = ranges
            .iter()
            .map(|(_, references)| Draft::fill(references.iter().map(encoded), INDEX_PAGE_BYTES));
        let written = self.place_pages(PageKind::Index, drafts.collect()).await?;
        for ((numbers, _), pages) in ranges.iter().zip(written) {
            self.pages.replace_index(numbers, pages);
        }
        Ok(())
    }

    /// Writes pages: one copy of all of them, and then the other, so that those of a level lie one
    /// behind the other. No device write has both copies of a page.
    async fn place_pages(
        &mut self,
        kind: PageKind,
        drafts: Vec<Vec<Draft>>,
    ) -> Result<Vec<Vec<PageRef>>> {
        let mut copies: [Vec<Address>; 2] = Default::default();
        let mut checked: Vec<(u32, u32)> = Vec::new();
        for (i, copy) in copies.iter_mut().enumerate() {
            if i > 0 {
                self.end_write();
            }
            checked.clear();
            for draft in drafts.iter().flatten() {
                let (bytes, checksum) = encode_page(kind, &draft.payload);
                let blocks = (bytes.len() / BLOCK_BYTES) as u32;
                let (address, slot) = self.place(blocks)?;
                self.gather(slot, address.block(), &bytes);
                self.write_if_much().await?;
                copy.push(address);
                checked.push((blocks, checksum));
            }
        }
        let [first, second] = copies;
        let mut places = first.into_iter().zip(second).zip(checked);
        let mut placed = |draft: Draft| {
            let ((first, second), (blocks, checksum)) = places.next().expect("one a draft");
            draft.placed(blocks, checksum, [first, second])
        };
        Ok(drafts.into_iter().map(|drafts| drafts.into_iter().map(&mut placed).collect()).collect())
    }

    /// Writes `child` and the nodes below it that are not on disk.
    fn tree<'a>(
        &'a mut self,
        child: &'a Child,
        level: u32,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>> {
        Box::pin(async move {
            let Child::Loaded(node) = child else { return Ok(()) };
            if node.home().is_some() {
                return Ok(());
            }
            if let NodeBody::Inner(inner) = node.body() {
                if level == 1 {
                    for leaf in &*inner.children {
                        self.node(leaf, 0)?;
                    }
                } else {
                    for child in &*inner.children {
                        self.tree(child, level - 1).await?;
                    }
                }
            }
            self.node(child, level)?;
            self.write_if_much().await
        })
    }

    /// Takes a place for one node and gathers its bytes. Its children must have homes.
    fn node(&mut self, child: &Child, level: u32) -> Result<()> {
        let Child::Loaded(node) = child else { return Ok(()) };
        if node.home().is_some() {
            return Ok(());
        }
        let (bytes, checksum) = encode_node(node, level);
        let blocks = (bytes.len() / BLOCK_BYTES) as u8;
        let (address, slot) = self.place(u32::from(blocks))?;
        self.gather(slot, address.block(), &bytes);
        // A root's count can be 2^32; its volume keeps it.
        let mapped = u32::try_from(node.mapped()).unwrap_or(0);
        node.set_home(NodeRef { address, checksum, blocks, mapped });
        self.engine.disk.nodes.put(stored_copy(node));
        Ok(())
    }

    /// Takes `blocks` in a row.
    fn place(&mut self, blocks: u32) -> Result<(Address, Slot)> {
        let segments = &self.engine.disk.segments;
        let (id, slot, block) = match self.tail {
            Some((id, slot, block)) if block + blocks <= segments.geometry.segment_blocks => {
                (id, slot, block)
            }
            full => {
                let full_store =
                    || Error::new(Kind::NoSpace, "no segment is free for a checkpoint");
                let Taken { id, slot, .. } = segments
                    .take(SegmentKind::Node, Need::Checkpoint, Writing::Streamed)
                    .ok_or_else(full_store)?;
                self.taken += 1;
                self.effort.segments.fetch_add(1, Relaxed);
                if let Some((id, _, _)) = full {
                    segments.seal(id);
                }
                (id, slot, 0)
            }
        };
        self.tail = Some((id, slot, block + blocks));
        Ok((Address::new(id, block), slot))
    }

    fn gather(&mut self, slot: Slot, block: u32, bytes: &[u8]) {
        let offset = self.engine.disk.segments.geometry.offset(slot, block);
        let fits = |(at, gathered): &(u64, BytesMut)| {
            at + gathered.len() as u64 == offset && gathered.len() + bytes.len() <= WRITE_BYTES
        };
        if !self.gathered.as_ref().is_some_and(fits) {
            self.end_write();
            self.gathered = Some((offset, aligned(WRITE_BYTES.max(bytes.len()))));
        }
        if let Some((_, gathered)) = &mut self.gathered {
            gathered.extend_from_slice(bytes);
        }
    }

    /// What comes next goes out with another device write: no write has both copies of something.
    fn end_write(&mut self) {
        self.ready.extend(self.gathered.take());
    }

    async fn write_if_much(&mut self) -> Result<()> {
        if self.ready.len() >= WRITES_MAX { self.write_ready().await } else { Ok(()) }
    }

    async fn write_ready(&mut self) -> Result<()> {
        let (file, health) = (&self.engine.disk.file, &self.engine.health);
        let progress = &self.effort.progress;
        let bytes: usize = self.ready.iter().map(|(_, bytes)| bytes.len()).sum();
        self.effort.bytes.fetch_add(bytes as u64, Relaxed);
        let write = |(offset, bytes)| async move {
            let written = space_wait::write(file, health, offset, WriteBuf::Owned(bytes)).await;
            progress.step();
            written
        };
        let writes = self.ready.drain(..).map(write);
        try_join_all(writes).await.map(|_| ()).map_err(|error| {
            // Nodes already count as stored that are not: nothing may be built on them.
            self.engine.health.latch(&format!("a checkpoint could not be written: {error}"));
            Error::io("writing a checkpoint", error)
        })
    }

    async fn flush(&mut self) -> Result<()> {
        self.end_write();
        self.write_ready().await
    }

    /// Writes both copies of the head, the last chunk first.
    async fn head(&mut self, mut head: CatalogHead, retired: &Retired) -> Result<[CatalogRef; 2]> {
        let segments = &self.engine.disk.segments;
        let chunk_bytes = CHUNK_BYTES_MAX.min(segments.geometry.segment_bytes() as usize / 4);
        // Taking places may take segments, which belong into the head, which may become longer.
        // A chunk that has a place keeps it, or else a head longer than a segment would take new
        // segments without end. Segments that others take meanwhile come after the cut, or hold
        // nothing that a map leads to yet.
        let mut places: Vec<(u32, [(Address, Slot); 2])> = Vec::new();
        let bytes = loop {
            let taken = self.taken;
            head.segments = segments.entries(retired);
            let bytes = head.encode();
            let blocks: Vec<_> = bytes.chunks(chunk_bytes).map(chunk_blocks).collect();
            let kept =
                places.iter().zip(&blocks).take_while(|((had, _), needed)| had == *needed).count();
            places.truncate(kept);
            for needed in &blocks[kept..] {
                places.push((*needed, [self.place(*needed)?, self.place(*needed)?]));
            }
            if self.taken == taken {
                break bytes;
            }
        };
        self.head_blocks = 2 * places.iter().map(|(blocks, _)| u64::from(*blocks)).sum::<u64>();
        let mut references = [None; 2];
        for (copy, reference) in references.iter_mut().enumerate() {
            if copy > 0 {
                self.end_write();
            }
            for (payload, (_, places)) in bytes.chunks(chunk_bytes).zip(&places).rev() {
                let (address, slot) = places[copy];
                let (blocks, checksum) = encode_chunk(*reference, payload);
                self.gather(slot, address.block(), &blocks);
                self.write_if_much().await?;
                let blocks = (blocks.len() / BLOCK_BYTES) as u32;
                *reference = Some(CatalogRef { address, slot, blocks, checksum });
            }
        }
        Ok(references.map(|reference| reference.expect("a head has bytes")))
    }
}

impl Stretch {
    /// What its pages hold, in the order of the numbers: each number's bytes, which no two pages
    /// share.
    fn items(&self) -> impl Iterator<Item = (VolumeNumber, Vec<u8>)> {
        let volumes = self.volumes.iter().map(|volume| PageItem::Volume(volume.entry()));
        let families = self.families.iter().map(|family| PageItem::Family(*family));
        let mut items: Vec<_> = volumes.chain(families).collect();
        items.sort_by_key(PageItem::number);
        let mut all: Vec<(VolumeNumber, Vec<u8>)> = Vec::new();
        for item in items {
            if all.last().is_none_or(|(number, _)| *number != item.number()) {
                all.push((item.number(), Vec::new()));
            }
            let (_, bytes) = all.last_mut().expect("pushed above");
            item.encode(bytes);
        }
        all.into_iter()
    }
}

/// The node as it would be read from disk, without references to nodes below it in memory.
fn stored_copy(node: &Arc<Node>) -> Arc<Node> {
    let home = node.home().expect("just written");
    match node.body() {
        NodeBody::Leaf(_) => Arc::clone(node),
        NodeBody::Inner(inner) => {
            let stored = |child: &Child| match child {
                Child::Loaded(node) => {
                    Child::Stored(node.home().expect("children are written first"))
                }
                Child::Empty | Child::Zero | Child::Stored(_) => child.clone(),
            };
            let children = Box::new(std::array::from_fn(|i| stored(&inner.children[i])));
            Arc::new(Node::stored(NodeBody::Inner(Inner { children, mapped: inner.mapped }), home))
        }
    }
}
