//! Checksums: crc32 over a block's bytes, and a keyed crc32 for what replay trusts.
//!
//! A guest chooses the bytes of its blocks, so a header's checksum must not be one that a guest can
//! compute: it starts from a seed made of the store's secret and the epoch in which it was written
//! (DESIGN, "On disk").

use crate::base::BLOCK_BYTES;

/// Checksum of one block of data, as leaves hold it.
pub(crate) fn block(data: &[u8]) -> u32 {
    debug_assert_eq!(data.len(), BLOCK_BYTES);
    crc32fast::hash(data)
}

/// Checksum of bytes whose checksum is stored elsewhere (map nodes: in the parent; catalog chunks:
/// in the reference).
pub(crate) fn plain(data: &[u8]) -> u32 {
    crc32fast::hash(data)
}

/// Whether all bytes are zero. For most data the first bytes decide.
pub(crate) fn is_zero(data: &[u8]) -> bool {
    data.chunks(64).all(|chunk| chunk.iter().fold(0u8, |all, byte| all | byte) == 0)
}

/// The secret that seeds the checksums of log headers, records and footers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) [u8; 16]);

impl Secret {
    /// Checksum of `data` as written in `epoch`.
    pub(crate) fn keyed(&self, epoch: u32, data: &[&[u8]]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.0);
        hasher.update(&epoch.to_le_bytes());
        for part in data {
            hasher.update(part);
        }
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_differs_by_secret_and_epoch() {
        let a = Secret([1; 16]);
        assert_ne!(a.keyed(1, &[b"x"]), a.keyed(2, &[b"x"]));
        assert_ne!(a.keyed(1, &[b"x"]), Secret([2; 16]).keyed(1, &[b"x"]));
        assert_eq!(a.keyed(1, &[b"x", b"y"]), a.keyed(1, &[b"xy"]));
    }

    #[test]
    fn is_zero_sees_every_byte() {
        let mut data = vec![0u8; 4096];
        assert!(is_zero(&data));
        for at in [0, 1, 63, 64, 4095] {
            data[at] = 1;
            assert!(!is_zero(&data), "byte {at}");
            data[at] = 0;
        }
    }
}
