//! The staging buffer: the end of the log, in shared memory.
//!
//! ```text
//!   | header block | window 0 | window 1 | … |     a window: image of (a part of) a segment
//! ```
//!
//! A batch is put together at the very place in a window that it will have in its segment, and
//! written from there. So the address of a block gives its place in staging, staged blocks are read
//! without bookkeeping for each block, and recovery completes the log from the window where the
//! store has nothing yet.
//!
//! The trailer that names the next segment is staged when the log goes on there, before anything
//! else is.
//!
//! I1  A window holds one stretch of one segment. It takes the next only when all batches of the
//!     old are in the store.
//! I2  Each range has one writer, which got it from the log; readers find it through the map, where
//!     a range appears only after it was filled.
//! I3  The file outlives the process. Its header names the boot, the store and the start that it
//!     belongs to, and only the start after that one, of the same boot and store, uses it. Another
//!     start may have had its staging buffer elsewhere meanwhile.

use crate::{
    base::{Address, BLOCK_BYTES, SegmentId},
    format::{Geometry, Identity, Malformed},
};
use bytes::{Buf, BufMut, BytesMut};
use sandstone_ring::SharedMemory;
use std::{
    ops::Range,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

const MAGIC: u64 = u64::from_le_bytes(*b"SANDSTG\x01");
/// Bytes of the header that identifies the file's owner.
pub(crate) const HEADER_BYTES: usize = 44;

/// The stretch of a segment that a window holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    segment: SegmentId,
    /// Block of the segment at the window's beginning.
    start: u32,
    /// Blocks before this one were in the store already when the window was opened (after a
    /// restart).
    from: u32,
}

impl Held {
    fn covers(&self, address: Address, geometry: &Geometry) -> bool {
        let blocks = self.from..self.start + geometry.window_blocks;
        self.segment == address.segment() && blocks.contains(&address.block())
    }
}

/// A window and what it holds.
#[derive(Debug, Default)]
struct Window {
    held: RwLock<Option<Held>>,
    /// Raw address of the first block that it has room for; shows without the lock which windows
    /// need no look.
    first: AtomicU64,
}

/// The staging buffer.
pub(crate) struct Staging {
    memory: Arc<SharedMemory>,
    geometry: Geometry,
    windows: Vec<Window>,
    /// No address below this one is staged; spares most reads the windows' locks.
    oldest: AtomicU64,
}

impl Staging {
    /// Bytes of the file for a store of this geometry.
    pub(crate) fn file_bytes(geometry: &Geometry) -> usize {
        BLOCK_BYTES + geometry.windows() * geometry.window_blocks as usize * BLOCK_BYTES
    }

    /// An empty staging buffer on `memory`, stamped with store, boot and epoch.
    pub(crate) fn new(
        memory: Arc<SharedMemory>,
        geometry: Geometry,
        identity: &Identity,
        boot: &[u8; 16],
        epoch: u32,
    ) -> Self {
        let mut header = Vec::with_capacity(BLOCK_BYTES);
        header.put_u64_le(MAGIC);
        header.put_slice(&identity.store);
        header.put_slice(boot);
        header.put_u32_le(epoch);
        header.resize(BLOCK_BYTES, 0);
        memory.copy_in(0, &header);
        Self::unused(memory, geometry)
    }

    /// For a store that is open for reading only: nothing will be staged, and the memory stays as
    /// it is.
    pub(crate) fn unused(memory: Arc<SharedMemory>, geometry: Geometry) -> Self {
        assert!(memory.len_bytes() >= Self::file_bytes(&geometry));
        let windows = std::iter::repeat_with(Window::default).take(geometry.windows()).collect();
        Self { memory, geometry, windows, oldest: AtomicU64::new(u64::MAX) }
    }

    fn window_bytes(&self) -> usize {
        self.geometry.window_blocks as usize * BLOCK_BYTES
    }

    /// Assigns the window to the stretch of `segment` that begins at `start`; blocks below `from`
    /// are not staged. The log keeps I1.
    pub(crate) fn open_window(&self, window: usize, segment: SegmentId, start: u32, from: u32) {
        let at = &self.windows[window];
        let mut held = at.held.write().expect("no panics under this lock");
        *held = Some(Held { segment, start, from });
        at.first.store(Address::new(segment, start).raw(), Ordering::Release);
        drop(held);
        let lowest = |w: &Window| {
            w.held
                .read()
                .expect("no panics under this lock")
                .map_or(u64::MAX, |h| Address::new(h.segment, h.from).raw())
        };
        let oldest = self.windows.iter().map(lowest).min().unwrap_or(u64::MAX);
        self.oldest.store(oldest, Ordering::Release);
    }

    /// The windows that may hold the block: mostly none or one.
    fn holding(&self, address: Address) -> impl Iterator<Item = (usize, &Window)> {
        let first = address.raw() - u64::from(address.block() % self.geometry.window_blocks);
        let is_staged = address.raw() >= self.oldest.load(Ordering::Acquire);
        let windows = self.windows.iter().enumerate().take(if is_staged { usize::MAX } else { 0 });
        windows.filter(move |(_, window)| window.first.load(Ordering::Acquire) == first)
    }

    /// Where `block` of the segment in `window` is in the file.
    pub(crate) fn range(&self, window: usize, block: u32, blocks: u32) -> Range<usize> {
        let at = BLOCK_BYTES
            + window * self.window_bytes()
            + (block % self.geometry.window_blocks) as usize * BLOCK_BYTES;
        at..at + blocks as usize * BLOCK_BYTES
    }

    /// The memory, to write batches from.
    pub(crate) fn memory(&self) -> &Arc<SharedMemory> {
        &self.memory
    }

    /// Whether a block is staged.
    pub(crate) fn holds(&self, address: Address) -> bool {
        self.holding(address).any(|(_, window)| {
            let held = *window.held.read().expect("no panics under this lock");
            held.is_some_and(|held| held.covers(address, &self.geometry))
        })
    }

    /// Appends staged blocks to `out`: as many as are there from `address` on, at most `blocks`.
    /// Returns the number.
    pub(crate) fn read(&self, address: Address, blocks: u32, out: &mut BytesMut) -> u32 {
        for (i, window) in self.holding(address) {
            // Held while copying, so that the window is not reused meanwhile.
            let held = window.held.read().expect("no panics under this lock");
            let Some(held) = *held else { continue };
            if held.covers(address, &self.geometry) {
                let blocks = blocks.min(held.start + self.geometry.window_blocks - address.block());
                let range = self.range(i, address.block(), blocks);
                self.memory.append_to(range.start, range.len(), out);
                return blocks;
            }
        }
        0
    }
}

/// Whether a staging file that begins like this belongs to this store, this boot, and the start of
/// that epoch (I3).
///
/// # Errors
/// The reason why it does not.
pub(crate) fn check_header(
    header: &[u8; HEADER_BYTES],
    store: &[u8; 16],
    boot: &[u8; 16],
    epoch: u32,
) -> Result<(), Malformed> {
    let mut b = header.as_slice();
    let magic = b.get_u64_le();
    if magic != MAGIC || b[..16] != *store {
        return Err(Malformed("the staging file is of another store"));
    }
    if b[16..32] != *boot {
        return Err(Malformed("the staging file is of another boot"));
    }
    b.advance(32);
    if b.get_u32_le() != epoch {
        return Err(Malformed("the staging file is not of the last start"));
    }
    Ok(())
}

/// A copy of the staging buffer that an earlier process left.
pub(crate) struct Leftover {
    memory: Arc<SharedMemory>,
    geometry: Geometry,
}

impl Leftover {
    /// Takes the file's content if it belongs to this store, this boot, and the last start, of that
    /// epoch (I3).
    ///
    /// # Errors
    /// The reason why it does not.
    pub(crate) fn open(
        memory: Arc<SharedMemory>,
        geometry: Geometry,
        identity: &Identity,
        boot: &[u8; 16],
        epoch: u32,
    ) -> Result<Self, Malformed> {
        if memory.len_bytes() < Staging::file_bytes(&geometry) {
            return Err(Malformed("the staging file is too short"));
        }
        let mut header = [0; HEADER_BYTES];
        memory.copy_out(0, &mut header);
        check_header(&header, &identity.store, boot, epoch)?;
        Ok(Self { memory, geometry })
    }

    /// The content of window `window` where `blocks` from `block` of a segment would be staged. The
    /// range must not leave the window.
    pub(crate) fn read(&self, window: usize, block: u32, blocks: u32) -> Vec<u8> {
        let in_window = block % self.geometry.window_blocks;
        assert!(in_window + blocks <= self.geometry.window_blocks);
        let at = window * self.geometry.window_blocks as usize + in_window as usize;
        let mut bytes = vec![0; blocks as usize * BLOCK_BYTES];
        self.memory.copy_out((1 + at) * BLOCK_BYTES, &mut bytes);
        bytes
    }
}
