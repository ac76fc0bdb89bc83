//! Read-ahead of one connection: where its reads are sequential, the next bytes are fetched into
//! the cache (`prefetch`).
//!
//! ```text
//!   reads   |====|====|====|                      the third in a row makes a stream
//!   fetch                  |~~~~ window: N MiB ~~~~|   in steps, one under way at a time
//! ```
//!
//! I1  A stream is a sequence of reads that follow each other; a read elsewhere belongs to another
//!     stream or to none. An idle stream gives its place up to a new one, and its fetch ends at its
//!     next step.
//! I2  Fetched blocks come into the cache with origin *readahead*, and never replace a block that
//!     was used again.
//! I3  A step begins only while no request waits for a read of the disk, or after a few
//!     milliseconds (`Demand::wait_idle`), so that it delays a request by at most the step that is
//!     under way.
//!
//! It belongs to one thread, as its connection does.

use super::defragment::REQUEST_BYTES_MIN;
use crate::{
    base::{BLOCK_BYTES, Result},
    cache::Origin,
    disk::Fill,
    volume::{BegunRead, FETCH_BYTES, LeafMemo, Piece, Remembered, Volume},
};
use sandstone_ring::runtime;
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::atomic::Ordering::Relaxed,
};

/// Most streams of a connection that are tracked. A guess: more than a file system reads at once
/// for one process.
const STREAMS_MAX: usize = 8;
/// Consecutive reads that make a stream.
const STREAM_READS: u32 = 3;
/// Least bytes of a step where the window has room for two.
const STEP_BYTES_MIN: u64 = 128 << 10;
/// Most bytes that are copied out of memory at once, while the connections of the thread wait.
const NOW_BYTES_MAX: u32 = 64 << 10;

/// Reads a volume for one connection, with read-ahead.
pub struct Readahead {
    volume: Volume,
    memo: LeafMemo,
    streams: RefCell<Vec<Stream>>,
}

/// Reads in sequence.
#[derive(Debug)]
struct Stream {
    /// Where the next read would begin.
    next: u64,
    reads: u32,
    /// The fetch that runs or ran ahead.
    fetch: Option<Rc<Fetch>>,
}

/// The fetch of one stream.
#[derive(Debug)]
struct Fetch {
    /// Byte offset up to which it has begun to fetch.
    at: Cell<u64>,
    /// Byte offset up to which it is to fetch.
    goal: Cell<u64>,
    is_running: Cell<bool>,
    is_given_up: Cell<bool>,
}

impl Readahead {
    /// A reader for a new connection to the volume.
    pub fn new(volume: Volume) -> Self {
        Self { volume, memo: LeafMemo::default(), streams: RefCell::default() }
    }

    /// Reads as [`Volume::read`] does, and fetches the next bytes ahead where the volume's
    /// `prefetch` asks for it.
    ///
    /// # Errors
    /// As [`Volume::read`]. A fetch that fails is not reported; a later read of the same bytes is.
    pub async fn read(&self, offset: u64, len: u32) -> Result<Vec<Piece>> {
        self.volume.inner.check_range(offset, u64::from(len))?;
        self.notice(offset, u64::from(len));
        self.volume.read(offset, len).await
    }

    /// Begins a read at once, where the nodes that it needs are in memory and it is short;
    /// otherwise returns `None`, and nothing was done.
    pub fn read_now(&self, offset: u64, len: u32) -> Option<BegunRead> {
        if len > NOW_BYTES_MAX {
            return None;
        }
        let nodes = Remembered { memo: &self.memo, cache: &self.volume.inner.engine.disk.nodes };
        let begun = self.volume.read_now(&nodes, offset, len)?;
        self.notice(offset, u64::from(len));
        Some(begun)
    }

    /// Bytes to fetch ahead: `prefetch`, and no more than may stay in the cache until they are
    /// read.
    fn window_bytes(&self) -> u64 {
        match self.volume.prefetch_mib() {
            0 => 0,
            mib => {
                let cache = self.volume.inner.engine.disk.blocks.bytes_max() / 16;
                (u64::from(mib) << 20).min(cache).min(self.volume.effective.account.cap_bytes() / 2)
            }
        }
    }

    /// Notes a read. If it continues a stream, starts a fetch, and tells the defragmenter where the
    /// stream meets many pieces.
    fn notice(&self, offset: u64, len: u64) {
        let window = self.window_bytes();
        if window == 0 && len < REQUEST_BYTES_MIN {
            return;
        }
        let mut streams = self.streams.borrow_mut();
        let Some(found) = streams.iter().position(|stream| stream.next == offset) else {
            if streams.len() == STREAMS_MAX {
                streams.remove(0).give_up(); // keeps I1
            }
            return streams.push(Stream { next: offset + len, reads: 1, fetch: None });
        };
        // The one that was used last stands at the end.
        let mut stream = streams.remove(found);
        stream.next = offset + len;
        stream.reads = (stream.reads + 1).min(STREAM_READS);
        if stream.reads == STREAM_READS {
            self.volume.note_fragmentation(offset, len);
            if window > 0 {
                self.fetch(&mut stream, window);
            }
        }
        streams.push(stream);
    }

    /// Fetches the next bytes of a stream.
    fn fetch(&self, stream: &mut Stream, window: u64) {
        let size_bytes = self.volume.size_bytes();
        let goal = (stream.next + window).min(size_bytes);
        let fetch = stream.fetch.get_or_insert_with(|| Rc::new(Fetch::new(stream.next)));
        fetch.at.set(fetch.at.get().max(stream.next));
        let step = step_bytes(window).min(size_bytes.saturating_sub(fetch.at.get()));
        if step > 0 && goal.saturating_sub(fetch.at.get()) >= step {
            fetch.goal.set(goal);
            if !fetch.is_running.replace(true) {
                runtime::spawn(Rc::clone(fetch).run(self.volume.clone(), step_bytes(window)));
            }
        }
    }
}

impl Drop for Readahead {
    fn drop(&mut self) {
        self.streams.borrow().iter().for_each(Stream::give_up);
    }
}

impl Stream {
    fn give_up(&self) {
        if let Some(fetch) = &self.fetch {
            fetch.is_given_up.set(true);
        }
    }
}

/// Whole blocks, of which the window holds two steps at least.
fn step_bytes(window: u64) -> u64 {
    let step = (window / 4).clamp(STEP_BYTES_MIN, FETCH_BYTES).min(window / 2);
    step / BLOCK_BYTES as u64 * BLOCK_BYTES as u64
}

impl Fetch {
    fn new(at: u64) -> Self {
        Self {
            at: Cell::new(at),
            goal: Cell::new(at),
            is_running: Cell::new(false),
            is_given_up: Cell::new(false),
        }
    }

    /// Fetches up to the goal, which may move meanwhile.
    async fn run(self: Rc<Self>, volume: Volume, step_bytes: u64) {
        let inner = &volume.inner;
        while self.at.get() < self.goal.get() && !self.is_given_up.get() {
            inner.engine.disk.demand.wait_idle().await;
            let at = self.at.get();
            let len = step_bytes.min(self.goal.get().saturating_sub(at));
            if len == 0 || self.is_given_up.get() {
                break;
            }
            self.at.set(at + len);
            let fill = Fill { account: Some(&volume.effective.account), origin: Origin::Readahead };
            match volume.bring_in(at, len, fill).await {
                Ok(bytes) => {
                    inner.usage.prefetched_bytes.fetch_add(bytes, Relaxed);
                }
                Err(error) => {
                    tracing::debug!(%error, at, "reading ahead failed");
                    break;
                }
            }
        }
        self.is_running.set(false);
    }
}
