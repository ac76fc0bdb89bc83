//! The data of a WRITE in memory.

use super::executor::FIRST_PART_BYTES;
use bytes::Bytes;
use sandstone_storage::BLOCK_BYTES;

/// Most bytes of a write that is begun without a task: if it has to wait all the same, its
/// checksums are made twice. What is larger comes into memory of its own, which it gives back as a
/// whole.
pub(super) const NOW_BYTES_MAX: usize = 64 << 10;

/// Most bytes of a part of a payload.
pub(super) const PART_BYTES_MAX: usize = 1 << 20;

/// The data of a WRITE, or none.
pub(super) enum Payload {
    /// At most [`NOW_BYTES_MAX`], part of the receive that brought it.
    One(Bytes),
    /// In memory of its own, as [`Volume::write_parts`] takes it.
    Parts(Vec<Bytes>),
}

impl Payload {
    /// For a request that has to wait. A small payload gets memory of its own, or else it would
    /// hold all of the receive that brought it.
    pub(super) fn into_parts(self) -> Vec<Bytes> {
        match self {
            Payload::One(data) if data.is_empty() => Vec::new(),
            Payload::One(data) => vec![Bytes::copy_from_slice(&data)],
            Payload::Parts(parts) => parts,
        }
    }
}

/// Bytes of the next part of a payload of `len` bytes, of which some came: the first is what room
/// was taken for, the others are as much as came before, and end with the volume's blocks.
pub(super) fn part_len(offset: u64, came: usize, len: usize) -> usize {
    let at_most = came.clamp(FIRST_PART_BYTES, PART_BYTES_MAX);
    if len - came <= at_most {
        return len - came;
    }
    let beyond = (offset + (came + at_most) as u64) % BLOCK_BYTES as u64;
    at_most - beyond as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_the_payload_and_end_with_blocks() {
        for offset in [0, 1, 4095, 4096, 70_000] {
            for len in
                [NOW_BYTES_MAX + 1, FIRST_PART_BYTES, FIRST_PART_BYTES + 1, 5 << 20, (64 << 20) - 7]
            {
                let mut came = 0;
                while came < len {
                    let part = part_len(offset, came, len);
                    assert!(
                        part > 0 && part <= came.clamp(FIRST_PART_BYTES, PART_BYTES_MAX),
                        "{offset} {len}: {part}"
                    );
                    came += part;
                    let end = offset + came as u64;
                    assert!(
                        came == len || end.is_multiple_of(BLOCK_BYTES as u64),
                        "{offset} {len}: {came}"
                    );
                }
                assert_eq!(came, len);
            }
        }
    }
}
