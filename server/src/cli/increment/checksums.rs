//! Checksums of ranges of a volume, many ranges at once, without reading its holes.

use crate::cli::copy::{CHUNK_BYTES, Content, CopyError, Device, Span};
use crc32fast::Hasher;
use std::{collections::HashMap, io};

/// The CRC-32 of each of `spans`, which are in order and do not overlap. Behind the end of the
/// device are zeroes.
pub(super) fn checksums(device: &mut impl Device, spans: &[Span]) -> Result<Vec<u32>, CopyError> {
    let mut reads: Vec<Span> = Vec::new();
    for span in spans {
        let inside =
            Span { len: span.end().min(device.size_bytes()).saturating_sub(span.offset), ..*span };
        if inside.len > CHUNK_BYTES {
            let data = data_in(device, inside).map_err(CopyError::Device)?;
            reads.extend(data.into_iter().flat_map(|span| span.pieces(CHUNK_BYTES)));
        } else if inside.len > 0 {
            // To ask what is there would cost as much as to read it.
            reads.push(inside);
        }
    }
    let mut pieces: HashMap<u64, Hasher> = HashMap::with_capacity(reads.len());
    device.read(&mut reads.iter().copied(), &mut |offset, data| {
        let mut hasher = Hasher::new();
        hasher.update(&data);
        pieces.insert(offset, hasher);
        Ok(())
    })?;
    let mut reads = reads.iter().peekable();
    let mut sums = Vec::with_capacity(spans.len());
    for span in spans {
        let (mut whole, mut end) = (Hasher::new(), span.offset);
        while let Some(read) = reads.next_if(|read| read.offset < span.end()) {
            whole.combine(&zeroes(read.offset - end));
            whole.combine(&pieces[&read.offset]);
            end = read.end();
        }
        whole.combine(&zeroes(span.end() - end));
        sums.push(whole.finalize());
    }
    Ok(sums)
}

/// The parts of `span` that have to be read.
fn data_in(device: &mut impl Device, span: Span) -> io::Result<Vec<Span>> {
    let mut data: Vec<Span> = Vec::new();
    let mut offset = span.offset;
    while offset < span.end() {
        let before = offset;
        for extent in device.extents(Span { offset, len: span.end() - offset })? {
            // A server may tell more than it was asked.
            let part = Span { offset, len: extent.len.min(span.end() - offset) };
            offset = part.end();
            match (extent.content, data.last_mut()) {
                (Content::Zero, _) => {}
                (Content::Data, _) if part.len == 0 => {}
                (Content::Data, Some(last)) if last.end() == part.offset => last.len += part.len,
                (Content::Data, _) => data.push(part),
            }
        }
        if offset == before {
            return Err(io::Error::other("the server's block status says nothing"));
        }
    }
    Ok(data)
}

/// The checksum of so many zeroes, put together from those of 1, 2, 4, … of them.
fn zeroes(mut len: u64) -> Hasher {
    let (mut whole, mut power) = (Hasher::new(), Hasher::new());
    power.update(&[0]);
    while len > 0 {
        if len & 1 == 1 {
            whole.combine(&power);
        }
        power.combine(&power.clone());
        len >>= 1;
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::copy::transfer::tests::Memory;

    #[test]
    fn zeroes_are_summed_without_being_there() {
        for len in [0, 1, 2, 4095, 4096, 1_000_003] {
            assert_eq!(zeroes(len).finalize(), crc32fast::hash(&vec![0; len as usize]), "{len}");
        }
    }

    #[test]
    fn sums_are_those_of_the_content_with_zeroes_behind_the_end() {
        let mut device = Memory::filled(4 * CHUNK_BYTES, 0);
        for (i, byte) in device.bytes.iter_mut().enumerate() {
            let is_hole = (CHUNK_BYTES as usize..2 * CHUNK_BYTES as usize).contains(&i);
            *byte = if is_hole { 0 } else { (i / 7 % 251) as u8 };
        }
        let spans = [
            Span { offset: 0, len: 4096 },
            Span { offset: 8192, len: 3 * CHUNK_BYTES },
            Span { offset: 4 * CHUNK_BYTES - 4096, len: 8192 },
            Span { offset: 5 * CHUNK_BYTES, len: 2 * CHUNK_BYTES },
        ];
        let mut content = device.bytes.clone();
        content.resize(7 * CHUNK_BYTES as usize, 0);
        let expected =
            spans.map(|span| crc32fast::hash(&content[span.offset as usize..span.end() as usize]));
        assert_eq!(checksums(&mut device, &spans).unwrap(), expected);
    }
}
