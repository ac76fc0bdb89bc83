//! Decoders on foreign bytes: with one bit changed, made up, or damaged.

use super::*;
use proptest::prelude::*;

/// Flips each bit of `bytes`, and checks that the result is refused.
fn each_flip_is_refused(bytes: &[u8], is_read: impl Fn(&[u8]) -> bool) {
    assert!(is_read(bytes));
    let mut bytes = bytes.to_vec();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(!is_read(&bytes), "bit {bit} was changed unnoticed");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn checksums_notice_each_bit() {
    let rest = superblock().encode().split_off(512);
    let reads_superblock = |b: &[u8]| Superblock::decode(&[b, &rest].concat()).is_ok();
    each_flip_is_refused(&superblock().encode()[..512], reads_superblock);
    let mut block = header().seal(&IDENTITY, &records());
    block.extend_from_slice(&records());
    block.resize(BLOCK_BYTES, 0);
    let read = |b: &[u8]| {
        let mut whole = block.clone();
        whole[..b.len()].copy_from_slice(b);
        BatchHeader::decode(&IDENTITY, &whole).is_ok()
    };
    each_flip_is_refused(&block[..92], read);
    let reads_records = |b: &[u8]| {
        let mut whole = block.clone();
        whole[96..202].copy_from_slice(b);
        BatchHeader::decode(&IDENTITY, &whole).is_ok()
            || Records::new(&IDENTITY, 4, Lsn(0x0506), b).count() == 3
    };
    each_flip_is_refused(&block[96..202], reads_records);
    let (blocks, content) = footer();
    each_flip_is_refused(&blocks[BLOCK_BYTES - 128..BLOCK_BYTES - 20], |b| {
        let mut whole = blocks.clone();
        whole[BLOCK_BYTES - 128..BLOCK_BYTES - 20].copy_from_slice(b);
        Trailer::decode(&IDENTITY, &whole).is_ok()
    });
    let trailer = Trailer::decode(&IDENTITY, &blocks).expect("a trailer");
    each_flip_is_refused(&content, |b| Footer::decode(&IDENTITY, trailer, b).is_ok());
    let (bytes, _) = encode_node(&leaf(), 0);
    each_flip_is_refused(&bytes, |b| decode_node(&home(&bytes), 0, b).is_ok());
    let (bytes, checksum) = encode_page(PageKind::Entries, &encoded(&page_items()));
    let at = PageRef { checksum, blocks: 1, ..page() };
    each_flip_is_refused(&bytes, |b| decode_page(PageKind::Entries, &at, b).is_ok());
    let (bytes, checksum) = encode_chunk(None, &head().encode());
    let at =
        CatalogRef { address: Address::new(SegmentId(1), 0), slot: Slot(0), blocks: 1, checksum };
    each_flip_is_refused(&bytes, |b| decode_chunk(&at, b).is_ok());
}

/// All decoders on the same bytes, with checksums that fit where a decoder would otherwise stop at
/// once.
fn decode_everything(bytes: &[u8]) {
    let _ = Superblock::decode(bytes);
    let _ = BatchHeader::decode(&IDENTITY, bytes);
    let _ = BatchHeader::decode_open(&IDENTITY, bytes);
    let _ = Trailer::decode(&IDENTITY, bytes);
    for record in Records::new(&IDENTITY, 4, Lsn(0x0506), bytes) {
        let _ = record.address(SegmentId(1), u32::MAX);
        let _ = record.checksums();
    }
    let content_checksum = IDENTITY.secret.keyed(4, &[bytes]);
    let trailer = Trailer { content_bytes: bytes.len() as u32, content_checksum, ..trailer() };
    let _ = Footer::decode(&IDENTITY, trailer, bytes);
    let _ = Footer::decode(&IDENTITY, Trailer { content_bytes: u32::MAX, ..trailer }, bytes);
    for level in 0..4 {
        let _ =
            decode_node(&NodeRef { checksum: checksum::plain(bytes), ..home(&[]) }, level, bytes);
    }
    let checksum = checksum::plain(bytes);
    let at =
        CatalogRef { address: Address::new(SegmentId(1), 0), slot: Slot(0), blocks: 1, checksum };
    let _ = decode_chunk(&at, bytes);
    let _ = CatalogHead::decode(bytes);
    let at = PageRef { checksum, blocks: 1, ..page() };
    for kind in [PageKind::Entries, PageKind::Index] {
        let _ = decode_page(kind, &at, bytes);
    }
    let _ = PageRef::decode_all(bytes);
    let _ = PageItem::decode_all(bytes);
    let _ = VolumeMeta::decode(&mut &*bytes);
    if bytes.len() == BLOCK_BYTES {
        let mut fitting = bytes.to_vec();
        fitting[..12].copy_from_slice(&superblock().encode()[..12]);
        fitting[12..20].fill(0);
        let crc = crc(&fitting[..508]);
        fitting[508..512].copy_from_slice(&crc);
        if let Ok(superblock) = Superblock::decode(&fitting) {
            // What recovery uses without another check.
            let geometry = superblock.geometry;
            let _ = geometry.offset(superblock.replay.slot, geometry.segment_blocks - 1);
            let _ = superblock.encode();
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic_a_decoder(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        pad in any::<bool>(),
        magic in 0usize..6,
    ) {
        if pad {
            bytes.resize(BLOCK_BYTES, 0);
        }
        let magics: [&[u8]; 6] = [
            b"", b"SANDSTN\x01", b"SSB1\x01\x00", b"SSF1\x01\x00\x00\x00", b"SSL1\x00", b"SSI1\x02",
        ];
        let magic = magics[magic];
        if bytes.len() >= magic.len() {
            bytes[..magic.len()].copy_from_slice(magic);
        }
        decode_everything(&bytes);
    }

    #[test]
    fn mutated_bytes_never_panic_a_decoder(
        which in 0usize..9,
        changes in prop::collection::vec((0usize..200, any::<u8>()), 1..6),
        cut in 0usize..5000,
    ) {
        let mut whole = header().seal(&IDENTITY, &records());
        whole.extend_from_slice(&records());
        whole.resize(BLOCK_BYTES, 0);
        let mut bytes = match which {
            0 => superblock().encode(),
            1 => whole,
            2 => footer().0,
            3 => footer().1,
            4 => encode_node(&leaf(), 0).0,
            5 => encode_chunk(None, &head().encode()).0,
            6 => encode_page(PageKind::Entries, &encoded(&page_items())).0,
            7 => encoded(&page_items()),
            _ => head().encode(),
        };
        let len = bytes.len();
        for (at, value) in changes {
            // The superblock's fields, headers and entries are in front; a trailer is behind.
            let at = if which == 2 { len - 1 - at % 128 } else { at % len };
            bytes[at] = value;
        }
        if cut < len && cut % 3 == 0 {
            bytes.truncate(cut);
        }
        decode_everything(&bytes);
    }
}
