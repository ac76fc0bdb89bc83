//! What is asked of each connection.

/// The requests of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    /// Requests in flight, at least 1.
    pub(crate) depth: usize,
    /// Length of every read and write.
    pub(crate) block_bytes: usize,
    /// Of 100 requests, so many are reads and the rest are writes.
    pub(crate) reads_percent: u8,
    /// One block after another, and from the front again; else anywhere.
    pub(crate) sequential: bool,
    /// A slot flushes after so many of its writes, and that write lasts until the flush is
    /// answered; 0 for never.
    pub(crate) flush_every: u32,
    /// Only the first bytes of the export; all of it without.
    pub(crate) size_bytes: Option<u64>,
    /// Ends after so many bytes.
    pub(crate) quota_bytes: Option<u64>,
}
