//! Checked reads: blocks of the store file by address, compared with their checksums, through the
//! caches.

use crate::{
    base::{Address, BLOCK_BYTES, Blindness, Error, Result, Usage, checksum, is_blind_to},
    cache::{Account, BlockCache, NodeCache, Origin},
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

/// Whether blocks that are read from disk go into the cache, and into whose share.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fill<'a> {
    Cache(&'a Arc<Account>),
    /// Inserts them with origin *readahead*.
    Readahead(&'a Arc<Account>),
    /// Bypasses the cache: a stream would evict blocks that are read again and again.
    Bypass,
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
        let node = self.disk.read_node(missing).await?;
        self.keep(missing, node);
        Ok(())
    }

    /// Reads several nodes at once, as [`Self::load`] does.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub(crate) async fn load_all(&mut self, missing: &[Missing]) -> Result<()> {
        let nodes = try_join_all(missing.iter().map(|m| self.disk.read_node(*m))).await?;
        missing.iter().zip(nodes).for_each(|(missing, node)| self.keep(*missing, node));
        Ok(())
    }

    fn keep(&mut self, missing: Missing, node: Arc<Node>) {
        self.disk.nodes.put(Arc::clone(&node));
        self.read.insert(missing.node.address.raw(), node);
    }
}

impl Nodes for NodesInHand<'_> {
    fn get(&self, node: &NodeRef) -> Option<Arc<Node>> {
        self.read.get(&node.address.raw()).cloned().or_else(|| Nodes::get(&self.disk.nodes, node))
    }
}

impl Disk {
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

    /// Reads data blocks from disk, checks them, and puts them into the cache if `fill` says so.
    /// Hold a read pin.
    ///
    /// # Errors
    /// [`crate::Kind::Io`]; [`crate::Kind::Corrupt`] when the bytes differ from what was written,
    /// twice.
    pub(crate) async fn read_data(
        &self,
        address: Address,
        checksums: &[u32],
        fill: Fill<'_>,
    ) -> Result<Bytes> {
        let blocks = u32::try_from(checksums.len()).expect("a run is within a segment");
        let mut second_try = false;
        loop {
            let bytes = self.read_blocks(address, blocks).await?;
            let bad = bytes
                .chunks_exact(BLOCK_BYTES)
                .zip(checksums)
                .position(|(b, sum)| checksum::block(b) != *sum);
            match bad.filter(|_| !is_blind_to(Blindness::DataChecksum)) {
                None => {
                    let data = bytes.freeze();
                    match fill {
                        Fill::Cache(account) => {
                            self.cache_blocks(address, &data, account, Origin::Demand)
                        }
                        Fill::Readahead(account) => {
                            self.cache_blocks(address, &data, account, Origin::Readahead)
                        }
                        Fill::Bypass => {}
                    }
                    return Ok(data);
                }
                Some(_) if !second_try => second_try = true,
                Some(i) => {
                    self.corrupt.fetch_add(1, Relaxed);
                    let at = address.plus(i as u32);
                    tracing::error!(address = ?at, "a block is not what was written there");
                    return Err(Error::corrupt(format!(
                        "the block at {at:?} is not what was written there"
                    )));
                }
            }
        }
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

    /// Inserts blocks that the cache does not have. A single block must be all that its memory
    /// holds.
    pub(crate) fn cache_blocks(
        &self,
        first: Address,
        bytes: &Bytes,
        account: &Arc<Account>,
        origin: Origin,
    ) {
        let put = |at: u32, make: &dyn Fn() -> Bytes| {
            self.blocks.insert(first.plus(at), BLOCK_BYTES, Some(account), origin, make);
        };
        if bytes.len() == BLOCK_BYTES {
            return put(0, &|| bytes.clone());
        }
        for (i, block) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
            // A copy, because the block is a small part of what was read.
            put(i as u32, &|| Bytes::copy_from_slice(block));
        }
    }
}
