//! Checked reads: blocks of the store file by address, compared with their checksums, through the
//! caches.

use super::single_flight::{Begun, SingleFlight};
use crate::{
    base::{Address, BLOCK_BYTES, Error, Result, Usage, checksum},
    cache::{Account, BlockCache, Look, NodeCache, Origin},
    disk::{Demand, Segments},
    format::NodeRef,
    map::{Missing, Node, Nodes, decode_node},
};
use bytes::{Bytes, BytesMut};
use foldhash::fast::FixedState;
use futures_util::future::try_join_all;
use sandstone_ring::{File, aligned};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::*},
    },
};

/// Into whose share of the cache blocks go that are read from disk, and why they are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill<'a> {
    /// `None` where they are not to be cached.
    pub(crate) account: Option<&'a Arc<Account>>,
    pub(crate) origin: Origin,
}

/// The store file, its segments, and the caches.
pub(crate) struct Disk {
    pub(crate) file: File,
    pub(crate) segments: Arc<Segments>,
    pub(crate) blocks: BlockCache,
    pub(crate) nodes: NodeCache,
    /// Cache hits and misses of all volumes.
    pub(crate) usage: Usage,
    pub(crate) demand: Demand,
    /// Reads under way.
    pub(super) flights: SingleFlight<Bytes>,
    node_flights: SingleFlight<Arc<Node>>,
    /// Blocks and nodes that differed from what was written, after a second try.
    pub(crate) corrupt: AtomicU64,
}

/// The nodes that an operation works with: nodes in the cache, and nodes that it had to read. It
/// holds the latter until it is done, because otherwise an operation that needs more nodes than the
/// cache can keep would read them again and again.
pub(crate) struct NodesInHand<'a> {
    disk: &'a Disk,
    /// By address.
    read: HashMap<u64, Arc<Node>, FixedState>,
}

impl<'a> NodesInHand<'a> {
    pub(crate) fn new(disk: &'a Disk) -> Self {
        Self { disk, read: HashMap::default() }
    }

    /// Reads a node of the map from disk, for this operation and the cache. Hold a read pin.
    ///
    /// # Errors
    /// [`crate::Kind::Io`] or [`crate::Kind::Corrupt`], after a second try.
    pub(crate) async fn load(&mut self, missing: Missing) -> Result<()> {
        let node = self.disk.find_node(missing).await?;
        self.read.insert(missing.node.address.raw(), node);
        Ok(())
    }

    /// Reads several nodes at once, as [`Self::load`] does.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub(crate) async fn load_all(&mut self, missing: &[Missing]) -> Result<()> {
        let nodes = try_join_all(missing.iter().map(|m| self.disk.find_node(*m))).await?;
        let addresses = missing.iter().map(|missing| missing.node.address.raw());
        self.read.extend(addresses.zip(nodes));
        Ok(())
    }
}

impl Nodes for NodesInHand<'_> {
    fn get(&self, node: &NodeRef) -> Option<Arc<Node>> {
        self.read.get(&node.address.raw()).cloned().or_else(|| Nodes::get(&self.disk.nodes, node))
    }
}

impl Disk {
    /// The store file with its segments, and caches of so many bytes.
    pub(crate) fn new(
        file: File,
        segments: Arc<Segments>,
        data_cache_bytes: u64,
        node_cache_bytes: u64,
    ) -> Self {
        Self {
            file,
            segments,
            blocks: BlockCache::new(data_cache_bytes),
            nodes: NodeCache::new(node_cache_bytes),
            usage: Usage::default(),
            demand: Demand::default(),
            flights: SingleFlight::default(),
            node_flights: SingleFlight::default(),
            corrupt: AtomicU64::new(0),
        }
    }

    /// A node of the map that was not in the cache: from disk, or from a read of it that is under
    /// way. It is offered to the cache.
    ///
    /// # Errors
    /// As [`Self::read_node`].
    async fn find_node(&self, missing: Missing) -> Result<Arc<Node>> {
        let look = |_| match Nodes::get(&self.nodes, &missing.node) {
            Some(node) => Look::Hit(node),
            None => Look::Miss(1),
        };
        loop {
            match self.node_flights.begin(missing.node.address, 1, look) {
                Begun::Cached(node) => return Ok(node),
                Begun::Follow { flight, .. } => {
                    if let Some(outcome) = flight.landed().await {
                        return outcome;
                    }
                }
                Begun::Lead(lead) => {
                    let outcome = self.read_node(missing).await;
                    if let Ok(node) = &outcome {
                        self.nodes.put(Arc::clone(node));
                    }
                    lead.land(outcome.clone());
                    return outcome;
                }
            }
        }
    }

    /// Reads a node of the map from disk.
    ///
    /// # Errors
    /// [`crate::Kind::Io`] or [`crate::Kind::Corrupt`], after a second try.
    pub(crate) async fn read_node(&self, missing: Missing) -> Result<Arc<Node>> {
        let Missing { node, level } = missing;
        let mut second_try = false;
        loop {
            let bytes = self.read_blocks(node.address, u32::from(node.blocks)).await?;
            match decode_node(&node, level, &bytes) {
                Ok(node) => return Ok(Arc::new(node)),
                Err(_) if !second_try => second_try = true,
                Err(malformed) => {
                    self.corrupt.fetch_add(1, Relaxed);
                    return Err(Error::corrupt(format!(
                        "map node at {:?}: {}",
                        node.address, malformed.0
                    )));
                }
            }
        }
    }

    /// Reads blocks from disk, unchecked.
    pub(crate) async fn read_blocks(&self, address: Address, blocks: u32) -> Result<BytesMut> {
        let stretches = self
            .segments
            .stretches(address, blocks)
            .ok_or_else(|| Error::corrupt(format!("{address:?} is in no segment of this store")))?;
        let context = |e| Error::io(format!("reading {blocks} blocks at {address:?}"), e);
        if let [(offset, _)] = stretches[..] {
            let len = blocks as usize * BLOCK_BYTES;
            return self.file.read(offset, aligned(len), len).await.map_err(context);
        }
        // Blocks that were moved apart from each other.
        let mut bytes = aligned(blocks as usize * BLOCK_BYTES);
        for (offset, blocks) in stretches {
            let len = blocks as usize * BLOCK_BYTES;
            bytes.extend_from_slice(
                &self.file.read(offset, aligned(len), len).await.map_err(context)?,
            );
        }
        Ok(bytes)
    }

    /// Which of these blocks, counted from the first, differ from what was written there or cannot
    /// be read, twice. Bypasses the caches. Hold a read pin.
    pub(crate) async fn find_corrupt(&self, address: Address, checksums: &[u32]) -> Vec<u32> {
        let is_corrupt = |block: &[u8], i: u32| checksum::block(block) != checksums[i as usize];
        let blocks = u32::try_from(checksums.len()).expect("a run is within a segment");
        let suspects: Vec<u32> = match self.read_blocks(address, blocks).await {
            Ok(bytes) => (0..blocks)
                .zip(bytes.chunks_exact(BLOCK_BYTES))
                .filter(|(i, b)| is_corrupt(b, *i))
                .map(|(i, _)| i)
                .collect(),
            Err(_) => (0..blocks).collect(),
        };
        let mut found = Vec::new();
        for i in suspects {
            let read = self.read_blocks(address.plus(i), 1).await;
            if read.map_or(true, |block| is_corrupt(&block, i)) {
                found.push(i);
            }
        }
        self.corrupt.fetch_add(found.len() as u64, Relaxed);
        found
    }

    /// Puts blocks of one extent into the cache: `data` is all that its memory holds.
    pub(crate) fn cache_blocks(&self, first: Address, data: &Bytes, fill: Fill<'_>) {
        if let Some(account) = fill.account {
            self.blocks.put(first, data, account, fill.origin);
        }
    }
}
