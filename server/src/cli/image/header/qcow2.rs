//! qcow2: a header, extensions behind it, a table of tables (L1), and L2 tables. Big-endian.

use super::{
    error::{HeaderError, text, within},
    reference::{Reference, References, TEXT_BYTES_MAX},
};
use crate::cli::copy::{Fields, ReadAt, bytes_at, each_entry};

const HEADER_BYTES_V2: u64 = 72;
const HEADER_BYTES_V3_MIN: u64 = 104;

/// Source: the format's specification.
const BACKING_NAME_BYTES_MAX: u32 = 1023;
/// Source: qemu's most, 32 MiB.
const L1_ENTRIES_MAX: u32 = (32 << 20) / 8;
/// Source: qemu's most, 8 MiB.
const REFCOUNT_TABLE_BYTES_MAX: u64 = 8 << 20;

/// Incompatible features.
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA_FILE: u64 = 1 << 2;
const EXTENDED_L2: u64 = 1 << 4;

/// Header extensions.
const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const DATA_FILE_NAME: u32 = 0x4441_5441;

/// Bits of an entry that are an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// An L2 entry of a compressed cluster. Its offset has fewer bits.
const COMPRESSED: u64 = 1 << 62;

pub(super) fn references(from: &impl ReadAt) -> Result<References, HeaderError> {
    let header: Fields<72> = Fields::read(from, 0)?;
    let version = header.u32_be(4);
    let (features, header_bytes) = match version {
        2 => (0, HEADER_BYTES_V2),
        3 => {
            let more: Fields<{ HEADER_BYTES_V3_MIN as usize }> = Fields::read(from, 0)?;
            (more.u64_be(72), u64::from(more.u32_be(100)))
        }
        1 => {
            return Err(HeaderError::Unsupported(
                "it is qcow, the format before qcow2: convert it with qemu-img convert -f qcow -O qcow2",
            ));
        }
        _ => return Err(HeaderError::Unsupported("it is of a later version of qcow2 than 3")),
    };
    let cluster_bits = header.u32_be(20);
    if !(9..=21).contains(&cluster_bits) {
        return Err(HeaderError::Malformed("clusters have from 512 bytes to 2 MiB"));
    }
    let cluster_bytes = 1_u64 << cluster_bits;
    if version == 3 && !(HEADER_BYTES_V3_MIN..=cluster_bytes).contains(&header_bytes) {
        return Err(HeaderError::Malformed("its length is not between 104 bytes and a cluster"));
    }
    if header.u32_be(32) != 0 {
        return Err(HeaderError::Unsupported(
            "it is encrypted: make a plain one with qemu-img convert, which takes its key",
        ));
    }
    if features & CORRUPT != 0 {
        return Err(HeaderError::Unsupported(
            "it is marked as corrupt: qemu-img check -r all says what can be saved",
        ));
    }
    check_tables(from, &header, cluster_bytes, features)?;

    let (backing_offset, backing_len) = (header.u64_be(8), header.u32_be(16));
    let has_backing = backing_offset != 0;
    let extensions_end = if has_backing { backing_offset } else { cluster_bytes };
    let extensions = extensions(from, header_bytes, extensions_end)?;
    let backing = match has_backing {
        false => None,
        true if backing_len == 0 || backing_len > BACKING_NAME_BYTES_MAX => {
            return Err(HeaderError::Malformed(
                "the name of its backing file has no byte, or too many",
            ));
        }
        true => {
            let name = text(bytes_at(from, backing_offset, backing_len as usize)?)?;
            Some(Reference { name, format: extensions.backing_format })
        }
    };
    let data_file = match (features & EXTERNAL_DATA_FILE != 0, extensions.data_file) {
        (false, _) => None,
        (true, Some(name)) => Some(name),
        (true, None) => {
            return Err(HeaderError::Unsupported(
                "its data are in another file, whose name it does not say",
            ));
        }
    };
    Ok(References { backing, data_file, extents: Vec::new() })
}

/// Where the clusters of data are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DataIn {
    ThisFile,
    OtherFile,
}

/// Whether the tables lie in the file, and the data that they name.
fn check_tables(
    from: &impl ReadAt,
    header: &Fields<72>,
    cluster_bytes: u64,
    features: u64,
) -> Result<(), HeaderError> {
    let data =
        if features & EXTERNAL_DATA_FILE == 0 { DataIn::ThisFile } else { DataIn::OtherFile };
    let (l1_entries, l1_offset) = (header.u32_be(36), header.u64_be(40));
    if l1_entries > L1_ENTRIES_MAX {
        return Err(HeaderError::Malformed("its L1 table has more than 32 MiB"));
    }
    within(from, "its L1 table", l1_offset, u64::from(l1_entries) * 8)?;
    let refcount_bytes = u64::from(header.u32_be(56)).saturating_mul(cluster_bytes);
    if refcount_bytes > REFCOUNT_TABLE_BYTES_MAX {
        return Err(HeaderError::Malformed("its refcount table has more than 8 MiB"));
    }
    within(from, "its refcount table", header.u64_be(48), refcount_bytes)?;
    let snapshots = u64::from(header.u32_be(60));
    // Each has at least 40 bytes.
    within(from, "its table of snapshots", header.u64_be(64), snapshots * 40)?;
    let mut tables_bytes = 0;
    each_entry(from, l1_offset, u64::from(l1_entries), |entry: [u8; 8]| {
        let l2_offset = u64::from_be_bytes(entry) & OFFSET;
        if l2_offset == 0 {
            return Ok(());
        }
        // Else a small file could name one table a million times, and keep us reading.
        tables_bytes += cluster_bytes;
        if tables_bytes > from.len_bytes() {
            return Err(HeaderError::Malformed("it has more L2 tables than the file has room for"));
        }
        within(from, "an L2 table", l2_offset, cluster_bytes)?;
        match data {
            DataIn::ThisFile => clusters_begin_within(from, l2_offset, cluster_bytes, features),
            DataIn::OtherFile => Ok(()),
        }
    })
}

/// Whether every cluster of data that an L2 table names begins within the file. It may end behind
/// it: programs write the last cluster in part.
fn clusters_begin_within(
    from: &impl ReadAt,
    l2_offset: u64,
    cluster_bytes: u64,
    features: u64,
) -> Result<(), HeaderError> {
    // What follows an entry with subclusters says which of them are there.
    let with_subclusters = features & EXTENDED_L2 != 0;
    let compressed_offset = (1 << (62 - (cluster_bytes.trailing_zeros() - 8))) - 1;
    let mut is_entry = false;
    each_entry(from, l2_offset, cluster_bytes / 8, |entry: [u8; 8]| {
        is_entry = !is_entry || !with_subclusters;
        let entry = u64::from_be_bytes(entry);
        let offset = entry & if entry & COMPRESSED == 0 { OFFSET } else { compressed_offset };
        if is_entry && offset > 0 { within(from, "a cluster", offset, 1) } else { Ok(()) }
    })
}

#[derive(Default)]
struct Extensions {
    backing_format: Option<String>,
    data_file: Option<String>,
}

/// The extensions from `begin` to `end`, where the name of the backing file stands, or the first
/// cluster ends.
fn extensions(from: &impl ReadAt, begin: u64, end: u64) -> Result<Extensions, HeaderError> {
    let mut found = Extensions::default();
    let mut offset = begin;
    while offset.saturating_add(8) <= end {
        let head: Fields<8> = Fields::read(from, offset)?;
        let (kind, len) = (head.u32_be(0), u64::from(head.u32_be(4)));
        offset += 8;
        if kind == END {
            break;
        }
        if len > end - offset || len > TEXT_BYTES_MAX as u64 {
            return Err(HeaderError::Malformed("an extension is longer than there is room"));
        }
        let place = match kind {
            BACKING_FORMAT => Some(&mut found.backing_format),
            DATA_FILE_NAME => Some(&mut found.data_file),
            _ => None,
        };
        if let Some(place) = place {
            *place = Some(text(bytes_at(from, offset, len as usize)?)?);
        }
        offset += len.next_multiple_of(8);
    }
    Ok(found)
}
