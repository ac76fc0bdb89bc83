//! Limits that hold in the configuration file and in the admin API alike, so that both say the
//! same.

use crate::ByteSize;
use std::{fmt, ops::RangeInclusive};

/// What a number of bytes may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeRange {
    /// Smallest, in bytes.
    pub bytes_min: u64,
    /// Largest, in bytes.
    pub bytes_max: u64,
}

impl SizeRange {
    const fn new(allowed: RangeInclusive<u64>) -> SizeRange {
        SizeRange { bytes_min: *allowed.start(), bytes_max: *allowed.end() }
    }

    /// Whether that many bytes are allowed.
    pub fn contains(&self, bytes: u64) -> bool {
        (self.bytes_min..=self.bytes_max).contains(&bytes)
    }
}

/// `a size from 1 to 16T`, to stand after "must be".
impl fmt::Display for SizeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a size from {} to {}",
            ByteSize::new(self.bytes_min),
            ByteSize::new(self.bytes_max)
        )
    }
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Size of a volume: to the byte, so that an image of any size fits exactly. The most is what the
/// map can address.
pub const VOLUME: SizeRange = SizeRange::new(1..=16 * TIB);

/// `cache_size` of a volume. 0 keeps its blocks out of the cache; the most is a guess, past any
/// host's memory today.
pub const VOLUME_CACHE: SizeRange = SizeRange::new(0..=TIB);

/// `buffer_size` of a volume. The least leaves room for a few requests; the most is a guess, not
/// tuned: more only delays the moment a client feels a slow disk.
pub const VOLUME_BUFFER: SizeRange = SizeRange::new(MIB..=GIB);

/// `prefetch` of a volume, in MiB. The most is a guess, not tuned.
pub const VOLUME_PREFETCH_MIB: RangeInclusive<u32> = 0..=1024;

/// `iops_max` of a volume, beside 0 for no limit. With fewer a file system's journal alone takes
/// longer than the kernel's client waits; the most is a guess, past what one volume gets today.
pub const VOLUME_IOPS: RangeInclusive<u64> = 10..=10_000_000;

/// `bytes_per_second_max` of a volume, beside 0 for no limit. With less the largest request, 64
/// MiB, would keep the next one waiting for more than a minute; the most is a guess, past any disk
/// today.
pub const VOLUME_BYTES_PER_SECOND: SizeRange = SizeRange::new(MIB..=TIB);

/// Size of the store. Eight segments of 64 MiB are the least that leaves room beside the reserve;
/// the most is a guess.
pub const STORE: SizeRange = SizeRange::new(512 * MIB..=1024 * TIB);

/// `store.reclaim_rate`, a second. Below the least, reclaim would fall behind any writer.
pub const RECLAIM_RATE: SizeRange = SizeRange::new(MIB..=TIB);

/// `store.scrub_rate`, a second. 0 turns it off; the most is a guess, past any disk today.
pub const SCRUB_RATE: SizeRange = SizeRange::new(0..=TIB);

/// Memory for clean blocks, and for map nodes.
pub const CACHE: SizeRange = SizeRange::new(16 * MIB..=16 * TIB);

/// Worker threads. The most is a guess: more workers than cores only take turns.
pub const WORKERS: RangeInclusive<u32> = 1..=1024;

/// `nbd.in_flight`. The least holds the largest request and as much for the others; the most is a
/// guess.
pub const IN_FLIGHT: SizeRange = SizeRange::new(128 * MIB..=64 * GIB);

/// `nbd.connections_max`. The most is a guess: two descriptors each are then a quarter of what
/// Linux lets a process have.
pub const CONNECTIONS: RangeInclusive<u32> = 1..=131_072;

/// `nbd.stall`, in seconds. The most is for links on which a MiB takes an hour.
pub const STALL_SECS: RangeInclusive<u32> = 1..=3600;

/// `attach.grace`, in seconds. A day is for moving a sandbox by hand; past it a mount is forgotten,
/// not moved.
pub const GRACE_SECS: RangeInclusive<u32> = 1..=86_400;

/// Mode of a Unix socket. Others than its owner and group are let in only by those bits that say
/// so.
pub const SOCKET_MODE: RangeInclusive<u32> = 0o000..=0o777;

/// Longest path of a Unix socket, in bytes. Source: `sun_path` of unix(7), 108 with its final zero.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_sizes_go_to_the_byte() {
        for bytes in [1, 4095, MIB + 512, 16 * TIB] {
            assert!(VOLUME.contains(bytes), "{bytes}");
        }
        for bytes in [0, 16 * TIB + 1] {
            assert!(!VOLUME.contains(bytes), "{bytes}");
        }
        assert_eq!(VOLUME.to_string(), "a size from 1 to 16T");
        assert_eq!(VOLUME_CACHE.to_string(), "a size from 0 to 1T");
    }
}
