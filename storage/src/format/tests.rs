//! Golden bytes of everything on disk, one field a line.
//!
//! A change of these bytes is a change of the format: it needs another version, FORMAT.md, and a
//! test that the old one is still read, or refused with a reason. The numbers here and the tables
//! there are the same.

mod foreign;

use super::*;
use crate::{
    base::{
        Address, BLOCK_BYTES, Bitmap, Lsn, Secret, SegmentId, Settings, Slot, VolumeNumber,
        checksum,
    },
    log::{Leftover, Staging},
    map::{Child, Inner, Leaf, Node, NodeBody, decode_node, encode_node},
};
use sandstone_ring::SharedMemory;
use std::sync::Arc;
use uuid::Uuid;

const IDENTITY: Identity = Identity { store: [0x51; 16], secret: Secret([0xe5; 16]) };

/// Bytes of lines `field => bytes`, filled up with zeroes to `len`.
macro_rules! golden {
    ($len:expr; $($bytes:expr,)*) => {{
        let mut out: Vec<u8> = Vec::new();
        $(out.extend_from_slice(&$bytes);)*
        assert!(out.len() <= $len);
        out.resize($len, 0);
        out
    }};
}

/// Panics with the place where two byte strings differ.
fn assert_bytes(found: &[u8], golden: &[u8]) {
    assert_eq!(found.len(), golden.len());
    if let Some(at) = found.iter().zip(golden).position(|(a, b)| a != b) {
        let end = found.len().min(at + 8);
        panic!("at byte {at}: found {:02x?}, golden {:02x?}", &found[at..end], &golden[at..end]);
    }
}

fn crc(bytes: &[u8]) -> [u8; 4] {
    crc32fast::hash(bytes).to_le_bytes()
}

/// The keyed checksum, computed independently: crc32 over secret, epoch, bytes.
fn keyed(epoch: u32, bytes: &[u8]) -> [u8; 4] {
    crc(&[&[0xe5; 16][..], &epoch.to_le_bytes(), bytes].concat())
}

fn superblock() -> Superblock {
    Superblock {
        identity: IDENTITY,
        geometry: Geometry { segment_blocks: 16384, window_blocks: 4096, slots: 1000 },
        generation: 0x0102,
        epoch: 0x0304,
        replay: ReplayStart {
            segment: SegmentId(0x0506),
            slot: Slot(0x07),
            block: 0x08,
            lsn: Lsn(0x090a),
            previous: Lsn(0x0b0c),
        },
        synced: Lsn(0x0d0e),
        next_segment: SegmentId(0x0f10),
        next_volume: 0x1112,
        node_tail: Some((SegmentId(0x1314), Slot(0x15), 0x16)),
        catalog: Some(CatalogRef {
            address: Address::new(SegmentId(0x17), 0x18),
            slot: Slot(0x19),
            blocks: 0x1a,
            checksum: 0x1b1c_1d1e,
        }),
        catalog_copy: Some(CatalogRef {
            address: Address::new(SegmentId(0x24), 0x25),
            slot: Slot(0x26),
            blocks: 0x27,
            checksum: 0x2829_2a2b,
        }),
        closed: true,
        claim: Claim { of: SegmentId(0x1f20), next: Some((SegmentId(0x2122), Slot(0x23))) },
    }
}

#[test]
fn more_segments_than_a_store_can_have_are_not_believed() {
    let with = |slots| {
        let geometry = Geometry { slots, ..superblock().geometry };
        Superblock::decode(&Superblock { geometry, ..superblock() }.encode())
            .map(|read| read.geometry.slots)
    };
    assert_eq!(with(SLOTS_MAX), Ok(SLOTS_MAX));
    assert!(with(SLOTS_MAX + 1).is_err() && with(u32::MAX).is_err() && with(0).is_err());
    assert_eq!(Geometry::standard(u64::MAX).slots, SLOTS_MAX);
}

#[test]
fn superblock_is_laid_out_as_told() {
    let mut golden = golden![508;
        *b"SANDSTN\x01",                                    // 0: magic
        [6, 0, 0, 0],                                       // 8: version
        [0, 0, 0, 0],                                       // 12: features that a reader must know
        [0, 0, 0, 0],                                       // 16: features that a writer must know
        [0x04, 0x03, 0, 0],                                 // 20: epoch
        [0x51; 16],                                         // 24: store id
        [0xe5; 16],                                         // 40: secret
        [0x02, 0x01, 0, 0, 0, 0, 0, 0],                     // 56: generation
        [0x00, 0x40, 0, 0],                                 // 64: blocks in a segment
        [0x00, 0x10, 0, 0],                                 // 68: blocks in a window
        [0xe8, 0x03, 0, 0],                                 // 72: slots
        [0x12, 0x11, 0, 0],                                 // 76: next volume
        [0x06, 0x05, 0, 0, 0, 0, 0, 0],                     // 80: replay: segment
        [0x07, 0, 0, 0],                                    // 88: replay: slot
        [0x08, 0, 0, 0],                                    // 92: replay: block
        [0x0a, 0x09, 0, 0, 0, 0, 0, 0],                     // 96: replay: LSN
        [0x0c, 0x0b, 0, 0, 0, 0, 0, 0],                     // 104: replay: previous batch
        [0x0e, 0x0d, 0, 0, 0, 0, 0, 0],                     // 112: synced
        [0x10, 0x0f, 0, 0, 0, 0, 0, 0],                     // 120: next segment
        [0x14, 0x13, 0, 0, 0, 0, 0, 0],                     // 128: node tail: segment
        [0x15, 0, 0, 0],                                    // 136: node tail: slot
        [0x16, 0, 0, 0],                                    // 140: node tail: block
        [0x18, 0xc0, 0x05, 0, 0, 0, 0, 0],                  // 144: catalog: 0x17 << 14 | 0x18
        [0x19, 0, 0, 0],                                    // 152: catalog: slot
        [0x1a, 0, 0, 0],                                    // 156: catalog: blocks
        [0x1e, 0x1d, 0x1c, 0x1b],                           // 160: catalog: checksum
        [1, 0, 0, 0],                                       // 164: closed
        [0x20, 0x1f, 0, 0, 0, 0, 0, 0],                     // 168: claim: segment that is left
        [0x22, 0x21, 0, 0, 0, 0, 0, 0],                     // 176: claim: the next segment
        [0x23, 0, 0, 0],                                    // 184: claim: its slot
        [0x25, 0, 0x09, 0, 0, 0, 0, 0],                     // 188: its copy: 0x24 << 14 | 0x25
        [0x26, 0, 0, 0],                                    // 196: its copy: slot
        [0x27, 0, 0, 0],                                    // 200: its copy: blocks
        [0x2b, 0x2a, 0x29, 0x28],                           // 204: its copy: checksum
    ];
    golden.extend_from_slice(&crc(&golden)); // 508: crc32 of all before
    golden.resize(BLOCK_BYTES, 0); // 512: nothing that counts
    assert_bytes(&superblock().encode(), &golden);
    assert_eq!(Superblock::decode(&golden), Ok(superblock()));
    assert_eq!(
        (superblock_offset(0), superblock_offset(1), Geometry::SLOTS_AT),
        (0, 65_536, 1_048_576)
    );
}

fn header() -> BatchHeader {
    BatchHeader {
        segment: SegmentId(0x0102),
        block: 0x03,
        epoch: 0x04,
        first_lsn: Lsn(0x0506),
        previous: Lsn(0x0708),
        synced: Lsn(0x090a),
        data_blocks: 2,
        records: 3,
        records_bytes: (40 + 32 + 34) as u16,
        next: Some((SegmentId(0x0b0c), Slot(0x0d))),
        generation: 0x0e0f,
    }
}

fn records() -> Vec<u8> {
    let mut out = Vec::new();
    let head = |kind, block, count, data_offset| RecordHead {
        kind,
        volume: VolumeNumber(0x21),
        block,
        count,
        data_offset,
    };
    let sums = [0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38];
    head(RecordKind::Data, 0x2223, 2, 0x24).encode(&IDENTITY, 4, Lsn(0x0506), &sums, &mut out);
    head(RecordKind::Zero, 0x25, 0x2627, 0).encode(&IDENTITY, 4, Lsn(0x0507), &[], &mut out);
    head(RecordKind::VolumePut, 0, 0, 0).encode(&IDENTITY, 4, Lsn(0x0508), &[0x41, 0x42], &mut out);
    out
}

/// A record's bytes from its golden first 28 and its payload.
fn golden_record(lsn: u64, head: &[u8], payload: &[u8]) -> Vec<u8> {
    assert_eq!(head.len(), 28);
    let crc = keyed(4, &[&lsn.to_le_bytes(), head, payload].concat());
    [head, &crc, payload].concat()
}

fn golden_records() -> Vec<u8> {
    let data = golden![28;
        [1],                                                // 0: kind: data
        [0],                                                // 1: reserved
        [8, 0],                                             // 2: bytes of payload
        [0x21, 0, 0, 0],                                    // 4: volume
        [0x23, 0x22, 0, 0, 0, 0, 0, 0],                     // 8: first block of the volume
        [2, 0, 0, 0, 0, 0, 0, 0],                           // 16: blocks
        [0x24, 0, 0, 0],                                    // 24: block within the batch's data
    ];
    let zero = golden![28;
        [3, 0, 0, 0],                                       // kind: reserved zeroes
        [0x21, 0, 0, 0],                                    // volume
        [0x25, 0, 0, 0, 0, 0, 0, 0],                        // first block
        [0x27, 0x26, 0, 0, 0, 0, 0, 0],                     // blocks
    ];
    let put = golden![28;
        [16, 0, 2, 0],                                      // kind: the volume exists
        [0x21, 0, 0, 0],                                    // volume
    ];
    [
        golden_record(0x0506, &data, &[0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38]),
        golden_record(0x0507, &zero, &[]),
        golden_record(0x0508, &put, &[0x41, 0x42]),
    ]
    .concat()
}

#[test]
fn batch_header_and_records_are_laid_out_as_told() {
    assert_bytes(&records(), &golden_records());
    let open = golden![96;
        *b"SSB1",                                           // 0: magic
        [6, 0],                                             // 4: version
        [106, 0],                                           // 6: bytes of records
        [0x51; 8],                                          // 8: first half of the store id
        [0x02, 0x01, 0, 0, 0, 0, 0, 0],                     // 16: segment
        [0x03, 0, 0, 0],                                    // 24: block
        [0x04, 0, 0, 0],                                    // 28: epoch
        [0x06, 0x05, 0, 0, 0, 0, 0, 0],                     // 32: first LSN
        [0x08, 0x07, 0, 0, 0, 0, 0, 0],                     // 40: first LSN of the batch before
        [0x0a, 0x09, 0, 0, 0, 0, 0, 0],                     // 48: synced
        [2, 0, 0, 0],                                       // 56: blocks of data
        [3, 0],                                             // 60: records
        [0, 0],                                             // 62: reserved
        [0x0c, 0x0b, 0, 0, 0, 0, 0, 0],                     // 64: next segment
        [0x0d, 0, 0, 0],                                    // 72: its slot
        [0, 0, 0, 0],                                       // 76: reserved
        [0x0f, 0x0e, 0, 0, 0, 0, 0, 0],                     // 80: generation of the superblock
                                                            // 88: crc32, zero while it is open;
                                                            // then 4 reserved
    ];
    assert_bytes(&header().open(&IDENTITY), &open);
    let mut sealed = open.clone();
    sealed[88..92].copy_from_slice(&keyed(4, &[&open[..88], &golden_records()].concat()));
    assert_bytes(&header().seal(&IDENTITY, &records()), &sealed);

    let mut block = [sealed, golden_records()].concat();
    block.resize(BLOCK_BYTES, 0);
    assert_eq!(BatchHeader::decode(&IDENTITY, &block), Ok(header()));
    let read: Vec<_> = Records::new(&IDENTITY, 4, Lsn(0x0506), &block[96..202]).collect();
    assert_eq!(
        read.iter().map(|r| (r.lsn.0, r.head.kind)).collect::<Vec<_>>(),
        [(0x0506, RecordKind::Data), (0x0507, RecordKind::Zero), (0x0508, RecordKind::VolumePut)]
    );
    assert_eq!((read[0].checksum(0), read[0].checksum(1)), (0x3433_3231, 0x3837_3635));
    assert_eq!(read[0].address(SegmentId(5), 3), Ok(Address::new(SegmentId(5), 3 + 1 + 0x24)));
    assert_eq!(read[2].payload, [0x41, 0x42]);
}

#[test]
fn record_kinds_have_their_numbers() {
    for (kind, number) in [
        (RecordKind::Data, 1),
        (RecordKind::Hole, 2),
        (RecordKind::Zero, 3),
        (RecordKind::VolumePut, 16),
        (RecordKind::VolumeDelete, 17),
        (RecordKind::Fork, 18),
        (RecordKind::Restore, 19),
    ] {
        let head = RecordHead { kind, volume: VolumeNumber(1), block: 0, count: 1, data_offset: 0 };
        let mut out = Vec::new();
        head.encode(&IDENTITY, 1, Lsn(1), &[], &mut out);
        assert_eq!(out[0], number);
    }
}

fn trailer() -> Trailer {
    Trailer {
        segment: SegmentId(0x0102),
        epoch: 4,
        content_bytes: 0,
        content_checksum: 0,
        fill: 0x05,
        from_block: 0x06,
        next_lsn: Lsn(0x0708),
        previous: Lsn(0x090a),
        synced: Lsn(0x0b0c),
        next: (SegmentId(0x0d0e), Slot(0x0f)),
        generation: 0x1011,
    }
}

fn footer() -> (Vec<u8>, Vec<u8>) {
    let mut content = Vec::new();
    FooterBatch::encode(0x61, 4, Lsn(0x0506), &records(), &mut content);
    (Footer::encode(&IDENTITY, trailer(), &content), content)
}

#[test]
fn footer_and_trailer_are_laid_out_as_told() {
    let content = [
        golden![24;
            [0x61, 0, 0, 0],                                // 0: block of the batch's header
            [4, 0, 0, 0],                                   // 4: its epoch
            [0x06, 0x05, 0, 0, 0, 0, 0, 0],                 // 8: its first LSN
            [106, 0, 0, 0],                                 // 16: bytes of records
                                                            // 20: reserved
        ],
        golden_records(),
    ]
    .concat();
    let mut trailer_bytes = golden![104;
        *b"SSF1",                                           // 0: magic
        [6, 0],                                             // 4: version
        [0, 0],                                             // 6: reserved
        [0x51; 8],                                          // 8: first half of the store id
        [0x02, 0x01, 0, 0, 0, 0, 0, 0],                     // 16: segment
        [4, 0, 0, 0],                                       // 24: epoch
        [130, 0, 0, 0],                                     // 28: bytes of batch entries
        keyed(4, &content),                                 // 32: their checksum
        [0x05, 0, 0, 0],                                    // 36: fill
        [0x06, 0, 0, 0],                                    // 40: from block
        [0x0f, 0, 0, 0],                                    // 44: next slot
        [0x0e, 0x0d, 0, 0, 0, 0, 0, 0],                     // 48: next segment
        [0x08, 0x07, 0, 0, 0, 0, 0, 0],                     // 56: next LSN
        [0x0a, 0x09, 0, 0, 0, 0, 0, 0],                     // 64: first LSN of the last batch
        [0x0c, 0x0b, 0, 0, 0, 0, 0, 0],                     // 72: synced
        [0x11, 0x10, 0, 0, 0, 0, 0, 0],                     // 80: generation of the superblock
                                                            // 88: reserved
    ];
    trailer_bytes.extend_from_slice(&keyed(4, &trailer_bytes)); // 104: crc32
    trailer_bytes.resize(128, 0); // 108: reserved
    let mut golden = content.clone();
    golden.resize(BLOCK_BYTES - 128, 0);
    golden.extend_from_slice(&trailer_bytes);

    let (found, found_content) = footer();
    assert_bytes(&found_content, &content);
    assert_bytes(&found, &golden);
    let read = Trailer::decode(&IDENTITY, &golden).expect("a trailer");
    let content_checksum = u32::from_le_bytes(keyed(4, &content));
    assert_eq!(read, Trailer { content_bytes: 130, content_checksum, ..trailer() });
    let read = Footer::decode(&IDENTITY, read, &golden).expect("a footer");
    let batch = FooterBatch { block: 0x61, epoch: 4, first_lsn: Lsn(0x0506), records: records() };
    assert_eq!(read.batches, [batch]);
    assert_eq!((footer_blocks(0), footer_blocks(3968), footer_blocks(3969)), (1, 1, 2));
}

fn leaf() -> Node {
    let mut leaf = Leaf::default();
    let data = RunState::Data(Address::new(SegmentId(1), 7));
    leaf.replace(3, 2, Some(data), &[0x0102_0304, 0x0506_0708]);
    leaf.replace(200, 56, Some(RunState::Zero), &[]);
    Node::new(NodeBody::Leaf(leaf))
}

fn inner(children: &[(usize, Child)]) -> Node {
    let mut all = Box::new(std::array::from_fn(|_| Child::Empty));
    children.iter().for_each(|(i, child)| all[*i] = child.clone());
    let mapped = children.iter().map(|(_, child)| child.mapped()).sum();
    Node::new(NodeBody::Inner(Inner { children: all, mapped }))
}

fn home(blocks: &[u8]) -> NodeRef {
    NodeRef {
        address: Address::new(SegmentId(9), 1),
        checksum: checksum::plain(blocks),
        blocks: (blocks.len() / BLOCK_BYTES) as u8,
        mapped: 0,
    }
}

#[test]
fn map_nodes_are_laid_out_as_told() {
    let golden_leaf = golden![BLOCK_BYTES;
        *b"SSL1",                                           // 0: magic
        [0],                                                // 4: level
        [0],                                                // 5: reserved
        [2, 0],                                             // 6: runs
        [0; 8],                                             // 8: reserved
        [3], [1],                                           // run: first block, blocks - 1
        [0x07, 0x40, 0, 0, 0, 0, 0, 0],                     //   address (1 << 14 | 7)
        [200], [55],                                        // run: first block, blocks - 1
        [0, 0, 0, 0, 0, 0, 0, 0x40],                        //   reserved zeroes (1 << 62)
        [0x04, 0x03, 0x02, 0x01],                           // checksum of block 3
        [0x08, 0x07, 0x06, 0x05],                           // checksum of block 4
    ];
    let (bytes, checksum) = encode_node(&leaf(), 0);
    assert_bytes(&bytes, &golden_leaf);
    assert_eq!(checksum.to_le_bytes(), crc(&golden_leaf));
    let read = decode_node(&home(&bytes), 0, &bytes).expect("a leaf");
    assert!(
        matches!((read.body(), leaf().body()), (NodeBody::Leaf(a), NodeBody::Leaf(b)) if a == b)
    );

    let below = NodeRef {
        address: Address::new(SegmentId(2), 5),
        checksum: 0x1112_1314,
        blocks: 2,
        mapped: 0x15,
    };
    let node = inner(&[(1, Child::Zero), (255, Child::Stored(below))]);
    let golden_inner = golden![BLOCK_BYTES;
        *b"SSI1",                                           // 0: magic
        [2],                                                // 4: level
        [0],                                                // 5: reserved
        [2, 0],                                             // 6: children
        [0; 8],                                             // 8: reserved
        [1], [0],                                           // child: place, 0: all reserved zeroes
        [0; 8], [0; 4], [0; 4],
        [255], [2],                                         // child: place, blocks of the node
        [0x05, 0x80, 0, 0, 0, 0, 0, 0],                     //   address (2 << 14 | 5)
        [0x14, 0x13, 0x12, 0x11],                           //   checksum
        [0x15, 0, 0, 0],                                    //   data blocks below it
    ];
    let (bytes, _) = encode_node(&node, 2);
    assert_bytes(&bytes, &golden_inner);
    let read = decode_node(&home(&bytes), 2, &bytes).expect("an inner node");
    let NodeBody::Inner(read) = read.body() else { panic!("an inner node is inner") };
    assert!(matches!(read.children[1], Child::Zero) && matches!(read.children[0], Child::Empty));
    assert!(matches!(read.children[255], Child::Stored(node) if node == below));
    assert_eq!(read.mapped, 0x15);
    assert!(decode_node(&home(&bytes), 1, &bytes).is_err(), "another level");
}

#[test]
fn full_nodes_fit_their_blocks() {
    let mut full = Leaf::default();
    for block in 0..=255u8 {
        let address = Address::new(SegmentId(1), u32::from(block) * 2);
        full.replace(block, 1, Some(RunState::Data(address)), &[u32::from(block)]);
    }
    let (bytes, _) = encode_node(&Node::new(NodeBody::Leaf(full)), 0);
    assert_eq!(bytes.len(), BLOCK_BYTES);
    assert_eq!(decode_node(&home(&bytes), 0, &bytes).expect("a leaf").mapped(), 256);
    let below = home(&bytes);
    let children: Vec<_> = (0..256).map(|i| (i, Child::Stored(below))).collect();
    let (bytes, _) = encode_node(&inner(&children), 1);
    assert_eq!(bytes.len(), 2 * BLOCK_BYTES);
    assert!(decode_node(&home(&bytes), 1, &bytes).is_ok());
}

fn meta() -> VolumeMeta {
    VolumeMeta {
        number: VolumeNumber(0x0102),
        id: Uuid::from_bytes([0x77; 16]),
        family: VolumeNumber(0x0103),
        snapshot_of: Some(VolumeNumber(0x0104)),
        size_bytes: 0x0300_0000,
        settings: Settings {
            cache_bytes: 0x04,
            buffer_bytes: 0x05,
            prefetch_mib: 0x06,
            writeback: true,
        },
        attributes: Arc::new([0x41, 0x42, 0x43]),
    }
}

fn volume_entry() -> VolumeEntry {
    let root = NodeRef {
        address: Address::new(SegmentId(2), 5),
        checksum: 0x1112_1314,
        blocks: 2,
        mapped: 0,
    };
    VolumeEntry {
        meta: meta(),
        applied: Lsn(0x0a0b),
        map: StoredMap {
            root: Some(StoredChild::Node(root)),
            mapped: 0x0c,
            birthday: Birthday { shared_below: 0x1516, own_blocks: 0x17 },
        },
    }
}

fn page_items() -> Vec<PageItem> {
    let family = FamilyEntry { family: VolumeNumber(0x18), shared_blocks: 0x19 };
    vec![PageItem::Volume(volume_entry()), PageItem::Family(family)]
}

fn encoded(items: &[PageItem]) -> Vec<u8> {
    let mut bytes = Vec::new();
    items.iter().for_each(|item| item.encode(&mut bytes));
    bytes
}

fn page() -> PageRef {
    PageRef {
        first: VolumeNumber(0x1a1b),
        blocks: 2,
        checksum: 0x1c1d_1e1f,
        copies: [Address::new(SegmentId(2), 7), Address::new(SegmentId(3), 9)],
    }
}

fn head() -> CatalogHead {
    let moved = |live: &[u64]| Piece {
        into: SegmentId(0x10),
        slot: Slot(0x14),
        first: 0x11,
        live: Bitmap::new(live.into()),
    };
    CatalogHead {
        applied: Lsn(0x0809),
        index: vec![page()],
        segments: vec![
            SegmentEntry {
                id: SegmentId(0x0d),
                kind: SegmentKind::Log,
                place: SegmentPlace::Own(Slot(0x0e)),
            },
            SegmentEntry {
                id: SegmentId(0x0f),
                kind: SegmentKind::Node,
                place: SegmentPlace::Moved(Arc::new([
                    moved(&[0xff, 0x1300]),
                    moved(&[0x12, 0x1300]),
                ])),
            },
        ],
    }
}

#[test]
fn catalog_is_laid_out_as_told() {
    let golden_meta = golden![63;
        [0x02, 0x01, 0, 0],                                 // 0: number
        [0x77; 16],                                         // 4: id
        [0x03, 0x01, 0, 0],                                 // 20: family
        [0x04, 0x01, 0, 0],                                 // 24: volume of which it is a snapshot
        [0, 0, 0, 0x03, 0, 0, 0, 0],                        // 28: bytes
        [0x04, 0, 0, 0, 0, 0, 0, 0],                        // 36: cache_size
        [0x05, 0, 0, 0, 0, 0, 0, 0],                        // 44: buffer_size
        [0x06, 0, 0, 0],                                    // 52: prefetch
        [1],                                                // 56: writeback
        [0],                                                // 57: reserved
        [3, 0],                                             // 58: bytes of attributes
        [0x41, 0x42, 0x43],                                 // 60: attributes
    ];
    let mut found = Vec::new();
    meta().encode(&mut found);
    assert_bytes(&found, &golden_meta);
    assert_eq!(VolumeMeta::decode(&mut &found[..]), Ok(meta()));

    let golden_items = [
        golden![1; [1],], // a volume or snapshot
        golden_meta,
        golden![48;
            [0x0b, 0x0a, 0, 0, 0, 0, 0, 0],                 // applied to the volume
            [2],                                            // root: 0 empty, 1 zero, 2 stored
            [2],                                            // blocks of the root
            [0, 0],                                         // reserved
            [0x14, 0x13, 0x12, 0x11],                       // checksum of the root
            [0x05, 0x80, 0, 0, 0, 0, 0, 0],                 // address of the root
            [0x0c, 0, 0, 0, 0, 0, 0, 0],                    // data blocks
            [0x16, 0x15, 0, 0, 0, 0, 0, 0],                 // its own from this address on
            [0x17, 0, 0, 0, 0, 0, 0, 0],                    // data blocks of its own
        ],
        golden![13;
            [2],                                            // a family that shares something
            [0x18, 0, 0, 0],                                // family
            [0x19, 0, 0, 0, 0, 0, 0, 0],                    // blocks that its entries may share
        ],
    ]
    .concat();
    assert_bytes(&encoded(&page_items()), &golden_items);
    assert_eq!(PageItem::decode_all(&golden_items), Ok(page_items()));

    let golden_page = golden![BLOCK_BYTES;
        *b"SSV1",                                           // 0: magic
        [3, 0, 0, 0],                                       // 4: bytes of payload
        [0x31, 0x32, 0x33],                                 // 8: payload
    ];
    let (bytes, checksum) = encode_page(PageKind::Entries, &[0x31, 0x32, 0x33]);
    assert_bytes(&bytes, &golden_page);
    let at = PageRef { checksum, blocks: 1, ..page() };
    assert_eq!(decode_page(PageKind::Entries, &at, &bytes), Ok(vec![0x31, 0x32, 0x33]));
    assert!(decode_page(PageKind::Index, &at, &bytes).is_err(), "another kind");
    assert_bytes(&encode_page(PageKind::Index, &[]).0[..8], b"SSX1\0\0\0\0");

    let golden_reference = golden![28;
        [0x1b, 0x1a, 0, 0],                                 // 0: first number
        [2, 0, 0, 0],                                       // 4: blocks
        [0x1f, 0x1e, 0x1d, 0x1c],                           // 8: checksum
        [0x07, 0x80, 0, 0, 0, 0, 0, 0],                     // 12: address
        [0x09, 0xc0, 0, 0, 0, 0, 0, 0],                     // 20: address of the copy
    ];
    assert_eq!(PageRef::decode_all(&golden_reference), Ok(vec![page()]));

    let golden_head = [
        golden![12;
            [0x09, 0x08, 0, 0, 0, 0, 0, 0],                 // applied
            [1, 0, 0, 0],                                   // pages of the index
        ],
        golden_reference,
        golden![80;
            [2, 0, 0, 0],                                   // segments
            [0x0d, 0, 0, 0, 0, 0, 0, 0],                    // segment
            [1, 0],                                         // kind: log
            [0, 0],                                         // words of the bitmap: not moved
            [0x0e, 0, 0, 0],                                // slot
            [0x0f, 0, 0, 0, 0, 0, 0, 0],                    // segment
            [2, 0],                                         // kind: nodes
            [2, 0],                                         // words of the bitmap: moved
            [2, 0, 0, 0],                                   // pieces
            [0x10, 0, 0, 0, 0, 0, 0, 0],                    // piece: the destination segment
            [0x14, 0, 0, 0],                                // its slot
            [0x11, 0],                                      // first block there
            [0, 0],                                         // a bitmap follows
            [0xff, 0, 0, 0, 0, 0, 0, 0],                    // blocks 0 to 63
            [0, 0x13, 0, 0, 0, 0, 0, 0],                    // blocks 64 to 127
            [0x10, 0, 0, 0, 0, 0, 0, 0],                    // piece: the destination segment
            [0x14, 0, 0, 0],                                // its slot
        ],
        golden![14;
            [0x11, 0],                                      // first block there
            [5, 0],                                         // a list of 5 blocks follows
            [1, 0, 4, 0, 72, 0, 73, 0, 76, 0],              // the blocks
        ],
    ]
    .concat();
    assert_bytes(&head().encode(), &golden_head);
    assert_eq!(CatalogHead::decode(&golden_head), Ok(head()));

    let next = CatalogRef {
        address: Address::new(SegmentId(3), 6),
        slot: Slot(0x21),
        blocks: 0x22,
        checksum: 0x2324,
    };
    let golden_chunk = golden![BLOCK_BYTES;
        *b"SSC1",                                           // 0: magic
        [3, 0, 0, 0],                                       // 4: bytes of payload
        [0x06, 0xc0, 0, 0, 0, 0, 0, 0],                     // 8: next chunk: address (3 << 14 | 6)
        [0x21, 0, 0, 0],                                    // 16: next chunk: slot
        [0x22, 0, 0, 0],                                    // 20: next chunk: blocks
        [0x24, 0x23, 0, 0],                                 // 24: next chunk: checksum
        [0, 0, 0, 0],                                       // 28: reserved
        [0x31, 0x32, 0x33],                                 // 32: payload
    ];
    let (bytes, checksum) = encode_chunk(Some(next), &[0x31, 0x32, 0x33]);
    assert_bytes(&bytes, &golden_chunk);
    assert_eq!(checksum.to_le_bytes(), crc(&golden_chunk));
    let at = CatalogRef { checksum, blocks: 1, ..next };
    assert_eq!(decode_chunk(&at, &bytes), Ok((Some(next), vec![0x31, 0x32, 0x33])));
}

#[test]
fn staging_header_is_laid_out_as_told() {
    let geometry = Geometry::with_segments(16 << 20, 64);
    let memory = Arc::new(SharedMemory::anonymous(Staging::file_bytes(&geometry)).expect("memory"));
    assert_eq!(Staging::file_bytes(&geometry), (1 + 3 * 16) * BLOCK_BYTES);
    let staging = Staging::new(Arc::clone(&memory), geometry, &IDENTITY, &[0x62; 16], 0x0102);
    let golden = golden![BLOCK_BYTES;
        *b"SANDSTG\x01",                                    // 0: magic
        [0x51; 16],                                         // 8: store id
        [0x62; 16],                                         // 24: boot id
        [0x02, 0x01, 0, 0],                                 // 40: epoch
    ];
    let mut found = vec![0; BLOCK_BYTES];
    memory.copy_out(0, &mut found);
    assert_bytes(&found, &golden);
    // Window 1, which holds blocks 16 to 31, 32 to 47 or the like: block 35 is its third.
    assert_eq!(staging.range(1, 35, 2), (1 + 16 + 3) * 4096..(1 + 16 + 5) * 4096);
    let opens = |identity: &Identity, boot: [u8; 16], epoch| {
        Leftover::open(Arc::clone(&memory), geometry, identity, &boot, epoch).is_ok()
    };
    assert!(opens(&IDENTITY, [0x62; 16], 0x0102));
    assert!(!opens(&IDENTITY, [0x63; 16], 0x0102), "another boot");
    assert!(!opens(&IDENTITY, [0x62; 16], 0x0101), "another start");
    assert!(
        !opens(&Identity { store: [0x52; 16], ..IDENTITY }, [0x62; 16], 0x0102),
        "another store"
    );
}
