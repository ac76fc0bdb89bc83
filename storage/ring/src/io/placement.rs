//! Placement: whether the file system finds the store's blocks again after a crash of the host.
//!
//! Direct I/O brings data past the page cache, but the file system's metadata leads to it: that a
//! block is allocated, that it counts as written and not as an unwritten extent, and in a file
//! system that never overwrites, which block is the newest. Metadata waits in memory for the file
//! system's journal, for five to thirty seconds or until a sync. (Measured on ext4 and XFS: of 64
//! such writes a crash of the host leaves none.)
//!
//! So a plain write survives the host only where it changes no metadata: on a block device, or over
//! blocks that are allocated, written and synced, in a file system that overwrites them in place.
//! Everything else is written through ([`WriteMode::Through`](super::WriteMode)).
//!
//! btrfs is not trusted to overwrite in place, not even in a file without copy-on-write: it moves
//! the next write of each block after a snapshot of the subvolume, and during a scrub or a balance,
//! without a notice.
//!
//! Layers below the device (a loop device's file, a thin pool, a disk's own cache) count as the
//! device. Source: ioctl_fiemap, statx(2) on `STATX_DIOALIGN`, fallocate(2); fs/btrfs/inode.c on
//! `can_nocow_extent`.

#![expect(unsafe_code, reason = "ioctls that rustix has no call for")]

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, IFlags, StatxFlags};
use rustix::io::Errno;
use rustix::ioctl::{self, Getter, Opcode, Updater};

/// Linux 6.17: zeroes made by the device, in blocks that count as written.
pub(crate) const FALLOC_FL_WRITE_ZEROES: i32 = 0x80;

/// Magic numbers of file systems, from statfs(2).
const EXT4: u64 = 0xef53;
const XFS: u64 = 0x5846_5342;
const BTRFS: u64 = 0x9123_683e;
const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;

/// Whether a completed plain write survives a crash of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// A block device: the write survives.
    Device,
    /// A file of this file system, which overwrites in place: the write survives where the blocks
    /// were written and synced before.
    InPlace(&'static str),
    /// A file whose blocks may move with each write, for this reason: the write survives after a
    /// sync.
    Moving(&'static str),
    /// A file that is read and written through the page cache, for this reason: the write survives
    /// after a sync.
    Buffered(&'static str),
    /// A file of this file system, which is in memory: nothing survives.
    Memory(&'static str),
}

impl Placement {
    /// A fixed word for the placement, for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::InPlace(_) => "in_place",
            Self::Moving(_) => "moving",
            Self::Buffered(_) => "buffered",
            Self::Memory(_) => "memory",
        }
    }

    /// Whether plain writes into prepared blocks survive, so that not all writes are written
    /// through.
    #[must_use]
    pub fn is_trusted(self) -> bool {
        match self {
            Self::Device | Self::InPlace(_) => true,
            Self::Moving(_) | Self::Buffered(_) | Self::Memory(_) => false,
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device => f.write_str("a block device"),
            Self::InPlace(name) => write!(f, "{name}, overwritten in place"),
            Self::Moving(why) => write!(f, "every write is synced, because {why}"),
            Self::Buffered(why) => {
                write!(f, "every write is synced and goes through the page cache, because {why}")
            }
            Self::Memory(name) => write!(f, "{name}: nothing survives a crash of the host"),
        }
    }
}

/// The placement of a file, by its file system. `direct` says whether it was opened for direct I/O.
///
/// # Errors
/// The errors of fstatfs(2) and statx(2).
pub(super) fn of_file(file: BorrowedFd<'_>, direct: bool) -> io::Result<Placement> {
    let magic = rustix::fs::fstatfs(file)?.f_type as u64 & 0xffff_ffff;
    match magic {
        TMPFS => return Ok(Placement::Memory("tmpfs")),
        RAMFS => return Ok(Placement::Memory("ramfs")),
        _ => {}
    }
    if !direct {
        return Ok(Placement::Buffered("the file system offers no direct I/O"));
    }
    // Some take O_DIRECT and go through the page cache even so: ext4 for journaled and for
    // encrypted data.
    let answer = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)?;
    let answers = StatxFlags::from_bits_retain(answer.stx_mask).contains(StatxFlags::DIOALIGN);
    if answers && answer.stx_dio_offset_align == 0 {
        return Ok(Placement::Buffered("the file system offers no direct I/O for this file"));
    }
    Ok(match magic {
        EXT4 if answers => Placement::InPlace("ext4"),
        EXT4 => Placement::Moving(
            "a kernel before Linux 6.1 does not report whether ext4 journals data",
        ),
        XFS if is_on_realtime_device(file) => {
            Placement::Moving("a realtime device of XFS may be zoned")
        }
        XFS => Placement::InPlace("XFS"),
        BTRFS => Placement::Moving("btrfs may write each block to a new place"),
        _ => Placement::Moving("the file system is not known to overwrite blocks in place"),
    })
}

/// Keeps a new, still empty file of btrfs from being copied with each write. Only without btrfs's
/// checksums is direct I/O direct there, and the store has its own.
pub(super) fn prefer_in_place(file: BorrowedFd<'_>) {
    let is_btrfs =
        rustix::fs::fstatfs(file).is_ok_and(|answer| answer.f_type as u64 & 0xffff_ffff == BTRFS);
    if is_btrfs
        && let Err(error) = rustix::fs::ioctl_getflags(file)
            .and_then(|flags| rustix::fs::ioctl_setflags(file, flags | IFlags::NOCOW))
    {
        tracing::debug!(%error, "btrfs goes on copying each write of the store");
    }
}

fn is_on_realtime_device(file: BorrowedFd<'_>) -> bool {
    /// `_IOR('X', 31, struct fsxattr)`.
    const FS_IOC_FSGETXATTR: Opcode = ioctl::opcode::read::<FsXattr>(b'X', 31);
    const FS_XFLAG_REALTIME: u32 = 1;
    // SAFETY: the kernel fills the structure that the opcode names.
    let answer = unsafe { ioctl::ioctl(file, Getter::<FS_IOC_FSGETXATTR, FsXattr>::new()) };
    // A file system that does not answer is not trusted.
    answer.map_or(true, |answer| answer.xflags & FS_XFLAG_REALTIME != 0)
}

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
struct FsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

/// Extents asked for at once.
const EXTENTS: usize = 64;

/// `struct fiemap` of linux/fiemap.h, with room for some extents.
#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [FiemapExtent; EXTENTS],
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FiemapExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// Flags of an extent whose blocks are not in place, or are shared with another file: UNKNOWN,
/// DELALLOC, ENCODED, NOT_ALIGNED, DATA_INLINE, DATA_TAIL, UNWRITTEN, SHARED.
const NOT_IN_PLACE: u32 = 0x2 | 0x4 | 0x8 | 0x100 | 0x200 | 0x400 | 0x800 | 0x2000;

/// Which parts of a range of a file have written blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// The parts, in order, where a write would change metadata of the file system: holes,
    /// unwritten extents, and blocks that are shared with a clone. All other parts were written,
    /// though perhaps not synced.
    pub missing: Vec<Range<u64>>,
    /// Whether the range has no blocks at all.
    pub is_hole: bool,
}

impl Coverage {
    /// Number of missing bytes.
    pub fn missing_bytes(&self) -> u64 {
        self.missing.iter().map(|part| part.end - part.start).sum()
    }
}

/// The coverage of a range. All of it is missing where the file system does not report extents.
pub(super) fn coverage(file: impl AsFd, range: Range<u64>) -> Coverage {
    /// `_IOWR('f', 11, struct fiemap)`, whose size is that of the structure without extents.
    const FS_IOC_FIEMAP: Opcode = ioctl::opcode::read_write::<[u64; 4]>(b'f', 11);
    let (mut at, mut missing, mut is_hole) = (range.start, Vec::new(), true);
    while at < range.end {
        let mut map = Fiemap {
            start: at,
            length: range.end - at,
            flags: 0,
            mapped_extents: 0,
            extent_count: EXTENTS as u32,
            reserved: 0,
            extents: [FiemapExtent::default(); EXTENTS],
        };
        // SAFETY: the kernel reads the head and fills as many extents as the head says there is
        // room for.
        let answer =
            unsafe { ioctl::ioctl(&file, Updater::<FS_IOC_FIEMAP, Fiemap>::new(&mut map)) };
        match answer {
            Ok(()) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return Coverage { missing: vec![range], is_hole: false },
        }
        let extents = &map.extents[..(map.mapped_extents as usize).min(EXTENTS)];
        is_hole &= extents.is_empty();
        for extent in extents.iter().filter(|extent| extent.flags & NOT_IN_PLACE == 0) {
            let (from, to) = (extent.logical, extent.logical.saturating_add(extent.length));
            add(&mut missing, at..from.min(range.end));
            at = at.max(to);
        }
        if extents.len() < EXTENTS {
            add(&mut missing, at..range.end);
            break;
        }
        // All extents of this answer are behind the next offset, missing or not.
        let seen =
            extents.last().map_or(range.end, |last| last.logical.saturating_add(last.length));
        add(&mut missing, at..seen.min(range.end));
        at = at.max(seen);
    }
    Coverage { missing, is_hole }
}

fn add(missing: &mut Vec<Range<u64>>, part: Range<u64>) {
    match missing.last_mut() {
        _ if part.is_empty() => {}
        Some(last) if last.end == part.start => last.end = part.end,
        Some(_) | None => missing.push(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    const BLOCK: u64 = 4096;

    /// A file in the build directory's file system, which reports extents where it is one of the
    /// usual ones.
    fn file_with(parts: &[Range<u64>]) -> std::fs::File {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).expect("a file");
        file.set_len(1000 * BLOCK).expect("a length");
        for part in parts {
            let bytes = vec![7; ((part.end - part.start) * BLOCK) as usize];
            file.write_all_at(&bytes, part.start * BLOCK).expect("a write");
        }
        file.sync_all().expect("a sync");
        file
    }

    #[test]
    fn holes_and_reserved_blocks_are_unwritten() {
        let file = file_with(&[0..10, 20..30]);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 30 * BLOCK, 10 * BLOCK)
            .expect("room");
        let blocks = |range: Range<u64>| -> Vec<(u64, u64)> {
            let coverage = coverage(&file, range.start * BLOCK..range.end * BLOCK);
            coverage.missing.into_iter().map(|r| (r.start / BLOCK, r.end / BLOCK)).collect()
        };
        if of_file(file.as_fd(), true).is_ok_and(|placement| placement.is_trusted()) {
            assert_eq!(blocks(0..10), []);
            assert_eq!(blocks(0..45), [(10, 20), (30, 45)]);
            assert_eq!(blocks(5..25), [(10, 20)]);
        }
        assert_eq!(blocks(50..60), [(50, 60)]);
        assert!(coverage(&file, 50 * BLOCK..60 * BLOCK).is_hole);
        assert!(!coverage(&file, 30 * BLOCK..40 * BLOCK).is_hole);
    }

    #[test]
    fn many_extents_take_several_calls() {
        let file = file_with(&(0..150).map(|i| 2 * i..2 * i + 1).collect::<Vec<_>>());
        let missing = coverage(&file, 0..300 * BLOCK).missing;
        if of_file(file.as_fd(), true).is_ok_and(|placement| placement.is_trusted()) {
            let expected: Vec<_> =
                (0..150).map(|i| (2 * i + 1) * BLOCK..(2 * i + 2) * BLOCK).collect();
            assert_eq!(missing, expected);
        }
    }

    #[test]
    fn what_does_not_tell_is_missing() {
        let (reader, _writer) = io::pipe().expect("a pipe");
        assert_eq!(coverage(reader, 5..50).missing_bytes(), 45);
    }
}
