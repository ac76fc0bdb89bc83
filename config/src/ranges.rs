//! Limits that hold in the configuration file and in the admin API alike, so that both say the same.

use crate::ByteSize;
use std::{fmt, ops::RangeInclusive};

/// What a number of bytes may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeRange {
    /// Smallest, in bytes.
    pub bytes_min: u64,
    /// Largest, in bytes.
    pub bytes_max: u64,
    /// Every allowed value is a multiple of this many bytes.
    pub step_bytes: u64,
}

impl SizeRange {
    const fn new(allowed: RangeInclusive<u64>, step_bytes: u64) -> SizeRange {
        SizeRange { bytes_min: *allowed.start(), bytes_max: *allowed.end(), step_bytes }
    }

    /// Whether that many bytes are allowed.
    pub fn contains(&self, bytes: u64) -> bool {
        (self.bytes_min..=self.bytes_max).contains(&bytes) && bytes.is_multiple_of(self.step_bytes)
    }
}

/// `a multiple of 4096 bytes from 1M to 16T`, to stand after "must be".
impl fmt::Display for SizeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.step_bytes > 1 {
            write!(f, "a multiple of {} bytes ", self.step_bytes)?;
        } else {
            f.write_str("a size ")?;
        }
        write!(f, "from {} to {}", ByteSize::new(self.bytes_min), ByteSize::new(self.bytes_max))
    }
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// The unit of mapping and checksums. A volume is a whole number of blocks, so that no last block is half inside: a
/// client could neither write it whole nor tell a hole from data in it.
pub const BLOCK_BYTES: u64 = 4096;

/// Size of a volume. The least is what one leaf of the map covers; the most is what the map can address.
pub const VOLUME: SizeRange = SizeRange::new(MIB..=16 * TIB, BLOCK_BYTES);

/// `cache_size` of a volume. 0 keeps its blocks out of the cache; the most is a guess, past any host's memory today.
pub const VOLUME_CACHE: SizeRange = SizeRange::new(0..=TIB, 1);

/// `buffer_size` of a volume. The least leaves room for a few requests; the most is a guess, not tuned: more only delays
/// the moment a client feels a slow disk.
pub const VOLUME_BUFFER: SizeRange = SizeRange::new(MIB..=GIB, 1);

/// `prefetch` of a volume, in MiB. The most is a guess, not tuned.
pub const VOLUME_PREFETCH_MIB: RangeInclusive<u32> = 0..=1024;

/// Size of the store. Eight segments of 64 MiB are the least that leaves room beside the reserve; the most is a guess.
pub const STORE: SizeRange = SizeRange::new(512 * MIB..=1024 * TIB, 1);

/// Memory for clean blocks, and for map nodes.
pub const CACHE: SizeRange = SizeRange::new(16 * MIB..=16 * TIB, 1);

/// Worker threads. The most is a guess: more workers than cores only take turns.
pub const WORKERS: RangeInclusive<u32> = 1..=1024;

/// Longest path of a Unix socket, in bytes. Source: `sun_path` of unix(7), 108 with its final zero.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_sizes_are_whole_blocks_between_the_bounds() {
        for bytes in [MIB, MIB + 4096, 16 * TIB] {
            assert!(VOLUME.contains(bytes), "{bytes}");
        }
        for bytes in [0, 4096, MIB - 4096, MIB + 512, 16 * TIB + 4096] {
            assert!(!VOLUME.contains(bytes), "{bytes}");
        }
        assert_eq!(VOLUME.to_string(), "a multiple of 4096 bytes from 1M to 16T");
        assert_eq!(VOLUME_CACHE.to_string(), "a size from 0 to 1T");
    }
}
