//! The format on disk, byte by byte. `FORMAT.md` is the table for people; `tests.rs` holds the
//! golden bytes.
//!
//! Little-endian throughout. Decoders take bytes of any content: they answer [`Malformed`], they
//! never panic.

mod batch;
mod catalog;
mod footer;
mod node;
mod segment_entry;
mod superblock;
#[cfg(test)]
mod tests;
mod volume_entry;

pub(crate) use batch::{
    BatchHeader, HEADER_RECORDS_BYTES, RECORD_HEAD_BYTES, Record, RecordHead, RecordKind, Records,
};
pub(crate) use catalog::{
    CatalogHead, CatalogRef, ENTRIES_PAGE_BYTES, FamilyEntry, INDEX_PAGE_BYTES, PageItem, PageKind,
    PageRef, StoredCatalog, chunk_blocks, decode_chunk, decode_page, encode_chunk, encode_page,
};
pub(crate) use footer::{Footer, FooterBatch, Trailer, footer_blocks};
pub(crate) use node::{
    NodeRef, RunState, StoredChild, StoredNode, decode_node, encode_inner, encode_leaf,
};
pub(crate) use segment_entry::{Piece, SegmentEntry, SegmentKind, SegmentPlace, Stretches};
pub(crate) use superblock::{
    Claim, Geometry, ReplayStart, SECTOR_BYTES, SLOTS_MAX, SUPERBLOCK_SLOTS, Superblock,
    superblock_offset,
};
pub(crate) use volume_entry::{Birthday, StoredMap, VolumeEntry, VolumeMeta};

use bytes::TryGetError;

/// Version of everything on disk. A change comes with FORMAT.md, a fixture and a recovery test.
pub(crate) const VERSION: u16 = 6;

/// The reason why bytes are malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl From<TryGetError> for Malformed {
    fn from(_: TryGetError) -> Self {
        Malformed("it ends too early")
    }
}

/// The identity that every header of a store carries and is checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) store: [u8; 16],
    pub(crate) secret: crate::base::Secret,
}

impl Identity {
    /// The first half of the store id: what fits into each header.
    pub(crate) fn short(&self) -> u64 {
        u64::from_le_bytes(self.store[..8].try_into().expect("eight bytes"))
    }
}
