//! A volume's four settings, and how durable a write is when it is acknowledged.

/// Limit of a volume's attributes, in bytes.
pub const ATTRIBUTES_BYTES_MAX: usize = 2048;

/// A volume's settings: how it uses what all volumes share (DESIGN section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Limit, in bytes, of cache memory for clean blocks that this volume brought in, within the
    /// cache's own size.
    pub cache_bytes: u64,
    /// Limit, in bytes, of data that is accepted but not yet in the store file.
    pub buffer_bytes: u64,
    /// MiB to read ahead when reads are sequential; 0 for none.
    pub prefetch_mib: u32,
    /// Whether a write is acknowledged from the staging buffer.
    pub writeback: bool,
}

/// How durable a write is when it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// In the store, past the page cache; with `writeback`, in the staging buffer.
    Volatile,
    /// On stable storage (`NBD_CMD_FLAG_FUA`).
    Fua,
}

/// The settings of one attachment that differ from its volume's. `None` follows the volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SettingsOverride {
    /// As [`Settings::cache_bytes`], for what this attachment brings in.
    pub cache_bytes: Option<u64>,
    /// As [`Settings::buffer_bytes`], for what this attachment writes.
    pub buffer_bytes: Option<u64>,
    /// As [`Settings::prefetch_mib`].
    pub prefetch_mib: Option<u32>,
    /// As [`Settings::writeback`].
    pub writeback: Option<bool>,
}
